"""Checkpoint and text -> log probabilities, bits per character, perplexity."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

import numpy as np

import kernels
from charlstm.errors import UserError
from charlstm.figures import perplexity
from charlstm.model import forward
from charlstm.model.backend import choose_backend
from charlstm.model.checkpoint import Checkpoint
from charlstm.settings.unknown import checked
from charlstm.text.corpus import Corpus
from charlstm.text.vocabulary import Vocabulary, code_points, unknown_characters, utf8
from kernels.spec import Shape

_CODE_POINTS = 0x110000  # of Unicode
_PIECE = 2**16  # ids of a large text that are mapped, read and told at a time
_LINES = 4096  # lines that are read together


class Rates:
    """What follows from the probability of a text: `nats` for `units` that were predicted, `chars` characters."""

    nats: float  #: -sum ln p
    units: int  #: what was predicted: characters, or bytes of a model of bytes
    chars: int  #: characters of the text; those that the bytes decode to of a model of bytes
    is_of_bytes: bool

    @property
    def bytes(self) -> int | None:
        """Bytes that were predicted; None for a model of characters."""
        return self.units if self.is_of_bytes else None

    @property
    def nats_per_char(self) -> float:
        """-mean ln p: the loss of training, for one character; not a number for a text without any."""
        return self.nats / self.chars if self.chars else math.nan

    @property
    def bits_per_char(self) -> float:
        """-log2 p of the text for each of its characters."""
        return self.nats_per_char / math.log(2)

    @property
    def bits_per_byte(self) -> float | None:
        """-mean log2 p of a byte; None for a model of characters."""
        return self.bits_per_unit if self.is_of_bytes else None

    @property
    def bits_per_unit(self) -> float:
        """-mean log2 p of what was predicted."""
        return self.nats / self.units / math.log(2) if self.units else math.nan

    @property
    def perplexity(self) -> float:
        """2 ** bits_per_char: see :func:`charlstm.figures.perplexity`."""
        return perplexity(self.bits_per_char)


@dataclass(frozen=True, repr=False)
class Score(Rates):
    """How well a model predicts a text, its state carried through the whole text.

    `log_probs` (units,) float64 holds ln p of each character (of a model of bytes: byte), given all before it, and what
    texts begin after, which does not count: see :mod:`charlstm.text.edges`. `skipped` counts the characters that the
    vocabulary lacks, where they were left out or charged; of those charged, `log_probs` has one each.
    """

    log_probs: np.ndarray
    skipped: int = 0
    decoded: int | None = None  #: characters that the bytes decode to; None for a model of characters

    def __repr__(self) -> str:
        return f"<Score of {self.chars:,} characters: {self.bits_per_char:.4f} bits per character>"

    @property
    def is_of_bytes(self) -> bool:  # type: ignore[override]
        """Whether log_probs are those of bytes."""
        return self.decoded is not None

    @property
    def units(self) -> int:  # type: ignore[override]
        """How many characters, or bytes, were predicted."""
        return len(self.log_probs)

    @property
    def chars(self) -> int:  # type: ignore[override]
        """Characters that were predicted; of a model of bytes, those that the bytes decode to."""
        return self.units if self.decoded is None else self.decoded

    @property
    def nats(self) -> float:  # type: ignore[override]
        """-sum ln p, over the whole text."""
        return float(-self.log_probs.sum())


@dataclass
class Totals(Rates):
    """The same of a text whose log probabilities nobody kept."""

    nats: float = 0.0
    units: int = 0
    chars: int = 0
    is_of_bytes: bool = False
    skipped: int = 0


class Scorer:
    """A model at work on texts, with what to do with characters that it lacks.

    Parameters
    ----------
    model : Checkpoint
    unknown : "error", "skip" to leave them out, "charge" to leave them out and count each as one among all code points
        that the vocabulary lacks, all alike (20.1 bits), or "replace:CHAR" to read CHAR in their place
    backend : who does the arithmetic
    """

    def __init__(self, model: Checkpoint, unknown: str = "error", backend: str = "auto") -> None:
        self.unknown = checked(unknown, "charge")
        name = choose_backend(backend, model.shape.cell)
        self.model, self.begin = model, model.edges.begin
        self._model = kernels.load_for_host(name), kernels.to_device(name, model.theta), model.shape
        self.charge = -math.log(_CODE_POINTS - len(model.vocabulary))

    def reader(self) -> forward.Reader:
        """The model before a text."""
        return forward.Reader(*self._model, self.begin)

    def of_lines(self, lines: Sequence[np.ndarray]) -> list[np.ndarray]:
        """ln p of the ids of many texts."""
        return forward.log_probs_of_lines(*self._model, self.begin, lines)

    def encoded(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The ids that a text is read as, and which of its characters, (n,) bool, are left out of them.

        Raises
        ------
        UserError
            For characters that the vocabulary lacks, where that is an error.
        """
        vocabulary = self.model.vocabulary
        return self._encoded(vocabulary.as_read(text, self.model.config.lower))

    def _encoded(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        vocabulary = self.model.vocabulary
        if vocabulary.unit == "byte":
            ids = vocabulary.encode(text)
            return ids, np.zeros(len(ids), bool)
        if self.unknown not in ("skip", "charge"):
            try:
                ids = vocabulary.encode(text, self.unknown)
            except UserError as error:
                raise UserError(f"{error}; --unknown skip leaves such characters out") from None
            return ids, np.zeros(len(ids), bool)
        places, lacking = vocabulary.places(code_points(text), "skip")
        return places[~lacking].astype(vocabulary.id_dtype), lacking

    def encoded_together(self, texts: Iterable[str]) -> list[tuple[np.ndarray, np.ndarray]]:
        """What `encoded` gives of each of many texts; the message about one names its place."""
        vocabulary, lower = self.model.vocabulary, self.model.config.lower
        read = [vocabulary.as_read(text, lower) for text in texts]
        try:
            ids, lacking = self._encoded("".join(read))
        except UserError:
            for number, text in enumerate(read):
                try:
                    self._encoded(text)
                except UserError as error:
                    raise UserError(f"text {number}: {error}") from None
            raise
        is_of_bytes = vocabulary.unit == "byte"
        ends = np.cumsum([len(utf8(text)) if is_of_bytes else len(text) for text in read])
        known = np.concatenate([[0], np.cumsum(~lacking)]).tolist()  # ids before each place
        begins = [0, *ends.tolist()]
        return [(ids[known[a] : known[b]], lacking[a:b]) for a, b in pairwise(begins)]

    def score(self, ids: np.ndarray, lacking: np.ndarray, log_probs: np.ndarray) -> Score:
        """The score of a text: `ids` and `lacking` as `encoded` gives them, and ln p of its ids."""
        vocabulary = self.model.vocabulary
        decoded = vocabulary.count_characters(ids) if vocabulary.unit == "byte" else None
        return Score(self.charged(lacking, log_probs), int(lacking.sum()), decoded)

    def charged(self, lacking: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
        """ln p of a text's characters, with those that the vocabulary lacks where these are charged."""
        if self.unknown != "charge" or not lacking.any():
            return log_probs
        found = np.full(len(lacking), self.charge)
        found[~lacking] = log_probs
        return found


def score(model: Checkpoint, text: str, *, unknown: str = "error", backend: str = "auto") -> Score:
    """Score a text.

    Parameters
    ----------
    model : Checkpoint
    text : of any length: it is read in pieces, whose length changes the result by no more than rounding
    unknown, backend : see :class:`Scorer`

    Raises
    ------
    UserError
        For characters that the model lacks, where that is an error; for a text with nothing to score; for a backend
        that cannot be used here.
    """
    scorer = Scorer(model, unknown, backend)
    ids, lacking = scorer.encoded(text)
    found = scorer.score(ids, lacking, scorer.reader().read(ids))
    if not found.units:
        raise UserError("there is nothing to score: the text has no character that the model knows")
    return found


def scores(model: Checkpoint, texts: Iterable[str], *, unknown: str = "error", backend: str = "auto") -> list[Score]:
    """Score many short texts, read side by side: each as :func:`score` does by itself, up to rounding.

    A text without anything to score has no figures: `bits_per_char` is not a number.

    Raises
    ------
    UserError
        As :func:`score`; the place of the text is told.
    """
    if isinstance(texts, str):
        raise UserError("scores: expected several texts, got one; score() takes one")
    scorer = Scorer(model, unknown, backend)
    encoded = scorer.encoded_together(texts)
    log_probs = scorer.of_lines([ids for ids, _ in encoded])
    return [scorer.score(ids, lacking, each) for (ids, lacking), each in zip(encoded, log_probs, strict=True)]


class CorpusScorer:
    """Scores a text of any size, which has been read in its own vocabulary, in bounded memory.

    Raises
    ------
    UserError
        For characters that the model lacks, where that is an error, before anything has been scored.
    """

    def __init__(self, scorer: Scorer, corpus: Corpus) -> None:
        self.scorer, self.corpus = scorer, corpus
        self.skipped = 0  #: characters that the model lacks, in the pieces that were read
        own, vocabulary = corpus.vocabulary, scorer.model.vocabulary
        if own.unit == "byte":
            self._places, self._lacking = np.arange(256), np.zeros(256, bool)
        else:
            kinds, unknown = code_points(own.characters), scorer.unknown
            self._places, self._lacking = vocabulary.places(kinds, "skip" if unknown == "charge" else unknown)
            if unknown == "error" and self._lacking.any():
                raise self._unknown(own)
            if unknown not in ("skip", "charge"):
                self._lacking = np.zeros(len(own), bool)
        self.is_of_bytes = own.unit == "byte"

    def _unknown(self, own: Vocabulary) -> UserError:
        """What to raise for characters that the model lacks."""
        first: dict[int, int] = {}
        count = 0
        for at in range(0, len(self.corpus.ids), _PIECE):
            piece = self.corpus.ids[at : at + _PIECE]
            lacking = self._lacking[piece]
            count += int(lacking.sum())
            kinds, where = np.unique(piece[lacking], return_index=True)
            for kind, place in zip(kinds.tolist(), np.flatnonzero(lacking)[where].tolist(), strict=True):
                first.setdefault(kind, at + place)
        order = sorted(first, key=lambda kind: first[kind])
        error = unknown_characters(code_points(own.characters)[order], first[order[0]], count, len(self.corpus.ids))
        return UserError(
            f"{self.corpus.name}: {error}; --unknown skip leaves such characters out, --unknown replace:CHAR reads "
            "CHAR instead"
        )

    def pieces(self) -> Iterator[tuple[np.ndarray, np.ndarray, np.ndarray]]:
        """Of a piece of the text after another: its ids, which the model lacks (n,), and ln p of the others."""
        reader, self.skipped = self.scorer.reader(), 0
        for at in range(0, len(self.corpus.ids), _PIECE):
            piece = self.corpus.ids[at : at + _PIECE]
            lacking = self._lacking[piece]
            self.skipped += int(lacking.sum())
            yield piece, lacking, reader.read(self._places[piece[~lacking]])

    def characters(self) -> Iterator[tuple[int, float]]:
        """Each id of the text, those left out excepted, and its ln p."""
        for piece, lacking, log_probs in self.pieces():
            is_charged = self.scorer.unknown == "charge"
            ids = piece if is_charged else piece[~lacking]
            yield from zip(ids.tolist(), self.scorer.charged(lacking, log_probs).tolist(), strict=True)

    def totals(self) -> Totals:
        """The score of the whole text. Raises UserError where there is nothing to score."""
        found = Totals(is_of_bytes=self.is_of_bytes)
        for _, lacking, log_probs in self.pieces():
            each = self.scorer.charged(lacking, log_probs)
            found.nats -= float(each.sum())
            found.units += len(each)
        found.skipped = self.skipped
        if not found.units:
            raise UserError("there is nothing to score: the text has no character that the model knows")
        found.chars = self.corpus.vocabulary.count_characters(self.corpus.ids) if self.is_of_bytes else found.units
        return found

    def lines(self) -> Iterator[Score]:
        """The score of each of the text's lines, without the line breaks, each as a text by itself."""
        held: list[np.ndarray] = []
        for line in self._lines():
            held.append(line)
            if len(held) == _LINES:
                yield from self._scores(held)
                held = []
        yield from self._scores(held)

    def _scores(self, lines: list[np.ndarray]) -> Iterator[Score]:
        lacking = [self._lacking[line] for line in lines]
        ids = [self._places[line[~out]] for line, out in zip(lines, lacking, strict=True)]
        for each in zip(ids, lacking, self.scorer.of_lines(ids), strict=True):
            yield self.scorer.score(*each)

    def _lines(self) -> Iterator[np.ndarray]:
        line_break = self.corpus.vocabulary.characters.find("\n")
        left: list[np.ndarray] = []
        for at in range(0, len(self.corpus.ids), _PIECE):
            piece = np.asarray(self.corpus.ids[at : at + _PIECE])
            *whole, last = np.split(piece, np.flatnonzero(piece == line_break) + 1)
            for line in whole:
                yield np.concatenate([*left, line[:-1]])
                left = []
            left.append(last)
        rest = np.concatenate(left)
        if len(rest):
            yield rest


def bits_per_unit(ops: Any, theta: np.ndarray, shape: Shape, begin: Sequence[int], ids: np.ndarray) -> float:
    """-sum log2 p / M of the ids (M,) of a text of any length; `begin` is what texts begin after."""
    reader = forward.Reader(ops, theta, shape, begin)
    nats = -sum(float(reader.read(ids[at : at + _PIECE]).sum()) for at in range(0, len(ids), _PIECE))
    return nats / len(ids) / math.log(2)
