"""The live display on a terminal: the panel, redrawn in place below the notes.

A thread redraws what would stand still while the main thread compiles or computes, so that the clock goes on.
"""

import sys
import threading
from time import monotonic
from typing import Any

from charlstm.show.display import Facts
from charlstm.show.pace import Countdown, Pace
from charlstm.show.words import columns_of_stderr, duration, wrapped
from charlstm.training.progress import Progress

_FRAME_SECONDS = 0.1  # between two frames, at least
_SHARE = 0.004  # fraction of the time that drawing may take
_STILL_SECONDS = 1.0  # after which a frame is drawn again, so that the clock on it goes on


class Live:
    """On stderr, below the notes: what is being done, and from the first progress on the panel.

    The next frame waits until drawing has taken at most :data:`_SHARE` of the time. Closing erases all but the notes.
    """

    wants_samples = True

    def __init__(self) -> None:
        self._began = self._since = monotonic()
        self._status = self._written = ""
        self._pace, self._countdown = Pace(), Countdown()
        self._panel: Any = None
        self._screen: Any = None
        self._drawn = self._next = 0.0
        self._lock, self._closed = threading.RLock(), threading.Event()
        self._ticker = threading.Thread(target=self._tick, daemon=True)

    def status(self, text: str) -> None:
        """Show what is being done, in place of the last status."""
        with self._lock:
            if text == self._status:
                return
            self._status, self._since = text, monotonic()
            if self._screen is None:
                self._write_status()
            else:
                self._draw()
            self._go_on_ticking()

    def note(self, text: str) -> None:
        """Show a line that stays, above the panel."""
        with self._lock:
            if self._screen is not None:
                self._screen.above(wrapped(text, columns_of_stderr()))
                return
            sys.stderr.write(("\r\x1b[K" if self._status else "") + f"{wrapped(text, columns_of_stderr())}\n")
            if self._status:
                self._write_status()

    def begin(self, facts: Facts) -> None:
        """Learn what is about to be trained; the panel appears with the first progress."""
        from charlstm.show.panel import Panel

        self._panel = Panel(facts)
        self._began = monotonic() - facts.elapsed

    def show(self, progress: Progress) -> None:
        """Take up the progress, and draw the panel if it is time."""
        with self._lock:
            if self._panel is None:
                self.begin(Facts())
            self._panel.add(progress)
            self._pace.add(progress)
            if self._screen is None and progress.kind != "report":
                self.status("")
                from charlstm.show.redrawn import Redrawn

                self._screen = Redrawn()
                self._go_on_ticking()
            self._status = ""
            is_last = progress.kind == "tick" and progress.iteration == progress.iterations
            if self._screen is not None and (monotonic() >= self._next or is_last):
                self._draw()

    def close(self) -> None:
        """Erase the panel and the status."""
        self._closed.set()
        if self._ticker.is_alive():
            self._ticker.join()
        with self._lock:
            if self._screen is not None:
                self._screen.erase()
                self._screen, self._status = None, ""
            self.status("")

    def _draw(self) -> None:
        from charlstm.show.panel import Times

        begin = monotonic()
        now = self._panel.now
        times = Times(
            begin - self._began, self._countdown.shown(self._pace.left(now)),
            self._pace.chars_per_second or now.chars_per_second, self._in_words() if self._status else "",
        )  # fmt: skip
        self._screen.draw(self._panel, times)
        self._drawn = monotonic()
        self._next = begin + max(_FRAME_SECONDS, (self._drawn - begin) / _SHARE)

    def _write_status(self) -> None:
        """Write the status, after a second with the time since it began."""
        sys.stderr.write(f"\r{self._in_words()[: columns_of_stderr() - 1]}\x1b[K")
        sys.stderr.flush()

    def _in_words(self) -> str:
        seconds = monotonic() - self._since
        return f"{self._status} {duration(seconds)}" if self._status and seconds >= 1 else self._status

    def _go_on_ticking(self) -> None:
        """Start the thread, unless it runs or the display is closed."""
        if not self._ticker.is_alive() and not self._closed.is_set():
            self._ticker = threading.Thread(target=self._tick, daemon=True)
            self._ticker.start()

    def _tick(self) -> None:
        """Redraw what would stand still while the main thread compiles or computes."""
        while not self._closed.wait(0.25):
            with self._lock:
                try:
                    if self._screen is not None:
                        if monotonic() - self._drawn >= _STILL_SECONDS:
                            self._draw()
                    elif self._status:
                        self._write_status()
                except OSError:  # the terminal has gone; the main thread finds that, too, and knows what to do
                    return
