"""Threads that work on one call together: who does what, and where they wait for each other.

A member is ``(thread, threads)``. Each runs the whole loop on its own share and meets the others at barriers. The
arithmetic of an element never depends on the share it falls into, so any number of threads gives the same bits.

A barrier is one counter in shared memory: arriving adds one, and whoever arrives waits until a whole round is complete.
A member that waits for long gives its core away between looks, so that a busy neighbour costs no more than its share.
"""

import os
from contextlib import suppress
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.compiler import inner
from kernels.spec import CELLS, unit_panels

#: Threads need a way to yield that compiled code can call and the cache can keep: POSIX has one.
CAN_YIELD = os.name == "posix"
_SPINS = 4000

_sched_yield = types.ExternalFunction("sched_yield", types.int32())


class Share(NamedTuple):
    """What a member of a team works on, and where it meets the others: streams b0:b1 and pieces q0:q1."""

    thread: int
    threads: int
    b0: int
    b1: int
    q0: int
    q1: int
    pieces: Any  # as in Plan
    counter: Any  # see barrier


class Plan(NamedTuple):
    """Who works on what in a training call."""

    members: Any  # (members, 4) int64: streams b0, b1 and pieces q0, q1 of each
    pieces: Any  # (Q, 4) int64: first hidden unit, how many, and in a row of gates where gate i begins, and how far it
    # is to the next gate
    panelled: bool  # whether gates, cells, weights and optimizer memory lie piece by piece


def plan(
    hidden_size: int, batch_size: int, threads: int, cell: str = "lstm", bfloat16: bool = False, embedding_size: int = 0
) -> Plan:
    """Choose what is shared out, and among how many of `threads`: the one place that decides.

    Small batches of middling models are cut into panels of hidden units (spec.unit_panels). Otherwise streams are
    shared out, where each member gets a tile of four; where it would get less, hidden units, if there are enough of
    them. A member with streams has at least two: one row has sums of its own (matmul.py). Measured:
    docs/performance.md. Of cells other than the LSTM nothing but streams is shared out.
    """
    H, B, threads = hidden_size, batch_size, threads if CAN_YIELD else 1
    panels = unit_panels(H, B, cell, bfloat16, embedding_size)
    if panels > 1:
        n = min(threads, panels)
        cuts = [H // 4 * p // panels * 4 for p in range(panels)] + [H]
        pieces = [(cuts[p], cuts[p + 1] - cuts[p], 0, cuts[p + 1] - cuts[p]) for p in range(panels)]
        members = [(0, B, panels * k // n, panels * (k + 1) // n) for k in range(n)]
    elif CELLS[cell].panels and threads > 1 and 4 * threads > B and H >= 192:
        n = min(threads, -(-H // 16))
        cuts = [-(-H // 16) * k // n * 16 for k in range(n)] + [H]
        pieces = [(cuts[k], cuts[k + 1] - cuts[k], cuts[k], H) for k in range(n)]
        members = [(0, B, k, k + 1) for k in range(n)]
    else:
        n = max(1, min(threads, B // (2 if H >= 96 else 4)))
        pieces = [(0, H, 0, H)]
        members = [(B // 2 * k // n * 2, B if k == n - 1 else B // 2 * (k + 1) // n * 2, 0, 1) for k in range(n)]
    return Plan(np.array(members, np.int64), np.array(pieces, np.int64), panels > 1)


@cache
def whole(hidden_size: int) -> Any:
    """The pieces (1, 4) of a layer that is not shared."""
    return np.array([(0, hidden_size, 0, hidden_size)], np.int64)


@inner
def is_apart(piece):
    """Whether a piece has its gates, cells and weights to itself: a panel, or all of a layer."""
    return piece[1] == piece[3]


@inner
def column_ranges(gates, piece):
    """The ranges of columns that a piece has in a row of `gates` blocks: how many, of what length, how far apart."""
    if is_apart(piece):
        return 1, gates * piece[1], 0
    return gates, piece[1], piece[3]


def own_core() -> int | None:
    """The core that this thread runs on, where the system tells (Linux)."""
    try:
        with open("/proc/thread-self/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[36])
    except (OSError, IndexError, ValueError):
        return None


def move_apart(thread: int, first: int | None) -> None:
    """Move this thread, the member `thread` of a team, to another core than the first member's, and leave it free.

    A scheduler may start members on one core and see no reason to part them for seconds, since they yield to each
    other: the team then takes more than twice its time. The threads stay as movable as they were. Where the system
    refuses, they stay where they are: nothing but speed depends on it.
    """
    if first is None or not hasattr(os, "sched_setaffinity"):
        return
    with suppress(OSError):
        allowed = os.sched_getaffinity(0)
        others = sorted(allowed - {first})
        if others:
            try:
                os.sched_setaffinity(0, {others[(thread - 1) % len(others)]})
            finally:
                os.sched_setaffinity(0, allowed)


@intrinsic
def _add_one(typing, address):
    """Add one to the int64 at `address`, atomically; return what it was."""

    def emit(context, builder, signature, arguments):
        counter = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", counter, ir.IntType(64)(1), "seq_cst")

    return types.int64(types.uintp), emit


@intrinsic
def _look(typing, address):
    """The int64 at `address`, with all that others wrote before they changed it."""

    def emit(context, builder, signature, arguments):
        counter = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.load_atomic(counter, "seq_cst", 8)

    return types.int64(types.uintp), emit


if CAN_YIELD:

    @inner
    def _give_way():
        _sched_yield()

else:

    @inner
    def _give_way():
        pass


@inner
def barrier(counter, threads):
    """Wait until all members of the team have come here, or one will never come: then counter[1] is not zero.

    counter is (3,) int64 or longer, zero at first; counter[2] counts the waits that were long.
    """
    if threads == 1:
        return
    at = counter.ctypes.data
    ticket = _add_one(at)
    complete = (ticket // threads + 1) * threads
    spins = 0
    while _look(at) < complete and _look(at + 8) == 0:
        spins += 1
        if spins > _SPINS:
            if spins == _SPINS + 1:
                _add_one(at + 16)
            _give_way()


@inner
def alone(B, pieces, counter):
    """The share of a member that works by itself, on B streams and the one piece that there is."""
    return Share(0, 1, 0, B, 0, 1, pieces, counter)


@inner
def shares_units(share):
    """Whether the members of a team share out hidden units, not streams: they meet at every step then."""
    return share.q1 - share.q0 < share.pieces.shape[0]


@inner
def part_of(n, grain, thread, threads):
    """The range of 0..n that a member works on, cut at multiples of `grain`."""
    blocks = (n + grain - 1) // grain
    return min(blocks * thread // threads * grain, n), min(blocks * (thread + 1) // threads * grain, n)
