"""A folder of images: a folder for each class, and above these, where there is a division, train and its like."""

import hashlib
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from functools import partial
from math import prod
from operator import itemgetter
from pathlib import Path
from stat import S_ISDIR
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
MAX_LOST = 0.01  # of all images: files that may be left out without a word or an error

_SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)
_VERSION = 1  # of the rows in the cache: another number where the same files give other rows
_NAMED = 3  # unreadable files that a message names
_SAMPLE = 1000  # files, at least, that tell the size of all where they agree
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
    key = _key(scan, config)
    found = find_rows(key)
    if found is None:
        image_shape = _choose_shape(path, files, config, progress)
        fill = partial(_fill, path, files, image_shape, progress)
        found = cached_rows(key, (len(files), prod(image_shape)), fill)
    rows, facts = found
    notes = [*scan.notes, *_lost(path, len(files), facts, config), *_squeezed(facts)]
    kept = np.ones(len(files), bool)
    kept[facts["unreadable"]] = False
    ends = np.cumsum([len(group.files) for group in groups])
    counts = [int(part.sum()) for part in np.split(kept, ends[:-1])]
    _require_images(scan, groups, counts, "no image that can be read")
    classes = sorted({group.class_name for group in groups if group.trains})
    numbers = {name: number for number, name in enumerate(classes)}
    return Dataset(
        rows=rows,
        labels=np.repeat(np.array([numbers[group.class_name] for group in groups]), counts),
        class_names=tuple(classes),
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

    @property
    def trains(self) -> bool:
        return self.part in ("train", "")


class _Scan:
    """A walk through a folder. Places in it are named relative to it, with slashes.

    Parameters
    ----------
    root : Path
    progress : callable
        Called with the images found.
    """

    def __init__(self, root: Path, progress: Progress) -> None:
        self.root = root
        self.progress = progress
        self.count = 0
        self.notes: list[str] = []
        self.other: Counter[str] = Counter()  # suffixes of files that are no images
        self.digest = hashlib.sha256()  # of the images' names and states

    def folders(self, place: str) -> tuple[list[str], int]:
        """Names of the folders in a place, sorted, and the number of images beside them."""
        entries = self.entries(place)
        folders = sorted(name for name, status in entries if _is_folder(status))
        return folders, sum(_is_image(name) and not _is_folder(status) for name, status in entries)

    def images(self, place: str) -> list[str]:
        """The images in a place and below it, sorted."""
        found: list[str] = []
        seen = {self.identity(above): above for above in ("", place.rpartition("/")[0])}
        pending = [place]
        while pending:
            folder = pending.pop()
            first = seen.setdefault(self.identity(folder), folder)
            if first != folder:
                raise DataError(f"{self.path(folder)}: is {self.path(first)} once more; remove the link")
            entries = sorted(self.entries(folder), key=itemgetter(0))
            for name, status in entries:
                if _is_folder(status):
                    pending.append(f"{folder}/{name}")
                elif _is_image(name):
                    found.append(f"{folder}/{name}")
                    # The time changes with the content and with the permission to read it.
                    state = (status.st_size, status.st_ctime_ns) if status else None
                    self.digest.update(os.fsencode(f"{found[-1]}\0{state}\n"))
                    self.count += 1
                else:
                    self.other[_suffix(name)] += 1
            self.progress(self.count, None)
        return sorted(found)

    def entries(self, place: str) -> list[tuple[str, os.stat_result | None]]:
        """Names and states of what is in a place; None for an image that is a link to nowhere."""
        found: list[tuple[str, os.stat_result | None]] = []
        try:
            with os.scandir(self.root / place) as entries:
                for entry in entries:
                    if not _hidden(entry.name):
                        try:
                            found.append((entry.name, entry.stat()))
                        except OSError:
                            if not _is_image(entry.name):
                                raise
                            found.append((entry.name, None))
        except OSError as error:
            raise DataError(f"{_printable(error.filename, 300)}: {error.strerror}") from None
        return found

    def identity(self, place: str) -> tuple[int, int]:
        status = (self.root / place).stat()
        return status.st_dev, status.st_ino

    def path(self, place: str) -> str:
        """A place in words."""
        return _printable(f"{self.root}/{place}".rstrip("/"), 300)


def _groups(scan: _Scan) -> list[_Group]:
    """The images of a folder by part and class, in the order of the rows."""
    places = _part_folders(scan)
    groups = [
        _Group(part, name, f"{place}/{name}".lstrip("/"))
        for part, place in places.items()
        for name in _class_folders(scan, place)
    ]
    classes = {group.class_name for group in groups if group.trains}
    if len(classes) == 1:
        raise DataError(f"{scan.root}: has images of one class only, {classes.pop()}; a classifier needs two")
    for group in groups:
        if group.class_name not in classes:
            raise DataError(f"{scan.path(group.folder)}: is no class of train; add it there, or remove the folder")
    for group in groups:
        group.files = scan.images(group.folder)
    _require_images(scan, groups, [len(group.files) for group in groups], f"no images ({', '.join(sorted(_SUFFIXES))})")
    if sum(scan.other.values()) > MAX_LOST * scan.count:
        suffixes = ", ".join(_printable(suffix, 20) or "none" for suffix, _ in scan.other.most_common(_NAMED))
        scan.notes.append(f"{counted(scan.other.total(), 'file')} left out whose suffix is no image's: {suffixes}")
    return groups


def _require_images(scan: _Scan, groups: list[_Group], counts: list[int], what: str) -> None:
    """Each part needs images, and each class of train: a class that is not met in testing is no matter."""
    totals: Counter[str] = Counter()
    for group, count in zip(groups, counts, strict=True):
        totals[group.folder if group.trains else group.folder.partition("/")[0]] += count
    for place, total in totals.items():
        if not total:
            raise DataError(f"{scan.path(place)}: holds {what}; add some, or remove the folder")


def _part_folders(scan: _Scan) -> dict[str, str]:
    """The folder of each part, in their order; a folder without a division is one part without a name."""
    folders, _ = scan.folders("")
    named = [name for name in folders if name.lower() in PARTS]
    places: dict[str, str] = {}
    for name in named:
        places.setdefault(PARTS[name.lower()], name)
    # Classes can be called train or test: a division is train and another part, or nothing but parts.
    if not named or (len(named) < len(folders) and not ("train" in places and len(named) > 1)):
        return {"": ""}
    if "train" not in places:
        raise DataError(f"{scan.root}: has {' and '.join(named)} but no train; name the images to train on train")
    if len(places) < len(named):
        raise DataError(f"{scan.root}: {' and '.join(named)} are more than one folder for a part; keep one of each")
    if others := [name for name in folders if name not in named]:
        scan.notes.append(f"left out, as they are beside {named[0]}: {_printable(', '.join(others))}")
    return {part: places[part] for part in ("train", "validation", "test") if part in places}


def _class_folders(scan: _Scan, place: str) -> list[str]:
    names, beside = scan.folders(place)
    where = scan.path(place)
    if not names:
        what = "images, but no folder for each class" if beside else "no folders of images"
        raise DataError(f"{where}: holds {what}; expected {where}/CLASS/IMAGE")
    for name in names:
        if not (name.isprintable() and len(name) < 100):
            raise DataError(f"{scan.path(f'{place}/{name}'.lstrip('/'))}: has no name for a class; rename the folder")
    if beside:
        scan.notes.append(f"{counted(beside, 'image')} in {where} left out, outside the folders of the classes")
    return names


# their pixels


def _key(scan: _Scan, config: SourceConfig) -> str:
    """What decides the rows."""
    from PIL import __version__

    how = f"{config.width_and_height}, {_VERSION}, Pillow {__version__}"
    return hashlib.sha256(scan.digest.digest() + how.encode()).hexdigest()


def _choose_shape(path: Path, files: list[str], config: SourceConfig, progress: Progress) -> tuple[int, int, int]:
    """The shape (c, h, w) that all images are brought to."""
    # Opening a small image takes a third of the time of decoding it. Where files from everywhere agree on a size, and
    # one of them has colours, looking into all would tell nothing new.
    for some in (files[:: max(1, len(files) // _SAMPLE)], files):
        sizes: Counter[tuple[int, int]] = Counter()
        grey, reason = True, ""
        with closing(each_image(lambda file: read_header(path / file), some, progress)) as headers:
            for header in headers:
                if isinstance(header, Header):
                    sizes[_fit(header.size)] += 1
                    grey &= header.grey
                else:
                    reason = reason or _relative(path, header)
        if len(some) == len(files) or (len(sizes) == 1 and not grey):
            break
    if not sizes:
        raise _none_readable(path, files, reason)
    # Of equally many, the largest, which is the closest to a square.
    w, h = config.width_and_height or max(sizes, key=lambda size: (sizes[size], prod(size), size))
    return 1 if grey else 3, h, w


def _fit(size: tuple[int, int]) -> tuple[int, int]:
    """A size scaled down, where need be, to at most MAX_SIDE on both sides."""
    scale = min(1, MAX_SIDE / max(size))
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _fill(
    path: Path, files: list[str], image_shape: tuple[int, int, int], progress: Progress, rows: np.ndarray
) -> tuple[int, dict[str, Any]]:
    """Decode files into the first of the rows (n, d); return how many, and what else is to be known."""
    unreadable: list[int] = []
    squeezed: list[int] = []
    reasons: list[str] = []
    used = 0
    block = max(1, min(_BLOCK_FILES, _BLOCK_BYTES // rows.shape[1]))
    with closing(each_image(lambda file: decode_image(path / file, image_shape), files, progress, block)) as results:
        for place, result in enumerate(results):
            if isinstance(result, DataError):
                unreadable.append(place)
                if len(reasons) < _NAMED:
                    reasons.append(_relative(path, result))
            else:
                rows[used], note = result
                used += 1
                squeezed += [place] * (note is not None)
    if not used:
        raise _none_readable(path, files, reasons[0])
    return used, {
        "image_shape": image_shape,
        "unreadable": unreadable,
        "reasons": reasons,
        "squeezed": [len(squeezed), *(_printable(files[place]) for place in squeezed[:1])],
    }


def _none_readable(path: Path, files: list[str], reason: str) -> DataError:
    return DataError(f"{path}: none of {counted(len(files), 'image')} can be read: {reason}")


def _lost(path: Path, count: int, facts: dict[str, Any], config: SourceConfig) -> Iterator[str]:
    """Say which of so many images could not be read; an error if these are too many."""
    lost = len(facts["unreadable"])
    if not lost:
        return
    more = "; ..." if lost > len(facts["reasons"]) else ""
    what = f"{lost:,} of {counted(count, 'image')} cannot be read: {'; '.join(facts['reasons'])}{more}"
    if lost > MAX_LOST * count and not config.allow_unreadable:
        raise DataError(f"{path}: {what}; mend or remove them, or pass --allow-unreadable to leave them out")
    yield f"left out, as {what}"


def _squeezed(facts: dict[str, Any]) -> Iterator[str]:
    count, *first = facts["squeezed"]
    _, h, w = facts["image_shape"]
    if count:
        yield f"{counted(count, 'image')} of other proportions squeezed to {w} x {h}, such as {first[0]}"


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


def _is_folder(status: os.stat_result | None) -> bool:
    return status is not None and S_ISDIR(status.st_mode)


def _hidden(name: str) -> bool:
    return name.startswith(".") or name == "__MACOSX"  # which archives made on a Mac bring along


def _is_image(name: str) -> bool:
    return _suffix(name) in _SUFFIXES


def _suffix(name: str) -> str:
    return name[name.rfind(".") :].lower() if "." in name else ""


def _relative(path: Path, error: DataError) -> str:
    """An error of a file, with the file named from where the folder begins."""
    return _printable(str(error).removeprefix(f"{path}/"), 200)


def _printable(text: str, length: int = 100) -> str:
    """A text of strangers, fit to be printed."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= length else f"{text[:length]}..."
