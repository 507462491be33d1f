"""One layer on the GPU, forward and backward, as a list of calls: cuBLAS products and a kernel for each step, or, for
an LSTM that fits, one launch for all steps (persistent.py).

Buffers are fixed when the list is made, so that repeating a pass costs Python only its launches. The product with the
input is one product over all steps, and so are the gradients of the weights.
"""

from typing import Any

from kernels.gpu import persistent
from kernels.gpu.launch import Call, each, launch
from kernels.gpu.matmul import flat, product
from kernels.spec import CELLS

_FILE = "cells"
_WIDE = 2**31  # cells from which cells.cu numbers them with 64 bits


def forward(cell: str, x: Any, parameters: Any, h: Any, c: Any, gates: Any, W_h: Any = None) -> list[Call]:
    """Return the calls that run a layer over all steps, from the state in h[0] (and c[0]) on.

    Parameters
    ----------
    cell : a name of spec.CELLS
    x : (T, B) int32 ids or (T, B, D) floats; read
    parameters : LayerParams or GRULayerParams; read
    h : (T+1, B, H); written, except h[0], which is read
    c : as h for an LSTM, else not used
    gates : LSTM (T, B, 4H); GRU (2, T, B, 3H); RNN not used; written
    W_h : copy of the recurrent matrix to be read in its place, or None
    """
    T, B, H = h.shape[0] - 1, h.shape[1], h.shape[2]
    W_h = parameters.W_h if W_h is None else W_h
    calls = _from_input(x, parameters, _z(cell, h, gates))
    if cell == "lstm" and (how := persistent.layout(T, B, H, h.dtype)):
        return [*calls, persistent.forward(how, W_h, gates, c, h)]
    for t in range(T):
        if cell == "lstm":
            calls += [product(h[t], W_h, gates[t], add=True), _step("lstm_cell", gates[t], c[t], c[t + 1], h[t + 1])]
        elif cell == "gru":
            calls += [product(h[t], W_h, gates[1, t])]
            calls += [_step("gru_cell", gates[0, t], gates[1, t], parameters.b_h, h[t], h[t + 1])]
        else:
            calls += [product(h[t], W_h, h[t + 1], add=True), _step("rnn_cell", h[t + 1])]
    return calls


def _z(cell: str, h: Any, gates: Any) -> Any:
    """The buffer (T, B, gates H) for x W_x + b: the first kept matrix of gates, or h[1:] if none is kept."""
    kept = CELLS[cell].kept
    return h[1:] if kept == 0 else gates if kept == 1 else gates[0]


def _step(name: str, *arrays: Any) -> Call:
    """Return a call of a step's kernel; the last of `arrays`, or the first of a step back, is (B, H)."""
    B, H = (arrays[0] if name.endswith("back") else arrays[-1]).shape
    defines = {"WIDE": 1} if B * H >= _WIDE else None
    return each(_FILE, name, arrays[-1].dtype, B * H, *arrays, B, H, defines=defines)


def _from_input(x: Any, parameters: Any, out: Any) -> list[Call]:
    """``out = x W_x + b`` over all steps."""
    W_x, bias = parameters.W_x, parameters[2]
    columns = W_x.shape[1]
    rows = out.size // columns
    if x.ndim == 2:
        return [each("model", "table_rows", out.dtype, out.size, x, W_x, bias, out, rows, columns)]
    spread = each("model", "repeated", out.dtype, out.size, bias, out, rows, columns)
    return [spread, product(flat(x), W_x, flat(out), add=True)]


def backward(
    cell: str, dh: Any, x: Any, parameters: Any, states: tuple[Any, Any, Any], dz: Any, carry: tuple[Any, Any],
    grads: Any, dx: Any, one_hot: Any, W_h: Any = None,
) -> list[Call]:  # fmt: skip
    """Return the calls that backpropagate through a layer.

    Parameters
    ----------
    cell, x, parameters, W_h : as for :func:`forward`; read
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
    W_h = parameters.W_h if W_h is None else W_h
    calls = []
    T, B, H = dh.shape
    how = persistent.layout(T, B, H, h.dtype) if cell == "lstm" else None
    if how:
        calls += [persistent.backward(how, W_h, dh, gates, c, dz, dh_next, dc)]
    for t in () if how else reversed(range(T)):
        if cell == "lstm":
            arrays: tuple[Any, ...] = (dh[t], dh_next, dc, gates[t], c[t], c[t + 1], dz[t])
        elif cell == "gru":
            arrays = (dh[t], dh_next, gates[0, t], gates[1, t], h[t], dz[0, t], dz[1, t])
        else:
            arrays = (dh[t], dh_next, h[t + 1], dz[t])
        calls += [_step(f"{cell}_cell_back", *arrays)]
        from_h = dz[1, t] if cell == "gru" else dz[t]
        calls += [product(from_h, W_h, dh_next, turn_b=True, add=cell == "gru")]
    sides = (dz[0], dz[1]) if cell == "gru" else (dz, dz)
    return calls + _weights(x, h, parameters.W_x, sides, grads, dx, one_hot)


def _weights(x: Any, h: Any, W_x: Any, sides: tuple[Any, Any], grads: Any, dx: Any, one_hot: Any) -> list[Call]:
    """Return the calls for dW_x, dW_h, the biases and dx, given the gradients (T, B, ...) of x W_x and of h W_h."""
    from_x, from_h = map(flat, sides)
    calls = [product(flat(h[:-1]), from_h, grads[1], turn_a=True)]
    if x.ndim == 2:
        calls += [product(one_hot, from_x, grads[0], turn_a=True)]
    else:
        calls += [product(flat(x), from_x, grads[0], turn_a=True), product(from_x, W_x, flat(dx), turn_b=True)]
    return calls + [column_sums(side, bias) for side, bias in zip((from_x, from_h), grads[2:], strict=False)]


def column_sums(a: Any, out: Any) -> Call:
    """``out = a.sum(axis=0)`` of a matrix."""
    rows, columns = a.shape
    return launch("model", "column_sums", a.dtype, -(-columns // 32), a, out, rows, columns)


def one_hot(x: Any, out: Any) -> Call:
    """Return a call that writes out (T B, V), the one-hot row of each id."""
    return each("model", "one_hot", out.dtype, out.size, x, out, *out.shape)
