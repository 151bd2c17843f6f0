"""The converged solver as a generator of states, one for each iteration; `training/converged.py` is its arithmetic."""

import time
from collections.abc import Callable, Generator
from dataclasses import fields, replace
from typing import Any

import numpy as np

from onelayer.errors import ConfigError
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES
from onelayer.training.backends.pytorch import TorchBackend
from onelayer.training.converged import RESCORED, Convergence, Iterate
from onelayer.training.converging.rows import Rows
from onelayer.training.history import EpochRecord
from onelayer.training.scores import scores_of
from onelayer.training.state import Problem, SolverState, TrainingState

PROBLEM, ENDS = ("l2", "loss", "class_weight", "flip", "dtype"), ("tol", "max_passes")  # settings of a state
HELD = tuple(field.name for field in fields(Iterate) if field.name not in ("S", "ended", "reached"))


def iterations(
    problem: Problem,
    start: TrainingState,
    *,
    report_test: bool = True,
    cancelled: Callable[[], bool] = bool,
) -> Generator[TrainingState, None, None]:
    """Go to the optimum, and yield the state after each iteration with the scores of its layer.

    It goes on from the solver's own state in `start` if that is for the same lambda, loss and rows, else from its
    layer. The first state is held, and that of every `RESCORED`-th iteration; those since then are repeated, with the
    same bits. Where `start` ended by the same settings, there is nothing to do.

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
    config, splits, own = problem.config, problem.splits, start.solver
    asked = {name: getattr(config, name) for name in PROBLEM + ENDS}
    if own and own.numbers.get("ended") and asked.items() <= own.numbers.items():
        return
    convergence = convergence_of(problem, config.l2)
    goes_on = own and all(own.numbers.get(name) == asked[name] for name in PROBLEM)
    begin = _restored(own, convergence) if own and goes_on else _from_layer(start, convergence)
    state, held = start, _held(begin)
    scorer, settled_at = problem.open(start.layer), time.perf_counter()
    limits = {"tol": config.tol, "max_passes": config.max_passes}
    for at in convergence.iterates(config.l2, begin, **limits, cancelled=cancelled):
        layer = layer_of(problem, convergence, at)
        scores = scores_of(problem, scorer, layer, tuple(splits)[:2], cancelled)
        now = time.perf_counter()
        earlier = state.history[: max(0, at.iteration - 1)]  # later ones are repeated
        record = EpochRecord.of(len(earlier) + 1, np.nan, scores, now - settled_at)
        history, settled_at = (*earlier, replace(record, passes=at.passes, gap=at.gap)), now
        held = _held(at) if at.iteration % RESCORED == 0 else held
        own = replace(held, numbers=held.numbers | asked | {"ended": at.ended})
        state = replace(state, layer=layer, history=history, scores=scores, ended=at.ended, solver=own)
        yield state


def convergence_of(problem: Problem, smallest_l2: float) -> Convergence:
    """Return the solver for the training rows of a problem, and for lambdas from this one on."""
    return Convergence(rows_of(problem), LOSSES[problem.config.loss], smallest_l2)


def rows_of(problem: Problem) -> Rows:
    """Return the training rows of a problem, whose products are taken by its backend."""
    config, train = problem.config, problem.splits.train
    exact = np.dtype(np.float64) if config.dtype == "float64" else None
    options: dict[str, Any] = {"flip": config.flip, "dtype": exact, "threads": config.threads}
    if problem.backend is TorchBackend:
        from onelayer.training.converging.device_rows import DeviceRows  # it loads PyTorch

        return DeviceRows(train, problem.standardizer, config.device, **options)
    return Rows(train, problem.standardizer, compiled=problem.backend.compiled, **options)


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
    values = {name: getattr(at, name) for name in HELD}
    values |= {name: np.reshape(values[name], (len(values[name]), *at.T.shape)) for name in ("steps", "changes")}
    arrays = {name: value for name, value in values.items() if isinstance(value, np.ndarray)}
    return SolverState(arrays, {name: value for name, value in values.items() if isinstance(value, float | int | str)})


def _restored(state: SolverState, convergence: Convergence) -> Iterate:
    (K, d), held = convergence.initial().T.shape, state.arrays
    m = len(held.get("steps", ()))
    shapes = {"T": (K, d), "b": (K,), "steps": (m, K, d), "changes": (m, K, d), "M": (K, K), "hessian": (K, K)}
    right = all(array.shape == shapes.get(name) for name, array in held.items()) and {"T", "b"} <= held.keys()
    numbers = {name: value for name, value in state.numbers.items() if name in HELD}
    counts = [numbers.get(name) for name in ("iteration", "stalled")]
    if not (right and all(isinstance(count, int) and count >= 0 for count in counts)):
        raise ConfigError("the state of the solver is not of these rows and classes; train the run again")
    values: dict[str, Any] = {**held, **numbers}
    return Iterate(**values)
