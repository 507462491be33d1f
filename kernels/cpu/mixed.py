"""Mixed precision for batches: products read bfloat16 and sum in float32; all else is float32.

Weights are rounded once per iteration, hidden states and gradients of gates as they are computed. Parameters, the
arithmetic of gates, sums and the optimizer stay float32. Operands lie in rows or in panels of pairs (emit/rounding.py):

* ``h W_h``, ``h W_x``, ``h W_y``: rows of h, pairs of the weights;
* ``dz W'``: rows of dz of two steps in turn (one thread may be a step ahead of another), pairs of the transposed
  weights;
* ``h' dz``: rows of the transposed h of all steps, pairs of dz of all steps.

A step's streams are padded to an even number, so that a pair never spans two steps. The order of additions of an
element depends on the length of the contraction only; the columns of each gate begin a panel of their own in weights.
"""

from typing import Any, NamedTuple

from kernels.cpu.compiler import inner, thin
from kernels.cpu.emit.rounding import LANES
from kernels.cpu.loss import loss_of_row
from kernels.cpu.matmul import address, clear_rows, copy_to_rows
from kernels.cpu.mixed_matmul import (
    clear_rest,
    columns_of,
    depth_of,
    even,
    keep_pairs,
    pack,
    pack_transposed,
    panel_at,
    product,
    round_rows,
    transpose_steps,
)
from kernels.cpu.threads import barrier, part_of
from kernels.cpu.values import flat

#: Rows of logits that one product computes: at least so many, and as many as have so many elements.
_ROWS, _LOGITS = 48, 2**17


class Rounded(NamedTuple):
    """The operands of a product with a matrix of weights."""

    rows: Any  # rows of bfloat16 that are multiplied by the weights; flat
    row: int  # row stride
    begin: int  # row r of the float32 array is row (begin + r % total) % turn here
    total: int
    turn: int
    weights: Any  # panels of pairs; flat
    planes: Any  # (planes, 2 B, row) rows of dz of two steps in turn, or None
    pairs: Any  # (planes, n) pairs of dz of all steps, or None


class Outer(NamedTuple):
    """The operands of the gradient of a matrix of weights."""

    rows: Any  # (units, row) rows of a transposed matrix
    begin: int  # number of the first column
    pairs: Any  # panels of pairs; flat
    depth: int  # of the contraction, padded


@inner
def _row(rounded, row):
    return (rounded.begin + row % rounded.total) % rounded.turn


@thin
def has_added_gates(rounded, G, row, z, z_at, R, H, piece):
    """Add a piece's columns of R rows, from `row` on, @ W to rows of G gates from z[z_at]; False if rounded is None."""
    if rounded is None:
        return False
    K, a = depth_of(H), address(rounded.rows, _row(rounded, row) * rounded.row)
    for g in range(G):
        w, to = panel_at(rounded.weights, g * columns_of(H) + piece[0], K), address(z, z_at + g * H + piece[0])
        product(a, rounded.row, w, to, G * H, R, K, piece[1])
    return True


@thin
def has_flowed_back(rounded, G, row, out, out_at, R, H, piece):
    """Write a piece's units of R rows from out[out_at] on: rows of dz @ W'; do nothing and return False if None."""
    if rounded is None:
        return False
    clear_rows(out, out_at + piece[0], H, R, piece[1])
    K = depth_of(G * H)
    a, w = address(rounded.rows, _row(rounded, row) * rounded.row), panel_at(rounded.weights, piece[0], K)
    product(a, rounded.row, w, address(out, out_at + piece[0]), H, R, K, piece[1])
    return True


@thin
def has_outer(outer, k0, n0, K, N, out, out_at, out_row):
    """Write K rows from k0, N columns from n0 of a gradient to out[out_at:]; False if outer is None.

    n0 is a multiple of PANEL.
    """
    if outer is None:
        return False
    clear_rows(out, out_at, out_row, K, N)
    row = outer.rows.shape[1]
    a, w = address(outer.rows, k0 * row + outer.begin), panel_at(outer.pairs, n0, outer.depth)
    product(a, row, w, address(out, out_at), out_row, K, outer.depth, N)
    return True


# ------------------------------------------------------------------------------------------- operands of a model
# Functions of a model take ws.rounded_h first, which is None unless the call is mixed: Numba skips the code behind a
# comparison with None only for an argument itself.
@thin
def of_state(rounded_h, ws, layer):
    """The operands of h W_h, or None."""
    if rounded_h is None:
        return None
    rows, weights = ws.rounded_h[layer], ws.rounded_weights[layer, 0]
    return Rounded(flat(rows), rows.shape[1], 0, rows.shape[0], rows.shape[0], weights, None, None)


@thin
def of_below(rounded_h, ws, layer):
    """The operands of h W_x, for the h of the layer below; or None."""
    if rounded_h is None:
        return None
    B, weights = ws.row_loss.shape[1], ws.rounded_weights[layer, 2]
    rows = ws.rounded_dropped[layer - 1] if ws.rounded_dropped.shape[0] > 0 else ws.rounded_h[layer - 1, B:]
    return Rounded(flat(rows), rows.shape[1], 0, rows.shape[0], rows.shape[0], weights, None, None)


@thin
def of_gradient(rounded_h, ws, layer):
    """The operands of dz W_h', or None."""
    if rounded_h is None:
        return None
    planes, total = ws.rounded_dz, ws.row_loss.size
    rows, weights = planes[planes.shape[0] - 1], ws.rounded_weights[layer, 1]
    return Rounded(
        flat(rows), rows.shape[1], layer * total, total, rows.shape[0], weights, planes, ws.pairs_of_dz[layer]
    )  # fmt: skip


@thin
def of_gradient_below(rounded_h, ws, layer):
    """The operands of dz W_x', or None."""
    if rounded_h is None:
        return None
    rows, weights, total = ws.rounded_dz[0], ws.rounded_weights[layer, 3], ws.row_loss.size
    return Rounded(flat(rows), rows.shape[1], layer * total, total, rows.shape[0], weights, None, None)


@thin
def outer_state(rounded_h, ws, layer):
    """The operands of the gradient of W_h, or None."""
    if rounded_h is None:
        return None
    T, B = ws.row_loss.shape
    return Outer(ws.transposed[0, layer], 0, ws.pairs_of_dz[layer, -1], depth_of(T * even(B)))


@thin
def outer_below(rounded_h, ws, layer):
    """The operands of the gradient of W_x, or None."""
    if rounded_h is None:
        return None
    T, B = ws.row_loss.shape
    rows, begin = _passed_up(ws, layer - 1)
    return Outer(rows, begin, ws.pairs_of_dz[layer, 0], depth_of(T * even(B)))


@thin
def outer_readout(rounded_h, ws, first):
    """The operands of the gradient of W_y, or None."""
    if rounded_h is None:
        return None
    T, B = ws.row_loss.shape
    rows, begin = _passed_up(ws, ws.h.shape[0] - 1)
    return Outer(rows, begin + first * even(B), ws.pairs_of_logits, depth_of((T - first) * even(B)))


@inner
def _passed_up(ws, layer):
    """The transposed output of a layer, after dropout, and the number of the column of its first step."""
    begin = 0 if ws.transposed.shape[0] > 1 else even(ws.row_loss.shape[1])
    return ws.transposed[ws.transposed.shape[0] - 1, layer], begin


# ------------------------------------------------------------------------------------------------------- rounding
@thin
def round_state(rounded, h, t, share):
    """Round the part's h[t], unless rounded is None."""
    if rounded is None:
        return
    _, B, H = h.shape
    row, R = t * B + share.b0, share.b1 - share.b0
    for q in range(share.q0, share.q1):
        j0, n = share.pieces[q, 0], share.pieces[q, 1]
        round_rows(h, row * H + j0, H, rounded.rows, row * rounded.row + j0, rounded.row, R, n)


@thin
def round_dropped(rounded_h, ws, dropped, layer, share):
    """Round the part's output of a layer after dropout, unless the call is not mixed."""
    if rounded_h is None:
        return
    _, T, B, H = dropped.shape
    to = ws.rounded_dropped[layer]
    for q in range(share.q0, share.q1):
        j0, n = share.pieces[q, 0], share.pieces[q, 1]
        for t in range(T):
            row = t * B + share.b0
            round_rows(dropped[layer], row * H + j0, H, to, row * to.shape[1] + j0, to.shape[1], share.b1 - share.b0, n)


@thin
def round_gates(rounded, G, dz, t, T, share):
    """Round the part's dz of step t, in place, and copy it to rows and pairs, unless rounded is None."""
    if rounded is None:
        return
    planes, turn, row = rounded.planes.shape
    B = turn // 2
    first = _row(rounded, t * B + share.b0)
    H = share.pieces[-1, 0] + share.pieces[-1, 1]
    N, K = G * H, depth_of(T * even(B))
    for plane in range(planes):
        rows, pairs = rounded.planes[plane], rounded.pairs[plane]
        for q in range(share.q0, share.q1):
            j0, n = share.pieces[q, 0], share.pieces[q, 1]
            count, length = (1, N) if n == H else (G, n)
            for g in range(count):
                begin = g * H + j0
                at = ((plane * T + t) * B + share.b0) * N + begin
                keep_pairs(
                    dz, at, N, rows, first * row + begin, row, pairs, (t * even(B) + share.b0) // 2, begin, K,
                    share.b1 - share.b0, length,
                )  # fmt: skip


@thin
def prepare(rounded_h, net, ws, share):
    """Round the thread's share of all weights, and the state before the first step, unless the call is not mixed."""
    if rounded_h is None:
        return
    (L, _, _, H), V, last = ws.h.shape, ws.logits.shape[2], net.offsets.shape[0] - 1
    G, blocks, theta = ws.dz.shape[4] // H, (last - 1) // L, net.theta
    thread, threads = share.thread, share.threads
    for layer in range(L):
        round_state(of_state(rounded_h, ws, layer), ws.h[layer], 0, share)
        for kind in range(0, 4 if layer > 0 else 2, 2):  # W_h, then W_x
            at, to = net.offsets[blocks * layer + (1 if kind == 0 else 0)], ws.rounded_weights[layer]
            pack(theta, at, H, H, G, to[kind], thread, threads)
            pack_transposed(theta, at, G * H, H, to[kind + 1], thread, threads)
    pack(theta, net.offsets[last - 1], H, V, 1, ws.rounded_readout[0], thread, threads)
    pack_transposed(theta, net.offsets[last - 1], V, H, ws.rounded_readout[1], thread, threads)


@thin
def transpose(rounded_h, ws, thread, threads):
    """Transpose the thread's share of units of h of all layers and steps, unless the call is not mixed."""
    if rounded_h is None:
        return
    L, H = ws.h.shape[0], ws.h.shape[3]
    T, B = ws.row_loss.shape
    u0, u1 = part_of(H, LANES, thread, threads)
    for layer in range(L):
        transpose_steps(ws.rounded_h[layer], ws.transposed[0, layer], T + 1, B, u0, u1)
        if ws.rounded_dropped.shape[0] > 0:
            transpose_steps(ws.rounded_dropped[layer], ws.transposed[1, layer], T, B, u0, u1)


# -------------------------------------------------------------------------------------------------------- readout
@thin
def readout(rounded_h, net, targets, aim, ws, first, share):
    """Like model.readout; do nothing and return False if the call is not mixed.

    If there are enough steps, threads split these, so that each product has many rows: its weights are read often.
    """
    if rounded_h is None:
        return False
    T, B, V = ws.logits.shape
    last, b0, b1, t0, t1 = net.offsets.shape[0] - 1, share.b0, share.b1, first, T
    if T - first >= share.threads:
        barrier(share.counter, share.threads)  # all threads have computed their part of h
        t0, t1 = part_of(T - first, 1, share.thread, share.threads)
        b0, b1, t0, t1 = 0, B, t0 + first, t1 + first
    elif b1 - b0 == B and share.thread > 0:
        t1 = t0
    steps = max(_ROWS, _LOGITS // V) // B if b1 - b0 == B else 1
    b_y = net.theta[net.offsets[last] : net.offsets[last] + V]
    for t in range(t0, t1, max(1, steps)):
        _readout_steps(b_y, targets, aim, ws, first, t, min(t + max(1, steps), t1), b0, b1)
    if share.thread == 0:
        clear_rest(ws.pairs_of_logits, V, (T - first) * even(B))
    return True


@thin
def _readout_steps(b_y, targets, aim, ws, first, t0, t1, b0, b1):
    """The readout of streams b0:b1 of steps t0:t1: one step, or all streams."""
    L, _, B, H = ws.h.shape
    T, _, V = ws.logits.shape
    row, R, logits = t0 * B + b0, (t1 - t0 - 1) * B + b1 - b0, flat(ws.logits)
    copy_to_rows(b_y, logits, row * V, V, R)
    top, at = ws.rounded_h[L - 1], row + B
    if ws.rounded_dropped.shape[0] > 0:
        top, at = ws.rounded_dropped[L - 1], row
    w, back, rows = ws.rounded_readout[0], ws.rounded_readout[1], ws.rounded_logits
    a, to, stride = address(top, at * top.shape[1]), address(logits, row * V), rows.shape[1]
    product(a, top.shape[1], address(w, 0), to, V, R, depth_of(H), V)
    for t in range(t0, t1):
        for b in range(b0, b1):
            ws.row_loss[t, b] = loss_of_row(ws.logits[t, b], targets, t, b, aim, ws.logits[t, b])
        pair, K = ((t - first) * even(B) + b0) // 2, depth_of((T - first) * even(B))
        at = t * B + b0
        keep_pairs(logits, at * V, V, rows, at * stride, stride, ws.pairs_of_logits, pair, 0, K, b1 - b0, V)
    dh = flat(ws.dh)
    clear_rows(dh, row * H, H, R, H)
    product(address(rows, row * stride), stride, address(back, 0), address(dh, row * H), H, R, depth_of(V), H)
