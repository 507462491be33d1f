"""A lock file in the run folder ensures that one process at a time writes there; the file names the holder.

The system's lock on the open file, taken by the library filelock, decides; it is released when the process ends for any
reason. On a file system without locks, the process named in the file decides: a process of this host that has ended
does not count; one on another host is assumed to be running.

filelock's own FileLock class is not used: it does not name the holder of a lock, and it falls back to a second file
only for ENOSYS, but NFS reports ENOLCK.
"""

import json
import os
import platform
from pathlib import Path
from typing import Any

from charlstm.errors import UserError

LOCK = ".lock"


class Lock:
    """The lock of a folder, held until it is released or deleted, or its process ends.

    Raises
    ------
    UserError
        If another process, or another Lock in this process, holds it.
    OSError
        If the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None
        self.acquire()

    def acquire(self) -> None:
        """Take the lock, unless it is held already; raises as described for the class."""
        if self._descriptor is not None:
            return
        path = self._folder / LOCK
        self._descriptor = os.open(path, os.O_RDWR | os.O_CREAT, 0o666)
        holder = _read(self._descriptor)
        got = _try_lock(self._descriptor)
        if got is None:
            got = not _goes_on(holder)
        if not got:
            self._close()
            who = f"process {holder.get('pid')} on {holder.get('host')}" if holder else "another process"
            who = "this process" if holder == _me() else who
            raise UserError(f"{self._folder}: in use by {who}: wait for it or stop it; if it has ended, remove {path}")
        os.ftruncate(self._descriptor, 0)
        _write(self._descriptor, _me())

    def release(self) -> None:
        """Release the lock, if it is held."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        self._close()


def holder(folder: Path) -> dict[str, Any] | None:
    """The process that holds the lock of a folder, as its file names it; takes no lock and writes nothing.

    Empty if no process does, and None if the folder has no lock file, as a copy of a run may have none.
    """
    try:
        descriptor = os.open(folder / LOCK, os.O_RDONLY)
    except OSError:
        return None
    try:
        named = _read(descriptor)
    finally:
        os.close(descriptor)
    return named if _goes_on(named) else {}


def _try_lock(descriptor: int) -> bool | None:
    """Whether this process now holds the lock; None if the file system has no locks."""
    from filelock import lock_descriptor

    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError:
        return None


def _me() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": platform.node()}


def _read(descriptor: int) -> dict[str, Any]:
    """The last holder that did not release the lock, according to the file."""
    try:
        try:
            content = _content(descriptor, 0)
        except PermissionError:  # Windows: other processes cannot read the locked first byte
            content = _content(descriptor, 1)
        holder = json.loads(content)
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _content(descriptor: int, begin: int) -> bytes:
    os.lseek(descriptor, begin, os.SEEK_SET)
    return os.read(descriptor, 1000)


def _write(descriptor: int, holder: dict[str, Any]) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, b" " + json.dumps(holder).encode())  # the blank is the byte that _read may have to skip


def _goes_on(holder: dict[str, Any]) -> bool:
    """Whether the process named in the file may still be running."""
    if (
        not holder or holder.get("host") != platform.node() or os.name == "nt"
    ):  # where signal 0 does not work as a query
        return bool(holder)
    try:
        os.kill(int(holder["pid"]), 0)
    except (ProcessLookupError, KeyError, ValueError, TypeError, OverflowError):
        return False
    except OSError:  # the process belongs to another user
        return True
    return True
