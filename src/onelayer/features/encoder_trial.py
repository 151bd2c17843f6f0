"""A trial of an encoder that is about to be used, on images of noise, and a check of all codes that it gives."""

from collections.abc import Callable

import numpy as np

from onelayer.errors import DataError
from onelayer.features.map import Shape

IMAGES, MOST_DIFFERENCE = 7, 1e-4  # the difference is relative to the largest number of the codes
MOST_ROUNDED = 1 / 4  # variance of the rounding to float16, as a share of that of the codes
ADVICE = "make it compute each image for itself and the same each time (model.eval() in PyTorch)"


def tried(codes_of: Callable[[np.ndarray], np.ndarray], image_shape: Shape, where: str) -> int:
    """Return the number of features d of an encoder, after a trial.

    Parameters
    ----------
    codes_of : callable
        Takes uint8 images (n, c, h, w), and returns floats (n, d).
    image_shape : (c, h, w)
    where : str
        The encoder, for messages.

    Raises
    ------
    DataError
        If codes are not finite, or not the same the second time, or an image has other codes by itself than in a batch
        of seven.
    """
    images = noise(image_shape)
    together = codes_of(images)
    require_codes(together, len(images), together.shape[-1], where)
    if not np.array_equal(together, codes_of(images)):
        raise DataError(f"{where}: gives other codes for the same images the second time; {ADVICE}")
    alone = [codes_of(images[i : i + 1]) for i in range(IMAGES)]
    for codes in alone:
        require_codes(codes, 1, together.shape[1], where)
    difference = np.abs(np.concatenate(alone) - together).max()
    if difference > MOST_DIFFERENCE * np.abs(together).max():
        what = f"{difference:.2g}, where codes are up to {np.abs(together).max():.2g}"
        raise DataError(f"{where}: images have other codes by themselves than in a batch of 7 (by {what}); {ADVICE}")
    return int(together.shape[1])


def noise(image_shape: Shape) -> np.ndarray:
    """Return the images (7, c, h, w), uint8, of the trial."""
    return np.random.default_rng(0).integers(0, 256, (IMAGES, *image_shape), np.uint8)


def require_float16(codes: np.ndarray, where: str) -> None:
    """Refuse codes (n, d) that are too large for float16, or whose differences between images it would round away."""
    with np.errstate(over="ignore"):  # it is refused next
        rounded = codes.astype(np.float16)
    require_codes(rounded, len(codes), codes.shape[1], where)
    exact = codes.astype(np.float64)
    spread = ((exact - exact.mean(axis=0)) ** 2).sum()
    if 0 < MOST_ROUNDED * spread < ((rounded - exact) ** 2).sum():
        size = f"codes are up to {abs(exact).max():.2g}, and differ by {np.sqrt(spread / exact.size):.2g}"
        raise DataError(
            f"{where}: float16 would round away the differences of images ({size}); subtract a constant from the codes "
            "in the network, or multiply them by one"
        )


def require_codes(codes: np.ndarray, n: int, d: int, where: str) -> None:
    """Refuse codes other than finite numbers of the shape (n, d)."""
    if np.shape(codes) != (n, d) or not d:
        raise DataError(f"{where}: returned the shape {np.shape(codes)} for {n} images; expected ({n}, {d or 'd'})")
    finite = np.isfinite(codes).all(axis=1)
    if not finite.all():
        fault = "is above 65,504 and does not fit into float16" if codes.dtype == np.float16 else "is not finite"
        raise DataError(f"{where}: a number for image {finite.argmin()} of {n} {fault}; correct the encoder")
