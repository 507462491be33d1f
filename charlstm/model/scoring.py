"""Scores a text with a checkpoint: log probabilities, bits per character, perplexity."""

import math
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import numpy as np

import kernels
from charlstm.errors import UserError
from charlstm.figures import perplexity
from charlstm.model import forward, mixing
from charlstm.model.adapting import AdaptingReader
from charlstm.model.backend import choose_backend
from charlstm.model.checkpoint import Checkpoint
from charlstm.ngram.beside import Following
from charlstm.ngram.growing import Growing
from charlstm.settings.unknown import checked
from charlstm.text.corpus import Corpus
from charlstm.text.vocabulary import Vocabulary, code_points, unknown_characters, utf8

_CODE_POINTS = 0x110000  # number of Unicode code points
_PIECE = 2**16  # ids of a large text that are mapped and scored at a time
_LINES = 4096  # lines that are scored together


class Rates:
    """The figures that follow from a text's probability: `nats` for `units` predictions and `chars` characters."""

    nats: float  #: -sum ln p
    units: int  #: number of predictions: characters, or bytes for a byte model
    chars: int  #: characters of the text; for a byte model, those that its bytes decode to
    is_of_bytes: bool
    #: -sum ln p of the net alone and of the n-gram alone, if the figures are those of their mixture; else None
    parts: tuple[float, float] | None

    @property
    def net_bits_per_char(self) -> float | None:
        """The figure of the net alone; None unless an n-gram is mixed in."""
        return self._of_part(0)

    @property
    def ngram_bits_per_char(self) -> float | None:
        """The figure of the n-gram alone; None unless it is mixed in."""
        return self._of_part(1)

    def _of_part(self, k: int) -> float | None:
        return self.parts[k] / self.chars / math.log(2) if self.parts and self.chars else None

    @property
    def bytes(self) -> int | None:
        """Number of predicted bytes; None for a character model."""
        return self.units if self.is_of_bytes else None

    @property
    def nats_per_char(self) -> float:
        """-mean ln p per character, the training loss; NaN for a text without characters."""
        return self.nats / self.chars if self.chars else math.nan

    @property
    def bits_per_char(self) -> float:
        """-log2 p of the text, per character."""
        return self.nats_per_char / math.log(2)

    @property
    def bits_per_byte(self) -> float | None:
        """-mean log2 p per byte; None for a character model."""
        return self.bits_per_unit if self.is_of_bytes else None

    @property
    def bits_per_unit(self) -> float:
        """-mean log2 p per prediction."""
        return self.nats / self.units / math.log(2) if self.units else math.nan

    @property
    def perplexity(self) -> float:
        """2 ** bits_per_char: see :func:`charlstm.figures.perplexity`."""
        return perplexity(self.bits_per_char)


@dataclass(frozen=True, repr=False)
class Score(Rates):
    """How well a model predicts a text, with its state carried through the whole text.

    `log_probs` (units,) float64 holds ln p of each character (byte model: byte), given all before it and what texts
    begin after, which itself is not scored: see :mod:`charlstm.text.edges`. `skipped` counts the characters that the
    vocabulary lacks, whether left out or charged; each charged one has an entry in `log_probs`.
    """

    log_probs: np.ndarray
    skipped: int = 0
    parts: tuple[float, float] | None = None
    decoded: int | None = None  #: characters that the bytes decode to; None for a character model

    def __repr__(self) -> str:
        return f"<Score of {self.chars:,} characters: {self.bits_per_char:.4f} bits per character>"

    @property
    def is_of_bytes(self) -> bool:  # type: ignore[override]
        """Whether `log_probs` are those of bytes."""
        return self.decoded is not None

    @property
    def units(self) -> int:  # type: ignore[override]
        """Number of predicted characters or bytes."""
        return len(self.log_probs)

    @property
    def chars(self) -> int:  # type: ignore[override]
        """Number of predicted characters; for a byte model, of those that the bytes decode to."""
        return self.units if self.decoded is None else self.decoded

    @property
    def nats(self) -> float:  # type: ignore[override]
        """-sum ln p of the whole text."""
        return float(-self.log_probs.sum())


@dataclass
class Totals(Rates):
    """The figures of a text whose single log probabilities were not stored."""

    nats: float = 0.0
    units: int = 0
    chars: int = 0
    is_of_bytes: bool = False
    skipped: int = 0
    parts: tuple[float, float] | None = None


class Scorer:
    """Scores texts with one model, with a rule for characters that the vocabulary lacks.

    Parameters
    ----------
    model : Checkpoint
    unknown : "error", "skip" to leave them out, "charge" to leave them out of the input but charge each the cost of one
        among all code points outside the vocabulary, equally likely (20.1 bits), or "replace:CHAR" to read CHAR instead
    backend : compute backend
    mix : weight of the n-gram beside the net, "learned" as the text is read, or 0 for the net alone; None: what the run
        found best, see :mod:`charlstm.model.mixing`
    adapt : whether net and n-gram go on learning from the text: see :mod:`charlstm.model.adapting`. Such figures must
        not be compared with others.
    """

    def __init__(
        self, model: Checkpoint, unknown: str = "error", backend: str = "auto", mix: float | str | None = None,
        adapt: bool = False,
    ) -> None:  # fmt: skip
        self.adapt = adapt
        self.mixer = mixing.chosen(model, mix)
        self.unknown = checked(unknown, "charge")
        voices = model.voices
        [name] = {choose_backend(backend, voice.shape.cell) for voice in voices}
        if adapt and name == "cupy":
            name = choose_backend("auto")  # single segments are too short for a GPU
        self.model, self.begin = model, model.edges.begin
        ops = kernels.load_for_host(name)
        self._nets = [(ops, kernels.to_device(name, voice.theta), voice.shape) for voice in voices]
        self.charge = -math.log(_CODE_POINTS - len(model.vocabulary))

    def reader(self) -> "Reading":
        """A reader at the beginning of a text."""
        kind = AdaptingReader if self.adapt else forward.Reader
        net = forward.together([kind(*each, self.begin) for each in self._nets])
        if self.mixer is None:
            return Reading(net)
        ngram = (Growing if self.adapt else Following)(self.mixer.ngram, self.begin)
        return Reading(net, ngram, self.mixer.anew())

    def of_lines(self, lines: Sequence[np.ndarray]) -> list[np.ndarray]:
        """ln p of the ids of many texts, in the rows of :class:`Reading`.

        Raises
        ------
        UserError
            With `adapt`, for texts that are read side by side teach nothing to each other.
        """
        if self.adapt:
            raise UserError("--adapt: reads one text from its beginning to its end; it cannot score lines separately")
        found = forward.log_probs_of_lines(self._nets, self.begin, lines)
        if self.mixer is None:
            return [each[None] for each in found]
        each_anew = [(net, *self.mixer.ngram.log_probs(ids, self.begin)) for net, ids in zip(found, lines, strict=True)]
        return [np.stack([self.mixer.anew().mixed(*given), *given[:2]]) for given in each_anew]

    def encoded(self, text: str) -> tuple[np.ndarray, np.ndarray]:
        """The ids of a text, and which of its characters, (n,) bool, are left out of them.

        Raises
        ------
        UserError
            If the vocabulary lacks a character and `unknown` is "error".
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
        """What `encoded` gives for each of many texts; an error names the number of the text."""
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
        known = np.concatenate([[0], np.cumsum(~lacking)]).tolist()  # number of known characters before each position
        begins = [0, *ends.tolist()]
        return [(ids[known[a] : known[b]], lacking[a:b]) for a, b in pairwise(begins)]

    def score(self, ids: np.ndarray, lacking: np.ndarray, log_probs: np.ndarray) -> Score:
        """The score of a text: `ids` and `lacking` as `encoded` gives them, and the rows of its ids."""
        vocabulary = self.model.vocabulary
        decoded = vocabulary.count_characters(ids) if vocabulary.unit == "byte" else None
        rows = self.charged(lacking, log_probs)
        return Score(rows[0], int(lacking.sum()), parts_of(rows), decoded)

    def charged(self, lacking: np.ndarray, log_probs: np.ndarray) -> np.ndarray:
        """The rows of a text's characters, including the charged ones."""
        if self.unknown != "charge" or not lacking.any():
            return log_probs
        found = np.full((len(log_probs), len(lacking)), self.charge)
        found[:, ~lacking] = log_probs
        return found


class Reading:
    """Reads a text in pieces with a net, and with the n-gram beside it if there is one.

    Parameters
    ----------
    net : the net's reader
    ngram, mixer : the n-gram's reader, and the weights of both; None for the net alone
    """

    def __init__(
        self,
        net: forward.Reads,
        ngram: Following | Growing | None = None,
        mixer: mixing.Mixer | None = None,
    ) -> None:
        self._net, self._ngram, self._mixer = net, ngram, mixer

    def read(self, ids: np.ndarray) -> np.ndarray:
        """ln p of the next ids, (1, n) float64; with an n-gram (3, n): of the mixture, of the net, of the n-gram."""
        net = self._net.read(ids)
        if self._mixer is None or self._ngram is None:
            return net[None]
        ngram, depths = self._ngram.read(ids)
        return np.stack([self._mixer.mixed(net, ngram, depths), net, ngram])


def parts_of(rows: np.ndarray) -> tuple[float, float] | None:
    """-sum ln p of the net and of the n-gram; None for the net alone."""
    return None if len(rows) == 1 else (float(-rows[1].sum()), float(-rows[2].sum()))


def score(
    model: Checkpoint, text: str, *, unknown: str = "error", backend: str = "auto", mix: float | str | None = None,
    adapt: bool = False,
) -> Score:  # fmt: skip
    """Score a text.

    Parameters
    ----------
    model : Checkpoint
    text : of any length; it is read in pieces, and their length changes the result only by rounding
    unknown, backend, mix, adapt : see :class:`Scorer`

    Raises
    ------
    UserError
            If the model lacks a character and `unknown` is "error", if there is nothing to score, or if the backend
            or the n-gram cannot be used here.
    """
    scorer = Scorer(model, unknown, backend, mix, adapt)
    ids, lacking = scorer.encoded(text)
    found = scorer.score(ids, lacking, scorer.reader().read(ids))
    if not found.units:
        raise UserError("there is nothing to score: the text has no character that the model knows")
    return found


def scores(
    model: Checkpoint, texts: Iterable[str], *, unknown: str = "error", backend: str = "auto",
    mix: float | str | None = None,
) -> list[Score]:  # fmt: skip
    """Score many short texts side by side, each as :func:`score` does alone, up to rounding.

    A text with nothing to score has no figures: its `bits_per_char` is NaN.

    Raises
    ------
    UserError
        As :func:`score`; the message names the number of the text.
    """
    if isinstance(texts, str):
        raise UserError("scores: expected several texts, got one; score() takes one")
    scorer = Scorer(model, unknown, backend, mix)
    encoded = scorer.encoded_together(texts)
    log_probs = scorer.of_lines([ids for ids, _ in encoded])
    return [scorer.score(ids, lacking, each) for (ids, lacking), each in zip(encoded, log_probs, strict=True)]


class CorpusScorer:
    """Scores a text of any size, encoded in its own vocabulary, in bounded memory.

    Raises
    ------
    UserError
        If the model lacks a character and that is an error; raised before anything is scored.
    """

    def __init__(self, scorer: Scorer, corpus: Corpus) -> None:
        self.scorer, self.corpus = scorer, corpus
        self.skipped = 0  #: characters that the model lacks, in the pieces read so far
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
        """The error for characters that the model lacks."""
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
        """Yield for each piece of the text: its ids, which of them the model lacks (n,), and the rows of the others."""
        reader, self.skipped = self.scorer.reader(), 0
        for at in range(0, len(self.corpus.ids), _PIECE):
            piece = self.corpus.ids[at : at + _PIECE]
            lacking = self._lacking[piece]
            self.skipped += int(lacking.sum())
            yield piece, lacking, reader.read(self._places[piece[~lacking]])

    def characters(self) -> Iterator[tuple[int, float]]:
        """Yield each id of the text that is not left out, and its ln p."""
        for piece, lacking, log_probs in self.pieces():
            is_charged = self.scorer.unknown == "charge"
            ids = piece if is_charged else piece[~lacking]
            yield from zip(ids.tolist(), self.scorer.charged(lacking, log_probs)[0].tolist(), strict=True)

    def totals(self) -> Totals:
        """The score of the whole text. Raises UserError if there is nothing to score."""
        found = Totals(is_of_bytes=self.is_of_bytes)
        for _, lacking, log_probs in self.pieces():
            each = self.scorer.charged(lacking, log_probs)
            found.nats -= float(each[0].sum())
            found.units += each.shape[1]
            if parts := parts_of(each):
                found.parts = parts if found.parts is None else (found.parts[0] + parts[0], found.parts[1] + parts[1])
        found.skipped = self.skipped
        if not found.units:
            raise UserError("there is nothing to score: the text has no character that the model knows")
        found.chars = self.corpus.vocabulary.count_characters(self.corpus.ids) if self.is_of_bytes else found.units
        return found

    def lines(self) -> Iterator[Score]:
        """The score of each line, without line breaks, each as a text of its own."""
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


class Bits(NamedTuple):
    """Bits per id of a text: of the nets together, of their mixture with an n-gram, and of each net by itself."""

    net: float
    mixture: float  #: NaN without an n-gram
    each: list[float]


def bits_per_unit(
    nets: Sequence[forward.Net], begin: Sequence[int], ids: np.ndarray, threads: int | None = None,
    beside: np.ndarray | None = None, weight: float = 0.0,
) -> Bits:  # fmt: skip
    """-sum log2 p / M of the ids (M,) of a text of any length.

    Parameters
    ----------
    nets : those that speak together
    begin : the ids that texts begin after
    beside : ln p of the n-gram for each id, (M,), with its weight; None: the mixture's figure is NaN
    """
    readers = [forward.Reader(*net, begin, threads) for net in nets]
    net, both, single = 0.0, 0.0, np.zeros(len(nets))
    for at in range(0, len(ids), _PIECE):
        rows = [reader.read(ids[at : at + _PIECE]) for reader in readers]
        log_probs = forward.mean_of(rows)
        net -= float(log_probs.sum())
        single -= [float(row.sum()) for row in rows]
        if beside is not None:
            both -= float(mixing.mixed(log_probs, beside[at : at + _PIECE], weight).sum())
    scale = len(ids) * math.log(2)
    return Bits(net / scale, math.nan if beside is None else both / scale, (single / scale).tolist())
