"""Benchmark workloads, our own runner for them, and the short benchmark ``charlstm bench``.

A workload is a model, a text and a training recipe with fixed initial weights. benchmarks/ runs the same workloads on
rivals, which take ids, weights and batch plan from this module and therefore compute the same numbers.
"""

import os
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

import kernels
from charlstm.errors import RunFailed
from charlstm.measure.limits import Limits, sampling_floor, training_floor
from charlstm.model import initial
from charlstm.settings.config import EMBEDDED_FROM, EMBEDDING
from charlstm.text import corpus
from charlstm.text.batches import Streams, Windows
from kernels import spec
from kernels.spec import Shape
from kernels.testing import GRADIENT_TOLERANCE, gradient_errors

SEED = 123


@dataclass(frozen=True)
class Work:
    """A workload: one training iteration, or one sampled character if `optimizer` is empty."""

    name: str
    text: str  # a key of TEXTS, or _MADE
    shape: Shape
    seq_length: int
    batch_size: int
    optimizer: str = ""
    learning_rate: float = 0.0
    hyper: dict[str, float] = field(default_factory=dict)
    grad_clip: float | None = None
    grad_clip_norm: float | None = None
    mean: bool = True  # differentiate the mean loss per character instead of the sum
    init: str = "uniform"
    window_step: int = 0  # distance between shuffled windows, of which only the last step has a loss; 0: streams

    @property
    def chars(self) -> int:
        """Number of characters that one iteration reads or samples."""
        return self.seq_length * self.batch_size

    @property
    def last_only(self) -> bool:
        """Whether only the last time step has a loss."""
        return self.window_step > 0

    @property
    def grad_scale(self) -> float:
        """The factor applied to the gradient of the summed loss."""
        summed = self.batch_size if self.last_only else self.chars
        return 1.0 / summed if self.mean else 1.0

    def plan(self, num_ids: int) -> Streams | Windows:
        """Return the plan of which ids each iteration reads."""
        if self.window_step:
            return Windows(num_ids, self.seq_length, self.window_step, self.batch_size, SEED)
        return Streams(num_ids, self.seq_length, self.batch_size)

    def weights(self, dtype: str) -> np.ndarray:
        """Return the initial weights, (N,), the same for every rival."""
        return initial.weights(self.init, self.shape, 0.0, np.random.RandomState(SEED), dtype)

    def floor(self, limits: Limits, cores: int = 1) -> float:
        """Return the least time for one iteration within `limits`, in seconds, in float32."""
        if not self.optimizer:
            return sampling_floor(limits, self.shape)
        T, B = self.seq_length, self.batch_size
        return training_floor(limits, self.shape, T, B, self.optimizer, self.last_only, cores)


#: name -> characters, distinct characters; the stand-in for a missing text has at most as many of both.
TEXTS = {"us-constitution": (45_345, 71), "nietzsche": (600_901, 57), "tinyshakespeare": (1_115_394, 65)}
_MADE = "made"  # a text of a million drawn characters, of as many kinds as the model knows


def _works() -> dict[str, Work]:
    shakespeare, nietzsche, constitution = "tinyshakespeare", "nietzsche", "us-constitution"
    adagrad: dict[str, Any] = {"optimizer": "adagrad", "learning_rate": 0.1, "grad_clip": 5.0, "mean": False}
    keras: dict[str, Any] = {"optimizer": "rmsprop", "learning_rate": 0.01, "hyper": {"rho": 0.9, "epsilon": 1e-7}}
    torch_rnn: dict[str, Any] = {"optimizer": "adam", "learning_rate": 2e-3, "grad_clip": 5.0}
    adam: dict[str, Any] = {"optimizer": "adam", "learning_rate": 4e-3, "grad_clip_norm": 1.0}
    works = [
        Work("seed", constitution, Shape(71, 100), 16, 1, init="min-char-lstm", **adagrad),
        Work("keras", nietzsche, Shape(57, 128), 40, 128, window_step=3, **keras),
        *(Work(f"torch-rnn-{H}", shakespeare, Shape(65, H, 2), 50, 50, **torch_rnn) for H in (128, 512, 1024)),
        Work("keras-all", nietzsche, Shape(57, 128), 40, 128, **keras),
        *(Work(f"h256-b{B}", shakespeare, Shape(65, 256), 32, B, **adam) for B in (16, 32)),
        Work("gru-256", shakespeare, Shape(65, 256, 1, "gru"), 32, 32, **adam),
        Work("sample", constitution, Shape(71, 100), 1, 1),
    ]
    works += [Work(f"cost-h-{H}", constitution, Shape(71, H), 16, 1, **adagrad) for H in COST_H]
    works += [Work(f"cost-b-{B}", shakespeare, Shape(65, 256), 32, B, **adam) for B in COST_B]
    for V in COST_V:  # the model of `fast`
        shape = Shape(V, 224, 1, "lstm", EMBEDDING if V > EMBEDDED_FROM else 0)
        works.append(Work(f"cost-v-{V}", _MADE, shape, 24, 16, **adam))
    return {work.name: work for work in works}


#: Sizes for the cost curves: hidden units at B = 1, T = 16 with Adagrad, streams at H = 256, T = 32 with Adam, and
#: kinds of characters for the model of `fast`.
COST_H = (32, 64, 100, 128, 192, 256, 384, 512, 768, 1024)
COST_B = (1, 2, 4, 8, 16, 32, 64, 128, 256)
COST_V = (71, 300, 1000, 6000, 20_000)
WORKS = _works()
SHORT = ("seed", "sample", "h256-b16", "keras", "torch-rnn-128", "torch-rnn-512", "torch-rnn-1024")


def text_ids(work: Work, folder: Path | None = None) -> np.ndarray:
    """Return the text of a workload as read-only ids, from `folder` if it is there.

    The stand-in for a missing text is Python's documentation, cut to the text's length. Its rarest characters are
    replaced by its most common one, so that it has no more distinct characters than the text.
    """
    if work.text == _MADE:
        return _made(work.shape.vocab_size)
    num_chars, V = TEXTS[work.text]
    path = folder / f"{work.text}.txt" if folder else None
    if path and path.is_file():
        found = corpus.load([path])
        if work.text == "nietzsche":  # the Keras example lower-cases its text
            found = corpus.Corpus.from_text(found.vocabulary.decode(found.ids).lower())
        if len(found.vocabulary) != V:
            raise RunFailed(f"{path}: expected a text of {V} distinct characters, got {len(found.vocabulary)}")
        return found.ids
    docs = corpus.load().ids[:num_chars]
    common = np.argsort(-np.bincount(docs), kind="stable")
    rank = np.zeros(len(common), np.uint8)
    rank[common[:V]] = np.arange(min(V, len(common)))
    ids = rank[docs]
    ids.flags.writeable = False
    return ids


def _made(V: int) -> np.ndarray:
    """A million independent ids below V, (10 ** 6,), the k-th likeliest 1 / (k + 2) as likely: read only."""
    shares = np.cumsum(1.0 / (np.arange(V) + 3))
    drawn = np.random.RandomState(SEED).random_sample(10**6) * shares[-1]
    ids = np.searchsorted(shares, drawn, "right").astype(np.min_scalar_type(V - 1))
    ids.flags.writeable = False
    return ids


class Ours:
    """A run of a workload on our kernels, from its initial weights; `dtype` is as in Config."""

    def __init__(
        self, work: Work, ids: np.ndarray, backend: str = "numba", dtype: str = "float32", threads: int = 1
    ) -> None:
        T, B, H, L = work.seq_length, work.batch_size, work.shape.hidden_size, work.shape.num_layers
        self.work, self.ids, self.threads, self.iteration = work, ids, threads, 0
        self._ops, self._plan = kernels.load_for_host(backend), work.plan(len(ids))
        self.bfloat16 = dtype == "bfloat16"
        dtype = "float32" if self.bfloat16 else dtype
        self.theta = work.weights(dtype)
        slots = spec.slots(work.optimizer, work.hyper) if work.optimizer else 0
        self.state = spec.aligned_zeros((slots, len(self.theta)), dtype)
        self.h, self.c = (spec.aligned_zeros((L, B, H), dtype) for _ in range(2))
        self._workspace = self._ops.workspace(work.shape, T, B, dtype, 0.0, self.bfloat16)
        for name in ("theta", "state", "h", "c", "ids"):  # device arrays stay on the device between calls
            setattr(self, name, kernels.to_device(backend, getattr(self, name)))
        self._random, self._last = np.random.RandomState(SEED), ids[:1].astype(np.int32)

    def run(self, count: int) -> np.ndarray:
        """Run `count` more iterations in one kernel call; return their losses, or the sampled ids."""
        return self._train(count) if self.work.optimizer else self._sample(count)

    def _train(self, count: int) -> np.ndarray:
        starts, reset = self._plan.plan(self.iteration, self.iteration + count)
        return self.train(starts, reset, np.full(count, self.work.learning_rate))

    def train(self, starts: np.ndarray, reset: np.ndarray, learning_rate: np.ndarray) -> np.ndarray:
        """Train one iteration for each row of `starts`, which are positions in the text; return the losses."""
        work = self.work
        losses = self._ops.train_steps(
            self.theta, self.state, self.h, self.c, self.ids, starts, reset, learning_rate,
            shape=work.shape,
            seq_length=work.seq_length,
            step=self.iteration,
            optimizer=work.optimizer,
            hyper=work.hyper,
            grad_scale=work.grad_scale,
            grad_clip=work.grad_clip,
            grad_clip_norm=work.grad_clip_norm,
            last_only=work.last_only,
            bfloat16=self.bfloat16,
            workspace=self._workspace,
            threads=self.threads,
        )  # fmt: skip
        self.iteration += len(starts)
        return losses

    def _sample(self, count: int) -> np.ndarray:
        uniforms = self._random.random_sample((count, 1))
        drawn = self._ops.sample(self.theta, self.h, self.c, self._last, uniforms, shape=self.work.shape)
        self._last = drawn[-1]
        return drawn[:, 0]


# -------------------------------------------------------------------------------------------------- the short benchmark
@dataclass(frozen=True)
class Row:
    """The result of the short benchmark for one workload; times are seconds per iteration."""

    work: str
    threads: int
    seconds: float
    chars_per_second: float
    floor: float

    @property
    def of_floor(self) -> float:
        """The floor as a fraction of the measured time; 1 would be the machine's limit."""
        return self.floor / self.seconds


def check_gradients(backend: str) -> float:
    """Return the largest relative error of the LSTM's gradients against central differences.

    The benchmark measures LSTMs only, so it checks no other cell.

    Raises
    ------
    RunFailed
        If the error is too large, because the speed of wrong kernels means nothing.
    """
    errors = [check.error for check in gradient_errors(kernels.load_for_host(backend), cells=("lstm",))]
    worst = float(np.max(errors))  # NaN if any is
    if not worst < GRADIENT_TOLERANCE:
        raise RunFailed(
            f"a gradient is wrong (relative error {worst:.1e}; see charlstm gradcheck): no speed is reported"
        )
    return worst


def iterations_for(run: Callable[[int], Any], seconds: float) -> int:
    """Return how many iterations take about `seconds`, found by doubling the count; kernels compile in the first."""
    run(1)
    count = 1
    while True:
        begin = time.perf_counter()
        run(count)
        taken = time.perf_counter() - begin
        if taken > seconds / 4:
            return max(1, round(count * seconds / taken))
        count *= 2


def short(limits: Limits, threads: int, backend: str = "numba", seconds: float = 100.0) -> Iterator[Row]:
    """Measure the workloads of SHORT on one thread and on `threads`; yield each row, until `seconds` are over."""
    deadline = time.perf_counter() + seconds
    for name in SHORT:
        work = WORKS[name]
        ids = text_ids(work)
        for team in sorted({1, threads}) if work.optimizer else (1,):
            if time.perf_counter() > deadline:
                return
            run = Ours(work, ids, backend, threads=team).run
            count = iterations_for(run, 0.25)
            rounds: list[float] = []
            while len(rounds) < 5 and (len(rounds) < 2 or time.perf_counter() < deadline):
                begin = time.perf_counter()
                run(count)
                rounds.append((time.perf_counter() - begin) / count)
            each = median(rounds)
            yield Row(name, team, each, work.chars / each, work.floor(limits, team))


def in_words(seconds: float) -> str:
    """Format a time with three digits in s, ms or us."""
    unit, size = next(
        pair for pair in (("s", 1.0), ("ms", 1e-3), ("us", 1e-6)) if seconds >= pair[1] or pair[0] == "us"
    )
    value = seconds / size
    return f"{value:,.{max(0, 3 - len(str(int(value))))}f} {unit}"


def load_average() -> float | None:
    """Return the system's load average over the last minute; None where the system has none."""
    return round(os.getloadavg()[0], 2) if hasattr(os, "getloadavg") else None
