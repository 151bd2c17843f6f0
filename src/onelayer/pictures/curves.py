"""Curves of a training: loss, cost and accuracy by epoch, or by iteration of the converged solver."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, MaxNLocator, NullLocator

from onelayer.pictures.colours import COLOURS
from onelayer.pictures.page import (
    INK,
    LABEL,
    LINE,
    MARGIN,
    QUIET,
    WIDTH,
    fitted,
    new_page,
    place_axes,
    plain_axes,
    text_length,
)
from onelayer.training.history import noun_of

Columns = Mapping[str, np.ndarray]  # a history: the columns of `history.csv` by name, each (epochs,)
UNITS = {"loss": "loss (nats)", "cost": "cost = loss + l2 penalty (nats)", "accuracy": "accuracy (%)"}
COST_IS_LOSS = "l2 is 0: the cost equals the loss"
PENALISED = (0, (3, 1.6))  # dashes of the cost beside the loss


def curve(
    history: Columns,
    what: str,
    title: str,
    width: float = WIDTH,
    others: Sequence[Columns] = (),
    kept_epoch: int | None = None,
    restarts: bool = False,
) -> Figure:
    """Draw the loss, the cost or the accuracy of the training and validation rows by epoch.

    Parameters
    ----------
    history : mapping of str to ndarray (epochs,)
        A split without a finite value has no line.
    what : str
        ``loss``, ``cost`` or ``accuracy``.
    title : str
    width : float
        Inches.
    others : sequence of mappings
        Histories of other seeds, drawn faintly.
    kept_epoch : int, optional
        The epoch whose layer is the model, which is circled.
    restarts : bool
        Whether training went on from the best epoch where the learning rate fell, which makes the curves jump. These
        places are marked.
    """
    ends = {name: f"{name} {_number(values[-1], what)}" for name, values in _lines(history, what).items()}
    right = max((text_length(end, LABEL) for end in ends.values()), default=0) + 0.15
    tall, head = min(3.3, 0.6 * width), 0.25 + LABEL * LINE * bool(restarts and len(_falls(history)))
    figure, top = new_page(title, head + tall + 0.55, width)
    axes = place_axes(figure, 0.85, top + head, width - 0.85 - right - MARGIN, tall)
    draw_curves(axes, history, what, others, kept_epoch, restarts)
    if ends:
        _name_ends(axes, history, what, ends, 72 * tall / 1.1)
    handles = [line for line in axes.lines if str(line.get_label()).startswith(_EXPLAINED)]
    if handles:
        axes.legend(handles=handles, loc="lower left", bbox_to_anchor=(0, 1), **_LEGEND)
    return figure


_EXPLAINED = ("the model", "rate /")  # labels of the marks that a legend explains
_LEGEND: dict[str, Any] = {
    "frameon": False,
    "handlelength": 0.8,
    "fontsize": LABEL,
    "labelcolor": QUIET,
    "borderpad": 0.2,
}


def draw_curves(
    axes: Axes,
    history: Columns,
    what: str,
    others: Sequence[Columns] = (),
    kept_epoch: int | None = None,
    restarts: bool = False,
) -> None:
    """Draw the lines of `curve` with labels for a legend into axes."""
    epochs = history["epoch"]
    marker = "o" if len(epochs) <= 20 else ""
    lines = _lines(history, what)
    for name, values in lines.items():
        for other in others:
            faint = _lines(other, what).get(name, ())
            axes.plot(other["epoch"][: len(faint)], faint, color=COLOURS[name], linewidth=0.8, alpha=0.35)
        line: dict[str, Any] = {"linewidth": 1.8, "marker": marker, "markersize": 4, "label": name}
        axes.plot(epochs, values, color=COLOURS[name], **line)
    for number, place in enumerate(_falls(history) if restarts else ()):
        factor = history["learning_rate"][place - 1] / history["learning_rate"][place]
        label = "_" if number else f"rate / {factor:.3g}, from the best epoch"
        axes.axvline(epochs[place] - 0.5, color=QUIET, linewidth=0.8, linestyle=(0, (2, 2)), label=label)
    if kept_epoch is not None and kept_epoch in epochs and lines:
        name = "validation" if "validation" in lines else "train"
        kept = lines[name][np.flatnonzero(epochs == kept_epoch)[0]]
        ring: dict[str, Any] = {"markersize": 9, "markerfacecolor": "none", "color": QUIET, "linestyle": "none"}
        text = f"the model: {noun_of(history)} {kept_epoch:,}, {name} {_number(kept, what)}"
        axes.plot(kept_epoch, kept, "o", **ring, label=text)
    _epoch_axis(axes, noun_of(history))
    unit = f"cost (nats); {COST_IS_LOSS}" if what == "cost" and cost_is_loss(history) else UNITS[what]
    axes.set_ylabel(unit, size=LABEL, color=INK)


def _falls(history: Columns) -> np.ndarray:
    """Return the places of the epochs that have a lower learning rate than the epoch before."""
    return 1 + np.flatnonzero(np.diff(history.get("learning_rate", np.zeros(0))) < 0)


def cost_is_loss(history: Columns) -> bool:
    """Return whether the cost is the loss in every epoch, because there is no penalty."""
    return all(np.array_equal(history[f"{name}_cost"], history[f"{name}_loss"], equal_nan=True) for name in COLOURS)


def cost_note(title: str) -> Figure:
    """Draw a note instead of a second picture of the loss, where the cost equals it."""
    figure, top = new_page(title, 0.5)
    note = f"{COST_IS_LOSS}. Its curve is that of loss.png."
    height = figure.get_figheight()
    figure.text(MARGIN / WIDTH, 1 - (top + 0.15) / height, note, size=LABEL, color=INK, va="top")
    return figure


def curves_of_settings(histories: Mapping[str, Columns], title: str) -> Figure:
    """Draw the loss by epoch of several settings on shared axes, two beside each other, and the cost where it differs.

    Parameters
    ----------
    histories : mapping of str to mapping
        The history of each setting; its name is written above its curves.
    title : str
    """
    columns, left, above, below, tall = min(len(histories), 2), 0.6, 0.5, 0.45, 2.1
    rows = -(-len(histories) // columns)
    wide = (WIDTH - left - 2 * MARGIN - (columns - 1) * 0.25) / columns
    figure, top = new_page(title, 0.3 + rows * (tall + above) + below)
    penalised = not all(map(cost_is_loss, histories.values()))
    first: Axes | None = None
    for place, (name, history) in enumerate(histories.items()):
        row, column = divmod(place, columns)
        x, y = left + column * (wide + 0.25), top + 0.3 + row * (tall + above) + above
        axes = place_axes(figure, x, y, wide, tall, share=first)
        first = first or axes
        draw_curves(axes, history, "loss")
        if not cost_is_loss(history):
            for split, values in _lines(history, "cost").items():
                axes.plot(history["epoch"], values, color=COLOURS[split], linewidth=1.2, linestyle=PENALISED)
        axes.tick_params(labelleft=column == 0, labelbottom=place + columns >= len(histories))
        axes.set_xlabel(noun_of(history) if place + columns >= len(histories) else "")
        axes.set_ylabel("nats" if column == 0 else "", size=LABEL, color=INK)
        ends = [f"{split} {_number(values[-1], 'loss')}" for split, values in _lines(history, "loss").items()]
        words = f"{fitted(name, wide, LABEL, lines=1)}\nlast loss: {', '.join(ends)}"
        style: dict[str, Any] = {"size": LABEL, "color": INK, "va": "bottom", "linespacing": 1.25, "parse_math": False}
        axes.text(0, 1 + 0.05 / tall, words, transform=axes.transAxes, **style)
    if first is not None:
        low, high = first.dataLim.intervaly
        if low > 0 and high > 3 * low:  # a step too long beside good ones: the good ones would be flat lines
            first.set_yscale("log")
            for axes in figure.axes:
                axes.yaxis.set_major_locator(MaxNLocator(6, steps=[1, 2, 5, 10]))
                axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f"{y:g}"))
                axes.yaxis.set_minor_locator(NullLocator())
    handles = [Line2D([], [], color=colour, linewidth=1.8, label=name) for name, colour in COLOURS.items()]
    if penalised:
        handles.append(Line2D([], [], color=QUIET, label="loss"))
        handles.append(Line2D([], [], color=QUIET, linestyle=PENALISED, label="cost = loss + l2 penalty"))
    corner = (left / WIDTH, 1 - (top + 0.35) / figure.get_figheight())
    legend = {"ncols": len(handles), "borderaxespad": 0, "borderpad": 0, "handlelength": 2.2}
    figure.legend(handles=handles, loc="lower left", bbox_to_anchor=corner, **_LEGEND | legend)
    return figure


def _lines(history: Columns, what: str) -> dict[str, np.ndarray]:
    """Return the values of each split by its name, those of accuracy in percent."""
    factor = 100 if what == "accuracy" else 1
    columns = {name: factor * history[f"{name}_{what}"] for name in COLOURS if f"{name}_{what}" in history}
    return {name: values for name, values in columns.items() if np.isfinite(values).any()}


def _number(value: float, what: str) -> str:
    return f"{value:.2f} %" if what == "accuracy" else f"{value:#.4g}"


def _epoch_axis(axes: Axes, noun: str) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True, min_n_ticks=1, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.set_xlabel(noun, size=LABEL, color=INK)
    plain_axes(axes)


def _name_ends(axes: Axes, history: Columns, what: str, ends: dict[str, str], height: float) -> None:
    """Write the names at the ends of the lines, at least 13 points apart; the axes are `height` points high."""
    low, high = axes.dataLim.intervaly
    between = height / ((high - low) or 1)
    order = sorted((float(values[-1]), name) for name, values in _lines(history, what).items())
    apart = max(0, 13 - between * (order[-1][0] - order[0][0])) / 2
    for (value, name), shift in zip(order, (-apart, apart), strict=False):
        end: dict[str, Any] = {"xytext": (9, shift), "textcoords": "offset points", "va": "center"}
        axes.annotate(ends[name], (history["epoch"][-1], value), **end, color=COLOURS[name], size=LABEL)
