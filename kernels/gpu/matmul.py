"""Matrix products by cuBLAS, written directly to given buffers.

They run in full precision: TF32, which keeps ten bits of each factor, is never used. Products of factors that hold
numbers of bfloat16 may run on the units for these, which sum in float32.
"""

from typing import Any

import cupy

from kernels.gpu import cublas
from kernels.gpu.launch import Call


def product(
    a: Any, b: Any, out: Any, *, turn_a: bool = False, turn_b: bool = False, add: bool = False,
    rounded: bool = False,
) -> Call:  # fmt: skip
    """Return a call for ``out = a b``, or with `add` ``out += a b``, of C-contiguous matrices.

    turn_a and turn_b transpose a factor; rounded: both hold numbers of bfloat16, in float32. The
    call uses the stream that is current when it is made. cuBLAS reads matrices by columns, which transposes each of
    ours, so the call computes ``out' = b' a'``.
    """
    rows, columns = out.shape
    inner = a.shape[0] if turn_a else a.shape[1]
    pairs = ((b, b.shape[1]), (a, a.shape[1]), (out, columns))
    return cublas.gemm(out.dtype, (turn_b, turn_a), (columns, rows, inner), *pairs, add, rounded)


def flat(array: Any) -> Any:
    """A view as a matrix: all axes but the last are merged into rows."""
    return array.reshape(-1, array.shape[-1])


def zeros(dims: tuple[int, ...], dtype: Any) -> Any:
    """Zeros on the GPU."""
    return cupy.zeros(dims, dtype)


def empty(dims: tuple[int, ...], dtype: Any) -> Any:
    """An uninitialized array on the GPU."""
    return cupy.empty(dims, dtype)
