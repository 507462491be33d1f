"""Standard streams and arguments that work in every locale and however the program was started.

Pipes, files and arguments use UTF-8, with a line feed alone at the end of a line. A terminal uses its own encoding:
characters outside it are escaped, as \\u5929, and a line reports them at the end. Output to a closed stream is
discarded.
"""

import codecs
import os
import sys
from typing import TextIO

_TERMINAL = "charlstm_terminal"  # an -X option by which `in_utf8` passes on the terminal's encoding
_unshown: set[str] = set()  # characters that the terminal could not show


def in_utf8() -> None:
    """Restart this program in Python's UTF-8 mode, unless arguments and file names are already decoded as UTF-8.

    Python decodes them in the locale's encoding; some locales turn a snowflake into three undecodable bytes.
    """
    is_utf8 = codecs.lookup(sys.getfilesystemencoding()).name == "utf-8"
    if is_utf8 or sys.flags.utf8_mode or not sys.executable or os.name == "nt":
        return
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    options = ["-X", "utf8", "-X", f"{_TERMINAL}={encoding}"]
    try:
        os.execv(sys.executable, [sys.executable, *options, *sys.orig_argv[1:]])  # noqa: S606
    except OSError:
        return  # continue in the locale's encoding, in which files can still be opened


def prepare() -> None:
    """Make stdout and stderr writeable and set their encodings."""
    _occupy_closed()
    sys.stdout = _usable(sys.stdout, 1)
    sys.stderr = _usable(sys.stderr, 2)


def finish() -> None:
    """Flush both streams and report the characters that the terminal could not show."""
    if _unshown:
        some = " ".join(sorted(_unshown)[:5]).encode("ascii", "backslashreplace").decode()
        print(
            f"charlstm: this terminal's encoding, {sys.stdout.encoding}, cannot show all characters ({some}): set "
            "LC_ALL=C.UTF-8, or write to a file, which is UTF-8",
            file=sys.stderr,
        )
    for stream in (sys.stdout, sys.stderr):
        try:
            stream.flush()
        except OSError:  # the reader has gone, which is not an error: the work is done
            discard(stream)


def discard(stream: TextIO) -> None:
    """Discard everything written to a stream from now on, including buffered text."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _occupy_closed() -> None:
    """Open os.devnull on closed standard descriptors; otherwise the next file opened, say a checkpoint, gets one."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def _usable(stream: TextIO | None, number: int) -> TextIO:
    if stream is None:
        return open(number, "w", encoding="utf-8", newline="\n", closefd=False)
    if hasattr(stream, "reconfigure"):
        if stream.isatty():
            encoding = sys._xoptions.get(_TERMINAL, stream.encoding)
            stream.reconfigure(encoding=encoding, errors="charlstm-terminal")
        else:
            stream.reconfigure(encoding="utf-8", errors="charlstm-as-given", newline="\n")
    return stream


def _as_given(error: UnicodeError) -> tuple[str | bytes, int]:
    """Write undecodable bytes of arguments and file names unchanged; escape other unencodable characters."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    try:
        return part.encode("utf-8", "surrogateescape"), error.end
    except UnicodeEncodeError:
        return part.encode("ascii", "backslashreplace"), error.end


def _remembered(error: UnicodeError) -> tuple[str | bytes, int]:
    """Escape characters like `backslashreplace`, and remember them for `finish`."""
    if isinstance(error, UnicodeEncodeError):
        _unshown.update(error.object[error.start : error.end])
    return codecs.backslashreplace_errors(error)


codecs.register_error("charlstm-as-given", _as_given)
codecs.register_error("charlstm-terminal", _remembered)
