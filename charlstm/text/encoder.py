"""Encodes text or bytes that arrive in pieces as ids, in one pass and for any length."""

import sys
from typing import Any

import numpy as np

from charlstm.text.idcache import Spool, begun_digest
from charlstm.text.vocabulary import ByteVocabulary, Vocabulary, code_points, unknown_characters

_UNSEEN = 2**32 - 1


class Encoder:
    """Numbers characters by first appearance; at the end, once all are known, every number becomes an id.

    Parameters
    ----------
    vocabulary : a model's; by default the text's own
    unknown : what to do with characters that the vocabulary lacks: see :meth:`Vocabulary.encode`
    """

    def __init__(self, vocabulary: Vocabulary | None = None, unknown: str = "error") -> None:
        self.spool = Spool(np.dtype(np.uint8) if vocabulary is None else vocabulary.id_dtype)
        self._vocabulary, self._unknown = vocabulary, unknown
        self.ends: list[int] = []  #: where each text ends, in ids
        self.left_out = 0  #: number of characters left out because the vocabulary lacks them
        self._numbers = np.full(sys.maxunicode + 1, _UNSEEN, np.uint32)  # one for every code point
        self._kinds: list[int] = []  # the code point of each number

    def add(self, text: str) -> None:
        """Add the next piece of text."""
        codes = np.frombuffer(text.encode("ascii"), np.uint8) if text.isascii() else code_points(text)
        numbers = self._numbers[codes]
        if len(numbers) and numbers.max() == _UNSEEN:
            kinds, first = np.unique(codes[numbers == _UNSEEN], return_index=True)
            kinds, known = kinds[np.argsort(first)], len(self._kinds)
            self._kinds += kinds.tolist()
            self._numbers[kinds] = np.arange(known, len(self._kinds))
            numbers = self._numbers[codes]
            dtype = np.min_scalar_type(len(self._kinds) - 1)
            if dtype.itemsize > self.spool.dtype.itemsize:
                self.spool = self.spool.widened(dtype)
        self.spool.append(numbers)

    @property
    def kinds(self) -> np.ndarray:
        """The code point of each number, (n,) uint32."""
        return np.array(self._kinds, np.uint32)

    def mark(self) -> None:
        """Record the end of a text in `ends`."""
        self.ends.append(len(self.spool))

    def finish(self) -> tuple[Vocabulary, np.ndarray, str]:
        """The vocabulary, the ids, read-only, and their digest.

        Raises
        ------
        UserError
            For characters that the vocabulary lacks, or an invalid `unknown`.
        """
        kinds, vocabulary = self.kinds, self._vocabulary
        if vocabulary is None:
            vocabulary = Vocabulary("".join(map(chr, np.sort(kinds))))
        places, lacking = vocabulary.places(kinds, self._unknown)
        if self._unknown == "error" and lacking.any():
            at, count = self._where(lacking)
            raise unknown_characters(kinds[lacking], at, count, len(self.spool))
        kept = ~lacking if self._unknown == "skip" else np.ones(len(kinds), bool)
        self.ends, read = self._ends_of(kept), len(self.spool)
        digest = self.spool.replace(places.astype(vocabulary.id_dtype), kept, vocabulary)
        self.left_out = read - len(self.spool)
        return vocabulary, self.spool.done(digest), digest

    def _ends_of(self, kept: np.ndarray) -> list[int]:
        """Where the texts end after all numbers that are not `kept` have been left out."""
        if kept.all():
            return self.ends
        ends, at, count = [], 0, 0
        for piece in self.spool.pieces():
            is_kept = kept[piece]
            ends += [count + int(is_kept[: end - at].sum()) for end in self.ends if at < end <= at + len(piece)]
            at, count = at + len(piece), count + int(is_kept.sum())
        return [0] * self.ends.count(0) + ends

    def _where(self, lacking: np.ndarray) -> tuple[int, int]:
        """The first position and the count of numbers that are `lacking`."""
        first, count, at = -1, 0, 0
        for piece in self.spool.pieces():
            found = lacking[piece]
            if count == 0 and found.any():
                first = at + int(np.argmax(found))
            count += int(found.sum())
            at += len(piece)
        return first, count


class ByteEncoder:
    """Takes bytes as ids."""

    def __init__(self, vocabulary: Vocabulary | None = None) -> None:
        self.spool = Spool(np.dtype(np.uint8))
        self._vocabulary = vocabulary or ByteVocabulary()
        self._digest: Any = begun_digest(self._vocabulary)
        self.ends: list[int] = []  #: where each text ends, in ids
        self.left_out = 0

    def add(self, content: bytes) -> None:
        """Add the next piece."""
        self._digest.update(content)
        self.spool.append(np.frombuffer(content, np.uint8))

    def mark(self) -> None:
        """Record the end of a text."""
        self.ends.append(len(self.spool))

    def finish(self) -> tuple[Vocabulary, np.ndarray, str]:
        """The vocabulary, the ids, read-only, and their digest."""
        digest = self._digest.hexdigest()
        return self._vocabulary, self.spool.done(digest), digest
