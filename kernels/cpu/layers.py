"""One LSTM layer and the softmax loss, forward and backward. Equations, gate order and shapes: kernels/spec.py.

A part of a layer is a range of streams b0:b1 and a range of hidden units j0:j1. A member of a team (team.py) has either
some of the streams and all units, and then needs nobody until the layer is done, or all streams and some of the units,
and then meets the others at every step.

The element-wise work on a row is cut into loops that each write one array, which keeps them within the compiler's check
that arrays do not overlap; a row stays in the first-level cache from one loop to the next. Nothing is allocated.
"""

import math

from kernels.cpu.activations import exp, sigmoid, tanh
from kernels.cpu.jit import entry, inner
from kernels.cpu.products import add_outer, add_product, add_product_transposed, add_rows, copy_to_rows
from kernels.cpu.team import meet
from kernels.spec import GATE_F, GATE_G, GATE_I, GATE_O


@inner
def _block(row, gate, j0, j1):
    """Units j0:j1 of one gate in a row of 4H."""
    H = row.shape[0] // 4
    return row[gate * H + j0 : gate * H + j1]


# -------------------------------------------------------------------------------------------------------- forward
@inner
def project_ids(x, W_x, b, gates, b0, b1, j0, j1):
    """The part's gates (T, B, 4H) = W_x[x] + b, for ids x (T, B)."""
    for t in range(gates.shape[0]):
        for r in range(b0, b1):
            for gate in range(4):
                z, w, bias = (
                    _block(gates[t, r], gate, j0, j1),
                    _block(W_x[x[t, r]], gate, j0, j1),
                    _block(b, gate, j0, j1),
                )
                for j in range(j1 - j0):
                    z[j] = w[j] + bias[j]


@inner
def _add_gates(a, W, z, j0, j1):
    """Units j0:j1 of each gate of z (R, 4H) += those of a (R, K) @ W (K, 4H)."""
    N = z.shape[1]
    H = N // 4
    if j1 - j0 == H:
        add_product(a, W, z, 0, N)
    else:
        for gate in range(4):
            add_product(a, W, z, gate * H + j0, gate * H + j1)


@inner
def project_floats(x, W_x, b, gates, b0, b1, j0, j1):
    """The part's gates (T, B, 4H) = x W_x + b, for floats x (T, B, D): one product for all steps where it can be."""
    T, B, N = gates.shape
    if b1 - b0 == B:
        rows = gates.reshape(T * B, N)
        for gate in range(4):
            copy_to_rows(b, rows, gate * (N // 4) + j0, gate * (N // 4) + j1)
        _add_gates(x.reshape(T * B, x.shape[2]), W_x, rows, j0, j1)
        return
    for t in range(T):
        copy_to_rows(b, gates[t, b0:b1], 0, N)
        _add_gates(x[t, b0:b1], W_x, gates[t, b0:b1], 0, N // 4)


@inner
def _step_forward(z, c_prev, c, h, j0, j1):
    """One row of one step: units j0:j1 of z (4H,) become the activated gates; those of c, h (H,) are written."""
    i, f = _block(z, GATE_I, j0, j1), _block(z, GATE_F, j0, j1)
    g, o = _block(z, GATE_G, j0, j1), _block(z, GATE_O, j0, j1)
    c_prev, c, h = c_prev[j0:j1], c[j0:j1], h[j0:j1]
    n = j1 - j0
    for j in range(n):
        i[j] = sigmoid(i[j])
    for j in range(n):
        f[j] = sigmoid(f[j])
    for j in range(n):
        g[j] = tanh(g[j])
    for j in range(n):
        o[j] = sigmoid(o[j])
    for j in range(n):
        c[j] = f[j] * c_prev[j] + i[j] * g[j]
    for j in range(n):
        h[j] = o[j] * tanh(c[j])


@inner
def run_forward(W_h, h, c, gates, b0, b1, j0, j1, counter, threads):
    """Run all steps from h[0], c[0] and from gates, which hold the input's part and become the activated gates."""
    T, B, _ = gates.shape
    for t in range(T):
        _add_gates(h[t, b0:b1], W_h, gates[t, b0:b1], j0, j1)
        for r in range(b0, b1):
            _step_forward(gates[t, r], c[t, r], c[t + 1, r], h[t + 1, r], j0, j1)
        if b1 - b0 == B:
            meet(counter, threads)


# ------------------------------------------------------------------------------------------------------- backward
@inner
def _step_backward(dh, gates, c_prev, c, dz, dh_next, dc_next, j0, j1):
    """One row of one step, units j0:j1: dz (4H,) is written; dh is added to dh_next; dc_next becomes that of t - 1."""
    one = dh.dtype.type(1)
    n = j1 - j0
    i, f = _block(gates, GATE_I, j0, j1), _block(gates, GATE_F, j0, j1)
    g, o = _block(gates, GATE_G, j0, j1), _block(gates, GATE_O, j0, j1)
    dz_i, dz_f = _block(dz, GATE_I, j0, j1), _block(dz, GATE_F, j0, j1)
    dz_g, dz_o = _block(dz, GATE_G, j0, j1), _block(dz, GATE_O, j0, j1)
    dh, c_prev, c, dh_next, dc_next = dh[j0:j1], c_prev[j0:j1], c[j0:j1], dh_next[j0:j1], dc_next[j0:j1]
    for j in range(n):
        dz_o[j] = tanh(c[j])
    for j in range(n):
        dh_next[j] += dh[j]
    for j in range(n):
        dc_next[j] += dh_next[j] * o[j] * (one - dz_o[j] * dz_o[j])
    for j in range(n):
        dz_o[j] *= dh_next[j] * o[j] * (one - o[j])
    for j in range(n):
        dz_i[j] = dc_next[j] * g[j] * i[j] * (one - i[j])
    for j in range(n):
        dz_f[j] = dc_next[j] * c_prev[j] * f[j] * (one - f[j])
    for j in range(n):
        dz_g[j] = dc_next[j] * i[j] * (one - g[j] * g[j])
    for j in range(n):
        dc_next[j] *= f[j]
        dh_next[j] = 0


@inner
def run_backward(dh, W_h, c, gates, dz, dh_next, dc_next, b0, b1, j0, j1, counter, threads):
    """Run all steps backward: dz (T, B, 4H) is written; dh_next, dc_next (B, H) go from the last state's to h0's."""
    T, B, _ = dh.shape
    for t in range(T - 1, -1, -1):
        for r in range(b0, b1):
            _step_backward(dh[t, r], gates[t, r], c[t, r], c[t + 1, r], dz[t, r], dh_next[r], dc_next[r], j0, j1)
        if b1 - b0 == B:
            meet(counter, threads)
        add_product_transposed(dz[t, b0:b1], W_h, dh_next[b0:b1], j0, j1)


@inner
def add_gradient_ids(x, dz, dW_x, begin, end):
    """dW_x[x] += dz in columns begin:end, row by row, for ids x (T, B)."""
    T, B, _ = dz.shape
    for t in range(T):
        for r in range(B):
            g, d = dW_x[x[t, r], begin:end], dz[t, r, begin:end]
            for j in range(end - begin):
                g[j] += d[j]


# ----------------------------------------------------------------------------------------------------------- loss
@inner
def softmax_loss(z, target, d):
    """Write softmax - onehot of one row of logits z (V,) into d (it may be z itself) and return its loss."""
    V = z.shape[0]
    largest = z[0]
    for j in range(V):
        largest = z[j] if z[j] > largest else largest
    at_target = z[target] - largest
    for j in range(V):
        d[j] = exp(z[j] - largest)
    total = z.dtype.type(0)
    for j in range(V):
        total += d[j]
    scale = z.dtype.type(1) / total
    for j in range(V):
        d[j] *= scale
    d[target] -= z.dtype.type(1)
    return math.log(float(total)) - float(at_target)


# ----------------------------------------------------------------------------------------------------- single ops
@entry
def forward_ids(x, W_x, W_h, b, h, c, gates, counter):
    """One layer over ids x (T, B): h, c (T+1, B, H) and gates (T, B, 4H) are written, but for h[0], c[0]."""
    _, B, H = h.shape
    project_ids(x, W_x, b, gates, 0, B, 0, H)
    run_forward(W_h, h, c, gates, 0, B, 0, H, counter, 1)


@entry
def forward_floats(x, W_x, W_h, b, h, c, gates, counter):
    """One layer over floats x (T, B, D): h, c (T+1, B, H) and gates (T, B, 4H) are written, but for h[0], c[0]."""
    _, B, H = h.shape
    project_floats(x, W_x, b, gates, 0, B, 0, H)
    run_forward(W_h, h, c, gates, 0, B, 0, H, counter, 1)


@inner
def _add_gradient_recurrent(h, dz, dW_h, db):
    T, B, N = dz.shape
    H = h.shape[2]
    rows = dz.reshape(T * B, N)
    add_outer(h[:T].reshape(T * B, H), rows, dW_h, 0, H)
    add_rows(rows, db, 0, N)


@entry
def backward_ids(dh, x, h, c, gates, W_h, dz, dh0, dc0, dW_x, dW_h, db, counter):
    """Gradients of one layer over ids; dh0, dc0 hold those of the last state and become those of the first."""
    _, B, H = h.shape
    run_backward(dh, W_h, c, gates, dz, dh0, dc0, 0, B, 0, H, counter, 1)
    dW_x[:], dW_h[:], db[:] = 0, 0, 0
    add_gradient_ids(x, dz, dW_x, 0, 4 * H)
    _add_gradient_recurrent(h, dz, dW_h, db)


@entry
def backward_floats(dh, x, h, c, gates, W_x, W_h, dz, dx, dh0, dc0, dW_x, dW_h, db, counter):
    """Gradients of one layer over floats; dh0, dc0 hold those of the last state and become those of the first."""
    T, B, D = x.shape
    H = h.shape[2]
    run_backward(dh, W_h, c, gates, dz, dh0, dc0, 0, B, 0, H, counter, 1)
    dx[:], dW_x[:], dW_h[:], db[:] = 0, 0, 0, 0
    rows = dz.reshape(T * B, 4 * H)
    add_product_transposed(rows, W_x, dx.reshape(T * B, D), 0, D)
    add_outer(x.reshape(T * B, D), rows, dW_x, 0, D)
    _add_gradient_recurrent(h, dz, dW_h, db)


@entry
def cross_entropy(logits, targets, dlogits):
    """The loss of all rows (T, B, V), summed in float64, and its gradient."""
    loss = 0.0
    for t in range(logits.shape[0]):
        for r in range(logits.shape[1]):
            loss += softmax_loss(logits[t, r], targets[t, r], dlogits[t, r])
    return loss
