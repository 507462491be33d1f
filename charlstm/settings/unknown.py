"""Characters missing from a model's vocabulary: the values of ``--unknown``."""

import re
from typing import Any

from charlstm.errors import UserError


def unknown_in_words(count: int, what: str = "skipped") -> str:
    """Return a phrase such as "3 unknown characters skipped"; empty for a count of zero."""
    return f"{count:,} unknown {'character' if count == 1 else 'characters'} {what}" if count else ""


def checked(unknown: Any, *more: str) -> str:
    """Return `unknown` if it is valid: error, skip, replace:CHAR, or one of `more`.

    Raises
    ------
    UserError
        For any other value.
    """
    words = ("error", "skip", *more)
    if unknown not in words and not re.fullmatch("replace:.", str(unknown), re.DOTALL):
        raise UserError(f"--unknown: expected {', '.join(words)} or replace:CHAR, got {unknown!r}")
    return str(unknown)


def named(character: str) -> str:
    """Return how messages name a character."""
    is_byte = "\udc80" <= character <= "\udcff"  # PEP 383
    return f"0x{ord(character) - 0xDC00:02x}, a byte that is not valid UTF-8," if is_byte else repr(character)
