"""Measures peak memory and allocations per iteration: ``python -m benchmarks.memory WORK THREADS COUNT``."""

import json
import math
import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np

#: Bytes that a call on several threads needs, whatever its length; the kernels now and then try one thread, which does
#: not need them. A leak of one array per iteration exceeds this after some hundred iterations.
SMALL_CHANGE = 16 * 1024


def peak_rss():
    """Return the peak memory of this process in bytes, or None if the system does not report it.

    On Linux, ru_maxrss includes the peak of the parent process; VmHWM is this program's own.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text("utf-8").splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compiled_allocations():
    """Return the arrays that compiled code has allocated so far; NUMBA_NRT_STATS must be set before Numba is loaded."""
    from numba.core.runtime import rtsys

    return rtsys.get_allocation_stats().alloc


def of_one_call(run, count):
    """Measure the allocations of `run` for `count` iterations, without the losses that it returns.

    Returns
    -------
    python : peak bytes of Python and NumPy above the level before the call
    compiled : arrays allocated by compiled code
    """
    before = compiled_allocations()
    tracemalloc.start()
    try:
        losses = run(count)
        peak = tracemalloc.get_traced_memory()[1] - losses.nbytes
    finally:
        tracemalloc.stop()
    return peak, compiled_allocations() - before


def per_iteration(run, count, tries=3):
    """Return bytes and arrays allocated per iteration: the least of a few tries, and never less than 0.

    Each try compares a call with one of twice as many iterations, and stops the tries if it finds no allocation. It
    takes the least of several calls, because the kernels sometimes split a call to compare one thread with several, and
    counts less than SMALL_CHANGE as 0. A short call may peak before it allocates its losses, or be split more often;
    then the longer call seems to need less, which also counts as 0.
    """
    run(1)  # Numba starts counting at its first compiled call
    least = (math.inf, math.inf)
    for _ in range(tries):
        one, two = (np.min([of_one_call(run, n) for _ in range(8)], axis=0) for n in (count, 2 * count))
        more_bytes, more_arrays = (two - one).tolist()
        found = (more_bytes / count if more_bytes > SMALL_CHANGE else 0.0), max(0.0, more_arrays / count)
        least = tuple(map(min, least, found))
        if not any(least):
            break
    return least


class Prepared:
    """Our implementation of a work, with all inputs prepared, so that only the kernels allocate."""

    def __init__(self, work, ids, threads, most):
        from charlstm.measure.bench import Ours

        self.ours = Ours(work, ids, threads=threads)
        starts, reset = work.plan(len(ids)).plan(0, most)
        self.arrays = (starts, reset, np.full(most, work.learning_rate))

    def run(self, count):
        return self.ours.train(*(array[:count] for array in self.arrays))


def main():
    os.environ["NUMBA_NRT_STATS"] = "1"  # Numba reads this variable when it is loaded
    from benchmarks import works
    from charlstm.measure.bench import WORKS
    from kernels.cpu.pace import TeamSwitch

    TeamSwitch.STRETCH = math.inf  # in seconds: each call is one stretch, so it allocates one handle per array argument
    name, threads, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    work = WORKS[name]
    prepared = Prepared(work, works.ids(work), threads, 2 * count)
    in_bytes, in_arrays = per_iteration(prepared.run, count)
    print(json.dumps({"peak_rss": peak_rss(), "bytes_per_iteration": in_bytes, "arrays_per_iteration": in_arrays}))


if __name__ == "__main__":
    main()
