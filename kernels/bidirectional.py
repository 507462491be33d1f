"""A layer that reads in both directions: two layers of one kind, one of them in reverse, side by side.

>>> import numpy as np, kernels
>>> from kernels import bidirectional
>>> ops, zeros = kernels.load("numpy"), np.zeros
>>> layer = {"h0": zeros((2, 3)), "W_x": np.ones((4, 3)), "W_h": zeros((3, 3)), "b": zeros(3)}
>>> h, caches = bidirectional.forward(ops, "rnn", np.ones((5, 2, 4)), layer, layer)
>>> h.shape
(5, 2, 6)
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kernels.protocol import Ops
from kernels.spec import Array, Cache, Floats, Grads


def forward(
    ops: Ops, cell: str, x: Array, ahead: Mapping[str, Any], behind: Mapping[str, Any], *, lengths: Any = None,
    threads: int = 1,
) -> tuple[Array, tuple[Cache, Cache]]:  # fmt: skip
    """Run a layer forward and another in reverse, over T steps and B streams.

    Parameters
    ----------
    ops : a backend, from :func:`kernels.load`, that has `reverse`: numpy or numba
    cell : a name of kernels.spec.CELLS
    x : (T, B) ids or (T, B, D) floats; read
    ahead, behind : the states and weights by name, as the cell's forward op takes them: h0, c0, W_x, ...; read
    lengths, threads : as for the forward op

    Returns
    -------
    h : (T, B, 2H), the states after each step forward in the first H columns, those of the reverse in the others
    caches : of both layers; the last states are ``caches[0].h[-1]`` and ``caches[1].h[1]``

    Raises
    ------
    ValueError
        As the cell's forward op.

    Notes
    -----
    Source: Schuster and Paliwal (1997), Bidirectional recurrent neural networks.
    """
    run, order = getattr(ops, f"{cell}_forward"), {"lengths": lengths, "threads": threads}
    caches = run(x, **ahead, **order)[-1], run(x, **behind, **order, reverse=True)[-1]
    return np.concatenate([cache.h[1:] for cache in caches], axis=-1), caches


def backward(
    ops: Ops, cell: str, dh: Floats, caches: tuple[Cache, Cache], last_ahead: Sequence[Any] | None = None,
    last_behind: Sequence[Any] | None = None, *, threads: int = 1,
) -> tuple[Array | None, Grads, Grads]:  # fmt: skip
    """Backpropagate through both layers.

    Parameters
    ----------
    ops, cell, caches : as in :func:`forward`, and what it returned
    dh : (T, B, 2H), gradient of the loss with respect to h; read
    last_ahead, last_behind : gradients (B, H) with respect to each layer's last states, None for zero
    threads : as for the backward op

    Returns
    -------
    dx, ahead, behind
        The gradient with respect to x, None for ids, and those of both layers (their dx is each layer's share).

    Raises
    ------
    ValueError
        As the cell's backward op.
    """
    run, H = getattr(ops, f"{cell}_backward"), caches[0].h.shape[-1]
    if np.ndim(dh) != 3 or np.shape(dh)[-1] != 2 * H:
        raise ValueError(f"dh: expected shape (T, B, {2 * H}), got {np.shape(dh)}")
    ahead, behind = (
        run(np.ascontiguousarray(part), cache, *(() if last is None else last), threads=threads)
        for part, cache, last in zip(np.split(dh, 2, axis=-1), caches, (last_ahead, last_behind), strict=True)
    )
    return None if ahead.dx is None else ahead.dx + behind.dx, ahead, behind


__all__ = ["backward", "forward"]
