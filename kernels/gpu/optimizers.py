"""Clipping and the optimizers on the device."""

from typing import Any

import numpy as np

from kernels import spec
from kernels.gpu.launch import Call, each, launch
from kernels.gpu.matmul import empty

_FILE = "optimizers"


class Clipping:
    """The scale and limits of gradients (N,) of a dtype, and the buffers that a norm needs."""

    def __init__(
        self, N: int, dtype: Any, scale: float = 1.0, grad_clip: float | None = None, norm: float | None = None
    ) -> None:
        self.scale = dtype.type(scale)
        self.limit = dtype.type(np.inf if grad_clip is None else grad_clip)
        self.factor = empty((1,), dtype)
        self.factor.fill(1)
        self._norm = norm
        self._panels = empty((spec.norm_panels(N),), np.float64)

    def measure(self, grad: Any) -> None:
        """Set the factor that holds the norm of what is scaled and clipped by element."""
        if self._norm is None:
            return
        count, n = len(self._panels), np.int64(grad.size)
        dtype, panel = grad.dtype, spec.NORM_PANEL
        launch(_FILE, "norm_panels", dtype, count, grad, self._panels, n, panel, self.scale, self.limit)()
        launch(_FILE, "norm_factor", dtype, 1, self._panels, self.factor, count, np.float64(self._norm))()


def kind(optimizer: str, hyper: dict[str, float]) -> str:
    """The rule's name in the CUDA source."""
    return "momentum" if optimizer == "sgd" and hyper["momentum"] else optimizer


def constants(optimizer: str, hyper: dict[str, float], dtype: Any) -> list[Any]:
    """The rule's constants a, b, c in the order of spec.OPTIMIZERS, what it has not being 0; 1 - a and 1 - b."""
    a, b, c = [*hyper.values(), 0.0, 0.0][:3]
    return [dtype.type(value) for value in (a, b, c, 1 - a, 1 - b)]


def rates(optimizer: str, hyper: dict[str, float], step: int, learning_rate: Any) -> tuple[Any, Any]:
    """Of updates from the step-th on: rate and root, (n,) float64 each, Adam's with its bias correction."""
    rate = np.asarray(learning_rate, np.float64)
    if optimizer != "adam":
        return rate, np.ones_like(rate)
    k = np.arange(step, step + len(rate)) + 1.0
    return rate / (1 - hyper["beta1"] ** k), 1 / (1 - hyper["beta2"] ** k)


def updating(
    optimizer: str, hyper: dict[str, float], theta: Any, grad: Any, state: Any, rate: float, root: float,
    clipping: Clipping,
) -> Call:  # fmt: skip
    """What makes one update by the gradient as `clipping` has measured it; theta and state are written."""
    real = theta.dtype.type
    return each(
        _FILE, f"update_{kind(optimizer, hyper)}", theta.dtype, theta.size, theta, grad, state, clipping.factor,
        np.int64(theta.size), clipping.scale, clipping.limit, *constants(optimizer, hyper, theta.dtype), real(rate),
        real(root),
    )  # fmt: skip


def clip(grad: Any, grad_clip: float | None, norm: float | None) -> None:
    """Clip a gradient (N,) in place: by element, then by norm."""
    clipping = Clipping(grad.size, grad.dtype, 1.0, grad_clip, norm)
    clipping.measure(grad)
    each(_FILE, "clip", grad.dtype, grad.size, grad, clipping.factor, np.int64(grad.size), clipping.limit)()
