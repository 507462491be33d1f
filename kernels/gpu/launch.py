"""Compiles the CUDA source on first use and launches it on the current stream, for one dtype at a time.

CuPy keeps what it has compiled in a folder of its own. Scalars are passed as NumPy numbers of exactly the kernel's
type: CuPy hands over their bytes, and checks nothing.
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
_MOST_BLOCKS = 1024  # of kernels whose threads take elements by turns
_COOPERATIVE = {"persistent"}  # files with kernels whose blocks wait for each other

#: A kernel with all its arguments, to be called again and again.
Call = Callable[[], Any]


def _span(array: Any) -> tuple[int, int]:
    """The addresses of an array's first byte on the device, and of the one behind its last."""
    return array.data.ptr, array.data.ptr + array.nbytes


def _overlap(one: Any, other: Any) -> bool:
    (a, b), (c, d) = _span(one), _span(other)
    return max(a, c) < min(b, d)


#: Arrays of CuPy.
DEVICE = Family(
    (cupy.ndarray,), "an array on the device", _span, _overlap, False, lambda array: array.copy(),
    lambda array: array.get(), cupy.empty, "cupy.asarray({}) copies it there",
)  # fmt: skip


def source(file: str) -> str:
    """The CUDA C++ of a file of this folder, with what all of them share in front."""
    return (_FOLDER / "common.cu").read_text() + (_FOLDER / f"{file}.cu").read_text()


def options(dtype: Any, defines: Mapping[str, Any] | None = None) -> tuple[str, ...]:
    """The compiler's options for kernels of a dtype, and numbers that are to be known at compile time."""
    numbers = [f"-D{name}={value}" for name, value in (defines or {}).items()]
    return ("--std=c++17", f"-DREAL={_REALS[str(dtype)]}", *numbers)


@cache
def _module(file: str, dtype: str, defines: tuple[tuple[str, Any], ...]) -> Any:
    given = options(dtype, dict(defines))
    return cupy.RawModule(code=source(file), options=given, enable_cooperative_groups=file in _COOPERATIVE)


@cache
def _function(file: str, name: str, dtype: str, defines: tuple[tuple[str, Any], ...]) -> Any:
    return _module(file, dtype, defines).get_function(name)


def function(file: str, name: str, dtype: Any, defines: Mapping[str, Any] | None = None) -> Any:
    """A kernel of a file, compiled for a dtype (and, where it has sizes to be known, for them)."""
    return _function(file, name, str(dtype), tuple((defines or {}).items()))


def launch(
    file: str, name: str, dtype: Any, blocks: int, *arguments: Any, threads: int = _BLOCK, memory: int = 0,
    defines: Mapping[str, Any] | None = None,
) -> Call:  # fmt: skip
    """A launch of that many blocks; it happens when the result is called. Whole numbers among the arguments are int32.

    Those that are int64 or double in the kernel are passed as such. memory: bytes of shared memory; defines: what is to
    be known at compile time.
    """
    fixed = tuple(np.int32(value) if type(value) is int else value for value in arguments)
    return partial(function(file, name, dtype, defines), (blocks,), (threads,), fixed, shared_mem=memory)


def each(
    file: str, name: str, dtype: Any, count: int, *arguments: Any, defines: Mapping[str, Any] | None = None
) -> Call:
    """A launch of a kernel whose threads take `count` elements by turns; nothing for none of them."""
    if count == 0:
        return _nothing
    return launch(file, name, dtype, min(-(-count // _BLOCK), _MOST_BLOCKS), *arguments, defines=defines)


def _nothing() -> None:
    """Do nothing."""


def run(calls: list[Call]) -> None:
    """Make the calls, in their order."""
    for call in calls:
        call()


def most_shared_memory() -> int:
    """Bytes of shared memory that a block may have on the current device."""
    runtime = cupy.cuda.runtime
    attribute = runtime.cudaDevAttrMaxSharedMemoryPerBlockOptin
    return int(runtime.deviceGetAttribute(attribute, runtime.getDevice()))


def on_device(array: Any) -> Any:
    """An array as CuPy's own, without copying: of CuPy, or of whoever has memory on the device and says so.

    What is neither is given back as it is, to be refused by name.
    """
    if isinstance(array, cupy.ndarray):
        return array
    if hasattr(array, "__cuda_array_interface__"):
        return cupy.asarray(array)
    if not isinstance(array, np.ndarray) and hasattr(array, "__dlpack__"):
        return cupy.from_dlpack(array)
    return array
