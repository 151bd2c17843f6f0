"""The certificate of a trained model: how far its cost is above the lowest, on the rows as its training saw them."""

import math
from dataclasses import asdict, replace
from typing import Any

import numpy as np

from onelayer.config import TrainConfig
from onelayer.data.dataset import Splits
from onelayer.data.progress import Progress, Told, silent
from onelayer.data.scan import memory_map_of
from onelayer.errors import ConfigError
from onelayer.layer import SoftmaxLayer
from onelayer.model import Model
from onelayer.training.certificate import Certificate, certify, rows_in_words
from onelayer.training.converged import Convergence
from onelayer.training.converging.rows import Rows
from onelayer.training.state import Problem

WEAK = 0.01  # gap as a share of the cost, above which a layer near the optimum is worth its time
NEAR, MOST_PASSES = 1e-4, 50  # gap of that layer as a share of its bound, and passes over the rows to find it


def certify_model(model: Model, splits: Splits, config: TrainConfig, progress: Progress | None = None) -> Certificate:
    """Return the certificate of a model on its training rows, in one pass over them in float64.

    Rows count by the weights of their classes, and mirror images are taken too, as the settings say.

    Parameters
    ----------
    model : Model
    splits : Splits
        The rows as they were given to the training.
    config : TrainConfig
        The settings that the model was trained with, by any solver.
    progress : callable, optional
        Called with the amount of rows done and the total.

    Raises
    ------
    ConfigError
        If no bound is known for the loss, or the cost is not a finite number.
    """
    return _certify(_problem(model, splits, config), model.layer, progress)


def certify_closely(
    model: Model, splits: Splits, config: TrainConfig, told: Told = silent
) -> tuple[Certificate, Certificate]:
    """Return the certificate of a model by the best bound at hand, and by the bound of its own layer.

    A bound holds for all layers, and that of a layer far from the optimum is weak. If it is, the converged solver looks
    for a layer near the optimum, whose bound is taken. The two are the same if the model's own bound is good, or lambda
    is 0.

    Parameters and errors are those of `certify_model`; `told` is its `progress` with words on what is being done now.
    """

    def progress(done: int, total: int | None) -> None:
        told(done, total, "")

    own = certify_model(model, splits, config, progress)
    if not is_weak(own):
        return own, own
    problem = _problem(model, splits, config)
    solver = Convergence(_rows(problem), model.layer.loss, config.l2)
    for last in solver.iterates(config.l2, tol=NEAR, max_passes=MOST_PASSES):
        told(0, None, f"looking for a better bound, {last.passes:g} passes, gap {last.gap:.1g} nats")
    return own.bounded_by(_certify(problem, solver.layer(last), progress)), own


def certify_if_useful(
    model: Model, splits: Splits, config: TrainConfig, progress: Progress | None = None
) -> Certificate | None:
    """Return the certificate of a model where it says something of every training: with a penalty, or if it converged.

    It is None for other trainings, which are not made slower by it, and where no bound is known.
    """
    if not config.l2 and config.solver == "sgd":
        return None
    try:
        return certify_model(model, splits, config, progress)
    except ConfigError:
        return None


def is_weak(certificate: Certificate) -> bool:
    """Return whether a better bound may say much more; without a penalty, no layer has a bound for all others."""
    return certificate.l2 > 0 and certificate.gap > WEAK * certificate.cost


def certificate_summary(certificate: Certificate) -> dict[str, Any]:
    """Return a certificate as JSON can hold it, with the gaps and the sentence; an infinite relative gap is None."""
    relative = certificate.relative_gap
    gaps = {"gap": certificate.gap, "relative_gap": relative if math.isfinite(relative) else None}
    return asdict(certificate) | gaps | {"sentence": certificate.sentence()}


def _problem(model: Model, splits: Splits, config: TrainConfig) -> Problem:
    """Return the problem that the model was trained for; its backend is not used, and NumPy has no obstacle."""
    config = replace(config, backend="numpy", device="auto", precision="full")
    return Problem.of(splits, config, model.standardizer, model.features)


def _certify(problem: Problem, layer: SoftmaxLayer, progress: Progress | None) -> Certificate:
    """Return the certificate of a layer on the training rows of a problem."""
    config = problem.config
    rows = rows_in_words(problem.unweighted.train, config.flip, by_class=config.class_weight != "none")
    train = problem.splits.train
    return certify(layer, problem.standardizer, train, config.l2, config.flip, progress, rows)


def _rows(problem: Problem) -> Rows:
    """Return the training rows as the converged solver takes them.

    It needs no mirror images if mean and scale are those of the rows and their mirror images. Those of SGD are not, so
    the mirror images are made; of rows on disk they are not, and the layer is a little further from the optimum.
    """
    split, standardizer, flip = problem.splits.train, problem.standardizer, problem.config.flip
    dataset, shape = split.dataset, split.dataset.image_shape
    if not flip or shape is None or memory_map_of(dataset.rows) is not None:
        return Rows(split, standardizer, flip=flip)
    if all(np.array_equal(of_rows, _mirrored(of_rows, shape)) for of_rows in (standardizer.mean, standardizer.scale)):
        return Rows(split, standardizer, flip=True)
    R, y, w = split.rows(slice(None)), split.labels, split.row_weights(slice(None))
    weights = None if w is None else np.tile(w, 2)
    rows, labels = np.concatenate([R, _mirrored(R, shape)]), np.tile(y, 2)
    both = replace(dataset, rows=rows, labels=labels, row_weights=weights, parts={})
    return Rows(both.everything, standardizer)


def _mirrored(rows: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Return the mirror images of rows (n, d) or of a row (d,), left to right."""
    return rows.reshape(-1, *image_shape)[..., ::-1].reshape(rows.shape)
