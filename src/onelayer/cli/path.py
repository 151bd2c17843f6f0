"""The command that goes to the optimum for each lambda of a grid and chooses one."""

from dataclasses import dataclass, field, fields, make_dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.cli.options import (
    RUNS,
    TRAINING,
    ConfigFile,
    Data,
    Division,
    NoFigures,
    OutDirectory,
    Overwrite,
    Quiet,
    Source,
)
from onelayer.cli.stops import repeated_as_a_whole, resumable
from onelayer.cli.training import finish, say_if_weighted
from onelayer.config import PATH_L2, SOLVER_SETTINGS, SourceConfig, SplitConfig, TrainConfig

AFRESH = (
    "the model is trained afresh for l2 {:g}, as onelayer train --solver converged does{}, so that its figures may "
    "differ a little from the table"
)

if TYPE_CHECKING:  # imported in each command, so that --help stays fast
    from onelayer.cli.screen import Screen
    from onelayer.experiments.lambdas import LambdaPath

    Common = Any  # has those fields of TrainConfig that do not differ along a path and that the solver has
else:
    LEFT_OUT = ("solver", "l2", "seed", "threads", *SOLVER_SETTINGS["sgd"])
    Common = make_dataclass(
        "Common", [(f.name, f.type, f.default) for f in fields(TrainConfig) if f.name not in LEFT_OUT], frozen=True
    )
    Common.__module__, Common.__doc__ = __name__, TrainConfig.__doc__


@dataclass(frozen=True, kw_only=True)
class Choice:
    """Settings of a path.

    Parameters
    ----------
    l2
        Weights lambda of the penalty lambda ||W||^2, at least two, in any order (also --lam, --lambda).
    select
        Score of the validation rows that chooses a lambda.
    one_standard_error
        Choose the largest lambda whose score is at most one standard error worse than the best.
    """

    l2: Annotated[list[float], Parameter(consume_multiple=True)] = field(default_factory=lambda: [*PATH_L2])
    select: Literal["loss", "accuracy"] = "loss"
    one_standard_error: bool = False


@app.command
def path(
    *,
    data: Data = "auto",
    source_config: Source = SourceConfig(),
    split_config: Division = SplitConfig(),
    options: Annotated[Common, Parameter(name="*", group=TRAINING)] = Common(),  # noqa: B008, nothing changes it
    choice: Annotated[Choice, Parameter(name="*", group=RUNS)] = Choice(),
    out: OutDirectory = None,
    overwrite: Overwrite = False,
    no_figures: NoFigures = False,
    quiet: Quiet = False,
    config_file: ConfigFile = None,
) -> None:
    """Go to the optimum for each lambda of a grid; the validation rows choose one, and its model becomes a run.

    The test rows are read at the end, for the chosen lambda only.

    Parameters
    ----------
    out
        Run directory to write; by default the next free one in runs/.
    """
    from onelayer.cli.screen import Screen
    from onelayer.data import load_splits
    from onelayer.experiments import path as paths
    from onelayer.runs.claim import claimed
    from onelayer.runs.directory import Run
    from onelayer.runs.plan import Plan
    from onelayer.training.state import warn_of_units

    screen = Screen(quiet)
    l2s = paths.require_grid(choice.l2)  # refuses bad ones before it reads
    config = TrainConfig(solver="converged", **{f.name: getattr(options, f.name) for f in fields(options)})
    apart = replace(split_config, refit=False)  # until validation has chosen
    if out:
        Run(out).require_room(overwrite)
    with screen.working("reading") as progress:
        splits = load_splits(data, apart, source_config=source_config, progress=progress)
    dataset = splits.dataset
    source_config = replace(source_config, fit=dataset.fit or "auto")
    plan = Plan(config, split_config, dataset.source, dataset.fingerprint, source_config)
    with screen.working("computing features") as progress:
        paths.problem_of(splits, config, progress)  # refuses unfit rows before a directory is made
    warn_of_units(splits)
    with claimed(out, Path("runs") / dataset.name.lower()) as directory:
        run = Run.create(directory, overwrite=overwrite)
        screen.data(splits, classes=True)
        say_if_weighted(screen, plan)
        with screen.working("solving") as progress, repeated_as_a_whole():
            found = paths.solve_path(splits, config, l2s, choice.select, choice.one_standard_error, progress=progress)
        print_path(screen, found)
        together = ", on the training and validation rows together" * split_config.refit
        screen.say(AFRESH.format(found.chosen.l2, together))
        with resumable(run):
            with screen.training(0, "auto", holds_out=not split_config.refit) as on_epoch:
                plan, rows, result = paths.train_chosen(run, found, plan, splits, on_epoch)
            finish(screen, run, plan, rows, result, no_figures)


def print_path(screen: "Screen", found: "LambdaPath") -> None:
    """Print the points of a path, the chosen lambda and the notes."""
    from onelayer.experiments.lambdas import COLUMNS, GAP

    screen.say("")
    screen.table(*COLUMNS, rows=found.in_words())
    screen.say(GAP)
    screen.say(f"* {found.choice_in_words()}")
    for note in found.notes:
        screen.say(f"note: {note}")
    screen.say("")
