"""Figures of answers: the predicted classes of rows against the true ones."""

from functools import cached_property

import numpy as np

from onelayer.analysis.estimates import Estimate, effective_rows, fraction, mean_of_classes, wilson


class Answers:
    """Predicted classes of rows, and the figures of them that need no probabilities.

    Where rows have weights, each counts by its weight. The averages over classes are those of scikit-learn: a class
    that is neither true nor predicted for any row is left out, and a class that is never predicted has a precision of
    0; only `balanced_accuracy` leaves out the classes without rows.

    Attributes
    ----------
    labels, predictions : ndarray (n,), int64
        True and predicted class of each row.
    weights : ndarray (n,), float64, or None
        Weight of each row; None is 1 for all.
    class_names : tuple of K str
    """

    labels: np.ndarray
    predictions: np.ndarray
    weights: np.ndarray | None
    class_names: tuple[str, ...]

    def mean(self, of_rows: np.ndarray) -> float:
        """Return the mean over the rows of numbers (n,)."""
        # No product of BLAS is used here, since its bits depend on the number of threads.
        return float(of_rows.mean() if self.weights is None else (of_rows * self.weights).sum() / self.weights.sum())

    @cached_property
    def effective_rows(self) -> float:
        """The number of equal rows that would scatter as much: (sum of w)^2 / (sum of w^2), without weights n."""
        return float(len(self.labels)) if self.weights is None else effective_rows(self.weights)

    def fraction(self, chosen: np.ndarray, of: np.ndarray | None = None) -> Estimate:
        """Return the fraction of rows that are chosen (n,), bool, or of the rows `of` (n,), bool, with its interval."""
        if of is None:
            return fraction(self.mean(chosen), self.effective_rows)
        weights = np.ones(np.count_nonzero(of)) if self.weights is None else self.weights[of]
        n = effective_rows(weights)
        return fraction(float((weights * chosen[of]).sum() / weights.sum()) if n else np.nan, n)

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
    def balanced_accuracy(self) -> float:
        """Mean of the recalls of the classes that have rows."""
        return self.estimates["balanced_accuracy"].value

    @property
    def macro_precision(self) -> float:
        """Mean precision of the classes."""
        return self.estimates["macro_precision"].value

    @property
    def macro_recall(self) -> float:
        """Mean recall of the classes."""
        return self.estimates["macro_recall"].value

    @property
    def macro_f1(self) -> float:
        """Mean F1 of the classes."""
        return self.estimates["macro_f1"].value

    @property
    def confusion(self) -> np.ndarray:
        """Counts (K, K), int64 or with weights float64: rows are true classes, columns predicted ones."""
        K = len(self.class_names)
        return np.bincount(self.labels * K + self.predictions, self.weights, K * K).reshape(K, K)

    def confused(self, count: int) -> list[tuple[int, int, float]]:
        """Return the most frequent confusions (at most `count`): the true class, the predicted one, and the rows."""
        K, wrong = len(self.class_names), ~self.right
        cells, at = np.unique(self.labels[wrong] * K + self.predictions[wrong], return_inverse=True)
        rows = np.bincount(at, None if self.weights is None else self.weights[wrong], len(cells))
        first = np.argsort(-rows, kind="stable")[:count]
        return [(*divmod(int(cells[k]), K), rows[k].item()) for k in first if rows[k] > 0]

    @property
    def class_accuracies(self) -> np.ndarray:
        """Fraction right of each class (K,), its recall; NaN for a class without rows."""
        return self.by_class["recall"]

    @cached_property
    def by_class(self) -> dict[str, np.ndarray]:
        """Figures of each class with their intervals, as columns (K,) by name, for ``pandas.DataFrame(...)``.

        `rows` and `predicted` are the rows of the class and the rows that were taken for it; `precision`, `recall` and
        `f1` each have a `_low` and a `_high`. A figure of no rows is NaN.
        """
        of_class, of_answer, of_right = (self._sums(chosen) for chosen in self._places)
        union = [of_class[k] + of_answer[k] - of_right[k] for k in (0, 1)]
        unit = 1 if self.weights is None else self.weights.max()
        columns: dict[str, np.ndarray] = {
            "class": np.array(self.class_names, dtype=object),
            "rows": of_class[0] * unit,
            "predicted": of_answer[0] * unit,
        }
        # F1 = 2 J / (1 + J), where J is the fraction of right rows among those that are of the class or taken for it.
        for name, (total, squares) in (("precision", of_answer), ("recall", of_class), ("f1", union)):
            some = total > 0
            share = np.divide(of_right[0], total, out=np.full(len(total), np.nan), where=some)
            n = np.divide(total**2, squares, out=np.zeros(len(total)), where=some)
            ends = (share, *wilson(share, n))
            shown = [2 * end / (1 + end) for end in ends] if name == "f1" else ends
            columns |= dict(zip((name, f"{name}_low", f"{name}_high"), shown, strict=True))
        return columns

    @cached_property
    def estimates(self) -> dict[str, Estimate]:
        """The figures of all rows with their 95 % intervals, by name."""
        return self._estimated()

    def _estimated(self) -> dict[str, Estimate]:
        columns = self.by_class
        known = columns["rows"] > 0
        present = known | (columns["predicted"] > 0)
        averages = {
            "balanced_accuracy": self._average("recall", known),
            "macro_precision": self._average("precision", present),
            "macro_recall": self._average("recall", present),
            "macro_f1": self._average("f1", present, self._shared_by_f1()),
        }
        return {"accuracy": self.fraction(self.right), **averages}

    def _average(self, name: str, chosen: np.ndarray, shared: float = 1.0) -> Estimate:
        share, low, high = (self.by_class[name + end][chosen] for end in ("", "_low", "_high"))
        return mean_of_classes(share, low, high, shared)

    @property
    def _places(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """True classes, predicted classes, and the classes of the rows that are right, as numbers up to K."""
        return self.labels, self.predictions, np.where(self.right, self.labels, len(self.class_names))

    @cached_property
    def _shares(self) -> np.ndarray | None:
        """Weights as fractions of the largest (n,), since the squares of tiny ones would be 0; None is 1 for all."""
        return None if self.weights is None else self.weights / (self.weights.max() or 1)

    def _sums(self, places: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return the sums (K,) of `_shares` and of their squares over the rows at each class."""
        w, K = self._shares, len(self.class_names)
        sums = np.bincount(places, w, K + 1)[:K]
        return sums, sums if w is None else np.bincount(places, w * w, K + 1)[:K]

    def _shared_by_f1(self) -> float:
        """Return the variance of the sum of the classes' F1 divided by the sum of their variances, to first order.

        A mistake lowers the F1 of two classes, so the two vary together.
        """
        w = np.ones(len(self.labels)) if self._shares is None else self._shares
        rows, predicted, f1 = (np.nan_to_num(self.by_class[name]) for name in ("rows", "predicted", "f1"))
        size = (rows + predicted) / (1 if self.weights is None else self.weights.max())
        per_row = np.divide(1, size, out=np.zeros(len(rows)), where=size > 0)
        gain, loss = 2 * (1 - f1) * per_row, f1 * per_row  # of F1 by a right row and by a wrong one
        true, answer, wrong = loss[self.labels], loss[self.predictions], ~self.right
        alone = np.where(wrong, true**2 + answer**2, gain[self.labels] ** 2)
        both = np.where(wrong, 2 * true * answer, 0)
        total = float((w * w * alone).sum())
        return 1 + float((w * w * both).sum()) / total if total > 0 else 1.0
