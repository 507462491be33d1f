"""Evaluates the model on the held-out text, in the same way as `charlstm score`."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cached_property
from typing import Any

import numpy as np

from charlstm.model.memory import Voice
from charlstm.model.scoring import Bits, bits_per_unit
from charlstm.ngram.beside import NGram
from charlstm.ngram.markov import baseline_bits
from charlstm.settings.config import Config
from charlstm.text.corpus import Corpus
from charlstm.text.vocabulary import Vocabulary
from charlstm.training.progress import Progress

_IN_A_RUN = 10  # evaluations per run by default
_QUICK = 10_000  # held-out characters that are evaluated as often as they may


class Evaluations:
    """The evaluations of a run.

    Parameters
    ----------
    config, corpus : of the run
    ids : the ids to learn, (M,)
    held_out : the held-out ids; empty if the config has no validation
    ops : the run's backend
    """

    def __init__(self, config: Config, corpus: Corpus, ids: np.ndarray, held_out: np.ndarray, ops: Any) -> None:
        self._config, self._corpus, self._ids, self._held_out, self._ops = config, corpus, ids, held_out, ops
        self._beside: np.ndarray | None = None  # ln p of the n-gram for each held-out id

    def every(self, iterations: int) -> int:
        """Iterations between evaluations in a run of `iterations`; 0 for none."""
        if not self._config.validation:
            return 0
        # Reading a character to evaluate takes about as long as learning one: at most a fifth of the time.
        least = 5 * len(self._held_out) // self._config.iteration_chars if len(self._held_out) > _QUICK else 1
        return self._config.validate_every or max(least, -(-min(iterations, 10**6) // _IN_A_RUN))

    def bits(self, voices: Sequence[Voice]) -> Bits:
        """Held-out bits per id of nets that speak together."""
        nets = [(self._ops, *voice) for voice in voices]
        begin = self._corpus.edges.begin
        return bits_per_unit(nets, begin, self._held_out, self._config.threads, self._beside, self._config.mix)

    def set_beside(self, ngram: NGram) -> float | None:
        """Measure the n-gram beside the net, for later mixtures: its held-out bits; None if nothing is held out."""
        if not self._config.validation:
            return None
        self._beside = ngram.log_probs(self._held_out, self._corpus.edges.begin)[0]
        return float(-self._beside.mean() / np.log(2))

    @cached_property
    def baseline_bits(self) -> float | None:
        """Held-out bits of the n-gram baseline, per character or byte; None if the config has no validation."""
        is_there = bool(self._config.validation)
        return baseline_bits(self._ids, self._held_out, len(self._corpus.vocabulary)) if is_there else None

    def told(self, progress: Progress, bits: float, **more: Any) -> Progress:
        """A Progress with the figures of an evaluation that gave `bits`."""
        vocabulary = self._corpus.vocabulary
        return replace(
            progress,
            val_bits_per_char=bits * units_per_char(vocabulary, self._held_out),
            val_bits_per_byte=bits if vocabulary.unit == "byte" else None,
            **more,
        )


def units_per_char(vocabulary: Vocabulary, ids: np.ndarray) -> float:
    """Ids per character of the text: above one for bytes of a text that is not all ASCII."""
    return len(ids) / vocabulary.count_characters(ids)
