"""Time per training iteration: ours by backend, dtype and threads, and each rival's; the contestants take turns.

The first row of a race runs it all, and each row shows its contestant's rounds. Compile time is kept apart
(warm_up_seconds in the results).
"""

import subprocess
import sys

import pytest

from benchmarks.process import QUICK, ROUND_SECONDS, ROUNDS, Contestant, Process, entrants, spread, teams
from benchmarks.stages import COSTS, RACES
from charlstm.host.machine import usable_cores
from charlstm.measure.bench import WORKS

OURS = [Contestant("ours", threads) for threads in teams()]
NEIGHBOURS = ("h256-b16",) if QUICK else ("h256-b16", "seed")


@pytest.mark.parametrize(("work", "contestant"), entrants(*RACES))
def test_training(races, work, contestant):
    races(WORKS[work]).show(contestant)


@pytest.mark.parametrize("contestant", OURS, ids=str)
@pytest.mark.parametrize("work", COSTS)
def test_cost(races, work, contestant):
    """Measure our time per iteration as a function of H (B = 1, T = 16, Adagrad) and of B (H = 256, T = 32, Adam)."""
    rounds, seconds = (1, 0.0) if QUICK else (5, 0.15)
    races(WORKS[work], OURS, rounds, seconds).show(contestant)


@pytest.mark.parametrize("neighbour", ["quiet", "busy"])
@pytest.mark.parametrize("name", NEIGHBOURS)
def test_busy_neighbour(row, once, keep, name, neighbour):
    """Compare training while another program keeps one core busy with training on a quiet machine."""
    threads = max(2, usable_cores())

    def measure():
        times = beside_a_busy_program(Contestant("ours", threads), name)
        found = {which: spread(taken) for which, taken in times.items()}
        ratio = found["busy"]["median"] / found["quiet"]["median"]
        keep(f"test_busy_neighbour[{name}]", work=name, threads=threads, **found, ratio=ratio)
        return times

    row(f"{name} on {threads} threads, with a core busy", once(("busy", name), measure)[neighbour])


def beside_a_busy_program(contestant, name):
    """Return the times of rounds on a quiet machine, and of rounds with one core busy, by turns."""
    times = {"quiet": [], "busy": []}
    running = Process(contestant, name).warm()
    try:
        running.calibrate(ROUND_SECONDS)
        for _ in range(ROUNDS):
            running.round()
            times["quiet"].append(running.times[-1])
            with _BusyCore():
                running.round()
            times["busy"].append(running.times[-1])
    finally:
        running.close()
    return times


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
