"""Trains on the 32,033 names for a second of one core: ``python -m benchmarks.names [FILE]``, the table in docs.

FILE is the list, one name a line; without it, the built-in text `names` is downloaded. Compiling, reading the text and
the final evaluation do not count towards the second. Options: chosen with seed 0, so others are reported.
"""

import math
import sys
import tempfile
from pathlib import Path
from statistics import mean

import charlstm
from benchmarks.pages import table

SEEDS = (1, 2, 3)
OPTIONS = {
    "hidden_size": 64, "seq_length": 12, "batch_size": 16, "learning_rate": 0.015, "dropout": 0.0, "weight_drop": 0.0,
    "mix": 0.0, "reset_every": 0, "threads": 1, "validation": 0.1, "validate_every": 10**9, "report_every": 300,
    "sample_every": 0, "documents": "lines",
}  # fmt: skip


def main(text="names"):
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        measured(text, Path(folder) / "compiled", seed=0, iterations=2)
        for seed in SEEDS:
            run = measured(text, Path(folder) / str(seed), seed=seed, seconds=1.0)
            last = {name: values[-1] for name, values in run.history.items()}
            nats = [math.log(2) * last[name] for name in ("bits_per_char", "val_bits_per_char")]
            rows.append([seed, last["iteration"], last["seconds"], *nats])
    rows.append(["mean", *(mean(column) for column in list(zip(*rows, strict=True))[1:])])
    cells = [[str(seed), f"{n:,.0f}", *(f"{value:.3f}" for value in rest)] for seed, n, *rest in rows]
    print(table(["seed", "iterations", "seconds", "training, last 300 iterations, nats", "held out, nats"], cells))


def measured(text, out, seed, **budget):
    """Train on the text and return the run; a budget in iterations has none in seconds."""
    return charlstm.train(text, out=str(out), quiet=True, seed=seed, **{"seconds": None, **OPTIONS, **budget})


if __name__ == "__main__":
    main(*sys.argv[1:])
