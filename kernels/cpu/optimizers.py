"""Clipping and the optimizers of spec.OPTIMIZERS, as one pass over flat vectors or right after a tile of the gradient.

Every update uses the gradient ``clamp(scale * grad, limit) * factor``, so that scaling, clipping by element (limit is
infinite for no clipping) and clipping by norm (factor is 1 for no clipping) need no passes of their own. NaN is not
clamped. :func:`constants` writes the numbers that an update needs, an array of CONSTANTS numbers of the vectors' dtype.
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
from kernels.cpu.emit.tiles import each_span, products_of
from kernels.cpu.emit.vectors import (
    I64,
    MASKS_ARE_CHEAP,
    VECTOR_BYTES,
    Number,
    Vectors,
    for_each_part,
    loop,
    real_type,
)
from kernels.spec import MOST_CONSTANTS, OPTIMIZERS

#: Number of each optimizer in compiled code.
CODES = {name: code for code, name in enumerate(OPTIMIZERS)}
#: Number of no optimizer, for passes that only write the gradient.
NO_UPDATE = -1


class Chosen(NamedTuple):
    """An optimizer and its constants, as compiled loops take them."""

    code: int
    hyper: Any  # (MOST_CONSTANTS,) float64, padded with zeros
    skips_zeros: bool  # this and the next two as in spec.Optimizer
    in_tile: bool
    corrects_bias: bool


def chosen(optimizer: str, hyper: dict[str, float]) -> Chosen:
    """A row of spec.OPTIMIZERS with its constants, as compiled loops take it; no update for an empty name."""
    padded = np.zeros(MOST_CONSTANTS)
    if not optimizer:
        return Chosen(NO_UPDATE, padded, False, False, False)
    row = OPTIMIZERS[optimizer]
    padded[: len(hyper)] = list(hyper.values())
    return Chosen(CODES[optimizer], padded, row.skips_zeros, row.in_tile, row.corrects_bias)


class Constants(NamedTuple):
    """The numbers that an update needs, in the vectors' dtype; see :func:`constants`.

    Their order affects the last bits of results: when two products are added, LLVM fuses one of them with the sum, and
    the order in which the factors are loaded decides which one.
    """

    scale: Number
    limit: Number
    factor: Number
    learning_rate: Number
    rate: Number  # the learning rate, with the bias correction of the first state array if the optimizer has one
    a: Number  # a, b, c, d: the optimizer's constants, in the table's order
    rest_a: Number  # 1 - a
    b: Number
    rest_b: Number  # 1 - b
    c: Number
    d: Number
    root: Number  # the bias correction of the second state array, or 1


CONSTANTS = len(Constants._fields)
_SCALE, _LIMIT, _FACTOR, _LEARNING_RATE, _RATE, _A, _REST_A, _B, _REST_B, _C, _D, _ROOT = range(CONSTANTS)


@inner
def constants(chosen, step, rate, scale, limit, factor, k):
    """Write the numbers that an update needs to k (CONSTANTS,), computed in float64 for the given optimizer and step.

    rest_a and rest_b, 1 - decay, are computed before rounding to float32, which would lose five digits of them.
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


#: Function that returns theta and the state after an update with the clipped gradient g, per row of spec.OPTIMIZERS.
UPDATES: dict[str, Callable[..., list[Number]]] = {
    "sgd": _sgd,
    "momentum": _momentum,
    "adagrad": _adagrad,
    "rmsprop": _rmsprop,
    "adam": _adam,
    "adamw": _adamw,
}


def _new_values(optimizer: str, k: Constants, grad: Number, old: list[Callable[[], Number]]) -> list[Number]:
    """theta and the optimizer's state after the update; the functions in `old` return the values before it."""
    g = _clamp(k.scale * grad, k.limit) * k.factor
    return UPDATES[optimizer](k, g, *(value() for value in old[: 1 + OPTIMIZERS[optimizer].slots]))


def _clamp(g: Number, limit: Number) -> Number:
    """g clamped to [-limit, limit]; NaN stays NaN."""
    return g.at_most(limit).at_least(-limit)


def _emit(builder: Any, vec: Vectors, names: list[str], optimizer: Any, k: Any, arrays: list[Any], body: Any) -> None:
    """Emit a switch over the optimizers `names`, with ``body(read, step)`` in each case.

    step(vec, grad, at, mask) updates one vector, and read(at, mask) gives the values before that, which step takes as a
    last argument if they must be read earlier than they are needed.
    """
    end, never = builder.append_basic_block("end"), builder.append_basic_block("never")
    choice = builder.switch(optimizer, never)
    builder.position_at_end(never)
    builder.unreachable()

    def constants_of(vec):
        numbers = (Number(builder, vec.broadcast(builder.load(vec.element(k, I64(n))))) for n in range(CONSTANTS))
        return Constants(*numbers)

    for name in names:
        block = builder.append_basic_block(name)
        choice.add_case(I64(CODES[name]), block)
        builder.position_at_end(block)
        of_whole = constants_of(vec)

        def read(at, mask, name=name):
            used = arrays[: 1 + OPTIMIZERS[name].slots]
            return [Number(builder, vec.load(vec.element(array, at), mask)) for array in used]

        def step(part, grad, at, mask, old=None, name=name, of_whole=of_whole):
            known = of_whole if part is vec else constants_of(part)
            if old is None:
                values = [
                    lambda array=array: Number(builder, part.load(vec.element(array, at), mask)) for array in arrays
                ]
            else:
                values = [lambda value=value: value for value in old]
            new = _new_values(name, known, Number(builder, grad), values)
            for array, value in zip(arrays, new, strict=False):
                part.store(value.value, vec.element(array, at), mask)

        body(read, step)
        builder.branch(end)
    builder.position_at_end(end)


@intrinsic
def apply_tile(typing, zero, optimizer, k, grad, theta, s0, s1, n):
    """Update theta (n,) and its optimizer state with grad (n,); the type of `zero` is the element type."""
    address = types.uintp
    signature = types.void(zero, types.intp, address, address, address, address, address, types.intp)

    def emit(context, builder, signature, arguments):
        _, optimizer, k, grad, theta, s0, s1, n = arguments
        vec = Vectors(builder, real_type(signature.args[0]))
        k, grad, *arrays = (builder.inttoptr(place, vec.real.as_pointer()) for place in (k, grad, theta, s0, s1))

        def body(_, step):
            def update(part, at, mask):
                step(part, part.load(vec.element(grad, at), mask), at, mask)

            for_each_part(builder, vec, n, update)

        _emit(builder, vec, list(OPTIMIZERS), optimizer, k, arrays, body)
        return context.get_dummy_value()

    return signature, emit


@cache
def outer_update_tile(R: int, C: int) -> Any:
    """``tile(zero, optimizer, k, a, a_k, d, d_k, theta, s0, s1, row, K, N)``: update with gradient a' @ d, unstored.

    a is (K, R), d is (K, N) with N <= C vectors; theta and the optimizer state are (R, N), with row stride `row`.
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

            # The sums are stored on the stack and updated in a loop: code for each of them would be too long.
            # (alloca_once, because a tile is inlined into a loop.)
            kept = cgutils.alloca_once(builder, ir.ArrayType(vec.type, R * C))
            kept.align = VECTOR_BYTES

            def run(spans):
                count = len(spans)
                sums = products_of(builder, vec, R, spans, a, I64(1), a_k, d, d_k, K)
                for n, grad in enumerate(sums):
                    builder.store(grad, builder.gep(kept, [I64(0), I64(n)]))

                def body(read, step):
                    def rows(r, _):
                        places = [builder.add(builder.mul(r, row), span.at) for span in spans]
                        overlaps = count > 1 and not MASKS_ARE_CHEAP
                        last = read(places[-1], None) if overlaps else None
                        for c, span in enumerate(spans):
                            grad = builder.load(
                                builder.gep(kept, [I64(0), builder.add(builder.mul(r, I64(count)), I64(c))])
                            )
                            step(vec, grad, places[c], span.mask, last if c == count - 1 else None)
                        return []

                    loop(builder, I64(R), [], rows)

                _emit(builder, vec, in_tile, optimizer, k, arrays, body)

            each_span(builder, vec, C, N, run)
            return context.get_dummy_value()

        return signature, emit

    return tile


@inner
def square_sum(grad, scale, limit):
    """The sum of squares, in float64, of a gradient after scaling and clamping."""
    total = 0.0
    for j in range(grad.shape[0]):
        g = scale * grad[j]
        g = limit if g > limit else g
        g = float(-limit if g < -limit else g)
        total += g * g
    return total
