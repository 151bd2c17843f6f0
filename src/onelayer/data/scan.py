"""One pass over all rows of a data set: their fingerprint, the first number that is not finite, and equal rows."""

import hashlib
import mmap
from collections.abc import Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass

import numpy as np

from onelayer.data.progress import Progress

BLOCK_BYTES = 4 * 2**20  # of rows that are looked at together


def memory_map_of(rows: np.ndarray) -> mmap.mmap | None:
    """Return the memory map that rows are a view of; None if they are in memory."""
    base: object = rows
    while isinstance(base, np.ndarray):
        base = base.base
    if isinstance(base, memoryview):
        base = base.obj
    return base if isinstance(base, mmap.mmap) else None


@contextmanager
def read_forwards(rows: np.ndarray) -> Iterator[None]:
    """Tell the system that rows in a memory map are read in their order: it reads far ahead and forgets what was read.

    Otherwise it keeps what was read last, which a next pass needs last, and has to make room for the rest.
    """
    source = memory_map_of(rows)
    if source:
        source.madvise(mmap.MADV_SEQUENTIAL)
    try:
        yield
    finally:
        if source:
            source.madvise(mmap.MADV_NORMAL)


@dataclass(frozen=True, eq=False)
class Scan:
    """The result of a pass over all rows.

    Parameters
    ----------
    fingerprint : str
        As `Dataset.fingerprint`.
    hashes : ndarray (n,), int64
        Python's `hash` of each row's bytes. Its salt differs in every process, so that nobody can make rows collide.
    not_finite : (int, int) or None
        Row and column of the first feature that is not a finite number.
    """

    fingerprint: str
    hashes: np.ndarray
    not_finite: tuple[int, int] | None


def scan(
    rows: np.ndarray,
    labels: np.ndarray,
    row_weights: np.ndarray | None,
    parts: Iterable[slice],
    progress: Progress | None = None,
) -> Scan:
    """Read all rows (n, d) once, a few at a time, part by part; the arguments are those of `Dataset`."""
    n, d = rows.shape
    step = max(1, BLOCK_BYTES // (d * rows.itemsize))
    digest = hashlib.sha256(f"{rows.dtype} {d}".encode())
    hashes = np.zeros(n, np.int64)
    not_finite = None
    done = 0
    # The digest of a block releases Python's lock: another thread computes it while this one hashes row by row.
    with read_forwards(rows), ThreadPoolExecutor(1) as other:
        for part in parts:
            places = np.arange(n)[part]
            for start in range(0, len(places), step):
                block = np.ascontiguousarray(rows[part][start : start + step])  # (k, d); mostly not a copy
                digested = other.submit(digest.update, block.data)
                hashes[places[start : start + step]] = [hash(row.tobytes()) for row in block]
                if not_finite is None and (found := first_not_finite(block)):
                    not_finite = int(places[start + found[0]]), found[1]
                digested.result()
                done += len(block)
                if progress:
                    progress(done, n)
            digest.update(labels[part].astype("<i8").data)
            if row_weights is not None:
                digest.update(np.ascontiguousarray(row_weights[part]).data)
    return Scan(digest.hexdigest(), hashes, not_finite)


def first_not_finite(rows: np.ndarray) -> tuple[int, int] | None:
    """Return row and column of the first number in rows (n, d) that is not finite; None if all are finite."""
    if rows.dtype == np.uint8:
        return None
    step = max(1, BLOCK_BYTES // (rows.shape[1] * rows.itemsize))
    for start in range(0, len(rows), step):
        finite = np.isfinite(rows[start : start + step])
        if not finite.all():
            row, column = np.argwhere(~finite)[0]
            return start + int(row), int(column)
    return None


def first_equals(rows: np.ndarray, hashes: np.ndarray) -> np.ndarray:
    """Return, for each of the rows (n, d), the place of the first row that is equal to it bit for bit.

    Only rows whose hashes agree are compared.

    Returns
    -------
    ndarray (n,), int64
    """
    step = max(1, BLOCK_BYTES // (rows.shape[1] * rows.itemsize))
    first = np.arange(len(rows))
    left = first
    while len(left):  # runs again only where different rows have the same hash
        _, leading, group = np.unique(hashes[left], return_index=True, return_inverse=True)
        leader = left[leading[group]]
        left, leader = left[leader != left], leader[leader != left]
        equal = np.zeros(len(left), bool)
        for start in range(0, len(left), step):
            block = slice(start, start + step)
            ours, theirs = (np.take(rows, places[block], axis=0).view(np.uint8) for places in (left, leader))
            equal[block] = (ours == theirs).all(axis=1)
        first[left[equal]] = leader[equal]
        left = left[~equal]
    return first
