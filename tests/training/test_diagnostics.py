"""Diagnostics: the same bits with and without them, and figures that another computation gives, too."""

import json

import numpy as np
import pytest
from conftest import load, made_up_text
from device import emulator
from small_runs import everything, finish, small

import kernels
from charlstm.runs.begin import resume, start
from charlstm.settings.config import from_preset
from charlstm.text.corpus import Corpus
from charlstm.training import diagnostics
from charlstm.training.trainer import Trainer
from kernels import spec
from kernels.gpu import presence

CORPUS = Corpus.from_text(made_up_text(), "book")


@pytest.fixture
def often(monkeypatch):
    """Make diagnostics due every ten iterations, which is the period of the reports."""
    monkeypatch.setattr(diagnostics, "_LEAST", 10)
    monkeypatch.setattr(diagnostics, "_READS", 1)


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    "options",
    [
        {"dropout": 0.3, "embedding_size": 5},
        {"weight_drop": 0.3, "num_layers": 2},
        {"cell": "gru", "windows": "9:4", "epoch_samples": "state", "batch_size": 40},
        {"cell": "rnn", "batch_size": 1, "show_below": 1.0, "loss_reduction": "sum", "grad_clip": 0.5},
        {"cell": "lnlstm", "validation": 0.1, "schedule": "plateau"},
        {"dtype": "bfloat16", "batch_size": 1},
        {"dtype": "bfloat16", "dropout": 0.3},
        {"backend": "numpy", "optimizer": "rmsprop"},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_they_change_no_bit(tmp_path, often, options):
    results = []
    for wanted in (True, False):
        folder = tmp_path / str(wanted)
        finish(start(CORPUS, small(iterations=41, diagnostics=wanted, **options), str(folder)))
        results.append(everything(folder))
    names = diagnostics.names(options.get("cell", "lstm"))
    measured = [line["iteration"] for line in results[0][2] if set(names) <= set(line)]
    assert measured == [10, 20, 30, 40]
    assert not any(set(names) & set(line) for line in results[1][2])
    for line in results[0][2]:
        for name in names:
            line.pop(name, None)
    assert results[0] == results[1]


def test_a_resumed_run_has_the_same_ones(tmp_path, often):
    finish(start(CORPUS, small(iterations=41, schedule="constant"), str(tmp_path / "whole")))
    finish(start(CORPUS, small(iterations=20, schedule="constant"), str(tmp_path / "parts")))
    finish(resume(tmp_path / "parts", CORPUS, {"iterations": 41}))
    assert everything(tmp_path / "parts") == everything(tmp_path / "whole")


@pytest.mark.parametrize("cell", ["lstm", "gru", "rnn", "lnlstm"])
@pytest.mark.parametrize("clip", [{"grad_clip": 0.001, "grad_clip_norm": None}, {"grad_clip_norm": 0.01}], ids=str)
def test_they_are_those_of_the_reference(often, cell, clip):
    config = small(iterations=12, cell=cell, reset_every=0, report_every=1, dtype="float64", learning_rate=0.3, **clip)
    trainer, before = Trainer(config, CORPUS), {}
    trainer.call_iterations = 1
    for progress in trainer.run():
        if progress.kind == "report" and progress.iteration == 10:
            found = progress.diagnostics
        elif progress.kind == "tick":
            before[progress.iteration] = [array.copy() for array in (trainer.theta, trainer.h, trainer.c)]
            trainer.call_iterations = 1
    (theta, h, c), after = before[10], before[11][0]
    starts, _ = trainer.batches.plan(10, 11)
    x = trainer.ids[starts[0] + np.arange(8)[:, None]].astype(np.int32)
    ref, shape = kernels.load("numpy"), trainer.shape
    _, grad, _, _ = ref.loss_and_grad(theta, h, c, x, shape=shape)
    grad = grad / 21
    assert found["grad_norm"] == pytest.approx(np.linalg.norm(grad), rel=1e-9)
    assert found["clipped"] == (1.0 if "grad_clip" not in clip else np.mean(np.abs(grad) > 0.001))
    assert 0 < found["clipped"] <= 1
    assert found["update_ratio"] == pytest.approx(np.linalg.norm(after - theta) / np.linalg.norm(theta), rel=1e-9)
    shares = {name: share for name, share in found.items() if name.startswith("saturation_")}
    assert shares == pytest.approx(saturated(theta, h, c, x, shape), abs=1e-12)
    assert min(shares.values()) > 0


def test_the_gradient_of_bfloat16_is_that_at_the_rounded_weights():
    config = small(iterations=1, batch_size=1, dtype="bfloat16", hidden_size=40)
    trainer = Trainer(config, CORPUS)
    found = trainer._diagnose()["grad_norm"]
    rounded, x = trainer.theta.copy(), trainer.ids[:8, None].astype(np.int32)
    for layer in spec.params(rounded, trainer.shape).layers:
        layer.W_h[...] = spec.round_to_bfloat16(layer.W_h)
    norms = [
        np.linalg.norm(kernels.load("numpy").loss_and_grad(theta, trainer.h, trainer.c, x, shape=trainer.shape)[1]) / 7
        for theta in (rounded, trainer.theta)
    ]
    assert found == pytest.approx(norms[0], rel=1e-6)
    assert found != pytest.approx(norms[1], rel=1e-6)


def test_the_gradient_in_mixed_precision_is_the_one_that_training_subtracts():
    config = small(
        iterations=1,
        dtype="bfloat16",
        optimizer="sgd",
        learning_rate=1.0,
        grad_clip_norm=None,
        hidden_size=24,
        weight_drop=0.3,
    )
    trainer = Trainer(config, CORPUS)
    before, found = trainer.theta.copy(), trainer._diagnose()["grad_norm"]
    trainer.train(0, 1, np.ones(1))
    assert found == pytest.approx(np.linalg.norm(trainer.theta - before), rel=1e-5)


def saturated(theta, h, c, x, shape):
    """Compute the shares step by step from the equations of the cells."""
    views, below, values = spec.params(theta, shape), np.eye(shape.vocab_size)[x[:-1]], {}
    ref, width = kernels.load("numpy"), shape.hidden_size
    for layer, h0, c0 in zip(views.layers, h, c, strict=True):
        states = (h0, c0) if spec.CELLS[shape.cell].has_c else (h0,)
        outputs = getattr(ref, f"{shape.cell}_forward")(below, *states, *layer)[0]
        before, a = outputs[:-1], below @ layer.W_x
        s = before @ layer.W_h
        if shape.cell == "rnn":
            values.setdefault("h", []).append(np.abs(outputs[1:]) > 0.9)
        else:
            z = a + s + layer.b_x + layer.b_h if shape.cell == "gru" else a + s + layer.b
            if shape.cell == "lnlstm":
                z = layer.gain_x * normal(a) + layer.gain_h * normal(s) + layer.b
            for gate, block in ({"r": 0, "z": 1} if shape.cell == "gru" else {"i": 0, "f": 1, "o": 3}).items():
                gates = 1 / (1 + np.exp(-z[:, :, block * width : (block + 1) * width]))
                values.setdefault(gate, []).append((gates < 0.1) | (gates > 0.9))
        below = outputs[1:]
    return {f"saturation_{gate}": np.mean(layers) for gate, layers in values.items()}


def normal(a):
    return (a - a.mean(-1, keepdims=True)) / np.sqrt(a.var(-1, keepdims=True) + spec.LAYER_NORM_EPSILON)


def test_a_gpu_gives_the_same(tmp_path, often, monkeypatch):
    """Emulated where there is none."""
    if kernels.missing("cupy") is not None:
        if emulator.COMPILER is None:
            pytest.skip(emulator.REASON)
        load("cupy")
        monkeypatch.setattr(presence, "problem", lambda: None)
    sizes = {"hidden_size": 9, "num_layers": 1, "seq_length": 6, "batch_size": 1, "dtype": "bfloat16"}
    results = []
    for backend in ("cupy", "numpy"):
        finish(start(CORPUS, small(**sizes, iterations=21, backend=backend), str(tmp_path / backend)))
        results.append(lines(tmp_path / backend)[-1])
    ours, theirs = ([line[name] for name in diagnostics.names("lstm")] for line in results)
    assert ours == pytest.approx(theirs, rel=1e-4, abs=1e-4)


def test_which_iterations_have_them_follows_from_the_options():
    def every(preset, **options):
        config = from_preset(preset, **options)
        return diagnostics.period(config, spec.Shape(65, config.hidden_size, config.num_layers, config.cell, 0))

    assert every("fast") == 1000
    assert every("fast", report_every=300) == 1200
    assert every("min-char-lstm") == 6600
    assert every("fast", diagnostics=False) == 0
    assert all(every("fast", threads=threads) == 1000 for threads in (1, 64))
