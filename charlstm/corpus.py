"""Files, folders, standard input, URLs and built-in names -> text -> vocabulary -> ids."""

import codecs
import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import AnyStr, ClassVar

import numpy as np

from charlstm import data
from charlstm.errors import UserError

_NAMED = 5  # characters that the message about unknown ones names
Fetch = Callable[[str], Path]


class UnknownCharacters(UserError):
    """A text has characters that the vocabulary lacks."""


@dataclass(frozen=True)
class Vocabulary:
    """The distinct characters of a text, sorted by code point; a character's id is its place."""

    characters: str
    kind: ClassVar[str] = "characters"

    @classmethod
    def of(cls, text: str) -> "Vocabulary":
        """The vocabulary of a text."""
        return cls("".join(map(chr, np.unique(_code_points(text)))))

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
        codes, known = _code_points(text), self._known
        places = np.searchsorted(known, codes)
        lacking = known[np.minimum(places, len(known) - 1)] != codes
        if unknown == "skip":
            places = places[~lacking]
        elif unknown != "error":
            places[lacking] = self._replacement(unknown)
        elif lacking.any():
            raise UnknownCharacters(_unknown_message(text, lacking))
        ids = places.astype(self.id_dtype)
        ids.flags.writeable = False
        return ids

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

    def without_unknown(self, text: str) -> str:
        """The text with the characters that the vocabulary lacks left out."""
        return self.decode(self.encode(text, "skip"))

    @cached_property
    def _known(self) -> np.ndarray:
        return _code_points(self.characters)


class ByteVocabulary(Vocabulary):
    """The 256 byte values. A text's ids are its UTF-8; bytes that are none show as U+FFFD."""

    kind = "bytes"

    def __init__(self) -> None:
        super().__init__("".join(map(chr, range(256))))

    def encode(self, text: str, unknown: str = "error") -> np.ndarray:
        """Ids of the text's bytes, read-only; no byte is unknown. Lone surrogates become "?"."""
        return np.frombuffer(text.encode("utf-8", "replace"), np.uint8)

    def decode(self, ids: np.ndarray) -> str:
        """The text that the ids stand for."""
        return self.decoder()(ids, True)

    def decoder(self) -> Callable[[np.ndarray, bool], str]:
        """A `decode` that keeps the bytes of a character cut in two until the rest of it comes."""
        utf8 = codecs.getincrementaldecoder("utf-8")("replace")
        return lambda ids, final: utf8.decode(np.asarray(ids, np.uint8).tobytes(), final)

    def without_unknown(self, text: str) -> str:
        """The text as it is: every byte is known."""
        return text


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


def _unknown_message(text: str, lacking: np.ndarray) -> str:
    codes, at = _code_points(text)[lacking], int(np.argmax(lacking))
    kinds, first = np.unique(codes, return_index=True)
    named = [repr(chr(code)) for code in kinds[np.argsort(first)][:_NAMED]]
    if len(kinds) == 1:
        return f"the character {named[0]} at place {at} is not in the model's vocabulary"
    more = f" and {len(kinds) - _NAMED} more" if len(kinds) > _NAMED else ""
    return (
        f"the characters {named[0]} (at place {at}), {', '.join(named[1:])}{more} are not in the model's vocabulary, "
        f"{len(codes):,} in {len(text):,}"
    )


@dataclass(frozen=True)
class Corpus:
    """A text as ids, with its vocabulary, a short name, and a digest that tells it from other texts."""

    name: str
    vocabulary: Vocabulary
    ids: np.ndarray
    sources: tuple[str, ...] = ()
    is_frozen: bool = False  #: the vocabulary is a model's, not this text's own

    def __post_init__(self) -> None:
        if not len(self.ids):
            raise UserError(f"{self.name}: the text is empty")
        if not self.is_frozen and (self.ids == self.ids[0]).all():
            single = self.vocabulary.decode(self.ids[:1])
            raise UserError(
                f"{self.name}: the text has a single distinct character, {single!r}: there is nothing to learn"
            )

    @classmethod
    def from_text(
        cls,
        text: str,
        name: str = "text",
        sources: Sequence[str] = (),
        vocabulary: Vocabulary | None = None,
        unknown: str = "error",
    ) -> "Corpus":
        """Encode a text, with its own vocabulary or a given one (`unknown`: see :meth:`Vocabulary.encode`).

        Raises
        ------
        UserError
            For an empty text, one that is a single character repeated, or characters that the vocabulary lacks.
        """
        is_frozen = vocabulary is not None
        vocabulary = vocabulary or Vocabulary.of(text)
        return cls(name, vocabulary, vocabulary.encode(text, unknown), tuple(sources), is_frozen)

    @classmethod
    def from_bytes(cls, content: bytes, name: str = "text", sources: Sequence[str] = ()) -> "Corpus":
        """A text of bytes; their vocabulary is always the same. Raises as `from_text`."""
        return cls(name, ByteVocabulary(), np.frombuffer(content, np.uint8), tuple(sources))

    def split(self, validation: float) -> tuple[np.ndarray, np.ndarray]:
        """The ids to learn from, and those of the text's end, `validation` of all, which are kept back to measure.

        Raises
        ------
        UserError
            If less than two are kept back, where some should be.
        """
        cut = len(self.ids) - round(validation * len(self.ids))
        if validation and len(self.ids) - cut < 2:
            raise UserError(f"--validation {validation:g}: less than two characters of {self.name} are kept back")
        return self.ids[:cut], self.ids[cut:]

    @cached_property
    def digest(self) -> str:
        """SHA-256 of vocabulary and ids."""
        return hashlib.sha256(
            self.vocabulary.characters.encode("utf-8", "surrogatepass") + b"\0" + self.ids.tobytes()
        ).hexdigest()


def load(
    sources: Sequence[str | os.PathLike[str]] = (),
    encoding: str = "utf-8",
    *,
    separator: str = "\n",
    lower: bool = False,
    as_bytes: bool = False,
    vocabulary: Vocabulary | None = None,
    unknown: str = "error",
    fetch: Fetch = data.fetch,
) -> Corpus:
    """Read text and encode it.

    Parameters
    ----------
    sources : paths of files, of folders (every .txt below them, sorted), "-" for standard input, URLs, or built-in
        names; none means "python-docs"
    encoding : of all but built-in texts; line ends become "\\n"
    separator : put between two texts where the first does not end in it
    lower : make all letters lower-case
    as_bytes : take the bytes as they are, with the vocabulary of the 256 byte values
    vocabulary, unknown : a model's vocabulary, and what to do with characters that it lacks: see `Corpus.from_text`
    fetch : turns a URL or a built-in name into a file

    Raises
    ------
    UserError
        For what is missing, unreadable, empty, or not text in that encoding; one line that names it.
    charlstm.data.DownloadFailed
        For a download that failed.
    """
    names = [os.fspath(source) for source in sources] or ["python-docs"]
    parts = [part for name in names for part in _expand(name)]
    kept = tuple(str(Path(name).resolve()) if _exists(name) else name for name in names)
    if as_bytes:
        content = _joined([_content(part, fetch) for part in parts], separator.encode("utf-8", "surrogateescape"))
        return Corpus.from_bytes(content, _name(names[0]), kept)
    text = _joined([_text(_content(part, fetch), part, encoding) for part in parts], separator)
    try:
        return Corpus.from_text(text.lower() if lower else text, _name(names[0]), kept, vocabulary, unknown)
    except UnknownCharacters as error:
        raise UserError(
            f"{_name(names[0])}: {error}; --unknown skip leaves such characters out, "
            "--unknown replace:CHAR reads CHAR instead"
        ) from None


def _joined(texts: list[AnyStr], separator: AnyStr) -> AnyStr:
    """All texts in one, the separator after each, but the last, that does not end in it."""
    ended = (text if text.endswith(separator) else text + separator for text in texts[:-1])
    return separator[:0].join(ended) + texts[-1]


def _name(source: str) -> str:
    """A short name, which is that of the run's folder."""
    if source == "-":
        return "stdin"
    if data.is_url(source):
        return data.short_name(source)
    place = Path(source).resolve()
    return (place.name if place.is_dir() else place.stem) or "text"


def _exists(name: str) -> bool:
    """Whether this names a file or folder."""
    if name == "-" or data.is_url(name):
        return False
    try:
        return Path(name).exists()
    except (OSError, ValueError) as error:  # a name too long, say, or with a NUL
        raise UserError(f"{name[:60]}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _expand(name: str) -> list[str | Path]:
    """The things to be read that one name on the command line stands for."""
    if name == "-" or data.is_url(name):
        return [name]
    path, exists = Path(name), _exists(name)
    if name in data.BUILT_IN and not exists:
        return [name]
    if not exists:
        raise UserError(f"{name}: no such file or folder (built-in texts: {', '.join(data.BUILT_IN)})")
    if not path.is_dir():
        return [path]
    found = sorted(part for part in path.rglob("*.txt") if part.is_file() and not _is_ours(part))
    if not found:
        raise UserError(f"{name}: no .txt file in this folder")
    return list(found)


def _is_ours(path: Path) -> bool:
    """Whether this is what a model wrote, in a run's folder: no text to learn from."""
    return path.name == "samples.txt" and (path.parent / "metrics.jsonl").exists()


def _content(part: str | Path, fetch: Fetch) -> bytes:
    """The bytes of a file (a Path), or of standard input, a URL or a built-in text (a name)."""
    if part == "python-docs":
        return _python_docs().encode()
    if part == "-" and sys.stdin is None:
        raise UserError("stdin: cannot be read: it is closed")
    path = fetch(part) if isinstance(part, str) and part != "-" else part
    try:
        return sys.stdin.buffer.read() if path == "-" else Path(path).read_bytes()
    except OSError as error:
        raise UserError(f"{path}: cannot be read: {error.strerror or error}") from None


def _text(content: bytes, part: str | Path, encoding: str) -> str:
    """The text that a part's bytes are, its lines ending in line feeds."""
    where = "stdin" if part == "-" else str(part)
    if isinstance(part, str) and part in data.BUILT_IN:
        encoding = "utf-8"
    try:
        text = content.decode(encoding)
    except LookupError:
        raise UserError(f"--encoding: Python knows no encoding {encoding!r}") from None
    except UnicodeDecodeError as error:
        raise UserError(
            f"{where}: byte {error.start} is not {encoding} ({error.reason}): "
            "give the file's own encoding with --encoding, for example --encoding latin-1"
        ) from None
    except UnicodeError as error:
        raise UserError(f"{where}: cannot be read as {encoding}: {error}") from None
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def _python_docs() -> str:
    """The topics of Python's own help system, which every CPython carries."""
    from pydoc_data.topics import topics

    return "\n".join(topics[name] for name in sorted(topics))
