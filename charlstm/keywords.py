"""The words that a run's saved samples use, counted, beside the words of its text."""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from charlstm.errors import UserError

_WORD = re.compile(r"[^\W\d_]+(?:['\u2019-][^\W\d_]+)*")  # letters, and what joins them: don't, well-kept
_HEAD = re.compile(r"^# iteration \d+  loss \S+  temperature \S+$\n", re.MULTILINE)


@dataclass(frozen=True)
class Keyword:
    """A word, how often the samples have it, and how often the text has."""

    word: str
    in_samples: int
    in_text: int


def samples_of(folder: str | Path) -> str:
    """All saved samples of a run.

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
    if not text:
        raise UserError(f"{path}: no sample has been saved yet")
    return _HEAD.sub("", text)


def keywords(samples: str, text: str) -> list[Keyword]:
    """Every word of the samples, in lower case, the commonest first.

    The first and the last word of a sample may be cut off; they count as they are.
    """
    known = Counter(_words(text))
    return [Keyword(word, count, known[word]) for word, count in Counter(_words(samples)).most_common()]


def _words(text: str) -> list[str]:
    return _WORD.findall(text.lower())
