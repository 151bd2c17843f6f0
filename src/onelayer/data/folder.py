"""A folder of images: a folder for each class, and above these, where there is a division, train and its like."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from math import prod
from pathlib import Path
from typing import Any

import numpy as np

from onelayer.config import SourceConfig, counted
from onelayer.data.archive import Progress
from onelayer.data.cache import cached_rows, find_rows
from onelayer.data.dataset import Dataset
from onelayer.data.images import FORMATS, Header, decode_image, each_image, read_header
from onelayer.errors import DataError

PARTS = {"train": "train", "validation": "validation", "val": "validation", "valid": "validation", "test": "test"}
MAX_SIDE = 64  # of the size that images get where none is asked for
MAX_UNREADABLE = 0.01  # of all images

_SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
_VERSION = 1  # of the rows in the cache: another number where the same files give other rows
_NAMED = 3  # unreadable files that a message names
_BLOCK_FILES, _BLOCK_BYTES = 16, 2**22  # that a thread takes at a time, and at most their rows


def find_folder(path: Path) -> Path | None:
    """The path, if it is a folder with folders or images in it."""
    if path.is_dir():
        with os.scandir(path) as entries:
            if any(not _hidden(entry.name) and (entry.is_dir() or _is_image(entry.name)) for entry in entries):
                return path
    return None


def read_folder(path: Path, config: SourceConfig, progress: Progress | None = None) -> Dataset:
    """Read a folder of images, from the cache where it was read before and none of its files has changed since.

    Classes are numbered in the order of their names, and rows stand in the order of part, class and file name. Files at
    any depth below a class are its images; hidden ones, and such of other suffixes than images have, are left out.

    Parameters
    ----------
    path : Path
        Of ``CLASS/.../IMAGE``, or of ``train/CLASS/.../IMAGE`` with the like in validation (val, valid) and test.
    config : SourceConfig
        The size that images are brought to is by default the most common of those that they have when both sides are
        scaled down to at most 64 pixels.
    progress : callable, optional
        Called with the files done and the files in all (None while they are counted), anew for counting, sizes, pixels.

    Returns
    -------
    Dataset
        Of one channel where all images are stored as greys, else of three.

    Raises
    ------
    DataError
        If the layout is another, a class has no images, there are fewer than two classes, a link leads in a circle, or
        more than 1 % of the images cannot be read and this is not allowed.
    """
    progress = progress or (lambda done, total: None)
    scan = _Scan(path, progress)
    groups = _groups(scan)
    files = [file for group in groups for file in group.files]
    key = scan.key(config)
    found = find_rows(key)
    if found is None:
        paths = [path / file for file in files]
        image_shape = _choose_shape(path, paths, config, progress)
        fill = partial(_fill, path, paths, image_shape, progress)
        found = cached_rows(key, (len(files), prod(image_shape)), fill)
    rows, facts = found
    notes = [*_unreadable(path, len(files), facts, config), *scan.notes(len(files))]
    count, *first = facts["squeezed"]
    if count:
        _, h, w = facts["image_shape"]
        notes.append(f"{counted(count, 'image')} squeezed to {w} x {h}, which distorts them, such as {first[0]}")

    kept = np.ones(len(files), bool)
    kept[facts["unreadable"]] = False
    lengths = [len(group.files) for group in groups]
    counts = [int(part.sum()) for part in np.split(kept, np.cumsum(lengths)[:-1])]
    classes = tuple(sorted({group.class_name for group in groups if group.part in ("train", "")}))
    for group, count in zip(groups, counts, strict=True):
        if not count and group.part in ("train", ""):
            raise DataError(f"{path}/{group.folder}: none of its images can be read; mend them, or remove the folder")
    numbers = [classes.index(group.class_name) for group in groups]
    return Dataset(
        rows=rows,
        labels=np.repeat(np.array(numbers, np.int64), counts),
        class_names=classes,
        image_shape=tuple(facts["image_shape"]),
        name=_printable(path.resolve().name) or "images",
        parts=_parts(groups, counts),
        notes=tuple(notes),
    )


# which files there are


@dataclass
class _Group:
    """The images of a class in a part; the part is "" where the folder has no division."""

    part: str
    class_name: str
    folder: str
    files: list[str] = field(default_factory=list)


class _Scan:
    """A walk through a folder. All names are relative to it, with slashes."""

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root = root
        self.progress = progress
        self.count = 0
        self.other: Counter[str] = Counter()  # files that are no images, by suffix
        self.beside = 0  # images outside the class folders
        self.digest = hashlib.sha256()

    def folders(self, place: str) -> list[str]:
        """Names of the folders in a place, sorted."""
        names = []
        for entry in self.entries(place):
            if entry.is_dir():
                names.append(entry.name)
            else:
                self.beside += _is_image(entry.name)
        return sorted(names)

    def images(self, place: str) -> list[str]:
        """The images in and below a place, sorted."""
        found: list[str] = []
        seen = {self.identity(above): above for above in ("", place.rpartition("/")[0])}
        pending = [place]
        while pending:
            folder = pending.pop()
            first = seen.setdefault(self.identity(folder), folder)
            if first != folder:
                where = f"{self.root}/{first}".rstrip("/")
                raise DataError(f"{self.root}/{_printable(folder)}: leads back to {where}; remove the link")
            here: list[tuple[str, int, int]] = []
            below: list[str] = []
            for entry in self.entries(folder):
                name = f"{folder}/{entry.name}"
                if entry.is_dir():
                    below.append(name)
                elif _is_image(entry.name):
                    here.append((name, *self.state(entry)))
                else:
                    self.other[_suffix(entry.name)] += 1
            here.sort()
            pending += sorted(below)
            found += [name for name, _, _ in here]
            self.digest.update(b"".join(b"%b\0%d\0%d\n" % (os.fsencode(name), n, when) for name, n, when in here))
            self.count += len(here)
            self.progress(self.count, None)
        return sorted(found)

    def entries(self, place: str) -> Iterator["os.DirEntry[str]"]:
        try:
            with os.scandir(self.root / place) as entries:
                yield from (entry for entry in entries if not _hidden(entry.name))
        except OSError as error:
            raise DataError(f"{self.root}/{_printable(place)}: {error.strerror}") from None

    def identity(self, place: str) -> tuple[int, int]:
        status = (self.root / place).stat()
        return status.st_dev, status.st_ino

    def state(self, entry: "os.DirEntry[str]") -> tuple[int, int]:
        """What differs once a file was written to, or its permissions changed."""
        try:
            status = entry.stat()
        except OSError:  # a link to nowhere, which reading will find
            return -1, -1
        return status.st_size, status.st_ctime_ns

    def key(self, config: SourceConfig) -> str:
        """Of the rows in the cache."""
        from PIL import __version__

        key = self.digest.copy()
        key.update(f"{config.width_and_height} {_VERSION} {__version__}".encode())
        return key.hexdigest()

    def notes(self, count: int) -> Iterator[str]:
        """What was left out, if it is worth a word, beside so many images."""
        if self.beside:
            yield f"{counted(self.beside, 'image')} outside the class folders left out"
        if sum(self.other.values()) > MAX_UNREADABLE * count:
            files = counted(sum(self.other.values()), "file")
            suffixes = ", ".join(_printable(suffix, 20) or "none" for suffix, _ in self.other.most_common(_NAMED))
            yield f"{files} left out that are no images by their suffix: {suffixes}"


def _groups(scan: _Scan) -> list[_Group]:
    """The images of a folder by part and class, in the order of the rows."""
    path = scan.root
    places = _part_folders(scan)
    groups = [
        _Group(part, name, f"{place}/{name}".lstrip("/"))
        for part, place in places.items()
        for name in _class_folders(scan, place)
    ]
    trained = {group.class_name for group in groups if group.part in ("train", "")}
    if len(trained) == 1:
        raise DataError(f"{path}: holds one class only, {trained.pop()}; a classifier needs two")
    for group in groups:
        if group.class_name not in trained:
            raise DataError(f"{path}/{group.folder}: train has no class of this name, so that none can be learnt")
    for group in groups:
        group.files = scan.images(group.folder)
        if not group.files and group.part in ("train", ""):
            raise DataError(f"{path}/{group.folder}: holds no images ({_suffixes()}); fill the folder, or remove it")
    for part, place in places.items():
        if not any(group.files for group in groups if group.part == part):
            raise DataError(f"{path}/{place}: holds no images ({_suffixes()}); fill the folder, or remove it")
    return groups


def _part_folders(scan: _Scan) -> dict[str, str]:
    """The folders of the parts, in their order; a folder without a division is one part without a name."""
    folders = scan.folders("")
    named = [name for name in folders if name.lower() in PARTS]
    # A class can be called train, or test: a division has train, and another part or nothing else.
    if len(named) == len(folders) or (len(named) > 1 and "train" in map(str.lower, named)):
        pass
    else:
        return {"": ""}
    places: dict[str, str] = {}
    for name in named:
        part = PARTS[name.lower()]
        if part in places:
            raise DataError(f"{scan.root}: {places[part]} and {name} are both the {part} part; keep one")
        places[part] = name
    return {part: places[part] for part in ("train", "validation", "test") if part in places}


def _class_folders(scan: _Scan, place: str) -> list[str]:
    beside = scan.beside
    names = scan.folders(place)
    where = f"{scan.root}/{place}".rstrip("/")
    if not names:
        what = "images but no folder for each class" if scan.beside > beside else "no folders of images"
        raise DataError(f"{where}: holds {what}; expected {where}/CLASS/IMAGE")
    for name in names:
        if not (name.isprintable() and len(name) < 100):
            raise DataError(f"{where}: the folder {_printable(name)!r} has no name for a class; rename it")
    return names


# their pixels


def _choose_shape(path: Path, files: list[Path], config: SourceConfig, progress: Progress) -> tuple[int, int, int]:
    """The shape (c, h, w) that all images are brought to."""
    sizes: Counter[tuple[int, int]] = Counter()
    grey, error = True, None
    with closing(each_image(read_header, files)) as headers:
        for place, header in enumerate(headers, 1):
            if isinstance(header, Header):
                sizes[_fit(header.size)] += 1
                grey &= header.grey
            else:
                error = error or header
            progress(place, len(files))
    if error and not sizes:
        raise _none_readable(path, files, error)
    # Of equally many, the largest, which is the closest to a square.
    w, h = config.width_and_height or max(sizes, key=lambda size: (sizes[size], prod(size), size))
    return 1 if grey else 3, h, w


def _fit(size: tuple[int, int]) -> tuple[int, int]:
    """A size scaled down, where need be, to at most MAX_SIDE on both sides."""
    scale = min(1, MAX_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _fill(
    path: Path, files: list[Path], image_shape: tuple[int, int, int], progress: Progress, rows: np.ndarray
) -> tuple[int, dict[str, Any]]:
    """Decode files into the first of the rows (n, d); return how many, and what else is to be known."""
    errors: dict[int, DataError] = {}
    squeezed = []
    used = 0
    block = max(1, min(_BLOCK_FILES, _BLOCK_BYTES // rows.shape[1]))
    with closing(each_image(lambda file: decode_image(file, image_shape), files, block)) as results:
        for place, result in enumerate(results):
            if isinstance(result, DataError):
                errors[place] = result
            else:
                rows[used], note = result
                used += 1
                squeezed += [place] * (note is not None)
            progress(place + 1, len(files))
    if errors and not used:
        raise _none_readable(path, files, errors[0])
    return used, {
        "image_shape": image_shape,
        "unreadable": list(errors),
        "reasons": [_relative(path, error) for error in list(errors.values())[:_NAMED]],
        "squeezed": [len(squeezed), *(_relative(path, files[place]) for place in squeezed[:1])],
    }


def _none_readable(path: Path, files: list[Path], error: DataError) -> DataError:
    return DataError(f"{path}: none of {counted(len(files), 'image')} can be read: {_relative(path, error)}")


def _unreadable(path: Path, count: int, facts: dict[str, Any], config: SourceConfig) -> Iterator[str]:
    """Say which of so many images could not be read; an error if these are too many."""
    lost = len(facts["unreadable"])
    if not lost:
        return
    more = "; ..." if lost > len(facts["reasons"]) else ""
    what = f"{lost:,} of {counted(count, 'image')} cannot be read: {'; '.join(facts['reasons'])}{more}"
    if lost > MAX_UNREADABLE * count and not config.allow_unreadable:
        raise DataError(f"{path}: {what}; mend or remove them, or pass --allow-unreadable to leave them out")
    yield f"left out, as {what}"


def _parts(groups: list[_Group], counts: list[int]) -> dict[str, slice]:
    """Where the rows of each part stand, when the groups have so many."""
    parts: dict[str, slice] = {}
    stop = 0
    for group, count in zip(groups, counts, strict=True):
        start = parts[group.part].start if group.part in parts else stop
        stop += count
        parts[group.part] = slice(start, stop)
    return {} if "" in parts else parts


# names


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # which archives made on a Mac bring along


def _is_image(name: str) -> bool:
    return _suffix(name) in _SUFFIXES


def _suffix(name: str) -> str:
    return name[name.rfind(".") :].lower() if "." in name else ""


def _suffixes() -> str:
    return ", ".join(suffixes[0] for suffixes in FORMATS.values())


def _relative(path: Path, text: object) -> str:
    return _printable(str(text).removeprefix(f"{path}/"), 200)


def _printable(text: str, length: int = 100) -> str:
    """A text of strangers, fit to be printed."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= length else f"{text[:length]}..."
