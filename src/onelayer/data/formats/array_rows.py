"""The rows of stored arrays: mapped where a file holds them in the layout of training, else copied once."""

import hashlib
import json
from collections.abc import Callable

import numpy as np

from onelayer.data.cache import MEMORY_BYTES, cache_directory, cached_rows, state_of
from onelayer.data.dataset import refuse_number
from onelayer.data.progress import Progress
from onelayer.data.scan import first_not_finite
from onelayer.data.untrusted.npy import StoredArray
from onelayer.errors import DataError
from onelayer.words import printable

Shape = tuple[int, int, int]


def rows_of(stored: list[StoredArray], progress: Progress | None) -> tuple[np.ndarray, Shape | None, list[str]]:
    """Return the rows (n, d) of all arrays, one after the other, the shape of the images, and notes."""
    first = stored[0]
    image_shape, channels_last = _picture(first)
    for array in stored[1:]:
        if (array.dtype.newbyteorder("="), array.shape[1:]) != (first.dtype.newbyteorder("="), first.shape[1:]):
            raise DataError(
                f"{array.name} is {array.dtype} of the shape {array.shape}, but {first.name} {first.dtype} "
                f"of {first.shape}; rows of all parts must have one type and shape"
            )
    dtype = first.dtype.newbyteorder("=")
    notes = notes_on(dtype)
    reason = _reason_to_copy(stored, channels_last)
    if reason is None:
        return first.map().reshape(first.shape[0], -1), image_shape, notes
    shape = sum(array.shape[0] for array in stored), int(np.prod(first.shape[1:]))
    total = sum(array.nbytes for array in stored)
    rows, more = copied(_key(stored), shape, dtype, _filler(stored, channels_last, total, progress), reason)
    return rows, image_shape, notes + more


def notes_on(dtype: np.dtype) -> list[str]:
    """Return notes on the type of features, of which there are none if the kernel takes it."""
    if dtype != np.float64:
        return []
    what = "so NumPy does the arithmetic; the compiled kernel, which is faster, needs float32 or float16"
    return [f"the rows are {dtype}, {what}"]


def copied(
    key: str,
    shape: tuple[int, int],
    dtype: np.dtype,
    fill: Callable[[np.ndarray], tuple[int, dict[str, object]]],
    reason: str,
) -> tuple[np.ndarray, list[str]]:
    """Return rows that `fill` writes into memory, or into the cache if they are large, and notes with the reason.

    Key, shape, type and `fill` are those of `cached_rows`.
    """
    size = shape[0] * shape[1] * dtype.itemsize
    if size <= MEMORY_BYTES:
        rows = np.empty(shape, dtype)
        fill(rows)
        return rows, []
    rows, _ = cached_rows(key, shape, fill, dtype)
    folder = cache_directory() / "rows"
    return rows, [f"training reads a copy of the rows in {folder} ({size / 1e9:.1f} GB), as {reason}"]


def _picture(array: StoredArray) -> tuple[Shape | None, bool]:
    """Return the shape (c, h, w) of the images, None for features, and whether the channels come last in the file."""
    sizes = array.shape[1:]
    what = f"{array.name}: is {printable(str(array.dtype))} of the shape {array.shape}"
    if array.dtype.newbyteorder("=") not in (np.uint8, np.float16, np.float32, np.float64):
        raise DataError(f"{what}; save pixels as uint8, and other numbers with X.astype(numpy.float32)")
    if not 1 <= len(sizes) <= 3:
        raise DataError(f"{what}; rows are features (n, d), or images (n, h, w) or (n, h, w, c)")
    if len(sizes) == 1:
        return None, False
    if array.dtype != np.uint8:
        raise DataError(f"{what}; save images as uint8 from 0 to 255, or features with X.reshape(len(X), -1)")
    if len(sizes) == 2:
        return (1, sizes[0], sizes[1]), False
    if sizes[2] in (1, 3):
        return (sizes[2], sizes[0], sizes[1]), True
    if sizes[0] in (1, 3):
        return (sizes[0], sizes[1], sizes[2]), False
    alpha = "; remove the transparency with X[..., :3]" if sizes[2] == 4 else ""
    raise DataError(f"{what}; images (n, h, w, c) have 1 or 3 channels{alpha}")


def _reason_to_copy(stored: list[StoredArray], channels_last: bool) -> str | None:
    """Return the reason why rows cannot be mapped; None if they can."""
    first = stored[0]
    if len(stored) > 1:
        return "each part is a separate array" if first.path == stored[-1].path else "they are in several files"
    if first.obstacle is None and channels_last and first.shape[3] > 1:
        return "their channels come last"
    return first.obstacle


def _filler(
    stored: list[StoredArray], channels_last: bool, total: int, progress: Progress | None
) -> Callable[[np.ndarray], tuple[int, dict[str, object]]]:
    """Return the function that copies the arrays into rows (n, d), as `cached_rows` calls it."""

    def fill(rows: np.ndarray) -> tuple[int, dict[str, object]]:
        start = done = 0
        several = len({array.path for array in stored}) > 1
        for array in stored:
            first = start
            for block in array.blocks():
                images = block.transpose(0, 3, 1, 2) if channels_last else block
                rows[start : start + len(block)] = images.reshape(len(block), -1)
                # later, the place in all rows would be known, but not the file
                if several and (place := first_not_finite(rows[start : start + len(block)])):
                    refuse_number(rows[start:], place, array.name, start - first)
                start += len(block)
                done += block.nbytes
                if progress:
                    progress(done, total)
        return start, {}

    return fill


def _key(stored: list[StoredArray]) -> str:
    """Return the key of a copy of rows: a digest of the states of the files and the places of the arrays in them."""
    facts = []
    for array in stored:
        state = state_of(array.path.stat())
        facts.append([str(array.path.resolve()), *state, array.name, array.offset])
    return hashlib.sha256(json.dumps(["arrays", facts]).encode()).hexdigest()
