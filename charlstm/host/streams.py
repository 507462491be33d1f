"""Standard streams and arguments, whatever the locale and whoever started the program.

Text is UTF-8 wherever no terminal is: in pipes and files, and in arguments. A terminal gets what it says it can show,
the rest as \\u5929, and a line says so at the end. A stream that is closed swallows what is written to it.
"""

import codecs
import os
import sys
from typing import TextIO

_TERMINAL = "charlstm_terminal"  # an -X option: the terminal's encoding, handed on by `in_utf8`
_unshown: set[str] = set()  # characters that a terminal could not show


def in_utf8() -> None:
    """Start this program anew with arguments, file names and streams in UTF-8, unless they are.

    Python decodes arguments and names of files by the locale; under some, a snowflake is three bytes that are no text.
    """
    is_utf8 = codecs.lookup(sys.getfilesystemencoding()).name == "utf-8"
    if is_utf8 or sys.flags.utf8_mode or not sys.executable or os.name == "nt":
        return
    encoding = getattr(sys.stdout, "encoding", None) or "ascii"
    options = ["-X", "utf8", "-X", f"{_TERMINAL}={encoding}"]
    try:
        os.execv(sys.executable, [sys.executable, *options, *sys.orig_argv[1:]])  # noqa: S606
    except OSError:
        return  # it goes on as it is: names of files can still be read


def prepare() -> None:
    """Make all streams writable, in the right encoding."""
    _occupy_closed()
    sys.stdout = _usable(sys.stdout, 1)
    sys.stderr = _usable(sys.stderr, 2)


def finish() -> None:
    """Flush the streams, and report characters that the terminal could not show."""
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
        except OSError:  # nobody reads it any more, which is no failure of what was done
            discard(stream)


def discard(stream: TextIO) -> None:
    """From now on, what is written to a stream goes nowhere, and so does what waits."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())


def _occupy_closed() -> None:
    """Take the numbers of closed streams, which the next files to be opened, checkpoints perhaps, would get."""
    while (number := os.open(os.devnull, os.O_RDWR)) <= 2:
        os.set_inheritable(number, True)
    os.close(number)


def _usable(stream: TextIO | None, number: int) -> TextIO:
    if stream is None:
        return open(number, "w", encoding="utf-8", closefd=False)
    if hasattr(stream, "reconfigure"):
        if stream.isatty():
            encoding = sys._xoptions.get(_TERMINAL, stream.encoding)
            stream.reconfigure(encoding=encoding, errors="charlstm-terminal")
        else:
            stream.reconfigure(encoding="utf-8", errors="charlstm-as-given")
    return stream


def _as_given(error: UnicodeError) -> tuple[str | bytes, int]:
    """Bytes of arguments and file names that are no text come out as they came in."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    part = error.object[error.start : error.end]
    try:
        return part.encode("utf-8", "surrogateescape"), error.end
    except UnicodeEncodeError:
        return part.encode("ascii", "backslashreplace"), error.end


def _remembered(error: UnicodeError) -> tuple[str | bytes, int]:
    """As `backslashreplace`, and remember which characters those were."""
    if isinstance(error, UnicodeEncodeError):
        _unshown.update(error.object[error.start : error.end])
    return codecs.backslashreplace_errors(error)


codecs.register_error("charlstm-as-given", _as_given)
codecs.register_error("charlstm-terminal", _remembered)
