"""Reads compressed files (gzip, bzip2, xz), zip archives, the documents that are zip files (EPUB, DOCX), and PDF.

Everything is read in pieces. A file that unpacks to far more than its own size is refused, and nothing is ever written
under a name that stands in an archive.
"""

import posixpath
import tempfile
import zipfile
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import PurePosixPath
from types import TracebackType
from typing import IO, Any
from urllib.parse import unquote

from charlstm.errors import UserError
from charlstm.text.encodings import peeked
from charlstm.text.markup import parse_xml

PIECE = 2**20  #: bytes unpacked at a time
ALWAYS, TIMES = 2**26, 200  #: bytes that any archive may unpack to; a larger one may unpack to TIMES its size
_IN_MEMORY = 2**23  # bytes held in memory of a file that needs random access; a larger one goes to a temporary file
_MOST_MEMORY = 2**28  # memory limit of the xz decompressor, in bytes
_DIRECTORY = 2**24  # limit of a zip file's directory, in bytes: about 200,000 files
_LIST = 2**22  # limit of a file that lists a book's chapters, in bytes
_GZIP, _BZIP2, _XZ = b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0"
_CUT = "damaged, or cut short"


class _Room:
    """Counts unpacked bytes and refuses too many."""

    def __init__(self, name: str, packed: int = 0) -> None:
        self.name, self.packed, self.unpacked = name, packed, 0

    def take(self, piece: bytes) -> bytes:
        """Count a piece and return it."""
        self.unpacked += len(piece)
        if self.unpacked > max(ALWAYS, TIMES * self.packed):
            raise UserError(
                f"{self.name}: unpacks to more than {TIMES} times its size, as text never does; if it is text, unpack "
                "it and give the file"
            )
        return piece


# ------------------------------------------------------------------------------------------------------------- packed
def is_packed(head: bytes) -> bool:
    """Whether a file with these first bytes is compressed by gzip, bzip2 or xz."""
    return head.startswith((_GZIP, _XZ)) or (head.startswith(_BZIP2) and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"))


def unpacked(pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
    """Decompress gzip, bzip2 or xz, in pieces; the file may hold several compressed streams in a row.

    Raises
    ------
    UserError
            If the file is damaged or unpacks to far more than its size.
    """
    head, pieces = peeked(pieces)
    room, unpacker, is_whole = _Room(name), _unpacker(head), False
    try:
        for piece in pieces:
            room.packed += len(piece)
            left = piece
            while left or not unpacker.needs_input:
                if unpacker.eof:
                    left = left.lstrip(b"\0")  # some tools pad the end with zero bytes
                    if not left:
                        break
                    unpacker = _unpacker(head)
                if content := unpacker.decompress(left, PIECE):
                    yield room.take(content)
                left = unpacker.unused_data if unpacker.eof else b""
            is_whole = unpacker.eof
    except UserError:
        raise
    except (OSError, EOFError, ValueError, zlib.error, _lzma_error()) as error:
        raise UserError(f"{name}: {_CUT}: {error}") from None
    if not is_whole:
        raise UserError(f"{name}: {_CUT}")


def _lzma_error() -> type[Exception]:
    import lzma

    return lzma.LZMAError


class _Gzip:
    """Zlib's gzip decompressor with the interface of the decompressors of bz2 and lzma."""

    def __init__(self) -> None:
        self._zlib = zlib.decompressobj(wbits=31)

    def decompress(self, data: bytes, max_length: int) -> bytes:
        return self._zlib.decompress(self._zlib.unconsumed_tail + data, max_length)

    @property
    def eof(self) -> bool:
        return self._zlib.eof

    @property
    def needs_input(self) -> bool:
        return not self._zlib.unconsumed_tail

    @property
    def unused_data(self) -> bytes:
        return self._zlib.unused_data


def _unpacker(head: bytes) -> Any:
    import bz2
    import lzma

    if head.startswith(_BZIP2):
        return bz2.BZ2Decompressor()
    if head.startswith(_XZ):
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, _MOST_MEMORY)
    return _Gzip()


# ---------------------------------------------------------------------------------------------------------------- zip
class Zip:
    """A zip file whose members are read in pieces.

    Parameters
    ----------
    pieces : the archive's bytes; they go to a temporary file first, since a zip file is read from its end
    name : the archive's name in messages
    """

    def __init__(self, pieces: Iterable[bytes], name: str) -> None:
        self.name = name
        self._file = _laid_down(pieces, name)
        self._room = _Room(name, self._file.seek(0, 2))
        try:
            if _directory_size(self._file) > _DIRECTORY:
                raise UserError(f"{name}: has too many files for an archive: unpack it, and give the folder")
            self._zip = zipfile.ZipFile(self._file)
        except (zipfile.BadZipFile, NotImplementedError, ValueError, EOFError) as error:
            self._file.close()
            if isinstance(error, UserError):
                raise
            raise UserError(f"{name}: {_CUT}: {error}") from None
        self._files = {info.filename: info for info in self._zip.infolist() if not info.is_dir()}

    def __enter__(self) -> "Zip":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._zip.close()
        self._file.close()

    def __contains__(self, path: str) -> bool:
        return path in self._files

    @property
    def names(self) -> list[str]:
        """The names of its files, sorted, without those that macOS adds."""
        return sorted(name for name in self._files if not _is_of_macos(name))

    def pieces(self, path: str) -> Iterator[bytes]:
        """Yield the bytes of one of its files."""
        if path not in self._files:
            raise UserError(f"{self.name}: damaged: {path} is missing")
        info = self._files[path]
        if info.flag_bits & 1:
            raise UserError(f"{self.name}: {path} is encrypted: unpack it, and give the folder")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f"{self.name}: {path} uses a compression other than deflate: unpack it, and give the folder"
            )
        try:
            with self._zip.open(info) as file:
                while piece := file.read(PIECE):
                    yield self._room.take(piece)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise UserError(f"{self.name}: {path}: {_CUT}: {error}") from None

    def refuse_other_documents(self) -> None:
        """Raise UserError if the zip file is a document of a kind that is not supported."""
        for path, what, way_out in (
            ("xl/workbook.xml", "an Excel workbook", "save it as CSV"),
            ("ppt/presentation.xml", "a PowerPoint presentation", "save it as plain text"),
            ("content.xml", "an OpenDocument file", "save it as .docx or as plain text"),
        ):
            if path in self:
                raise UserError(f"{self.name}: {what}: {way_out}")


def _directory_size(file: IO[bytes]) -> int:
    """The size in bytes of a zip file's directory, which `zipfile` reads at once; 0 if this is no zip file.

    Source: PKWARE's APPNOTE 6.3, 4.3.14 to 4.3.16.
    """
    begin = max(0, file.seek(0, 2) - 2**16 - 100)
    file.seek(begin)
    end = file.read()
    at, wide = end.rfind(b"PK\5\6"), end.rfind(b"PK\6\6")
    if at < 0:
        return 0
    size = int.from_bytes(end[at + 12 : at + 16], "little")
    return max(
        size if size < 2**32 - 1 else 0, int.from_bytes(end[wide + 40 : wide + 48], "little") if wide >= 0 else 0
    )


def _is_of_macos(name: str) -> bool:
    return name.startswith("__MACOSX/") or PurePosixPath(name).name.startswith("._")


def not_read(names: Iterable[str]) -> str:
    """The part of a message that lists files not read: `; not read: 3 .png, 1 .md`; empty if there are none."""
    kinds = Counter(PurePosixPath(name).suffix.lower() or "without an ending" for name in names)
    told = [f"{count:,} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))]
    more = f" and {len(told) - 6} more kinds" if len(told) > 6 else ""
    return f"; not read: {', '.join(told[:6])}{more}" if told else ""


def _laid_down(pieces: Iterable[bytes], name: str) -> IO[bytes]:
    """An anonymous temporary file with these bytes."""
    file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 # the caller closes it
    try:
        for piece in pieces:
            file.write(piece)
    except BaseException as error:
        file.close()
        if isinstance(error, OSError):
            reason = error.strerror or error
            raise UserError(f"{name}: {tempfile.gettempdir()}: cannot be written: {reason}") from None
        raise
    return file


# ---------------------------------------------------------------------------------------------------------- documents
def chapters(archive: Zip) -> list[str]:
    """The file names of an EPUB's chapters, in reading order.

    Source: EPUB Open Container Format 3, container.xml; EPUB Packages 3, manifest and spine.
    """
    paths = [found["full-path"] for tag, found in _elements(archive, "META-INF/container.xml") if tag == "rootfile"]
    if not paths:
        raise UserError(f"{archive.name}: damaged: its container.xml names no book")
    items: dict[str, dict[str, str]] = {}
    spine = []
    for tag, found in _elements(archive, paths[0]):
        if tag == "item":
            items[found.get("id", "")] = found
        elif tag == "itemref" and found.get("linear") != "no":
            spine.append(found.get("idref", ""))
    found_in_order = [items[name] for name in spine if name in items]
    folder = posixpath.dirname(paths[0])
    files = [
        posixpath.normpath(posixpath.join(folder, unquote(item.get("href", "").partition("#")[0])))
        for item in found_in_order
        if "html" in item.get("media-type", "") and "nav" not in item.get("properties", "").split()
    ]
    if not files:
        raise UserError(f"{archive.name}: damaged: it lists no chapters")
    locks = "META-INF/encryption.xml"
    if locks in archive:
        hidden = {unquote(found.get("URI", "")) for tag, found in _elements(archive, locks) if tag == "CipherReference"}
        if hidden & set(files):
            raise UserError(f"{archive.name}: its chapters are encrypted: only the seller's software can read it")
    return files


def _elements(archive: Zip, path: str) -> list[tuple[str, dict[str, str]]]:
    """Tag names, without namespaces, and attributes of all elements of a short XML file."""
    found: list[tuple[str, dict[str, str]]] = []
    size = 0

    def short() -> Iterator[bytes]:
        nonlocal size
        for piece in archive.pieces(path):
            size += len(piece)
            if size > _LIST:
                raise UserError(f"{archive.name}: {path} has more than {_LIST:,} bytes, too many: not read")
            yield piece

    def start(tag: str, attributes: dict[str, str]) -> None:
        found.append((_bare(tag), {_bare(name): value for name, value in attributes.items()}))

    for _ in parse_xml(short(), f"{archive.name}/{path}", start):
        pass
    return found


def _bare(name: str) -> str:
    return name.rpartition(" ")[2]


_WORD = (
    "http://schemas.openxmlformats.org/wordprocessingml/2006/main",
    "http://purl.oclc.org/ooxml/wordprocessingml/main",
)
_MARKS = {"tab": "\t", "br": "\n", "cr": "\n", "noBreakHyphen": "-"}


def word_text(archive: Zip) -> Iterator[str]:
    """Yield the paragraphs of a DOCX document, each ending in a line feed; deleted text and notes are left out.

    Source: ECMA-376, part 1, 17.3.
    """
    out: list[str] = []
    inside: Counter[str] = Counter()  # the open ones of w:t, w:pPr, and Fallback (a second copy for old programs)

    def name_of(tag: str) -> str:
        namespace, _, name = tag.rpartition(" ")
        return name if namespace in _WORD else "Fallback" if name == "Fallback" else ""

    def start(tag: str, _: dict[str, str]) -> None:
        name = name_of(tag)
        inside[name] += name in ("t", "pPr", "Fallback")
        if name in _MARKS and not inside["Fallback"] and not inside["pPr"]:
            out.append(_MARKS[name])

    def end(tag: str) -> None:
        name = name_of(tag)
        inside[name] -= name in ("t", "pPr", "Fallback")
        if name == "p" and not inside["Fallback"]:
            out.append("\n")

    def data(text: str) -> None:
        if inside["t"] and not inside["Fallback"]:
            out.append(text)

    path = "word/document.xml"
    for _ in parse_xml(archive.pieces(path), f"{archive.name}/{path}", start, end, data):
        yield "".join(out)
        out.clear()


def pdf_text(pieces: Iterable[bytes], name: str) -> Iterator[str]:
    """Yield the text of a PDF, page by page, as pypdf extracts it.

    Raises
    ------
    UserError
            If pypdf is not installed, or the document cannot be read or holds no text.
    """
    try:
        import pypdf
    except ImportError:
        raise UserError(f"{name}: reading PDF needs a library: pip install 'charlstm[texts]'") from None
    import logging

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # real errors come as exceptions
    room, has_text = _Room(name), False
    with _laid_down(pieces, name) as file:
        room.packed = file.seek(0, 2)
        try:
            reader = pypdf.PdfReader(file)
            if reader.is_encrypted and not reader.decrypt(""):
                raise UserError(f"{name}: is encrypted: save it without a password")
            for page in reader.pages:
                text = page.extract_text().rstrip() + "\n"
                room.take(text.encode("utf-8", "replace"))
                has_text = has_text or not text.isspace()
                yield text
        except UserError:
            raise
        except Exception as error:  # pypdf raises many kinds
            raise UserError(f"{name}: damaged, or unreadable by pypdf: {error or type(error).__name__}") from None
    if not has_text:
        raise UserError(f"{name}: holds no text; if its pages are images, run OCR on it first")
