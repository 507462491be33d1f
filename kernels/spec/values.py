"""Constants and the bfloat16 rounding that all backends share."""

from typing import Any

import numpy as np

#: Decay of the smoothed loss: smoothed = SMOOTHING * smoothed + (1 - SMOOTHING) * loss.
SMOOTHING = 0.999

#: Number of elements whose squares form one partial sum of a norm; fixed, so that any number of threads gives the same
#: bits.
NORM_PANEL = 4096


def norm_panels(length: int) -> int:
    """Number of partial sums in the norm of a flat vector of `length`."""
    return -(-length // NORM_PANEL)


def round_to_bfloat16(array: Any) -> np.ndarray:
    """Round an array to the nearest bfloat16 numbers, ties to even; the result keeps its dtype.

    bfloat16 is the upper half of a float32: its exponent and 8 bits of precision, so an element changes by at most
    1/256 of itself. NaN stays NaN.
    """
    bits = np.array(array, np.float32, order="C", ndmin=1).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    nearest = bits + np.uint32(0x7FFF) + odd
    is_nan = (bits & np.uint32(0x7FFFFFFF)) > np.uint32(0x7F800000)
    return (
        (np.where(is_nan, bits | np.uint32(0x400000), nearest) & np.uint32(0xFFFF0000))
        .view(np.float32)
        .astype(array.dtype)
    )
