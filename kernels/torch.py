"""The kernels under PyTorch: LSTM, GRU and RNN modules in place of torch.nn's, for tensors on the CPU.

>>> from kernels.torch import LSTM  # doctest: +SKIP
>>> lstm = LSTM(10, 20, num_layers=2, batch_first=True)  # doctest: +SKIP

Each module is a subclass of torch.nn's: constructor, initial weights, names in the state_dict, arguments, packed
sequences, shapes and errors are PyTorch's own, and only the arithmetic is ours (tests/kernel/test_torch.py: results
within 1e-6 in float32, 1e-12 in float64, gradients within ten times that). Tensors are passed without a copy; the
matrices are transposed once a call. A layer uses up to torch.get_num_threads() threads, if it has work for them, and
any number gives the same bits. The backward pass needs its results unchanged, as PyTorch's does, and has no second
derivative.

What is missing raises ValueError: `proj_size`, ``nonlinearity="relu"``, and tensors that are not float32 or float64 on
the CPU. torch.compile leaves a function that calls a module uncompiled, as it does for torch.nn's. Importing this file
loads PyTorch; :mod:`kernels` does not import it.
"""

from functools import cache
from typing import Any

import numpy as np
import torch
from torch.autograd.function import once_differentiable
from torch.nn.utils.rnn import PackedSequence

import kernels
from kernels.spec import CELLS, LAYERS

_BLOCK = 64  # rows
#: Steps with the same number of streams, one after the other: how many steps, how many streams.
Stretches = list[tuple[int, int]]


@cache
def _ops() -> Any:
    return kernels.load(kernels.fastest())


class Layer(torch.autograd.Function):
    """One layer in one direction, for rows of input that are steps of one or more streams.

    ``Layer.apply(cell, stretches, x, h0, c0, W_x, W_h, b_x, b_h)`` returns (out, h_last) or, for an LSTM, (out, h_last,
    c_last), with PyTorch's weights: x (rows, D), h0 and c0 (B, H), W_x (G H, D), W_h (G H, H), both biases (G H,) or
    None; out (rows, H). A stream that is not in the last stretch ends with the last one that has it.
    """

    @staticmethod
    def forward(ctx: Any, cell: str, stretches: Stretches, *tensors: Any) -> Any:
        """Run the layer."""
        x, h0, c0, W_x, W_h, b_x, b_h = tensors
        run = getattr(_ops(), f"{cell}_forward")
        rows, H = _array(x), h0.shape[-1]
        states = [_array(each).copy() for each in (h0, c0) if each is not None]
        weights = (*(_turned_matrix(_array(each)) for each in (W_x, W_h)), *_biases(cell, b_x, b_h, W_h))
        out = np.empty((len(rows), H), rows.dtype) if len(stretches) > 1 else None
        caches, begin = [], 0
        for T, B in stretches:
            piece = rows[begin : begin + T * B].reshape(T, B, -1)
            *made, kept = run(piece, *(each[:B] for each in states), *weights, threads=torch.get_num_threads())
            for state, each in zip(states, made, strict=True):
                state[:B] = each[T]
            if out is None:
                out = made[0][1:].reshape(T * B, H)
            else:
                out[begin : begin + T * B] = made[0][1:].reshape(T * B, H)
            caches.append(kept)
            begin += T * B
        found = [torch.from_numpy(each) for each in (out, *states)]
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(x, W_x, W_h, found[0])  # so that PyTorch notices if one is changed meanwhile
        ctx.cell, ctx.stretches, ctx.caches, ctx.has_bias = cell, stretches, caches, b_x is not None
        return tuple(found)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dout: Any, *dlast: Any) -> Any:
        """Return the gradients of the tensors."""
        *_, out = ctx.saved_tensors
        run, grads_of = getattr(_ops(), f"{ctx.cell}_backward"), LAYERS[ctx.cell].grads
        dh = np.zeros_like(_array(out)) if dout is None else _array(dout)
        B, H = ctx.stretches[0][1], out.shape[1]
        carried = [np.zeros((B, H), dh.dtype) if each is None else _array(each).copy() for each in dlast]
        pieces, end, total = [], len(dh), None
        for (T, B), kept in zip(reversed(ctx.stretches), reversed(ctx.caches), strict=True):
            begin = end - T * B
            to = dh[begin:end].reshape(T, B, H)
            grads = run(to, kept, *(each[:B] for each in carried), threads=torch.get_num_threads())
            pieces.append(grads.dx.reshape(T * B, -1))
            for each, name in zip(carried, ("dh0", "dc0"), strict=False):
                each[:B] = getattr(grads, name)
            named = {name: getattr(grads, name) for name in grads_of._fields if name not in ("dx", "dh0", "dc0")}
            total = named if total is None else {name: total[name] + each for name, each in named.items()}
            end = begin
        assert total is not None
        dx = pieces[0] if len(pieces) == 1 else np.concatenate(pieces[::-1])
        dW_x, dW_h, *db = total.values()
        turned = (torch.from_numpy(_turned_matrix(each)) for each in (dW_x, dW_h))  # else PyTorch copies them itself
        biases = [torch.from_numpy(each) for each in (db[0], db[-1])] if ctx.has_bias else (None, None)
        states = [torch.from_numpy(each) for each in carried]
        return None, None, torch.from_numpy(dx), states[0], *(states[1:] or [None]), *turned, *biases


def _array(tensor: Any) -> Any:
    """A tensor's memory as a C-contiguous NumPy array."""
    return tensor.detach().contiguous().numpy()


def _turned_matrix(W: Any) -> Any:
    """The transpose of a matrix in an array of its own.

    Blocks of rows stay in the cache, which takes a third to a fifth of the time of NumPy's copy at once; PyTorch's own
    would leave its threads spinning on cores that the kernels use next.
    """
    out = np.empty(W.shape[::-1], W.dtype)
    for begin in range(0, len(W), _BLOCK):
        out[:, begin : begin + _BLOCK] = W[begin : begin + _BLOCK].T
    return out


def _biases(cell: str, b_x: Any, b_h: Any, W_h: Any) -> tuple[Any, ...]:
    """The biases of one of our layers: two, or their sum; zero if there are none."""
    if b_x is None:
        b_x = b_h = torch.zeros_like(W_h[:, 0])
    is_double = len(CELLS[cell].vectors) == 2
    return (_array(b_x), _array(b_h)) if is_double else (_array(b_x.detach() + b_h.detach()),)


class _Recurrent(torch.nn.RNNBase):
    """What the three modules have in common: everything of torch.nn's but the arithmetic."""

    cell: str

    @torch.compiler.disable
    def forward(self, input: Any, hx: Any = None) -> Any:
        """Run all layers: the arguments and results are those of torch.nn's module."""
        is_packed = isinstance(input, PackedSequence)
        parts: Any = input if is_packed else (input, None, None, None)
        x, sizes, to_sorted, from_sorted = parts
        weights = self.all_weights
        dtype = weights[0][0].dtype
        if torch.is_autocast_enabled("cpu"):  # PyTorch's would compute in bfloat16; the kernels have no such tensors
            x, hx = x.to(dtype), None if hx is None else _each(hx, lambda state: state.to(dtype))
        for what, tensor in (("weights", weights[0][0]), ("input", x)):
            if tensor.device.type != "cpu" or tensor.dtype not in (torch.float32, torch.float64):
                raise ValueError(
                    f"{what}: kernels.torch takes float32 or float64 on the CPU, got {tensor.dtype} on {tensor.device}"
                )
        is_single = not is_packed and x.dim() == 2  # one stream, without an axis for it
        if is_single:
            x, hx = x.unsqueeze(1), None if hx is None else _each(hx, lambda state: state.unsqueeze(1))
        elif not is_packed and self.batch_first and x.dim() == 3:
            x = x.transpose(0, 1)
        B = int(sizes[0]) if is_packed else x.shape[1] if x.dim() == 3 else 0
        if hx is None:
            zero = x.new_zeros(self.num_layers * (1 + self.bidirectional), B, self.hidden_size)
            hx = (zero, zero) if self.cell == "lstm" else zero
        elif to_sorted is not None:
            hx = _each(hx, lambda state: state.index_select(1, to_sorted))
        checked = x if is_packed or not self.batch_first else x.transpose(0, 1)
        self.check_forward_args(checked, hx, sizes)
        stretches = _stretches(sizes) if is_packed else [(x.shape[0], B)]
        rows, last = self._layers(x.reshape(-1, x.shape[-1]), hx, weights, stretches)
        if from_sorted is not None:
            last = _each(last, lambda state: state.index_select(1, from_sorted))
        if is_packed:
            return PackedSequence(rows, sizes, to_sorted, from_sorted), last
        out = rows.reshape(x.shape[0], B, -1)
        if is_single:
            return out.squeeze(1), _each(last, lambda state: state.squeeze(1))
        return (out.transpose(0, 1) if self.batch_first else out), last

    def _layers(self, rows: Any, hx: Any, weights: Any, stretches: Stretches) -> tuple[Any, Any]:
        """Run the layers over rows of input; return rows of output, and the states after their last steps."""
        directions, found = 1 + self.bidirectional, []
        states: Any = hx if self.cell == "lstm" else (hx,)
        turned = _turned(stretches) if self.bidirectional else None
        for k in range(self.num_layers):
            outs = []
            for n in range(directions):
                place = directions * k + n
                given = rows if n == 0 else rows[turned]
                h0, c0 = (states[0][place], states[1][place]) if self.cell == "lstm" else (states[0][place], None)
                biases = weights[place][2:4] if self.bias else (None, None)
                out, *last = Layer.apply(self.cell, stretches, given, h0, c0, *weights[place][:2], *biases)
                outs.append(out if n == 0 else out[turned])
                found.append(last)
            rows = outs[0] if directions == 1 else torch.cat(outs, dim=-1)
            if self.training and self.dropout and k < self.num_layers - 1:
                rows = torch.nn.functional.dropout(rows, self.dropout, training=True)
        ends = tuple(torch.stack(each) for each in zip(*found, strict=True))
        return rows, ends if self.cell == "lstm" else ends[0]


def _each(states: Any, change: Any) -> Any:
    return tuple(map(change, states)) if isinstance(states, tuple | list) else change(states)


def _stretches(sizes: Any) -> Stretches:
    """The stretches of a packed sequence with these batch sizes."""
    counts, steps = torch.unique_consecutive(sizes, return_counts=True)
    return list(zip(steps.tolist(), counts.tolist(), strict=True))


def _turned(stretches: Stretches) -> Any:
    """For each row of the streams, the row that takes its place when each stream runs backward from its own end."""
    sizes = np.repeat([B for _, B in stretches], [T for T, _ in stretches])
    begins = np.cumsum(sizes) - sizes
    lengths = (sizes[:, None] > np.arange(sizes[0])).sum(axis=0)
    t, b = np.repeat(np.arange(len(sizes)), sizes), np.concatenate([np.arange(size) for size in sizes])
    return torch.from_numpy(begins[lengths[b] - 1 - t] + b)


class LSTM(_Recurrent, torch.nn.LSTM):
    """torch.nn.LSTM on our kernels; see :mod:`kernels.torch` for what is missing.

    Raises
    ------
    ValueError
        For a `proj_size`, and at a call for tensors that are not float32 or float64 on the CPU.
    """

    cell = "lstm"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        torch.nn.LSTM.__init__(self, *args, **kwargs)
        if self.proj_size:
            raise ValueError(f"proj_size: kernels.torch.LSTM has no projection, got {self.proj_size}")


class GRU(_Recurrent, torch.nn.GRU):
    """torch.nn.GRU on our kernels; errors as :class:`LSTM`."""

    cell = "gru"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        torch.nn.GRU.__init__(self, *args, **kwargs)


class RNN(_Recurrent, torch.nn.RNN):
    """torch.nn.RNN with tanh on our kernels; errors as :class:`LSTM`, and for another nonlinearity."""

    cell = "rnn"

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        torch.nn.RNN.__init__(self, *args, **kwargs)
        if self.nonlinearity != "tanh":
            raise ValueError(f"nonlinearity: kernels.torch.RNN has 'tanh' alone, got {self.nonlinearity!r}")


__all__ = ["GRU", "LSTM", "RNN", "Layer"]
