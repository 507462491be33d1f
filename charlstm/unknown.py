"""What to do with characters that a model's vocabulary lacks: the words of ``--unknown``."""

import re
from typing import Any

from charlstm.errors import UserError


def checked(unknown: Any, *more: str) -> str:
    """An `unknown` that is one: error, skip, replace:CHAR, or one of `more`.

    Raises
    ------
    UserError
        For any other.
    """
    words = ("error", "skip", *more)
    if unknown not in words and not re.fullmatch("replace:.", str(unknown), re.DOTALL):
        raise UserError(f"--unknown: expected {', '.join(words)} or replace:CHAR, got {unknown!r}")
    return str(unknown)
