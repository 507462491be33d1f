"""Matrix products that add into their output, made of the register tiles of tiles.py.

Tiles of 8 rows serve batches, of 4 what is left of them, of 1 a single stream, which is a matrix-vector product: it
keeps as much of the output in registers as there is room for and reads the matrix once, in order. All arrays are
C-contiguous; `begin` and `end` choose the part of the output that is computed. An element's sum runs over the whole
contraction in one fixed order, whichever tile it falls into. Nothing is allocated.
"""

import numpy as np

from kernels.cpu.jit import inner
from kernels.cpu.tiles import TILE_VECTORS, VECTOR_BYTES, axpy_tile, dot_tile

_axpy_1, _axpy_1_4, _axpy_1_1, _axpy_1_m = (
    axpy_tile(1, TILE_VECTORS),
    axpy_tile(1, 4),
    axpy_tile(1, 1),
    axpy_tile(1, 1, True),
)
_DOTS = TILE_VECTORS // 4
_dot_4, _dot_4_1, _dot_1_8, _dot_1_1 = dot_tile(4, _DOTS), dot_tile(4, 1), dot_tile(1, 8), dot_tile(1, 1)


@inner
def _address(array, elements):
    """Where an element of a C-contiguous array lies."""
    return np.uintp(array.ctypes.data + elements * array.itemsize)


def _rows(R):
    """Compiled code for R rows of out (R, N), as many vectors at a time as the registers hold."""
    vectors = TILE_VECTORS // R
    wide_tile, tile, masked_tile = axpy_tile(R, vectors), axpy_tile(R, 1), axpy_tile(R, 1, True)

    @inner
    def rows(zero, size, lanes, a, a_row, a_k, w, w_k, out, out_row, K, N):
        wide, n = vectors * lanes, 0
        while n + wide <= N:
            wide_tile(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), out_row, K, 0)
            n += wide
        while n + lanes <= N:
            tile(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), out_row, K, 0)
            n += lanes
        if n < N:
            masked_tile(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), out_row, K, N - n)

    return rows


_rows_8, _rows_4 = _rows(8), _rows(4)


@inner
def _rows_1(zero, size, lanes, a, a_row, a_k, w, w_k, out, out_row, K, N):
    """One row of out (1, N): a wide tile, and one of four vectors for what it leaves, which hides the sums' latency."""
    wide, n = TILE_VECTORS * lanes, 0
    while n + wide <= N:
        _axpy_1(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), out_row, K, 0)
        n += wide
    while n + 4 * lanes <= N:
        _axpy_1_4(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), out_row, K, 0)
        n += 4 * lanes
    while n + lanes <= N:
        _axpy_1_1(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), out_row, K, 0)
        n += lanes
    if n < N:
        _axpy_1_m(zero, a, a_row, a_k, w + np.uintp(n * size), w_k, out + np.uintp(n * size), out_row, K, N - n)


@inner
def _product(zero, size, a, a_row, a_k, w, w_k, out, out_row, R, K, N):
    """out (R, N) += a (R, K) @ w (K, N), by addresses; a's element (r, k) is a_row r + a_k k elements in."""
    lanes, r = VECTOR_BYTES // size, 0
    while r + 8 <= R:
        at, to = a + np.uintp(r * a_row * size), out + np.uintp(r * out_row * size)
        _rows_8(zero, size, lanes, at, a_row, a_k, w, w_k, to, out_row, K, N)
        r += 8
    while r + 4 <= R:
        at, to = a + np.uintp(r * a_row * size), out + np.uintp(r * out_row * size)
        _rows_4(zero, size, lanes, at, a_row, a_k, w, w_k, to, out_row, K, N)
        r += 4
    while r < R:
        at, to = a + np.uintp(r * a_row * size), out + np.uintp(r * out_row * size)
        _rows_1(zero, size, lanes, at, a_row, a_k, w, w_k, to, out_row, K, N)
        r += 1


@inner
def add_product(a, w, out, begin, end):
    """out[:, begin:end] += a (R, K) @ w[:, begin:end], of out (R, N) and w (K, N)."""
    R, K = a.shape
    N = w.shape[1]
    at_w, at_out = _address(w, begin), _address(out, begin)
    _product(a.dtype.type(0), a.itemsize, _address(a, 0), K, 1, at_w, N, at_out, N, R, K, end - begin)


@inner
def add_outer(a, d, out, begin, end):
    """out += a[:, begin:end]' @ d, of a (R, K), d (R, N) and out (end - begin, N): rows of a weight's gradient."""
    R, K = a.shape
    N = d.shape[1]
    zero = a.dtype.type(0)
    _product(zero, a.itemsize, _address(a, begin), 1, K, _address(d, 0), N, _address(out, 0), N, end - begin, R, N)


@inner
def add_product_transposed(a, w, out, begin, end):
    """out[:, begin:end] += a (R, N) @ w[begin:end]', of out (R, K) and w (K, N)."""
    R, N = a.shape
    K = w.shape[0]
    zero, size = a.dtype.type(0), a.itemsize
    at_a, at_w, at_out = _address(a, 0), _address(w, 0), _address(out, 0)
    r = 0
    while r + 4 <= R:
        row, o, k = at_a + np.uintp(r * N * size), at_out + np.uintp(r * K * size), begin
        while k + _DOTS <= end:
            _dot_4(zero, row, N, at_w + np.uintp(k * N * size), N, o + np.uintp(k * size), K, N)
            k += _DOTS
        while k < end:
            _dot_4_1(zero, row, N, at_w + np.uintp(k * N * size), N, o + np.uintp(k * size), K, N)
            k += 1
        r += 4
    while r < R:
        row, o, k = at_a + np.uintp(r * N * size), at_out + np.uintp(r * K * size), begin
        while k + 8 <= end:
            _dot_1_8(zero, row, N, at_w + np.uintp(k * N * size), N, o + np.uintp(k * size), K, N)
            k += 8
        while k < end:
            _dot_1_1(zero, row, N, at_w + np.uintp(k * N * size), N, o + np.uintp(k * size), K, N)
            k += 1
        r += 1


@inner
def add_rows(d, out, begin, end):
    """out[begin:end] += the sum of the rows of d[:, begin:end], of d (R, N) and out (N,): a bias's gradient."""
    part = out[begin:end]
    for r in range(d.shape[0]):
        row = d[r, begin:end]
        for j in range(end - begin):
            part[j] += row[j]


@inner
def copy_to_rows(row, out, begin, end):
    """out[:, begin:end] = row[begin:end] in each row of out (R, N)."""
    part = row[begin:end]
    for r in range(out.shape[0]):
        o = out[r, begin:end]
        for j in range(end - begin):
            o[j] = part[j]
