"""The Python API, in programs and notebooks: texts in memory, finished runs, progress, options and suggestions."""

import json
import re
import sys
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from conftest import ROOT, made_up_text
from small_runs import SMALL

import charlstm
from charlstm import Corpus, UserError
from charlstm.host import terminals
from charlstm.show import display, notebook
from charlstm.training.progress import Progress

TEXT = made_up_text()
TINY = {
    **SMALL,
    "iterations": 12,
    "schedule": "constant",
    "report_every": 3,
    "sample_every": 5,
    "batch_size": 2,
    "num_layers": 1,
}


@pytest.fixture(autouse=True)
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


@pytest.fixture
def run():
    return charlstm.train(texts=[TEXT], **{**TINY, "validation": 0.1, "validate_every": 6})


# ------------------------------------------------------------------------------------------------------ text in memory
def test_text_in_memory_is_trained_on_like_a_file(tmp_path):
    (tmp_path / "text.txt").write_text(TEXT)
    of_file = charlstm.train("text.txt", **TINY)
    for run in (
        charlstm.train(Corpus.from_text(TEXT), **TINY),
        charlstm.train(texts=[TEXT], **TINY),
        charlstm.train(texts=TEXT, **TINY),
        charlstm.train(texts=["\ufeff" + TEXT.replace("\n", "\r\n")], **TINY),
    ):
        assert run.model.theta.tobytes() == of_file.model.theta.tobytes()
        assert charlstm.resume(run, iterations=14).trainer.iteration == 14  # reads the copy of the text in the cache


def test_several_strings_are_joined_as_files_are(tmp_path):
    texts = ["ONE two.\n", "Three", "four five"] * 20
    for number, text in enumerate(texts):
        (tmp_path / f"{number:02}.txt").write_text(text)
    for options in ({}, {"separator": r"--\n"}, {"lower": True}, {"bytes": True}):
        of_files = charlstm.train(*sorted(tmp_path.glob("*.txt")), **TINY, **options)
        run = charlstm.train(texts=texts, **TINY, **options)
        assert run.trainer.corpus.digest == of_files.trainer.corpus.digest
        assert run.model.edges == of_files.model.edges
    from_run = charlstm.train(texts=["four"] * 40, from_run=of_files.folder, iterations=1, batch_size=2, seq_length=5)
    assert from_run.trainer.corpus.vocabulary == of_files.trainer.corpus.vocabulary


@pytest.mark.parametrize(
    ("sources", "options", "message"),
    [
        ((TEXT,), {}, "that looks like text: '" + repr(TEXT[:30])[1:]),
        (("To be, or not to be",), {}, "that looks like text: 'To be, or not to be'..."),
        (("a\nb",), {}, "that looks like text: "),
        (("nothing.txt",), {}, "nothing.txt: no such file or folder"),
        (("a.txt",), {"texts": ["a"]}, "texts: cannot be combined with files"),
        ((), {"texts": ["ab", 3]}, "texts: expected strings, got 3"),
        ((), {"texts": []}, "text: the text is empty"),
        ((Corpus.from_text("ab"), "b.txt"), {}, "a Corpus must be the only text, got 2 texts"),
        (
            (Corpus.from_text("ABab"),),
            {"lower": True},
            "--lower: text is a Corpus, which is used as it is; create it from text.lower()",
        ),
        (
            (Corpus.from_text("ABab"),),
            {"bytes": True},
            "--bytes: text is a Corpus of characters; create it with Corpus.from_bytes",
        ),
    ],
)
def test_what_is_no_text_is_told_in_a_line(sources, options, message):
    with pytest.raises(UserError) as caught:
        charlstm.train(*sources, **TINY, **options)
    assert str(caught.value).startswith(message)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 250


# ---------------------------------------------------------------------------------------------------------- the run
def test_a_finished_run(run):
    assert run.folder.name == "text"
    assert run.config.iterations == 12
    assert run.reached == "12 iterations"
    assert run.seconds == run.trainer.seconds > 0
    assert (
        run.sample("ab", length=9, seed=1)
        == run.model.sample("ab", length=9, seed=1)
        == charlstm.load(run.folder).sample("ab", length=9, seed=1)
    )
    assert run.score("abc de.").bits_per_char == run.model.score("abc de.").bits_per_char
    assert run.model is run.model


def test_history_has_the_columns_of_metrics(run):
    history = run.history
    lines = [json.loads(line) for line in (run.folder / "metrics.jsonl").read_text().splitlines()]
    assert set(history) == {name for line in lines for name in line}
    assert {len(column) for column in history.values()} == {len(lines)}
    assert history["iteration"].tolist() == [line["iteration"] for line in lines]
    assert history["iteration"].dtype == np.int64
    measured = np.isfinite(history["val_bits_per_char"])
    assert history["val_bits_per_char"][measured].tolist() == [
        line["val_bits_per_char"] for line in lines if "val_bits_per_char" in line
    ]
    np.testing.assert_allclose(history["loss"], [line["loss"] / SMALL["seq_length"] for line in lines])


def test_resume(run):
    longer = charlstm.resume(run.folder, iterations=20)
    assert (longer.folder, longer.reached, longer.history["iteration"][-1]) == (run.folder, "20 iterations", 20)
    assert charlstm.resume(iterations=21, quiet=True).trainer.iteration == 21  # resumes the newest run
    whole = charlstm.train(texts=[TEXT], **{**TINY, "validation": 0.1, "validate_every": 6, "iterations": 21})
    assert whole.load("last").theta.tobytes() == longer.load("last").theta.tobytes()
    with pytest.raises(UserError, match="unknown option 'iteratons': did you mean 'iterations'"):
        charlstm.resume(run, iteratons=3)
    with pytest.raises(UserError, match="--hidden-size cannot change when a run is resumed"):
        charlstm.resume(run, hidden_size=3)


def test_whoever_looks_in_sees_progress_and_may_leave():
    run = charlstm.start(texts=[TEXT], **TINY)
    assert run.reached is None
    assert run.history == {}
    kinds = set()
    for progress in run.train():
        kinds.add(progress.kind)
        if progress.kind == "tick" and progress.iteration >= 5:
            break
    assert kinds >= {"tick", "sample"}
    assert run.reached is None
    assert 5 <= run.trainer.iteration < 12
    assert charlstm.load(run.folder, "last").iteration == run.trainer.iteration
    assert charlstm.resume(run).reached == "12 iterations"


def test_plot(run, tmp_path, monkeypatch):
    figure = run.plot(tmp_path / "loss.png")
    assert (tmp_path / "loss.png").read_bytes() == figure._repr_png_() or (tmp_path / "loss.png").stat().st_size > 1000
    axes, rate = figure.axes
    single, training, held_out, best, baseline = axes.lines
    history = run.history
    np.testing.assert_allclose(single.get_ydata(), history["loss"] / np.log(2))
    np.testing.assert_array_equal(best.get_ydata(), np.nanmin(history["val_bits_per_char"]))
    np.testing.assert_array_equal(rate.lines[0].get_ydata(), history["learning_rate"])
    np.testing.assert_array_equal(training.get_xdata(), history["iteration"][np.isfinite(history["bits_per_char"])])
    np.testing.assert_array_equal(
        held_out.get_ydata(), history["val_bits_per_char"][np.isfinite(history["val_bits_per_char"])]
    )
    assert baseline.get_ydata()[0] == run.baseline_bits
    assert axes.get_ylabel() == "bits per character"
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(UserError, match=r"plot: needs matplotlib: pip install matplotlib \("):
        run.plot()


def test_what_is_shown_of_things_is_a_short_line(run):
    progress = list(charlstm.resume(run, iterations=13).trainer.run()) or [run.last]
    shown = {
        repr(thing)
        for thing in (
            run, run.model, run.config, run.trainer.corpus, run.model.vocabulary, run.score("ab"), run.model.samples(seed=1)[0], progress[0],
            Corpus.from_bytes(b"ab" * 500), charlstm.from_preset(), charlstm.from_preset("min-char-lstm", seed=3),
        )
    }  # fmt: skip
    for line in shown:
        assert "\n" not in line
        assert len(line) < 400
    assert f"<Run {run.folder}: 12 iterations, {run.last.bits_per_char:.3f} bits per character>" in shown
    assert "from_preset('fast')" in shown
    assert "from_preset('min-char-lstm', seed=3)" in shown
    assert eval(repr(run.config), {"from_preset": charlstm.from_preset}) == run.config  # noqa: S307


# ----------------------------------------------------------------------------------------------------------- options
@pytest.mark.parametrize(
    ("name", "meant"),
    [("hiden_size", "hidden_size"), ("hidden_sise", "hidden_size"), ("lr", "learning_rate"), ("n_layer", "num_layers"), ("temprature", "temperature"),
     ("qiet", None)],
)  # fmt: skip
def test_a_misspelt_option_is_answered_with_a_guess(name, meant):
    with pytest.raises(UserError) as caught:
        charlstm.train(texts=[TEXT], **TINY, **{name: 3})
    expected = f"unknown option {name!r}: " + (f"did you mean {meant!r}?" if meant else "options are ")
    assert str(caught.value).startswith(expected)


def test_a_misspelt_option_of_sampling_is_answered_with_a_guess(model):
    for call in (
        lambda: model.sample("a", temprature=1),
        lambda: model.samples("a", 2, temprature=1),
        lambda: model.stream(temprature=1),
    ):
        with pytest.raises(UserError, match="unknown option 'temprature': did you mean 'temperature'"):
            call()


def test_scalars_of_numpy_are_numbers(model):
    config = charlstm.from_preset(
        hidden_size=np.int64(32),
        learning_rate=np.float32(0.01),
        lower=np.bool_(True),
        seed=np.uint32(7),
        grad_clip_norm=np.array(2.0),
        iterations=np.int32(3),
    )
    assert (config.hidden_size, config.learning_rate, config.lower, config.seed) == (
        32,
        float(np.float32(0.01)),
        True,
        7,
    )
    assert {type(value) for value in (config.hidden_size, config.seed, config.iterations)} == {int}
    assert type(config.learning_rate) is type(config.grad_clip_norm) is float
    assert type(config.lower) is bool
    with pytest.raises(UserError, match="--hidden-size: expected a whole number, got 3.5"):
        charlstm.from_preset(hidden_size=np.float64(3.5))
    with pytest.raises(UserError, match="--hidden-size: expected a whole number"):
        charlstm.from_preset(hidden_size=np.array([3, 4]))
    expected = model.samples("a", 2, length=9, temperature=0.5, seed=3)
    found = model.samples("a", np.int64(2), length=np.int64(9), temperature=np.float32(0.5), seed=np.int64(3))
    assert [each.text for each in found] == [each.text for each in expected]
    assert json.dumps([each.seed for each in found]) == "[3, 4]"
    charlstm.resume(charlstm.train(texts=[TEXT], **TINY), iterations=np.int64(13))


# ----------------------------------------------------------------------------------------------------------- progress
class Terminal:
    def __init__(self, is_terminal):
        self.is_terminal, self.written = is_terminal, ""

    def isatty(self):
        return self.is_terminal

    def write(self, text):
        self.written += text

    def flush(self):
        pass


@pytest.mark.parametrize(
    ("environment", "is_terminal", "redraws"),
    [
        ({}, True, True),
        ({}, False, False),
        ({"TERM": "dumb"}, True, False),
        ({"JPY_PARENT_PID": "1"}, True, False),
        ({"TERM": "xterm-color", "PAGER": "cat", "GIT_PAGER": "cat", "CLICOLOR": "1"}, True, False),
        ({"TERM": "xterm-color", "CLICOLOR": "1"}, True, True),
    ],
)
def test_a_cell_of_a_notebook_is_no_terminal_to_redraw(monkeypatch, environment, is_terminal, redraws):
    for name in ("JPY_PARENT_PID", "PAGER", "GIT_PAGER", "CLICOLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert terminals.can_redraw(Terminal(is_terminal)) == redraws
    assert not terminals.can_redraw(None)


def test_progress_is_shown_on_a_terminal_and_not_elsewhere_unless_asked_for(monkeypatch):
    monkeypatch.setenv("JPY_PARENT_PID", "1")  # a notebook's terminal shows lines only
    for is_terminal, quiet, is_shown in (
        (True, None, True),
        (False, None, False),
        (True, True, False),
        (False, False, True),
    ):
        stream = Terminal(is_terminal)
        monkeypatch.setattr(sys, "stderr", stream)
        run = charlstm.train(texts=[TEXT], quiet=quiet, **TINY)
        assert ("iteration 12/12" in stream.written) == is_shown
        assert (str(run.folder) in stream.written) == is_shown
        assert ("done    12 iterations reached: 12 iterations, " in stream.written) == is_shown
        assert stream.written.count("\n") < 20
    monkeypatch.setattr(sys, "stderr", None)
    charlstm.train(texts=[TEXT], **TINY)


class FakeIPython:
    """A stand-in for IPython in a kernel: outputs are created and replaced."""

    def __init__(self):
        self.outputs, self.html = [], ""
        self.display = SimpleNamespace(display=self._display)

    def get_ipython(self):
        return SimpleNamespace(kernel=object())

    def _display(self, content, raw, display_id):
        assert raw
        assert display_id
        self.outputs.append([content["text/plain"]])
        return SimpleNamespace(update=self._update)

    def _update(self, content, raw):
        self.outputs[-1].append(content["text/plain"])
        self.html = content["text/html"]


def test_a_notebook_has_one_output_that_is_replaced(monkeypatch):
    ipython = FakeIPython()
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    monkeypatch.setattr(notebook, "_SECONDS", 0.0)
    run = charlstm.train(texts=[TEXT], **{**TINY, "validation": 0.1})
    [output] = ipython.outputs
    last = output[-1].splitlines()
    assert last[:2] == [f"text    text: {len(TEXT):,} characters, {len(set(TEXT))} distinct", f"folder  {run.folder}"]
    assert f"iteration 12/12 [{'=' * 40}]" in last
    assert any(line.startswith("iteration 12  validation") for line in last)
    assert "sample after 10 iterations:" in last
    assert len(last) < 25
    assert (
        ipython.html.count("<circle")
        == len(run.history["val_bits_per_char"]) - np.isnan(run.history["val_bits_per_char"]).sum()
    )
    assert f"n-gram {run.baseline_bits:.3f}" in ipython.html
    ElementTree.fromstring(f"<div>{ipython.html}</div>")  # noqa: S314  # well-formed, whatever the sample is
    charlstm.train(texts=[TEXT], quiet=True, **TINY)
    assert len(ipython.outputs) == 1


def test_a_notebook_is_not_redrawn_more_than_twice_a_second(monkeypatch):
    ipython, clock = FakeIPython(), [0.0]
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", ipython.display)
    monkeypatch.setattr(notebook, "monotonic", lambda: clock[0])
    screen = display.for_python(None)
    progress = Progress("tick", 1, 10, 8, 0.1, 2.0, 2.0, 3.0, 0.01, 1.0, 100.0)
    for _ in range(1000):
        clock[0] += 0.01
        screen.show(progress)
    screen.close()
    assert 15 < len(ipython.outputs[0]) < 25


def test_the_page_on_python_runs_as_it_stands(tmp_path):
    for name in ("book.txt", "a.txt", "folder/b.txt"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("The " + made_up_text(4000))
    page = (ROOT / "docs" / "python.md").read_text()
    names = {}
    for block in re.findall(r"```python\n(.*?)```", page, re.DOTALL):
        cut = re.sub(
            r"seconds=\d+", lambda budget: f"iterations={int(budget[0].partition('=')[2]) // 20}, hidden_size=8", block
        )
        cut = (
            cut.replace("hidden_size=256, ", "")
            .replace("weight=", "iterations=3, weight=")
            .replace("* 100)", "* 100, iterations=3)")
        )
        cut = cut.replace("* 100, iterations=3))", "* 100), iterations=3)")
        exec(compile(cut, "docs/python.md", "exec"), names)  # noqa: S102
    for call in ("run.folder", "run.config", "run.reached", "run.seconds", "run.history", "run.model"):
        assert call in page
        assert eval(call, names) is not None  # noqa: S307
    for call in re.findall(r"run\.(?:sample|plot)\(\".*?\)", page):
        assert eval(call, names)  # noqa: S307
    assert eval("charlstm.resume(run, iterations=7).reached", names) == "7 iterations"  # noqa: S307
