"""Where a text begins and ends: the only place that decides what a model reads before a text's first character.

Texts that were joined with a separator begin after the separator; the separator also ends a text if it stands only
between texts. Any other text begins after a line break, if the training text has one. If it has none, a text begins
after nothing: the model's zero state gives the probability of its first character.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from charlstm.text.vocabulary import UnknownCharacters, Vocabulary

_PIECE = 2**20  # ids searched at a time
_BREAK = "\n"


@dataclass(frozen=True)
class Edges:
    """The ids that a model reads before a text, and those that end a text it writes; either may be empty."""

    begin: tuple[int, ...] = ()
    end: tuple[int, ...] = ()


def edges_of(vocabulary: Vocabulary, ids: np.ndarray, separator: str = "", documents: int = 1) -> Edges:
    """Derive how the texts of a corpus begin and end.

    Parameters
    ----------
    vocabulary, ids : the corpus' own
    separator : what its texts were joined with
    documents : number of its texts
    """
    between = _encoded(vocabulary, separator) if documents > 1 else ()
    if between and (found := places(ids, between, documents + 1)):
        joints = documents if tuple(ids[-len(between) :].tolist()) == between else documents - 1
        return Edges(between, between if separator != _BREAK and len(found) == joints else ())
    line = _encoded(vocabulary, _BREAK)
    return Edges(line if line and places(ids, line, 1) else ())


def known(facts: Mapping[str, Any], vocabulary: Vocabulary) -> Edges:
    """The edges that a checkpoint records; old checkpoints have none: then every text begins after a line break.

    Raises
    ------
    ValueError, TypeError
        If the recorded values are not ids.
    """
    if "begin" not in facts:
        return Edges(_encoded(vocabulary, _BREAK))
    edges = Edges(*(tuple(int(each) for each in facts[name]) for name in ("begin", "end")))
    if not all(0 <= each < len(vocabulary) for each in edges.begin + edges.end):
        raise ValueError("the ids that texts begin after are not in the vocabulary")
    return edges


def places(ids: np.ndarray, pattern: tuple[int, ...], most: int) -> list[int]:
    """Up to `most` places of a pattern in `ids`, (M,) of any length, from the left and without overlap."""
    found: list[int] = []
    size, free = len(pattern), 0
    for at in range(0, len(ids) - size + 1, _PIECE):
        piece = np.asarray(ids[at : at + _PIECE + size - 1])
        starts = np.flatnonzero(piece[: len(piece) - size + 1] == pattern[0])
        for k, each in enumerate(pattern[1:], 1):
            starts = starts[piece[starts + k] == each]
        for start in (starts + at).tolist():
            if start >= free:
                found.append(start)
                free = start + size
                if len(found) == most:
                    return found
    return found


class Ending:
    """Finds the end of a text whose ids come in pieces: the first complete occurrence of one of several patterns.

    Parameters
    ----------
    stops : the patterns, each of at least one id
    """

    def __init__(self, *stops: tuple[int, ...]) -> None:
        self.stops, self.found = stops, False
        self._before = np.empty(0, np.int64)

    def cut(self, ids: np.ndarray) -> int:
        """How many of the next ids, (n,), still belong to the text."""
        if self.found or not self.stops:
            return 0 if self.found else len(ids)
        before = len(self._before)
        joined = np.concatenate([self._before, ids])
        ends = [at + len(stop) for stop in self.stops for at in places(joined, stop, 1)]
        if ends:
            self.found = True
            return min(ends) - before
        held = max(map(len, self.stops)) - 1
        self._before = joined[max(0, len(joined) - held) :]
        return len(ids)


def _encoded(vocabulary: Vocabulary, text: str) -> tuple[int, ...]:
    """The ids of a text; empty if the vocabulary lacks one of its characters."""
    try:
        return tuple(vocabulary.encode(text).tolist())
    except UnknownCharacters:
        return ()
