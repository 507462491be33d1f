"""The chain of trust for the GPU backend, with its own launcher and CUDA source.

Without a GPU the kernels run on the CPU (tests/device). test_mutations.py plants mistakes in the source and expects
this file to fail.
"""

import json
import os
import subprocess
import sys
from contextlib import contextmanager
from types import SimpleNamespace

import numpy as np
import pytest
from conftest import ROOT, load
from device import emulator, fake_cupy
from test_chain import (
    EXTRAS,
    MIXED,
    MIXED_OF_OTHERS,
    PATHS,
    SIZES,
    agree,
    check_mixed,
    follow,
    masks_for,
    model,
    trace_of,
)

import kernels
from charlstm.measure.bench import WORKS, text_ids
from kernels import spec, testing
from kernels.gpu.block import memory
from kernels.spec import Shape
from kernels.testing import FLOAT64_TOLERANCE, float32_excess, relative_error

IS_REAL = kernels.missing("cupy") is None
pytestmark = pytest.mark.skipif(not IS_REAL and emulator.COMPILER is None, reason=emulator.REASON)

CELLS = [cell for cell, row in spec.CELLS.items() if row.on_device]


@pytest.fixture(scope="module")
def gpu():
    return load("cupy")


@pytest.fixture(scope="module")
def small(gpu):
    from kernels.gpu import small

    return small


@pytest.fixture(params=[0, 1, 2], ids=lambda seed: f"order{seed}")
def any_order(request, monkeypatch):
    """Run a block's threads in a different order for each seed; seed 0 is the order of their numbers."""
    monkeypatch.setattr(emulator.Function, "seed", request.param)


@contextmanager
def launches(count):
    """Assert that the body launches `count` kernels, where the emulator can count them."""
    before = emulator.Function.launches
    yield
    assert IS_REAL or emulator.Function.launches - before == count


# --------------------------------------------------------------------------------------------- the chain of trust
@pytest.mark.parametrize(
    "cell", ["lstm", pytest.param("gru", marks=pytest.mark.long), pytest.param("rnn", marks=pytest.mark.long)]
)
def test_gradients_by_central_differences(gpu, cell):
    for check in testing.gradient_errors(gpu, cells=(cell,), sizes=testing.Sizes(3, 2, 5, 3, 4, 2), layers=(1, 3)):
        assert check.error < testing.GRADIENT_TOLERANCE, check


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", SIZES, ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_whole_model_as_the_reference(gpu, ref, size, dtype, cell):
    shape, theta, h, c, x = model(size, dtype, cell=cell)
    got = gpu.loss_and_grad(theta, h, c, x, shape=shape)
    agree(got, lambda d: ref.loss_and_grad(theta.astype(d), h.astype(d), c.astype(d), x, shape=shape), dtype)


@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize(("B", "defines"), [(2, {}), (3, {"WIDE": 1})])
def test_cells_that_need_64_bits_as_the_reference(gpu, ref, monkeypatch, cell, B, defines):
    """The kernels for 2^31 cells and more, here for 20 and more; an LSTM makes its steps one by one."""
    from kernels.gpu import layers

    steps, each = [], layers.each

    def seen(file, name, *given, **more):
        steps.extend([more["defines"]] if file == "cells" else [])
        return each(file, name, *given, **more)

    monkeypatch.setattr(layers.persistent, "layout", lambda *sizes: None)
    monkeypatch.setattr(layers, "_WIDE", 20)
    monkeypatch.setattr(layers, "each", seen)
    T, H, L = 4, 7, 2
    shape, theta, h, c, x = model((T, B, 11, H, L), "float64", cell=cell)
    got = gpu.loss_and_grad(theta, h, c, x, shape=shape)
    agree(got, lambda d: ref.loss_and_grad(theta, h, c, x, shape=shape), "float64")
    assert steps == 2 * T * L * [defines]


@EXTRAS
@pytest.mark.parametrize("cell", CELLS)
@pytest.mark.parametrize("last_only", [False, True], ids=["all", "last"])
def test_dropout_and_embedding_as_the_reference(gpu, ref, embedding_size, dropout, cell, last_only, any_order):
    T, B, V, H, L = 4, 5, 37, 9, 2
    shape, theta, h, c, x = model((T, B, V, H, L), "float64", cell=cell, embedding_size=embedding_size)
    options = {"shape": shape, "dropout": dropout, "masks": masks_for(dropout, L, T, B, H), "last_only": last_only}
    got = gpu.loss_and_grad(theta, h, c, x, **options)
    agree(got, lambda d: ref.loss_and_grad(theta, h, c, x, **options), "float64")


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("path", [PATHS[2], PATHS[4], PATHS[10], PATHS[13]], ids=str)
def test_several_iterations_as_the_reference(gpu, ref, path, dtype):
    follow(gpu, path, dtype)


@pytest.mark.parametrize("clipping", [{}, {"grad_clip": 0.05}, {"grad_clip": 0.1, "grad_clip_norm": 0.3}], ids=str)
@pytest.mark.parametrize("optimizer", spec.OPTIMIZERS)
def test_every_optimizer_as_the_reference(gpu, ref, optimizer, clipping):
    train_both(gpu, ref, (5, 2, 17, 9, 2), "float64", optimizer, clipping)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_scores_and_draws_as_the_reference(gpu, ref, dtype):
    shape, theta, h, c, x = model((6, 3, 41, 9, 2), dtype)
    got, exact = [], []
    for ops, real, out in ((gpu, dtype, got), (ref, "float64", exact)):
        states = [[a.astype(real) for a in (h, c)] for _ in range(2)]
        uniforms, log_probs = np.random.RandomState(1).random_sample((30, 3)), np.full((30, 3), np.nan)
        out += [ops.score(theta.astype(real), *states[0], x, shape=shape), *states[0]]
        out += [
            ops.sample(
                theta.astype(real), *states[1], x[0].copy(), uniforms, shape=shape, temperature=0.8, top_k=9, top_p=0.9,
                log_probs=log_probs,
            ), log_probs, *states[1],
        ]  # fmt: skip
    for part, (a, b) in enumerate(zip(got, exact, strict=True)):
        assert relative_error(a, b) < (FLOAT64_TOLERANCE if dtype == "float64" else 1e-5), part


@pytest.mark.parametrize("cell", CELLS)
def test_our_own_trace(gpu, cell):
    """Train 300 iterations, by the block kernel for the LSTM and by launches for the others, then sample."""
    trace = json.loads((ROOT / "tests" / "data" / f"trace-{cell}.json").read_text())
    losses, drawn = trace_of(gpu, trace)
    assert losses == pytest.approx(trace["losses"], rel=1e-9)
    assert drawn.tolist() == trace["drawn"]


# ------------------------------------------------------------------------------------------------- the small model's block
def train_both(gpu, ref, size, dtype, optimizer="adagrad", options=None, n=7):
    """Train with both, compare every array that they write, and return the losses."""
    T, B, V, H, _ = size
    shape, theta, h, c, _ = model(size, dtype)
    theta = theta / np.sqrt(H).astype(dtype)
    ids = np.random.RandomState(6).randint(0, V, 90 * B).astype(np.uint8)
    starts = np.ascontiguousarray(np.arange(n)[:, None] * T % 40 + np.arange(B) * 90, np.int64)

    def train(ops, d):
        arrays = [a.astype(d) for a in (theta, np.zeros((spec.slots(optimizer), len(theta))), h, c)]
        losses = ops.train_steps(
            *arrays, ids, starts, np.arange(n) % 4 == 3, np.linspace(0.02, 0.01, n), shape=shape, seq_length=T, step=3,
            optimizer=optimizer, grad_scale=1 / (T * B), **(options or {}),
        )  # fmt: skip
        return losses, *arrays

    got = train(gpu, dtype)
    agree(got, lambda d: train(ref, d), dtype, tolerance=1e-10)
    return got[0]


@pytest.mark.parametrize("optimizer", spec.OPTIMIZERS)
def test_a_block_with_every_optimizer(gpu, ref, small, optimizer, any_order):
    with launches(2):  # one launch gathers the ids, one runs all iterations
        train_both(gpu, ref, (4, 1, 35, 29, 1), "float64", optimizer, {"grad_clip": 0.02})


@pytest.mark.parametrize(
    ("size", "dtype"),
    [((1, 1, 2, 1, 1), "float64"), ((9, 1, 5, 4, 1), "float64"), ((3, 1, 9, 37, 1), "float64"), ((3, 1, 70, 57, 1), "float32"), ((3, 1, 9, 112, 1), "float32")],
    ids=str,
)  # fmt: skip
def test_a_block_of_any_size(gpu, ref, size, dtype):
    with launches(2):
        train_both(gpu, ref, size, dtype, n=4)


def memory_that_holds(size, shared):
    """Return the least shared memory with which a block keeps exactly these arrays in it."""
    T, _, V, H, _ = size
    for most in range(1000, 100_000, 8):
        found = memory(H, T, V, 8, most)
        if found is not None and found.shared == shared:
            return most
    raise AssertionError(f"nothing between 1 and 100 kB gives {shared}")


@pytest.mark.skipif(IS_REAL, reason="a device has the memory that it has")
@pytest.mark.parametrize("shared", [0, 1, 2, 3, 7])
def test_what_finds_no_room_in_shared_memory_lies_elsewhere(gpu, ref, monkeypatch, shared):
    size = (5, 1, 35, 7, 1)
    most = memory_that_holds(size, shared)
    monkeypatch.setitem(fake_cupy.ATTRIBUTES, "MaxSharedMemoryPerBlockOptin", most)
    with launches(2):
        train_both(gpu, ref, size, "float64", "adam")


def test_gradients_of_a_block_by_central_differences(gpu, small):
    shape, theta, h, c, x = model((5, 1, 7, 3, 1), "float64", seed=2)
    ids = x[:, 0].astype(np.uint8)

    def one(theta):
        after = theta.copy()
        losses = gpu.train_steps(
            after, np.zeros((0, len(theta))), h.copy(), c.copy(), ids, np.zeros((1, 1), np.int64), np.zeros(1, bool),
            np.ones(1), shape=shape, seq_length=5, optimizer="sgd",
        )  # fmt: skip
        return losses[0], theta - after

    with launches(2):
        found = one(theta.copy())[1]
    moved = theta.copy()
    expected = testing.numerical_gradient(lambda: one(moved)[0], moved)
    blocks = zip(spec.named(found, shape).items(), spec.named(expected, shape).values(), strict=True)
    for (name, got), wanted in blocks:
        assert relative_error(got, wanted) < testing.GRADIENT_TOLERANCE, name


@pytest.mark.parametrize("name", ["seed", "h256-b16"] if IS_REAL else ["seed"])
def test_the_works_that_are_measured_follow_the_processor(gpu, ref, name):
    """Train for fifty float32 iterations: the GPU strays as little from float64's losses as the reference does.

    Rounding errors grow from iteration to iteration, so neither float32 curve follows the other closely.
    """
    work, n = WORKS[name], 50
    ids = text_ids(work)
    starts, reset = work.plan(len(ids)).plan(0, n)
    curves = []
    for ops, dtype in ((gpu, "float32"), (ref, "float32"), (ref, "float64")):
        theta = work.weights("float64").astype(dtype)
        slots = spec.slots(work.optimizer, work.hyper)
        h = np.zeros((work.shape.num_layers, work.batch_size, work.shape.hidden_size), dtype)
        curves.append(
            ops.train_steps(
                theta, np.zeros((slots, len(theta)), dtype), h, h.copy(), ids, starts, reset,
                np.full(n, work.learning_rate), shape=work.shape, seq_length=work.seq_length, optimizer=work.optimizer,
                grad_scale=work.grad_scale, grad_clip=work.grad_clip, grad_clip_norm=work.grad_clip_norm,
            )
        )  # fmt: skip
    assert curves[2][-1] < 0.9 * curves[2][0]
    strays = [np.abs(curve / curves[2] - 1).max() for curve in curves[:2]]
    assert strays[0] < 10 * strays[1] < 0.1, strays


def small_training(n=12):
    random, shape = np.random.RandomState(3), Shape(11, 9)
    theta = random.randn(spec.num_parameters(shape)) * 0.3
    arrays = [theta, np.zeros((1, len(theta))), np.zeros((1, 1, 9)), np.zeros((1, 1, 9))]
    ids = random.randint(0, 11, 200).astype(np.uint16)
    starts = np.ascontiguousarray(np.arange(n)[:, None] * 5, np.int64)
    return arrays, ids, starts, np.arange(n) % 5 == 0, np.full(n, 0.05), {"shape": shape, "seq_length": 5}


@pytest.mark.parametrize("optimizer", ["sgd", "adagrad", "adam"])  # with none, one and two arrays of state
def test_a_launch_trains_many_models(gpu, ref, monkeypatch, small, optimizer, any_order):
    """A block each: launches cut anywhere, W_y, dz and factors in memory that all blocks share."""
    monkeypatch.setattr(small, "_FIRST_LAUNCH", 2)
    monkeypatch.setattr(small, "_MOST_OF_ALL", 15)  # iterations of three models: five of each
    if not IS_REAL:
        monkeypatch.setitem(
            fake_cupy.ATTRIBUTES, "MaxSharedMemoryPerBlockOptin", memory_that_holds((5, 1, 11, 9, 1), 0)
        )
    random, shape, models, n = np.random.RandomState(3), Shape(11, 9), 3, 12
    N, slots = spec.num_parameters(shape), spec.slots(optimizer)
    arrays = [random.randn(models, N) * 0.3, np.zeros((models, slots, N)), *random.randn(2, models, 1, 1, 9)]
    ids, starts = random.randint(0, 11, 200).astype(np.uint16), random.randint(0, 190, (models, n, 1))
    plan = ids, starts, random.random_sample((models, n)) < 0.2, random.random_sample((models, n)) * 0.02
    outcomes = []
    for ops in (gpu, ref):
        own = [a.copy() for a in arrays]
        outcomes.append([ops.train_steps(*own, *plan, shape=shape, seq_length=5, optimizer=optimizer), *own])
    for got, wanted in zip(*outcomes, strict=True):
        assert relative_error(got, wanted) < 1e-10 if wanted.size else not got.size
    monkeypatch.setattr(small, "_FIRST_LAUNCH", 50)
    monkeypatch.setattr(small, "_MOST_OF_ALL", 2**20)
    with launches(2):  # one gathers the ids of all models, one trains them
        losses = gpu.train_steps(*arrays, *plan, shape=shape, seq_length=5, optimizer=optimizer)
    assert losses.tobytes() == outcomes[0][0].tobytes()
    assert [a.tobytes() for a in arrays] == [a.tobytes() for a in outcomes[0][1:]]


def test_launches_of_a_block_may_be_cut_anywhere(gpu, small, monkeypatch):
    arrays, *plan, options = small_training()
    whole = [a.copy() for a in arrays]
    losses = gpu.train_steps(*whole, *plan, **options)
    monkeypatch.setattr(small, "_FIRST_LAUNCH", 1)
    monkeypatch.setattr(small, "_MOST_ITERATIONS", 7)
    assert gpu.train_steps(*arrays, *plan, **options).tobytes() == losses.tobytes()
    assert [a.tobytes() for a in arrays] == [a.tobytes() for a in whole]


@pytest.mark.parametrize("at", [0, 4, 11])
@pytest.mark.parametrize("why", ["low", "inf"])
def test_a_block_ends_where_the_reference_does(gpu, ref, why, at):
    arrays, ids, starts, reset, rates, options = small_training()
    if why == "inf" and at == 0:
        arrays[0][:] = np.nan
    elif why == "inf":
        rates[at - 1] = 1e308
    else:
        losses = ref.train_steps(*(a.copy() for a in arrays), ids, starts, reset, rates, **options)
        curve = [40.0]
        for loss in losses[: at + 1]:
            curve.append(spec.SMOOTHING * curve[-1] + (1 - spec.SMOOTHING) * loss)
        options |= {"smooth_loss": 40.0, "stop_below": (curve[at] + curve[at + 1]) / 2}
    found = []
    for ops in (gpu, ref):
        own = [a.copy() for a in arrays]
        found.append([ops.train_steps(*own, ids, starts, reset, rates, **options), *own])
    assert len(found[0][0]) == at + 1
    if why == "inf":  # on overflow, a block does not touch rows of W_x that no id selects
        found = [[losses, h, c] for losses, _, _, h, c in found]
    for got, wanted in zip(*found, strict=True):
        np.testing.assert_allclose(got, wanted, rtol=1e-9, atol=1e-12)


@pytest.mark.parametrize("batch", [1, 2])  # by a block, and by launches
def test_an_interruption_leaves_all_arrays_of_one_iteration(gpu, small, monkeypatch, batch):
    from kernels.gpu import pace, training

    (theta, state, *_), *plan, options = small_training()
    plan[1] = np.ascontiguousarray(plan[1] + np.arange(batch))
    arrays = [theta, state, *np.zeros((2, 1, batch, 9))]
    owner, made = (small._Blocks, 3) if batch == 1 else (training._Graph, 1)  # iterations of the first call
    monkeypatch.setattr(small, "_FIRST_LAUNCH", made)
    monkeypatch.setattr(pace, "_SECONDS", 0.0)
    plain, calls = owner.run, []

    def interrupted(*arguments):
        calls.append(owner)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return plain(*arguments)

    expected, out = [a.copy() for a in arrays], np.zeros(12)
    monkeypatch.setattr(owner, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        gpu.train_steps(*arrays, *plan, out=out, **options)
    count = int(np.isfinite(out).sum())
    assert count == made + 1 if batch == 1 else 2
    losses = gpu.train_steps(*expected, plan[0], *(a[:count] for a in plan[1:]), **options)
    assert out[:count].tobytes() == losses.tobytes()
    assert [a.tobytes() for a in arrays] == [a.tobytes() for a in expected]


def test_ids_out_of_range_are_named(gpu):
    for batch in (1, 2):  # by a block, and by launches
        shape, ids = Shape(11, 9), np.full(60, 3, np.uint32)
        ids[[23, 40]] = 11, 2**31 + 5
        theta = np.zeros(spec.num_parameters(shape))
        state, h, c = np.zeros((1, len(theta))), *np.zeros((2, 1, batch, 9))
        starts = np.arange(8 * batch).reshape(8, batch) * 3
        with pytest.raises(ValueError, match=r"ids: expected ids in \[0, 11\), got 11 at 23"):
            gpu.train_steps(theta, state, h, c, ids, starts, np.zeros(8, bool), np.ones(8), shape=shape, seq_length=5)
        assert not theta.any()


# ---------------------------------------------------------------------------------- all steps of a layer in one launch
@pytest.fixture
def together(monkeypatch):
    """Emulate a device whose blocks can wait for each other."""
    if not IS_REAL:
        monkeypatch.setitem(fake_cupy.ATTRIBUTES, "CooperativeLaunch", 1)


def launches_of(run):
    before = emulator.Function.launches
    run()
    return emulator.Function.launches - before


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize(
    "size", [(3, 5, 7, 19, 1), (2, 64, 5, 9, 1), (5, 1, 4, 3, 2), (2, 9, 5, 8, 2), (3, 2, 5, 113, 1)], ids=str
)
def test_steps_in_one_launch_as_the_reference(gpu, ref, together, any_order, size, dtype):
    shape, theta, h, c, x = model(size, dtype)
    got = gpu.loss_and_grad(theta, h, c, x, shape=shape)
    agree(got, lambda d: ref.loss_and_grad(theta.astype(d), h.astype(d), c.astype(d), x, shape=shape), dtype)


def test_a_layer_goes_on_from_gradients_of_its_last_state(gpu, ref, together):
    random = np.random.RandomState(4)
    T, B, D, H = 4, 3, 5, 11
    x, h0, c0 = random.randn(T, B, D), random.randn(B, H), random.randn(B, H)
    weights = [random.randn(*dims) * 0.4 for dims in ((D, 4 * H), (H, 4 * H), (4 * H,))]
    dh, dh_last, dc_last = random.randn(T, B, H), random.randn(B, H), random.randn(B, H)
    found = []
    for ops in (gpu, ref):
        h, c, cache = ops.lstm_forward(x, h0, c0, *weights)
        found.append([h, c, *ops.lstm_backward(dh, cache, dh_last, dc_last)])
    for got, wanted in zip(*found, strict=True):
        assert relative_error(got, wanted) < FLOAT64_TOLERANCE


@pytest.mark.skipif(IS_REAL, reason="a device has the sizes that it has")
@pytest.mark.parametrize(
    ("size", "device", "is_one"),
    [
        ((6, 2, 5, 19, 1), {}, True),
        ((6, 2, 5, 19, 1), {"CooperativeLaunch": 0}, False),
        ((2, 65, 5, 9, 1), {}, False),  # more streams than a block has cells for
        (
            (6, 2, 5, 19, 1),
            {"MaxSharedMemoryPerBlockOptin": 8 * (2 * 4 * 19 + 4 * 4 * 19 + 32 * 65) - 8, "MultiProcessorCount": 5},
            False,
        ),
        (
            (6, 2, 5, 19, 1),
            {"MaxSharedMemoryPerBlockOptin": 8 * (2 * 4 * 19 + 4 * 4 * 19 + 32 * 65), "MultiProcessorCount": 5},
            True,
        ),
        (
            (6, 9, 5, 19, 1),
            {"MaxSharedMemoryPerBlockOptin": 8 * (8 * 4 * 19 + 4 * 4 * 19 + 32 * 65), "MultiProcessorCount": 5},
            True,
        ),
        ((6, 2, 5, 19, 1), {"MultiProcessorCount": 1}, True),
        ((6, 2, 5, 50, 1), {"MaxSharedMemoryPerBlockOptin": 36000, "MultiProcessorCount": 7}, True),  # 8 units
        ((6, 2, 5, 50, 1), {"MaxSharedMemoryPerBlockOptin": 36000, "MultiProcessorCount": 6}, False),
        ((1, 2, 5, 19, 1), {}, False),  # with one step, there are no launches to save
    ],
    ids=str,
)
def test_where_blocks_cannot_run_at_once_steps_are_launches(gpu, ref, together, monkeypatch, size, device, is_one):
    from kernels.gpu import persistent

    T, B, _, H, _ = size
    for name, value in device.items():
        monkeypatch.setitem(fake_cupy.ATTRIBUTES, name, value)
    assert bool(persistent.layout(T, B, H, np.dtype("float64"))) == is_one
    shape, theta, h, c, x = model(size, "float64")
    found = []
    count = launches_of(lambda: found.extend(gpu.loss_and_grad(theta, h, c, x, shape=shape)))
    agree(found, lambda d: ref.loss_and_grad(theta, h, c, x, shape=shape), "float64")
    monkeypatch.setitem(fake_cupy.ATTRIBUTES, "CooperativeLaunch", 0)
    by_steps = launches_of(lambda: gpu.loss_and_grad(theta, h, c, x, shape=shape))
    assert by_steps - count == (2 * (T - 1) if is_one else 0)


@pytest.mark.skipif(IS_REAL, reason="CuPy makes such a grid smaller")
def test_blocks_that_would_not_run_at_once_are_an_error(gpu, together, monkeypatch):
    from kernels.gpu import persistent

    h, gates = gpu.to_device(np.zeros((3, 2, 19))), gpu.to_device(np.zeros((2, 2, 76)))
    how = persistent.layout(2, 2, 19, np.dtype("float64"))
    call = persistent.forward(how, gpu.to_device(np.zeros((19, 76))), gates, gpu.to_device(np.zeros((3, 2, 19))), h)
    call()
    monkeypatch.setitem(fake_cupy.ATTRIBUTES, "MultiProcessorCount", 0)
    with pytest.raises(emulator.LaunchError, match="lstm_steps: 5 blocks do not run at the same time"):
        call()


# --------------------------------------------------------------------------------------------------------- the launcher
def test_calls_are_refused_and_accepted_as_on_the_processor():
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", ROOT / "tests" / "kernel" / "test_arguments.py"],
        env={**os.environ, "CHARLSTM_TEST_BACKEND": "cupy"}, cwd=ROOT, capture_output=True, text=True, timeout=400,
        check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert "[cupy]" not in done.stdout  # no test failed and none was skipped
    assert " passed" in done.stdout


def test_arrays_of_the_host_are_refused_by_name(gpu):
    from kernels.gpu import ops

    on_device = gpu.to_device(np.zeros(4))
    with pytest.raises(ValueError, match=r"grad: expected an array on the device, got numpy.ndarray; cupy.asarray"):
        ops.sgd(on_device, np.zeros(4), gpu.to_device(np.zeros((0, 4))), 0, learning_rate=0.1)
    with pytest.raises(ValueError, match="theta: expected an array on the device, got list"):
        ops.sgd([1.0], on_device, on_device, 0, learning_rate=0.1)


def test_memory_of_others_on_the_device_is_taken_without_copying(gpu):
    from kernels.gpu import ops

    theirs = gpu.to_device(np.ones(4))

    told = {"shape": (4,), "typestr": "<f8", "version": 3, "data": (theirs.data.ptr, False), "strides": None}
    tensor = SimpleNamespace(__cuda_array_interface__=told)

    ops.sgd(tensor, gpu.to_device(np.ones(4)), gpu.to_device(np.zeros((0, 4))), 0, learning_rate=0.25)
    assert theirs.get().tolist() == [0.75] * 4


def test_every_op_has_the_signature_of_all_backends(gpu):
    import inspect

    from kernels.gpu import ops

    for module in (ops, gpu):
        assert sorted(module.__all__) == sorted([*spec.OPS, "workspace"])
        for op, signature in spec.OPS.items():
            plain = inspect.signature(getattr(module, op))
            bare = plain.replace(
                parameters=[p.replace(annotation=p.empty) for p in plain.parameters.values()],
                return_annotation=plain.empty,
            )
            assert str(bare) == signature, op
            assert getattr(module, op).__doc__


@pytest.mark.parametrize(
    ("order", "message"),
    [({"reverse": True}, "reverse: expected False"), ({"lengths": np.array([1])}, "lengths: expected None")],
)
def test_layers_refuse_another_order_in_one_line(gpu, order, message):
    weights = np.ones((3, 2)), np.ones((2, 2)), np.ones(2)
    with pytest.raises(ValueError, match=f"^{message} on the cupy backend, which runs whole sequences forward$"):
        gpu.rnn_forward(np.ones((2, 1, 3)), np.ones((1, 2)), *weights, **order)


def test_a_step_is_a_layers_step(gpu, ref):
    x, h, *weights = np.ones((4, 3)), np.ones((4, 2)), np.ones((3, 8)), np.ones((2, 8)), np.ones(8)
    found, wanted = (ops.lstm_step(x, h, 2 * h, *weights) for ops in (gpu, ref))
    for got, each in zip(found, wanted, strict=True):
        assert got == pytest.approx(each, rel=1e-12)


def test_products_in_any_arrangement(gpu):
    from kernels.gpu.matmul import product

    random = np.random.RandomState(0)
    a, b = random.randn(5, 7), random.randn(7, 3)
    for turn_a in (False, True):
        for turn_b in (False, True):
            left, right = (m.T.copy() if turn else m for m, turn in ((a, turn_a), (b, turn_b)))
            out = gpu.to_device(np.ones((5, 3)))
            product(gpu.to_device(left), gpu.to_device(right), out, turn_a=turn_a, turn_b=turn_b, add=True)()
            assert relative_error(out.get(), a @ b + 1) < FLOAT64_TOLERANCE
            product(gpu.to_device(left), gpu.to_device(right), out, turn_a=turn_a, turn_b=turn_b)()
            assert relative_error(out.get(), a @ b) < FLOAT64_TOLERANCE


def test_rounding_keeps_every_kind_of_number(gpu):
    from kernels.gpu.launch import each

    bits = np.random.RandomState(0).randint(0, 2**32, 5000, dtype=np.uint64).astype(np.uint32)
    special = [
        0x7FFFFFFF,
        0xFFFFFFFF,
        0x7F800001,
        0x7F800000,
        0xFF800000,
        0x7F7FFFFF,
        0,
        0x80000000,
        1,
        0x3F808000,
        0x3F818000,
    ]
    bits[: len(special)] = special
    values = gpu.to_device(bits.view(np.float32))
    each("model", "rounded_to_bfloat16", values.dtype, values.size, values, values, np.int64(values.size))()
    wanted = spec.round_to_bfloat16(bits.view(np.float32))
    np.testing.assert_array_equal(kernels.to_host(values).view(np.uint32), wanted.view(np.uint32))


@pytest.mark.parametrize(MIXED, [("lstm", 0, 0.4, False), *(case for case in MIXED_OF_OTHERS if case[0] in CELLS)])
def test_mixed_precision_as_the_reference(gpu, ref, cell, embedding_size, dropout, last_only):
    check_mixed(gpu, ref, cell, embedding_size, dropout, last_only)


def test_bfloat16_weights_as_the_reference(gpu, ref):
    shape, theta, h, c, _ = model((4, 1, 11, 33, 2), "float32")
    ids, outcomes = np.random.RandomState(3).randint(0, 11, 50).astype(np.uint8), []
    for ops, real in ((gpu, "float32"), (ref, "float32")):
        arrays = [a.astype(real) for a in (theta, np.zeros((0, len(theta))), h, c)]
        losses = ops.train_steps(
            *arrays, ids, np.full((1, 1), 4), np.zeros(1, bool), np.ones(1), shape=shape, seq_length=4,
            optimizer="sgd", bfloat16=True,
        )  # fmt: skip
        outcomes.append([losses, *arrays])
    for got, wanted in zip(*outcomes, strict=True):
        assert float32_excess(got, wanted, wanted.astype(np.float64)) <= 1
