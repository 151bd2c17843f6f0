"""The values that a recipe tries, and the fit of the one that the validation rows choose."""

from collections.abc import Sequence
from dataclasses import dataclass

from onelayer.model import Model


@dataclass(frozen=True)
class Trial:
    """A value of a setting, and what it gives on the validation rows.

    Parameters
    ----------
    value : float
        C.
    accuracy : float
        Fraction of the validation rows that are right.
    converged : bool
        True if the cost is as near to the optimum as was asked for.
    passes : float
        Passes over the training rows.
    cost, gap : float
        In nats; the gap is an estimate of how far the cost is above the optimum.
    """

    value: float
    accuracy: float
    converged: bool
    passes: float
    cost: float
    gap: float


def best(trials: Sequence[Trial]) -> Trial:
    """Return the trial of the highest accuracy, and of equal ones the first."""
    return max(trials, key=lambda trial: trial.accuracy)


@dataclass(frozen=True, eq=False)
class Fitted:
    """A fit.

    Parameters
    ----------
    model : Model
    l2 : float
        lambda.
    ended : str
        The reason why the fit ended.
    converged : bool
    """

    model: Model
    l2: float
    ended: str
    converged: bool
