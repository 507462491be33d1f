"""Estimates from the recent past: the speed of training, and the time left, which is shown without jumps."""

import math
from time import monotonic

from charlstm.training.progress import Progress

_PACE_SECONDS = 15.0
_PACE_FROM = 1.0  # seconds of warm-up, which are ignored
_SLOWEST = 15.0  # seconds in which a countdown comes two thirds of the way to a new estimate
_FRACTION = 0.2  # the same, as a fraction of the time left


class Pace:
    """The recent speed of training by wall-clock time, as an exponentially weighted average.

    The first second is warm-up and does not count.
    """

    def __init__(self) -> None:
        self._last: tuple[float, Progress] | None = None
        self._is_warm, self._age = False, 0.0
        self._clock = self._training = self._iterations = self._chars = 0.0

    def add(self, progress: Progress) -> None:
        """Record the current progress."""
        if progress.kind != "tick" and self._last is not None:
            return
        now = monotonic()
        if self._last is not None:
            then, last = self._last
            if self._clock >= _PACE_FROM and not self._is_warm:
                self._is_warm, self._clock, self._training, self._iterations, self._chars = True, 0.0, 0.0, 0.0, 0.0
            self._age += now - then
            kept = math.exp((then - now) / min(max(self._age / 2, _PACE_SECONDS / 2), _PACE_SECONDS))
            self._clock = self._clock * kept + now - then
            self._training = self._training * kept + progress.seconds - last.seconds
            self._iterations = self._iterations * kept + progress.iteration - last.iteration
            self._chars = self._chars * kept + progress.chars - last.chars
        self._last = now, progress

    @property
    def chars_per_second(self) -> float | None:
        """Characters read per second of training; None while unknown."""
        return self._chars / self._training if self._training > 0 else None

    def left(self, progress: Progress) -> float | None:
        """Estimated wall-clock seconds to the end; None while unknown."""
        if progress.is_endless or not self._is_warm or self._iterations <= 0:
            return None
        return (progress.iterations - progress.iteration) * self._clock / self._iterations


class Countdown:
    """The time left as it is shown: it runs down with the clock and follows the estimate slowly."""

    def __init__(self) -> None:
        self._shown: float | None = None
        self._at = 0.0

    def shown(self, estimate: float | None) -> float | None:
        """The seconds to show now, for an estimate in seconds; None while there has been no estimate."""
        now = monotonic()
        passed, self._at = now - self._at, now
        if estimate is None or self._shown is None:
            self._shown = estimate
            return estimate
        left = max(self._shown - passed, 0.0)
        pull = 1 - math.exp(-passed / max(min(_FRACTION * estimate, _SLOWEST), 0.5))
        self._shown = left + pull * (estimate - left)
        return self._shown
