"""What to do with characters that a model's vocabulary lacks: the words of ``--unknown``."""

import re
from typing import Any

from charlstm.errors import UserError


def unknown_in_words(count: int, what: str = "left out") -> str:
    """How many characters a model never saw, and what has become of them; nothing of none."""
    return f"{count:,} {'character' if count == 1 else 'characters'} that the model never saw {what}" if count else ""


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


def named(character: str) -> str:
    """A character as messages name it."""
    is_byte = "\udc80" <= character <= "\udcff"  # PEP 383
    return f"0x{ord(character) - 0xDC00:02x}, a byte that is no UTF-8," if is_byte else repr(character)
