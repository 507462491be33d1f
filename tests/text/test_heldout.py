"""The held-out part of a text: its end, or lines from everywhere."""

import json
from dataclasses import replace

import numpy as np
import pytest
from conftest import made_up_text
from small_runs import everything, finish, small
from texts import is_mapped

from charlstm.errors import UserError
from charlstm.ngram import markov as ngram
from charlstm.runs.begin import resume, start
from charlstm.settings.config import from_preset
from charlstm.text import corpus as corpora
from charlstm.text import heldout
from charlstm.text.corpus import Corpus, Vocabulary
from charlstm.training.trainer import Trainer

OPTIONS = {
    "validation": 0.1,
    "validation_from": "shuffle-lines",
    "validate_every": 7,
    "iterations": 28,
    "schedule": "constant",
}
NAMES = sorted({word for word in made_up_text(9000, seed=8).replace(".", "").split() if len(word) > 1})
LIST = "\n".join(f"{first}{name}" for first in "abcdefghijklmnopqrst" for name in NAMES[:20])


def lines_of(corpus, ids):
    return corpus.vocabulary.decode(ids).removesuffix("\n").split("\n")


# ------------------------------------------------------------------------------------------------------------ the split
@pytest.mark.parametrize("text", [LIST, LIST + "\n", "\n\nab\n\nbc", "ab\nbc"])
@pytest.mark.parametrize("piece", [1, 50, 2**20])
@pytest.mark.parametrize("as_bytes", [False, True])
def test_every_line_is_read_or_kept_back_once(text, piece, as_bytes, monkeypatch):
    monkeypatch.setattr(heldout, "_PIECE", piece)
    corpus = Corpus.from_bytes(text.encode()) if as_bytes else Corpus.from_text(text)
    learned, held_out = heldout.split(corpus, 0.4, "shuffle-lines", 3)
    assert len(learned) + len(held_out) == len(corpus.ids)
    missing = "" if text.endswith("\n") else "\n"  # the last line has no line break, before and after shuffling
    whole = corpus.vocabulary.decode(np.concatenate([learned, held_out]))
    assert sorted((whole + missing).split("\n")) == sorted((text + missing).split("\n"))
    assert learned.dtype == held_out.dtype == corpus.ids.dtype
    assert corpus.vocabulary.decode(learned[-1:]) == "\n"


def test_the_order_follows_from_the_seed_alone():
    corpus = Corpus.from_text(LIST)
    first, again, other = (heldout.split(corpus, 0.2, "shuffle-lines", seed)[1] for seed in (0, 0, 1))
    assert first.tobytes() == again.tobytes() != other.tobytes()
    assert len({line[0] for line in lines_of(corpus, first)}) > 15  # lines come from everywhere
    assert {line[:1] for line in lines_of(corpus, heldout.split(corpus, 0.1)[1])[1:]} == {"s", "t"}
    assert 0 <= len(first) - 0.2 * len(corpus.ids) < 10


def test_a_large_text_is_mapped(id_cache, monkeypatch):
    corpus = corpora.kept(Corpus.from_text(LIST))
    learned, held_out = heldout.split(corpus, 0.2, "shuffle-lines", 3)
    assert is_mapped(learned.base if learned.base is not None else learned) or is_mapped(learned)
    monkeypatch.undo()
    small_ids = heldout.split(corpus, 0.2, "shuffle-lines", 3)
    assert [part.tobytes() for part in small_ids] == [learned.tobytes(), held_out.tobytes()]


@pytest.mark.parametrize(
    ("corpus", "message"),
    [
        (Corpus.from_text("ab" * 60), "text is a single line; --validation-from end holds out its end"),
        (Corpus.from_text("ab" * 60 + "\n"), "text is a single line"),
        (
            replace(Corpus.from_text("ab\ncd\n" * 20), spans=((60, 1), (120, 2))),
            "cannot be used with --weight: weighted texts keep their lines together",
        ),
        (
            Corpus("x", Vocabulary("\nab|"), np.array([1, 2, 0, 3, 1, 2, 0] * 9, np.uint8), separator="|", documents=9),
            r"the texts are joined by '\|', so their lines cannot be shuffled",
        ),
    ],
)
def test_lines_that_cannot_be_shuffled(corpus, message):
    with pytest.raises(UserError, match="--validation-from shuffle-lines: " + message):
        heldout.split(corpus, 0.1, "shuffle-lines")


def test_mistakes_of_options():
    with pytest.raises(UserError, match="--validation-from shuffle-lines: needs --validation"):
        from_preset(validation_from="shuffle-lines")
    with pytest.raises(UserError, match="--validation-from: expected one of end, shuffle-lines, got 'begin'"):
        from_preset(validation=0.1, validation_from="begin")
    with pytest.raises(UserError, match="fewer than two characters of text are held out"):
        heldout.split(Corpus.from_text("abc\n\n\n"), 0.01, "shuffle-lines", 0)


# ------------------------------------------------------------------------------------------------------- sorted lists
@pytest.mark.parametrize(
    ("text", "is_sorted"),
    [
        (LIST, True),
        ("\n".join(reversed(LIST.split("\n"))), True),
        ("\n".join(line.title() if len(line) % 2 else line for line in LIST.split("\n")), True),
        ("\n".join(f"{line}\n" for line in NAMES), False),  # each line is followed by an empty one
        (made_up_text(4000), False),
        ("a\nb\nc", False),
        ("a\n" * 500 + "b", False),
        ("ab" * 999, False),
    ],
)
def test_a_sorted_list_is_recognised(text, is_sorted):
    said = heldout.remark(Corpus.from_text(text, "names.txt"), 0.1, "end")
    assert bool(said) == is_sorted
    assert not is_sorted or said.startswith(
        "names.txt is a sorted list: its held-out end differs from the training text"
    )
    assert heldout.remark(Corpus.from_text(text), 0.0, "end") == heldout.remark(Corpus.from_text(text), 0.1, "x") == ""


@pytest.mark.parametrize(
    ("text", "is_list"),
    [
        (LIST, True),
        (LIST + "\n" + "a" * 99, True),  # no line break after the last
        ("\n".join(LIST.split("\n")[::-1]), True),
        ("\n".join(LIST.split("\n")[:100]), False),  # 99 line breaks
        (LIST.replace("\n", "\n\n", 1), False),
        (LIST + "\n" + "\n".join(["a" * 41] * 5) + "\n", False),
        ("ab" * 999, False),
    ],
)
def test_the_lines_of_a_list_are_documents(text, is_list):
    corpus = Corpus.from_text(text)
    assert heldout.is_list(corpus) == is_list
    trainer = Trainer(small(), corpus)
    assert trainer.config.documents == ("lines" if is_list else "texts")
    whole = corpus.ids.tobytes()
    assert (trainer.ids.tobytes() == whole) != is_list
    assert len(trainer.ids) == len(corpus.ids)
    for config in (small(documents="texts"), small(preset="char-rnn")):
        assert whole.startswith(Trainer(config, corpus).ids.tobytes())


# --------------------------------------------------------------------------------------------------------------- runs
def test_a_run_goes_on_to_the_same_bits(tmp_path):
    corpus = Corpus.from_text(LIST, "list")
    finish(start(corpus, small(**OPTIONS), str(tmp_path / "whole")))
    run = start(corpus, small(**{**OPTIONS, "iterations": 14}), str(tmp_path / "run"))
    finish(run)
    assert run.trainer.held_out.tobytes() == heldout.split(corpus, 0.1, "shuffle-lines", 0)[1].tobytes()
    assert run.trainer.ids.tobytes() == heldout.split(corpus, 0.1, "shuffle-lines", 0)[0].tobytes()
    assert 'validation_from = "shuffle-lines"' in (tmp_path / "run" / "config.toml").read_text()
    again = resume(tmp_path / "run", chosen={"iterations": 28})
    finish(again)
    assert everything(tmp_path / "run") == everything(tmp_path / "whole")
    with pytest.raises(UserError, match="--validation-from cannot change when a run is resumed"):
        resume(tmp_path / "run", chosen={"validation_from": "end"})


def test_what_is_measured_is_what_score_says_of_those_lines():
    trainer = Trainer(small(**OPTIONS, dtype="float64"), Corpus.from_text(LIST))
    told = [progress.val_bits_per_char for progress in trainer.run() if progress.kind == "evaluation"]
    text = trainer.corpus.vocabulary.decode(trainer.held_out)
    assert told[-1] == pytest.approx(trainer.checkpoint().score(text).bits_per_char, rel=1e-9)


def test_the_commands(charlstm_command, tmp_path):
    (tmp_path / "names.txt").write_text(LIST + "\n")
    options = ("--hidden-size", 4, "--seq-length", 7, "--batch-size", 3, "--iterations", 20, "--validation", 0.1)
    listed = charlstm_command("train", "names.txt", *options)
    assert b"lines   each line of names is a document" in listed.stderr
    plain = charlstm_command("train", "names.txt", *options, "--documents", "texts")
    assert b"names is a sorted list: its held-out end" in plain.stderr
    done = charlstm_command("train", "names.txt", *options, "--validation-from", "shuffle-lines", "--seed", 4)
    assert done.returncode == 0, done.stderr
    assert b"sorted list" not in done.stderr
    baseline = float(done.stderr.split(b"Markov model, ")[1].split()[0])
    assert baseline < float(plain.stderr.split(b"Markov model, ")[1].split()[0])
    with_ngram = charlstm_command(
        "ngram", "names.txt", "--json", "--validation-from", "shuffle-lines", "--seed", 4, "--order", 5
    )
    assert json.loads(with_ngram.stdout)["bits_per_char"] == pytest.approx(baseline, rel=0.02)
    assert b"sorted list" in charlstm_command("ngram", "names.txt").stderr
    assert charlstm_command("train", "names.txt", *options[:-2], "--validation-from", "shuffle-lines").returncode == 2
    corpus = corpora.load([tmp_path / "names.txt"])
    _, found = ngram.learn_and_measure(corpus, 5, "kneser-ney", 0.1, "shuffle-lines", 4)
    assert json.loads(with_ngram.stdout)["bits_per_char"] == found.bits_per_char
