"""How kernels are judged: gradients against finite differences, and results against a tolerance.

``charlstm gradcheck`` and the tests use it, and so may the author of a new backend, or of any layer (:func:`judge`).
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any, NamedTuple, Protocol

import numpy as np
from numpy.typing import ArrayLike

from kernels import spec
from kernels.protocol import Ops
from kernels.spec import Array, Floats, Shape
from kernels.spec.arguments import check_layout, check_type

#: Largest relative error, norm-wise, that a gradient may have against central differences in float64.
GRADIENT_TOLERANCE = 1e-6
#: Largest relative error, norm-wise, of a float64 result against the reference.
FLOAT64_TOLERANCE = 1e-12


class Sizes(NamedTuple):
    """Sizes of gradient checks: small, odd and all different by default, so that a swapped axis cannot pass."""

    T: int = 5
    B: int = 2
    V: int = 7
    H: int = 3
    D: int = 4
    E: int = 6


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


class Judged(Protocol):
    """What :func:`judge` needs of a layer, or of any other function with gradients, from whatever library."""

    def arrays(self) -> Mapping[str, Floats]:
        """What the function reads, by name: float64, C-contiguous; :func:`judge` changes elements and restores them."""

    def forward(self) -> Mapping[str, Array]:
        """Compute the results, by name, from the arrays as they are now."""

    def backward(self, gradients: Mapping[str, Floats]) -> Mapping[str, Array]:
        """Return, by the names of the arrays, the gradients of the sum of all results times their `gradients`."""


def judge(layer: Judged, seed: int = 0, name: str = "layer") -> list[GradientError]:
    """Check every gradient of anybody's layer against central differences: every element of every array.

    Parameters
    ----------
    layer : what to check; examples/judge_a_layer.py adapts torch.nn.LSTM
    seed : of the gradients of the results, which are random, so that no two results can cancel each other
    name : of the layer, for the errors

    Returns
    -------
    list of GradientError
        One for each array; a correct gradient has an error below :data:`GRADIENT_TOLERANCE`. An array whose gradient is
        missing, or has another shape, has the error NaN.

    Raises
    ------
    ValueError
        ``array: expected float64, got float32`` and the like, as :func:`numerical_gradient`.

    Notes
    -----
    A check costs two forward passes for each element. Central differences of a smooth function in float64 are right to
    about 1e-9; at a kink, as of relu at 0, they are not. That the results themselves are right is not checked: compare
    them with another library's, or with ``kernels.load("numpy")``.
    """
    random = np.random.RandomState(seed)
    gradients = {key: random.randn(*np.shape(each)) for key, each in layer.forward().items()}

    def loss() -> float:
        return float(sum((np.asarray(each) * gradients[key]).sum() for key, each in layer.forward().items()))

    given = {key: each.copy() for key, each in gradients.items()}  # a backward pass may work in place
    found = {key: np.array(each) for key, each in layer.backward(given).items()}  # and in buffers of its own
    errors = []
    for key, array in layer.arrays().items():
        got, wanted = found.get(key, np.array(np.nan)), numerical_gradient(loss, array)
        error = relative_error(got, wanted) if got.shape == wanted.shape else float("nan")
        errors.append(GradientError(name, key, error))
    return errors


def is_correct(errors: Iterable[GradientError]) -> bool:
    """Whether every gradient is within :data:`GRADIENT_TOLERANCE`; NaN is not."""
    return all(each.error < GRADIENT_TOLERANCE for each in errors)


def cells_of(ops: Ops) -> list[str]:
    """Return the names of the cells that a backend supports."""
    return [name for name, row in spec.CELLS.items() if row.on_device or not _is_gpu(ops)]


def _is_gpu(ops: Ops) -> bool:
    return ops.__name__.startswith("kernels.gpu")


def gradient_errors(
    ops: Ops, seed: int = 0, cells: Iterable[str] | None = None, sizes: Sizes | None = None,
    layers: Iterable[int] = (1, 2, 3),
) -> Iterator[GradientError]:  # fmt: skip
    """Check every gradient that a backend computes for `cells`: every element of every tensor, in float64.

    cells: names, by default all that the backend supports. layers: numbers of layers of the models that are checked.

    The initial states are nonzero and all different, and so are the gradients with respect to the last states.
    """
    random, sizes, layers = np.random.RandomState(seed), sizes or Sizes(), tuple(layers)
    T, B, V, H, D, E = sizes
    yield from _loss_errors(ops, random, sizes)
    for cell in cells_of(ops) if cells is None else cells:
        yield from _layer_errors(ops, random, cell, random.randint(0, V, (T, B)).astype(np.int32), V, H)
        yield from _layer_errors(ops, random, cell, random.randn(T, B, D), D, H)
        for depth in layers:
            yield from _model_errors(ops, random, cell, depth, sizes)
        deepest, deep = max(layers), min(2, max(layers))
        yield from _model_errors(ops, random, cell, deep, sizes, "last step", last_only=True)
        yield from _model_errors(ops, random, cell, deep, sizes, "dropout", dropout=0.4)
        yield from _model_errors(ops, random, cell, deep, sizes, "embedding", embedding_size=E)
        everything: dict[str, Any] = {"embedding_size": E, "dropout": 0.4, "last_only": True}
        yield from _model_errors(ops, random, cell, deepest, sizes, "all of it", **everything)
        if not _is_gpu(ops):
            yield from _order_errors(ops, np.random.RandomState(seed), cell, sizes)


def _order_errors(ops: Ops, random: np.random.RandomState, cell: str, sizes: Sizes) -> Iterator[GradientError]:
    """Check layers that read in reverse, or streams of different lengths."""
    T, B, V, H, D, _ = sizes
    yield from _layer_errors(ops, random, cell, random.randint(0, V, (T, B)).astype(np.int32), V, H, True)
    for reverse, ends in ((True, (max(T - 2, 1), T)), (False, (1, max(T - 1, 1)))):
        lengths = np.resize(np.array(ends), B)
        yield from _layer_errors(ops, random, cell, random.randn(T, B, D), D, H, reverse, lengths)


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
    ops: Ops, random: np.random.RandomState, cell: str, x: np.ndarray, width: int, H: int, reverse: bool = False,
    lengths: Any = None,
) -> Iterator[GradientError]:  # fmt: skip
    is_ids, (T, B) = x.ndim == 2, x.shape[:2]
    order: dict[str, Any] = {"reverse": True} if reverse else {}
    arrays = layer_arrays(random, cell, (B, width, H))
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


def _loss_errors(ops: Ops, random: np.random.RandomState, sizes: Sizes) -> Iterator[GradientError]:
    T, B, V, *_ = sizes
    logits, targets = random.randn(T, B, V) * 3, random.randint(0, V, (T, B)).astype(np.int32)
    _, dlogits = ops.softmax_cross_entropy(logits, targets)
    expected = numerical_gradient(lambda: ops.softmax_cross_entropy(logits, targets)[0], logits)
    yield GradientError("cross_entropy", "dlogits", relative_error(dlogits, expected))


def _model_errors(
    ops: Ops,
    random: np.random.RandomState,
    cell: str,
    layers: int,
    sizes: Sizes,
    name: str = "",
    embedding_size: int = 0,
    dropout: float = 0.0,
    last_only: bool = False,
) -> Iterator[GradientError]:
    T, B, V, H, *_ = sizes
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
