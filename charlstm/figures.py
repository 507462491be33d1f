"""Bits per character as a reader meets them: perplexity of any size, and what is worse than a guess."""

import math
import sys
from typing import Any


def perplexity(bits: float) -> float:
    """2 to the power of `bits` per character: a guess among so many equals would be as hard.

    It is infinite from 1,024 bits on, where a float ends: a run that diverged gets there.
    """
    return math.inf if bits >= sys.float_info.max_exp else 2.0**bits


def in_words(value: float, digits: int) -> str:
    """A figure as a person reads it, with so many digits after the point: ``4.96``, ``3.5e+20``."""
    return f"{value:.1e}" if value >= 1e6 else f"{value:.{digits}f}"


def perplexity_in_words(bits: float, digits: int = 2) -> str:
    """The perplexity as a person reads it, ``above 1e308`` where a float ends."""
    value = perplexity(bits)
    return "above 1e308" if math.isinf(value) else in_words(value, digits)


def for_json(value: Any) -> Any:
    """The value, or None for a float that JSON has no number for: infinite, or not a number."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def below_a_guess(bits: float, vocab_size: int) -> str:
    """A sentence on bits per character that a blind guess among all characters would not have; else nothing."""
    guess = math.log2(vocab_size)
    return "" if bits <= guess else f"{in_words(bits, 2)} bits are more than a blind guess would have ({guess:.2f})"


def noise(bits: float, vocab_size: int) -> str:
    """What a measurement on the text that was kept back means, where a guess would be better; else nothing."""
    found = below_a_guess(bits, vocab_size)
    meaning = (
        "measured from a zero state, as samples begin, the model ends in noise; a lower --learning-rate, --warmup and "
        "--reset-every help"
    )
    return found and f"{found}: {meaning}"


def divergence(smooth_bits: float, vocab_size: int) -> str:
    """What a smoothed training loss means that is far above that of a guess, by a bit; else nothing."""
    found = below_a_guess(smooth_bits - 1, vocab_size) and below_a_guess(smooth_bits, vocab_size)
    return found and f"the run diverged: of its smoothed training loss, {found}; begin anew at a lower --learning-rate"
