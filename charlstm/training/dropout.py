"""Masks for dropout, from counter-based random numbers: those of an iteration follow from seed and iteration alone.

Sixteen random bits decide on each value, so a rate is a multiple of 2^-16; :func:`rounded` says which. An iteration's
bits are a range of Philox's counter, sixteen values to a count, which begins at iteration times the counts that one
iteration takes. So masks do not depend on how iterations are split into calls, and a run that goes on has the masks
that it would have had. NumPy promises that the bits of a bit generator never change.
"""

import math

import numpy as np

_LEVELS = 2**16
_BLOCK = 16  # values that a count of Philox decides on: 256 bits
_AT_ONCE = 2**17  # values whose bits are made together and stay in the cache


def rounded(dropout: float) -> float:
    """The nearest rate that masks can have, in [0, 1): a multiple of 2^-16."""
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
