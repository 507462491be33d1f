"""Runs that take milliseconds, and the results by which tests compare them."""

import json

from charlstm.model.model import load
from charlstm.settings.config import from_preset

SMALL = {
    "hidden_size": 11, "num_layers": 2, "seq_length": 7, "batch_size": 3, "report_every": 10, "sample_every": 25,
    "sample_length": 30, "reset_every": 8, "dropout": 0.0, "weight_drop": 0.0,
    "mix": 0.0, "average": 0.0,  # the net alone, as it is after its last update
}  # fmt: skip


def small(**options):
    return from_preset(**{**SMALL, **options})


def finish(run):
    return list(run.train())


def everything(folder):
    """Return a run's results as bytes: weights, optimizer state, samples, and metrics that do not depend on time."""
    last = load(folder, "last")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    timeless = [{k: v for k, v in line.items() if k not in ("seconds", "chars_per_second")} for line in lines]
    arrays = [a.tobytes() for a in (last.theta, last.state, last.h, last.c, last.average) if a is not None]
    best = load(folder, "best")
    return arrays, last.smooth_loss, timeless, (folder / "samples.txt").read_bytes(), best.iteration
