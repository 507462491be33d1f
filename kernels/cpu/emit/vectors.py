"""Vector instructions for Numba, which has no vector types: tiles.py and the steps of the cells are built from them.

:class:`Vectors` emits LLVM instructions on vectors as wide as the processor's: the same source becomes 512-, 256- or
128-bit code. Addresses come as integers and strides count elements, because Numba's arrays would add checks.

The last, incomplete vector of a row is loaded and stored under a mask if masks are cheap, as with AVX-512. AVX2 has
masked loads that need an instruction of their own and, on AMD's processors, masked stores that take many; SSE and NEON
have neither, and LLVM would branch for each lane. There, the last vector of a row begins earlier and overlaps the one
before, or it is shorter; only what is narrower than 16 bytes is left to masks.
"""

from collections.abc import Callable
from typing import Any

from llvmlite import ir
from numba import types
from numba.extending import intrinsic

from kernels.cpu.emit.processor import VECTORS

I64, _I32 = ir.IntType(64), ir.IntType(32)
_QUICK = ("contract", "reassoc", "nsz", "arcp", "afn")

VECTOR_BYTES, TILE_VECTORS = VECTORS
MASKS_ARE_CHEAP = VECTOR_BYTES == 64


@intrinsic
def stay_out_of_line(typing):
    """Forbid inlining of the calling function; otherwise its tiles would be compiled again for each caller."""

    def emit(context, builder, signature, arguments):
        builder.function.attributes.add("noinline")
        return context.get_dummy_value()

    return types.void(), emit


class Number:
    """An LLVM value, scalar or vector, with Python's operators; a product and a sum may become one instruction."""

    def __init__(self, builder: Any, value: Any) -> None:
        self.b, self.value = builder, value

    def like(self, other: Any) -> Any:
        """The LLVM value of `other`: a Number's, or a constant of this one's type."""
        if isinstance(other, Number):
            return other.value
        kind = self.value.type
        return ir.Constant(kind, [other] * kind.count if isinstance(kind, ir.VectorType) else other)

    def new(self, value: Any) -> "Number":
        """Wrap an LLVM value."""
        return Number(self.b, value)

    def __add__(self, other: Any) -> "Number":
        return self.new(self.b.fadd(self.value, self.like(other), flags=["contract"]))

    def __sub__(self, other: Any) -> "Number":
        return self.new(self.b.fsub(self.value, self.like(other), flags=["contract"]))

    def __rsub__(self, other: Any) -> "Number":
        return self.new(self.b.fsub(self.like(other), self.value, flags=["contract"]))

    def __mul__(self, other: Any) -> "Number":
        return self.new(self.b.fmul(self.value, self.like(other), flags=["contract"]))

    def __truediv__(self, other: Any) -> "Number":
        return self.new(self.b.fdiv(self.value, self.like(other)))

    def __rtruediv__(self, other: Any) -> "Number":
        return self.new(self.b.fdiv(self.like(other), self.value))

    __radd__, __rmul__ = __add__, __mul__

    def __neg__(self) -> "Number":
        return self.new(self.b.fneg(self.value))

    def over(self, other: "Number") -> "Number":
        """Divide by other, with an approximate reciprocal (or root) if that is faster."""
        return self.new(self.b.fdiv(self.value, other.value, flags=_QUICK))

    def root(self) -> "Number":
        """The square root, approximate in the same way."""
        return self.call("sqrt", flags=_QUICK)

    def at_least(self, bound: Any) -> "Number":
        """The larger of this and `bound`; NaN stays NaN."""
        return self._pick("<", bound)

    def at_most(self, bound: Any) -> "Number":
        """The smaller of this and `bound`; NaN stays NaN."""
        return self._pick(">", bound)

    def _pick(self, relation: str, bound: Any) -> "Number":
        limit = self.like(bound)
        return self.new(self.b.select(self.b.fcmp_ordered(relation, self.value, limit), limit, self.value))

    def call(self, name: str, *others: "Number", flags: tuple[str, ...] = ()) -> "Number":
        """Call an LLVM intrinsic such as fabs, with arguments of this type."""
        kind = self.value.type
        suffix = f"f{64 if self.is_double else 32}"
        if isinstance(kind, ir.VectorType):
            suffix = f"v{kind.count}{suffix}"
        function = self.b.module.declare_intrinsic(
            f"llvm.{name}.{suffix}", fnty=ir.FunctionType(kind, [kind] * (1 + len(others)))
        )
        return self.new(self.b.call(function, [self.value, *(other.value for other in others)], fastmath=flags))

    @property
    def is_double(self) -> bool:
        """Whether the element type is float64."""
        kind = self.value.type
        return isinstance(kind.element if isinstance(kind, ir.VectorType) else kind, ir.DoubleType)


class Vectors:
    """Emits vector instructions of one element type at the builder's position."""

    def __init__(self, builder: Any, real: Any, lanes: int = 0) -> None:
        self.b = builder
        self.real = real
        self.align = 4 if isinstance(real, ir.FloatType) else 8
        self.lanes = lanes or VECTOR_BYTES // self.align
        self.type = ir.VectorType(real, self.lanes)
        self.undefined = ir.Constant(self.type, ir.Undefined)
        self.zero = ir.Constant(self.type, [ir.Constant(real, 0.0)] * self.lanes)

    def part(self, lanes: int) -> "Vectors":
        """The same for shorter vectors."""
        return Vectors(self.b, self.real, lanes)

    def element(self, base: Any, index: Any) -> Any:
        """The address of an element."""
        return self.b.gep(base, [index])

    def _pointer(self, at: Any) -> Any:
        return self.b.bitcast(at, self.type.as_pointer())

    def load(self, at: Any, mask: Any = None) -> Any:
        """Load a vector; lanes outside the mask become zero."""
        if mask is None:
            return self.b.load(self._pointer(at), align=self.align)
        kind = ir.FunctionType(self.type, [self.type.as_pointer(), _I32, mask.type, self.type])
        function = self._intrinsic(f"llvm.masked.load.{self._name()}.p0", kind)
        return self.b.call(function, [self._pointer(at), _I32(self.align), mask, self.zero])

    def store(self, value: Any, at: Any, mask: Any = None) -> None:
        """Store a vector, or only its lanes under the mask."""
        if mask is None:
            self.b.store(value, self._pointer(at), align=self.align)
            return
        kind = ir.FunctionType(ir.VoidType(), [self.type, self.type.as_pointer(), _I32, mask.type])
        function = self._intrinsic(f"llvm.masked.store.{self._name()}.p0", kind)
        self.b.call(function, [value, self._pointer(at), _I32(self.align), mask])

    def broadcast(self, scalar: Any) -> Any:
        """A number in all lanes."""
        first = self.b.insert_element(self.undefined, scalar, _I32(0))
        return self.b.shuffle_vector(first, self.undefined, ir.Constant(ir.VectorType(_I32, self.lanes), None))

    def multiply_add(self, a: Any, b: Any, c: Any) -> Any:
        """a b + c, rounded once where the processor can."""
        return self.b.fadd(self.b.fmul(a, b, flags=["contract"]), c, flags=["contract"])

    def shuffle(self, a: Any, b: Any, lanes: list[int]) -> Any:
        """Select lanes by number from a, then b."""
        return self.b.shuffle_vector(a, b, ir.Constant(ir.VectorType(_I32, len(lanes)), lanes))

    def totals(self, vectors: list[Any]) -> Any:
        """The sums of as many vectors as there are lanes, as one vector; added pairwise, half the lanes at a time."""
        n, block = self.lanes, 128 // (self.align * 8)  # shuffles within 16 bytes are cheapest, so they come first
        group = 1
        while group < n:
            first: list[int] = []
            if group < block:  # from each block, the lower and the upper half, group by group from a and b in turn
                half = block // 2
                for at in range(0, n, block):
                    for k in range(0, half, group):
                        first += [at + k + j for j in range(group)] + [n + at + k + j for j in range(group)]
                second = [lane + half for lane in first]
            else:  # every second block of a, then of b
                blocks = range(0, n // block, 2)
                first = [side + k * block + j for side in (0, n) for k in blocks for j in range(block)]
                second = [lane + block for lane in first]
            pairs = zip(vectors[::2], vectors[1::2], strict=True)
            vectors = [self.b.fadd(self.shuffle(a, b, first), self.shuffle(a, b, second)) for a, b in pairs]
            group *= 2
        return vectors[0]

    def mask(self, count: Any) -> Any:
        """Lanes below `count`."""
        lanes = ir.VectorType(I64, self.lanes)
        first = self.b.insert_element(ir.Constant(lanes, ir.Undefined), count, _I32(0))
        zeros = ir.Constant(ir.VectorType(_I32, self.lanes), None)
        counts = self.b.shuffle_vector(first, ir.Constant(lanes, ir.Undefined), zeros)
        return self.b.icmp_unsigned("<", ir.Constant(lanes, list(range(self.lanes))), counts)

    def without_first(self, value: Any, count: Any) -> Any:
        """A vector with its first `count` lanes set to zero."""
        return self.b.select(self.mask(count), self.zero, value)

    def _name(self) -> str:
        return f"v{self.lanes}f{self.align * 8}"

    def _intrinsic(self, name: str, kind: Any) -> Any:
        module = self.b.module
        return module.globals.get(name) or ir.Function(module, kind, name)


def loop(builder: Any, count: Any, carried: list[Any], body: Callable[[Any, list[Any]], list[Any]]) -> list[Any]:
    """Emit ``for i in range(count): carried = body(i, carried)`` (count may be 0) and return what is carried out."""
    before, test = builder.block, builder.append_basic_block("test")
    inside, after = builder.append_basic_block("body"), builder.append_basic_block("after")
    builder.branch(test)
    builder.position_at_end(test)
    i = builder.phi(I64)
    i.add_incoming(I64(0), before)
    values = [builder.phi(value.type) for value in carried]
    for phi, value in zip(values, carried, strict=True):
        phi.add_incoming(value, before)
    builder.cbranch(builder.icmp_signed("<", i, count), inside, after)
    builder.position_at_end(inside)
    following = body(i, values)
    i.add_incoming(builder.add(i, I64(1)), builder.block)
    for phi, value in zip(values, following, strict=True):
        phi.add_incoming(value, builder.block)
    builder.branch(test)
    builder.position_at_end(after)
    return values


def real_type(zero: Any) -> Any:
    """The LLVM type of a number's Numba type."""
    return ir.FloatType() if zero == types.float32 else ir.DoubleType()


def for_each_vector(builder: Any, vec: Vectors, n: Any, body: Callable[[Any, Any], None]) -> None:
    """Emit body(at, mask) for each whole vector of n elements (mask None), and once with a mask for the rest."""
    _for_each(builder, [vec], n, lambda _, at, mask: body(at, mask))


def for_each_part(builder: Any, vec: Vectors, n: Any, body: Callable[[Vectors, Any, Any], None]) -> None:
    """Emit body(vec, at, mask) for each whole vector of n elements (mask None), and for the rest.

    The rest is one vector under a mask if masks are cheap; otherwise shorter vectors, each at most once, and a mask for
    what is narrower than 16 bytes.
    """
    parts = [vec]
    while not MASKS_ARE_CHEAP and parts[-1].lanes * vec.align > 16:
        parts.append(vec.part(parts[-1].lanes // 2))
    _for_each(builder, parts, n, body)


def _for_each(builder: Any, parts: list[Vectors], n: Any, body: Callable[[Vectors, Any, Any], None]) -> None:
    """Emit body for whole vectors, the first of `parts`, one of each other that fits, and the last one with a mask."""

    def run(part: Vectors, at: Any, mask: Any) -> list[Any]:
        body(part, at, mask)
        return []

    def once(part: Vectors, condition: Any, at: Any, mask: Any = None) -> Any:
        times = builder.zext(condition, I64)
        loop(builder, times, [], lambda _, __: run(part, at, mask and mask()))
        return times

    first, lanes = parts[0], I64(parts[0].lanes)
    whole = builder.sdiv(n, lanes)
    done = builder.mul(whole, lanes)
    loop(builder, whole, [], lambda i, _: run(first, builder.mul(i, lanes), None))
    for part in parts[1:]:
        size = I64(part.lanes)
        times = once(part, builder.icmp_signed(">=", builder.sub(n, done), size), done)
        done = builder.add(done, builder.mul(times, size))
    rest, last = builder.sub(n, done), parts[-1]
    once(last, builder.icmp_signed(">", rest, I64(0)), done, lambda: last.mask(rest))
