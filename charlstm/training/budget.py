"""Decides when training ends: turns all budgets into one number of iterations.

A plan is a pair (iteration, total): from that iteration on, training is to end after `total` iterations, and schedules
that depend on the end use that total. A budget in seconds is planned at the start and again at MOMENTS. Plans are the
only way in which the clock affects the results, so they are recorded: replaying them gives the same bits.
"""

import math
from dataclasses import replace

from charlstm.errors import UserError
from charlstm.model.checkpoint import Checkpoint
from charlstm.settings import plans
from charlstm.settings.config import BUDGETS, Config
from charlstm.settings.plans import Plans
from charlstm.training.marks import Marks
from charlstm.training.progress import ENDLESS

#: Fractions of a budget in seconds at which it is planned again; not at tenths, where runs are compared.
MOMENTS = (0.05, 0.12, 0.25, 0.45, 0.65, 0.85, 0.95, 0.98)
TOLERANCE = 0.01  # fraction of the budget by which the last plan may overrun it; twice that may be left over


class Budget:
    """The budgets of a run; they are totals, so what a resumed run has already used counts.

    Parameters
    ----------
    config : its plans, without a checkpoint, replace all budgets but the loss
    per_epoch : iterations in an epoch
    unit : what a loss is measured per: "character" or "byte"
    checkpoint : where a resumed run continues; then config already holds the number of iterations

    Raises
    ------
    UserError
        If the config has no budget.
    """

    def __init__(self, config: Config, per_epoch: int, unit: str, checkpoint: Checkpoint | None) -> None:
        if all(getattr(config, name) is None for name in (*BUDGETS, "plans")):
            raise UserError("no budget: give --iterations, --epochs, --max-chars, --seconds or --until-loss")
        self._replays = config.plans is not None and checkpoint is None
        if self._replays:
            config = replace(config, iterations=None, epochs=None, max_chars=None, seconds=None)
        self.config = config  #: with `iterations`, or `plans`, set from the budgets
        self.is_planned = checkpoint is not None or self._replays  #: whether the number of iterations is known
        self.words = "the last plan" if self._replays else ""  #: which budget ends the run, once that is known
        self._per_epoch, self._unit = per_epoch, unit
        self._plans: Plans = plans.parse(config.plans) if config.plans else ()
        #: Training seconds at which the budget in seconds was last planned.
        self._planned = (0, 0.0) if checkpoint is None else (checkpoint.iteration, checkpoint.seconds)

    @property
    def calibration_seconds(self) -> float:
        """Maximum duration of the speed measurement: until the first moment at which the budget is planned again."""
        return MOMENTS[0] * (self.config.seconds or math.inf)

    def total(self, iteration: int) -> int:
        """The number of iterations at which training ends, as planned after `iteration` of them."""
        if self._plans:
            return total_at(self._plans, iteration)
        if self.config.iterations is None:
            raise RuntimeError("a budget in seconds needs calibrate() before its iterations are known")
        return self.config.iterations

    def ended_by(self, iteration: int, marks: Marks) -> str | None:
        """What has ended the run, for messages; None if it goes on."""
        if self._is_below_loss(marks):
            return f"a loss below {self.config.until_loss:g} nats per {self._unit}"
        if self._is_out_of_patience(marks):
            return f"the patience of {self.config.patience} evaluations"
        total = self.total(iteration)
        return (self.words or f"{total:,} iterations") if iteration >= total else None

    def _is_below_loss(self, marks: Marks) -> bool:
        """Whether the loss has fallen below --until-loss."""
        limit, recent = self.config.until_loss, marks.recent_loss
        return limit is not None and recent is not None and recent < limit

    def _is_out_of_patience(self, marks: Marks) -> bool:
        """Whether --patience evaluations in a row have brought no improvement."""
        return self.config.patience is not None and marks.patience.waited >= self.config.patience

    def next_change(self, iteration: int) -> int | None:
        """The first later iteration at which another plan takes effect, or None."""
        return next_change(self._plans, iteration)

    def plan(self, iteration: int, seconds: float, rate: float) -> None:
        """Plan to end with the first budget; the one in seconds assumes `rate` iterations per second from now on.

        Sets ``config.iterations`` or, for a budget in seconds, ``config.plans``. Does nothing while plans are replayed.
        """
        if self._replays:
            return
        self.is_planned = True
        config, totals = self.config, self._totals()
        if config.seconds is not None:
            more = round(max(0.0, config.seconds - seconds) * rate)
            totals[f"{config.seconds:g} s of training"] = max(1, iteration + more)
        if not totals:
            if config.schedule == "cosine":
                raise UserError("--schedule cosine: needs a known end: give another budget, too")
            totals["the loss"] = ENDLESS
        self.words, total = min(totals.items(), key=lambda item: item[1])
        self._planned = iteration, seconds
        if config.seconds is None and not self._plans:
            self.config = replace(config, iterations=total)
            return
        kept = tuple(plan for plan in self._plans if plan[0] <= iteration)
        if not kept or kept[-1][1] != total:
            kept = (*kept, (iteration, total))
        self._plans, self.config = kept, replace(config, plans=plans.in_words(kept))

    def plan_anew(self, iteration: int, seconds: float) -> None:
        """When a moment is due, plan the rest of a budget in seconds at the speed since the last plan."""
        if self.config.seconds is None or not self._plans:  # no plans: a run begun by a version with fixed totals
            return
        at, before = self._planned
        if is_due(self.config.seconds, before, seconds, iteration >= self.total(iteration)):
            self.plan(iteration, seconds, (iteration - at) / max(seconds - before, 1e-9))

    def more(self, iteration: int, seconds: float, marks: Marks) -> list[tuple[str, str]]:
        """Options, with values, that let an ended run continue: to its budget, or for as long again."""
        total, until_loss = self.total(iteration), self.config.until_loss
        loss = [] if until_loss is None else [("until-loss", f"{until_loss:g}")]
        patience = [("patience", "none")] if self._is_out_of_patience(marks) else []
        is_below, is_endless = self._is_below_loss(marks), total >= ENDLESS  # endless: only the loss ends the run
        if iteration < total and (patience or not is_endless):
            return patience + ([("until-loss", "none")] if is_below else [])
        doubled = [] if is_endless else self._doubled(iteration, seconds, self.ended_by(iteration, marks) or "")
        if is_below:
            return (doubled or [("iterations", f"{max(2 * iteration, 1)}")]) + patience
        return doubled + loss + patience

    def _doubled(self, iteration: int, seconds: float, ended_by: str) -> list[tuple[str, str]]:
        """The options that double each budget; all are given, since one budget on the command line replaces all."""
        used = {
            "iterations": iteration,
            "epochs": iteration / self._per_epoch,
            "max_chars": iteration * self.config.iteration_chars,
            "seconds": seconds,
        }
        given = {name: budget for name in used if (budget := getattr(self.config, name)) is not None}
        if len(given) > 1 and self.config.seconds is None and not ended_by.endswith(" iterations"):
            given.pop("iterations")  # it was derived from another budget
        return [
            (
                name.replace("_", "-"),
                f"{2 * budget or 1 if used[name] <= 1.1 * budget else math.ceil(2 * used[name]):.15g}",
            )
            for name, budget in given.items()
        ]

    def _totals(self) -> dict[str, int]:
        """All budgets but the one in seconds, as iterations, by description."""
        config, totals = self.config, {}
        if config.iterations is not None:
            totals[f"{config.iterations:,} iterations"] = config.iterations
        if config.epochs is not None:
            totals[f"{config.epochs:g} epochs"] = math.ceil(config.epochs * self._per_epoch)
        if config.max_chars is not None:
            totals[f"{config.max_chars:,} characters"] = math.ceil(config.max_chars / self.config.iteration_chars)
        return totals


def total_at(plans: Plans, iteration: int) -> int:
    """The total that is planned after this many iterations."""
    return [total for at, total in plans if at <= iteration][-1]


def next_change(plans: Plans, iteration: int) -> int | None:
    """The first later iteration at which another plan takes effect, or None."""
    return next((at for at, _ in plans if at > iteration), None)


def is_due(budget: float, planned: float, now: float, has_ended: bool) -> bool:
    """Whether a budget in seconds should be planned again.

    Parameters
    ----------
    budget : training seconds in all
    planned : seconds used when it was last planned
    now : seconds used now
    has_ended : whether all planned iterations have been made
    """
    if has_ended:
        return now < (1 - 2 * TOLERANCE) * budget
    return now >= (1 + TOLERANCE) * budget or any(planned < part * budget <= now for part in MOMENTS)
