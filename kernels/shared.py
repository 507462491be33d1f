"""What the door of this package and the backends behind it share; it loads nothing."""

from collections.abc import Callable

#: Called with a kernel's name before it is compiled (not when it comes from the cache), for a line that says so.
compile_listeners: list[Callable[[str], None]] = []


class BackendUnavailable(ImportError):
    """A backend cannot be used here; the message is one line that says why and what would help."""


class WrongType(TypeError, ValueError):
    """An argument of the wrong type: a TypeError, and a ValueError for callers that catch those of every argument."""


class NotFinite(ValueError):
    """Nothing can be drawn: a logit is NaN or inf; the message is one line that says for which character."""
