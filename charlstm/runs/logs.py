"""The files of a run folder that grow while it trains: metrics.jsonl, metrics.csv, samples.txt, TensorBoard's events.

Checkpoints record the lengths of metrics.jsonl and samples.txt, to which a resumed run cuts them back. metrics.csv is
then made anew from metrics.jsonl, and TensorBoard's events go on in another file.
"""

from pathlib import Path

from charlstm.runs import disk, events, records
from charlstm.runs.records import METRICS, SAMPLES, TABLE
from charlstm.settings.config import Config
from charlstm.training.progress import Progress, metrics, metrics_line, table_line


class Logs:
    """The growing files of a run; data wait until they are flushed.

    Parameters
    ----------
    folder, config : of the run
    lengths : bytes of metrics.jsonl and samples.txt to keep
    iteration : where training goes on

    Raises
    ------
    OSError
        If a file cannot be written.
    """

    def __init__(self, folder: Path, config: Config, lengths: dict[str, int], iteration: int) -> None:
        self._columns = records.table_columns(config.cell)
        self._logs = {name: disk.Log(folder / name, lengths.get(name, 0)) for name in (METRICS, SAMPLES)}
        self._logs[TABLE] = self._table(folder)
        self._events: disk.Log | None = None
        if config.tensorboard:
            self._logs["events"] = self._events = disk.Log(folder / events.file_name(iteration), 0)
            self._events.add(events.beginning(iteration))
        self._extra = 0  # bytes at the end of metrics.jsonl that a resumed run cuts off

    def _table(self, folder: Path) -> disk.Log:
        """The metrics.csv that belongs to metrics.jsonl, which has just been cut; written anew if it differs."""
        path = folder / TABLE
        wanted = records.table((folder / METRICS).read_bytes(), self._columns)
        if not path.is_file() or path.read_bytes() != wanted:
            disk.write(path, wanted)
        return disk.Log(path, len(wanted))

    def add(self, progress: Progress, is_extra: bool = False) -> None:
        """Add a report or an evaluation; a resumed run cuts it off if it `is_extra`."""
        values = metrics(progress)
        line = metrics_line(values)
        self._logs[METRICS].add(line)
        self._logs[TABLE].add(table_line(values, self._columns))
        self._extra = len(line) if is_extra else 0
        if self._events is not None:
            self._events.add(events.figures(progress))

    def add_sample(self, progress: Progress) -> None:
        """Add a sample, unless it is not to be kept."""
        if progress.is_kept:
            self._logs[SAMPLES].add(records.sample_block(progress))
            if self._events is not None:
                self._events.add(events.sample(progress))

    @property
    def lengths(self) -> dict[str, int]:
        """Lengths in bytes of metrics.jsonl and samples.txt, as a run resumed from here keeps them."""
        lengths = {name: self._logs[name].length for name in (METRICS, SAMPLES)}
        return {**lengths, METRICS: lengths[METRICS] - self._extra}

    def flush(self) -> None:
        """Write what waits. Raises OSError if that fails; the rest keeps waiting."""
        for log in self._logs.values():
            log.flush()

    def sync(self) -> None:
        """Write what waits, and wait until it is on the disk."""
        for log in self._logs.values():
            log.sync()

    def close(self) -> None:
        """Close the files; what still waits is lost."""
        for log in self._logs.values():
            log.close()
