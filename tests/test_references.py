"""References against scikit-learn's, on rows in memory, in a memory map and as features, and the verdict on them."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import toy_dataset, toy_splits
from sklearn.dummy import DummyClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, log_loss
from sklearn.neighbors import NearestCentroid
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from onelayer.analysis import references
from onelayer.analysis.evaluation import Evaluation, evaluate
from onelayer.analysis.references import Reference, references_for, verdict_of
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.protocols import split as divide
from onelayer.features.map import FeatureMap
from onelayer.training.train import train

# Of a feature that is constant, and on purpose.
pytestmark = pytest.mark.filterwarnings("ignore:self.within_class_std_dev_ has at least 1 zero")


def unequal_splits(n: int = 1500, dtype: str = "float32"):
    """Classes of unequal sizes, mixed up in part."""
    dataset = toy_dataset(n, dtype=dtype)
    rng = np.random.default_rng(4)
    labels = np.where(rng.random(n) < 0.3, rng.choice(4, n, p=[0.7, 0.1, 0.1, 0.1]), dataset.labels)
    return divide(replace(dataset, labels=labels), SplitConfig())


def judged(splits, loss="softmax", features=None):
    model = train(splits, TrainConfig(epochs=2, learning_rate=0.01, loss=loss), features=features).model
    evaluation = evaluate(model, splits.test)
    return model, evaluation, references_for(model, splits.train, splits.test, evaluation)


@pytest.mark.parametrize("dtype", ["uint8", "float32"])
def test_references_are_those_of_scikit_learn(dtype):
    splits = unequal_splits(dtype=dtype)
    _, evaluation, (frequencies, nearest) = judged(splits)
    X, Z = (split.rows(slice(None)).astype(float) for split in (splits.train, splits.test))
    y, z = splits.train.labels, splits.test.labels
    dummy = DummyClassifier(strategy="prior").fit(X, y)
    assert frequencies.name == "always class 0"
    assert frequencies.predictions.tolist() == dummy.predict(Z).tolist()
    assert frequencies.estimates["loss"].value == pytest.approx(log_loss(z, dummy.predict_proba(Z)), rel=1e-12)
    assert frequencies.estimates["accuracy"].value == np.mean(z == 0) > 0.3
    assert frequencies.balanced_accuracy == 1 / 4
    scaler = StandardScaler().fit(X)
    centroids = NearestCentroid().fit(scaler.transform(X), y)
    assert nearest.name == "nearest class mean"
    assert nearest.predictions.tolist() == centroids.predict(scaler.transform(Z)).tolist()
    assert 0.4 < nearest.accuracy < 0.99
    assert "loss" not in nearest.estimates
    for reference in (frequencies, nearest):
        assert reference.labels.tolist() == evaluation.labels.tolist()


def test_rows_count_by_their_weight():
    splits = unequal_splits(600)
    often = np.random.default_rng(0).choice([0, 1, 3], 600)
    _, _, weighted = judged(
        replace_dataset(splits, replace(splits.dataset, row_weights=often / often[splits.train.indices].mean()))
    )
    train, test = (np.repeat(split.indices, often[split.indices]) for split in (splits.train, splits.test))
    repeated = replace(splits, train=replace(splits.train, indices=train), test=replace(splits.test, indices=test))
    _, _, plain = judged(repeated)
    for one, other in zip(weighted, plain, strict=True):
        assert one.accuracy == pytest.approx(other.accuracy, rel=1e-12)
        assert one.balanced_accuracy == pytest.approx(other.balanced_accuracy, rel=1e-12)
        assert np.repeat(one.predictions, often[splits.test.indices]).tolist() == other.predictions.tolist()
    assert weighted[0].estimates["loss"].value == pytest.approx(plain[0].estimates["loss"].value, rel=1e-12)


def replace_dataset(splits, dataset):
    return replace(splits, **{split.name: replace(split, dataset=dataset) for split in splits})


def test_the_loss_of_frequencies_is_the_best_of_a_constant_answer():
    """For sigmoids too: a move of any logit makes it worse on the training rows."""
    splits = unequal_splits(400)
    for name in ("softmax", "sigmoid"):
        model, _, _ = judged(splits, name)
        on_train = evaluate(model, splits.train)
        found = references.class_frequencies(model, splits.train, splits.train, on_train)
        loss, y = model.layer.loss, splits.train.labels
        p = np.bincount(y) / len(y)
        s = np.log(p) if name == "softmax" else np.log(p / (1 - p))
        assert found.estimates["loss"].value == pytest.approx(np.mean(loss.of_rows(np.tile(s, (len(y), 1)), y)))
        for k in range(4):
            for step in (-0.01, 0.01):
                moved = np.tile(s + step * np.eye(4)[k], (len(y), 1))
                assert np.mean(loss.of_rows(moved, y)) > found.estimates["loss"].value


def test_a_class_without_training_rows():
    splits = toy_splits(n=200)
    without = splits.train.indices[splits.train.labels != 2]
    splits = replace(splits, train=replace(splits.train, indices=without))
    _, evaluation, (frequencies, nearest) = judged(splits)
    assert (evaluation.labels == 2).any()
    assert np.isfinite(frequencies.losses).all()
    assert 2 not in nearest.predictions


def test_rows_in_a_memory_map_are_read_in_blocks(tmp_path):
    splits = unequal_splits(1500, "uint8")
    rows = np.memmap(tmp_path / "rows", np.uint8, "w+", shape=splits.dataset.rows.shape)
    rows[:] = splits.dataset.rows
    mapped = replace_dataset(splits, replace(splits.dataset, rows=rows))
    model, _, expected = judged(splits)
    asked = []
    on_disk = evaluate(model, mapped.test)
    original = type(mapped.train).rows

    def counting(self, places):
        found = original(self, places)
        asked.append(len(found))
        return found

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(mapped.train), "rows", counting)
        found = references_for(model, mapped.train, mapped.test, on_disk)
    assert [one.predictions.tolist() for one in found] == [one.predictions.tolist() for one in expected]
    assert sum(asked) == len(mapped.train) + len(mapped.test)
    assert max(asked) <= 512


class Waves(FeatureMap):
    name, image_shape, d_in, d_out, linear = "waves", None, 60, 60, False

    def transform(self, R):
        return np.cos(R.astype(np.float64) / 40)


def test_class_means_are_means_of_features():
    splits = unequal_splits()
    _, _, (_, nearest, _) = judged(splits, features=Waves())
    X, Z = (np.cos(split.rows(slice(None)).astype(float) / 40) for split in (splits.train, splits.test))
    scaler = StandardScaler().fit(X)
    expected = NearestCentroid().fit(scaler.transform(X), splits.train.labels).predict(scaler.transform(Z))
    assert np.mean(nearest.predictions == expected) > 0.995  # the scaler of training is of features in float32
    _, _, (_, of_rows) = judged(splits)
    assert np.mean(of_rows.predictions == expected) < 0.99


def test_a_model_on_features_is_compared_with_a_layer_on_the_raw_rows():
    splits = unequal_splits(dtype="uint8")
    _, evaluation, (*_, raw) = judged(splits, features=Waves())
    assert raw.name == "one layer on raw pixels"
    X, Z = (split.rows(slice(None)).astype(float) for split in (splits.train, splits.test))
    expected = make_pipeline(StandardScaler(), LogisticRegression(C=0.1)).fit(X, splits.train.labels).predict(Z)
    assert np.mean(raw.predictions == expected) > 0.9
    assert np.mean(evaluation.predictions == expected) < 0.85
    assert raw.labels.tolist() == evaluation.labels.tolist()
    assert "loss" not in raw.estimates
    on_floats = judged(unequal_splits(), features=Waves())[2][-1]
    assert on_floats.name == "one layer on raw numbers"


def test_the_layer_on_raw_rows_costs_little_and_says_how_many_rows_it_had(monkeypatch):
    splits = unequal_splits(dtype="uint8")
    model, evaluation, (*_, of_all) = judged(splits, features=Waves())
    epochs = []

    def watched(splits, config, **options):
        result = train(splits, config, **options)
        epochs.append((len(splits.train), len(splits.validation), result.state.epoch))
        return result

    monkeypatch.setattr(references.engine, "train", watched)
    monkeypatch.setattr(references, "MOST_PRODUCTS", 60 * 4 * 256)
    monkeypatch.setattr(references, "MOST_EPOCHS", 3)
    (*_, some) = references_for(model, splits.train, splits.test, evaluation)
    assert some.name == "one layer on 250 rows of raw pixels"
    assert epochs == [(225, 25, 4)]  # 256 * 3 / 250 epochs
    assert some.accuracy > 0.4
    assert some.predictions.tolist() != of_all.predictions.tolist()
    monkeypatch.setattr(references, "MOST_NUMBERS", 60 * 19)
    assert len(references_for(model, splits.train, splits.test, evaluation)) == 2


def test_the_layer_on_raw_rows_never_sees_rows_of_weight_0_or_of_other_parts():
    splits = unequal_splits(dtype="uint8")
    weights = np.ones(1500)
    weights[splits.train.indices[::3]] = 0
    splits = replace_dataset(
        splits, replace(splits.dataset, row_weights=weights / weights[splits.train.indices].mean())
    )
    hidden = np.setdiff1d(np.arange(1500), splits.train.indices[weights[splits.train.indices] > 0])
    rows, labels = splits.dataset.rows.copy(), splits.dataset.labels.copy()
    rows[np.setdiff1d(hidden, splits.test.indices)] //= 2
    labels[hidden] = (labels[hidden] + 1) % 4
    others = replace_dataset(splits, replace(splits.dataset, rows=rows, labels=labels))
    model, evaluation, (*_, expected) = judged(splits, features=Waves())
    seen = replace(others.train, indices=np.setdiff1d(splits.train.indices, hidden))
    *_, found = references_for(model, seen, others.test, evaluation)
    assert found.predictions.tolist() == expected.predictions.tolist()
    assert expected.accuracy > 0.6


def test_a_room_adds_its_own_reference(monkeypatch):
    def perfect(model, train, rows, evaluation):
        return Reference("an oracle", rows.labels, rows.labels, evaluation.weights, model.class_names)

    monkeypatch.setattr(references, "REFERENCES", [*references.REFERENCES, perfect, lambda *_: None])
    _, evaluation, found = judged(unequal_splits())
    assert [reference.name for reference in found] == ["always class 0", "nearest class mean", "an oracle"]
    assert verdict_of(evaluation, found).reference.name == "an oracle"


def answer(right, names=("cat", "dog")):
    """Answers to rows of which all are cats."""
    right = np.asarray(right)
    labels = np.zeros(len(right), np.int64)
    predictions = np.where(right, 0, 1)
    return Evaluation(0.5, labels, predictions, np.eye(2)[predictions], None, names)


def reference(name, right):
    of = answer(right)
    return Reference(name, of.labels, of.predictions, None, of.class_names)


@pytest.mark.parametrize(
    ("right", "better", "sentence"),
    [
        (
            70,
            True,
            "better than the best reference, good (50 %), beyond noise: +20 points (+12 to +28) on the same rows",
        ),
        (53, False, "not better than good (50 %) beyond noise: +3 points"),
        (20, False, "worse than good (50 %), beyond noise: -30 points"),
    ],
)
def test_the_verdict_is_by_the_best_reference(right, better, sentence):
    rows = np.arange(100)
    found = verdict_of(answer(rows < right), [reference("poor", rows < 10), reference("good", rows < 50)])
    assert found.better is better
    assert str(found).startswith(sentence)
    assert verdict_of(answer(rows < right), []) is None


def test_models_that_learnt_nothing_are_rarely_called_better():
    """Guesses against guesses, many times: about one in forty is above the interval by chance."""
    rng = np.random.default_rng(0)
    found = [verdict_of(answer(rng.random(80) < 0.4), [reference("a", rng.random(80) < 0.4)]) for _ in range(1500)]
    assert 0.01 < np.mean([verdict.better for verdict in found]) < 0.04


def unequal_answers(rng, sizes, recalls, of_reference):
    """Answers of a model and of a reference that differ by class, often on the same rows."""
    labels, K = np.repeat(np.arange(len(sizes)), sizes), len(sizes)
    luck = rng.random(len(labels))
    luck_of_reference = np.where(rng.random(len(labels)) < 0.5, luck, rng.random(len(labels)))
    found = []
    for chance, at in ((recalls, luck), (of_reference, luck_of_reference)):
        found.append(np.where(at < np.array(chance)[labels], labels, (labels + 1) % K))
    names = tuple(map(str, range(K)))
    return (
        Evaluation(0.5, labels, found[0], np.eye(K)[found[0]], None, names),
        Reference("a reference", labels, found[1], None, names),
    )


def test_with_class_weights_the_balanced_accuracy_is_compared():
    """By its own formula: the classes are strata, whose paired differences have variances that add up."""
    sizes, rng = [4000, 1000, 500], np.random.default_rng(0)
    evaluation, good = unequal_answers(rng, sizes, [0.5, 0.7, 0.8], [0.6, 0.6, 0.5])
    always = Reference("always 0", good.labels, np.zeros(5500, np.int64), None, good.class_names)
    assert (always.accuracy, always.balanced_accuracy) == (4000 / 5500, pytest.approx(1 / 3, rel=1e-12))
    plain = verdict_of(evaluation, [good, always], TrainConfig())
    assert str(plain).startswith("worse than always 0 (72.7 %), beyond noise: -")
    assert str(plain).endswith(" on the same rows")
    assert "balanced" not in str(plain)
    for weights in ("balanced", "1=3"):
        found = verdict_of(evaluation, [good, always], TrainConfig(class_weight=weights))
        assert (found.reference, found.better) == (good, True)
        words = f"better than the best reference, a reference ({100 * good.balanced_accuracy:.1f} %), beyond noise: +"
        assert str(found).startswith(words)
        assert str(found).endswith(" of balanced accuracy on the same rows")
    ours, theirs = (balanced_accuracy_score(side.labels, side.predictions) for side in (evaluation, good))
    assert found.difference.value == pytest.approx(ours - theirs, rel=1e-12)
    apart = evaluation.right.astype(float) - good.right
    variance = sum(apart[good.labels == k].var() / sizes[k] for k in range(3)) / 9
    half = 1.96 * np.sqrt(variance)
    assert (found.difference.high - found.difference.low) / 2 == pytest.approx(half, rel=0.02)
    rarely = verdict_of(evaluation, [always], TrainConfig(class_weight="balanced"))
    assert rarely.difference.value == pytest.approx(ours - 1 / 3, rel=1e-12)


def test_rows_of_weight_0_do_not_count_in_the_balanced_accuracy():
    rng = np.random.default_rng(1)
    evaluation, one = unequal_answers(rng, [60, 30, 20], [0.9, 0.2, 0.8], [0.5, 0.9, 0.5])
    weights = np.where(evaluation.labels == 1, 0.0, 2.0)
    config = TrainConfig(class_weight="balanced")
    found = verdict_of(replace(evaluation, weights=weights), [replace(one, weights=weights)], config)
    kept = evaluation.labels != 1
    labels, ours, theirs = (column[kept] for column in (evaluation.labels, evaluation.predictions, one.predictions))
    expected = verdict_of(
        Evaluation(0.5, labels, ours, np.eye(3)[ours], None, one.class_names),
        [Reference("a reference", labels, theirs, None, one.class_names)],
        config,
    )
    assert found.difference.value == pytest.approx(expected.difference.value, rel=1e-12)
    assert found.difference.low == pytest.approx(expected.difference.low, rel=1e-12)


def test_balanced_guesses_are_rarely_called_better():
    rng, config = np.random.default_rng(0), TrainConfig(class_weight="balanced")
    chances = [0.3, 0.5, 0.4], [0.5, 0.3, 0.4]
    pairs = [unequal_answers(rng, [80, 40, 20], *chances) for _ in range(600)]
    found = [verdict_of(evaluation, [reference], config).better for evaluation, reference in pairs]
    assert 0.01 < np.mean(found) < 0.04
