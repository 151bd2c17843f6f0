"""The values that a recipe tries, and what comes out."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np

from onelayer.analysis.evaluation import Evaluation
from onelayer.config import TrainConfig
from onelayer.data.dataset import Split
from onelayer.model import Model
from onelayer.processes import summed
from onelayer.training.state import TrainingState

Progress = Callable[[int, int | None], None]


@dataclass(frozen=True)
class Trial:
    """A value of a setting, and what it gives on the validation rows.

    Parameters
    ----------
    value : float
        C, or the number of neighbours k.
    accuracy : float
        Fraction of the validation rows that are right.
    converged : bool
        True if the cost is as near to the optimum as was asked for, or the fit is exact.
    passes : float or None
        Passes over the training rows; None if the fit does not iterate.
    cost, gap : float or None
        In nats; the gap is an estimate of how far the cost is above the optimum.
    """

    value: float
    accuracy: float
    converged: bool = True
    passes: float | None = None
    cost: float | None = None
    gap: float | None = None


@dataclass(frozen=True, eq=False)
class Outcome:
    """A fit by a recipe.

    Parameters
    ----------
    evaluate : callable
        Returns the evaluation of a split of raw rows.
    model : Model or None
        None if the answers are not those of a layer.
    l2 : float
        lambda of the cost that the model minimises; 0 if it minimises another.
    trials : tuple of Trial
        The values that were tried, in their order; none if the recipe chooses nothing.
    ended : str
        The reason why an iteration ended.
    converged : bool
    training : TrainingState or None
        The state after the last iteration of the final fit; None if the fit does not iterate.
    config : TrainConfig or None
        The settings of that training.
    """

    evaluate: Callable[[Split], Evaluation]
    model: Model | None = None
    l2: float = 0.0
    trials: tuple[Trial, ...] = ()
    ended: str = "the fit is in closed form"
    converged: bool = True
    training: TrainingState | None = None
    config: TrainConfig | None = None

    @property
    def chosen(self) -> Trial | None:
        """The trial of the highest accuracy, and of equal ones the first; None if there is none."""
        return best(self.trials) if self.trials else None


def best(trials: Sequence[Trial]) -> Trial:
    """Return the trial of the highest accuracy, and of equal ones the first."""
    return max(trials, key=lambda trial: trial.accuracy)


def accuracy(predictions: np.ndarray, split: Split) -> float:
    """Return the fraction of the rows of a split that are right, by their weights; a process predicts its own rows."""
    mine = split.mine
    weights = mine.row_weights(slice(None))
    right = (predictions == mine.labels) * (1.0 if weights is None else weights)
    return float(summed(split.dataset.processes, right.sum())[0]) / split.weight
