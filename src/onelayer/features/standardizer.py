"""Standardisation: every feature gets mean 0 and standard deviation 1 over the training rows.

It is linear, so it can be folded into a layer instead of being applied to every row::

    X W + b = (R - m)/s W + b = R V + c        with V = W / s (d, K),  c = b - m V (K,)

and the gradients of the folded layer, dJ/dV = R^T G and dJ/dc = column sums of G, give those of the layer::

    dJ/dW = X^T G = (R^T G - m (column sums of G)) / s

Folding saves two passes over every batch. It is used for pixels, whose values 0..255 lose no accuracy. Other features
may be far from zero, where the terms that cancel would be larger than the result; their rows are standardised.

A feature that is constant in the training rows teaches nothing. Its scale is 1 and its weights are exactly 0, so that
the feature cannot change a model's answer. While a layer is trained the scale is infinite instead: the feature is 0 in
every row, V and dJ/dW are 0 too, and rounding cannot give it a weight.
"""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from functools import reduce
from itertools import chain, repeat

import numpy as np

from onelayer.errors import FeatureError
from onelayer.layer import SoftmaxLayer
from onelayer.losses import Array, namespace_of
from onelayer.processes import Processes, gathered
from onelayer.words import counted

BLOCK_ROWS = 512  # standardised at a time: few enough for the cache, and enough to make Python's own time small
NO_ROWS = "there are no rows with a weight above 0 to standardise with; pass at least one"
PIXEL_ROWS = 256  # added up at a time: their squares sum to less than 2^24, which float32 holds exactly


@dataclass(frozen=True, eq=False)
class Moments:
    """Mean and variance of some rows, which can be merged with those of other rows.

    They are merged by the pairwise formula of Chan, Golub and LeVeque, "Updating formulae and a pairwise algorithm for
    computing sample variances" (1979). Everything is taken relative to the first row, so that a constant feature has a
    variance of exactly 0.

    Parameters
    ----------
    weight : float
        Sum of the rows' weights.
    origin : ndarray (d,), float64
        The first row; 0 for pixels.
    offset : ndarray (d,), float64
        Mean of the rows less the origin.
    squares : ndarray (d,), float64
        Weighted sum of the squared distances from the mean.
    """

    weight: float
    origin: np.ndarray
    offset: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, blocks: Iterable[np.ndarray], weights: Iterable[np.ndarray] | None = None) -> "Moments":
        """Return the moments of the rows in `blocks`, arrays (k, d), in one pass.

        The `weights` are arrays (k,); None is a weight of 1 for all rows. Rows of weight 0 are left out. The sums of
        pixels without weights are whole numbers and exact.

        Raises
        ------
        FeatureError
            If there are no rows, or all have weight 0.
        """
        counted = _counted(blocks, weights)
        first = next(counted, None)
        if first is None:
            raise FeatureError(NO_ROWS)
        counted = chain([first], counted)
        if weights is None and _are_pixels(first[0]):
            return cls._of_sums(*_pixel_sums((block for block, _ in counted), first[0].shape[1]))
        origin = first[0][0].astype(np.float64)
        moments = cls(0.0, origin, np.zeros_like(origin), np.zeros_like(origin))
        with np.errstate(over="ignore", invalid="ignore"):  # `standardizer` refuses what is not finite
            for block, w in counted:
                moments = moments.merge(cls._of_block(block, w, origin))
        return moments

    @classmethod
    def _of_block(cls, block: np.ndarray, w: np.ndarray | None, origin: np.ndarray) -> "Moments":
        D = block - origin  # (k, d), float64
        if w is None:
            offset = D.mean(axis=0)
            D -= offset
            return cls(float(len(D)), origin, offset, np.einsum("ij,ij->j", D, D))
        weight = float(w.sum())  # not a product of BLAS, whose bits depend on its threads
        offset = np.einsum("i,ij->j", w, D) / weight
        D -= offset
        return cls(weight, origin, offset, np.einsum("i,ij,ij->j", w, D, D))

    @classmethod
    def over(
        cls, processes: Processes, blocks: Iterable[np.ndarray], weights: Iterable[np.ndarray] | None, like: np.ndarray
    ) -> "Moments":
        """Return the moments of the rows of all processes, from the blocks that this one holds, as for `of`.

        They are merged in the order of the ranks. `like` (0, d) has the type of the rows, and their number of features.
        """
        if weights is None and _are_pixels(like):
            return cls._of_sums(*map(processes.sum, _pixel_sums(blocks, like.shape[1])))
        try:
            mine = cls.of(blocks, weights)
        except FeatureError:  # no rows here
            mine = cls(0.0, *np.zeros((3, like.shape[1])))
        own = np.concatenate([[mine.weight], mine.origin, mine.offset, mine.squares])
        found = [cls(float(of[0]), *np.split(of[1:], 3)) for of in gathered(processes, own) if of[0]]
        if not found:
            raise FeatureError(NO_ROWS)
        with np.errstate(over="ignore", invalid="ignore"):
            return reduce(cls.merge, found)

    @classmethod
    def _of_sums(cls, n: np.ndarray, total: np.ndarray, squares: np.ndarray) -> "Moments":
        """Return the moments of pixels from the number of rows (), and the sums of pixels and of their squares (d,)."""
        # n^2 times the variance, in Python's integers: the terms that cancel have more digits than a float holds
        count = int(n)
        spread = np.array([count * int(q) - int(t) ** 2 for q, t in zip(squares, total, strict=True)], np.float64)
        return cls(float(count), np.zeros(len(total)), total / count, spread / count)

    def merge(self, other: "Moments") -> "Moments":
        """Return the moments of the rows of both."""
        delta = (other.origin - self.origin) + other.offset - self.offset
        weight = self.weight + other.weight
        squares = self.squares + (other.squares + delta * delta * (self.weight * other.weight / weight))
        return Moments(weight, self.origin, self.offset + delta * (other.weight / weight), squares)

    @property
    def mean(self) -> np.ndarray:
        """Mean of each feature (d,)."""
        return self.origin + self.offset

    @property
    def variance(self) -> np.ndarray:
        """Mean squared distance from the mean (d,); exactly 0 for a constant feature."""
        return self.squares / self.weight

    @property
    def standardizer(self) -> "Standardizer":
        """The standardizer that gives these rows mean 0 and standard deviation 1.

        Raises
        ------
        FeatureError
            If the squares of a feature are too large to add up.
        """
        finite = np.isfinite(self.variance)
        if not finite.all():
            column = finite.argmin()
            raise FeatureError(f"the squares of column {column} are too large to be added up; give it another unit")
        scale = np.sqrt(self.variance)
        return Standardizer(self.mean, np.where(scale == 0, 1.0, scale), scale == 0)


@dataclass(frozen=True, eq=False)
class Standardizer:
    """X = (R - m) / s.

    Parameters
    ----------
    mean : array (d,)
        m, in the units of the raw rows.
    scale : array (d,)
        s, the standard deviation (divided by n, not n - 1); 1 for a constant feature.
    constant : ndarray (d,), bool, or None
        True for the features that are constant in the training rows; None where that is not known.

    The floating-point type of mean and scale is the type of the rows that `transform` returns.
    """

    mean: Array
    scale: Array
    constant: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"<Standardizer of {counted(len(self.mean), 'feature')}>"

    @classmethod
    def fit(cls, blocks: Iterable[np.ndarray], weights: Iterable[np.ndarray] | None = None) -> "Standardizer":
        """Return the standardizer of rows, in float64; the arguments are those of `Moments.of`."""
        return Moments.of(blocks, weights).standardizer

    def to(self, convert: Callable[[Array], Array]) -> "Standardizer":
        """Return the standardizer with mean and scale in another type or another array library."""
        return Standardizer(convert(self.mean), convert(self.scale), self.constant)

    def mirrored(self, image_shape: tuple[int, int, int]) -> "Standardizer":
        """Return the standardizer of images (c, h, w) that are mirrored, left to right, half of the time.

        A constant pixel takes mean and scale of its mirror pixel if that pixel varies. If both are constant with
        different values, they vary about the middle of the two.
        """
        if self.constant is None or not self.constant.any():
            return self
        mirror = np.arange(len(self.constant)).reshape(image_shape)[:, :, ::-1].ravel()
        alone = self.constant & ~self.constant[mirror]
        mean, scale = (np.where(alone, of_rows[mirror], of_rows) for of_rows in (self.mean, self.scale))
        half = (self.mean - self.mean[mirror]) / 2
        differ = self.constant & self.constant[mirror] & (half != 0)
        mean, scale = np.where(differ, self.mean - half, mean), np.where(differ, abs(half), scale)
        return Standardizer(mean, scale, self.constant & ~alone & ~differ)

    def clear(self, layer: SoftmaxLayer) -> SoftmaxLayer:
        """Return the layer with weights of 0 for the constant features."""
        if self.constant is None or not layer.weights[self.constant].any():
            return layer
        templates = layer.weights.T.copy()  # (K, d); every class in one piece
        templates[:, self.constant] = 0
        return SoftmaxLayer(templates.T, layer.bias, layer.loss)

    @property
    def for_training(self) -> "Standardizer":
        """The standardizer that makes constant features 0 in every row, and their gradients too."""
        if self.constant is None or not self.constant.any():
            return self
        return Standardizer(self.mean, np.where(self.constant, np.inf, self.scale), self.constant)

    def reexpress(self, layer: SoftmaxLayer, new: "Standardizer") -> SoftmaxLayer:
        """Return the float64 layer whose logits of rows standardised by `new` are those of `layer` after this one."""
        W = (layer.weights.T * (new.scale / self.scale)).T  # (d, K); every class in one piece
        return SoftmaxLayer(W, layer.bias + ((new.mean - self.mean) / self.scale) @ layer.weights, layer.loss)

    def transform(self, R: Array) -> Array:
        """Return the standardised rows X (n, d) of raw rows R (n, d)."""
        X = namespace_of(R).astype(R, self.mean.dtype)
        X -= self.mean
        X /= self.scale
        return X

    def inputs(self, R: Array) -> Array:
        """Return the input (n, d) of the layer of `input_layer`: pixels as they are, features standardised."""
        xp = namespace_of(R)
        return xp.astype(R, self.mean.dtype) if _are_pixels(R) else self.transform(R)

    def input_layer(self, layer: SoftmaxLayer, R: Array) -> SoftmaxLayer:
        """Return the layer whose logits of ``inputs(R)`` are those of `layer` of the standardised rows."""
        return self.fold(layer) if _are_pixels(R) else layer

    def fold(self, layer: SoftmaxLayer) -> SoftmaxLayer:
        """Return the layer whose logits of raw rows are those of `layer` of the standardised rows."""
        V = (layer.weights.T / self.scale).T  # (d, K); every class in one piece, as the weights are
        return SoftmaxLayer(V, layer.bias - self.mean @ V, layer.loss)

    def unfold_gradient(self, dV: Array, dc: Array, R: Array) -> Array:
        """Return dJ/dW (d, K) from the gradients of ``input_layer(layer, R)``, dJ/dV (d, K) and dJ/dc (K,)."""
        if not _are_pixels(R):
            return dV
        return ((dV.T - dc[:, None] * self.mean) / self.scale).T  # (d, K); every class in one piece


def _counted(
    blocks: Iterable[np.ndarray], weights: Iterable[np.ndarray] | None
) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
    """Yield the blocks that have rows of a weight above 0, without the other rows, and the weights of the rows."""
    for block, w in zip(blocks, repeat(None) if weights is None else weights, strict=False):
        if w is not None and not w.all():
            block, w = block[w != 0], w[w != 0]
        if len(block):
            yield block, w


def _pixel_sums(blocks: Iterable[np.ndarray], d: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the number of rows (), and the sums of pixels and of their squares (d,), int64."""
    n, total, squares = np.zeros((), np.int64), np.zeros(d, np.int64), np.zeros(d, np.int64)
    for block in blocks:
        for start in range(0, len(block), PIXEL_ROWS):
            R = block[start : start + PIXEL_ROWS].astype(np.float32)  # (k, d)
            n += len(R)
            total += R.sum(axis=0).astype(np.int64)
            squares += np.einsum("ij,ij->j", R, R).astype(np.int64)
    return n, total, squares


def _are_pixels(R: Array) -> bool:
    xp = namespace_of(R)
    return bool(R.dtype == xp.uint8)
