"""A parquet file of images or embeddings: its columns and labels, read by pyarrow a batch at a time."""

import json
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from onelayer.data.dataset import require_labels
from onelayer.data.untrusted.reading import require_file
from onelayer.errors import ConfigError, DataError
from onelayer.words import is_name, printable

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq

_IMAGES, LABELS = ("image", "img"), ("label", "labels", "fine_label")  # columns, the first that exists
_LISTS = ("embedding", "embeddings", "features", "img_emb", "x")
COARSE = "coarse_label"
_LEAST_IMAGE_BYTES = 16  # no image file is smaller
_FREE_ROWS = 1000  # files of at most this many rows may claim smaller images
_FREE_OTHER_ROWS = 100_000  # paths of images and labels compress far better, to a byte or less
BATCH_ROWS, BATCH_BYTES = 256, 2**25
_MAX_METADATA_BYTES = 2**20


class Columns(NamedTuple):
    """The columns that are read from a file.

    Parameters
    ----------
    rows, label : str
        Paths of the columns.
    numbers : str
        The type of the numbers, if the rows are lists of them; empty if they are images.
    texts : bool
        Whether labels are texts, not integers.
    class_names : tuple of str
        The names that the file gives to the integers; empty if there are none.
    """

    rows: str
    numbers: str
    label: str
    texts: bool
    class_names: tuple[str, ...]

    @property
    def noun(self) -> str:
        """The word for the rows."""
        return "rows" if self.numbers else "images"


def find_columns(path: Path, coarse: bool) -> Columns:
    """Find the columns of images, or else of lists of floats, and of labels; `coarse` takes the column coarse_label."""
    with opened(path) as file:
        import pyarrow.types as of

        schema = file.schema_arrow
        features = features_of(schema)
        lists = float_lists(schema)
        if lists:
            rows = _one(path, schema, "embeddings", [name for name in _LISTS if name in lists], list(lists))
        else:
            rows = image_column(path, schema, features)
        numbers = lists.get(rows, "")
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
            return Columns(rows, numbers, label, texts, ())
        good = [name for name in names if is_name(name)]
        if len(set(good)) < len(names):
            raise DataError(f"{path}: the class names of {printable(label)} are not all different and printable")
        return Columns(rows, numbers, label, texts, tuple(good))


def _one(path: Path, schema: "pa.Schema", what: str, usual: list[str], others: list[str]) -> str:
    """Return the first column with a usual name, else the only other column."""
    if usual or len(others) == 1:
        return (usual or others)[0]
    columns = printable(", ".join(schema.names), 300)
    raise DataError(f"{path}: the column of the {what} is not clear; rename one of {columns} to {what[:-1]}")


def _is(features: dict[str, dict[str, Any]], name: str, type_: str) -> bool:
    """Return whether a column has this type for the library of the Hugging Face hub."""
    return features.get(name, {}).get("_type") == type_


def features_of(schema: "pa.Schema") -> dict[str, dict[str, Any]]:
    """Return the facts of the hub's library about the columns; none if it did not write the file."""
    content = (schema.metadata or {}).get(b"huggingface", b"{}")
    try:
        found = json.loads(content[:_MAX_METADATA_BYTES])["info"]["features"].items()
        return {name: feature for name, feature in found if name in schema.names and isinstance(feature, dict)}
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return {}


def image_column(path: Path, schema: "pa.Schema", features: dict[str, dict[str, Any]]) -> str:
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


def list_columns(schema: "pa.Schema") -> dict[str, "pa.DataType"]:
    """Return the columns of lists of numbers, and the types of the numbers."""
    import pyarrow.types as of

    kinds = (of.is_list, of.is_large_list, of.is_fixed_size_list)
    lists = {field.name: field.type.value_type for field in schema if any(is_kind(field.type) for is_kind in kinds)}
    return {
        name: type_
        for name, type_ in lists.items()
        if name not in (*LABELS, COARSE) and (of.is_floating(type_) or of.is_integer(type_))
    }


def list_column(schema: "pa.Schema") -> str | None:
    """Return the column of lists of numbers with a usual name, else the only one; None if it is not clear."""
    lists = list(list_columns(schema))
    usual = [name for name in _LISTS if name in lists]
    return usual[0] if usual else lists[0] if len(lists) == 1 else None


def float_lists(schema: "pa.Schema") -> dict[str, str]:
    """Return the columns of lists of floats, and the types of these; none if there is a column of images."""
    import pyarrow.types as of

    lists = {} if image_paths(schema) else list_columns(schema)
    return {name: np.dtype(type_.to_pandas_dtype()).name for name, type_ in lists.items() if of.is_floating(type_)}


@contextmanager
def opened(path: Path, dictionaries: Collection[str] = ()) -> Iterator["pq.ParquetFile"]:
    """Open a file; read these columns as dictionaries; turn errors into a DataError."""
    try:
        import pyarrow.parquet as pq
    except ImportError:
        raise DataError(f"{path}: parquet files need pyarrow: pip install pyarrow") from None
    try:
        require_file(path)
        # In columns as dictionaries, values that occur many times are kept once.
        with pq.ParquetFile(path, read_dictionary=list(dictionaries), pre_buffer=False, buffer_size=2**20) as file:
            rows, size = file.metadata.num_rows, path.stat().st_size
            images = bool(image_paths(file.schema_arrow))
            most = _FREE_ROWS + size // _LEAST_IMAGE_BYTES if images else _FREE_OTHER_ROWS + size
            if not 0 <= rows <= most:
                raise DataError(
                    f"{path}: claims {rows:,} {'images' if images else 'rows'} in {size:,} bytes; refused as a bomb"
                )
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


def batch_rows(d: int) -> int:
    """Return the number of rows of d numbers to read at a time."""
    return max(1, min(BATCH_ROWS * 16, BATCH_BYTES // (8 * d)))


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
            raise DataError(f"{path}: holds no {columns.noun}")
        if count != file.metadata.num_rows:
            raise DataError(f"{path}: holds {count:,} labels for {file.metadata.num_rows:,} {columns.noun}")
    return np.concatenate(found)
