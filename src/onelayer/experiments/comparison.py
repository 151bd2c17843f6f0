"""Comparison of two runs or settings by their answers on the same rows: a difference, or only noise.

A row that both get right, or both get wrong, says nothing about their difference and drops out. There are two sources
of noise: other rows would give another difference, and so would other seeds (initial weights, order of the rows). Each
source has an interval of its own:

- over the rows: a bootstrap. The seeds are held fixed; a row is drawn with its answers of all seeds;
- over the seeds, if there are several: Student's t of the seeds' differences. The rows are held fixed.

Neither interval covers the other source. The two are independent, so the interval for other rows and other seeds adds
their distances from the difference as squares, as standard errors are added. It is a little too wide, since the joint
effect of rows and seeds is counted in both.

One side is better where this interval leaves out 0 by a third of its reach and each test has a p value below 0.05.
"""

import math
from dataclasses import dataclass, field

import numpy as np
from scipy import stats

from onelayer.analysis.estimates import Estimate, balanced_difference
from onelayer.errors import DataError

LEVEL = 0.95
RESAMPLES = 9999

Interval = tuple[float, float]


@dataclass(frozen=True)
class Comparison:
    """B against A on the same rows; differences are accuracies of B minus those of A, as fractions.

    Parameters
    ----------
    both, only_a, only_b, neither : int, or float where rows have weights
        Number of rows that are right, summed over the pairs.
    row_p_value : float
        p value of the exact sign test of the rows that differ; for one pair this is McNemar's test. Where rows have
        weights, the signs are drawn.
    seed_p_value : float, optional
        p value of the paired t test over the seeds; NaN where all differ by the same, None for one pair.
    row_interval : (float, float)
        95 % bootstrap interval of the difference over the rows, for these seeds.
    seed_interval : (float, float), optional
        95 % t interval over the seeds, for these rows; None for one pair.
    pairs, rows : int
        Number of pairs of seeds, and of rows with a weight above 0.
    names : (str, str)
        Names of A and of B, for the verdict.
    balanced : (float, float, Estimate), optional
        Balanced accuracies of A and of B, means over the pairs, and their difference with its interval over the rows;
        known where classes have weights in training.
    """

    both: float
    only_a: float
    only_b: float
    neither: float
    row_p_value: float
    seed_p_value: float | None
    row_interval: Interval
    seed_interval: Interval | None
    pairs: int
    rows: int
    names: tuple[str, str] = field(default=("A", "B"), compare=False)
    balanced: tuple[float, float, Estimate] | None = None

    @property
    def accuracy_a(self) -> float:
        """Accuracy of A, mean over the pairs."""
        return (self.both + self.only_a) / (self.pairs * self.rows)

    @property
    def accuracy_b(self) -> float:
        """Accuracy of B, mean over the pairs."""
        return (self.both + self.only_b) / (self.pairs * self.rows)

    @property
    def difference(self) -> float:
        """Accuracy of B minus accuracy of A, mean over the pairs."""
        return (self.only_b - self.only_a) / (self.pairs * self.rows)

    @property
    def interval(self) -> Interval:
        """95 % interval over the rows, and over the seeds as well where there are several."""
        if self.seed_interval is None:
            return self.row_interval
        low, high = (
            math.hypot(row_end - self.difference, seed_end - self.difference)
            for row_end, seed_end in zip(self.row_interval, self.seed_interval, strict=True)
        )
        return self.difference - low, self.difference + high

    @property
    def objections(self) -> tuple[str, ...]:
        """Reasons to doubt a difference though its interval leaves out 0, in words.

        A p value of 0.05 or more is one: where very few rows differ, the interval may leave out 0 anyway. That the
        interval would contain 0 if it were a third wider, about a 99 % interval, is another: with five seeds more or
        less, the interval itself may contain it.
        """
        low, high = (end + (end - self.difference) / 3 for end in self.interval)
        near = ("0 is near the end of the interval",) if low <= 0 <= high else ()
        p_values = (("rows", self.row_p_value), ("seeds", self.seed_p_value or 0))  # NaN objects to nothing
        large = (f"p value {p_value:.2g} over the {source}" for source, p_value in p_values if p_value >= 1 - LEVEL)
        return *large, *near

    def verdict(self) -> str:
        """Return the outcome in a sentence, which names the better side first."""
        low, high = self.interval
        found = in_points(self.difference, self.interval, sign="+")
        if low <= 0 <= high:
            return f"no difference beyond noise ({found})"
        if self.objections:
            return f"no clear difference ({found}, but {' and '.join(self.objections)})"
        better, other = self.names[::-1] if self.difference > 0 else self.names
        ends = (low, high) if self.difference > 0 else (-high, -low)
        return f"{better} is better than {other} by {in_points(abs(self.difference), ends, between=' (')})"


def compare_answers(
    right_a: np.ndarray,
    right_b: np.ndarray,
    weights: np.ndarray | None = None,
    *,
    names: tuple[str, str] = ("A", "B"),
    rng_seed: int = 0,
) -> Comparison:
    """Compare A and B by the rows that each gets right.

    Parameters
    ----------
    right_a, right_b : ndarray (n,) or (seeds, n), bool
        Whether A and B get each row right; of the same rows, and of the same seeds in the same order.
    weights : ndarray (n,), optional
        Weight of each row; only the ratios matter.
    names : (str, str)
        Names of A and of B, for the verdict.
    rng_seed : int
        Seed for the bootstrap and the drawn signs.

    Raises
    ------
    DataError
        If the arrays do not fit each other.
    """
    if right_a.shape != right_b.shape or right_a.ndim not in (1, 2) or right_a.size == 0:
        raise DataError(f"answers of shapes {right_a.shape} and {right_b.shape}; expected (n,) or (seeds, n) for both")
    if right_a.dtype != bool or right_b.dtype != bool:
        raise DataError(f"answers are {right_a.dtype} and {right_b.dtype}; expected bool, true where a row is right")
    A, B = np.atleast_2d(right_a), np.atleast_2d(right_b)  # (pairs, n)
    if weights is not None:
        if weights.shape != A.shape[1:] or not weights.any():
            raise DataError(f"weights of the shape {weights.shape} for {A.shape[1]} rows; expected one each, not all 0")
        A, B, weights = A[:, weights > 0], B[:, weights > 0], weights[weights > 0]
        weights = None if (weights == weights[0]).all() else weights / weights.mean()
    pairs, n = A.shape
    differences = B.sum(axis=0) - A.sum(axis=0)  # (n,)
    only_a: float
    only_b: float
    both: float
    if weights is None:
        only_a, only_b, both = (int(np.count_nonzero(chosen)) for chosen in (A & ~B, B & ~A, A & B))
        row_interval = _row_interval(differences, pairs, rng_seed)
        # If both are equally good, each row that one gets right more often than the other is the toss of a fair coin.
        for_a, for_b = (int(np.count_nonzero(sign * differences > 0)) for sign in (-1, 1))
        row_p_value = float(stats.binomtest(for_b, for_a + for_b).pvalue) if for_a + for_b else 1.0
    else:
        only_a, only_b, both = (float((chosen * weights).sum()) for chosen in (A & ~B, B & ~A, A & B))
        row_interval, row_p_value = _over_weighted_rows(differences, weights, pairs, rng_seed)
    means_a, means_b = (np.average(side, axis=1, weights=weights) for side in (A, B))  # (pairs,)
    seed_p_value, seed_interval = _over_seeds(means_b - means_a) if pairs > 1 else (None, None)
    neither = A.size - both - only_a - only_b
    intervals = row_interval, seed_interval
    return Comparison(both, only_a, only_b, neither, row_p_value, seed_p_value, *intervals, pairs, n, names)


def compare_balanced(
    right_a: np.ndarray, right_b: np.ndarray, labels: np.ndarray, weights: np.ndarray | None = None
) -> tuple[float, float, Estimate]:
    """Return the balanced accuracies of A and of B, means over the pairs, and their difference.

    The interval is the mean of those of the pairs, for these seeds: seeds that share rows make it no narrower.

    Parameters
    ----------
    right_a, right_b : ndarray (pairs, n), bool
    labels : ndarray (n,), int64
    weights : ndarray (n,), optional
    """
    nothing = np.zeros_like(labels, dtype=bool)
    a, b = (
        float(np.mean([balanced_difference(labels, nothing, right, weights).value for right in side]))
        for side in (right_a, right_b)
    )
    found = [balanced_difference(labels, *pair, weights) for pair in zip(right_a, right_b, strict=True)]
    value, low, high = np.mean([(of.value, of.low, of.high) for of in found], axis=0).tolist()
    return a, b, Estimate(value, low, high, "points")


def in_points(difference: float, interval: Interval, sign: str = "", between: str = ", ") -> str:
    """Return a difference of accuracies in words: ``+0.2 points, 95 % interval -0.3 to 0.7``."""
    low, high = (100 * end for end in interval)
    # Enough to tell the ends from each other, and from 0.
    digits = 1 if high - low >= 0.95 and min(abs(low), abs(high)) >= 0.05 else 2
    return f"{100 * difference:{sign}z.{digits}f} points{between}95 % interval {low:z.{digits}f} to {high:z.{digits}f}"


def _row_interval(differences: np.ndarray, pairs: int, rng_seed: int) -> Interval:
    """Return the percentile bootstrap interval over rows whose differences (n,) are from -pairs to pairs.

    The counts of the values in n rows drawn with replacement have a multinomial distribution. Drawing the counts is
    the bootstrap itself, not an approximation, without its (resamples, n) array.
    """
    n = len(differences)
    values = np.arange(-pairs, pairs + 1)
    counts = np.bincount(differences + pairs, minlength=len(values))
    swapped = counts.tolist() > counts[::-1].tolist()  # so that A against B draws what B against A does
    draws = np.random.default_rng(rng_seed).multinomial(n, (counts[::-1] if swapped else counts) / n, RESAMPLES)
    means = draws @ values / (n * pairs)
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    return (-high, -low) if swapped else (low, high)


def _over_weighted_rows(
    differences: np.ndarray, weights: np.ndarray, pairs: int, rng_seed: int
) -> tuple[Interval, float]:
    """Return the percentile bootstrap interval over rows with weights (n,), and the p value of drawn signs."""
    rng, n = np.random.default_rng(rng_seed), len(weights)
    sums, signs = weights * differences / pairs, (weights * np.sign(differences))[differences != 0]
    means, tosses = np.empty(RESAMPLES), np.empty(RESAMPLES)
    for resample in range(RESAMPLES):
        drawn = rng.integers(n, size=n)
        means[resample] = sums[drawn].sum() / weights[drawn].sum()
        tosses[resample] = abs(signs @ (2.0 * rng.integers(2, size=len(signs)) - 1))
    low, high = np.quantile(means, [(1 - LEVEL) / 2, (1 + LEVEL) / 2]).tolist()
    as_far = np.count_nonzero(tosses >= abs(signs.sum()) * (1 - 1e-9))  # sums in another order are rounded differently
    return (low, high), (1 + as_far) / (1 + RESAMPLES)


def _over_seeds(differences: np.ndarray) -> tuple[float, Interval]:
    """Return p value and interval of the paired t test; scipy's own warns where all seeds differ by the same."""
    count, mean = len(differences), float(differences.mean())
    standard_error = float(differences.std(ddof=1) / np.sqrt(count))
    margin = float(stats.t.ppf((1 + LEVEL) / 2, count - 1)) * standard_error
    if standard_error == 0:
        return math.nan, (mean, mean)
    return float(2 * stats.t.sf(abs(mean) / standard_error, count - 1)), (mean - margin, mean + margin)
