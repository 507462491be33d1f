"""The buffers of a pass over a model, allocated once and reused by many calls."""

from typing import Any, NamedTuple

import numpy as np

from kernels.shared import WrongType
from kernels.spec.arguments import flag, number
from kernels.spec.cells import CELLS, FLOAT_DTYPES
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
    table: Any  # (V, gates H), empty without an embedding: embedding @ W_x, one row per id; then its gradient
    dropped: Any  # (L, T, B, H), empty without dropout: h after dropout
    logits: Any  # (T, B, V), then dlogits
    row_loss: Any  # (T, B) float64
    grad: Any  # (N,)
    panels: Any  # (ceil(N / NORM_PANEL),) float64: sums of squares
    rows: Any  # (2V,) int32: the rows of W_x that a sequence touches, and marks
    status: Any  # (8,) int64: what threads tell each other
    counter: Any  # (8,) int64: the threads' barrier
    pairs: Any = None  # (L, 4 H (H + 4)) uint32: recurrent matrices rounded to bfloat16, two numbers per element


class Workspace(_Buffers):
    """Buffers of one pass over a model; pass it to every call, so that calls allocate nothing.

    No two buffers overlap. Only one call may use a workspace at a time; a second call raises ValueError.
    """


def workspace_layout(
    shape: Shape, seq_length: int, batch_size: int, dtype: Any, dropout: float = 0.0, bfloat16: bool = False
) -> dict[str, tuple[Any, np.dtype]]:
    """Dimensions and dtype of each buffer of a :class:`Workspace`.

    `dropout` above 0 and `bfloat16` add the buffers that these need; `pairs` exists only with `bfloat16`.
    """
    V, H, L, cell, E = shape
    T, B, N = seq_length, batch_size, num_parameters(shape)
    real, double, whole = np.dtype(dtype), np.dtype(np.float64), np.dtype(np.int64)
    panels = unit_panels(H, B, cell, bfloat16, E)
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
        "packed": ((L, 4, 4 * H * (H + 16) if panels == 1 and packs(H, B, real.itemsize, cell) else 0), real),
        "table": ((V if E > 0 else 0, row.gates * H), real),
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
