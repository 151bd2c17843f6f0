"""Notes on settings and the rows that they met, which train and sweep share."""

from collections.abc import Iterable
from dataclasses import fields
from typing import Any, TypeVar

from onelayer.cli.app import FROM_PRESET
from onelayer.cli.screen import Screen
from onelayer.coded import features_of
from onelayer.config import TrainConfig
from onelayer.data.dataset import Splits

Settings = TypeVar("Settings")


def without_preset(screen: Screen, settings: Settings, preset: str | None, data: str, splits: Splits) -> Settings:
    """Return settings with the defaults for what the preset gave, and say so, where auto did not find CIFAR-10."""
    if preset is None or data != "auto" or splits.dataset.source == "cifar10":
        return settings
    screen.say(f"note: CIFAR-10 is not here; {splits.dataset.name} takes its place, without the preset {preset}")
    of_user: Any = settings
    typed = {field.name for field in fields(of_user)} - FROM_PRESET
    return type(settings)(**{name: getattr(settings, name) for name in typed})


def note_on_batches(screen: Screen, splits: Splits, configs: Iterable[TrainConfig]) -> None:
    """Say which batch sizes are more than all training rows, of which each view of an image is one."""
    sizes: dict[int, set[int]] = {}  # by the number of rows
    for config in configs:
        sizes.setdefault(len(splits.train) * features_of(splits, config).views, set()).add(config.batch_size)
    for count, of_rows in sizes.items():
        if more := [f"{size:,}" for size in sorted(of_rows) if size > count]:
            screen.say(f"note: a batch of {' or '.join(more)} rows is all {count:,}, so an epoch is a single step")


def note_on_penalty(screen: Screen, configs: Iterable[TrainConfig]) -> None:
    """Say what the optimum without a penalty is, if the converged solver is to go nowhere else."""
    penalties = [config.l2 for config in configs if config.solver == "converged"]
    if penalties and not any(penalties):
        what = "without a penalty (--l2 0), the optimum fits the training rows alone, or does not exist"
        screen.say(f"note: {what}; onelayer path finds a lambda by the validation rows")
