"""What Python calls: many training iterations, one pass over a model, many sampled characters, one update."""

import math

import numpy as np

from kernels.cpu import model
from kernels.cpu.activations import exp
from kernels.cpu.denormals import flush_denormals, restore
from kernels.cpu.jit import entry, inner
from kernels.cpu.layers import cells_at
from kernels.cpu.products import add_product, copy_to_rows
from kernels.cpu.team import meet
from kernels.cpu.updates import ADAGRAD, CONSTANTS, MOMENTUM, SGD, constants

#: Rows of a gradient's contraction (T B) up to which it is applied as it is made.
AT_ONCE_ROWS = 64


@inner
def _begin(h, c, fresh, zero, b0, b1, pieces, q0, q1):
    """The member's part of the state before the first step: that after the last one, unless `fresh`; or zero."""
    L, steps, B, H = h.shape
    cells = c.reshape(c.size)
    for layer in range(L):
        for q in range(q0, q1):
            j0, n = pieces[q, 0], pieces[q, 1]
            c_at, c_row = cells_at(pieces[q], steps * B, H)
            for r in range(b0, b1):
                at = layer * steps * B * H + c_at + r * c_row
                to = at + (steps - 1) * B * c_row
                pairs = ((h[layer, 0, r, j0 : j0 + n], h[layer, steps - 1, r, j0 : j0 + n]),
                         (cells[at : at + n], cells[to : to + n]))  # fmt: skip
                for before, last in pairs:
                    if zero:
                        before[:] = 0
                    elif not fresh:
                        for j in range(n):
                            before[j] = last[j]


@inner
def _read(ids, starts, x, V):
    """Fill x (T+1, B) with the sequences that begin at `starts`; return -1, or the place of an id not below V."""
    for r in range(x.shape[1]):
        for t in range(x.shape[0]):
            value = np.int32(ids[starts[r] + t])
            if value < 0 or value >= V:
                return starts[r] + t
            x[t, r] = value
    return -1


@entry
def train_loop(
    theta,
    state,
    ids,
    starts,
    reset,
    rates,
    offsets,
    step,
    optimizer,
    hyper,
    limits,
    first,
    extra,
    x,
    h,
    c,
    gates,
    dz,
    dh,
    carry,
    partial,
    packed,
    logits,
    row_loss,
    grad,
    panels,
    rows,
    status,
    counter,
    losses,
    members,
    pieces,
    numbers,
    thread,
):
    """Run iterations, as one of a team whose members are all given the same arrays; return how many losses there are.

    `limits` is (grad_scale, grad_clip, grad_clip_norm), infinite for none; `first` is the first step whose loss counts;
    extra is None or a model.Extra;
    h and c hold the state carried in at [:, 0]; status[0] becomes the place of an id outside the vocabulary, which ends
    the call, and is -1 otherwise; members and pieces are team.Plan's, whose panels theta and state are in the order of;
    numbers (members, CONSTANTS or more) is for the constants of the update; the rest is as in numpy_ref.train_steps and
    spec.Workspace.
    """
    _, T, B, N = gates.shape
    V = logits.shape[2]
    threads = members.shape[0]
    k = numbers[thread]
    b0, b1, q0, q1 = members[thread, 0], members[thread, 1], members[thread, 2], members[thread, 3]
    panelled = partial.shape[2] > 0
    s0, s1 = model.slot(state, 0, theta), model.slot(state, 1, theta)
    has_norm = limits[2] < np.inf
    # A zero gradient leaves these two optimizers' parameters and memory as they are: most rows of W_x need no work.
    embeds = model.has_embedding(extra)
    sparse = (optimizer == SGD or optimizer == ADAGRAD) and not has_norm and T * B < 2 * V and not embeds
    # Few rows of dz stay in the first-level cache while the weights pass by once, for gradient and update together.
    at_once = not has_norm and T * B <= AT_ONCE_ROWS and optimizer != MOMENTUM and not embeds
    if thread == 0:
        rows[:] = 0
        status[1] = 0 if sparse else -1
    done = starts.shape[0]
    setting = flush_denormals()
    for n in range(starts.shape[0]):
        _begin(h, c, n == 0, reset[n], b0, b1, pieces, q0, q1)
        if thread == 0:
            status[0] = _read(ids, starts[n], x, V)
            if sparse and status[0] < 0:
                status[1] = model.touched(x[:T], rows, status[1])
        if packed.shape[2] > 0:
            model.pack_layers(theta, offsets, packed, N // 4, pieces, q0, q1, thread, threads)
        if extra is not None and extra.table.size > 0:
            model.look_up(theta, offsets, extra.table, pieces, q0, q1, thread, threads)
        meet(counter, threads)  # the sequence, the state before it and the rows that it touches are there
        if status[0] >= 0 or counter[1] != 0:
            done = n
            break
        model.forward(
            theta, offsets, x[:T], h, c, gates, packed, extra, n, b0, b1, pieces, q0, q1, counter, threads
        )
        model.readout(theta, offsets, x[1:], h, extra, logits, row_loss, dh, first, b0, b1, thread, threads)
        meet(counter, threads)  # the losses of all rows are there, and dh
        loss = model.total(row_loss)
        if thread == 0:
            losses[n] = loss
        if not math.isfinite(loss):
            done = n + 1
            break
        model.backward(
            theta, offsets, h, c, gates, dz, dh, carry, partial, packed, extra, n, b0, b1, pieces, q0, q1, counter,
            threads,
        )  # fmt: skip
        if not panelled:  # a panel's own dz is all that its weights wait for
            meet(counter, threads)  # dz of all layers is there, and nobody reads the weights any more
        if extra is not None and extra.table.size > 0:
            model.look_up_gradient(x[:T], dz, extra.table, thread, threads)
            meet(counter, threads)  # all columns of the table's gradient are there
        constants(optimizer, hyper, step + n, rates[n], limits[0], limits[1], 1.0, k)
        what = model.BOTH if at_once else model.GRADIENT
        model.update(
            what, theta, grad, s0, s1, offsets, x[:T], h, extra, dz, logits, first, rows, status[1], optimizer,
            k, pieces, q0, q1, thread, threads,
        )  # fmt: skip
        if has_norm or embeds:
            meet(counter, threads)  # the gradient is there
        if has_norm:
            model.square_sums(grad, limits[0], limits[1], panels, thread, threads)
            meet(counter, threads)  # the sums of squares are there
            factor = model.norm_factor(panels, limits[2])
            constants(optimizer, hyper, step + n, rates[n], limits[0], limits[1], factor, k)
        if not at_once:
            model.update(
                model.APPLY, theta, grad, s0, s1, offsets, x[:T], h, extra, dz, logits, first, rows, status[1],
                optimizer, k, pieces, q0, q1, thread, threads,
            )  # fmt: skip
        meet(counter, threads)  # all parameters are updated, and nobody reads this sequence and its states any more
    if starts.shape[0] > 0:
        _begin(h, c, False, False, b0, b1, pieces, q0, q1)
    restore(setting)
    return done


@entry
def model_pass(
    theta, offsets, x, h, c, gates, dz, dh, carry, partial, packed, extra, logits, row_loss, grad, rows, first,
    pieces, counter,
):  # fmt: skip
    """Loss and gradient of one sequence x (T+1, B); h and c hold the states of all steps, [:, 0] what came in."""
    T, B = x.shape[0] - 1, x.shape[1]
    if extra is not None and extra.table.size > 0:
        model.look_up(theta, offsets, extra.table, pieces, 0, 1, 0, 1)
    model.forward(theta, offsets, x[:T], h, c, gates, packed, extra, 0, 0, B, pieces, 0, 1, counter, 1)
    model.readout(theta, offsets, x[1:], h, extra, logits, row_loss, dh, first, 0, B, 0, 1)
    model.backward(
        theta, offsets, h, c, gates, dz, dh, carry, partial, packed, extra, 0, 0, B, pieces, 0, 1, counter, 1
    )
    if extra is not None and extra.table.size > 0:
        model.look_up_gradient(x[:T], dz, extra.table, 0, 1)
    model.update(
        model.GRADIENT, theta, grad, theta, theta, offsets, x[:T], h, extra, dz, logits, first, rows, -1, SGD,
        carry[0, 0], pieces, 0, 1, 0, 1,
    )  # fmt: skip
    return model.total(row_loss)


@entry
def update(theta, grad, state, optimizer, hyper, step, rate, limit):
    """One optimizer step on flat vectors."""
    setting = flush_denormals()
    s0, s1 = model.slot(state, 0, theta), model.slot(state, 1, theta)
    k = np.zeros(CONSTANTS, theta.dtype)
    constants(optimizer, hyper, step, rate, 1.0, limit, 1.0, k)
    model.apply(theta, grad, s0, s1, optimizer, k)
    restore(setting)


@entry
def clip_norm(grad, norm_limit, panels):
    """Scale grad (N,) in place to a norm of at most norm_limit."""
    model.square_sums(grad, 1.0, np.inf, panels, 0, 1)
    factor = grad.dtype.type(model.norm_factor(panels, norm_limit))
    for j in range(grad.shape[0]):
        grad[j] *= factor


@inner
def _draw(logits, weights, u, temperature):
    """The id that u in [0, 1) falls on, with probabilities softmax(logits / temperature) in float64."""
    V = logits.shape[0]
    best = 0
    for j in range(V):
        best = j if logits[j] > logits[best] else best
    if temperature == 0.0:
        return best
    largest = float(logits[best])
    for j in range(V):
        weights[j] = exp((float(logits[j]) - largest) / temperature)
    total = 0.0
    for j in range(V):
        total += weights[j]
        weights[j] = total
    drawn = 0
    for j in range(V):
        drawn += weights[j] / total <= u
    return min(drawn, V - 1)


@entry
def sample_loop(
    theta, offsets, x, uniforms, temperature, h, c, gates, packed, extra, logits, weights, pieces, counter,
    drawn,
):  # fmt: skip
    """Draw characters; the buffers h, c, gates, logits are those of a model with T = 1; x (1, B) is overwritten."""
    L, _, B, H = h.shape
    V = logits.shape[2]
    W_y = theta[offsets[3 * L] : offsets[3 * L + 1]]
    b_y = theta[offsets[3 * L + 1] : offsets[3 * L + 1] + V]
    if extra is not None and extra.table.size > 0:
        model.look_up(theta, offsets, extra.table, pieces, 0, 1, 0, 1)
    for n in range(uniforms.shape[0]):
        model.forward(theta, offsets, x, h, c, gates, packed, extra, 0, 0, B, pieces, 0, 1, counter, 1)
        copy_to_rows(b_y, logits.reshape(logits.size), 0, V, B)
        add_product(h, (2 * L - 1) * B * H, H, W_y, 0, V, logits, 0, V, B, H, V)
        _begin(h, c, False, False, 0, B, pieces, 0, 1)
        for r in range(B):
            x[0, r] = _draw(logits[0, r], weights, uniforms[n, r], temperature)
            drawn[n, r] = x[0, r]
