"""Intervals against scipy, against formulas written in another way, and against simulated rows."""

import math

import numpy as np
import pytest
from scipy import stats

from onelayer.analysis.estimates import Estimate, difference, effective_rows, fraction, mean, mean_of_classes


@pytest.mark.parametrize(("right", "n"), [(0, 1), (1, 1), (3, 7), (35, 36), (36, 36), (3913, 10_000)])
def test_wilsons_interval_is_that_of_scipy(right, n):
    expected = stats.binomtest(right, n).proportion_ci(method="wilson")
    found = fraction(right / n, n)
    assert (found.low, found.high) == pytest.approx((expected.low, expected.high), abs=1e-12)
    assert found.value == right / n


def test_the_interval_of_no_rows_is_not_known():
    found = fraction(math.nan, 0)
    assert all(map(math.isnan, (found.value, found.low, found.high)))
    assert found.in_words() == "-"


def test_the_interval_of_a_mean():
    values = np.random.default_rng(0).exponential(2, 50)
    found = mean(values)
    low, high = stats.norm.interval(0.95, values.mean(), stats.sem(values))
    assert (found.value, found.low, found.high) == pytest.approx((values.mean(), low, high), rel=1e-12)
    assert math.isnan(mean(values[:1]).low)
    equal = mean(values, np.full(50, 1e-200))
    assert (equal.value, equal.low) == pytest.approx((found.value, found.low), rel=1e-12)


def test_rows_of_weight_0_and_the_unit_of_weights_do_not_count():
    w = np.random.default_rng(0).choice([0, 0.5, 1, 7], 40)
    expected = w.sum() ** 2 / (w**2).sum()
    for unit in (1, 1e-200, 1e200):
        assert effective_rows(w * unit) == pytest.approx(expected, rel=1e-12)
    values = np.random.default_rng(1).normal(size=40)
    every, some = mean(values, w), mean(values[w > 0], w[w > 0])
    assert (every.value, every.low) == pytest.approx((some.value, some.low), rel=1e-12)
    assert effective_rows(np.zeros(3)) == 0


CELLS = [(36, 12, 2, 0), (20, 12, 2, 16), (0, 29, 1, 0), (0, 30, 0, 0), (54, 0, 0, 0), (5, 0, 4, 9)]


@pytest.mark.parametrize("cells", CELLS)  # rows that both get right, only A, only B, neither
def test_a_difference_has_newcombes_interval(cells):
    a, b, c, d = cells
    n = sum(cells)
    right_a = np.repeat([True, True, False, False], cells)
    right_b = np.repeat([True, False, True, False], cells)
    found = difference(right_b, right_a)
    w_a, w_b = (stats.binomtest(k, n).proportion_ci(method="wilson") for k in (a + b, a + c))
    product = (a + b) * (c + d) * (a + c) * (b + d)
    excess = a * d - b * c
    excess = max(excess - n / 2, 0) if excess > 0 else excess
    phi = excess / math.sqrt(product) if product else 0
    p_a, p_b = (a + b) / n, (a + c) / n
    below = (p_a - w_a.low) ** 2 - 2 * phi * (p_a - w_a.low) * (w_b.high - p_b) + (w_b.high - p_b) ** 2
    above = (w_a.high - p_a) ** 2 - 2 * phi * (w_a.high - p_a) * (p_b - w_b.low) + (p_b - w_b.low) ** 2
    assert found.value == pytest.approx((b - c) / n)
    assert found.low == pytest.approx((b - c) / n - math.sqrt(below), abs=1e-12)
    assert found.high == pytest.approx((b - c) / n + math.sqrt(above), abs=1e-12)
    weighted = difference(right_b, right_a, np.full(n, 3e-200))
    assert (weighted.low, weighted.high) == pytest.approx((found.low, found.high), abs=1e-12)


def test_paired_intervals_cover_the_difference():
    """Of 2,000 sets of 60 rows, about 95 % of the intervals hold the true difference."""
    rng, true = np.random.default_rng(0), np.array([0.55, 0.05, 0.2, 0.2])
    inside = 0
    for cells in rng.multinomial(60, true, 2000):
        found = difference(np.repeat([True, True, False, False], cells), np.repeat([True, False, True, False], cells))
        inside += found.low <= 0.15 <= found.high
    assert 0.935 < inside / 2000 < 0.975


def test_a_mean_of_classes_covers_the_true_one():
    rng, p, n = np.random.default_rng(0), np.array([0.97, 0.5, 0.8]), np.array([40, 20, 15])
    inside = 0
    for right in rng.binomial(n, p, (2000, 3)):
        estimates = [fraction(k / m, m) for k, m in zip(right, n, strict=True)]
        share, low, high = (np.array([getattr(e, end) for e in estimates]) for end in ("value", "low", "high"))
        found = mean_of_classes(share, low, high)
        inside += found.low <= p.mean() <= found.high
    assert 0.935 < inside / 2000 < 0.975


@pytest.mark.parametrize(
    ("estimate", "words"),
    [
        (Estimate(0.3913, 0.3818, 0.4009), "39.1 % (38.2 to 40.1)"),
        (fraction(35 / 36, 36), "97 % (86 to 100)"),
        (Estimate(0.3913, 0.3911, 0.3915), "39.13 % (39.11 to 39.15)"),
        (Estimate(0.5, 0.5, 0.5), "50.00 % (50.00 to 50.00)"),
        (Estimate(1.79234, 1.78, 1.805, "nats"), "1.792 nats (1.780 to 1.805)"),
        (Estimate(1.79234, math.nan, math.nan, "nats"), "1.7923 nats"),
        (Estimate(120.4, 80.0, 161.0, "nats"), "120 nats (80 to 161)"),
        (Estimate(-0.1234, -0.21, -0.04, "points"), "-12 points (-21 to -4)"),
        (Estimate(0.0703, 0.061, 0.0796, "points"), "+7.0 points (+6.1 to +8.0)"),
    ],
)
def test_no_digit_is_finer_than_the_interval_allows(estimate, words):
    assert str(estimate) == words
