"""The n-gram beside a model, inside the sampling loop: :mod:`kernels.spec.mixtures` has the equations.

Rows are rounded at every step, as the reference's are. Indices from the trie are limited to its arrays, so that a
damaged one cannot touch other memory.
"""

import math

import numpy as np

from kernels.cpu.compiler import exact, inner
from kernels.cpu.emit.activations import exp
from kernels.spec import Mixture

_ROOT = int(np.array(math.sqrt(0.5)).view(np.int64))
_LN2, _TINY = math.log(2), 2.0**-1022

#: What a model without an n-gram passes: no weights.
NONE = Mixture(*(np.zeros(1, np.int32),) * 5, np.empty(0), np.empty(0), np.zeros((1, 1), np.int32))


@exact
def _part(ends, node, size):
    """The elements of a node, from begin to end, of `size` in all."""
    begin = min(max(ends[node], 0), size)
    return begin, min(max(ends[node + 1], begin), size)


@exact
def _child(mixture, node, character):
    """The child of a node that adds `character` before its context; 0 if there is none."""
    low, end = _part(mixture.children, node, mixture.chars.shape[0])
    high = end
    while low < high:
        middle = (low + high) // 2
        if mixture.chars[middle] < character:
            low = middle + 1
        else:
            high = middle
    return low if low < end and mixture.chars[low] == character else 0


@exact
def _add_shares(mixture, node, discount, p):
    """Multiply p (V,) by what a node leaves to shorter contexts, and add the shares of its grams."""
    begin, end = _part(mixture.grams, node, mixture.symbols.shape[0])
    total = 0
    for g in range(begin, end):
        total += mixture.counts[g]
    rest = discount * (end - begin) / total
    for j in range(p.shape[0]):
        p[j] = rest * p[j]
    for g in range(begin, end):
        symbol = mixture.symbols[g]
        if 0 <= symbol < p.shape[0]:
            p[symbol] = (mixture.counts[g] - discount) / total + p[symbol]


@exact
def _row(mixture, history, p):
    """Write the n-gram's probability of each next character to p (V,); return the length of its context."""
    V, depths = p.shape[0], mixture.discounts.shape[0]
    for j in range(V):
        p[j] = 1.0 / V
    node = depth = 0
    while True:
        _add_shares(mixture, node, mixture.discounts[depth], p)
        node = _child(mixture, node, history[depths - 1 - depth]) if depth + 1 < depths else 0
        if node == 0:
            return depth
        depth += 1


@inner
def _log(p, m):
    """Write the logarithm of each of p (V,), normal numbers above 0, to m (V,); p is overwritten.

    With p = 2^k m, m from sqrt(1/2) to sqrt(2), and s = (m - 1) / (m + 1), log m = 2 (s + s^3 / 3 + s^5 / 5 + ...).
    Unlike math.log, these loops are vectorized.
    """
    bits, own = p.view(np.int64), m.view(np.int64)
    for j in range(p.shape[0]):
        k = (bits[j] - _ROOT) >> 52
        own[j] = bits[j] - (k << 52)
        p[j] = k
    for j in range(p.shape[0]):
        s = (m[j] - 1.0) / (m[j] + 1.0)
        q = s * s
        tail = q * (1 / 13 + q * (1 / 15 + q * (1 / 17 + q * (1 / 19 + q / 21))))
        series = q * (1 / 3 + q * (1 / 5 + q * (1 / 7 + q * (1 / 9 + q * (1 / 11 + tail)))))
        m[j] = p[j] * _LN2 + 2.0 * (s + s * series)


@inner
def mix(mixture, history, logits, scratch):
    """Replace logits (V,), finite but for -inf, by the logarithms of the mixture's probabilities.

    scratch is (2, V) float64.
    """
    V, p, e = logits.shape[0], scratch[0], scratch[1]
    a = mixture.weights[_row(mixture, history, p)]
    largest = logits[0]
    for j in range(V):
        largest = max(largest, logits[j])
    total = 0.0
    for j in range(V):
        e[j] = exp(float(logits[j]) - float(largest))
        total += e[j]
    scale = (1.0 - a) / total
    for j in range(V):
        p[j] = max(scale * e[j] + a * p[j], _TINY)
    _log(p, e)
    for j in range(V):
        logits[j] = e[j]


@inner
def remember(history, drawn):
    """Append a character to a history (D,)."""
    for k in range(history.shape[0] - 1):
        history[k] = history[k + 1]
    history[history.shape[0] - 1] = drawn
