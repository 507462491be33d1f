"""The rival computes what it is measured for, and the benchmarks run."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT, made_up_text

from benchmarks.rival_numpy_loop import NumpyLoop
from charlstm.config import from_preset
from charlstm.corpus import Corpus
from charlstm.trainer import Trainer


def test_the_numpy_loop_follows_the_same_losses_as_the_preset():
    corpus = Corpus.from_text(made_up_text())
    config = from_preset("min-char-lstm", dtype="float64", seed=123, iterations=300, report_every=1, sample_every=0)
    ours = [p.loss for p in Trainer(config, corpus).run() if p.kind == "report"]
    rival = NumpyLoop(corpus.ids, len(corpus.vocabulary)).run(300)
    assert ours == pytest.approx(rival, rel=1e-8)


def test_the_benchmarks_run(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "benchmarks", "--benchmark-disable", "-q", "-p", "no:cacheprovider"],
        cwd=ROOT, capture_output=True, text=True, timeout=300, env=dict(os.environ), check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "4 passed" in done.stdout
