"""Figures of each epoch: scores of whole splits, and the history that they make."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields

import numpy as np

from onelayer.words import percent


@dataclass(frozen=True)
class Score:
    """Loss and cost of a layer on a split, in nats, and its accuracy, a fraction."""

    loss: float
    cost: float
    accuracy: float


SCORE_COLUMNS = ("loss (nats)", "cost (nats)", "accuracy")


def scores_in_words(scores: dict[str, Score]) -> list[list[str]]:
    """Return the name and the `SCORE_COLUMNS` of each split."""
    return [[name, f"{of.loss:.4f}", f"{of.cost:.4f}", percent(of.accuracy)] for name, of in scores.items()]


NO_SCORE = Score(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class EpochRecord:
    """Figures of an epoch, over whole splits.

    `test_accuracy` is known after the first and the last epoch only; `seconds` are those since the record before, or
    since the start. `passes` and `gap` are of the solver converged, whose epochs are iterations: passes over the
    training rows so far, and an estimate of how far the cost is above the lowest possible at most.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_cost: float
    train_accuracy: float
    validation_loss: float
    validation_cost: float
    validation_accuracy: float
    test_accuracy: float | None
    seconds: float
    passes: float | None = None
    gap: float | None = None

    @classmethod
    def of(cls, epoch: int, learning_rate: float, scores: dict[str, Score], seconds: float) -> "EpochRecord":
        """Return the record of an epoch with these scores of the splits, by name."""
        train, validation, test = scores["train"], scores.get("validation", NO_SCORE), scores.get("test")
        return cls(
            epoch,
            learning_rate,
            *(train.loss, train.cost, train.accuracy),
            *(validation.loss, validation.cost, validation.accuracy),
            test.accuracy if test else None,
            seconds,
        )

    def in_words(self, epochs: int | str, holds_out: bool = True) -> str:
        """Return loss and accuracy in a line, those of validation rows if they are held out.

        `epochs` is the number of epochs to be trained, or auto.
        """
        if self.gap is not None:
            above = f"  cost at most about {self.gap:.2g} above the lowest" if math.isfinite(self.gap) else ""
            return f"iteration {self.epoch:3}{above}  train {self.train_loss:.4f} nats, {percent(self.train_accuracy)}"
        words = f"epoch {self.epoch:3}" if epochs == "auto" else f"epoch {self.epoch:{len(str(epochs))}}/{epochs}"
        words += f"  train {self.train_loss:.4f} nats, {percent(self.train_accuracy)}"
        if holds_out and not math.isnan(self.validation_loss):
            words += f"  validation {self.validation_loss:.4f} nats, {percent(self.validation_accuracy)}"
        return words


History = tuple[EpochRecord, ...]
ITERATION_COLUMNS = ("passes", "gap")  # of the solver converged
HISTORY_COLUMNS = tuple(field.name for field in fields(EpochRecord) if field.name not in ITERATION_COLUMNS)


def noun_of(columns: Iterable[str]) -> str:
    """Return the noun for a row of a history with these columns: iteration for the solver converged, else epoch."""
    return "iteration" if "passes" in columns else "epoch"


def columns_of(history: History) -> tuple[str, ...]:
    """Return the names of the columns that a history has."""
    return HISTORY_COLUMNS + ITERATION_COLUMNS * (bool(history) and history[-1].passes is not None)


def table_of(history: History) -> dict[str, np.ndarray]:
    """Return the columns of a history by name, each (epochs,), for ``pandas.DataFrame(...)``.

    They are those of ``history.csv``: `epoch` in int64, the others in float64. A test accuracy that was not measured is
    NaN, and so is the learning rate where there is none.
    """
    types = {field.name: np.int64 if field.type is int else np.float64 for field in fields(EpochRecord)}
    return {name: np.array([getattr(record, name) for record in history], types[name]) for name in columns_of(history)}
