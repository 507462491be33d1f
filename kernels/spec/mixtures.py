"""An n-gram that is mixed with a model when it samples: the trie of its contexts, and the weights of both.

Node 0 of the trie is the empty context. The children of a node are the contexts with one more character before it;
nodes are numbered breadth first, so they are adjacent and sorted by that character. So are the grams of a node: the
characters that follow its context, sorted, with their counts c. With D the discount of the depth, C the sum of the
counts and K their number, the probability of w after a context h of k characters, h' without its first, is

    P(w|h) = max(c - D, 0) / C + D K / C P(w|h'),   down to 1 / V

for the longest ending of the history that is a node (Chen and Goodman 1999, section 2.7). The logits are replaced by
log((1 - a) softmax(logits) + a P), where a is the weight for that ending's length.
"""

from typing import Any, NamedTuple


class Mixture(NamedTuple):
    """The n-gram beside the model of a call of `sample`; only `history` is written."""

    chars: Any  #: (n,) int32, the character that each context adds before its parent's
    children: Any  #: (n + 1,) int32, the first child of each node; n at the end
    grams: Any  #: (n + 1,) int32, the first gram of each node
    symbols: Any  #: (m,) int32, the character of each gram
    counts: Any  #: (m,) int32
    discounts: Any  #: (D,) float64, for contexts of 0 to D - 1 characters
    weights: Any  #: (D,) float64 in [0, 1], of the n-gram
    history: Any  #: (B, D) int32, the last ids read in each stream, x last; -1 before a text's beginning


#: The arrays, in the notation of :mod:`kernels.spec.arguments`.
MIXTURE = {
    "mixture.chars": "ids A",
    "mixture.children": "ids A+1",
    "mixture.grams": "ids A+1",
    "mixture.symbols": "ids G",
    "mixture.counts": "ids G",
    "mixture.discounts": "double D",
    "mixture.weights": "double D",
    "mixture.history": "out ids B D",
}
