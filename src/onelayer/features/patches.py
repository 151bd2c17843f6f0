"""Patch features: the responses of an image to filters that are patches of training images, averaged over windows.

The map needs no labels. It is Coates and Ng's single layer of whitened patches (2011), with contrasts, square roots
and mirror images added. Pixels x are 0 to 255. For each size of patches, there is a bank of filters A with biases b::

    z = A x / sqrt(v + 10) + b      at each position, v the variance of the patch x of c k k numbers
    u = max(z - 1/2, 0), max(-z - 1/2, 0)
    f = average of u over each of 3 x 3 windows, which cover the positions exactly
    q = round(255 sqrt(f) / h), at most 255

A filter and its mirror image, its *twin*, make one feature, the average of both with the columns of windows of the twin
in reverse: a mirrored image has the same features. The response is read at five positions: in the middle, and moved
diagonally by about a 16th of the image. Each is a *view*, a row of the layer. With one view, the windows cover it all.

`Patches.drawn` says how filters are drawn. The compiled kernel computes the features, or NumPy where there is none;
some of its bytes differ by one grey level, because sums are added up in another order.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any

import numpy as np

from onelayer.blas import one_blas_thread
from onelayer.errors import ConfigError
from onelayer.features import exported
from onelayer.features.attribution import by_position, over_pixels
from onelayer.features.filters import EPSILON, SIZES, draw_filters, images_of, sizes_of
from onelayer.features.map import Attribution, FeatureMap, Shape, as_pixels
from onelayer.features.pooling import GRID, MOVES, THRESHOLD, Bank, Pool, shift_of
from onelayer.kernel import kernel
from onelayer.parts import Stopped, count_threads, in_parts, parts_of

LOOKED_AT, HEADROOM = 500, 1.25  # training images whose largest root, times this, gets the grey level 255
FIRST_LEVEL, LEAST_CODE, MOST_TRIES = 4.0, 32, 4  # with which that root is looked for, until its code is this large
VERSION = 1
CONSTANTS = {"epsilon": EPSILON, "threshold": THRESHOLD, "grid": GRID}
MOST_WEIGHT, MOST_LENGTH = 1e9, 2**20  # of filters, levels and images in a file, whose sums are then finite


@dataclass(frozen=True, eq=False)
class Patches(FeatureMap):
    """Patch features of images of one shape.

    Parameters
    ----------
    image_shape : (c, h, w)
    banks : tuple of Bank
        One for each size of patches.
    mirrored : bool
        Whether filters have twins.
    views : int
        5, or 1: rows of features for each image.
    """

    image_shape: Shape
    banks: tuple[Bank, ...]
    mirrored: bool
    views: int = 5
    name = "patches"
    linear = False
    dtype = np.uint8

    @classmethod
    def drawn(
        cls,
        rows: np.ndarray,
        places: np.ndarray,
        image_shape: Shape | None,
        *,
        filters: int = 128,
        seed: int = 0,
        mirror: bool | None = None,
        views: int = 5,
    ) -> "Patches":
        """Draw a map from training images, without their labels.

        One generator draws everything: for each size in turn 50,000 patches, as `draw_filters` says, and then the 500
        images, all if there are fewer, whose largest root of an average, over all views and features of a size, times
        1.25 gets the grey level 255. Each size has a level of its own. On CIFAR-10 the two differ by a tenth, and one
        level for both is as accurate.

        Parameters
        ----------
        rows : ndarray (n, c h w), uint8
            Images, channels first; may be a memory map.
        places : ndarray (m,), int64
            The training rows.
        image_shape : (c, h, w) or None
        filters : int
            For each size of patches, without twins.
        seed : int
        mirror : bool or None
            Whether filters get twins; None gives them to images of three channels.
        views : {5, 1}
            Images of fewer than 9 pixels down or across have one: a 16th of them is not a pixel.

        Raises
        ------
        ConfigError
            If the numbers of filters or views are others.
        DataError
            If the rows are not images of whole numbers, or images are too small, too few or too plain for the filters.
        """
        if filters < 1 or views not in (1, len(MOVES)):
            raise ConfigError(f"{filters} filters, {views} views: ask for at least 1 filter, and for 1 or 5 views")
        shape = images_of(rows, image_shape)
        mirror = shape[0] == 3 if mirror is None else mirror
        rng = np.random.default_rng(seed)
        sizes = sizes_of(shape)
        with one_blas_thread():
            found = [draw_filters(rows, places, shape, k, filters, rng, mirror=mirror) for k in sizes]
        sample = np.sort(rng.choice(len(places), min(LOOKED_AT, len(places)), replace=False))
        banks = tuple(Bank(*of_size, largest=FIRST_LEVEL) for of_size in found)
        return cls(shape, banks, mirror, views if shift_of(shape) else 1)._levelled(rows[places[sample]])

    def _levelled(self, rows: np.ndarray) -> "Patches":
        """Return the map with levels for the largest roots of these images, as their codes show them.

        Codes round the roots, so that the levels do not depend on the order of sums, except rarely.
        """
        levels = np.full(len(self.banks), FIRST_LEVEL)
        for _ in range(MOST_TRIES):
            codes = self._with_levels(levels).transform(rows)
            largest = np.array([part.max() for part in self._split(codes.T)], np.float64)
            good = (largest >= LEAST_CODE) & (largest < 255)
            if good.all():
                break
            factors = np.where(largest == 255, 16, np.maximum(largest, 1) / 128)
            levels = np.where(good, levels, levels * factors)
        return self._with_levels(np.where(good, HEADROOM * levels * largest / 255, 1))  # 1 where nothing responds

    def _with_levels(self, levels: np.ndarray) -> "Patches":
        banks = zip(self.banks, levels, strict=True)
        return replace(self, banks=tuple(replace(bank, largest=float(level)) for bank, level in banks))

    @property
    def d_in(self) -> int:  # type: ignore[override]  # nobody sets it
        return math.prod(self.image_shape)

    @property
    def d_out(self) -> int:  # type: ignore[override]  # nobody sets it
        return sum(pool.features for pool in self.pools)

    def transform(self, R: np.ndarray, threads: int = 0) -> np.ndarray:
        """Return the features (n * views, d_out), uint8, of images R (n, d_in), pixels from 0 to 255 of any type.

        The views of an image follow each other: in the middle, then moved up and left, up and right, down and left,
        down and right. The features of a view are ordered by size, row of windows, column of windows, positive and
        negative responses, filter.

        Parameters
        ----------
        R : ndarray (n, d_in)
        threads : int
            The most that work at the same time; 0 is one for each core. The bits do not depend on it.

        Raises
        ------
        DataError
            If a number is not a whole number from 0 to 255.
        """
        images = np.ascontiguousarray(as_pixels(R, self.name)).reshape(len(R), *self.image_shape)
        codes = np.empty((len(images), self.views, self.d_out), np.uint8)
        if kernel is None:
            self._code_by_numpy(images, codes)
        elif len(images):

            def code(part: slice, stopped: Stopped) -> None:
                self._code(images[part], codes[part], stopped)

            parts = parts_of(len(images), len(images) * sum(pool.work for pool in self.pools), least_rows=1)
            for _ in in_parts(code, parts, count_threads(threads)):
                pass
        return codes.reshape(-1, self.d_out)

    def by_window(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Return the numbers (d_out,) of features as an array (sign, filter, down, across) for each size of patches.

        The signs are those of the responses, first the positive ones.
        """
        shapes = [(*(axis.count for axis in pool.axes), 2, -1) for pool in self.pools]
        parts = zip(self._split(numbers), shapes, strict=True)
        return [part.reshape(shape).transpose(2, 3, 0, 1) for part, shape in parts]

    @cached_property
    def pools(self) -> tuple[Pool, ...]:
        """The features of each size of patches."""
        return tuple(Pool(bank, self.image_shape, self.mirrored, self.views) for bank in self.banks)

    def _split(self, numbers: np.ndarray) -> list[np.ndarray]:
        """Return the numbers (d_out, ...) of the features of each size of patches."""
        return np.split(numbers, np.cumsum([pool.features for pool in self.pools])[:-1])

    def _code(self, images: np.ndarray, codes: np.ndarray, stopped: Stopped) -> None:
        """Write codes (n, views, d_out) by the kernel."""
        first = 0
        for pool in self.pools:
            down, across = pool.axes
            kernel.patches(
                images=images,
                filters=pool.bank.filters,
                bias=pool.bank.bias,
                mirrored=self.mirrored,
                epsilon=EPSILON,
                threshold=THRESHOLD,
                scale=255 / pool.bank.largest,
                down=down.ranges,
                across=across.ranges,
                windows=pool.windows(first, self.d_out),
                codes=codes,
                cancelled=stopped,
            )
            first += pool.features

    def _code_by_numpy(self, images: np.ndarray, codes: np.ndarray) -> None:
        """Write codes (n, views, d_out), image by image, so that no image changes the bits of another."""
        with one_blas_thread():
            for image, of_image in zip(images, codes, strict=True):
                of_image[:] = np.concatenate([pool.codes(image) for pool in self.pools], axis=1)

    def attribute(self, V: np.ndarray, mean: np.ndarray, row: np.ndarray) -> Attribution:
        """Divide the contribution of each feature among the positions of its windows, and on among pixels.

        A feature adds its code times V: this is divided in proportion to the activations u at the positions, of which
        the code is the root of the average; evenly where there is none. It also takes away its mean times V, evenly
        from all positions. The amount of a position is divided evenly among the pixels of the patch.
        """
        image = as_pixels(row, self.name).reshape(self.image_shape)
        codes = self.transform(image.reshape(1, -1)).astype(np.float64)
        numbers, windows = np.zeros((V.shape[1], self.d_in)), np.zeros(())
        with one_blas_thread():
            for pool, *parts in zip(self.pools, *map(self._split, (codes.T, V, mean)), strict=True):
                of_positions, of_windows = by_position(pool, image, *parts)
                numbers += over_pixels(of_positions, self.image_shape, pool.bank.filters.shape[2])
                windows = windows + of_windows.transpose(2, 0, 1)  # as many for each size of patches
        return Attribution(numbers, windows)

    def tensors(self) -> dict[str, np.ndarray]:
        arrays = {"largest": np.array([bank.largest for bank in self.banks])}
        for bank in self.banks:
            k = bank.filters.shape[2]
            arrays |= {f"filters.{k}": bank.filters, f"bias.{k}": bank.bias}
        return arrays

    def onnx_nodes(self, rows: str, features: str) -> tuple[list[Any], dict[str, np.ndarray]]:
        return exported.onnx_nodes(self.pools, rows, features)

    def numpy_source(self) -> str:
        return exported.numpy_source(self.pools)

    def facts(self) -> dict[str, Any]:
        facts = {"version": VERSION, "shape": list(self.image_shape), "mirrored": self.mirrored, "views": self.views}
        return facts | CONSTANTS

    @classmethod
    def read(cls, tensors: Mapping[str, np.ndarray], facts: Mapping[str, Any]) -> "Patches":
        """Return the map that a model file holds.

        Raises
        ------
        KeyError, TypeError, ValueError
            If something is missing or does not fit.
        """
        if facts["version"] != VERSION or any(facts[name] != value for name, value in CONSTANTS.items()):
            raise ValueError(f"version {facts['version']!r:.20}, and this onelayer reads {VERSION}")
        c, h, w = shape = tuple(facts["shape"])
        mirrored, views = facts["mirrored"], facts["views"]
        if not all(type(size) is int and 0 < size < MOST_LENGTH for size in shape) or min(h, w) < min(SIZES):
            raise ValueError(f"shape {shape!r:.40}")
        sizes = sizes_of(shape)
        if (
            type(mirrored) is not bool
            or type(views) is not int
            or views not in ((1, len(MOVES)) if shift_of(shape) else (1,))
        ):
            raise ValueError(f"mirrored {mirrored!r:.20}, views {views!r:.20}")
        names = {f"{name}.{k}" for name in ("filters", "bias") for k in sizes}
        levels = tensors["largest"]
        if set(tensors) != names | {"largest"} or levels.shape != (len(sizes),):
            raise ValueError(f"arrays {sorted(tensors)!r:.60}")
        if not ((levels > 1 / MOST_WEIGHT) & (levels < MOST_WEIGHT)).all():
            raise ValueError(f"largest {levels!r:.60}")
        banks = []
        for k, level in zip(sizes, levels, strict=True):
            A, b = tensors[f"filters.{k}"], tensors[f"bias.{k}"]
            if A.shape[1:] != (c, k, k) or not len(A) or len(A) % (1 + mirrored) or b.shape != A.shape[:1]:
                raise ValueError(f"filters {A.shape} and bias {b.shape} of size {k}")
            if {A.dtype, b.dtype} != {np.dtype(np.float32)} or max(abs(A).max(), abs(b).max()) > MOST_WEIGHT:
                raise ValueError(f"filters of size {k} are not float32 or are too large")
            banks.append(Bank(np.ascontiguousarray(A), np.ascontiguousarray(b), float(level)))
        return cls(shape, tuple(banks), mirrored, views)
