"""What Python calls: many training iterations, one pass over a model, many sampled characters, one update."""

import math

import numpy as np

from kernels.cpu import model
from kernels.cpu.activations import exp
from kernels.cpu.denormals import flush_denormals, restore
from kernels.cpu.jit import entry, inner
from kernels.cpu.products import add_product, copy_to_rows
from kernels.cpu.team import meet


@inner
def _carry(states):
    """The state after the last step becomes the one before the first: states (L, T+1, B, H)."""
    L, steps, B, H = states.shape
    for layer in range(L):
        for r in range(B):
            first, last = states[layer, 0, r], states[layer, steps - 1, r]
            for j in range(H):
                first[j] = last[j]


@inner
def _read(ids, starts, x, V):
    """Fill x (T+1, B) with the sequences that begin at `starts`; return -1, or the place of an id not below V."""
    for r in range(x.shape[1]):
        for t in range(x.shape[0]):
            value = np.int32(ids[starts[r] + t])
            if value < 0 or value >= V:
                return starts[r] + t
            x[t, r] = value
    return -1


@entry
def train_loop(
    theta,
    state,
    ids,
    starts,
    reset,
    rates,
    offsets,
    step,
    optimizer,
    hyper,
    limits,
    x,
    h,
    c,
    gates,
    dz,
    dh,
    carry,
    logits,
    row_loss,
    grad,
    panels,
    rows,
    status,
    counter,
    losses,
    thread,
    threads,
):
    """Run iterations, as one of `threads` members that are all given the same arrays; return how many losses there are.

    `limits` is (grad_scale, grad_clip, grad_clip_norm), infinite for none; h and c hold the state carried in at [:, 0];
    status[0] becomes the place of an id outside the vocabulary, which ends the call, and is -1 otherwise; the rest is
    as in numpy_ref.train_steps and spec.Workspace.
    """
    _, T, B, N = gates.shape
    V = logits.shape[2]
    # A zero gradient leaves these two optimizers' parameters and memory as they are: most rows of W_x need no work.
    sparse = (optimizer == model.SGD or optimizer == model.ADAGRAD) and limits[2] == np.inf and T * B < 2 * V
    if thread == 0:
        rows[:] = 0
        status[1] = 0 if sparse else -1
    done = starts.shape[0]
    setting = flush_denormals()
    for n in range(starts.shape[0]):
        if thread == 0:
            if n > 0:
                _carry(h)
                _carry(c)
            if reset[n]:
                h[:, 0] = 0
                c[:, 0] = 0
            status[0] = _read(ids, starts[n], x, V)
        meet(counter, threads)  # the sequence and the state before it are there
        if status[0] >= 0 or counter[1] != 0:
            done = n
            break
        model.forward(theta, offsets, x[:T], h, c, gates, thread, threads, counter)
        model.readout(theta, offsets, x[1:], h, logits, row_loss, dh, thread, threads)
        meet(counter, threads)  # the losses of all rows are there, and dh
        loss = model.total(row_loss)
        if thread == 0:
            losses[n] = loss
        if not math.isfinite(loss):
            done = n + 1
            break
        model.backward(theta, offsets, h, c, gates, dz, dh, carry, thread, threads, counter)
        if sparse and thread == 0:
            status[1] = model.touched(x[:T], rows, status[1])
        meet(counter, threads)  # dz of all layers is there, and the list of rows
        count = status[1]
        model.gradient(offsets, x[:T], h, dz, logits, grad, rows, count, thread, threads)
        meet(counter, threads)  # the gradient is there
        if limits[2] < np.inf:
            model.square_sums(grad, limits[0], limits[1], panels, thread, threads)
            meet(counter, threads)  # the sums of squares are there
        model.update(
            theta, grad, state, offsets, optimizer, hyper, step + n, rates[n], limits, panels, N, rows, count, thread,
            threads,
        )  # fmt: skip
        # The next iteration begins by meeting: no parameter is read before all are updated.
    if thread == 0 and starts.shape[0] > 0:
        _carry(h)
        _carry(c)
    restore(setting)
    return done


@entry
def model_pass(theta, offsets, x, h, c, gates, dz, dh, carry, logits, row_loss, grad, rows, counter):
    """Loss and gradient of one sequence x (T+1, B); h and c hold the states of all steps, [:, 0] what came in."""
    T = x.shape[0] - 1
    model.forward(theta, offsets, x[:T], h, c, gates, 0, 1, counter)
    model.readout(theta, offsets, x[1:], h, logits, row_loss, dh, 0, 1)
    model.backward(theta, offsets, h, c, gates, dz, dh, carry, 0, 1, counter)
    model.gradient(offsets, x[:T], h, dz, logits, grad, rows, -1, 0, 1)
    return model.total(row_loss)


@entry
def update(theta, grad, state, optimizer, hyper, step, rate, limit):
    """One optimizer step on flat vectors."""
    setting = flush_denormals()
    s0, s1 = model.slot(state, 0, theta), model.slot(state, 1, theta)
    model.apply(theta, grad, s0, s1, optimizer, hyper, step, rate, 1.0, limit, theta.dtype.type(1))
    restore(setting)


@entry
def clip_norm(grad, norm_limit, panels):
    """Scale grad (N,) in place to a norm of at most norm_limit."""
    model.square_sums(grad, 1.0, np.inf, panels, 0, 1)
    factor = grad.dtype.type(model.norm_factor(panels, norm_limit))
    for j in range(grad.shape[0]):
        grad[j] *= factor


@inner
def _draw(logits, weights, u, temperature):
    """The id that u in [0, 1) falls on, with probabilities softmax(logits / temperature) in float64."""
    V = logits.shape[0]
    best = 0
    for j in range(V):
        best = j if logits[j] > logits[best] else best
    if temperature == 0.0:
        return best
    largest = float(logits[best])
    for j in range(V):
        weights[j] = exp((float(logits[j]) - largest) / temperature)
    total = 0.0
    for j in range(V):
        total += weights[j]
        weights[j] = total
    drawn = 0
    for j in range(V):
        drawn += weights[j] / total <= u
    return min(drawn, V - 1)


@entry
def sample_loop(theta, offsets, x, uniforms, temperature, h, c, gates, logits, weights, counter, drawn):
    """Draw characters; the buffers h, c, gates, logits are those of a model with T = 1; x (1, B) is overwritten."""
    L, _, B, H = h.shape
    V = logits.shape[2]
    W_y = theta[offsets[3 * L] : offsets[3 * L] + H * V].reshape(H, V)
    b_y = theta[offsets[3 * L + 1] : offsets[3 * L + 1] + V]
    for n in range(uniforms.shape[0]):
        model.forward(theta, offsets, x, h, c, gates, 0, 1, counter)
        copy_to_rows(b_y, logits[0], 0, V)
        add_product(h[L - 1, 1], W_y, logits[0], 0, V)
        _carry(h)
        _carry(c)
        for r in range(B):
            x[0, r] = _draw(logits[0, r], weights, uniforms[n, r], temperature)
            drawn[n, r] = x[0, r]
