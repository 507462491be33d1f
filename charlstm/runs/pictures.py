"""What a run leaves to look at: loss.png, loss.svg and report.html after training; the plots earlier if asked for."""

import os
from collections.abc import Callable
from pathlib import Path
from time import perf_counter
from typing import Any

from charlstm.runs import disk
from charlstm.runs.inspection import curves
from charlstm.show import plotting
from charlstm.training.trainer import Trainer

PICTURES = ("loss.png", "loss.svg")
_MOST_CHARACTERS = 4_000_000  # of a text whose report is written unasked: a longer one takes more than a few seconds


def draw(folder: Path) -> None:
    """Draw the curves of a run into its folder.

    Raises
    ------
    UserError
        If matplotlib is missing, or the run has no reports yet.
    OSError
        If a file cannot be written.
    """
    figure = plotting.plot([curves(folder)])
    for name in PICTURES:
        disk.write(folder / name, plotting.image(figure, plotting.kind_of(Path(name))))


class Pictures:
    """When a run draws its pictures and writes its report; never while the environment variable CHARLSTM_PLOT is 0.

    Parameters
    ----------
    folder, trainer : of the run
    """

    def __init__(self, folder: Path, trainer: Trainer) -> None:
        self._folder, self._trainer, self._every = folder, trainer, trainer.config.plot_every
        self.is_wanted = trainer.config.plot and os.environ.get("CHARLSTM_PLOT") != "0"
        self._due = perf_counter() + (self._every or 0.0)

    def redraw(self) -> str:
        """Draw if that is asked for and due while training; return what went wrong, or an empty string."""
        if self._every is None or not self.is_wanted or perf_counter() < self._due:
            return ""
        failed = self.draw()
        self._due = perf_counter() + self._every
        return failed

    def draw(self) -> str:
        """Draw; return what went wrong, or an empty string."""
        return self._made(PICTURES[0], "drawn", draw)

    def report(self) -> str:
        """Write report.html, unless the text is long; return what went wrong, or an empty string."""
        from charlstm.runs.report import REPORT, write

        return "" if len(self._trainer.corpus.ids) > _MOST_CHARACTERS else self._made(REPORT, "written", write)

    def _made(self, name: str, done: str, make: Callable[[Path], Any]) -> str:
        """Make a file of the run; return what went wrong: a failure, of whatever kind, must not end a run."""
        try:
            make(self._folder)
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            return f"{self._folder / name}: not {done}: {said}"
        return ""
