"""IDX files: MNIST, Fashion-MNIST, KMNIST and EMNIST as they are published, and other sets in the same format.

A part of a set is a pair of files, one with the images and one with the labels, plain or packed by gzip.
"""

import math
import re
from collections.abc import Iterable
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import NamedTuple, cast

import numpy as np

from onelayer.data.dataset import PARTS, Dataset, require_labels
from onelayer.data.formats.idx_sets import SETS, IdxSet, PublishedFile
from onelayer.data.progress import Progress, silent
from onelayer.data.untrusted.idx import IdxFile
from onelayer.data.untrusted.reading import reading
from onelayer.errors import DataError
from onelayer.words import is_name, printable

_PARTS = {**PARTS, "t10k": "test"}
# Hidden files do not count: a Mac writes files with these names and a dot before them to the disks of others.
_IMAGES = re.compile(rf"(?P<set>(?!\.).*?)(?P<part>{'|'.join(_PARTS)})-images[-.]idx[34]-ubyte(\.gz)?")
_KNOWN = re.compile(rf"(?!\.).*?({'|'.join(_PARTS)})-(images[-.]idx[34]|labels[-.]idx1)-ubyte(\.gz)?")
_INNER = ("raw", "gzip")  # where torchvision, and EMNIST's archive, put the files
_MAX_MAPPING_BYTES = 2**16

_Files = dict[str, tuple[IdxFile, IdxFile]]  # the images and the labels of each part


def find_idx(path: Path) -> Path | None:
    """Find IDX files.

    Parameters
    ----------
    path : Path
        A file of images with a name like MNIST's, or a folder with such files, or a folder with them in
        a folder raw or gzip. A folder with the name of a file may hold that file.

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
    """Find a whole published set in a folder: in a folder in it that has the set's name, or in the folder itself."""
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
        As `find_idx` returns it. For a file of images, its labels and the other parts of its set are read too.
    progress : callable, optional
        Called with the bytes done and the bytes in all.
    expected : IdxSet, optional
        The published set that the files must be.

    Returns
    -------
    Dataset
        Its classes are those of the published set if it is one, else the labels that occur.

    Raises
    ------
    DataError
        If a file is missing or damaged, promises more than it holds, or belongs to another published set than expected.
    """
    prefix, pairs = _pairs(path)
    folder = _home(path)
    with ExitStack() as stack:
        files = {part: (IdxFile(pair.images, stack), IdxFile(pair.labels, stack)) for part, pair in pairs.items()}
        shape = _common_shape(files)
        rows, values, parts = _read_parts(files, math.prod(shape), progress or silent)
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
    """The paths of the two files of a part."""

    images: Path
    labels: Path


def _home(path: Path) -> Path:
    """Return the folder of a set: of the file, or of the folder with the name of a file, or the folder itself."""
    folder = path if path.is_dir() else path.parent
    return folder.parent if _KNOWN.fullmatch(folder.name) else folder


def _files(folder: Path) -> dict[str, Path]:
    """Return the files of a set in a folder by their names, sorted, and those in folders with the name of a file."""
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
    """Return the names of a file with a hyphen and with a dot before idx."""
    return re.sub(r"\.(?=idx)", "-", name), re.sub(r"-(?=idx)", ".", name)


def _pairs(path: Path) -> tuple[str, dict[str, _Pair]]:
    """Return the common beginning of the names of a set's files, and its parts in their order."""
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
        chosen[part] = match  # the packed file comes last: it is the published one
    if not path.is_dir():
        match = next(match for match in images if match.string == path.name)
        chosen[_PARTS[match["part"]]] = match
    pairs = {part: _Pair(files[match.string], _labels(files, match)) for part, match in chosen.items()}
    return images[0]["set"], {part: pairs[part] for part in _PARTS.values() if part in pairs}


def _images(files: Iterable[str]) -> list[re.Match[str]]:
    """Return the matches of the names of files of images."""
    return [match for name in files if (match := _IMAGES.fullmatch(name))]


def _labels(files: dict[str, Path], images: re.Match[str]) -> Path:
    """Return the file of labels that belongs to a file of images."""
    names = [f"{images['set']}{images['part']}-labels{dot}idx1-ubyte" for dot in "-."]
    for name in names:
        for file in (f"{name}.gz", name):
            if file in files:
                return files[file]
    raise DataError(f"{files[images.string]}: there are no labels beside it; put {names[0]} or {names[0]}.gz there")


# which set it is, and its classes


def _common_shape(files: _Files) -> tuple[int, ...]:
    """Return the shape (h, w) or (h, w, c) of all images."""
    first, _ = next(iter(files.values()))
    for file, labels in files.values():
        where = f"{file.path}: holds {file.in_words} numbers"
        if len(file.sizes) not in (3, 4) or (len(file.sizes) == 4 and file.sizes[3] not in (1, 3)):
            raise DataError(f"{where}; expected images, (n, h, w), or (n, h, w, c) with 1 or 3 channels")
        if 0 in file.sizes:
            raise DataError(f"{where}, which are not images")
        if file.sizes[1:] != first.sizes[1:]:
            raise DataError(f"{where}, but {first.path.name} {first.in_words}; all images of a set have one size")
        if labels.sizes != file.sizes[:1]:
            raise DataError(f"{labels.path}: holds {labels.in_words} labels for {file.sizes[0]:,} images")
    return first.sizes[1:]


def _read_parts(files: _Files, d: int, progress: Progress) -> tuple[np.ndarray, np.ndarray, dict[str, slice]]:
    """Read the rows (n, d) and the labels (n,) of all parts, both uint8, and the places of each part."""
    stops = np.cumsum([images.sizes[0] for images, _ in files.values()]).tolist()
    parts = dict(zip(files, map(slice, [0, *stops], stops), strict=False))
    rows = np.empty((stops[-1], d), np.uint8)
    labels = np.empty(len(rows), np.uint8)
    done, total = 0, sum(file.length for pair in files.values() for file in pair)
    for number, array in enumerate((rows, labels)):
        for part, pair in files.items():
            for read in pair[number].read(array[parts[part]].reshape(-1)):
                progress(done + read, total)
            done += pair[number].length
    return rows, labels, parts


def _permute(rows: np.ndarray, shape: tuple[int, ...], axes: tuple[int, ...]) -> tuple[int, ...]:
    """Reorder the axes of the images (of this shape) in rows (n, d), in place; return the new shape."""
    for start in range(0, len(rows), 1024):
        block = rows[start : start + 1024]
        block[:] = block.reshape(-1, *shape).transpose(0, *(axis + 1 for axis in axes)).reshape(len(block), -1)
    return tuple(shape[axis] for axis in axes)


def _named_after(folder: Path) -> IdxSet | None:
    """Return the published set whose name a folder has."""
    name = (folder.parent if folder.name in _INNER else folder).name.lower()
    return next((published for published in SETS if name in published.folders), None)


def _published(files: _Files) -> IdxSet | None:
    """Return the published set to which one of the files belongs."""
    for kind in ("md5", "plain_md5"):  # hashing the unpacked file takes longer
        for published in SETS:
            sums = {getattr(file, kind) for file in published.files.values()}
            if any(getattr(file, kind) in sums for pair in files.values() for file in pair):
                return published
    return None


def _compared(files: _Files, published: IdxSet | None) -> tuple[bool | None, list[str]]:
    """Return whether the files are the published ones, None where that is not known, and a note on each other file."""
    if published is None:
        return None, []
    verdicts = []
    notes = []
    for number, kind in enumerate(("images-idx3", "labels-idx1")):
        for part, pair in files.items():
            name = f"{'t10k' if part == 'test' else part}-{kind}-ubyte"
            verdicts.append(_is_official(pair[number], published.files.get(name)))
            if verdicts[-1] is False:
                what = f"{pair[number].path.name} differs from the published file (MD5 {pair[number].md5})"
                notes.append(f"not the official {published.name}: {what}")
    return None if not notes and None in verdicts else not notes, notes


def _is_official(file: IdxFile, published: PublishedFile | None) -> bool | None:
    """Return whether a file is the published one; None where there is nothing to compare with."""
    if published is None:
        return False
    if not file.packed and published.plain_md5 is None:
        return None
    return file.md5 == published.md5 or file.plain_md5 == published.plain_md5


def _classes(
    values: np.ndarray, published: IdxSet | None, mapping_path: Path, path: Path
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return labels from 0, (n,) int64, and the names of the classes: the set's, else of the labels that occur."""
    if published:
        require_labels(values, len(published.class_names), str(path))
        return values.astype(np.int64), published.class_names
    occurring, numbers = np.unique(values, return_inverse=True)
    mapping = _mapping(mapping_path)
    names = tuple(mapping.get(label, str(label)) for label in occurring.tolist())
    return numbers.astype(np.int64), names


def _mapping(path: Path) -> dict[int, str]:
    """Return the characters that EMNIST's labels stand for; none if there is no file of them.

    Each of its lines is a label and the codes of its characters.
    """
    with reading(path):
        if not path.is_file():
            return {}
        if path.stat().st_size > _MAX_MAPPING_BYTES:
            raise DataError(f"{path}: is too large for a table of EMNIST's labels; remove it")
        lines = path.read_bytes().decode("utf-8", "replace").splitlines()
    names: dict[int, str] = {}
    for line, words in enumerate(map(str.split, lines), 1):
        if not words:
            continue
        if len(words) < 2 or not all(re.fullmatch("[0-9]{1,3}", word) for word in words):
            raise DataError(f"{path}: line {line} is not a label and the codes of its characters; mend it")
        name = "".join(chr(int(code)) for code in words[1:])
        if not is_name(name) or name in names.values():  # the printed names of two classes must differ
            raise DataError(f"{path}: line {line} does not give the label a name of its own; mend it")
        names[int(words[0])] = name
    return names


def _name(folder: Path, prefix: str) -> str:
    """Return the name of a set that is not published: that of its files, else of their folder."""
    name = prefix.strip("-_. ").replace("emnist", "EMNIST") or (folder.parent if folder.name in _INNER else folder).name
    return printable(name) or "IDX"
