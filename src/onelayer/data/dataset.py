"""A data set as it was read, and its division into training, validation and test rows, which copies nothing."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np

from onelayer.config import SplitConfig
from onelayer.data.scan import Scan, first_equals, read_forwards, scan
from onelayer.errors import ConfigError, DataError
from onelayer.features.standardizer import BLOCK_ROWS, Standardizer

MOST_WEIGHT = 1e30  # of a row: sums of such weights and losses fit into the floats of every backend


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
        None where rows are no pictures.
    name : str
        What the set is called.
    parts : mapping of str to slice
        The source's own division of the rows, in the source's order; empty where it has none.
    official : bool or None
        Whether all parts, or all that were asked for, are there and are, to the last bit, the published ones; None
        where nothing is published to compare with.
    notes : tuple of str
        What a person should be told about the source.
    source : str
        What `onelayer.load` takes to load it again: a name or an absolute path; empty where it cannot.
    row_weights : ndarray (n,), float64, or None
        How much each row counts in the loss, the standardisation and the scores, 1 on average over the training rows:
        a row of weight 2 is as good as two rows. None is 1 for all.

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

    def __post_init__(self) -> None:
        if self.rows.ndim != 2 or 0 in self.rows.shape:
            raise DataError(f"{self.name}: rows have the shape {self.rows.shape}; expected (n, d), neither of them 0")
        if self.rows.dtype not in (np.uint8, np.float16, np.float32, np.float64):
            raise DataError(f"{self.name}: rows are {self.rows.dtype}; expected uint8 pixels or float features")
        if self.labels.shape != (len(self.rows),):
            raise DataError(f"{self.name}: {len(self.rows)} rows but labels of shape {self.labels.shape}")
        if self.labels.dtype != np.int64:
            raise DataError(f"{self.name}: labels are {self.labels.dtype}; expected int64")
        object.__setattr__(self, "labels", np.require(self.labels, requirements=("C", "A")))  # as the kernel reads them
        K = len(self.class_names)
        if self.labels.min() < 0 or self.labels.max() >= K:
            row = int(np.argmax((self.labels < 0) | (self.labels >= K)))
            raise DataError(f"{self.name}: row {row} has label {self.labels[row]}; labels are 0 to {K - 1}")
        if self.image_shape is not None and np.prod(self.image_shape) != self.rows.shape[1]:
            raise DataError(f"{self.name}: rows of {self.rows.shape[1]} numbers are no pictures of {self.image_shape}")
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
        # Views that cannot be written to; the caller's arrays stay as they are.
        for name in ("rows", "labels") + ("row_weights",) * (self.row_weights is not None):
            view = getattr(self, name).view()
            view.flags.writeable = False
            object.__setattr__(self, name, view)

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the rows and labels, part by part in the source's order, whatever files they were read from.

        And of the rows' weights, where there are any.
        """
        return self.scan().fingerprint

    def scan(self, progress: Callable[[int, int | None], None] | None = None) -> Scan:
        """Look through all rows once, in the order of the fingerprint; the second time it is known.

        Called with the rows done and the rows in all, `progress` tells how far it is.
        """
        if "_scan" not in self.__dict__:
            parts = self.parts.values() or (slice(None),)
            self.__dict__["_scan"] = scan(self.rows, self.labels, self.row_weights, parts, progress)
        found: Scan = self.__dict__["_scan"]
        return found

    @cached_property
    def everything(self) -> "Split":
        """All rows, as a split, part by part in the source's order."""
        return self.only("all", self.parts) if self.parts else Split("all", self, np.arange(len(self.rows)))

    def only(self, name: str, parts: Iterable[str]) -> "Split":
        """The rows of some of the source's parts, as a split of this name."""
        n = np.arange(len(self.rows))
        return Split(name, self, np.concatenate([n[self.parts[part]] for part in parts]))


@dataclass(frozen=True, eq=False)
class Split:
    """Some rows of a data set, by their places in it.

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

    def __len__(self) -> int:
        return len(self.indices)

    @cached_property
    def labels(self) -> np.ndarray:
        """Labels (n,) of the split's rows."""
        return self.dataset.labels[self.indices]

    def row_weights(self, places: slice | np.ndarray) -> np.ndarray | None:
        """Weights of the rows at `places` within the split; None is 1 for all."""
        weights = self.dataset.row_weights
        return None if weights is None else weights[self.indices[places]]

    @cached_property
    def weight(self) -> float:
        """Sum of the rows' weights, by which sums over the split are divided."""
        weights = self.row_weights(slice(None))
        return float(len(self) if weights is None else weights.sum())

    def rows(self, places: slice | np.ndarray) -> np.ndarray:
        """Raw rows at `places` within the split: a view where they lie side by side, else a copy of these few."""
        if isinstance(places, slice) and places.step in (None, 1) and self._contiguous:
            start, stop, _ = places.indices(len(self))
            return self.dataset.rows[self.indices[0] + start : self.indices[0] + stop]
        return np.take(self.dataset.rows, self.indices[places], axis=0)  # half as long as indexing takes

    def blocks(self, size: int) -> Iterator[slice]:
        """Slices that cover the split, each of at most `size` rows."""
        return (slice(start, min(start + size, len(self))) for start in range(0, len(self), size))

    def row_blocks(self, size: int) -> Iterator[np.ndarray]:
        """The split's raw rows, at most `size` at a time."""
        return (self.rows(block) for block in self.blocks(size))

    def weight_blocks(self, size: int) -> Iterator[np.ndarray] | None:
        """The weights of the rows of `row_blocks`; None is 1 for all."""
        weights = self.dataset.row_weights
        return None if weights is None else (weights[self.indices[block]] for block in self.blocks(size))

    @cached_property
    def _contiguous(self) -> bool:
        return bool((np.diff(self.indices) == 1).all())


@dataclass(frozen=True)
class Splits:
    """Training, validation and test rows of one data set.

    They are disjoint by construction, but that a refit trains on the validation rows too: validation figures are then
    of rows that were trained on.

    Parameters
    ----------
    train, validation, test : Split
    protocol : str
        batch, given, full or stratified, and whether it is refitted.
    """

    train: Split
    validation: Split
    test: Split
    protocol: str

    def __iter__(self) -> Iterator[Split]:
        return iter((self.train, self.validation, self.test))

    @property
    def dataset(self) -> Dataset:
        return self.train.dataset

    @cached_property
    def standardizer(self) -> Standardizer:
        """Of the training rows."""
        with read_forwards(self.dataset.rows):
            return Standardizer.fit(self.train.row_blocks(BLOCK_ROWS), self.train.weight_blocks(BLOCK_ROWS))

    @cached_property
    def duplicates(self) -> dict[str, int]:
        """How many rows of a later split equal, bit for bit, another of an earlier: ``{"test in train": 3, ...}``."""
        first = first_equals(self.dataset.rows, self.dataset.scan().hashes)
        counts = {}
        for a, b in ((self.validation, self.train), (self.test, self.train), (self.test, self.validation)):
            others = b.indices[~np.isin(b.indices, a.indices)]  # a refit trains on the validation rows themselves
            counts[f"{a.name} in {b.name}"] = int(np.isin(first[a.indices], first[others]).sum())
        return counts


# What folders and files call the parts of a set, in small letters, and what these are called here, in their order.
PARTS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("validation", "val", "valid", "dev"), "validation"),
    **dict.fromkeys(("test", "testing"), "test"),
}

BATCH_PROTOCOL = {"train": "data_batch_1", "validation": "data_batch_2", "test": "test_batch"}


def split(dataset: Dataset, config: SplitConfig, progress: Callable[[int, int | None], None] | None = None) -> Splits:
    """Divide a data set.

    Parameters
    ----------
    dataset : Dataset
        With at least the parts that the protocol needs.
    config : SplitConfig
    progress : callable, optional
        As for `Dataset.scan`, where features have to be looked through.

    Raises
    ------
    ConfigError
        If the protocol or a size does not fit the data set.
    DataError
        If a feature is not a finite number.
    """
    protocol = config.protocol or default_protocol(dataset.parts)
    rng = np.random.default_rng(config.split_seed)
    sizes = ("validation_size", "test_size")
    lacking = tuple(size for size in sizes if size.removesuffix("_size") not in dataset.parts)
    drawn = {"batch": (), "given": lacking, "full": sizes[:1], "stratified": sizes}
    for name in sizes:
        if getattr(config, name) is not None and name not in drawn[protocol]:
            raise ConfigError(f"{name.replace('_', ' ')} does not apply to the protocol {protocol}; leave it out")
    places = {}
    if protocol == "batch":
        places = {name: _places(dataset, [part]) for name, part in BATCH_PROTOCOL.items()}
    elif protocol == "stratified":
        rest, places["test"] = _draw(dataset, dataset.everything.indices, config.test_size or 0.2, "test", rng)
        size = config.validation_size or 0.2
        size = size * len(dataset.labels) if size < 1 else size
        places["train"], places["validation"] = _draw(dataset, rest, max(1, round(size)), "validation", rng)
    else:
        test = [part for part in dataset.parts if part.startswith("test")]
        rest = _places(dataset, ["train"] if protocol == "given" else [p for p in dataset.parts if p not in test])
        if protocol == "full" or test:
            places["test"] = _places(dataset, test)
        else:
            rest, places["test"] = _draw(dataset, rest, config.test_size or 0.2, "test", rng)
        if "validation_size" in drawn[protocol]:
            size = config.validation_size or min(1000, max(1, len(rest) // 5))
            rest, places["validation"] = _draw(dataset, rest, size, "validation", rng)
        else:
            places["validation"] = _places(dataset, ["validation"])
        places["train"] = rest
    require_finite(dataset, progress)
    if config.refit:
        places["train"] = np.concatenate([places["train"], places["validation"]])
        protocol += ", refitted on train and validation"
    return Splits(**{name: Split(name, dataset, indices) for name, indices in places.items()}, protocol=protocol)


def default_protocol(parts: Mapping[str, slice] | tuple[str, ...]) -> str:
    """The protocol for a source with these parts, where none was asked for."""
    if set(BATCH_PROTOCOL.values()) <= set(parts):
        return "batch"
    if "validation" in parts:  # which trains nothing where train is lacking
        return "given"
    return "full" if any(part.startswith("test") for part in parts) else "stratified"


def _places(dataset: Dataset, parts: list[str]) -> np.ndarray:
    missing = [part for part in parts if part not in dataset.parts]
    if missing or not parts:
        what = " and ".join(missing) or "training or test rows of its own"
        raise ConfigError(f"{dataset.name} has no {what}; use the protocol stratified")
    everything = np.arange(len(dataset.rows))
    return np.concatenate([everything[dataset.parts[part]] for part in parts])


def _draw(
    dataset: Dataset, places: np.ndarray, size: float, what: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `size` (a number or a fraction) of `places`, each class in proportion; return the rest and the drawn.

    Each class keeps a row in the rest, as far as the drawn rows can be taken from others.
    """
    count = max(1, round(size * len(places))) if size < 1 else int(size)
    if count >= len(places):
        raise ConfigError(f"{what} size {count} leaves nothing of {len(places)} rows to train on; ask for fewer")
    labels = dataset.labels[places]
    present, members = np.unique(labels, return_counts=True)
    exact = count * members / len(places)
    quota = np.floor(exact).astype(int)
    while left := count - quota.sum():  # the largest remainders round up, but no class is drawn whole where others do
        order = np.argsort(quota - exact, kind="stable")
        spared = order[quota[order] + 1 < members[order]]
        quota[spared[:left] if len(spared) else order[quota[order] < members[order]][:left]] += 1
    drawn = np.zeros(len(places), bool)
    for label, share in zip(present, quota, strict=True):
        drawn[rng.choice(np.flatnonzero(labels == label), share, replace=False)] = True
    return places[~drawn], places[drawn]


def require_finite(dataset: Dataset, progress: Callable[[int, int | None], None] | None = None) -> None:
    """Raise a DataError if a feature is not a finite number."""
    if not_finite := dataset.scan(progress).not_finite:
        row, column = not_finite
        for part, where in dataset.parts.items():  # whose rows people count anew, as they lie in arrays of their own
            if row in (members := range(len(dataset.rows))[where]):
                refuse_number(dataset.rows[where], (members.index(row), column), f"{dataset.name}, {part}")
        refuse_number(dataset.rows, not_finite, dataset.name)


def refuse_number(rows: np.ndarray, place: tuple[int, int], name: str) -> None:
    """Raise a DataError for the number at a row and column of rows (n, d), which is not finite."""
    row, column = place
    raise DataError(f"{name}: row {row}, column {column} is {rows[place]}; every feature must be a finite number")
