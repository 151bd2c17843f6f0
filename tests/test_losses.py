"""The losses against SciPy, naive formulas, the complex step and PyTorch."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.special import expit, log_expit, log_softmax, logsumexp, softmax

from onelayer.losses import LOSSES, one_hot

SOFTMAX, SIGMOID = LOSSES["softmax"], LOSSES["sigmoid"]
BOTH = pytest.mark.parametrize("loss", LOSSES.values(), ids=list(LOSSES))
examples = settings(max_examples=50, deadline=None)  # a busy machine is not a failure

logits = arrays(np.float64, st.tuples(st.integers(1, 5), st.integers(1, 6)), elements=st.floats(-50, 50))


def example(n=7, K=5, size=3.0, seed=0):
    rng = np.random.default_rng(seed)
    return size * rng.standard_normal((n, K)), rng.integers(0, K, n)


def labels_for(S):
    return np.arange(len(S)) % S.shape[1]


@pytest.mark.parametrize("size", [1e-3, 3.0, 1e3, 1e6])
def test_softmax_agrees_with_scipy(size):
    S, y = example(size=size)
    rows = np.arange(len(y))
    np.testing.assert_allclose(SOFTMAX.probabilities(S), softmax(S, axis=1), rtol=1e-14, atol=0)
    np.testing.assert_allclose(SOFTMAX.of_rows(S, y), -log_softmax(S, axis=1)[rows, y], rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(SOFTMAX.of_rows(S, y), logsumexp(S, axis=1) - S[rows, y], rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("size", [1e-3, 3.0, 1e3, 1e6])
def test_sigmoid_agrees_with_scipy(size):
    S, y = example(size=size)
    Y = one_hot(y, S.shape[1])
    np.testing.assert_allclose(SIGMOID.probabilities(S), expit(S), rtol=1e-14, atol=1e-300)
    np.testing.assert_allclose(SIGMOID.of_rows(S, y), -log_expit(np.where(Y, S, -S)).mean(axis=1), rtol=1e-14)


def test_small_logits_agree_with_the_naive_formulas():
    S, y = example()
    Y = one_hot(y, S.shape[1])
    P = np.exp(S) / np.exp(S).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(SOFTMAX.of_rows(S, y), -np.log(P[Y]), rtol=1e-12)
    np.testing.assert_allclose(SOFTMAX.residual(S, y), (P - Y) / len(y), rtol=1e-12)
    P = 1 / (1 + np.exp(-S))
    naive = -(Y * np.log(P) + (1 - Y) * np.log(1 - P)).mean(axis=1)
    np.testing.assert_allclose(SIGMOID.of_rows(S, y), naive, rtol=1e-12)
    np.testing.assert_allclose(SIGMOID.residual(S, y), (P - Y) / S.size, rtol=1e-12)


def complex_step(loss, S, y):
    """The derivative of the mean loss with respect to each logit."""
    derivative = np.empty(S.shape)
    for place in np.ndindex(S.shape):
        Z = S.astype(complex)
        Z[place] += 1e-30j
        derivative[place] = loss.of_rows(Z, y).mean().imag / 1e-30
    return derivative


@BOTH
@pytest.mark.parametrize("size", [1.0, 1e4])
def test_the_residual_is_the_derivative_of_the_loss(loss, size):
    S, y = example(size=size)
    G = loss.residual(S, y)
    assert np.abs(G).max() > 0.1 / S.size  # not trivial
    np.testing.assert_allclose(G, complex_step(loss, S, y), rtol=1e-13, atol=1e-16)


@BOTH
@pytest.mark.parametrize("zero", [0.0, -0.0])
def test_the_loss_is_analytic_at_a_logit_of_zero(loss, zero):
    S, y = np.full((2, 3), zero), np.array([0, 2])
    np.testing.assert_allclose(complex_step(loss, S, y), loss.residual(S, y), rtol=1e-14)


@examples
@given(logits, st.floats(-1e3, 1e3))
def test_adding_a_constant_to_a_row_changes_nothing(S, constant):
    y = labels_for(S)
    moved = S + constant
    np.testing.assert_allclose(SOFTMAX.of_rows(moved, y), SOFTMAX.of_rows(S, y), rtol=1e-12, atol=1e-11)
    np.testing.assert_allclose(SOFTMAX.residual(moved, y), SOFTMAX.residual(S, y), rtol=0, atol=1e-11)


@BOTH
@examples
@given(S=logits, seed=st.integers(0, 1000))
def test_permuting_classes_permutes_the_residual(loss, S, seed):
    y = labels_for(S)
    order = np.random.default_rng(seed).permutation(S.shape[1])
    place = np.argsort(order)  # class k is now in column place[k]
    np.testing.assert_allclose(loss.of_rows(S[:, order], place[y]), loss.of_rows(S, y), rtol=1e-13, atol=1e-15)
    np.testing.assert_allclose(loss.residual(S[:, order], place[y]), loss.residual(S, y)[:, order], atol=1e-15)


@examples
@given(logits)
def test_probabilities_are_probabilities(S):
    np.testing.assert_allclose(SOFTMAX.probabilities(S).sum(axis=1), 1, rtol=1e-14)
    np.testing.assert_allclose(SIGMOID.probabilities(S) + SIGMOID.probabilities(-S), 1, rtol=1e-14)
    np.testing.assert_allclose(SOFTMAX.residual(S, labels_for(S)).sum(axis=1), 0, atol=1e-15)


@examples
@given(arrays(np.float64, st.integers(1, 9), elements=st.floats(-700, 700)))
def test_two_classes_of_softmax_are_one_sigmoid(s):
    S = np.stack([s, np.zeros_like(s)], axis=1)
    np.testing.assert_allclose(SOFTMAX.probabilities(S)[:, :1], SIGMOID.probabilities(s[:, None]), rtol=1e-13)
    y = np.zeros(len(s), int)
    np.testing.assert_allclose(SOFTMAX.of_rows(S, y), SIGMOID.of_rows(s[:, None], y), rtol=1e-13, atol=1e-15)


def test_uniform_logits_cost_the_logarithm_of_the_number_of_classes():
    y = np.arange(10)
    np.testing.assert_allclose(SOFTMAX.of_rows(np.full((10, 10), 1e9), y), np.log(10), rtol=1e-15)
    np.testing.assert_allclose(SIGMOID.of_rows(np.zeros((10, 10)), y), np.log(2), rtol=1e-15)


def test_huge_logits():
    S = np.array([[1e9, -1e9], [-1e9, 1e9]])
    y = np.array([0, 0])  # the first row is right, the second wrong
    np.testing.assert_array_equal(SOFTMAX.of_rows(S, y), [0, 2e9])
    np.testing.assert_array_equal(SIGMOID.of_rows(S, y), [0, 1e9])
    np.testing.assert_array_equal(SOFTMAX.residual(S, y), [[0, 0], [-0.5, 0.5]])
    np.testing.assert_array_equal(SIGMOID.residual(S, y), [[0, 0], [-0.25, 0.25]])


def test_a_wrong_class_of_minus_infinity_is_excluded():
    S, y = np.array([[1.0, -np.inf, 2.0]]), np.array([2])
    without = np.array([[1.0, 2.0]])
    assert SOFTMAX.of_rows(S, y) == SOFTMAX.of_rows(without, np.array([1]))
    assert SOFTMAX.residual(S, y)[0, 1] == 0
    np.testing.assert_allclose(
        3 * SIGMOID.of_rows(S, y), 2 * SIGMOID.of_rows(without, np.array([1])), rtol=1e-15
    )  # log(1 - 0) = 0: only the mean over K differs
    assert SIGMOID.probabilities(S)[0, 1] == 0


def test_one_class():
    S, y = np.array([[-3.0], [5.0]]), np.array([0, 0])
    np.testing.assert_array_equal(SOFTMAX.of_rows(S, y), [0, 0])
    np.testing.assert_array_equal(SOFTMAX.residual(S, y), [[0], [0]])
    np.testing.assert_allclose(SIGMOID.of_rows(S, y), np.log1p(np.exp([3.0, -5.0])), rtol=1e-15)


@BOTH
@pytest.mark.parametrize("dtype", ["uint8", "int32", "int64"])
def test_labels_of_any_integer_type(loss, dtype):
    S, y = example()
    np.testing.assert_array_equal(loss.of_rows(S, y.astype(dtype)), loss.of_rows(S, y))
    np.testing.assert_array_equal(loss.residual(S, y.astype(dtype)), loss.residual(S, y))


@BOTH
def test_single_precision_stays_single_precision(loss):
    S, y = example()
    for result in loss.probabilities, loss.of_rows, loss.residual:
        arguments = (S, y) if result != loss.probabilities else (S,)
        single = result(S.astype("float32"), *arguments[1:])
        assert single.dtype == np.float32
        np.testing.assert_allclose(single, result(*arguments), rtol=1e-5, atol=1e-6)


@BOTH
@pytest.mark.parametrize("size", [1.0, 1e4, 0.0])
def test_pytorch_tensors_give_the_same_and_differentiate(loss, size):
    torch = pytest.importorskip("torch")
    S, y = example(size=size)
    tensor, labels = torch.tensor(S, requires_grad=True), torch.tensor(y)
    rows, G = loss.of_rows(tensor, labels), loss.residual(tensor, labels).detach()
    np.testing.assert_allclose(rows.detach().numpy(), loss.of_rows(S, y), rtol=1e-14, atol=1e-15)
    np.testing.assert_allclose(G.numpy(), loss.residual(S, y), rtol=1e-13, atol=1e-16)
    np.testing.assert_allclose(torch.autograd.grad(rows.mean(), tensor)[0].numpy(), G.numpy(), rtol=1e-13, atol=1e-16)


@pytest.mark.parametrize("K", [2, 3, 10])
def test_the_loss_of_guessing(K):
    for loss, p in (("softmax", np.zeros((1, K))), ("sigmoid", np.full((1, K), -np.log(K - 1)))):
        assert LOSSES[loss].of_guessing(K) == pytest.approx(float(LOSSES[loss].of_rows(p, np.array([0]))[0]), rel=1e-12)


def hessian(loss, s, k):
    """Return the Hessian (K, K) of the loss of a row of class k at logits s (K,), by the complex step."""
    S = s[None] + np.zeros((len(s), 1)) + 1e-30j * np.eye(len(s))
    return np.stack([loss.residual(row[None], np.array([k]))[0].imag / 1e-30 for row in S])


@BOTH
@pytest.mark.parametrize("K", [2, 3, 10])
def test_no_curvature_is_above_the_bound_and_some_logits_attain_it(loss, K):
    rng = np.random.default_rng(K)
    cases = [size * rng.standard_normal(K) for size in (0, 0.1, 1, 3, 30) for _ in range(20)]
    cases.append(np.where(np.arange(K) < 2, 0.0, -50.0))  # two classes of probability 1/2
    found = [np.linalg.eigvalsh(hessian(loss, s, int(rng.integers(K)))).max() for s in cases]
    assert max(found) == pytest.approx(loss.curvature(K), rel=1e-12)
    assert min(found) < loss.curvature(K) / 2


@BOTH
@pytest.mark.parametrize("size", [1.0, 30.0])
def test_shares_add_up_to_probabilities(loss, size):
    S, _ = example(size=size)
    P = loss.probabilities(S)
    shares = softmax(loss.log_shares(S), axis=1)
    np.testing.assert_allclose(shares, P / P.sum(axis=1, keepdims=True), rtol=1e-12)
    assert loss.exclusive == np.allclose(P.sum(axis=1), 1)
    assert not loss.exclusive or np.allclose(P, softmax(S, axis=1), rtol=1e-14)


@BOTH
def test_the_margin_is_the_log_odds_of_the_second_class(loss):
    """For sigmoids, where their two answers agree: S_1 = -S_0."""
    s = np.linspace(-8, 8, 9)
    P = loss.probabilities(np.column_stack([-s, s]))
    np.testing.assert_allclose(loss.margin * (s - -s), np.log(P[:, 1] / P[:, 0]), rtol=1e-12, atol=1e-15)


@BOTH
def test_the_pytorch_reference_is_the_mean_of_the_rows(loss):
    torch = pytest.importorskip("torch")
    S, y = example()
    found = loss.pytorch(torch.nn.functional, torch.tensor(S), torch.tensor(y))
    np.testing.assert_allclose(float(found), loss.of_rows(S, y).mean(), rtol=1e-14)
