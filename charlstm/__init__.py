"""Train a character-level LSTM on a text, and generate text with it.

>>> import charlstm
>>> run = charlstm.train("book.txt", hidden_size=256, seconds=60)  # doctest: +SKIP
>>> run.history["bits_per_char"]  # doctest: +SKIP
>>> run = charlstm.resume(run, seconds=120)  # doctest: +SKIP
>>> model = charlstm.load("runs/book")  # doctest: +SKIP
>>> model.sample("The ", length=200, temperature=0.8, seed=1)  # doctest: +SKIP

Importing this package loads neither NumPy nor Numba; the names below are imported on first use.
"""

import sys
from importlib import import_module
from importlib.machinery import ModuleSpec
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

if TYPE_CHECKING:
    from charlstm.api import resume, start, train
    from charlstm.errors import RunFailed, UserError
    from charlstm.model.checkpoint import Checkpoint
    from charlstm.model.model import load
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
    "load": "model.model",
    "resume": "api",
    "start": "api",
    "train": "api",
}

#: Old module names; importing one of them gives the module under its current name.
_MOVED = {
    "batches": "text.batches",
    "checkpoint": "model.model",
    "config": "settings.config",
    "corpus": "text.corpus",
    "evaluate": "model.scoring",
    "progress": "training.progress",
    "run": "runs.begin",
    "sampler": "model.sampling",
    "stopping": "training.stopping",
    "trainer": "training.trainer",
}


class _Moved:
    """Finder and loader of the modules of _MOVED. (To inherit from importlib.abc would take 5 ms of every start.)"""

    def find_spec(self, fullname: str, path: Any = None, target: Any = None) -> ModuleSpec | None:
        package, _, name = fullname.partition(".")
        is_moved = package == __name__ and name in _MOVED
        return ModuleSpec(fullname, cast(Any, self)) if is_moved else None

    def create_module(self, spec: ModuleSpec) -> ModuleType:
        module = import_module(f"{__name__}.{_MOVED[spec.name.partition('.')[2]]}")
        spec.loader_state = module.__spec__
        return module

    def exec_module(self, module: ModuleType) -> None:
        assert module.__spec__ is not None
        module.__spec__ = module.__spec__.loader_state  # its own spec again, which the import system has replaced


sys.meta_path.append(_Moved())


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        from charlstm.host.neighbours import foreign

        if line := foreign():
            raise ImportError(line)
        return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)
    if name in _MOVED:
        return import_module(f"{__name__}.{_MOVED[name]}")
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
