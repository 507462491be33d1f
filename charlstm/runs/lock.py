"""One process at a time writes in a run's folder: a file there is locked, and tells who has locked it.

The system's own lock on an open file, taken by the library filelock, decides; it ends with its process, however that
came about. On a file system that has none, the process named in the file does: one of this host that has ended is
passed over, one elsewhere cannot be asked, and is believed to go on.

filelock's own FileLock class is not used: it does not tell who holds a lock, and falls back on a second file only for
ENOSYS, where NFS says ENOLCK.
"""

import json
import os
import platform
from pathlib import Path
from typing import Any

from charlstm.errors import UserError

LOCK = ".lock"


class Lock:
    """A folder's lock, held until it is released, forgotten, or its process ends.

    Raises
    ------
    UserError
        If another process, or another Lock in this one, has it.
    OSError
        Where the folder cannot be written.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._descriptor: int | None = None
        self.acquire()

    def acquire(self) -> None:
        """Take it, unless it is held already; raises as the class says."""
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
            raise UserError(f"{self._folder}: in use by {who}: wait for it, or stop it; if it is gone, remove {path}")
        os.ftruncate(self._descriptor, 0)
        _write(self._descriptor, _me())

    def release(self) -> None:
        """Let others have it. Nothing happens the second time."""
        if self._descriptor is not None:
            os.ftruncate(self._descriptor, 0)
            self._close()

    def _close(self) -> None:
        descriptor, self._descriptor = self._descriptor, None
        if descriptor is not None:
            os.close(descriptor)

    def __del__(self) -> None:
        self._close()


def _try_lock(descriptor: int) -> bool | None:
    """Whether the file is now locked by this process; None where the file system knows no locks."""
    from filelock import lock_descriptor

    try:
        return lock_descriptor(descriptor, blocking=False)
    except OSError:
        return None


def _me() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": platform.node()}


def _read(descriptor: int) -> dict[str, Any]:
    """Who had the lock last and did not release it, as far as the file says."""
    try:
        try:
            content = _content(descriptor, 0)
        except PermissionError:  # Windows: nobody else reads the byte that is locked, the first one
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
    os.write(descriptor, b" " + json.dumps(holder).encode())  # a blank, which may be missing: see _read


def _goes_on(holder: dict[str, Any]) -> bool:
    """Whether the process that the file names may still be there."""
    if not holder or holder.get("host") != platform.node() or os.name == "nt":  # where signal 0 is no question
        return bool(holder)
    try:
        os.kill(int(holder["pid"]), 0)
    except (ProcessLookupError, KeyError, ValueError, TypeError, OverflowError):
        return False
    except OSError:  # it is another user's
        return True
    return True
