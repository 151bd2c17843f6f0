"""Training: a pure function of the splits and the settings. It prints nothing and writes no file."""

from collections.abc import Callable, Generator
from contextlib import closing
from dataclasses import replace
from typing import Protocol

from onelayer.config import TrainConfig
from onelayer.data.dataset import Splits
from onelayer.data.progress import Progress
from onelayer.features.map import FeatureMap
from onelayer.features.standardizer import Standardizer
from onelayer.training.backends.registry import device_of
from onelayer.training.iterations import iterations
from onelayer.training.scores import scores_of
from onelayer.training.sgd import epochs
from onelayer.training.state import Problem, TrainingResult, TrainingState, learnt


class Solver(Protocol):
    """A generator of states, such as `onelayer.training.sgd.epochs`; each state says why training ended after it."""

    def __call__(
        self, problem: Problem, start: TrainingState, *, report_test: bool, cancelled: Callable[[], bool]
    ) -> Generator[TrainingState, None, None]:
        """Yield the state after each epoch or iteration."""


SOLVERS: dict[str, Solver] = {"sgd": epochs, "converged": iterations}  # as the setting `solver` calls them


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
    progress: Progress | None = None,
) -> TrainingResult:
    """Train a layer by the solver of the settings.

    Parameters
    ----------
    splits : Splits
    config : TrainConfig
    start, features, standardizer, on_epoch, report_test, cancelled
        As for `onelayer.train`.
    progress : callable, optional
        Called with the rows whose features are computed, and their total.

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
    if start and config.features == "none":  # which asks for none in particular
        features = features or start.features
    problem = Problem.of(splits, config, standardizer, features, progress)
    return solve(problem, start, on_epoch=on_epoch, report_test=report_test, cancelled=cancelled)


def solve(
    problem: Problem,
    start: TrainingState | None = None,
    *,
    solver: Solver | None = None,
    on_epoch: Callable[[TrainingState], object] | None = None,
    report_test: bool = True,
    cancelled: Callable[[], bool] = bool,
) -> TrainingResult:
    """Let a solver run to its end, or until `on_epoch` returns true, and collect the result; see `train`.

    By default, it is the solver of the settings.
    """
    state, solver = problem.begin(start), solver or SOLVERS[problem.config.solver]
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
    kept, device = replace(kept, scores=scores), device_of(problem.config, problem.backend)
    return TrainingResult(problem.model(kept.layer), state, problem.backend.name, kept, steps, device)
