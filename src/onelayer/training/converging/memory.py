"""Memory for the large arrays of an iteration, which is used again.

Memory that comes new from the system is filled with zeros first, page by page, which takes longer than many a sweep
over it.
"""

import math
import sys

import numpy as np

LARGE = 2**20  # bytes from which it is worth the trouble


class Memory:
    """Arrays for one owner, such as the scores of all rows."""

    def __init__(self) -> None:
        self._blocks: list[np.ndarray] = []
        self._unused = 0  # references to a block without users

    def empty(self, shape: tuple[int, ...], dtype: np.dtype) -> np.ndarray:
        """Return an array with arbitrary numbers; its memory is used again once nobody has it, nor a view of it."""
        size = math.prod(shape) * np.dtype(dtype).itemsize
        if size < LARGE:
            return np.empty(shape, dtype)
        place = next((i for i in range(len(self._blocks)) if self._blocks[i].nbytes == size and self._free(i)), None)
        if place is None:
            self._blocks = [self._blocks[i] for i in range(len(self._blocks)) if not self._free(i)]  # of other sizes
            self._blocks.append(np.empty(size, np.uint8))
            place, self._unused = -1, self._references(-1)
        return self._blocks[place].view(dtype).reshape(shape)

    def _free(self, place: int) -> bool:
        return self._references(place) == self._unused

    def _references(self, place: int) -> int:
        return sys.getrefcount(self._blocks[place])  # every view of an array refers to the array itself
