"""The command that trains with many settings and chooses one."""

import sys
from collections import Counter
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass, field, fields, make_dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.cli.options import (
    OUTPUT,
    RUNS,
    TRAINING,
    ConfigFile,
    Data,
    Division,
    FirstSeed,
    OutDirectory,
    Overwrite,
    Preset,
    Quiet,
    Source,
    Workers,
)
from onelayer.cli.stops import repeatable
from onelayer.config import SETTINGS, SourceConfig, SplitConfig, TrainConfig
from onelayer.errors import ConfigError
from onelayer.words import counted, typed

if TYPE_CHECKING:  # imported in each command, so that --help stays fast
    from onelayer.cli.screen import Screen
    from onelayer.data.dataset import Splits
    from onelayer.experiments.sweep import SweepPlan

    Grid = Any  # has the fields of TrainConfig, each a list
else:

    def _several(option) -> tuple[str, object, object]:
        """Return an option of the training settings as a list of values."""
        kind = Literal["true", "false"] if option.type is bool else option.type
        default = [typed(option.default) if option.type is bool else option.default]
        return option.name, list[kind], field(default_factory=partial(list, default))

    # Seeds are counted, and every run has one thread.
    Grid = make_dataclass("Grid", [_several(option) for option in fields(TrainConfig) if option.name in SETTINGS])
    Grid.__module__, Grid.__doc__ = __name__, TrainConfig.__doc__


@dataclass(frozen=True, kw_only=True)
class Search:
    """Settings of a sweep.

    Parameters
    ----------
    seeds
        Number of runs of each setting, each with its own seed.
    random
        Number of settings to draw at random; two values of the learning rate or l2 are the ends of a log-uniform range.
    random_seed
        Seed for --random.
    select
        Score of the validation rows that chooses a setting; by default loss, the finest, or that of the sweep in --out.
    report_test
        Settings whose test figures are shown; test figures must not choose a setting.
    stack
        Train the settings of a seed together, in one pass over the rows; for the backends numpy and torch.
    part
        Part of the runs to train, such as 3/16, where processes share --out; the last part to end writes the table.
    collect
        Write the table of a sweep in parts, whose settings are in --out, once all have ended.
    """

    seeds: int = 1
    seed: FirstSeed = 42
    random: int | None = None
    random_seed: int = 0
    select: Literal["loss", "accuracy", "balanced-accuracy"] | None = None
    report_test: Literal["chosen", "all"] = "chosen"
    workers: Workers = 0
    stack: Annotated[bool, Parameter(negative="")] = False
    part: str | None = None
    collect: Annotated[bool, Parameter(negative="")] = False


@app.command(default_parameter=Parameter(consume_multiple=True))
def sweep(
    *,
    data: Data = "auto",
    source_config: Source = SourceConfig(),
    split_config: Division = SplitConfig(),
    options: Annotated[Grid, Parameter(name="*", group=TRAINING)] = Grid(),  # noqa: B008, nothing changes it
    preset: Preset = None,
    search: Annotated[Search, Parameter(name="*", group=RUNS)] = Search(),
    out: OutDirectory = None,
    overwrite: Overwrite = False,
    figures: Annotated[bool, Parameter(group=OUTPUT)] = False,
    quiet: Quiet = False,
    config_file: ConfigFile = None,
) -> None:
    """Train with every combination of the values given; the validation rows choose one.

    The test rows are read at the end, for the chosen setting only. The same command with --out continues a sweep.

    Parameters
    ----------
    out
        Sweep directory to write; by default the next free one in sweeps/.
    figures
        Draw pictures of every run.
    """
    from onelayer.cli.notes import without_preset
    from onelayer.cli.screen import Screen
    from onelayer.coded import prepare
    from onelayer.data import load_splits
    from onelayer.experiments import sweep as sweeps
    from onelayer.runs.claim import claimed

    screen = Screen(quiet)
    part, parts = _part(search, out, overwrite)
    if search.collect:
        others = replace(search, collect=False, workers=0, report_test="chosen")
        given = options, preset, source_config, replace(split_config, refit=False), config_file, others
        _require_none_else(given, (Grid(), None, SourceConfig(), SplitConfig(), None, Search()))
        _collect(screen, data, out, search, split_config.refit, figures)
        return
    _settings(options, search)  # refuses bad ones before it reads
    apart = replace(split_config, refit=False)  # until validation has chosen
    with screen.working("reading") as progress:
        splits = load_splits(data, apart, source_config=source_config, progress=progress)
    configs, seeds = _settings(without_preset(screen, options, preset, data, splits), search)
    dataset = splits.dataset
    _require_fit(splits, configs, search.stack)  # before anything is made
    source_config = replace(source_config, fit=dataset.fit or "auto")
    rows = apart, dataset.source, dataset.fingerprint, source_config
    own = sweeps.SweepPlan(configs, seeds, *rows, "accuracy", parts).runs_of(part)
    with screen.working("computing features") as progress:
        prepare(splits, [configs[setting] for setting in dict.fromkeys(setting for setting, _ in own)], progress)
    with nullcontext(out or Path()) if search.part else claimed(out, Path("sweeps") / dataset.name.lower()) as path:
        select = search.select or sweeps.select_of(path, configs, overwrite=overwrite)
        plan = sweeps.SweepPlan(configs, seeds, *rows, select, parts, search.stack)
        sweeps.Sweep.create(path, plan, overwrite=overwrite)  # refuses before it prints
        with repeatable(path, given=out is not None, overwrite=overwrite):
            if search.part:
                _train_part(screen, path, plan, splits, search, split_config.refit, figures)
            else:
                _search(screen, path, plan, splits, search, split_config.refit, figures)


def _settings(options: Grid, search: Search) -> tuple[tuple[TrainConfig, ...], tuple[int, ...]]:
    """Return the settings to train with, all combinations or random draws, and the seeds."""
    from onelayer.experiments import sweep as sweeps

    values = {option.name: getattr(options, option.name) for option in fields(options)}
    for option in fields(TrainConfig):
        if option.type is bool:  # without a word it says yes
            values[option.name] = [word == "true" for word in values[option.name] or ["true"]]
    configs = sweeps.grid(values) if search.random is None else sweeps.draws(values, search.random, search.random_seed)
    if search.seeds < 1:
        raise ConfigError(f"seeds {search.seeds} is not a whole number of at least 1")
    if search.seeds > 1 and all(config.solver == "converged" for config in configs):
        what = f"seeds {search.seeds}: the solver converged has one answer, whatever the seed"
        raise ConfigError(f"{what}; leave out --seeds")
    replace(configs[0], seed=search.seed)  # refuses a bad one
    return configs, tuple(range(search.seed, search.seed + search.seeds))


def _require_fit(splits: "Splits", configs: tuple[TrainConfig, ...], stack: bool) -> None:
    """Refuse settings that do not fit the data, and rows of unlike units."""
    from onelayer.experiments.sweep import require_stackable
    from onelayer.training.backends.registry import choose_backend
    from onelayer.training.state import warn_of_units

    for config in configs:
        choose_backend(splits.dataset, config)
        if stack:
            require_stackable(config)
    warn_of_units(splits)


def _part(search: Search, out: Path | None, overwrite: bool) -> tuple[int, int]:
    """Return the part to train and the number of parts; both are 1 where nothing is shared."""
    from onelayer.experiments import sweep as sweeps

    part = sweeps.part_of(search.part) if search.part is not None else (1, 1)
    name = "part" if search.part is not None else "collect"
    if (search.part is not None or search.collect) and out is None:
        raise ConfigError(f"--{name} needs the directory that all parts share; pass --out")
    if search.part is not None and search.collect:
        raise ConfigError("--part trains runs and --collect trains none; leave one out")
    if (search.part is not None or search.collect) and overwrite:
        raise ConfigError(f"--overwrite would remove the runs of the other parts; leave it out, or --{name}")
    return part


def _search(
    screen: "Screen", path: Path, plan: "SweepPlan", splits: "Splits", search: Search, refit: bool, figures: bool
) -> None:
    """Train the runs that are missing, choose a setting, and print the table."""
    from onelayer.cli.notes import note_on_batches, note_on_penalty
    from onelayer.cli.results import print_sweep
    from onelayer.experiments import sweep as sweeps

    screen.data(splits)
    note_on_batches(screen, splits, plan.configs)
    note_on_penalty(screen, plan.configs)
    with screen.stages(_noun(plan)) as on_progress:
        found = sweeps.search(
            path,
            plan,
            splits,
            refit_best=refit,
            report_all=search.report_test == "all",
            workers=search.workers,
            on_progress=on_progress,
        )
    if figures:
        with screen.working("drawing") as progress:
            sweeps.draw_runs(found, splits, progress)
    print_sweep(screen, found)
    screen.files(path)
    if found.best is None or any(run.status == "damaged" for run in found.runs):
        sys.exit(1)


def _train_part(
    screen: "Screen", path: Path, plan: "SweepPlan", splits: "Splits", search: Search, refit: bool, figures: bool
) -> None:
    """Train the runs of a part; the last part to end goes on as `_search` does."""
    from onelayer.experiments import sweep as sweeps

    part, _ = _part(search, path, False)
    with screen.stages(_noun(plan)) as on_progress:
        sweep = sweeps.train_part(
            path,
            plan,
            part,
            splits,
            report_test=search.report_test == "all",
            workers=search.workers,
            on_progress=partial(on_progress, f"part {search.part}"),
        )
    ended = Counter(sweep.read(*run).status for run in plan.runs_of(part))
    words = ", ".join(f"{counted(count, 'run')} {status}" for status, count in ended.items()) or "no runs"
    screen.say(f"part {search.part} of {path}: {words}")
    with ExitStack() as held:
        if sweeps.claim_to_collect(sweep, held):
            _search(screen, path, plan, splits, search, refit, figures)
        elif ended["damaged"]:
            sys.exit(1)


def _collect(screen: "Screen", data: str, out: Path | None, search: Search, refit: bool, figures: bool) -> None:
    """Go on as `_search` does with a sweep whose parts have ended, and whose settings are in its directory."""
    from onelayer.coded import prepare
    from onelayer.experiments import sweep as sweeps
    from onelayer.runs.claim import claimed

    sweep = sweeps.Sweep.open(out or Path())
    sweeps.require_trained(sweep)
    plan = sweep.plan
    with screen.working("reading") as progress:
        splits = plan.of_run(0, plan.seeds[0]).load_splits(None if data == "auto" else data, progress)
    with screen.working("computing features") as progress:
        prepare(splits, plan.configs, progress)
    with claimed(sweep.path):
        _search(screen, sweep.path, plan, splits, search, refit, figures)


def _require_none_else(given: tuple[object, ...], defaults: tuple[object, ...]) -> None:
    """Refuse settings beside --collect."""
    if given != defaults:
        what = "--collect takes the settings of the sweep in --out; leave out all other options except --data"
        raise ConfigError(f"{what}, --refit, --report-test, --workers, --figures and --quiet")


def _noun(plan: "SweepPlan") -> str | None:
    """Return the noun for what is counted within the runs, if it is the same in all."""
    solvers = {config.solver for config in plan.configs}
    return None if len(solvers) > 1 else "iteration" if "converged" in solvers else "epoch"
