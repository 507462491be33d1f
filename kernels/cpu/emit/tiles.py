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

The last, incomplete vector of a row has a mask, or overlaps the one before (vectors.py). The order of additions depends
on the tile, the sizes and the vector width only, so a type of processor always gives the same bits.

Addresses are integers and strides count elements, because Numba's arrays would add checks.
"""

from collections.abc import Callable, Iterator
from functools import cache
from typing import Any, NamedTuple

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.emit.vectors import I64, MASKS_ARE_CHEAP, TILE_VECTORS, VECTOR_BYTES, Vectors, loop, real_type

#: Rows of the largest tile for batches; vectors of the tile for a single row; rows of a tile of dot products.
TILE_ROWS = TILE_VECTORS // 3
ROW_VECTORS = 13
DOT_ROWS = 4 if VECTOR_BYTES >= 32 else 2
#: Groups of sums in a tile of dot products, and in one of long rows, which needs several vectors of each row at a time.
#: With 128-bit vectors, one group has too few sums to hide the latency of additions.
DOT_GROUPS = 1 if VECTOR_BYTES >= 32 else TILE_VECTORS // 4
LONG_GROUPS = min(DOT_GROUPS, 4)


class Span(NamedTuple):
    """One vector of a tile: its first column, and its mask or None."""

    at: Any
    mask: Any


def each_width(builder: Any, vec: Vectors, C: int, N: Any, run: Callable[[int, list[Any]], None]) -> None:
    """Emit ``run(vectors, masks)`` for each number of vectors up to C, and a switch to the one that N elements need.

    All masks are None, except that of an incomplete last vector (of any last vector if masks are cheap). N is at
    least 1.
    """
    last, rest = _last_vector(builder, vec, N)
    whole = builder.icmp_signed("==", rest, I64(vec.lanes)) if not MASKS_ARE_CHEAP else ir.Constant(ir.IntType(1), 0)
    cases = [
        (vectors - 1, is_whole) for vectors in range(1, C + 1) for is_whole in ((0,) if MASKS_ARE_CHEAP else (0, 1))
    ]
    number = builder.add(builder.mul(last, I64(2)), builder.zext(whole, I64))
    for before, is_whole in _switch(builder, number, [(2 * n + is_whole, (n, is_whole)) for n, is_whole in cases]):
        run(before + 1, [None] * before + [None if is_whole else vec.mask(rest)])


def each_span(builder: Any, vec: Vectors, C: int, N: Any, run: Callable[[list[Span]], None]) -> None:
    """Like :func:`each_width`, emit ``run(spans)``; unless masks are cheap, the last span ends with the row.

    It then overlaps the one before, if the row is no whole number of vectors: whoever writes to a row reads its last
    span first. A row narrower than a vector has a mask in any case.
    """

    def masked(vectors: int, masks: list[Any]) -> None:
        run([Span(I64(c * vec.lanes), masks[c]) for c in range(vectors)])

    if MASKS_ARE_CHEAP:
        each_width(builder, vec, C, N, masked)
        return
    last, _ = _last_vector(builder, vec, N)
    for before in _switch(builder, last, [(n, n) for n in range(C)]):
        if before == 0:
            each_width(builder, vec, 1, N, masked)
        else:
            run([*(Span(I64(c * vec.lanes), None) for c in range(before)), Span(builder.sub(N, I64(vec.lanes)), None)])


def _last_vector(builder: Any, vec: Vectors, N: Any) -> tuple[Any, Any]:
    """The number of the last vector of N >= 1 elements, and how many of its lanes they fill."""
    last = builder.sdiv(builder.sub(N, I64(1)), I64(vec.lanes))
    return last, builder.sub(N, builder.mul(last, I64(vec.lanes)))


def _switch(builder: Any, number: Any, cases: list[tuple[int, Any]]) -> Iterator[Any]:
    """Emit a switch over `number`; yield each case's second item, with the builder where the case's code belongs."""
    end, never = builder.append_basic_block("end"), builder.append_basic_block("never")
    choice = builder.switch(number, never)
    builder.position_at_end(never)
    builder.unreachable()
    for value, case in cases:
        block = builder.append_basic_block("case")
        choice.add_case(I64(value), block)
        builder.position_at_end(block)
        yield case
        builder.branch(end)
    builder.position_at_end(end)


def products_of(
    builder: Any, vec: Vectors, R: int, spans: list[Span], a: Any, a_row: Any, a_k: Any, w: Any, w_k: Any, K: Any
) -> list[Any]:
    """Emit the loop that computes a (R, K) @ w (K, spans), and return the R * len(spans) sums."""

    def body(k: Any, sums: list[Any]) -> list[Any]:
        row = vec.element(w, builder.mul(k, w_k))
        loaded = [vec.load(vec.element(row, span.at), span.mask) for span in spans]
        column = vec.element(a, builder.mul(k, a_k))
        new = []
        for r in range(R):
            factor = vec.broadcast(builder.load(vec.element(column, builder.mul(I64(r), a_row))))
            new += [vec.multiply_add(factor, loaded[c], sums[r * len(spans) + c]) for c in range(len(spans))]
        return new

    return loop(builder, K, [vec.zero] * (R * len(spans)), body)


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

            def run(spans):
                sums = products_of(builder, vec, R, spans, a, a_row, a_k, w, w_k, K)
                for r in range(R):
                    row = vec.element(out, builder.mul(I64(r), out_row))
                    places = [vec.element(row, span.at) for span in spans]
                    last = vec.load(places[-1], spans[-1].mask)
                    for c, (span, place) in enumerate(zip(spans, places, strict=True)):
                        before = last if c == len(spans) - 1 else vec.load(place, span.mask)
                        vec.store(builder.fadd(before, sums[r * len(spans) + c]), place, span.mask)

            each_span(builder, vec, C, N, run)
            return context.get_dummy_value()

        return signature, emit

    return tile


@cache
def dot_tile(R: int, split: int = 1, groups: int = 1) -> Any:
    """``tile(zero, a, a_row, w, w_row, out, out_row, N, K)``: out (R, K) = a (R, N) @ w (K, N)'.

    A group is as many sums as a vector has lanes. `split` divides each sum into that many partial sums over every
    `split`-th vector. Fewer rows of w are then read in parallel, as long rows require: rows 4 KiB apart share one set
    of the first-level cache, which holds eight of them.

    A tile of one group has R K split <= lanes. With several groups, R K split is the number of their sums, and N is no
    less than the number of lanes.
    """

    @intrinsic
    def tile(typing, zero, a, a_row, w, w_row, out, out_row, N, K):
        signature = types.void(
            zero, types.uintp, types.intp, types.uintp, types.intp, types.uintp, types.intp, types.intp, types.intp
        )

        def emit(context, builder, signature, arguments):
            _, a, a_row, w, w_row, out, out_row, N, K = arguments
            vec = Vectors(builder, real_type(signature.args[0]))
            a, w, out = (builder.inttoptr(address, vec.real.as_pointer()) for address in (a, w, out))
            sums = _Sums(builder, vec, R, min(split, vec.lanes), groups)
            sums.add_rows(a, a_row, w, w_row, N, K)
            sums.write(out, out_row, K)
            return context.get_dummy_value()

        return signature, emit

    return tile


class _Sums:
    """The running sums of a tile of dot products."""

    def __init__(self, builder: Any, vec: Vectors, R: int, parts: int, groups: int) -> None:
        self.b, self.vec, self.R, self.parts, self.groups = builder, vec, R, parts, groups
        self.columns = vec.lanes // (R * parts)  # of a group
        self.span = R * self.columns  # sums of one part of a group
        self.sums = [vec.zero] * (vec.lanes * groups)

    def add_rows(self, a: Any, a_row: Any, w: Any, w_row: Any, N: Any, K: Any) -> None:
        """Emit the loops that add up all N products of each sum."""
        b, vec, parts = self.b, self.vec, self.parts
        left = [vec.element(a, b.mul(I64(r), a_row)) for r in range(self.R)]
        beyond = b.sub(K, I64(1))  # rows beyond the end of w are replaced by its last row
        right = []
        for k in range(self.columns * self.groups):
            there = b.select(b.icmp_signed("<", I64(k), K), I64(k), beyond)
            right.append(vec.element(w, b.mul(there, w_row)))

        def add(at: Any, sums: list[Any], part: int, loaded: Callable[[Any], Any]) -> list[Any]:
            x, y = ([loaded(vec.element(row, at)) for row in rows] for rows in (left, right))
            new = list(sums)
            for group in range(self.groups):
                first, column = group * vec.lanes + part * self.span, group * self.columns
                for i in range(self.span):
                    factors = x[i // self.columns], y[column + i % self.columns]
                    new[first + i] = vec.multiply_add(*factors, sums[first + i])
            return new

        def add_parts(i: Any, sums: list[Any]) -> list[Any]:
            for part in range(parts):
                at = b.add(b.mul(i, I64(parts * vec.lanes)), I64(part * vec.lanes))
                sums = add(at, sums, part, vec.load)
            return sums

        lanes = I64(vec.lanes)
        whole = b.sdiv(N, lanes)
        turns = b.sdiv(whole, I64(parts))
        sums = loop(b, turns, self.sums, add_parts)
        done = b.mul(turns, I64(parts * vec.lanes))
        if parts > 1:
            left_over = b.sub(whole, b.mul(turns, I64(parts)))
            sums = loop(b, left_over, sums, lambda i, s: add(b.add(done, b.mul(i, lanes)), s, 0, vec.load))
        end = b.mul(whole, lanes)
        any_left = b.icmp_signed("<", end, N)

        def add_masked(_: Any, sums: list[Any]) -> list[Any]:
            mask = vec.mask(b.sub(N, end))
            return add(end, sums, 0, lambda at: vec.load(at, mask))

        if not MASKS_ARE_CHEAP:  # the last vector overlaps the one before, whose lanes become zero
            fits, first = b.icmp_signed(">=", N, lanes), b.sub(N, lanes)
            again = b.sub(end, first)
            overlapping = b.zext(b.and_(any_left, fits), I64)
            sums = loop(
                b, overlapping, sums, lambda _, s: add(first, s, 0, lambda at: vec.without_first(vec.load(at), again))
            )
            any_left = b.and_(any_left, b.not_(fits))
        if MASKS_ARE_CHEAP or self.groups == 1:
            sums = loop(b, b.zext(any_left, I64), sums, add_masked)
        self.sums = sums

    def write(self, out: Any, out_row: Any, K: Any) -> None:
        """Emit the additions of each sum's lanes and parts, and the stores."""
        b, vec, row = self.b, self.vec, self.vec.part(self.columns)
        for group in range(self.groups):
            totals, n = vec.totals(self.sums[group * vec.lanes : (group + 1) * vec.lanes]), vec.lanes
            while n > self.span:  # the partial sums are next to each other
                n //= 2
                halves = [vec.shuffle(totals, totals, [(k + h) % vec.lanes for k in range(vec.lanes)]) for h in (0, n)]
                totals = b.fadd(*halves)
            values = [
                vec.shuffle(totals, totals, [r * self.columns + k for k in range(self.columns)]) for r in range(self.R)
            ]
            places = [vec.element(out, b.add(b.mul(I64(r), out_row), I64(group * self.columns))) for r in range(self.R)]
            self._store(row, values, places, K)

    def _store(self, row: Vectors, values: list[Any], places: list[Any], K: Any) -> None:
        def store(mask: Any) -> None:
            for value, place in zip(values, places, strict=True):
                row.store(value, place, mask)

        if MASKS_ARE_CHEAP:
            store(row.mask(K))
        elif self.groups > 1:
            store(None)
        else:
            with self.b.if_else(self.b.icmp_signed(">=", K, I64(self.columns))) as (then, otherwise):
                with then:
                    store(None)
                with otherwise:
                    store(row.mask(K))
