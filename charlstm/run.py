"""A run folder: what a training run leaves behind, and the way back into it.

``config.toml`` (what was asked), ``environment.json`` (where), ``metrics.jsonl`` (a line a report), ``samples.txt``
(``# iteration N  loss X  temperature T``, the text, an empty line), ``last.safetensors`` and ``best.safetensors`` (the
newest checkpoint, and the one of the lowest loss on what was kept back, or else of the lowest smoothed loss).
"""

import json
import os
import platform
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from time import perf_counter, strftime
from typing import Any, BinaryIO

from charlstm import checkpoint as checkpoints
from charlstm import corpus as corpora
from charlstm import data
from charlstm.checkpoint import Checkpoint
from charlstm.config import BUDGETS, Config, from_model, from_preset
from charlstm.corpus import Corpus, Fetch, Vocabulary
from charlstm.errors import UserError
from charlstm.machine import processor, usable_cores, versions
from charlstm.progress import Progress
from charlstm.trainer import Trainer

METRICS, SAMPLES = "metrics.jsonl", "samples.txt"

#: Options that may differ from the run's own when it goes on: they change no size, and nothing of the past.
CHANGEABLE = (
    *BUDGETS, "backend", "threads", "learning_rate", "schedule", "warmup", "decay_factor", "decay_every", "decay_after",
    "decay_floor", "plateau_patience", "patience", "validate_every", "report_every", "save_every", "sample_every",
    "sample_length", "temperature", "show_below", "save_below", "epoch_samples",
)  # fmt: skip


@dataclass
class Run:
    """A training run and its folder. Iterate :meth:`train` to let it happen."""

    folder: Path
    trainer: Trainer
    best_loss: float = float("inf")
    calibrated: bool = False  #: the budget is a number of iterations already, and stays that
    stop: bool = False  #: set it, from a signal's handler for example, and training ends after the next tick
    last: Progress | None = None

    @property
    def config(self) -> Config:
        """What was asked, with a budget in seconds turned into iterations."""
        return self.trainer.config

    def train(self) -> Iterator[Progress]:
        """Train, write the folder's files, and pass on every Progress."""
        folder, trainer = self.folder, self.trainer
        if not self.calibrated:
            trainer.calibrate()
            self.calibrated = True
        write_toml(folder / "config.toml", trainer.config)
        with open(folder / METRICS, "ab") as metrics, open(folder / SAMPLES, "ab") as samples:
            saved_at, saved = -float("inf"), -1  # the first save is due at once: there is something to go back to then
            for progress in trainer.run():
                if progress.kind in ("report", "evaluation"):
                    metrics.write(metrics_line(progress))
                    if progress.is_best:
                        self._save_best(trainer.checkpoint().to_bytes())
                elif progress.kind == "sample":
                    samples.write(sample_block(progress) if progress.is_kept else b"")
                else:
                    self.last = progress
                    if self.stop:
                        break
                    if perf_counter() - saved_at >= trainer.config.save_every:
                        self._save(metrics, samples)
                        saved_at, saved = perf_counter(), trainer.iteration
                yield progress
            if saved != trainer.iteration:
                self._save(metrics, samples)

    def _save(self, metrics: BinaryIO, samples: BinaryIO) -> None:
        for file in (metrics, samples):
            file.flush()
            os.fsync(file.fileno())
        now = self.trainer.checkpoint()
        now.files = {METRICS: metrics.tell(), SAMPLES: samples.tell()}
        data = now.to_bytes()
        checkpoints.write_atomically(self.folder / "last.safetensors", data)
        if "best_validation" not in now.marks and now.smooth_loss < self.best_loss:
            self.best_loss = now.smooth_loss
            self._save_best(data)

    def _save_best(self, data: bytes) -> None:
        checkpoints.write_atomically(self.folder / "best.safetensors", data)

    def load(self, which: str = "best") -> Checkpoint:
        """The run's checkpoint, "best" or "last"."""
        return checkpoints.load(self.folder, which)


def start(
    sources: Sequence[str | os.PathLike[str]] | Corpus = (),
    config: Config | None = None,
    out: str | None = None,
    *,
    model: Checkpoint | None = None,
    fetch: Fetch = data.fetch,
) -> Run:
    """Begin a run in a new folder: `out`, or runs/NAME, NAME-2, ... after the text's name.

    Parameters
    ----------
    sources : the text: see :func:`charlstm.corpus.load`
    config : by default the preset `fast`, with the sizes of `model`
    model : begin with its weights and keep its vocabulary; `config` has its sizes: see `charlstm.config.from_model`
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
    if out is not None and os.path.isdir(out) and any(Path(out).iterdir()):
        what = f"go on with it by --resume={out}" if (Path(out) / "last.safetensors").exists() else "it is not empty"
        raise UserError(f"--out {out}: exists already ({what}); give another folder")
    try:
        folder = _new_folder(corpus.name) if out is None else Path(out)
        folder.mkdir(parents=True, exist_ok=True)
        checkpoints.write_atomically(folder / "environment.json", _environment(trainer.backend))
    except OSError as error:
        raise UserError(f"{error.filename or out}: cannot be written: {error.strerror or error}") from None
    return Run(folder, trainer)


def resume(
    run: str | os.PathLike[str] | None = None,
    sources: Sequence[str | os.PathLike[str]] | Corpus = (),
    chosen: dict[str, Any] | None = None,
    fetch: Fetch = data.fetch,
) -> Run:
    """Go on with a run where its last checkpoint left it, by default with the newest run below runs/.

    Parameters
    ----------
    run : its folder
    sources : the text, where it is not to be found where it was
    chosen : options to change, of CHANGEABLE; budgets are totals
    fetch : turns a URL or a built-in name into a file

    Raises
    ------
    UserError
        For a run without a checkpoint, another text, or an option that cannot change.
    """
    folder = _newest() if run is None else Path(run)
    folder = folder.parent if os.path.isfile(folder) else folder
    old = checkpoints.load(folder, "last")
    chosen = chosen or {}
    for name in chosen:
        if name not in CHANGEABLE and chosen[name] != getattr(old.config, name):
            raise UserError(f"--{name.replace('_', '-')} cannot change when a run goes on")
    budget = dict.fromkeys(BUDGETS) if any(chosen.get(name) is not None for name in BUDGETS) else {}
    config = replace(old.config, **{**budget, **chosen})
    corpus = corpus_of(old, folder, sources, fetch)
    trainer = Trainer(config, corpus, old)
    resumed = Run(folder, trainer, _best_loss(folder), calibrated=not budget)
    for name in (METRICS, SAMPLES):  # what was written after the checkpoint will be written again
        if (folder / name).exists():
            os.truncate(folder / name, min(old.files.get(name, 0), (folder / name).stat().st_size))
    return resumed


def corpus_of(
    old: Checkpoint,
    folder: str | os.PathLike[str],
    sources: Sequence[str | os.PathLike[str]] | Corpus = (),
    fetch: Fetch = data.fetch,
) -> Corpus:
    """The text that a run was trained on, from where it was, or from `sources`.

    Raises
    ------
    UserError
        Where it came from a place that cannot be read again, and no `sources` are given.
    """
    if not sources:
        if "-" in old.corpus["sources"] or not old.corpus["sources"]:
            raise UserError(f"{folder}: its text came from {old.corpus['name']}: give it again as TEXT")
        sources = old.corpus["sources"]
    return read_corpus(sources, old.config, old.vocabulary if old.corpus.get("is_frozen") else None, fetch)


def read_corpus(
    sources: Sequence[str | os.PathLike[str]] | Corpus, config: Config, vocabulary: Vocabulary | None, fetch: Fetch
) -> Corpus:
    """The text, read as `config` says, in a model's vocabulary if one is given."""
    if isinstance(sources, Corpus):
        return sources
    return corpora.load(
        sources,
        config.encoding,
        separator=config.separator.replace(r"\n", "\n").replace(r"\t", "\t"),
        lower=config.lower,
        as_bytes=config.bytes,
        vocabulary=vocabulary,
        unknown=config.unknown,
        fetch=fetch,
    )


def _new_folder(name: str) -> Path:
    """runs/NAME, or the first of NAME-2, NAME-3, ... that does not exist."""
    number = 1
    while (folder := Path("runs") / (name if number == 1 else f"{name}-{number}")).exists():
        number += 1
    return folder


def _best_loss(folder: Path) -> float:
    """The smoothed loss of the run's best checkpoint; infinite where there is none, or a damaged one to be replaced."""
    try:
        return checkpoints.load(folder, "best").smooth_loss
    except UserError:
        return float("inf")


def _newest() -> Path:
    """The run below runs/ whose last checkpoint is the newest."""
    found = list(Path("runs").glob("*/last.safetensors"))
    if not found:
        raise UserError("--resume: there is no run with a checkpoint below runs/; name its folder: --resume=RUN")
    return max(found, key=lambda path: path.stat().st_mtime).parent


# ------------------------------------------------------------------------------------------------------------ files
def metrics_line(progress: Progress) -> bytes:
    """One line of metrics.jsonl."""
    names = (
        "iteration", "chars", "epoch", "loss", "smooth_loss", "bits_per_char", "perplexity", "learning_rate", "seconds",
        "chars_per_second",
    )  # fmt: skip
    values = {name: getattr(progress, name) for name in names}
    if progress.val_bits_per_char is not None:
        values["val_bits_per_char"] = progress.val_bits_per_char
        values["val_perplexity"] = 2**progress.val_bits_per_char
    for name, digits in (("epoch", 6), ("seconds", 6), ("chars_per_second", 1)):
        values[name] = round(values[name], digits)
    return json.dumps(values).encode() + b"\n"


def sample_block(progress: Progress) -> bytes:
    """One block of samples.txt; a text that the sample goes on from comes first."""
    head = f"# iteration {progress.iteration}  loss {progress.smooth_loss:.6f}  temperature {progress.temperature:g}"
    return f"{head}\n{progress.prime}{progress.sample}\n\n".encode("utf-8", "backslashreplace")


def write_toml(path: Path, config: Config) -> None:
    """Write a config, options that are unset left out."""
    import tomli_w

    values = {name: value for name, value in asdict(config).items() if value is not None}
    checkpoints.write_atomically(path, tomli_w.dumps(values).encode())


def _environment(backend: str) -> bytes:
    facts = {
        "started": strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "backend": backend,
        "platform": platform.platform(),
        "processor": processor(),
        "cores": usable_cores(),
        "versions": versions(),
    }
    return json.dumps(facts, indent=2).encode() + b"\n"
