"""Entry points for a trained model: log probabilities of a text, and sampling of many characters."""

import math
from functools import cache
from typing import Any

from kernels.cpu.compiler import entry, inner, named, thin
from kernels.cpu.emit.activations import exp
from kernels.cpu.loss import log_prob, score_of_row
from kernels.cpu.matmul import add_product, copy_to_rows
from kernels.cpu.mixtures import mix, remember
from kernels.cpu.model import find_places, look_up, passes
from kernels.cpu.steps import carry_state
from kernels.cpu.threads import Share, alone, barrier, rows_of
from kernels.cpu.values import block, flat

#: Rows of logits that scoring computes at a time.
_ROWS = 32


@cache
def _logits_of(cell: str) -> Any:
    """The compiled pass from ids to logits for one kind of cell."""
    _, forward, _ = passes(cell)

    @thin
    def logits(net, x, ws, extra, share):
        """Write ws.logits (T, B, V) after each of the inputs x[:T]; ws.h[:, 0], ws.c[:, 0] hold the initial state."""
        L, steps, B, H = ws.h.shape
        T, _, V = ws.logits.shape
        last = net.offsets.shape[0] - 1
        forward(net, x[:T], ws, extra, 0, share)
        copy_to_rows(net.theta[net.offsets[last] : net.offsets[last] + V], flat(ws.logits), 0, V, T * B)
        add_product(ws.h, ((L - 1) * steps + 1) * B * H, H, block(net, last - 1), 0, V, ws.logits, 0, V, T * B, H, V)

    return logits


@cache
def score_pass(cell: str) -> Any:
    """The compiled scoring pass for one kind of cell."""
    _, forward, _ = passes(cell)

    @entry
    @named(f"score_pass_{cell}")
    def score_pass(net, x, targets, aim, extra, ws, members, pieces, log_probs, thread):
        """Write a thread's share of the log probabilities (T, B) of targets; return whether the team has not ended.

        All threads get the same arrays. ws.h[:, 0], ws.c[:, 0] hold the initial state and stay as they are.
        """
        own, threads, T = members[thread], members.shape[0], ws.logits.shape[0]
        share = Share(thread, threads, own[0], own[1], own[2], own[3], pieces, ws.counter)
        if extra is not None and extra.table.size > 0:
            if thread == 0:
                ws.status[2] = find_places(net, x, ws.rows, extra)
            barrier(ws.counter, threads)  # the rows of the embedding are complete
            if ws.counter[1] != 0:
                return False
            look_up(net, extra, ws.status[2], share)
            barrier(ws.counter, threads)  # the table is complete
        forward(net, x, ws, extra, 0, share)
        barrier(ws.counter, threads)  # h of all steps is complete
        first, last = rows_of(x.shape[1] * T, thread, threads)
        for row in range(first, last, _ROWS):
            _score_rows(net, targets, aim, ws, first, row, min(_ROWS, last - row), log_probs)
        return ws.counter[1] == 0

    return score_pass


@thin
def _score_rows(net, targets, aim, ws, spare, row, R, log_probs):
    """Write the log probabilities of R rows of log_probs (T, B), from `row` on; logits go to the rows from `spare` on.

    So they stay in the cache.
    """
    L, steps, B, H = ws.h.shape
    V, last = ws.logits.shape[2], net.offsets.shape[0] - 1
    logits = flat(ws.logits)
    copy_to_rows(net.theta[net.offsets[last] : net.offsets[last] + V], logits, spare * V, V, R)
    top = ((L - 1) * steps + 1) * B * H
    add_product(ws.h, top + row * H, H, block(net, last - 1), 0, V, logits, spare * V, V, R, H, V)
    for r in range(R):
        t, stream = (row + r) // B, (row + r) % B
        at = (spare + r) * V
        log_probs[t, stream] = score_of_row(logits[at : at + V], targets, t, stream, aim)


@inner
def _can_be_drawn_of(logits):
    """Whether the largest of the logits (V,) is finite and none is NaN; -inf excludes a character."""
    largest = logits[0]
    for j in range(logits.shape[0]):
        if math.isnan(logits[j]):
            return False
        largest = max(largest, logits[j])
    return math.isfinite(largest)


@inner
def _comes_first(logits, a, b):
    """Whether id a is more probable than b, or equally probable and lower."""
    return logits[a] > logits[b] or (logits[a] == logits[b] and a < b)


@inner
def _sink(order, at, size, logits):
    """Move the id at `at` down to its place in the heap order[:size], whose root is the most probable id."""
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
    """Pop the most probable id from the heap order[:size] and store it right behind the shorter heap."""
    order[0], order[size - 1] = order[size - 1], order[0]
    _sink(order, 0, size - 1, logits)


@inner
def _truncate(logits, weights, order, top_k, top_p):
    """Set the weights that top_k and top_p exclude to zero; return the highest remaining id. order is (V,) scratch.

    A heap avoids sorting all ids when few of them are needed.
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
    """The id that u in [0, 1) selects, by the truncated probabilities softmax(logits / temperature), in float64."""
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


@cache
def sample_loop(cell: str) -> Any:
    """The compiled sampling loop for one kind of cell."""
    logits_of = _logits_of(cell)

    @entry
    @named(f"sample_loop_{cell}")
    def sample_loop(net, x, uniforms, how, extra, ws, weights, order, pieces, drawn, log_probs, mixture):
        """Sample characters; return their number, which is less than requested if logits are not finite.

        `how` is (temperature, top_k, top_p). The buffers of ws are those of a model with T = 1; x (1, B) is written.
        log_probs is (n, B), or empty if it is not needed. The mixture has no weights if there is no n-gram.
        """
        B, logits = x.shape[1], ws.logits
        share = alone(B, pieces, ws.counter)
        if extra is not None and extra.table.size > 0:
            V = extra.table.shape[0]
            extra.embedded[0] = net.theta[: net.offsets[0]].reshape(V, extra.embedded.shape[2])
            look_up(net, extra, V, share)
        for n in range(uniforms.shape[0]):
            if extra is not None and extra.table.size > 0:
                extra.places[0] = x[0]
            logits_of(net, x, ws, extra, share)
            carry_state(ws.h, ws.c, False, share)
            for r in range(B):
                if not _can_be_drawn_of(logits[0, r]):
                    return n
                if mixture.weights.size > 0:
                    mix(mixture, mixture.history[r], logits[0, r], weights)
                x[0, r] = _draw(logits[0, r], weights[0], order, uniforms[n, r], how[0], how[1], how[2])
                drawn[n, r] = x[0, r]
                if mixture.weights.size > 0:
                    remember(mixture.history[r], x[0, r])
                if log_probs.size > 0:
                    log_probs[n, r] = log_prob(logits[0, r], x[0, r])
        return uniforms.shape[0]

    return sample_loop
