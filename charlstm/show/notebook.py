"""The display in a notebook: one output of the cell, updated during training, as HTML and as plain text."""

from html import escape
from time import monotonic
from typing import Any

from charlstm.show.display import Facts
from charlstm.show.pace import Pace
from charlstm.show.panel import Panel
from charlstm.show.words import evaluation, printable, summary
from charlstm.training.progress import Progress

_SECONDS = 0.5  # between updates
_WIDTH = 40  # characters of the bar
_SIZE = (600, 160)  # of the curve, in pixels
_TRAINING, _HELD_OUT, _BASELINE = "#2A86C7", "#D55E00", "#009E73"  # legible on white and on black


class Notebook:
    """Notes, a progress bar, the figures, the curve of the loss (in HTML) and the latest sample, in one output."""

    wants_samples = True

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._panel, self._pace = Panel(Facts()), Pace()
        self._evaluation = ""
        self._output: Any = None
        self._next = 0.0

    def note(self, text: str) -> None:
        """Show a line that stays."""
        self._notes.append(text)
        self._draw()

    def status(self, text: str) -> None:
        """Show nothing: the marker of the cell already shows that it is busy."""

    def begin(self, facts: Facts) -> None:
        """Learn what is about to be trained."""
        self._panel = Panel(facts)

    def show(self, progress: Progress) -> None:
        """Show the progress of training, at most twice a second."""
        self._panel.add(progress)
        if progress.kind == "report":
            return
        self._pace.add(progress)
        if progress.kind == "evaluation":
            self._evaluation = evaluation(progress)
        if monotonic() >= self._next:
            self._draw()

    def close(self) -> None:
        """Show the final state."""
        self._draw()

    def _draw(self) -> None:
        from IPython.display import display

        above, below = self._lines()
        content = {"text/plain": "\n".join(above + below), "text/html": self._html(above, below)}
        if self._output is None:
            self._output = display(content, raw=True, display_id=True)
        else:
            self._output.update(content, raw=True)
        self._next = monotonic() + _SECONDS

    def _lines(self) -> tuple[list[str], list[str]]:
        """The lines above and below the curve."""
        above, below, now, sample = list(self._notes), list[str](), self._panel.now, self._panel.sample
        if now is not None:
            above += [_bar(now), summary(now, self._pace)]
        if self._evaluation:
            above.append(self._evaluation)
        if sample is not None:
            below = ["", f"sample after {sample.iteration:,} iterations:", printable(sample.prime + sample.sample)]
        return above, below

    def _html(self, above: list[str], below: list[str]) -> str:
        before, after = (f"<pre>{escape(chr(10).join(part))}</pre>" for part in (above, below))
        return before + (_drawn(self._panel) if len(self._panel.training.x) > 1 else "") + (after if below else "")


def _bar(progress: Progress) -> str:
    if progress.is_endless or not progress.iterations:
        return f"iteration {progress.iteration:,}"
    done = _WIDTH * progress.iteration // progress.iterations
    return f"iteration {progress.iteration:,}/{progress.iterations:,} [{'=' * done}{' ' * (_WIDTH - done)}]"


def _drawn(panel: Panel) -> str:
    """The curve of the loss as SVG: training as a line, held-out text as points, the baseline as a dashed line."""
    width, height = _SIZE
    ranges = panel.axes

    def x(iteration: float) -> str:
        return f"{50 + iteration / ranges.right * (width - 60):.1f}"

    def y(bits: float) -> str:
        return f"{5 + (ranges.top - bits) / (ranges.top - ranges.bottom) * (height - 25):.1f}"

    line = " ".join(f"{x(a)},{y(b)}" for a, b in zip(panel.training.x, panel.training.y, strict=True))
    points = "".join(
        f'<circle cx="{x(a)}" cy="{y(b)}" r="3" fill="{_HELD_OUT}"><title>held-out {b:.3f}</title></circle>'
        for a, b in zip(panel.held_out.x, panel.held_out.y, strict=True)
    )
    baseline = panel.facts.baseline
    dashes = (
        f'<path d="M50 {y(baseline)}H{width - 10}" stroke="{_BASELINE}" stroke-dasharray="5 4"/>' if baseline else ""
    )
    legend = f'<tspan fill="{_TRAINING}">training</tspan>'
    legend += f' <tspan fill="{_HELD_OUT}">held-out</tspan>' if panel.held_out.x else ""
    legend += f' <tspan fill="{_BASELINE}">n-gram {baseline:.3f}</tspan>' if baseline else ""
    labels = [
        (46, 14, "end", f"{ranges.top:.2f}"), (46, height - 20, "end", f"{ranges.bottom:.2f}"),
        (width - 10, height - 4, "end", f"{ranges.right:,.0f} iterations"), (50, height - 4, "start", "0"),
        (width - 10, 14, "end", f"bits/{panel.facts.unit}: {legend}"),
    ]  # fmt: skip
    words = "".join(f'<text x="{a}" y="{b}" text-anchor="{at}">{word}</text>' for a, b, at, word in labels)
    return (
        f'<svg viewBox="0 0 {width} {height}" width="{width}" style="max-width:100%;overflow:hidden" '
        f'font-size="11" font-family="sans-serif" fill="currentColor" stroke-width="1.5">'
        f'<path d="M50 5V{height - 20}H{width - 10}" fill="none" stroke="currentColor" opacity=".4"/>{dashes}'
        f'<polyline points="{line}" fill="none" stroke="{_TRAINING}"/>{points}{words}</svg>'
    )
