"""Curves of a probe: validation accuracy by the values that were tried, and test accuracy by the number of rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from onelayer.pictures.colours import COLOURS
from onelayer.pictures.page import INK, LABEL, MARGIN, QUIET, fitted, new_page, place_axes, plain_axes
from onelayer.words import number

LEFT, TALL, FOOT = 0.65, 2.3, 0.5  # inches: left of the axes, their height, and below them
_STYLES = [(colour, marker) for marker in "osD^" for colour in (COLOURS["train"], COLOURS["validation"], INK)]


def curve_of_trials(
    values: np.ndarray, scores: np.ndarray, converged: np.ndarray, chosen: int, setting: str, width: float
) -> Figure:
    """Draw the validation accuracy by the values of a setting, on a scale of logarithms, and mark the chosen one.

    Parameters
    ----------
    values : ndarray (m,), float64
    scores : ndarray (m, 3), float64
        Accuracies as fractions, and the ends of their intervals.
    converged : ndarray (m,), bool
        The others have hollow points.
    chosen : int
        Place of the chosen value.
    setting : str
    width : float
        Inches.
    """
    figure, axes = _page(width, setting, "validation accuracy (%)")
    colour = COLOURS["validation"]
    low, middle, high = 100 * scores[:, 1], 100 * scores[:, 0], 100 * scores[:, 2]
    axes.fill_between(values, low, high, color=colour, alpha=0.18, linewidth=0)
    axes.axvline(values[chosen], color=QUIET, linewidth=1, linestyle=(0, (3, 2)))
    axes.plot(values, middle, color=colour, linewidth=1.4)
    axes.plot(values[converged], middle[converged], "o", color=colour, markersize=4)
    loose: dict[str, Any] = {"markersize": 4.5, "markeredgewidth": 1.2, "markerfacecolor": "white"}
    axes.plot(values[~converged], middle[~converged], "o", color=colour, **loose)
    ring: dict[str, Any] = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.6, "color": INK}
    axes.plot(values[chosen], middle[chosen], "o", **ring)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    if len(values) <= 5:
        axes.set_xticks(values)
    else:
        axes.xaxis.set_major_locator(LogLocator(100, numticks=8))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: number(value)))
    return figure


def curves_of_shots(shots: Sequence[int], scores: Mapping[str, np.ndarray], width: float) -> Figure:
    """Draw the test accuracy by the training rows of each class, with standard deviations, a line for each name.

    Parameters
    ----------
    shots : sequence of m int
    scores : mapping of str to ndarray (m, 2), float64
        Means and standard deviations as fractions; a deviation may be NaN.
    width : float
        Inches.
    """
    figure, axes = _page(
        width, "training rows of each class", "test top-1 (%)", head=0.25 + 0.2 * ((len(scores) + 1) // 2)
    )
    for found, (colour, marker) in zip(scores.values(), _STYLES * len(scores), strict=False):
        means, deviations = 100 * found[:, 0], np.nan_to_num(100 * found[:, 1])
        bars: dict[str, Any] = {"color": colour, "marker": marker, "markersize": 4.5, "linewidth": 1.4, "capsize": 3}
        axes.errorbar(shots, means, yerr=deviations, label="named below", **bars)
    axes.set_xscale("log")
    axes.xaxis.set_minor_locator(NullLocator())
    axes.set_xticks(shots, [f"{count:,}" for count in shots])
    legend: dict[str, Any] = {"frameon": False, "ncols": 2, "fontsize": LABEL, "labelcolor": INK}
    made = axes.legend(loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, handlelength=1.6, **legend)
    for text, name in zip(made.get_texts(), scores, strict=True):
        text.set(text=fitted(name, (width - LEFT) / 2 - 0.6, LABEL, lines=1), parse_math=False)
    return figure


def _page(width: float, x: str, y: str, head: float = 0.1) -> tuple[Figure, Axes]:
    figure, top = new_page("", head + TALL + FOOT, width)
    axes = place_axes(figure, LEFT, top + head, width - LEFT - 2 * MARGIN, TALL)
    axes.set_xlabel(x, size=LABEL, color=INK)
    axes.set_ylabel(y, size=LABEL, color=INK)
    plain_axes(axes)
    return figure, axes
