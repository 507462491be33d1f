"""How much of a text is copied from another: the longest runs of characters that both have, exactly.

For each position of the sample, the longest run that starts there and also occurs in the training text is found among
the training text's suffixes. Suffixes are ranked by their first 1, 2, 4, ... characters (prefix doubling, Manber and
Myers 1993): a rank for 2k characters follows from two ranks for k. The longest match of a suffix is one of its two
neighbours in that order, and the length of a match follows from the ranks, from the longest down. The training text is
read in blocks that overlap by the longest run that is told apart, so memory does not depend on its length: about 24
bytes for each of the 2 million characters of a block, and 4 for each doubling until nothing matches (200 MB at most).
Time grows as n log n.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

#: Longest run that is told apart; a longer one counts as this long.
MOST = 4096
#: Lengths at which sequences of characters are looked up.
LENGTHS = (4, 8, 12, 16, 24, 32)
_BLOCK = 2**21  # characters of the training text at a time
_TEXT_END, _SAMPLE_END = 0x110000, 0x110001  # after the last code point


@dataclass(frozen=True)
class Novelty:
    """How much of a sample the training text has.

    Parameters
    ----------
    chars : characters of the sample
    longest : the longest run of the sample that occurs in the training text
    copied : fraction of the sample's characters in such runs of at least the given length
    new : by length, the fraction of the sample's sequences of so many characters that do not occur in the training text
    """

    chars: int
    longest: str
    copied: float
    new: dict[int, float]


def novelty(samples: list[str], text: Iterable[str], least: int = 20) -> list[Novelty]:
    """Compare samples with the training text, which arrives in pieces; a run of `least` characters counts as copied."""
    lengths = match_lengths(samples, text)
    return [_of(sample, found, least) for sample, found in zip(samples, lengths, strict=True)]


def match_lengths(samples: list[str], text: Iterable[str]) -> list[np.ndarray]:
    """For each position of each sample, (n,): characters of the longest run from there on that occurs in the text.

    At most :data:`MOST`. The text arrives in pieces; a run may go across them.
    """
    ends = np.array([_SAMPLE_END], np.uint32)
    whole = np.concatenate([part for sample in samples for part in (_codes(sample), ends)] or [ends])
    found = np.zeros(len(whole), np.int64)
    for block in _blocks(text):
        np.maximum(found, _matches(whole, block), out=found)
    begins = np.cumsum([0, *(len(sample) + 1 for sample in samples)])
    return [found[begin : begin + len(sample)] for begin, sample in zip(begins, samples, strict=False)]


def _of(sample: str, lengths: np.ndarray, least: int) -> Novelty:
    n = len(sample)
    begins = np.flatnonzero(lengths >= least)
    steps = np.zeros(n + 1, np.int64)
    np.add.at(steps, begins, 1)
    np.add.at(steps, begins + lengths[begins], -1)
    at = int(np.argmax(lengths)) if n else 0
    return Novelty(
        n,
        sample[at : at + int(lengths[at])] if n else "",
        float(np.mean(np.cumsum(steps[:-1]) > 0)) if n else 0.0,
        {k: float(np.mean(lengths[: n - k + 1] < k)) for k in LENGTHS if k <= n},
    )


def _codes(text: str) -> np.ndarray:
    """The code points of a text."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), np.uint32)


def _blocks(text: Iterable[str]) -> Iterator[np.ndarray]:
    """The text as code points in blocks; each begins with the last MOST of the block before."""
    parts: list[np.ndarray] = []
    size = 0
    for piece in text:
        parts.append(_codes(piece))
        size += len(parts[-1])
        if size >= _BLOCK:
            block = np.concatenate(parts)
            yield block
            parts, size = [block[-MOST:]], MOST
    if parts:
        yield np.concatenate(parts)


def _matches(sample: np.ndarray, text: np.ndarray) -> np.ndarray:
    """For each position of the sample, the length of the longest run from there on that the text has."""
    codes = np.concatenate([text, np.array([_TEXT_END], np.uint32), sample])
    begin, n = len(text) + 1, len(codes)
    ranks = [_ranked(codes.astype(np.int64))]
    while 2 ** (len(ranks) - 1) < MOST and np.isin(ranks[-1][begin:], ranks[-1][:begin]).any():
        ranks.append(_ranked(_pairs(ranks[-1], 2 ** (len(ranks) - 1))))
    last = ranks[-1]
    order = np.argsort(last[:begin], kind="stable")
    place = np.searchsorted(last[:begin][order], last[begin:])
    found = np.zeros(n - begin, np.int64)
    for neighbour in (place - 1, place):
        there = order[np.clip(neighbour, 0, begin - 1)]
        length = np.zeros(n - begin, np.int64)
        for level in reversed(range(len(ranks))):
            here, other = np.arange(begin, n) + length, there + length
            is_inside = (here < n) & (other < n)
            same = ranks[level][np.where(is_inside, here, 0)] == ranks[level][np.where(is_inside, other, begin - 1)]
            length += (same & is_inside) * 2**level
        np.maximum(found, length, out=found)
    return np.minimum(found, MOST)


def _pairs(ranks: np.ndarray, distance: int) -> np.ndarray:
    """A number for each position that orders the pairs of its rank and the rank `distance` later, 0 after the end."""
    later = np.zeros(len(ranks), np.int64)
    later[: max(0, len(ranks) - distance)] = ranks[distance:]
    return ranks.astype(np.int64) * (len(ranks) + 1) + later


def _ranked(keys: np.ndarray) -> np.ndarray:
    """The rank of each key, from 1; equal keys have equal ranks."""
    return (np.unique(keys, return_inverse=True)[1] + 1).astype(np.int32)
