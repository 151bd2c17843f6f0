"""Probes against the formulas of the originals: scikit-learn's optima, ridge regression, votes of neighbours.

golden/probe.npz holds what scikit-learn's LogisticRegression gives on `synthetic` at 45 values of C with tol 1e-12; it
takes minutes to write again:

    GOLDEN=write pytest tests/test_probe.py -k logistic
"""

import csv
import html
import json
import os
import re
import tracemalloc
import warnings
from dataclasses import fields, replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_one_line

import onelayer.experiments.probe.neighbours
from onelayer.analysis.evaluation import logits_of
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.errors import ConfigError
from onelayer.experiments.comparison import Comparison, in_points
from onelayer.experiments.probe import load_features, probe
from onelayer.experiments.probe.closed import nearest_mean, ridge
from onelayer.experiments.probe.encoded import Encoded
from onelayer.experiments.probe.logistic import DINO, TOLERANCE, Optima, l2_of
from onelayer.experiments.probe.neighbours import Neighbours
from onelayer.runs.directory import Run
from onelayer.training.backends import devices
from onelayer.words import number

GOLDEN = Path(__file__).parent / "golden" / "probe.npz"


def synthetic():
    """Return 4,000 rows of 64 features in 10 classes that overlap, float32; 3,000 are to train on."""
    rng = np.random.default_rng(12)
    y = rng.integers(10, size=4000)
    means, mixing = rng.normal(size=(10, 64)), rng.normal(size=(64, 64)) / 8
    X = 0.25 * means[y] + rng.normal(size=(4000, 64)) @ mixing + 0.5 * rng.normal(size=(4000, 64))
    return (X + rng.normal(size=64)).astype(np.float32), y


def save(path, X, y, train):
    np.savez(path, X_train=X[:train], y_train=y[:train], X_test=X[train:], y_test=y[train:])
    return str(path)


@pytest.fixture(scope="module")
def splits(tmp_path_factory):
    return load_features(save(tmp_path_factory.mktemp("probe") / "toy.npz", *synthetic(), 3000))[0]


@pytest.fixture
def small(tmp_path):
    """400 rows of 6 features in 3 classes, 300 of them to train on."""
    rng = np.random.default_rng(1)
    y = rng.integers(3, size=400)
    X = (rng.normal(size=(3, 6))[y] + rng.normal(size=(400, 6))).astype(np.float32)
    return save(tmp_path / "small.npz", X, y, 300), X, y


def sklearn_golden(splits):
    """Return what scikit-learn's logistic regression gives: accuracies, the first best C, and its test answers."""
    from sklearn.linear_model import LogisticRegression

    def fit(split, C):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that rounding ends it before the tolerance does
            model = LogisticRegression(C=C, tol=1e-12, max_iter=20_000)
            return model.fit(split.rows(slice(None)).astype(float), split.labels)

    validation, test = splits.validation, splits.test
    accuracies = [
        np.mean(fit(splits.train, C).predict(validation.rows(slice(None)).astype(float)) == validation.labels)
        for C in DINO
    ]
    C = DINO[int(np.argmax(accuracies))]
    both = Split("train", splits.dataset, np.concatenate([splits.train.indices, validation.indices]))
    predictions = fit(both, C).predict(test.rows(slice(None)).astype(float))
    return {"rows": splits.dataset.rows[:3], "accuracies": accuracies, "C": C, "predictions": predictions}


def test_logistic_regression_chooses_what_scikit_learn_chooses(splits):
    if os.environ.get("GOLDEN") == "write":
        np.savez_compressed(GOLDEN, **sklearn_golden(splits))
    golden = np.load(GOLDEN)
    np.testing.assert_array_equal(splits.dataset.rows[:3], golden["rows"])
    assert (len(splits.train), len(splits.validation), len(splits.test)) == (2700, 300, 1000)
    found = probe(splits, "dino")
    ours = np.array([trial.accuracy for trial in found.outcome.trials])
    np.testing.assert_allclose(ours, golden["accuracies"], atol=1.01 / 300)  # a row
    assert found.outcome.chosen.value == golden["C"]
    assert np.count_nonzero(found.evaluation.predictions != golden["predictions"]) == 0
    assert found.outcome.converged
    assert 0.7 < found.evaluation.accuracy < 0.8
    assert np.ptp(ours) > 0.5


@pytest.mark.parametrize("K", [2, 3])
@pytest.mark.parametrize("normalize", ["none", "unit", "standardize"])
def test_an_optimum_is_that_of_scikit_learn(tmp_path, K, normalize):
    """The weights too, after the same normalisation; two classes have one vector there and two here."""
    from sklearn.linear_model import LogisticRegression

    rng = np.random.default_rng(2)
    y = rng.integers(K, size=300)
    X = (rng.normal(size=(K, 5))[y] + 2 * rng.normal(size=(300, 5)) + 1).astype(np.float32)
    splits, _ = load_features(save(tmp_path / "toy.npz", X, y, 250))
    encoded = Encoded.of(splits, normalize)
    optima = Optima(encoded)
    (trial,) = optima.trials([0.1])
    outcome = optima.refit(0.1)
    R = splits.dataset.rows[encoded.refitted().raw.train.indices].astype(float)
    mean, scale = np.zeros(5), np.ones(5)
    if normalize == "unit":
        R = R / np.linalg.norm(R, axis=1, keepdims=True)
    elif normalize == "standardize":
        mean, scale = R.mean(axis=0), R.std(axis=0)
    labels = splits.dataset.labels[encoded.refitted().raw.train.indices]
    reference = LogisticRegression(C=0.1, tol=1e-10, max_iter=1000).fit((R - mean) / scale, labels)
    W = outcome.model.layer.weights
    expected = reference.coef_.T if K > 2 else reference.coef_.T / 2 * [-1, 1]
    assert outcome.l2 * ((W - expected) ** 2).sum() < 1.01 * TOLERANCE * np.log(K)  # the cost is at most log K
    np.testing.assert_allclose(W, expected, atol=2e-3 * np.abs(expected).max())
    assert np.abs(expected).max() > 0.05
    assert trial.converged
    assert outcome.l2 == l2_of(0.1, encoded.refitted().train) == (1 if K == 2 else 0.5) / (0.1 * 250)


def test_clip_halves_the_interval_around_the_best(small):
    found = probe(load_features(small[0])[0], "clip").outcome
    powers = [float(np.log10(trial.value)) for trial in found.trials]
    assert np.allclose(np.array(powers) * 8, np.round(np.array(powers) * 8))
    assert {-6, -4, -2, 0, 2, 4, 6} <= set(np.round(powers, 9)) and powers == sorted(powers)
    chosen = np.log10(found.chosen.value)
    near = np.array(powers)[np.argsort(np.abs(np.array(powers) - chosen))[:3]]
    np.testing.assert_allclose(np.sort(near), chosen + np.array([-1, 0, 1]) / 8, atol=1e-9)
    assert len(powers) <= 7 + 2 * 4
    assert found.chosen.accuracy == max(trial.accuracy for trial in found.trials)


def test_ridge_is_the_formula_of_the_original(splits):
    train = Encoded.of(splits, "none").refitted().train
    X, y = train.rows(slice(None)).astype(float), train.labels
    mean, deviation = X.mean(axis=0), X.std(axis=0) + 1e-5
    Z = np.pad((X - mean) / deviation, ((0, 0), (0, 1)), constant_values=100.0)
    Y = 2.0 * np.eye(10)[y] - 1
    eigenvalues, Q = np.linalg.eigh(Z.T @ Z)
    W = (Q / (eigenvalues + 1024)) @ (Q.T @ (Z.T @ Y))
    layer = probe(splits, "ridge").outcome.model.layer
    np.testing.assert_allclose(layer.weights, W[:-1], atol=1e-5)
    np.testing.assert_allclose(layer.bias, 100 * W[-1], atol=1e-5)
    assert np.abs(W[:-1]).max() > 0.05


def test_ridge_with_fewer_rows_than_features(tmp_path):
    rng = np.random.default_rng(3)
    X, y = rng.normal(size=(40, 300)).astype(np.float32), np.arange(40) % 2
    X[:, 7] = 5
    splits, _ = load_features(save(tmp_path / "wide.npz", X, y, 30))
    found = probe(splits, "ridge").outcome.model
    rows = np.concatenate([splits.train.indices, splits.validation.indices])
    Z = (X[rows] - X[rows].mean(axis=0, dtype=float)) / (X[rows].std(axis=0, dtype=float) + 1e-5)
    Z = np.pad(Z, ((0, 0), (0, 1)), constant_values=100.0)
    W = np.linalg.solve(Z.T @ Z + 1024 * np.eye(301), Z.T @ (2.0 * np.eye(2)[y[rows]] - 1))
    np.testing.assert_allclose(found.layer.weights, W[:-1], atol=1e-9)
    assert not found.layer.weights[7].any()


def weighted_and_repeated(n, d):
    """Return the same rows twice as splits that train on all: with weights of 1 to 3, and repeated as often."""
    rng = np.random.default_rng(8)
    y, times = rng.integers(3, size=n), rng.integers(1, 4, size=n)
    X = rng.normal(size=(3, d))[y] + rng.normal(size=(n, d))
    for rows, weights in ((np.arange(n), times.astype(float)), (np.repeat(np.arange(n), times), None)):
        dataset = Dataset(X[rows], y[rows], ("a", "b", "c"), None, "toy", row_weights=weights)
        yield Splits(*(replace(dataset.everything, name=name) for name in ("train", "validation", "test")), "full")


@pytest.mark.parametrize("d", [5, 90])
def test_a_row_of_weight_2_counts_as_two_rows(d):
    for fit in (ridge, nearest_mean):
        one, two = (fit(Encoded.of(splits, "none")).model.layer for splits in weighted_and_repeated(60, d))
        np.testing.assert_allclose(one.weights, two.weights, atol=1e-9)
        np.testing.assert_allclose(one.bias, two.bias, atol=1e-9)
    with pytest.raises(ConfigError, match="knn counts rows, so row weights do not apply; remove them, or choose"):
        probe(next(weighted_and_repeated(60, d)), "knn")


@pytest.mark.parametrize("numbers", [2**22, 1])  # 2,700 rows in one block, or 200 at a time
def test_neighbours_vote_as_in_a_direct_loop(splits, numbers, monkeypatch):
    monkeypatch.setattr(onelayer.experiments.probe.neighbours, "BLOCK_NUMBERS", numbers)
    encoded = Encoded.of(splits, "none")
    some = Split("validation", splits.dataset, splits.validation.indices[:40])
    neighbours = Neighbours(encoded, 200)
    found = neighbours.nearest(some)
    X, y = splits.train.rows(slice(None)).astype(float), splits.train.labels
    for row, x in enumerate(some.rows(slice(None)).astype(float)):
        cosines = X @ x / np.linalg.norm(X, axis=1) / np.linalg.norm(x)
        order = np.argsort(-cosines)
        for k in (1, 10, 20, 100, 200):
            votes = np.zeros(10)
            for place in order[:k]:
                votes[y[place]] += np.exp(cosines[place] / 0.07)
            P = neighbours.votes(found[0][row : row + 1], found[1][row : row + 1], k)
            np.testing.assert_allclose(P[0], votes / votes.sum(), atol=1e-5)


def test_neighbours_of_rows_with_few_features_need_little_memory():
    y = np.arange(40_000) % 4
    X = np.random.default_rng(0).normal(size=(len(y), 2)).astype(np.float32)
    dataset, places = Dataset(X, y, tuple("abcd"), None, "flat"), np.arange(len(y))
    train, some = Split("train", dataset, places[1000:]), Split("validation", dataset, places[:512])
    splits = Splits(train, some, some, "full")
    neighbours = Neighbours(Encoded(splits, splits, "none"), 10)
    tracemalloc.start()
    cosines, _ = neighbours.nearest(some)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert cosines.min() > 0.99
    large = replace(dataset, rows=X * np.float32(1e25))
    on_large = Splits(*(replace(part, dataset=large) for part in (train, some, some)), "full")
    same, _ = Neighbours(Encoded(on_large, on_large, "none"), 10).nearest(on_large.test)
    np.testing.assert_allclose(same, cosines, atol=1e-6)
    assert peak < 2e8  # all cosines at once, with the labels, take three times as much


def test_knn_chooses_k_on_the_validation_rows_which_then_are_neighbours(splits):
    found = probe(splits, "knn")
    assert [trial.value for trial in found.outcome.trials] == [10, 20, 100, 200]
    right = [trial.accuracy for trial in found.outcome.trials]
    assert found.outcome.chosen.value == [10, 20, 100, 200][int(np.argmax(right))]
    assert found.outcome.model is None
    both = found.outcome.evaluate(splits.validation)
    assert both.accuracy > found.outcome.chosen.accuracy  # each row is its own nearest neighbour
    assert 0.3 < found.evaluation.accuracy < 0.8


def test_the_nearest_mean(small):
    path, X, y = small
    splits, _ = load_features(path)
    found = probe(splits, "nearest-mean")
    rows = np.concatenate([splits.train.indices, splits.validation.indices])
    means = np.stack([X[rows][y[rows] == k].mean(axis=0, dtype=float) for k in range(3)])
    distances = ((splits.test.rows(slice(None))[:, None].astype(float) - means) ** 2).sum(axis=2)
    np.testing.assert_array_equal(found.evaluation.predictions, distances.argmin(axis=1))
    S = logits_of(found.outcome.model, splits.test)
    np.testing.assert_allclose(S - S[:, :1], (distances[:, :1] - distances) / 2, atol=1e-6)


def test_test_rows_choose_nothing(small, tmp_path):
    """With other test labels, everything except the test figures is the same."""
    path, X, y = small
    wrong = np.concatenate([y[:300], (y[300:] + 1) % 3])
    one, two = (probe(load_features(p)[0]) for p in (path, save(tmp_path / "other.npz", X, wrong, 300)))
    assert one.outcome.trials == two.outcome.trials
    np.testing.assert_array_equal(one.outcome.model.layer.weights, two.outcome.model.layer.weights)
    assert two.evaluation.accuracy < 0.4 < 0.6 < one.evaluation.accuracy


@pytest.mark.parametrize("recipe", ["dino", "ridge", "nearest-mean"])
@pytest.mark.parametrize("normalize", ["none", "unit"])
def test_a_probe_is_a_run(run_cli, small, recipe, normalize, tmp_path):
    path, X, y = small
    code, out, _ = run_cli("probe", path, "--recipe", recipe, "--normalize", normalize, "--out", "run", "--json")
    assert code == 0
    (record,) = json.loads(out)["probes"]
    assert record.pop("run") == "run"
    figures = json.loads(run_cli("evaluate", "run", "--json")[1])
    assert figures["accuracy"] == record["test"]["accuracy"]
    assert record["rows"] == {"train": 270, "validation": 30, "test": 100}
    assert Run.open("run").summary["probe"]["trials"] == record["trials"]
    np.save("rows.npy", X[300:])
    answers = json.loads(run_cli("predict", "run", "rows.npy", "--json")[1])
    right = np.mean([answer["class"] == str(label) for answer, label in zip(answers, y[300:], strict=True)])
    assert right == pytest.approx(record["test"]["accuracy"])
    assert run_cli("export", "run", "model.py")[0] == 0
    assert_one_line(run_cli("resume", "run"), "run is a probe, which is complete; run onelayer probe for another one")
    assert "small, full" in run_cli("runs", ".")[1]


@pytest.mark.parametrize("normalize", ["none", "unit", "standardize"])
def test_the_run_of_a_logistic_regression_says_what_fitted_it(run_cli, small, normalize):
    assert run_cli("probe", small[0], "--out", "run", "--normalize", normalize, "--json")[0] == 0
    run = Run.open("run")
    config, chosen = run.config, run.summary["probe"]["chosen"]
    assert (config.solver, config.tol, config.max_passes) == ("converged", TOLERANCE, 100)
    assert config.l2 == pytest.approx(1 / (2 * chosen * 300))
    assert len(run.history["gap"]) == run.summary["epochs"] > 0
    assert run.history["gap"][-1] <= TOLERANCE * run.history["train_cost"][-1]
    assert run.history["test_accuracy"][-1] == run.scores["test"].accuracy
    code, out, _ = run_cli("certify", "run", "--json")
    found = json.loads(out)
    assert code == 0
    strength = f"lambda {config.l2:.5g} stands for C {number(chosen)}, which the probe chose"
    assert f"\n{strength}\n" in run_cli("certify", "run")[1]
    assert found["cost"] == pytest.approx(run.scores["train"].cost, rel=1e-9)
    assert 0 <= found["relative_gap"] < 2 * TOLERANCE
    code, out, _ = run_cli("evaluate", "run", "--split", "train")
    assert code == 0
    assert "above the best possible" in out and "not converged" not in out
    assert f"stands for C {number(chosen)}, which the probe chose" in out
    assert run_cli("report", "run", "--out", "report.html")[0] == 0
    page = re.sub(r" \\\n +", " ", Path("report.html").read_text())  # a long command is in lines
    assert f"small.npz --recipe dino --normalize {normalize} --split-seed 0" in page
    assert "onelayer train" not in page
    assert f" L{strength[1:]}." in page
    assert re.search(r"<dt>validation rows</dt>\s*<dd>30, trained on</dd>", page)
    assert re.search(r"<dt>train rows</dt>\s*<dd>300</dd>", page)
    assert "<dt>iterations</dt>" in page
    assert re.search(rf"<dt>C, chosen</dt>\s*<dd>{re.escape(f'{chosen:g}')}</dd>", page)


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
@pytest.mark.parametrize("recipe", ["dino", "clip"])
def test_a_probe_on_a_device_is_that_of_the_cpu(run_cli, small, recipe, monkeypatch):
    from onelayer.training.converging.device_rows import DeviceRows

    opened, original = [], DeviceRows.__init__
    monkeypatch.setattr(DeviceRows, "__init__", lambda *given, **more: opened.append(original(*given, **more)))
    words = ["probe", small[0], "--recipe", recipe, "--json", "--html", "page.html"]
    on = ["--backend", "torch", "--device", "cpu"]
    found = [run_cli(*words, "--out", name, *more) for name, more in (("cpu", []), ("device", on))]
    assert [code for code, _, _ in found] == [0, 0]
    assert len(opened) == 3  # the trials, and both parts of the last fit
    cpu, device = (json.loads(out)["probes"][0] for _, out, _ in found)
    assert device["chosen"] == cpu["chosen"]
    for ours, theirs in zip(device["trials"], cpu["trials"], strict=True):
        assert (ours["accuracy"], ours["converged"]) == (theirs["accuracy"], theirs["converged"])
        assert ours["cost"] == pytest.approx(theirs["cost"], rel=1e-5)
    runs = [Run.open(name) for name in ("cpu", "device")]
    assert [run.summary.get("device") for run in runs] == [None, "cpu"]
    assert [run.summary["backend"] for run in runs] == ["numpy", "torch"]
    weights, of_cpu = runs[1].model.layer.weights, runs[0].model.layer.weights
    np.testing.assert_allclose(weights, of_cpu, rtol=0, atol=1e-3 * np.abs(of_cpu).max())
    assert "--backend torch --device cpu" in Path("page.html").read_text()
    assert run_cli("report", "device", "--out", "report.html")[0] == 0
    assert "--backend torch --device cpu" in re.sub(r" \\\n +", " ", Path("report.html").read_text())


@pytest.mark.skipif(find_spec("torch") is None, reason="PyTorch is not installed")
def test_few_shots_on_a_device(run_cli, small):
    words = ["probe", small[0], "--shots", "4", "--seeds", "2", "--json"]
    cpu, device = (
        json.loads(run_cli(*words, *more)[1])["probes"] for more in ([], ["--backend", "torch", "--device", "cpu"])
    )
    for ours, theirs in zip(device, cpu, strict=True):
        assert ours["chosen"] == theirs["chosen"]
        assert ours["test"]["accuracy"] == theirs["test"]["accuracy"]


def test_a_fit_in_closed_form_has_no_certificate_and_no_settings_of_training(run_cli, small):
    for recipe in ("ridge", "nearest-mean"):
        assert run_cli("probe", small[0], "--recipe", recipe, "--out", recipe, "--json")[0] == 0
        words = f"{recipe} is a probe by {recipe}, which does not minimise this cost"
        assert_one_line(run_cli("certify", recipe), words)
        assert "above the best possible" not in run_cli("evaluate", recipe, "--split", "train")[1]
    code, out, _ = run_cli("compare", "ridge", "nearest-mean")
    assert code == 0
    assert "recipe ridge against nearest-mean" in out
    assert "l2" not in out
    assert run_cli("report", "ridge", "--out", "report.html")[0] == 0
    page = re.sub(r" \\\n +", " ", Path("report.html").read_text())  # a long command is in lines
    assert "small.npz --recipe ridge" in page
    assert "learning rate" not in page
    assert not re.search(r"<dt>(epochs|model|time|iterations)</dt>", page)
    with np.load(small[0]) as arrays:
        np.savez("other.npz", **{name: -array if array.dtype.kind == "f" else array for name, array in arrays.items()})
    assert run_cli("probe", "other.npz", "--recipe", "ridge", "--out", "other", "--json")[0] == 0
    words = "other was trained on other data than ridge .*; compare encoders with: onelayer probe A B --html page.html"
    assert_one_line(run_cli("report", "ridge", "other"), words)
    assert re.search(r"<dt>end</dt>\s*<dd>the fit is in closed form</dd>", page)
    assert "chosen</dt>" not in page


def test_the_export_of_rows_of_length_one(run_cli, small):
    onnxruntime = pytest.importorskip("onnxruntime")
    path, X, _ = small
    assert run_cli("probe", path, "--recipe", "ridge", "--normalize", "unit", "--out", "run")[0] == 0
    assert run_cli("export", "run", "model.onnx")[0] == 0
    session = onnxruntime.InferenceSession("model.onnx")
    found = session.run(["logits"], {"features": X[300:]})[0]
    np.testing.assert_allclose(found, Run.open("run").model.logits(X[300:]), atol=1e-5)
    unit = X[300:] / np.linalg.norm(X[300:], axis=1, keepdims=True)
    np.testing.assert_allclose(Run.open("run").model.logits(unit), found, atol=1e-5)


def test_the_screen_and_the_csv(run_cli, small):
    path, *_ = small
    code, out, _ = run_cli("probe", path, "--csv", "found.csv", "--normalize", "standardize")
    assert code == 0
    assert "recipe dino, normalize standardize: each feature less its mean" in out
    assert "runs/small-dino-1/: checkpoint" in out
    words = "pictures: onelayer figures runs/small-dino-1; a page: onelayer report runs/small-dino-1\n"
    assert words in out
    assert run_cli("figures", "runs/small-dino-1")[0] == 0
    assert "small, test: 100 rows, read once" in out
    with Path("found.csv").open() as file:
        (row,) = csv.DictReader(file)
    assert (row["recipe"], row["normalize"], row["setting"]) == ("dino", "standardize", "C")
    assert float(row["accuracy_low"]) < float(row["accuracy"]) < float(row["accuracy_high"])
    assert row["top_5_accuracy"] == ""  # of three classes
    assert_one_line(run_cli("probe", path, "--recipe", "knn", "--out", "x"), "the recipe knn makes no layer")
    code, out, _ = run_cli("probe", path, "--recipe", "knn", "--csv", "-")
    assert (code, out.count("\n")) == (0, 2)
    assert not Path("runs/small-knn-1").exists()


@pytest.fixture
def pair(tmp_path):
    """Good and bad features of the same rows, 400 of 3 classes, 300 of them to train on."""
    rng = np.random.default_rng(4)
    y = rng.integers(3, size=400)
    means = 2 * rng.normal(size=(3, 6))
    return [
        save(tmp_path / f"{name}.npz", (scale * means[y] + rng.normal(size=(400, 6))).astype(np.float32), y, 300)
        for name, scale in (("good", 1), ("bad", 0.2))
    ]


def test_several_features_are_compared_on_the_same_rows(run_cli, pair, tmp_path, small):
    from onelayer.experiments.comparison import compare_answers

    code, out, _ = run_cli("probe", *pair, "--recipe", "ridge", "--json")
    assert code == 0
    found = json.loads(out)
    assert [record["run"] for record in found["probes"]] == ["runs/good-ridge-1", "runs/bad-ridge-1"]
    right = [probe(load_features(path)[0], "ridge").evaluation.right for path in pair]
    expected = compare_answers(*right, names=tuple(pair))
    (comparison,) = found["comparisons"]
    assert comparison["verdict"] == expected.verdict()
    assert comparison["verdict"].startswith(f"{pair[0]} is better than {pair[1]}")
    assert (comparison["only_a"], comparison["only_b"]) == (expected.only_a, expected.only_b)
    assert_one_line(run_cli("probe", pair[0], small[0]), "are not features of the same rows in the same order")
    assert_one_line(run_cli("probe", *pair, "--out", "run"), "--out takes the run of one probe")
    result = run_cli("compare", "runs/good-ridge-1", "runs/bad-ridge-1")
    assert_one_line(result, f"for features of the same rows, type onelayer probe {pair[0]} {pair[1]}$")


def test_few_shots_are_the_same_rows_for_all_features(pair):
    good, bad = (load_features(path)[0] for path in pair)
    for shots in (1, 4):
        one, two = (Encoded.of(splits, "none").few(shots, 7) for splits in (good, bad))
        assert one.raw.train.indices.tolist() == two.raw.train.indices.tolist()
        assert np.bincount(one.train.labels).tolist() == [shots] * 3
        assert set(one.train.indices) <= set(good.train.indices)
        assert one.refitted() is one
    more = Encoded.of(good, "none").few(8, 7).raw.train.indices
    assert set(one.raw.train.indices) < set(more)
    assert set(Encoded.of(good, "none").few(4, 8).raw.train.indices) != set(one.raw.train.indices)


@pytest.mark.parametrize("recipe", ["dino", "ridge", "knn", "nearest-mean"])
def test_few_shots(run_cli, pair, recipe):
    options = ["--recipe", recipe, "--shots", "1", "8", "--seeds", "3", "--csv", "found.csv"]
    code, out, _ = run_cli("probe", *pair, *options)
    assert code == 0
    assert not Path("runs").exists()
    assert f"8 shots: {pair[0]} against {pair[1]}: " in out
    with Path("found.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 2 * 2 * 3
    assert {(row["shots"], row["train_rows"]) for row in rows} == {("1", "3"), ("8", "24")}
    good, bad = (np.mean([float(r["accuracy"]) for r in rows if r["data"] == d]) for d in ("good", "bad"))
    assert bad < good
    assert good > 0.6


def test_the_page(run_cli, pair):
    """It stands alone, says what was asked, and has the figures of the JSON."""
    code, out, _ = run_cli("probe", *pair, "--normalize", "unit", "--html", "probe.html", "--csv", "f.csv", "--json")
    assert code == 0
    page, found = Path("probe.html").read_text(), json.loads(out)
    assert not re.search(r"""(src|href)=["'](?!data:|#)""", page)
    assert page.count("<svg") == 2
    words = html.unescape(" ".join(re.sub("<[^>]*>", " ", page).split()))
    for record, name in zip(found["probes"], pair, strict=True):
        chosen, test = number(record["chosen"]), record["test"]
        low, high = (100 * test[f"accuracy_{end}"] for end in ("low", "high"))
        assert re.search(rf"{re.escape(name)} {chosen} \d+\.?\d* % {low:.0f}[.\d]* to {high:.0f}[.\d]* ", words)
        assert f"run on {name} {Path(record['run']).resolve()}" in words
        for trial in record["trials"]:
            assert number(trial["value"]) in words
    assert "normalize unit: each row divided by its length" in words
    assert "validation rows 30 test rows 100 classes 3" in words
    assert found["comparisons"][0]["verdict"] in words
    assert f"CSV {Path('f.csv').resolve()}" in words
    assert f"onelayer probe {pair[0]} {pair[1]} --recipe dino --normalize unit --split-seed 0" in words
    Path("mine.html").write_text("<p>mine</p>")
    assert_one_line(run_cli("probe", *pair, "--html", "mine.html"), "mine.html")
    assert_one_line(run_cli("probe", *pair, "--html", "page.txt"), "--html writes HTML; choose a name that ends in")


def test_the_page_of_few_rows(run_cli, pair):
    options = ["--recipe", "knn", "--shots", "1", "8", "--seeds", "2", "--split-seed", "3"]
    code, out, _ = run_cli("probe", *pair, *options, "--html", "probe.html", "--json")
    assert code == 0
    page, found = Path("probe.html").read_text(), json.loads(out)
    words = " ".join(re.sub("<[^>]*>", " ", page).split())
    for compared in found["comparisons"]:  # the table has the digits of the verdict, and the p values of both sources
        kept = Comparison(**{field.name: compared[field.name] for field in fields(Comparison)})
        assert in_points(kept.difference, kept.interval, sign="+") in words
        shown = ["-" if p is None else f"{p:.2g}" for p in (compared["row_p_value"], compared["seed_p_value"])]
        assert f'data-label="p, rows">{shown[0]}</td><td data-label="p, draws">{shown[1]}</td>' in page
    figures = [r["test"]["accuracy"] for r in found["probes"] if r["shots"] == 8 and r["data"] == "good"]
    mean, sd = 100 * np.mean(figures), 100 * np.std(figures, ddof=1)
    assert f"{pair[0]} 8 {mean:.2f} ± {sd:.2f} %" in words
    assert "--shots 1 8 --seeds 2 --split-seed 3" in words
    assert "No other file was written" in words


def test_points_that_are_not_converged_are_hollow():
    from onelayer.pictures.probe import curve_of_trials

    values, converged = 10.0 ** np.arange(6), np.array([True] * 4 + [False] * 2)
    scores = np.stack([np.linspace(0.4, 0.6, 6), np.full(6, 0.3), np.full(6, 0.8)], axis=1)
    axes = curve_of_trials(values, scores, converged, 2, "C", 4.3).axes[0]
    solid, hollow, ring = (line for line in axes.lines if line.get_marker() == "o")
    assert (solid.get_xdata().tolist(), hollow.get_xdata().tolist()) == (values[:4].tolist(), values[4:].tolist())
    assert solid.get_markerfacecolor() != hollow.get_markerfacecolor() == "white"
    assert (ring.get_xdata()[0], ring.get_ydata()[0]) == (100, pytest.approx(48))


def test_any_name_is_in_the_legend_of_few_rows():
    from onelayer.pictures.probe import curves_of_shots

    scores = {name: np.array([[0.3, 0.1], [0.5, np.nan]]) for name in ("_a", "$x$", "c" * 200, "d")}
    figure = curves_of_shots([1, 2], scores, 6.0)
    texts = figure.axes[0].get_legend().get_texts()
    assert [text.get_text() for text in texts][:2] == ["_a", "$x$"]
    assert 5 < len(texts[2].get_text()) < 60
    assert not any(text.get_parse_math() for text in texts)


def test_the_docs_name_every_column_and_key(run_cli, pair):
    text = (Path(__file__).parents[1] / "docs" / "probe.md").read_text()
    columns, keys = (text.partition(f"### {name}\n")[2].partition("\n### ")[0] for name in ("The CSV file", "JSON"))
    out = run_cli("probe", *pair, "--csv", "found.csv", "--json")[1]
    found = json.loads(out)
    with Path("found.csv").open() as file:
        (row, _) = csv.DictReader(file)
    names = {re.sub("_(low|high)$", "", name) for name in row}
    assert names == set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", columns, re.MULTILINE))))
    keys = keys.partition("From Python")[0]
    probes, comparisons = (
        set(re.findall(r"`(\w+)`", "".join(re.findall(r"^\| (`.*?) \|", part, re.MULTILINE))))
        for part in keys.split("| key of a comparison |")
    )
    assert (probes, comparisons) == (set(found["probes"][0]), set(found["comparisons"][0]))
    assert all(f"`{key}`" in keys for key in found["probes"][0]["trials"][0])


def test_shots_are_numbers_with_spaces(run_cli, small):
    assert_one_line(run_cli("probe", small[0], "--shots", "1,2"), "separate numbers by spaces: --shots 1 2")
    assert_one_line(
        run_cli("probe", small[0], "--shots", "0"), "shots 0: not different whole numbers of at least 1; pass some"
    )
    assert_one_line(run_cli("probe", small[0], "--shots"), "shots without a number: not different whole numbers of")
    assert_one_line(run_cli("probe", small[0], "--seeds", "3"), "--seeds draws the rows of --shots; add --shots, or")
    assert_one_line(run_cli("probe", small[0], "--shots", "1", "--seeds", "0"), "--seeds 0 draws no rows; pass a numbe")
    assert not Path("runs").exists()


def test_features_that_are_given_twice(run_cli, small):
    assert_one_line(run_cli("probe", small[0], small[0]), f"{small[0]} is given twice; leave one out")


def test_ridge_says_that_it_standardizes(run_cli, small):
    note = "note: ridge standardizes the features in any case, as its original does\n"
    assert note in run_cli("probe", small[0], "--recipe", "ridge")[1]
    assert note not in run_cli("probe", small[0], "--recipe", "ridge", "--normalize", "standardize")[1]
    assert note not in run_cli("probe", small[0], "--recipe", "nearest-mean")[1]


def test_points_that_are_not_converged_are_named(small, monkeypatch):
    from onelayer.experiments.probe import logistic, probing

    monkeypatch.setattr(logistic, "MOST_PASSES", 2)
    monkeypatch.setattr(logistic, "WEAK_PASSES", 2)
    splits, _ = load_features(small[0])
    found = probing.probe(splits)
    loose = [trial for trial in found.outcome.trials if not trial.converged]
    assert 0 < len(loose) < 45
    (note,) = [note for note in found.notes() if note.startswith("not converged")]
    assert f"{len(loose)} of 45 values of C, the smallest {number(loose[0].value)}; C " in note
    assert f", which was chosen, is {'not ' * (not found.outcome.chosen.converged)}converged" in note
    monkeypatch.setattr(logistic, "WEAK_PASSES", 1)
    monkeypatch.setattr(logistic, "MOST_PASSES", 1)
    notes = probing.probe(splits).notes()
    assert any("gaps: 45 of 45 values of C; C " in note and note.endswith("chosen, is not converged") for note in notes)
    (final,) = [note for note in notes if "the final fit" in note]
    assert "larger gap" not in final
    assert "fits mostly need fewer passes with --normalize standardize, and for a smaller C" in notes


def test_small_lambdas_have_few_passes(small, monkeypatch):
    from onelayer.experiments.probe import logistic

    splits, _ = load_features(small[0])
    monkeypatch.setattr(logistic, "WEAK_L2", l2_of(0.02, splits.train))
    monkeypatch.setattr(logistic, "WEAK_PASSES", 1)
    trials = probe(splits).outcome.trials
    weak = [trial for trial in trials if trial.value > 0.02]
    assert max(trial.passes for trial in weak) <= 1 < max(trial.passes for trial in trials if trial not in weak)
    assert not all(trial.converged for trial in weak) and all(trial.converged for trial in trials if trial not in weak)


def test_the_screen_says_of_each_value_whether_it_converged(run_cli, small, monkeypatch):
    from onelayer.experiments.probe import logistic

    out = run_cli("probe", small[0])[1]
    assert re.findall(r"^ *([\d,.e-]+) +\d+\.\d\d % +[\d.]+ +(yes|no)$", out, re.MULTILINE) == [
        (number(C), "yes") for C in DINO
    ]
    assert "\n    1,000 " in out and "\n 3.162e-6 " in out and "\n    0.001 " in out
    monkeypatch.setattr(logistic, "MOST_PASSES", 1)
    assert len(re.findall(r"^ *[\d,.e-]+ +\d+\.\d\d % +[\d.]+ +no$", run_cli("probe", small[0])[1], re.MULTILINE)) > 5


def test_validation_rows_that_cannot_choose(run_cli, tmp_path):
    rng = np.random.default_rng(5)
    y = np.arange(20)
    np.savez("single.npz", X=rng.normal(size=(20, 6)).astype(np.float32), y=y)
    out = run_cli("probe", "single.npz")[1]
    words = "all 45 values of C are right on 0.00 % of 2 validation rows; C 1e-6 is the smallest, the strongest penalty"
    assert f"note: the validation rows could not choose: {words}\n" in out
    assert "a better one may lie beyond it" not in out
    # Wilson's interval of a half of n rows is z / sqrt(n + z^2) wide.
    width = 100 * 1.96 / np.sqrt(2 + 1.96**2)
    assert (
        f"2 validation rows alone chose: the 95 % interval of an accuracy on them is up to {width:.0f} points wide"
        in out
    )
    assert "20 of 20 classes have at most one row to train and validate on (0, 1, 2, " in out
    out = run_cli("probe", "single.npz", "--recipe", "ridge")[1]
    assert "20 of 20 classes have at most one row" in out and "alone chose" not in out


def test_of_equal_values_the_smallest_is_chosen(run_cli, tmp_path):
    y = np.arange(700) % 2
    X = (np.random.default_rng(6).normal(size=(700, 3)) + 20 * y[:, None]).astype(np.float32)
    np.savez("easy.npz", X=X, y=y)
    code, out, _ = run_cli("probe", "easy.npz", "--html", "page.html")
    assert code == 0
    equal = re.search(r"C (\S+), the smallest of (\d+) equal ones, which has the strongest penalty; fitted again", out)
    assert 1 < int(equal[2]) <= len(re.findall(r" 100\.00 % .* (?:yes|no)\n", out)) <= 45
    assert "alone chose" not in out and "at most one row" not in out
    assert "the smallest of the best, which has the strongest penalty" in Path("page.html").read_text()


def test_shots_that_a_class_does_not_have(run_cli, small, pair):
    counts = np.bincount(load_features(small[0])[0].train.labels)
    words = f"shots 1000: the class {counts.argmin()} has {counts.min()} training rows; pass at most {counts.min()}"
    assert_one_line(run_cli("probe", small[0], "--shots", "1", "1000"), words)
    out = run_cli("probe", small[0], "--recipe", "knn", "--shots", str(counts.min()), "--csv", "-")[1]
    assert {row["train_rows"] for row in csv.DictReader(out.splitlines())} == {str(3 * counts.min())}
    out = run_cli("probe", small[0], "--shots", "1", "--seeds", "2")[1]
    assert "note: 30 validation rows alone chose: the 95 % interval" in out


def test_the_rows_of_a_probe(tmp_path, small):
    """A tenth of the training rows of each class validate; a source's own validation rows are taken as they are."""
    path, X, y = small
    splits, _ = load_features(path)
    assert np.bincount(splits.validation.labels).tolist() == [
        pytest.approx(np.count_nonzero(y[:300] == k) / 10, abs=1) for k in range(3)
    ]
    np.savez(tmp_path / "all.npz", X=X, y=y)
    splits, _ = load_features(str(tmp_path / "all.npz"))
    assert [len(split) for split in splits] == [288, 32, 80]
    np.savez(tmp_path / "own.npz", X_train=X[:200], y_train=y[:200], X_val=X[200:], y_val=y[200:], X_test=X, y_test=y)
    splits, _ = load_features(str(tmp_path / "own.npz"))
    assert [len(split) for split in splits] == [200, 200, 400]


def test_bad_input(run_cli, tmp_path, small):
    _, X, y = small
    np.savez("one.npz", X_train=X, y_train=np.zeros(400, int), X_test=X[:4], y_test=np.zeros(4, int))
    assert_one_line(run_cli("probe", "one.npz"), "the training rows are of one class only, 0; a probe needs two")
    np.savez("no-labels.npz", X_train=X)
    assert_one_line(run_cli("probe", "no-labels.npz"), "is there without labels")
    X[5, 2] = np.nan
    np.savez("nan.npz", X_train=X, y_train=y, X_test=X[:4], y_test=y[:4])
    assert_one_line(run_cli("probe", "nan.npz"), "row 5, column 2 is nan")
    assert_one_line(run_cli("probe", "nothing.npz"), "no such file or folder")
    assert_one_line(run_cli("probe", "one.npz", "--json", "--csv", "-"), "--json and --csv - both print")
    assert not Path("runs").exists()


def test_devices_that_a_probe_cannot_be_on(run_cli, small, monkeypatch):
    refused = run_cli("probe", small[0], "--device", "gpu")
    assert_one_line(refused, "device 'gpu' is not auto, cpu, cuda, cuda:N for GPU number N, or mps")
    refused = run_cli("probe", small[0], "--recipe", "ridge", "--device", "cuda:9")
    assert_one_line(refused, "the recipe ridge is computed by NumPy; leave --backend and --device out, or take dino or")
    assert run_cli("probe", small[0], "--recipe", "ridge", "--device", "cpu", "--out", "run")[0] == 0
    if find_spec("torch"):
        refused = run_cli("probe", small[0], "--device", "cuda:9")
        assert_one_line(refused, "PyTorch finds no device cuda:9 here.*; take --device")
        monkeypatch.setattr(devices, "devices_here", lambda: ["mps", "cpu"])
        refused = run_cli("probe", small[0], "--backend", "torch")
        assert_one_line(refused, "a probe ends in float64, which the device mps does not have; take --device cpu")
    assert not Path("runs").exists()
