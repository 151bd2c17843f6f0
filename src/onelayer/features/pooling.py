"""Averages of the activations of filters over windows of an image: their places, and the arithmetic by NumPy."""

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view

from onelayer.features.filters import EPSILON
from onelayer.features.map import Shape

THRESHOLD = 0.5  # of a response that counts
GRID = 3  # windows down and across
MOVES = ((0, 0), (-1, -1), (-1, 1), (1, -1), (1, 1))  # of views, down and across


@dataclass(frozen=True, eq=False)
class Bank:
    """Filters of one size.

    Parameters
    ----------
    filters : ndarray (F, c, k, k), float32
        Where they are mirrored, the second half are the twins of the first half.
    bias : ndarray (F,), float32
    largest : float
        h, the root of an average that gets the grey level 255.
    """

    filters: np.ndarray
    bias: np.ndarray
    largest: float


def shift_of(image_shape: Shape) -> int:
    """Return the pixels by which views of an image (c, h, w) are moved."""
    return round(min(image_shape[1:]) / 16)


@dataclass(frozen=True)
class Axis:
    """The windows along one axis of the response.

    Parameters
    ----------
    length : int
        Number of positions.
    shift : int
        Positions by which views are moved; 0 where there is one view.
    """

    length: int
    shift: int

    @property
    def inside(self) -> int:
        """Positions of a view."""
        return self.length - 2 * self.shift

    @property
    def count(self) -> int:
        """Windows of a view: 3, or as many as positions where there are fewer."""
        return min(GRID, self.inside)

    @cached_property
    def ranges(self) -> np.ndarray:
        """First position and the one after the last (3 * count, 2), int64, of views moved back, not at all, and on."""
        stride = self.inside // self.count
        width = self.inside - (self.count - 1) * stride
        starts = [self.shift * (1 + move) + stride * i for move in (-1, 0, 1) for i in range(self.count)]
        return np.array([(start, start + width) for start in starts], np.int64)

    def number(self, move: int, i: int) -> int:
        """Return the place in `ranges` of window i of views that are moved by -1, 0 or 1 shifts."""
        return (move + 1) * self.count + i

    @cached_property
    def averages(self) -> np.ndarray:
        """Matrix (3 * count, length), float32, that averages positions over each range."""
        places, (first, end) = np.arange(self.length), self.ranges.T[..., None]
        return (((first <= places) & (places < end)) / (end - first)).astype(np.float32)


@dataclass(frozen=True, eq=False)
class Pool:
    """The features of one bank.

    Parameters
    ----------
    bank : Bank
    image_shape : (c, h, w)
    mirrored : bool
        Whether filters have twins.
    views : int
    """

    bank: Bank
    image_shape: Shape
    mirrored: bool
    views: int

    @cached_property
    def axes(self) -> tuple[Axis, Axis]:
        """The windows down and across."""
        _, h, w = self.image_shape
        k, shift = self.bank.filters.shape[2], shift_of(self.image_shape) if self.views > 1 else 0
        return Axis(h - k + 1, shift), Axis(w - k + 1, shift)

    @property
    def in_window(self) -> int:
        """Features of a window: of positive responses, then of negative ones."""
        return 2 * len(self.bank.filters) // (2 if self.mirrored else 1)

    @property
    def features(self) -> int:
        """Features of a view."""
        return self.axes[0].count * self.axes[1].count * self.in_window

    @property
    def work(self) -> int:
        """Multiplications for an image."""
        return self.axes[0].length * self.axes[1].length * self.bank.filters.size

    def windows(self, first: int, d: int) -> np.ndarray:
        """Return the windows of all views (windows, 4), int64: numbers of ranges, and places.

        The ranges are one down, one across, and one across for the twins. A place is that of the first feature of a
        window among the d features of each view, `first` of which are those of other banks before.
        """
        down, across = self.axes
        grid = [(y, x) for y in range(down.count) for x in range(across.count)]
        table = [
            (
                down.number(a, y),
                across.number(b, x),
                across.number(b, across.count - 1 - x),
                view * d + first + place * self.in_window,
            )
            for view, (a, b) in enumerate(MOVES[: self.views])
            for place, (y, x) in enumerate(grid)
        ]
        return np.array(table, np.int64)

    def averages(self, image: np.ndarray) -> np.ndarray:
        """Return the averages of activations f (views, features), float32, of an image (c, h, w) of pixels."""
        down, across = self.axes
        z = respond(self.bank, image)  # (down, across, F)
        F = z.shape[2]
        u = np.concatenate([z, -z], axis=2)  # (down, across, 2 F)
        np.maximum(u - np.float32(THRESHOLD), 0, out=u)
        of_rows = (down.averages @ u.reshape(len(z), -1)).reshape(-1, across.length, 2 * F)
        f = (across.averages @ of_rows).reshape(len(down.ranges), len(across.ranges), 2, F)
        y, x, twin_x, _ = self.windows(0, self.features).T
        if self.mirrored:
            return ((f[y, x, :, : F // 2] + f[y, twin_x, :, F // 2 :]) / 2).reshape(self.views, -1)
        return f[y, x].reshape(self.views, -1)

    def codes(self, image: np.ndarray) -> np.ndarray:
        """Return the features q (views, features), uint8, of an image (c, h, w) of pixels."""
        levels = np.sqrt(self.averages(image)) * np.float32(255 / self.bank.largest)
        return (np.minimum(levels, 255) + np.float32(0.5)).astype(np.uint8)  # cut off to whole numbers


def respond(bank: Bank, image: np.ndarray) -> np.ndarray:
    """Return the responses z (h - k + 1, w - k + 1, F), float32, of an image (c, h, w) of pixels."""
    k = bank.filters.shape[2]
    patches = sliding_window_view(image.astype(np.float32), (k, k), axis=(1, 2)).transpose(1, 2, 0, 3, 4)
    down, across = patches.shape[:2]
    x = patches.reshape(down * across, -1)  # (positions, c k k)
    whole, n = image.astype(np.int64), x.shape[1]  # sums are exact
    sums, squares = (_sums(one.sum(axis=0), k) for one in (whole, whole * whole))
    variance = (n * squares - sums**2) / n**2
    contrast = (1 / np.sqrt(variance + EPSILON)).astype(np.float32).reshape(-1, 1)
    z = (x @ bank.filters.reshape(len(bank.filters), -1).T) * contrast + bank.bias
    return z.reshape(down, across, -1)


def _sums(numbers: np.ndarray, k: int) -> np.ndarray:
    """Return the sums (h - k + 1, w - k + 1) over all squares of k x k of numbers (h, w)."""
    up_to = np.pad(numbers, ((1, 0), (1, 0))).cumsum(axis=0).cumsum(axis=1)  # those above and to the left
    of_rows = up_to[k:] - up_to[:-k]
    return of_rows[:, k:] - of_rows[:, :-k]
