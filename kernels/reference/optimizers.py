"""Clipping, and the optimizers of :data:`kernels.spec.OPTIMIZERS`, in place on flat vectors."""

from typing import Any

import numpy as np

from kernels.spec import Floats, checks
from kernels.spec.updates import optimizer_ops


def clip(grad: Floats, *, grad_clip: float | None = None, grad_clip_norm: float | None = None) -> None:
    """Clip a flat gradient (N,) in place: to [-grad_clip, grad_clip] by element, then to the norm grad_clip_norm.

    The norm is ``sqrt(sum grad^2)``, summed in float64; a gradient with a smaller norm stays unchanged.

    Parameters
    ----------
    grad : (N,) gradient; read and written
    grad_clip, grad_clip_norm : numbers of at least 0, or None for no limit

    Raises
    ------
    ValueError
        ``grad_clip: expected None, or a number of at least 0, got -1`` and the like.
    """
    grad_clip, grad_clip_norm = checks.clip(grad, grad_clip, grad_clip_norm)
    clip_checked(grad, grad_clip, grad_clip_norm)


def clip_checked(grad: Any, grad_clip: float | None, grad_clip_norm: float | None) -> None:
    """Clip a flat gradient in place, without checking the arguments."""
    if grad_clip is not None:
        np.clip(grad, -grad_clip, grad_clip, out=grad)
    if grad_clip_norm is not None:
        norm = float(np.sqrt(np.sum(np.square(grad, dtype=np.float64))))
        if norm > grad_clip_norm:
            grad *= grad.dtype.type(grad_clip_norm / norm)


def _sgd(theta: Any, g: Any, state: Any, step: int, learning_rate: float) -> None:
    theta -= theta.dtype.type(learning_rate) * g


def _momentum(theta: Any, g: Any, state: Any, step: int, learning_rate: float, *, momentum: float) -> None:
    state[0] = theta.dtype.type(momentum) * state[0] + g
    theta -= theta.dtype.type(learning_rate) * state[0]


def _adagrad(theta: Any, g: Any, state: Any, step: int, learning_rate: float, *, epsilon: float) -> None:
    state[0] += g * g
    theta -= theta.dtype.type(learning_rate) * g / np.sqrt(state[0] + theta.dtype.type(epsilon))


def _rmsprop(theta: Any, g: Any, state: Any, step: int, learning_rate: float, *, rho: float, epsilon: float) -> None:
    real = theta.dtype.type
    state[0] = real(rho) * state[0] + real(1 - rho) * g * g
    theta -= real(learning_rate) * g / (np.sqrt(state[0]) + real(epsilon))


def _adam(
    theta: Any, g: Any, state: Any, step: int, learning_rate: float, *, beta1: float, beta2: float, epsilon: float
) -> None:
    real, k = theta.dtype.type, step + 1
    m, v = state
    m[...] = real(beta1) * m + real(1 - beta1) * g
    v[...] = real(beta2) * v + real(1 - beta2) * g * g
    rate, root = real(learning_rate / (1 - beta1**k)), real(1 / (1 - beta2**k))
    theta -= rate * m / (np.sqrt(v * root) + real(epsilon))


def _adamw(
    theta: Any, g: Any, state: Any, step: int, learning_rate: float, *, weight_decay: float, **adam: Any
) -> None:
    real = theta.dtype.type
    theta -= real(learning_rate * weight_decay) * theta
    _adam(theta, g, state, step, learning_rate, **adam)


#: Function that updates theta and state in place with the clipped gradient g, for each row of the table.
UPDATES: dict[str, Any] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "adamw": _adamw,
}


def _update(theta: Any, grad: Any, state: Any, given: checks.Update) -> None:
    """Make one update with a gradient, clipped by element if there is a limit."""
    g = grad if given.grad_clip is None else np.clip(grad, -given.grad_clip, given.grad_clip)
    UPDATES[given.optimizer](theta, g, state, given.step, given.learning_rate, **given.hyper)


OPS = optimizer_ops("kernels.reference", _update)
