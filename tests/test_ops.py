"""What every op does besides being right: refuses bad arguments, leaves inputs alone, splits without a trace."""

import platform
import tracemalloc

import numpy as np
import pytest

from kernels import spec
from kernels.spec import Shape

SHAPE = Shape(11, 9, 2)


def training(dtype="float64", batch=3, length=600, slots=1, seed=0):
    """Arrays for train_steps, on random ids."""
    random = np.random.RandomState(seed)
    theta = spec.aligned_zeros(spec.num_parameters(SHAPE), dtype)
    theta[:] = random.randn(len(theta)) * 0.3
    state, h = spec.aligned_zeros((slots, len(theta)), dtype), np.zeros((2, batch, 9), dtype)
    ids = random.randint(0, 11, length).astype(np.uint8)
    return theta, state, h, h.copy(), ids


def plan(n, batch=3, T=5):
    starts = np.arange(n)[:, None] % 30 * T + np.arange(batch) * 200
    return np.ascontiguousarray(starts, np.int64), np.arange(n) % 30 == 0, np.full(n, 0.05)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize(
    ("optimizer", "hyper"), [*((name, {}) for name in spec.OPTIMIZERS), ("sgd", {"momentum": 0.9})], ids=str
)
def test_one_call_or_several_give_the_same_bits(ops, optimizer, hyper, dropout, dtype):
    arguments = {"shape": SHAPE, "seq_length": 5, "optimizer": optimizer, "hyper": hyper, "grad_clip": 1.0}
    slots = spec.slots(optimizer, hyper)
    whole, parts = training(dtype, slots=slots), training(dtype, slots=slots)
    starts, reset, rates = plan(20)
    masks = np.random.RandomState(8).randint(0, 2, (20, 2, 5, 3, 9)).astype(np.uint8)

    def dropping(a, b):
        return {"dropout": dropout, "masks": masks[a:b] if dropout else None}

    losses = ops.train_steps(*whole, starts, reset, rates, **dropping(0, 20), **arguments)
    pieces = []
    for a, b in ((0, 1), (1, 8), (8, 20)):
        pieces.append(
            ops.train_steps(*parts, starts[a:b], reset[a:b], rates[a:b], step=a, **dropping(a, b), **arguments)
        )
    assert np.concatenate(pieces).tobytes() == losses.tobytes()
    for one, other in zip(whole, parts, strict=True):
        assert one.tobytes() == other.tobytes()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("optimizer", ["adagrad", "adam"])
@pytest.mark.parametrize(
    ("shape", "batch", "dropout"),
    [
        (Shape(11, 33, 2), 13, 0),  # streams are shared out
        (Shape(11, 237, 2), 3, 0),  # panels of hidden units are
        (Shape(300, 224, 2), 5, 0),  # hidden units are
        (Shape(71, 100, 1), 1, 0),
        (Shape(7, 100, 2), 5, 0),  # streams are, and one member has an odd number of them
        (Shape(301, 33, 1), 13, 0),
        (Shape(7, 520, 1), 1, 0),  # one row of the readout is left over
        (Shape(7, 5, 1), 1, 0),  # too small for more than one thread
        (Shape(17, 33, 2, embedding_size=9), 13, 0.5),  # one row of the table is left over
        (Shape(11, 237, 2), 3, 0.5),
        (Shape(9, 237, 3, embedding_size=70), 3, 0.5),
        (Shape(300, 224, 2, embedding_size=5), 5, 0),
    ],
    ids=str,
)
def test_any_number_of_threads_gives_the_same_bits(shape, batch, dropout, optimizer, dtype):
    import kernels

    ops, T, n = kernels.load("numba"), 9, 8
    clipping = {"grad_clip": 0.5} if optimizer == "adagrad" else {"grad_clip_norm": 0.5}
    random, outcomes = np.random.RandomState(1), []
    first = random.randn(spec.num_parameters(shape)) * 0.2
    ids = random.randint(0, shape.vocab_size, 90 * batch).astype(np.uint16)
    starts = np.ascontiguousarray(np.arange(n)[:, None] * T + np.arange(batch) * 90, np.int64)
    masks = random.randint(0, 2, (n, shape.num_layers, T, batch, shape.hidden_size)).astype(np.uint8)
    for threads in (1, 2, 3):
        theta = spec.aligned_zeros(len(first), dtype)
        theta[:] = first
        state = np.zeros((spec.OPTIMIZERS[optimizer].slots, len(theta)), dtype)
        h = np.zeros((shape.num_layers, batch, shape.hidden_size), dtype)
        c = h.copy()
        losses = ops.train_steps(
            theta, state, h, c, ids, starts, np.arange(n) == 5, np.full(n, 0.01), shape=shape, seq_length=T,
            optimizer=optimizer, threads=threads, dropout=dropout, masks=masks if dropout else None, **clipping,
        )  # fmt: skip
        assert np.isfinite(losses).all()
        outcomes.append([a.tobytes() for a in (losses, theta, state, h, c)])
    assert outcomes[1] == outcomes[0]
    assert outcomes[2] == outcomes[0]


def test_how_work_is_shared_out():
    from kernels.cpu.team import plan

    def shares(H, B, threads):
        found = plan(H, B, threads)
        return found.members.tolist(), found.pieces.tolist()

    whole = [[0, 100, 0, 100]]
    assert shares(100, 16, 1) == ([[0, 16, 0, 1]], whole)
    assert shares(100, 16, 2) == ([[0, 8, 0, 1], [8, 16, 0, 1]], whole)  # streams
    assert shares(100, 13, 3) == ([[0, 4, 0, 1], [4, 8, 0, 1], [8, 13, 0, 1]], whole)
    panels = [[0, 48, 0, 48], [48, 52, 0, 52]]  # of hidden units, whatever the number of threads
    assert shares(100, 1, 1) == ([[0, 1, 0, 2]], panels)
    assert shares(100, 1, 8) == ([[0, 1, 0, 1], [0, 1, 1, 2]], panels)
    assert shares(512, 1, 3)[0] == [[0, 1, 0, 1], [0, 1, 1, 2], [0, 1, 2, 3]]  # units, by sixteens
    assert shares(512, 1, 3)[1] == [[0, 160, 0, 512], [160, 176, 160, 512], [336, 176, 336, 512]]
    assert len(plan(5, 1, 8).members) == len(plan(32, 4, 2).members) == 1  # too small
    for H, B in ((64, 2), (129, 3), (383, 1), (384, 1), (200, 7), (1000, 1), (16, 50)):
        for threads in (1, 2, 3, 8):
            members, pieces = shares(H, B, threads)
            assert [sum(piece[1] for piece in pieces), members[0][0], members[-1][1]] == [H, 0, B]


def test_a_team_that_waits_too_often_gives_way_to_one_thread_and_comes_back():
    from kernels.cpu.team import Pace

    def stretch(team_seconds, waits):
        nonlocal now
        each = 1e-4 if pace.alone else team_seconds
        alone, n = pace.alone, pace.iterations(int(0.1 / each), now)  # calls of a tenth of a second
        taken = n * (1e-4 if alone else team_seconds)
        now += taken
        pace.record(n, taken, 0 if alone else int(waits * taken), now)
        return alone

    pace, now = Pace(), 0.0
    assert not any(stretch(6e-5, waits=5) for _ in range(50))  # a quiet machine
    busy = [stretch(3e-4, waits=1000) for _ in range(100)]
    assert busy.index(True) <= 3
    assert sum(busy) > 80
    quiet = [stretch(6e-5, waits=5) for _ in range(100)]
    assert not any(quiet[40:])
    often = [stretch(6e-5, waits=1000) for _ in range(100)]  # waits are long, but the team is still faster
    assert sum(often) <= 12


def test_rows_that_no_id_touches_stay_as_they_are(ops):
    theta, state, h, c, ids = training()
    ids[ids == 7] = 6
    before = theta.copy()
    ops.train_steps(theta, state, h, c, ids, *plan(40), shape=SHAPE, seq_length=5, grad_clip=5.0)
    W_x, W_x_before = (spec.params(t, SHAPE).layers[0].W_x for t in (theta, before))
    changed = (W_x != W_x_before).any(axis=1)
    assert changed.tolist() == [k != 7 for k in range(11)]
    assert not spec.params(state[0], SHAPE).layers[0].W_x[7].any()


def test_a_loss_that_is_not_finite_ends_the_call_without_an_update(ops):
    theta, state, h, c, ids = training()
    rates = np.full(10, 0.05)
    rates[3] = 1e308
    starts, reset, _ = plan(10)
    kept = theta.copy(), state.copy(), h.copy(), c.copy()
    with np.errstate(all="ignore"):
        losses = ops.train_steps(theta, state, h, c, ids, starts, reset, rates, shape=SHAPE, seq_length=5)
    assert len(losses) < 10
    assert np.isfinite(losses[:-1]).all()
    assert not np.isfinite(losses[-1])
    count = len(losses) - 1
    ops.train_steps(*kept, ids, starts[:count], reset[:count], rates[:count], shape=SHAPE, seq_length=5)
    assert theta.tobytes() == kept[0].tobytes()
    assert state.tobytes() == kept[1].tobytes()


def test_sampling_follows_the_uniforms_and_goes_on(ops, ref):
    theta, _, h, c, _ = training()
    uniforms = np.random.RandomState(2).random_sample((40, 3))
    first = np.array([1, 2, 3], np.int32)
    states = [(h.copy(), c.copy()) for _ in range(3)]
    whole = ops.sample(theta, *states[0], first, uniforms, shape=SHAPE, temperature=0.7)
    a = ops.sample(theta, *states[1], first, uniforms[:15], shape=SHAPE, temperature=0.7)
    b = ops.sample(theta, *states[1], a[-1], uniforms[15:], shape=SHAPE, temperature=0.7)
    assert np.concatenate([a, b]).tolist() == whole.tolist()
    assert (whole == ref.sample(theta, *states[2], first, uniforms, shape=SHAPE, temperature=0.7)).all()
    assert (whole[0] != whole[1]).any()


def test_sampling_with_an_embedding(ops, ref):
    shape = Shape(11, 9, 2, embedding_size=4)
    theta = np.random.RandomState(1).randn(spec.num_parameters(shape))
    uniforms, first = np.random.RandomState(2).random_sample((40, 3)), np.array([1, 2, 3], np.int32)
    drawn = [each.sample(theta, *np.zeros((2, 2, 3, 9)), first, uniforms, shape=shape) for each in (ops, ref)]
    assert drawn[0].tolist() == drawn[1].tolist()
    assert len(set(drawn[0].ravel().tolist())) > 5


def test_sampling_agrees_with_numpys_choice(ops):
    shape = Shape(6, 2, 1)
    theta = np.zeros(spec.num_parameters(shape))
    b_y = spec.params(theta, shape).b_y
    b_y[:] = [0.3, -1.0, 2.0, 0.0, 1.0, -2.0]
    h = np.zeros((1, 1, 2))
    uniforms = np.random.RandomState(3).random_sample((200, 1))
    drawn = ops.sample(theta, h, h.copy(), np.zeros(1, np.int32), uniforms, shape=shape)[:, 0]
    probabilities = np.exp(b_y) / np.exp(b_y).sum()
    random = np.random.RandomState(3)
    assert drawn.tolist() == [random.choice(6, p=probabilities) for _ in range(200)]
    best = ops.sample(theta, h, h.copy(), np.zeros(1, np.int32), uniforms, shape=shape, temperature=0)
    assert set(best.ravel().tolist()) == {2}


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_uniform_number_just_below_one_draws_a_known_character(ops, dtype):
    theta, _, h, c, _ = training(dtype, batch=1)
    uniforms = np.array([[np.nextafter(1.0, 0.0)], [0.0]])
    drawn = ops.sample(theta, h, c, np.zeros(1, np.int32), uniforms, shape=SHAPE)
    assert 0 <= drawn.min() <= drawn.max() < 11


def test_hyperparameters_reach_the_update(ops, ref):
    for name, constants in (("adam", {"beta1": 0.5, "beta2": 0.7, "epsilon": 1e-3}), ("rmsprop", {"rho": 0.5})):
        outcome = []
        for each in (ops, ref):
            theta, state = np.ones(5), np.zeros((spec.OPTIMIZERS[name].slots, 5))
            for step in range(3):
                gradient = np.arange(5.0) - step
                getattr(each, name)(theta, gradient, state, step, learning_rate=0.1, **constants)
            outcome.append(theta)
        assert outcome[0] == pytest.approx(outcome[1], rel=1e-14)
        default = np.ones(5)
        getattr(ops, name)(default, np.arange(5.0), np.zeros((spec.OPTIMIZERS[name].slots, 5)), 0, learning_rate=0.1)
        assert (default != outcome[0]).any()


def test_the_optimizers_by_hand(ops):
    theta, gradient = np.array([1.0, -2.0]), np.array([0.5, 3.0])

    def after(name, slots, steps=2, **constants):
        values, state = theta.copy(), np.zeros((slots, 2))
        for step in range(steps):
            getattr(ops, name)(values, gradient, state, step, learning_rate=0.1, **constants)
        return values

    g = gradient
    assert after("sgd", 0) == pytest.approx(theta - 0.2 * g)
    assert after("sgd", 1, momentum=0.9) == pytest.approx(theta - 0.1 * g - 0.1 * 1.9 * g)
    assert after("adagrad", 1) == pytest.approx(theta - 0.1 * g / np.sqrt(g * g) - 0.1 * g / np.sqrt(2 * g * g))
    s1, s2 = 0.01 * g * g, 0.0199 * g * g
    assert after("rmsprop", 1) == pytest.approx(theta - 0.1 * g / np.sqrt(s1) - 0.1 * g / np.sqrt(s2), rel=1e-6)
    assert after("adam", 2) == pytest.approx(theta - 0.2 * np.sign(g))  # a steady gradient: steps of the rate itself


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_nan_gradient_is_not_hidden_by_clipping(ops, dtype):
    theta, state = np.ones(3, dtype), np.zeros((1, 3), dtype)
    gradient = np.array([1.0, np.nan, np.inf], dtype)
    ops.adagrad(theta, gradient, state, 0, learning_rate=0.1, grad_clip=5.0)
    assert np.isfinite(theta).tolist() == [True, False, True]


def test_fading_memory_costs_no_speed_and_the_setting_is_put_back(ops):
    for dtype in ("float32", "float64"):
        least = np.finfo(dtype).tiny
        theta, state = np.zeros(4, dtype), np.full((2, 4), least * 1.5, dtype)
        ops.adam(theta, np.zeros(4, dtype), state, 0, learning_rate=0.1, beta1=0.5, beta2=0.5)
        if ops.__name__ == "kernels.cpu" and platform.machine() in ("x86_64", "AMD64"):
            assert not state.any()  # denormals became zero
        assert np.array([least], dtype)[0] / 2 > 0  # and outside the kernels they are as they were


def test_refusals(ops):
    theta, state, h, c, ids = training()
    starts, reset, rates = plan(4)
    good = {"shape": SHAPE, "seq_length": 5}
    with pytest.raises(
        ValueError, match=r"ids: expected ids in \[0, 11\), got 11 at 7|x: expected ids in \[0, 11\), got 11"
    ):
        bad = ids.copy()
        bad[7] = 11
        ops.train_steps(theta, state, h, c, bad, starts, reset, rates, **good)
    with pytest.raises(ValueError, match=r"starts: expected 0 <= start and start \+ 5 < 600"):
        ops.train_steps(theta, state, h, c, ids, starts + 180, reset, rates, **good)
    with pytest.raises(ValueError, match=r"state: expected \(2, \d+\), got \(1, \d+\)"):
        ops.train_steps(theta, state, h, c, ids, starts, reset, rates, optimizer="adam", **good)
    with pytest.raises(ValueError, match=r"state: expected \(0, \d+\), got \(1, \d+\)"):
        ops.train_steps(theta, state, h, c, ids, starts, reset, rates, optimizer="sgd", **good)
    for dropout, masks, message in (
        (1.0, None, "dropout: expected at least 0 and less than 1, got 1.0"),
        (0.5, None, "masks: expected an array with dropout 0.5"),
        (0.0, np.ones((4, 2, 5, 3, 9), np.uint8), "masks: expected None with dropout 0.0"),
        (0.5, np.ones((4, 1, 5, 3, 9), np.uint8), r"masks: expected \(4, 2, 5, 3, 9\), got \(4, 1, 5, 3, 9\)"),
        (0.5, np.ones((4, 2, 5, 3, 9), bool), "masks: expected C-contiguous uint8, got bool"),
    ):
        with pytest.raises(ValueError, match=message):
            ops.train_steps(
                theta, state, h, c, ids, starts, reset, rates, dropout=dropout, masks=masks, **good
            )  # fmt: skip
    with pytest.raises(ValueError, match=r"theta: expected \(\d+,\), got"):
        ops.train_steps(theta[:-1].copy(), state[:, :-1].copy(), h, c, ids, starts, reset, rates, **good)
    with pytest.raises(ValueError, match="temperature: expected 0 or more, got -1"):
        ops.sample(theta, h, c, np.zeros(3, np.int32), np.zeros((1, 3)), shape=SHAPE, temperature=-1)
    with pytest.raises(ValueError, match=r"uniforms: expected numbers in \[0, 1\)"):
        ops.sample(theta, h, c, np.zeros(3, np.int32), np.ones((1, 3)), shape=SHAPE)
    with pytest.raises(ValueError, match=r"targets: expected ids in \[0, 4\), got -1"):
        ops.softmax_cross_entropy(np.zeros((1, 1, 4)), np.full((1, 1), -1, np.int32))
    with pytest.raises(ValueError, match=r"x: expected ids in \[0, 7\), got 7"):
        arrays = [np.zeros(dims) for dims in ((2, 3), (2, 3), (7, 12), (3, 12), (12,))]
        ops.lstm_forward(np.full((5, 2), 7, np.int32), *arrays)


def test_training_allocates_nothing_an_iteration():
    import kernels

    ops = kernels.load("numba")
    theta, state, h, c, ids = training("float32")
    ws = spec.workspace(SHAPE, 5, 3, "float32")
    arguments = {"shape": SHAPE, "seq_length": 5, "workspace": ws}

    def peak(n):
        starts, reset, rates = plan(n)
        tracemalloc.start()
        ops.train_steps(theta, state, h, c, ids, starts, reset, rates, **arguments)
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    peak(1)
    assert peak(2000) - peak(1000) <= 1000 * 8 + 2000  # the losses, eight bytes an iteration

    from numba.core.runtime import _nrt_python, rtsys

    _nrt_python.memsys_enable_stats()

    def allocations(n):
        starts, reset, rates = plan(n)
        before = rtsys.get_allocation_stats().alloc
        ops.train_steps(theta, state, h, c, ids, starts, reset, rates, **arguments)
        return rtsys.get_allocation_stats().alloc - before

    assert allocations(1) == allocations(500)  # a handle for each array that is passed, and nothing more


def test_a_workspace_of_other_sizes_is_refused(ops):
    theta, state, h, c, ids = training()
    arguments = {"shape": SHAPE, "seq_length": 5}
    with pytest.raises(ValueError, match=r"workspace.x: expected \(6, 3\), got \(10, 3\)"):
        ws = spec.workspace(SHAPE, 9, 3, "float64")
        ops.train_steps(theta, state, h, c, ids, *plan(2), workspace=ws, **arguments)
    with pytest.raises(ValueError, match="workspace.h: expected float64, got float32"):
        ws = spec.workspace(SHAPE, 5, 3, "float32")
        ops.train_steps(theta, state, h, c, ids, *plan(2), workspace=ws, **arguments)
    with pytest.raises(ValueError, match=r"workspace.dropped: expected \(2, 5, 3, 9\), got \(0, 5, 3, 9\)"):
        ws, masks = spec.workspace(SHAPE, 5, 3, "float64"), np.ones((2, 2, 5, 3, 9), np.uint8)
        ops.train_steps(
            theta, state, h, c, ids, *plan(2), workspace=ws, dropout=0.5, masks=masks, **arguments
        )  # fmt: skip


def test_no_iterations_at_all(ops):
    theta, state, h, c, ids = training()
    assert len(ops.train_steps(theta, state, h, c, ids, *plan(0), shape=SHAPE, seq_length=5)) == 0


def test_the_last_state_can_be_carried_into_the_next_pass(ops):
    theta, _, h, c, ids = training()
    x = ids[:18].reshape(6, 3).astype(np.int32)
    _, _, h, c = ops.loss_and_grad(theta, h, c, x, shape=SHAPE)
    ops.loss_and_grad(theta, h, c, x, shape=SHAPE)


def test_a_team_whose_first_member_never_comes_lets_the_others_go():
    from kernels import cpu

    counter = np.zeros(8, np.int64)
    met = []

    def member(thread):
        if thread == 0:
            raise KeyboardInterrupt
        _meet(counter)
        met.append(thread)
        return 0

    with pytest.raises(KeyboardInterrupt):
        cpu._together(member, 3, counter)
    assert sorted(met) == [1, 2]


def _meet(counter):
    import numba

    from kernels.cpu.team import meet

    @numba.njit(nogil=True)
    def wait(counter):
        meet(counter, 3)

    wait(counter)
