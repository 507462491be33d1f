"""Functions that all layers share: gates, the product with the input, the gradients of the weights."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

import numpy as np

from kernels import spec

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


def weight_gradients(x: Any, h: Any, W_x: Any, from_x: np.ndarray, from_h: np.ndarray, out: Any) -> None:
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
    out.dW_h[...] = operand(h[:-1]).reshape(-1, h.shape[-1]).T @ flat_h
