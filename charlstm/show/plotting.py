"""The curves of a run, drawn by matplotlib, which only this needs."""

from typing import TYPE_CHECKING, Any

import numpy as np

from charlstm.errors import UserError

if TYPE_CHECKING:
    from matplotlib.figure import Figure


def curves(history: dict[str, np.ndarray], name: str, unit: str = "character") -> "Figure":
    """Bits per character while training, and on the text that is kept back, where there are such, by iteration.

    Raises
    ------
    UserError
        Where matplotlib is not installed, or nothing has been reported yet.
    """
    try:
        from matplotlib import figure as figures
    except ImportError:
        raise UserError("plot: needs matplotlib: pip install 'charlstm[plots]'") from None
    if not len(history.get("iteration", ())):
        raise UserError(f"plot: {name} has reported nothing yet: --report-every says how often it does")

    class Figure(figures.Figure):
        """A figure that notebooks show by itself."""

        def _repr_png_(self) -> bytes:
            import io

            content = io.BytesIO()
            self.savefig(content, format="png")
            return content.getvalue()

    figure = Figure(figsize=(7, 4), layout="constrained")
    axes = figure.add_subplot()
    for column, label in ((f"bits_per_{_SHORT[unit]}", "training"), (f"val_bits_per_{_SHORT[unit]}", "kept back")):
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
