"""The plain RNN layer, forward and backward, in plain NumPy. Equations: :mod:`kernels.spec.cells`."""

import numpy as np

from kernels.reference.layer import from_input, hold, one_step, operand, pass_by, steps, weight_gradients
from kernels.spec import Array, Cache, Floats, Grads, Ids, RNNCache, RNNGrads, checks


def rnn_forward(
    x: Array,
    h0: Floats,
    W_x: Floats,
    W_h: Floats,
    b: Floats,
    *,
    lengths: Ids | None = None,
    reverse: bool = False,
    threads: int = 1,
    out: Floats | None = None,
) -> tuple[Array, Cache]:
    """Run one plain RNN layer over T steps and B streams: ``h_t = tanh(x_t W_x + h_{t-1} W_h + b)``.

    Parameters
    ----------
    x : (T, B) int32 ids, each selecting a row of W_x, or (T, B, D) floats; read
    h0 : (B, H), initial state; read
    W_x, W_h, b : (D, H), (H, H), (H,); read
    lengths : (B,) int64, number of steps of each stream, 1 to T; None: T for all. Beyond its end a stream keeps its
        state, its gates are zero and its x counts for nothing, but must be valid: ids in range, finite floats
    reverse : whether to run from each stream's last step to its first; h[t+1] is then the state after steps t and later
    threads : largest number of threads; any number gives the same bits
    out : (T+1, B, H) buffer for h, overwritten; None allocates a new one

    Returns
    -------
    h : (T+1, B, H), h[0] is h0 and h[t+1] the state after step t
    cache : RNNCache for :func:`rnn_backward`; it holds the arrays themselves, not copies

    Raises
    ------
    ValueError
        ``W_h: expected (H, H) = (3, 3), got (3, 4)`` and the like.

    Notes
    -----
    Equations and source: kernels/spec/cells.py. Cost: 2 T B H (H + D) flops, 2 T B H H for ids. Accuracy: as
    :func:`lstm_forward`.
    """
    sizes = checks.forward("rnn", x, (h0,), W_x, W_h, (b,), lengths, reverse, threads, out).sizes
    h = np.empty((sizes["T"] + 1, *h0.shape), h0.dtype) if out is None else out
    h[0] = h0
    for t, was in steps(sizes["T"], reverse):
        h[t + 1] = np.tanh(from_input(x[t], W_x) + operand(h[was]) @ W_h + b)
        hold(t, was, lengths, (h,))
    return h, RNNCache(x, h, W_x, W_h, lengths=lengths, reverse=reverse)


def rnn_backward(
    dh: Floats,
    cache: Cache,
    dh_last: Floats | None = None,
    *,
    threads: int = 1,
    out: Grads | None = None,
    dz: Floats | None = None,
) -> Grads:
    """Backpropagate through one plain RNN layer, over all T steps.

    Parameters
    ----------
    dh : (T, B, H), gradient of the loss with respect to h[1:], which is not read beyond a stream's end; read
    cache : the cache that :func:`rnn_forward` returned; read
    dh_last : (B, H), gradient with respect to the state after the last step, None for zero; read
    threads : largest number of threads; any number gives the same bits
    out : RNNGrads of buffers for the results (dx is None for ids), overwritten; None allocates new ones
    dz : (T, B, H) buffer for the gradient of tanh's argument, overwritten

    Returns
    -------
    RNNGrads
        dx (None for ids), dh0, dW_x, dW_h, db, of the shapes of x, h0, W_x, W_h, b.

    Raises
    ------
    ValueError
        ``dh: expected (T, B, H) = (5, 2, 3), got (5, 2, 4)`` and the like.

    Notes
    -----
    Equations and source: kernels/spec/cells.py. Cost: twice that of the forward pass.
    """
    checks.backward("rnn", dh, cache, (dh_last,), threads, out, dz)
    x, h, W_x, W_h, lengths, reverse = cache
    dz = np.empty_like(h[1:]) if dz is None else dz
    dh_next = np.zeros_like(h[0]) if dh_last is None else dh_last
    for t, _ in reversed(steps(len(dh), reverse)):
        dz[t] = operand((dh[t] + dh_next) * (1 - h[t + 1] ** 2))
        (dh_next,) = pass_by(t, lengths, dz, (dh_next,), (dz[t] @ W_h.T,))
    out = out or RNNGrads(None if x.ndim == 2 else np.empty_like(x), *map(np.empty_like, (h[0], W_x, W_h, W_x[0])))
    out.dh0[...] = dh_next
    weight_gradients(x, h, W_x, dz, dz, out, reverse)
    out.db[...] = dz.sum(axis=(0, 1))
    return out


def rnn_step(
    x: Array, h: Floats, W_x: Floats, W_h: Floats, b: Floats, *,
    out: Floats | None = None,
) -> Array:  # fmt: skip
    """Run one step of a plain RNN layer, without a T axis; nothing is kept for gradients.

    Parameters
    ----------
    x : (B,) int32 ids or (B, D) floats, the input of the step; read
    h : (B, H), the state before the step; read
    W_x, W_h, b : (D, H), (H, H), (H,); read
    out : buffer (B, H) for h; may be the state before; None allocates new ones

    Returns
    -------
    h : (B, H), the state after the step; those of `out` if given

    Raises
    ------
    ValueError
        ``W_h: expected (H, H) = (3, 3), got (3, 4)`` and the like.

    Notes
    -----
    Equations and source: kernels/spec/cells.py. Cost: 2 B H (H + D) flops. Accuracy: as
    :func:`rnn_forward`, whose step it is; the order of additions may differ.
    """
    checks.step("rnn", x, (h,), W_x, W_h, (b,), out)
    return one_step(rnn_forward(x[None], h, W_x, W_h, b)[-1], "rnn", out)
