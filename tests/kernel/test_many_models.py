"""Several models in one call: each gets the bits of its own call alone, however the call ends."""

import signal
import threading

import numpy as np
import pytest

from kernels import spec
from kernels.spec import Shape

M, N_ITERATIONS, T, B = 3, 7, 4, 2
SHAPE = Shape(9, 12, 2)
ONE_LAYER = Shape(9, 12, 1)  # with one stream, a GPU trains all models in one launch


def given(n=N_ITERATIONS, shape=SHAPE, batch=B):
    random = np.random.RandomState(0)
    theta = random.randn(M, spec.num_parameters(shape)).astype("float32") * np.float32(0.3)
    of_state = (M, shape.num_layers, batch, 12)
    states = [np.zeros(dims, "float32") for dims in ((M, 2, theta.shape[1]), of_state, of_state)]
    ids, starts = random.randint(0, 9, 90).astype(np.uint8), random.randint(0, 80, (M, n, batch))
    return [theta, *states], ids, starts, random.random_sample((M, n)) < 0.2


def trained(ops, arrays, ids, starts, reset, rates, shape=SHAPE, **options):
    return ops.train_steps(
        *arrays, ids, starts, reset, rates, shape=shape, seq_length=T, optimizer="adam", **options
    )  # fmt: skip


SIZES = pytest.mark.parametrize("size", [{}, {"shape": ONE_LAYER, "batch": 1}], ids=["batches", "one stream"])


@SIZES
@pytest.mark.parametrize("threads", [1, 2, 7])
@pytest.mark.parametrize("rates", [0.01, np.linspace(0.01, 0.02, N_ITERATIONS), np.full((M, N_ITERATIONS), 0.02)],
                         ids=["one rate", "one of each iteration", "one of each model, too"])  # fmt: skip
def test_each_model_has_the_bits_of_its_own_call(ops, threads, rates, size):
    shape = size.get("shape", SHAPE)
    together, ids, starts, reset = given(**size)
    losses = trained(ops, together, ids, starts, reset, rates, shape, threads=threads)
    alone, *_ = given(**size)
    for k in range(M):
        own = [array[k] for array in alone]
        rate = rates[k] if np.ndim(rates) == 2 else rates
        assert trained(ops, own, ids, starts[k], reset[k], rate, shape).tobytes() == losses[k].tobytes()
        assert [a.tobytes() for a in own] == [a[k].tobytes() for a in together]


@SIZES
def test_a_model_that_is_done_leaves_the_others_running(ops, size):
    shape = size.get("shape", SHAPE)
    together, ids, starts, reset = given(60, **size)
    together[0][1] = np.inf  # model 1 has no finite loss
    losses = trained(ops, together, ids, starts, reset, 0.01, shape, threads=2)
    assert np.isfinite(losses[[0, 2]]).all()
    assert not np.isfinite(losses[1]).any()
    alone, *_ = given(60, **size)
    own = [array[2] for array in alone]
    expected = trained(ops, own, ids, starts[2], reset[2], 0.01, shape, smooth_loss=9.0, stop_below=8.99)
    together, *_ = given(60, **size)
    losses = trained(ops, together, ids, starts, reset, 0.01, shape, smooth_loss=9.0, stop_below=8.99, threads=2)
    assert len(expected) < 60
    assert losses[2][: len(expected)].tobytes() == expected.tobytes()
    assert np.isnan(losses[2][len(expected) :]).all()
    assert together[0][2].tobytes() == own[0].tobytes()


def test_an_array_without_the_axis_of_models_is_refused(ops):
    together, ids, starts, reset = given()
    with pytest.raises(ValueError, match=r"starts: expected 3 models, as in theta, got \(2, 7, 2\)"):
        trained(ops, together, ids, starts[:2], reset, 0.01)
    with pytest.raises(ValueError, match="workspace: expected None for 3 models"):
        trained(ops, together, ids, starts, reset, 0.01, workspace=spec.workspace(SHAPE, T, B, "float32"))
    ids[:] = 9
    with pytest.raises(ValueError, match=r"ids: expected ids in \[0, 9\), got 9"):
        trained(ops, together, ids, starts, reset, 0.01, threads=2)


@pytest.mark.parametrize(
    ("name", "wrong"),
    [
        ("out", np.zeros((M, N_ITERATIONS - 1))),
        ("out", np.zeros((M, N_ITERATIONS + 1))),
        ("reset", np.zeros((M, N_ITERATIONS + 2), bool)),
        ("learning_rate", np.full(N_ITERATIONS - 1, 0.1)),
        ("state", None),
        ("threads", 0),
        ("threads", "2"),
        ("stop_below", None),
    ],
    ids=str,
)
def test_a_wrong_argument_is_refused_before_anything_is_trained(ops, name, wrong):
    (theta, state, h, c), ids, starts, reset = given()
    before = theta.copy()
    arguments = {"state": state, "reset": reset, "learning_rate": 0.1, "threads": 2, "out": None, "stop_below": -np.inf}
    arguments[name] = wrong
    with pytest.raises((ValueError, TypeError), match=f"^{name}: expected"):
        ops.train_steps(
            theta, h=h, c=c, ids=ids, starts=starts, shape=SHAPE, seq_length=T, optimizer="adam", **arguments
        )
    assert theta.tobytes() == before.tobytes()


@pytest.mark.skipif(not hasattr(signal, "pthread_kill"), reason="sends a signal as POSIX systems do")
def test_a_signal_ends_the_call_between_iterations():
    import kernels

    ops = kernels.load("numba")
    together, ids, starts, reset = given(400_000)
    trained(ops, together, ids, starts[:, :5], reset[:, :5], 0.01, threads=2)  # compile first
    out = np.empty((M, 400_000))
    main = threading.get_ident()
    timer = threading.Timer(0.4, lambda: signal.pthread_kill(main, signal.SIGINT))
    timer.start()
    with pytest.raises(KeyboardInterrupt):
        trained(ops, together, ids, starts, reset, 0.01, threads=2, out=out)
    made = np.isfinite(out).sum(axis=1)
    assert 0 < made.min() < 400_000
    alone, *_ = given(5)
    own = [array[0] for array in alone]
    trained(ops, own, ids, starts[0, :5], reset[0, :5], 0.01)
    trained(ops, own, ids, starts[0, : made[0]], reset[0, : made[0]], 0.01)
    assert own[0].tobytes() == together[0][0].tobytes()
