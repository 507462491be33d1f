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
    flow_back,
    flow_below,
    project,
    read_below,
    stretch_back,
    stretch_of,
)
from kernels.cpu.matmul import address, clear_rows
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
def run_forward(weights, h, t0, t1, share, order):
    """Run turns t0:t1 of an Order on h (T+1, B, H), whose rows but h[0] hold x W_x + b at first."""
    T, B, H, b0 = h.shape[0] - 1, h.shape[1], h.shape[2], share.b0
    z, zero = flat(h), h.dtype.type(0)
    for turn in range(t0, t1):
        t = step_at(turn, T, order)
        row, was, rows = t * B + b0, row_before(t, T, order) * B + b0, rows_at(t, b0, share.b1, order)
        add_gates(1, h, was * H, weights, z, (row + B) * H, rows, H, share.pieces[0])
        rnn_step_forward(zero, address(h, (row + B) * H), rows * H)
        for r in range(share.b1 - b0):
            if is_over(t, b0 + r, order):
                copy_part(z, (was + r) * H, z, (row + r + B) * H, H)
        mixed.round_state(weights.rounded, h, t + 1, share)


@inner
def run_backward(weights, dh, h, dz, dh_next, t0, t1, share, order):
    """Run turns t0:t1 backward: write the flat dz; dh_next (B, H) changes from the gradient after to that before."""
    T, B, H = dh.shape
    b0, R, zero = share.b0, share.b1 - share.b0, dh.dtype.type(0)
    for turn in range(t1 - 1, t0 - 1, -1):
        t = step_at(turn, T, order)
        row, rows = t * B + b0, rows_at(t, b0, share.b1, order)
        rnn_step_backward(
            zero, address(dh, row * H), address(h, (row + B) * H), address(dz, row * H), address(dh_next, b0 * H), R * H
        )  # fmt: skip
        for r in range(R):
            if is_over(t, b0 + r, order):
                clear_rows(dz, (row + r) * H, H, 1, H)
        mixed.round_gates(weights.rounded, 1, dz, t, T, share)
        set_aside(dh_next, t, b0, rows, share.pieces[0], order)
        flow_back(1, dz, row, weights, dh_next, b0, rows, share.pieces[0])
        put_back(dh_next, t, b0, rows, share.pieces[0], order)


# --------------------------------------------------------------------------------------------------- inside a model
@inner
def prepare(net, ws, share):
    """Do nothing: this cell needs no packed or rounded matrices."""


@thin
def layer_forward(net, x, ws, extra, layer, share):
    """Run the thread's part of a layer over all steps."""
    T, B = x.shape[0], x.shape[1]
    h, b, steps = ws.h[layer], block(net, BLOCKS * layer + 2), stretch_of(T, B)
    z = flat(h)
    weights = Weights(block(net, BLOCKS * layer + 1), z[:0], None, mixed.of_state(ws.rounded_h, ws, layer))
    for t0 in range(0, T, steps):
        read_below(net, b, x, ws, extra, layer, z, B * h.shape[2], t0, t0 + steps, share)
        run_forward(weights, h, t0, t0 + steps, share, None)


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
        run_backward(weights, ws.dh, ws.h[layer], d, ws.carry[0], t0, t0 + steps, share, None)
        if layer > 0:
            flow_below(1, d, W_x, ws.dh, t0, steps, share)


# ---------------------------------------------------------------------------------------------------- a single layer
@entry
def rnn_layer_forward(x, W_x, W_h, b, h, order, members, pieces, counter, thread):
    """Run a thread's part of a layer: write h (T+1, B, H), except h[0]; return if all is well."""
    T, B, H = h.shape[0] - 1, h.shape[1], h.shape[2]
    share, z, steps = share_of(members, pieces, counter, thread), flat(h), stretch_of(T, B)
    from_x, from_h = Weights(flat(W_x), z[:0], None, None), Weights(flat(W_h), z[:0], None, None)
    for turn in range(0, T, steps):
        t = step_at(turn, T, order) if steps == 1 else 0
        project(1, x, from_x, b, z, B * H, t, t + steps, share)
        run_forward(from_h, h, turn, turn + steps, share, order)
    return counter[1] == 0


@entry
def rnn_layer_backward(dh, cache, out, dz, order, members, pieces, counter, thread):
    """Write a thread's part of the gradients; out.dh0 holds that of the last state at first."""
    T, B, H = dh.shape
    share, d = share_of(members, pieces, counter, thread), flat(dz)
    run_backward(Weights(flat(cache.W_h), d[:0], None, None), dh, cache.h, d, out.dh0, 0, T, share, order)
    barrier(counter, share.threads)  # dz is complete
    if counter[1] == 0:
        rows = Matrix(d, 0, H)
        gradient_of_state(cache.h, rows, out.dW_h, order, share)
        sum_rows(rows, T * B, out.db, share)
        gradients_of_input(cache.x, cache.W_x, rows, out.dx, out.dW_x, share)
    return counter[1] == 0


def rnn_forward(
    x: Any, h0: Any, W_x: Any, W_h: Any, b: Any, *, lengths: Any = None, reverse: bool = False, threads: int = 1,
    out: Any = None,
) -> tuple[np.ndarray, Cache]:  # fmt: skip
    """Run one plain RNN layer, as :func:`kernels.reference.rnn_forward`.

    With `out`, no buffers are allocated, but for (B, H) floats with `lengths`.
    """
    given = checks.forward("rnn", x, (h0,), W_x, W_h, (b,), lengths, reverse, threads, out)
    h = new_outputs("rnn", given.sizes, h0.dtype)[0] if out is None else out
    h[0] = h0
    read = (*map(readable, (x, W_x, W_h, b)), h, order_of(given, h0.dtype))
    by_threads("rnn_forward", given, lambda *who: rnn_layer_forward(*read, *who))
    return h, RNNCache(x, h, W_x, W_h, lengths, given.reverse)


def rnn_backward(
    dh: Any, cache: Cache, dh_last: Any = None, *, threads: int = 1, out: Grads | None = None, dz: Any = None
) -> Grads:
    """Backpropagate through one plain RNN layer, as :func:`kernels.reference.rnn_backward`.

    With `out` and `dz` (T, B, H), no buffers are allocated, but for (B, H) floats with `lengths`.
    """
    given = checks.backward("rnn", dh, cache, (dh_last,), threads, out, dz)
    out = new_gradients("rnn", given.sizes, cache.x, dh.dtype) if out is None else out
    dz = new_dz("rnn", given.sizes, dh.dtype) if dz is None else dz
    read = readable(dh), readable_cache(cache), out, dz, order_of(given, dh.dtype)
    by_threads("rnn_backward", given, lambda *who: rnn_layer_backward(*read, *who), carried((dh_last,), out, given))
    return out


@entry
def rnn_one_step(x, h_before, W_x, W_h, b, h, z, pieces, counter):
    """Write h (B, H) after a step from that before it, which may be the same array; z (B, H) is scratch, or is h."""
    B, H = h.shape
    sums = flat(z)
    project(
        1,
        x.reshape((1, *x.shape)),
        Weights(flat(W_x), sums[:0], None, None),
        b,
        sums,
        0,
        0,
        1,
        alone(B, pieces, counter),
    )
    add_gates(1, h_before, 0, Weights(flat(W_h), sums[:0], None, None), sums, 0, B, H, pieces[0])
    rnn_step_forward(h.dtype.type(0), address(z, 0), B * H)
    copy_part(sums, 0, flat(h), 0, B * H)


def rnn_step(x: Any, h: Any, W_x: Any, W_h: Any, b: Any, *, out: Any = None) -> np.ndarray:
    """Run one step of a plain RNN layer, as :func:`kernels.reference.rnn_step`.

    With `out`, nothing is allocated, unless it is h itself.
    """
    checks.step("rnn", x, (h,), W_x, W_h, (b,), out)
    after = new_states("rnn", h)[0] if out is None else out
    z = np.empty_like(h) if np.may_share_memory(after, h) else after
    rnn_one_step(*map(readable, (x, h, W_x, W_h, b)), after, z, whole(h.shape[1]), NO_TEAM)
    return after
