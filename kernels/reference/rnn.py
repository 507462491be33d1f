"""The plain RNN layer, forward and backward, in plain NumPy. Equations: :mod:`kernels.spec.cells`."""

import numpy as np

from kernels.reference.layer import from_input, operand, weight_gradients
from kernels.spec import Array, Cache, Floats, Grads, RNNCache, RNNGrads, checks


def rnn_forward(
    x: Array, h0: Floats, W_x: Floats, W_h: Floats, b: Floats, *, out: Floats | None = None
) -> tuple[Array, Cache]:
    """Run one plain RNN layer over T steps and B streams: ``h_t = tanh(x_t W_x + h_{t-1} W_h + b)``.

    Parameters
    ----------
    x : (T, B) int32 ids, each selecting a row of W_x, or (T, B, D) floats; read
    h0 : (B, H), initial state; read
    W_x, W_h, b : (D, H), (H, H), (H,); read
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
    sizes = checks.forward("rnn", x, (h0,), W_x, W_h, (b,), out)
    h = np.empty((sizes["T"] + 1, *h0.shape), h0.dtype) if out is None else out
    h[0] = h0
    for t in range(sizes["T"]):
        h[t + 1] = np.tanh(from_input(x[t], W_x) + operand(h[t]) @ W_h + b)
    return h, RNNCache(x, h, W_x, W_h)


def rnn_backward(
    dh: Floats, cache: Cache, dh_last: Floats | None = None, *, out: Grads | None = None, dz: Floats | None = None
) -> Grads:
    """Backpropagate through one plain RNN layer, over all T steps.

    Parameters
    ----------
    dh : (T, B, H), gradient of the loss with respect to h[1:]; read
    cache : the cache that :func:`rnn_forward` returned; read
    dh_last : (B, H), gradient with respect to the state after the last step, None for zero; read
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
    checks.backward("rnn", dh, cache, (dh_last,), out, dz)
    x, h, W_x, W_h = cache
    dz = np.empty_like(h[1:]) if dz is None else dz
    dh_next = np.zeros_like(h[0]) if dh_last is None else dh_last
    for t in reversed(range(len(dh))):
        dz[t] = operand((dh[t] + dh_next) * (1 - h[t + 1] ** 2))
        dh_next = dz[t] @ W_h.T
    out = out or RNNGrads(None if x.ndim == 2 else np.empty_like(x), *map(np.empty_like, (h[0], W_x, W_h, W_x[0])))
    out.dh0[...] = dh_next
    weight_gradients(x, h, W_x, dz, dz, out)
    out.db[...] = dz.sum(axis=(0, 1))
    return out
