"""The gradient of all parameters and their update, block by block, as run by each thread of a team (threads.py)."""

import math
from functools import cache
from typing import Any

from kernels.cpu import mixed
from kernels.cpu.compiler import inner, thin
from kernels.cpu.emit.tiles import TILE_ROWS
from kernels.cpu.emit.vectors import stay_out_of_line
from kernels.cpu.layers import add_gradient_ids
from kernels.cpu.matmul import add_outer, add_rows, address, apply_outer, clear_rows, product_transposed
from kernels.cpu.model import passed_up
from kernels.cpu.optimizers import apply_tile, square_sum
from kernels.cpu.threads import is_apart, part_of, rows_of
from kernels.cpu.values import Block, Matrix, flat, has_embedding
from kernels.spec import CELLS, NORM_PANEL

#: Phases of an update: write the gradient of a block, apply one that was written, or both at once.
GRADIENT, APPLY, BOTH = range(3)


@inner
def touched_rows(x, rows, count):
    """Write the distinct ids of x (T, B), the rows of W_x that it touches, to rows (2V,); return their number.

    On entry rows[:count] holds the previous list; rows[V:] is 1 for the ids of the list, else 0.
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
def apply(slots, at, n, rule):
    """Update n parameters from index `at` on, and their optimizer state, with the gradient."""
    stay_out_of_line()
    theta = slots.theta
    apply_tile(
        theta.dtype.type(0), rule.optimizer, address(rule.k, 0), address(slots.grad, at), address(theta, at),
        address(slots.s0, at), address(slots.s1, at), n,
    )  # fmt: skip


@inner
def _apply_block(slots, block, rule):
    rows, columns = block.k1 - block.k0, block.n1 - block.n0
    turns, length = (1, rows * block.row) if columns == block.row else (rows, columns)
    for k in range(turns):
        apply(slots, block.at + (block.k0 + k) * block.row + block.n0, length, rule)


@thin
def _weight(phase, a, d, R, block, slots, rule, outer):
    """Gradient a' @ d and update of a block of a weight matrix, for the Matrices a and d with R rows each.

    With BOTH, the gradient stays in registers and is never stored. `outer` has both operands rounded, or is None.
    """
    if phase == APPLY:
        _apply_block(slots, block, rule)
        return
    at, K, N = block.at + block.k0 * block.row + block.n0, block.k1 - block.k0, block.n1 - block.n0
    from_a, from_d = a.at + block.k0, d.at + block.n0
    if phase == BOTH:
        apply_outer(Matrix(a.flat, from_a, a.row), Matrix(d.flat, from_d, d.row), slots, at, R, K, N, rule)
        return
    if mixed.has_outer(outer, block.k0, block.n0, K, N, slots.grad, at, block.row):
        return
    clear_rows(slots.grad, at, block.row, K, N)
    add_outer(a.flat, from_a, a.row, d.flat, from_d, d.row, slots.grad, at, block.row, R, K, N)


@thin
def _vector(phase, d, R, block, slots, rule):
    """Gradient and update of columns of a vector (a block of one row); the gradient is the sum of R rows of d."""
    if phase != APPLY:
        begin, end = block.at + block.n0, block.at + block.n1
        clear_rows(slots.grad, begin, block.row, 1, block.n1 - block.n0)
        add_rows(d.flat, d.at + block.n0, d.row, slots.grad[begin:end], R)
    if phase != GRADIENT:
        _apply_block(slots, block, rule)


@thin
def _input(phase, x, d, R, block, rows, count, slots, rule):
    """Gradient and update of columns of W_x, for floats x (T, B, D), or for ids x (T, B).

    For ids: of rows[:count] only, or of all rows if count < 0. The other rows have a zero gradient, which does not
    change them.
    """
    if x.ndim == 3:
        _weight(phase, Matrix(flat(x), 0, x.shape[2]), d, R, block, slots, rule, None)
        return
    V, N, n0, n1 = rows.shape[0] // 2, block.row, block.n0, block.n1
    if phase != APPLY:
        for n in range(V if count < 0 else count):
            clear_rows(slots.grad, block.at + (n if count < 0 else rows[n]) * N + n0, N, 1, n1 - n0)
        add_gradient_ids(x, d, slots.grad, block.at, n0, n1)
    if phase != GRADIENT:
        if count < 0:
            _apply_block(slots, block, rule)
        for n in range(count):
            _apply_block(slots, Block(block.at, N, rows[n], rows[n] + 1, n0, n1), rule)


@thin
def _embedding(phase, extra, ids, count, at, slots, rule, share):
    """The thread's share of the gradients and updates of the embedding and of W_x, which begins at theta[at].

    The gradients are table @ W_x' and embedding' @ table, where table holds the gradient of embedding @ W_x, for the
    sequence's `count` ids; that of the embedding's other rows is zero. Threads split the embedding by rows and W_x by
    columns.
    """
    (_, U, E), N = extra.embedded.shape, extra.table.shape[1]
    rows, table, V = flat(extra.embedded), flat(extra.table), at // E
    n0, n1 = part_of(N, 48, share.thread, share.threads)
    _weight(phase, Matrix(rows, 0, E), Matrix(table, 0, N), count, Block(at, N, 0, E, n0, n1), slots, rule, None)
    if phase == APPLY:
        v0, v1 = rows_of(V, share.thread, share.threads)
        _apply_block(slots, Block(0, E, v0, v1, 0, E), rule)
        return
    r0, r1 = rows_of(count, share.thread, share.threads)
    product_transposed(table, r0 * N, N, slots.theta, at, N, rows, (U + r0) * E, E, r1 - r0, E, N)
    v0 = 0 if r0 == 0 else (ids[r0] if r0 < count else V)
    slots.grad[v0 * E : (V if r1 == count else ids[r1]) * E] = 0
    for r in range(r0, r1):
        slots.grad[ids[r] * E : (ids[r] + 1) * E] = rows[(U + r) * E : (U + r + 1) * E]


@cache
def update_of(cell: str) -> Any:
    """The compiled update for one kind of cell."""
    row = CELLS[cell]
    state, blocks = row.state, 2 + len(row.vectors)
    vectors = tuple((vector.width, vector.plane, vector.begin) for vector in row.vectors.values())

    @thin
    def update(phase, net, slots, x, ws, extra, first, count, rule, share):
        """Write the thread's share of the gradient, apply it, or both, as `phase` says (GRADIENT, APPLY, BOTH).

        A thread's share of a layer's matrices is the columns of its panels, or a range of columns; of the readout, a
        range of rows. With an embedding, BOTH is not allowed and GRADIENT and APPLY need a barrier in between, because
        each of the two gradients depends on the other matrix.
        """
        (L, steps, B, H), V, N = ws.h.shape, ws.logits.shape[2], ws.dz.shape[4]
        R, planes, offsets, pieces = (steps - 1) * B, ws.dz.shape[1], net.offsets, share.pieces
        h, d, last = flat(ws.h), flat(ws.dz), offsets.shape[0] - 1
        panelled = pieces.shape[0] > 1 and is_apart(pieces[0])
        grain = 48 if ws.rounded_h is None else 96  # mixed.has_outer needs whole panels
        for q in range(share.q0 if panelled else 0, share.q1 if panelled else 1):
            # number of columns in earlier pieces, and in this one
            before, width = (N // H * pieces[q, 0], N // H * pieces[q, 1]) if panelled else (0, N)
            n0, n1 = (0, width) if panelled else part_of(N, grain, share.thread, share.threads)
            for layer in range(L):
                at, d_at = blocks * layer, R * (planes * layer * N + before)
                from_x, from_h = Matrix(d, d_at, width), Matrix(d, d_at + state * R * N, width)
                below = Matrix(h, layer * (R + B) * H, H)
                to = Block(offsets[at + 1] + H * before, width, 0, H, n0, n1)
                _weight(phase, below, from_h, R, to, slots, rule, mixed.outer_state(ws.rounded_h, ws, layer))
                if layer == 0 and not has_embedding(extra):
                    inputs = (offsets[at + 1] - offsets[at]) // N
                    to = Block(offsets[at] + inputs * before, width, 0, inputs, n0, n1)
                    _input(phase, x, from_x, R, to, ws.rows, count, slots, rule)
                elif layer > 0:
                    to = Block(offsets[at] + H * before, width, 0, H, n0, n1)
                    outer = mixed.outer_below(ws.rounded_h, ws, layer)
                    _weight(phase, passed_up(ws.h, extra, layer - 1), from_x, R, to, slots, rule, outer)
                for v in range(len(vectors)):
                    units, plane, begin = vectors[v]
                    length = width if panelled else units * H
                    v0, v1 = (0, length) if panelled else part_of(length, 48, share.thread, share.threads)
                    summed = Matrix(d, d_at + plane * R * N + begin * H, width)
                    to = Block(offsets[at + 2 + v] + before, length, 0, 1, v0, v1)
                    _vector(phase, summed, R, to, slots, rule)
        if extra is not None and extra.table.size > 0:
            _embedding(phase, extra, ws.rows, ws.status[2], offsets[0], slots, rule, share)
        k0, k1 = part_of(H, TILE_ROWS, share.thread, share.threads)
        read, skipped, top = (steps - 1 - first) * B, first * B, passed_up(ws.h, extra, L - 1)
        top, dlogits = Matrix(top.flat, top.at + skipped * H, H), Matrix(flat(ws.logits), skipped * V, V)
        to, outer = Block(offsets[last - 1], V, k0, k1, 0, V), mixed.outer_readout(ws.rounded_h, ws, first)
        _weight(phase, top, dlogits, read, to, slots, rule, outer)
        if share.thread == share.threads - 1:
            _vector(phase, dlogits, read, Block(offsets[last], V, 0, 1, 0, V), slots, rule)

    return update


@inner
def square_sums(grad, scale, limit, panels, thread, threads):
    """Write the thread's share of the panels' sums of squares of the scaled and clamped gradient."""
    real = grad.dtype.type
    begin, end = part_of(panels.shape[0], 1, thread, threads)
    for n in range(begin, end):
        panels[n] = square_sum(
            grad[n * NORM_PANEL : min((n + 1) * NORM_PANEL, grad.shape[0])], real(scale), real(limit)
        )


@inner
def norm_factor(panels, norm_limit):
    """The factor that reduces a gradient's norm to at most norm_limit, from the panels' sums of squares."""
    squares = 0.0
    for n in range(panels.shape[0]):
        squares += panels[n]
    norm = math.sqrt(squares)
    return norm_limit / norm if norm > norm_limit else 1.0
