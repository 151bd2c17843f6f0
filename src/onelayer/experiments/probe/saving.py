"""A probe as a run: a directory that `evaluate`, `predict` and `export` open like those of a training."""

from dataclasses import replace

from onelayer.analysis.evaluation import evaluate
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.protocols import refitted
from onelayer.errors import ConfigError
from onelayer.experiments.probe.probing import Probe
from onelayer.runs.directory import Run, now
from onelayer.runs.plan import Plan
from onelayer.runs.training import PROBE
from onelayer.training.history import Score
from onelayer.training.state import TrainingResult, TrainingState


def save(probe: Probe, run: Run, split_config: SplitConfig) -> None:
    """Write a probe into a new run directory.

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
    scores = {}
    for split in splits:
        found = probe.evaluation if split.name == "test" else evaluate(model, split)
        scores[split.name] = Score(found.loss, found.loss + penalty, found.accuracy)
    config = outcome.config or TrainConfig(epochs=0, keep="last", dtype="float64", backend="numpy")
    plan = Plan(config, split_config, dataset.source, dataset.fingerprint, started=now())
    d, K = model.layer.weights.shape
    state = outcome.training or replace(TrainingState.initial(d, K, config), layer=model.layer)
    state = replace(state, scores=scores, ended=outcome.ended)
    if state.history:
        state = state.with_test_accuracy(state.epoch, scores["test"].accuracy)
    run.write_result(plan, splits, TrainingResult(model, state, config.backend, state.last))
    run.add_to_summary({PROBE: probe.record()})
