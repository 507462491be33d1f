"""Reading texts: sources, vocabulary, ids, streams."""

import io
import sys

import numpy as np
import pytest

from charlstm.errors import UserError
from charlstm.text import corpus
from charlstm.text.batches import Streams
from charlstm.text.corpus import ByteVocabulary, Corpus, UnknownCharacters, Vocabulary


def test_vocabulary_is_sorted_and_round_trips():
    text = "héllo wörld\n\U0001f600 ∑z\x00"
    vocabulary = Vocabulary.of(text)
    assert vocabulary.characters == "".join(sorted(set(text)))
    ids = vocabulary.encode(text)
    assert [vocabulary.characters[i] for i in ids] == list(text)
    assert vocabulary.decode(ids) == text
    assert not ids.flags.writeable


@pytest.mark.parametrize(("size", "dtype"), [(2, "uint8"), (256, "uint8"), (257, "uint16"), (70_000, "uint32")])
def test_ids_are_of_the_smallest_type(size, dtype):
    text = "".join(map(chr, [*range(13), *range(14, 0xD800), *range(0xE000, 0x20000)][:size]))  # without "\r"
    found = Corpus.from_text(text)
    assert found.ids.dtype == dtype
    assert found.vocabulary.decode(found.ids) == text


def test_a_character_it_lacks_is_named_with_its_place():
    with pytest.raises(UserError, match="the character 'x' at position 2 is not in the model's vocabulary"):
        Vocabulary.of("ab").encode("abx")
    with pytest.raises(UserError, match="the character '~' at position 0"):  # beyond the last known one
        Vocabulary.of("ab").encode("~")
    assert Vocabulary.of("ab").without_unknown("xaxbx") == "ab"


def test_unknown_characters_are_named_left_out_or_replaced():
    vocabulary = Vocabulary.of("abcx")
    with pytest.raises(UnknownCharacters) as caught:
        vocabulary.encode("a-b~c--~")
    assert str(caught.value) == (
        "the characters '-' (at position 1), '~' are not in the model's vocabulary, 5 of 8 characters"
    )  # fmt: skip
    with pytest.raises(UnknownCharacters) as caught:
        vocabulary.encode("a7654321")
    assert str(caught.value) == (
        "the characters '7' (at position 1), '6', '5', '4', '3' and 2 more are not in the model's vocabulary, 7 of 8 characters"
    )
    assert vocabulary.decode(vocabulary.encode("a-b~c--~", "skip")) == "abc"
    assert vocabulary.decode(vocabulary.encode("a-b~c--~", "replace:x")) == "axbxcxxx"
    for wrong in ("replace:y", "replace:ab", "replace:", "x", "maybe"):
        with pytest.raises(UserError, match=f"--unknown: expected error, skip, or replace: .*got '{wrong}'"):
            vocabulary.encode("abc-", wrong)


def test_bytes(tmp_path):
    text = "h\u00e9 \u2192 \U0001f600\r\n"
    content = b"\xef\xbb\xbf" + text.encode() + b"\xff\x00"
    (tmp_path / "a.txt").write_bytes(content)
    found = corpus.load([tmp_path / "a.txt"], as_bytes=True)
    assert found.ids.tobytes() == content  # nothing is decoded, no line end changed, no byte order mark removed
    assert found.ids.dtype == np.uint8
    assert len(found.vocabulary) == 256
    assert found.vocabulary == ByteVocabulary() != Vocabulary(found.vocabulary.characters)
    assert found.vocabulary.decode(found.ids) == "\ufeff" + text + "\ufffd\0"
    assert found.vocabulary.encode(text).tobytes() == text.encode()
    assert found.vocabulary.without_unknown(text) == text
    twice = corpus.load([tmp_path / "a.txt", tmp_path / "a.txt"], as_bytes=True, separator="\n\u2192")
    assert twice.ids.tobytes() == content + "\n\u2192".encode() + content
    cut = corpus.load([tmp_path / "a.txt", tmp_path / "a.txt"], as_bytes=True, separator="\udcfe")  # as from a shell
    assert cut.ids.tobytes() == content + b"\xfe" + content
    docs, plain = corpus.load(as_bytes=True), corpus.load()
    assert docs.vocabulary.decode(docs.ids) == plain.vocabulary.decode(plain.ids)
    with pytest.raises(UserError, match="a single distinct character, 'a'"):
        Corpus.from_bytes(b"aaa")
    with pytest.raises(UserError, match="the text is empty"):
        Corpus.from_bytes(b"")


@pytest.mark.parametrize("size", [1, 2, 3, 5, 100])
def test_characters_that_are_cut_between_pieces_come_out_whole(size):
    text = "h\u00e9\u2192\U0001f600" * 7
    for vocabulary in (ByteVocabulary(), Vocabulary.of(text)):
        ids, decode = vocabulary.encode(text), vocabulary.decoder()
        starts = range(0, len(ids), size)
        assert "".join(decode(ids[k : k + size], k == starts[-1]) for k in starts) == text
    decode = ByteVocabulary().decoder()
    assert decode(np.array([0xE2, 0x86], np.int32), False) == ""
    assert decode(np.array([], np.int32), True) == "\ufffd"  # the text ends inside a character


def test_separators_and_lower_case(tmp_path):
    for name, content in {"a": "ONE", "b": "Two\n", "c": "three--"}.items():
        (tmp_path / f"{name}.txt").write_text(content)

    def read(**options):
        found = corpus.load([tmp_path, tmp_path / "a.txt"], **options)
        return found.vocabulary.decode(found.ids)

    assert read() == "ONE\nTwo\nthree--\nONE"
    assert read(separator="--") == "ONE--Two\n--three--ONE"
    assert read(separator="") == "ONETwo\nthree--ONE"
    assert read(separator=" END ", lower=True) == "one end two\n end three-- end one"


def test_a_text_in_the_vocabulary_of_a_model(tmp_path):
    file, vocabulary = tmp_path / "new.txt", Vocabulary.of("abcdef\n")
    file.write_text("cab!a?")
    with pytest.raises(UserError) as caught:
        corpus.load([file], vocabulary=vocabulary)
    assert str(caught.value) == (
        "new: the characters '!' (at position 3), '?' are not in the model's vocabulary, 2 of 6 characters; "
        "--unknown skip leaves such characters out, --unknown replace:CHAR reads CHAR instead"
    )
    found = corpus.load([file], vocabulary=vocabulary, unknown="skip")
    assert found.vocabulary is vocabulary
    assert found.is_frozen
    assert not corpus.load([file]).is_frozen
    assert vocabulary.decode(found.ids) == "caba"
    file.write_text("!?")
    with pytest.raises(UserError, match="new: the text is empty"):
        corpus.load([file], vocabulary=vocabulary, unknown="skip")


def test_files_folders_and_line_ends(tmp_path):
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "2.txt").write_bytes(b"two\r\n")
    (tmp_path / "a.txt").write_bytes("\ufeffone".encode())
    (tmp_path / "b" / "no.md").write_text("not this")
    found = corpus.load([tmp_path])
    assert found.vocabulary.decode(found.ids) == "one\ntwo\n"
    assert found.name == tmp_path.name
    twice = corpus.load([tmp_path / "a.txt", tmp_path / "b" / "2.txt"])
    assert twice.vocabulary.decode(twice.ids) == "one\ntwo\n"
    assert twice.name == "a"
    assert twice.digest == found.digest
    assert corpus.load([tmp_path / "b"]).digest != found.digest


def test_standard_input_and_the_text_inside_python(monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(b"abcabc")))
    assert corpus.load(["-"]).name == "stdin"
    found = corpus.load()
    assert found.name == "python-docs"
    assert 300_000 < len(found.ids) < 1_000_000
    assert 80 < len(found.vocabulary) < 256


def test_other_encodings(tmp_path):
    file = tmp_path / "old.txt"
    file.write_bytes("café au lait".encode("latin-1"))
    assert "é" in corpus.load([file], "latin-1").vocabulary.characters
    with pytest.raises(UserError, match=r"old\.txt: byte 3 is not utf-8 .*--encoding latin-1"):
        corpus.load([file])
    with pytest.raises(UserError, match="--encoding: Python knows no encoding 'klingon'"):
        corpus.load([file], "klingon")


@pytest.mark.parametrize(
    ("content", "message"),
    [("", "the text is empty"), ("aaaa", "a single distinct character, 'a'")],
)
def test_texts_that_will_not_do(tmp_path, content, message):
    (tmp_path / "t.txt").write_text(content)
    with pytest.raises(UserError, match=message):
        corpus.load([tmp_path / "t.txt"])


def test_sources_that_will_not_do(tmp_path):
    with pytest.raises(UserError, match=r"missing\.txt: no such file or folder \(built-in texts: python-docs, "):
        corpus.load([tmp_path / "missing.txt"])
    with pytest.raises(UserError, match=r"no text in this folder; supported: \.gz, "):
        corpus.load([tmp_path])


def test_streams_read_everything_in_order_and_begin_again():
    streams = Streams(num_ids=45, seq_length=4, batch_size=2)  # streams of 22 ids
    assert streams.stream_length == 22
    assert streams.iterations_per_pass == 5
    starts, reset = streams.plan(0, 11)
    assert starts[:, 0].tolist() == [0, 4, 8, 12, 16] * 2 + [0]
    assert starts[:, 1].tolist() == [s + 22 for s in starts[:, 0]]
    assert reset.tolist() == ([True] + [False] * 4) * 2 + [True]
    a, b = streams.plan(0, 7), streams.plan(7, 11)
    assert np.concatenate([a[0], b[0]]).tolist() == starts.tolist()
    assert int(starts.max()) + 4 < 45


def test_streams_wrap_where_the_original_script_does():
    for length in (50, 51, 52, 65, 66, 67, 45_345):
        position, expected = 0, []
        for n in range(12 if length < 100 else 6000):
            if position + 16 + 1 >= length or n == 0:
                position = 0
            expected.append(position)
            position += 16
        assert Streams(length, 16, 1).plan(0, len(expected))[0][:, 0].tolist() == expected


def test_a_text_too_short_says_what_would_fit():
    with pytest.raises(UserError, match=r"100 characters, too few for 4 streams .*at least 136.*--batch-size 2 fits"):
        Streams(100, 16, 4)
    with pytest.raises(UserError, match="a smaller --seq-length may fit"):
        Streams(20, 16, 1)
    Streams(34, 16, 1)
    with pytest.raises(UserError):
        Streams(33, 16, 1)


def test_what_a_model_wrote_is_no_text_to_learn_from(tmp_path, monkeypatch):
    (tmp_path / "runs" / "a").mkdir(parents=True)
    for name in ("samples.txt", "metrics.jsonl"):
        (tmp_path / "runs" / "a" / name).write_text("written by a model")
    (tmp_path / "mine.txt").write_text("mine")
    (tmp_path / "samples.txt").write_text("also mine")
    monkeypatch.chdir(tmp_path / "runs")
    found = corpus.load([".."])
    assert found.vocabulary.decode(found.ids) == "mine\nalso mine"
    assert found.name == tmp_path.name  # and not "..", which would be a folder to write into


def test_names_that_are_no_paths():
    for name in ("x" * 5000, "a\0b"):
        with pytest.raises(UserError, match="that looks like text: 'x|cannot be read|no such file"):
            corpus.load([name])


def test_lone_surrogates_are_characters_too(tmp_path):
    file = tmp_path / "odd.txt"
    file.write_bytes(rb"a\ud800b\ud800")
    found = corpus.load([file], "unicode_escape")
    assert found.vocabulary.decode(found.ids) == "a\ud800b\ud800"
    assert len(found.digest) == 64
    with pytest.raises(UserError, match="cannot be read as undefined"):
        corpus.load([file], "undefined")
