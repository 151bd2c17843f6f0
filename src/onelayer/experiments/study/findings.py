"""Findings of a study: printed figures judged, effects estimated, probabilities described, a setting chosen."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from onelayer.analysis.evaluation import Evaluation
from onelayer.errors import DataError
from onelayer.experiments.comparison import compare_answers, in_points
from onelayer.experiments.pairing import names_by_difference
from onelayer.experiments.study.questions import Effect, Reported, Setting, SplitEpoch
from onelayer.experiments.sweep import SettingResult, mean_sd, student_t
from onelayer.runs.directory import Run
from onelayer.words import mean_and_sd

RANGE = "the range of other seeds"
INSIDE, EDGE, OUTSIDE = f"inside {RANGE}", f"at the edge of {RANGE}", f"outside {RANGE}"
COLUMNS = ("accuracy", "printed", "measured", "another seed (95 %)", "verdict")


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

    @property
    def sizes(self) -> dict[str, int]:
        """Number of rows of each split."""
        found: dict[str, int] = self.runs[0].summary["data"]["sizes"]
        return found

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
    """Judge printed figures by the range of other seeds, and name the measured accuracy that one outside is like.

    A figure inside the 95 % prediction interval is inside the range, one outside the 99.9 % interval is outside it, and
    one between them is at its edge. With a single limit, five seeds and ten would often disagree on a figure near it.

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
    measured, sizes = trained.measured(), trained.sizes
    rows, places = [], {}
    for figure, printed in reported.figures.items():
        values = measured[figure]
        low, high = prediction_interval(values)
        places[figure] = verdict = place(printed, values)
        if verdict == OUTSIDE:
            away = printed - values.mean()
            verdict = f"{abs(away):.1f} points {'above' if away > 0 else 'below'} our mean, {OUTSIDE}; "
            verdict += _resemblance(figure, printed, measured, sizes)
        rows.append((_named(figure), f"{printed:.2f}", _spread(values), f"{low:.1f} to {high:.1f}", verdict))
    config = reported.setting.config
    setting = f"learning rate {config.learning_rate:g}, lambda {config.l2:g}"
    title = f"{setting}: the coursework's printed figures and ours (percent)"
    counts = Counter(places.values())
    found = f"{counts[INSIDE]} of {len(rows)} printed figures are {INSIDE}"
    found += f", {counts[EDGE]} at its edge" * bool(counts[EDGE])
    outside = [
        f"{name}: printed {printed}, measured {spread}, {verdict}"
        for (name, printed, spread, _, verdict), where in zip(rows, places.values(), strict=True)
        if where == OUTSIDE
    ]
    return Finding(title, ". ".join([found, *outside]), COLUMNS, tuple(rows))


def _resemblance(
    figure: SplitEpoch, printed: float, measured: Mapping[SplitEpoch, np.ndarray], sizes: Mapping[str, int]
) -> str:
    """Return the measured accuracy that a printed figure is like, in words."""
    like = []
    for other, values in measured.items():
        rows = None if other[0] == figure[0] else (sizes[figure[0]], sizes[other[0]])
        low, high = prediction_interval(values, rows)
        if other != figure and low <= printed <= high:
            like.append(other)
    if not like:
        return "it is like no accuracy measured here"
    nearest = min(like, key=lambda other: abs(printed - measured[other].mean()))
    return f"it is like our accuracy on {_named(nearest)}, {_spread(measured[nearest])}"


def _named(figure: SplitEpoch) -> str:
    """Return the name of an accuracy."""
    return f"{figure[0]} rows, epoch {figure[1]}"


def _spread(values: np.ndarray) -> str:
    """Return values (seeds,) in percent in words: mean and standard deviation."""
    return mean_and_sd(*mean_sd((values / 100).tolist()))


def place(printed: float, values: np.ndarray) -> str:
    """Return where a figure lies among those of other seeds: inside their range, at its edge, or outside it."""
    for level, where in ((0.95, INSIDE), (0.999, EDGE)):
        low, high = prediction_interval(values, level=level)
        if low <= printed <= high:
            return where
    return OUTSIDE


def prediction_interval(
    values: np.ndarray, rows: tuple[int, int] | None = None, level: float = 0.95
) -> tuple[float, float]:
    """Return the interval of a single printed accuracy that is made as these were, but with another seed.

    The variance of its distance from the mean m of n seeds with standard deviation s is s^2 (1 + 1/n). If it is of
    other rows, the sampling error of both sets of rows is added: m (1 - m) (1/a + 1/b), for fractions. Student's t has
    the n - 1 degrees of freedom of s, or the more that Welch and Satterthwaite give for the sum.

    Parameters
    ----------
    values : ndarray (seeds,)
        Accuracies in percent.
    rows : (int, int), optional
        Number of rows of the printed and of these accuracies, where the rows differ.
    level : float
        Probability that the figure lies in the interval.

    Returns
    -------
    (float, float)
        Ends in percent, half a unit of the second decimal wider, as the figure is rounded to two.
    """
    n, (mean, sd) = len(values), mean_sd(values.tolist())
    of_seeds = sd**2 * (1 + 1 / n)
    of_rows = mean * (100 - mean) * sum(1 / count for count in rows) if rows else 0.0
    freedom = (n - 1) * (1 + of_rows / of_seeds) ** 2 if of_seeds else math.inf
    margin = student_t(freedom, level) * math.sqrt(of_seeds + of_rows) + 0.005
    return mean - margin, mean + margin


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
        *((name, _percents(side.right), "") for name, side in zip(comparison.names, (a, b), strict=True)),
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
