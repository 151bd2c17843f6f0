"""A reader of IDX files, plain or packed by gzip, which checks the promised size before it takes memory.

A file is two zero bytes, the type of its numbers, the number of sizes, the sizes as four bytes each, most significant
first, and the numbers.
"""

import gzip
import hashlib
import math
from collections.abc import Iterator
from contextlib import ExitStack
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, cast

import numpy as np

from onelayer.data.untrusted.reading import FREE_BYTES, MAX_RATIO, reading, require_file
from onelayer.errors import DataError

_UNSIGNED_BYTES = 8  # the type of the numbers, as the format numbers it
_BLOCK_BYTES = 2**20


class IdxFile:
    """An open IDX file of unsigned bytes, whose header agrees with the size of the file.

    Parameters
    ----------
    path : Path
    stack : ExitStack
        Closes the file.

    Attributes
    ----------
    sizes : tuple of int
        The shape of the numbers.
    length : int
        Bytes of the file.
    packed : bool
        Whether it is packed by gzip.

    Raises
    ------
    DataError
        If it is not an IDX file of unsigned bytes, or its header promises more numbers than the file can hold.
    """

    def __init__(self, path: Path, stack: ExitStack) -> None:
        self.path = path
        with reading(path):
            require_file(path)
            self.length = path.stat().st_size
            raw = stack.enter_context(path.open("rb"))
            self.packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            self.stored = _Hashed(raw)
            source = cast(BinaryIO, self.stored)
            self.source = gzip.GzipFile(fileobj=source, mode="rb") if self.packed else source
            self.header = self.source.read(4)
            if self.header[:3] != bytes((0, 0, _UNSIGNED_BYTES)) or len(self.header) < 4:
                raise DataError(f"{path}: is not an IDX file of unsigned bytes")
            self.header += self.source.read(4 * self.header[3])
            if len(self.header) < 4 + 4 * self.header[3]:
                raise DataError(f"{path}: is cut off within its header; fetch it again")
        self.sizes = tuple(int.from_bytes(self.header[at : at + 4]) for at in range(4, len(self.header), 4))
        promised, given = math.prod(self.sizes), self.length - len(self.header)
        words = f"{path}: its header promises {self.in_words} numbers"
        if self.packed and promised > FREE_BYTES + MAX_RATIO * self.length:
            raise DataError(f"{words}, in a file of {self.length:,} bytes; refused as a bomb")
        if not self.packed and promised != given:
            raise DataError(f"{words}, but {given:,} bytes follow; fetch it again")
        self.numbers = np.empty(0, np.uint8)

    @property
    def in_words(self) -> str:
        """The shape of the numbers as people read it: 60,000 x 28 x 28."""
        return " x ".join(f"{size:,}" for size in self.sizes)

    def read(self, numbers: np.ndarray) -> Iterator[int]:
        """Fill an array of the promised size, block by block; yield the bytes of the file that have been read."""
        at = 0
        with reading(self.path):
            while at < len(numbers):
                block = self.source.read(min(_BLOCK_BYTES, len(numbers) - at))
                if not block:
                    raise DataError(f"{self.path}: is cut off after {at:,} of {self.in_words} numbers; fetch it again")
                numbers[at : at + len(block)] = np.frombuffer(block, np.uint8)
                at += len(block)
                yield self.stored.done
            if self.source.read(1):
                raise DataError(f"{self.path}: holds more than the {self.in_words} numbers that its header promises")
        self.numbers = numbers

    @property
    def md5(self) -> str:
        """MD5 of the file, once it has been read."""
        return self.stored.digest.hexdigest()

    @cached_property
    def plain_md5(self) -> str:
        """MD5 of the unpacked file, once it has been read."""
        if not self.packed:
            return self.md5
        digest = hashlib.md5(self.header, usedforsecurity=False)
        digest.update(self.numbers.data)
        return digest.hexdigest()


class _Hashed:
    """A file that is hashed as it is read."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw = raw
        self.digest = hashlib.md5(usedforsecurity=False)
        self.done = 0

    def read(self, size: int) -> bytes:
        content = self.raw.read(size)
        self.digest.update(content)
        self.done += len(content)
        return content
