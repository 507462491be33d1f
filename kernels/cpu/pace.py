"""Decides, from measured times, how many iterations to run next and by how many threads; no result depends on it."""


class Retreat:
    """Whether a team may read: after one has given up, a single thread reads for a while, longer each time."""

    HOLD, LONGEST_HOLD = 1.0, 16.0  # seconds
    WAITS = 10  #: Long waits after which a team gives up.

    def __init__(self) -> None:
        self._until, self._hold = 0.0, self.HOLD

    def may_try(self, now: float) -> bool:
        """Whether a team may try at the time `now`, in seconds."""
        return now >= self._until

    def record(self, has_given_up: bool, now: float) -> None:
        """Record how a team's pass has ended."""
        self._until = now + self._hold if has_given_up else 0.0
        self._hold = min(2 * self._hold, self.LONGEST_HOLD) if has_given_up else self.HOLD


class TeamSwitch:
    """Chooses the length of each stretch of iterations, and which of several teams, from large to small, runs it.

    Any number of threads and any split into stretches gives the same bits, so both may change at any time. A stretch
    takes about a tenth of a second; Python runs signal handlers between two of them.

    Threads that meet at every step advance only while all of them have a core: one other busy process on two cores
    takes two thirds of that time away, and threads that share a core, or run on a slower one, hold up the others. When
    the threads wait for each other too often, the next smaller team is tried for a moment, and the faster choice is
    kept for a while; then the next larger one is tried again, at ever longer intervals as long as it is slower.

    Parameters
    ----------
    teams : number of teams; the last one is a single thread
    """

    STRETCH = 0.1  # seconds
    TRIAL, HOLD, LONGEST_HOLD = 0.05, 2.0, 16.0  # seconds per stretch of a trial, and until the next trial
    OFTEN = 50.0  # long waits per second that count as too often

    def __init__(self, teams: int = 2) -> None:
        self.choice = 0  #: number of the team that runs next
        self._last = teams - 1
        self._origin = 0  # the choice before a trial
        self._goes_down = False  # whether a trial is of a smaller team
        self._trial = 0  # stretches left of a trial; of each pair the first warms up caches, the second counts
        self._next_smaller = self._next_larger = 0.0  # time of the next trial
        self._hold = self.HOLD
        self._waited = 0  # stretches in a row with too many long waits
        self._seconds: dict[int, float] = {}  # per iteration, by choice

    @property
    def is_new(self) -> bool:
        """Whether nothing has run yet, so that the kernel may still have to be compiled."""
        return not self._seconds

    def iterations(self, left: int, now: float) -> int:
        """Number of the `left` iterations to run next; `choice` tells by which team."""
        if self.choice > 0 and not self._trial and now >= self._next_larger:
            self._try(self.choice - 1)
        seconds = self._seconds.get(self.choice)
        if seconds is None:  # first run: the kernel may have to be compiled
            return 1
        if self._trial:
            return max(1, min(left, int(self.TRIAL / seconds)))
        return -(-left // max(1, round(left * seconds / self.STRETCH)))  # stretches of equal length

    def record(self, iterations: int, seconds: float, waits: int, now: float) -> None:
        """Record the time that a stretch of iterations took, and the number of long waits in it."""
        is_first = self.choice not in self._seconds
        self._seconds[self.choice] = max(seconds / iterations, 1e-9)
        if is_first:
            return
        if self._trial:
            self._trial -= 1
            if self._trial == 2:
                self.choice, self._origin = self._origin, self.choice
            elif self._trial == 0:
                self._decide(now)
        elif self.choice < self._last:
            self._waited = self._waited + 1 if waits > max(1.0, self.OFTEN * seconds) else 0
            if (self._waited >= 2 or waits > 10 * self.OFTEN * seconds) and now >= self._next_smaller:
                self._try(self.choice + 1)

    def _try(self, other: int) -> None:
        """Start to time another choice; after a smaller team, this one is timed again: its old time may be outdated."""
        self._waited, self._goes_down = 0, other > self.choice
        self._trial = 4 if self._goes_down else 2
        self._origin, self.choice = self.choice, other

    def _decide(self, now: float) -> None:
        """Keep the faster of a trial's two teams, of which `choice` is now the larger one; perhaps go on that way."""
        is_smaller_faster = self._seconds[self._origin] < self._seconds[self.choice]
        if is_smaller_faster:
            self.choice = self._origin
        if self._goes_down:
            self._next_smaller = now if is_smaller_faster else now + self.HOLD
            self._next_larger, self._hold = now + self.HOLD, self.HOLD
        else:
            self._hold = min(2 * self._hold, self.LONGEST_HOLD) if is_smaller_faster else self.HOLD
            self._next_larger = now + self._hold if is_smaller_faster else now
            self._next_smaller = now + self.HOLD


class CallSwitch:
    """Whether short calls of one kind go to a team or to a single thread: the faster, by the mean time of a step.

    A team may lose, because its work is short, or because threads of other libraries spin on its cores after each of
    their own operations, as PyTorch's do. So the other choice is tried now and then, at ever longer intervals as long
    as it is slower. Long calls always go to the team.
    """

    SPAN = 0.005  # seconds of calls that are compared
    HOLD, LONGEST_HOLD = 1.0, 16.0  # seconds until the next trial
    LONG = 0.02  # seconds of a call

    def __init__(self) -> None:
        self.has_team = True  #: whether the next call is for the team
        self._warms_up = True  # the first call after a change does not count
        self._steps, self._total = 0, 0.0
        self._seconds: dict[bool, float] = {}  # the latest means of both choices
        self._is_trial = False
        self._next, self._hold = 0.0, self.HOLD

    def record(self, seconds: float, steps: int, now: float) -> None:
        """Record the time that a call of that many time steps took, which ended at the time `now`."""
        if self._warms_up:
            self._warms_up = False
            return
        self._steps, self._total = self._steps + steps, self._total + seconds
        if self._total < self.SPAN:
            return
        self._seconds[self.has_team] = mean = self._total / self._steps
        self._steps, self._total = 0, 0.0
        if self._is_trial:
            is_slower = mean >= self._seconds[not self.has_team]
            self._hold = min(2 * self._hold, self.LONGEST_HOLD) if is_slower else self.HOLD
            self._is_trial, self._next = False, now + self._hold
            if is_slower:
                self._change()
        elif now >= self._next and (seconds < self.LONG or not self.has_team):
            self._is_trial = True
            self._change()

    def _change(self) -> None:
        self.has_team, self._warms_up = not self.has_team, True
