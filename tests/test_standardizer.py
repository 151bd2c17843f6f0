"""Mean and standard deviation against exact arithmetic; folding against standardising."""

from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onelayer.errors import FeatureError
from onelayer.features.standardizer import Moments, Standardizer
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES


def blocks(rows: np.ndarray, size: int) -> list[np.ndarray]:
    return [rows[start : start + size] for start in range(0, len(rows), size)]


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_fit_is_exact_for_pixels(n, size, seed):
    rows = np.random.default_rng(seed).integers(0, 256, (n, 3), dtype=np.uint8)
    fitted = Standardizer.fit(blocks(rows, size))
    for j in range(3):
        column = [Fraction(int(value)) for value in rows[:, j]]
        mean = sum(column) / n
        variance = sum((value - mean) ** 2 for value in column) / n
        assert fitted.mean[j] == pytest.approx(float(mean), rel=1e-14, abs=1e-13)
        assert fitted.scale[j] == pytest.approx(float(variance) ** 0.5 if variance else 1.0, rel=1e-13)


def test_pixels_have_the_same_bits_whatever_the_blocks():
    rows = np.random.default_rng(0).integers(0, 256, (3000, 4), dtype=np.uint8)
    rows[:, 0] = 255
    rows[1, 0] = 254  # a variance that sums of squares in float64 would lose
    rows[:, 1] = 255
    whole, pieces = (Standardizer.fit(blocks(rows, size)) for size in (3000, 7))
    assert whole.mean.tobytes() == pieces.mean.tobytes()
    assert whole.scale.tobytes() == pieces.scale.tobytes()
    assert whole.scale[0] == pytest.approx((1 / 3000 - 1 / 3000**2) ** 0.5, rel=1e-15)
    assert (whole.mean[1], whole.scale[1]) == (255, 1)


def test_fit_keeps_its_digits_far_from_zero():
    rng = np.random.default_rng(0)
    small = rng.integers(0, 100, (1000, 4)).astype(np.float64)
    fitted = Standardizer.fit(blocks((small + 2.0**22).astype(np.float32), 64))
    assert fitted.scale == pytest.approx(small.std(0), rel=1e-13)
    assert fitted.mean - 2.0**22 == pytest.approx(small.mean(0), rel=1e-9)


@pytest.mark.parametrize("value", [1e155, 1e200, 1e308])
@pytest.mark.parametrize("weights", [None, [np.full(7, 2.0)]])
def test_a_feature_too_large_to_calculate_with_is_named(value, weights):
    rows = np.random.default_rng(0).standard_normal((7, 3))
    rows[:, 1] = [-value, value, 0, 0, 0, 0, 0]
    with pytest.raises(FeatureError, match="the squares of column 1 are too large to be added up"):
        Standardizer.fit([rows], weights)


@pytest.mark.parametrize("value", [0, 0.1, 7, 1e30])
def test_a_constant_feature_gets_scale_one(value):
    rows = np.full((777, 2), value, np.float32)
    rows[:, 1] = np.arange(777)
    fitted = Standardizer.fit(blocks(rows, 100))
    assert fitted.scale[0] == 1
    assert (fitted.transform(rows)[:, 0] == 0).all()


@given(st.integers(1, 40), st.integers(1, 50), st.integers(0, 2**32 - 1))
def test_a_row_of_weight_two_is_a_row_twice(n, size, seed):
    rng = np.random.default_rng(seed)
    rows, w = rng.integers(1000, 1009, (n, 3)).astype(float), rng.integers(1, 4, n)
    rows[:, 0] = 0.1
    weighted = Standardizer.fit(blocks(rows, size), blocks(w.astype(float), size))
    repeated = rows.repeat(w, axis=0)
    assert weighted.mean == pytest.approx(repeated.mean(0), rel=1e-13)
    deviation = repeated[:, 1:].std(0)
    assert weighted.scale[1:] == pytest.approx(np.where(deviation == 0, 1, deviation), rel=1e-9)
    assert weighted.scale[0] == 1


@pytest.mark.parametrize("size", [1, 7, 90])
def test_rows_of_weight_zero_are_not_looked_at(size):
    rng = np.random.default_rng(0)
    rows, w = rng.normal(50, 2, (90, 3)), rng.uniform(0.1, 9, 90)
    rows[:, 0] = 0.1
    w[[*range(20), 33, 50, 89]] = 0
    rows[w == 0] = rng.normal(0, 1e9, (23, 3))
    found = Standardizer.fit(blocks(rows, size), blocks(w, size))
    kept = Standardizer.fit(blocks(rows[w > 0], size), blocks(w[w > 0], size))
    assert found.mean == pytest.approx(kept.mean, rel=1e-14)
    assert found.scale == pytest.approx(kept.scale, rel=1e-12)
    assert found.constant.tolist() == kept.constant.tolist() == [True, False, False]
    assert (found.mean[0], found.scale[0]) == (0.1, 1)


@pytest.mark.parametrize("weights", [None, [np.zeros(3)]])
def test_without_rows_there_is_no_mean(weights):
    for rows in ([], [np.zeros((0, 2))]) if weights is None else ([np.ones((3, 2))],):
        with pytest.raises(FeatureError, match="no rows with a weight above 0 to standardise with; pass at least one"):
            Standardizer.fit(rows, weights)


def test_moments_of_some_rows_and_of_others_are_those_of_all():
    rng = np.random.default_rng(0)
    rows, w = rng.normal(50, 2, (90, 3)), rng.uniform(0.1, 9, 90)
    rows[:, 0] = 0.1
    first = Moments.of([rows[:20]], [w[:20]])
    moments = first.merge(Moments.of(blocks(rows[20:], 7), blocks(w[20:], 7)))
    mean = (w @ rows) / w.sum()
    assert moments.mean == pytest.approx(mean, rel=1e-14)
    assert moments.variance[1:] == pytest.approx(w @ (rows - mean)[:, 1:] ** 2 / w.sum(), rel=1e-13)
    assert moments.variance[0] == 0
    pixels = rng.integers(0, 256, (90, 3), dtype=np.uint8)
    both = Moments.of([pixels[:20]]).merge(Moments.of([pixels[20:]]))
    assert both.variance == pytest.approx(pixels.var(0), rel=1e-14)
    assert np.abs(first.mean - mean).max() > 0.1


def test_transformed_rows_have_mean_zero_and_deviation_one():
    rows = np.random.default_rng(0).integers(0, 256, (500, 6), dtype=np.uint8)
    X = Standardizer.fit(blocks(rows, 100)).transform(rows)
    assert X.dtype == np.float64
    assert X.mean(0) == pytest.approx(0, abs=1e-14)
    assert X.std(0) == pytest.approx(1, rel=1e-14)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_folding_changes_neither_logits_nor_gradients(dtype, loss):
    rng = np.random.default_rng(3)
    R = rng.integers(0, 256, (40, 9)).astype(dtype)
    y = rng.integers(0, 5, 40)
    standardizer = Standardizer.fit([R])
    layer = SoftmaxLayer(rng.normal(size=(9, 5)), rng.normal(size=5), LOSSES[loss])
    X = (R - R.mean(0, dtype=float)) / R.std(0, dtype=float)
    folded, inputs = standardizer.input_layer(layer, R), standardizer.inputs(R)
    assert folded.logits(inputs) == pytest.approx(X @ layer.weights + layer.bias, rel=1e-11, abs=1e-11)
    dV, dc = folded.gradients(inputs, y)
    dW, db = layer.gradients(X, y)
    assert np.abs(dW).max() > 1e-3
    assert standardizer.unfold_gradient(dV, dc, R) == pytest.approx(dW, rel=1e-10, abs=1e-13)
    assert dc == pytest.approx(db, rel=1e-10, abs=1e-13)


@settings(deadline=None)
@given(st.data())
def test_folding_and_unfolding_are_inverse_whatever_the_rows(data):
    n, d, K = (data.draw(st.integers(low, high)) for low, high in ((2, 20), (1, 9), (1, 5)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    R = rng.integers(0, 256, (n, d)).astype(data.draw(st.sampled_from(["uint8", "float32"])))
    constant = rng.random(d) < 0.3
    R[:, constant] = rng.integers(0, 256, constant.sum())
    constant = (R.min(axis=0) == R.max(axis=0)).tolist()
    y = rng.integers(0, K, n)
    fitted = Standardizer.fit(blocks(R, data.draw(st.integers(1, 20))))
    assert fitted.constant.tolist() == constant
    layer = SoftmaxLayer(rng.normal(size=(d, K)), rng.normal(size=K), LOSSES[data.draw(st.sampled_from(list(LOSSES)))])
    exact = R.astype(np.longdouble)
    deviation = np.where(constant, np.inf, np.sqrt(((exact - exact.mean(0)) ** 2).mean(0)))
    X = (exact - exact.mean(0)) / deviation
    standardizer = fitted.for_training
    folded, inputs = standardizer.input_layer(layer, R), standardizer.inputs(R)
    S = (X @ layer.weights + layer.bias).astype(float)
    np.testing.assert_allclose(folded.logits(inputs), S, rtol=1e-9, atol=1e-9)
    dV, dc = folded.gradients(inputs, y)
    dW = standardizer.unfold_gradient(dV, dc, R)
    G = layer.loss.residual(S, y)
    np.testing.assert_allclose(dW, (X.T @ G).astype(float), rtol=1e-8, atol=1e-9)
    np.testing.assert_allclose(dc, G.sum(axis=0), rtol=1e-8, atol=1e-10)
    assert not dW[constant].any()
    cleared = fitted.clear(layer)
    np.testing.assert_allclose(fitted.fold(cleared).logits(R.astype(float)), S, rtol=1e-9, atol=1e-9)
    other = Standardizer(rng.normal(100, 50, d), rng.uniform(1, 90, d))
    moved = fitted.reexpress(cleared, other)
    np.testing.assert_allclose(moved.logits(other.transform(R.astype(float))), S, rtol=1e-7, atol=1e-7)
    np.testing.assert_allclose(other.reexpress(moved, fitted).weights, cleared.weights, rtol=1e-12)
