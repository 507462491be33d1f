"""The words of saved samples."""

import pytest

from charlstm.errors import UserError
from charlstm.keywords import Keyword, keywords, samples_of


def test_words_are_counted_beside_the_text_and_the_commonest_come_first():
    found = keywords("The cat, the Cat: the dgo. Don't well-kept 17 x2y", "The the cat sat; don't!")
    assert found[:2] == [Keyword("the", 3, 2), Keyword("cat", 2, 1)]
    assert {each.word: (each.in_samples, each.in_text) for each in found[2:]} == {
        "dgo": (1, 0), "don't": (1, 1), "well-kept": (1, 0), "x": (1, 0), "y": (1, 0),
    }  # fmt: skip
    assert keywords("", "the") == []


def test_the_heads_of_samples_are_no_words(tmp_path):
    (tmp_path / "samples.txt").write_text(
        "# iteration 5  loss 1.500000  temperature 0.8\nof the\n\n# iteration 9  loss 1.2  temperature 0\n# iteration\n\n"
    )
    assert [each.word for each in keywords(samples_of(tmp_path), "")] == ["of", "the", "iteration"]


def test_a_run_without_samples(tmp_path):
    with pytest.raises(UserError, match=r"samples\.txt: cannot be read"):
        samples_of(tmp_path)
    (tmp_path / "samples.txt").write_text("")
    with pytest.raises(UserError, match="no sample has been saved yet"):
        samples_of(tmp_path)
