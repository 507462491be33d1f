"""Highlighting of the keywords of saved samples."""

import json
import tracemalloc

import pytest
from conftest import made_up_text

from charlstm.errors import UserError
from charlstm.runs import keywords as keywords_module
from charlstm.runs.keywords import Keyword, keywords, pieces_of, samples_of
from charlstm.text.corpus import Corpus


def counted(samples, text=""):
    return {each.word: (each.in_samples, each.in_text) for each in keywords(samples, [text])}


def test_words_are_counted_beside_the_text_and_the_commonest_come_first():
    found = keywords("The cat, the Cat: the dgo. Don't well-kept 17 x2y", ["The the cat sat; don't!"])
    assert found[:2] == [Keyword("the", 3, 2), Keyword("cat", 2, 1)]
    assert {each.word: (each.in_samples, each.in_text) for each in found[2:]} == {
        "dgo": (1, 0), "don't": (1, 1), "well-kept": (1, 0), "x": (1, 0), "y": (1, 0),
    }  # fmt: skip
    assert keywords("", ["the"]) == []


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("यह हिन्दी है, हिन्दी।", {"यह", "हिन्दी", "है"}),
        ("தமிழ் மொழி", {"தமிழ்", "மொழி"}),
        ("cafe\u0301 na\u0308chster", {"cafe\u0301", "na\u0308chster"}),
        ("שָׁלוֹם עוֹלָם", {"שָׁלוֹם", "עוֹלָם"}),
        ("می\u200cشود कर\u200dता", {"می\u200cشود", "कर\u200dता"}),
        ("l\u2019été d'art-x- \u2019a 'b", {"l\u2019été", "d'art-x", "a", "b"}),
        ("a_b 3c", {"a", "b", "c"}),
    ],
)
def test_words_of_scripts_with_combining_marks_are_whole(text, words):
    assert {each.word for each in keywords(text, [text])} == words
    assert all(each.in_text == each.in_samples for each in keywords(text, [text]))


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_words_do_not_depend_on_where_pieces_end(size, monkeypatch):
    text = "हिन्दी है - don't ΟΔΟΣ 'well-kept-' x2y l\u2019été हिन्दी" + made_up_text(300)
    whole = counted(text, text)
    assert all(in_samples == in_text for in_samples, in_text in whole.values())
    pieces = [text[at : at + size] for at in range(0, len(text), size)]
    assert {each.word: (each.in_samples, each.in_text) for each in keywords(text, pieces)} == whole
    corpora = [Corpus.from_text(text), Corpus.from_bytes(text.encode())]
    monkeypatch.setattr(keywords_module, "_PIECE", size)
    for corpus in corpora:
        assert {each.word: (each.in_samples, each.in_text) for each in keywords(text, pieces_of(corpus))} == whole


def test_memory_does_not_grow_with_the_text(monkeypatch):
    monkeypatch.setattr(keywords_module, "_PIECE", 4096)
    list(keywords("the", ["the"]))  # compiles the pattern, which happens once
    words, peaks = made_up_text(20_000), []
    for text in (words, words * 20, "ab" * 200_000):
        corpus = Corpus.from_text(text)
        tracemalloc.start()
        keywords("the", pieces_of(corpus))
        peaks.append(tracemalloc.get_traced_memory()[1])
        tracemalloc.stop()
    assert peaks[1] < peaks[0] + 50_000
    assert peaks[2] < peaks[0] + 500_000  # an endless word is held only up to a limit


def test_the_heads_of_samples_are_no_words(tmp_path):
    (tmp_path / "samples.txt").write_text(
        "# iteration 5  loss 1.500000  temperature 0.8\nof the\n\n# iteration 9  loss 1.2  temperature 0\n# iteration\n\n"
    )
    assert list(counted(samples_of(tmp_path))) == ["of", "the", "iteration"]


def test_the_sample_of_iteration_0_is_noise_and_does_not_count(tmp_path):
    noise = "# iteration 0  loss 4.100000  temperature 0.8\nqzx\n\n"
    (tmp_path / "samples.txt").write_text(noise + "# iteration 10  loss 1.5  temperature 0.8\nthe\n\n")
    assert list(counted(samples_of(tmp_path))) == ["the"]
    (tmp_path / "samples.txt").write_text(noise)
    with pytest.raises(UserError, match=r"no sample has been saved yet after the first iteration: train on"):
        samples_of(tmp_path)


def test_a_run_without_samples(tmp_path):
    with pytest.raises(UserError, match=r"samples\.txt: cannot be read"):
        samples_of(tmp_path)
    (tmp_path / "samples.txt").write_text("")
    with pytest.raises(UserError, match="no sample has been saved yet$"):
        samples_of(tmp_path)


def test_the_command_counts_words_of_hindi(charlstm_command, tmp_path):
    (tmp_path / "t.txt").write_text("यह हिन्दी है।\nवह हिन्दी नहीं है।\n" * 40)
    options = ("--hidden-size", 4, "--seq-length", 4, "--batch-size", 2, "--sample-every", 1, "--sample-length", 40)
    assert charlstm_command("train", "t.txt", *options, "--iterations", 3, "-q").returncode == 0
    samples = tmp_path / "runs/t/samples.txt"
    samples.write_text(
        "# iteration 0  loss 2.5  temperature 0.8\nनही\n\n# iteration 2  loss 2  temperature 0.8\nहिन्दी हैय\n\n"
    )
    done = charlstm_command("keywords", "runs/t", "--json")
    assert [json.loads(line) for line in done.stdout.splitlines()] == [
        {"word": "हिन्दी", "in_samples": 1, "in_text": 80},
        {"word": "हैय", "in_samples": 1, "in_text": 0},
    ]
