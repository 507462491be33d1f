"""Whether a team or one thread runs the next iterations, and how many of them: by what either has taken so far."""

import math


class TeamSwitch:
    """How many iterations of a kind of training call to run at a stretch, and whether by its team or by one thread.

    Any number of threads, and of stretches, gives the same bits, so both may change at any time. A stretch takes about
    a tenth of a second: between two of them Python hears of signals.

    Members that meet at every step advance only while all of them have a core: one busy neighbour on two cores takes
    two thirds of that. When members wait for each other too often, one thread is tried for a moment, and the faster way
    kept for a while.
    """

    STRETCH = 0.1  # seconds
    TRIAL, HOLD = 0.05, 2.0  # seconds of each of a trial's stretches, and until the next one
    OFTEN = 50.0  # long waits a second

    def __init__(self, has_team: bool = True) -> None:
        self.alone = not has_team
        self._trial = 0  # stretches left: of two in one way the first wakes threads and warms caches, the second counts
        self._next_trial = 0.0 if has_team else math.inf
        self._waited = 0  # stretches in a row with too many long waits
        self._seconds: dict[bool, float] = {}  # of an iteration, by whether it was alone

    @property
    def is_new(self) -> bool:
        """Whether nothing has been run yet, so that it may have to be compiled."""
        return not self._seconds

    def iterations(self, left: int, now: float) -> int:
        """How many of `left` iterations to run next, in the way that `alone` says."""
        if self.alone and not self._trial and now >= self._next_trial:
            self._start_trial()
        seconds = self._seconds.get(self.alone)
        if seconds is None:  # never run yet: it may have to be compiled
            return 1
        if self._trial:
            return max(1, min(left, int(self.TRIAL / seconds)))
        return -(-left // max(1, round(left * seconds / self.STRETCH)))  # stretches of equal length

    def record(self, iterations: int, seconds: float, waits: int, now: float) -> None:
        """Take note of how long that many iterations took, and of the long waits in them."""
        is_first = self.alone not in self._seconds
        self._seconds[self.alone] = max(seconds / iterations, 1e-9)
        if is_first:
            return
        if self._trial:
            self._trial -= 1
            if self._trial == 2:
                self.alone = not self.alone
            elif self._trial == 0:
                self._next_trial = now + self.HOLD
                self.alone = self._seconds[True] < self._seconds[False]
        elif not self.alone:
            self._waited = self._waited + 1 if waits > max(1.0, self.OFTEN * seconds) else 0
            if (self._waited >= 2 or waits > 10 * self.OFTEN * seconds) and now >= self._next_trial:
                self._start_trial()

    def _start_trial(self) -> None:
        """Try the other way; the team is judged anew after one thread was, as what it was before may be long past."""
        self._waited, self._trial = 0, 2 if self.alone else 4
        self.alone = not self.alone
