"""Which recurrent weights an iteration leaves out, from counter-based random numbers.

Weight drop (DropConnect on the recurrent matrices: Wan et al. 2013; Merity, Keskar and Socher 2017) sets some elements
of each W_h to zero during an iteration, the same in all of its time steps, and divides the others by 1 - rate. Whether
an element is left out depends on the seed, the iteration's number and the element's place in the flat vector alone. So
any split into calls or threads gives the same bits, and no masks are stored.

The hash is two rounds of Chris Wellons' `lowbias32 <https://nullprogram.com/blog/2018/07/31/>`_, each with a key of the
iteration; the keys are outputs of splitmix64 (Steele, Lea and Flood 2014).
"""

from typing import Any, NamedTuple

import numpy as np

from kernels.spec.parameters import Shape, blocks, num_parameters

_LEVELS = 2**32


class Dropping(NamedTuple):
    """What decides which weights are left out: `keys` (n, 2) uint32, two for each of n iterations."""

    keys: Any
    threshold: int  # an element whose hash is below this is left out
    scale: float  # factor of the others


def dropping(rate: float, seed: int, step: int, iterations: int) -> Dropping:
    """The keys of iterations step, step + 1, ..., and the threshold and scale that belong to a rate in [0, 1)."""
    number = np.arange(iterations, dtype=np.uint64) + np.uint64(step)
    z = number * np.uint64(0x9E3779B97F4A7C15) + np.uint64(seed * 0xD1B54A32D192ED03 % 2**64)
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    z ^= z >> np.uint64(31)
    keys = np.stack([z & np.uint64(_LEVELS - 1), z >> np.uint64(32)], axis=1).astype(np.uint32)
    return Dropping(keys, min(round(rate * _LEVELS), _LEVELS - 1), 1 / (1 - rate))


def factors(shape: Shape, dtype: Any, rate: float, seed: int, step: int) -> np.ndarray:
    """What each parameter is multiplied by in iteration `step`, (N,): 0 or 1 / (1 - rate) in each W_h, elsewhere 1."""
    keys, threshold, scale = dropping(rate, seed, step, 1)
    out = np.ones(num_parameters(shape), dtype)
    for name, begin, dims in blocks(shape):
        if name.startswith("W_h"):
            place = np.arange(begin, begin + dims[0] * dims[1], dtype=np.uint32)
            out[begin : begin + len(place)] = np.where(_hash(place, *keys[0]) < threshold, 0, scale)
    return out


def _hash(place: np.ndarray, first: Any, second: Any) -> np.ndarray:
    """The hash of each element's place, uint32."""
    return _round(_round(place + first) ^ second)


def _round(x: np.ndarray) -> np.ndarray:
    x = (x ^ (x >> np.uint32(16))) * np.uint32(0x21F0AAAD)
    x = (x ^ (x >> np.uint32(15))) * np.uint32(0xD35A2D97)
    return x ^ (x >> np.uint32(15))
