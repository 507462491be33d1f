"""Files, folders, standard input, URLs and built-in names -> text -> vocabulary -> ids."""

import hashlib
import json
import os
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from charlstm.errors import UserError
from charlstm.settings.unknown import unknown_in_words
from charlstm.text import downloads, formats, idcache
from charlstm.text.archives import not_read
from charlstm.text.edges import Edges, edges_of, known
from charlstm.text.encoder import ByteEncoder, Encoder
from charlstm.text.encodings import normalised
from charlstm.text.reading import Fetch, How, Part, gathered, joined, lowered
from charlstm.text.vocabulary import ByteVocabulary, UnknownCharacters, Vocabulary, utf8
from charlstm.text.weights import Spans, in_words

__all__ = ["ByteVocabulary", "Corpus", "Fetch", "UnknownCharacters", "Vocabulary", "cached", "kept", "load"]
_LONG_NAME, _WORDS = 255, 4  # characters that no name has, and blanks that few have
_OURS = ("samples.txt", "metrics.jsonl")  # which a run leaves
_FORMAT = 4  # of what the cache remembers; a text is read again where that is another


@dataclass(frozen=True, repr=False)
class Corpus:
    """A text as ids, with its vocabulary, a short name, and a digest that tells it from other texts."""

    name: str
    vocabulary: Vocabulary
    ids: np.ndarray
    sources: tuple[str, ...] = ()
    is_frozen: bool = False  #: the vocabulary is a model's, not this text's own, or nothing is to be learned
    known_digest: str = ""  #: what `digest` is, where that has been computed
    remark: str = ""  #: what whoever trains on it should be told, a line each
    spans: Spans = ()  #: where texts that have weights end, how often a pass reads each: `charlstm.text.weights`
    separator: str = ""  #: what its texts were joined with, and how many these are
    documents: int = 1
    known_edges: Edges | None = None  #: what `edges` are, where that is known

    def __post_init__(self) -> None:
        if not len(self.ids):
            raise UserError(f"{self.name}: the text is empty")
        if not self.is_frozen and not _differ(self.ids):
            single = self.vocabulary.decode(self.ids[:1])
            raise UserError(
                f"{self.name}: the text has a single distinct character, {single!r}: there is nothing to learn"
            )

    def __repr__(self) -> str:
        return f"<Corpus {self.name}: {len(self.ids):,} {self.vocabulary.kind}, {len(self.vocabulary):,} distinct>"

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

        It becomes what reading a file of it would give: its lines end in line feeds, no byte order mark is before it.

        Raises
        ------
        UserError
            For an empty text, one that is a single character repeated, or characters that the vocabulary lacks.
        """
        is_frozen = vocabulary is not None
        text = normalised(text) if vocabulary is None else vocabulary.as_read(text)
        vocabulary = vocabulary or Vocabulary.of(text)
        return cls(name, vocabulary, vocabulary.encode(text, unknown), tuple(sources), is_frozen)

    @classmethod
    def from_texts(
        cls,
        texts: Sequence[str],
        name: str = "text",
        separator: str = "\n",
        lower: bool = False,
        as_bytes: bool = False,
        vocabulary: Vocabulary | None = None,
        unknown: str = "error",
    ) -> "Corpus":
        """Encode several strings, joined as files are: the options are those of :func:`load`. Raises as `from_text`."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise UserError(f"texts: expected strings, got {wrong!r:.60}")
        own = ByteVocabulary() if as_bytes else vocabulary or Vocabulary("")
        text = "".join(joined(([own.as_read(text, lower)] for text in texts), separator))
        found = cls.from_bytes(utf8(text), name) if as_bytes else cls.from_text(text, name, (), vocabulary, unknown)
        return replace(found, separator=separator, documents=len(texts))

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
    def edges(self) -> Edges:
        """The ids that its texts begin after, and those that end them."""
        return self.known_edges or edges_of(self.vocabulary, self.ids, self.separator, self.documents)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of vocabulary and ids."""
        return self.known_digest or idcache.digest_of(self.vocabulary, self.ids)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint tells of it (`Checkpoint.corpus`): enough to find it again, and to know it."""
        return {
            "name": self.name,
            "sources": list(self.sources),
            "digest": self.digest,
            "num_ids": len(self.ids),
            "is_frozen": self.is_frozen,
            **({"spans": self.spans} if self.spans else {}),
            "begin": list(self.edges.begin),
            "end": list(self.edges.end),
        }


def _differ(ids: np.ndarray) -> bool:
    """Whether there are two different ids; a comparison of all at once would take as much memory again."""
    return any((ids[at : at + 2**20] != ids[0]).any() for at in range(0, len(ids), 2**20))


def load(
    sources: Sequence[str | os.PathLike[str]] = (),
    encoding: str = "utf-8",
    *,
    format: str = "auto",
    column: str = "",
    field: str = "",
    separator: str = "\n",
    lower: bool = False,
    as_bytes: bool = False,
    vocabulary: Vocabulary | None = None,
    unknown: str = "error",
    copies: Sequence[int] = (),
    to_learn: bool = True,
    fetch: Fetch = downloads.fetch,
) -> Corpus:
    """Read text, each byte of it once, in pieces, and encode it.

    Ids that take more than `charlstm.text.idcache.IN_MEMORY` bytes are mapped from a file in the cache. A second start
    on the same files only computes their SHA-256, and that of the ids.

    Parameters
    ----------
    sources : paths of files, of folders (every file below them that is read, sorted), "-" for standard input, URLs, or
        built-in names; none means "python-docs"
    encoding : of all but built-in texts, and those that say theirs; line ends become "\\n"
    format : "auto", or that of all files, whatever they look like: see `charlstm.text.formats`
    column, field : of CSV, and of JSON Lines; "" reads such files as plain text
    separator : put between two texts where the first does not end in it
    lower : make all letters lower-case
    as_bytes : take the bytes as they are, with the vocabulary of the 256 byte values
    vocabulary, unknown : a model's vocabulary, and what to do with characters that it lacks: see `Corpus.from_text`
    copies : how often a pass reads each of the sources, the end of each being one of the separator; none: each once
    to_learn : whether it must have two distinct characters, and the column or field that is named
    fetch : turns a URL or a built-in name into a file

    Raises
    ------
    UserError
        For what is missing, unreadable, empty, or not text in that encoding; one line that names it.
    charlstm.text.downloads.DownloadFailed
        For a download that failed.
    """
    names, how = [os.fspath(source) for source in sources] or ["python-docs"], How(encoding, format, column, field)
    found_in = [_expand(name, how) for name in names]
    parts = [[Part(part, fetch) for part in places] for places, _ in found_in]
    if copies and len(copies) != len(names):
        raise UserError(f"--weight: this run has weights for {len(copies)} texts, got {len(names)}")
    origins = tuple(str(Path(name).resolve()) if _exists(name) else name for name in names)
    name, vocabulary = _name(names[0]), None if as_bytes else vocabulary
    source = _Source(parts, bool(copies), to_learn, separator, how, lower, as_bytes, vocabulary, unknown)
    try:
        found = source.recalled() or source.encoded()
    except UnknownCharacters as error:
        raise UserError(
            f"{name}: {error}; --unknown skip leaves such characters out, --unknown replace:CHAR reads CHAR instead"
        ) from None
    except OSError as error:  # of the cache: its folder went away, say
        raise UserError(f"{idcache.folder()}: {error.strerror or error}") from None
    used, ids, digest, facts, trouble = found
    stays = f"the text stays in memory: {trouble}" if trouble else ""
    remarks = [*(remark for _, remark in found_in), *facts.told, in_words(copies, names), stays]
    return Corpus(
        name, used, ids, origins, vocabulary is not None or not to_learn, digest, "\n".join(filter(None, remarks)),
        separator=separator, documents=facts.documents,
        spans=tuple(zip(facts.ends, copies, strict=True)) if copies else (),
    )  # fmt: skip


def can_be_read_again(sources: Sequence[str]) -> bool:
    """Whether a corpus' sources are all files, folders, URLs or built-in texts, which are there still."""
    return bool(sources) and all(
        downloads.is_url(name) or Path(name).is_file() or Path(name).is_dir() or name in downloads.BUILT_IN
        for name in sources
    )


def cached(facts: dict[str, Any], vocabulary: Vocabulary) -> Corpus | None:
    """The text that a checkpoint tells of (`Checkpoint.corpus`), from the ids that the cache has kept of it.

    None if it has none, or damaged ones: all are read, and compared with the digest.
    """
    ids = idcache.find(facts["digest"], vocabulary)
    if ids is None:
        return None
    sources = tuple(facts["sources"])
    spans = tuple((int(end), int(count)) for end, count in facts.get("spans", ()))
    is_frozen, edges = bool(facts.get("is_frozen")), known(facts, vocabulary)
    return Corpus(facts["name"], vocabulary, ids, sources, is_frozen, facts["digest"], known_edges=edges, spans=spans)


def kept(corpus: Corpus) -> Corpus:
    """The same text, which :func:`cached` will find while the cache keeps it; if it will not, the remark says why."""
    trouble = idcache.keep(corpus.ids, corpus.vocabulary, corpus.digest)
    if not trouble or trouble in corpus.remark:
        return corpus
    remark = f"to go on with this run the text will be needed again: {trouble}"
    return replace(corpus, known_digest=corpus.digest, remark=f"{corpus.remark}\n{remark}".strip())


_Encoded = tuple[Vocabulary, np.ndarray, str, idcache.Facts, str]


@dataclass(frozen=True)
class _Source:
    """What a text is read from, and how."""

    groups: list[list[Part]]  # what each name on the command line stands for
    is_weighted: bool  # then every group ends in the separator, and where is noted
    to_learn: bool
    separator: str
    how: How
    lower: bool
    as_bytes: bool
    vocabulary: Vocabulary | None
    unknown: str
    found: Counter[str] = field(default_factory=Counter)  # files of each format
    left_out: Counter[str] = field(default_factory=Counter)  # what the texts lack, in words
    joined: Counter[str] = field(default_factory=Counter)  # "texts": how many were

    def encoded(self) -> _Encoded:
        """Vocabulary, ids, digest, what is known of the text, and why ids are not in a file, if they should be.

        Raises
        ------
        UserError
            For files that cannot be read, and a column or field that no file has a place for.
        """
        is_bytes = self.as_bytes or (self.vocabulary is not None and self.vocabulary.kind == "bytes")
        encoder: Any = ByteEncoder(self.vocabulary) if is_bytes else Encoder(self.vocabulary, self.unknown)
        try:
            for parts in self.groups if self.is_weighted else [self._parts]:
                for piece in self._bytes(parts) if is_bytes else self._text(parts):
                    encoder.add(piece)
                encoder.mark()
            if self.to_learn:
                self._see_that_all_was_used()
            vocabulary, ids, digest = encoder.finish()
            told = [*self._told(), unknown_in_words(encoder.left_out)]
            facts = idcache.Facts(list(filter(None, told)), self.joined["texts"], encoder.ends)
        except BaseException:
            encoder.spool.discard()
            raise
        if self._size and ids.nbytes > idcache.IN_MEMORY and not encoder.spool.trouble:
            idcache.remember(self._size, self._key(), digest, vocabulary, facts)
        return vocabulary, ids, digest, facts, encoder.spool.trouble

    @property
    def _parts(self) -> list[Part]:
        return [part for group in self.groups for part in group]

    def _text(self, parts: list[Part]) -> Iterator[str]:
        each = (text for part in parts for text in part.texts(self.how, self.found, self.left_out))
        text = gathered(joined(self._counted(each), self.separator))
        return lowered(text) if self.lower else text

    def _bytes(self, parts: list[Part]) -> Iterator[bytes]:
        if not self.as_bytes:
            return (utf8(piece) for piece in self._text(parts))
        each = (part.pieces() for part in parts)
        return joined(self._counted(each), utf8(self.separator))

    def _counted(self, texts: Iterator[Any]) -> Iterator[Any]:
        for text in texts:
            self.joined["texts"] += 1
            yield text
        if self.is_weighted:  # an empty one more, before which the last one ends in the separator
            yield ()

    def _see_that_all_was_used(self) -> None:
        for format, option in (("csv", "column"), ("jsonl", "field")):
            value = getattr(self.how, option)
            if value and not self.found[format] and not self.as_bytes:
                title, ends = formats.FORMATS[format].title, " or ".join(formats.FORMATS[format].suffixes)
                raise UserError(
                    f"--{option} {value}: no text is {title} (its name would end in {ends}); --format {format} reads "
                    "all as such"
                )

    def _told(self) -> list[str]:
        """Lines about files that are more than text: how many of each format, and what was left out."""
        rows = [(formats.FORMATS[name], count) for name, count in self.found.items() if count > 0]
        lines = [
            f"{count:,} {row.title} {'file' if count == 1 else 'files'}: {row.left_out} left out"
            for row, count in rows
            if row.left_out
        ]
        rest = ", ".join(f"{what} ({count:,})" for what, count in sorted(self.left_out.items()))
        return [*lines, f"left out: {rest}"] if rest else lines

    def recalled(self) -> _Encoded | None:
        """The same, if the cache has what these very bytes became."""
        if not self._size or not idcache.may_recall(self._size):
            return None
        for part in self._parts:
            for _ in part.pieces():
                pass
        noted = idcache.recall(self._size, self._key())
        if noted is None:
            return None
        digest, characters, facts = noted
        own = ByteVocabulary() if self.as_bytes else Vocabulary(characters)
        vocabulary = own if self.vocabulary is None else self.vocabulary
        ids = idcache.find(digest, vocabulary)
        return None if ids is None else (vocabulary, ids, digest, facts, "")

    @cached_property
    def _size(self) -> int:
        """The bytes of large files; 0 for what is small, or can be read only once."""
        sizes = [part.size for part in self._parts]
        total = sum(size or 0 for size in sizes)
        return total if None not in sizes and total > idcache.IN_MEMORY else 0

    def _key(self) -> str:
        """What was read, and how: what the ids follow from."""
        options = [self.separator, asdict(self.how), self.lower, self.as_bytes, self.unknown]
        known = None if self.vocabulary is None else [self.vocabulary.kind, self.vocabulary.characters]
        kinds = [formats.suffix_of(part.name) for part in self._parts]
        read = [[part.is_built_in, part.sha256.hexdigest()] for part in self._parts]
        grouped = [len(group) for group in self.groups] if self.is_weighted else []
        values = [_FORMAT, *sys.version_info[:2], *options, known, kinds, grouped, read]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()


def _name(source: str) -> str:
    """A short name, which is that of the run's folder."""
    if source == "-":
        return "stdin"
    if downloads.is_url(source):
        return downloads.short_name(source)
    place = Path(source).resolve()
    return (place.name if place.is_dir() else place.stem) or "text"


def _exists(name: str) -> bool:
    """Whether this names a file or folder."""
    if name == "-" or downloads.is_url(name):
        return False
    try:
        return Path(name).exists()
    except (OSError, ValueError) as error:  # a name too long, say, or with a NUL
        if _is_prose(name):
            raise _no_path(name) from None
        raise UserError(f"{name[:60]}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _is_prose(name: str) -> bool:
    """Whether this is more probably a text than a name of one, if there is no file of this name."""
    return "\n" in name or len(name) > _LONG_NAME or name.count(" ") >= _WORDS


def _no_path(name: str) -> UserError:
    return UserError(
        f"that looks like text: {name[:30]!r}...: expected the name of a file; in Python texts=[...] takes text, on a "
        "command line - reads it from stdin"
    )


def _expand(name: str, how: How) -> tuple[list[str | Path], str]:
    """The things to be read that one name on the command line stands for, and what is to be told of a folder."""
    if name == "-" or downloads.is_url(name):
        return [name], ""
    path, exists = Path(name), _exists(name)
    if name in downloads.BUILT_IN and not exists:
        return [name], ""
    if not exists:
        if _is_prose(name):
            raise _no_path(name)
        raise UserError(f"{name}: no such file or folder (built-in texts: {', '.join(downloads.BUILT_IN)})")
    return _in_folder(path, how) if path.is_dir() else ([path], "")


def _in_folder(folder: Path, how: How) -> tuple[list[str | Path], str]:
    """The files below a folder that are read, sorted, and how many, and which are not."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_ours(path)]
    found: list[str | Path] = [path for path in files if formats.is_read(path.name, how.column, how.field)]
    hidden = [path for path in files if any(part.startswith(".") for part in path.relative_to(folder).parts)]
    others = not_read(path.name for path in set(files) - set(found) - set(hidden))
    if not found:
        ends = ", ".join(end for row in formats.FORMATS.values() for end in row.suffixes if not row.needs)
        raise UserError(
            f"{folder}: no text in this folder{others}; read are {ends}, and .csv with --column, .jsonl with --field"
        )
    return found, f"{folder}: {len(found):,} {'file' if len(found) == 1 else 'files'} read{others}"


def _is_ours(path: Path) -> bool:
    """Whether this is what a model wrote, in a run's folder: no text to learn from."""
    return path.name in _OURS and (path.parent / "metrics.jsonl").exists()
