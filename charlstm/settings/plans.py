"""When training ends: a number of iterations, and how a budget in seconds becomes one, again and again.

A plan is a pair (iteration, total): from that iteration on, training is to end after `total` iterations, and schedules
that lead to the end follow that. A budget in seconds is planned at first, and anew at MOMENTS. Plans are all by which
the clock gets at the arithmetic, so they are written down: who has them has the same bits.
"""

import re
from itertools import pairwise

from charlstm.errors import UserError

Plans = tuple[tuple[int, int], ...]

#: When a budget in seconds is planned anew, as parts of it: not at tenths, where a run is measured.
MOMENTS = (0.05, 0.12, 0.25, 0.45, 0.65, 0.85, 0.95, 0.98)
TOLERANCE = 0.01  # how much longer, as a part of the budget, the last plan may take; as much may be left over, twice


def parse(words: str) -> Plans:
    """The plans that ``0:12000,600:11850`` stands for.

    Raises
    ------
    UserError
        For anything but pairs in order whose first one is of iteration 0.
    """
    if not re.fullmatch(r"0:\d{1,15}(,\d{1,15}:\d{1,15})*", words):
        raise UserError(f"--plans: expected 0:TOTAL,ITERATION:TOTAL,..., got {words[:60]!r}")
    plans = tuple((int(at), int(total)) for at, _, total in (pair.partition(":") for pair in words.split(",")))
    if any(earlier[0] > later[0] for earlier, later in pairwise(plans)):
        raise UserError(f"--plans: expected iterations that rise, got {words[:60]!r}")
    return plans


def in_words(plans: Plans) -> str:
    """What :func:`parse` reads."""
    return ",".join(f"{at}:{total}" for at, total in plans)


def total_at(plans: Plans, iteration: int) -> int:
    """The total that is planned when so many iterations have been made."""
    return [total for at, total in plans if at <= iteration][-1]


def next_change(plans: Plans, iteration: int) -> int | None:
    """The first iteration after this one at which another plan begins, if any."""
    return next((at for at, _ in plans if at > iteration), None)


def is_due(budget: float, planned: float, now: float, has_ended: bool) -> bool:
    """Whether a budget is to be planned anew.

    Parameters
    ----------
    budget : seconds of training, in all
    planned : of those, how many had been taken when it was planned last
    now : how many have been taken
    has_ended : whether the iterations planned have been made
    """
    if has_ended:
        return now < (1 - 2 * TOLERANCE) * budget
    return now >= (1 + TOLERANCE) * budget or any(planned < part * budget <= now for part in MOMENTS)
