"""The chain of trust: finite differences check the reference, the reference checks every backend, traces check both.

test_mutations.py runs this file against kernels with a planted mistake, and expects it to fail.
"""

import json
from functools import cache

import numpy as np
import pytest
from conftest import ROOT, SHARED, needs_shared
from numpy.linalg import norm
from scalar_lstm import loss_and_state

import kernels
from kernels import spec, testing
from kernels.spec import Shape
from kernels.testing import FLOAT64_TOLERANCE, float32_excess, relative_error

SIZES = [  # T, B, V, H, L: small, odd and all different, and sizes at the edges of the register tiles
    (5, 2, 7, 3, 1),
    (1, 1, 2, 1, 1),
    (4, 5, 3, 17, 2),
    (16, 1, 71, 100, 1),
    (2, 33, 300, 9, 1),
    (7, 9, 11, 33, 3),
]


CELLS = tuple(spec.CELLS)
#: Embedding size and dropout of models that have either or both.
EXTRAS = pytest.mark.parametrize(("embedding_size", "dropout"), [(0, 0.3), (5, 0.0), (13, 0.5)])


def model(size, dtype, seed=0, cell="lstm", embedding_size=0):
    """Return read-only theta, h, c and x of a model of one of SIZES, with nonzero, different states."""
    T, B, V, H, L = size
    random, shape = np.random.RandomState(seed), Shape(V, H, L, cell, embedding_size)
    theta = (random.randn(spec.num_parameters(shape)) * 0.4).astype(dtype)
    h, c = ((random.randn(L, B, H) * 0.7).astype(dtype) for _ in range(2))
    x = random.randint(0, V, (T + 1, B)).astype(np.int32)
    for array in (theta, h, c, x):
        array.flags.writeable = False
    return shape, theta, h, c, x


# -------------------------------------------------------------------- 1. finite differences check the reference
# Two quick tests come first: they find the mistakes that only they detect before much code is compiled.
def test_loss_and_state_by_plain_python(ops):
    shape, theta, h, c, x = model((6, 1, 7, 3, 1), "float64")
    layer, W_y, b_y = (params := spec.params(theta, shape)).layers[0], params.W_y, params.b_y
    expected = loss_and_state(*(a.tolist() for a in (*layer, W_y, b_y, h[0, 0], c[0, 0], x[:, 0])))
    loss, _, h_last, c_last = ops.loss_and_grad(theta, h, c, x, shape=shape)
    for got, wanted in zip((loss, h_last[0, 0], c_last[0, 0]), expected, strict=True):
        assert relative_error(got, wanted) < FLOAT64_TOLERANCE


def test_clipping_by_hand(ops):
    theta, state, gradient = np.zeros(3), np.zeros((1, 3)), np.array([7.0, -9.0, 2.0])
    ops.adagrad(theta, gradient, state, 0, learning_rate=0.1, grad_clip=5.0)
    assert state[0].tolist() == [25.0, 25.0, 4.0]
    assert theta == pytest.approx([-0.1, 0.1, -0.1])
    assert gradient.tolist() == [7.0, -9.0, 2.0]
    ops.clip(gradient, grad_clip=5.0, grad_clip_norm=1.0)
    assert gradient == pytest.approx(np.array([5.0, -5.0, 2.0]) / np.sqrt(54))


def test_weight_decay_by_hand(ops):
    """With a zero gradient only the decay moves weights; otherwise Adam's step is added to the decayed weights."""
    theta, state = np.array([1.0, -2.0]), np.zeros((2, 2))
    for step in range(2):
        ops.adamw(theta, np.zeros(2), state, step, learning_rate=0.1, weight_decay=0.5)
    assert theta == pytest.approx(np.array([1.0, -2.0]) * 0.95**2)
    plain, memory, gradient = theta * 0.95, np.zeros((2, 2)), np.array([0.3, 0.4])
    ops.adam(plain, gradient, memory, 0, learning_rate=0.1)
    ops.adamw(theta, gradient, state, 0, learning_rate=0.1, weight_decay=0.5)
    assert theta == pytest.approx(plain)


@pytest.mark.parametrize(
    "cell", ["lstm", "gru", *(pytest.param(cell, marks=pytest.mark.long) for cell in ("rnn", "lnlstm"))]
)
def test_every_gradient_by_central_differences(ops, cell):
    for check in testing.gradient_errors(ops, cells=(cell,)):
        assert check.error < testing.GRADIENT_TOLERANCE, check


@pytest.mark.parametrize("cell", CELLS)
def test_gradient_along_random_directions_of_a_larger_model(ops, cell):
    shape, theta, h, c, x = model((13, 3, 29, 21, 2), "float64", cell=cell)
    gradient = ops.loss_and_grad(theta, h, c, x, shape=shape)[1].copy()
    random, delta = np.random.RandomState(1), 1e-6
    for _ in range(5):
        direction = random.randn(len(theta))
        above, below = (
            ops.loss_and_grad(theta + sign * delta * direction, h, c, x, shape=shape)[0] for sign in (1, -1)
        )
        assert (above - below) / (2 * delta) == pytest.approx(direction @ gradient, rel=1e-6)


# ---------------------------------------------------------------------------------- 2. the reference checks backends
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "T{}-B{}-V{}-H{}-L{}".format(*s))
@pytest.mark.parametrize("cell", CELLS)
def test_whole_model_as_the_reference(ops, ref, size, dtype, cell):
    shape, theta, h, c, x = model(size, dtype, cell=cell)
    ws = spec.workspace(shape, size[0], size[1], dtype)  # filled with NaN, so that an unwritten element shows
    got = ops.loss_and_grad(theta, h, c, x, shape=shape, workspace=ws)
    agree(got, lambda d: ref.loss_and_grad(theta.astype(d), h.astype(d), c.astype(d), x, shape=shape), dtype)


def masks_for(dropout, *dims):
    """Return read-only dropout masks, or None without dropout; a nonzero byte keeps its unit."""
    random = np.random.RandomState(7)
    masks = np.where(random.random_sample(dims) < dropout, 0, random.randint(1, 256, dims)).astype(np.uint8)
    masks.flags.writeable = False
    return masks if dropout else None


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@EXTRAS
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "T{}-B{}-V{}-H{}-L{}".format(*s))
def test_dropout_and_embedding_as_the_reference(ops, ref, size, embedding_size, dropout, dtype):
    T, B, _, H, L = size
    shape, theta, h, c, x = model(size, dtype, embedding_size=embedding_size)
    theta = theta / np.sqrt(H).astype(dtype)
    options = {"shape": shape, "dropout": dropout, "masks": masks_for(dropout, L, T, B, H)}
    ws = spec.workspace(shape, T, B, dtype, dropout)
    got = ops.loss_and_grad(theta, h, c, x, workspace=ws, **options)
    agree(got, lambda d: ref.loss_and_grad(theta.astype(d), h.astype(d), c.astype(d), x, **options), dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("kind", ["ids", "floats"])
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "T{}-B{}-D{}-H{}".format(*s[:4]))
@pytest.mark.parametrize("cell", CELLS)
def test_one_layer_as_the_reference(ops, ref, size, kind, dtype, cell):
    T, B, D, H, _ = size
    if cell == "lnlstm" and H == 1:
        pytest.skip(
            "h W_h normalised does not depend on the size of one h: its gradient is nothing but rounding errors"
        )
    random = np.random.RandomState(3)
    arrays = testing.layer_arrays(random, cell, (B, D, H), 1 / np.sqrt(H))
    x = random.randint(0, D, (T, B)).astype(np.int32) if kind == "ids" else random.randn(T, B, D)
    to_h, to_last = random.randn(T, B, H), random.randn(2 if spec.CELLS[cell].has_c else 1, B, H)
    row, layer = spec.CELLS[cell], spec.LAYERS[cell]

    def planes(count):
        return ((count,) if count > 1 else ()) + (T, B, row.gates * H)

    def buffers(nan):
        made = [nan(T + 1, B, H) for _ in layer.states] + ([nan(*planes(row.kept))] if row.kept else [])
        return tuple(made) if len(made) > 1 else made[0]

    def both_ways(ops, dtype, poisoned):
        cast = {name: array.astype(dtype) for name, array in arrays.items()}
        to = [to_h.astype(dtype), *to_last.astype(dtype)]
        inputs = x if kind == "ids" else x.astype(dtype)
        for array in (*cast.values(), *to):
            array.flags.writeable = False

        def nan(*dims):
            return np.full(dims, np.nan, dtype)

        forward, backward = getattr(ops, f"{cell}_forward"), getattr(ops, f"{cell}_backward")
        *states, cache = forward(inputs, **cast, out=buffers(nan) if poisoned else None)
        grads = layer.grads(None if kind == "ids" else nan(T, B, D), *(nan(*a.shape) for a in arrays.values()))
        scratch = {"out": grads, "dz": nan(*planes(row.planes))} if poisoned else {}
        return *states, *[a for a in backward(to[0], cache, *to[1:], **scratch) if a is not None]

    agree(both_ways(ops, dtype, True), lambda d: both_ways(ref, d, False), dtype)


@pytest.mark.parametrize("cell", CELLS)
def test_a_cache_of_the_reference_serves_any_backward(ops, ref, cell):
    random = np.random.RandomState(4)
    arrays = testing.layer_arrays(random, cell, (2, 7, 3))
    x = random.randint(0, 7, (5, 2)).astype(np.int32)
    cache, dh = getattr(ref, f"{cell}_forward")(x, **arrays)[-1], random.randn(5, 2, 3)
    results = (getattr(each, f"{cell}_backward")(dh, cache)[1:] for each in (ops, ref))
    for got, wanted in zip(*results, strict=True):
        assert relative_error(got, wanted) < FLOAT64_TOLERANCE


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("scale", [1.0, 1e4])
def test_cross_entropy_as_the_reference(ops, ref, dtype, scale):
    random = np.random.RandomState(5)
    logits, targets = random.randn(5, 3, 71) * scale, random.randint(0, 71, (5, 3)).astype(np.int32)
    out = np.full(logits.shape, np.nan, dtype)
    got = ops.softmax_cross_entropy(logits.astype(dtype), targets, out=out)
    assert got[1] is out
    agree(got, lambda d: ref.softmax_cross_entropy(logits.astype(dtype).astype(d), targets), dtype)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("clipping", [{}, {"grad_clip": 0.05}, {"grad_clip": 0.1, "grad_clip_norm": 0.3}], ids=str)
@pytest.mark.parametrize("optimizer", spec.OPTIMIZERS)
@pytest.mark.parametrize("cell", CELLS)
def test_training_as_the_reference(ops, ref, cell, optimizer, clipping, dtype):
    T, B, V, H, L = 5, 2, 17, 9, 2
    shape, theta, h, c, _ = model((T, B, V, H, L), dtype, cell=cell)
    ids = np.random.RandomState(6).randint(0, V, 400).astype(np.uint8)
    starts = np.ascontiguousarray(np.arange(12)[:, None] * T + np.array([0, 200]), np.int64)
    # Large steps amplify rounding errors of an RNN, and of layer norm: another order of additions, as with narrower
    # vectors, then exceeds the float32 rule for one in 40 models.
    rates = np.linspace(0.02, 0.01, 12) / (50 if cell in ("rnn", "lnlstm") else 1)

    def train(ops, dtype):
        arrays = [a.astype(dtype) for a in (theta, np.zeros((spec.slots(optimizer), len(theta))), h, c)]
        losses = ops.train_steps(
            *arrays, ids, starts, np.arange(12) % 5 == 4, rates, shape=shape, seq_length=T, optimizer=optimizer,
            grad_scale=1 / (T * B), **clipping,
        )  # fmt: skip
        return losses, *arrays

    agree(train(ops, dtype), lambda d: train(ref, d), dtype, tolerance=1e-10)


PATHS = [  # T, B, V, H, L, threads and, unless it is the LSTM, the cell: every case of threads.py's plan, odd sizes
    (16, 1, 71, 100, 1, 2),  # two panels of hidden units
    (2, 3, 7, 129, 3, 3),  # three threads for two panels, several layers
    (5, 2, 11, 201, 2, 3),  # four panels
    (4, 5, 300, 215, 2, 3),  # hidden units split between threads, without panels
    (16, 33, 71, 17, 2, 2),  # streams split between threads, more than one tile each
    (2, 5, 3, 100, 1, 2),
    (1, 2, 2, 1, 1, 2),
    (3, 33, 5, 371, 2, 9),  # hidden units split between threads, packed in float64
    (2, 35, 3, 513, 1, 1),  # packed weights
    (16, 1, 71, 100, 1, 2, "rnn"),  # one thread for one stream
    (5, 5, 300, 33, 3, 3, "rnn"),  # many rows of W_x, streams split between threads
    (3, 33, 5, 371, 2, 9, "rnn"),
    (16, 1, 71, 100, 1, 2, "gru"),
    (5, 5, 300, 33, 3, 3, "gru"),
    (3, 33, 5, 371, 2, 9, "gru"),
]


@pytest.mark.lacking("numpy")  # the paths are those of compiled kernels
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("last_only", [False, True], ids=["all", "last"])
@pytest.mark.parametrize("path", PATHS, ids=lambda s: "T{}-B{}-V{}-H{}-L{}-{}threads".format(*s) + "".join(s[6:]))
def test_every_path_as_the_reference(ops, path, last_only, dtype):
    follow(ops, path, dtype, last_only=last_only)


@pytest.mark.lacking("numpy")
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@EXTRAS
@pytest.mark.parametrize(
    "path", [p for p in PATHS if len(p) == 6], ids=lambda s: "T{}-B{}-V{}-H{}-L{}-{}threads".format(*s)
)
def test_dropout_and_embedding_on_every_path(ops, path, embedding_size, dropout, dtype):
    follow(ops, path, dtype, embedding_size, dropout)


@pytest.mark.parametrize("cell", ["gru", "rnn"])
def test_dropout_and_embedding_of_the_other_cells(ops, cell):
    follow(ops, (3, 13, 17, 9, 2, 2, cell), "float64", 5, 0.4)


def follow(ops, path, dtype, embedding_size=0, dropout=0.0, *, last_only=False):
    """Compare three iterations with the reference."""
    given = path, embedding_size, dropout, last_only
    agree(descended(ops, dtype, *given), lambda d: reference_of(d, *given), dtype, tolerance=1e-10)


@cache
def reference_of(dtype, *given):
    return descended(kernels.load("numpy"), dtype, *given)


def descended(ops, dtype, path, embedding_size, dropout, last_only):
    """Losses, states and changes of the parameters, which give the gradients, of three iterations of plain descent."""
    T, B, V, H, L, threads, *cell = path
    shape, theta, h, c, _ = model((T, B, V, H, L), "float32", 0, *(cell or ["lstm"]), embedding_size)
    masks = masks_for(dropout, 3, L, T, B, H)
    start = (theta / np.sqrt(H).astype("float32")).astype(dtype)
    ids = np.random.RandomState(6).randint(0, V, 40 * B).astype(np.uint8 if V < 256 else np.uint16)
    starts = np.ascontiguousarray(np.arange(3)[:, None] * T % 20 + np.arange(B) * 40, np.int64)
    after, states = start.copy(), [h.astype(dtype), c.astype(dtype)]
    losses = ops.train_steps(
        after, np.zeros((0, len(theta)), dtype), *states, ids, starts, np.array([False, True, False]), np.full(3, 1.0),
        shape=shape, seq_length=T, optimizer="sgd", grad_scale=1 / (T * B), dropout=dropout, masks=masks,
        threads=threads, last_only=last_only,
    )  # fmt: skip
    return losses, *states, *spec.named(after - start, shape).values()


@pytest.mark.parametrize("optimizer", spec.OPTIMIZERS)
@pytest.mark.parametrize(
    ("path", "embedding_size"), [(PATHS[0], 0), (PATHS[4], 0), (PATHS[3], 6)], ids=["panels", "streams", "embedding"]
)
def test_every_optimizer_on_paths_of_its_own(ops, ref, path, embedding_size, optimizer):
    """Cover fused gradient and update (few rows) and separate ones (many rows, or an embedding)."""
    T, B, V, H, L, threads = path
    shape, theta, h, c, _ = model((T, B, V, H, L), "float64", embedding_size=embedding_size)
    ids = np.random.RandomState(6).randint(0, V, 60 * B).astype(np.uint16)
    starts = np.ascontiguousarray(np.arange(4)[:, None] * 9 + np.arange(B) * 60, np.int64)

    def train(ops):
        arrays = [a.copy() for a in (theta, np.zeros((spec.slots(optimizer), len(theta))), h, c)]
        losses = ops.train_steps(
            *arrays, ids, starts, np.zeros(4, bool), np.full(4, 0.01), shape=shape, seq_length=T, optimizer=optimizer,
            grad_scale=1 / (T * B), grad_clip=0.02, threads=threads,
        )  # fmt: skip
        return losses, *arrays

    agree(train(ops), lambda d: train(ref), "float64", tolerance=1e-9)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("cell", CELLS)
def test_loss_on_the_last_step_alone(ops, ref, dtype, cell):
    shape, theta, h, c, x = model((6, 5, 11, 33, 2), dtype, cell=cell)
    got = ops.loss_and_grad(theta, h, c, x, shape=shape, last_only=True)
    agree(
        got, lambda d: ref.loss_and_grad(*(a.astype(d) for a in (theta, h, c)), x, shape=shape, last_only=True), dtype
    )


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("size", [(5, 7, 9, 1), (4, 11, 33, 1), (3, 5, 65, 2), (4, 7, 201, 1), (3, 9, 400, 2)], ids=str)
def test_weights_rounded_to_bfloat16_as_the_reference(ops, ref, size, threads):
    T, V, H, L = size
    shape, theta, h, c, _ = model((T, 1, V, H, L), "float32")
    theta = theta / np.sqrt(H).astype("float32")
    ids = np.random.RandomState(3).randint(0, V, 50).astype(np.uint8)
    rounded = theta.copy()
    for layer in spec.params(rounded, shape).layers:
        layer.W_h[...] = spec.round_to_bfloat16(layer.W_h)
    found = [a.copy() for a in (theta, np.zeros((0, len(theta)), "float32"), h, c)]
    losses = ops.train_steps(
        *found, ids, np.full((1, 1), 4), np.zeros(1, bool), np.ones(1), shape=shape, seq_length=T, optimizer="sgd",
        bfloat16=True, threads=threads,
    )  # fmt: skip

    def of_reference(d):  # plain descent at rate 1 subtracts the gradient itself from the float32 weights
        x = ids[4 : 4 + T + 1].astype(np.int32)[:, None]
        loss, grad, h1, c1 = ref.loss_and_grad(*(a.astype(d) for a in (rounded, h, c)), x, shape=shape)
        return loss, theta.astype(d) - grad, h1, c1

    agree((losses[0], found[0], *found[2:]), of_reference, "float32")


#: Distance, norm-wise, to the reference that rounds at the same places: of the distance that rounding itself makes.
MIXED_TOLERANCE = 0.01


MIXED = "cell", "embedding_size", "dropout", "last_only"
MIXED_OF_OTHERS = (
    ("gru", 0, 0.0, False), ("rnn", 0, 0.0, False), ("lnlstm", 0, 0.0, False), ("lstm", 5, 0.0, False),
    ("lstm", 0, 0.0, False), ("lstm", 0, 0.0, True),
)  # fmt: skip


@pytest.mark.parametrize(
    MIXED,
    [
        ("lstm", 0, 0.4, False),
        ("lstm", 0, 0.4, True),
        *(pytest.param(*case, marks=pytest.mark.long) for case in MIXED_OF_OTHERS),
    ],
)
def test_mixed_precision_as_the_reference(ops, ref, cell, embedding_size, dropout, last_only):
    check_mixed(ops, ref, cell, embedding_size, dropout, last_only)


def check_mixed(ops, ref, cell, embedding_size, dropout, last_only):
    """The median over seeds: sums in another order rarely round a number the other way, which shows in its seed."""
    found = []
    for seed in range(5):
        T, B, V, H, L = 3, 3 + seed, 7, 10 + seed, 2
        shape, theta, h, c, _ = model((T, B, V, H, L), "float32", seed, cell, embedding_size)
        random = np.random.RandomState(seed)
        ids, starts = random.randint(0, V, 60).astype(np.uint8), random.randint(0, 50, (1, B))
        masks = masks_for(dropout, 1, L, T, B, H)
        outcomes = []
        for backend, bfloat16 in ((ref, False), (ref, True), (ops, True)):
            arrays = [a.copy() for a in (theta, np.zeros((0, len(theta)), "float32"), h, c)]
            loss = backend.train_steps(
                *arrays, ids, starts, np.zeros(1, bool), 1.0, shape=shape, seq_length=T, optimizer="sgd",
                bfloat16=bfloat16, dropout=dropout, masks=masks, last_only=last_only,
            )  # fmt: skip
            states = arrays[2:] if spec.CELLS[cell].has_c else arrays[2:3]
            outcomes.append([loss, arrays[0] - theta, *states])  # plain descent at rate 1: theta - gradient
        found.append([norm(got - wanted) / norm(plain - wanted) for plain, wanted, got in zip(*outcomes, strict=True)])
    assert np.median(found, axis=0).max() < MIXED_TOLERANCE, found
    assert np.max(found) < 0.5, found


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("size", SIZES, ids=lambda s: "T{}-B{}-V{}-H{}-L{}".format(*s))
def test_scoring_as_the_reference(ops, ref, size, dtype):
    shape, theta, h, c, x = model(size, dtype)
    out, ws = np.full((size[0], size[1]), np.nan), spec.workspace(shape, size[0], size[1], dtype)

    def score(ops, dtype, **buffers):
        state = [h.astype(dtype), c.astype(dtype)]
        return ops.score(theta.astype(dtype), *state, x, shape=shape, **buffers), *state

    got = score(ops, dtype, workspace=ws, out=out)
    assert got[0] is out
    agree(got, lambda d: score(ref, d), dtype)


def test_a_score_is_the_loss_by_character(ops):
    shape, theta, h, c, x = model((6, 3, 11, 5, 2), "float64")
    state = [h.copy(), c.copy()]
    log_probs = ops.score(theta, *state, x, shape=shape)
    loss, _, *last = ops.loss_and_grad(theta, h, c, x, shape=shape)
    assert -log_probs.sum() == pytest.approx(loss, rel=FLOAT64_TOLERANCE)
    for got, wanted in zip(state, last, strict=True):
        assert relative_error(got, wanted) < FLOAT64_TOLERANCE
    first = ops.loss_and_grad(theta, h, c, x[:2].copy(), shape=shape)[0]  # one step of three streams
    assert -log_probs[0].sum() == pytest.approx(first, rel=FLOAT64_TOLERANCE)


def agree(got, of_reference, dtype, tolerance=FLOAT64_TOLERANCE):
    """Assert that each part of `got` agrees with the reference, within the tolerance for its dtype."""
    exact = of_reference("float64")
    if dtype == "float64":
        for part, (a, b) in enumerate(zip(got, exact, strict=True)):
            assert relative_error(a, b) < tolerance, part
    else:
        plain = of_reference("float32")
        for part, triple in enumerate(zip(got, plain, exact, strict=True)):
            assert float32_excess(*triple) <= 1, part


# ------------------------------------------------------------------------------------------------- 4. traces check both
def trace_of(ops, trace):
    """Train with the settings of a trace in tests/data; return the losses and the ids sampled at the end."""
    shape = Shape(*trace["shape"])
    theta = np.array(trace["theta"])
    state, h, c = np.zeros((1, len(theta))), np.zeros((shape.num_layers, 1, shape.hidden_size)), None
    c, n, T = np.zeros_like(h), trace["iterations"], trace["seq_length"]
    ids = np.array(trace["ids"], np.uint8)
    turn = np.arange(n) % ((len(ids) - T - 2) // T + 1)
    losses = ops.train_steps(
        theta, state, h, c, ids, (turn * T)[:, None], turn == 0, np.full(n, 0.1), shape=shape, seq_length=T,
        grad_clip=trace["grad_clip"],
    )  # fmt: skip
    uniforms = np.random.RandomState(0).random_sample((60, 1))
    return losses, ops.sample(theta, h, c, ids[:1].astype(np.int32), uniforms, shape=shape)[:, 0]


@pytest.mark.parametrize("cell", CELLS)
def test_our_own_trace(ops, cell):
    trace = json.loads((ROOT / "tests" / "data" / f"trace-{cell}.json").read_text())
    losses, drawn = trace_of(ops, trace)
    assert losses == pytest.approx(trace["losses"], rel=1e-9)
    assert drawn.tolist() == trace["drawn"]


@needs_shared
def test_trace_of_the_original_script(ops, tmp_path):
    import charlstm

    oracle = json.loads((SHARED / "oracle" / "lstm-us-constitution-seed123.json").read_text())
    loaded = {kernels.load_for_host(name): name for name in kernels.available()}
    if ops not in loaded:
        pytest.skip("a run needs a device of its own, not one that is imitated")
    backend = loaded[ops]
    count = 4000 if backend != "numpy" else 1200  # the reference needs ten seconds for 4,000
    charlstm.train(
        SHARED / "data" / oracle["corpus"], preset="min-char-lstm", dtype="float64", seed=123, iterations=count,
        report_every=1, backend=backend, out=str(tmp_path / "run"),
    )  # fmt: skip
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    assert [line["iteration"] for line in lines] == list(range(count))
    assert max(abs(a["smooth_loss"] - b) for a, b in zip(lines, oracle["smooth"], strict=False)) < 1e-6
    assert max(abs(a["loss"] - b) for a, b in zip(lines, oracle["loss"], strict=False)) < 1e-6
    blocks = (tmp_path / "run" / "samples.txt").read_text().split("# iteration ")[1:]
    texts = [block.partition("\n")[2].removesuffix("\n\n") for block in blocks]
    originals = [text.removeprefix("\n ").removesuffix(" \n") for text in oracle["stdout"].split("----")[1::2]]
    assert len(texts) == (count + 999) // 1000
    assert texts == originals[: len(texts)]
