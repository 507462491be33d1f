"""exp, sigmoid and tanh in plain arithmetic, so that the compiler can vectorise the loops that use them.

Numba has no vector maths library: ``math.exp`` and ``math.tanh`` are scalar calls, about ten times as slow as these.

All three rest on ``expm1``: write x = n ln 2 + r with n whole and |r| <= ln(2)/2, so that ``exp(x) = s + s p`` with
s = 2^n, made by placing n in the exponent bits, and p = expm1(r) = r + r^2 q(r) with q a polynomial. ``tanh`` uses
``expm1(2|x|) / (expm1(2|x|) + 2)``, which keeps its relative accuracy near zero.

The polynomials interpolate (expm1(r) - r) / r^2 at Chebyshev nodes; their relative error is 2.5e-8 (degree 4, float32)
and 6e-19 (degree 10, float64). Error of the functions themselves, stated and measured in tests/test_activations.py:
within 3 units in the last place of the exact value, where that is no smaller than e^-87 (float32) or e^-708 (float64):
below, exp and sigmoid stay at that value. NaN gives NaN.

The rounding trick in :func:`_reduce32` and :func:`_reduce64` (add and take away a large number) and the two-part ln 2
are destroyed by reassociation, so these functions are compiled with contraction alone.
"""

import numpy as np
from numba import njit, types
from numba.extending import overload

from kernels.cpu.jit import INNER_OPTIONS

_EXACT = njit(**{**INNER_OPTIONS, "fastmath": {"contract"}})

_ONE32, _TWO32 = np.float32(1), np.float32(2)
_LOG2E32, _LN2_HI32, _LN2_LO32 = np.float32(1.4426950408889634), np.float32(0.693359375), np.float32(-2.12194440e-4)
_ROUND32 = np.float32(12582912.0)  # 1.5 * 2^23: adding it leaves the nearest whole number in the low bits
_SHIFT32, _BIAS32 = np.int32(23), np.int32(127 << 23)
_LOW32, _TANH_MAX32 = np.float32(-87.0), np.float32(20.0)
_Q0_32, _Q1_32, _Q2_32 = np.float32(0.5), np.float32(0.1666657666611993), np.float32(0.04166655421298415)
_Q3_32, _Q4_32 = np.float32(0.008363232883682618), np.float32(0.001392625083149761)

_LOG2E64, _LN2_HI64, _LN2_LO64 = 1.4426950408889634, 6.93147180369123816490e-01, 1.90821492927058770002e-10
_ROUND64 = 6755399441055744.0  # 1.5 * 2^52
_SHIFT64, _BIAS64 = np.int64(52), np.int64(1023 << 52)
_LOW64, _TANH_MAX64 = -708.0, 40.0
_Q0_64, _Q1_64, _Q2_64, _Q3_64 = 0.5, 0.1666666666666667103, 0.04166666666666666978, 0.00833333333332608312
_Q4_64, _Q5_64, _Q6_64 = 0.001388888888888371117, 0.0001984126987500227879, 0.0000248015873256774619
_Q7_64, _Q8_64, _Q9_64 = 2.755725517000088744e-6, 2.755727347871858047e-7, 2.510531272962210179e-8
_Q10_64 = 2.09147553258932022e-9


@_EXACT
def _reduce32(x):
    """Return s = 2^n and p = expm1(x - n ln 2)."""
    t = x * _LOG2E32 + _ROUND32
    n = t - _ROUND32
    r = (x - n * _LN2_HI32) - n * _LN2_LO32
    s = np.int32((np.float32(t).view(np.int32) << _SHIFT32) + _BIAS32).view(np.float32)
    q = _Q0_32 + r * (_Q1_32 + r * (_Q2_32 + r * (_Q3_32 + r * _Q4_32)))
    return s, r + r * r * q


@_EXACT
def _reduce64(x):
    """Return s = 2^n and p = expm1(x - n ln 2)."""
    t = x * _LOG2E64 + _ROUND64
    n = t - _ROUND64
    r = (x - n * _LN2_HI64) - n * _LN2_LO64
    s = np.int64((np.float64(t).view(np.int64) << _SHIFT64) + _BIAS64).view(np.float64)
    q = _Q5_64 + r * (_Q6_64 + r * (_Q7_64 + r * (_Q8_64 + r * (_Q9_64 + r * _Q10_64))))
    q = _Q0_64 + r * (_Q1_64 + r * (_Q2_64 + r * (_Q3_64 + r * (_Q4_64 + r * q))))
    return s, r + r * r * q


@_EXACT
def _exp32(x):
    y = _LOW32 if x < _LOW32 else x
    s, p = _reduce32(y)
    return s + s * p


@_EXACT
def _exp64(x):
    y = _LOW64 if x < _LOW64 else x
    s, p = _reduce64(y)
    return s + s * p


@_EXACT
def _sigmoid32(x):
    y = _LOW32 if x < _LOW32 else x
    return _ONE32 / (_ONE32 + _exp32(-y))


@_EXACT
def _sigmoid64(x):
    y = _LOW64 if x < _LOW64 else x
    return 1.0 / (1.0 + _exp64(-y))


@_EXACT
def _tanh32(x):
    y = _TWO32 * abs(x)
    y = _TANH_MAX32 if y > _TANH_MAX32 else y
    s, p = _reduce32(y)
    e = s * p + (s - _ONE32)
    return np.copysign(e / (e + _TWO32), x)


@_EXACT
def _tanh64(x):
    y = 2.0 * abs(x)
    y = _TANH_MAX64 if y > _TANH_MAX64 else y
    s, p = _reduce64(y)
    e = s * p + (s - 1.0)
    return np.copysign(e / (e + 2.0), x)


def exp(x):
    """e^x for x <= 0 (or small enough not to overflow); below -87 (float32), -708 (float64) that bound's value."""


def sigmoid(x):
    """1 / (1 + e^-x)."""


def tanh(x):
    """Hyperbolic tangent."""


def _by_dtype(stub, single, double):
    """Let compiled code call `stub`, which becomes `single` for float32 and `double` for float64."""

    @overload(stub, inline="never", jit_options={"fastmath": {"contract"}, "error_model": "numpy"})
    def choose(x):
        if x == types.float32:
            return lambda x: single(x)  # noqa: PLW0108 - Numba wants a function of the stub's own argument
        if x == types.float64:
            return lambda x: double(x)  # noqa: PLW0108
        return None


_by_dtype(exp, _exp32, _exp64)
_by_dtype(sigmoid, _sigmoid32, _sigmoid64)
_by_dtype(tanh, _tanh32, _tanh64)
