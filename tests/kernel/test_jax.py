"""kernels.jax beside the equations in jax.numpy: results, gradients, jit, vmap (make test-peers)."""

import numpy as np
import pytest

import kernels
from kernels.testing import layer_arrays

pytestmark = [pytest.mark.peers, pytest.mark.filterwarnings("ignore")]
jax = pytest.importorskip("jax", reason="JAX is not installed: make test-peers")
if "numba" not in kernels.available():
    pytest.skip("needs the numba backend", allow_module_level=True)

from kernels import jax as ours  # noqa: E402

jnp = jax.numpy
T, B, D, H = 5, 3, 4, 6
CELLS = {"lstm": ours.lstm, "gru": ours.gru, "rnn": ours.rnn}


@pytest.fixture(autouse=True)
def x64():
    jax.config.update("jax_enable_x64", True)  # for all threads: callbacks run in one of JAX's own
    yield
    jax.config.update("jax_enable_x64", False)


def usual(cell, x, h, *rest):
    """The layer as a scan."""
    c = rest[0] if cell == "lstm" else None
    W_x, W_h, *b = rest[1:] if cell == "lstm" else rest

    def step(state, row):
        h, c = state
        if cell == "lstm":
            i, f, g, o = jnp.split(row @ W_x + h @ W_h + b[0], 4, axis=-1)
            c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * jnp.tanh(g)
            h = jax.nn.sigmoid(o) * jnp.tanh(c)
        elif cell == "gru":
            (a_r, a_z, a_n), (s_r, s_z, s_n) = jnp.split(row @ W_x + b[0], 3, -1), jnp.split(h @ W_h + b[1], 3, -1)
            r, z = jax.nn.sigmoid(a_r + s_r), jax.nn.sigmoid(a_z + s_z)
            h = (1 - z) * jnp.tanh(a_n + r * s_n) + z * h
        else:
            h = jnp.tanh(row @ W_x + h @ W_h + b[0])
        return (h, c), h

    (h, c), out = jax.lax.scan(step, (h, c), x)
    return out, (h, c) if cell == "lstm" else (h,)


def arrays(cell, dtype=np.float64, seed=0):
    random = np.random.RandomState(seed)
    made = {**layer_arrays(random, cell, (B, D, H)), "x": random.randn(T, B, D)}
    order = {"lstm": "x h0 c0 W_x W_h b", "gru": "x h0 W_x W_h b_x b_h", "rnn": "x h0 W_x W_h b"}[cell].split()
    return [jnp.asarray(made[name], dtype) for name in order]


def loss(function, *given):
    out, last = function(*given)
    return (out * jnp.cos(jnp.arange(out.size).reshape(out.shape))).sum() + sum((each**2).sum() for each in last)


@pytest.mark.parametrize("wrap", [lambda f: f, jax.jit], ids=["eager", "jit"])
@pytest.mark.parametrize(("dtype", "limit"), [(np.float32, 2e-5), (np.float64, 1e-12)])
@pytest.mark.parametrize("cell", list(CELLS))
def test_results_and_every_gradient(cell, dtype, limit, wrap):
    given = arrays(cell, dtype)
    out, last = wrap(CELLS[cell])(*given)
    wanted, wanted_last = usual(cell, *given)
    for mine, theirs in zip((out, *last), (wanted, *wanted_last), strict=True):
        assert mine.dtype == dtype
        assert np.abs(mine - theirs).max() < limit
    every = tuple(range(len(given)))
    mine = wrap(jax.grad(lambda *each: loss(CELLS[cell], *each), every))(*given)
    theirs = jax.grad(lambda *each: loss(lambda *a: usual(cell, *a), *each), every)(*given)
    for k, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        assert np.abs(a - b).max() < limit * max(1, np.abs(b).max()), k


@pytest.mark.parametrize("cell", list(CELLS))
def test_vmap_over_inputs_and_over_weights(cell):
    given = arrays(cell)
    many = [jnp.stack([each, 2 * each, -each]) for each in given[:1]]
    got = jax.jit(jax.vmap(jax.grad(lambda x, *rest: loss(CELLS[cell], x, *rest)), (0, *[None] * (len(given) - 1))))(
        *many, *given[1:]
    )
    for k, x in enumerate(many[0]):
        wanted = jax.grad(lambda x: loss(lambda *a: usual(cell, *a), x, *given[1:]))(x)
        assert np.abs(got[k] - wanted).max() < 1e-12


def test_large_arrays_pass_through_the_callback():
    """JAX has had deadlocks where a callback waited for an array that its own thread was to make."""
    x, W_x = jnp.ones((50, 32, 256)), jnp.full((256, 512), 1e-3)
    given = (x, jnp.zeros((32, 128)), jnp.zeros((32, 128)), W_x, jnp.zeros((128, 512)), jnp.zeros(512))
    grads = jax.jit(jax.grad(lambda *each: loss(ours.lstm, *each), (0, 3)))(*given)
    assert all(np.isfinite(each).all() for each in grads)


def test_shapes_that_do_not_fit_are_named():
    given = arrays("rnn")
    with pytest.raises(Exception, match=r"W_h: expected \(H, H\)"):
        jax.block_until_ready(ours.rnn(given[0], given[1], given[2], given[3][:, :-1], given[4]))
