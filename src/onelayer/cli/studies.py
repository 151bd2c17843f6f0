"""The commands that use several runs or their figures: compare, study, report and diagnose."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.cli.options import (
    DATA,
    OUTPUT,
    RUNS,
    FirstSeed,
    MovedData,
    OutDirectory,
    Overwrite,
    Quiet,
    Workers,
)
from onelayer.cli.stops import repeatable
from onelayer.config import SplitConfig
from onelayer.errors import ConfigError
from onelayer.words import percent

if TYPE_CHECKING:  # imported in each command, so that --help stays fast
    from onelayer.cli.screen import Screen
    from onelayer.data.dataset import Splits


StudyName = Annotated[
    Literal["coursework", "bonus", "all-data", "flips", "decay", "sigmoid", "grid"],
    Parameter(
        help="Study to run. coursework: the four settings of the report; all-data, flips, decay, sigmoid: effect "
        "of one change on the test accuracy; grid: validation chooses among settings; bonus: all except coursework."
    ),
]


@app.command
def compare(
    a: Annotated[Path, Parameter(name="A")],
    b: Annotated[Path, Parameter(name="B")],
    /,
    *,
    data: MovedData = None,
    split: Literal["test", "validation"] | None = None,
) -> None:
    """Test whether B is better than A, or whether noise can explain the difference.

    Parameters
    ----------
    a
        Run directory, or folder of the runs of one setting, such as SWEEP/runs/002 of a sweep.
    b
        Run directory or folder of runs to compare with A; several runs are matched by seed.
    split
        Rows to compare on; by default test, but validation if a run has not read its test rows.
    """
    from onelayer.cli.results import print_comparison
    from onelayer.cli.screen import Screen
    from onelayer.experiments.pairing import compare_runs, find_runs, pair, rows_to_compare

    screen = Screen()
    runs_a, runs_b = find_runs(a), find_runs(b)
    pairing = pair(runs_a, runs_b)
    plan, _ = pairing.runs_a[0].read_checkpoint()
    with screen.working("reading") as progress:
        splits = plan.load_splits(data, progress)
    chosen, notes = rows_to_compare(pairing, split)
    for note in notes:
        screen.say(f"note: {note}")
    comparison = compare_runs(runs_a, runs_b, chosen, splits)
    screen.notes(splits.dataset)
    screen.say(f"{splits.dataset.name}, {chosen}: {comparison.rows:,} rows; {pairing.settings}")
    screen.say(f"A {a}: {percent(comparison.accuracy_a)}")
    screen.say(f"B {b}: {percent(comparison.accuracy_b)}")
    print_comparison(screen, comparison)


@app.command
def study(
    name: StudyName,
    /,
    *,
    data: Annotated[str, Parameter(group=DATA)] = "cifar10",
    seeds: Annotated[int, Parameter(group=RUNS)] = 10,
    seed: FirstSeed = 42,
    workers: Workers = 0,
    out: OutDirectory = None,
    overwrite: Overwrite = False,
    quiet: Quiet = False,
) -> None:
    """Run the coursework's settings or its bonus exercises with several seeds, and compare with its printed figures.

    The results are in one HTML file, report.html. The same command with --out continues a study.

    Parameters
    ----------
    seeds
        Number of runs of each setting, each with its own seed; at least 3.
    data
        Source of CIFAR-10: cifar10, or a path.
    out
        Study directory to write; by default the next free one in studies/.
    """
    from onelayer.cli.results import print_finding
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
        with repeatable(path, given=out is not None, overwrite=overwrite), screen.stages() as on_progress:
            findings = run_study(
                path,
                name,
                range(seed, seed + seeds),
                load,
                workers=workers,
                overwrite=overwrite,
                on_progress=on_progress,
            )
        for finding in findings:
            print_finding(screen, finding)
        screen.say("")
        screen.files(path)
        _write_report(screen, [path], path / "report.html", data)


@app.command(usage="Usage: onelayer report [OPTIONS] PATH...")
def report(
    paths: Annotated[list[Path], Parameter(name="PATH")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], group=OUTPUT)] = Path("report.html"),
    title: Annotated[str, Parameter(group=OUTPUT)] = "",
    author: Annotated[str, Parameter(group=OUTPUT)] = "",
    data: MovedData = None,
) -> None:
    """Write the curves, templates and mistakes of runs to one HTML file; exit 1 if a part had to be left out.

    Parameters
    ----------
    paths
        Run directories, or one sweep or study directory.
    out
        HTML file to write; an earlier report is replaced, another file is not.
    title
        Heading of the report; by default the name of the directory.
    author
        Name below the heading.
    """
    from onelayer.cli.screen import Screen

    if out.suffix.lower() not in (".html", ".htm"):
        pdf = "; for a PDF, print the report from a browser" if out.suffix.lower() == ".pdf" else ""
        raise ConfigError(f"{out}: report writes HTML; choose a name that ends in .html{pdf}")
    if not _write_report(Screen(), paths, out, data, title=title, author=author):
        sys.exit(1)


def _write_report(
    screen: "Screen", paths: list[Path], out: Path, data: str | None, *, title: str = "", author: str = ""
) -> bool:
    """Write a report and print its name and size; return whether it is complete."""
    from onelayer.files import is_report, require_own, write_over
    from onelayer.pictures.page import ignore_styles
    from onelayer.report.html import render
    from onelayer.report.subject import read_subject

    ignore_styles()
    require_own(out, is_report)  # before the work
    subject = read_subject(paths)
    with screen.working("drawing") as progress:
        page = render(subject, lambda plan: plan.load_splits(data), progress, title=title, author=author).encode()
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

    A setting is a learning rate and a lambda: 0.1,0 or 0.001,0 or 0.001,0.1 or
    0.001,1. The figures after a setting belong to it:

        --test 28.6                 accuracy in percent, or as a fraction up to 1
        --test-loss 2.65            loss in nats, without the penalty
        --test-cost 2.65            cost in nats, with the penalty
        --test-epoch-1 15.3         accuracy after the first epoch, not the last
        --test-loss-epoch-1 4.04    loss after the first epoch; cost likewise

    Use --train and --validation in the same way. The known figures are those of
    CIFAR-10 with data_batch_1 for training, data_batch_2 for validation and
    test_batch for testing, after 40 epochs in batches of 100.

    Parameters
    ----------
    words
        Settings and figures as above, as many as you have.
    """
    from onelayer.cli.results import print_diagnoses
    from onelayer.cli.screen import Screen
    from onelayer.experiments.coursework.diagnosis import diagnose, parse

    print_diagnoses(Screen(), diagnose(parse(words)))
