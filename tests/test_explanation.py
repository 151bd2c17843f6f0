"""Contributions are what the formula says, and with the bias they are the logit, to the last bit."""

from fractions import Fraction

import numpy as np
import pytest
from helpers import model_of, rows_for

from onelayer import explain
from onelayer.errors import ConfigError, DataError


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("shape", [(3, 4, 5), (1, 12, 5), None])
def test_contributions_and_bias_are_the_logit(shape, loss, dtype):
    model = model_of(loss, shape, dtype=dtype)
    W, mean, scale = model.layer.weights, model.standardizer.mean, model.standardizer.scale
    for row in rows_for(model, 5):
        found = explain(model, row)
        order = sorted(range(6), key=lambda k: -model.probabilities(row[np.newaxis])[0, k])
        assert found.classes.tolist() == order[:3]
        assert np.abs(found.logits).max() > 0.5
        for t, k in enumerate(found.classes):
            # Exactly: the sum without any rounding, rounded once.
            terms = [Fraction(float(value)) for value in (*found.contributions[t], found.bias[t])]
            assert float(sum(terms)) == found.logits[t]
            assert found.bias[t] == model.layer.bias[k]
            assert found.logits[t] == pytest.approx(model.logits(row[np.newaxis])[0, k], abs=1e-13)
            assert found.probabilities[t] == model.probabilities(row[np.newaxis])[0, k]
            for j in range(60):
                expected = (float(row[j]) - mean[j]) / scale[j] * float(W[j, k])
                assert found.contributions[t, j] == pytest.approx(expected, rel=1e-12, abs=1e-14)


def test_a_feature_at_its_mean_adds_nothing():
    model = model_of(shape=None, mean=8.0)
    row = model.standardizer.mean
    found = explain(model, row)
    assert (found.contributions == 0).all()
    np.testing.assert_array_equal(found.logits, found.bias)


@pytest.mark.parametrize("top", [0, -1])
def test_no_classes_are_refused(top):
    model = model_of()
    with pytest.raises(ConfigError, match=rf"^top {top} is not a whole number of at least 1$"):
        explain(model, rows_for(model)[0], top)


@pytest.mark.parametrize(("top", "shown"), [(1, 1), (2, 2), (6, 6), (100, 6)])
def test_so_many_classes_or_all(top, shown):
    model = model_of()
    found = explain(model, rows_for(model)[0], top)
    assert found.contributions.shape == (shown, 60)
    assert [len(part) for part in (found.classes, found.probabilities, found.bias, found.logits)] == [shown] * 4


def test_the_first_is_the_prediction_where_sigmoids_are_rounded_to_one():
    model = model_of("sigmoid")
    model.layer.weights[...] = 0
    model.layer.bias[...] = [40, 50, -1, 60, 45, 0]
    assert explain(model, rows_for(model)[0], 4).classes.tolist() == [3, 1, 4, 0]


def test_a_row_of_another_length():
    model = model_of()
    with pytest.raises(DataError, match=r"rows have the shape \(1, 59\); this model needs \(n, 60\)"):
        explain(model, rows_for(model)[0, :59])


def test_rows_may_be_lists():
    model = model_of()
    rows = rows_for(model, 4)
    found, expected = explain(model, rows[0].tolist()), explain(model, rows[0])
    assert found.logits == pytest.approx(expected.logits, rel=1e-12)
    assert model.probabilities(rows.tolist()) == pytest.approx(model.probabilities(rows), rel=1e-12)
    assert model.logits(rows[:, ::-1][:, ::-1]).tolist() == model.logits(rows).tolist()


@pytest.mark.parametrize(
    ("rows", "words"),
    [
        ([[1.0, 2.0], [3.0]], r"rows differ in length; this model needs \(n, 60\)"),
        ([["1"] * 60], "rows are <U1; this model needs numbers"),
        ([[None] * 60], "rows are object; this model needs numbers"),
        ([1.0] * 60, r"rows have the shape \(60,\); this model needs \(n, 60\)"),
        (None, "rows are object; this model needs numbers"),
    ],
)
def test_what_is_not_rows_is_refused(rows, words):
    for answer in (model_of().probabilities, model_of().logits):
        with pytest.raises(DataError, match=words):
            answer(rows)
