"""A whole model: loss and gradient of a sequence, training, and how probable a text is."""

from typing import Any

import numpy as np

from kernels import spec
from kernels.reference.gru import gru_backward, gru_forward
from kernels.reference.lnlstm import lnlstm_backward, lnlstm_forward
from kernels.reference.loss import log_prob, softmax_cross_entropy
from kernels.reference.lstm import lstm_backward, lstm_forward
from kernels.reference.optimizers import UPDATES, clip_checked
from kernels.reference.rnn import rnn_backward, rnn_forward
from kernels.spec import CELLS, Array, Floats, Ids, Shape, Workspace, checks
from kernels.spec.atomic import assignments

#: The two ops of a layer, by kind of cell.
_LAYERS: dict[str, Any] = {
    "lstm": (lstm_forward, lstm_backward),
    "gru": (gru_forward, gru_backward),
    "rnn": (rnn_forward, rnn_backward),
    "lnlstm": (lnlstm_forward, lnlstm_backward),
}


def _layer_forward(cell: str, x: Any, h0: Any, c0: Any, parameters: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """Run one layer; return h (T+1, B, H), the last c (B, H), which is c0 for a cell that has none, and the cache."""
    has_c = CELLS[cell].has_c
    h, *c, cache = _LAYERS[cell][0](x, h0, *((c0,) if has_c else ()), *parameters)
    return h, c[0][-1] if has_c else c0, cache


def _dropped(a: np.ndarray, mask: Any, dropout: float) -> np.ndarray:
    """What dropout leaves of a (T, B, H), and of its gradient; without a mask (T, B, H) all of it."""
    real = a.dtype.type
    return a if mask is None else np.where(mask, a * real(1 / (1 - dropout)), real(0))


def loss_and_grad(
    theta: Floats,
    h: Floats,
    c: Floats,
    x: Ids,
    *,
    shape: Shape,
    last_only: bool = False,
    dropout: float = 0.0,
    masks: Ids | None = None,
    workspace: Workspace | None = None,
) -> tuple[float, Array, Array, Array]:
    """Loss of L stacked layers and a readout over one sequence, and its gradient.

    Parameters
    ----------
    theta : (N,) parameters; read
    h, c : (L, B, H) state carried in; read (c means nothing to cells that have none, here and below)
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

    Raises
    ------
    ValueError
        ``x: expected ids in [0, 71), got 71`` and the like.
    """
    checks.loss_and_grad(theta, h, c, x, shape, last_only, dropout, masks, workspace)
    with checks.exclusive(workspace):
        grad = np.empty_like(theta) if workspace is None else workspace.grad
        return _loss_and_grad(theta, h, c, x, shape, last_only, dropout, masks, grad)


def _loss_and_grad(
    theta: Any, h: Any, c: Any, x: Any, shape: Shape, last_only: bool, dropout: float, masks: Any, grad: Any
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Write the gradient into grad (N,); return what :func:`loss_and_grad` does."""
    V, H, first = shape.vocab_size, shape.hidden_size, len(x) - 2 if last_only else 0
    views, masks = spec.params(theta, shape), [None] * shape.num_layers if masks is None else masks
    caches, c_all, below = [], [], x[:-1] if views.embedding is None else views.embedding[x[:-1]]
    for layer, h0, c0, mask in zip(views.layers, h, c, masks, strict=True):
        h_all, c_last, cache = _layer_forward(shape.cell, below, h0, c0, layer)
        caches.append(cache)
        c_all.append(c_last)
        below = _dropped(h_all[1:], mask, dropout)
    read = below[first:]
    logits = read @ views.W_y + views.b_y
    loss, dlogits = softmax_cross_entropy(logits, x[1:][first:])

    grads = spec.params(grad, shape)
    flat_dlogits = dlogits.reshape(-1, V)
    grads.W_y[...] = read.reshape(-1, H).T @ flat_dlogits
    grads.b_y[...] = flat_dlogits.sum(axis=0)
    dh = np.zeros_like(below)
    dh[first:] = dlogits @ views.W_y.T
    for cache, target, mask in zip(reversed(caches), reversed(grads.layers), reversed(masks), strict=True):
        found = _LAYERS[shape.cell][1](_dropped(dh, mask, dropout), cache)
        for view, gradient in zip(target, found[-len(target) :], strict=True):
            view[...] = gradient
        dh = found.dx
    if views.embedding is not None:
        grads.embedding[...] = 0
        np.add.at(grads.embedding, x[:-1], dh)
    return loss, grad, np.stack([cache.h[-1] for cache in caches]), np.stack(c_all)


def _rounded(theta: Any, shape: Shape) -> np.ndarray:
    """The parameters with the recurrent matrices rounded to bfloat16."""
    rounded = theta.copy()
    for layer in spec.params(rounded, shape).layers:
        layer.W_h[...] = spec.round_to_bfloat16(layer.W_h)
    return rounded


def train_steps(
    theta: Floats,
    state: Floats,
    h: Floats,
    c: Floats,
    ids: Ids,
    starts: Ids,
    reset: Array,
    learning_rate: Floats | float,
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
    masks: Ids | None = None,
    bfloat16: bool = False,
    smooth_loss: float = np.inf,
    stop_below: float = -np.inf,
    workspace: Workspace | None = None,
    threads: int = 1,
    out: Floats | None = None,
) -> Array:
    """Run n iterations of truncated backpropagation through time: forward, backward, clip, update, state carried.

    Parameters
    ----------
    theta : (N,) parameters; written
    state : (S, N) optimizer memory, S as spec.slots says; written
    h, c : (L, B, H) state, carried from one iteration to the next; written (c as it was for cells that have none)
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
    bfloat16 : the recurrent matrices are read as copies rounded to bfloat16 (spec.round_to_bfloat16), forward and
        backward; gradients, sums and the parameters that are updated stay float32. For one stream: half the bytes to
        read at each step. The gradient is that of the loss at the rounded weights.
    smooth_loss : the running mean of losses of one stream before these: 0.999 of it and 0.001 of the new one, each time
    stop_below : the call ends at the first iteration whose smoothed loss is less
    workspace : Workspace of these sizes, made for dropout or bfloat16 where there is any
    threads : how many may work on it; any number gives the same bits (the reference uses one)
    out : (n,) float64 buffer for the losses, overwritten: with NaN at first, then by iterations as they are made

    Returns
    -------
    losses : (k,) float64, nats, summed over T (but for `last_only`) and B, each before its own update; the first k of
        `out` where that is given. k is n, or less where a loss was not finite, or `stop_below` was reached: that loss
        is the last one, and its update was not made. With `stop_below`, h and c are then those before that iteration,
        so that it can be run again.

    Raises
    ------
    ValueError
        For shapes, dtypes, ids or starts out of range, an unknown optimizer.

    Notes
    -----
    n iterations in one call or in several give the same bits.

    Ctrl-C, or whatever else a signal handler raises, is heard between iterations, at least every tenth of a second or
    so. theta, state, h, c and `out` are then those of the same number of iterations, ``np.isfinite(out).sum()``, and a
    call for those that are left goes on as if nothing had happened. An id out of range ends a call likewise.
    """
    given = checks.train_steps(
        theta, state, h, c, ids, starts, reset, learning_rate, shape=shape, seq_length=seq_length, step=step,
        optimizer=optimizer, hyper=hyper, grad_scale=grad_scale, grad_clip=grad_clip, grad_clip_norm=grad_clip_norm,
        last_only=last_only, dropout=dropout, masks=masks, bfloat16=bfloat16, smooth_loss=smooth_loss,
        stop_below=stop_below, workspace=workspace, threads=threads, out=out,
    )  # fmt: skip
    with checks.exclusive(workspace), np.errstate(over="ignore", invalid="ignore"):  # a loss that is not finite is
        return _train(given)  # returned, not warned of


def _train(given: checks.Training) -> np.ndarray:
    """Run the iterations of a checked call; return their losses."""
    theta, state, h, c, ids, starts, reset, rates, shape, T, *_ = given
    losses, smooth_loss = given.losses, given.smooth_loss
    losses.fill(np.nan)
    grad = np.empty_like(theta) if given.workspace is None else given.workspace.grad
    new_theta, new_state = theta.copy(), state.copy()
    for n, (start, zero, rate) in enumerate(zip(starts, reset, rates, strict=True)):
        h0, c0 = np.zeros_like(h) if zero else h, np.zeros_like(c) if zero and CELLS[shape.cell].has_c else c
        x = _sequence(ids, start + np.arange(T + 1)[:, None], shape.vocab_size)
        read = _rounded(theta, shape) if given.bfloat16 else theta
        masks = None if given.masks is None else given.masks[n]
        loss, _, h_last, c_last = _loss_and_grad(
            read, h0, c0, x, shape, given.last_only, given.dropout, masks, grad
        )  # fmt: skip
        smooth_loss = spec.SMOOTHING * smooth_loss + (1 - spec.SMOOTHING) * loss / len(start)
        is_low, is_finite = smooth_loss < given.stop_below, np.isfinite(loss)
        made = [(losses[n : n + 1], loss), (h, h0 if is_low else h_last), (c, c0 if is_low else c_last)]
        if is_finite and not is_low:
            grad *= theta.dtype.type(given.grad_scale)
            clip_checked(grad, given.grad_clip, given.grad_clip_norm)
            UPDATES[given.optimizer](new_theta, grad, new_state, given.step + n, float(rate), **given.hyper)
            made += [(theta, new_theta), (state, new_state)]
        assignments(made)()
        if is_low or not is_finite:
            return losses[: n + 1]
    return losses


def _sequence(ids: Any, at: np.ndarray, V: int) -> np.ndarray:
    """The ids at `at` as int32, each checked: a text is read as training goes on."""
    x = ids[at]
    if x.max() >= V:
        wrong = at.T[x.T >= V][0]  # the first stream's first
        raise ValueError(f"ids: expected ids in [0, {V}), got {ids[wrong]} at {wrong}")
    return np.asarray(x.astype(np.int32))


def read(theta: Any, shape: Shape, h: Any, c: Any, x: Any) -> np.ndarray:
    """Logits (T, B, V) after each of the inputs x (T, B); h, c (L, B, H) go from the state before to that after."""
    views = spec.params(theta, shape)
    below = x if views.embedding is None else views.embedding[x]
    for k, layer in enumerate(views.layers):
        h_all, c[k], _ = _layer_forward(shape.cell, below, h[k], c[k], layer)
        h[k], below = h_all[-1], h_all[1:]
    return below @ views.W_y + views.b_y


def score(
    theta: Floats,
    h: Floats,
    c: Floats,
    x: Ids,
    *,
    shape: Shape,
    workspace: Workspace | None = None,
    out: Floats | None = None,
) -> Array:
    """Log probability of each character of a text, given those before it.

    ``log softmax(logits)[target]``, see spec/cells.py: the terms of the loss, with their sign turned.

    Parameters
    ----------
    theta : (N,) parameters; read
    h, c : (L, B, H) state carried in; written, so that a next call goes on where this one ended
    x : (T+1, B) int32 ids: inputs x[:-1], targets x[1:]; read. A next call begins with this one's last row
    shape : Shape
    workspace : Workspace of these sizes
    out : (T, B) float64 buffer for the result, overwritten

    Returns
    -------
    log_probs : (T, B) float64, nats; from the logits on computed in float64 for either dtype

    Raises
    ------
    ValueError
        ``x: expected ids in [0, 71), got 71`` and the like.

    Notes
    -----
    A text in one call or in several gives the same numbers up to rounding.
    """
    checks.score(theta, h, c, x, shape, workspace, out)
    log_probs = np.empty((len(x) - 1, x.shape[1])) if out is None else out
    log_probs[...] = log_prob(read(theta, shape, h, c, x[:-1]), x[1:])
    return log_probs
