"""Rounds float32 to bfloat16, in the layouts that matrix products read (pairs.py, amx.py).

A product contracts two numbers at a time, so a matrix that it reads along its columns is stored as pairs: a word of 32
bits holds the numbers of rows k (lower half) and k + 1 (upper half) of a column. Words come in panels of PANEL columns;
a panel holds its columns of all row pairs, one after the other. The other operand is stored in rows, padded to a
multiple of DEPTH_STEP numbers. Whatever is beyond the edge of a matrix is zero.

Rounding is to nearest, ties to even; NaN stays NaN.
"""

from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.emit.amx import IS_AMX
from kernels.cpu.emit.vectors import I64, VECTOR_BYTES, Vectors, for_each_vector

#: Columns of a panel: two tiles of AMX, or three vectors.
LANES = VECTOR_BYTES // 4
PANEL = 32 if IS_AMX else 3 * LANES
#: Rows of numbers are padded to a multiple of this.
DEPTH_STEP = 32

_I16, _I32 = ir.IntType(16), ir.IntType(32)
_NOTHING = ir.Constant(ir.VectorType(ir.IntType(1), LANES), [0] * LANES)


class Rounding(Vectors):
    """Vectors of float32 and of words, and their rounding."""

    def __init__(self, builder: Any) -> None:
        super().__init__(builder, ir.FloatType())
        self.words = ir.VectorType(_I32, self.lanes)

    def word(self, value: int) -> Any:
        """A number in all words."""
        return ir.Constant(self.words, [value] * self.lanes)

    def pointer(self, place: Any, kind: Any = None) -> Any:
        """Convert an address from an integer to a pointer."""
        return self.b.inttoptr(place, (kind or self.real).as_pointer())

    def rounded(self, value: Any) -> Any:
        """Round a vector; the upper halves of the resulting words hold bfloat16 numbers."""
        b = self.b
        bits = b.bitcast(value, self.words)
        odd = b.and_(b.lshr(bits, self.word(16)), self.word(1))
        nearest = b.add(b.add(bits, self.word(0x7FFF)), odd)
        return b.select(b.fcmp_unordered("uno", value, value), b.or_(bits, self.word(0x400000)), nearest)

    def real_of(self, words: Any) -> Any:
        """The float32 numbers of the words' upper halves."""
        return self.b.bitcast(self.b.and_(words, self.word(0xFFFF0000)), self.type)

    def store_halves(self, words: Any, at: Any) -> None:
        """Store the words' upper halves next to each other."""
        kind = ir.VectorType(_I16, self.lanes)
        self.b.store(
            self.b.trunc(self.b.lshr(words, self.word(16)), kind), self.b.bitcast(at, kind.as_pointer()), align=2
        )

    def joined(self, lower: Any, upper: Any) -> Any:
        """Words whose lower and upper halves are the upper halves of two vectors of words."""
        return self.b.or_(self.b.lshr(lower, self.word(16)), self.b.and_(upper, self.word(0xFFFF0000)))

    def store_words(self, words: Any, at: Any) -> None:
        """Store a vector of words."""
        self.b.store(words, self.b.bitcast(at, self.words.as_pointer()), align=4)

    def transposed(self, rows: list[Any]) -> list[Any]:
        """Transpose as many vectors of words as there are lanes."""
        bit = 1
        while bit < self.lanes:
            turned = []
            for i in range(self.lanes):
                lanes = []
                for lane in range(self.lanes):
                    source = lane & ~bit | (bit if i & bit else 0)
                    lanes.append(source + (self.lanes if lane & bit else 0))
                turned.append(self.shuffle(rows[i & ~bit], rows[i | bit], lanes))
            rows, bit = turned, 2 * bit
        return rows


@intrinsic
def round_row(typing, a, to, n):
    """Write a (n,) float32 as a row of bfloat16, rounded up to whole vectors."""

    def emit(context, builder, signature, arguments):
        vec = Rounding(builder)
        a, to, n = vec.pointer(arguments[0]), vec.pointer(arguments[1], _I16), arguments[2]

        def one(at, mask):
            vec.store_halves(vec.rounded(vec.load(vec.element(a, at), mask)), builder.gep(to, [at]))

        for_each_vector(builder, vec, n, one)
        return context.get_dummy_value()

    return types.void(types.uintp, types.uintp, types.intp), emit


@cache
def round_pair(has_second: bool, keeps_rows: bool) -> Any:
    """``tile(a, b, rows_a, rows_b, pairs, panel, begin, n)``: write two float32 rows (n,) as words in panels.

    `pairs` is the place of the row pair in the first panel, `panel` the distance of panels in words, and `begin`, a
    multiple of LANES, the number of the column that the rows' first number belongs to. With keeps_rows,
    the numbers are also written as rows of bfloat16, to rows_a and rows_b, and replaced by their rounded values.
    Without a second row, zeros take its place.
    """

    @intrinsic
    def tile(typing, a, b, rows_a, rows_b, pairs, panel, begin, n):
        def emit(context, builder, signature, arguments):
            vec = Rounding(builder)
            *places, panel, begin, n = arguments
            a, b = (vec.pointer(place) for place in places[:2])
            rows_a, rows_b = (vec.pointer(place, _I16) for place in places[2:4])
            pairs = vec.pointer(places[4], _I32)
            groups = PANEL // vec.lanes

            def one(at, mask):
                halves = []
                for source, row in ((a, rows_a), (b, rows_b))[: 2 if has_second else 1]:
                    place = vec.element(source, at)
                    words = vec.rounded(vec.load(place, mask))
                    if keeps_rows:
                        vec.store_halves(words, builder.gep(row, [at]))
                        vec.store(vec.real_of(words), place, mask)
                    halves.append(words)
                number = builder.udiv(builder.add(begin, at), I64(vec.lanes))
                column = builder.mul(builder.urem(number, I64(groups)), I64(vec.lanes))
                to = builder.add(builder.mul(builder.udiv(number, I64(groups)), panel), column)
                vec.store_words(
                    vec.joined(halves[0], halves[1] if has_second else vec.word(0)), builder.gep(pairs, [to])
                )

            for_each_vector(builder, vec, n, one)
            return context.get_dummy_value()

        place, number = types.uintp, types.intp
        return types.void(place, place, place, place, place, number, number, number), emit

    return tile


@intrinsic
def round_transposed(typing, w, w_row, rows, columns, to, stride):
    """Write words of the transpose of w, at most LANES rows and 2 LANES columns: word (j, n) holds w[n, 2j : 2j + 2].

    Words j are `stride` words apart. LANES words are written for each j below LANES, zeros beyond the edge.
    """

    def emit(context, builder, signature, arguments):
        vec = Rounding(builder)
        w, w_row, rows, columns, to, stride = arguments
        w, to = vec.pointer(w), vec.pointer(to, _I32)
        n = vec.lanes
        masks = [vec.mask(at_least_zero(builder, builder.sub(columns, I64(k * n)))) for k in range(2)]
        lower, upper = [2 * k for k in range(n)], [2 * k + 1 for k in range(n)]
        blocks = []
        for r in range(n):
            here = [builder.select(builder.icmp_signed("<", I64(r), rows), mask, _NOTHING) for mask in masks]
            row = vec.element(w, builder.mul(I64(r), w_row))
            halves = [vec.rounded(vec.load(vec.element(row, I64(k * n)), here[k])) for k in range(2)]
            evens, odds = (vec.shuffle(*halves, lanes) for lanes in (lower, upper))
            blocks.append(vec.joined(evens, odds))
        for j, words in enumerate(vec.transposed(blocks)):
            vec.store_words(words, builder.gep(to, [builder.mul(I64(j), stride)]))
        return context.get_dummy_value()

    place, number = types.uintp, types.intp
    return types.void(place, number, number, number, place, number), emit


def at_least_zero(builder: Any, count: Any) -> Any:
    """count, or 0 if that is more."""
    return builder.select(builder.icmp_signed("<", count, I64(0)), I64(0), count)


@intrinsic
def transpose_rows(typing, a, a_row, rows, to, to_row):
    """Write the transpose of a, at most 2 LANES rows and LANES columns of bfloat16; row j of the result has 2 LANES.

    What is beyond the edge in a's rows is read as well; beyond the last row, zeros are written.
    """

    def emit(context, builder, signature, arguments):
        vec = Rounding(builder)
        a, a_row, rows, to, to_row = arguments
        a, to = vec.pointer(a, _I16), vec.pointer(to, _I16)
        halves = ir.VectorType(_I16, vec.lanes)
        blocks = []
        for pair in range(vec.lanes):
            words = []
            for r in (2 * pair, 2 * pair + 1):
                is_row = builder.icmp_signed("<", I64(r), rows)
                at = builder.gep(a, [builder.mul(builder.select(is_row, I64(r), I64(0)), a_row)])
                loaded = builder.load(builder.bitcast(at, halves.as_pointer()), align=2)
                words.append(builder.select(is_row, builder.zext(loaded, vec.words), vec.word(0)))
            blocks.append(builder.or_(words[0], builder.shl(words[1], vec.word(16))))
        for j, words in enumerate(vec.transposed(blocks)):
            vec.store_words(words, builder.gep(to, [builder.mul(I64(j), to_row)]))
        return context.get_dummy_value()

    place, number = types.uintp, types.intp
    return types.void(place, number, number, place, number), emit
