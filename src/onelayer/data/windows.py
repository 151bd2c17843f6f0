"""The order in which an epoch visits the training rows; by blocks, for sets that are larger than memory.

A shuffle of all rows would read a file row by row, which is slow. Blocks of neighbouring rows in a random order are
pieces that a disk reads quickly. Many blocks form a *window*, and the rows of a window are shuffled among each other. A
window of a memory map is copied into memory while the window before it is trained, so an epoch needs memory for two
windows. An evaluation goes through the rows in their order in the same way.
"""

import ctypes
import mmap
import threading
from collections.abc import Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing
from dataclasses import replace

import numpy as np

from onelayer.data.dataset import Split
from onelayer.data.mapped_file import MappedFile
from onelayer.data.scan import memory_map_of

# Blocks of a window. Where rows are sorted by class, a block has one class, so the classes of 64 blocks are as mixed as
# those of a batch of 64 rows. With fewer blocks, a window would lack classes; with more, the blocks in the same memory
# would be shorter, and a disk would have to seek more often.
WINDOW_BLOCKS = 64
PART_BYTES, PARTS_AHEAD = 2**20, 8  # bytes copied at a time, and how many such parts are read ahead
LEAST_ROWS = 256  # evaluated together, however long they are: setting up a layer takes as long as a few rows
DENSE = 1.5  # rows from the first to the last one of a window, for each of its rows: up to here all are read
NEAR_BYTES = 64 * 2**10  # a gap that is quicker to read than to leave out
HELD_BYTES = 64 * 2**10  # Linux holds pages of a map in pieces of this length, around each that is read


# Python's own madvise holds the interpreter's lock, and asking for pages can take as long as reading them.
madvise = ctypes.CDLL(None).madvise
madvise.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int)


def draw_windows(n: int, block_rows: int, batch_size: int, rng: np.random.Generator) -> list[np.ndarray]:
    """Draw the order in which the places 0 to n - 1 are visited, cut into windows.

    Parameters
    ----------
    n : int
        Number of places.
    block_rows : int
        Places in a block; 0 gives one permutation of all places.
    batch_size : int
        Rows of a batch. Windows are cut where a batch ends; the rows that are left over begin the next window.
    rng : Generator
        Draws the order of the blocks, then, window by window, the order of the places.

    Returns
    -------
    list of ndarray (k,), int64
        Every place once; the length of each window except the last is a multiple of `batch_size`.
    """
    if block_rows == 0:
        return [rng.permutation(n)]
    block_rows = min(block_rows, n)
    blocks = rng.permutation(-(-n // block_rows))
    mixed = []
    for first in range(0, len(blocks), WINDOW_BLOCKS):
        starts = block_rows * blocks[first : first + WINDOW_BLOCKS, np.newaxis]
        places = (starts + np.arange(block_rows)).ravel()
        mixed.append(rng.permutation(places[places < n]))
    ends = np.cumsum([len(window) for window in mixed])
    cuts = np.unique(-(-ends // batch_size) * batch_size)
    return np.split(np.concatenate(mixed), cuts[cuts < n])


def forward_windows(split: Split) -> list[np.ndarray]:
    """Return the places of a split in their order, a few megabytes of rows at a time."""
    step = window_rows(split.dataset.rows)
    step -= step % split.dataset.views
    return [np.arange(block.start, block.stop) for block in split.blocks(step)]


def window_rows(rows: np.ndarray) -> int:
    """Return the number of rows in a window that is read forwards."""
    return max(LEAST_ROWS, PARTS_AHEAD * PART_BYTES // (rows.shape[1] * rows.itemsize))


def loaded(split: Split, windows: Sequence[np.ndarray]) -> Generator[Split, None, None]:
    """Copy the windows of a memory map into memory, each while the window before it is in use.

    The iterator's ``close()`` ends the thread that reads, and closes the file.

    Parameters
    ----------
    split : Split
    windows : sequence of ndarray (k,), int64
        Places within the split.

    Yields
    ------
    Split
        The rows of a window, in its order. Copied rows are valid until the next window is asked for.
    """
    if memory_map_of(split.dataset.rows) is None:
        yield from (replace(split, indices=split.indices[window]) for window in windows)
        return
    shape = max(len(window) for window in windows), split.dataset.rows.shape[1]
    memory = [np.empty(shape, split.dataset.rows.dtype) for _ in windows[:2]]
    with closing(Loader(split, memory)) as loader, ThreadPoolExecutor(1) as reader:
        ahead = reader.submit(loader.load, windows[0])
        for following in (*windows[1:], None):
            window = ahead.result()
            if following is not None:
                ahead = reader.submit(loader.load, following)
            yield window
            loader.release(window)


class Loader:
    """Copies windows of a split from a memory map into memory, for several threads; rows in memory stay where they are.

    Parameters
    ----------
    split : Split
    unused : list of ndarray
        Memory for windows. It is taken from here and given back, as filling new memory costs twice as much.
    """

    def __init__(self, split: Split, unused: list[np.ndarray]) -> None:
        self._split, self._unused = split, unused
        self._source = memory_map_of(split.dataset.rows)
        self._file = None if self._source is None else MappedFile.of(split.dataset.rows)
        self._reading = threading.Lock()  # a disk reads forwards, one window after the other

    def close(self) -> None:
        """Close the file behind the memory map."""
        if self._file is not None:
            self._file.close()

    def load(self, window: slice | np.ndarray) -> Split:
        """Return the rows of a window, places within the split, in its order; they are valid until it is released."""
        dataset, indices = self._split.dataset, self._split.indices[window]
        if self._source is None:
            return replace(self._split, indices=indices)
        first, end = int(indices.min()), int(indices.max()) + 1
        places: slice | np.ndarray
        with self._reading:
            if self._file is not None and end - first <= DENSE * len(indices):
                places, order = slice(first, end), indices - first
                rows = self._memory(end - first)
                self._file.read(first, rows)
            else:
                places, order = np.unique(indices, return_inverse=True)
                rows = self._memory(len(places))
                _copy(dataset.rows, self._source, places, rows)
        weights = None if dataset.row_weights is None else dataset.row_weights[places]
        held = replace(dataset, rows=rows, labels=dataset.labels[places], row_weights=weights, parts={}, holding=None)
        return Split(self._split.name, held, order)

    def release(self, window: Split) -> None:
        """Use the memory of a window for another one."""
        memory = window.dataset.rows.base
        if self._source is not None and memory is not None:
            self._unused.append(memory)

    def _memory(self, count: int) -> np.ndarray:
        """Return memory for this many rows."""
        while self._unused:
            memory = self._unused.pop()
            if len(memory) >= count:
                return memory[:count]
            del memory  # before there is new memory
        return np.empty((count, self._split.dataset.rows.shape[1]), self._split.dataset.rows.dtype)


def _copy(rows: np.ndarray, source: mmap.mmap, places: np.ndarray, out: np.ndarray) -> None:
    """Copy the rows at ascending `places`; meanwhile the system reads the next rows and may forget earlier ones."""
    step = max(1, PART_BYTES // (rows.shape[1] * rows.itemsize))
    parts = [slice(start, start + step) for start in range(0, len(places), step)]
    for part in parts[:PARTS_AHEAD]:
        _advise(rows, places[part], mmap.MADV_WILLNEED)
    read_only = memoryview(source).readonly
    for number, part in enumerate(parts):
        np.take(rows, places[part], axis=0, out=out[part], mode="clip")  # mode="raise" would copy twice
        if number + PARTS_AHEAD < len(parts):
            _advise(rows, places[parts[number + PARTS_AHEAD]], mmap.MADV_WILLNEED)
        # Pages that this process still refers to cost the system much more to take back. In a map that can be written,
        # letting go of a page would undo what was written to it.
        if read_only:
            _advise(rows, places[part], mmap.MADV_DONTNEED)


def _advise(rows: np.ndarray, places: np.ndarray, advice: int) -> None:
    """Give the system an advice on the rows at ascending `places`, without waiting for it."""
    if not rows.flags.c_contiguous:  # a row is in many pieces
        return
    row_bytes, data = rows.strides[0], rows.ctypes.data
    start = data - data % mmap.PAGESIZE
    aligned = HELD_BYTES if advice == mmap.MADV_DONTNEED else mmap.PAGESIZE
    gaps = np.flatnonzero(np.diff(places) * row_bytes > NEAR_BYTES + row_bytes)
    for first, last in zip(places[np.append(0, gaps + 1)], places[np.append(gaps, -1)], strict=True):
        begin, end = (data + place * row_bytes for place in (int(first), int(last) + 1))
        begin, end = max(start, begin - begin % aligned), min(data + rows.nbytes, end + -end % aligned)
        madvise(begin, end - begin, advice)  # an error does no harm
