"""LSTM, GRU, RNN and optimizer kernels: one contract (:mod:`kernels.spec`), several backends with the same functions.

The numpy and numba backends take NumPy arrays; the cupy backend takes arrays on the GPU. :func:`load_for_host` returns
functions that take NumPy arrays, whichever the backend.

>>> import kernels
>>> "numpy" in kernels.available()
True
>>> ops = kernels.load("numpy")
>>> ops.__name__
'kernels.reference'

Importing this package loads neither Numba nor CuPy; :func:`load` imports only what the requested backend needs.
"""

import os
import sys
from collections.abc import Callable
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any, cast

from kernels.protocol import Ops
from kernels.shared import BackendUnavailable, DeviceFailed, NotFinite, compile_listeners

BACKENDS = ("numpy", "numba", "cupy")

_MODULES = {"numpy": "kernels.reference", "numba": "kernels.cpu", "cupy": "kernels.gpu.ops"}
_FOR_THE_HOST = {**_MODULES, "cupy": "kernels.gpu.host"}
_CACHE = {"numba": "kernels.cpu.compiler"}
_PROCESSOR = {"numba": "kernels.cpu.emit.processor"}
_NEEDS = {"numpy": ("numpy",), "numba": ("numba",), "cupy": ()}


def missing(name: str) -> str | None:
    """Return the reason why backend `name` cannot be used, or None if it can. Imports no backend.

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
    """Whether Numba's compiler is turned off: by numba.config if Numba is loaded, else by the environment variable."""
    config = getattr(sys.modules.get("numba"), "config", None)  # absent, too, while another thread imports Numba
    if config is not None:
        return bool(config.DISABLE_JIT)
    try:
        return int(os.environ.get("NUMBA_DISABLE_JIT", "0")) != 0
    except ValueError:
        return False  # Numba ignores such a value, too


def available() -> tuple[str, ...]:
    """Names of the backends that can be loaded on this machine. Imports none of them."""
    return tuple(name for name in BACKENDS if missing(name) is None)


def fastest() -> str:
    """Name of the fastest backend for NumPy arrays that can be loaded on this machine."""
    return "numba" if missing("numba") is None else "numpy"


def load(name: str) -> Ops:
    """Return the module that has every op of :data:`kernels.spec.OPS` for backend `name`.

    Raises
    ------
    BackendUnavailable
        If the backend needs something that is missing; the message says what to install.
    ValueError
        If `name` is not one of :data:`BACKENDS`.
    """
    return cast(Ops, _documented(_load(name, _MODULES)))


def load_for_host(name: str) -> Ops:
    """Like :func:`load`, but the ops take NumPy arrays; the cupy backend copies them to the GPU and back.

    Arrays that are on the GPU already are passed on without a copy.

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
        module = import_module(modules[name])
        if name == "cupy":
            import_module("kernels.gpu.failures").try_out()
        return module
    except BackendUnavailable:
        raise
    except Exception as error:
        if name == "numpy" or (name == "numba" and not isinstance(error, ImportError)):
            raise  # a fault of ours; what CuPy raises where CUDA does not work may be anything
        raise BackendUnavailable(f"the {name} backend cannot be loaded: {str(error).partition(chr(10))[0]}") from error


def _documented(module: ModuleType) -> ModuleType:
    """Put the reference's docstring, which describes all arguments, before each docstring of a backend's module.

    A first paragraph that only points to the reference is dropped; the rest is kept as what this backend adds.
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
    """Return a NumPy array as backend `name` takes it: a copy on the GPU for cupy, else the array itself."""
    return array if name != "cupy" else _load(name, _FOR_THE_HOST).to_device(array)


def to_host(array: Any) -> Any:
    """Return an array as a NumPy array: a copy if it is on the GPU, else the array itself."""
    return cast(Any, import_module("kernels.gpu.failures")).fetched(array) if hasattr(array, "get") else array


def kernel_cache_dir() -> Path | None:
    """Return the folder that caches compiled CPU kernels between runs, or None if no folder is writable. Loads Numba.

    Raises
    ------
    BackendUnavailable
        As :func:`load`.
    """
    return cast(Path | None, _load("numba", _CACHE).cache_dir())


def clear_kernel_cache() -> tuple[int, int]:
    """Remove every compiled CPU kernel from the cache; return the number of files and of bytes. Loads Numba.

    Raises
    ------
    BackendUnavailable
        As :func:`load`.
    """
    return cast(tuple[int, int], _load("numba", _CACHE).clear_cache())


def gains_by_bfloat16(shape: Any, batch_size: int) -> bool:
    """Return whether CPU kernels train a batch faster in bfloat16 than in float32 on this processor. Loads Numba.

    Its instructions for bfloat16 must do more than those for float32, and the products must be most of the work.

    Raises
    ------
    BackendUnavailable
        As :func:`load`.
    """
    is_large = batch_size >= 4 and shape.hidden_size >= 64
    return is_large and cast(bool, _load("numba", {"numba": "kernels.cpu.emit.pairs"}).IS_FASTER)


def gains_by_gpu(
    shape: Any, seq_length: int, batch_size: int, cores: int, trains_in_bfloat16: Callable[[], bool], *,
    last_only: bool = False, has_dropout: bool = False,
) -> tuple[bool, str]:  # fmt: skip
    """Return whether this machine's GPU is predicted to train a model faster than its processor, and why, in words.

    The answer depends on sizes, kind of GPU and number of cores alone (docs/gpu.md). CuPy is not imported, and CUDA is
    not started if the sizes decide.

    Parameters
    ----------
    shape, seq_length, batch_size, last_only : as for train_steps
    cores : the number that the processor would use
    trains_in_bfloat16 : tells whether the processor would train in bfloat16; asked only if that matters
    has_dropout : whether the host draws dropout masks
    """
    from kernels.gpu import choice

    work = choice.Work(shape, seq_length, batch_size, last_only, has_dropout)
    return choice.gains(work, cores, trains_in_bfloat16)


def has_cupy() -> bool:
    """Return whether CuPy is installed. Does not import it."""
    from kernels.gpu import presence

    return presence.is_installed()


def chosen_gpu() -> tuple[str | None, str]:
    """Return the name of the GPU that :func:`gains_by_gpu` may choose, or None and why there is none, in words."""
    from kernels.gpu import choice

    return choice.device()


def vectors() -> str:
    """Return the width of the vectors of CPU kernels, and the features of the processor that they use. Loads Numba.

    Raises
    ------
    BackendUnavailable
        As :func:`load`.
    """
    return cast(str, _load("numba", _PROCESSOR).in_words())


__version__: str

if not TYPE_CHECKING:  # hidden from type checkers, so that they report a misspelt name

    def __getattr__(name: str) -> str:
        """Look up `__version__` on first use: the lookup takes longer than importing this package."""
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
    "DeviceFailed",
    "NotFinite",
    "Ops",
    "__version__",
    "available",
    "chosen_gpu",
    "clear_kernel_cache",
    "compile_listeners",
    "fastest",
    "gains_by_bfloat16",
    "gains_by_gpu",
    "has_cupy",
    "kernel_cache_dir",
    "load",
    "load_for_host",
    "missing",
    "to_device",
    "to_host",
    "vectors",
]
