"""A list of images: a CSV or parquet file with a row for each image, which holds its path, its label and its part."""

import csv
import hashlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from onelayer.config import SourceConfig
from onelayer.data.cache import state_of
from onelayer.data.dataset import PARTS, Dataset
from onelayer.data.formats.array_labels import MOST_CLASSES
from onelayer.data.formats.image_rows import image_rows
from onelayer.data.formats.parquet_table import read_texts
from onelayer.data.progress import Progress, silent
from onelayer.data.untrusted.images import Encoded
from onelayer.data.untrusted.reading import MAX_FILE_BYTES, reading, require_file
from onelayer.errors import ConfigError, DataError
from onelayer.words import is_name, printable

_COLUMNS = ("path", "label", "split")
_NEEDED = "a list of images has the columns path and label, and split if its rows have parts"
_VECTORS = (
    "rows of numbers are not read from CSV; save them as X, and labels as y, with numpy.savez, or lists as parquet"
)
_DELIMITERS = ",;\t"  # the spreadsheets of some countries write semicolons
_HEADER_CHARACTERS = 2**16
_PARTS = ("train", "validation", "test")


class _Entry(NamedTuple):
    """A row of a list; the place is its line or row in words, and the part is "" if the list has no parts."""

    place: str
    path: str
    label: str
    part: str


def find_listing(path: Path) -> Path | None:
    """Return the path if it is a CSV file by its name, else None."""
    return path if path.suffix.lower() in (".csv", ".tsv") and not path.is_dir() else None


def read_listing(path: Path, config: SourceConfig, progress: Progress | None = None) -> Dataset:
    """Read the images of a list; from the cache if they were read before and none of the files has changed since.

    Rows are in the order of part and list. Classes are numbered in the order of their names, or of their numbers where
    all labels are numbers.

    Parameters
    ----------
    path : Path
        A CSV or parquet file with the columns path and label, and perhaps split: train, validation or test. Paths are
        relative to the folder of the file.
    config : SourceConfig
        Sizes, proportions, and images that cannot be read are treated as in a folder of images.
    progress : callable, optional
        Called with the images done and the total, from the start again for sizes and pixels.

    Raises
    ------
    DataError
        If the file or a row of it cannot be understood, none of the images is there, a class has none that can be read,
        or more than 1 % of them cannot be read and the settings do not allow that.
    ConfigError
        If coarse labels are asked for, which a list does not have.
    """
    if config.coarse:
        raise ConfigError(f"coarse does not apply to {path}; leave it out")
    entries = _entries(path)
    trained = _trained(path, entries)
    by_number = all(map(str.isdecimal, trained))
    classes = sorted(trained, key=lambda label: (int(label) if by_number else 0, label))
    numbers = {label: number for number, label in enumerate(classes)}
    images, state = _images(path, entries)
    found = image_rows(path, images, lambda image: image, state, config, progress or silent)
    kept = [entry for entry, is_kept in zip(entries, found.kept, strict=True) if is_kept]
    for label in sorted(trained - {entry.label for entry in kept}):
        raise DataError(f"{path}: none of the images of {label} can be read; mend them, or remove their rows")
    stops = np.searchsorted([_order(entry) for entry in kept], np.arange(len(_PARTS)), side="right").tolist()
    parts = dict(zip(_PARTS, map(slice, [0, *stops], stops), strict=False))
    occurring = {entry.part for entry in kept} - {""}
    return Dataset(
        rows=found.rows,
        labels=np.array([numbers[entry.label] for entry in kept], np.int64),
        class_names=tuple(classes),
        image_shape=found.image_shape,
        name=printable(path.stem) or "images",
        parts={part: rows for part, rows in parts.items() if part in occurring},
        notes=(*found.left_out(), *found.notes),
        fit=found.fit,
    )


def listed_files(path: Path) -> list[Path]:
    """Return the files in the column path of a parquet file; it needs no labels."""
    names = [name.strip() for _, name in read_texts(path, _COLUMNS[:1], "a list needs the paths of images")]
    if not names:
        raise DataError(f"{path}: holds no images")
    return [path.parent / name for name in names]


def _entries(path: Path) -> list[_Entry]:
    """Return the rows of a list, part by part."""
    rows = read_texts(path, _COLUMNS, _NEEDED) if path.suffix.lower() == ".parquet" else _of_csv(path)
    entries = [_checked(path, *row) for row in rows]
    if not entries:
        raise DataError(f"{path}: lists no images; add a row for each image, with its path and its label")
    return sorted(entries, key=_order)


def _order(entry: _Entry) -> int:
    return _PARTS.index(entry.part) if entry.part else 0


def _checked(path: Path, place: str, name: str, label: str, split: str | None) -> _Entry:
    """Return a row of a list after a check of its values; `split` is None if the list has no parts."""
    part = "" if split is None else PARTS.get(split.strip().lower(), "")
    name = name.strip()
    if not name or "\0" in name:
        raise DataError(f"{path}, {place}: has no path of an image; add it, or remove the row")
    if not is_name(label.strip()):
        what = f"the label {printable(label.strip(), 60)!r} cannot be a name" if label.strip() else "has no label"
        raise DataError(f"{path}, {place}: {what}; names have 1 to 99 printable characters")
    if split is not None and not part:
        raise DataError(f"{path}, {place}: the split {printable(split, 60)!r} is not train, validation or test")
    return _Entry(place, name, label.strip(), part)


def _trained(path: Path, entries: list[_Entry]) -> set[str]:
    """Return the labels of the training rows, of all rows if there are none; refuse another label in another part."""
    labels = {entry.label for entry in entries}
    trained = {entry.label for entry in entries if entry.part == "train"} or labels
    if len(labels) > MOST_CLASSES:
        raise DataError(f"{path}: has {len(labels):,} different labels; at most {MOST_CLASSES:,} can be classes")
    for entry in entries:
        if entry.label not in trained:
            what = f"no row of train has the label {entry.label}; add one, or remove this row"
            raise DataError(f"{path}, {entry.place}: {what}")
    return trained


def _images(path: Path, entries: list[_Entry]) -> tuple[list[Encoded], bytes]:
    """Return the images of a list, and a digest of everything that decides their contents."""
    images = [Encoded(f"{entry.place}, {printable(entry.path)}", path.parent / entry.path) for entry in entries]
    digest, missing = hashlib.sha256(b"list"), 0
    for entry, (name, file) in zip(entries, images, strict=True):
        try:
            state = state_of(os.stat(os.fspath(file)))  # noqa: PTH116  # as fast as possible
        except OSError:
            state, missing = None, missing + 1
        digest.update(f"{name}\0{entry.path}\0{state}\n".encode("utf-8", "surrogatepass"))
    if missing == len(images):
        first = f"{printable(str(images[0].content), 300)}: no such file"
        raise DataError(f"{path}, {entries[0].place}: {first}; paths are relative to the folder of the list")
    return images, digest.digest()


def _of_csv(path: Path) -> Iterator[tuple[str, str, str, str | None]]:
    """Yield place, path, label and split (None if there is no such column) of each row of a CSV file."""
    require_file(path)
    with reading(path):
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path}: is larger than {MAX_FILE_BYTES // 2**20} MiB; keep only path, label and split")
        with path.open(encoding="utf-8-sig", newline="") as file:
            try:
                header = file.readline(_HEADER_CHARACTERS)
                file.seek(0)
                delimiter = max(_DELIMITERS, key=header.count)
                reader = csv.reader(file, delimiter=delimiter, skipinitialspace=True)
                places: list[int | None] | None = None
                for cells in reader:
                    place = f"line {reader.line_num}"
                    if places is None:
                        places = _places(path, cells)
                    elif len(cells) <= max(at for at in places if at is not None) and any(cells):
                        raise DataError(f"{path}, {place}: has {len(cells)} of the columns; fill them, or remove it")
                    elif any(cells):
                        name, label, split = (None if at is None else cells[at] for at in places)
                        yield place, name or "", label or "", split
            except UnicodeDecodeError:
                raise DataError(f"{path}: is not text in UTF-8; save it as CSV UTF-8") from None
            except csv.Error as error:
                raise DataError(f"{path}, line {reader.line_num}: cannot be understood ({error})") from None


def _places(path: Path, header: list[str]) -> list[int | None]:
    """Return the places of the columns by the header of a CSV file; None for split if there is no such column."""
    names = [name.strip().lower() for name in header]
    for name in _COLUMNS:
        if names.count(name) != 1 and (name != "split" or name in names):
            held = printable(", ".join(header), 100)
            advice = f"{_NEEDED}; {_VECTORS}" if name not in names else _NEEDED
            raise DataError(f"{path}, line 1: has {names.count(name)} columns {name} (found {held}); {advice}")
    return [names.index(name) if name in names else None for name in _COLUMNS]
