"""Evaluation of a model on a split. Every mean is a sum over all rows, divided once."""

import warnings
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from onelayer.data.dataset import Split
from onelayer.drawing import draw, html_table
from onelayer.errors import DataError, OnelayerWarning
from onelayer.features.standardizer import BLOCK_ROWS
from onelayer.features.units import places_to_look_at
from onelayer.layer import likeliest
from onelayer.model import Model
from onelayer.words import counted, listed, percent, row_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True, eq=False)
class Reliability:
    """Confidence and accuracy of the answers in bins of confidence. The means of a bin without answers are NaN.

    The confidence of an answer is the probability of the predicted class.

    Parameters
    ----------
    edges : ndarray (B + 1,)
        Edges of the bins: each begins at its edge, and the last ends at 1.
    counts : ndarray (B,), int64, or float64 where rows have weights
        Number of answers in each bin.
    confidence, accuracy : ndarray (B,)
        Mean confidence of the answers in each bin, and the fraction of them that is right.
    """

    edges: np.ndarray
    counts: np.ndarray
    confidence: np.ndarray
    accuracy: np.ndarray

    def __repr__(self) -> str:
        error = percent(self.expected_calibration_error)
        return f"<Reliability in {counted(len(self.counts), 'bin')}: expected calibration error {error}>"

    @property
    def expected_calibration_error(self) -> float:
        """Mean over the answers of the distance of confidence and accuracy of their bin (Guo et al., 2017)."""
        gaps = np.abs(self.accuracy - self.confidence)
        return float(np.nansum(self.counts * gaps) / self.counts.sum())


@dataclass(frozen=True, eq=False)
class Evaluation:
    """A model's answers on a split. Where rows have weights, each counts by its weight.

    Parameters
    ----------
    loss : float
        Mean loss of the rows, in nats.
    labels, predictions : ndarray (n,), int64
        True and predicted class of each row.
    probabilities : ndarray (n, K)
    weights : ndarray (n,), float64, or None
        Weight of each row; None is 1 for all.
    class_names : tuple of K str
        By default the numbers of the classes.
    name : str
        The data set and the split, in words.
    """

    loss: float
    labels: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray
    weights: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    name: str = "rows"

    def __post_init__(self) -> None:
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(map(str, range(self.probabilities.shape[1]))))

    def __repr__(self) -> str:
        return f"<Evaluation of {self.in_words()}>"

    def _repr_html_(self) -> str:
        caption = f"{self.in_words()} (standard error {percent(self.standard_error)})"
        return html_table(caption, ("rows", "accuracy"), self.classes_in_words())

    def classes_in_words(self) -> list[list[str]]:
        """Return the name, the number of rows and the accuracy of each class."""
        of_class = zip(self.class_names, self.confusion.sum(axis=1), self.class_accuracies, strict=True)
        return [[name, row_count(count), percent(accuracy) if count else "-"] for name, count, accuracy in of_class]

    def in_words(self) -> str:
        """Return the rows, their loss and their accuracy in a line."""
        return f"{self.name}: {len(self.labels):,} rows, loss {self.loss:.4f} nats, accuracy {percent(self.accuracy)}"

    def draw(self) -> "Figure":
        """Return a picture of the confusion matrix, a matplotlib figure."""
        return draw(self)

    def mean(self, of_rows: np.ndarray) -> float:
        """Return the mean over the rows of numbers (n,)."""
        # No product of BLAS is used here, since its bits depend on the number of threads.
        return float(of_rows.mean() if self.weights is None else (of_rows * self.weights).sum() / self.weights.sum())

    def median(self, of_rows: np.ndarray) -> float:
        """Return the median over the rows of numbers (n,)."""
        if self.weights is None:
            return float(np.median(of_rows))
        return float(np.quantile(of_rows, 0.5, weights=self.weights, method="inverted_cdf"))

    @property
    def right(self) -> np.ndarray:
        """Rows that are right (n,), bool."""
        found: np.ndarray = self.predictions == self.labels
        return found

    @property
    def accuracy(self) -> float:
        """Fraction of rows that are right."""
        return self.mean(self.right)

    @property
    def standard_error(self) -> float:
        """Standard error of the accuracy p, sqrt(p (1 - p) / n): its scatter over other draws of n rows.

        With weights w, n is (sum of w)^2 / (sum of w^2), the number of equal rows that would scatter as much.
        """
        w = None if self.weights is None else self.weights / self.weights.max()  # squares of tiny ones would be 0
        n = len(self.labels) if w is None else w.sum() ** 2 / (w * w).sum()
        return float(np.sqrt(self.accuracy * (1 - self.accuracy) / n))

    @property
    def confusion(self) -> np.ndarray:
        """Counts (K, K), int64 or with weights float64: rows are true classes, columns predicted ones."""
        K = self.probabilities.shape[1]
        return np.bincount(self.labels * K + self.predictions, self.weights, K * K).reshape(K, K)

    @property
    def class_accuracies(self) -> np.ndarray:
        """Fraction right of each class (K,); NaN for a class without rows."""
        counts = self.confusion
        of_class = counts.sum(axis=1)
        return np.divide(counts.diagonal(), of_class, out=np.full(len(counts), np.nan), where=of_class > 0)

    @property
    def confidences(self) -> np.ndarray:
        """Probability of the predicted class (n,)."""
        return self.probabilities[np.arange(len(self.labels)), self.predictions]

    @property
    def true_class_probabilities(self) -> np.ndarray:
        """Probability of the true class (n,)."""
        return self.probabilities[np.arange(len(self.labels)), self.labels]

    def reliability(self, bins: int = 15) -> Reliability:
        """Return confidence and accuracy in bins of equal width."""
        confidences = self.confidences.astype(np.float64)
        place = np.minimum((confidences * bins).astype(np.int64), bins - 1)
        counts, w = np.bincount(place, self.weights, bins), 1 if self.weights is None else self.weights
        sums = (np.bincount(place, of_rows * w, bins) for of_rows in (confidences, self.right))
        means = (np.divide(total, counts, out=np.full(bins, np.nan), where=counts > 0) for total in sums)
        return Reliability(np.linspace(0, 1, bins + 1), counts, *means)

    def worst_mistakes(self, count: int) -> np.ndarray:
        """Places (at most `count`,) of the wrong rows, the most probable prediction first."""
        return self.most_confident(~self.right, count)

    def most_confident(self, chosen: np.ndarray, count: int) -> np.ndarray:
        """Return places (at most `count`,) of chosen rows (n,), bool, the most probable prediction first.

        Rows of weight 0 are left out.
        """
        places = np.flatnonzero(chosen if self.weights is None else chosen & (self.weights > 0))
        return places[np.argsort(-self.confidences[places], kind="stable")[:count]]


def evaluate(model: Model, split: Split) -> Evaluation:
    """Evaluate a model on a split, whose classes are matched with the model's by name.

    Raises
    ------
    DataError
        If the split has no rows, or its rows or classes are not the model's.
    """
    dataset = split.dataset
    if split.weight == 0:
        raise DataError(f"the split {split.name} of {dataset.name} has no rows to evaluate; choose another")
    d = model.features.d_in
    if dataset.rows.shape[1] != d:
        raise DataError(f"{dataset.name} has rows of {dataset.rows.shape[1]} numbers; the model is for {d} numbers")
    labels = _matched_labels(model, split)
    model.warn_of(split.rows(places_to_look_at(len(split))), f"{dataset.name}, {split.name}", stacklevel=3)
    exact = model.in_float64()  # once, and not in every block
    S = np.concatenate([exact.unchecked_logits(rows) for rows in split.row_blocks(BLOCK_ROWS)])  # (n, K)
    losses = model.layer.loss.of_rows(S, labels).astype(np.float64)
    probabilities = np.asarray(model.layer.loss.probabilities(S))
    weights = split.row_weights(slice(None))
    loss = float((losses if weights is None else losses * weights).sum() / split.weight)
    name = f"{dataset.name}, {split.name}"
    return Evaluation(loss, labels, likeliest(S), probabilities, weights, model.class_names, name)


def _matched_labels(model: Model, split: Split) -> np.ndarray:
    """Return labels (n,) of a split in the model's numbering of the classes, which are matched by name."""
    dataset, known = split.dataset, model.class_names
    if dataset.class_names == known:
        return split.labels
    places = np.array([known.index(name) if name in known else -1 for name in dataset.class_names])
    unknown = [dataset.class_names[k] for k in np.unique(split.labels) if places[k] < 0]
    if unknown and set(dataset.class_names) <= set(map(str, range(len(known)))) and not any(map(str.isdecimal, known)):
        places = np.array([int(name) for name in dataset.class_names])
        meanings = listed([f"{name} is {known[int(name)]}" for name in dataset.class_names])
        what = f"the classes of {dataset.name} are numbers, taken for the places of the model's classes: {meanings}"
        warnings.warn(OnelayerWarning(what), stacklevel=3)
    elif unknown:
        raise DataError(
            f"{dataset.name} has rows of classes that the model does not know: {listed(unknown)}; it knows "
            f"{listed(known)}; rename these classes, or leave their rows out"
        )
    return places[split.labels]
