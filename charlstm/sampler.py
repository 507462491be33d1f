"""Checkpoint -> text."""

import math
import secrets
from collections.abc import Iterator
from dataclasses import dataclass, fields, replace
from itertools import chain
from typing import Any

import numpy as np

import kernels
from charlstm import places
from charlstm.checkpoint import Checkpoint
from charlstm.config import plain_number
from charlstm.errors import UserError, unknown_option
from kernels import spec
from kernels.spec import Shape


def choose_backend(name: str) -> str:
    """The backend that `name` stands for: "auto" is the fastest on the processor; a GPU is used when it is asked for.

    Raises
    ------
    UserError
        If it cannot be used here, with the line that says why.
    """
    places.settle()
    if name not in ("auto", *kernels.BACKENDS):
        raise UserError(f"--backend: expected one of auto, {', '.join(kernels.BACKENDS)}, got {name!r}")
    if name == "auto":
        return "numba" if "numba" in kernels.available() else "numpy"
    reason = kernels.missing(name)
    if reason is not None:
        raise UserError(f"--backend {name}: {reason}")
    return name


#: Characters that a model reads in one call of the kernels: it bounds the memory, whatever the length of the text.
READ_STEPS = 512
_SEEDS = 2**32


@dataclass(frozen=True, kw_only=True)
class Options:
    """How to draw.

    Parameters
    ----------
    length : characters (of a model of bytes: bytes) to draw at most; None for no end
    temperature : 1 draws as the model believes, lower is safer, 0 always takes the likeliest character
    top_k : draw among that many of the likeliest characters; 0 among all
    top_p : of those, draw among the fewest likeliest that have this share of their probability; 1 among all
    stop : a text ends, before its length, once this has been drawn; it stays
    seed : of the draws; None for another text each time
    unknown : what to do with characters of the prime that the vocabulary lacks: "error" or "skip"
    backend : who does the arithmetic

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
        if self.unknown not in ("error", "skip"):
            raise UserError(f"--unknown: expected error or skip, got {self.unknown!r}")
        choose_backend(self.backend)


@dataclass(frozen=True, repr=False)
class Sample:
    """One generated text.

    `text` is what was drawn after `prime`, and log_probs (len(text),) float64 the log probability of each of its
    characters, in nats, as the model believes: at temperature 1 and among all characters.
    """

    prime: str
    text: str
    seed: int
    temperature: float
    log_probs: np.ndarray

    def __repr__(self) -> str:
        shown = self.prime + self.text
        return f"<Sample of {len(self.text):,} characters, seed {self.seed}: {shown[:40]!r}{'...' * (len(shown) > 40)}>"

    @property
    def bits_per_char(self) -> float | None:
        """Mean of -log2 of the characters' probabilities; None where none was drawn."""
        return float(-self.log_probs.mean() / math.log(2)) if len(self.log_probs) else None


def stream(model: Checkpoint, prime: str = "", **options: Any) -> Iterator[str]:
    """Generate text from a zero state, first `prime` itself, then what is drawn, in pieces as they are drawn.

    Parameters
    ----------
    model : Checkpoint
    prime : text that the model reads first, made lower-case where its text was; without one it begins as after a line
        break
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
    """Generate `count` texts side by side, as :func:`stream`.

    The k-th, from 0 on, has the seed `seed` + k, which gives the same text also by itself: but for rounding, as several
    texts are computed in another order than one, and so a draw may, rarely, fall to the neighbour.

    Raises
    ------
    UserError
        As :func:`stream`, and for texts that would never end.
    """
    chosen = _chosen(model, options)
    if count < 1:
        raise UserError(f"--count: expected at least 1, got {count}")
    if chosen.length is None and chosen.stop is None:
        raise UserError("a whole text must end: give a --length, or a --stop")
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
        )
        for seed, pieces in zip(seeds, drawn, strict=True)
    ]


def read(ops: Any, theta: Any, shape: Shape, ids: Any, h: Any, c: Any) -> Iterator[np.ndarray]:
    """Let a model read `ids` (M,), of any length, and yield the log probabilities of ids[1:], nats, piece by piece.

    h, c (L, 1, H), the state carried in, become that before the last id is read. The pieces' length changes the results
    by no more than rounding.
    """
    workspace = spec.workspace(shape, READ_STEPS, 1, theta.dtype) if len(ids) > READ_STEPS else None
    for begin in range(0, len(ids) - 1, READ_STEPS):
        x = ids[begin : begin + READ_STEPS + 1].astype(np.int32)[:, None]
        yield ops.score(theta, h, c, x, shape=shape, workspace=workspace if len(x) > READ_STEPS else None)[:, 0]


def _state_before_last(ops: Any, theta: Any, shape: Shape, ids: Any) -> tuple[np.ndarray, np.ndarray]:
    """h and c (L, 1, H) of a model that has read all of the ids, from a zero state on, but for the last."""
    h, c = zero_state(shape, theta.dtype)
    for _ in read(ops, theta, shape, ids, h, c):
        pass
    return h, c


def continued(
    ops: Any, theta: Any, shape: Shape, prime: Any, uniforms: Any, temperature: float, window: bool
) -> np.ndarray:
    """Go on from the ids `prime` (W,), by one character for each of `uniforms` (n,); return their ids, (n,).

    With `window` the last W characters are read anew, from a zero state, for each one: as Keras' example does it.
    """
    if not window:
        h, c = _state_before_last(ops, theta, shape, prime)
        return ops.sample(theta, h, c, prime[-1:], uniforms[:, None], shape=shape, temperature=temperature)[:, 0]
    drawn = np.concatenate([prime, np.empty(len(uniforms), np.int32)])
    for n, u in enumerate(uniforms, len(prime)):
        drawn[n] = continued(ops, theta, shape, drawn[n - len(prime) : n], u[None], temperature, False)[0]
    return drawn[len(prime) :]


def first_id(model: Checkpoint) -> int:
    """The id that a model reads before a text's first character: that of a line break, or 0 if it knows none."""
    return max(model.vocabulary.characters.find("\n"), 0)


def zero_state(shape: Shape, dtype: Any) -> tuple[np.ndarray, np.ndarray]:
    """h and c (L, 1, H) of one stream that has read nothing."""
    h = np.zeros((shape.num_layers, 1, shape.hidden_size), dtype)
    return h, np.zeros_like(h)


def _chosen(model: Checkpoint, options: dict[str, Any]) -> Options:
    """The options, with `stop` as the model's text would have it."""
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
    """The prime, without what is to be skipped, and its ids; one id at least."""
    vocabulary = model.vocabulary
    if options.stop is not None and vocabulary.without_unknown(options.stop) != options.stop:
        raise UserError(f"--stop: the model does not know all characters of {options.stop!r}, and will never write it")
    prime = vocabulary.as_read(prime, model.config.lower)
    if options.unknown == "skip":
        prime = vocabulary.without_unknown(prime)
    try:
        ids = vocabulary.encode(prime)
    except UserError as error:
        raise UserError(f"--prime: {error}; --unknown skip leaves such characters out") from None
    return prime, ids if len(ids) else np.array([first_id(model)], np.int32)


class _Ending:
    """Finds the end of a text that comes in pieces: the first `stop` in it."""

    def __init__(self, stop: str | None) -> None:
        self.stop, self.before, self.found = stop, "", False

    def cut(self, text: str) -> str:
        """The part of the next piece that belongs to the text."""
        if self.found or not self.stop:
            return "" if self.found else text
        joined = self.before + text
        at = joined.find(self.stop)
        if at >= 0:
            self.found = True
            return joined[len(self.before) : at + len(self.stop)]
        self.before = joined[max(0, len(joined) - len(self.stop) + 1) :]
        return text


def _draw(
    model: Checkpoint, ids: np.ndarray, options: Options, seeds: list[int]
) -> Iterator[list[tuple[str, np.ndarray]]]:
    """Yield, of each text, what comes next and its log probabilities; nothing of one that has ended."""
    ops, shape = kernels.load_for_host(choose_backend(options.backend)), model.shape
    randoms = [np.random.RandomState(seed) for seed in seeds]
    endings = [_Ending(options.stop) for _ in seeds]
    decoders = [model.vocabulary.decoder() for _ in seeds]
    theta = kernels.to_device(choose_backend(options.backend), model.theta)
    h, c = (np.repeat(a, len(seeds), axis=1) for a in _state_before_last(ops, theta, shape, ids))
    last, left, piece = np.full(len(seeds), ids[-1], np.int32), options.length, 32
    while left != 0 and not all(ending.found for ending in endings):
        steps = piece if left is None else min(piece, left)
        uniforms = np.stack([random.random_sample(steps) for random in randoms], axis=1)
        log_probs = np.empty_like(uniforms)
        drawn = ops.sample(
            theta, h, c, last, uniforms, shape=shape, temperature=options.temperature, top_k=options.top_k,
            top_p=options.top_p, log_probs=log_probs,
        )  # fmt: skip
        last, piece = drawn[-1], min(2 * piece, 4096)
        left = None if left is None else left - steps
        pieces = []
        for k, ending in enumerate(endings):
            text = ending.cut(decoders[k](drawn[:, k], left == 0))
            kept = len(model.vocabulary.encode(text)) if ending.found else steps
            pieces.append((text, log_probs[:kept, k]))
        yield pieces
