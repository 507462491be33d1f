"""The text files of a run folder: metrics.jsonl, metrics.csv, samples.txt, config.toml and environment.json."""

import json
import platform
import sys
from collections.abc import Iterator, Sequence
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from time import strftime
from typing import Any

import numpy as np

from charlstm.errors import UserError
from charlstm.host.machine import processor, usable_cores, versions
from charlstm.settings.config import Config
from charlstm.training import diagnostics
from charlstm.training.progress import COLUMNS, Progress, table_line

_SUMS = ("loss", "smooth_loss")  # columns of metrics.jsonl summed over a sequence
CONFIG, METRICS, TABLE, SAMPLES = "config.toml", "metrics.jsonl", "metrics.csv", "samples.txt"
BASELINE = "baseline.json"


def sample_block(progress: Progress) -> bytes:
    """A block of samples.txt: a header with the smoothed loss per character, then the prime and the sample."""
    loss = progress.smooth_loss / progress.loss_chars
    head = f"# iteration {progress.iteration}  loss {loss:.6f}  temperature {progress.temperature:g}"
    return f"{head}\n{progress.prime}{progress.sample}\n\n".encode("utf-8", "backslashreplace")


def table_columns(cell: str) -> tuple[str, ...]:
    """The columns of metrics.csv of a run with this kind of cell."""
    return (*COLUMNS, *diagnostics.names(cell))


def table(metrics: bytes, columns: Sequence[str]) -> bytes:
    """The content of the metrics.csv that belongs to a metrics.jsonl, whose damaged lines are left out."""
    return ",".join(columns).encode() + b"\n" + b"".join(table_line(line, columns) for line in _intact(metrics))


def _intact(metrics: bytes) -> Iterator[dict[str, Any]]:
    for line in metrics.splitlines(keepends=True):
        with suppress(ValueError, TypeError):  # `verify` reports it
            if line.endswith(b"\n"):
                yield dict(json.loads(line))


def baseline(bits: float, unit: str, held_out: int) -> bytes:
    """The content of baseline.json: what an n-gram model scores on the held-out text of a run."""
    facts = {"model": "order-5 Markov model", f"bits_per_{unit}": bits, f"held_out_{unit}s": held_out}
    return json.dumps(facts, indent=2).encode() + b"\n"


def bits_of_baseline(content: bytes) -> float:
    """The bits per character, or per byte, in a baseline.json. Raises ValueError or TypeError if it has none."""
    facts = dict(json.loads(content))
    (bits,) = (facts[name] for name in ("bits_per_character", "bits_per_byte") if name in facts)
    return float(bits)


def recorded_baseline(folder: Path) -> float | None:
    """The bits in a run's baseline.json; None if it has none.

    Raises
    ------
    UserError
        If it cannot be read.
    """
    path = folder / BASELINE
    try:
        return bits_of_baseline(path.read_bytes()) if path.is_file() else None
    except (OSError, ValueError, TypeError) as error:
        raise UserError(f"{path}: damaged: {error}") from None


def columns(path: Path, loss_chars: int, most: int | None = None) -> dict[str, np.ndarray]:
    """The columns of a metrics.jsonl, (n,) each: int64 if all values are integers, else float64 with NaN for gaps.

    Losses, which the file sums over `loss_chars` characters, are divided by that number. If there are more than `most`
    lines, only every second, third, ... is read, and those with an evaluation.
    """
    with suppress(FileNotFoundError):  # no file yet
        whole = [line for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        step = -(-len(whole) // most) if most and whole else 1
        lines = [dict(json.loads(line)) for n, line in enumerate(whole) if n % step == 0 or b'"val_' in line]
        names = dict.fromkeys(name for line in lines for name in line)
        found = {name: [line.get(name) for line in lines] for name in names}
        arrays = {
            name: np.array(values, np.int64 if all(type(value) is int for value in values) else np.float64)
            for name, values in found.items()
        }
        return {name: array / loss_chars if name in _SUMS else array for name, array in arrays.items()}
    return {}


def toml(config: Config) -> bytes:
    """The content of config.toml: unset options are left out, and characters not in UTF-8 are escaped as \\udce9."""
    import tomli_w

    values = {name: _writable(value) for name, value in asdict(config).items() if value is not None}
    return tomli_w.dumps(values).encode()


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return [_writable(each) for each in value] if isinstance(value, tuple) else value


def environment(machine: dict[str, Any]) -> bytes:
    """The content of environment.json; `machine` is the result of :func:`bits_depend_on`."""
    facts = {
        "started": strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "platform": platform.platform(),
        "cores": usable_cores(),
        **machine,
    }
    return json.dumps(facts, indent=2).encode() + b"\n"


def bits_depend_on(backend: str, ranks: int = 1) -> dict[str, Any]:
    """Everything that must stay the same for a resumed run to match an uninterrupted run bit for bit."""
    found = {"backend": backend, "processor": processor(), "versions": versions()}
    return found if ranks == 1 else {**found, "ranks": ranks}
