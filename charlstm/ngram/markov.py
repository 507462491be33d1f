"""The Markov model: smoothed counts of the character after each context; the baseline for a network.

A context is the characters before a character; a gram is a context followed by that character. Contexts of k
characters are sorted by their last character, then by the one before it, and so on; a context's position is its rank.
A context is stored as one integer: R times the rank of the context without its first character, plus that first
character. A gram is stored as one integer too: R times the rank of its context, plus the character that follows. The
model is therefore a few sorted arrays, in which the grams of a context are adjacent. R is V + 1; the id V stands for
the missing characters before the beginning of a text.

Smoothing interpolates the counts after a context h with the probability after the shorter context h', down to 1 / V:

    P(w|h) = share(h, w) + rest(h) P(w|h'), where c(hw) are the counts, C is their sum over w, and K is the number of
    distinct w after h

    kneser-ney     share = (c - D) / C, rest = D K / C, D = n1 / (n1 + 2 n2), where n1 and n2 grams of that
                   length have the counts 1 and 2. For all but the longest grams, c is the number of distinct
                   characters before them. If n1 is 0, D is 0.5, because unseen characters need a probability.
    witten-bell    share = c / (C + K), rest = K / (C + K)
    none           share = c / C, rest = 0

An unseen context counts as its longest seen ending.

Sources: Kneser and Ney 1995, Improved backing-off for m-gram language modeling, in its interpolated form of Chen and
Goodman 1999, An empirical study of smoothing techniques for language modeling, section 2.7; Witten and Bell 1991, The
zero-frequency problem, method C.
"""

import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import count, islice
from time import perf_counter
from typing import Any

import numpy as np

from charlstm.errors import UserError
from charlstm.figures import perplexity_in_words
from charlstm.text import heldout
from charlstm.text.corpus import Corpus, Vocabulary

ORDERS = range(1, 9)
SMOOTHINGS = ("kneser-ney", "witten-bell", "none")
_LARGEST = 2**63 - 1
ORDER, _LINE_CHARS = 5, 5_000_000
_PIECE = 64
_MEASURED = 2**20  # characters evaluated at a time, so that memory does not grow with the text


@dataclass(frozen=True)
class Level:
    """The contexts of one length and their grams; ranks are indices into these arrays."""

    contexts: np.ndarray  #: (n,) int64, sorted: rank of the shorter context * R + the character before it
    grams: np.ndarray  #: (m,) int64, sorted: rank of the context * R + the character after it
    counts: np.ndarray  #: (m,) int64, how often the text has each gram
    before: np.ndarray  #: (m,) int64, distinct characters before each gram; for the longest grams: counts
    starts: np.ndarray  #: (n,) int64, the first gram of each context

    @cached_property
    def upto(self) -> np.ndarray:
        """The cumulative sum of the counts, (m,) int64."""
        return np.cumsum(self.counts)

    def weights(self, smoothing: str) -> tuple[np.ndarray, np.ndarray]:
        """Return `share` of each gram, (m,), and `rest` of each context, (n,), float64, as in the equations above."""
        counts = self.before if smoothing == "kneser-ney" else self.counts
        kinds = np.diff(self.starts, append=len(counts))
        totals = np.add.reduceat(counts, self.starts)
        if smoothing == "witten-bell":
            totals += kinds
        freed = {"kneser-ney": discount_of(counts), "witten-bell": 1.0, "none": 0.0}[smoothing]
        own = counts - freed if smoothing == "kneser-ney" else counts
        return own / np.repeat(totals, kinds), freed * kinds / totals


@dataclass(frozen=True)
class Model:
    """A Markov model of `order` characters of context; `levels[k]` has the contexts of k characters."""

    order: int
    vocab_size: int
    levels: list[Level]

    @classmethod
    def learn(cls, ids: np.ndarray, vocab_size: int, order: int = 5) -> "Model":
        """Count the grams of a text; its first `order` characters serve only as context.

        Parameters
        ----------
        ids : (M,) integers below `vocab_size`; read only
        vocab_size : V
        order : characters of context, 1 to 8

        Raises
        ------
        UserError
            For an order out of range, or a text of at most `order` characters.

        Notes
        -----
        Learning sorts M integers once and allocates about 10 bytes per character, and 30 to 60 bytes per distinct
        gram. If (V + 1) ** (order + 1) exceeds 63 bits, each overflow costs another sort, a lookup and 30 bytes per
        character.
        """
        if order not in ORDERS:
            raise UserError(f"--order: expected {ORDERS[0]} to {ORDERS[-1]}, got {order}")
        if len(ids) <= order:
            raise UserError(f"--order {order}: needs at least {order + 1} characters to learn from, got {len(ids)}")
        R = vocab_size + 1
        windows, counts = _distinct(ids, order + 1, R)
        ranks = np.zeros(len(windows), np.int64)
        contexts = [ranks[:1]]
        for k in range(1, order + 1):
            table, ranks = np.unique(ranks * R + windows[:, order - k], return_inverse=True)
            contexts.append(table)
        grams = ranks * R + windows[:, order]
        place = np.argsort(grams)
        grams, counts = grams[place], counts[place]
        levels = [_level(contexts[order], grams, counts, counts, R)]
        for k in reversed(range(order)):  # every shorter gram is the ending of longer ones
            shorter = contexts[k + 1][grams // R] // R * R + grams % R
            grams, at, before = np.unique(shorter, return_inverse=True, return_counts=True)
            counts = np.bincount(at, counts).astype(np.int64)
            levels.append(_level(contexts[k], grams, counts, before, R))
        return cls(order, vocab_size, levels[::-1])

    @property
    def num_contexts(self) -> int:
        """Number of distinct contexts of `order` characters."""
        return len(self.levels[-1].contexts)

    def bits_per_char(self, ids: np.ndarray, smoothing: str = "kneser-ney") -> float:
        """Return the mean of -log2 p over ids[1:], for ids (M,), each given up to `order` preceding ids.

        The result is infinite if a character has probability zero, which only happens without smoothing. Each distinct
        gram is looked up once per _MEASURED ids.

        Raises
        ------
        UserError
            For fewer than two ids, or an unknown smoothing.
        """
        if len(ids) < 2:
            raise UserError(f"bits per character: needs at least 2 characters to measure, got {len(ids)}")
        bits = sum(self._bits(ids, begin, smoothing) for begin in range(1, len(ids), _MEASURED))
        return bits / (len(ids) - 1)

    def _bits(self, ids: np.ndarray, begin: int, smoothing: str) -> float:
        """Return -sum log2 p of ids[begin : begin + _MEASURED]."""
        nothing = np.full(max(0, self.order - begin), self.vocab_size, np.min_scalar_type(self.vocab_size))
        known = ids[max(0, begin - self.order) : begin + _MEASURED]
        windows, counts = _distinct(np.concatenate([nothing, known]), self.order + 1, self.vocab_size + 1)
        with np.errstate(divide="ignore"):
            return float(-(counts * np.log2(self._probabilities(windows, smoothing))).sum())

    def probabilities(self, context: Sequence[int] | np.ndarray, smoothing: str = "kneser-ney") -> np.ndarray:
        """Return the probability of each next character, (V,) float64, given the last `order` ids of `context`."""
        known = [int(each) for each in context][-self.order :]
        windows = np.full((self.vocab_size, self.order + 1), self.vocab_size)
        windows[:, self.order - len(known) : self.order] = known
        windows[:, self.order] = np.arange(self.vocab_size)
        return self._probabilities(windows, smoothing)

    def _probabilities(self, windows: np.ndarray, smoothing: str) -> np.ndarray:
        """Return the probability of the last id of each window, (n, order + 1), given the others, (n,) float64."""
        if smoothing not in SMOOTHINGS:
            raise UserError(f"--smoothing: expected one of {', '.join(SMOOTHINGS)}, got {smoothing!r}")
        R, after = self.vocab_size + 1, windows[:, self.order]
        p = np.full(len(windows), 1.0 / self.vocab_size)
        rows = np.arange(len(windows))  # the windows whose context of k characters is known
        ranks = np.zeros(len(windows), np.int64)
        for k, level in enumerate(self.levels):
            if k:
                ranks, found = look_up(level.contexts, ranks * R + windows[rows, self.order - k])
                rows, ranks = rows[found], ranks[found]
            share, rest = level.weights(smoothing)
            places, found = look_up(level.grams, ranks * R + after[rows])
            p[rows] = np.where(found, share[places], 0.0) + rest[ranks] * p[rows]
        return p

    def sample(
        self,
        length: int | None = 200,
        prime: Sequence[int] | np.ndarray = (),
        seed: int | None = None,
        by_frequency: bool = True,
    ) -> Iterator[int]:
        """Yield the ids of `prime`, then `length` ids drawn with the frequencies of the training text.

        Sampling uses no smoothing: it draws from the characters that followed the last `order` characters or, if none
        did, from those that followed a shorter context.

        Parameters
        ----------
        length : number of characters to draw; None: unlimited
        prime : ids to continue from; if empty, sampling starts from a known context
        seed : None: a different text each time
        by_frequency : whether that first context is drawn by its frequency or uniformly
        """
        random = np.random.RandomState(seed)
        history = [int(each) for each in prime] or self._state(random.random_sample(), by_frequency)
        yield from history
        for _ in count() if length is None else range(length):
            history = history[-self.order :]
            history.append(self._draw(history, random.random_sample()))
            yield history[-1]

    def _draw(self, history: list[int], uniform: float) -> int:
        """Return the next character for a uniform number from [0, 1)."""
        R, rank, level = self.vocab_size + 1, 0, self.levels[0]
        for longer, character in zip(self.levels[1:], reversed(history), strict=False):
            key = rank * R + character
            place = int(np.searchsorted(longer.contexts, key))
            if place == len(longer.contexts) or longer.contexts[place] != key:
                break
            rank, level = place, longer
        begin = int(level.starts[rank])
        end = int(level.starts[rank + 1]) if rank + 1 < len(level.starts) else len(level.grams)
        below = int(level.upto[begin] - level.counts[begin])
        chosen = below + int(uniform * int(level.upto[end - 1] - below))
        return int(level.grams[np.searchsorted(level.upto, chosen, "right")] % R)

    def _state(self, uniform: float, by_frequency: bool) -> list[int]:
        """Return a known context for a uniform number from [0, 1)."""
        R, level = self.vocab_size + 1, self.levels[-1]
        rank = int(uniform * self.num_contexts)
        if by_frequency:
            rank = int(level.grams[np.searchsorted(level.upto, int(uniform * int(level.upto[-1])), "right")]) // R
        state = []
        for level in self.levels[:0:-1]:
            rank, character = divmod(int(level.contexts[rank]), R)
            state.append(character)
        return state


@dataclass(frozen=True)
class Figures:
    """The size and held-out score of a text's model; `learn_and_measure` says when bits_per_char is None."""

    name: str
    chars: int  #: of the whole text
    order: int
    smoothing: str
    contexts: int
    validation: float
    bits_per_char: float | None
    seconds: float  #: of learning and evaluation
    bytes: int | None = None  #: of the whole text; this and bits_per_byte are None unless read as bytes
    bits_per_byte: float | None = None

    @property
    def in_words(self) -> str:
        """The result as a phrase for the terminal."""
        if not self.validation:
            return "trained on the whole text"
        if self.bits_per_char is None:
            return "infinite bits per character on held-out text, which has characters of probability zero,"
        bits = self.bits_per_char
        of_bytes = "" if self.bits_per_byte is None else f"{self.bits_per_byte:.4f} bits per byte, "
        return (
            f"{of_bytes}{bits:.4f} bits per character ({bits * math.log(2):.4f} nats), "
            f"perplexity {perplexity_in_words(bits)} on held-out text,"
        )


def learn_and_measure(
    corpus: Corpus, order: int, smoothing: str, validation: float, validation_from: str = "end", seed: int = 0
) -> tuple[Model, Figures]:
    """Train on a text and evaluate on its held-out fraction `validation`: see `charlstm.text.heldout.split`.

    bits_per_char is None if `validation` is 0, or if it is infinite, which only happens without smoothing.

    Raises
    ------
    UserError
        For a text too short for either, or an unknown order or smoothing.
    """
    begin = perf_counter()
    learned, held_out = heldout.split(corpus, validation, validation_from, seed)
    model = Model.learn(learned, len(corpus.vocabulary), order)
    bits = model.bits_per_char(held_out, smoothing) if validation else math.inf
    finite, seconds = bits if math.isfinite(bits) else None, perf_counter() - begin
    count = corpus.vocabulary.count_characters
    is_bytes = corpus.vocabulary.unit == "byte"
    of_bytes: dict[str, Any] = {"bytes": len(corpus.ids), "bits_per_byte": finite} if is_bytes else {}
    per_char = finite and finite * len(held_out) / count(held_out)
    return model, Figures(
        corpus.name, count(corpus.ids), order, smoothing, model.num_contexts, validation, per_char, seconds, **of_bytes
    )


def baseline_bits(train_ids: np.ndarray, val_ids: np.ndarray, vocab_size: int) -> float:
    """Return the bits per id of val_ids[1:] for order 5 and Kneser-Ney smoothing, trained on the first 5 million ids.

    The order is lower for texts of fewer than 6 characters. Raises UserError if either has fewer than two ids.
    """
    order = min(ORDER, max(1, len(train_ids) - 1))
    return Model.learn(train_ids[:_LINE_CHARS], vocab_size, order).bits_per_char(val_ids)


def pieces(vocabulary: Vocabulary, ids: Iterator[int]) -> Iterator[str]:
    """Yield the text of `ids`, a few characters at a time."""
    decode = vocabulary.decoder()
    while piece := list(islice(ids, _PIECE)):
        yield decode(np.array(piece), False)
    yield decode(np.array([], np.uint8), True)


def original(text: str, order: int = 4, length: int = 200, seed: int | None = None) -> Iterator[str]:
    """Yield the lines that markov-model.py of eliben/deep-learning-samples prints.

    As in that script, the last transition is not counted, and the first state is drawn uniformly. In a state that
    nothing follows, the script fails; this function continues from a shorter context.

    Raises
    ------
    UserError
        For a text too short to contain a state.
    """
    if len(text) < order + 2:
        raise UserError(f"--style original: needs at least {order + 2} characters, got {len(text)}")
    vocabulary, text = Vocabulary.of(text), text[:-1]
    yield "Learning model..."
    model = Model.learn(vocabulary.encode(text), len(vocabulary), order)
    yield f"Model has {model.num_contexts} states"
    states: dict[str, None] = {}  # the first eleven, in the order of the text
    begin = 0
    while len(states) < min(11, model.num_contexts):
        states[text[begin : begin + order]] = None
        begin += 1
    for state in states:
        yield f"{state} {Counter(re.findall(f'(?={re.escape(state)}(.))', text, re.DOTALL))}"
    yield "Sampling..."
    yield "".join(pieces(vocabulary, model.sample(length, seed=seed, by_frequency=False)))


def _distinct(ids: np.ndarray, length: int, R: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the distinct windows of `length` ids below R, sorted, (n, length) unsigned, and their counts, (n,) int64.

    A window is one integer in base R. Where it would overflow, the rank of its first part replaces that part.
    """
    M = len(ids) - length + 1
    keys, bound = ids[:M].astype(np.int64), R
    tables: list[np.ndarray | None] = [None]
    for k in range(1, length):
        table = None
        if bound > _LARGEST // R:
            table = np.unique(keys)
            keys, bound = np.searchsorted(table, keys), len(table)
        tables.append(table)
        keys *= R
        keys += ids[k : k + M]
        bound *= R
    keys.sort()
    first = np.flatnonzero(np.concatenate([[True], keys[1:] != keys[:-1]]))
    keys, counts = keys[first], np.diff(first, append=M)
    windows = np.empty((len(keys), length), np.min_scalar_type(R - 1))
    for k in reversed(range(length)):
        keys, windows[:, k] = np.divmod(keys, R)
        table = tables[k]
        keys = keys if table is None else table[keys]
    return windows, counts


def _level(contexts: np.ndarray, grams: np.ndarray, counts: np.ndarray, before: np.ndarray, R: int) -> Level:
    return Level(contexts, grams, counts, before, np.searchsorted(grams, np.arange(len(contexts)) * R))


def look_up(table: np.ndarray, keys: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the position of each key in a sorted table, and whether the table contains it."""
    places = np.minimum(np.searchsorted(table, keys), len(table) - 1)
    return places, table[places] == keys


def discount_of(counts: np.ndarray) -> float:
    """Return the Kneser-Ney discount D for the counts of the grams of one length."""
    return discount_from(int(np.count_nonzero(counts == 1)), int(np.count_nonzero(counts == 2)))


def discount_from(once: int, twice: int) -> float:
    """Return the Kneser-Ney discount D for the numbers of grams of one length that have the counts 1 and 2."""
    return once / (once + 2 * twice) if once else 0.5
