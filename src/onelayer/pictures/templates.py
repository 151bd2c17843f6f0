"""Pictures of the weights: each class's template, or the strongest weights of features that are not pixels."""

import math
from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.patches import Rectangle

from onelayer.analysis.templates import MOST_CHARTED, picture, signed_scale, stretched, strongest
from onelayer.features.standardizer import Standardizer
from onelayer.pictures.colours import SIGNED
from onelayer.pictures.page import (
    GAP,
    INK,
    LABEL,
    LINE,
    MARGIN,
    MOST_TEMPLATES,
    QUIET,
    SMALL,
    WIDTH,
    capped,
    fitted,
    mosaic,
    new_page,
    page_of,
    place_axes,
    signed_bar,
    text_length,
)


def templates(
    weights: np.ndarray,
    class_names: Sequence[str],
    image_shape: tuple[int, int, int],
    title: str,
    learnt: np.ndarray | None = None,
    width: float = WIDTH,
    into: Axes | None = None,
) -> Figure:
    """Draw each class's weights as a picture in its own range: black is its least weight, white its largest.

    This shows shapes and hides size and sign; `signed_templates` shows size and sign.

    Parameters
    ----------
    weights : ndarray (d, K)
        Column k is drawn for class k; at most 100 classes are drawn.
    class_names : sequence of K str
    image_shape : (c, h, w)
        Three channels are drawn in colour. For any other number, their mean is drawn in grey.
    title : str
    learnt : ndarray (d, K), optional
        The part of the weights that training has added to the initial ones, drawn above the weights themselves.
    width : float
        Inches.
    into : Axes, optional
        Axes to draw into, instead of a page.
    """
    K = weights.shape[1]
    views = [weights] if learnt is None else [learnt, weights]
    columns = [np.asarray(view, np.float64).T[:MOST_TEMPLATES] for view in views]
    stacks = [[stretched(picture(row.reshape(image_shape))) for row in rows] for rows in zip(*columns, strict=True)]
    sides = () if learnt is None else ("learnt", "weights")
    style: dict[str, Any] = {"cmap": "gray", "vmin": 0, "vmax": 1}
    return mosaic(stacks, class_names, capped(title, K), _columns(K), width, sides, into=into, **style)[0]


def signed_templates(
    weights: np.ndarray,
    standardizer: Standardizer,
    class_names: Sequence[str],
    image_shape: tuple[int, int, int],
    title: str,
) -> Figure:
    """Draw the number that one more grey level of each pixel adds to each class's logit, on one scale for all classes.

    The number is W / s; each class and channel has a picture. A few large weights do not set the scale: it ends at
    3.5 times the median of |W / s|, and a note says how many lie beyond. Pixels that were constant in training are
    grey.

    Parameters
    ----------
    weights : ndarray (d, K)
        Column k is drawn for class k; at most 100 classes are drawn.
    standardizer : Standardizer
        Of the rows: its scale is s, and it knows the features that were constant in training.
    class_names : sequence of K str
    image_shape : (c, h, w)
    title : str
    """
    K, c = weights.shape[1], image_shape[0]
    V, limit, beyond = signed_scale(weights[:, :MOST_TEMPLATES], standardizer)
    figure, _, images = mosaic(
        V.T.reshape(-1, *image_shape),
        class_names,
        capped(title, K),
        columns=_columns(K) if c == 1 else min(K, 10 if K <= 30 else 20),
        width=WIDTH if c == 1 or K <= 30 else 1.5 * WIDTH,
        sides=[] if c == 1 else ["R", "G", "B"] if c == 3 else [f"{channel + 1}" for channel in range(c)],
        below=0.65,
        cmap=SIGNED,
        vmin=-limit,
        vmax=limit,
    )
    notes = [f"{beyond:.2g} % of the weights lie beyond the scale"] if beyond else []
    notes += ["grey pixels: constant in training"] if np.isnan(V).any() else []
    unit = "logit per grey level: below 0 against the class, above 0 for it"
    signed_bar(figure, images[0], unit, notes, extend="both" if beyond else "neither")
    return figure


def start_in_words(init_std: float | None, learnt: np.ndarray | None) -> str:
    """Say what the initial weights have to do with those that are drawn."""
    if init_std == 0:
        return "The weights began at 0 (init_std 0), so all that they hold was learnt."
    known = "a model file does not hold their init_std" if init_std is None else f"init_std {init_std:g}"
    if learnt is None:
        return f"The weights as they are, with what is left of the random numbers that they began as ({known})."
    return f"Learnt: the weights less what is left of the random numbers that they began as ({known})."


def strongest_weights(
    weights: np.ndarray,
    standardizer: Standardizer,
    class_names: Sequence[str],
    title: str,
    into: Axes | None = None,
) -> Figure:
    """Draw the features with the largest weights of each class as bars, on one scale for all classes.

    A weight is the number that one more standard deviation of the feature adds to the class's logit, or one more unit
    where features keep their own scale, and the picture says which. Features that were constant in training are left
    out.

    Parameters
    ----------
    weights : ndarray (d, K)
        Column k is drawn for class k; at most 24 classes are drawn.
    standardizer : Standardizer
        Of the rows: its scale is s, and it knows the features that were constant in training.
    class_names : sequence of K str
    title : str
    into : Axes, optional
        Axes to draw into, instead of a page. Their unit becomes the inch of a page.
    """
    K = weights.shape[1]
    classes, limit = strongest(weights, standardizer)
    columns = min(K, 3)
    bars = max(len(features) for features, _ in classes)
    each = (WIDTH - 2 * MARGIN - (columns - 1) * 2 * GAP) / columns
    step = SMALL * LINE
    block = LABEL * LINE + max(bars, 1) * step + 2 * GAP
    needed = -(-len(classes) // columns) * block + 0.3
    if into is None:
        figure, top = new_page(capped(title, K, MOST_CHARTED), needed)
        height = figure.get_figheight()
        axes = place_axes(figure, 0, 0, WIDTH, height)  # their unit is the inch
    else:
        figure, axes, top, height = page_of(into), into, 0.0, needed
        axes.set_title(title.partition("\n")[0], size=LABEL, color=INK, parse_math=False)
    axes.set_axis_off()
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    words = [f"feature {j}" for features, _ in classes for j in features]
    left = max((text_length(word, SMALL) for word in words), default=0) + GAP
    right = max((text_length(signed_number(v, limit), SMALL) for _, values in classes for v in values), default=0) + GAP
    half = (each - left - right) / 2
    style: dict[str, Any] = {"size": SMALL, "va": "center_baseline", "parse_math": False}
    drawn: dict[bool, list[Rectangle]] = {False: [], True: []}
    for place, ((features, values), name) in enumerate(zip(classes, class_names, strict=False)):
        x, y = MARGIN + place % columns * (each + 2 * GAP), top + place // columns * block + LABEL * LINE
        axes.text(x, y - LABEL * LINE / 2, fitted(name, each, LABEL, lines=1), **style | {"size": LABEL}, color=INK)
        zero = x + left + half
        for number, (feature, value) in enumerate(zip(features, values, strict=True)):
            middle = y + (number + 0.5) * step
            axes.text(x, middle, f"feature {feature}", **style, color=INK)
            axes.text(x + each, middle, signed_number(value, limit), **style, color=QUIET, ha="right")
            long = half * value / limit
            drawn[value > 0].append(Rectangle((zero + min(long, 0), middle - 0.35 * step), abs(long), 0.7 * step))
        axes.vlines(zero, y, y + len(features) * step, color=QUIET, linewidth=0.6)
    for positive, patches in drawn.items():
        axes.add_collection(PatchCollection(patches, facecolor=SIGNED(0.9 if positive else 0.1), edgecolor="none"))
    meaning = f"what {one_more(standardizer)} adds to the class's logit; one scale for all"
    axes.text(MARGIN, height - 0.2, meaning, **style, color=QUIET)
    return figure


def one_more(standardizer: Standardizer) -> str:
    """Return the amount of a feature that adds a weight to a logit, in words."""
    own = bool((standardizer.scale == 1).all())  # or all standard deviations are 1, and both are true
    return "one more unit of a feature, whatever its spread," if own else "one more standard deviation of a feature"


def signed_number(value: float, limit: float) -> str:
    """Return a number with its sign, and as many decimals as give `limit`, the largest of its kind, three digits."""
    if not 1e-4 <= limit < 1e5:
        return f"{value:+.1e}"
    return f"{value:+.{max(0, 2 - math.floor(math.log10(limit)))}f}"


def _columns(K: int) -> int:
    """Return the number of pictures in a row."""
    return K if K < 5 else 5 if K <= 10 else 6 if K <= 24 else 10
