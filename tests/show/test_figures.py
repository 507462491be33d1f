"""Display of figures of any size, including those of a run that diverged."""

import json
import math

import numpy as np
import pytest
from conftest import made_up_text
from small_runs import finish, small

from charlstm import figures
from charlstm.model.scoring import Bits, Score
from charlstm.runs.begin import resume, start
from charlstm.text.corpus import Corpus


@pytest.mark.parametrize(
    ("bits", "value", "words"),
    [
        (2.5, 2**2.5, "5.66"),
        (570.0, 2.0**570, "3.9e+171"),
        (1023.9, 2.0**1023.9, "1.7e+308"),
        (1024.0, math.inf, "above 1e308"),
        (1e30, math.inf, "above 1e308"),
        (math.inf, math.inf, "above 1e308"),
        (math.nan, math.nan, "nan"),
    ],
)
def test_a_perplexity_of_any_size(bits, value, words):
    assert figures.perplexity(bits) == pytest.approx(value, rel=1e-15, nan_ok=True)
    assert figures.perplexity_in_words(bits) == words
    assert len(figures.in_words(bits, 2)) < 12


def test_what_json_has_no_number_for_is_null():
    values = [1, 2.5, "x", None, math.inf, -math.inf, math.nan]
    assert [figures.for_json(value) for value in values] == [1, 2.5, "x", None, None, None, None]


def test_a_score_beyond_what_a_float_holds():
    found = Score(np.full(3, -1e5))
    assert found.perplexity == math.inf
    assert found.bits_per_char == pytest.approx(1e5 / math.log(2))


def test_what_is_worse_than_a_guess_is_said():
    assert figures.noise(6.0, 64) == figures.divergence(6.9, 64) == ""
    assert figures.noise(6.01, 64) == (
        "validation loss of 6.01 bits, worse than a uniform guess (6.00): from a zero state, where samples start, the "
        "model produces noise; try a lower --learning-rate, --warmup or --reset-every"
    )
    assert "nan bits" in figures.noise(math.nan, 64)
    assert figures.divergence(7.1, 64) == (
        "the run diverged: smoothed training loss of 7.10 bits, worse than a uniform guess (6.00); "
        "start again with a lower --learning-rate"
    )


def test_a_run_that_diverged_is_said_saved_goes_on_and_can_be_scored(charlstm_command, tmp_path):
    (tmp_path / "book.txt").write_text(made_up_text(8000))
    rate = ("--learning-rate", 30, "--hidden-size", 96, "--report-every", 10, "--validation", 0.1, "--mix", 0)
    done = charlstm_command("train", "book.txt", *rate, "--iterations", 30, "--out", "run")
    notes = done.stderr.decode()
    assert done.returncode == 0, notes
    assert len([line for line in notes.splitlines() if "the run diverged" in line]) == 1
    assert "perplexity above 1e308" in notes
    assert "done    30 iterations reached" in notes
    more = resume(tmp_path / "run", chosen={"iterations": 50})
    finish(more)
    assert len(more.notes) == 2  # the changed budget and this one
    assert "the run diverged" in more.notes[1]
    lines = [json.loads(line) for line in (tmp_path / "run/metrics.jsonl").read_text().splitlines()]
    assert {line["perplexity"] for line in lines if line["bits_per_char"] >= 1024} == {None}
    assert max(line["bits_per_char"] for line in lines) > 1024
    score = charlstm_command("score", "run", "book.txt", "--checkpoint", "last")
    assert score.returncode == 0, score.stderr
    assert "uniform guess (3.46): the text is unlike" in score.stderr.decode()


def test_a_measurement_that_is_noise_is_said_once_until_it_is_none(tmp_path, monkeypatch):
    measured = (Bits(bits, math.nan, [bits]) for bits in (9.0, 9.5, 2.0, math.nan))
    monkeypatch.setattr("charlstm.training.evaluation.bits_per_unit", lambda *_: next(measured))
    run = start(
        Corpus.from_text(made_up_text(), "book"),
        small(iterations=40, validation=0.1, validate_every=10),
        str(tmp_path / "r"),
    )
    finish(run)
    assert [(note.split()[1], note.split()[5]) for note in run.notes] == [("10:", "9.00"), ("40:", "nan")]
