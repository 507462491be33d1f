"""Plans in words: the numbers of iterations that a budget in seconds became, for config.toml and --plans.

A plan is a pair (iteration, total): see charlstm.training.budget.
"""

import re
from itertools import pairwise

from charlstm.errors import UserError

Plans = tuple[tuple[int, int], ...]


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
