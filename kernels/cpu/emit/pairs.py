"""Register tiles for products of bfloat16 with float32 sums, where the processor has no AMX.

One instruction of AVX512_BF16 multiplies two vectors of pairs and adds both products of a pair to a float32 sum: first
that of the upper halves (odd positions), then that of the lower ones, each addition rounded once; denormal numbers
count as zero. Elsewhere, pairs are widened to float32 and multiplied by two multiply-adds in the same order: the same
bits.
"""

from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.emit.amx import IS_AMX
from kernels.cpu.emit.processor import has
from kernels.cpu.emit.rounding import PANEL, Rounding
from kernels.cpu.emit.tiles import each_width
from kernels.cpu.emit.vectors import I64, VECTOR_BYTES, loop

#: Whether the processor multiplies pairs.
HAS_PAIRS = VECTOR_BYTES == 64 and has("avx512bf16")
#: Whether bfloat16 is multiplied faster than float32: on Intel's processors, pairs are not.
IS_FASTER = IS_AMX or (HAS_PAIRS and not has("amx-tile"))
_I32 = ir.IntType(32)


class Pairs(Rounding):
    """Vectors of words that hold pairs."""

    def add_products(self, a: Any, w: Any, total: Any) -> Any:
        """total + the products of the pairs a and w; a and w are what `operand` returned."""
        if HAS_PAIRS:
            kind = ir.FunctionType(self.type, [self.type, self.words, self.words])
            return self.b.call(self._intrinsic("llvm.x86.avx512bf16.dpbf16ps.512", kind), [total, a, w])
        for k in (1, 0):  # a product of two such numbers is exact in float32, so it does not matter whether they fuse
            total = self.multiply_add(a[k], w[k], total)
        return total

    def operand(self, words: Any) -> Any:
        """Words as add_products wants them: as they are, or widened."""
        if HAS_PAIRS:
            return words
        lower, upper = self.b.shl(words, self.word(16)), self.b.and_(words, self.word(0xFFFF0000))
        return self.b.bitcast(lower, self.type), self.b.bitcast(upper, self.type)

    def load_words(self, at: Any) -> Any:
        """Load a vector of words."""
        return self.b.load(self.b.bitcast(at, self.words.as_pointer()), align=4)

    def broadcast_word(self, at: Any) -> Any:
        """One word in all lanes."""
        undefined = ir.Constant(self.words, ir.Undefined)
        first = self.b.insert_element(undefined, self.b.load(at, align=4), _I32(0))
        return self.b.shuffle_vector(first, undefined, ir.Constant(ir.VectorType(_I32, self.lanes), None))


@cache
def pairs_tile(R: int) -> Any:
    """``tile(a, a_row, w, out, out_row, K, N)``: out (R, N) += a (R, K) @ w (K, N), N at most PANEL, K even.

    a has rows of bfloat16, w row pairs of PANEL words; a_row and out_row count elements.
    """

    @intrinsic
    def tile(typing, a, a_row, w, out, out_row, K, N):
        def emit(context, builder, signature, arguments):
            a, a_row, w, out, out_row, K, N = arguments
            vec = Pairs(builder)
            a, w = vec.pointer(a, ir.IntType(16)), vec.pointer(w, _I32)
            out = vec.pointer(out)
            rows = [builder.bitcast(builder.gep(a, [builder.mul(I64(r), a_row)]), _I32.as_pointer()) for r in range(R)]

            def run(vectors, masks):
                def body(k, sums):
                    row = builder.gep(w, [builder.mul(k, I64(PANEL))])
                    loaded = [
                        vec.operand(vec.load_words(builder.gep(row, [I64(c * vec.lanes)]))) for c in range(vectors)
                    ]
                    new = []
                    for r in range(R):
                        factor = vec.operand(vec.broadcast_word(builder.gep(rows[r], [k])))
                        new += [vec.add_products(factor, loaded[c], sums[r * vectors + c]) for c in range(vectors)]
                    return new

                sums = loop(builder, builder.sdiv(K, I64(2)), [vec.zero] * (R * vectors), body)
                for n, value in enumerate(sums):
                    r, c = divmod(n, vectors)
                    place = vec.element(out, builder.add(builder.mul(I64(r), out_row), I64(c * vec.lanes)))
                    vec.store(builder.fadd(vec.load(place, masks[c]), value), place, masks[c])

            each_width(builder, vec, 3, N, run)
            return context.get_dummy_value()

        place, number = types.uintp, types.intp
        return types.void(place, number, place, place, number, number, number), emit

    return tile
