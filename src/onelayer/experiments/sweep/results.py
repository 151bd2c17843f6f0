"""Results of a sweep: what became of its runs, and the setting that validation chooses."""

import math
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Literal

from onelayer.config import TrainConfig
from onelayer.experiments.sweep.plan import Select
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
    balanced_accuracy : float, optional
        Mean accuracy of the classes on the validation rows, a fraction; known where it chooses.
    note : str
        The reason why it is damaged, or the epoch in which it diverged.
    """

    setting: int
    seed: int
    status: Literal["complete", "diverged", "missing", "damaged"]
    scores: dict[str, Score] = field(default_factory=dict)
    note: str = ""
    balanced_accuracy: float | None = None

    def value(self, split: str, what: str) -> float | None:
        """Return a score of a split; None where it is not known."""
        if what == "balanced_accuracy":
            return self.balanced_accuracy if split == "validation" else None
        return getattr(self.scores[split], what) if split in self.scores else None


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

    def mean_sd(self, split: str, what: str = "accuracy") -> tuple[float, float]:
        """Return mean and standard deviation of a score of a split, over the complete runs that have it."""
        values = (run.value(split, what) for run in self.complete)
        return mean_sd([value for value in values if value is not None])

    def interval(self, split: str, what: str = "accuracy") -> tuple[float, float]:
        """Return the 95 % interval of a score's mean over the seeds, by Student's t; NaN for one seed."""
        mean, sd = self.mean_sd(split, what)
        margin = student_t(len(self.complete) - 1) * sd / math.sqrt(len(self.complete) or 1)
        return mean - margin, mean + margin


def student_t(freedom: float, level: float = 0.95) -> float:
    """Return the factor of a two-sided interval of this level by Student's t; NaN for no degree of freedom."""
    from scipy import stats  # it takes long to load

    return float(stats.t.ppf((1 + level) / 2, freedom)) if freedom > 0 else math.nan


def mean_sd(values: Sequence[float]) -> tuple[float, float]:
    """Return mean and standard deviation (n - 1); NaN where there are too few values."""
    return (
        statistics.fmean(values) if len(values) else math.nan,
        statistics.stdev(values) if len(values) > 1 else math.nan,
    )


def ranked(results: Iterable[SettingResult], select: Select) -> list[SettingResult]:
    """Return settings, the best mean validation score first.

    A setting with a diverged run comes after the others: the mean of its other runs would flatter it.
    """
    sign = 1 if select == "loss" else -1

    def rank(result: SettingResult) -> tuple[bool, bool, float]:
        mean = result.mean_sd("validation", select.replace("-", "_"))[0]
        return math.isnan(mean), any(run.status == "diverged" for run in result.runs), sign * mean

    return sorted(results, key=rank)


def choose(results: Sequence[SettingResult]) -> SettingResult | None:
    """Return the setting that validation chooses; None while runs are missing, or where none is complete."""
    if any(run.status == "missing" for result in results for run in result.runs):
        return None
    return results[0] if results[0].complete else None
