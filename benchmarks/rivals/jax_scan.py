"""JAX with the whole training loop in one jit, so that, as in ours, no Python runs inside the loop.

lax.scan over the steps inside lax.fori_loop over the iterations; gradients by value_and_grad; float32; the readout's
product, and that of each layer above the first, for all steps at once, outside the scan; donated arguments. Inputs
select rows of W_x, as in ours. The start of each iteration's streams or windows comes in as an array. A single stream
has no axis B: its products are of vectors, which is twice as fast.
"""

import math
from functools import partial

import numpy

from kernels import spec

NEEDS = ("jax", "jaxlib")
WORKS = (
    "seed", "h256-b16", "h256-b32", "gru-256", "keras", "keras-all", "torch-rnn-128", "torch-rnn-512", "torch-rnn-1024",
)  # fmt: skip
VERSIONS = ("jax", "jaxlib")
#: Iterations of a call of the compiled loop, at most: each length would compile it anew.
MOST = 4096


def make(work, ids, threads):
    return JaxScan(work, ids)


def lstm(jax, layer, from_input, state):
    """Run a layer over from_input (T, B, 4H), which holds x W_x + b; return h (T, B, H) and the last state."""
    np = jax.numpy

    def step(state, z):
        h, c = state
        i, f, g, o = np.split(z + h @ layer[1], 4, axis=-1)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * np.tanh(g)
        h = jax.nn.sigmoid(o) * np.tanh(c)
        return (h, c), h

    state, hs = jax.lax.scan(step, state, from_input)
    return hs, state


def gru(jax, layer, from_input, state):
    """Run a layer over from_input (T, B, 3H), which holds x W_x + b_x; return h (T, B, H) and the last state."""
    np = jax.numpy
    _, W_h, _, b_h = layer

    def step(h, a):
        (a_r, a_z, a_n), (s_r, s_z, s_n) = np.split(a, 3, axis=-1), np.split(h @ W_h + b_h, 3, axis=-1)
        z = jax.nn.sigmoid(a_z + s_z)
        h = (1 - z) * np.tanh(a_n + jax.nn.sigmoid(a_r + s_r) * s_n) + z * h
        return h, h

    h, hs = jax.lax.scan(step, state[0], from_input)
    return hs, (h, *state[1:])


def loss_of(jax, work, params, states, x):
    """Return the summed loss of sequences x (T+1, B) and the states after them; `params` are in the order of theta."""
    np, (W_y, b_y), after, hs = jax.numpy, params[-2:], [], None
    size, run = (4, gru) if work.shape.cell == "gru" else (3, lstm)
    for k, state in enumerate(states):
        layer = params[k * size : (k + 1) * size]
        from_input = (layer[0][x[:-1]] if hs is None else hs @ layer[0]) + layer[2]
        hs, state = run(jax, layer, from_input, state)  # noqa: PLW2901
        after.append(state)
    hs, targets = (hs[-1:], x[-1:]) if work.last_only else (hs, x[1:])
    log_probs = jax.nn.log_softmax(hs @ W_y + b_y)
    return -np.take_along_axis(log_probs, targets[..., None], axis=-1).sum(), after


def clipped(jax, work, grads):
    np = jax.numpy
    grads = [g * work.grad_scale for g in grads] if work.mean else grads
    if work.grad_clip is not None:
        grads = [np.clip(g, -work.grad_clip, work.grad_clip) for g in grads]
    if work.grad_clip_norm is not None:
        norm = np.sqrt(sum((g * g).sum() for g in grads))
        grads = [g * np.minimum(1.0, work.grad_clip_norm / norm) for g in grads]
    return grads


def updated(jax, work, n, p, g, memory):
    """Return a parameter block and its optimizer memory after update n with gradient g."""
    np, rate, constants = jax.numpy, work.learning_rate, spec.hyper_values(work.optimizer, work.hyper)
    if work.optimizer == "adagrad":
        memory = (memory[0] + g * g,)
        return p - rate * g / np.sqrt(memory[0] + constants["epsilon"]), memory
    if work.optimizer == "rmsprop":
        memory = (constants["rho"] * memory[0] + (1 - constants["rho"]) * g * g,)
        return p - rate * g / (np.sqrt(memory[0]) + constants["epsilon"]), memory
    k, (beta1, beta2) = n + 1.0, (constants["beta1"], constants["beta2"])
    m, v = beta1 * memory[0] + (1 - beta1) * g, beta2 * memory[1] + (1 - beta2) * g * g
    first, second = (-np.expm1(k * math.log(beta)) for beta in (beta1, beta2))  # 1 - beta^k loses digits in float32
    return p - rate / first * m / (np.sqrt(v / second) + constants["epsilon"]), (m, v)


def iterate(jax, work, ids, starts, reset, begin, n, carry):
    """Run iteration n: losses, gradients, clipping and the update."""
    np = jax.numpy
    params, memory, states, _ = carry
    steps = np.arange(work.seq_length + 1)
    x = ids[starts[n - begin, 0] + steps] if work.batch_size == 1 else ids[starts[n - begin] + steps[:, None]]
    states = jax.tree.map(lambda part: np.where(reset[n - begin], 0, part), states)
    of_params = jax.value_and_grad(partial(loss_of, jax, work), has_aux=True)
    (loss, states), grads = of_params(params, states, x)
    grads = clipped(jax, work, grads)
    moved = [updated(jax, work, n, *each) for each in zip(params, grads, memory, strict=True)]
    return [p for p, _ in moved], [s for _, s in moved], states, loss


class JaxScan:
    def __init__(self, work, ids):
        import jax

        np = jax.numpy
        blocks = spec.named(work.weights("float32"), work.shape).values()
        slots, (H, B) = spec.slots(work.optimizer, work.hyper), (work.shape.hidden_size, work.batch_size)
        params = [np.array(block) for block in blocks]
        memory = [tuple(np.zeros_like(p) for _ in range(slots)) for p in params]
        states = [
            tuple(np.zeros((B, H) if B > 1 else H, np.float32) for _ in range(2)) for _ in range(work.shape.num_layers)
        ]
        self.carry = (params, memory, states, np.float32(0))
        self.ids, self.iteration, self.plan = np.array(ids, np.int32), 0, work.plan(len(ids))

        @partial(jax.jit, donate_argnums=0)
        def many(carry, ids, starts, reset, begin, count):
            one = partial(iterate, jax, work, ids, starts, reset, begin)
            return jax.lax.fori_loop(begin, begin + count, one, carry)

        self.many = many

    def run(self, count):
        end = self.iteration + count
        while self.iteration < end:
            count = min(MOST, end - self.iteration)
            starts, reset = self.plan.plan(self.iteration, self.iteration + count)
            padded = (numpy.resize(array, (MOST, *array.shape[1:])) for array in (starts.astype(numpy.int32), reset))
            self.carry = self.many(self.carry, self.ids, *padded, self.iteration, count)
            self.iteration += count
        return float(self.carry[-1])  # blocks until all iterations are done
