"""The softmax readout: loss, gradient, log probabilities."""

from typing import Any

import numpy as np

from kernels.spec import Array, Floats, Ids, checks


def softmax_cross_entropy(logits: Floats, targets: Ids, *, out: Floats | None = None) -> tuple[float, Array]:
    """Compute the cross entropy of softmax(logits) against the targets, and its gradient.

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
    Stable for any finite logits, because the largest one is subtracted first. The loss is summed in float64.
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


def log_prob(logits: Any, ids: Any) -> np.ndarray:
    """Log softmax(logits (..., V)) at the ids (...), in nats, computed in float64 for either dtype."""
    shifted = logits.astype(np.float64) - logits.max(axis=-1, keepdims=True)
    at_ids = np.take_along_axis(shifted, ids[..., None].astype(np.intp), axis=-1)[..., 0]
    return at_ids - np.log(np.exp(shifted).sum(axis=-1))
