"""Bytes -> text: byte order marks, decoding in pieces, and what to say of bytes that are no text in an encoding."""

import codecs
import io
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from charlstm.errors import UserError

HEAD = 4096  #: bytes from which a file's kind is recognised
_AROUND = 2**15  # bytes before and after the first wrong one, from which an encoding is guessed
_SHOWN = 30  # characters of the text that the guess gives
_NEED_ALL = ("idna", "punycode", "undefined")  # codecs that cannot decode a text in pieces
_KINDS = 4  # of bytes beyond ASCII; fewer in Latin script tell of no language
_PATTERN = 32  # bytes from which NUL bytes are a pattern

#: Marks and what they say; that of UTF-32 begins with that of UTF-16.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_AS_IT_IS = "leave it out, or give --bytes, which reads any file as it is"
_UNPACK = "unpack it, and give the folder"
_SAVE_AS = "save it as .docx or as plain text"

#: Where a signature stands, the signature, what it is of, and the way out.
_NO_TEXT = (
    (0, b"\x89PNG\r\n", "a PNG image", _AS_IT_IS),
    (0, b"\xff\xd8\xff", "a JPEG image", _AS_IT_IS),
    (0, b"GIF8", "a GIF image", _AS_IT_IS),
    (0, b"II*\0", "a TIFF image", _AS_IT_IS),
    (0, b"MM\0*", "a TIFF image", _AS_IT_IS),
    (0, b"BM", "a BMP image", _AS_IT_IS),
    (0, b"RIFF", "a sound, a film or an image", _AS_IT_IS),
    (0, b"OggS", "a sound or a film", _AS_IT_IS),
    (0, b"ID3", "a sound", _AS_IT_IS),
    (4, b"ftyp", "a film, a sound or an image", _AS_IT_IS),
    (0, b"\x7fELF", "an executable", _AS_IT_IS),
    (0, b"MZ", "an executable", _AS_IT_IS),
    (0, b"\xcf\xfa\xed\xfe", "an executable", _AS_IT_IS),
    (0, b"\xca\xfe\xba\xbe", "an executable", _AS_IT_IS),
    (0, b"SQLite format 3\0", "an SQLite database", _AS_IT_IS),
    (0, b"PAR1", "a Parquet file", "export it as CSV or JSONL"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old document of Word, Excel or PowerPoint", _SAVE_AS),
    (0, b"{\\rtf", "an RTF document", _SAVE_AS),
    (0, b"%!PS", "a PostScript document", "convert it to plain text"),
    (60, b"BOOKMOBI", "a Kindle book", "convert it to EPUB"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a file packed by Zstandard", "unpack it"),
    (0, b"\x04\x22\x4d\x18", "a file packed by LZ4", "unpack it"),
)
_PLAIN_SIGNATURES = (b"{\\rtf", b"%!PS")  # which tell such a document from a text without any odd byte


def peeked(pieces: Iterable[bytes], size: int = HEAD) -> tuple[bytes, Iterator[bytes]]:
    """The first bytes, `size` of them if there are as many, and all pieces, cut where they were."""
    pieces, first, length = iter(pieces), [], 0
    for piece in pieces:
        first.append(piece)
        length += len(piece)
        if length >= size:
            break
    return b"".join(first)[:size], chain(first, pieces)


def marked(head: bytes) -> str | None:
    """The encoding that a byte order mark tells of, if the text has one."""
    return next((name for mark, name in MARKS if head.startswith(mark)), None)


def normalised(text: str) -> str:
    """A text as a file of it is read: without a byte order mark before it, its lines ending in line feeds."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def decoded(pieces: Iterable[bytes], encoding: str, name: str) -> Iterator[str]:
    """The text, in pieces, as :func:`normalised`, in the encoding that its byte order mark tells of, if it has one.

    Raises
    ------
    UserError
        For an encoding that there is not, and bytes that are no text in it: what they are, as far as one can see.
    """
    head, pieces = peeked(pieces)
    encoding = marked(head) or encoding
    decoder = io.IncrementalNewlineDecoder(_decoder(encoding, head), translate=True)
    total, has_begun, recent = 0, False, b""
    for piece in chain(filter(None, pieces), [b""]):
        total += len(piece)
        recent = recent[-_AROUND:] + piece
        try:
            text = decoder.decode(piece, final=not piece)
        except UnicodeDecodeError as error:
            at = total - len(error.object) + error.start
            place = at - (total - len(recent))
            around = recent[max(0, place - _AROUND) : place + _AROUND]
            raise UserError(
                f"{name}: byte {at} is not {encoding} ({error.reason}): {_way_out(head, around, encoding)}"
            ) from None
        except UnicodeError as error:
            raise UserError(f"{name}: cannot be read as {encoding}: {error}") from None
        if text:
            yield text if has_begun else text.removeprefix("\ufeff")
            has_begun = True


def refuse_no_text(head: bytes, encoding: str, name: str) -> None:
    """Raise UserError for what begins as no text does, or as one in another encoding, though it could be decoded."""
    if marked(head):
        return
    if found := _kind(head):
        what, way_out = found
        raise UserError(f"{name}: {what}, which is no text: {way_out}")
    if codecs.lookup(_known(encoding)).name == "utf-8" and (wide := _wide(head)):
        raise UserError(f"{name}: looks like {wide}, without a byte order mark: --encoding {wide} reads it")


def _way_out(head: bytes, around: bytes, encoding: str) -> str:
    """What to do about bytes that are no text in the encoding."""
    if wide := _wide(head):
        return f"looks like {wide}: give --encoding {wide}"
    if _is_odd(around):
        return f"looks like no text: {_AS_IT_IS}"
    begin = _first_odd(around)
    readings = []
    for guess in _guesses(around):
        shown = " ".join(around[begin:].decode(guess, "replace").split())[:_SHOWN]
        if codecs.lookup(guess) != codecs.lookup(encoding):
            readings.append(f"--encoding {guess} reads {shown!r}")
    return ", ".join(readings) or "give the file's own encoding with --encoding; --bytes reads it as it is"


def _guesses(sample: bytes) -> list[str]:
    """The likeliest legacy encodings of a text, under the names that Python knows them by; the likelier one first.

    Where few letters are beyond ASCII the script is Latin, of which a library cannot tell the many encodings apart:
    Windows-1252 is the commonest, and the only one of the two Western ones in which bytes 80 to 9F are signs.
    """
    from charset_normalizer import from_bytes

    best = [match.encoding for match in from_bytes(sample)][:2]
    found = [name.replace("_", "-") for name in best if name != "ascii" and not name.startswith("utf")]
    odd, plain = len(re.findall(rb"[\x80-\xff]", sample)), len(re.findall(rb"[A-Za-z]", sample))
    if found and odd > plain / 2:
        return found
    try:
        sample.decode("cp1252")
    except UnicodeDecodeError:
        return found
    western = "cp1252" if re.search(rb"[\x80-\x9f]", sample) else "latin-1"
    if len(set(re.findall(rb"[\x80-\xff]", sample))) < _KINDS:
        return [western]
    return [western, *(each for each in found[:1] if sample.decode(each) != sample.decode(western))]


def _first_odd(sample: bytes) -> int:
    found = re.search(rb"[\x80-\xff]", sample)
    return max(0, found.start() - 5) if found else 0


def _kind(head: bytes) -> tuple[str, str] | None:
    """What kind of file it is, if it is known and no text, and the way out."""
    for at, signature, what, way_out in _NO_TEXT:
        if head.startswith(signature, at) and (signature in _PLAIN_SIGNATURES or _is_binary(head)):
            return what, way_out
    return None


def _is_binary(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # a character may be cut off at the end
    except UnicodeDecodeError:
        return True
    return b"\0" in head


def _is_odd(sample: bytes) -> bool:
    """Whether no legacy encoding of a text has such bytes: control characters among them."""
    odd = len(re.findall(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", sample))
    return b"\0" in sample or odd > len(sample) / 50


def _wide(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a mark, by where the NUL bytes of common letters are."""
    for name, step, place in (("utf-32-le", 4, 0), ("utf-32-be", 4, 3), ("utf-16-le", 2, 0), ("utf-16-be", 2, 1)):
        whole = head[: len(head) // step * step]
        letters, others = whole[place::step], [whole[k::step] for k in range(step) if k != place]
        if len(whole) < _PATTERN or letters.count(0) > len(letters) / 10:
            continue
        if all(each.count(0) > 0.8 * len(each) for each in others):
            return name
    return None


class _AtOnce(codecs.BufferedIncrementalDecoder):
    """Decodes nothing before it has all."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self.encoding = encoding

    def _buffer_decode(self, input: Any, errors: str, final: bool) -> tuple[str, int]:
        return (bytes(input).decode(self.encoding), len(input)) if final else ("", 0)


def _known(encoding: str) -> str:
    """The encoding, if Python knows it."""
    try:
        codec = codecs.lookup(encoding)
    except (LookupError, ValueError):  # the latter for a name that cannot be one
        codec = None
    if codec is None or not getattr(codec, "_is_text_encoding", True):
        raise UserError(f"--encoding: Python knows no encoding {encoding!r}")
    return encoding


def _decoder(encoding: str, begin: bytes) -> codecs.IncrementalDecoder:
    """What decodes a text that begins with these bytes."""
    codec = codecs.lookup(_known(encoding))
    name = codec.name
    if name in _NEED_ALL or codec.incrementaldecoder is None:
        return _AtOnce(encoding)
    if name in ("utf-16", "utf-32") and marked(begin) is None:  # the bytes are in this machine's order
        return codecs.getincrementaldecoder(f"{name}-{sys.byteorder[0]}e")()
    return codec.incrementaldecoder()
