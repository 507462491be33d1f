"""The words of the displays: figures, durations, and text cut and escaped for a terminal."""

import math
import os
import shutil
import sys
import textwrap
from contextlib import suppress

from charlstm.figures import in_words, perplexity_in_words
from charlstm.show.pace import Pace
from charlstm.training.progress import Progress


def columns_of_stderr() -> int:
    """The width of the terminal on stderr, which may differ from stdout."""
    with suppress(OSError, ValueError):
        if "COLUMNS" not in os.environ and (columns := os.get_terminal_size(sys.stderr.fileno()).columns):
            return columns
    return shutil.get_terminal_size().columns


def wrapped(text: str, columns: int) -> str:
    """Wrap a note at word boundaries; a command stays on one line, so that it can be copied."""
    if text.startswith(("resume  ", "sample  ")):
        return text
    wrapper = textwrap.TextWrapper(columns, subsequent_indent=" " * 8, replace_whitespace=False)
    wrapper.break_long_words = wrapper.break_on_hyphens = False
    return "\n".join(wrapper.fill(line) for line in text.split("\n"))


def phrases(line: str, columns: int) -> list[str]:
    """Wrap a line between its phrases, which are separated by two spaces."""
    lines: list[str] = []
    for phrase in filter(None, line.split("  ")):
        if lines and len(lines[-1]) + 2 + len(phrase) <= columns:
            lines[-1] += f"  {phrase}"
        else:
            lines += textwrap.wrap(phrase, columns, break_long_words=False)
    return lines


def summary(progress: Progress, pace: Pace | None = None) -> str:
    """The current figures: ``loss 1.601  2.310 bits/char  perplexity 4.96  37,500 chars/s  0:42 left``.

    The loss is in nats per character; for a byte model: ``loss 0.931/byte  1.343 bits/byte (2.310 bits/char)  ...``.
    """
    pace = pace or Pace()
    rate, left = pace.chars_per_second or progress.chars_per_second, pace.left(progress)
    return (
        f"loss {in_words(progress.nats_per_char, 3)}{'' if progress.bits_per_byte is None else '/byte'}  "
        f"{_bits(progress.bits_per_char, progress.bits_per_byte, 3)}  "
        f"perplexity {perplexity_in_words(progress.bits_per_char)}"
        + (f"  {rate:,.0f} {'chars' if progress.bits_per_byte is None else 'bytes'}/s" if rate else "")
        + ("" if left is None else f"  {duration(left)} left")
    )


def _bits(per_char: float, per_byte: float | None, digits: int) -> str:
    """Bits per character; for a byte model, bits per byte followed by bits per character."""
    characters = f"{in_words(per_char, digits)} bits/char"
    return characters if per_byte is None else f"{in_words(per_byte, digits)} bits/byte ({characters})"


def evaluation(progress: Progress) -> str:
    """The line of figures on the held-out text."""
    bits = progress.val_bits_per_char or 0.0
    nats = math.log(2) * (progress.val_bits_per_unit or 0.0)
    is_of_bytes = progress.val_bits_per_byte is not None
    unit, beside = ("byte", f"{in_words(bits, 4)} bits/char, ") if is_of_bytes else ("char", "")
    best = ", the best so far" if progress.is_best else ""
    return (
        f"iteration {progress.iteration:,}  validation {in_words(progress.val_bits_per_unit or 0.0, 4)} bits/{unit} "
        f"({in_words(nats, 4)} nats), {beside}perplexity {perplexity_in_words(bits)}{best}"
    )


def duration(seconds: float) -> str:
    """Format seconds for display: 0:42, 12:05, 3:20:00."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def shown_as(text: str, encoding: str) -> str:
    """The text as a terminal of that encoding prints it, with characters it lacks as escapes such as \\u5929."""
    return text.encode(encoding, "backslashreplace").decode(encoding)


def printable(text: str) -> str:
    """Replace control characters, which a terminal would execute, by a dot; line breaks and tabs stay."""
    return "".join(c if c in "\n\t" or c.isprintable() else "·" for c in text)
