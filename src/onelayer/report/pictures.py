"""Pictures of a training: its curves, its templates, and the way in which they formed. `report.html.j2` places them."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import matplotlib as mpl
import numpy as np
from PIL import Image

from onelayer.analysis.evidence import MOST_IMAGES, MOST_WITH_PATCHES, ON_A_SIDE, Evidence, evidence
from onelayer.analysis.templates import picture, signed_scale, stretched, strongest
from onelayer.data.dataset import Split, Splits
from onelayer.errors import ConfigError, RunError
from onelayer.experiments.lambdas import COLUMNS, GAP, read_path
from onelayer.features.patches import Patches
from onelayer.model import Model
from onelayer.pictures.colours import COLOURS, SIGNED
from onelayer.pictures.curves import curve
from onelayer.pictures.page import MOST_TEMPLATES
from onelayer.pictures.patches import no_picture
from onelayer.pictures.path import chart_of_path
from onelayer.pictures.templates import one_more, signed_number
from onelayer.report.drawings import CHART_WIDTH, Picture, Shape, as_bytes, png, svg
from onelayer.runs.directory import Run
from onelayer.training.history import EpochRecord, History, columns_of, noun_of, table_of
from onelayer.training.state import TrainingState, learnt
from onelayer.training.train import train
from onelayer.words import counted, percent

EPOCHS_SHOWN = (1, 2, 5, 10, 20, 40, 100, 200, 500, 1000)  # at which templates are shown while they form
MOST_SECONDS = 60.0  # of training, up to which it is repeated to show the templates form
MOST_FORMED = 20  # classes with templates that are shown while they form
STOPS = ", ".join(mpl.colors.to_hex(SIGNED(place)) for place in np.linspace(0, 1, 11))  # of the scale of colours


def curves(name: str, histories: Sequence[History], kept_epoch: int, restarts: bool) -> dict[str, str]:
    """Draw loss, cost and accuracy of the first seed, and of the other seeds faintly; not a cost that is the loss."""
    first, others = histories[0], histories[1:]
    if not first:
        return {}
    penalised = any((record.train_cost, record.validation_cost) != _losses(record) for record in first)
    charts, noun = {}, noun_of(columns_of(first))
    for what in ("loss", *["cost"] * penalised, "accuracy"):
        alt = f"{what.capitalize()} by {noun}, {name}: " + "; ".join(
            _course(split, [getattr(record, f"{split}_{what}") for record in first], what == "accuracy", noun)
            for split in COLOURS
        )
        figure = curve(table_of(first), what, "", CHART_WIDTH, list(map(table_of, others)), kept_epoch, restarts)
        charts[what] = svg(figure, alt)
    return charts


def of_path(run: Run) -> dict[str, Any] | None:
    """Return the charts, the table and the words of the path that chose a run; None if no path did."""
    found = read_path(run)
    if found is None:
        return None
    numbers, chosen, charts = found.numbers(), found.points.index(found.chosen), {}
    for what in ("loss", "accuracy"):
        values, x = numbers[f"validation_{what}"], numbers["l2"]
        words = [percent(value) if what == "accuracy" else f"{value:.4f}" for value in values]
        ends = f"validation from {words[0]} at l2 {x[0]:g} to {words[-1]} at l2 {x[-1]:g}"
        alt = f"{what.capitalize()} by lambda: {ends}, {words[chosen]} at l2 {x[chosen]:g}, which was chosen"
        charts[what] = svg(chart_of_path(numbers, chosen, what, CHART_WIDTH), alt)
    of_choice = {"choice": found.choice_in_words(), "notes": found.notes, "gap": GAP}
    return {"charts": charts, "columns": COLUMNS[1:], "rows": found.in_words(), **of_choice}


def _losses(record: EpochRecord) -> tuple[float, float]:
    return record.train_loss, record.validation_loss


def _course(split: str, values: list[float], is_accuracy: bool, noun: str) -> str:
    """Return the course of a curve in words."""
    numbers = [percent(value) if is_accuracy else f"{value:.4f}" for value in values]
    place = int(np.argmax(values) if is_accuracy else np.argmin(values))
    best = f", {'highest' if is_accuracy else 'lowest'} {numbers[place]} after {noun} {place + 1}"
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
            return png(np.asarray(image.convert("RGB")), f"Validation score of the settings of {name}")
    except (OSError, ValueError, SyntaxError, Image.DecompressionBombError) as error:
        raise RunError(f"{path}: damaged ({error!s:.80}); repeat the sweep's command with --out to draw it") from None


def templates(weights: np.ndarray, class_names: Sequence[str], shape: Shape, when: str = "") -> list[Picture]:
    """Draw each class's weights in their own range."""
    found = []
    for name, column in zip(class_names[:MOST_TEMPLATES], weights.T, strict=False):
        image = stretched(picture(np.asarray(column, np.float64).reshape(shape)))
        found.append(png(as_bytes(image), f"template of {name}{when}", name))
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
        found.append(png(np.ascontiguousarray(colours), alt, name))
    notes = [f"{beyond:.2g} % of the weights lie beyond the scale."] if beyond else []
    notes += ["Grey pixels were constant in training."] if np.isnan(V).any() else []
    return {"pictures": found, "limit": limit, "stops": STOPS, "notes": " ".join(notes), "channels": c}


def strongest_weights(model: Model) -> dict[str, Any]:
    """Return the features with the largest weights of each class, as bars in percent of the width."""
    classes, limit = strongest(model.layer.weights, model.standardizer)
    found = []
    for name, (features, values) in zip(model.class_names, classes, strict=False):
        ends = [(50 + 50 * min(value, 0) / limit, 50 * abs(value) / limit) for value in values.tolist()]
        numbers = [signed_number(value, limit) for value in values.tolist()]
        found.append({"name": name, "bars": list(zip(features.tolist(), ends, numbers, strict=True))})
    words = {"one_more": one_more(model.standardizer), "reason": no_picture(model)}
    return {"classes": found, "of": len(model.class_names), **words}


def patches(model: Model, images: Split) -> dict[str, Any]:
    """Return the filters that speak for and against the first classes, shown by patches of training images."""
    features, names = model.features, model.class_names
    assert isinstance(features, Patches)  # noqa: S101, for mypy
    found = evidence(features, model.layer.weights[:, :MOST_WITH_PATCHES], images, ON_A_SIDE)
    limit = max((abs(one.weight) for sides in found for side in sides for one in side), default=0) or 1.0
    limit = float(f"{limit:.2g}")
    classes = [
        {"name": name, "sides": [[_filter(one, limit, names, features.image_shape) for one in side] for side in sides]}
        for name, sides in zip(names, found, strict=False)
    ]
    words = {"one_more": one_more(model.standardizer), "looked_at": MOST_IMAGES, "mirrored": features.mirrored}
    return {"classes": classes, "of": len(names), "limit": limit, "stops": STOPS, **words}


def _filter(one: Evidence, limit: float, names: Sequence[str], image_shape: Shape) -> dict[str, Any]:
    """Return the pictures of a filter, and its frames: left, top, width and height in percent."""
    found, k, (_, h, w) = one.example, one.filter.shape[1], image_shape
    assert found is not None  # noqa: S101, for mypy
    name, number = names[found.label], signed_number(one.weight, limit)
    of_patch = stretched(picture(found.image[:, found.row : found.row + k, found.column : found.column + k]))
    down, across = one.weights.shape
    table = "; ".join(" ".join(signed_number(weight, limit) for weight in row) for row in one.weights.tolist())
    colours = SIGNED((one.weights / limit + 1) / 2, bytes=True)[..., :3]
    frame = (found.column / w, found.row / h, k / w, k / h)
    return {
        "weight": number,
        "label": name,
        "size": (w, h),
        "patch": png(as_bytes(of_patch), f"patch of {name}, row {found.row}, column {found.column}, in its own range"),
        "image": (png(as_bytes(picture(found.image) / 255), f"training image of {name}"), [100 * end for end in frame]),
        "windows": (
            png(np.ascontiguousarray(colours), f"weights by window: {table}"),
            [100 * end for end in (one.place.x / across, one.place.y / down, 1 / across, 1 / down)],
        ),
    }


def formation(run: Run, model: Model, shape: Shape, splits: Splits) -> dict[str, Any]:
    """Repeat the training and draw templates after some of the epochs; or return the reason why there are none."""
    plan, state = run.read_checkpoint()
    config = plan.config
    seconds = sum(record.seconds for record in state.history)
    if seconds > MOST_SECONDS:
        return {"reason": f"These pictures need a second training, which would take about {seconds:.0f} seconds."}
    K = min(len(model.class_names), MOST_FORMED)
    kept = run.kept_epoch
    if kept == 0:
        return {"reason": "No epoch was trained."}
    noun = noun_of(columns_of(state.history))
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
        templates(W[:, :K], model.class_names, shape, f" after {counted(epoch, noun)}") for epoch, W in weights.items()
    ]
    return {"reason": "", "noun": noun, "epochs": list(weights), "rows": list(zip(*columns, strict=True)), "same": same}
