"""A training call: its iterations in stretches, by a team or by one thread, and what is arranged for them and back."""

from itertools import pairwise
from typing import Any

import numpy as np

from kernels import spec
from kernels.checks import Training
from kernels.cpu import loops
from kernels.cpu.model import extra_of, readable
from kernels.cpu.team import Plan, plan
from kernels.cpu.teamwork import at_best_pace, known_pace, together
from kernels.spec import Workspace


def train(given: Training, code: int) -> np.ndarray:
    """Run the iterations of a checked call with the optimizer `code` of updates.py; return their losses."""
    theta, state, h, c, _, starts, reset, rates, shape, seq_length, step, *_ = given
    masks, dropout, B = given.masks, given.dropout, starts.shape[1]
    ws = given.workspace or spec.workspace(shape, seq_length, B, theta.dtype, dropout, given.bfloat16)
    if not given.bfloat16:
        ws = ws._replace(pairs=None)
    ids, starts, reset, rates = map(readable, (given.ids, starts, reset, rates))
    hyper = np.array(list(given.hyper.values()), np.float64)
    clips = (np.inf if limit is None else limit for limit in (given.grad_clip, given.grad_clip_norm))
    limits, watch = np.array([given.grad_scale, *clips]), np.array([given.smooth_loss, given.stop_below])
    losses, kind = np.empty(len(starts)), (shape.cell, given.bfloat16, shape.embedding_size)
    who = plan(shape.hidden_size, B, given.threads, *kind)
    single = who if len(who.members) == 1 else plan(shape.hidden_size, B, 1, *kind)
    first = seq_length - 1 if given.last_only else 0
    offsets = spec.offsets(shape)
    numbers = np.zeros((len(who.members), 16), theta.dtype)
    buffers = [
        getattr(ws, name) for name in Workspace._fields if name not in ("table", "dropped")
    ]  # those are in extra

    def run(begin: int, end: int, who: Plan) -> int:
        ws.counter[:], ws.status[:] = 0, -1
        shared: tuple[Any, ...] = (
            theta, state, ids, starts[begin:end], reset[begin:end], rates[begin:end], offsets, step + begin, code,
            hyper, limits, first, extra_of(ws.table, ws.dropped, None if masks is None else masks[begin:end], dropout),
            *buffers, watch, losses[begin:end], who.members, who.pieces, numbers,
        )  # fmt: skip
        return together(lambda thread: loops.train_loop(*shared, thread), len(who.members), ws.counter)

    def is_last(n: int) -> bool:
        return bool(watch[0] < watch[1]) or not np.isfinite(losses[n])

    cells = _first_cells(ws.c, who)
    ws.h[:, 0] = h
    for cell, piece in cells:
        cell[...] = c[:, :, piece]
    _arrange(who, theta, state, offsets, ws.grad, True)
    try:
        if who is single or not len(starts):
            done = run(0, len(starts), single)
        else:
            pace = known_pace(
                (shape, B, seq_length, given.optimizer, theta.dtype.char, len(who.members), given.last_only, dropout,
                 given.bfloat16)
            )  # fmt: skip
            done = at_best_pace(pace, run, is_last, len(starts), who, single, ws.counter)
    finally:
        _arrange(who, theta, state, offsets, ws.grad, False)
    h[...] = ws.h[:, 0]
    for cell, piece in cells:
        c[:, :, piece] = cell
    at = int(ws.status[0])
    if at >= 0:
        raise ValueError(f"ids: expected ids in [0, {shape.vocab_size}), got {ids[at]} at {at}")
    return losses[:done]


def _first_cells(c: np.ndarray, who: Plan) -> list[tuple[np.ndarray, slice]]:
    """Views (L, B, n) of the cells before the first step in c (L, T+1, B, H), and the units that each is of."""
    if c.size == 0:
        return []
    if not who.panelled:
        return [(c[:, 0], slice(None))]
    L, steps, B, _ = c.shape
    units = [slice(int(j0), int(j0 + n)) for j0, n in who.pieces[:, :2]]
    flat = c.reshape(L, -1)
    return [
        (flat[:, steps * B * u.start : steps * B * u.stop].reshape(L, steps, B, u.stop - u.start)[:, 0], u)
        for u in units
    ]


def _arrange(who: Plan, theta: Any, state: Any, offsets: Any, spare: Any, into: bool) -> None:
    """Bring the blocks with 4H columns into the order of a plan's panels, each by itself, or back.

    spare is (N,) and overwritten.
    """
    H = int(who.pieces[:, 1].sum())
    for flat in (theta, *state) if who.panelled else ():
        for begin, end in pairwise(offsets[:-1].tolist()):
            old, rows = flat[begin:end], (end - begin) // (4 * H)
            copy = spare[: end - begin]
            copy[...] = old
            plain, panels = (copy, old) if into else (old, copy)
            for j0, n in who.pieces[:, :2].tolist():
                in_rows = plain.reshape(rows, 4, H)[:, :, j0 : j0 + n]
                by_itself = panels[4 * rows * j0 : 4 * rows * (j0 + n)].reshape(rows, 4, n)
                to, at = (by_itself, in_rows) if into else (in_rows, by_itself)
                to[...] = at
