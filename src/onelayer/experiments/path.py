"""A path: the optimum for each lambda of a grid, from large to small; the validation rows choose one.

Each optimum is where the search for the next one begins, so that a path takes little more time than a single fit. The
model for the chosen lambda is a run like that of ``onelayer train --solver converged``, with the same bits, and only
that run reads the test rows. `onelayer.experiments.lambdas` holds the table of a path, which lies beside the run.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import get_args

import numpy as np

from onelayer.analysis.estimates import Estimate, Z, effective_rows, fraction, mean
from onelayer.analysis.evaluation import logits_of
from onelayer.config import PATH_L2, TrainConfig
from onelayer.data.dataset import Split, Splits
from onelayer.data.progress import Progress, Told, silent
from onelayer.data.protocols import split
from onelayer.errors import ConfigError
from onelayer.experiments.lambdas import LambdaPath, Point, Select, write_path
from onelayer.layer import SoftmaxLayer, likeliest
from onelayer.runs import training as runs
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.training.converged import Iterate
from onelayer.training.iterations import convergence_of, layer_of
from onelayer.training.scores import scores_of
from onelayer.training.state import Problem, TrainingResult, TrainingState


def require_grid(l2s: Iterable[float]) -> list[float]:
    """Return the lambdas from large to small, each once.

    Raises
    ------
    ConfigError
        If they are fewer than two, or one of them is not a positive number.
    """
    found = sorted(set(l2s), reverse=True)
    for l2 in found:
        TrainConfig(l2=l2)  # names the bad one
    if found and found[-1] == 0:
        what = "l2 0 has no place on a path, which goes by the logarithm of l2"
        raise ConfigError(f"{what}; leave it out, or train with it: onelayer train --solver converged")
    if len(found) < 2:
        raise ConfigError("a path needs at least two values of l2; onelayer train --solver converged takes one")
    return found


def solve_path(
    splits: Splits,
    config: TrainConfig,
    l2s: Iterable[float] = PATH_L2,
    select: Select = "loss",
    one_standard_error: bool = False,
    *,
    progress: Told = silent,
    cancelled: Callable[[], bool] = bool,
) -> LambdaPath:
    """Go to the optimum for each lambda, from large to small, and let the validation rows choose one.

    Parameters
    ----------
    splits : Splits
        The test rows are not read.
    config : TrainConfig
        Of the solver converged; its `l2` does not count.
    l2s : iterable of float
    select, one_standard_error
        As for `LambdaPath`.
    progress : callable
        Called after each iteration with the number of lambdas done and in all, and with words on the current one.
    cancelled : callable
        Asked in each iteration; true ends it.

    Raises
    ------
    ConfigError
        If a setting is wrong or does not fit the data, or there are no validation rows.
    InterruptedError
        If it was cancelled.
    """
    if select not in get_args(Select):
        raise ConfigError(f"select {select!r} is not {' or '.join(get_args(Select))}")
    grid, points = require_grid(l2s), list[Point]()

    def after_iteration(at: Iterate) -> None:
        done, aim = len(points), config.tol * max(0.0, at.cost - at.gap)
        words = f"l2 {grid[done]:g} ({done + 1} of {len(grid)}), {at.passes:g} passes"
        progress(done, len(grid), f"{words}, gap {at.gap:.1g} nats" + (f", aim {aim:.1g}" if aim else ""))

    for point in points_of(problem_of(splits, config), grid, cancelled, after_iteration):
        points.append(point)
    return LambdaPath(tuple(points), select, one_standard_error)


def problem_of(splits: Splits, config: TrainConfig, progress: Progress | None = None) -> Problem:
    """Return the problem of a path, after refusing settings and rows that have none; see `solve_path`."""
    if config.solver != "converged":
        raise ConfigError(f"a path needs the solver converged, not {config.solver}")
    if not splits.holds_out:
        raise ConfigError(f"{splits.dataset.name} has no validation rows to choose l2 by; divide it in another way")
    return Problem.of(splits, config, progress=progress)


def points_of(
    problem: Problem,
    l2s: Sequence[float],
    cancelled: Callable[[], bool] = bool,
    on_iterate: Callable[[Iterate], None] | None = None,
) -> Iterator[Point]:
    """Yield the optimum of a problem for each of these lambdas, which are in descending order."""
    config, train, validation = problem.config, problem.unweighted.train, problem.raw.validation
    convergence, backend = convergence_of(problem, l2s[-1]), None
    limits = {"tol": config.tol, "max_passes": config.max_passes}
    optima = convergence.path(l2s, **limits, cancelled=cancelled, on_iterate=on_iterate)
    for l2, at in zip(l2s, optima, strict=True):
        layer = layer_of(problem, convergence, at)
        backend = backend or problem.open(layer)
        scores = scores_of(replace(problem, config=replace(config, l2=l2)), backend, layer, [train], cancelled)
        figures = _of_validation(problem, layer, validation)
        norm = float(np.linalg.norm(layer.weights.astype(np.float64)))
        yield Point(
            *(l2, scores["train"], *figures, norm),
            cost=at.cost,
            gap=at.gap,
            passes=at.passes,
            ended=at.ended,
            reached=at.reached,
        )


def _of_validation(problem: Problem, layer: SoftmaxLayer, rows: Split) -> tuple[Estimate, Estimate, dict[str, float]]:
    """Return loss and accuracy of a layer on validation rows, with their intervals, and their standard errors."""
    S, w = logits_of(problem.model(layer), rows), rows.row_weights(slice(None))  # (n, K), (n,)
    right = (likeliest(S) == rows.labels).astype(np.float64)
    loss, share = mean(layer.loss.of_rows(S, rows.labels), w), mean(right, w)
    errors = {"loss": (loss.high - loss.low) / (2 * Z), "accuracy": (share.high - share.low) / (2 * Z)}
    accuracy = fraction(share.value, len(rows) if w is None else effective_rows(w))
    return replace(loss, low=max(0.0, loss.low)), accuracy, errors


def train_chosen(
    run: Run,
    path: LambdaPath,
    plan: Plan,
    splits: Splits,
    on_epoch: Callable[[TrainingState], None] | None = None,
    cancelled: Callable[[], bool] = bool,
) -> tuple[Plan, Splits, TrainingResult]:
    """Train for the chosen lambda in a new run directory, read the test rows, and write the table of the path.

    Parameters
    ----------
    run : Run
        As `Run.create` returns it.
    path : LambdaPath
    plan : Plan
        Settings of the path. Where its division says so, the training and validation rows are trained on together.
    splits : Splits
        The rows of the path, validation rows apart.
    on_epoch, cancelled
        As for `onelayer.train`.

    Returns
    -------
    plan : Plan
        That of the run.
    splits : Splits
        The rows of the run.
    result : TrainingResult
    """
    if plan.split_config.refit:
        splits = split(splits.dataset, plan.split_config)
    plan = replace(plan, config=replace(plan.config, l2=path.chosen.l2))
    problem = Problem.of(splits, plan.config)
    try:
        result = runs.start(run, plan, problem, on_epoch, cancelled=cancelled)
    finally:
        if run.checkpoint_path.exists():  # a run that was stopped and is resumed keeps its path
            write_path(run, path)
    return plan, splits, result
