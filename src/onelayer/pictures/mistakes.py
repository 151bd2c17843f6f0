"""Pictures of the mistakes: the confusion matrix, and the images that were classified wrongly."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle

from onelayer.pictures.colours import COLOURS, picture
from onelayer.pictures.page import (
    GAP,
    INK,
    LABEL,
    LINE,
    MARGIN,
    QUIET,
    SMALL,
    TINY,
    WIDTH,
    fitted,
    mosaic,
    new_page,
    outlines,
    place_axes,
    text_length,
)
from onelayer.words import row_count

MOST_NUMBERED, MOST_NAMED = 20, 60  # classes


def confusion_shares(counts: np.ndarray) -> np.ndarray:
    """Return the counts (K, K) as fractions of each true class; NaN for a class without rows."""
    totals = counts.sum(axis=1, keepdims=True)  # (K, 1)
    return np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)


def confusion(counts: np.ndarray, class_names: Sequence[str], title: str) -> Figure:
    """Draw how the rows of each true class were classified, in percent of that class.

    Parameters
    ----------
    counts : ndarray (K, K)
        Cell (i, j): rows of true class i that were taken for class j. A cell without rows is empty, a class without
        rows is grey. With more than 20 classes the colours are shown without numbers.
    class_names : sequence of K str
    title : str
    """
    K = len(counts)
    totals = counts.sum(axis=1)  # (K,)
    shares = confusion_shares(counts)
    size = LABEL if K <= 12 else SMALL if K <= 30 else TINY
    font = FontProperties(size=size)
    named = range(0, K, -(-K // MOST_NAMED))  # more names would run into each other
    names = [fitted(class_names[k], 1.5, size, lines=1) for k in named]
    counted = [f"{name} ({row_count(totals[k])})" for name, k in zip(names, named, strict=True)]
    longest = max(text_length(name, font) for name in names)
    left = MARGIN + 0.35 + max(text_length(name, font) for name in counted)
    side = min(WIDTH - left - 1, max(0.8 * K, 1.6))
    upright = longest < side / len(names) - GAP
    foot = size * LINE if upright else longest + 0.1
    figure, top = new_page(title, side + foot + 0.5)
    axes = place_axes(figure, left, top, side, side)
    blues = colormaps["Blues"].with_extremes(bad="#e4e4e4")
    image = axes.imshow(shares, cmap=blues, vmin=0, vmax=1, interpolation="nearest")
    for i, j in np.argwhere(counts > 0) if K <= MOST_NUMBERED else ():
        ink = "white" if shares[i, j] > 0.55 else INK
        axes.text(j, i, f"{100 * shares[i, j]:.0f}", size=size, color=ink, ha="center", va="center")
    diagonal = [Rectangle((k - 0.5, k - 0.5), 1, 1) for k in range(K)]
    axes.add_collection(outlines(diagonal, COLOURS["validation"], 1.2 if K <= MOST_NUMBERED else 0.4))
    style: dict[str, Any] = {"size": size, "color": INK, "parse_math": False}
    axes.set_xticks(named, names, **style, rotation=0 if upright else 90)
    axes.set_yticks(named, counted, **style)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class", size=LABEL, color=INK)
    axes.set_ylabel("true class (rows)", size=LABEL, color=INK)
    scale = place_axes(figure, left + side + 0.2, top, 0.12, min(side, 3))
    figure.colorbar(image, cax=scale)
    scale.set_yticks([0, 0.25, 0.5, 0.75, 1], ["0", "25", "50", "75", "100"], size=SMALL, color=INK)
    scale.tick_params(length=2, color=QUIET)
    scale.set_ylabel("percent of the true class", size=SMALL, color=INK)
    return figure


def mistakes(
    images: np.ndarray,
    true_names: Sequence[str],
    predicted_names: Sequence[str],
    probabilities: np.ndarray,
    title: str,
) -> Figure:
    """Draw images that were classified wrongly, four in a row, with the answer, its probability, and the truth.

    Parameters
    ----------
    images : ndarray (m, c, h, w)
        Black is 0 and white 255. Three channels are drawn in colour, as in `templates`.
    true_names, predicted_names : sequence of m str
    probabilities : ndarray (m,)
        Of the predicted classes.
    title : str
    """
    if len(images) == 0:
        figure, _ = new_page(title, 0.3)
        figure.text(MARGIN / WIDTH, 0.2, "No mistakes.", size=LABEL, color=INK)
        return figure
    stacks = [[np.clip(picture(image) / 255, 0, 1)] for image in images]
    answers = [fitted(name, 0.85, LABEL, lines=1) for name in predicted_names]
    captions = [
        f"predicted {answer}, {100 * p:.0f} %\ntrue {truth}"
        for answer, p, truth in zip(answers, probabilities, true_names, strict=True)
    ]
    return mosaic(stacks, captions, title, columns=4, cmap="gray", vmin=0, vmax=1)[0]
