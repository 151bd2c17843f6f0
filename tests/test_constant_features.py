"""Features that no training row moved: their weights are exactly 0, whatever trained the model, in its files too."""

import itertools
import json
import warnings
from dataclasses import replace

import numpy as np
import pytest
from helpers import coursework
from sklearn.datasets import load_digits
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from onelayer import Model, SoftmaxClassifier, SplitConfig, train
from onelayer.cli.main import run_command
from onelayer.container import pack, unpack
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.data.protocols import split
from onelayer.errors import OldModelWarning
from onelayer.experiments.sweep import Sweep, SweepPlan, run_sweep
from onelayer.features.standardizer import Standardizer
from onelayer.kernel import kernel
from onelayer.runs.checkpoint import CHECKPOINT_ARRAYS
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.runs.training import resume, start
from onelayer.training.state import Problem

CONSTANT = [3, 17, 44]  # of the features of `made`; 17 = (1, 0, 2) and 44 = (2, 0, 4) of an image
SHAPE = (3, 3, 5)
BACKENDS = ["numpy"] + ["native"] * (kernel is not None)


def made(dtype: str = "uint8", n: int = 120, K: int = 4, row_weights: np.ndarray | None = None) -> Dataset:
    """Noisy rows of K prototypes, of which three features hold 0, 3 and 200 in every row."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, n)
    rows = np.rint(rng.uniform(60, 200, (K, 45))[labels] + rng.normal(0, 40, (n, 45))).clip(0, 255)
    rows[:, CONSTANT] = 0, 3, 200
    names = tuple(f"class {k}" for k in range(K))
    return Dataset(rows.astype(dtype), labels, names, SHAPE, "made", row_weights=row_weights)


def constant_weights(model: Model) -> np.ndarray:
    """The weights of the constant features; those of the others must have been learnt."""
    others = np.delete(model.layer.weights, CONSTANT, axis=0)
    assert (others != 0).all()
    return model.layer.weights[CONSTANT]


@pytest.mark.parametrize(
    ("backend", "dtype"),
    [*itertools.product(BACKENDS, ["uint8", "float32"]), ("numpy", "float64")],
)
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("l2", [0, 0.1])
@pytest.mark.parametrize("K", [2, 4, 25])
def test_weights_of_constant_features_are_zero_after_every_epoch(backend, dtype, loss, l2, K):
    arithmetic = "float64" if backend == "numpy" and K != 4 else "float32"
    splits = split(made(dtype, K=K, n=300), SplitConfig())
    config = coursework(learning_rate=0.03, l2=l2, loss=loss, batch_size=7, epochs=4, backend=backend, dtype=arithmetic)
    seen = []
    result = train(splits, config, on_epoch=lambda state: seen.append(state.layer.weights[CONSTANT]))
    assert len(seen) == 4
    assert not np.any(seen)
    assert not constant_weights(result.model).any()
    assert result.model.standardizer.scale[CONSTANT].tolist() == [1, 1, 1]
    assert result.model.standardizer.mean[CONSTANT].tolist() == [0, 3, 200]
    assert not constant_weights(train(splits, replace(config, epochs=0)).model).any()


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_rows_of_weight_zero_move_nothing(backend, dtype):
    weights = np.random.default_rng(1).choice([0, 0.3, 2.6], 120)
    weights[:2] = 0  # the first of all among them
    dataset = made(dtype)
    rows = dataset.rows + np.array(0 if dtype == "uint8" else 0.1, dtype)
    rows[weights == 0] = 255 - rows[weights == 0]
    places = np.arange(120)
    changed = Dataset(rows, dataset.labels, dataset.class_names, SHAPE, "made", row_weights=weights)
    parts = {"train": places[:80], "validation": places[80:], "test": places[:0]}
    splits = Splits(**{name: Split(name, changed, at) for name, at in parts.items()}, protocol="made")
    model = train(splits, coursework(learning_rate=0.03, batch_size=9, epochs=3, backend=backend)).model
    assert not constant_weights(model).any()
    assert model.standardizer.mean[CONSTANT].tolist() == rows[weights > 0][0, CONSTANT].tolist()


def test_other_features_are_trained_to_the_same_weights_as_without_the_constant_ones():
    dataset = made("float32")
    config = coursework(learning_rate=0.03, epochs=5, dtype="float64", init_std=0)
    rest = replace(dataset, rows=np.delete(dataset.rows, CONSTANT, axis=1), image_shape=None)
    with_them, without = (train(split(d, SplitConfig()), config).model.layer.weights for d in (dataset, rest))
    assert np.abs(without).max() > 0.04
    np.testing.assert_allclose(np.delete(with_them, CONSTANT, axis=0), without, rtol=1e-12)


def test_the_initial_weights_of_the_others_are_drawn_as_ever():
    model = train(split(made(), SplitConfig()), coursework(epochs=0, dtype="float64")).model
    expected = np.random.default_rng(42).standard_normal((4, 45)).T * 0.01
    expected[CONSTANT] = 0
    np.testing.assert_array_equal(model.layer.weights, expected)


def test_a_border_that_was_black_in_training_may_hold_anything_later():
    X, y = load_digits(return_X_y=True)
    R = np.pad(np.rint(X * (255 / 16)).reshape(-1, 8, 8), ((0, 0), (2, 2), (2, 2))).astype(np.uint8)
    border = np.pad(np.zeros((8, 8), bool), 2, constant_values=True)
    noisy = R.copy()
    noisy[:, border] = np.random.default_rng(0).integers(0, 40, (len(R), border.sum()))
    R, noisy = R.reshape(len(R), -1), noisy.reshape(len(R), -1)
    reference = make_pipeline(StandardScaler(), LogisticRegression(max_iter=500)).fit(R[:1200], y[:1200])
    clean_and_noisy = [reference.score(rows[1200:], y[1200:]) for rows in (R, noisy)]
    assert clean_and_noisy[0] == clean_and_noisy[1] > 0.91
    for loss, l2, standardize in itertools.product(("softmax", "sigmoid"), (0, 0.01), (True, False)):
        clf = SoftmaxClassifier(random_state=42, loss=loss, l2=l2, standardize=standardize).fit(R[:1200], y[:1200])
        np.testing.assert_array_equal(clf.decision_function(noisy), clf.decision_function(R))
        assert clf.score(R[1200:], y[1200:]) > (0.85 if standardize else 0.6)
    assert not clf.coef_[:, border.ravel()].any()


# Flips


def flipped_splits(dtype: str) -> Splits:
    """Images (1, 2, 4) with pairs of mirrored pixels: 0 and 3, 1 and 2, 4 and 7, 5 and 6."""
    rng = np.random.default_rng(0)
    rows = rng.integers(50, 200, (90, 8))
    rows[:, 0] = 9  # alone: its mirror varies
    rows[:, [1, 2]] = 30  # both, at the same value
    rows[:, 4], rows[:, 7] = 10, 50  # both, at different values
    labels = (rows[:, 3] > 125) + np.int64(0)
    return split(Dataset(rows.astype(dtype), labels, ("dark", "bright"), (1, 2, 4), "pairs"), SplitConfig())


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_with_flips_a_feature_is_constant_only_if_its_mirror_is(backend, dtype):
    splits = flipped_splits(dtype)
    config = coursework(learning_rate=0.03, epochs=3, backend=backend)
    plain, flipped = (train(splits, replace(config, flip=flip)).model for flip in (False, True))
    zero = [np.flatnonzero((model.layer.weights == 0).all(axis=1)).tolist() for model in (plain, flipped)]
    assert zero == [[0, 1, 2, 4, 7], [1, 2]]
    own, shared = plain.standardizer, flipped.standardizer
    assert (shared.mean[0], shared.scale[0]) == (own.mean[3], own.scale[3])
    assert (shared.mean[3], shared.scale[3]) == (own.mean[3], own.scale[3])
    assert (shared.mean[[4, 7]].tolist(), shared.scale[[4, 7]].tolist()) == ([30, 30], [20, 20])
    for j in (1, 2, 5, 6):
        assert (shared.mean[j], shared.scale[j]) == (own.mean[j], own.scale[j])
    X, y = splits.train.rows(slice(None)), splits.train.labels
    given = {"learning_rate": 0.03, "epochs": 3, "init_std": 0.01, "init_bias": "zero", "decay_every": 0}
    clf = SoftmaxClassifier(flip=True, image_shape=(1, 2, 4), random_state=42, **given).fit(X, y)
    if backend == "native":
        np.testing.assert_array_equal(clf.model_.layer.weights, flipped.layer.weights)
    np.testing.assert_array_equal(clf.model_.standardizer.scale, shared.scale)


# Rows that come later


def test_partial_fit_starts_a_feature_at_zero_when_it_begins_to_vary():
    dataset = made("float64")
    X, y = np.array(dataset.rows), dataset.labels
    X[60:, 3] = np.random.default_rng(0).normal(0, 50, 60)
    clf = SoftmaxClassifier(random_state=0, learning_rate=0.01).partial_fit(X[:60], y[:60], range(4))
    assert not clf.coef_[:, CONSTANT].any()
    before = clf.decision_function(X[:60])
    clf.set_params(learning_rate=1e-12).partial_fit(X[60:], y[60:])
    assert not clf.coef_[:, [17, 44]].any()
    assert 0 < np.abs(clf.coef_[:, 3]).max() < 1e-12  # all that one tiny epoch gave it
    np.testing.assert_allclose(clf.decision_function(X[:60]), before, rtol=1e-6, atol=1e-8)
    clf.set_params(learning_rate=0.01)
    for _ in range(5):
        clf.partial_fit(X[60:], y[60:])
    assert np.abs(clf.coef_[:, 3]).min() > 1e-6


def test_a_warm_start_keeps_what_earlier_rows_taught_and_nothing_else():
    dataset = made("float64")
    X, y = np.array(dataset.rows), dataset.labels
    clf = SoftmaxClassifier(random_state=0, epochs=3, warm_start=True).fit(X, y)
    still = X.copy()
    still[:, 5] = 77  # it varied in the first fit
    learnt = clf.coef_.copy()
    clf.fit(still, y)
    assert not clf.coef_[:, CONSTANT].any()
    np.testing.assert_allclose(clf.coef_[:, 5], learnt[:, 5], rtol=1e-12)
    assert np.abs(clf.coef_ - learnt).max() > 1e-5
    moving = X.copy()
    moving[:, 3] = np.random.default_rng(0).normal(0, 50, 120)
    clf.set_params(epochs=0).fit(moving, y)
    assert not clf.coef_[:, CONSTANT].any()
    clf.set_params(epochs=1).fit(moving, y)
    assert (clf.coef_[:, 3] != 0).all()


def test_without_standardisation_the_intercept_does_what_a_constant_column_could():
    rng = np.random.default_rng(0)
    X = rng.normal(0, 1, (200, 3))
    y = (X[:, 0] + 0.5 * rng.normal(size=200) > 0.4).astype(int)
    X = np.column_stack([X, np.full(200, 1000.0)])
    reference = LogisticRegression(C=1 / (0.01 * 200), solver="newton-cg", tol=1e-10).fit(X, y)
    assert abs(reference.coef_[0, 3]) < 1e-9 < 1e-1 < np.abs(reference.coef_[0, :3]).min()
    clf = SoftmaxClassifier(standardize=False, l2=0.01, batch_size=200, epochs=2000, random_state=0).fit(X, y)
    np.testing.assert_array_equal(clf.coef_[:, 3], 0)
    np.testing.assert_allclose(clf.predict_proba(X), reference.predict_proba(X), atol=1e-3)


# Runs and files


@pytest.fixture
def bordered(tmp_path):
    """A .npz file with a constant pixel, which the command line can train on."""
    dataset = made("uint8")
    path = tmp_path / "bordered.npz"
    np.savez(path, X=dataset.rows.reshape(-1, *SHAPE), y=dataset.labels)
    return path


def of_an_older_onelayer(run: Run) -> None:
    """Give the run's files the random weights of constant features that an older onelayer left, and no word of it."""
    model = Model.load(run.model_path)
    weights = model.layer.weights.copy()
    weights[CONSTANT] = np.random.default_rng(42).standard_normal((4, 45)).T[CONSTANT] * 0.01
    standardizer = Standardizer(model.standardizer.mean, model.standardizer.scale)
    old = replace(model, layer=replace(model.layer, weights=weights), standardizer=standardizer)
    run.model_path.write_bytes(old.to_bytes())
    tensors, metadata = unpack(run.checkpoint_path, kind="checkpoint", names=CHECKPOINT_ARRAYS)
    metadata = {name: metadata[name] for name in metadata.keys() - {"format", "version", "constant_weights"}}
    run.checkpoint_path.write_bytes(pack(tensors | {"weights": weights}, metadata, kind="checkpoint"))


def trained(bordered, out, epochs: int = 2) -> Run:
    options = ["--out", str(out), "--epochs", str(epochs), "--no-figures", "--quiet"]
    run_command(["train", "--data", str(bordered), *options])
    return Run.open(out)


def test_a_model_file_says_that_its_constant_features_have_no_weights(bordered, tmp_path):
    run = trained(bordered, tmp_path / "run")
    model = run.model
    assert not constant_weights(model).any()
    assert np.flatnonzero(model.standardizer.constant).tolist() == CONSTANT
    _, metadata = unpack(run.model_path, kind="model", names=("weights", "bias", "mean", "scale"))
    assert metadata["constant_weights"] == "0"


@pytest.mark.filterwarnings("default::onelayer.errors.OldModelWarning")
def test_an_old_model_file_is_left_as_it_is_and_said_to_be_old(bordered, tmp_path, capsys):
    run = trained(bordered, tmp_path / "run")
    of_an_older_onelayer(run)
    content = run.model_path.read_bytes()
    with pytest.warns(OldModelWarning, match="perhaps the 3 of scale 1 have random weights; resume the run") as caught:
        old = run.model
    assert len(caught) == 1
    assert caught[0].filename != Model.load.__code__.co_filename
    assert (constant_weights(old) != 0).all()
    assert old.standardizer.constant is None
    assert "constant_weights" not in json.dumps(unpack_metadata(old.to_bytes(), tmp_path))
    np.save(tmp_path / "rows.npy", made().rows[:2])
    for command in (["evaluate", str(run.path)], ["predict", str(run.path), str(tmp_path / "rows.npy"), "--json"]):
        capsys.readouterr()
        run_command(command)
        out, err = capsys.readouterr()
        assert err == f"note: {caught[0].message}\n"
        assert "OldModel" not in out
        assert str(caught[0].message) not in out
    assert run.model_path.read_bytes() == content


def unpack_metadata(content: bytes, folder) -> dict[str, str]:
    (folder / "again.safetensors").write_bytes(content)
    return unpack(folder / "again.safetensors", kind="model", names=("weights", "bias", "mean", "scale"))[1]


@pytest.mark.parametrize("epochs", [2, 3])
def test_resuming_an_old_run_clears_the_weights(bordered, tmp_path, epochs):
    run = trained(bordered, tmp_path / "run")
    of_an_older_onelayer(run)
    run_command(["resume", str(run.path), "--epochs", str(epochs), "--no-figures", "--quiet"])
    with warnings.catch_warnings(action="error"):
        model = run.model
    assert not constant_weights(model).any()
    assert not run.read_checkpoint()[1].layer.weights[CONSTANT].any()


@pytest.mark.parametrize("epochs", [2, 3])
def test_resuming_an_old_run_with_flips_goes_on_from_the_same_answers(tmp_path, epochs):
    splits = split(made(), SplitConfig())
    plan = Plan(coursework(learning_rate=1e-30, epochs=2, flip=True), SplitConfig(), "made", "")
    run = Run.create(tmp_path / "run")
    model = start(run, plan, Problem.of(splits, plan.config)).model
    rows = np.array(made().rows)
    rows[:, [3, 44]] = np.random.default_rng(0).integers(0, 256, (120, 2))  # their mirrors vary in training
    expected = model.logits(rows)
    # Left by an onelayer that gave these two a scale of 1, and wrote no word of it.
    older = model.standardizer.reexpress(model.layer, splits.standardizer)
    tensors, metadata = unpack(run.checkpoint_path, kind="checkpoint", names=CHECKPOINT_ARRAYS)
    tensors |= {"weights": older.weights.astype("float32"), "bias": older.bias.astype("float32")}
    metadata = {name: metadata[name] for name in metadata.keys() - {"format", "version", "constant_weights"}}
    run.checkpoint_path.write_bytes(pack(tensors, metadata, kind="checkpoint"))
    for _ in range(2):  # the second time, the file is not old
        found = resume(run, splits, epochs).model
        np.testing.assert_allclose(found.logits(rows), expected, rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(found.standardizer.scale, model.standardizer.scale)
    assert found.standardizer.scale[3] > 20


def test_a_resumed_run_ends_with_the_bits_of_one_that_was_not_stopped(bordered, tmp_path):
    trained(bordered, tmp_path / "stopped")
    run_command(["resume", str(tmp_path / "stopped"), "--epochs", "4", "--no-figures", "--quiet"])
    trained(bordered, tmp_path / "whole", 4)
    stopped, whole = (Run.open(tmp_path / name).model.to_bytes() for name in ("stopped", "whole"))
    assert stopped == whole


def test_models_of_rows_that_were_not_standardised_are_not_said_to_be_old(tmp_path):
    dataset = made("float64")
    model = SoftmaxClassifier(standardize=False, epochs=1).fit(dataset.rows, dataset.labels).model_
    weights = np.asfortranarray(np.ones_like(model.layer.weights))
    plain = Standardizer(model.standardizer.mean, model.standardizer.scale)
    (tmp_path / "model.safetensors").write_bytes(
        replace(model, layer=replace(model.layer, weights=weights), standardizer=plain).to_bytes()
    )
    assert Model.load(tmp_path / "model.safetensors").standardizer.constant is None


def test_a_sweep_clears_them_too(tmp_path):
    splits = split(made(), SplitConfig())
    configs = tuple(coursework(learning_rate=0.03, epochs=2, flip=flip) for flip in (False, True))
    plan = SweepPlan(configs, (1, 2), SplitConfig(), "made", splits.dataset.fingerprint)
    sweep = Sweep.create(tmp_path / "sweep", plan)
    run_sweep(sweep, splits, workers=2)
    models = [sweep.run(setting, seed).model for setting in (0, 1) for seed in (1, 2)]
    for model in models[:2]:
        assert not constant_weights(model).any()
    for model in models[2:]:  # one is its own mirror, the mirrors of the others vary
        assert np.flatnonzero(~model.layer.weights.any(axis=1)).tolist() == [17]


def test_a_standardizer_that_does_not_know_is_told():
    splits = split(made("float32"), SplitConfig())
    given = Standardizer(np.full(45, 100.0), np.full(45, 50.0))
    model = train(splits, coursework(learning_rate=0.03, epochs=2), standardizer=given).model
    assert not constant_weights(model).any()
    knowing = replace(given, constant=np.arange(45) == 5)
    weights = train(splits, coursework(learning_rate=0.03, epochs=2), standardizer=knowing).model.layer.weights
    assert np.flatnonzero(~weights.any(axis=1)).tolist() == [5]


@pytest.mark.parametrize("noise", [1e-12, 1e-9, 1e-5])
def test_a_feature_that_hardly_varied_is_learnt_anew_when_it_does(noise):
    rng = np.random.default_rng(0)
    X = rng.normal(size=(3000, 3))
    y = (X[:, 0] > 0).astype(int)
    X[:2000, 2] = 0.3 + noise * X[:2000, 2]
    clf = SoftmaxClassifier(random_state=0).partial_fit(X[:1000], y[:1000], classes=[0, 1])
    clf.partial_fit(X[1000:2000], y[1000:2000])
    for _ in range(30):
        clf.partial_fit(X[2000:], y[2000:])
    assert clf.score(X[2000:], y[2000:]) > 0.97
    assert abs(clf.coef_[0, 2]) < 0.1 * clf.coef_[0, 0]
