"""The element-wise part of a step, forward and backward: each one pass over a row, all of it in registers.

Equations: kernels/spec/cells.py. A row has n hidden units; an LSTM's four blocks of gates lie `stride` elements apart,
a GRU's three n.
"""

from typing import Any

from numba import types
from numba.extending import intrinsic

from kernels.cpu.emit.activations import emit_sigmoid, emit_tanh
from kernels.cpu.emit.vectors import I64, Number, Vectors, for_each_vector, real_type
from kernels.spec import GATE_F, GATE_G, GATE_I, GATE_N, GATE_O, GATE_R, GATE_Z


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


def _blocks(builder: Any, stride: Any, gates: int = 4) -> list[Any]:
    """Offsets of the gates' blocks."""
    return [builder.mul(I64(gate), stride) for gate in range(gates)]


# ------------------------------------------------------------------------------------------------------------ LSTM
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


# ------------------------------------------------------------------------------------------------------------- RNN
@intrinsic
def rnn_forward(typing, zero, h, n):
    """h (n,), the argument of tanh, becomes the state."""
    signature = types.void(zero, types.uintp, types.intp)

    def emit(context, builder, signature, arguments):
        _, h, n = arguments
        vec = Vectors(builder, real_type(signature.args[0]))
        h = builder.inttoptr(h, vec.real.as_pointer())

        def body(at, mask):
            row = _Row(vec, at, mask)
            row.store(emit_tanh(row.load(h)), h)

        for_each_vector(builder, vec, n, body)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def rnn_backward(typing, zero, dh, h, dz, dh_next, n):
    """dz (n,) is written, for the gradient dh + dh_next of h."""
    address = types.uintp
    signature = types.void(zero, address, address, address, address, types.intp)

    def emit(context, builder, signature, arguments):
        _, dh, h, dz, dh_next, n = arguments
        vec = Vectors(builder, real_type(signature.args[0]))
        dh, h, dz, dh_next = (builder.inttoptr(place, vec.real.as_pointer()) for place in (dh, h, dz, dh_next))

        def body(at, mask):
            row = _Row(vec, at, mask)
            state = row.load(h)
            row.store((row.load(dh) + row.load(dh_next)) * (1.0 - state * state), dz)

        for_each_vector(builder, vec, n, body)
        return context.get_dummy_value()

    return signature, emit


# ------------------------------------------------------------------------------------------------------------- GRU
@intrinsic
def gru_forward(typing, zero, a, s, h_prev, h, n):
    """a (three blocks of n) becomes the activated gates, s is that of the recurrent side; h (n,) is written."""
    address = types.uintp
    signature = types.void(zero, address, address, address, address, types.intp)

    def emit(context, builder, signature, arguments):
        _, a, s, h_prev, h, n = arguments
        vec = Vectors(builder, real_type(signature.args[0]))
        a, s, h_prev, h = (builder.inttoptr(place, vec.real.as_pointer()) for place in (a, s, h_prev, h))
        blocks = _blocks(builder, n, 3)

        def body(at, mask):
            row = _Row(vec, at, mask)
            r, z = (emit_sigmoid(row.load(a, blocks[g]) + row.load(s, blocks[g])) for g in (GATE_R, GATE_Z))
            new = emit_tanh(row.load(a, blocks[GATE_N]) + r * row.load(s, blocks[GATE_N]))
            for gate, value in ((GATE_R, r), (GATE_Z, z), (GATE_N, new)):
                row.store(value, a, blocks[gate])
            row.store((1.0 - z) * new + z * row.load(h_prev), h)

        for_each_vector(builder, vec, n, body)
        return context.get_dummy_value()

    return signature, emit


@intrinsic
def gru_backward(typing, zero, dh, gates, s, h_prev, da, ds, dh_next, kept, n):
    """da and ds (three blocks of n) are written, for the gradient dh + dh_next + kept of h; kept becomes dh z."""
    address = types.uintp
    signature = types.void(zero, *[address] * 8, types.intp)

    def emit(context, builder, signature, arguments):
        vec = Vectors(builder, real_type(signature.args[0]))
        *places, n = arguments[1:]
        dh, gates, s, h_prev, da, ds, dh_next, kept = (
            builder.inttoptr(place, vec.real.as_pointer()) for place in places
        )
        blocks = _blocks(builder, n, 3)

        def body(at, mask):
            row = _Row(vec, at, mask)
            r, z, new = (row.load(gates, blocks[gate]) for gate in (GATE_R, GATE_Z, GATE_N))
            dh_t = row.load(dh) + row.load(dh_next) + row.load(kept)
            da_n = dh_t * (1.0 - z) * (1.0 - new * new)
            da_z = dh_t * (row.load(h_prev) - new) * z * (1.0 - z)
            da_r = da_n * row.load(s, blocks[GATE_N]) * r * (1.0 - r)
            for gate, value in ((GATE_R, da_r), (GATE_Z, da_z)):
                row.store(value, da, blocks[gate])
                row.store(value, ds, blocks[gate])
            row.store(da_n, da, blocks[GATE_N])
            row.store(da_n * r, ds, blocks[GATE_N])
            row.store(dh_t * z, kept)

        for_each_vector(builder, vec, n, body)
        return context.get_dummy_value()

    return signature, emit
