"""Rows for stacks, in memory or on a device, and the passes over them."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import TYPE_CHECKING

import numpy as np
from array_api_compat import to_device

from onelayer.config import TrainConfig
from onelayer.data.dataset import Split, Splits
from onelayer.features.standardizer import BLOCK_ROWS, Standardizer
from onelayer.training.backends import Totals
from onelayer.training.backends.array import Inputs, mirrored
from onelayer.training.backends.devices import Device
from onelayer.training.backends.inputs import width_of
from onelayer.training.stack import Head, Stack

if TYPE_CHECKING:
    from onelayer.training.backends.feed import Feed


class HostFeed:
    """Blocks of rows in memory as inputs, for NumPy; `onelayer.training.backends.feed.Feed` is its like on a device.

    Parameters
    ----------
    standardizer : Standardizer
        In float64.
    size : int
        Rows in a block, at most.
    dtype : str
        Type of the inputs, float32 or float64.
    """

    def __init__(self, standardizer: Standardizer, size: int, dtype: str) -> None:
        self._d = d = len(standardizer.mean)
        self._X = np.zeros((size, width_of(d)), dtype)
        self._X[:, d] = 1
        self._standardizer = standardizer
        self._mean, self._scale = standardizer.mean.astype(dtype), standardizer.scale.astype(dtype)

    def blocks(
        self, split: Split, flipped: np.ndarray | None = None, cancelled: Callable[[], bool] = bool
    ) -> Iterator[Inputs]:
        """Yield inputs X (k, width), labels (k,) and weights (k,) of a split, a block at a time; X is valid until then.

        Raises
        ------
        InterruptedError
            Once `cancelled()` is true.
        """
        shape = split.dataset.image_shape
        for block in split.blocks(len(self._X)):
            if cancelled():
                raise InterruptedError
            R = split.rows(block)
            if flipped is not None and shape is not None:
                R = mirrored(R, flipped[block], shape)
            X, inputs = self._X[: len(R)], self._X[: len(R), : self._d]
            if R.dtype.itemsize > X.dtype.itemsize:  # they may lie further from zero than float32 has digits for
                inputs[:] = self._standardizer.transform(R)
            else:
                inputs[:] = R
                inputs -= self._mean
                inputs /= self._scale
            yield X, split.labels[block], split.row_weights(block)


class StackRows:
    """Rows for stacks, and the passes over them.

    Parameters
    ----------
    training, scored : Feed or HostFeed
        Blocks of whole batches, and of whole views.
    batch_size : int
    device : Device or None
        That of the rows; None for NumPy.
    needed : int
        Bytes that a stack needs there beside the rows.
    """

    def __init__(
        self,
        training: "Feed | HostFeed",
        scored: "Feed | HostFeed",
        batch_size: int,
        device: Device | None = None,
        needed: int = 0,
    ) -> None:
        self._training, self._scored, self._batch_size = training, scored, batch_size
        self._device, self._needed = device, needed
        self._exact: object = device.exact if device else np.float64

    @classmethod
    def in_memory(cls, splits: Splits, standardizer: Standardizer, config: TrainConfig) -> "StackRows":
        """Return rows for NumPy, where they are."""
        views, batch_size = splits.dataset.views, min(config.batch_size, len(splits.train))
        training = HostFeed(standardizer, batch_size, config.dtype)  # so that a batch is in the cache
        scored = HostFeed(standardizer, max(1, BLOCK_ROWS // views) * views, config.dtype)
        return cls(training, scored, batch_size)

    @classmethod
    def on_device(cls, splits: Splits, standardizer: Standardizer, config: TrainConfig, columns: int) -> "StackRows":
        """Return rows on the device of PyTorch that is asked for, for stacks of this many columns."""
        import torch

        from onelayer.training.backends.feed import Sizes

        device, batch_size = Device(config.device), min(config.batch_size, len(splits.train))
        dtype = getattr(torch, config.dtype)
        sizes = Sizes.of(device, splits, batch_size, columns, dtype)
        with _working(device, sizes.needed):
            feeds = sizes.feeds(device, splits.dataset, standardizer, dtype, config.precision)
        return cls(*feeds, batch_size, device, sizes.needed)

    def working(self, precision: str = "full") -> AbstractContextManager[None]:
        """Return the context in which a stack is made, trained and evaluated."""
        return _working(self._device, self._needed, precision) if self._device else nullcontext()

    def stack(self, heads: Sequence[Head]) -> Stack:
        """Return a stack of heads where the rows are."""
        if self._device is None:
            return Stack(heads, lambda array: array)
        import torch

        device = self._device.torch
        return Stack(heads, lambda array: torch.from_numpy(array).to(device), self._device.stream)

    def train(self, stack: Stack, train: Split, flipped: np.ndarray | None, cancelled: Callable[[], bool]) -> None:
        """Train a stack on the rows of a split, as `Backend.run_epoch` does."""
        for X, y, w in self._training.blocks(train, flipped, cancelled):
            stack.train(X, y, w, self._batch_size)

    def evaluate(self, stack: Stack, split: Split, cancelled: Callable[[], bool]) -> list[Totals]:
        """Return `Backend.evaluate` for each head of a stack."""
        loss, right = 0.0, 0.0
        for X, y, w in self._scored.blocks(split, cancelled=cancelled):
            of_block = stack.totals(X, y, w, split.dataset.views, self._exact)
            loss, right = loss + of_block[0], right + of_block[1]
        sums = (np.asarray(to_device(total, "cpu")).tolist() for total in (loss, right))
        return [Totals(*of_head) for of_head in zip(*sums, strict=True)]


def _working(device: Device, needed: int, precision: str = "full") -> AbstractContextManager[None]:
    return device.working("a stack", needed, precision, remedies=("lower --batch-size", "leave --stack out"))
