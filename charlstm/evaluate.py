"""Checkpoint and text -> log probabilities, bits per character, perplexity."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import kernels
from charlstm.checkpoint import Checkpoint
from charlstm.errors import UserError
from charlstm.figures import perplexity
from charlstm.forward import log_probs as read
from charlstm.sampler import choose_backend
from kernels.spec import Shape


@dataclass(frozen=True, repr=False)
class Score:
    """How well a model predicts a text, its state carried through the whole text.

    `log_probs` (chars,) float64 holds ln p of each character, given all before it, and what texts begin after, which
    does not count: see :mod:`charlstm.edges`.
    """

    log_probs: np.ndarray

    def __repr__(self) -> str:
        return f"<Score of {self.chars:,} characters: {self.bits_per_char:.4f} bits per character>"

    @property
    def chars(self) -> int:
        """Characters that were predicted: all of the text's."""
        return len(self.log_probs)

    @property
    def nats(self) -> float:
        """-sum ln p, over the whole text."""
        return float(-self.log_probs.sum())

    @property
    def nats_per_char(self) -> float:
        """-mean ln p: the loss of training, for one character."""
        return self.nats / self.chars

    @property
    def bits_per_char(self) -> float:
        """-mean log2 p."""
        return self.nats_per_char / math.log(2)

    @property
    def perplexity(self) -> float:
        """2 ** bits_per_char: see :func:`charlstm.figures.perplexity`."""
        return perplexity(self.bits_per_char)


def encode(model: Checkpoint, text: str, unknown: str = "error") -> np.ndarray:
    """The ids of a text to be scored.

    Raises
    ------
    UserError
        For an empty text, or characters that the vocabulary lacks and `unknown` ("error" or "skip") does not skip.
    """
    if unknown not in ("error", "skip"):
        raise UserError(f"--unknown: expected error or skip, got {unknown!r}")
    text = model.vocabulary.as_read(text, model.config.lower)
    try:
        ids = model.vocabulary.encode(text, unknown)
    except UserError as error:
        raise UserError(f"{error}; --unknown skip leaves such characters out") from None
    if not len(ids):
        raise UserError("there is nothing to score: the text has no character that the model knows")
    return ids


def log_probs(model: Checkpoint, ids: np.ndarray, backend: str = "auto") -> Iterator[np.ndarray]:
    """Yield ln p of each of the ids as :class:`Score` has it, float64, piece by piece."""
    name = choose_backend(backend)
    ops, theta = kernels.load_for_host(name), kernels.to_device(name, model.theta)
    return read(ops, theta, model.shape, model.edges.begin, ids)


def score(model: Checkpoint, text: str, *, unknown: str = "error", backend: str = "auto") -> Score:
    """Score a text.

    Parameters
    ----------
    model : Checkpoint
    text : of any length: it is read in pieces, whose length changes the result by no more than rounding
    unknown : what to do with characters that the vocabulary lacks: "error" or "skip"
    backend : who does the arithmetic

    Raises
    ------
    UserError
        As :func:`encode`, and for a backend that cannot be used here.
    """
    return score_ids(model, encode(model, text, unknown), backend)


def score_ids(model: Checkpoint, ids: np.ndarray, backend: str = "auto") -> Score:
    """Score a text that is encoded already."""
    return Score(np.concatenate(list(log_probs(model, ids, backend))))


def bits_per_unit(ops: Any, theta: np.ndarray, shape: Shape, begin: Sequence[int], ids: np.ndarray) -> float:
    """-sum log2 p / M of the ids (M,) of a text of any length; `begin` is what texts begin after."""
    return -sum(float(piece.sum()) for piece in read(ops, theta, shape, begin, ids)) / len(ids) / math.log(2)
