"""One LSTM layer and the softmax loss, forward and backward. Equations, gate order and shapes: kernels/spec/cells.py.

A part of a layer is a range of streams b0:b1 and some of its pieces (team.py): hidden units with their four blocks of
gates. A member of a team has either some of the streams and all pieces, and then needs nobody until the layer is done,
or all streams and some of the pieces, and then meets the others at every step.

Weights, gates, dz and cells come as arrays of one dimension: what is where in them depends on the piece, see
:func:`gates_at` and :func:`cells_at`. Nothing is allocated.
"""

import math

from kernels.cpu import bfloat16
from kernels.cpu.cells import cell_backward, cell_forward
from kernels.cpu.compiler import entry, inner, thin
from kernels.cpu.emit.activations import exp
from kernels.cpu.matmul import add_outer, add_product, add_rows, address, clear_rows, copy_to_rows, product_transposed
from kernels.cpu.threads import is_apart, meet, spans


@inner
def gates_at(piece, rows, H):
    """Where a piece's matrix of `rows` rows of gates begins among those of all, and the length of its rows."""
    return (4 * rows * piece[0], 4 * piece[1]) if is_apart(piece) else (0, 4 * H)


@inner
def cells_at(piece, rows, H):
    """Where a piece's cells begin among `rows` rows of those of all, and how far the next row is."""
    return (rows * piece[0], piece[1]) if is_apart(piece) else (piece[0], H)


# -------------------------------------------------------------------------------------------------------- forward
@inner
def project_ids(x, W_x, b, gates, t0, t1, b0, b1, pieces, q0, q1):
    """The part's gates (T B 4H,) of steps t0:t1 = W_x[x] + b, for ids x (T, B) and W_x (V 4H,)."""
    T, B = x.shape
    N = b.shape[0]
    for q in range(q0, q1):
        z_at, width = gates_at(pieces[q], T * B, N // 4)
        w_at, _ = gates_at(pieces[q], W_x.shape[0] // N, N // 4)
        b_at, _ = gates_at(pieces[q], 1, N // 4)
        count, length, step = spans(pieces[q])
        for s in range(count):
            begin = pieces[q, 2] + s * step
            bias = b[b_at + begin : b_at + begin + length]
            for t in range(t0, t1):
                for r in range(b0, b1):
                    at, to = w_at + x[t, r] * width + begin, z_at + (t * B + r) * width + begin
                    z, w = gates[to : to + length], W_x[at : at + length]
                    for j in range(length):
                        z[j] = w[j] + bias[j]


@thin
def _add_gates(a, a_at, W, packed, pairs, z, z_at, R, K, H, piece):
    """A piece's gates in rows of z, which begin at z_at, += those of a (R, K) @ W, packed unless packed has no size.

    Or those of a row a (K,) @ pairs, unless that is None.
    """
    if pairs is not None:
        bfloat16.add_gates(a, a_at, pairs, z, z_at, H, piece)
        return
    w_at, width = gates_at(piece, K, H)
    count, length, step = spans(piece)
    region = packed.shape[0] // 4  # of a gate's columns, when packed
    for s in range(count):
        begin = piece[2] + s * step
        if packed.shape[0] > 0:
            add_product(a, a_at, K, packed, s * region + K * piece[0], 0, z, z_at + begin, width, R, K, length)
        else:
            add_product(a, a_at, K, W, w_at + begin, width, z, z_at + begin, width, R, K, length)


@thin
def project_floats(x, W_x, packed, b, gates, t0, t1, b0, b1, pieces, q0, q1):
    """The part's gates (T B 4H,) of steps t0:t1 = x W_x + b, for floats x (T, B, D): in one product where it can be."""
    T, B, D = x.shape
    H = b.shape[0] // 4
    turns, rows = (1, (t1 - t0) * B) if b1 - b0 == B else (t1 - t0, b1 - b0)
    for q in range(q0, q1):
        z_at, width = gates_at(pieces[q], T * B, H)
        b_at, _ = gates_at(pieces[q], 1, H)
        count, length, step = spans(pieces[q])
        for t in range(t0, t0 + turns):
            row = t * B + b0
            for s in range(count):
                begin = pieces[q, 2] + s * step
                copy_to_rows(b[b_at + begin : b_at + begin + length], gates, z_at + row * width + begin, width, rows)
            _add_gates(x, row * D, W_x, packed, None, gates, z_at + row * width, rows, D, H, pieces[q])


@inner
def run_forward(W_h, packed, pairs, h, c, gates, t0, t1, b0, b1, pieces, q0, q1, counter, threads):
    """Run steps t0:t1 from h[t0], c[t0] and from gates, which hold the input's part and become the activated gates.

    h is (T+1, B, H); c, gates and W_h are flat; pairs, unless None, has what W_h is rounded to.
    """
    T, B, H = h.shape[0] - 1, h.shape[1], h.shape[2]
    zero = h.dtype.type(0)
    for t in range(t0, t1):
        for q in range(q0, q1):
            j0, n, begin, stride = pieces[q, 0], pieces[q, 1], pieces[q, 2], pieces[q, 3]
            z_at, width = gates_at(pieces[q], T * B, H)
            c_at, c_row = cells_at(pieces[q], (T + 1) * B, H)
            row = t * B + b0
            _add_gates(h, row * H, W_h, packed, pairs, gates, z_at + row * width, b1 - b0, H, H, pieces[q])
            for r in range(row, t * B + b1):
                z, before, after = z_at + r * width + begin, c_at + r * c_row, c_at + (r + B) * c_row
                cell_forward(
                    zero, address(gates, z), stride, address(c, before), address(c, after),
                    address(h, (r + B) * H + j0), n,
                )  # fmt: skip
        if q1 - q0 < pieces.shape[0]:
            meet(counter, threads)


@inner
def drop(a, mask, scale, out, b0, b1, pieces, q0, q1):
    """The part's out (T, B, H) = a times scale where mask is not zero, else 0; out may be a itself."""
    factor, zero = a.dtype.type(scale), a.dtype.type(0)
    for q in range(q0, q1):
        j0, n = pieces[q, 0], pieces[q, 1]
        for t in range(a.shape[0]):
            for r in range(b0, b1):
                row, kept, to = a[t, r, j0 : j0 + n], mask[t, r, j0 : j0 + n], out[t, r, j0 : j0 + n]
                for j in range(n):
                    value = row[j] * factor
                    to[j] = value if kept[j] != 0 else zero


# ------------------------------------------------------------------------------------------------------- backward
@inner
def _step_backward(dh, c, gates, dz, dh_next, dc_next, t, b0, b1, piece):
    """Rows b0:b1 of step t, a piece's units: dz is written; dc_next (B, H) becomes the gradient of the cells before."""
    T, B, H = dh.shape
    zero = dh.dtype.type(0)
    j0, n = piece[0], piece[1]
    z_at, width = gates_at(piece, T * B, H)
    c_at, c_row = cells_at(piece, (T + 1) * B, H)
    for r in range(b0, b1):
        row = t * B + r
        z, before, after = z_at + row * width + piece[2], c_at + row * c_row, c_at + (row + B) * c_row
        cell_backward(
            zero, address(dh, row * H + j0), address(gates, z), piece[3], address(c, before), address(c, after),
            address(dz, z), address(dh_next, r * H + j0), address(dc_next, r * H + j0), n,
        )  # fmt: skip


@inner
def run_backward(
    dh, W_h, packed, pairs, c, gates, dz, dh_next, dc_next, t0, t1, b0, b1, pieces, q0, q1, counter, threads
):
    """Run steps t0:t1 backward: dz is written; dh_next, dc_next (B, H) go from the state's after them to that before.

    dh is (T, B, H); W_h, c, gates and dz are flat.
    """
    _, B, H = dh.shape
    for t in range(t1 - 1, t0 - 1, -1):
        for q in range(q0, q1):
            _step_backward(dh, c, gates, dz, dh_next, dc_next, t, b0, b1, pieces[q])
        if q1 - q0 < pieces.shape[0]:
            meet(counter, threads)
        for q in range(q0, q1):
            if pairs is not None:
                bfloat16.flow_back(dz, t * 4 * H, pairs, dh_next, H, pieces[q])
            else:
                flow_back(dz, t * B + b0, W_h, packed, dh_next, b0, b1 - b0, pieces[q], H)


@thin
def flow_back(dz, row, W, packed, out, out_row, R, piece, H):
    """A piece's units of R rows of out (..., H), from out_row on, = rows of dz, from `row` on, @ W' of W (H 4H,).

    W is packed, transposed, unless packed has no size.
    """
    N, j0, n = 4 * H, piece[0], piece[1]
    if packed.shape[0] > 0:
        clear_rows(out.reshape(out.size), out_row * H + j0, H, R, n)
        add_product(dz, row * N, N, packed, N * j0, 0, out, out_row * H + j0, H, R, N, n)
    else:
        product_transposed(dz, row * N, N, W, j0 * N, N, out, out_row * H + j0, H, R, n, N)


@inner
def _add_panels(partial, out, piece):
    """A piece's units of out (B, H) = the sum of what the panels hold for them, partial (P, B, ...), in order."""
    j0, n = piece[0], piece[1]
    for r in range(out.shape[0]):
        to, part = out[r, j0 : j0 + n], partial[0, r, j0 : j0 + n]
        for j in range(n):
            to[j] = part[j]
        for p in range(1, partial.shape[0]):
            part = partial[p, r, j0 : j0 + n]
            for j in range(n):
                to[j] += part[j]


@inner
def run_backward_panels(
    dh, W_h, W_x, pairs, layer, c, gates, dz, dh_next, dc_next, partial, pieces, q0, q1, counter, threads
):  # fmt: skip
    """Like run_backward, but for pieces that each have their gates and weights to themselves.

    What a piece's dz sends back to all units goes into partial (2, 2, P, B, H or more), by turns from one step of one
    layer to the next, so that one meeting a step is enough. Unless the layer is the first, dh becomes the gradient of
    its input, for W_x (H 4H,).
    """
    T, B, H = dh.shape
    out_row = partial.shape[4]
    for t in range(T - 1, -1, -1):
        turn, before = partial[(layer * T + t) % 2], partial[(layer * T + t + 1) % 2]
        for q in range(q0, q1):
            if t < T - 1:
                _add_panels(before[0], dh_next, pieces[q])
            _step_backward(dh, c, gates, dz, dh_next, dc_next, t, 0, B, pieces[q])
            z_at, N = gates_at(pieces[q], T * B, H)
            w_at, _ = gates_at(pieces[q], H, H)
            if t > 0 and pairs is not None:
                bfloat16.flow_back(dz, z_at + t * N, pairs, turn[0, q], H, pieces[q])
            elif t > 0:
                product_transposed(dz, z_at + t * B * N, N, W_h, w_at, N, turn[0, q], 0, out_row, B, H, N)
            if layer > 0:
                product_transposed(dz, z_at + t * B * N, N, W_x, w_at, N, turn[1, q], 0, out_row, B, H, N)
        meet(counter, threads)
        if layer > 0:
            for q in range(q0, q1):
                _add_panels(turn[1], dh[t], pieces[q])


@inner
def add_gradient_ids(x, dz, dz_at, out, out_at, row, begin, end):
    """Rows of out, from out_at on, += those of dz, from dz_at on, by the ids x (T, B), in columns begin:end.

    Both are arrays of one dimension, with rows of `row` elements.
    """
    B = x.shape[1]
    for t in range(x.shape[0]):
        for r in range(B):
            to, at = out_at + x[t, r] * row, dz_at + (t * B + r) * row
            g, d = out[to + begin : to + end], dz[at + begin : at + end]
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
@inner
def _flat(array):
    return array.reshape(array.size)


@entry
def forward_ids(x, W_x, W_h, b, h, c, gates, pieces, none, counter):
    """One layer over ids x (T, B): h, c (T+1, B, H) and gates (T, B, 4H) are written, but for h[0], c[0]."""
    B = h.shape[1]
    project_ids(x, _flat(W_x), b, _flat(gates), 0, x.shape[0], 0, B, pieces, 0, 1)
    run_forward(_flat(W_h), none, None, h, _flat(c), _flat(gates), 0, x.shape[0], 0, B, pieces, 0, 1, counter, 1)


@entry
def forward_floats(x, W_x, W_h, b, h, c, gates, pieces, none, counter):
    """One layer over floats x (T, B, D): h, c (T+1, B, H) and gates (T, B, 4H) are written, but for h[0], c[0]."""
    B = h.shape[1]
    project_floats(x, _flat(W_x), none, b, _flat(gates), 0, x.shape[0], 0, B, pieces, 0, 1)
    run_forward(_flat(W_h), none, None, h, _flat(c), _flat(gates), 0, x.shape[0], 0, B, pieces, 0, 1, counter, 1)


@inner
def _backward(dh, h, c, gates, W_h, dz, dh0, dc0, dW_h, db, pieces, none, counter):
    T, B, N = dz.shape
    H = h.shape[2]
    run_backward(
        dh, _flat(W_h), none, None, _flat(c), _flat(gates), _flat(dz), dh0, dc0, 0, T, 0, B, pieces, 0, 1, counter, 1
    )  # fmt: skip
    dW_h[:], db[:] = 0, 0
    add_outer(h, 0, H, dz, 0, N, dW_h, 0, N, T * B, H, N)
    add_rows(_flat(dz), 0, N, db, T * B)


@entry
def backward_ids(dh, x, h, c, gates, W_h, dz, dh0, dc0, dW_x, dW_h, db, pieces, none, counter):
    """Gradients of one layer over ids; dh0, dc0 hold those of the last state and become those of the first."""
    _backward(dh, h, c, gates, W_h, dz, dh0, dc0, dW_h, db, pieces, none, counter)
    dW_x[:] = 0
    add_gradient_ids(x, _flat(dz), 0, _flat(dW_x), 0, dz.shape[2], 0, dz.shape[2])


@entry
def backward_floats(dh, x, h, c, gates, W_x, W_h, dz, dx, dh0, dc0, dW_x, dW_h, db, pieces, none, counter):
    """Gradients of one layer over floats; dh0, dc0 hold those of the last state and become those of the first."""
    T, B, D = x.shape
    N = dz.shape[2]
    _backward(dh, h, c, gates, W_h, dz, dh0, dc0, dW_h, db, pieces, none, counter)
    product_transposed(dz, 0, N, W_x, 0, N, dx, 0, D, T * B, D, N)
    dW_x[:] = 0
    add_outer(x, 0, D, dz, 0, N, dW_x, 0, N, T * B, D, N)


@entry
def cross_entropy(logits, targets, dlogits):
    """The loss of all rows (T, B, V), summed in float64, and its gradient."""
    loss = 0.0
    for t in range(logits.shape[0]):
        for r in range(logits.shape[1]):
            loss += softmax_loss(logits[t, r], targets[t, r], dlogits[t, r])
    return loss
