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
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from benchmarks import rivals
from benchmarks.rivals import CannotRun
from charlstm.host.machine import usable_cores
from charlstm.measure.bench import WORKS, load_average

ROOT = Path(__file__).parents[1]
#: Use tiny counts and few works, to test that the benchmarks run, not how fast they are.
QUICK = os.environ.get("CHARLSTM_BENCH_QUICK") == "1"
ROUNDS = 1 if QUICK else 7
ROUND_SECONDS = 0.0 if QUICK else 0.4
#: A race whose rounds have taken this long ends early, after FEWEST rounds or more.
LONG_SECONDS, FEWEST = 30.0, 4


@dataclass(frozen=True)
class Contestant:
    """A rival, or our implementation, with a number of threads; a single thread is pinned to one core."""

    name: str
    threads: int = 1
    backend: str = "numba"
    dtype: str = "float32"

    def __str__(self):
        """Return the name of its row, such as ours-bfloat16-2threads."""
        about = [word for word in (self.backend, self.dtype) if word not in ("numba", "float32")]
        return "-".join([self.name, *about, f"{self.threads}thread{'s' if self.threads > 1 else ''}"])

    @property
    def kind(self):
        """Return what it is, whatever its number of threads: the key of a reason why it is absent."""
        return self.name if self.dtype == "float32" else f"{self.name} in {self.dtype}"

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
    sweep = teams() if work.optimizer else [1]
    ours = [Contestant("ours", threads) for threads in sweep]
    if work.optimizer and not QUICK:
        ours += [Contestant("ours", threads, dtype="bfloat16") for threads in sweep]
    if work.name in ("seed", "sample") and not QUICK:
        ours += [Contestant("ours", 1, "numba", "float64"), Contestant("ours", 1, "numpy", "float32")]
    absent, others = {}, []
    for name in rivals.NAMES[1:]:
        if work.name not in rivals.module(name).WORKS or (QUICK and name == "pytorch_usual"):
            continue
        reason = rivals.missing(name)
        if reason:
            absent[name] = reason
        else:
            others += [Contestant(name, threads) for threads in (sweep if name in rivals.WITH_THREADS else [1])]
    return ours + others, absent


def entrants(*works):
    """Return a pytest parameter (work, contestant) for each contestant of each work."""
    return [
        pytest.param(name, contestant, id=f"{name}-{contestant}")
        for name in works
        for contestant in field(WORKS[name])[0]
    ]


class Process:
    """A process of one contestant at one work, which warms up and then waits for requests."""

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
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=self.errors, text=True, encoding="utf-8", bufsize=1,
            cwd=ROOT,
        )  # fmt: skip
        self.count, self.seconds, self.times, self.peak_rss, self.ready = 1, 0.0, [], None, None

    def warm(self):
        """Wait until the first iteration is done; return self.

        Raises
        ------
        CannotRun
            If the contestant says that it cannot run this work here.
        RuntimeError
            If it ended, with what it wrote to standard error.
        """
        try:
            line = self._line()
            if line.startswith("absent "):
                raise CannotRun(json.loads(line.removeprefix("absent ")))
            self.ready = json.loads(line.removeprefix("ready "))
        except BaseException:
            self.close()
            raise
        return self

    def _line(self):
        line = self.process.stdout.readline()
        if not line:
            self.errors.seek(0)
            said = self.errors.read().decode(errors="replace")
            raise RuntimeError(f"{self.contestant} ended with {self.process.wait()}:\n{said[-3000:]}")
        return line

    def ask(self, count):
        """Run `count` iterations; return seconds, last loss, peak_rss."""
        with suppress(BrokenPipeError):  # it has ended, and _line says why
            self.process.stdin.write(f"{count}\n")
        return json.loads(self._line())

    def calibrate(self, seconds):
        """Choose the number of iterations per round, at least one, so that a round takes about `seconds`."""
        self.seconds = seconds
        taken = self.ask(1)["seconds"]
        while taken < seconds / 4:
            self.count *= 2
            taken = self.ask(self.count)["seconds"]
        self.count = max(1, round(self.count * seconds / taken)) if seconds else 1

    def round(self):
        """Run one round and record its time; make the next ones shorter if a busy machine made this one long."""
        answer = self.ask(self.count)
        self.times.append(answer["seconds"] / self.count)
        self.peak_rss = answer["peak_rss"]
        if answer["seconds"] > 3 * self.seconds > 0:
            self.count = max(1, round(self.count * self.seconds / answer["seconds"]))

    def close(self):
        if self.errors.closed:
            return
        try:
            with suppress(BrokenPipeError):  # it has ended already
                self.process.stdin.close()
            self.process.wait(timeout=60)
        finally:
            self.process.kill()
            self.process.wait()
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
    """Contestants at one work, which take turns: each runs one round, then the next round begins.

    One that fails leaves the race; the others go on. `absent` and `failed` hold the reasons by contestant.
    """

    def __init__(self, work, contestants, seconds=ROUND_SECONDS):
        self.work, self.absent, self.failed = work, {}, {}
        self.load_before, self.processes = load_average(), []
        try:
            for contestant in contestants:  # all load and compile at once
                self.processes.append(Process(contestant, work.name))
            self._each(Process.warm)
            self._each(lambda process: process.calibrate(seconds))
        except BaseException:
            self.close()
            raise

    def run(self, rounds=ROUNDS):
        """Run rounds of all contestants in turn."""
        begin = time.perf_counter()
        for k in range(rounds):
            if k >= FEWEST and time.perf_counter() - begin > LONG_SECONDS:
                break
            self._each(Process.round)

    def _each(self, do):
        for process in self.processes[:]:
            try:
                do(process)
            except CannotRun as reason:
                self._leave(process, self.absent, str(reason))
            except RuntimeError as error:
                self._leave(process, self.failed, str(error))

    def _leave(self, process, why, reason):
        why[process.contestant] = reason
        self.processes.remove(process)
        process.close()

    def close(self):
        with ExitStack() as all_of_them:  # even if Ctrl-C comes meanwhile
            for process in reversed(self.processes):
                all_of_them.callback(process.close)

    def result(self):
        """Return the figures of all contestants that finished, and the reasons of the others."""
        return {
            "work": self.work.name,
            "load": [self.load_before, load_average()],
            "contestants": [process.result() for process in self.processes],
            "absent": {contestant.kind: reason for contestant, reason in self.absent.items()},
        }
