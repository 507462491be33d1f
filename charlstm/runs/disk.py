"""Crash-safe files: all calls that change the disk, one function each.

Tests make each of these functions fail, or end the process there, and check the files that remain
(tests/runs/test_crash.py). A file is flushed to the disk before it is renamed, and its folder afterwards.
"""

import errno
import os
import re
import sys
import time
from pathlib import Path

_NO_RENAME = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
_NO_LINK = {*_NO_RENAME, errno.EXDEV, errno.EMLINK}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
_NO_FULL_SYNC = {*_NO_FOLDER_SYNC, errno.ENOTTY}
_OTHERS_HOLD_FILES = os.name == "nt"
#: Seconds between the tries of a rename that is denied, 2.5 s in all.
_PAUSES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 0.6, 1.0)
_STRAY = re.compile(r"\..+\.\d+\.tmp")


# ---------------------------------------------------------------------------------------------- one system call each
def create(path: Path) -> int:
    """Open a new or truncated file for writing; return its descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)


def append(path: Path) -> int:
    """Open a file for appending; return its descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)


def write_some(descriptor: int, data: bytes | memoryview) -> int:
    """Write the data, or part of it; return the number of bytes written."""
    return os.write(descriptor, data)


def sync(descriptor: int) -> None:
    """Wait until the content of a file is on the disk."""
    if sys.platform == "darwin":  # where fsync leaves it in the drive's cache
        import fcntl

        try:
            fcntl.fcntl(descriptor, fcntl.F_FULLFSYNC)
        except OSError as error:  # on file systems of other systems
            if error.errno not in _NO_FULL_SYNC:
                raise
        else:
            return
    os.fsync(descriptor)


def close(descriptor: int) -> None:
    """Close a file."""
    os.close(descriptor)


def replace(old: Path, new: Path) -> None:
    """Rename a file, replacing any file of that name; on Windows, wait while a scanner or an indexer holds one."""
    for pause in _PAUSES if _OTHERS_HOLD_FILES else ():
        try:
            os.replace(old, new)
        except PermissionError:
            time.sleep(pause)
        else:
            return
    os.replace(old, new)


def hard_link(path: Path, name: Path) -> None:
    """Give a file a second name."""
    os.link(path, name)


def remove(path: Path) -> None:
    """Remove a file, if it exists."""
    path.unlink(missing_ok=True)


def cut(path: Path, length: int) -> None:
    """Truncate a file."""
    os.truncate(path, length)


def make_folder(path: Path) -> None:
    """Create a folder and its parents, unless they exist."""
    path.mkdir(parents=True, exist_ok=True)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, on systems that support it."""
    if not hasattr(os, "O_DIRECTORY"):  # Windows
        return
    folder = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(folder)
    except OSError as error:
        if error.errno not in _NO_FOLDER_SYNC:
            raise
    finally:
        os.close(folder)


# ----------------------------------------------------------------------------------------------- operations on files
def write(path: Path, data: bytes) -> None:
    """Replace the content of a file completely or, on failure, not at all.

    Raises
    ------
    OSError
        If a step fails, or the file read back differs from the data.
    """
    temporary = _temporary(path)
    try:
        _fill(temporary, data)
        try:
            replace(temporary, path)
        except OSError as error:
            if error.errno not in _NO_RENAME:
                raise
            _fill(path, data)  # no renaming on this file system: reading back below is the only check
            remove(temporary)
    except OSError:
        _remove_if_possible(temporary)
        raise
    sync_folder(path.parent)
    if path.read_bytes() != data:
        raise OSError(errno.EIO, "the data read back differ from the data written", str(path))


def link(path: Path, name: Path) -> None:
    """Give a file a second name, replacing any file of that name; a copy on file systems without hard links."""
    temporary = _temporary(name)
    remove(temporary)
    try:
        hard_link(path, temporary)
        replace(temporary, name)
    except OSError as error:
        _remove_if_possible(temporary)
        if error.errno not in _NO_LINK:
            raise
        write(name, path.read_bytes())
    else:
        sync_folder(name.parent)


def sweep(folder: Path) -> None:
    """Remove temporary files that dead writers left in a folder; only its sole writer may call this."""
    for path in folder.glob(".*.tmp"):
        if _STRAY.fullmatch(path.name):
            remove(path)


class Log:
    """A file that is appended to. Data that cannot be written are kept and written first at the next attempt.

    Parameters
    ----------
    path : the file
    length : bytes to keep; anything that an interrupted process wrote after them is cut off
    """

    def __init__(self, path: Path, length: int) -> None:
        self._waiting = b""
        self._descriptor = append(path)
        actual = path.stat().st_size
        if actual > length:
            cut(path, length)
        #: Bytes in the file, including those that wait to be written.
        self.length = min(length, actual)

    def add(self, data: bytes) -> None:
        """Append data, at the latest with the next `flush`."""
        self._waiting += data
        self.length += len(data)

    def flush(self) -> None:
        """Write the waiting data. Raises OSError if that fails; the rest keeps waiting."""
        while self._waiting:
            written = write_some(self._descriptor, self._waiting)
            self._waiting = self._waiting[written:]

    def sync(self) -> None:
        """Write the waiting data, and wait until they are on the disk."""
        self.flush()
        sync(self._descriptor)

    def close(self) -> None:
        """Close the file; waiting data are lost."""
        close(self._descriptor)


def _fill(path: Path, data: bytes) -> None:
    descriptor = create(path)
    try:
        left = memoryview(data)
        while left:
            left = left[write_some(descriptor, left) :]
        sync(descriptor)
    finally:
        close(descriptor)


def _temporary(path: Path) -> Path:
    """A name in the same folder that `sweep` recognises."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _remove_if_possible(path: Path) -> None:
    """Clean up after a failure, without hiding it by another one."""
    try:
        remove(path)
    except OSError:
        return  # a full or missing disk may refuse this, too; `sweep` removes it later
