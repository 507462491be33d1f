"""What later figures are compared with: the best losses so far, how long they have stood, the recent mean loss."""

import math
from dataclasses import dataclass, field, fields
from typing import Any, Self


@dataclass
class Streak:
    """How many figures in a row have been no better, that is lower, than the best one before them."""

    best: float | None = None  #: None before the first figure
    waited: int = 0

    def add(self, figure: float) -> int:
        """Take the next figure; return how many in a row, with this one, have been no better."""
        best = math.inf if self.best is None else self.best
        is_better = figure < best
        self.best, self.waited = (figure, 0) if is_better else (best, self.waited + 1)
        return self.waited


@dataclass
class Marks:
    """The marks of one run; None where there is no such figure yet.

    A checkpoint has them as a flat dict, without those that are None: see :meth:`to_dict`.
    """

    best_shown: float | None = None  #: smoothed loss of the last sample that --show-below has shown
    best_validation: float | None = None  #: lowest bits per unit of the held-out text, at a run's end, too
    patience: Streak = field(default_factory=Streak)  #: of the evaluations that were due, for --patience
    plateau: Streak = field(default_factory=Streak)  #: of what --schedule plateau looks at
    rate_factor: float | None = None  #: what plateaus have made of the learning rate
    untold_bits: float | None = None  #: of an evaluation whose report comes next
    recent_sum: float | None = None  #: of the losses since the mean below was set, for --until-loss
    recent_count: int | None = None
    recent_loss: float | None = None  #: mean loss of the last whole turn, in nats per unit

    @classmethod
    def from_dict(cls, values: dict[str, Any]) -> Self:
        """The marks that a checkpoint has; names that this version does not know are left out."""
        found: dict[str, Any] = {item.name: values.get(item.name) for item in fields(cls)}
        for name in ("patience", "plateau"):
            found[name] = Streak(values.get(f"{name}_best"), values.get(f"{name}_waited", 0))
        return cls(**found)

    def to_dict(self) -> dict[str, float]:
        """The marks as a checkpoint has them: a Streak is two figures, NAME_best and NAME_waited."""
        found: dict[str, float | None] = {}
        for item in fields(self):
            value = getattr(self, item.name)
            if not isinstance(value, Streak):
                found[item.name] = value
            elif value.best is not None:
                found |= {f"{item.name}_best": value.best, f"{item.name}_waited": value.waited}
        return {name: value for name, value in found.items() if value is not None}

    def is_best(self, bits: float) -> bool:
        """Whether so many bits per unit of the held-out text are the fewest yet; they are remembered then."""
        if not bits < (math.inf if self.best_validation is None else self.best_validation):
            return False
        self.best_validation = bits
        return True

    def heed_plateau(self, figure: float, patience: int, factor: float) -> None:
        """Multiply the learning rate by `factor` once `patience` figures in a row have been no better."""
        if self.plateau.add(figure) >= patience:
            self.rate_factor = (1.0 if self.rate_factor is None else self.rate_factor) * factor
            self.plateau.waited = 0

    def add_loss(self, loss: float, place: int, turn: int, loss_chars: int) -> None:
        """Add the loss of an iteration, the one at `place` of the `turn` whose mean becomes `recent_loss`."""
        if place == 0:
            self.recent_sum, self.recent_count = 0.0, 0
        if self.recent_sum is None or self.recent_count is None:
            return  # a run that goes on, and is asked for --until-loss only now, amid a turn
        self.recent_sum += loss
        self.recent_count += 1
        if self.recent_count == turn:
            self.recent_loss = self.recent_sum / turn / loss_chars
