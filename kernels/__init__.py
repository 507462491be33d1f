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
from typing import TYPE_CHECKING, Any, cast

from kernels.protocol import Ops
from kernels.shared import BackendUnavailable, NotFinite, compile_listeners

BACKENDS = ("numpy", "numba", "cupy")

_MODULES = {"numpy": "kernels.reference", "numba": "kernels.cpu", "cupy": "kernels.gpu.ops"}
_FOR_THE_HOST = {**_MODULES, "cupy": "kernels.gpu.host"}
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


def load(name: str) -> Ops:
    """Return the module that has every op of :data:`kernels.spec.OPS` for backend `name`.

    Raises
    ------
    BackendUnavailable
        If something that the backend needs is missing; the message says what to install.
    ValueError
        If there is no backend of that name.
    """
    return cast(Ops, _documented(_load(name, _MODULES)))


def load_for_host(name: str) -> Ops:
    """As :func:`load`, for NumPy arrays: those of a device are copied there and back, and pass where they are its own.

    Raises
    ------
    BackendUnavailable, ValueError
        As :func:`load`.
    """
    return cast(Ops, _documented(_load(name, _FOR_THE_HOST)))


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


def _documented(module: ModuleType) -> ModuleType:
    """The module of a backend, each of its docstrings preceded by the reference's, which has all the arguments.

    A first paragraph that points to the reference goes; what stands below it is what this backend adds.
    """
    from inspect import cleandoc

    reference = import_module(_MODULES["numpy"])
    for name in module.__all__:
        op, whole = getattr(module, name), cleandoc(getattr(reference, name).__doc__ or "")
        own = cleandoc(op.__doc__ or "")
        if whole and not own.startswith(whole):
            first, _, rest = own.partition("\n\n")
            added = rest if "kernels.reference." in first else own
            op.__doc__ = f"{whole}\n\nOn this backend\n---------------\n{added}" if added else whole
    return module


def to_device(name: str, array: Any) -> Any:
    """An array (of NumPy) for a backend that keeps it: a copy on its device, or the array itself where it has none."""
    return array if name != "cupy" else _load(name, _FOR_THE_HOST).to_device(array)


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


__version__: str

if not TYPE_CHECKING:  # who checks types should hear of a misspelt name

    def __getattr__(name: str) -> str:
        """The version, looked up when it is first asked for: that takes longer than importing this package."""
        if name != "__version__":
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        from importlib.metadata import PackageNotFoundError, version

        try:
            return version("charlstm")
        except PackageNotFoundError:  # a source tree that is not installed
            return "0+unknown"


__all__ = [
    "BACKENDS",
    "BackendUnavailable",
    "NotFinite",
    "Ops",
    "__version__",
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
