"""A run folder: what a training run leaves behind, and the way back into it.

``config.toml`` (what was asked), ``environment.json`` (where), ``metrics.jsonl`` (a line a report), ``samples.txt``
(``# iteration N  loss X  temperature T``, the text, an empty line), and the checkpoints, as `charlstm.runs.store` has them.
"""

import math
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

import numpy as np

from charlstm.text import corpus as corpora
from charlstm.text import downloads
from charlstm.runs import disk
from charlstm.text import heldout
from charlstm.show import hints
from charlstm.runs import records
from charlstm.runs import store
from charlstm.model.checkpoint import Checkpoint, find
from charlstm.model.model import Model, load
from charlstm.settings.config import BUDGETS, Config, from_model, from_preset
from charlstm.text.corpus import Corpus, Fetch, Vocabulary
from charlstm.errors import Diverged, RunFailed, UserError
from charlstm.figures import divergence, in_words, noise
from charlstm.runs.lock import LOCK, Lock
from charlstm.training.progress import OneEach, Progress, metrics_line
from charlstm.text.reading import unescaped
from charlstm.runs.records import METRICS, SAMPLES
from charlstm.training.trainer import Trainer
from charlstm.text.weights import copies_of

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from charlstm.model.scoring import Score

#: Options that may differ from the run's own when it goes on: they change no size, and nothing of the past.
CHANGEABLE = (
    *BUDGETS, "backend", "threads", "learning_rate", "schedule", "warmup", "reset_every", "decay_factor", "decay_every",
    "decay_after", "decay_floor", "plateau_patience", "patience", "validate_every", "report_every", "save_every",
    "keep", "sample_every", "sample_length", "temperature", "show_below", "save_below", "epoch_samples",
)  # fmt: skip


class NotSaved(RunFailed):
    """The disk did not take the last checkpoint of a run."""


@dataclass(repr=False)
class Run:
    """A training run and its folder, which is locked until it has been trained or is forgotten.

    Iterate :meth:`train` to let it happen, and look into it meanwhile. Once it has ended, `reached` says why.
    """

    folder: Path
    trainer: Trainer
    lock: Lock
    best_loss: float = float("inf")
    calibrated: bool = False  #: the budget is a number of iterations already, and stays that
    stop: bool = False  #: set it, from a signal's handler for example, and training ends after the next tick
    save: bool = False  #: set it, and the next tick is saved
    last: Progress | None = None
    notes: list[str] = field(default_factory=list)  #: what a person should know; the command line shows and empties it
    lengths: dict[str, int] = field(default_factory=dict)  #: where the text files end, as of the last checkpoint
    machine: dict[str, Any] = field(default_factory=dict)  #: what the bits depend on
    saved: int | None = None  #: the iteration of the newest checkpoint
    _written: Config | None = None  # what config.toml says
    _warned: str = ""  # of what was measured last
    _extra: int = 0  # bytes of metrics.jsonl that a run that goes on does not have
    _one_each: OneEach = field(default_factory=OneEach)
    disk_fault: str | None = None  #: why the disk did not take what was last written
    _model: tuple[int | None, Model] | None = None  # as of the newest checkpoint

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
        self.lock.acquire()
        try:
            if not self.calibrated:
                trainer.calibrate()
                self.calibrated = True
            store.sweep(folder)
            self._write_config()
            logs = {name: disk.Log(folder / name, self.lengths.get(name, 0)) for name in (METRICS, SAMPLES)}
            try:
                yield from self._train(logs)
            except Diverged as error:
                raise Diverged(f"{error}; {self._newest_in_words()}") from None
            finally:
                if rest := self._one_each.rest():  # a run that goes on has it in its first report
                    self._extra = self._add_line(logs, rest)
                self._attempt(lambda: _flush(logs))
                self.lengths = self._lengths_of(logs)
                for log in logs.values():
                    log.close()
        finally:
            self.lock.release()

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
                f"{self.folder}: iteration {trainer.iteration:,} could not be saved: {self.disk_fault}; "
                + self._newest_in_words()
            )

    def _add_line(self, logs: dict[str, disk.Log], progress: Progress) -> int:
        """Add a line to metrics.jsonl, and return its bytes."""
        line = metrics_line(progress)
        logs[METRICS].add(line)
        return len(line)

    def _newest_in_words(self) -> str:
        """Which checkpoint there is to go on from."""
        return "nothing has been saved yet" if self.saved is None else f"the newest is of iteration {self.saved:,}"

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
        now.machine = self.machine
        if "best_validation" not in now.marks:
            is_best = now.smooth_loss < self.best_loss
        store.save(self.folder, now.to_bytes(), now.iteration, is_best=is_best, keep=trainer.config.keep)
        self.saved, self.best_loss = now.iteration, now.smooth_loss if is_best else self.best_loss
        if self.disk_fault is not None:
            self.notes.append(f"saved   iteration {now.iteration:,}: the disk takes it again")
            self.disk_fault = None

    def _lengths_of(self, logs: dict[str, disk.Log]) -> dict[str, int]:
        """How much of the text files a run that goes on from here has."""
        lengths = {name: log.length for name, log in logs.items()}
        return {**lengths, METRICS: lengths[METRICS] - self._extra}

    def _attempt(self, write: Callable[[], None]) -> bool:
        """Whether the disk took it; a note tells of the first time that it did not."""
        try:
            write()
        except OSError as error:
            if self.disk_fault is None:
                self.notes.append(
                    f"{self.folder}: cannot be written: {error.strerror or error}; training goes on, and writing is "
                    f"tried again every {self.config.save_every:g} s"
                )
            self.disk_fault = error.strerror or str(error)
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
        if self._model is None or self._model[0] != self.saved:
            self._model = self.saved, self.load()
        return self._model[1]

    def sample(self, prime: str = "", **options: Any) -> str:
        """Text from the best model: see :meth:`charlstm.model.model.Model.sample`."""
        return self.model.sample(prime, **options)

    def score(self, text: str, **options: Any) -> "Score":
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


def start(
    sources: Sequence[str | os.PathLike[str]] | Corpus = (),
    config: Config | None = None,
    out: str | None = None,
    *,
    model: Checkpoint | None = None,
    fetch: Fetch = downloads.fetch,
) -> Run:
    """Begin a run in a new folder: `out`, or runs/NAME, NAME-2, ... after the text's name.

    Parameters
    ----------
    sources : the text: see :func:`charlstm.text.corpus.load`
    config : by default the preset `fast`, with the sizes of `model`
    model : begin with its weights and keep its vocabulary; `config` has its sizes: see `charlstm.settings.config.from_model`
    fetch : turns a URL or a built-in name into a file

    Raises
    ------
    UserError
        For a text, an option or a folder that will not do; nothing has been written then.
    """
    config = config or (from_model(model.config) if model else from_preset())
    corpus = corpora.kept(read_corpus(sources, config, model.vocabulary if model else None, fetch))
    trainer = Trainer(config, corpus)  # before the folder: what is wrong with the options shows here
    if model:
        if (trainer.shape, corpus.vocabulary) != (model.shape, model.vocabulary):
            raise UserError(f"{corpus.name}: the model to begin with has another vocabulary, or other sizes")
        trainer.theta[...] = model.theta
    machine = records.bits_depend_on(trainer.backend)
    try:
        folder = _new_folder(corpus.name) if out is None else _empty_folder(Path(out))
        lock = Lock(folder)
        _empty_folder(folder)  # still, now that it is locked
        disk.write(folder / "environment.json", records.environment(machine))
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written: {error.strerror or error}") from None
    said = heldout.remark(corpus, config.validation, config.validation_from)
    return Run(folder, trainer, lock, machine=machine, notes=[said] if said else [])


def resume(
    run: str | os.PathLike[str] | None = None,
    sources: Sequence[str | os.PathLike[str]] | Corpus = (),
    chosen: dict[str, Any] | None = None,
    fetch: Fetch = downloads.fetch,
    *,
    force_corpus: bool = False,
) -> Run:
    """Go on with a run where its newest whole checkpoint left it, by default with the newest run below runs/.

    Parameters
    ----------
    run : its folder
    sources : the text, where it is not to be found where it was
    chosen : options to change, of CHANGEABLE; budgets are totals
    fetch : turns a URL or a built-in name into a file
    force_corpus : take a text that is not the run's own; its characters must be in the run's vocabulary, or `unknown`,
        which may be chosen then, says what becomes of them

    Raises
    ------
    UserError
        For a run without a checkpoint, or that another process has; another text; an option that cannot change.
    """
    folder = newest() if run is None else _folder_of(Path(run))
    find(folder, "last")  # before the lock, which would be the first file of a folder that is no run's
    try:
        lock = Lock(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
    try:
        old, notes = store.newest(folder)
        config = _changed(old.config, chosen or {}, (*CHANGEABLE, "unknown") if force_corpus else CHANGEABLE, notes)
        corpus = corpus_of(replace(old, config=config), folder, sources, fetch, is_frozen=force_corpus)
        if force_corpus and corpus.digest != old.corpus["digest"]:
            notes.append(f"{corpus.name}: another text than before, {old.corpus['name']}, as was asked")
            old = replace(old, corpus={**old.corpus, "digest": corpus.digest})
            corpus = corpora.kept(corpus)
        trainer = Trainer(config, corpus, old)
        machine = records.bits_depend_on(trainer.backend)
        notes += _differences(old.machine, machine) + _missing(folder, old.files)
        is_calibrated = not _has_budget(chosen or {})
        return Run(
            folder, trainer, lock, _best_loss(folder), is_calibrated, notes=notes, lengths=old.files, machine=machine,
            saved=old.iteration,
        )  # fmt: skip
    except BaseException:
        lock.release()
        raise


def _missing(folder: Path, lengths: dict[str, int]) -> list[str]:
    """A line for each text file that is shorter than the checkpoint knows it."""
    sizes = {name: path.stat().st_size if (path := folder / name).is_file() else 0 for name in (METRICS, SAMPLES)}
    return [
        f"{folder / name}: has {size:,} bytes of {lengths[name]:,}: what is missing is lost"
        for name, size in sizes.items()
        if size < lengths.get(name, 0)
    ]


def _folder_of(run: Path) -> Path:
    """The folder of a run that is named by it, or by its last checkpoint."""
    if run.is_file() and run.parent.name == "checkpoints":
        raise UserError(
            f"{hints.option('resume', run)}: goes on from a run's newest checkpoint: give its folder; "
            f"{hints.option('from', run)} begins a new run "
            "with this one"
        )
    return run.parent if run.is_file() else run


def _changed(old: Config, chosen: dict[str, Any], changeable: tuple[str, ...], notes: list[str]) -> Config:
    """The config with the chosen options, each told in a note; new budgets take the place of the old."""
    for name, value in chosen.items():
        if name not in changeable and value != getattr(old, name):
            raise UserError(f"--{name.replace('_', '-')} cannot change when a run goes on")
    values = {**(dict.fromkeys(BUDGETS) if _has_budget(chosen) else {}), **chosen}
    config = replace(old, **values)
    notes += [
        f"changed --{name.replace('_', '-')} {_word(getattr(old, name))} -> {_word(getattr(config, name))}"
        for name in values
        if getattr(old, name) != getattr(config, name)
    ]
    return config


def _has_budget(chosen: dict[str, Any]) -> bool:
    return any(chosen.get(name) is not None for name in BUDGETS)


def _word(value: Any) -> str:
    return "none" if value is None else f"{value:g}" if isinstance(value, float) else str(value)


def _differences(old: dict[str, Any], now: dict[str, Any]) -> list[str]:
    """A line for what differs from where the checkpoint was written, if anything does that bits depend on."""
    if not old:
        return []
    flat = [{**machine, **machine["versions"], "versions": None} for machine in (old, now)]
    names = [name for name in {**flat[0], **flat[1]} if flat[0].get(name) != flat[1].get(name)]
    words = ", ".join(f"{name} {flat[0].get(name, 'none')} -> {flat[1].get(name, 'none')}" for name in names)
    return [f"differs {words}: the bits from here on may not be those of a run that never stopped"] if names else []


def corpus_of(
    old: Checkpoint,
    folder: str | os.PathLike[str],
    sources: Sequence[str | os.PathLike[str]] | Corpus = (),
    fetch: Fetch = downloads.fetch,
    is_frozen: bool = False,
) -> Corpus:
    """The text that a run was trained on: from `sources`, from where it was, or from the cache's copy.

    Parameters
    ----------
    old, folder : the run
    sources : the text, where it is not to be found where it was
    fetch : turns a URL or a built-in name into a file
    is_frozen : read it in the run's vocabulary, whatever its own is

    Raises
    ------
    UserError
        Where it is nowhere: it came from a pipe, say, or has moved, and the cache has no copy.
    """
    vocabulary = old.vocabulary if is_frozen or old.corpus.get("is_frozen") else None
    if not sources and not corpora.can_be_read_again(old.corpus["sources"]):
        copy = corpora.cached(old.corpus, old.vocabulary)
        if copy is None:
            raise UserError(
                f"{folder}: its text came from {', '.join(old.corpus['sources']) or old.corpus['name']}, which is not "
                "there, and no copy of it is in the cache: give it again as TEXT"
            )
        return copy
    copies = None if is_frozen else [count for _, count in old.corpus.get("spans", ())]
    return read_corpus(sources or old.corpus["sources"], old.config, vocabulary, fetch, copies)


def training_text(old: Checkpoint, run: str | os.PathLike[str], fetch: Fetch = downloads.fetch) -> Corpus:
    """The very text that a run was trained on: the cache's copy, or from where it was, if it is still the same.

    Raises
    ------
    UserError
        Where it is nowhere, or has changed.
    """
    found = corpora.cached(old.corpus, old.vocabulary) or corpus_of(old, run, fetch=fetch)
    if found.digest != old.corpus["digest"]:
        raise UserError(f"{run}: its text, {', '.join(old.corpus['sources'])}, has changed since it was trained on")
    return found


def read_corpus(
    sources: Sequence[str | os.PathLike[str]] | Corpus,
    config: Config,
    vocabulary: Vocabulary | None,
    fetch: Fetch,
    copies: Sequence[int] | None = None,
) -> Corpus:
    """The text, read as `config` says, in a model's vocabulary if one is given.

    Texts are copied as its weights say, by their names, unless `copies` says how often, as for a run that goes on.
    """
    if isinstance(sources, Corpus):
        return _as_asked(sources, config)
    if copies is None:
        copies = copies_of(config.weight, [os.fspath(source) for source in sources])
    return corpora.load(
        sources,
        config.encoding,
        format=config.format,
        column=config.column,
        field=config.field,
        separator=unescaped(config.separator),
        lower=config.lower,
        as_bytes=config.bytes,
        vocabulary=vocabulary,
        unknown=config.unknown,
        copies=copies,
        fetch=fetch,
    )


def _as_asked(corpus: Corpus, config: Config) -> Corpus:
    """A text in memory, if it is what the options ask for."""
    if config.weight and not corpus.spans:
        raise UserError(f"--weight: is for files, and {corpus.name} is a text in memory")
    characters, is_bytes = corpus.vocabulary.characters, corpus.vocabulary.kind == "bytes"
    if config.lower and not is_bytes and characters != "".join(sorted(set(characters.lower()))):
        raise UserError(f"--lower: {corpus.name} is a Corpus, which is taken as it is: make it of text.lower()")
    if config.bytes and not is_bytes:
        raise UserError(f"--bytes: {corpus.name} is a Corpus of characters: Corpus.from_bytes makes one of bytes")
    return corpus


def _new_folder(name: str) -> Path:
    """Make runs/NAME, or the first of NAME-2, NAME-3, ... that does not exist."""
    number = 1
    while True:
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def _empty_folder(folder: Path) -> Path:
    """Make a folder, which may exist if there is nothing in it."""
    disk.make_folder(folder)
    if {path.name for path in folder.iterdir()} - {LOCK}:
        what = (
            f"go on with it by {hints.option('resume', folder)}"
            if (folder / store.LAST).exists()
            else "it is not empty"
        )
        raise UserError(f"--out {folder}: exists already ({what}); give another folder")
    return folder


def _best_loss(folder: Path) -> float:
    """The smoothed loss of the run's best checkpoint; infinite where there is none, or a damaged one to be replaced."""
    try:
        return Checkpoint.from_file(find(folder, "best")).smooth_loss
    except UserError:
        return float("inf")


def newest(command: str = "train") -> Path:
    """The run below runs/ whose last checkpoint is the newest.

    Raises
    ------
    UserError
        If there is none; what a `command` takes instead is in the message.
    """
    found = list(Path("runs").glob("*/last.safetensors"))
    if not found:
        what, way = ("--resume", "--resume=RUN") if command == "train" else ("RUN", f"charlstm {command} RUN")
        raise UserError(f"{what}: there is no run with a checkpoint below runs/; name its folder: {way}")
    return max(found, key=lambda path: path.stat().st_mtime).parent
