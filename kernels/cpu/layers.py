"""One LSTM layer and the softmax loss, forward and backward. Equations, gate order and shapes: kernels/spec.py.

The element-wise work on a row is cut into loops that each write one array, which keeps them within the compiler's
overlap check (see products.py); a row stays in the first-level cache from one loop to the next. Nothing is allocated.
"""

import math

from kernels.cpu.activations import exp, sigmoid, tanh
from kernels.cpu.jit import entry, inner
from kernels.cpu.products import add_outer, add_product, add_product_transposed, add_rows, copy_to_rows
from kernels.spec import GATE_F, GATE_G, GATE_I, GATE_O


@inner
def _block(row, gate, H):
    """The H elements of one gate in a row of 4H."""
    return row[gate * H : gate * H + H]


# -------------------------------------------------------------------------------------------------------- forward
@inner
def project_ids(x, W_x, b, gates):
    """gates (T, B, 4H) = W_x[x] + b, for ids x (T, B)."""
    T, B, N = gates.shape
    for t in range(T):
        for r in range(B):
            z, w = gates[t, r], W_x[x[t, r]]
            for j in range(N):
                z[j] = w[j] + b[j]


@inner
def project_floats(x, W_x, b, gates):
    """gates (T, B, 4H) = x W_x + b, for floats x (T, B, D): one product for all steps."""
    T, B, N = gates.shape
    rows = gates.reshape(T * B, N)
    copy_to_rows(b, rows)
    add_product(x.reshape(T * B, x.shape[2]), W_x, rows)


@inner
def _step_forward(z, c_prev, c, h):
    """One row of one step: z (4H,) becomes the activated gates; c, h (H,) are written."""
    H = h.shape[0]
    i, f, g, o = _block(z, GATE_I, H), _block(z, GATE_F, H), _block(z, GATE_G, H), _block(z, GATE_O, H)
    for j in range(H):
        i[j] = sigmoid(i[j])
    for j in range(H):
        f[j] = sigmoid(f[j])
    for j in range(H):
        g[j] = tanh(g[j])
    for j in range(H):
        o[j] = sigmoid(o[j])
    for j in range(H):
        c[j] = f[j] * c_prev[j] + i[j] * g[j]
    for j in range(H):
        h[j] = o[j] * tanh(c[j])


@inner
def run_forward(W_h, h, c, gates):
    """Run all steps from h[0], c[0] and from gates, which hold the input's part and become the activated gates."""
    T, B, _ = gates.shape
    for t in range(T):
        add_product(h[t], W_h, gates[t])
        for r in range(B):
            _step_forward(gates[t, r], c[t, r], c[t + 1, r], h[t + 1, r])


# ------------------------------------------------------------------------------------------------------- backward
@inner
def _step_backward(dh, gates, c_prev, c, dz, dh_next, dc_next):
    """One row of one step: dz (4H,) is written; dh_next is added to dh's part; dc_next (H,) becomes that of t - 1."""
    H = dh.shape[0]
    one = dh.dtype.type(1)
    i, f, g, o = _block(gates, GATE_I, H), _block(gates, GATE_F, H), _block(gates, GATE_G, H), _block(gates, GATE_O, H)
    dz_i, dz_f, dz_g, dz_o = _block(dz, GATE_I, H), _block(dz, GATE_F, H), _block(dz, GATE_G, H), _block(dz, GATE_O, H)
    for j in range(H):
        dz_o[j] = tanh(c[j])
    for j in range(H):
        dh_next[j] += dh[j]
    for j in range(H):
        dc_next[j] += dh_next[j] * o[j] * (one - dz_o[j] * dz_o[j])
    for j in range(H):
        dz_o[j] *= dh_next[j] * o[j] * (one - o[j])
    for j in range(H):
        dz_i[j] = dc_next[j] * g[j] * i[j] * (one - i[j])
    for j in range(H):
        dz_f[j] = dc_next[j] * c_prev[j] * f[j] * (one - f[j])
    for j in range(H):
        dz_g[j] = dc_next[j] * i[j] * (one - g[j] * g[j])
    for j in range(H):
        dc_next[j] *= f[j]


@inner
def run_backward(dh, W_h, c, gates, dz, dh_next, dc_next):
    """Run all steps backward: dz (T, B, 4H) is written; dh_next, dc_next (B, H) go from the last state's to h0's."""
    T, B, _ = dh.shape
    for t in range(T - 1, -1, -1):
        for r in range(B):
            _step_backward(dh[t, r], gates[t, r], c[t, r], c[t + 1, r], dz[t, r], dh_next[r], dc_next[r])
        dh_next[:] = 0
        add_product_transposed(dz[t], W_h, dh_next)


@inner
def add_gradient_ids(x, dz, dW_x):
    """dW_x[x] += dz, row by row, for ids x (T, B)."""
    T, B, N = dz.shape
    for t in range(T):
        for r in range(B):
            g, d = dW_x[x[t, r]], dz[t, r]
            for j in range(N):
                g[j] += d[j]


@inner
def add_gradient_recurrent(h, dz, dW_h, db):
    """dW_h += h[:-1]' dz and db += dz, summed over all steps and streams."""
    T, B, N = dz.shape
    rows = dz.reshape(T * B, N)
    add_outer(h[:T].reshape(T * B, h.shape[2]), rows, dW_h)
    add_rows(rows, db)


# ----------------------------------------------------------------------------------------------------------- loss
@inner
def softmax_loss(logits, targets, dlogits):
    """Write softmax - onehot into dlogits (it may be logits itself) and return the loss, summed in float64."""
    T, B, V = logits.shape
    loss = 0.0
    one = logits.dtype.type(1)
    for t in range(T):
        for r in range(B):
            z, d = logits[t, r], dlogits[t, r]
            target = targets[t, r]
            largest = z[0]
            for j in range(V):
                largest = z[j] if z[j] > largest else largest
            at_target = z[target] - largest
            for j in range(V):
                d[j] = exp(z[j] - largest)
            total = logits.dtype.type(0)
            for j in range(V):
                total += d[j]
            loss += math.log(float(total)) - float(at_target)
            scale = one / total
            for j in range(V):
                d[j] *= scale
            d[target] -= one
    return loss


# -------------------------------------------------------------------------------------------------- single ops
@entry
def forward_ids(x, W_x, W_h, b, h, c, gates):
    """One layer over ids x (T, B): h, c (T+1, B, H) and gates (T, B, 4H) are written, but for h[0], c[0]."""
    project_ids(x, W_x, b, gates)
    run_forward(W_h, h, c, gates)


@entry
def forward_floats(x, W_x, W_h, b, h, c, gates):
    """One layer over floats x (T, B, D): h, c (T+1, B, H) and gates (T, B, 4H) are written, but for h[0], c[0]."""
    project_floats(x, W_x, b, gates)
    run_forward(W_h, h, c, gates)


@entry
def backward_ids(dh, x, h, c, gates, W_h, dz, dh0, dc0, dW_x, dW_h, db):
    """Gradients of one layer over ids; dh0, dc0 hold those of the last state and become those of the first."""
    run_backward(dh, W_h, c, gates, dz, dh0, dc0)
    dW_x[:], dW_h[:], db[:] = 0, 0, 0
    add_gradient_ids(x, dz, dW_x)
    add_gradient_recurrent(h, dz, dW_h, db)


@entry
def backward_floats(dh, x, h, c, gates, W_x, W_h, dz, dx, dh0, dc0, dW_x, dW_h, db):
    """Gradients of one layer over floats; dh0, dc0 hold those of the last state and become those of the first."""
    T, B, D = x.shape
    run_backward(dh, W_h, c, gates, dz, dh0, dc0)
    dx[:], dW_x[:], dW_h[:], db[:] = 0, 0, 0, 0
    rows = dz.reshape(T * B, dz.shape[2])
    add_product_transposed(rows, W_x, dx.reshape(T * B, D))
    add_outer(x.reshape(T * B, D), rows, dW_x)
    add_gradient_recurrent(h, dz, dW_h, db)


@entry
def cross_entropy(logits, targets, dlogits):
    """The loss of softmax_loss."""
    return softmax_loss(logits, targets, dlogits)
