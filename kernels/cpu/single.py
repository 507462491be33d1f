"""What the ops of a single layer share: gradients of weights, threads, buffers."""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import cache
from time import perf_counter
from typing import Any

import numpy as np

from kernels.cpu.compiler import inner, thin
from kernels.cpu.layers import add_gradient_ids
from kernels.cpu.matmul import add_outer, add_rows, clear_rows, product_transposed
from kernels.cpu.order import Order
from kernels.cpu.pace import CallSwitch
from kernels.cpu.teamwork import known_pace, together_or_alone
from kernels.cpu.threads import Plan, Share, part_of, reading_plan, rows_of
from kernels.cpu.values import flat, readable
from kernels.spec import CELLS, LAYERS, aligned_zeros


# ---------------------------------------------------------------------------------------------- gradients of weights
@thin
def gradients_of_input(x, W_x, d, dx, dW_x, share):
    """Write the thread's share of dW_x and, for floats x, of dx, given the gradient d, T B rows, of x W_x."""
    N = d.row
    n0, n1 = part_of(N, 48, share.thread, share.threads)
    clear_rows(flat(dW_x), n0, N, dW_x.shape[0], n1 - n0)
    if x.ndim == 2:
        add_gradient_ids(x, d, flat(dW_x), 0, n0, n1)
    else:
        T, B, D = x.shape
        r0, r1 = rows_of(T * B, share.thread, share.threads)
        product_transposed(d.flat, d.at + r0 * N, N, W_x, 0, N, dx, r0 * D, D, r1 - r0, D, N)
        add_outer(x, 0, D, d.flat, d.at + n0, N, dW_x, n0, N, T * B, D, n1 - n0)


@thin
def gradient_of_state(h, d, dW_h, order, share):
    """Write the thread's share of dW_h, given the gradient d, a Matrix of T B rows, of h W_h."""
    T, B, H = h.shape[0] - 1, h.shape[1], h.shape[2]
    N = d.row
    n0, n1 = part_of(N, 48, share.thread, share.threads)
    clear_rows(flat(dW_h), n0, N, H, n1 - n0)
    if order.is_reverse:
        add_outer(h, 2 * B * H, H, d.flat, d.at + n0, N, dW_h, n0, N, (T - 1) * B, H, n1 - n0)
        add_outer(h, 0, H, d.flat, d.at + (T - 1) * B * N + n0, N, dW_h, n0, N, B, H, n1 - n0)
    else:
        add_outer(h, 0, H, d.flat, d.at + n0, N, dW_h, n0, N, T * B, H, n1 - n0)


@inner
def sum_rows(d, rows, out, share):
    """Write the thread's share of out (n,): the sum of `rows` rows of the Matrix d, in their first n columns."""
    n0, n1 = part_of(out.shape[0], 48, share.thread, share.threads)
    out[n0:n1] = 0
    add_rows(d.flat, d.at + n0, d.row, out[n0:n1], rows)


# ---------------------------------------------------------------------------------------------- threads and buffers
@inner
def share_of(members, pieces, counter, thread):
    """The thread's share of a plan."""
    own = members[thread]
    return Share(thread, members.shape[0], own[0], own[1], own[2], own[3], pieces, counter)


#: The barrier's counter of a call that has one thread and never looks at it.
NO_TEAM = np.zeros(4, np.int64)
_FULL = np.empty(0, np.int64)
_WORK = 2**22  # multiply-adds of a call that is worth several threads


@cache
def _nothing_held(dtype: Any) -> Any:
    return np.empty((0, 0), dtype)


def order_of(given: Any, dtype: Any) -> Order:
    """The Order of a checked call (checks.Given)."""
    sizes = given.sizes
    if given.lengths is None:
        return Order(_FULL, _nothing_held(dtype), given.reverse)
    return Order(readable(given.lengths), np.empty((sizes["B"], sizes["H"]), dtype), given.reverse)


def by_threads(op: str, given: Any, run: Callable[..., bool], begin: Callable[[], None] = lambda: None) -> None:
    """Run ``run(members, pieces, counter, thread)`` on the threads of a checked call that has work for several.

    Each thread returns whether its team has not ended; `begin` is called before each try. Of short calls of the same
    op and sizes, those of several threads and those of one are timed; the faster go on.
    """
    sizes, (cell, _, _) = given.sizes, op.partition("_")
    work = sizes["T"] * sizes["B"] * (sizes["D"] + sizes["H"]) * CELLS[cell].gates * sizes["H"]
    team, single = (reading_plan(sizes["H"], sizes["B"], n, cell) for n in (given.threads if work >= _WORK else 1, 1))
    counter = np.zeros(4, np.int64)

    def member(who: Plan, thread: int) -> bool:
        return bool(run(who.members, who.pieces, counter, thread))

    if len(team.members) == 1:
        return together_or_alone(member, team, single, counter, begin)
    kind = (op, len(team.members), *(size for letter, size in sizes.items() if letter != "T"))
    with known_pace(kind, CallSwitch) as pace:
        begun = perf_counter()
        together_or_alone(member, team if pace.has_team else single, single, counter, begin)
        now = perf_counter()
        pace.record(now - begun, sizes["T"], now)


def new_outputs(cell: str, sizes: dict[str, int], dtype: Any) -> tuple[np.ndarray, ...]:
    """Allocate the outputs of a forward op: h, and c and gates if the cell has them."""
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    row, states = LAYERS[cell].row, [aligned_zeros((T + 1, B, H), dtype) for _ in LAYERS[cell].states]
    dims = (T, B, row.gates * H) if row.kept == 1 else (row.kept, T, B, row.gates * H)
    return (*states, aligned_zeros(dims, dtype)) if row.kept else tuple(states)


def new_gradients(cell: str, sizes: dict[str, int], x: Any, dtype: Any) -> Any:
    """Allocate the gradients of a backward op; dx is None for ids."""
    layer, H = LAYERS[cell], sizes["H"]
    N = layer.row.gates * H
    states = (np.empty((sizes["B"], H), dtype) for _ in layer.states)
    vectors = (np.empty(vector.width * H, dtype) for vector in layer.row.vectors.values())
    weights = (np.empty((sizes["D"], N), dtype), np.empty((H, N), dtype))
    return layer.grads(None if x.ndim == 2 else np.empty_like(x), *states, *weights, *vectors)


def new_dz(cell: str, sizes: dict[str, int], dtype: Any) -> np.ndarray:
    """Allocate the buffer dz of a backward op."""
    row = LAYERS[cell].row
    dims = (sizes["T"], sizes["B"], row.gates * sizes["H"])
    return aligned_zeros(dims if row.planes == 1 else (row.planes, *dims), dtype)


def new_states(cell: str, h: Any) -> tuple[np.ndarray, ...]:
    """Allocate the outputs of a step op for a state h (B, H): the states and, if the cell has them, gates."""
    made = new_outputs(cell, {"T": 1, "B": h.shape[0], "H": h.shape[1]}, h.dtype)
    n = len(LAYERS[cell].states)
    return *(each[1] for each in made[:n]), *(each[..., 0, :, :] for each in made[n:])


def readable_cache(cache: Any) -> Any:
    """A cache of arrays that kernels can read, without the order of its steps."""
    *arrays, _, _ = cache
    return type(cache)(*map(readable, arrays))


def carried(last: tuple[Any, ...], out: Any, given: Any) -> Callable[[], None]:
    """A function that copies the gradients of the last states to the buffers of dh0 and dc0, where an op reads them."""
    if given.threads > 1:  # a buffer may be the gradient itself, which a team that gives up has changed
        last = tuple(None if each is None else each.copy() for each in last)

    def copy() -> None:
        for each, buffer in zip(last, out[1:], strict=False):
            buffer[...] = 0 if each is None else each

    return copy


_rooms = threading.local()


@contextmanager
def room_to_pack(sizes: dict[str, int], dtype: Any) -> Iterator[Any]:
    """Memory for a packed recurrent matrix of an LSTM, kept for the thread's next call; empty if packing does not pay.

    A call that a signal handler makes meanwhile gets its own.
    """
    H = sizes["H"]
    if not (sizes["B"] >= 8 and H >= 64 and sizes["T"] * sizes["B"] >= 64):
        yield np.empty(0, dtype)
        return
    size, name = 4 * H * (H + 16), np.dtype(dtype).name
    room = _rooms.__dict__.pop(name, None)
    if room is None or room.size < size:
        room = aligned_zeros(size, dtype)
    try:
        yield room[:size]
    finally:
        setattr(_rooms, name, room)
