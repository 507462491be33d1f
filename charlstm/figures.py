"""Bits per character as text: perplexity, and warnings for values worse than a uniform guess."""

import math
import sys
from typing import Any


def perplexity(bits: float) -> float:
    """2 to the power of `bits` per character: the number of equally likely characters that are as hard to guess.

    It is infinite from 1,024 bits on, the limit of a float, which a diverged run can reach.
    """
    return math.inf if bits >= sys.float_info.max_exp else 2.0**bits


def in_words(value: float, digits: int) -> str:
    """Format a number for display with `digits` digits after the point: ``4.96``, ``3.5e+20``."""
    return f"{value:.1e}" if value >= 1e6 else f"{value:.{digits}f}"


def perplexity_in_words(bits: float, digits: int = 2) -> str:
    """Format the perplexity for display; ``above 1e308`` if it exceeds a float."""
    value = perplexity(bits)
    return "above 1e308" if math.isinf(value) else in_words(value, digits)


def for_json(value: Any) -> Any:
    """The value, or None for a float that JSON cannot represent: infinity or NaN."""
    return None if isinstance(value, float) and not math.isfinite(value) else value


def worse_than_a_guess(bits: float, vocab_size: int) -> str:
    """Words for `bits` per character that exceed those of a uniform guess among all characters; otherwise empty."""
    guess = math.log2(vocab_size)
    return "" if bits <= guess else f"{in_words(bits, 2)} bits, worse than a uniform guess ({guess:.2f})"


def noise(bits: float, vocab_size: int) -> str:
    """A warning for a validation loss worse than a uniform guess; otherwise empty."""
    found = worse_than_a_guess(bits, vocab_size)
    meaning = (
        "from a zero state, where samples start, the model produces noise; try a lower --learning-rate, --warmup or "
        "--reset-every"
    )
    return found and f"validation loss of {found}: {meaning}"


def divergence(smooth_bits: float, vocab_size: int) -> str:
    """A warning for a smoothed training loss at least one bit worse than a uniform guess; otherwise empty."""
    found = worse_than_a_guess(smooth_bits - 1, vocab_size) and worse_than_a_guess(smooth_bits, vocab_size)
    return found and f"the run diverged: smoothed training loss of {found}; start again with a lower --learning-rate"
