"""Model: a checkpoint that samples and scores."""

import os
from collections.abc import Iterable, Iterator
from typing import Any

from charlstm.model import sampling, scoring
from charlstm.model.checkpoint import Checkpoint, find


class Model(Checkpoint):
    """A checkpoint that samples and scores; :func:`charlstm.load` returns one."""

    def stream(self, prime: str = "", **options: Any) -> Iterator[str]:
        """Generated text, piece by piece: see :func:`charlstm.model.sampling.stream`."""
        return sampling.stream(self, prime, **options)

    def samples(self, prime: str = "", count: int = 1, **options: Any) -> list[sampling.Sample]:
        """Several generated texts with their log probabilities: see :func:`charlstm.model.sampling.samples`."""
        return sampling.samples(self, prime, count, **options)

    def sample(self, prime: str = "", **options: Any) -> str:
        """Generated text, `prime` included: see :class:`charlstm.model.sampling.Options` for the options."""
        [one] = self.samples(prime, 1, **options)
        return one.prime + one.text

    def score(self, text: str, **options: Any) -> scoring.Score:
        """How well the model predicts a text: see :func:`charlstm.model.scoring.score`."""
        return scoring.score(self, text, **options)

    def scores(self, texts: Iterable[str], **options: Any) -> list[scoring.Score]:
        """How well the model predicts each of many short texts: see :func:`charlstm.model.scoring.scores`."""
        return scoring.scores(self, texts, **options)


def load(path: str | os.PathLike[str], which: str = "best") -> Model:
    """Load a run folder's model (`which` is "best", "last" or a file in it or elsewhere), or a checkpoint file.

    Raises
    ------
    UserError
            If the run has no checkpoint, or the file is missing, damaged or not a checkpoint.
    """
    return Model.from_file(find(path, which))


__all__ = ["Checkpoint", "Model", "load"]  # the public names of `charlstm.checkpoint`, the old place of `load`
