"""Files, standard input and the text inside Python -> text or bytes, piece by piece, each byte read once.

What comes out does not depend on where the pieces are cut: it is what decoding the whole would give.
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
from typing import AnyStr, BinaryIO

from charlstm.errors import UserError
from charlstm.text import downloads, formats

PIECE = 2**20  #: bytes read at a time
_SIGMA = "\u03a3"
_LOOK_BACK = 64
_SMALL = 2**14  # characters

Fetch = Callable[[str], Path]


class Part:
    """One of the things that a text is read from: a file (a Path), "-" for standard input, a URL or a built-in name.

    `sha256` is that of the bytes read so far.
    """

    def __init__(self, part: str | Path, fetch: Fetch) -> None:
        self.name = "stdin" if part == "-" else str(part)
        self.is_built_in = isinstance(part, str) and part in downloads.BUILT_IN
        self.place = fetch(part) if isinstance(part, str) and part not in ("-", "python-docs") else part
        self.sha256 = hashlib.sha256()

    @property
    def size(self) -> int | None:
        """Bytes of a file that can be read again; None for a pipe, and whatever else can be read only once."""
        if not isinstance(self.place, Path):
            return None
        try:
            found = os.stat(self.place)
        except OSError as error:
            raise self._unreadable(error) from None
        return found.st_size if stat.S_ISREG(found.st_mode) else None

    def pieces(self) -> Iterator[bytes]:
        """The bytes. Raises UserError for what cannot be read."""
        size, self.sha256 = PIECE, hashlib.sha256()
        try:
            with self._open() as file:
                while piece := file.read(size):
                    self.sha256.update(piece)
                    yield piece
                    if len(piece) < size:  # a terminal would have to be told of the end once more
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
        return nullcontext(sys.stdin.buffer)  # which stays open

    def _unreadable(self, error: OSError) -> UserError:
        return UserError(f"{self.place}: cannot be read: {error.strerror or error}")

    def texts(self, how: "How", found: Counter[str], left_out: Counter[str]) -> Iterator[Iterable[str]]:
        """Its texts, each in pieces, their lines ending in line feeds, without a byte order mark before them.

        Parameters
        ----------
        how : what was asked for
        found, left_out : count the files of each format, and what the texts lack: see `charlstm.text.formats.Source`

        Raises
        ------
        UserError
            For what cannot be read, or is no text.
        """
        how = How(format="text") if self.is_built_in else how
        return formats.texts(formats.Source(self.name, self.pieces(), **asdict(how), found=found, left_out=left_out))


@dataclass(frozen=True)
class How:
    """How files are read: the encoding of those that do not say theirs, the format, and where in a table text is."""

    encoding: str = "utf-8"
    format: str = "auto"
    column: str = ""
    field: str = ""


def unescaped(text: str) -> str:
    """What is meant by the backslashes of an option: \\n a line break, \\t a tab, two of them one."""
    return re.sub(r"\\([nt\\])", lambda found: {"n": "\n", "t": "\t"}.get(found[1], "\\"), text)


def joined(texts: Iterable[Iterable[AnyStr]], separator: AnyStr) -> Iterator[AnyStr]:
    """All texts in one, each in pieces, the separator after each, but the last, that does not end in it."""
    end, size = separator, len(separator)
    for text in texts:
        if not end.endswith(separator):
            yield separator
        end = separator[:0]
        for piece in text:
            yield piece
            end = (end + piece[-size:])[-size:] if size else end


def gathered(text: Iterable[str]) -> Iterator[str]:
    """The same text in pieces that are not small, so that many short ones take no longer than a few."""
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

    All letters but one are made lower-case by themselves. The Greek sigma is another one at the end of a word: after a
    letter, and before none, where apostrophes, full stops and the like do not count. So a piece is held back from a
    sigma on that nothing but such signs follows.
    """
    before, held = "", ""  # a letter, if the next piece continues a word
    for piece in chain(text, [None]):
        now = held + (piece or "")
        at = now.rfind(_SIGMA) if piece is not None else -1
        cut = at if at >= 0 and _is_passed_over(now[at + 1 :]) else len(now)
        now, held = now[:cut], now[cut:]
        if now:
            yield now.lower() if now.isascii() else _lowered(before, now, held[:1])
            before = "a" if _is_in_word(before, now) else ""


def _lowered(before: str, text: str, after: str) -> str:
    """The text in lower case, between what does not change its length there."""
    whole = (before + text + after).lower()
    return whole[len(before) : len(whole) - len(after)]


def _is_passed_over(text: str) -> bool:
    """Whether no character of this tells if the one before it ends a word."""
    return ("a" + _SIGMA + text).lower()[1] != ("a" + _SIGMA + text + "a").lower()[1]


def _is_in_word(before: str, text: str) -> bool:
    """Whether a sigma after both would be after a letter."""
    size = _LOOK_BACK
    while size < len(text) and _is_passed_over(text[-size:]):
        size *= 2
    end = text[-size:] if size < len(text) else before + text
    return (end + _SIGMA).lower()[-1] != _SIGMA.lower()


def _python_docs() -> str:
    """The topics of Python's own help system, which every CPython carries."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))
