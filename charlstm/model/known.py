"""Which of the texts that a model writes its training text has: lines, or whatever else ends in the same sign."""

import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from charlstm.errors import RunFailed
from charlstm.model.checkpoint import Checkpoint
from charlstm.model.sampling import Sample, samples
from charlstm.text.corpus import Corpus

_PIECE = 2**20  # ids decoded at a time
_ROUNDS = 20  # of draws, as many in each as are wanted, before a model is taken to write nothing new


@dataclass(frozen=True)
class Known:
    """The parts of a text between two stops, as 64-bit hashes, (n,) sorted: eight bytes for each of them."""

    stop: str
    hashes: np.ndarray

    @classmethod
    def of(cls, corpus: Corpus, stop: str) -> "Known":
        """Read a text in pieces."""
        decode, left, found = corpus.vocabulary.decoder(), "", [np.array([hash("")])]
        for at in range(0, len(corpus.ids), _PIECE):
            *parts, left = (left + decode(corpus.ids[at : at + _PIECE], at + _PIECE >= len(corpus.ids))).split(stop)
            found.append(np.unique(np.fromiter(map(hash, parts), np.int64, len(parts))))
        return cls(stop, np.unique(np.concatenate([*found, [hash(left)]])))

    def has(self, text: str) -> bool:
        """Whether the last part of a text, which may end in the stop, is one of these; nothing is not new, either."""
        part = hash(text.removesuffix(self.stop).rpartition(self.stop)[2])
        place = int(np.searchsorted(self.hashes, part))
        return place < len(self.hashes) and int(self.hashes[place]) == part


def new_samples(model: Checkpoint, known: Known, prime: str = "", count: int = 1, **options: Any) -> Iterator[Sample]:
    """Texts that end in the stop of `known`, without those that it has: `count` of them, with seeds from `seed` on.

    Raises
    ------
    UserError
        As :func:`charlstm.model.sampling.samples`.
    RunFailed
        After what is new has been given, where the model writes too little of it.
    """
    seed = options.pop("seed", None)
    first = secrets.randbelow(2**32) if seed is None else seed
    given = 0
    for drawn in range(0, _ROUNDS * count, max(count, 1)):
        for one in samples(model, prime, count, seed=(first + drawn) % 2**32, stop=known.stop, **options):
            if given < count and not known.has(one.prime + one.text):
                given += 1
                yield one
        if given == count:
            return
    raise RunFailed(
        f"--new: only {given:,} of {count:,}: of {_ROUNDS * count:,} that it wrote the text has all the others; a "
        "higher --temperature may help"
    )
