"""Rows on a device of PyTorch: resident there in their own type, or streamed from the host, as blocks of inputs."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, NamedTuple
from weakref import WeakValueDictionary

import numpy as np
import torch

from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.features.standardizer import Standardizer
from onelayer.training.backends import devices
from onelayer.training.backends.inputs import joined, width_of

COPIED_BYTES = 2**26  # of rows at a time, from a memory map to a device
MOST_STEPS = 512  # with a block of rows, which are a CUDA graph

Block = tuple[torch.Tensor, torch.Tensor, torch.Tensor | None]  # X (k, width), labels (k,), weights (k,)


def of_arrays(templates: np.ndarray, bias: np.ndarray, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """Return the matrix A (K, width) of templates (K, d) and a bias (K,) on a device."""
    return torch.from_numpy(joined(templates, bias)).to(device, dtype)


class Sizes(NamedTuple):
    """Sizes of the blocks of rows that training and scoring take at a time, and their memory.

    Parameters
    ----------
    trained, scored : int
        Rows: of whole batches, and of whole views.
    needed : int
        Bytes beside the rows of the data set.
    """

    trained: int
    scored: int
    needed: int

    @classmethod
    def of(cls, device: devices.Device, splits: Splits, batch_size: int, columns: int, dtype: torch.dtype) -> "Sizes":
        """Return the sizes for layers of this many columns in all, one for each class of each layer."""
        width, views = width_of(splits.dataset.rows.shape[1]), splits.dataset.views
        steps = max(1, min(device.numbers // width // batch_size, MOST_STEPS, -(-len(splits.train) // batch_size)))
        scored = max(1, device.numbers // max(width, columns) // views) * views
        inputs, layers = 2 * (steps * batch_size + scored) * width, 4 * columns * width  # velocity and gradient, too
        logits = 4 * (batch_size + scored) * columns
        return cls(steps * batch_size, scored, (inputs + layers + logits) * dtype.itemsize)

    def feeds(
        self,
        device: devices.Device,
        dataset: Dataset,
        standardizer: Standardizer,
        dtype: torch.dtype,
        precision: str,
    ) -> "tuple[Feed, Feed]":
        """Return the feed of training, whose inputs may have fewer digits, and that of scores, which share the rows."""
        held = Held.on(device, dataset, self.needed)
        factors = torch.bfloat16 if precision == "bfloat16" else dtype
        return Feed(held, standardizer, self.trained, factors), Feed(held, standardizer, self.scored, dtype)


@dataclass(frozen=True, eq=False)
class Held:
    """A data set on a device.

    Parameters
    ----------
    dataset : Dataset
    rows : tensor (m, d) or None
        Those that this process holds, in the type of the data set, or in bfloat16 if that has the same values; None if
        they stay on the host, from where each block is copied when it is needed.
    places : ndarray (n,), int64, or None
        Where a row of the data set is among them; None if this process holds all.
    labels : tensor (n,), int64
    weights : tensor (n,), or None
    exact : torch.dtype
        Type of weights.
    """

    dataset: Dataset
    rows: torch.Tensor | None
    places: np.ndarray | None
    labels: torch.Tensor
    weights: torch.Tensor | None
    exact: torch.dtype

    @classmethod
    def on(cls, device: devices.Device, dataset: Dataset, needed: int) -> "Held":
        """Return a data set on a device: one that is held there already, or a new one.

        Its rows are there if they fit, and leave the bytes that are needed beside them.
        """
        key, room = (id(dataset), device.name), devices.room_on(device.name) - needed
        found = _resident.get(key)
        if found is None:
            found = cls._new(device.torch, dataset, device.exact, room)
            if found.rows is not None:
                _resident[key] = found
        elif device.stream is not None:  # the memory is that of the stream which it was made on
            for tensor in (found.rows, found.labels, found.weights):
                if tensor is not None:
                    tensor.record_stream(device.stream)
        return found

    @classmethod
    def _new(cls, device: torch.device, dataset: Dataset, exact: torch.dtype, room: float) -> "Held":
        labels = torch.from_numpy(dataset.labels.copy()).to(device)  # a data set is read-only, which tensors are not
        weights = None
        if dataset.row_weights is not None:
            weights = torch.from_numpy(dataset.row_weights.copy()).to(device, exact)
        own = None if dataset.holding is None else np.flatnonzero(dataset.holding.held)
        count, d = len(dataset.rows) if own is None else len(own), dataset.rows.shape[1]
        dtype = _type_of(dataset)
        if device.type != "mps" and count * d * torch.bfloat16.itemsize <= room and _are_bfloat16(dataset.rows, own):
            dtype = torch.bfloat16
        if count * d * dtype.itemsize > room:
            return cls(dataset, None, None, labels, weights, exact)
        rows = torch.empty((count, d), dtype=dtype, device=device)
        for some, block in _blocks(dataset.rows, own):
            rows[some].copy_(torch.from_numpy(block.copy()).to(dtype))
        places = None if dataset.holding is None else np.cumsum(dataset.holding.held) - 1
        return cls(dataset, rows, places, labels, weights, exact)


def _blocks(rows: np.ndarray, own: np.ndarray | None) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield blocks of rows (n, d), or of those at the places `own` (m,), and where each block is among them."""
    step = max(1, COPIED_BYTES // rows[:1].nbytes)
    for start in range(0, len(rows) if own is None else len(own), step):
        some = slice(start, start + step)
        yield some, rows[some if own is None else own[some]]


def _are_bfloat16(rows: np.ndarray, own: np.ndarray | None) -> bool:
    """Return whether float32 rows have the digits of bfloat16, as those that were read from it: no lower 16 bits."""
    if rows.dtype != np.float32:
        return False
    return not any(np.bitwise_or.reduce(block.view(np.uint32), axis=None) & 0xFFFF for _, block in _blocks(rows, own))


# A data set is on a device once, as long as something trains or scores there. (A set that is held is not forgotten, so
# no other one has its id.)
_resident: WeakValueDictionary[tuple[int, str], Held] = WeakValueDictionary()


class Feed:
    """Blocks of a data set's rows as inputs, in the same memory each time.

    Parameters
    ----------
    held : Held
    standardizer : Standardizer
        In float64.
    size : int
        Rows in a block, at most.
    dtype : torch.dtype
        Type of the inputs.
    fold : callable, optional
        Makes the rows (k, d) that are standardised of raw rows, in the type of the standardisation.
    """

    def __init__(
        self,
        held: Held,
        standardizer: Standardizer,
        size: int,
        dtype: torch.dtype,
        fold: Callable[[torch.Tensor], torch.Tensor] | None = None,
    ) -> None:
        self._fold = fold
        self.size, self._held, self._device = size, held, held.labels.device
        self._d = d = len(standardizer.mean)
        self._X = torch.zeros((size, width_of(d)), dtype=dtype, device=self._device)
        self._X[:, d] = 1
        self._y = torch.zeros(size, dtype=torch.int64, device=self._device)
        self._w = torch.zeros(size, dtype=held.exact, device=self._device)
        # Features of float64 may lie further from zero than float32 has digits for: the mean goes first.
        wide = dtype == torch.float64 or held.dataset.rows.dtype == np.float64 or fold
        self._work = held.exact if wide else torch.float32
        self._mean, self._scale = (
            torch.from_numpy(np.array(array, np.float64)).to(self._work).to(self._device)
            for array in (standardizer.mean, standardizer.scale)
        )
        self._slots: list[_Slot] = []

    def blocks(
        self,
        split: Split,
        flipped: np.ndarray | None = None,
        cancelled: Callable[[], bool] = bool,
    ) -> Iterator[Block]:
        """Yield inputs, labels and weights of a split's rows, a block at a time, valid until the next are.

        Nothing in it waits for the device, except that rows on the host wait for the copy of those two blocks before.

        Raises
        ------
        InterruptedError
            Once `cancelled()` is true.
        """
        near = split.dataset.rows is self._held.dataset.rows  # those of another data set come from the host
        rows, places = self._held.rows if near else None, self._moved(split.indices)  # places (n,)
        own = places if rows is None or self._held.places is None else self._moved(self._held.places[split.indices])
        mirrored = None if flipped is None else self._moved(flipped)
        for number, block in enumerate(split.blocks(self.size)):
            if cancelled():
                raise InterruptedError
            X = self._X[: block.stop - block.start]
            if rows is not None:
                self._standardise(rows.index_select(0, own[block]), X, split, block, mirrored)
            elif self._device.type == "cuda":
                self._stream(split, block, number, X, mirrored)
            else:
                raw = np.take(split.dataset.rows, split.indices[block], axis=0)
                self._standardise(torch.from_numpy(raw).to(self._device), X, split, block, mirrored)
            yield X, *self._answers(split, block, places)

    def _answers(self, split: Split, block: slice, places: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor | None]:
        """Return labels (k,) and weights (k,) of a block; rows that are trained with weights are scored without too."""
        held, k, weighted = self._held, block.stop - block.start, split.dataset.row_weights is not None
        y, w = self._y[:k], self._w[:k] if weighted else None
        if split.dataset is held.dataset:
            torch.index_select(held.labels, 0, places[block], out=y)
            if w is not None and held.weights is not None:
                torch.index_select(held.weights, 0, places[block], out=w)
            return y, w
        y.copy_(self._moved(split.labels[block]))
        if w is not None:
            w.copy_(self._moved(split.row_weights(block)))
        return y, w

    def _standardise(
        self, R: torch.Tensor, X: torch.Tensor, split: Split, block: slice, mirrored: torch.Tensor | None
    ) -> None:
        """Write standardised rows into X (k, width), from raw rows R (k, d)."""
        shape = split.dataset.image_shape
        if mirrored is not None and shape is not None:
            images = R.view(-1, *shape)
            R = torch.where(mirrored[block, None, None, None], images.flip(-1), images).view(R.shape)
        if self._fold:
            R = self._fold(R.to(self._work))
        inputs = X[:, : self._d]
        if self._work == X.dtype:
            torch.sub(R, self._mean, out=inputs).div_(self._scale)
        else:
            inputs.copy_(R.to(self._work).sub_(self._mean).div_(self._scale))

    def _stream(self, split: Split, block: slice, number: int, X: torch.Tensor, mirrored: torch.Tensor | None) -> None:
        """Copy a block through pinned memory, by a stream of its own, while the device works on the block before."""
        if not self._slots:
            self._slots = [_Slot(split.dataset, self.size, self._device) for _ in range(2)]
        slot = self._slots[number % 2]
        raw = slot.filled(split, block)
        self._standardise(raw, X, split, block, mirrored)
        slot.used.record(torch.cuda.current_stream(self._device))

    def _moved(self, array: np.ndarray | None) -> torch.Tensor:
        return torch.from_numpy(np.array(array)).to(self._device, non_blocking=self._device.type == "cuda")


class _Slot:
    """Room for a block of raw rows in pinned memory and on a CUDA device."""

    def __init__(self, dataset: Dataset, size: int, device: torch.device) -> None:
        shape = size, dataset.rows.shape[1]
        self._host = torch.empty(shape, dtype=_type_of(dataset), pin_memory=True)
        self._raw = torch.empty(shape, dtype=_type_of(dataset), device=device)
        library: Any = torch.cuda  # whose constructors have no types
        self._copying = library.Stream(device)
        self._copied, self.used = library.Event(), library.Event()
        self._copying.wait_stream(torch.cuda.current_stream(device))  # on which this memory may still be in use

    def filled(self, split: Split, block: slice) -> torch.Tensor:
        """Return a block's raw rows on the device, for the current stream."""
        k = block.stop - block.start
        self._copied.synchronize()  # of the block before the last, whose memory this is
        np.take(split.dataset.rows, split.indices[block], axis=0, out=self._host[:k].numpy(), mode="clip")
        with torch.cuda.stream(self._copying):
            self._copying.wait_event(self.used)
            self._raw[:k].copy_(self._host[:k], non_blocking=True)
            self._copied.record(self._copying)
        torch.cuda.current_stream(self._raw.device).wait_event(self._copied)
        return self._raw[:k]


def _type_of(dataset: Dataset) -> torch.dtype:
    return torch.from_numpy(np.empty(0, dataset.rows.dtype)).dtype
