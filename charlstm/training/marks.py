"""Marks: the figures that later ones are compared with, such as the best losses so far and the recent mean loss."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Self


@dataclass
class Streak:
    """Counts figures in a row that are not lower than the best before them."""

    best: float | None = None  #: None before the first figure
    waited: int = 0

    def add(self, figure: float) -> int:
        """Take the next figure; return how many in a row, including it, have brought no improvement."""
        best = math.inf if self.best is None else self.best
        is_better = figure < best
        self.best, self.waited = (figure, 0) if is_better else (best, self.waited + 1)
        return self.waited


@dataclass
class Marks:
    """The marks of a run; None stands for a figure that does not exist yet.

    A checkpoint stores them as a flat dict without the Nones: see :meth:`to_dict`.
    """

    best_shown: float | None = None  #: smoothed loss of the last sample shown by --show-below
    best_validation: float | None = None  #: lowest held-out bits per unit, including the evaluation at a run's end
    patience: Streak = field(default_factory=Streak)  #: of the regular evaluations, for --patience
    plateau: Streak = field(default_factory=Streak)  #: of the figure that --schedule plateau watches
    rate_factor: float | None = None  #: factor that plateaus have put on the learning rate
    untold_bits: float | None = None  #: bits of an evaluation whose report is still to come
    recent_sum: float | None = None  #: sum of the losses since `recent_loss` was set, for --until-loss
    recent_count: int | None = None
    recent_loss: float | None = None  #: mean loss of the last complete turn, in nats per unit

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The marks stored in a checkpoint; unknown names are ignored."""
        found: dict[str, Any] = {item.name: values.get(item.name) for item in fields(cls)}
        for name in ("patience", "plateau"):
            found[name] = Streak(values.get(f"{name}_best"), values.get(f"{name}_waited", 0))
        return cls(**found)

    def to_dict(self) -> dict[str, float]:
        """The marks as a checkpoint stores them: a Streak becomes two figures, NAME_best and NAME_waited."""
        found: dict[str, float | None] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, Streak):
                found[item.name] = value
            elif value.best is not None:
                found |= {f"{item.name}_best": value.best, f"{item.name}_waited": value.waited}
        return {name: value for name, value in found.items() if value is not None}

    def is_best(self, bits: float) -> bool:
        """Whether these held-out bits per unit are the lowest so far; if so, remember them."""
        if not bits < (math.inf if self.best_validation is None else self.best_validation):
            return False
        self.best_validation = bits
        return True

    def heed_plateau(self, figure: float, patience: int, factor: float) -> None:
        """Multiply the learning rate by `factor` once `patience` figures in a row have brought no improvement."""
        if self.plateau.add(figure) >= patience:
            self.rate_factor = (1.0 if self.rate_factor is None else self.rate_factor) * factor
            self.plateau.waited = 0

    def add_loss(self, loss: float, place: int, turn: int, loss_chars: int) -> None:
        """Add an iteration's loss, number `place` of a turn of `turn` losses whose mean becomes `recent_loss`."""
        if place == 0:
            self.recent_sum, self.recent_count = 0.0, 0
        if self.recent_sum is None or self.recent_count is None:
            return  # --until-loss was first given on resuming, in the middle of a turn
        self.recent_sum += loss
        self.recent_count += 1
        if self.recent_count == turn:
            self.recent_loss = self.recent_sum / turn / loss_chars
