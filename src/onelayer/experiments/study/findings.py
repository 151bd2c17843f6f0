"""Findings of a study: printed figures judged, effects estimated, probabilities described, a setting chosen."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from scipy import stats

from onelayer.analysis.evaluation import Evaluation
from onelayer.errors import DataError
from onelayer.experiments.comparison import compare_answers, in_points
from onelayer.experiments.pairing import names_by_difference
from onelayer.experiments.study.questions import Effect, Reported, Setting, SplitEpoch
from onelayer.experiments.sweep import SettingResult, mean_sd
from onelayer.runs.directory import Run
from onelayer.words import mean_and_sd


@dataclass(frozen=True)
class Finding:
    """An answer of a study, as the screen and the report show it."""

    title: str
    verdict: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


@dataclass(frozen=True)
class Trained:
    """The runs of a setting with their answers on the test rows, in the order of the seeds."""

    runs: tuple[Run, ...]
    answers: tuple[Evaluation, ...]

    @property
    def right(self) -> np.ndarray:
        """True for each test row that is right, (seeds, n)."""
        return np.array([answers.right for answers in self.answers])

    def measured(self) -> dict[SplitEpoch, np.ndarray]:
        """Return accuracies in percent (seeds,) after the first and the last epoch."""
        histories = [run.read_checkpoint()[1].history for run in self.runs]
        return {
            (split, history[place].epoch): 100
            * np.array([getattr(of_run[place], f"{split}_accuracy") for of_run in histories])
            for history in histories[:1]
            for place in (0, -1)
            for split in ("train", "validation", "test")
        }


def judge(reported: Reported, trained: Trained) -> Finding:
    """Judge printed figures by the spread of the seeds, and name the measured accuracy that fits one outside it.

    Parameters
    ----------
    reported : Reported
        The printed figures, in percent.
    trained : Trained
        Runs of the same setting.

    Returns
    -------
    Finding
        A row and a verdict for each figure.
    """
    measured = trained.measured()
    rows, outside = [], []
    for figure, printed in reported.figures.items():
        if fits(printed, measured[figure]):
            verdict = "inside the spread of seeds"
        else:
            away = _deviations(printed, measured[figure])
            others = [other for other in measured if other != figure and fits(printed, measured[other])]
            what = "consistent with no accuracy measured here"
            if others:
                nearest = min(others, key=lambda other: abs(printed - measured[other].mean()))
                what = f"consistent with {_named(nearest)}, {_spread(measured[nearest])}"
            verdict = f"outside, by {away:.0f} standard deviations; {what}"
            outside.append(f"{_named(figure)}: printed {printed:.2f}, measured {_spread(measured[figure])}: {verdict}")
        rows.append((_named(figure), f"{printed:.2f}", _spread(measured[figure]), verdict))
    config = reported.setting.config
    setting = f"learning rate {config.learning_rate:g}, lambda {config.l2:g}"
    title = f"{setting}: the coursework's printed figures and ours (percent)"
    inside = f"{len(rows) - len(outside)} of {len(rows)} printed figures are inside the spread of seeds"
    return Finding(title, "; ".join([inside, *outside]), ("accuracy", "printed", "measured", "verdict"), tuple(rows))


def _named(figure: SplitEpoch) -> str:
    """Return the name of an accuracy."""
    return f"{figure[0]} rows, epoch {figure[1]}"


def _spread(values: np.ndarray) -> str:
    """Return values (seeds,) in percent in words: mean and standard deviation."""
    return mean_and_sd(*mean_sd((values / 100).tolist()))


def _deviations(printed: float, values: np.ndarray) -> float:
    """Return the distance of a figure from the mean of values (seeds,), in standard deviations."""
    mean, sd = mean_sd(values.tolist())
    return abs(printed - mean) / sd if sd else math.inf


def fits(printed: float, values: np.ndarray) -> bool:
    """Return whether a figure fits the spread of the seeds.

    Parameters
    ----------
    printed : float
        The figure, rounded to two decimals.
    values : ndarray (seeds,)
        The figures of the seeds.

    Returns
    -------
    bool
        Whether the figure is in the 95 % prediction interval of the values.
    """
    n, (mean, sd) = len(values), mean_sd(values.tolist())
    margin = stats.t.ppf(0.975, n - 1) * sd * math.sqrt(1 + 1 / n) + 0.005  # it is rounded
    return bool(abs(printed - mean) <= margin)


def estimate(effect: Effect, a: Trained, b: Trained) -> Finding:
    """Estimate the difference of test accuracy between A and B, with paired intervals."""
    if not np.array_equal(a.answers[0].labels, b.answers[0].labels):
        raise DataError("the two protocols have different test rows; use the same CIFAR-10 for both")
    settings = ({"protocol": setting.protocol} | setting.config.settings for setting in (effect.a, effect.b))
    comparison = compare_answers(a.right, b.right, names=names_by_difference(*settings))
    columns = ("", "test accuracy", "interval over")
    both = comparison.interval if comparison.seed_interval else None
    intervals = (("rows", comparison.row_interval), ("seeds", comparison.seed_interval), ("both", both))
    rows = (
        (_in_words(effect.a), _percents(a.right), ""),
        (_in_words(effect.b), _percents(b.right), ""),
        *(
            ("difference", in_points(comparison.difference, interval, sign="+"), over)
            for over, interval in intervals
            if interval
        ),
    )
    return Finding(f"the effect of {effect.title}", comparison.verdict(), columns, rows)


def _percents(right: np.ndarray) -> str:
    """Return the accuracy of right rows (seeds, n) in words."""
    return f"{_spread(100 * right.mean(axis=1))} %"


def _in_words(setting: Setting) -> str:
    """Return a setting with its protocol in words."""
    return f"protocol {setting.protocol}: {setting.config.setting_in_words()}"


def probabilities(trained: Mapping[Setting, Trained]) -> Finding:
    """Return the quartiles of the true class's probability, for right and wrong answers of all seeds."""
    rows = []
    for setting, of_setting in trained.items():
        P = np.array([answers.true_class_probabilities for answers in of_setting.answers])  # (seeds, n)
        for name, of_kind in (("right", P[of_setting.right]), ("wrong", P[~of_setting.right])):
            quartiles = (f"{quartile:.3f}" for quartile in np.quantile(of_kind, (0.25, 0.5, 0.75)))
            rows.append((setting.config.loss, name, f"{of_kind.size / len(P):,.0f}", *quartiles))
    verdict = "; ".join(f"{loss}, {kind} rows: median {median}" for loss, kind, _, _, median, _ in rows)
    columns = ("loss", "test rows that are", "rows a seed", "lower quartile", "median", "upper quartile")
    return Finding("the probability of the true class", verdict, columns, tuple(rows))


def choice(found: Sequence[SettingResult], trained: Trained) -> Finding:
    """Return the grid as a table, the best on validation first, with the test accuracy of the best setting only."""
    columns = ("learning rate", "lambda", "train (%)", "validation (%)", "test (%)")
    rows = tuple(
        (
            f"{result.config.learning_rate:g}",
            f"{result.config.l2:g}",
            *(mean_and_sd(*result.mean_sd(split)) for split in ("train", "validation", "test")),
        )
        for result in found
    )
    config = found[0].config
    verdict = (
        f"validation chooses learning rate {rows[0][0]}, lambda {rows[0][1]}: "
        f"{_percents(trained.right)} of the test rows, which chose nothing"
    )
    title = f"the best of a grid, on all batches with flips and the learning rate times {config.decay_factor:g} every "
    return Finding(f"{title}{config.decay_every} epochs of {config.epochs}", verdict, columns, rows)
