"""The arrays of a net: what its training updates, and what speaks. Several nets are joined into one set of arrays."""

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from kernels import spec
from kernels.spec import Shape


class Memory(NamedTuple):
    """The arrays that an update changes, where the backend keeps them: theta (N,), state (S, N), h and c (L, B, H)."""

    theta: Any
    state: Any
    h: Any
    c: Any

    def copy(self) -> "Memory":
        """A copy with its own arrays."""
        return Memory(*(array.copy() for array in self))


class Voice(NamedTuple):
    """A net that speaks: its parameters (N,) and sizes."""

    theta: np.ndarray
    shape: Shape


def joined(memories: Sequence[Memory]) -> Memory:
    """The arrays of several nets, one after the other along the last axis; those of a single net as they are."""
    return (
        memories[0]
        if len(memories) == 1
        else Memory(*(np.concatenate(each, axis=-1) for each in zip(*memories, strict=True)))
    )


def split(memory: Memory, shapes: Sequence[Shape]) -> list[Memory]:
    """The arrays of each net, copied out of those that :func:`joined` made; those of a single net as they are."""
    if len(shapes) == 1:
        return [memory]
    sizes, units = [spec.num_parameters(shape) for shape in shapes], [shape.hidden_size for shape in shapes]
    parts = [
        [_aligned(part) for part in np.split(array, np.cumsum(lengths)[:-1], axis=-1)]
        for array, lengths in zip(memory, (sizes, sizes, units, units), strict=True)
    ]
    return [Memory(*each) for each in zip(*parts, strict=True)]


def _aligned(array: np.ndarray) -> np.ndarray:
    copy = spec.aligned_zeros(array.shape, array.dtype)
    copy[...] = array
    return copy
