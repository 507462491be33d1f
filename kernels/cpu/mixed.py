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

import numpy as np

from kernels.cpu.compiler import inner, thin
from kernels.cpu.emit import amx
from kernels.cpu.emit.amx import IS_AMX, amx_block
from kernels.cpu.emit.pairs import pairs_tile
from kernels.cpu.emit.rounding import (
    LANES,
    PANEL,
    round_pair,
    round_row,
    round_transposed,
    transpose_rows,
)
from kernels.cpu.emit.vectors import stay_out_of_line
from kernels.cpu.loss import softmax_loss
from kernels.cpu.matmul import address, clear_rows, copy_to_rows
from kernels.cpu.threads import barrier, part_of
from kernels.cpu.values import flat
from kernels.spec import workspaces

depth_of = inner(workspaces.depth_of)
#: Longest piece of a contraction for which a block of sums stays in registers.
_DEPTH = 512
#: Rows of logits that one product computes: at least so many, and as many as have so many elements.
_ROWS, _LOGITS = 48, 2**17
#: Bytes of panels that all rows are multiplied by before the next ones.
_CACHED = 2**18
_block_22, _block_21, _block_12, _block_11 = (amx_block(r, c) for r in (2, 1) for c in (2, 1))
_pairs_8, _pairs_4, _pairs_2, _pairs_1 = (pairs_tile(R) for R in (8, 4, 2, 1))
_pair_kept, _row_kept, _pair_only, _row_only = (
    round_pair(second, keeps) for keeps in (True, False) for second in (True, False)
)


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


# ------------------------------------------------------------------------------------------------------- products
if IS_AMX:

    @inner
    def _blocks(a, a_row, w, panel, out, out_row, R, K, N):
        """Like :func:`_product`, for a K that fits; strides are in bytes."""
        tiles = (R + 15) // 16
        high = (R + tiles - 1) // tiles
        cached = max(1, _CACHED // (4 * PANEL * (K // 2))) * PANEL
        for n0 in range(0, N, cached):
            n1 = min(N, n0 + cached)
            whole = n0 + (n1 - n0) // PANEL * PANEL
            for r in range(0, R, 2 * high):
                rows0, rows1 = min(high, R - r), max(0, min(high, R - r - high))
                at_a, at_out = a + np.uintp(r * a_row), out + np.uintp(r * out_row)
                if whole > n0:
                    amx.configure(rows0, rows1, 16, 16)
                for n in range(n0, whole, PANEL):
                    at_w, to = w + np.uintp(n // PANEL * panel), at_out + np.uintp(4 * n)
                    if rows1 > 0:
                        _block_22(at_a, a_row, rows0, at_w, 4 * PANEL, to, out_row, K)
                    else:
                        _block_12(at_a, a_row, rows0, at_w, 4 * PANEL, to, out_row, K)
                rest = n1 - whole
                if rest > 0:
                    at_w, to = w + np.uintp(whole // PANEL * panel), at_out + np.uintp(4 * whole)
                    amx.configure(rows0, rows1, min(16, rest), max(0, rest - 16))
                    if rows1 > 0 and rest > 16:
                        _block_22(at_a, a_row, rows0, at_w, 4 * PANEL, to, out_row, K)
                    elif rows1 > 0:
                        _block_21(at_a, a_row, rows0, at_w, 4 * PANEL, to, out_row, K)
                    elif rest > 16:
                        _block_12(at_a, a_row, rows0, at_w, 4 * PANEL, to, out_row, K)
                    else:
                        _block_11(at_a, a_row, rows0, at_w, 4 * PANEL, to, out_row, K)
        amx.release()

else:

    @inner
    def _blocks(a, a_row, w, panel, out, out_row, R, K, N):
        """Like :func:`_product`, for a K that fits; strides are in bytes."""
        for n in range(0, N, PANEL):
            at_w, width, r = w + np.uintp(n // PANEL * panel), min(PANEL, N - n), 0
            while r < R:
                at_a, to = a + np.uintp(r * a_row), out + np.uintp(r * out_row + 4 * n)
                if r + 8 <= R:
                    _pairs_8(at_a, a_row // 2, at_w, to, out_row // 4, K, width)
                    r += 8
                elif r + 4 <= R:
                    _pairs_4(at_a, a_row // 2, at_w, to, out_row // 4, K, width)
                    r += 4
                elif r + 2 <= R:
                    _pairs_2(at_a, a_row // 2, at_w, to, out_row // 4, K, width)
                    r += 2
                else:
                    _pairs_1(at_a, a_row // 2, at_w, to, out_row // 4, K, width)
                    r += 1


@inner
def _product(a, a_row, w, out, out_row, R, K, N):
    """out (R, N) += a (R, K) @ w (K, N), given as addresses; a_row and out_row count elements, K is padded."""
    stay_out_of_line()
    panel = 2 * PANEL * K
    for k in range(0, K, _DEPTH):
        at_a, at_w = a + np.uintp(2 * k), w + np.uintp(2 * PANEL * k)
        _blocks(at_a, 2 * a_row, at_w, panel, out, 4 * out_row, R, min(_DEPTH, K - k), N)


@inner
def _place(weights, column, K):
    """Address of the panel that begins at a column of padded K."""
    return address(weights, column * K)


@inner
def _columns(n):
    """Number of columns of the panels that n columns take."""
    return (n + PANEL - 1) // PANEL * PANEL


@inner
def _even(n):
    """n, or one more if n is odd."""
    return (n + 1) // 2 * 2


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
        w, to = _place(rounded.weights, g * _columns(H) + piece[0], K), address(z, z_at + g * H + piece[0])
        _product(a, rounded.row, w, to, G * H, R, K, piece[1])
    return True


@thin
def has_flowed_back(rounded, G, row, out, out_at, R, H, piece):
    """Write a piece's units of R rows from out[out_at] on: rows of dz @ W'; do nothing and return False if None."""
    if rounded is None:
        return False
    clear_rows(out, out_at + piece[0], H, R, piece[1])
    K = depth_of(G * H)
    a, w = address(rounded.rows, _row(rounded, row) * rounded.row), _place(rounded.weights, piece[0], K)
    _product(a, rounded.row, w, address(out, out_at + piece[0]), H, R, K, piece[1])
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
    a, w = address(outer.rows, k0 * row + outer.begin), _place(outer.pairs, n0, outer.depth)
    _product(a, row, w, address(out, out_at), out_row, K, outer.depth, N)
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
    return Outer(ws.transposed[0, layer], 0, ws.pairs_of_dz[layer, -1], depth_of(T * _even(B)))


@thin
def outer_below(rounded_h, ws, layer):
    """The operands of the gradient of W_x, or None."""
    if rounded_h is None:
        return None
    T, B = ws.row_loss.shape
    rows, begin = _passed_up(ws, layer - 1)
    return Outer(rows, begin, ws.pairs_of_dz[layer, 0], depth_of(T * _even(B)))


@thin
def outer_readout(rounded_h, ws, first):
    """The operands of the gradient of W_y, or None."""
    if rounded_h is None:
        return None
    T, B = ws.row_loss.shape
    rows, begin = _passed_up(ws, ws.h.shape[0] - 1)
    return Outer(rows, begin + first * _even(B), ws.pairs_of_logits, depth_of((T - first) * _even(B)))


@inner
def _passed_up(ws, layer):
    """The transposed output of a layer, after dropout, and the number of the column of its first step."""
    begin = 0 if ws.transposed.shape[0] > 1 else _even(ws.row_loss.shape[1])
    return ws.transposed[ws.transposed.shape[0] - 1, layer], begin


# ------------------------------------------------------------------------------------------------------- rounding
@inner
def _round_rows(a, a_at, a_row, to, to_at, to_row, R, n):
    for r in range(R):
        round_row(address(a, a_at + r * a_row), address(to, to_at + r * to_row), n)


@thin
def round_state(rounded, h, t, share):
    """Round the part's h[t], unless rounded is None."""
    if rounded is None:
        return
    _, B, H = h.shape
    row, R = t * B + share.b0, share.b1 - share.b0
    for q in range(share.q0, share.q1):
        j0, n = share.pieces[q, 0], share.pieces[q, 1]
        _round_rows(h, row * H + j0, H, rounded.rows, row * rounded.row + j0, rounded.row, R, n)


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
            _round_rows(
                dropped[layer], row * H + j0, H, to, row * to.shape[1] + j0, to.shape[1], share.b1 - share.b0, n
            )


@thin
def round_gates(rounded, G, dz, t, T, share):
    """Round the part's dz of step t, in place, and copy it to rows and pairs, unless rounded is None."""
    if rounded is None:
        return
    planes, turn, row = rounded.planes.shape
    B = turn // 2
    first = _row(rounded, t * B + share.b0)
    H = share.pieces[-1, 0] + share.pieces[-1, 1]
    N, K = G * H, depth_of(T * _even(B))
    for plane in range(planes):
        rows, pairs = rounded.planes[plane], rounded.pairs[plane]
        for q in range(share.q0, share.q1):
            j0, n = share.pieces[q, 0], share.pieces[q, 1]
            count, length = (1, N) if n == H else (G, n)
            for g in range(count):
                begin = g * H + j0
                at = ((plane * T + t) * B + share.b0) * N + begin
                _keep_pairs(
                    dz, at, N, rows, first * row + begin, row, pairs, (t * _even(B) + share.b0) // 2, begin, K,
                    share.b1 - share.b0, length,
                )  # fmt: skip


@inner
def _keep_pairs(a, a_at, a_row, rows, rows_at, row, pairs, pair, begin, K, R, n):
    """Round R rows (n,) of a in place; copy them to rows, and to pairs from number `pair`, column `begin` on."""
    panel = PANEL * (K // 2)
    for r in range(0, R, 2):
        one, to = address(a, a_at + r * a_row), address(rows, rows_at + r * row)
        at = address(pairs, 2 * PANEL * (pair + r // 2))
        if r + 1 < R:
            _pair_kept(one, one + np.uintp(4 * a_row), to, to + np.uintp(2 * row), at, panel, begin, n)
        else:
            _row_kept(one, one, to, to, at, panel, begin, n)


@inner
def _pack(theta, w_at, K, N, G, weights, thread, threads):
    """Round the thread's share of a matrix (K, G N) of theta to pairs; each gate begins a panel of its own."""
    depth = depth_of(K)
    panel = PANEL * (depth // 2)
    first, last = part_of((K + 1) // 2, 1, thread, threads)
    for pair in range(first, last):
        for g in range(G):
            one = address(theta, w_at + 2 * pair * G * N + g * N)
            to = address(weights, g * _columns(N) * depth + 2 * PANEL * pair)
            if 2 * pair + 1 < K:
                _pair_only(one, one + np.uintp(4 * G * N), to, to, to, panel, 0, N)
            else:
                _row_only(one, one, to, to, to, panel, 0, N)


@inner
def _pack_transposed(theta, w_at, K, N, weights, thread, threads):
    """Round the thread's share of the transpose of a matrix (N, K) of theta to pairs."""
    depth = depth_of(K)
    first, last = part_of(N, LANES, thread, threads)
    for n in range(first, last, LANES):
        panel = address(weights, n // PANEL * PANEL * depth + n % PANEL * 2)
        for k in range(0, K, 2 * LANES):
            round_transposed(
                address(theta, w_at + n * K + k), K, min(LANES, N - n), min(2 * LANES, K - k),
                panel + np.uintp(2 * PANEL * k), PANEL,
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
            _pack(theta, at, H, H, G, to[kind], thread, threads)
            _pack_transposed(theta, at, G * H, H, to[kind + 1], thread, threads)
    _pack(theta, net.offsets[last - 1], H, V, 1, ws.rounded_readout[0], thread, threads)
    _pack_transposed(theta, net.offsets[last - 1], V, H, ws.rounded_readout[1], thread, threads)


@thin
def transpose(rounded_h, ws, thread, threads):
    """Transpose the thread's share of units of h of all layers and steps, unless the call is not mixed."""
    if rounded_h is None:
        return
    L, H = ws.h.shape[0], ws.h.shape[3]
    T, B = ws.row_loss.shape
    u0, u1 = part_of(H, LANES, thread, threads)
    for layer in range(L):
        _transpose_steps(ws.rounded_h[layer], ws.transposed[0, layer], T + 1, B, u0, u1)
        if ws.rounded_dropped.shape[0] > 0:
            _transpose_steps(ws.rounded_dropped[layer], ws.transposed[1, layer], T, B, u0, u1)


@inner
def _transpose_steps(rows, out, steps, B, u0, u1):
    """Write columns u0:u1 of rows (steps B, n) as rows of out, each step padded to an even number of columns."""
    runs, R = (1, steps * B) if B % 2 == 0 else (steps, B)
    for u in range(u0, u1, LANES):
        for run in range(runs):
            for r in range(0, R, 2 * LANES):
                a, to = (
                    address(rows, (run * R + r) * rows.shape[1] + u),
                    address(out, u * out.shape[1] + run * _even(R) + r),
                )
                transpose_rows(a, rows.shape[1], min(2 * LANES, R - r), to, out.shape[1])


# -------------------------------------------------------------------------------------------------------- readout
@thin
def readout(rounded_h, net, targets, ws, first, share):
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
        _readout_steps(b_y, targets, ws, first, t, min(t + max(1, steps), t1), b0, b1)
    if share.thread == 0:
        _clear_rest(ws.pairs_of_logits, V, (T - first) * _even(B))
    return True


@inner
def _clear_rest(pairs, N, rows):
    """Set the pairs beyond `rows` to zero: calls of another length may have left some there."""
    depth = depth_of(rows)
    for n in range(0, N, PANEL):
        pairs[n * depth + PANEL * rows : (n + PANEL) * depth] = 0


@thin
def _readout_steps(b_y, targets, ws, first, t0, t1, b0, b1):
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
    _product(a, top.shape[1], address(w, 0), to, V, R, depth_of(H), V)
    for t in range(t0, t1):
        for b in range(b0, b1):
            ws.row_loss[t, b] = softmax_loss(ws.logits[t, b], targets[t, b], ws.logits[t, b])
        pair, K = ((t - first) * _even(B) + b0) // 2, depth_of((T - first) * _even(B))
        at = t * B + b0
        _keep_pairs(logits, at * V, V, rows, at * stride, stride, ws.pairs_of_logits, pair, 0, K, b1 - b0, V)
    dh = flat(ws.dh)
    clear_rows(dh, row * H, H, R, H)
    _product(address(rows, row * stride), stride, address(back, 0), address(dh, row * H), H, R, depth_of(V), H)
