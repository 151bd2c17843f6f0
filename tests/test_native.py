"""The compiled kernel: against float64 formulas, in odd shapes, with bad input, and interrupted."""

import os
import signal
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np
import pytest
from helpers import plain_training, toy_dataset, toy_splits

from onelayer import load_splits, train
from onelayer.cli.main import run as run_command
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.dataset import Dataset, Split, split
from onelayer.errors import ConfigError, DivergedError
from onelayer.features.standardizer import Standardizer
from onelayer.kernel import kernel
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES
from onelayer.training.backends.array import ArrayBackend
from onelayer.training.backends.choice import choose_backend
from onelayer.training.backends.native import NativeBackend
from onelayer.training.state import TrainingState

needs_kernel = pytest.mark.skipif(kernel is None, reason="onelayer was installed without a compiler")
VARIANTS = kernel.variants() if kernel else []
SHAPES = int(os.environ.get("ONELAYER_SHAPES", "10000"))  # fewer where each is slow, as under a sanitizer


def never() -> bool:
    return False


def relative(a: np.ndarray, b: np.ndarray) -> float:
    return float(np.linalg.norm(a - b) / np.linalg.norm(b))


@needs_kernel
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_training_agrees_with_the_formulas(variant, dtype, loss, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    splits = toy_splits(dtype=dtype)
    config = TrainConfig(
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
    config = TrainConfig(l2=0.1, epochs=1)
    result = train(splits, config)
    reference = train(splits, TrainConfig(l2=0.1, epochs=1, dtype="float64"))
    assert (result.backend, reference.backend) == ("native", "numpy")
    assert relative(result.model.layer.weights, reference.model.layer.weights) <= 1e-5
    for name in ("train", "validation", "test"):
        assert result.scores[name].loss == pytest.approx(reference.scores[name].loss, rel=1e-5)


@needs_kernel
def test_accuracy_after_40_epochs_on_cifar(cifar):
    splits = load_splits(str(cifar), SplitConfig())
    result = train(splits, TrainConfig())
    reference = train(splits, TrainConfig(dtype="float64"))
    for name, score in reference.scores.items():
        assert abs(result.scores[name].accuracy - score.accuracy) <= 0.002
    assert reference.scores["test"].accuracy > 0.35


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
    order = rng.permutation(n)
    flipped = rng.random(n) < 0.5 if rng.random() < 0.5 else None
    options = {"l2": float(rng.choice([0, 0.1])), "batch_size": int(rng.choice([1, 2, 5, 7, 100]))}
    return Split("train", dataset, np.arange(n)), Standardizer(mean, scale), layer, order, flipped, options


def compare(case):
    split, standardizer, layer, order, flipped, options = case
    single = SoftmaxLayer(layer.weights.astype(np.float32), layer.bias.astype(np.float32), layer.loss)
    exact = SoftmaxLayer(single.weights.astype(float), single.bias.astype(float), layer.loss)
    native = NativeBackend(single, standardizer, **options)
    reference = ArrayBackend(exact, standardizer, **options)
    for backend in (native, reference):
        backend.run_epoch(split, order, 0.02, flipped, never)
    shape = (split.dataset.rows.shape, len(layer.bias), layer.loss.name, options)
    assert relative(native.layer.weights, reference.layer.weights) <= 1e-5, shape
    assert np.abs(native.layer.bias - reference.layer.bias).max() <= 1e-5, shape
    ours, theirs = (backend.evaluate(backend.layer, split, never) for backend in (native, reference))
    assert ours.loss == pytest.approx(theirs.loss, rel=1e-4, abs=1e-5), shape
    assert ours.right == theirs.right, shape


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
        split, standardizer, _, _, _, options = random_case(rng, K, d)
        layer = SoftmaxLayer(np.asfortranarray(rng.normal(0, 0.01, (d, K))), np.zeros(K), LOSSES["softmax"])
        compare((split, standardizer, layer, np.arange(len(split)), None, options))


@needs_kernel
@pytest.mark.parametrize("variant", VARIANTS)
def test_a_batch_larger_than_what_is_treated_at_once(variant, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    for dtype in ("uint8", "float32"):
        splits = toy_splits(n=1500, dtype=dtype)
        config = TrainConfig(learning_rate=0.1, l2=0.01, batch_size=700, epochs=2, backend="native")
        W, _ = plain_training(splits, config)
        assert relative(train(splits, config).model.layer.weights, W) <= 1e-5


@needs_kernel
def test_same_bits_with_any_number_of_threads_and_in_every_run():
    splits = toy_splits(n=2000)
    results = [train(splits, TrainConfig(epochs=4, threads=threads)) for threads in (1, 2, 2, 0, 99)]
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
        state = TrainingState.initial(60, 4, TrainConfig())
        backend = NativeBackend(state.layer, Standardizer.fit([dataset.rows]), l2=0, batch_size=7)
        backend.run_epoch(Split("train", rows, everything), everything, 0.1, None, never)
        layers.append(backend.layer.weights.tobytes())
    assert layers[0] == layers[1]


@needs_kernel
def test_extreme_logits_give_the_exact_loss():
    rows = np.ones((1, 1), np.float32)
    dataset = Dataset(rows, np.array([0]), ("a", "b", "c"), None, "one")
    split = Split("train", dataset, np.array([0]))
    backend = NativeBackend(
        SoftmaxLayer(np.zeros((1, 3), np.float32), np.zeros(3, np.float32), LOSSES["softmax"]),
        Standardizer(np.zeros(1), np.ones(1)),
        l2=0,
        batch_size=1,
    )
    for loss, bias, expected in [
        ("softmax", (1e9, 0, -1e9), 0),
        ("softmax", (-1e9, 0, -1e9), 1e9),
        ("softmax", (5, 5, 5), np.log(3)),
        ("sigmoid", (1e9, -1e9, -1e9), 0),
        ("sigmoid", (-1e9, 1e9, 0), (2e9 + np.log(2)) / 3),
    ]:
        layer = SoftmaxLayer(np.zeros((1, 3), np.float32), np.array(bias, np.float32), LOSSES[loss])
        assert backend.evaluate(layer, split, never).loss == pytest.approx(expected, rel=1e-6, abs=1e-12)


@needs_kernel
@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_divergence_is_noticed(loss):
    with pytest.raises(DivergedError):
        train(toy_splits(), TrainConfig(learning_rate=1e300, loss=loss, epochs=3, backend="native"))


def good_arguments():
    rng = np.random.default_rng(0)
    return {
        "rows": rng.integers(0, 256, (6, 4)).astype(np.uint8),
        "labels": np.array([0, 1, 2, 0, 1, 2]),
        "row_weights": np.ones(6, np.float32),
        "mean": np.zeros(4),
        "scale": np.ones(4),
        "order": np.arange(6),
        "flipped": np.zeros(6, bool),
        "width": 2,
        "templates": np.zeros((3, 4), np.float32),
        "bias": np.zeros(3, np.float32),
        "batch_size": 2,
        "learning_rate": 0.1,
        "l2": 0.0,
        "loss": "softmax",
        "cancelled": None,
    }


def read_only(array):
    array = array.copy()
    array.flags.writeable = False
    return array


BAD = {
    "rows": [
        lambda a: a.astype(np.int8),
        lambda a: a.astype(float),
        np.asfortranarray,
        lambda a: a[:, ::-1],
        lambda a: np.repeat(a, 2, axis=1)[:, ::2],
        lambda a: a[:0],
        lambda a: a[0],
        lambda a: a.tolist(),
        lambda a: None,
    ],
    "labels": [
        lambda a: a.astype(np.int32),
        lambda a: a[:5],
        lambda a: a + 1,
        lambda a: a - 1,
        lambda a: a[::-1],
        lambda a: a[:, None],
    ],
    "row_weights": [
        lambda a: a.astype(float),
        lambda a: a[:5],
        lambda a: -a,
        lambda a: a * np.nan,
        lambda a: a * np.inf,
    ],
    "mean": [lambda a: a.astype(np.float32), lambda a: a[:3], lambda a: a * np.nan],
    "scale": [lambda a: a.astype(np.float32), lambda a: a[:3], lambda a: a * 0, lambda a: -a],
    "order": [lambda a: a.astype(np.int32), lambda a: a[:0], lambda a: a + 1, lambda a: a - 1, lambda a: a[::2]],
    "flipped": [lambda a: a.astype(np.uint8), lambda a: a[:5]],
    "width": [lambda w: 3, lambda w: 0, lambda w: -2],
    "templates": [
        lambda a: a.astype(float),
        lambda a: np.zeros((3, 5), np.float32),
        lambda a: np.zeros((4, 3), np.float32).T,
        lambda a: a[:0],
        read_only,
    ],
    "bias": [lambda a: a.astype(float), lambda a: a[:2], read_only, lambda a: np.zeros(6, np.float32)[::2]],
    "batch_size": [lambda n: 0, lambda n: -1, lambda n: 2.5],
    "learning_rate": [lambda x: np.nan, lambda x: "fast"],
    "l2": [lambda x: np.inf],
    "loss": [lambda x: "hinge", lambda x: None],
    "cancelled": [lambda x: True],
}


@needs_kernel
@pytest.mark.parametrize(("name", "spoil"), [(name, spoil) for name, spoils in BAD.items() for spoil in spoils])
def test_a_bad_argument_is_named(name, spoil):
    arguments = good_arguments()
    kernel.run_epoch(**arguments)
    arguments[name] = spoil(arguments[name])
    templates = np.array(arguments["templates"])
    with pytest.raises((TypeError, ValueError)) as caught:
        kernel.run_epoch(**arguments)
    assert str(caught.value).startswith(name)
    assert np.array_equal(np.array(arguments["templates"]), templates)


@needs_kernel
def test_arrays_are_updated_where_they_are():
    arguments = good_arguments()
    kernel.run_epoch(**arguments)
    assert np.abs(arguments["templates"]).max() > 0
    arguments["flipped"] = arguments["row_weights"] = None
    kernel.run_epoch(**arguments)


@needs_kernel
def test_an_unknown_variant_is_named(monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", "mmx")
    with pytest.raises(ValueError, match=r"^ONELAYER_KERNEL=mmx does not run here; this machine has .*baseline"):
        kernel.run_epoch(**good_arguments())


LONG_EPOCH = """
import numpy as np
from onelayer.kernel import kernel
n, d, K = 200, 3072, 10
order = np.zeros(100_000_000, np.int64)
kernel.run_epoch(np.zeros((n, d), np.uint8), np.zeros(n, np.int64), None, np.zeros(d), np.ones(d), order, None, 0,
                 np.zeros((K, d), np.float32), np.zeros(K, np.float32), 100, 0.1, 0.0, "softmax", None)
"""


class Asked:
    """A `cancelled` that says when it is first asked, and then yes."""

    def __init__(self) -> None:
        self.event = threading.Event()

    def __call__(self) -> bool:
        self.event.set()
        return True


LONG = np.zeros(20_000_000, np.int64)  # a pass over so many rows takes seconds


@needs_kernel
@pytest.mark.parametrize("kind", [NativeBackend, ArrayBackend])
@pytest.mark.parametrize("work", ["epoch", "evaluation"])
def test_long_work_in_another_thread_can_be_cancelled(kind, work):
    dataset = toy_dataset()
    split = Split("train", dataset, LONG)
    state = TrainingState.initial(60, 4, TrainConfig())
    backend = kind(state.layer, Standardizer.fit([dataset.rows]), l2=0, batch_size=100)
    asked = Asked()
    with ThreadPoolExecutor(1) as executor:
        if work == "epoch":
            future = executor.submit(
                backend.run_epoch, Split("train", dataset, np.arange(300)), LONG, 1e-9, None, asked
            )
        else:
            future = executor.submit(backend.evaluate, state.layer, split, asked)
        assert asked.event.wait(timeout=60)
        with pytest.raises(InterruptedError):
            future.result(timeout=60)


@needs_kernel
def test_what_cancelled_raises_comes_out_and_it_may_call_the_kernel():
    dataset = toy_dataset()
    few, many = (Split("train", dataset, places) for places in (np.arange(300), LONG))
    state = TrainingState.initial(60, 4, TrainConfig())
    backend = NativeBackend(state.layer, Standardizer.fit([dataset.rows]), l2=0, batch_size=100)
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
        compare((Split("train", dataset, np.arange(700)), standardizer, layer, rng.permutation(700), None, options))


LONG_EVALUATION = """
import numpy as np
from onelayer import train
from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset, Split, Splits
rows = np.zeros((200, 3072), np.uint8)
dataset = Dataset(rows, np.arange(200) % 2, ("a", "b"), None, "long")
few, many = np.arange(200), np.zeros(50_000_000, np.int64)
splits = Splits(Split("train", dataset, few), Split("validation", dataset, many), Split("test", dataset, few), "made")
train(splits, TrainConfig(epochs=2), on_epoch=print)
"""


def interrupt(code: str, after: float) -> tuple[float, int, bytes]:
    """Run Python code, send it SIGINT; seconds until its end, exit code, errors."""
    process = subprocess.Popen(
        [sys.executable, "-c", f"print('starts', flush=True)\n{code}"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.default_int_handler),
    )
    assert process.stdout.readline() == b"starts\n"
    time.sleep(after)
    process.send_signal(signal.SIGINT)
    started = time.perf_counter()
    _, errors = process.communicate(timeout=20)
    return time.perf_counter() - started, process.returncode, errors


@needs_kernel
@pytest.mark.parametrize("code", [LONG_EPOCH, LONG_EVALUATION], ids=["epoch", "evaluation"])
def test_ctrl_c_ends_long_work_within_a_second(code):
    seconds, status, errors = interrupt(code, after=2.0)
    assert seconds < 1.5  # a second, and the interpreter's end
    assert status != 0
    assert b"KeyboardInterrupt" in errors


def test_auto_takes_what_can_be_had(monkeypatch):
    dataset = toy_dataset()
    assert choose_backend(dataset, TrainConfig(backend="numpy")) is ArrayBackend
    assert choose_backend(dataset, TrainConfig(dtype="float64")) is ArrayBackend
    if kernel:
        assert choose_backend(dataset, TrainConfig()) is NativeBackend
        many_classes = Dataset(dataset.rows, dataset.labels, tuple(map(str, range(1000))), None, "many classes")
        assert choose_backend(many_classes, TrainConfig(batch_size=100)) is NativeBackend
        assert choose_backend(many_classes, TrainConfig(batch_size=1000)) is ArrayBackend
        assert choose_backend(many_classes, TrainConfig(batch_size=1000, backend="native")) is NativeBackend
        with pytest.raises(ConfigError, match=r"native does not do float64.*backend numpy"):
            choose_backend(dataset, TrainConfig(backend="native", dtype="float64"))
    monkeypatch.setattr("onelayer.training.backends.choice.kernel", None)
    assert choose_backend(dataset, TrainConfig()) is ArrayBackend
    with pytest.raises(ConfigError, match=r"native was not compiled.*backend numpy"):
        choose_backend(dataset, TrainConfig(backend="native"))


@needs_kernel
def test_rows_in_another_order_are_not_copied_in_silence():
    dataset = toy_dataset()
    columns = Dataset(
        np.asfortranarray(dataset.rows), dataset.labels, dataset.class_names, dataset.image_shape, "columns"
    )
    assert choose_backend(columns, TrainConfig()) is ArrayBackend
    with pytest.raises(ConfigError, match="needs uint8 or float32 rows in C order"):
        choose_backend(columns, TrainConfig(backend="native"))


@needs_kernel
def test_an_unknown_variant_is_an_error_before_anything_is_made(monkeypatch, tmp_path):
    monkeypatch.setenv("ONELAYER_KERNEL", "foo")
    words = r"^ONELAYER_KERNEL=foo does not run here; this machine has .*baseline; set it to one of these, or unset it$"
    for backend in ("auto", "native"):
        with pytest.raises(ConfigError, match=words):
            train(toy_splits(), TrainConfig(epochs=1, backend=backend))
    with pytest.raises(ConfigError, match=words):
        run_command(["train", "--data", "digits", "--out", str(tmp_path / "run"), "--quiet"])
    assert not (tmp_path / "run").exists()
    assert train(toy_splits(), TrainConfig(epochs=1, backend="numpy")).backend == "numpy"


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
    config = TrainConfig(learning_rate=0.05, epochs=2, backend="native")
    found, expected = (train(split(d, SplitConfig()), config) for d in (replace(dataset, labels=labels), dataset))
    np.testing.assert_array_equal(found.model.layer.weights, expected.model.layer.weights)
    assert found.scores == expected.scores


@needs_kernel
def test_places_may_be_of_any_whole_type():
    splits = toy_splits()
    short = {part.name: replace(part, indices=part.indices.astype(np.int16)) for part in splits}
    config = TrainConfig(learning_rate=0.05, epochs=2, backend="native")
    assert train(replace(splits, **short), config).scores == train(splits, config).scores


# What would be wrong in one line of the kernel


@needs_kernel
@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("K", [2, 3, 5, 11, 30])
def test_of_equal_logits_the_first_class_is_the_answer(variant, K, monkeypatch):
    monkeypatch.setenv("ONELAYER_KERNEL", variant)
    dataset = toy_dataset(K=K, n=90)
    nothing = np.zeros((60, K), np.float32)
    standardizer = Standardizer(np.zeros(60), np.ones(60))
    rows = dataset.everything
    for tied in range(K):  # all classes from this one on are the largest, and equal
        bias = np.where(np.arange(K) < tied, -1, 0).astype(np.float32)
        layer = SoftmaxLayer(np.asfortranarray(nothing), bias, LOSSES["softmax"])
        for backend in (NativeBackend, ArrayBackend):
            found = backend(layer, standardizer, l2=0.0, batch_size=10).evaluate(layer, rows, never)
            assert found.right == np.count_nonzero(dataset.labels == tied), backend


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
    config = TrainConfig(learning_rate=0.1, batch_size=20, epochs=3)
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
    backend = NativeBackend(layer, Standardizer(np.full(3, 100.0), np.full(3, 50.0)), l2=0.0, batch_size=5)
    assert backend.evaluate(layer, dataset.everything, never).loss == pytest.approx(5 * np.log(2), rel=1e-9)
    spread = SoftmaxLayer(layer.weights, rng.normal(0, 0.3, K).astype(np.float32), LOSSES["sigmoid"])
    S = np.broadcast_to(spread.bias.astype(float), (5, K))
    Y = np.eye(K)[dataset.labels]
    expected = (np.logaddexp(0, S) - Y * S).sum() / K
    assert backend.evaluate(spread, dataset.everything, never).loss == pytest.approx(expected, rel=1e-6)
