"""Rows, labels and weights that are passed to an estimator: checked, divided, and weighted."""

import hashlib
import math
from collections.abc import Iterator
from contextlib import contextmanager
from numbers import Integral
from typing import Any

import numpy as np
from sklearn.preprocessing import LabelEncoder
from sklearn.utils import check_random_state
from sklearn.utils.class_weight import compute_class_weight

from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.errors import ConfigError, DataError, FeatureError
from onelayer.features.map import Shape

KEPT_TYPES = (np.uint8, np.float32, np.float64)


def splits_of(
    X: np.ndarray,
    y: np.ndarray,
    weights: np.ndarray,
    classes: np.ndarray,
    *,
    image_shape: Shape | None,
    class_weight: Any,
    validation_fraction: float,
    hold_out_seed: int | None,
) -> tuple[Splits, np.ndarray | None]:
    """Return the rows to train on, and to hold out if there is a seed.

    Parameters
    ----------
    X : ndarray (n, d)
    y : ndarray (n,)
        Labels, each one of `classes`.
    weights : ndarray (n,), float64
    classes : ndarray (K,)
    image_shape : (c, h, w), optional
    class_weight : dict, 'balanced' or None
        As scikit-learn has it.
    validation_fraction : float
        The share of each class's weight that is held out.
    hold_out_seed : int or None

    Returns
    -------
    splits : Splits
        Rows of weight 0 are in none of them. The weights are 1 on average over the training rows.
    train_weights : ndarray (k,), float64, or None
        Those of the training rows as they were passed, times the factors of their classes; None if all are 1.

    Raises
    ------
    ValueError
        If class weights are not finite, negative or all zero, or no class has a row to hold out.
    """
    labels = LabelEncoder().fit(classes).transform(y)
    factors = _class_factors(class_weight, classes, labels, weights)
    places = np.flatnonzero(weights * factors[labels])
    held_out = np.zeros(len(places), bool)
    if hold_out_seed is not None:
        held_out = _held_out(X, labels, weights, places, validation_fraction, hold_out_seed)
    weights = weights * factors[labels]
    train_places = places[~held_out]
    alike = bool((weights[places] == 1).all())
    row_weights = None if alike else weights / weights[train_places].mean()
    dataset = Dataset(X, labels, tuple(map(str, classes)), image_shape, "X", row_weights=row_weights)
    parts = {"train": train_places, "validation": places[held_out], "test": places[:0]}
    splits = Splits(**{name: Split(name, dataset, at) for name, at in parts.items()}, protocol="given to fit")
    return splits, None if alike else weights[train_places]


def image_shape_of(image_shape: Any, d: int) -> Shape | None:
    """Return the parameter `image_shape` as ints, for rows of d numbers.

    Raises
    ------
    ConfigError
        If these are not the sizes of such images.
    """
    if image_shape is None:
        return None
    sizes = image_shape if isinstance(image_shape, tuple | list) else ()
    whole = [int(size) for size in sizes if isinstance(size, Integral)]
    if not (len(whole) == len(sizes) == 3 and min(whole) > 0 and math.prod(whole) == d):
        raise ConfigError(f"image_shape {image_shape!r} is not channels, height and width of images of {d} numbers")
    channels, height, width = whole
    return channels, height, width


@contextmanager
def value_errors() -> Iterator[None]:
    """Raise data errors as errors that are ValueErrors too, as scikit-learn expects them."""
    try:
        yield
    except DataError as error:
        raise FeatureError(str(error)) from None


def kept_or_float64(X: np.ndarray) -> np.ndarray:
    # check_array would take every polars frame for one of another type.
    return X if X.dtype in KEPT_TYPES else X.astype(np.float64)


def seed_of(random_state: int | np.random.RandomState | None) -> int:
    """Return a seed: an int as it is, as on the command line, or a number drawn from a generator."""
    if isinstance(random_state, Integral):
        return int(random_state)
    return int(check_random_state(random_state).randint(2**31))


def _class_factors(class_weight: Any, classes: np.ndarray, labels: np.ndarray, weights: np.ndarray) -> np.ndarray:
    """Return the factors (K,) by which the weights of each class's rows are multiplied."""
    if class_weight == "balanced":
        totals = np.bincount(labels, weights, len(classes))
        return np.divide(weights.sum(), len(classes) * totals, out=np.zeros(len(classes)), where=totals > 0)
    factors = compute_class_weight(class_weight, classes=classes, y=classes)
    if not (np.isfinite(factors).all() and (factors >= 0).all() and factors.any()):
        raise ValueError(f"class_weight {class_weight} must hold finite numbers of at least zero, and not zero only")
    return within_range(factors)


def within_range(weights: np.ndarray) -> np.ndarray:
    """Return weights scaled by a power of two, so that sums and products fit into floats; no digit changes."""
    exponent = int(np.frexp(weights.max())[1])
    return np.ldexp(weights, -exponent) if abs(exponent) > 100 else weights


def _held_out(
    X: np.ndarray, labels: np.ndarray, weights: np.ndarray, places: np.ndarray, fraction: float, seed: int
) -> np.ndarray:
    """Return a mask (n,) of the rows at `places` to hold out: some of each class, chosen by a hash of their content.

    So equal rows stay together: no row is held out if its twin is trained on, and a row that is there twice is treated
    as one of weight 2.
    """
    start = hashlib.blake2b(str(seed).encode(), digest_size=8)
    hashes = np.empty(len(places), np.uint64)
    for number, place in enumerate(places):
        digest = start.copy()
        digest.update(X[place])
        hashes[number] = int.from_bytes(digest.digest())
    held_out = np.zeros(len(places), bool)
    for label in np.unique(labels[places]):
        members = np.flatnonzero(labels[places] == label)
        different, which = np.unique(hashes[members], return_inverse=True)
        totals = np.cumsum(np.bincount(which, weights[places[members]]))
        count = np.searchsorted(totals, fraction * totals[-1], side="right")
        held_out[members] = which < min(max(count, 1), len(different) - 1)
    if not held_out.any():
        raise ValueError("early_stopping has no rows to hold out: no class has two different ones")
    return held_out
