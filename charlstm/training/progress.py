"""Where training stands: what a trainer yields, a run writes down and a display shows."""

import json
import math
from dataclasses import dataclass

from charlstm.figures import for_json, perplexity

ENDLESS = 10**15  # iterations, where a loss alone ends the run


@dataclass(frozen=True, repr=False)
class Progress:
    """Where training stands.

    `loss` and `smooth_loss` are in nats, summed over the `loss_chars` steps of one stream whose loss counts, as the
    min-char scripts print them. People are told `nats_per_char`. A model of bytes learns bytes: `nats_per_char` is of a
    byte then, `bits_per_byte` is set, and `bits_per_char` is that times the bytes that a character of the text has.

    A `report` is due for metrics.jsonl, an `evaluation` has `val_bits_per_char`, and `is_extra` where it is made only
    because the run ends: one that goes on is as if it had not been. Of an iteration that has both, the report comes
    next and has these figures, too; `is_in_report` says so. A `sample` is text just written by the
    model, after `prime` if that is not empty; `is_kept` says whether samples.txt wants it. Any other Progress is a
    `tick`: between two calls of the kernels, when `Trainer.checkpoint()` is that of `iteration`, as at an evaluation.
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

    def __repr__(self) -> str:
        total = "" if self.is_endless else f" of {self.iterations:,}"
        bits = (self.val_bits_per_unit if self.kind == "evaluation" else None) or self.bits_per_unit
        unit = "character" if self.bits_per_byte is None else "byte"
        return f"<Progress {self.kind}: iteration {self.iteration:,}{total}, {bits:.3f} bits per {unit}>"

    @property
    def bits_per_unit(self) -> float:
        """The mean of -log2 p since the last report: of a byte for a model of bytes, else of a character."""
        return self.bits_per_char if self.bits_per_byte is None else self.bits_per_byte

    @property
    def val_bits_per_unit(self) -> float | None:
        """The same of the text that was kept back, where it was measured."""
        return self.val_bits_per_char if self.val_bits_per_byte is None else self.val_bits_per_byte

    @property
    def nats_per_char(self) -> float:
        """The mean loss since the last report: of a byte for a model of bytes, else of a character."""
        return self.bits_per_unit * math.log(2)

    @property
    def perplexity(self) -> float:
        """Of the training loss: see :func:`charlstm.figures.perplexity`."""
        return perplexity(self.bits_per_char)

    @property
    def is_endless(self) -> bool:
        """Whether no number of iterations ends the run."""
        return self.iterations >= ENDLESS


def metrics_line(progress: Progress) -> bytes:
    """One line of metrics.jsonl: its losses are sums over the steps of a stream, as the min-char scripts have them.

    What is no finite number is null.
    """
    return _line(progress, 1)


def told_line(progress: Progress) -> bytes:
    """The same for whoever looks on: its losses are nats per character, or per byte of a model of bytes."""
    return _line(progress, progress.loss_chars)


class OneEach:
    """Which reports and evaluations get a line: one for each iteration, the report where it has the other's figures."""

    def __init__(self) -> None:
        self._held: Progress | None = None

    def due(self, progress: Progress) -> bool:
        """Whether the next of them gets its line now."""
        self._held = progress if progress.is_in_report else None
        return self._held is None

    def rest(self) -> Progress | None:
        """The last one, whose report has not come when all has ended."""
        held, self._held = self._held, None
        return held


def _line(progress: Progress, steps: int) -> bytes:
    """A line with the losses divided by so many steps."""
    names = (
        "iteration", "chars", "epoch", "loss", "smooth_loss", "bits_per_char", "perplexity", "learning_rate", "seconds",
        "chars_per_second",
    )  # fmt: skip
    values = {name: getattr(progress, name) for name in names}
    values |= {name: values[name] / steps for name in ("loss", "smooth_loss")}
    if progress.val_bits_per_char is not None:
        values["val_bits_per_char"] = progress.val_bits_per_char
        values["val_perplexity"] = perplexity(progress.val_bits_per_char)
    for name in ("bits_per_byte", "val_bits_per_byte"):
        if getattr(progress, name) is not None:
            values[name] = getattr(progress, name)
    for name, digits in (("epoch", 6), ("seconds", 6), ("chars_per_second", 1)):
        values[name] = round(values[name], digits)
    return json.dumps({name: for_json(value) for name, value in values.items()}).encode() + b"\n"
