"""A simulated failing disk, with which crash tests replace the functions of charlstm.runs.disk."""

import errno
import os
from pathlib import Path

from charlstm.runs import disk

CALLS = (
    "create", "append", "write_some", "sync", "close", "replace", "hard_link", "remove", "cut", "make_folder",
    "sync_folder",
)  # fmt: skip


class Died(BaseException):
    """The simulated process has died; nothing that it does afterwards reaches the disk."""


class Disk:
    """Counts the calls, and makes call number `at` fail.

    `fault` is "die before" or "die after" the call; "die within", which writes only half; "power", which dies after the
    call and undoes everything that was not synchronised, so that contents become zeros and names revert; or an errno,
    which fails that call and, if it `stays`, every later call that needs disk space. A dishonest disk reports success
    for a synchronisation that it has not made.
    """

    def __init__(self, patch, scratch, at=0, fault="die before", stays=False, is_honest=True):
        self.at, self.fault, self.stays = at, fault, stays
        self.count, self.is_dead, self._scratch, self._is_honest = 0, False, scratch, is_honest
        self._written, self._names = {}, []
        for name in CALLS:
            patch.setattr(disk, name, self._wrapped(name, getattr(disk, name)))

    def _wrapped(self, name, real):
        def call(*arguments):
            if self.is_dead:
                raise Died
            self.count += 1
            if self.count == self.at:
                return self._go_wrong(name, real, arguments)
            if self.stays and self.count > self.at > 0 and name in ("write_some", "create", "hard_link"):
                raise OSError(self.fault, os.strerror(self.fault))
            return self._made(name, real, arguments)

        return call

    def _go_wrong(self, name, real, arguments):
        if isinstance(self.fault, int):
            raise OSError(self.fault, os.strerror(self.fault))
        if self.fault == "die within" and name == "write_some":
            descriptor, data = arguments
            real(descriptor, data[: len(data) // 2])
        elif self.fault in ("die after", "power"):
            self._made(name, real, arguments)
        self.is_dead = True
        if self.fault == "power":
            self._lose_what_is_not_synchronised()
        raise Died

    # ------------------------------------------------------------------------- synchronised and lost changes
    def _made(self, name, real, arguments):
        """Make the call, and record what a power cut would undo."""
        before = self._note_names(name, arguments) if self.fault == "power" else None
        result = real(*arguments)
        if self.fault != "power":
            return result
        if before:
            self._names.append(before)
        if name in ("create", "append"):
            self._written[result] = [os.open(arguments[0], os.O_RDWR), os.stat(arguments[0]).st_size]
        elif name == "sync" and self._is_honest:
            self._written[arguments[0]][1] = os.fstat(arguments[0]).st_size
        elif name == "close":  # the file number may be reused; the file is still not synchronised
            self._written[object()] = self._written.pop(arguments[0])
        elif name == "sync_folder" and self._is_honest:
            self._names = [undo for undo in self._names if undo[0] != Path(arguments[0])]
        return result

    def _note_names(self, name, arguments):
        """Return the folder whose names change, and copies to undo it: (folder, [(path, copy or None), ...])."""
        paths = {
            "create": arguments[:1],
            "append": arguments[:1],
            "replace": arguments,
            "hard_link": arguments[1:],
            "remove": arguments,
        }.get(name)
        return paths and (Path(paths[0]).parent, [(Path(path), self._kept(Path(path))) for path in paths])

    def _kept(self, path):
        """Preserve a file under a second name and return that name; None if there is no file."""
        if not path.exists():
            return None
        kept = self._scratch / f"{len(self._names)}-{self.count}-{path.name}"
        kept.unlink(missing_ok=True)
        os.link(path, kept)
        return kept

    def _lose_what_is_not_synchronised(self):
        for descriptor, synchronised in self._written.values():
            size = os.fstat(descriptor).st_size
            if size > synchronised:
                os.pwrite(descriptor, bytes(size - synchronised), synchronised)
        for _, changes in reversed(self._names):
            for path, kept in changes:
                path.unlink(missing_ok=True)
                if kept is not None:
                    os.link(kept, path)


FULL = (errno.ENOSPC, errno.EIO, errno.EROFS)
