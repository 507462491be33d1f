"""The losses of a readout (spec/losses.py) and their gradients, row by row; and log probabilities."""

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.compiler import entry, inner, thin
from kernels.cpu.emit.activations import emit_exp, exp
from kernels.cpu.emit.vectors import Number, Vectors, for_each_vector, real_type
from kernels.spec import HALF_LOG_TWO_PI, LOSSES, Goal

SQUARED, HUBER, GAUSSIAN = map(LOSSES.index, ("squared", "huber", "gaussian"))


class Aim(NamedTuple):
    """A spec.Goal for compiled code, which tells cross entropy by its targets, which are ids."""

    loss: int  # index in LOSSES
    delta: float
    ignored: int  # no int32 if no id is ignored


def aim_of(goal: Goal) -> Aim:
    """The Aim of a checked loss."""
    return Aim(LOSSES.index(goal.loss), goal.delta, -(2**62) if goal.ignore_index is None else goal.ignore_index)


def _reduced(vec: Any, value: Any, join: Callable[[Any, Any], Any]) -> Any:
    """One number from the lanes of a vector, of which half are joined with the other half at a time."""
    lanes = vec.lanes
    while lanes > 1:
        lanes //= 2
        value = join(value, vec.shuffle(value, value, [(k + lanes) % vec.lanes for k in range(vec.lanes)]))
    return value


@intrinsic
def _softmax(typing, zero, z, d, n):
    """Write exp(z - the largest z) / their sum to d (n,), which may be z; return the largest z and the sum."""

    def emit(context, builder, signature, arguments):
        _, z, d, n = arguments
        vec = Vectors(builder, real_type(signature.args[0]))
        z, d = (builder.inttoptr(place, vec.real.as_pointer()) for place in (z, d))

        def larger(a, b):  # a if one of them is NaN; the sum is NaN then
            return builder.select(builder.fcmp_ordered(">", b, a), b, a)

        best, total = (cgutils.alloca_once(builder, vec.type) for _ in range(2))
        builder.store(vec.broadcast(builder.load(z)), best)
        builder.store(vec.zero, total)

        def under(mask, value, other):
            return value if mask is None else builder.select(mask, value, other)

        def find(at, mask):
            so_far = builder.load(best)
            builder.store(larger(so_far, under(mask, vec.load(vec.element(z, at), mask), so_far)), best)

        for_each_vector(builder, vec, n, find)
        largest = _reduced(vec, builder.load(best), larger)

        def raise_e(at, mask):
            value = emit_exp(Number(builder, builder.fsub(vec.load(vec.element(z, at), mask), largest))).value
            vec.store(value, vec.element(d, at), mask)
            builder.store(builder.fadd(builder.load(total), under(mask, value, vec.zero)), total)

        for_each_vector(builder, vec, n, raise_e)
        together = _reduced(vec, builder.load(total), builder.fadd)
        scale = builder.fdiv(ir.Constant(vec.type, [1.0] * vec.lanes), together)

        def divide(at, mask):
            vec.store(builder.fmul(vec.load(vec.element(d, at), mask), scale), vec.element(d, at), mask)

        for_each_vector(builder, vec, n, divide)
        first = ir.IntType(32)(0)
        found = [builder.extract_element(vector, first) for vector in (largest, together)]
        return context.make_tuple(builder, signature.return_type, found)

    return types.UniTuple(zero, 2)(zero, types.uintp, types.uintp, types.intp), emit


@inner
def softmax_loss(z, target, d):
    """Write softmax - onehot of one row of logits z (V,) to d, which may be z itself; return the loss."""
    one, at_target = z.dtype.type(1), z[target]
    largest, total = _softmax(one, np.uintp(z.ctypes.data), np.uintp(d.ctypes.data), z.shape[0])
    d[target] -= one
    return math.log(float(total)) - float(at_target - largest)


@intrinsic
def _sum_of_exponentials(typing, zero, z, n):
    """The largest of z (n,), and the sum of exp(z - the largest) in float64."""

    def emit(context, builder, signature, arguments):
        _, z, n = arguments
        double = ir.DoubleType()
        wide = Vectors(builder, double)
        vec = Vectors(builder, real_type(signature.args[0]), wide.lanes)
        z = builder.inttoptr(z, vec.real.as_pointer())
        best, total = cgutils.alloca_once(builder, vec.type), cgutils.alloca_once(builder, wide.type)
        builder.store(vec.broadcast(builder.load(z)), best)
        builder.store(wide.zero, total)

        def larger(a, b):
            return builder.select(builder.fcmp_ordered(">", b, a), b, a)

        def widened(value):
            return value if vec.real == double else builder.fpext(value, wide.type)

        def find(at, mask):
            so_far, here = builder.load(best), vec.load(vec.element(z, at), mask)
            here = here if mask is None else builder.select(mask, here, so_far)
            builder.store(larger(so_far, here), best)

        for_each_vector(builder, vec, n, find)
        largest = widened(_reduced(vec, builder.load(best), larger))

        def add(at, mask):
            here = widened(vec.load(vec.element(z, at), mask))
            value = emit_exp(Number(builder, builder.fsub(here, largest))).value
            value = value if mask is None else builder.select(mask, value, wide.zero)
            builder.store(builder.fadd(builder.load(total), value), total)

        for_each_vector(builder, vec, n, add)
        together = _reduced(wide, builder.load(total), builder.fadd)
        found = [builder.extract_element(vector, ir.IntType(32)(0)) for vector in (largest, together)]
        return context.make_tuple(builder, signature.return_type, found)

    return types.UniTuple(types.float64, 2)(zero, types.uintp, types.intp), emit


@inner
def log_prob(logits, target):
    """Log softmax(logits)[target] in float64."""
    largest, total = _sum_of_exponentials(logits.dtype.type(0), np.uintp(logits.ctypes.data), logits.shape[0])
    return float(logits[target]) - largest - math.log(total)


@inner
def regression_loss(y, targets, aim, d):
    """Write the gradient of one row of outputs y (V,) to d, which may be y itself; return the loss."""
    real, loss = y.dtype.type, 0.0
    if aim.loss == GAUSSIAN:
        Y = y.shape[0] // 2
        for k in range(Y):
            error, log_deviation = float(y[k]) - float(targets[k]), float(y[Y + k])
            precision = exp(-2.0 * log_deviation)
            square = error * error * precision
            loss += log_deviation + 0.5 * square + HALF_LOG_TWO_PI
            d[k] = real(error * precision)
            d[Y + k] = real(1.0 - square)
        return loss
    for k in range(y.shape[0]):
        error = float(y[k]) - float(targets[k])
        if aim.loss == SQUARED:
            loss += error * error
            d[k] = real(2.0 * error)
        elif abs(error) > aim.delta:
            loss += aim.delta * (abs(error) - 0.5 * aim.delta)
            d[k] = real(math.copysign(aim.delta, error))
        else:
            loss += 0.5 * error * error
            d[k] = real(error)
    return loss


@thin
def loss_of_row(y, targets, t, r, aim, d):
    """Write the gradient of outputs y (V,) to d, which may be y itself; return the loss for targets[t, r]."""
    if targets.ndim == 3:
        return regression_loss(y, targets[t, r], aim, d)
    if targets[t, r] == aim.ignored:
        for j in range(d.shape[0]):
            d[j] = 0
        return 0.0
    return softmax_loss(y, targets[t, r], d)


@thin
def score_of_row(y, targets, t, r, aim):
    """Minus the loss of outputs y (V,) for targets[t, r], in float64; y may be overwritten."""
    if targets.ndim == 3:
        return 0.0 - regression_loss(y, targets[t, r], aim, y)
    return 0.0 if targets[t, r] == aim.ignored else log_prob(y, targets[t, r])


@entry
def loss_of_all(outputs, targets, aim, d):
    """Return the loss of outputs (T, B, V), summed in float64; write its gradient to d."""
    loss = 0.0
    for t in range(outputs.shape[0]):
        for r in range(outputs.shape[1]):
            loss += loss_of_row(outputs[t, r], targets, t, r, aim, d[t, r])
    return loss
