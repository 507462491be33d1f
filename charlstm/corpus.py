"""Files, folders, standard input and built-in names -> text -> vocabulary -> ids."""

import hashlib
import os
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

import numpy as np

from charlstm.errors import UserError


@dataclass(frozen=True)
class Vocabulary:
    """The distinct characters of a text, sorted by code point; a character's id is its place."""

    characters: str

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

    def encode(self, text: str) -> np.ndarray:
        """Ids of the text's characters, read-only.

        Raises
        ------
        UserError
            For a character that the vocabulary lacks, naming it and its place.
        """
        codes, known = _code_points(text), self._known
        places = np.searchsorted(known, codes)
        lacking = np.flatnonzero(known[np.minimum(places, len(known) - 1)] != codes)
        if len(lacking):
            at = int(lacking[0])
            raise UserError(f"the character {text[at]!r} at place {at} is not in the model's vocabulary")
        ids = places.astype(self.id_dtype)
        ids.flags.writeable = False
        return ids

    def decode(self, ids: np.ndarray) -> str:
        """The text that the ids stand for."""
        return self._known[ids].astype("<u4").tobytes().decode("utf-32-le", "surrogatepass")

    def without_unknown(self, text: str) -> str:
        """The text with the characters that the vocabulary lacks left out."""
        known = set(self.characters)
        return "".join(character for character in text if character in known)

    @cached_property
    def _known(self) -> np.ndarray:
        return _code_points(self.characters)


def _code_points(text: str) -> np.ndarray:
    return np.frombuffer(text.encode("utf-32-le", "surrogatepass"), "<u4")


@dataclass(frozen=True)
class Corpus:
    """A text as ids, with its vocabulary, a short name, and a digest that tells it from other texts."""

    name: str
    vocabulary: Vocabulary
    ids: np.ndarray
    sources: tuple[str, ...] = ()

    @classmethod
    def from_text(cls, text: str, name: str = "text", sources: Sequence[str] = ()) -> "Corpus":
        """Encode a text.

        Raises
        ------
        UserError
            For an empty text, or one that is a single character repeated.
        """
        if not text:
            raise UserError(f"{name}: the text is empty")
        vocabulary = Vocabulary.of(text)
        if len(vocabulary) < 2:
            raise UserError(f"{name}: the text has a single distinct character, {text[0]!r}: there is nothing to learn")
        return cls(name, vocabulary, vocabulary.encode(text), tuple(sources))

    @cached_property
    def digest(self) -> str:
        """SHA-256 of vocabulary and ids."""
        return hashlib.sha256(
            self.vocabulary.characters.encode("utf-8", "surrogatepass") + b"\0" + self.ids.tobytes()
        ).hexdigest()


def load(sources: Sequence[str | os.PathLike[str]] = (), encoding: str = "utf-8") -> Corpus:
    """Read text and encode it; arguments and errors are those of :func:`read` and :meth:`Corpus.from_text`."""
    return Corpus.from_text(*read(sources, encoding))


def read(sources: Sequence[str | os.PathLike[str]] = (), encoding: str = "utf-8") -> tuple[str, str, list[str]]:
    """Read text; return it, a short name for it, and the sources as absolute paths.

    Parameters
    ----------
    sources : paths of files, of folders (every .txt below them, sorted), "-" for standard input, or built-in names;
        none means "python-docs". Several are joined, with a line break between those that do not end in one.
    encoding : of files and of standard input; line ends become "\\n"

    Raises
    ------
    UserError
        For what is missing, unreadable, or not text in that encoding; one line that names it.
    """
    names = [os.fspath(source) for source in sources] or ["python-docs"]
    texts: list[str] = []
    for name in names:
        texts += [_read(part, encoding) for part in _expand(name)]
    joined = "".join(
        text if text.endswith("\n") or k == len(texts) - 1 else text + "\n" for k, text in enumerate(texts)
    )
    place = Path(names[0]).resolve()
    first = "stdin" if names[0] == "-" else (place.name if place.is_dir() else place.stem) or "text"
    absolute = [name if name == "-" or name in BUILT_IN else str(Path(name).resolve()) for name in names]
    return joined, first, absolute


def _expand(name: str) -> list[str | Path]:
    """The things to be read that one name on the command line stands for."""
    path = Path(name)
    try:
        exists, is_folder = path.exists(), path.is_dir()
    except (OSError, ValueError) as error:  # a name too long, say, or with a NUL
        raise UserError(f"{name[:60]}: cannot be read: {getattr(error, 'strerror', None) or error}") from None
    if name == "-" or (name in BUILT_IN and not exists):
        return [name]
    if not exists:
        raise UserError(f"{name}: no such file or folder (built-in texts: {', '.join(BUILT_IN)})")
    if not is_folder:
        return [path]
    found = sorted(part for part in path.rglob("*.txt") if part.is_file() and not _is_ours(part))
    if not found:
        raise UserError(f"{name}: no .txt file in this folder")
    return list(found)


def _is_ours(path: Path) -> bool:
    """Whether this is what a model wrote, in a run's folder: no text to learn from."""
    return path.name == "samples.txt" and (path.parent / "metrics.jsonl").exists()


def _read(part: str | Path, encoding: str) -> str:
    if isinstance(part, str) and part in BUILT_IN:
        return BUILT_IN[part]()
    if part == "-" and sys.stdin is None:
        raise UserError("stdin: cannot be read: it is closed")
    try:
        data = sys.stdin.buffer.read() if part == "-" else Path(part).read_bytes()
    except OSError as error:
        raise UserError(f"{part}: cannot be read: {error.strerror or error}") from None
    where = "stdin" if part == "-" else str(part)
    try:
        text = data.decode(encoding)
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


BUILT_IN: dict[str, Callable[[], str]] = {"python-docs": _python_docs}
