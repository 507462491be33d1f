"""The buffers of a pass over a model, allocated once and reused by many calls."""

from typing import Any, NamedTuple

import numpy as np

from kernels.shared import WrongType
from kernels.spec.arguments import flag, number
from kernels.spec.cells import CELLS, FLOAT_DTYPES, is_mixed
from kernels.spec.parameters import Shape, aligned_zeros, num_parameters
from kernels.spec.values import norm_panels


def unit_panels(
    hidden_size: int, batch_size: int, cell: str = "lstm", bfloat16: bool = False, embedding_size: int = 0
) -> int:
    """Number of panels the hidden units are split into (1: no split); one thread owns each panel.

    A panel's gates, weights and their update then stay in one core's cache. The gradients that flow back to all units
    are summed panel by panel, in an order that does not depend on the number of threads. Only an LSTM with a small
    batch is split. Smaller models are too small to share; the weights of larger ones do not fit a core's cache, so they
    are split only if they are rounded to bfloat16. With an embedding there is no split, because its gradient needs all
    panels.
    """
    if not CELLS[cell].panels or embedding_size > 0 or batch_size > 3 or hidden_size < 64:
        return 1
    if is_mixed(bfloat16, batch_size, cell, embedding_size):
        return 1
    if hidden_size >= 384 and not bfloat16:
        return 1
    return 2 if hidden_size < 192 else 4


def packs(hidden_size: int, batch_size: int, itemsize: int, cell: str = "lstm") -> bool:
    """Whether an LSTM's recurrent matrix is copied, once per iteration, into the order in which products read it.

    The copy pays off if the rows are long and are read for many streams. Weights that are split into panels are not
    packed.
    """
    size = 4 * hidden_size**2 * itemsize
    return CELLS[cell].panels and size >= 2**22 and batch_size * size >= 2**27


def depth_of(length: int) -> int:
    """Length of a contraction of bfloat16, padded to whole tiles."""
    return (length + 31) // 32 * 32


def row_of(length: int) -> int:
    """Row stride of a matrix of bfloat16 numbers: whole tiles and one more, so that rows do not share a cache set."""
    return depth_of(length) + 32


def _rounded_layout(shape: Shape, T: int, B: int, has_dropout: bool) -> dict[str, tuple[Any, np.dtype]]:
    """Dimensions of the buffers of bfloat16 for a batch; columns are padded to any backend's panels."""
    V, H, L, cell, _ = shape
    G, planes, even = CELLS[cell].gates, 2 if CELLS[cell].state else 1, (B + 1) // 2 * 2
    columns = {n: (n + 95) // 96 * 96 for n in (V, H, G * H)}
    dims: dict[str, Any] = {
        "rounded_h": (L, (T + 1) * B, row_of(H)),
        "rounded_dropped": (L if has_dropout else 0, T * B, row_of(H)),
        "rounded_dz": (planes, 2 * B, row_of(G * H)),
        "rounded_logits": (T * B, row_of(V)),
        "rounded_weights": (L, 4, G * depth_of(H) * columns[H]),
        "rounded_readout": (2, max(depth_of(H) * columns[V], depth_of(V) * columns[H])),
        "transposed": (2 if has_dropout else 1, L, (H + 15) // 16 * 16, row_of((T + 1) * even)),
        "pairs_of_dz": (L, planes, columns[G * H] * depth_of(T * even)),
        "pairs_of_logits": (columns[V] * depth_of(T * even),),
    }
    return {name: (each, np.dtype(np.uint16)) for name, each in dims.items()}


class _Buffers(NamedTuple):
    x: Any  # (T+1, B) int32: the ids of the sequence, targets one later
    h: Any  # (L, T+1, B, H)
    c: Any  # (L, T+1, B, H), empty if the cell has none
    gates: Any  # (L, kept, T, B, gates H): see kernels.spec.cells.Cell; empty if none are kept
    dz: Any  # (L, planes, T, B, gates H)
    dh: Any  # (T, B, H)
    carry: Any  # (2, B, H): dh_next, and dc_next or the GRU's dh z
    partial: Any  # (2, 2, unit panels or 0, B, H or more): two turns of each panel's share of dh_next and the dh below
    packed: Any  # (L, 4, 4 H (H + 16)) or empty: W_h, W_h', W_x, W_x' in the order in which products read them
    # The next three are empty without an embedding; U is the most ids that differ in a sequence, min(V, T B).
    table: Any  # (U, gates H): embedding @ W_x, a row for each id of the sequence in ascending order; then its gradient
    embedded: Any  # (2, U, E): the rows of the embedding for these ids, and their gradient
    places: Any  # (T, B) int32: the row of the table that belongs to an input
    dropped: Any  # (L, T, B, H), empty without dropout: h after dropout
    logits: Any  # (T, B, V), then dlogits
    row_loss: Any  # (T, B) float64
    grad: Any  # (N,)
    panels: Any  # (ceil(N / NORM_PANEL),) float64: sums of squares
    rows: Any  # (2V,) int32: the rows of W_x, or of the embedding, that a sequence touches; and marks of ids
    status: Any  # (8,) int64: what threads tell each other
    counter: Any  # (8,) int64: the threads' barrier
    pairs: Any = None  # (L, 4 H (H + 4)) uint32: recurrent matrices rounded to bfloat16, two numbers per element
    # What products of a batch read, rounded to bfloat16 (uint16); layouts: kernels/cpu/mixed.py
    rounded_h: Any = None  # rows of h
    rounded_dropped: Any = None  # rows of h after dropout
    rounded_dz: Any = None  # rows of dz of two steps in turn
    rounded_logits: Any = None  # rows of dlogits
    rounded_weights: Any = None  # pairs of W_h, W_h', W_x, W_x' of each layer
    rounded_readout: Any = None  # pairs of W_y, W_y'
    transposed: Any = None  # rows of the transposed h, and of h after dropout
    pairs_of_dz: Any = None  # pairs of dz of all steps
    pairs_of_logits: Any = None  # pairs of dlogits


#: The buffers of bfloat16, without their values.
NOT_ROUNDED = dict.fromkeys(name for name, default in _Buffers._field_defaults.items() if default is None)


class Workspace(_Buffers):
    """Buffers of one pass over a model; pass it to every call, so that calls allocate nothing.

    No two buffers overlap. Only one call may use a workspace at a time; a second call raises ValueError.
    """


def workspace_layout(
    shape: Shape, seq_length: int, batch_size: int, dtype: Any, dropout: float = 0.0, bfloat16: bool = False
) -> dict[str, tuple[Any, np.dtype]]:
    """Dimensions and dtype of each buffer of a :class:`Workspace`.

    `dropout` above 0 and `bfloat16` add the buffers that these need; those of bfloat16 do not exist without it.
    """
    V, H, L, cell, E = shape
    T, B, N = seq_length, batch_size, num_parameters(shape)
    real, double, whole = np.dtype(dtype), np.dtype(np.float64), np.dtype(np.int64)
    panels, mixed = unit_panels(H, B, cell, bfloat16, E), is_mixed(bfloat16, B, cell, E)
    row = CELLS[cell]
    layout: dict[str, tuple[Any, np.dtype]] = {
        "x": ((T + 1, B), np.dtype(np.int32)),
        "h": ((L, T + 1, B, H), real),
        "c": ((L, T + 1 if row.has_c else 0, B, H), real),
        "gates": ((L, row.kept, T, B, row.gates * H), real),
        "dz": ((L, row.planes, T, B, row.gates * H), real),
        "dh": ((T, B, H), real),
        "carry": ((2, B, H), real),
        "partial": ((2, 2, panels if panels > 1 else 0, B, -(-H // 16) * 16), real),
        "packed": (
            (L, 4, 4 * H * (H + 16) if panels == 1 and not mixed and packs(H, B, real.itemsize, cell) else 0),
            real,
        ),
        "table": ((min(V, T * B) if E > 0 else 0, row.gates * H), real),
        "embedded": ((2, min(V, T * B) if E > 0 else 0, E), real),
        "places": ((T if E > 0 else 0, B), np.dtype(np.int32)),
        "dropped": ((L if dropout > 0 else 0, T, B, H), real),
        "logits": ((T, B, V), real),
        "row_loss": ((T, B), double),
        "grad": ((N,), real),
        "panels": ((norm_panels(N),), double),
        "rows": ((2 * V,), np.dtype(np.int32)),
        "status": ((8,), whole),
        "counter": ((8,), whole),
    }
    if mixed:
        layout |= _rounded_layout(shape, T, B, dropout > 0)
    elif bfloat16:
        layout["pairs"] = ((L, 4 * H * (H + 4)), np.dtype(np.uint32))
    return layout


def workspace(
    shape: Shape, seq_length: int, batch_size: int, dtype: Any, dropout: float = 0.0, bfloat16: bool = False
) -> Workspace:
    """Allocate a :class:`Workspace` for T = `seq_length` and B = `batch_size`, with floats of `dtype`.

    Floats are NaN initially, so that reading a value before writing it has a visible effect.

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
