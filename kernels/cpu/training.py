"""A training call: rearranges arrays, and runs the iterations in stretches, each by a team or one thread."""

from collections.abc import Callable, Iterator
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from kernels import spec
from kernels.cpu.loss import aim_of
from kernels.cpu.optimizers import chosen
from kernels.cpu.pace import TeamSwitch
from kernels.cpu.steps import Batches, Recipe, Team, train_loop
from kernels.cpu.teamwork import at_best_pace, known_pace, together
from kernels.cpu.threads import Plan, teams
from kernels.cpu.values import Net, extra_of, readable
from kernels.cpu.weight_drop import Drop
from kernels.spec import Shape
from kernels.spec.atomic import assignments
from kernels.spec.checks import Pass, Training


def train(call: Training) -> np.ndarray:
    """Run the iterations of a checked call; return their losses.

    Even if an exception ends the call between two stretches, theta, state, h and c belong to the same iteration, and
    the losses written are those of the iterations up to it.
    """
    if call.workspace is None:
        made = spec.workspace(
            call.shape, call.seq_length, call.starts.shape[1], call.theta.dtype, call.dropout, call.bfloat16
        )
        call = call._replace(workspace=made)
    run, n = _Run(call), len(call.starts)
    call.losses.fill(np.nan)
    begin, end = run.arrangements()
    try:
        begin()
        done = run.all_stretches() if n else run.stretch(0, 0, run.single)
    finally:
        end()
    at = int(run.ws.status[0])
    if at >= 0:
        raise ValueError(f"ids: expected ids in [0, {call.shape.vocab_size}), got {call.ids[at]} at {at}")
    return call.losses[:done]


def gradient(
    theta: Any, h: Any, c: Any, given: Pass, shape: Shape, last_only: bool, dropout: float, masks: Any, bfloat16: bool,
    ws: spec.Workspace,
) -> tuple[float, np.ndarray, np.ndarray, np.ndarray]:  # fmt: skip
    """Return what `loss_and_grad` does: one iteration by a team, whose update is left out."""
    T, B = given.x.shape[:2]
    theta = readable(theta)
    x, targets = given.x, given.targets
    if not shape.input_size and not given.has_targets:
        x = np.concatenate([x, targets[-1:]])
    stride = len(x)
    x, targets = (np.ascontiguousarray(a.swapaxes(0, 1)).reshape(-1, *a.shape[2:]) for a in (x, targets))
    call = Training(
        theta, np.empty((0, len(theta)), theta.dtype), h.copy(), c.copy(), x, targets,
        np.arange(B)[None] * stride, np.zeros(1, bool), np.zeros(1), shape, T, 0, "", {}, 1.0, None, None,
        last_only, dropout, None if masks is None else masks[None], 0.0, 0, bfloat16, np.inf, -np.inf, ws,
        given.threads or 1, np.empty(1), given.goal, given.has_targets or shape.input_size > 0,
    )  # fmt: skip
    run = _Run(call)
    if run.team.panelled:  # the loop reads them in another order
        run.call = call._replace(theta=theta.copy())
    begin, end = run.arrangements()
    begin()
    run.all_stretches()
    end()
    if not np.isfinite(call.losses[0]):  # the iteration ended before its backward pass
        ws.grad.fill(np.nan)
    return float(call.losses[0]), ws.grad, call.h, call.c


class _Run:
    """The iterations of a call: the plan of their threads, and their arrays."""

    def __init__(self, call: Training) -> None:
        shape, B, ws = call.shape, call.starts.shape[1], call.workspace
        assert ws is not None
        kind = (shape.cell, call.bfloat16, shape.embedding_size)
        self.call, self.ws = call, ws if call.bfloat16 else ws._replace(**spec.NOT_ROUNDED)
        self.teams = teams(shape.hidden_size, B, call.threads, *kind)
        self.team, self.single = self.teams[0], self.teams[-1]
        self._watch = np.array([call.smooth_loss, call.stop_below])
        self._offsets = spec.offsets(shape)
        self._numbers = np.zeros((len(self.team.members), 16), call.theta.dtype)
        first = call.seq_length - 1 if call.last_only else 0
        clips = (np.inf if limit is None else limit for limit in (call.grad_clip, call.grad_clip_norm))
        limits = np.array([call.grad_scale, *clips])
        self._recipe = Recipe(chosen(call.optimizer, call.hyper), limits, first, call.step, aim_of(call.goal))
        self._batches = _batches(call, ws)
        self._drop = _drop_of(call, self._offsets)
        self._loop = train_loop(shape.cell)

    def all_stretches(self) -> int:
        """Run all iterations, choosing the number of threads by measured times; return the number run."""
        call, kind = self.call, self._kind()
        with known_pace(kind, partial(TeamSwitch, len(self.teams))) as pace:
            if len(self.teams) > 1 and pace.is_new:
                self.stretch(0, 0, self.single)  # compile first, not while other threads wait
            return at_best_pace(pace, self.stretch, self._is_last, len(call.starts), self.teams, self.ws.counter)

    def _kind(self) -> tuple[Any, ...]:
        """The properties of the call that determine the time of an iteration."""
        call = self.call
        return (
            call.shape, call.starts.shape[1], call.seq_length, call.optimizer, call.theta.dtype.char,
            call.ids.dtype.char, call.targets.dtype.char, call.goal.loss, len(self.team.members), call.last_only,
            call.dropout, call.bfloat16, call.weight_drop > 0,
        )  # fmt: skip

    def stretch(self, begin: int, end: int, who: Plan) -> int:
        """Run iterations begin to end - 1, or fewer if one ends the call; return the number run."""
        call, ws = self.call, self.ws
        ws.counter[:], ws.status[:] = 0, -1
        masks = None if call.masks is None else call.masks[begin:end]
        part = {name: getattr(self._batches, name)[begin:end] for name in ("starts", "reset", "rates")}
        shared = (
            Net(call.theta, self._offsets), call.state, self._batches._replace(**part),
            self._recipe._replace(step=call.step + begin), extra_of(ws, masks, call.dropout),
            self._drop._replace(keys=self._drop.keys[begin:end]), ws, self._watch, call.losses[begin:end],
            Team(who.members, who.pieces, self._numbers),
        )  # fmt: skip
        done = together(lambda thread: self._loop(*shared, thread), len(who.members), ws.counter)
        return self.stretch(begin, end, self.single) if done is None else done

    def _is_last(self, n: int) -> bool:
        """Whether iteration n, the last one of a stretch, has ended the call."""
        return bool(self._watch[0] < self._watch[1]) or not np.isfinite(self.call.losses[n])

    def arrangements(self) -> tuple[Callable[[], None], Callable[[], None]]:
        """Functions that copy parameters and state to where kernels expect them, and back (atomic.assignments)."""
        call, ws, last = self.call, self.ws, self.call.seq_length
        into = [(ws.h[:, t], call.h) for t in (0, last)]
        into += [(cells, call.c[:, :, units]) for t in (0, last) for cells, units in _cells_at(ws.c, self.team, t)]
        back = [(call.h, ws.h[:, 0])]
        back += [(call.c[:, :, units], cells) for cells, units in _cells_at(ws.c, self.team, 0)]
        into += _rearranged(self.team, (call.theta, *call.state), self._offsets, ws.grad, into=True)
        if call.optimizer:
            back += _rearranged(self.team, (call.theta, *call.state), self._offsets, ws.grad, into=False)
        else:
            back += _rearranged(self.team, (ws.grad,), self._offsets, call.theta, into=False)
        return assignments(into), assignments(back)


def _batches(call: Training, ws: spec.Workspace) -> Batches:
    """The input of a call: a text is read into the workspace; a series, and given targets, into new buffers."""
    given = tuple(map(readable, (call.starts, call.reset, call.learning_rate)))
    ids, targets, dims = readable(call.ids), readable(call.targets), ws.row_loss.shape
    is_text = call.ids.ndim == 1
    width = ids.itemsize
    if is_text:
        ids = ids.astype(ids.dtype.newbyteorder("<"), copy=False).view(np.uint8)
    if is_text and not call.has_targets:
        return Batches(ids, width, None, ws.x, ws.x[1:], *given)
    x = ws.x[:-1] if is_text else np.empty((*dims, *ids.shape[1:]), ids.dtype)
    return Batches(ids, width, targets, x, np.empty((*dims, *targets.shape[1:]), targets.dtype), *given)


def _drop_of(call: Training, offsets: np.ndarray) -> Drop:
    """What the iterations of a call leave out."""
    real = call.theta.dtype.type
    iterations = len(call.starts) if call.weight_drop else 0
    keys, threshold, scale = spec.dropping(call.weight_drop, call.seed, call.step, iterations)
    size = int(offsets[2] - offsets[1]) if call.weight_drop else 0
    return Drop(np.empty((call.shape.num_layers, size), real), keys, np.uint32(threshold), real(scale))


def _cells_at(c: np.ndarray, who: Plan, t: int) -> list[tuple[np.ndarray, slice]]:
    """Views (L, B, n) of the cell states before step t in c (L, T+1, B, H), each with its range of units."""
    if c.size == 0:
        return []
    if not who.panelled:
        return [(c[:, t], slice(None))]
    L, steps, B, _ = c.shape
    units = [slice(int(j0), int(j0 + n)) for j0, n in who.pieces[:, :2]]
    flat = c.reshape(L, -1)
    return [
        (flat[:, steps * B * u.start : steps * B * u.stop].reshape(L, steps, B, u.stop - u.start)[:, t], u)
        for u in units
    ]


def _rearranged(
    who: Plan, vectors: tuple[Any, ...], offsets: Any, spare: Any, *, into: bool
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Yield assignments that reorder the blocks with 4H columns of (N,) vectors into a plan's panels, or back.

    spare is (N,) and overwritten.
    """
    H = int(who.pieces[:, 1].sum())
    for flat in vectors if who.panelled else ():
        for begin, end in pairwise(offsets[:-1].tolist()):
            old, rows = flat[begin:end], (end - begin) // (4 * H)
            copy = spare[: end - begin]
            yield copy, old
            plain, panels = (copy, old) if into else (old, copy)
            for j0, n in who.pieces[:, :2].tolist():
                in_rows = plain.reshape(rows, 4, H)[:, :, j0 : j0 + n]
                by_itself = panels[4 * rows * j0 : 4 * rows * (j0 + n)].reshape(rows, 4, n)
                yield (by_itself, in_rows) if into else (in_rows, by_itself)
