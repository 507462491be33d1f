"""Constants and roundings that all backends share."""

from typing import Any

import numpy as np

#: How much of the smoothed loss stays with each new loss; the rest is that loss.
SMOOTHING = 0.999

#: Elements of a flat vector whose squares are added up together when a norm is taken: a fixed shape for any threads.
NORM_PANEL = 4096


def norm_panels(length: int) -> int:
    """Number of panels in a flat vector of `length`."""
    return -(-length // NORM_PANEL)


def round_to_bfloat16(array: Any) -> np.ndarray:
    """A float32 array rounded to the numbers that bfloat16 has, to the nearest, ties to even; it stays float32.

    bfloat16 is the upper half of a float32: its exponent and 8 bits of precision, so an element moves by at most 1/256
    of itself.
    """
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)).view(np.float32)
