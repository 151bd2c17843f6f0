"""A probe: a recipe that is fitted on features, chosen by the validation rows, and reported on the test rows."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onelayer.analysis.estimates import Estimate
from onelayer.analysis.evaluation import Evaluation, evaluate
from onelayer.analysis.summary import csv_of, summary_of
from onelayer.data.dataset import Splits
from onelayer.experiments.probe import logistic
from onelayer.experiments.probe.encoded import Encoded, Normalize
from onelayer.experiments.probe.trials import Fitted, Trial, best

RecipeName = Literal["dino"]
FIGURES = ("accuracy", "top_5_accuracy", "balanced_accuracy")  # top-1, top-5, mean per class
NAMES = {"accuracy": "top-1", "top_5_accuracy": "top-5", "balanced_accuracy": "mean per class"}


@dataclass(frozen=True, eq=False)
class Probe:
    """A probe and its figures.

    Parameters
    ----------
    recipe : str
    normalize : {"none", "unit", "standardize"}
    splits : Splits
        The rows as they were divided for the choice; the fit is on training and validation rows.
    setting : str
        The name of the setting that the validation rows chose.
    trials : tuple of Trial
        The values that were tried, in their order.
    chosen : Trial
    fitted : Fitted
    evaluation : Evaluation
        Of the test rows, by the fit.
    """

    recipe: str
    normalize: Normalize
    splits: Splits
    setting: str
    trials: tuple[Trial, ...]
    chosen: Trial
    fitted: Fitted
    evaluation: Evaluation

    def __repr__(self) -> str:
        return f"<Probe of {self.evaluation.in_words()}>"

    @property
    def figures(self) -> dict[str, Estimate]:
        """Top-1 and mean per class of the test rows, and top-5 from 10 classes on, with their 95 % intervals."""
        found = self.evaluation.estimates
        return {NAMES[name]: found[name] for name in FIGURES if name in found}

    def notes(self) -> list[str]:
        """Return sentences on what a reader of the figures must know."""
        notes = []
        values = [trial.value for trial in self.trials]
        if len(values) > 1 and self.chosen.value in (values[0], values[-1]):
            edge = "smallest" if self.chosen.value == values[0] else "largest"
            notes.append(
                f"{self.setting} {self.chosen.value:g} is the {edge} that was tried; a better one may lie beyond it"
            )
        if loose := [f"{trial.value:.3g}" for trial in self.trials if not trial.converged]:
            notes.append(
                f"not converged in {logistic.MOST_PASSES} passes, {len(loose)} of {len(values)} values of "
                f"{self.setting}: {', '.join(loose)}"
            )
        if not self.fitted.converged:
            notes.append(f"the final fit did not converge: {self.fitted.ended}")
        return notes

    def record(self) -> dict[str, Any]:
        """Return the settings, the trials and all figures, as JSON can hold them."""
        return {
            "data": self.splits.dataset.name,
            "recipe": self.recipe,
            "normalize": self.normalize,
            "rows": {split.name: len(split) for split in self.splits},
            self.setting: self.chosen.value,
            "l2": self.fitted.l2,
            "ended": self.fitted.ended,
            "trials": [vars(trial) for trial in self.trials],
            "notes": self.notes(),
            "test": summary_of(self.evaluation),
        }

    def row(self) -> dict[str, object]:
        """Return the settings and the figures as a row of a table."""
        ends = {
            f"{name}{end}": value
            for name, of in ((name, self.evaluation.estimates.get(name)) for name in FIGURES)
            for end, value in zip(
                ("", "_low", "_high"), (of.value, of.low, of.high) if of else [np.nan] * 3, strict=True
            )
        }
        return {
            "data": self.splits.dataset.name,
            "recipe": self.recipe,
            "normalize": self.normalize,
            "setting": self.setting,
            "value": self.chosen.value,
            "validation_accuracy": self.chosen.accuracy,
            **{f"{split.name}_rows": len(split) for split in self.splits},
            **ends,
        }


def csv_of_probes(probes: list[Probe]) -> str:
    """Return the rows of probes as CSV."""
    rows = [probe.row() for probe in probes]
    return csv_of({name: np.array([row[name] for row in rows]) for name in rows[0]})


def probe(
    splits: Splits,
    recipe: RecipeName = "dino",
    normalize: Normalize = "none",
    progress: Callable[[int, int | None], None] | None = None,
) -> Probe:
    """Fit a recipe on the training rows, choose its setting on the validation rows, and refit it on both.

    The test rows are read once, at the end.

    Parameters
    ----------
    splits : Splits
        As `load_features` divides them.
    recipe : {"dino"}
    normalize : {"none", "unit", "standardize"}
    progress : callable, optional
        Called with the steps done and the total.
    """
    encoded = Encoded.of(splits, normalize)
    path = logistic.Path(encoded)
    trials = tuple(path.trials(logistic.DINO, progress))
    chosen = best(trials)
    fitted = path.refit(chosen.value)
    evaluation = evaluate(fitted.model, splits.test)
    return Probe(recipe, normalize, splits, "C", trials, chosen, fitted, evaluation)
