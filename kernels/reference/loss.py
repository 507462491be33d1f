"""The losses of a readout (spec/losses.py): loss, gradient, log probabilities."""

from typing import Any

import numpy as np

from kernels.spec import HALF_LOG_TWO_PI, Array, Floats, Goal, Ids, checks


def softmax_cross_entropy(
    logits: Floats, targets: Ids, *, ignore_index: int | None = None, out: Floats | None = None
) -> tuple[float, Array]:
    """Compute the cross entropy of softmax(logits) against the targets, and its gradient.

    ``loss = -sum log softmax(logits)[target]``; ``dlogits = softmax(logits) - onehot(target)``.

    Parameters
    ----------
    logits : (T, B, V); read
    targets : (T, B) int32 in [0, V), or `ignore_index`; read
    ignore_index : targets of this id add nothing to the loss, and dlogits are zero there; None for no such id
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
    Stable for any finite logits, because the largest one is subtracted first. The loss is summed in float64.
    """
    goal = checks.softmax_cross_entropy(logits, targets, ignore_index, out)
    losses, dlogits = loss_of(logits, targets, goal, np.empty_like(logits) if out is None else out)
    return float(losses.sum(dtype=np.float64)), dlogits


def regression_loss(
    outputs: Floats, targets: Floats, *, loss: str = "squared", delta: float = 1.0, out: Floats | None = None
) -> tuple[float, Array]:
    """Compute a loss of real numbers, and its gradient; the equations are those of spec/losses.py.

    Parameters
    ----------
    outputs : (T, B, Y), or (T, B, 2Y) with gaussian: Y means, then the logarithms of Y standard deviations; read
    targets : (T, B, Y), in units of your own; read
    loss : "squared", "huber" (the absolute error where it exceeds delta) or "gaussian" (minus the log likelihood)
    delta : of huber, in the units of the targets
    out : buffer for the gradient, of the shape of `outputs`, overwritten; it may be `outputs` itself

    Returns
    -------
    loss : float, summed over T, B and Y; nats for gaussian, else the units of the targets squared
    doutputs : of the shape of `outputs`

    Raises
    ------
    ValueError
        ``loss: expected one of squared, huber, gaussian, got 'cross_entropy'`` and the like.

    Notes
    -----
    The loss is summed in float64. The cupy backend refuses this op.
    """
    goal = checks.regression_loss(outputs, targets, loss, delta, out)
    losses, doutputs = loss_of(outputs, targets, goal, np.empty_like(outputs) if out is None else out)
    return float(losses.sum(dtype=np.float64)), doutputs


def loss_of(outputs: Any, targets: Any, goal: Goal, out: Any) -> tuple[np.ndarray, np.ndarray]:
    """Write the gradient of outputs (T, B, V) to out; return the losses (T, B) of all steps, and out."""
    if goal.loss == "cross_entropy":
        losses = _cross_entropy(outputs, targets, goal, out)
    elif goal.loss == "gaussian":
        losses = _gaussian(outputs, targets, out)
    else:
        error = outputs - targets
        if goal.loss == "squared":
            each, out[...] = error**2, 2 * error
        else:
            delta = outputs.dtype.type(goal.delta)
            size, within = np.abs(error), np.clip(error, -delta, delta)
            each, out[...] = np.where(size <= delta, error**2 / 2, delta * (size - delta / 2)), within
        losses = each.sum(axis=-1)
    return losses, out


def _cross_entropy(logits: Any, targets: Any, goal: Goal, dlogits: Any) -> np.ndarray:
    counts = np.ones(targets.shape, bool) if goal.ignore_index is None else targets != goal.ignore_index
    at = np.where(counts, targets, 0)[..., None].astype(np.intp)
    shifted = logits - logits.max(axis=-1, keepdims=True)
    np.exp(shifted, out=dlogits)
    total = dlogits.sum(axis=-1, keepdims=True)
    losses = np.log(total) - np.take_along_axis(shifted, at, axis=-1)
    dlogits /= total
    np.put_along_axis(dlogits, at, np.take_along_axis(dlogits, at, axis=-1) - 1, axis=-1)
    dlogits[~counts] = 0
    return np.where(counts, losses[..., 0], 0)


def _gaussian(outputs: Any, targets: Any, out: Any) -> np.ndarray:
    Y = targets.shape[-1]
    error, log_deviation = outputs[..., :Y] - targets, outputs[..., Y:].copy()
    precision = np.exp(-2 * log_deviation)
    squares = error**2 * precision
    out[..., :Y] = error * precision
    out[..., Y:] = 1 - squares
    return np.asarray((log_deviation + squares / 2 + outputs.dtype.type(HALF_LOG_TWO_PI)).sum(axis=-1))


def score_of(outputs: Any, targets: Any, goal: Goal) -> np.ndarray:
    """Minus the losses (T, B) of all steps, computed in float64 for either dtype."""
    if goal.loss == "cross_entropy" and goal.ignore_index is None:
        return log_prob(outputs, targets)
    wide = outputs.astype(np.float64)
    return 0 - loss_of(wide, targets, goal, wide)[0]


def log_prob(logits: Any, ids: Any) -> np.ndarray:
    """Log softmax(logits (..., V)) at the ids (...), in nats, computed in float64 for either dtype."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    at_ids = np.take_along_axis(shifted, ids[..., None].astype(np.intp), axis=-1)[..., 0]
    return at_ids - np.log(np.exp(shifted).sum(axis=-1))
