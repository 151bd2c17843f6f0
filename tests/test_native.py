"""The native backend: against float64 formulas, in odd shapes, at extremes, and cancelled."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from helpers import coursework, opened, plain_training, relative, toy_dataset, toy_splits

from onelayer import load_splits, train
from onelayer.config import SplitConfig
from onelayer.data.dataset import Dataset, Split
from onelayer.data.protocols import split
from onelayer.errors import DivergedError
from onelayer.features.standardizer import Standardizer
from onelayer.kernel import kernel
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES
from onelayer.training.backends.array import ArrayBackend
from onelayer.training.backends.native import NativeBackend
from onelayer.training.state import TrainingState

needs_kernel = pytest.mark.skipif(kernel is None, reason="onelayer was installed without a compiler")
VARIANTS = kernel.variants() if kernel else []
SHAPES = int(os.environ.get("ONELAYER_SHAPES", "2000"))  # fewer where each is slow, as under a sanitizer


def never() -> bool:
    return False


@needs_kernel
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ["uint8", "float16", "float32"])
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_training_agrees_with_the_formulas(variant, dtype, loss, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    splits = toy_splits(dtype=dtype)
    config = coursework(
        learning_rate=0.05, l2=0.1, batch_size=32, epochs=3, loss=loss, flip=True, decay_every=2, backend="native"
    )
    result = train(splits, config)
    W, b = plain_training(splits, config)
    assert result.backend == "native"
    assert np.linalg.norm(W) > 0.1  # the case is not trivial
    assert relative(result.model.layer.weights, W) <= 1e-5
    np.testing.assert_allclose(result.model.layer.bias, b, atol=1e-6)


@needs_kernel
@pytest.mark.parametrize("variant", VARIANTS)
def test_an_epoch_on_cifar_agrees_with_float64(variant, cifar, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    splits = load_splits(str(cifar), SplitConfig())
    config = coursework(l2=0.1, epochs=1)
    result = train(splits, config)
    reference = train(splits, coursework(l2=0.1, epochs=1, dtype="float64"))
    assert (result.backend, reference.backend) == ("native", "numpy")
    assert relative(result.model.layer.weights, reference.model.layer.weights) <= 1e-5
    for name in ("train", "validation", "test"):
        assert result.scores[name].loss == pytest.approx(reference.scores[name].loss, rel=1e-5)


def random_case(rng, K=None, d=None):
    """Rows of a random shape with a layer, and what an epoch with them needs."""
    d = d or int(rng.choice([1, 2, 7, 8, 15, 16, 17, 31, 33, 64, 100]))
    K = K or int(rng.choice([2, 3, 4, 5, 9, 10, 11, 17, 21, 40]))
    n = int(rng.choice([1, 2, 3, 7, 20]))
    pixels = rng.random() < 0.5
    rows = rng.integers(0, 256, (n, d)).astype(np.uint8) if pixels else rng.normal(3, 2, (n, d)).astype(np.float32)
    widths = [w for w in (1, 2, 4, 5, 11) if d % w == 0]
    width = int(rng.choice(widths))
    labels = rng.integers(0, K, n)
    row_weights = rng.choice([0, 0.5, 1, 3], n) if rng.random() < 0.3 else None
    names = tuple(str(k) for k in range(K))
    dataset = Dataset(rows, labels, names, (1, d // width, width), "random", row_weights=row_weights)
    # Standardised by other rows' figures, as one row has no spread of its own.
    mean, scale = (rng.uniform(100, 150, d), rng.uniform(40, 80, d)) if pixels else (np.full(d, 3.0), np.full(d, 2.0))
    loss = LOSSES[str(rng.choice(["softmax", "sigmoid"]))]
    W = np.asfortranarray(rng.normal(0, 0.3, (d, K)))
    layer = SoftmaxLayer(W, rng.normal(0, 0.3, K), loss)
    places = rng.permutation(n)
    flipped = rng.random(n) < 0.5 if rng.random() < 0.5 else None
    options = {"l2": float(rng.choice([0, 0.1])), "batch_size": int(rng.choice([1, 2, 5, 7, 100]))}
    options["momentum"] = float(rng.choice([0, 0, 0.5]))
    return Split("train", dataset, places), Standardizer(mean, scale), layer, flipped, options


def compare(case):
    split, standardizer, layer, flipped, options = case
    single = SoftmaxLayer(layer.weights.astype(np.float32), layer.bias.astype(np.float32), layer.loss)
    exact = SoftmaxLayer(single.weights.astype(float), single.bias.astype(float), layer.loss)
    native = opened(NativeBackend, split, standardizer, single, **options)
    reference = opened(ArrayBackend, split, standardizer, exact, **options)
    for backend in (native, reference):
        backend.run_epoch(split, 0.02, flipped, never)
        backend.run_epoch(split, 0.02, flipped, never)
    shape = (split.dataset.rows.shape, len(layer.bias), layer.loss.name, options)
    assert relative(native.layer.weights, reference.layer.weights) <= 1e-5, shape
    assert np.abs(native.layer.bias - reference.layer.bias).max() <= 1e-5, shape
    if options.get("momentum"):
        for moving, exact_moving in zip(native.velocity, reference.velocity, strict=True):
            assert np.abs(moving - exact_moving).max() <= 2e-5 * (1 + np.abs(exact_moving).max()), shape
    ours, theirs = (backend.evaluate(backend.layer, split, never) for backend in (native, reference))
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-4, abs=1e-5), shape
    assert ours.right == theirs.right, shape
    if split.weight:
        (cost, dW, db), (exact_cost, exact_dW, exact_db) = (
            b.objective(exact, split, never) for b in (native, reference)
        )
        assert cost == pytest.approx(exact_cost, rel=1e-5, abs=1e-5), shape
        assert np.linalg.norm(dW - exact_dW) <= 1e-5 * np.linalg.norm(exact_dW) + 1e-6, shape
        assert np.abs(db - exact_db).max() <= 1e-6, shape


@needs_kernel
@pytest.mark.parametrize("variant", VARIANTS)
def test_random_shapes_agree_with_the_reference(variant, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    rng = np.random.default_rng(0)
    for _ in range(SHAPES // len(VARIANTS)):
        compare(random_case(rng))


@needs_kernel
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("d", [511, 1023, 1025, 3071, 3072, 12288])
@pytest.mark.parametrize("K", [2, 100])
def test_large_shapes_agree_with_the_reference(variant, d, K, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    rng = np.random.default_rng(d)
    for _ in range(3):
        split, standardizer, _, _, options = random_case(rng, K, d)
        layer = SoftmaxLayer(np.asfortranarray(rng.normal(0, 0.01, (d, K))), np.zeros(K), LOSSES["softmax"])
        compare((split, standardizer, layer, None, options))


@needs_kernel
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_larger_than_what_is_treated_at_once(variant, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    for dtype in ("uint8", "float32"):
        splits = toy_splits(n=1500, dtype=dtype)
        config = coursework(learning_rate=0.1, l2=0.01, batch_size=700, epochs=2, backend="native")
        W, _ = plain_training(splits, config)
        assert relative(train(splits, config).model.layer.weights, W) <= 1e-5


@needs_kernel
def test_same_bits_with_any_number_of_threads_and_in_every_run():
    splits = toy_splits(n=2000)
    results = [train(splits, coursework(epochs=4, threads=threads)) for threads in (1, 2, 2, 0, 99)]
    for result in results[1:]:
        assert result.model.layer.weights.tobytes() == results[0].model.layer.weights.tobytes()
        assert result.scores == results[0].scores


@needs_kernel
def test_rows_in_a_memory_map(tmp_path):
    dataset = toy_dataset()
    np.save(tmp_path / "rows.npy", dataset.rows)
    mapped = Dataset(np.load(tmp_path / "rows.npy", mmap_mode="r"), dataset.labels, dataset.class_names, None, "mapped")
    everything = np.arange(len(dataset.labels))
    layers = []
    for rows in (dataset, mapped):
        state = TrainingState.initial(60, 4, coursework())
        split = Split("train", rows, everything)
        backend = opened(NativeBackend, split, Standardizer.fit([dataset.rows]), state.layer, batch_size=7)
        backend.run_epoch(split, 0.1, None, never)
        layers.append(backend.layer.weights.tobytes())
    assert layers[0] == layers[1]


@needs_kernel
def test_extreme_logits_give_the_exact_loss_and_gradient():
    rows = np.ones((1, 1), np.float32)
    dataset = Dataset(rows, np.array([0]), ("a", "b", "c"), None, "one")
    split = Split("train", dataset, np.array([0]))
    start = SoftmaxLayer(np.zeros((1, 3), np.float32), np.zeros(3, np.float32), LOSSES["softmax"])
    backend = opened(NativeBackend, split, Standardizer(np.zeros(1), np.ones(1)), start)
    for loss, bias, expected, residual in [
        ("softmax", (1e9, 0, -1e9), 0, (0, 0, 0)),
        ("softmax", (-1e9, 0, -1e9), 1e9, (-1, 1, 0)),
        ("softmax", (5, 5, 5), np.log(3), (-2 / 3, 1 / 3, 1 / 3)),
        ("sigmoid", (1e9, -1e9, -1e9), 0, (0, 0, 0)),
        ("sigmoid", (-1e9, 1e9, 0), (2e9 + np.log(2)) / 3, (-1 / 3, 1 / 3, 1 / 6)),
    ]:
        layer = SoftmaxLayer(np.zeros((1, 3), np.float32), np.array(bias, np.float32), LOSSES[loss])
        assert backend.evaluate(layer, split, never).loss == pytest.approx(expected, rel=1e-6, abs=1e-12)
        cost, dW, db = backend.objective(layer, split, never)
        assert cost == pytest.approx(expected, rel=1e-6, abs=1e-12)
        np.testing.assert_allclose(dW[0], residual, atol=1e-6)  # the row is 1
        np.testing.assert_allclose(db, residual, atol=1e-6)


@needs_kernel
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_divergence_is_noticed(loss):
    with pytest.raises(DivergedError):
        train(toy_splits(), coursework(learning_rate=1e300, loss=loss, epochs=3, backend="native"))


class Asked:
    """A `cancelled` that says when it is first asked, and then yes."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self) -> bool:
        self.event.set()
        return True


LONG = np.zeros(20_000_000, np.int64)  # a pass over these takes seconds


@needs_kernel
@pytest.mark.parametrize("kind", [NativeBackend, ArrayBackend])
@pytest.mark.parametrize("work", ["run_epoch", "evaluate", "objective"])
def test_long_work_in_another_thread_can_be_cancelled(kind, work):
    dataset = toy_dataset()
    split = Split("train", dataset, LONG)
    state = TrainingState.initial(60, 4, coursework())
    backend = opened(kind, split, Standardizer.fit([dataset.rows]), state.layer)
    asked = Asked()
    arguments = (split, 1e-9, None) if work == "run_epoch" else (state.layer, split)
    with ThreadPoolExecutor(1) as executor:
        future = executor.submit(getattr(backend, work), *arguments, asked)
        assert asked.event.wait(timeout=60)
        with pytest.raises(InterruptedError):
            future.result(timeout=60)


@needs_kernel
def test_what_cancelled_raises_comes_out_and_it_may_call_the_kernel():
    dataset = toy_dataset()
    few, many = (Split("train", dataset, places) for places in (np.arange(300), LONG))
    state = TrainingState.initial(60, 4, coursework())
    backend = opened(NativeBackend, few, Standardizer.fit([dataset.rows]), state.layer)
    calls = []

    def nested() -> bool:
        calls.append(backend.evaluate(state.layer, few, lambda: False).right)
        if len(calls) == 3:
            raise KeyError("enough")
        return False

    with pytest.raises(KeyError, match="enough"):
        backend.evaluate(state.layer, many, nested)
    assert len(calls) == 3


@needs_kernel
@pytest.mark.parametrize(("K", "batch_size"), [(1, 7), (5, 40), (30, 300), (41, 600)])
@pytest.mark.parametrize("variant", VARIANTS)
def test_batches_larger_than_a_chunk_with_many_classes(variant, K, batch_size, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    rng = np.random.default_rng(K)
    for d in (48, 784):
        dataset = Dataset(
            rng.integers(0, 256, (700, d)).astype(np.uint8), rng.integers(0, K, 700), ("",) * K, None, "made"
        )
        layer = SoftmaxLayer(np.asfortranarray(rng.normal(0, 0.05, (d, K))), np.zeros(K), LOSSES["softmax"])
        standardizer = Standardizer(np.full(d, 127.0), np.full(d, 74.0))
        options = {"l2": 0.01, "batch_size": batch_size}
        compare((Split("train", dataset, rng.permutation(700)), standardizer, layer, None, options))


@needs_kernel
@pytest.mark.parametrize(
    "spoil",
    [
        lambda labels: np.stack([labels, labels], axis=1)[:, 0],
        lambda labels: labels[::-1].copy()[::-1],
        lambda labels: np.frombuffer(b"x" + labels.tobytes(), np.uint8)[1:].view(np.int64),
    ],
)
def test_labels_may_lie_anyhow(spoil):
    dataset = toy_dataset()
    labels = spoil(np.array(dataset.labels))
    assert not (labels.flags.c_contiguous and labels.flags.aligned)
    np.testing.assert_array_equal(labels, dataset.labels)
    config = coursework(learning_rate=0.05, epochs=2, backend="native")
    found, expected = (train(split(d, SplitConfig()), config) for d in (replace(dataset, labels=labels), dataset))
    np.testing.assert_array_equal(found.model.layer.weights, expected.model.layer.weights)
    assert found.scores == expected.scores


@needs_kernel
def test_places_may_be_of_any_whole_type():
    splits = toy_splits()
    short = {part.name: replace(part, indices=part.indices.astype(np.int16)) for part in splits}
    config = coursework(learning_rate=0.05, epochs=2, backend="native")
    assert train(replace(splits, **short), config).scores == train(splits, config).scores


@needs_kernel
@pytest.mark.parametrize("variant", VARIANTS)
def test_features_far_from_zero_are_standardised_by_the_whole_mean(variant, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    rng = np.random.default_rng(0)
    rows = (2.0**24 + 2 * rng.integers(0, 8, (200, 6))).astype(np.float32)  # as close as floats lie there
    labels = (rows[:, 0] > rows[:, 1]).astype(np.int64)
    splits = split(Dataset(rows, labels, ("no", "yes"), None, "far"), SplitConfig())
    mean, scale = splits.standardizer.mean, splits.standardizer.scale
    left_out = np.abs(mean - mean.astype(np.float32).astype(float)) / scale
    assert left_out.max() > 0.02, "a float holds these means: there would be no second part"
    config = coursework(learning_rate=0.1, batch_size=20, epochs=3)
    ours = train(splits, replace(config, backend="native"))
    exact = train(splits, replace(config, dtype="float64"))
    assert relative(ours.model.layer.weights, exact.model.layer.weights) < 1e-5
    np.testing.assert_allclose(ours.model.layer.bias, exact.model.layer.bias, atol=1e-6)
    for name, score in exact.scores.items():
        assert ours.scores[name].loss == pytest.approx(score.loss, rel=1e-5)


@needs_kernel
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("K", [1000, 1024, 1100, 3000])
def test_many_sigmoids_have_a_finite_loss(variant, K, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    rng = np.random.default_rng(0)
    dataset = Dataset(
        rng.integers(0, 256, (5, 3), np.uint8), np.array([0, 1, 7, K - 1, 5]), tuple(map(str, range(K))), None, "many"
    )
    layer = SoftmaxLayer(np.zeros((3, K), np.float32, order="F"), np.zeros(K, np.float32), LOSSES["sigmoid"])
    backend = opened(NativeBackend, dataset.everything, Standardizer(np.full(3, 100.0), np.full(3, 50.0)), layer)
    assert backend.evaluate(layer, dataset.everything, never).loss == pytest.approx(5 * np.log(2), rel=1e-9)
    spread = SoftmaxLayer(layer.weights, rng.normal(0, 0.3, K).astype(np.float32), LOSSES["sigmoid"])
    S = np.broadcast_to(spread.bias.astype(float), (5, K))
    Y = np.eye(K)[dataset.labels]
    expected = (np.logaddexp(0, S) - Y * S).sum() / K
    assert backend.evaluate(spread, dataset.everything, never).loss == pytest.approx(expected, rel=1e-6)
