"""Every op as fused Numba kernels for the CPU, float32 and float64; :mod:`kernels.reference` documents and judges them.

jit.py says how they are compiled and cached, loops.py holds what Python calls, model.py a whole model, layers.py one
LSTM layer and the loss, rnn_gru.py the other cells, training.py a call that trains, team.py who does what in it,
teamwork.py the threads, products.py (of tiles.py), updates.py,
activations.py and denormals.py the pieces. Here arguments are checked and buffers made.

Accuracy (tests/kernels/test_chain.py): float64 within 1e-12 of numpy_ref, norm-wise per tensor; float32 within the
larger of four times plain float32 NumPy's own error and eight units of rounding of the tensor's scale.
"""

from typing import Any

import numpy as np

from kernels import spec
from kernels.cpu import layers, optimizers, rnn_gru, steps, training
from kernels.cpu.model import extra_of, readable
from kernels.cpu.threads import whole
from kernels.spec import LSTMCache, LSTMGrads, Shape, Workspace, checks

_CODES = {"sgd": optimizers.SGD, "adagrad": optimizers.ADAGRAD, "rmsprop": optimizers.RMSPROP, "adam": optimizers.ADAM}


def lstm_forward(
    x: Any, h0: Any, c0: Any, W_x: Any, W_h: Any, b: Any, *, out: tuple[Any, Any, Any] | None = None
) -> tuple[np.ndarray, np.ndarray, LSTMCache]:
    """Run one LSTM layer over T steps and B streams, as :func:`kernels.reference.lstm_forward`.

    Allocates nothing where `out` = (h, c, gates) is given.
    """
    sizes = checks.lstm_forward(x, h0, c0, W_x, W_h, b, out)
    T, B, H = sizes["T"], sizes["B"], sizes["H"]
    dims = ((T + 1, B, H), (T + 1, B, H), (T, B, 4 * H))
    h, c, gates = out or (spec.aligned_zeros(each, h0.dtype) for each in dims)
    run = layers.forward_ids if x.ndim == 2 else layers.forward_floats
    h[0], c[0] = h0, c0
    read = map(readable, (x, W_x, W_h, b))
    run(*read, h, c, gates, whole(H), np.empty(0, h0.dtype), _counter())
    return h, c, LSTMCache(x, h, c, gates, W_x, W_h)


def lstm_backward(
    dh: Any, cache: LSTMCache, dh_last: Any = None, dc_last: Any = None, *, out: LSTMGrads | None = None, dz: Any = None
) -> LSTMGrads:
    """Backpropagate through one LSTM layer, as :func:`kernels.reference.lstm_backward`.

    Allocates nothing where `out` and `dz` (T, B, 4H) are given.
    """
    checks.lstm_backward(dh, cache, dh_last, dc_last, out, dz)
    x, h, c, gates, W_x, W_h = cache
    is_ids = x.ndim == 2
    if out is None:
        dx = None if is_ids else np.empty_like(x)
        out = LSTMGrads(dx, *(np.empty_like(like) for like in (h[0], c[0], W_x, W_h, W_x[0])))
    dz = spec.aligned_zeros(gates.shape, gates.dtype) if dz is None else dz
    alone = (whole(h.shape[2]), np.empty(0, h.dtype), _counter())
    out.dh0[...] = 0 if dh_last is None else dh_last
    out.dc0[...] = 0 if dc_last is None else dc_last
    dh, x, h, c, gates, W_x, W_h = map(readable, (dh, *cache))
    if is_ids:
        layers.backward_ids(dh, x, h, c, gates, W_h, dz, *out[1:], *alone)
    else:
        layers.backward_floats(dh, x, h, c, gates, W_x, W_h, dz, *out, *alone)
    return out


rnn_forward, rnn_backward = rnn_gru.rnn_forward, rnn_gru.rnn_backward
gru_forward, gru_backward = rnn_gru.gru_forward, rnn_gru.gru_backward


def softmax_cross_entropy(logits: Any, targets: Any, *, out: Any = None) -> tuple[float, np.ndarray]:
    """Loss and gradient of a softmax readout, as :func:`kernels.reference.softmax_cross_entropy`."""
    checks.softmax_cross_entropy(logits, targets, out)
    dlogits = np.empty_like(logits) if out is None else out
    return layers.cross_entropy(readable(logits), readable(targets), dlogits), dlogits


def clip(grad: Any, *, grad_clip: float | None = None, grad_clip_norm: float | None = None) -> None:
    """Clip a flat gradient in place, by element and then by norm, as :func:`kernels.reference.clip`."""
    grad_clip, grad_clip_norm = checks.clip(grad, grad_clip, grad_clip_norm)
    if grad_clip is not None:
        np.clip(grad, -grad_clip, grad_clip, out=grad)
    if grad_clip_norm is not None:
        steps.clip_norm(grad, grad_clip_norm, np.empty(spec.norm_panels(len(grad))))


def _counter() -> np.ndarray:
    return np.zeros(3, np.int64)


def _limit(value: float | None) -> float:
    return np.inf if value is None else float(value)


def _update(
    name: str, theta: Any, grad: Any, state: Any, step: Any, learning_rate: Any, grad_clip: Any, **hyper: Any
) -> None:
    given = checks.optimizer(name, theta, grad, state, step, learning_rate, grad_clip, hyper)
    constants = np.array(list(given.hyper.values()), np.float64)
    rule = (_code(name, given.hyper), constants, given.step, given.learning_rate, _limit(given.grad_clip))
    steps.update(theta, readable(grad), state, *rule)


def _code(name: str, hyper: dict[str, float]) -> int:
    """The number of an optimizer in updates.py."""
    return optimizers.MOMENTUM if name == "sgd" and spec.slots_of(name, hyper) else _CODES[name]


def sgd(
    theta: Any,
    grad: Any,
    state: Any,
    step: int,
    *,
    learning_rate: float,
    grad_clip: float | None = None,
    momentum: float = 0.0,
) -> None:
    """Gradient descent in place, as :func:`kernels.reference.sgd`."""
    _update("sgd", theta, grad, state, step, learning_rate, grad_clip, momentum=momentum)


def adagrad(
    theta: Any,
    grad: Any,
    state: Any,
    step: int,
    *,
    learning_rate: float,
    grad_clip: float | None = None,
    epsilon: float = 1e-8,
) -> None:
    """Adagrad in place, clip and update in one pass, as :func:`kernels.reference.adagrad`."""
    _update("adagrad", theta, grad, state, step, learning_rate, grad_clip, epsilon=epsilon)


def rmsprop(
    theta: Any,
    grad: Any,
    state: Any,
    step: int,
    *,
    learning_rate: float,
    grad_clip: float | None = None,
    rho: float = 0.99,
    epsilon: float = 1e-8,
) -> None:
    """RMSprop in place, clip and update in one pass, as :func:`kernels.reference.rmsprop`."""
    _update("rmsprop", theta, grad, state, step, learning_rate, grad_clip, rho=rho, epsilon=epsilon)


def adam(
    theta: Any,
    grad: Any,
    state: Any,
    step: int,
    *,
    learning_rate: float,
    grad_clip: float | None = None,
    beta1: float = 0.9,
    beta2: float = 0.999,
    epsilon: float = 1e-8,
) -> None:
    """Adam in place, clip and update in one pass, as :func:`kernels.reference.adam`."""
    _update("adam", theta, grad, state, step, learning_rate, grad_clip, beta1=beta1, beta2=beta2, epsilon=epsilon)


def _carry_in(h: Any, c: Any, states: Any, cells: Any) -> None:
    """Put a state, h and c (L, B, H), before the first step of states and cells (L, T+1, B, H)."""
    states[:, 0] = h
    cells[:, :1] = c[:, None]  # nothing, for cells of kinds that have none


def _carry_out(states: Any, cells: Any, t: int, h: Any, c: Any) -> None:
    """Write the state before step t into h and c; c stays where there are no cells."""
    h[...] = states[:, t]
    c[...] = cells[:, t] if cells.size else c


def loss_and_grad(
    theta: Any,
    h: Any,
    c: Any,
    x: Any,
    *,
    shape: Shape,
    last_only: bool = False,
    dropout: float = 0.0,
    masks: Any = None,
    workspace: Workspace | None = None,
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Loss and gradient of a whole model over one sequence, as :func:`kernels.reference.loss_and_grad`.

    Where `workspace` is given, allocates h_last and c_last alone; grad is then the workspace's.
    """
    T = checks.loss_and_grad(theta, h, c, x, shape, last_only, dropout, masks, workspace)
    with checks.exclusive(workspace):
        ws = workspace or spec.workspace(shape, T, x.shape[1], theta.dtype, dropout)
        _carry_in(h, c, ws.h, ws.c)
        loss = steps.model_pass(
            readable(theta), spec.offsets(shape), readable(x), ws.h, ws.c, ws.gates, ws.dz, ws.dh, ws.carry,
            ws.partial[:, :, :0], ws.packed[:, :, :0],
            extra_of(ws.table, ws.dropped, None if masks is None else masks[None], dropout), ws.logits, ws.row_loss,
            ws.grad, ws.rows, T - 1 if last_only else 0, whole(shape.hidden_size), ws.counter,
        )  # fmt: skip
        return loss, ws.grad, ws.h[:, T].copy(), (ws.c[:, T] if ws.c.size else c).copy()


def train_steps(
    theta: Any,
    state: Any,
    h: Any,
    c: Any,
    ids: Any,
    starts: Any,
    reset: Any,
    learning_rate: Any,
    *,
    shape: Shape,
    seq_length: int,
    step: int = 0,
    optimizer: str = "adagrad",
    hyper: dict[str, float] | None = None,
    grad_scale: float = 1.0,
    grad_clip: float | None = None,
    grad_clip_norm: float | None = None,
    last_only: bool = False,
    dropout: float = 0.0,
    masks: Any = None,
    bfloat16: bool = False,
    smooth_loss: float = np.inf,
    stop_below: float = -np.inf,
    workspace: Workspace | None = None,
    threads: int = 1,
    out: Any = None,
) -> np.ndarray:
    """Run n iterations, compiled, as :func:`kernels.reference.train_steps`.

    An iteration allocates nothing; with `workspace` and `out` the call allocates little. Releases the GIL, and takes it
    back about ten times a second, so that Python hears of signals.
    """
    given = checks.train_steps(
        theta, state, h, c, ids, starts, reset, learning_rate, shape=shape, seq_length=seq_length, step=step,
        optimizer=optimizer, hyper=hyper, grad_scale=grad_scale, grad_clip=grad_clip, grad_clip_norm=grad_clip_norm,
        last_only=last_only, dropout=dropout, masks=masks, bfloat16=bfloat16, smooth_loss=smooth_loss,
        stop_below=stop_below, workspace=workspace, threads=threads, out=out,
    )  # fmt: skip
    with checks.exclusive(workspace):
        return training.train(given, _code(optimizer, given.hyper))


def score(
    theta: Any, h: Any, c: Any, x: Any, *, shape: Shape, workspace: Workspace | None = None, out: Any = None
) -> np.ndarray:
    """Log probability of each character of a text, as :func:`kernels.reference.score`.

    Makes no buffers where `workspace` and `out` are given.
    """
    T = checks.score(theta, h, c, x, shape, workspace, out)
    with checks.exclusive(workspace):
        ws = workspace or spec.workspace(shape, T, x.shape[1], theta.dtype)
        log_probs = np.empty((T, x.shape[1])) if out is None else out
        _carry_in(h, c, ws.h, ws.c)
        steps.score_pass(
            readable(theta), spec.offsets(shape), readable(x), ws.h, ws.c, ws.gates, ws.packed[:, :, :0],
            extra_of(ws.table, ws.dropped), ws.logits, whole(shape.hidden_size), ws.counter, log_probs,
        )  # fmt: skip
        _carry_out(ws.h, ws.c, T, h, c)
        return log_probs


def sample(
    theta: Any,
    h: Any,
    c: Any,
    x: Any,
    uniforms: Any,
    *,
    shape: Shape,
    temperature: float = 1.0,
    top_k: int = 0,
    top_p: float = 1.0,
    log_probs: Any = None,
) -> np.ndarray:
    """Draw many characters in one compiled call, as :func:`kernels.reference.sample`."""
    uniforms, *how = checks.sample(theta, h, c, x, uniforms, shape, temperature, top_k, top_p, log_probs)
    L, B, H = h.shape
    V, layout = shape.vocab_size, spec.workspace_layout(shape, 1, B, theta.dtype)
    names = ("h", "c", "gates", "table", "dropped", "logits")
    states, cells, gates, table, dropped, logits = (spec.aligned_zeros(*layout[name]) for name in names)
    _carry_in(h, c, states, cells)
    drawn = np.empty(uniforms.shape, np.int32)
    done = steps.sample_loop(
        readable(theta), spec.offsets(shape), x[None].copy(), readable(uniforms), *how, states, cells, gates,
        np.empty((L, 4, 0), theta.dtype), extra_of(table, dropped), logits, np.empty(V), np.empty(V, np.int64),
        whole(H), _counter(), drawn, np.empty((0, B)) if log_probs is None else log_probs,
    )  # fmt: skip
    if done < len(drawn):
        raise checks.not_finite(done)
    _carry_out(states, cells, 0, h, c)
    return drawn


__all__ = list(spec.OPS)
