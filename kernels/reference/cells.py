"""The layers of :mod:`kernels.reference`: LSTM, RNN and GRU in plain NumPy, forward and backward, written to be read.

T seq_length, B batch_size, V vocab_size, H hidden_size, D width of a layer's input. Equations, gate order and shapes:
:mod:`kernels.spec`.
"""

from typing import Any

import numpy as np

from kernels.spec import GRUCache, GRUGrads, LSTMCache, LSTMGrads, RNNCache, RNNGrads, checks


def _sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow: exp is only ever taken of a number that is not positive."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _split_gates(a: np.ndarray, gates: int = 4) -> list[np.ndarray]:
    """Views of the gate blocks of the last axis: i, f, g, o, or the GRU's r, z, n."""
    H = a.shape[-1] // gates
    return [a[..., k * H : (k + 1) * H] for k in range(gates)]


def _from_input(x: np.ndarray, W_x: np.ndarray) -> np.ndarray:
    """One step's x W_x, (B, ...): rows of W_x for ids."""
    return W_x[x] if x.ndim == 1 else x @ W_x


def _weight_gradients(x: Any, h: Any, W_x: Any, from_x: np.ndarray, from_h: np.ndarray, out: Any) -> None:
    """Write dx, dW_x and dW_h, given the gradients (T, B, ...) of x W_x and of h W_h.

    The weights are shared by all steps and streams: sum over T and B.
    """
    flat_x, flat_h = (d.reshape(-1, d.shape[-1]) for d in (from_x, from_h))
    if x.ndim == 2:
        out.dW_x[...] = 0
        np.add.at(out.dW_x, x.reshape(-1), flat_x)
    else:
        out.dx[...] = from_x @ W_x.T
        out.dW_x[...] = x.reshape(-1, x.shape[-1]).T @ flat_x
    out.dW_h[...] = h[:-1].reshape(-1, h.shape[-1]).T @ flat_h


# ------------------------------------------------------------------------------------------------------------ LSTM
def lstm_forward(
    x: Any, h0: Any, c0: Any, W_x: Any, W_h: Any, b: Any, *, out: tuple[Any, Any, Any] | None = None
) -> tuple[np.ndarray, np.ndarray, LSTMCache]:
    """Run one LSTM layer over T steps and B streams.

    Parameters
    ----------
    x : (T, B) int32 ids, each a row of W_x, or (T, B, D) floats; read
    h0, c0 : (B, H), the state carried in; read
    W_x, W_h, b : (D, 4H), (H, 4H), (4H,); read
    out : buffers (h, c, gates) of the shapes below, to be written instead of new ones

    Returns
    -------
    h, c : (T+1, B, H), [0] is what came in, [t+1] is after step t
    cache : LSTMCache for :func:`lstm_backward`; it holds the arrays themselves, no copies

    Raises
    ------
    ValueError
        ``W_h: expected (H, 4H) = (3, 12), got (3, 11)`` and the like.

    Notes
    -----
    Equations: see spec/cells.py. Cost: 8 T B H (H + D) flops, 8 T B H H for ids.
    Accuracy: tests/kernels/test_chain.py, by central differences of every element. Source: see spec/cells.py.
    """
    sizes = checks.lstm_forward(x, h0, c0, W_x, W_h, b, out)
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    h, c, gates = out or (np.empty((T + 1, B, H), h0.dtype), np.empty((T + 1, B, H), h0.dtype), None)
    gates = np.empty((T, B, 4 * H), h0.dtype) if gates is None else gates
    h[0], c[0] = h0, c0
    for t in range(T):
        z_i, z_f, z_g, z_o = _split_gates(_from_input(x[t], W_x) + h[t] @ W_h + b)
        i, f, g, o = _split_gates(gates[t])
        i[...], f[...], g[...], o[...] = _sigmoid(z_i), _sigmoid(z_f), np.tanh(z_g), _sigmoid(z_o)
        c[t + 1] = f * c[t] + i * g
        h[t + 1] = o * np.tanh(c[t + 1])
    return h, c, LSTMCache(x, h, c, gates, W_x, W_h)


def lstm_backward(
    dh: Any, cache: LSTMCache, dh_last: Any = None, dc_last: Any = None, *, out: LSTMGrads | None = None, dz: Any = None
) -> LSTMGrads:
    """Backpropagate through one LSTM layer, over all T steps.

    Parameters
    ----------
    dh : (T, B, H), gradient of the loss with respect to h[1:]; read
    cache : what :func:`lstm_forward` returned; read
    dh_last, dc_last : (B, H), gradient with respect to the state after the last step; zero where None; read
    out : LSTMGrads of buffers, overwritten, instead of new ones (dx is None for ids)
    dz : (T, B, 4H) buffer for the gradient of the gates' inputs, overwritten

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
    Equations: see spec/cells.py. Cost: twice that of the forward pass. Source: see spec/cells.py.
    """
    checks.lstm_backward(dh, cache, dh_last, dc_last, out, dz)
    x, h, c, gates, W_x, W_h = cache
    dz = np.empty_like(gates) if dz is None else dz
    dh_next = np.zeros_like(h[0]) if dh_last is None else dh_last
    dc_next = np.zeros_like(c[0]) if dc_last is None else dc_last
    for t in reversed(range(len(dh))):
        i, f, g, o = _split_gates(gates[t])
        dz_i, dz_f, dz_g, dz_o = _split_gates(dz[t])
        tanh_c = np.tanh(c[t + 1])
        dh_t = dh[t] + dh_next
        dc_t = dc_next + dh_t * o * (1 - tanh_c**2)
        dz_i[...] = dc_t * g * i * (1 - i)
        dz_f[...] = dc_t * c[t] * f * (1 - f)
        dz_g[...] = dc_t * i * (1 - g**2)
        dz_o[...] = dh_t * tanh_c * o * (1 - o)
        dh_next = dz[t] @ W_h.T
        dc_next = dc_t * f
    out = out or LSTMGrads(
        None if x.ndim == 2 else np.empty_like(x), *map(np.empty_like, (h[0], c[0], W_x, W_h, W_x[0]))
    )
    out.dh0[...], out.dc0[...] = dh_next, dc_next
    _weight_gradients(x, h, W_x, dz, dz, out)
    out.db[...] = dz.sum(axis=(0, 1))
    return out


# ------------------------------------------------------------------------------------------------------------- RNN
def rnn_forward(x: Any, h0: Any, W_x: Any, W_h: Any, b: Any, *, out: Any = None) -> tuple[np.ndarray, RNNCache]:
    """Run one layer of the plain recurrent network over T steps and B streams: ``h_t = tanh(x W_x + h_{t-1} W_h + b)``.

    Parameters
    ----------
    x : (T, B) int32 ids, each a row of W_x, or (T, B, D) floats; read
    h0 : (B, H), the state carried in; read
    W_x, W_h, b : (D, H), (H, H), (H,); read
    out : (T+1, B, H) buffer for h, to be written instead of a new one

    Returns
    -------
    h : (T+1, B, H), [0] is what came in, [t+1] is after step t
    cache : RNNCache for :func:`rnn_backward`; it holds the arrays themselves, no copies

    Raises
    ------
    ValueError
        ``W_h: expected (H, H) = (3, 3), got (3, 4)`` and the like.

    Notes
    -----
    Cost: 2 T B H (H + D) flops, 2 T B H H for ids. Accuracy: as :func:`lstm_forward`. Source: see spec/cells.py.
    """
    sizes = checks.rnn_forward(x, h0, W_x, W_h, b, out)
    h = np.empty((sizes["T"] + 1, *h0.shape), h0.dtype) if out is None else out
    h[0] = h0
    for t in range(sizes["T"]):
        h[t + 1] = np.tanh(_from_input(x[t], W_x) + h[t] @ W_h + b)
    return h, RNNCache(x, h, W_x, W_h)


def rnn_backward(
    dh: Any, cache: RNNCache, dh_last: Any = None, *, out: RNNGrads | None = None, dz: Any = None
) -> RNNGrads:
    """Backpropagate through one layer of the plain recurrent network, over all T steps.

    Parameters
    ----------
    dh : (T, B, H), gradient of the loss with respect to h[1:]; read
    cache : what :func:`rnn_forward` returned; read
    dh_last : (B, H), gradient with respect to the state after the last step; zero where None; read
    out : RNNGrads of buffers, overwritten, instead of new ones (dx is None for ids)
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
    Equations: see spec/cells.py. Cost: twice that of the forward pass. Source: see spec/cells.py.
    """
    checks.rnn_backward(dh, cache, dh_last, out, dz)
    x, h, W_x, W_h = cache
    dz = np.empty_like(h[1:]) if dz is None else dz
    dh_next = np.zeros_like(h[0]) if dh_last is None else dh_last
    for t in reversed(range(len(dh))):
        dz[t] = (dh[t] + dh_next) * (1 - h[t + 1] ** 2)
        dh_next = dz[t] @ W_h.T
    out = out or RNNGrads(None if x.ndim == 2 else np.empty_like(x), *map(np.empty_like, (h[0], W_x, W_h, W_x[0])))
    out.dh0[...] = dh_next
    _weight_gradients(x, h, W_x, dz, dz, out)
    out.db[...] = dz.sum(axis=(0, 1))
    return out


# ------------------------------------------------------------------------------------------------------------- GRU
def gru_forward(
    x: Any, h0: Any, W_x: Any, W_h: Any, b_x: Any, b_h: Any, *, out: tuple[Any, Any] | None = None
) -> tuple[np.ndarray, GRUCache]:
    """Run one GRU layer over T steps and B streams, by PyTorch's equations.

    Parameters
    ----------
    x : (T, B) int32 ids, each a row of W_x, or (T, B, D) floats; read
    h0 : (B, H), the state carried in; read
    W_x, W_h, b_x, b_h : (D, 3H), (H, 3H), (3H,), (3H,); read
    out : buffers (h, gates), (T+1, B, H) and (2, T, B, 3H), to be written instead of new ones

    Returns
    -------
    h : (T+1, B, H), [0] is what came in, [t+1] is after step t
    cache : GRUCache for :func:`gru_backward`; it holds the arrays themselves, no copies

    Raises
    ------
    ValueError
        ``W_h: expected (H, 3H) = (3, 9), got (3, 8)`` and the like.

    Notes
    -----
    Equations: see spec/cells.py. Cost: 6 T B H (H + D) flops, 6 T B H H for ids. Accuracy: as :func:`lstm_forward`.
    Source: see spec/cells.py.
    """
    sizes = checks.gru_forward(x, h0, W_x, W_h, b_x, b_h, out)
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    h, gates = out or (np.empty((T + 1, B, H), h0.dtype), np.empty((2, T, B, 3 * H), h0.dtype))
    h[0] = h0
    for t in range(T):
        gates[1, t] = h[t] @ W_h + b_h
        a_r, a_z, a_n = _split_gates(_from_input(x[t], W_x) + b_x, 3)
        s_r, s_z, s_n = _split_gates(gates[1, t], 3)
        r, z, n = _split_gates(gates[0, t], 3)
        r[...], z[...] = _sigmoid(a_r + s_r), _sigmoid(a_z + s_z)
        n[...] = np.tanh(a_n + r * s_n)
        h[t + 1] = (1 - z) * n + z * h[t]
    return h, GRUCache(x, h, gates, W_x, W_h)


def gru_backward(
    dh: Any, cache: GRUCache, dh_last: Any = None, *, out: GRUGrads | None = None, dz: Any = None
) -> GRUGrads:
    """Backpropagate through one GRU layer, over all T steps.

    Parameters
    ----------
    dh : (T, B, H), gradient of the loss with respect to h[1:]; read
    cache : what :func:`gru_forward` returned; read
    dh_last : (B, H), gradient with respect to the state after the last step; zero where None; read
    out : GRUGrads of buffers, overwritten, instead of new ones (dx is None for ids)
    dz : (2, T, B, 3H) buffer for the gradients of both sides of the gates, da and ds of spec/cells.py, overwritten

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
    Equations: see spec/cells.py. Cost: twice that of the forward pass. Source: see spec/cells.py.
    """
    checks.gru_backward(dh, cache, dh_last, out, dz)
    x, h, gates, W_x, W_h = cache
    dz = np.empty_like(gates) if dz is None else dz
    dh_next = np.zeros_like(h[0]) if dh_last is None else dh_last
    for t in reversed(range(len(dh))):
        r, z, n = _split_gates(gates[0, t], 3)
        s_n = _split_gates(gates[1, t], 3)[2]
        da_r, da_z, da_n = _split_gates(dz[0, t], 3)
        dh_t = dh[t] + dh_next
        da_n[...] = dh_t * (1 - z) * (1 - n**2)
        da_z[...] = dh_t * (h[t] - n) * z * (1 - z)
        da_r[...] = da_n * s_n * r * (1 - r)
        dz[1, t] = np.concatenate([da_r, da_z, da_n * r], axis=-1)
        dh_next = dz[1, t] @ W_h.T + dh_t * z
    out = out or GRUGrads(
        None if x.ndim == 2 else np.empty_like(x), *map(np.empty_like, (h[0], W_x, W_h, W_x[0], W_x[0]))
    )
    out.dh0[...] = dh_next
    _weight_gradients(x, h, W_x, dz[0], dz[1], out)
    out.db_x[...], out.db_h[...] = dz.sum(axis=(1, 2))
    return out
