"""The layer-normalised LSTM on the CPU: steps, layer inside a model, ops. Equations: kernels/spec/cells.py.

`gates` holds three matrices (T B, 4H), one after the other: the activated gates, a = x W_x and s = h W_h; dz holds six,
as in the reference. Threads split the streams only, not the hidden units.
"""

from typing import Any

import numpy as np

from kernels.cpu import mixed
from kernels.cpu.compiler import entry, inner, thin
from kernels.cpu.emit.activations import sigmoid, tanh
from kernels.cpu.layers import (
    add_gates,
    flow_back,
    flow_below,
    project,
    read_below,
    stretch_back,
    stretch_of,
)
from kernels.cpu.matmul import clear_rows
from kernels.cpu.order import copy_part, is_over, put_back, row_before, rows_at, set_aside, step_at
from kernels.cpu.single import (
    NO_TEAM,
    by_threads,
    carried,
    gradient_of_state,
    gradients_of_input,
    new_dz,
    new_gradients,
    new_outputs,
    new_states,
    order_of,
    readable_cache,
    share_of,
    sum_rows,
)
from kernels.cpu.threads import alone, barrier, whole
from kernels.cpu.values import Matrix, Weights, block, flat, readable
from kernels.spec import LAYER_NORM_EPSILON, LAYERS, Cache, Grads, LNLSTMCache, checks

BLOCKS = len(LAYERS["lnlstm"].params._fields)  # parameter blocks of a layer: W_x, W_h and its vectors


# ------------------------------------------------------------------------------------------------------------ steps
@inner
def _moments(v):
    """The mean of v (n,), and 1 / sqrt(var + epsilon)."""
    n, one = v.shape[0], v.dtype.type(1)
    total = v.dtype.type(0)
    for j in range(n):
        total += v[j]
    mean = total / v.dtype.type(n)
    squares = v.dtype.type(0)
    for j in range(n):
        squares += (v[j] - mean) * (v[j] - mean)
    return mean, one / np.sqrt(squares / v.dtype.type(n) + v.dtype.type(LAYER_NORM_EPSILON))


@inner
def _through_norm(d, v, out):
    """Write LN'(d, v) of spec/cells.py to out, which may be d itself."""
    n = v.shape[0]
    mean, scale = _moments(v)
    total, product = v.dtype.type(0), v.dtype.type(0)
    for j in range(n):
        total += d[j]
        product += d[j] * ((v[j] - mean) * scale)
    total, product = total / v.dtype.type(n), product / v.dtype.type(n)
    for j in range(n):
        out[j] = scale * (d[j] - total - (v[j] - mean) * scale * product)


@inner
def _step_forward(z, a, s, gains, c_prev, c, h):
    """One row of a step: write the activated gates z (4H,), c and h (H,); a and s (4H,) are read."""
    b, gain_x, gain_h, gain_c, b_c = gains
    H = h.shape[0]
    mean_a, scale_a = _moments(a)
    mean_s, scale_s = _moments(s)
    for j in range(4 * H):
        z[j] = gain_x[j] * ((a[j] - mean_a) * scale_a) + gain_h[j] * ((s[j] - mean_s) * scale_s) + b[j]
    for j in range(2 * H):
        z[j] = sigmoid(z[j])
    for j in range(2 * H, 3 * H):
        z[j] = tanh(z[j])
    for j in range(3 * H, 4 * H):
        z[j] = sigmoid(z[j])
    for j in range(H):
        c[j] = z[H + j] * c_prev[j] + z[j] * z[2 * H + j]
    mean, scale = _moments(c)
    for j in range(H):
        h[j] = z[3 * H + j] * tanh(gain_c[j] * ((c[j] - mean) * scale) + b_c[j])


@inner
def _step_backward(rows, gains, c_prev, c, d, dh, dh_next, dc_next):
    """One row of a step: write d, its six rows (4H,) of dz; dc_next (H,) becomes the gradient of c_prev.

    rows are the activated gates, a and s.
    """
    z, a, s = rows
    da, ds, dz, dz_a, dz_s, dn = d
    _, gain_x, gain_h, gain_c, b_c = gains
    H, one = c.shape[0], c.dtype.type(1)
    mean, scale = _moments(c)
    for j in range(H):
        normal, o, dh_t = (c[j] - mean) * scale, z[3 * H + j], dh[j] + dh_next[j]
        tanh_n = tanh(gain_c[j] * normal + b_c[j])
        dz[3 * H + j] = dh_t * tanh_n * o * (one - o)
        dn[j] = dh_t * o * (one - tanh_n * tanh_n)
        dn[H + j] = dn[j] * normal
        da[j] = dn[j] * gain_c[j]  # temporarily the gradient of LN(c)
    _through_norm(da[:H], c, da[:H])
    for j in range(H):
        i, f, g, dc = z[j], z[H + j], z[2 * H + j], dc_next[j] + da[j]
        dz[j] = dc * g * i * (one - i)
        dz[H + j] = dc * c_prev[j] * f * (one - f)
        dz[2 * H + j] = dc * i * (one - g * g)
        dc_next[j] = dc * f
    mean_a, scale_a = _moments(a)
    mean_s, scale_s = _moments(s)
    for j in range(4 * H):
        dz_a[j] = dz[j] * ((a[j] - mean_a) * scale_a)
        dz_s[j] = dz[j] * ((s[j] - mean_s) * scale_s)
        da[j] = dz[j] * gain_x[j]
        ds[j] = dz[j] * gain_h[j]
    _through_norm(da, a, da)
    _through_norm(ds, s, ds)


@inner
def run_forward(weights, gains, h, c, gates, t0, t1, share, order):
    """Run turns t0:t1 of an Order on h, c (T+1, B, H); the second matrix of the flat gates holds x W_x."""
    T, B, H = h.shape[0] - 1, h.shape[1], h.shape[2]
    N, b0 = 4 * H, share.b0
    plane = T * B * N
    for turn in range(t0, t1):
        t = step_at(turn, T, order)
        row, was, rows = t * B + b0, row_before(t, T, order), rows_at(t, b0, share.b1, order)
        clear_rows(gates, 2 * plane + row * N, N, rows, N)
        add_gates(4, h, (was * B + b0) * H, weights, gates, 2 * plane + row * N, rows, H, share.pieces[0])
        for r in range(b0, share.b1):
            at = (t * B + r) * N
            if is_over(t, r, order):
                copy_part(flat(h), (was * B + r) * H, flat(h), ((t + 1) * B + r) * H, H)
                copy_part(flat(c), (was * B + r) * H, flat(c), ((t + 1) * B + r) * H, H)
                clear_rows(gates, at, plane, 3, N)
                continue
            z, a, s = gates[at : at + N], gates[plane + at : plane + at + N], gates[2 * plane + at : 2 * plane + at + N]
            _step_forward(z, a, s, gains, c[was, r], c[t + 1, r], h[t + 1, r])
        mixed.round_state(weights.rounded, h, t + 1, share)


@inner
def run_backward(weights, gains, dh, c, gates, dz, dh_next, dc_next, t0, t1, share, order):
    """Run turns t0:t1 backward: write dz; dh_next, dc_next (B, H) change from the gradients after to those before."""
    T, B, H = dh.shape
    N = 4 * H
    plane = T * B * N
    for turn in range(t1 - 1, t0 - 1, -1):
        t = step_at(turn, T, order)
        was, rows_now = row_before(t, T, order), rows_at(t, share.b0, share.b1, order)
        for r in range(share.b0, share.b1):
            at = (t * B + r) * N
            if is_over(t, r, order):
                clear_rows(dz, at, plane, 6, N)
                continue
            rows = (
                gates[at : at + N], gates[plane + at : plane + at + N], gates[2 * plane + at : 2 * plane + at + N],
            )  # fmt: skip
            d = (
                dz[at : at + N], dz[plane + at : plane + at + N], dz[2 * plane + at : 2 * plane + at + N],
                dz[3 * plane + at : 3 * plane + at + N], dz[4 * plane + at : 4 * plane + at + N],
                dz[5 * plane + at : 5 * plane + at + N],
            )  # fmt: skip
            _step_backward(rows, gains, c[was, r], c[t + 1, r], d, dh[t, r], dh_next[r], dc_next[r])
        mixed.round_gates(weights.rounded, 4, dz, t, T, share)
        set_aside(dh_next, t, share.b0, rows_now, share.pieces[0], order)
        flow_back(4, dz, T * B + t * B + share.b0, weights, dh_next, share.b0, rows_now, share.pieces[0])
        put_back(dh_next, t, share.b0, rows_now, share.pieces[0], order)


# --------------------------------------------------------------------------------------------------- inside a model
@inner
def prepare(net, ws, share):
    """Do nothing: this cell needs no packed or rounded matrices."""


@inner
def _gains(net, layer):
    """b, gain_x, gain_h, gain_c, b_c of a layer."""
    at = BLOCKS * layer + 2
    return block(net, at), block(net, at + 1), block(net, at + 2), block(net, at + 3), block(net, at + 4)


@thin
def layer_forward(net, x, ws, extra, layer, share):
    """Run the thread's part of a layer over all steps."""
    T, B = x.shape[0], x.shape[1]
    z, gains, steps = flat(ws.gates[layer]), _gains(net, layer), stretch_of(T, B)
    weights = Weights(block(net, BLOCKS * layer + 1), z[:0], None, mixed.of_state(ws.rounded_h, ws, layer))
    for t0 in range(0, T, steps):
        read_below(net, None, x, ws, extra, layer, z, z.shape[0] // 3, t0, t0 + steps, share)
        run_forward(weights, gains, ws.h[layer], ws.c[layer], z, t0, t0 + steps, share, None)


@thin
def layer_backward(net, ws, layer, share):
    """Compute the thread's part of dz from ws.dh of the layer's output; ws.dh becomes the gradient of its input."""
    T, B, _ = ws.dh.shape
    z, d, gains, steps = flat(ws.gates[layer]), flat(ws.dz[layer]), _gains(net, layer), stretch_back(T, B, ws)
    W_x, weights = (
        Weights(block(net, BLOCKS * layer), d[:0], None, mixed.of_gradient_below(ws.rounded_h, ws, layer)),
        Weights(block(net, BLOCKS * layer + 1), d[:0], None, mixed.of_gradient(ws.rounded_h, ws, layer)),
    )
    for t0 in range(T - steps, -1, -steps):
        run_backward(weights, gains, ws.dh, ws.c[layer], z, d, ws.carry[0], ws.carry[1], t0, t0 + steps, share, None)
        if layer > 0:
            flow_below(4, d, W_x, ws.dh, t0, steps, share)


# ---------------------------------------------------------------------------------------------------- a single layer
@entry
def lnlstm_layer_forward(x, W_x, W_h, gains, h, c, gates, order, members, pieces, counter, thread):
    """Run a thread's part of a layer: write gates and h, c (T+1, B, H), except h[0], c[0]; return if all is well."""
    T, B = h.shape[0] - 1, h.shape[1]
    share, z, steps = share_of(members, pieces, counter, thread), flat(gates), stretch_of(T, B)
    from_x, from_h = Weights(flat(W_x), z[:0], None, None), Weights(flat(W_h), z[:0], None, None)
    for turn in range(0, T, steps):
        t = step_at(turn, T, order) if steps == 1 else 0
        project(4, x, from_x, None, z, z.shape[0] // 3, t, t + steps, share)
        run_forward(from_h, gains, h, c, z, turn, turn + steps, share, order)
    return counter[1] == 0


@entry
def lnlstm_layer_backward(dh, cache, out, dz, order, members, pieces, counter, thread):
    """Write a thread's part of the gradients; out.dh0, out.dc0 hold those of the last states at first."""
    T, B, H = dh.shape
    N = 4 * H
    rows, plane = T * B, T * B * N
    share, d = share_of(members, pieces, counter, thread), flat(dz)
    gains = (cache.gain_x, cache.gain_x, cache.gain_h, cache.gain_c, cache.b_c)  # b is not read
    weights, gates = Weights(flat(cache.W_h), d[:0], None, None), flat(cache.gates)
    run_backward(weights, gains, dh, cache.c, gates, d, out.dh0, out.dc0, 0, T, share, order)
    barrier(counter, share.threads)  # dz is complete
    if counter[1] == 0:
        gradient_of_state(cache.h, Matrix(d, plane, N), out.dW_h, order, share)
        sum_rows(Matrix(d, 2 * plane, N), rows, out.db, share)
        sum_rows(Matrix(d, 3 * plane, N), rows, out.dgain_x, share)
        sum_rows(Matrix(d, 4 * plane, N), rows, out.dgain_h, share)
        sum_rows(Matrix(d, 5 * plane, N), rows, out.db_c, share)
        sum_rows(Matrix(d, 5 * plane + H, N), rows, out.dgain_c, share)
        gradients_of_input(cache.x, cache.W_x, Matrix(d, 0, N), out.dx, out.dW_x, share)
    return counter[1] == 0


def lnlstm_forward(
    x: Any, h0: Any, c0: Any, W_x: Any, W_h: Any, b: Any, gain_x: Any, gain_h: Any, gain_c: Any, b_c: Any, *,
    lengths: Any = None, reverse: bool = False, threads: int = 1, out: tuple[Any, Any, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray, Cache]:  # fmt: skip
    """Run one layer-normalised LSTM layer over T steps and B streams, as :func:`kernels.reference.lnlstm_forward`.

    With `out` = (h, c, gates), no buffers are allocated, but for (B, H) floats with `lengths`.
    """
    vectors = (b, gain_x, gain_h, gain_c, b_c)
    given = checks.forward("lnlstm", x, (h0, c0), W_x, W_h, vectors, lengths, reverse, threads, out)
    h, c, gates = out or new_outputs("lnlstm", given.sizes, h0.dtype)
    h[0], c[0] = h0, c0
    read = (
        *map(readable, (x, W_x, W_h)), tuple(map(readable, vectors)), h, c, gates, order_of(given, h0.dtype),
    )  # fmt: skip
    by_threads("lnlstm_forward", given, lambda *who: lnlstm_layer_forward(*read, *who))
    return h, c, LNLSTMCache(x, h, c, gates, W_x, W_h, *vectors[1:], lengths, given.reverse)


def lnlstm_backward(
    dh: Any, cache: Cache, dh_last: Any = None, dc_last: Any = None, *, threads: int = 1, out: Grads | None = None,
    dz: Any = None,
) -> Grads:  # fmt: skip
    """Backpropagate through one layer-normalised LSTM layer, as :func:`kernels.reference.lnlstm_backward`.

    With `out` and `dz` (6, T, B, 4H), no buffers are allocated, but for (B, H) floats with `lengths`.
    """
    given = checks.backward("lnlstm", dh, cache, (dh_last, dc_last), threads, out, dz)
    out = new_gradients("lnlstm", given.sizes, cache.x, dh.dtype) if out is None else out
    dz = new_dz("lnlstm", given.sizes, dh.dtype) if dz is None else dz
    read = readable(dh), readable_cache(cache), out, dz, order_of(given, dh.dtype)
    begin = carried((dh_last, dc_last), out, given)
    by_threads("lnlstm_backward", given, lambda *who: lnlstm_layer_backward(*read, *who), begin)
    return out


@entry
def lnlstm_one_step(x, h_before, c_before, W_x, W_h, gains, h, c, gates, pieces, counter):
    """Write h, c (B, H) after a step from those before it, which may be the same arrays; gates (3, B, 4H): scratch."""
    B, H = h.shape
    z, N = flat(gates), 4 * H
    plane = B * N
    share = alone(B, pieces, counter)
    project(4, x.reshape((1, *x.shape)), Weights(flat(W_x), z[:0], None, None), None, z, plane, 0, 1, share)
    clear_rows(z, 2 * plane, N, B, N)
    add_gates(4, h_before, 0, Weights(flat(W_h), z[:0], None, None), z, 2 * plane, B, H, pieces[0])
    for r in range(B):
        _step_forward(gates[0, r], gates[1, r], gates[2, r], gains, c_before[r], c[r], h[r])


def lnlstm_step(
    x: Any, h: Any, c: Any, W_x: Any, W_h: Any, b: Any, gain_x: Any, gain_h: Any, gain_c: Any, b_c: Any, *,
    out: tuple[Any, Any, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
    """Run one step of a layer-normalised LSTM layer, as :func:`kernels.reference.lnlstm_step`.

    With `out` = (h, c, gates), nothing is allocated.
    """
    vectors = (b, gain_x, gain_h, gain_c, b_c)
    checks.step("lnlstm", x, (h, c), W_x, W_h, vectors, out)
    h_after, c_after, gates = out or new_states("lnlstm", h)
    lnlstm_one_step(
        *map(readable, (x, h, c, W_x, W_h)), tuple(map(readable, vectors)), h_after, c_after, gates,
        whole(h.shape[1]), NO_TEAM,
    )  # fmt: skip
    return h_after, c_after
