"""Inspect a run folder: verify its files and summarise their contents."""

import json
import tomllib
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Any

from charlstm.errors import UserError
from charlstm.model import mixing
from charlstm.model.checkpoint import NGRAM, Checkpoint, find
from charlstm.ngram.beside import digest
from charlstm.runs import store
from charlstm.runs.records import (
    BASELINE,
    CONFIG,
    METRICS,
    SAMPLES,
    TABLE,
    bits_of_baseline,
    columns,
    recorded_baseline,
    table,
)
from charlstm.settings.config import Config, from_preset
from charlstm.show.plotting import Curves


@dataclass(frozen=True)
class Finding:
    """The result for one file; `fault` is empty if the file is intact."""

    file: str
    what: str
    fault: str = ""


def verify(run: str | Path) -> Iterator[Finding]:
    """Check every file of a run; yield one Finding each.

    Checkpoints must match their digests. The text files may be longer than the newest intact checkpoint says, because a
    resumed run cuts them there, but they must be intact up to that length.

    Raises
    ------
    UserError
        If there is no such folder, or it has no files of a run.
    """
    folder = Path(run)
    files = [*(path for path in (folder / store.LAST, folder / store.BEST) if path.is_file())]
    files += store.numbered_steps(folder).values()
    if not files:
        find(folder, "last")  # raises with what is missing
    newest: Checkpoint | None = None
    for path in files:
        name = str(path.relative_to(folder))
        try:
            found = Checkpoint.from_file(path)
        except UserError as error:
            yield Finding(name, "", str(error).removeprefix(f"{path}: "))
        else:
            yield Finding(name, f"iteration {found.iteration:,}")
            newest = found if newest is None or found.iteration > newest.iteration else newest
    lengths = newest.files if newest else {}
    for name, look in _LOOKS.items():
        yield _looked_at(folder / name, look, lengths.get(name))
    if newest and newest.mix:
        yield _looked_at(folder / NGRAM, partial(_ngram, newest.mix["digest"]), None)
    optional: dict[str, Callable[[bytes], str]] = {
        TABLE: partial(_table, folder / METRICS, lengths.get(METRICS)),
        BASELINE: _baseline,
    }
    for name in filter(lambda name: (folder / name).is_file(), optional):
        yield _looked_at(folder / name, optional[name], None)


def _looked_at(path: Path, look: Callable[[bytes], str], length: int | None) -> Finding:
    """The Finding for a file, up to the length that counts."""
    try:
        content = path.read_bytes()
    except OSError as error:
        return Finding(path.name, "", f"cannot be read: {error.strerror or error}")
    if length is not None and len(content) < length:
        return Finding(
            path.name, "", f"has {len(content):,} bytes, but had {length:,} when the newest checkpoint was written"
        )
    try:
        return Finding(path.name, look(content[:length]))
    except (ValueError, TypeError, KeyError) as error:
        return Finding(path.name, "", str(error) or type(error).__name__)


def _config(content: bytes) -> str:
    config = Config(**tomllib.loads(content.decode()))
    return f"preset {config.preset}"


def _environment(content: bytes) -> str:
    return f"started {json.loads(content)['started']}"


def _metrics(content: bytes) -> str:
    lines = _lines(content)
    numbers = [line["iteration"] for line in lines]
    if numbers != sorted(numbers):
        raise ValueError("the iterations are not in order")
    return f"{len(lines):,} lines"


def _table(metrics: Path, length: int | None, content: bytes) -> str:
    columns = content.partition(b"\n")[0].decode().split(",")
    if not content.startswith(table(metrics.read_bytes()[:length] if metrics.is_file() else b"", columns)):
        raise ValueError(f"differs from {METRICS}; --resume writes it anew")
    return f"{len(columns)} columns"


def _ngram(named: str, content: bytes) -> str:
    if digest(content) != named:
        raise ValueError("its SHA-256 is not the one that the newest checkpoint names")
    return f"{len(content):,} bytes"


def _baseline(content: bytes) -> str:
    return f"{bits_of_baseline(content):.3f} bits"


def _samples(content: bytes) -> str:
    text = content.decode()
    if text and not text.startswith("# iteration "):
        raise ValueError("does not start with the header of a sample")
    return f"{len(content):,} bytes"


_LOOKS = {CONFIG: _config, "environment.json": _environment, METRICS: _metrics, SAMPLES: _samples}


def _lines(content: bytes) -> list[dict[str, Any]]:
    if content and not content.endswith(b"\n"):
        raise ValueError("the last line is incomplete")
    lines = []
    for number, line in enumerate(content.splitlines(), 1):
        try:
            lines.append(dict(json.loads(line)))
        except (ValueError, TypeError):
            raise ValueError(f"line {number:,} is not a JSON object") from None
    return lines


def inspect(run: str | Path, checkpoint: str = "last") -> dict[str, Any]:
    """Summarise a checkpoint and the metrics of a run: sizes, options changed from the preset, progress, history.

    Raises
    ------
    UserError
        If there is no intact checkpoint.
    """
    model = Checkpoint.from_file(find(run, checkpoint))
    shape, config = model.shape, model.config
    preset = asdict(from_preset(config.preset))
    folder = Path(run)
    chars = model.iteration * config.iteration_chars
    history = _history(folder / METRICS, chars) if folder.is_dir() else []
    return {
        "run": str(run),
        "text": {name: model.corpus[name] for name in ("name", "num_ids", "digest")},
        "model": {
            "cell": shape.cell,
            "num_layers": shape.num_layers,
            "hidden_size": shape.hidden_size,
            "embedding_size": shape.embedding_size,
            "vocabulary": shape.vocab_size,
            "parameters": len(model.theta),
            "dtype": config.dtype,
            "nets": config.net_in_words,
        },
        "each": mixing.each_in_words(config, model.each, model.vocabulary.short_unit),
        "preset": config.preset,
        "options": {
            name: value for name, value in asdict(config).items() if value != preset[name] and name != "preset"
        },
        "iteration": model.iteration,
        "chars": chars,
        "seconds": round(model.seconds, 3),
        "smooth_loss": model.smooth_loss,
        "loss_chars": config.loss_chars,
        "unit": model.vocabulary.unit,
        "machine": model.machine,
        "history": history,
    }


_MOST_POINTS = 20_000  # lines of metrics.jsonl that a plot reads: more would take seconds and not be seen


def curves(run: str | Path) -> Curves:
    """The curves of a run, which may still be training, from its config.toml, metrics.jsonl and baseline.json.

    Raises
    ------
    UserError
        If it is not the folder of a run, or a file cannot be read.
    """
    folder = Path(run)
    try:
        config = Config(**tomllib.loads((folder / CONFIG).read_text("utf-8")))
    except OSError as error:
        raise UserError(f"{run}: expected the folder of a run: {CONFIG}: {error.strerror or error}") from None
    except (ValueError, TypeError) as error:
        raise UserError(f"{folder / CONFIG}: damaged: {error}") from None
    try:
        history = columns(folder / METRICS, config.loss_chars, _MOST_POINTS)
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise UserError(f"{folder / METRICS}: damaged: {error}") from None
    for name in ("iteration", "chars", "seconds", "loss", "learning_rate"):
        if history and name not in history:
            raise UserError(f"{folder / METRICS}: damaged: no line has {name!r}")
    return Curves(str(run), history, "byte" if config.bytes else "character", recorded_baseline(folder))


def _history(path: Path, chars: int, rows: int = 10) -> list[dict[str, Any]]:
    """Up to `rows` evenly spaced lines of metrics.jsonl, including the last one that has read `chars` characters.

    If some lines have figures on held-out text, only those lines are chosen.
    """
    if not path.is_file():
        return []
    lines = []
    for line in path.read_bytes().splitlines():
        try:
            lines += [found for found in [dict(json.loads(line))] if found["chars"] <= chars]
        except (ValueError, TypeError, KeyError):
            continue  # `verify` reports it
    measured = [line for line in lines if "val_bits_per_char" in line]
    chosen = measured or lines
    places = {round(k * (len(chosen) - 1) / max(rows - 1, 1)) for k in range(rows)} if chosen else set()
    return [chosen[place] for place in sorted(places)]
