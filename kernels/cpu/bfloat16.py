"""Products of a single row with a matrix whose elements are rounded to bfloat16, the upper half of a float32.

At batch 1 the recurrent matrix is read from the second-level cache at every step, and that is what a step takes. Half
the bytes are read in half the time, as long as widening costs next to nothing: so two vectors' worth of a row lie in
one, column j in the lower halves of its lanes and column j + lanes in the upper, and a shift and a mask are all it
takes. Sums and the other operand stay float32.

A row of N columns takes :func:`words` lanes of 32 bits; columns beyond N are zero. A product of one row has an order of
its own, which depends on N and the width of a vector alone.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.compiler import inner, thin
from kernels.cpu.emit.vectors import I64, TILE_VECTORS, VECTOR_BYTES, Vectors, loop, stay_out_of_line
from kernels.cpu.matmul import address

_LANES = VECTOR_BYTES // 4
_PAIRS = 7 if TILE_VECTORS >= 24 else 3  # of a tile: twice as many sums, and what is being widened, fit the registers
_REAL, _WORD = ir.FloatType(), ir.IntType(32)


class _Pairs(Vectors):
    """Vectors of float32, and of words that hold two each."""

    def __init__(self, builder: Any) -> None:
        super().__init__(builder, _REAL)
        self.words = ir.VectorType(_WORD, self.lanes)

    def pointer(self, place: Any) -> Any:
        """An address, as a number, as a pointer."""
        return self.b.inttoptr(place, self.real.as_pointer())

    def constant(self, value: int) -> Any:
        """A number in all words."""
        return ir.Constant(self.words, [value] * self.lanes)

    def widened(self, at: Any) -> tuple[Any, Any]:
        """The two vectors that a vector of words at a place stands for."""
        both = self.b.bitcast(self.load(at), self.words)
        lower, upper = self.b.shl(both, self.constant(16)), self.b.and_(both, self.constant(0xFFFF0000))
        return self.b.bitcast(lower, self.type), self.b.bitcast(upper, self.type)

    def rounded(self, value: Any) -> Any:
        """The words whose upper halves are a vector rounded to bfloat16, to the nearest, ties to even."""
        bits = self.b.bitcast(value, self.words)
        odd = self.b.and_(self.b.lshr(bits, self.constant(16)), self.constant(1))
        return self.b.add(self.b.add(bits, self.constant(0x7FFF)), odd)

    def lanes_below(self, count: Any) -> Any:
        """A mask of as many lanes as `count`, which may be negative or too many."""
        return self.mask(self.b.select(self.b.icmp_signed("<", count, I64(0)), I64(0), count))


@intrinsic
def _pair_up(typing, w, to, N):
    """Write a row w (N,) rounded into words."""

    def emit(context, builder, signature, arguments):
        w, to, N = arguments
        vec = _Pairs(builder)
        w, to = vec.pointer(w), vec.pointer(to)

        def pair(at, masks):
            halves = [vec.load(vec.element(w, builder.add(at, I64(k * vec.lanes))), masks[k]) for k in range(2)]
            lower, upper = (vec.rounded(half) for half in halves)
            both = builder.or_(
                builder.lshr(lower, vec.constant(16)), builder.and_(upper, vec.constant(0xFFFF0000))
            )  # fmt: skip
            vec.store(builder.bitcast(both, vec.type), vec.element(to, builder.sdiv(at, I64(2))))
            return []

        step = I64(2 * vec.lanes)
        whole = builder.sdiv(N, step)
        loop(builder, whole, [], lambda i, _: pair(builder.mul(i, step), [None, None]))
        done = builder.mul(whole, step)
        rest = builder.sub(N, done)
        masks = [vec.lanes_below(builder.sub(rest, I64(k * vec.lanes))) for k in range(2)]
        any_left = builder.zext(builder.icmp_signed(">", rest, I64(0)), I64)
        loop(builder, any_left, [], lambda _, __: pair(done, masks))
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.intp), emit


@intrinsic
def _row_tile(typing, a, w, w_row, out, K, N):
    """out (N,) += a (K,) @ w (K, N), for N from 1 to 2 _PAIRS vectors; w has rows of w_row words."""

    def emit(context, builder, signature, arguments):
        a, w, w_row, out, K, N = arguments
        vec = _Pairs(builder)
        a, w, out = vec.pointer(a), vec.pointer(w), vec.pointer(out)
        end, never = builder.append_basic_block("end"), builder.append_basic_block("never")
        pairs_needed = builder.sdiv(builder.add(N, I64(2 * vec.lanes - 1)), I64(2 * vec.lanes))
        choice = builder.switch(pairs_needed, never)
        builder.position_at_end(never)
        builder.unreachable()
        for pairs in range(1, _PAIRS + 1):
            block = builder.append_basic_block(f"pairs{pairs}")
            choice.add_case(I64(pairs), block)
            builder.position_at_end(block)

            def body(k, sums, pairs=pairs):
                factor = vec.broadcast(builder.load(vec.element(a, k)))
                row, new = vec.element(w, builder.mul(k, w_row)), []
                for p in range(pairs):
                    for half in vec.widened(vec.element(row, I64(p * vec.lanes))):
                        new.append(vec.multiply_add(factor, half, sums[len(new)]))
                return new

            for n, value in enumerate(loop(builder, K, [vec.zero] * (2 * pairs), body)):
                place = vec.element(out, I64(n * vec.lanes))
                mask = vec.lanes_below(builder.sub(N, I64(n * vec.lanes))) if n >= 2 * pairs - 2 else None
                vec.store(builder.fadd(vec.load(place, mask), value), place, mask)
            builder.branch(end)
        builder.position_at_end(end)
        return context.get_dummy_value()

    number, place = types.intp, types.uintp
    return types.void(place, place, number, place, number, number), emit


@intrinsic
def _dot_tile(typing, a, w, w_row, out, N, K):
    """out (K,) = a (N,) @ w (K, N)', for K up to a vector; w has rows of w_row words."""

    def emit(context, builder, signature, arguments):
        a, w, w_row, out, N, K = arguments
        vec = _Pairs(builder)
        a, w, out = vec.pointer(a), vec.pointer(w), vec.pointer(out)
        beyond = builder.sub(K, I64(1))  # rows of w that are not there are read as the last one that is
        rows = []
        for k in range(vec.lanes):
            there = builder.select(builder.icmp_signed("<", I64(k), K), I64(k), beyond)
            rows.append(vec.element(w, builder.mul(there, w_row)))

        def add(at, sums, masks):
            left = [vec.load(vec.element(a, builder.add(at, I64(k * vec.lanes))), masks[k]) for k in range(2)]
            words = builder.sdiv(at, I64(2))
            new = []
            for row, value in zip(rows, sums, strict=True):
                lower, upper = vec.widened(vec.element(row, words))
                new.append(vec.multiply_add(left[1], upper, vec.multiply_add(left[0], lower, value)))
            return new

        step = I64(2 * vec.lanes)
        whole = builder.sdiv(N, step)
        sums = loop(builder, whole, [vec.zero] * vec.lanes, lambda i, s: add(builder.mul(i, step), s, [None] * 2))
        done = builder.mul(whole, step)
        rest = builder.sub(N, done)
        masks = [vec.lanes_below(builder.sub(rest, I64(k * vec.lanes))) for k in range(2)]
        any_left = builder.zext(builder.icmp_signed(">", rest, I64(0)), I64)
        sums = loop(builder, any_left, sums, lambda _, s: add(done, s, masks))
        vec.store(vec.totals(sums), out, vec.mask(K))
        return context.get_dummy_value()

    number, place = types.intp, types.uintp
    return types.void(place, place, number, place, number, number), emit


@inner
def words(N):
    """Words of 32 bits that a row of N columns takes."""
    return (N + 2 * _LANES - 1) // (2 * _LANES) * _LANES


@inner
def _row_product(a, w, w_row, out, K, N):
    """out (N,) += a (K,) @ w (K, N), by addresses."""
    stay_out_of_line()
    pairs = w_row // _LANES
    turns = (pairs + _PAIRS - 1) // _PAIRS
    width = (pairs + turns - 1) // turns * 2 * _LANES
    for n in range(0, N, width):
        _row_tile(a, w + np.uintp(2 * n), w_row, out + np.uintp(4 * n), K, min(width, N - n))


@inner
def _dots(a, w, w_row, out, K, N):
    """out (K,) = a (N,) @ w (K, N)', by addresses."""
    stay_out_of_line()
    for k in range(0, K, _LANES):
        _dot_tile(a, w + np.uintp(4 * k * w_row), w_row, out + np.uintp(4 * k), N, min(_LANES, K - k))


@inner
def _place(piece, H):
    """Where a piece's words begin among those of a layer: as if a row took as many as it has columns, and a vector."""
    return 4 * H * piece[0]


@thin
def of_layer(pairs, layer):
    """A layer's pairs, or None where there are none."""
    if pairs is None:
        return None
    return pairs[layer]


@thin
def pair_layers(pairs, net, H, share):
    """Write the member's pieces of the recurrent matrices, each with its weights to itself, into pairs, if any."""
    if pairs is None:
        return
    for layer in range(pairs.shape[0]):
        for q in range(share.q0, share.q1):
            N, j0 = 4 * share.pieces[q, 1], share.pieces[q, 0]
            w_at, to, row = net.offsets[3 * layer + 1] + 4 * H * j0, _place(share.pieces[q], H), words(N)
            for k in range(H):
                _pair_up(address(net.theta, w_at + k * N), address(pairs[layer], to + k * row), N)


@thin
def has_added_gates(pairs, h, h_at, z, z_at, H, piece):
    """A piece's gates, which begin at z[z_at], += those of a row h (H,) @ W_h; nothing, and False, without pairs."""
    if pairs is None:
        return False
    N = 4 * piece[1]
    _row_product(address(h, h_at), address(pairs, _place(piece, H)), words(N), address(z, z_at), H, N)
    return True


@thin
def has_flowed_back(pairs, dz, z_at, out, H, piece):
    """out (H,) = a piece's row of dz, which begins at dz[z_at], @ W_h'; nothing, and False, without pairs."""
    if pairs is None:
        return False
    N = 4 * piece[1]
    _dots(address(dz, z_at), address(pairs, _place(piece, H)), words(N), address(out, 0), H, N)
    return True
