"""Weight drop: what an iteration leaves out of each recurrent matrix, and the gradient of what it reads."""

from contextlib import nullcontext
from itertools import pairwise

import numpy as np
import pytest
from test_chain import PATHS, agree, masks_for, model

from kernels import spec
from kernels.spec import Shape
from kernels.testing import relative_error

RATE, SEED = 0.4, 2**63 + 5


def trained(ops, path, dtype="float64", iterations=3, rate=RATE, cell="lstm", **options):
    """The losses, theta, h and c after some iterations of plain descent on a random model and text."""
    T, B, V, H, _ = path
    shape, theta, h, c, _ = model(path, dtype, cell=cell)
    ids = np.random.RandomState(6).randint(0, V, 400).astype(np.uint8)
    starts = np.random.RandomState(7).randint(0, 400 - T, (iterations, B))
    theta, h, c = theta / np.sqrt(H).astype(dtype), h.copy(), c.copy()
    losses = ops.train_steps(
        theta, np.zeros((0, len(theta)), dtype), h, c, ids, starts, np.arange(iterations) == 0, 1.0, shape=shape, seq_length=T, step=3, optimizer="sgd",
        grad_scale=1 / (T * B), grad_clip_norm=1.0, weight_drop=rate, seed=SEED, **options,
    )  # fmt: skip
    return losses, theta, h, c


@pytest.mark.parametrize("cell", ["gru", "rnn", "lnlstm"])
def test_other_cells_as_the_reference(ops, ref, cell):
    path = 4, 3, 11, 20, 2
    agree(trained(ops, path, cell=cell), lambda d: trained(ref, path, d, cell=cell), "float64", tolerance=1e-10)


@pytest.mark.parametrize("path", PATHS, ids=str)
def test_every_path_as_the_reference_with_any_number_of_threads(ops, ref, path):
    *sizes, threads = path[:6]
    cell = path[6] if len(path) > 6 else "lstm"
    got = trained(ops, sizes, cell=cell)
    agree(got, lambda d: trained(ref, sizes, d, cell=cell), "float64", tolerance=1e-10)
    again = trained(ops, sizes, cell=cell, threads=threads)
    assert [array.tobytes() for array in again] == [array.tobytes() for array in got]


def test_gradient_by_central_differences(ref):
    """Plain descent at rate 1 changes theta by the gradient of the loss as a function of all weights, also those kept."""
    T, B, V, H = 5, 2, 7, 6
    shape, theta, h, c, x = model((T, B, V, H, 2), "float64")
    ids = np.concatenate([*x.T, [0]]).astype(np.uint8)
    starts, reset = np.array([[0, T + 1]]), np.zeros(1, bool)
    factors = spec.factors(shape, "float64", RATE, SEED, 3)
    after = theta.copy()
    ref.train_steps(
        after, np.zeros((0, len(theta))), h.copy(), c.copy(), ids, starts, reset, 1.0, shape=shape, seq_length=T,
        optimizer="sgd", step=3, weight_drop=RATE, seed=SEED,
    )  # fmt: skip

    def loss(weights):
        return ref.loss_and_grad(weights * factors, h, c, x, shape=shape)[0]

    direction = np.random.RandomState(2).randn(20, len(theta))
    for along in (*direction, *np.eye(len(theta))[:: len(theta) // 40]):
        numeric = (loss(theta + 1e-6 * along) - loss(theta - 1e-6 * along)) / 2e-6
        assert abs(numeric - (theta - after) @ along) < 1e-7 * max(1, abs(numeric))


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_one_call_or_several_give_the_same_bits(ops, dtype):
    T, B, V, H = 4, 3, 9, 70
    shape, theta, h, c, _ = model((T, B, V, H, 1), dtype)
    ids = np.random.RandomState(1).randint(0, V, 300).astype(np.uint8)
    starts = np.random.RandomState(2).randint(0, 290, (9, B))
    results = []
    for cuts in ([0, 9], [0, 1, 4, 9]):
        arrays = [each.copy() for each in (theta, np.zeros((1, len(theta)), dtype), h, c)]
        for begin, end in pairwise(cuts):
            ops.train_steps(
                *arrays, ids, starts[begin:end], np.zeros(end - begin, bool), 0.1, shape=shape, seq_length=T, step=begin,
                weight_drop=RATE, seed=SEED,
            )  # fmt: skip
        results.append([array.tobytes() for array in arrays])
    assert results[0] == results[1]


@pytest.mark.parametrize("why", ["smoothed loss", "not finite", "unknown id"])
@pytest.mark.parametrize(("H", "B"), [(20, 1), (70, 1), (20, 9)])
def test_an_iteration_that_ends_the_call_leaves_the_weights_whole(ops, why, H, B):
    T, V = 4, 9
    shape, *arrays = model((T, B, V, H, 1), "float64")
    theta, h, c = (each.copy() for each in arrays[:3])
    if why == "not finite":
        spec.params(theta, shape).b_y[0] = np.nan
    before, ids = theta.copy(), np.zeros(99, np.uint8)
    if why == "unknown id":
        ids[2] = V
    with pytest.raises(ValueError, match="ids: expected") if why == "unknown id" else nullcontext():
        losses = ops.train_steps(
            theta, np.zeros((1, len(theta))), h, c, ids, np.zeros((3, B), np.int64), np.zeros(3, bool), 0.1,
            shape=shape, seq_length=T, weight_drop=RATE, threads=2, smooth_loss=1.0,
            stop_below=99.0 if why == "smoothed loss" else -np.inf,
        )  # fmt: skip
        assert len(losses) == 1
    assert theta.tobytes() == before.tobytes()


def test_no_weight_is_left_out_at_rate_zero(ops):
    path = 4, 3, 9, 20, 1
    wanted = trained(ops, path, rate=0.0)
    assert [a.tobytes() for a in wanted] != [a.tobytes() for a in trained(ops, path)]
    shape = Shape(9, 20)
    assert (spec.factors(shape, "float32", 0.0, 1, 2) == 1).all()


@pytest.mark.parametrize("rate", [0.1, 0.5, 0.9])
def test_choices_are_as_frequent_as_said_and_independent(rate):
    shape = Shape(5, 150, 2)
    W_h = np.array([
        [layer.W_h for layer in spec.params(spec.factors(shape, "float64", rate, seed, step), shape).layers]
        for seed, step in ((1, 0), (1, 1), (2, 0), (2**64 - 1, 2**62))
    ])  # fmt: skip
    kept = W_h.reshape(4, -1) > 0
    assert set(np.unique(W_h)) == {0, 1 / (1 - rate)}
    error = 5 * np.sqrt(rate * (1 - rate) / kept.shape[1])
    assert np.abs(kept.mean(axis=1) - (1 - rate)).max() < error
    mean = kept.mean(axis=1)
    for one, other in zip(*np.triu_indices(4, 1), strict=True):  # two iterations or seeds
        assert abs((kept[one] & kept[other]).mean() - mean[one] * mean[other]) < error
    for by in (1, 2, 150, 600):  # two elements
        assert np.abs((kept[:, by:] & kept[:, :-by]).mean(axis=1) - mean**2).max() < error


def test_bfloat16_of_batches_rounds_what_is_left(ops, ref):
    """The distance to the reference, which rounds the same weights, is small beside that of another choice."""
    path = T, B, _, H, L = 4, 8, 9, 40, 2
    options = {"bfloat16": True, "dropout": 0.2, "masks": masks_for(0.2, 3, L, T, B, H)}
    got, wanted = (trained(each, path, "float32", 3, **options) for each in (ops, ref))
    other = trained(ref, path, "float32", 3, rate=0.0, **options)
    assert relative_error(got[1], wanted[1]) < 0.05 * relative_error(other[1], wanted[1])
