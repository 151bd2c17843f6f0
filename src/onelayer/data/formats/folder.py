"""A folder of images, with a folder for each class, which may be in a folder for each part, such as train."""

import os
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from onelayer.config import SourceConfig
from onelayer.data.dataset import PARTS, Dataset
from onelayer.data.formats.array_names import BESIDE
from onelayer.data.formats.folder_walk import Walk, is_hidden, is_image
from onelayer.data.formats.image_rows import image_rows
from onelayer.data.progress import Progress, silent
from onelayer.data.untrusted.images import HEIF_ADVICE
from onelayer.errors import DataError
from onelayer.words import counted, is_name, listed, printable


def find_folder(path: Path) -> Path | None:
    """Return the path if it is a folder with folders or images in it, else None."""
    if path.is_dir():
        with os.scandir(path) as entries:
            if any(not is_hidden(entry.name) and (entry.is_dir() or is_image(entry.name)) for entry in entries):
                return path
    return None


def read_folder(path: Path, config: SourceConfig, progress: Progress | None = None) -> Dataset:
    """Read a folder of images; from the cache if it was read before and none of its files has changed since.

    Classes are numbered in the order of their names, and rows are in the order of part, class and file name. Files at
    any depth below a class are its images. Hidden files, and files without the suffix of an image, are left out.

    Parameters
    ----------
    path : Path
        A folder with images at ``CLASS/.../IMAGE``, or at ``train/CLASS/.../IMAGE`` and the same in validation and
        test. Other usual names of these (PARTS) will do.
    config : SourceConfig
        Images are resized to its image size, and fitted as it says. By default the size is their most common one after
        both sides are scaled down to at most 64 pixels.
    progress : callable, optional
        Called with the files done and the total (None while they are counted), first for counting, then for sizes, then
        for pixels.

    Returns
    -------
    Dataset
        Its images have one channel if all are stored as greys, else three.

    Raises
    ------
    DataError
        If the layout is another (such as classes one level deeper), a class has no images, a link makes a circle, or
        more than 1 % of the images cannot be read and the settings do not allow that.
    """
    progress = progress or silent
    walk = Walk(path, progress)
    groups = _groups(walk)
    files = [file for group in groups for file in group.files]
    found = image_rows(path, files, path.joinpath, walk.digest.digest(), config, progress)
    ends = np.cumsum([len(group.files) for group in groups])
    counts = [int(part.sum()) for part in np.split(found.kept, ends[:-1])]
    _require_images(walk, groups, counts, "no image that can be read")
    classes = sorted({group.class_name for group in groups if group.trains})
    numbers = {name: number for number, name in enumerate(classes)}
    return Dataset(
        rows=found.rows,
        labels=np.repeat(np.array([numbers[group.class_name] for group in groups]), counts),
        class_names=tuple(classes),
        image_shape=found.image_shape,
        name=printable(path.resolve().name) or "images",
        parts=_parts(groups, counts),
        notes=(*walk.notes, *found.left_out(walk.left_out()), *found.notes),
        fit=found.fit,
    )


# which files there are


@dataclass
class _Group:
    """The images of a class in a part; the part is "" if the folder is not divided into parts.

    The groups that train decide the classes. If there is no part train, as in a folder to evaluate on, all groups do.
    """

    part: str
    class_name: str
    folder: str
    trains: bool
    files: list[str] = field(default_factory=list)


def _groups(walk: Walk) -> list[_Group]:
    """Return the images of a folder by part and class, in the order of the rows."""
    places = _part_folders(walk)
    groups = [
        _Group(part, name, f"{place}/{name}".lstrip("/"), trains=part in ("train", "") or "train" not in places)
        for part, place in places.items()
        for name in _class_folders(walk, place)
    ]
    classes = {group.class_name for group in groups if group.trains}
    if len(classes) == 1:
        _require_no_part(walk, next(group.folder for group in groups if group.trains), min(classes))
    for group in groups:
        if group.class_name not in classes:
            raise DataError(f"{walk.path(group.folder)}: is not a class of train; add it there, or remove the folder")
    for group in groups:
        group.files = walk.images(group.folder)
    _require_classes(walk, [group for group in groups if group.trains])
    advice = f"; {HEIF_ADVICE}" if walk.unread_heif else f"; {BESIDE}" if walk.other[".npy"] else ""
    what = f"no images ({', '.join(sorted(walk.suffixes))}{advice})"
    _require_images(walk, groups, [len(group.files) for group in groups], what)
    return groups


def _require_no_part(walk: Walk, folder: str, name: str) -> None:
    """Raise a DataError if the only class holds folders and no images: the classes are a level below."""
    inner, beside = walk.folders(folder)
    if len(inner) > 1 and not beside:
        raise DataError(
            f"{walk.root}: holds only the folder {name}, which is not a class, as it holds folders "
            f"({listed(inner)}); pass {walk.path(folder)}"
        )


def _require_classes(walk: Walk, groups: list[_Group]) -> None:
    """Raise a DataError if all "classes" hold the same folders and no images: the classes are a level below.

    One folder in each class is allowed: some sets keep the images of every class in a folder called images.
    """
    inner: list[set[str]] = []
    for group in groups:
        start = len(group.folder) + 1
        if not all("/" in file[start:] for file in group.files):  # in most sets already the first file returns
            return
        inner.append({file[start:].partition("/")[0] for file in group.files})
    most = max(inner, key=len)
    if all(len(names) > 1 and names <= most for names in inner):
        above = walk.path(groups[0].folder.rpartition("/")[0])
        raise DataError(
            f"{above}: {listed([group.class_name for group in groups])} are not classes, as each holds folders of the "
            f"same names ({listed(sorted(most))}) and no images; pass one of them, such as "
            f"{walk.path(groups[0].folder)}, or rename them to train, validation and test; "
            "if they are classes, move their images directly into them"
        )


def _require_images(walk: Walk, groups: list[_Group], counts: list[int], what: str) -> None:
    """Raise a DataError if a part, or a class of train, has no images; a class may be missing from the other parts."""
    totals: Counter[str] = Counter()
    for group, count in zip(groups, counts, strict=True):
        totals[group.folder if group.trains else group.folder.partition("/")[0]] += count
    for place, total in totals.items():
        if not total:
            raise DataError(
                f"{walk.path(place)}: holds {what}; add some, or remove it, if {walk.root} is the folder you mean"
            )


def _part_folders(walk: Walk) -> dict[str, str]:
    """Return the folder of each part, in order; a folder that is not divided is one part without a name."""
    folders, _ = walk.folders("")
    named = [name for name in folders if name.lower() in PARTS]
    places: dict[str, str] = {}
    for name in named:
        places.setdefault(PARTS[name.lower()], name)
    # Classes can be called train or test. The folder is divided if it has train and another part, or only parts.
    if not named or (len(named) < len(folders) and not ("train" in places and len(named) > 1)):
        return {"": ""}
    if len(places) < len(named):
        raise DataError(f"{walk.root}: {' and '.join(named)} are several folders for one part; keep one for each part")
    if others := [name for name in folders if name not in named]:
        walk.notes.append(f"left out, as they are not parts of the set: {printable(', '.join(others))}")
    return {part: places[part] for part in ("train", "validation", "test") if part in places}


def _class_folders(walk: Walk, place: str) -> list[str]:
    """Return the names of the classes in the folder of a part."""
    names, beside = walk.folders(place)
    where = walk.path(place)
    if not names:
        what = "images, but no folder for each class" if beside else "no folders of images"
        raise DataError(f"{where}: holds {what}; expected {where}/CLASS/IMAGE, or pass a CSV file of path,label")
    for name in names:
        if not is_name(name):
            raise DataError(
                f"{walk.path(f'{place}/{name}'.lstrip('/'))}: its name is too long, or not printable; rename the folder"
            )
    if beside:
        walk.notes.append(f"{counted(beside, 'image')} in {where} left out, outside the folders of the classes")
    return names


def _parts(groups: list[_Group], counts: list[int]) -> dict[str, slice]:
    """Return the places of the rows of each part; `counts` are the rows of each group."""
    parts: dict[str, slice] = {}
    stop = 0
    for group, count in zip(groups, counts, strict=True):
        start = parts[group.part].start if group.part in parts else stop
        stop += count
        parts[group.part] = slice(start, stop)
    return {} if "" in parts else parts
