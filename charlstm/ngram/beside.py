"""The n-gram beside a net: interpolated Kneser-Ney as a trie that sampling reads in compiled code, and its file.

The trie is that of :mod:`kernels.spec.mixtures`. Its probabilities are those of :class:`charlstm.ngram.markov.Model`,
to the bit.
"""

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import Any

import numpy as np

from charlstm.errors import UserError
from charlstm.ngram.markov import Model, discount_of, look_up
from kernels.spec import Mixture

ORDER = 8
MOST_CHARS = 5_000_000  #: a longer text is learned from pieces of it, so that memory and the file stay bounded
FORMAT_VERSION = 1
_PIECES = 64  # that a longer text is learned from, evenly spaced
_AT_ONCE = 2**18  # ids looked up at a time
_ARRAYS = ("chars", "children", "grams", "symbols", "counts")
_UNKNOWN = -1  # the character before a text's beginning


@dataclass(frozen=True, repr=False, eq=False)
class NGram:
    """A Kneser-Ney model; arrays as in :class:`kernels.spec.Mixture`, of n contexts and m grams."""

    vocab_size: int
    chars: np.ndarray
    children: np.ndarray
    grams: np.ndarray
    symbols: np.ndarray
    counts: np.ndarray
    discounts: np.ndarray

    def __repr__(self) -> str:
        return f"<NGram of order {self.order}: {len(self.chars):,} contexts, {len(self.symbols):,} grams>"

    @classmethod
    def learn(cls, ids: np.ndarray, vocab_size: int) -> "NGram":
        """Learn from a text, (M,) ids: from all of it, or 64 evenly spaced pieces of MOST_CHARS characters in all.

        The order is 8, or M - 1 for a text of fewer than 9 characters.

        Raises
        ------
        UserError
            For a text of fewer than two characters.
        """
        if len(ids) > MOST_CHARS:
            size = MOST_CHARS // _PIECES
            begins = np.linspace(0, len(ids) - size, _PIECES).astype(np.int64).tolist()
            ids = np.concatenate([ids[begin : begin + size] for begin in begins])
        return cls.of(Model.learn(ids, vocab_size, min(ORDER, max(1, len(ids) - 1))))

    @classmethod
    def of(cls, model: Model) -> "NGram":
        """The Kneser-Ney model with the counts of a Markov model."""
        R, levels = model.vocab_size + 1, model.levels
        heads = [level.contexts for level in levels[1:]]
        born = [np.bincount(longer.contexts // R, minlength=len(level.contexts)) for level, longer in pairwise(levels)]
        kinds = [np.diff(level.starts, append=len(level.grams)) for level in levels]
        return cls(
            model.vocab_size,
            _joined([np.zeros(1, np.int64), *(head % R for head in heads)]),
            _ends([*born, np.zeros(len(levels[-1].contexts), np.int64)], 1),
            _ends(kinds, 0),
            _joined([level.grams % R for level in levels]),
            _joined([level.before for level in levels]),
            np.array([discount_of(level.before) for level in levels]),
        )

    @property
    def order(self) -> int:
        """The most characters of context."""
        return len(self.discounts) - 1

    @property
    def nbytes(self) -> int:
        """Bytes of the arrays in memory."""
        return sum(getattr(self, name).nbytes for name in _ARRAYS)

    @cached_property
    def totals(self) -> np.ndarray:
        """The sum of the counts of each context, (n,) int64."""
        return np.add.reduceat(self.counts.astype(np.int64), self.grams[:-1])

    @cached_property
    def _keys(self) -> tuple[np.ndarray, np.ndarray]:
        """The children, from node 1 on, and the grams, as sorted integers: the node's number times R, plus the id."""
        R, nodes = self.vocab_size + 1, np.arange(len(self.chars))
        born, kinds = (np.repeat(nodes, np.diff(ends)) for ends in (self.children, self.grams))
        return born * R + self.chars[1:], kinds * R + self.symbols

    def counts_by_depth(self) -> list[np.ndarray]:
        """The counts of the grams of each length."""
        found, begin, end = [], 0, 1  # the contexts of one length
        for _ in self.discounts:
            found.append(self.counts[self.grams[begin] : self.grams[end]])
            begin, end = int(self.children[begin]), int(self.children[end])
        return found

    def log_probs(self, ids: np.ndarray, before: Sequence[int] | np.ndarray = ()) -> tuple[np.ndarray, np.ndarray]:
        """ln p of each id, (M,) float64, given those before it, and how many of them its longest known context has.

        `before` are the ids before the first; the last `order` of them count.
        """
        found, depths = np.empty(len(ids)), np.empty(len(ids), np.int64)
        known = np.concatenate([self.history(before)[1:], np.asarray(ids, np.int64)])
        for at in range(0, len(ids), _AT_ONCE):
            piece = slice(at, at + _AT_ONCE)
            found[piece], depths[piece] = self._piece(known[at : at + _AT_ONCE + self.order])
        return found, depths

    def _piece(self, known: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        R, order = self.vocab_size + 1, self.order
        after, (children, grams) = known[order:], self._keys
        p, depths = np.full(len(after), 1.0 / self.vocab_size), np.zeros(len(after), np.int64)
        rows = np.arange(len(after))  # those whose context of k characters is known
        nodes = np.zeros(len(after), np.int64)
        for k, discount in enumerate(self.discounts):
            if k:
                places, is_known = look_up(children, nodes * R + known[rows + order - k])
                rows, nodes = rows[is_known], places[is_known] + 1
                depths[rows] = k
            places, is_seen = look_up(grams, nodes * R + after[rows])
            totals, kinds = self.totals[nodes], self.grams[nodes + 1] - self.grams[nodes]
            share = np.where(is_seen, (self.counts[places] - discount) / totals, 0.0)
            p[rows] = share + discount * kinds / totals * p[rows]
        return np.log(p), depths

    def history(self, ids: Sequence[int] | np.ndarray) -> np.ndarray:
        """The last order + 1 of the ids, (D,) int32, after -1 for each that is missing."""
        known = np.asarray(ids, np.int32)[-self.order - 1 :]
        return np.concatenate([np.full(self.order + 1 - len(known), _UNKNOWN, np.int32), known])

    def mixture(self, weights: np.ndarray, before: np.ndarray, streams: int) -> Mixture:
        """What sampling takes: weights (order + 1,) by length of context, and the ids that all streams begin after."""
        history = np.repeat(self.history(before)[None], streams, axis=0)
        arrays: Any = {name: getattr(self, name) for name in _ARRAYS}
        return Mixture(**arrays, discounts=self.discounts, weights=weights, history=history)

    # ------------------------------------------------------------------------------------------------------- file
    def to_bytes(self) -> bytes:
        """The content of its file: safetensors, sizes instead of ends, each array in the smallest type that holds it.

        The same model always gives the same bytes.
        """
        from safetensors.numpy import save

        arrays = {name: getattr(self, name) for name in _ARRAYS}
        arrays |= {name: np.diff(arrays[name]) for name in ("children", "grams")}
        narrow = {name: array.astype(np.min_scalar_type(int(array.max()))) for name, array in arrays.items()}
        facts = {"format_version": FORMAT_VERSION, "vocab_size": self.vocab_size}
        return save({**narrow, "discounts": self.discounts}, {"charlstm_ngram": json.dumps(facts)})

    @classmethod
    def from_bytes(cls, data: bytes, name: str) -> "NGram":
        """Read the content of a file; `name` is used in messages.

        Raises
        ------
        UserError
            If it is not an n-gram in a format that this version reads, or is damaged.
        """
        from safetensors import SafetensorError
        from safetensors.numpy import load

        try:
            head = data[8 : 8 + int.from_bytes(data[:8], "little")]
            facts = json.loads(json.loads(head)["__metadata__"]["charlstm_ngram"])
            version = facts["format_version"]
            if version != FORMAT_VERSION:
                raise UserError(f"{name}: written in format {version}; this version of charlstm reads {FORMAT_VERSION}")
            found = load(data)
            arrays = {each: found[each].astype(np.int32) for each in _ARRAYS}
            model = cls(
                int(facts["vocab_size"]), arrays["chars"], _ends([arrays["children"]], 1), _ends([arrays["grams"]], 0),
                arrays["symbols"], arrays["counts"], found["discounts"].astype(np.float64),
            )  # fmt: skip
        except (LookupError, TypeError, ValueError, AttributeError, OverflowError, SafetensorError) as error:
            raise UserError(f"{name}: not an n-gram, or a damaged one: {error}") from None
        n, m = len(model.chars), len(model.symbols)
        ends = [(len(each), int(each[-1])) for each in (model.children, model.grams)]
        if ends != [(n + 1, n), (n + 1, m)] or len(model.counts) != m or not len(model.discounts):
            raise UserError(f"{name}: a damaged n-gram: its arrays do not fit")
        return model


class Following:
    """Reads one text with an n-gram, in pieces.

    Parameters
    ----------
    ngram : NGram
    before : the ids that the text begins after
    """

    def __init__(self, ngram: NGram, before: Sequence[int] | np.ndarray) -> None:
        self._ngram, self._before = ngram, np.asarray(before, np.int64)

    def read(self, ids: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """What :meth:`NGram.log_probs` gives for the next ids of the text."""
        found = self._ngram.log_probs(ids, self._before)
        self._before = np.concatenate([self._before, ids])[-self._ngram.order :]
        return found


def digest(data: bytes) -> str:
    """The SHA-256 of an n-gram's file, by which checkpoints name it."""
    return hashlib.sha256(data).hexdigest()


def _joined(parts: list[np.ndarray]) -> np.ndarray:
    return np.concatenate(parts).astype(np.int32)


def _ends(sizes: list[np.ndarray], begin: int) -> np.ndarray:
    """Where the elements of each node begin, and the end of the last."""
    return np.concatenate([[begin], begin + np.cumsum(np.concatenate(sizes))]).astype(np.int32)
