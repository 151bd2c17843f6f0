"""The command that trains with many settings and chooses one."""

import sys
from dataclasses import field, fields, make_dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.cli.stops import repeatable
from onelayer.config import SourceConfig, SplitConfig, TrainConfig
from onelayer.errors import ConfigError

if TYPE_CHECKING:  # each command loads the rooms that it needs, --help none
    from onelayer.cli.screen import Screen
    from onelayer.data.dataset import Splits
    from onelayer.experiments.sweep import SettingResult, Sweep

RunArgument = Annotated[Path, Parameter(name="RUN")]


if TYPE_CHECKING:
    from onelayer.cli.screen import Screen
    from onelayer.data.dataset import Splits
    from onelayer.experiments.sweep import SettingResult, Sweep

    Grid = Any  # has the fields of TrainConfig, each a list
else:

    def _words(value: object) -> str:
        return str(value).lower() if isinstance(value, bool) else str(value)

    def _several(option) -> tuple[str, object, object]:
        """An option of the training settings as a list of values."""
        kind = Literal["true", "false"] if option.type is bool else option.type
        default = [_words(option.default) if option.type is bool else option.default]
        shown = Parameter(show_default=lambda values: " ".join(map(_words, values)))
        return option.name, Annotated[list[kind], shown], field(default_factory=partial(list, default))

    # Seeds are counted, and every run has one thread.
    Grid = make_dataclass(
        "Grid", [_several(option) for option in fields(TrainConfig) if option.name not in ("seed", "threads")]
    )
    Grid.__module__, Grid.__doc__ = __name__, TrainConfig.__doc__


@app.command(default_parameter=Parameter(consume_multiple=True))
def sweep(
    *,
    data: str = "auto",
    source_config: Annotated[SourceConfig, Parameter(name="*")] = SourceConfig(),
    split_config: Annotated[SplitConfig, Parameter(name="*")] = SplitConfig(),
    options: Annotated[Grid, Parameter(name="*")] = Grid(),  # noqa: B008, nothing changes it
    seeds: int = 1,
    seed: int = 42,
    random: int | None = None,
    random_seed: int = 0,
    report_test: Literal["chosen", "all"] = "chosen",
    workers: int = 0,
    out: Path | None = None,
    overwrite: bool = False,
    figures: bool = False,
    quiet: bool = False,
    config_file: Annotated[Path | None, Parameter(name="--config")] = None,
) -> None:
    """Train with every combination of the values given; the validation rows choose.

    The test rows are read in the end, for the chosen setting only. The same command and its --out go on with a sweep.

    Parameters
    ----------
    data
        cifar10, cifar100, mnist, fashion-mnist, kmnist, digits, or a path; auto: cifar10 if it can be had, else digits.
    seeds
        How many runs of each setting, with different seeds.
    seed
        The first of the seeds; the others follow it.
    random
        Draw so many settings; two values of the learning rate or l2 are the ends of a range, log-uniform.
    random_seed
        Of --random.
    report_test
        all shows the test rows' figures of every setting; they must not choose.
    workers
        Runs at a time; 0 is as many as there are cores. The numbers do not depend on it.
    out
        The sweep directory; by default the next free one in sweeps/.
    overwrite
        Replace the sweep in --out.
    figures
        Draw pictures of every run.
    quiet
        Print errors only.
    config_file
        TOML file that sets these options by the same names, several values as a list; the command line wins.
    """
    from onelayer.cli.results import print_sweep
    from onelayer.cli.screen import Screen
    from onelayer.data import load_splits
    from onelayer.experiments import sweep as sweeps
    from onelayer.runs.claim import claimed
    from onelayer.training.backends.registry import choose_backend
    from onelayer.training.state import warn_of_units

    if seeds < 1:
        raise ConfigError(f"seeds {seeds} is not a whole number of at least 1")
    configs = _settings(options, random, random_seed)
    replace(configs[0], seed=seed)  # refuses a bad one
    screen, apart = Screen(quiet), replace(split_config, refit=False)  # until validation has chosen
    with screen.working("reading") as progress:
        splits = load_splits(data, apart, source_config, progress=progress)
    dataset, numbers = splits.dataset, tuple(range(seed, seed + seeds))
    plan = sweeps.SweepPlan(configs, numbers, apart, dataset.source, dataset.fingerprint, source_config)
    for config in configs:
        choose_backend(dataset, config)  # refuses what does not fit before anything is made
    warn_of_units(splits)
    with claimed(out, Path("sweeps") / dataset.name.lower()) as path:
        made = sweeps.Sweep.create(path, plan, overwrite=overwrite)
        screen.data(splits)
        with repeatable(path, given=out is not None, overwrite=overwrite):
            results, refitted = _search(
                screen,
                made,
                splits,
                workers=workers,
                refit=split_config.refit,
                report_all=report_test == "all",
                figures=figures,
            )
    print_sweep(screen, plan, results, refitted)
    screen.files(made.path)
    runs = [run for result in (*results, *filter(None, [refitted])) for run in result.runs]
    if sweeps.choose(results) is None or any(run.status == "damaged" for run in runs):
        sys.exit(1)


def _settings(options: Grid, random: int | None, random_seed: int) -> tuple[TrainConfig, ...]:
    """Return the combinations of the values given, or this many random draws from them."""
    from onelayer.experiments import sweep as sweeps

    values = {option.name: getattr(options, option.name) for option in fields(options)}
    for option in fields(TrainConfig):
        if option.type is bool:  # without a word it says yes
            values[option.name] = [word == "true" for word in values[option.name] or ["true"]]
    return sweeps.grid(values) if random is None else sweeps.draws(values, random, random_seed)


def _search(
    screen: "Screen", made: "Sweep", splits: "Splits", *, workers: int, refit: bool, report_all: bool, figures: bool
) -> "tuple[list[SettingResult], SettingResult | None]":
    """Train all settings, let validation choose one, and read its test rows.

    Returns
    -------
    results : list of SettingResult
        Those of all settings, the best first.
    refitted : SettingResult or None
        That of the chosen setting on the training and validation rows, if `refit`.
    """
    from onelayer.data.dataset import split
    from onelayer.experiments import sweep as sweeps

    results, refitted = _train(screen, made, splits, workers, report_test=report_all), None
    best = sweeps.choose(results)
    if best and refit:
        again = sweeps.refit(made, best.setting)
        together = split(splits.dataset, again.plan.split_config)
        refitted = _train(screen, again, together, workers)[0]
        if figures:
            _draw(screen, again, together)
    elif best:
        results = _train(screen, made, splits, workers, settings=[best.setting])
    if figures:
        _draw(screen, made, splits)
    return results, refitted


def _train(
    screen: "Screen",
    sweep: "Sweep",
    splits: "Splits",
    workers: int,
    *,
    settings: list[int] | None = None,
    report_test: bool = True,
) -> "list[SettingResult]":
    """Train the runs that are missing, and write the table of the sweep even if something stops it."""
    from onelayer.experiments import sweep as sweeps

    try:
        with screen.sweeping() as on_progress:
            sweeps.run_sweep(
                sweep, splits, workers=workers, settings=settings, report_test=report_test, on_progress=on_progress
            )
    finally:
        results = sweeps.results(sweep)
        sweep.write_csv(results)
    return results


def _draw(screen: "Screen", sweep: "Sweep", splits: "Splits") -> None:
    """Draw the pictures of every complete run; test rows only where the run has read them."""
    from onelayer.experiments import sweep as sweeps
    from onelayer.pictures.finished import draw_run

    for run in (run for result in sweeps.results(sweep) for run in result.complete):
        directory = sweep.run(run.setting, run.seed)
        plan, state = directory.read_checkpoint()
        model, read_test = directory.read_model(), "test" in run.scores
        with screen.working("drawing") as progress:
            draw_run(directory, plan, state.history, model, splits, progress, report_test=read_test)
