"""Matrix products, built from the register tiles of emit/tiles.py.

Tiles of 8 rows compute batches, tiles of 4 and 2 rows their remainder. Tiles of 1 row compute a single stream: its
matrix-vector product keeps as much of the output in registers as fits, and reads the matrix once, in order. A matrix
that many products share is packed first: split into contiguous panels as wide as a tile, so that a panel stays in the
second-level cache while all rows of the other operand are multiplied by it. Long contractions are split for the same
reason.

A matrix is given as an array, the index of its first element and the row stride, so that a part of a larger matrix
needs no new array. The summation order of an element is fixed, whichever tile, panel or split it belongs to; only a
product of a single row has a different order. Threads may therefore split a product anywhere, as long as none of them
gets one row of several. Nothing is allocated.
"""

import numpy as np

from kernels.cpu.compiler import inner, thin
from kernels.cpu.emit.tiles import DOT_GROUPS, DOT_ROWS, LONG_GROUPS, ROW_VECTORS, TILE_ROWS, axpy_tile, dot_tile
from kernels.cpu.emit.vectors import MASKS_ARE_CHEAP, TILE_VECTORS, VECTOR_BYTES, stay_out_of_line
from kernels.cpu.optimizers import outer_update_tile

_VECTORS = TILE_VECTORS // TILE_ROWS  # a panel's width
_tile_8, _tile_4, _tile_2, _tile_1 = (axpy_tile(R, _VECTORS) for R in (8, 4, 2, 1))
_tile_row = axpy_tile(1, ROW_VECTORS)
_dot_rows, _dot_2, _dot_1, _dot_long = dot_tile(DOT_ROWS), dot_tile(2), dot_tile(1), dot_tile(1, 4)
_dots_rows, _dots_1 = dot_tile(DOT_ROWS, 1, DOT_GROUPS), dot_tile(1, 1, DOT_GROUPS)
_dots_long = dot_tile(1, 4, LONG_GROUPS)
_update_rows, _update_row = outer_update_tile(TILE_ROWS, _VECTORS), outer_update_tile(1, _VECTORS)
_LONG = 300  # shortest row for which _dot_long is used
#: Length of the pieces that long contractions are split into.
DEPTH = 512


@inner
def address(array, elements):
    """Address of an element of a C-contiguous array."""
    return np.uintp(array.ctypes.data + elements * array.itemsize)


@inner
def panel_width(left, size):
    """Width of the panel that holds the first of the `left` remaining columns: all of them, or some whole vectors.

    Unless masks are cheap, only a matrix narrower than a vector has such a panel, which needs one.
    """
    lanes = VECTOR_BYTES // size
    wide = _VECTORS * lanes
    if not MASKS_ARE_CHEAP and wide < left < wide + lanes:
        return wide - lanes
    return min(wide, left)


@inner
def _panel_stride(width, size):
    """Row stride, in elements, of a packed panel."""
    lanes = VECTOR_BYTES // size
    return (width + lanes - 1) // lanes * lanes


@inner
def _product(zero, size, a, a_row, a_k, w, w_row, out, out_row, R, K, N):
    """out (R, N) += a (R, K) @ w (K, N), given as addresses; a's element (r, k) has index a_row r + a_k k.

    w has rows of w_row elements; w_row 0 means that it is packed.
    """
    stay_out_of_line()
    for k in range(0, K, DEPTH):
        depth = min(DEPTH, K - k)
        n = 0
        while n < N:
            width = panel_width(N - n, size)
            if w_row == 0:
                w_k = _panel_stride(width, size)
                at_w = w + np.uintp((n * K + k * w_k) * size)
            else:
                w_k = w_row
                at_w = w + np.uintp((n + k * w_k) * size)
            r = 0
            while r < R:
                at_a, at_out = a + np.uintp((r * a_row + k * a_k) * size), out + np.uintp((r * out_row + n) * size)
                if TILE_ROWS == 8 and r + 8 <= R:
                    _tile_8(zero, at_a, a_row, a_k, at_w, w_k, at_out, out_row, depth, width)
                    r += 8
                elif r + 4 <= R:
                    _tile_4(zero, at_a, a_row, a_k, at_w, w_k, at_out, out_row, depth, width)
                    r += 4
                elif r + 2 <= R:
                    _tile_2(zero, at_a, a_row, a_k, at_w, w_k, at_out, out_row, depth, width)
                    r += 2
                else:
                    _tile_1(zero, at_a, a_row, a_k, at_w, w_k, at_out, out_row, depth, width)
                    r += 1
            n += width


@inner
def _row_product(zero, size, a, w, w_row, out, K, N):
    """out (N,) += a (K,) @ w (K, N), given as addresses."""
    stay_out_of_line()
    lanes = VECTOR_BYTES // size
    vectors = (N + lanes - 1) // lanes
    turns = (vectors + ROW_VECTORS - 1) // ROW_VECTORS
    width = (vectors + turns - 1) // turns * lanes if turns > 0 else 1
    for n in range(0, N, width):
        to = out + np.uintp(n * size)
        _tile_row(zero, a, 0, 1, w + np.uintp(n * size), w_row, to, 0, K, min(width, N - n))


@inner
def _dots(zero, size, a, a_row, w, w_row, out, out_row, R, K, N):
    """out (R, K) = a (R, N) @ w (K, N)', given as addresses."""
    stay_out_of_line()
    lanes = VECTOR_BYTES // size
    split = R == 1 and N >= _LONG
    r = 0
    while r < R:
        rows = DOT_ROWS if r + DOT_ROWS <= R else (2 if r + 2 <= R else 1)
        columns = max(lanes // 4, 1) if split else lanes // rows
        at_a, to_row = a + np.uintp(r * a_row * size), out + np.uintp(r * out_row * size)
        k = 0
        while k < K:
            width, wide = min(columns, K - k), (LONG_GROUPS if split else DOT_GROUPS) * columns
            if DOT_GROUPS > 1 and lanes <= N and (rows == DOT_ROWS or rows == 1) and wide <= K - k:
                width = wide
            elif not MASKS_ARE_CHEAP and width < columns <= K:
                k, width = K - columns, columns  # compute some columns again, and store no part of a vector
            at_w, to = w + np.uintp(k * w_row * size), to_row + np.uintp(k * size)
            if width > columns:
                if rows == DOT_ROWS:
                    _dots_rows(zero, at_a, a_row, at_w, w_row, to, out_row, N, width)
                elif not split:
                    _dots_1(zero, at_a, a_row, at_w, w_row, to, out_row, N, width)
                else:
                    _dots_long(zero, at_a, a_row, at_w, w_row, to, out_row, N, width)
            elif rows == DOT_ROWS:
                _dot_rows(zero, at_a, a_row, at_w, w_row, to, out_row, N, width)
            elif rows == 2:
                _dot_2(zero, at_a, a_row, at_w, w_row, to, out_row, N, width)
            elif not split:
                _dot_1(zero, at_a, a_row, at_w, w_row, to, out_row, N, width)
            else:
                _dot_long(zero, at_a, a_row, at_w, w_row, to, out_row, N, width)
            k += width
        r += rows


# The functions above are compiled only once, whichever array types and literal numbers the functions below are given.


@thin
def add_product(a, a_at, a_row, w, w_at, w_row, out, out_at, out_row, R, K, N):
    """out (R, N) += a (R, K) @ w (K, N); x_at is the index of a matrix's first element, x_row its row stride.

    w_row 0 means that w is packed.
    """
    zero, size, one = a.dtype.type(0), np.int64(a.itemsize), np.int64(1)
    at_a, at_w, to, w_row = address(a, a_at), address(w, w_at), address(out, out_at), np.int64(w_row)
    if R == 1 and w_row > 0:
        _row_product(zero, size, at_a, at_w, w_row, to, K, N)
    else:
        _product(zero, size, at_a, a_row, one, at_w, w_row, to, out_row, R, K, N)


@thin
def add_outer(a, a_at, a_row, d, d_at, d_row, out, out_at, out_row, R, K, N):
    """out (K, N) += a (R, K)' @ d (R, N), with matrices as in :func:`add_product`."""
    zero, size, one = a.dtype.type(0), np.int64(a.itemsize), np.int64(1)
    _product(zero, size, address(a, a_at), one, a_row, address(d, d_at), d_row, address(out, out_at), out_row, K, R, N)


@thin
def product_transposed(a, a_at, a_row, w, w_at, w_row, out, out_at, out_row, R, K, N):
    """out (R, K) = a (R, N) @ w (K, N)', with matrices as in :func:`add_product`; w is never packed."""
    zero, size = a.dtype.type(0), np.int64(a.itemsize)
    _dots(zero, size, address(a, a_at), a_row, address(w, w_at), w_row, address(out, out_at), out_row, R, K, N)


@inner
def apply_outer(a, d, slots, at, R, K, N, rule):
    """Update the parameters from index `at` on with the gradient a' @ d, for the Matrices a (R, K) and d (R, N).

    The parameters and their optimizer state are matrices (K, N) with the row stride of d (optimizers.py).
    """
    stay_out_of_line()
    theta = slots.theta
    zero, size, row, kept = theta.dtype.type(0), theta.itemsize, d.row, address(rule.k, 0)
    n = 0
    while n < N:
        width, r = panel_width(N - n, size), 0
        while r < K:
            at_a, at_d, to = address(a.flat, a.at + r), address(d.flat, d.at + n), at + r * row + n
            w, s0, s1 = address(theta, to), address(slots.s0, to), address(slots.s1, to)
            if r + TILE_ROWS <= K:
                _update_rows(zero, rule.optimizer, kept, at_a, a.row, at_d, row, w, s0, s1, row, R, width)
                r += TILE_ROWS
            else:
                _update_row(zero, rule.optimizer, kept, at_a, a.row, at_d, row, w, s0, s1, row, R, width)
                r += 1
        n += width


# ----------------------------------------------------------------------------------------------------------- packed
@inner
def pack(w, w_at, w_row, packed, K, N, thread, threads):
    """Pack the thread's share of w (K, N), which begins at w[w_at] with row stride w_row; panels are rounded up."""
    n, panel = 0, 0
    while n < N:
        width = panel_width(N - n, w.itemsize)
        if panel % threads == thread:
            stride = _panel_stride(width, w.itemsize)
            for k in range(K):
                row, to = w[w_at + k * w_row + n : w_at + k * w_row + n + width], packed[n * K + k * stride :]
                for j in range(width):
                    to[j] = row[j]
        n += width
        panel += 1


@inner
def pack_transposed(w, w_at, w_row, packed, K, N, thread, threads):
    """Pack the thread's share of the transpose of w (K, N), a matrix (N, K)."""
    k, number = 0, 0
    while k < K:
        width = panel_width(K - k, w.itemsize)
        if number % threads == thread:
            stride, panel = _panel_stride(width, w.itemsize), packed[k * N :]
            for n in range(0, N, 16):  # sixteen columns at a time, so that each cache line of w is read once
                for j in range(width):
                    row = w[w_at + (k + j) * w_row :]
                    for m in range(n, min(n + 16, N)):
                        panel[m * stride + j] = row[m]
        k += width
        number += 1


# ------------------------------------------------------------------------------------------------------------- rows
@inner
def add_rows(d, d_at, d_row, out, R):
    """out (N,) += the sum of R rows of the flat array d: the gradient of a bias."""
    for r in range(R):
        row = d[d_at + r * d_row : d_at + r * d_row + out.shape[0]]
        for j in range(out.shape[0]):
            out[j] += row[j]


@inner
def copy_to_rows(row, out, out_at, out_row, R):
    """Copy row (N,) to each of R rows of the flat array out."""
    for r in range(R):
        o = out[out_at + r * out_row : out_at + r * out_row + row.shape[0]]
        for j in range(row.shape[0]):
            o[j] = row[j]


@inner
def clear_rows(out, out_at, out_row, R, N):
    """Set N elements of each of R rows of the flat array out to zero."""
    for r in range(R):
        o = out[out_at + r * out_row : out_at + r * out_row + N]
        for j in range(N):
            o[j] = 0
