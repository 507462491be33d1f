"""Large and hostile texts: read in pieces, wherever these are cut, and kept as ids in files that nobody has to trust."""

import codecs
import hashlib
import io
import json
import os
import subprocess
import sys
import threading
import time

import numpy as np
import pytest
from conftest import made_up_text
from hypothesis import given, settings
from hypothesis import strategies as st

from charlstm import checkpoint as checkpoints
from charlstm import corpus, idcache, reading
from charlstm.config import from_preset
from charlstm.corpus import ByteVocabulary, Corpus, UnknownCharacters, Vocabulary
from charlstm.errors import UserError
from charlstm.reading import joined, lowered
from charlstm.trainer import Trainer

SETTINGS = settings(derandomize=True, max_examples=60, deadline=None, database=None)
PIECES = (1, 2, 3, 7, 64)
SIGMAS = "\u03a3\u03c3a.'\u0301\u0345\u02b0 \n\u0130\u1e9e\ud800A"


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """A cache of its own, and a limit so low that texts of a few kB count as large."""
    monkeypatch.setenv("CHARLSTM_DATA_DIR", str(tmp_path / "cache"))
    monkeypatch.setattr(idcache, "IN_MEMORY", 100)
    return tmp_path / "cache" / "ids"


def names(folder):
    return sorted(path.suffix for path in folder.iterdir()) if folder.exists() else []


def is_mapped(ids):
    return isinstance(ids.base, np.memmap)


def read_whole(content, encoding, lower=False, separator="\n"):
    """What corpus.load did when it read whole files."""
    texts = [each.decode(encoding).removeprefix("\ufeff").replace("\r\n", "\n").replace("\r", "\n") for each in content]
    ended = [text if text.endswith(separator) else text + separator for text in texts[:-1]]
    text = "".join(ended) + texts[-1]
    return text.lower() if lower else text


def digest_of(text):
    characters = "".join(sorted(set(text)))
    ids = np.array([characters.index(each) for each in text], np.min_scalar_type(len(characters) - 1))
    return hashlib.sha256(characters.encode("utf-8", "surrogatepass") + b"\0" + ids.tobytes()).hexdigest()


def outcome(read):
    try:
        return read()
    except (UserError, UnicodeError) as error:
        return type(error)


# ---------------------------------------------------------------------------------------------------- edges of pieces
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
def test_where_pieces_are_cut_changes_nothing(tmp_path, monkeypatch, cache, size, encoding, text):
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
    assert str(found.value) == (
        f"{tmp_path / 't.txt'}: byte {expected.value.start} is not {encoding} ({expected.value.reason}): "
        "give the file's own encoding with --encoding, for example --encoding latin-1"
    )


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
        assert "".join(lowered(in_pieces(text, [7]))) == text.lower()


@SETTINGS
@given(
    st.lists(st.lists(st.text("ab-", max_size=4), max_size=4), min_size=1, max_size=4),
    st.sampled_from(["", "-", "--", "ab"]),
)
def test_the_separator_comes_where_a_text_does_not_end_in_it(texts, separator):
    whole = ["".join(pieces) for pieces in texts]
    ended = [text if text.endswith(separator) else text + separator for text in whole[:-1]]
    assert "".join(joined(iter(texts), separator)) == "".join(ended) + whole[-1]


@SETTINGS
@given(st.binary(max_size=60), st.sampled_from(["utf-8", "utf-16", "shift_jis", "utf-7"]), st.sampled_from(PIECES))
def test_arbitrary_bytes_are_a_text_or_one_line(tmp_path_factory, content, encoding, size):
    file = tmp_path_factory.mktemp("any") / "t.txt"
    file.write_bytes(content)
    expected = outcome(lambda: read_whole([content], encoding))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(reading, "PIECE", size)
        found = outcome(lambda: corpus.load([file], encoding))
    if not isinstance(expected, str) or len(set(expected)) < 2:
        assert found is UserError
    else:
        assert found.digest == digest_of(expected)


# -------------------------------------------------------------------------------------------------------- odd characters
def test_odd_characters(tmp_path, cache):
    text = "\0\x01a\u0301\u0301\u200d\ufeff\ufffe\U0010ffff\n" * 30 + "".join(map(chr, range(0x80, 0xA0)))
    (tmp_path / "t.txt").write_text(text, newline="")
    found = corpus.load([tmp_path / "t.txt"])
    assert found.vocabulary.decode(found.ids) == text
    assert found.digest == digest_of(text)


@pytest.mark.parametrize(
    ("kinds", "dtype"), [(256, "u1"), (257, "u2"), (65_536, "u2"), (65_537, "u4"), (100_000, "u4")]
)
def test_ids_grow_as_new_characters_come(tmp_path, cache, kinds, dtype):
    codes = np.random.RandomState(1).permutation([*range(32, 0xD800), *range(0xE000, 0x20000)][:kinds])
    text = "".join(map(chr, np.concatenate([codes[:50].repeat(20), codes])))
    (tmp_path / "t.txt").write_bytes(text.encode())
    found = corpus.load([tmp_path / "t.txt"])
    expected = Corpus.from_text(text)
    assert is_mapped(found.ids)
    assert found.ids.dtype == expected.ids.dtype == dtype
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert (found.vocabulary, found.digest) == (expected.vocabulary, expected.digest)
    assert names(cache) == [".ids", ".json"]


@pytest.mark.parametrize("limit", [1, 2**24])
@pytest.mark.parametrize("known", ["ab", "abcdef\n", "".join(map(chr, range(32, 400)))])
def test_a_models_vocabulary_gives_the_same_as_the_whole_text(tmp_path, monkeypatch, cache, limit, known):
    monkeypatch.setattr(idcache, "IN_MEMORY", limit)
    monkeypatch.setattr(reading, "PIECE", 5)
    monkeypatch.setattr(idcache, "_PIECE", 8)
    vocabulary = Vocabulary("".join(sorted(known)))
    (tmp_path / "t.txt").write_text("ab\u2192ba\u2190cf--\u2192" * 9 + "ab", encoding="utf-8")
    text = (tmp_path / "t.txt").read_text(encoding="utf-8")
    with pytest.raises(UnknownCharacters) as expected:
        vocabulary.encode(text)
    with pytest.raises(UserError) as caught:
        corpus.load([tmp_path / "t.txt"], vocabulary=vocabulary)
    assert str(caught.value) == (
        f"t: {expected.value}; --unknown skip leaves such characters out, --unknown replace:CHAR reads CHAR instead"
    )
    assert names(cache) == []
    for unknown in ("skip", "replace:b"):
        for _ in range(2):
            found = corpus.load([tmp_path / "t.txt"], vocabulary=vocabulary, unknown=unknown)
            np.testing.assert_array_equal(found.ids, vocabulary.encode(text, unknown))
            assert found.ids.dtype == vocabulary.id_dtype
            assert found.vocabulary is vocabulary
            assert found.is_frozen
            assert found.digest == Corpus("t", vocabulary, vocabulary.encode(text, unknown)).digest


def test_bytes_of_a_text_in_the_vocabulary_of_bytes(tmp_path, cache):
    (tmp_path / "t.txt").write_bytes("\ufeffé\r\n".encode() * 50)
    found = corpus.load([tmp_path / "t.txt"], vocabulary=ByteVocabulary())
    assert found.ids.tobytes() == ("é\n" + "\ufeffé\n" * 49).encode()


# --------------------------------------------------------------------------------------------------------------- cache
def test_a_second_start_reads_ids_from_the_cache(tmp_path, cache, monkeypatch):
    file = tmp_path / "a b\n.txt"
    file.write_text(made_up_text(5000), newline="")
    first = corpus.load([file])
    assert names(cache) == [".ids", ".json"]
    monkeypatch.setattr(reading.Part, "text", None)  # nothing is decoded again
    second = corpus.load([file])
    os.rename(file, tmp_path / "moved.txt")
    moved = corpus.load([tmp_path / "moved.txt"])
    for found in (second, moved):
        assert is_mapped(found.ids)
        assert not found.ids.flags.writeable
        np.testing.assert_array_equal(found.ids, first.ids)
        assert (found.vocabulary, found.digest) == (first.vocabulary, first.digest)
    assert second.name == first.name == "a b\n"


def test_what_was_read_otherwise_or_is_another_text_is_read_anew(tmp_path, cache):
    file = tmp_path / "t.txt"
    text = "A" + made_up_text(4999)
    file.write_text(text)
    plain = corpus.load([file])
    for options in ({"lower": True}, {"as_bytes": True}, {"encoding": "utf-16-le"}):
        other = corpus.load([file], **options)
        assert other.digest != plain.digest
        assert corpus.load([file], **options).digest == other.digest
    file.write_text("B" + text[1:])  # of the same size
    assert corpus.load([file]).digest != plain.digest
    file.write_text(text)
    assert corpus.load([file]).digest == plain.digest
    both = corpus.load([file, file], separator="-")
    assert both.digest == corpus.load([file, file], separator="-").digest != corpus.load([file, file]).digest


@pytest.mark.parametrize("damage", ["flip", "cut", "odd", "empty", "grow", "note", "no ids", "nonsense"])
def test_a_damaged_cache_is_not_trusted(tmp_path, cache, damage):
    (tmp_path / "t.txt").write_text("".join(map(chr, range(32, 700))) + made_up_text(5000), encoding="utf-8")
    first = corpus.load([tmp_path / "t.txt"])
    facts = {"name": "t", "sources": [], "digest": first.digest}
    expected, vocabulary = first.ids.copy(), first.vocabulary
    del first
    [ids], [note] = cache.glob("*.ids"), cache.glob("*.json")
    content = bytearray(ids.read_bytes())
    if damage == "note":
        noted = json.loads(note.read_text())
        note.write_text(json.dumps({**noted, "vocabulary": noted["vocabulary"][::-1]}))
        assert corpus.cached(facts, vocabulary) is not None
    elif damage == "nonsense":
        note.write_text("{")
    else:
        ids.unlink()
        if damage == "flip":
            content[100] ^= 1
        cut = {"cut": content[:-2], "odd": content[:-1], "empty": b"", "grow": content + b"ab"}.get(damage, content)
        if damage != "no ids":
            ids.write_bytes(cut)
        assert corpus.cached(facts, vocabulary) is None
    again = corpus.load([tmp_path / "t.txt"])
    np.testing.assert_array_equal(again.ids, expected)
    np.testing.assert_array_equal(corpus.cached(facts, vocabulary).ids, expected)
    assert names(cache) == [".ids", ".json"]


@pytest.mark.parametrize("limit", [100, 2**24])
def test_a_text_is_found_again_by_its_digest(cache, monkeypatch, limit):
    monkeypatch.setattr(idcache, "IN_MEMORY", limit)
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(made_up_text(5000).encode())))
    read = corpus.load(["-"])
    kept = corpus.kept(read)
    assert kept is read
    facts = {"name": "stdin", "sources": ["-"], "digest": kept.digest, "num_ids": 5000, "is_frozen": False}
    found = corpus.cached(facts, kept.vocabulary)
    assert (found.name, found.sources, found.is_frozen) == ("stdin", ("-",), False)
    assert is_mapped(found.ids) == (limit == 100)
    assert not found.ids.flags.writeable
    np.testing.assert_array_equal(found.ids, read.ids)
    assert found.digest == idcache.digest_of(found.vocabulary, found.ids) == kept.digest
    assert names(cache) == [".ids"]
    assert corpus.cached({**facts, "digest": "0" * 64}, kept.vocabulary) is None
    assert corpus.cached({**facts, "digest": "../" + kept.digest[3:]}, kept.vocabulary) is None
    assert (
        corpus.cached(facts, Vocabulary(kept.vocabulary.characters + "~")) is None
    )  # and it is gone: see the next line
    assert names(cache) == []


def test_a_small_damaged_copy_is_replaced(cache):
    text = Corpus.from_text("abcabc")
    assert corpus.kept(text) is text
    [path] = cache.iterdir()
    path.write_bytes(b"\0\0\0\0\0\0")
    corpus.kept(text)
    assert path.read_bytes() == text.ids.tobytes()


def test_a_cache_that_cannot_be_written_stops_nothing(tmp_path, cache):
    (tmp_path / "t.txt").write_text(made_up_text(5000))
    (tmp_path / "cache").write_text("in the way")
    for read in (lambda: corpus.load([tmp_path / "t.txt"]), lambda: corpus.load([tmp_path / "t.txt"], as_bytes=True)):
        found = read()
        assert not is_mapped(found.ids)
        assert not found.ids.flags.writeable
        assert len(found.ids) == 5000
        assert found.remark.startswith(f"the text stays in memory: {cache}: cannot be written: ")
        assert "CHARLSTM_DATA_DIR names another folder" in found.remark
        assert corpus.kept(found) is found
    small = corpus.kept(Corpus.from_text("abcabc"))
    assert small.remark.startswith(f"to go on with this run the text will be needed again: {cache}: cannot be written")


@pytest.mark.parametrize("fails_at", [0, 3, 20])
@pytest.mark.parametrize("unknown", ["error", "skip"])
def test_a_disk_that_gets_full_stops_nothing(tmp_path, cache, monkeypatch, fails_at, unknown):
    class Full(io.FileIO):
        writes = 0

        def write(self, content):
            Full.writes += 1
            if Full.writes > fails_at:
                raise OSError(28, "No space left on device")
            return super().write(content[: len(content) // 2 + 1])  # and no write is whole

    monkeypatch.setattr(idcache.io, "FileIO", Full)
    monkeypatch.setattr(reading, "PIECE", 500)
    text, vocabulary = made_up_text(5000), Vocabulary("\n .abcdef")
    (tmp_path / "t.txt").write_text(text)
    options = {"vocabulary": vocabulary, "unknown": unknown} if unknown == "skip" else {}
    found = corpus.load([tmp_path / "t.txt"], **options)
    expected = vocabulary if unknown == "skip" else Vocabulary.of(text)
    np.testing.assert_array_equal(found.ids, expected.encode(text, unknown))
    assert "No space left on device" in found.remark
    assert names(cache) == []


def test_reading_that_fails_leaves_no_file(tmp_path, cache):
    (tmp_path / "t.txt").write_bytes(made_up_text(5000).encode() + b"\xff")
    with pytest.raises(UserError, match="byte 5000 is not utf-8"):
        corpus.load([tmp_path / "t.txt"])
    assert names(cache) == []


def test_the_cache_does_not_grow_for_ever(cache, monkeypatch):
    monkeypatch.setattr(idcache, "MOST_BYTES", 1000)
    monkeypatch.setattr(idcache, "MOST_FILES", 4)
    texts = [Corpus.from_text(made_up_text(300, seed)) for seed in range(6)]
    for n, text in enumerate(texts):
        corpus.kept(text)
        os.utime(cache / f"{text.digest}.ids", (n + 1, n + 1))
    kept = [text for text in texts if (cache / f"{text.digest}.ids").exists()]
    assert kept == texts[3:]
    corpus.kept(texts[3])  # used again: the oldest is another one now
    corpus.kept(texts[0])
    assert {path.stem for path in cache.iterdir()} == {texts[0].digest, texts[3].digest, texts[5].digest}
    small = [Corpus.from_text("ab" * n) for n in range(1, 9)]
    for text in small:
        corpus.kept(text)
    assert len(names(cache)) == 4
    corpus.kept(Corpus.from_text(made_up_text(3000)))  # larger than all that may be kept: the one in use stays
    assert [path.stat().st_size for path in cache.iterdir()] == [3000]


def test_files_of_dead_processes_are_removed_and_foreign_ones_are_not(cache):
    cache.mkdir(parents=True)
    for name in ("new-old.tmp", "new-young.tmp", "mine.txt"):
        (cache / name).write_text("x" * 10)
    os.utime(cache / "new-old.tmp", (1, 1))
    corpus.kept(Corpus.from_text("abc"))
    assert {path.name for path in cache.iterdir() if path.suffix != ".ids"} == {"new-young.tmp", "mine.txt"}


def test_what_is_mapped_outlives_its_file(tmp_path, cache):
    (tmp_path / "t.txt").write_text(made_up_text(5000))
    found = corpus.load([tmp_path / "t.txt"])
    expected = found.ids.copy()
    for path in cache.iterdir():
        idcache._remove(path)  # which Windows refuses
    np.testing.assert_array_equal(found.ids, expected)


def test_several_processes_at_once(text_file, cache):
    program = (
        "import sys; from charlstm import corpus, idcache, reading; idcache.IN_MEMORY = reading.PIECE = 100\n"
        "for _ in range(20): print(corpus.load([sys.argv[1]]).digest)"
    )
    command = [sys.executable, "-c", program, str(text_file)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    printed = [process.communicate(timeout=60)[0].split() for process in running]
    assert printed == [[digest_of(text_file.read_text())] * 20] * 3
    assert names(cache) == [".ids", ".json"]


# --------------------------------------------------------------------------------------------------------- odd sources
@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs named pipes")
def test_a_pipe_is_read_once(tmp_path, cache):
    pipe, text = tmp_path / "pipe", made_up_text(5000)
    os.mkfifo(pipe)
    writer = threading.Thread(target=pipe.write_text, args=(text,))
    writer.start()
    found = corpus.load([pipe])
    writer.join()
    assert found.digest == digest_of(text)
    assert names(cache) == [".ids"]  # nothing is noted of what cannot be read again


def test_a_file_that_changes_meanwhile_is_one_text(tmp_path, cache, monkeypatch):
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
    assert text == "ab" * 1000 + "xyz"  # as it was read, and so are vocabulary and digest
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


def test_a_small_text_starts_at_once(tmp_path):
    (tmp_path / "t.txt").write_text(made_up_text(20_000))
    taken = []
    for _ in range(5):
        begin = time.perf_counter()
        corpus.kept(corpus.load([tmp_path / "t.txt"]))
        taken.append(time.perf_counter() - begin)
    assert min(taken) < 0.1


# -------------------------------------------------------------------------------------------------------------- training
def test_training_on_a_mapped_text_gives_the_same_bits(tmp_path, cache, monkeypatch, backend):
    text = "".join(map(chr, range(1000, 1300))) + made_up_text(4000)
    (tmp_path / "t.txt").write_text(text, encoding="utf-8")
    mapped = corpus.load([tmp_path / "t.txt"])
    monkeypatch.setattr(idcache, "IN_MEMORY", 2**24)
    held = corpus.load([tmp_path / "t.txt"])
    assert (is_mapped(mapped.ids), is_mapped(held.ids)) == (True, False)
    assert mapped.ids.dtype == np.uint16
    weights = []
    for each in (mapped, held):
        options = {"hidden_size": 8, "seq_length": 5, "batch_size": 3, "validation": 0.1, "sample_every": 10}
        trainer = Trainer(from_preset(iterations=25, backend=backend, **options), each)
        assert np.shares_memory(trainer.ids, each.ids)
        for _ in trainer.run():
            pass
        weights.append(trainer.theta.tobytes())
        assert not hasattr(each.ids, "flush")  # a plain array: kernels know no other
    assert weights[0] == weights[1]


def test_a_run_leaves_its_text_in_the_cache(tmp_path, cache, charlstm_command):
    options = [
        "--iterations",
        "3",
        "--hidden-size",
        "8",
        "--seq-length",
        "5",
        "--batch-size",
        "2",
        "--backend",
        "numpy",
    ]
    text = made_up_text().encode()
    done = charlstm_command("train", "-", *options, "--out", "a", stdin=text)
    assert done.returncode == 0, done.stderr
    old = checkpoints.load(tmp_path / "a", "last")
    found = corpus.cached(old.corpus, old.vocabulary)
    assert found.vocabulary.decode(found.ids).encode() == text
    resumed = Trainer(old.config, found, old)
    assert resumed.iteration == 3
    (tmp_path / "file").write_text("in the way")
    done = charlstm_command(
        "train", "-", *options, "--out", "b", stdin=text, env={"CHARLSTM_DATA_DIR": str(tmp_path / "file")}
    )
    assert done.returncode == 0
    assert b"to go on with this run the text will be needed again: " in done.stderr


WATCHED = """
import sys, threading, time
from charlstm import from_preset
from charlstm.run import start

def watch():
    while True:
        facts = dict(line.split(":", 1) for line in open("/proc/self/status"))
        peak[0] = max(peak[0], int(facts["RssAnon"].split()[0]) / 1024)
        time.sleep(0.05)

peak = [0]
threading.Thread(target=watch, daemon=True).start()
for windows in (None, "20:1"):
    config = from_preset(iterations=30, hidden_size=16, seq_length=20, batch_size=4, validation=0.001, windows=windows)
    run = start([sys.argv[1]], config, sys.argv[2] + str(windows))
    for _ in run.train():
        pass
    assert run.load("last").iteration == 30
    assert len(run.trainer.ids) > 150_000_000
print(peak[0])
"""


@pytest.mark.long
@pytest.mark.skipif(not os.path.exists("/proc/self/status"), reason="needs /proc")
def test_a_large_text_trains_in_little_memory(tmp_path):
    text = made_up_text(100_000).encode()
    with open(tmp_path / "t.txt", "wb") as out:
        for n in range(2000):
            out.write(text[n:] + "→".encode())
    command = [sys.executable, "-c", WATCHED, tmp_path / "t.txt", tmp_path / "run"]
    environment = {**os.environ, "CHARLSTM_DATA_DIR": str(tmp_path / "cache")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    print(f"RssAnon {float(done.stdout):.0f} MiB")
    assert float(done.stdout) < 200  # of which Python, Numba and the model take about 100
