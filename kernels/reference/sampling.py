"""Sampling characters, each fed back as the next input."""

from typing import Any

import numpy as np

from kernels.reference import mixtures
from kernels.reference.loss import log_prob
from kernels.reference.model import read
from kernels.spec import Array, Floats, Ids, Mixture, Shape, checks


def sample(
    theta: Floats,
    h: Floats,
    c: Floats,
    x: Ids,
    uniforms: Floats,
    *,
    shape: Shape,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    log_probs: Floats | None = None,
    mixture: Mixture | None = None,
) -> Array:
    """Sample n characters for each of B streams, each fed back as the next input.

    Parameters
    ----------
    theta : (N,) parameters; read
    h, c : (L, B, H) state; written, so that the next call continues the text
    x : (B,) int32, the first input ids; read
    uniforms : (n, B) float64 in [0, 1), one per character, so that a seed gives the same text on every backend; read
    shape : Shape
    temperature : the logits are divided by it; 0 takes the most probable character (of equally probable ones the first)
    top_k : sample from the top_k most probable characters (of equally probable ones the first); 0 samples from all
    top_p : nucleus sampling: of these, sample from the smallest set of most probable characters whose total probability
        (renormalised after top_k) is at least top_p; 1 samples from all
    log_probs : (n, B) float64 buffer for the log probability of each sampled character, nats, overwritten: that of the
        model itself (with `mixture`, of both), at temperature 1 and without top_k and top_p
    mixture : an n-gram whose probabilities are mixed with the model's before temperature, top_k and top_p; its history
        is written, so that the next call continues the text; not on the cupy backend

    Returns
    -------
    ids : (n, B) int32

    Raises
    ------
    ValueError
        ``top_k: expected a whole number of at least 0, got -1`` and the like.
    NotFinite
        If a logit is NaN or inf. Then h, c and the history stay unchanged.

    Notes
    -----
    The sampled character is the first one whose normalised cumulative probability exceeds the uniform number, as in
    ``numpy.random.RandomState.choice``. Probabilities are computed in float64 for either dtype. Temperature is applied
    first, then top_k, then top_p. Sources: Fan, Lewis and Dauphin (2018), section 5.1, for top_k; Holtzman et al.
    (2020), section 3.1, for top_p.
    """
    uniforms, temperature, top_k, top_p = checks.sample(
        theta, h, c, x, uniforms, shape, temperature, top_k, top_p, log_probs, mixture
    )
    if mixture is not None:
        history, mixture = mixture.history, mixture._replace(history=mixture.history.copy())
    drawn, h_next, c_next = np.empty(uniforms.shape, np.int32), h.copy(), c.copy()
    for n, u in enumerate(uniforms):
        logits = read(theta, shape, h_next, c_next, x[None])[0].astype(np.float64)
        if not np.isfinite(logits.max(axis=-1)).all():  # a NaN or inf, or all of them -inf
            raise checks.not_finite(n)
        if mixture is not None:
            logits = mixtures.mixed(logits, mixture)
        if temperature == 0:
            x = logits.argmax(axis=-1).astype(np.int32)
        else:
            weights = np.exp((logits - logits.max(axis=-1, keepdims=True)) / temperature)
            _truncate(weights, logits, top_k, top_p)
            cumulative = weights.cumsum(axis=-1)
            below_u = cumulative / cumulative[:, -1:] <= u[:, None]
            x = below_u.sum(axis=-1).astype(np.int32)
        drawn[n] = x
        if mixture is not None:
            mixtures.remember(mixture.history, x)
        if log_probs is not None:
            log_probs[n] = log_prob(logits, x)
    h[...], c[...] = h_next, c_next
    if mixture is not None:
        history[...] = mixture.history
    return drawn


def _truncate(weights: Any, logits: Any, top_k: int, top_p: float) -> None:
    """Set the weights (B, V) of the characters that top_k and top_p exclude to zero."""
    order = np.argsort(-logits, axis=-1, kind="stable")
    ranked = np.take_along_axis(weights, order, axis=-1)
    if top_k > 0:
        ranked[:, top_k:] = 0
    if top_p < 1:
        reached = ranked.cumsum(axis=-1) >= top_p * ranked.sum(axis=-1, keepdims=True)
        ranked[:, 1:][reached[:, :-1]] = 0  # the character that reaches top_p stays
    np.put_along_axis(weights, order, ranked, axis=-1)
