"""Stops training from outside without losing anything: signals are noted and handled between two iterations.

An exception raised inside a call of the kernels would leave the weights of one iteration with the counter of another.
"""

import signal
import threading
from collections.abc import Callable
from types import FrameType
from typing import Any

_HANGUP = getattr(signal, "SIGHUP", None)  # the terminal or connection is gone; Windows has no such signal

#: The signals that end a run: Ctrl-C, a plain kill, a lost connection.
ENDS = (signal.SIGINT, signal.SIGTERM) if _HANGUP is None else (signal.SIGINT, signal.SIGTERM, _HANGUP)


class Interrupted(KeyboardInterrupt):
    """Training was interrupted; its state is saved. `run` is the :class:`charlstm.Run`."""

    def __init__(self, run: Any) -> None:
        super().__init__(f"stopped after {run.trainer.iteration:,} iterations, saved in {run.folder}")
        self.run = run


class Stopping:
    """Context in which the first of some signals sets ``run.stop``: training ends after its iteration and saves.

    SIGHUP stays ignored where it is already, as under nohup. One lost connection may send it twice, so only a second
    Ctrl-C or SIGTERM calls `again`. Outside the main thread, where Python handles no signals, this does nothing.

    Parameters
    ----------
    run : the run to stop
    signals : the signals that stop it
    first : called with the number of the first signal
    again : called with the number of a second Ctrl-C or SIGTERM; it should raise
    """

    def __init__(
        self, run: Any, signals: tuple[int, ...], first: Callable[[int], None], again: Callable[[int], None]
    ) -> None:
        self._run, self._signals, self._first, self._again = run, signals, first, again
        self._is_asked = False
        self.number: int | None = None  #: the signal received

    def __enter__(self) -> "Stopping":
        self._old = {}
        if threading.current_thread() is threading.main_thread():
            for number in self._signals:
                old = signal.getsignal(number)
                if old is not None and (number, old) != (_HANGUP, signal.SIG_IGN):  # None: not Python's to restore
                    self._old[number] = signal.signal(number, self._heed)
        return self

    def __exit__(self, *_: Any) -> None:
        for number, handler in self._old.items():
            signal.signal(number, handler)

    def _heed(self, number: int, frame: FrameType | None) -> None:
        if number != _HANGUP:
            if self._is_asked:
                self._again(number)
            self._is_asked = True
        if self.number is None:
            self.number, self._run.stop = number, True
            self._first(number)


def trained(run: Any, show: Callable[[Any], None] = lambda progress: None) -> Any:
    """Train a run to its budget, pass every Progress to `show`, and return the run.

    Raises
    ------
    Interrupted
        On Ctrl-C, or the stop button of a notebook, after saving. A second one raises KeyboardInterrupt at once.
    """
    is_ours = signal.getsignal(signal.SIGINT) is signal.default_int_handler  # else the program handles Ctrl-C itself
    heeded = (signal.SIGINT,) if is_ours else ()
    with Stopping(
        run, heeded, lambda number: None, lambda number: signal.default_int_handler(number, None)
    ) as stopping:
        for progress in run.train():
            show(progress)
    if stopping.number is not None:
        run.stop = False  # so that it can be resumed
        raise Interrupted(run)
    return run
