"""The sources of a text together: how their pieces are joined, encoded, and found again in the cache."""

import hashlib
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from charlstm.errors import UserError
from charlstm.settings.unknown import unknown_in_words
from charlstm.text import formats, idcache
from charlstm.text.encoder import ByteEncoder, Encoder
from charlstm.text.reading import How, Joined, Part, gathered, lowered
from charlstm.text.vocabulary import ByteVocabulary, Vocabulary, utf8

_FORMAT = 4  # version of what the cache remembers; with another version the text is read again

Encoded = tuple[Vocabulary, np.ndarray, str, idcache.Facts, str]


@dataclass(frozen=True)
class Source:
    """The sources of a text and how to read them."""

    groups: list[list[Part]]  # the parts that each name on the command line stands for
    is_weighted: bool  # then every group ends in the separator, and its end is recorded
    to_learn: bool
    separator: str
    how: How
    lower: bool
    as_bytes: bool
    vocabulary: Vocabulary | None
    unknown: str
    found: Counter[str] = field(default_factory=Counter)  # number of files of each format
    left_out: Counter[str] = field(default_factory=Counter)  # counts of what was left out, by description
    joined: Counter[str] = field(default_factory=Counter)  # "texts": how many texts were joined

    def encoded(self) -> Encoded:
        """Vocabulary, ids, digest, the facts about the text, and why ids that should be in a file are not.

        Raises
        ------
        UserError
            If a file cannot be read, or no file has the column or field.
        """
        encoder: Any = ByteEncoder(self.vocabulary) if self.is_bytes else Encoder(self.vocabulary, self.unknown)
        try:
            for parts in self.groups if self.is_weighted else [self.parts]:
                for piece in self.content(self.joint(parts)):
                    encoder.add(piece)
                encoder.mark()
            if self.to_learn:
                self.see_that_all_was_used()
            vocabulary, ids, digest = encoder.finish()
            told = [*self.told(), unknown_in_words(encoder.left_out)]
            facts = idcache.Facts(list(filter(None, told)), self.joined["texts"], encoder.ends)
        except BaseException:
            encoder.spool.discard()
            raise
        if self._size and ids.nbytes > idcache.IN_MEMORY and not encoder.spool.trouble:
            idcache.remember(self._size, self.key(), digest, vocabulary, facts)
        return vocabulary, ids, digest, facts, encoder.spool.trouble

    @property
    def parts(self) -> list[Part]:
        """The parts of all groups."""
        return [part for group in self.groups for part in group]

    @property
    def is_bytes(self) -> bool:
        """Whether an id is a byte rather than a character."""
        return self.as_bytes or (self.vocabulary is not None and self.vocabulary.kind == "bytes")

    def joint(self, parts: list[Part]) -> Joined[Any]:
        """The texts of some parts, joined: of bytes with `as_bytes`, else of characters."""
        if self.as_bytes:
            return Joined(self._counted(part.pieces() for part in parts), utf8(self.separator))
        each = (text for part in parts for text in part.texts(self.how, self.found, self.left_out))
        return Joined(self._counted(each), self.separator)

    def content(self, joint: Joined[Any]) -> Iterator[Any]:
        """What an encoder reads of them, in pieces."""
        if self.as_bytes:
            return iter(joint)
        text = gathered(joint)
        text = lowered(text) if self.lower else text
        return (utf8(piece) for piece in text) if self.is_bytes else text

    def _counted(self, texts: Iterator[Any]) -> Iterator[Any]:
        for text in texts:
            self.joined["texts"] += 1
            yield text
        if self.is_weighted:  # one more, empty text, so that the last one ends in the separator
            yield ()

    def see_that_all_was_used(self) -> None:
        """Raise UserError if no file has the column or field."""
        for format, option in (("csv", "column"), ("jsonl", "field")):
            value = getattr(self.how, option)
            if value and not self.found[format] and not self.as_bytes:
                title, ends = formats.FORMATS[format].title, " or ".join(formats.FORMATS[format].suffixes)
                raise UserError(
                    f"--{option} {value}: no file is {title} (names ending in {ends}); --format {format} reads "
                    f"all files as {title}"
                )

    def told(self) -> list[str]:
        """Lines for the reader about files of other formats than plain text: their number, and what was left out."""
        rows = [(formats.FORMATS[name], count) for name, count in self.found.items() if count > 0]
        lines = [
            f"{count:,} {row.title} {'file' if count == 1 else 'files'}: {row.left_out} left out"
            for row, count in rows
            if row.left_out
        ]
        rest = ", ".join(f"{what} ({count:,})" for what, count in sorted(self.left_out.items()))
        return [*lines, f"left out: {rest}"] if rest else lines

    def recalled(self) -> Encoded | None:
        """What `encoded` returned for these very bytes before, if the cache still has it."""
        if not self._size or not idcache.may_recall(self._size):
            return None
        for part in self.parts:
            for _ in part.pieces():
                pass
        noted = idcache.recall(self._size, self.key())
        if noted is None:
            return None
        digest, characters, facts = noted
        own = ByteVocabulary() if self.as_bytes else Vocabulary(characters)
        vocabulary = own if self.vocabulary is None else self.vocabulary
        ids = idcache.find(digest, vocabulary)
        return None if ids is None else (vocabulary, ids, digest, facts, "")

    @cached_property
    def _size(self) -> int:
        """Total bytes if the files are large; 0 if they are small or can be read only once."""
        sizes = [part.size for part in self.parts]
        total = sum(size or 0 for size in sizes)
        return total if None not in sizes and total > idcache.IN_MEMORY else 0

    def key(self, digests: Sequence[str] = ()) -> str:
        """A key for the content and the way it was read: the ids follow from it.

        `digests` are the SHA-256 of the parts, by default of what this process has read of them.
        """
        options = [self.separator, asdict(self.how), self.lower, self.as_bytes, self.unknown]
        known = None if self.vocabulary is None else [self.vocabulary.kind, self.vocabulary.characters]
        kinds = [formats.suffix_of(part.name) for part in self.parts]
        digests = digests or [part.sha256.hexdigest() for part in self.parts]
        read = [[part.is_built_in, digest] for part, digest in zip(self.parts, digests, strict=True)]
        grouped = [len(group) for group in self.groups] if self.is_weighted else []
        values = [_FORMAT, *sys.version_info[:2], *options, known, kinds, grouped, read]
        return hashlib.sha256(json.dumps(values).encode()).hexdigest()
