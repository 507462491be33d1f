"""`charlstm plot`: its images, what it lays over each other, and what it refuses."""

import pytest
from conftest import made_up_text
from small_runs import finish, small

from charlstm.cli import _guarded
from charlstm.runs.begin import start
from charlstm.runs.inspection import curves
from charlstm.show import plotting
from charlstm.text.corpus import Corpus


@pytest.fixture
def runs(tmp_path, monkeypatch):
    """Two runs in runs/ of the current folder, one and two, with held-out text."""
    monkeypatch.chdir(tmp_path)
    for seed, name in enumerate(("one", "two")):
        config = small(iterations=40, report_every=5, validation=0.1, hidden_size=3, num_layers=1, seed=seed)
        finish(start(Corpus.from_text(made_up_text(), "book"), config, f"runs/{name}"))
    return tmp_path / "runs"


def test_the_images_of_a_run_lie_in_its_folder_and_are_the_same_every_time(runs, capsys):
    images = []
    for _ in range(2):
        assert _guarded(["plot", "runs/one"]) == 0
        assert capsys.readouterr().out.splitlines() == ["runs/one/loss.png", "runs/one/loss.svg"]
        images.append([(runs / "one" / f"loss.{kind}").read_bytes() for kind in ("png", "svg")])
    assert images[0] == images[1]
    assert images[0][0].startswith(b"\x89PNG")
    assert b"<svg" in images[0][1]
    assert _guarded(["verify", "runs/one"]) == 0


def test_the_newest_run_is_the_default(runs, capsys):
    assert _guarded(["plot", "--out", "a.pdf"]) == 0
    assert capsys.readouterr().err == "run     runs/two\n"
    assert (runs.parent / "a.pdf").read_bytes().startswith(b"%PDF")


@pytest.mark.parametrize(("by", "column"), [("iterations", "iteration"), ("chars", "chars"), ("seconds", "seconds")])
def test_several_runs_are_laid_over_each_other(runs, by, column):
    given = [curves("runs/one"), curves("runs/two")]
    loss, rate = plotting.plot(given, by).axes
    assert len(rate.lines) == 2
    training = [line for line in loss.lines if line.get_label() in ("runs/one", "runs/two")]
    for line, run in zip(training, given, strict=True):
        assert line.get_xdata().tolist() == run.history[column][: len(line.get_xdata())].tolist()
        assert line.get_ydata().tolist() == run.history["bits_per_char"][: len(line.get_xdata())].tolist()
    assert training[0].get_color() != training[1].get_color()
    low, high = loss.get_ylim()
    for run in given:
        assert low < run.history["bits_per_char"][-1] < high


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["runs/none"], "runs/none: expected the folder of a run: config.toml: No such file or directory"),
        (["runs/one", "-o", "a.gif"], "a.gif: expected a name that ends in .png, .svg or .pdf"),
        (["runs/one", "--by", "days"], "--by: expected one of iterations, chars, seconds, got 'days'"),
        (["runs/one", "runs/empty"], "plot: runs/empty has no reports yet; --report-every sets how often they come"),
        (["runs/one", "runs/damaged"], "runs/damaged/metrics.jsonl: damaged: "),
        (["runs/one", "runs/list"], "runs/list/metrics.jsonl: damaged: "),
        (["runs/one", "runs/short"], "runs/short/metrics.jsonl: damaged: no line has 'chars'"),
        (["runs/one", "runs/strange"], "runs/strange/config.toml: damaged: "),
        (["runs/one", "runs/bytes"], "plot: runs/bytes counts bytes, but runs/one counts characters"),
    ],
)
def test_a_mistake_is_one_line_and_writes_nothing(runs, capsys, arguments, message):
    lines = (runs / "one" / "metrics.jsonl").read_text()
    for name, config, metrics in (
        ("empty", "", ""), ("damaged", "", "{\n"), ("strange", "nothing = 1", lines), ("list", "", "[1]\n"),
        ("short", "", '{"iteration": 1, "bits_per_char": 2}\n'), ("bytes", "bytes = true", lines),
    ):  # fmt: skip
        (runs / name).mkdir()
        (runs / name / "config.toml").write_text(config)
        (runs / name / "metrics.jsonl").write_text(metrics)
    assert _guarded(["plot", *arguments]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"charlstm: {message}")
    assert not list(runs.parent.rglob("loss.*"))


def test_a_run_that_is_still_training_can_be_plotted(runs):
    metrics = runs / "one" / "metrics.jsonl"
    whole = metrics.read_bytes()
    metrics.write_bytes(whole[:-7])  # the last line is being written
    assert len(curves("runs/one").history["iteration"]) == whole.count(b"\n") - 1
    assert plotting.plot([curves("runs/one")]).axes
