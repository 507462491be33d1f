"""Products of bfloat16 bit by bit as the processor's rule says, on every rule; and training that reads them."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest
from conftest import ROOT

from kernels import spec
from kernels.reference.products import ORDERS
from kernels.spec import Shape
from kernels.spec.workspaces import depth_of, row_of

#: R, K, N: at and beyond the edges of tiles, panels, and pieces of a contraction.
SIZES = [(1, 1, 1), (3, 5, 7), (16, 32, 32), (17, 33, 65), (50, 128, 160), (13, 1100, 40)]
#: Features that processors with another rule do not have; with AMX come the others.
LACKING = {"tiles": "", "pairs": "amx-bf16", "widened pairs": "amx-bf16 avx512bf16 avx512fp16"}

PROGRAM = """
import sys, json
import numpy as np
from kernels.cpu.emit.amx import IS_AMX
from kernels.cpu.emit.pairs import HAS_PAIRS
sys.path[:0] = ["tests", "tests/kernel"]
from test_mixed import SIZES, products
rule = "tiles" if IS_AMX else "pairs" if HAS_PAIRS else "widened pairs"
print(json.dumps([rule, [[a.view(np.uint32).tolist() for a in products(*size)[0]] for size in SIZES]]))
"""


def operands(R, K, N):
    """Return a (R, K), w (K, N) and out (R, N) with numbers of many sizes."""
    random = np.random.RandomState(R + K + N)
    a, w, out = (random.randn(*dims) * 10.0 ** random.randint(-3, 4, dims) for dims in ((R, K), (K, N), (R, N)))
    return [array.astype("float32") for array in (a, w, out)]


def products(R, K, N):
    """Return out + a @ w by the kernels, with w packed from rows and from its transpose; and the operands."""
    from numba import njit

    from kernels.cpu import mixed_matmul as mixed
    from kernels.cpu.compiler import INNER_OPTIONS
    from kernels.cpu.emit.denormals import flush_denormals, restore

    options = {name: value for name, value in INNER_OPTIONS.items() if not name.startswith("no_")}
    product = _compiled.get("product")
    if product is None:

        @njit(**options)
        def product(a, rows, w, weights, out, is_transposed):
            setting = flush_denormals()
            (R, K), N = a.shape, out.shape[1]
            if is_transposed:
                mixed.pack_transposed(w, 0, K, N, weights, 0, 1)
            else:
                mixed.pack(w, 0, K, N, 1, weights, 0, 1)
            mixed.round_rows(a.reshape(a.size), 0, K, rows.reshape(rows.size), 0, rows.shape[1], R, K)
            a_at, w_at, to = mixed.address(rows, 0), mixed.address(weights, 0), mixed.address(out, 0)
            mixed.product(a_at, rows.shape[1], w_at, to, N, R, mixed.depth_of(K), N)
            restore(setting)

        _compiled["product"] = product
    given, found = operands(R, K, N), []
    for is_transposed in (False, True):
        a, w, out = (array.copy() for array in given)
        rows = spec.aligned_zeros((R, row_of(K)), np.uint16)
        weights = spec.aligned_zeros(depth_of(K) * (-(-N // 96) * 96), np.uint16)
        product(a, rows, (w.T if is_transposed else w).ravel(), weights, out, is_transposed)
        found.append(out)
    return found, given


_compiled = {}


@pytest.mark.parametrize("lacking", LACKING)
def test_products_are_those_of_the_processors_rule_bit_by_bit(lacking):
    pytest.importorskip("numba")
    from numba.core.registry import cpu_target

    from kernels.cpu.emit.processor import has

    features = cpu_target.target_context.codegen()._get_host_cpu_features()
    environment = dict(os.environ)
    if any(has(name) for name in LACKING[lacking].split() if name != "avx512fp16"):
        for name in LACKING[lacking].split():
            features = features.replace(f"+{name}", f"-{name}")
        environment["NUMBA_CPU_FEATURES"] = features
    elif lacking != "tiles":
        pytest.skip("this processor lacks them anyway")
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM], cwd=ROOT, env=environment, capture_output=True, text=True, timeout=300, check=False
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    rule, found = json.loads(done.stdout)
    assert lacking == "tiles" or rule == lacking
    for size, both in zip(SIZES, found, strict=True):
        a, w, out = operands(*size)
        wanted = ORDERS[rule.split()[-1]](spec.round_to_bfloat16(a), spec.round_to_bfloat16(w), out)
        for got in both:
            assert np.array_equal(np.array(got, np.uint32), wanted.view(np.uint32)), (rule, size)


def test_orders_of_additions_differ_only_in_their_rounding():
    a, w, out = operands(9, 70, 5)
    exact = out.astype("float64") + spec.round_to_bfloat16(a).astype("float64") @ spec.round_to_bfloat16(w)
    found = [order(spec.round_to_bfloat16(a), spec.round_to_bfloat16(w), out) for order in ORDERS.values()]
    assert (found[0] != found[1]).any()
    for got in found:
        assert np.abs(got - exact).max() < 1e-6 * np.abs(exact).max()


def test_rounding_keeps_nan_and_infinity():
    values = np.array([0x7FFFFFFF, 0xFFFFFFFF, 0x7F800001, 0x7F800000, 0xFF800000, 0x7F7FFFFF], np.uint32)
    rounded = spec.round_to_bfloat16(values.view(np.float32))
    assert np.isnan(rounded[:3]).all()
    assert rounded[3:].tolist() == [np.inf, -np.inf, np.inf]


# -------------------------------------------------------------------------------------------------------- training
def trained(ops, shape, T, B, *, n=6, threads=1, seed=0, bfloat16=True, ws=None, **options):
    """Return the bytes of losses, theta, state, h and c after n iterations."""
    random, (V, H, L) = np.random.RandomState(seed), shape[:3]
    theta = (random.randn(spec.num_parameters(shape)) / np.sqrt(H)).astype("float32")
    arrays = [
        theta,
        np.zeros((2, len(theta)), "float32"),
        *((random.randn(L, B, H) * 0.3).astype("float32") for _ in range(2)),
    ]
    ids, starts = random.randint(0, V, 600).astype(np.uint8), random.randint(0, 600 - T - 1, (n, B))
    losses = ops.train_steps(
        *arrays, ids, starts, np.zeros(n, bool), 1e-2, shape=shape, seq_length=T, optimizer="adam", threads=threads,
        bfloat16=bfloat16, workspace=ws, grad_scale=1 / (T * B), **options,
    )  # fmt: skip
    return b"".join(a.tobytes() for a in (losses, *arrays))


@pytest.mark.parametrize("size", [(5, 7, Shape(11, 33, 2)), (4, 6, Shape(65, 208, 2))], ids=["streams", "units"])
def test_any_number_of_threads_gives_the_same_bits(size):
    import kernels

    ops, (T, B, shape) = kernels.load("numba"), size
    assert len({trained(ops, shape, T, B, threads=threads) for threads in (1, 2, 3, 4)}) == 1


def test_a_workspace_serves_calls_of_both_kinds_in_turn():
    """What a call over all steps left in the buffers does not reach one for the last step alone, nor one of float32."""
    import kernels

    ops, shape, T, B = kernels.load("numba"), Shape(11, 33, 2), 5, 7
    used = spec.workspace(shape, T, B, "float32", 0.0, True)
    for options in ({}, {"last_only": True}, {"bfloat16": False}, {}):
        fresh = spec.workspace(shape, T, B, "float32", 0.0, True)
        assert trained(ops, shape, T, B, ws=used, **options) == trained(ops, shape, T, B, ws=fresh, **options)


def test_calls_that_cannot_round_are_refused():
    import kernels

    ops, shape = kernels.load("numba"), Shape(5, 4, 1)
    theta = np.zeros(spec.num_parameters(shape))
    arrays = theta, np.zeros((0, len(theta))), np.zeros((1, 2, 4)), np.zeros((1, 2, 4))
    with pytest.raises(ValueError, match="bfloat16: expected parameters of float32, got float64"):
        ops.train_steps(
            *arrays, np.zeros(9, np.uint8), np.zeros((1, 2), int), np.zeros(1, bool), 0.1, shape=shape, seq_length=3,
            optimizer="sgd", bfloat16=True,
        )  # fmt: skip
