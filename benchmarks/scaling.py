"""What training by several ranks costs: measured, as a model that predicts it, and simulated for thousands of ranks.

``python -m benchmarks.scaling`` starts 1, 2 and 4 ranks with mpiexec on this machine, fits the model to every other
point, and writes benchmarks/results/scaling.json and the tables of docs/scaling.md. With ``report`` it only writes the
tables. It needs mpi4py, mpiexec and a few minutes.
"""

import json
import math
import os
import re
import shutil
import subprocess
import sys
from itertools import product
from statistics import median
from time import perf_counter

import numpy as np

from benchmarks import results

RANKS, HIDDEN, BATCHES, T = (1, 2, 4), (96, 192, 320), (16, 32, 64), 24
TURNS, TURN_SECONDS = 7, 0.3
PATH, PAGE = results.FOLDER / "scaling.json", results.FOLDER.parent.parent / "docs" / "scaling.md"
#: Networks of the simulation: bytes per second, seconds of latency.
NETWORKS = {"1 GbE": (0.117e9, 50e-6), "10 GbE": (1.17e9, 20e-6), "100 Gb InfiniBand": (12e9, 2e-6)}
MANY = (2, 8, 32, 128, 512, 2048, 4096)
JITTER = 0.05  # standard deviation of the logarithm of a rank's time for an iteration


def measure():
    """Time iterations, and the Allreduce alone, as one of the ranks; the first one prints them as JSON."""
    from charlstm.settings.config import from_preset
    from charlstm.text.corpus import Corpus
    from charlstm.training.trainer import Trainer
    from charlstm.training.world import joined

    world, points = joined(), []
    text = "".join(chr(97 + n) for n in np.random.RandomState(1).randint(0, 26, 60_000).tolist())
    corpus = Corpus.from_text(text)
    for H, B in product(HIDDEN, BATCHES):
        config = from_preset(
            "fast", hidden_size=H, batch_size=B, seq_length=T, threads=1, iterations=10**6, dtype="float32", dropout=0.0
        )
        trainer = Trainer(config, corpus, world=world)
        trainer.train(0, 0, np.empty(0))
        each, first = _timed(world, lambda count, t=trainer: t.train(0, count, np.full(count, 1e-9)))
        gradient = np.zeros(len(trainer.theta) + 1, np.float32)

        def reduced(count, gradient=gradient):
            for _ in range(count):
                world.all_reduce(gradient)

        alone = _timed(world, reduced)[0] if world.size > 1 else 0.0
        point = {"ranks": world.size, "H": H, "B": B, "N": len(trainer.theta), "seconds": each, "all_reduce": alone}
        points.append({**point, "spread": first / each - 1})
    if world.rank == 0:
        print(json.dumps(points))


def _timed(world, run):
    """The least and the median seconds of an iteration over some turns, the same on all ranks."""
    run(1)
    start = world.clock()
    run(2)
    count = max(1, int(TURN_SECONDS / max((world.clock() - start) / 2, 1e-7)))
    turns = []
    for _ in range(TURNS):
        start = world.clock()
        run(count)
        turns.append((world.clock() - start) / count)
    return min(turns), median(turns)


def terms(point, cores):
    """What the seconds of an iteration are made of: each is multiplied by a coefficient of the fit.

    For each rank: the arithmetic of its streams, the passes over all parameters (clearing, clipping, update), what an
    iteration costs apart from them. For several: bytes that an Allreduce moves, and its steps. Ranks that share a core
    take turns.
    """
    W, N, B = point["ranks"], point["N"], point["B"]
    crowd = max(1.0, W / cores)
    moved = 2 * (W - 1) / W * 4 * N * crowd
    return [N * T * B / W * crowd, N * crowd, (1 if W == 1 else 0), (1 if W > 1 else 0) * crowd, moved]


def fitted(points, cores):
    """The coefficients, none of them negative, with the least sum of squared relative errors (active set)."""
    A = np.array([terms(point, cores) for point in points])
    A /= np.array([[point["seconds"]] for point in points])
    used = list(range(A.shape[1]))
    while True:
        found = np.linalg.lstsq(A[:, used], np.ones(len(A)), rcond=None)[0]
        if (found >= 0).all():
            break
        used.pop(int(found.argmin()))
    whole = np.zeros(A.shape[1])
    whole[used] = found
    return whole


def simulated(coefficients, N, streams, network, ranks, *, every=1, half=False, tries=400):
    """The efficiency of many ranks, each with a core and some streams of its own: speed beside perfect scaling.

    All ranks wait for the slowest one at each Allreduce; a ring moves its bytes, in two steps for each rank but
    logarithmically many latencies, as recursive halving does.
    """
    bandwidth, latency = NETWORKS[network]
    alone = coefficients[:4] @ [N * T * streams, N, 0, 1]
    random = np.random.RandomState(0)
    slowest = [
        np.exp(random.normal(0, JITTER, (every, ranks))).sum(axis=0).max() / every
        for _ in range(max(3, tries // ranks))
    ]
    sent = 2 * (ranks - 1) / ranks * (2 if half else 4) * N / bandwidth + 2 * math.ceil(math.log2(ranks)) * latency
    if every > 1:
        sent *= 3 / every  # the parameters, and two arrays of the optimizer's
    return alone / (alone * float(np.mean(slowest)) + sent)


def split(points):
    """Every other point for the fit, the others to check it; both have all sizes and numbers of ranks."""
    return points[::2], points[1::2]


def tables(found):
    """The Markdown of the measured and of the simulated figures."""
    points, cores = found["points"], found["cores"]
    fit, held = split(points)
    coefficients = fitted(fit, cores)
    lines = ["| ranks | H | B | parameters | measured | predicted | error | |", "| --- " * 8 + "|"]
    errors = {"fit": [], "held back": []}
    for point in points:
        kind = "held back" if point in held else "fit"
        guess = float(coefficients @ terms(point, cores))
        error = guess / point["seconds"] - 1
        errors[kind].append(abs(error))
        lines.append(
            f"| {point['ranks']} | {point['H']} | {point['B']} | {point['N']:,} | {point['seconds'] * 1e3:.2f} ms | "
            f"{guess * 1e3:.2f} ms | {error:+.0%} | {kind} |"
        )
    told = "; ".join(
        f"{kind}: {np.mean(some):.0%} on average, {max(some):.0%} at most" for kind, some in errors.items()
    )
    lines += [
        "",
        f"Error, {told}. Measured on {found['machine']}, {cores} cores, with {found['mpi']}, at a load of "
        f"{found['load'][0]:.1f} to {found['load'][1]:.1f}; the least of {TURNS} turns.",
    ]
    rows = [
        "| parameters | streams per rank | network | every | gradients | " + " | ".join(f"{W:,}" for W in MANY) + " |"
    ]
    rows.append("| --- " * (5 + len(MANY)) + "|")
    for N, streams in ((1_000_000, 16), (4_000_000, 16), (4_000_000, 64)):
        for network, (every, half) in product(NETWORKS, ((1, False), (1, True), (16, False))):
            shares = [simulated(coefficients, N, streams, network, W, every=every, half=half) for W in MANY]
            words = " | ".join(f"{share:.0%}" for share in shares)
            kind = "bfloat16" if half else "float32"
            rows.append(f"| {N / 1e6:g} M | {streams} | {network} | {every} | {kind} | {words} |")
    return {"measured": "\n".join(lines), "simulated": "\n".join(rows)}


def page(text, found):
    """The page with its tables written anew."""
    for name, content in tables(found).items():
        marks = f"<!-- {name} -->", f"<!-- end of {name} -->"
        text = re.sub(f"(?s){marks[0]}.*?{marks[1]}", lambda _: f"{marks[0]}\n\n{content}\n\n{marks[1]}", text)  # noqa: B023
    return text


def main(*arguments):
    if arguments == ("rank",):
        return measure()
    if arguments != ("report",):
        from charlstm.host import machine

        points, loads, begun, mpiexec = [], [], perf_counter(), shutil.which("mpiexec")
        if mpiexec is None:
            return "mpiexec is missing: pip install mpich, or load the MPI of this machine"
        for ranks in RANKS:
            start = [mpiexec, "-n", str(ranks)] if ranks > 1 else []
            done = subprocess.run(
                [*start, sys.executable, "-m", "benchmarks.scaling", "rank"], stdout=subprocess.PIPE, check=True
            )
            points += json.loads(done.stdout)
            loads.append(os.getloadavg()[0])
        version = subprocess.run([mpiexec, "--version"], capture_output=True, text=True, check=True).stdout
        mpi = "MPICH" if "HYDRA" in version else version.splitlines()[0]
        found = {"machine": machine.processor(), "cores": machine.usable_cores(), "mpi": mpi, "points": points}
        results.write({**found, "load": [min(loads), max(loads)]}, PATH)
        print(f"{perf_counter() - begun:.0f} s", file=sys.stderr)
    found = json.loads(PATH.read_text("utf-8"))
    PAGE.write_text(page(PAGE.read_text("utf-8"), found), "utf-8")
    return None


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
