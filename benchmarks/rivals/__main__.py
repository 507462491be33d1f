"""Run one rival in its own process: ``python -m benchmarks.rivals NAME WORK --threads N``.

Sets the number of threads before loading anything that reads it, warms up, and prints ``ready {...}``; then, for every
number on standard input, runs as many iterations and prints ``{"seconds": ..., "loss": ...}``. Exits when input ends.
"""

import argparse
import json
import os
import sys
import time

#: Environment variables that OpenBLAS, MKL and OpenMP read when they are loaded.
THREAD_VARIABLES = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("name")
    parser.add_argument("work")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--backend", default="numba", help="ours alone")
    parser.add_argument("--dtype", default="float32", help="ours alone")
    parser.add_argument("--core", type=int, help="hold the process to this core")
    parser.add_argument("--chars", type=int, help="of the text, no more than so many")
    arguments = parser.parse_args()
    for variable in THREAD_VARIABLES:
        os.environ[variable] = str(arguments.threads)
    if arguments.core is not None and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {arguments.core})
    answers = os.fdopen(os.dup(1), "w", buffering=1)
    os.dup2(2, 1)  # so that text printed by libraries does not mix with the answers
    serve(arguments, answers)


def serve(arguments, answers):
    from benchmarks import works  # imported here, because it loads NumPy, which reads the variables
    from benchmarks.rivals import CannotRun, module
    from charlstm.measure.bench import WORKS

    rival, work = module(arguments.name), WORKS[arguments.work]
    options = {"backend": arguments.backend, "dtype": arguments.dtype} if arguments.name == "ours" else {}
    begin = time.perf_counter()
    try:
        run = rival.make(work, works.ids(work)[: arguments.chars], arguments.threads, **options).run
        first = run(1)
    except CannotRun as reason:
        answers.write(f"absent {json.dumps(str(reason))}\n")
        return
    ready = {"first_loss": first, "warm_up_seconds": time.perf_counter() - begin, "versions": versions(rival)}
    answers.write(f"ready {json.dumps(ready)}\n")
    for line in sys.stdin:
        count = int(line)
        begin = time.perf_counter()
        loss = run(count)
        answers.write(json.dumps({"seconds": time.perf_counter() - begin, "loss": loss, **memory()}) + "\n")


def versions(rival):
    from importlib.metadata import version

    others = rival.versions() if hasattr(rival, "versions") else {}
    return {package: version(package) for package in rival.VERSIONS} | others


def memory():
    """Return the peak memory of this process, in bytes."""
    from benchmarks.memory import peak_rss

    return {"peak_rss": peak_rss()}


if __name__ == "__main__":
    main()
