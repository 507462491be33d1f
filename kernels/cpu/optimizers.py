"""Clipping and the optimizers of spec.OPTIMIZERS, as one pass over flat vectors or right after a gradient is made.

Every update takes the gradient as ``clamp(scale * grad, limit) * factor``: the trainer's scaling, clipping by element
(limit is infinite for none) and clipping by norm (factor is 1 for none) cost no pass of their own. A NaN passes the
clamp. What an update needs is an array of CONSTANTS numbers of the vectors' own dtype, made by :func:`constants`.
"""

from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.core import cgutils
from numba.extending import intrinsic

from kernels.cpu.compiler import inner
from kernels.cpu.emit.tiles import each_width, products_of
from kernels.cpu.emit.vectors import I64, VECTOR_BYTES, Number, Vectors, for_each_vector, loop, real_type

#: Numbers by which compiled code knows the optimizers of spec.OPTIMIZERS; SGD with momentum is another than without.
SGD, ADAGRAD, RMSPROP, ADAM, MOMENTUM = range(5)
#: Those that can be applied right after a tile of the gradient is made: each makes more code to compile.
AT_ONCE = (SGD, ADAGRAD, RMSPROP, ADAM)
CONSTANTS = 10
_SCALE, _LIMIT, _FACTOR, _RATE, _EPSILON, _DECAY1, _REST1, _DECAY2, _REST2, _ROOT = range(CONSTANTS)


@inner
def constants(optimizer, hyper, step, rate, scale, limit, factor, k):
    """Write what an update needs into k (CONSTANTS,), from the optimizer's `hyper` and `step`, computed in float64.

    The rests, 1 - decay, are taken before rounding: float32 would lose five digits of them.
    """
    k[_SCALE], k[_LIMIT], k[_FACTOR], k[_RATE] = scale, limit, factor, rate
    if optimizer == ADAGRAD:
        k[_EPSILON] = hyper[0]
    elif optimizer == MOMENTUM:
        k[_DECAY1] = hyper[0]
    elif optimizer == RMSPROP:
        k[_DECAY1], k[_REST1], k[_EPSILON] = hyper[0], 1.0 - hyper[0], hyper[1]
    elif optimizer == ADAM:
        k[_DECAY1], k[_REST1], k[_DECAY2], k[_REST2] = hyper[0], 1.0 - hyper[0], hyper[1], 1.0 - hyper[1]
        k[_EPSILON] = hyper[2]
        k[_RATE] = rate / (1.0 - hyper[0] ** (step + 1))  # with the bias correction of m; ROOT has that of v
        k[_ROOT] = 1.0 / (1.0 - hyper[1] ** (step + 1))


def _new_values(optimizer: int, k: list[Number], grad: Number, theta: Number, s0: Any, s1: Any) -> list[Any]:
    """theta and as much memory as the optimizer has, after the update; s0() and s1() give the memory before it."""
    g = _clamp(k[_SCALE] * grad, k[_LIMIT]) * k[_FACTOR]
    if optimizer == SGD:
        return [theta - k[_RATE] * g]
    if optimizer == MOMENTUM:
        s = k[_DECAY1] * s0() + g
        return [theta - k[_RATE] * s, s]
    if optimizer == ADAGRAD:  # epsilon inside the root
        s = s0() + g * g
        return [theta - (k[_RATE] * g).over((s + k[_EPSILON]).root()), s]
    if optimizer == RMSPROP:
        s = k[_DECAY1] * s0() + k[_REST1] * g * g
        return [theta - (k[_RATE] * g).over(s.root() + k[_EPSILON]), s]
    m = k[_DECAY1] * s0() + k[_REST1] * g
    v = k[_DECAY2] * s1() + k[_REST2] * g * g
    return [theta - (k[_RATE] * m).over((v * k[_ROOT]).root() + k[_EPSILON]), m, v]


def _clamp(g: Number, limit: Number) -> Number:
    """g held to [-limit, limit]; NaN stays."""
    return g.at_most(limit).at_least(-limit)


def _emit(
    builder: Any, vec: Vectors, codes: tuple[int, ...], optimizer: Any, k: Any, arrays: list[Any], body: Any
) -> None:
    """Emit ``body(step)`` for the one of the optimizers `codes` that it is; step(grad, at, mask) updates a vector."""
    end, never = builder.append_basic_block("end"), builder.append_basic_block("never")
    choice = builder.switch(optimizer, never)
    builder.position_at_end(never)
    builder.unreachable()
    for code in codes:
        block = builder.append_basic_block(f"optimizer{code}")
        choice.add_case(I64(code), block)
        builder.position_at_end(block)
        numbers = [Number(builder, vec.broadcast(builder.load(vec.element(k, I64(n))))) for n in range(CONSTANTS)]

        def step(grad, at, mask, code=code, numbers=numbers):
            old = [lambda array=array: Number(builder, vec.load(vec.element(array, at), mask)) for array in arrays]
            new = _new_values(code, numbers, Number(builder, grad), old[0](), *old[1:])
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

        _emit(builder, vec, (*AT_ONCE, MOMENTUM), optimizer, k, arrays, body)
        return context.get_dummy_value()

    return signature, emit


@cache
def outer_update_tile(R: int, C: int) -> Any:
    """``tile(zero, optimizer, k, a, a_k, d, d_k, theta, s0, s1, row, K, N)``: apply the gradient a' @ d, never stored.

    a is (K, R), d is (K, N) with N <= C vectors; theta and the memory are (R, N), with rows of `row` elements.
    """

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

                _emit(builder, vec, AT_ONCE, optimizer, k, arrays, body)

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
