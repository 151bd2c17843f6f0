"""The answers of a model as parts of the page: confusion, mistakes and calibration. `report.html.j2` places them."""

import io
from itertools import pairwise
from typing import Any

import numpy as np
from PIL import Image

from onelayer.analysis.evaluation import Evaluation, bins_of
from onelayer.analysis.templates import picture
from onelayer.data.dataset import Split
from onelayer.model import Model
from onelayer.pictures.confusion import confusion as draw_confusion
from onelayer.pictures.confusion import confusion_shares
from onelayer.pictures.probabilities import probability_histogram, reliability
from onelayer.report.drawings import CHART_WIDTH, Shape, as_bytes, png, svg
from onelayer.words import counted

MOST_CLASSES = 20  # with a confusion table
MOST_PAIRS = 100  # of true and predicted class that are listed, where there are more classes
IMAGES_OF_PAIR, MISTAKES = 6, 24


def _photos(split: Split, places: np.ndarray, shape: Shape) -> list[np.ndarray]:
    """Return the images at these places of a split as pixels."""
    return [as_bytes(picture(row.reshape(shape)) / 255) for row in split.rows(places)]


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
            strip = png(images, f"{counted(len(shown), 'image')} of {words}")
        group = {"id": f"cell-{i}-{j}", "predicted": j, "answer": answer, "right": i == j, "picture": strip}
        ends = evaluation.confidences[shown[[0, -1]]]
        groups.setdefault(i, []).append(group | {"count": counts[i, j], "shown": len(shown), "ends": ends})
    chart = None
    if K > MOST_CLASSES:
        figure = draw_confusion(counts, model.class_names, "")
        buffer = io.BytesIO()
        figure.savefig(buffer, format="png")
        with Image.open(buffer) as image:
            alt = "Picture of the confusion; the most frequent confusions are listed below"
            chart = png(np.asarray(image.convert("RGB")), alt)
    return {
        "counts": counts.tolist(),
        "shares": shares.tolist(),
        "shades": np.sqrt(shares / (shares.max() or 1)).tolist(),  # so that a few percent can be seen, too
        "totals": totals.tolist(),
        "groups": groups,
        "classes": evaluation.classes_in_words(),
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
        found.append({"picture": png(pixels, alt), "truth": truth, "answer": answer, "confidence": confidence})
    return found


def calibration(evaluation: Evaluation) -> dict[str, Any]:
    """Return the reliability diagram and the histogram of the true class's probability, with their numbers."""
    found = evaluation.reliability()
    places = bins_of(evaluation.confidences, len(found.counts))
    rows = [
        (low, high, count, float(confidence), evaluation.fraction(evaluation.right, of=places == place))
        for place, ((low, high), count, confidence) in enumerate(
            zip(pairwise(found.edges.tolist()), found.counts, found.confidence, strict=True)
        )
        if count
    ]
    accuracy = evaluation.estimates["accuracy"]
    claimed = f"{100 * evaluation.mean(evaluation.confidences):.{accuracy.digits}f} %"  # to be compared with it
    right, error = (evaluation.estimates[name].number() for name in ("accuracy", "calibration_error"))
    probabilities = evaluation.true_class_probabilities
    median = f"{100 * evaluation.median(probabilities):.1f} %"
    diagram = (
        f"Reliability diagram: answers of {claimed} mean confidence are right in {right} of cases; expected "
        f"calibration error {error}. The numbers are in the table below."
    )
    histogram = (
        f"Histogram of the true class's probability over {len(probabilities):,} rows: median {median}, below 10 % for "
        f"{evaluation.fraction(probabilities < 0.1).number()} of the rows"
    )
    return {
        "error": evaluation.estimates["calibration_error"].in_words(),
        "claimed": claimed,
        "rows": rows,
        "median": median,
        "diagram": svg(reliability(found, "", CHART_WIDTH), diagram),
        "histogram": svg(probability_histogram(evaluation, "", CHART_WIDTH), histogram),
    }
