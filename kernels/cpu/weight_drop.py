"""Weight drop: leaves out some recurrent weights of an iteration (spec/weight_drop.py), as each thread of a team does.

Before the forward pass, W_h is copied aside and replaced by what the iteration reads; after the backward pass, its
gradient is multiplied by the same factors, and W_h is put back. A thread does this for its own panels of units, or, if
there are no panels, for a range of rows of W_h.
"""

from typing import Any, NamedTuple

import numpy as np

from kernels.cpu.compiler import inner
from kernels.cpu.threads import is_apart, part_of
from kernels.cpu.values import flat


class Drop(NamedTuple):
    """What an iteration leaves out; kept (L, W_h's size) has a size of 0 if nothing is left out."""

    kept: Any  # where W_h waits
    keys: Any  # (n, 2) uint32, of each iteration
    threshold: Any  # uint32
    scale: Any  # of theta's dtype


@inner
def _round(x):
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(16))) * np.uint32(0x21F0AAAD))
    x = np.uint32(np.uint32(x ^ (x >> np.uint32(15))) * np.uint32(0xD35A2D97))
    return np.uint32(x ^ (x >> np.uint32(15)))


@inner
def _factor(place, first, second, drop):
    """What the weight at a place of the flat vector is multiplied by."""
    mixed = _round(np.uint32(_round(np.uint32(place + first)) ^ second))
    return drop.scale if mixed >= drop.threshold else drop.scale - drop.scale


@inner
def _hide(theta, kept, place, first, second, drop):
    for j in range(theta.shape[0]):
        kept[j] = theta[j]
        theta[j] *= _factor(np.uint32(place + np.uint32(j)), first, second, drop)


@inner
def _put_back(theta, kept, grad, place, first, second, drop):
    for j in range(theta.shape[0]):
        theta[j] = kept[j]
        grad[j] *= _factor(np.uint32(place + np.uint32(j)), first, second, drop)


@inner
def _each_run(hides, net, grad, H, N, blocks, drop, n, share):
    """Hide or put back the thread's share of every W_h, run by run: elements that are neighbours in any order.

    `blocks` is the number of blocks of parameters in a layer. A piece of units that lies apart has rows of its own,
    with the piece's part of each gate in turn.
    """
    first, second, kept = drop.keys[n, 0], drop.keys[n, 1], flat(drop.kept)
    panelled = share.pieces.shape[0] > 1 and is_apart(share.pieces[0])
    k0, k1 = (0, H) if panelled else part_of(H, 1, share.thread, share.threads)
    for layer in range(drop.kept.shape[0]):
        begin, aside = net.offsets[blocks * layer + 1], layer * H * N
        for q in range(share.q0 if panelled else 0, share.q1 if panelled else 1):
            j0, units = (share.pieces[q, 0], share.pieces[q, 1]) if panelled else (0, H)
            runs, length = (N // H, units) if panelled else (1, N)
            for k in range(k0, k1):
                for g in range(runs):
                    at = j0 * N + (k * runs + g) * length
                    place, end = np.uint32(begin + k * N + g * H + j0), at + length
                    weights, beside = net.theta[begin + at : begin + end], kept[aside + at : aside + end]
                    if hides:
                        _hide(weights, beside, place, first, second, drop)
                    else:
                        _put_back(weights, beside, grad[begin + at : begin + end], place, first, second, drop)


@inner
def hide(net, H, N, blocks, drop, n, share):
    """Keep the thread's share of every W_h (H, N) aside, and replace it by what iteration n reads."""
    _each_run(True, net, net.theta, H, N, blocks, drop, n, share)


@inner
def put_back(net, grad, H, N, blocks, drop, n, share):
    """Put the thread's share of every W_h back, and make the gradient that of these weights."""
    _each_run(False, net, grad, H, N, blocks, drop, n, share)
