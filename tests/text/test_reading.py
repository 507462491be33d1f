"""Reading in pieces gives what decoding the whole text gives, wherever the pieces are cut."""

import codecs
import os
import re
import sys
import threading

import pytest
from conftest import made_up_text
from hypothesis import given, settings
from hypothesis import strategies as st
from texts import digest_of, names

from charlstm.errors import UserError
from charlstm.text import corpus, encodings, reading
from charlstm.text.corpus import Corpus
from charlstm.text.reading import Joined, lowered

SETTINGS = settings(derandomize=True, max_examples=60, deadline=None, database=None)
PIECES = (1, 2, 3, 7, 64)
SIGMAS = "\u03a3\u03c3a.'\u0301\u0345\u02b0 \n\u0130\u1e9e\ud800A"


def read_whole(content, encoding, lower=False, separator="\n"):
    """The text as corpus.load read whole files; a byte order mark overrides the option."""
    said = [
        next(encoding for mark, encoding in [*encodings.MARKS, (b"", encoding)] if each.startswith(mark))
        for each in content
    ]
    texts = [
        each.decode(name).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n")
        for each, name in zip(content, said, strict=True)
    ]
    ended = [text if text.endswith(separator) else text + separator for text in texts[:-1]]
    text = "".join(ended) + texts[-1]
    return text.lower() if lower else text


def outcome(read):
    try:
        return read()
    except (UserError, UnicodeError) as error:
        return type(error)


ENCODED = [
    ("utf-8", "a\r\nb\rc\n\r\né→\U0001f600\r"),
    ("utf-8", "\ufeff\ufeffa\r\n"),
    ("utf-8-sig", "\ufeffa→\r\nb"),
    ("utf-8", "\ufeff"),
    ("utf-16", "a→\U0001f600\r\nb"),
    ("utf-16-le", "\ufeffa→\U0001f600\r\nb"),
    ("utf-16-be", "a→\U0001f600\r\nb"),
    ("utf-32", "a→\U0001f600\r\nb"),
    ("utf-32-be", "\ufeffa→\U0001f600\r\nb"),
    ("shift_jis", "日本語\r\nテスト a"),
    ("iso2022_jp", "日本語\r\nテスト a"),
    ("gb18030", "汉字\r\n\U0001f600a"),
    ("hz", "汉字\r\na"),
    ("utf-7", "a→\U0001f600\r\nb"),
    ("latin-1", "café\r\n\x85\x1c"),
    ("cp1252", "“café”\r\n"),
    ("unicode_escape", "a\ud800\r\n→"),
    ("punycode", "bücher\r\n"),
    ("idna", "bücher.example"),
]


@pytest.mark.parametrize("size", PIECES)
@pytest.mark.parametrize(("encoding", "text"), ENCODED)
def test_where_pieces_are_cut_changes_nothing(tmp_path, monkeypatch, id_cache, size, encoding, text):
    monkeypatch.setattr(reading, "PIECE", size)
    contents = [text.encode(encoding), b"", text.encode(encoding)]
    files = [tmp_path / f"{n}.txt" for n in range(3)]
    for file, content in zip(files, contents, strict=True):
        file.write_bytes(content)
    for separator in ("\n", "", "--"):
        expected = outcome(lambda separator=separator: read_whole(contents, encoding, separator=separator))
        found = outcome(lambda separator=separator: corpus.load(files, encoding, separator=separator))
        if expected is UnicodeError or not isinstance(expected, str) or len(set(expected)) < 2:
            assert found is UserError
            continue
        assert found.vocabulary.decode(found.ids) == expected
        assert found.digest == digest_of(expected)
    with_bytes = corpus.load(files, as_bytes=True, separator="--")
    assert with_bytes.ids.tobytes() == contents[0] + b"--" + b"--" + contents[2]
    assert with_bytes.digest == Corpus.from_bytes(with_bytes.ids.tobytes()).digest


@pytest.mark.parametrize("encoding", ["utf-16", "utf-32"])
def test_without_a_mark_the_bytes_are_in_the_order_of_this_machine(tmp_path, encoding):
    (tmp_path / "t.txt").write_bytes("a→b".encode(f"{encoding}-{sys.byteorder[0]}e"))
    found = corpus.load([tmp_path / "t.txt"], encoding)
    assert found.vocabulary.decode(found.ids) == "a→b"
    swapped = {"utf-16": codecs.BOM_UTF16_BE, "utf-32": codecs.BOM_UTF32_BE}[encoding]
    (tmp_path / "t.txt").write_bytes(swapped + "a→b".encode(f"{encoding}-be"))
    assert corpus.load([tmp_path / "t.txt"], encoding).digest == found.digest


@pytest.mark.parametrize("size", PIECES)
@pytest.mark.parametrize(
    ("content", "encoding"),
    [
        (b"abcdefg\xff", "utf-8"),
        ("abcé".encode()[:-1], "utf-8"),
        (b"\xe2\x86", "utf-8"),
        (b"ab\xe2\x86(", "utf-8"),
        (b"abc\xed\xa0\x80", "utf-8"),
        (b"a\0b\0c", "utf-16-le"),
        (b"\xff\xfea\0\0\xdcb\0", "utf-16"),
        (b"abc\x82", "shift_jis"),
        (b"abc\x81\x20x", "shift_jis"),
        (b"abcdefghi\x81", "cp1252"),
        (b"a\0\0\0\0\0\x11\0", "utf-32-le"),
    ],
)
def test_the_place_of_what_is_no_text_is_that_in_the_file(tmp_path, monkeypatch, size, content, encoding):
    monkeypatch.setattr(reading, "PIECE", size)
    (tmp_path / "t.txt").write_bytes(content)
    with pytest.raises(UnicodeDecodeError) as expected:
        content.decode(encoding)
    with pytest.raises(UserError) as found:
        corpus.load([tmp_path / "t.txt"], encoding)
    begun = f"{tmp_path / 't.txt'}: byte {expected.value.start} is not {encoding} ({expected.value.reason}): "
    assert str(found.value).startswith(begun)
    assert re.search("--encoding|--bytes", str(found.value).removeprefix(begun))  # the suggested remedy


@pytest.mark.parametrize("encoding", ["hex", "rot13", "klingon", "a\0b", "\udcff", ""])
def test_encodings_that_are_none(text_file, encoding):
    with pytest.raises(UserError) as caught:
        corpus.load([text_file], encoding)
    assert str(caught.value) == f"--encoding: Python knows no encoding {encoding!r}"


def in_pieces(text, sizes):
    at = 0
    while at < len(text):
        for size in sizes:
            yield text[at : at + size]
            at += size


@SETTINGS
@given(st.text(st.sampled_from(SIGMAS), max_size=40), st.lists(st.integers(1, 5), min_size=1))
def test_lower_case_is_that_of_the_whole(text, sizes):
    assert "".join(lowered(in_pieces(text, sizes))) == text.lower()


def test_lower_case_after_signs_of_any_number():
    for text in ("A" + "." * 500 + "\u03a3", "A\u03a3" + "'" * 500 + "b", "A\u03a3" + "'" * 500, "\u03a3" * 50):
        for size in (7, 300):
            assert "".join(lowered(in_pieces(text, [size]))) == text.lower()


@SETTINGS
@given(
    st.lists(st.lists(st.text("ab-", max_size=4), max_size=4), min_size=1, max_size=4),
    st.sampled_from(["", "-", "--", "ab"]),
)
def test_the_separator_comes_where_a_text_does_not_end_in_it(texts, separator):
    whole = ["".join(pieces) for pieces in texts]
    ended = [text if text.endswith(separator) else text + separator for text in whole[:-1]]
    assert "".join(Joined(iter(texts), separator)) == "".join(ended) + whole[-1]


@SETTINGS
@given(st.binary(max_size=60), st.sampled_from(["utf-8", "utf-16", "shift_jis", "utf-7"]), st.sampled_from(PIECES))
def test_arbitrary_bytes_are_a_text_or_one_line(tmp_path_factory, content, encoding, size):
    file = tmp_path_factory.mktemp("any") / "t.txt"
    file.write_bytes(content)
    expected = outcome(lambda: read_whole([content], encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PIECE", size)
        found = outcome(lambda: corpus.load([file], encoding, format="text"))
    if not isinstance(expected, str) or len(set(expected)) < 2:
        assert found is UserError
    else:
        assert found.digest == digest_of(expected)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_once(tmp_path, id_cache):
    pipe, text = tmp_path / "pipe", made_up_text(5000)
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(text,))
    writer.start()
    found = corpus.load([pipe])
    writer.join()
    assert found.digest == digest_of(text)
    assert names(id_cache) == [".ids"]  # nothing is recorded of sources that cannot be read again


def test_a_file_that_changes_meanwhile_is_one_text(tmp_path, id_cache, monkeypatch):
    file = tmp_path / "t.txt"
    file.write_text("ab" * 1000)
    monkeypatch.setattr(reading, "PIECE", 100)
    read, calls = reading.Part.pieces, []

    def changing(part):
        for n, piece in enumerate(read(part)):
            if n == 3:
                calls.append(n)
                with open(file, "a") as out:
                    out.write("xyz")
            yield piece

    with monkeypatch.context() as patch:
        patch.setattr(reading.Part, "pieces", changing)
        found = corpus.load([file])
    assert calls == [3]
    text = found.vocabulary.decode(found.ids)
    assert text == "ab" * 1000 + "xyz"  # the text as it was read, and so are vocabulary and digest
    assert found.digest == digest_of(text)
    assert corpus.load([file]).digest == found.digest
    file.write_text("ba" * 1000)
    assert corpus.load([file]).digest == digest_of("ba" * 1000)


@pytest.mark.parametrize("characters", [3_000_000, pytest.param(100_000_000, marks=pytest.mark.long)])
def test_one_line_and_no_other(tmp_path, monkeypatch, characters):
    monkeypatch.setenv("CHARLSTM_DATA_DIR", str(tmp_path / "cache"))
    file = tmp_path / "t.txt"
    with open(file, "w") as out:
        for _ in range(characters // 1000):
            out.write("abcdefghi " * 100)
    for lower in (False, True):
        found = corpus.load([file], lower=lower)
        assert len(found.ids) == characters
        assert found.vocabulary.characters == " abcdefghi"
