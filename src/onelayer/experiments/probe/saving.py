"""A probe as a run: a directory that `evaluate`, `predict` and `export` open like those of a training."""

from dataclasses import replace

import numpy as np

from onelayer.analysis.evaluation import logits_of
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.dataset import Split
from onelayer.data.protocols import refitted
from onelayer.errors import ConfigError
from onelayer.experiments.probe.probing import Probe
from onelayer.experiments.probe.trials import accuracy
from onelayer.features.units import places_to_look_at
from onelayer.layer import likeliest
from onelayer.model import Model
from onelayer.processes import summed
from onelayer.runs.directory import Run, now
from onelayer.runs.plan import Plan
from onelayer.runs.training import PROBE
from onelayer.training.backends.registry import BACKENDS, device_of
from onelayer.training.history import Score
from onelayer.training.state import TrainingResult, TrainingState


def save(probe: Probe, run: Run, split_config: SplitConfig) -> None:
    """Write a probe into a new run directory. Of several processes, all must call this, and rank 0 writes.

    The summary has an entry ``probe`` with what was tried and what was chosen. A logistic regression is a run of the
    solver that fitted it. Other fits have no settings of training: theirs are those of no epochs.

    Parameters
    ----------
    probe : Probe
    run : Run
    split_config : SplitConfig
        Settings by which the rows were divided.

    Raises
    ------
    ConfigError
        If the probe has no model.
    """
    dataset = probe.splits.dataset
    split_config = SplitConfig(**{**vars(split_config), "refit": True})
    splits = refitted(probe.splits)
    outcome = probe.outcome
    if outcome.model is None:
        raise ConfigError(f"the recipe {probe.recipe} makes no layer, so there is no run to write")
    model, l2 = outcome.model, outcome.l2
    penalty = float(model.layer.penalty(l2))
    figures = {split.name: _loss_and_accuracy(model, split) for split in (splits.train, splits.validation)}
    if dataset.processes.rank:
        return
    figures["test"] = probe.evaluation.loss, probe.evaluation.accuracy
    scores = {name: Score(loss, loss + penalty, right) for name, (loss, right) in figures.items()}
    config = outcome.config or TrainConfig(epochs=0, keep="last", dtype="float64", backend="numpy")
    plan = Plan(config, split_config, dataset.source, dataset.fingerprint, started=now())
    d, K = model.layer.weights.shape
    state = outcome.training or replace(TrainingState.initial(d, K, config), layer=model.layer)
    state = replace(state, scores=scores, ended=outcome.ended)
    if state.history:
        state = state.with_test_accuracy(state.epoch, scores["test"].accuracy)
    device = device_of(config, BACKENDS[config.backend])
    run.write_result(plan, splits, TrainingResult(model, state, config.backend, state.last, device=device))
    run.add_to_summary({PROBE: probe.record()})


def _loss_and_accuracy(model: Model, split: Split) -> tuple[float, float]:
    """Return the mean loss of the rows of a split, whoever holds them, and the fraction of them that is right."""
    mine, name = split.mine, f"{split.dataset.name}, {split.name}"
    model.warn_of(split.rows_of_all(places_to_look_at(len(split))), name, stacklevel=4)
    S, weights = logits_of(model, mine), mine.row_weights(slice(None))
    losses = model.layer.loss.of_rows(S, mine.labels).astype(np.float64) * (1.0 if weights is None else weights)
    return float(summed(split.dataset.processes, losses.sum())[0]) / split.weight, accuracy(likeliest(S), split)
