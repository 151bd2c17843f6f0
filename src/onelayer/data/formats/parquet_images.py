"""The images of parquet files, read by pyarrow a batch at a time."""

from collections.abc import Iterator
from itertools import islice
from pathlib import Path

from onelayer.data.formats.parquet_file import (
    BATCH_BYTES,
    BATCH_ROWS,
    features_of,
    image_column,
    image_paths,
    opened,
)
from onelayer.data.untrusted.images import Encoded
from onelayer.data.untrusted.reading import FREE_BYTES, MAX_RATIO
from onelayer.errors import DataError


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
        column = image_column(path, schema, features_of(schema))
    if not count:
        raise DataError(f"{path}: holds no images")
    return StoredImages({path: count}, column)
