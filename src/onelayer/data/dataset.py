"""A data set as it was read, and its splits, which are views that copy no rows."""

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from onelayer.config import Fit
from onelayer.data.progress import Progress
from onelayer.data.scan import Scan, first_equals, read_forwards, scan
from onelayer.drawing import html_table
from onelayer.errors import DataError
from onelayer.features.standardizer import BLOCK_ROWS, Moments, Standardizer
from onelayer.processes import ALONE, Processes, assembled
from onelayer.words import counted, printable

MOST_WEIGHT = 1e30  # sums of weights and losses up to this fit into the floats of every backend


@dataclass(frozen=True, eq=False)
class Holding:
    """The rows that this process holds, of a data set whose rows are divided among processes.

    Parameters
    ----------
    processes : Processes
        Those among which the rows are divided.
    held : ndarray (n,), bool
        The rows from which this process takes its part of each sum. Each row has one holder.
    complete : bool
        Whether the other rows can be read here, too. If not, they are zeros.
    """

    processes: Processes
    held: np.ndarray
    complete: bool = True


@dataclass(frozen=True, eq=False)
class Dataset:
    """Rows with labels.

    Parameters
    ----------
    rows : ndarray (n, d), uint8, float16, float32 or float64
        Pixels 0..255, channels first, or features. May be a memory map.
    labels : ndarray (n,), int64
        Values 0..K-1.
    class_names : tuple of K str
    image_shape : (c, h, w) or None
        None where rows are not images.
    name : str
        The name of the set, as messages print it.
    parts : mapping of str to slice
        The division of the rows by the source, in the source's order; empty where it has none.
    official : bool or None
        Whether all parts that were asked for are there and equal the published ones bit for bit; None where nothing is
        published to compare with.
    notes : tuple of str
        Sentences about the source that a person should read.
    source : str
        The name or absolute path from which `onelayer.load` loads it again; empty where there is none.
    row_weights : ndarray (n,), float64, or None
        The weight of each row in the loss, the standardisation and the scores, 1 on average over the training rows. A
        row of weight 2 counts as two rows. None is a weight of 1 for all rows.
    fit : {"squeeze", "crop", "pad"} or None
        The way in which images of other proportions were, or are to be, brought to `image_shape`. None where all images
        had it and nobody chose a way.
    views : int
        Rows that are views of the same image, one after the other, with the same label and weight. Their logits are
        averaged for a score.
    made_by : mapping
        A note, as JSON can hold it, of what made rows that were encoded elsewhere; empty where there is none.
    mark : str
        The fingerprint, where the source names it; empty where it is that of the rows.
    holding : Holding or None
        The rows that this process holds; None if it has them all.

    Raises
    ------
    DataError
        If the pieces do not fit each other.
    """

    rows: np.ndarray
    labels: np.ndarray
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int] | None
    name: str
    parts: Mapping[str, slice] = field(default_factory=dict)
    official: bool | None = None
    notes: tuple[str, ...] = ()
    source: str = ""
    row_weights: np.ndarray | None = None
    fit: Fit | None = None
    views: int = 1
    made_by: Mapping[str, Any] = field(default_factory=dict)
    mark: str = ""
    holding: Holding | None = None

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or 0 in self.rows.shape:
            raise DataError(f"{self.name}: rows have the shape {self.rows.shape}; expected (n, d), both at least 1")
        if self.rows.dtype not in (np.uint8, np.float16, np.float32, np.float64):
            raise DataError(f"{self.name}: rows are {self.rows.dtype}; expected uint8 pixels or float features")
        if self.labels.shape != (len(self.rows),):
            what = f"{len(self.rows):,} rows, but labels of the shape {self.labels.shape}"
            raise DataError(f"{self.name}: {what}; pass a label for each row, {self.rows.shape[:1]}")
        if self.labels.dtype != np.int64:
            raise DataError(f"{self.name}: labels are {self.labels.dtype}; expected int64")
        object.__setattr__(self, "labels", np.require(self.labels, requirements=("C", "A")))  # the kernel needs both
        require_labels(self.labels, len(self.class_names), self.name)
        if self.image_shape is not None and np.prod(self.image_shape) != self.rows.shape[1]:
            raise DataError(f"{self.name}: rows of {self.rows.shape[1]} numbers are not images of {self.image_shape}")
        if self.row_weights is not None:
            w = self.row_weights
            if w.shape != self.labels.shape or w.dtype != np.float64:
                what = f"{w.dtype} of the shape {w.shape}"
                raise DataError(f"{self.name}: row weights are {what}; expected float64 {self.labels.shape}")
            if not (np.isfinite(w).all() and (w >= 0).all() and w.max() <= MOST_WEIGHT):
                raise DataError(
                    f"{self.name}: row weights must be finite numbers of at least 0 and at most {MOST_WEIGHT:g}; only "
                    "their ratios count, so divide all by their mean"
                )
            object.__setattr__(self, "row_weights", np.ascontiguousarray(w))
        # Views that cannot be written to; the caller's arrays stay writable.
        for name in ("rows", "labels") + ("row_weights",) * (self.row_weights is not None):
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    def __repr__(self) -> str:
        return f"<Dataset {self.in_words()}>"

    def _repr_html_(self) -> str:
        counts = self.class_counts()
        everything = np.bincount(self.labels, minlength=len(self.class_names))
        counts = {**counts, "all": everything} if len(counts) > 1 else {"rows": everything}
        of_class = zip(self.class_names, np.transpose(list(counts.values())), strict=True)
        rows = [[name, *(f"{count:,}" for count in of_parts)] for name, of_parts in of_class]
        return html_table(self.in_words(), list(counts), rows)

    def class_counts(self) -> dict[str, np.ndarray]:
        """Return the number of rows of each class (K,) in each part; a set without parts has one, ``rows``."""
        parts = self.parts or {"rows": slice(None)}
        return {part: np.bincount(self.labels[at], minlength=len(self.class_names)) for part, at in parts.items()}

    def in_words(self) -> str:
        """Return the name and the sizes in a line."""
        n, d = self.rows.shape
        return f"{self.name}: {n:,} rows of {counted(d, 'number')}, {len(self.class_names)} classes"

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the rows, the labels and any row weights, part by part in the source's order.

        It does not depend on the files from which they were read, except where the source names it.
        """
        return self.scan().fingerprint

    def scan(self, progress: Progress | None = None) -> Scan:
        """Look through all rows, in the order of the fingerprint; a second call returns the same result at once.

        Parameters
        ----------
        progress : callable, optional
            Called with the rows done and the total.
        """
        if "_scan" not in self.__dict__:
            if not self.is_complete:  # each process has looked through its own rows when it read them
                self.__dict__["_scan"] = Scan(self.mark, np.empty(0, np.int64), None)
                return self.scan()
            parts = self.parts.values() or (slice(None),)
            found = scan(self.rows, self.labels, self.row_weights, parts, progress)
            self.__dict__["_scan"] = replace(found, fingerprint=self.mark) if self.mark else found
        result: Scan = self.__dict__["_scan"]
        return result

    @property
    def processes(self) -> Processes:
        """The processes among which the rows are divided; this one alone if they are not."""
        return ALONE if self.holding is None else self.holding.processes

    @property
    def is_complete(self) -> bool:
        """True if all rows can be read in this process."""
        return self.holding is None or self.holding.complete

    @cached_property
    def everything(self) -> "Split":
        """All rows, as a split, part by part in the source's order."""
        return self.only("all", self.parts) if self.parts else Split("all", self, np.arange(len(self.rows)))

    def only(self, name: str, parts: Iterable[str]) -> "Split":
        """Return the rows of some of the source's parts as a split of this name."""
        n = np.arange(len(self.rows))
        return Split(name, self, np.concatenate([n[self.parts[part]] for part in parts]))


@dataclass(frozen=True, eq=False)
class Split:
    """Some rows of a data set, given by their places.

    Parameters
    ----------
    name : str
        train, validation, test or all.
    dataset : Dataset
    indices : ndarray (n,), int64
        Places of the split's rows in ``dataset.rows``.
    """

    name: str
    dataset: Dataset
    indices: np.ndarray

    def __repr__(self) -> str:
        return f"<Split {self.name} of {self.dataset.name}: {len(self):,} rows>"

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels (n,) of the split's rows."""
        return self.dataset.labels[self.indices]

    def row_weights(self, places: slice | np.ndarray) -> np.ndarray | None:
        """Return the weights (k,) of the rows at `places` within the split; None is a weight of 1 for all."""
        weights = self.dataset.row_weights
        return None if weights is None else weights[self.indices[places]]

    @cached_property
    def weight(self) -> float:
        """Sum of the rows' weights. Means over the split divide by it."""
        weights = self.row_weights(slice(None))
        return float(len(self) if weights is None else weights.sum())

    def rows(self, places: slice | np.ndarray) -> np.ndarray:
        """Return the raw rows (k, d) at `places` within the split: a view where they are adjacent, else a copy."""
        if not len(self):
            return self.dataset.rows[:0]
        if isinstance(places, slice) and places.step in (None, 1) and self._contiguous:
            start, stop, _ = places.indices(len(self))
            return self.dataset.rows[self.indices[0] + start : self.indices[0] + stop]
        return np.take(self.dataset.rows, self.indices[places], axis=0)  # takes half as long as indexing

    @cached_property
    def held(self) -> np.ndarray:
        """Places (m,) within the split of the rows that this process holds, in their order."""
        holding = self.dataset.holding
        return np.arange(len(self)) if holding is None else np.flatnonzero(holding.held[self.indices])

    @cached_property
    def mine(self) -> "Split":
        """The rows of the split that this process holds, in their order."""
        return self if self.dataset.holding is None else replace(self, indices=self.indices[self.held])

    def rows_of_all(self, places: np.ndarray) -> np.ndarray:
        """Return the raw rows (k, d) at `places` within the split, whoever holds them; all processes must ask."""
        some = replace(self, indices=self.indices[places])
        return assembled(self.dataset.processes, some.mine.rows(slice(None)), some.held, len(some))

    def blocks(self, size: int) -> Iterator[slice]:
        """Return slices that cover the split, each of at most `size` rows."""
        return (slice(start, min(start + size, len(self))) for start in range(0, len(self), size))

    def row_blocks(self, size: int) -> Iterator[np.ndarray]:
        """Return the split's raw rows in blocks (k, d) of at most `size` rows."""
        return (self.rows(block) for block in self.blocks(size))

    def weight_blocks(self, size: int) -> Iterator[np.ndarray] | None:
        """Return the weights (k,) of the rows of `row_blocks`; None is a weight of 1 for all."""
        weights = self.dataset.row_weights
        return None if weights is None else (weights[self.indices[block]] for block in self.blocks(size))

    @cached_property
    def _contiguous(self) -> bool:
        return bool((np.diff(self.indices) == 1).all())


@dataclass(frozen=True)
class Splits:
    """Training, validation and test rows of one data set.

    They are disjoint, except after a refit, which trains on the validation rows too: the validation figures are then
    figures of training rows.

    Parameters
    ----------
    train, validation, test : Split
    protocol : str
        batch, given, full or stratified, followed by a note after a refit.
    """

    train: Split
    validation: Split
    test: Split
    protocol: str

    def __repr__(self) -> str:
        sizes = ", ".join(f"{len(split):,} {split.name}" for split in self)
        return f"<Splits of {self.dataset.name}, protocol {self.protocol}: {sizes} rows>"

    def __iter__(self) -> Iterator[Split]:
        return iter((self.train, self.validation, self.test))

    @property
    def dataset(self) -> Dataset:
        """The data set of the splits."""
        return self.train.dataset

    @cached_property
    def holds_out(self) -> bool:
        """True if there are validation rows that are not trained on."""
        return self.validation.weight > 0 and not np.isin(self.validation.indices, self.train.indices).any()

    def label(self, name: str) -> str:
        """Return the name of a split for a table of scores; it says if validation rows are trained on."""
        trained_on = name == "validation" and self.validation.weight > 0 and not self.holds_out
        return f"{name}, trained on" if trained_on else name

    @property
    def standardizer(self) -> Standardizer:
        """The standardizer of the training rows."""
        if "_standardizer" not in self.__dict__:  # a cached_property of Python 3.11 would let one thread in at a time
            self.__dict__["_standardizer"] = self._fit()
        found: Standardizer = self.__dict__["_standardizer"]
        return found

    def _fit(self) -> Standardizer:
        train, holding = self.train.mine, self.dataset.holding
        with read_forwards(self.dataset.rows):
            blocks, weights = train.row_blocks(BLOCK_ROWS), train.weight_blocks(BLOCK_ROWS)
            if holding is None:
                return Standardizer.fit(blocks, weights)
            return Moments.over(holding.processes, blocks, weights, self.dataset.rows[:0]).standardizer

    @cached_property
    def duplicates(self) -> dict[str, int]:
        """The number of rows of a later split that equal a row of an earlier one: ``{"test in train": 3, ...}``.

        It is empty where this process cannot read all rows.
        """
        if not self.dataset.is_complete:
            return {}
        first = first_equals(self.dataset.rows, self.dataset.scan().hashes)
        counts = {}
        for a, b in ((self.validation, self.train), (self.test, self.train), (self.test, self.validation)):
            others = b.indices[~np.isin(b.indices, a.indices)]  # a refit trains on the validation rows themselves
            counts[f"{a.name} in {b.name}"] = int(np.isin(first[a.indices], first[others]).sum())
        return counts


# The names that folders and files give to the parts of a set, in small letters, and the names used here, in order.
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}


def require_finite(dataset: Dataset, progress: Progress | None = None) -> None:
    """Raise a DataError if a feature is not a finite number."""
    if not_finite := dataset.scan(progress).not_finite:
        row, column = not_finite
        path = Path(dataset.source)
        name = printable(path.name) if path.is_absolute() else dataset.name  # of the file, with its suffix
        for (
            part,
            where,
        ) in dataset.parts.items():  # a source may hold each part in an array
            if row in (members := range(len(dataset.rows))[where]):
                refuse_number(dataset.rows[where], (members.index(row), column), f"{name}, {part}")
        refuse_number(dataset.rows, not_finite, name)


def refuse_number(rows: np.ndarray, place: tuple[int, int], name: str, first_row: int = 0) -> None:
    """Raise a DataError for the number at a row and column of rows (n, d), which is not finite.

    In the error, rows are counted from `first_row` on.
    """
    row, column = place
    what = f"{name}: row {first_row + row}, column {column} is {rows[place]}; every feature must be a finite number"
    if rows.dtype == np.float16 and np.isinf(rows[place]):
        what += ", and float16 has none above 65,504: save the features as float32"
    raise DataError(what)


def require_labels(labels: np.ndarray, K: int, name: str, first_row: int = 0) -> None:
    """Raise a DataError if one of the labels (n,) of the rows from `first_row` on is not 0 to K - 1."""
    outside = (labels < 0) | (labels >= K)
    if outside.any():
        row = int(np.argmax(outside))
        raise DataError(f"{name}: row {first_row + row} has the label {labels[row]}; labels are 0 to {K - 1}")
