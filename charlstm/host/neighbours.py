"""Another package that is imported as `kernels`: Hugging Face's of that name, installed over ours or under it."""

from functools import cache
from importlib.util import find_spec
from pathlib import Path

_OURS = b'BACKENDS = ("numpy", "numba", "cupy")'
_WAY = "pip uninstall kernels, then install charlstm again; to have both, give each an environment of its own"


@cache
def foreign() -> str:
    """A line that says which package is imported as `kernels`, and the way out; empty if it is ours."""
    found = find_spec("kernels")
    origin = Path(found.origin) if found and found.origin else None
    if origin and origin.is_file() and _OURS in origin.read_bytes():
        return ""
    if origin is None:
        return "the package kernels, which is part of charlstm, is missing: install charlstm again"
    what = f"Hugging Face's kernels {other}" if (other := _other()) else "another package"
    return f"'import kernels' finds {what} in {origin.parent}, which hides charlstm's: {_WAY}"


def mixture() -> str:
    """A line if Hugging Face's package lies under ours, whose files have replaced some of its own; else empty."""
    other = _other()
    return f"Hugging Face's kernels {other} is installed, too, and broken by charlstm's: {_WAY}" if other else ""


def _other() -> str:
    """The version of the installed distribution `kernels`; ours is called charlstm."""
    from importlib.metadata import PackageNotFoundError, version  # slow to import, and seldom needed

    try:
        return version("kernels")
    except PackageNotFoundError:
        return ""
