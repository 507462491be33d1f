"""Where training stands: what a trainer yields, a run writes down and a display shows."""

from dataclasses import dataclass

from charlstm.figures import perplexity

ENDLESS = 10**15  # iterations, where a loss alone ends the run


@dataclass(frozen=True)
class Progress:
    """Where training stands. Losses are in nats, summed over the steps of one stream whose loss counts.

    A `report` is due for metrics.jsonl, an `evaluation` has `val_bits_per_char`, and `is_extra` where it is made only
    because the run ends: one that goes on is as if it had not been. A `sample` is text just written by the
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

    @property
    def perplexity(self) -> float:
        """Of the training loss: see :func:`charlstm.figures.perplexity`."""
        return perplexity(self.bits_per_char)

    @property
    def is_endless(self) -> bool:
        """Whether no number of iterations ends the run."""
        return self.iterations >= ENDLESS
