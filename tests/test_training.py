"""Training against a plain loop, against PyTorch, and against itself."""

import os
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pytest
from helpers import coursework, plain_training, relative, toy_dataset, toy_splits
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from onelayer.analysis.evaluation import evaluate
from onelayer.config import SplitConfig
from onelayer.data import load_splits
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.data.protocols import split
from onelayer.errors import ConfigError, DataError, DivergedError
from onelayer.features.standardizer import Standardizer
from onelayer.training.state import TrainingState
from onelayer.training.train import train

SETTINGS = [
    {},
    {"l2": 0.3},
    {"loss": "sigmoid", "learning_rate": 0.5, "l2": 0.01},
    {"batch_size": 7, "decay_every": 2, "decay_factor": 0.5},
    {"flip": True, "batch_size": 50},
    {"shuffle_blocks": 2, "flip": True},
    {"batch_size": 1},
    {"batch_size": 10_000},
]


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
@pytest.mark.parametrize("settings", SETTINGS)
def test_weights_are_those_of_the_plain_loop(settings, dtype):
    splits = toy_splits(dtype=dtype)
    config = coursework(**{"learning_rate": 0.05, "epochs": 5, "dtype": "float64", "batch_size": 32} | settings)
    W, b = plain_training(splits, config)
    layer = train(splits, config).model.layer
    assert np.abs(W).max() > 0.05, "the weights have hardly moved: this would compare nothing"
    assert relative(layer.weights, W) < 1e-12
    assert relative(layer.bias, b) < 1e-12
    single = train(splits, replace(config, dtype="float32")).model.layer
    assert single.weights.dtype == np.float32
    assert relative(single.weights, W) < 2e-5


def test_the_plain_loop_is_sensitive():
    """Each of these changes must be visible in the comparison above."""
    splits = toy_splits()
    config = coursework(learning_rate=0.05, epochs=2, l2=0.1, batch_size=32, dtype="float64", decay_every=1)
    W, _ = plain_training(splits, config)
    for change in ({"l2": 0.05}, {"batch_size": 31}, {"seed": 43}, {"decay_every": 0}, {"flip": True}):
        assert relative(train(splits, replace(config, **change)).model.layer.weights, W) > 1e-6, change


def test_history_and_scores_are_those_of_the_weights():
    splits = toy_splits()
    config = coursework(learning_rate=0.05, epochs=3, l2=0.2, dtype="float64", decay_every=2, decay_factor=0.1)
    result = train(splits, config)
    history = result.state.history
    assert [record.epoch for record in history] == [1, 2, 3]
    assert [record.learning_rate for record in history] == pytest.approx([0.05, 0.05, 0.005], rel=1e-15)
    assert history[0].test_accuracy is not None
    assert history[1].test_accuracy is None
    R, y = splits.dataset.rows.astype(float), splits.dataset.labels
    m, s = R[splits.train.indices].mean(0), R[splits.train.indices].std(0)
    s[s == 0] = 1
    for number, record in enumerate(history, 1):
        W, b = plain_training(splits, replace(config, epochs=number))
        S = (R - m) / s @ W + b
        losses = -np.log(np.exp(S)[np.arange(len(y)), y] / np.exp(S).sum(1))
        right = S.argmax(1) == y
        penalty = 0.2 * (W**2).sum()
        for name in ("train", "validation"):
            places = getattr(splits, name).indices
            assert getattr(record, f"{name}_loss") == pytest.approx(losses[places].mean(), rel=1e-12)
            assert getattr(record, f"{name}_cost") == pytest.approx(losses[places].mean() + penalty, rel=1e-12)
            assert getattr(record, f"{name}_accuracy") == right[places].mean()
        if record.test_accuracy is not None:
            assert record.test_accuracy == right[splits.test.indices].mean()
    assert result.scores["test"].loss == pytest.approx(losses[splits.test.indices].mean(), rel=1e-12)
    assert result.scores["test"].accuracy == history[-1].test_accuracy
    assert result.scores["train"].cost == history[-1].train_cost


def test_same_seed_same_bits_other_seed_other_bits():
    splits = toy_splits()
    config = coursework(epochs=2, learning_rate=0.05)
    first, second = train(splits, config), train(splits, config)
    assert first.model.layer.weights.tobytes() == second.model.layer.weights.tobytes()
    other = train(splits, replace(config, seed=1))
    assert relative(other.model.layer.weights, first.model.layer.weights) > 1e-3


THREADS = """
import hashlib
import numpy as np
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.dataset import Dataset
from onelayer.data.protocols import split
from onelayer.training.train import train
rng = np.random.default_rng(0)
rows = rng.integers(0, 256, (1000, 3072), dtype=np.uint8)  # OpenBLAS shares out a product of this size
dataset = Dataset(rows, rng.integers(0, 10, 1000), tuple("abcdefghij"), (3, 32, 32), "noise")
result = train(split(dataset, SplitConfig()), TrainConfig(epochs=2, init_std=0.01))
print(hashlib.sha256(result.model.layer.weights.tobytes()).hexdigest(), result.scores)
"""


def test_same_bits_for_any_number_of_blas_threads():
    outputs = {
        subprocess.run(
            [sys.executable, "-c", THREADS],
            env=os.environ | {"OPENBLAS_NUM_THREADS": threads, "OMP_NUM_THREADS": threads},
            capture_output=True,
            text=True,
            check=True,
        ).stdout
        for threads in ("1", "2", "3")
    }
    assert len(outputs) == 1
    assert len(outputs.pop()) > 64


@pytest.mark.parametrize("stop", [0, 1, 3])
@pytest.mark.parametrize(
    "settings", [{}, {"flip": True, "l2": 0.1, "decay_every": 2}, {"dtype": "float64"}, {"shuffle_blocks": 1}]
)
def test_resumed_equals_uninterrupted(stop, settings):
    splits = toy_splits()
    config = coursework(epochs=5, learning_rate=0.05, batch_size=32, **settings)
    whole = train(splits, config)
    part = train(splits, replace(config, epochs=stop))
    resumed = train(splits, config, start=part.state)
    assert resumed.model.layer.weights.tobytes() == whole.model.layer.weights.tobytes()
    assert resumed.model.layer.bias.tobytes() == whole.model.layer.bias.tobytes()
    assert resumed.state.rng_state == whole.state.rng_state
    assert resumed.scores == whole.scores
    for a, b in zip(resumed.state.history, whole.state.history, strict=True):
        assert replace(a, seconds=0) == replace(b, seconds=0)


def test_validation_and_test_rows_change_nothing_in_the_weights():
    dataset = toy_dataset()
    splits = split(dataset, SplitConfig())
    config = coursework(epochs=3, learning_rate=0.05)
    rows, labels = dataset.rows.copy(), dataset.labels.copy()
    for part in (splits.validation, splits.test):
        rows[part.indices] = 255 - rows[part.indices]
        labels[part.indices] = labels[part.indices[::-1]]
    changed = Dataset(rows, labels, dataset.class_names, dataset.image_shape, "changed")
    before = train(splits, config)
    after = train(
        replace(
            splits,
            train=replace(splits.train, dataset=changed),
            validation=replace(splits.validation, dataset=changed),
            test=replace(splits.test, dataset=changed),
        ),
        config,
    )
    assert after.model.layer.weights.tobytes() == before.model.layer.weights.tobytes()
    assert after.scores["test"] != before.scores["test"]


def test_no_epochs_leave_the_initial_weights():
    splits = toy_splits()
    result = train(splits, coursework(epochs=0, dtype="float64"))
    expected = (np.random.default_rng(42).standard_normal((4, 60)) * 0.01).T
    expected[7] = 0  # the constant feature's
    assert np.array_equal(result.model.layer.weights, expected)
    assert not result.model.layer.bias.any()
    assert result.state.history == ()
    assert set(result.scores) == {"train", "validation", "test"}


def test_a_step_that_is_too_long_is_reported_with_the_epoch():
    seen = []
    with pytest.raises(DivergedError, match=r"after epoch 2 .* try a learning rate below 1e\+14") as caught:
        train(toy_splits(), coursework(learning_rate=1e14, l2=1.0, epochs=5, batch_size=1000), on_epoch=seen.append)
    assert caught.value.epoch == 2
    assert [state.epoch for state in seen] == [1]
    assert np.isfinite(seen[0].layer.weights).all()


def test_validation_that_overflows_is_divergence_too():
    dataset = toy_dataset(dtype="float32", image_shape=None)
    splits = split(dataset, SplitConfig())
    rows = dataset.rows.copy()
    rows[splits.validation.indices] = 3e38
    huge = Dataset(rows, dataset.labels, dataset.class_names, None, "huge")
    with pytest.raises(DivergedError, match="after epoch 1"):
        train(replace(splits, validation=replace(splits.validation, dataset=huge)), coursework(init_std=1e4))


@pytest.mark.parametrize("backend", ["auto", "numpy"])
@pytest.mark.parametrize("blocks", [0, 2])
def test_a_batch_size_beyond_all_rows_is_all_rows(backend, blocks):
    splits = toy_splits()
    whole, beyond = (
        train(splits, coursework(epochs=2, batch_size=size, backend=backend, shuffle_blocks=blocks))
        for size in (len(splits.train), 10**30)
    )
    assert beyond.model.layer.weights.tobytes() == whole.model.layer.weights.tobytes()


def test_flips_need_images():
    with pytest.raises(ConfigError, match="flip needs images, but the rows of toy are not images"):
        train(toy_splits(image_shape=None), coursework(flip=True))


def test_a_state_that_was_handed_out_does_not_change():
    states = []
    train(toy_splits(), coursework(epochs=3, learning_rate=0.05), on_epoch=states.append)
    assert states[0].layer.weights.tobytes() != states[1].layer.weights.tobytes()


@pytest.fixture(scope="module")
def cifar_splits(cifar):
    return load_splits(cifar, SplitConfig())


def test_coursework_figures(cifar_splits):
    """The figures that the course prints, for seed 42 in float64: cost 1.972 after an epoch, 39.13 % in the end."""
    result = train(cifar_splits, coursework(learning_rate=0.001, dtype="float64"))
    assert f"{result.state.history[0].train_cost:.3f}" == "1.972"
    assert result.scores["test"].accuracy == 0.3913
    single = train(cifar_splits, coursework(learning_rate=0.001))  # by the compiled kernel where there is one
    for name, score in result.scores.items():
        assert abs(single.scores[name].accuracy - score.accuracy) <= 0.002


def test_penalised_setting_on_real_data(cifar_splits):
    result = train(cifar_splits, coursework(l2=1.0))
    assert result.scores["train"].accuracy == pytest.approx(0.400, abs=0.005)
    assert result.scores["validation"].accuracy == pytest.approx(0.365, abs=0.007)
    assert result.scores["test"].accuracy == pytest.approx(0.374, abs=0.006)
    assert result.state.history[0].test_accuracy == pytest.approx(0.302, abs=0.01)


def test_test_rows_are_left_alone_if_asked():
    splits = toy_splits()
    config = coursework(epochs=3)
    quiet, loud = (train(splits, config, report_test=report) for report in (False, True))
    assert set(quiet.scores) == {"train", "validation"}
    assert [record.test_accuracy for record in quiet.state.history] == [None] * 3
    assert quiet.model.layer.weights.tobytes() == loud.model.layer.weights.tobytes()
    assert loud.state.history[0].test_accuracy is not None


def test_a_state_that_is_complete_keeps_its_test_accuracy():
    splits, config = toy_splits(), coursework(epochs=2)
    state = train(splits, config).state
    again = train(splits, config, start=state, report_test=False).state
    assert again.history == state.history


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_training_rows_alone_are_enough(backend):
    splits = toy_splits()
    nothing = np.empty(0, np.int64)
    alone = replace(
        splits, validation=replace(splits.validation, indices=nothing), test=replace(splits.test, indices=nothing)
    )
    config = coursework(learning_rate=0.01, epochs=3, backend=backend)
    found, expected = train(alone, config), train(splits, config)
    np.testing.assert_array_equal(found.model.layer.weights, expected.model.layer.weights)
    assert found.scores == {"train": expected.scores["train"]}
    assert np.isnan([record.validation_cost for record in found.state.history]).all()
    assert [record.train_cost for record in found.state.history] == [r.train_cost for r in expected.state.history]
    assert {record.test_accuracy for record in found.state.history} == {None}


def test_a_standardizer_of_ones_own():
    splits = toy_splits(dtype="float32")
    config = coursework(learning_rate=0.01, epochs=3, dtype="float64")
    d = splits.dataset.rows.shape[1]
    rows = ((splits.dataset.rows.astype(float) - 5) / 2).astype(np.float64)
    plain = split(replace(splits.dataset, rows=rows), SplitConfig())
    found = train(splits, config, standardizer=Standardizer(np.full(d, 5.0), np.full(d, 2.0)))
    expected = train(plain, config, standardizer=Standardizer(np.zeros(d), np.ones(d)))
    assert relative(found.model.layer.weights, expected.model.layer.weights) < 1e-12
    assert relative(found.model.layer.weights, train(splits, config).model.layer.weights) > 1e-3


@pytest.mark.parametrize("backend", ["auto", "numpy"])
@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_a_row_of_weight_two_is_trained_and_scored_as_two(backend, dtype):
    dataset = toy_dataset(dtype=dtype)
    counts = np.random.default_rng(1).integers(0, 4, 300).astype(np.float64)
    parts = {"train": np.arange(200), "validation": np.arange(200, 260), "test": np.arange(260, 300)}

    def fit(dataset, places):
        splits = Splits(**{name: Split(name, dataset, at) for name, at in places.items()}, protocol="made")
        return train(splits, coursework(learning_rate=0.05, l2=0.1, batch_size=1000, epochs=9, backend=backend))

    kept = {name: at[counts[at] > 0] for name, at in parts.items()}
    weighted = fit(replace(dataset, row_weights=counts / counts[kept["train"]].mean()), kept)
    repeated = fit(dataset, {name: at.repeat(counts[at].astype(int)) for name, at in parts.items()})
    assert relative(weighted.model.layer.weights, repeated.model.layer.weights) < 1e-5
    assert relative(fit(dataset, kept).model.layer.weights, repeated.model.layer.weights) > 1e-2
    for name, score in repeated.scores.items():
        assert weighted.scores[name].cost == pytest.approx(score.cost, rel=1e-5)
        assert weighted.scores[name].accuracy == pytest.approx(score.accuracy, rel=1e-12)


def test_float64_features_are_trained_by_numpy():
    dataset = toy_dataset(dtype="float32")
    rows = dataset.rows.astype("float64")
    splits, same = (split(replace(dataset, rows=r), SplitConfig()) for r in (rows, rows.astype("float32")))
    config = coursework(learning_rate=0.01, epochs=3)
    result = train(splits, config)
    assert result.backend == "numpy"
    assert relative(result.model.layer.weights, train(same, config).model.layer.weights) < 1e-5
    with pytest.raises(ConfigError, match="the backend native needs uint8, float16 or float32 rows in C order"):
        train(splits, replace(config, backend="native"))


@pytest.mark.parametrize("backend", ["auto", "numpy"])
@pytest.mark.parametrize("weights", [None, np.zeros(300)])
def test_without_training_rows_there_is_nothing_to_train_on(backend, weights):
    splits = toy_splits()
    dataset = replace(splits.dataset, row_weights=weights)
    indices = splits.train.indices[: None if weights is not None else 0]
    empty = replace(splits, train=Split("train", dataset, indices))
    for options in ({}, {"standardizer": splits.standardizer}):
        with pytest.raises(DataError, match="toy has no rows of a weight above 0 to train on; pass at least one"):
            train(empty, coursework(epochs=1, backend=backend), **options)


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_a_validation_split_of_weight_zero_has_no_scores(backend):
    splits = toy_splits()
    weights = np.ones(300)
    weights[splits.validation.indices] = 0
    dataset = replace(splits.dataset, row_weights=weights)
    weighted = {part.name: replace(part, dataset=dataset) for part in splits}
    result = train(replace(splits, **weighted), coursework(epochs=2, backend=backend))
    assert set(result.scores) == {"train", "test"}


@settings(max_examples=40, deadline=None)
@given(st.data())
def test_a_row_of_weight_two_is_the_row_twice_in_training_and_evaluation(data):
    n, d, K = (data.draw(st.integers(low, high)) for low, high in ((2, 30), (1, 8), (2, 5)))
    rng = np.random.default_rng(data.draw(st.integers(0, 2**32 - 1)))
    counts = rng.integers(0, 4, n)
    counts[rng.integers(n)] = 2
    rows, labels = rng.integers(0, 256, (n, d)), rng.integers(0, K, n)
    rows[:, 0] = data.draw(st.sampled_from([rows[:, 0], np.full(n, 7)]))
    dataset = Dataset(
        rows.astype(data.draw(st.sampled_from(["uint8", "float32", "float64"]))),
        labels,
        tuple(map(str, range(K))),
        None,
        "drawn",
    )
    config = coursework(
        learning_rate=0.1,
        l2=data.draw(st.sampled_from([0.0, 0.3])),
        batch_size=1000,
        epochs=3,
        loss=data.draw(st.sampled_from(["softmax", "sigmoid"])),
        dtype="float64",
    )

    def fit(dataset, places):
        parts = {name: Split(name, dataset, places) for name in ("train", "validation", "test")}
        result = train(Splits(**parts, protocol="drawn"), config)
        return result, evaluate(result.model, parts["test"])

    places = np.arange(n)
    weighted, counted = fit(replace(dataset, row_weights=counts / counts.mean()), places)
    repeated, expected = fit(dataset, places.repeat(counts))
    initial = TrainingState.initial(d, K, config).layer.weights
    assert np.abs(repeated.model.layer.bias).max() > 1e-4 or np.abs(repeated.model.layer.weights - initial).max() > 1e-4
    np.testing.assert_allclose(weighted.model.layer.weights, repeated.model.layer.weights, rtol=1e-8, atol=1e-10)
    np.testing.assert_allclose(weighted.model.layer.bias, repeated.model.layer.bias, rtol=1e-8, atol=1e-10)
    assert weighted.scores["test"].cost == pytest.approx(repeated.scores["test"].cost, rel=1e-9)
    assert counted.loss == pytest.approx(expected.loss, rel=1e-9)
    best = np.sort(repeated.model.logits(dataset.rows))[:, -2:]  # (n, 2)
    assume((best[:, 1] - best[:, 0] > 1e-9).all())  # of equal logits, rounding chooses
    assert counted.accuracy == pytest.approx(expected.accuracy, rel=1e-9)
    assert counted.confusion / counted.confusion.sum() == pytest.approx(expected.confusion / expected.confusion.sum())


@pytest.mark.parametrize(("offset", "deviation"), [(1.7e9, 5.0), (1e6, 1e-3)])
def test_features_further_from_zero_than_float32_has_digits_for(offset, deviation):
    dataset = toy_dataset(dtype="float64")
    near, far = (
        split(replace(dataset, rows=rows), SplitConfig())
        for rows in (dataset.rows, offset + deviation * (dataset.rows - dataset.rows.mean()) / dataset.rows.std())
    )
    config = coursework(learning_rate=0.01, epochs=3)
    expected, found = (train(splits, config) for splits in (near, far))
    assert found.backend == "numpy"
    assert relative(found.model.layer.weights, expected.model.layer.weights) < 1e-4
    assert found.scores["test"].accuracy == expected.scores["test"].accuracy > 0.4
