"""Estimates: figures with their 95 % intervals, which say how far other rows of the same kind could move them.

One convention holds for all figures:

- a fraction of rows has Wilson's interval (Wilson, "Probable inference, the law of succession, and statistical
  inference", 1927), which is good for few rows and for fractions near 0 and 1;
- rows with weights w count as n = (sum of w)^2 / (sum of w^2) equal rows, which would scatter as much (Kish, 1965);
- a mean of classes adds the distances of the classes' ends as squares (Zou and Donner, "Construction of confidence
  limits about effect measures", 2008);
- a mean over the rows of other numbers, such as the loss, has a normal interval;
- a difference of two fractions of the same rows has Newcombe's paired interval ("Improved confidence intervals for the
  difference between binomial proportions based on paired data", 1998, method 10).

A figure is printed with as many digits as its interval allows: the last one is worth between 1/35 and 1/3.5 of half
the interval, as the Particle Data Group rounds.
"""

import math
from dataclasses import dataclass

import numpy as np

from onelayer.words import spaced

Z = 1.959963984540054  # 97.5 % quantile of the normal distribution
MOST_DIGITS = 4  # of a number, and two less of a percentage
COARSEST = 3.55  # of half an interval, in units of the last digit


@dataclass(frozen=True)
class Estimate:
    """A figure with its 95 % interval.

    Parameters
    ----------
    value, low, high : float
        NaN where it is not known.
    unit : {"%", "nats", "points"}
        The unit in which it is printed. Values in percent or points are fractions.
    """

    value: float
    low: float
    high: float
    unit: str = "%"

    def __str__(self) -> str:
        return self.in_words()

    @property
    def digits(self) -> int:
        """The number of decimals that the interval allows."""
        scaled = self._scale * (self.high - self.low) / 2
        most = MOST_DIGITS - (2 if self._scale == 100 else 0)
        if not scaled > 0:
            return most
        return min(most, max(0, math.ceil(math.log10(COARSEST / scaled))))

    def number(self) -> str:
        """Return the figure with its unit: 39.1 %; a dash where it is not known."""
        return "-" if math.isnan(self.value) else f"{self._written(self.value)} {self.unit}"

    def interval(self) -> str:
        """Return the ends of the interval, without the unit: 38.2 to 40.1."""
        return "-" if math.isnan(self.low) else f"{self._written(self.low)} to {self._written(self.high)}"

    def in_words(self) -> str:
        """Return the figure and its interval: 39.1 % (38.2 to 40.1)."""
        return self.number() if math.isnan(self.low) else f"{self.number()} ({self.interval()})"

    @property
    def _scale(self) -> int:
        return 1 if self.unit == "nats" else 100

    def _written(self, value: float) -> str:
        return f"{self._scale * value:{'+' if self.unit == 'points' else ''}z.{self.digits}f}"


def named(figure: str) -> str:
    """Return the name of a figure as people read it: macro F1."""
    return spaced(figure).replace("f1", "F1").replace("top ", "top-")


def effective_rows(weights: np.ndarray) -> float:
    """Return the number of equal rows that scatter as much as rows with these weights (n,); 0 if all weigh nothing."""
    most = weights.max(initial=0.0)
    if most == 0:
        return 0.0
    w = weights / most  # the squares of tiny weights would be 0
    return float(w.sum() ** 2 / (w * w).sum())


def wilson(shares: np.ndarray, rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Return the ends of the intervals of fractions, each of a number of rows; NaN where there are none."""
    n = np.where(np.asarray(rows) > 0, rows, np.nan)
    middle = (shares + Z**2 / (2 * n)) / (1 + Z**2 / n)
    half = Z * np.sqrt(shares * (1 - shares) / n + Z**2 / (4 * n**2)) / (1 + Z**2 / n)
    # Rounding would move the ends off 0 and 1.
    return np.where(shares == 0, 0, middle - half) + 0 * n, np.where(shares == 1, 1, middle + half) + 0 * n


def fraction(share: float, rows: float) -> Estimate:
    """Return a fraction of a number of rows with Wilson's interval."""
    low, high = wilson(np.array(share), np.array(rows))
    return Estimate(share, float(low), float(high))


def mean(of_rows: np.ndarray, weights: np.ndarray | None = None, unit: str = "nats") -> Estimate:
    """Return the mean of numbers (n,) of rows with a normal interval; of one row, the interval is not known."""
    n = float(len(of_rows)) if weights is None else effective_rows(weights)
    centre = float(of_rows.mean() if weights is None else (of_rows * weights).sum() / weights.sum())
    if not n > 1 or not math.isfinite(centre):
        return Estimate(centre, math.nan, math.nan, unit)
    squares = (of_rows - centre) ** 2
    variance = float(squares.mean() if weights is None else (squares * weights).sum() / weights.sum()) * n / (n - 1)
    half = Z * math.sqrt(variance / n)
    return Estimate(centre, centre - half, centre + half, unit)


def mean_of_classes(shares: np.ndarray, low: np.ndarray, high: np.ndarray, shared: float = 1.0) -> Estimate:
    """Return the mean of figures (k,) of classes, with an interval from the ends of theirs.

    A figure that is NaN counts as 0. `shared` is the variance of the sum of the figures divided by the sum of their
    variances: 1 where they are independent.
    """
    shares, low, high = (np.nan_to_num(ends) for ends in (shares, low, high))
    if not len(shares):
        return Estimate(math.nan, math.nan, math.nan)
    centre, scale = float(shares.mean()), math.sqrt(shared) / len(shares)
    below, above = (scale * float(np.sqrt(((shares - ends) ** 2).sum())) for ends in (low, high))
    return Estimate(centre, max(0.0, centre - below), min(1.0, centre + above))


def difference(right_a: np.ndarray, right_b: np.ndarray, weights: np.ndarray | None = None) -> Estimate:
    """Return the accuracy of B minus that of A on the same rows, with Newcombe's paired interval.

    Parameters
    ----------
    right_a, right_b : ndarray (n,), bool
        Rows that are right.
    weights : ndarray (n,), float64, optional
    """
    w = np.ones(len(right_a)) if weights is None else weights
    n = effective_rows(w)
    cells = ((right_a & right_b), (right_a & ~right_b), (~right_a & right_b), (~right_a & ~right_b))
    both, only_a, only_b, neither = (float(w[cell].sum() / w.sum()) for cell in cells)
    a, b = both + only_a, both + only_b
    (low_a, high_a), (low_b, high_b) = ((e.low, e.high) for e in (fraction(a, n), fraction(b, n)))
    spread = math.sqrt(max(0.0, a * (1 - a) * b * (1 - b)))
    excess = both * neither - only_a * only_b
    correlation = (max(excess - 1 / (2 * n), 0.0) if excess > 0 else excess) / spread if spread > 0 else 0.0
    d = only_b - only_a

    def distance(of_b: float, of_a: float) -> float:
        return math.sqrt(max(0.0, of_b**2 - 2 * correlation * of_b * of_a + of_a**2))

    return Estimate(d, d - distance(b - low_b, high_a - a), d + distance(high_b - b, a - low_a), "points")


def balanced_difference(
    labels: np.ndarray, right_a: np.ndarray, right_b: np.ndarray, weights: np.ndarray | None = None
) -> Estimate:
    """Return the balanced accuracy of B minus that of A on the same rows, with an interval from those of the classes.

    Parameters
    ----------
    labels : ndarray (n,), int64
        True class of each row. A class whose rows all have weight 0 is left out.
    right_a, right_b : ndarray (n,), bool
        Rows that are right.
    weights : ndarray (n,), float64, optional
    """
    w = np.ones(len(labels)) if weights is None else weights
    classes = [labels == k for k in np.unique(labels[w > 0])]
    of_classes = [difference(right_a[rows], right_b[rows], w[rows]) for rows in classes]
    d, low, high = np.array([(of.value, of.low, of.high) for of in of_classes]).T  # (k,) each
    centre = float(d.mean())
    below, above = (math.sqrt(((d - ends) ** 2).sum()) / len(d) for ends in (low, high))
    return Estimate(centre, centre - below, centre + above, "points")
