"""Displays of a training run: live on a terminal, as lines elsewhere, as JSON, or silent."""

import errno
import math
import os
import shutil
import sys
import textwrap
from contextlib import suppress
from time import monotonic
from typing import Any, Protocol

from charlstm.figures import in_words, perplexity_in_words
from charlstm.host.terminals import can_redraw, is_started_by_cell, notebook
from charlstm.training.progress import OneEach, Progress, told_line

_LINE_SECONDS = 5.0
_FRAME_SECONDS = 0.1  # drawing takes time, and ticks may come more often
_PACE_SECONDS = 15.0
_PACE_FROM = 1.0  # seconds of warm-up, which are ignored
_NARROW = 60  # columns; below this, words are left out


class Display(Protocol):
    """Shows notes and progress; it does not affect the run."""

    def note(self, text: str) -> None:
        """Show a line that stays."""

    def status(self, text: str) -> None:
        """Show what is being done, if the display can replace it later."""

    def show(self, progress: Progress) -> None:
        """Show the progress of training."""

    def close(self) -> None:
        """Restore the terminal."""


class Silent:
    """Shows nothing."""

    def note(self, text: str) -> None:
        pass

    def status(self, text: str) -> None:
        pass

    def show(self, progress: Progress) -> None:
        pass

    def close(self) -> None:
        pass


class Json(Silent):
    """One JSON object per report on stdout, as in metrics.jsonl but with losses per character; notes go to stderr."""

    def __init__(self) -> None:

        self._one_each = OneEach()

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)

    def show(self, progress: Progress) -> None:
        if progress.kind in ("report", "evaluation") and self._one_each.due(progress):
            self._write(progress)

    def close(self) -> None:
        if rest := self._one_each.rest():
            self._write(rest)

    def _write(self, progress: Progress) -> None:

        sys.stdout.write(told_line(progress).decode())
        sys.stdout.flush()


class Lines:
    """A line on stderr every few seconds; on a terminal that cannot redraw, wrapped at word boundaries."""

    def __init__(self) -> None:
        self._next, self._pace = 0.0, Pace()
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty() and not is_started_by_cell()

    def note(self, text: str) -> None:
        print(wrapped(text, _columns()) if self._is_terminal else text, file=sys.stderr, flush=True)

    def status(self, text: str) -> None:
        pass

    def show(self, progress: Progress) -> None:
        ended = progress.iteration == progress.iterations
        if progress.kind == "evaluation":
            self.note(evaluation(progress))
        self._pace.add(progress)
        if progress.kind == "tick" and (monotonic() >= self._next or ended):
            self._next = monotonic() + _LINE_SECONDS
            total = "" if progress.is_endless else f"/{progress.iterations:,}"
            self.note(f"iteration {progress.iteration:,}{total}  {summary(progress, self._pace)}")

    def close(self) -> None:
        pass


class Live:
    """On a terminal: a bar, the figures and the latest sample, redrawn in place on stderr below the notes.

    Before training starts, a status line shows what is being done. Closing the display erases all but the notes.
    """

    def __init__(self) -> None:
        self._pace = Pace()
        self._live: Any = None
        self._status, self._next = "", 0.0
        self._sample: Progress | None = None
        self._evaluation = ""

    def status(self, text: str) -> None:
        """Show what is being done, in place of the last status."""
        if self._live is None and (text or self._status):
            self._status = text[: _columns() - 1]
            sys.stderr.write(f"\r{self._status}\x1b[K")
            sys.stderr.flush()

    def note(self, text: str) -> None:
        if self._live is not None:
            self._live.console.print(wrapped(text, _columns()), markup=False, soft_wrap=True)
            return
        status = self._status
        self.status("")
        sys.stderr.write(f"{wrapped(text, _columns())}\n")
        self.status(status)

    def show(self, progress: Progress) -> None:
        if progress.kind == "report":
            return
        if self._live is None:
            self.status("")
            self._live = _new_live()
            self._live.start()
        self._pace.add(progress)
        if progress.kind == "sample":
            self._sample = progress
        if progress.kind == "evaluation":
            self._evaluation = evaluation(progress)
        if progress.kind != "tick" or monotonic() >= self._next or progress.iteration == progress.iterations:
            self._live.update(self._frame(progress), refresh=True)
            self._next = monotonic() + _FRAME_SECONDS

    def _frame(self, progress: Progress) -> Any:
        """The redrawn part, cut to fit the screen."""
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        columns, lines = self._live.console.size
        figures = [*phrases(summary(progress, self._pace), columns), *phrases(self._evaluation, columns)]
        parts: list[Any] = [self._bar(progress, columns), *map(Text, figures)]
        room = lines - len(parts) - 3
        if self._sample is not None and room > 2:
            title = f"sample after {self._sample.iteration:,} iterations"
            text = Text(shown_as(printable(self._sample.prime + self._sample.sample), self._live.console.encoding))
            height = min(len(text.wrap(self._live.console, columns - 4)) + 2, room)
            parts.append(Panel(text, title=title, title_align="left", height=height))
        return Group(*parts, Text(""))  # the terminal writes ^C here; after a full line, ^C would scroll the screen

    def _bar(self, progress: Progress, columns: int) -> Any:
        """The progress bar: ``iteration 412/1,427 ━━━━━━╺━━━━━━━ 29%``."""
        from rich.progress_bar import ProgressBar
        from rich.table import Table

        word = "iteration " if columns >= _NARROW else ""
        if progress.is_endless:
            return f"{word or 'iteration '}{progress.iteration:,}"
        grid = Table.grid(padding=(0, 1), expand=True)
        grid.add_column(no_wrap=True)
        grid.add_column(ratio=1)
        grid.add_column(no_wrap=True)
        done = progress.iteration / max(progress.iterations, 1)
        grid.add_row(
            f"{word}{progress.iteration:,}/{progress.iterations:,}", ProgressBar(1.0, done), f"{100 * done:3.0f}%"
        )
        return grid

    def close(self) -> None:
        if self._live is not None:
            self._live.stop()
            self._live = None
        self.status("")


def _new_live() -> Any:
    from rich.console import Console
    from rich.live import Live as RichLive

    console = Console(stderr=True, highlight=False)
    return RichLive(console=console, auto_refresh=False, transient=True, vertical_overflow="crop")


class Pace:
    """The recent speed of training by wall-clock time, as an exponentially weighted average.

    The first second is warm-up and does not count.
    """

    def __init__(self) -> None:
        self._last: tuple[float, Progress] | None = None
        self._is_warm, self._age = False, 0.0
        self._clock = self._training = self._iterations = self._chars = 0.0

    def add(self, progress: Progress) -> None:
        """Record the current progress."""
        if progress.kind != "tick" and self._last is not None:
            return
        now = monotonic()
        if self._last is not None:
            then, last = self._last
            if self._clock >= _PACE_FROM and not self._is_warm:
                self._is_warm, self._clock, self._training, self._iterations, self._chars = True, 0.0, 0.0, 0.0, 0.0
            self._age += now - then
            kept = math.exp((then - now) / min(max(self._age / 2, _PACE_SECONDS / 2), _PACE_SECONDS))
            self._clock = self._clock * kept + now - then
            self._training = self._training * kept + progress.seconds - last.seconds
            self._iterations = self._iterations * kept + progress.iteration - last.iteration
            self._chars = self._chars * kept + progress.chars - last.chars
        self._last = now, progress

    @property
    def chars_per_second(self) -> float | None:
        """Characters read per second of training; None while unknown."""
        return self._chars / self._training if self._training > 0 else None

    def left(self, progress: Progress) -> float | None:
        """Estimated wall-clock seconds to the end; None while unknown."""
        if progress.is_endless or not self._is_warm or self._iterations <= 0:
            return None
        return (progress.iterations - progress.iteration) * self._clock / self._iterations


class Guarded:
    """A display that wraps another one and goes silent when its output is closed. It never raises.

    `gone` is True when a pipe was closed. A closed terminal sends SIGHUP instead, unless that is ignored. A note from a
    signal handler that interrupts another call waits until that call is done.
    """

    def __init__(self, display: Display) -> None:
        self._display, self.gone = display, False
        self._is_busy, self._waiting = False, list[str]()

    def _try(self, what: str, *arguments: Any) -> None:
        self._is_busy = True
        try:
            getattr(self._display, what)(*arguments)
        except OSError as error:  # a failing display must not end a run
            self._display, self.gone = Silent(), error.errno != errno.EIO
        finally:
            self._is_busy = False
        while self._waiting:
            self.note(self._waiting.pop(0))

    def note(self, text: str) -> None:
        if self._is_busy:
            self._waiting.append(text)
        else:
            self._try("note", text)

    def status(self, text: str) -> None:
        self._try("status", text)

    def show(self, progress: Progress) -> None:
        self._try("show", progress)

    def close(self) -> None:
        self._try("close")


def choose(quiet: bool, as_json: bool) -> Guarded:
    """Choose the display by the options and by where stderr goes."""
    if quiet:
        return Guarded(Silent())
    if as_json:
        return Guarded(Json())
    return Guarded(Live() if can_redraw(sys.stderr) else Lines())


def for_python(quiet: bool | None) -> Guarded:
    """Choose the display for a Python program; by default it shows progress in notebooks and on terminals."""
    if quiet is not True and notebook() is not None:
        from charlstm.show.notebook import Notebook

        return Guarded(Notebook())
    if quiet is None:
        quiet = sys.stderr is None or not sys.stderr.isatty()
    return choose(quiet, as_json=False)


class CompileNote:
    """Shows a note the first time that a kernel is compiled."""

    def __init__(self, screen: Any) -> None:
        self.screen, self.said = screen, False

    def __call__(self, kernel: str) -> None:
        if not self.said:
            self.screen.note("        compiling kernels, about 20 s; later runs reuse them ...")
            self.said = True

    def __enter__(self) -> None:
        import kernels

        kernels.compile_listeners.append(self)

    def __exit__(self, *_: Any) -> None:
        import kernels

        kernels.compile_listeners.remove(self)


def text_line(corpus: Any) -> str:
    """The line that describes the text."""
    own = not corpus.is_frozen and corpus.vocabulary.kind == "characters"
    kinds = f"{len(corpus.vocabulary)} distinct" if own else f"a vocabulary of {len(corpus.vocabulary)}"
    told = "".join(f"\n        {line}" for line in corpus.remark.splitlines())
    return f"text    {corpus.name}: {len(corpus.ids):,} {corpus.vocabulary.kind}, {kinds}{told}"


def _columns() -> int:
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
