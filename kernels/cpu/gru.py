"""The GRU on the CPU: its steps, its layer inside a model, and its two ops. Equations: kernels/spec/cells.py.

`gates` holds two matrices (T B, 3H), first a, then s; dz holds da, then ds. Threads split the streams only, not the
hidden units.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from kernels.cpu import mixed
from kernels.cpu.compiler import entry, inner, thin
from kernels.cpu.emit.activations import emit_sigmoid, emit_tanh
from kernels.cpu.emit.rows import Row, block_offsets
from kernels.cpu.emit.vectors import Vectors, for_each_part, real_type
from kernels.cpu.layers import (
    add_gates,
    flow_back,
    flow_below,
    project,
    read_below,
    stretch_back,
    stretch_of,
)
from kernels.cpu.matmul import address, clear_rows, copy_to_rows
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
    share_of,
    sum_rows,
)
from kernels.cpu.threads import alone, barrier, whole
from kernels.cpu.values import Matrix, Weights, block, flat, readable
from kernels.spec import GATE_N, GATE_R, GATE_Z, LAYERS, Cache, Grads, GRUCache, checks

BLOCKS = len(LAYERS["gru"].params._fields)  # parameter blocks of a layer: W_x, W_h and its vectors


# ------------------------------------------------------------------------------------------------------------ steps
@intrinsic
def gru_step_forward(typing, zero, a, s, h_prev, h, n):
    """Replace a (three blocks of n) with the activated gates and write h (n,); s, the recurrent side, is read."""
    address = types.uintp
    signature = types.void(zero, address, address, address, address, types.intp)

    def emit(context, builder, signature, arguments):
        _, a, s, h_prev, h, n = arguments
        vec = Vectors(builder, real_type(signature.args[0]))
        a, s, h_prev, h = (builder.inttoptr(place, vec.real.as_pointer()) for place in (a, s, h_prev, h))
        blocks = block_offsets(builder, n, 3)

        def body(vec, at, mask):
            row = Row(vec, at, mask)
            r, z = (emit_sigmoid(row.load(a, blocks[g]) + row.load(s, blocks[g])) for g in (GATE_R, GATE_Z))
            new = emit_tanh(row.load(a, blocks[GATE_N]) + r * row.load(s, blocks[GATE_N]))
            for gate, value in ((GATE_R, r), (GATE_Z, z), (GATE_N, new)):
                row.store(value, a, blocks[gate])
            row.store((1.0 - z) * new + z * row.load(h_prev), h)

        for_each_part(builder, vec, n, body)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def gru_step_backward(typing, zero, dh, gates, s, h_prev, da, ds, dh_next, kept, n):
    """Write da and ds (three blocks of n), given dh + dh_next + kept, the gradient of h; kept becomes dh z."""
    address = types.uintp
    signature = types.void(zero, *[address] * 8, types.intp)

    def emit(context, builder, signature, arguments):
        vec = Vectors(builder, real_type(signature.args[0]))
        *places, n = arguments[1:]
        dh, gates, s, h_prev, da, ds, dh_next, kept = (
            builder.inttoptr(place, vec.real.as_pointer()) for place in places
        )
        blocks = block_offsets(builder, n, 3)

        def body(vec, at, mask):
            row = Row(vec, at, mask)
            r, z, new = (row.load(gates, blocks[gate]) for gate in (GATE_R, GATE_Z, GATE_N))
            dh_t = row.load(dh) + row.load(dh_next) + row.load(kept)
            da_n = dh_t * (1.0 - z) * (1.0 - new * new)
            da_z = dh_t * (row.load(h_prev) - new) * z * (1.0 - z)
            da_r = da_n * row.load(s, blocks[GATE_N]) * r * (1.0 - r)
            for gate, value in ((GATE_R, da_r), (GATE_Z, da_z)):
                row.store(value, da, blocks[gate])
                row.store(value, ds, blocks[gate])
            row.store(da_n, da, blocks[GATE_N])
            row.store(da_n * r, ds, blocks[GATE_N])
            row.store(dh_t * z, kept)

        for_each_part(builder, vec, n, body)
        return context.get_dummy_value()

    return signature, emit


@inner
def run_forward(weights, b_h, h, z, t0, t1, share, order):
    """Run turns t0:t1 of an Order on h (T+1, B, H); the flat z holds x W_x + b_x at first."""
    T, B, H = h.shape[0] - 1, h.shape[1], h.shape[2]
    N, R, b0, zero = 3 * H, share.b1 - share.b0, share.b0, h.dtype.type(0)
    for turn in range(t0, t1):
        t = step_at(turn, T, order)
        row, was, rows = t * B + b0, row_before(t, T, order) * B + b0, rows_at(t, b0, share.b1, order)
        a_at, s_at = row * N, (T * B + row) * N
        copy_to_rows(b_h, z, s_at, N, rows)
        add_gates(3, h, was * H, weights, z, s_at, rows, H, share.pieces[0])
        for r in range(R):
            if is_over(t, b0 + r, order):
                copy_part(flat(h), (was + r) * H, flat(h), (row + r + B) * H, H)
                clear_rows(z, a_at + r * N, s_at - a_at, 2, N)
            else:
                before, after = address(h, (was + r) * H), address(h, (row + r + B) * H)
                gru_step_forward(zero, address(z, a_at + r * N), address(z, s_at + r * N), before, after, H)
        mixed.round_state(weights.rounded, h, t + 1, share)


@inner
def run_backward(weights, dh, h, gates, dz, dh_next, kept, t0, t1, share, order):
    """Run turns t0:t1 backward: write dz; dh_next + kept (B, H) changes from the gradient after to that before.

    dh is (T, B, H), h (T+1, B, H), gates and dz are flat; kept is dh z, the part that bypasses the products.
    """
    T, B, H = dh.shape
    N, R, zero = 3 * H, share.b1 - share.b0, dh.dtype.type(0)
    side = T * B * N
    for turn in range(t1 - 1, t0 - 1, -1):
        t = step_at(turn, T, order)
        row, was, rows = t * B, row_before(t, T, order) * B, rows_at(t, share.b0, share.b1, order)
        for stream in range(share.b0, share.b0 + R):
            r = row + stream
            if is_over(t, stream, order):
                clear_rows(dz, r * N, side, 2, N)
            else:
                gru_step_backward(
                    zero, address(dh, r * H), address(gates, r * N), address(gates, side + r * N),
                    address(h, (was + stream) * H), address(dz, r * N), address(dz, side + r * N),
                    address(dh_next, stream * H), address(kept, stream * H), H,
                )  # fmt: skip
        mixed.round_gates(weights.rounded, 3, dz, t, T, share)
        set_aside(dh_next, t, share.b0, rows, share.pieces[0], order)
        flow_back(3, dz, T * B + row + share.b0, weights, dh_next, share.b0, rows, share.pieces[0])
        put_back(dh_next, t, share.b0, rows, share.pieces[0], order)


# --------------------------------------------------------------------------------------------------- inside a model
@inner
def prepare(net, ws, share):
    """Do nothing: this cell needs no packed or rounded matrices."""


@thin
def layer_forward(net, x, ws, extra, layer, share):
    """Run the thread's part of a layer over all steps."""
    T, B = x.shape[0], x.shape[1]
    z, steps = flat(ws.gates[layer]), stretch_of(T, B)
    weights = Weights(block(net, BLOCKS * layer + 1), z[:0], None, mixed.of_state(ws.rounded_h, ws, layer))
    b_x, b_h = block(net, BLOCKS * layer + 2), block(net, BLOCKS * layer + 3)
    for t0 in range(0, T, steps):
        read_below(net, b_x, x, ws, extra, layer, z, 0, t0, t0 + steps, share)
        run_forward(weights, b_h, ws.h[layer], z, t0, t0 + steps, share, None)


@thin
def layer_backward(net, ws, layer, share):
    """Compute the thread's part of dz from ws.dh of the layer's output; ws.dh becomes the gradient of its input."""
    T, B, _ = ws.dh.shape
    z, d, steps = flat(ws.gates[layer]), flat(ws.dz[layer]), stretch_back(T, B, ws)
    W_x, weights = (
        Weights(block(net, BLOCKS * layer), d[:0], None, mixed.of_gradient_below(ws.rounded_h, ws, layer)),
        Weights(block(net, BLOCKS * layer + 1), d[:0], None, mixed.of_gradient(ws.rounded_h, ws, layer)),
    )
    for t0 in range(T - steps, -1, -steps):
        run_backward(weights, ws.dh, ws.h[layer], z, d, ws.carry[0], ws.carry[1], t0, t0 + steps, share, None)
        if layer > 0:
            flow_below(3, d, W_x, ws.dh, t0, steps, share)


# ---------------------------------------------------------------------------------------------------- a single layer
@entry
def gru_layer_forward(x, W_x, W_h, b_x, b_h, h, gates, order, members, pieces, counter, thread):
    """Run a thread's part of a layer: write gates and h (T+1, B, H), except h[0]; return if all is well."""
    T, B = h.shape[0] - 1, h.shape[1]
    share, z, steps = share_of(members, pieces, counter, thread), flat(gates), stretch_of(T, B)
    from_x, from_h = Weights(flat(W_x), z[:0], None, None), Weights(flat(W_h), z[:0], None, None)
    for turn in range(0, T, steps):
        t = step_at(turn, T, order) if steps == 1 else 0
        project(3, x, from_x, b_x, z, 0, t, t + steps, share)
        run_forward(from_h, b_h, h, z, turn, turn + steps, share, order)
    return counter[1] == 0


@entry
def gru_layer_backward(dh, cache, out, dz, kept, order, members, pieces, counter, thread):
    """Write a thread's part of the gradients; out.dh0 holds that of the last state at first; kept is scratch."""
    T, B, H = dh.shape
    share, d = share_of(members, pieces, counter, thread), flat(dz)
    kept[share.b0 : share.b1] = 0
    weights = Weights(flat(cache.W_h), d[:0], None, None)
    run_backward(weights, dh, cache.h, flat(cache.gates), d, out.dh0, kept, 0, T, share, order)
    for r in range(share.b0, share.b1):
        for j in range(H):
            out.dh0[r, j] += kept[r, j]
    barrier(counter, share.threads)  # dz is complete
    if counter[1] == 0:
        da, ds = Matrix(d, 0, 3 * H), Matrix(d, T * B * 3 * H, 3 * H)
        gradient_of_state(cache.h, ds, out.dW_h, order, share)
        sum_rows(da, T * B, out.db_x, share)
        sum_rows(ds, T * B, out.db_h, share)
        gradients_of_input(cache.x, cache.W_x, da, out.dx, out.dW_x, share)
    return counter[1] == 0


def gru_forward(
    x: Any, h0: Any, W_x: Any, W_h: Any, b_x: Any, b_h: Any, *, lengths: Any = None, reverse: bool = False,
    threads: int = 1, out: tuple[Any, Any] | None = None,
) -> tuple[np.ndarray, Cache]:  # fmt: skip
    """Run one GRU layer over T steps and B streams, as :func:`kernels.reference.gru_forward`.

    With `out` = (h, gates), no buffers are allocated, but for (B, H) floats with `lengths`.
    """
    given = checks.forward("gru", x, (h0,), W_x, W_h, (b_x, b_h), lengths, reverse, threads, out)
    h, gates = out or new_outputs("gru", given.sizes, h0.dtype)
    h[0] = h0
    read = (*map(readable, (x, W_x, W_h, b_x, b_h)), h, gates, order_of(given, h0.dtype))
    by_threads("gru_forward", given, lambda *who: gru_layer_forward(*read, *who))
    return h, GRUCache(x, h, gates, W_x, W_h, lengths, given.reverse)


def gru_backward(
    dh: Any, cache: Cache, dh_last: Any = None, *, threads: int = 1, out: Grads | None = None, dz: Any = None
) -> Grads:
    """Backpropagate through one GRU layer, as :func:`kernels.reference.gru_backward`.

    With `out` and `dz` (2, T, B, 3H), only one buffer (B, H) is allocated, and another with `lengths`.
    """
    given = checks.backward("gru", dh, cache, (dh_last,), threads, out, dz)
    out = new_gradients("gru", given.sizes, cache.x, dh.dtype) if out is None else out
    dz = new_dz("gru", given.sizes, dh.dtype) if dz is None else dz
    read = readable(dh), readable_cache(cache), out, dz, np.empty_like(out.dh0), order_of(given, dh.dtype)
    by_threads("gru_backward", given, lambda *who: gru_layer_backward(*read, *who), carried((dh_last,), out, given))
    return out


@entry
def gru_one_step(x, h_before, W_x, W_h, b_x, b_h, h, gates, pieces, counter):
    """Write h (B, H) after a step from that before it, which may be the same array; gates (2, B, 3H) is scratch."""
    B, H = h.shape
    N, z, zero = 3 * H, flat(gates), h.dtype.type(0)
    project(
        3, x.reshape((1, *x.shape)), Weights(flat(W_x), z[:0], None, None), b_x, z, 0, 0, 1, alone(B, pieces, counter)
    )
    copy_to_rows(b_h, z, B * N, N, B)
    add_gates(3, h_before, 0, Weights(flat(W_h), z[:0], None, None), z, B * N, B, H, pieces[0])
    for r in range(B):
        a, s = address(z, r * N), address(z, (B + r) * N)
        gru_step_forward(zero, a, s, address(h_before, r * H), address(h, r * H), H)


def gru_step(
    x: Any, h: Any, W_x: Any, W_h: Any, b_x: Any, b_h: Any, *, out: tuple[Any, Any] | None = None
) -> np.ndarray:
    """Run one step of a GRU layer, as :func:`kernels.reference.gru_step`.

    With `out` = (h, gates), nothing is allocated.
    """
    checks.step("gru", x, (h,), W_x, W_h, (b_x, b_h), out)
    h_after, gates = out or new_states("gru", h)
    read = map(readable, (x, h, W_x, W_h, b_x, b_h))
    gru_one_step(*read, h_after, gates, whole(h.shape[1]), NO_TEAM)
    return h_after
