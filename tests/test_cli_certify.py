"""The certificate of a run, against the lowest cost that scipy finds: certify, train, resume, evaluate, report."""

import csv
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from helpers import assert_one_line, toy_dataset
from safetensors.numpy import load_file
from scipy.optimize import minimize
from scipy.special import expit as sigmoid
from scipy.special import log_expit, log_softmax, softmax

from onelayer import Run, SplitConfig, TrainConfig
from onelayer.analysis import certification
from onelayer.analysis.certification import certify_closely, certify_model
from onelayer.data.protocols import split
from onelayer.files import write_json
from onelayer.losses import SoftmaxCrossEntropy
from onelayer.training.train import train

GOLDEN = Path(__file__).parent / "golden"
SGD = ["--learning-rate", "0.01", "--epochs", "4", "--l2", "0.05"]
CONVERGED = ["--solver", "converged", "--l2", "0.05"]
ALL_ROWS = ["--flip", "--class-weight", "balanced"]


@pytest.fixture
def images(run_cli):
    """Pictures of 4 classes, one of which is rare; left and right differ, and a pixel at the left is constant."""
    rng = np.random.default_rng(3)
    y = rng.choice(4, 260, p=[0.4, 0.3, 0.2, 0.1])
    X = rng.uniform(60, 200, (4, 4, 5, 3))[y] + rng.normal(0, 60, (260, 4, 5, 3))
    X[:, :, :2] *= 0.6
    X[:, 0, 0, 0] = 3
    X = X.clip(0, 255).astype(np.uint8)
    np.savez("images.npz", X_train=X[:200], y_train=y[:200], X_test=X[200:], y_test=y[200:])
    return Path("images.npz")


@pytest.fixture
def train_run(run_cli, images):
    """``train_run(*options)`` -> what training printed into the run directory ``run``."""

    def run(*options):
        command = ["train", "--data", images, "--out", "run", "--no-figures", "--overwrite", *options]
        code, out, err = run_cli(*command)
        assert (code, err) == (0, "")
        return out

    return run


class ByHand:
    """The cost of the training rows of a run as its settings count them, from the numbers in its files alone."""

    def __init__(self, run):
        summary, self.tensors = json.loads((run / "summary.json").read_text()), load_file(run / "model.safetensors")
        config, train = summary["config"], Run.open(run).read_checkpoint()[0].load_splits().train
        R, y = train.rows(slice(None)).astype(float), train.labels
        if config["flip"]:
            R, y = np.concatenate([R, R.reshape(-1, 3, 4, 5)[..., ::-1].reshape(R.shape)]), np.tile(y, 2)
        self.w = 1 / np.bincount(y)[y] if config["class_weight"] == "balanced" else np.ones(len(y))
        self.w /= self.w.sum()
        varies = R.std(axis=0) > 0
        self.X = ((R - self.tensors["mean"]) / self.tensors["scale"])[:, varies]
        self.Y, self.l2, self.loss = np.eye(4)[y], config["l2"], config["loss"]
        self.weights, self.bias = self.tensors["weights"][varies].astype(float), self.tensors["bias"].astype(float)
        assert not self.tensors["weights"][~varies].any()

    def cost(self, W, b):
        S = self.X @ W + b
        if self.loss == "softmax":
            losses = -(self.Y * log_softmax(S, axis=1)).sum(axis=1)
        else:
            losses = -log_expit((2 * self.Y - 1) * S).mean(axis=1)
        return self.w @ losses + self.l2 * (W**2).sum()

    def gradient(self, W, b):
        S = self.X @ W + b
        P = softmax(S, axis=1) if self.loss == "softmax" else sigmoid(S)
        G = (P - self.Y) * self.w[:, None] / (1 if self.loss == "softmax" else 4)
        return np.vstack([self.X.T @ G + 2 * self.l2 * W, G.sum(axis=0)])

    @property
    def own(self):
        return self.cost(self.weights, self.bias)

    @property
    def lowest(self):
        def of(flat):
            T = flat.reshape(-1, 4)
            return self.cost(T[:-1], T[-1]), self.gradient(T[:-1], T[-1]).ravel()

        start = np.zeros((self.X.shape[1] + 1) * 4)
        options = {"maxiter": 5000, "ftol": 1e-15, "gtol": 1e-9}
        found = minimize(of, start, jac=True, method="L-BFGS-B", options=options)
        assert np.abs(found.jac).max() < 1e-6
        return found.fun


@pytest.mark.parametrize("options", [[], ALL_ROWS, ["--loss", "sigmoid", *ALL_ROWS]], ids=["plain", "all", "sigmoid"])
@pytest.mark.parametrize("solver", [SGD, CONVERGED], ids=["sgd", "converged"])
def test_certify_finds_the_distance_to_the_optimum(run_cli, train_run, solver, options, tmp_path):
    train_run(*solver, *options)
    code, out, err = run_cli("certify", "run")
    assert (code, err) == (0, "")
    found = json.loads(run_cli("certify", "run", "--json")[1])
    by_hand = ByHand(tmp_path / "run")
    assert found["cost"] == pytest.approx(by_hand.own, rel=1e-9)
    above = by_hand.own - by_hand.lowest
    assert found["own_bound"] <= found["bound"] <= by_hand.lowest + 1e-9
    assert above <= found["gap"] + 1e-9
    assert found["gap"] < above + 2e-4 * by_hand.lowest
    assert (above > 1e-3 * by_hand.lowest) == (solver is SGD)
    assert (found["bound"] > found["own_bound"]) == (solver is SGD)
    assert found["relative_gap"] == pytest.approx(found["gap"] / found["bound"])
    assert found["gradient"] == pytest.approx(
        np.linalg.norm(by_hand.gradient(by_hand.weights, by_hand.bias)[:-1]), rel=1e-6, abs=1e-9
    )
    lines = out.splitlines()
    assert lines[0] == found["sentence"]
    assert lines[0].startswith(f"cost {found['cost']:.4f}, at most ")
    assert lines[0].endswith(" above the best possible for lambda 0.05")
    both = " and their mirror images, weighted by class" if options else ""
    assert found["rows"] == f"160 training rows of images{both}"
    assert lines[1] == f"the cost is that of {found['rows']}"
    assert len(lines) == (3 if solver is SGD else 2)
    assert "plus lambda (--l2) times the sum of the squared weights" in " ".join(
        run_cli("certify", "--help")[1].split()
    )
    if solver is SGD:
        assert lines[2].startswith("another layer, near the optimum, was looked for to prove it; ")
        alone = float(lines[2].rpartition(" ")[2])
        assert 0 <= alone - (found["cost"] - found["own_bound"]) <= 1e-4


def test_without_a_penalty_it_says_so(run_cli, train_run):
    out = train_run("--learning-rate", "0.01", "--epochs", "2")
    assert "cost " not in out.splitlines()[-2]
    assert "certificate" not in Run.open("run").summary
    code, out, _ = run_cli("certify", "run")
    assert code == 0
    assert "; no layer with ||W|| <= " in out.splitlines()[0]
    assert json.loads(run_cli("certify", "run", "--json")[1])["l2"] == 0


def test_a_converged_run_is_told_in_iterations(train_run):
    out = train_run(*CONVERGED, "--class-weight", "balanced")
    assert "iteration   1  cost at most about " in out
    assert "(160 training rows of images, weighted by class; in the tables, all rows count alike)" in out
    rows = list(csv.DictReader(Path("run/history.csv").read_text().splitlines()))
    assert rows[0]["learning_rate"] == rows[0]["test_accuracy"] == "" != rows[0]["gap"]
    assert np.isnan(Run.open("run").history["learning_rate"]).all()
    assert "figures of the iterations: rows weighted by class" in out
    assert "epoch" not in out
    assert "without a penalty" not in out
    out = train_run("--solver", "converged")
    assert out.index("note: without a penalty (--l2 0), the optimum fits the training rows alone") < out.index("iter")
    assert "iteration   1  train " in out
    assert " inf " not in out


def test_without_a_penalty_no_other_bound_is_looked_for(train_run):
    train_run("--learning-rate", "0.05", "--epochs", "10")
    run = Run.open("run")
    plan, _ = run.read_checkpoint()
    found, own = certify_closely(run.model, plan.load_splits(), plan.config)
    assert own.gap > certification.WEAK * own.cost, "with a penalty, it would be"
    assert found is own
    summary = certification.certificate_summary(replace(own, bound=0.0))
    assert summary["relative_gap"] is None, "JSON knows no infinity"
    assert summary["gap"] > own.cost


def test_training_without_a_penalty_certifies_nothing(train_run, monkeypatch):
    def refuse(*_):
        raise AssertionError

    monkeypatch.setattr(certification, "certify", refuse)
    train_run("--learning-rate", "0.01", "--epochs", "2")
    with pytest.raises(AssertionError):
        train_run(*SGD)


@pytest.mark.parametrize("solver", [SGD, CONVERGED], ids=["sgd", "converged"])
def test_training_says_it_and_writes_it_down(run_cli, train_run, solver):
    out = train_run(*solver)
    run = Run.open("run")
    recorded, (plan, _) = run.summary["certificate"], run.read_checkpoint()
    found = certify_model(run.model, plan.load_splits(), plan.config)
    assert {name: recorded[name] for name in vars(found)} == vars(found)
    assert recorded["gap"] == found.gap
    line = f"{found.sentence()} (160 training rows of images)"
    lines = out.splitlines()
    assert line in lines
    weak = "note: far from the optimum, the bound of a layer itself is weak; onelayer certify run looks for a better"
    assert (f"{weak} one" in lines) == (solver is SGD)
    assert line in run_cli("resume", "run", "--no-figures")[1].splitlines()
    assert run.summary["certificate"] == recorded
    if solver is SGD:
        run_cli("resume", "run", "--no-figures", "--epochs", "5")
        assert run.summary["certificate"]["cost"] < recorded["cost"]


def test_evaluate_on_the_training_rows_says_it(run_cli, train_run, images, tmp_path):
    train_run(*SGD)
    recorded = Run.open("run").summary["certificate"]
    code, out, _ = run_cli("evaluate", "run", "--split", "train")
    assert code == 0
    assert f"{recorded['sentence']} ({recorded['rows']})" in out
    assert json.loads(run_cli("evaluate", "run", "--split", "train", "--json")[1])["certificate"] == recorded
    for others in (["--split", "test"], ["--split", "all"]):
        assert "above the best possible" not in run_cli("evaluate", "run", *others)[1]
        assert "certificate" not in json.loads(run_cli("evaluate", "run", *others, "--json")[1])
    images.rename("moved.npz")
    assert_one_line(run_cli("certify", "run"), "the data of this run are not there; if they were moved, pass --data")
    assert recorded["sentence"] in run_cli("evaluate", "run", "--split", "train", "--data", "moved.npz")[1]
    assert run_cli("certify", "run", "--data", "moved.npz")[0] == 0


def test_the_converged_solver_says_that_it_was_stopped(run_cli, train_run):
    out = train_run(*CONVERGED, "--flip", "--dtype", "float64")
    assert "not converged" not in out
    assert " iterations (" in out
    out = train_run(*CONVERGED, "--tol", "1e-7", "--max-passes", "3")
    *_, said, note = (line for line in out.splitlines() if line.startswith("note: "))
    assert said.startswith("note: not converged: the gap was not reached in 3 passes over the rows; ")
    gap = 100 * Run.open("run").summary["certificate"]["relative_gap"]
    asked = "% of the bound, and tol asks for 0.00001 %; go on with: "
    assert note == f"note: the gap is {gap:.2g} {asked}onelayer resume run --max-passes 6"
    out = run_cli("resume", "run", "--no-figures")[1]
    assert "2 iterations done, the gap was not reached" in out
    assert "pass --epochs" not in out
    out = run_cli("resume", "run", "--no-figures", "--max-passes", "6")[1]
    assert "not converged" not in out and "go on with" not in out, "six passes are enough"
    assert "epoch" not in out
    for epochs in ("9", "auto"):
        refused = run_cli("resume", "run", "--epochs", epochs)
        assert_one_line(refused, "run has no epochs: the solver converged goes on to its end; leave out --epochs")
        assert refused[1] == ""
    out = run_cli("runs", "run")[1]
    assert "l2 0.05" in out
    assert "epochs" not in out


def test_gaps_of_any_size_are_said_without_exponents(train_run):
    out = train_run(*CONVERGED, "--tol", "1e-15")
    assert "% of the bound, and tol asks for 0.0000000000001 %; rounding hides the rest, and --dtype float64" in out
    out = train_run("--solver", "converged", "--l2", "1e-5", "--max-passes", "1")
    assert "note: the gap is above 100 % of the bound, and tol asks for 0.01 %; go on with: " in out
    assert "test accuracy after iteration 1: " in out
    assert "epoch" not in out


def test_old_runs_have_a_certificate(run_cli, tmp_path):
    shutil.copytree(GOLDEN / "run", tmp_path / "old")
    code, out, err = run_cli("certify", "old")
    assert (code, err) == (0, "")
    cost = json.loads((tmp_path / "old" / "summary.json").read_text())["results"]["train"]["cost"]
    assert out.startswith(f"cost {cost:.4f}; no layer with ||W|| <= ")


def test_what_cannot_be_certified_is_one_line(run_cli, train_run, tmp_path):
    assert_one_line(run_cli("certify", "missing"), "missing: no such run directory")
    train_run(*SGD)
    assert_one_line(run_cli("certify", "run", "--data", "digits"), "is not the data of this run")
    assert_one_line(run_cli("certify", "run", "--split", "test"), "unknown option --split")
    model = tmp_path / "run" / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    assert_one_line(run_cli("certify", "run"), "model.safetensors: damaged")


def test_a_layer_that_has_no_bound_is_refused(run_cli, train_run, monkeypatch):
    train_run(*SGD)
    monkeypatch.setattr(SoftmaxCrossEntropy, "dual", None)
    words = "no bound on the lowest cost is known for the loss softmax"
    assert_one_line(run_cli("certify", "run"), words)
    code, out, _ = run_cli("evaluate", "run", "--split", "train")
    assert code == 0
    assert f"note: without a certificate: {words}" in " ".join(out.split())
    assert "best possible" not in train_run(*SGD)
    assert "certificate" not in Run.open("run").summary


def test_the_rows_tell_weights_of_rows_from_those_of_classes():
    dataset = toy_dataset(60)
    for own in (False, True):
        weights = np.linspace(0.5, 1.5, len(dataset.labels)) if own else None
        splits = split(replace(dataset, row_weights=weights), SplitConfig())
        for by_class in ("none", "balanced"):
            for flip in (False, True):
                config = TrainConfig(solver="converged", l2=0.1, class_weight=by_class, flip=flip)
                model = train(splits, config).model
                found = certify_model(model, splits, config).rows
                kind = f"{len(splits.train)} {'weighted ' * own}training rows of toy"
                ends = " and their mirror images" * flip + ", weighted by class" * (by_class == "balanced")
                assert found == kind + ends


def test_certify_says_how_far_it_is(train_run, monkeypatch):
    monkeypatch.setattr("onelayer.training.certificate.forward_windows", lambda split: np.split(np.arange(160), 4))
    train_run(*SGD, *ALL_ROWS)
    run, told = Run.open("run"), []
    plan, _ = run.read_checkpoint()
    splits = plan.load_splits()
    certify_closely(run.model, splits, plan.config, lambda *of: told.append(of))
    quarters = [(done, 4, "") for done in (1, 2, 3, 4)]
    assert told[:4] == told[-4:] == quarters
    assert len(told) > 10
    for done, total, words in told[4:-4]:
        assert (done, total) == (0, None)
        assert words.startswith("looking for a better bound, ")
    told.clear()
    certify_model(run.model, splits, plan.config, lambda *of: told.append(of))
    assert told == [(done, 4) for done in (1, 2, 3, 4)]


def test_a_bound_of_rows_on_disk_holds_too(run_cli, train_run, tmp_path, monkeypatch):
    train_run(*SGD, *ALL_ROWS)
    run, by_hand = Run.open("run"), ByHand(tmp_path / "run")
    plan, _ = run.read_checkpoint()
    near, own = certify_closely(run.model, plan.load_splits(), plan.config)
    monkeypatch.setattr(certification, "memory_map_of", lambda rows: rows)
    found, _ = certify_closely(run.model, plan.load_splits(), plan.config)
    assert own.bound < found.bound < near.bound <= by_hand.lowest


def test_the_report_says_whose_weights_count(run_cli, train_run):
    train_run(*CONVERGED, "--class-weight", "balanced")
    assert run_cli("report", "run", "--out", "r.html")[0] == 0
    page = Path("r.html").read_text()
    assert "(160 training rows of images, weighted by class; in the tables, all rows count alike)." in page
    assert page.count("In this curve, rows are weighted by class.") == 3


def test_the_report_says_it(run_cli, train_run):
    train_run(*SGD)
    run = Run.open("run")
    recorded = run.summary["certificate"]

    def page():
        assert run_cli("report", "run", "--out", "r.html")[0] == 0
        return Path("r.html").read_text()

    said = f"{recorded['sentence']} ({recorded['rows']}). This is proven: "
    assert said in page()
    without = {name: value for name, value in run.summary.items() if name != "certificate"}
    hostile = recorded | {"sentence": "<script>alert(1)</script>" + 999 * "x", "rows": None}
    write_json(run.summary_path, without | {"certificate": hostile})
    found = page()
    assert "&lt;script&gt;alert(1)" in found
    assert "<script>alert" not in found
    assert 999 * "x" not in found
    write_json(run.summary_path, without | {"certificate": ["no table"]})
    assert said in page()


def test_the_report_of_a_converged_run_speaks_of_iterations(run_cli, train_run):
    train_run("--solver", "converged", "--l2", "0")
    assert run_cli("report", "run", "--out", "r.html")[0] == 0
    found = Path("r.html").read_text()
    assert "Without a penalty there is no bound for all weights" in found
    assert "Loss by iteration" in found
    assert "epoch" not in found
    assert "learning rate" not in found
