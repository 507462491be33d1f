"""Layers by themselves: streams of different lengths, reverse, both directions, threads, one step at a time."""

import tracemalloc

import numpy as np
import pytest

import kernels
from kernels import bidirectional, spec, testing
from kernels.testing import FLOAT64_TOLERANCE, layer_arrays, relative_error

CELLS = tuple(spec.CELLS)
ORDERS = pytest.mark.parametrize(
    ("is_ragged", "reverse"), [(False, True), (True, False), (True, True)], ids=["reverse", "ragged", "both"]
)


@pytest.fixture(scope="module")
def numba():
    return kernels.load("numba")


def given(cell, dims, seed=0, dtype="float64"):
    """Return a layer's weights, x (T, B, D), lengths, and gradients of h and of the last states."""
    T, B, D, H = dims
    random = np.random.RandomState(seed)
    arrays = {name: each.astype(dtype) for name, each in layer_arrays(random, cell, (B, D, H), 1 / np.sqrt(H)).items()}
    lengths = random.randint(1, T + 1, B)
    lengths[0] = T - 1  # so that no stream has all steps, unless another was drawn
    states = len(spec.LAYERS[cell].states)
    dh, last = random.randn(T, B, H).astype(dtype), random.randn(states, B, H).astype(dtype)
    return arrays, random.randn(T, B, D).astype(dtype), lengths, dh, last


def both_ways(ops, cell, arrays, x, dh, last, threads=1, **order):
    """Return states, gates and gradients; beyond the ends of streams, dh is NaN and buffers are."""
    T, B, H = dh.shape
    row, dh = spec.CELLS[cell], dh.copy()
    if order.get("lengths") is not None:
        dh[np.arange(T)[:, None] >= order["lengths"]] = np.nan
    columns = row.gates * H
    made = [np.full((T + 1, B, H), np.nan, x.dtype) for _ in spec.LAYERS[cell].states]
    made += [np.full((row.kept, T, B, columns)[row.kept == 1 :], np.nan, x.dtype)] if row.kept else []
    out = tuple(made) if len(made) > 1 else made[0]
    cache = getattr(ops, f"{cell}_forward")(x, **arrays, **order, threads=threads, out=out)[-1]
    grads = spec.LAYERS[cell].grads(np.full_like(x, np.nan), *(np.full_like(each, np.nan) for each in arrays.values()))
    dz = np.full((row.planes, T, B, columns)[row.planes == 1 :], np.nan, x.dtype)
    getattr(ops, f"{cell}_backward")(dh, cache, *last, threads=threads, out=grads, dz=dz)
    return {**{name: getattr(cache, name) for name in spec.LAYERS[cell].made}, **grads._asdict()}


@ORDERS
@pytest.mark.parametrize("dims", [(6, 5, 4, 3), (1, 1, 2, 1), (5, 12, 4, 65)], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_lengths_and_reverse_as_the_reference(numba, ref, cell, dims, is_ragged, reverse):
    if cell == "lnlstm" and dims[-1] == 1:
        pytest.skip("a single unit normalised is nothing but rounding errors")
    arrays, x, lengths, dh, last = given(cell, dims)
    order = {"lengths": np.maximum(lengths, 1) if is_ragged else None, "reverse": reverse}
    wanted = both_ways(ref, cell, arrays, x, dh, last, **order)
    for name, got in both_ways(numba, cell, arrays, x, dh, last, **order).items():
        assert relative_error(got, wanted[name]) < FLOAT64_TOLERANCE, name


@pytest.mark.parametrize("reverse", [False, True])
@pytest.mark.parametrize("cell", CELLS)
def test_a_ragged_batch_is_its_streams_one_by_one(ref, cell, reverse):
    T, B = 6, 5
    arrays, x, lengths, dh, last = given(cell, (T, B, 4, 3))
    found = both_ways(ref, cell, arrays, x, dh, last, lengths=lengths, reverse=reverse)
    states, total = [f"{name}0" for name in spec.LAYERS[cell].states], {}
    for b, n in enumerate(lengths):
        own = {name: each[b : b + 1] if name in states else each for name, each in arrays.items()}
        turned = slice(None, None, -1) if reverse else slice(None)
        piece, to = np.ascontiguousarray(x[:n, b : b + 1][turned]), np.ascontiguousarray(dh[:n, b : b + 1][turned])
        alone = both_ways(ref, cell, own, piece, to, np.ascontiguousarray(last[:, b : b + 1]))
        assert found["h"][1 : n + 1, b] == pytest.approx(alone["h"][1:, 0][turned], rel=1e-12)
        end = arrays["h0"][b] if reverse else alone["h"][n, 0]
        assert (found["h"][n + 1 :, b] == pytest.approx(np.broadcast_to(end, (T - n, 3)), rel=1e-12)) or n == T
        assert found["dx"][:n, b] == pytest.approx(alone["dx"][:, 0][turned], rel=1e-9, abs=1e-13)
        assert not found["dx"][n:, b].any()
        assert found["dh0"][b] == pytest.approx(alone["dh0"][0], rel=1e-9)
        for name, each in alone.items():
            if name.startswith("dW") or name.startswith("db"):
                total[name] = total.get(name, 0) + each
    for name, each in total.items():
        assert relative_error(found[name], each) < 1e-11, name


@pytest.mark.parametrize("dims", [(3, 1, 5, 100), (4, 7, 5, 129), (5, 33, 4, 17), (2, 16, 3, 64)], ids=str)
@pytest.mark.parametrize("cell", CELLS)
def test_any_number_of_threads_gives_the_same_bits(numba, cell, dims, monkeypatch):
    from kernels.cpu import pace, single, teamwork

    class Patient(pace.Retreat):
        WAITS = 2**40  # a team that gave up would leave the work to one thread

    monkeypatch.setattr(teamwork, "_retreat", Patient())
    monkeypatch.setattr(single, "_WORK", 0)  # so that small layers have a team, too
    arrays, x, lengths, dh, last = given(cell, dims)
    for order in ({}, {"lengths": lengths, "reverse": True}):
        alone = both_ways(numba, cell, arrays, x, dh, last, **order)
        for threads in (2, 3):
            for name, got in both_ways(numba, cell, arrays, x, dh, last, threads, **order).items():
                assert got.tobytes() == alone[name].tobytes(), (name, threads)


def test_a_team_that_gives_up_leaves_the_gradients_of_the_last_states(numba, monkeypatch):
    """dh_last may be the buffer of dh0: the thread that begins anew needs what it was."""
    from kernels.cpu import single

    arrays, x, _, dh, last = given("lstm", (3, 4, 5, 100))
    alone = both_ways(numba, "lstm", arrays, x, dh, last)
    begun = []

    def given_up(member, team, one, counter, begin):
        begin()
        begun.append(member(one, 0))
        counter[:] = 0
        begin()
        member(one, 0)

    monkeypatch.setattr(single, "together_or_alone", given_up)
    cache = numba.lstm_forward(x, **arrays)[-1]
    out = numba.lstm_backward(dh, cache)._replace(dh0=last[0], dc0=last[1])
    numba.lstm_backward(dh, cache, *last, threads=2, out=out)
    assert len(begun) == 3
    for name, got in out._asdict().items():
        assert got.tobytes() == alone[name].tobytes(), name


@pytest.mark.parametrize("kind", ["ids", "floats"])
@pytest.mark.parametrize("cell", CELLS)
def test_steps_are_the_layer_step_by_step(numba, ref, cell, kind):
    T, B, D, H = 4, 3, 6, 17
    arrays, x, _, _, _ = given(cell, (T, B, D, H))
    x = np.random.RandomState(1).randint(0, D, (T, B)).astype(np.int32) if kind == "ids" else x
    names = spec.LAYERS[cell].states
    *wanted, _ = getattr(ref, f"{cell}_forward")(x, **arrays)
    states = [arrays.pop(f"{name}0") for name in names]
    row = spec.CELLS[cell]
    gates = [np.full((row.kept, B, row.gates * H)[row.kept == 1 :], np.nan)] if row.kept else []
    for ops in (numba, ref):
        for is_in_place in (False, True):
            now = [each.copy() for each in states]
            for t in range(T):
                out = (*(now if is_in_place else [np.full_like(each, np.nan) for each in now]), *gates)
                found = getattr(ops, f"{cell}_step")(x[t], *now, **arrays, out=out if len(out) > 1 else out[0])
                now = list(found) if len(names) > 1 else [found]
                assert all(one is other for one, other in zip(now, out, strict=False))
                for got, each in zip(now, wanted, strict=True):
                    assert relative_error(got, each[t + 1]) < FLOAT64_TOLERANCE
        fresh = getattr(ops, f"{cell}_step")(x[0], *states, **arrays)
        assert relative_error(fresh[0] if len(names) > 1 else fresh, wanted[0][1]) < FLOAT64_TOLERANCE


@pytest.mark.parametrize("cell", CELLS)
def test_with_buffers_nothing_is_allocated(numba, cell):
    """Neither forward, nor backward, nor for a step: nothing as large as the state of one stream, here 16 KB.

    The backward pass of a GRU allocates one such state, and says so.
    """
    arrays, x, _, dh, last = given(cell, (3, 1, 5, 2048))
    cache = getattr(numba, f"{cell}_forward")(x, **arrays)[-1]
    made = tuple(getattr(cache, name) for name in spec.LAYERS[cell].made)
    out, grads = made if len(made) > 1 else made[0], getattr(numba, f"{cell}_backward")(dh, cache, *last)
    layer, (B, columns) = spec.LAYERS[cell], (x.shape[1], arrays["W_h"].shape[1])
    dz = np.empty((layer.row.planes, *dh.shape[:2], columns)[layer.row.planes == 1 :])
    weights = {name: each for name, each in arrays.items() if not name.endswith("0")}
    states = [arrays[f"{name}0"].copy() for name in layer.states]
    after = [np.empty_like(each) for each in states]
    after += [np.empty((layer.row.kept, B, columns)[layer.row.kept == 1 :])] if layer.row.kept else []

    def calls():
        cache = getattr(numba, f"{cell}_forward")(x, **arrays, out=out)[-1]
        getattr(numba, f"{cell}_backward")(dh, cache, *last, out=grads, dz=dz)
        getattr(numba, f"{cell}_step")(x[0], *states, **weights, out=tuple(after) if len(after) > 1 else after[0])

    calls()
    tracemalloc.start()
    try:
        calls()
        assert tracemalloc.get_traced_memory()[1] < (16384 if cell == "gru" else 0) + 12288
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize("cell", CELLS)
def test_both_directions(numba, ref, cell):
    T, B, H = 6, 5, 3
    ahead, x, lengths, _, last = given(cell, (T, B, 4, H))
    behind, random = given(cell, (T, B, 4, H), 1)[0], np.random.RandomState(2)
    dh = random.randn(T, B, 2 * H)
    for order in ({}, {"lengths": lengths}):
        h, caches = bidirectional.forward(numba, cell, x, ahead, behind, **order)
        dx, *grads = bidirectional.backward(numba, cell, dh, caches, last, None)
        one, other = (
            getattr(ref, f"{cell}_forward")(x, **arrays, **order, reverse=reverse)
            for arrays, reverse in ((ahead, False), (behind, True))
        )
        assert relative_error(h, np.concatenate([one[0][1:], other[0][1:]], axis=-1)) < FLOAT64_TOLERANCE
        to = [np.ascontiguousarray(each) for each in np.split(dh, 2, axis=-1)]
        wanted = [
            getattr(ref, f"{cell}_backward")(to[0], one[-1], *last), getattr(ref, f"{cell}_backward")(to[1], other[-1])
        ]  # fmt: skip
        assert relative_error(dx, wanted[0].dx + wanted[1].dx) < FLOAT64_TOLERANCE
        for got, each in zip(grads, wanted, strict=True):
            for name in each._fields[1:]:
                assert relative_error(getattr(got, name), getattr(each, name)) < FLOAT64_TOLERANCE, name


def test_what_lengths_must_be(numba, ref):
    arrays, x, lengths, dh, _ = given("lstm", (6, 5, 4, 3))
    for ops in (numba, ref):
        for wrong, message in (
            (np.array([1, 2, 3, 4, 7]), r"lengths: expected numbers from 1 to 6 \(T\), got 7"),
            (np.array([1, 2, 3, 4, 0]), r"lengths: expected numbers from 1 to 6 \(T\), got 0"),
            (lengths[:4].copy(), r"lengths: expected \(B,\) = \(5,\), got \(4,\)"),
            (lengths.astype(float), "lengths: expected int64, got float64"),
        ):
            with pytest.raises(ValueError, match=message):
                ops.lstm_forward(x, **arrays, lengths=wrong)
        spoilt = x.copy()
        spoilt[lengths[0], 0] = np.nan
        with pytest.raises(ValueError, match="^x: expected finite numbers beyond lengths, got NaN or inf"):
            ops.lstm_forward(spoilt, **arrays, lengths=lengths)
        with pytest.raises(ValueError, match="^reverse: expected True or False, got 'yes'"):
            ops.lstm_forward(x, **arrays, reverse="yes")
        cache = ops.lstm_forward(x, **arrays, lengths=lengths.copy())[-1]
        cache.lengths[1] = 9
        with pytest.raises(ValueError, match="^cache.lengths: expected numbers from 1 to 6"):
            ops.lstm_backward(dh, cache)


def test_what_checks_of_gradients_cover(ref):
    ops = {check.op for check in testing.gradient_errors(ref, cells=["rnn"])}
    assert {"rnn ids reverse", "rnn floats lengths", "rnn floats lengths reverse"} <= ops


class _Adapted:
    """A layer of a backend, as kernels.testing.judge takes it."""

    def __init__(self, ops, cell):
        arrays, x, _, _, _ = given(cell, (4, 2, 3, 5))
        self.ops, self.cell, self.given = ops, cell, {**arrays, "x": x}

    def arrays(self):
        return self.given

    def run(self):
        return getattr(self.ops, f"{self.cell}_forward")(**self.given)

    def forward(self):
        return dict(zip(("h", "c"), self.run()[:-1], strict=False))

    def backward(self, gradients):
        to, last = gradients["h"], [each[-1] for each in gradients.values()]
        grads = getattr(self.ops, f"{self.cell}_backward")(
            np.ascontiguousarray(to[1:]), self.run()[-1], None, *last[1:]
        )
        named = {name: getattr(grads, f"d{name}").copy() for name in self.given}
        named["h0"] += to[0]  # h[0] is h0, and so for c
        return named


def test_anybodys_layer_is_judged(ref):
    """The LSTM's c has gradients at the ends only, in this adapter: one at every step is a mistake that is found."""
    gru = _Adapted(ref, "gru")
    before = {name: each.copy() for name, each in gru.given.items()}
    errors = testing.judge(gru, name="gru")
    assert testing.is_correct(errors)
    assert [each.tensor for each in errors] == list(gru.given)
    assert all(np.array_equal(each, before[name]) for name, each in gru.given.items())
    wrong = {each.tensor: each.error for each in testing.judge(_Adapted(ref, "lstm"))}
    assert wrong["W_h"] > 1e-3
    gru.backward = lambda gradients: {"x": np.zeros(2)}
    assert all(np.isnan(each.error) for each in testing.judge(gru))
    assert not testing.is_correct(testing.judge(gru))


def test_a_judged_layer_may_work_in_place_and_reuse_its_buffers(ref):
    class InPlace(_Adapted):
        def backward(self, gradients):
            found = super().backward(gradients)
            for each in gradients.values():
                each.fill(0)
            self.found = found
            return found

        def forward(self):
            for each in getattr(self, "found", {}).values():
                each.fill(np.nan)
            return super().forward()

    assert testing.is_correct(testing.judge(InPlace(ref, "gru")))
    nothing = _Adapted(ref, "gru")
    nothing.backward = lambda gradients: (
        [each.fill(0) for each in gradients.values()]
        and {name: np.zeros_like(each) for name, each in nothing.given.items()}
    )
    assert not testing.is_correct(testing.judge(nothing))
