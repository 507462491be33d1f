"""Matrix products by cuBLAS, written directly to given buffers.

They run in full precision: TF32, which keeps ten bits of each factor, is never used.
"""

from functools import cache
from typing import Any

import cupy
import numpy as np
from cupy.cuda import cublas, device

from kernels.gpu.launch import Call

_PLAIN, _TURNED = 0, 1  # cublasOperation_t
_DEFAULT_MATH = 0  # cublasMath_t: full precision


@cache
def _numbers(dtype: str) -> tuple[Any, Any]:
    """0 and 1 in host memory, where cuBLAS reads its scalar factors."""
    return np.zeros(1, dtype), np.ones(1, dtype)


def product(a: Any, b: Any, out: Any, *, turn_a: bool = False, turn_b: bool = False, add: bool = False) -> Call:
    """Return a call for ``out = a b``, or with `add` ``out += a b``, of C-contiguous matrices.

    turn_a and turn_b transpose a factor. The call uses the stream that is current when it is made. cuBLAS reads
    matrices by columns, which transposes each of ours, so the call computes ``out' = b' a'``.
    """
    rows, columns = out.shape
    inner = a.shape[0] if turn_a else a.shape[1]
    zero, one = _numbers(str(out.dtype))
    gemm = cublas.sgemm if out.dtype == np.float32 else cublas.dgemm
    kept = (a, b, out)  # keeps the arrays alive: the call uses their addresses

    def call(_: Any = kept) -> None:
        handle = device.get_cublas_handle()
        cublas.setMathMode(handle, _DEFAULT_MATH)
        gemm(
            handle, _TURNED if turn_b else _PLAIN, _TURNED if turn_a else _PLAIN, columns, rows, inner,
            one.ctypes.data, b.data.ptr, b.shape[1], a.data.ptr, a.shape[1],
            (one if add else zero).ctypes.data, out.data.ptr, columns,
        )  # fmt: skip

    return call


def flat(array: Any) -> Any:
    """A view as a matrix: all axes but the last are merged into rows."""
    return array.reshape(-1, array.shape[-1])


def zeros(dims: tuple[int, ...], dtype: Any) -> Any:
    """Zeros on the GPU."""
    return cupy.zeros(dims, dtype)


def empty(dims: tuple[int, ...], dtype: Any) -> Any:
    """An uninitialized array on the GPU."""
    return cupy.empty(dims, dtype)
