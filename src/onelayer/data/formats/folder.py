"""A folder of images: a folder for each class, and above these, where there is a division, train and its like."""

import hashlib
import os
from collections import Counter
from dataclasses import dataclass, field
from operator import itemgetter
from pathlib import Path
from stat import S_ISDIR

import numpy as np

from onelayer.config import SourceConfig
from onelayer.data.cache import state_of
from onelayer.data.dataset import PARTS, Dataset
from onelayer.data.formats.image_rows import MAX_LOST, MOST_NAMED, image_rows
from onelayer.data.progress import Progress, silent
from onelayer.data.untrusted.images import FORMATS
from onelayer.errors import DataError
from onelayer.words import counted, is_name, listed, printable

_OFTEN = 10_000  # files after which a person wants to see that something goes on
_SUFFIXES = frozenset(suffix for suffixes in FORMATS.values() for suffix in suffixes)


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
        Of ``CLASS/.../IMAGE``, or of ``train/CLASS/.../IMAGE`` with the like in validation and test, or in folders of
        other usual names for these (PARTS).
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
        If the layout is another, as where the classes lie a level deeper, a class has no images, a link leads in a
        circle, or more than 1 % of the images cannot be read and this is not allowed.
    """
    progress = progress or silent
    scan = _Scan(path, progress)
    groups = _groups(scan)
    files = [file for group in groups for file in group.files]
    rows, image_shape, kept, notes = image_rows(path, files, path.joinpath, scan.digest.digest(), config, progress)
    ends = np.cumsum([len(group.files) for group in groups])
    counts = [int(part.sum()) for part in np.split(kept, ends[:-1])]
    _require_images(scan, groups, counts, "no image that can be read")
    classes = sorted({group.class_name for group in groups if group.trains})
    numbers = {name: number for number, name in enumerate(classes)}
    return Dataset(
        rows=rows,
        labels=np.repeat(np.array([numbers[group.class_name] for group in groups]), counts),
        class_names=tuple(classes),
        image_shape=image_shape,
        name=printable(path.resolve().name) or "images",
        parts=_parts(groups, counts),
        notes=(*scan.notes, *notes),
    )


# which files there are


@dataclass
class _Group:
    """The images of a class in a part; the part is "" where the folder has no division.

    Those that train say which classes there are. Where nothing trains, as in a folder to evaluate on, all do.
    """

    part: str
    class_name: str
    folder: str
    trains: bool
    files: list[str] = field(default_factory=list)


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
                    state = state_of(status) if status else None
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
                        if len(found) % _OFTEN == 0:
                            self.progress(self.count + len(found), None)
        except OSError as error:
            raise DataError(f"{printable(error.filename, 300)}: {error.strerror}") from None
        return found

    def identity(self, place: str) -> tuple[int, int]:
        status = (self.root / place).stat()
        return status.st_dev, status.st_ino

    def path(self, place: str) -> str:
        """A place in words."""
        return printable(f"{self.root}/{place}".rstrip("/"), 300)


def _groups(scan: _Scan) -> list[_Group]:
    """The images of a folder by part and class, in the order of the rows."""
    places = _part_folders(scan)
    groups = [
        _Group(part, name, f"{place}/{name}".lstrip("/"), trains=part in ("train", "") or "train" not in places)
        for part, place in places.items()
        for name in _class_folders(scan, place)
    ]
    classes = {group.class_name for group in groups if group.trains}
    if len(classes) == 1:
        _require_no_part(scan, next(group.folder for group in groups if group.trains), min(classes))
    for group in groups:
        if group.class_name not in classes:
            raise DataError(f"{scan.path(group.folder)}: is no class of train; add it there, or remove the folder")
    for group in groups:
        group.files = scan.images(group.folder)
    _require_classes(scan, [group for group in groups if group.trains])
    _require_images(scan, groups, [len(group.files) for group in groups], f"no images ({', '.join(sorted(_SUFFIXES))})")
    if sum(scan.other.values()) > MAX_LOST * scan.count:
        suffixes = ", ".join(printable(suffix, 20) or "none" for suffix, _ in scan.other.most_common(MOST_NAMED))
        scan.notes.append(f"{counted(scan.other.total(), 'file')} left out whose suffix is no image's: {suffixes}")
    return groups


def _require_no_part(scan: _Scan, folder: str, name: str) -> None:
    """Refuse an only class that holds folders itself and no images: the classes are a level below."""
    inner, beside = scan.folders(folder)
    if len(inner) > 1 and not beside:
        raise DataError(
            f"{scan.root}: holds one folder of images only, {name}, which is not a class but holds folders itself "
            f"({listed(inner)}); pass {scan.path(folder)}"
        )


def _require_classes(scan: _Scan, groups: list[_Group]) -> None:
    """Refuse "classes" that hold the same folders and no images of their own: the classes are a level below.

    One folder in each is not that; some sets keep the images of every class in a folder called images.
    """
    inner: list[set[str]] = []
    for group in groups:
        start = len(group.folder) + 1
        if not all("/" in file[start:] for file in group.files):  # in most sets the first file decides
            return
        inner.append({file[start:].partition("/")[0] for file in group.files})
    most = max(inner, key=len)
    if all(len(names) > 1 and names <= most for names in inner):
        above = scan.path(groups[0].folder.rpartition("/")[0])
        raise DataError(
            f"{above}: {listed([group.class_name for group in groups])} are not classes: each holds folders of the "
            f"same names ({listed(sorted(most))}) and no images of its own; pass one of them, as "
            f"{scan.path(groups[0].folder)}, or call them train, validation and test; "
            "if they are classes, put their images right into them"
        )


def _require_images(scan: _Scan, groups: list[_Group], counts: list[int], what: str) -> None:
    """Each part needs images, and each class of train: a class that is not met in testing is no matter."""
    totals: Counter[str] = Counter()
    for group, count in zip(groups, counts, strict=True):
        totals[group.folder if group.trains else group.folder.partition("/")[0]] += count
    for place, total in totals.items():
        if not total:
            raise DataError(
                f"{scan.path(place)}: holds {what}; add some, or take it out, if {scan.root} is the folder you mean"
            )


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
    if len(places) < len(named):
        raise DataError(f"{scan.root}: {' and '.join(named)} are more than one folder for a part; keep one of each")
    if others := [name for name in folders if name not in named]:
        scan.notes.append(f"left out, as they are beside {named[0]}: {printable(', '.join(others))}")
    return {part: places[part] for part in ("train", "validation", "test") if part in places}


def _class_folders(scan: _Scan, place: str) -> list[str]:
    names, beside = scan.folders(place)
    where = scan.path(place)
    if not names:
        what = "images, but no folder for each class" if beside else "no folders of images"
        raise DataError(f"{where}: holds {what}; expected {where}/CLASS/IMAGE")
    for name in names:
        if not is_name(name):
            raise DataError(f"{scan.path(f'{place}/{name}'.lstrip('/'))}: has no name for a class; rename the folder")
    if beside:
        scan.notes.append(f"{counted(beside, 'image')} in {where} left out, outside the folders of the classes")
    return names


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
