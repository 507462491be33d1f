"""Draws samples to look at while training, beside the saved ones, within half a percent of the time."""

from dataclasses import replace
from time import monotonic

import numpy as np

from charlstm.errors import Diverged
from charlstm.training.progress import Progress
from charlstm.training.trainer import Trainer

SHARE = 0.005  # fraction of the time that drawing may take
_APART = 1.0  # seconds between two samples, so that they can be read
_LONGEST = 400  # characters: no panel has room for more
_COLD, _WARM = 0.25, 0.005  # seconds that the first sample may take: before and after the kernel has been loaded


class LiveSamples:
    """The live samples of a run: drawn from a generator of their own, and never saved.

    Before each, the time that the last one took is added to the time that all have taken: only if the sum is at most
    :data:`SHARE` of the time since the start is the next one drawn. With --sample-every 0 there are none.

    Parameters
    ----------
    trainer : Trainer; its weights are read between two calls of the kernels
    """

    def __init__(self, trainer: Trainer) -> None:
        self._trainer, self._random = trainer, np.random.RandomState(trainer.config.seed)
        self._length = min(trainer.config.sample_length, _LONGEST)
        self._is_on = trainer.config.sample_every != 0
        self._began = self._shown = monotonic()
        self._spent, self._last = 0.0, _COLD

    def after(self, progress: Progress) -> Progress | None:
        """A sample to show after this Progress, or None if none is due. Its ``is_kept`` is False."""
        if progress.kind == "sample":
            self._shown = monotonic()
            self._last = _WARM if self._last == _COLD else self._last
        if progress.kind != "tick" or not self._is_due():
            return None
        begin = monotonic()
        try:
            drawn = self._trainer.sample(self._random, self._length)
        except Diverged:  # the run must go on as it would without a display: whether it has diverged is its own finding
            self._is_on = False
            return None
        self._shown = monotonic()
        self._last = self._shown - begin
        self._spent += self._last
        return replace(drawn, is_kept=False)

    def _is_due(self) -> bool:
        now = monotonic()
        affordable = SHARE * (now - self._began) >= self._spent + self._last
        return self._is_on and affordable and now - self._shown >= _APART
