"""Matrix products of bfloat16 with float32 sums, and the layouts of their operands: matmul.py for mixed precision.

The left operand lies in rows, the right one in panels of pairs (emit/rounding.py). Tiles are those of AMX (emit/amx.py)
where the processor has it, else those of emit/pairs.py. The order of additions of an element depends on the length of
the contraction only. Nothing is allocated.
"""

import numpy as np

from kernels.cpu.compiler import inner
from kernels.cpu.emit import amx
from kernels.cpu.emit.amx import IS_AMX, amx_block
from kernels.cpu.emit.pairs import pairs_tile
from kernels.cpu.emit.rounding import LANES, PANEL, round_pair, round_row, round_transposed, transpose_rows
from kernels.cpu.emit.vectors import stay_out_of_line
from kernels.cpu.matmul import address
from kernels.cpu.threads import part_of
from kernels.spec import workspaces

depth_of = inner(workspaces.depth_of)
#: Longest piece of a contraction for which a block of sums stays in registers.
_DEPTH = 512
#: Bytes of panels that all rows are multiplied by before the next ones.
_CACHED = 2**18
_block_22, _block_21, _block_12, _block_11 = (amx_block(r, c) for r in (2, 1) for c in (2, 1))
_pairs_8, _pairs_4, _pairs_2, _pairs_1 = (pairs_tile(R) for R in (8, 4, 2, 1))
_pair_kept, _row_kept, _pair_only, _row_only = (
    round_pair(second, keeps) for keeps in (True, False) for second in (True, False)
)


if IS_AMX:

    @inner
    def _blocks(a, a_row, w, panel, out, out_row, R, K, N):
        """Like :func:`product`, for a K that fits; strides are in bytes."""
        tiles = (R + 15) // 16
        high = (R + tiles - 1) // tiles
        cached = max(1, _CACHED // (4 * PANEL * (K // 2))) * PANEL
        for n0 in range(0, N, cached):
            n1 = min(N, n0 + cached)
            whole = n0 + (n1 - n0) // PANEL * PANEL
            for r in range(0, R, 2 * high):
                rows0, rows1 = min(high, R - r), max(0, min(high, R - r - high))
                at_a, at_out = a + np.uintp(r * a_row), out + np.uintp(r * out_row)
                if whole > n0:
                    amx.configure(rows0, rows1, 16, 16)
                for n in range(n0, whole, PANEL):
                    at_w, to = w + np.uintp(n // PANEL * panel), at_out + np.uintp(4 * n)
                    if rows1 > 0:
                        _block_22(at_a, a_row, rows0, at_w, 4 * PANEL, to, out_row, K)
                    else:
                        _block_12(at_a, a_row, rows0, at_w, 4 * PANEL, to, out_row, K)
                rest = n1 - whole
                if rest > 0:
                    at_w, to = w + np.uintp(whole // PANEL * panel), at_out + np.uintp(4 * whole)
                    amx.configure(rows0, rows1, min(16, rest), max(0, rest - 16))
                    if rows1 > 0 and rest > 16:
                        _block_22(at_a, a_row, rows0, at_w, 4 * PANEL, to, out_row, K)
                    elif rows1 > 0:
                        _block_21(at_a, a_row, rows0, at_w, 4 * PANEL, to, out_row, K)
                    elif rest > 16:
                        _block_12(at_a, a_row, rows0, at_w, 4 * PANEL, to, out_row, K)
                    else:
                        _block_11(at_a, a_row, rows0, at_w, 4 * PANEL, to, out_row, K)
        amx.release()

else:

    @inner
    def _blocks(a, a_row, w, panel, out, out_row, R, K, N):
        """Like :func:`product`, for a K that fits; strides are in bytes."""
        for n in range(0, N, PANEL):
            at_w, width, r = w + np.uintp(n // PANEL * panel), min(PANEL, N - n), 0
            while r < R:
                at_a, to = a + np.uintp(r * a_row), out + np.uintp(r * out_row + 4 * n)
                if r + 8 <= R:
                    _pairs_8(at_a, a_row // 2, at_w, to, out_row // 4, K, width)
                    r += 8
                elif r + 4 <= R:
                    _pairs_4(at_a, a_row // 2, at_w, to, out_row // 4, K, width)
                    r += 4
                elif r + 2 <= R:
                    _pairs_2(at_a, a_row // 2, at_w, to, out_row // 4, K, width)
                    r += 2
                else:
                    _pairs_1(at_a, a_row // 2, at_w, to, out_row // 4, K, width)
                    r += 1


@inner
def product(a, a_row, w, out, out_row, R, K, N):
    """out (R, N) += a (R, K) @ w (K, N), given as addresses; a_row and out_row count elements, K is padded."""
    stay_out_of_line()
    panel = 2 * PANEL * K
    for k in range(0, K, _DEPTH):
        at_a, at_w = a + np.uintp(2 * k), w + np.uintp(2 * PANEL * k)
        _blocks(at_a, 2 * a_row, at_w, panel, out, 4 * out_row, R, min(_DEPTH, K - k), N)


@inner
def panel_at(weights, column, K):
    """Address of the panel that begins at a column of padded K."""
    return address(weights, column * K)


@inner
def columns_of(n):
    """Number of columns of the panels that n columns take."""
    return (n + PANEL - 1) // PANEL * PANEL


@inner
def even(n):
    """n, or one more if n is odd."""
    return (n + 1) // 2 * 2


# ------------------------------------------------------------------------------------------------------- operands
@inner
def round_rows(a, a_at, a_row, to, to_at, to_row, R, n):
    """Round R rows (n,) of the flat array a, and write them as rows of the flat array `to`."""
    for r in range(R):
        round_row(address(a, a_at + r * a_row), address(to, to_at + r * to_row), n)


@inner
def keep_pairs(a, a_at, a_row, rows, rows_at, row, pairs, pair, begin, K, R, n):
    """Round R rows (n,) of a in place; copy them to rows, and to pairs from number `pair`, column `begin` on."""
    panel = PANEL * (K // 2)
    for r in range(0, R, 2):
        one, to = address(a, a_at + r * a_row), address(rows, rows_at + r * row)
        at = address(pairs, 2 * PANEL * (pair + r // 2))
        if r + 1 < R:
            _pair_kept(one, one + np.uintp(4 * a_row), to, to + np.uintp(2 * row), at, panel, begin, n)
        else:
            _row_kept(one, one, to, to, at, panel, begin, n)


@inner
def clear_rest(pairs, N, rows):
    """Set the pairs beyond `rows` to zero: calls of another length may have left some there."""
    depth = depth_of(rows)
    for n in range(0, N, PANEL):
        pairs[n * depth + PANEL * rows : (n + PANEL) * depth] = 0


@inner
def pack(theta, w_at, K, N, G, weights, thread, threads):
    """Round the thread's share of a matrix (K, G N) of theta to pairs; each gate begins a panel of its own."""
    depth = depth_of(K)
    panel = PANEL * (depth // 2)
    first, last = part_of((K + 1) // 2, 1, thread, threads)
    for pair in range(first, last):
        for g in range(G):
            one = address(theta, w_at + 2 * pair * G * N + g * N)
            to = address(weights, g * columns_of(N) * depth + 2 * PANEL * pair)
            if 2 * pair + 1 < K:
                _pair_only(one, one + np.uintp(4 * G * N), to, to, to, panel, 0, N)
            else:
                _row_only(one, one, to, to, to, panel, 0, N)


@inner
def pack_transposed(theta, w_at, K, N, weights, thread, threads):
    """Round the thread's share of the transpose of a matrix (N, K) of theta to pairs."""
    depth = depth_of(K)
    first, last = part_of(N, LANES, thread, threads)
    for n in range(first, last, LANES):
        panel = address(weights, n // PANEL * PANEL * depth + n % PANEL * 2)
        for k in range(0, K, 2 * LANES):
            round_transposed(
                address(theta, w_at + n * K + k), K, min(LANES, N - n), min(2 * LANES, K - k),
                panel + np.uintp(2 * PANEL * k), PANEL,
            )  # fmt: skip


@inner
def transpose_steps(rows, out, steps, B, u0, u1):
    """Write columns u0:u1 of rows (steps B, n) as rows of out, each step padded to an even number of columns."""
    runs, R = (1, steps * B) if B % 2 == 0 else (steps, B)
    for u in range(u0, u1, LANES):
        for run in range(runs):
            for r in range(0, R, 2 * LANES):
                a, to = (
                    address(rows, (run * R + r) * rows.shape[1] + u),
                    address(out, u * out.shape[1] + run * even(R) + r),
                )
                transpose_rows(a, rows.shape[1], min(2 * LANES, R - r), to, out.shape[1])
