"""Arrays of rows and labels that NumPy saved: a .npz file, or .npy files side by side.

An array's name says what it is: rows or labels, and of which part. Rows that lie in a file as training reads them are
mapped. All others (compressed, in several pieces, channels last, ...) are copied once: into memory, or, where they are
large, into the cache, so that no more than a block of them is in memory.
"""

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np

from onelayer.data.cache import MEMORY_BYTES, cache_directory, cached_rows, state_of
from onelayer.data.dataset import PARTS, Dataset, refuse_number
from onelayer.data.progress import Progress
from onelayer.data.scan import first_not_finite
from onelayer.data.untrusted.npy import Npz, StoredArray, open_npy
from onelayer.data.untrusted.reading import file_at
from onelayer.errors import DataError
from onelayer.words import is_name, printable

MOST_CLASSES = 10_000  # a confusion matrix of more takes a gigabyte

_ROLES = {
    "rows": ("x", "images", "features", "embeddings", "data"),
    "labels": ("y", "labels", "label", "targets", "target"),
    "class names": ("class_names", "label_names", "target_names"),
}
_PART = "|".join(PARTS)
_NAMES = {
    role: re.compile(rf"(?:({_PART})[_-]?)?(?:{'|'.join(names)})(?:[_-]?({_PART}))?") for role, names in _ROLES.items()
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
        A .npz file, a .npy file of rows beside that of their labels, or a folder with such files.

    Returns
    -------
    Path or None
        The path itself, if it is one of these by its name; where a folder is called as a file, the file in it.
    """
    path = file_at(path)
    if not path.is_dir():
        return path if path.suffix.lower() in (".npy", ".npz") else None
    with os.scandir(path) as entries:
        named = any(_is_npy(entry.name) and _role(Path(entry.name).stem)[0] == "rows" for entry in entries)
    return path if named else None


def find_unnamed(path: Path) -> Path | None:
    """The path, if it is a folder with .npy files, whatever they are called."""
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
        Called with the bytes done and the bytes in all, where rows must be copied.

    Returns
    -------
    Dataset
        Its parts are train, validation and test, where the names of the arrays say so.

    Raises
    ------
    DataError
        If a file is damaged, it is unclear which array is which, or they do not fit each other.
    """
    try:
        if path.suffix.lower() == ".npz" and not path.is_dir():
            archive = Npz(path)
            places, others = _places(path, archive.names)
            opened = {place: archive.open(name) for place, name in places.items()}
            name = path.stem
        else:
            folder = path if path.is_dir() else path.parent
            found = map(file_at, sorted(file for file in folder.iterdir() if _is_npy(file.name)))
            files = {file.stem: file for file in found if not file.is_dir()}
            places, others = _places(path, list(files)) if path.is_dir() else (_places_beside(path, list(files)), [])
            opened = {place: open_npy(files[name]) for place, name in places.items()}
            name = folder.resolve().name
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror or error})") from None
    rows = {part: array for (role, part), array in opened.items() if role == "rows"}
    labels = {part: array for (role, part), array in opened.items() if role == "labels"}
    sizes = [_count_rows(rows[part], labels[part]) for part in rows]
    ends = np.cumsum(sizes).tolist()
    parts = {part: slice(end - size, end) for part, size, end in zip(rows, sizes, ends, strict=True) if part}
    values, class_names = _read_labels(labels, opened.get(("class names", "")))
    array, image_shape, notes = _read_rows(list(rows.values()), progress)
    if others:
        notes.append(f"not read: {printable(', '.join(others))} (by name neither rows nor labels)")
    return Dataset(array, values, class_names, image_shape, printable(name), parts, notes=tuple(notes))


def read_rows(path: Path, d: int, image_shape: Shape | None) -> np.ndarray:
    """Read rows alone, to classify them.

    Parameters
    ----------
    path : Path
        A .npy file.
    d : int
        Numbers in a row that are needed.
    image_shape : (c, h, w) or None
        That images need, if they are some.

    Returns
    -------
    rows : ndarray (n, d), uint8, float16, float32 or float64

    Raises
    ------
    DataError
        If the file is missing or damaged, or holds no such rows.
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


# Which array is which


def _is_npy(name: str) -> bool:
    return name.lower().endswith(".npy")


def _role(name: str) -> tuple[str, str]:
    """What an array of this name is: rows, labels, class names, or empty; and of which part, empty for all rows."""
    for role, pattern in _NAMES.items():
        if (match := pattern.fullmatch(name.lower())) and not all(match.groups()):
            part = PARTS.get(match[1] or match[2] or "", "")
            return (role, part) if role != "class names" or not part else ("", "")
    return "", ""


def _places(source: Path, names: list[str]) -> tuple[Places, list[str]]:
    """The arrays that are rows, labels or names of classes, each part's rows before its labels; and the others."""
    found: Places = {}
    others = []
    for name in names:
        place = _role(name)
        if not place[0]:
            others.append(name)
        elif place in found:
            what = " ".join(filter(None, [place[1], place[0]]))
            both = f"{found[place]} and {name}"
            raise DataError(f"{source}: {both} could both be the {what}; keep one of them, or rename the other")
        else:
            found[place] = name
    parts = [part for part in ("", *dict.fromkeys(PARTS.values())) if {("rows", part), ("labels", part)} & set(found)]
    if not parts:
        held = printable(", ".join(others)) or "nothing"
        raise DataError(f"{source}: holds {held}, of which none is known by its name; {_UNDERSTOOD}")
    if len(parts) > 1 and not parts[0]:
        pair = " and ".join(found.get(("rows", part)) or found["labels", part] for part in parts[:2])
        raise DataError(f"{source}: holds {pair}; keep either all rows or their parts")
    for part in parts:
        for role, other in (("rows", "labels"), ("labels", "rows")):
            if (role, part) not in found:
                held, lone = ", ".join(found.values()), found[other, part]
                raise DataError(f"{source}: {lone} has no {role} beside it (there are {held}); {_UNDERSTOOD}")
    ordered = [(role, part) for part in parts for role in ("rows", "labels")]
    return {place: found[place] for place in [*ordered, ("class names", "")] if place in found}, others


def _places_beside(path: Path, names: list[str]) -> Places:
    """As `_places`, of one .npy file of rows and the labels beside it; what else its folder holds does not count."""
    role, part = _role(path.stem)
    if role != "rows":
        what = f"is a file of {role}; pass that of the rows" if role else "is not known by its name"
        raise DataError(f"{path}: {what}; {_UNDERSTOOD}")
    beside = [name for name in names if _role(name) in (("labels", part), ("class names", ""))]
    found, _ = _places(path, [path.stem, *beside])
    return {(role, ""): name for (role, _), name in found.items()}


# Labels


def _count_rows(rows: StoredArray, labels: StoredArray) -> int:
    if len(labels.shape) != 1 and labels.shape[1:] != (1,):
        advice = ": save y.argmax(axis=1)" if _is_one_hot(labels) else ""
        raise DataError(f"{labels.name}: labels have the shape {labels.shape}; expected one for each row{advice}")
    if labels.dtype.kind not in "iuUS":
        raise DataError(
            f"{labels.name}: labels are {printable(str(labels.dtype))}; expected integers or strings, "
            "as y.astype(int) makes them"
        )
    if rows.shape[:1] != labels.shape[:1]:
        count = f"{rows.shape[0]:,} rows" if rows.shape else "no rows"
        raise DataError(f"{rows.name} has {count}, but {labels.name} {labels.shape[0]:,} labels")
    return rows.shape[0]


def _is_one_hot(labels: StoredArray) -> bool:
    """Whether every row of labels (n, K) is zeros and exactly one 1."""
    if len(labels.shape) != 2 or labels.dtype.kind not in "biuf":
        return False
    blocks = (block.astype(float) for block in labels.blocks())
    return all(bool(((block == 0) | (block == 1)).all() and (block.sum(axis=1) == 1).all()) for block in blocks)


def _read_labels(stored: Mapping[str, StoredArray], names: StoredArray | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Labels 0..K-1 of all parts, one after the other, and the names of the K classes."""
    first = next(iter(stored.values()))
    numbers = first.dtype.kind in "iu"
    for array in stored.values():
        if (array.dtype.kind in "iu") != numbers:
            raise DataError(f"{array.name} is {array.dtype}, {first.name} is {first.dtype}; save labels of one kind")
    of_part = {part: _values(array) for part, array in stored.items()}
    found, labels = np.unique(np.concatenate(list(of_part.values())), return_inverse=True)
    if len(found) > MOST_CLASSES:
        raise DataError(f"{first.name}: has {len(found):,} different labels; more than {MOST_CLASSES:,} are no classes")
    # Train comes first, where there are parts.
    known = np.bincount(labels[: len(of_part[next(iter(of_part))])], minlength=len(found)) > 0
    if names is None:
        if not known.all():
            word = _word(found[~known][0], first)
            where = next(a for part, a in stored.items() if found[~known][0] in of_part[part])
            raise DataError(f"{where.name}: the label {word} occurs only here, not in {first.name}; no row trains it")
        class_names = tuple(_word(value, first) for value in found)
        places = np.arange(len(found))
    else:
        class_names = _class_names(names)
        K = len(class_names)
        at = {name: k for k, name in enumerate(class_names)}
        if numbers:
            places = np.where((found >= 0) & (found < K), found, -1)
        else:
            places = np.array([at.get(_word(value, first), -1) for value in found])
        if (places < 0).any():
            word = _word(found[places < 0][0], first)
            needed = f"labels are 0 to {K - 1}" if numbers else "it is none of them"
            raise DataError(f"{first.name}: there is a label {word}, but {names.name} has {K} names; {needed}")
    if len(set(class_names)) < len(class_names):
        raise DataError(f"{(names or first).name}: two classes have the same name")
    return places[labels].astype(np.int64), class_names


def _values(array: StoredArray) -> np.ndarray:
    """Labels as they are, in memory: int64, or str."""
    values = np.concatenate(list(array.blocks())).reshape(-1)
    if array.dtype.kind in "iu":
        if values.max() > np.iinfo(np.int64).max:
            raise DataError(f"{array.name}: holds the label {values.max()}, which is more than an int64 can be")
        return values.astype(np.int64)
    if array.dtype.kind == "S":
        try:
            return np.char.decode(values, "utf-8")
        except UnicodeDecodeError:
            raise DataError(f"{array.name}: a label is not UTF-8; save labels as str") from None
    values = values.astype(values.dtype.newbyteorder("="))
    if values.view(np.uint32).max() > sys.maxunicode:  # which NumPy finds only when a label is looked at
        raise DataError(f"{array.name}: is damaged: a label is no text")
    return values


def _class_names(array: StoredArray) -> tuple[str, ...]:
    if array.dtype.kind not in "iuUS" or len(array.shape) != 1 or array.shape[0] > MOST_CLASSES:
        raise DataError(f"{array.name}: is {array.dtype} of the shape {array.shape}; expected the names of the classes")
    return tuple(_word(value, array) for value in _values(array))


def _word(value: object, array: StoredArray) -> str:
    """A label as the name of a class, which is printed: without control characters, and not long."""
    word = str(value)
    if not is_name(word):
        what = repr(word)[:60]
        raise DataError(f"{array.name}: the label {what} is no name; names have 1 to 99 printable characters")
    return word


# Rows


def _read_rows(stored: list[StoredArray], progress: Progress | None) -> tuple[np.ndarray, Shape | None, list[str]]:
    """Rows (n, d) of all arrays, one after the other, the shape of the images, and notes."""
    first = stored[0]
    image_shape, channels_last = _picture(first)
    for array in stored[1:]:
        if (array.dtype.newbyteorder("="), array.shape[1:]) != (first.dtype.newbyteorder("="), first.shape[1:]):
            raise DataError(
                f"{array.name} is {array.dtype} of the shape {array.shape}, but {first.name} {first.dtype} "
                f"of {first.shape}; rows of all parts must be alike"
            )
    notes = []
    dtype = first.dtype.newbyteorder("=")
    if dtype in (np.float16, np.float64):
        notes.append(f"the rows are {dtype}, which NumPy trains; the compiled kernel, which is faster, takes float32")
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
    """The shape (c, h, w) of the images that rows are, if they are, and whether their channels come last."""
    sizes = array.shape[1:]
    what = f"{array.name}: is {printable(str(array.dtype))} of the shape {array.shape}"
    if array.dtype.newbyteorder("=") not in (np.uint8, np.float16, np.float32, np.float64):
        raise DataError(f"{what}; save pixels as uint8, and other numbers with X.astype(numpy.float32)")
    if not 1 <= len(sizes) <= 3:
        raise DataError(f"{what}; rows are features (n, d), or images (n, h, w) or (n, h, w, c)")
    if len(sizes) == 1:
        return None, False
    if array.dtype != np.uint8:
        raise DataError(
            f"{what}; save images as uint8 from 0 to 255, or features that are none with X.reshape(len(X), -1)"
        )
    if len(sizes) == 2:
        return (1, sizes[0], sizes[1]), False
    if sizes[2] in (1, 3):
        return (sizes[2], sizes[0], sizes[1]), True
    if sizes[0] in (1, 3):
        return (sizes[0], sizes[1], sizes[2]), False
    alpha = "; leave transparency out, X[..., :3]" if sizes[2] == 4 else ""
    raise DataError(f"{what}; images (n, h, w, c) have 1 or 3 channels{alpha}")


def _reason_to_copy(stored: list[StoredArray], channels_last: bool) -> str | None:
    """Why rows cannot be mapped as they lie; None if they can."""
    first = stored[0]
    if len(stored) > 1:
        return "its parts are arrays of their own"
    if first.member is not None:
        return "they are compressed"
    if channels_last and first.shape[3] > 1:
        return "their channels come last"
    if first.fortran:
        return "they lie in Fortran order"
    if not first.dtype.isnative:
        return "their bytes are in the other order"
    if first.offset % first.dtype.alignment:
        return "a .npz does not align them; a .npy file is read as it lies"
    return None


def _filler(
    stored: list[StoredArray], channels_last: bool, total: int, progress: Progress | None
) -> Callable[[np.ndarray], tuple[int, dict[str, object]]]:
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
    """What decides a copy of rows: the files as they are now, and where the arrays lie in them."""
    facts = []
    for array in stored:
        state = state_of(array.path.stat())
        facts.append([str(array.path.resolve()), *state, array.name, array.offset])
    return hashlib.sha256(json.dumps(["arrays", facts]).encode()).hexdigest()
