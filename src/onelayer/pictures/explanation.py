"""The picture of an explanation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage

from onelayer.analysis.explanation import CAVEAT, Explanation
from onelayer.analysis.templates import picture
from onelayer.pictures.colours import SIGNED
from onelayer.pictures.page import INK, LABEL, MOST_TEMPLATES, SMALL, capped, fitted, mosaic, signed_bar

PALEST = 0.6  # grey level, of 0 to 1, of a black pixel under the colours
LUMINANCE, DARK = np.array([0.2126, 0.7152, 0.0722]), 0.25  # of linear red, green and blue; below, numbers are white


def explanation(image: np.ndarray, explained: Explanation, class_names: Sequence[str], title: str) -> Figure:
    """Draw an image, and for each of its likeliest classes the number that each pixel adds to the logit, on one scale.

    The contributions of a pixel's channels are added. The scale ends where 99 of 100 pixels of all maps lie below;
    a note says how many lie beyond. With patch features, the numbers that windows of the image add stand above, and
    the colours lie over the image.

    Parameters
    ----------
    image : ndarray (c, h, w)
        As the model sees it; black is 0 and white 255.
    explained : Explanation
        Of t classes and c * h * w features; at most 100 classes are drawn.
    class_names : sequence of t str
    title : str
    """
    title = capped(title, len(class_names))
    class_names = class_names[:MOST_TEMPLATES]
    t = len(class_names)
    maps = explained.contributions[:t].reshape(t, *image.shape).sum(axis=1)  # (t, h, w)
    limit, beyond = _scale(maps)
    shown = np.clip(picture(image) / 255, 0, 1)
    shown = shown if shown.ndim == 3 else np.repeat(shown[..., np.newaxis], 3, axis=2)  # grey, not by the colour map
    windows = explained.windows
    captions = ["as the model sees it"]
    numbers = (explained.probabilities, explained.logits, explained.bias, explained.logits - explained.bias)
    what = "pixels" if windows is None else "image"
    for name, p, logit, bias, rest in zip(class_names, *(values[:t] for values in numbers), strict=True):
        name = fitted(name, 1.8, LABEL, lines=1)
        captions.append(f"{name}\n{100 * p:.1f} %, logit {logit:+z.3f}\nbias {bias:+z.3f}, {what} {rest:+z.3f}")
    style: dict[str, Any] = {"cmap": SIGNED, "vmin": -limit, "vmax": limit}
    if windows is None:
        stacks, sides = [[shown], *([one] for one in maps)], []
    else:
        pale = PALEST + (1 - PALEST) * shown.mean(axis=2, keepdims=True)
        size = float(np.abs(windows[:t]).max()) or 1.0
        of_windows = SIGNED((windows[:t] / size + 1) / 2)[..., :3]
        over = SIGNED((np.clip(maps / limit, -1, 1) + 1) / 2)[..., :3] * pale
        stacks = [[shown, pale.repeat(3, axis=2)], *map(list, zip(of_windows, over, strict=True))]
        sides = ["by window", "by pixel"]
        title += f"\n{CAVEAT[0].upper()}{CAVEAT[1:]}."
    figure, axes, images = mosaic(stacks, captions, title, min(t + 1, 4), sides=sides, below=0.65, **style)
    if windows is not None:
        for place, one in zip(images[2::2], windows, strict=False):
            _write_windows(axes, place, one)
    if windows is None:
        notes = ["a pixel at its mean over the training rows adds 0"]
        notes += ["the channels of a pixel are added"] if len(image) > 1 else []
    else:
        notes = ["average activations of the training images add 0", "windows overlap, and have a scale of their own"]
    notes += [f"{beyond:.2g} % of the pixels lie beyond the scale"] if beyond else []
    unit = f"{'added' if windows is None else 'a pixel adds'} to the logit: below 0 against the class, above 0 for it"
    signed_bar(figure, images[len(stacks[0])], unit, notes, extend="both" if beyond else "neither")
    return figure


def _scale(maps: np.ndarray) -> tuple[float, float]:
    """Return the number where the colours of maps end, and the percentage of pixels beyond it."""
    sizes = np.abs(maps)
    limit = float(np.quantile(sizes, 0.99)) or float(sizes.max()) or 1.0
    limit = float(f"{limit:.2g}")
    return limit, 100 * float((sizes > limit).mean())


def _write_windows(axes: Axes, place: AxesImage, windows: np.ndarray) -> None:
    """Write the amounts of windows (down, across) onto their picture."""
    left, right, bottom, top = place.get_extent()
    down, across = windows.shape
    light = np.asarray(place.get_array())[..., :3] ** 2.2 @ LUMINANCE  # (down, across)
    for (y, x), amount in np.ndenumerate(windows):
        where = left + (x + 0.5) * (right - left) / across, top + (y + 0.5) * (bottom - top) / down
        colour = INK if light[y, x] > DARK else "white"
        axes.text(*where, f"{amount:+z.2f}", size=SMALL, color=colour, ha="center", va="center")
