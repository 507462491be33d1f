"""Files that hold others, packed: gzip, bzip2, xz, zip, and the documents that are zip files; and PDF.

All of it is read in pieces. What unpacks to far more than it is, is refused, and no name in it is written to.
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
ALWAYS, TIMES = 2**26, 200  #: bytes that any archive may unpack to, and how many times its size a larger one may
_IN_MEMORY = 2**23  # bytes of a file that is read from more than one place, and then lies in a temporary file
_MOST_MEMORY = 2**28  # bytes that the dictionary of xz may take
_DIRECTORY = 2**24  # bytes of the list of the files in a zip file: some 200,000 of them
_LIST = 2**22  # bytes of the list of a book's chapters
_GZIP, _BZIP2, _XZ = b"\x1f\x8b\x08", b"BZh", b"\xfd7zXZ\0"
_CUT = "damaged, or cut short"


class _Room:
    """Counts what is unpacked; too much of it is refused."""

    def __init__(self, name: str, packed: int = 0) -> None:
        self.name, self.packed, self.unpacked = name, packed, 0

    def take(self, piece: bytes) -> bytes:
        """Count a piece, and return it."""
        self.unpacked += len(piece)
        if self.unpacked > max(ALWAYS, TIMES * self.packed):
            raise UserError(
                f"{self.name}: unpacks to more than {TIMES} times its size, as no text does; if it is one, unpack it "
                "and give the file"
            )
        return piece


# ------------------------------------------------------------------------------------------------------------- packed
def is_packed(head: bytes) -> bool:
    """Whether this is the begin of a file packed by gzip, bzip2 or xz."""
    return head.startswith((_GZIP, _XZ)) or (head.startswith(_BZIP2) and head[4:10] in (b"1AY&SY", b"\x17rE8P\x90"))


def unpacked(pieces: Iterable[bytes], name: str) -> Iterator[bytes]:
    """The bytes that were packed by gzip, bzip2 or xz, in pieces; several such files may follow each other.

    Raises
    ------
    UserError
        For a file that is damaged, or unpacks to far more than it is.
    """
    head, pieces = peeked(pieces)
    room, unpacker, is_whole = _Room(name), _unpacker(head), False
    try:
        for piece in pieces:
            room.packed += len(piece)
            left = piece
            while left or not unpacker.needs_input:
                if unpacker.eof:
                    left = left.lstrip(b"\0")  # which some tools add at the end
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
    """Zlib's decompressor for gzip, with the methods of those of bz2 and lzma."""

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
    """A zip file, whose files are read in pieces.

    Parameters
    ----------
    pieces : its bytes, which are laid into a temporary file, as it is read from its end
    name : for messages
    """

    def __init__(self, pieces: Iterable[bytes], name: str) -> None:
        self.name = name
        self._file = _laid_down(pieces, name)
        self._room = _Room(name, self._file.seek(0, 2))
        try:
            if _directory_size(self._file) > _DIRECTORY:
                raise UserError(f"{name}: has more files than are read from an archive: unpack it, and give the folder")
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
        """The files in it, sorted, without those that macOS adds."""
        return sorted(name for name in self._files if not _is_of_macos(name))

    def pieces(self, path: str) -> Iterator[bytes]:
        """The bytes of one of its files."""
        if path not in self._files:
            raise UserError(f"{self.name}: damaged: {path} is missing")
        info = self._files[path]
        if info.flag_bits & 1:
            raise UserError(f"{self.name}: {path} is encrypted: unpack it, and give the folder")
        if info.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
            raise UserError(
                f"{self.name}: {path} is packed in a way other than deflate: unpack it, and give the folder"
            )
        try:
            with self._zip.open(info) as file:
                while piece := file.read(PIECE):
                    yield self._room.take(piece)
        except (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError) as error:
            raise UserError(f"{self.name}: {path}: {_CUT}: {error}") from None

    def refuse_other_documents(self) -> None:
        """Raise UserError for documents that are zip files, and that are not read."""
        for path, what, way_out in (
            ("xl/workbook.xml", "an Excel workbook", "save it as CSV"),
            ("ppt/presentation.xml", "a PowerPoint presentation", "save it as plain text"),
            ("content.xml", "an OpenDocument file", "save it as .docx or as plain text"),
        ):
            if path in self:
                raise UserError(f"{self.name}: {what}: {way_out}")


def _directory_size(file: IO[bytes]) -> int:
    """The bytes of a zip file's list of files, which `zipfile` reads at once; 0 for what is no zip file.

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
    """What to say of files that are not read: `; not read: 3 .png, 1 .md`; nothing if there are none."""
    kinds = Counter(PurePosixPath(name).suffix.lower() or "without an ending" for name in names)
    told = [f"{count:,} {kind}" for kind, count in sorted(kinds.items(), key=lambda item: (-item[1], item[0]))]
    more = f" and {len(told) - 6} more kinds" if len(told) > 6 else ""
    return f"; not read: {', '.join(told[:6])}{more}" if told else ""


def _laid_down(pieces: Iterable[bytes], name: str) -> IO[bytes]:
    """A temporary file without a name, with these bytes."""
    file: IO[bytes] = tempfile.SpooledTemporaryFile(_IN_MEMORY)  # noqa: SIM115 # its user closes it
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
    """The files of an EPUB's chapters, in the order of reading.

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
            raise UserError(f"{archive.name}: its chapters are encrypted: only the seller's programs read it")
    return files


def _elements(archive: Zip, path: str) -> list[tuple[str, dict[str, str]]]:
    """Names, without namespaces, and attributes of all elements of a short XML file."""
    found: list[tuple[str, dict[str, str]]] = []
    size = 0

    def short() -> Iterator[bytes]:
        nonlocal size
        for piece in archive.pieces(path):
            size += len(piece)
            if size > _LIST:
                raise UserError(f"{archive.name}: {path} has more than {_LIST:,} bytes: it is not read")
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
    """The paragraphs of a DOCX document, each with a line feed, in pieces; not what was deleted, nor notes.

    Source: ECMA-376, part 1, 17.3.
    """
    out: list[str] = []
    inside: Counter[str] = Counter()  # the elements that decide: w:t, and the older form of what is there twice

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
    """The text of a PDF, page by page, as pypdf finds it.

    Raises
    ------
    UserError
        Where pypdf is not installed, and for a document that it cannot read, or that holds no text.
    """
    try:
        import pypdf
    except ImportError:
        raise UserError(f"{name}: reading PDF takes a library: pip install 'charlstm[texts]'") from None
    import logging

    logging.getLogger("pypdf").setLevel(logging.CRITICAL)  # what matters comes as an exception
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
        except Exception as error:  # pypdf lets many kinds through
            raise UserError(f"{name}: damaged, or no PDF that pypdf reads: {error or type(error).__name__}") from None
    if not has_text:
        raise UserError(f"{name}: holds no text, only pictures of it: a program for OCR makes text of them")
