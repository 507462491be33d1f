"""Shape of a model, and the layout of its flat vectors: where each block of parameters begins."""

import math
from collections.abc import Iterable
from typing import Any, NamedTuple, Self

import numpy as np

from kernels.spec.arguments import number
from kernels.spec.cells import CELLS
from kernels.spec.layers import LAYERS


class _Sizes(NamedTuple):
    vocab_size: int
    hidden_size: int
    num_layers: int = 1
    cell: str = "lstm"  # of CELLS
    embedding_size: int = 0  # 0: no embedding, an id selects a row of the first W_x


class Shape(_Sizes):
    """The sizes and the kind of cell that determine a model's parameters.

    Parameters
    ----------
    vocab_size, hidden_size, num_layers : V, H, L, at least 1; V is also the number of outputs
    cell : a name of CELLS
    embedding_size : E, or 0 for no embedding: an id then selects a row of the first W_x
    input_size : D, for a model of real-valued series, whose inputs are D numbers a step and whose first W_x is
        (D, ...); 0 for a model of ids. There is no embedding then

    Raises
    ------
    ValueError
        ``hidden_size: expected a whole number from 1 to 2147483647, got 0`` and the like.
    """

    input_size: int  # an attribute beside the five fields, so that whoever unpacks a shape gets as many as ever

    def __new__(
        cls, vocab_size: int, hidden_size: int, num_layers: int = 1, cell: str = "lstm", embedding_size: int = 0,
        input_size: int = 0,
    ) -> Self:  # fmt: skip
        """Check the sizes, so that every Shape is valid."""
        if not isinstance(cell, str) or cell not in CELLS:
            raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {cell!r:.60}")
        made = super().__new__(
            cls,
            number("vocab_size", vocab_size),
            number("hidden_size", hidden_size),
            number("num_layers", num_layers),
            cell,
            number("embedding_size", embedding_size),
        )
        made.input_size = number("input_size", input_size)
        if made.embedding_size and made.input_size:
            raise ValueError(f"embedding_size: expected 0 with input_size {input_size}, got {embedding_size}")
        return made

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]
        """Like the method of any named tuple, but checks the sizes."""
        return cls(*iterable)

    def _replace(self, **sizes: Any) -> Self:
        """Like the method of any named tuple, but checks the sizes; input_size is one of them."""
        return type(self)(**{**self._asdict(), "input_size": self.input_size, **sizes})

    def __eq__(self, other: object) -> bool:
        return tuple.__eq__(self, other) is True and self.input_size == getattr(other, "input_size", 0)

    def __ne__(self, other: object) -> bool:
        return not self == other

    def __hash__(self) -> int:
        return hash((*self, self.input_size)) if self.input_size else tuple.__hash__(self)

    def __repr__(self) -> str:
        named = {**self._asdict(), **({"input_size": self.input_size} if self.input_size else {})}
        return f"Shape({', '.join(f'{name}={value!r}' for name, value in named.items())})"


class Params(NamedTuple):
    """Views of a flat vector (N,): of all parameters, all gradients, or one array of optimizer state."""

    layers: tuple[Any, ...]  # per layer: W_x, W_h and its vectors, see LAYERS[cell].params
    W_y: Any  # (H, V)
    b_y: Any  # (V,)
    embedding: Any = None  # (V, E), or None


def blocks(shape: Shape) -> list[tuple[str, int, tuple[int, ...]]]:
    """Name, offset and dimensions of every block of the flat vector, in order."""
    V, H, L, cell, E = shape
    row = CELLS[cell]
    columns = row.gates * H
    dims: list[tuple[str, tuple[int, ...]]] = [("embedding", (V, E))] if E else []
    for layer in range(L):
        dims += [
            (f"W_x_l{layer}", (H if layer > 0 else shape.input_size or E or V, columns)),
            (f"W_h_l{layer}", (H, columns)),
        ]
        dims += [(f"{name}_l{layer}", (vector.width * H,)) for name, vector in row.vectors.items()]
    dims += [("W_y", (H, V)), ("b_y", (V,))]
    out, offset = [], 0
    for name, dim in dims:
        out.append((name, offset, dim))
        offset += math.prod(dim)
    return out


def num_parameters(shape: Shape) -> int:
    """N, the length of the flat vector."""
    _, offset, dim = blocks(shape)[-1]
    return offset + math.prod(dim)


def offsets(shape: Shape) -> np.ndarray:
    """Offsets of the blocks for compiled loops, int64, in the order of :func:`blocks`.

    The embedding is left out: it always begins at 0 and ends at the first of these offsets.
    """
    return np.array([offset for name, offset, _ in blocks(shape) if name != "embedding"], np.int64)


def named(flat: Any, shape: Shape) -> dict[str, Any]:
    """Views of `flat` (N,) by block name, in the order of :func:`blocks`."""
    return {name: flat[at : at + math.prod(dim)].reshape(dim) for name, at, dim in blocks(shape)}


def params(flat: Any, shape: Shape) -> Params:
    """Views of `flat` (N,) as a :class:`Params`."""
    by_name, layer_type = named(flat, shape), LAYERS[shape.cell].params
    embedding = by_name.pop("embedding", None)
    views = list(by_name.values())
    n = (len(views) - 2) // shape.num_layers
    layers = tuple(layer_type(*views[n * k : n * k + n]) for k in range(shape.num_layers))
    return Params(layers, views[-2], views[-1], embedding)


def aligned_zeros(dims: tuple[int, ...] | int, dtype: Any) -> np.ndarray:
    """Zeros whose first element is 64-byte aligned, so that vector loads do not straddle cache lines."""
    dims = (dims,) if isinstance(dims, int) else dims
    dtype = np.dtype(dtype)
    raw = np.zeros(math.prod(dims) * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + math.prod(dims) * dtype.itemsize].view(dtype).reshape(dims)
