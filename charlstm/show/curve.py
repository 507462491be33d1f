"""The curve of the loss, drawn with characters: braille dots, or ASCII where a terminal lacks them."""

import math
from typing import NamedTuple

import numpy as np

Line = list[tuple[str, str]]  #: pieces of one line of the screen, each a text and the name of its style

_MOST = 2000  # points kept; more than a screen has dots
BEGINNING = 0.03  #: fraction of the x axis whose losses, several times those of the rest, do not set the scale
_DOTS = np.array([[0x01, 0x08], [0x02, 0x10], [0x04, 0x20], [0x40, 0x80]])  # bits of the dots of a braille character
_LABEL = 6  # columns of the labels of the y axis
TRAINING, HELD_OUT, BASELINE, FRAME = "cyan", "bold yellow", "magenta", "dim"


class Glyphs(NamedTuple):
    """What the panel is drawn with."""

    full: str  #: of the bar
    empty: str
    held_out: str
    baseline: str
    curve: str  #: of the curve, in the legend
    axis: str
    corner: str
    frame: str  #: top left, top right, bottom left, bottom right, horizontal, vertical
    is_braille: bool


UNICODE = Glyphs("━", "╌", "●", "╌", "⠒", "┤", "└", "╭╮╰╯─│", True)
ASCII = Glyphs("=", ".", "o", "-", "*", "|", "+", "++++-|", False)


class Points:
    """Points of a curve, of which neighbours are averaged once there are more than a screen can show."""

    def __init__(self) -> None:
        self.x: list[float] = []
        self.y: list[float] = []
        self._each, self._waiting = 1, list[tuple[float, float]]()

    def add(self, x: float, y: float) -> None:
        """Add a point to the right of all others, unless it is not finite."""
        if not math.isfinite(y):
            return
        self._waiting.append((x, y))
        if len(self._waiting) == self._each:
            xs, ys = zip(*self._waiting, strict=True)
            self.x.append(xs[-1])
            self.y.append(sum(ys) / len(ys))
            self._waiting.clear()
        if len(self.x) >= _MOST:
            self.x = self.x[1::2]
            self.y = [(a + b) / 2 for a, b in zip(self.y[::2], self.y[1::2], strict=True)]
            self._each *= 2


class Axes(NamedTuple):
    """The ranges of a curve's axes; x starts at 0."""

    right: float
    bottom: float
    top: float


def axes(training: Points, held_out: Points, baseline: float | None, now: float, total: float | None) -> Axes:
    """The ranges that show everything after the beginning, and the baseline.

    The right end is the total halved as often as the curve still fits, so that it jumps seldom and fills half the width
    at least; without a total, it is a power of two.
    """
    now = max(now, 1.0)
    right = 2.0 ** math.ceil(math.log2(now)) if total is None else float(max(total, now))
    while right / 2 >= now and total is not None:
        right /= 2
    xs, ys = np.array(training.x + held_out.x), np.array(training.y + held_out.y)
    late = ys[xs >= BEGINNING * right]
    shown = [*(late if len(late) else ys[-1:]), *([] if baseline is None else [baseline])]
    bottom, top = (min(shown), max(shown)) if shown else (0.0, 1.0)
    margin = max(0.05 * (top - bottom), 0.02)
    return Axes(right, float(bottom - margin), float(top + margin))


def draw(
    training: Points, held_out: Points, baseline: float | None, ranges: Axes, columns: int, rows: int, glyphs: Glyphs
) -> list[Line]:
    """Draw curve, held-out points and baseline with their axes, `rows` lines of at most `columns` characters."""
    width, height = columns - _LABEL - 1, rows - 1
    cells = [[(" ", "")] * width for _ in range(height)]
    if baseline is not None and (row := _row(baseline, ranges, height)) is not None:
        cells[row] = [(glyphs.baseline, BASELINE)] * width
    place = _braille if glyphs.is_braille else _plain
    for row, column, character in place(training, ranges, width, height, glyphs):
        cells[row][column] = (character, TRAINING)
    for x, y in zip(held_out.x, held_out.y, strict=True):
        column = min(int(x / ranges.right * width), width - 1)
        if (row := _row(y, ranges, height)) is not None:
            cells[row][column] = (glyphs.held_out, HELD_OUT)
    labels = {0: _number(ranges.top), height - 1: _number(ranges.bottom)}
    if height > 6:
        labels[height // 2] = _number(ranges.top - (height // 2) / (height - 1) * (ranges.top - ranges.bottom))
    lines = [
        [(f"{labels.get(row, ''):>{_LABEL - 1}} {glyphs.axis}", FRAME), *_joined(line)]
        for row, line in enumerate(cells)
    ]
    end = f"{ranges.right:,.0f}"
    return [*lines, [(f"{'':{_LABEL}}{glyphs.corner}0{end:>{width - 1}}", FRAME)]]


def _number(value: float) -> str:
    return f"{value:.2f}" if value < 100 else f"{value:.3g}"


def _row(y: float, ranges: Axes, height: int) -> int | None:
    """The row of a value, from the top; None if it is out of range."""
    part = (ranges.top - y) / (ranges.top - ranges.bottom)
    return min(int(part * height), height - 1) if 0 <= part <= 1 else None


def _heights(training: Points, ranges: Axes, columns: int, rows: int) -> np.ndarray:
    """The height of the curve in each of `columns`, in rows from the top, (columns,); NaN where there is none."""
    at = np.minimum(np.array(training.x) / ranges.right * columns, columns - 1).astype(int)
    sums, counts = np.bincount(at, training.y, columns), np.bincount(at, minlength=columns)
    known = np.flatnonzero(counts)
    places = np.arange(columns)
    means = np.interp(places, known, sums[known] / counts[known], np.nan, np.nan)
    return (ranges.top - means) / (ranges.top - ranges.bottom) * rows


def _spans(training: Points, ranges: Axes, columns: int, rows: int) -> list[tuple[int, int, int]]:
    """The rows that the curve covers in each column, joined to the one before: (column, first, last), within range."""
    if not training.x:
        return []
    found, before = [], math.nan
    for column, height in enumerate(_heights(training, ranges, columns, rows)):
        if math.isnan(height):
            continue
        start = height if math.isnan(before) else before
        first, last = (math.floor(each) for each in sorted((start, height)))
        if start < height and last > first:
            first += 1  # the row where the curve stands belongs to the column before
        elif start > height and last > first:
            last -= 1
        before = height
        if last >= 0 and first < rows:
            found.append((column, max(first, 0), min(last, rows - 1)))
    return found


def _braille(training: Points, ranges: Axes, width: int, height: int, glyphs: Glyphs) -> list[tuple[int, int, str]]:
    """The characters of the curve, two dots wide and four high each: (row, column, character)."""
    dots = np.zeros((4 * height, 2 * width), np.int64)
    for column, first, last in _spans(training, ranges, 2 * width, 4 * height):
        dots[first : last + 1, column] = 1
    codes = np.einsum("iajb,ab->ij", dots.reshape(height, 4, width, 2), _DOTS)
    return [(int(i), int(j), chr(0x2800 + codes[i, j])) for i, j in zip(*codes.nonzero(), strict=True)]


def _plain(training: Points, ranges: Axes, width: int, height: int, glyphs: Glyphs) -> list[tuple[int, int, str]]:
    spans = _spans(training, ranges, width, height)
    return [(row, column, glyphs.curve) for column, first, last in spans for row in range(first, last + 1)]


def _joined(cells: Line) -> Line:
    """The cells of a line, with neighbours of one style joined."""
    joined: Line = []
    for text, style in cells:
        if joined and joined[-1][1] == style:
            joined[-1] = (joined[-1][0] + text, style)
        else:
            joined.append((text, style))
    return joined
