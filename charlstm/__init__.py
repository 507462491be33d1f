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
    from charlstm.errors import RunFailed, UserError
    from charlstm.model.checkpoint import Checkpoint, load
    from charlstm.runs.run import Run
    from charlstm.settings.config import Config, from_preset
    from charlstm.text.corpus import Corpus
    from charlstm.training.progress import Progress
    from charlstm.training.stopping import Interrupted
    from charlstm.training.trainer import Trainer

_HOMES = {
    "Checkpoint": "model.checkpoint",
    "Config": "settings.config",
    "Corpus": "text.corpus",
    "Interrupted": "training.stopping",
    "Progress": "training.progress",
    "Run": "runs.run",
    "RunFailed": "errors",
    "Trainer": "training.trainer",
    "UserError": "errors",
    "from_preset": "settings.config",
    "load": "model.checkpoint",
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
