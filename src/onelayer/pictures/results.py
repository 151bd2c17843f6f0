"""Functions that draw results, for `onelayer.drawing`: whole pictures, plots into given axes, and pictures in HTML."""

import base64
from collections.abc import Callable
from contextlib import suppress
from html import escape
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from onelayer.analysis.evaluation import Evaluation, evaluate
from onelayer.data.dataset import Split
from onelayer.drawing import picture_of
from onelayer.errors import DataError, OnelayerError
from onelayer.features.patches import Patches
from onelayer.files import png
from onelayer.model import Model
from onelayer.pictures.confusion import MOST_IN_MATRIX, confusion, draw_matrix, draw_recalls
from onelayer.pictures.curves import Columns, curve, draw_curves
from onelayer.pictures.page import INK, LABEL, on_pages_of
from onelayer.pictures.patches import SPEAKING, no_picture, speaking_patches
from onelayer.pictures.templates import start_in_words, strongest_weights, templates
from onelayer.runs.directory import Run
from onelayer.training.history import noun_of

SMALL_WIDTH = 5.5  # inches of a picture in HTML


@picture_of.register
def draw_evaluation(evaluation: Evaluation) -> Figure:
    """Return the confusion matrix of an evaluation."""
    title = f"Confusion\n{evaluation.in_words()}"
    return confusion(evaluation.confusion, evaluation.class_names, title)


def _history(result: Any) -> Columns:
    """Return the columns of the history of a run, a result or an estimator."""
    columns: Columns = result.history if hasattr(result, "history") else result.history_
    return columns


def _model(result: Any) -> Model:
    """Return the model of a run, a result or an estimator, or the model itself."""
    model: Model = result if isinstance(result, Model) else getattr(result, "model", None) or result.model_
    return model


def plot_curve(result: Any, what: str, ax: Axes | None) -> Axes:
    """Draw a curve of a run or a result into axes, or on a page."""
    history, kept_epoch = _history(result), getattr(result, "kept_epoch", None) or getattr(result, "kept_epoch_", None)
    title = f"{what.capitalize()} by {noun_of(history)}"
    if ax is None:
        return _shown(lambda: curve(history, what, title, kept_epoch=kept_epoch))
    draw_curves(ax, history, what, kept_epoch=kept_epoch)
    ax.set_title(title, size=LABEL, color=INK)
    if ax.lines:
        ax.legend(frameon=False, fontsize=LABEL)
    return ax


def plot_weights(result: Any, ax: Axes | None) -> Axes:
    """Draw the weights of a model, a run or a result into axes, or on a page."""
    images = _training_images(result)
    if ax is None:
        return _shown(lambda: _weights(result, images))
    _weights(result, images, into=ax)
    return ax


def _training_images(result: Any) -> Split | None:
    """Return the training rows of a run that has patches to show, if they are at hand."""
    if not isinstance(result, Run) or not isinstance(result.model.features, Patches):
        return None
    with suppress(OnelayerError):
        plan, _ = result.read_checkpoint()
        return plan.load_splits(None).train
    return None


def _weights(result: Any, images: Split | None = None, **options: Any) -> Figure:
    """Draw templates, or patches, or the strongest weights where there are neither."""
    model = _model(result)
    learnt: np.ndarray | None = getattr(result, "learnt", None)
    alone = result is model
    start = start_in_words(None, None) if alone else "" if learnt is None else start_in_words(None, learnt)
    if (shape := model.template_shape) is None:
        drawn = model.layer.weights if learnt is None else learnt
        options.pop("width", None)
        if isinstance(model.features, Patches):
            return speaking_patches(model, drawn, images, f"{SPEAKING}\n{start}", **options)
        title = f"Weights\n{no_picture(model)}\n{start}".replace("\n\n", "\n")
        return strongest_weights(drawn, model.standardizer, model.class_names, title, **options)
    flat = model.on_raw_rows
    if learnt is not None:
        learnt = model.with_weights(learnt).on_raw_rows.layer.weights
    return templates(flat.layer.weights, model.class_names, shape, f"Templates\n{start}", learnt, **options)


def plot_confusion(result: Any, split: Split | Evaluation | None, ax: Axes | None) -> Axes:
    """Draw the confusion of an evaluation, or of a model's answers on a split, into axes, or on a page."""
    if split is None and isinstance(result, Run):
        plan, _ = result.read_checkpoint()
        split = plan.load_splits(None).test
    if split is None:
        raise DataError("plot_confusion needs rows to classify; pass a split, such as splits.test, or an Evaluation")
    found = split if isinstance(split, Evaluation) else evaluate(_model(result), split)
    if ax is None:
        return _shown(lambda: draw_evaluation(found))
    draw = draw_matrix if len(found.class_names) <= MOST_IN_MATRIX else draw_recalls
    draw(ax, found.confusion, found.class_names)
    return ax


def _shown(draw: Callable[[], Figure]) -> Axes:
    """Draw on a figure of pyplot, which notebooks and `pyplot.show` show, and return its first axes."""
    from matplotlib import pyplot

    with on_pages_of(lambda **options: pyplot.figure(figsize=options["figsize"], facecolor=options["facecolor"])):
        return draw().axes[0]


def in_html(result: Any) -> str:
    """Return the curve, if there is one, and the templates as small pictures in HTML."""
    figures = []
    if len(getattr(result, "history", {}).get("epoch", ())):
        title = f"Loss by {noun_of(result.history)}"
        figures.append((title, curve(result.history, "loss", title, SMALL_WIDTH, kept_epoch=result.kept_epoch)))
    figures.append(("Weights of each class", _weights(result, width=SMALL_WIDTH)))
    images = []
    for words, figure in figures:
        figure.set_dpi(100)
        source = base64.b64encode(png(figure)).decode()
        images.append(f'<img alt="{escape(words)}" style="max-width: 100%" src="data:image/png;base64,{source}">')
    return "\n" + "\n".join(images)
