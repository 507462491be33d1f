"""Threads that work on one call together: who does what, and where they wait for each other.

A member is ``(thread, threads)``. Each runs the whole loop on its own share and meets the others at barriers. The
arithmetic of an element never depends on the share it falls into, so any number of threads gives the same bits.

A barrier is one counter in shared memory: arriving adds one, and whoever arrives waits until a whole round is complete.
A member that waits for long gives its core away between looks, so that a busy neighbour costs no more than its share.
"""

import os

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.jit import inner

#: Threads need a way to yield that compiled code can call and the cache can keep: POSIX has one.
CAN_YIELD = os.name == "posix"
_SPINS = 4000

_sched_yield = types.ExternalFunction("sched_yield", types.int32())


def team_size(hidden_size: int, batch_size: int, threads: int) -> int:
    """How many of `threads` a training call gains from.

    Streams are shared out, by fours, where there are enough. Where there are not, members share the hidden units and
    meet at every step: that pays from about 224 units on (measured on two cores, batch size 1: 0.73 times the speed of
    one thread with 100 units, 0.99 with 192, 1.23 with 256, 1.89 with 512).
    """
    if not CAN_YIELD:
        return 1
    if batch_size >= 8:
        return min(threads, batch_size // 4)
    return min(threads, -(-hidden_size // 16)) if hidden_size >= 224 else 1


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
def meet(counter, threads):
    """Wait until all members of the team have come here, or one will never come: then counter[1] is not zero.

    counter is (2,) int64 or longer, zero at first.
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
            _give_way()


@inner
def share(n, grain, thread, threads):
    """The range of 0..n that a member works on, cut at multiples of `grain`."""
    blocks = (n + grain - 1) // grain
    return min(blocks * thread // threads * grain, n), min(blocks * (thread + 1) // threads * grain, n)
