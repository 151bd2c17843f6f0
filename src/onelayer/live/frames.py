"""The numbers and pictures of a layer after an epoch, as the page shows them. They are made for few epochs only."""

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from onelayer.analysis.estimates import effective_rows, fraction
from onelayer.analysis.evaluation import Evaluation
from onelayer.analysis.evidence import MOST_WITH_PATCHES, ON_A_SIDE, Evidence, evidence
from onelayer.analysis.templates import picture, signed_scale, stretched, strongest
from onelayer.blas import one_blas_thread
from onelayer.data.dataset import Split
from onelayer.features.patches import Patches
from onelayer.kernel import kernel
from onelayer.layer import SoftmaxLayer, likeliest
from onelayer.model import Model
from onelayer.training.backends import of_views
from onelayer.training.history import EpochRecord
from onelayer.training.state import Problem, TrainingState, learnt

MOST_PICTURE_BYTES = 2**22  # of the templates of a view in a frame
MOST_CONFUSED = 400  # classes, above which the matrix is not sent
BINS = 10  # of confidence
BLOCK = 4096  # rows whose logits are computed at a time, where the kernel does not
HISTORY = (
    *("epoch", "learning_rate", "train_loss", "train_cost", "train_accuracy"),
    *("validation_loss", "validation_cost", "validation_accuracy"),
)


@dataclass
class Frame:
    """A state as the page draws it; `fields` and `arrays` are those of the message ``epoch``."""

    run: int
    history: tuple[EpochRecord, ...]
    fields: dict[str, Any]
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


def history_rows(history: tuple[EpochRecord, ...]) -> list[list[float]]:
    """Return the numbers of epochs, in the order of HISTORY."""
    return [[getattr(record, name) for name in HISTORY] for record in history]


def interval(share: float, split: Split) -> list[float]:
    """Return a fraction of the rows of a split with the ends of its interval."""
    weights = split.row_weights(slice(None))
    rows = len(split) / split.dataset.views if weights is None else effective_rows(weights) / split.dataset.views
    found = fraction(share, rows)
    return [found.value, found.low, found.high]


def quick(problem: Problem, model: Model, state: TrainingState) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what takes about a millisecond: accuracies with intervals, the norm of the weights, and templates."""
    record, W = state.history[-1], state.layer.weights
    accuracy = {"train": interval(record.train_accuracy, problem.splits.train)}
    if not math.isnan(record.validation_accuracy):
        accuracy["validation"] = interval(record.validation_accuracy, problem.splits.validation)
    fields = {
        "epoch": record.epoch,
        "rate": record.learning_rate,
        "accuracy": accuracy,
        "weights_norm": float(np.sqrt(np.einsum("ij,ij->", W, W, dtype=np.float64))),
    }
    if record.gap is not None:  # of the solver converged
        fields |= {"gap": record.gap, "passes": record.passes}
    views = {"learnt": learnt(state.last, problem.config) if problem.config.init_std else W}
    if problem.config.init_std:
        views["weights"] = W
    arrays: dict[str, np.ndarray] = {}
    shape = model.template_shape
    if isinstance(model.features, Patches):  # whose patches are details
        return fields, arrays
    if shape is None:
        classes, largest = strongest(W, problem.standardizer)
        pairs = [[[int(j), float(v)] for j, v in zip(*of_class, strict=True)] for of_class in classes]
        return fields | {"strongest": pairs, "largest": largest}, arrays
    drawn = max(1, min(W.shape[1], MOST_PICTURE_BYTES // (3 * shape[1] * shape[2])))
    for name, weights in views.items():
        arrays[name] = np.stack([as_picture(column.reshape(shape)) for column in weights.T[:drawn]])
    V, limit, beyond = signed_scale(W[:, :drawn], problem.standardizer)
    codes = np.rint(128 + 127 * np.clip(V / limit, -1, 1))
    arrays["signed"] = np.nan_to_num(codes).astype(np.uint8).T.reshape(drawn, *shape)  # 0 is a constant pixel
    return fields | {"signed": {"limit": limit, "beyond": beyond}}, arrays


def as_picture(image: np.ndarray) -> np.ndarray:
    """Return weights (c, h, w) in their own range as a picture (h, w, 3), uint8."""
    greys = np.rint(255 * stretched(picture(image.astype(np.float32)))).astype(np.uint8)
    return greys if greys.ndim == 3 else np.repeat(greys[..., None], 3, axis=2)


def images_of(rows: np.ndarray, shape: tuple[int, int, int]) -> np.ndarray:
    """Return raw rows (n, d) of pixels as pictures (n, h, w, 3), uint8."""
    images = rows.reshape(-1, *shape)
    if shape[0] != 3:
        images = np.repeat(images.mean(axis=1, keepdims=True), 3, axis=1)
    low, high = (0, 255) if rows.dtype == np.uint8 else (images.min(initial=0), images.max(initial=1))
    scaled = (images.astype(np.float32) - low) * (255 / (high - low))
    return np.rint(scaled).astype(np.uint8).transpose(0, 2, 3, 1)


def evaluated(problem: Problem, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool] = bool) -> Evaluation:
    """Return the answers of a layer on a split of the rows of a problem, in the arithmetic of training."""
    S = _logits(problem, layer, split, cancelled)
    labels = split.labels[:: split.dataset.views]
    weights = split.row_weights(slice(None, None, split.dataset.views))
    losses = layer.loss.of_rows(S, labels).astype(np.float64)
    loss = float(losses.mean() if weights is None else (losses * weights).sum() / weights.sum())
    P = np.asarray(layer.loss.probabilities(S))
    return Evaluation(loss, labels, likeliest(S), P, weights, split.dataset.class_names, split.name, losses)


def _logits(problem: Problem, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]) -> np.ndarray:
    """Return logits (n, K) of the rows of a split, those of views averaged."""
    dataset, standardizer = split.dataset, problem.standardizer.for_training
    n, K = len(split), layer.weights.shape[1]
    if problem.backend.compiled and kernel is not None:
        S = np.empty((K, n), np.float32)
        templates = layer.weights.T.astype(np.float64, order="C")
        mean, scale = (np.ascontiguousarray(a, np.float64) for a in (standardizer.mean, standardizer.scale))
        places = np.ascontiguousarray(split.indices, np.int64)
        kernel.scores(dataset.rows, mean, scale, places, 0, templates, S, cancelled)
        logits = S.T + layer.bias
    else:
        folded = standardizer.fold(layer)
        with one_blas_thread():
            blocks = [split.rows(block).astype(layer.weights.dtype) for block in split.blocks(BLOCK)]
            logits = np.concatenate([folded.logits(block) for block in blocks])
    return of_views(logits, dataset.views)


def thorough(
    problem: Problem, state: TrainingState, cancelled: Callable[[], bool]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return what takes passes over the rows: the gradient's norm, confusion, reliability, and the speaking patches.

    Raises
    ------
    InterruptedError
        If it was cancelled.
    """
    _, dW, db = problem.open(state.layer).objective(state.layer, problem.splits.train, cancelled)
    norm = float(np.sqrt((dW * dW).sum() + (db * db).sum()))
    fields: dict[str, Any] = {"gradient_norm": norm, "details_epoch": state.epoch}
    arrays: dict[str, np.ndarray] = {}
    if len(problem.splits.validation):
        answers = evaluated(problem, state.layer, problem.splits.validation, cancelled)
        arrays = answers_arrays(answers)
    if isinstance(problem.features, Patches):
        more, examples = speaking(problem, state, cancelled)
        fields, arrays = fields | more, arrays | examples
    return fields, arrays


def speaking(
    problem: Problem, state: TrainingState, cancelled: Callable[[], bool]
) -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    """Return the filters that speak for and against the first classes, and training images with their patches."""
    features, train = problem.features, problem.raw.train
    assert isinstance(features, Patches)  # noqa: S101, for mypy
    _, h, w = features.image_shape
    drawn = max(1, min(MOST_WITH_PATCHES, MOST_PICTURE_BYTES // (2 * ON_A_SIDE * 3 * h * w)))
    weights = learnt(state.last, problem.config) if problem.config.init_std else state.layer.weights
    found = evidence(features, weights[:, :drawn], train, ON_A_SIDE, cancelled)
    shown = [one for sides in found for side in sides for one in side]
    examples = list({id(one.example): one.example for one in shown if one.example}.values())
    numbers = {id(example): number for number, example in enumerate(examples)}

    def of(one: Evidence) -> dict[str, Any]:
        example, place = one.example, one.place
        assert example is not None  # noqa: S101, for mypy: there are training rows
        where = {"row": example.row, "column": example.column, "size": one.filter.shape[1], "label": example.label}
        of_windows = {"weight": one.weight, "windows": one.weights.tolist(), "window": [place.y, place.x]}
        return {"example": numbers[id(example)], **where, **of_windows}

    limit = max((abs(one.weight) for one in shown), default=0) or 1.0
    told = {"speaking": [[[of(one) for one in side] for side in sides] for sides in found]}
    images = [example.image.reshape(-1) for example in examples]
    arrays = {"examples": images_of(np.array(images, np.uint8), features.image_shape)} if images else {}
    return told | {"speaking_limit": float(f"{limit:.2g}"), "mirrored": features.mirrored}, arrays


def answers_arrays(answers: Evaluation) -> dict[str, np.ndarray]:
    """Return confusion (K, K) and reliability (3, bins), the counts, confidences and accuracies of the bins."""
    bins = answers.reliability(BINS)
    arrays = {"reliability": np.stack([bins.counts, bins.confidence, bins.accuracy]).astype(np.float32)}
    if len(answers.class_names) <= MOST_CONFUSED:
        arrays["confusion"] = np.rint(answers.confusion).astype(np.int32)
    return arrays
