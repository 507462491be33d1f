"""LSTM, GRU, RNN and optimizer kernels: one contract (:mod:`kernels.spec`), several backends with the same functions.

>>> import kernels
>>> "numpy" in kernels.available()
True
>>> ops = kernels.load("numpy")
>>> ops.__name__
'kernels.numpy_ref'

Importing this package loads neither Numba nor CuPy; :func:`load` does, for the backend it is asked for.
"""

from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType

BACKENDS = ("numpy", "numba", "cupy")

_MODULES = {"numpy": "kernels.numpy_ref", "numba": "kernels.cpu"}
_NEEDS = {"numpy": ("numpy",), "numba": ("numba",)}
_NOT_YET = "is not part of this version; use 'numba' (fast) or 'numpy' (the reference)"

#: Called with a kernel's name before it is compiled (not when it comes from the cache), for a line that says so.
compile_listeners: list[Callable[[str], None]] = []


class BackendUnavailable(ImportError):
    """A backend cannot be used here; the message is one line that says why and what would help."""


def missing(name: str) -> str | None:
    """Say, without importing anything, why backend `name` cannot be used; None where it can.

    Raises
    ------
    ValueError
        If `name` is not one of :data:`BACKENDS`.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {name!r}")
    if name not in _MODULES:
        return f"the {name} backend {_NOT_YET}"
    absent = [package for package in _NEEDS[name] if find_spec(package) is None]
    if absent:
        return f"the {name} backend needs {', '.join(absent)}: pip install {' '.join(absent)}"
    return None


def available() -> tuple[str, ...]:
    """Names of the backends that can be loaded here, found without importing them."""
    return tuple(name for name in BACKENDS if missing(name) is None)


def load(name: str) -> ModuleType:
    """Return the module that implements every op of :data:`kernels.spec.OPS` for backend `name`.

    Raises
    ------
    BackendUnavailable
        If something that the backend needs is missing; the message says what to install.
    ValueError
        If there is no backend of that name.
    """
    reason = missing(name)
    if reason is not None:
        raise BackendUnavailable(reason)
    return import_module(_MODULES[name])


def kernel_cache_dir() -> Path | None:
    """The folder that keeps compiled CPU kernels between runs; None where nothing can be written. Loads Numba."""
    from kernels.cpu import jit

    return jit.cache_dir()


def clear_kernel_cache() -> tuple[int, int]:
    """Remove every compiled CPU kernel; return how many files and bytes that were. Loads Numba."""
    from kernels.cpu import jit

    return jit.clear_cache()


__all__ = [
    "BACKENDS",
    "BackendUnavailable",
    "available",
    "clear_kernel_cache",
    "compile_listeners",
    "kernel_cache_dir",
    "load",
    "missing",
]
