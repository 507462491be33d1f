"""Time per training iteration: ours by backend, dtype and threads, and each rival's; the contestants take turns.

pytest-benchmark's own figure times our rounds on one thread; `extra_info` holds the seconds per iteration of every
contestant, as median and spread. It reports compile time separately (warm_up_seconds).
"""

import subprocess
import sys

import pytest

from benchmarks.process import QUICK, Contestant, Process, field, race, spread, teams
from charlstm.host.machine import usable_cores
from charlstm.measure.bench import COST_B, COST_H, WORKS

RACES = ("seed",) if QUICK else ("seed", "h256-b16", "keras", *(f"torch-rnn-{H}" for H in (128, 512, 1024)))
COSTS = {"cost-h": COST_H[:1] if QUICK else COST_H, "cost-b": COST_B[:1] if QUICK else COST_B}


@pytest.mark.parametrize("name", RACES)
def test_training(benchmark, name, machine_limits):
    contestants, absent = field(WORKS[name])
    benchmark.extra_info["floor"] = {str(n): WORKS[name].floor(machine_limits, n) for n in teams()}
    race(benchmark, WORKS[name], contestants, absent)


@pytest.mark.parametrize(("kind", "size"), [(kind, size) for kind, sizes in COSTS.items() for size in sizes])
def test_cost(benchmark, kind, size, machine_limits):
    """Measure our time per iteration as a function of H (B = 1, T = 16, Adagrad) and of B (H = 256, T = 32, Adam)."""
    work = WORKS[f"{kind}-{size}"]
    benchmark.extra_info["floor"] = {str(n): work.floor(machine_limits, n) for n in teams()}
    race(
        benchmark,
        work,
        [Contestant("ours", threads) for threads in teams()],
        rounds=1 if QUICK else 5,
        seconds=0.0 if QUICK else 0.15,
    )


@pytest.mark.parametrize("name", ["h256-b16"] if QUICK else ["h256-b16", "seed"])
def test_busy_neighbour(benchmark, name):
    """Compare training on two threads while another program keeps one core busy with training on an idle machine."""
    cores = usable_cores()
    running = Process(Contestant("ours", max(2, cores)), name)
    quiet, busy = [], []
    benchmark.group = "busy neighbour"

    def beside_nobody():
        running.round()
        quiet.append(running.times[-1])

    def beside_a_busy_one():
        with _BusyCore():
            running.round()
        busy.append(running.times[-1])

    try:
        running.calibrate(0.0 if QUICK else 0.4)
        benchmark.pedantic(beside_a_busy_one, setup=beside_nobody, rounds=1 if QUICK else 7)
    finally:
        running.close()
    benchmark.extra_info.update(work=name, threads=max(2, cores), quiet=spread(quiet), busy=spread(busy))
    benchmark.extra_info["ratio"] = spread(busy)["median"] / spread(quiet)["median"]


class _BusyCore:
    """A program that keeps one core busy."""

    PROGRAM = """
import os, sys
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
print(flush=True)
while True:
    pass
"""

    def __enter__(self):
        self.process = subprocess.Popen([sys.executable, "-c", self.PROGRAM], stdout=subprocess.PIPE)
        self.process.stdout.readline()

    def __exit__(self, *_):
        self.process.kill()
        self.process.wait()
        self.process.stdout.close()
