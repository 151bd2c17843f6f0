"""A probe as a run: a directory that `evaluate`, `predict` and `export` open like those of a training."""

import numpy as np

from onelayer.analysis.evaluation import evaluate
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.protocols import split as divide
from onelayer.errors import ConfigError
from onelayer.experiments.probe.probing import Probe
from onelayer.layer import SoftmaxLayer
from onelayer.runs.directory import Run, now
from onelayer.runs.plan import Plan
from onelayer.runs.training import PROBE
from onelayer.training.history import Score
from onelayer.training.state import TrainingResult, TrainingState


def save(probe: Probe, run: Run, split_config: SplitConfig) -> None:
    """Write a probe into a new run directory.

    The run has no epochs, and an entry ``probe`` in its summary with what was tried and what was chosen.

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
    splits = divide(dataset, split_config)
    outcome = probe.outcome
    if outcome.model is None:
        raise ConfigError(f"the recipe {probe.recipe} makes no layer, so there is no run to write")
    model, l2 = outcome.model.in_float64(), outcome.l2
    layer = SoftmaxLayer(np.asfortranarray(model.layer.weights), model.layer.bias, model.layer.loss)
    penalty = float(layer.penalty(l2))
    scores = {}
    for split in splits:
        found = probe.evaluation if split.name == "test" else evaluate(model, split)
        scores[split.name] = Score(found.loss, found.loss + penalty, found.accuracy)
    config = TrainConfig(l2=l2, epochs=0, keep="last", dtype="float64", backend="numpy")
    plan = Plan(config, split_config, dataset.source, dataset.fingerprint, started=now())
    rng_state = dict(np.random.default_rng(config.seed).bit_generator.state)
    state = TrainingState(layer, rng_state, scores=scores, ended=outcome.ended)
    run.write_result(plan, splits, TrainingResult(model, state, f"{probe.recipe} probe", state.last))
    run.add_to_summary({PROBE: probe.record()})
