"""Named tuples of arguments that compiled functions pass on together."""

from typing import Any, NamedTuple

import numpy as np

from kernels.cpu.compiler import inner


class Net(NamedTuple):
    """A model's parameters and the offsets of their blocks: W_x, W_h and the vectors of each layer, then W_y, b_y."""

    theta: Any  # (N,)
    offsets: Any  # from spec.offsets


class Slots(NamedTuple):
    """The arrays of an update, (N,) each: parameters, gradient, and up to two arrays of optimizer state."""

    theta: Any
    grad: Any
    s0: Any
    s1: Any


class Rule(NamedTuple):
    """The number of an optimizer, and its constants for one update (optimizers.constants)."""

    optimizer: int
    k: Any


class Weights(NamedTuple):
    """A matrix in up to four forms; products read the last one that exists."""

    flat: Any  # its elements in theta
    packed: Any  # copy in the order in which products read it (matmul.pack), or empty
    pairs: Any  # copy rounded to bfloat16, two numbers in a word (bfloat16.py), or None
    rounded: Any  # copy rounded to bfloat16, and the rounded matrix that it is multiplied by (mixed.Rounded), or None


class Matrix(NamedTuple):
    """Rows of a flat array: index of the first element, and row stride."""

    flat: Any
    at: int
    row: int


class Block(NamedTuple):
    """Rows k0:k1 and columns n0:n1 of a block of parameters that begins at `at` and has `row` columns."""

    at: int
    row: int
    k0: int
    k1: int
    n0: int
    n1: int


class Extra(NamedTuple):
    """Arrays for dropout and an embedding. A model with neither passes None, and is compiled without that code."""

    table: Any  # this and the next three as in spec.Workspace
    embedded: Any
    places: Any
    dropped: Any
    masks: Any  # (n, L, T, B, H) uint8, read; empty without dropout
    scale: float  # factor of the values that are kept


class _Alias:
    """An array's memory, declared writeable; keeps the array alive."""

    def __init__(self, array: np.ndarray) -> None:
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
        self._array = array


def readable(array: np.ndarray) -> np.ndarray:
    """Return an array that kernels only read, as a writeable view if it is read-only.

    Numba would compile a kernel again for a read-only array. The view is safe, because checks.ARRAYS states which
    arguments a kernel writes, and the checks have refused those that are read-only.
    """
    return array if array.flags.writeable else np.asarray(_Alias(array))


def extra_of(ws: Any, masks: Any = None, dropout: float = 0.0) -> Extra | None:
    """The Extra of a pass with dropout, with masks (n, L, T, B, H), or with an embedding; None with neither.

    ws is a Workspace.
    """
    if masks is None and ws.table.size == 0:
        return None
    masks = np.empty((0,) * 5, np.uint8) if masks is None else masks
    return Extra(ws.table, ws.embedded, ws.places, ws.dropped, readable(masks), 1 / (1 - dropout))


@inner
def block(net, k):
    """Block k of the parameters, for any block except the last."""
    return net.theta[net.offsets[k] : net.offsets[k + 1]]


@inner
def has_embedding(extra):
    """Whether the model has an embedding."""
    return extra is not None and extra.table.size > 0


@inner
def slot(state, k, theta):
    """Array k of the optimizer state; theta if there is no such array, as a placeholder that is never accessed."""
    return state[k] if k < state.shape[0] else theta


@inner
def flat(array):
    """A one-dimensional view of an array."""
    return array.reshape(array.size)
