"""A parquet file of images: its columns, labels and images, read by pyarrow a batch at a time."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from onelayer.data.dataset import require_labels
from onelayer.data.untrusted.images import Encoded
from onelayer.data.untrusted.reading import FREE_BYTES, MAX_RATIO, require_file
from onelayer.errors import ConfigError, DataError
from onelayer.words import is_name, printable

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_IMAGES, LABELS = ("image", "img"), ("label", "labels", "fine_label")  # columns, the first that exists
COARSE = "coarse_label"
_LEAST_IMAGE_BYTES = 16  # no image file is smaller
_FREE_ROWS = 1000  # files of at most this many rows may claim smaller images
_FREE_LISTED_ROWS = 100_000  # the rows of a list of images compress far better, to a byte or less
BATCH_ROWS, BATCH_BYTES = 256, 2**25
_MAX_METADATA_BYTES = 2**20


class Columns(NamedTuple):
    """The columns that are read from a file.

    Parameters
    ----------
    image, label : str
        Paths of the columns.
    texts : bool
        Whether labels are texts, not integers.
    class_names : tuple of str
        The names that the file gives to the integers; empty if there are none.
    """

    image: str
    label: str
    texts: bool
    class_names: tuple[str, ...]


def find_columns(path: Path, coarse: bool) -> Columns:
    """Find the columns of images and labels; `coarse` takes the labels from the column coarse_label."""
    with opened(path) as file:
        import pyarrow.types as of

        schema = file.schema_arrow
        features = _features(schema)
        image = _image_column(path, schema, features)
        if coarse and COARSE not in schema.names:
            raise ConfigError(f"coarse does not apply to {path}, which has no column {COARSE}; leave it out")
        usual = [name for name in ((COARSE,) if coarse else LABELS) if name in schema.names]
        label = _one(path, schema, "labels", usual, [name for name in features if _is(features, name, "ClassLabel")])
        type_ = schema.field(label).type
        texts = of.is_string(type_) or of.is_large_string(type_) or of.is_dictionary(type_)
        if not texts and not of.is_integer(type_):
            raise DataError(f"{path}: the column {printable(label)} is {type_}; labels are integers or texts")
        names = features.get(label, {}).get("names")
        if texts or not isinstance(names, list):
            return Columns(image, label, texts, ())
        good = [name for name in names if is_name(name)]
        if len(set(good)) < len(names):
            raise DataError(f"{path}: the class names of {printable(label)} are not all different and printable")
        return Columns(image, label, texts, tuple(good))


def _one(path: Path, schema: "pa.Schema", what: str, usual: list[str], others: list[str]) -> str:
    """Return the first column with a usual name, else the only other column."""
    if usual or len(others) == 1:
        return (usual or others)[0]
    columns = printable(", ".join(schema.names), 300)
    raise DataError(f"{path}: the column of the {what} is not clear; rename one of {columns} to {what[:-1]}")


def _is(features: dict[str, dict[str, Any]], name: str, type_: str) -> bool:
    """Return whether a column has this type for the library of the Hugging Face hub."""
    return features.get(name, {}).get("_type") == type_


def _features(schema: "pa.Schema") -> dict[str, dict[str, Any]]:
    """Return the facts of the hub's library about the columns; none if it did not write the file."""
    content = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        found = json.loads(content[:_MAX_METADATA_BYTES])["info"]["features"].items()
        return {name: feature for name, feature in found if name in schema.names and isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def _image_column(path: Path, schema: "pa.Schema", features: dict[str, dict[str, Any]]) -> str:
    """Return the path of the column with the images' bytes."""
    paths = image_paths(schema)
    usual = [name for name in _IMAGES if name in paths]
    marked = [name for name in paths if _is(features, name, "Image")]
    return paths[_one(path, schema, "images", usual, marked or list(paths))]


def image_paths(schema: "pa.Schema") -> dict[str, str]:
    """Return the columns that can hold images, and the paths of their bytes."""
    import pyarrow.types as of

    paths = {}
    for field in schema:
        bytes_ = field.type.field("bytes") if of.is_struct(field.type) and "bytes" in field.type.names else field
        if of.is_binary(bytes_.type) or of.is_large_binary(bytes_.type):
            paths[field.name] = field.name if bytes_ is field else f"{field.name}.bytes"
    return paths


@contextmanager
def opened(path: Path, dictionaries: Collection[str] = (), listed: bool = False) -> Iterator["pq.ParquetFile"]:
    """Open a file of images, or a list of them; read these columns as dictionaries; turn errors into a DataError."""
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"{path}: parquet files need pyarrow: pip install pyarrow") from None
    try:
        require_file(path)
        # In columns as dictionaries, values that occur many times are kept once.
        with pq.ParquetFile(path, read_dictionary=list(dictionaries), pre_buffer=False, buffer_size=2**20) as file:
            rows, size = file.metadata.num_rows, path.stat().st_size
            most = _FREE_LISTED_ROWS + size if listed else _FREE_ROWS + size // _LEAST_IMAGE_BYTES
            if not 0 <= rows <= most:
                raise DataError(f"{path}: claims {rows:,} images in {size:,} bytes; refused as a bomb")
            yield file
    except (DataError, ConfigError):
        raise
    except OSError as error:
        if error.errno is not None:
            raise DataError(f"{path}: cannot be read ({error.strerror})") from None
        raise _damaged(path, error) from None
    except Exception as error:  # a damaged file can make pyarrow raise any error
        raise _damaged(path, error) from None


def _damaged(path: Path, error: Exception) -> DataError:
    return DataError(f"{path}: is damaged or not a parquet file ({printable(str(error).partition(chr(10))[0], 200)})")


def has_labels(path: Path, label: str) -> bool:
    """Return whether a file has a label in any row: test rows are often published with -1 or nothing instead."""
    with opened(path) as file:
        import pyarrow.compute as pc
        import pyarrow.types as of

        if label not in file.schema_arrow.names:
            return not {*LABELS, COARSE}.isdisjoint(file.schema_arrow.names)  # labels of another name
        for batch in file.iter_batches(BATCH_ROWS * 64, columns=[label]):
            column = batch.column(0)
            if of.is_signed_integer(column.type):
                column = pc.if_else(pc.equal(column, -1), None, column)
            if column.null_count < len(column):
                return True
    return False


def read_labels(path: Path, columns: Columns) -> np.ndarray:
    """Return the labels (n,) of a file, int64 or texts."""
    found: list[np.ndarray] = []
    count = 0
    with opened(path, [columns.label]) as file:
        import pyarrow.types as of

        for batch in file.iter_batches(BATCH_ROWS * 64, columns=[columns.label]):
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
                        raise DataError(f"{path}: the label {printable(str(name))!r} cannot be the name of a class")
                values = np.array(names, object)[column.indices.to_numpy()]
            else:
                values = column.cast("int64").to_numpy()
                if columns.class_names:
                    require_labels(values, len(columns.class_names), str(path), count)
            found.append(values)
            count += len(values)
        if not count:
            raise DataError(f"{path}: holds no images")
        if count != file.metadata.num_rows:
            raise DataError(f"{path}: holds {count:,} labels for {file.metadata.num_rows:,} images")
    return np.concatenate(found)


class StoredImages:
    """The images of files, read a batch at a time; each file must have as many images as labels.

    Parameters
    ----------
    counts : dict of Path to int
        The files in their order, each with the number of its labels.
    column : str
        The column of the encoded images.
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
            with opened(path) as file:
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
        """The number of images that a thread may take at a time while a few blocks wait for each thread."""
        return max(1, min(16, min(map(min, self.batches.values())) // 8))


def _batch_sizes(path: Path, column: str) -> list[int]:
    """Return, for each row group of a file, the number of images that may be in memory at a time.

    A group can have a dictionary of values, each of which stands for any number of rows, so that a file of a megabyte
    unfolds into terabytes. Therefore the size of the largest value in the dictionary counts.
    """
    import pyarrow.compute as pc
    import pyarrow.types as of

    sizes = []
    stored = path.stat().st_size
    with opened(path, [column]) as file:
        for group in range(file.metadata.num_row_groups):
            metadata = file.metadata.row_group(group)
            if metadata.total_byte_size > FREE_BYTES + MAX_RATIO * stored:
                raise DataError(f"{path}: claims {metadata.total_byte_size:,} bytes in {stored:,}; refused as a bomb")
            largest = metadata.total_byte_size // max(1, metadata.num_rows)
            for batch in islice(file.iter_batches(1, row_groups=[group], columns=[column]), 1):
                values = batch.column(0).flatten()[0] if of.is_struct(batch.column(0).type) else batch.column(0)
                largest = max(largest, pc.max(pc.binary_length(values.dictionary)).as_py() or 0)
            sizes.append(max(1, min(BATCH_ROWS, BATCH_BYTES // max(1, largest))))
    return sizes


def open_images(path: Path) -> StoredImages | None:
    """Return the images of a file, with labels or without; None if no column can hold images."""
    with opened(path) as file:
        schema, count = file.schema_arrow, file.metadata.num_rows
        if not image_paths(schema):
            return None
        column = _image_column(path, schema, _features(schema))
    if not count:
        raise DataError(f"{path}: holds no images")
    return StoredImages({path: count}, column)
