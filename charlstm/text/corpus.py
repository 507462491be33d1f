"""From files, folders, standard input, URLs and built-in names to text, vocabulary and ids."""

import os
from collections.abc import Sequence
from contextlib import nullcontext
from dataclasses import astuple, dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from charlstm.errors import UserError
from charlstm.text import downloads, formats, idcache, shards
from charlstm.text.archives import not_read
from charlstm.text.edges import Edges, edges_of, known
from charlstm.text.encodings import normalised
from charlstm.text.reading import Fetch, How, Joined, Part
from charlstm.text.source import Source
from charlstm.text.vocabulary import ByteVocabulary, UnknownCharacters, Vocabulary, utf8
from charlstm.text.weights import Spans, in_words

__all__ = ["ByteVocabulary", "Corpus", "Fetch", "UnknownCharacters", "Vocabulary", "cached", "kept", "load"]
_LONG_NAME, _WORDS = 255, 4  # a name has at most this many characters, and few have as many blanks
_OURS = ("samples.txt", "metrics.jsonl", "metrics.csv")  # files of a run's folder


@dataclass(frozen=True, repr=False)
class Corpus:
    """A text as ids, with its vocabulary, a short name, and a digest that identifies it."""

    name: str
    vocabulary: Vocabulary
    ids: np.ndarray
    sources: tuple[str, ...] = ()
    is_frozen: bool = False  #: the vocabulary is a model's, not this text's own, or nothing is to be learned from it
    known_digest: str = ""  #: the value of `digest`, if it is known already
    remark: str = ""  #: what to tell the person who trains on it, one line each
    spans: Spans = ()  #: of weighted texts: where each ends, how often a pass reads it; see `charlstm.text.weights`
    separator: str = ""  #: what its texts were joined with; `documents` is their number
    documents: int = 1
    known_edges: Edges | None = None  #: the value of `edges`, if it is known already

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
        """Encode a string with its own vocabulary or a given one (`unknown`: see :meth:`Vocabulary.encode`).

        The string is normalised as a file would be: lines end in line feeds, and a byte order mark is removed.

        Raises
        ------
        UserError
            If the text is empty or one character repeated, or has characters that the vocabulary lacks.
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
        """Encode several strings, joined as files are; options as for :func:`load`, errors as for `from_text`."""
        texts = [texts] if isinstance(texts, str) else list(texts)
        wrong = next((text for text in texts if not isinstance(text, str)), None)
        if wrong is not None:
            raise UserError(f"texts: expected strings, got {wrong!r:.60}")
        own = ByteVocabulary() if as_bytes else vocabulary or Vocabulary("")
        text = "".join(Joined(([own.as_read(text, lower)] for text in texts), separator))
        found = cls.from_bytes(utf8(text), name) if as_bytes else cls.from_text(text, name, (), vocabulary, unknown)
        return replace(found, separator=separator, documents=len(texts))

    @classmethod
    def from_bytes(cls, content: bytes, name: str = "text", sources: Sequence[str] = ()) -> "Corpus":
        """Take bytes as ids; the vocabulary is the 256 byte values. Errors as for `from_text`."""
        return cls(name, ByteVocabulary(), np.frombuffer(content, np.uint8), tuple(sources))

    def split(self, validation: float) -> tuple[np.ndarray, np.ndarray]:
        """The training ids, and the held-out ids: the end of the text, a fraction `validation` of it.

        Raises
        ------
        UserError
            If `validation` is above 0 and fewer than two ids are held out.
        """
        cut = len(self.ids) - round(validation * len(self.ids))
        if validation and len(self.ids) - cut < 2:
            raise UserError(f"--validation {validation:g}: fewer than two characters of {self.name} are held out")
        return self.ids[:cut], self.ids[cut:]

    @cached_property
    def edges(self) -> Edges:
        """The ids that its texts begin after, and those that end a text."""
        return self.known_edges or edges_of(self.vocabulary, self.ids, self.separator, self.documents)

    @cached_property
    def digest(self) -> str:
        """SHA-256 of vocabulary and ids, in hexadecimal."""
        return self.known_digest or idcache.digest_of(self.vocabulary, self.ids)

    def facts(self) -> dict[str, Any]:
        """What a checkpoint records of the text (`Checkpoint.corpus`): enough to find it again and to recognise it."""
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
    """Whether there are two different ids; in pieces, since one comparison of all ids would double the memory."""
    return any((np.asarray(ids[at : at + 2**20]) != ids[0]).any() for at in range(0, len(ids), 2**20))


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
    world: shards.World | None = None,
) -> Corpus:
    """Read text in pieces, each byte once, and encode it.

    Ids that take more than `charlstm.text.idcache.IN_MEMORY` bytes are mapped from a file in the cache. A second start
    on the same files only computes the SHA-256 of the files and of the ids.

    Parameters
    ----------
    sources : paths of files, of folders (every supported file below them, sorted), "-" for standard input, URLs, or
        built-in names; none means "python-docs"
    encoding : of all texts except built-in ones and files that declare their own; line ends become "\\n"
    format : "auto", or the format of all files, whatever they look like: see `charlstm.text.formats`
    column, field : the column of CSV files, the field of JSON Lines; "" reads such files as plain text
    separator : put between two texts unless the first already ends in it
    lower : make all letters lower-case
    as_bytes : take bytes as ids, with the vocabulary of the 256 byte values
    vocabulary, unknown : a model's vocabulary, and what to do with characters that it lacks: see `Corpus.from_text`
    copies : how often a pass reads each source, each of which then ends in the separator; none: once each
    to_learn : for training: the text must have two distinct characters, and the column or field must be used
    fetch : turns a URL or a built-in name into a file
    world : the ranks that make this call together, if there are several: each reads a share of the files of a large
        text (see `charlstm.text.shards`); of other texts the first rank reads all before the others do

    Raises
    ------
    UserError
            If a source is missing, unreadable, empty, or not text in that encoding; one line that names it.
    charlstm.text.downloads.DownloadFailed
            If a download failed.
    """
    names, how = [os.fspath(source) for source in sources] or ["python-docs"], How(encoding, format, column, field)
    if copies and len(copies) != len(names):
        raise UserError(f"--weight: this run has weights for {len(copies)} texts, got {len(names)}")
    vocabulary = None if as_bytes else vocabulary
    options = bool(copies), to_learn, separator, how, lower, as_bytes, vocabulary, unknown
    found = None
    if world is not None and vocabulary is None and not copies and shards.are_separate(separator, lower):
        listed = shards.listed(world, lambda: [_expand(name, how) for name in names])
        if listed is not None:
            found_in = listed.names
            found = shards.load(Source(_parts(found_in, fetch), *options), listed.sizes, world)
    is_dealt = found is not None
    try:
        if found is None:
            with nullcontext() if world is None else world.first_rank_first():
                found_in = [_expand(name, how) for name in names]
                source = Source(_parts(found_in, fetch), *options)
                found = source.recalled() or source.encoded()
    except UnknownCharacters as error:
        raise UserError(
            f"{_name(names[0])}: {error}; --unknown skip leaves such characters out, --unknown replace:CHAR reads CHAR "
            "instead"
        ) from None
    except OSError as error:  # of the cache, for example because its folder was removed
        raise UserError(f"{idcache.folder()}: {error.strerror or error}") from None
    used, ids, digest, facts, trouble = found
    stays = f"the text stays in memory: {trouble}" if trouble else ""
    remarks = [*(remark for _, remark in found_in), *facts.told, in_words(copies, names), stays]
    corpus = Corpus(
        _name(names[0]), used, ids, tuple(str(Path(name).resolve()) if _exists(name) else name for name in names),
        vocabulary is not None or not to_learn, digest, "\n".join(filter(None, remarks)),
        separator=separator, documents=facts.documents,
        spans=tuple(zip(facts.ends, copies, strict=True)) if copies else (),
    )  # fmt: skip
    if world is None or not is_dealt:
        return corpus
    edges = world.broadcast(astuple(corpus.edges) if world.rank == 0 else None)  # finding them may take the whole text
    return replace(corpus, known_edges=Edges(*map(tuple, edges)))


def _parts(found_in: Sequence[tuple[Sequence[str | Path], str]], fetch: Fetch) -> list[list[Part]]:
    return [[Part(part, fetch) for part in places] for places, _ in found_in]


def can_be_read_again(sources: Sequence[str]) -> bool:
    """Whether a corpus' sources are all files, folders, URLs or built-in texts that still exist."""
    return bool(sources) and all(
        downloads.is_url(name) or Path(name).is_file() or Path(name).is_dir() or name in downloads.BUILT_IN
        for name in sources
    )


def cached(facts: dict[str, Any], vocabulary: Vocabulary) -> Corpus | None:
    """The text that a checkpoint records (`Checkpoint.corpus`), from the ids in the cache.

    None if the cache lacks them or they are damaged: all ids are read and compared with the digest.
    """
    ids = idcache.find(facts["digest"], vocabulary)
    if ids is None:
        return None
    sources = tuple(facts["sources"])
    spans = tuple((int(end), int(count)) for end, count in facts.get("spans", ()))
    is_frozen, edges = bool(facts.get("is_frozen")), known(facts, vocabulary)
    return Corpus(facts["name"], vocabulary, ids, sources, is_frozen, facts["digest"], known_edges=edges, spans=spans)


def kept(corpus: Corpus) -> Corpus:
    """The same text, stored where :func:`cached` finds it; if it cannot be stored, the remark says why."""
    trouble = idcache.keep(corpus.ids, corpus.vocabulary, corpus.digest)
    if not trouble or trouble in corpus.remark:
        return corpus
    remark = f"resuming this run will need the text again: {trouble}"
    return replace(corpus, known_digest=corpus.digest, remark=f"{corpus.remark}\n{remark}".strip())


def _name(source: str) -> str:
    """A short name of a source, which also names the run's folder."""
    if source == "-":
        return "stdin"
    if downloads.is_url(source):
        return downloads.short_name(source)
    place = Path(source).resolve()
    return (place.name if place.is_dir() else place.stem) or "text"


def _exists(name: str) -> bool:
    """Whether a file or folder of this name exists."""
    if name == "-" or downloads.is_url(name):
        return False
    try:
        return Path(name).exists()
    except (OSError, ValueError) as error:  # for example a name that is too long or contains NUL
        if _is_prose(name):
            raise _no_path(name) from None
        raise UserError(f"{name[:60]}: cannot be read: {getattr(error, 'strerror', None) or error}") from None


def _is_prose(name: str) -> bool:
    """Whether a name, which no file has, is more likely meant as text."""
    return "\n" in name or len(name) > _LONG_NAME or name.count(" ") >= _WORDS


def _no_path(name: str) -> UserError:
    return UserError(
        f"that looks like text: {name[:30]!r}...: expected a file name; in Python pass text as texts=[...], on a "
        "command line pass - to read stdin"
    )


def _expand(name: str, how: How) -> tuple[list[str | Path], str]:
    """What one name on the command line stands for, and a remark if it is a folder."""
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
    """The supported files below a folder, sorted, and a remark on how many were read and which were not."""
    files = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_ours(path)]
    found: list[str | Path] = [path for path in files if formats.is_read(path.name, how.column, how.field)]
    hidden = [path for path in files if any(part.startswith(".") for part in path.relative_to(folder).parts)]
    others = not_read(path.name for path in set(files) - set(found) - set(hidden))
    if not found:
        ends = ", ".join(end for row in formats.FORMATS.values() for end in row.suffixes if not row.needs)
        raise UserError(
            f"{folder}: no text in this folder{others}; supported: {ends}, .csv with --column, .jsonl with --field"
        )
    return found, f"{folder}: {len(found):,} {'file' if len(found) == 1 else 'files'} read{others}"


def _is_ours(path: Path) -> bool:
    """Whether a file is a run's output, which is not a text to learn from."""
    return path.name in _OURS and (path.parent / "metrics.jsonl").exists()
