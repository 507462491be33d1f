"""cuBLAS through its C interface, because CuPy's refuses to be recorded into a CUDA graph.

Each thread has a handle for each stream that it uses, with a workspace of its own: cuBLAS then allocates nothing, and
two products at the same time share nothing.
"""

import ctypes
import sys
import threading
from collections.abc import Callable
from functools import cache, partial
from typing import Any

import cupy
import numpy as np
from cupy.cuda import cublas, device

_WORKSPACE = 32 << 20  # bytes, as NVIDIA recommends for its largest GPUs
_DEFAULT_MATH = 0  # cublasMath_t: full precision
_NO_MEMORY = 3  # cublasStatus_t
_FLOAT32 = 0  # cudaDataType_t: CUDA_R_32F
_IN_BFLOAT16 = 75  # cublasComputeType_t: CUBLAS_COMPUTE_32F_FAST_16BF, float32 numbers on the units for bfloat16
_ANY_ALGORITHM = -1  # cublasGemmAlgo_t
_FIRST_WITH_BFLOAT16 = 8  # major compute capability


class CuBLASError(RuntimeError):
    """A call of cuBLAS failed."""


def _check(status: int, function: Any, _: Any) -> None:
    if status == _NO_MEMORY:
        raise MemoryError(f"{function.__name__} found no memory on the GPU")
    if status:
        raise CuBLASError(f"{function.__name__} failed with status {status}")


def load() -> Any:
    """The library that CuPy has loaded."""
    major = cublas.getVersion(device.get_cublas_handle()) // 10000
    return ctypes.CDLL(f"cublas64_{major}.dll" if sys.platform == "win32" else f"libcublas.so.{major}")


@cache
def _library() -> Any:
    library = load()
    for name in ("Create_v2", "SetStream_v2", "SetWorkspace_v2", "SetMathMode", "Sgemm_v2", "Dgemm_v2", "GemmEx"):
        function = getattr(library, f"cublas{name}")
        function.restype, function.errcheck = ctypes.c_int, _check
    return library


class _Handles(threading.local):
    """A thread's handles, each with its workspace, by device and stream."""

    def __init__(self) -> None:
        self.known: dict[tuple[int, int], tuple[Any, Any]] = {}


_handles = _Handles()


def _handle() -> Any:
    """This thread's handle for the current device and stream."""
    stream = cupy.cuda.get_current_stream().ptr
    key = cupy.cuda.runtime.getDevice(), stream
    if key not in _handles.known:
        library, handle, workspace = _library(), ctypes.c_void_p(), cupy.empty((_WORKSPACE,), np.uint8)
        library.cublasCreate_v2(ctypes.byref(handle))
        library.cublasSetStream_v2(handle, ctypes.c_void_p(stream))
        size = ctypes.c_size_t(workspace.nbytes)
        library.cublasSetWorkspace_v2(handle, ctypes.c_void_p(workspace.data.ptr), size)
        library.cublasSetMathMode(handle, ctypes.c_int(_DEFAULT_MATH))
        _handles.known[key] = handle, workspace
    return _handles.known[key][0]


@cache
def _numbers(dtype: str) -> tuple[Any, Any]:
    """Pointers to 0 and 1 in host memory, where cuBLAS reads its scalar factors."""
    real = ctypes.c_float if dtype == "float32" else ctypes.c_double
    return ctypes.pointer(real(0)), ctypes.pointer(real(1))


@cache
def _has_bfloat16(device: int) -> bool:
    return bool(cupy.cuda.runtime.getDeviceProperties(device)["major"] >= _FIRST_WITH_BFLOAT16)


def gemm(
    dtype: Any, turned: tuple[bool, bool], sizes: tuple[int, int, int], a: tuple[Any, int], b: tuple[Any, int],
    out: tuple[Any, int], add: bool, rounded: bool = False,
) -> Callable[[], Any]:  # fmt: skip
    """Return a call for cuBLAS's ``out = a b`` or ``out += a b``, on the stream that is current now.

    Matrices are in cuBLAS's order, by columns: each is an array and its leading dimension. sizes: m, n, k. If the
    factors hold `rounded` numbers, those of bfloat16, the GPU's units for these multiply them, where it has any.
    """
    zero, one = _numbers(str(dtype))
    library = _library()
    function = library.cublasSgemm_v2 if dtype == np.float32 else library.cublasDgemm_v2
    operations = [ctypes.c_int(int(turn)) for turn in turned]  # cublasOperation_t
    (m, n, k), pairs = map(ctypes.c_int, sizes), (a, b, out)
    a_, lda, b_, ldb, c_, ldc = (
        each for array, leading in pairs for each in (ctypes.c_void_p(array.data.ptr), ctypes.c_int(leading))
    )
    before, arguments = one if add else zero, list[Any]()
    if rounded and _has_bfloat16(cupy.cuda.runtime.getDevice()):
        function, real = library.cublasGemmEx, ctypes.c_int(_FLOAT32)
        arguments += [one, a_, real, lda, b_, real, ldb, before, c_, real, ldc]
        arguments += [ctypes.c_int(_IN_BFLOAT16), ctypes.c_int(_ANY_ALGORITHM)]
    else:
        arguments += [one, a_, lda, b_, ldb, before, c_, ldc]
    call = partial(function, _handle(), *operations, m, n, k, *arguments)
    call.keeps = pairs  # type: ignore[attr-defined]  # the call knows only the arrays' addresses
    return call
