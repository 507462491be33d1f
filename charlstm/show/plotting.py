"""Plots of a run's curves; the only module that needs matplotlib."""

from typing import TYPE_CHECKING, Any

import numpy as np

from charlstm.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(history: dict[str, np.ndarray], name: str, unit: str = "character") -> "Figure":
    """Plot bits per character against iterations, for training and, if present, for the held-out text.

    Raises
    ------
    UserError
        If matplotlib is not installed, or the run has no reports yet.
    """
    try:
        from matplotlib import figure as figures
    except ImportError:
        raise UserError("plot: needs matplotlib: pip install 'charlstm[plots]'") from None
    if not len(history.get("iteration", ())):
        raise UserError(f"plot: {name} has no reports yet; --report-every sets how often they come")

    class Figure(figures.Figure):
        """A figure that notebooks display as an image."""

        def _repr_png_(self) -> bytes:
            import io

            content = io.BytesIO()
            self.savefig(content, format="png")
            return content.getvalue()

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for column, label in ((f"bits_per_{_SHORT[unit]}", "training"), (f"val_bits_per_{_SHORT[unit]}", "held-out")):
        if column in history:
            _draw(axes, history["iteration"], history[column], label)
    axes.set(xlabel="iteration", ylabel=f"bits per {unit}", title=name)
    axes.grid(alpha=0.3)
    axes.legend()
    return figure


_SHORT = {"character": "char", "byte": "byte"}


def _draw(axes: Any, iterations: np.ndarray, values: np.ndarray, label: str) -> None:
    is_there = np.isfinite(values)
    axes.plot(iterations[is_there], values[is_there], label=label, marker="." if is_there.sum() < 30 else None)
