"""Ids in a file, of which a process maps only the parts that it reads."""

import os
import weakref
from typing import Any

import numpy as np

SMALL = 2**22  #: a slice of at most so many ids is an array


class Filed:
    """Ids (M,) in a file, read-only. A slice is an array if it is small, else another Filed; np.asarray maps it.

    The file stays open, so it can be read even if its name is removed.

    Parameters
    ----------
    path, dtype : the file, and the type of its ids
    """

    ndim = 1

    def __init__(self, path: str | os.PathLike[str], dtype: np.dtype) -> None:
        self.dtype = dtype
        self._file = open(path, "rb")  # noqa: SIM115  it is closed with the last slice
        self._whole: Filed | None = None
        weakref.finalize(self, self._file.close)
        self._begin, self._end = 0, os.fstat(self._file.fileno()).st_size // dtype.itemsize

    def __len__(self) -> int:
        return self._end - self._begin

    @property
    def nbytes(self) -> int:
        """Bytes of the ids."""
        return len(self) * self.dtype.itemsize

    def __getitem__(self, where: Any) -> Any:
        if not isinstance(where, slice) or where.step not in (None, 1):
            return np.asarray(self)[where]
        begin, end, _ = where.indices(len(self))
        part = Filed.__new__(Filed)
        part.dtype, part._file, part._whole = self.dtype, self._file, self._whole or self
        part._begin, part._end = self._begin + begin, self._begin + max(begin, end)
        return part if len(part) > SMALL else np.asarray(part)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        if not len(self):
            return np.empty(0, dtype or self.dtype)
        offset = self._begin * self.dtype.itemsize
        found = np.asarray(np.memmap(self._file, self.dtype, "r", offset, (len(self),)))
        return found.astype(found.dtype if dtype is None else dtype, copy=bool(copy))

    def __eq__(self, other: object) -> bool:
        raise TypeError("compare np.asarray of these ids, which maps them")

    __hash__ = None  # type: ignore[assignment]
