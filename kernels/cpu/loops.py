"""The compiled loops: a pass over a whole model, many training iterations, many sampled characters.

Layers find their parameters in the flat vectors by `offsets` (spec.offsets): W_x, W_h, b of each layer, then W_y, b_y.
Buffers are those of spec.Workspace. Nothing is allocated.
"""

import math

import numpy as np

from kernels.cpu.activations import exp
from kernels.cpu.denormals import flush_denormals, restore
from kernels.cpu.jit import entry, inner
from kernels.cpu.layers import (
    add_gradient_ids,
    add_gradient_recurrent,
    project_floats,
    project_ids,
    run_backward,
    run_forward,
    softmax_loss,
)
from kernels.cpu.products import add_outer, add_product, add_product_transposed, add_rows, copy_to_rows
from kernels.cpu.updates import adagrad_update, adam_update, norm_factor, rmsprop_update, sgd_update

#: Numbers by which compiled code knows the optimizers of spec.OPTIMIZERS.
SGD, ADAGRAD, RMSPROP, ADAM = range(4)


@inner
def _matrix(flat, offset, rows, columns):
    return flat[offset : offset + rows * columns].reshape(rows, columns)


@inner
def _forward(theta, offsets, x, h, c, gates, logits):
    """Run all layers over inputs x (T, B) from h[:, 0], c[:, 0], then the readout into logits."""
    L, T, B, N = gates.shape
    H, V = N // 4, logits.shape[2]
    for layer in range(L):
        at = 3 * layer
        W_h = _matrix(theta, offsets[at + 1], H, N)
        b = theta[offsets[at + 2] : offsets[at + 2] + N]
        if layer == 0:
            project_ids(x, _matrix(theta, offsets[at], V, N), b, gates[layer])
        else:
            project_floats(h[layer - 1, 1:], _matrix(theta, offsets[at], H, N), b, gates[layer])
        run_forward(W_h, h[layer], c[layer], gates[layer])
    rows = logits.reshape(T * B, V)
    copy_to_rows(theta[offsets[3 * L + 1] : offsets[3 * L + 1] + V], rows)
    add_product(h[L - 1, 1:].reshape(T * B, H), _matrix(theta, offsets[3 * L], H, V), rows)


@inner
def _touched(x, rows, count):
    """List in rows (V,) the distinct ids of x (T, B), the rows of W_x that it touches; return how many they are.

    rows[:count] holds the previous list; rows[V:] marks its members, and is all zero but for them.
    """
    V = rows.shape[0] // 2
    for n in range(count):
        rows[V + rows[n]] = 0
    count = 0
    for t in range(x.shape[0]):
        for r in range(x.shape[1]):
            if rows[V + x[t, r]] == 0:
                rows[V + x[t, r]] = 1
                rows[count] = x[t, r]
                count += 1
    return count


@inner
def _clear(grad, offsets, N, rows, count):
    """Zero grad; of W_x, the first block, only the `count` rows named, unless count is negative."""
    if count < 0:
        grad[:] = 0
        return
    grad[offsets[1] :] = 0
    for n in range(count):
        grad[rows[n] * N : rows[n] * N + N] = 0


@inner
def _backward(theta, offsets, x, h, c, gates, dlogits, dz, dh, carry, grad):
    """Add the gradient of everything to grad (N,), from dlogits back to the first layer."""
    L, T, B, N = gates.shape
    H, V = N // 4, dlogits.shape[2]
    rows = dlogits.reshape(T * B, V)
    add_outer(h[L - 1, 1:].reshape(T * B, H), rows, _matrix(grad, offsets[3 * L], H, V))
    add_rows(rows, grad[offsets[3 * L + 1] : offsets[3 * L + 1] + V])
    dh[:] = 0
    add_product_transposed(rows, _matrix(theta, offsets[3 * L], H, V), dh.reshape(T * B, H))
    for layer in range(L - 1, -1, -1):
        at = 3 * layer
        carry[:] = 0
        run_backward(dh, _matrix(theta, offsets[at + 1], H, N), c[layer], gates[layer], dz, carry[0], carry[1])
        dW_h = _matrix(grad, offsets[at + 1], H, N)
        add_gradient_recurrent(h[layer], dz, dW_h, grad[offsets[at + 2] : offsets[at + 2] + N])
        if layer == 0:
            add_gradient_ids(x, dz, _matrix(grad, offsets[at], V, N))
        else:
            below, flat_dz = h[layer - 1, 1:].reshape(T * B, H), dz.reshape(T * B, N)
            add_outer(below, flat_dz, _matrix(grad, offsets[at], H, N))
            dh[:] = 0
            add_product_transposed(flat_dz, _matrix(theta, offsets[at], H, N), dh.reshape(T * B, H))


@inner
def _slot(state, k, theta):
    """Array k of the optimizer's memory; where it has none, theta, which that optimizer will not touch as memory."""
    return state[k] if k < state.shape[0] else theta


@inner
def _apply(theta, grad, s0, s1, optimizer, hyper, step, rate, scale, limit, factor):
    """Apply the gradient to one range of the parameters and of the optimizer's memory, which has up to two arrays."""
    real = theta.dtype.type
    s, g = real(scale), real(limit)
    if optimizer == SGD:
        sgd_update(theta, grad, s, g, factor, real(rate))
    elif optimizer == ADAGRAD:
        adagrad_update(theta, grad, s0, s, g, factor, real(rate), real(hyper[0]))
    elif optimizer == RMSPROP:
        rho, rest, epsilon = real(hyper[0]), real(1.0 - hyper[0]), real(hyper[1])
        rmsprop_update(theta, grad, s0, s, g, factor, real(rate), rho, rest, epsilon)
    else:
        corrected, root = real(rate / (1.0 - hyper[0] ** (step + 1))), real(1.0 / (1.0 - hyper[1] ** (step + 1)))
        beta1, rest1, beta2, rest2 = real(hyper[0]), real(1.0 - hyper[0]), real(hyper[1]), real(1.0 - hyper[1])
        adam_update(theta, grad, s0, s1, s, g, factor, corrected, root, beta1, rest1, beta2, rest2, real(hyper[2]))


@inner
def _update(theta, grad, state, optimizer, hyper, step, rate, limits, first, N, rows, count):
    """Scale, clip and apply the gradient; limits are (grad_scale, grad_clip, grad_clip_norm), infinite for none.

    Where count is not negative, rows of W_x (which ends at `first`) with no gradient are passed over.
    """
    real = theta.dtype.type
    scale, limit, norm_limit = limits[0], limits[1], limits[2]
    factor = real(1)
    if norm_limit < np.inf:
        factor = real(norm_factor(grad, real(scale), real(limit), norm_limit))
    s0, s1 = _slot(state, 0, theta), _slot(state, 1, theta)
    for n in range(max(count, 0) + 1):  # the touched rows, then all that follows W_x; or everything at once
        at = rows[n] * N if n < count else (first if count >= 0 else 0)
        end = at + N if n < count else theta.shape[0]
        _apply(theta[at:end], grad[at:end], s0[at:end], s1[at:end], optimizer, hyper, step, rate, scale, limit, factor)


@inner
def _carry(states):
    """The state after the last step becomes the one before the first: states (L, T+1, B, H)."""
    L, steps, B, H = states.shape
    for layer in range(L):
        for r in range(B):
            first, last = states[layer, 0, r], states[layer, steps - 1, r]
            for j in range(H):
                first[j] = last[j]


@entry
def update(theta, grad, state, optimizer, hyper, step, rate, limit):
    """One optimizer step on flat vectors."""
    setting = flush_denormals()
    s0, s1 = _slot(state, 0, theta), _slot(state, 1, theta)
    _apply(theta, grad, s0, s1, optimizer, hyper, step, rate, 1.0, limit, theta.dtype.type(1))
    restore(setting)


@entry
def clip_norm(grad, norm_limit):
    """Scale grad (N,) in place to a norm of at most norm_limit."""
    factor = grad.dtype.type(norm_factor(grad, grad.dtype.type(1), grad.dtype.type(np.inf), norm_limit))
    for j in range(grad.shape[0]):
        grad[j] *= factor


@entry
def model_pass(theta, offsets, x, h, c, gates, dz, dh, carry, logits, grad):
    """Loss and gradient of one sequence x (T+1, B); h and c hold the states of all steps, [:, 0] what came in."""
    T = x.shape[0] - 1
    _forward(theta, offsets, x[:T], h, c, gates, logits)
    loss = softmax_loss(logits, x[1:], logits)
    grad[:] = 0
    _backward(theta, offsets, x[:T], h, c, gates, logits, dz, dh, carry, grad)
    return loss


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
    grad,
    rows,
    losses,
):
    """Run iterations; `limits` as for _update, `rows` as for _touched, the rest as numpy_ref.train_steps.

    Returns how many losses were written, or -1 - position for an id outside the vocabulary.
    """
    _, T, B, N = gates.shape
    V = logits.shape[2]
    # A zero gradient leaves these two optimizers' parameters and memory as they are: most rows of W_x need no work.
    sparse = (optimizer == SGD or optimizer == ADAGRAD) and limits[2] == np.inf and T * B < 2 * V
    rows[:] = 0
    count = 0 if sparse else -1
    done = starts.shape[0]
    setting = flush_denormals()
    for n in range(starts.shape[0]):
        if reset[n]:
            h[:, 0] = 0
            c[:, 0] = 0
        for r in range(B):
            for t in range(T + 1):
                value = np.int32(ids[starts[n, r] + t])
                if value < 0 or value >= V:
                    restore(setting)
                    return -1 - (starts[n, r] + t)
                x[t, r] = value
        _forward(theta, offsets, x[:T], h, c, gates, logits)
        losses[n] = softmax_loss(logits, x[1:], logits)
        finite = math.isfinite(losses[n])
        if finite:
            if sparse:
                count = _touched(x[:T], rows, count)
            _clear(grad, offsets, N, rows, count)
            _backward(theta, offsets, x[:T], h, c, gates, logits, dz, dh, carry, grad)
            _update(theta, grad, state, optimizer, hyper, step + n, rates[n], limits, offsets[1], N, rows, count)
        _carry(h)
        _carry(c)
        if not finite:
            done = n + 1
            break
    restore(setting)
    return done


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
def sample_loop(theta, offsets, x, uniforms, temperature, h, c, gates, logits, weights, drawn):
    """Draw characters; the buffers h, c, gates, logits are those of a model with T = 1; x (1, B) is overwritten."""
    for n in range(uniforms.shape[0]):
        _forward(theta, offsets, x, h, c, gates, logits)
        _carry(h)
        _carry(c)
        for r in range(x.shape[1]):
            x[0, r] = _draw(logits[0, r], weights, uniforms[n, r], temperature)
            drawn[n, r] = x[0, r]
