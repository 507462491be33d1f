"""The plot of a sweep: how its trials went, and which options mattered."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from charlstm.errors import UserError
from charlstm.host import places

if TYPE_CHECKING:
    from matplotlib.figure import Figure


class Trial(NamedTuple):
    """A trial with a result: its number, best held-out bits, and whether it was pruned."""

    number: int
    bits: float
    is_pruned: bool


def plot(trials: Sequence[Trial], importances: dict[str, float], unit: str = "char") -> "Figure":
    """Plot the held-out bits of the trials in their order, with the best so far, and the importances of the options.

    Raises
    ------
    UserError
        If matplotlib cannot be loaded, or there is no trial.
    """
    places.settle_matplotlib()
    try:
        from matplotlib.figure import Figure
        from matplotlib.ticker import MaxNLocator
    except ImportError as error:
        raise UserError(f"plot: needs matplotlib: pip install matplotlib ({error})") from None
    if not trials:
        raise UserError("plot: no trial has a result yet")
    trials = sorted(trials)
    figure = Figure(figsize=(8, 3.5), layout="constrained")
    bits, shares = figure.subplots(1, 2, width_ratios=(3, 2))
    for is_pruned, colour, name in ((False, "#0072B2", "complete"), (True, "#E69F00", "pruned")):
        chosen = [trial for trial in trials if trial.is_pruned == is_pruned]
        numbers = [trial.number for trial in chosen]
        bits.plot(numbers, [trial.bits for trial in chosen], "o", color=colour, markersize=4, label=name)
    best = np.minimum.accumulate([trial.bits for trial in trials])
    bits.step([trial.number for trial in trials], best, where="post", color="#000000", linewidth=1, label="best so far")
    bits.set(xlabel="trial", ylabel=f"held-out bits per {unit}")
    bits.xaxis.set_major_locator(MaxNLocator(integer=True))
    bits.legend(fontsize="small")
    names = sorted(importances, key=lambda name: importances[name])
    shares.barh(names, [importances[name] for name in names], color="#0072B2")
    shares.set(xlabel="importance", xlim=(0, 1))
    for axes in (bits, shares):
        axes.grid(alpha=0.3)
        axes.spines[["top", "right"]].set_visible(False)
    return figure
