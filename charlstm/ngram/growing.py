"""An n-gram that goes on learning: each character that it has read counts from the next one on.

After reading, its probabilities are those of a model learned from the training text followed by what was read. A gram
that is new at one length is one more distinct character before the gram at the next shorter length, and so on down to
the first that is not new: a character costs at most one step for each length.
"""

import math
from bisect import bisect_left
from collections.abc import Sequence

import numpy as np

from charlstm.ngram.beside import NGram
from charlstm.ngram.markov import discount_from


class Growing:
    """Reads one text with a copy of an n-gram, and learns from it.

    Parameters
    ----------
    ngram : NGram; not changed
    before : the ids that the text begins after
    """

    def __init__(self, ngram: NGram, before: Sequence[int] | np.ndarray) -> None:
        self._ngram, self._order = ngram, ngram.order
        self._chars, self._symbols = ngram.chars.data, ngram.symbols.data
        self._children, self._grams = ngram.children.data, ngram.grams.data
        self._counts = ngram.counts.tolist()
        self._totals = ngram.totals.tolist()
        self._kinds = np.diff(ngram.grams).tolist()
        self._new_children: dict[tuple[int, int], int] = {}
        self._new_grams: dict[tuple[int, int], int] = {}
        self._singles = [[int(np.count_nonzero(counts == k)) for k in (1, 2)] for counts in ngram.counts_by_depth()]
        self._history = [int(each) for each in before][-self._order :]

    def read(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What :meth:`NGram.log_probs` gives for the next ids of the text; each is learned once it is read."""
        found, depths = np.empty(len(ids)), np.empty(len(ids), np.int64)
        for n, symbol in enumerate(ids.tolist()):
            path = self._path()
            grams = [self._gram(node, symbol) for node in path]
            found[n], depths[n] = self._log_prob(path, grams), len(path) - 1
            if len(self._history) == self._order:
                self._learn(path, grams, symbol)
            self._history = [*self._history, symbol][-self._order :]
        return found, depths

    def _path(self) -> list[int]:
        """The nodes of the known endings of the history, from the empty one on."""
        path = [0]
        for character in reversed(self._history):
            node = self._child(path[-1], character)
            if node is None:
                break
            path.append(node)
        return path

    def _child(self, node: int, character: int) -> int | None:
        """The node of a context with one more character before it; None if it has not been seen."""
        return self._find(self._children, self._chars, self._new_children, node, character)

    def _gram(self, node: int, symbol: int) -> int | None:
        """Where the count of a gram is; None if it has not been seen."""
        return self._find(self._grams, self._symbols, self._new_grams, node, symbol)

    def _find(
        self, begins: memoryview, ids: memoryview, new: dict[tuple[int, int], int], node: int, wanted: int
    ) -> int | None:
        """The place of an id among those of a node, which begin at begins[node] in `ids`, or among the new ones."""
        if node < len(self._chars):
            end = begins[node + 1]
            place = bisect_left(ids, wanted, begins[node], end)
            if place < end and ids[place] == wanted:
                return place
        return new.get((node, wanted))

    def _log_prob(self, path: list[int], grams: list[int | None]) -> float:
        p = 1.0 / self._ngram.vocab_size
        for node, gram, (once, twice) in zip(path, grams, self._singles, strict=False):
            discount, total = discount_from(once, twice), self._totals[node]
            share = 0.0 if gram is None else (self._counts[gram] - discount) / total
            p = share + discount * self._kinds[node] / total * p
        return math.log(p)

    def _learn(self, path: list[int], grams: list[int | None], symbol: int) -> None:
        """Count a gram of every length, from the longest on, as far as the longer one was new."""
        while len(path) <= self._order:
            node = len(self._totals)
            self._new_children[path[-1], self._history[-len(path)]] = node
            self._totals.append(0)
            self._kinds.append(0)
            path.append(node)
            grams.append(None)
        for depth in range(self._order, -1, -1):
            node, gram, singles = path[depth], grams[depth], self._singles[depth]
            self._totals[node] += 1
            if gram is None:
                self._new_grams[node, symbol] = len(self._counts)
                self._counts.append(1)
                self._kinds[node] += 1
                singles[0] += 1
                continue
            self._counts[gram] += 1
            if self._counts[gram] <= 3:  # it had the count 1 or 2
                singles[self._counts[gram] - 2] -= 1
                if self._counts[gram] == 2:
                    singles[1] += 1
            return
