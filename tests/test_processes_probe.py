"""Probes of rows that are divided among processes, which are threads here, against one process and scikit-learn."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from threads import held_by, in_threads

from onelayer.analysis.evaluation import evaluate
from onelayer.config import SplitConfig
from onelayer.data.dataset import Dataset, Splits
from onelayer.data.formats.shards import write_manifest
from onelayer.data.protocols import refitted, split
from onelayer.errors import ConfigError
from onelayer.experiments.probe import Probe, load_features, probe, probe_few, require_processes, save
from onelayer.experiments.probe.logistic import DINO
from onelayer.processes import Processes
from onelayer.runs.directory import FollowedRun, Run


def features(n: int = 600, d: int = 8, K: int = 4, *, seed: int = 0, weighted: bool = False) -> Splits:
    """Rows of classes that overlap, float32; there are test rows, and a tenth of the others validates."""
    rng = np.random.default_rng(seed)
    y = rng.integers(K, size=n)
    X = (rng.normal(size=(K, d))[y] + rng.normal(size=(n, d)) * rng.uniform(0.5, 3, d) + 1).astype(np.float32)
    weights = rng.integers(1, 3, n).astype(float) if weighted else None
    parts = {"train": slice(n // 4, n), "test": slice(n // 4)}
    return split(
        Dataset(X, y, tuple("abcdefgh"[:K]), None, "toy", parts, row_weights=weights), SplitConfig(validation_size=0.1)
    )


def owners(splits: Splits, rng: np.random.Generator, size: int) -> np.ndarray:
    """A holder for each row: uneven shares, or one class for each process; rank 0 has the test rows, which it reads."""
    n = len(splits.dataset.labels)
    by_class = rng.random() < 0.3
    owner = splits.dataset.labels % size if by_class else rng.choice(size, n, p=rng.dirichlet(np.full(size, 0.4)))
    owner[splits.test.indices] = 0
    return owner


def probed(splits: Splits, owner: np.ndarray, size: int, recipe: str, normalize: str = "none") -> list[Probe]:
    return in_threads(size, lambda processes: probe(held_by(splits, owner, processes), recipe, normalize))


def assert_same_probe(one: Probe, several: list[Probe], tolerance: float) -> None:
    W, b = one.outcome.model.layer.weights, one.outcome.model.layer.bias
    assert np.abs(W).max() > 0.01
    for other in several:
        layer = other.outcome.model.layer
        assert np.abs(layer.weights - W).max() <= tolerance * np.abs(W).max()
        assert np.abs(layer.bias - b).max() <= tolerance * np.abs(b).max()
        assert np.array_equal(layer.weights, several[0].outcome.model.layer.weights)  # every process has the same bits
        assert [trial.value for trial in other.outcome.trials] == [trial.value for trial in one.outcome.trials]
        assert [trial.accuracy for trial in other.outcome.trials] == pytest.approx(
            [trial.accuracy for trial in one.outcome.trials], abs=1e-12
        )
        assert getattr(other.outcome.chosen, "value", None) == getattr(one.outcome.chosen, "value", None)
    assert np.array_equal(several[0].evaluation.predictions, one.evaluation.predictions)
    assert several[0].evaluation.loss == pytest.approx(one.evaluation.loss, rel=10 * tolerance)


@pytest.mark.parametrize("size", [2, 3])
def test_the_chosen_C_is_that_of_one_process_and_of_scikit_learn(size: int):
    from sklearn.linear_model import LogisticRegression

    splits = features()
    one = probe(splits, "dino")
    assert_same_probe(one, probed(splits, np.arange(600) % size * (np.arange(600) >= 150), size, "dino"), 1e-6)
    R, y = splits.dataset.rows.astype(float), splits.dataset.labels
    train, validation, test = (part.indices for part in splits)
    accuracies = [
        LogisticRegression(C=C, tol=1e-10, max_iter=5000).fit(R[train], y[train]).score(R[validation], y[validation])
        for C in DINO
    ]
    assert one.outcome.chosen.value == DINO[int(np.argmax(accuracies))]
    assert np.ptp(accuracies) > 0.2
    both = np.concatenate([train, validation])
    reference = LogisticRegression(C=one.outcome.chosen.value, tol=1e-10, max_iter=5000).fit(R[both], y[both])
    assert np.array_equal(one.evaluation.predictions, reference.predict(R[test]))


@pytest.mark.parametrize(("recipe", "normalize"), [("clip", "standardize"), ("dino", "unit")])
def test_other_scales_and_clip(recipe: str, normalize: str):
    splits = features(weighted=True)
    owner = owners(splits, np.random.default_rng(1), 3)
    assert_same_probe(probe(splits, recipe, normalize), probed(splits, owner, 3, recipe, normalize), 1e-6)


@settings(deadline=None, max_examples=15)
@given(
    st.integers(2, 4),
    st.integers(0, 2**32 - 1),
    st.booleans(),
    st.booleans(),
    st.sampled_from(["ridge", "nearest-mean"]),
    st.sampled_from(["none", "unit", "standardize"]),
)
def test_closed_forms_agree_for_any_division(
    size: int, seed: int, weighted: bool, wide: bool, recipe: str, normalize: str
):
    """Processes without rows or without a class; more features than rows, too."""
    splits = features(90, 120 if wide else 6, seed=seed % 1000, weighted=weighted)
    owner = owners(splits, np.random.default_rng(seed), size)
    assert_same_probe(probe(splits, recipe, normalize), probed(splits, owner, size, recipe, normalize), 1e-9)


def test_few_rows_are_those_of_one_process():
    """With one shot, most processes have no row of most classes."""
    splits = features()
    owner = owners(splits, np.random.default_rng(2), 3)
    one = probe_few(splits, [1, 4], [0, 7], "dino")
    several = in_threads(3, lambda processes: probe_few(held_by(splits, owner, processes), [1, 4], [0, 7], "dino"))
    for place, found in enumerate(one):
        assert_same_probe(found, [of_rank[place] for of_rank in several], 1e-5)
        assert (several[1][place].shots, several[1][place].seed) == (found.shots, found.seed)


@pytest.mark.parametrize("recipe", ["ridge", "dino"])
def test_the_run_has_the_scores_of_all_rows(recipe: str, tmp_path: Path):
    splits, config = features(weighted=True), SplitConfig(validation_size=0.1)
    owner = owners(splits, np.random.default_rng(3), 3)
    save(probe(splits, recipe), Run.create(tmp_path / "one"), config)

    def work(processes: Processes) -> None:
        found = probe(held_by(splits, owner, processes), recipe)
        run = Run.create(tmp_path / "0") if not processes.rank else FollowedRun(tmp_path / str(processes.rank))
        save(found, run, config)

    in_threads(3, work)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["0", "one"]
    one, other = Run.open(tmp_path / "one"), Run.open(tmp_path / "0")
    for part, score in zip(refitted(splits), one.scores.values(), strict=True):
        expected, name = evaluate(one.model, part), part.name
        assert (score.loss, score.accuracy) == pytest.approx((expected.loss, expected.accuracy), rel=1e-12)
        assert other.scores[name].loss == pytest.approx(score.loss, rel=1e-6)
        assert other.scores[name].accuracy == pytest.approx(score.accuracy, abs=1e-12)
    assert one.scores["train"].accuracy > 0.4


def test_each_process_reads_its_shards(tmp_path: Path):
    splits = features()
    shards, labels = {}, {}
    for part, where in splits.dataset.parts.items():
        files = []
        for number, places in enumerate(np.array_split(np.arange(600)[where], 2)):
            files.append(tmp_path / f"{part}_{number}.npy")
            np.save(files[-1], splits.dataset.rows[places])
        shards[part], labels[part] = files, splits.dataset.labels[where]
    write_manifest(tmp_path / "toy.shards.json", {"train": shards["train"], "test": shards["test"]}, labels)

    def work(processes: Processes) -> tuple[Probe, np.ndarray]:
        found, _ = load_features(str(tmp_path / "toy.shards.json"), processes=processes)
        return probe(found, "dino"), found.dataset.rows.any(axis=1)

    one = probe(load_features(str(tmp_path / "toy.shards.json"))[0], "dino")
    several = in_threads(3, work)
    assert_same_probe(one, [found for found, _ in several], 1e-6)
    assert [int(read.sum()) for _, read in several] == [150 + 225, 75 + 225, 0]  # two shards for three processes


def test_neighbours_are_for_one_process():
    def work(processes: Processes) -> None:
        require_processes("ridge", processes)
        require_processes("knn", processes)

    with pytest.raises(ConfigError, match="the recipe knn compares rows with each other, which one process must hold"):
        in_threads(2, work)
