"""Clipping and the optimizers of spec.OPTIMIZERS, each one pass over flat vectors (N,).

Every update takes the gradient as ``clamp(scale * grad, limit) * factor``: the trainer's scaling, clipping by element
(limit is infinite for none) and clipping by norm (factor is 1 for none) cost no pass of their own. A NaN passes the
clamp. Constants come as the vectors' own dtype, so that float32 arithmetic stays float32.
"""

import math

from kernels.cpu.jit import inner


@inner
def clamp(g, limit):
    """g held to [-limit, limit]."""
    g = limit if g > limit else g
    return -limit if g < -limit else g


@inner
def square_sum(grad, scale, limit):
    """The sum of squares of a gradient, scaled and clamped, in float64."""
    total = 0.0
    for j in range(grad.shape[0]):
        g = float(clamp(scale * grad[j], limit))
        total += g * g
    return total


@inner
def sgd_update(theta, grad, scale, limit, factor, rate):
    """See spec.OPTIMIZERS for what each of these computes."""
    for j in range(theta.shape[0]):
        theta[j] -= rate * (clamp(scale * grad[j], limit) * factor)


@inner
def adagrad_update(theta, grad, s, scale, limit, factor, rate, epsilon):
    """Epsilon is inside the root."""
    for j in range(theta.shape[0]):
        g = clamp(scale * grad[j], limit) * factor
        s[j] += g * g
        theta[j] -= rate * g / theta.dtype.type(math.sqrt(s[j] + epsilon))


@inner
def rmsprop_update(theta, grad, s, scale, limit, factor, rate, rho, rest, epsilon):
    """rest is 1 - rho, taken before rounding to the vectors' dtype: float32 would lose five digits of it."""
    for j in range(theta.shape[0]):
        g = clamp(scale * grad[j], limit) * factor
        s[j] = rho * s[j] + rest * g * g
        theta[j] -= rate * g / (theta.dtype.type(math.sqrt(s[j])) + epsilon)


@inner
def adam_update(theta, grad, m, v, scale, limit, factor, rate, root, beta1, rest1, beta2, rest2, epsilon):
    """rate and root carry the bias correction: learning_rate / (1 - beta1^k) and 1 / (1 - beta2^k); rests as above."""
    for j in range(theta.shape[0]):
        g = clamp(scale * grad[j], limit) * factor
        m[j] = beta1 * m[j] + rest1 * g
        v[j] = beta2 * v[j] + rest2 * g * g
        theta[j] -= rate * m[j] / (theta.dtype.type(math.sqrt(v[j] * root)) + epsilon)
