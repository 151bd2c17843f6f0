"""A check of at most 32 rows for another scale than that of the rows that a model was trained on.

To a model of pixels from 0 to 255, images divided by 255 are black, and a model of features between 0 and 1 is sure of
every answer about pixels. No error is raised, but the answers are wrong.

A wrong warning is worse than none. `far_off` is true if one of these holds for most numbers in most rows, of all
features or of the *full* ones, whose standard deviation is at most their mean:

- The number is more than 20 standard deviations from the mean. For rows of the training distribution, whatever it is,
  this happens in at most 1 of 200 rows (Chebyshev's inequality for a number, Markov's for half of the numbers).
- The number is not 0 and more than 20 times the usual size E[x^2] / |E[x]|. For sparse features this is the size of the
  numbers that are not 0, and at most 1 of 400 of them is this large. Zeros do not count, so the many zeros of digits
  hide nothing from this test.

Rows that were divided by 16 are near the mean of most features. So `far_off` is also true of 8 rows or more if three
quarters of them have three quarters of the numbers of full features below an eighth of the mean. Of all numbers that
were trained on, at most 57 % are so near zero (the extreme case has two values). Zeros, and rows that are mostly zeros,
do not count, and fewer rows may be dark images.

A model of pixels also doubts rows of floats, however few, that are whole numbers from 0 to 15 or 16, as scikit-learn's
digits are.

A feature with scale 1 was constant, or the rows were not standardised; it is left out. If a feature held only zeros and
ones in training (then E[x^2] = E[x]), its zeros and ones do not count in the first test, as rare ones are far from the
mean.

Exported scripts hold the source of `scaled_down` and `far_off`, so these functions need only NumPy.
"""

import numpy as np

from onelayer.errors import OnelayerWarning, UnitWarning

SCALED_DOWN = "the rows lie in 0 to 1, the pixels trained on in 0 to 255; multiply the rows by 255"
FAR_OFF = "the rows lie far from those trained on, as if in another unit; prepare them as the training rows were"
SIXTEEN_GREYS = (
    "the rows lie in 0 to 16, the pixels trained on in 0 to 255; if 16 is white, multiply the rows by 255/16"
)
LOOKED_AT = 32  # rows that are checked, at most
LEAST_IMAGE = 64  # numbers of an image of 8 x 8


def doubt(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray, *, pixels: bool) -> OnelayerWarning | None:
    """Return a reason to doubt that rows (n, d) are in the unit of those trained on, which were `pixels` or not."""
    if pixels and scaled_down(rows, mean, scale):
        return UnitWarning(SCALED_DOWN)
    if pixels and sixteen_greys(rows, mean, scale):
        return OnelayerWarning(SIXTEEN_GREYS)
    return OnelayerWarning(FAR_OFF) if far_off(rows, mean, scale) else None


def places_to_look_at(n: int) -> np.ndarray:
    """Return the places of at most 32 of n rows, evenly spaced."""
    return np.arange(0, n, max(1, -(-n // LOOKED_AT)))


def are_pixels(rows: np.ndarray) -> bool:
    """Return whether training rows (n, d) are pixels from 0 to 255: uint8, or floats that are whole numbers."""
    if rows.dtype == np.uint8:
        return True
    whole = rows.shape[1] >= LEAST_IMAGE and bool((rows % 1 == 0).all())
    return whole and bool(rows.min() >= 0 and 127 < rows.max() <= 255)


def scaled_down(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> bool:
    """Return whether rows (n, d) for a model of pixels from 0 to 255 were divided by 255."""
    if rows.dtype.kind != "f" or not rows.size or (rows % 1 == 0).all():
        return False
    m, s = mean[scale != 1], scale[scale != 1]  # a feature that was constant says nothing
    # Of zeros and ones the mean square is the mean: a model of masks may be given soft ones.
    masks = m.size > 0 and bool((m * m + s * s <= m * (1 + 1e-6)).all())
    large = m.size == 0 or bool((m + 3 * s > 16).any())  # small counts and codes may be bytes, too
    return large and not masks and bool(rows.min() >= 0 and rows.max() <= 1)


def sixteen_greys(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> bool:
    """Return whether rows (n, d) for a model of pixels from 0 to 255 seem to be greys from 0 to 16, as scikit-learn's.

    Dark images are seldom floats, and their largest number is seldom 15 or 16.
    """
    if rows.dtype.kind != "f" or not rows.size or (rows % 1 != 0).any():
        return False
    m, s = mean[scale != 1], scale[scale != 1]
    return bool(rows.min() == 0 and rows.max() in (15, 16) and (m + 3 * s > 128).any())


def far_off(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> bool:
    """Return whether rows (n, d) lie far from those with this mean and scale (d,)."""
    m, s = mean[scale != 1], scale[scale != 1]  # a feature that was constant says nothing
    R = rows[:, scale != 1].astype(np.float64)
    if not R.size:
        return False
    full = s <= np.abs(m)
    with np.errstate(all="ignore"):
        usual = (m * m + s * s) / np.abs(m)
        large = np.abs(R) > 20 * usual
        distant = np.abs(R - m) > 20 * s
    expected = (np.abs(usual - 1) < 1e-6) & ((R == 0) | (R == 1))
    for far, counted in ((distant, ~expected), (distant, ~expected & full), (large, R != 0)):
        rows_far = 2 * (far & counted).sum(axis=1) > counted.sum(axis=1)
        if 2 * rows_far.sum() > counted.any(axis=1).sum():
            return True
    counted = (R != 0) & full
    judged = 2 * counted.sum(axis=1) > full.sum()  # rows that are mostly zeros say nothing
    rows_small = 4 * (counted & (np.abs(R) < np.abs(m) / 8)).sum(axis=1) > 3 * counted.sum(axis=1)
    return judged.sum() >= 8 and bool(4 * (rows_small & judged).sum() > 3 * judged.sum())
