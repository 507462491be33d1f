"""A whole model, forward and backward, for a member of a team (threads.py).

Layers find their parameters in the flat vectors by `offsets` (spec.offsets). An embedding lies before them. Its product
with W_x is a table of which ids are rows: all of a text's V rows cost less than those of T B steps, as long as V is the
smaller number. Backward, the table's gradient gives those of both. Buffers are those of spec.Workspace. Members meet
within a layer, at every step, where they share its streams, and between the phases of an iteration (steps.py). Nothing
is allocated.

What depends on the cell is made for each kind of it, from its file, when it is first asked for: nobody waits for the
code of a cell that is not used.
"""

from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from kernels.cpu.compiler import inner, thin
from kernels.cpu.layers import add_gradient_ids, drop
from kernels.cpu.loss import softmax_loss
from kernels.cpu.matmul import add_product, clear_rows, copy_to_rows, product_transposed
from kernels.cpu.threads import barrier, column_ranges, part_of, shares_units
from kernels.cpu.values import Matrix, block, flat


class Passes(NamedTuple):
    """The compiled passes of one kind of cell."""

    prepare: Any
    forward: Any
    backward: Any


@cache
def passes(cell: str) -> Passes:
    """Those of a name of spec.CELLS: its layers, one after the other."""
    module = import_module(f"kernels.cpu.{cell}")
    layer_forward, layer_backward = module.layer_forward, module.layer_backward

    @thin
    def forward(net, x, ws, extra, n, share):
        """Run all layers over inputs x (T, B) from ws.h[:, 0], ws.c[:, 0], iteration n of the masks."""
        for layer in range(ws.h.shape[0]):
            layer_forward(net, x, ws, extra, layer, share)
            if extra is not None and extra.dropped.size > 0:
                drop(ws.h[layer, 1:], extra.masks[n, layer], extra.scale, extra.dropped[layer], share)
                if shares_units(share):
                    barrier(share.counter, share.threads)

    @thin
    def backward(net, ws, extra, n, share):
        """From ws.dh of what the last layer passed up to ws.dz of all layers."""
        carry, pieces = ws.carry, share.pieces
        for layer in range(ws.h.shape[0] - 1, -1, -1):
            if extra is not None and extra.dropped.size > 0:
                drop(ws.dh, extra.masks[n, layer], extra.scale, ws.dh, share)
            for q in range(share.q0, share.q1):
                for r in range(share.b0, share.b1):
                    carry[0, r, pieces[q, 0] : pieces[q, 0] + pieces[q, 1]] = 0
                    carry[1, r, pieces[q, 0] : pieces[q, 0] + pieces[q, 1]] = 0
            layer_backward(net, ws, layer, share)

    return Passes(module.prepare, forward, backward)


# -------------------------------------------------------------------------------------------------------- embedding
@inner
def rows_of(R, thread, threads):
    """The member's range of R rows of a product, never one row of several (matmul.py)."""
    r0, r1 = part_of(R // 8 * 8, 8, thread, threads)
    return r0, R if thread == threads - 1 else r1


@thin
def look_up(net, table, share):
    """table (V, N) = embedding @ W_x: the member's columns, or its share of the rows that all members read."""
    V, N = table.shape
    theta, first, out = net.theta, net.offsets[0], flat(table)
    E, H = first // V, share.pieces[-1, 0] + share.pieces[-1, 1]
    r0, r1 = (0, V) if shares_units(share) else rows_of(V, share.thread, share.threads)
    for q in range(share.q0, share.q1):
        count, length, step = column_ranges(N // H, share.pieces[q])
        for s in range(count):
            begin = share.pieces[q, 2] + s * step
            clear_rows(out, r0 * N + begin, N, r1 - r0, length)
            add_product(theta, r0 * E, E, theta, first + begin, N, out, r0 * N + begin, N, r1 - r0, E, length)


@inner
def look_up_gradient(x, dz, table, thread, threads):
    """The member's columns of the table's gradient, in the table's place, for ids x (T, B)."""
    V, N = table.shape
    out = flat(table)
    n0, n1 = part_of(N, 48, thread, threads)
    clear_rows(out, n0, N, V, n1 - n0)
    add_gradient_ids(x, Matrix(flat(dz), 0, N), out, 0, n0, n1)


# ---------------------------------------------------------------------------------------------------------- readout
@inner
def passed_up(h, extra, layer):
    """What a layer passes up, (T, B, H) as a Matrix."""
    _, steps, B, H = h.shape
    if extra is not None and extra.dropped.size > 0:
        return Matrix(flat(extra.dropped), layer * (steps - 1) * B * H, H)
    return Matrix(flat(h), (layer * steps + 1) * B * H, H)


@thin
def readout(net, targets, ws, extra, first, share):
    """Logits, their loss by row (T, B), their gradient in their place, and ws.dh, that of what is passed up last.

    Steps before `first` are not read: their loss and dh are zero. A member with some of the streams takes the rows of
    those, which it alone has made; else it takes some of all rows.
    """
    T, B, _ = ws.logits.shape
    b0, b1 = share.b0, share.b1
    for t in range(first):
        for r in range(b0, b1):
            ws.row_loss[t, r] = 0
            ws.dh[t, r] = 0
    if b1 - b0 == B:
        r0, r1 = rows_of((T - first) * B, share.thread, share.threads)
        _readout_rows(net, targets, ws, extra, first * B + r0, r1 - r0)
    else:
        for t in range(first, T):
            _readout_rows(net, targets, ws, extra, t * B + b0, b1 - b0)


@thin
def _readout_rows(net, targets, ws, extra, row, R):
    """The same for R rows from `row` on, of T B rows."""
    L, _, B, H = ws.h.shape
    logits = ws.logits
    V, last = logits.shape[2], net.offsets.shape[0] - 1
    W_y, b_y = block(net, last - 1), net.theta[net.offsets[last] : net.offsets[last] + V]
    copy_to_rows(b_y, flat(logits), row * V, V, R)
    top = passed_up(ws.h, extra, L - 1)
    add_product(top.flat, top.at + row * H, H, W_y, 0, V, logits, row * V, V, R, H, V)
    for r in range(row, row + R):
        t, stream = r // B, r % B
        ws.row_loss[t, stream] = softmax_loss(logits[t, stream], targets[t, stream], logits[t, stream])
    product_transposed(logits, row * V, V, W_y, 0, V, ws.dh, row * H, H, R, H, V)


@inner
def total(row_loss):
    """The loss of all rows, added in order."""
    loss = 0.0
    for t in range(row_loss.shape[0]):
        for r in range(row_loss.shape[1]):
            loss += row_loss[t, r]
    return loss
