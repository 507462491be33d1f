"""Train a character LSTM on a text, and let it write.

>>> import charlstm
>>> run = charlstm.train("book.txt", hidden_size=256, seconds=60)  # doctest: +SKIP
>>> model = charlstm.load("runs/book")  # doctest: +SKIP
>>> model.sample("The ", length=200, temperature=0.8, seed=1)  # doctest: +SKIP

Importing this loads neither NumPy nor Numba; the names below are looked up when they are first used.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
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
}


def train(
    *sources: Any,
    out: str | None = None,
    preset: str = "fast",
    from_run: Any = None,
    offline: bool = False,
    **options: Any,
) -> "Run":
    """Train on texts (paths, folders, URLs, built-in names; none: the documentation inside Python), to the budget.

    Parameters
    ----------
    sources : what `charlstm train` takes as TEXT
    out : the run folder; by default runs/NAME
    from_run : a run folder or checkpoint file to begin with: its best weights, its sizes and its vocabulary
    offline : take URLs and built-in texts from the cache alone
    preset, options : the words of :class:`charlstm.Config`

    Returns
    -------
    Run
        The finished run; ``run.load()`` is its model.

    Raises
    ------
    UserError
        For a text, an option or a folder that will not do.
    RunFailed
        If the loss stops being finite, a download fails, or the disk does not take the last checkpoint.
    Interrupted
        For Ctrl-C, or the stop button of a notebook: a KeyboardInterrupt whose ``run`` is the Run, saved as far as it
        came. A second one leaves at once.
    """
    from functools import partial

    from charlstm import checkpoint, data
    from charlstm.config import from_model, from_preset
    from charlstm.run import start
    from charlstm.stopping import trained

    model = None if from_run is None else checkpoint.load(from_run)
    config = from_preset(preset, **options) if model is None else from_model(model.config, preset, **options)
    return trained(start(sources, config, out, model=model, fetch=partial(data.fetch, offline=offline)))


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
    "train",
]
