"""Reads the files of a large text by several ranks, each its share, to one vocabulary and one file of ids.

Vocabulary, ids and digest are those of one process. Files are dealt in their order, so each rank's ids are one stretch:
every rank encodes its share to a file of its own; then the ranks agree on the vocabulary and on where each stretch
begins, and move them to one file in the cache, which they must share. Each text is read once, in pieces.

A rank maps the ids that it reads; the first one, which evaluates, may map all of them. The cache's note has a digest of
every piece of the ids, so that a second start checks them in parallel, too.
"""

import hashlib
import os
import sys
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from itertools import accumulate, chain
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from charlstm.errors import UserError
from charlstm.text import idcache
from charlstm.text.encoder import ByteEncoder, Encoder
from charlstm.text.mapped import Filed
from charlstm.text.reading import Part
from charlstm.text.source import Encoded, Source
from charlstm.text.vocabulary import ByteVocabulary, Vocabulary, code_points

_READ = 2**20


class World(Protocol):
    """What reading asks of the ranks: see `charlstm.training.world`. All of them make the same calls."""

    rank: int
    size: int

    def all_reduce(self, array: np.ndarray) -> None:
        """Replace an array by its sum over all ranks."""

    def broadcast(self, value: Any) -> Any:
        """The first rank's value."""

    def gather_values(self, value: Any) -> list[Any]:
        """The values of all ranks."""

    def any(self, *flags: bool) -> tuple[bool, ...]:
        """For each flag, whether it is set on any rank."""

    def first_rank_first(self) -> AbstractContextManager[None]:
        """Let the first rank run a block before the others."""

    def together(self) -> AbstractContextManager[None]:
        """End a block on all ranks if it ends with a message on one."""


class Listed(NamedTuple):
    """Files that are read together: for each name given their paths and a remark, and the size of every file."""

    names: list[tuple[list[str | Path], str]]
    sizes: list[int]


def listed(world: World, expand: Callable[[], list[tuple[list[str | Path], str]]]) -> Listed | None:
    """What the first rank finds, the same on all; None if the text is not large, or not all in files."""
    found = None
    with world.together():
        if world.rank == 0:
            names = expand()
            places = [place for each, _ in names for place in each]
            sizes = [Part(place, Path).size if isinstance(place, Path) else None for place in places]
            if None not in sizes and sum(size or 0 for size in sizes) > idcache.IN_MEMORY:
                found = [[(list(map(str, each)), remark) for each, remark in names], sizes]
    told = world.broadcast(found)
    if told is None:
        return None
    return Listed([([Path(place) for place in each], remark) for each, remark in told[0]], told[1])


def are_separate(separator: str, is_lowered: bool) -> bool:
    """Whether texts can be read apart: a letter's lower case may depend on its neighbours unless blanks are between."""
    return not is_lowered or (separator[:1].isspace() and separator[-1:].isspace())


def dealt(sizes: list[int], ranks: int) -> list[slice]:
    """Which files each rank reads: contiguous shares of about as many bytes."""
    middles = np.cumsum(sizes) - np.array(sizes) / 2
    ends = np.searchsorted(middles, np.arange(1, ranks) * (sum(sizes) / ranks)).tolist()
    return [slice(begin, end) for begin, end in zip([0, *ends], [*ends, len(sizes)], strict=True)]


def load(source: Source, sizes: list[int], world: World) -> Encoded | None:
    """What `source` holds, from the cache or from its files; None if the ranks do not share the cache's folder.

    Raises
    ------
    UserError
        On the first rank that fails, as `Source.encoded` does, or if the ids cannot be written.
    charlstm.errors.OtherRankFailed
        On the others.
    """
    shard = _Shard(source, sizes, world)
    return shard.recalled() or shard.encoded()


class _Shard:
    """The work of one rank."""

    def __init__(self, source: Source, sizes: list[int], world: World) -> None:
        self._source, self._world, self._size = source, world, sum(sizes)
        self._mine, self._is_first = dealt(sizes, world.size)[world.rank], world.rank == 0

    # --------------------------------------------------------------------------------------------------- second start
    def recalled(self) -> Encoded | None:
        """What the cache has of these very files."""
        world, source = self._world, self._source
        if not world.broadcast(self._is_first and idcache.may_recall(self._size)):
            return None
        with world.together():
            for part in source.parts[self._mine]:
                for _ in part.pieces():
                    pass
        key = self._key()
        noted = world.broadcast(idcache.recall(self._size, key) if self._is_first else None)
        if noted is None:
            return None
        digest, characters, facts = noted[0], noted[1], idcache.Facts(*noted[2])
        vocabulary = ByteVocabulary() if source.as_bytes else Vocabulary(characters)
        if not self._is_intact(digest, vocabulary, facts.pieces):
            return None
        return vocabulary, self._ids(digest, vocabulary), digest, facts, ""

    def _key(self) -> str:
        """The key of all files, of which each rank has read its own."""
        parts = self._source.parts
        found = np.zeros((len(parts), 32), np.uint8)
        for place in range(*self._mine.indices(len(parts))):
            found[place] = np.frombuffer(parts[place].sha256.digest(), np.uint8)
        self._world.all_reduce(found)
        return self._source.key([row.tobytes().hex() for row in found])

    def _is_intact(self, digest: str, vocabulary: Vocabulary, pieces: Sequence[str]) -> bool:
        """Whether the cache has the ids; each rank checks the pieces about where its streams are."""
        path, size = idcache.place(digest), self._world.size
        is_missing = not path.exists()
        is_damaged = False
        if not is_missing and pieces:
            whole = range(-(-path.stat().st_size // idcache.PIECE))
            mine = whole[len(whole) * self._world.rank // size : len(whole) * (self._world.rank + 1) // size]
            is_damaged = len(whole) != len(pieces) or any(_sha256(path, at) != pieces[at] for at in mine)
        elif not is_missing and self._is_first:
            is_damaged = idcache.find(digest, vocabulary) is None
        is_missing, is_damaged = self._world.any(is_missing, is_damaged)
        if is_damaged and not is_missing and self._is_first:
            idcache.remove(path)
        return not is_missing and not is_damaged

    def _ids(self, digest: str, vocabulary: Vocabulary) -> Any:
        """The ids, in memory if they are few."""
        path = idcache.place(digest)
        if path.stat().st_size <= idcache.IN_MEMORY:
            return np.frombuffer(path.read_bytes(), vocabulary.id_dtype)
        return idcache.mapped(path, vocabulary.id_dtype) if self._is_first else Filed(path, vocabulary.id_dtype)

    # ------------------------------------------------------------------------------------------------------- encoding
    def encoded(self) -> Encoded | None:
        """Read the files; None if the ranks do not share the cache's folder."""
        draft = self._new_file()
        if draft is None:
            return None
        encoder: Any = ByteEncoder() if self._source.is_bytes else Encoder()
        try:
            return self._written(draft, encoder)
        finally:
            encoder.spool.discard()
            if self._is_first:
                idcache.remove(draft)  # unless it got its final name

    def _new_file(self) -> Path | None:
        """A new file that all ranks see."""
        name = ""
        if self._is_first:
            try:
                idcache.folder().mkdir(parents=True, exist_ok=True)
                number, name = tempfile.mkstemp(".tmp", "new-", idcache.folder())
                os.close(number)
            except OSError:  # the text is read by each rank, and what is wrong is told
                name = ""
        path = idcache.folder() / (self._world.broadcast(Path(name).name) or "none")
        if not any(self._world.any(not path.is_file())):
            return path
        if self._is_first and name:
            idcache.remove(path)
        return None

    def _written(self, draft: Path, encoder: Any) -> Encoded:
        world, source = self._world, self._source
        with self._together():
            is_closed = self._read(encoder)
        before = self._separator_before(is_closed)
        vocabulary = self._vocabulary(encoder, before)
        first = vocabulary.encode(before)
        sizes = world.gather_values(len(first) + len(encoder.spool))
        ends = list(accumulate(sizes, initial=0))
        begin = ends[world.rank] + len(first)
        with self._together():
            if source.to_learn:
                source.see_that_all_was_used()
            with open(draft, "wb", opener=_as_it_is) as file:
                for at, ids in chain([(-len(first), first)], _as_ids(encoder, vocabulary)):
                    file.seek((begin + at) * vocabulary.id_dtype.itemsize)
                    file.write(ids.tobytes())
        with self._together():
            pieces, digest = self._digests(draft, ends[-1] * vocabulary.id_dtype.itemsize, vocabulary)
        world.all_reduce(pieces)
        digest = world.broadcast(digest)
        facts = idcache.Facts(
            source.told(), source.joined["texts"], [ends[-1]], [row.tobytes().hex() for row in pieces]
        )
        key = self._key()
        with self._together():
            if self._is_first:
                os.replace(draft, idcache.place(digest))
                idcache.remember(self._size, key, digest, vocabulary, facts)
        return vocabulary, self._ids(digest, vocabulary), digest, facts, ""

    @contextmanager
    def _together(self) -> Iterator[None]:
        """A block that ends on all ranks with a line if it fails on one."""
        with self._world.together():
            try:
                yield
            except OSError as error:
                raise UserError(idcache.reason(error)) from None

    def _read(self, encoder: Any) -> bool:
        """Encode this rank's files; return whether no separator is needed after them."""
        joint = self._source.joint(self._source.parts[self._mine])
        for piece in self._source.content(joint):
            encoder.add(piece)
            if encoder.spool.trouble:  # it would stay in memory
                raise UserError(encoder.spool.trouble)
        return joint.is_closed

    def _separator_before(self, is_closed: bool) -> str:
        """The separator if one is needed before this rank's first text; the source gets what all ranks have counted."""
        source = self._source
        counters = source.joined, source.found, source.left_out
        told = self._world.gather_values([is_closed, *counters])
        for counter, counts in zip(counters, zip(*(each[1:] for each in told), strict=True), strict=True):
            counter.clear()
            for each in counts:
                counter.update(each)
        with_texts = [rank for rank, (_, joined, *_) in enumerate(told) if joined.get("texts")]
        before = [rank for rank in with_texts if rank < self._world.rank]
        if self._world.rank not in with_texts or not before or told[before[-1]][0]:
            return ""
        return source.separator.lower() if source.lower and not source.as_bytes else source.separator

    def _vocabulary(self, encoder: Any, before: str) -> Vocabulary:
        """The characters that any rank has read."""
        if self._source.is_bytes:
            return ByteVocabulary()
        is_there = np.zeros(sys.maxunicode + 1, np.int32)
        is_there[encoder.kinds] = is_there[code_points(before)] = 1
        self._world.all_reduce(is_there)
        return Vocabulary("".join(map(chr, np.flatnonzero(is_there))))

    def _digests(self, path: Path, size: int, vocabulary: Vocabulary) -> tuple[np.ndarray, str]:
        """The digest of all ids, on the first rank; and of pieces, (n, 32) uint8, on each other rank a part of them."""
        whole, others = range(-(-size // idcache.PIECE)), self._world.size - 1
        pieces = np.zeros((len(whole), 32), np.uint8)
        if self._is_first:
            sha256 = idcache.begun_digest(vocabulary)
            _add(sha256, path, 0, size)
            return pieces, sha256.hexdigest()
        for at in whole[len(whole) * (self._world.rank - 1) // others : len(whole) * self._world.rank // others]:
            pieces[at] = np.frombuffer(bytes.fromhex(_sha256(path, at)), np.uint8)
        return pieces, ""


def _as_it_is(name: str, flags: int) -> int:
    """Open a file that exists for writing, as an opener.

    Not for reading, too: then an NFS client would read a page in which two ranks' stretches meet, and write all of it.
    """
    return os.open(name, flags & ~os.O_TRUNC & ~os.O_CREAT)


def _as_ids(encoder: Any, vocabulary: Vocabulary) -> Iterator[tuple[int, np.ndarray]]:
    """What an encoder holds, piece by piece with its place, as ids of the vocabulary of all ranks; it is empty then."""
    if isinstance(encoder, ByteEncoder):
        return encoder.spool.drained()
    table = vocabulary.places(encoder.kinds)[0].astype(vocabulary.id_dtype)
    return ((at, table[piece]) for at, piece in encoder.spool.drained())


def _sha256(path: Path, number: int) -> str:
    """The SHA-256 of a piece of a file, in hexadecimal."""
    sha256 = hashlib.sha256()
    _add(sha256, path, number * idcache.PIECE, idcache.PIECE)
    return sha256.hexdigest()


def _add(sha256: Any, path: Path, at: int, size: int) -> None:
    """Add up to `size` bytes of a file to a digest."""
    with open(path, "rb", buffering=0) as file:
        file.seek(at)
        while size and (content := file.read(min(size, _READ))):
            sha256.update(content)
            size -= len(content)
