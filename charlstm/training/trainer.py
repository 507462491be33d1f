"""Trainer: owns the nets, with their optimizer states and carried states; `run()` is a generator of Progress.

Between two calls of the kernels it may sample, evaluate on the held-out text, plan a budget in seconds again, or end.
Those plans are the only way in which the clock affects the results, and they are recorded. A call of the kernels makes
as many iterations as take about a tenth of a second; their number changes no bit of the result.
"""

import math
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np

import kernels
from charlstm.errors import Diverged, UserError
from charlstm.model.checkpoint import Checkpoint
from charlstm.model.memory import Memory, Voice, joined
from charlstm.model.model import Model
from charlstm.model.scoring import Bits
from charlstm.ngram.beside import NGram
from charlstm.settings.config import EMBEDDED_FROM, EMBEDDING, Config, fitting_dropout
from charlstm.settings.presets import is_ours
from charlstm.text import heldout
from charlstm.text.corpus import Corpus
from charlstm.text.weights import repeated
from charlstm.training import backend, schedules
from charlstm.training.budget import Budget
from charlstm.training.diagnostics import Diagnostics
from charlstm.training.evaluation import Evaluations, units_per_char
from charlstm.training.marks import Marks
from charlstm.training.members import Members
from charlstm.training.parallel import gathered
from charlstm.training.progress import Progress
from charlstm.training.samples import Samples, Written, is_due, next_due
from charlstm.training.world import ALONE, World
from kernels import spec

_RECENT = 50_000  # characters whose mean loss has a standard deviation of about 0.01 nats
_STOPPED = "training stopped; a smaller --learning-rate or --grad-clip may help"


class Trainer:
    """Trains one net, or several side by side, on one corpus, from the start or from a checkpoint.

    `call_iterations` is the maximum number of iterations in the next call of the kernels. Set it between two ticks to
    split a run into other calls, which changes no bit. After each call it is adjusted to about a tenth of a second.

    Parameters
    ----------
    config : Config; :meth:`calibrate` turns its budgets into iterations; its plans, without a checkpoint, replace all
        budgets but the loss
    corpus : Corpus
    checkpoint : where to resume; it must match the corpus and the sizes
    world : the ranks that train it, all in the same way: each owns some of the streams, with their h and c
    """

    def __init__(
        self, config: Config, corpus: Corpus, checkpoint: Checkpoint | None = None, world: World = ALONE
    ) -> None:
        self.corpus, self.world = corpus, world
        self.threads = config.threads or world.threads()
        config = self._settled(config, is_resumed=checkpoint is not None)
        ids, self.held_out = heldout.split(corpus, config.validation, config.validation_from, config.seed)
        self.ids = repeated(ids, corpus.spans, corpus.vocabulary)
        self.members = Members(config, self.backend, self.ids, len(corpus.vocabulary), self.threads, world)
        first = self.members.first
        self.shape, self.batches = first.shape, first.batches
        self._samples = Samples(config, corpus, self.ids, first.steps.ops)
        self._diagnostics = Diagnostics(first.config, first.shape, first.steps)
        self._evaluations = Evaluations(config, corpus, self.ids, self.held_out, first.steps.ops)
        self.ngram: NGram | None = None  #: beside the net: see :meth:`put_beside`
        self.start_loss = math.log(self.shape.vocab_size) * config.loss_chars
        self._units_per_char = 1.0
        if self.is_of_bytes:  # it takes the whole text
            self._units_per_char = world.broadcast(world.rank or units_per_char(corpus.vocabulary, self.ids))
        self.call_iterations = 1
        self._rate = 0.0  # characters per second
        if checkpoint is None:
            self._begin(config)
        else:
            self._go_on(checkpoint)
        self.budget = Budget(config, self.batches.iterations_per_pass, corpus.vocabulary.unit, checkpoint)

    def _settled(self, config: Config, is_resumed: bool) -> Config:
        """The config with the choices that it leaves to the text and the machine."""
        if config.embedding_size is None:
            is_large = len(self.corpus.vocabulary) > EMBEDDED_FROM
            config = replace(config, embedding_size=EMBEDDING if is_large else 0)
        if config.documents == "auto":
            config = replace(config, documents="lines" if heldout.is_list(self.corpus) else "texts")
        if config.documents == "lines":
            config = replace(config, validation_from="shuffle-lines")
        largest = max(net.hidden_size for net in config.nets)
        fitting = fitting_dropout(largest, config.num_layers, len(self.corpus.ids))
        if config.dropout is None:
            config = replace(config, dropout=fitting)
        if config.weight_drop is None:
            config = replace(config, weight_drop=fitting)
        vocab_size, ranks = len(self.corpus.vocabulary), self.world.size
        self.backend, self.why_backend = backend.chosen(
            config, vocab_size, self.threads, ranks=ranks, is_resumed=is_resumed
        )
        if config.dtype == "auto":
            gains = self.backend == "numba" and backend.gains_by_bfloat16(config)
            config = replace(config, dtype="bfloat16" if gains else "float32")
        return replace(config, backend=self.backend)

    def _begin(self, config: Config) -> None:
        generators = [member.begin() for member in self.members]
        self.random = generators[0]
        self.iteration, self.seconds = 0, 0.0
        self.smooth_loss = self.start_loss
        self._loss_sum, self._loss_count = 0.0, 0
        self.marks, self.mix, self.each = Marks(), dict[str, Any](), dict[str, list[float]]()

    def _go_on(self, old: Checkpoint) -> None:
        if old.corpus["digest"] != self.corpus.digest:
            raise UserError(
                f"{self.corpus.name}: not the text that this run was trained on "
                f"({old.corpus['name']}, {old.corpus['num_ids']:,} characters); --force-corpus continues on it anyway"
            )
        self.random = np.random.RandomState()
        self.random.set_state(old.random_state)
        for member, memory, mean in zip(self.members, old.memories, old.averages, strict=True):
            member.go_on(memory, mean)
        self.iteration, self.seconds, self.smooth_loss = old.iteration, old.seconds, old.smooth_loss
        self._loss_sum, self._loss_count, self.marks = old.loss_sum, old.loss_count, Marks.from_dict(old.marks)
        self.mix, self.each = dict(old.mix), dict(old.each)
        self.members.first.steps.remainders = old.remainders

    def put_beside(self, ngram: NGram, digest: str) -> None:
        """Let checkpoints name an n-gram of the training text, which evaluations mix with the net from now on."""
        self.ngram = ngram
        if self.mix.get("digest") != digest:
            self.mix = {"digest": digest, "weight": self.config.mix}
        bits = self._evaluations.set_beside(ngram)
        if bits is not None:
            self.mix["ngram"] = bits

    # --------------------------------------------------------------------------------------------------- budget
    @property
    def config(self) -> Config:
        """The config, with `iterations` set from the budgets or, for a budget in seconds, with `plans`."""
        return self.budget.config

    def calibrate(self) -> None:
        """Turn all budgets into iterations; for one in seconds, measure the speed on copies for up to a second.

        Sets ``config.iterations`` or, for a budget in seconds, ``config.plans``, which grows during training.
        """
        rate = self.rate(self.budget.calibration_seconds) if self.config.seconds is not None else 0.0
        self.budget.plan(self.iteration, self.seconds, rate)

    def rate(self, seconds: float = 1.0) -> float:
        """Iterations per second, measured on copies for at most `seconds` and one second."""
        return self.members.rate(self.iteration, seconds)

    @property
    def nbytes(self) -> int:
        """Bytes of the parameters, the optimizer states, the nets' states and the kernels' buffers."""
        return self.members.nbytes

    @property
    def num_parameters(self) -> int:
        """The number of parameters of all nets."""
        return sum(len(memory.theta) for memory in self.members.memories)

    @property
    def iterations(self) -> int:
        """The number of iterations at which training ends, as planned now."""
        return self.budget.total(self.iteration)

    def ended_by(self) -> str | None:
        """What has ended the run, for messages; None if it goes on."""
        return self.budget.ended_by(self.iteration, self.marks)

    def more(self) -> list[tuple[str, str]]:
        """Options, with values, that let an ended run continue: to its budget, or for as long again."""
        return self.budget.more(self.iteration, self.seconds, self.marks)

    # ----------------------------------------------------------------------------------------------------- loop
    def run(self) -> Iterator[Progress]:
        """Train until the budget is reached.

        Raises
        ------
        Diverged
                If a loss is not finite: the message names its iteration, whose update was not made. Also if the logits
                of a sample are not finite.
        """
        if not self.budget.is_planned:
            self.calibrate()
        with self.members.on_one_blas_thread():
            self.train(self.iteration, self.iteration, np.empty(0))  # so that compiling does not count as training time
            if 0 < self._diagnostics.every < self.iterations:
                self._diagnose()  # compiles, too
            if (untold := self.marks.untold_bits) is not None:  # its report did not come before the run was stopped
                yield self._evaluation(untold)
            every_evaluation = self._evaluate_every
            if every_evaluation and self.iteration % every_evaluation and self.ended_by() is not None:
                yield self._evaluate(is_due=False)  # the resumed run has nothing to do: see Progress.is_extra
            while self.ended_by() is None:
                for member in self.members:
                    member.reset(self.iteration)
                if is_due(self.config.sample_every, self.iteration):
                    yield self.sample()
                yield from self._advance(self._next_pause())
                self.budget.plan_anew(self.iteration, self.seconds)
                yield from self._at_a_pause()
                yield self._progress("tick")

    def _next_pause(self) -> int:
        """The iteration at which the next call of the kernels ends unless something stops it earlier."""
        periods = [
            self._evaluate_every,
            self._diagnostics.every,
            self.batches.iterations_per_pass * self._minds_epochs,
            self._recent if self.config.until_loss is not None else 0,
        ]
        pauses = ((self.iteration // period + 1) * period for period in periods if period)
        change = self.budget.next_change(self.iteration) or sys.maxsize
        resets = self.members.first.resets  # those of other seeds may be at the same iterations
        reset = resets.after(self.iteration) if resets.every else sys.maxsize
        sample = next_due(self.config.sample_every, self.iteration)
        end = self.members.first.steps.end_of_call(self.iteration, self.call_iterations)
        point = self.members.first.next_point(self.iteration)
        return min(self.iterations, end, change, reset, sample, point, *pauses)

    @property
    def _evaluate_every(self) -> int:
        """Iterations between evaluations; 0 for none."""
        return self._evaluations.every(self.iterations)

    @property
    def _recent(self) -> int:
        """Iterations averaged for --until-loss: a pass, or fewer if those learn _RECENT characters."""
        learned = self.config.loss_chars * self.config.batch_size
        return min(self.batches.iterations_per_pass, -(-_RECENT // learned))

    @property
    def _minds_epochs(self) -> bool:
        """Whether something happens after each epoch."""
        return self.config.epoch_samples != "none" or (self.config.schedule == "plateau" and not self.config.validation)

    def _at_a_pause(self) -> Iterator[Progress]:
        """Evaluate and sample if due after the iterations made."""
        every = self._evaluate_every
        if every and (self.iteration % every == 0 or self.ended_by() is not None):
            yield self._evaluate(is_due=self.iteration % every == 0)
        if self._minds_epochs and self.iteration % self.batches.iterations_per_pass == 0:
            if not self.config.validation:
                self._heed_plateau(self.smooth_loss)
            if self.config.epoch_samples != "none":
                for written in self._samples.after_an_epoch(self.voices, self.random):
                    yield self._told(written)

    def _advance(self, end: int) -> Iterator[Progress]:
        """Train to iteration `end`, or to where a sample is to be shown, and yield what is due."""
        begin, config, limit = self.iteration, self.config, self._show_below()
        rates = self.learning_rates(begin, end)
        diagnostics = self._diagnose() if self._diagnostics.is_due(begin) else None
        clock = self.members.first.steps.clock
        started = clock()
        losses = self.train(begin, end, rates, limit) / config.batch_size
        taken = clock() - started
        last, diverged = float(losses[-1]), not math.isfinite(losses[-1])
        if diverged:
            losses = losses[:-1]
        self.iteration = begin + len(losses)
        self._rate = self.config.iteration_chars * len(losses) / taken
        self.call_iterations = self.members.fitting(self.call_iterations, len(losses), taken)
        reports = []
        for n, loss in enumerate(losses.tolist(), begin):
            self._add_loss(n, loss)
            if n % config.report_every == 0:
                seconds = self.seconds + taken * (n + 1 - begin) / len(losses)
                rate = float(rates[n - begin])
                report = self._progress("report", n=n, loss=loss, learning_rate=rate, seconds=seconds)
                if n == begin and diagnostics is not None:
                    report = replace(report, diagnostics=diagnostics)
                bits, self.marks.untold_bits = self.marks.untold_bits, None
                reports.append(report if bits is None else self._evaluations.told(report, bits))
        self.seconds += taken
        is_below = self.smooth_loss < limit and not diverged
        if not diverged and not is_below:  # else the last update is still to be made
            self.members.average_weights(self.iteration)
        yield from reports
        if is_below:
            yield from self._below(rates[len(losses) - 1 :][:1])
        if diverged:
            raise Diverged(f"the loss of iteration {self.iteration} is {last}: {_STOPPED}")

    def _diagnose(self) -> dict[str, float]:
        """Measure the diagnostics of the next iteration."""
        rate = float(self.learning_rates(self.iteration, self.iteration + 1)[0])
        return self._diagnostics.measure(self.members.first.memory, self.iteration, rate)

    def _add_loss(self, n: int, loss: float) -> None:
        """Add the loss of iteration n to the means."""
        self.smooth_loss = spec.SMOOTHING * self.smooth_loss + (1 - spec.SMOOTHING) * loss
        if (n - 1) % self.config.report_every == 0:  # a report has covered the losses before
            self._loss_sum, self._loss_count = 0.0, 0
        self._loss_sum += loss
        self._loss_count += 1
        if self.config.until_loss is not None:
            self.marks.add_loss(loss, n % self._recent, self._recent, self.config.loss_chars)

    def learning_rates(self, begin: int, end: int) -> np.ndarray:
        """The learning rates of iterations begin to end - 1, (n,) float64."""
        per_epoch = self.batches.iterations_per_pass
        factor = 1.0 if self.marks.rate_factor is None else self.marks.rate_factor
        return schedules.learning_rates(self.config, begin, end, self.iterations, per_epoch, factor)

    def train(self, begin: int, end: int, rates: np.ndarray, stop_below: float = -math.inf) -> np.ndarray:
        """Run iterations begin to end - 1 in one call of the kernels; return their losses, summed over T and B."""
        return self.members.run(self.members.memories, begin, end, rates, self.smooth_loss, stop_below)

    theta = property(lambda self: self.members.first.memory.theta, doc="The parameters (N,) of the first net.")
    state = property(lambda self: self.members.first.memory.state, doc="Its optimizer state, (S, N).")
    h = property(lambda self: self.members.first.memory.h, doc="Its state, (L, B, H).")
    c = property(lambda self: self.members.first.memory.c, doc="Its cell state, (L, B, H).")

    @property
    def voices(self) -> list[Voice]:
        """The nets that speak."""
        return self.members.voices(self.each)

    # ----------------------------------------------------------------------------------------------- evaluation
    def _evaluate(self, is_due: bool) -> Progress:
        """Evaluate on the held-out text, as `charlstm score` would.

        An evaluation made only because the run ends counts for neither patience nor plateaus: a resumed run ignores it.
        """
        # One rank's figures count on all: ranks on different processors might differ in the last bit.
        groups = self.members.groups if self.world.rank == 0 else []
        found = [Bits(*each) for each in self.world.broadcast([self._evaluations.bits(group) for group in groups])]
        bits, mixed_bits, _ = min(found, key=lambda one: one.net)
        if len(each := [figure for one in found for figure in one.each]) > 1:
            self.each = {"bits": each}
        if self.ngram is not None:
            weight = self.config.mix if mixed_bits < bits else 0.0
            self.mix |= {"net": bits, "mixture": mixed_bits, "weight": weight}
        is_best = self.marks.is_best(bits)
        if is_due:
            self.marks.patience.add(bits)
            self._heed_plateau(bits)
            return self._evaluation(bits, is_best=is_best)
        return self._evaluations.told(self._progress("evaluation"), bits, is_best=is_best, is_extra=True)

    def _evaluation(self, bits: float, **more: Any) -> Progress:
        """The Progress of a regular evaluation; a report of the same iteration that follows gets its figure, too."""
        is_in_report = self.iteration % self.config.report_every == 0
        self.marks.untold_bits = bits if is_in_report else None
        return self._evaluations.told(self._progress("evaluation"), bits, is_in_report=is_in_report, **more)

    @property
    def baseline_bits(self) -> float | None:
        """Bits per character (byte) of the n-gram baseline on the held-out text; None if there is none."""
        return self._evaluations.baseline_bits

    def _heed_plateau(self, figure: float) -> None:
        """With --schedule plateau, lower the learning rate if figures have brought no improvement for too long."""
        if self.config.schedule == "plateau":
            self.marks.heed_plateau(figure, self.config.plateau_patience, self.config.decay_factor)

    # -------------------------------------------------------------------------------------------------- samples
    def sample(self, random: np.random.RandomState | None = None, length: int | None = None) -> Progress:
        """Write a text as `charlstm sample` does; training is not affected.

        With a preset that replicates another program, sample as that program does: from the first stream's state,
        beginning with the id that it reads next.

        Parameters
        ----------
        random : by default the run's own, from which its saved samples are drawn
        length : in characters, by default that of the config
        """
        random, length = random or self.random, length or self.config.sample_length
        if is_ours(self.config.preset) or len(self.voices) > 1:
            return self._told(self._samples.from_the_start(self.voices, random, length))
        starts, reset = self.batches.plan(self.iteration, self.iteration + 1)
        h, c = (np.zeros_like(a[:, :1]) if reset[0] else a[:, :1].copy() for a in (self.h, self.c))
        return self._told(self._samples.from_a_state(self.voices[0], h, c, int(starts[0, 0]), random, length))

    def _show_below(self) -> float:
        """The smoothed loss below which a sample is shown: the lowest so far, once it is low enough."""
        if self.config.show_below is None:
            return -math.inf
        best = math.inf if self.marks.best_shown is None else self.marks.best_shown
        return min(self.config.show_below * self.start_loss, best)

    def _below(self, rate: np.ndarray) -> Iterator[Progress]:
        """Make the update before which the kernels stopped, and show a sample.

        The sample uses the weights before that update and the state after that iteration, as in the script.
        """
        begin, voice, config = self.iteration - 1, Voice(self.theta.copy(), self.shape), self.config
        self.train(begin, self.iteration, rate)
        self.members.average_weights(self.iteration)
        self.marks.best_shown = self.smooth_loss
        starts, _ = self.batches.plan(begin, self.iteration)
        h, c = self.h[:, :1].copy(), self.c[:, :1].copy()
        written = self._samples.from_a_state(voice, h, c, int(starts[0, 0]), self.random, config.sample_length)
        save_below = 1.0 if config.save_below is None else config.save_below
        is_kept = self.smooth_loss < save_below * self.start_loss
        yield replace(self._told(written), iteration=begin, is_kept=is_kept)

    def _told(self, written: Written) -> Progress:
        return replace(self._progress("sample"), **written._asdict())

    # ---------------------------------------------------------------------------------------------- where it is
    @property
    def is_of_bytes(self) -> bool:
        """Whether an id is a byte rather than a character."""
        return self.corpus.vocabulary.unit == "byte"

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
        mean = self._loss_sum / self._loss_count if self._loss_count else self.smooth_loss
        bits = mean / config.loss_chars / math.log(2)
        if learning_rate is None:
            learning_rate = float(self.learning_rates(done, done + 1)[0])
        return Progress(
            kind=kind,
            iteration=self.iteration if n is None else n,
            iterations=self.iterations,
            chars=done * self.config.iteration_chars,
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

    def _average(self) -> np.ndarray | None:
        """The mean weights of all nets, on the host, as a checkpoint holds them; None without."""
        means = [kernels.to_host(member.average) for member in self.members if member.average is not None]
        return np.concatenate(means) if means else None

    def checkpoint(self) -> Model:
        """The complete state as of the last tick; the arrays are the trainer's own, so save or copy them.

        All ranks call it, and get the states of all streams.

        Raises
        ------
        Diverged
            If a weight is not finite: such a model is useless.
        RanksDiffer
            If the ranks no longer agree.
        """
        host = [Memory(*(kernels.to_host(array) for array in memory)) for memory in self.members.memories]
        memory = joined(host)
        h, c = gathered(self.world, memory)
        if not np.isfinite(memory.theta).all():
            raise Diverged(f"a weight is not finite after {self.iteration} iterations: {_STOPPED}")
        found = Model(
            config=self.config,
            vocabulary=self.corpus.vocabulary,
            theta=memory.theta,
            state=memory.state,
            h=h,
            c=c,
            random_state=tuple(self.random.get_state()),
            iteration=self.iteration,
            position=self.iteration % self.batches.iterations_per_pass * self.config.seq_length,
            seconds=self.seconds,
            smooth_loss=self.smooth_loss,
            loss_sum=self._loss_sum,
            loss_count=self._loss_count,
            marks=self.marks.to_dict(),
            corpus=self.corpus.facts(),
            mix=dict(self.mix),
            each=dict(self.each),
            average=self._average(),
            remainders=self.members.first.steps.remainders,
        )
        if self.ngram is not None:
            found.ngram = self.ngram
        return found
