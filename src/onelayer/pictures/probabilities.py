"""Pictures of the probabilities: whether they can be trusted, and how probable the true classes are."""

from typing import Any

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator

from onelayer.analysis.evaluation import Evaluation, Reliability
from onelayer.pictures.colours import COLOURS
from onelayer.pictures.page import INK, LABEL, MARGIN, QUIET, SMALL, WIDTH, new_page, place_axes, plain_axes
from onelayer.words import row_count


def reliability(found: Reliability, title: str, width: float = WIDTH) -> Figure:
    """Draw the fraction of right answers against their probability, and the number of answers in each bin."""
    figure, top = new_page(title, 4.35, width)
    left, wide = 0.62, width - 0.62 - 2 * MARGIN
    axes = place_axes(figure, left, top + 0.25, wide, 2.55)
    below = place_axes(figure, left, top + 2.95, wide, 0.85)
    starts, wides = found.edges[:-1], np.diff(found.edges)
    bars: dict[str, Any] = {"align": "edge", "color": COLOURS["train"], "linewidth": 0}
    axes.bar(starts + 0.05 * wides, np.nan_to_num(found.accuracy), 0.9 * wides, **bars)
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(found.confidence, found.accuracy, "o", color=COLOURS["validation"], markersize=4, linestyle="none")
    legend: dict[str, Any] = {"transform": axes.transAxes, "size": SMALL, "color": QUIET, "va": "bottom"}
    axes.text(0, 1.02, "dashed: as often right as claimed", **legend)
    below.bar(starts + 0.05 * wides, 100 * found.counts / found.counts.sum(), 0.9 * wides, **bars)
    axes.set(ylim=(0, 1), xlim=(0, 1))
    below.set(xlim=(0, 1))
    tenths = [0, 0.2, 0.4, 0.6, 0.8, 1]
    axes.set_yticks(tenths, [f"{100 * y:.0f}" for y in tenths])
    axes.set_xticks(tenths, [])
    below.set_xticks(tenths, [f"{100 * x:.0f}" for x in tenths])
    below.yaxis.set_major_locator(MaxNLocator(2, integer=True))
    axes.set_ylabel("right (%)", size=LABEL, color=INK)
    below.set_ylabel("rows (%)", size=LABEL, color=INK)
    below.set_xlabel("probability of the predicted class (%)", size=LABEL, color=INK)
    plain_axes(axes)
    plain_axes(below)
    return figure


def probability_histogram(evaluation: Evaluation, title: str, width: float = WIDTH, bins: int = 25) -> Figure:
    """Draw the number of rows by the probability of their true class, right and wrong answers apart."""
    right, probabilities, w = evaluation.right, evaluation.true_class_probabilities, evaluation.weights
    figure, top = new_page(title, 3.4, width)
    axes = place_axes(figure, 0.75, top + 0.3, width - 0.75 - 2 * MARGIN, 2.5)
    edges = np.linspace(0, 1, bins + 1)
    floor = np.zeros(bins)
    for name, colour, chosen in (("right", "train", right), ("wrong", "validation", ~right)):
        counts = np.histogram(probabilities[chosen], edges, weights=None if w is None else w[chosen])[0]
        label = f"answered {name}ly: {row_count(counts.sum())}"
        bar: dict[str, Any] = {"align": "edge", "color": COLOURS[colour], "linewidth": 0}
        axes.bar(edges[:-1] + 0.05 / bins, counts, 0.9 / bins, bottom=floor, label=label, **bar)
        floor += counts
    axes.legend(
        **{"loc": "lower right", "bbox_to_anchor": (1, 1), "ncols": 2, "columnspacing": 1, "borderaxespad": 0.2},
        **{"frameon": False, "handlelength": 0.8, "fontsize": LABEL, "labelcolor": INK},
    )
    axes.set_xlim(0, 1)
    tenths = [0, 0.2, 0.4, 0.6, 0.8, 1]
    axes.set_xticks(tenths, [f"{100 * x:.0f}" for x in tenths])
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:,.0f}"))
    axes.set_xlabel("probability of the true class (%)", size=LABEL, color=INK)
    axes.set_ylabel("rows", size=LABEL, color=INK)
    plain_axes(axes)
    return figure
