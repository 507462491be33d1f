"""`charlstm novelty`: a run that knows its text by heart, one that knows nothing, and what is refused."""

import json

import pytest
from conftest import made_up_text
from small_runs import finish, small

from charlstm.cli import _guarded
from charlstm.runs.begin import start
from charlstm.text import corpus

COPIED = made_up_text()[200:260]


@pytest.fixture
def run(tmp_path, monkeypatch):
    """A run with three saved samples: one that is copied, one that is new, and one of iteration 0."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(made_up_text())
    config = small(iterations=8, hidden_size=3, num_layers=1, validation=0.2)
    finish(start(corpus.load(["book.txt"]), config, "runs/book"))
    heads = (f"# iteration {n}  loss 1.000000  temperature 1\n" for n in (0, 5, 8))
    blocks = [f"{head}{text}\n\n" for head, text in zip(heads, ("?", COPIED, "ZZZZ" + COPIED[:21]), strict=True)]
    (tmp_path / "runs" / "book" / "samples.txt").write_text("".join(blocks))
    return tmp_path / "runs" / "book"


def test_samples_are_compared_with_the_training_text(run, capsys):
    assert _guarded(["novelty", "runs/book"]) == 0
    shown, _, longest = capsys.readouterr().out.partition("\n\n")
    head, *rows = shown.splitlines()
    assert head.split()[:4] == ["sample", "characters", "longest", "copied"]
    assert rows[0].split() == ["5", "60", "60", "100%", *["0%"] * 6]
    assert rows[1].split()[:4] == ["8", "25", "21", "84%"]
    assert rows[2].split()[:2] == ["held-out", "60"]
    assert longest == f"the longest run that book has, 60 characters:\n{COPIED}\n"


def test_the_length_that_counts_and_objects(run, capsys):
    assert _guarded(["novelty", "runs/book", "--copied-from", "22", "--json"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [each["iteration"] for each in found] == [5, 8, None]
    assert [each["copied"] for each in found[:2]] == [1.0, 0.0]
    assert found[0]["longest"] == COPIED
    assert found[1]["new"]["4"] == pytest.approx(4 / 22)


def test_a_mistake_is_one_line(run, capsys):
    (run / "samples.txt").write_text("")
    assert _guarded(["novelty", "runs/book"]) == 2
    assert (
        capsys.readouterr().err
        == f"charlstm: {run.relative_to(run.parent.parent)}/samples.txt: no sample has been saved yet\n"
    )
