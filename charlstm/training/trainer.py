"""Training: owns the parameters, the optimizer's memory and the carried state; `run()` is a generator of Progress.

Between two calls of the kernels it may sample, evaluate on the text that was kept back, plan anew how many iterations a
budget in seconds is, or end. By those plans alone the clock gets at the arithmetic, and they are kept. The kernels are
called for as many iterations as take about a tenth of a second, which changes no bit of the result.
"""

import math
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from time import perf_counter
from typing import Any

import numpy as np

import kernels
from charlstm.errors import Diverged, UserError
from charlstm.host.machine import usable_cores
from charlstm.model import initial
from charlstm.model.backend import choose_backend
from charlstm.model.checkpoint import Checkpoint, shape_of
from charlstm.model.forward import Writer, continued, drawn_from
from charlstm.model.model import Model
from charlstm.model.scoring import bits_per_unit
from charlstm.settings import plans as written
from charlstm.settings.config import BUDGETS, Config
from charlstm.settings.presets import is_ours
from charlstm.text import heldout
from charlstm.text.batches import Resets, Streams, Windows
from charlstm.text.corpus import Corpus, Vocabulary
from charlstm.text.edges import Ending
from charlstm.text.weights import repeated
from charlstm.training import dropout, schedules
from charlstm.training.progress import ENDLESS, Progress
from kernels import spec

_CALL_SECONDS = 0.1
_CALIBRATION_SECONDS = 1.0  # at most, and no larger a part of the budget than until it is planned anew
_MASK_BYTES = 2**22
_EVALUATIONS = 10  # in a run, unless chosen
_RECENT = 50_000  # characters learned: their mean loss has a standard deviation of about 0.01 nats
_TEMPERATURES = (0.2, 0.5, 1.0, 1.2)  # of the samples after an epoch, and the characters that they go on from
_PRIME = 40
_STOPPED = "training stopped; a smaller --learning-rate or --grad-clip may help"


class Trainer:
    """Trains one model on one corpus, from the start or from a checkpoint.

    Parameters
    ----------
    config : Config; its budgets are turned into iterations by :meth:`calibrate`, and where it has plans, without a
        checkpoint, these take the place of all budgets but the loss
    corpus : Corpus
    checkpoint : where to go on from; it must be of the same corpus and sizes
    """

    def __init__(self, config: Config, corpus: Corpus, checkpoint: Checkpoint | None = None) -> None:
        self.backend = choose_backend(config.backend)
        if all(getattr(config, name) is None for name in (*BUDGETS, "plans")):
            raise UserError("no budget: give --iterations, --epochs, --max-chars, --seconds or --until-loss")
        self._replays = config.plans is not None and checkpoint is None
        if self._replays:
            config = replace(config, iterations=None, epochs=None, max_chars=None, seconds=None)
        self.config = config
        self.corpus = corpus
        ids, self.kept_back = heldout.split(corpus, config.validation, config.validation_from, config.seed)
        self.ids = repeated(ids, corpus.spans, corpus.vocabulary)
        self.threads = config.threads or usable_cores()
        self.shape = shape_of(config, len(corpus.vocabulary))
        self.batches = _batches(config, len(self.ids))
        self._resets = Resets(0 if config.windows else config.reset_every, config.batch_size, config.seed)
        self._ops = kernels.load_for_host(self.backend)
        self._text = kernels.to_device(self.backend, self.ids)  # where the kernels read it
        self._dropout = dropout.rounded(config.dropout)
        self._workspace = None  # a device keeps its own
        if self.backend != "cupy":
            self._workspace = spec.workspace(
                self.shape, config.seq_length, config.batch_size, config.real, self._dropout, config.dtype == "bfloat16"
            )
        self._mask = (config.num_layers, config.seq_length, config.batch_size, config.hidden_size)
        self._most = max(1, _MASK_BYTES // math.prod(self._mask)) if self._dropout else sys.maxsize  # to a call
        self.budget = "the last plan" if self._replays else ""  # what ends the run, in words, where it is known
        self._calibrated = checkpoint is not None  # then it says how many iterations there are
        self.start_loss = math.log(self.shape.vocab_size) * config.loss_chars
        self._units_per_char = _units_per_char(corpus.vocabulary, self.ids)
        self._plans = written.parse(config.plans) if config.plans else ()
        self._call = 1  # iterations in the next call of the kernels
        self._rate = 0.0  # characters a second
        if checkpoint is None:
            self._begin()
        else:
            self._go_on(checkpoint)
        self._planned = self.iteration, self.seconds  # when the budget in seconds was planned last
        for name in ("theta", "state", "h", "c"):
            setattr(self, name, kernels.to_device(self.backend, getattr(self, name)))

    def _begin(self) -> None:
        config = self.config
        self.random = np.random.RandomState(config.seed)
        self.theta = initial.weights(config.init, self.shape, config.forget_bias, self.random, config.real)
        self.state = spec.aligned_zeros((spec.slots(config.optimizer, config.hyper), len(self.theta)), config.real)
        self.h = spec.aligned_zeros((config.num_layers, config.batch_size, config.hidden_size), config.real)
        self.c = np.zeros_like(self.h)
        self.iteration, self.seconds = 0, 0.0
        self.smooth_loss = self.start_loss
        self._loss_sum, self._loss_count = 0.0, 0
        #: What is to be beaten, and how long that has not been: best_shown, best_validation, plateau_waited, ...
        self.marks: dict[str, float] = {}

    def _go_on(self, old: Checkpoint) -> None:
        if old.corpus["digest"] != self.corpus.digest:
            raise UserError(
                f"{self.corpus.name}: not the text that this run was trained on "
                f"({old.corpus['name']}, {old.corpus['num_ids']:,} characters); --force-corpus goes on with it"
            )
        self.random = np.random.RandomState()
        self.random.set_state(old.random_state)
        self.theta, self.state, self.h, self.c = old.theta, old.state, old.h, old.c
        self.iteration, self.seconds, self.smooth_loss = old.iteration, old.seconds, old.smooth_loss
        self._loss_sum, self._loss_count, self.marks = old.loss_sum, old.loss_count, dict(old.marks)

    # --------------------------------------------------------------------------------------------------- budget
    def calibrate(self) -> None:
        """Turn all budgets into one of iterations, that in seconds by training copies for at most a second.

        What the run has already taken counts: budgets are totals. Sets ``config.iterations``, or, for a budget in
        seconds, ``config.plans``, which grows while training goes on.
        """
        self._calibrated = True
        if not self._replays:
            self._plan(self._measured_rate() if self.config.seconds is not None else 0.0)

    def _plan(self, rate: float) -> None:
        """End where the first of the budgets does, that in seconds at `rate` iterations a second from now on."""
        config, totals = self.config, self._totals()
        if config.seconds is not None:
            more = round(max(0.0, config.seconds - self.seconds) * rate)
            totals[f"{config.seconds:g} s of training"] = max(1, self.iteration + more)
        if not totals:
            if config.schedule == "cosine":
                raise UserError("--schedule cosine: needs to know where the run ends: give another budget, too")
            totals["the loss"] = ENDLESS
        self.budget, total = min(totals.items(), key=lambda item: item[1])
        self._planned = self.iteration, self.seconds
        if config.seconds is None and not self._plans:
            self.config = replace(config, iterations=total)
            return
        plans = tuple(plan for plan in self._plans if plan[0] <= self.iteration)
        if not plans or plans[-1][1] != total:
            plans = (*plans, (self.iteration, total))
        self._plans, self.config = plans, replace(config, plans=written.in_words(plans))

    def _totals(self) -> dict[str, int]:
        """The budgets but for that in seconds, in words, as iterations."""
        config, totals = self.config, {}
        if config.iterations is not None:
            totals[f"{config.iterations:,} iterations"] = config.iterations
        if config.epochs is not None:
            totals[f"{config.epochs:g} epochs"] = math.ceil(config.epochs * self.batches.iterations_per_pass)
        if config.max_chars is not None:
            totals[f"{config.max_chars:,} characters"] = math.ceil(config.max_chars / self._chars_each)
        return totals

    def _plan_anew(self) -> None:
        """Where it is time to, plan what is left of a budget in seconds, at the speed since the last plan."""
        if self.config.seconds is None or not self._plans:  # or a run that was begun when plans did not change
            return
        at, seconds = self._planned
        if written.is_due(self.config.seconds, seconds, self.seconds, self.iteration >= self.iterations):
            self._plan((self.iteration - at) / max(self.seconds - seconds, 1e-9))

    def _measured_rate(self) -> float:
        """Iterations a second."""
        theta, state, h, c = (array.copy() for array in (self.theta, self.state, self.h, self.c))
        rates: list[float] = []
        enough = min(_CALIBRATION_SECONDS, written.MOMENTS[0] * (self.config.seconds or math.inf))
        steps, begin = 1, 0.0
        with self._threads():
            while not rates or perf_counter() - begin < enough:
                started = perf_counter()
                flat = np.full(steps, self.config.learning_rate)
                self._train(theta, state, h, c, self.iteration, self.iteration + steps, flat)
                taken = perf_counter() - started
                if begin:  # the first call may have compiled
                    rates.append(steps / taken)
                begin = begin or perf_counter()
                steps = max(1, min(2 * steps, int(steps * _CALL_SECONDS / taken), self._most))
        return float(np.median(rates))

    def _threads(self) -> AbstractContextManager[Any]:
        """NumPy's products run on one thread: with more, their last bits would depend on how many."""
        if self.backend != "numpy":
            return nullcontext()
        from threadpoolctl import threadpool_limits

        return threadpool_limits(1, "blas")

    @property
    def iterations(self) -> int:
        """The number of iterations at which training ends, as it is planned now."""
        if self._plans:
            return written.total_at(self._plans, self.iteration)
        if self.config.iterations is None:
            raise RuntimeError("calibrate() turns a budget in seconds into iterations, and has not been called")
        return self.config.iterations

    def learning_rates(self, begin: int, end: int) -> np.ndarray:
        """The rates of iterations begin to end - 1, (n,) float64."""
        per_epoch, factor = self.batches.iterations_per_pass, self.marks.get("rate_factor", 1.0)
        return schedules.learning_rates(self.config, begin, end, self.iterations, per_epoch, factor)

    @property
    def is_of_bytes(self) -> bool:
        """Whether an id is a byte, not a character."""
        return self.corpus.vocabulary.unit == "byte"

    @property
    def _chars_each(self) -> int:
        """Characters that an iteration reads."""
        return self.config.batch_size * self.config.seq_length

    @property
    def is_out_of_patience(self) -> bool:
        """Whether too many evaluations in a row have brought nothing better."""
        return self.config.patience is not None and self.marks.get("patience_waited", 0) >= self.config.patience

    @property
    def _is_below_loss(self) -> bool:
        """Whether the loss has become as low as it was to be."""
        limit = self.config.until_loss
        return limit is not None and self.marks.get("recent_loss", math.inf) < limit

    def ended_by(self) -> str | None:
        """What has ended the run, in words; None while it goes on."""
        config = self.config
        if self._is_below_loss:
            return f"a loss below {config.until_loss:g} nats per {self.corpus.vocabulary.unit}"
        if self.is_out_of_patience:
            return f"the patience of {config.patience} evaluations"
        return self.budget or f"{self.iterations:,} iterations" if self.iteration >= self.iterations else None

    def more(self) -> list[tuple[str, str]]:
        """Options, and their values, that let a run which has ended go on: to its budget, or for as long again.

        A budget that is chosen takes the place of all others, so each of them is here, twice what it was.
        """
        config = self.config
        loss = [] if config.until_loss is None else [("until-loss", f"{config.until_loss:g}")]
        patience = [("patience", "none")] if self.is_out_of_patience else []
        if self.iteration < self.iterations and (patience or not self._is_endless):
            return patience + ([("until-loss", "none")] if self._is_below_loss else [])
        doubled = [] if self._is_endless else self._doubled_budgets()
        if self._is_below_loss:
            return (doubled or [("iterations", f"{max(2 * self.iteration, 1)}")]) + patience
        return doubled + loss + patience

    def _doubled_budgets(self) -> list[tuple[str, str]]:
        config = self.config
        used = {
            "iterations": self.iteration,
            "epochs": self.iteration / self.batches.iterations_per_pass,
            "max_chars": self.iteration * self._chars_each,
            "seconds": self.seconds,
        }
        given = {name: budget for name in used if (budget := getattr(config, name)) is not None}
        if len(given) > 1 and config.seconds is None and not self.budget.endswith(" iterations"):
            given.pop("iterations")  # what another budget became
        return [
            (
                name.replace("_", "-"),
                f"{2 * budget or 1 if used[name] <= 1.1 * budget else math.ceil(2 * used[name]):.15g}",
            )
            for name, budget in given.items()
        ]

    @property
    def _is_endless(self) -> bool:
        """Whether nothing but a loss ends the run."""
        return self.iterations >= ENDLESS

    # ----------------------------------------------------------------------------------------------------- loop
    def run(self) -> Iterator[Progress]:
        """Train until the budget is reached.

        Raises
        ------
        Diverged
            When a loss is not finite: its iteration is in the message, and its update was not made. Or a sample's
            logits are not.
        """
        if not self._calibrated:
            self.calibrate()
        every = self.config.sample_every
        with self._threads():
            self.train(self.iteration, self.iteration, np.empty(0))  # what has to be compiled is no training time
            if (untold := self.marks.get("untold_bits")) is not None:  # its report has not come
                yield self._evaluation(untold)
            every_evaluation = self._evaluate_every
            if every_evaluation and self.iteration % every_evaluation and self.ended_by() is not None:
                yield self._evaluate(is_due=False)  # it goes on, to nowhere: see Progress.is_extra
            while self.ended_by() is None:
                for stream in self._resets.at(self.iteration).tolist():
                    self.h[:, stream] = self.c[:, stream] = 0
                if every and self.iteration % every == 0:
                    yield self._sample()
                yield from self._advance(self._next_pause())
                self._plan_anew()
                yield from self._at_a_pause()
                yield self._progress("tick")
        self.budget = self.ended_by() or self.budget

    def _next_pause(self) -> int:
        """The iteration at which the next call of the kernels ends, if nothing stops it before."""
        periods = [
            self.config.sample_every,
            self._evaluate_every,
            self.batches.iterations_per_pass * self._minds_epochs,
            self._recent if self.config.until_loss is not None else 0,
        ]
        pauses = ((self.iteration // period + 1) * period for period in periods if period)
        change = written.next_change(self._plans, self.iteration) or sys.maxsize
        reset = self._resets.after(self.iteration) if self._resets.every else sys.maxsize
        return min(self.iterations, self.iteration + self._call, change, reset, *pauses)

    @property
    def _evaluate_every(self) -> int:
        """Iterations from one evaluation to the next; 0 for none."""
        if not self.config.validation:
            return 0
        return self.config.validate_every or max(1, -(-min(self.iterations, 10**6) // _EVALUATIONS))

    @property
    def _recent(self) -> int:
        """Iterations whose mean loss --until-loss looks at, time and again: a pass, or fewer that learn _RECENT."""
        learned = self.config.loss_chars * self.config.batch_size
        return min(self.batches.iterations_per_pass, -(-_RECENT // learned))

    @property
    def _minds_epochs(self) -> bool:
        """Whether there is something to do after each epoch."""
        return self.config.epoch_samples != "none" or (self.config.schedule == "plateau" and not self.config.validation)

    def _at_a_pause(self) -> Iterator[Progress]:
        """Evaluate, and write, where that is due after the iterations made."""
        every = self._evaluate_every
        if every and (self.iteration % every == 0 or self.ended_by() is not None):
            yield self._evaluate(is_due=self.iteration % every == 0)
        if self._minds_epochs and self.iteration % self.batches.iterations_per_pass == 0:
            if self.config.schedule == "plateau" and not self.config.validation:
                self._heed_plateau(self.smooth_loss)
            if self.config.epoch_samples != "none":
                yield from self._epoch_samples()

    def _evaluate(self, is_due: bool) -> Progress:
        """Measure on the text that was kept back, as `charlstm score` would.

        One that is made only because the run ends lets nobody wait: a run that goes on is as if it had not ended.
        """
        begin = self.corpus.edges.begin
        marks, bits = self.marks, bits_per_unit(self._ops, self.theta, self.shape, begin, self.kept_back)
        is_best = bits < marks.get("best_validation", math.inf)
        if is_best:
            marks["best_validation"] = bits
        if is_due:
            self._waited("patience", bits)
            if self.config.schedule == "plateau":
                self._heed_plateau(bits)
            return self._evaluation(bits, is_best=is_best)
        return self._measured(self._progress("evaluation"), bits, is_best=is_best, is_extra=True)

    def _evaluation(self, bits: float, **more: Any) -> Progress:
        """One that was due; where a report of the same iteration comes next, its figure waits for that."""
        is_in_report = self.iteration % self.config.report_every == 0
        self.marks.pop("untold_bits", None)
        if is_in_report:
            self.marks["untold_bits"] = bits
        return self._measured(self._progress("evaluation"), bits, is_in_report=is_in_report, **more)

    def _measured(self, progress: Progress, bits: float, **more: Any) -> Progress:
        """With so many bits per character, or byte, of the text that was kept back."""
        return replace(
            progress,
            val_bits_per_char=bits * _units_per_char(self.corpus.vocabulary, self.kept_back),
            val_bits_per_byte=bits if self.is_of_bytes else None,
            **more,
        )

    def _waited(self, what: str, figure: float) -> float:
        """How many figures in a row, with this one, have been no better than the best before them."""
        marks, best = self.marks, self.marks.get(f"{what}_best", math.inf)
        is_better = figure < best
        marks[f"{what}_best"] = figure if is_better else best
        marks[f"{what}_waited"] = 0 if is_better else marks.get(f"{what}_waited", 0) + 1
        return marks[f"{what}_waited"]

    def _heed_plateau(self, figure: float) -> None:
        """Lower the rate where a figure has been no better than before for too long."""
        if self._waited("plateau", figure) >= self.config.plateau_patience:
            self.marks["rate_factor"] = self.marks.get("rate_factor", 1.0) * self.config.decay_factor
            self.marks["plateau_waited"] = 0

    def _advance(self, end: int) -> Iterator[Progress]:
        """Train up to iteration `end`, or to where a sample is to be shown, and yield what is due."""
        begin, config, limit = self.iteration, self.config, self._show_below()
        rates = self.learning_rates(begin, end)
        started = perf_counter()
        losses = self.train(begin, end, rates, limit) / config.batch_size
        taken = perf_counter() - started
        last, diverged = float(losses[-1]), not math.isfinite(losses[-1])
        if diverged:
            losses = losses[:-1]
        self.iteration = begin + len(losses)
        self._rate = self._chars_each * len(losses) / taken
        self._call = max(1, min(2 * self._call, int(len(losses) * _CALL_SECONDS / taken), self._most))
        reports = []
        for n, loss in enumerate(losses.tolist(), begin):
            self.smooth_loss = spec.SMOOTHING * self.smooth_loss + (1 - spec.SMOOTHING) * loss
            if (n - 1) % config.report_every == 0:  # a report has told of those before
                self._loss_sum, self._loss_count = 0.0, 0
            self._loss_sum += loss
            self._loss_count += 1
            if config.until_loss is not None:
                self._remember(n, loss)
            if n % config.report_every == 0:
                seconds = self.seconds + taken * (n + 1 - begin) / len(losses)
                rate = float(rates[n - begin])
                report = self._progress("report", n=n, loss=loss, learning_rate=rate, seconds=seconds)
                bits = self.marks.pop("untold_bits", None)
                reports.append(report if bits is None else self._measured(report, bits))
        self.seconds += taken
        yield from reports
        if self.smooth_loss < limit and not diverged:
            yield from self._below(rates[len(losses) - 1 :][:1])
        if diverged:
            raise Diverged(f"the loss of iteration {self.iteration} is {last}: {_STOPPED}")

    def _remember(self, n: int, loss: float) -> None:
        """Add an iteration's loss to those that --until-loss looks at; after the last one of them, set their mean."""
        marks, turn = self.marks, n % self._recent
        if turn == 0:
            marks["recent_sum"], marks["recent_count"] = 0.0, 0
        if "recent_sum" in marks:  # not so in a run that is asked for this when it goes on, amid a turn
            marks["recent_sum"] += loss
            marks["recent_count"] += 1
            if marks["recent_count"] == self._recent:
                marks["recent_loss"] = marks["recent_sum"] / self._recent / self.config.loss_chars

    def _show_below(self) -> float:
        """The smoothed loss below which a sample is shown: the lowest yet, where that is low enough."""
        if self.config.show_below is None:
            return -math.inf
        return min(self.config.show_below * self.start_loss, self.marks.get("best_shown", math.inf))

    def _below(self, rate: np.ndarray) -> Iterator[Progress]:
        """The kernels have stopped before the update of the last iteration: make it, and show what was written.

        The sample is of the weights before that update and of the state after that iteration, as in the script.
        """
        begin, theta = self.iteration - 1, self.theta.copy()
        self.train(begin, self.iteration, rate)
        self.marks["best_shown"] = self.smooth_loss
        starts, _ = self.batches.plan(begin, self.iteration)
        save_below = 1.0 if self.config.save_below is None else self.config.save_below
        sample = self._sample_from(theta, self.h[:, :1].copy(), self.c[:, :1].copy(), int(starts[0, 0]))
        is_kept = self.smooth_loss < save_below * self.start_loss
        yield replace(sample, iteration=begin, is_kept=is_kept)

    def train(self, begin: int, end: int, rates: np.ndarray, stop_below: float = -math.inf) -> np.ndarray:
        """Run iterations begin to end - 1 in one call of the kernels; return their losses, summed over T and B."""
        return self._train(self.theta, self.state, self.h, self.c, begin, end, rates, stop_below)

    def _train(
        self, theta: Any, state: Any, h: Any, c: Any, begin: int, end: int, rates: np.ndarray,
        stop_below: float = -math.inf,
    ) -> np.ndarray:  # fmt: skip
        config = self.config
        starts, reset = self.batches.plan(begin, end)
        mean, rate = config.loss_reduction == "mean", self._dropout
        return self._ops.train_steps(
            theta, state, h, c, self._text, starts, reset, rates,
            shape=self.shape,
            seq_length=config.seq_length,
            step=begin,
            optimizer=config.optimizer,
            hyper=config.hyper,
            grad_scale=1.0 / (config.loss_chars * config.batch_size) if mean else 1.0,
            grad_clip=config.grad_clip,
            grad_clip_norm=config.grad_clip_norm,
            dropout=rate,
            masks=dropout.masks(config.seed, begin, end, self._mask, rate) if rate else None,
            last_only=config.windows is not None,
            bfloat16=config.dtype == "bfloat16",
            smooth_loss=self.smooth_loss,
            stop_below=stop_below,
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
    ) -> Progress:
        config = self.config
        done = self.iteration if n is None else n + 1
        chars = done * self._chars_each
        mean = self._loss_sum / self._loss_count if self._loss_count else self.smooth_loss
        bits = mean / config.loss_chars / math.log(2)
        if learning_rate is None:
            learning_rate = float(self.learning_rates(done, done + 1)[0])
        return Progress(
            kind=kind,
            iteration=self.iteration if n is None else n,
            iterations=self.iterations,
            chars=chars,
            epoch=done / self.batches.iterations_per_pass,
            loss=mean if loss is None else loss,
            smooth_loss=self.smooth_loss,
            bits_per_char=bits * self._units_per_char,
            bits_per_byte=bits if self.is_of_bytes else None,
            loss_chars=config.loss_chars,
            learning_rate=learning_rate,
            seconds=self.seconds if seconds is None else seconds,
            chars_per_second=self._rate,
        )

    def _sample(self) -> Progress:
        """A text as `charlstm sample` writes one; training is not touched.

        Of a preset that replaces a program, as there: from the first stream's state, begun with what it reads next.
        """
        if is_ours(self.config.preset):
            config, edges = self.config, self.corpus.edges
            uniforms = self.random.random_sample((config.sample_length, 1))
            writer = Writer(self._ops, self.theta, self.shape, edges.begin)
            drawn = writer.draw(uniforms, temperature=config.temperature)[:, 0]
            return self._sample_of(drawn[: Ending(edges.end).cut(drawn)] if edges.end else drawn)
        starts, reset = self.batches.plan(self.iteration, self.iteration + 1)
        h, c = (np.zeros_like(a[:, :1]) if reset[0] else a[:, :1].copy() for a in (self.h, self.c))
        return self._sample_from(self.theta, h, c, int(starts[0, 0]))

    def _sample_from(self, theta: Any, h: Any, c: Any, at: int) -> Progress:
        """Text from a state of one stream, h and c (L, 1, H), which are overwritten, begun with the id at a place."""
        config = self.config
        drawn = drawn_from(
            self._ops, theta, h, c, self.ids[at : at + 1].astype(np.int32),
            self.random.random_sample((config.sample_length, 1)), shape=self.shape, temperature=config.temperature,
        )  # fmt: skip
        return self._sample_of(drawn[:, 0])

    def _sample_of(self, drawn: np.ndarray) -> Progress:
        text = self.corpus.vocabulary.decode(drawn)
        return replace(self._progress("sample"), sample=text, temperature=self.config.temperature)

    def _epoch_samples(self) -> Iterator[Progress]:
        """Texts at several temperatures, all of which go on from the same piece of the text."""
        config = self.config
        begin = self.random.randint(0, len(self.ids) - _PRIME + 1)
        prime, window = self.ids[begin : begin + _PRIME].astype(np.int32), config.epoch_samples == "window"
        before = prime[:0] if window else np.array(self.corpus.edges.begin, np.int32)
        for temperature in _TEMPERATURES:
            uniforms = self.random.random_sample(config.sample_length)
            read = np.concatenate([before, prime])
            drawn = continued(self._ops, self.theta, self.shape, read, uniforms, temperature, window)
            decode = self.corpus.vocabulary.decode
            yield replace(self._progress("sample"), sample=decode(drawn), prime=decode(prime), temperature=temperature)

    def checkpoint(self) -> Model:
        """All that there is to know, as of the last tick; arrays are the trainer's own, so save or copy them.

        Raises
        ------
        Diverged
            If a weight is not finite: such a model is not worth keeping.
        """
        theta, state, h, c = (kernels.to_host(array) for array in (self.theta, self.state, self.h, self.c))
        if not np.isfinite(theta).all():
            raise Diverged(f"a weight is not finite after {self.iteration} iterations: {_STOPPED}")
        corpus = self.corpus
        return Model(
            config=self.config,
            vocabulary=corpus.vocabulary,
            theta=theta,
            state=state,
            h=h,
            c=c,
            random_state=tuple(self.random.get_state()),
            iteration=self.iteration,
            position=self.iteration % self.batches.iterations_per_pass * self.config.seq_length,
            seconds=self.seconds,
            smooth_loss=self.smooth_loss,
            loss_sum=self._loss_sum,
            loss_count=self._loss_count,
            marks=dict(self.marks),
            corpus={
                "name": corpus.name,
                "sources": list(corpus.sources),
                "digest": corpus.digest,
                "num_ids": len(corpus.ids),
                "is_frozen": corpus.is_frozen,
                **({"spans": corpus.spans} if corpus.spans else {}),
                "begin": list(corpus.edges.begin),
                "end": list(corpus.edges.end),
            },
        )


def _units_per_char(vocabulary: Vocabulary, ids: np.ndarray) -> float:
    """Ids that a character of the text takes: more than one where they are bytes, and it has others than ASCII."""
    return len(ids) / vocabulary.count_characters(ids)


def _batches(config: Config, num_ids: int) -> Streams | Windows:
    """Which ids each iteration reads."""
    if config.epoch_samples != "none" and num_ids < _PRIME:
        raise UserError(f"the text has {num_ids} characters; samples after an epoch go on from {_PRIME} of it")
    if config.windows is None:
        return Streams(num_ids, config.seq_length, config.batch_size)
    return Windows(num_ids, *config.window, config.batch_size, config.seed)
