"""The defaults: the start, the step, the decays, the end, the epoch that is kept, and the weights of classes."""

import re
from dataclasses import replace
from math import inf, nan

import numpy as np
import pytest
from helpers import assert_one_line, toy_dataset, toy_splits
from sklearn.linear_model import LogisticRegression
from sklearn.utils.class_weight import compute_class_weight

from onelayer.config import COURSEWORK, SourceConfig, SplitConfig, TrainConfig
from onelayer.data.dataset import Split, Splits
from onelayer.data.protocols import split
from onelayer.errors import ConfigError
from onelayer.experiments.sweep import Sweep
from onelayer.losses import LOSSES
from onelayer.runs import training as runs
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.training.history import EpochRecord
from onelayer.training.public import train as public_train
from onelayer.training.schedule import AT_THE_CAP, MOST_EPOCHS, decide, learning_rate_of
from onelayer.training.state import Problem, TrainingState, learnt
from onelayer.training.step import safe_step
from onelayer.training.train import train

AUTO = TrainConfig(seed=1, backend="numpy")
TRAINED_ON = "the loss of the validation rows, which are trained on, has stopped falling"


def noisy_splits() -> Splits:
    """The toy set with some labels that teach nothing, so that the validation loss stops falling soon."""
    dataset = toy_dataset()
    rng = np.random.default_rng(1)
    labels = np.where(rng.random(len(dataset.labels)) < 0.4, rng.integers(0, 4, len(dataset.labels)), dataset.labels)
    return split(replace(dataset, labels=labels), SplitConfig())


def history(*losses, validation=True):
    return tuple(
        EpochRecord(e, 0.1, loss, loss, 0.5, loss if validation else nan, nan, nan, None, 0.0)
        for e, loss in enumerate(losses, 1)
    )


def test_a_loss_that_falls_changes_nothing():
    found = decide(AUTO, history(*np.linspace(2, 1, 20)))
    assert (found.decays, found.from_best, found.stalled, found.ended) == (0, False, False, "")


def test_two_decays_then_the_end():
    config = replace(AUTO, patience=3)
    losses = [2.0, 1.5, 1.6, 1.6, 1.6, 1.4, 1.45, 1.45, 1.45, 1.45, 1.45, 1.45]
    found = [decide(config, history(*losses[:n])) for n in range(len(losses) + 1)]
    assert [f.decays for f in found] == [0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2]
    assert [n for n, f in enumerate(found) if f.from_best] == [5, 9]  # from the best epoch, which is 2, then 6
    assert [n for n, f in enumerate(found) if f.stalled] == [12]
    assert found[12].ended == "the validation loss has stopped falling"


def test_a_fall_below_a_ten_thousandth_of_the_first_loss_is_none():
    config, steady = replace(AUTO, patience=2), [4.0 - 3.9e-4 * e for e in range(3)]
    assert decide(config, history(*steady)).decays == 1
    assert decide(config, history(4.0, 4.0 - 4.1e-4, 4.0 - 8.2e-4)).decays == 0


def test_without_validation_rows_the_training_cost_decides():
    found = decide(replace(AUTO, patience=1), history(2.0, 2.0, 2.0, 2.0, validation=False))
    assert found.ended == "the training cost has stopped falling"


def test_validation_rows_that_are_trained_on_are_no_held_out_rows(run_cli, tmp_path, capsys):
    found = decide(replace(AUTO, patience=1), history(2.0, 2.0, 2.0, 2.0), holds_out=False)
    assert found.ended == TRAINED_ON
    words = ["train", "--data", "digits", "--refit", "--patience", "1", "--no-figures"]
    code, out, _ = run_cli(*words, "--out", "run")
    assert code == 0
    run = Run.open("run")
    assert run.summary["ended"] == run.read_checkpoint()[1].ended == TRAINED_ON
    assert TRAINED_ON in out
    assert re.match(r"digits, .* train, \d+ validation \(trained on\), \d+ test rows of 64 numbers\n", out)
    lines = [line for line in out.splitlines() if "validation" in line]
    assert len([line for line in lines if line.startswith("validation, trained on ")]) == 1
    assert not [line for line in lines if line.startswith("epoch")]
    splits = split(toy_dataset(), SplitConfig(refit=True))
    result = public_train(splits, replace(AUTO, patience=1), progress=True)
    assert result.ended == TRAINED_ON
    shown = capsys.readouterr().err
    assert "train" in shown
    assert "validation " not in shown.replace(TRAINED_ON, "")


def test_a_number_of_epochs_is_kept():
    config = replace(AUTO, patience=1, epochs=6)
    ended = [decide(config, history(*[2.0] * n)).ended for n in range(7)]
    assert ended == ["", "", "", "", "", "", "all 6 epochs are done"]
    assert decide(config, history(*[2.0] * 6)).decays == 2
    assert decide(replace(config, epochs=0), ()).ended == "all 0 epochs are done"
    assert decide(replace(config, epochs=1), history(2.0)).ended == "the one epoch is done"


def test_the_cap_is_said():
    found = decide(AUTO, history(*np.linspace(3, 1, MOST_EPOCHS)))
    assert not found.stalled
    assert found.ended == f"{AT_THE_CAP}; pass --epochs for more"


def test_a_decay_of_ones_own_leaves_the_best_epoch_alone():
    config = replace(AUTO, decay_every=2, decay_factor=0.5, patience=2)
    found = decide(config, history(2.0, 2.0, 2.0))
    assert (found.decays, found.from_best, found.stalled) == (0, False, True)
    assert [learning_rate_of(config, 0.8, e, 0) for e in range(1, 6)] == [0.8, 0.8, 0.4, 0.4, 0.2]
    assert learning_rate_of(replace(config, decay_every=0), 0.8, 9, 2) == 0.8
    assert learning_rate_of(AUTO, 0.8, 9, 2) == pytest.approx(0.008)


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize("weighted", [False, True])
def test_the_bias_starts_at_the_shares_of_the_classes(loss, weighted):
    splits = toy_splits()
    if weighted:
        w = np.random.default_rng(0).uniform(0.5, 2, len(splits.dataset.labels))
        dataset = replace(splits.dataset, row_weights=w / w[splits.train.indices].mean())
        splits = Splits(*(Split(s.name, dataset, s.indices) for s in splits), splits.protocol)
    layer = Problem.of(splits, replace(AUTO, loss=loss, dtype="float64")).begin().layer
    weights = splits.train.row_weights(slice(None))
    shares = np.bincount(splits.train.labels, weights) / splits.train.weight
    P = layer.probabilities(np.zeros((1, len(layer.weights))))
    np.testing.assert_allclose(P, shares[None], rtol=1e-12)
    assert not layer.weights.any()
    assert not np.signbit(layer.weights).any()


def test_a_class_without_rows_has_a_finite_bias():
    splits = toy_splits()
    present = splits.train.indices[splits.train.labels != 0]
    splits = replace(splits, train=Split("train", splits.dataset, present))
    bias = Problem.of(splits, AUTO).begin().layer.bias
    assert np.isfinite(bias).all()
    assert bias.argmin() == 0


@pytest.mark.parametrize("loss", list(LOSSES))
@pytest.mark.parametrize(("batch_size", "l2", "momentum"), [(1, 0.0, 0.0), (20, 0.3, 0.6), (10**6, 0.0, 0.0)])
def test_the_step_is_three_quarters_of_the_longest_safe_one(loss, batch_size, l2, momentum):
    splits = toy_splits()
    config = replace(AUTO, loss=loss, batch_size=batch_size, l2=l2, momentum=momentum)
    R = splits.train.rows(slice(None)).astype(float)
    R = R[:, R.std(0) > 0]  # a constant feature is 0 in every row
    X = np.column_stack([(R - R.mean(0)) / R.std(0), np.ones(len(R))])
    values = np.linalg.eigvalsh(X.T @ X / len(X))
    varying = values[:-1].sum() / batch_size if batch_size < len(X) else 0
    curvature = values[-1] / (1 + momentum) + varying / (1 - momentum)
    expected = 1.5 / (LOSSES[loss].curvature(len(splits.dataset.class_names)) * curvature + 2 * l2)
    step = safe_step(splits.train, splits.standardizer, config, len(splits.dataset.class_names))
    assert step == pytest.approx(expected, rel=0.02)
    assert Problem.of(splits, config).begin().first_rate == pytest.approx(step, rel=1e-12)


def test_rare_heavy_rows_shorten_the_step():
    """Twenty of 30,000 rows have half of the weight: at equal steps of the row number, none would be looked at."""
    rng = np.random.default_rng(0)
    y = np.zeros(30_000, np.int64)
    y[rng.choice(len(y), 20, replace=False)] = 1
    X = rng.standard_normal((len(y), 8)) + 3 * y[:, None]
    dataset = replace(toy_dataset(), rows=X, labels=y, class_names=("a", "b"), image_shape=None, name="rows")
    splits = split(dataset, SplitConfig())
    rates = [Problem.of(splits, replace(AUTO, class_weight=w)).begin().first_rate for w in ("none", "balanced")]
    assert rates[1] < rates[0] / 3
    for weights in ("balanced", "a=0"):
        result = train(splits, replace(AUTO, class_weight=weights, epochs=3))
        assert result.history["train_loss"].max() < np.log(2)


def test_a_row_of_weight_two_is_two_rows_for_the_step():
    splits, config = toy_splits(), replace(AUTO, batch_size=10**6)
    w = np.where(np.arange(len(splits.dataset.labels)) % 3 == 0, 2.0, 1.0)
    dataset = replace(splits.dataset, row_weights=w / w[splits.train.indices].mean())
    weighted = Split("train", dataset, splits.train.indices)
    twice = Split("train", splits.dataset, np.repeat(splits.train.indices, w[splits.train.indices].astype(int)))
    steps = [safe_step(rows, splits.standardizer, config, 4) for rows in (weighted, twice)]
    assert steps[0] == pytest.approx(steps[1], rel=1e-9)


def test_nothing_but_the_start_depends_on_the_random_weights():
    """The same numbers are drawn, so that the rows come in the same order."""
    states = [TrainingState.initial(7, 3, replace(AUTO, init_std=std)) for std in (0.0, 0.01)]
    assert states[0].rng_state == states[1].rng_state


@pytest.mark.parametrize("threads", [1, 2])
def test_the_best_epoch_is_kept_and_training_goes_on_from_it(threads):
    splits = noisy_splits()
    config = replace(AUTO, threads=threads, learning_rate=0.5, patience=2)
    states = []
    result = train(splits, config, on_epoch=states.append)
    losses = result.history["validation_loss"]
    assert result.kept_epoch == losses.argmin() + 1
    assert result.kept_epoch < len(losses)
    assert result.ended == "the validation loss has stopped falling"
    assert result.scores["validation"].loss == losses.min()
    np.testing.assert_array_equal(result.model.layer.weights, states[result.kept_epoch - 1].layer.weights)
    rates = result.history["learning_rate"]
    (first, second) = np.flatnonzero(np.diff(rates)) + 1
    np.testing.assert_allclose(rates[[0, first, second]], [0.5, 0.05, 0.005])
    # The epoch after a decay is one epoch from the best layer, not from the last.
    for place in (first, second):
        best = states[losses[:place].argmin()]
        start = replace(states[place - 1], layer=best.layer, best=None, history=(), ended="")
        start, alone = replace(start, first_rate=None), replace(config, epochs=1, learning_rate=rates[place])
        once = train(splits, alone, start=start)
        np.testing.assert_array_equal(once.state.layer.weights, states[place].layer.weights)
    last = train(splits, replace(config, keep="last"))
    assert last.kept_epoch == len(losses)
    np.testing.assert_array_equal(last.model.layer.weights, states[-1].layer.weights)


def test_threads_change_no_bit():
    splits = noisy_splits()
    one, two = (train(splits, replace(AUTO, threads=n, learning_rate=0.5, patience=2)) for n in (1, 2))
    assert one.model.layer.weights.tobytes() == two.model.layer.weights.tobytes()
    assert [r.validation_loss for r in one.state.history] == [r.validation_loss for r in two.state.history]


def run_of(path, splits, config):
    problem = Problem.of(splits, config)
    plan = Plan(config, SplitConfig(), "toy", splits.dataset.fingerprint, SourceConfig())
    return Run.create(path), plan, problem


def test_resumed_for_longer_equals_a_longer_run(tmp_path):
    splits = noisy_splits()
    config = replace(AUTO, learning_rate=0.5, patience=2, l2=0.01, init_std=0.1)
    whole = runs.start(*run_of(tmp_path / "whole", splits, replace(config, epochs=30)))
    decays = np.flatnonzero(np.diff(whole.history["learning_rate"])) + 1
    assert len(decays) == 2
    for stop in {1, *decays.tolist(), *(decays + 1).tolist(), 29}:
        run, plan, problem = run_of(tmp_path / f"{stop}", splits, replace(config, epochs=stop))
        runs.start(run, plan, problem)
        resumed = runs.resume(run, splits, 30)
        assert resumed.model.layer.weights.tobytes() == whole.model.layer.weights.tobytes()
        assert resumed.kept_epoch == whole.kept_epoch
        assert [r.test_accuracy for r in resumed.state.history] == [r.test_accuracy for r in whole.state.history]
        assert resumed.kept.left == pytest.approx(whole.kept.left, rel=1e-12)
        summary = run.summary
        assert summary["kept_epoch"] == whole.kept_epoch
        assert summary["ended"] == "all 30 epochs are done"
        assert summary["dates"]["started"] <= summary["dates"]["ended"]


def test_a_complete_auto_run_says_so_and_goes_on_only_if_asked(tmp_path):
    splits = noisy_splits()
    run, plan, problem = run_of(tmp_path / "run", splits, replace(AUTO, learning_rate=0.5, patience=2))
    result = runs.start(run, plan, problem)
    model = run.model
    again = runs.resume(run, splits)
    assert again.state.epoch == result.state.epoch
    np.testing.assert_array_equal(run.model.layer.weights, model.layer.weights)
    longer = runs.resume(run, splits, result.state.epoch + 3)
    assert longer.state.epoch == result.state.epoch + 3


def test_what_auto_came_to_is_recorded(tmp_path):
    splits = noisy_splits()
    run, plan, problem = run_of(tmp_path / "run", splits, replace(AUTO, epochs=2))
    result = runs.start(run, plan, problem)
    assert run.summary["learning_rate"] == result.state.first_rate == result.history["learning_rate"][0]
    assert run.summary["config"]["learning_rate"] == "auto"
    assert run.config.learning_rate == "auto"


@pytest.mark.parametrize(("dtype", "tolerance"), [("float64", 1e-12), ("float32", 2e-5)])
@pytest.mark.parametrize("keep", ["best", "last"])
def test_learnt_is_the_sum_of_the_steps(dtype, tolerance, keep):
    """The oracle follows the share of the initial weights by the history: a decay goes back to the best epoch."""
    splits = noisy_splits()
    config = replace(AUTO, learning_rate=0.5, l2=0.02, init_std=0.3, dtype=dtype, patience=2, keep=keep, batch_size=30)
    states = []
    result = train(splits, config, on_epoch=states.append)
    initial = TrainingState.initial(*result.model.layer.weights.shape, config).layer.weights.astype(np.float64)
    rates, losses = result.history["learning_rate"], result.history["validation_loss"]
    steps = -(-len(splits.train) // 30)
    left = [1.0]  # of the initial weights, after each epoch; a decay goes back to the best
    for epoch, rate in enumerate(rates):
        decayed = epoch and rate != rates[epoch - 1]
        before = left[losses[:epoch].argmin() + 1] if decayed else left[-1]
        left.append(before * (1 - 2 * rate * 0.02) ** steps)
    kept = result.kept_epoch
    expected = result.model.layer.weights - left[kept] * initial
    found = learnt(result.kept, config)
    assert np.abs(initial * left[kept]).max() > 0.05
    expected[7] = 0  # the feature is constant
    np.testing.assert_allclose(found, expected, atol=tolerance)


def by_hand(splits, factors):
    """Splits whose training and validation rows have these weights by class, as rows' own."""
    w = np.asarray(factors)[splits.dataset.labels]
    weighted = replace(splits.dataset, row_weights=w / w[splits.train.indices].mean())
    return replace(
        splits,
        train=Split("train", weighted, splits.train.indices),
        validation=Split("validation", weighted, splits.validation.indices),
    )


@pytest.mark.parametrize("setting", ["balanced", "frog=3,cat=0.25"])
def test_class_weights_are_weights_of_rows(setting):
    dataset = replace(toy_dataset(K=3), class_names=("cat", "frog", "ox"))
    splits = split(dataset, SplitConfig())
    y = splits.train.labels
    factors = compute_class_weight("balanced", classes=np.arange(3), y=y) if setting == "balanced" else (0.25, 3, 1)
    config = replace(AUTO, epochs=5)
    ours = train(splits, replace(config, class_weight=setting))
    expected = train(by_hand(splits, factors), config)
    np.testing.assert_allclose(ours.model.layer.weights, expected.model.layer.weights, atol=1e-6)
    assert ours.history["validation_loss"] == pytest.approx(expected.history["validation_loss"])
    plain = train(splits, replace(config, class_weight="none", epochs=0), start=None)
    assert plain.scores.keys() == ours.scores.keys()
    unweighted = splits.train.rows(slice(None))
    right = ours.model.unchecked_logits(unweighted).argmax(1) == y
    assert ours.scores["train"].accuracy == pytest.approx(right.mean())
    assert ours.scores["test"].accuracy == ours.state.history[ours.kept_epoch - 1].test_accuracy


def test_balanced_weights_do_what_those_of_scikit_learn_do():
    rng = np.random.default_rng(3)
    y = np.repeat([0, 1, 2], [300, 60, 20])
    X = rng.standard_normal((len(y), 6)) + 0.8 * np.eye(3, 6)[y]
    dataset = replace(toy_dataset(), rows=X, labels=y, class_names=("a", "b", "c"), image_shape=None, name="rows")
    splits = split(dataset, SplitConfig())
    config = replace(AUTO, class_weight="balanced", l2=0.05, dtype="float64", epochs=400, keep="last", decay_every=0)
    config = replace(config, batch_size=10**6)
    ours = train(splits, config).model
    s = splits.standardizer
    T = splits.train.rows(slice(None))
    w = compute_class_weight("balanced", classes=np.arange(3), y=splits.train.labels)[splits.train.labels]
    m = (w @ T) / w.sum()  # the standardizer counts rows by their weights
    sd = np.sqrt(w @ (T - m) ** 2 / w.sum())
    peer = LogisticRegression(C=1 / (2 * 0.05 * len(T)), class_weight="balanced", tol=1e-10, max_iter=10_000)
    peer.fit((T - m) / sd, splits.train.labels)
    assert s.mean.shape == m.shape
    rows = splits.test.rows(slice(None))
    np.testing.assert_allclose(ours.probabilities(rows), peer.predict_proba((rows - m) / sd), atol=1e-5)


@pytest.mark.parametrize(
    ("setting", "words"),
    [("dgo=2", "did you mean 'dog'"), ("zebra=2", "its classes are cat, dog, ox"), ("cat=0,dog=0,ox=0", "weight 0")],
)
def test_class_weights_that_do_not_fit(setting, words):
    splits = split(replace(toy_dataset(K=3), class_names=("cat", "dog", "ox")), SplitConfig())
    with pytest.raises(ConfigError, match=words):
        train(splits, replace(AUTO, class_weight=setting))


@pytest.mark.parametrize("setting", ["cat", "cat=", "=2", "cat=-1", "cat=inf", "cat=1,cat=2", "", "cat=nan", 2])
def test_class_weights_that_are_none(setting):
    with pytest.raises(ConfigError, match=r"is not none, balanced, or NAME=W"):
        TrainConfig(class_weight=setting)


def test_the_preset(run_cli, tiny_cifar):
    words = ["--data", tiny_cifar, "--preset", "coursework", "--epochs", "2", "--no-figures"]
    assert run_cli("train", *words, "--out", "run")[0] == 0
    assert replace(Run.open("run").config, backend="auto") == replace(COURSEWORK, epochs=2)
    assert_one_line(run_cli("train", "--preset", "homework"), "coursework")


def test_a_file_wins_over_the_preset(run_cli, tiny_cifar, tmp_path, monkeypatch):
    (tmp_path / "settings.toml").write_text("l2 = 0.5\nlearning_rate = 0.25\npreset = 'coursework'\n")
    words = ["--data", tiny_cifar, "--config", tmp_path / "settings.toml", "--l2", "0.125", "--epochs", "1"]
    assert run_cli("train", *words, "--no-figures", "--out", "run")[0] == 0
    found = Run.open("run").config
    assert (found.l2, found.learning_rate, found.init_std, found.epochs) == (0.125, 0.25, 0.01, 1)


def test_auto_drops_the_preset_where_it_takes_the_digits(run_cli):
    words = ["train", "--preset", "coursework", "--epochs", "3", "--no-figures"]
    code, out, _ = run_cli(*words, "--data", "auto", "--out", "run")
    assert code == 0
    assert "without the preset coursework" in out
    assert Run.open("run").config.learning_rate == "auto"
    assert run_cli(*words, "--data", "digits", "--out", "two")[0] == 0
    assert Run.open("two").config.learning_rate == 0.001


def test_what_was_typed_by_hand_stays_where_the_preset_is_dropped(run_cli, tmp_path):
    """Also a value that the preset has, too."""
    (tmp_path / "settings.toml").write_text("init_std = 0.01\n")
    words = ["--preset", "coursework", "--learning-rate", "0.001", "--epochs", "2", "--config", "settings.toml"]
    assert run_cli("train", *words, "--no-figures", "--out", "run")[0] == 0
    typed = TrainConfig(learning_rate=0.001, epochs=2, init_std=0.01)
    assert replace(Run.open("run").config, backend="auto") == typed
    assert run_cli("train", "--preset", "coursework", "--epochs", "1", "--no-figures", "--out", "two")[0] == 0
    assert replace(Run.open("two").config, backend="auto") == TrainConfig(epochs=1)


def test_a_sweep_drops_the_preset_where_it_takes_the_digits(run_cli):
    words = ["sweep", "--preset", "coursework", "--l2", "0", "0.1", "--epochs", "2", "--keep", "last"]
    code, out, _ = run_cli(*words, "--out", "auto")
    assert code == 0
    assert "note: CIFAR-10 is not here; digits takes its place, without the preset coursework" in out
    typed = TrainConfig(epochs=2, keep="last")
    assert Sweep.open("auto").plan.configs == tuple(replace(typed, l2=l2, seed=42, threads=1) for l2 in (0.0, 0.1))
    code, out, _ = run_cli(*words, "--data", "digits", "--out", "digits")
    assert code == 0
    assert "without the preset" not in out
    assert {config.learning_rate for config in Sweep.open("digits").plan.configs} == {0.001}


def test_old_files_mean_the_old_defaults():
    old = {"learning_rate": 0.5, "epochs": 7}
    assert TrainConfig.of_file(old) == replace(COURSEWORK, learning_rate=0.5, epochs=7)


def test_a_loss_of_infinity_is_never_the_best():
    assert decide(AUTO, history(inf, 1.0)).decays == 0
