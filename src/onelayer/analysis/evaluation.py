"""Evaluation of a model on a split. Every mean is a sum over all rows, divided once."""

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from onelayer.analysis.answers import Answers
from onelayer.analysis.estimates import Estimate, mean, named
from onelayer.coded import feature_blocks
from onelayer.data.dataset import Split
from onelayer.drawing import draw, html_table
from onelayer.errors import DataError, OnelayerWarning, wrong_type
from onelayer.features.units import places_to_look_at
from onelayer.layer import likeliest
from onelayer.model import Model
from onelayer.words import counted, listed, percent, row_count

if TYPE_CHECKING:
    from matplotlib.figure import Figure


CLASS_FIGURES = ("precision", "recall", "f1")
CLASS_COLUMNS = ("rows", "precision", "interval", "recall", "interval", "F1", "interval")


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


TOP, FEWEST_FOR_TOP = 5, 10  # classes among which the true one is looked for, where there are at least this many
THRESHOLDS = (*(tenth / 10 for tenth in range(10)), 0.95, 0.99)  # of the confidence


@dataclass(frozen=True, eq=False)
class Evaluation(Answers):
    """A model's answers on a split. Where rows have weights, each counts by its weight.

    Each figure is an attribute, a fraction or in nats, and has its 95 % interval in `estimates`; `by_class` has the
    figures of the classes.

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
    losses : ndarray (n,), float64, or None
        Loss of each row, in nats. Without it, the interval of the loss is not known.
    """

    loss: float
    labels: np.ndarray
    predictions: np.ndarray
    probabilities: np.ndarray
    weights: np.ndarray | None = None
    class_names: tuple[str, ...] = ()
    name: str = "rows"
    losses: np.ndarray | None = None

    def __post_init__(self) -> None:
        if not self.class_names:
            object.__setattr__(self, "class_names", tuple(map(str, range(self.probabilities.shape[1]))))

    def __repr__(self) -> str:
        return f"<Evaluation of {self.in_words()}>"

    def _repr_html_(self) -> str:
        figures = ", ".join(f"{named(name)} {of.in_words()}" for name, of in self.estimates.items())
        caption = f"{self.rows_in_words()}: {figures}; 95 % intervals in brackets"
        return html_table(caption, CLASS_COLUMNS, self.classes_in_words())

    def classes_in_words(self, chosen: Sequence[int] | None = None) -> list[list[str]]:
        """Return the name and the `CLASS_COLUMNS` of each class, or of some classes."""
        columns = self.by_class
        table = []
        for k in range(len(self.class_names)) if chosen is None else chosen:
            of_class = [Estimate(*(columns[name + end][k] for end in ("", "_low", "_high"))) for name in CLASS_FIGURES]
            cells = [cell for estimate in of_class for cell in (estimate.number(), estimate.interval())]
            table.append([self.class_names[k], row_count(columns["rows"][k]), *cells])
        return table

    def rows_in_words(self) -> str:
        """Return the name and the number of rows."""
        weighted = "" if self.weights is None else f", which count by weight as {self.effective_rows:,.0f}"
        return f"{self.name}: {counted(len(self.labels), 'row')}{weighted}"

    def in_words(self) -> str:
        """Return the rows, their loss and their accuracy in a line."""
        loss, accuracy = (self.estimates[name].in_words() for name in ("loss", "accuracy"))
        return f"{self.rows_in_words()}, loss {loss}, accuracy {accuracy}"

    def draw(self) -> "Figure":
        """Return a picture of the confusion matrix, a matplotlib figure."""
        return draw(self)

    def median(self, of_rows: np.ndarray) -> float:
        """Return the median over the rows of numbers (n,)."""
        if self.weights is None:
            return float(np.median(of_rows))
        return float(np.quantile(of_rows, 0.5, weights=self.weights, method="inverted_cdf"))

    def _estimated(self) -> dict[str, Estimate]:
        found = super()._estimated()
        if len(self.class_names) >= FEWEST_FOR_TOP:
            found[f"top_{TOP}_accuracy"] = self.fraction(self.among_top(TOP))
        found["loss"] = Estimate(self.loss, np.nan, np.nan, "nats")
        if self.losses is not None:
            loss = mean(self.losses, self.weights)
            found["loss"] = replace(loss, value=self.loss, low=max(0.0, loss.low))
        # To first order, the error is a mean over the rows: of confidence - right, or its negative, by the bin's side.
        of_bins = self.reliability()
        sides = np.sign(np.nan_to_num(of_bins.confidence - of_bins.accuracy))
        error = mean(sides[bins_of(self.confidences, len(sides))] * (self.confidences - self.right), self.weights, "%")
        found["calibration_error"] = replace(error, low=max(0.0, error.low))
        return found

    def among_top(self, count: int) -> np.ndarray:
        """Return whether the true class is one of the `count` likeliest of its row (n,), bool."""
        P, of_true = self.probabilities, self.true_class_probabilities[:, None]
        before = np.arange(P.shape[1]) < self.labels[:, None]  # of equal ones, the first is the likelier
        found: np.ndarray = ((of_true < P) | ((of_true == P) & before)).sum(axis=1) < count
        return found | self.right  # where large logits have the same probability

    @property
    def top_5_accuracy(self) -> float:
        """Fraction of rows whose true class is one of the five likeliest."""
        return self.mean(self.among_top(TOP))

    @property
    def calibration_error(self) -> float:
        """Expected calibration error in 15 bins of equal width; see `Reliability`."""
        return self.reliability().expected_calibration_error

    def thresholds(self, at: Sequence[float] = THRESHOLDS) -> dict[str, np.ndarray]:
        """Return the fraction of rows that are answered, and their accuracy, if unsure answers are left out.

        Parameters
        ----------
        at : sequence of t float
            Least confidence of an answer.

        Returns
        -------
        dict of str to ndarray (t,), float64
            `threshold`, `coverage` and `accuracy`, the last two each with `_low` and `_high`. The accuracy of no
            answers is NaN.
        """
        rows = []
        for threshold in at:
            sure = self.confidences >= threshold
            estimates = self.fraction(sure), self.fraction(self.right, of=sure)
            rows.append([threshold, *(number for e in estimates for number in (e.value, e.low, e.high))])
        names = [what + end for what in ("coverage", "accuracy") for end in ("", "_low", "_high")]
        return dict(zip(("threshold", *names), np.array(rows).T, strict=True))

    @cached_property
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
        place = bins_of(confidences, bins)
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
    if not isinstance(model, Model):
        raise wrong_type("model", model, "a Model, such as result.model or load_run(...).model")
    if not isinstance(split, Split):
        raise wrong_type("split", split, "one of the splits: splits.test, or dataset.everything")
    dataset = split.dataset
    if split.weight == 0:
        raise DataError(f"the split {split.name} of {dataset.name} has no rows to evaluate; choose another")
    d = model.features.d_in
    if dataset.rows.shape[1] != d:
        raise DataError(f"{dataset.name} has rows of {dataset.rows.shape[1]} numbers; the model is for {d} numbers")
    labels = matched_labels(model, split)
    model.warn_of(split.rows(places_to_look_at(len(split))), f"{dataset.name}, {split.name}", stacklevel=3)
    S = logits_of(model, split)  # (n, K)
    losses = model.layer.loss.of_rows(S, labels).astype(np.float64)
    probabilities = np.asarray(model.layer.loss.probabilities(S))
    weights = split.row_weights(slice(None))
    loss = float((losses if weights is None else losses * weights).sum() / split.weight)
    name = f"{dataset.name}, {split.name}"
    return Evaluation(loss, labels, likeliest(S), probabilities, weights, model.class_names, name, losses)


def logits_of(model: Model, split: Split) -> np.ndarray:
    """Return the logits (n, K), float64, of the rows of a split, a block of them at a time."""
    return model.logits_of_features(F for _, F in feature_blocks(split, model.features))


def bins_of(confidences: np.ndarray, bins: int) -> np.ndarray:
    """Return the place of each confidence (n,) among bins of equal width; 1 belongs to the last."""
    return np.minimum((confidences.astype(np.float64) * bins).astype(np.int64), bins - 1)


def matched_labels(model: Model, split: Split) -> np.ndarray:
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
