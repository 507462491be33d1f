"""A whole model on the GPU: layers, readout and loss as lists of calls over buffers that one object owns."""

from typing import Any, NamedTuple

import cupy
import numpy as np

from kernels import spec
from kernels.gpu import layers
from kernels.gpu.launch import Call, each, launch, run
from kernels.gpu.matmul import empty, flat, product, zeros
from kernels.spec import Shape


class Model:
    """Passes over a model of fixed sizes; each pass reads theta in place, so it may change between passes.

    Parameters
    ----------
    theta : (N,)
    shape : Shape
    T, B : steps and streams
    first : first step whose prediction counts
    dropout : as for train_steps
    bfloat16 : whether products read copies rounded to bfloat16: of the recurrent matrices, or, where spec.is_mixed,
        of all matrices, states and gradients
    grad : (N,) buffer for the gradient; None if no backward pass is needed
    """

    def __init__(
        self, theta: Any, shape: Shape, T: int, B: int, *, first: int = 0, dropout: float = 0.0, bfloat16: bool = False,
        grad: Any = None,
    ) -> None:  # fmt: skip
        self.shape, self.grad = shape, grad
        self._real, self._first, self._scale = theta.dtype, first, theta.dtype.type(1 / (1 - dropout))
        V, H, L, cell, E = shape
        self.x = zeros((T + 1, B), np.int32)
        self.h = empty((L, T + 1, B, H), theta.dtype)
        row = spec.CELLS[cell]
        self.c = empty((L, T + 1 if row.has_c else 0, B, H), theta.dtype)
        self._gates = empty((L, *_planes(row.kept), T, B, row.gates * H), theta.dtype)
        self._embedded = empty((T, B, E), theta.dtype)
        self._dropped = empty((L, T, B, H) if dropout else (0, T, B, H), theta.dtype)
        self.masks = empty(self._dropped.shape, np.uint8)
        self._mixed = spec.is_mixed(bfloat16, B, cell, E)
        self._h_read = empty(self.h.shape, theta.dtype) if self._mixed else self.h
        self.logits = empty(((T - first) * B, V), theta.dtype)
        self._row_loss = empty((len(self.logits),), theta.dtype)
        self.loss_sum = empty((1,), np.float64)
        self._params = spec.params(theta, shape)
        self._read, self._copying = self._operands(bfloat16)
        self._forward = self._forward_calls()
        self._backward = [] if grad is None else self._loss_calls() + self._backward_calls()

    # ------------------------------------------------------------------------------------------------------ state
    def carry_in(self, h: Any, c: Any) -> None:
        """Set the initial state to h and c (L, B, H)."""
        self.h[:, 0] = h
        if self.c.size:
            self.c[:, 0] = c

    def carry_out(self, t: int, h: Any, c: Any) -> None:
        """Copy the state before step t to h and c; c stays unchanged if the cell has none."""
        h[...] = self.h[:, t]
        if self.c.size:
            c[...] = self.c[:, t]

    # ------------------------------------------------------------------------------------------------------ passes
    def forward(self) -> None:
        """Compute all states and logits from the ids in x and the initial state."""
        run(self._forward)

    def backward(self) -> None:
        """Compute the loss and the gradient, after :meth:`forward`; dlogits overwrite the logits."""
        run(self._backward)

    def calls(self) -> list[Call]:
        """The calls of :meth:`forward` and :meth:`backward`."""
        return self._forward + self._backward

    def loss(self) -> float:
        """The loss of the last :meth:`backward`; waits for the GPU."""
        return float(self.loss_sum.get()[0])

    def log_probs(self, out: Any) -> None:
        """Write log softmax(logits)[target] to out (T, B) float64, after :meth:`forward`."""
        rows, V = self.logits.shape
        launch("model", "log_probs", self._real, -(-rows // 8), self.logits, self.x[1:], out, rows, V)()

    # ------------------------------------------------------------------------------------------------------- calls
    def _rows_below(self, layer: int) -> Any:
        """Input of a layer: ids, their embedding, or the output of the layer below."""
        if layer == 0:
            return self.x[:-1] if self._params.embedding is None else self._embedded
        return self._passed_up(layer - 1)

    def _passed_up(self, layer: int) -> Any:
        return self._dropped[layer] if self._dropped.size else self._h_read[layer, 1:]

    def _cells(self, layer: int) -> Any:
        return self.c[layer] if self.c.size else None

    def _drop(self, layer: int, into: Any, values: Any) -> list[Call]:
        """Return the calls that apply dropout to (T, B, H)."""
        if not self._dropped.size:
            return []
        mask, n = self.masks[layer], np.int64(values.size)
        return [each("model", "dropped", self._real, values.size, values, mask, into, self._scale, n)]

    def _operands(self, bfloat16: bool) -> tuple["_Read", list[Call]]:
        """Return what products read, and the calls that round the parameters that they read."""
        params, copying = self._params, []

        def rounded(W: Any) -> Any:
            copy = empty(W.shape, self._real)
            copying.append(_rounded(W, copy))
            return copy

        of_layers = []
        for k, (layer, h) in enumerate(zip(params.layers, self._h_read, strict=True)):
            is_above = self._mixed and k > 0  # below it are ids, or an embedding that is not rounded
            W_x, W_h = rounded(layer.W_x) if is_above else layer.W_x, rounded(layer.W_h) if bfloat16 else layer.W_h
            of_layers.append(layers.Operands(W_x, W_h, h, self._mixed, is_above))
        return _Read(of_layers, rounded(params.W_y) if self._mixed else params.W_y), copying

    def _forward_calls(self) -> list[Call]:
        params, calls = self._params, [*self._copying]
        if params.embedding is not None:
            out = self._embedded
            sizes = (out.size // out.shape[2], out.shape[2])
            calls += [each("model", "embedded", self._real, out.size, self.x[:-1], params.embedding, out, *sizes)]
        for k, layer in enumerate(params.layers):
            if self._mixed:
                calls += [_rounded(self.h[k, 0], self._h_read[k, 0])]
            calls += layers.forward(
                self.shape.cell, self._rows_below(k), layer, self.h[k], self._cells(k), self._gates[k],
                self._read.layers[k],
            )  # fmt: skip
            calls += self._drop(k, self._dropped[k : k + 1], self.h[k, 1:])
            if self._mixed and self._dropped.size:
                calls += [_rounded(self._dropped[k], self._dropped[k])]
        rows, V = self.logits.shape
        read = flat(self._passed_up(len(params.layers) - 1)[self._first :])
        calls += [each("model", "repeated", self._real, self.logits.size, params.b_y, self.logits, rows, V)]
        return [*calls, product(read, self._read.W_y, self.logits, add=True, rounded=self._mixed)]

    def _loss_calls(self) -> list[Call]:
        rows, V = self.logits.shape
        targets = self.x[1:][self._first :]
        loss = launch(
            "model", "cross_entropy", self._real, -(-rows // 8), self.logits, targets, self._row_loss, rows, V
        )
        calls = [loss, launch("model", "sum_in_double", self._real, 1, self._row_loss, self.loss_sum, rows)]
        return [*calls, _rounded(self.logits, self.logits)] if self._mixed else calls

    def _backward_calls(self) -> list[Call]:
        params, grads, real = self._params, spec.params(self.grad, self.shape), self._real
        L, rows_of_h, B, H = self.h.shape
        T = rows_of_h - 1
        read = self._passed_up(L - 1)[self._first :]
        dh = zeros((T, B, H), real)  # of the last layer; steps that do not count stay zero
        below = empty((T, B, H), real)
        row = spec.CELLS[self.shape.cell]
        dz = empty((*_planes(row.planes), T, B, row.gates * H), real)
        carry = empty((2, B, H), real)
        table = empty((T * B, self.shape.vocab_size), real)
        calls = [
            product(flat(read), self.logits, grads.W_y, turn_a=True, rounded=self._mixed),
            layers.column_sums(self.logits, grads.b_y),
            product(self.logits, self._read.W_y, flat(dh[self._first :]), turn_b=True, rounded=self._mixed),
            layers.one_hot(self.x[:-1], table),
        ]
        for k in reversed(range(L)):
            rows = self._rows_below(k)
            dx = None if rows.ndim == 2 else below if k else empty(self._embedded.shape, real)
            states = (self.h[k], self._cells(k), self._gates[k])
            calls += [*self._drop(k, dh, dh), _cleared(carry)]
            calls += layers.backward(
                self.shape.cell, dh, rows, params.layers[k], states, dz, (carry[0], carry[1]), grads.layers[k], dx,
                table, self._read.layers[k],
            )  # fmt: skip
            dh = dx
        if params.embedding is not None:
            calls += [product(table, flat(dh), grads.embedding, turn_a=True)]
        return calls


class _Read(NamedTuple):
    """What the products of a model read."""

    layers: list[layers.Operands]
    W_y: Any


def _planes(count: int) -> tuple[int, ...]:
    """The leading axis of several matrices (T, B, ...), or no axis for one, as in the ops of a layer."""
    return () if count == 1 else (count,)


def _rounded(array: Any, out: Any) -> Call:
    """A call that rounds an array to bfloat16; out may be the array itself."""
    return each("model", "rounded_to_bfloat16", array.dtype, array.size, array, out, np.int64(array.size))


def _cleared(array: Any) -> Call:
    """A call that sets an array to zero."""
    return each("model", "cleared", array.dtype, array.size, array, np.int64(array.size))


def gather(ids: Any, starts: Any, steps: int, V: int) -> Any:
    """Return the input ids of all iterations, (n, steps, B) int32: ``ids[starts[n, b] + t]``.

    Raises
    ------
    ValueError
        ``ids: expected ids in [0, 71), got 71 at 7``, for the first id out of range among those that are read.
    """
    n, B = starts.shape
    x, bad = empty((n, steps, B), np.int32), cupy.asarray(np.array([np.iinfo(np.uint64).max], np.uint64))
    name = f"gather_ids_{ids.dtype.itemsize}"
    each("model", name, np.dtype(np.float32), x.size, ids, starts, x, bad, n, steps, B, V)()
    at = int(bad.get()[0])
    if at < len(ids):
        raise ValueError(f"ids: expected ids in [0, {V}), got {int(ids[at])} at {at}")
    return x
