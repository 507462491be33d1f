"""A training run and its folder.

The folder holds ``config.toml`` (options), ``environment.json`` (machine and versions), ``metrics.jsonl`` (a line per
report) and ``metrics.csv`` (the same as a table), ``samples.txt`` (``# iteration N  loss X  temperature T``, the text,
an empty line), and the checkpoints of `charlstm.runs.store`.
"""

import math
import os
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from charlstm.errors import Diverged, RunFailed, UserError
from charlstm.figures import divergence, in_words, noise
from charlstm.model import mixing
from charlstm.model.checkpoint import NGRAM, Checkpoint, read_ngram
from charlstm.model.model import Model, load
from charlstm.model.scoring import Score
from charlstm.ngram.beside import MOST_CHARS, NGram, digest
from charlstm.runs import disk, records, store
from charlstm.runs.following import past
from charlstm.runs.lock import Lock
from charlstm.runs.logs import Logs
from charlstm.runs.pictures import Pictures
from charlstm.runs.records import CONFIG, METRICS
from charlstm.settings.config import Config
from charlstm.show.display import Facts
from charlstm.training.progress import OneEach, Progress
from charlstm.training.trainer import Trainer
from kernels import DeviceFailed

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from charlstm.show.plotting import Curves


class NotSaved(RunFailed):
    """The last checkpoint of a run could not be written."""


class Run:
    """A training run and its folder, which stays locked until the run has been trained or is deleted.

    Iterate :meth:`train` to train; meanwhile, `trainer` gives access to the training and `last` is the last tick. After
    the end, `reached` says why it ended.

    Parameters
    ----------
    folder, trainer : the run folder and the trainer
    lock : the lock of the folder
    machine : the facts that the bits of the results depend on
    notes : messages for the user; the command line shows them and empties the list
    is_calibrated : whether the budget has already been converted to a number of iterations
    saved : the iteration of the newest checkpoint
    lengths : lengths of the text files in bytes at that checkpoint
    best_loss : the smoothed loss of the best checkpoint
    """

    def __init__(
        self,
        folder: Path,
        trainer: Trainer,
        lock: Lock,
        machine: dict[str, Any],
        notes: list[str],
        *,
        is_calibrated: bool = False,
        saved: int | None = None,
        lengths: dict[str, int] | None = None,
        best_loss: float = math.inf,
    ) -> None:
        self.folder, self.trainer, self.notes = folder, trainer, notes
        self.stop = False  #: set it to end training after the next tick, for example from a signal handler
        self.save = False  #: set it to save at the next tick
        self.last: Progress | None = None
        self._lock, self._machine, self._is_calibrated = lock, machine, is_calibrated
        self._saved, self._lengths, self._best_loss = saved, lengths or {}, best_loss
        self._written: Config | None = None  # the content of config.toml
        self._warned = ""  # kind of the last warning
        self._one_each = OneEach()
        self._disk_fault: str | None = None  # why the last write failed
        self._ngram_file = b""  # the n-gram, until it is written
        self._model: tuple[int | None, Model] | None = None  # with the iteration of its checkpoint

    def __repr__(self) -> str:
        return f"<Run {self.folder}: {self.state}>"

    def _repr_html_(self) -> str:
        """What a notebook shows of the run: its state, with the picture of its curves if there are any."""
        from charlstm.show.plotting import in_html

        try:
            return in_html(repr(self), self._curves)
        except UserError:  # no report yet, or no matplotlib
            return in_html(repr(self))

    @property
    def config(self) -> Config:
        """The options of the run, with budgets converted to iterations and a budget in seconds to plans."""
        return self.trainer.config

    def train(self) -> Iterator[Progress]:
        """Train, write the files of the folder, and yield every Progress.

        Leaving the loop, by `break` or by an exception, acts like `stop`: the run is saved first. A failing disk does
        not end the run: a note reports it, and the write is retried.

        Raises
        ------
        NotSaved
            If the last checkpoint cannot be written at the end.
        charlstm.errors.Diverged
            If the loss becomes infinite or NaN.
        kernels.DeviceFailed, MemoryError
            If the GPU fails, or memory is lacking. These and Diverged name the newest checkpoint.
        """
        folder, trainer = self.folder, self.trainer
        self._lock.acquire()
        try:
            if not self._is_calibrated:
                trainer.calibrate()
                self._is_calibrated = True
            store.sweep(folder)
            self._write_config()
            self._put_ngram_beside()
            logs, begun = Logs(folder, self.config, self._lengths, trainer.iteration), trainer.iteration
            pictures = Pictures(folder, trainer)
            try:
                yield from self._train(logs, pictures)
            except (Diverged, DeviceFailed) as error:
                raise type(error)(f"{error}; {self._newest_in_words()}") from None
            except MemoryError as error:
                raise MemoryError("; ".join(filter(None, (str(error), self._newest_in_words())))) from None
            finally:
                if rest := self._one_each.rest():  # a resumed run includes it in its first report
                    logs.add(rest, is_extra=True)
                self._attempt(logs.flush)
                self._lengths = logs.lengths
                logs.close()
            unit = trainer.corpus.vocabulary.short_unit
            self._tell(mixing.each_in_words(self.config, self.model.each, unit))
            self._tell(mixing.in_words(self.model.mix, unit))
            if pictures.is_wanted and trainer.iteration > begun:  # not reached if the caller has left the loop
                if not (folder / records.BASELINE).exists():
                    self.write_baseline()
                self._tell(pictures.draw())
                self._tell(pictures.report())
        finally:
            self._lock.release()

    def _put_ngram_beside(self) -> None:
        """Read the n-gram of the training text, or learn it, to be written with the next checkpoint."""
        trainer, path = self.trainer, self.folder / NGRAM
        if not self.config.mix or len(trainer.ids) < 2:
            trainer.mix = {}
            return
        if named := trainer.mix.get("digest"):
            with suppress(UserError):  # it is learned again
                return trainer.put_beside(read_ngram(path, named), named)
        begin, count = perf_counter(), len(trainer.ids)
        ngram = NGram.learn(trainer.ids, len(trainer.corpus.vocabulary))
        self._ngram_file = ngram.to_bytes()
        trainer.put_beside(ngram, digest(self._ngram_file))
        of = f"{MOST_CHARS:,} of {count:,}" if count > MOST_CHARS else f"{count:,}"
        self.notes.append(
            f"n-gram  order {ngram.order} of {of} {trainer.corpus.vocabulary.kind}, learned in "
            f"{perf_counter() - begin:.1f} s: {ngram.nbytes / 1e6:.1f} MB in memory, "
            f"{len(self._ngram_file) / 1e6:.1f} MB in {NGRAM}"
        )

    def _train(self, logs: Logs, pictures: Pictures) -> Iterator[Progress]:
        trainer = self.trainer
        is_left = is_best = False  # is_left: whether the caller has left the loop
        due, saved = -float("inf"), -1  # the first save is due at once, so that a run can always be resumed
        for progress in trainer.run():
            if progress.kind in ("report", "evaluation"):
                if self._one_each.due(progress):
                    logs.add(progress, progress.is_extra)
                is_best = is_best or progress.is_best
                self._warn(progress)
            elif progress.kind == "sample":
                logs.add_sample(progress)
            else:
                self.last = progress
                self._attempt(logs.flush)
                if trainer.config is not self._written:  # the plans have changed
                    self._attempt(self._write_config)
                stop, save = trainer.world.any(self.stop or is_left, is_best or self.save or perf_counter() >= due)
                if stop:
                    if not (self.stop or is_left):
                        self.notes.append("stopped by a signal to another rank; the run is saved")
                    self.stop = True
                    break
                if save:
                    saved = trainer.iteration if self._saves(logs, is_best) else saved
                    due = perf_counter() + trainer.config.save_every
                    self.save = is_best = False
                self._tell(pictures.redraw())
            if not is_left:
                try:
                    yield progress
                except GeneratorExit:  # a run can only be resumed from a tick: stop at the next one
                    is_left = True
        if trainer.world.any(saved != trainer.iteration)[0] and not self._saves(logs, is_best):
            raise NotSaved(
                f"{self.folder}: iteration {trainer.iteration:,} could not be saved: {self._disk_fault}; "
                + self._newest_in_words()
            )

    def _tell(self, said: str) -> None:
        """Add a note, unless it is empty."""
        if said:
            self.notes.append(said)

    def _newest_in_words(self) -> str:
        """Which checkpoint the run can be resumed from."""
        return (
            "nothing has been saved yet"
            if self._saved is None
            else f"the newest checkpoint is iteration {self._saved:,}"
        )

    def _write_config(self) -> None:
        config = self.config
        disk.write(self.folder / CONFIG, records.toml(config))
        self._written = config

    @property
    def baseline_bits(self) -> float | None:
        """Bits per character (byte) of the n-gram baseline on the held-out text; None without validation."""
        return self.trainer.baseline_bits

    @property
    def facts(self) -> Facts:
        """What a display should know before the first progress; with validation, this measures the baseline."""
        config, corpus = self.config, self.trainer.corpus
        return Facts(
            title=f"{corpus.name}: {config.net_in_words}",
            unit=corpus.vocabulary.short_unit,
            is_evaluated=bool(config.validation),
            baseline=self.baseline_bits,
            history=past(self.folder, config, self.trainer.iteration),
            elapsed=self.seconds,
        )

    def write_baseline(self) -> None:
        """Write baseline.json for those who follow the run or look at it later, if a part of the text is held out."""
        bits, unit = self.baseline_bits, self._unit
        if bits is not None:
            content = records.baseline(bits, unit, len(self.trainer.held_out))
            self._attempt(lambda: disk.write(self.folder / records.BASELINE, content))

    def _warn(self, progress: Progress) -> None:
        """Add a note when a loss becomes worse than that of a uniform guess."""
        vocab_size = len(self.trainer.corpus.vocabulary)
        smooth_bits = progress.smooth_loss / self.config.loss_chars / math.log(2)
        if said := divergence(smooth_bits, vocab_size):
            kind = "diverged"
        elif progress.val_bits_per_char is None:
            return
        else:
            said, kind = noise(progress.val_bits_per_unit or 0.0, vocab_size), "noise"
        if said and self._warned != kind:
            self.notes.append(f"iteration {progress.iteration:,}: {said}")
        self._warned = kind if said else ""

    def _saves(self, logs: Logs, is_best: bool) -> bool:
        """Save a checkpoint, with the states of all ranks; return whether it could be written."""
        now = self.trainer.checkpoint()
        return self._attempt(lambda: self._save(now, logs, is_best))

    def _save(self, now: Checkpoint, logs: Logs, is_best: bool) -> None:
        """Write a checkpoint; `is_best` says that its validation loss is the best so far."""
        logs.sync()
        if self._ngram_file:
            disk.write(self.folder / NGRAM, self._ngram_file)
            self._ngram_file = b""
        now.files = logs.lengths
        now.machine = self._machine
        if "best_validation" not in now.marks:
            is_best = now.smooth_loss < self._best_loss
        store.save(self.folder, now.to_bytes(), now.iteration, is_best=is_best, keep=now.config.keep)
        self._saved, self._best_loss = now.iteration, now.smooth_loss if is_best else self._best_loss
        if self._disk_fault is not None:
            self.notes.append(f"saved   iteration {now.iteration:,}: the disk is writable again")
            self._disk_fault = None

    def _attempt(self, write: Callable[[], None]) -> bool:
        """Whether the write succeeded; a note reports the first failure."""
        try:
            write()
        except OSError as error:
            if self._disk_fault is None:
                self.notes.append(
                    f"{self.folder}: cannot be written: {error.strerror or error}; training continues, and writing is "
                    f"retried every {self.config.save_every:g} s"
                )
            self._disk_fault = error.strerror or str(error)
            return False
        return True

    @property
    def state(self) -> str:
        """The progress in words: iterations, and bits per character since the last report."""
        bits = "" if self.last is None else f", {in_words(self.last.bits_per_unit, 3)} bits per {self._unit}"
        return f"{self.trainer.iteration:,} iterations{bits}"

    @property
    def seconds(self) -> float:
        """Seconds of training so far."""
        return self.trainer.seconds

    @property
    def reached(self) -> str | None:
        """What ended the run, in words, such as the first budget reached; None if it has not ended."""
        return self.trainer.ended_by()

    @property
    def history(self) -> dict[str, np.ndarray]:
        """The columns of metrics.jsonl so far, (n,) each; NaN where a line lacks a value.

        Losses are in nats per character (for a byte model: per byte), not sums over a sequence as in the file.
        """
        return records.columns(self.folder / METRICS, self.config.loss_chars)

    @property
    def model(self) -> Model:
        """The best model so far; it can sample and score."""
        if self._model is None or self._model[0] != self._saved:
            self._model = self._saved, self.load()
        return self._model[1]

    def sample(self, prime: str = "", **options: Any) -> str:
        """Sample text from the best model: see :meth:`charlstm.model.model.Model.sample`."""
        return self.model.sample(prime, **options)

    def score(self, text: str, **options: Any) -> Score:
        """Measure how well the best model predicts a text: see :meth:`charlstm.model.model.Model.score`."""
        return self.model.score(text, **options)

    def plot(self, path: str | os.PathLike[str] | None = None) -> "Figure":
        """Plot the curves of the run as a matplotlib figure, and save it if a path is given.

        Raises
        ------
        UserError
            If the run has no reports yet.
        """
        from charlstm.show.plotting import plot

        figure = plot([self._curves])
        if path is not None:
            figure.savefig(path)
        return figure

    def report(self, path: str | os.PathLike[str] | None = None, *, sampler: bool | None = None) -> Path:
        """Write the report of the run, report.html in its folder unless a path is given; return the path.

        See :func:`charlstm.runs.report.write` for the options and errors.
        """
        from charlstm.runs.report import write  # which needs what begins a run

        return write(self.folder, path, sampler=sampler)

    @property
    def _curves(self) -> "Curves":
        from charlstm.show.plotting import Curves

        return Curves(str(self.folder), self.history, self._unit, self.baseline_bits)

    @property
    def _unit(self) -> str:
        return self.trainer.corpus.vocabulary.unit

    def load(self, which: str = "best") -> Model:
        """Load the "best" or "last" model of the run."""
        return load(self.folder, which)
