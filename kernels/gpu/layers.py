"""One layer on the GPU, forward and backward, as a list of calls: cuBLAS products and a kernel for each step, or, for
an LSTM that fits, one launch for all steps (persistent.py).

Buffers are fixed when the list is made, so that repeating a pass costs Python only its launches. The product with the
input is one product over all steps, and so are the gradients of the weights.
"""

from typing import Any, NamedTuple

from kernels.gpu import persistent
from kernels.gpu.launch import Call, each, launch
from kernels.gpu.matmul import flat, product
from kernels.spec import CELLS

_FILE = "cells"
_WIDE = 2**31  # cells from which cells.cu numbers them with 64 bits


class Operands(NamedTuple):
    """What the matrix products of a layer read: parameters and states, or copies of them rounded to bfloat16."""

    W_x: Any
    W_h: Any
    h: Any  # (T+1, B, H)
    mixed: bool = False  # whether W_h and h are rounded copies, and dz is rounded, too
    is_x_rounded: bool = False  # whether x is rounded and W_x a rounded copy


def forward(cell: str, x: Any, parameters: Any, h: Any, c: Any, gates: Any, read: Operands | None = None) -> list[Call]:
    """Return the calls that run a layer over all steps, from the state in h[0] (and c[0]) on.

    Parameters
    ----------
    cell : a name of spec.CELLS
    x : (T, B) int32 ids or (T, B, D) floats; read
    parameters : LayerParams or GRULayerParams; read
    h : (T+1, B, H); written, except h[0], which is read
    c : as h for an LSTM, else not used
    gates : LSTM (T, B, 4H); GRU (2, T, B, 3H); RNN not used; written
    read : what products read instead of parameters and h; its h is written, except h[0]; None for these themselves
    """
    W_x, W_h, of_h, mixed, is_x_rounded = read = read or Operands(parameters.W_x, parameters.W_h, h)
    T = len(h) - 1
    calls = _from_input(x, W_x, parameters[2], _z(cell, h, gates), is_x_rounded)
    if cell == "lstm" and (how := _in_one_launch(h, read)):
        return [*calls, persistent.forward(how, W_h, gates, c, h)]
    for t in range(T):
        at, made = of_h[t], (h[t + 1], of_h[t + 1])
        if cell == "lstm":
            calls += [product(at, W_h, gates[t], add=True, rounded=mixed)]
            calls += [_step("lstm_cell", mixed, gates[t], c[t], c[t + 1], *made)]
        elif cell == "gru":
            calls += [product(at, W_h, gates[1, t], rounded=mixed)]
            calls += [_step("gru_cell", mixed, gates[0, t], gates[1, t], parameters.b_h, h[t], *made)]
        else:
            calls += [product(at, W_h, h[t + 1], add=True, rounded=mixed), _step("rnn_cell", mixed, *made)]
    return calls


def _in_one_launch(h: Any, read: Operands) -> persistent.Layout | None:
    """How one launch runs all steps of an LSTM layer; None if it cannot."""
    steps, B, H = h.shape
    return None if read.mixed else persistent.layout(steps - 1, B, H, h.dtype)


def _z(cell: str, h: Any, gates: Any) -> Any:
    """The buffer (T, B, gates H) for x W_x + b: the first kept matrix of gates, or h[1:] if none is kept."""
    kept = CELLS[cell].kept
    return h[1:] if kept == 0 else gates if kept == 1 else gates[0]


def _step(name: str, mixed: bool, *arrays: Any) -> Call:
    """Return a call of a step's kernel; the last of `arrays`, or the first of a step back, is (B, H)."""
    B, H = (arrays[0] if name.endswith("back") else arrays[-1]).shape
    defines = ({"WIDE": 1} if B * H >= _WIDE else {}) | ({"MIXED": 1} if mixed else {})
    return each(_FILE, name, arrays[-1].dtype, B * H, *arrays, B, H, defines=defines)


def _from_input(x: Any, W_x: Any, bias: Any, out: Any, rounded: bool) -> list[Call]:
    """``out = x W_x + b`` over all steps."""
    columns = W_x.shape[1]
    rows = out.size // columns
    if x.ndim == 2:
        return [each("model", "table_rows", out.dtype, out.size, x, W_x, bias, out, rows, columns)]
    spread = each("model", "repeated", out.dtype, out.size, bias, out, rows, columns)
    return [spread, product(flat(x), W_x, flat(out), add=True, rounded=rounded)]


def backward(
    cell: str, dh: Any, x: Any, parameters: Any, states: tuple[Any, Any, Any], dz: Any, carry: tuple[Any, Any],
    grads: Any, dx: Any, one_hot: Any, read: Operands | None = None,
) -> list[Call]:  # fmt: skip
    """Return the calls that backpropagate through a layer.

    Parameters
    ----------
    cell, x, parameters, read : as for :func:`forward`; read
    dh : (T, B, H), gradient with respect to h[1:]; read before dx is written, so they may be the same
    states : h, c, gates, as :func:`forward` left them; read
    dz : shape of gates, for an RNN (T, B, H); written
    carry : dh_next and dc_next (B, H): gradients with respect to the last state, overwritten with those to the first
    grads : dW_x, dW_h and the biases' gradients; written
    dx : (T, B, D) if x holds floats; written
    one_hot : (T B, V) if x holds ids: their one-hot rows; read
    """
    h, c, gates = states
    dh_next, dc = carry
    read = read or Operands(parameters.W_x, parameters.W_h, h)
    mixed, calls = read.mixed, []
    how = _in_one_launch(h, read) if cell == "lstm" else None
    if how:
        calls += [persistent.backward(how, read.W_h, dh, gates, c, dz, dh_next, dc)]
    for t in () if how else reversed(range(len(dh))):
        if cell == "lstm":
            arrays: tuple[Any, ...] = (dh[t], dh_next, dc, gates[t], c[t], c[t + 1], dz[t])
        elif cell == "gru":
            arrays = (dh[t], dh_next, gates[0, t], gates[1, t], h[t], dz[0, t], dz[1, t])
        else:
            arrays = (dh[t], dh_next, h[t + 1], dz[t])
        calls += [_step(f"{cell}_cell_back", mixed, *arrays)]
        from_h = dz[1, t] if cell == "gru" else dz[t]
        calls += [product(from_h, read.W_h, dh_next, turn_b=True, add=cell == "gru", rounded=mixed)]
    sides = (dz[0], dz[1]) if cell == "gru" else (dz, dz)
    return calls + _weights(x, read, sides, grads, dx, one_hot)


def _weights(x: Any, read: Operands, sides: tuple[Any, Any], grads: Any, dx: Any, one_hot: Any) -> list[Call]:
    """Return the calls for dW_x, dW_h, the biases and dx, given the gradients (T, B, ...) of x W_x and of h W_h."""
    from_x, from_h = map(flat, sides)
    calls = [product(flat(read.h[:-1]), from_h, grads[1], turn_a=True, rounded=read.mixed)]
    if x.ndim == 2:
        calls += [product(one_hot, from_x, grads[0], turn_a=True, rounded=read.mixed)]
    else:
        calls += [product(flat(x), from_x, grads[0], turn_a=True, rounded=read.is_x_rounded)]
        calls += [product(from_x, read.W_x, flat(dx), turn_b=True, rounded=read.is_x_rounded)]
    return calls + [column_sums(side, bias) for side, bias in zip((from_x, from_h), grads[2:], strict=False)]


def column_sums(a: Any, out: Any) -> Call:
    """``out = a.sum(axis=0)`` of a matrix."""
    rows, columns = a.shape
    return launch("model", "column_sums", a.dtype, -(-columns // 32), a, out, rows, columns)


def one_hot(x: Any, out: Any) -> Call:
    """Return a call that writes out (T B, V), the one-hot row of each id."""
    return each("model", "one_hot", out.dtype, out.size, x, out, *out.shape)
