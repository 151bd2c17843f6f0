"""A parquet file without images: a list of their paths, or rows of numbers, read by pyarrow a batch at a time."""

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from onelayer.data.dataset import refuse_number
from onelayer.data.formats.parquet_file import BATCH_ROWS, COARSE, LABELS, batch_rows, image_paths, list_column, opened
from onelayer.data.formats.parquet_lists import list_blocks
from onelayer.data.scan import first_not_finite
from onelayer.data.untrusted.reading import FREE_BYTES, MAX_RATIO
from onelayer.errors import DataError
from onelayer.words import printable

if TYPE_CHECKING:
    import pyarrow as pa

_MAX_TEXT_BYTES = 4096  # of a path or label


def lists_images(path: Path) -> bool:
    """Return whether a file has a column of paths and none that can hold images."""
    if path.is_dir():
        return False
    with opened(path) as file:
        schema = file.schema_arrow
        return "path" in map(str.lower, schema.names) and not image_paths(schema)


def read_texts(path: Path, columns: tuple[str, ...], needed: str) -> Iterator[tuple[Any, ...]]:
    """Yield the place of each row, and the texts in these columns; None for the third column if there is none.

    The columns are texts or integers, in files of any length: values that occur often are held once.
    """
    with opened(path) as file:
        names = {name.lower(): name for name in file.schema_arrow.names}
        if lacking := [column for column in columns[:2] if column not in names]:
            held = printable(", ".join(names), 100)
            raise DataError(f"{path}: has no column {' and '.join(lacking)} (found {held}); {needed}")
        groups = range(file.metadata.num_row_groups)
        claimed = sum(file.metadata.row_group(group).total_byte_size for group in groups)
        stored = path.stat().st_size
        if claimed > FREE_BYTES + MAX_RATIO * stored:
            raise DataError(f"{path}: claims {claimed:,} bytes in {stored:,}; refused as a bomb")
    found = [names[column] for column in columns if column in names]
    row = 0
    with opened(path, found) as file:
        for batch in file.iter_batches(BATCH_ROWS * 64, columns=found):
            of_columns = {name: _texts(path, name, row, batch.column(name)) for name in found}
            nothing = [None] * len(batch)
            texts = [of_columns.get(names.get(column, ""), nothing) for column in columns]
            for place, values in enumerate(zip(*texts, strict=True), row):
                yield f"row {place}", *values
            row += len(batch)


def _texts(path: Path, name: str, row: int, column: "pa.Array") -> list[str]:
    """Return the values of a column as texts; `row` is the number of its first row."""
    import pyarrow.compute as pc
    import pyarrow.types as of

    if column.null_count:
        empty = row + column.is_null().index(True).as_py()
        raise DataError(f"{path}, row {empty}: has no {name.lower()}; add it, or remove the row")
    if of.is_integer(column.type):
        return [str(value) for value in column.to_pylist()]
    type_ = column.type.value_type if of.is_dictionary(column.type) else column.type
    if not (of.is_string(type_) or of.is_large_string(type_)):
        raise DataError(f"{path}: the column {name} is {printable(str(type_))}; it must hold texts or whole numbers")
    values = column.dictionary if of.is_dictionary(column.type) else column
    if (longest := pc.max(pc.binary_length(values)).as_py() or 0) > _MAX_TEXT_BYTES:
        raise DataError(f"{path}: a {name} from row {row} on has {longest:,} bytes; at most {_MAX_TEXT_BYTES:,} may be")
    return list(column.to_pylist())


def number_blocks(path: Path, d: int) -> tuple[Iterator[np.ndarray], int]:
    """Return the rows of a file without images, a few at a time, and their number.

    Parameters
    ----------
    path : Path
        A file with a column of lists of d numbers, or with d columns of numbers. Columns of labels and texts are left
        out.
    d : int

    Returns
    -------
    blocks : iterator of ndarray (m, d), float32 or float64
    n : int

    Raises
    ------
    DataError
        If it has other columns, or a number that is missing or not finite.
    """
    with opened(path) as file:
        schema, n = file.schema_arrow, file.metadata.num_rows
    if column := list_column(schema):
        return _finite(path, list_blocks(path, column, d, f"the model is for {d:,}")), n
    return _finite(path, _column_blocks(path, _number_columns(path, schema, d))), n


def _number_columns(path: Path, schema: "pa.Schema", d: int) -> list[str]:
    """Return the names of d columns of numbers."""
    import pyarrow.types as of

    fields = [field for field in schema if field.name not in (*LABELS, COARSE)]
    numbers = [field.name for field in fields if of.is_integer(field.type) or of.is_floating(field.type)]
    if len(numbers) != d:
        what = f"{len(numbers):,} columns of numbers"
        raise DataError(f"{path}: has {what}; the model is for {d:,}, or for one column of lists of {d:,}")
    return numbers


def _column_blocks(path: Path, columns: list[str]) -> Iterator[np.ndarray]:
    with opened(path) as file:
        for batch in file.iter_batches(batch_rows(len(columns)), columns=columns):
            yield np.column_stack([array.to_numpy(zero_copy_only=False) for array in batch.columns])


def _finite(path: Path, blocks: Iterator[np.ndarray]) -> Iterator[np.ndarray]:
    """Yield blocks of rows as float32 or float64, after a check that all numbers are there."""
    start = 0
    for block in blocks:
        rows = block if block.dtype in (np.float32, np.float64) else block.astype(np.float64)
        if place := first_not_finite(rows):
            refuse_number(rows, place, str(path), start)
        yield rows
        start += len(rows)
