"""The mixture of a net and the n-gram beside it: how much each counts, and the log probabilities of both.

Both were learned from the same text, but err differently: the net generalises, the n-gram remembers. The mixture has
the probability (1 - a) p_net + a p_ngram. A weight `a` of 0.5 is within 0.002 bits of the best one on the texts of
docs/recipes.md. The weights that are "learned" while a text is read, one for each length of context that the n-gram
knows, follow the online form of expectation-maximisation: a moves towards the share that the n-gram had in what was
seen, by 1 / n of the way, n counting the characters so far up to :data:`_MEMORY` (Titterington 1984, Recursive
parameter estimation using incomplete data).
"""

import math
from typing import Any

import numpy as np

from charlstm.errors import UserError
from charlstm.model.checkpoint import Checkpoint
from charlstm.ngram.beside import NGram
from charlstm.settings.config import Config

LEARNED = "learned"
_PRIOR, _MEMORY = 20, 1000  # characters that the first weights count as, and most that a weight remembers
_FIRST = 0.5


class Mixer:
    """The weights of an n-gram beside a net, while one text is read.

    Parameters
    ----------
    ngram : NGram
    weight : of the n-gram, from 0 to 1; or "learned"
    """

    def __init__(self, ngram: NGram, weight: float | str) -> None:
        self.ngram, self.weight = ngram, weight
        first = _FIRST if isinstance(weight, str) else weight
        self.weights = np.full(ngram.order + 1, first)  #: by length of the n-gram's context
        self._seen = [_PRIOR] * len(self.weights)

    def anew(self) -> "Mixer":
        """The mixer at the beginning of another text."""
        return Mixer(self.ngram, self.weight)

    def mixed(self, net: np.ndarray, ngram: np.ndarray, depths: np.ndarray) -> np.ndarray:
        """ln p of the next ids of the text, (n,) float64, from those of the net and of the n-gram, both (n,).

        `depths` are the lengths of the n-gram's contexts, as :meth:`NGram.log_probs` gives them.
        """
        if not isinstance(self.weight, str):
            return mixed(net, ngram, self.weight)
        found, weights = np.empty(len(net)), self.weights.tolist()
        for n, (of_net, of_ngram, depth) in enumerate(zip(net.tolist(), ngram.tolist(), depths.tolist(), strict=True)):
            a = weights[depth]
            theirs, both = a * math.exp(of_ngram), (1 - a) * math.exp(of_net) + a * math.exp(of_ngram)
            found[n] = math.log(both)
            self._seen[depth] = min(self._seen[depth] + 1, _MEMORY)
            weights[depth] += (theirs / both - a) / self._seen[depth]
        self.weights[...] = weights
        return found


def mixed(net: np.ndarray, ngram: np.ndarray, weight: float) -> np.ndarray:
    """ln((1 - weight) e^net + weight e^ngram)."""
    with np.errstate(divide="ignore"):
        return np.logaddexp(np.log1p(-weight) + net, np.log(weight) + ngram)


def chosen(model: Checkpoint, mix: float | str | None) -> Mixer | None:
    """The mixer that `mix` asks for; None for the net alone.

    Parameters
    ----------
    mix : a weight from 0 to 1, "learned", or None for what the run found best: see :func:`default`

    Raises
    ------
    UserError
        For another value, or if the model has no n-gram but `mix` asks for one.
    """
    weight = default(model) if mix is None else parsed(mix)
    if not weight or (mix is None and model.ngram is None):
        return None
    if model.ngram is None:
        raise UserError(f"--mix {mix}: {model.ngram_fault or 'the run has no n-gram: it was trained with --mix 0'}")
    return Mixer(model.ngram, weight)


def parsed(mix: float | str) -> float | str:
    """The weight that a number or a word stands for."""
    if mix == LEARNED:
        return mix
    try:
        weight = float(mix)
    except (TypeError, ValueError):
        weight = math.nan
    if not 0 <= weight <= 1:
        raise UserError(f"--mix: expected a weight from 0 to 1 or {LEARNED}, got {mix!r}")
    return weight


def default(model: Checkpoint) -> float:
    """The weight of the n-gram unless the user chooses one: that of the run, or 0 if the net alone did better."""
    return float(model.mix.get("weight", 0.0))


def said(model: Checkpoint, mix: float | str | None) -> str:
    """Who speaks, in a line; empty for a net that has never had an n-gram."""
    if not model.mix or (mix is not None and not parsed(mix)):
        return ""
    if model.ngram is None:
        return f"mix     the net alone, without its n-gram: {model.ngram_fault}"
    weight = default(model) if mix is None else parsed(mix)
    if not weight:
        return "mix     the net alone, which did better on held-out text"
    how = "weights learned while reading" if weight == LEARNED else f"weight {weight:g}"
    return f"mix     the net and its n-gram, {how}; --mix 0: the net alone"


def each_in_words(config: Config, each: dict[str, list[float]], unit: str) -> str:
    """What a run found about each of its nets, in a line like ``members ...``; empty for one net or no evaluation."""
    if not (bits := each.get("bits")):
        return ""
    if config.seeds == 1:
        nets = ", ".join(f"{figure:.3f}" for figure in bits)
        return (
            f"members {config.net_in_words}: {nets} bits/{unit} on held-out text, each by itself; they speak together"
        )
    best = int(np.argmin(bits))
    words = ", ".join(f"{net.seed}: {figure:.3f}" for net, figure in zip(config.nets, bits, strict=True))
    return f"seeds   {words} bits/{unit} on held-out text; seed {config.nets[best].seed} speaks"


def in_words(facts: dict[str, Any], unit: str) -> str:
    """What a run found about its mixture, in a line; empty if it has no n-gram."""
    if not facts:
        return ""
    weight = facts["weight"]
    use = f"use both (--mix {weight:g}; --mix 0: the net alone)" if weight else "use the net alone (--mix 0)"
    if "mixture" not in facts:
        return f"mixture of net and n-gram: no text was held out to compare them; sample and score {use}"
    net, ngram, both = (f"{facts[name]:.3f}" for name in ("net", "ngram", "mixture"))
    return f"mixture {both} bits/{unit} on held-out text; net alone {net}, n-gram alone {ngram}; sample and score {use}"
