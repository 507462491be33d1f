"""Register tiles: the innermost loops of every matrix product, written as vector instructions.

Numba has no vector types, and a loop over memory that it vectorises loads and stores its output again at every step.
A tile keeps a block of the output in registers while it runs through the whole contraction:

* :func:`axpy_tile`: ``out[r, n] += sum_k a[r, k] w[k, n]``, R rows by up to C vectors, one broadcast of a and a load
  of each vector of w for the multiply-adds of all rows. a has two strides of its own, so that ``a'`` costs nothing.
  The sums begin at zero and are added to the output at the end: small products added to a large number one by one
  would lose digits.
  There is a loop for each number of vectors, so that the narrow rest of a row costs no more than its width.
* :func:`dot_tile`: ``out[r, k] = sum_n a[r, n] w[k, n]``, as many running sums as a vector has lanes, which are
  transposed and added up together at the end: three instructions a sum instead of ten.

The last, incomplete vector of a row is loaded and stored under a mask. The order of additions depends on the tile, the
sizes and the vector width only, so a type of processor always gives the same bits.

Addresses are integers and strides count elements, because Numba's arrays would add checks.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.emit.vectors import I64, MASKS_ARE_CHEAP, TILE_VECTORS, VECTOR_BYTES, Vectors, loop, real_type

#: Rows of the largest tile for batches; vectors of the tile for a single row; rows of a tile of dot products.
TILE_ROWS = TILE_VECTORS // 3
ROW_VECTORS = 13
DOT_ROWS = 4 if VECTOR_BYTES >= 32 else 2


def each_width(builder: Any, vec: Vectors, C: int, N: Any, run: Callable[[int, list[Any]], None]) -> None:
    """Emit ``run(vectors, masks)`` for each number of vectors up to C, and a switch to the one that N elements need.

    All masks are None, except that of an incomplete last vector (of any last vector if masks are cheap). N is at
    least 1.
    """
    last = builder.sdiv(builder.sub(N, I64(1)), I64(vec.lanes))  # the last vector's number
    rest = builder.sub(N, builder.mul(last, I64(vec.lanes)))
    whole = builder.icmp_signed("==", rest, I64(vec.lanes)) if not MASKS_ARE_CHEAP else ir.Constant(ir.IntType(1), 0)
    end, never = builder.append_basic_block("end"), builder.append_basic_block("never")
    choice = builder.switch(builder.add(builder.mul(last, I64(2)), builder.zext(whole, I64)), never)
    builder.position_at_end(never)
    builder.unreachable()
    for vectors in range(1, C + 1):
        for is_whole in (0,) if MASKS_ARE_CHEAP else (0, 1):
            block = builder.append_basic_block(f"vectors{vectors}")
            choice.add_case(I64(2 * (vectors - 1) + is_whole), block)
            builder.position_at_end(block)
            run(vectors, [None] * (vectors - 1) + [None if is_whole else vec.mask(rest)])
            builder.branch(end)
    builder.position_at_end(end)


def products_of(
    builder: Any, vec: Vectors, R: int, vectors: int, masks: list[Any], a: Any, a_row: Any, a_k: Any, w: Any, w_k: Any,
    K: Any, sums: list[Any],
) -> list[Any]:  # fmt: skip
    """Emit the loop that adds a (R, K) @ w (K, vectors) to R * vectors sums, and return them."""

    def body(k: Any, sums: list[Any]) -> list[Any]:
        row = vec.element(w, builder.mul(k, w_k))
        loaded = [vec.load(vec.element(row, I64(c * vec.lanes)), masks[c]) for c in range(vectors)]
        column = vec.element(a, builder.mul(k, a_k))
        new = []
        for r in range(R):
            factor = vec.broadcast(builder.load(vec.element(column, builder.mul(I64(r), a_row))))
            new += [vec.multiply_add(factor, loaded[c], sums[r * vectors + c]) for c in range(vectors)]
        return new

    return loop(builder, K, sums, body)


@cache
def axpy_tile(R: int, C: int) -> Any:
    """``tile(zero, a, a_row, a_k, w, w_k, out, out_row, K, N)``: out (R, N) += a (R, K) @ w (K, N), N <= C vectors.

    zero is a number of the element type; N is at least 1.
    """

    @intrinsic
    def tile(typing, zero, a, a_row, a_k, w, w_k, out, out_row, K, N):
        signature = types.void(zero, types.uintp, types.intp, types.intp, types.uintp, types.intp,
                               types.uintp, types.intp, types.intp, types.intp)  # fmt: skip

        def emit(context, builder, signature, arguments):
            _, a, a_row, a_k, w, w_k, out, out_row, K, N = arguments
            vec = Vectors(builder, real_type(signature.args[0]))
            a, w, out = (builder.inttoptr(address, vec.real.as_pointer()) for address in (a, w, out))

            def run(vectors, masks):
                places = [
                    vec.element(out, builder.add(builder.mul(I64(r), out_row), I64(c * vec.lanes)))
                    for r in range(R)
                    for c in range(vectors)
                ]
                sums = products_of(builder, vec, R, vectors, masks, a, a_row, a_k, w, w_k, K, [vec.zero] * len(places))
                for n, (value, place) in enumerate(zip(sums, places, strict=True)):
                    mask = masks[n % vectors]
                    vec.store(builder.fadd(vec.load(place, mask), value), place, mask)

            each_width(builder, vec, C, N, run)
            return context.get_dummy_value()

        return signature, emit

    return tile


@cache
def dot_tile(R: int, split: int = 1) -> Any:
    """``tile(zero, a, a_row, w, w_row, out, out_row, N, K)``: out (R, K) = a (R, N) @ w (K, N)', R K split <= lanes.

    `split` divides each sum into that many partial sums over every `split`-th vector. Fewer rows of w are then read in
    parallel, as long rows require: rows 4 KiB apart share one set of the first-level cache, which holds eight of them.
    """

    @intrinsic
    def tile(typing, zero, a, a_row, w, w_row, out, out_row, N, K):
        signature = types.void(
            zero, types.uintp, types.intp, types.uintp, types.intp, types.uintp, types.intp, types.intp, types.intp
        )

        def emit(context, builder, signature, arguments):
            _, a, a_row, w, w_row, out, out_row, N, K = arguments
            vec = Vectors(builder, real_type(signature.args[0]))
            parts = min(split, vec.lanes)
            columns = vec.lanes // (R * parts)
            a, w, out = (builder.inttoptr(address, vec.real.as_pointer()) for address in (a, w, out))
            a_rows = [vec.element(a, builder.mul(I64(r), a_row)) for r in range(R)]
            beyond = builder.sub(K, I64(1))  # rows beyond the end of w are replaced by its last row
            w_rows = []
            for k in range(columns):
                there = builder.select(builder.icmp_signed("<", I64(k), K), I64(k), beyond)
                w_rows.append(vec.element(w, builder.mul(there, w_row)))
            span = R * columns  # sums of one part

            def add(at, sums, mask):
                left = [vec.load(vec.element(row, at), mask) for row in a_rows]
                right = [vec.load(vec.element(row, at), mask) for row in w_rows]
                return [vec.multiply_add(left[i // columns], right[i % columns], sums[i]) for i in range(span)]

            def add_parts(i, sums):
                new = []
                for part in range(parts):
                    at = builder.add(builder.mul(i, I64(parts * vec.lanes)), I64(part * vec.lanes))
                    new += add(at, sums[part * span : (part + 1) * span], None)
                return new

            def add_vector(i, sums):
                at = builder.add(done, builder.mul(i, lanes))
                return add(at, sums[:span], None) + sums[span:]

            def add_rest(i, sums):
                at = builder.mul(whole, lanes)
                return add(at, sums[:span], vec.mask(builder.sub(N, at))) + sums[span:]

            lanes = I64(vec.lanes)
            whole = builder.sdiv(N, lanes)
            turns = builder.sdiv(whole, I64(parts))
            sums = loop(builder, turns, [vec.zero] * vec.lanes, add_parts)
            done = builder.mul(turns, I64(parts * vec.lanes))
            if parts > 1:
                sums = loop(builder, builder.sub(whole, builder.mul(turns, I64(parts))), sums, add_vector)
            any_left = builder.icmp_signed("<", builder.mul(whole, lanes), N)
            sums = loop(builder, builder.zext(any_left, I64), sums, add_rest)
            totals, n = vec.totals(sums), vec.lanes
            while n > span:  # the partial sums are next to each other
                n //= 2
                halves = [vec.shuffle(totals, totals, [(k + h) % vec.lanes for k in range(vec.lanes)]) for h in (0, n)]
                totals = builder.fadd(*halves)
            for r in range(R):
                row = vec.part(columns)
                value = vec.shuffle(totals, totals, [r * columns + k for k in range(columns)])
                row.store(value, vec.element(out, builder.mul(I64(r), out_row)), row.mask(K))
            return context.get_dummy_value()

        return signature, emit

    return tile
