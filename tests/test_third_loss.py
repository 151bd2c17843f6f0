"""A loss that is written here goes through every command, and no code knows a loss by its name."""

import ast
import importlib.util
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from array_api_compat import array_namespace
from helpers import assert_one_line, coursework, model_of, rows_for, toy_splits
from PIL import Image
from safetensors.numpy import load_file
from scipy.optimize import minimize
from scipy.special import softmax

import onelayer
from onelayer import Model, SoftmaxClassifier, TrainConfig, check_gradients
from onelayer.errors import DataError
from onelayer.export import to_logistic_regression, to_numpy, to_onnx
from onelayer.losses import LOSSES, Loss, SoftmaxCrossEntropy, one_hot
from onelayer.runs.directory import Run
from onelayer.training.train import train


class SquaredHinge(Loss):
    """K yes-or-no questions with a margin: loss = mean over k of max(0, 1 - Z_k)^2, Z = S for the true class, else -S.

    Its mean is least where S = 2 P - 1, hence P = (1 + S) / 2, cut to 0..1.
    """

    name = "hinge"
    words = "one squared hinge per class"
    exclusive = False
    margin = 1.0
    numpy = "    return np.clip((1 + S) / 2, 0, 1)"
    onnx = ("HardSigmoid", {"alpha": 0.5, "beta": 0.5})

    def probabilities(self, S):
        return array_namespace(S).clip((1 + S) / 2, 0, 1)

    def log_shares(self, S):
        return S

    def of_rows(self, S, y):
        xp = array_namespace(S)
        shortfall = 1 - xp.where(one_hot(y, S.shape[1]), S, -S)
        return xp.sum(xp.where(xp.real(shortfall) > 0, shortfall, 0.0) ** 2, axis=1) / S.shape[1]

    def residual(self, S, y):
        xp = array_namespace(S)
        sign = xp.where(one_hot(y, S.shape[1]), -1.0, 1.0)
        return 2 * xp.astype(sign, S.dtype) * xp.clip(1 + sign * S, 0, None) / (S.shape[0] * S.shape[1])

    def of_guessing(self, K):
        return ((2 - 2 / K) ** 2 + (K - 1) * (2 / K) ** 2) / K

    def curvature(self, K):
        return 2 / K


class SmoothedSoftmax(SoftmaxCrossEntropy):
    """Softmax cross-entropy with the labels 0.9 Y + 0.1 / K."""

    name = "smoothed"
    words = "softmax cross-entropy with smoothed labels"

    @staticmethod
    def pytorch(functional, S, y):
        return functional.cross_entropy(S, y, label_smoothing=0.1)

    def of_rows(self, S, y):
        xp = array_namespace(S)
        of_classes = [super(SmoothedSoftmax, self).of_rows(S, xp.full_like(y, k)) for k in range(S.shape[1])]
        return 0.9 * super().of_rows(S, y) + 0.1 * sum(of_classes) / S.shape[1]

    def residual(self, S, y):
        n, K = S.shape
        return super().residual(S, y) + 0.1 * array_namespace(S).astype(one_hot(y, K), S.dtype) / n - 0.1 / (n * K)

    def of_guessing(self, K):
        return float(np.log(K))


@pytest.fixture(params=[SquaredHinge, SmoothedSoftmax], ids=lambda kind: kind.name)
def third(request, monkeypatch):
    """A loss beside the others, for the time of a test."""
    loss = request.param()
    monkeypatch.setitem(LOSSES, loss.name, loss)
    return loss


@pytest.fixture
def hinge(monkeypatch):
    monkeypatch.setitem(LOSSES, "hinge", SquaredHinge())


@pytest.fixture
def smoothed(monkeypatch):
    monkeypatch.setitem(LOSSES, "smoothed", SmoothedSoftmax())


def answers_by_hand(run, rows, labels, loss):
    """Probabilities (n, K) and the mean loss, from the numbers in a model file."""
    tensors = load_file(run / "model.safetensors")
    S = (rows - tensors["mean"]) / tensors["scale"] @ tensors["weights"].astype(float) + tensors["bias"]
    Y = np.eye(S.shape[1])[labels]
    if loss == "hinge":
        return np.clip((1 + S) / 2, 0, 1), np.mean(np.maximum(0, 1 - (2 * Y - 1) * S) ** 2)
    P = softmax(S, axis=1)
    return P, -np.mean(np.sum((0.9 * Y + 0.1 / S.shape[1]) * np.log(P), axis=1))


def test_from_training_to_the_report(third, run_cli, tiny_cifar, tiny_batches, tmp_path):
    options = ["--data", tiny_cifar, "--loss", third.name, "--learning-rate", "0.002", "--no-figures", "--quiet"]
    assert run_cli("train", *options, "--epochs", "6", "--out", "whole") == (0, "", "")
    summary = json.loads((tmp_path / "whole" / "summary.json").read_text())
    assert (summary["config"]["loss"], summary["backend"]) == (third.name, "numpy")
    results = summary["results"]
    assert 0.4 < results["test"]["accuracy"] < 0.95
    first, *_, last = Run.open(tmp_path / "whole").read_checkpoint()[1].history
    assert results["train"]["loss"] == last.train_loss < 0.9 * first.train_loss

    assert run_cli("train", *options, "--epochs", "2", "--out", "resumed")[0] == 0
    assert run_cli("resume", "resumed", "--epochs", "6", "--no-figures", "--quiet")[0] == 0
    whole, resumed = ((tmp_path / run / "model.safetensors").read_bytes() for run in ("whole", "resumed"))
    assert whole == resumed

    rows, labels = tiny_batches["test_batch"]
    P, loss = answers_by_hand(tmp_path / "whole", rows, labels, third.name)
    assert results["test"]["loss"] == pytest.approx(loss, rel=1e-5)
    code, out, err = run_cli("evaluate", "whole", "--json")
    assert (code, err) == (0, "")
    assert json.loads(out)["loss"] == pytest.approx(loss, rel=1e-5)

    np.save("rows.npy", rows[:5])
    code, out, err = run_cli("predict", "whole", "rows.npy", "--json", "--top", "10")
    assert (code, err) == (0, "")
    names = Run.open(tmp_path / "whole").model.class_names
    for answer, p in zip(json.loads(out), P, strict=False):
        assert [answer["probabilities"][name] for name in names] == pytest.approx(p, abs=1e-5)

    assert run_cli("figures", "whole")[0] == 0
    code, out, err = run_cli("report", "whole", "-o", "report.html")
    assert (code, err) == (0, "")
    page = (tmp_path / "report.html").read_text()
    assert f"--loss {third.name}" in page
    assert ("has no PyTorch reference" in page) == (third.pytorch is None)


def test_an_explanation_shows_its_probabilities(hinge, run_cli, tiny_cifar, tiny_batches, tmp_path):
    options = ["--data", tiny_cifar, "--loss", "hinge", "--learning-rate", "0.002", "--no-figures", "--quiet"]
    assert run_cli("train", *options, "--epochs", "2", "--out", "run")[0] == 0
    rows, labels = tiny_batches["test_batch"]
    Image.fromarray(rows[0].reshape(3, 32, 32).transpose(1, 2, 0)).save("0.png")
    code, out, err = run_cli("explain", "run", "0.png", "-o", "why.png", "--top", "1")
    assert (code, err) == (0, "")
    P, _ = answers_by_hand(tmp_path / "run", rows, labels, "hinge")
    assert f"{100 * P[0].max():.2f} %" in out


def test_its_gradients_are_checked(third, run_cli):
    code, out, err = run_cli("check", "--data", "digits", "--classes", "3", "--n-features", "5")
    assert (code, err) == (0, "")
    rows = [line.split() for line in out.splitlines() if line.startswith(third.name)]
    has_torch = importlib.util.find_spec("torch") is not None
    assert ("PyTorch" in {row[3] for row in rows}) == (third.pytorch is not None and has_torch)
    assert ("note: PyTorch is not compared: the loss hinge has no PyTorch reference" in out) == (third.name == "hinge")
    assert {" ".join(row[3:5]) for row in rows} >= {"complex step", "central differences"}


def test_a_wrong_residual_is_caught(third, monkeypatch):
    rng = np.random.default_rng(0)
    X, y = rng.standard_normal((4, 5)), rng.integers(0, 3, 4)
    assert check_gradients(X, y, n_classes=3, loss=third.name).passed
    right = type(third).residual
    monkeypatch.setattr(type(third), "residual", lambda self, S, y: right(self, S, y) * 1.000001)
    assert not check_gradients(X, y, n_classes=3, loss=third.name).passed


def test_its_curvature_is_a_bound(third):
    rng = np.random.default_rng(0)
    for K in (2, 5):
        for s in 3 * rng.standard_normal((20, K)):
            steps = s + 1e-6 * np.eye(K)
            of_steps = [third.residual(row[None], np.array([0]))[0] for row in (*steps, s)]
            hessian = (np.array(of_steps[:-1]) - of_steps[-1]) / 1e-6
            assert np.linalg.eigvalsh(hessian).max() <= third.curvature(K) * (1 + 1e-4)


@pytest.mark.parametrize("shape", [(3, 4, 5), None])
def test_exported_for_onnx_and_numpy(third, shape, tmp_path):
    model = model_of(third.name, shape)
    assert (tmp_path / "model").write_bytes(model.to_bytes())
    assert Model.load(tmp_path / "model").layer.loss is third
    rows = rows_for(model)
    P = model.probabilities(rows)
    assert np.ptp(P, axis=0).min() > 0.3
    script, numbers = to_numpy(model)
    (tmp_path / "predict.py").write_text(script)
    (tmp_path / "predict.npz").write_bytes(numbers)
    np.save(tmp_path / "rows.npy", rows)
    program = (
        "import runpy, numpy as np; np.save('P', runpy.run_path('predict.py')['probabilities'](np.load('rows.npy')))"
    )
    subprocess.run([sys.executable, "-I", "-c", program], cwd=tmp_path, check=True)
    assert np.load(tmp_path / "P.npy") == pytest.approx(P, abs=1e-6)
    pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    session = runtime.InferenceSession(to_onnx(model), providers=["CPUExecutionProvider"])
    (given,) = session.get_inputs()
    (found,) = session.run(["probabilities"], {given.name: rows.reshape(-1, *given.shape[1:])})
    assert found == pytest.approx(P, abs=1e-5)


def test_for_scikit_learn_if_its_probabilities_are_a_softmax(smoothed, hinge):
    model = model_of("smoothed")
    order = np.argsort(np.argsort(model.class_names))
    found = to_logistic_regression(model).predict_proba(rows_for(model))[:, order]
    assert found == pytest.approx(model.probabilities(rows_for(model)), abs=1e-6)
    with pytest.raises(DataError, match=r"the loss hinge has other probabilities; export the model for ONNX or NumPy$"):
        to_logistic_regression(model_of("hinge"))


def test_what_has_no_operator_and_no_text_is_refused_in_words(hinge, monkeypatch):
    monkeypatch.setattr(SquaredHinge, "onnx", None)
    monkeypatch.setattr(SquaredHinge, "numpy", None)
    with pytest.raises(DataError, match=r"^the probabilities of the loss hinge cannot be exported as a NumPy script$"):
        to_numpy(model_of("hinge"))
    pytest.importorskip("onnx")
    with pytest.raises(DataError, match=r"^ONNX has no operator for the probabilities of the loss hinge$"):
        to_onnx(model_of("hinge"))


@pytest.mark.parametrize("K", [2, 3])
def test_the_estimator_finds_the_optimum_of_another_solver(hinge, K):
    rng = np.random.default_rng(K)
    y = np.arange(90) % K
    X = rng.standard_normal((K, 4))[y] + rng.standard_normal((90, 4))
    X = (X - X.mean(axis=0)) / X.std(axis=0)

    def cost(theta):
        W, b = theta[: 4 * K].reshape(4, K), theta[4 * K :]
        Z = np.where(np.eye(K)[y], 1, -1) * (X @ W + b)
        return np.mean(np.maximum(0, 1 - Z) ** 2) + 0.01 * np.sum(W**2)

    best = minimize(cost, np.zeros(5 * K), tol=1e-12, options={"gtol": 1e-8})
    clf = SoftmaxClassifier(loss="hinge", l2=0.01, epochs=1500, decay_every=0, batch_size=90, random_state=0).fit(X, y)
    assert np.all(np.diff(clf.history_["train_cost"]) <= 1e-12)  # the step that 'auto' chooses never overshoots
    assert clf.history_["train_cost"][-1] == pytest.approx(best.fun, rel=1e-6)
    S = X @ best.x[: 4 * K].reshape(4, K) + best.x[4 * K :]
    expected = S[:, 1] - S[:, 0] if K == 2 else S
    np.testing.assert_allclose(clf.decision_function(X), expected, atol=1e-3)
    np.testing.assert_allclose(clf.predict_proba(X), softmax(S, axis=1), atol=1e-3)
    np.testing.assert_array_equal(clf.predict(X), S.argmax(axis=1))


def test_the_compiled_kernel_does_not_know_it(hinge, run_cli, tmp_path):
    splits = toy_splits()
    config = coursework(loss="hinge", epochs=1)
    assert train(splits, config).backend == "numpy"
    arguments = ["--data", "digits", "--loss", "hinge", "--backend", "native", "--out", "run"]
    assert_one_line(run_cli("train", *arguments), "the backend native (has no loss hinge|was not compiled)")
    assert not (tmp_path / "run").exists()


def test_without_a_dual_it_has_no_certificate_and_no_converged_solver(third, run_cli, tmp_path):
    common = ["--data", "digits", "--loss", third.name, "--l2", "0.1", "--no-figures"]
    assert third.dual is None
    words = f"no bound on the lowest cost is known for the loss {third.name}: it has no certificate, and the solver"
    for command in ("train", "sweep", "path"):
        solver = [] if command == "path" else ["--solver", "converged"]
        options = [*common[:4], "--l2", "0.1", "0.2"] if command != "train" else common
        assert_one_line(run_cli(command, *options, *solver, "--out", "run"), words)
        assert not (tmp_path / "run").exists()
    code, out, err = run_cli("train", *common, "--epochs", "2", "--learning-rate", "0.001", "--out", "run")
    assert (code, err) == (0, "")
    assert "best possible" not in out
    assert_one_line(run_cli("certify", "run"), words)


def test_a_loss_brings_its_own_dual():
    class Doubled(SoftmaxCrossEntropy):
        name = "doubled"

        def of_rows(self, S, y):
            return 2 * super().of_rows(S, y)

    class Renamed(SoftmaxCrossEntropy):
        name = "renamed"

    class WithDual(Doubled):
        dual = SoftmaxCrossEntropy.dual

    assert Doubled.dual is None
    assert Renamed.dual is SoftmaxCrossEntropy.dual is WithDual.dual


def test_the_command_line_offers_the_losses_that_there_are(hinge, run_cli):
    for command in ("train", "sweep"):
        shown = " ".join(run_cli(command, "--help")[1].replace("│", " ").split())
        assert "cross-entropy, or one squared hinge per class. [choices: softmax, sigmoid, hinge]" in shown
    words = 'Invalid value "hing" for --loss. Choose from: "softmax", "sigmoid", "hinge"'
    assert_one_line(run_cli("train", "--loss", "hing"), words)
    assert_one_line(run_cli("sweep", "--loss", "softmax", "hing"), words)
    with pytest.raises(onelayer.OnelayerError, match="loss 'hing' is not softmax or sigmoid or hinge"):
        coursework(loss="hing")


def test_a_sweep_takes_it(hinge, run_cli, tiny_cifar, tmp_path):
    options = ["--data", tiny_cifar, "--loss", "softmax", "hinge", "--epochs", "1", "--out", "sweep"]
    assert run_cli("sweep", *options, "--quiet")[0] == 0
    losses = [json.loads(path.read_text())["config"]["loss"] for path in (tmp_path / "sweep").rglob("summary.json")]
    assert {"softmax", "hinge"} <= set(losses)


def test_a_run_whose_loss_is_not_known_is_refused(run_cli, tiny_cifar, tmp_path):
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(LOSSES, "hinge", SquaredHinge())
        options = ["--loss", "hinge", "--epochs", "1", "--no-figures"]
        assert run_cli("train", "--data", tiny_cifar, "--out", "run", *options)[0] == 0
    for command in (["evaluate", "run"], ["resume", "run", "--epochs", "2"], ["export", "run", "model.onnx"]):
        assert_one_line(run_cli(*command), "hinge")


def test_no_other_code_knows_a_loss_by_its_name():
    """A loss may be a default or a setting. A comparison, a table or a choice by name belongs on the loss."""
    source = Path(onelayer.__file__).parent
    kinds = (ast.Compare, ast.Dict, ast.Subscript, ast.MatchValue, ast.Set, ast.Tuple, ast.List)
    found = []
    for file in source.rglob("*.py"):
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, kinds):
                names = {name.value for name in ast.walk(node) if isinstance(name, ast.Constant)} & set(LOSSES)
                found += [f"{file.relative_to(source)}:{node.lineno}: {name}" for name in names]
    # The losses that are compiled; and the names of studies, one of which is called sigmoid.
    known = ("training/backends/native.py", "experiments/study/studies.py", "cli/studies.py")
    assert [place for place in found if not place.startswith(known)] == []


@pytest.mark.parametrize("loss", list(LOSSES.values()), ids=list(LOSSES))
def test_the_documentation_describes_every_loss(loss):
    for text in (TrainConfig.__doc__, SoftmaxClassifier.__doc__):
        assert loss.words in " ".join(text.split())
