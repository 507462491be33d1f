"""Train a character LSTM on a text, and let it write.

>>> import charlstm
>>> run = charlstm.train("book.txt", hidden_size=256, seconds=60)  # doctest: +SKIP
>>> run.history["bits_per_char"]  # doctest: +SKIP
>>> run = charlstm.resume(run, seconds=120)  # doctest: +SKIP
>>> model = charlstm.load("runs/book")  # doctest: +SKIP
>>> model.sample("The ", length=200, temperature=0.8, seed=1)  # doctest: +SKIP

Importing this loads neither NumPy nor Numba; the names below are looked up when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from charlstm.api import resume, start, train
    from charlstm.checkpoint import Checkpoint, load
    from charlstm.config import Config, from_preset
    from charlstm.corpus import Corpus
    from charlstm.errors import RunFailed, UserError
    from charlstm.progress import Progress
    from charlstm.run import Run
    from charlstm.stopping import Interrupted
    from charlstm.trainer import Trainer

_HOMES = {
    "Checkpoint": "checkpoint",
    "Config": "config",
    "Corpus": "corpus",
    "Interrupted": "stopping",
    "Progress": "progress",
    "Run": "run",
    "RunFailed": "errors",
    "Trainer": "trainer",
    "UserError": "errors",
    "from_preset": "config",
    "load": "checkpoint",
    "resume": "api",
    "start": "api",
    "train": "api",
}


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(f"charlstm.{_HOMES[name]}"), name)
    raise AttributeError(f"module 'charlstm' has no attribute {name!r}")


__all__ = [
    "Checkpoint",
    "Config",
    "Corpus",
    "Interrupted",
    "Progress",
    "Run",
    "RunFailed",
    "Trainer",
    "UserError",
    "from_preset",
    "load",
    "resume",
    "start",
    "train",
]
