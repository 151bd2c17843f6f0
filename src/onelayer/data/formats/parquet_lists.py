"""Rows of numbers in a column of lists, in parquet files: embeddings, read by pyarrow a batch at a time."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from onelayer.data.formats.array_rows import copied, notes_on
from onelayer.data.formats.parquet_file import Columns, batch_rows, float_lists, opened
from onelayer.data.progress import Progress
from onelayer.data.untrusted.reading import FREE_BYTES, MAX_RATIO
from onelayer.errors import DataError
from onelayer.words import counted, printable

if TYPE_CHECKING:
    import pyarrow as pa
    import pyarrow.parquet as pq


def has_lists(path: Path) -> bool:
    """Return whether a file has a column of lists of floats, and none that can hold images."""
    if path.is_dir():
        return False
    with opened(path) as file:
        return bool(float_lists(file.schema_arrow))


def list_rows(
    counts: dict[Path, int], columns: Columns, state: str, progress: Progress
) -> tuple[np.ndarray, tuple[str, ...]]:
    """Return the lists of files as rows (n, d), one file after the other, and notes.

    Parameters
    ----------
    counts : dict of Path to int
        The files in their order, each with the number of its labels.
    columns : Columns
    state : str
        A digest of the files, with which a copy of many rows is kept in the cache.
    progress : callable
        Called with the rows done and their total.

    Raises
    ------
    DataError
        If a list is missing, empty, of another length than the first, or lacks a number.
    """
    first, n, dtype = next(iter(counts)), sum(counts.values()), np.dtype(columns.numbers)
    d = first_length(first, columns.rows)
    _refuse_bomb(first, n * d * dtype.itemsize, sum(path.stat().st_size for path in counts))

    def fill(rows: np.ndarray) -> tuple[int, dict[str, object]]:
        start = 0
        for path, count in counts.items():
            end = start + count
            for block in list_blocks(path, columns.rows, d, f"the first of {first.name} has {d:,}"):
                if start + len(block) <= end:
                    rows[start : start + len(block)] = block
                start += len(block)
                progress(min(start, n), n)
            if start != end:
                raise DataError(f"{path}: is damaged: holds {start - end + count:,} lists for {count:,} labels")
        return start, {}

    rows, notes = copied(state, (n, d), dtype, fill, "they are in lists of a parquet file")
    return rows, (*notes_on(dtype), *notes)


def list_blocks(path: Path, column: str, d: int, needed: str) -> Iterator[np.ndarray]:
    """Yield the lists in a column as rows (m, d) of the type of the numbers.

    The error on a list of another length ends with `needed`.
    """
    import pyarrow.compute as pc

    start = 0
    with _opened(path, column) as file:
        for batch in file.iter_batches(batch_rows(d), columns=[column]):
            lists = batch.column(0)
            where = f"the list in {printable(column)}"
            if lists.null_count:
                row = start + lists.is_null().index(True).as_py()
                raise DataError(f"{path}: row {row}: {where} is missing; add it, or remove the row")
            lengths = pc.list_value_length(lists).to_numpy(zero_copy_only=False)
            if len(wrong := np.flatnonzero(lengths != d)):
                length = int(lengths[wrong[0]])
                what = f"has {counted(length, 'number')}; {needed}" if length else "is empty; remove the row"
                raise DataError(f"{path}: row {start + wrong[0]}: {where} {what}")
            yield _numbers(path, where, start, lists, d)
            start += len(lists)


def _numbers(path: Path, where: str, start: int, lists: "pa.Array", d: int) -> np.ndarray:
    numbers = lists.flatten()
    if numbers.null_count:
        row, place = divmod(numbers.is_null().index(True).as_py(), d)
        raise DataError(
            f"{path}: row {start + row}: {where} lacks number {place}; every feature must be a finite number"
        )
    values: np.ndarray = numbers.to_numpy(zero_copy_only=False)
    return values.reshape(-1, d)


def first_length(path: Path, column: str) -> int:
    """Return the length of the first list; 1 if it is missing or empty, which reading then finds."""
    import pyarrow.compute as pc

    with _opened(path, column) as file:
        for batch in file.iter_batches(1, columns=[column]):
            return int(pc.list_value_length(batch.column(0))[0].as_py() or 1)
    return 1


@contextmanager
def _opened(path: Path, column: str) -> Iterator["pq.ParquetFile"]:
    """Open a file whose lists, as it says, do not take much more memory than the file: one alone could fill it."""
    with opened(path) as file:
        metadata, numbers = file.metadata, 0
        for group in map(metadata.row_group, range(metadata.num_row_groups)):
            chunks = map(group.column, range(group.num_columns))
            numbers += sum(chunk.num_values for chunk in chunks if chunk.path_in_schema.startswith(f"{column}."))
        itemsize = np.dtype(file.schema_arrow.field(column).type.value_type.to_pandas_dtype()).itemsize
        _refuse_bomb(path, numbers * itemsize, path.stat().st_size)
        yield file


def _refuse_bomb(path: Path, size: int, stored: int) -> None:
    """Raise a DataError if numbers of this size in bytes are far more than the bytes stored."""
    if size > FREE_BYTES + MAX_RATIO * stored:
        raise DataError(
            f"{path}: claims {size:,} bytes in {stored:,}; refused as a bomb; if you made it, write it without "
            "compression and dictionaries"
        )
