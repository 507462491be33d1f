"""The stages of a run of the benchmarks: what each measures, and about how long it takes."""

from typing import NamedTuple

from benchmarks.process import QUICK, field
from benchmarks.results import title_of
from charlstm.measure.bench import COST_B, COST_H, WORKS

RACES = ("seed",)
if not QUICK:
    RACES += ("h256-b16", "h256-b32", "gru-256", "keras", "keras-all", *(f"torch-rnn-{H}" for H in (128, 512, 1024)))
COSTS = [
    f"cost-{letter}-{size}"
    for letter, sizes in (("h", COST_H), ("b", COST_B))
    for size in sizes[: 1 if QUICK else None]
]
#: Seconds of each stage on two cores of an AMD EPYC, with every rival installed.
SECONDS = {
    "memory": 25, "ops": 25, "sample": 15, "startup": 60, "busy": 20, "cost-h": 25, "cost-b": 30,
    "seed": 40, "torch-rnn-512": 45, "torch-rnn-1024": 100,
}  # fmt: skip
RACE_SECONDS = 35
#: Seconds that the tests of the kernels take, with compiled kernels in the cache and without.
TESTS_SECONDS = (45, 120)
WHAT = {
    "memory": "peak memory and allocations",
    "ops": "single ops, beside the reference's",
    "startup": "start of the command, with compiled kernels and without",
    "busy": "training beside a busy program",
    "cost-h": f"ours against H: {COST_H[0]} to {COST_H[-1]}",
    "cost-b": f"ours against B: {COST_B[0]} to {COST_B[-1]}",
}


class Stage(NamedTuple):
    name: str
    what: str
    seconds: int


def stage(name):
    """Return the stage with this name: a work or a key of WHAT."""
    seconds = SECONDS.get(name, RACE_SECONDS)
    if name in WHAT:
        return Stage(name, WHAT[name], seconds)
    contestants, _ = field(WORKS[name])
    kinds = dict.fromkeys(title_of(contestant.name, contestant.dtype) for contestant in contestants)
    threads = sorted({contestant.threads for contestant in contestants})
    some = " and ".join(map(str, threads))
    return Stage(name, f"{', '.join(kinds)}; {some} thread{'s' if threads[-1] > 1 else ''}", seconds)


def planned():
    """Return all stages, in the order in which pytest collects them."""
    names = ["memory", "ops", "sample", "startup", *RACES, "cost-h", "cost-b", "busy"]
    return [stage(name) for name in names]


def absent():
    """Return the rivals that cannot run here, with the reasons: {title: reason}."""
    found = {}
    for work in (*RACES, "sample"):
        found |= {title_of(name): reason for name, reason in field(WORKS[work])[1].items()}
    return found


def name_of(item):
    """Return the name of the stage that a collected test belongs to."""
    params = item.callspec.params if hasattr(item, "callspec") else {}
    if "neighbour" in params:
        return "busy"
    work = params.get("work", "")
    return work[: len("cost-h")] if work.startswith("cost-") else work or item.module.__name__.rpartition("bench_")[2]


def in_minutes(seconds):
    """Format a duration as people say it: 40 s, 2 min."""
    return f"{seconds:.0f} s" if seconds < 60 else f"{round(seconds / 60)} min"
