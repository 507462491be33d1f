"""The LSTM on the CPU: its steps, its layer inside a model, and its two ops. Equations: kernels/spec/cells.py.

Only for this cell can threads split the hidden units (threads.py), and can matrices be packed (matmul.py) or rounded to
bfloat16 (bfloat16.py). A row of gates has four blocks, `stride` elements apart.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from kernels.cpu import bfloat16, mixed
from kernels.cpu.compiler import entry, inner, thin
from kernels.cpu.emit.activations import emit_sigmoid, emit_tanh
from kernels.cpu.emit.rows import Row, block_offsets
from kernels.cpu.emit.vectors import Vectors, for_each_part, real_type
from kernels.cpu.layers import (
    add_gates,
    cells_at,
    flow_back,
    flow_below,
    gates_at,
    project,
    read_below,
    stretch_back,
    stretch_of,
)
from kernels.cpu.matmul import address, clear_rows, pack, pack_transposed, product_transposed
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
    room_to_pack,
    share_of,
    sum_rows,
)
from kernels.cpu.threads import alone, barrier, column_ranges, shares_units, whole
from kernels.cpu.values import Matrix, Weights, block, flat, readable
from kernels.spec import GATE_F, GATE_G, GATE_I, GATE_O, LAYERS, Cache, Grads, LSTMCache, checks

BLOCKS = len(LAYERS["lstm"].params._fields)  # parameter blocks of a layer: W_x, W_h and its vectors


# ------------------------------------------------------------------------------------------------------------ steps
@intrinsic
def lstm_step_forward(typing, zero, z, stride, c_prev, c, h, n):
    """Replace z (four blocks of n) with the activated gates; write c and h (n,). zero gives the element type."""
    address = types.uintp
    signature = types.void(zero, address, types.intp, address, address, address, types.intp)

    def emit(context, builder, signature, arguments):
        _, z, stride, c_prev, c, h, n = arguments
        vec = Vectors(builder, real_type(signature.args[0]))
        z, c_prev, c, h = (builder.inttoptr(place, vec.real.as_pointer()) for place in (z, c_prev, c, h))
        blocks = block_offsets(builder, stride)

        def body(vec, at, mask):
            row = Row(vec, at, mask)
            i, f, o = (emit_sigmoid(row.load(z, blocks[gate])) for gate in (GATE_I, GATE_F, GATE_O))
            g = emit_tanh(row.load(z, blocks[GATE_G]))
            for gate, value in ((GATE_I, i), (GATE_F, f), (GATE_G, g), (GATE_O, o)):
                row.store(value, z, blocks[gate])
            cell = f * row.load(c_prev) + i * g
            row.store(cell, c)
            row.store(o * emit_tanh(cell), h)

        for_each_part(builder, vec, n, body)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def lstm_step_backward(typing, zero, dh, gates, stride, c_prev, c, dz, dh_next, dc_next, n):
    """Write dz (four blocks of n), given dh + dh_next, the gradient of h; dc_next (n,) becomes that of c_prev."""
    address = types.uintp
    signature = types.void(zero, address, address, types.intp, address, address, address, address, address, types.intp)

    def emit(context, builder, signature, arguments):
        _, dh, gates, stride, c_prev, c, dz, dh_next, dc_next, n = arguments
        vec = Vectors(builder, real_type(signature.args[0]))
        dh, gates, c_prev, c, dz, dh_next, dc_next = (
            builder.inttoptr(place, vec.real.as_pointer()) for place in (dh, gates, c_prev, c, dz, dh_next, dc_next)
        )
        blocks = block_offsets(builder, stride)

        def body(vec, at, mask):
            row = Row(vec, at, mask)
            i, f, g, o = (row.load(gates, blocks[gate]) for gate in (GATE_I, GATE_F, GATE_G, GATE_O))
            tanh_c = emit_tanh(row.load(c))
            dh_t = row.load(dh) + row.load(dh_next)
            dc_t = row.load(dc_next) + dh_t * o * (1.0 - tanh_c * tanh_c)
            row.store(dc_t * g * i * (1.0 - i), dz, blocks[GATE_I])
            row.store(dc_t * row.load(c_prev) * f * (1.0 - f), dz, blocks[GATE_F])
            row.store(dc_t * i * (1.0 - g * g), dz, blocks[GATE_G])
            row.store(dh_t * tanh_c * o * (1.0 - o), dz, blocks[GATE_O])
            row.store(dc_t * f, dc_next)

        for_each_part(builder, vec, n, body)
        return context.get_dummy_value()

    return signature, emit


@inner
def run_forward(weights, h, c, gates, t0, t1, share, order):
    """Run turns t0:t1 of an Order; gates hold x W_x + b at first and become the activated gates.

    h is (T+1, B, H); c and gates are flat; weights are the recurrent ones.
    """
    T, B, H = h.shape[0] - 1, h.shape[1], h.shape[2]
    zero, pieces, b0, b1 = h.dtype.type(0), share.pieces, share.b0, share.b1
    for turn in range(t0, t1):
        t = step_at(turn, T, order)
        was, rows = row_before(t, T, order) * B, rows_at(t, b0, b1, order)
        for q in range(share.q0, share.q1):
            j0, n, begin, stride = pieces[q, 0], pieces[q, 1], pieces[q, 2], pieces[q, 3]
            z_at, width = gates_at(4, pieces[q], T * B, H)
            c_at, c_row = cells_at(pieces[q], (T + 1) * B, H)
            row = t * B + b0
            add_gates(4, h, (was + b0) * H, weights, gates, z_at + row * width, rows, H, pieces[q])
            for r in range(b0, b1):
                row = t * B + r
                z, before, after = z_at + row * width + begin, c_at + (was + r) * c_row, c_at + (row + B) * c_row
                if is_over(t, r, order):
                    copy_part(c, before, c, after, n)
                    copy_part(flat(h), (was + r) * H + j0, flat(h), (row + B) * H + j0, n)
                    clear_rows(gates, z, stride, 4, n)
                else:
                    lstm_step_forward(
                        zero, address(gates, z), stride, address(c, before), address(c, after),
                        address(h, (row + B) * H + j0), n,
                    )  # fmt: skip
        mixed.round_state(weights.rounded, h, t + 1, share)
        if shares_units(share):
            barrier(share.counter, share.threads)


@inner
def _step_backward(dh, c, gates, dz, dh_next, dc_next, t, b0, b1, piece, order):
    """Write dz for rows b0:b1 of step t and a piece's units; dc_next (B, H) becomes the gradient of c before it."""
    T, B, H = dh.shape
    zero = dh.dtype.type(0)
    j0, n = piece[0], piece[1]
    z_at, width = gates_at(4, piece, T * B, H)
    c_at, c_row = cells_at(piece, (T + 1) * B, H)
    was = row_before(t, T, order) * B
    for r in range(b0, b1):
        row = t * B + r
        z, before, after = z_at + row * width + piece[2], c_at + (was + r) * c_row, c_at + (row + B) * c_row
        if is_over(t, r, order):
            clear_rows(dz, z, piece[3], 4, n)
        else:
            lstm_step_backward(
                zero, address(dh, row * H + j0), address(gates, z), piece[3], address(c, before), address(c, after),
                address(dz, z), address(dh_next, r * H + j0), address(dc_next, r * H + j0), n,
            )  # fmt: skip


@inner
def run_backward(weights, dh, c, gates, dz, dh_next, dc_next, t0, t1, share, order):
    """Run turns t0:t1 backward: write dz; dh_next, dc_next (B, H) change from the gradients after to those before.

    dh is (T, B, H); c, gates and dz are flat; weights are the recurrent ones.
    """
    T, B, H = dh.shape
    pieces, b0, b1 = share.pieces, share.b0, share.b1
    for turn in range(t1 - 1, t0 - 1, -1):
        t = step_at(turn, T, order)
        rows = rows_at(t, b0, b1, order)
        for q in range(share.q0, share.q1):
            _step_backward(dh, c, gates, dz, dh_next, dc_next, t, b0, b1, pieces[q], order)
        mixed.round_gates(weights.rounded, 4, dz, t, T, share)
        if shares_units(share):
            barrier(share.counter, share.threads)
        for q in range(share.q0, share.q1):
            if not bfloat16.has_flowed_back(weights.pairs, dz, t * 4 * H, dh_next, H, pieces[q]):
                set_aside(dh_next, t, b0, rows, pieces[q], order)
                flow_back(4, dz, t * B + b0, weights, dh_next, b0, rows, pieces[q])
                put_back(dh_next, t, b0, rows, pieces[q], order)


@inner
def _add_panels(partial, out, piece):
    """Write a piece's units of out (B, H): the sum of the panels' shares partial (P, B, ...), added in order."""
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
def _run_backward_panels(weights, W_x, ws, layer, c, gates, dz, share):
    """Like run_backward, but for panels: pieces whose gates and weights are contiguous.

    Each panel's share of the gradients of all units goes to ws.partial (2, 2, P, B, H or more), a double buffer that
    alternates from step to step, so that one barrier per step is enough. Unless the layer is the first, ws.dh becomes
    the gradient of its input, for W_x (H 4H,).
    """
    dh, partial, dh_next, dc_next, pieces = ws.dh, ws.partial, ws.carry[0], ws.carry[1], share.pieces
    T, B, H = dh.shape
    out_row = partial.shape[4]
    for t in range(T - 1, -1, -1):
        turn, before = partial[(layer * T + t) % 2], partial[(layer * T + t + 1) % 2]
        for q in range(share.q0, share.q1):
            if t < T - 1:
                _add_panels(before[0], dh_next, pieces[q])
            _step_backward(dh, c, gates, dz, dh_next, dc_next, t, 0, B, pieces[q], None)
            z_at, N = gates_at(4, pieces[q], T * B, H)
            w_at, _ = gates_at(4, pieces[q], H, H)
            if t > 0 and not bfloat16.has_flowed_back(weights.pairs, dz, z_at + t * N, turn[0, q], H, pieces[q]):
                product_transposed(dz, z_at + t * B * N, N, weights.flat, w_at, N, turn[0, q], 0, out_row, B, H, N)
            if layer > 0:
                product_transposed(dz, z_at + t * B * N, N, W_x, w_at, N, turn[1, q], 0, out_row, B, H, N)
        barrier(share.counter, share.threads)
        if layer > 0:
            for q in range(share.q0, share.q1):
                _add_panels(turn[1], dh[t], pieces[q])


# --------------------------------------------------------------------------------------------------- inside a model
@thin
def prepare(net, ws, share):
    """Pack the recurrent matrices, or round them to bfloat16, once per iteration, if the call asks for it."""
    if ws.packed.shape[2] > 0:
        _pack_layers(net, ws.packed, ws.h.shape[3], share)
    bfloat16.pair_layers(ws.pairs, net, ws.h.shape[3], share)


@thin
def _pack_layers(net, packed, H, share):
    """Pack the matrices: the thread's own pieces, or its share of the matrices that all threads read."""
    for layer in range(packed.shape[0]):
        for kind in range(0, 4 if layer > 0 else 2, 2):
            W = block(net, BLOCKS * layer + (1 if kind == 0 else 0))
            pack_for_gates(W, packed[layer, kind], H, share)
            pack_for_flow(W, packed[layer, kind + 1], H, share)


@inner
def pack_for_gates(W, packed, H, share):
    """Pack the thread's part of a flat matrix (H, 4H) as :func:`add_gates` reads it."""
    thread, threads = (0, 1) if shares_units(share) else (share.thread, share.threads)
    for q in range(share.q0, share.q1):
        count, length, step = column_ranges(4, share.pieces[q])
        for s in range(count):
            to = packed[s * (packed.shape[0] // 4) + H * share.pieces[q, 0] :]
            pack(W, share.pieces[q, 2] + s * step, 4 * H, to, H, length, thread, threads)


@inner
def pack_for_flow(W, packed, H, share):
    """Pack the thread's part of the transpose of a flat matrix (H, 4H) as :func:`flow_back` reads it."""
    thread, threads = (0, 1) if shares_units(share) else (share.thread, share.threads)
    for q in range(share.q0, share.q1):
        j0, n = share.pieces[q, 0], share.pieces[q, 1]
        pack_transposed(W, j0 * 4 * H, 4 * H, packed[4 * H * j0 :], n, 4 * H, thread, threads)


@thin
def layer_forward(net, x, ws, extra, layer, share):
    """Run the thread's part of a layer over all steps."""
    T, B = x.shape[0], x.shape[1]
    z, cells, b, steps = flat(ws.gates[layer]), flat(ws.c[layer]), block(net, BLOCKS * layer + 2), stretch_of(T, B)
    weights = Weights(
        block(net, BLOCKS * layer + 1),
        ws.packed[layer, 0],
        bfloat16.of_layer(ws.pairs, layer),
        mixed.of_state(ws.rounded_h, ws, layer),
    )
    for t0 in range(0, T, steps):
        read_below(net, b, x, ws, extra, layer, z, 0, t0, t0 + steps, share)
        run_forward(weights, ws.h[layer], cells, z, t0, t0 + steps, share, None)


@thin
def layer_backward(net, ws, layer, share):
    """Compute the thread's part of dz from ws.dh of the layer's output; ws.dh becomes the gradient of its input."""
    T, B, _ = ws.dh.shape
    z, d, cells, steps = flat(ws.gates[layer]), flat(ws.dz[layer]), flat(ws.c[layer]), stretch_back(T, B, ws)
    W_x = block(net, BLOCKS * layer)
    weights = Weights(
        block(net, BLOCKS * layer + 1), ws.packed[layer, 1], bfloat16.of_layer(ws.pairs, layer),
        mixed.of_gradient(ws.rounded_h, ws, layer),
    )  # fmt: skip
    below = Weights(W_x, ws.packed[layer, 3], None, mixed.of_gradient_below(ws.rounded_h, ws, layer))
    if ws.partial.shape[2] > 0:
        _run_backward_panels(weights, W_x, ws, layer, cells, z, d, share)
        return
    for t0 in range(T - steps, -1, -steps):
        run_backward(weights, ws.dh, cells, z, d, ws.carry[0], ws.carry[1], t0, t0 + steps, share, None)
        if layer > 0:
            flow_below(4, d, below, ws.dh, t0, steps, share)


# ---------------------------------------------------------------------------------------------------- a single layer
@entry
def lstm_layer_forward(x, W_x, W_h, b, h, c, gates, packed, order, members, pieces, counter, thread):
    """Run a thread's part of a layer: write gates and h, c (T+1, B, H), except h[0], c[0]; return if all is well.

    packed has room for W_h, or is empty.
    """
    T, B, H = h.shape[0] - 1, h.shape[1], h.shape[2]
    share, z, steps = share_of(members, pieces, counter, thread), flat(gates), stretch_of(T, B)
    if packed.shape[0] > 0:
        pack_for_gates(flat(W_h), packed, H, share)
        if not shares_units(share):
            barrier(counter, share.threads)
    from_x, from_h = Weights(flat(W_x), z[:0], None, None), Weights(flat(W_h), packed, None, None)
    for turn in range(0, T, steps):
        t = step_at(turn, T, order) if steps == 1 else 0
        project(4, x, from_x, b, z, 0, t, t + steps, share)
        run_forward(from_h, h, flat(c), z, turn, turn + steps, share, order)
    return counter[1] == 0


@entry
def lstm_layer_backward(dh, cache, out, dz, packed, order, members, pieces, counter, thread):
    """Write a thread's part of the gradients; out.dh0, out.dc0 hold those of the last states at first."""
    T, B, H = dh.shape
    share, d = share_of(members, pieces, counter, thread), flat(dz)
    if packed.shape[0] > 0:
        pack_for_flow(flat(cache.W_h), packed, H, share)
        if not shares_units(share):
            barrier(counter, share.threads)
    weights, gates = Weights(flat(cache.W_h), packed, None, None), flat(cache.gates)
    run_backward(weights, dh, flat(cache.c), gates, d, out.dh0, out.dc0, 0, T, share, order)
    barrier(counter, share.threads)  # dz is complete
    if counter[1] == 0:
        rows = Matrix(d, 0, 4 * H)
        gradient_of_state(cache.h, rows, out.dW_h, order, share)
        sum_rows(rows, T * B, out.db, share)
        gradients_of_input(cache.x, cache.W_x, rows, out.dx, out.dW_x, share)
    return counter[1] == 0


def lstm_forward(
    x: Any, h0: Any, c0: Any, W_x: Any, W_h: Any, b: Any, *, lengths: Any = None, reverse: bool = False,
    threads: int = 1, out: tuple[Any, Any, Any] | None = None,
) -> tuple[np.ndarray, np.ndarray, Cache]:  # fmt: skip
    """Run one LSTM layer over T steps and B streams, as :func:`kernels.reference.lstm_forward`.

    With `out` = (h, c, gates), no buffers are allocated, but for (B, H) floats with `lengths`.
    """
    given = checks.forward("lstm", x, (h0, c0), W_x, W_h, (b,), lengths, reverse, threads, out)
    h, c, gates = out or new_outputs("lstm", given.sizes, h0.dtype)
    h[0], c[0] = h0, c0
    with room_to_pack(given.sizes, h0.dtype) as packed:
        read = (*map(readable, (x, W_x, W_h, b)), h, c, gates, packed, order_of(given, h0.dtype))
        by_threads("lstm_forward", given, lambda *who: lstm_layer_forward(*read, *who))
    return h, c, LSTMCache(x, h, c, gates, W_x, W_h, lengths, given.reverse)


def lstm_backward(
    dh: Any, cache: Cache, dh_last: Any = None, dc_last: Any = None, *, threads: int = 1, out: Grads | None = None,
    dz: Any = None,
) -> Grads:  # fmt: skip
    """Backpropagate through one LSTM layer, as :func:`kernels.reference.lstm_backward`.

    With `out` and `dz` (T, B, 4H), no buffers are allocated, but for (B, H) floats with `lengths`.
    """
    given = checks.backward("lstm", dh, cache, (dh_last, dc_last), threads, out, dz)
    out = new_gradients("lstm", given.sizes, cache.x, dh.dtype) if out is None else out
    dz = new_dz("lstm", given.sizes, dh.dtype) if dz is None else dz
    with room_to_pack(given.sizes, dh.dtype) as packed:
        read = readable(dh), readable_cache(cache), out, dz, packed, order_of(given, dh.dtype)
        begin = carried((dh_last, dc_last), out, given)
        by_threads("lstm_backward", given, lambda *who: lstm_layer_backward(*read, *who), begin)
    return out


@entry
def lstm_one_step(x, h_before, c_before, W_x, W_h, b, h, c, gates, pieces, counter):
    """Write h, c (B, H) after a step from those before it, which may be the same arrays; gates (B, 4H) is scratch."""
    B, H = h.shape
    z, zero = flat(gates), h.dtype.type(0)
    share = alone(B, pieces, counter)
    project(4, x.reshape((1, *x.shape)), Weights(flat(W_x), z[:0], None, None), b, z, 0, 0, 1, share)
    add_gates(4, h_before, 0, Weights(flat(W_h), z[:0], None, None), z, 0, B, H, pieces[0])
    for r in range(B):
        lstm_step_forward(
            zero, address(z, r * 4 * H), H, address(c_before, r * H), address(c, r * H), address(h, r * H), H
        )  # fmt: skip


def lstm_step(
    x: Any, h: Any, c: Any, W_x: Any, W_h: Any, b: Any, *, out: tuple[Any, Any, Any] | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """Run one step of an LSTM layer, as :func:`kernels.reference.lstm_step`.

    With `out` = (h, c, gates), nothing is allocated.
    """
    checks.step("lstm", x, (h, c), W_x, W_h, (b,), out)
    h_after, c_after, gates = out or new_states("lstm", h)
    lstm_one_step(
        readable(x), readable(h), readable(c), readable(W_x), readable(W_h), readable(b), h_after, c_after, gates,
        whole(h.shape[1]), NO_TEAM,
    )  # fmt: skip
    return h_after, c_after
