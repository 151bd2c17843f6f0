"""Loss, accuracy, confusion and mistakes against counting by hand and against scikit-learn."""

from dataclasses import astuple, replace

import numpy as np
import pytest
from helpers import coursework, toy_dataset, toy_splits
from scipy import stats
from sklearn.calibration import calibration_curve
from sklearn.metrics import (
    accuracy_score,
    balanced_accuracy_score,
    confusion_matrix,
    f1_score,
    log_loss,
    precision_recall_fscore_support,
    top_k_accuracy_score,
)

from onelayer.analysis.evaluation import Evaluation, evaluate
from onelayer.config import SplitConfig
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.data.protocols import split as divide
from onelayer.errors import DataError, OnelayerWarning
from onelayer.training.train import train


def test_evaluation_agrees_with_scikit_learn():
    splits = toy_splits(n=6000)  # more than one block, the last one short
    model = train(splits, coursework(epochs=3, dtype="float64")).model
    found = evaluate(model, splits.train)
    assert 0.3 < found.accuracy < 1
    assert found.accuracy == accuracy_score(splits.train.labels, found.predictions)
    assert found.loss == pytest.approx(log_loss(splits.train.labels, found.probabilities), rel=1e-12)
    counts = confusion_matrix(splits.train.labels, found.predictions)
    assert np.array_equal(found.confusion, counts)
    assert found.class_accuracies == pytest.approx(counts.diagonal() / counts.sum(1))
    assert found.probabilities.sum(1) == pytest.approx(1)


@pytest.mark.parametrize(("dtype", "rounding"), [("float32", 1e-7), ("float64", 1e-14)])
@pytest.mark.parametrize("rows", ["uint8", "float32"])
def test_evaluation_repeats_the_scores_of_training(dtype, rounding, rows):
    splits = toy_splits(n=1500, dtype=rows)
    result = train(splits, coursework(epochs=2, dtype=dtype, backend="numpy"))
    for split in splits:
        found = evaluate(result.model, split)
        assert found.accuracy == result.scores[split.name].accuracy
        assert found.loss == pytest.approx(result.scores[split.name].loss, rel=rounding)


def test_evaluation_agrees_with_the_scores_of_any_backend():
    splits = toy_splits(n=1500)
    result = train(splits, coursework(epochs=2))
    for split in splits:
        assert evaluate(result.model, split).loss == pytest.approx(result.scores[split.name].loss, rel=1e-6)


def test_figures_by_hand():
    probabilities = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.4, 0.6, 0], [0.3, 0.7, 0]])
    found = Evaluation(0.5, np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), probabilities)
    assert found.accuracy == 0.5
    assert found.confusion.tolist() == [[1, 2, 0], [0, 1, 0], [0, 0, 0]]
    assert found.class_accuracies[:2] == pytest.approx([1 / 3, 1])
    assert np.isnan(found.class_accuracies[2])
    assert found.worst_mistakes(12).tolist() == [1, 2]
    assert found.worst_mistakes(1).tolist() == [1]


def test_reliability_agrees_with_a_plain_loop():
    rng = np.random.default_rng(0)
    P = rng.dirichlet(np.full(5, 0.4), 400)
    P[0] = [1, 0, 0, 0, 0]  # the end of the last bin belongs to it
    P[1] = [0.5, 0.5, 0, 0, 0]
    labels = rng.integers(0, 5, 400)
    found = Evaluation(0, labels, P.argmax(1), P)
    reliability = found.reliability(bins=10)
    error = 0.0
    for k in range(10):
        rows = [i for i in range(400) if k / 10 <= max(P[i]) < (k + 1) / 10 or (k == 9 and max(P[i]) == 1)]
        assert reliability.counts[k] == len(rows)
        if not rows:
            assert np.isnan([reliability.confidence[k], reliability.accuracy[k]]).all()
            continue
        confidence = sum(max(P[i]) for i in rows) / len(rows)
        accuracy = sum(labels[i] == np.argmax(P[i]) for i in rows) / len(rows)
        assert reliability.confidence[k] == pytest.approx(confidence)
        assert reliability.accuracy[k] == pytest.approx(accuracy)
        error += len(rows) / 400 * abs(accuracy - confidence)
    assert reliability.counts[5] > 1
    assert reliability.counts[0] == 0
    assert error > 0.2
    assert reliability.expected_calibration_error == pytest.approx(error)
    assert found.true_class_probabilities.tolist() == [P[i, labels[i]] for i in range(400)]
    assert found.confidences.tolist() == P.max(1).tolist()


def test_answers_that_are_right_as_often_as_they_claim_are_calibrated():
    P = np.tile([0.75, 0.25], (4, 1))
    assert Evaluation(0, np.array([0, 0, 1, 0]), P.argmax(1), P).reliability().expected_calibration_error == 0
    assert Evaluation(0, np.array([1, 1, 1, 1]), P.argmax(1), P).reliability().expected_calibration_error == 0.75


def test_a_model_for_other_rows_or_classes_is_refused():
    model = train(toy_splits(), coursework(epochs=0)).model
    narrow = Dataset(np.zeros((2, 59)), np.array([0, 1]), ("class 0", "class 1"), None, "narrow")
    with pytest.raises(DataError, match=r"narrow has rows of 59 numbers; the model is for 60 numbers"):
        evaluate(model, narrow.everything)
    words = "toy has rows of classes that the model does not know: class 4, class 5; it knows class 0, class 1, class 2"
    with pytest.raises(DataError, match=words):
        evaluate(model, toy_dataset(K=6).everything)


def test_classes_are_matched_by_name(recwarn):
    splits = toy_splits(K=6)
    model = train(splits, coursework(epochs=3, dtype="float64", learning_rate=0.01)).model
    expected = evaluate(model, splits.test)
    assert 0.3 < expected.accuracy < 1
    order = np.array([4, 2, 0, 5, 3, 1])
    names = (*(f"class {k}" for k in order), "a class without rows")
    other = replace(splits.dataset, labels=np.argsort(order)[splits.dataset.labels], class_names=names)
    found = evaluate(model, replace(splits.test, dataset=other))
    assert found.loss == expected.loss
    np.testing.assert_array_equal(found.labels, splits.test.labels)
    np.testing.assert_array_equal(found.confusion, expected.confusion)

    few = splits.test.indices[np.isin(splits.test.labels, [2, 4])]
    labels = (splits.dataset.labels == 2).astype(np.int64)
    two = replace(splits.dataset, labels=labels, class_names=("class 4", "class 2"))
    found = evaluate(model, Split("test", two, few))
    assert found.class_accuracies[[2, 4]] == pytest.approx(expected.class_accuracies[[2, 4]])
    assert np.isnan(found.class_accuracies[[0, 1, 3, 5]]).all()
    assert not recwarn


def test_classes_that_are_numbers():
    splits = toy_splits(K=6)
    model = train(splits, coursework(epochs=3)).model
    expected = evaluate(model, splits.test)
    numbered = replace(splits.dataset, class_names=tuple("012345"))
    words = "^the classes of toy are numbers, taken for the places of the model's classes: 0 is class 0, 1 is class 1, "
    with pytest.warns(OnelayerWarning, match=words) as caught:
        found = evaluate(model, replace(splits.test, dataset=numbered))
    assert found.loss == expected.loss
    assert [w.filename for w in caught] == [__file__]
    beyond = replace(numbered, class_names=tuple("123456"))  # 6 is none: they may be counted from 1
    with pytest.raises(DataError, match="classes that the model does not know: 1, 2, 3, 4, 5, 6; it knows class 0"):
        evaluate(model, replace(splits.test, dataset=beyond))
    with pytest.raises(DataError, match=r"does not know: class 0, class 1, .*; it knows 0, 1, 2"):
        evaluate(replace(model, class_names=tuple("012345")), splits.test)
    other = replace(model, class_names=tuple("543210"))
    assert evaluate(other, replace(splits.test, dataset=numbered)).labels.tolist() == (5 - splits.test.labels).tolist()


# Rows with weights


def weighted_splits(n: int = 1500) -> Splits:
    weights = np.random.default_rng(2).choice([0, 0.2, 1, 6.5], n)
    dataset = toy_dataset(n)
    labels = np.where(np.random.default_rng(3).random(n) < 0.2, 0, dataset.labels)  # mistakes
    return divide(replace(dataset, labels=labels, row_weights=weights / weights.mean()), SplitConfig())


def test_weighted_rows_are_counted_as_scikit_learn_counts_them():
    splits = weighted_splits()
    model = train(splits, coursework(epochs=3, dtype="float64")).model
    rows = splits.train
    w, y = rows.row_weights(slice(None)), rows.labels
    found = evaluate(model, rows)
    P, predictions = found.probabilities, found.predictions
    assert 0.3 < found.accuracy < 0.95
    assert found.accuracy == pytest.approx(accuracy_score(y, predictions, sample_weight=w), rel=1e-12)
    assert abs(found.accuracy - accuracy_score(y, predictions)) > 0.005
    assert found.loss == pytest.approx(log_loss(y, P, sample_weight=w), rel=1e-12)
    counts = confusion_matrix(y, predictions, sample_weight=w)
    assert found.confusion == pytest.approx(counts, rel=1e-12)
    assert found.class_accuracies == pytest.approx(counts.diagonal() / counts.sum(1))
    for k in range(4):  # scikit-learn's curve knows two classes and no weights: each row as often as it weighs
        often = np.rint(5 * w * splits.dataset.row_weights.size / splits.dataset.row_weights.sum()).astype(int)
        chosen = predictions == k
        right, claimed = calibration_curve(
            (y == k)[chosen].repeat(often[chosen]), P[chosen, k].repeat(often[chosen]), n_bins=10
        )
        alone = replace(found, labels=y[chosen], predictions=predictions[chosen], probabilities=P[chosen])
        reliability = replace(alone, weights=often[chosen].astype(float)).reliability(10)
        bins = reliability.counts > 0
        assert reliability.accuracy[bins] == pytest.approx(right, rel=1e-12)
        assert reliability.confidence[bins] == pytest.approx(claimed, rel=1e-12)
    assert found.reliability().counts.sum() == pytest.approx(w.sum())
    wrong = found.worst_mistakes(10**6)
    assert (predictions[wrong] != y[wrong]).all()
    assert len(wrong) == np.count_nonzero((predictions != y) & (w > 0)) < np.count_nonzero(predictions != y)
    assert found.mean(found.confidences) == pytest.approx(np.average(P.max(1), weights=w), rel=1e-12)


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_weighted_evaluation_repeats_the_scores_of_training(backend):
    splits = weighted_splits()
    result = train(splits, coursework(epochs=2, backend=backend))
    for of_split in splits:
        found = evaluate(result.model, of_split)
        assert found.accuracy == pytest.approx(result.scores[of_split.name].accuracy, rel=1e-12)
        assert found.loss == pytest.approx(result.scores[of_split.name].loss, rel=1e-6)


def test_weights_of_one_change_nothing_but_types():
    splits = toy_splits(n=400)
    model = train(splits, coursework(epochs=1)).model
    plain = evaluate(model, splits.train)
    ones = replace(splits.train, dataset=replace(splits.dataset, row_weights=np.ones(400)))
    weighted = evaluate(model, ones)
    assert plain.weights is None
    assert plain.confusion.dtype == plain.reliability().counts.dtype == np.int64
    assert (weighted.loss, weighted.accuracy) == (plain.loss, plain.accuracy)
    for name, estimate in plain.estimates.items():
        assert astuple(weighted.estimates[name])[:3] == pytest.approx(astuple(estimate)[:3], rel=1e-12)
    np.testing.assert_array_equal(weighted.confusion, plain.confusion)
    np.testing.assert_array_equal(weighted.class_accuracies, plain.class_accuracies)


@pytest.mark.parametrize("weights", [None, np.zeros(300)])
def test_a_split_without_rows_is_refused(weights):
    splits = toy_splits()
    model = train(splits, coursework(epochs=0)).model
    dataset = splits.dataset if weights is None else replace(splits.dataset, row_weights=weights)
    empty = Split("test", dataset, np.arange(0 if weights is None else 9))
    with pytest.raises(DataError, match=r"the split test of toy has no rows to evaluate; choose another"):
        evaluate(model, empty)


@pytest.mark.parametrize("unit", [1e-200, 1e25])
def test_the_unit_of_weights_does_not_count(unit):
    splits = weighted_splits()
    model = train(splits, coursework(epochs=1)).model
    expected = evaluate(model, splits.test)
    dataset = replace(splits.dataset, row_weights=splits.dataset.row_weights * unit)
    found = evaluate(model, replace(splits.test, dataset=dataset))
    assert found.loss == pytest.approx(expected.loss, rel=1e-12)
    for name, estimate in expected.estimates.items():
        assert astuple(found.estimates[name])[:3] == pytest.approx(astuple(estimate)[:3], rel=1e-12)
        assert estimate.high - estimate.low > 0.01
    for name in ("precision_low", "recall_high", "f1_low"):
        assert found.by_class[name] == pytest.approx(expected.by_class[name], rel=1e-12)
    assert found.by_class["rows"] == pytest.approx(unit * expected.by_class["rows"], rel=1e-12)


# Figures and their intervals


def answers(K: int, n: int, weighted: bool, seed: int = 0) -> Evaluation:
    """Answers of unequal classes; the last class has no rows, and the one before is never predicted."""
    rng = np.random.default_rng(seed)
    labels = rng.choice(K - 1, n, p=np.arange(1, K) / np.arange(1, K).sum())
    S = rng.normal(size=(n, K)) + 1.5 * np.eye(K)[labels]
    S[:, K - 2] = -9
    P = np.exp(S) / np.exp(S).sum(1, keepdims=True)
    weights = rng.choice([0, 0.3, 1, 4], n) if weighted else None
    losses = -np.log(P[np.arange(n), labels])
    return Evaluation(np.average(losses, weights=weights), labels, P.argmax(1), P, weights, losses=losses)


@pytest.mark.filterwarnings("ignore:y_pred contains classes not in y_true")
@pytest.mark.parametrize("weighted", [False, True])
def test_figures_are_those_of_scikit_learn(weighted):
    found, K = answers(12, 900, weighted), 12
    y, predictions, w = found.labels, found.predictions, found.weights
    assert set(predictions) == set(range(12)) - {10}
    assert found.accuracy == pytest.approx(accuracy_score(y, predictions, sample_weight=w), rel=1e-12)
    assert found.balanced_accuracy == pytest.approx(balanced_accuracy_score(y, predictions, sample_weight=w), rel=1e-12)
    top = top_k_accuracy_score(y, found.probabilities, k=5, labels=range(K), sample_weight=w)
    assert found.top_5_accuracy == pytest.approx(top, rel=1e-12)
    assert found.accuracy < found.top_5_accuracy < 1
    options = {"sample_weight": w, "zero_division": 0}
    macro = precision_recall_fscore_support(y, predictions, average="macro", **options)[:3]
    assert (found.macro_precision, found.macro_recall, found.macro_f1) == pytest.approx(macro, rel=1e-12)
    assert found.macro_recall < found.balanced_accuracy
    by_class = precision_recall_fscore_support(y, predictions, labels=range(K), **options)
    for name, expected in zip(("precision", "recall", "f1", "rows"), by_class, strict=True):
        column = found.by_class[name]
        assert np.nan_to_num(column) == pytest.approx(expected, rel=1e-12)
    assert np.isnan(found.by_class["precision"]).nonzero()[0].tolist() == [10]
    assert np.isnan(found.by_class["recall"]).nonzero()[0].tolist() == [11]
    assert found.by_class["predicted"] == pytest.approx(confusion_matrix(y, predictions, sample_weight=w).sum(0))
    assert {name: getattr(found, name) for name in found.estimates} == {
        name: pytest.approx(of.value, rel=1e-12) for name, of in found.estimates.items()
    }


def test_fractions_of_rows_have_wilsons_interval():
    found = answers(12, 900, weighted=False)
    y, predictions = found.labels, found.predictions

    def ends(right, n):
        return pytest.approx(tuple(stats.binomtest(int(right), int(n)).proportion_ci(method="wilson")), rel=1e-9)

    accuracy = found.estimates["accuracy"]
    assert (accuracy.low, accuracy.high) == ends((y == predictions).sum(), 900)
    top = found.estimates["top_5_accuracy"]
    assert (top.low, top.high) == ends(round(900 * found.top_5_accuracy), 900)
    for k in range(10):
        right, table = ((y == k) & (predictions == k)).sum(), {name: of[k] for name, of in found.by_class.items()}
        assert (table["recall_low"], table["recall_high"]) == ends(right, (y == k).sum())
        assert (table["precision_low"], table["precision_high"]) == ends(right, (predictions == k).sum())
        jaccard = stats.binomtest(int(right), int(((y == k) | (predictions == k)).sum())).proportion_ci(method="wilson")
        assert table["f1_low"] == pytest.approx(2 * jaccard.low / (1 + jaccard.low))
        assert table["f1_high"] == pytest.approx(2 * jaccard.high / (1 + jaccard.high))


def test_weighted_rows_scatter_as_fewer_equal_ones():
    found = answers(12, 900, weighted=True)
    w = found.weights
    n = w.sum() ** 2 / (w**2).sum()
    assert n < 600
    assert found.effective_rows == pytest.approx(n)
    assert astuple(found.estimates["accuracy"])[1:3] == pytest.approx(wilson(found.accuracy, n))
    of_class = w[found.labels == 3]
    n = of_class.sum() ** 2 / (of_class**2).sum()
    table = {name: of[3] for name, of in found.by_class.items()}
    assert (table["recall_low"], table["recall_high"]) == pytest.approx(wilson(table["recall"], n))


def wilson(p, n):
    z = stats.norm.ppf(0.975)
    half = z * np.sqrt(p * (1 - p) / n + z**2 / (4 * n**2))
    return (p + z**2 / (2 * n) - half) / (1 + z**2 / n), (p + z**2 / (2 * n) + half) / (1 + z**2 / n)


@pytest.mark.parametrize("weighted", [False, True])
def test_intervals_are_as_wide_as_those_of_a_bootstrap(weighted):
    """Rows drawn again and again: the spread of a figure over them is that which its interval claims."""
    n = 900
    found = answers(12, n, weighted)
    P = np.square(found.probabilities)  # too sure of itself, in every bin
    found = replace(found, probabilities=P / P.sum(1, keepdims=True))
    rng = np.random.default_rng(1)
    names = ("balanced_accuracy", "macro_precision", "macro_f1", "loss", "calibration_error")
    drawn = []
    for _ in range(400):
        rows = rng.integers(n, size=n)
        parts = (of if of is None else of[rows] for of in (found.weights, found.losses))
        weights, losses = parts
        again = Evaluation(
            np.average(losses, weights=weights),
            *(of[rows] for of in (found.labels, found.predictions, found.probabilities)),
            weights,
            losses=losses,
        )
        drawn.append([again.estimates[name].value for name in names])
    spread = 1.96 * np.std(drawn, axis=0)
    for name, expected in zip(names, spread, strict=True):
        estimate = found.estimates[name]
        assert (estimate.high - estimate.low) / 2 == pytest.approx(expected, rel=0.2), name


def test_a_mistake_lowers_the_f1_of_two_classes():
    """So the two vary together: without that, the interval of their mean would be a fifth too short."""
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 2, 800)
    predictions = np.where(rng.random(800) < 0.4, 1 - labels, labels)
    found = Evaluation(0.5, labels, predictions, np.eye(2)[predictions])
    drawn = []
    for _ in range(500):
        rows = rng.integers(800, size=800)
        drawn.append(f1_score(labels[rows], predictions[rows], average="macro"))
    estimate = found.estimates["macro_f1"]
    assert (estimate.high - estimate.low) / 2 == pytest.approx(1.96 * np.std(drawn), rel=0.1)


def test_every_figure_of_perfect_answers_leaves_room_for_doubt():
    labels = np.repeat([0, 1], [50, 5])
    found = Evaluation(0, labels, labels, np.eye(2)[labels])
    for name in ("accuracy", "balanced_accuracy", "macro_precision", "macro_f1"):
        estimate = found.estimates[name]
        assert estimate.value == estimate.high == 1
        assert 0.5 < estimate.low < 0.95
    assert found.estimates["balanced_accuracy"].low < found.estimates["accuracy"].low  # of five rows, one class


def test_the_most_frequent_confusions():
    found = answers(12, 900, weighted=False)
    counts = found.confusion.copy()
    np.fill_diagonal(counts, 0)
    most = np.sort(counts.ravel())[::-1]
    pairs = found.confused(5)
    assert [rows for _, _, rows in pairs] == most[:5].tolist()
    assert all(counts[i, j] == rows for i, j, rows in pairs)
    weighted = answers(12, 900, weighted=True)
    i, j, rows = weighted.confused(1)[0]
    assert rows == pytest.approx(weighted.confusion[i, j])
    assert rows > counts.max()
    assert Evaluation(0, np.array([0]), np.array([0]), np.eye(2)[:1]).confused(5) == []


@pytest.mark.parametrize("weighted", [False, True])
def test_thresholds(weighted):
    found = answers(12, 900, weighted)
    w = np.ones(900) if found.weights is None else found.weights
    table = found.thresholds([0, 0.3, 0.6, 1])
    for place, threshold in enumerate([0, 0.3, 0.6]):
        sure = found.probabilities.max(1) >= threshold
        assert table["coverage"][place] == pytest.approx(w[sure].sum() / w.sum(), rel=1e-12)
        assert table["accuracy"][place] == pytest.approx(np.average(found.right[sure], weights=w[sure]), rel=1e-12)
    assert table["coverage"][0] == 1
    assert 0.02 < table["coverage"][2] < 0.9
    assert table["accuracy"][2] > table["accuracy"][0] == found.accuracy
    assert table["coverage"][3] == 0
    assert np.isnan([table[f"accuracy{end}"][3] for end in ("", "_low", "_high")]).all()
    assert (table["accuracy_low"] < table["accuracy"])[:3].all()
    assert (np.diff(table["accuracy_high"] - table["accuracy_low"])[:2] > 0).all()  # of fewer rows


def test_equal_probabilities_hide_no_right_answer():
    """Large logits of sigmoids all have the probability 1; the class is decided by the logits."""
    P = np.ones((1, 12))
    found = Evaluation(0, np.array([9]), np.array([9]), P)
    assert found.top_5_accuracy == found.accuracy == 1
