"""Runs the iterations of a net with the op `train_steps`, and holds its arguments that stay the same between calls."""

import math
import sys
from contextlib import AbstractContextManager, nullcontext
from time import perf_counter
from typing import Any, NamedTuple, Protocol

import numpy as np

import kernels
from charlstm.model.memory import Memory
from charlstm.settings.config import Config
from charlstm.training import dropout
from kernels import spec
from kernels.spec import Shape

CALL_SECONDS = 0.1  # target duration of a call
_MASK_BYTES = 2**22


class Plan(Protocol):
    """Which ids each iteration reads."""

    def plan(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Starts (n, B) int64 and reset (n,) bool for iterations begin to end - 1, as for train_steps."""


class Batch(NamedTuple):
    """What one iteration reads: ids x (T+1, B) int32 on the host, inputs x[:-1], targets x[1:]; h and c (L, B, H)."""

    x: np.ndarray
    h: Any
    c: Any


class Steps:
    """The calls of the kernels that train one net.

    Parameters
    ----------
    config, shape, threads : of the net
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

    @property
    def nbytes(self) -> int:
        """Bytes of the buffers that all calls share; 0 where the backend allocates its own."""
        return sum(buffer.nbytes for buffer in self._workspace or () if buffer is not None)
