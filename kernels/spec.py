"""The contract that every backend keeps: dimensions, equations, layout, names, limits. Written here once.

Dimensions
----------
T seq_length, B batch_size, V vocab_size, H hidden_size, L num_layers, E embedding_size, D width of a layer's input (V
for ids, E for embeddings, else the H of the layer below), N number of parameters, S arrays of optimizer memory.

Equations of one LSTM layer (gates in PyTorch's order i, f, g, o; ``y = x @ W + b`` everywhere)
-----------------------------------------------------------------------------------------------
::

    z   = x_t W_x + h_{t-1} W_h + b                      x_t W_x is the row W_x[x_t] where x holds ids
    i, f, o = sigmoid(z_i, z_f, z_o);  g = tanh(z_g)
    c_t = f c_{t-1} + i g
    h_t = o tanh(c_t)
    logits = h_t W_y + b_y;   loss = -sum log softmax(logits)[target]          nats, summed over T and B

Backward, from the last step to the first::

    dlogits = probs - onehot(target)
    dh  = dlogits W_y' + dh_next
    dc  = dc_next + dh o (1 - tanh(c_t)^2)
    dz  = [ dc g i (1-i) | dc c_{t-1} f (1-f) | dc i (1-g^2) | dh tanh(c_t) o (1-o) ]
    dW_x += x_t' dz;  dW_h += h_{t-1}' dz;  db += dz;  dx_t = dz W_x'
    dh_next = dz W_h';  dc_next = dc f

With an embedding the first layer's x_t is the row embedding[id], of which d embedding[id] += dx_t. With dropout what a
layer passes up, to the next layer and to the readout but not to its own next step, is ``h_t / (1 - dropout)`` where the
mask is not zero, else 0; and so is the gradient that comes down to h_t.

Source: Hochreiter and Schmidhuber (1997), with the forget gate of Gers, Schmidhuber and Cummins (2000); truncated
backpropagation through time as in Williams and Peng (1990); dropout between layers alone as in Zaremba, Sutskever and
Vinyals (2014).

The other cells: no cell state; logits, loss and dh (with its dh_next) as above
-------------------------------------------------------------------------------
RNN::

    h_t = tanh(x_t W_x + h_{t-1} W_h + b)
    dz  = dh (1 - h_t^2);   dW_x += x_t' dz;  dW_h += h_{t-1}' dz;  db += dz;  dx_t = dz W_x';  dh_next = dz W_h'

GRU, gates in PyTorch's order r, z, n; the reset gate comes after the product, so each side has a bias of its own::

    a   = x_t W_x + b_x;   s = h_{t-1} W_h + b_h
    r, z = sigmoid(a_r + s_r), sigmoid(a_z + s_z);   n = tanh(a_n + r s_n)
    h_t = (1 - z) n + z h_{t-1}

    da_n = dh (1-z) (1 - n^2);   da_z = dh (h_{t-1} - n) z (1-z);   da_r = da_n s_n r (1-r)
    ds   = [ da_r | da_z | da_n r ]
    dW_x += x_t' da;  dW_h += h_{t-1}' ds;  db_x += da;  db_h += ds;  dx_t = da W_x';  dh_next = ds W_h' + dh z

Source: Elman (1990); Cho et al. (2014), with the reset gate where cuDNN and PyTorch have it.
"""

import math
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple, Self

import numpy as np

from kernels.arguments import WrongType, flag, number

# --------------------------------------------------------------------------------------------------- gate order
GATE_I, GATE_F, GATE_G, GATE_O = range(4)
GATE_R, GATE_Z, GATE_N = range(3)

#: Blocks of H columns, one a gate, in the weights of each kind of cell.
CELLS = {"lstm": 4, "gru": 3, "rnn": 1}

FLOAT_DTYPES = ("float32", "float64")
ID_DTYPES = ("uint8", "uint16", "uint32")


# ------------------------------------------------------------------------------------------------- flat parameters
class _Sizes(NamedTuple):
    vocab_size: int
    hidden_size: int
    num_layers: int = 1
    cell: str = "lstm"  # of CELLS
    embedding_size: int = 0  # 0: none, ids are rows of the first W_x


class Shape(_Sizes):
    """The sizes and the kind of cell that fix a model's parameters.

    Parameters
    ----------
    vocab_size, hidden_size, num_layers : V, H, L, at least 1
    cell : a name of CELLS
    embedding_size : E, or 0 for none: ids are then rows of the first W_x

    Raises
    ------
    ValueError
        ``hidden_size: expected a whole number from 1 to 2147483647, got 0`` and the like.
    """

    __slots__ = ()

    def __new__(
        cls, vocab_size: int, hidden_size: int, num_layers: int = 1, cell: str = "lstm", embedding_size: int = 0
    ) -> Self:
        """Check the sizes: whoever has a Shape has a valid one."""
        if not isinstance(cell, str) or cell not in CELLS:
            raise ValueError(f"cell: expected one of {', '.join(CELLS)}, got {cell!r:.60}")
        return super().__new__(
            cls,
            number("vocab_size", vocab_size),
            number("hidden_size", hidden_size),
            number("num_layers", num_layers),
            cell,
            number("embedding_size", embedding_size),
        )

    @classmethod
    def _make(cls, iterable: Iterable[Any]) -> Self:  # type: ignore[override]
        """As for any named tuple (also for _replace), but checked."""
        return cls(*iterable)


class LayerParams(NamedTuple):
    """Views of the parameters (or gradients) of one LSTM layer, or with H columns instead of 4H of one RNN layer."""

    W_x: Any  # (D, 4H)
    W_h: Any  # (H, 4H)
    b: Any  # (4H,)


class GRULayerParams(NamedTuple):
    """Views of one GRU layer's parameters (or gradients)."""

    W_x: Any  # (D, 3H)
    W_h: Any  # (H, 3H)
    b_x: Any  # (3H,)
    b_h: Any  # (3H,)


class Params(NamedTuple):
    """Views of a flat vector (N,): of all parameters, of all gradients, or of one array of optimizer memory."""

    layers: tuple[Any, ...]  # LayerParams or GRULayerParams
    W_y: Any  # (H, V)
    b_y: Any  # (V,)
    embedding: Any = None  # (V, E), None where there is none


def blocks(shape: Shape) -> list[tuple[str, int, tuple[int, ...]]]:
    """Name, offset and dimensions of every block of the flat vector, in order: the one place that knows them."""
    V, H, L, cell, E = shape
    columns = CELLS[cell] * H
    dims: list[tuple[str, tuple[int, ...]]] = [("embedding", (V, E))] if E else []
    for layer in range(L):
        dims += [(f"W_x_l{layer}", (H if layer > 0 else E or V, columns)), (f"W_h_l{layer}", (H, columns))]
        dims += [(f"{bias}_l{layer}", (columns,)) for bias in _layer_type(cell)._fields[2:]]
    dims += [("W_y", (H, V)), ("b_y", (V,))]
    out, offset = [], 0
    for name, dim in dims:
        out.append((name, offset, dim))
        offset += math.prod(dim)
    return out


def _layer_type(cell: str) -> type[LayerParams] | type[GRULayerParams]:
    return GRULayerParams if cell == "gru" else LayerParams


def num_parameters(shape: Shape) -> int:
    """N, the length of the flat vector."""
    _, offset, dim = blocks(shape)[-1]
    return offset + math.prod(dim)


def offsets(shape: Shape) -> np.ndarray:
    """Offsets of the blocks, int64 in the order of :func:`blocks`: how compiled loops find their way.

    An embedding is left out: it is what lies before the first of them.
    """
    return np.array([offset for name, offset, _ in blocks(shape) if name != "embedding"], np.int64)


def named(flat: Any, shape: Shape) -> dict[str, Any]:
    """Views of `flat` (N,) by block name, in the order of :func:`blocks`."""
    return {name: flat[at : at + math.prod(dim)].reshape(dim) for name, at, dim in blocks(shape)}


def params(flat: Any, shape: Shape) -> Params:
    """Views of `flat` (N,) as a :class:`Params`."""
    by_name, layer_type = named(flat, shape), _layer_type(shape.cell)
    embedding = by_name.pop("embedding", None)
    views, n = list(by_name.values()), len(layer_type._fields)
    layers = tuple(layer_type(*views[n * k : n * k + n]) for k in range(shape.num_layers))
    return Params(layers, views[-2], views[-1], embedding)


def aligned_zeros(dims: tuple[int, ...] | int, dtype: Any) -> np.ndarray:
    """Zeros whose first element sits on a 64-byte boundary, so that vector loads do not straddle cache lines."""
    dims = (dims,) if isinstance(dims, int) else dims
    dtype = np.dtype(dtype)
    raw = np.zeros(math.prod(dims) * dtype.itemsize + 64, np.uint8)
    start = -raw.ctypes.data % 64
    return raw[start : start + math.prod(dims) * dtype.itemsize].view(dtype).reshape(dims)


# --------------------------------------------------------------------------------------------------- values of ops
class LSTMCache(NamedTuple):
    """What :func:`lstm_forward` leaves for :func:`lstm_backward`; any backend's cache serves any other's backward."""

    x: Any  # (T, B) int32 ids or (T, B, D) floats
    h: Any  # (T+1, B, H), [0] is what came in
    c: Any  # (T+1, B, H), [0] is what came in
    gates: Any  # (T, B, 4H), activated
    W_x: Any  # (D, 4H)
    W_h: Any  # (H, 4H)


class LSTMGrads(NamedTuple):
    """Gradients of the loss with respect to what :func:`lstm_forward` was given."""

    dx: Any  # (T, B, D); None for ids
    dh0: Any  # (B, H)
    dc0: Any  # (B, H)
    dW_x: Any  # (D, 4H)
    dW_h: Any  # (H, 4H)
    db: Any  # (4H,)


class RNNCache(NamedTuple):
    """What :func:`rnn_forward` leaves for :func:`rnn_backward`."""

    x: Any  # (T, B) int32 ids or (T, B, D) floats
    h: Any  # (T+1, B, H), [0] is what came in
    W_x: Any  # (D, H)
    W_h: Any  # (H, H)


class RNNGrads(NamedTuple):
    """Gradients of the loss with respect to what :func:`rnn_forward` was given."""

    dx: Any  # (T, B, D); None for ids
    dh0: Any  # (B, H)
    dW_x: Any  # (D, H)
    dW_h: Any  # (H, H)
    db: Any  # (H,)


class GRUCache(NamedTuple):
    """What :func:`gru_forward` leaves for :func:`gru_backward`."""

    x: Any  # (T, B) int32 ids or (T, B, D) floats
    h: Any  # (T+1, B, H), [0] is what came in
    gates: Any  # (2, T, B, 3H): [0] activated, [1] s = h W_h + b_h
    W_x: Any  # (D, 3H)
    W_h: Any  # (H, 3H)


class GRUGrads(NamedTuple):
    """Gradients of the loss with respect to what :func:`gru_forward` was given."""

    dx: Any  # (T, B, D); None for ids
    dh0: Any  # (B, H)
    dW_x: Any  # (D, 3H)
    dW_h: Any  # (H, 3H)
    db_x: Any  # (3H,)
    db_h: Any  # (3H,)


#: How much of the smoothed loss stays with each new loss; the rest is that loss.
SMOOTHING = 0.999

#: Elements of a flat vector whose squares are added up together when a norm is taken: a fixed shape for any threads.
NORM_PANEL = 4096


def norm_panels(length: int) -> int:
    """Number of panels in a flat vector of `length`."""
    return -(-length // NORM_PANEL)


def round_to_bfloat16(array: Any) -> np.ndarray:
    """A float32 array rounded to the numbers that bfloat16 has, to the nearest, ties to even; it stays float32.

    bfloat16 is the upper half of a float32: its exponent and 8 bits of precision, so an element moves by at most 1/256
    of itself.
    """
    bits = np.ascontiguousarray(array, np.float32).view(np.uint32)
    odd = (bits >> np.uint32(16)) & np.uint32(1)
    return ((bits + np.uint32(0x7FFF) + odd) & np.uint32(0xFFFF0000)).view(np.float32)


def unit_panels(
    hidden_size: int, batch_size: int, cell: str = "lstm", bfloat16: bool = False, embedding_size: int = 0
) -> int:
    """Panels that the hidden units of an LSTM's small batch are cut into, each the business of one thread, or 1.

    A panel's gates, weights and their update then stay with one core, and what flows back to all units is added up
    panel by panel: a fixed shape for any threads. Smaller models are not worth sharing out; the weights of larger ones
    do not fit a core's cache anyway, and are cut up only where the copies that are rounded to bfloat16 want it. With an
    embedding, whose gradient needs all panels, there are none.
    """
    if cell != "lstm" or embedding_size > 0 or batch_size > 3 or hidden_size < 64:
        return 1
    if hidden_size >= 384 and not bfloat16:
        return 1
    return 2 if hidden_size < 192 else 4


def packs(hidden_size: int, batch_size: int, itemsize: int, cell: str = "lstm") -> bool:
    """Whether an LSTM's recurrent matrix is copied, once an iteration, into the order in which products read it.

    That pays where its rows lie far apart and are read for many streams. What is cut into panels is not packed.
    """
    size = 4 * hidden_size**2 * itemsize
    return cell == "lstm" and size >= 2**22 and batch_size * size >= 2**27


class _Buffers(NamedTuple):
    x: Any  # (T+1, B) int32: the ids of the sequence, targets one later
    h: Any  # (L, T+1, B, H)
    c: Any  # (L, T+1, B, H), of no size where the cell has none
    gates: Any  # LSTM (L, T, B, 4H); GRU (L, 2, T, B, 3H); RNN of no size: h is all there is
    dz: Any  # LSTM (L, T, B, 4H); GRU (L, 2, T, B, 3H): da and ds; RNN (L, 1, T, B, H)
    dh: Any  # (T, B, H)
    carry: Any  # (2, B, H): dh_next, and dc_next or the GRU's dh z
    partial: (
        Any  # (2, 2, unit panels or 0, B, H or more): by turns, what each panel adds to dh_next and to the dh below
    )
    packed: Any  # (L, 4, 4 H (H + 16)) or of no size: W_h, W_h', W_x, W_x' in the order in which products read them
    table: Any  # (V, 4H), or of no size without an embedding: embedding @ W_x, of which ids are rows; then its gradient
    dropped: Any  # (L, T, B, H), or of no size without dropout: what it leaves of h
    logits: Any  # (T, B, V), then dlogits
    row_loss: Any  # (T, B) float64
    grad: Any  # (N,)
    panels: Any  # (ceil(N / NORM_PANEL),) float64: sums of squares
    rows: Any  # (2V,) int32: the rows of W_x that a sequence touches, and marks
    status: Any  # (8,) int64: what threads tell each other
    counter: Any  # (8,) int64: where threads meet
    pairs: Any = None  # (L, 4 H (H + 4)) uint32: the recurrent matrices rounded to bfloat16, two numbers in one


class Workspace(_Buffers):
    """Buffers of one pass over a model, to be passed again and again so that nothing is allocated.

    Each buffer has memory of its own. A call has a workspace for itself: a second one at the same time is refused.
    """


def workspace_layout(
    shape: Shape, seq_length: int, batch_size: int, dtype: Any, dropout: float = 0.0, bfloat16: bool = False
) -> dict[str, tuple[Any, np.dtype]]:
    """Dimensions and dtype of each buffer of a :class:`Workspace`, for passes with dropout, with bfloat16, or without.

    Pairs are there with `bfloat16` alone.
    """
    V, H, L, cell, E = shape
    T, B, N = seq_length, batch_size, num_parameters(shape)
    real, double, whole = np.dtype(dtype), np.dtype(np.float64), np.dtype(np.int64)
    panels = unit_panels(H, B, cell, bfloat16, E)
    dz = {"lstm": (L, T, B, 4 * H), "gru": (L, 2, T, B, 3 * H), "rnn": (L, 1, T, B, H)}[cell]
    layout: dict[str, tuple[Any, np.dtype]] = {
        "x": ((T + 1, B), np.dtype(np.int32)),
        "h": ((L, T + 1, B, H), real),
        "c": ((L, T + 1 if cell == "lstm" else 0, B, H), real),
        "gates": ((L, 1, 0, B, H) if cell == "rnn" else dz, real),
        "dz": (dz, real),
        "dh": ((T, B, H), real),
        "carry": ((2, B, H), real),
        "partial": ((2, 2, panels if panels > 1 else 0, B, -(-H // 16) * 16), real),
        "packed": ((L, 4, 4 * H * (H + 16) if panels == 1 and packs(H, B, real.itemsize, cell) else 0), real),
        "table": ((V if E > 0 else 0, CELLS[cell] * H), real),
        "dropped": ((L if dropout > 0 else 0, T, B, H), real),
        "logits": ((T, B, V), real),
        "row_loss": ((T, B), double),
        "grad": ((N,), real),
        "panels": ((norm_panels(N),), double),
        "rows": ((2 * V,), np.dtype(np.int32)),
        "status": ((8,), whole),
        "counter": ((8,), whole),
    }
    if bfloat16:
        layout["pairs"] = ((L, 4 * H * (H + 4)), np.dtype(np.uint32))
    return layout


def workspace(
    shape: Shape, seq_length: int, batch_size: int, dtype: Any, dropout: float = 0.0, bfloat16: bool = False
) -> Workspace:
    """Allocate a :class:`Workspace`. Floats start as NaN, so that a value read before it is written shows.

    Raises
    ------
    ValueError
        ``seq_length: expected a whole number of at least 1, got 0`` and the like.
    """
    if not isinstance(shape, Shape):
        raise WrongType(f"shape: expected kernels.spec.Shape, got {type(shape).__name__}")
    if np.dtype(dtype).name not in FLOAT_DTYPES:
        raise ValueError(f"dtype: expected {' or '.join(FLOAT_DTYPES)}, got {np.dtype(dtype)}")
    T, B, rate = number("seq_length", seq_length), number("batch_size", batch_size), number("dropout", dropout)
    buffers = {}
    for name, (dims, kind) in workspace_layout(shape, T, B, dtype, rate, flag("bfloat16", bfloat16)).items():
        buffers[name] = aligned_zeros(dims, kind)
        if kind.kind == "f":
            buffers[name].fill(np.nan)
    return Workspace(**buffers)


# ------------------------------------------------------------------------------------------------------ optimizers
class Optimizer(NamedTuple):
    """One row of the optimizer table."""

    slots: int  # S, arrays of memory as long as theta, all starting at zero; see slots() for momentum's
    hyper: dict[str, float]  # name -> default, in the order in which compiled loops take them
    formula: str


OPTIMIZERS = {
    "sgd": Optimizer(
        0,
        {"momentum": 0.0},
        "theta -= learning_rate g;  with momentum  v = momentum v + g;  theta -= learning_rate v",
    ),
    "adagrad": Optimizer(
        1, {"epsilon": 1e-8}, "s += g^2;  theta -= learning_rate g / sqrt(s + epsilon)   (epsilon inside the root)"
    ),
    "rmsprop": Optimizer(
        1,
        {"rho": 0.99, "epsilon": 1e-8},
        "s = rho s + (1-rho) g^2;  theta -= learning_rate g / (sqrt(s) + epsilon)   (epsilon outside the root)",
    ),
    "adam": Optimizer(
        2,
        {"beta1": 0.9, "beta2": 0.999, "epsilon": 1e-8},
        "k = step + 1;  m = beta1 m + (1-beta1) g;  v = beta2 v + (1-beta2) g^2;"
        "  theta -= learning_rate (m / (1-beta1^k)) / (sqrt(v / (1-beta2^k)) + epsilon)   (epsilon outside the root)",
    ),
}


def hyper_values(optimizer: str, hyper: dict[str, float] | None) -> dict[str, float]:
    """The optimizer's constants: its defaults with `hyper` laid over them, in the table's order.

    Raises
    ------
    ValueError
        For an optimizer or a constant that the table does not have.
    """
    if not isinstance(optimizer, str) or optimizer not in OPTIMIZERS:
        raise ValueError(f"optimizer: expected one of {', '.join(OPTIMIZERS)}, got {optimizer!r:.60}")
    if not isinstance(hyper, Mapping | None):
        raise WrongType(f"hyper: expected a dict of constants by name, got {type(hyper).__name__}")
    defaults = OPTIMIZERS[optimizer].hyper
    unknown = sorted(map(str, set(hyper or {}) - set(defaults)))
    if unknown:
        raise ValueError(f"hyper: {optimizer} takes {', '.join(defaults) or 'nothing'}, got {', '.join(unknown)}")
    return {**defaults, **(hyper or {})}


def slots(optimizer: str, hyper: dict[str, float] | None = None) -> int:
    """S, arrays of memory that an optimizer with these constants needs: plain descent needs none, momentum one."""
    return slots_of(optimizer, hyper_values(optimizer, hyper))


def slots_of(optimizer: str, constants: dict[str, float]) -> int:
    """As :func:`slots`, for all constants of an optimizer."""
    return 1 if constants.get("momentum") else OPTIMIZERS[optimizer].slots


# ----------------------------------------------------------------------------------------------------- op signatures
OPS = {
    "lstm_forward": "(x, h0, c0, W_x, W_h, b, *, out=None)",
    "lstm_backward": "(dh, cache, dh_last=None, dc_last=None, *, out=None, dz=None)",
    "rnn_forward": "(x, h0, W_x, W_h, b, *, out=None)",
    "rnn_backward": "(dh, cache, dh_last=None, *, out=None, dz=None)",
    "gru_forward": "(x, h0, W_x, W_h, b_x, b_h, *, out=None)",
    "gru_backward": "(dh, cache, dh_last=None, *, out=None, dz=None)",
    "softmax_cross_entropy": "(logits, targets, *, out=None)",
    "clip": "(grad, *, grad_clip=None, grad_clip_norm=None)",
    "sgd": "(theta, grad, state, step, *, learning_rate, grad_clip=None, momentum=0.0)",
    "adagrad": "(theta, grad, state, step, *, learning_rate, grad_clip=None, epsilon=1e-08)",
    "rmsprop": "(theta, grad, state, step, *, learning_rate, grad_clip=None, rho=0.99, epsilon=1e-08)",
    "adam": "(theta, grad, state, step, *, learning_rate, grad_clip=None, beta1=0.9, beta2=0.999, epsilon=1e-08)",
    "loss_and_grad": "(theta, h, c, x, *, shape, last_only=False, dropout=0.0, masks=None, workspace=None)",
    "train_steps": (
        "(theta, state, h, c, ids, starts, reset, learning_rate, *, shape, seq_length, step=0, optimizer='adagrad', "
        "hyper=None, grad_scale=1.0, grad_clip=None, grad_clip_norm=None, last_only=False, "
        "dropout=0.0, masks=None, bfloat16=False, smooth_loss=inf, stop_below=-inf, workspace=None, threads=1, "
        "out=None)"
    ),
    "score": "(theta, h, c, x, *, shape, workspace=None, out=None)",
    "sample": "(theta, h, c, x, uniforms, *, shape, temperature=1.0, top_k=0, top_p=1.0, log_probs=None)",
}
