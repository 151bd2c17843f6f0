"""Studies: the four settings of the coursework beside the figures of its report, and its bonus exercises, over seeds.

A study directory holds

==========================  ======================================================================
``study.json``              what was asked, and the findings: titles, sentences, tables
``batch/``, ``full/``       sweeps of a protocol each, with the runs that the findings rest on
``grid/``                   a sweep of which validation chooses a setting
``probability_<loss>.png``  histogram of the true class's probability, of the first seed
==========================  ======================================================================

The settings are fixed beforehand, so that the test accuracy of each may be reported. Where a study chooses, from its
grid, validation does, and the test rows are read for what it chose.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
from scipy import stats

from onelayer.analysis.evaluation import Evaluation, evaluate
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.dataset import Splits
from onelayer.errors import ConfigError, DataError, RunError
from onelayer.experiments.comparison import compare_answers, in_points
from onelayer.experiments.sweep import SettingResult, Sweep, SweepPlan, choose, results, run_sweep
from onelayer.files import is_marked, is_report, read_mark, require_own, write_figure, write_mark
from onelayer.pictures.probabilities import probability_histogram
from onelayer.runs.directory import TEMPORARY, Run
from onelayer.words import mean_and_sd

FOLDERS = ("grid", "full", "batch")  # in the order of the report
PICTURE = "probability_{}.png"  # of a loss

Protocol = Literal["batch", "full"]
Figure = tuple[str, int]  # accuracy on a split after an epoch


@dataclass(frozen=True)
class Setting:
    """Settings of training with the rows that are trained on."""

    protocol: Protocol
    config: TrainConfig


@dataclass(frozen=True)
class Effect:
    """A question: what is the test accuracy of B against that of A?"""

    title: str
    a: Setting
    b: Setting


@dataclass(frozen=True)
class Reported:
    """Accuracies in percent that somebody else printed for a setting."""

    setting: Setting
    figures: Mapping[Figure, float]


@dataclass(frozen=True)
class Study:
    """What is trained, and what is asked of it.

    Parameters
    ----------
    reported : tuple of Reported
        To be judged by the spread of the seeds.
    effects : tuple of Effect
        To be estimated, with paired intervals.
    probabilities : tuple of Setting
        Whose probabilities of the true class are set side by side.
    grid : tuple of Setting
        Of one protocol, of which validation chooses one.
    """

    reported: tuple[Reported, ...] = ()
    effects: tuple[Effect, ...] = ()
    probabilities: tuple[Setting, ...] = ()
    grid: tuple[Setting, ...] = ()

    def __add__(self, other: "Study") -> "Study":
        return Study(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def described(self) -> tuple[Setting, ...]:
        """The settings that are reported as they are; each once."""
        of_effects = (setting for effect in self.effects for setting in (effect.a, effect.b))
        return tuple(dict.fromkeys([*(r.setting for r in self.reported), *of_effects, *self.probabilities]))


@dataclass(frozen=True)
class Finding:
    """An answer, as the screen and the report show it."""

    title: str
    verdict: str
    columns: tuple[str, ...]
    rows: tuple[tuple[str, ...], ...]


def _course(learning_rate: float, l2: float) -> Setting:
    return Setting("batch", TrainConfig(learning_rate=learning_rate, l2=l2))


def _printed(learning_rate: float, l2: float, *figures: float) -> Reported:
    names = (("train", 1), ("test", 1), ("train", 40), ("test", 40))
    return Reported(_course(learning_rate, l2), dict(zip(names, figures, strict=True)))


PLAIN = _course(0.001, 0)
ALL_DATA = Setting("full", PLAIN.config)
FLIPS = Setting("full", replace(PLAIN.config, flip=True))
LONG_STEPS = Setting("full", replace(FLIPS.config, learning_rate=0.01))
DECAY = Setting("full", replace(LONG_STEPS.config, decay_every=10))
SIGMOID = Setting("batch", replace(PLAIN.config, loss="sigmoid", learning_rate=0.01))
GRID = TrainConfig(flip=True, epochs=60, decay_every=12, decay_factor=0.2)

BONUS = {
    "all-data": Study(effects=(Effect("training on all five batches instead of one", PLAIN, ALL_DATA),)),
    "flips": Study(effects=(Effect("flips, on all batches", ALL_DATA, FLIPS),)),
    "decay": Study(effects=(Effect("step decay of a learning rate of 0.01, with flips", LONG_STEPS, DECAY),)),
    "sigmoid": Study(
        effects=(Effect("a sigmoid for each class instead of softmax", PLAIN, SIGMOID),),
        probabilities=(PLAIN, SIGMOID),
    ),
    "grid": Study(
        grid=tuple(
            Setting("full", replace(GRID, learning_rate=learning_rate, l2=l2))
            for learning_rate in (0.005, 0.01, 0.02)
            for l2 in (0.005, 0.01, 0.015)
        )
    ),
}
STUDIES: dict[str, Study] = {
    # The figures that the report of the coursework prints: train and test after epoch 1, then after epoch 40.
    "coursework": Study(
        reported=(
            _printed(0.1, 0, 26.72, 29.77, 39.48, 43.31),
            _printed(0.001, 0, 30.00, 30.72, 45.17, 45.59),
            _printed(0.001, 0.1, 30.07, 30.76, 44.87, 44.72),
            _printed(0.001, 1, 30.30, 31.01, 40.00, 38.99),
        ),
        effects=(
            Effect("a learning rate of 0.001 instead of 0.1", _course(0.1, 0), PLAIN),
            Effect("lambda 0.1 instead of 0", PLAIN, _course(0.001, 0.1)),
            Effect("lambda 1 instead of 0.1", _course(0.001, 0.1), _course(0.001, 1)),
        ),
    ),
    "bonus": sum(BONUS.values(), Study()),
    **BONUS,
}


@dataclass(frozen=True)
class Trained:
    """A setting's runs with their answers on the test rows, in the order of the seeds."""

    runs: tuple[Run, ...]
    answers: tuple[Evaluation, ...]

    @property
    def right(self) -> np.ndarray:
        """Which test rows are right, (seeds, n)."""
        return np.array([answers.predictions == answers.labels for answers in self.answers])

    def measured(self) -> dict[Figure, np.ndarray]:
        """Accuracies in percent (seeds,) after the first and the last epoch."""
        histories = [run.read_checkpoint()[1].history for run in self.runs]
        return {
            (split, history[place].epoch): 100
            * np.array([getattr(of_run[place], f"{split}_accuracy") for of_run in histories])
            for history in histories[:1]
            for place in (0, -1)
            for split in ("train", "validation", "test")
        }


def run_study(
    path: Path,
    name: str,
    seeds: Sequence[int],
    load: Callable[[SplitConfig], Splits],
    *,
    workers: int = 0,
    overwrite: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> tuple[Finding, ...]:
    """Train what a study needs, or go on with it, and write down what is found.

    Parameters
    ----------
    path : Path
        The study directory; made where it is not.
    name : str
        One of `STUDIES`.
    seeds : sequence of int
        At least three.
    load : callable
        CIFAR-10 by a protocol.
    workers, on_progress
        As for `run_sweep`, for one sweep after the other.
    overwrite : bool
        Replace another study.

    Raises
    ------
    ConfigError
        If there are too few seeds.
    RunError
        If the directory holds something else, or a run diverged or is damaged.
    """
    if len(seeds) < 3:
        raise ConfigError(f"seeds {len(seeds)} is too few to tell an effect from noise; ask for 3 or more, better 5")
    study, load = STUDIES[name], cache(load)
    for seed in seeds:
        TrainConfig(seed=seed)  # refuses a bad one
    try:  # before anything is made
        load(SplitConfig(protocol=(*study.described, *study.grid)[0].protocol))
    except ConfigError as error:
        raise ConfigError(f"a study needs CIFAR-10 with its batches ({str(error).partition(';')[0]})") from None
    _create(path, name, seeds, overwrite)

    def sweep_of(folder: str, settings: Sequence[Setting]) -> Sweep:
        split_config = SplitConfig(protocol=settings[0].protocol)
        dataset = load(split_config).dataset
        configs = tuple(setting.config for setting in settings)
        plan = SweepPlan(configs, tuple(seeds), split_config, dataset.source, dataset.fingerprint)
        return Sweep.create(path / folder, plan)

    def train(sweep: Sweep, settings: Sequence[int], report_test: bool) -> list[SettingResult]:
        splits = load(sweep.plan.split_config)
        run_sweep(sweep, splits, workers=workers, settings=settings, report_test=report_test, on_progress=on_progress)
        found = results(sweep)
        sweep.write_csv(found)
        for run in (run for result in found for run in result.runs):
            if run.status != "complete" and run.setting in settings:
                raise RunError(f"{sweep.run(run.setting, run.seed).path}: {run.status}; {run.note}")
        return found

    def answers(sweep: Sweep, setting: int) -> Trained:
        runs = tuple(sweep.run(setting, seed) for seed in seeds)
        test = load(sweep.plan.split_config).test
        return Trained(runs, tuple(evaluate(run.read_model(), test) for run in runs))

    trained: dict[Setting, Trained] = {}
    for protocol in dict.fromkeys(setting.protocol for setting in study.described):
        settings = [setting for setting in study.described if setting.protocol == protocol]
        sweep = sweep_of(protocol, settings)
        train(sweep, range(len(settings)), report_test=True)
        trained |= {setting: answers(sweep, place) for place, setting in enumerate(settings)}
    findings = [judge(reported, trained[reported.setting]) for reported in study.reported]
    findings += [_estimate(effect, trained) for effect in study.effects]
    for setting in study.probabilities:
        loss = setting.config.loss
        title = f"{loss}, learning rate {setting.config.learning_rate:g}: the true class's probability, test rows"
        write_figure(path / PICTURE.format(loss), probability_histogram(trained[setting].answers[0], title))
    if study.probabilities:
        findings.append(_set_side_by_side({setting: trained[setting] for setting in study.probabilities}))
    if study.grid:
        sweep = sweep_of("grid", study.grid)
        best = choose(train(sweep, range(len(study.grid)), report_test=False))
        if best is None:
            raise RunError(f"{sweep.path}: no setting has a complete run to choose")
        found = train(sweep, [best.setting], report_test=True)
        findings.append(_choice(found, answers(sweep, best.setting)))
    content = {"name": name, "seeds": list(seeds), "findings": [asdict(finding) for finding in findings]}
    write_mark(path / "study.json", "study", content)
    return tuple(findings)


def _create(path: Path, name: str, seeds: Sequence[int], overwrite: bool) -> None:
    """Make the directory of a study, or find it made for the same."""
    file = path / "study.json"
    try:
        path.mkdir(parents=True, exist_ok=True)
        present = [entry.name for entry in path.iterdir() if not TEMPORARY.fullmatch(entry.name)]
    except OSError as error:
        raise RunError(f"cannot make the study directory {path}: {error.strerror}; choose another --out") from None
    if present and not file.exists():
        raise RunError(f"{path} holds {present[0]!r} and is no study of onelayer; choose another --out")
    if present and not is_marked(file, "study"):
        raise RunError(f"{file} is not of a study of onelayer; choose another --out")
    require_own(path / "report.html", is_report)  # now, and not when it is to be written
    if present and not overwrite:
        there = read_study(path)
        if (there["name"], there["seeds"]) != (name, list(seeds)):
            words = f"{there['name']} with seeds {there['seeds'][0]} to {there['seeds'][-1]}"
            raise RunError(f"{path} is the study {words}; choose another --out or pass --overwrite")
    if overwrite:  # all of it now: what a study that is stopped goes on with is its own
        for folder in FOLDERS:
            if (path / folder / "sweep.json").exists():
                Sweep.open(path / folder).remove()
        (path / "report.html").unlink(missing_ok=True)
    if not present or overwrite:
        write_mark(file, "study", {"name": name, "seeds": list(seeds), "findings": []})


def read_study(path: Path) -> dict[str, Any]:
    """What ``study.json`` holds.

    Raises
    ------
    RunError
        If there is none, or it is damaged.
    """

    def parse(content: dict[str, Any]) -> dict[str, Any]:
        if content["name"] not in STUDIES or not all(isinstance(seed, int) for seed in content["seeds"]):
            raise ValueError("of no known study")
        if len(content["seeds"]) < 2:
            raise ValueError("of too few seeds")
        return content | {"findings": [Finding(**finding) for finding in content["findings"]]}

    return read_mark(path / "study.json", "study", parse)


def judge(reported: Reported, trained: Trained) -> Finding:
    """Set printed figures against the spread of the seeds, and name what else they would be consistent with.

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


def _named(figure: Figure) -> str:
    return f"{figure[0]} rows, epoch {figure[1]}"


def _spread(values: np.ndarray) -> str:
    return mean_and_sd(values.mean() / 100, values.std(ddof=1) / 100)


def _deviations(printed: float, values: np.ndarray) -> float:
    sd = float(values.std(ddof=1))
    return abs(printed - float(values.mean())) / sd if sd else math.inf


def fits(printed: float, values: np.ndarray) -> bool:
    """Tell whether one more seed might well give a figure.

    Parameters
    ----------
    printed : float
        The figure, rounded to two decimals.
    values : ndarray (seeds,)
        What the seeds gave.

    Returns
    -------
    bool
        Whether the figure is in the 95 % prediction interval of the values.
    """
    n = len(values)
    margin = stats.t.ppf(0.975, n - 1) * values.std(ddof=1) * math.sqrt(1 + 1 / n) + 0.005  # it is rounded
    return bool(abs(printed - values.mean()) <= margin)


def _estimate(effect: Effect, trained: Mapping[Setting, Trained]) -> Finding:
    """The difference of test accuracy, with paired intervals."""
    a, b = trained[effect.a], trained[effect.b]
    if not np.array_equal(a.answers[0].labels, b.answers[0].labels):
        raise DataError("the protocols have different test rows; give both the same CIFAR-10")
    comparison = compare_answers(a.right, b.right)
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
    return Finding(f"what {effect.title} does", comparison.verdict(b="it"), columns, rows)


def _percents(right: np.ndarray) -> str:
    return f"{_spread(100 * right.mean(axis=1))} %"


def _in_words(setting: Setting) -> str:
    return f"protocol {setting.protocol}: {setting.config.setting_in_words()}"


def _set_side_by_side(trained: Mapping[Setting, Trained]) -> Finding:
    """Quartiles of the true class's probability, for right and wrong answers of all seeds."""
    rows = []
    for setting, of_setting in trained.items():
        P = np.array([answers.true_class_probabilities for answers in of_setting.answers])  # (seeds, n)
        for name, of_kind in (("right", P[of_setting.right]), ("wrong", P[~of_setting.right])):
            quartiles = (f"{quartile:.3f}" for quartile in np.quantile(of_kind, (0.25, 0.5, 0.75)))
            rows.append((setting.config.loss, name, f"{of_kind.size / len(P):,.0f}", *quartiles))
    verdict = "; ".join(f"{loss}, {kind} rows: median {median}" for loss, kind, _, _, median, _ in rows)
    columns = ("loss", "test rows that are", "rows a seed", "lower quartile", "median", "upper quartile")
    return Finding("the probability of the true class", verdict, columns, tuple(rows))


def _choice(found: Sequence[SettingResult], trained: Trained) -> Finding:
    """The grid, the best on validation first; the test rows of that one only."""
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
