"""Clipping and the optimizers on the GPU."""

from typing import Any

import numpy as np

from kernels import spec
from kernels.gpu.block import rule_defines
from kernels.gpu.launch import Call, each, launch, run
from kernels.gpu.matmul import empty

_CLIPPING = "clipping"


class Clipping:
    """Scale and limits of a gradient (N,), and the buffers for its norm."""

    def __init__(
        self, N: int, dtype: Any, scale: float = 1.0, grad_clip: float | None = None, norm: float | None = None
    ) -> None:
        self.scale = dtype.type(scale)
        self.limit = dtype.type(np.inf if grad_clip is None else grad_clip)
        self.factor = empty((1,), dtype)
        self.factor.fill(1)
        self._norm = norm
        self._panels = empty((spec.norm_panels(N),), np.float64)

    def measuring(self, grad: Any) -> list[Call]:
        """Return the calls that set the factor that limits the norm of the gradient, scaled and clipped by element."""
        if self._norm is None:
            return []
        count, n = len(self._panels), np.int64(grad.size)
        dtype, panel = grad.dtype, spec.NORM_PANEL
        return [
            launch(_CLIPPING, "norm_panels", dtype, count, grad, self._panels, n, panel, self.scale, self.limit),
            launch(_CLIPPING, "norm_factor", dtype, 1, self._panels, self.factor, count, np.float64(self._norm)),
        ]


def constants(hyper: dict[str, float], dtype: Any) -> list[Any]:
    """The optimizer's constants a, b, c, d in the table's order, padded with 0; then 1 - a and 1 - b."""
    a, b, c, d = [*hyper.values(), *[0.0] * spec.MOST_CONSTANTS][: spec.MOST_CONSTANTS]
    return [dtype.type(value) for value in (a, b, c, d, 1 - a, 1 - b)]


def rates(optimizer: str, hyper: dict[str, float], step: int, learning_rate: Any) -> np.ndarray:
    """The rows learning_rate, rate and root of common.cu, (3, n) float64, for n updates from number `step` on.

    rate is the learning rate, and root 1, each with bias correction if the optimizer has one. Learning rates of several
    models (models, n) give (3, models, n).
    """
    rate = np.asarray(learning_rate, np.float64)
    if not spec.OPTIMIZERS[optimizer].corrects_bias:
        return np.stack([rate, rate, np.ones_like(rate)])
    decay_1, decay_2, *_ = hyper.values()
    k = np.arange(step, step + rate.shape[-1]) + 1.0
    return np.stack(np.broadcast_arrays(rate, rate / (1 - decay_1**k), 1 / (1 - decay_2**k)))


def updating(
    optimizer: str, hyper: dict[str, float], theta: Any, grad: Any, state: Any, rates: Any, clipping: Clipping
) -> Call:
    """Return a call that makes one update of theta and state, after the calls of ``clipping.measuring(grad)``.

    `rates` is one column of :func:`rates`.
    """
    real, count = theta.dtype, np.int64(theta.size)
    return each(
        "optimizers", "update", real, theta.size, theta, grad, state, clipping.factor, count, clipping.scale,
        clipping.limit, *constants(hyper, real), *map(real.type, rates), defines=rule_defines(optimizer),
    )  # fmt: skip


def updating_in_turn(
    optimizer: str, hyper: dict[str, float], theta: Any, grad: Any, state: Any, clipping: Clipping, plan: Any,
    progress: Any,
) -> Call:  # fmt: skip
    """Return a call as :func:`updating`, with the rates of the iteration that `progress` counts (training.py)."""
    real, count = theta.dtype, np.int64(theta.size)
    return each(
        "optimizers", "update_in_turn", real, theta.size, theta, grad, state, clipping.factor, plan, progress, count,
        clipping.scale, clipping.limit, *constants(hyper, real), defines=rule_defines(optimizer),
    )  # fmt: skip


def clip(grad: Any, grad_clip: float | None, norm: float | None) -> None:
    """Clip a gradient (N,) in place: by element, then by norm."""
    clipping = Clipping(grad.size, grad.dtype, 1.0, grad_clip, norm)
    run(clipping.measuring(grad))
    each(_CLIPPING, "clip", grad.dtype, grad.size, grad, clipping.factor, np.int64(grad.size), clipping.limit)()
