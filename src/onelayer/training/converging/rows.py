"""The training rows as the converged solver sees them: two products, taken in blocks of rows as they are stored.

Arrays have the classes first, as each class lies in one piece then: `T` (K, d) are templates, the transposed weights,
and scores are (K, n). With X (n, d) the standardised rows, the products are T X^T and G X.

**Mirror images.** Where rows are trained on together with their mirror images, and mean and scale are those of both,
the optimum is mirror-symmetric: exchanging left and right changes nothing in the cost, which has one minimum. Then
x . t = z . u with z = (x + x') / sqrt 2 and u = sqrt 2 t over the left half of the columns, because x' . t = x . t;
||t||^2 = ||u||^2, so the penalty stays lambda ||W||^2. A middle column is its own mirror image and is left as it is.
The problem in (z, u) has half the width, and no row is seen twice.
"""

from collections.abc import Callable, Iterator
from contextlib import closing
from functools import cached_property, partial
from typing import TypeVar

import numpy as np

from onelayer.blas import one_blas_thread
from onelayer.data.dataset import Split
from onelayer.data.scan import memory_map_of, read_forwards
from onelayer.data.windows import Loader, window_rows
from onelayer.features.standardizer import Standardizer
from onelayer.kernel import check_variant, kernel, takes
from onelayer.parts import PARTS, Stopped, count_threads, in_parts, parts_of
from onelayer.processes import gathered, summed
from onelayer.training.converging.memory import Memory

SMALL_NUMBERS = 2**20  # of all rows, which are multiplied in float64
BLOCK_NUMBERS = 2**18  # of a block of rows in float32: 1 MiB, which a core's own cache holds
FEW_CLASSES = 24  # which the kernel multiplies quicker than BLAS, which takes more rows at a time for more classes

Result = TypeVar("Result")


class Rows:
    """The products of the standardised rows of a split; of several processes, those of the rows that this one holds.

    Scores are those of its own rows, and a gradient is the sum over all processes.

    Parameters
    ----------
    split : Split
        Rows with labels and weights; rows of weight 0 are left out.
    standardizer : Standardizer
        For `flip`, that of the rows and their mirror images, as `with_mirror_images` returns it.
    flip : bool
        Train on the rows and their mirror images. The rows must be images.
    dtype : numpy dtype, optional
        Floating-point type of the products. By default float64 where that takes no time, else float32.
    compiled : bool
        Let the compiled kernel standardise rows in float32, and take the products for few classes, where it can.
    threads : int
        The most that multiply at the same time; 0 is one for each core. They change no number. Rows in a memory map
        take at least two, as one of them waits for the disk.

    Raises
    ------
    ConfigError
        If ONELAYER_KERNEL names an instruction set that this machine does not have.
    """

    def __init__(
        self,
        split: Split,
        standardizer: Standardizer,
        *,
        flip: bool = False,
        dtype: np.dtype | None = None,
        compiled: bool = True,
        threads: int = 0,
    ) -> None:
        self.processes, split = split.dataset.processes, split.mine
        weights = split.row_weights(slice(None))
        if weights is not None and not weights.all():
            split = Split(split.name, split.dataset, split.indices[weights > 0])
            weights = split.row_weights(slice(None))
        self.split = split
        self.labels = split.labels
        own = np.ones(len(split)) if weights is None else weights
        counts = gathered(self.processes, np.array([len(split), own.sum()], np.float64))  # (processes, 2)
        self.weights = own / counts[:, 1].sum()  # (n,)
        self.total, self._before = int(counts[:, 0].sum()), int(counts[: self.processes.rank, 0].sum())
        self.K = len(split.dataset.class_names)
        per_class = np.bincount(self.labels, minlength=self.K), np.bincount(self.labels, self.weights, self.K)
        self.counts, self.shares = summed(self.processes, *per_class)  # (K,) each: rows of each class, and their weight
        standardizer = standardizer.for_training
        self._mean, self._scale = standardizer.mean.astype(np.float64), standardizer.scale.astype(np.float64)
        self._mirror = _Mirror(split.dataset.image_shape) if flip and split.dataset.image_shape else None
        if self._mirror:
            self._mean, self._scale = self._mirror.of_features(self._mean, self._scale)
        self.varies = np.isfinite(self._scale)  # (d,)
        self.n, self.d = len(split), len(self._mean)
        self.dtype = np.dtype(dtype or (np.float64 if self.total * self.d <= SMALL_NUMBERS else np.float32))
        able = kernel is not None and takes(split.dataset.rows)
        self.compiled = compiled and able and self.dtype == np.float32
        if self.compiled:
            check_variant()
        # NumPy converts pixels as quickly as the kernel, and they are multiplied as they are.
        self._folded = split.dataset.rows.dtype == np.uint8 and not (self.compiled and self._mirror)
        self.threads = threads
        self.memory = Memory()  # of scores
        self.block_rows = max(1, min(self.n, max(64, BLOCK_NUMBERS // self.d)))

    def scores(self, T: np.ndarray) -> np.ndarray:
        """Return T X^T (K, n), in the type of the products, for templates T (K, d) of float64."""
        S = self.memory.empty((len(T), self.n), self.dtype)
        if self._in_kernel(len(T)):
            multiply = partial(self._compiled_scores, np.ascontiguousarray(T))
        else:
            V = T / self._scale if self._folded else T
            offset = (V @ self._mean if self._folded else np.zeros(len(T))).astype(self.dtype)
            multiply = partial(self._scores, V.astype(self.dtype), offset)
        for _ in self._in_parts(len(T), lambda part, place, stopped: multiply(S[:, place], part, stopped)):
            pass
        return S

    def gradient(self, G: np.ndarray) -> np.ndarray:
        """Return G X (K, d), added up over parts in float64, for residuals G (K, n)."""
        total = np.zeros((len(G), self.d))
        in_kernel = self._in_kernel(len(G))
        multiply = self._compiled_gradient if in_kernel else self._gradient
        for of_part in self._in_parts(len(G), lambda part, place, stopped: multiply(G[:, place], part, stopped)):
            total += of_part
        if self._folded and not in_kernel:
            total -= np.outer(G.sum(axis=1, dtype=np.float64), self._mean)
            total /= self._scale
        return self.processes.sum(total)

    def spread(self, count: int) -> tuple[np.ndarray, np.ndarray]:
        """Return those of `count` rows, spread evenly over the rows of all processes, that this one holds.

        The first array numbers them among the `count`, the second is their places here.
        """
        places = np.arange(count) * self.total // count - self._before
        numbers = np.flatnonzero((places >= 0) & (places < self.n))
        return numbers, places[numbers]

    def standardised(self, places: np.ndarray, *, weighted: bool = True) -> np.ndarray:
        """Return some standardised rows (k, d), each times the root of its weight over the mean one if `weighted`."""
        R = np.empty((len(places), self.d), self.dtype)
        with closing(Loader(self.split, [])) as loader:
            for start in range(0, len(places), self.block_rows):
                block = slice(start, start + self.block_rows)
                window = loader.load(places[block])
                self._convert(window, slice(None), R[block])
                loader.release(window)
        if self._folded:
            R -= self._mean.astype(self.dtype)
            R /= self._scale.astype(self.dtype)
        if weighted:
            R *= np.sqrt(self.weights[places] * self.total).astype(self.dtype)[:, None]
        return R

    def unfold(self, T: np.ndarray) -> np.ndarray:
        """Return the templates (K, d) of whole rows for those of `scores`, which may be of half width."""
        return self._mirror.unfold(T) if self._mirror else T

    def fold(self, T: np.ndarray) -> np.ndarray:
        """Return the templates for `scores` for those of whole rows (K, d): the inverse of `unfold`."""
        return self._mirror.fold_templates(T) if self._mirror else T

    def _in_kernel(self, K: int) -> bool:
        return self.compiled and K <= FEW_CLASSES

    def _scores(self, V: np.ndarray, offset: np.ndarray, S: np.ndarray, part: Split, stopped: Stopped) -> None:
        for place, R in self._inputs(part, len(V), stopped):
            np.matmul(V, R.T, out=S[:, place])
            if self._folded:
                S[:, place] -= offset[:, None]

    def _gradient(self, G: np.ndarray, part: Split, stopped: Stopped) -> np.ndarray:
        total = np.zeros((len(G), self.d))
        for place, R in self._inputs(part, len(G), stopped):
            total += G[:, place] @ R
        return total

    def _compiled_scores(self, T: np.ndarray, S: np.ndarray, part: Split, stopped: Stopped) -> None:
        kernel.scores(*self._stored(part, slice(None)), T, S, stopped)

    def _compiled_gradient(self, G: np.ndarray, part: Split, stopped: Stopped) -> np.ndarray:
        total = np.empty((len(G), self.d))
        kernel.gradient(*self._stored(part, slice(None)), np.asarray(G, np.float32), total, stopped)
        return total

    def _stored(
        self, part: Split, places: slice | np.ndarray
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray, int]:
        """Return rows, mean, scale, places and the width of images with mirror images, as the kernel takes them."""
        width = self._mirror.width if self._mirror else 0
        return part.dataset.rows, self._mean, self._scale, np.ascontiguousarray(part.indices[places], np.int64), width

    def _in_parts(self, K: int, task: Callable[[Split, slice, Stopped], Result]) -> Iterator[Result]:
        """Yield what a task returns for the rows of each part, and their places, in order.

        The parts are the same for rows in memory and in a memory map, and so are the sums.
        """
        if not self.n:  # other processes hold all rows
            return
        rows, threads = self.split.dataset.rows, count_threads(self.threads)
        parts, windows = parts_of(self.n, self.n * self.d * K, least=-(-self.n // window_rows(rows))), []
        if memory_map_of(rows) is not None:
            threads = min(max(threads, 2), PARTS)  # one waits for the disk
            windows = [np.empty((window_rows(rows), rows.shape[1]), rows.dtype) for _ in parts[:threads]]
        with one_blas_thread(), read_forwards(rows), closing(Loader(self.split, windows)) as loader:

            def of_part(part: slice, stopped: Stopped) -> Result:
                window = loader.load(part)
                try:
                    return task(window, part, stopped)
                finally:
                    loader.release(window)

            yield from in_parts(of_part, parts, threads)

    def _inputs(self, part: Split, K: int, stopped: Stopped) -> Iterator[tuple[slice, np.ndarray]]:
        """Yield the places of a block of rows, and what is multiplied (k, d): standardised unless pixels are folded."""
        step = min(len(part), self.block_rows if K <= FEW_CLASSES else 4 * self.block_rows)
        buffer = np.empty((step, self.d), self.dtype)
        for block in part.blocks(step):
            if stopped and stopped():
                raise InterruptedError
            R = buffer[: block.stop - block.start]
            self._convert(part, block, R)
            yield block, R

    def _convert(self, part: Split, places: slice | np.ndarray, out: np.ndarray) -> None:
        if self.compiled and not self._folded:
            kernel.standardise(*self._stored(part, places), out, None)
            return
        raw = part.rows(places)
        if self._mirror:
            raw = self._mirror.fold_rows(raw)
        if self._folded:
            np.copyto(out, raw, casting="unsafe")
        else:  # features may lie far from zero, where float32 has no digits left for their differences
            np.subtract(raw, self._exact_mean, out=out, casting="unsafe")
            out *= self._inverse_scale

    @cached_property
    def _exact_mean(self) -> np.ndarray:
        wide = self.split.dataset.rows.dtype == np.float64 or self._mirror is not None
        return self._mean if wide else self._mean.astype(self.dtype)

    @cached_property
    def _inverse_scale(self) -> np.ndarray:
        return (1 / self._scale).astype(self.dtype)


def with_mirror_images(standardizer: Standardizer, image_shape: tuple[int, int, int]) -> Standardizer:
    """Return the standardizer of images (c, h, w) and their mirror images, from that of the images."""
    mirror = np.arange(len(standardizer.mean)).reshape(image_shape)[:, :, ::-1].ravel()
    constant = standardizer.constant
    variance = np.square(standardizer.scale if constant is None else np.where(constant, 0, standardizer.scale))
    mean = (standardizer.mean + standardizer.mean[mirror]) / 2
    variance = (variance + variance[mirror]) / 2 + np.square((standardizer.mean - standardizer.mean[mirror]) / 2)
    return Standardizer(mean, np.where(variance == 0, 1.0, np.sqrt(variance)), variance == 0)


class _Mirror:
    """Coordinates of half the width, for images (c, h, w)."""

    def __init__(self, image_shape: tuple[int, int, int]) -> None:
        self._shape, self.width = image_shape, image_shape[2]
        self._left, self._half = (
            -(-self.width // 2),
            self.width // 2,
        )  # columns of the new rows; those that have a mirror image
        self._times = np.where(np.arange(self._left) < self._half, 2.0, 1.0)  # (left,)

    def of_features(self, mean: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return mean and scale of folded rows; (fold(R) - mean) / scale is (x + x') / sqrt 2."""
        mean, scale = (a.reshape(self._shape)[:, :, : self._left] for a in (mean, scale))
        return (mean * self._times).ravel(), (scale * np.sqrt(self._times)).ravel()

    def fold_rows(self, R: np.ndarray) -> np.ndarray:
        """Return the sums (k, d') of raw rows (k, d) and their mirror images, and a middle column as it is."""
        wider = {np.dtype(np.uint8): np.uint16, np.dtype(np.float16): np.float32}.get(R.dtype, R.dtype)
        images = R.reshape(-1, *self._shape)
        folded = images[..., : self._left].astype(wider)
        folded[..., : self._half] += images[..., ::-1][..., : self._half]
        return folded.reshape(len(R), -1)

    def unfold(self, T: np.ndarray) -> np.ndarray:
        half = T.reshape(-1, *self._shape[:2], self._left) / np.sqrt(self._times)
        return np.concatenate([half, half[..., : self._half][..., ::-1]], axis=-1).reshape(len(T), -1)

    def fold_templates(self, T: np.ndarray) -> np.ndarray:
        images = T.reshape(-1, *self._shape)
        symmetric = ((images + images[..., ::-1]) / 2)[..., : self._left]
        return (symmetric * np.sqrt(self._times)).reshape(len(T), -1)
