"""JAX with the whole training loop in one jit, so that, as in ours, no Python runs inside the loop.

lax.scan over the steps inside lax.fori_loop over the iterations; gradients by value_and_grad; float32; the readout's
product for all steps at once, outside the scan; donated arguments. Inputs select rows of W_x, as in ours.
"""

from functools import partial

from kernels import spec

NEEDS = ("jax", "jaxlib")
WORKS = ("seed",)
VERSIONS = ("jax", "jaxlib")


def make(work, ids, threads):
    return JaxScan(work, ids)


def loss_of(jax, params, h, c, x):
    """Return the summed loss of one sequence x (T+1,) and the final state."""
    np, lax = jax.numpy, jax.lax
    W_x, W_h, b, W_y, b_y = params

    def step(state, from_input):
        h, c = state
        i, f, g, o = np.split(from_input + h @ W_h, 4)
        c = jax.nn.sigmoid(f) * c + jax.nn.sigmoid(i) * np.tanh(g)
        h = jax.nn.sigmoid(o) * np.tanh(c)
        return (h, c), h

    state, hs = lax.scan(step, (h, c), W_x[x[:-1]] + b)
    log_probs = jax.nn.log_softmax(hs @ W_y + b_y)
    return -np.take_along_axis(log_probs, x[1:, None], axis=1).sum(), state


def iterate(jax, work, per_pass, ids, n, carry):
    """Run iteration n: loss, gradient, clipping and the Adagrad update."""
    np, lax = jax.numpy, jax.lax
    params, memory, h, c, _ = carry
    turn = n % per_pass
    x = lax.dynamic_slice(ids, (turn * work.seq_length,), (work.seq_length + 1,))
    h, c = (np.where(turn == 0, 0, state) for state in (h, c))
    (loss, (h, c)), grads = jax.value_and_grad(partial(loss_of, jax), has_aux=True)(params, h, c, x)
    grads = tuple(np.clip(g, -work.grad_clip, work.grad_clip) for g in grads)
    memory = tuple(s + g * g for s, g in zip(memory, grads, strict=True))
    epsilon, rate = spec.hyper_values("adagrad", work.hyper)["epsilon"], work.learning_rate
    params = tuple(p - rate * g / np.sqrt(s + epsilon) for p, g, s in zip(params, grads, memory, strict=True))
    return params, memory, h, c, loss


class JaxScan:
    def __init__(self, work, ids):
        import jax

        np = jax.numpy
        blocks = spec.named(work.weights("float32"), work.shape)
        params = tuple(np.array(block) for block in blocks.values())
        zero = np.zeros(work.shape.hidden_size, np.float32)
        self.carry = (params, tuple(np.zeros_like(p) for p in params), zero, zero + 0, np.float32(0))
        self.ids, self.iteration = np.array(ids, np.int32), 0
        one = partial(iterate, jax, work, work.plan(len(ids)).iterations_per_pass)

        @partial(jax.jit, donate_argnums=0)
        def many(carry, ids, begin, count):
            return jax.lax.fori_loop(begin, begin + count, partial(one, ids), carry)

        self.many = many

    def run(self, count):
        self.carry = self.many(self.carry, self.ids, self.iteration, count)
        self.iteration += count
        return float(self.carry[-1])  # blocks until all iterations are done
