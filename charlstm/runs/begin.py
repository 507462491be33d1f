"""Start and resume a run: its folder, its text, its options."""

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from charlstm.errors import OtherRankFailed, UserError
from charlstm.model.checkpoint import Checkpoint, find
from charlstm.runs import disk, events, records, store
from charlstm.runs.lock import LOCK, Lock
from charlstm.runs.ranks import Helper
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
from charlstm.training.world import ALONE, World

#: Options that may change when a run is resumed: they affect neither its sizes nor what it has already done.
CHANGEABLE = (
    *BUDGETS, "backend", "threads", "learning_rate", "schedule", "warmup", "reset_every", "decay_factor",
    "decay_every", "decay_after", "decay_floor", "plateau_patience", "patience", "validate_every", "report_every",
    "diagnostics", "mix", "tensorboard", "plot", "plot_every", "save_every", "keep", "sample_every", "sample_length",
    "temperature", "show_below", "save_below", "epoch_samples",
)  # fmt: skip


def start(
    sources: Sequence[str | os.PathLike[str]] | Corpus = (),
    config: Config | None = None,
    out: str | None = None,
    *,
    model: Checkpoint | None = None,
    fetch: Fetch = downloads.fetch,
    world: World = ALONE,
) -> Run:
    """Start a run in a new folder: `out`, or runs/NAME, NAME-2, ... after the name of the text.

    Parameters
    ----------
    sources : the text: see :func:`charlstm.text.corpus.load`
    config : by default the preset `fast`, with the sizes of `model`
    model : start from its weights and keep its vocabulary; `config` has its sizes: see `from_model`
    fetch : turns a URL or a built-in name into a file
    world : the ranks that train it; this is the first one, and the others call :func:`help_to_start`

    Raises
    ------
    UserError
        If the text, an option or the folder is not valid; nothing has been written then.
    """
    with world.together():  # before the folder is made: it checks the options
        trainer = prepared(sources, config, model=model, fetch=fetch, world=world)
    config, trainer.corpus = trainer.config, corpora.kept(trainer.corpus)
    corpus = trainer.corpus
    machine = records.bits_depend_on(trainer.backend, world.size)
    with world.together():
        folder, lock = _made(corpus.name, out, records.environment(machine))
    said = heldout.remark(corpus, config.validation, config.validation_from)
    if config.documents == "lines":
        said = (
            f"lines   each line of {corpus.name} is a document; they are shuffled (--documents texts: left as they are)"
        )
    return Run(folder, trainer, lock, machine, [said] if said else [])


def help_to_start(
    sources: Sequence[str | os.PathLike[str]],
    config: Config,
    world: World,
    *,
    model: Checkpoint | None = None,
    fetch: Fetch = downloads.fetch,
) -> Helper:
    """What a rank other than the first does while that one calls :func:`start`, with the same arguments."""
    with world.together():
        trainer = prepared(sources, config, model=model, fetch=fetch, world=world)
    with world.together():  # the first rank makes the folder
        return Helper(trainer)


def _made(name: str, out: str | None, environment: bytes) -> tuple[Path, Lock]:
    """The new folder of a run, locked, with its environment.json."""
    folder = made_folder(name, out)
    try:
        lock = Lock(folder)
        empty_folder(folder)  # check again, now that it is locked
        disk.write(folder / "environment.json", environment)
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written: {error.strerror or error}") from None
    return folder, lock


def prepared(
    sources: Sequence[str | os.PathLike[str]] | Corpus = (),
    config: Config | None = None,
    *,
    model: Checkpoint | None = None,
    fetch: Fetch = downloads.fetch,
    world: World = ALONE,
) -> Trainer:
    """The training that :func:`start` would begin, with its text and initial weights; writes nothing.

    Raises
    ------
    UserError
        If the text or an option is not valid.
    """
    config = config or (from_model(model.config) if model else from_preset())
    events.see_that_possible(config)
    corpus = read_corpus(sources, config, model.vocabulary if model else None, fetch, world=world)
    trainer = Trainer(config, corpus, world=world)
    if model:
        voices = model.voices if len(model.voices) > 1 else model.voices * len(trainer.members)
        shapes = [member.shape for member in trainer.members]
        if (shapes, corpus.vocabulary) != ([voice.shape for voice in voices], model.vocabulary):
            raise UserError(f"{corpus.name}: the model of --from has a different vocabulary or sizes")
        for member, voice in zip(trainer.members, voices, strict=True):
            member.start_from(voice.theta)
    return trainer


def resume(
    run: str | os.PathLike[str] | None = None,
    sources: Sequence[str | os.PathLike[str]] | Corpus = (),
    chosen: dict[str, Any] | None = None,
    fetch: Fetch = downloads.fetch,
    *,
    force_corpus: bool = False,
    world: World = ALONE,
) -> Run:
    """Resume a run from its newest intact checkpoint; by default the newest run in runs/.

    Parameters
    ----------
    run : its folder
    sources : the text, if it is no longer where it was
    chosen : options of CHANGEABLE to change; budgets are totals
    fetch : turns a URL or a built-in name into a file
    force_corpus : accept a different text; `unknown`, which may be chosen then, says how to treat characters that the
        run's vocabulary lacks
    world : the ranks that train it, of any number; this is the first one, and the others call :func:`help_to_resume`

    Raises
    ------
    UserError
        If the run has no checkpoint or is in use, the text differs, or an option cannot change.
    """
    try:
        folder, lock, old, notes = _taken(run)
    except BaseException:
        world.broadcast_bytes(b"")
        world.has_agreed = world.size > 1
        raise
    if world.size > 1:
        world.broadcast_bytes(old.to_bytes())
    try:
        with world.together():
            trainer = _continued(old, folder, sources, chosen or {}, fetch, force_corpus, world, notes)
        if trainer.corpus.digest != old.corpus["digest"]:
            trainer.corpus = corpora.kept(trainer.corpus)
        machine = records.bits_depend_on(trainer.backend, world.size)
        notes += _differences(old.machine, machine) + _missing(folder, old.files)
        is_calibrated = not _has_budget(chosen or {})
        return Run(
            folder, trainer, lock, machine, notes, is_calibrated=is_calibrated, saved=old.iteration, lengths=old.files,
            best_loss=_best_loss(folder),
        )  # fmt: skip
    except BaseException:
        lock.release()
        raise


def help_to_resume(
    sources: Sequence[str | os.PathLike[str]],
    chosen: dict[str, Any],
    world: World,
    fetch: Fetch = downloads.fetch,
    *,
    force_corpus: bool = False,
) -> Helper:
    """What a rank other than the first does while that one calls :func:`resume`, with the same arguments."""
    if not (found := world.broadcast_bytes(b"")):
        raise OtherRankFailed
    old = Checkpoint.from_bytes(found, "the checkpoint of rank 0")
    with world.together():
        trainer = _continued(old, "the run", sources, chosen, fetch, force_corpus, world, [])
    return Helper(trainer, is_calibrated=not _has_budget(chosen))


def _taken(run: str | os.PathLike[str] | None) -> tuple[Path, Lock, Checkpoint, list[str]]:
    """The folder of a run, locked, with its newest checkpoint, and notes about that."""
    folder = newest() if run is None else _folder_of(Path(run))
    find(folder, "last")  # before the lock, which would create a file in a folder that is not a run's
    try:
        lock = Lock(folder)
    except OSError as error:
        raise UserError(f"{folder}: cannot be written: {error.strerror or error}") from None
    try:
        return folder, lock, *store.newest(folder)
    except BaseException:
        lock.release()
        raise


def _continued(
    old: Checkpoint, folder: str | os.PathLike[str], sources: Sequence[str | os.PathLike[str]] | Corpus,
    chosen: dict[str, Any], fetch: Fetch, force_corpus: bool, world: World, notes: list[str],
) -> Trainer:  # fmt: skip
    """The training that a run resumes from a checkpoint; what has changed is added to `notes`."""
    config = _changed(old.config, chosen, (*CHANGEABLE, "unknown") if force_corpus else CHANGEABLE, notes)
    events.see_that_possible(config)
    corpus = corpus_of(replace(old, config=config), folder, sources, fetch, is_frozen=force_corpus, world=world)
    if force_corpus and corpus.digest != old.corpus["digest"]:
        notes.append(f"{corpus.name}: trains on a different text from now on; before: {old.corpus['name']}")
        old = replace(old, corpus={**old.corpus, "digest": corpus.digest})
    return Trainer(config, corpus, old, world)


def _missing(folder: Path, lengths: dict[str, int]) -> list[str]:
    """A line for each text file that is shorter than the checkpoint says."""
    sizes = {name: path.stat().st_size if (path := folder / name).is_file() else 0 for name in (METRICS, SAMPLES)}
    return [
        f"{folder / name}: has only {size:,} of {lengths[name]:,} bytes; the rest is lost"
        for name, size in sizes.items()
        if size < lengths.get(name, 0)
    ]


def _folder_of(run: Path) -> Path:
    """The folder of a run, given the folder or its last checkpoint."""
    if run.is_file() and run.parent.name == "checkpoints":
        raise UserError(
            f"{hints.option('resume', run)}: resumes from the newest checkpoint of a run, so give the run folder; "
            f"{hints.option('from', run)} starts a new run from this checkpoint"
        )
    return run.parent if run.is_file() else run


def _changed(old: Config, chosen: dict[str, Any], changeable: tuple[str, ...], notes: list[str]) -> Config:
    """The config with the chosen options, each change told in a note; new budgets replace the old ones."""
    for name, value in chosen.items():
        if name not in changeable and value != getattr(old, name):
            raise UserError(f"--{name.replace('_', '-')} cannot change when a run is resumed")
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
    """A warning if anything that the results depend on has changed since the checkpoint was written."""
    if not old:
        return []
    flat = [{**machine, **machine["versions"], "versions": None, "ranks": None} for machine in (old, now)]
    names = [name for name in {**flat[0], **flat[1]} if flat[0].get(name) != flat[1].get(name)]
    before, ranks = old.get("ranks", 1), now.get("ranks", 1)
    said = [] if ranks == before else [
        f"ranks   {before} -> {ranks}: the streams are dealt anew, with their states; results may differ in the last "
        "bits from an uninterrupted run"
    ]  # fmt: skip
    if not names:
        return said
    changes = ", ".join(f"{flat[0].get(name, 'none')} -> {flat[1].get(name, 'none')}" for name in names)
    what = f"warning: {', '.join(names)} changed ({changes})"
    return [*said, f"{what}: results may differ in the last bits from an uninterrupted run"]


def corpus_of(
    old: Checkpoint,
    folder: str | os.PathLike[str],
    sources: Sequence[str | os.PathLike[str]] | Corpus = (),
    fetch: Fetch = downloads.fetch,
    is_frozen: bool = False,
    world: World = ALONE,
) -> Corpus:
    """The text that a run was trained on: from `sources`, its original place, or the copy in the cache.

    Parameters
    ----------
    old, folder : the run
    sources : the text, if it is no longer where it was
    fetch : turns a URL or a built-in name into a file
    is_frozen : read it with the run's vocabulary instead of its own
    world : the ranks that make this call together

    Raises
    ------
    UserError
        If it cannot be found: it came from a pipe, for example, or has moved, and the cache has no copy.
    """
    vocabulary = old.vocabulary if is_frozen or old.corpus.get("is_frozen") else None
    if not sources and not corpora.can_be_read_again(old.corpus["sources"]):
        with world.first_rank_first():
            copy = corpora.cached(old.corpus, old.vocabulary)
        if copy is None:
            raise UserError(
                f"{folder}: its text came from {', '.join(old.corpus['sources']) or old.corpus['name']}, which no "
                "longer exists, and the cache has no copy; give it again as TEXT"
            )
        return copy
    copies = None if is_frozen else [count for _, count in old.corpus.get("spans", ())]
    return read_corpus(sources or old.corpus["sources"], old.config, vocabulary, fetch, copies, world)


def training_text(old: Checkpoint, run: str | os.PathLike[str], fetch: Fetch = downloads.fetch) -> Corpus:
    """The exact text that a run was trained on: the copy in the cache, or the original if it is unchanged.

    Raises
    ------
    UserError
        If it cannot be found or has changed.
    """
    found = corpora.cached(old.corpus, old.vocabulary) or corpus_of(old, run, fetch=fetch)
    if found.digest != old.corpus["digest"]:
        raise UserError(f"{run}: its text, {', '.join(old.corpus['sources'])}, has changed since training")
    return found


def read_corpus(
    sources: Sequence[str | os.PathLike[str]] | Corpus,
    config: Config,
    vocabulary: Vocabulary | None,
    fetch: Fetch,
    copies: Sequence[int] | None = None,
    world: World = ALONE,
) -> Corpus:
    """Read the text with the options in `config`, with the vocabulary of a model if one is given.

    `copies` says how often each text is read, for a resumed run; by default this follows from the weights in `config`.
    `world` are the ranks that make this call together.
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
        world=world if world.size > 1 else None,
    )


def _as_asked(corpus: Corpus, config: Config) -> Corpus:
    """Return a text in memory if it fits the options."""
    if config.weight and not corpus.spans:
        raise UserError(f"--weight: only for files; {corpus.name} is a text in memory")
    characters, is_bytes = corpus.vocabulary.characters, corpus.vocabulary.kind == "bytes"
    if config.lower and not is_bytes and characters != "".join(sorted(set(characters.lower()))):
        raise UserError(f"--lower: {corpus.name} is a Corpus, which is used as it is; create it from text.lower()")
    if config.bytes and not is_bytes:
        raise UserError(f"--bytes: {corpus.name} is a Corpus of characters; create it with Corpus.from_bytes")
    return corpus


def made_folder(name: str, out: str | None) -> Path:
    """Create the folder `out`, which may exist if it is empty, or a new one, runs/NAME, -2, ...

    Raises
    ------
    UserError
        If it cannot be made, or `out` has files.
    """
    try:
        return new_folder(name) if out is None else empty_folder(Path(out))
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written: {error.strerror or error}") from None


def new_folder(name: str) -> Path:
    """Create runs/NAME, or the first of NAME-2, NAME-3, ... that does not exist."""
    number = 1
    while True:
        folder = Path("runs") / (name if number == 1 else f"{name}-{number}")
        try:
            folder.mkdir(parents=True)
        except FileExistsError:
            number += 1
        else:
            return folder


def empty_folder(folder: Path) -> Path:
    """Create a folder; it may exist if it is empty."""
    disk.make_folder(folder)
    if {path.name for path in folder.iterdir()} - {LOCK}:
        if (folder / store.LAST).exists():
            way = f"already contains a run; resume it with {hints.option('resume', folder)}, or"
        else:
            way = "already exists and is not empty;"
        raise UserError(f"--out {folder}: {way} choose another folder")
    return folder


def _best_loss(folder: Path) -> float:
    """The smoothed loss of the best checkpoint; infinite if there is none or it is damaged, so that it is replaced."""
    try:
        return Checkpoint.from_file(find(folder, "best")).smooth_loss
    except UserError:
        return float("inf")


def newest(command: str = "train") -> Path:
    """The run in runs/ whose last checkpoint is the newest.

    Raises
    ------
    UserError
        If there is none; the message says what `command` needs instead.
    """
    found = list(Path("runs").glob("*/last.safetensors"))
    if not found:
        what, way = ("--resume", "--resume=RUN") if command == "train" else ("RUN", f"charlstm {command} RUN")
        raise UserError(f"{what}: no run with a checkpoint in runs/; name a folder: {way}")
    return max(found, key=lambda path: path.stat().st_mtime).parent


__all__ = [  # includes the names that the old module `charlstm.run` had
    "CHANGEABLE", "NotSaved", "Run", "corpus_of", "newest", "read_corpus", "resume", "start", "training_text",
]  # fmt: skip
