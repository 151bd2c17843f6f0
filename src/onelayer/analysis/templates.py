"""Numbers of pictures of weights and images, for whatever draws them: matplotlib, or a page."""

import numpy as np

from onelayer.features.standardizer import Standardizer

MOST_CHARTED = 24  # classes
STRONGEST = 10  # features of a class


def picture(image: np.ndarray) -> np.ndarray:
    """Return an image (c, h, w) as matplotlib draws it: (h, w, 3), or the mean (h, w) of other than three channels."""
    return image.transpose(1, 2, 0) if len(image) == 3 else image.mean(axis=0)


def stretched(image: np.ndarray) -> np.ndarray:
    """Return an image in its own range: the least number becomes 0, the largest 1."""
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if high > low else np.full(image.shape, 0.5)


def signed_scale(weights: np.ndarray, standardizer: Standardizer) -> tuple[np.ndarray, float, float]:
    """Return W / s (d, K), NaN for constant pixels, the number where its colours end, and the percentage beyond."""
    V = np.asarray(weights, np.float64) / standardizer.scale[:, np.newaxis]  # (d, K)
    constant = _constant_features(standardizer)
    sizes = np.abs(V[~constant])
    V[constant] = np.nan
    # 2 in 100 normally distributed weights lie beyond 3.5 times the median. A high percentile instead would let
    # the pixels that hardly ever vary, and so have a tiny s, set the scale of small images.
    largest = sizes.max(initial=0)
    limit = (min(3.5 * np.median(sizes), largest) or largest) if largest else 1.0
    limit = float(f"{limit:.2g}")  # so that the numbers at the colour bar are exact
    return V, limit, 100 * np.count_nonzero(sizes > limit) / max(sizes.size, 1)


def strongest(weights: np.ndarray, standardizer: Standardizer) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
    """Return features and weights of the first classes, the largest |weight| first, and the largest of all, or 1."""
    varying = np.flatnonzero(~_constant_features(standardizer))
    classes = []
    for column in weights.T[:MOST_CHARTED]:
        of_class = np.asarray(column, np.float64)[varying]
        order = np.argsort(-np.abs(of_class), kind="stable")[:STRONGEST]
        classes.append((varying[order], of_class[order]))
    return classes, max((abs(float(values[0])) for _, values in classes if len(values)), default=0) or 1.0


def _constant_features(standardizer: Standardizer) -> np.ndarray:
    """Return whether each feature (d,) was constant in training.

    The model of an older file does not know this. There a scale of 1 says so, if the others are not near 1.
    """
    if standardizer.constant is not None:
        return standardizer.constant
    scale = standardizer.scale
    ones: np.ndarray = scale == 1
    if ones.all() or abs(np.median(scale[~ones]) - 1) < 0.01:  # features that came standardised
        return np.zeros_like(ones)
    return ones
