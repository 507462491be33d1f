"""Downloads built-in texts and URLs on first use, checks them, and keeps them in a cache.

The cache is a folder of plain files: `CHARLSTM_DATA_DIR` or the user's cache folder. A file appears there by renaming,
so it is complete and has the right SHA-256, or is absent. A built-in text is checked again on every read.
"""

import hashlib
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any
from urllib.parse import unquote, urlsplit

from charlstm.errors import RunFailed, UserError
from charlstm.host import places
from charlstm.host.terminals import can_redraw

FOLDER_VARIABLE = "CHARLSTM_DATA_DIR"
TIMEOUT = 30.0  #: a download is given up after this many seconds without a byte

Note = Callable[[str], None]


@dataclass(frozen=True)
class BuiltIn:
    """A text with a name: its licence, its URL, and the size in bytes and SHA-256 of what the URL serves."""

    licence: str
    url: str = ""  #: empty: the text comes with Python
    size: int = 0
    sha256: str = ""


BUILT_IN = {
    "python-docs": BuiltIn("PSF-2.0"),
    "us-constitution": BuiltIn(
        "public domain",
        "https://raw.githubusercontent.com/begriffs/constitution/505729036e27f7180c2ae962883bd187778a5700/constitution.txt",
        44_030,
        "0095288e8a21bbea37d1567e4bec2be40cd59565984e31b27d53c923d378559d",
    ),
    "nietzsche": BuiltIn(
        "public domain",
        "https://s3.amazonaws.com/text-datasets/nietzsche.txt",
        600_901,
        "23cf69874ab69d3d256099ab530ea4be24d47d9675b673bcc67cbcd6298ec647",
    ),
    "tinyshakespeare": BuiltIn(
        "public domain",
        "https://raw.githubusercontent.com/karpathy/char-rnn/6f9487a6fe5b420b7ca9afb0d7c078e37c1d1b4e/data/tinyshakespeare/input.txt",
        1_115_394,
        "86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
    ),
    "names": BuiltIn(
        "MIT",
        "https://raw.githubusercontent.com/karpathy/makemore/988aa59e4d8fefa526d06f3b453ad116258398d4/names.txt",
        228_145,
        "0a30b5557f192f32ab962680889aac5f6fda0f4cecf40a6d0b5694f58ea8cc4d",
    ),
}


class DownloadFailed(RunFailed):
    """The server could not be reached or sent another text; the cache is unchanged."""


def is_url(name: str) -> bool:
    """Whether this looks like a URL of any scheme."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]+://", name) is not None


def short_name(url: str) -> str:
    """The last part of a URL's path without its suffix, usable as a folder name; the host if the path is empty."""
    try:
        parts = urlsplit(url)
    except ValueError as error:
        raise UserError(f"{url}: {error}") from None
    stem = PurePosixPath(unquote(parts.path)).stem
    fit = (re.sub(r"[^\w.-]+", "-", part)[:50].strip(".-") for part in (stem, parts.netloc))
    return next(filter(None, fit), "text")


def cache_dir() -> Path:
    """The folder of downloaded texts; it may not exist yet."""
    chosen = os.environ.get(FOLDER_VARIABLE)
    return Path(chosen) if chosen else places.cache_dir() / "data"


def cached(name: str) -> Path | None:
    """The cached file of a built-in text or URL, or None; a built-in text must have its SHA-256."""
    path, known = _place(name), _known(name)
    if path.is_file() and (known is None or sha256(path) == known.sha256):
        return path
    return None


def fetch(name: str, offline: bool = False, note: Note | None = None) -> Path:
    """The file that holds a built-in text or the content of a URL: from the cache, or downloaded.

    Parameters
    ----------
    name : a built-in name that has a URL, or an http or https URL
    offline : never use the network
    note : receives progress messages, one line each; with it, and with stderr a terminal, a progress bar is shown

    Raises
    ------
    UserError
        For a URL of another scheme, a folder that cannot be written, or a text missing from the cache when offline.
    DownloadFailed
        For any failure of the server or the connection.
    """
    known = _known(name)
    url = known.url if known else name
    if not known and not re.match(r"https?://", name, re.IGNORECASE):
        raise UserError(f"{name}: only http and https URLs are supported; give a file by its path")
    path = cached(name)
    if path is not None:
        if note and not known:
            note(f"        using the copy in {path}; remove it to download again")
        return path
    if offline:
        raise UserError(f"{name}: no copy in {cache_dir()}, and --offline forbids downloading")
    if note:
        note(f"        downloading {url}")
    path = _download(name, url, known.sha256 if known else None, note is not None and can_redraw(sys.stderr))
    if note:
        note(f"        saved as {path}, SHA-256 {sha256(path)}")
    return path


def sha256(path: str | Path) -> str:
    """A file's SHA-256, in hexadecimal."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _known(name: str) -> BuiltIn | None:
    if name in BUILT_IN and not BUILT_IN[name].url:
        raise UserError(f"{name}: this text comes with Python and is not downloaded; train on it by its name")
    if name not in BUILT_IN and not is_url(name):
        raise UserError(f"{name}: neither a URL nor a built-in text ({', '.join(BUILT_IN)})")
    return BUILT_IN.get(name)


def _place(name: str) -> Path:
    digest = hashlib.sha256(name.encode("utf-8", "backslashreplace")).hexdigest()
    return cache_dir() / (f"{name}.txt" if name in BUILT_IN else f"url-{digest[:32]}-{short_name(name)}")


def _download(name: str, url: str, expected: str | None, show: bool) -> Path:
    """Download into the cache; pooch writes a temporary file there and renames or removes it."""
    import pooch
    from requests.exceptions import RequestException
    from urllib3.exceptions import HTTPError

    def checked(url: str, file: str, _: Any) -> None:
        _stream(url, file, show)
        if expected and (got := sha256(file)) != expected:
            raise DownloadFailed(
                f"{name}: the text has changed: {url} serves SHA-256 {got}, expected {expected}; "
                "if you trust it, give the URL instead of the name"
            )

    pooch.get_logger().setLevel("ERROR")
    path = _place(name)
    try:
        pooch.retrieve(url, expected, path.name, path.parent, downloader=checked)
    except (RequestException, HTTPError, UnicodeError) as error:  # requests lets the latter two through
        raise DownloadFailed(f"{url}: cannot be downloaded: {_reason(error)}") from None
    except OSError as error:
        cause = error.__cause__ if isinstance(error.__cause__, OSError) else error  # pooch rewords some errors
        raise UserError(
            f"{path.parent}: cannot be written: {cause.strerror or cause}; {FOLDER_VARIABLE} names another folder"
        ) from None
    return path


def _stream(url: str, file: str, show: bool) -> None:
    """Write what a URL serves to a file, with a progress bar on stderr if `show`."""
    from contextlib import nullcontext

    # Not pooch.HTTPDownloader: it fails on a Content-Length that is no number, which browsers ignore, takes the length
    # of compressed bytes for the length of the text, and leaves closing the connection to the garbage collector.
    import requests

    shown = _bar() if show else nullcontext()
    with requests.get(url, stream=True, timeout=TIMEOUT) as answer, open(file, "wb") as out, shown as bar:
        answer.raise_for_status()
        length = answer.headers.get("Content-Length", "")
        is_told = length.isdigit() and "Content-Encoding" not in answer.headers  # else of compressed bytes
        task = bar.add_task("", total=int(length) if is_told else None) if bar else None
        for piece in answer.iter_content(2**14):
            out.write(piece)
            if bar:
                bar.advance(task, len(piece))


def _bar() -> Any:
    from rich.console import Console
    from rich.progress import BarColumn, DownloadColumn, Progress, TransferSpeedColumn

    columns = (BarColumn(), DownloadColumn(), TransferSpeedColumn())
    return Progress(*columns, console=Console(stderr=True), transient=True)


def _reason(error: Exception) -> str:
    """The cause of a failed download, in a few words; the errors of requests wrap it."""
    from requests import exceptions
    from urllib3.exceptions import ReadTimeoutError

    inner: Any = error.args[0] if error.args else error
    if isinstance(error, exceptions.HTTPError) and error.response is not None:
        return f"the server answers {error.response.status_code}"
    if isinstance(error, exceptions.Timeout) or isinstance(inner, ReadTimeoutError):
        return f"no answer for {TIMEOUT:g} s"
    if isinstance(error, exceptions.ChunkedEncodingError):
        return "the connection ended before the text did"
    if isinstance(error, exceptions.ConnectionError):
        inner = getattr(inner, "reason", inner)
        return f"no connection: {str(inner).partition(': ')[2] or inner}"
    return str(error)
