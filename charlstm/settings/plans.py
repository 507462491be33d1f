"""Plans as text: the iteration counts that replaced a budget in seconds, as written in config.toml and --plans.

A plan is a pair (iteration, total); see charlstm.training.budget.
"""

import re
from itertools import pairwise

from charlstm.errors import UserError

Plans = tuple[tuple[int, int], ...]


def parse(words: str) -> Plans:
    """Parse plans such as ``0:12000,600:11850``.

    Raises
    ------
    UserError
        Unless the text is a list of pairs whose iterations start at 0 and never decrease.
    """
    if not re.fullmatch(r"0:\d{1,15}(,\d{1,15}:\d{1,15})*", words):
        raise UserError(f"--plans: expected 0:TOTAL,ITERATION:TOTAL,..., got {words[:60]!r}")
    plans = tuple((int(at), int(total)) for at, _, total in (pair.partition(":") for pair in words.split(",")))
    if any(earlier[0] > later[0] for earlier, later in pairwise(plans)):
        raise UserError(f"--plans: expected iterations that rise, got {words[:60]!r}")
    return plans


def in_words(plans: Plans) -> str:
    """Format plans as text that :func:`parse` reads."""
    return ",".join(f"{at}:{total}" for at, total in plans)
