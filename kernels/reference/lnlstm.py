"""The layer-normalised LSTM, forward and backward, in plain NumPy. Equations: :mod:`kernels.spec.cells`."""

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
from kernels.spec import LAYER_NORM_EPSILON, Array, Cache, Floats, Grads, Ids, LNLSTMCache, LNLSTMGrads, checks


def _normalise(v: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """LN(v) for each row of v (B, ...), and 1 / sqrt(var + epsilon), the factor that it contains."""
    centred = v - v.mean(axis=-1, keepdims=True)
    scale = 1 / np.sqrt((centred**2).mean(axis=-1, keepdims=True) + v.dtype.type(LAYER_NORM_EPSILON))
    return centred * scale, scale


def _through_normalise(d: np.ndarray, normal: np.ndarray, scale: np.ndarray) -> np.ndarray:
    """LN'(d, v): the gradient with respect to v, given d, the gradient with respect to LN(v)."""
    return scale * (d - d.mean(axis=-1, keepdims=True) - normal * (d * normal).mean(axis=-1, keepdims=True))


def lnlstm_forward(
    x: Array, h0: Floats, c0: Floats, W_x: Floats, W_h: Floats, b: Floats, gain_x: Floats, gain_h: Floats,
    gain_c: Floats, b_c: Floats, *, lengths: Ids | None = None,
    reverse: bool = False, threads: int = 1, out: tuple[Floats, Floats, Floats] | None = None,
) -> tuple[Array, Array, Cache]:  # fmt: skip
    """Run one layer-normalised LSTM layer over T steps and B streams.

    Parameters
    ----------
    x : (T, B) int32 ids, each selecting a row of W_x, or (T, B, D) floats; read
    h0, c0 : (B, H), initial hidden and cell state; read
    W_x, W_h, b : (D, 4H), (H, 4H), (4H,); read
    gain_x, gain_h : (4H,), gains of the normalised products x W_x and h W_h; read
    gain_c, b_c : (H,), gain and bias of the normalised cell state; read
    lengths : (B,) int64, number of steps of each stream, 1 to T; None: T for all. Beyond its end a stream keeps its
        state, its gates are zero and its x counts for nothing, but must be valid: ids in range, finite floats
    reverse : whether to run from each stream's last step to its first; h[t+1] is then the state after steps t and later
    threads : largest number of threads; any number gives the same bits
    out : buffers (h, c, gates) of the shapes below, for the results; None allocates new ones

    Returns
    -------
    h, c : (T+1, B, H), [0] is the initial state and [t+1] the state after step t
    cache : LNLSTMCache for :func:`lnlstm_backward`; it holds the arrays themselves, not copies. Its gates (3, T, B, 4H)
        are the activated gates, x W_x and h W_h.

    Raises
    ------
    ValueError
        ``gain_x: expected (4H,) = (12,), got (11,)`` and the like.

    Notes
    -----
    Equations: kernels/spec/cells.py. Cost: 8 T B H (H + D) flops, 8 T B H H for ids.
    Accuracy: tests/kernel/test_chain.py checks every element of the gradients against central differences.
    Source: Ba, Kiros and Hinton (2016).
    """
    sizes = checks.forward(
        "lnlstm", x, (h0, c0), W_x, W_h, (b, gain_x, gain_h, gain_c, b_c), lengths, reverse, threads, out
    ).sizes
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    dims = ((T + 1, B, H), (T + 1, B, H), (3, T, B, 4 * H))
    h, c, gates = out or (np.empty(each, h0.dtype) for each in dims)
    h[0], c[0] = h0, c0
    for t, was in steps(T, reverse):
        gates[1, t], gates[2, t] = from_input(x[t], W_x), operand(h[was]) @ W_h
        z = gain_x * _normalise(gates[1, t])[0] + gain_h * _normalise(gates[2, t])[0] + b
        z_i, z_f, z_g, z_o = split_gates(z)
        i, f, g, o = split_gates(gates[0, t])
        i[...], f[...], g[...], o[...] = sigmoid(z_i), sigmoid(z_f), np.tanh(z_g), sigmoid(z_o)
        c[t + 1] = f * c[was] + i * g
        h[t + 1] = o * np.tanh(gain_c * _normalise(c[t + 1])[0] + b_c)
        hold(t, was, lengths, (h, c), gates)
    return h, c, LNLSTMCache(x, h, c, gates, W_x, W_h, gain_x, gain_h, gain_c, b_c, lengths=lengths, reverse=reverse)


def lnlstm_backward(
    dh: Floats,
    cache: Cache,
    dh_last: Floats | None = None,
    dc_last: Floats | None = None,
    *,
    threads: int = 1,
    out: Grads | None = None,
    dz: Floats | None = None,
) -> Grads:
    """Backpropagate through one layer-normalised LSTM layer, over all T steps.

    Parameters
    ----------
    dh : (T, B, H), gradient of the loss with respect to h[1:], which is not read beyond a stream's end; read
    cache : the cache that :func:`lnlstm_forward` returned; read
    dh_last, dc_last : (B, H), gradients with respect to h and c after the last step, None for zero; read
    threads : largest number of threads; any number gives the same bits
    out : LNLSTMGrads of buffers for the results (dx is None for ids), overwritten; None allocates new ones
    dz : (6, T, B, 4H) buffer, overwritten, with the planes da, ds, dz, dz LN(a), dz LN(s) of spec/cells.py; the sixth
        has dn in its first H columns and dn LN(c) in the next H

    Returns
    -------
    LNLSTMGrads
        dx (None for ids), dh0, dc0, dW_x, dW_h, db, dgain_x, dgain_h, dgain_c, db_c, of the shapes of x, h0, ...

    Raises
    ------
    ValueError
        ``dh: expected (T, B, H) = (5, 2, 3), got (5, 2, 4)`` and the like.

    Notes
    -----
    Equations: kernels/spec/cells.py. Cost: twice that of the forward pass. Source: Ba, Kiros and Hinton (2016).
    """
    checks.backward("lnlstm", dh, cache, (dh_last, dc_last), threads, out, dz)
    x, h, c, gates, W_x, W_h, gain_x, gain_h, gain_c, b_c, lengths, reverse = cache
    H = h.shape[2]
    dz = np.empty((6, *gates.shape[1:]), gates.dtype) if dz is None else dz
    dh_next = np.zeros_like(h[0]) if dh_last is None else dh_last
    dc_next = np.zeros_like(c[0]) if dc_last is None else dc_last
    for t, was in reversed(steps(len(dh), reverse)):
        i, f, g, o = split_gates(gates[0, t])
        normal_x, scale_x = _normalise(gates[1, t])
        normal_h, scale_h = _normalise(gates[2, t])
        normal_c, scale_c = _normalise(c[t + 1])
        tanh_n = np.tanh(gain_c * normal_c + b_c)
        dh_t = dh[t] + dh_next
        dn = dh_t * o * (1 - tanh_n**2)
        dc_t = dc_next + _through_normalise(dn * gain_c, normal_c, scale_c)
        dz_i, dz_f, dz_g, dz_o = split_gates(dz[2, t])
        dz_i[...] = dc_t * g * i * (1 - i)
        dz_f[...] = dc_t * c[was] * f * (1 - f)
        dz_g[...] = dc_t * i * (1 - g**2)
        dz_o[...] = dh_t * tanh_n * o * (1 - o)
        dz[0, t] = _through_normalise(dz[2, t] * gain_x, normal_x, scale_x)
        dz[1, t] = _through_normalise(dz[2, t] * gain_h, normal_h, scale_h)
        dz[3, t], dz[4, t] = dz[2, t] * normal_x, dz[2, t] * normal_h
        dz[5, t, :, :H], dz[5, t, :, H : 2 * H], dz[5, t, :, 2 * H :] = dn, dn * normal_c, 0
        dz[:2, t] = operand(dz[:2, t])
        dh_next, dc_next = pass_by(t, lengths, dz, (dh_next, dc_next), (dz[1, t] @ W_h.T, dc_t * f))
    like = (h[0], c[0], W_x, W_h, W_x[0], gain_x, gain_h, gain_c, b_c)
    out = out or LNLSTMGrads(None if x.ndim == 2 else np.empty_like(x), *map(np.empty_like, like))
    out.dh0[...], out.dc0[...] = dh_next, dc_next
    weight_gradients(x, h, W_x, dz[0], dz[1], out, reverse)
    out.db[...], out.dgain_x[...], out.dgain_h[...] = dz[2:5].sum(axis=(1, 2))
    out.db_c[...], out.dgain_c[...] = dz[5].sum(axis=(0, 1))[: 2 * H].reshape(2, H)
    return out


def lnlstm_step(
    x: Array, h: Floats, c: Floats, W_x: Floats, W_h: Floats, b: Floats, gain_x: Floats, gain_h: Floats,
    gain_c: Floats, b_c: Floats, *, out: tuple[Floats, Floats, Floats] | None = None,
) -> tuple[Array, Array]:  # fmt: skip
    """Run one step of a layer-normalised LSTM layer, without a T axis; nothing is kept for gradients.

    Parameters
    ----------
    x : (B,) int32 ids or (B, D) floats, the input of the step; read
    h, c : (B, H), the state before the step; read
    W_x, W_h, b, gain_x, gain_h, gain_c, b_c : as for :func:`lnlstm_forward`; read
    out : buffers (h, c, gates), (B, H) twice and (3, B, 4H), for results and scratch; None allocates new ones;
        h and c may be the state before

    Returns
    -------
    h, c : (B, H), the state after the step; those of `out` if given

    Raises
    ------
    ValueError
        ``gain_x: expected (4H,) = (12,), got (11,)`` and the like.

    Notes
    -----
    Equations and source: kernels/spec/cells.py. Cost: 8 B H (H + D) flops. Accuracy: as
    :func:`lnlstm_forward`, whose step it is; the order of additions may differ.
    """
    checks.step(
        "lnlstm",
        x,
        (h, c),
        W_x,
        W_h,
        (
            b,
            gain_x,
            gain_h,
            gain_c,
            b_c,
        ),
        out,
    )
    return one_step(lnlstm_forward(x[None], h, c, W_x, W_h, b, gain_x, gain_h, gain_c, b_c)[-1], "lnlstm", out)
