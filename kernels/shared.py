"""Exceptions and hooks shared by the package's public functions and its backends. Imports no backend."""

from collections.abc import Callable

#: Functions called with a kernel's name before it is compiled (not when it comes from the cache), to show a message.
compile_listeners: list[Callable[[str], None]] = []


class BackendUnavailable(ImportError):
    """A backend cannot be used here; the message, one line, gives the reason and a remedy."""


class DeviceFailed(RuntimeError):
    """A GPU, its driver or one of its libraries failed; the message, one line, has CUDA's own words and code."""


class WrongType(TypeError, ValueError):
    """An argument has the wrong type: a TypeError, and also a ValueError, so that one ``except`` catches both."""


class NotFinite(ValueError):
    """No character can be sampled because a logit is NaN or inf; the message, one line, names the character."""
