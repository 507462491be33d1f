"""Functions that all layers share: gates, the product with the input, the gradients of the weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from kernels import spec
from kernels.spec import LAYERS

#: What a product with weights reads instead of h or dz.
_operand: ContextVar[Callable[[Any], Any]] = ContextVar("operand", default=lambda a: a)


def operand(a: Any) -> Any:
    """What a product with weights reads instead of h or dz: a itself, or a rounded to bfloat16."""
    return _operand.get()(a)


@contextmanager
def rounded_operands() -> Iterator[None]:
    """Context manager in which products of a batch read h and dz rounded to bfloat16."""
    token = _operand.set(spec.round_to_bfloat16)
    try:
        yield
    finally:
        _operand.reset(token)


def sigmoid(x: np.ndarray) -> np.ndarray:
    """1 / (1 + exp(-x)), without overflow: the argument of exp is never positive."""
    e = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, e) / (1 + e)


def split_gates(a: np.ndarray, gates: int = 4) -> list[np.ndarray]:
    """Views of the gate blocks of the last axis: i, f, g, o, or r, z, n for the GRU."""
    H = a.shape[-1] // gates
    return [a[..., k * H : (k + 1) * H] for k in range(gates)]


def from_input(x: np.ndarray, W_x: np.ndarray) -> np.ndarray:
    """x W_x of one step, (B, ...); for ids, the selected rows of W_x."""
    return W_x[x] if x.ndim == 1 else x @ W_x


def steps(T: int, reverse: bool) -> list[tuple[int, int]]:
    """Each time step t in the order of reading, with the index in h and c of the state before it; t + 1 is after it."""
    if reverse:
        return [(t, 0 if t == T - 1 else t + 2) for t in reversed(range(T))]
    return [(t, t) for t in range(T)]


def hold(t: int, was: int, lengths: Any, states: tuple[Any, ...], gates: Any = None) -> None:
    """Keep the states of the streams that have no step t, and clear their gates."""
    if lengths is not None:
        over = t >= lengths
        for state in states:
            state[t + 1, over] = state[was, over]
        if gates is not None:
            gates[..., t, over, :] = 0


def one_step(cache: Any, cell: str, out: Any) -> Any:
    """The results of a step op, from the cache of a forward op for one step; written to `out` if it is given."""
    states = LAYERS[cell].states
    made = [getattr(cache, name)[1] for name in states]
    if out is not None:
        buffers = out if isinstance(out, tuple) else (out,)
        for buffer, array in zip(buffers, made, strict=False):
            buffer[...] = array
        made = list(buffers[: len(states)])
    return made[0] if len(made) == 1 else tuple(made)


def pass_by(t: int, lengths: Any, dz: Any, after: tuple[Any, ...], before: tuple[Any, ...]) -> tuple[Any, ...]:
    """The gradients `before` step t, but those `after` it for streams that have no such step, whose dz is cleared."""
    if lengths is None:
        return before
    over = t >= lengths
    dz[..., t, over, :] = 0
    return tuple(np.where(over[:, None], one, other) for one, other in zip(after, before, strict=True))


def weight_gradients(x: Any, h: Any, W_x: Any, from_x: np.ndarray, from_h: np.ndarray, out: Any, reverse: bool) -> None:
    """Write dx, dW_x and dW_h into out, given the gradients (T, B, ...) of x W_x and of h W_h.

    All steps and streams share the weights, so their gradients are sums over T and B. x, from_x and from_h are operands
    already.
    """
    flat_x, flat_h = (d.reshape(-1, d.shape[-1]) for d in (from_x, from_h))
    if x.ndim == 2:
        out.dW_x[...] = 0
        np.add.at(out.dW_x, x.reshape(-1), flat_x)
    else:
        out.dx[...] = from_x @ W_x.T
        out.dW_x[...] = x.reshape(-1, x.shape[-1]).T @ flat_x
    before = h[[was for _, was in sorted(steps(len(x), reverse))]]
    out.dW_h[...] = operand(before).reshape(-1, h.shape[-1]).T @ flat_h
