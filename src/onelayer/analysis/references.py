"""References: simple answers by which a model's figures are judged.

To add one, write a function that returns a `Reference` (or None where it does not apply), and put it into `REFERENCES`.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from onelayer.analysis.answers import Answers
from onelayer.analysis.estimates import Estimate, balanced_difference, difference, mean, named
from onelayer.analysis.evaluation import Evaluation, logits_of, matched_labels
from onelayer.coded import feature_blocks
from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.data.scan import read_forwards
from onelayer.features.map import Identity
from onelayer.layer import SoftmaxLayer, likeliest
from onelayer.model import Model
from onelayer.training import train as engine
from onelayer.words import printable

MOST_PRODUCTS, MOST_NUMBERS = 640_000_000, 100_000_000  # of an epoch of the layer on raw rows, and of its rows
MOST_EPOCHS, LEAST_ROWS = 50, 20
RAREST = 0.5  # rows that a class without training rows counts as, for a finite loss


@dataclass(frozen=True, eq=False)
class Reference(Answers):
    """The answers of a reference on the rows of an evaluation.

    Parameters
    ----------
    name : str
        The reference in a few words, such as ``always cat``.
    labels, predictions : ndarray (n,), int64
    weights : ndarray (n,), float64, or None
    class_names : tuple of K str
    losses : ndarray (n,), float64, or None
        Loss of each row in nats, if the reference gives probabilities.
    """

    name: str
    labels: np.ndarray
    predictions: np.ndarray
    weights: np.ndarray | None
    class_names: tuple[str, ...]
    losses: np.ndarray | None = None

    def __repr__(self) -> str:
        return f"<Reference {self.name}: accuracy {self.estimates['accuracy'].in_words()}>"

    def _estimated(self) -> dict[str, Estimate]:
        loss = {} if self.losses is None else {"loss": mean(self.losses, self.weights)}
        return super()._estimated() | loss


def class_frequencies(model: Model, train: Split, rows: Split, evaluation: Evaluation) -> Reference:
    """Return the answers of one who knows only how frequent the classes are in the training rows.

    The class is always the commonest; the loss is that of the frequencies as probabilities.
    """
    K = len(model.class_names)
    counts = np.bincount(matched_labels(model, train), train.row_weights(slice(None)), K).astype(np.float64)
    commonest = int(counts.argmax())
    shares = np.maximum(counts, RAREST)
    with np.errstate(divide="ignore"):  # of one class alone, the odds are infinite
        S = model.layer.loss.prior(shares / shares.sum())  # (K,)
    of_class = np.asarray(model.layer.loss.of_rows(np.tile(S, (K, 1)), np.arange(K)))  # (K,)
    answers = np.full(len(evaluation.labels), commonest)
    known = evaluation.labels, answers, evaluation.weights, model.class_names
    return Reference(f"always {printable(model.class_names[commonest])}", *known, of_class[evaluation.labels])


def nearest_class_mean(model: Model, train: Split, rows: Split, evaluation: Evaluation) -> Reference | None:
    """Return the answers of the class whose mean in the training rows is the nearest, in standardised features.

    Up to a number that is the same for all classes, -|x - mean_k|^2 / 2 is linear in x, so a layer computes it. It is
    None where other processes hold training rows, or their features, which take long to compute.
    """
    dataset = train.dataset
    if not dataset.is_complete or (dataset.processes.size > 1 and not isinstance(model.features, Identity)):
        return None
    means, known = _class_means(model, train)
    bias = np.where(known, -np.square(means).sum(axis=1) / 2, -np.inf)  # not a class without training rows
    layer = SoftmaxLayer(means.T, bias, model.layer.loss)
    S = logits_of(replace(model, layer=layer), rows)
    return Reference("nearest class mean", evaluation.labels, likeliest(S), evaluation.weights, model.class_names)


def layer_on_raw_rows(model: Model, train: Split, rows: Split, evaluation: Evaluation) -> Reference | None:
    """Return the answers of a layer on the raw rows, for a model on a feature map.

    It is None for other models, and where other processes hold training rows.

    It is trained by the defaults of `onelayer.train`, with the seed 0 and a tenth of its rows held out. Its name says
    how many rows there were, if they were not all training rows: `MOST_PRODUCTS` limits an epoch, and fifty times that
    all epochs, which takes a few seconds.
    """
    if isinstance(model.features, Identity) or not train.dataset.is_complete:
        return None
    d, K = model.features.d_in, len(model.class_names)
    known = np.arange(len(train)) if (w := train.row_weights(slice(None))) is None else np.flatnonzero(w)
    n = min(len(known), _rounded_down(min(MOST_PRODUCTS // (d * K), MOST_NUMBERS // d)))
    if n < LEAST_ROWS:
        return None
    chosen = np.random.default_rng(0).permutation(known)[:n]
    R, labels = train.rows(chosen), matched_labels(model, train)[chosen]
    weights = None if w is None else w[chosen] / w[chosen].mean()
    sample = Dataset(R, labels, model.class_names, model.image_shape, train.dataset.name, row_weights=weights)
    parts = {"train": slice(n // 10, n), "validation": slice(n // 10), "test": slice(0)}
    splits = Splits(**{name: Split(name, sample, np.arange(n)[part]) for name, part in parts.items()}, protocol="")
    most = MOST_EPOCHS * MOST_PRODUCTS / (n * d * K)
    raw = engine.train(splits, TrainConfig(seed=0), on_epoch=lambda state: state.epoch >= most, report_test=False).model
    of_some = f"{n:,} rows of " if n < len(known) else ""
    name = f"one layer on {of_some}raw {'pixels' if model.pixels else 'numbers'}"
    return Reference(name, evaluation.labels, likeliest(logits_of(raw, rows)), evaluation.weights, model.class_names)


def _rounded_down(count: int) -> int:
    """Return a whole number with two digits and zeros."""
    unit = 10 ** max(0, len(str(count)) - 2)
    return count // unit * unit


REFERENCES: list[Callable[[Model, Split, Split, Evaluation], Reference | None]] = [
    class_frequencies,
    nearest_class_mean,
    layer_on_raw_rows,
]


def references_for(model: Model, train: Split, rows: Split, evaluation: Evaluation) -> list[Reference]:
    """Return the answers of all references on the rows that a model was evaluated on.

    Parameters
    ----------
    model : Model
    train : Split
        The rows that the model was trained on.
    rows : Split
        Those of `evaluation`.
    evaluation : Evaluation
        Of `model` on `rows`.
    """
    found = (reference(model, train, rows, evaluation) for reference in REFERENCES)
    return [reference for reference in found if reference is not None]


@dataclass(frozen=True)
class Verdict:
    """A model against the best of its references on the same rows.

    Parameters
    ----------
    reference : Reference
        The one for which the figure is the highest.
    difference : Estimate
        Figure of the model minus that of the reference, with Newcombe's paired interval.
    figure : {"accuracy", "balanced_accuracy"}
    """

    reference: Reference
    difference: Estimate
    figure: str

    @property
    def better(self) -> bool:
        """True if the model is better beyond noise: the interval of the difference is above 0."""
        return self.difference.low > 0

    def __str__(self) -> str:
        against = f"{self.reference.name} ({self.reference.estimates[self.figure].number()})"
        of_figure = "" if self.figure == "accuracy" else f" of {named(self.figure)}"
        found = f"{self.difference.in_words()}{of_figure} on the same rows"
        if self.better:
            return f"better than the best reference, {against}, beyond noise: {found}"
        if self.difference.high < 0:
            return f"worse than {against}, beyond noise: {found}"
        return f"not better than {against} beyond noise: {found}"


def verdict_of(
    evaluation: Evaluation, references: Sequence[Reference], config: TrainConfig | None = None
) -> Verdict | None:
    """Compare a model with the best of its references; None without references.

    The figure is the accuracy, or the balanced accuracy if the settings `config` of the model have class weights.
    """
    if not references:
        return None
    balanced = config is not None and config.class_weight != "none"
    figure = "balanced_accuracy" if balanced else "accuracy"
    best = max(references, key=lambda reference: reference.estimates[figure].value)
    right = best.right, evaluation.right
    if balanced:
        return Verdict(best, balanced_difference(evaluation.labels, *right, evaluation.weights), figure)
    return Verdict(best, difference(*right, evaluation.weights), figure)


def _class_means(model: Model, train: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return the means (K, d) of the standardised features of each class in one pass, and which classes have rows.

    The features of a row are averages over its views.
    """
    K, d = len(model.class_names), model.features.d_out
    labels, sums, weight = matched_labels(model, train), np.zeros((K, d)), np.zeros(K)
    with read_forwards(train.dataset.rows):
        for block, of_views in feature_blocks(train, model.features):
            w, views = train.row_weights(block), model.features.views
            F = of_views if views == 1 else of_views.reshape(-1, views, d).mean(axis=1)
            # One row after the other is faster than np.add.at, and needs no time for classes that are not there.
            for place, label in enumerate(labels[block].tolist()):
                sums[label] += F[place] if w is None else F[place] * w[place]
                weight[label] += 1 if w is None else w[place]
    known = weight > 0
    means = (sums / np.where(known, weight, 1)[:, None] - model.standardizer.mean) / model.standardizer.scale
    means[~known] = 0
    if model.standardizer.constant is not None:
        means[:, model.standardizer.constant] = 0
    return means, known
