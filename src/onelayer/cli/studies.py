"""The commands over many runs: compare, study, report and diagnose."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.cli.stops import repeatable
from onelayer.config import SplitConfig
from onelayer.words import percent

if TYPE_CHECKING:  # each command loads the rooms that it needs, --help none
    from onelayer.cli.screen import Screen
    from onelayer.data.dataset import Splits

RunArgument = Annotated[Path, Parameter(name="RUN")]


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
    from onelayer.cli.results import print_comparison
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
    print_comparison(screen, comparison)


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
        with repeatable(path, given=out is not None, overwrite=overwrite), screen.sweeping() as on_progress:
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
    from onelayer.cli.results import print_diagnoses
    from onelayer.cli.screen import Screen
    from onelayer.experiments.coursework.diagnosis import diagnose, parse

    print_diagnoses(Screen(), diagnose(parse(words)))
