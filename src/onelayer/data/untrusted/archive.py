"""A reader of chosen files in a folder or a tar archive, one at a time; nothing is unpacked to disk."""

import gzip
import tarfile
from collections.abc import Collection, Generator, Iterator
from pathlib import Path, PurePosixPath
from typing import BinaryIO, cast

from onelayer.data.progress import Progress, silent
from onelayer.data.untrusted.reading import FREE_BYTES, MAX_FILE_BYTES, MAX_RATIO, file_at, reading
from onelayer.errors import DataError

_MAX_HEADER_BYTES = 2**20  # of one member: tar allows headers that claim gigabytes


def read_members(path: Path, wanted: Collection[str], progress: Progress | None = None) -> Generator[tuple[str, bytes]]:
    """Read those of the wanted files that a folder or an archive holds.

    Parameters
    ----------
    path : Path
        A folder, or an archive: .tar, or .tar.gz under any name.
    wanted : collection of str
        File names, without a folder.
    progress : callable, optional
        Called with the bytes done and the bytes in all.

    Yields
    ------
    name : str
    content : bytes

    Raises
    ------
    DataError
        If something cannot be read, is damaged, or does not belong in an honest archive: a member outside the folder, a
        link, a device, a wanted file twice, a file of more than 256 MiB, or a bomb (a small file that decompresses to a
        huge one).
    """
    try:
        with reading(path):
            yield from (_folder if path.is_dir() else _archive)(path, wanted, progress or silent)
    except tarfile.TarError as error:
        raise DataError(f"{path}: is damaged or not a tar archive ({error})") from None
    except (
        ValueError,
        LookupError,
        ArithmeticError,
        TypeError,
        RecursionError,
    ) as error:  # from odd headers
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
    if path.exists() and not path.is_file():  # a read of a pipe would wait for ever
        raise DataError(f"{path}: is not a folder or a file")
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
        while stream.read(2**16):  # gzip keeps its checksum at the end
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
        raise DataError(f"{where} is not a plain file or a folder; refused")
    _check_size(where, member.size)


def _check_size(where: str, size: int) -> None:
    if not 0 <= size <= MAX_FILE_BYTES:
        raise DataError(f"{where} is {size / 2**20:.0f} MiB; refused, as the limit is {MAX_FILE_BYTES >> 20} MiB")


def _content(path: Path, tar: tarfile.TarFile, member: tarfile.TarInfo) -> bytes:
    file = tar.extractfile(member)
    # A read of the whole file at once would copy it several times.
    content = b"".join(iter(lambda: file.read(2**20), b"")) if file else b""
    if len(content) != member.size:
        raise DataError(f"{path}: is cut off within {member.name[:80]!r}; fetch it again")
    return content


class _Guarded:
    """The decompressed bytes of a tar archive. They end with an error where a hostile archive would fill the memory."""

    def __init__(self, path: Path, raw: BinaryIO) -> None:
        self.path = path
        self.raw = raw
        magic = raw.read(2)
        raw.seek(0)
        self.source = cast(BinaryIO, gzip.GzipFile(fileobj=raw)) if magic == b"\x1f\x8b" else raw
        self.done = 0
        self.tail = b""  # the last block of all that was read
        self.limit: int | None = _MAX_HEADER_BYTES  # the end of the next header at the latest; tarfile reads ahead

    def read(self, size: int) -> bytes:
        content = self.source.read(size)
        self.done += len(content)
        self.tail = (self.tail + content[-tarfile.BLOCKSIZE :])[-tarfile.BLOCKSIZE :]
        if self.done > FREE_BYTES + MAX_RATIO * self.raw.tell():
            raise DataError(f"{self.path}: decompresses to more than {MAX_RATIO} times its size; refused as a bomb")
        if self.limit is not None and self.done > self.limit:
            raise DataError(f"{self.path}: has a header of more than {_MAX_HEADER_BYTES >> 20} MiB; refused as a bomb")
        return content
