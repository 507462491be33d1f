"""Displays of a training run: live on a terminal, as lines elsewhere, as JSON, or silent."""

import errno
import sys
from collections.abc import Sequence
from time import monotonic
from typing import Any, NamedTuple, Protocol

from charlstm.host.terminals import can_redraw, is_started_by_cell, notebook
from charlstm.show.pace import Pace
from charlstm.show.words import columns_of_stderr, duration, evaluation, phrases, printable, shown_as, summary, wrapped
from charlstm.training.progress import OneEach, Progress, told_line

_LINE_SECONDS = 5.0  # between two lines, at first
_LINE_FRACTION = 0.01  # of the time since the beginning, so that the log of a long run stays short


class Facts(NamedTuple):
    """What a display should know of a run before its progress."""

    title: str = ""
    unit: str = "char"  #: or "byte": what a loss is measured per
    is_evaluated: bool = False  #: whether a part of the text is held out
    baseline: float | None = None  #: held-out bits per unit of the n-gram model
    history: Sequence[Progress] = ()  #: reports, evaluations and samples from before
    elapsed: float = 0.0  #: seconds of training from before


class Display(Protocol):
    """Shows notes and progress; it does not affect the run."""

    def note(self, text: str) -> None:
        """Show a line that stays."""

    def status(self, text: str) -> None:
        """Show what is being done, if the display can replace it later."""

    def begin(self, facts: Facts) -> None:
        """Learn what is about to be trained."""

    def show(self, progress: Progress) -> None:
        """Show the progress of training."""

    @property
    def wants_samples(self) -> bool:
        """Whether samples beside the saved ones would be seen."""

    def close(self) -> None:
        """Restore the terminal."""


class Silent:
    """Shows nothing."""

    wants_samples = False

    def note(self, text: str) -> None:
        pass

    def status(self, text: str) -> None:
        pass

    def begin(self, facts: Facts) -> None:
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


class Lines(Silent):
    """A line on stderr every few seconds; on a terminal that cannot redraw, wrapped at word boundaries."""

    def __init__(self) -> None:
        self._began, self._next, self._pace = monotonic(), 0.0, Pace()
        self._is_terminal = sys.stderr is not None and sys.stderr.isatty() and not is_started_by_cell()

    def note(self, text: str) -> None:
        print(wrapped(text, columns_of_stderr()) if self._is_terminal else text, file=sys.stderr, flush=True)

    def show(self, progress: Progress) -> None:
        ended = progress.iteration == progress.iterations
        if progress.kind == "evaluation":
            self.note(evaluation(progress))
        self._pace.add(progress)
        if progress.kind == "tick" and ((now := monotonic()) >= self._next or ended):
            self._next = now + max(_LINE_SECONDS, _LINE_FRACTION * (now - self._began))
            total = "" if progress.is_endless else f"/{progress.iterations:,}"
            self.note(f"iteration {progress.iteration:,}{total}  {summary(progress, self._pace)}")


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

    def begin(self, facts: Facts) -> None:
        self._try("begin", facts)

    def show(self, progress: Progress) -> None:
        self._try("show", progress)

    @property
    def wants_samples(self) -> bool:
        return self._display.wants_samples

    def close(self) -> None:
        self._try("close")


def choose(quiet: bool, as_json: bool) -> Guarded:
    """Choose the display by the options and by where stderr goes."""
    if quiet:
        return Guarded(Silent())
    if as_json:
        return Guarded(Json())
    if not can_redraw(sys.stderr):
        return Guarded(Lines())
    from charlstm.show.live import Live

    return Guarded(Live())


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
        self.screen.status("compiling ...")

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


__all__ = [  # includes the words, which are part of what a display needs
    "CompileNote", "Display", "Facts", "Guarded", "Json", "Lines", "Pace", "Silent", "choose", "duration", "evaluation",
    "for_python", "phrases", "printable", "shown_as", "summary", "text_line", "wrapped",
]  # fmt: skip
