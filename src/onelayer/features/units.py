"""A look at whether rows are in the unit of those that a model was trained on, at 32 rows at most.

A model of pixels 0 to 255 takes images divided by 255 for black ones, and a model of features between 0 and 1 is sure
of everything that it is given as pixels. Nothing fails; the answers are wrong.

A doubt that is wrong is worse than silence. `far_off` takes rows for strange if, in most of them, most numbers

- are more than 20 standard deviations from the mean. Of rows like those trained on, however they are distributed, at
  most 1 in 200 is so (Chebyshev's inequality for a number, Markov's for half of them);
- or, of the numbers that are not 0, are more than 20 times the usual size E[x^2] / |E[x]|. For sparse features this is
  the size of what is not 0, and at most 1 in 400 such numbers is so. It finds what the many zeros of digits hide.

A feature with the scale 1 was constant, or nothing was standardised: it says nothing. Of features that held only zeros
and ones (then E[x^2] = E[x]), zeros and ones are left out of the first: rare ones are far from the mean.

Exported scripts hold the source of `scaled_down` and `far_off`, which therefore need nothing but NumPy.
"""

import numpy as np

from onelayer.errors import OnelayerWarning, UnitWarning

SCALED_DOWN = "the rows lie in 0 to 1, the pixels trained on in 0 to 255; multiply the rows by 255"
FAR_OFF = "the rows lie far outside those trained on; prepare them as the training rows were"
LOOKED_AT = 32  # rows
LEAST_IMAGE = 64  # numbers of an image of 8 x 8


def doubt(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray, *, pixels: bool) -> OnelayerWarning | None:
    """Return a reason to doubt that rows (n, d) are in the unit of those trained on, which were `pixels` or not."""
    if pixels and scaled_down(rows, mean, scale):
        return UnitWarning(SCALED_DOWN)
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


def far_off(rows: np.ndarray, mean: np.ndarray, scale: np.ndarray) -> bool:
    """Return whether rows (n, d) lie far outside those with this mean and scale (d,)."""
    m, s = mean[scale != 1], scale[scale != 1]  # a feature that was constant says nothing
    R = rows[:, scale != 1].astype(np.float64)
    if not R.size:
        return False
    with np.errstate(all="ignore"):
        usual = (m * m + s * s) / np.abs(m)
        large = np.abs(R) > 20 * usual
        distant = np.abs(R - m) > 20 * s
    expected = (np.abs(usual - 1) < 1e-6) & ((R == 0) | (R == 1))
    for far, counted in ((distant, ~expected), (large, R != 0)):
        rows_far = 2 * (far & counted).sum(axis=1) > counted.sum(axis=1)
        if 2 * rows_far.sum() > counted.any(axis=1).sum():
            return True
    return False
