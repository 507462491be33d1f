"""Follows a run from its files alone, from another terminal or machine; writes nothing.

A run that is being resumed cuts metrics.jsonl and writes it again from there: :attr:`Following.is_new` says so.
"""

import json
import math
import re
import tomllib
from dataclasses import replace
from pathlib import Path
from time import monotonic, time
from typing import Any

from charlstm.errors import UserError
from charlstm.runs import lock, store
from charlstm.runs.records import CONFIG, METRICS, SAMPLES, recorded_baseline
from charlstm.settings import plans
from charlstm.settings.config import Config
from charlstm.show.display import Facts
from charlstm.training.progress import ENDLESS, Progress

_HEAD = re.compile(rb"^# iteration (\d+)  loss \S+  temperature (\S+)\n", re.MULTILINE)
_TAIL = 2**16  # bytes at the end of samples.txt in which the last sample is looked for first
_MOST_LINES = 5000  # of metrics.jsonl that a resumed run shows
_SILENT_SECONDS = 60.0  # without any writing, a run is called silent: checkpoints come every 30 s by default
_FILES = (CONFIG, METRICS, SAMPLES, store.LAST)  # those that tell of progress
_FIGURES = ("epoch", "loss", "smooth_loss", "bits_per_char", "learning_rate", "seconds", "chars_per_second")


class Following:
    """The state of a run as its folder tells it; :meth:`poll` reads what has been written since.

    Parameters
    ----------
    run : the folder; it may still be without its first files

    Raises
    ------
    UserError
        If it is not the folder of a run.
    """

    def __init__(self, run: str | Path) -> None:
        self.folder = Path(run)
        self.config: Config | None = None  #: None until the run has planned its budget
        self.stop = False  #: set it to end following, for example from a signal handler
        self.is_new = False  #: whether the last poll found that metrics.jsonl was cut
        self._read, self._last_line = 0, b""
        self.last: Progress | None = None  #: the newest report
        self._stamps: dict[str, tuple[int, float]] = {}
        if not any((self.folder / name).is_file() for name in (CONFIG, "environment.json", store.LAST)):
            what = "no such folder" if not self.folder.exists() else f"no {CONFIG}"
            raise UserError(f"{run}: expected the folder of a run: {what}")
        written = [path.stat().st_mtime for name in _FILES if (path := self.folder / name).is_file()]
        #: When a file was last seen to change. Only at first does the clock of the machine that writes count, too.
        self._changed = monotonic() - max(time() - max(written, default=time()), 0.0)

    def poll(self) -> list[Progress]:
        """What is new: reports in order, then the latest sample, then a tick; empty if nothing is."""
        self.is_new = False
        changed = self._notice()
        if CONFIG in changed:
            self._read_config()
        if self.config is None:
            return []
        found = self._reports() if METRICS in changed or self.last is None else []
        if found:
            self.last = found[-1]
        if self.last is not None and SAMPLES in changed:
            sample = _last_sample(self.folder / SAMPLES, self.last)
            found += [] if sample is None else [sample]
        if self.last is None or not changed:
            return found
        return [*found, replace(self.last, kind="tick", iteration=self.done)]

    @property
    def done(self) -> int:
        """The number of iterations that the run has made, as far as its files tell."""
        reported = 0 if self.last is None or self.config is None else self.last.chars // self.config.iteration_chars
        return max(reported, *store.numbered_steps(self.folder), 0)

    def facts(self, history: list[Progress]) -> Facts:
        """What a display should know before it shows the next progress; `history` is what has been read so far."""
        config = self.config
        title = str(self.folder)
        if config is None:
            return Facts(title)
        return Facts(
            title=f"{title}: {config.net_in_words}",
            unit="byte" if config.bytes else "char",
            is_evaluated=bool(config.validation),
            baseline=self.baseline,
            history=history,
            elapsed=0.0 if self.last is None else self.last.seconds,
        )

    @property
    def holder(self) -> dict[str, Any] | None:
        """The process that trains the run: see :func:`charlstm.runs.lock.holder`."""
        return lock.holder(self.folder)

    @property
    def has_ended(self) -> bool:
        """Whether no process trains it; if the folder cannot tell, whether it has been silent."""
        holder = self.holder
        return self.silent_seconds > 0 if holder is None else not holder

    @property
    def silent_seconds(self) -> float:
        """Seconds since anything was written, if they are many enough to mean something; else 0."""
        silent = monotonic() - self._changed
        usual = 0.0 if self.config is None else 3 * self.config.save_every
        return silent if silent > max(_SILENT_SECONDS, usual) else 0.0

    @property
    def baseline(self) -> float | None:
        """Held-out bits of the n-gram baseline; None if the run has recorded none."""
        return recorded_baseline(self.folder)

    def _notice(self) -> set[str]:
        """The names of the files that have changed since the last time."""
        changed = set()
        is_first = not self._stamps
        for name in _FILES:
            try:
                found = (self.folder / name).stat()
            except OSError:  # not written yet, or out of reach for a moment
                continue
            stamp = (found.st_size, found.st_mtime)
            if self._stamps.get(name) != stamp:
                self._stamps[name] = stamp
                changed.add(name)
        if changed and not is_first:
            self._changed = monotonic()
        return changed

    def _read_config(self) -> None:
        path = self.folder / CONFIG
        try:
            self.config = Config(**tomllib.loads(path.read_text("utf-8")))
        except (OSError, ValueError, TypeError) as error:
            raise UserError(f"{path}: damaged: {error}") from None

    def _reports(self) -> list[Progress]:
        """The lines of metrics.jsonl that are new and complete."""
        path = self.folder / METRICS
        begin = self._read - len(self._last_line)
        try:
            with path.open("rb") as file:
                file.seek(begin)
                content = file.read()
        except FileNotFoundError:
            return []
        if not content.startswith(self._last_line):
            self.is_new, self._read, self._last_line = True, 0, b""
            content = path.read_bytes()
        fresh = content[len(self._last_line) :]
        fresh = fresh[: fresh.rfind(b"\n") + 1]
        self._read += len(fresh)
        lines = fresh.splitlines(keepends=True)
        self._last_line = lines[-1] if lines else self._last_line
        assert self.config is not None
        try:
            return [report(json.loads(line), self.config) for line in lines]
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path}: damaged: {error}") from None


def past(folder: Path, config: Config, iteration: int) -> list[Progress]:
    """The reports that a run has written before an iteration, and its last sample, for the display of a resumed run.

    Empty if a file is missing or damaged: a run can be resumed without them, and `verify` reports it.
    """
    if not iteration:
        return []
    try:
        lines = (folder / METRICS).read_bytes().splitlines()
        reports = [report(json.loads(line), config) for line in lines[:: max(len(lines) // _MOST_LINES, 1)]]
        reports = [each for each in reports if each.iteration <= iteration]
        sample = _last_sample(folder / SAMPLES, reports[-1]) if reports else None
    except (OSError, ValueError, TypeError, KeyError):
        return []
    return reports if sample is None or sample.iteration > iteration else [*reports, sample]


def report(line: dict[str, Any], config: Config) -> Progress:
    """The Progress that wrote a line of metrics.jsonl. Raises KeyError, TypeError or ValueError for another line."""
    bits_per_byte, val_per_byte = line.get("bits_per_byte"), line.get("val_bits_per_byte")
    return Progress(
        kind="report",
        iteration=int(line["iteration"]),
        chars=int(line["chars"]),
        iterations=total_of(config),
        loss_chars=config.loss_chars,
        val_bits_per_char=_number(line["val_bits_per_char"]) if "val_bits_per_char" in line else None,
        bits_per_byte=_number(bits_per_byte) if config.bytes else None,
        val_bits_per_byte=_number(val_per_byte) if "val_bits_per_byte" in line else None,
        **{name: _number(line[name]) for name in _FIGURES},  # type: ignore[arg-type]
    )


def total_of(config: Config) -> int:
    """The number of iterations at which the run is to end, as planned last."""
    if config.plans is not None:
        return plans.parse(config.plans)[-1][1]
    return ENDLESS if config.iterations is None else config.iterations


def _number(value: float | None) -> float:
    """The figure, or NaN for the null that stands for one that is not finite."""
    return math.nan if value is None else float(value)


def _last_sample(path: Path, now: Progress) -> Progress | None:
    """The last sample in samples.txt, if it is complete, with the figures of `now`."""
    content = _tail(path)
    heads = list(_HEAD.finditer(content))
    if not heads or not content.endswith(b"\n\n"):
        return None
    text = content[heads[-1].end() : -2].decode("utf-8", "replace")
    iteration, temperature = int(heads[-1][1]), float(heads[-1][2])
    return replace(now, kind="sample", iteration=iteration, temperature=temperature, sample=text, prime="")


def _tail(path: Path) -> bytes:
    """The end of samples.txt: enough to have the last sample whole."""
    with path.open("rb") as file:
        size = file.seek(0, 2)
        file.seek(max(size - _TAIL, 0))
        content = file.read()
    return content if len(content) == size or _HEAD.search(content) else path.read_bytes()
