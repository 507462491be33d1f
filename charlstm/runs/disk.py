"""Files that outlive what interrupts their writing: every call that changes a disk is made here, one function each.

A test can make any of these functions fail, or be the last thing that the process ever did, and look at what is left
(tests/runs/test_crash.py). What is written is flushed to the disk before it takes its name, and the folder after.
"""

import errno
import os
import re
from pathlib import Path

_NO_RENAME = {errno.ENOSYS, errno.ENOTSUP, errno.EOPNOTSUPP, errno.EPERM}
_NO_LINK = {*_NO_RENAME, errno.EXDEV, errno.EMLINK}
_NO_FOLDER_SYNC = {errno.EINVAL, errno.ENOTSUP, errno.EOPNOTSUPP}
_STRAY = re.compile(r"\..+\.\d+\.tmp")


# ---------------------------------------------------------------------------------------------- one system call each
def create(path: Path) -> int:
    """Open a new, empty file for writing, or empty an old one; its descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_BINARY", 0), 0o666)


def append(path: Path) -> int:
    """Open a file for writing at its end; its descriptor."""
    return os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | getattr(os, "O_BINARY", 0), 0o666)


def write_some(descriptor: int, data: bytes | memoryview) -> int:
    """Write some of the data, all if possible; how many bytes."""
    return os.write(descriptor, data)


def sync(descriptor: int) -> None:
    """Wait until a file's content is on the disk."""
    os.fsync(descriptor)


def close(descriptor: int) -> None:
    """Close a file."""
    os.close(descriptor)


def replace(old: Path, new: Path) -> None:
    """Give a file another name, which it takes from whatever has it."""
    os.replace(old, new)


def hard_link(path: Path, name: Path) -> None:
    """Give a file a second name."""
    os.link(path, name)


def remove(path: Path) -> None:
    """Take a name from a file; nothing happens where there is none."""
    path.unlink(missing_ok=True)


def cut(path: Path, length: int) -> None:
    """Shorten a file."""
    os.truncate(path, length)


def make_folder(path: Path) -> None:
    """Make a folder, and those it is in, unless they are there."""
    path.mkdir(parents=True, exist_ok=True)


def sync_folder(path: Path) -> None:
    """Wait until the names in a folder are on the disk, where a system has a way to ask for that."""
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


# ------------------------------------------------------------------------------------------------ what is made of them
def write(path: Path, data: bytes) -> None:
    """Replace a file's content: all of it, or, if that fails, nothing.

    Raises
    ------
    OSError
        Of whatever failed, and where the file, read again, is not what was written.
    """
    temporary = _temporary(path)
    try:
        _fill(temporary, data)
        try:
            replace(temporary, path)
        except OSError as error:
            if error.errno not in _NO_RENAME:
                raise
            _fill(path, data)  # a file system without renaming: what is read back below is the only proof
            remove(temporary)
    except OSError:
        _remove_if_possible(temporary)
        raise
    sync_folder(path.parent)
    if path.read_bytes() != data:
        raise OSError(errno.EIO, "what was read back is not what was written", str(path))


def link(path: Path, name: Path) -> None:
    """Give a file a second name, taken from whatever has it; a copy, where a file system has no second names."""
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
    """Remove what writers that have died left in a folder; only who alone may write there may call this."""
    for path in folder.glob(".*.tmp"):
        if _STRAY.fullmatch(path.name):
            remove(path)


class Log:
    """A file that grows. What cannot be written now is kept, and written before what comes after it.

    Parameters
    ----------
    path : the file
    length : where it ends; what an interrupted process wrote after that is cut off
    """

    def __init__(self, path: Path, length: int) -> None:
        self._waiting = b""
        self._descriptor = append(path)
        actual = path.stat().st_size
        if actual > length:
            cut(path, length)
        #: Bytes that it has, with those that wait.
        self.length = min(length, actual)

    def add(self, data: bytes) -> None:
        """Let the file grow by this, by the next `flush` at the latest."""
        self._waiting += data
        self.length += len(data)

    def flush(self) -> None:
        """Write what waits. Raises OSError for what cannot be written, which goes on waiting then."""
        while self._waiting:
            written = write_some(self._descriptor, self._waiting)
            self._waiting = self._waiting[written:]

    def sync(self) -> None:
        """Write what waits, and wait until it is on the disk."""
        self.flush()
        sync(self._descriptor)

    def close(self) -> None:
        """Close the file; what waits is lost."""
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
    """A name beside a file that `sweep` knows."""
    return path.with_name(f".{path.name}.{os.getpid()}.tmp")


def _remove_if_possible(path: Path) -> None:
    """Clean up after a failure, which is the one that is told."""
    try:
        remove(path)
    except OSError:
        return  # a disk that is full or gone may refuse this, too; `sweep` comes again
