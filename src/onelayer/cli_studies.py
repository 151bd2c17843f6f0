"""Commands over many runs. As in `onelayer.cli`, the rooms below do the work."""

import sys
from dataclasses import field, fields, make_dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from onelayer.cli import _draw, app
from onelayer.config import SplitConfig, TrainConfig
from onelayer.errors import ConfigError

if TYPE_CHECKING:
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
    split_config: Annotated[SplitConfig, Parameter(name="*")] = SplitConfig(),  # noqa: B008, it is frozen
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
    """Train with every combination of the values given, and let the validation rows choose; options take several.

    The test rows are read in the end, for the chosen setting only. The same command goes on with a sweep that was
    stopped.

    Parameters
    ----------
    data
        cifar10, digits, or a path; auto is cifar10 where it is or can be downloaded, else digits.
    seeds
        How many runs of each setting, with different seeds.
    seed
        The first of the seeds; the others follow it.
    random
        Draw so many settings instead of trying all: two values of the learning rate or of l2 are then the ends of a
        range of logarithms, and of other values one is drawn.
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
    from dataclasses import replace

    from onelayer import sweep as sweeps
    from onelayer.data import load_splits
    from onelayer.run import free_directory
    from onelayer.screen import Screen, mean_and_sd

    screen = Screen(quiet)
    values = {option.name: getattr(options, option.name) for option in fields(options)}
    for option in fields(TrainConfig):
        if option.type is bool:  # an option without a word says yes
            values[option.name] = [word == "true" for word in values[option.name] or ["true"]]
    configs = sweeps.grid(values) if random is None else sweeps.draws(values, random, random_seed)
    if seeds < 1:
        raise ConfigError(f"seeds {seeds} is not a whole number of at least 1")
    base = replace(split_config, refit=False)
    with screen.working("reading") as progress:
        splits = load_splits(data, base, progress)
    dataset = splits.dataset
    plan = sweeps.SweepPlan(configs, tuple(range(seed, seed + seeds)), base, dataset.source, dataset.fingerprint)
    path = out or free_directory(Path("sweeps"), dataset.name.lower())
    made = sweeps.Sweep.create(path, plan, overwrite=overwrite)
    screen.data(splits)

    def train(sweep: sweeps.Sweep, splits: "Splits", settings: list[int], report_test: bool) -> None:
        with screen.sweeping(len(settings) * seeds) as on_progress:
            sweeps.run_sweep(
                sweep, splits, workers=workers, settings=settings, report_test=report_test, on_progress=on_progress
            )

    try:
        train(made, splits, list(range(len(configs))), report_test == "all")
        best = sweeps.choose(sweeps.results(made))
    except KeyboardInterrupt as stop:
        raise type(stop)(f"stopped; go on with the same command and --out {shlex.quote(str(path))}") from None


@app.command
def compare(
    a: Annotated[Path, Parameter(name="A")],
    b: Annotated[Path, Parameter(name="B")],
    /,
    *,
    data: str | None = None,
    split: Literal["test", "validation"] = "test",
) -> None:
    """Tell whether B is better than A, or whether noise would do as much.

    Parameters
    ----------
    a
        A run directory, or a folder of the runs of one setting with several seeds.
    b
        As A; several runs are matched by seed.
    data
        Where the runs' own data are now, if they were moved.
    split
        On which rows.
    """
    from onelayer.comparison import compare_runs, find_runs, pair
    from onelayer.screen import Screen, percent

    screen = Screen()
    runs_a, runs_b = find_runs(a), find_runs(b)
    pairing = pair(runs_a, runs_b)
    plan, _ = pairing.runs_a[0].read_checkpoint()
    with screen.working("reading") as progress:
        splits = plan.load_splits(data, progress)
    comparison = compare_runs(runs_a, runs_b, split, splits)
    screen.notes(splits.dataset)
    for side, seeds in pairing.alone.items():
        if seeds:
            screen.say(f"note: without a partner, left out: seed {', '.join(map(str, seeds))} of {side}")
    screen.say(f"{splits.dataset.name}, {split}: {comparison.rows:,} rows; {pairing.settings}")
    screen.say(f"A {a}: {percent(comparison.accuracy_a)}")
    screen.say(f"B {b}: {percent(comparison.accuracy_b)}")
    screen.comparison(comparison)


@app.command
def report(
    paths: Annotated[list[Path], Parameter(name="PATH")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"])] = Path("report.html"),
    data: str | None = None,
) -> None:
    """Write one HTML file that shows what runs learned; exit 1 if some of it had to be left out.

    Parameters
    ----------
    paths
        A run directory or several, or one sweep or study directory.
    out
        The file to write.
    data
        Where the runs' data are now, if they were moved.
    """
    from onelayer.report import read_subject, render
    from onelayer.run import write_file
    from onelayer.screen import Screen

    screen = Screen()
    subject = read_subject(paths)
    with screen.working("drawing") as progress:
        page = render(subject, lambda plan: plan.load_splits(data), progress).encode()
    write_file(out, page)
    for problem in subject.problems:
        screen.say(f"left out: {problem}")
    screen.say(f"{out}: {len(page) / 1e6:.1f} MB")
    if subject.problems:
        sys.exit(1)
