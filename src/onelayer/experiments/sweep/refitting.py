"""The refit: the chosen setting again, on the training and validation rows together.

No row is held out then, so nothing can end the training, call for a decay or choose an epoch. Whatever the settings
left to the held-out loss is therefore fixed as the runs of the chosen setting decided it: the number of epochs that led
to the model that was kept, the epoch of its first decay, and the learning rate.
"""

import statistics
from collections.abc import Sequence
from dataclasses import replace

from onelayer.config import TrainConfig
from onelayer.experiments.sweep.directory import Sweep
from onelayer.runs.directory import Run
from onelayer.training.history import History
from onelayer.training.schedule import DECAYS, watched


def refit(sweep: Sweep, setting: int) -> Sweep:
    """Return the sweep of one setting alone, on training and validation rows, in the folder refit of the sweep."""
    plan = sweep.plan
    complete = [sweep.run(setting, seed) for seed in plan.seeds if sweep.read(setting, seed).status == "complete"]
    config = refit_config(plan.configs[setting], complete)
    alone = replace(plan, configs=(config,), split_config=replace(plan.split_config, refit=True), parts=1)
    path = sweep.path / "refit"
    # It is made again where another setting was chosen before, for example because a damaged run was mended.
    overwrite = (path / "sweep.json").exists() and Sweep.open(path).plan != alone
    return Sweep.create(path, alone, overwrite=overwrite)


def refit_config(config: TrainConfig, runs: Sequence[Run]) -> TrainConfig:
    """Return the settings with what the held-out loss decided in these runs, as the median over them.

    Parameters
    ----------
    config : TrainConfig
        The chosen setting.
    runs : sequence of Run
        Its complete runs, at least one.
    """
    if config.solver == "converged":  # it looks at no held-out row
        return config
    if config.learning_rate == "auto":
        config = replace(config, learning_rate=statistics.median(run.summary["learning_rate"] for run in runs))
    if config.epochs != "auto" and config.keep == "last" and config.decay_every != "auto":
        return config
    histories = [run.read_checkpoint()[1].history for run in runs]
    kept = [run.kept_epoch for run in runs]
    if config.decay_every != "auto":  # then training never goes back to an earlier epoch
        return replace(config, epochs=round(statistics.median(kept)), keep="last")
    paths = [path_to(history, epoch) for history, epoch in zip(histories, kept, strict=True)]
    epochs = round(statistics.median(sum(path) for path in paths))
    first = round(statistics.median(path[0] for path in paths))
    decayed = statistics.median(path[1] for path in paths) > 0
    # After a short first part, equal parts: otherwise there would be more decays than auto makes.
    every = max(first, -(-epochs // (DECAYS + 1))) if decayed else 0
    return replace(config, epochs=epochs, decay_every=every, keep="last")


def path_to(history: History, epoch: int) -> tuple[int, int]:
    """Return the numbers of epochs at the first learning rate and after it that led to the layer of an epoch.

    After a decay, training goes on from the best epoch. Those between the best epoch and the decay led nowhere, and are
    not counted.
    """
    first, paths = history[0].learning_rate if history else 0.0, [(0, 0)]
    for place, record in enumerate(history[:epoch]):
        before = place
        if place and record.learning_rate != history[place - 1].learning_rate:
            before = 1 + min(range(place), key=lambda earlier: watched(history[earlier]))
        full, short = paths[before]
        paths.append((full + 1, short) if record.learning_rate == first else (full, short + 1))
    return paths[epoch]
