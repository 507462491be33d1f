"""The LSTM layer, forward and backward, in plain NumPy. Equations: :mod:`kernels.spec.cells`."""

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
from kernels.spec import Array, Cache, Floats, Grads, Ids, LSTMCache, LSTMGrads, checks


def lstm_forward(
    x: Array,
    h0: Floats,
    c0: Floats,
    W_x: Floats,
    W_h: Floats,
    b: Floats,
    *,
    lengths: Ids | None = None,
    reverse: bool = False,
    threads: int = 1,
    out: tuple[Floats, Floats, Floats] | None = None,
) -> tuple[Array, Array, Cache]:
    """Run one LSTM layer over T steps and B streams.

    Parameters
    ----------
    x : (T, B) int32 ids, each selecting a row of W_x, or (T, B, D) floats; read
    h0, c0 : (B, H), initial hidden and cell state; read
    W_x, W_h, b : (D, 4H), (H, 4H), (4H,); read
    lengths : (B,) int64, number of steps of each stream, 1 to T; None: T for all. Beyond its end a stream keeps its
        state, its gates are zero and its x counts for nothing, but must be valid: ids in range, finite floats
    reverse : whether to run from each stream's last step to its first; h[t+1] is then the state after steps t and later
    threads : largest number of threads; any number gives the same bits
    out : buffers (h, c, gates), (T+1, B, H) twice and (T, B, 4H), for the results; None allocates new ones

    Returns
    -------
    h, c : (T+1, B, H), [0] is the initial state and [t+1] the state after step t
    cache : LSTMCache for :func:`lstm_backward`; it holds the arrays themselves, not copies

    Raises
    ------
    ValueError
        ``W_h: expected (H, 4H) = (3, 12), got (3, 11)`` and the like.

    Notes
    -----
    Equations and source: kernels/spec/cells.py. Cost: 8 T B H (H + D) flops, 8 T B H H for ids.
    Accuracy: tests/kernel/test_chain.py checks every element of the gradients against central differences.
    """
    sizes = checks.forward("lstm", x, (h0, c0), W_x, W_h, (b,), lengths, reverse, threads, out).sizes
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    h, c, gates = out or (np.empty((T + 1, B, H), h0.dtype), np.empty((T + 1, B, H), h0.dtype), None)
    gates = np.empty((T, B, 4 * H), h0.dtype) if gates is None else gates
    h[0], c[0] = h0, c0
    for t, was in steps(T, reverse):
        z_i, z_f, z_g, z_o = split_gates(from_input(x[t], W_x) + operand(h[was]) @ W_h + b)
        i, f, g, o = split_gates(gates[t])
        i[...], f[...], g[...], o[...] = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
        c[t + 1] = f * c[was] + i * g
        h[t + 1] = o * np.tanh(c[t + 1])
        hold(t, was, lengths, (h, c), gates)
    return h, c, LSTMCache(x, h, c, gates, W_x, W_h, lengths=lengths, reverse=reverse)


def lstm_backward(
    dh: Floats,
    cache: Cache,
    dh_last: Floats | None = None,
    dc_last: Floats | None = None,
    *,
    threads: int = 1,
    out: Grads | None = None,
    dz: Floats | None = None,
) -> Grads:
    """Backpropagate through one LSTM layer, over all T steps.

    Parameters
    ----------
    dh : (T, B, H), gradient of the loss with respect to h[1:], which is not read beyond a stream's end; read
    cache : the cache that :func:`lstm_forward` returned; read
    dh_last, dc_last : (B, H), gradients with respect to h and c after the last step, None for zero; read
    threads : largest number of threads; any number gives the same bits
    out : LSTMGrads of buffers for the results (dx is None for ids), overwritten; None allocates new ones
    dz : (T, B, 4H) buffer for the gradient of the gate pre-activations, overwritten

    Returns
    -------
    LSTMGrads
        dx (None for ids), dh0, dc0, dW_x, dW_h, db, of the shapes of x, h0, c0, W_x, W_h, b.

    Raises
    ------
    ValueError
        ``dh: expected (T, B, H) = (5, 2, 3), got (5, 2, 4)`` and the like.

    Notes
    -----
    Equations and source: kernels/spec/cells.py. Cost: twice that of the forward pass.
    """
    checks.backward("lstm", dh, cache, (dh_last, dc_last), threads, out, dz)
    x, h, c, gates, W_x, W_h, lengths, reverse = cache
    dz = np.empty_like(gates) if dz is None else dz
    dh_next = np.zeros_like(h[0]) if dh_last is None else dh_last
    dc_next = np.zeros_like(c[0]) if dc_last is None else dc_last
    for t, was in reversed(steps(len(dh), reverse)):
        i, f, g, o = split_gates(gates[t])
        dz_i, dz_f, dz_g, dz_o = split_gates(dz[t])
        tanh_c = np.tanh(c[t + 1])
        dh_t = dh[t] + dh_next
        dc_t = dc_next + dh_t * o * (1 - tanh_c**2)
        dz_i[...] = dc_t * g * i * (1 - i)
        dz_f[...] = dc_t * c[was] * f * (1 - f)
        dz_g[...] = dc_t * i * (1 - g**2)
        dz_o[...] = dh_t * tanh_c * o * (1 - o)
        dz[t] = operand(dz[t])
        dh_next, dc_next = pass_by(t, lengths, dz, (dh_next, dc_next), (dz[t] @ W_h.T, dc_t * f))
    out = out or LSTMGrads(
        None if x.ndim == 2 else np.empty_like(x), *map(np.empty_like, (h[0], c[0], W_x, W_h, W_x[0]))
    )
    out.dh0[...], out.dc0[...] = dh_next, dc_next
    weight_gradients(x, h, W_x, dz, dz, out, reverse)
    out.db[...] = dz.sum(axis=(0, 1))
    return out


def lstm_step(
    x: Array, h: Floats, c: Floats, W_x: Floats, W_h: Floats, b: Floats, *,
    out: tuple[Floats, Floats, Floats] | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Run one step of an LSTM layer, without a T axis; nothing is kept for gradients.

    Parameters
    ----------
    x : (B,) int32 ids or (B, D) floats, the input of the step; read
    h, c : (B, H), the state before the step; read
    W_x, W_h, b : (D, 4H), (H, 4H), (4H,); read
    out : buffers (h, c, gates), (B, H) twice and (B, 4H), for results and scratch; None allocates new ones;
        h and c may be the state before

    Returns
    -------
    h, c : (B, H), the state after the step; those of `out` if given

    Raises
    ------
    ValueError
        ``W_h: expected (H, 4H) = (3, 12), got (3, 11)`` and the like.

    Notes
    -----
    Equations and source: kernels/spec/cells.py. Cost: 8 B H (H + D) flops. Accuracy: as
    :func:`lstm_forward`, whose step it is; the order of additions may differ.
    """
    checks.step("lstm", x, (h, c), W_x, W_h, (b,), out)
    return one_step(lstm_forward(x[None], h, c, W_x, W_h, b)[-1], "lstm", out)
