"""Measurements on the held-out text, as `charlstm score` makes them."""

from dataclasses import replace
from typing import Any

import numpy as np

from charlstm.model.scoring import bits_per_unit
from charlstm.settings.config import Config
from charlstm.text.corpus import Corpus
from charlstm.text.vocabulary import Vocabulary
from charlstm.training.progress import Progress
from kernels.spec import Shape

_IN_A_RUN = 10  # unless chosen


class Evaluations:
    """The evaluations of one run.

    Parameters
    ----------
    config, corpus, shape : of the run
    held_out : the ids to measure on, (M,); none where the config has no validation
    ops : its backend
    """

    def __init__(self, config: Config, corpus: Corpus, held_out: np.ndarray, shape: Shape, ops: Any) -> None:
        self._config, self._corpus, self._held_out = config, corpus, held_out
        self._shape, self._ops = shape, ops

    def every(self, iterations: int) -> int:
        """Iterations from one evaluation to the next, in a run of so many; 0 for none."""
        if not self._config.validation:
            return 0
        return self._config.validate_every or max(1, -(-min(iterations, 10**6) // _IN_A_RUN))

    def bits(self, theta: Any) -> float:
        """Bits per character, or byte of a model of bytes."""
        return bits_per_unit(self._ops, theta, self._shape, self._corpus.edges.begin, self._held_out)

    def told(self, progress: Progress, bits: float, **more: Any) -> Progress:
        """A Progress with what :meth:`bits` gave."""
        vocabulary = self._corpus.vocabulary
        return replace(
            progress,
            val_bits_per_char=bits * units_per_char(vocabulary, self._held_out),
            val_bits_per_byte=bits if vocabulary.unit == "byte" else None,
            **more,
        )


def units_per_char(vocabulary: Vocabulary, ids: np.ndarray) -> float:
    """Ids that a character of the text takes: more than one where they are bytes, and it has others than ASCII."""
    return len(ids) / vocabulary.count_characters(ids)
