"""The runs of a sweep that are trained as a stack: those of one seed, whose settings differ in their steps alone."""

from collections.abc import Sequence
from typing import Any

from onelayer.coded import features_of
from onelayer.config import SETTINGS, TrainConfig
from onelayer.data.dataset import Splits
from onelayer.errors import ConfigError
from onelayer.experiments.sweep.plan import SweepPlan
from onelayer.experiments.sweep.results import SweepRun
from onelayer.runs.directory import Run
from onelayer.training.stack import most_heads

STACK = "stack"  # in the summary of a run, the number of heads that it was trained with
# The settings that may differ among the heads of a stack; the others decide the rows and the shapes of the products.
OF_HEADS = ("learning_rate", "l2", "epochs", "patience", "keep", "decay_every", "decay_factor", "init_std", "init_bias")


def require_stackable(config: TrainConfig) -> None:
    """Raise a ConfigError if runs with these settings cannot be trained as a stack."""
    if config.solver != "sgd":
        raise ConfigError(f"--stack is for the solver sgd, not for {config.solver}; leave it out")
    if config.shuffle_blocks:
        raise ConfigError("--stack reads the rows in any order; leave it out, or --shuffle-blocks")
    if config.backend == "native":
        raise ConfigError("--stack multiplies in numpy or torch, not in native; leave --stack or --backend out")


def backend_of(config: TrainConfig) -> str:
    """Return the name of the backend that does the arithmetic of a stack."""
    return "torch" if config.backend == "torch" or config.needs_torch else "numpy"


def stacks_of(plan: SweepPlan, rows: Sequence[SweepRun], splits: Splits) -> list[list[SweepRun]]:
    """Return runs as those that are trained together: one by one, or in stacks that fit into memory."""
    if not plan.stack:
        return [[row] for row in rows]
    alike: dict[tuple[Any, ...], list[SweepRun]] = {}
    for row in rows:
        config = plan.configs[row.setting]
        shared = [getattr(config, name) for name in SETTINGS if name not in OF_HEADS]
        alike.setdefault((row.seed, row.status, *shared), []).append(row)
    stacks = []
    for group in alike.values():
        config = plan.configs[group[0].setting]
        features = features_of(splits, config)
        batch = min(config.batch_size, len(splits.train) * features.views)
        heads = most_heads(features.d_out, len(splits.dataset.class_names), batch)
        stacks += [group[start : start + heads] for start in range(0, len(group), heads)]
    return stacks


def epochs_done(run: Run) -> int:
    """Return the number of epochs that a run has done."""
    return run.read_checkpoint()[1].epoch if run.checkpoint_path.exists() else 0
