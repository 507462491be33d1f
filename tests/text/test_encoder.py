"""Encoding a text of any length in pieces, with its own vocabulary or a model's."""

import numpy as np
import pytest
from texts import digest_of, is_mapped, names

from charlstm.errors import UserError
from charlstm.text import corpus, idcache, reading
from charlstm.text.corpus import ByteVocabulary, Corpus, UnknownCharacters, Vocabulary


def test_odd_characters(tmp_path, id_cache):
    text = "\0\x01a\u0301\u0301\u200d\ufeff\ufffe\U0010ffff\n" * 30 + "".join(map(chr, range(0x80, 0xA0)))
    (tmp_path / "t.txt").write_text(text, newline="")
    found = corpus.load([tmp_path / "t.txt"])
    assert found.vocabulary.decode(found.ids) == text
    assert found.digest == digest_of(text)


@pytest.mark.parametrize(
    ("kinds", "dtype"), [(256, "u1"), (257, "u2"), (65_536, "u2"), (65_537, "u4"), (100_000, "u4")]
)
def test_ids_grow_as_new_characters_come(tmp_path, id_cache, kinds, dtype):
    codes = np.random.RandomState(1).permutation([*range(32, 0xD800), *range(0xE000, 0x20000)][:kinds])
    text = "".join(map(chr, np.concatenate([codes[:50].repeat(20), codes])))
    (tmp_path / "t.txt").write_bytes(text.encode())
    found = corpus.load([tmp_path / "t.txt"])
    expected = Corpus.from_text(text)
    assert is_mapped(found.ids)
    assert found.ids.dtype == expected.ids.dtype == dtype
    np.testing.assert_array_equal(found.ids, expected.ids)
    assert (found.vocabulary, found.digest) == (expected.vocabulary, expected.digest)
    assert names(id_cache) == [".ids", ".json"]


@pytest.mark.parametrize("limit", [1, 2**24])
@pytest.mark.parametrize("known", ["ab", "abcdef\n", "".join(map(chr, range(32, 400)))])
def test_a_models_vocabulary_gives_the_same_as_the_whole_text(tmp_path, monkeypatch, id_cache, limit, known):
    monkeypatch.setattr(idcache, "IN_MEMORY", limit)
    monkeypatch.setattr(reading, "PIECE", 5)
    monkeypatch.setattr(idcache, "_PIECE", 8)
    vocabulary = Vocabulary("".join(sorted(known)))
    (tmp_path / "t.txt").write_text("ab" * 15 + "ab\u2192ba\u2190cf--\u2192" * 9 + "ab", encoding="utf-8")
    text = (tmp_path / "t.txt").read_text(encoding="utf-8")
    with pytest.raises(UnknownCharacters) as expected:
        vocabulary.encode(text)
    with pytest.raises(UserError) as caught:
        corpus.load([tmp_path / "t.txt"], vocabulary=vocabulary)
    assert str(caught.value) == (
        f"t: {expected.value}; --unknown skip leaves such characters out, --unknown replace:CHAR reads CHAR instead"
    )
    assert names(id_cache) == []
    for unknown in ("skip", "replace:b"):
        for _ in range(2):
            found = corpus.load([tmp_path / "t.txt"], vocabulary=vocabulary, unknown=unknown)
            np.testing.assert_array_equal(found.ids, vocabulary.encode(text, unknown))
            assert found.ids.dtype == vocabulary.id_dtype
            assert found.vocabulary is vocabulary
            assert found.is_frozen
            assert found.digest == Corpus("t", vocabulary, vocabulary.encode(text, unknown)).digest


def test_another_model_reads_another_text(tmp_path, id_cache):
    (tmp_path / "t.txt").write_text("abc" * 100)
    for known in ("abc", "abcd", "ab", None):
        vocabulary = None if known is None else Vocabulary(known)
        found = corpus.load([tmp_path / "t.txt"], vocabulary=vocabulary, unknown="skip")
        assert found.vocabulary == (vocabulary or Vocabulary("abc"))
        assert len(found.ids) == (200 if known == "ab" else 300)


def test_bytes_of_a_text_in_the_vocabulary_of_bytes(tmp_path, id_cache):
    (tmp_path / "t.txt").write_bytes("\ufeffé\r\n".encode() * 50)
    found = corpus.load([tmp_path / "t.txt"], vocabulary=ByteVocabulary())
    assert found.ids.tobytes() == ("é\n" + "\ufeffé\n" * 49).encode()
