"""The promises of all backends: the objective, row weights, the choice among them, and a backend of one's own."""

from dataclasses import replace
from importlib.util import find_spec
from typing import get_args

import numpy as np
import pytest
from helpers import coursework, opened, plain_training, toy_dataset, toy_splits
from scipy import special

from onelayer import train
from onelayer.cli.main import run_command
from onelayer.data.dataset import Dataset, Split
from onelayer.errors import ConfigError
from onelayer.features.standardizer import Standardizer
from onelayer.kernel import kernel
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES
from onelayer.training.backends import Name, Totals, registry
from onelayer.training.backends.array import ArrayBackend
from onelayer.training.backends.native import NativeBackend
from onelayer.training.backends.pytorch import TorchBackend
from onelayer.training.backends.registry import BACKENDS, choose_backend

needs_kernel = pytest.mark.skipif(kernel is None, reason="onelayer was installed without a compiler")
# A backend, what ONELAYER_KERNEL is then, the type of its layer, and the relative error of its products.
KINDS = [(NativeBackend, variant, "float32", 1e-5) for variant in (kernel.variants() if kernel else [])]
KINDS += [
    (backend, "", dtype, error)
    for backend in (ArrayBackend, *[TorchBackend] * bool(find_spec("torch")))
    for dtype, error in (("float32", 1e-5), ("float64", 1e-12))
]


def never() -> bool:
    return False


@pytest.fixture(params=KINDS, ids=lambda kind: f"{kind[0].name}-{kind[1] or kind[2]}")
def kind(request, monkeypatch):
    backend, variant, dtype, error = request.param
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    return backend, dtype, error


def plain_cost(X, Y, w, W, b, loss, l2):
    """The cost by its formula; analytic, so that the complex step can differentiate it."""
    S = X @ W + b
    softmax = loss == "softmax"
    losses = np.log(np.exp(S).sum(1)) - (Y * S).sum(1) if softmax else (np.log(1 + np.exp(S)) - Y * S).mean(1)
    return (w * losses).sum() / w.sum() + l2 * (W * W).sum()


def plain_gradient(X, Y, w, W, b, loss, l2):
    S = X @ W + b
    G = special.softmax(S, axis=1) - Y if loss == "softmax" else (special.expit(S) - Y) / Y.shape[1]
    G *= w[:, None] / w.sum()
    return X.T @ G + 2 * l2 * W, G.sum(0)


def problem(dtype, K, loss, weighted, layer_type, n=700, d=67):
    """Rows of which two features are constant, a layer that is neither sure nor at a loss, and the same in float64."""
    rng = np.random.default_rng(K)
    rows = rng.integers(0, 256, (n, d)) if dtype == "uint8" else rng.normal(50, 9, (n, d))
    rows = rows.astype(dtype)
    rows[:, [3, 66]] = 7
    weights = rng.choice([0, 0.25, 1, 3], n) if weighted else None
    dataset = Dataset(rows, rng.integers(0, K, n), tuple(map(str, range(K))), None, "made", row_weights=weights)
    places = rng.permutation(n)[: n - 9]
    standardizer = Standardizer.fit([rows]).for_training
    assert np.isinf(standardizer.scale).sum() == 2
    W, b = rng.normal(0, 0.2, (K, d)).astype(layer_type).T, rng.normal(0, 1, K).astype(layer_type)
    X = (rows[places].astype(float) - standardizer.mean) / standardizer.scale
    w = np.ones(n) if weights is None else weights
    exact = X, np.eye(K)[dataset.labels[places]], w[places], W.astype(float), b.astype(float), loss
    return Split("train", dataset, places), standardizer, SoftmaxLayer(W, b, LOSSES[loss]), exact


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("K", [1, 3, 10, 23, 41])
def test_the_objective_is_the_cost_and_its_gradient(kind, dtype, loss, weighted, K):
    backend, layer_type, error = kind
    split, standardizer, layer, exact = problem(dtype, K, loss, weighted, layer_type)
    l2 = 0.03
    cost, dW, db = opened(backend, split, standardizer, layer, l2=l2).objective(layer, split, never)
    assert dW.dtype == db.dtype == np.float64
    exact_dW, exact_db = plain_gradient(*exact, l2)
    assert cost == pytest.approx(plain_cost(*exact, l2), rel=error)
    assert np.linalg.norm(dW - exact_dW) <= error * np.linalg.norm(exact_dW)
    assert np.abs(db - exact_db).max() <= error
    # A constant feature teaches nothing; only the penalty changes its weights.
    np.testing.assert_allclose(dW[[3, 66]], 2 * l2 * layer.weights[[3, 66]].astype(float), rtol=1e-12)
    # The formulas of the gradient are right: the complex step along a random direction.
    rng = np.random.default_rng(0)
    V, v = rng.normal(0, 1, dW.shape), rng.normal(0, 1, K)
    X, Y, w, W, b, name = exact
    slope = plain_cost(X, Y, w, W + 1e-30j * V, b + 1e-30j * v, name, l2).imag / 1e-30
    assert (exact_dW * V).sum() + exact_db @ v == pytest.approx(slope, rel=1e-10)


def test_the_objective_has_the_same_bits_every_time_and_takes_a_layer_of_another_type(kind):
    backend, layer_type, error = kind
    split, standardizer, layer, exact = problem("uint8", 10, "softmax", True, layer_type, d=3072)
    opened_backend = opened(backend, split, standardizer, layer, l2=0.1)
    found = [opened_backend.objective(layer, split, bool if i else never) for i in range(3)]
    for cost, dW, db in found[1:]:
        assert (cost, dW.tobytes(), db.tobytes()) == (found[0][0], found[0][1].tobytes(), found[0][2].tobytes())
    assert np.linalg.norm(found[0][1] - plain_gradient(*exact, 0.1)[0]) <= error * np.linalg.norm(found[0][1])
    double = SoftmaxLayer(np.ascontiguousarray(layer.weights, float), layer.bias.astype(float), layer.loss)
    assert opened_backend.objective(double, split, never)[0] == pytest.approx(found[0][0], rel=error)


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
@pytest.mark.parametrize("K", [3, 23])
def test_a_weight_of_two_counts_as_two_rows_and_a_weight_of_zero_as_none(kind, loss, K):
    backend, layer_type, _ = kind
    split, standardizer, layer, _ = problem("uint8", K, loss, False, layer_type, d=67)
    counts = np.random.default_rng(0).integers(0, 4, len(split.dataset.labels))
    weighted = replace(split, dataset=replace(split.dataset, row_weights=counts.astype(float)))
    repeated = replace(split, indices=np.repeat(split.indices, counts[split.indices]))
    a, b = (opened(backend, rows, standardizer, layer, l2=0.1) for rows in (weighted, repeated))
    ours, theirs = a.evaluate(layer, weighted, never), b.evaluate(layer, repeated, never)
    assert ours.right == theirs.right > 0
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-12 if backend is NativeBackend else 1e-6)
    (cost, dW, db), (cost_2, dW_2, db_2) = a.objective(layer, weighted, never), b.objective(layer, repeated, never)
    assert cost == pytest.approx(cost_2, rel=1e-6)
    np.testing.assert_allclose(dW, dW_2, atol=1e-6)
    np.testing.assert_allclose(db, db_2, atol=1e-6)


def test_weights_may_lie_anyhow(kind):
    backend, layer_type, _ = kind
    split, standardizer, layer, _ = problem("uint8", 3, "softmax", True, layer_type)
    weights = np.frombuffer(b"x" + split.dataset.row_weights.tobytes(), np.uint8)[1:].view(np.float64)
    assert not weights.flags.aligned
    moved = replace(split, dataset=replace(split.dataset, row_weights=weights))
    a, b = (opened(backend, rows, standardizer, layer).evaluate(layer, rows, never) for rows in (split, moved))
    assert a == b


@pytest.mark.parametrize("K", [2, 3, 5, 11, 30])
def test_of_equal_logits_the_first_class_is_the_answer(kind, K):
    backend, layer_type, _ = kind
    dataset = toy_dataset(K=K, n=90)
    standardizer = Standardizer(np.zeros(60), np.ones(60))
    rows = dataset.everything
    for tied in range(K):  # all classes from this one on are the largest, and equal
        bias = np.where(np.arange(K) < tied, -1, 0).astype(layer_type)
        layer = SoftmaxLayer(np.zeros((60, K), layer_type, order="F"), bias, LOSSES["softmax"])
        found = opened(backend, rows, standardizer, layer).evaluate(layer, rows, never)
        assert found.right == np.count_nonzero(dataset.labels == tied)


# The choice


def test_the_settings_know_every_backend_by_name():
    assert {backend.name for backend in BACKENDS.values()} == set(BACKENDS) == set(get_args(Name))
    for name in (*BACKENDS, "auto"):
        assert coursework(backend=name).backend == name


def test_auto_takes_what_can_be_had(monkeypatch):
    dataset = toy_dataset()
    assert choose_backend(dataset, coursework(backend="numpy")) is ArrayBackend
    assert choose_backend(dataset, coursework(dtype="float64")) is ArrayBackend
    if kernel:
        assert choose_backend(dataset, coursework()) is NativeBackend
        many_classes = Dataset(dataset.rows, dataset.labels, tuple(map(str, range(1000))), None, "many classes")
        assert choose_backend(many_classes, coursework(batch_size=100)) is NativeBackend
        assert choose_backend(many_classes, coursework(batch_size=1000)) is ArrayBackend
        assert choose_backend(many_classes, coursework(batch_size=1000, backend="native")) is NativeBackend
        with pytest.raises(ConfigError, match=r"native does not do float64.*backend numpy"):
            choose_backend(dataset, coursework(backend="native", dtype="float64"))
    monkeypatch.setattr("onelayer.training.backends.native.kernel", None)
    assert choose_backend(dataset, coursework()) is ArrayBackend
    with pytest.raises(ConfigError, match=r"native was not compiled.*backend numpy"):
        choose_backend(dataset, coursework(backend="native"))


@needs_kernel
def test_rows_in_another_order_are_not_copied_in_silence():
    dataset = toy_dataset()
    columns = Dataset(
        np.asfortranarray(dataset.rows), dataset.labels, dataset.class_names, dataset.image_shape, "columns"
    )
    assert choose_backend(columns, coursework()) is ArrayBackend
    with pytest.raises(ConfigError, match="needs uint8, float16 or float32 rows in C order"):
        choose_backend(columns, coursework(backend="native"))


@needs_kernel
def test_an_unknown_variant_is_an_error_before_anything_is_made(monkeypatch, tmp_path):
    monkeypatch.setenv("ONELAYER_KERNEL", "foo")
    words = (
        r"^ONELAYER_KERNEL=foo does not run here; this machine has .*baseline.*; set it to one of these, or unset it$"
    )
    for backend in ("auto", "native"):
        with pytest.raises(ConfigError, match=words):
            train(toy_splits(), coursework(epochs=1, backend=backend))
    with pytest.raises(ConfigError, match=words):
        run_command(["train", "--data", "digits", "--out", str(tmp_path / "run"), "--quiet"])
    assert not (tmp_path / "run").exists()
    assert train(toy_splits(), coursework(epochs=1, backend="numpy")).backend == "numpy"


@needs_kernel
def test_a_loss_that_the_kernel_does_not_have_is_an_obstacle():
    config = coursework(backend="native")
    assert NativeBackend.obstacle(toy_dataset(), config) is None
    object.__setattr__(config, "loss", "hinge")  # as if it were in LOSSES
    with pytest.raises(ConfigError, match=r"^the backend native has no loss hinge: .*, or use the backend numpy$"):
        choose_backend(toy_dataset(), config)
    object.__setattr__(config, "backend", "auto")
    assert choose_backend(toy_dataset(), config) is ArrayBackend


class Copied:
    """A backend that standardises a copy of all rows first; of unweighted rows, for the softmax."""

    name = "copied"

    velocity = None

    def __init__(self, splits, config, standardizer, layer, velocity=None):
        self.X = (splits.dataset.rows - standardizer.mean) / standardizer.scale
        self.config, self.layer = config, layer

    @staticmethod
    def obstacle(dataset, config):
        return "has no weights" if dataset.row_weights is not None else None

    def run_epoch(self, train, learning_rate, flipped, cancelled):
        for batch in train.blocks(self.config.batch_size):
            part = Split("batch", train.dataset, train.indices[batch])
            _, dW, db = self.objective(self.layer, part, cancelled)
            W, b = self.layer.weights - learning_rate * dW, self.layer.bias - learning_rate * db
            self.layer = replace(self.layer, weights=W, bias=b)

    def evaluate(self, layer, split, cancelled):
        S = layer.logits(self.X[split.indices])
        losses = np.log(np.exp(S).sum(1)) - S[np.arange(len(S)), split.labels]
        return Totals(losses.sum(), np.count_nonzero(S.argmax(1) == split.labels))

    def objective(self, layer, split, cancelled):
        X, Y = self.X[split.indices], np.eye(len(layer.bias))[split.labels]
        arrays = X, Y, np.ones(len(X)), layer.weights, layer.bias, "softmax", self.config.l2
        return plain_cost(*arrays), *plain_gradient(*arrays)


def test_a_backend_of_ones_own_is_chosen_and_trains(monkeypatch):
    monkeypatch.setattr(registry, "BACKENDS", {"copied": Copied, **BACKENDS})
    splits = toy_splits()
    config = coursework(l2=0.1, learning_rate=0.05, batch_size=32, epochs=3, dtype="float64")
    result = train(splits, config)
    assert result.backend == "copied"
    W, b = plain_training(splits, config)
    np.testing.assert_allclose(result.model.layer.weights, W, atol=1e-12)
    np.testing.assert_allclose(result.model.layer.bias, b, atol=1e-12)
    reference = train(splits, replace(config, backend="numpy"))
    assert result.scores["validation"].loss == pytest.approx(reference.scores["validation"].loss, rel=1e-9)
    weighted = replace(splits.dataset, row_weights=np.ones(len(splits.dataset.rows)))
    assert choose_backend(weighted, config) is ArrayBackend
