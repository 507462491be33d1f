"""Register tiles: the innermost loops of every matrix product, written as vector instructions.

Numba has no vector types, and a loop over memory that it vectorises loads and stores its output again at every step.
A tile keeps a block of the output in registers while it runs through the whole contraction:

* :func:`axpy_tile`: ``out[r, n] += sum_k a[r, k] w[k, n]``, R rows by C vectors, one broadcast of a and C loads of w
  for R C multiply-adds. a has two strides of its own, so that ``a'`` costs nothing.
* :func:`dot_tile`: ``out[r, k] += sum_n a[r, n] w[k, n]``, R by K running sums of vectors, added up at the end.

The last, incomplete vector of a row is loaded and stored under a mask. The order of additions depends on the tile, the
sizes and the width of a vector alone: the same bits on the same type of processor.

Addresses are integers and strides count elements: Numba's arrays would bring their checks along.
"""

from functools import cache
from typing import Any

import llvmlite.binding as llvm
from llvmlite import ir
from numba import types
from numba.extending import intrinsic

_I64, _I32, _I1 = ir.IntType(64), ir.IntType(32), ir.IntType(1)


def vector_unit() -> tuple[int, int]:
    """Bytes of this processor's vectors, and how many a tile may keep in registers."""
    features = llvm.get_host_cpu_features()
    if features.get("avx512f"):
        return 64, 24
    return (32, 12) if features.get("avx") else (16, 12)


VECTOR_BYTES, TILE_VECTORS = vector_unit()


class _Vectors:
    """Emits vector instructions of one element type at the builder's place."""

    def __init__(self, builder: Any, real: Any) -> None:
        self.b = builder
        self.real = real
        self.lanes = VECTOR_BYTES // (4 if isinstance(real, ir.FloatType) else 8)
        self.type = ir.VectorType(real, self.lanes)
        self.align = VECTOR_BYTES // self.lanes
        self.undefined = ir.Constant(self.type, ir.Undefined)
        self.zero = ir.Constant(self.type, [ir.Constant(real, 0.0)] * self.lanes)

    def element(self, base: Any, index: Any) -> Any:
        return self.b.gep(base, [index])

    def _pointer(self, at: Any) -> Any:
        return self.b.bitcast(at, self.type.as_pointer())

    def load(self, at: Any, mask: Any = None) -> Any:
        if mask is None:
            return self.b.load(self._pointer(at), align=self.align)
        kind = ir.FunctionType(self.type, [self.type.as_pointer(), _I32, mask.type, self.type])
        function = self._intrinsic(f"llvm.masked.load.{self._name()}.p0", kind)
        return self.b.call(function, [self._pointer(at), _I32(self.align), mask, self.zero])

    def store(self, value: Any, at: Any, mask: Any = None) -> None:
        if mask is None:
            self.b.store(value, self._pointer(at), align=self.align)
            return
        kind = ir.FunctionType(ir.VoidType(), [self.type, self.type.as_pointer(), _I32, mask.type])
        function = self._intrinsic(f"llvm.masked.store.{self._name()}.p0", kind)
        self.b.call(function, [value, self._pointer(at), _I32(self.align), mask])

    def broadcast(self, scalar: Any) -> Any:
        first = self.b.insert_element(self.undefined, scalar, _I32(0))
        return self.b.shuffle_vector(first, self.undefined, ir.Constant(ir.VectorType(_I32, self.lanes), None))

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        return self.b.fadd(self.b.fmul(a, b, flags=["contract"]), c, flags=["contract"])

    def total(self, vector: Any) -> Any:
        kind = ir.FunctionType(self.real, [self.real, self.type])
        function = self._intrinsic(f"llvm.vector.reduce.fadd.{self._name()}", kind)
        return self.b.call(function, [ir.Constant(self.real, 0.0), vector], fastmath=["reassoc"])

    def mask(self, count: Any) -> Any:
        """Lanes below `count`."""
        lanes = ir.VectorType(_I64, self.lanes)
        first = self.b.insert_element(ir.Constant(lanes, ir.Undefined), count, _I32(0))
        zeros = ir.Constant(ir.VectorType(_I32, self.lanes), None)
        counts = self.b.shuffle_vector(first, ir.Constant(lanes, ir.Undefined), zeros)
        return self.b.icmp_unsigned("<", ir.Constant(lanes, list(range(self.lanes))), counts)

    def _name(self) -> str:
        return f"v{self.lanes}f{VECTOR_BYTES // self.lanes * 8}"

    def _intrinsic(self, name: str, kind: Any) -> Any:
        module = self.b.module
        return module.globals.get(name) or ir.Function(module, kind, name)


def _loop(builder: Any, count: Any, carried: list[Any], body: Any) -> list[Any]:
    """Emit ``for i in range(count): carried = body(i, carried)`` (count may be 0) and return what is carried out."""
    before, test = builder.block, builder.append_basic_block("test")
    inside, after = builder.append_basic_block("body"), builder.append_basic_block("after")
    builder.branch(test)
    builder.position_at_end(test)
    i = builder.phi(_I64)
    i.add_incoming(_I64(0), before)
    values = [builder.phi(value.type) for value in carried]
    for phi, value in zip(values, carried, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", i, count), inside, after)
    builder.position_at_end(inside)
    following = body(i, values)
    i.add_incoming(builder.add(i, _I64(1)), builder.block)
    for phi, value in zip(values, following, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(test)
    builder.position_at_end(after)
    return values


def _real(zero: Any) -> Any:
    return ir.FloatType() if zero == types.float32 else ir.DoubleType()


@cache
def axpy_tile(R: int, C: int, masked: bool = False) -> Any:
    """``tile(zero, a, a_row, a_k, w, w_k, out, out_row, K, columns)``: out (R, C vectors) += a (R, K) @ w (K, ...).

    zero is a number of the element type. `columns` counts the valid lanes of the one vector of a masked tile.
    """

    @intrinsic
    def tile(typing, zero, a, a_row, a_k, w, w_k, out, out_row, K, columns):
        signature = types.void(zero, types.uintp, types.intp, types.intp, types.uintp, types.intp,
                               types.uintp, types.intp, types.intp, types.intp)  # fmt: skip

        def emit(context, builder, signature, arguments):
            _, a, a_row, a_k, w, w_k, out, out_row, K, columns = arguments
            vec = _Vectors(builder, _real(signature.args[0]))
            a, w, out = (builder.inttoptr(address, vec.real.as_pointer()) for address in (a, w, out))
            mask = vec.mask(columns) if masked else None
            places = [
                vec.element(out, builder.add(builder.mul(_I64(r), out_row), _I64(c * vec.lanes)))
                for r in range(R)
                for c in range(C)
            ]

            def body(k, sums):
                row = vec.element(w, builder.mul(k, w_k))
                loaded = [vec.load(vec.element(row, _I64(c * vec.lanes)), mask) for c in range(C)]
                column = vec.element(a, builder.mul(k, a_k))
                new = []
                for r in range(R):
                    factor = vec.broadcast(builder.load(vec.element(column, builder.mul(_I64(r), a_row))))
                    new += [vec.multiply_add(factor, loaded[c], sums[r * C + c]) for c in range(C)]
                return new

            sums = _loop(builder, K, [vec.load(place, mask) for place in places], body)
            for value, place in zip(sums, places, strict=True):
                vec.store(value, place, mask)
            return context.get_dummy_value()

        return signature, emit

    return tile


@cache
def dot_tile(R: int, K: int) -> Any:
    """``tile(zero, a, a_row, w, w_row, out, out_row, N)``: out (R, K) += a (R, N) @ w (K, N)'."""

    @intrinsic
    def tile(typing, zero, a, a_row, w, w_row, out, out_row, N):
        signature = types.void(
            zero, types.uintp, types.intp, types.uintp, types.intp, types.uintp, types.intp, types.intp
        )

        def emit(context, builder, signature, arguments):
            _, a, a_row, w, w_row, out, out_row, N = arguments
            vec = _Vectors(builder, _real(signature.args[0]))
            a, w, out = (builder.inttoptr(address, vec.real.as_pointer()) for address in (a, w, out))
            a_rows = [vec.element(a, builder.mul(_I64(r), a_row)) for r in range(R)]
            w_rows = [vec.element(w, builder.mul(_I64(k), w_row)) for k in range(K)]

            def add(at, sums, mask):
                left = [vec.load(vec.element(row, at), mask) for row in a_rows]
                right = [vec.load(vec.element(row, at), mask) for row in w_rows]
                return [vec.multiply_add(left[i // K], right[i % K], sums[i]) for i in range(R * K)]

            lanes = _I64(vec.lanes)
            whole = builder.sdiv(N, lanes)
            sums = _loop(builder, whole, [vec.zero] * (R * K), lambda i, sums: add(builder.mul(i, lanes), sums, None))
            done = builder.mul(whole, lanes)
            left_over = builder.sub(N, done)
            any_left = builder.select(builder.icmp_signed(">", left_over, _I64(0)), _I64(1), _I64(0))
            mask = vec.mask(left_over)
            sums = _loop(builder, any_left, sums, lambda i, sums: add(done, sums, mask))
            for i, value in enumerate(sums):
                at = vec.element(out, builder.add(builder.mul(_I64(i // K), out_row), _I64(i % K)))
                builder.store(builder.fadd(builder.load(at), vec.total(value)), at)
            return context.get_dummy_value()

        return signature, emit

    return tile
