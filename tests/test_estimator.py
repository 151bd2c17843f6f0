"""SoftmaxClassifier against scikit-learn's own checks, its LogisticRegression, and the engine that it drives."""

import contextlib
import doctest
import io
import pickle
import re
from pathlib import Path

import numpy as np
import pytest
from helpers import relative, toy_dataset, toy_splits
from joblib import parallel_config
from sklearn.base import clone
from sklearn.calibration import CalibratedClassifierCV
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.ensemble import VotingClassifier
from sklearn.exceptions import ConvergenceWarning, FitFailedWarning, NotFittedError
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss
from sklearn.model_selection import GridSearchCV, cross_val_score, train_test_split
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from onelayer import OnelayerError, SoftmaxClassifier, SplitConfig, TrainConfig, estimator, train
from onelayer.cli.main import run_command
from onelayer.data import load_splits
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.kernel import kernel
from onelayer.runs.directory import Run

PAGE = Path(__file__).parents[1] / "docs" / "scikit-learn.md"
STILL_FALLING = pytest.mark.filterwarnings("ignore:the loss was still falling:sklearn.exceptions.ConvergenceWarning")


def toy(dtype: str = "float64", **options: object) -> tuple[np.ndarray, np.ndarray]:
    dataset = toy_dataset(dtype=dtype, **options)
    return np.array(dataset.rows), np.array(dataset.labels)


@parametrize_with_checks(
    [
        SoftmaxClassifier(),
        SoftmaxClassifier(loss="sigmoid", l2=0.1),  # with a penalty, fewer epochs end a fit of separable classes
        SoftmaxClassifier(early_stopping=True, l2=0.1),
        SoftmaxClassifier(warm_start=True, l2=0.01, decay_every=20),
    ]
)
def test_scikit_learns_own_checks(estimator, check):
    check(estimator)


# The same engine


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
@pytest.mark.parametrize("backend", ["native", "numpy"])
@pytest.mark.parametrize(
    "settings", [{}, {"flip": True, "l2": 0.1}, {"loss": "sigmoid", "decay_every": 1, "batch_size": 32}]
)
def test_same_rows_same_seed_same_bits_as_the_engine(dtype, backend, settings, monkeypatch):
    if backend == "numpy":
        monkeypatch.setattr("onelayer.training.backends.native.kernel", None)
    elif kernel is None:
        pytest.skip("the kernel was not compiled")
    settings = {"learning_rate": 0.02, "epochs": 3} | settings
    splits = toy_splits(dtype=dtype)
    arithmetic = "float64" if dtype == "float64" else "float32"
    result = train(splits, TrainConfig(**settings, seed=7, dtype=arithmetic))
    assert result.backend == ("native" if backend == "native" and arithmetic == "float32" else "numpy")
    X, y = splits.train.rows(slice(None)), splits.train.labels
    clf = SoftmaxClassifier(**settings, random_state=7, image_shape=(3, 4, 5)).fit(X, y)
    layer = clf.model_.layer
    assert layer.weights.dtype == arithmetic
    assert layer.weights.tobytes() == result.model.layer.weights.tobytes()
    assert layer.bias.tobytes() == result.model.layer.bias.tobytes()
    for name in ("epoch", "learning_rate", "train_loss", "train_cost", "train_accuracy"):
        assert clf.history_[name].tolist() == [getattr(record, name) for record in result.state.history]
    assert list(clf.history_) == ["epoch", "learning_rate", "train_loss", "train_cost", "train_accuracy", "seconds"]


def test_same_bits_as_the_command_line(tmp_path):
    words = "train --data digits --learning-rate 0.05 --batch-size 50 --epochs 3 --seed 9 --no-figures --quiet"
    run_command([*words.split(), "--out", str(tmp_path / "run")])
    model = Run.open(tmp_path / "run").model
    rows = load_splits("digits", SplitConfig()).train
    clf = SoftmaxClassifier(learning_rate=0.05, batch_size=50, epochs=3, random_state=9)
    clf.fit(rows.rows(slice(None)), rows.labels)
    assert clf.model_.layer.weights.tobytes() == model.layer.weights.tobytes()
    np.testing.assert_array_equal(clf.model_.standardizer.scale, model.standardizer.scale)


@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_rows_are_not_copied(dtype, monkeypatch):
    seen = []

    def watched(splits, *args, **options):
        seen.append(splits.dataset.rows)
        return train(splits, *args, **options)

    monkeypatch.setattr(estimator, "train", watched)
    X, y = toy(dtype)
    clf = SoftmaxClassifier(epochs=1).fit(X, y, sample_weight=np.arange(300.0)).partial_fit(X, y)
    assert all(np.shares_memory(rows, X) for rows in seen)
    assert X.flags.writeable
    assert clf.model_.layer.weights.dtype == ("float64" if dtype == "float64" else "float32")
    assert clf.decision_function(X).dtype == np.float64


@pytest.mark.parametrize("dtype", [np.float16, np.int64, bool, object])
def test_other_types_are_trained_in_float64(dtype):
    X = np.random.default_rng(0).integers(0, 2, (40, 3)).astype(dtype)
    clf = SoftmaxClassifier(epochs=1).fit(X, np.arange(40) % 2)
    assert clf.model_.layer.weights.dtype == np.float64


# The same optimum as LogisticRegression's


def cost_of_logistic_regression(X, y, l2):
    """Return the cost at its optimum, mean loss + l2 ||W||^2.

    Its own objective is C (sum of losses) + ||W||^2 / 2, the same for C = 1 / (2 l2 n). For two classes it has one
    vector w = W_1 - W_0. Of all W with this difference, hence these probabilities, W_1 = -W_0 = w / 2 has the smallest
    ||W||^2 = ||w||^2 / 2, so that the layer's optimum lies there; its penalty l2 ||w||^2 / 2 makes C = 1 / (l2 n).
    """
    n, two = len(y), len(np.unique(y)) == 2
    Z = StandardScaler().fit_transform(X)
    clf = LogisticRegression(C=1 / (l2 * n) if two else 1 / (2 * l2 * n), tol=1e-5, max_iter=1000).fit(Z, y)
    loss = -clf.predict_log_proba(Z)[np.arange(n), np.searchsorted(clf.classes_, y)].mean()
    return loss + l2 * (clf.coef_**2).sum() / (2 if two else 1), clf


@pytest.mark.parametrize(
    ("load", "dtype", "settings"),
    [
        (load_digits, "uint8", {"epochs": 300, "learning_rate": 0.2, "decay_every": 200}),
        (load_wine, "float64", {"epochs": 1000, "batch_size": 178, "decay_every": 0}),
        (load_breast_cancer, "float64", {"epochs": 1000, "batch_size": 569, "decay_every": 0}),
    ],
)
def test_the_cost_is_that_of_logistic_regression(load, dtype, settings):
    X, y = load(return_X_y=True)
    optimum, reference = cost_of_logistic_regression(X, y, 0.01)
    clf = SoftmaxClassifier(l2=0.01, random_state=0, **settings).fit(X.astype(dtype), y)
    assert clf.history_["train_cost"][-1] == pytest.approx(optimum, rel=1e-3)
    assert clf.history_["train_cost"][0] > 1.5 * optimum, "no distance was gone: this would compare nothing"
    Z = StandardScaler().fit_transform(X)
    assert np.abs(clf.predict_proba(X.astype(dtype)) - reference.predict_proba(Z)).max() < 0.02


def test_sigmoids_are_logistic_regressions_of_one_class_against_the_rest():
    X, y = load_wine(return_X_y=True)
    n, K, l2 = len(y), 3, 0.1
    Z = StandardScaler().fit_transform(X)
    clf = SoftmaxClassifier(l2=l2, loss="sigmoid", epochs=500, batch_size=n, decay_every=0).fit(X, y)
    ours = clf.decision_function(X)
    for k in range(K):  # the mean over K classes, hence the K
        reference = LogisticRegression(C=1 / (2 * l2 * n * K), tol=1e-8).fit(Z, y == k)
        assert ours[:, k] == pytest.approx(reference.decision_function(Z), abs=1e-4)
    P = 1 / (1 + np.exp(-ours))
    assert clf.predict_proba(X) == pytest.approx(P / P.sum(axis=1, keepdims=True), rel=1e-12)


@pytest.mark.parametrize("load", [load_wine, load_breast_cancer])
def test_without_a_setting_it_answers_as_well_as_logistic_regression(load):
    X, y = load(return_X_y=True)
    right = {"ours": 0, "theirs": 0}
    for seed in range(3):
        X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=seed, stratify=y)
        ours = SoftmaxClassifier(random_state=seed).fit(X_train, y_train)
        theirs = make_pipeline(StandardScaler(), LogisticRegression()).fit(X_train, y_train)
        for name, clf in (("ours", ours), ("theirs", theirs)):
            right[name] += int((clf.predict(X_test) == y_test).sum())
        assert ours.n_iter_ < 1000
    assert right["ours"] >= right["theirs"] - 3, "more than a row a split"


def test_auto_ends_where_the_training_cost_has_stopped_falling():
    X, y = load_wine(return_X_y=True)
    clf = SoftmaxClassifier(l2=0.01, random_state=0).fit(X, y)
    optimum, _ = cost_of_logistic_regression(X, y, 0.01)
    assert clf.history_["train_cost"][-1] == pytest.approx(optimum, rel=0.02)
    assert 10 < clf.n_iter_ < 1000
    assert "validation_loss" not in clf.history_
    rates = clf.history_["learning_rate"]
    assert rates[-1] == pytest.approx(rates[0] / 100)


def test_a_loss_that_still_falls_at_the_end_gives_scikit_learns_warning(monkeypatch):
    X, y = toy()
    with pytest.warns(ConvergenceWarning, match="still falling after 2 epochs; ask for more epochs"):
        SoftmaxClassifier(early_stopping=True, epochs=2, random_state=0).fit(X, y)
    monkeypatch.setattr("onelayer.training.schedule.MOST_EPOCHS", 3)
    with pytest.warns(ConvergenceWarning, match="still falling after 3 epochs"):
        SoftmaxClassifier(random_state=0).fit(X, y)
    SoftmaxClassifier(random_state=0, epochs=3).fit(X, y)  # as many as were asked for: no warning


# Fitting


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("dtype", ["uint8", "float32", "float64"])
def test_coefficients_are_in_the_units_of_the_rows(loss, K, dtype):
    X, y = toy(dtype, K=K)
    clf = SoftmaxClassifier(loss=loss, random_state=0, epochs=5).fit(X, y)
    rows = 1 if K == 2 else K
    assert (clf.coef_.shape, clf.intercept_.shape) == ((rows, 60), (rows,))
    scores = X.astype(float) @ clf.coef_.T + clf.intercept_
    assert clf.decision_function(X) == pytest.approx(scores[:, 0] if K == 2 else scores, rel=1e-9, abs=1e-9)
    P = clf.predict_proba(X)
    assert P.shape == (300, K)
    assert P.sum(axis=1) == pytest.approx(1, rel=1e-14)
    assert clf.score(X, y) > 0.8
    engine = clf.model_.probabilities(X)
    if loss == "softmax":
        assert relative(P, engine) < 1e-12
    elif K == 2:  # each sigmoid by itself says the same, except for the initial weights
        assert np.abs(P - engine).max() < 0.05


@pytest.mark.filterwarnings("ignore:the rows lie far from:onelayer.OnelayerWarning")
def test_log_probabilities_are_not_logarithms_of_rounded_ones():
    X, y = toy()
    for loss in ("softmax", "sigmoid"):
        clf = SoftmaxClassifier(loss=loss, random_state=0).fit(X, y)
        far = X[:1] * 1e5
        assert clf.predict_proba(far).min() == 0
        S = clf.decision_function(far)[0]
        expected = S - S.max() if loss == "softmax" else np.minimum(S, 0) - np.minimum(S, 0).max()
        ties = np.log((expected == 0).sum())
        assert clf.predict_log_proba(far)[0] == pytest.approx(expected - ties, rel=1e-9)


@pytest.mark.parametrize("standardize", [True, False])
@pytest.mark.parametrize(("loss", "curvature"), [("softmax", 1 / 2), ("sigmoid", 1 / 12)])
def test_the_automatic_step_is_sure_but_not_short(loss, curvature, standardize):
    X, y = toy(K=3)
    Z = np.delete(X, 7, axis=1)  # the constant feature
    Z = np.column_stack([StandardScaler().fit_transform(Z) if standardize else Z, np.ones(300)])
    largest, trace = np.linalg.eigvalsh(Z.T @ Z / 300)[-1], (Z**2).sum(axis=1).mean()
    assert trace > 1.02 * largest
    settings = {"loss": loss, "l2": 0.1, "standardize": standardize, "random_state": 0, "decay_every": 0, "epochs": 20}
    for size, steepest in ((300, largest), (10, largest + (trace - largest) / 10)):
        clf = SoftmaxClassifier(batch_size=size, **settings).fit(X, y)
        assert clf.learning_rate_ == pytest.approx(1.5 / (curvature * steepest + 2 * 0.1), rel=0.01)
        if size == 300:
            assert (np.diff(clf.history_["train_cost"]) < 0).all()


@STILL_FALLING
def test_history_is_a_table():
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    X, y = toy()
    table = pandas.DataFrame(SoftmaxClassifier(epochs=4, early_stopping=True).fit(X, y).history_)
    assert len(table) == 4
    assert not table.isna().any(axis=None)
    assert {"validation_loss", "validation_cost", "validation_accuracy"} < set(table)
    assert "test_accuracy" not in table
    assert not hasattr(SoftmaxClassifier(), "history_")


@STILL_FALLING
def test_verbose_prints_a_line_an_epoch(capsys):
    X, y = toy()
    SoftmaxClassifier(epochs=2, verbose=1).fit(X, y)
    line = r"epoch {}/2  train \d\.\d{{4}} nats, \d+\.\d\d %\n"
    assert re.fullmatch(line.format(1) + line.format(2), capsys.readouterr().out)
    SoftmaxClassifier(epochs=1, early_stopping=True, verbose=1).fit(X, y)
    assert re.search(r"validation \d\.\d{4} nats", capsys.readouterr().out)


# Weights


@STILL_FALLING
@pytest.mark.parametrize("early_stopping", [False, True])
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_rows_of_weight_zero_change_no_bit(early_stopping, dtype):
    X, y = toy(dtype)
    weights = np.random.default_rng(5).choice([0, 0, 1.5, 7], 300)
    clf = SoftmaxClassifier(random_state=0, epochs=6, early_stopping=early_stopping)
    kept = clone(clf).fit(X[weights > 0], y[weights > 0], weights[weights > 0])
    X[weights == 0] = 255 - X[weights == 0]
    labels = np.where(weights > 0, y, 3 - y)
    zeroed = clf.fit(X, labels, weights)
    assert zeroed.classes_.tolist() == [0, 1, 2, 3]
    assert zeroed.model_.layer.weights.tobytes() == kept.model_.layer.weights.tobytes()
    ones = SoftmaxClassifier(random_state=0, epochs=6).fit(X, y)
    same = SoftmaxClassifier(random_state=0, epochs=6).fit(X, y, np.ones(300))
    assert ones.model_.layer.weights.tobytes() == same.model_.layer.weights.tobytes()


def test_only_the_ratios_of_weights_count():
    X, y = toy()
    w = np.random.default_rng(0).uniform(0.1, 5, 300)
    fitted = [SoftmaxClassifier(random_state=0, epochs=3).fit(X, y, c * w).coef_ for c in (1, 1000)]
    assert relative(*fitted) < 1e-12


def test_class_weights_multiply_those_of_the_rows():
    X, y = toy()
    X, y = X[(y != 1) | (np.arange(300) % 5 == 0)], y[(y != 1) | (np.arange(300) % 5 == 0)]
    w = np.random.default_rng(0).uniform(0.1, 5, len(y))

    def coefficients(sample_weight, class_weight):
        return SoftmaxClassifier(random_state=0, class_weight=class_weight).fit(X, y, sample_weight).coef_

    factors = np.array([1, 3, 0.5, 1])
    by_class = coefficients(w, {1: 3, 2: 0.5})
    assert relative(by_class, coefficients(w * factors[y], None)) < 1e-12
    assert relative(by_class, coefficients(w, None)) > 1e-2
    totals = np.bincount(y, w)
    assert relative(coefficients(w, "balanced"), coefficients(w / totals[y], None)) < 1e-12
    assert relative(coefficients(None, "balanced"), coefficients(1 / np.bincount(y)[y], None)) < 1e-12


@pytest.mark.parametrize("scale", [1e307, 1e150, 1e-150, 1e-310])
@pytest.mark.parametrize("class_weight", [None, "balanced", {0: 3e306, 1: 1e306, 2: 1e306, 3: 1e306}])
def test_weights_of_any_size(scale, class_weight):
    X, y = toy()
    w = np.random.default_rng(0).integers(1, 9, 300) / 8
    clf = SoftmaxClassifier(random_state=0, epochs=3, class_weight=class_weight)
    expected = clone(clf).set_params(class_weight={0: 3.0} if isinstance(class_weight, dict) else class_weight)
    assert relative(clf.fit(X, y, w * scale).coef_, expected.fit(X, y, w).coef_) < 1e-10


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_a_class_whose_rows_weigh_nothing_stays_a_class(loss, dtype):
    X, y = toy(dtype)
    w = np.where(y == 1, 0, np.random.default_rng(0).uniform(0.5, 2, 300))
    settings = {"loss": loss, "learning_rate": 0.05, "epochs": 40, "decay_every": 0}
    clf = SoftmaxClassifier(random_state=0, **settings).fit(X, y, w)
    assert clf.classes_.tolist() == [0, 1, 2, 3]
    P = clf.predict_proba(X)
    assert P.shape == (300, 4)
    assert np.isfinite(clf.predict_log_proba(X)).all()
    bias = clf.model_.layer.bias
    assert np.isfinite(clf.coef_).all()
    assert bias.argmin() == 1
    longer = clone(clf).set_params(epochs=400).fit(X, y, w)
    assert longer.model_.layer.bias[1] < bias[1] < bias[[0, 2, 3]].min() - 0.2
    assert longer.predict_proba(X)[y != 1, 1].max() < 0.1
    kept = y != 1
    assert (clf.predict(X[kept]) == y[kept]).mean() > 0.9
    by_class = SoftmaxClassifier(random_state=0, class_weight={1: 0}, **settings)
    assert relative(by_class.fit(X, y, np.where(y == 1, 7, w)).coef_, clf.coef_) < 1e-12
    # The same in partial_fit and in train.
    again = clone(clf).set_params(epochs=1).partial_fit(X, y, range(4), w)
    once = clone(clf).set_params(epochs=1).fit(X, y, w)
    np.testing.assert_array_equal(again.coef_, once.coef_)
    dataset = Dataset(X, y, tuple("0123"), None, "toy", row_weights=w / w[kept].mean())
    parts = {"train": np.flatnonzero(kept), "validation": np.arange(0), "test": np.arange(0)}
    splits = Splits(**{name: Split(name, dataset, places) for name, places in parts.items()}, protocol="made")
    arithmetic = "float64" if dtype == "float64" else "float32"
    result = train(splits, TrainConfig(**settings, seed=0, dtype=arithmetic))
    np.testing.assert_allclose(result.model.layer.bias, bias, rtol=1e-12 if dtype == "float64" else 1e-5)


def test_a_soft_vote_beside_logistic_regression_with_a_class_of_weight_zero():
    X, y = toy()
    w = np.where(y == 3, 0.0, 1.0)
    voters = [("ours", SoftmaxClassifier(random_state=0)), ("theirs", LogisticRegression(max_iter=500))]
    vote = VotingClassifier(voters, voting="soft").fit(X, y, sample_weight=w)
    assert vote.predict_proba(X).shape == (300, 4)
    assert (vote.predict(X) == y)[y != 3].mean() > 0.9
    assert [len(voter.classes_) for voter in vote.estimators_] == [4, 4]


def test_of_two_classes_one_may_weigh_nothing():
    X, y = toy(K=2)
    clf = SoftmaxClassifier(random_state=0).fit(X, y, (y == 0).astype(float))
    assert clf.classes_.tolist() == [0, 1]
    assert (clf.predict(X) == 0).all()


def test_a_class_of_weight_zero_is_left_out():
    X, y = toy()
    clf = SoftmaxClassifier(random_state=0, epochs=3, class_weight={1: 0}).fit(X, y)
    rest = clone(clf).set_params(class_weight=None).partial_fit(X[y != 1], y[y != 1], [0, 1, 2, 3])
    for _ in range(2):
        rest.partial_fit(X[y != 1], y[y != 1])
    assert relative(clf.coef_, rest.coef_) < 1e-12


# Going on


@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_warm_starts_are_one_long_run(dtype):
    X, y = toy(dtype)
    clf = SoftmaxClassifier(epochs=3, warm_start=True, random_state=0, decay_every=2).fit(X, y).fit(X, y)
    whole = SoftmaxClassifier(epochs=6, random_state=0, decay_every=2).fit(X, y)
    assert clf.model_.layer.weights.tobytes() == whole.model_.layer.weights.tobytes()
    assert clf.n_iter_ == 6
    np.testing.assert_array_equal(clf.history_["train_cost"], whole.history_["train_cost"])
    assert clf.set_params(warm_start=False).fit(X, y).n_iter_ == 3
    with pytest.raises(ValueError, match="y contains previously unseen labels"):
        clf.set_params(warm_start=True).fit(X, y + 1)


@STILL_FALLING
def test_warm_starts_hold_out_the_same_rows():
    X, y = toy()
    clf = SoftmaxClassifier(early_stopping=True, warm_start=True, epochs=1, random_state=np.random.RandomState(0))
    means = [clf.fit(X, y).model_.standardizer.mean for _ in range(2)]
    np.testing.assert_array_equal(*means)


def test_a_warm_start_on_other_rows_goes_on_from_the_same_answers():
    X, y = toy()
    clf = SoftmaxClassifier(random_state=0, warm_start=True).fit(X, y)
    before = clf.decision_function(X)
    clf.set_params(epochs=0).fit(3 * X - 50, y)
    assert clf.model_.standardizer.mean == pytest.approx(3 * X.mean(0) - 50, rel=1e-12)
    assert clf.decision_function(X) == pytest.approx(before, rel=1e-9, abs=1e-9)


def test_partial_fit_standardises_by_all_rows_seen_and_changes_no_answer_by_it():
    X, y = toy()
    weights = np.random.default_rng(0).uniform(0.5, 4, 300)
    X[:100, 3], X[100:, 3] = 5, np.random.default_rng(1).normal(300, 70, 200)  # constant at first
    clf = SoftmaxClassifier(random_state=0, learning_rate=1e-300)  # no step that could be seen
    clf.partial_fit(X[:100], y[:100], [0, 1, 2, 3], weights[:100])
    before = clf.decision_function(X[:100])
    for rows in (slice(100, 140), slice(140, 300)):
        clf.partial_fit(X[rows], y[rows], sample_weight=weights[rows])
    mean = np.average(X, axis=0, weights=weights)
    deviation = np.sqrt(np.average((X - mean) ** 2, axis=0, weights=weights))
    assert clf.model_.standardizer.mean == pytest.approx(mean, rel=1e-12)
    assert clf.model_.standardizer.scale == pytest.approx(np.where(deviation > 0, deviation, 1), rel=1e-12)
    assert np.abs(clf.model_.standardizer.mean - np.average(X[:100], axis=0, weights=weights[:100])).max() > 1
    assert clf.decision_function(X[:100]) == pytest.approx(before, rel=1e-9, abs=1e-12)
    assert np.abs(clf.model_.layer.weights[3]).max() < 1e-290, "an arbitrary weight was scaled up"


def test_partial_fit_learns_as_fit_does():
    X, y = toy("uint8", n=2000)
    chunks = SoftmaxClassifier(random_state=0)
    for _ in range(5):
        for start in range(0, 1500, 300):
            chunks.partial_fit(X[start : start + 300], y[start : start + 300], classes=[3, 2, 1, 0])
    whole = SoftmaxClassifier(random_state=0).fit(X[:1500], y[:1500])
    assert chunks.score(X[1500:], y[1500:]) > whole.score(X[1500:], y[1500:]) - 0.02 > 0.9
    assert chunks.n_iter_ == len(chunks.history_["epoch"]) == 25
    stopping = SoftmaxClassifier(random_state=0, early_stopping=True).partial_fit(X, y, classes=range(4))
    assert stopping.partial_fit(X, y).n_iter_ == 2
    one = SoftmaxClassifier(random_state=0).partial_fit(X, y, classes=range(4))
    assert relative(one.coef_, SoftmaxClassifier(random_state=0, epochs=1).fit(X, y).coef_) == 0


def test_partial_fit_asks_for_what_it_needs():
    X, y = toy()
    clf = SoftmaxClassifier()
    with pytest.raises(ValueError, match="the first call of partial_fit needs classes"):
        clf.partial_fit(X, y)
    with pytest.raises(ValueError, match="previously unseen labels: "):
        clf.partial_fit(X, y, classes=[0, 1])
    clf.partial_fit(X, y, classes=[0, 1, 2, 3])
    with pytest.raises(ValueError, match=r"classes were \[0 1 2 3\] in the first call of partial_fit, and are \[0 1\]"):
        clf.partial_fit(X, y, classes=[0, 1])
    with pytest.raises(ValueError, match="class_weight 'balanced' needs all labels at once"):
        clf.set_params(class_weight="balanced").partial_fit(X, y)


# Early stopping


@STILL_FALLING
def test_early_stopping_keeps_the_best_epoch():
    X, y = toy(n=120)
    y = np.where(np.random.default_rng(0).random(120) < 0.4, 0, y)  # enough noise to learn by heart
    clf = SoftmaxClassifier(
        early_stopping=True, validation_fraction=0.3, n_iter_no_change=3, epochs=500, random_state=1
    )
    clf.set_params(batch_size=10, decay_every=0).fit(X, y)
    losses = clf.history_["validation_loss"]
    best = int(losses.argmin())
    assert clf.n_iter_ == len(losses) == best + 1 + 3 < 500
    shorter = clone(clf).set_params(epochs=best + 1).fit(X, y)
    assert clf.model_.layer.weights.tobytes() == shorter.model_.layer.weights.tobytes()
    longer = clone(clf).set_params(epochs=best + 3, n_iter_no_change=500).fit(X, y)
    assert clf.model_.layer.weights.tobytes() == longer.model_.layer.weights.tobytes()


@STILL_FALLING
@pytest.mark.parametrize("dtype", ["uint8", "float64"])
def test_a_warm_start_with_early_stopping_gives_back_nothing_worse(dtype):
    X, y = toy(dtype)
    y = np.where(np.random.default_rng(0).random(300) < 0.1, 0, y)
    clf = SoftmaxClassifier(early_stopping=True, warm_start=True, random_state=0, epochs=60).fit(X, y)
    out = held_out(X, y, fraction=0.1, seed=0)

    def loss():
        return log_loss(y[out], clf.predict_proba(X[out]))

    best, weights = loss(), clf.model_.layer.weights
    assert best == pytest.approx(clf.history_["validation_loss"].min(), rel=1e-5)
    for longer in (300, 10):  # steps that are much too long
        clf.set_params(learning_rate=longer * clf.learning_rate_, epochs=5).fit(X, y)
        assert clf.n_iter_ == 5
        assert clf.history_["validation_loss"].min() > best
        assert loss() == best
        np.testing.assert_array_equal(clf.model_.layer.weights, weights)
    settings = {"learning_rate": 0.01, "random_state": 0, "epochs": 2}
    early = SoftmaxClassifier(early_stopping=True, warm_start=True, **settings).fit(X, y)
    before, first = early.model_.layer.weights, early.history_["validation_loss"][-1]
    early.fit(X, y)
    assert early.history_["validation_loss"][-1] < first
    assert relative(early.model_.layer.weights, before) > 1e-3, "what is better is kept"


class Caught(Exception):  # noqa: N818, it is not an error
    """Ends a fit where training would begin."""


def held_out(X, y, w=None, fraction=0.25, seed=0):
    """Return the rows that a fit holds out to stop by."""
    caught = []

    def catch(splits, *_, **__):
        caught.append(splits)
        raise Caught

    with pytest.MonkeyPatch.context() as patch, contextlib.suppress(Caught):
        patch.setattr(estimator, "train", catch)
        SoftmaxClassifier(early_stopping=True, validation_fraction=fraction, random_state=seed).fit(X, y, w)
    out = np.zeros(len(y), bool)
    out[caught[0].validation.indices] = True
    return out


def test_rows_held_out_are_a_fraction_of_each_class_and_depend_on_the_seed_alone():
    X, y = toy("float32", n=2000)
    out = held_out(X, y)
    assert np.bincount(y[out]) == pytest.approx(np.bincount(y) / 4, abs=1)
    order = np.random.default_rng(0).permutation(2000)
    np.testing.assert_array_equal(held_out(X[order], y[order]), out[order])
    assert 0.2 < np.mean(out[held_out(X, y, seed=1)]) < 0.3, "another seed holds out other rows"


@pytest.mark.parametrize(
    ("n", "fraction", "expected"),
    [(20, 0.25, 5), (19, 0.25, 4), (3, 0.25, 1), (2, 0.9, 1), (8, 0.999, 7), (100, 0.01, 1), (1000, 0.5, 500)],
)
def test_how_many_rows_of_a_class_are_held_out(n, fraction, expected):
    """The whole rows in the fraction, at least one, and never all."""
    X = np.arange(3 * n, dtype=np.float32)[:, None]
    y = np.repeat([0, 1, 2], n)
    assert np.bincount(y[held_out(X, y, fraction=fraction)]).tolist() == [expected] * 3
    w = np.full(3 * n, 2.5)
    assert np.bincount(y[held_out(X, y, w, fraction=fraction)]).tolist() == [expected] * 3


def test_equal_rows_are_held_out_together():
    X, y = toy("float32", n=60)
    counts = np.random.default_rng(0).integers(1, 5, 60)
    repeated = held_out(X.repeat(counts, axis=0), y.repeat(counts))
    np.testing.assert_array_equal(repeated, held_out(X, y, counts.astype(float)).repeat(counts))


def test_of_a_class_with_two_different_rows_one_is_held_out():
    X = np.array([[1.0], [2.0], [3.0], [3.0], [4.0]])
    out = held_out(X, np.array([0, 0, 1, 1, 2]), fraction=0.01)
    assert out[:2].sum() == 1
    assert not out[2:].any()
    for y in ([0, 0, 1, 1, 1], [0, 0, 0, 1, 1]):
        with pytest.raises(ValueError, match="no rows to hold out: no class has two different ones"):
            SoftmaxClassifier(early_stopping=True).fit(np.array(y)[:, None], y)


# Errors


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"l2": -1}, "l2 -1 is not zero or a positive number"),
        ({"batch_size": 0}, "batch size 0 is not a whole number of at least 1"),
        ({"learning_rate": "fast"}, "learning rate 'fast' is not a positive number"),
        ({"loss": "hinge"}, "loss 'hinge' is not softmax or sigmoid"),
        ({"random_state": -1}, "seed -1 is not a whole number of at least 0"),
        ({"random_state": "one"}, "'one' cannot be used to seed"),
        ({"flip": True}, "flip needs image_shape: channels, height and width of the images"),
        ({"image_shape": (3, 4)}, r"image_shape \(3, 4\) is not channels, height and width of images of 60 numbers"),
        ({"image_shape": (3, 4, 4)}, r"image_shape \(3, 4, 4\) is not"),
        ({"image_shape": (-3, -4, 5)}, r"image_shape \(-3, -4, 5\) is not"),
        ({"image_shape": 60}, "image_shape 60 is not"),
        ({"validation_fraction": 1.0}, "validation_fraction == 1.0, must be < 1"),
        ({"n_iter_no_change": 0}, "n_iter_no_change == 0, must be >= 1"),
        ({"class_weight": {0: -1}}, r"class_weight \{0: -1\} must hold finite numbers of at least zero"),
        ({"class_weight": "heavy"}, "class_weight"),
    ],
)
def test_a_parameter_that_is_wrong_is_named(settings, words):
    X, y = toy()
    clf = SoftmaxClassifier(**settings)
    with pytest.raises(ValueError, match=words):
        clf.fit(X, y)
    with pytest.raises(NotFittedError):
        clf.predict(X)


@pytest.mark.parametrize(
    ("weights", "words"),
    [
        (np.zeros(300), "sample_weight is zero for every row"),
        (-np.ones(300), "sample_weight of row 0 is negative"),
        (np.full(300, np.nan), "sample_weight contains NaN"),
        (np.ones(299), r"sample_weight has the shape \(299,\); 300 rows need \(300,\)"),
    ],
)
def test_weights_that_are_wrong(weights, words):
    with pytest.raises(ValueError, match=words):
        SoftmaxClassifier().fit(*toy(), weights)


@pytest.mark.parametrize("standardize", [True, False])
def test_features_too_large_to_calculate_with(standardize):
    X, y = toy()
    X[:, 5] *= 1e200
    with pytest.raises(ValueError, match="the squares of column 5 are too large") as caught:
        SoftmaxClassifier(standardize=standardize).fit(X, y)
    assert isinstance(caught.value, OnelayerError)


def test_one_class_is_named_as_it_was_given():
    for label, words in ((3, "3"), ("cat", "'cat'")):
        with pytest.raises(ValueError, match=f"y has one class only, {words}; a classifier needs two"):
            SoftmaxClassifier().fit(np.eye(4), [label] * 4)


def test_sparse_rows_are_refused_in_a_sentence():
    import scipy.sparse

    with pytest.raises(TypeError, match="Sparse data was passed for X, but dense data is required"):
        SoftmaxClassifier().fit(scipy.sparse.eye_array(4).tocsr(), [0, 1, 0, 1])


def test_divergence_is_a_value_error_and_a_search_goes_on():
    X, y = toy()
    with pytest.raises(ValueError, match="the steps are too long; try a learning rate below") as caught:
        SoftmaxClassifier(learning_rate=1e200, l2=1).fit(X, y)
    assert isinstance(caught.value, OnelayerError)
    search = GridSearchCV(SoftmaxClassifier(l2=1, epochs=3), {"learning_rate": [1e200, 0.05]}, cv=2)
    with pytest.warns(FitFailedWarning), pytest.warns(UserWarning, match="non-finite"):
        search.fit(X, y)
    assert search.best_params_ == {"learning_rate": 0.05}


# In company


def test_in_a_pipeline_a_search_and_a_calibration():
    X, y = load_digits(return_X_y=True)
    X, y = X[:600], y[:600]
    pipeline = make_pipeline(StandardScaler(), SoftmaxClassifier(standardize=False, epochs=20, random_state=0))
    with parallel_config("threading"):  # two fits at once; other processes would import everything again
        search = GridSearchCV(pipeline, {"softmaxclassifier__l2": np.array([0.0, 1.0])}, cv=3, n_jobs=2).fit(X, y)
    assert search.best_params_ == {"softmaxclassifier__l2": 0}
    assert search.best_score_ > 0.8
    assert cross_val_score(SoftmaxClassifier(epochs=20, random_state=0), X, y, cv=3).min() > 0.75
    calibrated = CalibratedClassifierCV(SoftmaxClassifier(epochs=10, random_state=0), cv=2).fit(X, y)
    assert calibrated.score(X, y) > 0.9
    fitted = pipeline.fit(X, y)[-1]
    assert not hasattr(clone(fitted), "model_")
    again = pickle.loads(pickle.dumps(fitted))
    np.testing.assert_array_equal(again.decision_function(X), fitted.decision_function(X))


@pytest.mark.parametrize("library", ["pandas", "polars"])
def test_frames_with_names_and_labels_of_strings(library):
    frames = pytest.importorskip(library, reason=f"{library} is not installed")
    X, y = toy("uint8")
    names = np.array(["cat", "dog", "eel", "fox"])[y]
    columns = {f"x{j}": X[:, j] for j in range(60)}
    frame, labels = frames.DataFrame(columns), frames.Series(names.tolist())
    clf = SoftmaxClassifier(random_state=0, class_weight={"eel": 2}).fit(frame, labels)
    assert clf.feature_names_in_.tolist() == list(columns)
    assert clf.classes_.tolist() == ["cat", "dog", "eel", "fox"]
    assert clf.model_.layer.weights.dtype == np.float32
    assert (clf.predict(frame) == names).mean() > 0.9
    with pytest.raises(ValueError, match="feature names should match"):
        clf.predict(frame[list(columns)[::-1]])


def test_a_random_state_of_numpy_draws_the_seed():
    X, y = toy()
    first, second, third = (
        SoftmaxClassifier(random_state=state, epochs=1).fit(X, y).coef_
        for state in (np.random.RandomState(3), np.random.RandomState(3), np.random.RandomState(4))
    )
    np.testing.assert_array_equal(first, second)
    assert relative(first, third) > 1e-3


def test_a_state_of_another_precision_goes_on():
    X, y = toy("float32")
    clf = SoftmaxClassifier(random_state=0, warm_start=True).fit(X, y)
    clf.set_params(epochs=1).fit(X.astype(np.float64), y)
    assert clf.model_.layer.weights.dtype == clf.predict_proba(X).dtype == np.float64


def test_examples_say_what_they_print():
    results = doctest.testmod(estimator)
    assert results.attempted > 5
    assert results.failed == 0
    (code,) = re.findall(r"```python\n(.*?)```", PAGE.read_text(), re.DOTALL)
    (printed,) = re.findall(r"```text\n(.*?)```", PAGE.read_text(), re.DOTALL)
    output = io.StringIO()
    with contextlib.redirect_stdout(output):
        exec(code, {})  # noqa: S102
    assert output.getvalue() == printed


def test_a_warm_start_on_other_labels_is_not_judged_by_the_scores_of_before():
    X, y = load_digits(return_X_y=True)
    X, y = X[:600], y[:600]
    clf = SoftmaxClassifier(early_stopping=True, warm_start=True, random_state=0)
    clf.fit(X, y)
    moved = (y + 1) % 10
    assert clf.fit(X, moved).score(X, moved) > 0.9
