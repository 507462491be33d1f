"""Tests too slow for every run (make test-long)."""

import time

import numpy as np
import pytest
from conftest import SHARED, needs_shared

from charlstm import from_preset
from charlstm.runs.begin import start
from charlstm.text.corpus import load
from charlstm.training.trainer import Trainer

pytestmark = pytest.mark.long


@needs_shared
def test_a_million_iterations_reach_the_published_figure(tmp_path):
    run = start(
        [SHARED / "data" / "us-constitution.txt"],
        from_preset("min-char-lstm", seed=123, iterations=1_000_000, threads=1),
        str(tmp_path / "run"),
    )
    smooth, started = {}, time.perf_counter()
    for progress in run.train():
        if progress.kind == "report":
            smooth[progress.iteration] = progress.smooth_loss
    print(
        f"{run.trainer.seconds:.1f} s of training, {time.perf_counter() - started:.1f} s in all, {smooth[999_800]:.3f}"
    )
    assert min(value for n, value in smooth.items() if n <= 100_000) < 9.5
    assert min(smooth.values()) < 4.69


@needs_shared
@pytest.mark.parametrize("text", ["tinyshakespeare", "us-constitution", "nietzsche", "names"])
@pytest.mark.parametrize("seed", [0, 3, 5])
def test_no_default_run_ends_in_noise(text, seed):
    corpus = load([SHARED / "data" / f"{text}.txt"])
    config = from_preset(seed=seed, iterations=600, validation=0.1, validate_every=100, sample_every=0)
    trainer = Trainer(config, corpus)
    measured = [p.val_bits_per_char for p in trainer.run() if p.kind == "evaluation"]
    shares = (np.bincount(trainer.ids, minlength=len(corpus.vocabulary)) + 1) / len(trainer.ids)
    assert measured[0] < np.log2(len(corpus.vocabulary))
    assert max(measured[1:]) < -np.log2(shares[trainer.held_out]).mean()
