"""Peak memory of a process, and allocations per iteration: ``python -m benchmarks.memory WORK THREADS``."""

import json
import math
import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np

#: Bytes that several threads need for a call of any length and one thread, which is tried now and then, does not.
#: A leak of one array per iteration adds up to more over some hundred iterations.
SMALL_CHANGE = 16 * 1024


def peak_rss():
    """This process's peak memory, in bytes; None if the system does not report it.

    On Linux, ru_maxrss includes the peak of the parent process; VmHWM is this program's own.
    """
    status = Path("/proc/self/status")
    if status.exists():
        for line in status.read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1]) * 1024
    try:
        import resource
    except ImportError:
        return None
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)


def compiled_allocations():
    """Arrays that compiled code has allocated so far in this process; Numba must be loaded with NUMBA_NRT_STATS set."""
    from numba.core.runtime import rtsys

    return rtsys.get_allocation_stats().alloc


def of_one_call(run, count):
    """Allocations of a call of `run` for `count` iterations, without the losses that it returns.

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


def per_iteration(run, count):
    """Allocations per iteration, bytes and arrays, by comparing a call with one of twice as many iterations.

    The minimum of several calls counts (the kernels sometimes cut a call in two, to compare one thread with several),
    and less than SMALL_CHANGE counts as nothing. A short call may peak before its losses are allocated; then the longer
    call seems to need less, which counts as 0.
    """
    run(1)  # Numba counts from its first compiled call on
    one, two = (np.min([of_one_call(run, n) for _ in range(8)], axis=0) for n in (count, 2 * count))
    more_bytes, more_arrays = (two - one).tolist()
    return (more_bytes / count if more_bytes > SMALL_CHANGE else 0.0), more_arrays / count


class Prepared:
    """Our implementation of a work with all inputs made beforehand, so that only the kernels allocate."""

    def __init__(self, work, ids, threads, most):
        from charlstm.measure.bench import Ours

        self.ours = Ours(work, ids, threads=threads)
        starts, reset = work.plan(len(ids)).plan(0, most)
        self.arrays = (starts, reset, np.full(most, work.learning_rate))

    def run(self, count):
        return self.ours.train(*(array[:count] for array in self.arrays))


def main():
    os.environ["NUMBA_NRT_STATS"] = "1"  # Numba reads it on loading
    from benchmarks import works
    from charlstm.measure.bench import WORKS
    from kernels.cpu.pace import TeamSwitch

    TeamSwitch.STRETCH = math.inf  # seconds: one stretch per call, with one handle per array argument
    name, threads, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    work = WORKS[name]
    prepared = Prepared(work, works.ids(work), threads, 2 * count)
    in_bytes, in_arrays = per_iteration(prepared.run, count)
    print(json.dumps({"peak_rss": peak_rss(), "bytes_per_iteration": in_bytes, "arrays_per_iteration": in_arrays}))


if __name__ == "__main__":
    main()
