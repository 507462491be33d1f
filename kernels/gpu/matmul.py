"""Matrix products by cuBLAS, straight into buffers of ours.

In full precision: TF32, which keeps ten bits of each factor, is never used.
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
    """0 and 1 in memory of the host, where cuBLAS reads its factors."""
    return np.zeros(1, dtype), np.ones(1, dtype)


def product(a: Any, b: Any, out: Any, *, turn_a: bool = False, turn_b: bool = False, add: bool = False) -> Call:
    """``out = a b``, or with `add` ``out += a b``, of C-contiguous matrices; turned ones are transposed.

    It happens when the result is called, on the stream that is current then. cuBLAS reads memory by columns, and so
    takes each of our matrices for its transpose: we ask it for ``out' = b' a'``.
    """
    rows, columns = out.shape
    inner = a.shape[0] if turn_a else a.shape[1]
    zero, one = _numbers(str(out.dtype))
    gemm = cublas.sgemm if out.dtype == np.float32 else cublas.dgemm
    kept = (a, b, out)  # whose memory the addresses below are of

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
    """A matrix of the last axis by all others, the same memory."""
    return array.reshape(-1, array.shape[-1])


def zeros(dims: tuple[int, ...], dtype: Any) -> Any:
    """Zeros on the device."""
    return cupy.zeros(dims, dtype)


def empty(dims: tuple[int, ...], dtype: Any) -> Any:
    """Memory on the device, whatever it holds."""
    return cupy.empty(dims, dtype)
