"""The optimizers: formulas, constants, memory."""

from collections.abc import Mapping
from typing import NamedTuple

from kernels.spec.arguments import WrongType


class Optimizer(NamedTuple):
    """One row of the optimizer table."""

    slots: int  # S, arrays of memory as long as theta, all starting at zero; see slots() for momentum's
    hyper: dict[str, float]  # name -> default, in the order in which compiled loops take them
    formula: str


OPTIMIZERS = {
    "sgd": Optimizer(
        0,
        {"momentum": 0.0},
        "theta -= learning_rate g;  with momentum  v = momentum v + g;  theta -= learning_rate v",
    ),
    "adagrad": Optimizer(
        1, {"epsilon": 1e-8}, "s += g^2;  theta -= learning_rate g / sqrt(s + epsilon)   (epsilon inside the root)"
    ),
    "rmsprop": Optimizer(
        1,
        {"rho": 0.99, "epsilon": 1e-8},
        "s = rho s + (1-rho) g^2;  theta -= learning_rate g / (sqrt(s) + epsilon)   (epsilon outside the root)",
    ),
    "adam": Optimizer(
        2,
        {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
        "k = step + 1;  m = beta1 m + (1-beta1) g;  v = beta2 v + (1-beta2) g^2;"
        "  theta -= learning_rate (m / (1-beta1^k)) / (sqrt(v / (1-beta2^k)) + epsilon)   (epsilon outside the root)",
    ),
}


def hyper_values(optimizer: str, hyper: dict[str, float] | None) -> dict[str, float]:
    """The optimizer's constants: its defaults with `hyper` laid over them, in the table's order.

    Raises
    ------
    ValueError
        For an optimizer or a constant that the table does not have.
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


def slots(optimizer: str, hyper: dict[str, float] | None = None) -> int:
    """S, arrays of memory that an optimizer with these constants needs: plain descent needs none, momentum one."""
    return slots_of(optimizer, hyper_values(optimizer, hyper))


def slots_of(optimizer: str, constants: dict[str, float]) -> int:
    """As :func:`slots`, for all constants of an optimizer."""
    return 1 if constants.get("momentum") else OPTIMIZERS[optimizer].slots
