"""The folder for caches: the user's cache folder or, if there is none, a private temporary folder."""

import os
import stat
from pathlib import Path


def cache_dir() -> Path:
    """The folder of charlstm's caches, which need not exist.

    A container may have no HOME, a number without a name as its user, or a HOME that nobody can write to.
    """
    place = _users_own()
    if place is not None and _can_be_written(place):
        return place
    return _temporary() or place or Path("charlstm-cache")


def _users_own() -> Path | None:
    import platformdirs

    try:
        place = Path(platformdirs.user_cache_dir("charlstm", False))
    except (RuntimeError, KeyError):  # no HOME, and no entry in the list of users that would say where it is
        return None
    return place if place.is_absolute() else None  # "~/.cache" is what older versions of platformdirs give then


def _can_be_written(place: Path) -> bool:
    """Whether a folder can be written to, or made."""
    there = next(path for path in (place, *place.parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _temporary() -> Path | None:
    """A folder among the temporary files, made if need be; None if it belongs to somebody else, who could change it."""
    import tempfile

    user = getattr(os, "getuid", lambda: "user")()
    place = Path(tempfile.gettempdir()) / f"charlstm-cache-{user}"
    try:
        place.mkdir(mode=0o700, exist_ok=True)
        found = place.lstat()
    except OSError:
        return None
    is_ours = not hasattr(os, "getuid") or (found.st_uid == os.getuid() and not found.st_mode & 0o022)
    return place if stat.S_ISDIR(found.st_mode) and is_ours else None
