"""The panel of a run: progress, figures, the curve of the loss and the latest sample, as lines of any width and height.

It knows neither the terminal nor the clock, so the same panel is drawn while training, by `charlstm watch`, and by
tests.
"""

import math
import textwrap
from typing import NamedTuple

from rich.cells import cell_len, chop_cells, set_cell_size

from charlstm.figures import in_words, perplexity_in_words
from charlstm.show import curve
from charlstm.show.curve import ASCII, BASELINE, FRAME, HELD_OUT, TRAINING, UNICODE, Glyphs, Line
from charlstm.show.display import Facts
from charlstm.show.words import duration, phrases, printable, shown_as
from charlstm.training.progress import Progress

_WIDEST, _FRAMED = 120, 60  # columns: of the panel; from which it has a frame and all words
_SPARE = 2  # columns at the right that stay free, where ^C, which the terminal writes into a line, wraps nothing
_NOTES = 3  # lines above the panel that stay visible on a screen of 24 lines
_BAR, _STRONG = "green", "bold"


class Times(NamedTuple):
    """What the panel shows of the clock; None for what is not known."""

    elapsed: float | None = None
    left: float | None = None
    per_second: float | None = None  #: characters, or bytes
    doing: str = ""  #: what goes on beside training, or has stopped


class Panel:
    """What a panel shows of a run, gathered from its Progress values.

    Parameters
    ----------
    facts : of the run; its history is taken up
    """

    def __init__(self, facts: Facts) -> None:
        self.facts = facts
        self.now: Progress | None = None  #: the latest progress
        self.sample: Progress | None = None
        self.best: tuple[int, float] | None = None  #: iteration and bits of the best evaluation
        self.training, self.held_out = curve.Points(), curve.Points()
        self._evaluated: Progress | None = None
        for progress in facts.history:
            self.add(progress)

    def add(self, progress: Progress) -> None:
        """Take up a progress of any kind."""
        if progress.kind == "tick" or self.now is None or (progress.kind == "report" and self.now.kind != "tick"):
            self.now = progress
        if progress.kind == "sample":
            self.sample = progress
        if progress.kind == "report":
            self.training.add(progress.iteration, progress.bits_per_unit)
        bits, known = progress.val_bits_per_unit, self._evaluated and self._evaluated.iteration
        if bits is None or progress.kind not in ("report", "evaluation"):
            return
        if progress.iteration != known:  # a report has the figures of an evaluation before it
            self._evaluated = progress
            self.held_out.add(progress.iteration, bits)
            if math.isfinite(bits) and (self.best is None or bits < self.best[1]):
                self.best = progress.iteration, bits

    def lines(
        self, columns: int, rows: int, times: Times, encoding: str = "utf-8", glyphs: Glyphs = UNICODE
    ) -> list[Line]:
        """The panel for a screen of this size, whose last line stays free."""
        if self.now is None:
            return []
        is_framed = columns >= _FRAMED
        width = min(columns - _SPARE, _WIDEST) - (4 if is_framed else 0)
        parts = [*self._bar(width, times, glyphs), *self._figures(width, times, glyphs)]
        room = rows - 1 - len(parts) - (2 if is_framed else 0) - (_NOTES if rows >= 24 else 0)
        height = min(13, (room + 1) // 2) if room >= 9 else 0
        if height:
            parts += self._curve(width, height, glyphs)
        if self.sample is not None and room - height >= 3:
            parts += _sampled(self.sample, width, min(8, room - height - 1), encoding, glyphs)
        title, doing = shown_as(printable(self.facts.title), encoding), shown_as(times.doing, encoding)
        if is_framed:
            return _framed(parts, title, doing, width, glyphs)
        lines = [*([[(doing, _STRONG)]] if doing else []), *parts][: max(rows - 1, 1)]
        return [_filled(line, width)[:-1] for line in lines]

    def _bar(self, width: int, times: Times, glyphs: Glyphs) -> list[Line]:
        """``iteration 412/1,427 ━━━━━━╺━━━━━━━ 29%  0:12 elapsed  0:30 left``, in one line or two."""
        now = self.now
        assert now is not None
        elapsed = "" if times.elapsed is None else f"{duration(times.elapsed)} elapsed"
        clock = "  ".join(filter(None, [elapsed, "" if times.left is None else f"{duration(times.left)} left"]))
        if now.is_endless:
            return [[(each, "")] for each in phrases(f"iteration {now.iteration:,}  {clock}", width)]
        word = "iteration " if width >= _FRAMED - 6 else ""
        done = min(now.iteration / max(now.iterations, 1), 1.0)
        before, after = f"{word}{now.iteration:,}/{now.iterations:,} ", f" {100 * done:3.0f}%"
        beside = f"  {clock}" if clock and width >= _FRAMED + 10 else ""
        length = max(width - len(before) - len(after) - len(beside), 0)
        filled = int(done * length)
        bar: Line = [(before, ""), (glyphs.full * filled, _BAR), (glyphs.empty * (length - filled), FRAME)]
        bar.append((after + beside, ""))
        return [bar] if beside or not clock else [bar, [(clock, "")]]

    def _figures(self, width: int, times: Times, glyphs: Glyphs) -> list[Line]:
        """The losses, each with the mark of its curve, and the speed."""
        now, unit = self.now, self.facts.unit
        assert now is not None
        of_bytes = None if now.bits_per_byte is None else now.bits_per_char
        rows = [_loss(glyphs.curve, TRAINING, "training", now.bits_per_unit, unit, of_bytes, width)]
        if self._evaluated is not None and self.best is not None:
            bits, of_bytes = self._evaluated.val_bits_per_unit or 0.0, self._evaluated.val_bits_per_char
            of_bytes = of_bytes if self._evaluated.val_bits_per_byte is not None else None
            rows.append(_loss(glyphs.held_out, HELD_OUT, "held-out", bits, unit, of_bytes, width))
            if width >= _FRAMED + 16:
                rows[-1].append((f"  best {in_words(self.best[1], 3)} after {self.best[0]:,} iterations", ""))
        elif self.facts.is_evaluated:
            rows.append([(f"{glyphs.held_out} held-out", HELD_OUT), ("  not evaluated yet", "")])
        if self.facts.baseline is not None:
            rows.append(_loss(glyphs.baseline, BASELINE, "n-gram", self.facts.baseline, unit, None, width))
        speed = "" if not times.per_second else f"{times.per_second:,.0f} {unit}s/s  "
        return rows + [[(each, "")] for each in phrases(f"{speed}learning rate {now.learning_rate:.3g}", width)]

    @property
    def axes(self) -> curve.Axes:
        """The ranges of the curve's axes."""
        now = self.now
        done, total = (0, None) if now is None else (now.iteration, None if now.is_endless else float(now.iterations))
        return curve.axes(self.training, self.held_out, self.facts.baseline, done, total)

    def _curve(self, width: int, height: int, glyphs: Glyphs) -> list[Line]:
        return curve.draw(self.training, self.held_out, self.facts.baseline, self.axes, width, height, glyphs)


def _loss(mark: str, style: str, name: str, bits: float, unit: str, per_char: float | None, width: int) -> Line:
    """``⠒ training  2.310 bits/char  1.601 nats  perplexity 4.96``."""
    beside = "" if per_char is None else f" ({in_words(per_char, 3)} bits/char)"
    words = [f"{in_words(bits * math.log(2), 3)} nats", f"perplexity {perplexity_in_words(per_char or bits)}"]
    line: Line = [(f"{mark} {name:8}  ", style), (f"{in_words(bits, 3)} bits/{unit}{beside}", _STRONG)]
    for word in words:
        if sum(len(text) for text, _ in line) + 2 + len(word) <= width:
            line.append((f"  {word}", ""))
    return line


def _sampled(sample: Progress, width: int, height: int, encoding: str, glyphs: Glyphs) -> list[Line]:
    """The beginning of a sample below a line that says how old it is; always `height` + 1 lines."""
    title = f" sample after {sample.iteration:,} iterations "
    rule = glyphs.frame[4]
    lines: list[Line] = [[(rule, FRAME), (title, ""), (rule * max(width - len(title) - 1, 0), FRAME)]]
    text = shown_as(printable(sample.prime + sample.sample), encoding).expandtabs(4)
    rows = [piece for line in text.split("\n")[:height] for piece in _wrapped(line, width)]
    return lines + [[(row, "")] for row in [*rows, *[""] * height][:height]]


def _wrapped(line: str, width: int) -> list[str]:
    """A line of text in pieces that fit, cut between words where all characters are as wide as a letter."""
    pieces = textwrap.wrap(line, width, break_on_hyphens=False) if line.isascii() else chop_cells(line, width)
    return pieces or [""]


def _framed(parts: list[Line], title: str, doing: str, width: int, glyphs: Glyphs) -> list[Line]:
    """The lines inside a frame with a title at its left and `doing` at its right; each cut or filled to `width`."""
    left, right, lower_left, lower_right, across, down = tuple(glyphs.frame)
    done = f" {doing[: width - 4]} " if doing else ""
    named = f" {set_cell_size(title, min(cell_len(title), max(width - len(done) - 4, 0)))} " if title else ""
    rest = across * (width - cell_len(named) - len(done))
    top: Line = [(left + across, FRAME), (named, _STRONG), (rest, FRAME), (done, _STRONG), (across + right, FRAME)]
    inside = [[(f"{down} ", FRAME), *_filled(line, width), (f" {down}", FRAME)] for line in parts]
    return [top, *inside, [(lower_left + across * (width + 2) + lower_right, FRAME)]]


def _filled(line: Line, width: int) -> Line:
    """The line cut or filled with spaces to `width` columns."""
    filled: Line = []
    for text, style in line:
        taken = min(cell_len(text), width)
        filled.append((text if taken == cell_len(text) else set_cell_size(text, taken), style))
        width -= taken
    return [*filled, (" " * width, "")]


def glyphs_for(encoding: str, kind: str) -> Glyphs:
    """What a terminal of this encoding and kind (TERM) can show: the Linux console has no braille."""
    try:
        "".join(map(str, UNICODE[:-1])).encode(encoding)
    except UnicodeEncodeError:
        return ASCII
    return ASCII if kind == "linux" else UNICODE
