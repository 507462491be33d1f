"""The display in a notebook: a few lines in the output of the cell, updated during training."""

from time import monotonic
from typing import Any

from charlstm.show.display import Pace, evaluation, printable, summary
from charlstm.training.progress import Progress

_SECONDS = 0.5  # between updates
_WIDTH = 40  # characters of the bar


class Notebook:
    """Notes, a progress bar, the figures and the latest sample, in one plain-text output."""

    def __init__(self) -> None:
        self._notes: list[str] = []
        self._now: Progress | None = None
        self._pace = Pace()
        self._evaluation = ""
        self._sample: Progress | None = None
        self._output: Any = None
        self._next = 0.0

    def note(self, text: str) -> None:
        """Show a line that stays."""
        self._notes.append(text)
        self._draw()

    def status(self, text: str) -> None:
        """Show nothing: the marker of the cell already shows that it is busy."""

    def show(self, progress: Progress) -> None:
        """Show the progress of training, at most twice a second."""
        if progress.kind == "report":
            return
        self._now = progress
        self._pace.add(progress)
        if progress.kind == "sample":
            self._sample = progress
        if progress.kind == "evaluation":
            self._evaluation = evaluation(progress)
        if monotonic() >= self._next:
            self._draw()

    def close(self) -> None:
        """Show the final state."""
        self._draw()

    def _draw(self) -> None:
        from IPython.display import display

        content = {"text/plain": "\n".join(self._lines())}
        if self._output is None:
            self._output = display(content, raw=True, display_id=True)
        else:
            self._output.update(content, raw=True)
        self._next = monotonic() + _SECONDS

    def _lines(self) -> list[str]:
        lines = list(self._notes)
        if self._now is not None:
            lines += [_bar(self._now), summary(self._now, self._pace)]
        if self._evaluation:
            lines.append(self._evaluation)
        if self._sample is not None:
            text = printable(self._sample.prime + self._sample.sample)
            lines += ["", f"sample after {self._sample.iteration:,} iterations:", text]
        return lines


def _bar(progress: Progress) -> str:
    if progress.is_endless or not progress.iterations:
        return f"iteration {progress.iteration:,}"
    done = _WIDTH * progress.iteration // progress.iterations
    return f"iteration {progress.iteration:,}/{progress.iterations:,} [{'=' * done}{' ' * (_WIDTH - done)}]"
