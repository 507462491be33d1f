"""What a run leaves to look at: loss.png, loss.svg and report.html after training; the plots earlier if asked for."""

import os
from pathlib import Path
from time import perf_counter

from charlstm.runs import disk, records
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
        """Draw; return what went wrong, or an empty string: a failure, of whatever kind, must not end a run."""
        try:
            self._write_baseline()
            draw(self._folder)
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            return f"{self._folder / PICTURES[0]}: not drawn: {said}"
        return ""

    def report(self) -> str:
        """Write report.html, unless the text is long; return what went wrong, or an empty string, as :meth:`draw`."""
        from charlstm.runs.report import REPORT, write

        if len(self._trainer.corpus.ids) > _MOST_CHARACTERS:
            return ""
        try:
            write(self._folder)
        except Exception as error:
            said = " ".join(str(error).split()) or type(error).__name__
            return f"{self._folder / REPORT}: not written: {said}"
        return ""

    def _write_baseline(self) -> None:
        """Write baseline.json, which the pictures show, unless it is there or nothing is held out."""
        path, bits = self._folder / records.BASELINE, self._trainer.baseline_bits
        if bits is not None and not path.exists():
            unit = self._trainer.corpus.vocabulary.unit
            disk.write(path, records.baseline(bits, unit, len(self._trainer.held_out)))
