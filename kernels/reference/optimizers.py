"""Clipping, and the optimizers of :data:`kernels.spec.OPTIMIZERS`, in place on flat vectors."""

from typing import Any

import numpy as np

from kernels.spec import checks


def clip(grad: Any, *, grad_clip: float | None = None, grad_clip_norm: float | None = None) -> None:
    """Clip a flat gradient (N,) in place: to [-grad_clip, grad_clip] by element, then to the norm grad_clip_norm.

    None clips nothing. The norm is ``sqrt(sum grad^2)``, summed in float64; a smaller gradient is left as it is.

    Parameters
    ----------
    grad : (N,) gradient; read and written
    grad_clip, grad_clip_norm : above 0, or None
    """
    grad_clip, grad_clip_norm = checks.clip(grad, grad_clip, grad_clip_norm)
    clip_checked(grad, grad_clip, grad_clip_norm)


def clip_checked(grad: Any, grad_clip: float | None, grad_clip_norm: float | None) -> None:
    """Clip a flat gradient in place."""
    if grad_clip is not None:
        np.clip(grad, -grad_clip, grad_clip, out=grad)
    if grad_clip_norm is not None:
        norm = float(np.sqrt(np.sum(np.square(grad, dtype=np.float64))))
        if norm > grad_clip_norm:
            grad *= grad.dtype.type(grad_clip_norm / norm)


def _update(
    name: str, theta: Any, grad: Any, state: Any, step: Any, learning_rate: Any, grad_clip: Any, **hyper: Any
) -> None:
    """Check the arguments of an optimizer and run it on the gradient, clipped by element where that is asked for."""
    given = checks.optimizer(name, theta, grad, state, step, learning_rate, grad_clip, hyper)
    g = grad if given.grad_clip is None else np.clip(grad, -given.grad_clip, given.grad_clip)
    UPDATES[name](theta, g, state, given.step, given.learning_rate, **given.hyper)


def sgd(
    theta: Any,
    grad: Any,
    state: Any,
    step: int,
    *,
    learning_rate: float,
    grad_clip: float | None = None,
    momentum: float = 0.0,
) -> None:
    """Gradient descent, in place: ``theta -= learning_rate g``; with momentum ``v = momentum v + g`` takes g's place.

    Parameters
    ----------
    theta : (N,) parameters; written
    grad : (N,) gradient; read (g is grad clipped to [-grad_clip, grad_clip] by element)
    state : (0, N), or with momentum (1, N), v, zero at first; written
    step : updates made before this one; not used

    Notes
    -----
    PyTorch's momentum, without dampening: the learning rate stands outside v. Source: Polyak (1964).
    """
    _update("sgd", theta, grad, state, step, learning_rate, grad_clip, momentum=momentum)


def _sgd(theta: Any, g: Any, state: Any, step: int, learning_rate: float, *, momentum: float) -> None:
    if momentum:
        state[0] = theta.dtype.type(momentum) * state[0] + g
        g = state[0]
    theta -= theta.dtype.type(learning_rate) * g


def adagrad(
    theta: Any,
    grad: Any,
    state: Any,
    step: int,
    *,
    learning_rate: float,
    grad_clip: float | None = None,
    epsilon: float = 1e-8,
) -> None:
    """Adagrad, in place: ``s += g^2; theta -= learning_rate g / sqrt(s + epsilon)``, epsilon inside the root.

    Parameters
    ----------
    theta : (N,) parameters; written
    grad : (N,) gradient; read (g is grad clipped to [-grad_clip, grad_clip] by element)
    state : (1, N), s, zero at first; written
    step : updates made before this one; not used

    Notes
    -----
    PyTorch has epsilon outside the root (1e-10); min-char-rnn has it inside, as here. Source: Duchi, Hazan and Singer
    (2011), in the diagonal form.
    """
    _update("adagrad", theta, grad, state, step, learning_rate, grad_clip, epsilon=epsilon)


def _adagrad(theta: Any, g: Any, state: Any, step: int, learning_rate: float, *, epsilon: float) -> None:
    state[0] += g * g
    theta -= theta.dtype.type(learning_rate) * g / np.sqrt(state[0] + theta.dtype.type(epsilon))


def rmsprop(
    theta: Any,
    grad: Any,
    state: Any,
    step: int,
    *,
    learning_rate: float,
    grad_clip: float | None = None,
    rho: float = 0.99,
    epsilon: float = 1e-8,
) -> None:
    """RMSprop, in place: ``s = rho s + (1-rho) g^2; theta -= learning_rate g / (sqrt(s) + epsilon)``.

    Parameters
    ----------
    theta : (N,) parameters; written
    grad : (N,) gradient; read (g is grad clipped to [-grad_clip, grad_clip] by element)
    state : (1, N), s, zero at first; written
    step : updates made before this one; not used

    Notes
    -----
    Epsilon is outside the root, as in PyTorch (whose rho is named alpha). Source: Tieleman and Hinton, lecture 6.5 of
    Neural Networks for Machine Learning (2012).
    """
    _update("rmsprop", theta, grad, state, step, learning_rate, grad_clip, rho=rho, epsilon=epsilon)


def _rmsprop(theta: Any, g: Any, state: Any, step: int, learning_rate: float, *, rho: float, epsilon: float) -> None:
    real = theta.dtype.type
    state[0] = real(rho) * state[0] + real(1 - rho) * g * g
    theta -= real(learning_rate) * g / (np.sqrt(state[0]) + real(epsilon))


def adam(
    theta: Any,
    grad: Any,
    state: Any,
    step: int,
    *,
    learning_rate: float,
    grad_clip: float | None = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> None:
    """Adam, in place, with bias correction; epsilon outside the root, as in PyTorch.

    ``m = beta1 m + (1-beta1) g; v = beta2 v + (1-beta2) g^2;
    theta -= learning_rate (m / (1 - beta1^k)) / (sqrt(v / (1 - beta2^k)) + epsilon)`` with k = step + 1.

    Parameters
    ----------
    theta : (N,) parameters; written
    grad : (N,) gradient; read (g is grad clipped to [-grad_clip, grad_clip] by element)
    state : (2, N), m and v, zero at first; written
    step : updates made before this one, for the bias correction

    Notes
    -----
    Source: Kingma and Ba (2015), algorithm 1.
    """
    _update("adam", theta, grad, state, step, learning_rate, grad_clip, beta1=beta1, beta2=beta2, epsilon=epsilon)


def _adam(
    theta: Any, g: Any, state: Any, step: int, learning_rate: float, *, beta1: float, beta2: float, epsilon: float
) -> None:
    real, k = theta.dtype.type, step + 1
    m, v = state
    m[...] = real(beta1) * m + real(1 - beta1) * g
    v[...] = real(beta2) * v + real(1 - beta2) * g * g
    rate, root = real(learning_rate / (1 - beta1**k)), real(1 / (1 - beta2**k))
    theta -= rate * m / (np.sqrt(v * root) + real(epsilon))


UPDATES: dict[str, Any] = {"sgd": _sgd, "adagrad": _adagrad, "rmsprop": _rmsprop, "adam": _adam}
