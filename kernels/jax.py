"""The kernels under JAX: one layer as a function that jit, grad and vmap take, computed on the CPU.

>>> from kernels.jax import lstm  # doctest: +SKIP
>>> h, (h_last, c_last) = lstm(x, h0, c0, W_x, W_h, b)  # doctest: +SKIP

Weights are those of the ops, y = x @ W + b. Each function is a custom_vjp around jax.pure_callback: it has reverse-mode
gradients of every argument, and neither forward-mode nor second derivatives; vmap calls the kernel for one element
after the other. Importing this file loads JAX; :mod:`kernels` does not import it.
"""

from collections.abc import Callable
from functools import cache
from typing import Any

import jax
import numpy as np

import kernels
from kernels.spec import CELLS, LAYERS


@cache
def _ops() -> Any:
    return kernels.load(kernels.fastest())


def _called(function: Callable[..., Any], shapes: Any, *arrays: Any) -> Any:
    """Call a function of NumPy arrays from traced code."""

    def with_arrays(*given: Any) -> Any:
        return function(*(np.ascontiguousarray(each) for each in given))

    return jax.pure_callback(with_arrays, shapes, *arrays, vmap_method="sequential")


def _like(*arrays: Any) -> tuple[Any, ...]:
    return tuple(jax.ShapeDtypeStruct(each.shape, each.dtype) for each in arrays)


def _layer(cell: str) -> Callable[..., Any]:
    """The function of one kind of cell; its arguments are x, the states and the weights."""
    layer, row = LAYERS[cell], CELLS[cell]
    count = len(layer.states)

    def forward(*given: Any) -> Any:
        x, h0 = given[:2]
        T, (B, H) = x.shape[0], h0.shape
        kept = [jax.ShapeDtypeStruct((T + 1, B, H), h0.dtype)] * count
        if row.kept:
            dims = (T, B, row.gates * H)
            kept.append(jax.ShapeDtypeStruct((row.kept, *dims) if row.kept > 1 else dims, h0.dtype))

        def run(*arrays: Any) -> Any:
            *_, cache = getattr(_ops(), f"{cell}_forward")(*arrays)
            return tuple(getattr(cache, name) for name in layer.made)

        made = _called(run, tuple(kept), *given)
        return (made[0][1:], tuple(each[-1] for each in made[:count])), (given, made)

    def backward(residuals: Any, gradients: Any) -> Any:
        given, made = residuals
        dh, last = gradients
        n, m = len(given), len(made)

        def run(*arrays: Any) -> Any:
            by_name = dict(zip(layer.made, arrays[n : n + m], strict=True))
            by_name |= dict(zip(("x", *layer.grads._fields[1:]), arrays[:n], strict=True))  # W_x is called dW_x there
            named = {name.removeprefix("d") if name.startswith("dW") else name: each for name, each in by_name.items()}
            named |= {vector: named[f"d{vector}"] for vector in row.vectors}
            cache = layer.cache(**{name: named[name] for name in layer.cache._fields if name in named})
            grads = getattr(_ops(), f"{cell}_backward")(arrays[n + m], cache, *arrays[n + m + 1 :])
            return tuple(grads)

        return _called(run, _like(*given), *given, *made, dh, *last)

    @jax.custom_vjp
    def function(*given: Any) -> Any:
        return forward(*given)[0]

    function.defvjp(forward, backward)
    return function


_LSTM, _GRU, _RNN = _layer("lstm"), _layer("gru"), _layer("rnn")


def lstm(x: Any, h0: Any, c0: Any, W_x: Any, W_h: Any, b: Any) -> Any:
    """Run one LSTM layer over T steps and B streams.

    Parameters
    ----------
    x : (T, B, D), float32 or, with jax_enable_x64, float64, as all arguments
    h0, c0 : (B, H), the state before the first step
    W_x, W_h, b : (D, 4H), (H, 4H), (4H,); gates in the order i, f, g, o

    Returns
    -------
    h : (T, B, H), the state after each step
    last : (h, c), (B, H) each, the state after the last step

    Raises
    ------
    ValueError
        If the shapes do not fit; it comes out of the callback as JAX reports it.

    Notes
    -----
    Equations and source: kernels/spec/cells.py. Accuracy: that of :func:`kernels.reference.lstm_forward`, tested in
    tests/kernel/test_jax.py. Arrays are copied into and out of the callback.
    """
    return _LSTM(x, h0, c0, W_x, W_h, b)


def gru(x: Any, h0: Any, W_x: Any, W_h: Any, b_x: Any, b_h: Any) -> Any:
    """Run one GRU layer: W_x (D, 3H), W_h (H, 3H), b_x and b_h (3H,), gates r, z, n; see :func:`lstm`.

    Returns
    -------
    h, (h_last,)
    """
    return _GRU(x, h0, W_x, W_h, b_x, b_h)


def rnn(x: Any, h0: Any, W_x: Any, W_h: Any, b: Any) -> Any:
    """Run one RNN layer with tanh: W_x (D, H), W_h (H, H), b (H,); see :func:`lstm`.

    Returns
    -------
    h, (h_last,)
    """
    return _RNN(x, h0, W_x, W_h, b)


__all__ = ["gru", "lstm", "rnn"]
