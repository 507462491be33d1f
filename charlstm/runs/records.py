"""The texts in a run's folder: a line of metrics.jsonl, a block of samples.txt, config.toml, environment.json."""

import json
import platform
import sys
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from time import strftime
from typing import Any

import numpy as np

from charlstm.host.machine import processor, usable_cores, versions
from charlstm.settings.config import Config
from charlstm.training.progress import Progress

_SUMS = ("loss", "smooth_loss")  # in metrics.jsonl
METRICS, SAMPLES = "metrics.jsonl", "samples.txt"


def sample_block(progress: Progress) -> bytes:
    """One block of samples.txt, the smoothed loss per character; a text that the sample goes on from comes first."""
    loss = progress.smooth_loss / progress.loss_chars
    head = f"# iteration {progress.iteration}  loss {loss:.6f}  temperature {progress.temperature:g}"
    return f"{head}\n{progress.prime}{progress.sample}\n\n".encode("utf-8", "backslashreplace")


def columns(path: Path, loss_chars: int) -> dict[str, np.ndarray]:
    """The columns of a metrics.jsonl, (n,) each: whole numbers where all are, otherwise float64, NaN for none.

    Losses, which the file has summed over `loss_chars` steps, are those of one.
    """
    with suppress(FileNotFoundError):  # nothing has been written yet
        lines = [json.loads(line) for line in path.read_bytes().splitlines(keepends=True) if line.endswith(b"\n")]
        names = dict.fromkeys(name for line in lines for name in line)
        found = {name: [line.get(name) for line in lines] for name in names}
        arrays = {
            name: np.array(values, np.int64 if all(type(value) is int for value in values) else np.float64)
            for name, values in found.items()
        }
        return {name: array / loss_chars if name in _SUMS else array for name, array in arrays.items()}
    return {}


def toml(config: Config) -> bytes:
    """A config as config.toml has it: options that are unset are left out, what no UTF-8 has is written as \\udce9."""
    import tomli_w

    values = {name: _writable(value) for name, value in asdict(config).items() if value is not None}
    return tomli_w.dumps(values).encode()


def _writable(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-8", "backslashreplace").decode()
    return [_writable(each) for each in value] if isinstance(value, tuple) else value


def environment(machine: dict[str, Any]) -> bytes:
    """Where a run began; `machine` is what :func:`bits_depend_on` gave."""
    facts = {
        "started": strftime("%Y-%m-%dT%H:%M:%S%z"),
        "command": sys.argv,
        "platform": platform.platform(),
        "cores": usable_cores(),
        **machine,
    }
    return json.dumps(facts, indent=2).encode() + b"\n"


def bits_depend_on(backend: str) -> dict[str, Any]:
    """What has to be the same for a run that goes on to give the same bits as one that never stopped."""
    return {"backend": backend, "processor": processor(), "versions": versions()}
