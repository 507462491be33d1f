"""Keeps encoded texts in files: room for texts larger than memory, and copies of texts that cannot be read again.

The cache's folder ``ids`` holds plain files: ``DIGEST.ids``, a text's ids as they are in memory, named by the text's
digest; and ``SIZE-KEY.json``, which names the text that a large input was encoded to. A file appears there by renaming,
complete or not at all, so several processes may share the folder; a file that does not match its digest is removed and
never used. The most recently used files stay, up to MOST_BYTES and MOST_FILES, and one larger text. Removing a
file that a process has mapped does not disturb that process.
"""

import hashlib
import io
import json
import os
import re
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np

from charlstm.text import downloads
from charlstm.text.vocabulary import Vocabulary

#: Ids up to this many bytes stay in memory: less than Python and its libraries take, and encoded in under a second.
IN_MEMORY = 2**24
MOST_BYTES, MOST_FILES = 2**32, 1000
PIECE = 2**26  #: bytes of ids that ranks check by themselves
_PIECE = 2**20
_STALE = 86_400  # an unfinished file older than this many seconds belongs to a process that died


def folder() -> Path:
    """The cache's folder; it may not exist yet."""
    return downloads.cache_dir() / "ids"


def digest_of(vocabulary: Vocabulary, ids: np.ndarray) -> str:
    """SHA-256 of vocabulary and ids, in hexadecimal."""
    sha256 = begun_digest(vocabulary)
    sha256.update(np.ascontiguousarray(ids).view(np.uint8).data)
    return sha256.hexdigest()


def begun_digest(vocabulary: Vocabulary) -> "hashlib._Hash":
    """The digest's state before the ids are added."""
    return hashlib.sha256(vocabulary.characters.encode("utf-8", "surrogatepass") + b"\0")


class Spool:
    """Collects ids: in memory while they are few, then in a new file of the cache.

    If the file cannot be written, the ids stay in memory, and `trouble` says why.
    """

    def __init__(self, dtype: np.dtype, trouble: str = "") -> None:
        self.dtype, self.trouble = dtype, trouble
        self.size = 0  #: in bytes
        self._path: Path | None = None
        self._held = io.BytesIO()
        self._file: io.BytesIO | io.FileIO = self._held

    def __len__(self) -> int:
        return self.size // self.dtype.itemsize

    def append(self, ids: np.ndarray) -> None:
        """Add ids, (n,) of any integer type."""
        content = ids.astype(self.dtype, copy=False).tobytes()
        self._write(self.size, content)
        self.size += len(content)

    def pieces(self) -> Iterator[np.ndarray]:
        """Yield all ids, (n,) at a time, read-only."""
        for at in range(0, self.size, _PIECE):
            yield np.frombuffer(self._read(at), self.dtype)

    def drained(self) -> Iterator[tuple[int, np.ndarray]]:
        """Yield all ids, (n,) at a time with the place of each piece, from the last piece on; each frees its space."""
        for at in range((self.size - 1) // _PIECE * _PIECE, -1, -_PIECE):
            piece = np.frombuffer(self._read(at), self.dtype)
            self._file.truncate(at)
            self.size = at
            yield len(self), piece

    def widened(self, dtype: np.dtype) -> "Spool":
        """A new Spool with the same ids in a larger type; this one must not be used any more."""
        wide = Spool(dtype, self.trouble)
        for piece in self.pieces():
            wide.append(piece)
        self.discard()
        return wide

    def replace(self, table: np.ndarray, kept: np.ndarray, vocabulary: Vocabulary) -> str:
        """Replace every id whose `kept` is true by table[id], drop the others, and return the digest.

        The type of `table` must not be larger than that of the ids.
        """
        sha256, at, every = begun_digest(vocabulary), 0, bool(kept.all())
        for piece in self.pieces():
            content = table[piece if every else piece[kept[piece]]].tobytes()
            sha256.update(content)
            self._write(at, content)
            at += len(content)
        self._file.truncate(at)
        self.size, self.dtype = at, table.dtype
        return sha256.hexdigest()

    def done(self, digest: str) -> np.ndarray:
        """All ids, read-only: in memory, or mapped from the file, which gets its final name and stays in the cache."""
        if self._path is None:
            return np.frombuffer(self._held.getvalue(), self.dtype)
        self._file.close()
        try:
            os.replace(self._path, place(digest))
        except OSError as error:  # Windows: another process has mapped the file of that name
            self.trouble = reason(error)
            ids = np.fromfile(self._path, self.dtype)
            ids.flags.writeable = False
            self.discard()
            return ids
        prune(place(digest))
        return mapped(place(digest), self.dtype)

    def discard(self) -> None:
        """Close and remove an unfinished file."""
        self._file.close()
        if self._path is not None:
            remove(self._path)

    def _read(self, at: int) -> bytes:
        self._file.seek(at)
        content = self._file.read(min(_PIECE, self.size - at))
        if len(content) < min(_PIECE, self.size - at):
            raise OSError(f"{self._path} was truncated while it was being written")
        return content

    def _write(self, at: int, content: bytes) -> None:
        if self._path is None and not self.trouble and at + len(content) > IN_MEMORY:
            self._into_file()
        left = memoryview(content)
        try:
            self._file.seek(at)
            while left:
                left = left[self._file.write(left) :]
        except OSError as error:
            self._into_memory(error)
            self._write(at, content)

    def _into_file(self) -> None:
        try:
            folder().mkdir(parents=True, exist_ok=True)
            number, name = tempfile.mkstemp(".tmp", "new-", folder())
        except OSError as error:
            self.trouble = reason(error)
            return
        held, self._held = self._held, io.BytesIO()
        self._path, self._file = Path(name), io.FileIO(number, "r+")
        self._write(0, held.getvalue())

    def _into_memory(self, error: OSError) -> None:
        """Read the ids back from the file, for example because the disk is full."""
        for at in range(0, self.size, _PIECE):
            self._held.write(self._read(at))
        self.discard()
        self._path, self._file, self.trouble = None, self._held, reason(error)


# ------------------------------------------------------------------------------------------------------------ by digest
def find(digest: str, vocabulary: Vocabulary) -> np.ndarray | None:
    """The ids of a text, read-only, mapped if many; None if the cache lacks them or they do not match the digest."""
    if not re.fullmatch("[0-9a-f]{64}", digest):
        return None
    path = place(digest)
    try:
        if path.stat().st_size > IN_MEMORY:
            ids = mapped(path, vocabulary.id_dtype)
        else:
            ids = np.frombuffer(path.read_bytes(), vocabulary.id_dtype)
        matches = digest_of(vocabulary, ids) == digest
    except (OSError, ValueError):  # missing, or not a whole number of ids
        return None
    if not matches:
        del ids  # Windows cannot remove a mapped file
        remove(path)
        return None
    _touch(path)
    return ids


def keep(ids: np.ndarray, vocabulary: Vocabulary, digest: str) -> str:
    """Store these ids in the cache, unless they are mapped from it; return why that failed, or ""."""
    path = place(digest)
    if ids.nbytes > IN_MEMORY and _size(path) == ids.nbytes:
        _touch(path)
        return ""
    if ids.nbytes <= IN_MEMORY and find(digest, vocabulary) is not None:
        return ""
    return _put(path, np.ascontiguousarray(ids).view(np.uint8).data)


def _put(path: Path, content: bytes | memoryview) -> str:
    """Write a file by renaming; return why that failed, or ""."""
    name = ""
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        number, name = tempfile.mkstemp(".tmp", "new-", path.parent)
        with open(number, "wb") as file:
            file.write(content)
        os.replace(name, path)
    except OSError as error:
        if name:
            remove(Path(name))
        return reason(error)
    prune(path)
    return ""


def place(digest: str) -> Path:
    """The file of a text's ids; it may not exist."""
    return folder() / f"{digest}.ids"


def mapped(path: Path, dtype: np.dtype) -> np.ndarray:
    """All ids of a file, read-only, mapped."""
    return np.asarray(np.memmap(path, dtype, "r"))


# --------------------------------------------------------------------------------------------------------- by content
class Facts(NamedTuple):
    """What is known of a text that was read: remarks for the reader, its documents, and where its sources end.

    `pieces` has the SHA-256 of each piece of PIECE bytes of its ids, in hexadecimal, if several ranks encoded it.
    """

    told: list[str]
    documents: int
    ends: list[int]
    pieces: Sequence[str] = ()


def remember(size: int, key: str, digest: str, vocabulary: Vocabulary, facts: Facts) -> None:
    """Record the ids that an input of `size` bytes was encoded to; `key` identifies its content and how it was read."""
    noted = {"digest": digest, "vocabulary": vocabulary.characters, **facts._asdict()}
    _put(_note(size, key), json.dumps(noted).encode())


def may_recall(size: int) -> bool:
    """Whether an input of this size was read before; only then is its key worth computing."""
    return any(path.name.startswith(f"{size}-") for path in _files())


def recall(size: int, key: str) -> tuple[str, str, Facts] | None:
    """The digest, the vocabulary's characters and the facts recorded for an input, or None."""
    try:
        noted = json.loads(_note(size, key).read_bytes())
        pieces = list(map(str, noted.get("pieces", [])))
        facts = Facts(list(map(str, noted["told"])), int(noted["documents"]), list(map(int, noted["ends"])), pieces)
        found = str(noted["digest"]), str(noted["vocabulary"]), facts
    except (OSError, ValueError, KeyError, TypeError):  # missing or damaged: the text is read again
        return None
    _touch(_note(size, key))
    return found


def _note(size: int, key: str) -> Path:
    return folder() / f"{size}-{key}.json"


# ------------------------------------------------------------------------------------------------------------- bounds
def prune(spared: Path) -> None:
    """Remove the least recently used files beyond MOST_BYTES and MOST_FILES, and unfinished files of dead processes.

    Of the texts that are larger than MOST_BYTES by themselves, the most recently used one stays.
    """
    found, now = [], time.time()
    for path in _files():
        try:
            facts = path.stat()
        except OSError:  # another process removed it
            continue
        if path.suffix in (".ids", ".json"):
            found.append((path != spared, -facts.st_mtime_ns, facts.st_size, path))
        elif path.suffix == ".tmp" and now - facts.st_mtime > _STALE:
            remove(path)
    total, has_large = 0, False
    for number, (_, _, size, path) in enumerate(sorted(found)):
        total += size
        is_text = path.suffix == ".ids"
        if is_text and size > MOST_BYTES and not has_large:
            has_large = True
        elif number and ((is_text and total > MOST_BYTES) or number >= MOST_FILES):
            remove(path)


def _files() -> list[Path]:
    try:
        return list(folder().iterdir())
    except OSError:  # the folder is missing or unreadable: there is nothing to remove
        return []


def remove(path: Path) -> None:
    """Remove a file; one that is in use (Windows) or belongs to another user stays."""
    with suppress(OSError):
        path.unlink()


def _touch(path: Path) -> None:
    """Mark a file as just used; if its times cannot be changed, it is pruned earlier."""
    with suppress(OSError):
        os.utime(path)


def _size(path: Path) -> int | None:
    try:
        return path.stat().st_size
    except OSError:
        return None


def reason(error: OSError) -> str:
    """Why the cache cannot be written, in a line."""
    return f"{folder()}: cannot be written: {error.strerror or error}; {downloads.FOLDER_VARIABLE} names another folder"
