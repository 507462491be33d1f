"""The weight layouts of other libraries beside ours: the order of the gates, the direction, the number of biases.

A layer here has W_x (D, G H), W_h (H, G H) and acts on row vectors, ``y = x @ W + b``. Gates are named as in
:mod:`kernels.spec.cells`; the RNN's only block is h.

Sources: the documentation of torch.nn.LSTM and torch.nn.GRU; the layers of Keras 3 (LSTMCell, GRUCell with
``reset_after=True``); the ONNX operators LSTM, GRU (``linear_before_reset=1``) and RNN; linLayerID of
cudnnGetRNNWeightParams; the Lua sources of torch-rnn. Its GRU applies the reset gate before the product, so that no
weights make ours equal to it.
"""

from typing import Any, NamedTuple

import numpy as np

from kernels.spec.cells import CELLS
from kernels.spec.layers import LAYERS


class Layout(NamedTuple):
    """How a library stores the weights of one layer."""

    orders: dict[str, str]  # the gates of each cell that it has, a letter a block, in the order of the blocks
    is_transposed: bool  # whether its matrices are (G H, D) and (G H, H), and act on column vectors
    biases: dict[str, int]  # of each cell: 2 if x and h have one each, 1 if there is one


#: Ours is first. The others have no layer-normalised LSTM.
LAYOUTS = {
    "kernels": Layout({"lstm": "ifgo", "gru": "rzn", "rnn": "h"}, False, {"lstm": 1, "gru": 2, "rnn": 1}),
    "pytorch": Layout({"lstm": "ifgo", "gru": "rzn", "rnn": "h"}, True, {"lstm": 2, "gru": 2, "rnn": 2}),
    "keras": Layout({"lstm": "ifgo", "gru": "zrn", "rnn": "h"}, False, {"lstm": 1, "gru": 2, "rnn": 1}),
    "onnx": Layout({"lstm": "iofg", "gru": "zrn", "rnn": "h"}, True, {"lstm": 2, "gru": 2, "rnn": 2}),
    "cudnn": Layout({"lstm": "ifgo", "gru": "rzn", "rnn": "h"}, True, {"lstm": 2, "gru": 2, "rnn": 2}),
    "torch-rnn": Layout({"lstm": "ifog", "rnn": "h"}, False, {"lstm": 1, "rnn": 1}),
}


class LayerWeights(NamedTuple):
    """The weights of one layer in the layout of a library; b_h is None if there is one bias, b_x."""

    W_x: Any
    W_h: Any
    b_x: Any
    b_h: Any


def to_layout(layer: Any, cell: str, library: str) -> LayerWeights:
    """Return the weights of one of our layers as a library stores them.

    Parameters
    ----------
    layer : LAYERS[cell].params, W_x (D, G H), W_h (H, G H) and the biases (G H,); read
    cell : a name of CELLS that the library has
    library : a name of LAYOUTS

    Returns
    -------
    LayerWeights
        New C-contiguous arrays. If the library has two biases and we have one, the second is zero.

    Raises
    ------
    ValueError
        ``cell: expected one of lstm, rnn for torch-rnn, got 'gru'`` and the like.
    """
    order, layout = _order(cell, library), LAYOUTS[library]
    here = _order(cell, "kernels")
    W_x, W_h = (_reordered(each, here, order) for each in (layer.W_x, layer.W_h))
    if layout.is_transposed:
        W_x, W_h = (np.ascontiguousarray(each.T) for each in (W_x, W_h))
    b_x, *rest = (_reordered(each, here, order) for each in layer[2:])
    b_h = None if layout.biases[cell] == 1 else rest[0] if rest else np.zeros_like(b_x)
    return LayerWeights(W_x, W_h, b_x, b_h)


def from_layout(weights: LayerWeights, cell: str, library: str) -> Any:
    """Return LAYERS[cell].params made from a library's weights: the inverse of :func:`to_layout`.

    Two biases are added up if the cell needs only one. Biases that are None are zero.

    Raises
    ------
    ValueError
        As :func:`to_layout`.
    """
    order, here = _order(cell, library), _order(cell, "kernels")
    W_x, W_h = (each.T if LAYOUTS[library].is_transposed else each for each in weights[:2])
    W_x, W_h = (_reordered(each, order, here) for each in (W_x, W_h))
    zero = np.zeros_like(W_h[0])
    b_x, b_h = (zero if each is None else _reordered(each, order, here) for each in weights[2:])
    return LAYERS[cell].params(W_x, W_h, *((b_x, b_h) if len(CELLS[cell].vectors) == 2 else (b_x + b_h,)))


def _order(cell: str, library: str) -> str:
    orders = LAYOUTS[library].orders
    if cell not in orders:
        raise ValueError(f"cell: expected one of {', '.join(orders)} for {library}, got {cell!r}")
    return orders[cell]


def _reordered(array: Any, order: str, wanted: str) -> Any:
    """Return a copy of an array (..., G H) with its blocks in another order."""
    blocks = array.reshape(*array.shape[:-1], len(order), -1)
    return np.ascontiguousarray(blocks[..., [order.index(gate) for gate in wanted], :]).reshape(array.shape)


def table() -> str:
    """Return the layouts as the Markdown table of docs/travel.md."""
    cells = list(LAYOUTS["kernels"].orders)
    lines = [f"| | {' | '.join(cells)} | input weights | biases |", "| --- " * (len(cells) + 3) + "|"]
    for library, layout in LAYOUTS.items():
        orders = (", ".join(layout.orders.get(cell, "-")) for cell in cells)
        dims = "(G H, D)" if layout.is_transposed else "(D, G H)"
        biases = ", ".join(f"{cell} {count}" for cell, count in layout.biases.items())
        lines.append(f"| {library} | {' | '.join(orders)} | {dims} | {biases} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    print(table(), end="")
