"""A whole LSTM, forward and backward, and any cell's readout and update, for a member of a team: streams b0:b1 and
pieces q0:q1 (team.py). What passes through the layers of other cells is in rnn_gru.py.

Layers find their parameters in the flat vectors by `offsets` (spec.offsets): W_x, W_h, b of each layer, then W_y, b_y.
An embedding lies before them. Its product with W_x is a table of which ids are rows: all of a text's V rows cost less
than those of T B steps, as long as V is the smaller number. Backward, the table's gradient gives those of both.
Buffers are those of spec.Workspace. Members meet (team.py) within a layer, at every step, where they share its streams,
and between the phases of an iteration (loops.py). Nothing is allocated.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from kernels.cpu.compiler import inner, thin
from kernels.cpu.emit.tiles import TILE_ROWS
from kernels.cpu.emit.vectors import stay_out_of_line
from kernels.cpu.layers import (
    add_gradient_ids,
    drop,
    flow_back,
    project_floats,
    project_ids,
    run_backward,
    run_backward_panels,
    run_forward,
    softmax_loss,
)
from kernels.cpu.matmul import (
    add_outer,
    add_product,
    add_rows,
    address,
    apply_outer,
    clear_rows,
    copy_to_rows,
    pack,
    pack_transposed,
    product_transposed,
)
from kernels.cpu.optimizers import apply_tile, square_sum
from kernels.cpu.threads import is_apart, meet, share, spans
from kernels.spec import NORM_PANEL

#: What a pass over the parameters does: write their gradient, apply one that was written, or both, block by block.
GRADIENT, APPLY, BOTH = range(3)


class Extra(NamedTuple):
    """What dropout and an embedding need. Who has neither passes None, and is compiled without any of it."""

    table: Any  # as in spec.Workspace
    dropped: Any  # likewise
    masks: Any  # (n, L, T, B, H) uint8, read; of no size without dropout
    scale: float  # by which kept values are multiplied


class _Alias:
    """An array's memory, described as writeable; keeps the array alive."""

    def __init__(self, array: np.ndarray) -> None:
        interface = array.__array_interface__
        self.__array_interface__ = {**interface, "data": (interface["data"][0], False)}
        self._array = array


def readable(array: np.ndarray) -> np.ndarray:
    """An array that is only read, as the one kind of array that entries are compiled for.

    Numba compiles anew for a read-only array. Where one is given, its memory goes to the kernel as an array that says
    it can be written: which of its arguments a kernel writes, checks.ARRAYS says, and those were checked.
    """
    return array if array.flags.writeable else np.asarray(_Alias(array))


def extra_of(table: Any, dropped: Any, masks: Any = None, dropout: float = 0.0) -> Extra | None:
    """What a pass with dropout, masks (n, L, T, B, H), or with an embedding needs; None where there is neither.

    table and dropped are as in Workspace.
    """
    if masks is None and table.size == 0:
        return None
    masks = np.empty((0,) * 5, np.uint8) if masks is None else masks
    return Extra(table, dropped, readable(masks), 1 / (1 - dropout))


@inner
def has_embedding(extra):
    """Whether ids are rows of an embedding."""
    return extra is not None and extra.table.size > 0


@inner
def block(flat, offsets, k):
    """Block k of a flat vector, but for the last: of layers W_x, W_h, b, then W_y."""
    return flat[offsets[k] : offsets[k + 1]]


@thin
def pack_layers(theta, offsets, packed, H, pieces, q0, q1, thread, threads):
    """Pack the recurrent matrices: the member's pieces for itself, or its share of what all members read."""
    N, region = 4 * H, packed.shape[2] // 4
    if q1 - q0 < pieces.shape[0]:
        thread, threads = 0, 1
    for layer in range(packed.shape[0]):
        for kind in range(0, 4 if layer > 0 else 2, 2):
            W = block(theta, offsets, 3 * layer + (1 if kind == 0 else 0))
            for q in range(q0, q1):
                j0, n = pieces[q, 0], pieces[q, 1]
                count, length, step = spans(pieces[q])
                for s in range(count):
                    to = packed[layer, kind, s * region + H * j0 :]
                    pack(W, pieces[q, 2] + s * step, N, to, H, length, thread, threads)
                pack_transposed(W, j0 * N, N, packed[layer, kind + 1, N * j0 :], n, N, thread, threads)


@thin
def _layer(pairs, layer):
    """A layer's pairs (pairs.py), or None where there are none."""
    if pairs is None:
        return None
    return pairs[layer]


@inner
def _rows(R, thread, threads):
    """The member's range of R rows of a product, never one row of several (products.py)."""
    r0, r1 = share(R // 8 * 8, 8, thread, threads)
    return r0, R if thread == threads - 1 else r1


@thin
def look_up(theta, offsets, table, pieces, q0, q1, thread, threads):
    """table (V, N) = embedding @ W_x: the member's columns, or its share of the rows that all members read."""
    V, N = table.shape
    E, flat = offsets[0] // V, table.reshape(table.size)
    r0, r1 = (0, V) if q1 - q0 < pieces.shape[0] else _rows(V, thread, threads)
    for q in range(q0, q1):
        count, length, step = spans(pieces[q])
        for s in range(count):
            begin = pieces[q, 2] + s * step
            length = N if pieces.shape[0] == 1 else length  # other cells have no pieces
            clear_rows(flat, r0 * N + begin, N, r1 - r0, length)
            add_product(
                theta, r0 * E, E, theta, offsets[0] + begin, N, flat, r0 * N + begin, N, r1 - r0, E, length
            )  # fmt: skip


@inner
def look_up_gradient(x, dz, table, thread, threads):
    """The member's columns of the table's gradient, in the table's place, for ids x (T, B)."""
    V, N = table.shape
    flat = table.reshape(table.size)
    n0, n1 = share(N, 48, thread, threads)
    clear_rows(flat, n0, N, V, n1 - n0)
    add_gradient_ids(x, dz.reshape(dz.size), 0, flat, 0, N, n0, n1)


@inner
def passed_up(h, extra, layer):
    """What a layer passes up, (T, B, H) as an array of one dimension and where it begins in it."""
    _, steps, B, H = h.shape
    if extra is not None and extra.dropped.size > 0:
        return extra.dropped.reshape(extra.dropped.size), layer * (steps - 1) * B * H
    return h.reshape(h.size), (layer * steps + 1) * B * H


@inner
def stretch_of(T, B):
    """Steps whose input's part is computed at once: one of a batch, as it fills the tiles and stays in the cache."""
    return 1 if B >= TILE_ROWS else T


@thin
def forward(theta, offsets, x, h, c, gates, packed, pairs, extra, n, b0, b1, pieces, q0, q1, counter, threads):
    """Run all layers over inputs x (T, B) from h[:, 0], c[:, 0]: the member's part."""
    L, T, B, N = gates.shape
    stretch = stretch_of(T, B)
    for layer in range(L):
        at = 3 * layer
        W_x, W_h, b = block(theta, offsets, at), block(theta, offsets, at + 1), block(theta, offsets, at + 2)
        if extra is not None and extra.table.size > 0 and layer == 0:
            W_x = extra.table.reshape(extra.table.size)
        z, cells = gates[layer].reshape(T * B * N), c[layer].reshape((T + 1) * B * (N // 4))
        for t0 in range(0, T, stretch):
            t1 = t0 + stretch
            if layer == 0:
                project_ids(x, W_x, b, z, t0, t1, b0, b1, pieces, q0, q1)
            else:
                below = h[layer - 1, 1:]
                if extra is not None and extra.dropped.size > 0:
                    below = extra.dropped[layer - 1]
                project_floats(below, W_x, packed[layer, 2], b, z, t0, t1, b0, b1, pieces, q0, q1)
            run_forward(
                W_h, packed[layer, 0], _layer(pairs, layer), h[layer], cells, z, t0, t1, b0, b1, pieces, q0, q1,
                counter, threads,
            )  # fmt: skip
        if extra is not None and extra.dropped.size > 0:
            drop(h[layer, 1:], extra.masks[n, layer], extra.scale, extra.dropped[layer], b0, b1, pieces, q0, q1)
            if q1 - q0 < pieces.shape[0]:
                meet(counter, threads)


@thin
def readout(theta, offsets, targets, h, extra, logits, row_loss, dh, first, b0, b1, thread, threads):
    """Logits, their loss by row (T, B), their gradient in their place, and dh, that of the last layer's h.

    Steps before `first` are not read: their loss and dh are zero. A member with some of the streams takes the rows of
    those, which it alone has made; else it takes some of all rows.
    """
    T, B, _ = logits.shape
    for t in range(first):
        for r in range(b0, b1):
            row_loss[t, r] = 0
            dh[t, r] = 0
    if b1 - b0 == B:
        r0, r1 = _rows((T - first) * B, thread, threads)
        _readout_rows(theta, offsets, targets, h, extra, logits, row_loss, dh, first * B + r0, r1 - r0)
    else:
        for t in range(first, T):
            _readout_rows(theta, offsets, targets, h, extra, logits, row_loss, dh, t * B + b0, b1 - b0)


@thin
def _readout_rows(theta, offsets, targets, h, extra, logits, row_loss, dh, row, R):
    """The same for R rows from `row` on, of T B rows."""
    L, _, B, H = h.shape
    V, last = logits.shape[2], offsets.shape[0] - 1
    W_y, b_y = block(theta, offsets, last - 1), theta[offsets[last] : offsets[last] + V]
    copy_to_rows(b_y, logits.reshape(logits.size), row * V, V, R)
    top, at = passed_up(h, extra, L - 1)
    add_product(top, at + row * H, H, W_y, 0, V, logits, row * V, V, R, H, V)
    for r in range(row, row + R):
        t, stream = r // B, r % B
        row_loss[t, stream] = softmax_loss(logits[t, stream], targets[t, stream], logits[t, stream])
    product_transposed(logits, row * V, V, W_y, 0, V, dh, row * H, H, R, H, V)


@inner
def total(row_loss):
    """The loss of all rows, added in order."""
    loss = 0.0
    for t in range(row_loss.shape[0]):
        for r in range(row_loss.shape[1]):
            loss += row_loss[t, r]
    return loss


@thin
def backward(
    theta, offsets, h, c, gates, dz, dh, carry, partial, packed, pairs, extra, n, b0, b1, pieces, q0, q1, counter,
    threads,
):  # fmt: skip
    """From dh of what the last layer passed up to dz (L, T, B, 4H) of all layers: the member's part."""
    L, T, B, N = gates.shape
    H, stretch = N // 4, stretch_of(T, B)
    for layer in range(L - 1, -1, -1):
        if extra is not None and extra.dropped.size > 0:
            drop(dh, extra.masks[n, layer], extra.scale, dh, b0, b1, pieces, q0, q1)
        for q in range(q0, q1):
            for r in range(b0, b1):
                carry[0, r, pieces[q, 0] : pieces[q, 0] + pieces[q, 1]] = 0
                carry[1, r, pieces[q, 0] : pieces[q, 0] + pieces[q, 1]] = 0
        W_x, W_h = block(theta, offsets, 3 * layer), block(theta, offsets, 3 * layer + 1)
        z, d, cells = gates[layer].reshape(T * B * N), dz[layer].reshape(T * B * N), c[layer].reshape((T + 1) * B * H)
        if partial.shape[2] > 0:
            run_backward_panels(
                dh, W_h, W_x, _layer(pairs, layer), layer, cells, z, d, carry[0], carry[1], partial, pieces, q0, q1,
                counter, threads,
            )  # fmt: skip
            continue
        for t1 in range(T, 0, -stretch):
            t0 = t1 - stretch
            run_backward(
                dh, W_h, packed[layer, 1], _layer(pairs, layer), cells, z, d, carry[0], carry[1], t0, t1, b0, b1,
                pieces, q0, q1, counter, threads,
            )  # fmt: skip
            turns, rows = (1, stretch * B) if b1 - b0 == B else (stretch, b1 - b0)
            for q in range(q0, q1 if layer > 0 else q0):
                for t in range(t0, t0 + turns):
                    flow_back(d, t * B + b0, W_x, packed[layer, 3], dh, t * B + b0, rows, pieces[q], H)


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
def apply(theta, grad, s0, s1, optimizer, k):
    """Apply a gradient to a range of the parameters and of the optimizer's memory, which has up to two arrays."""
    stay_out_of_line()
    n = theta.shape[0]
    apply_tile(
        theta.dtype.type(0), optimizer, address(k, 0), address(grad, 0), address(theta, 0), address(s0, 0),
        address(s1, 0), n,
    )  # fmt: skip


@inner
def _apply_rows(theta, grad, s0, s1, to, at, rows, N, n0, n1, optimizer, k):
    """Apply columns n0:n1 of `rows` rows of length N, which begin at grad[at] and at theta[to]."""
    turns, length = (1, rows * N) if n1 - n0 == N else (rows, n1 - n0)
    for n in range(turns):
        i, j = to + n * N + n0, at + n * N + n0
        apply(theta[i : i + length], grad[j : j + length], s0[i : i + length], s1[i : i + length], optimizer, k)


@thin
def _weight(what, a, a_at, a_row, d, d_at, R, N, theta, grad, s0, s1, offset, k0, k1, n0, n1, optimizer, k):
    """Rows k0:k1 and columns n0:n1 of a weight matrix at `offset`, whose gradient is a' @ d, of R rows each.

    With BOTH the gradient is applied from registers.
    """
    if what == APPLY:
        _apply_rows(theta, grad, s0, s1, offset + k0 * N, offset + k0 * N, k1 - k0, N, n0, n1, optimizer, k)
        return
    if what == BOTH:
        at, row = offset + k0 * N + n0, a_at + k0
        apply_outer(a, row, a_row, d, d_at + n0, N, theta, s0, s1, at, N, R, k1 - k0, n1 - n0, optimizer, k)
        return
    clear_rows(grad, offset + k0 * N + n0, N, k1 - k0, n1 - n0)
    add_outer(a, a_at + k0, a_row, d, d_at + n0, N, grad, offset + k0 * N + n0, N, R, k1 - k0, n1 - n0)


@thin
def _bias(what, d, d_at, R, N, theta, grad, s0, s1, offset, n0, n1, optimizer, k):
    """Columns n0:n1 of a bias at `offset`, whose gradient is the sum of R rows of d (R, N)."""
    if what != APPLY:
        clear_rows(grad, offset + n0, N, 1, n1 - n0)
        add_rows(d, d_at + n0, N, grad[offset + n0 : offset + n1], R)
    if what != GRADIENT:
        _apply_rows(theta, grad, s0, s1, offset, offset, 1, N, n0, n1, optimizer, k)


@thin
def _input_rows(what, x, d, d_at, N, theta, grad, s0, s1, offset, rows, count, n0, n1, optimizer, k):
    """Columns n0:n1 of the input matrix of ids x (T, B). Of its rows only the `count` named, unless count is negative.

    The others' gradient is zero, and the optimizer would leave them alone.
    """
    V = rows.shape[0] // 2
    if what != APPLY:
        for n in range(V if count < 0 else count):
            clear_rows(grad, offset + (n if count < 0 else rows[n]) * N + n0, N, 1, n1 - n0)
        add_gradient_ids(x, d, d_at, grad, offset, N, n0, n1)
    if what != GRADIENT:
        if count < 0:
            _apply_rows(theta, grad, s0, s1, offset, offset, V, N, n0, n1, optimizer, k)
        for n in range(count):
            at = offset + rows[n] * N
            _apply_rows(theta, grad, s0, s1, at, at, 1, N, n0, n1, optimizer, k)


@thin
def _embedding(what, table, theta, grad, s0, s1, at, optimizer, k, thread, threads):
    """The member's share of the embedding and of W_x, at theta[at]: gradients table @ W_x' and embedding' @ table.

    The embedding is shared out by rows, W_x by columns; table holds the gradient of their product.
    """
    V, N = table.shape
    E, flat = at // V, table.reshape(table.size)
    n0, n1 = share(N, 48, thread, threads)
    _weight(what, theta, 0, E, flat, 0, V, N, theta, grad, s0, s1, at, 0, E, n0, n1, optimizer, k)
    r0, r1 = _rows(V, thread, threads)
    if what == APPLY:
        _apply_rows(theta, grad, s0, s1, r0 * E, r0 * E, r1 - r0, E, 0, E, optimizer, k)
    else:
        product_transposed(flat, r0 * N, N, theta, at, N, grad, r0 * E, E, r1 - r0, E, N)


@thin
def update(
    what, theta, grad, s0, s1, offsets, x, h, extra, dz, dlogits, first, rows, count, optimizer, k, pieces, q0, q1,
    thread, threads,
):  # fmt: skip
    """Write the member's share of grad (N,), apply it, or both: see GRADIENT, APPLY, BOTH.

    Of the layers' matrices a member takes the columns of its pieces, or some; of the readout's some rows. With an
    embedding members must meet between GRADIENT and APPLY, and BOTH is not for it: W_x and it need each other.
    """
    (L, steps, B, H), V, N, last = h.shape, dlogits.shape[2], dz.shape[-1], offsets.shape[0] - 1
    T, R, blocks = steps - 1, (steps - 1) * B, (last - 1) // L
    states, d, sides = h.reshape(h.size), dz.reshape(dz.size), dz.size // (L * R * N)
    panelled = pieces.shape[0] > 1 and is_apart(pieces[0])
    for q in range(q0 if panelled else 0, q1 if panelled else 1):
        before, width = (4 * pieces[q, 0], 4 * pieces[q, 1]) if panelled else (0, N)  # columns in the pieces before it
        n0, n1 = (0, width) if panelled else share(N, 48, thread, threads)
        for layer in range(L):
            at, h_at = blocks * layer, layer * (R + B) * H
            d_at = R * (sides * layer * N + before)
            s_at = d_at + (sides - 1) * R * N  # a GRU's ds; else there is one dz for both sides
            to = offsets[at + 1] + H * before
            _weight(what, states, h_at, H, d, s_at, R, width, theta, grad, s0, s1, to, 0, H, n0, n1, optimizer, k)
            if layer == 0 and not has_embedding(extra):
                to = offsets[at] + V * before
                _input_rows(what, x, d, d_at, width, theta, grad, s0, s1, to, rows, count, n0, n1, optimizer, k)
            elif layer > 0:
                to = offsets[at] + H * before
                below, b_at = passed_up(h, extra, layer - 1)
                _weight(what, below, b_at, H, d, d_at, R, width, theta, grad, s0, s1, to, 0, H, n0, n1, optimizer, k)
            for side in range(sides):
                to = offsets[at + 2 + side] + before
                _bias(what, d, d_at + side * R * N, R, width, theta, grad, s0, s1, to, n0, n1, optimizer, k)
    if extra is not None and extra.table.size > 0:
        _embedding(what, extra.table, theta, grad, s0, s1, offsets[0], optimizer, k, thread, threads)
    k0, k1 = share(H, TILE_ROWS, thread, threads)
    flat, row, read = dlogits.reshape(dlogits.size), first * B, (T - first) * B
    top, t_at = passed_up(h, extra, L - 1)
    to = offsets[last - 1]
    _weight(what, top, t_at + row * H, H, flat, row * V, read, V, theta, grad, s0, s1, to, k0, k1, 0, V, optimizer, k)
    if thread == threads - 1:
        _bias(what, flat, row * V, read, V, theta, grad, s0, s1, offsets[last], 0, V, optimizer, k)


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
