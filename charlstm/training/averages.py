"""The mean of a net's weights over the last part of a run so far: the weights that speak, with ``--average``.

Steps at a high learning rate end somewhere around a minimum; their mean is nearer to it. With ``--average 0.05``, it
reaches back over about the last twentieth of the iterations made, however many there will be, so a run that ends early
has one, too (polynomial-decay averaging: Shamir and Zhang 2013, Stochastic gradient descent for non-smooth
optimization). Training itself is not affected.
"""

from typing import Any

_POINTS = 128  # iterations at which weights enter the mean while the number of iterations doubles, at least


def _distance(iteration: int, every: int) -> int:
    """Iterations between the points after this one; all are multiples of `every`."""
    return every * max(1, (1 << (max(iteration, 1) // every).bit_length() >> 1) // _POINTS)


def next_point(iteration: int, every: int = 1) -> int:
    """The first iteration above this one after which weights enter the mean.

    Parameters
    ----------
    every : iterations between the moments at which several ranks agree
    """
    distance = _distance(iteration, every)
    return (iteration // distance + 1) * distance


def enter(mean: Any, theta: Any, iteration: int, fraction: float, every: int = 1) -> None:
    """Let the weights after `iteration` enter the mean, (N,), if it is a point.

    Parameters
    ----------
    fraction : of the iterations made, over which the mean reaches back
    every : as for :func:`next_point`
    """
    if iteration == 0 or next_point(iteration - 1, every) != iteration:
        return
    past = 1 - min(1.0, 1 / (fraction * iteration))
    weight = theta.dtype.type(1 - past ** _distance(iteration - 1, every))
    mean += weight * (theta - mean)
