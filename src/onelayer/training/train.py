"""Training: a pure function of the splits and the settings. It prints nothing and writes no file."""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from typing import Protocol

from onelayer.config import TrainConfig
from onelayer.data.dataset import Splits
from onelayer.features.map import FeatureMap
from onelayer.features.standardizer import Standardizer
from onelayer.training.scores import scores_of
from onelayer.training.sgd import epochs
from onelayer.training.state import Problem, TrainingResult, TrainingState, learnt


class Solver(Protocol):
    """A generator of states, such as `onelayer.training.sgd.epochs`."""

    def __call__(
        self, problem: Problem, start: TrainingState, *, report_test: bool, cancelled: Callable[[], bool]
    ) -> Generator[TrainingState, None, None]:
        """Yield the state after each epoch or iteration."""


def train(
    splits: Splits,
    config: TrainConfig,
    *,
    start: TrainingState | None = None,
    features: FeatureMap | None = None,
    standardizer: Standardizer | None = None,
    on_epoch: Callable[[TrainingState], object] | None = None,
    report_test: bool = True,
    cancelled: Callable[[], bool] = bool,
) -> TrainingResult:
    """Train a layer by mini-batch gradient descent.

    Parameters
    ----------
    splits : Splits
        The test rows are scored after the first and the kept epoch, if at all, and used for nothing else. A split
        without rows, or with weights of 0 only, has no scores; the validation figures of the history are NaN then.
    config : TrainConfig
    start : TrainingState, optional
        Go on from here instead of from new weights; the result has the same bits as a run that never stopped.
    features : FeatureMap, optional
        The features that the layer sees instead of the raw rows; by default, the rows themselves.
    standardizer : Standardizer, optional
        By default that of the training rows, and of their mirror images if there are flips. The weights of its constant
        features are 0 throughout; where it does not know them, they are those of the training rows.
    on_epoch : callable, optional
        Called with the state after each epoch; training ends there if it returns true.
    report_test : bool
        False leaves the test rows alone.
    cancelled : callable, optional
        Asked now and then, in other threads too; true ends the training.

    Raises
    ------
    ConfigError
        If `flip` is set but the rows are not images, the map does not take these rows, or the backend has an obstacle.
    DataError
        If there are no training rows.
    DivergedError
        If a cost is not finite after an epoch.
    InterruptedError
        If it was cancelled.
    """
    problem = Problem.of(splits, config, standardizer, features)
    return solve(problem, start, on_epoch=on_epoch, report_test=report_test, cancelled=cancelled)


def solve(
    problem: Problem,
    start: TrainingState | None = None,
    *,
    solver: Solver = epochs,
    on_epoch: Callable[[TrainingState], object] | None = None,
    report_test: bool = True,
    cancelled: Callable[[], bool] = bool,
) -> TrainingResult:
    """Let a solver run to its end, or until `on_epoch` returns true, and collect the result; see `train`."""
    state = problem.begin(start)
    with closing(solver(problem, state, report_test=report_test, cancelled=cancelled)) as states:
        for state in states:
            if on_epoch and on_epoch(state):
                state = replace(state, ended=state.ended or "the caller ended it")
                break
    kept, scores = problem.kept(state), {}
    if problem.config.class_weight == "none":  # otherwise they are those of weighted rows
        scores = kept.scores
    needed = [split for split in problem.unweighted if split.weight and (report_test or split.name != "test")]
    missing = [split for split in needed if split.name not in scores]
    if missing:
        scores = scores | scores_of(problem, problem.open(kept.layer), kept.layer, missing, cancelled)
    if state.history and "test" in scores and kept.epoch:
        state = state.with_test_accuracy(kept.epoch, scores["test"].accuracy)
    steps = learnt(kept, problem.config) if problem.config.init_std else None
    return TrainingResult(problem.model(kept.layer), state, problem.backend.name, replace(kept, scores=scores), steps)
