"""Dropout masks from counter-based random numbers: an iteration's masks depend on seed and iteration alone.

Sixteen random bits decide each value, so the dropout rate is a multiple of 2^-16; :func:`rounded` gives it. An
iteration's bits are a range of Philox's counter, sixteen values per count, starting at the iteration times the number
of counts that one iteration needs. So masks do not depend on how iterations are split into calls, and a resumed run
gets the masks of an uninterrupted one. NumPy promises that the bits of a bit generator never change.
"""

import math

import numpy as np

_LEVELS = 2**16
_BLOCK = 16  # values decided by one count of Philox: 256 bits
_AT_ONCE = 2**17  # values generated together, few enough to stay in the processor's cache


def rounded(dropout: float) -> float:
    """The nearest dropout rate that masks can have, in [0, 1): a multiple of 2^-16."""
    return min(round(dropout * _LEVELS), _LEVELS - 1) / _LEVELS


def masks(seed: int, begin: int, end: int, dims: tuple[int, ...], dropout: float) -> np.ndarray:
    """Masks of iterations begin to end - 1, (end - begin, *dims) uint8: 0 with probability rounded(dropout), else 1."""
    size, threshold = math.prod(dims), np.uint16(rounded(dropout) * _LEVELS)
    blocks, each = -(-size // _BLOCK), max(1, _AT_ONCE // size)
    generator = np.random.Philox(key=seed, counter=begin * blocks)
    kept = np.empty((end - begin, size), bool)
    for n in range(0, len(kept), each):
        part = kept[n : n + each]
        bits = generator.random_raw(len(part) * blocks * 4).astype("<u8", copy=False)
        np.greater_equal(bits.view("<u2").reshape(len(part), -1)[:, :size], threshold, out=part)
    return kept.view(np.uint8).reshape(end - begin, *dims)
