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
    """Round a float32 array to the nearest bfloat16 numbers, ties to even; the result stays float32.

    bfloat16 is the upper half of a float32: its exponent and 8 bits of precision, so an element changes by at most
    1/256 of itself.
    """
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)).view(np.float32)
