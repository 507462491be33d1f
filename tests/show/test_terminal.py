"""Training on a terminal: output comes at once, in whole words, with a steady estimate, and leaves nothing behind."""

import re
import subprocess
from dataclasses import replace
from itertools import pairwise

import pytest
from children import Terminal, command, screen

import kernels
from charlstm.show import display, pace
from charlstm.training.progress import ENDLESS, Progress

TINY = ("--hidden-size", 8, "--seq-length", 5, "--batch-size", 2)


def progress_at(iteration, iterations=1000, kind="tick", rate=0.0, **more):
    return Progress(
        kind, iteration, iterations, iteration * 10, iteration / 100, 2.0, 2.0, 2.0, 0.01, iteration / 100, rate, **more
    )  # fmt: skip


def going(of, seconds, clock, iterations=10**6):
    """Ticks of 0.1 s each at the speeds given by `seconds` per iteration."""
    done = 0
    for each in seconds:
        clock[0] += 0.1
        done += round(0.1 / each)
        tick = progress_at(done, iterations)
        of.add(tick)
        yield of.left(tick)


@pytest.fixture
def clock(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(pace, "monotonic", lambda: now[0])
    return now


# -------------------------------------------------------------------------------------------------------- estimates
def test_an_estimate_does_not_jump_with_every_call(clock):
    of = display.Pace()
    of.add(progress_at(0))
    left = list(going(of, [0.001, 0.002] * 400, clock))
    jumps = [abs(after - before) / before for before, after in pairwise(left[60:])]
    assert max(jumps) < 0.01  # the speed itself doubles or halves from call to call
    assert left[-1] == pytest.approx((10**6 - 60_000) * 0.1 / 75, rel=0.05)


def test_an_estimate_follows_a_speed_that_changes(clock):
    of = display.Pace()
    of.add(progress_at(0))
    left = list(going(of, [0.001] * 300 + [0.004] * 900, clock))
    assert left[299] == pytest.approx((10**6 - 30_000) * 0.001, rel=0.01)
    assert left[-1] == pytest.approx((10**6 - 30_000 - 22_500) * 0.004, rel=0.02)


def test_an_estimate_forgets_how_slowly_training_began(clock):
    of = display.Pace()
    of.add(progress_at(0))
    left = list(going(of, [0.02] * 10 + [0.004] * 10 + [0.001] * 30, clock))
    assert left[:10] == [None] * 10  # no estimate in the first second
    assert left[-1] == pytest.approx((10**6 - 3300) * 0.001, rel=0.2)
    assert 1.3 * left[-1] < (10**6 - 3300) / 3300 * 5  # the estimate that the whole past would give


@pytest.mark.parametrize("kind", ["sample", "evaluation", "tick"])
@pytest.mark.parametrize("iteration", [0, 500, 1000])
def test_nothing_is_estimated_before_there_is_a_speed(clock, kind, iteration):
    first = progress_at(iteration, kind=kind, val_bits_per_char=2.0 if kind == "evaluation" else None)
    of = display.Pace()
    of.add(first)
    assert of.left(first) is None
    assert "left" not in display.summary(first, of)
    assert "chars/s" not in display.summary(first, of)
    of.add(first)  # no time has passed, and nothing was done
    assert of.left(first) is None
    endless = replace(first, iterations=ENDLESS)
    clock[0] += 1
    of.add(endless)
    assert of.left(endless) is None


# ------------------------------------------------------------------------------------------------------------ words
@pytest.mark.parametrize("columns", [20, 40, 80, 200])
def test_notes_and_figures_keep_words_whole(columns):
    note = "model   LSTM, 1 x 224 hidden units, 213,931 parameters (numba, float32, up to 2 threads); preset fast"
    lines = display.wrapped(note, columns).splitlines()
    assert all(len(line) <= columns for line in lines)
    assert " ".join(lines).split() == note.split()
    figures = display.summary(progress_at(500), display.Pace())
    lines = display.phrases(figures, columns)
    assert all(len(line) <= columns for line in lines)
    assert "  ".join(lines) == figures
    hint = "resume  charlstm train --resume=runs/a-rather-long-name-of-a-folder --iterations 1000"
    assert display.wrapped(hint, columns) == hint


@pytest.mark.parametrize(
    ("columns", "word", "stdout"),
    [(40, "", None), (40, "", subprocess.PIPE), (80, "iteration ", None), (200, "iteration ", None)],
)
def test_the_screen_at_each_width(text_file, tmp_path, columns, word, stdout):
    arguments = command("train", text_file, *TINY, "--iterations", 200, "--validation", 0.1, "--out", "run")
    terminal = Terminal(arguments, columns, cwd=tmp_path, stdout=stdout)
    assert terminal.ended() == 0
    assert f"{word}200/200" in terminal.text
    assert ("iteration 200/200" in terminal.text) == bool(word)
    assert "sample after 0 iterations" in terminal.text
    left = terminal.screen
    assert not [line for line in left if "━" in line or "─" in line], left
    told = " ".join(" ".join(left).split())
    assert re.search(
        r"text book: 3,000 characters, 11 distinct model LSTM, 1 x 8 hidden units, [\d,]+ parameters", told
    )
    assert "done 200 iterations reached" in told
    assert re.search(r"time [\d.]+ s in total: [\d.]+ s of training, [\d.]+ s of startup, evaluation, sampling", told)


def test_something_is_shown_before_anything_heavy_is_loaded(text_file, tmp_path):
    arguments = command("train", text_file, *TINY, "--iterations", 20)
    terminal = Terminal(arguments, cwd=tmp_path).until("starting ...")
    first = terminal.text.index("starting ...")
    assert terminal.ended() == 0
    order = [
        terminal.text.index(each) for each in ("starting ...", "reading the text ...", "text    book", "preparing ...")
    ]
    assert order == sorted(order)
    assert first == 1  # it follows a carriage return
    assert not [line for line in terminal.screen if line.endswith(" ...") and "compiling" not in line], terminal.screen


def test_a_mistake_does_not_stand_behind_what_was_being_done(tmp_path):
    terminal = Terminal(command("train", "missing.txt"), 200, cwd=tmp_path)
    assert terminal.ended() == 2
    assert terminal.screen[0].startswith("charlstm: missing.txt: no such file or folder")


@pytest.mark.parametrize("env", [{"TERM": "dumb"}, {"TERM": ""}, {"JPY_PARENT_PID": "1"}])
def test_a_terminal_that_cannot_redraw_gets_lines_at_once(text_file, tmp_path, env):
    terminal = Terminal(command("train", text_file, *TINY, "--iterations", 300), cwd=tmp_path, env=env)
    assert terminal.ended() == 0
    written = terminal.written.decode()
    assert "\x1b" not in written
    assert "\r" not in written.replace("\r\n", "")
    lines = written.splitlines()
    assert "TERM" not in env or all(len(line) <= 80 for line in lines[: lines.index("")])
    assert lines[0] == "text    book: 3,000 characters, 11 distinct"
    assert 1 <= sum(line.startswith("iteration ") for line in lines) <= 4
    assert any(line.startswith("iteration 300/300") for line in lines)


def test_compiling_is_told_once_whatever_is_compiled(text_file, tmp_path, monkeypatch, capsys):
    from charlstm.cli import cli
    from charlstm.model.model import Model
    from charlstm.training.trainer import Trainer

    def compiling(real):
        def called(*arguments, **options):
            for listener in kernels.compile_listeners:
                listener("a kernel")
            return real(*arguments, **options)

        return called

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(Trainer, "sample", compiling(Trainer.sample))
    monkeypatch.setattr(Model, "sample", compiling(Model.sample))
    for option, told in (("5", 1), ("0", 1)):  # during training; and only for the text at the end
        arguments = ["train", str(text_file), *TINY, "--iterations", 9, "--backend", "numpy", "--sample-every", option]
        assert cli.main(list(map(str, arguments)), standalone_mode=False) == 0
        assert capsys.readouterr().err.count("compiling") == told


@pytest.mark.long
def test_compiling_is_told_once(text_file, tmp_path):
    """With an empty cache: training, its samples, its evaluations, and the text at the end."""
    arguments = command("train", text_file, *TINY, "--iterations", 20, "--validation", 0.1, "--seconds", "none")
    terminal = Terminal(arguments, cwd=tmp_path, env={"NUMBA_CACHE_DIR": str(tmp_path / "cold"), "NUMBA_OPT": "0"})
    assert terminal.ended(300) == 0
    assert terminal.text.count("compiling kernels") == 1, terminal.text


def test_a_note_of_a_handler_waits_for_what_it_interrupted():
    heard = []

    class Screen(display.Silent):
        def note(self, text):
            heard.append(text)

        def show(self, progress):
            guarded.note("stopping")  # as a signal handler would call it
            assert heard == []

    guarded = display.Guarded(Screen())
    guarded.show(progress_at(1))
    assert heard == ["stopping"]


def test_a_sample_that_the_terminal_cannot_show_keeps_its_frame(tmp_path):
    """A frame higher than the display assumed would stay on the screen, above the next one."""
    (tmp_path / "snow.txt").write_text("雪がふる。天気は雪。" * 100, encoding="utf-8")
    arguments = command("train", "snow.txt", *TINY, "--iterations", 300, "--sample-every", 100, "--backend", "numpy")
    terminal = Terminal(arguments, cwd=tmp_path, env={"PYTHONIOENCODING": "ascii"}, stdout=subprocess.PIPE)
    assert terminal.ended() == 0
    assert "\\u96ea" in terminal.text
    assert not [line for line in terminal.screen if "|" in line or "---" in line], terminal.screen


def test_the_screen_of_these_tests():
    assert screen("one\r\ntwo\r\x1b[1Aup\x1b[2K\r\nx", 10) == ["", "xwo"]
    assert screen("abcdef", 4) == ["abcd", "ef"]
    assert screen("a\r\nb\r\nc\x1b[2A\r\x1b[J", 4) == [""]


def test_a_note_of_several_lines_stays_as_many():
    note = "text    mix: 20,103 characters\n        mix: 5 files read; not read: 1 .png\n        2 HTML files: tags left out"
    assert display.wrapped(note, 80) == note
    assert display.wrapped("", 80) == ""
    assert all(len(line) <= 30 and line.startswith(("text", " " * 8)) for line in display.wrapped(note, 30).split("\n"))


def test_the_log_of_a_long_run_stays_short(clock, capsys, monkeypatch):
    monkeypatch.setattr(display, "monotonic", lambda: clock[0])
    lines, written = display.Lines(), 0
    for second in range(36_000):
        clock[0] += 1
        lines.show(progress_at(second, 10**6))
        if second == 299:
            written = capsys.readouterr().err.count("\n")
            assert 50 <= written <= 61  # one every five seconds
    assert 300 < capsys.readouterr().err.count("\n") < 600  # not 7,140


def test_the_end_compares_the_best_evaluation_with_the_baseline(text_file, tmp_path, monkeypatch, capsys):
    from charlstm.cli import cli

    monkeypatch.chdir(tmp_path)
    options = ["--validation", "0.1", "--backend", "numpy", "--out", "run"]
    arguments = ["train", str(text_file), *map(str, TINY), "--iterations", "60", *options]
    assert cli.main(arguments, standalone_mode=False) == 0
    lines = capsys.readouterr().err.splitlines()
    (baseline,) = (re.search(r"model, ([\d.]+) bits/char", line)[1] for line in lines if line.startswith("baseline: "))
    (best,) = (line for line in lines if line.startswith("best    "))
    found = re.fullmatch(
        r"best    ([\d.]+) bits/char on held-out text, after (\d+) iterations: ([\d.]+) (above|below) the n-gram "
        r"baseline of ([\d.]+)",
        best,
    )
    assert found[5] == baseline
    difference = float(found[1]) - float(baseline)
    assert float(found[3]) == pytest.approx(abs(difference), abs=0.0011)
    assert found[4] == ("above" if difference > 0 else "below")
    assert lines[lines.index(best) + 1] == "run     run"
