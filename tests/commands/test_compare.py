"""`charlstm compare`: its figures are those of the other commands, and what cannot be compared is refused."""

import json
import re

import pytest
from conftest import made_up_text
from small_runs import finish, small

from charlstm.cli import _guarded
from charlstm.commands.compare import side_by_side
from charlstm.errors import Diverged
from charlstm.model.model import load
from charlstm.runs.begin import start
from charlstm.text.corpus import Corpus

PRESETS = ["compare", "book.txt", "-p", "min-char-lstm,min-char-rnn", "--chars", "800", "--length", "20"]


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "book.txt").write_text(made_up_text())
    return tmp_path


def objects(capsys):
    return [json.loads(line) for line in capsys.readouterr().out.splitlines()]


def test_presets_are_compared_with_equal_characters(folder, capsys, monkeypatch):
    monkeypatch.delenv("CHARLSTM_PLOT")
    assert _guarded([*PRESETS, "--validation", "0.2", "--seed", "3", "--json"]) == 0
    rows = objects(capsys)
    assert [row["bits_per_char"] for row in rows] == sorted(row["bits_per_char"] for row in rows)
    assert sorted(row["name"] for row in rows) == ["min-char-lstm", "min-char-rnn", "n-gram"]
    by_name = {row["name"]: row for row in rows}
    assert _guarded(["ngram", "book.txt", "--validation", "0.2", "--json"]) == 0
    (markov,) = objects(capsys)
    assert {row["baseline"] for row in rows} == {markov["bits_per_char"]} == {by_name["n-gram"]["bits_per_char"]}
    assert by_name["n-gram"]["parameters"] == markov["contexts"]
    held_out = made_up_text()[2400:]
    for name in ("min-char-lstm", "min-char-rnn"):
        run, row = folder / "runs" / "book-compare" / name, by_name[name]
        best = load(run, "best")
        assert row["bits_per_char"] == pytest.approx(best.score(held_out).bits_per_char, rel=1e-6)
        assert (row["chars"], row["parameters"]) == (800, len(best.theta))
        assert row["sample"] == best.sample(length=20, temperature=0.8, seed=3)
        assert best.config.preset == name
        assert not (run / "loss.png").exists()
    for kind in ("png", "svg"):
        assert (folder / "runs" / "book-compare" / f"compare.{kind}").stat().st_size > 1000
    assert (
        _guarded(
            [
                "compare",
                "--runs",
                "runs/book-compare/min-char-rnn,runs/book-compare/min-char-lstm",
                "--length",
                "20",
                "--seed",
                "3",
                "--json",
            ]
        )
        == 0
    )
    timeless = [{**row, "seconds": 0} if row["name"] == "n-gram" else row for row in rows]
    assert [{**row, "seconds": 0} if row["name"] == "n-gram" else row for row in objects(capsys)] == timeless
    assert (folder / "compare.png").exists()


def test_the_table_and_the_samples(folder, capsys, monkeypatch):
    monkeypatch.setenv("COLUMNS", "100")
    assert _guarded([*PRESETS, "--seed", "1", "-o", "out"]) == 0
    out, err = capsys.readouterr()
    table, _, samples = out.partition("\n\n")
    titles, *rows = table.splitlines()
    assert re.split("  +", titles) == [
        "model", "held-out bits/char", "to n-gram", "chars/s", "parameters", "chars learned", "seconds",
    ]  # fmt: skip
    assert {row.split()[0] for row in rows} == {"n-gram", "min-char-lstm", "min-char-rnn"}
    for row in rows:
        name, bits, against, *_ = row.split()
        ngram = next(float(each.split()[1]) for each in rows if each.startswith("n-gram"))
        assert against == "-" if name == "n-gram" else float(against) == pytest.approx(float(bits) - ngram, abs=0.0011)
    assert sorted(samples.splitlines()[0].split()) == ["min-char-lstm", "min-char-rnn", "n-gram"]
    assert "plot    out/compare.png" in err
    assert "preset  min-char-lstm (1 of 2), " in err


def test_a_preset_that_diverges_is_left_out(folder, capsys, monkeypatch):
    from charlstm.training import stopping

    trained = stopping.trained

    def diverging(run, show):
        if run.config.preset == "min-char-rnn":
            raise Diverged("the loss of iteration 7 is nan")
        trained(run, show)

    monkeypatch.setattr(stopping, "trained", diverging)
    assert _guarded([*PRESETS, "--json"]) == 0
    out, err = capsys.readouterr()
    assert sorted(json.loads(line)["name"] for line in out.splitlines()) == ["min-char-lstm", "n-gram"]
    assert "preset  min-char-rnn is left out: the loss of iteration 7 is nan" in err
    assert _guarded(["compare", "book.txt", "-p", "min-char-rnn", "--chars", "800"]) == 1
    assert capsys.readouterr().err.splitlines()[-1] == "charlstm: every preset has diverged"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["book.txt", "-p", "fast,slow"], "--presets: expected some of fast, quality, best, "),
        (["book.txt", "-p", "fast,fast"], "--presets: fast is there twice"),
        (["book.txt", "--seconds", "1", "--chars", "5"], "--chars: cannot be combined with --seconds"),
        (["book.txt", "--validation", "0"], "--validation: expected more than 0 and less than 1, got 0"),
        (["book.txt", "--validation", "nan"], "--validation: expected more than 0 and less than 1, got nan"),
        (["book.txt", "--length", "0"], "--length: expected at least 1, got 0"),
        (["book.txt", "--temperature", "-1"], "--temperature: expected at least 0, got -1"),
        (["book.txt", "--prime", "The"], "--prime: "),
        (["book.txt", "--seconds", "-1"], "--seconds: expected more than 0, got -1"),
        (["book.txt", "-p", "fast,char-rnn", "--chars", "5"], "preset char-rnn: the text has 2,700 characters, too few "),
        (["book.txt", "--runs", "runs/a"], "--runs: compares what has been trained already, so it cannot be combined with TEXT"),
        (["--runs", "runs/a,runs/a"], "--runs: runs/a is there twice"),
        (["--runs", "runs/none"], "runs/none: "),
        (["--runs", "runs/a,runs/b"], "b: holds out another text than a, so their figures cannot be compared"),
        (["--runs", "runs/a,runs/c"], "c: has not been evaluated on held-out text; train with --validation"),
        (["none.txt"], "none.txt: "),
    ],
)  # fmt: skip
def test_a_mistake_is_one_line_and_trains_nothing(folder, capsys, arguments, message):
    if "--runs" in arguments:
        for name, validation in (("a", 0.1), ("b", 0.2), ("c", 0.0)):
            config = small(iterations=3, hidden_size=2, num_layers=1, validation=validation)
            finish(start(Corpus.from_text(made_up_text(), "book"), config, f"runs/{name}"))
    assert _guarded(["compare", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"charlstm: {message}")
    assert not list(folder.rglob("compare.*"))
    assert not (folder / "runs" / "book-compare").exists()


def test_samples_stand_side_by_side_where_there_is_room():
    texts = {"one": "a word\nand more words than fit", "two": "天地玄黄\x1b[31m"}
    first = ["one", "---", "a word", "and more words than fit"]
    for line, left, right in zip(
        side_by_side(texts, 51).splitlines(), first, ["two", "---", "天地玄黄·[31m", ""], strict=True
    ):
        assert line.startswith(left)
        assert line.removeprefix(left).strip() == right
    assert side_by_side(texts, 50).splitlines() == [
        "one", "---", "a word", "and more words than fit", "", "two", "---", "天地玄黄·[31m",
    ]  # fmt: skip
