"""Plots of the curves of one or several runs; the only module that loads matplotlib."""

from collections.abc import Sequence
from itertools import cycle
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from charlstm.errors import UserError
from charlstm.host import places
from charlstm.show.curve import BEGINNING

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: What the curves may be plotted against: the column of metrics.jsonl, and the label of the axis.
AXES = {
    "iterations": ("iteration", "iterations"),
    "chars": ("chars", "characters read"),
    "seconds": ("seconds", "seconds of training"),
}
#: Okabe and Ito's colours, which readers with any kind of colour vision can tell apart.
_COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#000000")
KINDS = ("png", "svg", "pdf")
_UNDATED = {"svg": {"Date": None}, "pdf": {"CreationDate": None}}
_SMOOTH_FROM = 100  # points; a curve with more is smoothed
_SHORT = {"character": "char", "byte": "byte"}


class Curves(NamedTuple):
    """What is plotted of one run.

    `history` has the columns of its metrics.jsonl, with losses per character; `baseline` is what an n-gram model scores
    on the held-out text, in bits per unit.
    """

    name: str
    history: dict[str, np.ndarray]
    unit: str = "character"
    baseline: float | None = None


def plot(runs: Sequence[Curves], by: str = "iterations") -> "Figure":
    """Plot bits per character, and the learning rate below, as a figure 600 pixels wide (at 100 per inch).

    One run shows the losses of single iterations, their means from report to report, the held-out points with the best
    one marked, and the n-gram baseline. Several runs, each in its colour, show the means and the held-out points, and
    the baseline of each held-out text. Curves of more than 100 points are smoothed.

    Parameters
    ----------
    runs : the runs, all of characters or all of bytes
    by : a key of :data:`AXES`

    Raises
    ------
    UserError
        If matplotlib cannot be loaded, `by` is none of AXES, a run has no reports yet, or some runs count bytes and
        some characters.
    """
    places.settle_matplotlib()
    try:
        from matplotlib import figure as figures
        from matplotlib import ticker
    except ImportError as error:
        raise UserError(f"plot: needs matplotlib: pip install matplotlib ({error})") from None
    if by not in AXES:
        raise UserError(f"--by: expected one of {', '.join(AXES)}, got {by!r}")
    for run in runs:
        if run.unit != runs[0].unit:
            raise UserError(f"plot: {run.name} counts {run.unit}s, but {runs[0].name} counts {runs[0].unit}s")
        if not np.isfinite(run.history.get(f"bits_per_{_SHORT[run.unit]}", np.nan)).any():
            raise UserError(f"plot: {run.name} has no reports yet; --report-every sets how often they come")

    class Figure(figures.Figure):
        """A figure that notebooks display as an image."""

        def _repr_png_(self) -> bytes:
            return image(self, "png")

    figure = Figure(figsize=(6, 4.5), layout="constrained")
    loss, rate = figure.subplots(2, sharex=True, height_ratios=(4, 1))
    column, label = AXES[by]
    heights = []
    for run, colour in zip(runs, cycle(_COLOURS), strict=False):
        heights.append(_draw(loss, run, column, colour, len(runs) == 1))
        rate.plot(run.history[column], run.history["learning_rate"], color=colour, linewidth=1)
    heights += _draw_baselines(loss, runs)
    bottom, top = min(low for low, _ in heights), max(high for _, high in heights)
    loss.set_ylim(bottom - 0.05 * (top - bottom or 1), top + 0.1 * (top - bottom or 1))
    loss.set(ylabel=f"bits per {runs[0].unit}", title=runs[0].name if len(runs) == 1 else None)
    rate.set(xlabel=label, ylabel="learning\nrate")
    rate.xaxis.set_major_locator(ticker.MaxNLocator(6))
    rate.xaxis.set_major_formatter(ticker.StrMethodFormatter("{x:,g}"))
    for axes in (loss, rate):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    loss.legend(fontsize="small")
    return figure


def image(figure: "Figure", kind: str) -> bytes:
    """A figure as a PNG, 1,200 pixels wide, or as another kind that matplotlib writes; the same bytes every time."""
    import io

    import matplotlib

    content = io.BytesIO()
    with matplotlib.rc_context({"svg.hashsalt": "charlstm", "svg.fonttype": "path"}):
        figure.savefig(content, format=kind, dpi=200, metadata=_UNDATED.get(kind))
    return content.getvalue()


def in_html(caption: str, *runs: Curves) -> str:
    """A caption, below the plot of some runs if any are given, as HTML that needs no other file."""
    import base64
    import html

    shown = f"<code>{html.escape(caption)}</code>"
    if not runs:
        return shown
    picture = base64.b64encode(image(plot(runs), "png")).decode()
    return f'<img width="600" alt="bits per {runs[0].unit}" src="data:image/png;base64,{picture}"><br>{shown}'


def kind_of(file: Path) -> str:
    """The kind of image that a file name asks for.

    Raises
    ------
    UserError
        If it is none that can be written.
    """
    kind = file.suffix.lower().removeprefix(".")
    if kind not in KINDS:
        raise UserError(f"{file}: expected a name that ends in .{', .'.join(KINDS[:-1])} or .{KINDS[-1]}")
    return kind


def _draw(axes: "Axes", run: Curves, column: str, colour: str, is_alone: bool) -> tuple[float, float]:
    """Draw the curves of a run; return the least and the greatest height that should be visible."""
    x, short = run.history[column], _SHORT[run.unit]
    training = _points(x, run.history[f"bits_per_{short}"])
    held_out = _points(x, run.history.get(f"val_bits_per_{short}", np.full(len(x), np.nan)))
    if is_alone:
        single = _points(x, run.history["loss"] / np.log(2))
        axes.plot(*single, color=colour, alpha=0.3, linewidth=0.7, label="single iterations")
    elif len(training[0]) > _SMOOTH_FROM:
        axes.plot(*training, color=colour, alpha=0.3, linewidth=0.7)
    few = "." if len(training[0]) < 30 else None
    label = "training" if is_alone else run.name
    axes.plot(training[0], _smoothed(training[1]), color=colour, marker=few, label=label)
    if len(held_out[0]):
        held_out_colour = _COLOURS[1] if is_alone else colour
        best = int(np.argmin(held_out[1]))
        place, bits = held_out[0][best], held_out[1][best]
        label = f"{'' if is_alone else f'{run.name}, '}held-out, best: {bits:.3f}"
        axes.plot(*held_out, color=held_out_colour, linestyle="--", marker=".", label=label)
        axes.plot(place, bits, color=held_out_colour, marker="*", markersize=12)
    end = max(places[-1] for places, _ in (training, held_out) if len(places))
    heights = np.concatenate([bits[places >= BEGINNING * end] for places, bits in (training, held_out)])
    return float(heights.min()), float(heights.max())


def _smoothed(values: np.ndarray) -> np.ndarray:
    """The mean of each value and its neighbours, 1 % of all on either side, fewer at the ends; short curves as is."""
    n = len(values)
    if n <= _SMOOTH_FROM:
        return values
    at = np.arange(n)
    reach = np.minimum(np.minimum(at, n - 1 - at), n // 100)
    sums = np.concatenate([[0.0], np.cumsum(values)])
    return np.asarray((sums[at + reach + 1] - sums[at - reach]) / (2 * reach + 1))


def _draw_baselines(axes: "Axes", runs: Sequence[Curves]) -> list[tuple[float, float]]:
    """Draw a line at the baseline of each held-out text; return their heights, as :func:`_draw` does."""
    of = {run.baseline: run.name for run in reversed(runs) if run.baseline is not None}
    for bits, name in of.items():
        whose = "" if len(of) == 1 else f" of {name}"
        axes.axhline(bits, color="#666666", linestyle=":", linewidth=1.2, label=f"n-gram baseline{whose}: {bits:.3f}")
    return [(bits, bits) for bits in of]


def _points(x: np.ndarray, values: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The finite values, and where they are on the x axis."""
    is_there = np.isfinite(values)
    return x[is_there], values[is_there]
