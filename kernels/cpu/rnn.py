"""The plain RNN on the CPU: its steps, its layer inside a model, and its two ops. Equations: kernels/spec/cells.py.

z, the argument of tanh, is a matrix (T B, H) in the memory of h[1:], which overwrites it; nothing else is kept. Threads
split the streams only, not the hidden units.
"""

from typing import Any

import numpy as np
from numba import types
from numba.extending import intrinsic

from kernels.cpu import mixed
from kernels.cpu.compiler import entry, inner, thin
from kernels.cpu.emit.activations import emit_tanh
from kernels.cpu.emit.rows import Row
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
from kernels.cpu.matmul import address
from kernels.cpu.threads import alone, whole
from kernels.cpu.values import Matrix, Weights, block, flat, readable
from kernels.spec import LAYERS, Cache, Grads, RNNCache, checks

BLOCKS = len(LAYERS["rnn"].params._fields)  # parameter blocks of a layer: W_x, W_h and its vectors


# ------------------------------------------------------------------------------------------------------------ steps
@intrinsic
def rnn_step_forward(typing, zero, h, n):
    """Replace h (n,), the argument of tanh, with the state."""
    signature = types.void(zero, types.uintp, types.intp)

    def emit(context, builder, signature, arguments):
        _, h, n = arguments
        vec = Vectors(builder, real_type(signature.args[0]))
        h = builder.inttoptr(h, vec.real.as_pointer())

        def body(vec, at, mask):
            row = Row(vec, at, mask)
            row.store(emit_tanh(row.load(h)), h)

        for_each_part(builder, vec, n, body)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def rnn_step_backward(typing, zero, dh, h, dz, dh_next, n):
    """Write dz (n,), given dh + dh_next, the gradient of h."""
    address = types.uintp
    signature = types.void(zero, address, address, address, address, types.intp)

    def emit(context, builder, signature, arguments):
        _, dh, h, dz, dh_next, n = arguments
        vec = Vectors(builder, real_type(signature.args[0]))
        dh, h, dz, dh_next = (builder.inttoptr(place, vec.real.as_pointer()) for place in (dh, h, dz, dh_next))

        def body(vec, at, mask):
            row = Row(vec, at, mask)
            state = row.load(h)
            row.store((row.load(dh) + row.load(dh_next)) * (1.0 - state * state), dz)

        for_each_part(builder, vec, n, body)
        return context.get_dummy_value()

    return signature, emit


@inner
def run_forward(weights, h, t0, t1, share):
    """Run steps t0:t1 from h[t0] of h (T+1, B, H), whose later rows hold x W_x + b at first."""
    B, H, b0 = h.shape[1], h.shape[2], share.b0
    R, z, zero = share.b1 - share.b0, flat(h), h.dtype.type(0)
    for t in range(t0, t1):
        row = t * B + b0
        add_gates(1, h, row * H, weights, z, (row + B) * H, R, H, share.pieces[0])
        rnn_step_forward(zero, address(h, (row + B) * H), R * H)
        mixed.round_state(weights.rounded, h, t + 1, share)


@inner
def run_backward(weights, dh, h, dz, dh_next, t0, t1, share):
    """Run steps t0:t1 backward: write the flat dz; dh_next (B, H) changes from the gradient after to that before."""
    T, B, H = dh.shape
    b0, R, zero = share.b0, share.b1 - share.b0, dh.dtype.type(0)
    for t in range(t1 - 1, t0 - 1, -1):
        row = t * B + b0
        rnn_step_backward(
            zero, address(dh, row * H), address(h, (row + B) * H), address(dz, row * H), address(dh_next, b0 * H), R * H
        )  # fmt: skip
        mixed.round_gates(weights.rounded, 1, dz, t, T, share)
        flow_back(1, dz, row, weights, dh_next, b0, R, share.pieces[0])


# --------------------------------------------------------------------------------------------------- inside a model
@inner
def prepare(net, ws, share):
    """Do nothing: this cell needs no packed or rounded matrices."""


@thin
def layer_forward(net, x, ws, extra, layer, share):
    """Run the thread's part of a layer over all steps."""
    T, B = x.shape
    h, b, steps = ws.h[layer], block(net, BLOCKS * layer + 2), stretch_of(T, B)
    z = flat(h)
    weights = Weights(block(net, BLOCKS * layer + 1), z[:0], None, mixed.of_state(ws.rounded_h, ws, layer))
    for t0 in range(0, T, steps):
        read_below(net, b, x, ws, extra, layer, z, B * h.shape[2], t0, t0 + steps, share)
        run_forward(weights, h, t0, t0 + steps, share)


@thin
def layer_backward(net, ws, layer, share):
    """Compute the thread's part of dz from ws.dh of the layer's output; ws.dh becomes the gradient of its input."""
    T, B, _ = ws.dh.shape
    d, steps = flat(ws.dz[layer]), stretch_back(T, B, ws)
    W_x, weights = (
        Weights(block(net, BLOCKS * layer), d[:0], None, mixed.of_gradient_below(ws.rounded_h, ws, layer)),
        Weights(block(net, BLOCKS * layer + 1), d[:0], None, mixed.of_gradient(ws.rounded_h, ws, layer)),
    )
    for t0 in range(T - steps, -1, -steps):
        run_backward(weights, ws.dh, ws.h[layer], d, ws.carry[0], t0, t0 + steps, share)
        if layer > 0:
            flow_below(1, d, W_x, ws.dh, t0, steps, share)


# ---------------------------------------------------------------------------------------------------- a single layer
@entry
def rnn_layer_forward(x, W_x, W_h, b, h, pieces, counter):
    """Run one layer over ids (T, B) or floats (T, B, D): write h (T+1, B, H), except h[0], which is read."""
    share, z = alone(h.shape[1], pieces, counter), flat(h)
    project(1, x, Weights(flat(W_x), z[:0], None, None), b, z, h.shape[1] * h.shape[2], 0, x.shape[0], share)
    run_forward(Weights(flat(W_h), z[:0], None, None), h, 0, x.shape[0], share)


@entry
def rnn_layer_backward(dh, cache, out, dz, pieces, counter):
    """Write the gradients of one layer; out.dh0 holds the gradient of the last state at first."""
    T, B, H = dh.shape
    share, d = alone(B, pieces, counter), flat(dz)
    run_backward(Weights(flat(cache.W_h), d[:0], None, None), dh, cache.h, d, out.dh0, 0, T, share)
    rows = Matrix(d, 0, H)
    gradient_of_state(cache.h, rows, out.dW_h)
    sum_rows(rows, T * B, out.db)
    gradients_of_input(cache.x, cache.W_x, rows, out.dx, out.dW_x)


def rnn_forward(x: Any, h0: Any, W_x: Any, W_h: Any, b: Any, *, out: Any = None) -> tuple[np.ndarray, Cache]:
    """Run one plain RNN layer, as :func:`kernels.reference.rnn_forward`.

    With `out`, no buffers are allocated.
    """
    sizes = checks.forward("rnn", x, (h0,), W_x, W_h, (b,), out)
    h = new_outputs("rnn", sizes, h0.dtype)[0] if out is None else out
    h[0] = h0
    rnn_layer_forward(*map(readable, (x, W_x, W_h, b)), h, whole(sizes["H"]), np.zeros(3, np.int64))
    return h, RNNCache(x, h, W_x, W_h)


def rnn_backward(dh: Any, cache: Cache, dh_last: Any = None, *, out: Grads | None = None, dz: Any = None) -> Grads:
    """Backpropagate through one plain RNN layer, as :func:`kernels.reference.rnn_backward`.

    With `out` and `dz` (T, B, H), no buffers are allocated.
    """
    sizes = checks.backward("rnn", dh, cache, (dh_last,), out, dz)
    out = new_gradients("rnn", sizes, cache.x, dh.dtype) if out is None else out
    dz = new_dz("rnn", sizes, dh.dtype) if dz is None else dz
    carried((dh_last,), out)
    kept = RNNCache(*map(readable, cache))
    rnn_layer_backward(readable(dh), kept, out, dz, whole(sizes["H"]), np.zeros(3, np.int64))
    return out
