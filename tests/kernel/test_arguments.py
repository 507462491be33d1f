"""Argument checks: which calls raise which errors, and which unusual forms of arguments the ops accept."""

import gc
import threading

import numpy as np
import pytest

import kernels
from kernels import spec
from kernels.shared import WrongType
from kernels.spec import Shape
from kernels.spec.arguments import Arrays
from kernels.testing import cells_of, layer_arrays, numerical_gradient

T, B, V, H, D = 4, 2, 7, 5, 3
SHAPE = Shape(V, H, 2)


def frozen(array):
    """Return a read-only copy of an array."""
    return np.frombuffer(array.tobytes(), array.dtype).reshape(array.shape)


def mapped(array, folder):
    """Return the values in a file that is mapped read-only; writing to it is a segmentation fault."""
    path = folder / f"{len(list(folder.iterdir()))}.npy"
    np.save(path, array)
    return np.load(path, mmap_mode="r")


def layer(cell="lstm", dtype="float64", ids=False):
    random = np.random.RandomState(0)
    arrays = layer_arrays(random, cell, (B, V if ids else D, H))
    x = random.randint(0, V, (T, B)).astype(np.int32) if ids else random.randn(T, B, D)
    given = {"x": x, **arrays}
    return {name: array.astype(dtype) if array.dtype == np.float64 else array for name, array in given.items()}


def model(shape=SHAPE, dtype="float64"):
    """Return theta, h and c of a model."""
    random = np.random.RandomState(1)
    theta = random.randn(spec.num_parameters(shape)) * 0.3
    h, c = random.randn(2, shape.num_layers, B, shape.hidden_size) * 0.3
    return theta.astype(dtype), h.astype(dtype), c.astype(dtype)


def training(slots=1, n=6, shape=SHAPE, dtype="float64"):
    theta, h, c = model(shape, dtype)
    ids = np.random.RandomState(2).randint(0, shape.vocab_size, 200).astype(np.uint8)
    starts = np.ascontiguousarray(np.arange(n)[:, None] * T + np.arange(B) * 90, np.int64)
    return [theta, np.zeros((slots, len(theta)), dtype), h, c, ids, starts, np.zeros(n, bool), np.full(n, 0.05)]


def train(ops, given, **options):
    return ops.train_steps(*given, **{"shape": SHAPE, "seq_length": T, **options})


# --------------------------------------------------------------------------------------------- shapes and dtypes
@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"h": (np.zeros((2, 3)), "float B H"), "W": (np.zeros((3, 11)), "float H 4H")}, "W: expected (H, 4H) = (3, 12), got (3, 11)"),
        ({"h": (np.zeros((2, 3)), "float T B H")}, "h: expected (T, B, H), got (2, 3)"),
        ({"b": (np.zeros(8), "float 4H"), "c": (np.zeros(3), "float H")}, "c: expected (H,) = (2,), got (3,)"),
        ({"h": (np.zeros((6, 3)), "float T+1 H"), "d": (np.zeros((4, 3)), "float T H")}, "d: expected (T, H) = (5, 3), got (4, 3)"),
        ({"b": (np.zeros(9), "float 4H")}, "b: expected (4H,), got (9,)"),
        ({"b": (np.zeros((0, 3)), "float B H")}, "b: expected (B, H) with sizes of at least 1, got (0, 3)"),
        ({"h": (np.zeros(3, "f4"), "float N"), "g": (np.zeros(3), "float N")}, "g: expected float32, got float64"),
        ({"h": (np.zeros(3, "f2"), "float N")}, "h: expected float32 or float64, got float16"),
        ({"h": (np.zeros(3, ">f4"), "float N")}, "h: expected float32 or float64, got >f4"),
        ({"x": (np.zeros((2, 3)), "ids T B")}, "x: expected int32, got float64"),
        ({"x": (np.zeros(3, "i4"), "text M")}, "x: expected uint8 or uint16 or uint32, got int32"),
        ({"x": (np.array([0, 7], "i4"), "ids<V B"), "b": (np.zeros(7), "float V")}, "x: expected ids in [0, 7), got 7"),
        ({"x": (np.array([0, -1], "i4"), "ids<V B"), "b": (np.zeros(7), "float V")}, "x: expected ids in [0, 7), got -1"),
        ({"h": (np.zeros((3, 2)).T, "float B H")}, "h: expected a C-contiguous array, got strides (8, 16)"),
        ({"h": (np.zeros(25, "i1")[1:].view("f8"), "float N")}, "h: expected an aligned array, got one that begins within an element"),
        ({"h": (frozen(np.zeros(3)), "out float N")}, "h: expected a writeable array, got a read-only one"),
        ({"h": ([1.0], "float N")}, "h: expected an array, got list"),
        ({"h": (None, "float N")}, "h: expected an array, got NoneType"),
        ({"h": (np.ma.zeros(3), "float N")}, "h: expected an array, got numpy.MaskedArray; h.filled(...) gives one"),
        ({"h": (np.zeros(3).view(np.recarray), "float N")}, "h: expected an array, got numpy.recarray; numpy.asarray(h) gives one"),
    ],
)  # fmt: skip
def test_the_check_says_name_expected_and_got(arguments, message):
    with pytest.raises(ValueError, match=".") as caught:
        Arrays({name: pattern for name, (_, pattern) in arguments.items()})(tuple(a for a, _ in arguments.values()))
    assert str(caught.value) == message


def test_the_check_returns_the_sizes_and_looks_again_at_what_may_change():
    check = Arrays({"h": "float T+1 B H", "b": "float 12", "x": "ids<H B", "o": "out float B, optional"})
    given = np.zeros((6, 2, 3)), np.zeros(12), np.zeros(2, "i4"), np.zeros(2)
    for _ in range(2):
        sizes = check(given)
        assert (sizes["T"], sizes["B"], sizes["H"]) == (5, 2, 3)
    check((*given[:3], None))
    given[2][0] = 3
    with pytest.raises(ValueError, match=r"x: expected ids in \[0, 3\), got 3"):
        check(given)
    given[2][0] = 0
    given[3].flags.writeable = False
    with pytest.raises(ValueError, match="o: expected a writeable array"):
        check(given)
    with pytest.raises(ValueError, match="o: expected memory of its own, got an array that overlaps h"):
        check((*given[:3], given[0].reshape(-1)[30:32]))
    sizes = Arrays({"o": "out float N", "p": "float N"})
    for own in (np.zeros(3), np.zeros(6)[:3]):
        with pytest.raises(ValueError, match="o: expected memory of its own, got an array that overlaps p"):
            sizes((own, own))


def test_the_check_forgets_sizes_when_there_are_too_many():
    check = Arrays({"h": "float N"})
    for n in range(1, 3 * check.MOST_SEEN):
        assert check((np.zeros(n),))["N"] == n
    assert len(check._seen) <= check.MOST_SEEN


# ---------------------------------------------------------------------------------- writeable and read-only arrays
@pytest.mark.parametrize("name", spec.OPTIMIZERS)
@pytest.mark.parametrize("which", ["theta", "state"])
def test_optimizers_write_no_read_only_array(ops, tmp_path, name, which):
    slots = spec.slots(name)
    if which == "state" and slots == 0:
        pytest.skip("there is no memory")
    for dtype in ("float32", "float64"):
        for protect in (frozen, lambda array: mapped(array, tmp_path)):
            arrays = {"theta": np.ones(10, dtype), "state": np.ones((slots, 10), dtype)}
            arrays[which] = protect(arrays[which])
            with pytest.raises(ValueError, match=f"^{which}: expected a writeable array, got a read-only one$"):
                getattr(ops, name)(arrays["theta"], np.ones(10, dtype), arrays["state"], 0, learning_rate=0.1)
            assert all((array == 1).all() for array in arrays.values())


@pytest.mark.parametrize("which", ["theta", "state", "h", "c"])
def test_training_writes_no_read_only_array(ops, tmp_path, which):
    at = ["theta", "state", "h", "c"].index(which)
    for protect in (frozen, lambda array: mapped(array, tmp_path)):
        given = training()
        given[at] = protect(given[at])
        kept = [array.copy() for array in given]
        with pytest.raises(ValueError, match=f"^{which}: expected a writeable array, got a read-only one$"):
            train(ops, given)
        assert all((a == b).all() for a, b in zip(given, kept, strict=True))


def test_layers_write_no_read_only_buffer(ops):
    for cell in cells_of(ops):
        given, forward, backward = layer(cell), getattr(ops, f"{cell}_forward"), getattr(ops, f"{cell}_backward")
        *states, cache = forward(**given)
        found = backward(np.ones((T, B, H)), cache)
        has_gates = spec.CELLS[cell].kept > 0
        buffers = (*states, np.zeros_like(cache.gates)) if has_gates else states
        for k in range(len(buffers)):
            outs = tuple(frozen(b) if n == k else b.copy() for n, b in enumerate(buffers))
            with pytest.raises(ValueError, match=r"^out[.a-z]*: expected a writeable array"):
                forward(**given, out=outs if has_gates else outs[0])
        for field in found._fields:
            grads = type(found)(*(frozen(a) if field == name else a.copy() for name, a in found._asdict().items()))
            with pytest.raises(ValueError, match=f"^out.{field}: expected a writeable array"):
                backward(np.ones((T, B, H)), cache, out=grads)
        row = spec.CELLS[cell]
        dz = np.zeros((row.planes, T, B, row.gates * H))
        with pytest.raises(ValueError, match="^dz: expected a writeable array"):
            backward(np.ones((T, B, H)), cache, dz=frozen(dz if row.planes > 1 else dz[0]))


def test_other_ops_write_no_read_only_array(ops):
    theta, h, c = model()
    x = np.zeros((T + 1, B), np.int32)
    with pytest.raises(ValueError, match="^grad: expected a writeable array"):
        ops.clip(frozen(np.ones(4)), grad_clip=0.5)
    with pytest.raises(ValueError, match="^out: expected a writeable array"):
        ops.softmax_cross_entropy(np.zeros((T, B, V)), x[1:], out=frozen(np.zeros((T, B, V))))
    with pytest.raises(ValueError, match="^out: expected a writeable array"):
        ops.score(theta, h, c, x, shape=SHAPE, out=frozen(np.zeros((T, B))))
    with pytest.raises(ValueError, match="^c: expected a writeable array"):
        ops.score(theta, h, frozen(c), x, shape=SHAPE)
    with pytest.raises(ValueError, match="^h: expected a writeable array"):
        ops.sample(theta, frozen(h), c, x[0], np.zeros((3, B)), shape=SHAPE)
    with pytest.raises(ValueError, match="^log_probs: expected a writeable array"):
        ops.sample(theta, h, c, x[0], np.zeros((3, B)), shape=SHAPE, log_probs=frozen(np.zeros((3, B))))


def protected(cache, protect):
    """Return a cache with each of its arrays protected."""
    return type(cache)(*map(protect, cache[:-2]), *cache[-2:])


def test_what_is_only_read_may_be_read_only(ops, ref, tmp_path):
    """Every backend gives the same result for read-only inputs as for plain arrays."""
    for cell in cells_of(ops):
        for ids in (False, True):
            given = layer(cell, ids=ids)
            outcome = []
            for protect in (np.copy, frozen, lambda array: mapped(array, tmp_path)):
                arrays = {name: protect(array) for name, array in given.items()}
                *states, cache = getattr(ops, f"{cell}_forward")(**arrays)
                cache = protected(cache, protect)
                dh, last = protect(np.ones((T, B, H))), protect(np.ones((B, H)))
                found = getattr(ops, f"{cell}_backward")(dh, cache, last)
                outcome.append([a.tobytes() for a in (*states, *found) if a is not None])
            assert outcome[0] == outcome[1] == outcome[2]
    theta, h, c = model()
    x = np.random.RandomState(3).randint(0, V, (T + 1, B)).astype(np.int32)
    outcome = []
    for protect in (np.copy, frozen):
        loss, grad, *_ = ops.loss_and_grad(*map(protect, (theta, h, c, x)), shape=SHAPE)
        given = training()
        for k in range(4, 8):
            given[k] = protect(given[k])
        losses = train(ops, given)
        drawn = ops.sample(
            protect(theta), h.copy(), c.copy(), protect(x[0]), protect(np.full((9, B), 0.5)), shape=SHAPE
        )
        scores = ops.score(protect(theta), h.copy(), c.copy(), protect(x), shape=SHAPE)
        state = np.zeros((1, len(theta)))
        ops.adagrad(updated := theta.copy(), protect(grad), state, 0, learning_rate=0.1)
        outcome.append([np.asarray(a).tobytes() for a in (loss, grad, losses, drawn, scores, updated, *given[:4])])
    assert outcome[0] == outcome[1]


# ------------------------------------------------------------------------------------------------------------- caches
@pytest.mark.parametrize("cell", list(spec.CELLS))
def test_every_field_of_a_cache_is_checked(ops, cell):
    forward, backward = getattr(ops, f"{cell}_forward"), getattr(ops, f"{cell}_backward")
    dh = np.ones((T, B, H))
    for ids in (False, True):
        cache = forward(**layer(cell, ids=ids))[-1]
        for field in cache._fields[:-2]:
            array = getattr(cache, field)
            wrong = [array.astype("int64" if field == "x" and ids else "float32"), array[..., :-1].copy(), None, [1.0]]
            wrong += [
                np.concatenate([array, array], axis=-1),
                array[None],
                np.asfortranarray(np.ones((3, *array.shape))),
            ]
            for each in wrong:
                with pytest.raises(ValueError, match=r"^(cache\.\w+|dh): expected "):
                    backward(dh, cache._replace(**{field: each}))
        assert np.isfinite(backward(dh, cache).dW_h).all()
        wrong_order = (
            {"lengths": np.ones(B)},
            {"lengths": np.ones(B + 1, int)},
            {"lengths": [1] * B},
            {"reverse": None},
        )
        for order in wrong_order:
            with pytest.raises(ValueError, match=r"^cache\.(lengths|reverse): expected "):
                backward(dh, cache._replace(**order))
        if ids:
            for wrong_id in (-1, V, 2**31 - 1, -(2**31)):
                cache.x[1, 1] = wrong_id  # the cache refers to the caller's own array
                with pytest.raises(ValueError, match=rf"^cache.x: expected ids in \[0, {V}\), got {wrong_id}$"):
                    backward(dh, cache)


def test_a_cache_of_something_else_is_refused(ops):
    caches = {cell: getattr(ops, f"{cell}_forward")(**layer(cell))[-1] for cell in cells_of(ops)}
    for cell in cells_of(ops):
        for wrong in (None, (), [1], tuple(caches[cell]), *(caches[other] for other in caches if other != cell)):
            with pytest.raises(WrongType, match=f"^cache: expected {cell.upper()}Cache, got "):
                getattr(ops, f"{cell}_backward")(np.ones((T, B, H)), wrong)
    with pytest.raises(WrongType, match="^out: expected LSTMGrads, got tuple"):
        ops.lstm_backward(np.ones((T, B, H)), caches["lstm"], out=())
    with pytest.raises(WrongType, match=r"^out: expected a tuple \(h, c, gates\), got list"):
        ops.lstm_forward(**layer(), out=[])
    with pytest.raises(ValueError, match=r"^out: expected a tuple \(h, c, gates\), got 0 of them"):
        ops.lstm_forward(**layer(), out=())
    grads = ops.lstm_backward(np.ones((T, B, H)), caches["lstm"])
    with pytest.raises(WrongType, match="^out.dx: expected an array, got None"):
        ops.lstm_backward(np.ones((T, B, H)), caches["lstm"], out=grads._replace(dx=None))
    ids = ops.lstm_forward(**layer(ids=True))[-1]
    with pytest.raises(WrongType, match="^out.dx: expected None, as ids have no gradient, got an array"):
        ops.lstm_backward(np.ones((T, B, H)), ids, out=grads)


# ------------------------------------------------------------------------------------------------------ sizes, numbers
@pytest.mark.parametrize(
    ("sizes", "message"),
    [
        ((7, 100, 0), "num_layers: expected a whole number from 1 to 2147483647, got 0"),
        ((7, -5, 1), "hidden_size: expected a whole number from 1 to 2147483647, got -5"),
        ((7, 0, 1), "hidden_size: expected a whole number from 1 to 2147483647, got 0"),
        ((0, 5, 1), "vocab_size: expected a whole number from 1 to 2147483647, got 0"),
        ((2**40, 5, 1), "vocab_size: expected a whole number from 1 to 2147483647, got 1099511627776"),
        ((7, 5, 1, "lstm", -3), "embedding_size: expected a whole number from 0 to 2147483647, got -3"),
        ((7, 5.0, 1), "hidden_size: expected a whole number from 1 to 2147483647, got 5.0 (float)"),
        ((True, 5, 1), "vocab_size: expected a whole number from 1 to 2147483647, got True (bool)"),
        (("7", 5, 1), "vocab_size: expected a whole number from 1 to 2147483647, got '7' (str)"),
        ((7, 5, 1, "lstn"), "cell: expected one of lstm, gru, rnn, lnlstm, got 'lstn'"),
        ((7, 5, 1, None), "cell: expected one of lstm, gru, rnn, lnlstm, got None"),
    ],
)
def test_a_shape_that_is_none_cannot_be_made(sizes, message):
    for make in (lambda: Shape(*sizes), lambda: Shape._make((*sizes, *("lstm", 0)[len(sizes) - 3 :]))):
        with pytest.raises(ValueError, match=".") as caught:
            make()
        assert str(caught.value) == message
    with pytest.raises(ValueError, match="num_layers"):
        SHAPE._replace(num_layers=0)


def test_a_shape_is_made_of_pythons_own_numbers_and_can_be_stored():
    import copy
    import pickle

    shape = Shape(np.int64(7), np.uint8(5), 2, "gru", np.int32(3))
    assert shape == (7, 5, 2, "gru", 3)
    assert {type(size) for size in (*shape[:3], shape[4], shape.input_size)} == {int}
    for stored in (pickle.loads(pickle.dumps(shape)), copy.deepcopy(shape)):  # noqa: S301
        assert (type(stored), stored) == (Shape, shape)


def test_a_workspace_that_is_none_cannot_be_made():
    for arguments, message in [
        (((7, 5, 1), 4, 2, "float32"), "shape: expected kernels.spec.Shape, got tuple"),
        ((SHAPE, 0, 2, "float32"), "seq_length: expected a whole number of at least 1, got 0"),
        ((SHAPE, 4, 2.0, "float32"), "batch_size: expected a whole number of at least 1, got 2.0"),
        ((SHAPE, 4, 2, "int32"), "dtype: expected float32 or float64, got int32"),
        ((SHAPE, 4, 2, "float32", 1.0), "dropout: expected a number of at least 0 and less than 1, got 1.0"),
    ]:
        with pytest.raises(ValueError, match="^" + message):
            spec.workspace(*arguments)


WRONG_NUMBERS = [
    ("adam", {"step": -1}), ("adam", {"step": 1.0}), ("adam", {"beta1": 1.0}), ("adam", {"beta1": -0.1}),
    ("adam", {"beta2": 1}), ("adam", {"beta2": np.nan}), ("adam", {"epsilon": 1e-40}), ("adam", {"epsilon": -1e-8}),
    ("rmsprop", {"rho": 1.5}), ("sgd", {"momentum": -0.9}), ("momentum", {"momentum": np.inf}),
    ("adagrad", {"grad_clip": -1}), ("adagrad", {"grad_clip": np.nan}), ("adagrad", {"learning_rate": -0.1}),
    ("adagrad", {"learning_rate": np.nan}), ("adagrad", {"learning_rate": np.inf}), ("adagrad", {"learning_rate": "0.1"}),
    ("adagrad", {"learning_rate": None}), ("adagrad", {"learning_rate": True}), ("adagrad", {"learning_rate": [0.1]}),
    ("adagrad", {"epsilon": 1 + 0j}),
]  # fmt: skip


@pytest.mark.parametrize(("op", "wrong"), WRONG_NUMBERS, ids=str)
def test_numbers_of_the_optimizers(ops, op, wrong):
    theta, state = np.ones(10), np.zeros((spec.slots(op, {"momentum": 0.9} if "momentum" in wrong else {}), 10))
    arguments = {"step": 0, "learning_rate": 0.1, **wrong}
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: expected .*, got "):
        getattr(ops, op)(theta, np.ones(10), state, arguments.pop("step"), **arguments)
    assert (theta == 1).all()


def test_numbers_that_the_dtype_cannot_hold_are_its_largest(ops):
    outcome = []
    for rate in (1e300, float(np.finfo("f4").max)):
        arrays = np.ones(10, "f4"), np.arange(10, dtype="f4"), np.ones((1, 10), "f4")
        given, again = training(dtype="float32", n=1), training(dtype="float32", n=1)
        with np.errstate(over="ignore", invalid="ignore"):  # NumPy warns of the overflow
            ops.adagrad(*arrays, 0, learning_rate=rate)
            train(ops, given, grad_scale=rate)
            train(ops, [*again[:7], rate])
        outcome.append([a.tobytes() for a in (*arrays, *given[:4], *again[:4])])
        assert arrays[0][0] == 1  # a zero gradient leaves the weight alone, whatever the learning rate
    assert outcome[0] == outcome[1]


@pytest.mark.parametrize(
    "wrong",
    [
        {"grad_clip": -1}, {"grad_clip": np.nan}, {"grad_clip_norm": -1}, {"grad_clip_norm": np.nan}, {"step": -1},
        {"step": 0.5}, {"grad_scale": np.nan}, {"grad_scale": -1.0}, {"threads": 2.0}, {"threads": 0}, {"threads": "2"},
        {"seq_length": 0}, {"seq_length": 4.0}, {"dropout": -0.1}, {"dropout": 1}, {"dropout": "0"}, {"last_only": 1},
        {"last_only": "yes"}, {"bfloat16": None}, {"smooth_loss": np.nan}, {"stop_below": np.nan}, {"shape": (7, 5, 1)},
        {"shape": None}, {"optimizer": "adm"}, {"optimizer": ["adam"]}, {"hyper": [0.1]}, {"hyper": {"rho": 1}},
        {"hyper": {"epsilon": 0}}, {"hyper": {"epsilon": "0"}}, {"masks": np.ones((6, 2, T, B, H), np.uint8)},
        {"workspace": ()}, {"workspace": np.zeros(3)},
    ],
    ids=str,
)  # fmt: skip
def test_numbers_of_training(ops, wrong):
    given = training()
    kept = [array.copy() for array in given]
    name = next(iter(wrong))
    name = next(iter(wrong[name])) if isinstance(wrong[name], dict) and "rho" not in wrong[name] else name
    with pytest.raises(ValueError, match=f"^{name}: (expected .*, got |expected None|adagrad takes)"):
        train(ops, given, **wrong)
    assert all((a == b).all() for a, b in zip(given, kept, strict=True))


@pytest.mark.parametrize(
    "wrong",
    [
        {"temperature": -1}, {"temperature": np.nan}, {"temperature": np.inf}, {"temperature": 1e-320}, {"top_k": 2.5},
        {"temperature": None}, {"top_k": "3"}, {"top_k": -1}, {"top_k": None}, {"top_p": 0}, {"top_p": 1.1},
        {"top_p": "1"}, {"uniforms": [[0.5, 0.5]]}, {"uniforms": np.full((3, B), np.nan)}, {"uniforms": np.ones((3, B))},
        {"uniforms": np.zeros((3, B), "f4")}, {"uniforms": np.zeros((3, B + 1))}, {"log_probs": [[0.0, 0.0]]},
        {"log_probs": np.zeros((2, B))}, {"x": [0, 0]}, {"x": np.zeros(B, np.int64)}, {"x": np.full(B, V, np.int32)},
        {"x": np.full(B, -1, np.int32)}, {"shape": (7, 5, 2)}, {"theta": np.zeros(3)},
    ],
    ids=lambda wrong: f"{wrong}"[:40],
)  # fmt: skip
def test_arguments_of_sampling(ops, wrong):
    theta, h, c = model()
    given = {
        "theta": theta,
        "h": h,
        "c": c,
        "x": np.zeros(B, np.int32),
        "uniforms": np.full((3, B), 0.5),
        "shape": SHAPE,
    }
    kept = h.copy(), c.copy()
    with pytest.raises(ValueError, match=f"^{next(iter(wrong))}: expected "):
        ops.sample(**{**given, **wrong})
    assert (h == kept[0]).all()
    assert (c == kept[1]).all()


def test_numbers_of_other_kinds_that_mean_the_same(ops):
    theta, h, c = model()
    x, uniforms = np.zeros(B, np.int32), np.random.RandomState(0).random_sample((40, B))

    def drawn(**options):
        return ops.sample(theta, h.copy(), c.copy(), x, uniforms, shape=SHAPE, **options).tolist()

    assert drawn(top_k=10**30) == drawn(top_k=V) == drawn()
    assert drawn(top_k=np.int64(3)) == drawn(top_k=3) != drawn()
    assert drawn(temperature=np.float32(0.5)) == drawn(temperature=0.5)
    assert drawn(temperature=1e-300) == drawn(temperature=0)
    assert drawn(temperature=1e300) != drawn(temperature=1)
    wide = np.zeros((40, 2 * B))
    wide[:, ::2] = uniforms
    uniforms = wide[:, ::2]
    assert drawn() == ops.sample(theta, h.copy(), c.copy(), x, uniforms.copy(), shape=SHAPE).tolist()


def test_a_rate_of_all_iterations(ops):
    outcome = []
    for rate in (np.full(6, 0.05), 0.05, np.float64(0.05), np.broadcast_to(0.05, 6), np.full(12, 0.05)[::2]):
        given = training()
        losses = train(ops, [*given[:7], rate])
        outcome.append([losses.tobytes(), *(a.tobytes() for a in given[:4])])
    assert all(each == outcome[0] for each in outcome)
    for rate, message in [
        ([0.05] * 6, "learning_rate: expected a finite number of at least 0, got "),
        (np.full(5, 0.05), r"learning_rate: expected \(K,\) = \(6,\), got \(5,\)"),
        (np.full(6, 0.05, "f4"), "learning_rate: expected float64, got float32"),
        (np.full(6, np.nan), "learning_rate: expected a finite number of at least 0, got nan"),
        (-0.05, "learning_rate: expected a finite number of at least 0, got -0.05"),
        ("0.05", "learning_rate: expected a finite number of at least 0, got '0.05'"),
    ]:
        given = training()
        with pytest.raises(ValueError, match=f"^{message}"):
            train(ops, [*given[:7], rate])


def test_empty_arrays(ops):
    assert len(train(ops, training(n=0))) == 0  # zero iterations are valid
    theta, h, c = model()
    assert ops.sample(theta, h, c, np.zeros(B, np.int32), np.zeros((0, B)), shape=SHAPE).shape == (0, B)
    empty = np.zeros((2, 0, H))
    with pytest.raises(
        ValueError, match=r"^h: expected \(L, B, H\) = \(2, B, 5\) with sizes of at least 1, got \(2, 0, 5\)"
    ):
        ops.loss_and_grad(theta, empty, empty.copy(), np.zeros((T + 1, 0), np.int32), shape=SHAPE)
    with pytest.raises(ValueError, match=r"^h: expected .* with sizes of at least 1"):
        given = training()
        train(ops, [*given[:2], empty, empty.copy(), given[4], np.zeros((6, 0), np.int64), *given[6:]])
    with pytest.raises(ValueError, match=r"^h0: expected .* with sizes of at least 1"):
        ops.lstm_forward(
            np.zeros((T, 0), np.int32), *(np.zeros(d) for d in ((0, H), (0, H), (V, 4 * H), (H, 4 * H), 4 * H))
        )
    given = layer()
    with pytest.raises(
        ValueError, match=r"^W_x: expected \(D, 4H\) = \(D, 20\) with sizes of at least 1, got \(0, 20\)"
    ):
        ops.lstm_forward(**{**given, "x": np.zeros((T, B, 0)), "W_x": np.zeros((0, 4 * H))})
    with pytest.raises(ValueError, match=r"^x: expected .* with sizes of at least 1, got \(0, 2, 3\)"):
        ops.lstm_forward(**{**given, "x": np.zeros((0, B, D))})
    with pytest.raises(ValueError, match=r"^logits: expected .* with sizes of at least 1, got \(0, 2, 7\)"):
        ops.softmax_cross_entropy(np.zeros((0, B, V)), np.zeros((0, B), np.int32))


def test_nothing_is_drawn_of_logits_that_are_no_numbers(ops):
    shape = Shape(V, H)
    for wrong in (np.nan, np.inf):
        theta, h, c = model(shape)
        spec.params(theta, shape).b_y[3] = wrong
        kept = h.copy(), c.copy()
        for options in ({}, {"temperature": 0}, {"top_k": 2}, {"top_p": 0.5}):
            with pytest.raises(
                ValueError, match="^theta: expected parameters that give finite logits, got NaN or inf for character 0"
            ):
                ops.sample(theta, h, c, np.zeros(B, np.int32), np.full((3, B), 0.5), shape=shape, **options)
            assert (h == kept[0]).all()
            assert (c == kept[1]).all()
    theta, h, c = model(shape)
    spec.params(theta, shape).b_y[3] = -np.inf  # gives this character probability 0
    drawn = ops.sample(
        theta, h, c, np.zeros(B, np.int32), np.random.RandomState(0).random_sample((200, B)), shape=shape
    )
    assert sorted(set(drawn.ravel().tolist())) == [0, 1, 2, 4, 5, 6]


# ------------------------------------------------------------------------------------------------------------ overlaps
def test_overlaps_that_an_op_cannot_bear_are_refused(ops):
    given = layer()
    h, c, cache = ops.lstm_forward(**given)
    gates = np.zeros((T, B, 4 * H))
    dh = np.ones((T, B, H))
    flat = np.zeros(2000)
    overlapping = flat[: h.size].reshape(h.shape), flat[h.size - 1 : 2 * h.size - 1].reshape(h.shape)
    both = "expected memory of its own, got an array that overlaps"
    with pytest.raises(ValueError, match=f"^out.h: {both} out.c"):
        ops.lstm_forward(**given, out=(h, h, gates))
    with pytest.raises(ValueError, match=f"^out.h: {both} out.c"):
        ops.lstm_forward(**given, out=(*overlapping, gates))
    with pytest.raises(ValueError, match=f"^out.gates: {both} x"):
        x = gates.reshape(-1)[: T * B * D].reshape(T, B, D)
        ops.lstm_forward(**{**given, "x": x}, out=(h, c, gates))
    with pytest.raises(ValueError, match=f"^out.c: {both} h0"):
        ops.lstm_forward(**{**given, "h0": c[0]}, out=(h, c, gates))
    with pytest.raises(ValueError, match=f"^out.h: {both} h0"):
        within = h.reshape(-1)[1 : 1 + B * H].reshape(B, H)  # overlaps h, but is not one of its states
        ops.lstm_forward(**{**given, "h0": within}, out=(h, c, gates))
    with pytest.raises(ValueError, match=f"^dz: {both} cache.gates"):
        ops.lstm_backward(dh, cache, dz=cache.gates)
    with pytest.raises(ValueError, match=f"^out.dh0: {both} cache.h"):
        found = ops.lstm_backward(dh, cache)
        ops.lstm_backward(dh, cache, out=found._replace(dh0=cache.h[0]))
    with pytest.raises(ValueError, match=f"^theta: {both} grad"):
        theta = np.ones(10)
        ops.adagrad(theta, theta, np.zeros((1, 10)), 0, learning_rate=0.1)
    with pytest.raises(ValueError, match=f"^theta: {both} state"):
        memory = np.ones((2, 10))
        ops.adagrad(memory[0], np.ones(10), memory[:1], 0, learning_rate=0.1)
    with pytest.raises(ValueError, match=f"^h: {both} c"):
        theta, h, c = model()
        ops.sample(theta, h, h, np.zeros(B, np.int32), np.zeros((3, B)), shape=SHAPE)
    with pytest.raises(ValueError, match=f"^out: {both} targets"):
        logits = np.zeros((T, B, V))
        targets = logits.reshape(-1)[: T * B].view(np.int32)[: T * B].reshape(T, B)
        ops.softmax_cross_entropy(logits.copy(), targets, out=logits)
    with pytest.raises(ValueError, match=f"^out: {both} logits"):
        room = np.zeros(2 * logits.size)
        ops.softmax_cross_entropy(
            room[: logits.size].reshape(logits.shape),
            np.zeros((T, B), np.int32),
            out=room[1 : 1 + logits.size].reshape(logits.shape),
        )


def test_overlaps_that_an_op_can_bear(ops):
    for cell in cells_of(ops):
        given = layer(cell)
        *states, cache = getattr(ops, f"{cell}_forward")(**given)
        expected = [a.copy() for a in states]
        for at in (0, T):  # a call may take its initial state from the output buffers of the call before
            begin = {"h0": states[0][at], **({"c0": states[1][at]} if spec.CELLS[cell].has_c else {})}
            for name, array in begin.items():
                array[...] = given[name]
            buffers = (*states, np.zeros_like(cache.gates)) if spec.CELLS[cell].kept else states[0]
            getattr(ops, f"{cell}_forward")(**{**given, **begin}, out=buffers)
            assert all((a == b).all() for a, b in zip(states, expected, strict=True))
        cache = getattr(ops, f"{cell}_forward")(**given)[-1]
        dh, last = np.ones((T, B, H)), [np.random.RandomState(k).randn(B, H) for k in range(len(states))]
        backward = getattr(ops, f"{cell}_backward")
        found = backward(dh, cache, *last)
        again = type(found)(*(a.copy() for a in found))
        again = again._replace(**dict(zip(("dh0", "dc0"), last, strict=False)))
        backward(dh, cache, *last, out=again)
        assert all((a == b).all() for a, b in zip(found, again, strict=True))
    logits, targets = np.random.RandomState(0).randn(T, B, V), np.ones((T, B), np.int32)
    loss, dlogits = ops.softmax_cross_entropy(logits.copy(), targets)
    assert ops.softmax_cross_entropy(logits, targets, out=logits)[0] == loss
    assert (logits == dlogits).all()


# ---------------------------------------------------------------------------------------------------------- workspaces
@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_the_buffers_of_a_workspace_are_checked(name):
    if kernels.missing(name):
        pytest.skip(kernels.missing(name))
    ops, good = kernels.load(name), spec.workspace(SHAPE, T, B, "float64")
    both = np.zeros((2, 2, T + 1, B, H))

    def run(ws, given=None):
        train(ops, given or training(), workspace=ws)

    for field, buffer, message in [
        ("h", np.asfortranarray(good.h), "h: expected a C-contiguous array"),
        ("h", np.zeros((2, T + 1, B, 2 * H))[..., ::2], "h: expected a C-contiguous array"),
        ("grad", frozen(good.grad), "grad: expected a writeable array"),
        ("grad", good.grad.tolist(), "grad: expected an array, got list"),
        ("dh", np.ma.array(good.dh), "dh: expected an array, got numpy.MaskedArray"),
    ]:
        with pytest.raises(ValueError, match=f"^workspace.{message}"):
            run(good._replace(**{field: buffer}))
    with pytest.raises(ValueError, match="^workspace: expected buffers of their own memory, got two that overlap"):
        run(good._replace(h=both[0], c=both[0]))
    given = training()
    given[0] = good.grad
    with pytest.raises(
        ValueError, match="^workspace: expected memory of its own, got buffers that overlap an argument"
    ):
        run(good, given)
    run(good._replace(h=both[0], c=both[1]))


@pytest.mark.parametrize("name", ["numpy", "numba"])
def test_a_workspace_is_for_one_call_at_a_time(name):
    if kernels.missing(name):
        pytest.skip(kernels.missing(name))
    ops, ws = kernels.load(name), spec.workspace(SHAPE, T, B, "float64")
    expected, refused, right = train(ops, training(n=20), workspace=ws), [], []
    start = threading.Barrier(4)

    def run():
        start.wait()
        for _ in range(30):
            try:
                losses = train(ops, training(n=20), workspace=ws._replace(pairs=None))
            except ValueError as error:
                refused.append(str(error))
            else:
                right.append((losses == expected).all())

    threads = [threading.Thread(target=run) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert all(right)
    assert set(refused) <= {"workspace: expected one that no other call uses now; each thread needs its own"}
    assert len(right) + len(refused) == 120
    train(ops, training(n=1), workspace=ws)  # the workspace is free again


@pytest.mark.lacking("cupy")
def test_a_workspace_in_use_is_refused(ops):
    from kernels.spec.workspace_checks import exclusive

    ws = spec.workspace(SHAPE, T, B, "float64")
    with exclusive(ws), pytest.raises(ValueError, match="^workspace: expected one that no other call uses now"):
        train(ops, training(), workspace=ws._replace(pairs=None))
    train(ops, training(), workspace=ws)


# -------------------------------------------------------------------------------------- one signature to compile
def test_nothing_is_compiled_anew_for_other_kinds_of_arrays(tmp_path):
    pytest.importorskip("numba")
    from numba.core.dispatcher import Dispatcher

    from kernels.cpu.compiler import KernelCache

    ops = kernels.load("numba")

    def forms():
        found = [each for each in gc.get_objects() if issubclass(type(each), Dispatcher)]
        return sum(len(each.overloads) for each in found if isinstance(each._cache, KernelCache))

    def calls(protect):
        for cell in cells_of(ops):
            for ids in (False, True):
                arrays = {name: protect(array) for name, array in layer(cell, ids=ids).items()}
                cache = getattr(ops, f"{cell}_forward")(**arrays)[-1]
                dh, last = protect(np.ones((T, B, H))), protect(np.ones((B, H)))
                getattr(ops, f"{cell}_backward")(dh, protected(cache, protect), last)
        theta, h, c = model()
        x = np.zeros((T + 1, B), np.int32)
        ops.softmax_cross_entropy(protect(np.zeros((T, B, V))), protect(x[1:]))
        masks = np.ones((2, T, B, H), np.uint8)
        for dropping in ({}, {"dropout": 0.5, "masks": protect(masks)}):
            ops.loss_and_grad(*map(protect, (theta, h, c, x)), shape=SHAPE, **dropping)
        given = training()
        train(ops, [*given[:4], *map(protect, given[4:])])
        train(ops, [*given[:4], *map(protect, given[4:])], dropout=0.5, masks=protect(np.stack([masks] * 6)))
        ops.sample(protect(theta), h, c, protect(x[0]), protect(np.zeros((3, B))), shape=SHAPE)
        ops.score(protect(theta), h, c, protect(x), shape=SHAPE)
        ops.adam(theta, protect(np.ones(len(theta))), np.zeros((2, len(theta))), 0, learning_rate=0.1)

    calls(np.copy)
    before = forms()
    assert before > 10
    for protect in (frozen, lambda array: mapped(array, tmp_path)):
        calls(protect)
    given = training()
    for rate in (0.1, np.broadcast_to(0.1, 6), np.full(12, 0.1)[::2]):
        train(ops, [*given[:7], rate])
    train(ops, [*given[:6], np.zeros(12, bool)[::2], 0.1])
    theta, h, c = model()
    ops.sample(theta, h, c, np.zeros(B, np.int32), np.broadcast_to(0.5, (3, B)), shape=SHAPE)
    assert forms() == before


# ------------------------------------------------------------------------------------------------ kernels.testing
def test_the_numerical_gradient_refuses_what_it_cannot_judge():
    x = np.array([[1.0, 2.0], [3.0, 4.0]])

    def loss():
        return float((x**3).sum())

    assert numerical_gradient(loss, x) == pytest.approx(3 * x**2)
    for wrong, message in [
        (x.T, "array: expected a C-contiguous array"),
        (x[:, :1], "array: expected a C-contiguous array"),
        (x.astype(int), "array: expected float64, got int64"),
        (x.astype("f4"), "array: expected float64, got float32"),
        (frozen(x), "array: expected a writeable array"),
        (x.tolist(), "array: expected an array, got list"),
        (np.ma.array(x), "array: expected an array, got numpy.MaskedArray"),
    ]:
        with pytest.raises(ValueError, match=f"^{message}"):
            numerical_gradient(loss, wrong)
