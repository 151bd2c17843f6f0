"""Momentum: against a loop, by both backends; through decays, interruptions and checkpoints."""

from dataclasses import replace

import numpy as np
import pytest
from helpers import coursework, plain_training, toy_dataset, toy_splits

from onelayer import train
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.dataset import Dataset
from onelayer.data.protocols import split
from onelayer.errors import ConfigError, ModelFileError
from onelayer.features.map import FeatureMap, UnitLength
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.runs.training import resume, start
from onelayer.training.state import Problem, SolverState

CONFIG = coursework(epochs=3, learning_rate=0.01, l2=0.05, batch_size=32, momentum=0.8, init_std=0.0, dtype="float64")


class Waves(FeatureMap):
    name, image_shape, d_in, d_out, linear = "waves", None, 20, 400, False

    def transform(self, R):
        rng = np.random.default_rng(0)
        return np.cos(R.astype(np.float64) @ rng.normal(0, 0.5, (20, 400)) + rng.uniform(0, 6, 400))


def heavy_ball(splits, config):
    """W and b by x[t + 1] = x[t] - rate g(x[t]) + momentum (x[t] - x[t - 1]), which is the same without a velocity."""
    R, y = splits.train.rows(slice(None)).astype(float), splits.train.labels
    scale = np.where(np.ptp(R, axis=0) > 0, R.std(axis=0), np.inf)
    X = np.hstack([(R - R.mean(axis=0)) / scale, np.ones((len(R), 1))])
    rng, K = np.random.default_rng(config.seed), len(splits.dataset.class_names)
    rng.normal(size=(X.shape[1] - 1, K))  # the initial weights, which are drawn all the same
    last = now = np.zeros((X.shape[1], K))
    penalised = np.append(np.ones(X.shape[1] - 1), 0)[:, None]
    for _ in range(config.epochs):
        order = rng.permutation(len(X))
        for at in range(0, len(X), config.batch_size):
            batch = order[at : at + config.batch_size]
            E = np.exp(X[batch] @ now)
            P = E / E.sum(axis=1, keepdims=True) - np.eye(K)[y[batch]]
            gradient = X[batch].T @ P / len(batch) + 2 * config.l2 * penalised * now
            last, now = now, now - config.learning_rate * gradient + config.momentum * (now - last)
    return now[:-1], now[-1]


@pytest.mark.parametrize("dtype", ["float64", "float32"])
@pytest.mark.parametrize("rows", ["uint8", "float32"])
def test_steps_are_those_of_a_heavy_ball(dtype, rows):
    splits = toy_splits(dtype=rows)
    config = replace(CONFIG, dtype=dtype)
    W, b = heavy_ball(splits, config)
    found = train(splits, config)
    assert abs(W).max() > 0.05
    tolerance = 1e-10 if dtype == "float64" else 1e-5
    np.testing.assert_allclose(found.model.layer.weights, W, atol=tolerance)
    np.testing.assert_allclose(found.model.layer.bias, b, atol=tolerance)
    assert found.backend == ("numpy" if dtype == "float64" else "native")
    V, v = plain_training(splits, config)
    np.testing.assert_allclose(V, W, atol=1e-10)
    np.testing.assert_allclose(v, b, atol=1e-10)


def test_without_momentum_there_is_no_velocity():
    for config in (coursework(epochs=1), coursework(epochs=1, momentum=0.0)):
        assert train(toy_splits(), config).state.solver is None
    assert train(toy_splits(), replace(CONFIG, epochs=1)).state.solver.arrays["velocity"].shape == (60, 4)


@pytest.mark.parametrize("dtype", ["float64", "float32"])
def test_training_goes_on_to_the_same_bits(dtype, tmp_path):
    splits, config = toy_splits(), replace(CONFIG, dtype=dtype, epochs=5)
    whole = train(splits, config)
    half = train(splits, replace(config, epochs=2))
    assert train(splits, config, start=half.state).model.to_bytes() == whole.model.to_bytes()
    plan = Plan(config, SplitConfig(), "toy", splits.dataset.fingerprint)
    run = Run.create(tmp_path / "run")
    start(run, replace(plan, config=replace(config, epochs=2)), Problem.of(splits, replace(config, epochs=2)))
    assert resume(run, splits, 5).model.to_bytes() == whole.model.to_bytes()
    forgotten = train(splits, config, start=replace(half.state, solver=None))
    assert forgotten.model.to_bytes() != whole.model.to_bytes()


@pytest.mark.parametrize("damage", [{"velocity": np.zeros((4, 60))}, {"bias_velocity": None}])
def test_a_damaged_velocity_is_refused(tmp_path, damage):
    """It is not begun anew, which would end with other bits."""
    splits, config = toy_splits(), replace(CONFIG, epochs=2)
    run = Run.create(tmp_path / "run")
    start(run, Plan(config, SplitConfig(), "toy", splits.dataset.fingerprint), Problem.of(splits, config))
    plan, state = run.read_checkpoint()
    arrays = {name: array for name, array in (state.solver.arrays | damage).items() if array is not None}
    run.write_checkpoint(plan, replace(state, solver=SolverState(arrays, {})))
    with pytest.raises(ModelFileError, match=r"the state is damaged \(.*velocity.*\); train the run again"):
        run.read_checkpoint()


def test_after_a_decay_it_starts_from_the_best_epoch_without_a_velocity():
    dataset, rng = toy_dataset(n=120), np.random.default_rng(1)
    wrong = rng.random(120) < 0.4  # so that the loss of the validation rows rises again
    splits = split(replace(dataset, labels=np.where(wrong, rng.integers(0, 4, 120), dataset.labels)), SplitConfig())
    config = TrainConfig(learning_rate=0.05, momentum=0.9, patience=3, epochs=40, keep="last")
    states = []
    train(splits, config, on_epoch=lambda state: states.append(state) and None)
    rates = [record.learning_rate for record in states[-1].history]
    decayed = next(at for at, rate in enumerate(rates) if rate < rates[0])
    losses = [record.validation_loss for record in states[-1].history[:decayed]]
    best, before = states[int(np.argmin(losses))], states[decayed - 1]
    assert best is not before
    still = replace(before, layer=best.layer, history=(), solver=None, best=None, scores={})
    again = train(splits, replace(config, learning_rate=rates[decayed], epochs=1, decay_every=0), start=still)
    np.testing.assert_array_equal(again.state.layer.weights, states[decayed].layer.weights)


def test_the_automatic_rate_is_safe_with_momentum():
    """Of features that are hardly alike: batches vary, and a velocity adds up ten of them."""
    rng = np.random.default_rng(1)
    X = rng.normal(size=(2000, 20)).astype(np.float32)
    y = (X @ rng.normal(size=(20, 4)) + rng.gumbel(size=(2000, 4))).argmax(axis=1)
    splits = split(Dataset(X, y, ("a", "b", "c", "d"), None, "waves"), SplitConfig())
    config = TrainConfig(epochs=2, keep="last")
    quick, slow = (train(splits, replace(config, momentum=m), features=Waves()) for m in ("auto", 0.0))
    assert quick.state.first_rate < slow.state.first_rate / 2
    assert quick.state.solver.arrays["velocity"].any()
    assert (quick.history["train_loss"] < slow.history["train_loss"]).all()
    assert slow.history["train_loss"][0] < 0.7


def test_auto_is_for_features():
    splits, one = toy_splits(), replace(CONFIG, epochs=1, momentum="auto")
    bits = {
        (map_, momentum): train(splits, replace(one, momentum=momentum), features=map_).model.layer.weights.tobytes()
        for map_ in (None, UnitLength(60))
        for momentum in ("auto", 0.0, 0.9)
    }
    assert bits[None, "auto"] == bits[None, 0.0] != bits[None, 0.9]
    assert bits[UnitLength(60), "auto"] == bits[UnitLength(60), 0.9] != bits[UnitLength(60), 0.0]
    random = train(splits, replace(one, init_std=0.01), features=UnitLength(60))
    assert random.state.solver is None
    assert "momentum 0.5" in TrainConfig(momentum=0.5).setting_in_words()


@pytest.mark.parametrize("momentum", [1, -0.1, np.nan, "fast", True])
def test_bad_ones_are_refused(momentum):
    with pytest.raises(ConfigError, match=r"^momentum .* is not a number of at least 0 and below 1, or auto$"):
        TrainConfig(momentum=momentum)
    with pytest.raises(ConfigError, match=r"^momentum 0.9 is not 0 or auto with random initial weights$"):
        TrainConfig(momentum=0.9, init_std=0.01)
    with pytest.raises(ConfigError, match="is a setting of the solver sgd"):
        TrainConfig(momentum=0.9, solver="converged")
