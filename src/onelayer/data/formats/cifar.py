"""CIFAR-10 and CIFAR-100 as published: the Python, the binary and the MATLAB version, in a folder or an archive."""

import os
from collections import deque
from collections.abc import Collection, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, suppress
from itertools import islice
from pathlib import Path

import numpy as np

from onelayer.data.dataset import Dataset
from onelayer.data.formats.cifar_file import PIXELS, Batch, CifarFile, read_batch, read_class_names
from onelayer.data.formats.cifar_sets import SETS, Cifar
from onelayer.data.progress import Progress
from onelayer.data.untrusted.archive import read_members
from onelayer.data.untrusted.reading import file_at, reading
from onelayer.errors import ConfigError, DataError
from onelayer.words import listed

IMAGE_SHAPE = (3, 32, 32)
_FORMS = ("", ".bin", ".mat")  # the ends of the file names of the Python, the binary and the MATLAB version
_ARCHIVE_SUFFIXES = (".tar.gz", ".tgz", ".tar")
_MOST_FOLDERS, _MOST_ENTRIES = 50, 1000  # looked into below a path; a folder of images may have more
_START_ROWS = 10_000  # of a part to take memory for; CIFAR-100's training part has more


class MissingPartError(DataError):
    """A part that was asked for is not there."""


def find_cifar(path: Path, sets: Sequence[Cifar] = SETS) -> Path | None:
    """Find CIFAR-10 or CIFAR-100 at a path.

    Parameters
    ----------
    path : Path
        A folder of batches, an archive, or a folder that contains one of these under its published name.
    sets : sequence of Cifar
        The sets to look for.

    Returns
    -------
    Path or None
        The folder of batches, or the archive, whose content is not checked.
    """
    return _find_at(path, _names(path), sets)


def _find_at(path: Path, names: Collection[str], sets: Sequence[Cifar]) -> Path | None:
    """Find a set at a path; if it is a folder, its entries have these names."""
    archive = file_at(path)
    if archive.name.endswith(_ARCHIVE_SUFFIXES) and not archive.is_dir():
        return archive
    for cifar in sets:
        if _form(path, names, cifar) is not None:
            return path
        for folder in (path / name for name in cifar.folders if name in names):
            if _form(folder, _names(folder), cifar) is not None:
                return folder
        if found := next(_files_in(path, names, cifar.archives), None):
            return found
    return None


def find_cifar_below(path: Path, sets: Sequence[Cifar] = SETS) -> Path | None:
    """Find CIFAR-10 or CIFAR-100 one or two levels below a path, such as a cache.

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
    """Return the folders in a folder; none if it cannot be read, which raises an error only when it is to be read."""
    inner = []
    with suppress(OSError), os.scandir(path) as entries:
        inner = [entry.name for entry in islice(entries, _MOST_ENTRIES) if entry.is_dir() and entry.name[0] != "."]
    return [path / name for name in sorted(inner)]


def _find_telling(folder: Path, sets: Sequence[Cifar]) -> Path | None:
    """Find a set like `find_cifar`, but take files train and test only in a folder with a published name."""
    try:
        names = _names(folder)
    except OSError:  # reading the folder raises it, if it is to be read
        return None
    for cifar in sets:
        telling = folder.name in cifar.folders or all("batch" in part for part in cifar.parts)
        if found := (
            _find_at(folder, names, (cifar,)) if telling else next(_files_in(folder, names, cifar.archives), None)
        ):
            return found
    return None


def require_cifar(path: Path, sets: Sequence[Cifar] = SETS) -> Path:
    """Find a set like `find_cifar` and `find_cifar_below`; raise a DataError if there is none."""
    with reading(path):
        if not path.exists():
            raise DataError(f"{path}: no such file or folder")
        if found := find_cifar(path, sets) or find_cifar_below(path, sets):
            return found
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
    """Read CIFAR-10 or CIFAR-100, or another set in the same layout; a note says so if it is not the published set.

    Parameters
    ----------
    path : Path
        As for `find_cifar`.
    parts : collection of str, optional
        The parts to read; by default those that are there. A set without a part of these names is read whole, such as
        CIFAR-100 for the batches of CIFAR-10.
    progress : callable, optional
        Called with the bytes done and the total.
    coarse : bool
        Whether to read CIFAR-100's 20 superclasses instead of its 100 classes.
    sets : sequence of Cifar
        The sets that the files may belong to.

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
    versions = _versions(path, sets)
    sets = list(dict.fromkeys(cifar for cifar, _ in versions))
    files = {name: file for version in versions for name, file in _files(*version, parts, coarse).items()}
    found = _Found(sets[0], path, parts, coarse) if len(sets) == 1 else None
    pending: deque[Future[Batch]] = deque()
    # Hashing takes most of the time and releases the interpreter's lock: a file is hashed while the next one is read.
    with ThreadPoolExecutor(2) as pool, closing(read_members(path, files, progress)) as members:
        for name, content in members:
            file, where = files[name], f"{path}/{name}"
            found = found or _Found(file.cifar, path, parts, coarse)
            if file.cifar is not found.cifar:
                raise DataError(f"{where}: is {file.cifar.name}, but earlier files are {found.cifar.name}; keep one")
            if not file.part:
                found.class_names = read_class_names(content, file, found.kind, where)
                continue
            pending.append(pool.submit(read_batch, content, file, found.kind, where))
            del content  # at most two files are in memory
            if len(pending) == 2:
                found.append(pending.popleft().result())
        while pending and found:
            found.append(pending.popleft().result())
    if found is None:
        raise MissingPartError(f"{path}: holds no {_either(sets)}")
    return found.dataset()


def _versions(path: Path, sets: Sequence[Cifar]) -> list[tuple[Cifar, str]]:
    """Return the set and the version in a folder, or all that an archive may hold."""
    if path.is_dir():
        names = _names(path)
        return [(cifar, form) for cifar in sets if (form := _form(path, names, cifar)) is not None][:1]
    return [(cifar, form) for cifar in sets for form in _FORMS]


def _form(folder: Path, names: Collection[str], cifar: Cifar) -> str | None:
    """Return the version that a folder with entries of these names holds; None if it has no part of the set."""
    return next(
        (form for form in _FORMS if any(_files_in(folder, names, [f"{part}{form}" for part in cifar.parts]))), None
    )


def _files_in(folder: Path, names: Collection[str], wanted: Iterable[str]) -> Iterator[Path]:
    """Yield the wanted files in a folder with entries of these names."""
    return filter(Path.is_file, (file_at(folder / name) for name in wanted if name in names))


def _names(folder: Path) -> frozenset[str]:
    """Return the names in a folder, which is listed once, as looking for each file takes longer; none if it is none."""
    with suppress(FileNotFoundError, NotADirectoryError):
        return frozenset(os.listdir(folder))  # noqa: PTH208  # as fast as possible
    return frozenset()


def _files(cifar: Cifar, form: str, parts: Collection[str] | None, coarse: bool) -> dict[str, CifarFile]:
    """Return the files to read by their names: that of the names of the classes, then those of the parts."""
    meta = cifar.metas[form].format(_kind(cifar, coarse)[:-1])
    names = {meta: "", **{f"{part}{form}": part for part in _chosen(cifar, parts) or cifar.parts}}
    return {name: CifarFile(cifar, form, part) for name, part in names.items()}


def _chosen(cifar: Cifar, parts: Collection[str] | None) -> list[str]:
    return [part for part in cifar.parts if part in (parts or ())]


def _kind(cifar: Cifar, coarse: bool) -> str:
    return list(cifar.classes)[0 if coarse else -1]


def _either(sets: Sequence[Cifar]) -> str:
    return " or ".join(cifar.name for cifar in sets)


class _Found:
    """The batches that were read. Each is copied into one array at once: a copy of all would double the memory."""

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
        # The system takes only the memory that is written.
        self.rows = np.empty((len(self.wanted) * _START_ROWS, PIXELS), np.uint8)
        self.used = 0
        self.labels: list[np.ndarray] = []
        self.places: dict[str, slice] = {}
        self.notes: dict[str, str] = {}

    def append(self, batch: Batch) -> None:
        """Copy a batch behind those before it."""
        if batch.part in self.places:
            raise DataError(f"{batch.where}: is a second {batch.part}; keep one version of {self.cifar.name}")
        n = len(batch.rows)
        if self.used + n > len(self.rows):
            self.rows.resize((self.used + n, PIXELS), refcheck=False)
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
        """Return the data set of all batches."""
        missing = [part for part in self.wanted if part not in self.places]
        if missing and (self.chosen or not self.places):
            raise MissingPartError(f"{self.path}: lacks {', '.join(missing)}")
        notes = [self.notes[part] for part in self.cifar.parts if part in self.notes]
        if self.class_names != self.cifar.classes[self.kind]:
            notes.append(f"not the official {self.cifar.name}: the classes are {', '.join(self.class_names)}")
        if missing:
            notes.append(f"not the whole {self.cifar.name}: it lacks {', '.join(missing)}")
        self.rows.resize((self.used, PIXELS), refcheck=False)
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
