"""Advice on curves and answers made for each case, and on short trainings that show it."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import toy_dataset, toy_splits

from onelayer.analysis.advice import advice_on_answers, advice_on_training, loss_before
from onelayer.analysis.evaluation import Evaluation, evaluate
from onelayer.analysis.judgement import judge
from onelayer.analysis.references import Reference, verdict_of
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.protocols import split as divide
from onelayer.losses import LOSSES
from onelayer.training.history import EpochRecord, Score
from onelayer.training.state import Problem
from onelayer.training.train import train

SOFTMAX = LOSSES["softmax"]
CONVERGED = {"solver": "converged", "l2": 0.1}
UNSURE = "poor calibration: the mean confidence is 60 %, the accuracy 80.0 %; try"
BALANCED = TrainConfig(class_weight="balanced")
SWEEP = "onelayer sweep with the run's other options and --l2 0 0.001 0.01 0.1"


def history(train_losses, held_out=None, penalty=0.0, rate=0.1):
    """Records with these losses; without `held_out` there are no validation rows."""
    records = []
    for epoch, loss in enumerate(train_losses, 1):
        scores = {"train": Score(loss, loss + penalty, 0.5)}
        if held_out is not None:
            scores["validation"] = Score(held_out[epoch - 1], held_out[epoch - 1] + penalty, 0.5)
        records.append(EpochRecord.of(epoch, rate, scores, 0.1))
    return tuple(records)


def curve(rate, epochs=40, low=1.0, high=2.3):
    """A loss that falls from `high` to `low`, by this rate an epoch."""
    return low + (high - low) * np.exp(-rate * np.arange(1, epochs + 1))


def said(losses, held_out=None, penalty=0.0, kept=None, start=2.3, measured=None, **settings):
    config = TrainConfig(**{"learning_rate": 0.1, "epochs": len(losses)} | settings)
    records = history(losses, held_out, penalty)
    found = advice_on_training(records, kept or len(losses), start, SOFTMAX, 10, config, measured=measured)
    assert len(found) <= 1
    return found[0] if found else ""


SETTLED = curve(0.4)
ZIGZAG = 1.5 + 0.1 * (-1.0) ** np.arange(40)
RISING = 1.3 + 0.001 * (np.arange(40) - 10.0) ** 2  # from epoch 11 on
PENALISED = {"losses": SETTLED, "penalty": 0.2, "l2": 0.5}
TOO_LONG = "steps too long: "
LONG = f"{TOO_LONG}the training loss "
SHORT = "steps too short: the training loss falls in a straight line, far from where it levels off; try "
GOES_ON = "underfitting: the loss was still falling; try --epochs auto and --learning-rate auto"


@pytest.mark.parametrize(
    ("case", "words"),
    [
        ({"losses": SETTLED}, ""),
        ({"losses": SETTLED, "held_out": SETTLED + 0.1}, ""),
        ({"losses": SETTLED + 0.001 * np.sin(np.arange(40)), "held_out": SETTLED}, ""),  # a little noise
        ({"losses": curve(0.05)}, GOES_ON),
        ({"losses": curve(0.4, 2)}, GOES_ON),
        ({"losses": curve(0.4, 1)}, GOES_ON),
        ({"losses": SETTLED, "held_out": curve(0.05)}, GOES_ON),
        (
            {"losses": curve(0.002), "held_out": curve(0.002) + 0.01},
            f"{SHORT}--learning-rate auto or --learning-rate 1",
        ),
        # Large initial weights: the loss falls, but is still above that of guessing.
        ({"losses": curve(0.001, low=2.4, high=2.48), "start": 2.48}, SHORT),
        (
            {"losses": curve(0.4, low=5)},
            f"{LONG}ended at 5 nats, above 2.3 before the first step; try --learning-rate auto",
        ),
        ({"losses": [9.0]}, f"{LONG}ended at 9 nats"),
        (
            {"losses": ZIGZAG},
            f"{LONG}goes up and down instead of falling; try --learning-rate auto or --learning-rate 0.01",
        ),
        (
            {"losses": SETTLED, "held_out": RISING},
            f"overfitting: the validation loss rose from 1.3 nats at epoch 11 to 2.14; try --keep best, or {SWEEP}",
        ),
        (
            {"losses": SETTLED, "held_out": RISING, "kept": 11},
            f"overfitting: the validation loss is 1.3 nats, the training loss 1.02; try more training rows, or {SWEEP}",
        ),
        (
            PENALISED | {"held_out": SETTLED + 0.02},
            "underfitting: l2 0.5 adds 0.2 nats to the training loss of 1, and the validation loss is hardly higher; "
            "try --l2 0.05",
        ),
        (PENALISED | {"held_out": SETTLED + 0.2}, ""),
        (
            {"losses": SETTLED, "held_out": SETTLED + 0.3, "measured": (5.48, 2.3)},
            f"{TOO_LONG}the loss is 5.48 nats, above the 2.3 nats of knowing only the class frequencies; try "
            "--learning-rate auto or --learning-rate 0.01",
        ),
        ({"losses": SETTLED, "held_out": SETTLED, "measured": (5.48, 2.3), "learning_rate": "auto"}, ""),
        ({"losses": SETTLED, "held_out": RISING, "measured": (5.48, 2.3)}, "overfitting: the validation loss rose"),
        ({"losses": SETTLED, "held_out": SETTLED, "measured": (2.2, 2.3)}, ""),
        ({"losses": SETTLED, "held_out": SETTLED, "measured": (2.4, 2.3), "start": 2.5}, ""),  # large initial weights
        (
            {"losses": SETTLED, "held_out": SETTLED + 0.3, "class_weight": "balanced"},
            "overfitting: the validation loss is 1.3 nats, the training loss 1 (rows weighted by class); try more",
        ),
    ],
)
def test_advice_on_curves(case, words):
    found = said(**case)
    assert found.startswith(words)
    assert bool(found) is bool(words)


def test_rows_that_are_not_held_out_give_no_advice_on_them():
    config = TrainConfig(learning_rate=0.1, epochs=40, l2=0.5)
    for records, holds_out in ((history(SETTLED, penalty=0.2), True), (history(SETTLED, SETTLED + 0.02, 0.2), False)):
        (found,) = advice_on_training(records, 40, 2.3, SOFTMAX, 10, config, holds_out)
        assert found == "underfitting: l2 0.5 adds 0.2 nats to the training loss of 1; try --l2 0.05"
    assert advice_on_training(history(SETTLED, RISING), 40, 2.3, SOFTMAX, 10, config, holds_out=False) == []


def test_a_model_is_judged_on_rows_that_were_held_out():
    config = TrainConfig(epochs=1)
    for refit, without_test in ((False, "toy, validation"), (True, None)):
        splits = divide(toy_dataset(), SplitConfig(refit=refit))
        result = train(splits, config)
        assert judge(result, splits, config).evaluation.name == "toy, test"
        splits = replace(splits, test=replace(splits.test, indices=splits.test.indices[:0]))
        found = judge(result, splits, config)
        assert (found and found.evaluation.name) == without_test


def test_a_solver_that_did_not_converge_gets_no_advice_on_the_penalty():
    splits = toy_splits()
    for passes, words in ((1, ["not converged: the gap was not reached"]), (1000, ["underfitting: l2 10 adds "])):
        config = TrainConfig(solver="converged", l2=10, tol=1e-6, max_passes=passes)
        found = judge(train(splits, config), splits, config).advice
        assert [sentence[: len(word)] for sentence, word in zip(found, words, strict=True)] == words


def test_a_training_without_epochs_gets_no_advice():
    config = TrainConfig(epochs=0)
    assert advice_on_training((), 0, 2.3, SOFTMAX, 10, config) == []
    splits = toy_splits()
    assert judge(train(splits, config), splits, config).advice == []


@pytest.mark.parametrize(
    ("epochs", "rate", "words"),
    [
        (30, 1e-7, ["steps too short"]),
        (30, 0.001, ["underfitting"]),
        (30, 0.02, []),
        (30, 30.0, ["steps too long"]),
        (5, 1e-7, ["steps too short"]),
        (5, 0.003, ["underfitting"]),
        (5, 30.0, ["steps too long"]),
        (1, 0.003, ["underfitting"]),
        (1, 30.0, ["steps too long"]),
    ],
)
def test_advice_on_short_trainings(epochs, rate, words):
    """Of any number of epochs, and of initial weights that make the loss large."""
    splits = toy_splits(n=3000)
    labels = np.where(np.random.default_rng(0).random(3000) < 0.3, 0, splits.dataset.labels)  # not to be separated
    dataset = replace(splits.dataset, labels=labels)
    splits = replace(splits, **{split.name: replace(split, dataset=dataset) for split in splits})
    config = TrainConfig(learning_rate=rate, epochs=epochs, init_std=0.3, batch_size=20, decay_every=0)
    result = train(splits, config)
    initial = Problem.of(splits, config).initial(60, 4).layer
    start = loss_before(result.model, initial, splits.train)
    untrained = evaluate(replace(result.model, layer=initial), splits.train)
    assert start == pytest.approx(untrained.loss, rel=1e-6)
    assert start > 1.1 * np.log(4)
    found = advice_on_training(result.state.history, epochs, start, SOFTMAX, 4, config)
    assert [sentence.split(":")[0] for sentence in found] == words


def answers(confidence, accuracy, n=2000, K=2):
    """Answers of one confidence, of which a fraction is right."""
    right = np.arange(n) < accuracy * n
    predictions = np.arange(n) % K
    labels = np.where(right, predictions, (predictions + 1) % K)
    P = np.full((n, K), (1 - confidence) / (K - 1))
    P[np.arange(n), predictions] = confidence
    return Evaluation(0.5, labels, predictions, P)


def verdict(evaluation, better, config=None):
    labels = evaluation.labels
    of = labels if not better else 1 - labels
    return verdict_of(evaluation, [Reference("a reference", labels, of, None, evaluation.class_names)], config)


@pytest.mark.parametrize(
    ("confidence", "accuracy", "settings", "words"),
    [
        (0.8, 0.8, {}, ""),
        (0.83, 0.8, {}, ""),
        (0.95, 0.8, {}, f"poor calibration: the mean confidence is 95 %, the accuracy 80.0 %; try {SWEEP}"),
        (0.6, 0.8, {}, f"{UNSURE} --epochs auto, or a smaller --l2"),
        (0.95, 0.8, CONVERGED, "poor calibration: the mean confidence is 95 %, the accuracy 80.0 %; try onelayer path"),
        (0.6, 0.8, CONVERGED, f"{UNSURE} a smaller --l2"),
        (0.6, 0.8, {"loss": "sigmoid"}, f"{UNSURE} --loss softmax, whose probabilities add up to 1"),
        (0.6, 0.8, {"class_weight": "balanced"}, f"{UNSURE} --class-weight none, if the rows to come"),
    ],
)
def test_advice_on_calibration(confidence, accuracy, settings, words):
    config = TrainConfig(**settings)
    found = advice_on_answers(answers(confidence, accuracy), None, config)
    assert len(found) == bool(words)
    assert "".join(found).startswith(words)
    assert advice_on_answers(answers(confidence, accuracy), None, config, settled=False) == []


def test_few_rows_are_not_poor_calibration():
    """Probabilities that are right: the error of a few rows in each bin is above 5 % by chance."""
    rng = np.random.default_rng(0)
    errors = []
    for _ in range(50):
        p = rng.uniform(0.5, 1, 60)
        predictions = rng.integers(0, 2, 60)
        labels = np.where(rng.random(60) > p, 1 - predictions, predictions)
        found = Evaluation(0.5, labels, predictions, np.where(np.eye(2)[predictions] == 1, p[:, None], 1 - p[:, None]))
        errors.append(found.calibration_error)
        assert advice_on_answers(found, None, TrainConfig()) == []
    assert np.mean(errors) > 0.1


def test_advice_where_a_reference_is_as_good():
    poor, good = answers(0.6, 0.6), answers(0.95, 0.95)
    words = "underfitting: one layer on these numbers may not be able to tell the classes apart; try "
    (found,) = advice_on_answers(poor, verdict(poor, better=False), TrainConfig(), pictures=True)
    assert found.startswith(f"{words}--features patches, or features of a trained network")
    words += "features of a trained network"
    assert advice_on_answers(poor, verdict(poor, better=False), TrainConfig())[0].startswith(words)
    assert advice_on_answers(poor, verdict(poor, better=True), TrainConfig()) == []
    assert advice_on_answers(good, verdict(good, better=False), TrainConfig()) == []
    rare = Evaluation(0.3, np.repeat([0, 1], [1900, 100]), np.zeros(2000, np.int64), np.tile([0.95, 0.05], (2000, 1)))
    assert advice_on_answers(rare, verdict(rare, better=False, config=BALANCED), BALANCED)[0].startswith(words)


def test_advice_on_rare_classes():
    labels = np.repeat([0, 1], [90, 10])
    P = np.tile([0.9, 0.1], (100, 1))
    found = advice_on_answers(Evaluation(0.3, labels, np.zeros(100, np.int64), P), None, TrainConfig(), settled=False)
    assert found == [
        "rare classes are often missed: the mean recall of the classes is 50 %; if all classes matter alike, "
        "try --class-weight balanced"
    ]
    assert advice_on_answers(Evaluation(0.3, labels, np.zeros(100, np.int64), P), None, BALANCED, settled=False) == []


def test_iterations_of_the_converged_solver_are_not_judged_as_epochs():
    losses = np.linspace(2.3, 1.0, 20)  # for epochs: still falling, and in a straight line
    records, converged = history(losses, losses), TrainConfig(solver="converged", l2=1e-6)
    assert advice_on_training(records, 20, 2.4, SOFTMAX, 10, TrainConfig(l2=1e-6))
    assert advice_on_training(records, 20, 2.4, SOFTMAX, 10, converged) == []
    apart = history(losses, losses + 0.5)
    (found,) = advice_on_training(apart, 20, 2.4, SOFTMAX, 10, converged)
    assert found.startswith("overfitting: the validation loss is ")
