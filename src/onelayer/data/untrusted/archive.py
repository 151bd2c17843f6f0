"""Chosen files out of a folder or a tar archive, read into memory one at a time; nothing is unpacked to disk."""

import gzip
import tarfile
import zlib
from collections.abc import Callable, Collection, Generator, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from onelayer.errors import DataError

Progress = Callable[[int, int | None], None]
"""Called with the bytes done and the bytes in all (None where unknown)."""

MAX_FILE_BYTES = 256 * 2**20  # eight times an official batch
_MAX_HEADER_BYTES = 2**20  # of one member: tar allows headers that claim gigabytes
FREE_BYTES, MAX_RATIO = 16 * 2**20, 20  # images hardly compress; zeros do so a thousandfold


def file_at(path: Path) -> Path:
    """The path, or, where a folder has the place and the name of a file, the file of this name in it.

    Some programs unpack a file into a folder that is called as the file.
    """
    inner = path / path.name
    return inner if inner.is_file() else path


def read_members(path: Path, wanted: Collection[str], progress: Progress | None = None) -> Generator[tuple[str, bytes]]:
    """Read the wanted files that are there.

    Parameters
    ----------
    path : Path
        A folder, or an archive: .tar, or .tar.gz under any name.
    wanted : collection of str
        File names, without a folder.
    progress : callable or None
        Called with the bytes done and the bytes in all.

    Yields
    ------
    name : str
    content : bytes

    Raises
    ------
    DataError
        If something cannot be read, is damaged, or is none of an honest archive's business: a member outside its
        folder, a link, a device, a wanted file twice, a file of more than 256 MiB, or a bomb.
    """
    try:
        yield from (_folder if path.is_dir() else _archive)(path, wanted, progress or (lambda done, total: None))
    except tarfile.TarError as error:
        raise DataError(f"{path}: is damaged or no tar archive ({error})") from None
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: is damaged or cut off ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    except (ValueError, LookupError, ArithmeticError, TypeError, RecursionError) as error:  # of tarfile, on odd headers
        raise DataError(f"{path}: is damaged: a tar header makes no sense ({type(error).__name__})") from None


def _folder(path: Path, wanted: Collection[str], progress: Progress) -> Iterator[tuple[str, bytes]]:
    places = [file_at(path / name) for name in wanted]
    present = [place for place in places if place.exists() and not place.is_dir()]
    sizes = [file.stat().st_size for file in present]
    done = 0
    for file, size in zip(present, sizes, strict=True):
        if not file.is_file():
            raise DataError(f"{file}: is not a file")
        _check_size(str(file), size)
        yield file.name, file.read_bytes()
        done += size
        progress(done, sum(sizes))


def _archive(path: Path, wanted: Collection[str], progress: Progress) -> Iterator[tuple[str, bytes]]:
    if path.exists() and not path.is_file():  # to open a pipe would wait for ever
        raise DataError(f"{path}: is neither a folder nor a file")
    seen = set()
    with path.open("rb") as raw:
        total = path.stat().st_size
        stream = _Guarded(path, raw)
        with tarfile.open(fileobj=cast(BinaryIO, stream), mode="r|", bufsize=2**16) as tar:
            while member := _next_member(tar, stream):
                _check_member(path, member)
                name = PurePosixPath(member.name).name
                if member.isreg() and name in wanted:
                    if name in seen:
                        raise DataError(f"{path}: holds {name} twice")
                    seen.add(name)
                    yield name, _content(path, tar, member)
                progress(raw.tell(), total)
        stream.limit = None
        while stream.read(2**16):  # to the end, where gzip keeps its checksum
            pass
        if stream.tail.strip(b"\0"):
            raise DataError(f"{path}: is cut off: the end mark of a tar archive is missing; fetch it again")
        progress(total, total)


def _next_member(tar: tarfile.TarFile, stream: "_Guarded") -> tarfile.TarInfo | None:
    stream.limit = tar.offset + _MAX_HEADER_BYTES
    member = tar.next()
    stream.limit = None
    tar.members.clear()  # type: ignore[attr-defined]  # tarfile would keep every header it saw
    return member


def _check_member(path: Path, member: tarfile.TarInfo) -> None:
    where = f"{path}: member {member.name[:80]!r}"
    if member.name.startswith(("/", "\\")) or ".." in member.name.replace("\\", "/").split("/"):
        raise DataError(f"{where} lies outside the archive's folder; refused")
    if member.issym() or member.islnk():
        raise DataError(f"{where} is a link; refused")
    if member.type not in (tarfile.REGTYPE, tarfile.AREGTYPE, tarfile.DIRTYPE) or member.sparse is not None:
        raise DataError(f"{where} is neither a plain file nor a folder; refused")
    _check_size(where, member.size)


def _check_size(where: str, size: int) -> None:
    if not 0 <= size <= MAX_FILE_BYTES:
        raise DataError(f"{where} is {size / 2**20:.0f} MiB; refused, as no batch is above {MAX_FILE_BYTES >> 20} MiB")


def _content(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    # In pieces, as a read of the whole copies it several times.
    content = b"".join(iter(lambda: file.read(2**20), b"")) if file else b""
    if len(content) != member.size:
        raise DataError(f"{path}: is cut off within {member.name[:80]!r}; fetch it again")
    return content


class _Guarded:
    """The bytes of a tar archive, decompressed where need be, that stop where a hostile archive would fill memory."""

    def __init__(self, path: Path, raw: BinaryIO) -> None:
        self.path = path
        self.raw = raw
        magic = raw.read(2)
        raw.seek(0)
        self.source = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if magic == b"\x1f\x8b" else raw
        self.done = 0
        self.tail = b""  # the last block of all that was read
        self.limit: int | None = _MAX_HEADER_BYTES  # up to which the next header may reach; tarfile reads ahead

    def read(self, size: int) -> bytes:
        content = self.source.read(size)
        self.done += len(content)
        self.tail = (self.tail + content[-tarfile.BLOCKSIZE :])[-tarfile.BLOCKSIZE :]
        if self.done > FREE_BYTES + MAX_RATIO * self.raw.tell():
            raise DataError(f"{self.path}: decompresses to more than {MAX_RATIO} times its size; refused as a bomb")
        if self.limit is not None and self.done > self.limit:
            raise DataError(f"{self.path}: has a header of more than {_MAX_HEADER_BYTES >> 20} MiB; refused as a bomb")
        return content
