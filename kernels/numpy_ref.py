"""Every op in plain NumPy, written to be read. It is judged by finite differences and judges every other backend.

T seq_length, B batch_size, V vocab_size, H hidden_size, L num_layers, E embedding_size, D width of a layer's input, N
parameters.
Equations, gate order and the layout of flat vectors: :mod:`kernels.spec`. Ops check their arguments and take any
C-contiguous float32 or float64 arrays; what an op writes in place is said in its docstring.
"""

from typing import Any

import numpy as np

from kernels import checks, spec
from kernels.spec import LSTMCache, LSTMGrads, Shape, Workspace


def _sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow: exp is only ever taken of a number that is not positive."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def _split_gates(a: np.ndarray) -> list[np.ndarray]:
    """Views of the gate blocks i, f, g, o of the last axis."""
    H = a.shape[-1] // 4
    return [a[..., k * H : (k + 1) * H] for k in range(4)]


# ------------------------------------------------------------------------------------------------------- one layer
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
    Equations: see spec.py. Cost: 8 T B H (H + D) flops, 8 T B H H for ids.
    Accuracy: tests/test_chain.py, by central differences of every element. Source: see spec.py.
    """
    sizes = checks.lstm_forward(x, h0, c0, W_x, W_h, b, out)
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    h, c, gates = out or (np.empty((T + 1, B, H), h0.dtype), np.empty((T + 1, B, H), h0.dtype), None)
    gates = np.empty((T, B, 4 * H), h0.dtype) if gates is None else gates
    h[0], c[0] = h0, c0
    for t in range(T):
        from_input = W_x[x[t]] if x.ndim == 2 else x[t] @ W_x
        z_i, z_f, z_g, z_o = _split_gates(from_input + h[t] @ W_h + b)
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
    Equations: see spec.py. Cost: twice that of the forward pass. Source: see spec.py.
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
    flat_dz = dz.reshape(-1, dz.shape[-1])  # the weights are shared by all steps and streams: sum over T and B
    out = out or LSTMGrads(
        None if x.ndim == 2 else np.empty_like(x), *map(np.empty_like, (h[0], c[0], W_x, W_h, W_x[0]))
    )
    out.dh0[...], out.dc0[...] = dh_next, dc_next
    if x.ndim == 2:
        out.dW_x[...] = 0
        np.add.at(out.dW_x, x.reshape(-1), flat_dz)
    else:
        out.dx[...] = dz @ W_x.T
        out.dW_x[...] = x.reshape(-1, x.shape[-1]).T @ flat_dz
    out.dW_h[...] = h[:-1].reshape(-1, h.shape[-1]).T @ flat_dz
    out.db[...] = flat_dz.sum(axis=0)
    return out


# ------------------------------------------------------------------------------------------------------------ loss
def softmax_cross_entropy(logits: Any, targets: Any, *, out: Any = None) -> tuple[float, np.ndarray]:
    """Cross entropy of softmax(logits) against the targets, and its gradient.

    ``loss = -sum log softmax(logits)[target]``; ``dlogits = softmax(logits) - onehot(target)``.

    Parameters
    ----------
    logits : (T, B, V); read
    targets : (T, B) int32 in [0, V); read
    out : (T, B, V) buffer for dlogits, overwritten; it may be `logits` itself

    Returns
    -------
    loss : float, nats, summed over T and B
    dlogits : (T, B, V)

    Raises
    ------
    ValueError
        ``targets: expected ids in [0, 71), got 71`` and the like.

    Notes
    -----
    Stable for logits of any finite size: the largest is subtracted first. The loss is summed in float64.
    """
    checks.softmax_cross_entropy(logits, targets, out)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    dlogits = np.empty_like(logits) if out is None else out
    np.exp(shifted, out=dlogits)
    total = dlogits.sum(axis=-1, keepdims=True)
    at_target = np.take_along_axis(shifted, targets[..., None].astype(np.intp), axis=-1)
    loss = float((np.log(total) - at_target).sum(dtype=np.float64))
    dlogits /= total
    at = targets[..., None].astype(np.intp)
    np.put_along_axis(dlogits, at, np.take_along_axis(dlogits, at, axis=-1) - 1, axis=-1)
    return loss, dlogits


# ------------------------------------------------------------------------------------------------------ optimizers
def clip(grad: Any, *, grad_clip: float | None = None, grad_clip_norm: float | None = None) -> None:
    """Clip a flat gradient (N,) in place: to [-grad_clip, grad_clip] by element, then to the norm grad_clip_norm.

    None clips nothing. The norm is ``sqrt(sum grad^2)``, summed in float64; a smaller gradient is left as it is.
    """
    spec.check(grad=(grad, "N"))
    if grad_clip is not None:
        np.clip(grad, -grad_clip, grad_clip, out=grad)
    if grad_clip_norm is not None:
        norm = float(np.sqrt(np.sum(np.square(grad, dtype=np.float64))))
        if norm > grad_clip_norm:
            grad *= grad.dtype.type(grad_clip_norm / norm)


def _clipped(theta: Any, grad: Any, state: Any, grad_clip: float | None, slots: int) -> np.ndarray:
    """Check an optimizer's arrays and return the gradient clipped by element, as a new array where it is."""
    checks.optimizer(theta, grad, state, slots)
    return grad if grad_clip is None else np.clip(grad, -grad_clip, grad_clip)


def sgd(
    theta: Any,
    grad: Any,
    state: Any,
    step: int,
    *,
    learning_rate: float,
    grad_clip: float | None = None,
    momentum: float = 0.0,
) -> None:
    """Gradient descent, in place: ``theta -= learning_rate g``; with momentum ``v = momentum v + g`` takes g's place.

    Parameters
    ----------
    theta : (N,) parameters; written
    grad : (N,) gradient; read (g is grad clipped to [-grad_clip, grad_clip] by element)
    state : (0, N), or with momentum (1, N), v, zero at first; written
    step : updates made before this one; not used

    Notes
    -----
    PyTorch's momentum, without dampening: the learning rate stands outside v. Source: Polyak (1964).
    """
    g = _clipped(theta, grad, state, grad_clip, spec.slots("sgd", {"momentum": momentum}))
    if momentum:
        state[0] = theta.dtype.type(momentum) * state[0] + g
        g = state[0]
    theta -= theta.dtype.type(learning_rate) * g


def adagrad(
    theta: Any,
    grad: Any,
    state: Any,
    step: int,
    *,
    learning_rate: float,
    grad_clip: float | None = None,
    epsilon: float = 1e-8,
) -> None:
    """Adagrad, in place: ``s += g^2; theta -= learning_rate g / sqrt(s + epsilon)``, epsilon inside the root.

    Parameters
    ----------
    theta : (N,) parameters; written
    grad : (N,) gradient; read (g is grad clipped to [-grad_clip, grad_clip] by element)
    state : (1, N), s, zero at first; written
    step : updates made before this one; not used

    Notes
    -----
    PyTorch has epsilon outside the root (1e-10); min-char-rnn has it inside, as here. Source: Duchi, Hazan and Singer
    (2011), in the diagonal form.
    """
    g = _clipped(theta, grad, state, grad_clip, 1)
    state[0] += g * g
    theta -= theta.dtype.type(learning_rate) * g / np.sqrt(state[0] + theta.dtype.type(epsilon))


def rmsprop(
    theta: Any,
    grad: Any,
    state: Any,
    step: int,
    *,
    learning_rate: float,
    grad_clip: float | None = None,
    rho: float = 0.99,
    epsilon: float = 1e-8,
) -> None:
    """RMSprop, in place: ``s = rho s + (1-rho) g^2; theta -= learning_rate g / (sqrt(s) + epsilon)``.

    Parameters as for :func:`adagrad`. Epsilon is outside the root, as in PyTorch (whose rho is named alpha).
    Source: Tieleman and Hinton, lecture 6.5 of Neural Networks for Machine Learning (2012).
    """
    g = _clipped(theta, grad, state, grad_clip, 1)
    real = theta.dtype.type
    state[0] = real(rho) * state[0] + real(1 - rho) * g * g
    theta -= real(learning_rate) * g / (np.sqrt(state[0]) + real(epsilon))


def adam(
    theta: Any,
    grad: Any,
    state: Any,
    step: int,
    *,
    learning_rate: float,
    grad_clip: float | None = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> None:
    """Adam, in place, with bias correction; epsilon outside the root, as in PyTorch.

    ``m = beta1 m + (1-beta1) g; v = beta2 v + (1-beta2) g^2;
    theta -= learning_rate (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + epsilon)`` with k = step + 1.

    Parameters
    ----------
    theta : (N,) parameters; written
    grad : (N,) gradient; read (g is grad clipped to [-grad_clip, grad_clip] by element)
    state : (2, N), m and v, zero at first; written
    step : updates made before this one, for the bias correction

    Notes
    -----
    Source: Kingma and Ba (2015), algorithm 1.
    """
    g = _clipped(theta, grad, state, grad_clip, 2)
    real, k = theta.dtype.type, step + 1
    m, v = state
    m[...] = real(beta1) * m + real(1 - beta1) * g
    v[...] = real(beta2) * v + real(1 - beta2) * g * g
    rate, root = real(learning_rate / (1 - beta1**k)), real(1 / (1 - beta2**k))
    theta -= rate * m / (np.sqrt(v * root) + real(epsilon))


_UPDATES = {"sgd": sgd, "adagrad": adagrad, "rmsprop": rmsprop, "adam": adam}


# ----------------------------------------------------------------------------------------------------- whole model
def _dropped(a: np.ndarray, mask: Any, dropout: float) -> np.ndarray:
    """What dropout leaves of a (T, B, H), and of its gradient; without a mask (T, B, H) all of it."""
    real = a.dtype.type
    return a if mask is None else np.where(mask, a * real(1 / (1 - dropout)), real(0))


def loss_and_grad(
    theta: Any,
    h: Any,
    c: Any,
    x: Any,
    *,
    shape: Shape,
    last_only: bool = False,
    dropout: float = 0.0,
    masks: Any = None,
    workspace: Workspace | None = None,
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Loss of L stacked layers and a readout over one sequence, and its gradient.

    Parameters
    ----------
    theta : (N,) parameters; read
    h, c : (L, B, H) state carried in; read
    x : (T+1, B) int32 ids: inputs x[:-1], targets x[1:]; read
    shape : Shape
    last_only : the loss is that of the last step alone, as for windows that predict the one character after them
    dropout : which part of each layer's output is dropped; the others are divided by 1 - dropout
    masks : (L, T, B, H) uint8, zero for what is dropped; None without dropout; read
    workspace : Workspace of these sizes; the results may then be views of it

    Returns
    -------
    loss : float, nats, summed over T and B
    grad : (N,)
    h_last, c_last : (L, B, H), the state after the last step; no gradient flows into the next sequence (truncation)
    """
    T, V, H = checks.model(theta, h, c, x, shape, dropout, masks, workspace) - 1, shape.vocab_size, shape.hidden_size
    first = T - 1 if last_only else 0
    views, masks = spec.params(theta, shape), [None] * shape.num_layers if masks is None else masks
    caches, below = [], x[:-1] if views.embedding is None else views.embedding[x[:-1]]
    for layer, h0, c0, mask in zip(views.layers, h, c, masks, strict=True):
        h_all, _, cache = lstm_forward(below, h0, c0, *layer)
        caches.append(cache)
        below = _dropped(h_all[1:], mask, dropout)
    read = below[first:]
    logits = read @ views.W_y + views.b_y
    loss, dlogits = softmax_cross_entropy(logits, x[1:][first:])

    grad = np.empty_like(theta) if workspace is None else workspace.grad
    grads = spec.params(grad, shape)
    flat_dlogits = dlogits.reshape(-1, V)
    grads.W_y[...] = read.reshape(-1, H).T @ flat_dlogits
    grads.b_y[...] = flat_dlogits.sum(axis=0)
    dh = np.zeros_like(below)
    dh[first:] = dlogits @ views.W_y.T
    for cache, target, mask in zip(reversed(caches), reversed(grads.layers), reversed(masks), strict=True):
        found = lstm_backward(_dropped(dh, mask, dropout), cache)
        target.W_x[...], target.W_h[...], target.b[...] = found.dW_x, found.dW_h, found.db
        dh = found.dx
    if views.embedding is not None:
        grads.embedding[...] = 0
        np.add.at(grads.embedding, x[:-1], dh)
    h_last = np.stack([cache.h[-1] for cache in caches])
    c_last = np.stack([cache.c[-1] for cache in caches])
    return loss, grad, h_last, c_last


def train_steps(
    theta: Any,
    state: Any,
    h: Any,
    c: Any,
    ids: Any,
    starts: Any,
    reset: Any,
    learning_rate: Any,
    *,
    shape: Shape,
    seq_length: int,
    step: int = 0,
    optimizer: str = "adagrad",
    hyper: dict[str, float] | None = None,
    grad_scale: float = 1.0,
    grad_clip: float | None = None,
    grad_clip_norm: float | None = None,
    last_only: bool = False,
    dropout: float = 0.0,
    masks: Any = None,
    workspace: Workspace | None = None,
    threads: int = 1,
) -> np.ndarray:
    """Run n iterations of truncated backpropagation through time: forward, backward, clip, update, state carried.

    Parameters
    ----------
    theta : (N,) parameters; written
    state : (S, N) optimizer memory, S as spec.slots says; written
    h, c : (L, B, H) state, carried from one iteration to the next; written
    ids : (M,) uint8, uint16 or uint32, the text; read
    starts : (n, B) int64, where each stream's sequence begins: inputs ids[start : start+T], targets one later; read
    reset : (n,) bool, where True h and c are set to zero before that iteration; read
    learning_rate : (n,) float64, the rate of each iteration, so that any schedule is an array; read
    shape : Shape
    seq_length : T
    step : updates made before the first of these, for Adam's bias correction
    optimizer, hyper : a name of spec.OPTIMIZERS, and its constants where they differ from the defaults
    grad_scale : the gradient of the summed loss is multiplied by this first (1 / (T B) for a mean)
    grad_clip, grad_clip_norm : by element, then by Euclidean norm, after the scaling; None for none
    last_only : the loss is that of the last step alone: windows, which usually go with reset
    dropout, masks : as for :func:`loss_and_grad`, but masks are (n, L, T, B, H): random numbers enter as arrays
    workspace : Workspace of these sizes, made for dropout where there is any
    threads : how many may work on it; any number gives the same bits (the reference uses one)

    Returns
    -------
    losses : (k,) float64, nats, summed over T (but for `last_only`) and B, each before its own update. k is n, or less
        where a loss was not finite: that loss is the last one, and its update was not made.

    Raises
    ------
    ValueError
        For shapes, dtypes, ids or starts out of range, an unknown optimizer.

    Notes
    -----
    n iterations in one call or in several give the same bits.
    """
    constants = spec.hyper_values(optimizer, hyper)
    checks.train_steps(
        theta, state, h, c, ids, starts, reset, learning_rate, shape, seq_length, spec.slots(optimizer, hyper), dropout,
        masks, threads, workspace,
    )  # fmt: skip
    losses = np.empty(len(starts))
    with np.errstate(over="ignore", invalid="ignore"):  # a loss that is not finite is returned, not warned of
        scale = theta.dtype.type(grad_scale)
        for n, (start, zero, rate) in enumerate(zip(starts, reset, learning_rate, strict=True)):
            if zero:
                h[...], c[...] = 0, 0
            x = ids[start + np.arange(seq_length + 1)[:, None]].astype(np.int32)
            losses[n], grad, h[...], c[...] = loss_and_grad(
                theta, h, c, x, shape=shape, last_only=last_only, dropout=dropout,
                masks=None if masks is None else masks[n], workspace=workspace,
            )  # fmt: skip
            if not np.isfinite(losses[n]):
                return losses[: n + 1]
            grad *= scale
            clip(grad, grad_clip=grad_clip, grad_clip_norm=grad_clip_norm)
            _UPDATES[optimizer](theta, grad, state, step + n, learning_rate=float(rate), **constants)
    return losses


def sample(theta: Any, h: Any, c: Any, x: Any, uniforms: Any, *, shape: Shape, temperature: float = 1.0) -> np.ndarray:
    """Draw n characters for each of B streams, each fed back as the next input.

    Parameters
    ----------
    theta : (N,) parameters; read
    h, c : (L, B, H) state; written, so that a next call goes on where this one ended
    x : (B,) int32, the ids to be fed first; read
    uniforms : (n, B) float64 in [0, 1), one draw each, so that one seed gives one text on every backend; read
    shape : Shape
    temperature : logits are divided by it; 0 takes the most probable character (the first of equals)

    Returns
    -------
    ids : (n, B) int32

    Notes
    -----
    The character is the first whose cumulative probability, normalised, exceeds the uniform number; probabilities are
    computed in float64 for either dtype. That is what ``numpy.random.RandomState.choice`` does with its one draw.
    """
    checks.sample(theta, h, c, x, uniforms, shape, temperature)
    views = spec.params(theta, shape)
    drawn = np.empty(uniforms.shape, np.int32)
    for n, u in enumerate(uniforms):
        below = x[None] if views.embedding is None else views.embedding[x[None]]
        for k, layer in enumerate(views.layers):
            h_all, c_all, _ = lstm_forward(below, h[k], c[k], *layer)
            h[k], c[k] = h_all[1], c_all[1]
            below = h_all[1:]
        logits = (below[0] @ views.W_y + views.b_y).astype(np.float64)
        if temperature == 0:
            x = logits.argmax(axis=-1).astype(np.int32)
        else:
            weights = np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)
            cumulative = weights.cumsum(axis=-1)
            below_u = cumulative / cumulative[:, -1:] <= u[:, None]
            x = below_u.sum(axis=-1).astype(np.int32)
        drawn[n] = x
    return drawn


__all__ = list(spec.OPS)
