"""Arrays of rows and labels: a .npz, .safetensors or .pt file of several, or .npy or .pt files of one in a folder.

The name of an array tells its role, rows or labels, and its part. Rows that a file holds in the layout of training are
mapped. All others (compressed, in several arrays, channels last, ...) are copied once: into memory, or, if they are
large, into the cache, so that only a block of them is in memory.
"""

import os
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from onelayer.data.dataset import Dataset, refuse_number
from onelayer.data.formats.array_labels import count_rows, read_labels
from onelayer.data.formats.array_names import files_of, is_array, is_npy, places_beside, places_of, role_of, stem_of
from onelayer.data.formats.array_note import in_words, note_on_rows
from onelayer.data.formats.array_rows import Shape, rows_of
from onelayer.data.progress import Progress
from onelayer.data.scan import first_not_finite
from onelayer.data.untrusted.npy import Npz, StoredArray, open_npy
from onelayer.data.untrusted.reading import file_at, reading
from onelayer.data.untrusted.tensors import Safetensors, TorchFile
from onelayer.errors import DataError
from onelayer.words import counted, printable

# The suffixes of files of several arrays.
_SEVERAL: dict[str, Callable[[Path], Npz | Safetensors | TorchFile]] = {
    ".npz": Npz,
    ".safetensors": Safetensors,
    ".pt": TorchFile,
}


def find_arrays(path: Path) -> Path | None:
    """Find arrays at a path.

    Parameters
    ----------
    path : Path
        A .npz, .safetensors or .pt file, a .npy file of rows in the folder of the file of their labels, or a folder
        with files of one array each, where shards ``img_emb_0.npy``, ``img_emb_1.npy``, ... are one array.

    Returns
    -------
    Path or None
        The path itself if it is one of these by its name, or the file in a folder of the same name.
    """
    path = file_at(path)
    if not path.is_dir():
        return path if path.suffix.lower() in (".npy", *_SEVERAL) else None
    with os.scandir(path) as entries:
        named = any(is_array(entry.name) and role_of(stem_of(entry.name))[0] == "rows" for entry in entries)
    return path if named else None


def find_unnamed(path: Path) -> Path | None:
    """Return the path if it is a folder with .npy files of any name, else None."""
    if not path.is_dir():
        return None
    with os.scandir(path) as entries:
        return path if any(is_npy(entry.name) for entry in entries) else None


def read_arrays(path: Path, progress: Progress | None = None) -> Dataset:
    """Read arrays as a data set.

    Parameters
    ----------
    path : Path
        As for `find_arrays`.
    progress : callable, optional
        Called with the bytes done and the total if rows must be copied.

    Returns
    -------
    Dataset
        Its parts are train, validation and test if the names of the arrays say so.

    Raises
    ------
    DataError
        If a file is damaged, the roles of the arrays are not clear, or the arrays do not fit each other.
    """
    with reading(path):
        if path.suffix.lower() in _SEVERAL and not path.is_dir():
            archive = _SEVERAL[path.suffix.lower()](path)
            metadata = archive.metadata if isinstance(archive, Safetensors) else {}
            places, others = places_of(path, archive.names)
            opened = {place: [archive.open(name)] for place, name in places.items()}
            name = path.stem
            made_by = note_on_rows(path, metadata)
        else:
            folder = path if path.is_dir() else path.parent
            files = files_of(folder)
            places, others = places_of(path, list(files)) if path.is_dir() else (places_beside(path, list(files)), [])
            opened = {place: [_open(file) for file in files[name]] for place, name in places.items()}
            name = folder.resolve().name
            made_by = note_on_rows(folder, {})
    rows = {part: arrays for (role, part), arrays in opened.items() if role == "rows"}
    labels = {part: arrays for (role, part), arrays in opened.items() if role == "labels"}
    sizes = [_count(rows[part], labels[part]) for part in rows]
    ends = np.cumsum(sizes).tolist()
    parts = {part: slice(end - size, end) for part, size, end in zip(rows, sizes, ends, strict=True) if part}
    values, class_names = read_labels(labels, opened.get(("class names", ""), [None])[0])
    array, image_shape, notes = rows_of([array for arrays in rows.values() for array in arrays], progress)
    if others:
        notes.append(f"not read, as their names are not known: {printable(', '.join(others))}")
    if made_by:
        notes.append(f"the rows were made by {in_words(made_by)}")
    of_set = array, values, class_names, image_shape, printable(name), parts
    return Dataset(*of_set, notes=tuple(notes), made_by=made_by)


def read_rows(path: Path, d: int, image_shape: Shape | None) -> list[tuple[str, np.ndarray]]:
    """Read rows, to classify them; labels are left out.

    Parameters
    ----------
    path : Path
        As for `find_arrays`. A file of one array, by whatever name, has rows.
    d : int
        Numbers in a row of the model's data.
    image_shape : (c, h, w) or None
        The shape that rows must have if they are images.

    Returns
    -------
    list of (str, ndarray (n, d))
        Arrays of uint8, float16, float32 or float64 with their names: the path, and that of the array if there are
        several.

    Raises
    ------
    DataError
        If the file is missing or damaged, holds no rows, or its rows do not fit the model.
    """
    with reading(path):
        stored = _stored_rows(file_at(path))
        found = []
        for name, arrays in stored.items():
            shown = str(path) if len(stored) == 1 else name
            rows, shape, _ = rows_of(arrays, None)
            if rows.shape[1] != d:
                raise DataError(f"{shown}: has rows of {rows.shape[1]:,} numbers; the model is for {d:,}")
            if shape and image_shape and shape != image_shape:
                sizes = (" x ".join(map(str, of)) for of in (shape, image_shape))
                raise DataError(f"{shown}: has images of {' where the model is for '.join(sizes)}, channels first")
            if place := first_not_finite(rows):
                refuse_number(rows, place, shown)
            found.append((shown, rows))
    return found


def _stored_rows(path: Path) -> dict[str, list[StoredArray]]:
    """Return the arrays of rows at a path, by their names in messages."""
    suffix = path.suffix.lower()
    if path.is_dir():
        files = {name: of for name, of in files_of(path).items() if role_of(name)[0] == "rows"}
        return {f"{path}: {name}": [_open(file) for file in of] for name, of in files.items()}
    if suffix not in _SEVERAL:
        return {str(path): [open_npy(path)]}
    archive = _SEVERAL[suffix](path)
    names = archive.names if len(archive.names) == 1 else [n for n in archive.names if role_of(n)[0] == "rows"]
    if not names:
        held = printable(", ".join(archive.names)) or "nothing"
        raise DataError(f"{path}: holds no rows with a known name (found {held}); call them X")
    return {f"{path}: {printable(name)}": [archive.open(name)] for name in names}


def _open(file: Path) -> StoredArray:
    """Return the array in a file of one."""
    if is_npy(file.name):
        return open_npy(file)
    archive = TorchFile(file)
    if archive.names != [file.stem]:
        raise DataError(f"{file}: holds several tensors; pass this file itself, or save one tensor in each file")
    return archive.open(file.stem)


def _count(rows: list[StoredArray], labels: list[StoredArray]) -> int:
    """Return the number of rows of a part, after a check that it, or each of its shards, has as many labels."""
    if len(labels) == 1:
        return count_rows(_joined(rows), labels[0])
    if len(rows) != len(labels):
        counts = f"{counted(len(labels), 'shard')} of labels for {counted(len(rows), 'file')} of rows"
        raise DataError(f"{labels[0].path.parent}: holds {counts}; save the labels of each shard, or all in labels.npy")
    return sum(map(count_rows, rows, labels))


def _joined(arrays: list[StoredArray]) -> StoredArray:
    """Return the header of arrays that lie one after the other."""
    first = arrays[0]
    if len(arrays) == 1:
        return first
    shape = sum(array.shape[0] for array in arrays if array.shape), *first.shape[1:]
    return replace(first, name=f"{first.path.parent}: {stem_of(first.path.name)} in {len(arrays)} shards", shape=shape)
