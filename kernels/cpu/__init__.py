"""Every op as fused Numba kernels for the CPU; :mod:`kernels.reference` documents and tests them.

This file checks arguments and allocates buffers. compiler.py compiles and caches kernels; lstm.py, gru.py, rnn.py and
lnlstm.py implement one cell each, layers.py and order.py what these share, single.py what their ops share; model.py and
gradients.py run a whole model, mixed.py what mixed precision adds to it; steps.py and sampling.py have its entry
points, mixtures.py the n-gram beside it; training.py runs a training call, threads.py splits its work, teamwork.py and
pace.py manage its threads; values.py has the named tuples that kernels pass around; matmul.py, mixed_matmul.py,
bfloat16.py, optimizers.py, loss.py and emit/ are the building blocks.

Accuracy (tests/kernel/test_chain.py): float64 within 1e-12 of the reference, norm-wise per tensor; float32 within the
larger of four times the error of plain float32 NumPy and eight float32 epsilons of the tensor's largest element; mixed
precision within 1 % of what rounding changes.
"""

from typing import Any

import numpy as np

from kernels import spec
from kernels.cpu import loss as losses
from kernels.cpu import mixtures, optimizers, sampling, steps, training
from kernels.cpu.gru import gru_backward, gru_forward, gru_step
from kernels.cpu.lnlstm import lnlstm_backward, lnlstm_forward, lnlstm_step
from kernels.cpu.lstm import lstm_backward, lstm_forward, lstm_step
from kernels.cpu.rnn import rnn_backward, rnn_forward, rnn_step
from kernels.cpu.teamwork import together_or_alone
from kernels.cpu.threads import Plan, reading_plan, whole
from kernels.cpu.values import Net, extra_of, readable
from kernels.spec import Mixture, Shape, Workspace, checks, workspace
from kernels.spec.many import or_several_models
from kernels.spec.updates import optimizer_ops
from kernels.spec.workspace_checks import exclusive


def softmax_cross_entropy(
    logits: Any, targets: Any, *, ignore_index: int | None = None, out: Any = None
) -> tuple[float, np.ndarray]:
    """Compute loss and gradient of a softmax readout, as :func:`kernels.reference.softmax_cross_entropy`."""
    return _loss_of(logits, targets, checks.softmax_cross_entropy(logits, targets, ignore_index, out), out)


def regression_loss(
    outputs: Any, targets: Any, *, loss: str = "squared", delta: float = 1.0, out: Any = None
) -> tuple[float, np.ndarray]:
    """Compute a loss of real numbers, and its gradient, as :func:`kernels.reference.regression_loss`."""
    return _loss_of(outputs, targets, checks.regression_loss(outputs, targets, loss, delta, out), out)


def _loss_of(outputs: Any, targets: Any, goal: spec.Goal, out: Any) -> tuple[float, np.ndarray]:
    gradient = np.empty_like(outputs) if out is None else out
    return losses.loss_of_all(readable(outputs), readable(targets), losses.aim_of(goal), gradient), gradient


def clip(grad: Any, *, grad_clip: float | None = None, grad_clip_norm: float | None = None) -> None:
    """Clip a flat gradient in place, by element and then by norm, as :func:`kernels.reference.clip`."""
    grad_clip, grad_clip_norm = checks.clip(grad, grad_clip, grad_clip_norm)
    if grad_clip is not None:
        np.clip(grad, -grad_clip, grad_clip, out=grad)
    if grad_clip_norm is not None:
        steps.clip_norm(grad, grad_clip_norm, np.empty(spec.norm_panels(len(grad))))


def _limit(value: float | None) -> float:
    return np.inf if value is None else float(value)


def _update(theta: Any, grad: Any, state: Any, given: checks.Update) -> None:
    """Clip and update in one pass over memory."""
    optimizer = optimizers.chosen(given.optimizer, given.hyper)
    steps.update(theta, readable(grad), state, optimizer, given.step, given.learning_rate, _limit(given.grad_clip))


_OPTIMIZERS = optimizer_ops("kernels.cpu", _update)
globals().update(_OPTIMIZERS)  # sgd, adagrad and the others: a function for each row of spec.OPTIMIZERS


def _carry_in(h: Any, c: Any, states: Any, cells: Any) -> None:
    """Copy h and c (L, B, H) to the first row of states and cells (L, T+1, B, H)."""
    states[:, 0] = h
    cells[:, :1] = c[:, None]  # copies nothing if the cell has no c


def _carry_out(states: Any, cells: Any, t: int, h: Any, c: Any) -> None:
    """Copy the state before step t to h and c; c stays unchanged if the cell has none."""
    h[...] = states[:, t]
    c[...] = cells[:, t] if cells.size else c


def _alone(ws: Workspace) -> Workspace:
    """The workspace for a pass by one thread on unchanged parameters: not packed, split into panels or rounded."""
    return ws._replace(partial=ws.partial[:, :, :0], packed=ws.packed[:, :, :0], **spec.NOT_ROUNDED)


def loss_and_grad(
    theta: Any,
    h: Any,
    c: Any,
    x: Any,
    *,
    shape: Shape,
    targets: Any = None,
    loss: str = "cross_entropy",
    delta: float = 1.0,
    ignore_index: int | None = None,
    last_only: bool = False,
    dropout: float = 0.0,
    masks: Any = None,
    bfloat16: bool = False,
    workspace: Workspace | None = None,
    threads: int | None = None,
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:
    """Compute loss and gradient of a model over one sequence, as :func:`kernels.reference.loss_and_grad`.

    With `workspace`, little but h_last and c_last is allocated, and grad is the workspace's buffer. With bfloat16 or
    a number of threads, this is an iteration of :func:`train_steps` without its update.
    """
    aim = checks.Aim(targets, loss, delta, ignore_index)
    given = checks.loss_and_grad(theta, h, c, x, shape, aim, last_only, dropout, masks, bfloat16, workspace, threads)
    T = given.T
    with exclusive(workspace):
        ws = workspace or spec.workspace(shape, T, x.shape[1], theta.dtype, dropout, bfloat16)
        if bfloat16 or given.threads is not None:
            return training.gradient(theta, h, c, given, shape, last_only, dropout, masks, bfloat16, ws)
        _carry_in(h, c, ws.h, ws.c)
        extra = extra_of(ws, None if masks is None else masks[None], dropout)
        net, first = Net(readable(theta), spec.offsets(shape)), T - 1 if last_only else 0
        total = steps.model_pass(shape.cell)(
            net, readable(given.x), readable(given.targets), losses.aim_of(given.goal), extra, _alone(ws), first,
            whole(shape.hidden_size),
        )  # fmt: skip
        return total, ws.grad, ws.h[:, T].copy(), (ws.c[:, T] if ws.c.size else c).copy()


@or_several_models(spec.workspace)
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
    targets: Any = None,
    loss: str = "cross_entropy",
    delta: float = 1.0,
    ignore_index: int | None = None,
    step: int = 0,
    optimizer: str = "adagrad",
    hyper: dict[str, float] | None = None,
    grad_scale: float = 1.0,
    grad_clip: float | None = None,
    grad_clip_norm: float | None = None,
    last_only: bool = False,
    dropout: float = 0.0,
    masks: Any = None,
    weight_drop: float = 0.0,
    seed: int = 0,
    bfloat16: bool = False,
    smooth_loss: float = np.inf,
    stop_below: float = -np.inf,
    workspace: Workspace | None = None,
    threads: int = 1,
    out: Any = None,
) -> np.ndarray:
    """Run n iterations, compiled, as :func:`kernels.reference.train_steps`.

    Iterations allocate nothing; with `workspace` and `out` the call allocates little, with weight_drop a copy of each
    W_h. The call releases the GIL and takes it back about ten times a second, so that Python can run signal handlers.
    """
    given = checks.train_steps(
        theta, state, h, c, ids, starts, reset, learning_rate, shape=shape, seq_length=seq_length,
        targets=targets, loss=loss, delta=delta, ignore_index=ignore_index, step=step, optimizer=optimizer, hyper=hyper,
        grad_scale=grad_scale, grad_clip=grad_clip, grad_clip_norm=grad_clip_norm,
        last_only=last_only, dropout=dropout, masks=masks, weight_drop=weight_drop, seed=seed, bfloat16=bfloat16,
        smooth_loss=smooth_loss, stop_below=stop_below, workspace=workspace, threads=threads, out=out,
    )  # fmt: skip
    with exclusive(workspace):
        return training.train(given)


def score(
    theta: Any, h: Any, c: Any, x: Any, *, shape: Shape, targets: Any = None, loss: str = "cross_entropy",
    delta: float = 1.0, ignore_index: int | None = None, workspace: Workspace | None = None, threads: int = 1,
    out: Any = None,
) -> np.ndarray:  # fmt: skip
    """Compute the log probability of each character of a text, as :func:`kernels.reference.score`.

    With `workspace` and `out`, no buffers are allocated.
    """
    aim = checks.Aim(targets, loss, delta, ignore_index)
    given = checks.score(theta, h, c, x, shape, aim, workspace, threads, out)
    T, B = given.T, x.shape[1]
    with exclusive(workspace):
        ws = workspace or spec.workspace(shape, T, B, theta.dtype)
        log_probs = np.empty((T, B)) if out is None else out
        _carry_in(h, c, ws.h, ws.c)
        net, extra = Net(readable(theta), spec.offsets(shape)), extra_of(ws)
        read = sampling.score_pass(shape.cell)
        sequence = readable(given.x), readable(given.targets), losses.aim_of(given.goal)
        team, single = (reading_plan(shape.hidden_size, B, n, shape.cell) for n in (given.threads or 1, 1))

        def member(who: Plan, thread: int) -> bool:
            return bool(read(net, *sequence, extra, _alone(ws), who.members, who.pieces, log_probs, thread))

        together_or_alone(member, team, single, ws.counter)
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
    mixture: Mixture | None = None,
) -> np.ndarray:
    """Sample many characters in one compiled call, as :func:`kernels.reference.sample`."""
    uniforms, *how = checks.sample(theta, h, c, x, uniforms, shape, temperature, top_k, top_p, log_probs, mixture)
    V, layout = shape.vocab_size, spec.workspace_layout(shape, 1, h.shape[1], theta.dtype)
    names = "h", "c", "gates", "table", "embedded", "places", "dropped", "logits", "rows"
    made = {name: spec.aligned_zeros(*layout[name]) for name in names}
    if shape.embedding_size:  # a table of all ids: they are not known beforehand
        made["table"] = spec.aligned_zeros((V, layout["table"][0][1]), theta.dtype)
        made["embedded"] = spec.aligned_zeros((1, V, shape.embedding_size), theta.dtype)
    empty = np.empty((len(h), 4, 0), theta.dtype)
    ws = Workspace(**dict.fromkeys(Workspace._fields) | made | {"packed": empty, "counter": np.zeros(3, np.int64)})
    _carry_in(h, c, ws.h, ws.c)
    drawn = np.empty(uniforms.shape, np.int32)
    beside = mixtures.NONE
    if mixture is not None:
        beside = Mixture(*map(readable, mixture))._replace(history=mixture.history.copy())
    done = sampling.sample_loop(shape.cell)(
        Net(readable(theta), spec.offsets(shape)), x[None].copy(), readable(uniforms), tuple(how),
        extra_of(ws), ws, np.empty((2, V)), np.empty(V, np.int64), whole(shape.hidden_size), drawn,
        np.empty((0, len(x))) if log_probs is None else log_probs, beside,
    )  # fmt: skip
    if done < len(drawn):
        raise checks.not_finite(done)
    _carry_out(ws.h, ws.c, 0, h, c)
    if mixture is not None:
        mixture.history[...] = beside.history
    return drawn


__all__ = [
    "clip",
    "gru_backward",
    "gru_forward",
    "gru_step",
    "lnlstm_backward",
    "lnlstm_forward",
    "lnlstm_step",
    "loss_and_grad",
    "lstm_backward",
    "lstm_forward",
    "lstm_step",
    "regression_loss",
    "rnn_backward",
    "rnn_forward",
    "rnn_step",
    "sample",
    "score",
    "softmax_cross_entropy",
    "train_steps",
    "workspace",
]
__all__ += list(_OPTIMIZERS)


def __dir__() -> list[str]:
    return sorted(__all__)
