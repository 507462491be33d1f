"""The pictures of a run: drawn once after training, while training only if asked, and never at the cost of a run."""

import base64
import json
import re
import sys

import numpy as np
import pytest
from small_runs import everything, finish, small

from charlstm.cli import _guarded
from charlstm.errors import UserError
from charlstm.ngram.markov import baseline_bits
from charlstm.runs import pictures
from charlstm.runs.begin import resume, start
from charlstm.runs.inspection import curves
from charlstm.settings.config import from_preset
from charlstm.show import plotting
from charlstm.show.plotting import Curves

OPTIONS = {"iterations": 20, "validation": 0.1, "schedule": "constant", "hidden_size": 3, "num_layers": 1}


@pytest.fixture(autouse=True)
def wanted(monkeypatch):
    """Undo what keeps the other tests from drawing."""
    monkeypatch.delenv("CHARLSTM_PLOT")


def test_they_are_drawn_once_with_the_baseline_and_change_no_result(corpus, tmp_path, monkeypatch):
    drawn = []
    draw = pictures.draw
    monkeypatch.setattr(pictures, "draw", lambda folder: (drawn.append(folder), draw(folder)))
    run = start(corpus, small(**OPTIONS), str(tmp_path / "run"))
    finish(run)
    assert drawn == [tmp_path / "run"]
    assert run.notes == []
    assert (tmp_path / "run" / "loss.png").read_bytes().startswith(b"\x89PNG")
    assert "<svg" in (tmp_path / "run" / "loss.svg").read_text()
    assert "</html>" in (tmp_path / "run" / "report.html").read_text()
    bits = baseline_bits(run.trainer.ids, run.trainer.held_out, len(corpus.vocabulary))
    told = json.loads((tmp_path / "run" / "baseline.json").read_text())
    assert told == {"model": "order-5 Markov model", "bits_per_character": bits, "held_out_characters": 300}
    assert curves(tmp_path / "run").baseline == run.baseline_bits == bits
    finish(run)  # nothing to do
    assert len(drawn) == 1
    monkeypatch.setenv("CHARLSTM_PLOT", "0")
    finish(start(corpus, small(**OPTIONS), str(tmp_path / "other")))
    drawings = {"loss.png", "loss.svg", "baseline.json", "report.html"}
    assert not {path.name for path in (tmp_path / "other").iterdir()} & drawings
    assert everything(tmp_path / "run") == everything(tmp_path / "other")


def test_no_plot_draws_nothing_and_a_caller_who_leaves_does_not_wait(corpus, tmp_path, monkeypatch):
    drawn = []
    monkeypatch.setattr(pictures, "draw", drawn.append)
    finish(start(corpus, small(**OPTIONS, plot=False), str(tmp_path / "run")))
    assert not (tmp_path / "run" / "report.html").exists()
    left = start(corpus, small(**OPTIONS), str(tmp_path / "left"))
    for progress in left.train():
        if progress.iteration > 3:
            break
    assert left.trainer.iteration < 20
    assert drawn == []


def test_they_are_drawn_while_training_only_when_asked_and_due(corpus, tmp_path, monkeypatch):
    clock, drawn = [0.0], []
    monkeypatch.setattr(pictures, "perf_counter", lambda: clock[0])
    monkeypatch.setattr(pictures, "draw", lambda folder: drawn.append(clock[0]))
    run = start(corpus, small(**OPTIONS, plot_every=60, report_every=1), str(tmp_path / "run"))
    run.trainer.call_iterations = 1
    for progress in run.train():
        clock[0] += 11.0 if progress.kind == "tick" else 0.0
        run.trainer.call_iterations = 1
    *meanwhile, last = drawn
    assert meanwhile == [66, 132, 198]
    assert last == clock[0]
    with pytest.raises(UserError, match="--plot-every: expected at least 60, got 59"):
        from_preset(plot_every=59)


@pytest.mark.parametrize("failure", [OSError(28, "No space left on device"), RuntimeError("no\nfont"), ImportError()])
def test_a_failure_is_one_note(corpus, tmp_path, monkeypatch, failure):
    def fail(folder):
        raise failure

    monkeypatch.setattr(pictures, "draw", fail)
    run = start(corpus, small(**OPTIONS), str(tmp_path / "run"))
    finish(run)
    said = {OSError: "[Errno 28] No space left on device", RuntimeError: "no font", ImportError: "ImportError"}
    assert run.notes == [f"{tmp_path}/run/loss.png: not drawn: {said[type(failure)]}"]
    assert run.load("last").iteration == 20


def test_without_matplotlib_the_line_says_what_to_install(corpus, tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.txt").write_text("to be or not to be. " * 50)
    assert _guarded(["train", "a.txt", "-n", "3", "-H", "3", "--backend", "numpy"]) == 0
    told = [line for line in capsys.readouterr().err.splitlines() if "matplotlib" in line]
    assert len(told) == 1
    assert told[0].startswith("runs/a/loss.png: not drawn: plot: needs matplotlib: pip install matplotlib (")


@pytest.mark.parametrize(
    ("baselines", "labels"),
    [
        ([1.5], ["n-gram baseline: 1.500"]),
        ([None], []),
        ([1.5, 1.5, None], ["n-gram baseline: 1.500"]),
        ([1.5, 9.25], ["n-gram baseline of 0: 1.500", "n-gram baseline of 1: 9.250"]),
    ],
)
def test_each_baseline_is_one_line_within_the_plot(baselines, labels):
    columns = {
        "iteration": [0, 10, 20],
        "bits_per_char": [4.0, 3.0, 2.5],
        "loss": [3, 2, 2],
        "learning_rate": [1, 1, 1],
    }
    history = {name: np.array(values) for name, values in columns.items()}
    axes = plotting.plot([Curves(str(n), history, baseline=bits) for n, bits in enumerate(baselines)]).axes[0]
    lines = {line.get_label(): line.get_ydata()[0] for line in axes.lines if "baseline" in line.get_label()}
    assert sorted(lines) == labels
    for label, bits in lines.items():
        assert label.endswith(f": {bits:.3f}")
        assert axes.get_ylim()[0] < bits < axes.get_ylim()[1]


def test_long_metrics_are_thinned_but_every_evaluation_stays(corpus, tmp_path, monkeypatch):
    finish(
        start(corpus, small(**{**OPTIONS, "iterations": 90}, report_every=1, validate_every=7), str(tmp_path / "run"))
    )
    whole = curves(tmp_path / "run").history
    monkeypatch.setattr("charlstm.runs.inspection._MOST_POINTS", 10)
    thin = curves(tmp_path / "run").history
    assert len(whole["iteration"]) == 91
    measured = [7 * k for k in range(1, 13)] + [90]
    assert thin["iteration"].tolist() == sorted({*range(0, 91, 10), *measured})


def test_a_notebook_shows_the_picture(corpus, tmp_path):
    run = start(corpus, small(**OPTIONS), str(tmp_path / "<run>"))
    assert run._repr_html_() == f"<code>&lt;Run {tmp_path}/&lt;run&gt;: 0 iterations&gt;</code>"
    finish(run)
    shown = run._repr_html_()
    (picture,) = re.findall(r'src="data:image/png;base64,([^"]+)"', shown)
    assert base64.b64decode(picture).startswith(b"\x89PNG")
    assert shown.endswith("bits per character&gt;</code>")
    assert "<run>" not in shown


def test_a_resumed_run_draws_again(corpus, tmp_path):
    finish(start(corpus, small(**OPTIONS, plot=False), str(tmp_path / "run")))
    finish(resume(tmp_path / "run", corpus, {"iterations": 30, "plot": True}))
    assert (tmp_path / "run" / "loss.svg").is_file()


def test_no_report_of_a_long_text_is_written_unasked_and_a_failure_is_a_note(corpus, tmp_path, monkeypatch):
    from charlstm.runs import report

    monkeypatch.setattr(pictures, "_MOST_CHARACTERS", 10)
    finish(start(corpus, small(**OPTIONS), str(tmp_path / "long")))
    assert not (tmp_path / "long" / "report.html").exists()

    def fail(folder):
        raise MemoryError

    monkeypatch.setattr(pictures, "_MOST_CHARACTERS", 10**9)
    monkeypatch.setattr(report, "write", fail)
    run = start(corpus, small(**OPTIONS), str(tmp_path / "run"))
    finish(run)
    assert run.notes[-1] == f"{tmp_path / 'run' / 'report.html'}: not written: MemoryError"
