"""Entry points for training: many iterations of one thread of a team, one pass over a model, one update."""

import math
from functools import cache
from typing import Any, NamedTuple

import numpy as np

from kernels.cpu import mixed
from kernels.cpu.compiler import entry, exact, inner, named, thin
from kernels.cpu.emit.denormals import flush_denormals, restore
from kernels.cpu.gradients import APPLY, BOTH, GRADIENT, apply, norm_factor, square_sums, touched_rows, update_of
from kernels.cpu.layers import cells_at
from kernels.cpu.loss import Aim
from kernels.cpu.model import find_places, look_up, look_up_gradient, passes, readout, total
from kernels.cpu.optimizers import CONSTANTS, NO_UPDATE, Chosen, constants
from kernels.cpu.threads import Share, alone, barrier
from kernels.cpu.values import Rule, Slots, flat, has_embedding, slot
from kernels.cpu.weight_drop import hide, put_back
from kernels.spec import CELLS, SMOOTHING

#: Largest T B for which the update is applied right after each tile of the gradient.
AT_ONCE_ROWS = 64


class Batches(NamedTuple):
    """The input of a stretch of iterations: see train_steps."""

    ids: Any  # bytes of a text, so that all texts share a compiled loop; or a series (M, D)
    width: int  # bytes of an id
    targets: Any  # None if they are the ids that follow, as for a text
    x: Any  # buffer for a sequence: ws.x, or (T, B, D)
    y: Any  # buffer for its targets: (T, B) or (T, B, Y); ws.x[1:] if they follow
    starts: Any
    reset: Any
    rates: Any


class Recipe(NamedTuple):
    """The optimizer and the limits of a call, and the number of updates made before."""

    optimizer: Chosen
    limits: Any  # (grad_scale, grad_clip, grad_clip_norm), infinite for no limit
    first: int  # first step whose loss counts
    step: int  # number of updates made before this stretch
    aim: Aim


class Team(NamedTuple):
    """The team of a stretch: members and pieces of threads.Plan; numbers (members, CONSTANTS or more) for updates."""

    members: Any
    pieces: Any
    numbers: Any


@inner
def _carry(before, last, zero):
    """Set `before` to `last`, or to zero."""
    if zero:
        before[:] = 0
    else:
        for j in range(before.shape[0]):
            before[j] = last[j]


@inner
def carry_state(h, c, zero, share):
    """Set the thread's part of the initial state to the state after the last step, or to zero."""
    L, steps, B, H = h.shape
    cells = flat(c)
    for layer in range(L):
        for q in range(share.q0, share.q1):
            j0, n = share.pieces[q, 0], share.pieces[q, 1]
            c_at, c_row = cells_at(share.pieces[q], steps * B, H)
            for r in range(share.b0, share.b1):
                _carry(h[layer, 0, r, j0 : j0 + n], h[layer, steps - 1, r, j0 : j0 + n], zero)
                if c.size > 0:
                    at = layer * steps * B * H + c_at + r * c_row
                    to = at + (steps - 1) * B * c_row
                    _carry(cells[at : at + n], cells[to : to + n], zero)


@inner
def _copy_rows(source, starts, to):
    """Fill `to` (T, B) or (T, B, K) with the rows of source (M,) or (M, K) from `starts` on."""
    K, rows, out, T, B = source.size // source.shape[0], flat(source), flat(to), to.shape[0], to.shape[1]
    for r in range(B):
        for t in range(T):
            at, begin = (starts[r] + t) * K, (t * B + r) * K
            for k in range(K):
                out[begin + k] = rows[at + k]


@thin
def _copy_targets(targets, starts, y):
    """Fill y with the targets of the sequences that begin at `starts`, unless they are ids that follow."""
    if targets is not None:
        _copy_rows(targets, starts, y)


@inner
def _read(ids, width, starts, x, V):
    """Fill x (T+1, B) with the sequences that begin at `starts`; return -1, or the position of an id not below V.

    The bytes of an id begin with the lowest. A series has no ids; x is (T, B, D) then.
    """
    if ids.ndim == 2:
        _copy_rows(ids, starts, x)
        return -1
    for r in range(x.shape[1]):
        for t in range(x.shape[0]):
            at = (starts[r] + t) * width
            value = np.int64(ids[at])
            for k in range(1, width):
                value |= np.int64(ids[at + k]) << (8 * k)
            if value >= V:
                return starts[r] + t
            x[t, r] = value
    return -1


@exact
def _smoothed(smooth, loss):
    """The smoothed loss after one more loss, with the same bits as in Python."""
    return SMOOTHING * smooth + (1.0 - SMOOTHING) * loss


@cache
def train_loop(cell: str) -> Any:
    """The compiled training loop for one kind of cell."""
    prepare, forward, backward = passes(cell)
    update = update_of(cell)
    blocks = 2 + len(CELLS[cell].vectors)

    @entry
    @named(f"train_loop_{cell}")
    def train_loop(net, state, batches, recipe, extra, drop, ws, watch, losses, team, thread):
        """Run iterations as one thread of a team, whose threads all get the same arrays; return the number of losses.

        `watch` is (smooth_loss, stop_below), of which smooth_loss is updated; extra is None or a values.Extra, drop a
        weight_drop.Drop. On entry the last rows of ws.h and ws.c hold the initial state; on return their first rows
        hold the final state, as do the last ones unless the smoothed loss ended the call. An id outside the vocabulary
        ends the call; ws.status[0] is then its position, otherwise -1. theta and state are in the order of the team's
        panels. The rest is as in reference.train_steps and spec.Workspace.
        """
        x, y, V = batches.x, batches.y, ws.logits.shape[2]
        status, counter, limits = ws.status, ws.counter, recipe.limits
        T, B = ws.row_loss.shape
        theta, optimizer, threads = net.theta, recipe.optimizer, team.members.shape[0]
        own = team.members[thread]
        share = Share(thread, threads, own[0], own[1], own[2], own[3], team.pieces, counter)
        slots = Slots(theta, ws.grad, slot(state, 0, theta), slot(state, 1, theta))
        rule = Rule(optimizer.code, team.numbers[thread])
        panelled = ws.partial.shape[2] > 0
        has_norm = limits[2] < np.inf
        # With some optimizers a zero gradient changes neither parameters nor state: most rows of W_x can be skipped.
        embeds = has_embedding(extra)
        sparse = optimizer.skips_zeros and not has_norm and T * B < 2 * V and not embeds and batches.ids.ndim == 1
        # If dz fits in the first-level cache, one pass over the weights computes gradient and update.
        is_mixed = ws.rounded_h is not None
        at_once = not has_norm and T * B <= AT_ONCE_ROWS and optimizer.in_tile and not embeds and not is_mixed
        drops, hidden, H, N = drop.kept.size > 0, -1, ws.h.shape[3], ws.dz.shape[4]
        at_once = at_once and not drops
        if thread == 0:
            ws.rows[:] = 0
            status[1] = 0 if sparse else -1
        iterations = batches.starts.shape[0]
        done, stopped, smooth = iterations, False, watch[0]
        setting = flush_denormals()
        for n in range(iterations):
            # read: the sequence, the state before it, and the weights in the order in which products read them
            carry_state(ws.h, ws.c, batches.reset[n], share)
            if thread == 0:
                status[0] = _read(batches.ids, batches.width, batches.starts[n], x, V)
                _copy_targets(batches.targets, batches.starts[n], y)
                if sparse and status[0] < 0:
                    status[1] = touched_rows(ws.x[:T], ws.rows, status[1])
                if extra is not None and extra.table.size > 0 and status[0] < 0:
                    status[2] = find_places(net, x[:T], ws.rows, extra)
            if drops:
                hide(net, H, N, blocks, drop, n, share)
                hidden = n
                barrier(counter, threads)  # the recurrent weights of this iteration are complete
            prepare(net, ws, share)
            mixed.prepare(ws.rounded_h, net, ws, share)
            if extra is not None and extra.table.size > 0:
                barrier(counter, threads)  # the rows of the embedding are complete
                if status[0] < 0:
                    look_up(net, extra, status[2], share)
            barrier(counter, threads)  # the sequence, its initial state and the list of its rows are complete
            if status[0] >= 0 or counter[1] != 0:
                done = n
                break

            # forward: states, logits, loss
            forward(net, x[:T], ws, extra, n, share)
            readout(net, y, recipe.aim, ws, extra, recipe.first, share)
            barrier(counter, threads)  # the losses of all rows and dh are complete
            loss = total(ws.row_loss)
            if thread == 0:
                losses[n] = loss
            if not math.isfinite(loss):
                done = n + 1
                break
            smooth = _smoothed(smooth, loss / B)
            if smooth < watch[1]:
                done, stopped = n + 1, True
                break

            # backward: dz of all layers
            backward(net, ws, extra, n, share)
            mixed.transpose(ws.rounded_h, ws, thread, threads)
            if not panelled:  # the weights of a panel need only the panel's own dz
                barrier(counter, threads)  # dz of all layers is complete, and no thread reads the weights any more
            if extra is not None and extra.table.size > 0:
                look_up_gradient(ws.dz, extra, status[2], thread, threads)
                barrier(counter, threads)  # all columns of the table's gradient are complete

            # update: the gradient, its norm if that is limited, and the parameters
            constants(optimizer, recipe.step + n, batches.rates[n], limits[0], limits[1], 1.0, rule.k)
            phase = BOTH if at_once else GRADIENT
            update(phase, net, slots, x[:T], ws, extra, recipe.first, status[1], rule, share)
            if drops:
                barrier(counter, threads)  # the gradient is complete, and no thread reads the weights any more
                put_back(net, ws.grad, H, N, blocks, drop, n, share)
                hidden = -1
            if has_norm or embeds or drops:
                barrier(counter, threads)  # the gradient is complete
            if has_norm:
                square_sums(ws.grad, limits[0], limits[1], ws.panels, thread, threads)
                barrier(counter, threads)  # the sums of squares are complete
                factor = norm_factor(ws.panels, limits[2])
                constants(optimizer, recipe.step + n, batches.rates[n], limits[0], limits[1], factor, rule.k)
            if not at_once and optimizer.code != NO_UPDATE:
                update(APPLY, net, slots, x[:T], ws, extra, recipe.first, status[1], rule, share)
            barrier(counter, threads)  # all parameters are updated, no thread reads this sequence and its states now
        if hidden >= 0:  # this iteration has ended the call
            put_back(net, ws.grad, H, N, blocks, drop, hidden, share)
        if thread == 0:
            watch[0] = smooth
        if iterations > 0 and not stopped:  # else keep the state before that iteration, so that it can be repeated
            carry_state(ws.h, ws.c, False, share)
        barrier(counter, threads)  # the state is complete, no thread writes any more
        restore(setting)
        return done

    return train_loop


@cache
def model_pass(cell: str) -> Any:
    """The compiled loss and gradient for one kind of cell."""
    _, forward, backward = passes(cell)
    update = update_of(cell)

    @entry
    @named(f"model_pass_{cell}")
    def model_pass(net, x, targets, aim, extra, ws, first, pieces):
        """Return the loss of one sequence x (T, B) or (T, B, D), write ws.grad.

        ws.h[:, 0], ws.c[:, 0] hold the initial state.
        """
        theta, share = net.theta, alone(x.shape[1], pieces, ws.counter)
        if extra is not None and extra.table.size > 0:
            ws.status[2] = find_places(net, x, ws.rows, extra)
            look_up(net, extra, ws.status[2], share)
        forward(net, x, ws, extra, 0, share)
        readout(net, targets, aim, ws, extra, first, share)
        backward(net, ws, extra, 0, share)
        if extra is not None and extra.table.size > 0:
            look_up_gradient(ws.dz, extra, ws.status[2], 0, 1)
        slots, rule = (
            Slots(theta, ws.grad, theta, theta),
            Rule(NO_UPDATE, ws.carry[0, 0]),
        )  # GRADIENT does not read these
        update(GRADIENT, net, slots, x, ws, extra, first, -1, rule, share)
        return total(ws.row_loss)

    return model_pass


@entry
def update(theta, grad, state, optimizer, step, rate, limit):
    """Make one optimizer update on flat vectors."""
    setting = flush_denormals()
    slots = Slots(theta, grad, slot(state, 0, theta), slot(state, 1, theta))
    rule = Rule(optimizer.code, np.zeros(CONSTANTS, theta.dtype))
    constants(optimizer, step, rate, 1.0, limit, 1.0, rule.k)
    apply(slots, 0, theta.shape[0], rule)
    restore(setting)


@entry
def clip_norm(grad, norm_limit, panels):
    """Scale grad (N,) in place to a norm of at most norm_limit."""
    square_sums(grad, 1.0, np.inf, panels, 0, 1)
    factor = grad.dtype.type(norm_factor(panels, norm_limit))
    for j in range(grad.shape[0]):
        grad[j] *= factor
