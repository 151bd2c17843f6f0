"""An honest search: train all settings, let the validation rows choose one, and read its test rows only."""

from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from onelayer.data.dataset import Splits
from onelayer.data.protocols import split
from onelayer.experiments.sweep.directory import Sweep, results
from onelayer.experiments.sweep.plan import SweepPlan
from onelayer.experiments.sweep.refitting import refit
from onelayer.experiments.sweep.results import SettingResult, SweepRun, choose
from onelayer.experiments.sweep.running import run_sweep
from onelayer.files import write_figure

Progress = Callable[[str, int, int | None, tuple[int, int]], None]


@dataclass(frozen=True)
class Search:
    """A finished search.

    Parameters
    ----------
    sweep : Sweep
        The directory.
    results : list of SettingResult
        The settings, the best on validation first.
    refitted : SettingResult or None
        The chosen setting, trained on the training and validation rows together.
    """

    sweep: Sweep
    results: list[SettingResult]
    refitted: SettingResult | None = None

    @property
    def best(self) -> SettingResult | None:
        """The setting that validation chose; None if no run is complete."""
        return choose(self.results)

    @property
    def runs(self) -> list[SweepRun]:
        """All runs, the refitted ones last."""
        return [run for result in (*self.results, *filter(None, [self.refitted])) for run in result.runs]


def search(
    path: str | Path,
    plan: SweepPlan,
    splits: Splits,
    *,
    refit_best: bool = False,
    report_all: bool = False,
    workers: int = 0,
    overwrite: bool = False,
    on_progress: Progress | None = None,
) -> Search:
    """Train every setting of a plan, let validation choose one, and read its test rows. The same call goes on.

    Parameters
    ----------
    path : str or Path
        Directory of the sweep.
    plan : SweepPlan
    splits : Splits
        The rows of the plan; validation rows are apart.
    refit_best : bool
        Train the chosen setting again on the training and validation rows together, and read the test rows for that.
    report_all : bool
        Read the test rows for every setting. They still choose nothing.
    workers : int
        Number of runs at a time; 0 is the number of cores.
    overwrite : bool
        Replace another sweep.
    on_progress : callable, optional
        Called with the name of the stage, and then as `run_sweep` does.

    Raises
    ------
    RunError
        If the directory holds something else.
    ConfigError, DataError
        As `run_sweep`.
    """
    sweep = Sweep.create(path, plan, overwrite=overwrite)
    found, refitted = _train(sweep, splits, workers, "training", on_progress, report_test=report_all), None
    best = choose(found)
    if best and refit_best:
        again = refit(sweep, best.setting)
        together = split(splits.dataset, again.plan.split_config)
        (refitted,) = _train(again, together, workers, "refit", on_progress)
    elif best and not report_all:
        found = _train(sweep, splits, workers, "test rows", on_progress, settings=[best.setting])
    _draw_grid(sweep, found)
    return Search(sweep, found, refitted)


def _train(
    sweep: Sweep,
    splits: Splits,
    workers: int,
    stage: str,
    on_progress: Progress | None,
    *,
    settings: Collection[int] | None = None,
    report_test: bool = True,
) -> list[SettingResult]:
    """Train the runs that are missing, and write the table of the sweep even if something stops it."""

    told = partial(on_progress, stage) if on_progress else None
    try:
        run_sweep(sweep, splits, workers=workers, settings=settings, report_test=report_test, on_progress=told)
    finally:
        found = results(sweep)
        sweep.write_csv(found)
    return found


def _draw_grid(sweep: Sweep, found: list[SettingResult]) -> None:
    from onelayer.experiments.sweep.picture import grid_figure  # matplotlib, which it loads, takes long

    if figure := grid_figure(sweep.plan, found):
        write_figure(sweep.picture_path, figure)


def draw_runs(search: Search, splits: Splits, on_progress: Callable[[int, int], None]) -> None:
    """Draw the pictures of every complete run; test rows only where the run has read them."""
    from onelayer.pictures.finished import draw_run

    groups = [(search.sweep, search.results, splits)]
    if search.refitted:
        again = Sweep.open(search.sweep.path / "refit")
        groups.append((again, [search.refitted], split(splits.dataset, again.plan.split_config)))
    todo = [
        (sweep.run(row.setting, row.seed), rows)
        for sweep, of_sweep, rows in groups
        for result in of_sweep
        for row in result.complete
    ]
    for done, (run, rows) in enumerate(todo, 1):
        plan, state = run.read_checkpoint()
        draw_run(run, plan, state.history, run.model, rows, lambda *_: None, report_test="test" in run.scores)
        on_progress(done, len(todo))
