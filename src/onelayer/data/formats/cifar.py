"""CIFAR-10 and CIFAR-100 as published: the Python, the binary and the MATLAB version, in a folder or an archive."""

import hashlib
import os
from collections import deque
from collections.abc import Collection, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from onelayer.data.dataset import Dataset
from onelayer.data.formats.cifar_sets import SETS, Cifar
from onelayer.data.progress import Progress
from onelayer.data.untrusted.archive import read_members
from onelayer.data.untrusted.matlab import read_matlab
from onelayer.data.untrusted.reading import file_at
from onelayer.data.untrusted.unpickle import read_pickle
from onelayer.errors import ConfigError, DataError
from onelayer.words import is_name, listed

IMAGE_SHAPE = (3, 32, 32)
_PIXELS = 3072
_FORMS = ("", ".bin", ".mat")  # how the names of the Python, the binary and the MATLAB version's files end
_ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")
_MAX_META_BYTES = 2**16
_MOST_FOLDERS, _MOST_ENTRIES = 50, 1000  # looked into on the way down; of a folder of images there may be more
_START_ROWS = 10_000  # of a part; CIFAR-100's training part has more


class MissingPartError(DataError):
    """A part that was asked for is not there."""


class _File(NamedTuple):
    """What a file is by its name."""

    cifar: Cifar
    form: str
    part: str  # empty where it holds the names of the classes


@dataclass
class _Batch:
    part: str
    where: str
    md5: str
    official: bool
    rows: np.ndarray  # (n, 3072) uint8
    labels: np.ndarray  # (n,) int64


def find_cifar(path: Path, sets: Sequence[Cifar] = SETS) -> Path | None:
    """Find CIFAR-10 or CIFAR-100 at a path.

    Parameters
    ----------
    path : Path
        A folder of batches, an archive, or a folder that contains one of these under its published name.
    sets : sequence of Cifar
        Those to look for.

    Returns
    -------
    Path or None
        The folder of batches, or the archive, which may hold anything.
    """
    archive = file_at(path)
    if archive.name.endswith(_ARCHIVE_SUFFIXES) and not archive.is_dir():
        return archive
    for cifar in sets:
        for folder in (path, *(path / name for name in cifar.folders)):
            if _form(folder, cifar) is not None:
                return folder
        for name in cifar.archives:
            if (archive := file_at(path / name)).is_file():
                return archive
    return None


def find_cifar_below(path: Path, sets: Sequence[Cifar] = SETS) -> Path | None:
    """Find what `find_cifar` does one or two levels further down, as in a folder of many things or a cache.

    Raises
    ------
    DataError
        If it is there more than once.
    """
    level = [path]
    for _ in range(2):
        level = [inner for folder in level for inner in _folders(folder)][:_MOST_FOLDERS]
        found = list(dict.fromkeys(place for folder in level if (place := _find_telling(folder, sets))))
        if len(found) > 1:
            places = listed((str(place.relative_to(path)) for place in found), 300)
            raise DataError(f"{path}: holds several sets; pass the path of one: {places}")
        if found:
            return found[0]
    return None


def _folders(path: Path) -> list[Path]:
    """The folders in a folder; none where it cannot be looked into, which is for those to say who read it."""
    inner = []
    with suppress(OSError), os.scandir(path) as entries:
        inner = [entry.name for entry in islice(entries, _MOST_ENTRIES) if entry.is_dir() and entry.name[0] != "."]
    return [path / name for name in sorted(inner)]


def _find_telling(folder: Path, sets: Sequence[Cifar]) -> Path | None:
    """As `find_cifar`, but a folder of any name may hold anything called train or test."""
    for cifar in sets:
        telling = folder.name in cifar.folders or all("batch" in part for part in cifar.parts)
        places = (folder / name for name in cifar.archives)
        if found := find_cifar(folder, (cifar,)) if telling else next(filter(Path.is_file, map(file_at, places)), None):
            return found
    return None


def require_cifar(path: Path, sets: Sequence[Cifar] = SETS) -> Path:
    """As `find_cifar` and `find_cifar_below`, and a DataError where there is none."""
    try:
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        if found := find_cifar(path, sets) or find_cifar_below(path, sets):
            return found
    except OSError as error:
        raise DataError(f"{path}: cannot be read ({error.strerror})") from None
    files = (cifar.parts[0] + form for cifar in sets for form in _FORMS)
    raise DataError(f"{path}: no {_either(sets)} here (looked for {', '.join(files)} and the official archives)")


def read_cifar(
    path: Path,
    parts: Collection[str] | None = None,
    progress: Progress | None = None,
    *,
    coarse: bool = False,
    sets: Sequence[Cifar] = SETS,
) -> Dataset:
    """Read CIFAR-10 or CIFAR-100, or another set in the same layout, which is then noted.

    Parameters
    ----------
    path : Path
        As for `find_cifar`.
    parts : collection of str, optional
        Only these; by default those that are there. A set that knows none of them, as CIFAR-100 knows no batches, is
        read whole.
    progress : callable, optional
        Called with the bytes done and the bytes in all.
    coarse : bool
        CIFAR-100's 20 superclasses instead of its 100 classes.
    sets : sequence of Cifar
        Those that it can be.

    Returns
    -------
    Dataset

    Raises
    ------
    DataError
        If a file is missing, damaged, or does not hold what it should.
    ConfigError
        If the set has no coarse labels.
    """
    path = require_cifar(path, sets)
    versions = [(cifar, form) for cifar in sets for form in _FORMS]  # an archive may hold any
    if path.is_dir():
        versions = [(cifar, form) for cifar in sets if (form := _form(path, cifar)) is not None][:1]
        sets = [cifar for cifar, _ in versions]
    files = {
        name: _File(cifar, form, part)
        for cifar, form in versions
        for name, part in _names(cifar, form, parts, coarse).items()
    }
    found = _Found(sets[0], path, parts, coarse) if len(sets) == 1 else None
    pending: deque[Future[_Batch]] = deque()
    # Hashing takes most of the time and releases the interpreter's lock: files are hashed while the next one is read.
    with ThreadPoolExecutor(2) as pool, closing(read_members(path, files, progress)) as members:
        for name, content in members:
            file, where = files[name], f"{path}/{name}"
            found = found or _Found(file.cifar, path, parts, coarse)
            if file.cifar is not found.cifar:
                raise DataError(f"{where}: is {file.cifar.name}'s, the files before it {found.cifar.name}'s; keep one")
            if not file.part:
                found.class_names = _class_names(content, file, found.kind, where)
                continue
            pending.append(pool.submit(_read_batch, content, file, found.kind, where))
            del content  # so that no more than two files are in memory
            if len(pending) == 2:
                found.append(pending.popleft().result())
        while pending and found:
            found.append(pending.popleft().result())
    if found is None:
        raise MissingPartError(f"{path}: holds no {_either(sets)}")
    return found.dataset()


def _form(folder: Path, cifar: Cifar) -> str | None:
    """The version that a folder holds."""
    return next(
        (form for form in _FORMS if any(file_at(folder / f"{part}{form}").is_file() for part in cifar.parts)), None
    )


def _names(cifar: Cifar, form: str, parts: Collection[str] | None, coarse: bool) -> dict[str, str]:
    """The files to read: the part that each holds, none of that with the names of the classes."""
    wanted = {f"{part}{form}": part for part in _chosen(cifar, parts) or cifar.parts}
    return {cifar.metas[form].format(_kind(cifar, coarse)[:-1]): "", **wanted}


def _chosen(cifar: Cifar, parts: Collection[str] | None) -> list[str]:
    return [part for part in cifar.parts if part in (parts or ())]


def _kind(cifar: Cifar, coarse: bool) -> str:
    return list(cifar.classes)[0 if coarse else -1]


def _either(sets: Sequence[Cifar]) -> str:
    return " or ".join(cifar.name for cifar in sets)


class _Found:
    """Batches, copied as they come into one array, since two copies of all rows would be twice the memory."""

    def __init__(self, cifar: Cifar, path: Path, parts: Collection[str] | None, coarse: bool) -> None:
        if coarse and len(cifar.classes) == 1:
            raise ConfigError(f"coarse does not apply to {cifar.name}; leave it out")
        self.cifar = cifar
        self.path = path
        self.coarse = coarse
        self.kind = _kind(cifar, coarse)
        self.class_names = cifar.classes[self.kind]
        self.chosen = _chosen(cifar, parts)
        self.wanted = self.chosen or cifar.parts
        # Memory that is not written is not taken.
        self.rows = np.empty((len(self.wanted) * _START_ROWS, _PIXELS), np.uint8)
        self.used = 0
        self.labels: list[np.ndarray] = []
        self.places: dict[str, slice] = {}
        self.notes: dict[str, str] = {}

    def append(self, batch: _Batch) -> None:
        if batch.part in self.places:
            raise DataError(f"{batch.where}: is a second {batch.part}; keep one version of {self.cifar.name}")
        n = len(batch.rows)
        if self.used + n > len(self.rows):
            self.rows.resize((self.used + n, _PIXELS), refcheck=False)
        self.rows[self.used : self.used + n] = batch.rows
        self.labels.append(batch.labels)
        self.places[batch.part] = slice(self.used, self.used + n)
        self.used += n
        if not batch.official:
            self.notes[batch.part] = (
                f"not the official {self.cifar.name}: {batch.part} differs from the published file "
                f"(MD5 {batch.md5}); it has {n} rows"
            )

    def dataset(self) -> Dataset:
        missing = [part for part in self.wanted if part not in self.places]
        if missing and (self.chosen or not self.places):
            raise MissingPartError(f"{self.path}: lacks {', '.join(missing)}")
        notes = [self.notes[part] for part in self.cifar.parts if part in self.notes]
        if self.class_names != self.cifar.classes[self.kind]:
            notes.append(f"not the official {self.cifar.name}: the classes are {', '.join(self.class_names)}")
        if missing:
            notes.append(f"not the whole {self.cifar.name}: it lacks {', '.join(missing)}")
        self.rows.resize((self.used, _PIXELS), refcheck=False)
        return Dataset(
            rows=self.rows,
            labels=np.concatenate(self.labels),
            class_names=self.class_names,
            image_shape=IMAGE_SHAPE,
            name=self.cifar.name + "-coarse" * self.coarse,
            parts={part: self.places[part] for part in self.cifar.parts if part in self.places},
            official=not notes,
            notes=tuple(notes),
            source=str(self.path.resolve()),
        )


def _read_batch(content: bytes, file: _File, kind: str, where: str) -> _Batch:
    cifar, form, part = file
    if form == ".bin":
        size = len(cifar.classes) + _PIXELS
        if len(content) % size:
            raise DataError(f"{where}: is cut off: {len(content)} bytes are no whole number of {size}-byte rows")
        records = np.frombuffer(content, np.uint8).reshape(-1, size)
        found: dict[str, Any] = dict(zip(cifar.classes, records.T, strict=False))
        found["data"] = records[:, len(cifar.classes) :]
    elif form == ".mat":
        found = dict(read_matlab(content, ("data", *cifar.classes), where))
    else:
        found = read_pickle(content, where)
    for key in ("data", *cifar.classes):
        if key not in found:
            *keys, last = "data", *cifar.classes
            raise DataError(f"{where}: holds no {key}; a batch of {cifar.name} holds {', '.join(keys)} and {last}")
    rows = found["data"]
    _check_rows(rows, where)
    labels = {key: _check_labels(found[key], len(rows), key, len(names), where) for key, names in cifar.classes.items()}
    md5 = _rows_md5(rows, list(labels.values())) if form == ".mat" else _md5(content)
    official = cifar.rows_md5 if form else cifar.python_md5
    return _Batch(part, where, md5, md5 == official[part], rows, labels[kind])


def _check_rows(rows: Any, where: str) -> None:
    if not isinstance(rows, np.ndarray) or rows.ndim != 2 or rows.shape[1] != _PIXELS:
        what = f"an array of shape {rows.shape}" if isinstance(rows, np.ndarray) else "no array"
        raise DataError(f"{where}: data is {what}; expected (n, {_PIXELS})")
    if rows.dtype != np.uint8:
        raise DataError(f"{where}: data is {rows.dtype}; expected uint8")
    if len(rows) == 0:
        raise DataError(f"{where}: holds no rows")


def _check_labels(labels: Any, n: int, key: str, K: int, where: str) -> np.ndarray:
    """Labels as int64; `labels` is a list as Python pickles it, or an array as the other versions hold it."""
    if not isinstance(labels, list | np.ndarray):
        raise DataError(f"{where}: {key} are no list of integers")
    count = labels.size if isinstance(labels, np.ndarray) else len(labels)
    if count != n:
        raise DataError(f"{where}: holds {n} rows but {count} {key}")
    values = labels.ravel().tolist() if isinstance(labels, np.ndarray) else labels
    for row, value in enumerate(values):
        if type(value) not in (int, float) or value != value or value not in range(K):
            what = f"the label {value}" if type(value) in (int, float) else "a label that is no integer"
            raise DataError(f"{where}: row {row} has {what[:40]}; {key} are 0 to {K - 1}")
    return np.array(values, np.int64)


def _class_names(content: bytes, file: _File, kind: str, where: str) -> tuple[str, ...]:
    if len(content) > _MAX_META_BYTES:
        raise DataError(f"{where}: is {len(content)} bytes, too many for the names of the classes")
    key = f"{kind[:-1]}_names"
    if file.form == ".bin":
        names: Any = content.decode("utf-8", "replace").split("\n")
        names = [name.strip() for name in names if name.strip()]
    elif file.form == ".mat":
        names = list(read_matlab(content, (key,), where)[key])
    else:
        names = read_pickle(content, where).get(key)
        names = names if isinstance(names, list) else []
        names = [name.decode("utf-8", "replace") if isinstance(name, bytes) else name for name in names]
    good = [name for name in names if is_name(name)]
    K = len(file.cifar.classes[kind])
    if not len(set(good)) == len(names) == K:
        raise DataError(f"{where}: holds no {K} different names of classes")
    return tuple(good)


def _md5(content: bytes) -> str:
    return hashlib.md5(content, usedforsecurity=False).hexdigest()


def _rows_md5(rows: np.ndarray, labels: list[np.ndarray]) -> str:
    digest = hashlib.md5(usedforsecurity=False)
    for start in range(0, len(rows), 1000):
        block = slice(start, start + 1000)
        columns = [column[block].astype(np.uint8) for column in labels]
        digest.update(np.column_stack([*columns, rows[block]]).tobytes())
    return digest.hexdigest()
