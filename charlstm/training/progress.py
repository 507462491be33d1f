"""Progress: what a trainer yields, a run writes to metrics.jsonl and a display shows."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from charlstm.figures import for_json, perplexity

ENDLESS = 10**15  # number of iterations of a run that only a loss ends
_ALWAYS = (
    "iteration", "chars", "epoch", "loss", "smooth_loss", "bits_per_char", "perplexity", "learning_rate", "seconds",
    "chars_per_second",
)  # fmt: skip
#: The keys of a line of metrics.jsonl, in the order of the columns of metrics.csv; diagnostics follow.
COLUMNS = (*_ALWAYS, "val_bits_per_char", "val_perplexity", "bits_per_byte", "val_bits_per_byte")


@dataclass(frozen=True, repr=False)
class Progress:
    """The state of training at one moment.

    `loss` and `smooth_loss` are in nats, summed over the `loss_chars` steps of one stream whose loss counts, as the
    min-char scripts print them; displays show `nats_per_char`. For a byte model `nats_per_char` is per byte,
    `bits_per_byte` is set, and `bits_per_char` is that times the bytes per character of the text.

    `kind` is one of four. A `report` is due for metrics.jsonl; some have `diagnostics`: see
    :mod:`charlstm.training.diagnostics`. An `evaluation` has `val_bits_per_char`; `is_extra`
    marks one made only because the run ends, which a resumed run ignores; `is_in_report` says that a report of the same
    iteration follows with the same figures. A `sample` is text that the model has just written after `prime`, which may
    be empty; `is_kept` says whether it goes to samples.txt. A `tick` comes between two calls of the kernels; then, as
    at an evaluation, `Trainer.checkpoint()` is the state at `iteration`.
    """

    kind: str
    iteration: int
    iterations: int
    chars: int
    epoch: float
    loss: float
    smooth_loss: float
    bits_per_char: float
    learning_rate: float
    seconds: float
    chars_per_second: float
    sample: str = ""
    prime: str = ""
    temperature: float = 1.0
    is_kept: bool = True
    val_bits_per_char: float | None = None
    is_best: bool = False
    is_extra: bool = False
    is_in_report: bool = False
    loss_chars: int = 1
    bits_per_byte: float | None = None
    val_bits_per_byte: float | None = None
    diagnostics: dict[str, float] | None = None

    def __repr__(self) -> str:
        total = "" if self.is_endless else f" of {self.iterations:,}"
        bits = (self.val_bits_per_unit if self.kind == "evaluation" else None) or self.bits_per_unit
        unit = "character" if self.bits_per_byte is None else "byte"
        return f"<Progress {self.kind}: iteration {self.iteration:,}{total}, {bits:.3f} bits per {unit}>"

    @property
    def bits_per_unit(self) -> float:
        """The mean -log2 p since the last report: per byte for a byte model, else per character."""
        return self.bits_per_char if self.bits_per_byte is None else self.bits_per_byte

    @property
    def val_bits_per_unit(self) -> float | None:
        """The same for the held-out text; None if it was not evaluated."""
        return self.val_bits_per_char if self.val_bits_per_byte is None else self.val_bits_per_byte

    @property
    def nats_per_char(self) -> float:
        """The mean loss since the last report, in nats: per byte for a byte model, else per character."""
        return self.bits_per_unit * math.log(2)

    @property
    def perplexity(self) -> float:
        """The perplexity of the training loss: see :func:`charlstm.figures.perplexity`."""
        return perplexity(self.bits_per_char)

    @property
    def is_endless(self) -> bool:
        """Whether no number of iterations ends the run."""
        return self.iterations >= ENDLESS


def metrics(progress: Progress, steps: int = 1) -> dict[str, Any]:
    """The values of one line of metrics.jsonl; NaN and infinity become None.

    The losses are sums over the steps of a stream, as in the min-char scripts, divided by `steps`.
    """
    values = {name: getattr(progress, name) for name in _ALWAYS}
    values |= {name: values[name] / steps for name in ("loss", "smooth_loss")}
    if progress.val_bits_per_char is not None:
        values["val_bits_per_char"] = progress.val_bits_per_char
        values["val_perplexity"] = perplexity(progress.val_bits_per_char)
    for name in ("bits_per_byte", "val_bits_per_byte"):
        if getattr(progress, name) is not None:
            values[name] = getattr(progress, name)
    for name, digits in (("epoch", 6), ("seconds", 6), ("chars_per_second", 1)):
        values[name] = round(values[name], digits)
    values |= progress.diagnostics or {}
    return {name: for_json(value) for name, value in values.items()}


def metrics_line(values: dict[str, Any]) -> bytes:
    """The line of metrics.jsonl that holds these values."""
    return json.dumps(values).encode() + b"\n"


def told_line(progress: Progress) -> bytes:
    """The same line for --json output: its losses are nats per character, or per byte for a byte model."""
    return metrics_line(metrics(progress, progress.loss_chars))


def table_line(values: dict[str, Any], columns: Sequence[str]) -> bytes:
    """The line of metrics.csv that holds these values; a value that is missing or None is an empty cell."""
    return ",".join("" if (value := values.get(name)) is None else str(value) for name in columns).encode() + b"\n"


class OneEach:
    """Chooses one line per iteration: the report, if it includes the figures of an evaluation."""

    def __init__(self) -> None:
        self._held: Progress | None = None

    def due(self, progress: Progress) -> bool:
        """Whether this report or evaluation gets its line now."""
        self._held = progress if progress.is_in_report else None
        return self._held is None

    def rest(self) -> Progress | None:
        """The last evaluation, if training ended before its report came."""
        held, self._held = self._held, None
        return held
