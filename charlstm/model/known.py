"""Tells generated texts that stand in the training text from new ones: lines, or parts that end in another stop."""

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
_ROUNDS = 20  # rounds of `count` draws before giving up on a model that writes nothing new


@dataclass(frozen=True)
class Known:
    """The parts of a text between two stops, as sorted 64-bit hashes (n,): eight bytes for each."""

    stop: str
    hashes: np.ndarray

    @classmethod
    def of(cls, corpus: Corpus, stop: str) -> "Known":
        """Read a corpus in pieces."""
        decode, left, found = corpus.vocabulary.decoder(), "", [np.array([hash("")])]
        for at in range(0, len(corpus.ids), _PIECE):
            *parts, left = (left + decode(corpus.ids[at : at + _PIECE], at + _PIECE >= len(corpus.ids))).split(stop)
            found.append(np.unique(np.fromiter(map(hash, parts), np.int64, len(parts))))
        return cls(stop, np.unique(np.concatenate([*found, [hash(left)]])))

    def has(self, text: str) -> bool:
        """Whether the last part of a text, which may end in the stop, is known; an empty part counts as known."""
        part = hash(text.removesuffix(self.stop).rpartition(self.stop)[2])
        place = int(np.searchsorted(self.hashes, part))
        return place < len(self.hashes) and int(self.hashes[place]) == part


def new_samples(model: Checkpoint, known: Known, prime: str = "", count: int = 1, **options: Any) -> Iterator[Sample]:
    """Yield `count` texts that end in the stop of `known` and are not in it, with seeds from `seed` on.

    Raises
    ------
    UserError
        As :func:`charlstm.model.sampling.samples`.
    RunFailed
        If the model writes too few new texts; raised after those have been yielded.
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
        f"--new: found {given:,} of {count:,} new samples: the training text has all others of {_ROUNDS * count:,} "
        "drawn; a higher --temperature may help"
    )
