"""Recognises the format of a file and extracts its texts.

A new format is one row of FORMATS and one function from bytes to texts. A file is recognised by its first bytes, then
by its name. Its texts are joined in the same way as the texts of several files.
"""

import dataclasses
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from pathlib import PurePosixPath

from charlstm.errors import UserError
from charlstm.text import archives, tables
from charlstm.text.encodings import decoded, peeked, refuse_no_text
from charlstm.text.markup import seen
from charlstm.text.tables import lines

Texts = Iterator[Iterable[str]]


@dataclasses.dataclass
class Source:
    """A file to be read: its name for messages, its bytes, how to read it, and counts of what was found.

    `found` counts files by the name of their format, `left_out` what the texts lack, by description.
    """

    name: str
    pieces: Iterable[bytes]
    encoding: str = "utf-8"
    format: str = "auto"
    column: str = ""
    field: str = ""
    is_inside: bool = False  #: whether the file is inside an archive
    found: Counter[str] = dataclasses.field(default_factory=Counter)
    left_out: Counter[str] = dataclasses.field(default_factory=Counter)

    def inside(self, name: str, pieces: Iterable[bytes], is_same_file: bool = False) -> "Source":
        """A file inside this one, which is an archive."""
        whole = self.name.removesuffix(PurePosixPath(self.name).suffix) if is_same_file else f"{self.name}/{name}"
        return dataclasses.replace(self, name=whole, pieces=pieces, is_inside=True)


def texts(source: Source) -> Texts:
    """Yield the texts of a file, each in pieces.

    Raises
    ------
    UserError
        If the file is not text, not valid in its encoding, damaged, or unpacks to far more than its size.
    """
    head, source.pieces = peeked(source.pieces)
    row = _recognised(source, head)
    if row.is_archive and source.is_inside:
        raise UserError(f"{source.name}: an archive in an archive: unpack it, and give the folder")
    source.found[row.name] += 1
    return row.texts(source)


def _recognised(source: Source, head: bytes) -> "Format":
    if source.format == "text":
        return FORMATS["text"]
    rows = [row for row in FORMATS.values() if row.begins is not None and row.begins(head)]
    if rows and rows[0].is_archive:
        return rows[0]
    if source.format != "auto":
        return FORMATS[source.format]
    if rows:
        return rows[0]
    refuse_no_text(head, source.encoding, source.name)
    suffix = suffix_of(source.name)
    for row in FORMATS.values():
        if suffix in row.suffixes and not row.is_archive and (not row.needs or getattr(source, row.needs)):
            return row
    return FORMATS["text"]


def suffix_of(name: str) -> str:
    """The suffix of a file name, in lower case."""
    return PurePosixPath(name.partition("?")[0] if "://" in name else name).suffix.lower()


def is_read(name: str, column: str = "", field: str = "") -> bool:
    """Whether a file of this name, in a folder or an archive, is read."""
    suffix, needed = suffix_of(name), {"column": column, "field": field}
    if suffix in FORMATS["packed"].suffixes:
        inner = suffix_of(name[: -len(suffix)])
        return not inner or (inner not in FORMATS["packed"].suffixes and is_read(name[: -len(suffix)], column, field))
    return any(suffix in row.suffixes and (not row.needs or needed[row.needs] != "") for row in FORMATS.values())


def _text(source: Source) -> Texts:
    yield decoded(source.pieces, source.encoding, source.name)


def _html(source: Source) -> Texts:
    head, pieces = peeked(source.pieces)
    said = re.search(rb"<meta[^>]+charset\s*=\s*[\"']?\s*([\w.:-]+)", head, re.IGNORECASE)
    yield seen(decoded(pieces, _declared(said, source.encoding), source.name), source.name)


def _declared(said: re.Match[bytes] | None, encoding: str) -> str:
    """The encoding that a document declares, unless the user asked for another."""
    return said[1].decode("ascii") if said and encoding == "utf-8" else encoding


_STAMP = re.compile(r"(\d+:)?\d\d:\d\d[.,]\d{3}\s+-->")


def _subtitles(source: Source) -> Texts:
    yield _spoken(lines(decoded(source.pieces, source.encoding, source.name), source.name))


def _spoken(rows: Iterable[str]) -> Iterator[str]:
    """The spoken lines of subtitles, without caption numbers and names, times, comments, styles and tags."""
    state, held = "between", ""
    for line in rows:
        bare = line.strip()
        if not bare:
            if state == "named" and not held.isdigit():
                yield held + "\n"
            state = "between"
        elif _STAMP.match(bare):
            state = "shown"
        elif state == "between":
            is_head = re.match(r"(WEBVTT|NOTE|STYLE|REGION)\b", bare) is not None
            state, held = ("hidden" if is_head else "named"), bare
        elif state == "named":  # a caption may contain an empty line
            yield f"{held}\n{bare}\n"
            state = "shown"
        elif state == "shown" and (shown := re.sub(r"</?[A-Za-z][^<>]*>|<[\d:.]+>|\{\\[^{}]*\}", "", bare).strip()):
            yield shown + "\n"
    if state == "named" and not held.isdigit():
        yield held + "\n"


def _csv(source: Source) -> Texts:
    rows = lines(decoded(source.pieces, source.encoding, source.name), source.name)
    return tables.of_column(rows, source.column, source.name, source.left_out)


def _jsonl(source: Source) -> Texts:
    rows = lines(decoded(source.pieces, source.encoding, source.name), source.name)
    return tables.of_field(rows, source.field, source.name, source.left_out)


def _packed(source: Source) -> Texts:
    return texts(source.inside("", archives.unpacked(source.pieces, source.name), is_same_file=True))


def _zip(source: Source) -> Texts:
    with archives.Zip(source.pieces, source.name) as archive:
        if "META-INF/container.xml" in archive:
            yield from _book(source, archive)
        elif "word/document.xml" in archive:
            _is_another(source, "docx")
            yield archives.word_text(archive)
        else:
            yield from _files(source, archive)


def _is_another(source: Source, name: str) -> None:
    source.found["zip"] -= 1
    source.found[name] += 1


def _book(source: Source, archive: archives.Zip) -> Texts:
    _is_another(source, "epub")

    def chapters() -> Iterator[str]:
        for number, path in enumerate(archives.chapters(archive)):
            head, pieces = peeked(archive.pieces(path))
            said = re.match(rb"\s*<\?xml[^>]*\bencoding\s*=\s*[\"']([\w.:-]+)", head)
            text = seen(decoded(pieces, _declared(said, "utf-8"), f"{source.name}/{path}"), f"{source.name}/{path}")
            begun = next(text, "")
            if number and begun:
                yield "\n"
            yield begun
            yield from text

    yield chapters()


def _files(source: Source, archive: archives.Zip) -> Texts:
    archive.refuse_other_documents()
    names = [name for name in archive.names if is_read(name, source.column, source.field)]
    others = set(archive.names) - set(names)
    if not names:
        raise UserError(f"{source.name}: no text in this archive{archives.not_read(others)}")
    for name in sorted(others):
        source.left_out[f"{suffix_of(name) or 'other'} files in archives"] += 1
    for name in names:
        yield from texts(source.inside(name, archive.pieces(name)))


def _pdf(source: Source) -> Texts:
    yield archives.pdf_text(source.pieces, source.name)


@dataclasses.dataclass(frozen=True)
class Format:
    """A row of the table: name, title, suffixes, a test of the first bytes, the reader, and what it leaves out.

    `needs` is the option without which a file with such a suffix is read as plain text.
    """

    name: str
    title: str
    suffixes: tuple[str, ...]
    begins: Callable[[bytes], bool] | None
    texts: Callable[[Source], Texts]
    left_out: str = ""
    is_archive: bool = False
    needs: str = ""


def _begins(pattern: bytes) -> Callable[[bytes], bool]:
    compiled = re.compile(pattern, re.DOTALL | re.IGNORECASE)
    return lambda head: compiled.match(head.removeprefix(b"\xef\xbb\xbf")) is not None


_ROWS = (
    Format("packed", "packed", (".gz", ".bz2", ".xz"), archives.is_packed, _packed, is_archive=True),
    Format("zip", "zip", (".zip",), _begins(rb"PK\x03\x04|PK\x05\x06"), _zip, is_archive=True),
    Format("epub", "EPUB", (".epub",), None, _zip, "tags, the table of contents and pictures", is_archive=True),
    Format("docx", "DOCX", (".docx",), None, _zip, "formats, notes, comments and pictures", is_archive=True),
    Format("pdf", "PDF", (".pdf",), _begins(rb"\s*%PDF-\d"), _pdf, "layout and pictures", is_archive=True),
    Format(
        "html", "HTML", (".html", ".htm", ".xhtml"),
        _begins(rb"\s*(<\?xml[^>]*>\s*)?(<!--.*?-->\s*)*(<!doctype\s+html|<html)\b"), _html, "tags, scripts and styles",
    ),
    Format(
        "subtitles", "subtitle", (".srt", ".vtt"),
        _begins(rb"\s*(WEBVTT\b|\d+\s*\r?\n\d\d:\d\d:\d\d,\d{3}\s+-->)"), _subtitles, "times, numbers and tags",
    ),
    Format("csv", "CSV", (".csv", ".tsv"), None, _csv, "the other columns", needs="column"),
    Format("jsonl", "JSONL", (".jsonl", ".ndjson"), None, _jsonl, "the other fields", needs="field"),
    Format("text", "plain text", (".txt", ".text"), None, _text),
)  # fmt: skip
FORMATS = {row.name: row for row in _ROWS}
