"""The converged solver as a generator of states, one for each iteration; `training/converged.py` is its arithmetic."""

import time
from collections.abc import Callable, Generator
from dataclasses import fields, replace
from typing import Any

import numpy as np

from onelayer.errors import ConfigError
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES
from onelayer.training.converged import RESCORED, Convergence, Iterate
from onelayer.training.converging.rows import Rows
from onelayer.training.history import EpochRecord
from onelayer.training.scores import scores_of
from onelayer.training.state import Problem, SolverState, TrainingState


def iterations(
    problem: Problem,
    start: TrainingState,
    *,
    report_test: bool = True,
    cancelled: Callable[[], bool] = bool,
) -> Generator[TrainingState, None, None]:
    """Go to the optimum, and yield the state after each iteration with the scores of its layer.

    It goes on from the solver's own state in `start`, else from its layer. The first state is held, and that of every
    `RESCORED`-th iteration; those since then are repeated, with the same bits.

    Parameters
    ----------
    problem : Problem
    start : TrainingState
        As `Problem.begin` returns it.
    report_test : bool
        Not used: the test rows are scored when the end is reached.
    cancelled : callable
        Asked in each iteration; true ends it.

    Raises
    ------
    ConfigError
        If the solver's state in `start` is not of these rows.
    InterruptedError
        If it was cancelled.
    """
    if start.ended:
        return
    config, splits = problem.config, problem.splits
    convergence = convergence_of(problem, config.l2)
    begin = _restored(start.solver, convergence) if start.solver else _from_layer(start, convergence)
    state = replace(start, history=start.history[: begin.iteration], solver=_held(begin))
    scorer, settled_at = problem.open(start.layer), time.perf_counter()
    limits = {"tol": config.tol, "max_passes": config.max_passes}
    for at in convergence.iterates(config.l2, begin, **limits, cancelled=cancelled):
        layer = layer_of(problem, convergence, at)
        scores = scores_of(problem, scorer, layer, tuple(splits)[:2], cancelled)
        now = time.perf_counter()
        record = EpochRecord.of(len(state.history) + 1, np.nan, scores, now - settled_at)
        record = replace(record, passes=at.passes, gap=at.gap)
        held = _held(at) if at.iteration % RESCORED == 0 else state.solver
        history, settled_at = (*state.history, record), now
        state = replace(state, layer=layer, history=history, scores=scores, ended=at.ended, solver=held)
        yield state


def convergence_of(problem: Problem, smallest_l2: float) -> Convergence:
    """Return the solver for the training rows of a problem, and for lambdas from this one on."""
    config = problem.config
    exact = np.dtype(np.float64) if config.dtype == "float64" else None
    rows = Rows(problem.splits.train, problem.standardizer, flip=config.flip, dtype=exact)
    return Convergence(rows, LOSSES[config.loss], smallest_l2)


def layer_of(problem: Problem, convergence: Convergence, at: Iterate) -> SoftmaxLayer:
    """Return the layer of an iterate in the type of the settings; constant features weigh 0."""
    layer, dtype = convergence.layer(at), problem.config.dtype
    layer = replace(layer, weights=layer.weights.astype(dtype), bias=layer.bias.astype(dtype))
    return problem.standardizer.clear(layer)


def _from_layer(start: TrainingState, convergence: Convergence) -> Iterate:
    """Return the layer of a state as the solver holds it."""
    if not start.layer.weights.any():
        return convergence.initial()
    classes = convergence.classes
    weights, bias = start.layer.weights.astype(np.float64), start.layer.bias.astype(np.float64)
    return Iterate(convergence.rows.fold(weights.T)[classes], bias[classes])


def _held(at: Iterate) -> SolverState:
    """Return what the solver needs to go on with the same bits; its scores are computed anew."""
    values = {field.name: getattr(at, field.name) for field in fields(at) if field.name != "S"}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    return SolverState(arrays, {name: value for name, value in values.items() if isinstance(value, float | int | str)})


def _restored(state: SolverState, convergence: Convergence) -> Iterate:
    known = {field.name for field in fields(Iterate)}
    (K, d), held = convergence.initial().T.shape, state.arrays
    m = len(held.get("steps", ()))
    shapes = {"T": (K, d), "b": (K,), "steps": (m, K, d), "changes": (m, K, d), "M": (K, K), "hessian": (K, K)}
    right = all(array.shape == shapes.get(name) for name, array in held.items()) and {"T", "b"} <= held.keys()
    numbers = {name: state.numbers.get(name) for name in ("iteration", "stalled")}
    if not (right and state.numbers.keys() <= known and all(isinstance(n, int) and n >= 0 for n in numbers.values())):
        raise ConfigError("the state of the solver is not of these rows and classes; train the run again")
    values: dict[str, Any] = {**held, **state.numbers}
    return Iterate(**values)
