"""Running a study: train its settings, draw its pictures, and write down what is found."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from onelayer.analysis.evaluation import evaluate
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.dataset import Splits
from onelayer.errors import ConfigError, RunError
from onelayer.experiments.marks import is_made
from onelayer.experiments.study.findings import Finding, Trained, choice, estimate, judge, probabilities
from onelayer.experiments.study.questions import Setting
from onelayer.experiments.study.studies import STUDIES
from onelayer.experiments.sweep import Progress, SettingResult, Sweep, SweepPlan, choose, results, run_sweep
from onelayer.files import is_report, read_mark, require_own, write_figure, write_mark
from onelayer.pictures.curves import curves_of_settings
from onelayer.pictures.probabilities import probability_histogram
from onelayer.words import counted, percent

FOLDERS = ("grid", "full", "batch")  # in the order of the report
PICTURE = "probability_{}.png"  # of a loss
CURVES = "curves.png"  # of the settings that are compared with printed figures


def run_study(
    path: Path,
    name: str,
    seeds: Sequence[int],
    load: Callable[[SplitConfig], Splits],
    *,
    workers: int = 0,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> tuple[Finding, ...]:
    """Train the settings of a study, or go on with it, and write down the findings.

    Parameters
    ----------
    path : Path
        The study directory; made where it does not exist.
    name : str
        One of `STUDIES`.
    seeds : sequence of int
        At least three.
    load : callable
        Loads CIFAR-10, divided as asked.
    workers : int
        Number of runs at a time; 0 is the number of cores.
    on_progress : callable, optional
        Called with the name of the stage, and then as `run_sweep` does.
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
        raise ConfigError(f"seeds {len(seeds)} is too few to tell an effect from noise; ask for 3 or more, better 10")
    study, load = STUDIES[name], cache(load)
    for seed in seeds:
        TrainConfig(seed=seed)  # refuses a bad one
    try:  # before anything is made
        load(SplitConfig(protocol=(*study.described, *study.grid)[0].protocol))
    except ConfigError as error:
        raise ConfigError(f"a study needs CIFAR-10 with its batches ({str(error).partition(';')[0]})") from None
    _create(path, name, seeds, overwrite)
    training = _Training(path, tuple(seeds), load, workers, on_progress)
    trained = training.described(study.described)
    findings = [judge(reported, trained[reported.setting]) for reported in study.reported]
    findings += [estimate(effect, trained[effect.a], trained[effect.b]) for effect in study.effects]
    if study.reported:
        write_figure(path / CURVES, _curves(tuple(trained[reported.setting] for reported in study.reported), seeds[0]))
    for setting in study.probabilities:
        loss = setting.config.loss
        title = f"{loss}, learning rate {setting.config.learning_rate:g}: the true class's probability, test rows"
        write_figure(path / PICTURE.format(loss), probability_histogram(trained[setting].answers[0], title))
    if study.probabilities:
        findings.append(probabilities({setting: trained[setting] for setting in study.probabilities}))
    if study.grid:
        findings.append(choice(*training.best(study.grid)))
    content = {"name": name, "seeds": list(seeds), "findings": [asdict(finding) for finding in findings]}
    write_mark(path / "study.json", "study", content)
    return tuple(findings)


def _curves(settings: Sequence[Trained], seed: int) -> Figure:
    """Draw the curves of the first seed of each setting on shared axes."""
    histories = {}
    for number, trained in enumerate(settings, 1):
        config, history = trained.runs[0].config, trained.runs[0].history
        words = f"{number}. learning rate {config.learning_rate:g}, l2 {config.l2:g}"
        histories[f"{words}: test {percent(trained.answers[0].accuracy)}"] = history
    same = f"{config.loss}, batches of {config.batch_size:,}, {counted(len(history['epoch']), 'epoch')}, seed {seed}"
    data = settings[0].answers[0].name.rpartition(",")[0]
    return curves_of_settings(histories, f"Loss and cost by epoch\n{data}: {same}")


@dataclass(frozen=True)
class _Training:
    """The training of a study's settings, in its directory."""

    path: Path
    seeds: tuple[int, ...]
    load: Callable[[SplitConfig], Splits]
    workers: int
    on_progress: Progress | None

    def described(self, settings: Sequence[Setting]) -> dict[Setting, Trained]:
        """Train settings, with one sweep for each protocol."""
        trained: dict[Setting, Trained] = {}
        for protocol in dict.fromkeys(setting.protocol for setting in settings):
            members = [setting for setting in settings if setting.protocol == protocol]
            sweep = self._sweep(protocol, members)
            self._train(sweep, range(len(members)), report_test=True)
            trained |= {setting: self._trained(sweep, place) for place, setting in enumerate(members)}
        return trained

    def best(self, grid: Sequence[Setting]) -> tuple[list[SettingResult], Trained]:
        """Train a grid; return its results and the runs of the setting that validation chooses."""
        sweep = self._sweep("grid", grid)
        best = choose(self._train(sweep, range(len(grid)), report_test=False))
        if best is None:
            raise RunError(f"{sweep.path}: no setting has a complete run to choose")
        return self._train(sweep, [best.setting], report_test=True), self._trained(sweep, best.setting)

    def _sweep(self, folder: str, settings: Sequence[Setting]) -> Sweep:
        """Make the sweep of settings of one protocol, or open it."""
        split_config = SplitConfig(protocol=settings[0].protocol)
        dataset = self.load(split_config).dataset
        configs = tuple(setting.config for setting in settings)
        plan = SweepPlan(configs, self.seeds, split_config, dataset.source, dataset.fingerprint, select="accuracy")
        return Sweep.create(self.path / folder, plan)

    def _train(self, sweep: Sweep, settings: Sequence[int], *, report_test: bool) -> list[SettingResult]:
        """Train settings of a sweep; an incomplete run is an error."""
        stage = sweep.path.name
        run_sweep(
            sweep,
            self.load(sweep.plan.split_config),
            workers=self.workers,
            settings=settings,
            report_test=report_test,
            on_progress=partial(self.on_progress, stage) if self.on_progress else None,
        )
        found = results(sweep)
        sweep.write_csv(found)
        for run in (run for result in found for run in result.runs):
            if run.status != "complete" and run.setting in settings:
                raise RunError(f"{sweep.run(run.setting, run.seed).path}: {run.status}; {run.note}")
        return found

    def _trained(self, sweep: Sweep, setting: int) -> Trained:
        """Return the runs of a setting with their answers on the test rows."""
        runs = tuple(sweep.run(setting, seed) for seed in self.seeds)
        test = self.load(sweep.plan.split_config).test
        return Trained(runs, tuple(evaluate(run.model, test) for run in runs))


def _create(path: Path, name: str, seeds: Sequence[int], overwrite: bool) -> None:
    """Make the directory of a study, or find the directory of the same study."""
    present = is_made(path, "study")
    require_own(path / "report.html", is_report)  # now, before the work
    if present and not overwrite:
        there = read_study(path)
        if (there["name"], there["seeds"]) != (name, list(seeds)):
            words = f"{there['name']} with seeds {there['seeds'][0]} to {there['seeds'][-1]}"
            raise RunError(f"{path} is the study {words}; choose another --out or pass --overwrite")
    if overwrite:  # all of it now, so that a study that is stopped goes on with its own runs only
        for folder in FOLDERS:
            if (path / folder / "sweep.json").exists():
                Sweep.open(path / folder).remove()
        (path / "report.html").unlink(missing_ok=True)
    if not present or overwrite:
        write_mark(path / "study.json", "study", {"name": name, "seeds": list(seeds), "findings": []})


def read_study(path: Path) -> dict[str, Any]:
    """Return the content of ``study.json``: name, seeds and findings.

    Raises
    ------
    RunError
        If there is no such file, or it is damaged.
    """

    def parse(content: dict[str, Any]) -> dict[str, Any]:
        if content["name"] not in STUDIES or not all(isinstance(seed, int) for seed in content["seeds"]):
            raise ValueError("of no known study")
        if len(content["seeds"]) < 2:
            raise ValueError("of too few seeds")
        return content | {"findings": [Finding(**finding) for finding in content["findings"]]}

    return read_mark(path / "study.json", "study", parse)
