"""The losses of a readout, for all backends.

y are the V outputs of a step, t its targets: an id, or Y real numbers in units of your own. The loss is summed over
these, T and B, in nats where it is a likelihood; d y is its gradient. Each is right up to rounding.

* ``cross_entropy``, of an id: ``-log softmax(y)[t]``; ``dy = softmax(y) - onehot(t)``.
* ``squared``, Y = V: ``(y - t)^2``; ``dy = 2 (y - t)``.
* ``huber``, Y = V: with ``e = y - t``, ``e^2 / 2`` where ``|e| <= delta``, else ``delta (|e| - delta / 2)``, which
  grows like the absolute error; ``dy = e`` within -delta and delta.
* ``gaussian``, V = 2 Y: the first Y outputs are means m, the others logarithms s of standard deviations:
  ``s + ((t - m) / exp(s))^2 / 2 + log(2 pi) / 2``; ``dm = (m - t) exp(-2 s)``; ``ds = 1 - (m - t)^2 exp(-2 s)``.

Nothing limits s: a loss that is not finite ends a training call. `grad_clip_norm` keeps steps small where s is.

Source: Huber (1964), Robust estimation of a location parameter; Nix and Weigend (1994), Estimating the mean and
variance of the target probability distribution. The factors are those of PyTorch's losses, with full=True.
"""

import math
from typing import Any, NamedTuple

import numpy as np

from kernels.spec.arguments import HOST, Family, check_ids, number
from kernels.spec.parameters import Shape

LOSSES = ("cross_entropy", "squared", "huber", "gaussian")

#: The constant of the Gaussian's loss.
HALF_LOG_TWO_PI = math.log(2 * math.pi) / 2


class Goal(NamedTuple):
    """The checked loss of a readout."""

    loss: str  # of LOSSES
    delta: float  # read by huber
    ignore_index: int | None  # targets of this id count for nothing

    def targets(self, outputs: int) -> int:
        """Y, the number of targets of a step, for a number of outputs and a loss of real numbers."""
        return outputs // 2 if self.loss == "gaussian" else outputs


def checked(loss: Any, delta: Any, ignore_index: Any) -> Goal:
    """Check the arguments that say what a loss is.

    Raises
    ------
    ValueError
        ``loss: expected one of cross_entropy, squared, huber, gaussian, got 'mse'`` and the like.
    """
    if not isinstance(loss, str) or loss not in LOSSES:
        raise ValueError(f"loss: expected one of {', '.join(LOSSES)}, got {loss!r:.60}")
    goal = Goal(loss, number("delta", delta), number("ignore_index", ignore_index))
    if loss != "cross_entropy" and ignore_index is not None:
        raise ValueError(f"ignore_index: expected None with loss {loss}, got {goal.ignore_index}")
    return goal


def goal_of(shape: Shape, targets: Any, loss: Any, delta: Any, ignore_index: Any, family: Family) -> Goal:
    """Check what a model of this shape is to predict; the arrays themselves are checked elsewhere.

    Raises
    ------
    ValueError
        ``loss: expected cross_entropy for a model of ids, got 'squared'`` and the like.
    """
    goal, V, D = checked(loss, delta, ignore_index), shape.vocab_size, shape.input_size
    if family is not HOST:
        refuse_on_device(shape, ignore_index)
        if targets is not None:
            raise ValueError("targets: expected None on the cupy backend, which predicts the id that follows")
    if goal.loss == "cross_entropy":
        if D and targets is None:
            raise ValueError("targets: expected ids, as a series has none for cross_entropy, got None")
        return goal
    if not D:
        raise ValueError(f"loss: expected cross_entropy for a model of ids, got {loss!r}")
    if goal.loss == "gaussian" and V % 2:
        raise ValueError(f"shape: expected an even vocab_size, a mean and a deviation for each target, got {V}")
    if targets is None and goal.targets(V) != D:
        Y = goal.targets(V)
        raise ValueError(f"targets: expected (..., {Y}), as a series of {D} columns does not fit, got None")
    return goal


def refuse_on_device(shape: Shape | None, ignore_index: Any) -> None:
    """Refuse what the cupy backend lacks."""
    if shape is not None and shape.input_size:
        raise ValueError(f"shape: expected input_size 0 on the cupy backend, got {shape.input_size}")
    if ignore_index is not None:
        raise ValueError(f"ignore_index: expected None on the cupy backend, got {ignore_index}")


def check_target_ids(targets: Any, V: int, ignore_index: int | None) -> None:
    """Check that ids (int32) lie in [0, V), or are `ignore_index`.

    Raises
    ------
    ValueError
        ``targets: expected ids in [0, 71) or -100 (ignore_index), got 71``.
    """
    if ignore_index is None:
        check_ids("targets", targets, V)
        return
    wrong = targets[(targets.view(np.uint32) >= V) & (targets != ignore_index)]
    if wrong.size:
        raise ValueError(f"targets: expected ids in [0, {V}) or {ignore_index} (ignore_index), got {wrong[0]}")
