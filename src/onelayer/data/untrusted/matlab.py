"""A reader of the numbers and texts in a MATLAB file of version 5 to 7.

scipy reads these files too, but trusts the sizes that a file claims: damaged files crashed the process (scipy 1.17). A
batch needs little of the format, so it is read here, and each size is compared with the bytes that are there.
"""

import math
import zlib
from collections.abc import Iterator
from itertools import islice
from typing import Literal

import numpy as np

from onelayer.data.untrusted.reading import FREE_BYTES, MAX_FILE_BYTES, MAX_RATIO
from onelayer.errors import DataError

# Data types of an element, and classes of an array, as the format numbers them.
_MATRIX, _COMPRESSED = 14, 15
_STORED = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXTS = {1: "utf-8", 2: "utf-8", 16: "utf-8", 4: "utf-16", 17: "utf-16", 18: "utf-32"}
_CELL, _CHAR = 1, 4
_NUMBERS = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}
_COMPLEX = 0x0800  # a flag
_MAX_CELLS = 100  # the number of CIFAR-100's classes; a bomb could hold millions of cells

Value = np.ndarray | list[str]


def read_matlab(content: bytes, wanted: tuple[str, ...], name: str) -> dict[str, Value]:
    """Read variables that are arrays of numbers, or cell arrays of texts.

    Parameters
    ----------
    content : bytes
        The whole file.
    wanted : tuple of str
        The variables to read.
    name : str
        The name of the file in messages.

    Returns
    -------
    dict
        The wanted variables: numbers as an array with the shape in the file, a cell array as a list.

    Raises
    ------
    DataError
        If the file is damaged, is a bomb, lacks a variable, or holds something else under the variable's name.
    """
    if len(content) < 128 or content[126:128] not in (b"IM", b"MI"):
        raise DataError(f"{name}: is not a MATLAB file of version 5 to 7; save it with -v7 in MATLAB")
    return _Reader("little" if content[126:128] == b"IM" else "big", name).variables(memoryview(content)[128:], wanted)


class _Reader:
    def __init__(self, order: Literal["little", "big"], name: str) -> None:
        self.order = order
        self.name = name

    def variables(self, content: memoryview, wanted: tuple[str, ...]) -> dict[str, Value]:
        found: dict[str, Value] = {}
        left = min(MAX_FILE_BYTES, FREE_BYTES + MAX_RATIO * len(content))
        for kind, element in self.elements(content):
            if kind == _COMPRESSED:
                inflated = self.inflate(element, left)
                left -= len(inflated)
                kind, element = next(self.elements(inflated), (0, inflated))
            parts = self.parts(element) if kind == _MATRIX else []
            if len(parts) < 3:
                raise DataError(f"{self.name}: is damaged: a variable has no contents")
            variable = bytes(parts[2][1][:100]).decode("latin-1")
            if variable in found:
                raise DataError(f"{self.name}: holds {variable} twice")
            if variable in wanted:
                found[variable] = self.value(parts, variable)
        for variable in wanted:
            if variable not in found:
                raise DataError(f"{self.name}: holds no {variable}")
        return found

    def value(self, parts: list[tuple[int, memoryview]], variable: str) -> Value:
        class_, flags = self.array_class(parts)
        if class_ == _CELL:
            return [self.text(cell) for _, cell in parts[3:]]
        if class_ not in _NUMBERS or flags & _COMPLEX or len(parts) != 4:
            raise DataError(f"{self.name}: {variable} is not an array of real numbers or a cell array of texts")
        shape = np.frombuffer(parts[1][1], self.dtype("i4")).tolist() if len(parts[1][1]) % 4 == 0 else []
        stored, content = parts[3]
        of_class = self.dtype(_NUMBERS[class_])
        dtype = self.dtype(_STORED.get(stored, "u1"))  # whole numbers of any class may be stored in a smaller type
        if (dtype != of_class and dtype.kind == "f") or not 1 <= len(shape) <= 4 or min(shape) < 0:
            raise DataError(f"{self.name}: is damaged: {variable} is of a strange type or shape")
        if math.prod(shape) * dtype.itemsize != len(content):
            raise DataError(f"{self.name}: is damaged: {variable} of shape {tuple(shape)} has {len(content)} bytes")
        if math.prod(shape) * of_class.itemsize > MAX_FILE_BYTES:  # a byte may stand for eight
            raise DataError(f"{self.name}: {variable} is more than {MAX_FILE_BYTES >> 20} MiB; refused")
        if not len(content):
            return np.zeros(0, of_class)
        return np.frombuffer(content, dtype).astype(of_class, copy=False).reshape(shape, order="F")

    def text(self, matrix: memoryview) -> str:
        """Return the text in a cell, or an empty text if the cell holds something else."""
        parts = self.parts(matrix)
        if self.array_class(parts)[0] != _CHAR or len(parts) != 4 or parts[3][0] not in _TEXTS:
            return ""
        encoding = _TEXTS[parts[3][0]]
        if encoding != "utf-8":
            encoding += "-le" if self.order == "little" else "-be"
        return bytes(parts[3][1]).decode(encoding, "replace")

    def parts(self, matrix: memoryview) -> list[tuple[int, memoryview]]:
        """Return the class, shape, name and contents of an array, with no more cells than there can be classes."""
        return list(islice(self.elements(matrix), 3 + _MAX_CELLS))

    def array_class(self, parts: list[tuple[int, memoryview]]) -> tuple[int, int]:
        """Return the class and the flags of an array."""
        flags = int.from_bytes(parts[0][1][:4], self.order) if len(parts) > 2 else 0
        return flags & 0xFF, flags

    def dtype(self, code: str) -> np.dtype:
        return np.dtype(("<" if self.order == "little" else ">") + code)

    def inflate(self, content: memoryview, limit: int) -> memoryview:
        inflater = zlib.decompressobj()
        try:
            inflated = inflater.decompress(content, max(limit, 1))  # 0 would mean no limit
        except zlib.error as error:
            raise DataError(f"{self.name}: is damaged ({error})") from None
        if not inflater.eof:
            raise DataError(f"{self.name}: is cut off, or a bomb of more than {limit >> 20} MiB")
        return memoryview(inflated)

    def elements(self, content: memoryview) -> Iterator[tuple[int, memoryview]]:
        """Yield the data type and the bytes of each element in `content`."""
        at = 0
        while at < len(content):
            tag = int.from_bytes(content[at : at + 4], self.order)
            if small := tag >> 16:  # type and size share four bytes, and the data are the next four
                kind, size, start, end = tag & 0xFFFF, small, at + 4, at + 8
            else:
                kind, size, start = tag, int.from_bytes(content[at + 4 : at + 8], self.order), at + 8
                end = start + size if kind == _COMPRESSED else start + -(-size // 8) * 8
            if start + size > len(content) or small > 4:
                raise DataError(f"{self.name}: is damaged or cut off")
            yield kind, content[start : start + size]
            at = end
