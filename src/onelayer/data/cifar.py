"""CIFAR-10 as it is published: the Python, the binary and the MATLAB version, in a folder or an archive."""

import hashlib
from collections import deque
from collections.abc import Collection
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from onelayer.data.archive import Progress, read_members
from onelayer.data.dataset import Dataset
from onelayer.data.matlab import read_matlab
from onelayer.data.unpickle import read_pickle
from onelayer.errors import DataError

PARTS = ("data_batch_1", "data_batch_2", "data_batch_3", "data_batch_4", "data_batch_5", "test_batch")
CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "deer", "dog", "frog", "horse", "ship", "truck")
IMAGE_SHAPE = (3, 32, 32)
_PIXELS = 3072

_META = {"": "batches.meta", ".bin": "batches.meta.txt", ".mat": "batches.meta.mat"}
_FOLDERS = ("cifar-10-batches-py", "cifar-10-batches-bin", "cifar-10-batches-mat")
_ARCHIVES = ("cifar-10-python.tar.gz", "cifar-10-binary.tar.gz", "cifar-10-matlab.tar.gz")
_ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")

# MD5 of the files of the Python version, and of those of the binary version. The latter is also what a MATLAB file is
# compared with, written out as label and pixels row by row: the MATLAB files' own are not published.
_PYTHON_MD5 = {
    "data_batch_1": "c99cafc152244af753f735de768cd75f",
    "data_batch_2": "d4bba439e000b95fd0a9bffe97cbabec",
    "data_batch_3": "54ebc095f3ab1f0389bbae665268c751",
    "data_batch_4": "634d18415352ddfa80567beed471001a",
    "data_batch_5": "482c414d41f54cd18b22e5b47cb7c3cb",
    "test_batch": "40351d587109b95175f43aff81a1287e",
}
_ROWS_MD5 = {
    "data_batch_1": "5dd7e06a14cb22eb9f671a540d1b7c25",
    "data_batch_2": "5ea93a67294ea407fff1d09f752e9692",
    "data_batch_3": "942cd6a4bcdd0dd3c604fbe906cb4421",
    "data_batch_4": "ae636b3ba5c66a11e91e8cb52e771fcb",
    "data_batch_5": "53f37980c15c3d472c316c40844f3f0d",
    "test_batch": "803d5f7f4d78ea53de84dbe85f74fb6d",
}
_MAX_META_BYTES = 2**16
_OFFICIAL_ROWS = 10_000  # of each part


class MissingPartError(DataError):
    """A part that was asked for is not there."""


@dataclass
class _Batch:
    part: str
    where: str
    md5: str
    official: bool
    rows: np.ndarray  # (n, 3072) uint8
    labels: np.ndarray  # (n,) int64


def find_cifar10(path: Path) -> Path | None:
    """Find CIFAR-10 at a path.

    Parameters
    ----------
    path : Path
        A folder of batches, an archive, or a folder that contains one of these under its published name.

    Returns
    -------
    Path or None
        The folder of batches, or the archive.
    """
    if path.name.endswith(_ARCHIVE_SUFFIXES) and not path.is_dir():
        return path
    for folder in (path, *(path / name for name in _FOLDERS)):
        if any((folder / f"{part}{form}").exists() for form in _META for part in PARTS):
            return folder
    return next((path / name for name in _ARCHIVES if (path / name).is_file()), None)


def require_cifar10(path: Path) -> Path:
    """As `find_cifar10`, and a DataError where there is none."""
    try:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        if found := find_cifar10(path):
            return found
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    raise DataError(
        f"{path}: no CIFAR-10 here (looked for data_batch_1, data_batch_1.bin, data_batch_1.mat "
        "and the official archives)"
    )


def read_cifar10(path: Path, parts: Collection[str] | None = None, progress: Progress | None = None) -> Dataset:
    """Read CIFAR-10, or another set in the same layout, which is then noted.

    Parameters
    ----------
    path : Path
        As for `find_cifar10`.
    parts : collection of str, optional
        Of data_batch_1 to data_batch_5 and test_batch; by default those that are there.
    progress : callable, optional
        Called with the bytes done and the bytes in all.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        If a file is missing, damaged, or does not hold what it should.
    """
    path = require_cifar10(path)
    if unknown := set(parts or ()) - set(PARTS):
        raise DataError(f"CIFAR-10 has no part {', '.join(sorted(unknown))}; it has {', '.join(PARTS)}")
    wanted = [part for part in PARTS if parts is None or part in parts]
    forms = _forms(path)
    batches = {f"{part}{form}": part for form in forms for part in wanted}
    metas = {_META[form]: form for form in forms}

    collected = _Collected(len(wanted))
    class_names: tuple[str, ...] = CLASS_NAMES
    pending: deque[Future[_Batch]] = deque()
    # Hashing takes most of the time and releases the interpreter's lock: files are hashed while the next one is read.
    with ThreadPoolExecutor(2) as pool, closing(read_members(path, (*metas, *batches), progress)) as members:
        for name, content in members:
            where = f"{path}/{name}"
            if name in metas:
                class_names = _class_names(content, metas[name], where)
                continue
            pending.append(pool.submit(_read_batch, content, batches[name], where))
            del content  # so that no more than two files are in memory
            if len(pending) == 2:
                collected.append(pending.popleft().result())
        while pending:
            collected.append(pending.popleft().result())

    missing = [part for part in wanted if part not in collected.places]
    if missing and (parts is not None or len(missing) == len(wanted)):
        raise MissingPartError(f"{path}: lacks {', '.join(missing)}")
    return collected.dataset(class_names, str(path.resolve()))


def _forms(path: Path) -> list[str]:
    """The version that a folder holds; an archive may hold any."""
    if not path.is_dir():
        return list(_META)
    return [form for form in _META if any((path / f"{part}{form}").exists() for part in PARTS)][:1]


class _Collected:
    """Batches, copied as they come into one array, since two copies of all rows would be twice the memory."""

    def __init__(self, count: int) -> None:
        self.rows = np.empty((count * _OFFICIAL_ROWS, _PIXELS), np.uint8)  # memory that is not written is not taken
        self.used = 0
        self.labels: list[np.ndarray] = []
        self.places: dict[str, slice] = {}
        self.notes: dict[str, str] = {}

    def append(self, batch: _Batch) -> None:
        if batch.part in self.places:
            raise DataError(f"{batch.where}: is a second {batch.part}; keep one version of CIFAR-10")
        n = len(batch.rows)
        if self.used + n > len(self.rows):
            self.rows.resize((self.used + n, _PIXELS), refcheck=False)
        self.rows[self.used : self.used + n] = batch.rows
        self.labels.append(batch.labels)
        self.places[batch.part] = slice(self.used, self.used + n)
        self.used += n
        if not batch.official:
            self.notes[batch.part] = (
                f"not the official CIFAR-10: {batch.part} differs from the published file (MD5 {batch.md5}); "
                f"it has {n} rows"
            )

    def dataset(self, class_names: tuple[str, ...], source: str) -> Dataset:
        notes = [self.notes[part] for part in PARTS if part in self.notes]
        if class_names != CLASS_NAMES:
            notes.append(f"not the official CIFAR-10: the classes are {', '.join(class_names)}")
        self.rows.resize((self.used, _PIXELS), refcheck=False)
        return Dataset(
            rows=self.rows,
            labels=np.concatenate(self.labels),
            class_names=class_names,
            image_shape=IMAGE_SHAPE,
            name="CIFAR-10",
            parts={part: self.places[part] for part in PARTS if part in self.places},
            official=not notes,
            notes=tuple(notes),
            source=source,
        )


def _read_batch(content: bytes, part: str, where: str) -> _Batch:
    if where.endswith(".bin"):
        if len(content) % (1 + _PIXELS):
            raise DataError(f"{where}: is cut off: {len(content)} bytes are no whole number of {1 + _PIXELS}-byte rows")
        records = np.frombuffer(content, np.uint8).reshape(-1, 1 + _PIXELS)
        labels, rows = records[:, 0], records[:, 1:]
    else:
        if where.endswith(".mat"):
            found: dict[str, Any] = dict(read_matlab(content, ("data", "labels"), where))
        else:
            found = read_pickle(content, where)
        for key in ("data", "labels"):
            if key not in found:
                raise DataError(f"{where}: holds no {key}; a batch of CIFAR-10 holds data and labels")
        rows, labels = found["data"], found["labels"]
    _check_rows(rows, where)
    labels = _check_labels(labels, len(rows), where)
    md5 = _rows_md5(rows, labels) if where.endswith(".mat") else _md5(content)
    official = _PYTHON_MD5 if where.endswith(part) else _ROWS_MD5
    return _Batch(part, where, md5, md5 == official[part], rows, labels)


def _check_rows(rows: Any, where: str) -> None:
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != _PIXELS:
        what = f"an array of shape {rows.shape}" if isinstance(rows, np.ndarray) else "no array"
        raise DataError(f"{where}: data is {what}; expected (n, {_PIXELS})")
    if rows.dtype != np.uint8:
        raise DataError(f"{where}: data is {rows.dtype}; expected uint8")
    if len(rows) == 0:
        raise DataError(f"{where}: holds no rows")


def _check_labels(labels: Any, n: int, where: str) -> np.ndarray:
    """Labels as int64; `labels` is a list as Python pickles it, or an array as MATLAB holds it."""
    if not isinstance(labels, list | np.ndarray):
        raise DataError(f"{where}: labels are no list of integers")
    count = labels.size if isinstance(labels, np.ndarray) else len(labels)
    if count != n:
        raise DataError(f"{where}: holds {n} rows but {count} labels")
    values = labels.ravel().tolist() if isinstance(labels, np.ndarray) else labels
    for row, value in enumerate(values):
        if type(value) not in (int, float) or value != value or value not in range(len(CLASS_NAMES)):
            what = f"the label {value}" if type(value) in (int, float) else "a label that is no integer"
            raise DataError(f"{where}: row {row} has {what[:40]}; labels are 0 to {len(CLASS_NAMES) - 1}")
    return np.array(values, np.int64)


def _class_names(content: bytes, form: str, where: str) -> tuple[str, ...]:
    if len(content) > _MAX_META_BYTES:
        raise DataError(f"{where}: is {len(content)} bytes, too many for the names of the classes")
    if form == ".bin":
        names: Any = content.decode("utf-8", "replace").split("\n")
        names = [name.strip() for name in names if name.strip()]
    elif form == ".mat":
        names = list(read_matlab(content, ("label_names",), where)["label_names"])
    else:
        names = read_pickle(content, where).get("label_names")
        names = names if isinstance(names, list) else []
        names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names]
    # They are printed, so they hold no control characters.
    good = [name for name in names if isinstance(name, str) and name.isprintable() and 0 < len(name) < 100]
    if not len(set(good)) == len(names) == len(CLASS_NAMES):
        raise DataError(f"{where}: holds no {len(CLASS_NAMES)} different names of classes")
    return tuple(good)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _rows_md5(rows: np.ndarray, labels: np.ndarray) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for start in range(0, len(rows), 1000):
        block = slice(start, start + 1000)
        digest.update(np.column_stack([labels[block].astype(np.uint8), rows[block]]).tobytes())
    return digest.hexdigest()
