"""A whole model: loss and gradient of a sequence, training, and log probabilities of a text."""

from contextlib import nullcontext
from typing import Any

import numpy as np

from kernels import spec
from kernels.reference.gru import gru_backward, gru_forward
from kernels.reference.layer import operand, rounded_operands
from kernels.reference.lnlstm import lnlstm_backward, lnlstm_forward
from kernels.reference.loss import loss_of, score_of
from kernels.reference.lstm import lstm_backward, lstm_forward
from kernels.reference.optimizers import UPDATES, clip_checked
from kernels.reference.rnn import rnn_backward, rnn_forward
from kernels.spec import CELLS, Array, Floats, Goal, Ids, Shape, Workspace, checks
from kernels.spec.atomic import assignments
from kernels.spec.many import or_several_models
from kernels.spec.workspace_checks import exclusive

#: Forward and backward op of a layer, by kind of cell.
_LAYERS: dict[str, Any] = {
    "lstm": (lstm_forward, lstm_backward),
    "gru": (gru_forward, gru_backward),
    "rnn": (rnn_forward, rnn_backward),
    "lnlstm": (lnlstm_forward, lnlstm_backward),
}


def _layer_forward(cell: str, x: Any, h0: Any, c0: Any, parameters: Any) -> tuple[np.ndarray, np.ndarray, Any]:
    """Run one layer; return h (T+1, B, H), the last c (B, H) (c0 for a cell without c), and the cache."""
    has_c = CELLS[cell].has_c
    h, *c, cache = _LAYERS[cell][0](x, h0, *((c0,) if has_c else ()), *parameters)
    return h, c[0][-1] if has_c else c0, cache


def _dropped(a: np.ndarray, mask: Any, dropout: float) -> np.ndarray:
    """Apply dropout to a (T, B, H), or to its gradient; mask is (T, B, H), or None for no dropout."""
    real = a.dtype.type
    return a if mask is None else np.where(mask, a * real(1 / (1 - dropout)), real(0))


def loss_and_grad(
    theta: Floats,
    h: Floats,
    c: Floats,
    x: Array,
    *,
    shape: Shape,
    targets: Array | None = None,
    loss: str = "cross_entropy",
    delta: float = 1.0,
    ignore_index: int | None = None,
    last_only: bool = False,
    dropout: float = 0.0,
    masks: Ids | None = None,
    bfloat16: bool = False,
    workspace: Workspace | None = None,
    threads: int | None = None,
) -> tuple[float, Array, Array, Array]:
    """Compute the loss of a model (L stacked layers and a readout) over one sequence, and its gradient.

    Parameters
    ----------
    theta : (N,) parameters; read
    h, c : (L, B, H) initial state; read (cells without a cell state ignore c, here and below)
    x : (T+1, B) int32 ids, or (T+1, B, D) floats if the shape has an input_size: inputs x[:-1], targets x[1:]; with
        `targets`, all T rows are inputs; read
    shape : Shape
    targets : (T, B) int32 ids for cross_entropy, else (T, B, Y) floats, in units of your own; read
    loss, delta : a name of spec.LOSSES, and the delta of huber (spec/losses.py); a model of ids has cross_entropy alone
    ignore_index : targets of this id add nothing to the loss and no gradient, as torch.nn's; None for no such id
    last_only : count only the last step's loss, as for windows that predict one character
    dropout : dropout rate, the fraction of each layer's outputs that is zeroed; the others are divided by 1 - dropout
    masks : (L, T, B, H) uint8, zero where an output is zeroed; None without dropout; read
    bfloat16 : mixed precision, as for :func:`train_steps`
    workspace : Workspace of these sizes, made for bfloat16 if the call uses it; the results may then be views of it
    threads : most threads that may be used; any number gives the same bits (the reference uses one). None: one thread,
        which may be quicker to compile, and whose last bits may be others for one or two streams

    Returns
    -------
    loss : float, nats, summed over T and B (with squared and huber, the units of the targets squared)
    grad : (N,)
    h_last, c_last : (L, B, H), the state after the last step; no gradient flows back through it (truncated BPTT)

    Raises
    ------
    ValueError
        ``x: expected ids in [0, 71), got 71`` and the like.
    """
    aim = checks.Aim(targets, loss, delta, ignore_index)
    given = checks.loss_and_grad(theta, h, c, x, shape, aim, last_only, dropout, masks, bfloat16, workspace, threads)
    with exclusive(workspace):
        grad = np.empty_like(theta) if workspace is None else workspace.grad
        return _in_precision(bfloat16, theta, h, c, *given[:3], shape, last_only, dropout, masks, grad)


def _in_precision(
    bfloat16: bool, theta: Any, h: Any, c: Any, x: Any, targets: Any, goal: Goal, shape: Shape, *rest: Any
) -> Any:
    """The results of :func:`_loss_and_grad`, with the operands that a bfloat16 call rounds rounded."""
    B = x.shape[1]
    read = _rounded(theta, shape, B) if bfloat16 else theta
    with rounded_operands() if spec.is_mixed(bfloat16, B, shape.cell, shape.embedding_size) else nullcontext():
        return _loss_and_grad(read, h, c, x, targets, goal, shape, *rest)


def _loss_and_grad(
    theta: Any, h: Any, c: Any, x: Any, targets: Any, goal: Goal, shape: Shape, last_only: bool, dropout: float,
    masks: Any, grad: Any,
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Write the gradient into grad (N,); return the results of :func:`loss_and_grad`."""
    V, H, first = shape.vocab_size, shape.hidden_size, len(x) - 1 if last_only else 0
    views, masks = spec.params(theta, shape), [None] * shape.num_layers if masks is None else masks
    caches, c_all, below = [], [], x if views.embedding is None else views.embedding[x]
    for layer, h0, c0, mask in zip(views.layers, h, c, masks, strict=True):
        h_all, c_last, cache = _layer_forward(shape.cell, below, h0, c0, layer)
        caches.append(cache)
        c_all.append(c_last)
        below = operand(_dropped(h_all[1:], mask, dropout))
    read = below[first:]
    logits = read @ views.W_y + views.b_y
    losses, dlogits = loss_of(logits, targets[first:], goal, logits)
    loss, dlogits = float(losses.sum(dtype=np.float64)), operand(dlogits)

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
        np.add.at(grads.embedding, x, dh)
    return loss, grad, np.stack([cache.h[-1] for cache in caches]), np.stack(c_all)


def _rounded(theta: Any, shape: Shape, batch_size: int) -> np.ndarray:
    """A copy of the parameters with the matrices that a bfloat16 call rounds."""
    rounded = theta.copy()
    views = spec.params(rounded, shape)
    matrices = [layer.W_h for layer in views.layers]
    if spec.is_mixed(True, batch_size, shape.cell, shape.embedding_size):
        matrices += [*(layer.W_x for layer in views.layers[1:]), views.W_y]
    for W in matrices:
        W[...] = spec.round_to_bfloat16(W)
    return rounded


@or_several_models(spec.workspace)
def train_steps(
    theta: Floats,
    state: Floats,
    h: Floats,
    c: Floats,
    ids: Array,
    starts: Ids,
    reset: Array,
    learning_rate: Floats | float,
    *,
    shape: Shape,
    seq_length: int,
    targets: Array | None = None,
    loss: str = "cross_entropy",
    delta: float = 1.0,
    ignore_index: int | None = None,
    step: int = 0,
    optimizer: str = "adagrad",
    hyper: dict[str, float] | None = None,
    grad_scale: float = 1.0,
    grad_clip: float | None = None,
    grad_clip_norm: float | None = None,
    last_only: bool = False,
    dropout: float = 0.0,
    masks: Ids | None = None,
    weight_drop: float = 0.0,
    seed: int = 0,
    bfloat16: bool = False,
    smooth_loss: float = np.inf,
    stop_below: float = -np.inf,
    workspace: Workspace | None = None,
    threads: int = 1,
    out: Floats | None = None,
) -> Array:
    """Run n iterations of truncated backpropagation through time: forward, backward, clip, update, carry the state.

    Parameters
    ----------
    theta : (N,) parameters; written
    state : (S, N) optimizer state, S from spec.slots; written
    h, c : (L, B, H) state, carried from one iteration to the next; written (c stays unchanged for cells without one)
    ids : (M,) uint8, uint16 or uint32, the text; or (M, D) floats, a series, if the shape has an input_size; read
    starts : (n, B) int64, start of each stream's sequence: inputs ids[start : start+T], targets one later; read
    reset : (n,) bool, whether h and c are set to zero before the iteration; read
    learning_rate : (n,) float64, one learning rate per iteration, or one number for all; read
    shape : Shape
    seq_length : T, the truncated-BPTT length
    targets : (M,) int32 ids for cross_entropy, else (M, Y) floats: row k for row k of `ids`. None: the next row of it
    loss, delta, ignore_index : as for :func:`loss_and_grad`
    step : number of updates made before this call, for Adam's bias correction
    optimizer, hyper : a name of spec.OPTIMIZERS, and those of its constants that differ from the defaults
    grad_scale : factor applied first to the gradient of the summed loss (1 / (T B) for the mean)
    grad_clip, grad_clip_norm : limits by element, then by Euclidean norm, applied after the scaling; None for no limit
    last_only : count only the last step's loss, as for windows that predict one character; usually used with reset
    dropout, masks : as for :func:`loss_and_grad`, but masks are (n, L, T, B, H): the caller draws the random numbers
    weight_drop : in [0, 1), the fraction of the elements of each W_h that an iteration leaves out: it reads zero there,
        and the other elements divided by 1 - weight_drop
    seed : of the choice of these elements, which also depends on step + the iteration (spec/weight_drop.py)
    bfloat16 : mixed precision: matrix products read bfloat16 (spec.round_to_bfloat16) and sum in float32; parameters,
        the arithmetic of gates, and the optimizer stay float32. W_h, the W_x of layers above the first, W_y, h, dz and
        the gradient of the logits are rounded; dz and that gradient are the rounded ones wherever they are read. With
        one stream of an LSTM without an embedding, where only the time to read W_h counts, only W_h is rounded, and the
        gradient is that of the loss at the rounded weights. theta must be float32.
    smooth_loss : smoothed loss per stream before this call; each iteration makes it 0.999 smooth_loss + 0.001 loss / B
    stop_below : the call ends at the first iteration whose smoothed loss is below this
    workspace : Workspace of these sizes, made for dropout or bfloat16 if the call uses them
    threads : most threads that may be used; any number gives the same bits (the reference uses one)
    out : (n,) float64 buffer for the losses, overwritten: first with NaN, then after each iteration with its loss

    Returns
    -------
    losses : (k,) float64, nats, summed over T (except with `last_only`) and B, each computed before its own update; the
        first k elements of `out` if given. k is n, or less if a loss was not finite or `stop_below` was reached: that
        loss is the last one, and its update was not made. After `stop_below`, h and c are those before that iteration,
        so that it can be repeated.

    Raises
    ------
    ValueError
        For wrong shapes or dtypes, ids or starts out of range, or an unknown optimizer.

    Notes
    -----
    n iterations in one call or in several give the same bits.

    Several models of one shape (on the CPU): if theta is (models, N), then state, h, c, starts, reset, masks and out
    have that leading axis, too; ids are shared, and learning_rate is one number, (n,) or (models, n). The result is
    (models, n), NaN after the last loss of a model that ended early. Each model gets the bits of a call of its own, on
    a thread of its own as far as `threads` allows. workspace must be None.

    Ctrl-C, or any other exception from a signal handler, takes effect between iterations, at least about every tenth of
    a second. theta, state, h, c and `out` are then those after the same number of iterations,
    ``np.isfinite(out).sum()``, and a call for the remaining ones continues as if there had been no interruption. An id
    out of range ends a call in the same way.
    """
    given = checks.train_steps(
        theta, state, h, c, ids, starts, reset, learning_rate, shape=shape, seq_length=seq_length,
        targets=targets, loss=loss, delta=delta, ignore_index=ignore_index, step=step, optimizer=optimizer, hyper=hyper,
        grad_scale=grad_scale, grad_clip=grad_clip, grad_clip_norm=grad_clip_norm,
        last_only=last_only, dropout=dropout, masks=masks, weight_drop=weight_drop, seed=seed, bfloat16=bfloat16,
        smooth_loss=smooth_loss, stop_below=stop_below, workspace=workspace, threads=threads, out=out,
    )  # fmt: skip
    with exclusive(workspace), np.errstate(over="ignore", invalid="ignore"):  # a loss that is not finite
        return _train(given)  # is returned, without a warning


def _train(given: checks.Training) -> np.ndarray:
    """Run the iterations of a checked call; return their losses."""
    theta, state, h, c, _, _, starts, reset, rates, shape, T, *_ = given
    losses, smooth_loss = given.losses, given.smooth_loss
    losses.fill(np.nan)
    grad = np.empty_like(theta) if given.workspace is None else given.workspace.grad
    new_theta, new_state = theta.copy(), state.copy()
    for n, (start, zero, rate) in enumerate(zip(starts, reset, rates, strict=True)):
        h0, c0 = np.zeros_like(h) if zero else h, np.zeros_like(c) if zero and CELLS[shape.cell].has_c else c
        x, targets = _sequence(given, start + np.arange(T)[:, None])
        read, drops = theta, given.weight_drop > 0
        if drops:
            factors = spec.factors(shape, theta.dtype, given.weight_drop, given.seed, given.step + n)
            read = theta * factors
        masks = None if given.masks is None else given.masks[n]
        loss, _, h_last, c_last = _in_precision(
            given.bfloat16, read, h0, c0, x, targets, given.goal, shape, given.last_only, given.dropout, masks, grad
        )
        smooth_loss = spec.SMOOTHING * smooth_loss + (1 - spec.SMOOTHING) * loss / len(start)
        is_low, is_finite = smooth_loss < given.stop_below, np.isfinite(loss)
        made = [(losses[n : n + 1], loss), (h, h0 if is_low else h_last), (c, c0 if is_low else c_last)]
        if is_finite and not is_low:
            if drops:
                grad *= factors
            grad *= theta.dtype.type(given.grad_scale)
            clip_checked(grad, given.grad_clip, given.grad_clip_norm)
            UPDATES[given.optimizer](new_theta, grad, new_state, given.step + n, float(rate), **given.hyper)
            made += [(theta, new_theta), (state, new_state)]
        assignments(made)()
        if is_low or not is_finite:
            return losses[: n + 1]
    return losses


def _sequence(given: checks.Training, at: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the inputs and targets at the positions `at` (T, B), ids as int32, after checking those of a text."""
    ids, V = given.ids, given.shape.vocab_size
    if ids.ndim == 2:
        return ids[at], given.targets[at]
    read = at if given.has_targets else np.concatenate([at, at[-1:] + 1])
    if ids[read].max() >= V:
        wrong = read.T[ids[read].T >= V][0]  # the first one of the first stream
        raise ValueError(f"ids: expected ids in [0, {V}), got {ids[wrong]} at {wrong}")
    return ids[at].astype(np.int32), given.targets[at].astype(np.int32)


def read(theta: Any, shape: Shape, h: Any, c: Any, x: Any) -> np.ndarray:
    """Return the logits (T, B, V) after each of the inputs x (T, B); update the state h, c (L, B, H) in place."""
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
    x: Array,
    *,
    shape: Shape,
    targets: Array | None = None,
    loss: str = "cross_entropy",
    delta: float = 1.0,
    ignore_index: int | None = None,
    workspace: Workspace | None = None,
    threads: int = 1,
    out: Floats | None = None,
) -> Array:
    """Compute the log probability of each character of a text, given the characters before it.

    These are ``log softmax(logits)[target]`` of spec/cells.py: the terms of the loss with the opposite sign. So they
    are with any other loss, too: the log likelihood of each step with gaussian, minus its error with squared and huber.

    Parameters
    ----------
    theta : (N,) parameters; read
    h, c : (L, B, H) initial state; overwritten with the last one, so that the next call continues the text
    x : (T+1, B) int32 ids, or (T+1, B, D) floats: inputs x[:-1], targets x[1:]; read. The next call's x begins with
        this one's last row. With `targets`, all T rows are inputs
    shape : Shape
    targets, loss, delta, ignore_index : as for :func:`loss_and_grad`; zero is the result for a target that is ignored
    workspace : Workspace of these sizes
    threads : most threads that may be used; any number gives the same bits (the reference uses one)
    out : (T, B) float64 buffer for the result, overwritten

    Returns
    -------
    log_probs : (T, B) float64, nats, or the targets' units squared; computed in float64 for either dtype

    Raises
    ------
    ValueError
        ``x: expected ids in [0, 71), got 71`` and the like.

    Notes
    -----
    Scoring a text in one call or in several gives the same numbers up to rounding.
    """
    aim = checks.Aim(targets, loss, delta, ignore_index)
    inputs, aims, goal, T, *_ = checks.score(theta, h, c, x, shape, aim, workspace, threads, out)
    log_probs = np.empty((T, x.shape[1])) if out is None else out
    log_probs[...] = score_of(read(theta, shape, h, c, inputs), aims, goal)
    return log_probs
