"""Matrix products that add into their output, made of the register tiles of tiles.py.

Tiles of 8 rows serve batches, of 4 what is left of them, of 1 a single stream, which is a matrix-vector product: it
keeps as much of the output in registers as there is room for and reads the matrix once, in order. All arrays are
C-contiguous; nothing is allocated.
"""

import numpy as np

from kernels.cpu.jit import inner
from kernels.cpu.tiles import TILE_VECTORS, VECTOR_BYTES, axpy_tile, dot_tile

_EIGHT, _FOUR, _ONE = TILE_VECTORS // 8, TILE_VECTORS // 4, TILE_VECTORS
_axpy_8, _axpy_8_1, _axpy_8_m = axpy_tile(8, _EIGHT), axpy_tile(8, 1), axpy_tile(8, 1, True)
_axpy_4, _axpy_4_1, _axpy_4_m = axpy_tile(4, _FOUR), axpy_tile(4, 1), axpy_tile(4, 1, True)
_axpy_1, _axpy_1_4, _axpy_1_1, _axpy_1_m = axpy_tile(1, _ONE), axpy_tile(1, 4), axpy_tile(1, 1), axpy_tile(1, 1, True)
_dot_4, _dot_4_1, _dot_1_8, _dot_1_1 = dot_tile(4, _FOUR), dot_tile(4, 1), dot_tile(1, 8), dot_tile(1, 1)


@inner
def _address(array):
    return np.uintp(array.ctypes.data)


@inner
def _rows_8(zero, size, lanes, a, a_row, a_k, w, w_k, out, K, N):
    """Eight rows of out (8, N), whose rows are N apart."""
    wide, n = _EIGHT * lanes, 0
    while n + wide <= N:
        _axpy_8(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), N, K, 0)
        n += wide
    while n + lanes <= N:
        _axpy_8_1(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), N, K, 0)
        n += lanes
    if n < N:
        _axpy_8_m(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), N, K, N - n)


@inner
def _rows_4(zero, size, lanes, a, a_row, a_k, w, w_k, out, K, N):
    """Four rows of out (4, N), whose rows are N apart."""
    wide, n = _FOUR * lanes, 0
    while n + wide <= N:
        _axpy_4(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), N, K, 0)
        n += wide
    while n + lanes <= N:
        _axpy_4_1(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), N, K, 0)
        n += lanes
    if n < N:
        _axpy_4_m(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), N, K, N - n)


@inner
def _rows_1(zero, size, lanes, a, a_row, a_k, w, w_k, out, K, N):
    """One row of out (1, N)."""
    wide, n = _ONE * lanes, 0
    while n + wide <= N:
        _axpy_1(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), N, K, 0)
        n += wide
    while n + 4 * lanes <= N:
        _axpy_1_4(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), N, K, 0)
        n += 4 * lanes
    while n + lanes <= N:
        _axpy_1_1(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), N, K, 0)
        n += lanes
    if n < N:
        _axpy_1_m(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), N, K, N - n)


@inner
def _product(zero, size, a, a_row, a_k, w, w_k, out, R, K, N):
    """out (R, N) += a (R, K) @ w (K, N), by addresses; a's element (r, k) is a_row r + a_k k elements in."""
    lanes, r = VECTOR_BYTES // size, 0
    while r + 8 <= R:
        at = a + np.uintp(r * a_row * size)
        _rows_8(zero, size, lanes, at, a_row, a_k, w, w_k, out + np.uintp(r * N * size), K, N)
        r += 8
    while r + 4 <= R:
        at = a + np.uintp(r * a_row * size)
        _rows_4(zero, size, lanes, at, a_row, a_k, w, w_k, out + np.uintp(r * N * size), K, N)
        r += 4
    while r < R:
        at = a + np.uintp(r * a_row * size)
        _rows_1(zero, size, lanes, at, a_row, a_k, w, w_k, out + np.uintp(r * N * size), K, N)
        r += 1


@inner
def add_product(a, w, out):
    """out (R, N) += a (R, K) @ w (K, N)."""
    R, K = a.shape
    N = w.shape[1]
    zero = a.dtype.type(0)
    _product(zero, a.itemsize, _address(a), K, 1, _address(w), N, _address(out), R, K, N)


@inner
def add_outer(a, d, out):
    """out (K, N) += a (R, K)' @ d (R, N): a weight's gradient, summed over the R rows."""
    R, K = a.shape
    N = d.shape[1]
    zero = a.dtype.type(0)
    _product(zero, a.itemsize, _address(a), 1, K, _address(d), N, _address(out), K, R, N)


@inner
def add_product_transposed(a, w, out):
    """out (R, K) += a (R, N) @ w (K, N)'."""
    R, N = a.shape
    K = w.shape[0]
    zero, size = a.dtype.type(0), a.itemsize
    at_a, at_w, at_out = _address(a), _address(w), _address(out)
    r = 0
    while r + 4 <= R:
        row, o, k = at_a + np.uintp(r * N * size), at_out + np.uintp(r * K * size), 0
        while k + _FOUR <= K:
            _dot_4(zero, row, N, at_w + np.uintp(k * N * size), N, o + np.uintp(k * size), K, N)
            k += _FOUR
        while k < K:
            _dot_4_1(zero, row, N, at_w + np.uintp(k * N * size), N, o + np.uintp(k * size), K, N)
            k += 1
        r += 4
    while r < R:
        row, o, k = at_a + np.uintp(r * N * size), at_out + np.uintp(r * K * size), 0
        while k + 8 <= K:
            _dot_1_8(zero, row, N, at_w + np.uintp(k * N * size), N, o + np.uintp(k * size), K, N)
            k += 8
        while k < K:
            _dot_1_1(zero, row, N, at_w + np.uintp(k * N * size), N, o + np.uintp(k * size), K, N)
            k += 1
        r += 1


@inner
def add_rows(d, out):
    """out (N,) += the sum of the rows of d (R, N): a bias's gradient."""
    R, N = d.shape
    for r in range(R):
        row = d[r]
        for j in range(N):
            out[j] += row[j]


@inner
def copy_to_rows(row, out):
    """Each row of out (R, N) becomes row (N,)."""
    R, N = out.shape
    for r in range(R):
        o = out[r]
        for j in range(N):
            o[j] = row[j]
