"""Products of bfloat16 with float32 sums, addition by addition, in the orders that processors use.

A product of two bfloat16 numbers is exact in float32, so an order of additions determines every bit of a sum. Each
addition is rounded once to float32; denormal numbers count as zero. tests/kernel/test_mixed.py compares the products of
kernels/cpu/mixed.py with these, bit by bit.
"""

from collections.abc import Callable

import numpy as np

from kernels.spec import Array, Floats

#: Longest contraction whose sum begins at zero before it is added to the output, in `in_pairs`.
DEPTH = 512


def in_pairs(a: Floats, w: Floats, out: Floats) -> Array:
    """out (R, N) + a (R, K) @ w (K, N) as AVX512_BF16 adds: the odd product of each pair first, then the even one.

    The sum of each DEPTH products begins at zero and is then added to out. Source: Intel 64 and IA-32 Architectures
    Software Developer's Manual, VDPBF16PS.
    """
    for begin in range(0, len(w), DEPTH):
        total = np.zeros_like(out)
        for k in range(begin, min(begin + DEPTH, len(w)), 2):
            for one in (k + 1, k):
                if one < len(w):
                    total = total + a[:, one, None] * w[one]
        out = out + total
    return out


def in_tiles(a: Floats, w: Floats, out: Floats) -> Array:
    """out (R, N) + a (R, K) @ w (K, N) as AMX adds: for each 32 products, the even and the odd ones apart.

    Both sums begin at zero, are added to each other, and their sum to out. Source: the same manual, TDPBF16PS.
    """
    for begin in range(0, len(w), 32):
        sums = np.zeros((2, *out.shape), out.dtype)
        for k in range(begin, min(begin + 32, len(w))):
            sums[k % 2] += a[:, k, None] * w[k]
        out = out + (sums[0] + sums[1])
    return out


#: Orders by name.
ORDERS: dict[str, Callable[[Floats, Floats, Floats], Array]] = {"pairs": in_pairs, "tiles": in_tiles}
