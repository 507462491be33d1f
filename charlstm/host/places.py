"""The cache folder, ours and matplotlib's: the user's own or, if that cannot be used, a private temporary folder."""

import os
import stat
import sys
from pathlib import Path


def cache_dir() -> Path:
    """Return the folder for charlstm's caches, which need not exist.

    In a container, HOME may be missing or read-only, and the user id may have no entry in the user database.
    """
    return _usable() or _temporary() or _users_own() or Path("charlstm-cache")


def settle_matplotlib() -> None:
    """Give matplotlib, before it is imported, a folder of ours if the user's own cannot be used.

    Otherwise it would warn, or create its folders in the working directory.
    """
    if "matplotlib" not in sys.modules and _usable() is None:
        os.environ.setdefault("MPLCONFIGDIR", str(cache_dir() / "matplotlib"))


def _usable() -> Path | None:
    """The user's own folder; None if there is none, or it can neither be written nor be created."""
    place = _users_own()
    return place if place is not None and _can_be_written(place) else None


def _users_own() -> Path | None:
    import platformdirs

    try:
        place = Path(platformdirs.user_cache_dir("charlstm", False))
    except (RuntimeError, KeyError):  # HOME is not set, and the user database has no entry for this user
        return None
    return place if place.is_absolute() else None  # older versions of platformdirs return "~/.cache" then


def _can_be_written(place: Path) -> bool:
    """Return whether a folder is writeable or can be created."""
    there = next(path for path in (place, *place.parents) if path.exists())
    return there.is_dir() and os.access(there, os.W_OK | os.X_OK)


def _temporary() -> Path | None:
    """Return a private temporary folder, created if needed; None if another user owns it or can write to it."""
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
