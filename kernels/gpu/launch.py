"""Compiles the CUDA source on first use and launches it on the current stream, for one dtype at a time.

CuPy caches compiled code in its own folder. Scalars must be NumPy numbers of exactly the kernel's type, because CuPy
passes their bytes without any check.
"""

from collections.abc import Callable, Mapping
from functools import cache, partial
from pathlib import Path
from typing import Any

import cupy
import numpy as np

from kernels.spec.arguments import Family

_FOLDER = Path(__file__).parent / "cuda"
_REALS = {"float32": "float", "float64": "double"}
_BLOCK = 256
_MOST_BLOCKS = 1024  # for kernels with a grid-stride loop
_COOPERATIVE = {"persistent"}  # files with kernels whose blocks wait for each other

#: A kernel with all its arguments, to be called any number of times.
Call = Callable[[], Any]


def _span(array: Any) -> tuple[int, int]:
    """Addresses of an array's first byte on the GPU and of the byte after its last."""
    return array.data.ptr, array.data.ptr + array.nbytes


def _overlap(one: Any, other: Any) -> bool:
    (a, b), (c, d) = _span(one), _span(other)
    return max(a, c) < min(b, d)


#: CuPy arrays.
DEVICE = Family(
    (cupy.ndarray,), "an array on the device", _span, _overlap, False, lambda array: array.copy(),
    lambda array: array.get(), cupy.empty, "cupy.asarray({}) copies it there",
)  # fmt: skip


def source(file: str) -> str:
    """The CUDA C++ of a file of cuda/, preceded by common.cu."""
    return (_FOLDER / "common.cu").read_text("utf-8") + (_FOLDER / f"{file}.cu").read_text("utf-8")


def options(dtype: Any, defines: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The compiler's options for kernels of a dtype and for compile-time constants.

    In float32, division and roots may be off by 2 units in the last place, which makes them several times faster.
    """
    numbers = [f"-D{name}={value}" for name, value in (defines or {}).items()]
    return ("--std=c++17", "--prec-div=false", "--prec-sqrt=false", f"-DREAL={_REALS[str(dtype)]}", *numbers)


@cache
def _module(file: str, dtype: str, defines: tuple[tuple[str, Any], ...]) -> Any:
    given = options(dtype, dict(defines))
    return cupy.RawModule(code=source(file), options=given, enable_cooperative_groups=file in _COOPERATIVE)


@cache
def _function(file: str, name: str, dtype: str, defines: tuple[tuple[str, Any], ...]) -> Any:
    return _module(file, dtype, defines).get_function(name)


def function(file: str, name: str, dtype: Any, defines: Mapping[str, Any] | None = None) -> Any:
    """A kernel of a file, compiled for a dtype and for compile-time constants."""
    return _function(file, name, str(dtype), tuple((defines or {}).items()))


def launch(
    file: str, name: str, dtype: Any, blocks: int, *arguments: Any, threads: int = _BLOCK, memory: int = 0,
    defines: Mapping[str, Any] | None = None,
) -> Call:  # fmt: skip
    """Return a call that launches a kernel with that many blocks. Python ints among the arguments become int32.

    Callers pass int64 and double arguments as NumPy numbers. memory: bytes of shared memory; defines: compile-time
    constants.
    """
    fixed = tuple(np.int32(value) if type(value) is int else value for value in arguments)
    return partial(function(file, name, dtype, defines), (blocks,), (threads,), fixed, shared_mem=memory)


def each(
    file: str, name: str, dtype: Any, count: int, *arguments: Any, defines: Mapping[str, Any] | None = None
) -> Call:
    """Return a call that launches a kernel with a grid-stride loop over `count` elements; does nothing for zero."""
    if count == 0:
        return _nothing
    return launch(file, name, dtype, min(-(-count // _BLOCK), _MOST_BLOCKS), *arguments, defines=defines)


def _nothing() -> None:
    """Do nothing."""


def run(calls: list[Call]) -> None:
    """Make the calls, in order."""
    for call in calls:
        call()


def most_shared_memory() -> int:
    """Bytes of shared memory that a block may have on the current GPU."""
    runtime = cupy.cuda.runtime
    attribute = runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin
    return int(runtime.deviceGetAttribute(attribute, runtime.getDevice()))


def on_device(name: str, array: Any) -> Any:
    """Convert an array in GPU memory to a CuPy array without a copy, by ``__cuda_array_interface__`` or DLPack.

    Anything else is returned unchanged, for later checks to refuse.

    Raises
    ------
    ValueError
        ``theta: expected an array on GPU 0, the current one, got one on GPU 1``.
    """
    if not isinstance(array, cupy.ndarray):
        if hasattr(array, "__cuda_array_interface__"):
            array = cupy.asarray(array)
        elif not isinstance(array, np.ndarray) and hasattr(array, "__dlpack__"):
            array = cupy.from_dlpack(array)
        else:
            return array
    own, current = array.data.device_id, cupy.cuda.runtime.getDevice()
    if array.size and own != current:
        raise ValueError(f"{name}: expected an array on GPU {current}, the current one, got one on GPU {own}")
    return array
