"""One process at a time writes in a run's folder: a file there is locked, and tells who has locked it.

The system's own lock on an open file decides; it ends with its process, however that came about. On a file system that
has none, the process named in the file does: one of this host that has ended is passed over, one elsewhere cannot be
asked, and is believed to go on.
"""

import json
import os
import platform
from pathlib import Path
from typing import Any

from charlstm.errors import UserError

LOCK = ".lock"
_FAR = 2**20  # the byte that Windows locks, where locking is by bytes: beyond what is to be read


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
        _write(self._descriptor, json.dumps(_me()).encode())

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
    try:
        if os.name == "nt":
            import msvcrt

            os.lseek(descriptor, _FAR, os.SEEK_SET)
            msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # type: ignore[attr-defined]
        else:
            import fcntl

            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except (BlockingIOError, PermissionError):
        return False
    except OSError:
        return None
    return True


def _me() -> dict[str, Any]:
    return {"pid": os.getpid(), "host": platform.node()}


def _read(descriptor: int) -> dict[str, Any]:
    """Who had the lock last and did not release it, as far as the file says."""
    os.lseek(descriptor, 0, os.SEEK_SET)
    try:
        holder = json.loads(os.read(descriptor, 1000))
    except ValueError:
        return {}
    return holder if isinstance(holder, dict) else {}


def _write(descriptor: int, data: bytes) -> None:
    os.lseek(descriptor, 0, os.SEEK_SET)
    os.write(descriptor, data)


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
