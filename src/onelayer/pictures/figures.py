"""Pictures of what a run learned: plain numbers in, a matplotlib Figure out. Nothing here saves, shows or trains.

Figures are made without pyplot and with every style passed by hand: they need no display, may be drawn in any thread,
and leave no global state behind. Titles and names are plain text, of any length: long ones are broken into lines.
"""

import math
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib import colormaps
from matplotlib.collections import PatchCollection
from matplotlib.figure import Figure
from matplotlib.font_manager import FontProperties
from matplotlib.patches import Rectangle
from matplotlib.ticker import MaxNLocator

from onelayer.analysis.evaluation import Evaluation, Reliability
from onelayer.analysis.explanation import Explanation
from onelayer.data.dataset import Split
from onelayer.model import Model
from onelayer.pictures.page import (
    GAP,
    INK,
    LABEL,
    LINE,
    MARGIN,
    QUIET,
    RULE,
    SMALL,
    TINY,
    WIDTH,
    fitted,
    legible,
    mosaic,
    new_page,
    outlines,
    place_axes,
    text_length,
)
from onelayer.words import row_count

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.image import AxesImage

    from onelayer.training.state import EpochRecord

COLOURS = {"train": "#0072b2", "validation": "#d55e00"}  # Okabe and Ito's blue and vermilion, for every kind of eye
SIGNED = colormaps["PuOr_r"].with_extremes(bad="#bbbbbb")  # no red, green or blue: those are channels
MOST_TEMPLATES, MOST_CHARTED, MOST_NUMBERED, MOST_NAMED = 100, 24, 20, 60  # classes
STRONGEST = 10  # features of a class


def figures_of_run(
    history: "Sequence[EpochRecord]", model: Model, test: Split | None, evaluation: Evaluation | None, title: str
) -> Iterator[tuple[str, Figure]]:
    """All pictures of a run that there is something to draw for, one at a time: curves, templates or weights, mistakes.

    Parameters
    ----------
    history : sequence of EpochRecord
    model : Model
    test : Split or None
        Where the confusion and the mistakes are from; without it there are none.
    evaluation : Evaluation or None
        Of `model` on `test`.
    title : str
        Data set and settings.

    Yields
    ------
    name : str
        A file name without its suffix.
    figure : Figure
    """
    weights = model.layer.weights
    # Names that the font cannot show would look alike.
    names = [name if legible(name) == name else f"{k}: {name}" for k, name in enumerate(model.class_names)]
    if history:
        yield "loss", loss_curve(history, f"Loss. {title}")
        yield "cost", cost_curve(history, f"Cost. {title}")
    if model.image_shape is not None:
        yield "templates", templates(weights, names, model.image_shape, f"Templates, each in its own range. {title}")
        signed = f"Templates on one scale. {title}"
        yield "templates_signed", signed_templates(weights, model.standardizer.scale, names, model.image_shape, signed)
    else:
        yield "weights", strongest_weights(weights, model.standardizer.scale, names, f"Strongest weights. {title}")
    if test is None or evaluation is None:
        return
    yield "confusion", confusion(evaluation.confusion, names, f"Confusion on the test rows. {title}")
    if model.image_shape is not None:
        worst = evaluation.worst_mistakes(12)
        images = test.rows(worst).reshape(-1, *model.image_shape)
        truths, guesses = evaluation.labels[worst], evaluation.predictions[worst]
        guessed = evaluation.probabilities[worst, guesses]
        shown = [names[k] for k in truths], [names[k] for k in guesses]
        yield "mistakes", mistakes(images, shown[0], shown[1], guessed, f"The most confident mistakes. {title}")


def loss_curve(
    history: "Sequence[EpochRecord]",
    title: str,
    width: float = WIDTH,
    others: "Sequence[Sequence[EpochRecord]]" = (),
) -> Figure:
    """Mean loss of the training and validation rows, without the penalty, by epoch; that of other seeds faintly."""
    return _curve(history, title, width, others, "loss", "loss (nats)")


def cost_curve(
    history: "Sequence[EpochRecord]",
    title: str,
    width: float = WIDTH,
    others: "Sequence[Sequence[EpochRecord]]" = (),
) -> Figure:
    """Cost of the training and validation rows, the loss plus the penalty, by epoch; that of other seeds faintly."""
    return _curve(history, title, width, others, "cost", "cost = loss + l2 penalty (nats)")


def templates(weights: np.ndarray, class_names: Sequence[str], image_shape: tuple[int, int, int], title: str) -> Figure:
    """Each class's weights as a picture, stretched to its own range: black is its least weight, white its largest.

    The stretch shows shapes and hides size and sign; `signed_templates` shows those.

    Parameters
    ----------
    weights : ndarray (d, K)
        Column k is drawn for class k; of more than 100 classes, the first 100.
    class_names : sequence of K str
    image_shape : (c, h, w)
        Three channels are drawn in colour; of any other number the mean, in grey.
    title : str
    """
    K = weights.shape[1]
    rows = np.asarray(weights, np.float64).T[:MOST_TEMPLATES]
    stacks = [[stretched(picture(row.reshape(image_shape)))] for row in rows]
    return mosaic(stacks, class_names, _capped(title, K), _columns(K), cmap="gray", vmin=0, vmax=1)[0]


def signed_templates(
    weights: np.ndarray, scale: np.ndarray, class_names: Sequence[str], image_shape: tuple[int, int, int], title: str
) -> Figure:
    """What one grey level more of each pixel adds to each class's logit, on one signed scale for all classes.

    That is W / s, a picture per class and channel. A few large weights do not set the scale: it ends at 3.5 times
    the median of |W / s|, and a note says how many lie beyond. Pixels that were constant in training, whose
    weights no row ever touched, are grey.

    Parameters
    ----------
    weights : ndarray (d, K)
        Column k is drawn for class k; of more than 100 classes, the first 100.
    scale : ndarray (d,)
        The standard deviations s that the rows were divided by.
    class_names : sequence of K str
    image_shape : (c, h, w)
    title : str
    """
    K, c = weights.shape[1], image_shape[0]
    V, limit, beyond = signed_scale(weights[:, :MOST_TEMPLATES], scale)
    figure, axes, images = mosaic(
        V.T.reshape(-1, *image_shape),
        class_names,
        _capped(title, K),
        columns=_columns(K) if c == 1 else min(K, 10 if K <= 30 else 20),
        width=WIDTH if c == 1 or K <= 30 else 1.5 * WIDTH,
        left=0.2 if c > 1 else 0,
        below=0.65,
        cmap=SIGNED,
        vmin=-limit,
        vmax=limit,
    )
    for place, image in enumerate(images if c > 1 else ()):
        x, _, bottom, top = image.get_extent()
        if x == images[0].get_extent()[0]:
            name = "RGB"[place % c] if c == 3 else f"{place % c + 1}"
            axes.text(x - GAP, (top + bottom) / 2, name, size=LABEL, color=INK, ha="right", va="center")
    notes = [f"{beyond:.2g} % of the weights lie beyond the scale"] if beyond else []
    notes += ["grey pixels: constant in training"] if np.isnan(V).any() else []
    unit = "logit per grey level: below 0 against the class, above 0 for it"
    _signed_bar(figure, images[0], unit, notes, extend="both" if beyond else "neither")
    return figure


def signed_scale(weights: np.ndarray, scale: np.ndarray) -> tuple[np.ndarray, float, float]:
    """W / s (d, K) with NaN for constant pixels, the number where its colours end, and the percentage beyond that."""
    V = np.asarray(weights, np.float64) / scale[:, np.newaxis]  # (d, K)
    constant = _constant(scale)
    sizes = np.abs(V[~constant])
    V[constant] = np.nan
    # Of normal weights, 3.5 times the median leaves out 2 in 100. With a high percentile instead, the pixels that
    # hardly ever vary, and so have a tiny s, would set the scale of small images.
    limit = min(3.5 * np.median(sizes), sizes.max()) or sizes.max() or 1.0
    limit = float(f"{limit:.2g}")  # so that the numbers at the colour bar are exact
    return V, limit, 100 * float((sizes > limit).mean())


def explanation(image: np.ndarray, explained: Explanation, class_names: Sequence[str], title: str) -> Figure:
    """An image, and for each of its likeliest classes what every pixel adds to the logit, all on one signed scale.

    The contributions of a pixel's channels are added. The scale ends where 99 of 100 pixels of all maps lie below;
    a note says how many lie beyond.

    Parameters
    ----------
    image : ndarray (c, h, w)
        As the model sees it; black is 0 and white 255.
    explained : Explanation
        Of t classes and c * h * w features; of more than 100 classes, the first 100 are drawn.
    class_names : sequence of t str
        Theirs.
    title : str
    """
    title = _capped(title, len(class_names))
    class_names = class_names[:MOST_TEMPLATES]
    t = len(class_names)
    maps = explained.contributions[:t].reshape(t, *image.shape).sum(axis=1)  # (t, h, w)
    sizes = np.abs(maps)
    limit = float(np.quantile(sizes, 0.99)) or float(sizes.max()) or 1.0
    limit = float(f"{limit:.2g}")
    beyond = 100 * float((sizes > limit).mean())
    shown = np.clip(picture(image) / 255, 0, 1)
    shown = shown if shown.ndim == 3 else np.repeat(shown[..., np.newaxis], 3, axis=2)  # grey, but of no colour map
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
    _signed_bar(figure, images[1], unit, notes, extend="both" if beyond else "neither")
    return figure


def strongest_weights(weights: np.ndarray, scale: np.ndarray, class_names: Sequence[str], title: str) -> Figure:
    """The features that weigh most for or against each class, as bars on one scale for all classes.

    A weight is what one standard deviation more of the feature adds to the class's logit. Features that were constant
    in training, whose weights no row ever touched, are left out.

    Parameters
    ----------
    weights : ndarray (d, K)
        Of more than 24 classes, the first 24 are drawn.
    scale : ndarray (d,)
        The standard deviations s that the rows were divided by.
    class_names : sequence of K str
    title : str
    """
    K = weights.shape[1]
    classes, limit = strongest(weights, scale)
    columns = min(K, 3)
    bars = max(len(features) for features, _ in classes)
    each = (WIDTH - 2 * MARGIN - (columns - 1) * 2 * GAP) / columns
    step = SMALL * LINE
    block = LABEL * LINE + max(bars, 1) * step + 2 * GAP
    figure, top = new_page(_capped(title, K, MOST_CHARTED), -(-len(classes) // columns) * block + 0.3)
    height = figure.get_figheight()
    axes = place_axes(figure, 0, 0, WIDTH, height)  # whose unit is the inch
    axes.set_axis_off()
    axes.set(xlim=(0, WIDTH), ylim=(height, 0))
    small = FontProperties(size=SMALL)
    words = [f"feature {j}" for features, _ in classes for j in features]
    left = max((text_length(word, small) for word in words), default=0) + GAP
    right = max((text_length(signed_number(v, limit), small) for _, values in classes for v in values), default=0) + GAP
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
    meaning = "what one standard deviation more of a feature adds to the class's logit; one scale for all"
    axes.text(MARGIN, height - 0.2, meaning, **style, color=QUIET)
    return figure


def strongest(weights: np.ndarray, scale: np.ndarray) -> tuple[list[tuple[np.ndarray, np.ndarray]], float]:
    """Features and weights of the first classes, the largest |weight| first, and the largest of all, or 1."""
    varying = np.flatnonzero(~_constant(scale))
    classes = []
    for column in weights.T[:MOST_CHARTED]:
        of_class = np.asarray(column, np.float64)[varying]
        order = np.argsort(-np.abs(of_class), kind="stable")[:STRONGEST]
        classes.append((varying[order], of_class[order]))
    return classes, max((abs(float(values[0])) for _, values in classes if len(values)), default=0) or 1.0


def signed_number(value: float, limit: float) -> str:
    """A number with its sign, and as many decimals as give the largest of its kind, `limit`, three digits."""
    if not 1e-4 <= limit < 1e5:
        return f"{value:+.1e}"
    return f"{value:+.{max(0, 2 - math.floor(math.log10(limit)))}f}"


def confusion(counts: np.ndarray, class_names: Sequence[str], title: str) -> Figure:
    """How the rows of each true class were classified, in percent of that class.

    Parameters
    ----------
    counts : ndarray (K, K)
        Cell (i, j): rows of true class i that were taken for class j. One without any is empty, one with few says 0;
        a class without rows is grey. Of more than 20 classes the colours are shown without numbers.
    class_names : sequence of K str
    title : str
    """
    K = len(counts)
    totals = counts.sum(axis=1, keepdims=True)  # (K, 1)
    shares = np.divide(counts, totals, out=np.full((K, K), np.nan), where=totals > 0)
    size = LABEL if K <= 12 else SMALL if K <= 30 else TINY
    font = FontProperties(size=size)
    named = range(0, K, -(-K // MOST_NAMED))  # more names than that would run into each other
    names = [fitted(class_names[k], 1.5, size, lines=1) for k in named]
    counted = [f"{name} ({row_count(totals[k, 0])})" for name, k in zip(names, named, strict=True)]
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
    """Images that were classified wrongly, four in a row, with the answer, its probability, and the truth.

    Parameters
    ----------
    images : ndarray (m, c, h, w)
        Black is 0 and white 255. As in `templates`, three channels give colour.
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


def reliability(found: Reliability, title: str, width: float = WIDTH) -> Figure:
    """How often answers are right, against how probable they were said to be, and how many there are of each kind."""
    figure, top = new_page(title, 4.15, width)
    left, wide = 0.62, width - 0.62 - 2 * MARGIN
    axes = place_axes(figure, left, top + 0.05, wide, 2.55)
    below = place_axes(figure, left, top + 2.75, wide, 0.85)
    starts, wides = found.edges[:-1], np.diff(found.edges)
    bars: dict[str, Any] = {"align": "edge", "color": COLOURS["train"], "linewidth": 0}
    axes.bar(starts + 0.05 * wides, np.nan_to_num(found.accuracy), 0.9 * wides, **bars)
    axes.plot([0, 1], [0, 1], color=QUIET, linewidth=1, linestyle=(0, (4, 3)))
    axes.plot(found.confidence, found.accuracy, "o", color=COLOURS["validation"], markersize=4, linestyle="none")
    axes.text(0.03, 0.95, "dashed: as often right as claimed", size=SMALL, color=QUIET, va="top")
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
    _plain_axes(axes)
    _plain_axes(below)
    return figure


def probability_histogram(evaluation: Evaluation, title: str, width: float = WIDTH, bins: int = 25) -> Figure:
    """How many rows give their true class which probability; those that are answered rightly apart from the others."""
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
    axes.set_xlabel("probability of the true class (%)", size=LABEL, color=INK)
    axes.set_ylabel("rows", size=LABEL, color=INK)
    _plain_axes(axes)
    return figure


def _curve(
    history: "Sequence[EpochRecord]",
    title: str,
    width: float,
    others: "Sequence[Sequence[EpochRecord]]",
    what: str,
    unit: str,
) -> Figure:
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
        # The names stand at the ends of the lines, but 13 points apart; the picture is so high between its margins.
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
    _plain_axes(axes)
    return figure


def _signed_bar(figure: Figure, image: "AxesImage", unit: str, notes: list[str], extend: str) -> None:
    """What the colours of signed pictures mean, at the foot of the page."""
    height = figure.get_figheight()
    bar = place_axes(figure, 0.2, height - 0.6, 4.4, 0.11)
    figure.colorbar(image, cax=bar, orientation="horizontal", extend=extend)
    limit = image.get_clim()[1]
    ticks = np.linspace(-limit, limit, 5)
    bar.set_xticks(ticks, [f"{tick:+.3g}" if tick else "0" for tick in ticks], size=SMALL, color=INK)
    bar.set_xlabel(unit, size=SMALL, color=INK)
    bar.tick_params(length=2, color=QUIET)
    figure.text(5.0 / figure.get_figwidth(), 0.6 / height, "\n".join(notes), size=SMALL, color=QUIET, va="top")


def _plain_axes(axes: "Axes") -> None:
    axes.tick_params(labelsize=LABEL, color=RULE, labelcolor=INK)
    axes.grid(axis="y", color=RULE, linewidth=0.6)
    axes.set_axisbelow(True)
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.spines["bottom"].set_color(QUIET)


def _capped(title: str, K: int, most: int = MOST_TEMPLATES) -> str:
    return title if most >= K else f"{title} (the first {most} of {K} classes)"


def _columns(K: int) -> int:
    return K if K < 5 else 5 if K <= 10 else 6 if K <= 24 else 10


def picture(image: np.ndarray) -> np.ndarray:
    """Channels first (c, h, w) to what matplotlib draws: (h, w, 3), or of other than three channels the mean (h, w)."""
    return image.transpose(1, 2, 0) if len(image) == 3 else image.mean(axis=0)


def stretched(image: np.ndarray) -> np.ndarray:
    """To its own range: the least number becomes 0, the largest 1."""
    low, high = image.min(), image.max()
    return (image - low) / (high - low) if high > low else np.full_like(image, 0.5)


def _constant(scale: np.ndarray) -> np.ndarray:
    """Which features (d,) were constant in training: their s is 1, while that of the others is not even near it."""
    ones: np.ndarray = scale == 1
    if ones.all() or abs(np.median(scale[~ones]) - 1) < 0.01:  # features that came standardised
        return np.zeros_like(ones)
    return ones
