"""A training call: its iterations in stretches, by a team or by one thread, and what is arranged for them and back."""

from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np

from kernels import spec
from kernels.cpu import loops
from kernels.cpu.model import extra_of
from kernels.cpu.team import Plan, plan
from kernels.cpu.teamwork import at_best_pace, known_pace, together
from kernels.spec import Shape, Workspace


class Rule(NamedTuple):
    """An optimizer."""

    name: str
    code: int  # of updates.py
    hyper: np.ndarray  # its constants, float64


class Call(NamedTuple):
    """The arguments of kernels.numpy_ref.train_steps, checked."""

    theta: Any
    state: Any
    h: Any
    c: Any
    ids: Any  # read-only
    starts: Any
    reset: Any
    rates: Any
    shape: Shape
    seq_length: int
    step: int
    rule: Rule
    limits: tuple[float, float, float]  # grad_scale, grad_clip, grad_clip_norm; infinite for none
    last_only: bool
    dropout: float
    masks: Any
    bfloat16: bool
    watch: tuple[float, float]  # smooth_loss, stop_below
    ws: Workspace
    threads: int


def train(call: Call) -> np.ndarray:
    """Run the iterations; return their losses."""
    theta, state, h, c, ids, starts, reset, rates, shape, seq_length, step, rule, *_ = call
    ws, masks, dropout = call.ws, call.masks, call.dropout
    limits, losses, watch = np.array(call.limits), np.empty(len(starts)), np.array(call.watch, np.float64)
    B, kind = starts.shape[1], (shape.cell, call.bfloat16, shape.embedding_size)
    who = plan(shape.hidden_size, B, call.threads, *kind)
    single = who if len(who.members) == 1 else plan(shape.hidden_size, B, 1, *kind)
    first = seq_length - 1 if call.last_only else 0
    offsets = spec.offsets(shape)
    numbers = np.zeros((len(who.members), 16), theta.dtype)
    buffers = [
        getattr(ws, name) for name in Workspace._fields if name not in ("table", "dropped")
    ]  # those are in extra

    def run(begin: int, end: int, who: Plan) -> int:
        ws.counter[:], ws.status[:] = 0, -1
        shared: tuple[Any, ...] = (
            theta, state, ids, starts[begin:end], reset[begin:end], rates[begin:end], offsets, step + begin, rule.code,
            rule.hyper, limits, first,
            extra_of(ws.table, ws.dropped, None if masks is None else masks[begin:end], dropout), *buffers, watch,
            losses[begin:end], who.members, who.pieces, numbers,
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
                (shape, B, seq_length, rule.name, theta.dtype.char, len(who.members), call.last_only, dropout,
                 call.bfloat16)
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
