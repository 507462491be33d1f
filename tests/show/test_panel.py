"""The live panel: its curve, its fit to any screen, and how it is redrawn on a terminal."""

import os
import re
from itertools import pairwise

import pytest
from children import screen
from rich.cells import cell_len

from charlstm.show import curve, pace
from charlstm.show.display import Facts
from charlstm.show.panel import Panel, Times, glyphs_for
from charlstm.show.redrawn import Redrawn
from charlstm.training.progress import ENDLESS, Progress

TIMES = Times(elapsed=83.0, left=45.0, per_second=37_500.0)


def at(iteration, bits=2.5, kind="tick", iterations=1000, **more):
    return Progress(kind, iteration, iterations, iteration * 10, 0.1, 50.0, 50.0, bits, 0.01, 1.0, 100.0, **more)


def filled(**facts):
    """Return a panel halfway through a run whose loss falls from 4 to 2 bits."""
    panel = Panel(Facts(**{"title": "book: LSTM, 1 x 8", "is_evaluated": True, "baseline": 2.25, **facts}))
    for n in range(0, 501, 10):
        panel.add(at(n, 2 + 2 * (1 - n / 500) ** 2, "report"))
    for n, bits in ((100, 3.4), (300, 2.4), (500, 2.6)):
        panel.add(at(n, kind="evaluation", val_bits_per_char=bits))
    panel.add(at(500, kind="sample", sample="To be, or not to be,\nthat is the question.\n" * 3))
    panel.add(at(500))
    return panel


def text(lines):
    return ["".join(part for part, _ in line) for line in lines]


# ---------------------------------------------------------------------------------------------------------- the curve
def points(pairs):
    made = curve.Points()
    for x, y in pairs:
        made.add(x, y)
    return made


@pytest.mark.parametrize("glyphs", [curve.UNICODE, curve.ASCII])
def test_a_falling_curve_falls_from_left_to_right_without_gaps(glyphs):
    training, held_out = points((n, 3 - n / 500) for n in range(0, 501, 10)), points([(250, 2.5)])
    ranges = curve.Axes(right=500.0, bottom=1.9, top=3.1)
    lines = text(curve.draw(training, held_out, 2.0, ranges, 47, 13, glyphs))
    assert len(lines) == 13
    assert [lines[0][:5], lines[11][:5]] == [" 3.10", " 1.90"]
    assert lines[12].endswith("500")
    cells = [line[7:] for line in lines[:12]]
    blank = f" \u2800{glyphs.baseline}"
    places = [[column for column, each in enumerate(row) if each not in blank] for row in cells]
    rows = [row for row in places if row]
    assert len(rows) in (10, 11)  # of 12: from 3 to 2 on an axis from 3.1 to 1.9
    assert rows == sorted(rows)
    assert all(after[0] <= before[-1] + 1 for before, after in pairwise(rows))
    assert (rows[0][0], rows[-1][-1]) == (0, 39)
    assert [row.index(glyphs.held_out) for row in cells if glyphs.held_out in row] == [20]
    assert glyphs.baseline * 20 in cells[11]


def test_a_loss_that_is_not_finite_leaves_a_gap_and_nothing_else():
    training = points([(0, 3.0), (10, float("nan")), (20, float("inf")), (30, 2.0)])
    assert training.x == [0, 30]
    curve.draw(training, points([]), None, curve.axes(training, points([]), None, 30, 100), 30, 6, curve.UNICODE)


def test_a_million_points_are_kept_as_few_that_have_the_same_mean():
    made = points((n, n % 7) for n in range(20_000))
    assert 1000 <= len(made.x) <= 2000
    assert made.x == sorted(made.x)
    assert sum(made.y) / len(made.y) == pytest.approx(3, abs=0.01)


@pytest.mark.parametrize(
    ("now", "total", "right"),
    [
        (0, 1000, 1000 / 512),
        (100, 1000, 125),
        (500, 1000, 500),
        (501, 1000, 1000),
        (1000, 1000, 1000),
        (700, None, 1024),
    ],
)
def test_the_axis_is_the_total_halved_while_the_curve_fits(now, total, right):
    nothing = points([])
    assert curve.axes(nothing, nothing, None, now, total).right == right


def test_the_beginning_does_not_set_the_scale_but_the_baseline_does():
    training = points([(0, 8.0), (100, 3.0), (1000, 2.5)])
    ranges = curve.axes(training, points([]), 1.5, 1000, 1000)
    assert 3.0 < ranges.top < 3.2
    assert 1.3 < ranges.bottom < 1.5


# ---------------------------------------------------------------------------------------------------------- the panel
@pytest.mark.parametrize(
    ("columns", "rows"), [(120, 40), (80, 24), (64, 30), (59, 24), (40, 20), (30, 12), (20, 6), (200, 8)]
)
@pytest.mark.parametrize("encoding", ["utf-8", "ascii"])
def test_the_panel_fits_every_screen(columns, rows, encoding):
    lines = text(filled().lines(columns, rows, TIMES, encoding, glyphs_for(encoding, "xterm")))
    assert 0 < len(lines) <= rows - 1
    assert all(cell_len(line) <= columns - 2 for line in lines), lines
    "\n".join(lines).encode(encoding)
    shown = "\n".join(lines)
    assert re.search(r"500/1,000 .* 50%", shown)
    assert ("sample after 500" in shown) == (rows >= 12)
    assert ("└0" in shown or "+0" in shown) == (rows >= 20)


def test_the_panel_of_a_wide_screen_shows_all_figures():
    shown = "\n".join(text(filled().lines(120, 40, TIMES)))
    for each in (
        "book: LSTM, 1 x 8", "iteration 500/1,000", "1:23 elapsed  0:45 left", "37,500 chars/s  learning rate 0.01",
        "⠒ training  2.500 bits/char  1.733 nats  perplexity 5.66",
        "● held-out  2.600 bits/char  1.802 nats  perplexity 6.06  best 2.400 after 300 iterations",
        "╌ n-gram    2.250 bits/char  1.560 nats", "To be, or not to be,",
    ):  # fmt: skip
        assert each in shown
    assert shown.count("●") == 4  # three evaluations, and the mark of their row


def test_an_evaluation_and_the_report_with_its_figures_are_one_point():
    panel = Panel(Facts())
    panel.add(at(20, kind="evaluation", val_bits_per_char=3.0))
    panel.add(at(20, kind="report", val_bits_per_char=3.0))
    panel.add(at(30, kind="sample", sample="x", val_bits_per_char=3.0))  # as one who follows a run has it
    assert panel.held_out.x == [20]


def test_a_run_without_held_out_text_or_end_has_no_empty_rows():
    panel = Panel(Facts("book"))
    panel.add(at(7, iterations=ENDLESS))
    shown = "\n".join(text(panel.lines(80, 24, TIMES)))
    assert "iteration 7  1:23 elapsed" in shown
    assert "held-out" not in shown
    assert "n-gram" not in shown


def test_what_else_is_done_stands_in_the_title_or_above():
    panel, times = filled(), TIMES._replace(doing="compiling ... 0:07")
    for columns in (120, 60):
        assert re.match(r"╭─ book.* ─+ compiling \.\.\. 0:07 ─╮$", text(panel.lines(columns, 24, times))[0])
    assert text(panel.lines(40, 24, times))[0] == "compiling ... 0:07"


def test_a_byte_model_has_bits_per_byte_with_those_per_character_beside():
    panel = Panel(Facts("book", unit="byte", is_evaluated=True))
    panel.add(at(7, 2.6, bits_per_byte=1.3))
    shown = "\n".join(text(panel.lines(100, 24, TIMES)))
    assert "1.300 bits/byte (2.600 bits/char)  0.901 nats  perplexity 6.06" in shown
    assert "37,500 bytes/s" in shown
    assert "not evaluated yet" in shown


def test_wide_characters_and_control_characters_keep_the_frame_straight():
    panel = filled(title="雪\x1b[31m: LSTM")
    panel.add(at(510, kind="sample", sample="雪がふる。天気は雪。" * 20 + "\x1b[2J\x07\tend"))
    lines = text(panel.lines(80, 40, TIMES))
    assert {cell_len(line) for line in lines} == {78}
    assert not [line for line in lines if "\x1b" in line or "\x07" in line]


def test_the_console_of_linux_gets_no_braille():
    assert glyphs_for("utf-8", "linux") is curve.ASCII
    assert glyphs_for("utf-8", "xterm-256color") is curve.UNICODE


# --------------------------------------------------------------------------------------------------------- the clock
def test_the_time_left_follows_a_better_estimate_without_a_jump(monkeypatch):
    clock = [0.0]
    monkeypatch.setattr(pace, "monotonic", lambda: clock[0])
    countdown, shown = pace.Countdown(), []
    for tick in range(600):
        clock[0] = tick / 10
        estimate = (200.0 if tick < 100 else 120.0) - clock[0]  # it is found to be 80 s less
        shown.append(countdown.shown(estimate))
    assert shown[99] == pytest.approx(190.1, abs=0.1)
    assert max(abs(after - before) for before, after in pairwise(shown)) < 0.7
    assert shown[-1] == pytest.approx(120 - 59.9, abs=3)
    assert countdown.shown(None) is None


# ------------------------------------------------------------------------------------------------------ the terminal
@pytest.fixture
def terminal(monkeypatch, capsys):
    """Return what has been written to a terminal so far, and how to set its size."""
    parts = []

    def written():
        parts.append(capsys.readouterr().err.replace("\n", "\r\n"))
        return "".join(parts)

    def resize(columns, rows):
        monkeypatch.setattr(os, "get_terminal_size", lambda *_: os.terminal_size((columns, rows)))

    resize(80, 24)
    return written, resize


def test_a_frame_replaces_the_one_before_and_notes_stay_above(terminal):
    written, resize = terminal
    panel, drawn = filled(), Redrawn()
    drawn.draw(panel, TIMES)
    drawn.above("a note")
    panel.add(at(510))
    drawn.draw(panel, TIMES)
    shown = screen(written(), 80)
    assert shown[0] == "a note"
    assert "510/1,000" in shown[2]
    assert len([line for line in shown if "╭" in line]) == 1
    resize(100, 30)
    drawn.draw(panel, TIMES)
    assert "╭" in screen(written(), 100)[1]
    drawn.erase()
    assert [line for line in screen(written(), 100) if line] == ["a note"]
    assert written().endswith("\x1b[?25h")  # the cursor is back


def test_a_terminal_that_becomes_narrower_has_wrapped_the_lines_that_are_erased(terminal):
    written, resize = terminal
    panel, drawn = filled(), Redrawn()
    drawn.draw(panel, TIMES)
    lines, size = len(panel.lines(80, 24, TIMES)), len(written())
    resize(64, 24)
    drawn.draw(panel, TIMES)
    again = written()[size:]
    assert again.count("\x1b[1A\x1b[2K") == 2 * lines  # 78 columns take two rows of 64
    assert {len(line) for line in screen(again, 64) if line} == {62}


def test_only_lines_that_changed_are_written_again(terminal):
    written, _ = terminal
    panel, drawn = filled(), Redrawn()
    drawn.draw(panel, TIMES)
    size = len(written())
    drawn.draw(panel, TIMES._replace(elapsed=84.0))
    again = written()[size:]
    assert "1:24 elapsed" in again
    assert "To be" not in again
    assert len(again) < size / 5


@pytest.mark.parametrize(("name", "value", "colours"), [("NO_COLOR", "1", False), ("TERM", "xterm-256color", True)])
def test_colours_are_left_out_where_they_are_unwanted(terminal, monkeypatch, name, value, colours):
    monkeypatch.setenv(name, value)
    Redrawn().draw(filled(), TIMES)
    assert bool(re.search(r"\x1b\[(\d+;)?3\d", terminal[0]())) == colours
