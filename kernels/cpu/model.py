"""A whole model, forward, backward and update, for a member of a team: (thread, threads), which share `counter`.

Layers find their parameters in the flat vectors by `offsets` (spec.offsets): W_x, W_h, b of each layer, then W_y, b_y.
Buffers are those of spec.Workspace. Members meet (team.py) within a layer, at every step, where they share its streams,
and between the phases of an iteration (loops.py). Nothing is allocated.
"""

import math

import numpy as np

from kernels.cpu.jit import inner
from kernels.cpu.layers import add_gradient_ids, project_floats, project_ids, run_backward, run_forward, softmax_loss
from kernels.cpu.products import add_outer, add_product, add_product_transposed, add_rows, copy_to_rows
from kernels.cpu.team import share
from kernels.cpu.updates import adagrad_update, adam_update, rmsprop_update, sgd_update, square_sum
from kernels.spec import NORM_PANEL

#: Numbers by which compiled code knows the optimizers of spec.OPTIMIZERS.
SGD, ADAGRAD, RMSPROP, ADAM = range(4)


@inner
def _matrix(flat, offset, rows, columns):
    return flat[offset : offset + rows * columns].reshape(rows, columns)


@inner
def part(B, H, thread, threads):
    """The streams b0:b1 and hidden units j0:j1 of a member: streams where each gets a tile of four, else units."""
    if 4 * threads <= B:
        b0, b1 = share(B, 4, thread, threads)
        return b0, b1, 0, H
    j0, j1 = share(H, 16, thread, threads)
    return 0, B, j0, j1


@inner
def forward(theta, offsets, x, h, c, gates, thread, threads, counter):
    """Run all layers over inputs x (T, B) from h[:, 0], c[:, 0]: the member's part."""
    L, _, B, N = gates.shape
    H = N // 4
    b0, b1, j0, j1 = part(B, H, thread, threads)
    for layer in range(L):
        at = 3 * layer
        W_h, b = _matrix(theta, offsets[at + 1], H, N), theta[offsets[at + 2] : offsets[at + 2] + N]
        if layer == 0:
            V = (offsets[1] - offsets[0]) // N
            project_ids(x, _matrix(theta, offsets[at], V, N), b, gates[layer], b0, b1, j0, j1)
        else:
            W_x = _matrix(theta, offsets[at], H, N)
            project_floats(h[layer - 1, 1:], W_x, b, gates[layer], b0, b1, j0, j1)
        run_forward(W_h, h[layer], c[layer], gates[layer], b0, b1, j0, j1, counter, threads)


@inner
def readout(theta, offsets, targets, h, logits, row_loss, dh, thread, threads):
    """Logits, their loss by row (T, B), their gradient in their place, and dh, that of the last layer's h.

    A member with some of the streams takes the rows of those, which it alone has made; else it takes some of the steps.
    """
    L, _, _, H = h.shape
    T, B, V = logits.shape
    W_y, b_y = _matrix(theta, offsets[3 * L], H, V), theta[offsets[3 * L + 1] : offsets[3 * L + 1] + V]
    b0, b1, _, _ = part(B, H, thread, threads)
    if b1 - b0 == B:
        t0, t1 = share(T, 1, thread, threads)
        R = (t1 - t0) * B
        top, part_loss = h[L - 1, 1 + t0 : 1 + t1].reshape(R, H), row_loss[t0:t1].reshape(R)
        part_logits, part_dh = logits[t0:t1].reshape(R, V), dh[t0:t1].reshape(R, H)
        _readout_rows(top, W_y, b_y, targets[t0:t1].reshape(R), part_logits, part_loss, part_dh)
    else:
        for t in range(T):
            top, part_loss = h[L - 1, 1 + t, b0:b1], row_loss[t, b0:b1]
            _readout_rows(top, W_y, b_y, targets[t, b0:b1], logits[t, b0:b1], part_loss, dh[t, b0:b1])


@inner
def _readout_rows(h, W_y, b_y, targets, logits, row_loss, dh):
    """Rows (R, H) of h to logits (R, V), row_loss (R,) and dh (R, H)."""
    R, V = logits.shape
    copy_to_rows(b_y, logits, 0, V)
    add_product(h, W_y, logits, 0, V)
    for r in range(R):
        row_loss[r] = softmax_loss(logits[r], targets[r], logits[r])
        for k in range(dh.shape[1]):
            dh[r, k] = 0
    add_product_transposed(logits, W_y, dh, 0, dh.shape[1])


@inner
def total(row_loss):
    """The loss of all rows, added in order."""
    loss = 0.0
    for t in range(row_loss.shape[0]):
        for r in range(row_loss.shape[1]):
            loss += row_loss[t, r]
    return loss


@inner
def backward(theta, offsets, h, c, gates, dz, dh, carry, thread, threads, counter):
    """From dh of the last layer's h to dz (L, T, B, 4H) of all layers: the member's part."""
    L, T, B, N = gates.shape
    H = N // 4
    b0, b1, j0, j1 = part(B, H, thread, threads)
    for layer in range(L - 1, -1, -1):
        at = 3 * layer
        for r in range(b0, b1):
            carry[0, r, j0:j1] = 0
            carry[1, r, j0:j1] = 0
        W_h = _matrix(theta, offsets[at + 1], H, N)
        run_backward(dh, W_h, c[layer], gates[layer], dz[layer], carry[0], carry[1], b0, b1, j0, j1, counter, threads)
        if layer > 0:
            W_x = _matrix(theta, offsets[at], H, N)
            for t in range(T):
                for r in range(b0, b1):
                    dh[t, r, j0:j1] = 0
                add_product_transposed(dz[layer, t, b0:b1], W_x, dh[t, b0:b1], j0, j1)


@inner
def touched(x, rows, count):
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


# ---------------------------------------------------------------------------------------- gradients and their update
@inner
def slot(state, k, theta):
    """Array k of the optimizer's memory; where it has none, theta, which that optimizer will not touch as memory."""
    return state[k] if k < state.shape[0] else theta


@inner
def apply(theta, grad, s0, s1, optimizer, hyper, step, rate, scale, limit, factor):
    """Apply a gradient to a range of the parameters and of the optimizer's memory, which has up to two arrays."""
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
def gradient(offsets, x, h, dz, dlogits, grad, rows, count, thread, threads):
    """Write the member's share of grad (N,). Of W_x of ids, only the `count` rows named, unless count is negative."""
    L, T, B, N = dz.shape
    H, V, R = N // 4, dlogits.shape[2], T * B
    n0, n1 = share(N, 64, thread, threads)
    k0, k1 = share(H, 8, thread, threads)
    W_x = _matrix(grad, offsets[0], V, N)
    for n in range(V if count < 0 else count):
        W_x[n if count < 0 else rows[n], n0:n1] = 0
    add_gradient_ids(x, dz[0], W_x, n0, n1)
    for layer in range(L):
        flat = dz[layer].reshape(R, N)
        _outer(h[layer, :T].reshape(R, H), flat, _matrix(grad, offsets[3 * layer + 1], H, N), k0, k1)
        if layer > 0:
            _outer(h[layer - 1, 1:].reshape(R, H), flat, _matrix(grad, offsets[3 * layer], H, N), k0, k1)
        b = grad[offsets[3 * layer + 2] : offsets[3 * layer + 2] + N]
        b[n0:n1] = 0
        add_rows(flat, b, n0, n1)
    flat = dlogits.reshape(R, V)
    _outer(h[L - 1, 1:].reshape(R, H), flat, _matrix(grad, offsets[3 * L], H, V), k0, k1)
    if thread == 0:
        b_y = grad[offsets[3 * L + 1] : offsets[3 * L + 1] + V]
        b_y[:] = 0
        add_rows(flat, b_y, 0, V)


@inner
def _outer(a, d, out, k0, k1):
    """Rows k0:k1 of out = a' @ d."""
    out[k0:k1] = 0
    add_outer(a, d, out[k0:k1], k0, k1)


@inner
def square_sums(grad, scale, limit, panels, thread, threads):
    """The member's share of the panels' sums of squares, of the gradient scaled and clamped."""
    real = grad.dtype.type
    begin, end = share(panels.shape[0], 1, thread, threads)
    for n in range(begin, end):
        panels[n] = square_sum(
            grad[n * NORM_PANEL : min((n + 1) * NORM_PANEL, grad.shape[0])], real(scale), real(limit)
        )


@inner
def norm_factor(panels, norm_limit):
    """What a gradient is multiplied by so that its norm is at most norm_limit, from the panels' sums of squares."""
    squares = 0.0
    for n in range(panels.shape[0]):
        squares += panels[n]
    norm = math.sqrt(squares)
    return norm_limit / norm if norm > norm_limit else 1.0


@inner
def update(theta, grad, state, offsets, optimizer, hyper, step, rate, limits, panels, N, rows, count, thread, threads):
    """Scale, clip and apply the member's share of the gradient; limits are (grad_scale, grad_clip, grad_clip_norm).

    Where count is not negative, rows of W_x with no gradient are passed over: the optimizer would leave them alone.
    """
    factor = theta.dtype.type(1)
    if limits[2] < np.inf:
        factor = theta.dtype.type(norm_factor(panels, limits[2]))
    s0, s1 = slot(state, 0, theta), slot(state, 1, theta)
    n0, n1 = share(N, 64, thread, threads)
    first = offsets[1] if count >= 0 else 0
    begin, end = share(theta.shape[0] - first, 64, thread, threads)
    for n in range(max(count, 0) + 1):  # the touched rows of W_x, a range of columns of each, then a range of the rest
        at = rows[n] * N + n0 if n < count else first + begin
        to = rows[n] * N + n1 if n < count else first + end
        apply(
            theta[at:to], grad[at:to], s0[at:to], s1[at:to], optimizer, hyper, step, rate, limits[0], limits[1], factor
        )
