"""How much memory a process has had, and what an iteration allocates: ``python -m benchmarks.memory WORK THREADS``."""

import json
import math
import os
import sys
import tracemalloc
from pathlib import Path

import numpy as np

#: Bytes: what several threads need for a call of any length, and one thread, which is tried now and then, does not.
#: An array that each of some hundred iterations leaves behind is more in all.
SMALL_CHANGE = 16 * 1024


def peak_rss():
    """The most memory that this process has had at once, in bytes; None where the system does not tell.

    Linux carries ru_maxrss over from whoever started the process; VmHWM is this program's own.
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
    """Arrays that compiled code has made so far in this process; NUMBA_NRT_STATS must have been set before."""
    from numba.core.runtime import rtsys

    return rtsys.get_allocation_stats().alloc


def of_one_call(run, count):
    """What a call of `run` for `count` iterations allocates, but for the losses that it returns.

    Returns
    -------
    python : bytes that Python and NumPy had at once above what there was before, at most
    compiled : arrays made by compiled code
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
    """How much more a call for twice as many iterations allocates, for each iteration more: bytes, and arrays.

    The least of some calls counts (the kernels cut one in two now and then, to compare one thread with several), and
    less than SMALL_CHANGE as nothing. A short call has its peak before its losses are there, and then a longer one
    seems to need less: that is 0.
    """
    run(1)  # Numba counts from its first compiled call on
    one, two = (np.min([of_one_call(run, n) for _ in range(8)], axis=0) for n in (count, 2 * count))
    more_bytes, more_arrays = (two - one).tolist()
    return (more_bytes / count if more_bytes > SMALL_CHANGE else 0.0), more_arrays / count


class Prepared:
    """Our way through a work, with all that a call reads made beforehand, so that only the kernels allocate."""

    def __init__(self, work, ids, threads, most):
        from charlstm.measure.bench import Ours

        self.ours = Ours(work, ids, threads=threads)
        starts, reset = work.plan(len(ids)).plan(0, most)
        self.arrays = (starts, reset, np.full(most, work.learning_rate))

    def run(self, count):
        return self.ours.train(*(array[:count] for array in self.arrays))


def main():
    os.environ["NUMBA_NRT_STATS"] = "1"  # read when Numba is loaded
    from benchmarks import works
    from charlstm.measure.bench import WORKS
    from kernels.cpu.pace import TeamSwitch

    TeamSwitch.STRETCH = (
        math.inf
    )  # seconds: a call is one stretch, which takes one handle for each array that is passed
    name, threads, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
    work = WORKS[name]
    prepared = Prepared(work, works.ids(work), threads, 2 * count)
    in_bytes, in_arrays = per_iteration(prepared.run, count)
    print(json.dumps({"peak_rss": peak_rss(), "bytes_per_iteration": in_bytes, "arrays_per_iteration": in_arrays}))


if __name__ == "__main__":
    main()
