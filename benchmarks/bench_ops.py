"""Time of single ops on one thread: numba and the reference take turns; products are also compared with peak sgemm."""

import time

import numpy as np
import pytest
from threadpoolctl import threadpool_limits

import kernels
from benchmarks.process import QUICK, spread
from charlstm.measure.bench import iterations_for, load_average
from charlstm.measure.limits import best_time
from kernels import spec
from kernels.spec import LSTMGrads, checks

ROUNDS, ROUND_SECONDS = (1, 0.0) if QUICK else (7, 0.05)
SIZES = [(16, 1, 71, 100), (32, 16, 65, 256)] if QUICK else [(16, 1, 71, 100), (32, 16, 65, 256), (50, 50, 65, 512)]
NAMES = "T{}-B{}-V{}-H{}"
BACKENDS = ("numba", "numpy")
pytestmark = pytest.mark.parametrize("backend", BACKENDS)


@pytest.fixture(autouse=True)
def _one_thread():
    with threadpool_limits(1):
        yield


@pytest.fixture
def in_turns(request, row, once, keep):
    """Return a function that times what `make(ops)` returns and shows the row of this test's backend.

    Both backends take turns, at the first of the two rows; `make` returns a function without arguments.
    """

    def show(op, make, flops=0, machine_limits=None, **figures):
        call, test = request.node.callspec, request.node.originalname
        backend = call.params["backend"]
        sizes = "-".join(word for word in call.id.split("-") if word not in ("", backend))
        name = f"{test}[{sizes}]" if sizes else test

        def measure():
            times = _times(make)
            found = {key: spread(taken) for key, taken in times.items()}
            if flops:
                rate = flops / found["numba"]["median"]
                figures.update(gflops=rate / 1e9, of_sgemm=rate / machine_limits.flops)
            keep(name, op=op, **found, **figures, load=load_average())
            return times

        row(f"one call: {name.removeprefix('test_')}", once(("op", name), measure)[backend])

    return show


def _times(make):
    """Return the seconds per call in each round, by backend."""
    runs = {name: make(kernels.load(name)) for name in BACKENDS}
    times, counts = {name: [] for name in runs}, {name: _count(run) for name, run in runs.items()}
    for _ in range(ROUNDS):
        for name, run in runs.items():
            begin = time.perf_counter()
            for _ in range(counts[name]):
                run()
            times[name].append((time.perf_counter() - begin) / counts[name])
    return times


def _count(run):
    def many(count):
        for _ in range(count):
            run()

    return iterations_for(many, ROUND_SECONDS) if ROUND_SECONDS else 1


def layer(T, B, V, H):
    """Return float32 arguments for a layer that reads ids."""
    random = np.random.RandomState(0)
    x = random.randint(0, V, (T, B)).astype(np.int32)
    dims = ((B, H), (B, H), (V, 4 * H), (H, 4 * H), (4 * H,))
    return x, *((random.standard_normal(each) * 0.1).astype(np.float32) for each in dims)


@pytest.mark.parametrize("size", SIZES, ids=lambda size: NAMES.format(*size))
def test_lstm_forward(in_turns, backend, size, machine_limits):
    T, B, _, H = size
    arguments = layer(*size)
    out = tuple(spec.aligned_zeros(each, "float32") for each in ((T + 1, B, H), (T + 1, B, H), (T, B, 4 * H)))
    in_turns(
        "lstm_forward", lambda ops: lambda: ops.lstm_forward(*arguments, out=out),
        8 * T * B * H * H, machine_limits,
    )  # fmt: skip


@pytest.mark.parametrize("size", SIZES, ids=lambda size: NAMES.format(*size))
def test_lstm_backward(in_turns, backend, size, machine_limits):
    T, B, V, H = size
    _, _, cache = kernels.load("numpy").lstm_forward(*layer(*size))
    dh = np.random.RandomState(1).standard_normal((T, B, H)).astype(np.float32)
    dims = ((B, H), (B, H), (V, 4 * H), (H, 4 * H), (4 * H,))
    out = LSTMGrads(None, *(spec.aligned_zeros(each, "float32") for each in dims))
    dz = spec.aligned_zeros((T, B, 4 * H), "float32")
    in_turns(
        "lstm_backward", lambda ops: lambda: ops.lstm_backward(dh, cache, out=out, dz=dz),
        16 * T * B * H * H, machine_limits,
    )  # fmt: skip


@pytest.mark.parametrize("with_buffers", [False, True], ids=["", "out"])
def test_a_call_of_the_smallest_layer(in_turns, backend, with_buffers):
    """Measure the overhead of a call (T = B = 1, H = 16), and the argument checks' share of it."""
    x, h0, c0, W_x, W_h, b = arguments = layer(1, 1, 71, 16)
    out = tuple(np.zeros(each, "float32") for each in ((2, 1, 16), (2, 1, 16), (1, 1, 64))) if with_buffers else None
    checking = best_time(lambda: checks.forward("lstm", x, (h0, c0), W_x, W_h, (b,), None, False, 1, out), 200)
    in_turns("call", lambda ops: lambda: ops.lstm_forward(*arguments, out=out), checks=checking)


@pytest.mark.parametrize(
    "size", [(16, 1, 71), (32, 16, 65), (50, 50, 65)], ids=lambda size: "T{}-B{}-V{}".format(*size)
)
def test_softmax_cross_entropy(in_turns, backend, size):
    T, B, V = size
    random = np.random.RandomState(0)
    logits = random.standard_normal((T, B, V)).astype(np.float32)
    targets, out = random.randint(0, V, (T, B)).astype(np.int32), np.empty_like(logits)
    in_turns("softmax_cross_entropy", lambda ops: lambda: ops.softmax_cross_entropy(logits, targets, out=out))


@pytest.mark.parametrize("length", [76_000, 350_000], ids=lambda n: f"N{n}")
@pytest.mark.parametrize("name", sorted(spec.OPTIMIZERS))
def test_optimizer(in_turns, backend, name, length):
    random = np.random.RandomState(0)
    theta, gradient = (random.standard_normal(length).astype(np.float32) for _ in range(2))
    state = np.ones((spec.OPTIMIZERS[name].slots, length), np.float32)

    def make(ops):
        return lambda: getattr(ops, name)(theta, gradient, state, 1, learning_rate=1e-6, grad_clip=5.0)

    in_turns(name, make)
