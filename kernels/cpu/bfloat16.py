"""Products of a single row with a matrix whose elements are rounded to bfloat16, the upper half of a float32.

At batch 1, a step's time is the time to read the recurrent matrix from the second-level cache. Half the bytes take half
the time, if widening is nearly free. Therefore one vector of words holds two vectors of a row: the lower halves of its
lanes hold column j, the upper halves column j + lanes, and widening takes one shift and one mask. Sums and the other
operand stay float32.

A row of N columns takes :func:`words` words of 32 bits; columns beyond N are zero. The summation order of a product of
one row depends only on N and the vector width.
"""

from typing import Any

import numpy as np
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.compiler import inner, thin
from kernels.cpu.emit.vectors import I64, TILE_VECTORS, VECTOR_BYTES, Vectors, loop, stay_out_of_line
from kernels.cpu.matmul import address
from kernels.spec import LAYERS

BLOCKS = len(LAYERS["lstm"].params._fields)  # parameter blocks of a layer: W_x, W_h and b

_LANES = VECTOR_BYTES // 4
_PAIRS = 7 if TILE_VECTORS >= 24 else 3  # per tile: twice as many sums, and the vectors being widened, fit in registers
_REAL, _WORD = ir.FloatType(), ir.IntType(32)


class _Pairs(Vectors):
    """Vectors of float32, and of words that hold two bfloat16 numbers each."""

    def __init__(self, builder: Any) -> None:
        super().__init__(builder, _REAL)
        self.words = ir.VectorType(_WORD, self.lanes)

    def pointer(self, place: Any) -> Any:
        """Convert an address from an integer to a pointer."""
        return self.b.inttoptr(place, self.real.as_pointer())

    def constant(self, value: int) -> Any:
        """A number in all words."""
        return ir.Constant(self.words, [value] * self.lanes)

    def widened(self, at: Any) -> tuple[Any, Any]:
        """Load a vector of words; return the two float32 vectors that it holds."""
        both = self.b.bitcast(self.load(at), self.words)
        lower, upper = self.b.shl(both, self.constant(16)), self.b.and_(both, self.constant(0xFFFF0000))
        return self.b.bitcast(lower, self.type), self.b.bitcast(upper, self.type)

    def rounded(self, value: Any) -> Any:
        """Round a vector to bfloat16 (nearest, ties to even), in the upper halves of the resulting words."""
        bits = self.b.bitcast(value, self.words)
        odd = self.b.and_(self.b.lshr(bits, self.constant(16)), self.constant(1))
        return self.b.add(self.b.add(bits, self.constant(0x7FFF)), odd)

    def lanes_below(self, count: Any) -> Any:
        """A mask of the first `count` lanes; count may be negative or larger than the number of lanes."""
        return self.mask(self.b.select(self.b.icmp_signed("<", count, I64(0)), I64(0), count))


@intrinsic
def _pair_up(typing, w, to, N):
    """Round a row w (N,) and write it as words."""

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
    """out (K,) = a (N,) @ w (K, N)', for K up to the number of lanes; w has rows of w_row words."""

    def emit(context, builder, signature, arguments):
        a, w, w_row, out, N, K = arguments
        vec = _Pairs(builder)
        a, w, out = vec.pointer(a), vec.pointer(w), vec.pointer(out)
        beyond = builder.sub(K, I64(1))  # rows beyond the end of w are replaced by its last row
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
    """Number of 32-bit words in a row of N columns."""
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
    """Begin of a piece's words in those of a layer; it reserves more than a row needs, so pieces never overlap."""
    return 4 * H * piece[0]


@thin
def of_layer(pairs, layer):
    """A layer's pairs, or None."""
    if pairs is None:
        return None
    return pairs[layer]


@thin
def pair_layers(pairs, net, H, share):
    """Round the thread's panels of the recurrent matrices to pairs, unless pairs is None."""
    if pairs is None:
        return
    for layer in range(pairs.shape[0]):
        for q in range(share.q0, share.q1):
            N, j0 = 4 * share.pieces[q, 1], share.pieces[q, 0]
            w_at, to, row = net.offsets[BLOCKS * layer + 1] + 4 * H * j0, _place(share.pieces[q], H), words(N)
            for k in range(H):
                _pair_up(address(net.theta, w_at + k * N), address(pairs[layer], to + k * row), N)


@thin
def has_added_gates(pairs, h, h_at, z, z_at, H, piece):
    """Add a piece's columns of h (H,) @ W_h to z[z_at:]; do nothing and return False if pairs is None."""
    if pairs is None:
        return False
    N = 4 * piece[1]
    _row_product(address(h, h_at), address(pairs, _place(piece, H)), words(N), address(z, z_at), H, N)
    return True


@thin
def has_flowed_back(pairs, dz, z_at, out, H, piece):
    """Write out (H,): a piece's row dz[z_at:] @ W_h'; do nothing and return False if pairs is None."""
    if pairs is None:
        return False
    N = 4 * piece[1]
    _dots(address(dz, z_at), address(pairs, _place(piece, H)), words(N), address(out, 0), H, N)
    return True
