"""Parquet files with a column of images, as the Hugging Face hub lays sets such as CIFAR-10 out."""

import hashlib
import json
import os
import re
from collections.abc import Collection, Iterator
from contextlib import contextmanager, suppress
from fnmatch import fnmatchcase
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from onelayer.config import SourceConfig
from onelayer.data.cache import state_of
from onelayer.data.dataset import PARTS, Dataset
from onelayer.data.formats.image_rows import image_rows
from onelayer.data.progress import Progress, silent
from onelayer.data.untrusted.images import Encoded
from onelayer.data.untrusted.reading import FREE_BYTES, MAX_RATIO
from onelayer.errors import ConfigError, DataError
from onelayer.words import is_name, listed, printable

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_SHOWN = "[!.]*.parquet"  # hidden files are left out
_PART = re.compile(rf"({'|'.join(PARTS)})(?![a-z])", re.IGNORECASE)
_IMAGES, _LABELS = ("image", "img"), ("label", "labels", "fine_label")  # columns, the first that is there
_COARSE = "coarse_label"
_LEAST_IMAGE_BYTES = 16  # fewer than any image file has
_FREE_ROWS = 1000  # may claim less
_BATCH_ROWS, _BATCH_BYTES = 256, 2**25
_MAX_METADATA_BYTES = 2**20
_LOOK = 1000  # files of a folder, to see of what kind they are
_PARTIAL = "partial-"  # how the hub calls a part of which it converted a piece
NUMBERED = re.compile(r"(?P<name>.*)-(?P<number>[0-9]{1,6})-of-(?P<count>[0-9]{1,6})(?![0-9]).*")


def find_parquet(path: Path) -> Path | None:
    """The path, if it is a parquet file, or a folder with such, or with one folder that has them.

    A folder can stand for a file: one with its suffix, as other programs write many files as one, and one with the name
    of a part, as the hub converts sets.
    """
    if not path.is_dir():
        return path if path.suffix == ".parquet" else None
    return path if _folders(path) else None


def read_parquet(path: Path, config: SourceConfig, progress: Progress | None = None) -> Dataset:
    """Read images and labels; images from the cache where they were read before and the files have not changed since.

    Parameters
    ----------
    path : Path
        A file; or a folder with files whose names start with their part (train, validation or val, test), or with
        files of no part, or with one folder that has such. Others beside those of parts are left out, and so are parts
        for validation and testing without labels.
    config : SourceConfig
        Sizes and images that cannot be read are treated as in a folder of images. `coarse` takes the column
        coarse_label.
    progress : callable, optional
        Called with the images done and the images in all, anew for sizes and pixels.

    Returns
    -------
    Dataset
        Its classes are those that the files name, else the labels that occur.

    Raises
    ------
    DataError
        If pyarrow is not installed, a column is missing or ambiguous, something is damaged, or files are missing of
        which others say by their names that they are there.
    ConfigError
        If there are no coarse labels.
    """
    parts, notes = _parts(path)
    columns = _columns(next(iter(parts.values()))[0], config.coarse)
    for part in list(parts)[1:]:
        if not any(_has_labels(file, columns.label) for file in parts[part]):
            del parts[part]
            notes.append(f"left out, as its rows have no labels: {part}")
    files = [file for of_part in parts.values() for file in of_part]
    for file in files[1:]:
        if _columns(file, config.coarse) != columns:
            raise DataError(f"{file}: has other columns, or classes, than {files[0].name}")
    labels = [_labels(file, columns) for file in files]
    images = StoredImages(dict(zip(files, map(len, labels), strict=True)), columns.image)
    state = hashlib.sha256(columns.image.encode())
    for file in files:
        state.update(os.fsencode(f"{file.name}\0{state_of(file.stat())}\n"))
    report = progress or silent
    result = image_rows(path, images, lambda image: image, state.digest(), config, report, images.block)

    class_names, numbers = columns.class_names, np.concatenate(labels)
    if not class_names:
        occurring, numbers = np.unique(numbers, return_inverse=True)
        class_names = tuple(map(str, occurring.tolist()))
    sizes = [sum(len(labels[files.index(file)]) for file in of_part) for of_part in parts.values()]
    stops = np.concatenate([[0], np.cumsum(result.kept)])[np.cumsum(sizes)].tolist()  # of the rows that were kept
    return Dataset(
        rows=result.rows,
        labels=numbers[result.kept].astype(np.int64),
        class_names=class_names,
        image_shape=result.image_shape,
        name=printable((path if path.is_dir() else path.with_suffix("")).resolve().name) or "parquet",
        parts={} if "" in parts else dict(zip(parts, map(slice, [0, *stops], stops), strict=False)),
        notes=(*notes, *result.notes),
    )


# which files there are


def _folders(path: Path) -> list[Path]:
    """The folder, if it has parquet files, else those in it that have."""
    if _has(path):
        return [path]
    with os.scandir(path) as entries:
        inner = sorted(path / entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    return [folder for folder in inner if _has(folder)]


def _has(folder: Path) -> bool:
    """Whether a folder has parquet files, by its first entries: it may hold a million images.

    One that cannot be looked into has none: it is for those to say so who read it.
    """
    with suppress(OSError), os.scandir(folder) as entries:
        return any(_holds(entry) for entry in islice(entries, _LOOK))
    return False


def _holds(entry: os.DirEntry[str]) -> bool:
    """Whether an entry of a folder is a parquet file, or a folder that stands for one."""
    named = fnmatchcase(entry.name, _SHOWN)
    if not named and entry.name.lower().removeprefix(_PARTIAL) not in PARTS:
        return False
    if not entry.is_dir():
        return named
    with os.scandir(entry.path) as inner:
        return any(fnmatchcase(file.name, _SHOWN) and file.is_file() for file in islice(inner, _LOOK))


def _parts(path: Path) -> tuple[dict[str, list[Path]], list[str]]:
    """The files of each part, in the order of parts and names, and notes; the part is "" where there is no division."""
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
                notes.append(f"{place.name} is, as its name says, a piece of the part only")
        else:
            others.append((place, files))
    if parts and others:
        names = printable(", ".join(place.name for place, _ in others))
        notes.append(f"left out, as they are of neither train, validation nor test: {names}")
    parts = {part: parts[part] for part in dict.fromkeys(PARTS.values()) if part in parts}
    parts = parts or {"": [file for _, files in others for file in files]}
    _require_whole(path, [file for files in parts.values() for file in files])
    return parts, notes


def _require_whole(path: Path, files: list[Path]) -> None:
    """Refuse files that say by their names how many they are, where they are fewer or more."""
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


# their columns


class _Columns(NamedTuple):
    """What is read of a file.

    Parameters
    ----------
    image, label : str
        Paths of the columns.
    texts : bool
        Whether labels are texts, not integers.
    class_names : tuple of str
        Those that the file gives the integers; empty where it does not.
    """

    image: str
    label: str
    texts: bool
    class_names: tuple[str, ...]


def _columns(path: Path, coarse: bool) -> _Columns:
    with _opened(path) as file:
        import pyarrow.types as of

        schema = file.schema_arrow
        features = _features(schema)
        image = _image_column(path, schema, features)
        if coarse and _COARSE not in schema.names:
            raise ConfigError(f"coarse does not apply to {path}, which has no column {_COARSE}; leave it out")
        usual = [name for name in ((_COARSE,) if coarse else _LABELS) if name in schema.names]
        label = _one(path, schema, "labels", usual, [name for name in features if _is(features, name, "ClassLabel")])
        type_ = schema.field(label).type
        texts = of.is_string(type_) or of.is_large_string(type_) or of.is_dictionary(type_)
        if not texts and not of.is_integer(type_):
            raise DataError(f"{path}: the column {printable(label)} is {type_}; labels are integers or texts")
        names = features.get(label, {}).get("names")
        if texts or not isinstance(names, list):
            return _Columns(image, label, texts, ())
        good = [name for name in names if is_name(name)]
        if len(set(good)) < len(names):
            raise DataError(f"{path}: the classes of {printable(label)} have no names of their own, fit to be printed")
        return _Columns(image, label, texts, tuple(good))


def _one(path: Path, schema: "pa.Schema", what: str, usual: list[str], others: list[str]) -> str:
    """The first column with a usual name, else the only other one."""
    if usual or len(others) == 1:
        return (usual or others)[0]
    columns = printable(", ".join(schema.names), 300)
    raise DataError(f"{path}: which column holds the {what} is not clear; of {columns}, call it {what[:-1]}")


def _is(features: dict[str, dict[str, Any]], name: str, type_: str) -> bool:
    return features.get(name, {}).get("_type") == type_


def _features(schema: "pa.Schema") -> dict[str, dict[str, Any]]:
    """What the hub's library says of the columns; none where it was not used."""
    content = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        found = json.loads(content[:_MAX_METADATA_BYTES])["info"]["features"].items()
        return {name: feature for name, feature in found if name in schema.names and isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _image_column(path: Path, schema: "pa.Schema", features: dict[str, dict[str, Any]]) -> str:
    """The path of the column with the images' bytes."""
    import pyarrow.types as of

    paths = {}
    for field in schema:
        bytes_ = field.type.field("bytes") if of.is_struct(field.type) and "bytes" in field.type.names else field
        if of.is_binary(bytes_.type) or of.is_large_binary(bytes_.type):
            paths[field.name] = field.name if bytes_ is field else f"{field.name}.bytes"
    usual = [name for name in _IMAGES if name in paths]
    marked = [name for name in paths if _is(features, name, "Image")]
    return paths[_one(path, schema, "images", usual, marked or list(paths))]


# their contents


@contextmanager
def _opened(path: Path, dictionaries: Collection[str] = ()) -> Iterator["pq.ParquetFile"]:
    """An open file, which gives these columns as dictionaries; what goes wrong with it is a DataError."""
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"{path}: parquet files are read by pyarrow; pip install 'onelayer[parquet]'") from None
    try:
        if not path.is_file():  # to open a pipe would wait for ever
            raise DataError(f"{path}: is not a file")
        # Of these columns, values that occur many times are kept once.
        with pq.ParquetFile(path, read_dictionary=list(dictionaries), pre_buffer=False, buffer_size=2**20) as file:
            rows, size = file.metadata.num_rows, path.stat().st_size
            if not 0 <= rows <= _FREE_ROWS + size // _LEAST_IMAGE_BYTES:
                raise DataError(f"{path}: claims {rows:,} images in {size:,} bytes; refused as a bomb")
            yield file
    except (DataError, ConfigError):
        raise
    except OSError as error:
        if error.errno is not None:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        raise _damaged(path, error) from None
    except Exception as error:  # whatever a damaged file leads pyarrow to
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: is damaged or no parquet file ({printable(str(error).partition(chr(10))[0], 200)})")


def _has_labels(path: Path, label: str) -> bool:
    """Whether a file has a label in any row: tests are often published with -1, or nothing, instead."""
    with _opened(path) as file:
        import pyarrow.compute as pc
        import pyarrow.types as of

        if label not in file.schema_arrow.names:
            return not {*_LABELS, _COARSE}.isdisjoint(file.schema_arrow.names)  # a label of another name
        for batch in file.iter_batches(_BATCH_ROWS * 64, columns=[label]):
            column = batch.column(0)
            if of.is_signed_integer(column.type):
                column = pc.if_else(pc.equal(column, -1), None, column)
            if column.null_count < len(column):
                return True
    return False


def _labels(path: Path, columns: _Columns) -> np.ndarray:
    """The labels (n,) of a file, int64 or texts."""
    found: list[np.ndarray] = []
    count = 0
    with _opened(path, [columns.label]) as file:
        import pyarrow.types as of

        for batch in file.iter_batches(_BATCH_ROWS * 64, columns=[columns.label]):
            column = batch.column(0)
            if column.null_count:
                row = count + column.is_null().index(True).as_py()
                raise DataError(f"{path}: row {row} has no label")
            if columns.texts:
                if not of.is_dictionary(column.type):
                    column = column.dictionary_encode()
                names = column.dictionary.to_pylist()
                for name in names:
                    if not is_name(name):
                        raise DataError(f"{path}: the label {printable(str(name))!r} is no name for a class")
                values = np.array(names, object)[column.indices.to_numpy()]
            else:
                values = column.cast("int64").to_numpy()
                outside = (values < 0) | (values >= len(columns.class_names))
                if columns.class_names and outside.any():
                    row = int(np.argmax(outside))
                    what = f"labels are 0 to {len(columns.class_names) - 1}"
                    raise DataError(f"{path}: row {count + row} has the label {values[row]}; {what}")
            found.append(values)
            count += len(values)
        if not count:
            raise DataError(f"{path}: holds no images")
        if count != file.metadata.num_rows:
            raise DataError(f"{path}: holds {count:,} labels for {file.metadata.num_rows:,} images")
    return np.concatenate(found)


class StoredImages:
    """The images of files, as many as each file has labels, read a batch at a time.

    Parameters
    ----------
    counts : dict of Path to int
        The files in their order, each with the number of its labels.
    column : str
        Holds the encoded images.
    """

    def __init__(self, counts: dict[Path, int], column: str) -> None:
        self.counts = counts
        self.column = column
        alike = len({file.name for file in counts}) < len(counts)  # train/0000.parquet and test/0000.parquet
        self.names = {file: "/".join(file.parts[-1 - alike :]) for file in counts}
        self.batches = {file: _batch_sizes(file, column) for file in counts}

    def __len__(self) -> int:
        return sum(self.counts.values())

    def __iter__(self) -> Iterator[Encoded]:
        import pyarrow.types as of

        for path, sizes in self.batches.items():
            row = 0
            with _opened(path) as file:
                for group, size in enumerate(sizes):
                    for batch in file.iter_batches(size, row_groups=[group], columns=[self.column]):
                        column = batch.column(0)
                        if of.is_struct(column.type):
                            column = column.flatten()[0]  # null where the struct is null
                        if row + len(column) > self.counts[path]:
                            raise DataError(f"{path}: is damaged: holds more images than labels")
                        for content in column.to_pylist():
                            yield Encoded(f"{self.names[path]}, row {row}", content or b"")
                            row += 1
            if row < self.counts[path]:
                raise DataError(f"{path}: is damaged: holds {row:,} images for {self.counts[path]:,} labels")

    @property
    def block(self) -> int:
        """How many images a thread may take at a time, when each thread has a few such blocks waiting."""
        return max(1, min(16, min(map(min, self.batches.values())) // 8))


def _batch_sizes(path: Path, column: str) -> list[int]:
    """For each row group of a file, how many images may be in memory at a time, before any is.

    A group can have a dictionary of values, each of which stands for any number of rows: a file of a megabyte that
    unfolds into terabytes. So the size of the largest value in it counts.
    """
    import pyarrow.compute as pc
    import pyarrow.types as of

    sizes = []
    stored = path.stat().st_size
    with _opened(path, [column]) as file:
        for group in range(file.metadata.num_row_groups):
            metadata = file.metadata.row_group(group)
            if metadata.total_byte_size > FREE_BYTES + MAX_RATIO * stored:
                raise DataError(f"{path}: claims {metadata.total_byte_size:,} bytes in {stored:,}; refused as a bomb")
            largest = metadata.total_byte_size // max(1, metadata.num_rows)
            for batch in islice(file.iter_batches(1, row_groups=[group], columns=[column]), 1):
                values = batch.column(0).flatten()[0] if of.is_struct(batch.column(0).type) else batch.column(0)
                largest = max(largest, pc.max(pc.binary_length(values.dictionary)).as_py() or 0)
            sizes.append(max(1, min(_BATCH_ROWS, _BATCH_BYTES // max(1, largest))))
    return sizes
