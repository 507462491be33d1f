"""The characters of a text and their ids, or its bytes."""

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

_PIECE = 2**20  # bytes that are decoded at a time
_SHOWN = 40  # characters of a vocabulary
_NAMED = 5  # characters that the message about unknown ones names


class UnknownCharacters(UserError):
    """A text has characters that the vocabulary lacks."""


@dataclass(frozen=True, repr=False)
class Vocabulary:
    """The distinct characters of a text, sorted by code point; a character's id is its place."""

    characters: str
    kind: ClassVar[str] = "characters"
    unit: ClassVar[str] = "character"  #: what an id stands for

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
        """Ids of the text's characters, read-only.

        Parameters
        ----------
        text : str
        unknown : what to do with characters that the vocabulary lacks: "error", "skip" to leave them out, or
            "replace:CHAR" to read CHAR in their place

        Raises
        ------
        UnknownCharacters
            For characters that the vocabulary lacks, naming the first few kinds and the first place.
        UserError
            For an `unknown` that is none of these.
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

        What it lacks has the id of CHAR where `unknown` is "replace:CHAR", and otherwise any. Raises UserError for an
        `unknown` that is none of the three.
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
        """A `decode` for a text that comes in pieces; its second argument is true for the last one."""
        return lambda ids, final: self.decode(ids)

    def count_characters(self, ids: np.ndarray) -> int:
        """How many characters the ids, (M,), decode to."""
        return len(ids)

    def as_read(self, text: str, lower: bool = False) -> str:
        """A text in memory, as a file of it is read: see :func:`charlstm.text.encodings.normalised`."""
        text = normalised(text)
        return text.lower() if lower else text

    def without_unknown(self, text: str) -> str:
        """The text with the characters that the vocabulary lacks left out."""
        return self.decode(self.encode(text, "skip"))

    @cached_property
    def _known(self) -> np.ndarray:
        return code_points(self.characters)


class ByteVocabulary(Vocabulary):
    """The 256 byte values. A text's ids are its UTF-8; bytes that are none show as U+FFFD."""

    kind, unit = "bytes", "byte"

    def __init__(self) -> None:
        super().__init__("".join(map(chr, range(256))))

    def encode(self, text: str, unknown: str = "error") -> np.ndarray:
        """Ids of the text's bytes, as :func:`utf8` has them, read-only; no byte is unknown."""
        return np.frombuffer(utf8(text), np.uint8)

    def decode(self, ids: np.ndarray) -> str:
        """The text that the ids stand for."""
        return self.decoder()(ids, True)

    def decoder(self) -> Callable[[np.ndarray, bool], str]:
        """A `decode` that keeps the bytes of a character cut in two until the rest of it comes."""
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda ids, final: utf8.decode(np.asarray(ids, np.uint8).tobytes(), final)

    def count_characters(self, ids: np.ndarray) -> int:
        """How many characters the ids, (M,), decode to; each U+FFFD that stands for what is no UTF-8 is one."""
        decode = self.decoder()
        begins = range(0, len(ids), _PIECE)
        return sum(len(decode(ids[at : at + _PIECE], False)) for at in begins) + len(decode(ids[:0], True))

    def as_read(self, text: str, lower: bool = False) -> str:
        """The text as it is: files are read as they are, too."""
        return text.lower() if lower else text

    def without_unknown(self, text: str) -> str:
        """The text as it is: every byte is known."""
        return text


def utf8(text: str) -> bytes:
    """The text's bytes: its UTF-8. What stands in it for a byte of an argument that is none is that byte (PEP 383).

    Other lone surrogates, which no UTF-8 has, become "?".
    """
    try:
        return text.encode("utf-8", "surrogateescape")
    except UnicodeEncodeError:
        return re.sub("[\ud800-\udc7f\udd00-\udfff]", "?", text).encode("utf-8", "surrogateescape")


def code_points(text: str) -> np.ndarray:
    """The text's code points, (n,) uint32."""
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def unknown_characters(kinds: np.ndarray, at: int, count: int, total: int) -> UnknownCharacters:
    """What to raise for code points that a vocabulary lacks.

    Parameters
    ----------
    kinds : (n,), each once, as they come in the text
    at : the place of the first
    count, total : characters of these kinds, and of all
    """
    names = [named(chr(code)) for code in kinds[:_NAMED]]
    if len(kinds) == 1:
        return UnknownCharacters(f"the character {names[0]} at place {at} is not in the model's vocabulary")
    more = f" and {len(kinds) - _NAMED} more" if len(kinds) > _NAMED else ""
    return UnknownCharacters(
        f"the characters {names[0]} (at place {at}), {', '.join(names[1:])}{more} are not in the model's vocabulary, "
        f"{count:,} in {total:,}"
    )
