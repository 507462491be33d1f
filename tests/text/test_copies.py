"""The longest runs that a sample shares with a text, against a search of every run, and what follows from them."""

import numpy as np
import pytest

from charlstm.text import novelty


def searched(sample, text):
    """The same by looking for every run in the text."""
    found = []
    for at in range(len(sample)):
        length = 0
        while at + length < len(sample) and sample[at : at + length + 1] in text:
            length += 1
        found.append(length)
    return found


def in_pieces(random, text):
    cuts = sorted(random.randint(0, len(text) + 1, 3))
    return [text[begin:end] for begin, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.mark.parametrize("alphabet", ["ab", "abcdefg", "aé\U0001f600\x00"])
def test_every_run_is_found(alphabet):
    random = np.random.RandomState(0)
    for _ in range(100):
        text = "".join(random.choice(list(alphabet), random.randint(0, 200)))
        samples = ["".join(random.choice([*alphabet, "z"], random.randint(0, 60))) for _ in range(random.randint(4))]
        samples += [text[random.randint(len(text)) :][:50]] if text else []
        for sample, found in zip(samples, novelty.match_lengths(samples, in_pieces(random, text)), strict=True):
            assert found.tolist() == searched(sample, text)


def test_runs_across_blocks_are_found_and_long_ones_are_cut(monkeypatch):
    monkeypatch.setattr(novelty, "_BLOCK", 64)
    monkeypatch.setattr(novelty, "MOST", 16)
    random = np.random.RandomState(1)
    text = "".join(random.choice(list("abc"), 1000))
    for at in range(0, 900, 7):
        sample = text[at : at + 40]
        (found,) = novelty.match_lengths([sample], in_pieces(random, text))
        assert found.tolist() == [min(length, 16) for length in searched(sample, text)]
    (found,) = novelty.match_lengths(["a" * 300], ["a" * 500])
    assert found.tolist() == [min(16, 300 - at) for at in range(300)]


def test_what_is_copied_and_what_is_new():
    text = "the quick brown fox jumps over the lazy dog"
    mixed, new, empty = novelty.novelty(["brown fox jumps!QQQQQQQQ", "QQQQQQQQQ", ""], [text], least=10)
    assert (mixed.longest, mixed.chars, mixed.copied) == ("brown fox jumps", 24, 15 / 24)
    assert mixed.new[4] == (24 - 3 - 12) / (24 - 3)  # "brow" to "umps" are known
    assert (new.longest, new.copied, new.new) == ("", 0.0, {4: 1.0, 8: 1.0})
    assert (empty.chars, empty.longest, empty.copied, empty.new) == (0, "", 0.0, {})
