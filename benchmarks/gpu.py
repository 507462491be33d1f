"""``python -m benchmarks.gpu`` times our works on this machine's GPU and writes benchmarks/results/DEVICE.json.

It needs only the packages of the GPU backend. If PyTorch finds the GPU, its cuDNN runs the same works beside ours. Each
contestant takes its turn in rounds of about a third of a second; we keep the medians. Many models of `seed` then train
in one call, each with a learning rate of its own.

Arguments name the JUnit files of the tests on this GPU, which ``make gpu-test`` has pytest write. Their counts are kept
with the results; without arguments, those of the last time are. If a test failed, nothing is measured.
"""

import sys
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from time import perf_counter
from xml.etree import ElementTree

import numpy as np

import kernels
from benchmarks import pages, results, works
from benchmarks.rivals import pytorch
from charlstm.host import machine
from charlstm.measure.bench import SHORT, WORKS, Ours, in_words, iterations_for
from kernels import spec

ROUNDS, ROUND_SECONDS = 7, 0.3
MODELS = (1, 16, 132, 264)  # an H100 has 132 multiprocessors


def main(files=()):
    reason = kernels.missing("cupy")
    if reason is not None:
        print(reason, file=sys.stderr)
        return 1
    device = kernels.load_for_host("cupy").device_name()
    name = "-".join("".join(c if c.isalnum() else " " for c in device.lower()).split())
    path, today = results.FOLDER / f"{name}.json", datetime.now(UTC).date().isoformat()
    old = results.read(path) if path.exists() else {}
    tests = {"tests": {"date": today, **counted(files)}} if files else {k: old[k] for k in ("tests",) if k in old}
    if tests and tests["tests"]["failed"]:
        if old:
            results.write({**old, **tests}, path)
        print(f"{tests['tests']['failed']} tests failed on {device}: nothing is measured", file=sys.stderr)
        return 1
    rows = [measured(WORKS[name]) for name in SHORT]
    many = [several(WORKS["seed"], models) for models in MODELS]
    about = {"device": device, "processor": machine.processor(), "versions": machine.versions()}
    results.write({"date": today, "machine": about, **tests, "gpu": rows, "many": many}, path)
    print(f"results in {path}")
    return 0


def counted(files):
    """Count the tests in JUnit files; a file that is missing, because pytest did not end, counts as a failed test."""
    there = [path for path in map(Path, files) if path.exists()]
    trees = map(ElementTree.parse, there)  # noqa: S314 - pytest wrote them
    suites = [suite for tree in trees for suite in tree.getroot().iter("testsuite")]
    every, skipped = (sum(int(suite.get(kind)) for suite in suites) for kind in ("tests", "skipped"))
    failed = sum(int(suite.get(kind)) for suite in suites for kind in ("failures", "errors"))
    return {"passed": every - skipped - failed, "failed": failed + len(files) - len(there), "skipped": skipped}


def measured(work):
    """Measure one work, in seconds per iteration, and print its line."""
    ids = works.ids(work)
    runs = {"ours": Ours(work, ids, "cupy").run}
    if work.optimizer and pytorch_has_gpu():
        runs["pytorch"] = pytorch.make(work, ids, 1, device="cuda").run
    counts = {name: iterations_for(run, ROUND_SECONDS) for name, run in runs.items()}
    rounds = {name: [] for name in runs}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            begin = perf_counter()
            run(counts[name])  # the GPU has finished, because the losses are on the host
            rounds[name].append((perf_counter() - begin) / counts[name])
    row = {"work": work.name, **summary(rounds["ours"]), "iterations": counts["ours"]}
    row["chars_per_second"] = work.chars / row["median"]
    line = f"{work.name:16} {in_words(row['median'])} per iteration, {row['chars_per_second']:,.0f} characters/s"
    if "pytorch" in rounds:
        row["pytorch"] = summary(rounds["pytorch"])
        ratio = row["pytorch"]["median"] / row["median"]
        line += f"; PyTorch {in_words(row['pytorch']['median'])}, {ratio:.2f} times ours"
    print(line, flush=True)
    return row


def several(work, models):
    """Measure one call that trains several models of a work, in seconds per iteration of all, and print its line."""
    ops, ids, iteration = kernels.load_for_host("cupy"), works.ids(work), 0
    plan = work.plan(len(ids))
    theta = np.tile(work.weights("float32"), (models, 1))
    state = np.zeros((models, spec.slots(work.optimizer, work.hyper), theta.shape[1]), np.float32)
    states = np.zeros((2, models, 1, 1, work.shape.hidden_size), np.float32)
    arrays = [ops.to_device(array) for array in (theta, state, *states, ids)]
    rates = work.learning_rate * np.linspace(0.1, 1, models)

    def run(count):
        nonlocal iteration
        starts, reset = plan.plan(iteration, iteration + count)
        losses = ops.train_steps(
            *arrays, np.tile(starts, (models, 1, 1)), np.tile(reset, (models, 1)),
            np.ascontiguousarray(np.tile(rates, (count, 1)).T), shape=work.shape, seq_length=work.seq_length,
            step=iteration, optimizer=work.optimizer, hyper=work.hyper, grad_scale=work.grad_scale,
            grad_clip=work.grad_clip, grad_clip_norm=work.grad_clip_norm,
        )  # fmt: skip
        iteration += count
        if not np.isfinite(losses).all():
            raise RuntimeError(f"{work.name}: a model of {models} has no finite loss")

    count, rounds = iterations_for(run, ROUND_SECONDS), []
    for _ in range(ROUNDS):
        begin = perf_counter()
        run(count)
        rounds.append((perf_counter() - begin) / count)
    row = {"work": work.name, "models": models, **summary(rounds), "iterations": count}
    row["iterations_per_second"] = models / row["median"]
    print(
        f"{models:3} models of {work.name}: {in_words(row['median'])} per iteration of all, "
        f"{row['iterations_per_second']:,.0f} iterations/s", flush=True,
    )  # fmt: skip
    return row


def summary(rounds):
    return {"median": median(rounds), "least": min(rounds), "most": max(rounds)}


def table(found):
    """Format the results of a device as a Markdown table."""
    rows = []
    for row in found["gpu"]:
        cells = [f"`{row['work']}`", in_words(row["median"]), f"{row['chars_per_second']:,.0f}"]
        other = row.get("pytorch", {}).get("median")
        cells += [in_words(other), f"{other / row['median']:.2f}"] if other else ["", ""]
        rows.append(cells)
    return pages.table(["work", "ours", "characters/s", "PyTorch (cuDNN)", "ours is faster by"], rows)


def table_of_many(found):
    """Format the results of a device with many models as a Markdown table."""
    rows = [
        [str(row["models"]), in_words(row["median"]), f"{row['iterations_per_second']:,.0f}"] for row in found["many"]
    ]
    return pages.table(["models of `seed`", "one iteration of all", "iterations/s, all together"], rows)


def pytorch_has_gpu():
    if find_spec("torch") is None:
        return False
    import torch

    return torch.cuda.is_available()


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
