"""Training of small LSTMs, each in a thread block, with many iterations per launch (small.cu).

It handles one layer, one stream and no embedding, if the recurrent matrix fits in the block's registers and a sequence
in its shared memory. One launch trains any number of models; as many at a time as the GPU has multiprocessors. A launch
takes about a tenth of a second, so that progress is shown and Ctrl-C works in between. Neither the split of iterations
into launches nor the other models change any bit.
"""

from typing import Any

import cupy
import numpy as np

from kernels.gpu import optimizers
from kernels.gpu.block import Memory, defines, in_registers, memory, sizes
from kernels.gpu.launch import function, most_shared_memory
from kernels.gpu.matmul import empty, zeros
from kernels.gpu.model import gather
from kernels.gpu.pace import Pace
from kernels.spec.checks import Training

_FIRST_LAUNCH = 50  # iterations
_MOST_ITERATIONS, _MOST_OF_ALL = 2**15, 2**20  # per gather of ids: of one model, and of all together


def fits(given: Training) -> bool:
    """Whether a block can train a model of these sizes, with these options."""
    shape, real = given.shape, given.theta.dtype
    extras = (given.last_only, given.dropout, given.weight_drop, given.bfloat16, given.grad_clip_norm is not None)
    is_indexed = max(given.theta.size, given.state.size) < 2**31  # the kernel counts with int
    if any(extras) or not is_indexed or (given.starts.shape[-1], *shape[2:]) != (1, 1, "lstm", 0):
        return False
    return in_registers(shape.hidden_size, real.itemsize) and _memory(given) is not None


def _memory(given: Training) -> Memory | None:
    V, H, *_ = given.shape
    return memory(H, given.seq_length, V, given.theta.dtype.itemsize, most_shared_memory())


def train(given: Training, rates: Any) -> Any:
    """Run the iterations of a checked call that :func:`fits`, of one model or of several; return the losses.

    rates (3, n) or (3, models, n), from optimizers.rates, in host memory.
    """
    n, T, real = given.starts.shape[-2], given.seq_length, given.theta.dtype
    starts, blocks = given.starts.reshape(-1, n), _Blocks(given)
    pace, done, most = Pace(_FIRST_LAUNCH), 0, max(1, min(_MOST_ITERATIONS, _MOST_OF_ALL // len(starts)))
    while done < n:
        end = min(n, done + most)
        x = gather(given.ids, starts[:, done:end].reshape(-1, 1), T + 1, given.shape.vocab_size)
        plan = [cupy.asarray(np.array(each[..., done:end], real, order="C")) for each in rates]
        for begin, count in pace.launches(end - done):
            known, why = blocks.run(x, plan, (done, begin, end), count)
            if why.all():
                return given.losses if given.losses.ndim > 1 else given.losses[: done + begin + int(known[0])]
        done = end
    return given.losses


class _Blocks:
    """The kernel, the buffers and the constant arguments of the launches of one call."""

    def __init__(self, given: Training) -> None:
        (V, H, *_), real, T = given.shape, given.theta.dtype, given.seq_length
        place = _memory(given)
        if place is None:
            raise RuntimeError("fits() is asked before")
        self._threads, self._memory, self._row = 32 * sizes(H).warps, place.size, T + 1
        self._kernel = function("small", "train_small", real, defines(H, T, V, given.optimizer, place.shared))
        self._kernel.max_dynamic_shared_size_bytes = max(place.size, 48 * 1024)
        self._models, self._total = given.theta.size // given.theta.shape[-1], given.starts.shape[-2]
        state = given.state if given.state.size else given.theta  # a placeholder, never accessed
        watch = np.array([[given.smooth_loss, given.stop_below]] * self._models)
        self._written = given.theta, state
        self._reset, self._losses = given.reset.reshape(-1), given.losses.reshape(-1)
        self._carried = given.h, given.c, cupy.asarray(watch)
        self._status = zeros((self._models, 2), np.int32)
        self._scratch = empty((max(1, self._models * place.scratch),), real)
        limit = real.type(np.inf if given.grad_clip is None else given.grad_clip)
        self._numbers = real.type(given.grad_scale), limit, *optimizers.constants(given.hyper, real)

    def run(self, x: Any, rates: list[Any], at: tuple[int, int, int], count: int) -> tuple[np.ndarray, np.ndarray]:
        """Run iterations and wait; return, for each model, the number of losses, and why it ended.

        x has the ids (models chunk, T+1, 1) of iterations from `done` to `end`, rates those of the same iterations; the
        first to run is `done + begin`, for at = (done, begin, end). The reason is 0 for a model that goes on, 1 if its
        smoothed loss is below stop_below, 2 if a loss is not finite.
        """
        done, begin, end = at
        now, chunk = done + begin, end - done
        arrays = (
            *self._written, x.reshape(-1)[begin * self._row :], self._reset[now:],
            *(each.reshape(-1)[begin:] for each in rates), *self._carried, self._losses[now:], self._status,
            self._scratch,
        )  # fmt: skip
        strides = np.int32(count), np.int32(chunk), np.int32(chunk if rates[0].ndim > 1 else 0), np.int64(self._total)
        arguments = (*arrays, *strides, *self._numbers)
        self._kernel((self._models,), (self._threads,), arguments, shared_mem=self._memory)
        known, why = self._status.get().T
        return known, why
