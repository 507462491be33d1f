"""Lines at the bottom of a terminal that are drawn anew in place."""

import os
from collections.abc import Sequence

from rich.cells import cell_len
from rich.console import Console, ConsoleDimensions, ConsoleOptions, RenderResult
from rich.control import Control
from rich.segment import ControlType, Segment

from charlstm.show.curve import Line
from charlstm.show.panel import Panel, Times, glyphs_for


class Redrawn:
    """Lines at the bottom of the terminal that are drawn anew in place; only those that have changed are written."""

    def __init__(self) -> None:
        self._console = Console(stderr=True, highlight=False, force_terminal=True)
        self._glyphs = glyphs_for(self._console.encoding, os.environ.get("TERM", ""))
        self._lines: list[Line] = []
        self._size: ConsoleDimensions | None = None
        self._console.show_cursor(False)

    def draw(self, panel: Panel, times: Times) -> None:
        """Draw the panel at the present size of the terminal."""
        columns, rows = size = self._console.size
        lines = panel.lines(columns, rows, times, self._console.encoding, self._glyphs)
        with self._console:
            if size != self._size or len(lines) != len(self._lines):
                self._erase(columns)
            self._write(lines)
        self._size = size

    def above(self, text: str) -> None:
        """Print a note above the lines."""
        lines = self._lines
        with self._console:
            self._erase(self._console.size.width)
            self._console.print(text, markup=False, soft_wrap=True)
            self._write(lines)

    def erase(self) -> None:
        """Erase the lines and show the cursor again."""
        with self._console:
            self._erase(self._console.size.width)
        self._console.show_cursor(True)

    def _erase(self, columns: int) -> None:
        """Erase from below: a terminal that became narrower has wrapped the lines, so they take more rows."""
        rows = sum(-(-max(_length(line), 1) // columns) for line in self._lines)
        up = [(ControlType.CURSOR_UP, 1), (ControlType.ERASE_IN_LINE, 2)] * rows
        self._console.control(Control(ControlType.CARRIAGE_RETURN, (ControlType.ERASE_IN_LINE, 2), *up))
        self._lines = []

    def _write(self, lines: list[Line]) -> None:
        self._console.print(Frame(lines, self._lines), end="", soft_wrap=True)
        self._lines = lines


class Frame:
    """Lines written over older ones, from the line below those on; what is equal is skipped."""

    def __init__(self, lines: Sequence[Line], old: Sequence[Line] = ()) -> None:
        self._lines, self._old = lines, old

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        up = [(ControlType.CURSOR_UP, len(self._old))] if self._old else []
        yield Control(ControlType.CARRIAGE_RETURN, *up).segment
        for n, line in enumerate(self._lines):
            if not self._old or line != self._old[n]:
                yield Control((ControlType.ERASE_IN_LINE, 2)).segment
                yield from (Segment(text, console.get_style(style)) for text, style in line)
            yield Segment.line()


def _length(line: Line) -> int:
    return sum(cell_len(text) for text, _ in line)
