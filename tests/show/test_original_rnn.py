"""The preset min-char-rnn does what the original script does.

A whole run cannot be compared from the beginning: see original_rnn.py. But each single iteration from the script's own
weights, Adagrad state and hidden state gives the same result, and so does the trace from where it is no longer chaotic.
"""

import json

import numpy as np
import pytest
from conftest import SHARED, made_up_text, needs_shared
from original_rnn import Original

from charlstm.settings.config import from_preset
from charlstm.text import corpus as corpora
from charlstm.text.corpus import Corpus
from charlstm.training.trainer import Trainer


@pytest.fixture(params=["numpy", "numba"])
def trainer(request):
    """A function that makes a Trainer for a corpus from the preset and given options."""

    def make(corpus, **options):
        config = from_preset("min-char-rnn", dtype="float64", seed=123, backend=request.param, threads=1, **options)
        return Trainer(config, corpus)

    return make


def put(original, trainer, iteration):
    """Give the trainer the original's state after so many iterations."""
    trainer.theta[:] = original.flat(original.weights)
    trainer.state[0] = original.flat(original.memory)
    trainer.h[0, 0], trainer.iteration = original.h[:, 0], iteration


@pytest.mark.parametrize(("preset", "T"), [("min-char-rnn", 16), ("karpathy-min-char-rnn", 25)])
def test_every_iteration_from_the_originals_own_state(trainer, preset, T):
    text = made_up_text(1500)
    ours = trainer(Corpus.from_text(text), hidden_size=20, seq_length=T)
    original = Original(text, 123, 20, T)
    assert from_preset(preset).seq_length == T
    assert ours.theta == pytest.approx(original.flat(original.weights), abs=1e-17)
    for n in range(200):
        put(original, ours, n)
        expected = original.iterate()
        assert ours.train(n, n + 1, np.full(1, 0.1)) == pytest.approx([expected], rel=1e-12)
        assert ours.state[0] == pytest.approx(original.flat(original.memory), rel=1e-9, abs=1e-15)
        assert ours.theta == pytest.approx(original.flat(original.weights), abs=1e-10)


@needs_shared
def test_trace_of_the_original_script(trainer):
    oracle = json.loads((SHARED / "oracle" / "rnn-us-constitution-seed123.json").read_text())
    path = SHARED / "data" / oracle["corpus"]
    texts = [text.removeprefix("\n ").removesuffix(" \n") for text in oracle["stdout"].split("----")[1::2]]
    ours = trainer(corpora.load([path]), iterations=4000, report_every=1)

    begun = trainer(ours.corpus, iterations=5, report_every=1)
    progress = list(begun.run())
    assert [p.sample for p in progress if p.kind == "sample"] == texts[:1]
    assert [p.loss for p in progress if p.kind == "report"] == pytest.approx(oracle["loss"][:5], abs=1e-6)

    original = Original(path.read_text(), 123)
    losses = [original.iterate() for _ in range(1000)]
    assert losses[:5] == pytest.approx(oracle["loss"][:5], abs=1e-6)
    if losses != pytest.approx(oracle["loss"][:1000], abs=1e-6):
        pytest.skip("NumPy's products round otherwise on this processor than on the one that the trace is of")
    put(original, ours, 1000)
    ours.smooth_loss = oracle["smooth"][999]
    ours.random.random_sample(200)  # consumed by the first sample
    progress = list(ours.run())
    smooth = [p.smooth_loss for p in progress if p.kind == "report"]
    assert smooth == pytest.approx(oracle["smooth"][1000:], abs=1e-6)
    assert [p.sample for p in progress if p.kind == "sample"] == texts[1:]
