"""Pictures and drawings of the page, each with words that describe it. `report.html.j2` places them."""

import base64
import html
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from onelayer.analysis.evaluation import Evaluation
from onelayer.data.dataset import Split, Splits
from onelayer.errors import ConfigError, RunError
from onelayer.model import Model
from onelayer.pictures.colours import COLOURS, SIGNED, picture, stretched
from onelayer.pictures.confusion import confusion as draw_confusion
from onelayer.pictures.confusion import confusion_shares
from onelayer.pictures.curves import curve
from onelayer.pictures.page import INK, MOST_TEMPLATES, QUIET, RULE
from onelayer.pictures.probabilities import probability_histogram, reliability
from onelayer.pictures.templates import signed_number, signed_scale, strongest
from onelayer.runs.directory import Run
from onelayer.training.history import EpochRecord, History, table_of
from onelayer.training.state import TrainingState, learnt
from onelayer.training.train import train
from onelayer.words import counted, percent

CHART_WIDTH = 4.3  # inches: with room for two side by side, and words that can be read on a phone
EPOCHS_SHOWN = (1, 2, 5, 10, 20, 40, 100, 200, 500, 1000)  # at which templates are shown while they form
MOST_SECONDS = 60.0  # of training, up to which it is repeated to show the templates form
MOST_CLASSES = 20  # with a confusion table, and with templates that are shown while they form
MOST_PAIRS = 100  # of true and predicted class that are listed, where there are more classes
IMAGES_OF_PAIR, MISTAKES = 6, 24
# The page gives these colours by its scheme, light or dark.
VARIABLES = {
    INK: "ink",
    QUIET: "quiet",
    RULE: "rule",
    COLOURS["train"]: "train",
    COLOURS["validation"]: "validation",
}

Shape = tuple[int, int, int]  # of an image: channels, height, width


@dataclass(frozen=True)
class Picture:
    """A picture in the page itself.

    Parameters
    ----------
    source : str
        A data URI.
    width, height : int
        Pixels.
    alt : str
        Words that describe it.
    caption : str
    """

    source: str
    width: int
    height: int
    alt: str
    caption: str = ""


def _png(pixels: np.ndarray, alt: str, caption: str = "") -> Picture:
    """Return pixels (h, w) or (h, w, 3), uint8, as a picture."""
    buffer = io.BytesIO()
    Image.fromarray(pixels).save(buffer, format="PNG", optimize=True)
    source = "data:image/png;base64," + base64.b64encode(buffer.getvalue()).decode()
    return Picture(source, pixels.shape[1], pixels.shape[0], alt, caption)


def _svg(figure: Figure, alt: str) -> str:
    """Return a figure as an element of the page, all of it escaped, in the page's colours and letters."""
    buffer = io.StringIO()
    # References within a drawing are made of this salt: those of two drawings on a page must differ.
    with mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": alt}):
        figure.savefig(buffer, format="svg", metadata={"Date": None}, facecolor="none")
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r"<!--.*?-->|<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'<g id="[^"]*"', "<g", text)  # each drawing has the same, and nothing refers to them
    text = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", text)
    text = text.replace("fill: #ffffff", "fill: none")
    for colour, name in VARIABLES.items():
        text = text.replace(colour, f"var(--{name})")
    width, height = figure.get_size_inches()
    opening = (
        f'<svg class="chart" role="img" aria-label="{html.escape(alt)}" '
        f'viewBox="0 0 {72 * width:.2f} {72 * height:.2f}" width="{96 * width:.0f}" height="{96 * height:.0f}">'
    )
    body = text[text.index(">") + 1 :].replace("xlink:href", "href")
    return opening + re.sub(r"\n\s*", "\n", body).strip()


def curves(name: str, histories: Sequence[History], kept_epoch: int) -> dict[str, str]:
    """Draw loss, cost and accuracy of the first seed, and of the other seeds faintly; not a cost that is the loss."""
    first, others = histories[0], histories[1:]
    if not first:
        return {}
    penalised = any((record.train_cost, record.validation_cost) != _losses(record) for record in first)
    charts = {}
    for what in ("loss", *["cost"] * penalised, "accuracy"):
        alt = f"{what.capitalize()} by epoch, {name}: " + "; ".join(
            _course(split, [getattr(record, f"{split}_{what}") for record in first], what == "accuracy")
            for split in COLOURS
        )
        figure = curve(table_of(first), what, "", CHART_WIDTH, list(map(table_of, others)), kept_epoch)
        charts[what] = _svg(figure, alt)
    return charts


def _losses(record: EpochRecord) -> tuple[float, float]:
    return record.train_loss, record.validation_loss


def _course(split: str, values: list[float], is_accuracy: bool) -> str:
    """Return the course of a curve in words."""
    numbers = [percent(value) if is_accuracy else f"{value:.4f}" for value in values]
    place = int(np.argmax(values) if is_accuracy else np.argmin(values))
    best = f", {'highest' if is_accuracy else 'lowest'} {numbers[place]} after epoch {place + 1}"
    ends = f"{split} from {numbers[0]} after the first to {numbers[-1]} after the last"
    return ends + best * (place + 1 < len(values))


def grid(path: Path, name: str) -> Picture:
    """Return the picture of a sweep's settings, which the sweep has drawn.

    Raises
    ------
    RunError
        If the file is not a picture.
    """
    try:
        with Image.open(path, formats=["PNG"]) as image:
            return _png(np.asarray(image.convert("RGB")), f"Validation score of the settings of {name}")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RunError(f"{path}: damaged ({error!s:.80}); repeat the sweep's command with --out to draw it") from None


def templates(weights: np.ndarray, class_names: Sequence[str], shape: Shape, when: str = "") -> list[Picture]:
    """Draw each class's weights in their own range."""
    found = []
    for name, column in zip(class_names[:MOST_TEMPLATES], weights.T, strict=False):
        image = stretched(picture(np.asarray(column, np.float64).reshape(shape)))
        found.append(_png(_bytes(image), f"template of {name}{when}", name))
    return found


def signed_templates(model: Model, shape: Shape) -> dict[str, Any]:
    """Draw the number that one more grey level adds to each logit: channels side by side, all classes on one scale."""
    c, h, w = shape
    names = model.class_names[:MOST_TEMPLATES]
    flat = model.on_raw_rows
    V, limit, beyond = signed_scale(flat.layer.weights[:, : len(names)], flat.standardizer)
    found = []
    for name, column in zip(names, V.T, strict=True):
        channels = column.reshape(c, h, w).transpose(1, 0, 2).reshape(h, c * w)
        colours = SIGNED((channels / limit + 1) / 2, bytes=True)[..., :3]
        alt = f"signed template of {name}" + (", red, green and blue side by side" if c == 3 else "")
        found.append(_png(np.ascontiguousarray(colours), alt, name))
    stops = ", ".join(mpl.colors.to_hex(SIGNED(place)) for place in np.linspace(0, 1, 11))
    notes = [f"{beyond:.2g} % of the weights lie beyond the scale."] if beyond else []
    notes += ["Grey pixels were constant in training."] if np.isnan(V).any() else []
    return {"pictures": found, "limit": limit, "stops": stops, "notes": " ".join(notes), "channels": c}


def strongest_weights(model: Model) -> dict[str, Any]:
    """Return the features with the largest weights of each class, as bars in percent of the width."""
    classes, limit = strongest(model.layer.weights, model.standardizer)
    found = []
    for name, (features, values) in zip(model.class_names, classes, strict=False):
        ends = [(50 + 50 * min(value, 0) / limit, 50 * abs(value) / limit) for value in values.tolist()]
        numbers = [signed_number(value, limit) for value in values.tolist()]
        found.append({"name": name, "bars": list(zip(features.tolist(), ends, numbers, strict=True))})
    return {"classes": found, "of": len(model.class_names)}


def formation(run: Run, model: Model, shape: Shape, splits: Splits) -> dict[str, Any]:
    """Repeat the training and draw templates after some of the epochs; or return the reason why there are none."""
    plan, state = run.read_checkpoint()
    config = plan.config
    seconds = sum(record.seconds for record in state.history)
    if seconds > MOST_SECONDS:
        return {"reason": f"These pictures need a second training, which would take about {seconds:.0f} seconds."}
    K = min(len(model.class_names), MOST_CLASSES)
    kept = run.kept_epoch
    if kept == 0:
        return {"reason": "No epoch was trained."}
    chosen = {*(epoch for epoch in EPOCHS_SHOWN if epoch <= kept), kept}
    weights = {}

    def capture(state: TrainingState) -> None:
        if state.epoch in chosen:
            weights[state.epoch] = model.with_weights(learnt(state.last, config)).on_raw_rows.layer.weights

    try:
        trained = train(splits, config, features=model.features, on_epoch=capture, report_test=False).model.layer
    except ConfigError as error:
        return {"reason": f"Training could not be repeated for these pictures: {error}."}
    same = all(getattr(trained, name).tobytes() == getattr(model.layer, name).tobytes() for name in ("weights", "bias"))
    columns = [
        templates(W[:, :K], model.class_names, shape, f" after {counted(epoch, 'epoch')}")
        for epoch, W in weights.items()
    ]
    return {"reason": "", "epochs": list(weights), "rows": list(zip(*columns, strict=True)), "same": same}


def _bytes(image: np.ndarray) -> np.ndarray:
    """Return numbers from 0 to 1 as pixels from 0 to 255."""
    return np.rint(255 * np.clip(image, 0, 1)).astype(np.uint8)


def _photos(split: Split, places: np.ndarray, shape: Shape) -> list[np.ndarray]:
    """Return the images at these places of a split as pixels."""
    return [_bytes(picture(row.reshape(shape)) / 255) for row in split.rows(places)]


def confusion(evaluation: Evaluation, split: Split, model: Model) -> dict[str, Any]:
    """Return the cells of the confusion matrix, with their share of the true class and some of their images."""
    counts, K = evaluation.confusion, len(model.class_names)
    shares = np.nan_to_num(confusion_shares(counts))
    totals = counts.sum(axis=1)
    pairs = [(int(i), int(j)) for i, j in np.argwhere(counts)]
    if K > MOST_CLASSES:
        wrong = [(i, j) for i, j in pairs if i != j]
        pairs = sorted(sorted(wrong, key=lambda pair: -counts[pair])[:MOST_PAIRS])
    groups: dict[int, list[dict[str, Any]]] = {}
    for i, j in pairs:
        chosen = (evaluation.labels == i) & (evaluation.predictions == j)
        shown = evaluation.most_confident(chosen, IMAGES_OF_PAIR)
        truth, answer = model.class_names[i], model.class_names[j]
        words = f"{truth}, and classified so" if i == j else f"{truth}, taken for {answer}"
        strip = None
        if model.image_shape is not None:
            images = np.concatenate(_photos(split, shown, model.image_shape), axis=1)
            strip = _png(images, f"{counted(len(shown), 'image')} of {words}")
        group = {"id": f"cell-{i}-{j}", "predicted": j, "answer": answer, "right": i == j, "picture": strip}
        ends = evaluation.confidences[shown[[0, -1]]]
        groups.setdefault(i, []).append(group | {"count": counts[i, j], "shown": len(shown), "ends": ends})
    accuracies = [float(share) for share in evaluation.class_accuracies]
    chart = None
    if K > MOST_CLASSES:
        figure = draw_confusion(counts, model.class_names, "")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        with Image.open(buffer) as image:
            alt = "Picture of the confusion; the most frequent confusions are listed below"
            chart = _png(np.asarray(image.convert("RGB")), alt)
    return {
        "counts": counts.tolist(),
        "shares": shares.tolist(),
        "shades": np.sqrt(shares / (shares.max() or 1)).tolist(),  # so that a few percent can be seen, too
        "totals": totals.tolist(),
        "groups": groups,
        "accuracies": accuracies,
        "chart": chart,
    }


def mistakes(evaluation: Evaluation, split: Split, model: Model, shape: Shape) -> list[dict[str, Any]]:
    """Return the most confident mistakes, each with its image."""
    places = evaluation.worst_mistakes(MISTAKES)
    found = []
    for place, pixels in zip(places, _photos(split, places, shape), strict=True):
        truth, answer = (model.class_names[labels[place]] for labels in (evaluation.labels, evaluation.predictions))
        alt = f"image of {truth}, taken for {answer}"
        confidence = float(evaluation.confidences[place])
        found.append({"picture": _png(pixels, alt), "truth": truth, "answer": answer, "confidence": confidence})
    return found


def calibration(evaluation: Evaluation) -> dict[str, Any]:
    """Return the reliability diagram and the histogram of the true class's probability, with their numbers."""
    found = evaluation.reliability()
    error = found.expected_calibration_error
    rows = [
        (low, high, count, float(confidence), float(accuracy))
        for (low, high), count, confidence, accuracy in zip(
            pairwise(found.edges.tolist()), found.counts, found.confidence, found.accuracy, strict=True
        )
        if count
    ]
    claimed, right = evaluation.mean(evaluation.confidences), evaluation.accuracy
    probabilities, median = evaluation.true_class_probabilities, evaluation.median(evaluation.true_class_probabilities)
    diagram = (
        f"Reliability diagram: answers of {percent(claimed)} mean confidence are right in {percent(right)} of cases; "
        f"expected calibration error {percent(error)}. The numbers are in the table below."
    )
    histogram = (
        f"Histogram of the true class's probability over {len(probabilities):,} rows: median "
        f"{percent(median)}, below 10 % for {percent(evaluation.mean(probabilities < 0.1))} "
        "of the rows"
    )
    return {
        "error": error,
        "claimed": claimed,
        "rows": rows,
        "median": median,
        "diagram": _svg(reliability(found, "", CHART_WIDTH), diagram),
        "histogram": _svg(probability_histogram(evaluation, "", CHART_WIDTH), histogram),
    }
