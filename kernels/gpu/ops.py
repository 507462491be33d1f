"""The public ops: every op of spec.OPS for arrays on the GPU.

Array arguments are CuPy arrays, or anything else in GPU memory that has ``__cuda_array_interface__`` or DLPack, used
without a copy. NumPy arrays are refused, as by CuPy itself; :mod:`kernels.gpu.host` takes those. Results are CuPy
arrays. Work is queued on the current stream. `threads` has no effect here, and a `workspace` is only checked, because
CuPy reuses freed memory by itself.
"""

from functools import wraps
from inspect import BoundArguments, Signature, signature
from typing import Any

import cupy
import numpy as np

from kernels import spec
from kernels.gpu import layers, optimizers, small, training
from kernels.gpu.failures import in_one_line
from kernels.gpu.launch import DEVICE, launch, on_device, run
from kernels.gpu.matmul import empty
from kernels.gpu.model import Model
from kernels.spec import (
    Cache,
    Grads,
    GRUCache,
    GRUGrads,
    LSTMCache,
    LSTMGrads,
    RNNCache,
    RNNGrads,
    Shape,
    Workspace,
    checks,
)
from kernels.spec.many import or_several_models
from kernels.spec.updates import optimizer_ops

#: Arguments that are arrays, or tuples of them.
_ARRAYS = {name.partition(".")[0] for arrays in checks.ARRAYS.values() for name in arrays}


def bound(op: Any, parameters: Signature, args: Any, kwargs: Any) -> BoundArguments:
    """Return the arguments of a call by name; an argument that the op does not take is the TypeError of such a call."""
    try:
        return parameters.bind(*args, **kwargs)
    except TypeError as error:
        raise TypeError(f"{op.__name__}() {error}") from None


def _taking_device_arrays(op: Any) -> Any:
    """Decorator that converts array arguments in GPU memory to CuPy arrays."""
    parameters = signature(op)

    def taken(name: str, value: Any) -> Any:
        if isinstance(value, tuple):  # a cache, gradients, buffers
            arrays = (taken(name, part) for part in value)
            return type(value)(*arrays) if hasattr(value, "_fields") else tuple(arrays)
        return on_device(name, value)

    @wraps(op)
    def checked(*args: Any, **kwargs: Any) -> Any:
        given = bound(op, parameters, args, kwargs)
        with in_one_line():
            for name, value in given.arguments.items():
                if name in _ARRAYS:
                    given.arguments[name] = taken(name, value)
            return op(*given.args, **given.kwargs)

    return checked


# --------------------------------------------------------------------------------------------------------- one layer
@_taking_device_arrays
def lstm_forward(
    x: Any,
    h0: Any,
    c0: Any,
    W_x: Any,
    W_h: Any,
    b: Any,
    *,
    lengths: Any = None,
    reverse: bool = False,
    threads: int = 1,
    out: tuple[Any, Any, Any] | None = None,
) -> tuple[Any, Any, Cache]:
    """Run one LSTM layer over T steps and B streams, as :func:`kernels.reference.lstm_forward`."""
    sizes = checks.forward("lstm", x, (h0, c0), W_x, W_h, (b,), lengths, reverse, threads, out, DEVICE).sizes
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    dims = ((T + 1, B, H), (T + 1, B, H), (T, B, 4 * H))
    h, c, gates = out or (empty(each, h0.dtype) for each in dims)
    h[0], c[0] = h0, c0
    run(layers.forward("lstm", x, spec.LayerParams(W_x, W_h, b), h, c, gates))
    return h, c, LSTMCache(x, h, c, gates, W_x, W_h)


@_taking_device_arrays
def lstm_backward(
    dh: Any,
    cache: Cache,
    dh_last: Any = None,
    dc_last: Any = None,
    *,
    threads: int = 1,
    out: Grads | None = None,
    dz: Any = None,
) -> Grads:
    """Backpropagate through one LSTM layer, as :func:`kernels.reference.lstm_backward`."""
    checks.backward("lstm", dh, cache, (dh_last, dc_last), threads, out, dz, DEVICE)
    x, h, c, gates, W_x, W_h, *_ = cache
    if out is None:
        out = LSTMGrads(_like_floats(x), *map(cupy.empty_like, (h[0], c[0], W_x, W_h, W_x[0])))
    out.dc0[...] = 0 if dc_last is None else dc_last
    _backward("lstm", dh, cache, (h, c, gates), dh_last, out, dz, out.dc0, out[3:])
    return out


@_taking_device_arrays
def rnn_forward(
    x: Any, h0: Any, W_x: Any, W_h: Any, b: Any, *, lengths: Any = None, reverse: bool = False,
    threads: int = 1, out: Any = None,
) -> tuple[Any, Cache]:  # fmt: skip
    """Run one plain RNN layer, as :func:`kernels.reference.rnn_forward`."""
    sizes = checks.forward("rnn", x, (h0,), W_x, W_h, (b,), lengths, reverse, threads, out, DEVICE).sizes
    h = empty((sizes["T"] + 1, *h0.shape), h0.dtype) if out is None else out
    h[0] = h0
    run(layers.forward("rnn", x, spec.LayerParams(W_x, W_h, b), h, None, h))
    return h, RNNCache(x, h, W_x, W_h)


@_taking_device_arrays
def rnn_backward(
    dh: Any, cache: Cache, dh_last: Any = None, *, threads: int = 1, out: Grads | None = None, dz: Any = None
) -> Grads:
    """Backpropagate through one plain RNN layer, as :func:`kernels.reference.rnn_backward`."""
    checks.backward("rnn", dh, cache, (dh_last,), threads, out, dz, DEVICE)
    x, h, W_x, W_h, *_ = cache
    if out is None:
        out = RNNGrads(_like_floats(x), *map(cupy.empty_like, (h[0], W_x, W_h, W_x[0])))
    _backward("rnn", dh, cache, (h, None, h[1:]), dh_last, out, dz, None, out[2:])
    return out


@_taking_device_arrays
def gru_forward(
    x: Any,
    h0: Any,
    W_x: Any,
    W_h: Any,
    b_x: Any,
    b_h: Any,
    *,
    lengths: Any = None,
    reverse: bool = False,
    threads: int = 1,
    out: tuple[Any, Any] | None = None,
) -> tuple[Any, Cache]:
    """Run one GRU layer over T steps and B streams, as :func:`kernels.reference.gru_forward`."""
    sizes = checks.forward("gru", x, (h0,), W_x, W_h, (b_x, b_h), lengths, reverse, threads, out, DEVICE).sizes
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    h, gates = out or (empty((T + 1, B, H), h0.dtype), empty((2, T, B, 3 * H), h0.dtype))
    h[0] = h0
    run(layers.forward("gru", x, spec.GRULayerParams(W_x, W_h, b_x, b_h), h, None, gates))
    return h, GRUCache(x, h, gates, W_x, W_h)


@_taking_device_arrays
def gru_backward(
    dh: Any, cache: Cache, dh_last: Any = None, *, threads: int = 1, out: Grads | None = None, dz: Any = None
) -> Grads:
    """Backpropagate through one GRU layer, as :func:`kernels.reference.gru_backward`."""
    checks.backward("gru", dh, cache, (dh_last,), threads, out, dz, DEVICE)
    x, h, gates, W_x, W_h, *_ = cache
    if out is None:
        out = GRUGrads(_like_floats(x), *map(cupy.empty_like, (h[0], W_x, W_h, W_x[0], W_x[0])))
    _backward("gru", dh, cache, (h, None, gates), dh_last, out, dz, None, out[2:])
    return out


def lnlstm_forward(
    x: Any, h0: Any, c0: Any, W_x: Any, W_h: Any, b: Any, gain_x: Any, gain_h: Any, gain_c: Any, b_c: Any, *,
    lengths: Any = None, reverse: bool = False, threads: int = 1, out: tuple[Any, Any, Any] | None = None,
) -> Any:  # fmt: skip
    """Raise ValueError: this backend has no layer-normalised LSTM."""
    return checks.forward(
        "lnlstm", x, (h0, c0), W_x, W_h, (b, gain_x, gain_h, gain_c, b_c), lengths, reverse, threads, out, DEVICE
    )


def lnlstm_backward(
    dh: Any,
    cache: Cache,
    dh_last: Any = None,
    dc_last: Any = None,
    *,
    threads: int = 1,
    out: Grads | None = None,
    dz: Any = None,
) -> Any:
    """Raise ValueError: this backend has no layer-normalised LSTM."""
    return checks.backward("lnlstm", dh, cache, (dh_last, dc_last), threads, out, dz, DEVICE)


@_taking_device_arrays
def lstm_step(x: Any, h: Any, c: Any, W_x: Any, W_h: Any, b: Any, *, out: tuple[Any, Any, Any] | None = None) -> Any:
    """Run one step of an LSTM layer, as :func:`kernels.reference.lstm_step`, with buffers of its own."""
    checks.step("lstm", x, (h, c), W_x, W_h, (b,), out, DEVICE)
    *after, _ = lstm_forward(x[None], h, c, W_x, W_h, b)
    return _stepped(after, out)


@_taking_device_arrays
def rnn_step(x: Any, h: Any, W_x: Any, W_h: Any, b: Any, *, out: Any = None) -> Any:
    """Run one step of a plain RNN layer, as :func:`kernels.reference.rnn_step`, with buffers of its own."""
    checks.step("rnn", x, (h,), W_x, W_h, (b,), out, DEVICE)
    *after, _ = rnn_forward(x[None], h, W_x, W_h, b)
    return _stepped(after, None if out is None else (out,))[0]


@_taking_device_arrays
def gru_step(x: Any, h: Any, W_x: Any, W_h: Any, b_x: Any, b_h: Any, *, out: tuple[Any, Any] | None = None) -> Any:
    """Run one step of a GRU layer, as :func:`kernels.reference.gru_step`, with buffers of its own."""
    checks.step("gru", x, (h,), W_x, W_h, (b_x, b_h), out, DEVICE)
    *after, _ = gru_forward(x[None], h, W_x, W_h, b_x, b_h)
    return _stepped(after, out)[0]


def lnlstm_step(
    x: Any, h: Any, c: Any, W_x: Any, W_h: Any, b: Any, gain_x: Any, gain_h: Any, gain_c: Any, b_c: Any, *,
    out: tuple[Any, Any, Any] | None = None,
) -> Any:  # fmt: skip
    """Raise ValueError: this backend has no layer-normalised LSTM."""
    return checks.step("lnlstm", x, (h, c), W_x, W_h, (b, gain_x, gain_h, gain_c, b_c), out, DEVICE)


def _stepped(after: list[Any], out: tuple[Any, ...] | None) -> tuple[Any, ...]:
    """The states (B, H) after a step, from (2, B, H) each; copied to the first buffers of `out` if it is given."""
    if out is None:
        return tuple(each[1] for each in after)
    for buffer, each in zip(out, after, strict=False):
        buffer[...] = each[1]
    return tuple(out[: len(after)])


def _like_floats(x: Any) -> Any:
    return None if x.ndim == 2 else cupy.empty_like(x)


def _backward(
    cell: str, dh: Any, cache: Any, states: Any, dh_last: Any, out: Any, dz: Any, dc: Any, grads: Any
) -> None:
    """Backpropagate through a layer and write `out`; dc holds the gradient of the last cell state at first."""
    x, W_x, W_h = cache.x, cache.W_x, cache.W_h
    out.dh0[...] = 0 if dh_last is None else dh_last
    table = None
    if x.ndim == 2:
        table = empty((x.size, len(W_x)), W_x.dtype)
        layers.one_hot(x, table)()
    dz = empty(states[2].shape, W_x.dtype) if dz is None else dz
    parameters = spec.LayerParams(W_x, W_h, None)
    run(layers.backward(cell, dh, x, parameters, states, dz, (out.dh0, dc), grads, out.dx, table))


# ------------------------------------------------------------------------------------------------ loss and optimizers
@_taking_device_arrays
def softmax_cross_entropy(
    logits: Any, targets: Any, *, ignore_index: int | None = None, out: Any = None
) -> tuple[float, Any]:
    """Compute loss and gradient of a softmax readout, as :func:`kernels.reference.softmax_cross_entropy`."""
    checks.softmax_cross_entropy(logits, targets, ignore_index, out, DEVICE)
    dlogits = cupy.empty_like(logits) if out is None else out
    dlogits[...] = logits
    rows, V = targets.size, logits.shape[2]
    row_loss, loss = empty((rows,), logits.dtype), empty((1,), np.float64)
    launch("model", "cross_entropy", logits.dtype, -(-rows // 8), dlogits, targets, row_loss, rows, V)()
    launch("model", "sum_in_double", logits.dtype, 1, row_loss, loss, rows)()
    return float(loss.get()[0]), dlogits


def regression_loss(outputs: Any, targets: Any, *, loss: str = "squared", delta: float = 1.0, out: Any = None) -> Any:
    """Raise ValueError: this backend has no losses of real numbers."""
    return checks.regression_loss(outputs, targets, loss, delta, out, DEVICE)


@_taking_device_arrays
def clip(grad: Any, *, grad_clip: float | None = None, grad_clip_norm: float | None = None) -> None:
    """Clip a flat gradient in place, by element and then by norm, as :func:`kernels.reference.clip`."""
    optimizers.clip(grad, *checks.clip(grad, grad_clip, grad_clip_norm, DEVICE))


def _update(theta: Any, grad: Any, state: Any, given: checks.Update) -> None:
    """Clip and update in one pass over memory."""
    rule = given.optimizer, given.hyper
    rates = optimizers.rates(*rule, given.step, [given.learning_rate])
    clipping = optimizers.Clipping(theta.size, theta.dtype, 1.0, given.grad_clip)
    optimizers.updating(*rule, theta, grad, state, rates[:, 0], clipping)()


# sgd, adagrad and the others: a function for each row of spec.OPTIMIZERS
globals().update(
    {name: _taking_device_arrays(op) for name, op in optimizer_ops("kernels.gpu.ops", _update, DEVICE).items()}
)


# ------------------------------------------------------------------------------------------------------- whole model
@_taking_device_arrays
def loss_and_grad(
    theta: Any, h: Any, c: Any, x: Any, *, shape: Shape, targets: Any = None, loss: str = "cross_entropy",
    delta: float = 1.0, ignore_index: int | None = None, last_only: bool = False, dropout: float = 0.0,
    masks: Any = None, bfloat16: bool = False, workspace: Workspace | None = None, threads: int | None = None,
) -> tuple[float, Any, Any, Any]:  # fmt: skip
    """Compute loss and gradient of a model over one sequence, as :func:`kernels.reference.loss_and_grad`."""
    aim = checks.Aim(targets, loss, delta, ignore_index)
    T = checks.loss_and_grad(
        theta, h, c, x, shape, aim, last_only, dropout, masks, bfloat16, workspace, threads, DEVICE
    ).T
    grad, first = cupy.empty_like(theta), T - 1 if last_only else 0
    model = Model(theta, shape, T, x.shape[1], first=first, dropout=dropout, bfloat16=bfloat16, grad=grad)
    model.x[...] = x
    if masks is not None:
        model.masks[...] = masks
    model.carry_in(h, c)
    model.forward()
    model.backward()
    h_last, c_last = h.copy(), c.copy()
    model.carry_out(T, h_last, c_last)
    return model.loss(), grad, h_last, c_last


def workspace(
    shape: Shape, seq_length: int, batch_size: int, dtype: Any, dropout: float = 0.0, bfloat16: bool = False
) -> None:
    """Return None: CuPy reuses freed memory by itself, so a call on the GPU needs no workspace."""


def _at_once(given: checks.Training) -> Any:
    """Run train_steps for models that each fit in a thread block; return None if they do not."""
    return _in_blocks(given) if small.fits(given) else None


def _in_blocks(given: checks.Training) -> Any:
    given.losses.fill(np.nan)
    return small.train(given, _rates(given)) if given.starts.size else given.losses


def _rates(given: checks.Training) -> Any:
    return optimizers.rates(given.optimizer, given.hyper, given.step, given.learning_rate)


@_taking_device_arrays
@or_several_models(workspace, DEVICE, _at_once)
def train_steps(
    theta: Any, state: Any, h: Any, c: Any, ids: Any, starts: Any, reset: Any, learning_rate: Any, *, shape: Shape,
    seq_length: int, targets: Any = None, loss: str = "cross_entropy", delta: float = 1.0,
    ignore_index: int | None = None, step: int = 0, optimizer: str = "adagrad", hyper: dict[str, float] | None = None,
    grad_scale: float = 1.0, grad_clip: float | None = None, grad_clip_norm: float | None = None,
    last_only: bool = False, dropout: float = 0.0, masks: Any = None, weight_drop: float = 0.0, seed: int = 0,
    bfloat16: bool = False, smooth_loss: float = np.inf, stop_below: float = -np.inf,
    workspace: Workspace | None = None, threads: int = 1, out: Any = None,
) -> Any:  # fmt: skip
    """Run n iterations, as :func:`kernels.reference.train_steps`.

    One thread block trains a small model (see small.py), with thousands of iterations per launch; of several models,
    each has a block in the same launch. For other models, one iteration is a CUDA graph (see training.py), and several
    take turns.
    """
    given = checks.train_steps(
        theta, state, h, c, ids, starts, reset, learning_rate, DEVICE, shape=shape, seq_length=seq_length,
        targets=targets, loss=loss, delta=delta, ignore_index=ignore_index, step=step, optimizer=optimizer, hyper=hyper,
        grad_scale=grad_scale, grad_clip=grad_clip, grad_clip_norm=grad_clip_norm,
        last_only=last_only, dropout=dropout, masks=masks, weight_drop=weight_drop, seed=seed, bfloat16=bfloat16,
        smooth_loss=smooth_loss, stop_below=stop_below, workspace=workspace, threads=threads, out=out,
    )  # fmt: skip
    if small.fits(given):
        return _in_blocks(given)
    given.losses.fill(np.nan)
    return training.train(given, _rates(given)) if len(starts) else given.losses


@_taking_device_arrays
def score(
    theta: Any, h: Any, c: Any, x: Any, *, shape: Shape, targets: Any = None, loss: str = "cross_entropy",
    delta: float = 1.0, ignore_index: int | None = None, workspace: Workspace | None = None, threads: int = 1,
    out: Any = None,
) -> Any:  # fmt: skip
    """Compute the log probability of each character of a text, as :func:`kernels.reference.score`."""
    checks.score(theta, h, c, x, shape, checks.Aim(targets, loss, delta, ignore_index), workspace, threads, out, DEVICE)
    T, B = len(x) - 1, x.shape[1]
    log_probs = empty((T, B), np.float64) if out is None else out
    model = Model(theta, shape, T, B)
    model.x[...] = x
    model.carry_in(h, c)
    model.forward()
    model.log_probs(log_probs)
    model.carry_out(T, h, c)
    return log_probs


@_taking_device_arrays
def sample(
    theta: Any, h: Any, c: Any, x: Any, uniforms: Any, *, shape: Shape, temperature: float = 1.0, top_k: int = 0,
    top_p: float = 1.0, log_probs: Any = None, mixture: Any = None,
) -> Any:  # fmt: skip
    """Sample many characters, as :func:`kernels.reference.sample`.

    Each character is fed back on the GPU. This backend has no n-grams: `mixture` must be None.
    """
    uniforms, temperature, top_k, top_p = checks.sample(
        theta, h, c, x, uniforms, shape, temperature, top_k, top_p, log_probs, mixture, DEVICE
    )
    B, V = len(x), shape.vocab_size
    model, scratch = Model(theta, shape, 1, B), empty((B, 2, V), np.float64)
    drawn = empty(uniforms.shape, np.int32)
    log_probs = empty(uniforms.shape, np.float64) if log_probs is None else log_probs
    model.x[0] = x
    model.carry_in(h, c)
    how = (V, np.float64(temperature), top_k, np.float64(top_p))
    for k in range(len(uniforms)):
        model.forward()
        launch(
            "sample", "draw", theta.dtype, B, model.logits, uniforms[k], model.x, drawn[k], log_probs[k], scratch, *how
        )()
        model.h[:, 0] = model.h[:, 1]
        model.c[:, :1] = model.c[:, 1:]
    unknown = np.flatnonzero((drawn.get() < 0).any(axis=1))
    if len(unknown):
        raise checks.not_finite(int(unknown[0]))
    model.carry_out(0, h, c)
    return drawn


__all__ = list(spec.OPS)
__all__ += ["workspace"]


def __dir__() -> list[str]:
    return sorted(__all__)
