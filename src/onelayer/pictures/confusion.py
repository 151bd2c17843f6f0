"""The picture of the confusion: a matrix, or for many classes the most frequent confusions and the recall of each."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.image import AxesImage
from matplotlib.patches import Rectangle
from matplotlib.ticker import FuncFormatter, MaxNLocator

from onelayer.pictures.colours import COLOURS
from onelayer.pictures.page import (
    GAP,
    INK,
    LABEL,
    LINE,
    MARGIN,
    QUIET,
    SMALL,
    WIDTH,
    fitted,
    new_page,
    outlines,
    place_axes,
    plain_axes,
    text_length,
)
from onelayer.words import row_count

MOST_NUMBERED, MOST_IN_MATRIX = 20, 30  # classes
MOST_PAIRS, NAMED_RECALLS = 20, 3


def confusion_shares(counts: np.ndarray) -> np.ndarray:
    """Return the counts (K, K) as fractions of each true class; NaN for a class without rows."""
    totals = counts.sum(axis=1, keepdims=True)  # (K, 1)
    return np.divide(counts, totals, out=np.full(counts.shape, np.nan), where=totals > 0)


def confusion(counts: np.ndarray, class_names: Sequence[str], title: str) -> Figure:
    """Draw how the rows of each true class were classified, in percent of that class.

    Up to 30 classes are drawn as a matrix. Of more, the 20 most frequent confusions are listed, and the recall of
    every class is drawn.

    Parameters
    ----------
    counts : ndarray (K, K)
        Cell (i, j): rows of true class i that were taken for class j. A cell without rows is empty, a class without
        rows is grey. With more than 20 classes the colours are shown without numbers.
    class_names : sequence of K str
    title : str
    """
    if len(counts) > MOST_IN_MATRIX:
        return _pairs_and_recalls(counts, class_names, title)
    K = len(counts)
    size, names, counted = _labels(counts, class_names)
    left = MARGIN + 0.35 + max(text_length(name, size) for name in counted)
    side = min(WIDTH - left - 1, max(0.8 * K, 1.6))
    longest = max(text_length(name, size) for name in names)
    upright = longest < side / K - GAP
    foot = size * LINE if upright else longest + 0.1
    width = min(WIDTH, max(left + side + 1, 5.0))  # no empty third beside a few classes
    figure, top = new_page(title, side + foot + 0.3, width)
    axes = place_axes(figure, left, top, side, side)
    image = draw_matrix(axes, counts, class_names, upright)
    scale = place_axes(figure, left + side + 0.2, top, 0.12, min(side, 3))
    figure.colorbar(image, cax=scale)
    scale.yaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    scale.yaxis.set_major_formatter(FuncFormatter(lambda share, _: f"{100 * share:.3g}"))
    scale.tick_params(length=2, color=QUIET, labelsize=SMALL, labelcolor=INK)
    scale.set_ylabel("percent of the true class", size=SMALL, color=INK)
    return figure


def draw_matrix(axes: Axes, counts: np.ndarray, class_names: Sequence[str], upright: bool = False) -> AxesImage:
    """Draw the matrix of `confusion` into axes; `upright` writes the predicted classes from left to right."""
    K = len(counts)
    shares = confusion_shares(counts)
    size, names, counted = _labels(counts, class_names)
    blues = colormaps["Blues"].with_extremes(bad="#e4e4e4")
    largest = float(np.nanmax(shares, initial=0)) or 1.0
    image = axes.imshow(shares, cmap=blues, vmin=0, vmax=largest, interpolation="nearest")
    for i, j in np.argwhere(counts > 0) if K <= MOST_NUMBERED else ():
        ink = "white" if shares[i, j] > 0.55 * largest else INK
        axes.text(j, i, f"{100 * shares[i, j]:.0f}", size=size, color=ink, ha="center", va="center")
    diagonal = [Rectangle((k - 0.5, k - 0.5), 1, 1) for k in range(K)]
    axes.add_collection(outlines(diagonal, COLOURS["validation"], 1.2 if K <= MOST_NUMBERED else 0.6))
    style: dict[str, Any] = {"size": size, "color": INK, "parse_math": False}
    axes.set_xticks(range(K), names, **style, rotation=0 if upright else 90)
    axes.set_yticks(range(K), counted, **style)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
    axes.set_xlabel("predicted class", size=LABEL, color=INK)
    axes.set_ylabel("true class (rows)", size=LABEL, color=INK)
    return image


def draw_recalls(axes: Axes, counts: np.ndarray, class_names: Sequence[str]) -> None:
    """Draw the recall of each class with rows, sorted, into axes, and name the best and the worst classes."""
    recalls = np.diagonal(confusion_shares(counts))
    known = np.flatnonzero(~np.isnan(recalls))
    order = known[np.argsort(-recalls[known], kind="stable")]
    places = np.arange(1, len(order) + 1)
    axes.fill_between(places, 100 * recalls[order], step="mid", color=COLOURS["train"], alpha=0.85, linewidth=0)
    axes.set(xlim=(0.5, len(order) + 0.5), ylim=(0, 100))
    if len(order):
        mean = 100 * float(recalls[order].mean())
        axes.axhline(mean, color=COLOURS["validation"], linewidth=1.2)
        style: dict[str, Any] = {"size": SMALL, "va": "bottom", "parse_math": False, "transform": axes.transAxes}
        axes.text(0, 1.02, f"mean recall {mean:.1f} %", color=COLOURS["validation"], **style)
        ends = (("best", order[:NAMED_RECALLS]), ("worst", order[::-1][:NAMED_RECALLS]))
        lines = [
            f"{word}: " + ", ".join(f"{fitted(class_names[k], 1.1, SMALL, 1)} {100 * recalls[k]:.0f} %" for k in some)
            for word, some in ends
        ]
        axes.text(1, 1.02, "\n".join(lines), color=INK, ha="right", linespacing=1.3, **style)
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.set_xlabel("classes, sorted by recall", size=LABEL, color=INK)
    axes.set_ylabel("recall (%)", size=LABEL, color=INK)
    plain_axes(axes)


def _labels(counts: np.ndarray, class_names: Sequence[str]) -> tuple[float, list[str], list[str]]:
    """Return the size of the names, the names, and the names with the number of their rows."""
    size = LABEL if len(counts) <= 12 else SMALL
    names = [fitted(name, 1.5, size, lines=1) for name in class_names]
    rows = [f"{name} ({row_count(total)})" for name, total in zip(names, counts.sum(axis=1).tolist(), strict=True)]
    return size, names, rows


def _pairs_and_recalls(counts: np.ndarray, class_names: Sequence[str], title: str) -> Figure:
    """Draw the most frequent confusions as bars, and below them the recall of all classes."""
    wrong = counts - np.diag(np.diagonal(counts))
    order = np.argsort(-wrong, axis=None, kind="stable")[:MOST_PAIRS]
    pairs = [(int(i), int(j)) for i, j in zip(*np.unravel_index(order, counts.shape), strict=True) if wrong[i, j]]
    totals = counts.sum(axis=1)
    step, tall = SMALL * LINE * 1.15, 2.0
    bars = len(pairs) * step
    figure, top = new_page(title, 0.3 + bars + 0.75 + tall + 0.5)
    names = [" → ".join(fitted(class_names[k], 1.55, SMALL, lines=1) for k in pair) for pair in pairs]
    ends = [
        f"{row_count(counts[i, j])} of {row_count(totals[i])}, {100 * counts[i, j] / totals[i]:.0f} %" for i, j in pairs
    ]
    left = MARGIN + max((text_length(name, SMALL) for name in names), default=0) + 2 * GAP
    right = max((text_length(end, SMALL) for end in ends), default=0) + GAP
    height = figure.get_figheight()
    heading = "most frequent confusions: true class → predicted class" if pairs else "no row was classified wrongly"
    figure.text(MARGIN / WIDTH, 1 - (top + 0.05) / height, heading, size=LABEL, color=INK, va="top")
    if pairs:
        axes = place_axes(figure, left, top + 0.3, WIDTH - left - right - MARGIN, bars)
        values = [float(counts[pair]) for pair in pairs]
        axes.barh(range(len(pairs)), values, 0.72, color=COLOURS["train"], linewidth=0)
        style: dict[str, Any] = {"size": SMALL, "color": INK, "parse_math": False}
        axes.set_yticks(range(len(pairs)), names, **style)
        axes.set(ylim=(len(pairs) - 0.5, -0.5), xlim=(0, max(values)), xticks=[])
        for place, (value, end) in enumerate(zip(values, ends, strict=True)):
            axes.annotate(end, (value, place), (4, 0), textcoords="offset points", va="center", size=SMALL, color=QUIET)
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
    below = place_axes(figure, 0.7, top + 0.3 + bars + 0.75, WIDTH - 0.7 - 2 * MARGIN, tall)
    draw_recalls(below, counts, class_names)
    return figure
