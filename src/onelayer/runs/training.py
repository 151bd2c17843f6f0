"""Training in a run directory: whatever stops it, the run can be resumed."""

import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import replace

from onelayer.data.dataset import Splits
from onelayer.errors import ConfigError, OnelayerError, RunError
from onelayer.layer import SoftmaxLayer
from onelayer.model import require_names
from onelayer.runs.claim import claimed
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.training.backends.choice import choose_backend
from onelayer.training.state import TrainingResult, TrainingState
from onelayer.training.train import train

# Between checkpoints, what a killed run loses at most, beyond the epoch it was in; but of a large model so long that
# writing them takes a tenth of the time.
CHECKPOINT_SECONDS, CHECKPOINT_SHARE = 1.0, 0.1


def start(
    run: Run,
    plan: Plan,
    splits: Splits,
    on_epoch: Callable[[TrainingState], None] | None = None,
    report_test: bool = True,
    cancelled: Callable[[], bool] = bool,
) -> TrainingResult:
    """Train in a new run directory. Like `train`, but whatever stops it, the run can be resumed.

    Raises
    ------
    RunError
        If the directory holds a run by now, or another process works there.
    """
    # What auto stands for is recorded: resumed with another backend, the run would not end with the same bits.
    backend = choose_backend(splits.dataset, plan.config).name
    plan = replace(plan, config=replace(plan.config, backend=backend))
    d, K = splits.dataset.rows.shape[1], len(splits.dataset.class_names)
    require_names(splits.dataset.name, splits.dataset.class_names, K)  # now, and not when the model is written
    state = TrainingState.initial(d, K, plan.config)
    with claimed(run.path):
        if run.checkpoint_path.exists():
            raise RunError(f"{run.path} holds a run by now; choose another directory")
        run.write_checkpoint(plan, state)
        return _go_on(run, plan, splits, state, on_epoch, report_test, cancelled)


def resume(
    run: Run,
    splits: Splits,
    epochs: int | None = None,
    on_epoch: Callable[[TrainingState], None] | None = None,
    report_test: bool = True,
    cancelled: Callable[[], bool] = bool,
) -> TrainingResult:
    """Go on with an interrupted run, or with a complete one for more epochs.

    Parameters
    ----------
    run : Run
    splits : Splits
        Of the run's own data.
    epochs : int, optional
        How many there are to be in all, if not as many as planned; not below those that are done.
    on_epoch, report_test, cancelled
        As for `train`.

    Raises
    ------
    ConfigError
        If fewer epochs are asked for than are done.
    RunError
        If another process works on the run.
    """
    with claimed(run.path):
        plan, state = run.read_checkpoint()
        if epochs is not None and epochs < state.epoch:
            raise ConfigError(f"epochs {epochs} is below the {state.epoch} that are done; ask for more")
        run._remove_temporary()
        if plan.config.flip and run._is_older():
            state = replace(state, layer=_mirrored(state.layer, splits))
        if epochs is not None and epochs != plan.config.epochs:
            plan = replace(plan, config=replace(plan.config, epochs=epochs))
            run.write_checkpoint(plan, state)
        return _go_on(run, plan, splits, state, on_epoch, report_test, cancelled)


def _mirrored(layer: SoftmaxLayer, splits: Splits) -> SoftmaxLayer:
    """The layer in the units of flips: those of a constant pixel were its own, and are its mirror's now."""
    shape = splits.dataset.image_shape
    if shape is None:
        return layer
    moved = splits.standardizer.reexpress(layer, splits.standardizer.mirrored(shape))
    weights, bias = (array.astype(layer.weights.dtype) for array in (moved.weights, moved.bias))
    return replace(moved, weights=weights, bias=bias)


def _go_on(
    run: Run,
    plan: Plan,
    splits: Splits,
    state: TrainingState,
    on_epoch: Callable[[TrainingState], None] | None,
    report_test: bool,
    cancelled: Callable[[], bool],
) -> TrainingResult:
    latest, written, written_at, pause = state, state, time.monotonic(), CHECKPOINT_SECONDS

    def after_epoch(state: TrainingState) -> None:
        nonlocal latest, written, written_at, pause
        latest = state
        began = time.monotonic()
        if began - written_at >= pause:
            run.write_checkpoint(plan, state)
            written, written_at = state, time.monotonic()
            pause = max(CHECKPOINT_SECONDS, (written_at - began) / CHECKPOINT_SHARE)
        if on_epoch:
            on_epoch(state)

    try:
        result = train(
            splits, plan.config, start=state, on_epoch=after_epoch, report_test=report_test, cancelled=cancelled
        )
    except BaseException:  # Ctrl-C and SIGTERM among them
        if latest is not written:
            with suppress(OnelayerError):  # what stopped the training is the error to show
                run.write_checkpoint(plan, latest)
                run._write_history(latest)
        raise
    run.write_result(plan, splits, result)
    return result
