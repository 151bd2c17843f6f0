"""Parquet files with a column of images or embeddings, in the layout of sets on the Hugging Face hub."""

import hashlib
import os
import re
from contextlib import suppress
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path

import numpy as np

from onelayer.config import SourceConfig
from onelayer.data.cache import state_of
from onelayer.data.dataset import PARTS, Dataset
from onelayer.data.formats.image_rows import image_rows
from onelayer.data.formats.parquet_file import Columns, find_columns, has_labels, read_labels
from onelayer.data.formats.parquet_images import StoredImages
from onelayer.data.formats.parquet_lists import list_rows
from onelayer.data.progress import Progress, silent
from onelayer.errors import DataError
from onelayer.words import listed, printable

_SHOWN = "[!.]*.parquet"  # hidden files are left out
_PART = re.compile(rf"({'|'.join(PARTS)})(?![a-z])", re.IGNORECASE)
_LOOK = 1000  # the number of files of a folder that are looked at to see their kind
_PARTIAL = "partial-"  # the beginning of the hub's name for a part of which it converted only a piece
NUMBERED = re.compile(r"(?P<name>.*)-(?P<number>[0-9]{1,6})-of-(?P<count>[0-9]{1,6})(?![0-9]).*")


def find_parquet(path: Path) -> Path | None:
    """Return the path if it is a parquet file, a folder with such files or a folder with such a folder, else None.

    A folder with the suffix .parquet, which other programs write, or with the name of a part, which the hub writes,
    stands for a file.
    """
    if not path.is_dir():
        return path if path.suffix == ".parquet" else None
    return path if _folders(path) else None


def read_parquet(path: Path, config: SourceConfig, progress: Progress | None = None) -> Dataset:
    """Read images or lists of floats, and labels; rows from the cache if they are there and the files have not changed.

    Parameters
    ----------
    path : Path
        A file, or a folder with files whose names start with their part (train, validation or val, test), or a folder
        with files of no part, or a folder with one such folder. If there are parts, other files are left out, and so
        are validation and test parts without labels.
    config : SourceConfig
        Sizes, and images that cannot be read, are treated as in a folder of images. `coarse` takes the column
        coarse_label.
    progress : callable, optional
        Called with the images done and the total, from the start again for sizes and pixels.

    Returns
    -------
    Dataset
        Its classes are those that the files name; without names, the labels that occur.

    Raises
    ------
    DataError
        If pyarrow is not installed, a column is missing or ambiguous, something is damaged, or files are missing that
        the names of the others count.
    ConfigError
        If there are no coarse labels.
    """
    parts, notes = _parts(path)
    columns = _common_columns(parts, config.coarse, notes)
    files = [file for of_part in parts.values() for file in of_part]
    labels = [read_labels(file, columns) for file in files]
    counts = dict(zip(files, map(len, labels), strict=True))
    state = hashlib.sha256(columns.rows.encode())
    for file in files:
        state.update(os.fsencode(f"{file.name}\0{state_of(file.stat())}\n"))
    report = progress or silent
    if columns.numbers:
        rows, more = list_rows(counts, columns, state.hexdigest(), report)
        kept, shape, fit = np.ones(len(rows), bool), None, None
    else:
        images = StoredImages(counts, columns.rows)
        result = image_rows(path, images, lambda image: image, state.digest(), config, report, images.block)
        rows, kept, shape, fit = result.rows, result.kept, result.image_shape, result.fit
        more = *result.left_out(), *result.notes

    class_names, numbers = columns.class_names, np.concatenate(labels)
    if not class_names:
        occurring, numbers = np.unique(numbers, return_inverse=True)
        class_names = tuple(map(str, occurring.tolist()))
    sizes = [sum(len(labels[files.index(file)]) for file in of_part) for of_part in parts.values()]
    stops = np.concatenate([[0], np.cumsum(kept)])[np.cumsum(sizes)].tolist()  # of the rows that were kept
    return Dataset(
        rows=rows,
        labels=numbers[kept].astype(np.int64),
        class_names=class_names,
        image_shape=shape,
        name=printable((path if path.is_dir() else path.with_suffix("")).resolve().name) or "parquet",
        parts={} if "" in parts else dict(zip(parts, map(slice, [0, *stops], stops), strict=False)),
        notes=(*notes, *more),
        fit=fit,
    )


def _common_columns(parts: dict[str, list[Path]], coarse: bool, notes: list[str]) -> Columns:
    """Return the columns of all files; remove the parts without labels, with a note on each."""
    first = next(iter(parts.values()))[0]
    columns = find_columns(first, coarse)
    for part in list(parts)[1:]:
        if not any(has_labels(file, columns.label) for file in parts[part]):
            del parts[part]
            notes.append(f"left out, as its rows have no labels: {part}")
    for file in (file for files in parts.values() for file in files):
        if file != first and find_columns(file, coarse) != columns:
            raise DataError(f"{file}: has other columns or classes than {first.name}")
    return columns


# which files there are


def _folders(path: Path) -> list[Path]:
    """Return the folder if it has parquet files, else the folders in it that have some."""
    if _has(path):
        return [path]
    with os.scandir(path) as entries:
        inner = sorted(path / entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return [folder for folder in inner if _has(folder)]


def _has(folder: Path) -> bool:
    """Return whether there are parquet files among the first entries of a folder, which may hold a million images.

    A folder that cannot be read has none; a later attempt to read it raises the error.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        return any(_holds(entry) for entry in islice(entries, _LOOK))
    return False


def _holds(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry of a folder is a parquet file, or a folder that stands for one."""
    named = fnmatchcase(entry.name, _SHOWN)
    if not named and entry.name.lower().removeprefix(_PARTIAL) not in PARTS:
        return False
    if not entry.is_dir():
        return named
    with os.scandir(entry.path) as inner:
        return any(fnmatchcase(file.name, _SHOWN) and file.is_file() for file in islice(inner, _LOOK))


def _parts(path: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """Return the files of each part, in the order of parts and names, and notes; without parts, the part is ""."""
    if not path.is_dir():
        return {"": [path]}, []
    folders = _folders(path)
    if not folders:
        raise DataError(f"{path}: holds no parquet files")
    if len(folders) > 1:
        names = printable(", ".join(folder.name for folder in folders))
        raise DataError(f"{path}: holds several sets of parquet files; pass the path of one: {names}")
    with os.scandir(folders[0]) as entries:
        found = sorted(folders[0] / entry.name for entry in entries if _holds(entry))
    if any(fnmatchcase(place.name, _SHOWN) for place in found):
        found = [place for place in found if fnmatchcase(place.name, _SHOWN)]
    parts: dict[str, list[Path]] = {}
    others: list[tuple[Path, list[Path]]] = []
    notes = []
    for place in found:
        files = sorted(file for file in place.glob(_SHOWN) if file.is_file()) if place.is_dir() else [place]
        whole = place.name.lower().removeprefix(_PARTIAL)
        if match := _PART.match(whole):
            parts.setdefault(PARTS[match[1].lower()], []).extend(files)
            if whole != place.name.lower():
                notes.append(f"{place.name} holds only a piece of the part, by its name")
        else:
            others.append((place, files))
    if parts and others:
        names = printable(", ".join(place.name for place, _ in others))
        notes.append(f"left out, as they are not in train, validation or test: {names}")
    parts = {part: parts[part] for part in dict.fromkeys(PARTS.values()) if part in parts}
    parts = parts or {"": [file for _, files in others for file in files]}
    _require_whole(path, [file for files in parts.values() for file in files])
    return parts, notes


def _require_whole(path: Path, files: list[Path]) -> None:
    """Raise a DataError if there are fewer or more files than their names count."""
    found: dict[tuple[Path, str], list[re.Match[str]]] = {}
    for file in files:
        if match := NUMBERED.fullmatch(file.name):
            found.setdefault((file.parent, match["name"]), []).append(match)
    for (_, name), matches in found.items():
        first = matches[0]
        numbers = {int(match["number"]) for match in matches}
        count = int(first["count"])
        start = 0 if 0 in numbers else int(count in numbers)
        if missing := sorted(set(range(start, start + count)) - numbers):
            width = len(first["number"])
            lacking = listed((f"{name}-{number:0{width}}-of-{first['count']}" for number in missing), 200)
            raise DataError(f"{path}: lacks {lacking}, which {first.string} counts; fetch them, or rename the others")
        if len(matches) > count:
            raise DataError(f"{path}: holds more files {name}-... than the {count} that {first.string} counts")
