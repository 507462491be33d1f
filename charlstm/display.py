"""How a training run is shown while it goes on: live on a terminal, in lines elsewhere, as JSON, or not at all."""

import errno
import math
import sys
from time import monotonic
from typing import Any, Protocol

from charlstm.figures import in_words, perplexity_in_words
from charlstm.progress import Progress
from charlstm.terminals import can_redraw, notebook

_LINE_SECONDS = 5.0


class Display(Protocol):
    """Shows notes and progress; nothing it does touches the run."""

    def note(self, text: str) -> None:
        """Show a line."""

    def show(self, progress: Progress) -> None:
        """Show where training stands."""

    def close(self) -> None:
        """Leave the terminal as it was found."""


class Silent:
    """Shows nothing."""

    def note(self, text: str) -> None:
        pass

    def show(self, progress: Progress) -> None:
        pass

    def close(self) -> None:
        pass


class Json(Silent):
    """One JSON object per report on stdout, as in metrics.jsonl but with losses per character; notes on stderr."""

    def note(self, text: str) -> None:
        print(text, file=sys.stderr)

    def show(self, progress: Progress) -> None:
        if progress.kind in ("report", "evaluation"):
            from charlstm.records import told_line

            sys.stdout.write(told_line(progress).decode())
            sys.stdout.flush()


class Lines:
    """A line on stderr every few seconds."""

    def __init__(self) -> None:
        self._next = 0.0

    def note(self, text: str) -> None:
        print(text, file=sys.stderr, flush=True)

    def show(self, progress: Progress) -> None:
        ended = progress.iteration == progress.iterations
        if progress.kind == "evaluation":
            self.note(evaluation(progress))
        if progress.kind == "tick" and (monotonic() >= self._next or ended):
            self._next = monotonic() + _LINE_SECONDS
            total = "" if progress.is_endless else f"/{progress.iterations:,}"
            self.note(f"iteration {progress.iteration:,}{total}  {summary(progress)}")

    def close(self) -> None:
        pass


class Live:
    """A bar, the figures and the latest sample, redrawn in place on stderr."""

    def __init__(self) -> None:
        from rich.console import Console
        from rich.live import Live as RichLive
        from rich.progress import BarColumn, TaskProgressColumn, TextColumn
        from rich.progress import Progress as Bar

        self._console = Console(stderr=True, highlight=False)
        self._bar = Bar(
            TextColumn("iteration {task.completed:,.0f}/{task.total:,.0f}"), BarColumn(None), TaskProgressColumn(),
            console=self._console, expand=True,
        )  # fmt: skip
        self._task: Any = None
        self._sample: Progress | None = None
        self._evaluation = ""
        self._live = RichLive(console=self._console, auto_refresh=False, transient=False)
        self._started = False

    def note(self, text: str) -> None:
        self._console.print(text, markup=False, soft_wrap=True)

    def show(self, progress: Progress) -> None:
        from rich.console import Group
        from rich.panel import Panel
        from rich.text import Text

        if progress.kind == "report":
            return
        if not self._started:
            self._live.start()
            self._started = True
            self._task = self._bar.add_task("", total=None if progress.is_endless else progress.iterations)
        if progress.kind == "sample":
            self._sample = progress
        if progress.kind == "evaluation":
            self._evaluation = evaluation(progress)
        total = None if progress.is_endless else progress.iterations  # which plans may change
        self._bar.update(self._task, completed=progress.iteration, total=total)
        lines = (summary(progress), self._evaluation)
        parts: list[Any] = [self._bar, *(Text(line) for line in lines if line)]
        if self._sample is not None:
            title = f"sample after {self._sample.iteration:,} iterations"
            parts.append(
                Panel(Text(printable(self._sample.prime + self._sample.sample)), title=title, title_align="left")
            )
        self._live.update(Group(*parts), refresh=True)

    def close(self) -> None:
        if self._started:
            self._live.stop()


class Guarded:
    """Another display, until whoever read its output has gone: then silence. It never raises.

    `gone` is true where that was a pipe. A terminal that is gone is told by SIGHUP, unless that is ignored.
    """

    def __init__(self, display: Display) -> None:
        self._display, self.gone = display, False

    def _try(self, what: str, *arguments: Any) -> None:
        try:
            getattr(self._display, what)(*arguments)
        except OSError as error:  # no reason to lose a run
            self._display, self.gone = Silent(), error.errno != errno.EIO

    def note(self, text: str) -> None:
        self._try("note", text)

    def show(self, progress: Progress) -> None:
        self._try("show", progress)

    def close(self) -> None:
        self._try("close")


def choose(quiet: bool, as_json: bool) -> Guarded:
    """The display that suits the options and where stderr goes."""
    if quiet:
        return Guarded(Silent())
    if as_json:
        return Guarded(Json())
    return Guarded(Live() if can_redraw(sys.stderr) else Lines())


def for_python(quiet: bool | None) -> Guarded:
    """The display for a Python program: by default where somebody looks, in a notebook or on a terminal."""
    if quiet is not True and notebook() is not None:
        from charlstm.notebook import Notebook

        return Guarded(Notebook())
    if quiet is None:
        quiet = sys.stderr is None or not sys.stderr.isatty()
    return choose(quiet, as_json=False)


class CompileNote:
    """Says once that kernels are being compiled, when they are."""

    def __init__(self, screen: Any) -> None:
        self.screen, self.said = screen, False

    def __call__(self, kernel: str) -> None:
        if not self.said:
            self.screen.note("        compiling kernels, once for this version and processor, about 20 s ...")
            self.said = True

    def __enter__(self) -> None:
        import kernels

        kernels.compile_listeners.append(self)

    def __exit__(self, *_: Any) -> None:
        import kernels

        kernels.compile_listeners.remove(self)


def text_line(corpus: Any) -> str:
    """The line that tells which text it is."""
    own = not corpus.is_frozen and corpus.vocabulary.kind == "characters"
    kinds = f"{len(corpus.vocabulary)} distinct" if own else f"a vocabulary of {len(corpus.vocabulary)}"
    told = "".join(f"\n        {line}" for line in corpus.remark.splitlines())
    return f"text    {corpus.name}: {len(corpus.ids):,} {corpus.vocabulary.kind}, {kinds}{told}"


def summary(progress: Progress) -> str:
    """The figures of one moment: ``loss 1.601  2.310 bits/char  perplexity 4.96  37,500 chars/s  0:42 left``.

    The loss is in nats per character; of a model of bytes: ``loss 0.931/byte  1.343 bits/byte (2.310 bits/char)  ...``.
    """
    each = progress.chars / progress.iteration if progress.iteration else 0
    left = (progress.iterations - progress.iteration) * each / progress.chars_per_second if each else 0
    return (
        f"loss {in_words(progress.nats_per_char, 3)}{'' if progress.bits_per_byte is None else '/byte'}  "
        f"{_bits(progress.bits_per_char, progress.bits_per_byte, 3)}  "
        f"perplexity {perplexity_in_words(progress.bits_per_char)}  "
        f"{progress.chars_per_second:,.0f} {'chars' if progress.bits_per_byte is None else 'bytes'}/s"
        + ("" if progress.is_endless else f"  {duration(left)} left")
    )


def _bits(per_char: float, per_byte: float | None, digits: int) -> str:
    """Bits per character; of a model of bytes bits per byte, and those beside it."""
    characters = f"{in_words(per_char, digits)} bits/char"
    return characters if per_byte is None else f"{in_words(per_byte, digits)} bits/byte ({characters})"


def evaluation(progress: Progress) -> str:
    """The figures on the text that was kept back, in a line."""
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
    """Seconds as a person reads them: 0:42, 12:05, 3:20:00."""
    whole = round(seconds)
    hours, minutes = divmod(whole // 60, 60)
    return f"{hours}:{minutes:02}:{whole % 60:02}" if hours else f"{minutes}:{whole % 60:02}"


def printable(text: str) -> str:
    """The text with control characters, which a terminal would obey, shown as a dot; line breaks and tabs stay."""
    return "".join(c if c in "\n\t" or c.isprintable() else "·" for c in text)
