"""The patches that speak for and against the classes of a model on patch features, and training images with them.

A feature is the response to a filter, above or below the threshold, in a window. Its weight is the amount that one more
standard deviation of it adds to the logit of a class. A filter is shown by real pixels: the patch of a training image,
in the window that counts most, that excites it most.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import NamedTuple

import numpy as np

from onelayer.blas import one_blas_thread
from onelayer.data.dataset import Split
from onelayer.features.patches import Patches
from onelayer.features.pooling import Pool, respond

MOST_WITH_PATCHES, ON_A_SIDE = 12, 3  # classes in a picture, and filters that speak for each, and against it
MOST_IMAGES, MOST_NUMBERS = 500, 2**25  # that are looked at, evenly spaced, and their numbers


class Place(NamedTuple):
    """A feature: the bank, the sign of the response (0 above, 1 below), the filter, the window down and across."""

    bank: int
    sign: int
    filter: int
    y: int
    x: int


@dataclass(frozen=True, eq=False)
class Example:
    """A patch of a training image.

    Parameters
    ----------
    image : ndarray (c, h, w), uint8
    label : int
        The class of the image.
    row, column : int
        Of the first pixel of the patch.
    """

    image: np.ndarray
    label: int
    row: int
    column: int


@dataclass(frozen=True, eq=False)
class Evidence:
    """A filter that speaks for or against a class.

    Parameters
    ----------
    place : Place
        Of its feature that speaks most.
    weights : ndarray (down, across), float64
        Of its features in all windows.
    filter : ndarray (c, k, k), float32
        Negative for responses below the threshold, so that it always is the pattern that counts.
    example : Example or None
        None where no images are at hand.
    mirrored : bool
        Whether its mirror image, in the mirrored window, counts alike.
    """

    place: Place
    weights: np.ndarray
    filter: np.ndarray
    example: Example | None
    mirrored: bool

    @property
    def weight(self) -> float:
        """The weight in the window that counts most."""
        return float(self.weights[self.place.y, self.place.x])


def evidence(
    features: Patches,
    weights: np.ndarray,
    images: Split | None,
    most: int,
    cancelled: Callable[[], bool] = bool,
) -> list[tuple[list[Evidence], list[Evidence]]]:
    """Return the filters that speak for each class, and those that speak against it, the strongest first.

    Parameters
    ----------
    features : Patches
    weights : ndarray (d, K)
        Column k is of class k.
    images : Split or None
        Training images, of which at most 500 are looked at; fewer of those with more than 67,000 numbers.
    most : int
        Number of filters on each side; there are fewer where fewer speak for that side.
    cancelled : callable
        Asked for each image; true ends the search.

    Raises
    ------
    InterruptedError
        If it was cancelled.
    """
    tables = [features.by_window(column) for column in np.asarray(weights, np.float64).T]
    places = [[_strongest(table, side, most) for side in (1, -1)] for table in tables]
    wanted = list(dict.fromkeys(place for sides in places for side in sides for place in side))
    examples = {} if images is None else _examples(features, wanted, images, cancelled)

    def of(table: list[np.ndarray], place: Place) -> Evidence:
        A = features.banks[place.bank].filters[place.filter]
        of_filter = table[place.bank][place.sign, place.filter]
        return Evidence(place, of_filter, -A if place.sign else A, examples.get(place), features.mirrored)

    return [
        ([of(table, place) for place in speaking], [of(table, place) for place in opposing])
        for table, (speaking, opposing) in zip(tables, places, strict=True)
    ]


def _strongest(table: list[np.ndarray], side: int, most: int) -> list[Place]:
    """Return the features with the largest weights, or the least for the side -1, of different filters."""
    found = []
    for bank, of_bank in enumerate(table):
        signs, filters, down, across = of_bank.shape
        flat = side * of_bank.reshape(signs * filters, down * across)
        windows = flat.argmax(axis=1)
        for number, (window, weight) in enumerate(zip(windows.tolist(), flat.max(axis=1).tolist(), strict=True)):
            if weight > 0:
                place = Place(bank, *divmod(number, filters), *divmod(window, across))
                found.append((-weight, place))
    return [place for _, place in sorted(found)[:most]]


def _examples(
    features: Patches, places: list[Place], images: Split, cancelled: Callable[[], bool]
) -> dict[Place, Example]:
    """Return the patch that excites each filter most in its window, of some images."""
    most = max(1, min(MOST_IMAGES, MOST_NUMBERS // features.d_in))
    some = np.arange(0, len(images), -(-len(images) // most))
    pictures, labels = images.rows(some).reshape(-1, *features.image_shape), images.labels[some]
    found = {}
    for bank, pool in enumerate(features.pools):
        of_bank = [place for place in places if place.bank == bank]
        excited = _most_excited(pool, of_bank, pictures, cancelled)
        for place, (number, row, column) in zip(of_bank, excited, strict=True):
            found[place] = Example(pictures[number], int(labels[number]), row, column)
    return found


def _most_excited(
    pool: Pool, places: list[Place], images: np.ndarray, cancelled: Callable[[], bool]
) -> list[tuple[int, int, int]]:
    """Return image, row and column of the patch that excites each filter most in its window of the view not moved."""
    if not places:
        return []
    chosen = [place.filter for place in places]
    signs = np.array([1 - 2 * place.sign for place in places], np.float32)
    A = (pool.bank.filters[chosen].T * signs).T
    bank = replace(pool.bank, filters=A, bias=np.zeros(len(A), np.float32))  # a bias changes no place
    down, across = pool.axes
    outside = np.full((down.length, across.length, len(places)), -np.inf, np.float32)
    for number, place in enumerate(places):
        rows, columns = down.ranges[down.number(0, place.y)], across.ranges[across.number(0, place.x)]
        outside[slice(*rows), slice(*columns), number] = 0
    best = np.full(len(places), -np.inf)
    found = np.zeros((len(places), 3), np.int64)
    with one_blas_thread():
        for number, image in enumerate(images):
            if cancelled():
                raise InterruptedError
            z = (respond(bank, image) + outside).reshape(-1, len(places))
            at = z.argmax(axis=0)
            largest = z[at, np.arange(len(places))]
            better = largest > best
            best[better] = largest[better]
            found[better] = np.stack([np.full(len(places), number), *np.divmod(at, across.length)], axis=1)[better]
    return [(number, row, column) for number, row, column in found.tolist()]
