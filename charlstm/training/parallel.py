"""Data-parallel iterations: each rank reads its share of the streams, and all make the same update.

One Allreduce per iteration sums the flat gradient; clipping and the update follow it, the same on every rank. With
``sync_every`` K above 1, each rank makes K updates of its own, and then parameters and optimizer state are averaged
(Zinkevich et al. 2010, Parallelized stochastic gradient descent; Stich 2019, Local SGD converges fast). On GPUs, arrays
travel through the host's memory, which any MPI can send.
"""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np

import kernels
from charlstm.errors import RanksDiffer, UserError
from charlstm.model.memory import Memory
from charlstm.settings.config import Config
from charlstm.text.batches import Streams, Windows
from charlstm.training import dropout
from charlstm.training.halves import HalfSum
from charlstm.training.steps import Steps
from charlstm.training.world import ALONE, World
from kernels import spec
from kernels.spec import Shape


def share_of(batch_size: int, world: World) -> slice:
    """The streams of this rank, of a batch that is dealt to all ranks.

    Raises
    ------
    UserError
        If it cannot be dealt evenly; the message says which sizes can.
    """
    each, rest = divmod(batch_size, world.size)
    if rest:
        sizes = " and ".join(str(n * world.size) for n in (each, each + 1) if n)
        raise UserError(
            f"--batch-size {batch_size}: cannot be dealt evenly to {world.size} ranks; {sizes} can"
        )  # fmt: skip
    return slice(world.rank * each, (world.rank + 1) * each)


def steps_of(
    config: Config, backend: str, shape: Shape, ids: np.ndarray, batches: Streams | Windows, threads: int, world: World
) -> Steps:
    """The calls of the kernels that train a run, by one process or by several."""
    if world.size == 1:
        return Steps(config, backend, shape, ids, batches, threads)
    return ParallelSteps(config, backend, shape, ids, batches, threads, world)


class _Dealt:
    """The part of a plan of batches that one rank reads: `extent` of the ids, from whose begin `plan` counts."""

    def __init__(self, batches: Streams | Windows, share: slice, num_ids: int) -> None:
        self._batches, self._share = batches, share
        self.extent = batches.extent(share) if isinstance(batches, Streams) else slice(0, num_ids)

    def plan(self, begin: int, end: int) -> tuple[np.ndarray, np.ndarray]:
        """Starts (n, B of this rank) int64 and reset (n,) bool, as for train_steps."""
        starts, reset = self._batches.plan(begin, end)
        return starts[:, self._share] - self.extent.start, reset


class ParallelSteps(Steps):
    """The calls of the kernels by which one of several ranks trains a run; all ranks make the same calls.

    Parameters
    ----------
    config, backend, shape, ids, batches : of the run
    threads : of this rank
    world : the ranks

    Raises
    ------
    UserError
        For what cannot be trained by several ranks.
    """

    def __init__(
        self, config: Config, backend: str, shape: Shape, ids: np.ndarray, batches: Streams | Windows, threads: int,
        world: World,
    ) -> None:  # fmt: skip
        if config.sync_every > 1 and config.show_below is not None:
            raise UserError("--sync-every: cannot be combined with --show-below")
        self._world, self._share, self._every = world, share_of(config.batch_size, world), config.sync_every
        mine = replace(config, batch_size=config.batch_size // world.size)
        dealt = _Dealt(batches, self._share, len(ids))
        super().__init__(mine, backend, shape, np.asarray(ids[dealt.extent]), dealt, threads)
        self._all_masks = (*self._mask[:2], config.batch_size, config.hidden_size)
        self.most = max(1, self.most // world.size)  # masks are drawn for all ranks
        self._sums = spec.aligned_zeros((spec.num_parameters(shape) + 1,), config.real)
        self._half = HalfSum(world, len(self._sums)) if config.sync_dtype == "bfloat16" else None
        if self._workspace is not None:
            self._workspace = self._workspace._replace(grad=self._sums[:-1])  # it is reduced where it is written

    @property
    def _grad_scale(self) -> float:
        """The factor for the sum of all ranks' gradients; while ranks train apart, each takes its own for a part."""
        config = self._config
        if config.loss_reduction == "sum":
            return 1.0 if self._every == 1 else float(self._world.size)
        return 1.0 / (config.loss_chars * config.batch_size * (self._world.size if self._every == 1 else 1))

    def _masks(self, begin: int, end: int) -> np.ndarray | None:
        """The dropout masks of this rank's streams: those that a single process would give them."""
        if not self._dropout:
            return None
        whole = dropout.masks(self._config.seed, begin, end, self._all_masks, self._dropout)
        return np.ascontiguousarray(whole[:, :, :, self._share])

    def run(
        self, memory: Memory, begin: int, end: int, rates: np.ndarray, smooth_loss: float = 0.0,
        stop_below: float = -math.inf,
    ) -> np.ndarray:  # fmt: skip
        """Run iterations begin to end - 1; return their losses, summed over T and all ranks' streams."""
        if begin == end:
            self._compile(memory, begin)
        if self._every > 1:
            return self._apart(memory, begin, end, rates)
        losses = np.full(end - begin, np.nan)
        for n, rate in enumerate(rates.tolist()):
            loss, grad, h, c = self._pass(memory, begin + n)
            losses[n] = loss
            sums = self._summed(loss, grad, self._half or self._world)
            smooth_loss, is_low = self._watched(loss, smooth_loss, stop_below)
            if is_low or not math.isfinite(sums[-1]):
                losses = losses[: n + 1]
                break
            self._update(memory, sums[:-1], begin + n, rate)
            self._keep(memory.h, h)
            self._keep(memory.c, c)
        self._world.all_reduce(losses)
        return losses

    def _summed(self, loss: float, grad: np.ndarray, way: World | HalfSum) -> np.ndarray:
        """The sum over all ranks of the gradient, and of the loss, which is only good for a look: (N + 1,)."""
        if self._workspace is None:
            self._sums[:-1] = grad
        self._sums[-1] = loss
        way.all_reduce(self._sums)
        return self._sums

    def _watched(self, loss: float, smooth_loss: float, stop_below: float) -> tuple[float, bool]:
        """The smoothed loss after one more loss of all ranks, and whether it is below the limit, if there is one."""
        if stop_below == -math.inf:
            return smooth_loss, False
        whole = np.array([loss])
        self._world.all_reduce(whole)
        loss = float(whole[0]) / (self._config.batch_size * self._world.size)
        smooth_loss = spec.SMOOTHING * smooth_loss + (1 - spec.SMOOTHING) * loss
        return smooth_loss, smooth_loss < stop_below

    def _update(self, memory: Memory, grad: np.ndarray, iteration: int, rate: float) -> None:
        """Scale and clip a gradient, and update the parameters with it."""
        config = self._config
        grad *= grad.dtype.type(self._grad_scale)
        if config.grad_clip_norm is not None:
            self.ops.clip(grad, grad_clip=config.grad_clip, grad_clip_norm=config.grad_clip_norm)
        update = getattr(self.ops, config.optimizer)
        clip = config.grad_clip if config.grad_clip_norm is None else None
        update(memory.theta, grad, memory.state, iteration, learning_rate=rate, grad_clip=clip, **config.hyper)

    def _keep(self, array: Any, host: np.ndarray) -> None:
        """Write what is on the host to an array of the backend."""
        if host is not array:
            array[...] = kernels.to_device(self._backend, host)

    def _apart(self, memory: Memory, begin: int, end: int, rates: np.ndarray) -> np.ndarray:
        """Run iterations in which each rank updates parameters of its own, averaged every `sync_every` and at `end`."""
        losses = np.full(end - begin, np.nan)
        for at in range(begin, end):
            if at > begin and at % self._every:
                continue
            stop = min(end, (at // self._every + 1) * self._every)
            for first in range(at, stop, self.most):  # the masks of all of them could be too large
                last = min(stop, first + self.most)
                made = super().run(memory, first, last, rates[first - begin : last - begin])
                losses[first - begin : first - begin + len(made)] = made
                if len(made) < last - first:
                    break
            for shared in (memory.theta, memory.state):
                host = kernels.to_host(shared)
                self._world.all_reduce(host)
                self._keep(shared, np.divide(host, self._world.size, out=host))
        self._world.all_reduce(losses)
        wrong = np.flatnonzero(~np.isfinite(losses))
        return losses[: wrong[0] + 1] if len(wrong) else losses

    def _compile(self, memory: Memory, iteration: int) -> None:
        """Compile what the iterations need: the first rank for all that share its cache."""
        with self._world.first_rank_first():
            if self._every > 1:
                super().run(memory.copy(), iteration, iteration, np.empty(0))
            else:
                self._pass(memory, iteration)
                few = Memory(*(array[..., :1].copy() for array in memory))
                self._update(few, np.zeros(1, memory.theta.dtype), iteration, 0.0)

    def gradient(self, memory: Memory, iteration: int) -> np.ndarray:
        """The gradient, (N,), by which an iteration updates the weights, before clipping; nothing is changed."""
        loss, grad, _, _ = self._pass(memory, iteration)
        scale = self._grad_scale / (self._world.size if self._every > 1 else 1)
        return self._summed(loss, grad, self._world)[:-1] * memory.theta.dtype.type(scale)

    @contextmanager
    def aside(self) -> Iterator[None]:
        """A context after which the remainders of gradients are as before."""
        kept = None if self._half is None else self._half.kept.copy()
        yield
        if self._half is not None and kept is not None:
            self._half.kept[...] = kept

    @property
    def remainders(self) -> np.ndarray | None:
        """The remainders of all ranks' gradients; None unless they travel as bfloat16."""
        return None if self._half is None else self._half.gathered()

    @remainders.setter
    def remainders(self, kept: np.ndarray | None) -> None:
        if self._half is not None and kept is not None:
            self._half.take(kept)

    def end_of_call(self, begin: int, most: int) -> int:
        """The iteration at which a call of at most `most` iterations ends, or a few more: one of an average."""
        return -(-(begin + most) // self._every) * self._every

    def clock(self) -> float:
        """The first rank's clock."""
        return self._world.clock()


def gathered(world: World, memory: Memory) -> tuple[np.ndarray, np.ndarray]:
    """The states h and c (L, B, H) of all ranks' streams, after a look at whether the ranks still agree.

    Raises
    ------
    RanksDiffer
        If parameters or optimizer state are not the same bits on all ranks.
    """
    if world is ALONE:
        return memory.h, memory.c
    digest = hashlib.sha256(memory.theta.tobytes() + memory.state.tobytes()).digest()
    digests = world.gather(np.frombuffer(digest, np.uint8))
    others = [rank for rank, found in enumerate(digests) if found.tobytes() != digests[0].tobytes()]
    if others:
        raise RanksDiffer(
            f"rank {others[0]} has other weights than rank 0, which must not happen: the machines may differ in "
            "processors or versions; training stopped, and the newest checkpoint is from before"
        )
    h, c = (np.concatenate(world.gather(array), axis=1) for array in (memory.h, memory.c))
    return h, c
