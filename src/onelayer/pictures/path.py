"""Curves of a path: accuracy and loss of the optimum by lambda."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, LogLocator, NullLocator

from onelayer.pictures.colours import COLOURS
from onelayer.pictures.page import (
    INK,
    LABEL,
    LINE,
    MARGIN,
    QUIET,
    SMALL,
    WIDTH,
    fitted,
    new_page,
    place_axes,
    plain_axes,
)

LEFT, TALL, BETWEEN = 0.8, 2.5, 0.2  # inches: left of the axes, their height, and between them
UNITS = {"accuracy": ("accuracy (%)", 100), "loss": ("loss (nats)", 1)}


def curves_of_path(columns: Mapping[str, np.ndarray], chosen: int, title: str, notes: Sequence[str]) -> Figure:
    """Draw accuracy and loss by lambda, one above the other, and mark the chosen lambda.

    Parameters
    ----------
    columns : mapping of str to ndarray (m,)
        `l2`, and loss and accuracy of train and validation by the names of ``path.csv``, validation with `_low` and
        `_high`.
    chosen : int
        Place of the chosen lambda.
    title : str
    notes : sequence of str
        Sentences below the axes.
    """
    foot = fitted("\n".join(notes), WIDTH - 2 * MARGIN, SMALL, lines=3)
    below = 0.55 + (foot.count("\n") + 1) * SMALL * LINE
    figure, top = new_page(title, 0.3 + 2 * TALL + BETWEEN + below)
    first: Axes | None = None
    for place, what in enumerate(UNITS):
        y = top + 0.25 + place * (TALL + BETWEEN)
        axes = place_axes(figure, LEFT, y, WIDTH - LEFT - 2 * MARGIN, TALL)
        _draw(axes, columns, what, chosen)
        axes.tick_params(labelbottom=place == 1)
        first = first or axes
    axes.set_xlabel("lambda (l2)", size=LABEL, color=INK)
    if first is not None:
        _legend(first, ("",))
    style: dict[str, Any] = {"size": SMALL, "color": QUIET, "va": "bottom", "parse_math": False}
    figure.text(MARGIN / WIDTH, MARGIN / 2 / figure.get_figheight(), foot, **style)
    return figure


def chart_of_path(columns: Mapping[str, np.ndarray], chosen: int, what: str, width: float) -> Figure:
    """Draw the accuracy or the loss by lambda alone, without a title and notes; `width` is in inches."""
    tall = 0.6 * width
    figure, top = new_page("", 0.35 + tall + 0.55, width)
    axes = place_axes(figure, LEFT, top + 0.35, width - LEFT - 2 * MARGIN, tall)
    _draw(axes, columns, what, chosen)
    axes.set_xlabel("lambda (l2)", size=LABEL, color=INK)
    _legend(axes, ("train", "validation"))
    return figure


def _legend(axes: Axes, names: tuple[str, ...]) -> None:
    """Name the lines whose labels begin with one of these names, above the axes."""
    style: dict[str, Any] = {"frameon": False, "ncols": 4, "fontsize": LABEL, "labelcolor": INK}
    handles = [handle for handle in axes.get_legend_handles_labels()[0] if str(handle.get_label()).startswith(names)]
    axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), borderaxespad=0.2, handlelength=1.6, **style)


def _draw(axes: Axes, columns: Mapping[str, np.ndarray], what: str, chosen: int) -> None:
    unit, factor = UNITS[what]
    x = columns["l2"]
    low, high = (factor * columns[f"validation_{what}_{end}"] for end in ("low", "high"))
    axes.fill_between(
        x, low, high, color=COLOURS["validation"], alpha=0.18, linewidth=0, label="95 % interval of validation"
    )
    axes.axvline(x[chosen], color=QUIET, linewidth=1, linestyle=(0, (3, 2)))
    for name, colour in COLOURS.items():
        y = factor * columns[f"{name}_{what}"]
        axes.plot(x, y, color=colour, linewidth=1.8, marker="o", markersize=4, label=name)
    y = factor * columns[f"validation_{what}"]
    ring: dict[str, Any] = {"markersize": 11, "markerfacecolor": "none", "markeredgewidth": 1.6, "color": INK}
    axes.plot(x[chosen], y[chosen], "o", **ring, linestyle="none", label=f"chosen: lambda {x[chosen]:g}", zorder=4)
    axes.set_xscale("log")
    axes.xaxis.set_major_locator(LogLocator(10, numticks=12))
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
    axes.set_ylabel(unit, size=LABEL, color=INK)
    plain_axes(axes)
