"""``python -m benchmarks.scaling`` times training by several ranks; a cost model is fitted to half of the times.

It writes benchmarks/results/scaling.json and the tables of docs/scaling.md. Ranks run on this machine, alone, beside
each other, and on two hosts joined by slow links (network.py; root only). ``--tables`` only remakes the tables.
"""

import json
import math
import os
import subprocess
import sys
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from time import perf_counter

import numpy as np

from benchmarks import results
from benchmarks.network import THROUGH_THE_LINK, missing, two_hosts
from benchmarks.pages import filled, table

ROOT = Path(__file__).parents[1]
RESULTS, PAGE = results.FOLDER / "scaling.json", ROOT / "docs" / "scaling.md"
VOCAB_SIZE, SEQ_LENGTH = 65, 32
SLOTS = 2  # of Adam
#: hidden size, layers, batch size
MODELS = ((128, 1, 32), (256, 1, 16), (256, 1, 32), (256, 1, 64), (512, 1, 32), (512, 2, 48))
#: name: seconds of delay, bytes per second
LINKS = {"1 Gbit/s, 0.1 ms": (1e-4, 125e6), "100 Mbit/s, 1 ms": (1e-3, 12.5e6)}
#: iterations between averages, and the type that gradients travel in
WAYS = ((1, "float32"), (1, "bfloat16"), (16, "float32"))


@dataclass(frozen=True)
class Point:
    """A training: its model, its ranks of one thread each, and what is between them."""

    hidden_size: int
    num_layers: int
    batch_size: int
    ranks: int
    sync_every: int = 1
    sync_dtype: str = "float32"
    delay: float = 0.0  # seconds
    rate: float = math.inf  # bytes per second; infinite for memory
    cores: int = 2  # that the ranks share

    @property
    def parameters(self):
        H, L, V = self.hidden_size, self.num_layers, VOCAB_SIZE
        return V * 4 * H + (2 * L - 1) * 4 * H * H + 4 * H * L + H * V + V

    @property
    def costs(self):
        """What an iteration takes, each to be multiplied by a fitted number of seconds."""
        H, L, T, R, N = self.hidden_size, self.num_layers, SEQ_LENGTH, self.ranks, self.parameters
        streams = self.batch_size / R
        turns = max(1.0, R / self.cores)  # ranks that take turns on a core
        sent = {"float32": 4, "bfloat16": 2}[self.sync_dtype] * N
        steps, wire = 2 * math.log2(R), 2 * (R - 1) / R * sent * (1 if self.sync_every == 1 else 1 + SLOTS)
        often = 1 / self.sync_every
        return {
            "multiply-add": turns * 3 * T * streams * ((2 * L - 1) * 4 * H * H + H * VOCAB_SIZE),
            "gate": turns * T * streams * L * H,
            "step of a layer": turns * T * L,
            "parameter updated": turns * N,
            "iteration": turns,
            "message": turns * often * steps,
            "byte moved": turns * often * wire,
            "number rounded": turns * N if self.sync_dtype == "bfloat16" and R > 1 else 0.0,
            "second of the link": often * (steps * self.delay + wire / self.rate),
        }


def points(ranks, link):
    """The points that one job of so many ranks measures."""
    delay, rate = LINKS.get(link, (0.0, math.inf))
    ways = WAYS if ranks == 2 else WAYS[:1]
    return [Point(*model, ranks, *way, delay, rate) for model in MODELS for way in ways]


# ----------------------------------------------------------------------------------------------------------- measuring
def work(ranks, link, seconds):
    """Time the points of a job as one of its ranks; the first one prints a line for each."""
    from charlstm.settings.config import from_preset
    from charlstm.training.members import Member
    from charlstm.training.world import joined

    world, ids = joined(), np.random.default_rng(0).integers(0, VOCAB_SIZE, 200_000).astype(np.uint8)
    for point in points(ranks, link):
        config = from_preset(
            "fast", hidden_size=point.hidden_size, num_layers=point.num_layers, batch_size=point.batch_size,
            seq_length=SEQ_LENGTH, sync_every=point.sync_every, sync_dtype=point.sync_dtype, dtype="float32",
            dropout=0.0, weight_drop=0.0, reset_every=0,
        )  # fmt: skip
        member = Member(config, "numba", ids, VOCAB_SIZE, 1, world)
        member.begin()
        steps, memory, every = member.steps, member.memory, point.sync_every
        steps.run(memory, 0, 0, np.empty(0))  # compiles
        at, taken, begun = 0, [], world.clock()
        while world.clock() - begun < seconds or len(taken) < 3:
            before = perf_counter()
            steps.run(memory, at, at + every, np.full(every, 1e-3))
            taken.append((perf_counter() - before) / every)
            at += every
        if world.rank == 0:
            few = np.quantile(taken, np.linspace(0, 1, 21)) / np.median(taken)
            line = {name: value for name, value in asdict(point).items() if name not in ("delay", "rate", "cores")}
            line |= {"link": link, "seconds": float(np.median(taken)), "spread": few.tolist()}
            print(json.dumps(line), flush=True)


def measure(seconds=1.5):
    """Run the jobs; return the lines of all points."""
    mine, found = [sys.executable, "-m", "benchmarks.scaling", "--work"], []

    def run(ranks, link, words, more):
        env = {**os.environ, **more}
        done = subprocess.run(words, env=env, cwd=ROOT, check=True, capture_output=True, text=True)
        print(done.stdout, end="", flush=True)
        found.extend(map(json.loads, done.stdout.splitlines()))

    for ranks in (1, 2, 4):
        job = [*mine, str(ranks), "-", str(seconds)]
        run(ranks, "-", job if ranks == 1 else ["mpiexec", "-n", str(ranks), *job], {})
    for link, (delay, rate) in {} if missing() else LINKS.items():
        with two_hosts(delay, rate) as hosts:
            each = [["-n", "1", *host, *mine, "2", link, str(seconds)] for host in hosts]
            run(2, link, ["mpiexec", *each[0], ":", *each[1]], THROUGH_THE_LINK)
    return found


# --------------------------------------------------------------------------------------------------------------- model
def point_of(line):
    delay, rate = LINKS.get(line["link"], (0.0, math.inf))
    sizes = {name: line[name] for name in Point.__dataclass_fields__ if name in line}
    return Point(**sizes, delay=delay, rate=rate)


def fitted(lines):
    """Seconds of each cost: least squares of the relative error, none negative."""
    names = list(point_of(lines[0]).costs)
    costs = np.array([[point_of(line).costs[name] / line["seconds"] for name in names] for line in lines])
    kept = list(range(len(names)))
    while True:
        scale = np.abs(costs[:, kept]).max(axis=0)
        found = np.linalg.lstsq(costs[:, kept] / scale, np.ones(len(lines)), rcond=None)[0] / scale
        if (found >= 0).all():
            return {names[k]: float(value) for k, value in zip(kept, found, strict=True)}
        kept.pop(int(np.argmin(found * scale)))


def predicted(model, point):
    return sum(model.get(name, 0.0) * cost for name, cost in point.costs.items())


def halves(lines):
    """The points that the model is fitted to, and those that it is checked on."""
    return lines[::2], lines[1::2]


# ---------------------------------------------------------------------------------------------------------- simulation
#: name: seconds of delay, bytes per second
NETWORKS = {
    "Ethernet, 1 Gbit/s, 50 us": (5e-5, 125e6),
    "Ethernet, 25 Gbit/s, 20 us": (2e-5, 3.125e9),
    "InfiniBand, 200 Gbit/s, 2 us": (2e-6, 25e9),
}
SIMULATED = ((128, 1, 256), (512, 2, 256), (512, 2, 4096), (1024, 3, 4096))
PAYS = 1.5  # what twice as many ranks must be faster by


def simulated(model, spread, network, sizes, way, ranks, random, draws=400):
    """Seconds of an iteration: the slowest rank's part, from the measured spread of times, and the communication."""
    delay, rate = NETWORKS[network]
    point = Point(*sizes, ranks, *way, delay, rate, cores=ranks)
    whole = predicted(model, point)
    talk = sum(model.get(name, 0.0) * point.costs[name] for name in ("message", "byte moved", "second of the link"))
    slowest = np.interp(random.random(draws) ** (1 / ranks), np.linspace(0, 1, len(spread)), spread).mean()
    return (whole - talk) * slowest + talk


def reach(model, spread, network, sizes, way):
    """Until how many ranks twice as many are PAYS faster, and how many times one rank's speed these have."""
    random = np.random.default_rng(0)
    counts = [2**k for k in range(13) if 2**k <= sizes[2]]
    times = [simulated(model, spread, network, sizes, way, ranks, random) for ranks in counts]
    best = next((k for k, (one, two) in enumerate(pairwise(times)) if one / two < PAYS), len(times) - 1)
    return counts[best], times[0] / times[best]


# -------------------------------------------------------------------------------------------------------------- tables
def checked_table(found):
    """What the model predicts for the points that it was not fitted to, beside what was measured."""
    rows = []
    for line in halves(found["points"])[1]:
        point = point_of(line)
        guess, took = predicted(found["model"], point), line["seconds"]
        sizes = map(str, (point.hidden_size, point.num_layers, point.batch_size, point.ranks))
        between = "memory" if line["link"] == "-" else line["link"]
        way = (between, str(point.sync_every), point.sync_dtype) if point.ranks > 1 else ("-", "-", "-")
        rows.append([*sizes, *way, f"{took * 1e3:.2f} ms", f"{guess * 1e3:.2f} ms", f"{guess / took - 1:+.0%}"])
    head = ["H", "layers", "B", "ranks", "between them", "every", "gradients", "measured", "predicted", "error"]
    return table(head, rows)


def model_table(found):
    """The fitted costs, and the errors."""
    errors = [
        [abs(predicted(found["model"], point_of(line)) / line["seconds"] - 1) for line in half]
        for half in halves(found["points"])
    ]
    words = [f"median {np.median(half):.0%}, largest {max(half):.0%}" for half in errors]
    tail = f"Errors on the half that was fitted: {words[0]}; on the other half: {words[1]}."
    costs = table(["cost of one", "seconds"], [[name, f"{value:.3g}"] for name, value in found["model"].items()])
    return f"{costs}\n\n{tail}"


def reach_table(found):
    """Where more ranks stop to pay, for some models and networks."""
    rows = []
    for network in NETWORKS:
        for sizes in SIMULATED:
            ends = [reach(found["model"], found["spread"], network, sizes, way) for way in WAYS]
            rows.append([network, *map(str, sizes), *(f"{ranks:,} ({times:.1f}x)" for ranks, times in ends)])
    return table(["network", "H", "layers", "B", *(f"every {k}, {kind}" for k, kind in WAYS)], rows)


TABLES = {"model": model_table, "checked": checked_table, "reach": reach_table}


def with_tables(page, found):
    """The page with the tables remade; each stands between two comments of its name."""
    for name, made in TABLES.items():
        page = filled(page, f"<!-- {name} -->", "<!-- end -->", made(found))
    return page


def main(words):
    if words[:1] == ["--work"]:
        work(int(words[1]), words[2], float(words[3]))
        return
    if words != ["--tables"]:
        from charlstm.host.machine import processor
        from charlstm.measure.bench import load_average

        before, lines = load_average(), measure()
        spreads = [line.pop("spread") for line in lines]
        alone = [spread for spread, line in zip(spreads, lines, strict=True) if line["ranks"] == 1]
        found = {
            "machine": processor(), "load": before, "points": lines,
            "spread": np.median(alone, axis=0).tolist(), "model": fitted(halves(lines)[0]),
        }  # fmt: skip
        results.write(found, RESULTS)
    found = results.read(RESULTS)
    PAGE.write_text(with_tables(PAGE.read_text(encoding="utf-8"), found), encoding="utf-8", newline="\n")


if __name__ == "__main__":
    main(sys.argv[1:])
