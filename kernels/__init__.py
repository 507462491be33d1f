"""LSTM, GRU, RNN and optimizer kernels: one contract (:mod:`kernels.spec`), several backends with the same functions.

Those of numpy and numba take NumPy arrays, those of cupy arrays on the device; :func:`load_for_host` gives functions
for NumPy arrays whatever the backend.

>>> import kernels
>>> "numpy" in kernels.available()
True
>>> ops = kernels.load("numpy")
>>> ops.__name__
'kernels.reference'

Importing this package loads neither Numba nor CuPy; :func:`load` does, for the backend it is asked for.
"""

import os
import sys
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any, cast

from kernels.shared import BackendUnavailable, NotFinite, compile_listeners

BACKENDS = ("numpy", "numba", "cupy")

_MODULES = {"numpy": "kernels.reference", "numba": "kernels.cpu", "cupy": "kernels.gpu.ops"}
_CACHE = {"numba": "kernels.cpu.compiler"}
_NEEDS = {"numpy": ("numpy",), "numba": ("numba",), "cupy": ()}


def missing(name: str) -> str | None:
    """Say, without importing anything, why backend `name` cannot be used; None where it can.

    Raises
    ------
    ValueError
        If `name` is not one of :data:`BACKENDS`.
    """
    if name not in BACKENDS:
        raise ValueError(f"backend: expected one of {', '.join(BACKENDS)}, got {name!r}")
    if name == "cupy":
        from kernels.gpu import presence

        reason = presence.problem()
        return None if reason is None else f"the cupy backend {reason}"
    if name == "numba" and _is_compiler_off():
        return "the numba backend needs Numba's compiler, and NUMBA_DISABLE_JIT turns it off: unset that"
    absent = [package for package in _NEEDS[name] if find_spec(package) is None]
    if absent:
        return f"the {name} backend needs {', '.join(absent)}: pip install {' '.join(absent)}"
    return None


def _is_compiler_off() -> bool:
    """Whether Numba is told to let Python run what it should compile: by its settings if it is loaded, or by theirs."""
    numba = sys.modules.get("numba")
    if numba is not None:
        return bool(numba.config.DISABLE_JIT)
    try:
        return int(os.environ.get("NUMBA_DISABLE_JIT", "0")) != 0
    except ValueError:
        return False  # as Numba has it


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
    return _load(name, _MODULES)


def load_for_host(name: str) -> ModuleType:
    """As :func:`load`, for NumPy arrays: those of a device are copied there and back, and pass where they are its own.

    Raises
    ------
    BackendUnavailable, ValueError
        As :func:`load`.
    """
    return _load(name, {**_MODULES, "cupy": "kernels.gpu.host"})


def _load(name: str, modules: dict[str, str]) -> ModuleType:
    reason = missing(name)
    if reason is not None:
        raise BackendUnavailable(reason)
    try:
        return import_module(modules[name])
    except ImportError as error:
        if name == "numpy":
            raise
        raise BackendUnavailable(f"the {name} backend cannot be loaded: {str(error).partition(chr(10))[0]}") from error


def to_device(name: str, array: Any) -> Any:
    """An array (of NumPy) for a backend that keeps it: a copy on its device, or the array itself where it has none."""
    return array if name != "cupy" else load_for_host(name).to_device(array)


def to_host(array: Any) -> Any:
    """A NumPy array as it is, one on a device as a copy."""
    return array.get() if hasattr(array, "get") else array


def kernel_cache_dir() -> Path | None:
    """The folder that keeps compiled CPU kernels between runs; None where nothing can be written. Loads Numba.

    Raises
    ------
    BackendUnavailable
        As :func:`load`.
    """
    return cast(Path | None, _load("numba", _CACHE).cache_dir())


def clear_kernel_cache() -> tuple[int, int]:
    """Remove every compiled CPU kernel; return how many files and bytes that were. Loads Numba.

    Raises
    ------
    BackendUnavailable
        As :func:`load`.
    """
    return cast(tuple[int, int], _load("numba", _CACHE).clear_cache())


__all__ = [
    "BACKENDS",
    "BackendUnavailable",
    "NotFinite",
    "available",
    "clear_kernel_cache",
    "compile_listeners",
    "kernel_cache_dir",
    "load",
    "load_for_host",
    "missing",
    "to_device",
    "to_host",
]
