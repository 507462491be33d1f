"""Check that vectorised loops of exp, sigmoid and tanh are within three units in the last place for every input."""

import numpy as np
import pytest

numba = pytest.importorskip("numba")

from kernels.cpu.compiler import FASTMATH  # noqa: E402
from kernels.cpu.emit import activations  # noqa: E402

EXACT = {
    "exp": np.exp,
    "sigmoid": lambda x: np.where(x > 0, 1 / (1 + np.exp(-np.abs(x))), np.exp(-np.abs(x)) / (1 + np.exp(-np.abs(x)))),
    "tanh": np.tanh,
}


@pytest.fixture(scope="module", params=list(EXACT))
def function(request):
    """Compile a vectorised loop over one of the functions with the kernels' flags."""
    stub = getattr(activations, request.param)

    @numba.njit(fastmath=FASTMATH, error_model="numpy")
    def loop(x, out):
        for j in range(x.shape[0]):
            out[j] = stub(x[j])

    return request.param, loop


def arguments(name, dtype):
    random = np.random.RandomState(0)
    lowest = {"float32": -87.0, "float64": -708.0}[dtype]
    parts = [random.uniform(-r, r, 20_000) for r in (1e-30, 1e-8, 1e-3, 0.5, 1, 5, 20, -lowest)]
    x = np.concatenate([*parts, [0.0, -0.0]]).astype(dtype)
    return x[(x <= 1) & (x >= lowest)] if name == "exp" else x


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_error_is_below_three_units_in_the_last_place(function, dtype):
    name, loop = function
    x = arguments(name, dtype)
    got = np.full_like(x, np.nan)
    loop(x, got)
    exact = EXACT[name](x.astype(np.longdouble))
    units = np.abs(got - exact) / np.spacing(np.abs(exact).astype(dtype)).astype(np.longdouble)
    if np.finfo(np.longdouble).nmant == 52:
        pytest.skip("float64 needs a wider type to judge it, which this platform lacks")
    assert float(units.max()) < 3


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_extremes(function, dtype):
    name, loop = function
    x = np.array([-np.inf, -1e4, 1e4, np.inf, np.nan], dtype)
    got = np.empty_like(x)
    loop(x, got)
    assert np.isnan(got[4])
    low, high = got[:2], got[2:4]
    if name == "tanh":
        assert low.tolist() == [-1, -1]
        assert high.tolist() == [1, 1]
    else:
        assert (low >= 0).all()
        assert (low < 1e-37).all()
    if name == "sigmoid":
        assert high.tolist() == [1, 1]


@pytest.mark.parametrize("kind", [numba.float32, numba.float64], ids=str)
def test_loops_over_them_are_vectorised(function, kind):
    name, loop = function
    array = numba.types.Array(kind, 1, "C")
    loop.compile((array, array))
    assembly = loop.inspect_asm((array, array))
    if "xmm" not in assembly:
        pytest.skip("reads x86 assembly")
    packed = "ps" if kind == numba.float32 else "pd"
    assert any(f"mul{packed}" in line and "(" not in name for line in assembly.splitlines())
    assert "callq\texp" not in assembly
