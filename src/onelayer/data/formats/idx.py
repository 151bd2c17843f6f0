"""IDX files: MNIST, Fashion-MNIST, KMNIST and EMNIST as they are published, and sets of one's own in their form.

A file is two zero bytes, the type of its numbers, how many sizes there are, the sizes as four bytes each, most
significant first, and the numbers. Images and labels are files of their own, in pairs, plain or packed by gzip.
"""

import gzip
import hashlib
import math
import re
import zlib
from collections.abc import Iterable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from functools import cached_property
from pathlib import Path
from typing import BinaryIO, NamedTuple, cast

import numpy as np

from onelayer.data.dataset import PARTS, Dataset
from onelayer.data.formats.idx_sets import SETS, IdxSet
from onelayer.data.untrusted.archive import FREE_BYTES, MAX_RATIO, Progress
from onelayer.errors import DataError
from onelayer.words import is_name, printable

_PARTS = {**PARTS, "t10k": "test"}
# Hidden files are none: a Mac leaves some of these names, with a dot before, on the disks of others.
_IMAGES = re.compile(rf"(?P<set>(?!\.).*?)(?P<part>{'|'.join(_PARTS)})-images[-.]idx[34]-ubyte(\.gz)?")
_KNOWN = re.compile(rf"(?!\.).*?({'|'.join(_PARTS)})-(images[-.]idx[34]|labels[-.]idx1)-ubyte(\.gz)?")
_INNER = ("raw", "gzip")  # where torchvision, and EMNIST's archive, put the files
_UNSIGNED_BYTES = 8  # the type of the numbers, as the format numbers it
_BLOCK_BYTES = 2**20
_MAX_MAPPING_BYTES = 2**16


def find_idx(path: Path) -> Path | None:
    """Find IDX files.

    Parameters
    ----------
    path : Path
        A file of images that is named as MNIST's are, or a folder with such files or with a folder raw that has them.
        A folder that is named as a file can hold it.

    Returns
    -------
    Path or None
        The file, or the folder of the files.
    """
    if not path.is_dir():
        return path if _IMAGES.fullmatch(path.name) else None
    path = _home(path)
    return next((folder for folder in (path, *(path / name for name in _INNER)) if _images(_files(folder))), None)


def find_idx_set(path: Path, idx_set: IdxSet) -> Path | None:
    """Find a published set, whole, in a folder: in one below it that has the set's name, or in the folder itself."""
    if not path.is_dir():
        return None
    candidates = [folder for folder in sorted(path.iterdir()) if folder.name.lower() in idx_set.folders]
    candidates += [path] * (_named_after(path) in (None, idx_set))
    for candidate in candidates:
        with suppress(DataError):  # images without labels, or of several sets
            if (found := find_idx(candidate)) and {"train", "test"} <= _pairs(found)[1].keys():
                return found
    return None


def read_idx(path: Path, progress: Progress | None = None, expected: IdxSet | None = None) -> Dataset:
    """Read images and labels.

    Parameters
    ----------
    path : Path
        As `find_idx` returns it. With a file of images come its labels, and the other parts of its set beside it.
    progress : callable, optional
        Called with the bytes done and the bytes in all.
    expected : IdxSet, optional
        The set that was asked for.

    Returns
    -------
    Dataset
        Its classes are those of the published set that it is, else the labels that occur.

    Raises
    ------
    DataError
        If a file is missing or damaged, promises more than it holds, or is of another published set than expected.
    """
    prefix, pairs = _pairs(path)
    folder = _home(path)
    with ExitStack() as stack:
        images = {part: _Idx(pair.images, part, stack) for part, pair in pairs.items()}
        labels = {part: _Idx(pair.labels, part, stack) for part, pair in pairs.items()}
        shape = _common_shape(images, labels)
        stops = np.cumsum([file.sizes[0] for file in images.values()]).tolist()
        parts = dict(zip(pairs, map(slice, [0, *stops], stops), strict=False))
        rows = np.empty((stops[-1], math.prod(shape)), np.uint8)
        values = np.empty(len(rows), np.uint8)
        files = [*images.values(), *labels.values()]
        done, total = 0, sum(file.length for file in files)
        for array, of_parts in ((rows, images), (values, labels)):
            for part, file in of_parts.items():
                for read in file.read(array[parts[part]].reshape(-1)):
                    if progress:
                        progress(done + read, total)
                done += file.length

    published = _published(files) or expected or (None if prefix else _named_after(folder))
    if expected and published and published is not expected:
        raise DataError(f"{path}: holds {published.name}, not {expected.name}; to use it as it is, pass its path")
    official, notes = _compared(files, published)
    if published and (missing := [part for part in ("train", "test") if part not in parts]):
        official = False
        notes.append(f"not the whole {published.name}: it lacks the {missing[0]} part")
    if prefix.lower().startswith("emnist"):
        shape = _permute(rows, shape, (1, 0))
        notes.append("EMNIST's images are stored with rows and columns exchanged; they were turned upright")
    image_shape = (1, *shape) if len(shape) == 2 else _permute(rows, shape, (2, 0, 1))
    numbers, class_names = _classes(values, published, folder / f"{prefix}mapping.txt", path)
    return Dataset(
        rows=rows,
        labels=numbers,
        class_names=class_names,
        image_shape=cast(tuple[int, int, int], image_shape),
        name=published.name if published else _name(folder, prefix),
        parts=parts,
        official=official,
        notes=tuple(notes),
    )


# which files there are


class _Pair(NamedTuple):
    """The files of a part."""

    images: Path
    labels: Path


def _home(path: Path) -> Path:
    """The folder of the set of which this is a file, or a folder with the name of one, or the folder itself."""
    folder = path if path.is_dir() else path.parent
    return folder.parent if _KNOWN.fullmatch(folder.name) else folder


def _files(folder: Path) -> dict[str, Path]:
    """The files of a set in a folder by their names, sorted; also those in a folder that is named as one of them."""
    found: dict[str, Path] = {}
    inner = []
    if not folder.is_dir():
        return found
    for place in folder.iterdir():
        if _KNOWN.fullmatch(place.name):
            if place.is_dir():
                inner += [file for file in place.iterdir() if _KNOWN.fullmatch(file.name) and not file.is_dir()]
            else:
                found[place.name] = place
    for file in sorted(inner):
        if not any(name in found for name in _spellings(file.name)):
            found[file.name] = file
    return dict(sorted(found.items()))


def _spellings(name: str) -> tuple[str, str]:
    """The names of a file with a hyphen, and with a dot, before idx."""
    return re.sub(r"\.(?=idx)", "-", name), re.sub(r"-(?=idx)", ".", name)


def _pairs(path: Path) -> tuple[str, dict[str, _Pair]]:
    """What the names of a set's files start with, and its parts in their order."""
    folder = _home(path)
    files = _files(folder) if path.is_dir() else dict(sorted({**_files(folder), path.name: path}.items()))
    images = _images(files)
    if not path.is_dir():
        prefix = next(match["set"] for match in images if match.string == path.name)
        images = [match for match in images if match["set"] == prefix]
    prefixes = {match["set"]: match.string for match in images}
    if len(prefixes) > 1:
        sets = ", ".join(prefixes.values())
        raise DataError(f"{folder}: holds several sets; pass the path of one of these files of images: {sets}")
    chosen: dict[str, re.Match[str]] = {}
    for match in images:
        part = _PARTS[match["part"]]
        other = chosen.get(part, match)
        if other["part"] != match["part"]:
            raise DataError(f"{folder}: {other.string} and {match.string} are both the {part} part; keep one")
        chosen[part] = match  # the packed one comes last: it is the file that is published
    if not path.is_dir():
        match = next(match for match in images if match.string == path.name)
        chosen[_PARTS[match["part"]]] = match
    pairs = {part: _Pair(files[match.string], _labels(files, match)) for part, match in chosen.items()}
    return images[0]["set"], {part: pairs[part] for part in _PARTS.values() if part in pairs}


def _images(files: Iterable[str]) -> list[re.Match[str]]:
    """The files of images, by their names."""
    return [match for name in files if (match := _IMAGES.fullmatch(name))]


def _labels(files: dict[str, Path], images: re.Match[str]) -> Path:
    """The file of labels that belongs to a file of images."""
    names = [f"{images['set']}{images['part']}-labels{dot}idx1-ubyte" for dot in "-."]
    for name in names:
        for file in (f"{name}.gz", name):
            if file in files:
                return files[file]
    raise DataError(f"{files[images.string]}: has no labels beside it; put {names[0]} or {names[0]}.gz there")


# their contents


class _Idx:
    """An open IDX file. That the numbers which its header promises can be there was checked."""

    def __init__(self, path: Path, part: str, stack: ExitStack) -> None:
        self.path = path
        with _naming(path):
            if not path.is_file():  # to open a pipe would wait for ever
                raise DataError(f"{path}: is not a file")
            self.length = path.stat().st_size
            raw = stack.enter_context(path.open("rb"))
            self.packed = raw.read(2) == b"\x1f\x8b"
            raw.seek(0)
            self.stored = _Hashed(raw)
            source = cast(BinaryIO, self.stored)
            self.source = gzip.GzipFile(fileobj=source, mode="rb") if self.packed else source
            self.header = self.source.read(4)
            if self.header[:3] != bytes((0, 0, _UNSIGNED_BYTES)) or len(self.header) < 4:
                raise DataError(f"{path}: is no IDX file of unsigned bytes")
            self.header += self.source.read(4 * self.header[3])
            if len(self.header) < 4 + 4 * self.header[3]:
                raise DataError(f"{path}: is cut off within its header")
        self.sizes = tuple(int.from_bytes(self.header[at : at + 4]) for at in range(4, len(self.header), 4))
        promised, given = math.prod(self.sizes), self.length - len(self.header)
        words = f"{path}: its header promises {self.in_words} numbers"
        if self.packed and promised > FREE_BYTES + MAX_RATIO * self.length:
            raise DataError(f"{words}, in a file of {self.length:,} bytes; refused as a bomb")
        if not self.packed and promised != given:
            raise DataError(f"{words}, but {given:,} bytes follow")
        kind = "labels-idx1" if len(self.sizes) == 1 else "images-idx3"
        self.published_name = f"{'t10k' if part == 'test' else part}-{kind}-ubyte"
        self.numbers = np.empty(0, np.uint8)

    @property
    def in_words(self) -> str:
        return " x ".join(f"{size:,}" for size in self.sizes)

    def read(self, numbers: np.ndarray) -> Iterator[int]:
        """Fill an array of the promised size, block by block; yield how much of the file has been read."""
        at = 0
        with _naming(self.path):
            while at < len(numbers):
                block = self.source.read(min(_BLOCK_BYTES, len(numbers) - at))
                if not block:
                    raise DataError(f"{self.path}: is cut off after {at:,} of {self.in_words} numbers")
                numbers[at : at + len(block)] = np.frombuffer(block, np.uint8)
                at += len(block)
                yield self.stored.done
            if self.source.read(1):
                raise DataError(f"{self.path}: goes on after the {self.in_words} numbers that its header promises")
        self.numbers = numbers

    @property
    def md5(self) -> str:
        """Of the file, once it has been read."""
        return self.stored.digest.hexdigest()

    @cached_property
    def plain_md5(self) -> str:
        """Of the unpacked file, once it has been read."""
        if not self.packed:
            return self.md5
        digest = hashlib.md5(self.header, usedforsecurity=False)
        digest.update(self.numbers.data)
        return digest.hexdigest()

    def is_official(self, published: IdxSet) -> bool | None:
        """Whether it is the published file; None where there is nothing to compare with."""
        facts = published.files.get(self.published_name)
        if facts is None:
            return False
        if not self.packed and facts.plain_md5 is None:
            return None
        return self.md5 == facts.md5 or self.plain_md5 == facts.plain_md5


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


@contextmanager
def _naming(path: Path) -> Iterator[None]:
    """Say which file it was that could not be read."""
    try:
        yield
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise DataError(f"{path}: is damaged or cut off ({error}); fetch it again") from None
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None


def _common_shape(images: dict[str, _Idx], labels: dict[str, _Idx]) -> tuple[int, ...]:
    """The shape (h, w) or (h, w, c) of all images."""
    first = next(iter(images.values()))
    for part, file in images.items():
        where = f"{file.path}: holds {file.in_words} numbers"
        if len(file.sizes) not in (3, 4) or (len(file.sizes) == 4 and file.sizes[3] not in (1, 3)):
            raise DataError(f"{where}; expected images, (n, h, w), or (n, h, w, c) with 1 or 3 channels")
        if 0 in file.sizes:
            raise DataError(f"{where}, which are no images")
        if file.sizes[1:] != first.sizes[1:]:
            raise DataError(f"{where}, but {first.path.name} {first.in_words}; images of a set are of one size")
        if labels[part].sizes != file.sizes[:1]:
            raise DataError(f"{labels[part].path}: holds {labels[part].in_words} labels for {file.sizes[0]:,} images")
    return first.sizes[1:]


def _permute(rows: np.ndarray, shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """Reorder the axes of the images (of this shape) in rows (n, d), in place; return the new shape."""
    for start in range(0, len(rows), 1024):
        block = rows[start : start + 1024]
        block[:] = block.reshape(-1, *shape).transpose(0, *(axis + 1 for axis in axes)).reshape(len(block), -1)
    return tuple(shape[axis] for axis in axes)


# which set it is, and its classes


def _named_after(folder: Path) -> IdxSet | None:
    """The published set whose name a folder has."""
    name = (folder.parent if folder.name in _INNER else folder).name.lower()
    return next((published for published in SETS if name in published.folders), None)


def _published(files: list[_Idx]) -> IdxSet | None:
    """The published set to which one of the files belongs."""
    for kind in ("md5", "plain_md5"):  # to unpack and hash takes longer
        for published in SETS:
            sums = {getattr(file, kind) for file in published.files.values()}
            if any(getattr(file, kind) in sums for file in files):
                return published
    return None


def _compared(files: list[_Idx], published: IdxSet | None) -> tuple[bool | None, list[str]]:
    """Whether the files are the published ones, and a note about each that is not."""
    if published is None:
        return None, []
    verdicts = [file.is_official(published) for file in files]
    notes = [
        f"not the official {published.name}: {file.path.name} differs from the published file (MD5 {file.md5})"
        for file, verdict in zip(files, verdicts, strict=True)
        if verdict is False
    ]
    return None if not notes and None in verdicts else not notes, notes


def _classes(
    values: np.ndarray, published: IdxSet | None, mapping_path: Path, path: Path
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels from 0, (n,) int64, and the names of the classes: the set's, else of those that occur."""
    if published:
        row, K = int(np.argmax(values)), len(published.class_names)
        if values[row] >= K:
            what = f"labels of {published.name} are 0 to {K - 1}"
            raise DataError(f"{path}: row {row} has the label {values[row]}; {what}")
        return values.astype(np.int64), published.class_names
    occurring, numbers = np.unique(values, return_inverse=True)
    mapping = _mapping(mapping_path)
    names = tuple(mapping.get(label, str(label)) for label in occurring.tolist())
    return numbers.astype(np.int64), names


def _mapping(path: Path) -> dict[int, str]:
    """The characters that EMNIST's labels stand for, where the file that says so is there: lines of label and codes."""
    with _naming(path):
        if not path.is_file():
            return {}
        if path.stat().st_size > _MAX_MAPPING_BYTES:
            raise DataError(f"{path}: is too large to be a table of EMNIST's labels")
        lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    names: dict[int, str] = {}
    for line, words in enumerate(map(str.split, lines), 1):
        if not words:
            continue
        if len(words) < 2 or not all(re.fullmatch("[0-9]{1,3}", word) for word in words):
            raise DataError(f"{path}: line {line} is not a label and the codes of its characters")
        name = "".join(chr(int(code)) for code in words[1:])
        if not is_name(name) or name in names.values():  # it is to be told from the others where it is printed
            raise DataError(f"{path}: line {line} gives no characters of its own")
        names[int(words[0])] = name
    return names


def _name(folder: Path, prefix: str) -> str:
    """What a set of one's own is called: as its files, else as their folder."""
    name = prefix.strip("-_. ").replace("emnist", "EMNIST") or (folder.parent if folder.name in _INNER else folder).name
    return printable(name) or "IDX"
