"""The scores of a sweep's settings: a curve of one option, a heat map of two, points where they were drawn."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib import colormaps
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from onelayer.pictures.page import INK, LABEL, MARGIN, QUIET, RULE, SMALL, WIDTH, new_page, place_axes, plain_axes

SHADES = colormaps["Blues"]  # the better, the darker
HEAD = 0.35  # inches above the axes: the legend
FOOT = 0.85  # inches below the axes: labels and a note
MOST_TEXTS = 120  # cells that have their number in them
WORN = "#d55e00"  # of the chosen setting


def score_curve(
    labels: Sequence[str], scores: np.ndarray, option: str, unit: str, title: str, note: str, chosen: int, *, words: int
) -> Figure:
    """Draw the score of each value of an option, side by side, with intervals, and mark the chosen one.

    Parameters
    ----------
    labels : sequence of m str
        The values: the numbers in ascending order, then the words.
    scores : ndarray (m, 3), float64
        Mean and the ends of its interval; NaN where there is none.
    option, unit, title, note : str
        Words at the axes, above and below.
    chosen : int
        Place of the chosen value.
    words : int
        Number of values at the end that are words; no line leads to them.
    """
    figure, top = new_page(title, HEAD + 3.0 + FOOT, WIDTH)
    axes = place_axes(figure, 0.9, top + HEAD, WIDTH - 0.9 - 2 * MARGIN, 3.0)
    places, means = np.arange(len(labels)), scores[:, 0]
    numbers = len(labels) - words
    axes.plot(places[:numbers], means[:numbers], color=QUIET, linewidth=1)
    reach = np.nan_to_num(np.abs(scores[:, 1:] - means[:, None])).T  # (2, m)
    bars: dict[str, Any] = {"fmt": "o", "color": SHADES(0.85), "markersize": 5, "capsize": 3, "linewidth": 1.5}
    axes.errorbar(places, means, yerr=reach, **bars)
    _ring(axes, chosen, means[chosen])
    axes.set_xticks(places, labels, rotation=0 if len(labels) <= 12 else 90)
    axes.set_xlim(-0.5, len(labels) - 0.5)
    axes.margins(y=0.12)
    axes.ticklabel_format(axis="y", useOffset=False, style="plain")
    _name(figure, axes, option, unit, note)
    plain_axes(axes)
    return figure


def score_map(
    columns: Sequence[str],
    rows: Sequence[str],
    scores: np.ndarray,
    options: tuple[str, str],
    title: str,
    note: str,
    chosen: tuple[int, int],
    *,
    lower_is_better: bool,
) -> Figure:
    """Draw the score of each pair of values of two options as a shade and a number with its interval.

    Parameters
    ----------
    columns, rows : sequences of c and r str
        The values of the first and of the second option.
    scores : ndarray (r, c, 3), float64
        Mean and the ends of its interval; NaN where there is none.
    options : (str, str)
        Names of the two options.
    title, note : str
        Words above and below.
    chosen : (int, int)
        Row and column of the chosen pair.
    lower_is_better : bool
    """
    tall = min(max(0.55 * len(rows), 1.2), 8.0)
    figure, top = new_page(title, tall + FOOT + 0.2, WIDTH)
    wide = min(1.6 * len(columns), WIDTH - 2.2)
    axes = place_axes(figure, 1.1, top + 0.1, wide, tall)
    means = scores[..., 0]
    limits = {"vmin": np.nanmin(means), "vmax": np.nanmax(means)}
    shades = SHADES.reversed() if lower_is_better else SHADES
    image = axes.imshow(np.ma.masked_invalid(means), cmap=shades, aspect="auto", origin="lower", **limits)
    if means.size <= MOST_TEXTS:
        _write_cells(axes, scores, np.asarray(image.to_rgba(means))[..., :3].mean(axis=-1))
    row, column = chosen
    axes.add_patch(_frame(column, row))
    axes.set_xticks(range(len(columns)), columns, rotation=0 if len(columns) <= 12 else 90)
    axes.set_yticks(range(len(rows)), rows)
    axes.set_ylabel(options[1], size=LABEL, color=INK)
    axes.tick_params(labelsize=LABEL, color=RULE, labelcolor=INK, length=0)
    axes.spines[:].set_visible(False)
    _name(figure, axes, options[0], None, note)
    _bar(figure, image, wide + 1.3, top + 0.1, tall)
    return figure


def score_points(
    x: np.ndarray,
    y: np.ndarray,
    scores: np.ndarray,
    options: tuple[str, str],
    title: str,
    note: str,
    chosen: int,
    *,
    lower_is_better: bool,
) -> Figure:
    """Draw the scores (m,) of settings whose options x (m,) and y (m,) were drawn, as shaded points."""
    figure, top = new_page(title, HEAD + 4.0 + FOOT, WIDTH)
    axes = place_axes(figure, 1.0, top + HEAD, WIDTH - 2.6, 4.0)
    shades = SHADES.reversed() if lower_is_better else SHADES
    points = axes.scatter(x, y, c=scores, cmap=shades, s=60, edgecolors=QUIET, linewidths=0.5, zorder=3)
    _ring(axes, x[chosen], y[chosen])
    for values, scale in ((x, axes.set_xscale), (y, axes.set_yscale)):
        if values.min() > 0:
            scale("log")
    axes.set_ylabel(options[1], size=LABEL, color=INK)
    axes.margins(y=0.12)
    _name(figure, axes, options[0], None, note)
    plain_axes(axes)
    _bar(figure, points, WIDTH - 1.4, top + HEAD, 4.0)
    return figure


def _write_cells(axes: Axes, scores: np.ndarray, light: np.ndarray) -> None:
    """Write the mean and half the width of the interval (r, c, 3) into each cell, in a colour that its shade shows."""
    digits = _digits(scores)
    for (row, column), mean in np.ndenumerate(scores[..., 0]):
        low, high = scores[row, column, 1:]
        around = "" if np.isnan(low) else f"\n± {(high - low) / 2:.{digits}f}"
        text, colour = ("none", QUIET) if np.isnan(mean) else (f"{mean:.{digits}f}{around}", INK)
        if not np.isnan(mean) and light[row, column] < 0.55:
            colour = "white"
        axes.text(column, row, text, size=SMALL, color=colour, ha="center", va="center", linespacing=1.1)


def _digits(scores: np.ndarray) -> int:
    """Return the number of decimals that show the means (..., 0), and the narrowest interval (..., 1:), if any."""
    means, widths = scores[..., 0], scores[..., 2] - scores[..., 1]
    sizes = [*widths[widths > 0], *[np.ptp(means[~np.isnan(means)]) / 10] * (not (widths > 0).any())]
    return int(np.clip(np.ceil(-np.log10(min(sizes) or 1)), 1, 4))


def _ring(axes: Axes, x: float, y: float) -> None:
    ring: dict[str, Any] = {"markersize": 14, "markerfacecolor": "none", "markeredgewidth": 1.5}
    axes.plot(x, y, "o", **ring, color=WORN, linestyle="none", label="chosen by validation", zorder=4)
    place: dict[str, Any] = {"loc": "lower left", "bbox_to_anchor": (0, 1), "borderaxespad": 0.2}
    axes.legend(**place, frameon=False, fontsize=LABEL, labelcolor=INK)


def _frame(column: int, row: int) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((column - 0.5, row - 0.5), 1, 1, fill=False, edgecolor=WORN, linewidth=2, clip_on=False, zorder=4)


def _name(figure: Figure, axes: Axes, option: str, unit: str | None, note: str) -> None:
    axes.set_xlabel(option, size=LABEL, color=INK)
    if unit:
        axes.set_ylabel(unit, size=LABEL, color=INK)
    style: dict[str, Any] = {"size": SMALL, "color": QUIET, "va": "bottom", "parse_math": False}
    figure.text(MARGIN / WIDTH, MARGIN / figure.get_figheight(), note, **style)


def _bar(figure: Figure, shaded: Any, left: float, top: float, tall: float) -> None:
    bar = place_axes(figure, left, top, 0.12, tall)
    figure.colorbar(shaded, cax=bar)
    bar.tick_params(labelsize=SMALL, length=2, color=QUIET, labelcolor=INK)
    bar.spines[:].set_visible(False)
