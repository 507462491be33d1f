"""exp, sigmoid and tanh as vector arithmetic: emitted into the steps of the cells, or called as scalars in loops.

Numba has no vector maths library: ``math.exp`` and ``math.tanh`` are scalar calls, about ten times as slow as these.

All three rest on ``expm1``: write x = n ln 2 + r with n whole and |r| <= ln(2)/2, so that ``exp(x) = s + s p`` with
s = 2^n, made by placing n in the exponent bits, and p = expm1(r) = r + r^2 q(r) with q a polynomial. ``tanh`` uses
``expm1(2|x|) / (expm1(2|x|) + 2)``, which keeps its relative accuracy near zero.

The polynomials interpolate (expm1(r) - r) / r^2 at Chebyshev nodes; their relative error is 2.5e-8 (degree 4, float32)
and 6e-19 (degree 10, float64). Error of the functions themselves, stated and measured in
tests/kernel/test_activations.py: within 3 units in the last place of the exact value, where that is no smaller than
e^-87 (float32) or e^-708 (float64): below, exp and sigmoid stay at that value. NaN gives NaN.

The rounding trick in :func:`_reduce` (add and take away a large number) and the two-part ln 2 are destroyed by
reassociation, so nothing here allows it: see :class:`kernels.cpu.emit.vectors.Number`.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.emit.vectors import Number


class _Format(NamedTuple):
    """The numbers that a floating format needs."""

    ln2_high: float  # with few enough bits that n times it is exact
    ln2_low: float
    rounder: float  # 1.5 * 2^(bits of the fraction): adding it leaves the nearest whole number in the low bits
    fraction: int
    bias: int
    lowest: float  # smaller arguments of exp are clamped to it
    tanh_bound: float  # of 2|x|, beyond which tanh is 1
    q: tuple[float, ...]


_SINGLE = _Format(
    0.693359375, -2.12194440e-4, 12582912.0, 23, 127, -87.0, 20.0,
    (0.5, 0.1666657666611993, 0.04166655421298415, 0.008363232883682618, 0.001392625083149761),
)  # fmt: skip
_DOUBLE = _Format(
    6.93147180369123816490e-01, 1.90821492927058770002e-10, 6755399441055744.0, 52, 1023, -708.0, 40.0,
    (
        0.5, 0.1666666666666667103, 0.04166666666666666978, 0.00833333333332608312, 0.001388888888888371117,
        0.0001984126987500227879, 0.0000248015873256774619, 2.755725517000088744e-6, 2.755727347871858047e-7,
        2.510531272962210179e-8, 2.09147553258932022e-9,
    ),
)  # fmt: skip
_LOG2_E = 1.4426950408889634


def _format(x: Number) -> _Format:
    return _DOUBLE if x.is_double else _SINGLE


def _reduce(x: Number) -> tuple[Number, Number]:
    """s = 2^n and p = expm1(x - n ln 2)."""
    form, b, kind = _format(x), x.b, x.value.type
    t = x * _LOG2_E + form.rounder
    n = t - form.rounder
    r = (x - n * form.ln2_high) - n * form.ln2_low
    whole: Any = ir.IntType(64 if x.is_double else 32)
    shift: Any = form.fraction
    bias: Any = form.bias << form.fraction
    if isinstance(kind, ir.VectorType):
        whole = ir.VectorType(whole, kind.count)
        shift, bias = [shift] * kind.count, [bias] * kind.count
    bits = b.add(b.shl(b.bitcast(t.value, whole), ir.Constant(whole, shift)), ir.Constant(whole, bias))
    q = r * form.q[-1] + form.q[-2]
    for coefficient in form.q[-3::-1]:
        q = r * q + coefficient
    return x.new(b.bitcast(bits, kind)), r + r * r * q


def emit_exp(x: Number) -> Number:
    """e^x for x that does not overflow; x is clamped to at least -87 (float32) or -708 (float64)."""
    s, p = _reduce(x.at_least(_format(x).lowest))
    return s + s * p


def emit_sigmoid(x: Number) -> Number:
    """1 / (1 + e^-x)."""
    return 1.0 / (1.0 + emit_exp(-x.at_least(_format(x).lowest)))


def emit_tanh(x: Number) -> Number:
    """Hyperbolic tangent."""
    s, p = _reduce((2.0 * x.call("fabs")).at_most(_format(x).tanh_bound))
    e = s * p + (s - 1.0)
    return (e / (e + 2.0)).call("copysign", x)


def _scalar(emit: Callable[[Number], Number]) -> Any:
    """A function of one number for compiled code, whose loops the compiler turns into vectors."""

    @intrinsic
    def function(typing, x):
        if x not in (types.float32, types.float64):
            return None

        def code(context, builder, signature, arguments):
            return emit(Number(builder, arguments[0])).value

        return x(x), code

    return function


exp, sigmoid, tanh = _scalar(emit_exp), _scalar(emit_sigmoid), _scalar(emit_tanh)
