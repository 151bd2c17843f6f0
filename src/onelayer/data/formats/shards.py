"""A manifest of shards, ``NAME.shards.json``: it names the files of a large data set, with their counts and hashes.

===============  ======================================================================================
``format``       ``onelayer-shards``, and ``version`` 1
``class_names``  the names of the K classes
``features``     numbers in a row, and ``dtype``, their type
``labels``       a .npy file of the labels 0..K-1 of all rows, shard after shard, and its ``labels_sha256``
``shards``       a list of ``path``, ``part`` (train, validation or test), ``count`` of rows and ``sha256``
===============  ======================================================================================

Paths are relative to the folder of the manifest, and stay within it. A shard is a .npy file of rows, a .safetensors
file with an array of rows, or a parquet file with a column of lists. Each process reads the labels of all rows, and of
the shards only those that it holds; it checks their hashes.
"""

import hashlib
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from onelayer.data.cache import sparse_rows, state_of
from onelayer.data.dataset import PARTS, Dataset, Holding, refuse_number, require_labels
from onelayer.data.formats.array_names import role_of
from onelayer.data.formats.array_rows import copied, notes_on
from onelayer.data.formats.parquet_file import find_columns, read_labels
from onelayer.data.formats.parquet_lists import first_length, list_blocks
from onelayer.data.progress import Progress
from onelayer.data.scan import first_not_finite
from onelayer.data.untrusted.npy import open_npy
from onelayer.data.untrusted.reading import MAX_FILE_BYTES, reading, require_file
from onelayer.data.untrusted.tensors import Safetensors
from onelayer.errors import DataError
from onelayer.files import write_file
from onelayer.processes import ALONE, Processes, shares_by_size
from onelayer.words import counted, is_name, printable

FORMAT, SUFFIX = "onelayer-shards", ".shards.json"
TYPES = ("uint8", "float16", "float32", "float64")
AGAIN = "write the manifest again, or fetch the file again"


@dataclass(frozen=True)
class Shard:
    """A file of rows, as a manifest names it; its rows are those from `start` on."""

    path: Path
    part: str
    count: int
    sha256: str
    start: int

    @property
    def places(self) -> slice:
        """The places of the rows in the data set."""
        return slice(self.start, self.start + self.count)


@dataclass(frozen=True)
class Manifest:
    """The content of a manifest; see the top of this file."""

    path: Path
    class_names: tuple[str, ...]
    features: int
    dtype: np.dtype
    labels: Path
    labels_sha256: str
    shards: tuple[Shard, ...]

    @property
    def count(self) -> int:
        """The number of rows."""
        return sum(shard.count for shard in self.shards)

    @property
    def fingerprint(self) -> str:
        """A digest of what the files hold, wherever they are."""
        shards = [(shard.part, shard.count, shard.sha256) for shard in self.shards]
        facts = [self.class_names, self.features, self.dtype.name, self.labels_sha256, shards]
        return hashlib.sha256(json.dumps(facts).encode()).hexdigest()

    @property
    def parts(self) -> dict[str, slice]:
        """The places of the rows of each part."""
        found: dict[str, slice] = {}
        for shard in self.shards:
            begin = found[shard.part].start if shard.part in found else shard.start
            found[shard.part] = slice(begin, shard.places.stop)
        return found


def find_manifest(path: Path) -> Path | None:
    """Return the path if it is a manifest by its name, NAME.shards.json, else None."""
    return path if path.name.endswith(SUFFIX) and not path.is_dir() else None


def read_manifest(path: Path, progress: Progress | None = None, processes: Processes = ALONE) -> Dataset:
    """Read the rows of a manifest: all of them, or of several processes those of the shards that this one holds.

    Each part is divided by shards, the large ones first. Rank 0 reads the test rows of the others, too, to judge the
    model that it writes.

    Raises
    ------
    DataError
        If a file is missing, lies outside the folder, or is not the one that the manifest names.
    """
    manifest = parse_manifest(path)
    labels = _labels(manifest)
    shape, alone = (manifest.count, manifest.features), processes.size == 1
    held, mine = np.ones(manifest.count, bool), list(manifest.shards)
    if not alone:
        if "test" not in manifest.parts:
            raise DataError(
                f"{path}: names no test shards, which several processes need; name some, or use one process"
            )
        mine = _shares(manifest, processes)
        held[:] = False
        for shard in mine:
            held[shard.places] = True
        mine += [s for s in manifest.shards if not processes.rank and s.part == "test" and s not in mine]
    total = sum(shard.count for shard in mine)

    def fill(rows: np.ndarray) -> tuple[int, dict[str, object]]:
        done = 0
        for shard in mine:
            for block, start in _checked(manifest, shard):
                rows[shard.start + start : shard.start + start + len(block)] = block
                done += len(block)
                if progress:
                    progress(done, total)
        return len(rows), {}

    for shard in mine[:1]:  # before room is made for rows as long as the manifest says
        with reading(shard.path):
            require_file(shard.path)
            for block in islice(_rows_of(shard.path, manifest.features), 1):
                _require_fit(manifest, shard, block)
    if alone:
        rows, notes = copied(_key(manifest), shape, manifest.dtype, fill, "they are in shards")
    else:
        rows, notes = sparse_rows(shape, manifest.dtype, [shard.places for shard in mine]), []
        fill(rows)
    return Dataset(
        rows=rows,
        labels=labels,
        class_names=manifest.class_names,
        image_shape=None,
        name=printable(path.name.removesuffix(SUFFIX)),
        parts=manifest.parts,
        notes=(*notes_on(manifest.dtype), *notes),
        mark=manifest.fingerprint,
        holding=None if alone else Holding(processes, held, complete=False),
    )


def parse_manifest(path: Path) -> Manifest:
    """Return the content of a manifest; the files that it names are not opened.

    Raises
    ------
    DataError
        If it is not a manifest, or names a file outside its folder.
    """
    with reading(path):
        require_file(path)
        if path.stat().st_size > MAX_FILE_BYTES:
            raise DataError(f"{path}: is larger than {MAX_FILE_BYTES:,} bytes, so it is not a manifest of shards")
        content = path.read_bytes()
    try:
        found = json.loads(content)
        if (found["format"], found["version"]) != (FORMAT, 1):
            raise ValueError(f"its format is not {FORMAT}, version 1")
        shards, start = [], 0
        for entry in found["shards"]:
            part, count = entry["part"], int(entry["count"])
            if part not in PARTS.values() or count < 1:
                raise ValueError(f"a shard is of the part {part!s:.20} and has {count} rows")
            shards.append(Shard(_inside(path, entry["path"]), part, count, str(entry["sha256"]), start))
            start += count
        order = list(dict.fromkeys(PARTS.values()))
        if not shards or [s.part for s in shards] != sorted((s.part for s in shards), key=order.index):
            raise ValueError(f"its shards are not in the order {', '.join(order)}")
        names = tuple(found["class_names"])
        if found["dtype"] not in TYPES or not all(map(is_name, names)) or len(set(names)) < len(names):
            raise ValueError("its type or its class names make no sense")
        of_labels = _inside(path, found["labels"]), str(found["labels_sha256"])
        return Manifest(path, names, int(found["features"]), np.dtype(found["dtype"]), *of_labels, tuple(shards))
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        why = printable(str(error))
        raise DataError(f"{path}: is not a manifest of shards ({why}); write it with write_manifest") from None


def write_manifest(
    path: str | Path,
    shards: Mapping[str, Sequence[str | Path]],
    labels: Mapping[str, np.ndarray] | None = None,
    class_names: Sequence[str] = (),
) -> None:
    """Write a manifest, and beside it the labels of all rows, after one pass over all files.

    Parameters
    ----------
    path : str or Path
        The manifest, NAME.shards.json. Shards lie in its folder, or below.
    shards : mapping
        The files of each part: train, validation and test, as far as there are rows.
    labels : mapping, optional
        The labels (n,), 0..K-1, of the rows of each part. By default, the shards hold them: a .safetensors file as y, a
        parquet file in its column, and ``img_emb_3.npy`` has them in ``labels_3.npy``.
    class_names : sequence of str, optional
        By default, the numbers of the classes.

    Raises
    ------
    DataError
        If a file cannot be read, or the files do not fit each other.
    """
    path = Path(path)
    if not find_manifest(path):
        raise DataError(f"{path}: the name of a manifest ends in {SUFFIX}; call it so")
    order = [part for part in dict.fromkeys(PARTS.values()) if part in shards]
    if unknown := sorted(set(shards) - set(order)):
        raise DataError(f"{path}: there is no part {printable(unknown[0])}; the parts are train, validation and test")
    files = [(part, Path(file)) for part in order for file in shards[part]]
    if not files:
        raise DataError(f"{path}: there are no shards; name some")
    entries: list[dict[str, Any]] = []
    found, kinds = [], set()
    for part, file in files:
        blocks = [(len(block), block.dtype.name, block.shape[1]) for block in _rows_of(file, None)]
        count = sum(size for size, _, _ in blocks)
        kinds |= {block[1:] for block in blocks}
        if not count:
            raise DataError(f"{file}: has no rows; leave it out")
        if len(kinds) > 1:
            raise DataError(f"{file}: has rows of another type or length than the shards before; save all alike")
        named = os.path.relpath(file.resolve(), path.resolve().parent)
        _inside(path, named)
        entries.append({"path": named, "part": part, "count": count, "sha256": _sha256(file)})
        if labels is None:
            found.append(_own_labels(file, count))
    y = np.concatenate(found if labels is None else _given_labels(path, labels, entries))
    if y.dtype.kind not in "iu":
        raise DataError(f"{path}: the labels are {y.dtype}; pass a whole number for each row")
    names = list(class_names) or [str(k) for k in range(int(y.max()) + 1)]
    require_labels(y.astype(np.int64), len(names), str(path))
    of_labels = path.with_name(f"{path.name.removesuffix(SUFFIX)}.labels.npy")
    np.save(of_labels, y.astype(np.min_scalar_type(len(names))))
    ((dtype, features),) = kinds
    content = {"format": FORMAT, "version": 1, "class_names": names, "features": features, "dtype": dtype}
    content |= {"labels": of_labels.name, "labels_sha256": _sha256(of_labels), "shards": entries}
    write_file(path, (json.dumps(content, indent=1) + "\n").encode())


def _given_labels(
    path: Path, labels: Mapping[str, np.ndarray], entries: Sequence[Mapping[str, Any]]
) -> list[np.ndarray]:
    """Return the labels of each part in the order of the shards; a DataError if a part has not as many as rows."""
    found = []
    for part in dict.fromkeys(entry["part"] for entry in entries):
        count = sum(entry["count"] for entry in entries if entry["part"] == part)
        given = np.asarray(labels.get(part, ()))
        if given.shape != (count,):
            what = f"the labels of {part} have the shape {given.shape}"
            raise DataError(f"{path}: {what}; pass a whole number for each of {count:,} rows")
        found.append(given)
    return found


def _inside(path: Path, named: Any) -> Path:
    """Return the path of a file that a manifest names; a DataError if it lies outside the manifest's folder."""
    folder = path.resolve().parent
    if not isinstance(named, str) or "\0" in named:
        raise ValueError("a path is not a text")
    found = (folder / named).resolve()
    if Path(named).is_absolute() or not found.is_relative_to(folder):
        raise DataError(f"{path}: names {printable(named)}, which is outside its folder; move the shards below it")
    return found


def _shares(manifest: Manifest, processes: Processes) -> list[Shard]:
    """Return the shards that this process holds."""
    mine = []
    for part in manifest.parts:
        of_part = [shard for shard in manifest.shards if shard.part == part]
        sizes = [shard.count for shard in of_part]
        mine += [of_part[place] for place in shares_by_size(sizes, processes.size)[processes.rank]]
    return mine


def _labels(manifest: Manifest) -> np.ndarray:
    path = manifest.labels
    with reading(path):
        require_file(path)
        if _sha256(path) != manifest.labels_sha256:
            raise DataError(f"{path}: is not the file that {manifest.path.name} names: its hash differs; {AGAIN}")
        labels = np.asarray(open_npy(path).map())
    if labels.shape != (manifest.count,) or labels.dtype.kind not in "iu":
        found = f"{labels.dtype} {labels.shape}"
        raise DataError(f"{path}: holds {found}; {manifest.path.name} has {manifest.count:,} rows, each with a label")
    return labels.astype(np.int64)


def _checked(manifest: Manifest, shard: Shard) -> Iterator[tuple[np.ndarray, int]]:
    """Yield the rows of a shard in blocks (k, d), and where each begins, after a check of the file."""
    path, name = shard.path, manifest.path.name
    with reading(path):
        require_file(path)
        if _sha256(path) != shard.sha256:
            raise DataError(f"{path}: is not the file that {name} names: its hash differs; {AGAIN}")
        start = 0
        for block in _rows_of(path, manifest.features):
            _require_fit(manifest, shard, block)
            if start + len(block) <= shard.count:
                if place := first_not_finite(block):
                    refuse_number(block, place, str(path), start)
                yield block, start
            start += len(block)
        if start != shard.count:
            raise DataError(f"{path}: has {counted(start, 'row')}; {name} says {shard.count:,}")


def _require_fit(manifest: Manifest, shard: Shard, block: np.ndarray) -> None:
    if block.shape[1] != manifest.features or block.dtype != manifest.dtype:
        found = f"rows of {block.shape[1]:,} numbers of {block.dtype}"
        expected = f"{manifest.features:,} of {manifest.dtype}"
        raise DataError(f"{shard.path}: has {found}; {manifest.path.name} says {expected}")


def _rows_of(path: Path, d: int | None) -> Iterator[np.ndarray]:
    """Yield the rows of a file in blocks (k, d)."""
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        columns = find_columns(path, False)
        if not columns.numbers:
            raise DataError(f"{path}: has no column of lists of numbers; save embeddings as lists")
        if d is None:
            d = first_length(path, columns.rows)
        yield from list_blocks(path, columns.rows, d, f"all others have {d:,}")
        return
    if suffix == ".safetensors":
        archive = Safetensors(path)
        names = [name for name in archive.names if role_of(name)[0] == "rows"]
        if len(names) != 1:
            raise DataError(f"{path}: must hold one array of rows; call it X")
        stored = archive.open(names[0])
    elif suffix == ".npy":
        stored = open_npy(path)
    else:
        raise DataError(f"{path}: is not a shard; save rows as .npy, .safetensors or .parquet")
    if len(stored.shape) != 2:
        raise DataError(f"{stored.name}: has the shape {stored.shape}; rows are (n, d)")
    yield from stored.blocks()


def _own_labels(path: Path, count: int) -> np.ndarray:
    """Return the labels that lie in a shard of `count` rows, or beside it."""
    found = _labels_of(path)
    if len(found) != count:
        raise DataError(f"{path}: has {counted(count, 'row')} and {counted(len(found), 'label')}")
    return found


def _labels_of(path: Path) -> np.ndarray:
    suffix = path.suffix.lower()
    if suffix == ".parquet":
        return read_labels(path, find_columns(path, False))
    if suffix == ".safetensors":
        archive = Safetensors(path)
        names = [name for name in archive.names if role_of(name)[0] == "labels"]
        if len(names) == 1:
            return np.concatenate([np.asarray(block).ravel() for block in archive.open(names[0]).blocks()])
    beside = path.with_name(path.name.replace("img_emb", "labels"))
    if beside == path or not beside.is_file():
        raise DataError(f"{path}: its labels are not known; pass labels={{part: labels}}")
    return np.asarray(open_npy(beside).map()).ravel()


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _key(manifest: Manifest) -> str:
    """Return the key of a copy of all rows in the cache."""
    states = [(str(shard.path), *state_of(shard.path.stat())) for shard in manifest.shards if shard.path.exists()]
    return hashlib.sha256(json.dumps(["shards", manifest.fingerprint, states]).encode()).hexdigest()
