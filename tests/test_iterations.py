"""The setting `solver=converged`: in train, runs, sweeps, and `SoftmaxClassifier`."""

import json
from dataclasses import replace

import numpy as np
import pytest
from helpers import assert_one_line, tampered, toy_splits
from scipy.optimize import minimize
from sklearn.datasets import load_digits
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler
from sklearn.utils.estimator_checks import parametrize_with_checks

from onelayer import SoftmaxClassifier, SplitConfig, TrainConfig, load_splits
from onelayer import train as train_by_name
from onelayer.config import COURSEWORK
from onelayer.data.dataset import Dataset
from onelayer.data.protocols import split
from onelayer.errors import ConfigError, ModelFileError, RunError
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.runs.training import resume, start
from onelayer.training.converged import REACHED, RESCORED
from onelayer.training.state import Problem
from onelayer.training.train import train

CONVERGED = TrainConfig(solver="converged", l2=0.01, tol=1e-8, dtype="float64")
STOPPED = 13  # iterations, which are not a multiple of RESCORED


@pytest.fixture(scope="module")
def wide():
    """Splits that take more than twenty iterations: 400 rows of 300 correlated features in ten classes."""
    rng = np.random.default_rng(3)
    X = rng.normal(size=(600, 300)) @ (rng.normal(size=(300, 300)) * np.logspace(0, -3, 300)[:, None])
    y = (X[:, :10] * 0.2 + rng.normal(size=(600, 10))).argmax(axis=1)
    names = tuple("abcdefghij")
    return split(Dataset(X, y, names, None, "wide"), SplitConfig(protocol="stratified"))


def reference(splits, l2: float) -> LogisticRegression:
    train = splits.train
    X = StandardScaler().fit(train.rows(slice(None)))
    C = 1 / (2 * l2 * len(train))
    return X, LogisticRegression(C=C, solver="newton-cg", tol=1e-12, max_iter=10_000).fit(
        X.transform(train.rows(slice(None))), train.labels
    )


def test_it_is_the_optimum_of_scikit_learn():
    splits = load_splits("digits")
    result = train(splits, CONVERGED)
    scaler, peer = reference(splits, CONVERGED.l2)
    R, labels = splits.test.rows(slice(None)), splits.test.labels
    found, expected = result.model.probabilities(R), peer.predict_proba(scaler.transform(R))
    np.testing.assert_allclose(found, expected, atol=2e-6)
    assert result.ended == REACHED
    assert result.kept_epoch == len(result.state.history)
    assert result.scores["test"].accuracy == np.mean(peer.predict(scaler.transform(R)) == labels)


def test_the_history_has_passes_and_an_estimate_of_the_gap(wide):
    result = train(wide, replace(CONVERGED, l2=1e-3))
    history = result.history
    assert list(history)[-2:] == ["passes", "gap"]
    lowest = train(wide, replace(CONVERGED, l2=1e-3, tol=1e-12)).history["train_cost"][-1]
    above = history["train_cost"] - lowest
    assert (above <= history["gap"] + 1e-12).all()  # with the best bias, the gap is a bound
    assert history["gap"][-1] <= 1e-8 * lowest
    assert (np.diff(history["passes"]) >= 1).all()
    assert np.isnan(history["learning_rate"]).all()
    assert "passes" not in train(wide, TrainConfig(epochs=1)).history


def test_the_best_epoch_on_validation_rows_is_not_kept(wide):
    """The optimum is the answer, also where an iteration before it has a lower validation loss."""
    result = train(wide, replace(CONVERGED, l2=1e-5))
    assert result.history["validation_loss"].argmin() < result.kept_epoch - 1
    np.testing.assert_array_equal(result.model.layer.weights, result.state.layer.weights)


@pytest.mark.parametrize(("stopped", "held"), [(4, 0), (STOPPED, RESCORED)])
def test_an_interrupted_run_ends_with_the_same_bits(wide, tmp_path, stopped, held):
    config = replace(CONVERGED, l2=1e-5, tol=1e-9)
    plan = Plan(config, SplitConfig(protocol="stratified"), "wide", wide.dataset.fingerprint)
    whole, parts = Run.create(tmp_path / "whole"), Run.create(tmp_path / "parts")
    expected = start(whole, plan, Problem.of(wide, config))
    assert len(expected.state.history) > 2 * RESCORED > stopped

    def stop(state):
        if state.epoch == stopped:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(parts, plan, Problem.of(wide, config), on_epoch=stop)
    state = parts.read_checkpoint()[1]
    assert (state.epoch, state.solver.numbers["iteration"], state.ended) == (stopped, held, "")
    repeated = []
    resume(parts, wide, on_epoch=lambda state: repeated.append(state.epoch))
    assert repeated[0] == held + 1
    assert parts.model_path.read_bytes() == whole.model_path.read_bytes()
    columns = whole.history
    for name, column in parts.history.items():
        if name != "seconds":
            np.testing.assert_array_equal(column, columns[name], err_msg=name)
    assert resume(parts, wide).state.epoch == expected.state.epoch  # it is complete, and stays as it is
    for epochs in (5, 500):
        with pytest.raises(ConfigError, match=f"epochs {epochs} is a setting of the solver sgd"):
            resume(parts, wide, epochs=epochs)


@pytest.mark.parametrize(
    "tensors",
    [{"solver.T": np.zeros((3, 5))}, {"solver.steps": np.zeros((2, 3))}, {"solver.M": np.zeros((0, 0))}],
    ids=["templates", "steps", "curvature"],
)
def test_a_state_of_other_rows_is_refused(wide, tmp_path, tensors):
    config = replace(CONVERGED, l2=1e-5)
    run = Run.create(tmp_path / "run")

    def stop(state):
        if state.epoch == STOPPED:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        start(run, Plan(config, SplitConfig(), "wide", "0"), Problem.of(wide, config), on_epoch=stop)
    tampered(run, run.checkpoint_path, tensors)
    with pytest.raises((ConfigError, ModelFileError), match="train"):
        resume(run, wide)


def test_class_weights_weigh_rows():
    splits = toy_splits()
    config = replace(CONVERGED, class_weight="balanced", tol=1e-10)
    layer = train(splits, config).model.layer
    labels = splits.train.labels
    X = Problem.of(splits, config).standardizer.transform(splits.train.rows(slice(None)))
    w = 1 / np.bincount(labels)[labels]
    w /= w.sum()
    d, K = layer.weights.shape

    def cost(parameters):
        W, b = parameters[: d * K].reshape(d, K), parameters[d * K :]
        S = X @ W + b
        S -= S.max(axis=1, keepdims=True)
        P = np.exp(S)
        P /= P.sum(axis=1, keepdims=True)
        G = P.copy()
        G[np.arange(len(labels)), labels] -= 1
        G *= w[:, None]
        J = -w @ np.log(P[np.arange(len(labels)), labels]) + config.l2 * (W**2).sum()
        return J, np.concatenate([(X.T @ G + 2 * config.l2 * W).ravel(), G.sum(axis=0)])

    best = minimize(cost, np.zeros(d * K + K), jac=True, method="L-BFGS-B", options={"maxiter": 5000, "ftol": 1e-15})
    found = cost(np.concatenate([layer.weights.ravel(), layer.bias]))[0]
    assert found <= best.fun * (1 + 1e-8)


def test_flips_make_a_mirror_symmetric_layer():
    splits = toy_splits()
    shape = splits.dataset.image_shape
    layer = train(splits, replace(CONVERGED, flip=True)).model.layer
    images = layer.weights.T.reshape(-1, *shape)
    np.testing.assert_allclose(images, images[..., ::-1], rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"solver": "converged", "learning_rate": 0.1}, "learning rate 0.1 is a setting of the solver sgd"),
        ({"solver": "converged", "epochs": 5}, "epochs 5 is a setting of the solver sgd"),
        ({"solver": "converged", "init_std": 0.01}, "init std 0.01 is a setting of the solver sgd"),
        ({"tol": 1e-3}, "tol 0.001 is a setting of the solver converged"),
        ({"max_passes": 5}, "max passes 5 is a setting of the solver converged"),
        ({"solver": "newton"}, "sgd or converged"),
        ({"solver": "converged", "tol": 0}, "between 0 and 1"),
        ({"solver": "converged", "max_passes": 0}, "at least 1"),
    ],
)
def test_settings_of_the_other_solver_are_refused(settings, words):
    with pytest.raises(ConfigError, match=words):
        TrainConfig(**settings)


def test_a_run_that_ended_too_early_goes_on(wide, tmp_path):
    """With more passes a complete run becomes the run that had them from the beginning."""
    config = replace(CONVERGED, l2=1e-5, tol=1e-9)
    plan = Plan(config, SplitConfig(protocol="stratified"), "wide", wide.dataset.fingerprint)
    whole, short = Run.create(tmp_path / "whole"), Run.create(tmp_path / "short")
    start(whole, plan, Problem.of(wide, config))
    early = replace(config, max_passes=STOPPED)
    start(short, replace(plan, config=early), Problem.of(wide, early))
    assert short.summary["epochs"] < whole.summary["epochs"]

    def stop(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        resume(short, wide, on_epoch=stop, max_passes=1000)
    with pytest.raises(RunError, match="is not complete"):  # its model is that of the settings before
        _ = short.model
    resume(short, wide)
    assert short.config == whole.config
    assert short.model_path.read_bytes() == whole.model_path.read_bytes()
    with pytest.raises(ConfigError, match="max passes 0 is not"):
        resume(short, wide, max_passes=0)


def test_a_complete_run_goes_on_to_a_smaller_gap(wide, tmp_path):
    config = replace(CONVERGED, tol=1e-2)
    plan = Plan(config, SplitConfig(protocol="stratified"), "wide", wide.dataset.fingerprint)
    run = Run.create(tmp_path / "run")
    start(run, plan, Problem.of(wide, config))
    before = run.history
    resume(run, wide, tol=1e-9)
    assert run.config.tol == 1e-9
    after = run.history
    assert 0 <= after["gap"][-1] <= 1e-9 * after["train_cost"][-1] < before["gap"][-1]


def test_settings_in_words():
    assert replace(CONVERGED, seed=7).in_words() == "softmax, converged, l2 0.01, tol 1e-08, float64, seed 7"
    with pytest.raises(ConfigError, match="setting of the solver sgd"):
        replace(COURSEWORK, solver="converged")


def test_the_gap_that_was_not_reached_is_said(wide):
    result = train(wide, replace(CONVERGED, l2=1e-5, max_passes=5))
    assert "5 passes" in result.ended
    assert result.history["passes"][-1] <= 5


def test_without_a_penalty_separable_classes_have_no_optimum(wide):
    assert "separable" in train(wide, replace(CONVERGED, l2=0.0)).ended


def test_it_goes_on_from_a_layer(wide):
    config = replace(CONVERGED, l2=1e-4)
    first = train(wide, config)
    begun = replace(first.state, solver=None, ended="", history=())
    again = train(wide, config, start=begun)
    assert len(again.state.history) <= 2 < len(first.state.history)


def test_more_passes_go_on_with_the_same_bits(wide):
    """A training that a limit or the caller ended goes on as if it had not been stopped."""
    config = replace(CONVERGED, l2=1e-5, tol=1e-9)
    whole = train(wide, config)
    assert whole.state.epoch > 2 * RESCORED

    def stops(state):
        return state.epoch == STOPPED

    for first in (
        train(wide, replace(config, max_passes=STOPPED)),
        train(wide, config, on_epoch=stops),
    ):
        assert first.ended != whole.ended or first.state.epoch < whole.state.epoch
        found = train(wide, config, start=first.state)
        np.testing.assert_array_equal(found.model.layer.weights, whole.model.layer.weights)
        np.testing.assert_array_equal(found.history["gap"], whole.history["gap"])
        assert found.ended == REACHED


def test_what_has_ended_is_not_repeated(wide):
    first = train(wide, CONVERGED)
    repeated = []
    again = train(wide, CONVERGED, start=first.state, on_epoch=repeated.append)
    assert (repeated, again.state.epoch) == ([], first.state.epoch)
    np.testing.assert_array_equal(again.model.layer.weights, first.model.layer.weights)


def test_fewer_passes_than_are_done_add_no_iteration(wide):
    config = replace(CONVERGED, l2=1e-5, tol=1e-9)
    whole = train(wide, config)
    found = train(wide, replace(config, max_passes=1), start=whole.state)
    held = whole.state.solver.numbers["iteration"]
    assert held >= RESCORED
    assert "1 pass over" in found.ended
    np.testing.assert_array_equal(found.history["gap"], whole.history["gap"][:held])


@pytest.mark.parametrize("change", [{"l2": 1e-4}, {"loss": "sigmoid"}, {"class_weight": "balanced"}], ids=str)
def test_of_the_state_of_another_problem_only_the_layer_is_taken(wide, change):
    config = replace(CONVERGED, l2=1e-5, tol=1e-6)
    state = train(wide, config).state
    assert state.solver.numbers["iteration"] >= RESCORED
    found, expected = (
        train(wide, replace(config, **change), start=begun) for begun in (state, replace(state, solver=None))
    )
    assert found.ended == REACHED
    np.testing.assert_array_equal(found.history["gap"], expected.history["gap"])
    np.testing.assert_array_equal(found.model.layer.weights, expected.model.layer.weights)
    assert np.abs(found.model.layer.weights - state.layer.weights).max() > 1e-3


def test_by_name():
    result = train_by_name("digits", solver="converged", l2=0.1)
    assert result.ended == REACHED


def test_commands(run_cli, tmp_path):
    """A sweep over l2 with the solver: each run is an optimum."""
    words = ("--data", "digits", "--solver", "converged", "--l2", 0.1, 0.01, "--seeds", 1, "--out", tmp_path / "sweep")
    code, _, error = run_cli("sweep", *words)
    assert (code, error) == (0, error)
    runs = sorted((tmp_path / "sweep" / "runs").iterdir())
    assert [json.loads((run / "summary.json").read_text())["ended"] for run in runs] == [REACHED] * 2
    refused = run_cli("train", "--data", "digits", "--solver", "converged", "--epochs", 3)
    assert_one_line(refused, "epochs 3 is a setting of the solver sgd")


def test_resume_takes_more_passes(run_cli, tmp_path):
    run, quick = tmp_path / "run", "--no-figures"
    words = ("--data", "digits", "--solver", "converged", "--l2", 1e-4, "--out", run, quick)
    code, said, _ = run_cli("train", *words, "--max-passes", 4)
    assert (code, "allow more passes" in said) == (0, True)
    code, said, error = run_cli("resume", run, "--max-passes", 50, quick)
    assert (code, error) == (0, error)
    assert "iterations done, going on" in said
    assert Run.open(run).summary["ended"] == REACHED
    refused = run_cli("resume", run, "--epochs", 3, quick)
    assert_one_line(refused, "the solver converged goes on to its end; leave out --epochs")


class TestEstimator:
    def test_it_is_the_optimum_of_scikit_learn(self):
        X, y = load_digits(return_X_y=True)
        ours = SoftmaxClassifier(solver="converged", l2=0.01, tol=1e-9).fit(X, y)
        Z = StandardScaler().fit_transform(X)
        peer = LogisticRegression(C=1 / (0.02 * len(X)), solver="newton-cg", tol=1e-12, max_iter=10_000).fit(Z, y)
        np.testing.assert_allclose(ours.predict_proba(X), peer.predict_proba(Z), atol=5e-6)
        assert ours.n_iter_ == len(ours.history_["gap"])
        assert ours.learning_rate_ is None

    def test_it_warns_of_a_gap_that_was_not_reached(self, wide):
        X, y = wide.train.rows(slice(None)), wide.train.labels
        with pytest.warns(ConvergenceWarning, match="3 passes"):
            SoftmaxClassifier(solver="converged", l2=1e-5, max_passes=3).fit(X, y)

    @pytest.mark.parametrize("settings", [{"early_stopping": True}, {"epochs": 5}, {"batch_size": 10}])
    def test_settings_of_steps_are_refused(self, wide, settings):
        X, y = wide.train.rows(slice(None)), wide.train.labels
        ((name, value),) = settings.items()
        words = f"{name}|{name.replace('_', ' ')}"
        with pytest.raises(ValueError, match=f"({words}) {value} is a setting of the solver sgd, not of converged"):
            SoftmaxClassifier(solver="converged", l2=0.1, **settings).fit(X, y)
        assert not hasattr(SoftmaxClassifier(solver="converged"), "partial_fit")

    def test_it_goes_on_from_the_weights_alone(self, wide):
        """Iterations are not epochs: after a change of the solver, only the weights are taken over."""
        X, y = wide.train.rows(slice(None)), wide.train.labels
        at_optimum = {"solver": "converged", "epochs": "auto"}
        classifier = SoftmaxClassifier(l2=0.1, warm_start=True, random_state=0, **at_optimum).fit(X, y)
        iterations, cost = classifier.n_iter_, classifier.history_["train_cost"][-1]
        assert iterations > 2
        classifier.set_params(solver="sgd", epochs=2).fit(X, y)
        assert classifier.n_iter_ == 2
        assert np.isfinite(classifier.history_["learning_rate"]).all()
        assert classifier.history_["train_cost"][0] < cost + 0.1  # it begins near the optimum
        classifier.set_params(**at_optimum).fit(X, y)
        assert "gap" in classifier.history_
        assert classifier.set_params(solver="sgd").partial_fit(X, y).n_iter_ == 1


@parametrize_with_checks([SoftmaxClassifier(solver="converged", l2=0.01)])
def test_scikit_learn_checks(estimator, check):
    check(estimator)
