"""RNN and GRU layers, forward and backward, for a team's member with streams b0:b1. Equations: kernels/spec/cells.py.

An RNN's z, the argument of tanh, is one matrix (T B, H) that input and state add to, and lies where h from the second
state on will: nothing else is kept. A GRU's a and s are two such matrices (T B, 3H), one after the other in `gates`,
and so are da and ds in dz. `sides` says how many there are: the input's is the first, the state's the last.

A member needs nobody else until the layers are done. Weights, gates and dz are arrays of one dimension. Nothing is
allocated but by the ops at the end, which check their arguments and make what they are not given.
"""

from typing import Any

import numpy as np

from kernels import spec
from kernels.cpu.cells import gru_backward as gru_step_backward
from kernels.cpu.cells import gru_forward as gru_step_forward
from kernels.cpu.cells import rnn_backward as rnn_step_backward
from kernels.cpu.cells import rnn_forward as rnn_step_forward
from kernels.cpu.compiler import entry, inner, thin
from kernels.cpu.layers import add_gradient_ids, drop
from kernels.cpu.matmul import add_outer, add_product, add_rows, address, copy_to_rows, product_transposed
from kernels.cpu.model import block, readable, stretch_of
from kernels.spec import GRUCache, GRUGrads, RNNCache, RNNGrads, checks


# ------------------------------------------------------------------------------------------------------- one layer
@inner
def _project_ids(x, W_x, b, z, z_at, t0, t1, b0, b1):
    """Rows of z (T B N,), from z_at on, of steps t0:t1 = W_x[x] + b, for ids x (T, B)."""
    B, N = x.shape[1], b.shape[0]
    for t in range(t0, t1):
        for r in range(b0, b1):
            row, to = x[t, r] * N, z_at + (t * B + r) * N
            out, w = z[to : to + N], W_x[row : row + N]
            for j in range(N):
                out[j] = w[j] + b[j]


@thin
def _project_floats(x, W_x, b, z, z_at, t0, t1, b0, b1):
    """The same = x W_x + b, for floats x (T, B, D): in one product where it can be."""
    _, B, D = x.shape
    N = b.shape[0]
    turns, rows = (1, (t1 - t0) * B) if b1 - b0 == B else (t1 - t0, b1 - b0)
    for t in range(t0, t0 + turns):
        row = t * B + b0
        copy_to_rows(b, z, z_at + row * N, N, rows)
        add_product(x, row * D, D, W_x, 0, N, z, z_at + row * N, N, rows, D, N)


@inner
def _run_forward(h, W_h, b_h, z, z_at, sides, t0, t1, b0, b1):
    """Run steps t0:t1 from h[t0] of h (T+1, B, H); z, from z_at on, holds the input's part. b_h is a GRU's alone."""
    T, B, H = h.shape[0] - 1, h.shape[1], h.shape[2]
    N, R, zero = b_h.shape[0], b1 - b0, h.dtype.type(0)
    for t in range(t0, t1):
        row = t * B + b0
        a_at = z_at + row * N
        s_at = a_at + (sides - 1) * T * B * N
        if sides == 2:
            copy_to_rows(b_h, z, s_at, N, R)
        add_product(h, row * H, H, W_h, 0, N, z, s_at, N, R, H, N)
        if sides == 1:
            rnn_step_forward(zero, address(h, (row + B) * H), R * H)
        else:
            for r in range(R):
                before, after = address(h, (row + r) * H), address(h, (row + r + B) * H)
                gru_step_forward(zero, address(z, a_at + r * N), address(z, s_at + r * N), before, after, H)


@inner
def _run_backward(dh, h, W_h, gates, dz, sides, dh_next, kept, t0, t1, b0, b1):
    """Run steps t0:t1 backward: dz is written; dh_next + kept (B, H) go from the state's after them to that before.

    dh is (T, B, H), h (T+1, B, H); kept is what a GRU passes on past its gates, and not touched for an RNN.
    """
    T, B, H = dh.shape
    N, R, zero = W_h.size // H, b1 - b0, dh.dtype.type(0)
    side = (sides - 1) * T * B * N
    for t in range(t1 - 1, t0 - 1, -1):
        row = t * B + b0
        if sides == 1:
            rnn_step_backward(
                zero, address(dh, row * H), address(h, (row + B) * H), address(dz, row * N), address(dh_next, b0 * H),
                R * H,
            )  # fmt: skip
        else:
            for r in range(row, row + R):
                stream = (r - t * B) * H
                gru_step_backward(
                    zero, address(dh, r * H), address(gates, r * N), address(gates, side + r * N), address(h, r * H),
                    address(dz, r * N), address(dz, side + r * N), address(dh_next, stream), address(kept, stream), H,
                )  # fmt: skip
        product_transposed(dz, side + row * N, N, W_h, 0, N, dh_next, b0 * H, H, R, H, N)


# ----------------------------------------------------------------------------------------------------- whole model
@inner
def _gates_of(h, gates, layer):
    """A layer's z and where it begins: behind the first state of h for an RNN, which has no gates."""
    z = gates[layer].reshape(gates[layer].size)
    return (h[layer].reshape(h[layer].size), h.shape[2] * h.shape[3]) if gates.shape[1] == 1 else (z, 0)


@thin
def forward(theta, offsets, x, h, gates, extra, n, pieces, b0, b1):
    """Run all layers over inputs x (T, B) from h[:, 0], iteration n of the masks: the member's part."""
    L, (T, B), sides = h.shape[0], x.shape, gates.shape[1]
    stretch = stretch_of(T, B)
    for layer in range(L):
        at = (2 + sides) * layer
        W_x, W_h = block(theta, offsets, at), block(theta, offsets, at + 1)
        b_x, b_h = block(theta, offsets, at + 2), block(theta, offsets, at + 1 + sides)
        z, z_at = _gates_of(h, gates, layer)
        if extra is not None and extra.table.size > 0 and layer == 0:
            W_x = extra.table.reshape(extra.table.size)
        for t0 in range(0, T, stretch):
            t1 = t0 + stretch
            if layer == 0:
                _project_ids(x, W_x, b_x, z, z_at, t0, t1, b0, b1)
            else:
                below = h[layer - 1, 1:]
                if extra is not None and extra.dropped.size > 0:
                    below = extra.dropped[layer - 1]
                _project_floats(below, W_x, b_x, z, z_at, t0, t1, b0, b1)
            _run_forward(h[layer], W_h, b_h, z, z_at, sides, t0, t1, b0, b1)
        if extra is not None and extra.dropped.size > 0:
            drop(h[layer, 1:], extra.masks[n, layer], extra.scale, extra.dropped[layer], b0, b1, pieces, 0, 1)


@thin
def backward(theta, offsets, h, gates, dz, dh, carry, extra, n, pieces, b0, b1):
    """From dh of what the last layer passed up to dz (L, sides, T, B, N) of all layers: the member's part."""
    L, sides, T, B, N = dz.shape
    H, stretch = h.shape[3], stretch_of(T, B)
    for layer in range(L - 1, -1, -1):
        if extra is not None and extra.dropped.size > 0:
            drop(dh, extra.masks[n, layer], extra.scale, dh, b0, b1, pieces, 0, 1)
        for r in range(b0, b1):
            carry[0, r] = 0
            carry[1, r] = 0
        at = (2 + sides) * layer
        W_x, W_h = block(theta, offsets, at), block(theta, offsets, at + 1)
        z, d = gates[layer].reshape(gates[layer].size), dz[layer].reshape(dz[layer].size)
        for t1 in range(T, 0, -stretch):
            t0 = t1 - stretch
            _run_backward(dh, h[layer], W_h, z, d, sides, carry[0], carry[1], t0, t1, b0, b1)
            turns, rows = (1, stretch * B) if b1 - b0 == B else (stretch, b1 - b0)
            for t in range(t0, t0 + turns if layer > 0 else t0):
                row = t * B + b0
                product_transposed(d, row * N, N, W_x, 0, N, dh, row * H, H, rows, H, N)


# ----------------------------------------------------------------------------------------------------- single ops
@entry
def forward_ids(x, W_x, W_h, b_x, b_h, h, z, z_at, sides):
    """One layer over ids x (T, B): h (T+1, B, H) is written, but for h[0], and z (see the head of this file)."""
    _project_ids(x, W_x, b_x, z, z_at, 0, x.shape[0], 0, x.shape[1])
    _run_forward(h, W_h, b_h, z, z_at, sides, 0, x.shape[0], 0, x.shape[1])


@entry
def forward_floats(x, W_x, W_h, b_x, b_h, h, z, z_at, sides):
    """One layer over floats x (T, B, D): the same."""
    _project_floats(x, W_x, b_x, z, z_at, 0, x.shape[0], 0, x.shape[1])
    _run_forward(h, W_h, b_h, z, z_at, sides, 0, x.shape[0], 0, x.shape[1])


@inner
def _backward(dh, h, gates, W_h, dz, dh0, kept, dW_h, db_x, db_h, sides):
    T, B, H = dh.shape
    N = db_x.shape[0]
    side = (sides - 1) * T * B * N
    _run_backward(dh, h, W_h, gates, dz, sides, dh0, kept, 0, T, 0, B)
    if sides == 2:
        for r in range(B):
            for j in range(H):
                dh0[r, j] += kept[r, j]
    dW_h[:], db_x[:], db_h[:] = 0, 0, 0
    add_outer(h, 0, H, dz, side, N, dW_h, 0, N, T * B, H, N)
    add_rows(dz, 0, N, db_x, T * B)
    if sides == 2:
        add_rows(dz, side, N, db_h, T * B)


@entry
def backward_ids(dh, x, h, gates, W_h, dz, dh0, kept, dW_x, dW_h, db_x, db_h, sides):
    """Gradients of one layer over ids; dh0 holds that of the last state and becomes that of the first; kept is zero."""
    _backward(dh, h, gates, W_h, dz, dh0, kept, dW_h, db_x, db_h, sides)
    dW_x[:] = 0
    add_gradient_ids(x, dz, 0, dW_x, 0, db_x.shape[0], 0, db_x.shape[0])


@entry
def backward_floats(dh, x, h, gates, W_x, W_h, dz, dx, dh0, kept, dW_x, dW_h, db_x, db_h, sides):
    """Gradients of one layer over floats: the same."""
    T, B, D = x.shape
    N = db_x.shape[0]
    _backward(dh, h, gates, W_h, dz, dh0, kept, dW_h, db_x, db_h, sides)
    product_transposed(dz, 0, N, W_x, 0, N, dx, 0, D, T * B, D, N)
    dW_x[:] = 0
    add_outer(x, 0, D, dz, 0, N, dW_x, 0, N, T * B, D, N)


def _forward_layer(x: Any, W_x: Any, W_h: Any, b_x: Any, b_h: Any, *rest: Any) -> None:
    run = forward_ids if x.ndim == 2 else forward_floats
    run(*map(readable, (x, W_x.reshape(-1), W_h.reshape(-1), b_x, b_h)), *rest)


def _backward_layer(
    dh: Any, x: Any, h: Any, gates: Any, W_x: Any, W_h: Any, dz: Any, dh_last: Any, out: Any, sides: int
) -> None:
    dx, dh0, dW_x, dW_h, *biases = out
    dh, x, h = map(readable, (dh, x, h))
    flat_gates, W_x, W_h = (readable(a.reshape(-1)) for a in (gates, W_x, W_h))
    dz, dW_x, dW_h = (a.reshape(-1) for a in (dz, dW_x, dW_h))
    kept = np.zeros_like(dh0)
    dh0[...] = 0 if dh_last is None else dh_last
    if x.ndim == 2:
        backward_ids(dh, x, h, flat_gates, W_h, dz, dh0, kept, dW_x, dW_h, biases[0], biases[-1], sides)
    else:
        backward_floats(dh, x, h, flat_gates, W_x, W_h, dz, dx, dh0, kept, dW_x, dW_h, biases[0], biases[-1], sides)


def rnn_forward(x: Any, h0: Any, W_x: Any, W_h: Any, b: Any, *, out: Any = None) -> tuple[np.ndarray, RNNCache]:
    """Run one layer of the plain recurrent network, as :func:`kernels.reference.cells.rnn_forward`.

    Allocates nothing where `out` is given.
    """
    sizes = checks.rnn_forward(x, h0, W_x, W_h, b, out)
    h = spec.aligned_zeros((sizes["T"] + 1, *h0.shape), h0.dtype) if out is None else out
    h[0] = h0
    _forward_layer(x, W_x, W_h, b, b, h, h.reshape(-1), h0.size, 1)
    return h, RNNCache(x, h, W_x, W_h)


def rnn_backward(
    dh: Any, cache: RNNCache, dh_last: Any = None, *, out: RNNGrads | None = None, dz: Any = None
) -> RNNGrads:
    """Backpropagate through one layer of the plain recurrent network, as :func:`kernels.reference.cells.rnn_backward`.

    Where `out` and `dz` (T, B, H) are given, allocates (B, H) alone.
    """
    checks.rnn_backward(dh, cache, dh_last, out, dz)
    x, h, W_x, W_h = cache
    if out is None:
        out = RNNGrads(None if x.ndim == 2 else np.empty_like(x), *map(np.empty_like, (h[0], W_x, W_h, W_x[0])))
    dz = spec.aligned_zeros(dh.shape, dh.dtype) if dz is None else dz
    _backward_layer(dh, x, h, h, W_x, W_h, dz, dh_last, out, 1)
    return out


def gru_forward(
    x: Any, h0: Any, W_x: Any, W_h: Any, b_x: Any, b_h: Any, *, out: tuple[Any, Any] | None = None
) -> tuple[np.ndarray, GRUCache]:
    """Run one GRU layer over T steps and B streams, as :func:`kernels.reference.cells.gru_forward`.

    Allocates nothing where `out` = (h, gates) is given.
    """
    sizes = checks.gru_forward(x, h0, W_x, W_h, b_x, b_h, out)
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    h, gates = out or (spec.aligned_zeros(dims, h0.dtype) for dims in ((T + 1, B, H), (2, T, B, 3 * H)))
    h[0] = h0
    _forward_layer(x, W_x, W_h, b_x, b_h, h, gates.reshape(-1), 0, 2)
    return h, GRUCache(x, h, gates, W_x, W_h)


def gru_backward(
    dh: Any, cache: GRUCache, dh_last: Any = None, *, out: GRUGrads | None = None, dz: Any = None
) -> GRUGrads:
    """Backpropagate through one GRU layer, as :func:`kernels.reference.cells.gru_backward`.

    Where `out` and `dz` (2, T, B, 3H) are given, allocates (B, H) alone.
    """
    checks.gru_backward(dh, cache, dh_last, out, dz)
    x, h, gates, W_x, W_h = cache
    if out is None:
        dx = None if x.ndim == 2 else np.empty_like(x)
        out = GRUGrads(dx, *map(np.empty_like, (h[0], W_x, W_h, W_x[0], W_x[0])))
    dz = spec.aligned_zeros(gates.shape, gates.dtype) if dz is None else dz
    _backward_layer(dh, x, h, gates, W_x, W_h, dz, dh_last, out, 2)
    return out
