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
    carried,
    flow_back,
    flow_below,
    gradient_of_state,
    gradients_of_input,
    new_dz,
    new_gradients,
    new_outputs,
    project,
    read_below,
    stretch_back,
    stretch_of,
    sum_rows,
)
from kernels.cpu.matmul import address, copy_to_rows
from kernels.cpu.threads import alone, whole
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
def run_forward(weights, b_h, h, z, t0, t1, share):
    """Run steps t0:t1 from h[t0] of h (T+1, B, H); the flat z holds x W_x + b_x at first."""
    T, B, H = h.shape[0] - 1, h.shape[1], h.shape[2]
    N, R, zero = 3 * H, share.b1 - share.b0, h.dtype.type(0)
    for t in range(t0, t1):
        row = t * B + share.b0
        a_at, s_at = row * N, (T * B + row) * N
        copy_to_rows(b_h, z, s_at, N, R)
        add_gates(3, h, row * H, weights, z, s_at, R, H, share.pieces[0])
        for r in range(R):
            before, after = address(h, (row + r) * H), address(h, (row + r + B) * H)
            gru_step_forward(zero, address(z, a_at + r * N), address(z, s_at + r * N), before, after, H)
        mixed.round_state(weights.rounded, h, t + 1, share)


@inner
def run_backward(weights, dh, h, gates, dz, dh_next, kept, t0, t1, share):
    """Run steps t0:t1 backward: write dz; dh_next + kept (B, H) changes from the gradient after to that before.

    dh is (T, B, H), h (T+1, B, H), gates and dz are flat; kept is dh z, the part that bypasses the products.
    """
    T, B, H = dh.shape
    N, R, zero = 3 * H, share.b1 - share.b0, dh.dtype.type(0)
    side = T * B * N
    for t in range(t1 - 1, t0 - 1, -1):
        row = t * B + share.b0
        for r in range(row, row + R):
            stream = (r - t * B) * H
            gru_step_backward(
                zero, address(dh, r * H), address(gates, r * N), address(gates, side + r * N), address(h, r * H),
                address(dz, r * N), address(dz, side + r * N), address(dh_next, stream), address(kept, stream), H,
            )  # fmt: skip
        mixed.round_gates(weights.rounded, 3, dz, t, T, share)
        flow_back(3, dz, T * B + row, weights, dh_next, share.b0, R, share.pieces[0])


# --------------------------------------------------------------------------------------------------- inside a model
@inner
def prepare(net, ws, share):
    """Do nothing: this cell needs no packed or rounded matrices."""


@thin
def layer_forward(net, x, ws, extra, layer, share):
    """Run the thread's part of a layer over all steps."""
    T, B = x.shape
    z, steps = flat(ws.gates[layer]), stretch_of(T, B)
    weights = Weights(block(net, BLOCKS * layer + 1), z[:0], None, mixed.of_state(ws.rounded_h, ws, layer))
    b_x, b_h = block(net, BLOCKS * layer + 2), block(net, BLOCKS * layer + 3)
    for t0 in range(0, T, steps):
        read_below(net, b_x, x, ws, extra, layer, z, 0, t0, t0 + steps, share)
        run_forward(weights, b_h, ws.h[layer], z, t0, t0 + steps, share)


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
        run_backward(weights, ws.dh, ws.h[layer], z, d, ws.carry[0], ws.carry[1], t0, t0 + steps, share)
        if layer > 0:
            flow_below(3, d, W_x, ws.dh, t0, steps, share)


# ---------------------------------------------------------------------------------------------------- a single layer
@entry
def gru_layer_forward(x, W_x, W_h, b_x, b_h, h, gates, pieces, counter):
    """Run one layer over ids (T, B) or floats (T, B, D): write gates and h (T+1, B, H), except h[0], which is read."""
    share, z = alone(h.shape[1], pieces, counter), flat(gates)
    project(3, x, Weights(flat(W_x), z[:0], None, None), b_x, z, 0, 0, x.shape[0], share)
    run_forward(Weights(flat(W_h), z[:0], None, None), b_h, h, z, 0, x.shape[0], share)


@entry
def gru_layer_backward(dh, cache, out, dz, kept, pieces, counter):
    """Write the gradients of one layer; out.dh0 holds the gradient of the last state at first, kept zeros."""
    T, B, H = dh.shape
    share, d = alone(B, pieces, counter), flat(dz)
    run_backward(
        Weights(flat(cache.W_h), d[:0], None, None), dh, cache.h, flat(cache.gates), d, out.dh0, kept, 0, T, share
    )
    for r in range(B):
        for j in range(H):
            out.dh0[r, j] += kept[r, j]
    da, ds = Matrix(d, 0, 3 * H), Matrix(d, T * B * 3 * H, 3 * H)
    gradient_of_state(cache.h, ds, out.dW_h)
    sum_rows(da, T * B, out.db_x)
    sum_rows(ds, T * B, out.db_h)
    gradients_of_input(cache.x, cache.W_x, da, out.dx, out.dW_x)


def gru_forward(
    x: Any, h0: Any, W_x: Any, W_h: Any, b_x: Any, b_h: Any, *, out: tuple[Any, Any] | None = None
) -> tuple[np.ndarray, Cache]:
    """Run one GRU layer over T steps and B streams, as :func:`kernels.reference.gru_forward`.

    With `out` = (h, gates), no buffers are allocated.
    """
    sizes = checks.forward("gru", x, (h0,), W_x, W_h, (b_x, b_h), out)
    h, gates = out or new_outputs("gru", sizes, h0.dtype)
    h[0] = h0
    gru_layer_forward(*map(readable, (x, W_x, W_h, b_x, b_h)), h, gates, whole(sizes["H"]), np.zeros(3, np.int64))
    return h, GRUCache(x, h, gates, W_x, W_h)


def gru_backward(dh: Any, cache: Cache, dh_last: Any = None, *, out: Grads | None = None, dz: Any = None) -> Grads:
    """Backpropagate through one GRU layer, as :func:`kernels.reference.gru_backward`.

    With `out` and `dz` (2, T, B, 3H), only one buffer (B, H) is allocated.
    """
    sizes = checks.backward("gru", dh, cache, (dh_last,), out, dz)
    out = new_gradients("gru", sizes, cache.x, dh.dtype) if out is None else out
    dz = new_dz("gru", sizes, dh.dtype) if dz is None else dz
    carried((dh_last,), out)
    kept, counter = GRUCache(*map(readable, cache)), np.zeros(3, np.int64)
    gru_layer_backward(readable(dh), kept, out, dz, np.zeros_like(out.dh0), whole(sizes["H"]), counter)
    return out
