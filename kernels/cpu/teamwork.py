"""A team at work: the threads that its members run on, and how fast it goes with all of them or with one."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, lru_cache
from threading import Lock
from time import perf_counter
from typing import Any

import numpy as np

from kernels.cpu.team import Pace, Plan, move_apart, own_core


@cache
def _pool(threads: int) -> ThreadPoolExecutor:
    """Threads for a team of `threads`, the caller's own not counted; made when first needed, kept."""
    return ThreadPoolExecutor(threads - 1, "charlstm")


if hasattr(os, "register_at_fork"):  # a forked child has the pool, but not its threads
    os.register_at_fork(after_in_child=_pool.cache_clear)


_one_team = Lock()


def together(member: Callable[[int], int], threads: int, counter: np.ndarray) -> int:
    """Run member(0) here and the others in the pool, one team at a time; return what member(0) returns."""
    if threads == 1:
        return member(0)
    first = own_core()

    def elsewhere(thread: int) -> int:
        move_apart(thread, first)
        return member(thread)

    with _one_team:
        others = []
        try:
            others = [_pool(threads).submit(elsewhere, thread) for thread in range(1, threads)]
            return member(0)
        except BaseException:
            counter[1] = 1  # those who wait for this thread need not: it will not come
            raise
        finally:
            for other in others:
                other.result()


@lru_cache(64)
def known_pace(kind: Any) -> Pace:
    """What is known of the pace of one kind of call."""
    return Pace()


def at_best_pace(
    pace: Pace,
    run: Callable[[int, int, Plan], int],
    is_last: Callable[[int], bool],
    total: int,
    team: Plan,
    single: Plan,
    counter: np.ndarray,
) -> int:
    """Run iterations 0 to total - 1 in stretches, each by the team or by one thread; return how many were run.

    `is_last` tells of the last one of a stretch whether it ends the call, without its update.
    """
    done = 0
    while done < total:
        begun = perf_counter()
        end = done + pace.iterations(total - done, begun)
        reached = done + run(done, end, single if pace.alone else team)
        now = perf_counter()
        if reached < end or is_last(end - 1):
            return reached
        pace.record(end - done, now - begun, int(counter[2]), now)
        done = end
    return done
