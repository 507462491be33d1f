"""Products, updates and steps on vectors narrower than this processor's, in processes that Numba's variables limit."""

import os
import subprocess
import sys

import pytest
from conftest import ROOT

pytest.importorskip("numba")

import llvmlite.binding as llvm

pytestmark = pytest.mark.skipif("avx" not in llvm.get_host_cpu_features(), reason="the processor has no AVX")
LIMITED = {"avx2": "haswell", "sse": "x86-64-v2"}

#: Compares compiled functions with NumPy at all widths from part of a vector to several panels. Arrays end and begin
#: with canaries; rows are adjacent, so a vector stored too far to the right would change the next row.
PROGRAM = """
import sys
import numpy as np
from kernels.cpu import lstm, matmul
from kernels.cpu.compiler import entry
from kernels.cpu.emit.processor import VECTORS
from kernels.cpu.matmul import address
from kernels.cpu.optimizers import CODES, CONSTANTS, chosen, constants
from kernels.cpu.values import Matrix, Rule, Slots

random, EDGE = np.random.RandomState(0), 40
print(VECTORS.width)


def array(*dims):
    size = int(np.prod(dims))
    whole = np.full(size + 2 * EDGE, 777, np.float32)
    whole[EDGE:-EDGE] = random.randint(-4, 5, size)  # so that sums are exact in any order
    return whole, whole[EDGE:-EDGE].reshape(dims)


def unchanged(*wholes):
    return all((edge == 777).all() for whole in wholes for edge in (whole[:EDGE], whole[-EDGE:]))


@entry
def products(a, d, w, out, dots, R, K, N):
    matmul.add_product(a, EDGE, K, w, EDGE, N, out, EDGE, N, R, K, N)
    matmul.product_transposed(d, EDGE, N, w, EDGE, N, dots, EDGE, K, R, K, N)


@entry
def update(a, d, theta, state, how, k, R, K, N):
    constants(how, 0, 0.5, 1.0, 4.0, 1.0, k)
    slots, rule = Slots(theta, theta, state, state), Rule(how.code, k)
    matmul.apply_outer(Matrix(a, EDGE, K), Matrix(d, EDGE, N), slots, EDGE, R, K, N, rule)


@entry
def step(z, before, c, h, n):
    zero = h.dtype.type(0)
    lstm.lstm_step_forward(zero, address(z, EDGE), n, address(before, EDGE), address(c, EDGE), address(h, EDGE), n)


for function in (products, update, step):
    function._cache.disable()
adagrad = chosen("adagrad", {"epsilon": 1e-8})
for N in (*range(1, 60), 71, 97, 103, 107, 130, 333):
    for R, K in ((1, 13), (2, 5), (7, 27), (1, 50)) if N % 3 == 1 else ((1, 30), (4, 3)):
        (a, A), (d, D), (w, W), (out, O), (dots, P) = (array(*dims) for dims in ((R, K), (R, N), (K, N), (R, N), (R, K)))
        expected = O + A @ W, D @ W.T
        products(a, d, w, out, dots, R, K, N)
        assert unchanged(a, d, w, out, dots), (N, R, K)
        np.testing.assert_array_equal(O, expected[0], f"product, {N, R, K}")
        np.testing.assert_array_equal(P, expected[1], f"transposed, {N, R, K}")
    if "products" in sys.argv:
        continue
    K = R = 5
    (a, A), (d, D), (theta, W), (state, S) = (array(*dims) for dims in ((R, K), (R, N), (K, N), (K, N)))
    S[:] = np.abs(S)
    g = np.clip(A.T @ D, -4, 4)
    memory = S + g * g
    weights = W - 0.5 * g / np.sqrt(memory + 1e-8)
    update(a, d, theta, state, adagrad, np.zeros(CONSTANTS, np.float32), R, K, N)
    assert unchanged(theta, state), N
    np.testing.assert_array_equal(S, memory, f"memory, {N}")
    np.testing.assert_allclose(W, weights, 1e-5, 1e-5, err_msg=f"update, {N}")
    (z, Z), (before, B), (c, C), (h, Hs) = array(4, N), array(N), array(N), array(N)
    i, f, g, o = (np.tanh(block) if n == 2 else 1 / (1 + np.exp(-block)) for n, block in enumerate(Z.astype(float)))
    cells = f * B + i * g
    step(z, before, c, h, N)
    assert unchanged(z, before, c, h), N
    np.testing.assert_allclose(Z, [i, f, g, o], 1e-5, err_msg=f"gates, {N}")
    np.testing.assert_allclose(C, cells, 1e-5, 1e-6, err_msg=f"cells, {N}")
    np.testing.assert_allclose(Hs, o * np.tanh(cells), 1e-5, 1e-6, err_msg=f"h, {N}")
"""


def limited(vectors):
    """Return environment variables that limit compiled code to these vectors."""
    return {**os.environ, "NUMBA_CPU_NAME": LIMITED[vectors], "NUMBA_CPU_FEATURES": ""}


@pytest.mark.parametrize(("vectors", "width", "what"), [("avx2", "32", "all"), ("sse", "16", "products")])
def test_all_widths_of_rows_as_numpy(vectors, width, what):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, what], cwd=ROOT, env=limited(vectors), capture_output=True, text=True, timeout=120,
        check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr, done.stdout.split()) == (0, "", [width])


@pytest.mark.long
@pytest.mark.parametrize("vectors", LIMITED)
def test_the_chain_of_trust_holds_on_narrower_vectors(vectors):
    files = [ROOT / "tests" / "kernel" / name for name in ("test_chain.py", "test_teamwork.py")]
    done = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-x", "-n", "0", *map(str, files)], cwd=ROOT, env=limited(vectors),
        capture_output=True, text=True, timeout=3600, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
