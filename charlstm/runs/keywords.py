"""The words that a run's saved samples use, counted, beside the words of its text."""

import re
import sys
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from functools import cache
from itertools import groupby
from pathlib import Path

import numpy as np

from charlstm.errors import UserError
from charlstm.text.corpus import Corpus
from charlstm.text.reading import lowered

_HEAD = re.compile(r"^# iteration (\d+)  loss \S+  temperature \S+$\n", re.MULTILINE)
_PIECE = 2**20  # ids of a text that are decoded at a time
_LONGEST = 2**16  # characters of a word that is counted as one, wherever pieces end


@dataclass(frozen=True)
class Keyword:
    """A word, how often the samples have it, and how often the text has."""

    word: str
    in_samples: int
    in_text: int


def samples_of(folder: str | Path) -> str:
    """All saved samples of a run but those of iteration 0, which are of a model that has learned nothing.

    Raises
    ------
    UserError
        For a folder without any.
    """
    path = Path(folder) / "samples.txt"
    try:
        text = path.read_text(encoding="utf-8", errors="replace")
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None
    before, *found = _HEAD.split(text)
    samples = [sample for iteration, sample in zip(found[::2], found[1::2], strict=True) if int(iteration)]
    if not samples and not before:
        so_far = " after the first iteration: train on, or with a smaller --sample-every" if found else ""
        raise UserError(f"{path}: no sample has been saved yet{so_far}")
    return before + "".join(samples)


def keywords(samples: str, text: Iterable[str]) -> list[Keyword]:
    """Every word of the samples, in lower case, the commonest first.

    The first and the last word of a sample may be cut off; they count as they are.

    Parameters
    ----------
    samples : what a model has written
    text : what it has learned, in pieces
    """
    counts = Counter(_words([samples]))
    known = Counter(word for word in _words(text) if word in counts)
    return [Keyword(word, count, known[word]) for word, count in counts.most_common()]


def pieces_of(corpus: Corpus) -> Iterator[str]:
    """A text, decoded piece by piece."""
    decode = corpus.vocabulary.decoder()
    for at in range(0, len(corpus.ids), _PIECE):
        yield decode(np.asarray(corpus.ids[at : at + _PIECE]), at + _PIECE >= len(corpus.ids))


def _words(text: Iterable[str]) -> Iterator[str]:
    """The words of a text that comes in pieces, wherever these end."""
    pattern, left = _pattern(), ""
    for piece in lowered(text):
        now, left = left + piece, ""
        for found in pattern.finditer(now):
            if found.end() >= len(now) - 1 and found.end() - found.start() < _LONGEST:  # it may go on
                left = now[found.start() :]
            else:
                yield found[0]
    yield from pattern.findall(left)


@cache
def _pattern() -> re.Pattern[str]:
    """A word: letters with their marks, and what joins them: don't, well-kept, हिन्दी."""
    marks = [code for code in range(sys.maxunicode + 1) if unicodedata.category(chr(code)).startswith("M")]
    runs = [[code for _, code in run] for _, run in groupby(enumerate(marks), lambda pair: pair[1] - pair[0])]
    of_marks = "".join(f"{re.escape(chr(run[0]))}-{re.escape(chr(run[-1]))}" for run in runs)
    letters = f"(?:[^\\W\\d_][{of_marks}]*+)++"  # possessive: it goes back nowhere, so a long word takes no memory
    return re.compile(f"{letters}(?:['\\u2019\\u200c\\u200d-]{letters})*+")
