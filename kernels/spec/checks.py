"""Checks of each op's arguments, for every backend: they run once, in Python, before a kernel starts.

:data:`ARRAYS` describes the arrays of each op, :data:`kernels.spec.arguments.VALUES` the numbers; the tables of
docs/kernels.md are made from both. Each function checks one call and returns what the op continues with: sizes, Python
numbers, C-contiguous vectors. `family` is the memory that the arrays are in.
"""

import re
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from kernels import spec
from kernels.shared import NotFinite, WrongType
from kernels.spec.arguments import (
    HOST,
    VALUES,
    Arrays,
    Family,
    flag,
    held,
    number,
    parts,
    unpacked,
)
from kernels.spec.cells import CELLS
from kernels.spec.layers import LAYERS, WAYS
from kernels.spec.losses import LOSSES, Goal, check_target_ids, checked, goal_of, refuse_on_device
from kernels.spec.mixtures import MIXTURE, Mixture
from kernels.spec.parameters import Shape
from kernels.spec.workspace_checks import check_workspace
from kernels.spec.workspaces import Workspace

_OPTIMIZER = {"theta": "out float N", "grad": "float N", "state": "out float S N"}
_STATE = {"h": "float L B H", "c": "float L B H"}
_STATE_OUT = {"h": "out float L B H", "c": "out float L B H"}
_READ = {"x": "ids<V T+1 B | float T+1 B D, T rows with targets", "targets": "ids T B | float T B Y, optional"}


#: Arrays of each op by name, in the order of their checks; :mod:`kernels.spec.arguments` explains the notation.
ARRAYS: dict[str, dict[str, str]] = {
    **{
        f"{cell}_{way}": arrays
        for cell, layer in LAYERS.items()
        for way, arrays in zip(WAYS, layer.arrays, strict=True)
    },
    "softmax_cross_entropy": {
        "logits": "float T B V",
        "targets": "ids<V T B",
        "out": "out float T B V, optional, may hold logits",
    },
    "regression_loss": {
        "outputs": "float T B Y, 2Y with gaussian",
        "targets": "float T B Y",
        "out": "out float T B Y, optional, may hold outputs, 2Y with gaussian",
    },
    "clip": {"grad": "out float N"},
    **dict.fromkeys(spec.OPTIMIZERS, _OPTIMIZER),
    "loss_and_grad": {"theta": "float N"} | _STATE | _READ | {"masks": "mask L T B H, optional"},
    "train_steps": {"theta": "out float N", "state": "out float S N"}
    | _STATE_OUT
    | {"ids": "text M | float M D", "targets": "ids M | float M Y, optional", "starts": "int64 K B", "reset": "bool K"}
    | {"learning_rate": "double K, or a number"}
    | {"masks": "mask K L T B H, optional", "out": "out double K, optional"},
    "score": {"theta": "float N"} | _STATE_OUT | _READ | {"out": "out double T B, optional"},
    "sample": {"theta": "float N"}
    | _STATE_OUT
    | {"x": "ids<V B", "uniforms": "double K B", "log_probs": "out double K B, optional"},
}
_CHECKS = {op: Arrays(patterns) for op, patterns in ARRAYS.items()}
_MIXED = Arrays({**ARRAYS["sample"], **MIXTURE})
_IGNORING = Arrays({**ARRAYS["softmax_cross_entropy"], "targets": "ids T B"})
_GAUSSIAN = Arrays(
    {name: each.replace("T B Y", f"T B {'' if name == 'targets' else '2'}Y")
     for name, each in ARRAYS["regression_loss"].items()}
)  # fmt: skip


@cache
def _of_model(op: str, is_series: bool, targets: str, several: bool = False) -> Arrays:
    """The arrays of a model's op: of ids or a series, with targets "ids" or "float", or "" if they follow from it.

    Several models, G of them, share these.
    """
    arrays, source = dict(ARRAYS[op]), "ids" if op == "train_steps" else "x"
    arrays[source] = _form(arrays[source], is_series)
    if targets:
        arrays |= {source: arrays[source].replace("T+1", "T"), "targets": _form(arrays["targets"], targets == "float")}
    else:
        del arrays["targets"]
    if several:
        for name in arrays.keys() - {source, "targets"}:
            arrays[name] = re.sub(r"((?:out )?\w+) ", r"\1 G ", arrays[name], count=1)
        arrays["learning_rate"] = "double G K | double K, or a number"
    return Arrays(arrays)


def _form(pattern: str, second: bool) -> str:
    """The first or the second of two forms, as a pattern without notes."""
    return pattern.partition(", ")[0].split(" | ")[second]


# ------------------------------------------------------------------------------------------------------------- layers
class Given(NamedTuple):
    """The checked sizes and numbers of a layer's op."""

    sizes: dict[str, int]  # by letter, see spec/cells.py
    lengths: Any  # (B,) int64, or None
    reverse: bool
    threads: int


def forward(
    cell: str, x: Any, states: tuple[Any, ...], W_x: Any, W_h: Any, vectors: tuple[Any, ...], lengths: Any,
    reverse: Any, threads: Any, out: Any, family: Family = HOST,
) -> Given:  # fmt: skip
    """Check the arguments of a layer's forward op."""
    _check_cell(cell, family, lengths, reverse)
    made = LAYERS[cell].made
    outs = parts("out", out, *made) if len(made) > 1 else (out,)
    given = (*states, W_h, W_x, *vectors, x, lengths, *outs)
    sizes = _CHECKS[f"{cell}_forward"](given, family)
    return _in_order(sizes, x, lengths, reverse, threads)


def backward(
    cell: str, dh: Any, cache: Any, last: tuple[Any, ...], threads: Any, out: Any, dz: Any, family: Family = HOST
) -> Given:
    """Check the arguments of a layer's backward op.

    `last` are the gradients with respect to the states after the last step.
    """
    layer = LAYERS[cell]
    x, *kept, lengths, reverse = unpacked("cache", cache, layer.cache)
    _check_cell(cell, family, lengths, reverse, "cache.")
    given = (dh, *kept, x, lengths, *last, dz, *_gradients(out, layer.grads, x))
    sizes = _CHECKS[f"{cell}_backward"](given, family)
    return _in_order(sizes, x, lengths, reverse, threads, "cache.")


def _in_order(sizes: dict[str, int], x: Any, lengths: Any, reverse: Any, threads: Any, owner: str = "") -> Given:
    """Check how far, in which direction and by how many threads a layer is run; `owner` is part of the names."""
    given = Given(sizes, lengths, flag(f"{owner}reverse", reverse), number("threads", threads))
    if lengths is not None:
        T = sizes["T"]
        if lengths.min() < 1 or lengths.max() > T:
            wrong = lengths.min() if lengths.min() < 1 else lengths.max()
            raise ValueError(f"{owner}lengths: expected numbers from 1 to {T} (T), got {wrong}")
        # what is beyond a stream's end is multiplied by zero
        if x.ndim == 3 and not all(np.isfinite(x[n:, b]).all() for b, n in enumerate(lengths.tolist())):
            raise ValueError(f"{owner}x: expected finite numbers beyond lengths, got NaN or inf")
    return given


def step(
    cell: str, x: Any, states: tuple[Any, ...], W_x: Any, W_h: Any, vectors: tuple[Any, ...], out: Any,
    family: Family = HOST,
) -> dict[str, int]:  # fmt: skip
    """Check the arguments of a layer's op for one step; return the sizes by letter."""
    _check_cell(cell, family)
    made = LAYERS[cell].made
    outs = parts("out", out, *made) if len(made) > 1 else (out,)
    return _CHECKS[f"{cell}_step"]((*states, W_h, W_x, *vectors, x, *outs), family)


def _check_cell(cell: str, family: Family, lengths: Any = None, reverse: Any = False, owner: str = "") -> None:
    """Check that the backend of this array family supports the cell, and the order of its steps."""
    if family is not HOST and not CELLS[cell].on_device:
        has = ", ".join(name for name, row in CELLS.items() if row.on_device)
        raise ValueError(f"cell: expected one of {has} on the cupy backend, got {cell!r}")
    if family is not HOST and (reverse or lengths is not None):
        wrong = "reverse: expected False" if lengths is None else "lengths: expected None"
        raise ValueError(f"{owner}{wrong} on the cupy backend, which runs whole sequences forward")


def _gradients(out: Any, kind: Any, x: Any) -> tuple[Any, ...]:
    """Return the gradient buffers of `out`, or one None each; every buffer must be there, except dx for ids."""
    if out is None:
        return (None,) * len(kind._fields)
    unpacked("out", out, kind)
    is_ids = getattr(x, "ndim", 0) == 2
    for name, buffer in zip(kind._fields, out, strict=True):
        if (buffer is None) != (name == "dx" and is_ids):
            expected = "an array, got None" if buffer is None else "None, as ids have no gradient, got an array"
            raise WrongType(f"out.{name}: expected {expected}")
    return tuple(out)


# ------------------------------------------------------------------------------------------------ loss and optimizers
def softmax_cross_entropy(logits: Any, targets: Any, ignore_index: Any, out: Any, family: Family = HOST) -> Goal:
    """Check the arguments of :func:`softmax_cross_entropy`."""
    goal = checked("cross_entropy", 1.0, ignore_index)
    if family is not HOST:
        refuse_on_device(None, ignore_index)
    if ignore_index is None:
        _CHECKS["softmax_cross_entropy"]((logits, targets, out), family)
    else:
        check_target_ids(targets, _IGNORING((logits, targets, out))["V"], goal.ignore_index)
    return goal


def regression_loss(outputs: Any, targets: Any, loss: Any, delta: Any, out: Any, family: Family = HOST) -> Goal:
    """Check the arguments of :func:`regression_loss`."""
    goal = checked(loss, delta, None)
    if family is not HOST:
        raise ValueError(f"loss: expected cross_entropy on the cupy backend, got {loss!r}")
    if goal.loss == "cross_entropy":
        raise ValueError(f"loss: expected one of {', '.join(LOSSES[1:])}, got {loss!r}")
    (_GAUSSIAN if goal.loss == "gaussian" else _CHECKS["regression_loss"])((outputs, targets, out))
    return _held(goal, outputs)


def clip(grad: Any, grad_clip: Any, grad_clip_norm: Any, family: Family = HOST) -> tuple[Any, Any]:
    """Check the arguments of :func:`clip`; return the two limits."""
    limits = number("grad_clip", grad_clip), number("grad_clip_norm", grad_clip_norm)
    _CHECKS["clip"]((grad,), family)
    return limits


class Update(NamedTuple):
    """The checked numbers of one optimizer step."""

    optimizer: str  # name of a row of spec.OPTIMIZERS, as spec.resolved returns it
    hyper: dict[str, float]  # its constants, in the table's order
    step: int
    learning_rate: float
    grad_clip: float | None


def optimizer(
    name: str,
    theta: Any,
    grad: Any,
    state: Any,
    step: Any,
    learning_rate: Any,
    grad_clip: Any,
    hyper: dict[str, Any],
    family: Family = HOST,
) -> Update:
    """Check the arguments of an optimizer."""
    row, values = spec.resolved(name, {key: number(key, value) for key, value in hyper.items()})
    step, rate, clip = number("step", step), number("learning_rate", learning_rate), number("grad_clip", grad_clip)
    _CHECKS[name]((theta, grad, state), family, S=spec.OPTIMIZERS[row].slots)
    constants = {key: held(theta.dtype, value) for key, value in values.items()}
    return Update(row, constants, step, held(theta.dtype, rate), clip)


# -------------------------------------------------------------------------------------------------------- whole model
class Aim(NamedTuple):
    """What a model is to predict, as a caller says it."""

    targets: Any
    loss: Any
    delta: Any
    ignore_index: Any


class Pass(NamedTuple):
    """The checked arguments of a pass over one sequence."""

    x: Any  # (T, B) int32, or (T, B, D): the inputs
    targets: Any  # (T, B) int32, or (T, B, Y)
    goal: Goal
    T: int
    threads: int | None
    has_targets: bool  # whether the caller gave them


def loss_and_grad(
    theta: Any, h: Any, c: Any, x: Any, shape: Any, aim: Aim, last_only: Any, dropout: Any, masks: Any, bfloat16: Any,
    ws: Any, threads: Any, family: Family = HOST,
) -> Pass:  # fmt: skip
    """Check the arguments of :func:`loss_and_grad`."""
    rate, bf16 = number("dropout", dropout), flag("bfloat16", bfloat16)
    flag("last_only", last_only)
    _check_masks_given(masks, rate)
    given = (theta, h, c, x, *_own(aim), masks)
    goal, sizes = _check_model("loss_and_grad", given, shape, aim, family)
    _check_bfloat16(bf16, theta.dtype)
    check_workspace(ws, shape, sizes["T"], sizes["B"], theta.dtype, given, family, rate, bf16)
    most = None if threads is None else number("threads", threads)
    return Pass(*_with_targets(x, aim), goal, sizes["T"], most, aim.targets is not None)


def _own(aim: Aim) -> tuple[Any, ...]:
    return () if aim.targets is None else (aim.targets,)


def _held(goal: Goal, real: Any) -> Goal:
    return goal._replace(delta=held(real.dtype, goal.delta))


def _with_targets(x: Any, aim: Aim) -> tuple[Any, Any]:
    """The inputs and the targets of a sequence."""
    return (x[:-1], x[1:]) if aim.targets is None else (x, aim.targets)


def _check_model(
    op: str, given: tuple[Any, ...], shape: Any, aim: Aim, family: Family, models: tuple[int, ...] = (), **known: int
) -> tuple[Goal, dict[str, int]]:
    """Check the arrays of a model's op, and its goal; return the goal and the sizes by letter."""
    known |= _sizes(shape, family)
    goal = goal_of(shape, *aim, family)
    kind = "" if aim.targets is None else "ids" if goal.loss == "cross_entropy" else "float"
    if shape.input_size:
        known |= {"D": shape.input_size, "Y": goal.targets(shape.vocab_size)}
    sizes = _of_model(op, shape.input_size > 0, kind, bool(models))(given, family, **known)
    if kind == "ids":
        check_target_ids(aim.targets, shape.vocab_size, goal.ignore_index)
    return _held(goal, given[0]), sizes


def _check_bfloat16(bfloat16: bool, dtype: Any) -> None:
    """Check that the parameters allow a pass in mixed precision, if it is asked for."""
    if bfloat16 and dtype != np.float32:
        raise ValueError(f"bfloat16: expected parameters of float32, got {dtype}")


class Training(NamedTuple):
    """The checked arguments of :func:`train_steps`: Python numbers, and C-contiguous vectors."""

    theta: Any  # (N,), written
    state: Any  # (S, N), written
    h: Any  # (L, B, H), written
    c: Any  # (L, B, H), written
    ids: Any  # (M,); each id is checked when it is read; or (M, D)
    targets: Any  # (M,) int32 or (M, Y), row k for that of ids; ids[1:], if the caller gives none
    starts: Any  # (K, B) int64
    reset: Any  # (K,) bool, C-contiguous
    learning_rate: Any  # (K,) float64, C-contiguous, in host memory
    shape: Shape
    seq_length: int
    step: int
    optimizer: str  # name of a row of spec.OPTIMIZERS, as spec.resolved returns it
    hyper: dict[str, float]  # its constants, in the table's order
    grad_scale: float
    grad_clip: float | None
    grad_clip_norm: float | None
    last_only: bool
    dropout: float
    masks: Any  # (K, L, T, B, H) or None
    weight_drop: float
    seed: int
    bfloat16: bool
    smooth_loss: float
    stop_below: float
    workspace: Workspace | None
    threads: int
    losses: Any  # (K,) float64, written
    goal: Goal
    has_targets: bool  # whether the caller gave them


def train_steps(
    theta: Any, state: Any, h: Any, c: Any, ids: Any, starts: Any, reset: Any, learning_rate: Any,
    family: Family = HOST, *,
    shape: Any, seq_length: Any, targets: Any, loss: Any, delta: Any, ignore_index: Any, step: Any, optimizer: Any,
    hyper: Any, grad_scale: Any, grad_clip: Any, grad_clip_norm: Any,
    last_only: Any, dropout: Any, masks: Any, weight_drop: Any, seed: Any, bfloat16: Any,
    smooth_loss: Any, stop_below: Any, workspace: Any, threads: Any, out: Any,
) -> Training:  # fmt: skip
    """Check the arguments of :func:`train_steps`, except the ids, which are checked when they are read.

    With a leading axis of models, the vectors of the result have it, too, except rates that all models have.
    """
    aim = Aim(targets, loss, delta, ignore_index)
    values = {name: number(name, value) for name, value in spec.hyper_values(optimizer, hyper).items()}
    optimizer, values = spec.resolved(optimizer, values)
    row = spec.OPTIMIZERS[optimizer]
    if row.skips_zeros and values.get("epsilon") == 0:
        # an element whose gradient has always been zero gives 0 / 0, unless a backend skips such rows
        raise ValueError(f"epsilon: expected at least 1.2e-38 in train_steps with {optimizer}, got 0")
    T, rate, bf16 = number("seq_length", seq_length), number("dropout", dropout), flag("bfloat16", bfloat16)
    is_one_rate = not hasattr(learning_rate, "shape") or isinstance(learning_rate, np.generic)
    if is_one_rate:
        rate_of_all = number("learning_rate", learning_rate)
    _check_masks_given(masks, rate)
    reset, rates = _contiguous(reset, family), None if is_one_rate else _contiguous(learning_rate, family)
    given = (theta, state, h, c, ids, *_own(aim), starts, reset, rates, masks, out)
    models = () if getattr(theta, "ndim", 1) != 2 else (len(theta),)
    goal, sizes = _check_model("train_steps", given, shape, aim, family, models, S=row.slots, T=T)
    rates = np.full(sizes["K"], rate_of_all) if is_one_rate else family.to_host(rates)
    wrong = rates[~((rates >= 0) & (rates < np.inf))]
    if len(wrong):
        raise ValueError(f"learning_rate: expected {VALUES['learning_rate'].allowed}, got {wrong[0]}")
    B, M = sizes["B"], sizes["M"]
    _check_bfloat16(bf16, theta.dtype)
    end = M if aim.targets is None else M + 1  # the targets of a sequence lie before it
    what = f"{'' if aim.targets is None else 'one more than '}the number of {'rows' if shape.input_size else 'ids'}"
    if end <= max(T, 1):
        raise ValueError(f"seq_length: expected less than {end} ({what}), got {T}")
    if starts.size and (int(starts.min()) < 0 or int(starts.max()) + T >= end):
        raise ValueError(
            f"starts: expected 0 <= start and start + {T} < {end} ({what}), "
            f"got {int(starts.min())} to {int(starts.max())}"
        )
    scale, rates = number("grad_scale", grad_scale), held(theta.dtype, rates)
    values = {key: held(theta.dtype, value) for key, value in values.items()}
    training = Training(
        theta, state, h, c, ids, ids[1:] if aim.targets is None else aim.targets, starts, reset, rates, shape, T,
        number("step", step), optimizer, values,
        held(theta.dtype, scale), number("grad_clip", grad_clip), number("grad_clip_norm", grad_clip_norm),
        flag("last_only", last_only), rate, masks, number("weight_drop", weight_drop), number("seed", seed), bf16,
        number("smooth_loss", smooth_loss), number("stop_below", stop_below), workspace, number("threads", threads),
        family.empty((*models, sizes["K"])) if out is None else out, goal, aim.targets is not None,
    )  # fmt: skip
    check_workspace(workspace, shape, T, B, theta.dtype, given, family, rate, bf16)
    return training


def score(
    theta: Any, h: Any, c: Any, x: Any, shape: Any, aim: Aim, ws: Any, threads: Any, out: Any, family: Family = HOST
) -> Pass:
    """Check the arguments of :func:`score`."""
    given = (theta, h, c, x, *_own(aim), out)
    goal, sizes = _check_model("score", given, shape, aim, family)
    check_workspace(ws, shape, sizes["T"], sizes["B"], theta.dtype, given, family)
    return Pass(*_with_targets(x, aim), goal, sizes["T"], number("threads", threads), aim.targets is not None)


class Sampling(NamedTuple):
    """The arguments of :func:`sample` that checking may change."""

    uniforms: Any  # (n, B) float64, C-contiguous
    temperature: float
    top_k: int  # at most V
    top_p: float


def sample(
    theta: Any, h: Any, c: Any, x: Any, uniforms: Any, shape: Any, temperature: Any, top_k: Any, top_p: Any,
    log_probs: Any, mixture: Any = None, family: Family = HOST,
) -> Sampling:  # fmt: skip
    """Check the arguments of :func:`sample`."""
    how = number("temperature", temperature), number("top_k", top_k), number("top_p", top_p)
    known = _sizes(shape, family)
    if shape.input_size:
        raise ValueError(f"shape: expected input_size 0, as only ids can be drawn, got {shape.input_size}")
    uniforms = _contiguous(uniforms, family)
    given = (theta, h, c, x, uniforms, log_probs)
    if mixture is None:
        _CHECKS["sample"](given, family, **known)
    elif family is not HOST:
        raise ValueError("mixture: expected None on the cupy backend, which has no n-grams")
    else:
        _MIXED((*given, *unpacked("mixture", mixture, Mixture)), family, **known)
    if uniforms.size and not (uniforms.min() >= 0 and uniforms.max() < 1):
        raise ValueError("uniforms: expected numbers in [0, 1)")
    return Sampling(uniforms, how[0], min(how[1], shape.vocab_size), how[2])


def not_finite(n: int) -> NotFinite:
    """The error for logits from which nothing can be sampled; `n` is the number of the character."""
    return NotFinite(f"theta: expected parameters that give finite logits, got NaN or inf for character {n}")


def _contiguous(array: Any, family: Family) -> Any:
    """Return a vector, copied if it is not C-contiguous; return anything else unchanged, for later checks to refuse."""
    return family.copied(array) if type(array) in family.types and not array.flags.c_contiguous else array


def _sizes(shape: Any, family: Family) -> dict[str, int]:
    """The sizes, by letter, that a model's shape determines."""
    if not isinstance(shape, Shape):
        raise WrongType(f"shape: expected kernels.spec.Shape, got {type(shape).__name__}")
    _check_cell(shape.cell, family)
    return {"V": shape.vocab_size, "H": shape.hidden_size, "L": shape.num_layers, "N": spec.num_parameters(shape)}


def _check_masks_given(masks: Any, dropout: float) -> None:
    """Check that masks are given if and only if there is dropout."""
    if (masks is None) != (dropout == 0):
        raise ValueError(f"masks: expected {'None' if dropout == 0 else 'an array'} with dropout {dropout}")


# ------------------------------------------------------------------------------------------------------- documentation
def tables() -> str:
    """Return the descriptions of all arguments as Markdown: the tables of docs/kernels.md."""
    lines = []
    for op, arrays in ARRAYS.items():
        lines += ["", f"`{op}{spec.OPS[op]}`", "", "| array | read or written | kind | dimensions | notes |"]
        lines.append("| --- | --- | --- | --- | --- |")
        for name, pattern in arrays.items():
            text, *notes = pattern.split(", ")
            access = "written" if text.startswith("out ") else "read"
            forms = [form.partition(" ") for form in text.removeprefix("out ").split(" | ")]
            kinds = " or ".join(kind.replace("<", ", below ") for kind, _, _ in forms)
            dims = " or ".join(f"({', '.join(words.split())}{',' if ' ' not in words else ''})" for *_, words in forms)
            lines.append(f"| `{name}` | {access} | {kinds} | {dims} | {', '.join(notes)} |")
    lines += ["", "| number | what it may be |", "| --- | --- |"]
    lines += [f"| `{name}` | {value.allowed} |" for name, value in VALUES.items()]
    return "\n".join(lines).strip()


if __name__ == "__main__":
    print(tables())
