"""How the threads of a team split the work of one call, and the barrier at which they wait for each other.

Each thread of a team runs the whole loop on its own share of the work, with barriers in between. The arithmetic of an
element never depends on the share that it belongs to, so any number of threads gives the same bits.

A barrier is one counter in shared memory: an arriving thread adds one and waits until all threads have arrived. A
thread that waits for long yields its core between checks, so that another busy process costs no more than its share.
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
from kernels.spec import CELLS, is_mixed, unit_panels

#: Whether compiled code that can be cached can yield its core, which teams need: POSIX has sched_yield.
CAN_YIELD = os.name == "posix"
_SPINS = 4000

_sched_yield = types.ExternalFunction("sched_yield", types.int32())


class Share(NamedTuple):
    """The work of one thread of a team, streams b0:b1 and pieces q0:q1, and the barrier's counter."""

    thread: int
    threads: int
    b0: int
    b1: int
    q0: int
    q1: int
    pieces: Any  # as in Plan
    counter: Any  # see barrier


class Plan(NamedTuple):
    """How a training call is split among threads."""

    members: Any  # (threads, 4) int64: streams b0, b1 and pieces q0, q1 of each thread
    pieces: Any  # (Q, 4) int64: first hidden unit, number of units; in a row of gates, begin of gate i and distance
    # between gates
    panelled: bool  # whether gates, cells, weights and optimizer state are stored piece by piece


def plan(
    hidden_size: int, batch_size: int, threads: int, cell: str = "lstm", bfloat16: bool = False, embedding_size: int = 0
) -> Plan:
    """Choose how to split the work, and how many of `threads` to use.

    Medium-sized models with small batches are split into panels of hidden units (spec.unit_panels). Otherwise the
    streams are split if each thread gets at least a tile of four; if not, the hidden units, if there are enough. A
    thread with some of the streams gets at least two, because a single row has a different summation order
    (matmul.py). Measurements: docs/performance.md. For cells other than the LSTM, only streams are split.
    """
    H, B, threads = hidden_size, batch_size, threads if CAN_YIELD else 1
    panels = unit_panels(H, B, cell, bfloat16, embedding_size)
    mixed = is_mixed(bfloat16, B, cell, embedding_size)
    if panels > 1:
        n = min(threads, panels)
        cuts = [H // 4 * p // panels * 4 for p in range(panels)] + [H]
        pieces = [(cuts[p], cuts[p + 1] - cuts[p], 0, cuts[p + 1] - cuts[p]) for p in range(panels)]
        members = [(0, B, panels * k // n, panels * (k + 1) // n) for k in range(n)]
    elif CELLS[cell].panels and threads > 1 and 4 * threads > B and H >= 192 and (H % 16 == 0 or not mixed):
        grain = 96 if mixed else 16
        n = min(threads, -(-H // grain))
        cuts = [-(-H // grain) * k // n * grain for k in range(n)] + [H]
        pieces = [(cuts[k], cuts[k + 1] - cuts[k], cuts[k], H) for k in range(n)]
        members = [(0, B, k, k + 1) for k in range(n)]
    else:
        n = max(1, min(threads, B // (2 if H >= 96 else 4)))
        pieces = [(0, H, 0, H)]
        members = [(B // 2 * k // n * 2, B if k == n - 1 else B // 2 * (k + 1) // n * 2, 0, 1) for k in range(n)]
    return Plan(np.array(members, np.int64), np.array(pieces, np.int64), panels > 1)


def teams(hidden_size: int, batch_size: int, threads: int, *kind: Any) -> list[Plan]:
    """Plans for all threads, half of them, and so on down to one; `kind` as in :func:`plan`."""
    plans = [plan(hidden_size, batch_size, threads, *kind)]
    while (members := len(plans[-1].members)) > 1:
        plans.append(plan(hidden_size, batch_size, members // 2, *kind))
    return plans


@cache
def reading_plan(hidden_size: int, batch_size: int, threads: int, cell: str) -> Plan:
    """Choose how to split a pass that changes no parameters; members may have no streams, but a share of all logits.

    Parameters are not rearranged, so units are split without panels.
    """
    H, B, threads = hidden_size, batch_size, threads if CAN_YIELD else 1
    n = min(threads, H // 48)
    if CELLS[cell].panels and n > 1 and 4 * threads > B:
        cuts = [-(-H // 16) * k // n * 16 for k in range(n)] + [H]
        pieces = [(cuts[k], cuts[k + 1] - cuts[k], cuts[k], H) for k in range(n)]
        members = [(0, B, k, k + 1) for k in range(n)]
    else:
        pieces = [(0, H, 0, H)]
        ends = [B // 2 * k // threads * 2 for k in range(threads)] + [B]
        members = [(ends[k], ends[k + 1], 0, 1) for k in range(threads)]
    return Plan(np.array(members, np.int64), np.array(pieces, np.int64), False)


@cache
def whole(hidden_size: int) -> Any:
    """The pieces (1, 4) of a layer that is not split."""
    return np.array([(0, hidden_size, 0, hidden_size)], np.int64)


@inner
def is_apart(piece):
    """Whether a piece's gates, cells and weights are contiguous: it is a panel, or the whole layer."""
    return piece[1] == piece[3]


@inner
def column_ranges(gates, piece):
    """A piece's column ranges in a row of `gates` blocks: their number, their length, their distance."""
    if is_apart(piece):
        return 1, gates * piece[1], 0
    return gates, piece[1], piece[3]


def own_core() -> int | None:
    """Number of the core that this thread runs on (Linux), or None if it is unknown."""
    try:
        with open("/proc/thread-self/stat", "rb") as file:
            return int(file.read().rpartition(b")")[2].split()[36])
    except (OSError, IndexError, ValueError):
        return None


def move_apart(thread: int, first: int | None) -> None:
    """Move this thread, number `thread` of a team, to a core other than the first thread's, without pinning it there.

    A scheduler may start the threads on one core and leave them there for seconds, because they yield to each other;
    the team then takes more than twice as long. The thread's affinity stays as it was. If the system refuses, the
    thread stays where it is: only speed depends on it.
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
    """Add one to the int64 at `address`, atomically; return the old value."""

    def emit(context, builder, signature, arguments):
        counter = builder.inttoptr(arguments[0], ir.IntType(64).as_pointer())
        return builder.atomic_rmw("add", counter, ir.IntType(64)(1), "seq_cst")

    return types.int64(types.uintp), emit


@intrinsic
def _look(typing, address):
    """Load the int64 at `address` atomically; everything written before its last change is then visible."""

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
    """Wait until all threads of the team have arrived, or until the team is to end: then counter[1] is not zero.

    A team ends when a thread fails, or after more than counter[3] long waits, which counter[2] counts; 0: any number.
    counter is int64, (4,) or longer, otherwise zero at first; a single thread does not look at it.
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
            if spins == _SPINS + 1 and _add_one(at + 16) == counter[3] > 0:
                counter[1] = 1
            _give_way()


@inner
def alone(B, pieces, counter):
    """The share of a single thread: all B streams and the only piece."""
    return Share(0, 1, 0, B, 0, 1, pieces, counter)


@inner
def shares_units(share):
    """Whether the threads split the hidden units, not the streams; they then meet at every step."""
    return share.q1 - share.q0 < share.pieces.shape[0]


@inner
def part_of(n, grain, thread, threads):
    """The thread's range of 0..n, split at multiples of `grain`."""
    blocks = (n + grain - 1) // grain
    return min(blocks * thread // threads * grain, n), min(blocks * (thread + 1) // threads * grain, n)


@inner
def rows_of(R, thread, threads):
    """The thread's range of R rows of a product; never a single row of several (see matmul.py)."""
    r0, r1 = part_of(R // 8 * 8, 8, thread, threads)
    return r0, R if thread == threads - 1 else r1
