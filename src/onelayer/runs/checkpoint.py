"""The checkpoint of a run: its plan and the state of training, from which it can be resumed."""

import json
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np

from onelayer.config import SourceConfig, SplitConfig, TrainConfig
from onelayer.container import pack, unpack
from onelayer.errors import ConfigError, ModelFileError
from onelayer.features.registry import pack_map, unpack_map
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES
from onelayer.model import require_layer_shapes
from onelayer.runs.plan import Plan
from onelayer.training.history import HISTORY_COLUMNS, ITERATION_COLUMNS, EpochRecord, table_of
from onelayer.training.schedule import decide
from onelayer.training.sgd import VELOCITY
from onelayer.training.state import Kept, SolverState, TrainingState

CHECKPOINT_ARRAYS = ("weights", "bias", "history")
SOLVER = "solver."  # before the names of the arrays of a solver's own state
BEST_ARRAYS = ("best.weights", "best.bias")  # where the best epoch is not the last


def pack_checkpoint(plan: Plan, state: TrainingState, path: Path) -> bytes:
    """Return a checkpoint as the bytes of a file; `path` is where it goes, for errors."""
    history = np.column_stack(list(table_of(state.history).values()))  # (epochs, columns)
    tensors = {"weights": state.layer.weights, "bias": state.layer.bias, "history": history}
    best = state.best
    if best and best.epoch < state.epoch:
        tensors |= dict(zip(BEST_ARRAYS, (best.layer.weights, best.layer.bias), strict=True))
    metadata = {
        "config": json.dumps(asdict(plan.config)),
        "split": json.dumps(asdict(plan.split_config)),
        "source_config": json.dumps(asdict(plan.source_config)),
        "source": plan.source,
        "fingerprint": plan.fingerprint,
        "started": plan.started,
        "rng_state": json.dumps(state.rng_state),
        "first_rate": json.dumps(state.first_rate),
        "left": json.dumps(state.left),
        "best": json.dumps(best and {"epoch": best.epoch, "left": best.left}),
        "constant_weights": "0",  # as in a model file
    }
    if state.features:
        arrays, of_map = pack_map(state.features, str(path))
        tensors, metadata = tensors | arrays, metadata | of_map
    if state.solver:
        tensors |= {f"{SOLVER}{name}": array for name, array in state.solver.arrays.items()}
        metadata |= {"solver": json.dumps(state.solver.numbers)}
    if plan.config.solver == "converged":
        metadata["ended"] = state.ended
    return pack(tensors, metadata, kind="checkpoint")


def unpack_checkpoint(path: Path) -> tuple[Plan, TrainingState]:
    """Return the plan and the state from which a run can be resumed.

    Raises
    ------
    ModelFileError
        If the file is damaged or was written by a newer version.
    """
    tensors, metadata = unpack(path, kind="checkpoint", names=CHECKPOINT_ARRAYS)
    try:
        # Runs that recorded no backend were trained by NumPy; with another, the bits would change half-way.
        config = TrainConfig.of_file({"backend": "numpy"} | json.loads(metadata["config"]))
        split_config = SplitConfig(**json.loads(metadata["split"]))
        source_config = SourceConfig.of_file(json.loads(metadata.get("source_config", "{}")))
        where = metadata["source"], metadata["fingerprint"], source_config, metadata.get("started", "")
        plan = Plan(config, split_config, *where)
        first_rate, left, best = (json.loads(metadata.get(key, "null")) for key in ("first_rate", "left", "best"))
        rng_state = json.loads(metadata["rng_state"])
        np.random.default_rng().bit_generator.state = rng_state
        history = tuple(_record(row) for row in tensors["history"])
    except (
        *(KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError),
        ConfigError,
    ) as error:
        raise ModelFileError(f"{path}: damaged, or written by a newer onelayer ({error!s:.80})") from None
    if [record.epoch for record in history] != list(range(1, len(history) + 1)):
        raise ModelFileError(f"{path}: the history does not count its epochs from 1; it is damaged")
    layer = _layer(path, tensors, CHECKPOINT_ARRAYS, config)
    kept = None
    try:
        if best is not None:
            in_file = BEST_ARRAYS if best["epoch"] < len(history) else CHECKPOINT_ARRAYS
            kept = Kept(_layer(path, tensors, in_file, config), int(best["epoch"]), float(best["left"]))
            history[kept.epoch - 1]
        numbers = [number if number is None else float(number) for number in (first_rate, left)]
        solver = _solver_state(tensors, metadata, layer)
    except (KeyError, ValueError, TypeError, IndexError) as error:
        raise ModelFileError(f"{path}: the state is damaged ({error!r:.80}); train the run again") from None
    first_rate, left = numbers
    of_map = unpack_map(path, tensors, metadata)
    state = TrainingState(layer, rng_state, history, {}, kept, first_rate, left, "", solver, of_map)
    if config.solver == "converged":
        return plan, replace(state, ended=metadata.get("ended", ""))
    return plan, replace(state, ended=decide(config, history, not split_config.refit).ended)


def _layer(path: Path, tensors: dict[str, np.ndarray], names: tuple[str, ...], config: TrainConfig) -> SoftmaxLayer:
    """Return the layer of these arrays, as training holds it: each class in one piece, for sums in the same order."""
    layer = SoftmaxLayer(np.asfortranarray(tensors[names[0]]), tensors[names[1]], LOSSES[config.loss])
    require_layer_shapes(path, layer)
    if layer.weights.dtype != config.dtype:
        raise ModelFileError(f"{path}: weights are {layer.weights.dtype}, the settings say {config.dtype}")
    return layer


def _solver_state(tensors: dict[str, np.ndarray], metadata: dict[str, str], layer: SoftmaxLayer) -> SolverState | None:
    if "solver" not in metadata:
        return None
    numbers = {str(name): value for name, value in json.loads(metadata["solver"]).items()}
    arrays = {name.removeprefix(SOLVER): tensors[name] for name in tensors if name.startswith(SOLVER)}
    if any(name in arrays for name in VELOCITY):
        shapes = [arrays[name].shape for name in VELOCITY]
        if shapes != [layer.weights.shape, layer.bias.shape]:
            raise ValueError(f"a velocity of the shapes {shapes}")
    return SolverState(arrays, numbers)


def _record(row: np.ndarray) -> EpochRecord:
    columns = HISTORY_COLUMNS + ITERATION_COLUMNS * (len(row) > len(HISTORY_COLUMNS))
    values: dict[str, Any] = dict(zip(columns, row.tolist(), strict=True))
    values["epoch"] = int(values["epoch"])
    if np.isnan(values["test_accuracy"]):
        values["test_accuracy"] = None
    return EpochRecord(**values)
