"""Weighted texts: how often a pass reads each, and the training text that results.

Weights are turned into the smallest whole numbers of copies in the same ratio: with weight 2 for one of two texts, a
pass reads it twice and the other once; with 1.5, three times and twice. So every text is read completely, nothing is
drawn at random, and a pass is longer. Copies are spread over the pass. The held-out text is not copied.
"""

import difflib
import math
import os
from collections.abc import Sequence
from fractions import Fraction
from pathlib import Path

import numpy as np

from charlstm.errors import UserError
from charlstm.text import downloads, idcache
from charlstm.text.vocabulary import Vocabulary

MOST = 100  #: copies of a text allowed in a pass
_PIECE = 2**20

Spans = tuple[tuple[int, int], ...]  # for each text: its end in the ids, and its number of copies


def copies_of(weights: Sequence[str], names: Sequence[str]) -> tuple[int, ...]:
    """The number of times a pass reads each named text, for weights like ``a.txt=2``; empty without weights.

    Raises
    ------
    UserError
        If a weight names no text, is not a positive number, or the ratio needs too many copies.
    """
    if not weights:
        return ()
    found = dict.fromkeys(range(len(names)), Fraction(1))
    for weight in weights:
        name, _, number = weight.rpartition("=")
        found[_place(weight, name, names)] = _number(weight, number)
    scale = math.lcm(*(each.denominator for each in found.values()))
    whole = [int(each * scale) for each in found.values()]
    copies = tuple(each // math.gcd(*whole) for each in whole)
    if max(copies) > MOST:
        raise UserError(
            f"--weight: {', '.join(weights)} needs {max(copies):,} copies of a text in a pass, more than {MOST}: "
            "give rounder numbers"
        )
    return copies


def _number(weight: str, number: str) -> Fraction:
    try:
        value = Fraction(number)
    except (ValueError, ZeroDivisionError):
        value = Fraction(0)
    if value <= 0:
        raise UserError(f"--weight: expected FILE=NUMBER, a number above 0, for example a.txt=2, got {weight!r}")
    return value


def _place(weight: str, name: str, names: Sequence[str]) -> int:
    """The index of the text that a weight names."""
    for place, each in enumerate(names):
        if name == each or (name and not downloads.is_url(name) and _resolved(name) == _resolved(each)):
            return place
    close = difflib.get_close_matches(name, names, 1)
    meant = f"did you mean {close[0]!r}?" if close else f"the texts are {', '.join(names)}"
    raise UserError(f"--weight {weight}: {name!r} is not one of the texts: {meant}")


def _resolved(name: str) -> Path | None:
    try:
        return Path(os.path.abspath(name)).resolve()
    except (OSError, ValueError):
        return None


def in_words(copies: Sequence[int], names: Sequence[str]) -> str:
    """What a pass reads, in a line; empty if all weights are equal."""
    if len(set(copies)) < 2:
        return ""
    times = ", ".join(
        f"{name} {count:,} {'time' if count == 1 else 'times'}" for name, count in zip(names, copies, strict=True)
    )
    return f"a pass reads {times}; the held-out text is the end of all texts, read once"


def order_of(copies: Sequence[int]) -> list[int]:
    """The indices of the texts in the order of a pass, the copies of each spread evenly over it."""
    turns = [(Fraction(2 * turn + 1, 2 * count), place) for place, count in enumerate(copies) for turn in range(count)]
    return [place for _, place in sorted(turns)]


def repeated(ids: np.ndarray, spans: Spans, vocabulary: Vocabulary) -> np.ndarray:
    """The text of a pass: `ids` (M,), which may end before the last texts do, with all copies of each text.

    It is in memory or, if large, mapped from a file in the cache, as texts are.
    """
    if len({count for _, count in spans}) < 2:
        return ids
    ends = [end for end, _ in spans]
    parts = list(zip([0, *ends], ends, strict=False))
    spool, digest = idcache.Spool(ids.dtype), idcache.begun_digest(vocabulary)
    for place in order_of([count for _, count in spans]):
        part = ids[slice(*parts[place])]
        for at in range(0, len(part), _PIECE):
            piece = part[at : at + _PIECE]
            spool.append(piece)
            digest.update(np.ascontiguousarray(piece).view(np.uint8).data)
    return spool.done(digest.hexdigest())
