"""The n-gram beside a model, one row of probabilities at a time: see :mod:`kernels.spec.mixtures`."""

from typing import Any

import numpy as np

from kernels.spec.mixtures import Mixture


def row(mixture: Mixture, history: Any, vocab_size: int) -> tuple[Any, int]:
    """The n-gram's probability of each next character, (V,) float64, after a history (D,), and its context's length."""
    p = np.full(vocab_size, 1.0 / vocab_size)
    node = 0
    for depth, discount in enumerate(mixture.discounts):
        grams = slice(*mixture.grams[node : node + 2])
        counts, symbols = mixture.counts[grams], mixture.symbols[grams]
        share = np.zeros(vocab_size)
        share[symbols] = (counts - discount) / counts.sum()
        p = share + discount * len(counts) / counts.sum() * p
        begin, end = mixture.children[node : node + 2]
        place = begin + np.searchsorted(mixture.chars[begin:end], history[len(history) - 1 - depth])
        if depth + 1 == len(mixture.discounts) or place == end or mixture.chars[place] != history[-1 - depth]:
            break
        node = place
    return p, depth


def mixed(logits: Any, mixture: Mixture) -> Any:
    """The logarithms of the mixture's probabilities, (B, V), for each stream's logits and history."""
    found = np.empty(logits.shape)
    for r, (z, history) in enumerate(zip(logits, mixture.history, strict=True)):
        p, depth = row(mixture, history, len(z))
        e, a = np.exp(z - z.max()), mixture.weights[depth]
        found[r] = np.log((1 - a) * e / e.sum() + a * p)
    return found


def remember(history: Any, drawn: Any) -> None:
    """Append each stream's character, (B,), to its history (B, D)."""
    history[:, :-1] = history[:, 1:]
    history[:, -1] = drawn
