"""A reader of the arrays in .safetensors files, and in .pt files of PyTorch by its own loader of weights alone."""

import json
import math
import re
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from operator import index
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onelayer.data.untrusted.npy import StoredArray
from onelayer.data.untrusted.reading import FREE_BYTES, MAX_RATIO, reading, require_file
from onelayer.errors import DataError
from onelayer.words import printable

if TYPE_CHECKING:
    import torch

_MOST_HEADER = 10**8  # bytes, as the library of safetensors allows
_TYPES = {
    **{"BF16": "<u2", "F16": "<f2", "F32": "<f4", "F64": "<f8", "U8": "|u1", "I8": "|i1"},
    **{"I16": "<i2", "I32": "<i4", "I64": "<i8", "U16": "<u2", "U32": "<u4", "U64": "<u8"},
}
SAFE_TORCH = (2, 6)  # the first whose loader of weights alone was mended (CVE-2025-32434)


class Safetensors:
    """The arrays in a .safetensors file. Only the header is read.

    Parameters
    ----------
    path : Path

    Raises
    ------
    DataError
        If it cannot be read or is damaged.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        with reading(path):
            require_file(path)
            size = path.stat().st_size
            with path.open("rb") as file:
                length = int.from_bytes(file.read(8), "little")
                if not 2 <= length <= min(_MOST_HEADER, size - 8):
                    raise DataError(f"{path}: is damaged or not a safetensors file: its header has no proper length")
                head = file.read(length)
        self._start, self._bytes = 8 + length, size - 8 - length
        try:
            self._arrays: dict[str, Any] = {**json.loads(head)}
        except (ValueError, TypeError, RecursionError):
            raise DataError(f"{path}: is damaged or not a safetensors file: its header is not a JSON object") from None
        found = self._arrays.pop("__metadata__", None)
        self._metadata = found if isinstance(found, dict) else {}

    @property
    def metadata(self) -> dict[str, str]:
        """The texts by name that the file holds beside the arrays."""
        return {name: text for name, text in self._metadata.items() if isinstance(text, str)}

    @property
    def names(self) -> list[str]:
        """The names of the arrays."""
        return list(self._arrays)

    def open(self, name: str) -> StoredArray:
        """Return one of the arrays.

        Raises
        ------
        DataError
            If it has a type that NumPy lacks, is empty, or does not lie in the file.
        """
        shown = f"{self._path}: {printable(name)}"
        try:
            entry = self._arrays[name]
            kind, shape = str(entry["dtype"]), tuple(map(index, entry["shape"]))
            begin, end = map(index, entry["data_offsets"])
        except (KeyError, TypeError, ValueError):
            raise DataError(f"{shown}: is damaged: its header makes no sense") from None
        if kind not in _TYPES:
            raise DataError(f"{shown}: is {printable(kind, 20)}; save features as F16, BF16 or F32, and labels as I64")
        dtype = np.dtype(_TYPES[kind])
        if min(shape, default=1) < 0 or len(shape) > 32 or not 0 <= begin <= end <= self._bytes:
            raise DataError(f"{shown}: is damaged: it does not lie in the file")
        if math.prod(shape) * dtype.itemsize != end - begin:
            raise DataError(f"{shown}: is damaged: its shape {printable(str(shape))} does not fit its size")
        if begin == end:
            raise DataError(f"{shown}: is empty: its shape is {printable(str(shape))}")
        stored = StoredArray(self._path, shown, dtype, shape, False, self._start + begin)
        return BFloat16Array.of(stored) if kind == "BF16" else stored


@dataclass(frozen=True)
class BFloat16Array(StoredArray):
    """An array of bfloat16, which NumPy lacks. Its blocks are float32 and have the same values.

    Parameters
    ----------
    halves : StoredArray
        The numbers as uint16: the upper halves of the bits of float32.
    """

    halves: StoredArray = None  # type: ignore[assignment]  # a field after those with defaults

    @classmethod
    def of(cls, halves: StoredArray) -> "BFloat16Array":
        """Return the array with these numbers."""
        dtype = np.dtype(np.float32)
        return cls(halves.path, halves.name, dtype, halves.shape, halves.fortran, halves.offset, halves=halves)

    @property
    def obstacle(self) -> str:
        return "they are bfloat16, which NumPy lacks"

    def blocks(self) -> Iterator[np.ndarray]:
        for block in self.halves.blocks():
            wide = block.astype(np.uint32)
            wide <<= 16
            yield wide.view(np.float32)


@dataclass(frozen=True)
class LoadedArray(StoredArray):
    """An array in memory.

    Parameters
    ----------
    values : ndarray
    """

    values: np.ndarray = None  # type: ignore[assignment]  # a field after those with defaults

    def map(self) -> np.ndarray:
        return self.values


class TorchFile:
    """The tensors in a .pt file: a mapping of names to tensors, or one tensor, which has the name of the file.

    Parameters
    ----------
    path : Path

    Raises
    ------
    DataError
        If PyTorch 2.6 or newer is not installed, or the file holds something else than tensors.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        require_file(path)
        try:
            import torch
        except ImportError:
            raise DataError(f"{path}: .pt files need PyTorch 2.6 or newer: pip install torch") from None
        found = re.match(r"(\d+)\.(\d+)", torch.__version__)
        if not found or tuple(map(int, found.groups())) < SAFE_TORCH:
            raise DataError(
                f"{path}: PyTorch {torch.__version__} can run a program in a .pt file; install 2.6 or newer"
            )
        try:
            self._refuse_bomb("the archive", _unpacked(path))
            content = torch.load(path, map_location="cpu", weights_only=True)
        except DataError:
            raise
        except Exception as error:  # a damaged file can make it raise any error
            reason = printable(str(error).strip().partition("\n")[0], 200)
            raise DataError(
                f"{path}: is damaged, or holds other objects than tensors, which can run any program ({reason}); "
                "save tensors with torch.save"
            ) from None
        named = {path.stem: content} if isinstance(content, torch.Tensor) else content
        if not isinstance(named, dict) or not named:
            raise DataError(f"{path}: holds a {type(content).__name__}; save a tensor, or a dict of names and tensors")
        self._arrays: dict[str, StoredArray] = {}
        size = 0
        for name, tensor in named.items():
            if not isinstance(tensor, torch.Tensor) or not isinstance(name, str):
                raise DataError(f"{path}: {printable(str(name))} is not a tensor; save tensors only")
            size += tensor.numel() * tensor.element_size()  # those that repeat a number have few bytes in the file
            self._refuse_bomb(name, size)
            self._arrays[name] = _of_tensor(path, name, tensor)

    def _refuse_bomb(self, name: str, size: int) -> None:
        stored = self._path.stat().st_size
        if size > FREE_BYTES + MAX_RATIO * stored:
            raise DataError(
                f"{self._path}: {printable(name)} claims {size:,} bytes in {stored:,}; refused as a bomb; if you made "
                "it, save tensor.contiguous() with torch.save"
            )

    @property
    def names(self) -> list[str]:
        """The names of the tensors."""
        return list(self._arrays)

    def open(self, name: str) -> StoredArray:
        """Return one of the tensors."""
        array = self._arrays[name]
        if not array.nbytes:
            raise DataError(f"{array.name}: is empty: its shape is {array.shape}")
        return array


def _unpacked(path: Path) -> int:
    """Return the bytes of all members of a zip archive; 0 if a file is not one."""
    if not zipfile.is_zipfile(path):
        return 0
    with zipfile.ZipFile(path) as archive:
        return sum(member.file_size for member in archive.infolist())


def _of_tensor(path: Path, name: str, tensor: "torch.Tensor") -> StoredArray:
    import torch

    shown = f"{path}: {printable(name)}"
    halved = tensor.dtype == torch.bfloat16
    tensor = tensor.detach()
    try:
        values = (tensor.view(torch.int16) if halved else tensor).contiguous().numpy()
    except (TypeError, RuntimeError):  # of a type that NumPy lacks, or sparse
        kind = printable(f"{tensor.dtype}, {tensor.layout}")
        raise DataError(f"{shown}: is {kind}; save a dense tensor of float16, bfloat16 or float32, or labels") from None
    values = values.view(np.uint16) if halved else values
    array = LoadedArray(path, shown, values.dtype, values.shape, False, 0, values=values)
    return BFloat16Array.of(array) if halved else array
