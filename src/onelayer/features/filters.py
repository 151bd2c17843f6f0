"""Filters of patch features, drawn from training images: whitened patches, brought back to the scale of pixels."""

import numpy as np

from onelayer.errors import DataError
from onelayer.features.map import Shape

EPSILON = 10.0  # added to the variance of a patch of pixels from 0 to 255
SMOOTHING = 0.1  # added to the variances of whitened patches, which are 1 on average before
DRAWN, CANDIDATES = 50_000, 4  # patches, and for each filter those that may become it
LEAST_VARIANCE = 1e-10  # of a patch's numbers, divided by their deviation
SIZES = {40: (8, 5), 14: (6, 4), 10: (4,), 3: (3,)}  # of patches, for images of at least this height and width


def sizes_of(image_shape: Shape) -> tuple[int, ...]:
    """Return the heights of patches, which are squares, for images (c, h, w).

    Raises
    ------
    DataError
        If the images are smaller than the smallest patch.
    """
    _, h, w = image_shape
    for least, sizes in SIZES.items():
        if min(h, w) >= least:
            return sizes
    raise DataError(f"images of {h} x {w} pixels are smaller than a patch of 3 x 3; the features patches need larger")


def images_of(rows: np.ndarray, image_shape: Shape | None) -> Shape:
    """Return the shape of images, and refuse rows that are not pixels."""
    if image_shape is None:
        raise DataError("the features patches are for images, and the rows have no image shape; choose other features")
    if rows.dtype != np.uint8:
        raise DataError(f"the features patches are for uint8 pixels, and the rows are {rows.dtype}; pass pixels")
    return image_shape


def draw_filters(
    rows: np.ndarray,
    places: np.ndarray,
    image_shape: Shape,
    k: int,
    count: int,
    rng: np.random.Generator,
    *,
    mirror: bool,
) -> tuple[np.ndarray, np.ndarray]:
    """Draw filters of k x k pixels, and their biases.

    50,000 patches p, drawn with repetition: their images, then rows, then columns. Each becomes
    (p - mean p) / sqrt(var p + 10). With `mirror`, their mirror images count too: mu and C are the mean and the
    covariance of all. With s = tr C / dim and C / s = V L V^T, patches are whitened by Z = V (L + 0.1)^(-1/2) V^T /
    sqrt(s). Of the first 4 K whitened patches, the first K whose length is more than a tenth of the median become
    D (K, dim), scaled to length 1, followed by their mirror images. Filters are A = D Z, each less its mean; b = -A mu.

    Parameters
    ----------
    rows : ndarray (n, c h w), uint8
    places : ndarray (m,), int64
        The training rows.
    image_shape : (c, h, w)
    k : int
    count : int
        K.
    rng : Generator
    mirror : bool

    Returns
    -------
    filters : ndarray (F, c, k, k), float32
        F is K, or 2 K with twins.
    bias : ndarray (F,), float32

    Raises
    ------
    DataError
        If images are too few or too plain, or more filters are asked for than patches are drawn.
    """
    c, h, w = image_shape
    if count > DRAWN:
        raise DataError(f"{count:,} filters are more than the {DRAWN:,} patches that are drawn; ask for at most these")
    if (most := len(places) * (h - k + 1) * (w - k + 1)) < count:
        images = f"{len(places):,} images of {h} x {w} pixels have {most:,} patches of {k} x {k}"
        raise DataError(f"{images}, too few for {count:,} filters; ask for at most {most:,}, or pass more images")
    p = _draw_patches(rows, places, image_shape, k, rng)
    p -= p.mean(axis=1, keepdims=True)
    p /= np.sqrt(p.var(axis=1, keepdims=True) + EPSILON)
    dim = p.shape[1]
    mu, second = p.mean(axis=0), p.T @ p / len(p)
    if mirror:
        twin = np.arange(dim).reshape(c, k, k)[:, :, ::-1].ravel()
        mu, second = (mu + mu[twin]) / 2, (second + second[np.ix_(twin, twin)]) / 2
    C = second - np.outer(mu, mu)
    s = np.trace(C) / dim
    L, V = np.linalg.eigh(C / max(s, LEAST_VARIANCE))
    Z = (V / np.sqrt(np.maximum(L, 0) + SMOOTHING)) @ V.T / np.sqrt(max(s, LEAST_VARIANCE))
    whitened = (p[: CANDIDATES * count] - mu) @ Z
    length = np.sqrt((whitened**2).sum(axis=1))
    chosen = np.flatnonzero(length > np.median(length) / 10)[:count]
    if s < LEAST_VARIANCE or len(chosen) < count:
        raise DataError(f"the images are too plain for {count:,} filters: their patches of {k} x {k} hardly differ")
    D = whitened[chosen] / length[chosen, None]
    if mirror:
        D = np.concatenate([D, D[:, twin]])
    A = D @ Z
    A -= A.mean(axis=1, keepdims=True)
    return A.reshape(-1, c, k, k).astype(np.float32), (-A @ mu).astype(np.float32)


def _draw_patches(
    rows: np.ndarray, places: np.ndarray, image_shape: Shape, k: int, rng: np.random.Generator
) -> np.ndarray:
    """Return patches (50,000, c k k), float64."""
    _, h, w = image_shape
    images = rng.integers(len(places), size=DRAWN)
    corners = rng.integers(h - k + 1, size=DRAWN) * w + rng.integers(w - k + 1, size=DRAWN)
    numbers = np.arange(rows.shape[1]).reshape(image_shape)[:, :k, :k].ravel()  # of the first patch
    patches = np.empty((DRAWN, len(numbers)))
    for start in range(0, DRAWN, 5000):
        part = slice(start, start + 5000)
        patches[part] = rows[places[images[part], None], corners[part, None] + numbers]
    return patches
