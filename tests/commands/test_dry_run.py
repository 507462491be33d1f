"""`charlstm train --dry-run`: what it shows for each kind of budget, and that it leaves nothing behind."""

import re

import pytest
from conftest import made_up_text

from charlstm.cli import _guarded

SMALL = ["--hidden-size", "5", "--seq-length", "10", "--batch-size", "2"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(made_up_text())
    return tmp_path


@pytest.mark.parametrize(
    ("budget", "shown"),
    [
        (
            ["--iterations", "1000"],
            r"1,000 iterations in about \S+ \w+, 6.71 passes over the text; a pass is 149 iterations",
        ),
        (["--epochs", "2"], r"298 iterations in about \S+ \w+, 2 passes over the text; a pass is 149 iterations"),
        (["--seconds", "100"], r"[\d,]+ iterations in about (99\.\d|100) seconds, \S+ passes over the text; .*"),
        (["--until-loss", "0.5", "--schedule", "constant"], r"until a loss of 0.5; a pass is 149 iterations"),
        (["--until-loss", "0.5", "--epochs", "2"], r"until a loss of 0.5, at most 298 iterations in about .*"),
    ],
)
def test_the_plan_is_shown_and_nothing_is_written(folder, capsys, budget, shown):
    budget = budget if "--seconds" in budget else ["--seconds", "none", *budget]
    assert _guarded(["train", "book.txt", "--dry-run", *SMALL, *budget]) == 0
    out, err = capsys.readouterr()
    lines = dict(re.findall(r"^(\w+) +(.*)$", err, re.MULTILINE))
    assert out == ""
    assert lines["text"].startswith("book: 3,000 characters")
    assert "1 x 5 hidden units" in lines["model"]
    assert re.match(r"0\.\d MB", lines["memory"])
    assert re.match(r"\S+ ms per iteration, [\d,]+ characters per second", lines["speed"])
    assert re.fullmatch(shown, lines["budget"])
    assert [path.name for path in folder.iterdir()] == ["book.txt"]


@pytest.mark.parametrize("other", [["--resume"], ["--quiet"], ["--json"], ["--style", "original"]])
def test_it_cannot_be_combined(folder, capsys, other):
    assert _guarded(["train", "book.txt", "--dry-run", *other]) == 2
    expected = "charlstm: --dry-run: cannot be combined with --resume, --style original, --quiet or --json\n"
    assert capsys.readouterr().err == expected
