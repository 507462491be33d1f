"""What Python calls: many training iterations, one pass over a model, many sampled characters, one update.

``gates.ndim == 4`` tells an LSTM from the other cells. It is known when a function is compiled, and what it rules out
is left out: nobody waits for the code of a cell that is not used.
"""

import math

import numpy as np

from kernels.cpu import model, rnn_gru
from kernels.cpu.bfloat16 import pair_layers
from kernels.cpu.compiler import entry, exact, inner, thin
from kernels.cpu.emit.activations import exp
from kernels.cpu.emit.denormals import flush_denormals, restore
from kernels.cpu.layers import cells_at
from kernels.cpu.matmul import add_product, copy_to_rows
from kernels.cpu.optimizers import ADAGRAD, CONSTANTS, MOMENTUM, SGD, constants
from kernels.cpu.threads import meet
from kernels.spec import SMOOTHING

#: Rows of a gradient's contraction (T B) up to which it is applied as it is made.
AT_ONCE_ROWS = 64


@inner
def _carry(before, last, zero):
    """`before` becomes `last`, or zero."""
    if zero:
        before[:] = 0
    else:
        for j in range(before.shape[0]):
            before[j] = last[j]


@inner
def _begin(h, c, zero, b0, b1, pieces, q0, q1):
    """The member's part of the state before the first step: that after the last one, or zero."""
    L, steps, B, H = h.shape
    cells = c.reshape(c.size)
    for layer in range(L):
        for q in range(q0, q1):
            j0, n = pieces[q, 0], pieces[q, 1]
            c_at, c_row = cells_at(pieces[q], steps * B, H)
            for r in range(b0, b1):
                _carry(h[layer, 0, r, j0 : j0 + n], h[layer, steps - 1, r, j0 : j0 + n], zero)
                if c.size > 0:
                    at = layer * steps * B * H + c_at + r * c_row
                    to = at + (steps - 1) * B * c_row
                    _carry(cells[at : at + n], cells[to : to + n], zero)


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


@exact
def _smoothed(smooth, loss):
    """The running mean of losses that training reports, one loss later: to the bit what Python makes of it."""
    return SMOOTHING * smooth + (1.0 - SMOOTHING) * loss


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
    pairs,
    watch,
    losses,
    members,
    pieces,
    numbers,
    thread,
):
    """Run iterations, as one of a team whose members are all given the same arrays; return how many losses there are.

    `limits` is (grad_scale, grad_clip, grad_clip_norm), infinite for none; `first` is the first step whose loss counts;
    `watch` is (smooth_loss, stop_below), the first of which is written; extra is None or a model.Extra; h and c hold
    the state carried in after their last step, the one carried out before their first, and after the last as well but
    where the smoothed loss ends the call; status[0] becomes the place of an id outside the vocabulary, which ends the
    call, and is -1 otherwise; members and pieces are team.Plan's, whose panels theta and state are in the order of;
    numbers (members, CONSTANTS or more) is for the constants of the update; the rest is as in numpy_ref.train_steps and
    spec.Workspace.
    """
    T, B = x.shape[0] - 1, x.shape[1]
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
    done, stopped, smooth = starts.shape[0], False, watch[0]
    setting = flush_denormals()
    for n in range(starts.shape[0]):
        _begin(h, c, reset[n], b0, b1, pieces, q0, q1)
        if thread == 0:
            status[0] = _read(ids, starts[n], x, V)
            if sparse and status[0] < 0:
                status[1] = model.touched(x[:T], rows, status[1])
        if gates.ndim == 4 and packed.shape[2] > 0:
            model.pack_layers(theta, offsets, packed, h.shape[3], pieces, q0, q1, thread, threads)
        if pairs is not None:
            pair_layers(theta, offsets, pairs, h.shape[3], pieces, q0, q1)
        if extra is not None and extra.table.size > 0:
            model.look_up(theta, offsets, extra.table, pieces, q0, q1, thread, threads)
        meet(counter, threads)  # the sequence, the state before it and the rows that it touches are there
        if status[0] >= 0 or counter[1] != 0:
            done = n
            break
        if gates.ndim == 4:
            model.forward(
                theta, offsets, x[:T], h, c, gates, packed, pairs, extra, n, b0, b1, pieces, q0, q1, counter, threads
            )
        else:
            rnn_gru.forward(theta, offsets, x[:T], h, gates, extra, n, pieces, b0, b1)
        model.readout(theta, offsets, x[1:], h, extra, logits, row_loss, dh, first, b0, b1, thread, threads)
        meet(counter, threads)  # the losses of all rows are there, and dh
        loss = model.total(row_loss)
        if thread == 0:
            losses[n] = loss
        if not math.isfinite(loss):
            done = n + 1
            break
        smooth = _smoothed(smooth, loss / B)
        if smooth < watch[1]:
            done, stopped = n + 1, True
            break
        if gates.ndim == 4:
            model.backward(
                theta, offsets, h, c, gates, dz, dh, carry, partial, packed, pairs, extra, n, b0, b1, pieces, q0, q1,
                counter, threads,
            )  # fmt: skip
        else:
            rnn_gru.backward(theta, offsets, h, gates, dz, dh, carry, extra, n, pieces, b0, b1)
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
    if thread == 0:
        watch[0] = smooth
    if starts.shape[0] > 0 and not stopped:  # else the state before that iteration stays: it can be run again
        _begin(h, c, False, b0, b1, pieces, q0, q1)
    meet(counter, threads)  # the state is there: nobody writes any more
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
    if gates.ndim == 4:
        model.forward(theta, offsets, x[:T], h, c, gates, packed, None, extra, 0, 0, B, pieces, 0, 1, counter, 1)
    else:
        rnn_gru.forward(theta, offsets, x[:T], h, gates, extra, 0, pieces, 0, B)
    model.readout(theta, offsets, x[1:], h, extra, logits, row_loss, dh, first, 0, B, 0, 1)
    if gates.ndim == 4:
        model.backward(
            theta, offsets, h, c, gates, dz, dh, carry, partial, packed, None, extra, 0, 0, B, pieces, 0, 1, counter, 1
        )
    else:
        rnn_gru.backward(theta, offsets, h, gates, dz, dh, carry, extra, 0, pieces, 0, B)
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
def _log_prob(logits, target):
    """Log softmax(logits)[target] in float64."""
    V = logits.shape[0]
    largest = float(logits[0])
    for j in range(V):
        largest = max(largest, float(logits[j]))
    total = 0.0
    for j in range(V):
        total += exp(float(logits[j]) - largest)
    return float(logits[target]) - largest - math.log(total)


@thin
def _logits(theta, offsets, x, h, c, gates, packed, extra, logits, pieces, counter):
    """Logits (T, B, V) after each of the inputs x[:T]; h and c hold the states of all steps, [:, 0] what came in."""
    L, steps, B, H = h.shape
    T, _, V = logits.shape
    last = offsets.shape[0] - 1
    if gates.ndim == 4:
        model.forward(theta, offsets, x[:T], h, c, gates, packed, None, extra, 0, 0, B, pieces, 0, 1, counter, 1)
    else:
        rnn_gru.forward(theta, offsets, x[:T], h, gates, extra, 0, pieces, 0, B)
    copy_to_rows(theta[offsets[last] : offsets[last] + V], logits.reshape(logits.size), 0, V, T * B)
    W_y = theta[offsets[last - 1] : offsets[last]]
    add_product(h, ((L - 1) * steps + 1) * B * H, H, W_y, 0, V, logits, 0, V, T * B, H, V)


@entry
def score_pass(theta, offsets, x, h, c, gates, packed, extra, logits, pieces, counter, log_probs):
    """Log probabilities (T, B) of x[1:]; h and c hold the states of all steps, [:, 0] what came in."""
    if extra is not None and extra.table.size > 0:
        model.look_up(theta, offsets, extra.table, pieces, 0, 1, 0, 1)
    _logits(theta, offsets, x, h, c, gates, packed, extra, logits, pieces, counter)
    T, B, _ = logits.shape
    for t in range(T):
        for r in range(B):
            log_probs[t, r] = _log_prob(logits[t, r], x[t + 1, r])


@inner
def _can_be_drawn_of(logits):
    """Whether the largest of the logits (V,) is finite, and none is NaN; -inf rules a character out."""
    largest = logits[0]
    for j in range(logits.shape[0]):
        if math.isnan(logits[j]):
            return False
        largest = max(largest, logits[j])
    return math.isfinite(largest)


@inner
def _comes_first(logits, a, b):
    """Whether id a is more probable than b, or as probable and lower."""
    return logits[a] > logits[b] or (logits[a] == logits[b] and a < b)


@inner
def _sink(order, at, size, logits):
    """Let the id at `at` sink to its place in the heap order[:size], whose first is the most probable."""
    moved = order[at]
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and _comes_first(logits, order[child + 1], order[child]):
            child += 1
        if _comes_first(logits, moved, order[child]):
            break
        order[at] = order[child]
        at = child
    order[at] = moved


@inner
def _take(order, size, logits):
    """Take the most probable id from the heap order[:size] and put it right behind what is left of that."""
    order[0], order[size - 1] = order[size - 1], order[0]
    _sink(order, 0, size - 1, logits)


@inner
def _truncate(logits, weights, order, top_k, top_p):
    """Set the weights to zero that top_k and top_p rule out; return the highest id that is left. order is (V,).

    A heap, as few of all ids may have to be put in order.
    """
    V = logits.shape[0]
    total = 0.0
    for j in range(V):
        order[j] = j
        total += weights[j]
    for at in range(V // 2 - 1, -1, -1):
        _sink(order, at, V, logits)
    kept = V
    if 0 < top_k < V:
        kept, total = top_k, 0.0
        for n in range(kept):
            _take(order, V - n, logits)
            total += weights[order[V - 1 - n]]
    if top_p < 1.0:
        limit, kept, share = kept, 0, 0.0
        while kept < limit and share < top_p * total:
            if limit == V:
                _take(order, V - kept, logits)
            kept += 1
            share += weights[order[V - kept]]
    for n in range(V - kept):
        weights[order[n]] = 0.0
    last = 0
    for n in range(V - kept, V):
        last = max(last, order[n])
    return last


@inner
def _draw(logits, weights, order, u, temperature, top_k, top_p):
    """The id that u in [0, 1) falls on, with probabilities softmax(logits / temperature), truncated, in float64."""
    V = logits.shape[0]
    best = 0
    for j in range(V):
        best = j if logits[j] > logits[best] else best
    if temperature == 0.0:
        return best
    largest = float(logits[best])
    for j in range(V):
        weights[j] = exp((float(logits[j]) - largest) / temperature)
    last = V - 1
    if top_k > 0 or top_p < 1.0:
        last = _truncate(logits, weights, order, top_k, top_p)
    total = 0.0
    for j in range(V):
        total += weights[j]
        weights[j] = total
    drawn = 0
    for j in range(V):
        drawn += weights[j] / total <= u
    return min(drawn, last)


@entry
def sample_loop(
    theta, offsets, x, uniforms, temperature, top_k, top_p, h, c, gates, packed, extra, logits, weights, order, pieces,
    counter, drawn, log_probs,
):  # fmt: skip
    """Draw characters; return how many, which is less than asked for where logits are not finite.

    The buffers h, c, gates, logits are those of a model with T = 1; x (1, B) is overwritten. log_probs is (n, B), or of
    no size where nobody asks for them.
    """
    B = x.shape[1]
    if extra is not None and extra.table.size > 0:
        model.look_up(theta, offsets, extra.table, pieces, 0, 1, 0, 1)
    for n in range(uniforms.shape[0]):
        _logits(theta, offsets, x, h, c, gates, packed, extra, logits, pieces, counter)
        _begin(h, c, False, 0, B, pieces, 0, 1)
        for r in range(B):
            if not _can_be_drawn_of(logits[0, r]):
                return n
            x[0, r] = _draw(logits[0, r], weights, order, uniforms[n, r], temperature, top_k, top_p)
            drawn[n, r] = x[0, r]
            if log_probs.size > 0:
                log_probs[n, r] = _log_prob(logits[0, r], x[0, r])
    return uniforms.shape[0]
