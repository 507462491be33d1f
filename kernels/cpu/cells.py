"""The element-wise part of an LSTM step, forward and backward: each one pass over a row, all of it in registers.

Equations: kernels/spec.py. A row has n hidden units; its four blocks of gates lie `stride` elements apart.
"""

from typing import Any

from numba import types
from numba.extending import intrinsic

from kernels.cpu.activations import emit_sigmoid, emit_tanh
from kernels.cpu.vectors import I64, Number, Vectors, for_each_vector, real_type
from kernels.spec import GATE_F, GATE_G, GATE_I, GATE_O


class _Row:
    """Loads and stores numbers of one vector of a row, at arrays given by address."""

    def __init__(self, vec: Vectors, at: Any, mask: Any) -> None:
        self.vec, self.at, self.mask = vec, at, mask

    def _place(self, base: Any, offset: Any) -> Any:
        at = self.at if offset is None else self.vec.b.add(self.at, offset)
        return self.vec.element(base, at)

    def load(self, base: Any, offset: Any = None) -> Number:
        return Number(self.vec.b, self.vec.load(self._place(base, offset), self.mask))

    def store(self, value: Number, base: Any, offset: Any = None) -> None:
        self.vec.store(value.value, self._place(base, offset), self.mask)


def _blocks(builder: Any, stride: Any) -> list[Any]:
    """Offsets of the gates' blocks."""
    return [builder.mul(I64(gate), stride) for gate in range(4)]


@intrinsic
def cell_forward(typing, zero, z, stride, c_prev, c, h, n):
    """z (four blocks of n) becomes the activated gates; c and h (n,) are written. zero is of the element type."""
    address = types.uintp
    signature = types.void(zero, address, types.intp, address, address, address, types.intp)

    def emit(context, builder, signature, arguments):
        _, z, stride, c_prev, c, h, n = arguments
        vec = Vectors(builder, real_type(signature.args[0]))
        z, c_prev, c, h = (builder.inttoptr(place, vec.real.as_pointer()) for place in (z, c_prev, c, h))
        blocks = _blocks(builder, stride)

        def body(at, mask):
            row = _Row(vec, at, mask)
            i, f, o = (emit_sigmoid(row.load(z, blocks[gate])) for gate in (GATE_I, GATE_F, GATE_O))
            g = emit_tanh(row.load(z, blocks[GATE_G]))
            for gate, value in ((GATE_I, i), (GATE_F, f), (GATE_G, g), (GATE_O, o)):
                row.store(value, z, blocks[gate])
            cell = f * row.load(c_prev) + i * g
            row.store(cell, c)
            row.store(o * emit_tanh(cell), h)

        for_each_vector(builder, vec, n, body)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def cell_backward(typing, zero, dh, gates, stride, c_prev, c, dz, dh_next, dc_next, n):
    """dz (four blocks of n) is written, for the gradient dh + dh_next of h; dc_next (n,) becomes that of c_prev."""
    address = types.uintp
    signature = types.void(zero, address, address, types.intp, address, address, address, address, address, types.intp)

    def emit(context, builder, signature, arguments):
        _, dh, gates, stride, c_prev, c, dz, dh_next, dc_next, n = arguments
        vec = Vectors(builder, real_type(signature.args[0]))
        dh, gates, c_prev, c, dz, dh_next, dc_next = (
            builder.inttoptr(place, vec.real.as_pointer()) for place in (dh, gates, c_prev, c, dz, dh_next, dc_next)
        )
        blocks = _blocks(builder, stride)

        def body(at, mask):
            row = _Row(vec, at, mask)
            i, f, g, o = (row.load(gates, blocks[gate]) for gate in (GATE_I, GATE_F, GATE_G, GATE_O))
            tanh_c = emit_tanh(row.load(c))
            dh_t = row.load(dh) + row.load(dh_next)
            dc_t = row.load(dc_next) + dh_t * o * (1.0 - tanh_c * tanh_c)
            row.store(dc_t * g * i * (1.0 - i), dz, blocks[GATE_I])
            row.store(dc_t * row.load(c_prev) * f * (1.0 - f), dz, blocks[GATE_F])
            row.store(dc_t * i * (1.0 - g * g), dz, blocks[GATE_G])
            row.store(dh_t * tanh_c * o * (1.0 - o), dz, blocks[GATE_O])
            row.store(dc_t * f, dc_next)

        for_each_vector(builder, vec, n, body)
        return context.get_dummy_value()

    return signature, emit
