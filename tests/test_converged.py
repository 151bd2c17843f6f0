"""The converged solver, against SciPy and scikit-learn."""

import mmap
import threading
import time
import tracemalloc
from dataclasses import replace
from functools import partial
from itertools import islice, pairwise
from pathlib import Path

import numpy as np
import pytest
from helpers import toy_splits
from scipy.optimize import minimize
from sklearn.linear_model import LogisticRegression

from onelayer import parts
from onelayer.config import TrainConfig
from onelayer.data import mapped_file, windows
from onelayer.data.dataset import Dataset, Split
from onelayer.errors import ConfigError
from onelayer.features.standardizer import Standardizer
from onelayer.kernel import kernel
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES
from onelayer.training import converged
from onelayer.training.certificate import certify
from onelayer.training.converged import Convergence, Iterate
from onelayer.training.converging import losses, memory, newton, preconditioner
from onelayer.training.converging import rows as rows_module
from onelayer.training.converging.losses import Sigmoids, Softmax
from onelayer.training.converging.preconditioner import ByClass, Eigen, Factor, Spectrum, choose_preconditioner
from onelayer.training.converging.rows import Rows, with_mirror_images
from onelayer.training.iterations import convergence_of
from onelayer.training.state import Problem

needs_kernel = pytest.mark.skipif(kernel is None, reason="onelayer was installed without a compiler")


def split_of(
    n: int = 200,
    d: int = 12,
    K: int = 4,
    *,
    dtype: str = "float32",
    image_shape: tuple[int, int, int] | None = None,
    weights: np.ndarray | None = None,
    names: int | None = None,
    seed: int = 0,
) -> Split:
    rng = np.random.default_rng(seed)
    labels = np.concatenate([np.arange(K), rng.integers(K, size=n - K)]) if n >= K else np.arange(n)
    R = rng.standard_normal((n, d)) + rng.standard_normal((K, d))[labels] * 0.5
    R = np.clip(R * 40 + 120, 0, 255).astype(np.uint8) if dtype == "uint8" else (R * 3 + 5).astype(dtype)
    class_names = tuple(f"class {k}" for k in range(names or K))
    dataset = Dataset(R, labels.astype(np.int64), class_names, image_shape, "drawn", row_weights=weights)
    return Split("train", dataset, np.arange(n))


def standardizer_of(split: Split) -> Standardizer:
    return Standardizer.fit(split.row_blocks(64), split.weight_blocks(64))


def cost_of(layer: SoftmaxLayer, X: np.ndarray, split: Split, l2: float) -> float:
    w = split.row_weights(slice(None))
    losses = layer.loss.of_rows(layer.logits(X), split.labels)
    return float(np.average(losses, weights=w) + layer.penalty(l2))


def optimum(X: np.ndarray, y: np.ndarray, K: int, l2: float, loss: str, w: np.ndarray | None = None) -> float:
    """The least cost, by SciPy in float64."""
    n, d = X.shape
    share = np.full(n, 1 / n) if w is None else w / w.sum()

    def cost(theta: np.ndarray) -> tuple[float, np.ndarray]:
        layer = SoftmaxLayer(theta[: d * K].reshape(d, K), theta[d * K :], LOSSES[loss])
        S = layer.logits(X)
        G = LOSSES[loss].residual(S, y) * n * share[:, None]
        gradient = np.concatenate([(X.T @ G + 2 * l2 * layer.weights).ravel(), G.sum(axis=0)])
        return float(share @ LOSSES[loss].of_rows(S, y) + layer.penalty(l2)), gradient

    options = {"maxiter": 20_000, "maxfun": 40_000, "ftol": 1e-16, "gtol": 1e-10, "maxcor": 30}
    return float(minimize(cost, np.zeros((d + 1) * K), jac=True, method="L-BFGS-B", options=options).fun)


def solve(
    split: Split, l2: float, loss: str = "softmax", *, tol: float = 1e-9, flip: bool = False, dtype: str = "float64"
) -> tuple[Iterate, SoftmaxLayer, np.ndarray]:
    """Return the last iterate, its layer, and the standardised rows."""
    of_rows = standardizer_of(split)
    if flip:
        assert split.dataset.image_shape
        of_rows = with_mirror_images(of_rows, split.dataset.image_shape)
    convergence = Convergence(Rows(split, of_rows, flip=flip, dtype=np.dtype(dtype)), LOSSES[loss], l2)
    iterates = list(convergence.iterates(l2, tol=tol, max_passes=500))
    costs = [at.cost for at in iterates]
    assert all(b <= a * (1 + 1e-6) for a, b in pairwise(costs))
    X = of_rows.for_training.transform(split.rows(slice(None)).astype(np.float64))
    return iterates[-1], convergence.layer(iterates[-1]), X


@pytest.fixture(params=[True, False], ids=["newton", "lbfgs"])
def small(request, monkeypatch):
    """Once with Newton's method, once without."""
    if not request.param:
        monkeypatch.setattr(newton, "MOST_NUMBERS", 0)


SHAPES = [(200, 8, 4), (15, 30, 3), (7, 5, 7), (60, 1, 2), (80, 6, 12), (2, 3, 2)]


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("l2", [1.0, 0.03, 1e-4])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_optimum_is_that_of_scipy(shape, l2, loss, small):
    split = split_of(*shape)
    at, layer, X = solve(split, l2, loss)
    assert at.reached and at.ended == converged.REACHED
    cost = cost_of(layer, X, split, l2)
    best = optimum(X, split.labels, shape[2], l2, loss)
    assert at.cost == pytest.approx(cost, rel=1e-9)
    assert cost == pytest.approx(best, rel=1e-7)
    assert cost - at.gap <= best * (1 + 1e-9)  # the bound
    assert np.abs(layer.weights).max() > 1e-3


def test_optimum_is_that_of_scikit_learn():
    split, l2 = split_of(300, 10, 5), 0.01
    _, layer, X = solve(split, l2, tol=1e-11)
    peer = LogisticRegression(C=1 / (2 * l2 * 300), tol=1e-10, max_iter=10_000).fit(X, split.labels)
    np.testing.assert_allclose(layer.weights.T, peer.coef_, atol=1e-5)
    np.testing.assert_allclose(layer.probabilities(X), peer.predict_proba(X), atol=1e-5)


@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32", "float64"])
def test_rows_as_stored_give_the_same_optimum(dtype, small):
    split = split_of(500, 40, 3, dtype=dtype)
    at, layer, X = solve(split, 0.02, tol=1e-5, dtype="float32")
    assert at.reached
    assert cost_of(layer, X, split, 0.02) == pytest.approx(optimum(X, split.labels, 3, 0.02, "softmax"), rel=1e-5)


@pytest.mark.parametrize("loss", LOSSES)
def test_a_row_of_weight_two_counts_twice(loss, small):
    w = np.random.default_rng(1).integers(0, 3, 120).astype(np.float64)
    w[:4] = 1
    split = split_of(120, 6, 4, weights=w)
    _, layer, X = solve(split, 0.05, loss)
    again = np.repeat(np.arange(120), w.astype(int))
    assert cost_of(layer, X, split, 0.05) == pytest.approx(
        optimum(X[again], split.labels[again], 4, 0.05, loss), rel=1e-7
    )


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("image_shape", [(1, 3, 5), (3, 2, 4), (1, 4, 1)], ids=str)
def test_flips_are_the_rows_and_their_mirror_images(image_shape, dtype, small):
    d = int(np.prod(image_shape))
    split = split_of(90, d, 3, dtype=dtype, image_shape=image_shape)
    R = split.rows(slice(None))
    both = np.concatenate([R, R.reshape(-1, *image_shape)[..., ::-1].reshape(R.shape)])
    of_both = Standardizer.fit([both])
    mirrored = with_mirror_images(standardizer_of(split), image_shape)
    np.testing.assert_allclose(mirrored.mean, of_both.mean, rtol=1e-6)
    np.testing.assert_allclose(mirrored.scale, of_both.scale, rtol=1e-5)
    at, layer, _ = solve(split, 0.03, flip=True)
    images = layer.weights.T.reshape(3, *image_shape)
    np.testing.assert_array_equal(images, images[..., ::-1])
    X, labels = mirrored.for_training.transform(both.astype(np.float64)), np.tile(split.labels, 2)
    cost = float(layer.loss.of_rows(layer.logits(X), labels).mean() + layer.penalty(0.03))
    assert at.cost == pytest.approx(cost, rel=1e-6)
    assert cost == pytest.approx(optimum(X, labels, 3, 0.03, "softmax"), rel=1e-6)


def test_templates_fold_and_unfold():
    split = split_of(20, 30, 2, image_shape=(2, 3, 5))
    rows = Rows(split, with_mirror_images(standardizer_of(split), (2, 3, 5)), flip=True)
    T = np.random.default_rng(0).standard_normal((2, rows.d))
    assert rows.d == 18
    np.testing.assert_allclose(rows.fold(rows.unfold(T)), T)
    assert np.sum(rows.unfold(T) ** 2) == pytest.approx(np.sum(T**2))


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("l2", [0.1, 0.0])
def test_one_class(loss, l2):
    split = split_of(20, 3, 1, names=3)
    at, layer, X = solve(split, l2, loss)
    assert at.reached and at.ended == converged.SURE and at.iteration == 0
    assert not layer.weights.any() and cost_of(layer, X, split, l2) < 1e-15


@pytest.mark.parametrize("loss", LOSSES)
def test_classes_without_rows_are_left_out(loss, small):
    split = split_of(60, 5, 3, names=9)
    at, layer, X = solve(split, 0.02, loss)
    assert layer.weights.shape == (5, 9) and not layer.weights[:, 3:].any() and at.T.shape == (3, 5)
    share = 1 if loss == "softmax" else 3 / 9
    best = share * optimum(X, split.labels, 3, 0.02 / share, loss)  # the mean is over nine classes
    assert cost_of(layer, X, split, 0.02) == pytest.approx(best, rel=1e-7)


def test_constant_and_duplicate_columns(small):
    split = split_of(100, 6, 3)
    R = np.array(split.dataset.rows)
    R[:, 1], R[:, 3] = 7, R[:, 2]
    split = Split("train", replace(split.dataset, rows=R), split.indices)
    at, layer, X = solve(split, 0.01)
    assert at.reached and not layer.weights[1].any()
    np.testing.assert_allclose(layer.weights[2], layer.weights[3], atol=1e-6)
    assert at.cost == pytest.approx(optimum(X, split.labels, 3, 0.01, "softmax"), rel=1e-8)


def test_features_far_from_zero():
    split = split_of(100, 4, 2, dtype="float64")
    far = Split("train", replace(split.dataset, rows=split.dataset.rows + 1e9), split.indices)
    near, there = solve(split, 0.1)[0], solve(far, 0.1, dtype="float32")[0]
    assert there.cost == pytest.approx(near.cost, rel=1e-5)


def test_wide_rows_build_no_square_matrix():
    split = split_of(40, 30_000, 3)
    at, layer, X = solve(split, 0.5, tol=1e-5, dtype="float32")
    assert at.reached and at.passes < 10
    K = X @ X.T  # the optimum lies in the span of the rows
    c, U = np.linalg.eigh(K)
    Z = U * np.sqrt(np.maximum(c, 0))
    assert cost_of(layer, X, split, 0.5) == pytest.approx(optimum(Z, split.labels, 3, 0.5, "softmax"), rel=1e-5)


def test_no_penalty_and_separable_classes(small):
    at, _, _ = solve(split_of(20, 40, 3), 0.0)
    assert at.ended == converged.SEPARABLE and not at.reached and at.loss < 1e-3


@pytest.mark.parametrize("loss", LOSSES)
def test_a_small_loss_does_not_separate_classes(loss, small):
    n = 20_000
    R = np.where(np.arange(n) % 2, 3.0, -3.0)[:, None]
    R[:2] = 0.1  # two equal rows of different classes
    dataset = Dataset(R, np.arange(n) % 2, ("left", "right"), None, "drawn")
    at, layer, X = solve(Split("train", dataset, np.arange(n)), 0.0, loss, tol=1e-7)
    assert at.loss < converged.SEPARATED and at.ended == converged.FLAT
    assert cost_of(layer, X, Split("train", dataset, np.arange(n)), 0.0) == pytest.approx(
        optimum(X, dataset.labels, 2, 0.0, loss), rel=1e-4
    )


@pytest.mark.parametrize("kind", [Softmax, partial(Sigmoids, terms=3)], ids=["softmax", "sigmoid"])
def test_classes_are_separated_where_every_answer_is_right(kind):
    y, b = np.array([0, 1, 2, 0]), np.array([1.0, 0.0, 0.0])
    loss, right = kind(y, np.full(4, 0.25), 3), np.array([[1, -3, -3, 1], [-2, 2, -2, -2], [-2, -2, 2, -2.0]])
    assert loss.separates(right, b)
    for row, wrong in enumerate([-1 - 2e-9, 0.0, 0.0, -1.0]):  # logits of about 0: a sigmoid does not know
        S = right.copy()
        S[:, row] = -b if kind is Softmax else S[:, row]
        S[y[row], row] = wrong
        assert not loss.separates(S, b)
    right[2, 0] = 1.9  # below the label's 2, and no answer of its own
    assert loss.separates(right, b) == (kind is Softmax)


def test_no_penalty_and_an_optimum(small):
    split = split_of(400, 3, 3)
    at, layer, X = solve(split, 0.0, tol=1e-9)
    assert at.ended == converged.FLAT and np.isinf(at.gap)
    assert cost_of(layer, X, split, 0.0) == pytest.approx(optimum(X, split.labels, 3, 0.0, "softmax"), rel=1e-7)


def test_nearly_separable_classes(small):
    split = split_of(60, 30, 4)
    at, layer, X = solve(split, 1e-7, tol=1e-4)
    assert at.reached
    assert cost_of(layer, X, split, 1e-7) == pytest.approx(optimum(X, split.labels, 4, 1e-7, "softmax"), rel=1e-3)


@pytest.mark.parametrize("of_scores", [Softmax, Sigmoids])
def test_residuals_of_rows_that_are_nearly_certain_have_digits(of_scores):
    rng = np.random.default_rng(0)
    y, w = rng.integers(3, size=50), rng.uniform(size=50)
    S = rng.uniform(-9, -8, (3, 50)).astype(np.float32)
    S[y, np.arange(50)] *= -1  # one minus the probability of the label is about 1e-7
    loss = of_scores(y, w / w.sum(), 3, **({"terms": 3} if of_scores is Sigmoids else {}))
    ours, theirs = (loss.at(Z, np.zeros(3)) for Z in (S, S.astype(np.longdouble)))
    np.testing.assert_allclose(ours.G, theirs.G.astype(np.float64), rtol=1e-5)
    assert np.abs(theirs.G[y, np.arange(50)]).max() < 1e-5


@pytest.mark.parametrize("kind", [Softmax, partial(Sigmoids, terms=3)], ids=["softmax", "sigmoid"])
@pytest.mark.parametrize("compiled", [False, pytest.param(True, marks=needs_kernel)])
def test_losses_of_rows_that_are_nearly_certain_have_digits(kind, compiled):
    rng = np.random.default_rng(0)
    y, w = rng.integers(3, size=50), np.full(50, 1 / 50)
    S = rng.uniform(-12, -11, (3, 50)).astype(np.float32)
    S[y, np.arange(50)] *= -1  # losses of about 1e-10 for softmax, and 1e-5 for sigmoids
    S[:2, 0] = 12, 12  # a tie
    y[0] = 1
    ours = kind(y, w, 3, compiled).at(S, np.zeros(3)).loss
    Z = S.astype(np.longdouble)
    own = Z[y, np.arange(50)]
    Z[y, np.arange(50)] = -np.inf
    theirs = np.log1p(np.exp(Z - own).sum(axis=0)) if kind is Softmax else 0
    if kind is not Softmax:
        theirs = (np.log1p(np.exp(-own)) + np.log1p(np.exp(Z)).sum(axis=0)) / 3
    assert ours == pytest.approx(float(theirs.mean()), rel=1e-6)
    uncertain = slice(1, None)
    ours = kind(y[uncertain], np.full(49, 1 / 49), 3, compiled).at(S[:, uncertain].copy(), np.zeros(3)).loss
    assert ours == pytest.approx(float(theirs[uncertain].mean()), rel=1e-4)
    assert 0 < ours < 1e-4


def test_a_step_that_stays_uneven_keeps_templates_and_scores_together(monkeypatch):
    monkeypatch.setattr(newton, "MOST_NUMBERS", 0)
    monkeypatch.setattr(converged, "TRIALS", 2)
    monkeypatch.setattr(converged, "FLATTENED", (0.0, 0.0))
    split = split_of()
    rows = Rows(split, standardizer_of(split))
    for at in Convergence(rows, LOSSES["softmax"], 1e-3).iterates(1e-3, max_passes=6):
        np.testing.assert_allclose(at.S, rows.scores(at.T), atol=1e-9)
    assert at.iteration == 5


def test_passes_are_the_products_that_were_taken(monkeypatch):
    monkeypatch.setattr(newton, "MOST_NUMBERS", 0)
    monkeypatch.setattr(converged, "RESCORED", 4)
    split, l2s = split_of(400, 20, 4), np.geomspace(0.1, 1e-3, 10)
    rows, count = Rows(split, standardizer_of(split)), {"scores": 0, "gradient": 0}

    def counted(name, product, A):
        count[name] += 1
        return product(A)

    for name in count:
        monkeypatch.setattr(rows, name, partial(counted, name, getattr(rows, name)))
    convergence = Convergence(rows, LOSSES["softmax"], l2s[-1])
    path = list(convergence.path(l2s))
    iterations = sum(at.iteration for at in path)
    assert sum(at.passes for at in path) == sum(count.values()) / 2
    settled = count["gradient"] - iterations - len(l2s)  # where the bias was settled after the gradient
    assert 0 <= settled <= len(l2s) / 2
    assert max(at.iteration for at in path) < 4, "no lambda by itself computes the scores anew"
    assert count["scores"] >= iterations + iterations // 4 - 2
    count.update(scores=0, gradient=0)
    start = Iterate(path[0].T, path[0].b)  # as of another layer
    (*_, at) = convergence.iterates(1e-3, start)
    assert at.passes == sum(count.values()) / 2 == at.iteration + 1 + at.iteration // 4 / 2


@pytest.mark.parametrize("most", [20, 21, 22])
def test_no_more_passes_than_allowed(most, monkeypatch):
    monkeypatch.setattr(newton, "MOST_NUMBERS", 0)
    split = split_of()
    convergence = Convergence(Rows(split, standardizer_of(split)), LOSSES["softmax"], 1e-6)
    last = list(convergence.iterates(1e-6, tol=1e-14, max_passes=most))[-1]
    assert most - 1.5 < last.passes <= most and last.ended == converged.PASSED.format(f"{most} passes")


def test_passes_are_limited(monkeypatch):
    monkeypatch.setattr(newton, "MOST_NUMBERS", 0)
    split = split_of()
    convergence = Convergence(Rows(split, standardizer_of(split)), LOSSES["softmax"], 1e-5)
    last = list(convergence.iterates(1e-5, tol=1e-12, max_passes=4))[-1]
    assert last.passes <= 4 and not last.reached
    assert last.ended == converged.PASSED.format("4 passes")
    assert list(convergence.iterates(1e-5, last)) == []


@pytest.mark.parametrize("loss", LOSSES)
@pytest.mark.parametrize("after", [1, 3, 7, 10, 13])
def test_resumed_equals_uninterrupted(after, loss, small):
    split = split_of(500, 30, 5)
    rows = Rows(split, standardizer_of(split), dtype=np.dtype("float32"))

    def states(start: Iterate | None = None) -> list[Iterate]:
        return list(Convergence(rows, LOSSES[loss], 1e-4).iterates(1e-4, start, tol=1e-7, max_passes=22))

    whole = states()
    start = whole[min(after, len(whole) - 1) - 1]
    if start.iteration % converged.RESCORED == 0:
        start = replace(start, S=None)
    resumed = states(start)
    assert len(resumed) == len(whole) - start.iteration
    for ours, theirs in zip(resumed, whole[start.iteration :], strict=True):
        assert ours.T.tobytes() == theirs.T.tobytes() and ours.b.tobytes() == theirs.b.tobytes()
        assert (ours.cost, ours.gap, ours.passes, ours.ended) == (theirs.cost, theirs.gap, theirs.passes, theirs.ended)


@pytest.mark.parametrize("loss", LOSSES)
def test_path_is_each_lambda_by_itself(loss, monkeypatch):
    monkeypatch.setattr(newton, "MOST_NUMBERS", 0)
    split = split_of(400, 20, 4)
    rows, l2s = Rows(split, standardizer_of(split)), np.geomspace(0.1, 1e-4, 8)
    convergence = Convergence(rows, LOSSES[loss], l2s[-1])
    warm = list(convergence.path(l2s, tol=1e-10))
    cold = [list(convergence.iterates(l2, tol=1e-10))[-1] for l2 in l2s]
    for ours, theirs in zip(warm, cold, strict=True):
        assert ours.reached and theirs.reached
        assert ours.cost == pytest.approx(theirs.cost, rel=1e-9)
        np.testing.assert_allclose(ours.T, theirs.T, atol=1e-3 * np.abs(theirs.T).max())
    assert len({id(at.S) for at in warm}) == len(l2s)
    assert sum(at.passes for at in warm) < sum(at.passes for at in cold) * 0.8


@pytest.mark.parametrize("loss", LOSSES)
def test_a_path_knows_the_curvature_from_before(loss, monkeypatch):
    monkeypatch.setattr(newton, "MOST_NUMBERS", 0)
    split, l2s = split_of(400, 20, 4), [1e-4 * (1 - 1e-9) ** k for k in range(5)]
    convergence = Convergence(Rows(split, standardizer_of(split)), LOSSES[loss], 1e-4)
    pieces = list(convergence.path(l2s, tol=1e-12, max_passes=4))
    assert [at.iteration for at in pieces] == [3] * 5
    whole = list(convergence.iterates(1e-4, tol=1e-12))[14]
    assert whole.iteration == 15
    assert pieces[-1].gap < 5 * whole.gap  # without the pairs of earlier lambdas, a hundred times as large


@pytest.fixture
def softmaxes(monkeypatch):
    """Return a list that has an element for each look at all scores."""
    looks, probabilities = [], Softmax.probabilities

    def counted(*arguments):
        looks.append(1)
        return probabilities(*arguments)

    monkeypatch.setattr(Softmax, "probabilities", counted)
    monkeypatch.setattr(newton, "MOST_NUMBERS", 0)
    return looks


def test_an_iteration_takes_few_softmaxes(softmaxes):
    split = split_of(400, 20, 4)
    convergence = Convergence(Rows(split, standardizer_of(split)), LOSSES["softmax"], 1e-4)
    last = list(convergence.iterates(1e-4, tol=1e-6))[-1]
    assert last.reached and last.iteration >= 8
    assert len(softmaxes) < 7 * last.iteration


def test_the_first_steps_for_many_classes_take_few_softmaxes(softmaxes):
    """Newton's first step is right for a curvature of 1/K, and would make every row certain."""
    rng = np.random.default_rng(0)
    y = rng.integers(150, size=900)
    X = rng.normal(size=(900, 40)) + rng.normal(size=(150, 40))[y]
    split = Split("train", Dataset(X, y, tuple(map(str, range(150))), None, "many"), np.arange(900))
    convergence = Convergence(Rows(split, standardizer_of(split)), LOSSES["softmax"], 1e-4)
    *_, third = islice(convergence.iterates(1e-4), 3)
    assert len(softmaxes) < 60
    assert third.cost < 1


@pytest.mark.parametrize("l2", [0.1, 1e-3])
def test_the_gap_that_was_reached_is_proven(l2):
    """A bias that is nearly right lowers the bound by more than it raises the cost."""
    split = split_of(3000, 60, 10, dtype="uint8")
    standardizer = standardizer_of(split)
    convergence = Convergence(Rows(split, standardizer, dtype=np.dtype(np.float32)), LOSSES["softmax"], l2)
    last = list(convergence.iterates(l2, tol=1e-4))[-1]
    assert last.reached
    proven = certify(convergence.layer(last), standardizer, split, l2)
    assert proven.gap <= last.gap + 1e-5 * proven.bound


def test_a_path_takes_few_factors(monkeypatch):
    monkeypatch.setattr(newton, "MOST_NUMBERS", 0)
    monkeypatch.setattr(preconditioner, "EXACT_COLUMNS", 5)
    monkeypatch.setattr(preconditioner, "SKETCH_ROWS", 30)
    made, cholesky = [], np.linalg.cholesky
    monkeypatch.setattr(np.linalg, "cholesky", lambda B: made.append(1) or cholesky(B))
    split, l2s = split_of(400, 20, 4), np.geomspace(0.1, 1e-3, 10)
    convergence = Convergence(Rows(split, standardizer_of(split)), LOSSES["softmax"], l2s[-1])
    assert all(at.reached for at in convergence.path(l2s))
    assert 2 <= len(made) <= 4


@pytest.mark.parametrize("kind", ["exact", "rows", "factor"])
def test_preconditioners_divide_by_what_they_say(kind, monkeypatch):
    n, d, K = (20, 50, 3) if kind == "rows" else (90, 30, 3)
    split = split_of(n, d, K)
    rows = Rows(split, standardizer_of(split), dtype=np.dtype("float64"))
    monkeypatch.setattr(preconditioner, "PANEL", 8)
    monkeypatch.setattr(preconditioner, "FACTOR_ROWS", 100)
    X = rows.standardised(np.arange(n))
    p = np.array([0.5, 0.2, 0.3])
    M = np.diag(p) if kind == "factor" else np.diag(p) - np.outer(p, p)
    if kind == "factor":
        M = 0.01 * np.eye(K)  # 2 lambda is ten times as much
    B = np.kron(M, X.T @ X / n) + 2 * 0.05 * np.eye(K * d)
    A = np.random.default_rng(0).standard_normal((K, d))
    of_rows = (Factor if kind == "factor" else Spectrum).of(rows)
    ours = of_rows.solve(A.copy(), Eigen.of(M), 0.05)
    np.testing.assert_allclose(ours, np.linalg.solve(B, A.ravel()).reshape(K, d), rtol=1e-6, atol=1e-8)


def test_a_preconditioner_has_digits_where_the_penalty_is_small():
    rng = np.random.default_rng(0)
    c = np.geomspace(1e-6, 1e3, 40)
    V = np.linalg.qr(rng.standard_normal((40, 40)))[0].astype(np.float32)
    spectrum, M, l2 = Spectrum(V, c, 0.0), np.diag([0.2, 0.3]), 1e-6
    for k in (0, 1):
        A = np.zeros((2, 40))
        A[k] = V[-1]  # the strongest direction
        slope = np.vdot(A, spectrum.solve(A.copy(), Eigen.of(M), l2))
        assert slope == pytest.approx(1 / (M[k, k] * c[-1] + 2 * l2), rel=1e-3)


def test_a_factor_takes_a_larger_ridge_where_rounding_needs_it():
    C = np.ones((260, 260), np.float32) - 0.5 * np.eye(260, dtype=np.float32)  # no ridge below 0.5 does
    factor, A, M = Factor(C), np.ones((3, 260)), Eigen.of(0.2 * np.eye(3))
    ours = [factor.solve(A.copy(), M, 1e-9) for _ in range(2)]
    np.testing.assert_allclose(ours[0], 1 / (0.2 * 260.5), rtol=5e-3)  # a ridge of 10 is 4 % off
    assert ours[0].tobytes() == ours[1].tobytes()
    with pytest.raises(np.linalg.LinAlgError):
        Factor(-np.eye(3, dtype=np.float32)).solve(A[:, :3].copy(), M, 1e-9)


@pytest.fixture
def by_class(monkeypatch):
    monkeypatch.setattr(preconditioner, "MANY_CLASSES", 2)
    monkeypatch.setattr(preconditioner, "LEAST_NUMBERS", 0)
    monkeypatch.setattr(newton, "MOST_NUMBERS", 0)


def test_classes_by_themselves_are_the_blocks_of_the_hessian(monkeypatch):
    K, l2 = 5, 0.01
    split = split_of(n=40, d=6, K=K, weights=np.linspace(0.5, 2, 40))
    rows = Rows(split, standardizer_of(split), dtype=np.dtype(np.float64))
    of_scores = Softmax(rows.labels, rows.weights, K)
    X, A = rows.standardised(np.arange(40), weighted=False), np.random.default_rng(0).standard_normal((K, 6))
    v = of_scores.steepness(0.3 * A @ X.T, np.zeros(K))
    exact = ByClass(rows)
    exact.most = 40
    expected = np.empty_like(A)
    for k in range(K):
        mean = v[k] @ X
        block = (X.T * v[k]) @ X - np.outer(mean, mean) / (v[k].sum() * (1 + 1e-4)) + 2 * l2 * np.eye(6)
        block += 1e-4 * v[k].sum() * (X.T * rows.weights) @ X
        expected[k] = np.linalg.solve(block, (A - A.mean(axis=0))[k])
    found = exact.solve(A, v, l2)
    np.testing.assert_allclose(found, expected - expected.mean(axis=0), rtol=1e-9, atol=1e-12)
    rest = ByClass(rows)  # rows that do not count one by one count by C
    v[:] = np.where(np.arange(40) < rest.most, 2e-3, 1e-3)
    assert rest.most < 40
    assert np.abs(rest.solve(A, v, l2) - exact.solve(A, v, l2)).max() > 1e-4 * np.abs(found).max()


def test_curvatures_of_unlikely_labels_are_those_of_a_parabola_above_the_loss():
    labels, w = np.arange(4), np.full(4, 0.25)
    of_scores = Softmax(labels, w, 4)
    S = np.diag([-3.0, 1.0, 4.0, -700.0])
    v, (_, P, _) = of_scores.steepness(S, np.zeros(4)), of_scores.probabilities(S, np.zeros(4))
    own = np.diag(P)
    np.testing.assert_allclose(v[~np.eye(4, dtype=bool)], 0.25 * (P * (1 - P))[~np.eye(4, dtype=bool)])
    np.testing.assert_allclose(np.diag(v)[2], 0.25 * own[2] * (1 - own[2]))
    for i in (0, 1, 3):  # at every step of the score of the label
        x, curvature = S[i, i] - np.log(3), 4 * v[i, i]
        steps = np.linspace(-20, 1500, 4000)
        loss = np.logaddexp(0, -x - steps)
        parabola = np.logaddexp(0, -x) - steps * (1 - own[i]) + curvature * steps**2 / 2
        assert (parabola - loss > -1e-9).all()
        assert curvature < 0.25 + 1e-9


def test_many_classes_of_few_rows_take_few_passes(by_class, monkeypatch):
    split = split_of(n=500, d=120, K=60)
    rows = Rows(split, standardizer_of(split), dtype=np.dtype(np.float64))
    found, passes = [], []
    for classes in (2, 1000):
        monkeypatch.setattr(preconditioner, "MANY_CLASSES", classes)
        assert isinstance(choose_preconditioner(rows, 60, 1e-5, True), ByClass) == (classes == 2)
        at = list(Convergence(rows, LOSSES["softmax"], 1e-5).iterates(1e-5, tol=1e-4))[-1]
        assert at.reached
        found, passes = [*found, at.cost], [*passes, at.passes]
    assert passes[0] < 0.7 * passes[1]
    assert found[0] == pytest.approx(found[1], rel=2e-4)


@pytest.mark.parametrize("after", [1, 4, 10])
def test_many_classes_resumed_are_many_classes_uninterrupted(after, by_class):
    split = split_of(n=120, d=20, K=15)
    rows = Rows(split, standardizer_of(split), dtype=np.dtype(np.float64))
    whole = list(Convergence(rows, LOSSES["softmax"], 1e-4).iterates(1e-4, tol=1e-10))
    start = replace(whole[after - 1], S=None if after == 10 else whole[after - 1].S)
    rest = list(Convergence(rows, LOSSES["softmax"], 1e-4).iterates(1e-4, start, tol=1e-10))
    assert len(whole) > after
    assert len(rest) == len(whole) - after
    np.testing.assert_array_equal(rest[-1].T, whole[-1].T)
    np.testing.assert_array_equal(rest[-1].b, whole[-1].b)


@pytest.mark.parametrize("kind", [Softmax, Sigmoids])
@pytest.mark.parametrize("uneven", [1.0, 30.0])
def test_the_diagonal_finds_the_bias_of_the_hessian(kind, uneven, monkeypatch):
    rng = np.random.default_rng(0)
    labels = np.concatenate([np.arange(20), rng.integers(20, size=400)])
    S = uneven * rng.standard_normal((20, 420)) + 3 * rng.standard_normal((20, 1))
    found = []
    for classes in (2, 1000):
        monkeypatch.setattr(losses, "MANY_CLASSES", classes)
        of_scores = kind(labels, np.full(420, 1 / 420), 20, **({"terms": 20} if kind is Sigmoids else {}))
        found.append(of_scores.fit(S, np.zeros(20)))
    np.testing.assert_allclose(found[0].b, found[1].b, rtol=1e-7, atol=1e-8)
    np.testing.assert_allclose(found[0].G.sum(axis=1), 0, atol=1e-9)


def test_rows_multiply_as_standardised_rows_do():
    split = split_of(150, 9, 3, dtype="uint8")
    split = replace(split, indices=np.random.default_rng(0).permutation(150)[:77])
    rows = Rows(split, standardizer_of(split), dtype=np.dtype("float64"))
    rows.block_rows = 10
    X = rows.standardised(np.arange(77))
    rng = np.random.default_rng(0)
    T, G = rng.standard_normal((3, 9)), rng.standard_normal((3, 77))
    np.testing.assert_allclose(rows.scores(T), T @ X.T, atol=1e-10)
    np.testing.assert_allclose(rows.gradient(G), G @ X, atol=1e-10)


@needs_kernel
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("K", [3, 30])
def test_rows_multiply_the_same_in_the_kernel_and_in_numpy(dtype, K):
    split = split_of(3000, 400, K, dtype=dtype)
    split = replace(split, indices=np.random.default_rng(0).permutation(3000)[:2900])
    compiled, plain = (Rows(split, standardizer_of(split), compiled=flag) for flag in (True, False))
    assert compiled.compiled and not plain.compiled and compiled.dtype == np.float32
    X = standardizer_of(split).transform(split.rows(slice(None)).astype(float))
    rng = np.random.default_rng(0)
    T, G = rng.standard_normal((K, 400)), rng.standard_normal((K, 2900), np.float32)
    # Both multiply in float32 the rows as they are stored, whose sums are larger than those of standardised rows.
    stored = np.abs(split.rows(slice(None)).astype(float))
    eps, scale = np.finfo(np.float32).eps, standardizer_of(split).scale
    for rows in (compiled, plain):
        assert np.abs(rows.scores(T) - T @ X.T).max() <= 2 * eps * (np.abs(T / scale) @ stored.T).max()
        assert np.abs(rows.gradient(G) - G.astype(float) @ X).max() <= eps * (np.abs(G) @ stored / scale).max()


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
@pytest.mark.parametrize("compiled", [True, False])
def test_any_number_of_threads_gives_the_same_bits(dtype, compiled, monkeypatch):
    monkeypatch.setattr(parts, "count_cores", lambda: 3)
    monkeypatch.setattr(parts, "LEAST_WORK", 2**14)
    monkeypatch.setattr(parts, "LEAST_ROWS", 100)
    split = split_of(3000, 400, 3, dtype=dtype)
    rng = np.random.default_rng(0)
    T, G = rng.standard_normal((3, 400)), rng.standard_normal((3, 3000), np.float32)
    found, used = set(), set()

    def watched(task, *arguments):
        return parts.in_parts(lambda *part: used.add(threading.get_ident()) or task(*part), *arguments)

    monkeypatch.setattr(rows_module, "in_parts", watched)
    for threads in (1, 2, 0):
        rows = Rows(split, standardizer_of(split), compiled=compiled, threads=threads)
        found.add((rows.scores(T).tobytes(), rows.gradient(G).tobytes()))
    assert len(found) == 1 and len(used) > 1


@needs_kernel
@pytest.mark.parametrize("kind", [Softmax, partial(Sigmoids, terms=9)], ids=["softmax", "sigmoid"])
def test_the_kernel_and_any_number_of_threads_give_the_same_probabilities(kind, monkeypatch):
    monkeypatch.setattr(parts, "count_cores", lambda: 3)
    monkeypatch.setattr(parts, "LEAST_WORK", 2**10)
    monkeypatch.setattr(parts, "LEAST_ROWS", 100)
    rng = np.random.default_rng(0)
    S, b = rng.standard_normal((7, 3000), np.float32) * 3, rng.standard_normal(7)
    y, w = rng.integers(0, 7, 3000), rng.uniform(0, 1, 3000)
    found = {}
    for compiled in (True, False):
        for threads in (1, 2, 0):
            loss, P, p = kind(y, w / w.sum(), 7, compiled, threads).probabilities(S, b)
            found.setdefault(compiled, set()).add((loss, P.tobytes(), p.tobytes()))
    ((ours,), (theirs,)) = found.values()
    assert ours[0] == pytest.approx(theirs[0], rel=1e-6)
    np.testing.assert_allclose(*(np.frombuffer(of[1], np.float32) for of in (ours, theirs)), rtol=1e-5)
    np.testing.assert_allclose(*(np.frombuffer(of[2]) for of in (ours, theirs)), rtol=1e-6)


def test_an_error_in_a_thread_ends_the_others():
    heard = threading.Event()

    def task(part: slice, stopped) -> None:
        if part.start == 0:
            raise KeyError("first")
        for _ in range(5000):
            if stopped():
                heard.set()
                return
            time.sleep(0.001)

    with pytest.raises(KeyError, match="first"):
        list(parts.in_parts(task, parts.parts_of(8 * parts.LEAST_ROWS, 8 * parts.LEAST_WORK), 2))
    assert heard.is_set()
    assert len(parts.parts_of(8 * parts.LEAST_ROWS, 8 * parts.LEAST_WORK)) == 8


def test_threads_are_at_most_one_for_each_core(monkeypatch):
    monkeypatch.setattr(parts, "count_cores", lambda: 3)
    assert [parts.count_threads(asked) for asked in (0, 1, 3, 9)] == [3, 1, 3, 3]


def test_parts_are_worked_on_as_their_results_are_taken():
    started = []
    results = parts.in_parts(lambda part, stopped: started.append(part) or part, parts.parts_of(50, 0, least=50), 3)
    for taken, part in enumerate(results, start=1):
        assert part == slice(taken - 1, taken)
        time.sleep(0.002)
        assert len(started) <= taken + 4
    assert taken == 50


def test_one_thread_reads_while_another_one_multiplies(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "count_cores", lambda: 4)
    asked = []
    monkeypatch.setattr(rows_module, "in_parts", lambda task, found, threads: asked.append(threads) or [])
    split = split_of(30, 8, 3)
    for of in (split, mapped(split, tmp_path / "rows.npy")):
        for threads in (1, 3, 0):
            Rows(of, standardizer_of(split), threads=threads).scores(np.zeros((3, 8)))
    assert asked == [1, 3, 4, 2, 3, 4]


@needs_kernel
def test_the_backend_multiplies(monkeypatch):
    splits = toy_splits()
    for name in ("native", "numpy"):
        problem = Problem.of(splits, TrainConfig(solver="converged", l2=0.1, backend=name, threads=1))
        monkeypatch.setattr(rows_module, "SMALL_NUMBERS", 0)
        rows = convergence_of(problem, 0.1).rows
        assert rows.compiled == (name == "native") and rows.threads == 1
    monkeypatch.setenv("ONELAYER_KERNEL", "mmx")
    with pytest.raises(ConfigError, match=r"^ONELAYER_KERNEL=mmx does not run here; .*; set it to one of these"):
        Rows(splits.train, splits.standardizer)


def mapped(split: Split, path: Path) -> Split:
    np.save(path, split.dataset.rows)
    return replace(split, dataset=replace(split.dataset, rows=np.load(path, mmap_mode="r")))


def test_an_optimum_does_not_depend_on_where_rows_are(tmp_path):
    split = split_of(300, 8, 3, dtype="float16")
    ours, theirs = (solve(of, 0.1)[0] for of in (mapped(split, tmp_path / "rows.npy"), split))
    assert ours.T.tobytes() == theirs.T.tobytes()


@pytest.mark.parametrize(("dtype", "K"), [("uint8", 3), ("uint8", 30), ("float16", 3), ("float64", 3)])
@pytest.mark.parametrize("system", ["any", "Linux"])
def test_rows_of_a_memory_map(dtype, K, system, tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "count_cores", lambda: 3)
    monkeypatch.setattr(windows, "PART_BYTES", 2**12)  # several windows, the least of 256 rows
    if system == "any":
        monkeypatch.setattr(mapped_file, "MAPS", tmp_path / "no such file")
    split = split_of(3000, 48, K, dtype=dtype)
    near = np.sort(np.random.default_rng(1).permutation(2000)[:1800])
    split = replace(split, indices=np.concatenate([near, np.arange(2000, 3000, 7)]))  # some have others in between
    standardizer = standardizer_of(split)
    rng = np.random.default_rng(0)
    T, G = rng.standard_normal((K, 48)), rng.standard_normal((K, len(split)), np.float32)
    found = set()
    for of in (split, mapped(split, tmp_path / "rows.npy")):
        for threads in (1, 2, 0):
            rows = Rows(of, standardizer, dtype=np.dtype(np.float32), threads=threads)
            S, product, some = rows.scores(T), rows.gradient(G), rows.standardised(np.arange(0, len(split), 5))
            found.add((S.tobytes(), product.tobytes(), some.tobytes()))
    assert len(found) == 1
    X = (split.rows(slice(None)).astype(float) - standardizer.mean) / standardizer.scale
    np.testing.assert_allclose(S, T @ X.T, atol=2e-4)
    np.testing.assert_allclose(product, G @ X, atol=2e-3)
    np.testing.assert_allclose(some, X[::5], atol=1e-4)


def test_few_windows_of_a_memory_map_are_in_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(parts, "count_cores", lambda: 2)
    monkeypatch.setattr(windows, "PART_BYTES", 1)  # windows of 256 rows
    split = mapped(split_of(4000, 1000, 3, dtype="uint8"), tmp_path / "rows.npy")
    rows = Rows(split, standardizer_of(split))
    T, G = np.ones((3, 1000)), np.ones((3, 4000), np.float32)
    for product, of in ((rows.scores, T), (rows.gradient, G)):
        tracemalloc.start()
        product(of)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 2 * 256 * 1000 + 500_000  # of 4,000,000


def test_few_rows_of_a_memory_map_are_asked_for_alone(tmp_path, monkeypatch):
    split = mapped(split_of(4000, 1024, 3, dtype="uint8"), tmp_path / "rows.npy")
    asked, advise = [], windows.madvise
    monkeypatch.setattr(windows, "madvise", lambda *of: asked.append(of) or advise(*of))
    Rows(split, standardizer_of(split)).standardised(np.arange(0, 4000, 400))
    lengths = [length for _, length, advice in asked if advice == mmap.MADV_WILLNEED]
    assert len(lengths) == 10
    assert sum(lengths) <= 10 * (1024 + 2 * mmap.PAGESIZE)


def test_wide_rows_take_a_sketch_or_a_factor(monkeypatch):
    monkeypatch.setattr(newton, "MOST_NUMBERS", 0)
    monkeypatch.setattr(preconditioner, "EXACT_COLUMNS", 5)
    monkeypatch.setattr(preconditioner, "SKETCH_ROWS", 30)
    split = split_of(200, 20, 12)
    for l2 in (0.1, 0.01):  # a sketch, and a factor of the moments of some rows
        at, layer, X = solve(split, l2, tol=1e-8)
        assert at.reached
        assert cost_of(layer, X, split, l2) == pytest.approx(optimum(X, split.labels, 12, l2, "softmax"), rel=1e-6)


def test_memory_is_used_again_once_nobody_has_it():
    arrays, shape = memory.Memory(), (512, 512)
    first, second = arrays.empty(shape, np.float32), arrays.empty(shape, np.float32)
    first[:], second[:] = 1, 2
    place, part = first.ctypes.data, first[3:5].T
    del first
    third = arrays.empty(shape, np.float32)
    third[:] = 3
    assert (part == 1).all() and (second == 2).all()  # a view keeps the memory
    del part
    again = arrays.empty((1024, 256), np.float32)
    assert again.shape == (1024, 256) and again.ctypes.data == place
    assert arrays.empty((3,), np.float64).shape == (3,)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_iterates_that_a_caller_keeps_do_not_change(loss, monkeypatch):
    monkeypatch.setattr(newton, "MOST_NUMBERS", 0)
    split = split_of(200, 12, 4)
    paths, seen = [], []
    for large in (0, 2**60):  # memory is used again, and never
        monkeypatch.setattr(memory, "LARGE", large)
        convergence = Convergence(Rows(split, standardizer_of(split)), LOSSES[loss], 1e-3)
        seen.clear()
        states = list(
            convergence.path(
                [0.1, 0.01, 1e-3], tol=1e-9, max_passes=50, on_iterate=lambda at: seen.append((at, copied(at)))
            )
        )
        assert len(seen) > 10
        assert all(held == copied(at) for at, held in seen)
        paths.append(list(map(copied, states)))
    assert paths[0] == paths[1]


def copied(at: Iterate) -> tuple[bytes, ...]:
    arrays = (at.T, at.b, at.S, *at.steps, *at.changes)
    return tuple(array.tobytes() for array in arrays)


def test_sigmoids_take_a_class_with_nearly_all_weight():
    weights = np.array([1.0, 1e-20, 1e-20, 1.0, 1e-20, 1.0]) / 3
    loss = Sigmoids(np.array([0, 1, 2, 0, 1, 0]), weights, 3, terms=3)
    odds = np.log([1 / (3e-20 / 3), (2e-20 / 3) / 1, (1e-20 / 3) / 1])
    np.testing.assert_allclose(loss.start, odds, rtol=1e-12)
    fit = loss.fit(np.zeros((3, 6)), loss.start)
    np.testing.assert_allclose(fit.b, odds, rtol=1e-9)
    assert 0 < fit.loss < 1e-17
    assert np.isfinite(fit.G).all()
