"""Reads files, standard input and the built-in text as text or bytes, piece by piece, each byte once.

The result does not depend on where the pieces are cut: it is what decoding everything at once would give.
"""

import hashlib
import io
import os
import re
import stat
import sys
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import AnyStr, BinaryIO, Generic

from charlstm.errors import UserError
from charlstm.text import downloads, formats

PIECE = 2**20  #: bytes read at a time
_SIGMA = "\u03a3"
_LOOK_BACK = 64
_SMALL = 2**14  # characters

Fetch = Callable[[str], Path]


class Part:
    """One source of a text: a file (a Path), "-" for standard input, a URL or a built-in name.

    `sha256` is the digest of the bytes read so far.
    """

    def __init__(self, part: str | Path, fetch: Fetch) -> None:
        self.name = "stdin" if part == "-" else str(part)
        self.is_built_in = isinstance(part, str) and part in downloads.BUILT_IN
        self.place = fetch(part) if isinstance(part, str) and part not in ("-", "python-docs") else part
        self.sha256 = hashlib.sha256()

    @property
    def size(self) -> int | None:
        """Bytes of a file that can be read again; None for a pipe or anything else that can be read only once."""
        if not isinstance(self.place, Path):
            return None
        try:
            found = os.stat(self.place)
        except OSError as error:
            raise self._unreadable(error) from None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def pieces(self) -> Iterator[bytes]:
        """Yield the bytes. Raises UserError if they cannot be read."""
        size, self.sha256 = PIECE, hashlib.sha256()
        try:
            with self._open() as file:
                while piece := file.read(size):
                    self.sha256.update(piece)
                    yield piece
                    if len(piece) < size:  # another read would make a terminal wait for a second end of file
                        break
        except OSError as error:
            raise self._unreadable(error) from None

    def _open(self) -> AbstractContextManager[BinaryIO]:
        if self.place == "python-docs":
            return io.BytesIO(_python_docs().encode())
        if self.place != "-":
            return open(self.place, "rb")
        if sys.stdin is None:
            raise UserError("stdin: cannot be read: it is closed")
        return nullcontext(sys.stdin.buffer)  # nullcontext: stdin stays open

    def _unreadable(self, error: OSError) -> UserError:
        return UserError(f"{self.place}: cannot be read: {error.strerror or error}")

    def texts(self, how: "How", found: Counter[str], left_out: Counter[str]) -> Iterator[Iterable[str]]:
        """Yield its texts, each in pieces, with lines ending in line feeds and without a byte order mark.

        Parameters
        ----------
        how : how to read it
        found, left_out : counters for the files of each format and for what was left out: see
            `charlstm.text.formats.Source`

        Raises
        ------
        UserError
            If the source cannot be read or is not text.
        """
        how = How(format="text") if self.is_built_in else how
        return formats.texts(formats.Source(self.name, self.pieces(), **asdict(how), found=found, left_out=left_out))


@dataclass(frozen=True)
class How:
    """How to read files: the encoding of those that declare none, the format, and the column or field of a table."""

    encoding: str = "utf-8"
    format: str = "auto"
    column: str = ""
    field: str = ""


def unescaped(text: str) -> str:
    """The meaning of backslashes in an option: \\n is a line break, \\t a tab, \\\\ a backslash."""
    return re.sub(r"\\([nt\\])", lambda found: {"n": "\n", "t": "\t"}.get(found[1], "\\"), text)


class Joined(Generic[AnyStr]):
    """Texts, each in pieces, joined: the separator follows every text but the last, unless the text ends in it."""

    def __init__(self, texts: Iterable[Iterable[AnyStr]], separator: AnyStr) -> None:
        self._texts: Iterable[Iterable[AnyStr]] = texts
        self._separator: AnyStr = separator
        self.is_closed = True  #: whether no separator is needed before another text

    def __iter__(self) -> Iterator[AnyStr]:
        separator, size = self._separator, len(self._separator)
        for text in self._texts:
            if not self.is_closed:
                yield separator
            end = separator[:0]
            for piece in text:
                yield piece
                end = (end + piece[-size:])[-size:] if size else end
            self.is_closed = end.endswith(separator)


def gathered(text: Iterable[str]) -> Iterator[str]:
    """The same text in larger pieces, so that many short ones cost no more time than a few."""
    held: list[str] = []
    size = 0
    for piece in text:
        held.append(piece)
        size += len(piece)
        if size >= _SMALL:
            yield "".join(held)
            held, size = [], 0
    if size:
        yield "".join(held)


def lowered(text: Iterable[str]) -> Iterator[str]:
    """The pieces of a text's `lower()`.

    Every letter but one can be lowered by itself. The Greek sigma has another form at the end of a word: after a letter
    and not before one, where apostrophes, full stops and similar signs do not count. So the end of a piece is held back
    if it is a sigma followed by nothing but such signs.
    """
    before, held = "", ""  # before: a letter if the next piece continues a word
    for piece in chain(text, [None]):
        now = held + (piece or "")
        at = now.rfind(_SIGMA) if piece is not None else -1
        cut = at if at >= 0 and _is_passed_over(now[at + 1 :]) else len(now)
        now, held = now[:cut], now[cut:]
        if now:
            yield now.lower() if now.isascii() else _lowered(before, now, held[:1])
            before = "a" if _is_in_word(before, now) else ""


def _lowered(before: str, text: str, after: str) -> str:
    """Lower-case `text` as it stands between `before` and `after`, which lower-casing must not lengthen."""
    whole = (before + text + after).lower()
    return whole[len(before) : len(whole) - len(after)]


def _is_passed_over(text: str) -> bool:
    """Whether the text consists of signs that do not count in deciding if the letter before them ends a word."""
    return ("a" + _SIGMA + text).lower()[1] != ("a" + _SIGMA + text + "a").lower()[1]


def _is_in_word(before: str, text: str) -> bool:
    """Whether a sigma after both would follow a letter."""
    size = _LOOK_BACK
    while size < len(text) and _is_passed_over(text[-size:]):
        size *= 2
    end = text[-size:] if size < len(text) else before + text
    return (end + _SIGMA).lower()[-1] != _SIGMA.lower()


def _python_docs() -> str:
    """The topics of Python's own help system, which is part of every CPython."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))
