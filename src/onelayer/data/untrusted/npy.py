"""A reader of arrays in .npy files and in the .npy members of a .npz file, which is a zip archive.

Nothing is unpickled. The size that a header promises is compared with the bytes that are there before anything is
mapped or memory is taken for it.
"""

import io
import math
import tokenize
import warnings
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import IO

import numpy as np

from onelayer.data.untrusted.reading import FREE_BYTES, MAX_RATIO, reading, require_file
from onelayer.errors import DataError
from onelayer.words import printable

_BLOCK_BYTES = 4 * 2**20  # read at a time
_HEADER_BYTES = 2**15  # NumPy itself takes no header above 10,000
_MAX_READ = 2**23  # bytes that zipfile may read at once; it reads the list of members in one piece
_ZIP_HEADER = 30  # bytes of a member's own header, before its name


@dataclass(frozen=True)
class StoredArray:
    """An array in a file. Only its header has been read.

    Parameters
    ----------
    path : Path
        The file.
    name : str
        The name of the array in messages.
    dtype : dtype
        A type without Python objects.
    shape : tuple of int
        All sizes are at least 1.
    fortran : bool
        Whether its first index varies fastest.
    offset : int
        The place of the first number in the file, or in the compressed member.
    member : str or None
        The name of the compressed member that holds it; None if it can be mapped.
    """

    path: Path
    name: str
    dtype: np.dtype
    shape: tuple[int, ...]
    fortran: bool
    offset: int
    member: str | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of the numbers."""
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def obstacle(self) -> str | None:
        """The reason why training cannot read the numbers from a map of the file; None if it can."""
        if self.member is not None:
            return "they are compressed"
        if self.fortran:
            return "they are in Fortran order"
        if not self.dtype.isnative:
            return "their bytes are in the opposite order"
        if self.offset % self.dtype.alignment:
            return "a .npz file does not align them; a .npy file needs no copy"
        return None

    def map(self) -> np.ndarray:
        """Return a read-only memory map of an array that is not compressed."""
        order = "F" if self.fortran else "C"
        return np.memmap(self.path, self.dtype, "r", self.offset, self.shape, order)  # type: ignore[call-overload]

    def blocks(self) -> Iterator[np.ndarray]:
        """Return the array, a few of its rows at a time.

        Raises
        ------
        DataError
            If it is damaged, which may be found only at the end.
        """
        count = max(1, _BLOCK_BYTES * self.shape[0] // self.nbytes)
        if self.member is None:
            whole = self.map()
            yield from (whole[start : start + count] for start in range(0, len(whole), count))
            return
        if self.fortran:
            count = self.shape[0]  # no row is complete before the end
        with _open_zip(self.path) as (_, archive), archive.open(self.member) as member:
            member.read(self.offset)
            for start in range(0, self.shape[0], count):
                shape = (min(count, self.shape[0] - start), *self.shape[1:])
                content = self._read(member, math.prod(shape) * self.dtype.itemsize)
                yield np.frombuffer(content, self.dtype).reshape(shape, order="F" if self.fortran else "C")

    def _read(self, member: IO[bytes], size: int) -> bytearray:
        content = bytearray()
        while len(content) < size:
            piece = member.read(min(_BLOCK_BYTES, size - len(content)))
            if not piece:
                raise DataError(f"{self.name}: is cut off")
            content += piece
        return content


def open_npy(path: Path) -> StoredArray:
    """Read the header of a .npy file.

    Raises
    ------
    DataError
        If it is missing, not a .npy file, damaged or empty, or holds Python objects.
    """
    with reading(path):
        require_file(path)
        with path.open("rb") as file:
            head = file.read(_HEADER_BYTES)
        return _stored(path, str(path), head, path.stat().st_size, 0)


class Npz:
    """The arrays in a .npz file.

    Parameters
    ----------
    path : Path

    Raises
    ------
    DataError
        If it cannot be read, is damaged, or holds something else than arrays.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        require_file(path)
        with _open_zip(path) as (_, archive):
            members = archive.infolist()
            self._end = archive.start_dir
        self._members: dict[str, zipfile.ZipInfo] = {}
        for member in members:
            where = f"{path}: member {printable(member.filename)}"
            if not member.filename.endswith(".npy"):
                raise DataError(f"{where} is not an array; a .npz file holds only .npy files")
            if member.flag_bits & 1:
                raise DataError(f"{where} is encrypted; save it without a password")
            if member.compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise DataError(f"{where} is compressed in a way that NumPy does not use; save it with numpy.savez")
            if member.filename in self._members:
                raise DataError(f"{where} occurs twice; write the file again with numpy.savez")
            self._members[member.filename] = member
        # Members that share their bytes could be a bomb.
        in_order = sorted(members, key=lambda member: member.header_offset)
        starts = [*(member.header_offset for member in in_order), self._end]
        self._ends = dict(zip((member.filename for member in in_order), starts[1:], strict=True))
        for member, (start, end) in zip(in_order, pairwise(starts), strict=True):
            if start + _ZIP_HEADER + member.compress_size > end:
                raise DataError(f"{path}: is damaged: its members overlap; write it again with numpy.savez")

    @property
    def names(self) -> list[str]:
        """The names of the arrays, as `numpy.savez` was given them."""
        return [name.removesuffix(".npy") for name in self._members]

    def open(self, name: str) -> StoredArray:
        """Read the header of one of the arrays.

        Raises
        ------
        DataError
            As `open_npy` does, and if it could be a bomb.
        """
        member = self._members[f"{name}.npy"]
        shown = f"{self._path}: {printable(name)}"
        with _open_zip(self._path) as (file, archive):
            with archive.open(member) as content:
                head = content.read(_HEADER_BYTES)
            file.seek(member.header_offset)
            local = file.read(_ZIP_HEADER)
        start = member.header_offset + _ZIP_HEADER
        start += int.from_bytes(local[26:28], "little") + int.from_bytes(local[28:30], "little")  # name and more
        if start + member.compress_size > self._ends[member.filename]:
            raise DataError(f"{shown}: is damaged: it overlaps the next member")
        if member.compress_type == zipfile.ZIP_STORED:
            if member.compress_size != member.file_size:
                raise DataError(f"{shown}: is damaged: its two sizes differ")
            return _stored(self._path, shown, head, member.file_size, start)
        if member.file_size > FREE_BYTES + MAX_RATIO * member.compress_size:
            raise DataError(
                f"{shown}: decompresses to more than {MAX_RATIO} times its size; refused, as it could be a bomb; "
                "if you made it, save it uncompressed, with numpy.savez"
            )
        return _stored(self._path, shown, head, member.file_size, None, member.filename)


class _Careful(io.FileIO):
    """A file that refuses to read a huge part at once, such as a list of a billion members for zipfile."""

    def read(self, size: int | None = -1, /) -> bytes:
        if size is None or size < 0:  # zipfile reads the rest of the file near its end
            size = _MAX_READ
        if size > _MAX_READ:
            raise zipfile.BadZipFile("its list of members is too long")
        return super().read(size)


@contextmanager
def _open_zip(path: Path) -> Iterator[tuple[IO[bytes], zipfile.ZipFile]]:
    """Open a file and the archive in it; turn the errors of zipfile on a damaged one into a DataError."""
    try:
        with _Careful(path) as file, zipfile.ZipFile(file) as archive:
            yield file, archive
    except (zipfile.BadZipFile, zlib.error, EOFError) as error:
        raise DataError(f"{path}: is damaged or not a .npz file ({printable(str(error))})") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, LookupError, ArithmeticError, TypeError, RuntimeError) as error:  # on odd headers
        raise DataError(f"{path}: is damaged: a header makes no sense ({type(error).__name__})") from None


def _stored(path: Path, name: str, head: bytes, size: int, start: int | None, member: str | None = None) -> StoredArray:
    """Return the array whose header begins `head`; both take `size` bytes from `start` in the file on."""
    stream = io.BytesIO(head)  # a header that claims a huge length then takes no memory
    readers = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # NumPy warns of headers that Python 2 wrote
            shape, fortran, dtype = readers[np.lib.format.read_magic(stream)](stream)
    except (
        *(ValueError, LookupError, TypeError, ArithmeticError, AttributeError),
        *(SyntaxError, RecursionError, MemoryError, tokenize.TokenError),
    ) as error:
        reason = printable(str(error).split("\n")[0])
        raise DataError(f"{name}: is damaged or not a .npy file ({reason})") from None
    if dtype.hasobject:
        raise DataError(
            f"{name}: holds Python objects, which are not loaded, as they can run any program; "
            "save numbers, or strings with numpy.array(labels, str)"
        )
    offset, count = stream.tell(), math.prod(shape)
    if min(shape, default=1) < 0 or len(shape) > 32 or offset + count * dtype.itemsize != size:
        promised = f"shape {shape} of {dtype}"
        raise DataError(f"{name}: is damaged: its header promises the {printable(promised)}, not its real size")
    if count * dtype.itemsize == 0:
        raise DataError(f"{name}: is empty: its shape is {printable(str(shape))}")
    return StoredArray(path, name, dtype, shape, fortran, offset + (start or 0), member)
