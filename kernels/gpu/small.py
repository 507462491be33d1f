"""Training of a small LSTM in one thread block, with many iterations per launch (small.cu).

It handles one layer, one stream and no embedding, if the recurrent matrix fits in the block's registers and a sequence
in its shared memory. A launch takes about a tenth of a second, so that progress is shown and Ctrl-C works in between.
The split of iterations into launches does not change any bit.
"""

from typing import Any

import cupy
import numpy as np

from kernels.gpu import optimizers
from kernels.gpu.block import defines, in_registers, memory, sizes
from kernels.gpu.launch import function, most_shared_memory
from kernels.gpu.matmul import empty
from kernels.gpu.model import gather
from kernels.gpu.pace import Pace
from kernels.spec import Shape

_FIRST_LAUNCH = 50  # iterations
_MOST_ITERATIONS = 2**15  # per gather of ids


def fits(shape: Shape, T: int, B: int, dtype: Any) -> bool:
    """Whether one block can train a model of these sizes."""
    V, H, L, cell, E = shape
    if (B, L, cell, E) != (1, 1, "lstm", 0):
        return False
    return in_registers(H, dtype.itemsize) and memory(H, T, V, dtype.itemsize, most_shared_memory()) is not None


def train(
    theta: Any, state: Any, h: Any, c: Any, ids: Any, starts: Any, reset: Any, rates: Any, shape: Shape, T: int, *,
    rule: tuple[str, dict[str, float]], limits: tuple[float, float | None], watch: tuple[float, float], losses: Any,
) -> Any:  # fmt: skip
    """Run the iterations of train_steps; arguments and result are as there, except:

    rates (3, n), from optimizers.rates, in host memory; rule: the optimizer and its constants; limits: grad_scale and
    grad_clip; watch: smooth_loss and stop_below; losses (n,) is written.
    """
    n, real = len(starts), theta.dtype
    block = _Block(theta, state, h, c, shape, T, rule, limits, watch)
    pace, done = Pace(_FIRST_LAUNCH), 0
    while done < n:
        end = min(n, done + _MOST_ITERATIONS)
        x = gather(ids, starts[done:end], T + 1, shape.vocab_size)
        plan = [cupy.asarray(each[done:end].astype(real)) for each in rates]
        for begin, count in pace.launches(end - done):
            part = slice(begin, begin + count)
            known, why = block.run(
                x[part], reset[done + begin : done + begin + count], [each[part] for each in plan],
                losses[done + begin : done + begin + count],
            )  # fmt: skip
            if why:
                return losses[: done + begin + known]
        done = end
    return losses


class _Block:
    """The kernel, the buffers and the constant arguments of the launches of one call."""

    def __init__(
        self, theta: Any, state: Any, h: Any, c: Any, shape: Shape, T: int, rule: tuple[str, dict[str, float]],
        limits: tuple[float, float | None], watch: tuple[float, float],
    ) -> None:  # fmt: skip
        V, H, real = shape.vocab_size, shape.hidden_size, theta.dtype
        optimizer, hyper = rule
        place = memory(H, T, V, real.itemsize, most_shared_memory())
        if place is None:
            raise RuntimeError("fits() is asked before")
        self._threads = 32 * sizes(H).warps
        self._kernel = function("small", "train_small", real, defines(H, T, V, optimizer, place.shared))
        self._memory = place.size
        self._kernel.max_dynamic_shared_size_bytes = max(place.size, 48 * 1024)
        scale, clip = limits
        slots = [state[k] if k < len(state) else theta for k in range(2)]  # theta: a placeholder, never accessed
        self._state = (theta, *slots)
        self._carried = (h, c, cupy.asarray(np.array(watch, np.float64)))
        self._status, self._scratch = empty((2,), np.int32), empty((max(1, place.scratch),), real)
        limit = real.type(np.inf if clip is None else clip)
        self._numbers = (real.type(scale), limit, *optimizers.constants(hyper, real))

    def run(self, x: Any, reset: Any, rates: list[Any], losses: Any) -> tuple[int, int]:
        """Run the iterations with ids x (count, T+1, 1) and wait; return the number of losses, and why it ended.

        The reason is 0 if all iterations ran, 1 if the smoothed loss is below stop_below, 2 if a loss is not finite.
        """
        arrays = (*self._state, x, reset, *rates, *self._carried, losses, self._status, self._scratch)
        arguments = (*arrays, np.int32(len(x)), *self._numbers)
        self._kernel((1,), (self._threads,), arguments, shared_mem=self._memory)
        known, why = self._status.get().tolist()
        return known, why
