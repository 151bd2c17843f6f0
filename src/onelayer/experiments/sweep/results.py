"""Results of a sweep: what became of its runs, and the setting that validation chooses."""

import math
import statistics
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

from onelayer.config import TrainConfig
from onelayer.training.history import Score


@dataclass(frozen=True)
class SweepRun:
    """A run of a sweep, and what became of it.

    Parameters
    ----------
    setting, seed : int
    status : str
        complete, diverged, damaged, or missing: still to be trained, or to be trained further.
    scores : dict of str to Score
        Scores of a complete run; without test where the test rows were not read.
    note : str
        The reason why it is damaged, or the epoch in which it diverged.
    """

    setting: int
    seed: int
    status: Literal["complete", "diverged", "missing", "damaged"]
    scores: dict[str, Score] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class SettingResult:
    """A setting of a sweep with its runs, one for each seed."""

    setting: int
    config: TrainConfig
    runs: tuple[SweepRun, ...]

    @property
    def complete(self) -> tuple[SweepRun, ...]:
        """The complete runs."""
        return tuple(run for run in self.runs if run.status == "complete")

    @property
    def has_test(self) -> bool:
        """True if the test rows were read for any of its runs."""
        return any("test" in run.scores for run in self.runs)

    def mean_sd(self, split: str) -> tuple[float, float]:
        """Return mean and standard deviation of the accuracy on a split, over the complete runs that have it."""
        return mean_sd([run.scores[split].accuracy for run in self.complete if split in run.scores])


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation (n - 1); NaN where there are too few values."""
    return (
        statistics.fmean(values) if len(values) else math.nan,
        statistics.stdev(values) if len(values) > 1 else math.nan,
    )


def choose(results: Sequence[SettingResult]) -> SettingResult | None:
    """Return the setting that validation chooses; None while runs are missing, or where none is complete."""
    if any(run.status == "missing" for result in results for run in result.runs):
        return None
    return results[0] if results[0].complete else None
