"""The buffers of a pass over a model, made once and passed again and again."""

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
    """Panels that the hidden units of an LSTM's small batch are cut into, each the business of one thread, or 1.

    A panel's gates, weights and their update then stay with one core, and what flows back to all units is added up
    panel by panel: a fixed shape for any threads. Smaller models are not worth sharing out; the weights of larger ones
    do not fit a core's cache anyway, and are cut up only where the copies that are rounded to bfloat16 want it. With an
    embedding, whose gradient needs all panels, there are none.
    """
    if not CELLS[cell].panels or embedding_size > 0 or batch_size > 3 or hidden_size < 64:
        return 1
    if hidden_size >= 384 and not bfloat16:
        return 1
    return 2 if hidden_size < 192 else 4


def packs(hidden_size: int, batch_size: int, itemsize: int, cell: str = "lstm") -> bool:
    """Whether an LSTM's recurrent matrix is copied, once an iteration, into the order in which products read it.

    That pays where its rows lie far apart and are read for many streams. What is cut into panels is not packed.
    """
    size = 4 * hidden_size**2 * itemsize
    return CELLS[cell].panels and size >= 2**22 and batch_size * size >= 2**27


class _Buffers(NamedTuple):
    x: Any  # (T+1, B) int32: the ids of the sequence, targets one later
    h: Any  # (L, T+1, B, H)
    c: Any  # (L, T+1, B, H), of no size where the cell has none
    gates: Any  # (L, kept, T, B, gates H): see kernels.spec.cells.Cell; of no size where none are kept
    dz: Any  # (L, planes, T, B, gates H)
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
