"""Training in a run directory: whatever stops it, the run can be resumed."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace
from typing import Any, Literal

from onelayer.config import TrainConfig
from onelayer.data.dataset import Splits
from onelayer.data.progress import Progress
from onelayer.errors import ConfigError, OnelayerError, RunError
from onelayer.layer import SoftmaxLayer
from onelayer.model import require_names
from onelayer.runs.claim import claimed
from onelayer.runs.directory import Run, now
from onelayer.runs.plan import Plan
from onelayer.training.backends.registry import named_backend, settled
from onelayer.training.state import Problem, TrainingResult, TrainingState
from onelayer.training.train import solve
from onelayer.words import number

# Seconds between checkpoints, which a killed run loses at most, beside the epoch it was in. For a large model there are
# more seconds between them, so that writing takes a tenth of the time.
CHECKPOINT_SECONDS, CHECKPOINT_SHARE = 1.0, 0.1
PROBE = "probe"  # the entry in the summary of a run that a probe wrote


def probe_of(run: Run) -> dict[str, Any] | None:
    """Return what a probe recorded in the run that it wrote; None for a run of training."""
    found = run.summary.get(PROBE) if run.summary_path.exists() else None
    return found if isinstance(found, dict) else None


def strength_in_words(run: Run) -> str:
    """Return the C that lambda stands for in a probe; empty if the run has none."""
    probe = probe_of(run) or {}
    C, l2 = probe.get("chosen"), probe.get("l2")
    if probe.get("setting") != "C" or not isinstance(C, float) or not isinstance(l2, float) or not C > 0:
        return ""
    return f"lambda {l2:.5g} stands for C {number(C)}, which the probe chose"


def require_resumable(run: Run) -> None:
    """Raise a ConfigError if a run is a probe."""
    if probe_of(run) is not None:
        raise ConfigError(f"{run.path} is a probe, which is complete; run onelayer probe for another one")


def start(
    run: Run,
    plan: Plan,
    problem: Problem,
    on_epoch: Callable[[TrainingState], None] | None = None,
    report_test: bool = True,
    cancelled: Callable[[], bool] = bool,
) -> TrainingResult:
    """Train in a new run directory. Like `train`, but whatever stops it, the run can be resumed.

    Parameters
    ----------
    run : Run
    plan : Plan
    problem : Problem
        The splits and settings of the plan. The run records the backend that was chosen: resumed with another, it would
        not end with the same bits.
    on_epoch, report_test, cancelled
        As for `train`.

    Raises
    ------
    RunError
        If the directory already holds a run, or another process works there.
    """
    problem = replace(problem, config=settled(problem.config, problem.backend))
    plan = replace(plan, config=problem.config, started=now())
    dataset = problem.splits.dataset
    require_names(dataset.name, dataset.class_names, len(dataset.class_names))  # not when the model is written
    state = problem.begin()
    with claimed(run.path):
        if run.checkpoint_path.exists():
            raise RunError(f"{run.path} holds a run by now; choose another directory")
        run.write_checkpoint(plan, state)
        return _go_on(run, plan, problem, state, on_epoch, report_test, cancelled)


def resume(
    run: Run,
    splits: Splits,
    epochs: int | Literal["auto"] | None = None,
    on_epoch: Callable[[TrainingState], None] | None = None,
    report_test: bool = True,
    cancelled: Callable[[], bool] = bool,
    *,
    tol: float | None = None,
    max_passes: int | None = None,
    device: str | None = None,
    progress: Progress | None = None,
    backend: Any = None,
) -> TrainingResult:
    """Go on with an interrupted run, or with a complete one for more epochs, more passes or a smaller gap.

    Parameters
    ----------
    run : Run
    splits : Splits
        The splits of the run's own data.
    epochs : int or 'auto', optional
        Number of epochs in all; at least the number done. By default the number planned.
    on_epoch, report_test, cancelled
        As for `train`.
    tol, max_passes : float, int, optional
        Of the solver converged, in place of those of the run.
    device : str, optional
        In place of that of the run, whose bits it need not repeat; a GPU implies the backend torch.
    progress : callable, optional
        Called with the rows whose features are computed, and their total.
    backend : Seat, optional
        In place of the backend of the run, which it stands for.

    Raises
    ------
    ConfigError
        If fewer epochs are asked for than are done, the solver has no such setting, or the run is a probe.
    RunError
        If another process works on the run.
    """
    with claimed(run.path):
        plan, state = run.read_checkpoint()
        require_resumable(run)
        config = changed(plan.config, epochs=epochs, tol=tol, max_passes=max_passes, device=device)
        if isinstance(epochs, int) and epochs < state.epoch:
            raise ConfigError(f"epochs {epochs} is below the {state.epoch} that are done; ask for more")
        run.remove_temporary()
        if plan.config.flip and run.is_older():
            state = replace(state, layer=_mirrored(state.layer, splits))
        problem = Problem.of(splits, config, features=state.features, progress=progress)
        if config != plan.config:
            plan = replace(plan, config=config)
            run.write_checkpoint(plan, state)
        problem = replace(problem, backend=backend or problem.backend)
        return _go_on(run, plan, problem, state, on_epoch, report_test, cancelled)


def changed(config: TrainConfig, **asked: Any) -> TrainConfig:
    """Return the settings of a run with those that are asked for and not None; a GPU implies the backend torch.

    Raises
    ------
    ConfigError
        If the solver, the backend or this machine does not have one of them.
    """
    config = replace(config, **{name: value for name, value in asked.items() if value is not None})
    if config.needs_torch:
        config = replace(config, backend="torch")
    return settled(config, named_backend(config)) if asked.get("device") is not None else config


def _mirrored(layer: SoftmaxLayer, splits: Splits) -> SoftmaxLayer:
    """Return the layer in the units of flips, where a constant pixel has the mean and scale of its mirror pixel."""
    shape = splits.dataset.image_shape
    if shape is None:
        return layer
    moved = splits.standardizer.reexpress(layer, splits.standardizer.mirrored(shape))
    weights, bias = (array.astype(layer.weights.dtype) for array in (moved.weights, moved.bias))
    return replace(moved, weights=weights, bias=bias)


class _Checkpoints:
    """The checkpoints of a run, written after some epochs, so that writing takes little of the time."""

    def __init__(self, run: Run, plan: Plan, state: TrainingState) -> None:
        self._run, self._plan = run, plan
        self._latest = self._written = state
        self._written_at, self._pause = time.monotonic(), CHECKPOINT_SECONDS

    def after_epoch(self, state: TrainingState) -> None:
        """Write a checkpoint if the last one is old enough."""
        self._latest = state
        began = time.monotonic()
        if began - self._written_at >= self._pause:
            self._run.write_checkpoint(self._plan, state)
            self._written, self._written_at = state, time.monotonic()
            self._pause = max(CHECKPOINT_SECONDS, (self._written_at - began) / CHECKPOINT_SHARE)

    def save(self) -> None:
        """Write the latest state, and the history so far."""
        if self._latest is not self._written:
            self._run.write_checkpoint(self._plan, self._latest)
            self._run.write_history(self._latest)


def _go_on(
    run: Run,
    plan: Plan,
    problem: Problem,
    state: TrainingState,
    on_epoch: Callable[[TrainingState], None] | None,
    report_test: bool,
    cancelled: Callable[[], bool],
) -> TrainingResult:
    checkpoints = _Checkpoints(run, plan, state)

    def after_epoch(state: TrainingState) -> None:
        checkpoints.after_epoch(state)
        if on_epoch:
            on_epoch(state)

    try:
        result = solve(problem, state, on_epoch=after_epoch, report_test=report_test, cancelled=cancelled)
    except BaseException:  # also Ctrl-C and SIGTERM
        with suppress(OnelayerError):  # the error to show is the one that stopped the training
            checkpoints.save()
        raise
    run.write_result(plan, problem.raw, result)
    return result
