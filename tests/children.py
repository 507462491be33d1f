"""Child processes of tests, on a terminal of a given size or in pipes, independent of how the tests were started.

A child inherits ignored signals, the locale, the terminal and its size. :func:`disinherit` resets what a shell's `&`,
nohup, cron or a container would pass on, so that whatever a test does not set is always the same.
"""

import os
import re
import signal
import subprocess
import sys

import pytest

#: Variables that set the locale, the terminal and colours; all others are kept.
_INHERITED = re.compile(
    r"LC_.*|LANG|LANGUAGE|PYTHON(UTF8|IOENCODING|COERCECLOCALE|UNBUFFERED|WARNINGS)|TERM|COLUMNS|LINES|NO_COLOR|FORCE_COLOR|"
    r"CLICOLOR.*|TTY_.*|JPY_.*|_CHARLSTM_COMPLETE"
)
PLAIN = {"LC_ALL": "C.UTF-8", "TERM": "xterm-256color"}
CHARLSTM = (sys.executable, "-m", "charlstm")
NO_TERMINALS = "the system has no terminals that a program can open"
#: Makes the terminal on stdin the session's own, so that Ctrl-C and hanging up send signals, then runs another program.
_OWNER = "import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); os.execvp(sys.argv[1], sys.argv[1:])"


def disinherit():
    """Reset everything that children inherit from this process."""
    for name in filter(_INHERITED.fullmatch, list(os.environ)):
        del os.environ[name]
    os.environ.update(PLAIN)
    for number in (
        signal.SIGINT,
        signal.SIGTERM,
        *(getattr(signal, n) for n in ("SIGHUP", "SIGQUIT") if hasattr(signal, n)),
    ):
        if signal.getsignal(number) == signal.SIG_IGN:
            # children inherit ignored signals but not handlers, so install handlers that do nothing
            signal.signal(number, lambda *_: None)
    if hasattr(signal, "pthread_sigmask"):
        signal.pthread_sigmask(signal.SIG_SETMASK, ())


def command(*arguments):
    """Return the command that runs charlstm in this environment's Python."""
    return [*CHARLSTM, *(each if isinstance(each, bytes) else str(each) for each in arguments)]


class Terminal:
    """A process on its own terminal, which hangs up when it is closed.

    Parameters
    ----------
    arguments : the program and its arguments
    columns, lines : the size of the terminal
    stdout : None for the terminal, or what `subprocess.Popen` accepts
    env : additional variables
    """

    def __init__(self, arguments, columns=80, lines=24, stdout=None, env=None, cwd=None):
        import struct

        fcntl, pty, termios = (pytest.importorskip(name, reason=NO_TERMINALS) for name in ("fcntl", "pty", "termios"))
        self.controller, terminal = pty.openpty()
        fcntl.ioctl(terminal, termios.TIOCSWINSZ, struct.pack("HHHH", lines, columns, 0, 0))
        self.columns, self.written = columns, b""
        self.process = subprocess.Popen(
            [sys.executable, "-c", _OWNER, *map(str, arguments)],
            stdin=terminal, stdout=terminal if stdout is None else stdout, stderr=terminal, cwd=cwd,
            env={**os.environ, **(env or {})}, start_new_session=True,
        )  # fmt: skip
        os.close(terminal)

    def until(self, what, timeout=120):
        """Read until `what` appears in the output."""
        while what.encode() not in self.written and self._read(timeout):
            pass
        assert what.encode() in self.written, self.text
        return self

    def type(self, keys):
        """Type text on the terminal."""
        os.write(self.controller, keys)

    def hang_up(self):
        """Close the terminal, as a lost connection does."""
        os.close(self.controller)
        self.controller = None

    def ended(self, timeout=120):
        """Read to the end; return the exit code."""
        while self.controller is not None and self._read(timeout):
            pass
        try:
            return self.process.wait(timeout)
        finally:
            if self.process.stdout:
                self.process.stdout.close()
            if self.controller is not None:
                self.hang_up()

    def _read(self, timeout):
        import select

        assert select.select([self.controller], [], [], timeout)[0], f"silent for {timeout} s: {self.text}"
        try:
            piece = os.read(self.controller, 65536)
        except OSError:  # how Linux reports the end of a terminal
            piece = b""
        self.written += piece
        return piece

    @property
    def text(self):
        """Return all output without escape sequences."""
        return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", self.written.decode("utf-8", "replace")).replace("\r\n", "\n")

    @property
    def screen(self):
        """Return the lines on the screen and those that have scrolled away."""
        return screen(self.written.decode("utf-8", "replace"), self.columns)


def screen(written, columns):
    """Return what a terminal shows of this output, as lines of text cut at its width."""
    lines, row, column = [[]], 0, 0
    for part in re.findall(r"\x1b\[[0-9;?]*[A-Za-z]|[^\x1b]", written):
        if part == "\r":
            column = 0
        elif part == "\n":
            row += 1
        elif part.startswith("\x1b"):
            number = int(re.sub(r"\D", "", part) or 1)
            if part.endswith("A"):
                row = max(0, row - number)
            elif part.endswith("K"):
                lines[row][0 if part == "\x1b[2K" else column :] = []
            elif part.endswith("J"):
                lines[row][column:] = []
                lines[row + 1 :] = []
        else:
            if column == columns:
                row, column = row + 1, 0
            lines += [[] for _ in range(row + 1 - len(lines))]
            lines[row] += " " * (column - len(lines[row]))
            lines[row][column : column + 1] = part
            column += 1
        lines += [[] for _ in range(row + 1 - len(lines))]
    return ["".join(line).rstrip() for line in lines]


def words(line):
    """Return the arguments into which a shell splits a command line that starts with charlstm."""
    done = subprocess.run(
        ["bash", "-c", f'charlstm() {{ printf "%s\\0" "$@"; }}; {line}'],  # noqa: S607
        capture_output=True, check=True,
    )  # fmt: skip
    return [os.fsdecode(word) for word in done.stdout.split(b"\0")[:-1]]
