"""Clipping and the optimizers of spec.OPTIMIZERS, as one pass over flat vectors or right after a gradient is made.

Every update takes the gradient as ``clamp(scale * grad, limit) * factor``: the trainer's scaling, clipping by element
(limit is infinite for none) and clipping by norm (factor is 1 for none) cost no pass of their own. A NaN passes the
clamp. What an update needs is an array of CONSTANTS numbers of the vectors' own dtype, made by :func:`constants`.
"""

from collections.abc import Callable
from functools import cache
from typing import Any, NamedTuple

import numpy as np
from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.compiler import inner
from kernels.cpu.emit.tiles import each_width, products_of
from kernels.cpu.emit.vectors import I64, VECTOR_BYTES, Number, Vectors, for_each_vector, loop, real_type
from kernels.spec import MOST_CONSTANTS, OPTIMIZERS

#: Numbers by which compiled code knows the optimizers.
CODES = {name: code for code, name in enumerate(OPTIMIZERS)}
#: Where a gradient is only written: the number of no optimizer.
NO_UPDATE = -1


class Chosen(NamedTuple):
    """An optimizer with its constants, as compiled loops take it."""

    code: int
    hyper: Any  # (MOST_CONSTANTS,) float64, zeros after the optimizer's own
    skips_zeros: bool  # these three as in spec.Optimizer
    in_tile: bool
    corrects_bias: bool


def chosen(optimizer: str, hyper: dict[str, float]) -> Chosen:
    """A row of spec.OPTIMIZERS with its constants."""
    row, padded = OPTIMIZERS[optimizer], np.zeros(MOST_CONSTANTS)
    padded[: len(hyper)] = list(hyper.values())
    return Chosen(CODES[optimizer], padded, row.skips_zeros, row.in_tile, row.corrects_bias)


class Constants(NamedTuple):
    """What every update has at hand, each of the vectors' own dtype; see :func:`constants`.

    The order is part of the results' last bits: of two products that are added, LLVM fuses one with the sum, and which
    one depends on the order in which their factors are loaded.
    """

    scale: Number
    limit: Number
    factor: Number
    learning_rate: Number
    rate: Number  # the learning rate with the bias correction of the first memory, where the optimizer corrects it
    a: Number  # the optimizer's constants, in the table's order
    rest_a: Number  # 1 - a
    b: Number
    rest_b: Number  # 1 - b
    c: Number
    d: Number
    root: Number  # the bias correction of the second memory, or 1


CONSTANTS = len(Constants._fields)
_SCALE, _LIMIT, _FACTOR, _LEARNING_RATE, _RATE, _A, _REST_A, _B, _REST_B, _C, _D, _ROOT = range(CONSTANTS)


@inner
def constants(chosen, step, rate, scale, limit, factor, k):
    """Write what an update needs into k (CONSTANTS,), from the optimizer and `step`, computed in float64.

    The rests, 1 - decay, are taken before rounding: float32 would lose five digits of them.
    """
    hyper = chosen.hyper
    k[_SCALE], k[_LIMIT], k[_FACTOR] = scale, limit, factor
    k[_LEARNING_RATE], k[_RATE], k[_ROOT] = rate, rate, 1.0
    k[_A], k[_B], k[_C], k[_D] = hyper[0], hyper[1], hyper[2], hyper[3]
    k[_REST_A], k[_REST_B] = 1.0 - hyper[0], 1.0 - hyper[1]
    if chosen.corrects_bias:
        k[_RATE] = rate / (1.0 - hyper[0] ** (step + 1))
        k[_ROOT] = 1.0 / (1.0 - hyper[1] ** (step + 1))


def _sgd(k: Constants, g: Number, theta: Number) -> list[Number]:
    return [theta - k.rate * g]


def _momentum(k: Constants, g: Number, theta: Number, v: Number) -> list[Number]:
    v = k.a * v + g
    return [theta - k.rate * v, v]


def _adagrad(k: Constants, g: Number, theta: Number, s: Number) -> list[Number]:
    s = s + g * g
    return [theta - (k.rate * g).over((s + k.a).root()), s]


def _rmsprop(k: Constants, g: Number, theta: Number, s: Number) -> list[Number]:
    s = k.a * s + k.rest_a * g * g
    return [theta - (k.rate * g).over(s.root() + k.b), s]


def _adam(k: Constants, g: Number, theta: Number, m: Number, v: Number) -> list[Number]:
    m = k.a * m + k.rest_a * g
    v = k.b * v + k.rest_b * g * g
    return [theta - (k.rate * m).over((v * k.root).root() + k.c), m, v]


def _adamw(k: Constants, g: Number, theta: Number, m: Number, v: Number) -> list[Number]:
    return _adam(k, g, theta - k.learning_rate * k.d * theta, m, v)


#: theta and the memory after an update by the clipped gradient g, for each row of spec.OPTIMIZERS.
UPDATES: dict[str, Callable[..., list[Number]]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "adamw": _adamw,
}


def _new_values(optimizer: str, k: Constants, grad: Number, old: list[Callable[[], Number]]) -> list[Number]:
    """theta and as much memory as the optimizer has, after the update; the functions in `old` give each before it."""
    g = _clamp(k.scale * grad, k.limit) * k.factor
    return UPDATES[optimizer](k, g, *(value() for value in old[: 1 + OPTIMIZERS[optimizer].slots]))


def _clamp(g: Number, limit: Number) -> Number:
    """g held to [-limit, limit]; NaN stays."""
    return g.at_most(limit).at_least(-limit)


def _emit(builder: Any, vec: Vectors, names: list[str], optimizer: Any, k: Any, arrays: list[Any], body: Any) -> None:
    """Emit ``body(step)`` for the one of the optimizers `names` that it is; step(grad, at, mask) updates a vector."""
    end, never = builder.append_basic_block("end"), builder.append_basic_block("never")
    choice = builder.switch(optimizer, never)
    builder.position_at_end(never)
    builder.unreachable()
    for name in names:
        block = builder.append_basic_block(name)
        choice.add_case(I64(CODES[name]), block)
        builder.position_at_end(block)
        numbers = (Number(builder, vec.broadcast(builder.load(vec.element(k, I64(n))))) for n in range(CONSTANTS))
        known = Constants(*numbers)

        def step(grad, at, mask, name=name, known=known):
            old = [lambda array=array: Number(builder, vec.load(vec.element(array, at), mask)) for array in arrays]
            new = _new_values(name, known, Number(builder, grad), old)
            for array, value in zip(arrays, new, strict=False):
                vec.store(value.value, vec.element(array, at), mask)

        body(step)
        builder.branch(end)
    builder.position_at_end(end)


@intrinsic
def apply_tile(typing, zero, optimizer, k, grad, theta, s0, s1, n):
    """Apply grad (n,) to theta (n,) and to the optimizer's memory; zero is of the element type."""
    address = types.uintp
    signature = types.void(zero, types.intp, address, address, address, address, address, types.intp)

    def emit(context, builder, signature, arguments):
        _, optimizer, k, grad, theta, s0, s1, n = arguments
        vec = Vectors(builder, real_type(signature.args[0]))
        k, grad, *arrays = (builder.inttoptr(place, vec.real.as_pointer()) for place in (k, grad, theta, s0, s1))

        def body(step):
            for_each_vector(
                builder, vec, n, lambda at, mask: step(vec.load(vec.element(grad, at), mask), at, mask)
            )  # fmt: skip

        _emit(builder, vec, list(OPTIMIZERS), optimizer, k, arrays, body)
        return context.get_dummy_value()

    return signature, emit


@cache
def outer_update_tile(R: int, C: int) -> Any:
    """``tile(zero, optimizer, k, a, a_k, d, d_k, theta, s0, s1, row, K, N)``: apply the gradient a' @ d, never stored.

    a is (K, R), d is (K, N) with N <= C vectors; theta and the memory are (R, N), with rows of `row` elements.
    """
    in_tile = [name for name, row in OPTIMIZERS.items() if row.in_tile]

    @intrinsic
    def tile(typing, zero, optimizer, k, a, a_k, d, d_k, theta, s0, s1, row, K, N):
        address, number = types.uintp, types.intp
        signature = types.void(
            zero, number, address, address, number, address, number, address, address, address, number, number, number
        )  # fmt: skip

        def emit(context, builder, signature, arguments):
            _, optimizer, k, a, a_k, d, d_k, theta, s0, s1, row, K, N = arguments
            vec = Vectors(builder, real_type(signature.args[0]))
            k, a, d, *arrays = (
                builder.inttoptr(place, vec.real.as_pointer()) for place in (k, a, d, theta, s0, s1)
            )  # fmt: skip

            # The sums wait in memory: the optimizers' code for each of them would be long. (On the stack, once: a tile
            # is inlined into a loop.)
            kept = cgutils.alloca_once(builder, ir.ArrayType(vec.type, R * C))
            kept.align = VECTOR_BYTES

            def run(vectors, masks):
                zeros = [vec.zero] * (R * vectors)
                sums = products_of(builder, vec, R, vectors, masks, a, I64(1), a_k, d, d_k, K, zeros)
                for n, grad in enumerate(sums):
                    builder.store(grad, builder.gep(kept, [I64(0), I64(n)]))

                def body(step):
                    def rows(r, _):
                        for c in range(vectors):
                            n = builder.add(builder.mul(r, I64(vectors)), I64(c))
                            at = builder.add(builder.mul(r, row), I64(c * vec.lanes))
                            step(builder.load(builder.gep(kept, [I64(0), n])), at, masks[c])
                        return []

                    loop(builder, I64(R), [], rows)

                _emit(builder, vec, in_tile, optimizer, k, arrays, body)

            each_width(builder, vec, C, N, run)
            return context.get_dummy_value()

        return signature, emit

    return tile


@inner
def square_sum(grad, scale, limit):
    """The sum of squares of a gradient, scaled and clamped, in float64."""
    total = 0.0
    for j in range(grad.shape[0]):
        g = scale * grad[j]
        g = limit if g > limit else g
        g = float(-limit if g < -limit else g)
        total += g * g
    return total
