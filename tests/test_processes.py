"""Training on rows that are divided among processes, which are threads here, against training in one process."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import coursework, toy_dataset
from hypothesis import given, settings
from hypothesis import strategies as st
from threads import held_by, in_threads

from onelayer.analysis.certification import certify_model
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.dataset import Splits
from onelayer.data.division import divided
from onelayer.data.protocols import split
from onelayer.errors import ConfigError
from onelayer.processes import (
    ALONE,
    Processes,
    bytes_of_first,
    gathered,
    largest,
    require_same,
    share,
    shares_by_size,
    summed,
)
from onelayer.training.converging import preconditioner
from onelayer.training.state import TrainingResult, warn_of_units
from onelayer.training.train import train

EXACT = coursework(epochs=3, learning_rate=0.05, l2=0.1, batch_size=32, dtype="float64")


def splits_of(**options: object) -> Splits:
    return split(toy_dataset(**options), SplitConfig())


def trained(splits: Splits, config: TrainConfig, owner: np.ndarray, size: int) -> list[TrainingResult]:
    return in_threads(size, lambda processes: train(held_by(splits, owner, processes), config))


def assert_same_training(one: TrainingResult, several: list[TrainingResult], tolerance: float) -> None:
    W, b = one.state.layer.weights, one.state.layer.bias
    assert np.abs(W).max() > 0.01
    for other in several:
        found = other.state.layer
        assert np.abs(found.weights - W).max() <= tolerance * np.abs(W).max()
        assert np.abs(found.bias - b).max() <= tolerance * np.abs(W).max()
        assert other.ended == one.ended
        assert other.kept_epoch == one.kept_epoch
        assert other.scores.keys() == one.scores.keys()
        for name, score in one.scores.items():
            assert other.scores[name].accuracy == pytest.approx(score.accuracy, abs=1e-12)
            assert other.scores[name].loss == pytest.approx(score.loss, rel=10 * tolerance)
        first = several[0].state.layer  # every process holds the same bits
        assert np.array_equal(found.weights, first.weights)
        assert np.array_equal(found.bias, first.bias)


def test_alone_does_nothing():
    array = np.arange(3.0)
    assert ALONE.sum(array) is array
    assert ALONE.broadcast(array) is array
    assert (ALONE.rank, ALONE.size) == (0, 1)
    splits = splits_of()
    assert divided(splits, ALONE) is splits


def test_sums_of_several():
    def work(processes: Processes) -> tuple[list[np.ndarray], np.ndarray, float, bytes]:
        own = float(processes.rank + 1)
        content = b"from rank 0" if not processes.rank else b""
        sums = summed(processes, own, np.full((2, 3), own))
        return (
            sums,
            gathered(processes, np.array([processes.rank], np.int8)),
            largest(processes, -own),
            bytes_of_first(processes, content),
        )

    for (number, array), ranks, least, content in in_threads(3, work):
        assert number == 6
        assert np.array_equal(array, np.full((2, 3), 6))
        assert ranks.ravel().tolist() == [0, 1, 2]
        assert least == -1
        assert content == b"from rank 0"


@given(st.integers(0, 50), st.integers(1, 7))
def test_shares_cover_everything_once(count: int, size: int):
    shares = [range(count)[share(count, rank, size)] for rank in range(size)]
    assert [place for of_rank in shares for place in of_rank] == list(range(count))
    assert max(map(len, shares)) - min(map(len, shares)) <= 1


def test_large_shards_go_to_different_processes():
    assert shares_by_size([5, 1, 5, 1, 2], 2) == [[0, 4], [1, 2, 3]]
    assert shares_by_size([3], 2) == [[0], []]


def test_facts_that_differ_are_named():
    def work(processes: Processes) -> None:
        require_same(processes, {"the settings": processes.rank == 2, "the data": "a"})

    with pytest.raises(ConfigError, match="rank 2 and rank 0 differ in the settings; start all with the same command"):
        in_threads(3, work)


@pytest.mark.parametrize("size", [2, 3, 4])
def test_float64_agrees_with_one_process(size: int):
    splits = splits_of()
    owner = np.arange(len(splits.dataset.rows)) * size // len(splits.dataset.rows)
    assert_same_training(train(splits, EXACT), trained(splits, EXACT, owner, size), 1e-12)


@settings(deadline=None, max_examples=15)
@given(st.integers(1, 4), st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.sampled_from([0.0, 0.8]))
def test_any_division_agrees(size: int, seed: int, weighted: bool, flip: bool, momentum: float):
    """Uneven shares, processes without rows or without a class, weights, flips and momentum."""
    rng = np.random.default_rng(seed)
    dataset = toy_dataset(120, seed=3)
    if weighted:
        dataset = replace(dataset, row_weights=rng.uniform(0, 2, 120))
    splits = split(dataset, SplitConfig())
    owner = rng.choice(size, 120, p=rng.dirichlet(np.full(size, 0.4)))
    by_class = rng.random() < 0.3
    owner = dataset.labels % size if by_class else owner
    config = replace(EXACT, flip=flip, momentum=momentum, init_std=0.0, epochs=2, class_weight="balanced")
    assert_same_training(train(splits, config), trained(splits, config, owner, size), 1e-11)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_defaults_agree_in_float32_until_training_ends_by_itself(dtype: str):
    """With a measured learning rate, decays and an end where the validation loss stops falling."""
    splits = splits_of(dtype=dtype)
    config = TrainConfig(seed=1)
    one = train(splits, config)
    assert 3 < one.state.epoch < 1000
    owner = np.arange(len(splits.dataset.rows)) % 3
    several = trained(splits, replace(config, epochs=4), owner, 3)
    assert_same_training(train(splits, replace(config, epochs=4)), several, 1e-4)
    ended = trained(splits, config, owner, 3)
    assert {result.state.epoch for result in ended} == {ended[0].state.epoch}
    assert ended[0].ended == one.ended


def test_blocks_are_shuffled_as_in_one_process():
    splits = splits_of()
    config = replace(EXACT, shuffle_blocks=8)
    owner = np.arange(len(splits.dataset.rows)) % 2
    assert_same_training(train(splits, config), trained(splits, config, owner, 2), 1e-12)


def test_division_of_rows_that_all_can_read():
    splits = splits_of()
    refitted = split(splits.dataset, SplitConfig(refit=True))

    def work(processes: Processes) -> tuple[Splits, Splits]:
        return divided(splits, processes), divided(refitted, processes)

    found = in_threads(3, work)
    for version in (0, 1):
        for name in ("train", "validation", "test"):
            whole = getattr((splits, refitted)[version], name)
            parts = [getattr(of_rank[version], name).mine for of_rank in found]
            assert np.array_equal(np.sort(np.concatenate([part.indices for part in parts])), np.sort(whole.indices))
            if (version, name) != (1, "validation"):
                assert max(map(len, parts)) - min(map(len, parts)) <= 1
    assert found[1][0].dataset.fingerprint == splits.dataset.fingerprint


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_standardizer_of_several_is_that_of_one(dtype: str):
    splits = splits_of(dtype=dtype)
    owner = np.where(np.arange(len(splits.dataset.rows)) < 250, 0, 2)  # rank 1 has no rows
    expected = splits.standardizer
    for found in in_threads(3, lambda processes: held_by(splits, owner, processes).standardizer):
        tolerance = 0 if dtype == "uint8" else 1e-13
        np.testing.assert_allclose(found.mean, expected.mean, rtol=tolerance)
        np.testing.assert_allclose(found.scale, expected.scale, rtol=tolerance)
        assert np.array_equal(found.constant, expected.constant)
        assert expected.constant.any()


def test_looks_at_rows_that_others_hold():
    splits = splits_of(dtype="float32")
    owner = np.zeros(len(splits.dataset.rows), int)

    def work(processes: Processes) -> np.ndarray:
        held = held_by(splits, owner, processes)
        warn_of_units(held)
        return held.test.rows_of_all(np.arange(5))

    for rows in in_threads(2, work):
        assert np.array_equal(rows, splits.test.rows(slice(0, 5)))


@pytest.mark.parametrize("size", [2, 3])
@pytest.mark.parametrize("flip", [False, True])
@pytest.mark.parametrize("solver", ["sgd", "converged"])
def test_devices_of_several_processes_train_as_one(size: int, solver: str, flip: bool):
    """With three processes, one has no rows."""
    pytest.importorskip("torch")
    splits = splits_of(dtype="float32")
    owner = np.where(np.arange(len(splits.dataset.rows)) < 180, 0, size - 1)
    config = replace(EXACT, flip=flip, backend="torch", device="cpu")
    if solver == "converged":
        config = replace(CONVERGED, l2=0.05, tol=1e-9, flip=flip, backend="torch", device="cpu")
    several = trained(splits, config, owner, size)
    assert_same_training(train(splits, config), several, 1e-12 if solver == "sgd" else 1e-8)


CONVERGED = TrainConfig(solver="converged", l2=1e-3, tol=1e-6, dtype="float64")


@pytest.mark.parametrize("size", [2, 3, 4])
def test_converged_agrees_with_one_process(size: int):
    splits = splits_of(dtype="float32")
    owner = np.arange(len(splits.dataset.rows)) * size // len(splits.dataset.rows)
    several = trained(splits, CONVERGED, owner, size)
    one = train(splits, CONVERGED)
    assert_same_training(one, several, 1e-9)
    assert [result.state.epoch for result in several] == [one.state.epoch] * size
    assert one.state.history[-1].gap < 1e-6 * one.state.history[-1].train_cost


@settings(deadline=None, max_examples=20)
@given(st.integers(2, 4), st.integers(0, 2**32 - 1), st.booleans(), st.booleans(), st.booleans(), st.booleans())
def test_converged_agrees_for_any_division(
    size: int, seed: int, weighted: bool, flip: bool, sigmoid: bool, large: bool
):
    """Uneven shares, processes without rows or without a class; Newton's method, and L-BFGS with a basis."""
    rng = np.random.default_rng(seed)
    dataset = toy_dataset(150, K=4 if large else 3, seed=3)
    if not large:  # few enough features for Newton's method
        rows = np.ascontiguousarray(dataset.rows[:, :12])
        dataset = replace(dataset, rows=rows, image_shape=(1, 3, 4), labels=dataset.labels)
    if weighted:
        dataset = replace(dataset, row_weights=rng.integers(0, 3, 150).astype(float))
    splits = split(dataset, SplitConfig())
    owner = dataset.labels % size if rng.random() < 0.3 else rng.choice(size, 150, p=rng.dirichlet(np.full(size, 0.4)))
    loss = "sigmoid" if sigmoid else "softmax"
    config = replace(CONVERGED, l2=0.01, tol=1e-9, flip=flip, loss=loss)
    assert_same_training(train(splits, config), trained(splits, config, owner, size), 1e-6)


def test_certificate_is_that_of_one_process():
    splits = splits_of(dtype="float32")
    result = train(splits, CONVERGED)
    owner = np.where(np.arange(len(splits.dataset.rows)) < 250, 0, 2)
    expected = certify_model(result.model, splits, CONVERGED)
    work = lambda processes: certify_model(result.model, held_by(splits, owner, processes), CONVERGED)  # noqa: E731
    for found in in_threads(3, work):
        assert found.cost == pytest.approx(expected.cost, rel=1e-12)
        assert found.bound == pytest.approx(expected.bound, rel=1e-9)
        assert expected.bound > 0.01
        assert found.rows == expected.rows


@pytest.mark.parametrize("l2", [1e-4, 1.0])
def test_wide_rows_are_sketched_from_all(l2: int, monkeypatch: pytest.MonkeyPatch):
    """A sketch, or a Cholesky factor, of rows that several processes hold."""
    monkeypatch.setattr(preconditioner, "EXACT_COLUMNS", 20)
    monkeypatch.setattr(preconditioner, "SKETCH_ROWS", 60)
    splits = splits_of(dtype="float32")
    owner = np.arange(len(splits.dataset.rows)) * 3 // len(splits.dataset.rows)
    config = replace(CONVERGED, l2=l2)
    assert_same_training(train(splits, config), trained(splits, config, owner, 3), 1e-6)
