"""Vocabularies: the distinct characters of a text, or the 256 byte values, and their ids."""

import codecs
import re
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import ClassVar

import numpy as np

from charlstm.errors import UserError
from charlstm.settings.unknown import named
from charlstm.text.encodings import normalised

_PIECE = 2**20  # bytes decoded at a time
_SHOWN = 40  # characters of a vocabulary that its repr shows
_NAMED = 5  # characters that the message about unknown ones names


class UnknownCharacters(UserError):
    """A text has characters that the vocabulary lacks."""


@dataclass(frozen=True, repr=False)
class Vocabulary:
    """The distinct characters of a text, sorted by code point; a character's id is its index."""

    characters: str
    kind: ClassVar[str] = "characters"
    unit: ClassVar[str] = "character"  #: what an id stands for
    short_unit: ClassVar[str] = "char"  #: the same, in figures such as bits/char

    def __repr__(self) -> str:
        shown = self.characters if len(self) <= _SHOWN else self.characters[:_SHOWN] + "..."
        return f"<Vocabulary of {len(self):,} {self.kind}: {shown!r}>"

    @classmethod
    def of(cls, text: str) -> "Vocabulary":
        """The vocabulary of a text."""
        return cls("".join(map(chr, np.unique(code_points(text)))))

    def __len__(self) -> int:
        return len(self.characters)

    @property
    def id_dtype(self) -> np.dtype:
        """The smallest unsigned integer type that holds every id."""
        return np.min_scalar_type(max(len(self) - 1, 0))

    def encode(self, text: str, unknown: str = "error") -> np.ndarray:
        """The ids of the text's characters, read-only.

        Parameters
        ----------
        text : str
        unknown : what to do with characters that the vocabulary lacks: "error", "skip" to leave them out, or
            "replace:CHAR" to read CHAR instead

        Raises
        ------
        UnknownCharacters
            If the vocabulary lacks a character; names the first few such characters and the first position.
        UserError
            If `unknown` has another value.
        """
        codes = code_points(text)
        places, lacking = self.places(codes, unknown)
        if unknown == "skip":
            places = places[~lacking]
        elif unknown == "error" and lacking.any():
            kinds, first = np.unique(codes[lacking], return_index=True)
            raise unknown_characters(kinds[np.argsort(first)], int(np.argmax(lacking)), int(lacking.sum()), len(text))
        ids = places.astype(self.id_dtype)
        ids.flags.writeable = False
        return ids

    def places(self, codes: np.ndarray, unknown: str = "error") -> tuple[np.ndarray, np.ndarray]:
        """The ids of code points (n,), and which of these the vocabulary lacks (n,) bool.

        A character that the vocabulary lacks has the id of CHAR if `unknown` is "replace:CHAR", else any id. Raises
        UserError for an invalid `unknown`.
        """
        known = self._known
        places = np.searchsorted(known, codes)
        lacking = np.append(known, np.uint32(2**32 - 1))[places] != codes
        if unknown not in ("error", "skip"):
            places[lacking] = self._replacement(unknown)
        return places, lacking

    def _replacement(self, unknown: str) -> int:
        """The id of CHAR in "replace:CHAR"."""
        character = unknown.removeprefix("replace:")
        if not unknown.startswith("replace:") or len(character) != 1 or character not in self.characters:
            raise UserError(
                f"--unknown: expected error, skip, or replace: and one character that the model knows, got {unknown!r}"
            )
        return self.characters.index(character)

    def decode(self, ids: np.ndarray) -> str:
        """The text that the ids stand for."""
        return self._known[ids].astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def decoder(self) -> Callable[[np.ndarray, bool], str]:
        """A `decode` for a text that comes in pieces; its second argument is true for the last piece."""
        return lambda ids, final: self.decode(ids)

    def count_characters(self, ids: np.ndarray) -> int:
        """The number of characters that the ids, (M,), decode to."""
        return len(ids)

    def as_read(self, text: str, lower: bool = False) -> str:
        """A string, normalised as reading it from a file would: see :func:`charlstm.text.encodings.normalised`."""
        text = normalised(text)
        return text.lower() if lower else text

    def without_unknown(self, text: str) -> str:
        """The text without the characters that the vocabulary lacks."""
        return self.decode(self.encode(text, "skip"))

    @cached_property
    def _known(self) -> np.ndarray:
        return code_points(self.characters)


class ByteVocabulary(Vocabulary):
    """The 256 byte values. A text's ids are its UTF-8 bytes; invalid bytes are shown as U+FFFD."""

    kind, unit, short_unit = "bytes", "byte", "byte"

    def __init__(self) -> None:
        super().__init__("".join(map(chr, range(256))))

    def encode(self, text: str, unknown: str = "error") -> np.ndarray:
        """The bytes of the text as given by :func:`utf8`, read-only; no byte is unknown."""
        return np.frombuffer(utf8(text), np.uint8)

    def decode(self, ids: np.ndarray) -> str:
        """The text that the ids stand for."""
        return self.decoder()(ids, True)

    def decoder(self) -> Callable[[np.ndarray, bool], str]:
        """A `decode` that holds back the bytes of a character cut in two until the rest of it comes."""
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda ids, final: utf8.decode(np.asarray(ids, np.uint8).tobytes(), final)

    def count_characters(self, ids: np.ndarray) -> int:
        """The number of characters that the ids, (M,), decode to; each U+FFFD for invalid UTF-8 counts as one."""
        decode = self.decoder()
        begins = range(0, len(ids), _PIECE)
        return sum(len(decode(ids[at : at + _PIECE], False)) for at in begins) + len(decode(ids[:0], True))

    def as_read(self, text: str, lower: bool = False) -> str:
        """The text unchanged, but for `lower`: bytes are read from files unchanged, too."""
        return text.lower() if lower else text

    def without_unknown(self, text: str) -> str:
        """The text unchanged: every byte is known."""
        return text


def utf8(text: str) -> bytes:
    """The text's UTF-8; a surrogate that stands for an invalid byte of an argument becomes that byte (PEP 383).

    Other lone surrogates, which UTF-8 cannot encode, become "?".
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udc7f\udd00-\udfff]", "?", text).encode("utf-8", "surrogateescape")


def code_points(text: str) -> np.ndarray:
    """The text's code points, (n,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def unknown_characters(kinds: np.ndarray, at: int, count: int, total: int) -> UnknownCharacters:
    """The error for code points that a vocabulary lacks.

    Parameters
    ----------
    kinds : (n,), the distinct code points, in the order of the text
    at : the position of the first
    count, total : number of characters of these kinds, and of all characters
    """
    names = [named(chr(code)) for code in kinds[:_NAMED]]
    if len(kinds) == 1:
        return UnknownCharacters(f"the character {names[0]} at position {at} is not in the model's vocabulary")
    more = f" and {len(kinds) - _NAMED} more" if len(kinds) > _NAMED else ""
    return UnknownCharacters(
        f"the characters {names[0]} (at position {at}), {', '.join(names[1:])}{more} are not in the model's "
        f"vocabulary, {count:,} of {total:,} characters"
    )
