"""Commands over many runs. As in `onelayer.cli.commands`, the rooms below do the work."""

import shlex
import sys
from dataclasses import field, fields, make_dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.config import SourceConfig, SplitConfig, TrainConfig
from onelayer.errors import ConfigError
from onelayer.words import percent

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
    from onelayer.cli.screen import Screen
    from onelayer.data import load_splits
    from onelayer.data.dataset import split
    from onelayer.experiments import sweep as sweeps
    from onelayer.runs.claim import claimed
    from onelayer.training.backends.registry import choose_backend
    from onelayer.training.state import warn_of_units

    screen = Screen(quiet)
    values = {option.name: getattr(options, option.name) for option in fields(options)}
    for option in fields(TrainConfig):
        if option.type is bool:  # without a word it says yes
            values[option.name] = [word == "true" for word in values[option.name] or ["true"]]
    configs = sweeps.grid(values) if random is None else sweeps.draws(values, random, random_seed)
    if seeds < 1:
        raise ConfigError(f"seeds {seeds} is not a whole number of at least 1")
    replace(configs[0], seed=seed)  # refuses a bad one
    apart = replace(split_config, refit=False)  # until validation has chosen
    with screen.working("reading") as progress:
        splits = load_splits(data, apart, source_config, progress=progress)
    dataset, numbers = splits.dataset, tuple(range(seed, seed + seeds))
    plan = sweeps.SweepPlan(configs, numbers, apart, dataset.source, dataset.fingerprint, source_config)
    for config in configs:
        choose_backend(dataset, config)  # refuses what does not fit before anything is made
    warn_of_units(splits)

    def train(
        sweep: "Sweep", splits: "Splits", *, settings: list[int] | None = None, report_test: bool = True
    ) -> "list[SettingResult]":
        try:
            with screen.sweeping() as on_progress:
                sweeps.run_sweep(
                    sweep, splits, workers=workers, settings=settings, report_test=report_test, on_progress=on_progress
                )
        finally:
            results = sweeps.results(sweep)
            sweep.write_csv(results)
        return results

    def draw(sweep: "Sweep", splits: "Splits") -> None:
        from onelayer.pictures.finished import draw_run

        for run in (run for result in sweeps.results(sweep) for run in result.complete):
            directory = sweep.run(run.setting, run.seed)
            of_run, state = directory.read_checkpoint()
            model, read_test = directory.read_model(), "test" in run.scores
            with screen.working("drawing") as progress:
                draw_run(directory, of_run, state.history, model, splits, progress, report_test=read_test)

    with claimed(out, Path("sweeps") / dataset.name.lower()) as path:
        made = sweeps.Sweep.create(path, plan, overwrite=overwrite)
        screen.data(splits)
        try:
            results, refitted = train(made, splits, report_test=report_test == "all"), None
            best = sweeps.choose(results)
            if best and split_config.refit:
                again, together = sweeps.refit(made, best.setting), split(dataset, replace(apart, refit=True))
                refitted = train(again, together)[0]
                if figures:
                    draw(again, together)
            elif best:
                results = train(made, splits, settings=[best.setting])
            if figures:
                draw(made, splits)
        except KeyboardInterrupt as stop:
            raise type(stop)(_go_on(path, given=out is not None, overwrite=overwrite)) from None
    screen.sweep(plan, results, refitted)
    screen.files(made.path)
    everything = [run for result in (*results, *filter(None, [refitted])) for run in result.runs]
    if best is None or any(run.status == "damaged" for run in everything):
        sys.exit(1)


@app.command
def compare(
    a: Annotated[Path, Parameter(name="A")],
    b: Annotated[Path, Parameter(name="B")],
    /,
    *,
    data: str | None = None,
    split: Literal["test", "validation"] | None = None,
) -> None:
    """Tell whether B is better than A, or whether noise would do as much.

    Parameters
    ----------
    a
        A run directory, a folder of the runs of one setting, or such as SWEEP/runs/002 for those of a sweep.
    b
        As A; several runs are matched by seed.
    data
        Where the runs' own data are now, if they were moved.
    split
        On which rows; by default test, but validation where a run has left the test rows alone.
    """
    from onelayer.cli.screen import Screen
    from onelayer.experiments.comparison import compare_runs, find_runs, pair

    screen = Screen()
    runs_a, runs_b = find_runs(a), find_runs(b)
    pairing = pair(runs_a, runs_b)
    plan, _ = pairing.runs_a[0].read_checkpoint()
    with screen.working("reading") as progress:
        splits = plan.load_splits(data, progress)
    paired = (*pairing.runs_a, *pairing.runs_b)
    if split is None and not all("test" in run.read_summary()["results"] for run in paired):
        screen.say("note: on validation rows, as not all of these runs have read the test rows (--split test does)")
        split = "validation"
    split = split or "test"
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
def study(
    name: Literal["coursework", "bonus", "all-data", "flips", "decay", "sigmoid", "grid"],
    /,
    *,
    seeds: int = 5,
    seed: int = 42,
    data: str = "cifar10",
    workers: int = 0,
    out: Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
) -> None:
    """Run the coursework's four settings beside its report's figures, or its bonus exercises, over seeds.

    The same command with its --out goes on where a study stopped. It leaves one HTML file with everything, report.html.

    Parameters
    ----------
    name
        coursework; bonus is all of the others; all-data, flips, decay and sigmoid tell what each does to the test
        accuracy; grid lets validation choose among settings.
    seeds
        How many runs of each setting, with different seeds; at least 3.
    seed
        The first of the seeds; the others follow it.
    data
        cifar10, or a path to it.
    workers
        Runs at a time; 0 is as many as there are cores. The numbers do not depend on it.
    out
        The study directory; by default the next free one in studies/.
    overwrite
        Replace the study in --out.
    quiet
        Print errors only.
    """
    from onelayer.cli.screen import Screen
    from onelayer.data import load_splits
    from onelayer.experiments.study import run_study
    from onelayer.pictures.page import ignore_styles
    from onelayer.runs.claim import claimed

    ignore_styles()
    screen = Screen(quiet)

    def load(split_config: SplitConfig) -> "Splits":
        with screen.working("reading") as progress:
            splits = load_splits(data, split_config, progress=progress)
        screen.data(splits)
        return splits

    with claimed(out, Path("studies") / name) as path:
        try:
            with screen.sweeping() as on_progress:
                findings = run_study(
                    path,
                    name,
                    range(seed, seed + seeds),
                    load,
                    workers=workers,
                    overwrite=overwrite,
                    on_progress=on_progress,
                )
        except KeyboardInterrupt as stop:
            raise type(stop)(_go_on(path, given=out is not None, overwrite=overwrite)) from None
        for finding in findings:
            screen.finding(finding)
        screen.say("")
        screen.files(path)
        _write_report(screen, [path], path / "report.html", data)


def _go_on(path: Path, *, given: bool, overwrite: bool) -> str:
    """How to go on with what Ctrl-C stopped."""
    command = "the same command" + " without --overwrite" * overwrite
    return f"stopped; go on with {command}" + ("" if given else f" and --out {shlex.quote(str(path))}")


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
        The file to write; a report that is there is replaced, another file is not.
    data
        Where the runs' data are now, if they were moved.
    """
    from onelayer.cli.screen import Screen

    if not _write_report(Screen(), paths, out, data):
        sys.exit(1)


def _write_report(screen: "Screen", paths: list[Path], out: Path, data: str | None) -> bool:
    """Write a report and say so; whether nothing had to be left out."""
    from onelayer.files import is_report, require_own, write_over
    from onelayer.pictures.page import ignore_styles
    from onelayer.report.html import read_subject, render

    ignore_styles()
    require_own(out, is_report)  # before the work
    subject = read_subject(paths)
    with screen.working("drawing") as progress:
        page = render(subject, lambda plan: plan.load_splits(data), progress).encode()
    write_over(out, page, is_report)
    for problem in subject.problems:
        screen.say(f"left out: {problem}")
    screen.say(f"{out}: {len(page) / 1e6:.1f} MB")
    return not subject.problems


@app.command(usage="Usage: onelayer diagnose --setting RATE,LAMBDA FIGURE... [--setting ...]")
def diagnose(*words: Annotated[str, Parameter(name="FIGURE", allow_leading_hyphen=True)]) -> None:
    """Rank known mistakes by how well they explain the figures of your own code.

    For example

        onelayer diagnose --setting 0.001,0 --test 28.6 \\
                          --setting 0.001,0.1 --test 33.2

    A setting is learning rate and lambda, one of 0.1,0 0.001,0 0.001,0.1 0.001,1,
    and the figures after it belong to it:

        --test 28.6                 accuracy in percent; at most 1 is a fraction
        --test-loss 2.65            loss in nats, without the penalty
        --test-cost 2.65            cost in nats, with the penalty
        --test-epoch-1 15.3         after the first epoch, not the last one;
        --test-loss-epoch-1 4.04    so with loss and cost

    and the same with train and validation. They are compared with CIFAR-10's:
    data_batch_1 trains, data_batch_2 validates, test_batch tests, 40 epochs in
    batches of 100.

    Parameters
    ----------
    words
        --setting and the options above, as many as you have.
    """
    from onelayer.cli.screen import Screen
    from onelayer.experiments.coursework.diagnosis import diagnose, parse

    Screen().diagnoses(diagnose(parse(words)))
