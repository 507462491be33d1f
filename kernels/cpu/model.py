"""A whole model, forward and backward, as run by each thread of a team (threads.py).

Layers find their parameters in the flat vectors by `offsets` (spec.offsets); an embedding lies before them. The
product of the embedding and W_x is a table with a row for each id of the sequence, however many ids the vocabulary has.
In the backward pass, the gradients of both follow from the table's gradient. Buffers are those of spec.Workspace.
Barriers separate the phases of an iteration (steps.py); threads that split the hidden units also meet at every step of
a layer. Nothing is allocated.

The code for a cell is compiled on first use, so that nobody waits for cells that are not used.
"""

from functools import cache
from importlib import import_module
from typing import Any, NamedTuple

from kernels.cpu import mixed
from kernels.cpu.compiler import inner, thin
from kernels.cpu.layers import add_gradient_ids, drop
from kernels.cpu.loss import loss_of_row
from kernels.cpu.matmul import add_product, clear_rows, copy_to_rows, product_transposed
from kernels.cpu.threads import barrier, column_ranges, part_of, rows_of, shares_units
from kernels.cpu.values import Matrix, block, flat


class Passes(NamedTuple):
    """The compiled passes of one kind of cell."""

    prepare: Any
    forward: Any
    backward: Any


@cache
def passes(cell: str) -> Passes:
    """The passes over all layers, for a cell of spec.CELLS."""
    module = import_module(f"kernels.cpu.{cell}")
    layer_forward, layer_backward = module.layer_forward, module.layer_backward

    @thin
    def forward(net, x, ws, extra, n, share):
        """Run all layers over x, ids (T, B) or floats (T, B, D), from ws.h[:, 0], ws.c[:, 0]; masks of iteration n."""
        for layer in range(ws.h.shape[0]):
            layer_forward(net, x, ws, extra, layer, share)
            if extra is not None and extra.dropped.size > 0:
                drop(ws.h[layer, 1:], extra.masks[n, layer], extra.scale, extra.dropped[layer], share)
                mixed.round_dropped(ws.rounded_h, ws, extra.dropped, layer, share)
                if shares_units(share):
                    barrier(share.counter, share.threads)

    @thin
    def backward(net, ws, extra, n, share):
        """Compute ws.dz of all layers from ws.dh, the gradient of the last layer's output."""
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
def find_places(net, x, rows, extra):
    """Write the ids of x (T, B) in ascending order to rows, their places to extra; return their number.

    The order of additions in the gradient of W_x follows from that order, not from the text's. The rows of the
    embedding are copied to extra.embedded[0].
    """
    if x.ndim == 3:  # floats, which have no embedding
        return 0
    V, E = rows.shape[0] // 2, extra.embedded.shape[2]
    rows[V:] = 0
    for t in range(x.shape[0]):
        for r in range(x.shape[1]):
            rows[V + x[t, r]] = 1
    count = 0
    for n in range(V):
        if rows[V + n] != 0:
            rows[V + n], rows[count] = count, n
            extra.embedded[0, count] = net.theta[n * E : (n + 1) * E]
            count += 1
    for t in range(x.shape[0]):
        for r in range(x.shape[1]):
            extra.places[t, r] = rows[V + x[t, r]]
    return count


@thin
def look_up(net, extra, count, share):
    """Compute the first `count` rows of the table, embedding @ W_x: the thread's columns, or its share of the rows."""
    N, E, table = extra.table.shape[1], extra.embedded.shape[2], flat(extra.table)
    rows, first, H = flat(extra.embedded), net.offsets[0], share.pieces[-1, 0] + share.pieces[-1, 1]
    r0, r1 = (0, count) if shares_units(share) else rows_of(count, share.thread, share.threads)
    for q in range(share.q0, share.q1):
        number, length, step = column_ranges(N // H, share.pieces[q])
        for s in range(number):
            begin = share.pieces[q, 2] + s * step
            clear_rows(table, r0 * N + begin, N, r1 - r0, length)
            add_product(rows, r0 * E, E, net.theta, first + begin, N, table, r0 * N + begin, N, r1 - r0, E, length)


@inner
def look_up_gradient(dz, extra, count, thread, threads):
    """Overwrite the thread's columns of the table's first `count` rows with those of its gradient."""
    N, out = extra.table.shape[1], flat(extra.table)
    n0, n1 = part_of(N, 48, thread, threads)
    clear_rows(out, n0, N, count, n1 - n0)
    add_gradient_ids(extra.places, Matrix(flat(dz), 0, N), out, 0, n0, n1)


# ---------------------------------------------------------------------------------------------------------- readout
@inner
def passed_up(h, extra, layer):
    """The output of a layer, after dropout, (T, B, H) as a Matrix."""
    _, steps, B, H = h.shape
    if extra is not None and extra.dropped.size > 0:
        return Matrix(flat(extra.dropped), layer * (steps - 1) * B * H, H)
    return Matrix(flat(h), (layer * steps + 1) * B * H, H)


@thin
def readout(net, targets, aim, ws, extra, first, share):
    """Compute the logits, ws.row_loss (T, B), dlogits in place of the logits, and ws.dh of the last layer's output.

    targets are (T, B) ids or (T, B, Y) floats, aim is a loss.Aim. Steps before `first` do not count: their loss and dh
    are zero. A thread that owns some of the streams handles their rows, which no other thread writes; otherwise it
    handles a share of all rows.
    """
    T, B, _ = ws.logits.shape
    b0, b1 = share.b0, share.b1
    for t in range(first):
        for r in range(b0, b1):
            ws.row_loss[t, r] = 0
            ws.dh[t, r] = 0
    if mixed.readout(ws.rounded_h, net, targets, aim, ws, first, share):
        return
    if b1 - b0 == B:
        r0, r1 = rows_of((T - first) * B, share.thread, share.threads)
        _readout_rows(net, targets, aim, ws, extra, first * B + r0, r1 - r0)
    else:
        for t in range(first, T):
            _readout_rows(net, targets, aim, ws, extra, t * B + b0, b1 - b0)


@thin
def _readout_rows(net, targets, aim, ws, extra, row, R):
    """Like :func:`readout`, for R of the T B rows, from `row` on."""
    L, _, B, H = ws.h.shape
    logits = ws.logits
    V, last = logits.shape[2], net.offsets.shape[0] - 1
    W_y, b_y = block(net, last - 1), net.theta[net.offsets[last] : net.offsets[last] + V]
    copy_to_rows(b_y, flat(logits), row * V, V, R)
    top = passed_up(ws.h, extra, L - 1)
    add_product(top.flat, top.at + row * H, H, W_y, 0, V, logits, row * V, V, R, H, V)
    for r in range(row, row + R):
        t, stream = r // B, r % B
        ws.row_loss[t, stream] = loss_of_row(logits[t, stream], targets, t, stream, aim, logits[t, stream])
    product_transposed(logits, row * V, V, W_y, 0, V, ws.dh, row * H, H, R, H, V)


@inner
def total(row_loss):
    """The sum of the losses of all rows, added in order."""
    loss = 0.0
    for t in range(row_loss.shape[0]):
        for r in range(row_loss.shape[1]):
            loss += row_loss[t, r]
    return loss
