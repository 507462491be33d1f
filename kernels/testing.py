"""How kernels are judged: gradients against finite differences, and results against a tolerance.

``charlstm gradcheck`` and the tests use it, and so may the author of a new backend.
"""

from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from kernels import spec
from kernels.protocol import Ops
from kernels.spec import Floats, Shape
from kernels.spec.arguments import check_layout, check_type

#: Largest relative error, norm-wise, that a gradient may have against central differences in float64.
GRADIENT_TOLERANCE = 1e-6
#: Largest relative error, norm-wise, of a float64 result against the reference.
FLOAT64_TOLERANCE = 1e-12

#: Sizes of gradient checks: small, odd and all different, so that a swapped axis cannot pass.
T, B, V, H, D, E = 5, 2, 7, 3, 4, 6


# --------------------------------------------------------------------------------------------------- close enough
def relative_error(got: ArrayLike, expected: ArrayLike) -> float:
    """||got - expected|| / ||expected||, Euclidean norms of all elements; NaN anywhere gives NaN, 0 / 0 gives 0."""
    got, expected = np.asarray(got, np.float64), np.asarray(expected, np.float64)
    if got.shape != expected.shape:
        raise ValueError(f"got: expected shape {expected.shape}, got {got.shape}")
    difference, size = float(np.linalg.norm(got - expected)), float(np.linalg.norm(expected))
    return difference / size if size else difference


def float32_excess(got: ArrayLike, plain: ArrayLike, exact: ArrayLike) -> float:
    """Ratio of a float32 result's error to the allowed error: at most 1 passes, NaN gives NaN.

    The error is the largest deviation from `exact` (float64). The allowed error is the larger of two: four times the
    error of `plain`, NumPy's float32 result, and eight float32 epsilons of the tensor's largest element.
    """
    got, plain, exact = (np.asarray(a, np.float64) for a in (got, plain, exact))
    if exact.size == 0:
        return 0.0
    allowed = max(
        4 * float(np.abs(plain - exact).max()), 8 * float(np.finfo(np.float32).eps) * float(np.abs(exact).max())
    )
    error = float(np.abs(got - exact).max())
    return error / allowed if allowed else error


# ---------------------------------------------------------------------------------------------- finite differences
class GradientError(NamedTuple):
    """The error of one tensor's gradient, relative and norm-wise, against central differences."""

    op: str
    tensor: str
    error: float


def numerical_gradient(loss: Callable[[], float], array: Floats, delta: float = 1e-5) -> Floats:
    """Gradient of `loss` with respect to every element of `array`, by central differences.

    Parameters
    ----------
    loss : function without arguments that reads `array` on every call
    array : float64 of any shape, C-contiguous and writeable; its elements are changed in place, then restored
    delta : step to either side

    Returns
    -------
    gradient : float64, of the shape of `array`

    Raises
    ------
    ValueError
        ``array: expected float64, got float32`` and the like: with a copy, or with rounding, the check would be void.
    """
    check_type("array", array)
    if array.dtype != np.float64:
        raise ValueError(f"array: expected float64, got {array.dtype}")
    check_layout("array", array, True)
    gradient = np.empty_like(array)
    flat, out = array.reshape(-1), gradient.reshape(-1)
    for k in range(len(flat)):
        kept = flat[k]
        flat[k] = kept + delta
        above = loss()
        flat[k] = kept - delta
        out[k] = (above - loss()) / (2 * delta)
        flat[k] = kept
    return gradient


def cells_of(ops: Ops) -> list[str]:
    """Return the names of the cells that a backend supports."""
    return [name for name, row in spec.CELLS.items() if row.on_device or not _is_gpu(ops)]


def _is_gpu(ops: Ops) -> bool:
    return ops.__name__.startswith("kernels.gpu")


def gradient_errors(ops: Ops, seed: int = 0, cells: Iterable[str] | None = None) -> Iterator[GradientError]:
    """Check every gradient that a backend computes for `cells`: every element of every tensor, in float64.

    cells: names, by default all that the backend supports.

    The initial states are nonzero and all different, and so are the gradients with respect to the last states.
    """
    random = np.random.RandomState(seed)
    yield from _loss_errors(ops, random)
    for cell in cells_of(ops) if cells is None else cells:
        yield from _layer_errors(ops, random, cell, random.randint(0, V, (T, B)).astype(np.int32))
        yield from _layer_errors(ops, random, cell, random.randn(T, B, D))
        for layers in (1, 2, 3):
            yield from _model_errors(ops, random, cell, layers)
        yield from _model_errors(ops, random, cell, 2, "last step", last_only=True)
        yield from _model_errors(ops, random, cell, 2, "dropout", dropout=0.4)
        yield from _model_errors(ops, random, cell, 2, "embedding", embedding_size=E)
        yield from _model_errors(ops, random, cell, 3, "all of it", embedding_size=E, dropout=0.4, last_only=True)
        if not _is_gpu(ops):
            yield from _order_errors(ops, np.random.RandomState(seed), cell)


def _order_errors(ops: Ops, random: np.random.RandomState, cell: str) -> Iterator[GradientError]:
    """Check layers that read in reverse, or streams of different lengths."""
    yield from _layer_errors(ops, random, cell, random.randint(0, V, (T, B)).astype(np.int32), True)
    yield from _layer_errors(ops, random, cell, random.randn(T, B, D), True, np.array([T - 2, T]))
    yield from _layer_errors(ops, random, cell, random.randn(T, B, D), False, np.array([1, T - 1]))


def layer_arrays(
    random: np.random.RandomState, cell: str, dims: tuple[int, int, int], scale: float = 0.7
) -> dict[str, np.ndarray]:
    """Random arguments, by name, of a cell's forward op other than x, for `dims` (B, D, H); std deviation `scale`."""
    B, D, H = dims
    row = spec.CELLS[cell]
    N = row.gates * H
    shapes: dict[str, tuple[int, ...]] = {f"{state}0": (B, H) for state in spec.LAYERS[cell].states}
    shapes |= {"W_x": (D, N), "W_h": (H, N)} | {name: (each.width * H,) for name, each in row.vectors.items()}
    return {name: random.randn(*shape) * scale for name, shape in shapes.items()}


def _layer_errors(
    ops: Ops, random: np.random.RandomState, cell: str, x: np.ndarray, reverse: bool = False, lengths: Any = None
) -> Iterator[GradientError]:
    is_ids = x.ndim == 2
    order: dict[str, Any] = {"reverse": True} if reverse else {}
    arrays = layer_arrays(random, cell, (B, V if is_ids else D, H))
    to_h, to_last = random.randn(T, B, H), random.randn(len(spec.LAYERS[cell].states), B, H)  # of the last states
    forward, backward = getattr(ops, f"{cell}_forward"), getattr(ops, f"{cell}_backward")
    if lengths is not None:
        order |= {"lengths": lengths}
        to_h[np.arange(T)[:, None] >= lengths] = 0

    def loss() -> float:
        *states, _ = forward(x, **arrays, **order)
        last = sum((s[1 if reverse else -1] * to).sum() for s, to in zip(states, to_last, strict=True))
        return float((states[0][1:] * to_h).sum() + last)

    found = backward(to_h, forward(x, **arrays, **order)[-1], *to_last)
    for name, array in (arrays if is_ids else {**arrays, "x": x}).items():
        error = relative_error(getattr(found, f"d{name}"), numerical_gradient(loss, array))
        yield GradientError(" ".join([cell, "ids" if is_ids else "floats", *sorted(order)]), f"d{name}", error)


def _loss_errors(ops: Ops, random: np.random.RandomState) -> Iterator[GradientError]:
    logits, targets = random.randn(T, B, V) * 3, random.randint(0, V, (T, B)).astype(np.int32)
    _, dlogits = ops.softmax_cross_entropy(logits, targets)
    expected = numerical_gradient(lambda: ops.softmax_cross_entropy(logits, targets)[0], logits)
    yield GradientError("cross_entropy", "dlogits", relative_error(dlogits, expected))


def _model_errors(
    ops: Ops,
    random: np.random.RandomState,
    cell: str,
    layers: int,
    name: str = "",
    embedding_size: int = 0,
    dropout: float = 0.0,
    last_only: bool = False,
) -> Iterator[GradientError]:
    shape = Shape(V, H, layers, cell, embedding_size)
    theta = random.randn(spec.num_parameters(shape)) * 0.5
    h, c = random.randn(layers, B, H) * 0.7, random.randn(layers, B, H) * 0.7
    x = random.randint(0, V, (T + 1, B)).astype(np.int32)
    masks = random.randint(0, 3, (layers, T, B, H)).astype(np.uint8) if dropout else None  # nonzero: kept

    def loss_and_grad() -> tuple[float, Floats]:
        return ops.loss_and_grad(theta, h, c, x, shape=shape, dropout=dropout, masks=masks, last_only=last_only)[:2]

    found = loss_and_grad()[1].copy()
    expected = numerical_gradient(lambda: loss_and_grad()[0], theta)
    blocks = zip(spec.named(found, shape).items(), spec.named(expected, shape).values(), strict=True)
    op = f"{cell} {name or 'model'}, {layers} deep"
    for (block, got), wanted in blocks:
        yield GradientError(op, f"d{block}", relative_error(got, wanted))
