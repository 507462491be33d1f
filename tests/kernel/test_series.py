"""Models of real-valued series: dense inputs, several outputs, and each loss of spec.LOSSES; ids that are ignored.

Finite differences check the reference, the reference checks the numba backend, PyTorch checks the losses
(test_peers.py). test_mutations.py runs this file against losses with a planted mistake.
"""

import copy
import pickle

import numpy as np
import pytest
from conftest import BACKENDS, load
from device import emulator
from test_chain import agree, masks_for

import kernels
from kernels import spec
from kernels.spec import LOSSES, Shape
from kernels.testing import FLOAT64_TOLERANCE, GRADIENT_TOLERANCE, numerical_gradient, relative_error

pytestmark = pytest.mark.lacking("cupy")

OUTPUTS = {"cross_entropy": (5, 0), "squared": (3, 3), "huber": (3, 3), "gaussian": (6, 3)}  # V, Y
IGNORED = -7
#: What compiles for long is for make test-long; Numba compiles each cell, dtype and kind of targets anew.
CELLS = [pytest.param(cell, marks=[pytest.mark.long] if cell != "lstm" else []) for cell in spec.CELLS]
DTYPES = ["float64", pytest.param("float32", marks=pytest.mark.long)]


def model(loss, sizes=(5, 2, 4, 3, 2), cell="lstm", dtype="float64", seed=0):
    """Return the shape, read-only theta, h, c, x (T, B, D) and targets, and the options of a loss."""
    T, B, D, H, L = sizes
    V, Y = OUTPUTS[loss]
    random, shape = np.random.RandomState(seed), Shape(V, H, L, cell, input_size=D)
    theta, h, c = (random.randn(*dims) for dims in ((spec.num_parameters(shape),), (L, B, H), (L, B, H)))
    arrays = [theta / np.sqrt(H), h, c, random.randn(T, B, D)]
    arrays = [array.astype(dtype) for array in arrays]
    arrays.append(aims(random, loss, (T, B)) if not Y else aims(random, loss, (T, B)).astype(dtype))
    for array in arrays:
        array.flags.writeable = False
    return shape, *arrays, options_of(loss)


def aims(random, loss, dims):
    """Random targets: ids, of which some are ignored, or numbers, of which some are far away."""
    V, Y = OUTPUTS[loss]
    if Y:
        return random.standard_t(2, (*dims, Y))
    return np.where(random.random_sample(dims) < 0.3, IGNORED, random.randint(0, V, dims)).astype(np.int32)


def options_of(loss):
    return {"loss": loss, "delta": 0.7} | ({"ignore_index": IGNORED} if loss == "cross_entropy" else {})


# ------------------------------------------------------------------------------- finite differences, known numbers
@pytest.mark.parametrize(
    ("cell", "loss"),
    [*(("lstm", loss) for loss in LOSSES), *((cell, "gaussian") for cell in spec.CELLS if cell != "lstm")],
)
def test_every_gradient_by_central_differences(ref, cell, loss):
    for last_only, dropout in ((False, 0.0), (True, 0.4)):
        shape, theta, h, c, x, targets, options = model(loss, (4, 2, 2, 3, 2), cell)
        options |= {"last_only": last_only, "dropout": dropout, "masks": masks_for(dropout, 2, 4, 2, 3)}
        theta = theta.copy()

        def run():
            return ref.loss_and_grad(theta, h, c, x, shape=shape, targets=targets, **options)  # noqa: B023

        found = run()[1].copy()
        expected = numerical_gradient(lambda: run()[0], theta)
        for name, got in spec.named(found, shape).items():
            assert relative_error(got, spec.named(expected, shape)[name]) < GRADIENT_TOLERANCE, name


def test_each_loss_by_hand(ops):
    y, t = np.array([[[1.0, 3.0]]]), np.array([[[1.5, 0.0]]])
    loss, dy = ops.regression_loss(y, t)
    assert (loss, dy.ravel().tolist()) == (0.25 + 9, [-1.0, 6.0])
    loss, dy = ops.regression_loss(y, t, loss="huber", delta=2.0)
    assert (loss, dy.ravel().tolist()) == (0.125 + 2 * (3 - 1), [-0.5, 2.0])
    loss, dy = ops.regression_loss(y, t[:, :, :1].copy(), loss="gaussian")  # mean 1, deviation e^3
    assert loss == pytest.approx(3 + 0.5 * np.exp(-6) * 0.25 + 0.5 * np.log(2 * np.pi), rel=1e-15)
    assert dy.ravel() == pytest.approx([-0.5 * np.exp(-6), 1 - 0.25 * np.exp(-6)], rel=1e-14)
    logits, ids = np.zeros((2, 2, 4)), np.array([[1, IGNORED], [3, 0]], np.int32)
    loss, dy = ops.softmax_cross_entropy(logits, ids, ignore_index=IGNORED)
    assert loss == pytest.approx(3 * np.log(4))
    assert not dy[0, 1].any()
    assert dy[1, 0].tolist() == [0.25, 0.25, 0.25, -0.75]
    with pytest.raises(ValueError, match=r"^targets: expected ids in \[0, 4\) or -100 \(ignore_index\), got -7$"):
        ops.softmax_cross_entropy(logits, ids, ignore_index=-100)


# ----------------------------------------------------------------------------------------- the reference as a judge
@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("loss", LOSSES)
def test_losses_as_the_reference(ops, ref, loss, dtype):
    random, (V, Y) = np.random.RandomState(2), OUTPUTS[loss]
    outputs, targets = (random.randn(7, 3, V) * 2).astype(dtype), aims(random, loss, (7, 3))
    targets = targets.astype(dtype) if Y else targets
    options = options_of(loss) if Y else {"ignore_index": IGNORED}

    def computed(ops, dtype, **buffer):
        op = ops.regression_loss if Y else ops.softmax_cross_entropy
        return op(outputs.astype(dtype), targets.astype(dtype) if Y else targets, **options, **buffer)

    out = np.full(outputs.shape, np.nan, dtype)
    got = computed(ops, dtype, out=out)
    assert got[1] is out
    agree(got, lambda d: computed(ref, d), dtype)
    own = outputs.copy()  # outputs may become their own gradient
    op = ops.regression_loss if Y else ops.softmax_cross_entropy
    assert op(own, targets, out=own, **options)[0] == got[0]
    assert own.tobytes() == out.tobytes()


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("cell", CELLS)
def test_whole_model_as_the_reference(ops, ref, cell, loss, dtype):
    for sizes, last_only in (((5, 2, 4, 3, 2), False), ((1, 1, 1, 1, 1), False), ((7, 9, 17, 33, 1), True)):
        shape, theta, h, c, x, targets, options = model(loss, sizes, cell, dtype)
        ws = spec.workspace(shape, *sizes[:2], dtype)  # filled with NaN

        def run(ops, d, op, state, **more):
            arrays = [a.astype(d) if a.dtype.kind == "f" else a for a in (theta, *state, x, targets)]  # noqa: B023
            found = getattr(ops, op)(*arrays[:4], shape=shape, targets=arrays[4], **options, **more)  # noqa: B023
            return found if op == "loss_and_grad" else (found, *arrays[1:3])

        step = {"last_only": last_only}
        agree(run(ops, dtype, "loss_and_grad", (h, c), workspace=ws, **step),
              lambda d: run(ref, d, "loss_and_grad", (h, c), **step), dtype)  # noqa: B023  # fmt: skip
        out = np.full(sizes[:2], np.nan)
        got = run(ops, dtype, "score", (h.copy(), c.copy()), workspace=ws, out=out)
        assert got[0] is out
        agree(got, lambda d: run(ref, d, "score", (h.copy(), c.copy())), dtype)  # noqa: B023


PATHS = [  # T, B, D, H, L: each way to split the work (threads.py), and both ways to update (gradients.py)
    (5, 2, 4, 3, 2),
    (7, 1, 3, 100, 2),  # panels of hidden units
    (3, 5, 2, 215, 1),  # hidden units split
    (6, 13, 1, 33, 2),  # streams split, many rows
]


def trained(ops, loss, sizes, dtype="float64", cell="lstm", optimizer="adam", n=4, **options):
    """Train on a series; return the losses and all that is written."""
    T, B, D, *_ = sizes
    shape, theta, h, c, *_ = model(loss, sizes, cell)
    random, M = np.random.RandomState(3), 50
    series, targets = random.randn(M, D).astype(dtype), aims(random, loss, (M,))
    arrays = [a.astype(dtype) for a in (theta, np.zeros((spec.slots(optimizer), len(theta))), h, c)]
    starts = random.randint(0, M - T + 1, (n, B))
    starts[0, 0] = M - T  # the last sequence that there is
    losses = ops.train_steps(
        *arrays, series, starts, np.arange(n) == 2, 0.01, shape=shape, seq_length=T, optimizer=optimizer,
        targets=targets.astype(dtype) if OUTPUTS[loss][1] else targets, grad_clip=1.0, **options_of(loss), **options,
    )  # fmt: skip
    return losses, *arrays


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("sizes", PATHS, ids=str)
@pytest.mark.parametrize("loss", LOSSES)
def test_training_as_the_reference(ops, ref, loss, sizes, dtype):
    agree(trained(ops, loss, sizes, dtype), lambda d: trained(ref, loss, sizes, d), dtype, tolerance=1e-10)


@pytest.mark.parametrize(
    "cell", [pytest.param(cell, marks=() if cell == "rnn" else pytest.mark.long) for cell in spec.CELLS]
)
def test_training_of_every_cell_with_dropout_as_the_reference(ops, ref, cell):
    sizes = 5, 7, 4, 9, 2
    for loss, optimizer in (("gaussian", "adagrad"), ("cross_entropy", "sgd")):
        masks = masks_for(0.4, 4, 2, 5, 7, 9)
        options = {"cell": cell, "optimizer": optimizer, "dropout": 0.4, "masks": masks, "weight_drop": 0.3}
        options |= {"grad_clip_norm": 0.5, "last_only": loss == "gaussian"}
        agree(trained(ops, loss, sizes, **options), lambda d: trained(ref, loss, sizes, d, **options), "float64", 1e-10)  # noqa: B023


@pytest.mark.long
@pytest.mark.parametrize("sizes", [(3, 6, 4, 12, 2), (5, 1, 4, 100, 1)], ids=["batch", "stream"])
def test_mixed_precision_is_near_the_reference_that_rounds(ops, ref, sizes):
    """The distance is small beside that of rounding itself."""
    plain, wanted, got = (
        trained(each, "squared", sizes, "float32", optimizer="sgd", n=1, bfloat16=is_rounded)
        for each, is_rounded in ((ref, False), (ref, True), (ops, True))
    )
    for a, b, c in zip(plain, wanted, got, strict=True):
        rounding = np.linalg.norm(a.astype("f8") - b)
        assert np.linalg.norm(c.astype("f8") - b) <= 0.05 * rounding


# -------------------------------------------------------------------------------------------------------- properties
@pytest.mark.skipif("numba" not in BACKENDS, reason="the reference has one thread")
@pytest.mark.parametrize("sizes", PATHS, ids=str)
def test_any_number_of_threads_gives_the_same_bits(sizes):
    ops, outcomes = load("numba"), []
    for threads in (1, 2, 3):
        found = trained(ops, "gaussian", sizes, threads=threads)
        assert np.isfinite(found[0]).all()
        outcomes.append([a.tobytes() for a in found])
    assert outcomes[0] == outcomes[1] == outcomes[2]
    shape, theta, h, c, x, targets, options = model("gaussian", sizes)
    outcomes = [ops.score(theta, h.copy(), c.copy(), x, shape=shape, targets=targets, threads=n, **options).tobytes()
                for n in (1, 2)]  # fmt: skip
    outcomes += [b"".join(a.tobytes() for a in ops.loss_and_grad(
        theta, h, c, x, shape=shape, targets=targets, threads=n, **options)[1:]) for n in (1, 2)]  # fmt: skip
    assert outcomes[0] == outcomes[1]
    assert outcomes[2] == outcomes[3]


def test_a_series_is_its_own_target_one_row_later(ops):
    shape, theta, h, c, x, targets, options = model("squared", (5, 2, 3, 3, 2))
    whole = np.concatenate([x, targets[-1:]])
    one = ops.loss_and_grad(theta, h, c, whole, shape=shape, **options)
    other = ops.loss_and_grad(theta, h, c, x, shape=shape, targets=whole[1:], **options)
    assert [np.asarray(a).tobytes() for a in one] == [np.asarray(a).tobytes() for a in other]
    series, starts = np.ascontiguousarray(np.random.RandomState(1).randn(40, 3)), np.array([[0, 7], [34, 20]])
    later = np.concatenate([series[1:], np.full((1, 3), np.nan)])  # no sequence reads the last row
    outcomes = []
    for given in ({}, {"targets": later}):
        arrays = [theta.copy(), np.zeros((1, len(theta))), h.copy(), c.copy()]
        losses = ops.train_steps(
            *arrays, series, starts, np.zeros(2, bool), 0.1, shape=shape, seq_length=5, loss="squared", **given
        )
        outcomes.append([a.tobytes() for a in (losses, *arrays)])
        assert np.isfinite(losses).all()
    assert outcomes[0] == outcomes[1]


def test_training_in_parts_and_one_gradient_at_a_time(ops):
    """An iteration of plain descent is theta - gradient, with the bits of loss_and_grad by a team."""
    sizes, loss = (5, 2, 4, 3, 2), "gaussian"
    shape, theta, h, c, x, targets, options = model(loss, sizes)
    loss_at, grad, h_last, _ = ops.loss_and_grad(theta, h, c, x, shape=shape, targets=targets, threads=1, **options)
    series, aim = (np.ascontiguousarray(a.swapaxes(0, 1)).reshape(10, -1) for a in (x, targets))
    arrays = [theta.copy(), np.zeros((0, len(theta))), h.copy(), c.copy()]
    losses = ops.train_steps(
        *arrays, series, np.array([[0, 5]]), np.zeros(1, bool), 1.0, shape=shape, seq_length=5, optimizer="sgd",
        targets=aim, **options,
    )  # fmt: skip
    assert losses[0] == loss_at
    assert arrays[0] == pytest.approx(theta - grad, rel=1e-14)
    assert (arrays[2] == h_last).all()
    assert -ops.score(theta, h.copy(), c.copy(), x, shape=shape, targets=targets, **options).sum() == pytest.approx(
        loss_at
    )


def test_ids_that_are_ignored_are_as_if_they_were_not_there(ops):
    """In a text, too: the loss is that of the other targets, and so is the gradient."""
    shape, random = Shape(6, 3), np.random.RandomState(0)
    theta, (h, c) = random.randn(spec.num_parameters(shape)), random.randn(2, 1, 2, 3)
    x = random.randint(0, 6, (8, 2)).astype(np.int32)
    log_probs = ops.score(theta, h.copy(), c.copy(), x, shape=shape)
    kept = ops.score(theta, h.copy(), c.copy(), x, shape=shape, ignore_index=4)
    assert (kept == np.where(x[1:] == 4, 0, log_probs)).all()
    loss, grad, *_ = ops.loss_and_grad(theta, h, c, x, shape=shape, ignore_index=4)
    assert -kept.sum() == pytest.approx(loss, rel=FLOAT64_TOLERANCE)
    targets = np.where(x[1:] == 4, -100, x[1:])
    given = ops.loss_and_grad(theta, h, c, x[:-1], shape=shape, targets=targets, ignore_index=-100)
    assert given[1].tobytes() == grad.tobytes()
    nothing = ops.loss_and_grad(theta, h, c, x[:-1], shape=shape, targets=np.full_like(targets, 9), ignore_index=9)
    assert nothing[0] == 0
    assert not nothing[1].any()


@pytest.mark.long
def test_targets_of_a_text_are_read_beside_it(ops, ref):
    shape, random = Shape(6, 9, 2, embedding_size=4), np.random.RandomState(0)
    ids, targets = random.randint(0, 6, 60).astype(np.uint8), random.randint(-1, 6, 60).astype(np.int32)
    found = []
    for each in (ops, ref):
        theta, (h, c) = np.random.RandomState(1).randn(spec.num_parameters(shape)), np.zeros((2, 2, 2, 9))
        losses = each.train_steps(
            theta, np.zeros((1, len(theta))), h, c, ids, np.array([[0, 55], [5, 20]]), np.zeros(2, bool), 0.1,
            shape=shape, seq_length=5, targets=targets, ignore_index=-1,
        )  # fmt: skip
        found.append((losses, theta, h, c))
    agree(found[0], lambda d: found[1], "float64", 1e-10)


def test_several_models_of_a_series(ref):
    sizes, shape = (5, 2, 4, 3, 2), model("huber")[0]
    alone = [trained(ref, "huber", sizes, optimizer="sgd") for _ in range(2)]
    _, theta, h, c, *_ = model("huber", sizes)
    random = np.random.RandomState(3)
    series, targets, starts = random.randn(50, 4), aims(random, "huber", (50,)), random.randint(0, 46, (4, 2))
    starts[0, 0] = 45
    arrays = [np.stack([a] * 2) for a in (theta, np.zeros((0, len(theta))), h, c)]
    losses = ref.train_steps(
        *arrays, series, np.stack([starts] * 2), np.stack([np.arange(4) == 2] * 2), 0.01, shape=shape, seq_length=5,
        optimizer="sgd", targets=targets, grad_clip=1.0, **options_of("huber"),
    )  # fmt: skip
    for k in range(2):
        assert losses[k].tobytes() == alone[k][0].tobytes()
        assert arrays[0][k].tobytes() == alone[k][1].tobytes()


# --------------------------------------------------------------------------------------------------------- refusals
@pytest.mark.parametrize(
    ("loss", "wrong", "message"),
    [
        ("squared", {"loss": "mse"}, "loss: expected one of cross_entropy, squared, huber, gaussian, got 'mse'"),
        ("squared", {"loss": None}, "loss: expected one of cross_entropy, squared, huber, gaussian, got None"),
        ("huber", {"delta": 0}, "delta: expected a finite number of more than 0, got 0"),
        ("huber", {"delta": "1"}, "delta: expected a finite number of more than 0, got '1' (str)"),
        ("squared", {"ignore_index": 1}, "ignore_index: expected None with loss squared, got 1"),
        ("cross_entropy", {"ignore_index": 0.5}, "ignore_index: expected None, or a whole number from -2147483648 to 2147483647, got 0.5 (float)"),
        ("cross_entropy", {"ignore_index": 2**31}, "ignore_index: expected None, or a whole number from -2147483648 to 2147483647, got 2147483648"),
        ("cross_entropy", {"targets": None}, "targets: expected ids, as a series has none for cross_entropy, got None"),
        ("squared", {"targets": None}, "targets: expected (..., 3), as a series of 4 columns does not fit, got None"),
        ("gaussian", {"shape": Shape(5, 3, 2, input_size=4)}, "shape: expected an even vocab_size, a mean and a deviation for each target, got 5"),
        ("squared", {"shape": Shape(3, 3, 2)}, "loss: expected cross_entropy for a model of ids, got 'squared'"),
    ],
    ids=str,
)  # fmt: skip
def test_what_is_no_loss_of_this_model(ops, loss, wrong, message):
    shape, theta, h, c, x, targets, options = model(loss)
    kept, state = h.copy(), (h.copy(), c.copy())
    given = {"shape": shape, "targets": targets, **options, **wrong}
    if given["shape"] != shape:
        theta = np.zeros(spec.num_parameters(given["shape"]))
    series = x.reshape(-1, 4)
    rows = None if given["targets"] is None else targets.reshape(len(series), *targets.shape[2:])
    calls = [
        lambda: ops.loss_and_grad(theta, h, c, x, **given),
        lambda: ops.score(theta, *state, x, **given),
        lambda: ops.train_steps(theta.copy(), np.zeros((1, len(theta))), *state, series, np.zeros((1, 2), int),
                                np.zeros(1, bool), 0.1, seq_length=3, **{**given, "targets": rows}),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(ValueError, match=".") as caught:
            call()
        assert str(caught.value) == message
    assert (state[0] == kept).all()


def test_arrays_that_do_not_fit(ops):
    shape, theta, h, c, x, targets, options = model("squared")
    for name, value, message in [
        ("x", x[:, :, :3].copy(), r"x: expected \(T, B, D\) = \(5, 2, 4\), got \(5, 2, 3\)"),
        ("x", np.zeros((5, 2), np.int32), r"x: expected \(T, B, D\) = \(T, 2, 4\), got \(5, 2\)"),
        ("x", x.astype("f4"), "x: expected float64, got float32"),
        ("targets", targets[:, :, :2].copy(), r"targets: expected \(T, B, Y\) = \(5, 2, 3\), got \(5, 2, 2\)"),
        ("targets", targets[:-1], r"targets: expected \(T, B, Y\) = \(5, 2, 3\), got \(4, 2, 3\)"),
        ("targets", np.zeros((5, 2), np.int32), r"targets: expected \(T, B, Y\) = \(5, 2, 3\), got \(5, 2\)"),
        ("targets", targets.astype("f4"), "targets: expected float64, got float32"),
        ("targets", targets.tolist(), "targets: expected an array, got list"),
    ]:
        given = {"x": x, "targets": targets, **{name: value}}
        with pytest.raises(ValueError, match=f"^{message}$"):
            ops.loss_and_grad(theta, h, c, shape=shape, **given, **options)
    with pytest.raises(
        ValueError,
        match=r"^starts: expected 0 <= start and start \+ 5 < 51 \(one more than the number of rows\), got 0 to 46",
    ):
        arrays = theta.copy(), np.zeros((1, len(theta))), h.copy(), c.copy(), np.zeros((50, 4))
        ops.train_steps(*arrays, np.array([[0, 46]]), np.zeros(1, bool), 0.1, shape=shape, seq_length=5,
                        targets=np.zeros((50, 3)), loss="squared")  # fmt: skip
    with pytest.raises(ValueError, match="^shape: expected input_size 0, as only ids can be drawn, got 4$"):
        ops.sample(theta, h.copy(), c.copy(), np.zeros(2, np.int32), np.zeros((3, 2)), shape=shape)
    with pytest.raises(ValueError, match="^loss: expected one of squared, huber, gaussian, got 'cross_entropy'$"):
        ops.regression_loss(targets, targets, loss="cross_entropy")
    with pytest.raises(ValueError, match=r"^outputs: expected \(T, B, 2Y\) = \(5, 2, 2Y\), got \(5, 2, 3\)$"):
        ops.regression_loss(targets, targets, loss="gaussian")
    with pytest.raises(ValueError, match="^embedding_size: expected 0 with input_size 3, got 2$"):
        Shape(3, 3, embedding_size=2, input_size=3)


@pytest.mark.skipif(kernels.missing("cupy") is not None and not emulator.COMPILER, reason=emulator.REASON)
def test_the_cupy_backend_refuses_series_in_one_line():
    ops = load("cupy")
    shape, theta, h, c, x, targets, options = model("squared")
    with pytest.raises(ValueError, match="^shape: expected input_size 0 on the cupy backend, got 4$"):
        ops.loss_and_grad(theta, h, c, x, shape=shape, targets=targets, **options)
    with pytest.raises(ValueError, match="^loss: expected cross_entropy on the cupy backend, got 'squared'$"):
        ops.regression_loss(targets, targets)
    shape, x = Shape(7, 3, 2), np.zeros((6, 2), np.int32)
    theta = np.zeros(spec.num_parameters(shape))
    with pytest.raises(ValueError, match="^ignore_index: expected None on the cupy backend, got 3$"):
        ops.score(theta, h.copy(), c.copy(), x, shape=shape, ignore_index=3)
    with pytest.raises(
        ValueError, match="^targets: expected None on the cupy backend, which predicts the id that follows$"
    ):
        ops.score(theta, h.copy(), c.copy(), x[1:].copy(), shape=shape, targets=x[1:].copy())
    with pytest.raises(ValueError, match="^ignore_index: expected None on the cupy backend, got 3$"):
        ops.softmax_cross_entropy(np.zeros((6, 2, 7)), x, ignore_index=3)


def test_a_shape_of_a_series_is_another_than_that_of_a_text():
    text, series = Shape(7, 3, 2), Shape(7, 3, 2, input_size=4)
    assert text == (7, 3, 2, "lstm", 0) != series
    assert {text: 1, series: 2}[series] == 2
    assert hash(text) == hash((7, 3, 2, "lstm", 0))
    V, H, L, cell, E = series  # as ever
    assert (V, H, L, cell, E) == text
    assert series._replace(hidden_size=5) == Shape(7, 5, 2, input_size=4)
    assert series._replace(input_size=0) == text
    for copied in (copy.copy(series), copy.deepcopy(series), pickle.loads(pickle.dumps(series))):  # noqa: S301
        assert copied == series
    assert (
        repr(series) == "Shape(vocab_size=7, hidden_size=3, num_layers=2, cell='lstm', embedding_size=0, input_size=4)"
    )
    assert spec.num_parameters(series) == spec.num_parameters(text) - 3 * 4 * 3
