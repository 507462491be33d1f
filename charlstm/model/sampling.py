"""Generates text with a checkpoint."""

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

import numpy as np

import kernels
from charlstm.errors import UserError, unknown_option
from charlstm.model import mixing
from charlstm.model.adapting import AdaptingReader
from charlstm.model.backend import choose_backend
from charlstm.model.checkpoint import Checkpoint
from charlstm.model.forward import Net, Reader, together, writer_of
from charlstm.settings.config import plain_number
from charlstm.settings.unknown import checked
from charlstm.text.edges import Ending
from charlstm.text.vocabulary import UnknownCharacters
from kernels.spec import Mixture

_SEEDS = 2**32


@dataclass(frozen=True, kw_only=True)
class Options:
    """Options of sampling.

    Parameters
    ----------
    length : maximum number of characters (for a byte model: bytes) to draw; None for no limit
    temperature : 1 samples from the model's own distribution, less prefers likely characters, 0 takes the likeliest
    top_k : sample from the k most likely characters; 0 from all
    top_p : nucleus sampling: of those, sample from the fewest most likely that have this share of the probability;
        1 from all
    stop : end the text once this has been drawn; it stays in the text. None: the separator, if the model learned
        several texts and the separator stands only between them
    seed : of the random draws; None for a different text each time
    mix : weight of the n-gram beside the net, "learned" from the prime, or 0 for the net alone; None: what the run
        found best, see :mod:`charlstm.model.mixing`
    adapt_to : a passage whose style the text is to have: the net learns from it and goes on after it, see
        :mod:`charlstm.model.adapting`; the n-gram stays as it is
    unknown : what to do with characters of the prime that the vocabulary lacks: "error", "skip" or "replace:CHAR"
    backend : compute backend

    Raises
    ------
    UserError
        For values out of range, or a backend that cannot be used here.
    """

    length: int | None = 500
    temperature: float = 0.8
    top_k: int = 0
    top_p: float = 1.0
    stop: str | None = None
    seed: int | None = None
    mix: float | str | None = None
    adapt_to: str = ""
    unknown: str = "error"
    backend: str = "auto"

    def __post_init__(self) -> None:
        if self.length is not None and not self.length >= 0:
            raise UserError(f"--length: expected at least 0, got {self.length}")
        if not self.temperature >= 0:
            raise UserError(f"--temperature: expected at least 0, got {self.temperature}")
        if not self.top_k >= 0:
            raise UserError(f"--top-k: expected at least 0, got {self.top_k}")
        if not 0 < self.top_p <= 1:
            raise UserError(f"--top-p: expected more than 0 and at most 1, got {self.top_p}")
        if self.stop == "":
            raise UserError("--stop: expected at least one character")
        if self.seed is not None and not 0 <= self.seed < _SEEDS:
            raise UserError(f"--seed: expected 0 to {_SEEDS - 1}, got {self.seed}")
        checked(self.unknown)
        choose_backend(self.backend)
        if self.mix is not None:
            mixing.parsed(self.mix)


@dataclass(frozen=True, repr=False)
class Sample:
    """One generated text.

    `text` is what was drawn after `prime`, and log_probs (n,) float64 the log probability of each drawn id, in nats,
    under the model's full distribution at temperature 1. An id is a character or, for a byte model (`is_of_bytes`), a
    byte; then the text may have fewer characters than ids.
    """

    prime: str
    text: str
    seed: int
    temperature: float
    log_probs: np.ndarray
    is_of_bytes: bool = False

    def __repr__(self) -> str:
        shown = self.prime + self.text
        return f"<Sample of {len(self.text):,} characters, seed {self.seed}: {shown[:40]!r}{'...' * (len(shown) > 40)}>"

    @property
    def bits_per_char(self) -> float | None:
        """-log2 of the text's probability, per character; None if nothing was drawn."""
        return float(-self.log_probs.sum() / math.log(2) / len(self.text)) if self.text else None

    @property
    def bits_per_byte(self) -> float | None:
        """The same per drawn byte; None for a character model, or if nothing was drawn."""
        bits = -self.log_probs / math.log(2)
        return float(bits.mean()) if self.is_of_bytes and len(bits) else None


def stream(model: Checkpoint, prime: str = "", **options: Any) -> Iterator[str]:
    """Generate text: yield `prime` itself, then each piece as it is drawn.

    Parameters
    ----------
    model : Checkpoint
    prime : the beginning of the text, made lower-case if the training text was; before it the model reads what texts
        begin after, usually a line break: see :mod:`charlstm.text.edges`
    options : those of :class:`Options`

    Raises
    ------
    UserError
        For characters that the model does not know, or values out of range.
    """
    chosen = _chosen(model, options)
    prime, ids = _encode(model, prime, chosen)
    pieces = _draw(model, ids, chosen, [_seed(chosen)])
    return chain([prime] if prime else [], (text for [(text, _)] in pieces))


def samples(model: Checkpoint, prime: str = "", count: int = 1, **options: Any) -> list[Sample]:
    """Generate `count` texts side by side, each as :func:`stream` does.

    Text k, from 0 on, has the seed `seed` + k, and generating it alone with that seed gives the same text, up to
    rounding: several texts are computed in another order than one, so in rare cases a draw falls to the
    neighbouring character.

    Raises
    ------
    UserError
        As :func:`stream`, and for texts that would never end.
    """
    chosen = _chosen(model, options)
    if count < 1:
        raise UserError(f"--count: expected at least 1, got {count}")
    if chosen.length is None and chosen.stop is None and not model.edges.end:
        raise UserError("without --length or --stop the text would never end: give one of them")
    prime, ids = _encode(model, prime, chosen)
    first = _seed(chosen)
    seeds = [(first + k) % _SEEDS for k in range(count)]
    drawn = list(zip(*_draw(model, ids, chosen, seeds), strict=True)) or [()] * count
    return [
        Sample(
            prime,
            "".join(text for text, _ in pieces),
            seed,
            chosen.temperature,
            np.concatenate([np.empty(0), *(log_probs for _, log_probs in pieces)]),
            model.vocabulary.unit == "byte",
        )
        for seed, pieces in zip(seeds, drawn, strict=True)
    ]


def _chosen(model: Checkpoint, options: dict[str, Any]) -> Options:
    """The options, with `stop` set to the model's default if it was not given."""
    names = [item.name for item in fields(Options)]
    for name in options:
        if name not in names:
            raise unknown_option(name, [*names, "prime", "count"])
    chosen = Options(**{name: plain_number(value) for name, value in options.items()})
    if chosen.stop is None:
        return chosen
    return replace(chosen, stop=model.vocabulary.as_read(chosen.stop, model.config.lower))


def _seed(options: Options) -> int:
    return secrets.randbelow(_SEEDS) if options.seed is None else options.seed


def _encode(model: Checkpoint, prime: str, options: Options) -> tuple[str, np.ndarray]:
    """The prime without skipped characters, and all ids to read."""
    vocabulary = model.vocabulary
    if options.stop is not None and vocabulary.without_unknown(options.stop) != options.stop:
        raise UserError(f"--stop: the model does not know all characters of {options.stop!r}, so it never writes it")
    prime = vocabulary.as_read(prime, model.config.lower)
    try:
        ids = vocabulary.encode(prime, options.unknown)
    except UnknownCharacters as error:
        raise UserError(f"--prime: {error}; --unknown skip leaves such characters out") from None
    if options.unknown != "error" and vocabulary.unit != "byte":  # every byte is known
        prime = vocabulary.decode(ids)
    return prime, np.concatenate([np.array(model.edges.begin, np.int32), ids])


def _passage(model: Checkpoint, options: Options) -> np.ndarray:
    """The ids of the passage to adapt to; empty without one."""
    try:
        return model.vocabulary.encode(model.vocabulary.as_read(options.adapt_to, model.config.lower), options.unknown)
    except UnknownCharacters as error:
        raise UserError(f"--adapt-to: {error}; --unknown skip leaves such characters out") from None


def _adapted(net: Net, begin: tuple[int, ...], passage: np.ndarray) -> Net:
    """The net after it has learned from a passage."""
    adapting = AdaptingReader(*net, begin)
    adapting.read(passage)
    return net[0], adapting.theta, net[2]


def _mixture(mixer: mixing.Mixer, nets: list[Net], begin: tuple[int, ...], ids: np.ndarray, count: int) -> Mixture:
    """The n-gram beside the nets after the ids to read, the first of which are `begin`."""
    if mixer.weight == mixing.LEARNED and len(prime := ids[len(begin) :]):
        read = together([Reader(*net, begin) for net in nets]).read(prime)
        mixer.mixed(read, *mixer.ngram.log_probs(prime, begin))
    return mixer.ngram.mixture(mixer.weights, ids, count)


def _draw(
    model: Checkpoint, ids: np.ndarray, options: Options, seeds: list[int]
) -> Iterator[list[tuple[str, np.ndarray]]]:
    """Yield, for each text, the next ids and their log probabilities; nothing for a text that has ended."""
    voices = model.voices
    [backend] = {choose_backend(options.backend, voice.shape.cell) for voice in voices}
    randoms = [np.random.RandomState(seed) for seed in seeds]
    stop = model.edges.end if options.stop is None else tuple(model.vocabulary.encode(options.stop).tolist())
    endings = [Ending(stop) if stop else Ending() for _ in seeds]
    decoders = [model.vocabulary.decoder() for _ in seeds]
    mixer = mixing.chosen(model, options.mix)
    passage = _passage(model, options)
    if backend == "cupy" and (mixer is not None or len(passage) or len(voices) > 1):
        backend = choose_backend("auto")  # a GPU has no n-grams, and single segments or steps are too short for it
    ops, begin = kernels.load_for_host(backend), model.edges.begin
    nets: list[Net] = [(ops, kernels.to_device(backend, voice.theta), voice.shape) for voice in voices]
    if len(passage):
        nets, ids = [_adapted(net, begin, passage) for net in nets], np.insert(ids, len(begin), passage)
    mixture = None if mixer is None else _mixture(mixer, nets, begin, ids, len(seeds))
    writer = writer_of(nets, ids, len(seeds), mixture)
    left, piece = options.length, 32
    while left != 0 and not all(ending.found for ending in endings):
        steps = piece if left is None else min(piece, left)
        uniforms = np.stack([random.random_sample(steps) for random in randoms], axis=1)
        log_probs = np.empty_like(uniforms)
        drawn = writer.draw(
            uniforms, log_probs, temperature=options.temperature, top_k=options.top_k, top_p=options.top_p
        )
        piece, left = min(2 * piece, 4096), None if left is None else left - steps
        pieces = []
        for k, ending in enumerate(endings):
            if ending.found:
                pieces.append(("", log_probs[:0, k]))
                continue
            kept = ending.cut(drawn[:, k])
            text = decoders[k](drawn[:kept, k], left == 0 or ending.found)
            pieces.append((text, log_probs[:kept, k]))
        yield pieces
