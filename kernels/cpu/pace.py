"""Decides, from measured times, how many iterations to run next and whether the whole team or one thread runs them."""

import math


class TeamSwitch:
    """Chooses the length of each stretch of iterations, and whether its team or a single thread runs it.

    Any number of threads and any split into stretches gives the same bits, so both may change at any time. A stretch
    takes about a tenth of a second; Python runs signal handlers between two of them.

    Threads that meet at every step advance only while all of them have a core: one other busy process on two cores
    takes two thirds of that time away. When the threads wait for each other too often, a single thread is tried for a
    moment, and the faster choice is kept for a while.
    """

    STRETCH = 0.1  # seconds
    TRIAL, HOLD = 0.05, 2.0  # seconds per stretch of a trial, and seconds until the next trial
    OFTEN = 50.0  # long waits per second that count as too often

    def __init__(self, has_team: bool = True) -> None:
        self.alone = not has_team
        self._trial = 0  # stretches left of a trial; of each pair the first warms up caches, the second counts
        self._next_trial = 0.0 if has_team else math.inf
        self._waited = 0  # stretches in a row with too many long waits
        self._seconds: dict[bool, float] = {}  # per iteration, by whether one thread ran it

    @property
    def is_new(self) -> bool:
        """Whether nothing has run yet, so that the kernel may still have to be compiled."""
        return not self._seconds

    def iterations(self, left: int, now: float) -> int:
        """Number of the `left` iterations to run next; `alone` tells whether one thread runs them."""
        if self.alone and not self._trial and now >= self._next_trial:
            self._start_trial()
        seconds = self._seconds.get(self.alone)
        if seconds is None:  # first run: the kernel may have to be compiled
            return 1
        if self._trial:
            return max(1, min(left, int(self.TRIAL / seconds)))
        return -(-left // max(1, round(left * seconds / self.STRETCH)))  # stretches of equal length

    def record(self, iterations: int, seconds: float, waits: int, now: float) -> None:
        """Record the time that a stretch of iterations took, and the number of long waits in it."""
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
        """Start to time the other choice; after one thread, the team is timed again: its old time may be outdated."""
        self._waited, self._trial = 0, 2 if self.alone else 4
        self.alone = not self.alone
