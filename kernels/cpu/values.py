"""What travels together through compiled code, as one value."""

from typing import Any, NamedTuple

import numpy as np

from kernels.cpu.compiler import inner


class Net(NamedTuple):
    """A model's parameters, and where their blocks begin: W_x, W_h and the vectors of each layer, then W_y, b_y."""

    theta: Any  # (N,)
    offsets: Any  # as spec.offsets gives them


class Slots(NamedTuple):
    """What an update changes, and the gradient, (N,) each: parameters and up to two arrays of optimizer memory."""

    theta: Any
    grad: Any
    s0: Any
    s1: Any


class Rule(NamedTuple):
    """How an update is made: the number of the optimizer, and what it needs (optimizers.constants)."""

    optimizer: int
    k: Any


class Weights(NamedTuple):
    """A matrix in one, two or three forms, of which the last that there is is read."""

    flat: Any  # as it lies in theta
    packed: Any  # in the order in which products read it (matmul.pack); of no size where it is not
    pairs: Any  # rounded to bfloat16, two numbers in a word (bfloat16.py); None where it is not


class Matrix(NamedTuple):
    """Rows in a flat array: where the first one begins, and how far it is to the next."""

    flat: Any
    at: int
    row: int


class Block(NamedTuple):
    """Rows k0:k1 and columns n0:n1 of a block of parameters that begins at `at` and has rows of `row` columns."""

    at: int
    row: int
    k0: int
    k1: int
    n0: int
    n1: int


class Extra(NamedTuple):
    """What dropout and an embedding need. Who has neither passes None, and is compiled without any of it."""

    table: Any  # as in spec.Workspace
    dropped: Any  # likewise
    masks: Any  # (n, L, T, B, H) uint8, read; of no size without dropout
    scale: float  # by which kept values are multiplied


class _Alias:
    """An array's memory, described as writeable; keeps the array alive."""

    def __init__(self, array: np.ndarray) -> None:
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
        self._array = array


def readable(array: np.ndarray) -> np.ndarray:
    """An array that is only read, as the one kind of array that entries are compiled for.

    Numba compiles anew for a read-only array. Where one is given, its memory goes to the kernel as an array that says
    it can be written: which of its arguments a kernel writes, checks.ARRAYS says, and those were checked.
    """
    return array if array.flags.writeable else np.asarray(_Alias(array))


def extra_of(table: Any, dropped: Any, masks: Any = None, dropout: float = 0.0) -> Extra | None:
    """What a pass with dropout, masks (n, L, T, B, H), or with an embedding needs; None where there is neither.

    table and dropped are as in Workspace.
    """
    if masks is None and table.size == 0:
        return None
    masks = np.empty((0,) * 5, np.uint8) if masks is None else masks
    return Extra(table, dropped, readable(masks), 1 / (1 - dropout))


@inner
def block(net, k):
    """Block k of the parameters, but for the last."""
    return net.theta[net.offsets[k] : net.offsets[k + 1]]


@inner
def has_embedding(extra):
    """Whether ids are rows of an embedding."""
    return extra is not None and extra.table.size > 0


@inner
def slot(state, k, theta):
    """Array k of the optimizer's memory; where it has none, theta, which that optimizer will not touch as memory."""
    return state[k] if k < state.shape[0] else theta


@inner
def flat(array):
    """An array's elements as an array of one dimension."""
    return array.reshape(array.size)
