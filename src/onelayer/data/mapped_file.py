"""The file behind a memory map, to be read itself: the pages of a map cost the system more to find and to take back."""

import os
from pathlib import Path

import numpy as np

from onelayer.errors import DataError

MAPS = Path("/proc/self/maps")  # Linux alone says which file a map shows


class MappedFile:
    """The open file that rows in a memory map come from; to be closed.

    Parameters
    ----------
    descriptor : int
    name : str
        As messages print it.
    start : int
        The first byte of the first row.
    row_bytes : int
    """

    def __init__(self, descriptor: int, name: str, start: int, row_bytes: int) -> None:
        self._descriptor, self._name, self._start, self._row_bytes = descriptor, name, start, row_bytes

    @classmethod
    def of(cls, rows: np.ndarray) -> "MappedFile | None":
        """Open the file of rows (n, d); None where they are not alone, one after the other, or the system says no file.

        Rows of a map that keeps what is written to itself have none: the file has other rows.
        """
        if not rows.flags.c_contiguous or not MAPS.exists():
            return None
        begin = rows.ctypes.data
        with MAPS.open("rb") as lines:
            for line in lines:
                bounds, rights, offset, _, inode, *path = line[:-1].split(maxsplit=5)
                first, last = (int(bound, 16) for bound in bounds.split(b"-"))
                if first <= begin and begin + rows.nbytes <= last and rights.endswith(b"s") and path:
                    return cls._opened(path[0], int(inode), int(offset, 16) + begin - first, rows.strides[0])
        return None

    @classmethod
    def _opened(cls, path: bytes, inode: int, start: int, row_bytes: int) -> "MappedFile | None":
        try:
            descriptor = os.open(path, os.O_RDONLY)
        except OSError:  # it was deleted
            return None
        if os.fstat(descriptor).st_ino == inode:
            return cls(descriptor, os.fsdecode(path), start, row_bytes)
        os.close(descriptor)  # the path names another file by now
        return None

    def close(self) -> None:
        os.close(self._descriptor)

    def read(self, first: int, out: np.ndarray) -> None:
        """Read the rows from the place `first` on into `out` (k, d).

        Raises
        ------
        DataError
            If the file has become shorter.
        """
        left, place = out.data.cast("B"), self._start + first * self._row_bytes
        while left:
            got = os.preadv(self._descriptor, [left], place)
            if not got:
                raise DataError(f"{self._name} became shorter while it was read; load the data again")
            left, place = left[got:], place + got
