"""Runs a run's iterations with the op `train_steps`, and holds its arguments that stay the same between calls."""

import math
import sys
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import numpy as np

import kernels
from charlstm.settings.config import Config
from charlstm.training import dropout
from kernels import spec
from kernels.spec import Shape

CALL_SECONDS = 0.1  # target duration of a call
_CALIBRATION_SECONDS = 1.0
_MASK_BYTES = 2**22


class Plan(Protocol):
    """Which ids each iteration reads."""

    def plan(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Starts (n, B) int64 and reset (n,) bool for iterations begin to end - 1, as for train_steps."""


class Memory(NamedTuple):
    """The arrays that an update changes, where the backend keeps them: theta (N,), state (S, N), h and c (L, B, H)."""

    theta: Any
    state: Any
    h: Any
    c: Any

    def copy(self) -> "Memory":
        """A copy with its own arrays."""
        return Memory(*(array.copy() for array in self))


class Batch(NamedTuple):
    """What one iteration reads: ids x (T+1, B) int32 on the host, inputs x[:-1], targets x[1:]; h and c (L, B, H)."""

    x: np.ndarray
    h: Any
    c: Any


class Steps:
    """The calls of the kernels that train one run.

    Parameters
    ----------
    config, shape, threads : of the run
    backend : name of the compute backend
    ids : the training text, (M,)
    batches : which ids each iteration reads
    """

    def __init__(
        self, config: Config, backend: str, shape: Shape, ids: np.ndarray, batches: Plan, threads: int
    ) -> None:
        self.ops = kernels.load_for_host(backend)
        self._config, self._backend, self._shape, self._threads = config, backend, shape, threads
        self._text = kernels.to_device(backend, ids)  # host or device, where the kernels read it
        self._batches, self._dropout = batches, dropout.rounded(config.dropout or 0.0)
        self._workspace = self.ops.workspace(
            shape, config.seq_length, config.batch_size, config.real, self._dropout, config.dtype == "bfloat16"
        )
        self._mask = (config.num_layers, config.seq_length, config.batch_size, config.hidden_size)
        #: Maximum number of iterations per call; bounds the memory for dropout masks.
        self.most = max(1, _MASK_BYTES // math.prod(self._mask)) if self._dropout else sys.maxsize

    def run(
        self, memory: Memory, begin: int, end: int, rates: np.ndarray, smooth_loss: float = 0.0,
        stop_below: float = -math.inf,
    ) -> np.ndarray:  # fmt: skip
        """Run iterations begin to end - 1 in one call of the kernels; return their losses, summed over T and B."""
        config = self._config
        starts, reset = self._batches.plan(begin, end)
        return self.ops.train_steps(
            *memory, self._text, starts, reset, rates,
            shape=self._shape,
            seq_length=config.seq_length,
            step=begin,
            optimizer=config.optimizer,
            hyper=config.hyper,
            grad_scale=self._grad_scale,
            grad_clip=config.grad_clip,
            grad_clip_norm=config.grad_clip_norm,
            dropout=self._dropout,
            masks=self._masks(begin, end),
            weight_drop=config.weight_drop or 0.0,
            seed=config.seed,
            last_only=config.windows is not None,
            bfloat16=config.dtype == "bfloat16",
            smooth_loss=smooth_loss,
            stop_below=stop_below,
            workspace=self._workspace,
            threads=self._threads,
        )  # fmt: skip

    @property
    def _grad_scale(self) -> float:
        """The factor that makes the gradient of the summed loss that of the loss which training minimises."""
        config = self._config
        return 1.0 / (config.loss_chars * config.batch_size) if config.loss_reduction == "mean" else 1.0

    def _masks(self, begin: int, end: int) -> np.ndarray | None:
        """The dropout masks of iterations begin to end - 1, (n, L, T, B, H); None without dropout."""
        rate = self._dropout
        return dropout.masks(self._config.seed, begin, end, self._mask, rate) if rate else None

    def batch(self, memory: Memory, iteration: int) -> Batch:
        """What an iteration reads; `memory` is the state before it."""
        starts, reset = self._batches.plan(iteration, iteration + 1)
        pieces = [kernels.to_host(self._text[at : at + self._config.seq_length + 1]) for at in starts[0].tolist()]
        h, c = (np.zeros_like(a) if reset[0] else a for a in (memory.h, memory.c))
        return Batch(np.stack(pieces, axis=1).astype(np.int32), h, c)

    def gradient(self, memory: Memory, iteration: int) -> np.ndarray:
        """The gradient, (N,), by which an iteration updates the weights, before clipping; nothing is changed."""
        _, grad, _, _ = self._pass(memory, iteration)
        return kernels.to_host(grad) * memory.theta.dtype.type(self._grad_scale)

    def _pass(self, memory: Memory, iteration: int) -> tuple[float, np.ndarray, Any, Any]:
        """The loss and the gradient of an iteration, and h and c after it, as loss_and_grad returns them."""
        batch, masks, config = self.batch(memory, iteration), self._masks(iteration, iteration + 1), self._config
        theta, factors = memory.theta, None
        if config.weight_drop:
            factors = spec.factors(self._shape, config.real, config.weight_drop, config.seed, iteration)
            theta = kernels.to_host(theta) * factors
        loss, grad, h, c = self.ops.loss_and_grad(
            theta, batch.h, batch.c, batch.x,
            shape=self._shape,
            last_only=config.windows is not None,
            dropout=self._dropout,
            masks=None if masks is None else masks[0],
            bfloat16=config.dtype == "bfloat16",
            workspace=self._workspace,
            threads=self._threads,
        )  # fmt: skip
        grad = kernels.to_host(grad)
        if factors is not None:
            grad *= factors
        return loss, grad, h, c

    def fitting(self, now: int, made: int, seconds: float) -> int:
        """The maximum for the next call, after one of at most `now` iterations that made `made` in `seconds` s."""
        return max(1, min(2 * now, int(made * CALL_SECONDS / seconds), self.most))

    def aside(self) -> AbstractContextManager[Any]:
        """A context for runs on copies of the memory: what this object remembers of gradients is as before after it."""
        return nullcontext()

    @property
    def remainders(self) -> np.ndarray | None:
        """What all ranks remember of gradients, for a checkpoint; None for nothing."""
        return None

    @remainders.setter
    def remainders(self, kept: np.ndarray | None) -> None:
        pass

    def end_of_call(self, begin: int, most: int) -> int:
        """The iteration at which a call that begins with iteration `begin` ends, after at most `most` of them."""
        return begin + most

    def clock(self) -> float:
        """A clock, in seconds."""
        return perf_counter()

    def rate(self, memory: Memory, begin: int, most_seconds: float) -> float:
        """Iterations per second from `begin` on, measured on copies for `most_seconds`, but at most one second."""
        copies, enough = memory.copy(), min(_CALIBRATION_SECONDS, most_seconds)
        rates: list[float] = []
        steps, since = 1, 0.0
        with self.on_one_blas_thread(), self.aside():
            while not rates or self.clock() - since < enough:
                started = self.clock()
                self.run(copies, begin, begin + steps, np.full(steps, self._config.learning_rate))
                taken = self.clock() - started
                if since:  # not the first call, which may have compiled
                    rates.append(steps / taken)
                since = since or self.clock()
                steps = self.fitting(steps, steps, taken)
        return float(np.median(rates))

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers that all calls share; 0 where the backend allocates its own."""
        return sum(buffer.nbytes for buffer in self._workspace or () if buffer is not None)

    def on_one_blas_thread(self) -> AbstractContextManager[Any]:
        """A context that runs NumPy's products on one thread: with more, last bits would depend on their number."""
        if self._backend != "numpy":
            return nullcontext()
        from threadpoolctl import threadpool_limits

        return threadpool_limits(1, "blas")
