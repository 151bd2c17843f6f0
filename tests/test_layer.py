"""The layer: its gradients against the complex step, and what must hold for any linear layer."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES

BOTH = pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))
examples = settings(max_examples=50, deadline=None)  # a busy machine is not a failure


def example(loss, n=6, d=4, K=3, seed=0):
    rng = np.random.default_rng(seed)
    layer = SoftmaxLayer(rng.standard_normal((d, K)), rng.standard_normal(K), loss)
    return layer, rng.standard_normal((n, d)), rng.integers(0, K, n)


def assert_same(actual, expected):
    for a, b in zip(actual, expected, strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-13, atol=1e-15)


@BOTH
def test_a_row_that_counts_twice_equals_the_row_twice(loss):
    layer, X, y = example(loss)
    w = np.array([2, 1, 0, 3, 1, 1])
    twice = np.repeat(np.arange(6), w)
    share = w.sum() / len(w)
    expected = [share * g for g in layer.gradients(X[twice], y[twice])]
    assert_same(layer.gradients(X, y, row_weights=w), expected)
    assert_same([layer.cost(X, y, row_weights=w)], [share * layer.cost(X[twice], y[twice])])


def test_initial_weights_are_drawn_class_by_class():
    layer = SoftmaxLayer.initial(3, 2, np.random.default_rng(42), init_std=0.5)
    draws = np.random.default_rng(42).standard_normal(6)
    np.testing.assert_array_equal(layer.weights, 0.5 * np.stack([draws[:3], draws[3:]], axis=1))
    np.testing.assert_array_equal(layer.bias, [0, 0])
    assert layer.loss is LOSSES["softmax"]


def test_initial_single_precision_is_double_precision_rounded():
    single = SoftmaxLayer.initial(5, 4, np.random.default_rng(1), loss="sigmoid", dtype="float32")
    double = SoftmaxLayer.initial(5, 4, np.random.default_rng(1), loss="sigmoid")
    assert single.weights.dtype == single.bias.dtype == np.float32
    assert single.loss is LOSSES["sigmoid"]
    np.testing.assert_array_equal(single.weights, double.weights.astype("float32"))


def test_the_penalty_is_the_sum_of_squared_weights_without_the_bias():
    layer = SoftmaxLayer(np.array([[1.0, -2.0], [3.0, 0.0]]), np.array([100.0, 7.0]), LOSSES["softmax"])
    assert layer.penalty(0.5) == 7.0
    X, y = np.ones((1, 2)), np.array([0])
    assert layer.cost(X, y, 0.5) == pytest.approx(layer.cost(X, y) + 7)
    for plain, penalised, difference in zip(
        layer.gradients(X, y), layer.gradients(X, y, 0.5), (layer.weights, 0), strict=True
    ):
        np.testing.assert_allclose(penalised, plain + difference, rtol=1e-15)


@BOTH
@pytest.mark.parametrize(("n", "d", "K"), [(6, 4, 3), (1, 4, 3), (6, 1, 2), (5, 3, 1), (1, 1, 1)])
def test_the_gradients_are_the_complex_step_derivative_of_the_cost(loss, n, d, K):
    layer, X, y = example(loss, n, d, K)
    dW, db = layer.gradients(X, y, 0.3)
    assert dW.shape == (d, K)
    assert db.shape == (K,)
    for place in np.ndindex(d, K):
        W = layer.weights.astype(complex)
        W[place] += 1e-30j
        cost = SoftmaxLayer(W, layer.bias, loss).cost(X, y, 0.3)
        assert cost.imag / 1e-30 == pytest.approx(dW[place], rel=1e-13, abs=1e-15)
        assert cost.real == pytest.approx(layer.cost(X, y, 0.3), rel=1e-14)
    for k in range(K):
        b = layer.bias.astype(complex)
        b[k] += 1e-30j
        cost = SoftmaxLayer(layer.weights, b, loss).cost(X, y, 0.3)
        assert cost.imag / 1e-30 == pytest.approx(db[k], rel=1e-13, abs=1e-15)


@BOTH
def test_the_bias_equals_a_column_of_ones(loss):
    layer, X, y = example(loss)
    wide = SoftmaxLayer(np.vstack([layer.weights, layer.bias]), np.zeros_like(layer.bias), loss)
    X1 = np.hstack([X, np.ones((len(X), 1))])
    dW, db = layer.gradients(X, y)
    assert_same([wide.cost(X1, y), wide.gradients(X1, y)[0]], [layer.cost(X, y), np.vstack([dW, db])])


@BOTH
@examples
@given(seed=st.integers(0, 10_000))
def test_permuting_classes_permutes_the_gradients(loss, seed):
    layer, X, y = example(loss, K=5, seed=seed)
    order = np.random.default_rng(seed).permutation(5)
    moved = SoftmaxLayer(layer.weights[:, order], layer.bias[order], loss)
    dW, db = layer.gradients(X, y, 0.1)
    assert_same(moved.gradients(X, np.argsort(order)[y], 0.1), [dW[:, order], db[order]])
    assert_same([moved.cost(X, np.argsort(order)[y], 0.1)], [layer.cost(X, y, 0.1)])


@BOTH
@examples
@given(seed=st.integers(0, 10_000), twice=st.integers(0, 5))
def test_a_sample_counted_twice_has_weight_two(loss, seed, twice):
    layer, X, y = example(loss, seed=seed)
    rows = [*range(6), twice]
    alone = [(layer.cost(X[[i]], y[[i]]), *layer.gradients(X[[i]], y[[i]])) for i in rows]
    mean = [sum(values) / 7 for values in zip(*alone, strict=True)]
    assert_same([layer.cost(X[rows], y[rows]), *layer.gradients(X[rows], y[rows])], mean)


@examples
@given(st.integers(0, 10_000))
def test_adding_the_same_template_to_all_classes_changes_no_probability(seed):
    layer, X, _ = example(LOSSES["softmax"], seed=seed)
    rng = np.random.default_rng(seed)
    moved = SoftmaxLayer(layer.weights + rng.standard_normal((4, 1)), layer.bias + rng.standard_normal(), layer.loss)
    np.testing.assert_allclose(moved.probabilities(X), layer.probabilities(X), rtol=1e-12)


@BOTH
def test_pytorch_tensors_give_the_same(loss):
    torch = pytest.importorskip("torch")
    layer, X, y = example(loss)
    tensors = SoftmaxLayer(torch.tensor(layer.weights), torch.tensor(layer.bias), loss)
    Xt, yt = torch.tensor(X), torch.tensor(y)
    cost, gradients = tensors.cost(Xt, yt, 0.1), tensors.gradients(Xt, yt, 0.1)
    assert_same([cost.numpy(), *(g.numpy() for g in gradients)], [layer.cost(X, y, 0.1), *layer.gradients(X, y, 0.1)])
    assert_same([tensors.probabilities(Xt).numpy()], [layer.probabilities(X)])
