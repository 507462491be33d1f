"""Runs each contestant in its own process and lets them take turns; the parent of ``python -m benchmarks.rivals``.

Idle processes wait for a line of input and use no core. OMP_WAIT_POLICY is not set: PASSIVE would halve PyTorch's speed
on two threads, and by default its threads sleep a few milliseconds after their last work anyway.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from benchmarks import rivals
from charlstm.host.machine import usable_cores
from charlstm.measure.bench import load_average

ROOT = Path(__file__).parents[1]
#: Use tiny counts and few works, to test that the benchmarks run, not how fast they are.
QUICK = os.environ.get("CHARLSTM_BENCH_QUICK") == "1"
ROUNDS = 1 if QUICK else 7
ROUND_SECONDS = 0.0 if QUICK else 0.4


@dataclass(frozen=True)
class Contestant:
    """A rival, or our implementation, with a number of threads; a single thread is pinned to one core."""

    name: str
    threads: int = 1
    backend: str = "numba"
    dtype: str = "float32"

    @property
    def core(self):
        """Return the core to pin a single thread to; None for several threads or where pinning is impossible."""
        if self.threads > 1 or not hasattr(os, "sched_getaffinity"):
            return None
        return max(os.sched_getaffinity(0))


def teams():
    """Return the numbers of threads to try: powers of two, and all cores."""
    cores = 1 if QUICK else usable_cores()
    return sorted({1, *(2**k for k in range(1, 8) if 2**k < cores), cores})


def field(work):
    """Return the contestants that can run this work here, ours on one thread first, and the others' reasons by name."""
    ours = [Contestant("ours", threads) for threads in (teams() if work.optimizer else [1])]
    if work.name in ("seed", "sample") and not QUICK:
        ours += [Contestant("ours", 1, "numba", "float64"), Contestant("ours", 1, "numpy", "float32")]
        ours += [Contestant("ours", 1, "numba", "bfloat16")] if work.optimizer else []
    absent, others = {}, []
    for name in rivals.NAMES[1:]:
        if work.name not in rivals.module(name).WORKS or (QUICK and name == "pytorch_usual"):
            continue
        reason = rivals.missing(name)
        if reason:
            absent[name] = reason
        else:
            sweep = teams() if name in ("pytorch", "jax") and work.optimizer else [1]
            others += [Contestant(name, threads) for threads in sweep]
    return ours + others, absent


class Process:
    """A warmed-up process of one contestant at one work, which waits for requests."""

    def __init__(self, contestant, work_name, chars=None):
        self.contestant = contestant
        self.errors = tempfile.TemporaryFile()  # noqa: SIM115 (until close)
        arguments = [contestant.name, work_name, f"--threads={contestant.threads}", f"--backend={contestant.backend}"]
        arguments += [f"--dtype={contestant.dtype}"]
        if chars is not None:
            arguments.append(f"--chars={chars}")
        if contestant.core is not None:
            arguments.append(f"--core={contestant.core}")
        self.process = subprocess.Popen(
            [sys.executable, "-m", "benchmarks.rivals", *arguments],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, bufsize=1, cwd=ROOT,
        )  # fmt: skip
        self.count, self.times, self.peak_rss = 1, [], None
        try:
            self.ready = json.loads(self._line().removeprefix("ready "))
        except BaseException:
            self.close()
            raise

    def _line(self):
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            said = self.errors.read().decode(errors="replace")
            raise RuntimeError(f"{self.contestant} ended with {self.process.wait()}:\n{said[-3000:]}")
        return line

    def ask(self, count):
        """Run `count` iterations; return seconds, last loss, peak_rss."""
        self.process.stdin.write(f"{count}\n")
        return json.loads(self._line())

    def calibrate(self, seconds):
        """Choose the number of iterations per round, at least one, so that a round takes about `seconds`."""
        taken = self.ask(1)["seconds"]
        while taken < seconds / 4:
            self.count *= 2
            taken = self.ask(self.count)["seconds"]
        self.count = max(1, round(self.count * seconds / taken)) if seconds else 1

    def round(self):
        """Run one round and record its time."""
        answer = self.ask(self.count)
        self.times.append(answer["seconds"] / self.count)
        self.peak_rss = answer["peak_rss"]

    def close(self):
        self.process.stdin.close()
        self.process.wait(timeout=60)
        self.process.stdout.close()
        self.errors.close()

    def result(self):
        """Return the median and spread of the seconds per iteration, with the contestant's settings."""
        who = self.contestant
        about = {"name": who.name, "threads": who.threads, "core": who.core, "iterations": self.count}
        if who.name == "ours":
            about |= {"backend": who.backend, "dtype": who.dtype}
        about |= {"versions": self.ready["versions"], "warm_up_seconds": round(self.ready["warm_up_seconds"], 3)}
        return {**about, "peak_rss": self.peak_rss, **spread(self.times)}


def spread(times):
    """Return the median, quartiles, minimum and number of times in seconds."""
    q1, middle, q3 = np.quantile(times, [0.25, 0.5, 0.75])
    return {"median": middle, "q1": q1, "q3": q3, "min": min(times), "rounds": len(times)}


class Race:
    """Contestants at one work, which take turns: each runs one round, then the next round begins."""

    def __init__(self, work, contestants, seconds=ROUND_SECONDS):
        self.work, self.processes = work, []
        self.load_before = load_average()
        try:
            for contestant in contestants:
                self.processes.append(Process(contestant, work.name))
                self.processes[-1].calibrate(seconds)
        except BaseException:
            self.close()
            raise

    def others(self):
        """Run a round of every contestant except the first."""
        for process in self.processes[1:]:
            process.round()

    def first(self):
        """Run a round of the first contestant."""
        self.processes[0].round()

    def close(self):
        for process in self.processes:
            process.close()

    def result(self):
        return {
            "work": self.work.name,
            "load": [self.load_before, load_average()],
            "contestants": [process.result() for process in self.processes],
        }


def race(benchmark, work, contestants, absent=None, rounds=ROUNDS, seconds=ROUND_SECONDS):
    """Race the contestants under pytest-benchmark, which times the first itself; record all their figures."""
    begin = time.perf_counter()
    running = Race(work, contestants, seconds)
    try:
        benchmark.group = work.name
        benchmark.pedantic(running.first, setup=running.others, rounds=rounds)
        benchmark.extra_info.update(running.result(), absent=absent or {}, took=round(time.perf_counter() - begin, 1))
    finally:
        running.close()
    assert all(process.times for process in running.processes)
