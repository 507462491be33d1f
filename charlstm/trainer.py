"""Training: owns the parameters, the optimizer's memory and the carried state; `run()` is a generator of Progress.

No clock enters the arithmetic: a budget in seconds becomes a number of iterations before training begins. The kernels
are called for as many iterations as take about a tenth of a second, which changes no bit of the result.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from time import perf_counter
from typing import Any

import numpy as np

import kernels
from charlstm import dropout, initial
from charlstm.batches import Streams
from charlstm.checkpoint import Checkpoint, shape_of
from charlstm.config import Config
from charlstm.corpus import Corpus
from charlstm.errors import RunFailed, UserError
from charlstm.machine import usable_cores
from charlstm.sampler import choose_backend
from kernels import spec

_CALL_SECONDS = 0.1
_CALIBRATION_SECONDS = 1.0
_MASK_BYTES = 2**22
_SMOOTHING = 0.999
_STOPPED = "training stopped; a smaller --learning-rate or --grad-clip may help"


class Diverged(RunFailed):
    """The loss of an iteration was not finite; the update was not made."""


@dataclass(frozen=True)
class Progress:
    """Where training stands. Losses are in nats, summed over the T steps of one stream.

    A `report` is due for metrics.jsonl, a `sample` is text just written by the model; any other Progress is a `tick`:
    between two calls of the kernels, when `Trainer.checkpoint()` is that of `iteration`.
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


class Trainer:
    """Trains one model on one corpus, from the start or from a checkpoint.

    Parameters
    ----------
    config : Config; its budget in seconds is turned into iterations by :meth:`calibrate`
    corpus : Corpus
    checkpoint : where to go on from; it must be of the same corpus and sizes
    """

    def __init__(self, config: Config, corpus: Corpus, checkpoint: Checkpoint | None = None) -> None:
        self.backend = choose_backend(config.backend)
        if config.iterations is None and config.seconds is None:
            raise UserError("no budget: give --iterations or --seconds")
        self.config = config
        self.corpus = corpus
        self.threads = config.threads or usable_cores()
        self.shape = shape_of(config, len(corpus.vocabulary))
        self.streams = Streams(len(corpus.ids), config.seq_length, config.batch_size)
        self._ops = kernels.load(self.backend)
        self._dropout = dropout.rounded(config.dropout)
        self._workspace = spec.workspace(self.shape, config.seq_length, config.batch_size, config.dtype, self._dropout)
        self._mask = (config.num_layers, config.seq_length, config.batch_size, config.hidden_size)
        self._most = max(1, _MASK_BYTES // math.prod(self._mask)) if self._dropout else sys.maxsize  # to a call
        self.budget = "the budget"  # what ends the run, in words
        self._call = 1  # iterations in the next call of the kernels
        self._rate = 0.0  # characters a second
        if checkpoint is None:
            self._begin()
        else:
            self._go_on(checkpoint)

    def _begin(self) -> None:
        config = self.config
        self.random = np.random.RandomState(config.seed)
        self.theta = initial.weights(config.init, self.shape, config.forget_bias, self.random, config.dtype)
        self.state = spec.aligned_zeros((spec.slots(config.optimizer, config.hyper), len(self.theta)), config.dtype)
        self.h = spec.aligned_zeros((config.num_layers, config.batch_size, config.hidden_size), config.dtype)
        self.c = np.zeros_like(self.h)
        self.iteration, self.seconds = 0, 0.0
        self.smooth_loss = math.log(self.shape.vocab_size) * config.seq_length
        self._loss_sum, self._loss_count = 0.0, 0

    def _go_on(self, old: Checkpoint) -> None:
        if old.corpus["digest"] != self.corpus.digest:
            raise UserError(
                f"{self.corpus.name}: not the text that this run was trained on "
                f"({old.corpus['name']}, {old.corpus['num_ids']:,} characters)"
            )
        self.random = np.random.RandomState()
        self.random.set_state(old.random_state)
        self.theta, self.state, self.h, self.c = old.theta, old.state, old.h, old.c
        self.iteration, self.seconds, self.smooth_loss = old.iteration, old.seconds, old.smooth_loss
        self._loss_sum, self._loss_count = old.loss_sum, old.loss_count

    # --------------------------------------------------------------------------------------------------- budget
    def calibrate(self) -> None:
        """Turn a budget in seconds into one in iterations, by training copies for about a second.

        What the run has already taken counts: budgets are totals. Sets ``config.iterations``.
        """
        config = self.config
        if config.seconds is None:
            return
        theta, state, h, c = (array.copy() for array in (self.theta, self.state, self.h, self.c))
        rates: list[float] = []
        steps, begin = 1, 0.0
        with self._threads():
            while not rates or perf_counter() - begin < _CALIBRATION_SECONDS:
                started = perf_counter()
                flat = np.full(steps, config.learning_rate)
                self._train(theta, state, h, c, self.iteration, self.iteration + steps, flat)
                taken = perf_counter() - started
                if begin:  # the first call may have compiled
                    rates.append(steps / taken)
                begin = begin or perf_counter()
                steps = max(1, min(2 * steps, int(steps * _CALL_SECONDS / taken), self._most))
        left = max(0.0, config.seconds - self.seconds)
        total = self.iteration + math.ceil(left * float(np.median(rates)))
        if config.iterations is None or total < config.iterations:
            self.config = replace(config, iterations=total)
            self.budget = f"{config.seconds:g} s of training"

    def _threads(self) -> AbstractContextManager[Any]:
        """NumPy's products run on one thread: with more, their last bits would depend on how many."""
        if self.backend != "numpy":
            return nullcontext()
        from threadpoolctl import threadpool_limits

        return threadpool_limits(1, "blas")

    @property
    def iterations(self) -> int:
        """The number of iterations at which training ends."""
        if self.config.iterations is None:
            raise RuntimeError("calibrate() turns a budget in seconds into iterations, and has not been called")
        return self.config.iterations

    def learning_rates(self, begin: int, end: int) -> np.ndarray:
        """The rates of iterations begin to end - 1, (n,) float64."""
        rate = self.config.learning_rate
        if self.config.schedule == "constant":
            return np.full(end - begin, rate)
        return rate * 0.5 * (1 + np.cos(np.pi * np.arange(begin, end) / max(self.iterations, 1)))

    # ----------------------------------------------------------------------------------------------------- loop
    def run(self) -> Iterator[Progress]:
        """Train until the budget is reached.

        Raises
        ------
        Diverged
            When a loss is not finite; its iteration is in the message, and its update was not made.
        """
        if self.config.iterations is None:
            self.calibrate()
        with self._threads():
            while self.iteration < self.iterations:
                every = self.config.sample_every
                if every and self.iteration % every == 0:
                    yield self._progress("sample", sample=self._write())
                end = min(self.iterations, self.iteration + self._call)
                if every:
                    end = min(end, (self.iteration // every + 1) * every)
                yield from self._advance(end)
                yield self._progress("tick")

    def _advance(self, end: int) -> Iterator[Progress]:
        """Train up to iteration `end` in one call of the kernels, and yield the reports that are due."""
        begin, config = self.iteration, self.config
        rates = self.learning_rates(begin, end)
        started = perf_counter()
        losses = self.train(begin, end, rates) / config.batch_size
        taken = perf_counter() - started
        last, diverged = float(losses[-1]), not math.isfinite(losses[-1])
        if diverged:
            losses = losses[:-1]
        self.iteration = begin + len(losses)
        chars_each = config.batch_size * config.seq_length
        self._rate = chars_each * len(losses) / taken
        self._call = max(1, min(2 * self._call, int(len(losses) * _CALL_SECONDS / taken), self._most))
        reports = []
        for n, loss in enumerate(losses.tolist(), begin):
            self.smooth_loss = _SMOOTHING * self.smooth_loss + (1 - _SMOOTHING) * loss
            if (n - 1) % config.report_every == 0:  # a report has told of those before
                self._loss_sum, self._loss_count = 0.0, 0
            self._loss_sum += loss
            self._loss_count += 1
            if n % config.report_every == 0:
                seconds = self.seconds + taken * (n + 1 - begin) / len(losses)
                rate = float(rates[n - begin])
                reports.append(self._progress("report", n=n, loss=loss, learning_rate=rate, seconds=seconds))
        self.seconds += taken
        yield from reports
        if diverged:
            raise Diverged(f"the loss of iteration {self.iteration} is {last}: {_STOPPED}")

    def train(self, begin: int, end: int, rates: np.ndarray) -> np.ndarray:
        """Run iterations begin to end - 1 in one call of the kernels; return their losses, summed over T and B."""
        return self._train(self.theta, self.state, self.h, self.c, begin, end, rates)

    def _train(self, theta: Any, state: Any, h: Any, c: Any, begin: int, end: int, rates: np.ndarray) -> np.ndarray:
        config = self.config
        starts, reset = self.streams.plan(begin, end)
        mean, rate = config.loss_reduction == "mean", self._dropout
        return self._ops.train_steps(
            theta, state, h, c, self.corpus.ids, starts, reset, rates,
            shape=self.shape,
            seq_length=config.seq_length,
            step=begin,
            optimizer=config.optimizer,
            hyper=config.hyper,
            grad_scale=1.0 / (config.seq_length * config.batch_size) if mean else 1.0,
            grad_clip=config.grad_clip,
            grad_clip_norm=config.grad_clip_norm,
            dropout=rate,
            masks=dropout.masks(config.seed, begin, end, self._mask, rate) if rate else None,
            workspace=self._workspace,
            threads=self.threads,
        )  # fmt: skip

    def _progress(
        self,
        kind: str,
        n: int | None = None,
        loss: float | None = None,
        learning_rate: float | None = None,
        seconds: float | None = None,
        sample: str = "",
    ) -> Progress:
        config = self.config
        done = self.iteration if n is None else n + 1
        chars = done * config.batch_size * config.seq_length
        mean = self._loss_sum / self._loss_count if self._loss_count else self.smooth_loss
        if learning_rate is None:
            learning_rate = float(self.learning_rates(done, done + 1)[0])
        return Progress(
            kind=kind,
            iteration=self.iteration if n is None else n,
            iterations=self.iterations,
            chars=chars,
            epoch=done / self.streams.iterations_per_pass,
            loss=mean if loss is None else loss,
            smooth_loss=self.smooth_loss,
            bits_per_char=mean / config.seq_length / math.log(2),
            learning_rate=learning_rate,
            seconds=self.seconds if seconds is None else seconds,
            chars_per_second=self._rate,
            sample=sample,
        )

    def _write(self) -> str:
        """Text from the first stream's state, begun with the character that it reads next; training is not touched."""
        starts, reset = self.streams.plan(self.iteration, self.iteration + 1)
        h, c = (np.zeros_like(a[:, :1]) if reset[0] else a[:, :1].copy() for a in (self.h, self.c))
        drawn = self._ops.sample(
            self.theta,
            h,
            c,
            self.corpus.ids[starts[0, :1]].astype(np.int32),
            self.random.random_sample((self.config.sample_length, 1)),
            shape=self.shape,
            temperature=self.config.temperature,
        )
        return self.corpus.vocabulary.decode(drawn[:, 0])

    def checkpoint(self) -> Checkpoint:
        """All that there is to know, as of the last tick; arrays are the trainer's own, so save or copy them.

        Raises
        ------
        Diverged
            If a weight is not finite: such a model is not worth keeping.
        """
        if not np.isfinite(self.theta).all():
            raise Diverged(f"a weight is not finite after {self.iteration} iterations: {_STOPPED}")
        corpus = self.corpus
        return Checkpoint(
            config=self.config,
            vocabulary=corpus.vocabulary,
            theta=self.theta,
            state=self.state,
            h=self.h,
            c=self.c,
            random_state=tuple(self.random.get_state()),
            iteration=self.iteration,
            position=self.iteration % self.streams.iterations_per_pass * self.config.seq_length,
            seconds=self.seconds,
            smooth_loss=self.smooth_loss,
            loss_sum=self._loss_sum,
            loss_count=self._loss_count,
            corpus={
                "name": corpus.name,
                "sources": list(corpus.sources),
                "digest": corpus.digest,
                "num_ids": len(corpus.ids),
            },
        )
