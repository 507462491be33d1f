"""The optimizers: one row each. Ops, checks, command-line options and the tests' tables follow from it.

Each backend adds only the arithmetic, as a function with the row's name: in reference/optimizers.py, in
cpu/optimizers.py and in gpu/cuda/common.cu.
"""

from collections.abc import Mapping
from inspect import Parameter, Signature
from typing import Any, NamedTuple

from kernels.shared import WrongType

#: Largest number of constants that a row may have: compiled loops take this many numbers.
MOST_CONSTANTS = 4


class Optimizer(NamedTuple):
    """One row of the optimizer table."""

    title: str
    slots: int  # S, number of state arrays, each as long as theta and initially zero
    hyper: dict[str, float]  # name -> default, in the order in which compiled loops take them; at most MOST_CONSTANTS
    formula: str  # g is the scaled and clipped gradient, k = step + 1
    source: str
    note: str = ""  # differences from other implementations
    skips_zeros: bool = False  # a zero gradient changes neither theta nor the state, so compiled loops may skip it
    in_tile: bool = True  # may run right after a tile of the gradient is computed; else always a pass of its own
    corrects_bias: bool = False  # the first two constants are decay rates, whose bias 1 - decay^k is divided out


OPTIMIZERS = {
    "adagrad": Optimizer(
        "Adagrad",
        1,
        {"epsilon": 1e-8},
        "s += g^2;  theta -= learning_rate g / sqrt(s + epsilon)   (epsilon inside the root)",
        "Duchi, Hazan and Singer (2011), in the diagonal form",
        "PyTorch has epsilon outside the root (1e-10); min-char-rnn has it inside, as here",
        skips_zeros=True,
    ),
    "rmsprop": Optimizer(
        "RMSprop",
        1,
        {"rho": 0.99, "epsilon": 1e-8},
        "s = rho s + (1-rho) g^2;  theta -= learning_rate g / (sqrt(s) + epsilon)   (epsilon outside the root)",
        "Tieleman and Hinton, lecture 6.5 of Neural Networks for Machine Learning (2012)",
        "As in PyTorch, whose rho is named alpha",
    ),
    "adam": Optimizer(
        "Adam",
        2,
        {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
        "k = step + 1;  m = beta1 m + (1-beta1) g;  v = beta2 v + (1-beta2) g^2;"
        "  theta -= learning_rate (m / (1-beta1^k)) / (sqrt(v / (1-beta2^k)) + epsilon)   (epsilon outside the root)",
        "Kingma and Ba (2015), algorithm 1",
        "As in PyTorch",
        corrects_bias=True,
    ),
    "sgd": Optimizer(
        "Gradient descent",
        0,
        {"momentum": 0.0},
        "theta -= learning_rate g;  with momentum  v = momentum v + g;  theta -= learning_rate v",
        "Robbins and Monro (1951)",
        "With a momentum other than 0 it is the optimizer `momentum`, whose state is (1, N)",
        skips_zeros=True,
    ),
    "momentum": Optimizer(
        "Gradient descent with momentum",
        1,
        {"momentum": 0.9},
        "v = momentum v + g;  theta -= learning_rate v",
        "Polyak (1964)",
        "PyTorch's momentum, without dampening: the learning rate stands outside v",
        in_tile=False,  # compiling it there would take another half a second
    ),
    "adamw": Optimizer(
        "AdamW",
        2,
        {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8, "weight_decay": 0.01},
        "theta -= learning_rate weight_decay theta;  then as adam",
        "Loshchilov and Hutter (2019)",
        "As in PyTorch: the decay follows the learning rate, and every parameter decays, biases too",
        corrects_bias=True,
    ),
}


def hyper_values(optimizer: str, hyper: dict[str, float] | None) -> dict[str, float]:
    """Return the optimizer's constants, in the table's order: its defaults, overridden by `hyper`.

    Raises
    ------
    ValueError
        If the table does not have the optimizer or one of the constants.
    """
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {optimizer!r:.60}")
    if not isinstance(hyper, Mapping | None):
        raise WrongType(f"hyper: expected a dict of constants by name, got {type(hyper).__name__}")
    defaults = OPTIMIZERS[optimizer].hyper
    unknown = sorted(map(str, set(hyper or {}) - set(defaults)))
    if unknown:
        raise ValueError(f"hyper: {optimizer} takes {', '.join(defaults) or 'nothing'}, got {', '.join(unknown)}")
    return {**defaults, **(hyper or {})}


def resolved(optimizer: str, constants: dict[str, float]) -> tuple[str, dict[str, float]]:
    """Return the name of the row that computes the update, and the constants that this row needs.

    These are the arguments themselves, except for sgd: with momentum it becomes `momentum`, without it needs no
    constant.
    """
    if optimizer != "sgd":
        return optimizer, constants
    return ("momentum", constants) if constants["momentum"] else ("sgd", {})


def slots(optimizer: str, hyper: dict[str, float] | None = None) -> int:
    """Return S, the number of state arrays that an optimizer with these constants needs: sgd 0, with momentum 1."""
    return OPTIMIZERS[resolved(optimizer, hyper_values(optimizer, hyper))[0]].slots


def takers(constant: str) -> list[str]:
    """Names of the optimizers that have a constant of that name."""
    return [name for name, row in OPTIMIZERS.items() if constant in row.hyper]


def signature(optimizer: str, array: Any = Any) -> Signature:
    """The signature of an optimizer's op; `array` is the annotation of its arrays."""
    vectors = [
        Parameter(name, Parameter.POSITIONAL_OR_KEYWORD, annotation=array) for name in ("theta", "grad", "state")
    ]
    step = Parameter("step", Parameter.POSITIONAL_OR_KEYWORD, annotation=int)
    given = [_keyword("learning_rate", Parameter.empty, float), _keyword("grad_clip", None, float | None)]
    constants = [_keyword(name, default, float) for name, default in OPTIMIZERS[optimizer].hyper.items()]
    return Signature([*vectors, step, *given, *constants], return_annotation=None)


def _keyword(name: str, default: Any, kind: Any) -> Parameter:
    return Parameter(name, Parameter.KEYWORD_ONLY, default=default, annotation=kind)


def documentation(optimizer: str) -> str:
    """The docstring of an optimizer's op."""
    row = OPTIMIZERS[optimizer]
    memory = f"({row.slots}, N) optimizer state, zero before the first update; written" if row.slots else "(0, N)"
    constants = [f"{name} : a constant of the formula" for name in row.hyper]
    lines = [
        f"Make one {row.title} update, in place on flat vectors.",
        f"``{row.formula}``",
        "Parameters\n----------",
        "theta : (N,) parameters; written",
        "grad : (N,) gradient; read (g is grad clipped to [-grad_clip, grad_clip] by element)",
        f"state : {memory}",
        f"step : number of updates made before this one{'' if row.corrects_bias else '; not used'}",
        "learning_rate : step size",
        "grad_clip : limit of the absolute value of each element of the gradient; None for no limit",
        *constants,
        "Raises\n------",
        "ValueError",
        "    ``grad: expected (N,) = (40,), got (39,)`` and the like.",
        "Notes\n-----",
        f"{row.note}. Source: {row.source}." if row.note else f"Source: {row.source}.",
    ]
    head, parameters, errors, notes = lines[:2], lines[2:-5], lines[-5:-2], lines[-2:]
    return "\n\n".join([*head, *map("\n".join, (parameters, errors, notes))]) + "\n"
