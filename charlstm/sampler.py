"""Checkpoint -> text."""

from collections.abc import Iterator
from typing import Any

import numpy as np

import kernels
from charlstm.checkpoint import Checkpoint
from charlstm.errors import UserError


def choose_backend(name: str) -> str:
    """The backend that `name` stands for: "auto" is the fastest that can run here.

    Raises
    ------
    UserError
        If it cannot be used here, with the line that says why.
    """
    if name not in ("auto", *kernels.BACKENDS):
        raise UserError(f"--backend: expected one of auto, {', '.join(kernels.BACKENDS)}, got {name!r}")
    if name == "auto":
        return "numba" if "numba" in kernels.available() else "numpy"
    reason = kernels.missing(name)
    if reason is not None:
        raise UserError(f"--backend {name}: {reason}")
    return name


def stream(
    model: Checkpoint,
    prime: str = "",
    *,
    length: int = 500,
    temperature: float = 0.8,
    seed: int | None = None,
    unknown: str = "error",
    backend: str = "auto",
) -> Iterator[str]:
    """Generate text from a zero state, first `prime` itself, then `length` characters, in pieces as they are drawn.

    Parameters
    ----------
    model : Checkpoint
    prime : text that the model reads first, made lower-case where its text was; without one it begins as after a line
        break
    length : characters to draw, `prime` not counted; bytes, where the model is one of bytes
    temperature : 1 draws as the model believes, lower is safer, 0 always takes the likeliest character
    seed : of the draws; None for another text each time
    unknown : what to do with characters of `prime` that the vocabulary lacks: "error" or "skip"

    Raises
    ------
    UserError
        For characters that the model does not know, or values out of range.
    """
    if length < 0 or not temperature >= 0 or unknown not in ("error", "skip"):
        raise UserError("sample: expected length >= 0, temperature >= 0, unknown 'error' or 'skip'")
    prime = prime.lower() if model.config.lower else prime
    if unknown == "skip":
        prime = model.vocabulary.without_unknown(prime)
    try:
        ids = model.vocabulary.encode(prime).astype(np.int32)
    except UserError as error:
        raise UserError(f"--prime: {error}; --unknown skip leaves such characters out") from None
    return _stream(model, prime, ids, length, temperature, np.random.RandomState(seed), choose_backend(backend))


def _stream(
    model: Checkpoint, prime: str, ids: Any, length: int, temperature: float, random: Any, backend: str
) -> Iterator[str]:
    ops, shape = kernels.load(backend), model.shape
    h = np.zeros((shape.num_layers, 1, shape.hidden_size), model.theta.dtype)
    c = np.zeros_like(h)
    if len(ids) == 0:
        ids = np.array([max(model.vocabulary.characters.find("\n"), 0)], np.int32)
    for character in ids[:-1]:  # reading is sampling whose draws are thrown away
        ops.sample(model.theta, h, c, character[None], np.zeros((1, 1)), shape=shape)
    if prime:
        yield prime
    last, piece, decode = ids[-1:], 32, model.vocabulary.decoder()
    while length > 0:
        drawn = ops.sample(
            model.theta, h, c, last, random.random_sample((min(piece, length), 1)), shape=shape, temperature=temperature
        )
        last, length, piece = drawn[-1], length - len(drawn), min(2 * piece, 4096)
        yield decode(drawn[:, 0], length == 0)
