"""A run folder: what a training run leaves behind, and the way back into it.

``config.toml`` (what was asked), ``environment.json`` (where), ``metrics.jsonl`` (a line a report), ``samples.txt``
(``# iteration N  loss X  temperature T``, the text, an empty line), and the checkpoints of `charlstm.runs.store`.
"""

import math
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from charlstm.errors import Diverged, RunFailed
from charlstm.figures import divergence, in_words, noise
from charlstm.model.model import Model, load
from charlstm.model.scoring import Score
from charlstm.runs import disk, records, store
from charlstm.runs.lock import Lock
from charlstm.runs.records import METRICS, SAMPLES
from charlstm.settings.config import Config
from charlstm.training.progress import OneEach, Progress, metrics_line
from charlstm.training.trainer import Trainer

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class NotSaved(RunFailed):
    """The disk did not take the last checkpoint of a run."""


class Run:
    """A training run and its folder, which is locked until it has been trained or is forgotten.

    Iterate :meth:`train` to let it happen, and look into it meanwhile: `trainer` trains, `last` is the last tick. Once
    it has ended, `reached` says why.

    Parameters
    ----------
    folder, trainer : its own
    lock : of the folder
    machine : what the bits depend on
    notes : what a person should know; the command line shows and empties it
    is_calibrated : whether the budget is a number of iterations already, and stays that
    saved : the iteration of the newest checkpoint
    lengths : where the text files end, as of that checkpoint
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
        self.stop = False  #: set it, from a signal's handler for example, and training ends after the next tick
        self.save = False  #: set it, and the next tick is saved
        self.last: Progress | None = None
        self._lock, self._machine, self._is_calibrated = lock, machine, is_calibrated
        self._saved, self._lengths, self._best_loss = saved, lengths or {}, best_loss
        self._written: Config | None = None  # what config.toml says
        self._warned = ""  # of what was measured last
        self._extra = 0  # bytes of metrics.jsonl that a run that goes on does not have
        self._one_each = OneEach()
        self._disk_fault: str | None = None  # why the disk did not take what was last written
        self._model: tuple[int | None, Model] | None = None  # as of the newest checkpoint

    def __repr__(self) -> str:
        return f"<Run {self.folder}: {self.state}>"

    @property
    def config(self) -> Config:
        """What was asked, with the iterations that budgets have become, or the plans of one in seconds."""
        return self.trainer.config

    def train(self) -> Iterator[Progress]:
        """Train, write the folder's files, and pass on every Progress.

        Whoever stops iterating, by `break` or by an exception, ends it as `stop` does: it is saved first. A disk that
        takes nothing does not end it: a note tells, and what was not written is tried again.

        Raises
        ------
        NotSaved
            If, at the end, the disk does not take the last checkpoint.
        charlstm.errors.Diverged
            If the loss stops being finite.
        """
        folder, trainer, self._extra = self.folder, self.trainer, 0
        self._lock.acquire()
        try:
            if not self._is_calibrated:
                trainer.calibrate()
                self._is_calibrated = True
            store.sweep(folder)
            self._write_config()
            logs = {name: disk.Log(folder / name, self._lengths.get(name, 0)) for name in (METRICS, SAMPLES)}
            try:
                yield from self._train(logs)
            except Diverged as error:
                raise Diverged(f"{error}; {self._newest_in_words()}") from None
            finally:
                if rest := self._one_each.rest():  # a run that goes on has it in its first report
                    self._extra = self._add_line(logs, rest)
                self._attempt(lambda: _flush(logs))
                self._lengths = self._lengths_of(logs)
                for log in logs.values():
                    log.close()
        finally:
            self._lock.release()

    def _train(self, logs: dict[str, disk.Log]) -> Iterator[Progress]:
        trainer = self.trainer
        is_left = False  # by who iterates
        due, saved, is_best = -float("inf"), -1, False  # one is due at once, for there to be something to go back to
        for progress in trainer.run():
            if progress.kind in ("report", "evaluation"):
                if self._one_each.due(progress):
                    size = self._add_line(logs, progress)
                    self._extra = size if progress.is_extra else 0
                is_best = is_best or progress.is_best
                self._warn(progress)
            elif progress.kind == "sample":
                logs[SAMPLES].add(records.sample_block(progress) if progress.is_kept else b"")
            else:
                self.last = progress
                self._attempt(lambda: _flush(logs))
                if trainer.config is not self._written:  # its plans have changed
                    self._attempt(self._write_config)
                if self.stop or is_left:
                    break
                if is_best or self.save or perf_counter() >= due:
                    saved = trainer.iteration if self._attempt(lambda: self._save(logs, is_best)) else saved  # noqa: B023
                    due = perf_counter() + trainer.config.save_every
                    self.save = is_best = False
            if not is_left:
                try:
                    yield progress
                except GeneratorExit:  # only a tick can be gone on from: the next one is the last
                    is_left = True
        if saved != trainer.iteration and not self._attempt(lambda: self._save(logs, is_best)):
            raise NotSaved(
                f"{self.folder}: iteration {trainer.iteration:,} could not be saved: {self._disk_fault}; "
                + self._newest_in_words()
            )

    def _add_line(self, logs: dict[str, disk.Log], progress: Progress) -> int:
        """Add a line to metrics.jsonl, and return its bytes."""
        line = metrics_line(progress)
        logs[METRICS].add(line)
        return len(line)

    def _newest_in_words(self) -> str:
        """Which checkpoint there is to go on from."""
        return "nothing has been saved yet" if self._saved is None else f"the newest is of iteration {self._saved:,}"

    def _write_config(self) -> None:
        config = self.config
        disk.write(self.folder / "config.toml", records.toml(config))
        self._written = config

    def _warn(self, progress: Progress) -> None:
        """Add a note where a figure has become worse than that of a guess."""
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

    def _save(self, logs: dict[str, disk.Log], is_best: bool) -> None:
        """Save what the trainer has; `is_best`: nothing was better on the text that is kept back."""
        trainer = self.trainer
        for log in logs.values():
            log.sync()
        now = trainer.checkpoint()
        now.files = self._lengths_of(logs)
        now.machine = self._machine
        if "best_validation" not in now.marks:
            is_best = now.smooth_loss < self._best_loss
        store.save(self.folder, now.to_bytes(), now.iteration, is_best=is_best, keep=trainer.config.keep)
        self._saved, self._best_loss = now.iteration, now.smooth_loss if is_best else self._best_loss
        if self._disk_fault is not None:
            self.notes.append(f"saved   iteration {now.iteration:,}: the disk takes it again")
            self._disk_fault = None

    def _lengths_of(self, logs: dict[str, disk.Log]) -> dict[str, int]:
        """How much of the text files a run that goes on from here has."""
        lengths = {name: log.length for name, log in logs.items()}
        return {**lengths, METRICS: lengths[METRICS] - self._extra}

    def _attempt(self, write: Callable[[], None]) -> bool:
        """Whether the disk took it; a note tells of the first time that it did not."""
        try:
            write()
        except OSError as error:
            if self._disk_fault is None:
                self.notes.append(
                    f"{self.folder}: cannot be written: {error.strerror or error}; training goes on, and writing is "
                    f"tried again every {self.config.save_every:g} s"
                )
            self._disk_fault = error.strerror or str(error)
            return False
        return True

    @property
    def state(self) -> str:
        """How far it is, in words: iterations, and bits per character since the last report."""
        bits = "" if self.last is None else f", {in_words(self.last.bits_per_unit, 3)} bits per {self._unit}"
        return f"{self.trainer.iteration:,} iterations{bits}"

    @property
    def seconds(self) -> float:
        """The seconds of training so far."""
        return self.trainer.seconds

    @property
    def reached(self) -> str | None:
        """What ended it, in words: the budget that was reached first, say; None if it has not ended."""
        return self.trainer.ended_by()

    @property
    def history(self) -> dict[str, np.ndarray]:
        """The columns of metrics.jsonl as far as it is written, (n,) each; NaN where a line has no such figure.

        Losses are in nats per character (of a run of bytes: per byte) here, not sums over the steps of a stream.
        """
        return records.columns(self.folder / METRICS, self.config.loss_chars)

    @property
    def model(self) -> Model:
        """The best model so far: it samples and scores."""
        if self._model is None or self._model[0] != self._saved:
            self._model = self._saved, self.load()
        return self._model[1]

    def sample(self, prime: str = "", **options: Any) -> str:
        """Text from the best model: see :meth:`charlstm.model.model.Model.sample`."""
        return self.model.sample(prime, **options)

    def score(self, text: str, **options: Any) -> Score:
        """How well the best model predicts a text: see :meth:`charlstm.model.model.Model.score`."""
        return self.model.score(text, **options)

    def plot(self, path: str | os.PathLike[str] | None = None) -> "Figure":
        """The run's curves, as a figure of matplotlib, which is saved if a path is given.

        Raises
        ------
        UserError
            Where matplotlib is not installed, or nothing has been reported yet.
        """
        from charlstm.show.plotting import curves

        figure = curves(self.history, str(self.folder), self._unit)
        if path is not None:
            figure.savefig(path)
        return figure

    @property
    def _unit(self) -> str:
        return self.trainer.corpus.vocabulary.unit

    def load(self, which: str = "best") -> Model:
        """The run's model, "best" or "last"."""
        return load(self.folder, which)


def _flush(logs: dict[str, disk.Log]) -> None:
    for log in logs.values():
        log.flush()
