"""A probe: a recipe that is fitted on features, chosen by the validation rows, and reported on the test rows."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from onelayer.analysis.estimates import Estimate
from onelayer.analysis.evaluation import Evaluation
from onelayer.analysis.summary import csv_of, summary_of
from onelayer.data.dataset import Splits
from onelayer.experiments.probe.closed import nearest_mean, ridge
from onelayer.experiments.probe.encoded import Encoded, Normalize
from onelayer.experiments.probe.logistic import MOST_PASSES, dino
from onelayer.experiments.probe.neighbours import knn
from onelayer.experiments.probe.trials import Outcome, Progress

RecipeName = Literal["dino", "ridge", "knn", "nearest-mean"]
# For each recipe, the name of the setting that it chooses, and the function that fits it.
RECIPES = {"dino": ("C", dino), "ridge": ("", ridge), "knn": ("k", knn), "nearest-mean": ("", nearest_mean)}
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
        The name of the setting that the validation rows chose; empty if the recipe has none.
    outcome : Outcome
        The fit on training and validation rows, and the values that were tried before.
    evaluation : Evaluation
        Of the test rows.
    """

    recipe: RecipeName
    normalize: Normalize
    splits: Splits
    setting: str
    outcome: Outcome
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
        notes, chosen = [], self.outcome.chosen
        values = [trial.value for trial in self.outcome.trials]
        if chosen and len(values) > 1 and chosen.value in (values[0], values[-1]):
            edge = "smallest" if chosen.value == values[0] else "largest"
            notes.append(
                f"{self.setting} {chosen.value:g} is the {edge} that was tried; a better one may lie beyond it"
            )
        if loose := [f"{trial.value:.3g}" for trial in self.outcome.trials if not trial.converged]:
            notes.append(
                f"not converged in {MOST_PASSES} passes, or as far as rounding lets it: {len(loose)} of {len(values)} "
                f"values of {self.setting}, {', '.join(loose)}"
            )
        if not self.outcome.converged:
            notes.append(f"the final fit did not converge: {self.outcome.ended}")
        if self.outcome.model is None:
            notes.append(f"{self.recipe} is not a layer, so no run is written")
        elif not self.setting:
            notes.append(f"the probabilities of {self.recipe} are not fitted; only its classes count")
        return notes

    def record(self) -> dict[str, Any]:
        """Return the settings, the trials and all figures, as JSON can hold them."""
        chosen = self.outcome.chosen
        return {
            "data": self.splits.dataset.name,
            "recipe": self.recipe,
            "normalize": self.normalize,
            "rows": {split.name: len(split) for split in self.splits},
            "setting": self.setting or None,
            "chosen": chosen.value if chosen else None,
            "l2": self.outcome.l2,
            "ended": self.outcome.ended,
            "trials": [vars(trial) for trial in self.outcome.trials],
            "notes": self.notes(),
            "test": summary_of(self.evaluation),
        }

    def row(self) -> dict[str, object]:
        """Return the settings and the figures as a row of a table."""
        chosen = self.outcome.chosen
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
            "value": chosen.value if chosen else np.nan,
            "validation_accuracy": chosen.accuracy if chosen else np.nan,
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
    progress: Progress | None = None,
) -> Probe:
    """Fit a recipe on the training rows, choose its setting on the validation rows, and refit it on both.

    The test rows are read once, at the end.

    Parameters
    ----------
    splits : Splits
        As `load_features` divides them.
    recipe : {"dino", "ridge", "knn", "nearest-mean"}
        ridge and nearest-mean choose nothing, and are fitted on training and validation rows at once.
    normalize : {"none", "unit", "standardize"}
    progress : callable, optional
        Called with the steps done and the total.
    """
    setting, fit = RECIPES[recipe]
    encoded = Encoded.of(splits, normalize)
    outcome = fit(encoded if setting else encoded.refitted(), progress)
    return Probe(recipe, normalize, splits, setting, outcome, outcome.evaluate(splits.test))
