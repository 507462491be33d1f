"""The GRU layer, forward and backward, in plain NumPy. Equations: :mod:`kernels.spec.cells`."""

import numpy as np

from kernels.reference.layer import (
    from_input,
    hold,
    one_step,
    operand,
    pass_by,
    sigmoid,
    split_gates,
    steps,
    weight_gradients,
)
from kernels.spec import Array, Cache, Floats, Grads, GRUCache, GRUGrads, Ids, checks


def gru_forward(
    x: Array,
    h0: Floats,
    W_x: Floats,
    W_h: Floats,
    b_x: Floats,
    b_h: Floats,
    *,
    lengths: Ids | None = None,
    reverse: bool = False,
    threads: int = 1,
    out: tuple[Floats, Floats] | None = None,
) -> tuple[Array, Cache]:
    """Run one GRU layer over T steps and B streams, with PyTorch's equations.

    Parameters
    ----------
    x : (T, B) int32 ids, each selecting a row of W_x, or (T, B, D) floats; read
    h0 : (B, H), initial state; read
    W_x, W_h, b_x, b_h : (D, 3H), (H, 3H), (3H,), (3H,); read
    lengths : (B,) int64, number of steps of each stream, 1 to T; None: T for all. Beyond its end a stream keeps its
        state, its gates are zero and its x counts for nothing, but must be valid: ids in range, finite floats
    reverse : whether to run from each stream's last step to its first; h[t+1] is then the state after steps t and later
    threads : largest number of threads; any number gives the same bits
    out : buffers (h, gates), (T+1, B, H) and (2, T, B, 3H), for the results; None allocates new ones

    Returns
    -------
    h : (T+1, B, H), h[0] is h0 and h[t+1] the state after step t
    cache : GRUCache for :func:`gru_backward`; it holds the arrays themselves, not copies

    Raises
    ------
    ValueError
        ``W_h: expected (H, 3H) = (3, 9), got (3, 8)`` and the like.

    Notes
    -----
    Equations and source: kernels/spec/cells.py. Cost: 6 T B H (H + D) flops, 6 T B H H for ids. Accuracy: as
    :func:`lstm_forward`.
    """
    sizes = checks.forward("gru", x, (h0,), W_x, W_h, (b_x, b_h), lengths, reverse, threads, out).sizes
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    h, gates = out or (np.empty((T + 1, B, H), h0.dtype), np.empty((2, T, B, 3 * H), h0.dtype))
    h[0] = h0
    for t, was in steps(T, reverse):
        gates[1, t] = operand(h[was]) @ W_h + b_h
        a_r, a_z, a_n = split_gates(from_input(x[t], W_x) + b_x, 3)
        s_r, s_z, s_n = split_gates(gates[1, t], 3)
        r, z, n = split_gates(gates[0, t], 3)
        r[...], z[...] = sigmoid(a_r + s_r), sigmoid(a_z + s_z)
        n[...] = np.tanh(a_n + r * s_n)
        h[t + 1] = (1 - z) * n + z * h[was]
        hold(t, was, lengths, (h,), gates)
    return h, GRUCache(x, h, gates, W_x, W_h, lengths=lengths, reverse=reverse)


def gru_backward(
    dh: Floats,
    cache: Cache,
    dh_last: Floats | None = None,
    *,
    threads: int = 1,
    out: Grads | None = None,
    dz: Floats | None = None,
) -> Grads:
    """Backpropagate through one GRU layer, over all T steps.

    Parameters
    ----------
    dh : (T, B, H), gradient of the loss with respect to h[1:], which is not read beyond a stream's end; read
    cache : the cache that :func:`gru_forward` returned; read
    dh_last : (B, H), gradient with respect to the state after the last step, None for zero; read
    threads : largest number of threads; any number gives the same bits
    out : GRUGrads of buffers for the results (dx is None for ids), overwritten; None allocates new ones
    dz : (2, T, B, 3H) buffer for da and ds of spec/cells.py, the gradients of x W_x and h W_h; overwritten

    Returns
    -------
    GRUGrads
        dx (None for ids), dh0, dW_x, dW_h, db_x, db_h, of the shapes of x, h0, W_x, W_h, b_x, b_h.

    Raises
    ------
    ValueError
        ``dh: expected (T, B, H) = (5, 2, 3), got (5, 2, 4)`` and the like.

    Notes
    -----
    Equations and source: kernels/spec/cells.py. Cost: twice that of the forward pass.
    """
    checks.backward("gru", dh, cache, (dh_last,), threads, out, dz)
    x, h, gates, W_x, W_h, lengths, reverse = cache
    dz = np.empty_like(gates) if dz is None else dz
    dh_next = np.zeros_like(h[0]) if dh_last is None else dh_last
    for t, was in reversed(steps(len(dh), reverse)):
        r, z, n = split_gates(gates[0, t], 3)
        s_n = split_gates(gates[1, t], 3)[2]
        da_r, da_z, da_n = split_gates(dz[0, t], 3)
        dh_t = dh[t] + dh_next
        da_n[...] = dh_t * (1 - z) * (1 - n**2)
        da_z[...] = dh_t * (h[was] - n) * z * (1 - z)
        da_r[...] = da_n * s_n * r * (1 - r)
        dz[1, t] = np.concatenate([da_r, da_z, da_n * r], axis=-1)
        dz[:, t] = operand(dz[:, t])
        (dh_next,) = pass_by(t, lengths, dz, (dh_next,), (dz[1, t] @ W_h.T + dh_t * z,))
    out = out or GRUGrads(
        None if x.ndim == 2 else np.empty_like(x), *map(np.empty_like, (h[0], W_x, W_h, W_x[0], W_x[0]))
    )
    out.dh0[...] = dh_next
    weight_gradients(x, h, W_x, dz[0], dz[1], out, reverse)
    out.db_x[...], out.db_h[...] = dz.sum(axis=(1, 2))
    return out


def gru_step(
    x: Array, h: Floats, W_x: Floats, W_h: Floats, b_x: Floats, b_h: Floats, *,
    out: tuple[Floats, Floats] | None = None,
) -> Array:  # fmt: skip
    """Run one step of a GRU layer, without a T axis; nothing is kept for gradients.

    Parameters
    ----------
    x : (B,) int32 ids or (B, D) floats, the input of the step; read
    h : (B, H), the state before the step; read
    W_x, W_h, b_x, b_h : (D, 3H), (H, 3H), (3H,), (3H,); read
    out : buffers (h, gates), (B, H) and (2, B, 3H), for results and scratch; None allocates new ones;
        h may be the state before

    Returns
    -------
    h : (B, H), the state after the step; those of `out` if given

    Raises
    ------
    ValueError
        ``W_h: expected (H, 3H) = (3, 9), got (3, 8)`` and the like.

    Notes
    -----
    Equations and source: kernels/spec/cells.py. Cost: 6 B H (H + D) flops. Accuracy: as
    :func:`gru_forward`, whose step it is; the order of additions may differ.
    """
    checks.step(
        "gru",
        x,
        (h,),
        W_x,
        W_h,
        (
            b_x,
            b_h,
        ),
        out,
    )
    return one_step(gru_forward(x[None], h, W_x, W_h, b_x, b_h)[-1], "gru", out)
