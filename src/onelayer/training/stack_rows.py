"""Rows for stacks, in memory or on a device, and the passes over them."""

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING

import numpy as np
from array_api_compat import to_device

from onelayer.data.dataset import Dataset, Split
from onelayer.errors import ConfigError
from onelayer.features.standardizer import BLOCK_ROWS, Standardizer
from onelayer.losses import Array
from onelayer.training.backends import Totals
from onelayer.training.backends.array import Inputs, mirrored
from onelayer.training.backends.devices import Device
from onelayer.training.stack import Stack

if TYPE_CHECKING:
    from onelayer.training.backends.feed import Feed

EVALUATED = 2**26  # numbers of rows and logits that are on a GPU at a time


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
        self.size, self._dtype, self._in_float64 = size, dtype, standardizer
        self._standardizer = standardizer.to(lambda array: array.astype(dtype))

    def blocks(
        self, split: Split, flipped: np.ndarray | None = None, cancelled: Callable[[], bool] = bool
    ) -> Iterator[Inputs]:
        """Yield standardised rows X (k, d), labels (k,) and weights (k,) of a split, a block at a time.

        Raises
        ------
        InterruptedError
            Once `cancelled()` is true.
        """
        rows, shape = split.dataset.rows, split.dataset.image_shape
        standardizer = self._in_float64 if rows.dtype == np.float64 else self._standardizer
        for block in split.blocks(self.size):
            if cancelled():
                raise InterruptedError
            R = split.rows(block)
            if flipped is not None and shape is not None:
                R = mirrored(R, flipped[block], shape)
            X = standardizer.transform(R).astype(self._dtype, copy=False)
            yield X, split.labels[block], split.row_weights(block)


class StackRows:
    """Rows for stacks, and the passes over them.

    Parameters
    ----------
    training, scored : Feed or HostFeed
        Blocks of whole batches, and of whole views.
    batch_size : int
    array : callable
        Puts a NumPy array on the device of the rows.
    exact : type
        Type of sums over rows.
    """

    def __init__(
        self,
        training: "Feed | HostFeed",
        scored: "Feed | HostFeed",
        batch_size: int,
        array: Callable[[np.ndarray], Array],
        exact: object,
    ) -> None:
        self._training, self._scored, self._batch_size = training, scored, batch_size
        self.array, self._exact = array, exact

    @classmethod
    def in_memory(cls, dataset: Dataset, standardizer: Standardizer, dtype: str, batch_size: int) -> "StackRows":
        """Return rows for NumPy, where they are."""
        views = dataset.views
        training = HostFeed(standardizer, batch_size, dtype)  # so that a batch is in the cache
        scored = HostFeed(standardizer, max(1, BLOCK_ROWS // views) * views, dtype)
        return cls(training, scored, batch_size, lambda array: array, np.float64)

    @classmethod
    def on(
        cls, device: Device, dataset: Dataset, standardizer: Standardizer, dtype: str, batch_size: int, columns: int
    ) -> "StackRows":
        """Return rows on a device of PyTorch, for stacks of this many columns; to be called while it works.

        Raises
        ------
        ConfigError
            If the device has no room for them.
        """
        import torch

        from onelayer.training.backends.feed import Feed, Held

        held = Held.on(device, dataset, 0)  # other stacks have the same
        if held.rows is None and device.name != "cpu":
            what = f"--stack keeps all rows on the device, and {device.name} has no room for {dataset.name}"
            raise ConfigError(f"{what}; leave --stack out, or take --device cpu")
        d, views, factors = dataset.rows.shape[1], dataset.views, getattr(torch, dtype)
        scored = BLOCK_ROWS if device.name == "cpu" else EVALUATED // (columns + d)
        return cls(
            Feed(held, standardizer, batch_size * max(1, device.numbers // d // batch_size), factors),
            Feed(held, standardizer, max(1, scored // views) * views, factors),
            batch_size,
            lambda array: torch.from_numpy(array.copy()).to(device.torch),
            device.exact,
        )

    def train(self, stack: Stack, train: Split, flipped: np.ndarray | None, cancelled: Callable[[], bool]) -> None:
        """Train a stack on the rows of a split, as `Backend.run_epoch` does."""
        for X, y, w in self._training.blocks(train, flipped, cancelled):
            for start in range(0, len(X), self._batch_size):
                batch = slice(start, start + self._batch_size)
                stack.step(X[batch], y[batch], None if w is None else w[batch])

    def evaluate(self, stack: Stack, split: Split, cancelled: Callable[[], bool]) -> list[Totals]:
        """Return `Backend.evaluate` for each head of a stack."""
        loss, right = 0.0, 0.0
        for X, y, w in self._scored.blocks(split, cancelled=cancelled):
            of_block = stack.totals(X, y, w, split.dataset.views, self._exact)
            loss, right = loss + of_block[0], right + of_block[1]
        sums = (np.asarray(to_device(total, "cpu")).tolist() for total in (loss, right))
        return [Totals(*of_head) for of_head in zip(*sums, strict=True)]
