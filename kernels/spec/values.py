"""What ops pass to each other: caches and gradients of layers; and the constants that all backends share."""

from typing import Any, NamedTuple

import numpy as np


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
