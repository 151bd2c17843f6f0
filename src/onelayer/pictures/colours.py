"""Colours that mean the same in every picture, and images as matplotlib draws them."""

import numpy as np
from matplotlib import colormaps

COLOURS = {"train": "#0072b2", "validation": "#d55e00"}  # Okabe and Ito's blue and vermilion, for every kind of eye
SIGNED = colormaps["PuOr_r"].with_extremes(bad="#bbbbbb")  # no red, green or blue: these are channels


def picture(image: np.ndarray) -> np.ndarray:
    """Return an image (c, h, w) as matplotlib draws it: (h, w, 3), or the mean (h, w) of other than three channels."""
    return image.transpose(1, 2, 0) if len(image) == 3 else image.mean(axis=0)


def stretched(image: np.ndarray) -> np.ndarray:
    """Return an image in its own range: the least number becomes 0, the largest 1."""
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if high > low else np.full(image.shape, 0.5)
