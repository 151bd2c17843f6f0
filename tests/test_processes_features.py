"""Features of rows that are divided among processes, which are threads here: each computes those of its own rows."""

from pathlib import Path

import numpy as np
import pytest
from helpers import toy_splits
from patched import pictures
from threads import in_threads

from onelayer.analysis import judgement as judgement_module
from onelayer.analysis.advice import loss_before
from onelayer.analysis.certification import certify_model
from onelayer.analysis.judgement import Judgement, judge
from onelayer.coded import coded, features_of
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data import cache
from onelayer.data.dataset import Split, Splits
from onelayer.data.division import divided
from onelayer.data.protocols import split
from onelayer.errors import ConfigError
from onelayer.features import filters
from onelayer.features.function import Function
from onelayer.features.map import FeatureMap, are_same
from onelayer.features.patches import Patches
from onelayer.layer import SoftmaxLayer
from onelayer.model import Model
from onelayer.processes import Processes
from onelayer.training.state import TrainingResult
from onelayer.training.train import train

SGD = TrainConfig(features="patches:6", epochs=3, learning_rate=0.02, l2=0.01, dtype="float64", backend="numpy")
CONVERGED = TrainConfig(features="patches:6", solver="converged", l2=0.05, tol=1e-8, dtype="float64")


class Views(FeatureMap):
    """Two views of a row: as it is, and times two. It counts the rows that it has seen."""

    name, image_shape, linear, views, d_in, d_out = "views", None, False, 2, 60, 60

    def __init__(self) -> None:
        self.seen = 0

    def transform(self, R: np.ndarray) -> np.ndarray:
        self.seen += len(R)
        return np.stack([R, 2 * R], axis=1).reshape(-1, 60)


@pytest.mark.parametrize("large", [False, True])
def test_each_process_computes_the_features_of_its_rows(large: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(cache, "cache_directory", lambda: tmp_path)
    if large:
        monkeypatch.setattr(cache, "MEMORY_BYTES", 100)
    splits = toy_splits(n=1300, dtype="float32")  # in several blocks
    expected = coded(splits, Views())

    def work(processes: Processes) -> tuple[Splits, int]:
        features, own = Views(), divided(splits, processes)
        coded(own, features)
        return coded(own, features), features.seen  # which rank 0 asks for again, to judge: they are kept

    parts = in_threads(3, work)
    assert sum(seen for _, seen in parts) == 1300
    for name in ("train", "validation", "test"):
        whole = getattr(expected, name)
        of_ranks = [getattr(found, name).mine for found, _ in parts]
        assert np.array_equal(np.sort(np.concatenate([part.indices for part in of_ranks])), np.sort(whole.indices))
        for part in of_ranks:
            assert np.array_equal(part.rows(slice(None)), expected.dataset.rows[part.indices])
            assert len(part) % 2 == 0
    for found, _ in parts:
        dataset = found.dataset
        assert not dataset.rows[~dataset.holding.held].any()
        assert not dataset.is_complete
    assert isinstance(parts[0][0].dataset.rows, np.memmap) == large
    assert not list(tmp_path.glob("rows/*"))


@pytest.fixture
def stripes(monkeypatch: pytest.MonkeyPatch) -> Splits:
    """Stripes under noise; images of 10 x 10 pixels have five views."""
    monkeypatch.setattr(filters, "DRAWN", 2000)  # patches, so that drawing takes little time
    return split(pictures(shape=(3, 10, 10)), SplitConfig())


@pytest.mark.parametrize(("config", "tolerance"), [(SGD, 1e-12), (CONVERGED, 1e-7)])
def test_patches_of_divided_rows_train_as_in_one_process(stripes: Splits, config: TrainConfig, tolerance: float):
    """The map is drawn from the training rows of all; features and their sums are those of each process's rows."""
    one, seen = train(stripes, config), []
    transform = Patches.transform

    def spy(self: Patches, R: np.ndarray, threads: int = 0) -> np.ndarray:
        seen.append(len(R))
        return transform(self, R, threads)

    def work(processes: Processes) -> tuple[TrainingResult, float, Judgement | None]:
        own = divided(stripes, processes)
        result = train(own, config)
        gap = certify_model(result.model, own, config).gap
        return result, gap, None if processes.rank else judge(result, own, config)

    def loss_of_held(model: Model, initial: SoftmaxLayer, rows: Split) -> float:
        assert rows.dataset.holding.held[rows.indices].all()  # all others are zeros
        return loss_before(model, initial, rows)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Patches, "transform", spy)
        patch.setattr(judgement_module, "loss_before", loss_of_held)
        several = in_threads(3, work)
    W = one.model.layer.weights
    assert np.abs(W).max() > 0.01
    for result, gap, judgement in several:
        assert are_same(result.model.features, one.model.features)
        assert np.abs(result.model.layer.weights - W).max() <= tolerance * np.abs(W).max()
        assert np.array_equal(result.model.standardizer.mean, one.model.standardizer.mean)
        assert result.scores["test"].loss == pytest.approx(one.scores["test"].loss, rel=1e-6)
        assert gap == pytest.approx(certify_model(one.model, stripes, config).gap, rel=1e-3, abs=1e-9)
        if judgement:
            expected = judge(one, stripes, config)
            assert judgement.evaluation.accuracy == expected.evaluation.accuracy > 0.5
            assert [reference.name for reference in judgement.references] == [
                reference.name for reference in expected.references if reference.name != "nearest class mean"
            ]
            assert judgement.advice == expected.advice
    drawing = 3 * min(90, 500) * 2  # a map takes its levels from at most 500 images, in two tries here
    assert sum(seen) <= 150 + 30 + drawing  # each row once, and the test rows, which rank 0 judges by


def test_maps_that_differ_are_refused(stripes: Splits):
    def work(processes: Processes) -> None:
        features_of(divided(stripes, processes), TrainConfig(features="patches:6", features_seed=processes.rank // 2))

    with pytest.raises(ConfigError, match="rank 2 and rank 0 differ in the features; start all with the same command"):
        in_threads(3, work)


def test_a_function_of_images_is_asked_for_the_rows_of_each_process(stripes: Splits):
    def function(batch: np.ndarray) -> np.ndarray:
        return batch.astype(np.float32).mean(axis=(1, 2))

    features = Function.of(function, (3, 10, 10))
    config = TrainConfig(epochs=2, dtype="float64", learning_rate=0.1)
    one = train(stripes, config, features=features).model.layer.weights
    for other in in_threads(2, lambda processes: train(divided(stripes, processes), config, features=features)):
        assert np.abs(other.model.layer.weights - one).max() < 1e-12 * np.abs(one).max()
