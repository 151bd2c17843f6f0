"""Curves of a training: loss and cost by epoch."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.ticker import MaxNLocator

from onelayer.pictures.colours import COLOURS
from onelayer.pictures.page import INK, LABEL, MARGIN, QUIET, WIDTH, new_page, place_axes, plain_axes, text_length

if TYPE_CHECKING:
    from onelayer.training.history import EpochRecord


def loss_curve(
    history: "Sequence[EpochRecord]",
    title: str,
    width: float = WIDTH,
    others: "Sequence[Sequence[EpochRecord]]" = (),
) -> Figure:
    """Draw the mean loss of the training and validation rows by epoch; `others` are other seeds, drawn faintly."""
    return _curve(history, title, width, others, "loss", "loss (nats)")


def cost_curve(
    history: "Sequence[EpochRecord]",
    title: str,
    width: float = WIDTH,
    others: "Sequence[Sequence[EpochRecord]]" = (),
) -> Figure:
    """Draw the cost, the loss plus the penalty, by epoch; `others` are other seeds, drawn faintly."""
    return _curve(history, title, width, others, "cost", "cost = loss + l2 penalty (nats)")


def _curve(
    history: "Sequence[EpochRecord]",
    title: str,
    width: float,
    others: "Sequence[Sequence[EpochRecord]]",
    what: str,
    unit: str,
) -> Figure:
    """Draw a score of the training and validation rows by epoch, and mark the lowest one on validation."""
    epochs = [record.epoch for record in history]
    curves = {name: [getattr(record, f"{name}_{what}") for record in history] for name in COLOURS}
    ends = {name: f"{name} {curve[-1]:#.4g}" for name, curve in curves.items() if curve}
    right = max((text_length(end, FontProperties(size=LABEL)) for end in ends.values()), default=0) + 0.15
    tall = min(3.3, 0.6 * width)
    figure, top = new_page(title, tall + 0.8, width)
    axes = place_axes(figure, 0.85, top + 0.25, width - 0.85 - right - MARGIN, tall)
    for name, curve in curves.items():
        marker = "o" if len(epochs) <= 20 else ""
        for other in others:
            values = [getattr(record, f"{name}_{what}") for record in other]
            axes.plot([record.epoch for record in other], values, color=COLOURS[name], linewidth=0.8, alpha=0.35)
        axes.plot(epochs, curve, color=COLOURS[name], linewidth=1.8, marker=marker, markersize=4)
    if epochs:
        # The names stand at the ends of the lines, at least 13 points apart; the axes are `height` points high.
        height = 72 * tall / 1.1
        low, high = axes.dataLim.intervaly
        between = height / ((high - low) or 1)
        (least, below), (most, above) = sorted((curve[-1], name) for name, curve in curves.items())
        apart = max(0, 13 - between * (most - least)) / 2
        for value, name, shift in ((least, below, -apart), (most, above, apart)):
            end: dict[str, Any] = {"xytext": (9, shift), "textcoords": "offset points", "va": "center"}
            axes.annotate(ends[name], (epochs[-1], value), **end, color=COLOURS[name], size=LABEL)
        place = int(np.argmin(curves["validation"]))
        best = curves["validation"][place]
        ring: dict[str, Any] = {"markersize": 9, "markerfacecolor": "none", "color": QUIET, "linestyle": "none"}
        text = f"lowest on validation: {best:#.4g}, epoch {epochs[place]}"
        axes.plot(epochs[place], best, "o", **ring, label=text)
        axes.legend(
            loc="lower right", bbox_to_anchor=(1, 1), frameon=False, handlelength=0.8, fontsize=LABEL, labelcolor=QUIET
        )
    axes.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.set_xlabel("epoch", size=LABEL, color=INK)
    axes.set_ylabel(unit, size=LABEL, color=INK)
    plain_axes(axes)
    return figure
