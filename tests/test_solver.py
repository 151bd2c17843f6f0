"""Solvers: generators of states, how they end, and the plain loop."""

import threading
from dataclasses import replace

import numpy as np
import pytest
from helpers import coursework, plain_training, relative, toy_splits
from threadpoolctl import threadpool_info, threadpool_limits

from onelayer.errors import DivergedError
from onelayer.layer import SoftmaxLayer
from onelayer.training.history import EpochRecord
from onelayer.training.plain import gradient_descent
from onelayer.training.scores import scores_of
from onelayer.training.sgd import epochs
from onelayer.training.state import Problem, TrainingState
from onelayer.training.train import solve, train


@pytest.mark.parametrize("loss", ["softmax", "sigmoid"])
def test_the_plain_loop_is_what_pytorch_does(loss):
    torch = pytest.importorskip("torch")
    splits = toy_splits()
    config = coursework(learning_rate=0.05, epochs=4, l2=0.1, batch_size=32, loss=loss, decay_every=2, init_std=0.0)
    R = splits.train.rows(slice(None)).astype(float)
    s = R.std(axis=0)
    X, y = torch.tensor((R - R.mean(axis=0)) / np.where(s > 0, s, 1)), torch.tensor(splits.train.labels)
    n, d = X.shape
    linear = torch.nn.Linear(d, 4, dtype=torch.float64)
    for parameter in linear.parameters():
        torch.nn.init.zeros_(parameter)
    optimizer = torch.optim.SGD(
        [{"params": [linear.weight], "weight_decay": 2 * config.l2}, {"params": [linear.bias]}], lr=0.05
    )
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, step_size=2, gamma=0.1)
    value = torch.nn.functional.cross_entropy
    if loss == "sigmoid":
        value = lambda S, y: torch.nn.functional.binary_cross_entropy_with_logits(S, torch.eye(4).double()[y])  # noqa: E731
    rng = np.random.default_rng(config.seed)
    rng.standard_normal((4, d))  # the initial weights
    for epoch in gradient_descent(splits, config):
        for batch in torch.tensor(rng.permutation(n)).split(32):
            optimizer.zero_grad()
            value(linear(X[batch]), y[batch]).backward()
            optimizer.step()
        scheduler.step()
        W, b = linear.weight.detach().numpy().T, linear.bias.detach().numpy()
        assert relative(epoch.layer.weights, W) < 1e-12
        assert relative(epoch.layer.bias, b) < 1e-12
        cost = value(linear(X), y).item() + 0.1 * (W**2).sum()
        assert epoch.cost == pytest.approx(cost, rel=1e-12)
    assert np.abs(W).max() > 0.01


@pytest.mark.parametrize("backend", ["auto", "numpy"])
def test_training_can_be_cancelled(backend):
    cancelled = threading.Event()
    config = coursework(epochs=10**6, backend=backend)
    with pytest.raises(InterruptedError):
        train(toy_splits(), config, on_epoch=lambda state: cancelled.set(), cancelled=cancelled.is_set)


def test_a_cancelled_training_in_the_middle_of_its_work():
    asked = 0

    def cancelled() -> bool:
        nonlocal asked
        asked += 1
        return asked > 5

    with pytest.raises(InterruptedError):  # the loop asks once an epoch, its work the other times
        train(toy_splits(n=3000), coursework(epochs=4, backend="numpy"), cancelled=cancelled)


@pytest.mark.parametrize("threads", [1, 2])
def test_a_callback_ends_the_training(threads):
    splits = toy_splits()
    config = coursework(learning_rate=0.01, epochs=9, threads=threads)
    ended = train(splits, config, on_epoch=lambda state: state.epoch == 4)
    full = train(splits, replace(config, epochs=4))
    assert ended.state.epoch == 4
    np.testing.assert_array_equal(ended.model.layer.weights, full.model.layer.weights)
    assert ended.scores == full.scores
    assert ended.state.history[-1].test_accuracy == full.scores["test"].accuracy
    assert train(splits, config, on_epoch=lambda state: state.epoch == 9).scores == train(splits, config).scores


def blas_threads() -> list[int]:
    return [library["num_threads"] for library in threadpool_info() if library["user_api"] == "blas"]


@pytest.mark.parametrize("threads", [1, 2])
def test_nothing_of_the_process_is_held_while_a_state_is_looked_at(threads):
    problem = Problem.of(toy_splits(), coursework(epochs=3, threads=threads, learning_rate=0.05))
    with threadpool_limits(2, user_api="blas"), np.errstate(over="raise", invalid="raise"):
        threads_before, errors_before = blas_threads(), np.geterr()
        assert set(threads_before) == {2}
        for state in epochs(problem, problem.begin()):
            assert np.geterr() == errors_before
            assert threads == 2 or blas_threads() == threads_before  # a second thread trains the next epoch
            assert set(state.scores) >= {"train", "validation"}
            assert ("test" in state.scores) == (state.epoch in (1, 3))
        assert state.epoch == 3
        assert blas_threads() == threads_before


def test_a_state_comes_while_the_next_epoch_is_trained():
    looked_at, begun = threading.Event(), []
    problem = Problem.of(toy_splits(), coursework(epochs=3, threads=2))

    class Slow(problem.backend):
        def run_epoch(self, *arguments):
            begun.append(1)
            assert len(begun) != 2 or looked_at.wait(10)
            super().run_epoch(*arguments)

    states = epochs(replace(problem, backend=Slow), problem.begin())
    assert next(states).epoch == 1
    looked_at.set()
    assert [state.epoch for state in states] == [2, 3]


def test_closing_the_states_ends_the_other_thread():
    problem = Problem.of(toy_splits(), coursework(epochs=10**6, threads=2))
    before = set(threading.enumerate())
    states = epochs(problem, problem.begin())
    assert next(states).epoch == 1
    assert next(states).epoch == 2
    assert set(threading.enumerate()) > before
    states.close()
    assert set(threading.enumerate()) == before


def test_the_states_are_those_that_training_collects():
    splits, config = toy_splits(), coursework(epochs=4, learning_rate=0.05, flip=True)
    problem = Problem.of(splits, config)
    *_, last = epochs(problem, problem.begin())
    result = train(splits, config)
    assert last.layer.weights.tobytes() == result.state.layer.weights.tobytes()
    assert last.scores == result.scores
    assert [record.epoch for record in last.history] == [1, 2, 3, 4]


def test_a_state_of_other_rows_does_not_bring_their_scores():
    config = coursework(epochs=3, learning_rate=0.05)
    state = train(toy_splits(), config).state
    others = toy_splits(seed=1)
    found = train(others, config, start=state)
    assert found.scores == train(others, config, start=replace(state, scores={})).scores
    assert found.scores["validation"].loss != state.scores["validation"].loss
    assert set(train(others, config, start=state, report_test=False).scores) == {"train", "validation"}


@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("end", [1, 3])
def test_an_end_after_any_epoch_leaves_its_scores(threads, end):
    splits, config = toy_splits(), coursework(epochs=3, learning_rate=0.05, threads=threads)
    ended = train(splits, config, on_epoch=lambda state: state.epoch == end)
    whole = train(splits, replace(config, epochs=end))
    assert ended.scores == whole.scores
    assert ended.state.history[-1].test_accuracy == whole.scores["test"].accuracy


def test_an_error_in_a_listener_ends_the_other_thread():
    before = set(threading.enumerate())
    with pytest.raises(ZeroDivisionError):
        train(toy_splits(), coursework(epochs=10**6, threads=2), on_epoch=lambda state: 1 / 0)
    assert set(threading.enumerate()) == before


def test_a_solver_of_ones_own():
    """Steps along the gradient of all rows, as a solver of whole batches takes them."""

    def descent(problem, start, *, report_test, cancelled):
        backend, state, layer = problem.open(start.layer), start, start.layer
        for epoch in range(start.epoch + 1, problem.config.epochs + 1):
            _, dW, db = backend.objective(layer, problem.splits.train, cancelled)
            rate = problem.config.learning_rate
            layer = SoftmaxLayer(layer.weights - rate * dW, layer.bias - rate * db, layer.loss)
            splits = problem.splits if report_test else (problem.splits.train, problem.splits.validation)
            scores = scores_of(problem, backend, layer, splits, cancelled)
            record = EpochRecord.of(epoch, rate, scores, 0.0)
            state = TrainingState(layer, start.rng_state, (*state.history, record), scores)
            yield state

    config = coursework(epochs=5, learning_rate=0.05, batch_size=10_000, dtype="float64", l2=0.1)
    found = solve(Problem.of(toy_splits(), config), solver=descent)
    W, b = plain_training(toy_splits(), config)
    assert relative(found.model.layer.weights, W) < 1e-12
    assert relative(found.model.layer.bias, b) < 1e-12
    assert found.scores["test"].cost == pytest.approx(train(toy_splits(), config).scores["test"].cost, rel=1e-12)


def test_the_advice_names_the_rate_that_was_given():
    config = coursework(epochs=1, decay_every=1)
    start = train(toy_splits(), config).state
    with pytest.raises(DivergedError, match=r"after epoch 2 .* try a learning rate below 1e\+30"):
        train(toy_splits(), replace(config, learning_rate=1e30, epochs=2), start=start)
