"""The picture of an explanation."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from onelayer.analysis.explanation import Explanation
from onelayer.pictures.colours import SIGNED, picture
from onelayer.pictures.page import LABEL, MOST_TEMPLATES, capped, fitted, mosaic, signed_bar


def explanation(image: np.ndarray, explained: Explanation, class_names: Sequence[str], title: str) -> Figure:
    """Draw an image, and for each of its likeliest classes the number that each pixel adds to the logit, on one scale.

    The contributions of a pixel's channels are added. The scale ends where 99 of 100 pixels of all maps lie below;
    a note says how many lie beyond.

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
    sizes = np.abs(maps)
    limit = float(np.quantile(sizes, 0.99)) or float(sizes.max()) or 1.0
    limit = float(f"{limit:.2g}")
    beyond = 100 * float((sizes > limit).mean())
    shown = np.clip(picture(image) / 255, 0, 1)
    shown = shown if shown.ndim == 3 else np.repeat(shown[..., np.newaxis], 3, axis=2)  # grey, not by the colour map
    captions = ["as the model sees it"]
    numbers = (explained.probabilities, explained.logits, explained.bias, explained.logits - explained.bias)
    for name, p, logit, bias, pixels in zip(class_names, *(values[:t] for values in numbers), strict=True):
        name = fitted(name, 1.8, LABEL, lines=1)
        captions.append(f"{name}\n{100 * p:.1f} %, logit {logit:+z.3f}\nbias {bias:+z.3f}, pixels {pixels:+z.3f}")
    stacks = [[shown], *([one] for one in maps)]
    style: dict[str, Any] = {"cmap": SIGNED, "vmin": -limit, "vmax": limit}
    figure, _, images = mosaic(stacks, captions, title, columns=min(t + 1, 4), below=0.65, **style)
    notes = ["a pixel at its mean over the training rows adds 0"]
    notes += ["the channels of a pixel are added"] if len(image) > 1 else []
    notes += [f"{beyond:.2g} % of the pixels lie beyond the scale"] if beyond else []
    unit = "added to the logit: below 0 against the class, above 0 for it"
    signed_bar(figure, images[1], unit, notes, extend="both" if beyond else "neither")
    return figure
