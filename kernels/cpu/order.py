"""The order in which a layer reads its steps: forward or in reverse, up to the end of each stream."""

from typing import Any, NamedTuple

from kernels.cpu.compiler import inner
from kernels.cpu.values import flat


class Order(NamedTuple):
    """How far and in which direction a layer reads. A model passes None: all streams, all steps, forward."""

    lengths: Any  # (B,) int64, number of steps of each stream; empty if all have T
    held: Any  # (B, H), scratch; empty if lengths is
    is_reverse: bool


@inner
def step_at(n, T, order):
    """The time step that the n-th turn computes."""
    if order is None:
        return n
    return T - 1 - n if order.is_reverse else n


@inner
def row_before(t, T, order):
    """Index in h and c (T+1, B, H) of the state before step t; that after it is t + 1."""
    if order is None:
        return t
    if not order.is_reverse:
        return t
    return 0 if t == T - 1 else t + 2


@inner
def is_over(t, r, order):
    """Whether stream r has no step t."""
    if order is None:
        return False
    return order.lengths.shape[0] > 0 and order.lengths[r] <= t


@inner
def rows_at(t, b0, b1, order):
    """How many of the streams b0:b1 products of step t compute: up to the last that has such a step.

    An even number, or all, so that a product never has a single row of several (matmul.py).
    """
    if order is None:
        return b1 - b0
    if order.lengths.shape[0] == 0:
        return b1 - b0
    rows = 0
    for r in range(b0, b1):
        if order.lengths[r] > t:
            rows = r + 1 - b0
    return min(rows + rows % 2, b1 - b0)


@inner
def copy_part(source, source_at, to, to_at, n):
    """Copy n elements of a flat array to another."""
    from_row, row = source[source_at : source_at + n], to[to_at : to_at + n]
    for j in range(n):
        row[j] = from_row[j]


@inner
def set_aside(dh_next, t, b0, rows, piece, order):
    """Keep the rows of dh_next (B, H), in a piece's units, of streams that are over at step t, in order.held."""
    if order is None:
        return
    H, j0, n = dh_next.shape[1], piece[0], piece[1]
    for r in range(b0, b0 + rows):
        if is_over(t, r, order):
            copy_part(flat(dh_next), r * H + j0, flat(order.held), r * H + j0, n)


@inner
def put_back(dh_next, t, b0, rows, piece, order):
    """Undo what a product has done to the rows that :func:`set_aside` kept."""
    if order is None:
        return
    H, j0, n = dh_next.shape[1], piece[0], piece[1]
    for r in range(b0, b0 + rows):
        if is_over(t, r, order):
            copy_part(flat(order.held), r * H + j0, flat(dh_next), r * H + j0, n)
