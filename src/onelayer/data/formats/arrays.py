"""Arrays of rows and labels: a .npz, .safetensors or .pt file of several, or .npy or .pt files of one in a folder.

The name of an array tells its role, rows or labels, and its part. Rows that a file holds in the layout of training are
mapped. All others (compressed, in several arrays, channels last, ...) are copied once: into memory, or, if they are
large, into the cache, so that only a block of them is in memory.
"""

import hashlib
import json
import os
import re
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np

from onelayer.data.cache import MEMORY_BYTES, cache_directory, cached_rows, state_of
from onelayer.data.dataset import PARTS, Dataset, refuse_number
from onelayer.data.formats.array_labels import count_rows, read_labels
from onelayer.data.progress import Progress
from onelayer.data.scan import first_not_finite
from onelayer.data.untrusted.npy import Npz, StoredArray, open_npy
from onelayer.data.untrusted.reading import file_at, reading
from onelayer.data.untrusted.tensors import Safetensors, TorchFile
from onelayer.errors import DataError
from onelayer.words import printable

_ROLES = {
    "rows": ("x", "images", "features", "embeddings", "data", "img_emb"),
    "labels": ("y", "labels", "label", "targets", "target"),
    "class names": ("class_names", "label_names", "target_names"),
}
_PART = "|".join(PARTS)
_NAMES = {
    role: re.compile(rf"(?:({_PART})[_-]?)?(?:{'|'.join(names)})(?:[_-]?({_PART}))?") for role, names in _ROLES.items()
}
_SHARD = re.compile(r"(img_emb)_(\d{1,9})")  # a piece of the embeddings of images, as programs for many images write
_ONE = (".npy", ".pt")  # suffixes of files of one array, and of several
_SEVERAL: dict[str, Callable[[Path], Npz | Safetensors | TorchFile]] = {
    ".npz": Npz,
    ".safetensors": Safetensors,
    ".pt": TorchFile,
}
_UNDERSTOOD = (
    f"rows are called {', '.join(_ROLES['rows'])}, labels {', '.join(_ROLES['labels'])}, "
    "both alone or with _train, _val and _test"
)

Shape = tuple[int, int, int]
Places = dict[tuple[str, str], str]  # the names of arrays by their role and part


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
        named = any(_is_array(entry.name) and _role(_stem(entry.name))[0] == "rows" for entry in entries)
    return path if named else None


def find_unnamed(path: Path) -> Path | None:
    """Return the path if it is a folder with .npy files of any name, else None."""
    if not path.is_dir():
        return None
    with os.scandir(path) as entries:
        return path if any(_is_npy(entry.name) for entry in entries) else None


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
            places, others = _places(path, archive.names)
            opened = {place: [archive.open(name)] for place, name in places.items()}
            name = path.stem
        else:
            folder = path if path.is_dir() else path.parent
            files = _files(folder)
            places, others = _places(path, list(files)) if path.is_dir() else (_places_beside(path, list(files)), [])
            opened = {place: [_open(file) for file in files[name]] for place, name in places.items()}
            name = folder.resolve().name
    rows = {part: arrays for (role, part), arrays in opened.items() if role == "rows"}
    labels = {part: arrays[0] for (role, part), arrays in opened.items() if role == "labels"}
    sizes = [count_rows(_joined(rows[part]), labels[part]) for part in rows]
    ends = np.cumsum(sizes).tolist()
    parts = {part: slice(end - size, end) for part, size, end in zip(rows, sizes, ends, strict=True) if part}
    values, class_names = read_labels(labels, opened.get(("class names", ""), [None])[0])
    array, image_shape, notes = _read_rows([array for arrays in rows.values() for array in arrays], progress)
    if others:
        notes.append(f"not read, as their names are not known: {printable(', '.join(others))}")
    return Dataset(array, values, class_names, image_shape, printable(name), parts, notes=tuple(notes))


def read_rows(path: Path, d: int, image_shape: Shape | None) -> np.ndarray:
    """Read rows without labels, to classify them.

    Parameters
    ----------
    path : Path
        A .npy file.
    d : int
        Numbers in a row of the model's data.
    image_shape : (c, h, w) or None
        The shape that rows must have if they are images.

    Returns
    -------
    rows : ndarray (n, d), uint8, float16, float32 or float64

    Raises
    ------
    DataError
        If the file is missing or damaged, or its rows do not fit the model.
    """
    rows, found, _ = _read_rows([open_npy(path)], None)
    if rows.shape[1] != d:
        raise DataError(f"{path}: has rows of {rows.shape[1]:,} numbers; the model is for {d:,}")
    if found and image_shape and found != image_shape:
        sizes = (" x ".join(map(str, shape)) for shape in (found, image_shape))
        raise DataError(f"{path}: has images of {' where the model is for '.join(sizes)}, channels first")
    if place := first_not_finite(rows):
        refuse_number(rows, place, str(path))
    return rows


# The roles of arrays, by their names


def _is_npy(name: str) -> bool:
    return name.lower().endswith(".npy")


def _is_array(name: str) -> bool:
    return name.lower().endswith(_ONE)


def _stem(name: str) -> str:
    """Return the name of the array in a file of this name; shards have one name."""
    stem = Path(name).stem
    match = _SHARD.fullmatch(stem)
    return match[1] if match else stem


def _files(folder: Path) -> dict[str, list[Path]]:
    """Return the files of each array in a folder, by its name; an array in shards has several, in their order."""
    found = [file_at(file) for file in sorted(folder.iterdir()) if _is_array(file.name)]
    files: dict[str, list[Path]] = {}
    for file in (file for file in found if not file.is_dir()):
        files.setdefault(_stem(file.name), []).append(file)
    for name, several in files.items():
        numbers = {file: int(match[2]) for file in several if (match := _SHARD.fullmatch(file.stem))}
        if len(several) > 1 and (len(numbers) < len(several) or len(set(numbers.values())) < len(several)):
            names = printable(", ".join(file.name for file in several))
            raise DataError(f"{folder}: {names} are the same array by their names; keep one of them")
        several.sort(key=lambda file: numbers.get(file, 0))
        if numbers:
            start = min(1, *numbers.values())
            if missing := sorted(set(range(start, max(numbers.values()))) - set(numbers.values())):
                raise DataError(f"{folder}: lacks the shard {name}_{missing[0]}; fetch it, or number the others anew")
    return files


def _open(file: Path) -> StoredArray:
    """Return the array in a file of one."""
    if _is_npy(file.name):
        return open_npy(file)
    archive = TorchFile(file)
    if archive.names != [file.stem]:
        raise DataError(f"{file}: holds several tensors; pass this file itself, or save one tensor in each file")
    return archive.open(file.stem)


def _joined(arrays: list[StoredArray]) -> StoredArray:
    """Return the header of arrays that lie one after the other."""
    first = arrays[0]
    if len(arrays) == 1:
        return first
    shape = sum(array.shape[0] for array in arrays if array.shape), *first.shape[1:]
    return replace(first, name=f"{first.path.parent}: {_stem(first.path.name)} in {len(arrays)} shards", shape=shape)


def _role(name: str) -> tuple[str, str]:
    """Return the role of an array of this name (rows, labels, class names or "") and its part ("" for all rows)."""
    for role, pattern in _NAMES.items():
        if (match := pattern.fullmatch(name.lower())) and not all(match.groups()):
            part = PARTS.get(match[1] or match[2] or "", "")
            return (role, part) if role != "class names" or not part else ("", "")
    return "", ""


def _places(source: Path, names: list[str]) -> tuple[Places, list[str]]:
    """Return the places of the arrays, each part's rows before its labels, and the names without a place."""
    found: Places = {}
    others = []
    for name in names:
        place = _role(name)
        if not place[0]:
            others.append(name)
        elif place in found:
            what = " ".join(filter(None, [place[1], place[0]]))
            both = f"{found[place]} and {name}"
            raise DataError(f"{source}: {both} could both be the {what}; remove or rename one")
        else:
            found[place] = name
    parts = [part for part in ("", *dict.fromkeys(PARTS.values())) if {("rows", part), ("labels", part)} & set(found)]
    if not parts:
        held = printable(", ".join(others)) or "nothing"
        raise DataError(f"{source}: holds no array with a known name (found {held}); {_UNDERSTOOD}")
    if len(parts) > 1 and not parts[0]:
        pair = " and ".join(found.get(("rows", part)) or found["labels", part] for part in parts[:2])
        raise DataError(f"{source}: holds {pair}; remove the array of all rows, or those of the parts")
    for part in parts:
        for role, other in (("rows", "labels"), ("labels", "rows")):
            if (role, part) not in found:
                held, lone = ", ".join(found.values()), found[other, part]
                raise DataError(f"{source}: {lone} is there without {role} (found {held}); {_UNDERSTOOD}")
    ordered = [(role, part) for part in parts for role in ("rows", "labels")]
    return {place: found[place] for place in [*ordered, ("class names", "")] if place in found}, others


def _places_beside(path: Path, names: list[str]) -> Places:
    """Return the places of a .npy file of rows and of its labels; the other files in its folder do not count."""
    role, part = _role(path.stem)
    if role != "rows":
        what = f"is a file of {role}; pass the file of rows" if role else "has a name that is not known"
        raise DataError(f"{path}: {what}; {_UNDERSTOOD}")
    beside = [name for name in names if _role(name) in (("labels", part), ("class names", ""))]
    found, _ = _places(path, [path.stem, *beside])
    return {(role, ""): name for (role, _), name in found.items()}


# Rows


def _read_rows(stored: list[StoredArray], progress: Progress | None) -> tuple[np.ndarray, Shape | None, list[str]]:
    """Return the rows (n, d) of all arrays, one after the other, the shape of the images, and notes."""
    first = stored[0]
    image_shape, channels_last = _picture(first)
    for array in stored[1:]:
        if (array.dtype.newbyteorder("="), array.shape[1:]) != (first.dtype.newbyteorder("="), first.shape[1:]):
            raise DataError(
                f"{array.name} is {array.dtype} of the shape {array.shape}, but {first.name} {first.dtype} "
                f"of {first.shape}; rows of all parts must have one type and shape"
            )
    notes = []
    dtype = first.dtype.newbyteorder("=")
    if dtype in (np.float16, np.float64):
        notes.append(
            f"the rows are {dtype}, so NumPy does the arithmetic; the compiled kernel, which is faster, needs float32"
        )
    reason = _reason_to_copy(stored, channels_last)
    if reason is None:
        return first.map().reshape(first.shape[0], -1), image_shape, notes
    shape = sum(array.shape[0] for array in stored), int(np.prod(first.shape[1:]))
    total = sum(array.nbytes for array in stored)
    fill = _filler(stored, channels_last, total, progress)
    if total <= MEMORY_BYTES:
        rows = np.empty(shape, dtype)
        fill(rows)
    else:
        rows, _ = cached_rows(_key(stored), shape, fill, dtype)
        folder = cache_directory() / "rows"
        notes.append(f"training reads a copy of the rows in {folder} ({total / 1e9:.1f} GB), as {reason}")
    return rows, image_shape, notes


def _picture(array: StoredArray) -> tuple[Shape | None, bool]:
    """Return the shape (c, h, w) of the images, None for features, and whether the channels come last in the file."""
    sizes = array.shape[1:]
    what = f"{array.name}: is {printable(str(array.dtype))} of the shape {array.shape}"
    if array.dtype.newbyteorder("=") not in (np.uint8, np.float16, np.float32, np.float64):
        raise DataError(f"{what}; save pixels as uint8, and other numbers with X.astype(numpy.float32)")
    if not 1 <= len(sizes) <= 3:
        raise DataError(f"{what}; rows are features (n, d), or images (n, h, w) or (n, h, w, c)")
    if len(sizes) == 1:
        return None, False
    if array.dtype != np.uint8:
        raise DataError(f"{what}; save images as uint8 from 0 to 255, or features with X.reshape(len(X), -1)")
    if len(sizes) == 2:
        return (1, sizes[0], sizes[1]), False
    if sizes[2] in (1, 3):
        return (sizes[2], sizes[0], sizes[1]), True
    if sizes[0] in (1, 3):
        return (sizes[0], sizes[1], sizes[2]), False
    alpha = "; remove the transparency with X[..., :3]" if sizes[2] == 4 else ""
    raise DataError(f"{what}; images (n, h, w, c) have 1 or 3 channels{alpha}")


def _reason_to_copy(stored: list[StoredArray], channels_last: bool) -> str | None:
    """Return the reason why rows cannot be mapped; None if they can."""
    first = stored[0]
    if len(stored) > 1:
        return "each part is a separate array" if first.path == stored[-1].path else "they are in several files"
    if first.member is not None:
        return "they are compressed"
    if channels_last and first.shape[3] > 1:
        return "their channels come last"
    if first.fortran:
        return "they are in Fortran order"
    if not first.dtype.isnative:
        return "their bytes are in the opposite order"
    if first.offset % first.dtype.alignment:
        return "a .npz file does not align them; a .npy file needs no copy"
    return None


def _filler(
    stored: list[StoredArray], channels_last: bool, total: int, progress: Progress | None
) -> Callable[[np.ndarray], tuple[int, dict[str, object]]]:
    """Return the function that copies the arrays into rows (n, d), as `cached_rows` calls it."""

    def fill(rows: np.ndarray) -> tuple[int, dict[str, object]]:
        start = done = 0
        for array in stored:
            for block in array.blocks():
                images = block.transpose(0, 3, 1, 2) if channels_last else block
                rows[start : start + len(block)] = images.reshape(len(block), -1)
                start += len(block)
                done += block.nbytes
                if progress:
                    progress(done, total)
        return start, {}

    return fill


def _key(stored: list[StoredArray]) -> str:
    """Return the key of a copy of rows: a digest of the states of the files and the places of the arrays in them."""
    facts = []
    for array in stored:
        state = state_of(array.path.stat())
        facts.append([str(array.path.resolve()), *state, array.name, array.offset])
    return hashlib.sha256(json.dumps(["arrays", facts]).encode()).hexdigest()
