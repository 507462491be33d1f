"""How a run begins, and how it goes on: its folder, its text, its options."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from charlstm.errors import UserError
from charlstm.model.checkpoint import Checkpoint, find
from charlstm.runs import disk, records, store
from charlstm.runs.lock import LOCK, Lock
from charlstm.runs.records import METRICS, SAMPLES
from charlstm.runs.run import NotSaved, Run
from charlstm.settings.config import BUDGETS, Config, from_model, from_preset
from charlstm.show import hints
from charlstm.text import corpus as corpora
from charlstm.text import downloads, heldout
from charlstm.text.corpus import Corpus, Fetch, Vocabulary
from charlstm.text.reading import unescaped
from charlstm.text.weights import copies_of
from charlstm.training.trainer import Trainer

#: Options that may differ from the run's own when it goes on: they change no size, and nothing of the past.
CHANGEABLE = (
    *BUDGETS, "backend", "threads", "learning_rate", "schedule", "warmup", "reset_every", "decay_factor", "decay_every",
    "decay_after", "decay_floor", "plateau_patience", "patience", "validate_every", "report_every", "save_every",
    "keep", "sample_every", "sample_length", "temperature", "show_below", "save_below", "epoch_samples",
)  # fmt: skip


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
    model : begin with its weights and keep its vocabulary; `config` has its sizes: see `from_model`
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
    return Run(folder, trainer, lock, machine, [said] if said else [])


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
            folder, trainer, lock, machine, notes, is_calibrated=is_calibrated, saved=old.iteration, lengths=old.files,
            best_loss=_best_loss(folder),
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


__all__ = [  # with what `charlstm.run`, the old place of all this, offered
    "CHANGEABLE", "NotSaved", "Run", "corpus_of", "newest", "read_corpus", "resume", "start", "training_text",
]  # fmt: skip
