"""Decodes bytes to text: byte order marks, decoding in pieces, and advice for bytes that are not valid text."""

import codecs
import io
import re
import sys
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from charlstm.errors import UserError

HEAD = 4096  #: number of first bytes from which a file's kind is recognised
_AROUND = 2**15  # bytes before and after the first invalid one from which an encoding is guessed
_SHOWN = 30  # characters shown of the text that a guess gives
_NEED_ALL = ("idna", "punycode", "undefined")  # codecs that cannot decode in pieces
_KINDS = 4  # distinct non-ASCII bytes needed to guess a language; fewer in Latin script say nothing
_PATTERN = 32  # bytes needed before NUL bytes count as a pattern

#: Byte order marks and their encodings; the mark of UTF-32 begins with that of UTF-16, so it comes first.
MARKS = (
    (codecs.BOM_UTF32_LE, "utf-32"), (codecs.BOM_UTF32_BE, "utf-32"), (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"),
)  # fmt: skip
_AS_IT_IS = "leave it out, or give --bytes, which reads any file as it is"
_UNPACK = "unpack it, and give the folder"
_SAVE_AS = "save it as .docx or as plain text"

#: Offset of a signature, the signature, the kind of file, and what to do instead.
_NO_TEXT = (
    (0, b"\x89PNG\r\n", "a PNG image", _AS_IT_IS),
    (0, b"\xff\xd8\xff", "a JPEG image", _AS_IT_IS),
    (0, b"GIF8", "a GIF image", _AS_IT_IS),
    (0, b"II*\0", "a TIFF image", _AS_IT_IS),
    (0, b"MM\0*", "a TIFF image", _AS_IT_IS),
    (0, b"BM", "a BMP image", _AS_IT_IS),
    (0, b"RIFF", "an audio, video or image file", _AS_IT_IS),
    (0, b"OggS", "an audio or video file", _AS_IT_IS),
    (0, b"ID3", "an audio file", _AS_IT_IS),
    (4, b"ftyp", "a video, audio or image file", _AS_IT_IS),
    (0, b"\x7fELF", "an executable", _AS_IT_IS),
    (0, b"MZ", "an executable", _AS_IT_IS),
    (0, b"\xcf\xfa\xed\xfe", "an executable", _AS_IT_IS),
    (0, b"\xca\xfe\xba\xbe", "an executable", _AS_IT_IS),
    (0, b"SQLite format 3\0", "an SQLite database", _AS_IT_IS),
    (0, b"PAR1", "a Parquet file", "export it as CSV or JSONL"),
    (0, b"\xd0\xcf\x11\xe0\xa1\xb1\x1a\xe1", "an old Word, Excel or PowerPoint document", _SAVE_AS),
    (0, b"{\\rtf", "an RTF document", _SAVE_AS),
    (0, b"%!PS", "a PostScript document", "convert it to plain text"),
    (60, b"BOOKMOBI", "a Kindle book", "convert it to EPUB"),
    (0, b"7z\xbc\xaf\x27\x1c", "a 7-Zip archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "a RAR archive", _UNPACK),
    (257, b"ustar", "a tar archive", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "a Zstandard-compressed file", "unpack it"),
    (0, b"\x04\x22\x4d\x18", "an LZ4-compressed file", "unpack it"),
)
_PLAIN_SIGNATURES = (b"{\\rtf", b"%!PS")  # such files may otherwise be all ASCII


def peeked(pieces: Iterable[bytes], size: int = HEAD) -> tuple[bytes, Iterator[bytes]]:
    """The first `size` bytes, or all if there are fewer, and an iterator over all pieces, unchanged."""
    pieces, first, length = iter(pieces), [], 0
    for piece in pieces:
        first.append(piece)
        length += len(piece)
        if length >= size:
            break
    return b"".join(first)[:size], chain(first, pieces)


def marked(head: bytes) -> str | None:
    """The encoding that the text's byte order mark names, or None."""
    return next((name for mark, name in MARKS if head.startswith(mark)), None)


def normalised(text: str) -> str:
    """The text without a byte order mark, its lines ending in line feeds, as reading it from a file would give."""
    return text.removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")


def decoded(pieces: Iterable[bytes], encoding: str, name: str) -> Iterator[str]:
    """Decode a text in pieces, :func:`normalised`; a byte order mark overrides `encoding`.

    Raises
    ------
    UserError
        For an unknown encoding, or bytes that are not valid in it; the message suggests what they are.
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
    """Raise UserError if a file that could be decoded starts like a binary file or like text in another encoding."""
    if marked(head):
        return
    if found := _kind(head):
        what, way_out = found
        raise UserError(f"{name}: {what}, not text: {way_out}")
    if codecs.lookup(_known(encoding)).name == "utf-8" and (wide := _wide(head)):
        raise UserError(f"{name}: looks like {wide}, without a byte order mark: --encoding {wide} reads it")


def _way_out(head: bytes, around: bytes, encoding: str) -> str:
    """What to do about bytes that are not valid in the encoding."""
    if wide := _wide(head):
        return f"looks like {wide}: give --encoding {wide}"
    if _is_odd(around):
        return f"does not look like text: {_AS_IT_IS}"
    begin = _first_odd(around)
    readings = []
    for guess in _guesses(around):
        shown = " ".join(around[begin:].decode(guess, "replace").split())[:_SHOWN]
        if codecs.lookup(guess) != codecs.lookup(encoding):
            readings.append(f"--encoding {guess} reads {shown!r}")
    return ", ".join(readings) or "give the file's own encoding with --encoding; --bytes reads it as it is"


def _guesses(sample: bytes) -> list[str]:
    """The most likely legacy encodings of a text, most likely first, under Python's names.

    If few letters are beyond ASCII, the script is Latin, and a library cannot tell its many encodings apart. Then
    Windows-1252 is the best guess: the most common, and of the two Western ones the only one with printable 80 to 9F.
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
    """The kind of a file recognised as something other than text, and what to do instead; else None."""
    for at, signature, what, way_out in _NO_TEXT:
        if head.startswith(signature, at) and (signature in _PLAIN_SIGNATURES or _is_binary(head)):
            return what, way_out
    return None


def _is_binary(head: bytes) -> bool:
    try:
        codecs.getincrementaldecoder("utf-8")().decode(head)  # the end may cut a character in two
    except UnicodeDecodeError:
        return True
    return b"\0" in head


def _is_odd(sample: bytes) -> bool:
    """Whether the bytes, with their control characters, occur in no legacy text encoding."""
    odd = len(re.findall(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f\x7f]", sample))
    return b"\0" in sample or odd > len(sample) / 50


def _wide(head: bytes) -> str | None:
    """UTF-16 or UTF-32 without a byte order mark, recognised by the NUL bytes of common letters; else None."""
    for name, step, place in (("utf-32-le", 4, 0), ("utf-32-be", 4, 3), ("utf-16-le", 2, 0), ("utf-16-be", 2, 1)):
        whole = head[: len(head) // step * step]
        letters, others = whole[place::step], [whole[k::step] for k in range(step) if k != place]
        if len(whole) < _PATTERN or letters.count(0) > len(letters) / 10:
            continue
        if all(each.count(0) > 0.8 * len(each) for each in others):
            return name
    return None


class _AtOnce(codecs.BufferedIncrementalDecoder):
    """Collects all input and decodes it at the end."""

    def __init__(self, encoding: str) -> None:
        super().__init__()
        self.encoding = encoding

    def _buffer_decode(self, input: Any, errors: str, final: bool) -> tuple[str, int]:
        return (bytes(input).decode(self.encoding), len(input)) if final else ("", 0)


def _known(encoding: str) -> str:
    """Python's name of the encoding. Raises UserError if there is none."""
    try:
        codec = codecs.lookup(encoding)
    except (LookupError, ValueError):  # ValueError: the name contains NUL
        codec = None
    if codec is None or not getattr(codec, "_is_text_encoding", True):
        raise UserError(f"--encoding: Python knows no encoding {encoding!r}")
    return encoding


def _decoder(encoding: str, begin: bytes) -> codecs.IncrementalDecoder:
    """A decoder for a text that begins with these bytes."""
    codec = codecs.lookup(_known(encoding))
    name = codec.name
    if name in _NEED_ALL or codec.incrementaldecoder is None:
        return _AtOnce(encoding)
    if name in ("utf-16", "utf-32") and marked(begin) is None:  # no mark: assume this machine's byte order
        return codecs.getincrementaldecoder(f"{name}-{sys.byteorder[0]}e")()
    return codec.incrementaldecoder()
