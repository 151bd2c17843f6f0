"""Loss, accuracy, confusion and mistakes against counting by hand and against scikit-learn."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import toy_dataset, toy_splits
from sklearn.metrics import accuracy_score, confusion_matrix, log_loss

from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset, Split
from onelayer.errors import DataError, OnelayerWarning
from onelayer.evaluation import Evaluation, evaluate
from onelayer.training import train


def test_evaluation_agrees_with_scikit_learn():
    splits = toy_splits(n=6000)  # more than one block, the last one short
    model = train(splits, TrainConfig(epochs=3, dtype="float64")).model
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
    result = train(splits, TrainConfig(epochs=2, dtype=dtype, backend="numpy"))
    for split in splits:
        found = evaluate(result.model, split)
        assert found.accuracy == result.scores[split.name].accuracy
        assert found.loss == pytest.approx(result.scores[split.name].loss, rel=rounding)


def test_evaluation_agrees_with_the_scores_of_any_backend():
    splits = toy_splits(n=1500)
    result = train(splits, TrainConfig(epochs=2))
    for split in splits:
        assert evaluate(result.model, split).loss == pytest.approx(result.scores[split.name].loss, rel=1e-6)


def test_figures_by_hand():
    probabilities = np.array([[0.9, 0.1, 0], [0.2, 0.8, 0], [0.4, 0.6, 0], [0.3, 0.7, 0]])
    found = Evaluation(0.5, np.array([0, 0, 0, 1]), np.array([0, 1, 1, 1]), probabilities)
    assert found.accuracy == 0.5
    assert found.standard_error == 0.25
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
    model = train(toy_splits(), TrainConfig(epochs=0)).model
    narrow = Dataset(np.zeros((2, 59)), np.array([0, 1]), ("class 0", "class 1"), None, "narrow")
    with pytest.raises(DataError, match=r"narrow has rows of 59 numbers; the model is for 60 numbers"):
        evaluate(model, narrow.everything)
    words = "toy has rows of classes that the model does not know: class 4, class 5; it knows class 0, class 1, class 2"
    with pytest.raises(DataError, match=words):
        evaluate(model, toy_dataset(K=6).everything)


def test_classes_are_matched_by_name(recwarn):
    splits = toy_splits(K=6)
    model = train(splits, TrainConfig(epochs=3, dtype="float64", learning_rate=0.01)).model
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
    model = train(splits, TrainConfig(epochs=3)).model
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
