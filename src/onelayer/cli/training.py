"""The commands that train, resume and draw a run: train, resume and figures."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.cli.options import (
    TRAINING,
    ConfigFile,
    Data,
    Division,
    MovedData,
    NoFigures,
    OutDirectory,
    Overwrite,
    Preset,
    Quiet,
    RunArgument,
    Source,
    Training,
)
from onelayer.cli.stops import resumable
from onelayer.config import SourceConfig, SplitConfig, TrainConfig
from onelayer.errors import ConfigError
from onelayer.words import counted

if TYPE_CHECKING:  # imported in each command, so that --help stays fast
    from onelayer.cli.screen import Screen
    from onelayer.data.dataset import Splits
    from onelayer.processes import Processes
    from onelayer.runs.directory import Run
    from onelayer.runs.plan import Plan
    from onelayer.training.state import TrainingResult


@app.command
def train(
    *,
    data: Data = "auto",
    source_config: Source = SourceConfig(),
    split_config: Division = SplitConfig(),
    config: Training = TrainConfig(),
    preset: Preset = None,
    out: OutDirectory = None,
    overwrite: Overwrite = False,
    no_figures: NoFigures = False,
    quiet: Quiet = False,
    config_file: ConfigFile = None,
) -> None:
    """Train a classifier and write a run directory with its model, curves and pictures.

    Parameters
    ----------
    out
        Run directory to write; by default the next free one in runs/.
    """
    from onelayer.cli.together import together

    with together({"the settings": (config, split_config, source_config)}) as processes:
        _train(processes, data, source_config, split_config, config, preset, out, overwrite, no_figures, quiet)


def _train(
    processes: "Processes",
    data: str,
    source_config: SourceConfig,
    split_config: SplitConfig,
    config: TrainConfig,
    preset: str | None,
    out: Path | None,
    overwrite: bool,
    no_figures: bool,
    quiet: bool,
) -> None:
    from onelayer.cli.notes import note_on_batches, note_on_penalty, without_preset
    from onelayer.cli.screen import Screen
    from onelayer.data import load_splits
    from onelayer.kernel import kernel
    from onelayer.runs.claim import claimed
    from onelayer.runs.directory import Run, followed
    from onelayer.runs.plan import Plan
    from onelayer.runs.training import start
    from onelayer.training.state import Problem, warn_of_units

    screen = Screen(quiet or processes.rank > 0)
    if out and not processes.rank:
        Run(out).require_room(overwrite)
    with screen.working("reading") as progress:
        splits = load_splits(data, split_config, source_config=source_config, progress=progress, processes=processes)
    config = without_preset(screen, config, preset, data, splits)
    dataset = splits.dataset
    source_config = replace(source_config, fit=dataset.fit or "auto")
    plan = Plan(config, split_config, dataset.source, dataset.fingerprint, source_config)
    with screen.working("computing features") as progress:
        problem = Problem.of(splits, config, progress=progress)  # refuses bad settings before a directory is made
    warn_of_units(splits)
    with (
        followed(processes) as follower,
        claimed(follower.path if follower else out, Path("runs") / splits.dataset.name.lower()) as path,
    ):
        run = follower or Run.create(path, overwrite=overwrite)
        screen.data(splits, classes=True)
        screen.features(problem.features)
        if config.backend == "auto" and kernel is None:
            screen.say("note: onelayer was installed without a C++ compiler; NumPy does the arithmetic and is slower")
        note_on_batches(screen, splits, [config])
        note_on_penalty(screen, [config])
        say_if_weighted(screen, plan)
        with resumable(run):
            with screen.training(0, config.epochs, holds_out=splits.holds_out) as on_epoch:
                result = start(run, plan, problem, on_epoch)
            finish(screen, run, plan, splits, result, no_figures)


@app.command
def resume(
    run_directory: RunArgument,
    /,
    *,
    data: MovedData = None,
    epochs: Annotated[int | Literal["auto"] | None, Parameter(group=TRAINING)] = None,
    tol: Annotated[float | None, Parameter(group=TRAINING)] = None,
    max_passes: Annotated[int | None, Parameter(group=TRAINING)] = None,
    device: Annotated[str | None, Parameter(group=TRAINING)] = None,
    no_figures: NoFigures = False,
    quiet: Quiet = False,
) -> None:
    """Continue an interrupted run; the result has the same bits as that of an uninterrupted one.

    Parameters
    ----------
    epochs
        Epochs in all, of those done and those to come; by default as many as the run was made for.
    tol
        Gap at which converged ends, as a share of the lowest cost possible; by default that of the run.
    max_passes
        Passes over the training rows in all, after which converged ends in any case; by default those of the run.
    device
        Device, by default that of the run; another one may give other last digits. A GPU implies the backend torch.
    """
    from onelayer.cli.together import together

    asked = {"tol": tol, "max_passes": max_passes, "device": device}
    with together({"the settings": (epochs, asked)}) as processes:
        _resume(processes, run_directory, data, epochs, asked, no_figures, quiet)


def _resume(
    processes: "Processes",
    run_directory: Path,
    data: str | None,
    epochs: int | Literal["auto"] | None,
    asked: dict[str, Any],
    no_figures: bool,
    quiet: bool,
) -> None:
    from onelayer.cli.screen import Screen
    from onelayer.runs import training as runs
    from onelayer.runs.claim import claimed
    from onelayer.runs.directory import Run, followed
    from onelayer.training.history import columns_of, noun_of

    screen = Screen(quiet or processes.rank > 0)
    with (
        followed(processes, lambda: Run.open(run_directory).checkpoint_path.read_bytes()) as follower,
        claimed(follower.path if follower else Run.open(run_directory).path) as path,
    ):
        run = follower or Run.open(path)
        plan, state = run.read_checkpoint()
        runs.require_resumable(run)
        if epochs is not None and plan.config.solver == "converged":
            raise ConfigError(f"{run.path} has no epochs: the solver converged goes on to its end; leave out --epochs")
        config = runs.changed(plan.config, epochs=epochs, **asked)
        with screen.working("reading") as progress:
            splits = plan.load_splits(data, progress, processes)
        screen.data(splits)
        target = plan.config.epochs if epochs is None else epochs
        longer = "; pass --epochs to train for more" if plan.config.solver == "sgd" else ""
        what = f"going on to {target}" if target != state.epoch else f"all of them{longer}"
        if target == "auto":
            unchanged = epochs is asked["tol"] is asked["max_passes"] is None
            what = f"{state.ended}{longer}" if unchanged and state.ended else "going on"
        if target == "auto" or target >= state.epoch:  # resuming refuses fewer
            done = counted(state.epoch, noun_of(columns_of(state.history)))
            screen.say(f"{run.path}: {done} done, {what}")
        say_if_weighted(screen, plan)
        before, now = (f"torch on {of.device}" if of.backend == "torch" else of.backend for of in (plan.config, config))
        if now != before:
            screen.say(f"note: the run was trained by {before} so far; {now} may give other last digits")
        with resumable(run):
            with (
                screen.working("computing features") as progress,
                screen.training(state.epoch, target, holds_out=splits.holds_out) as on_epoch,
            ):
                result = runs.resume(run, splits, epochs, on_epoch, **asked, progress=progress)
            plan, _ = run.read_checkpoint()
            finish(screen, run, plan, splits, result, no_figures)


@app.command
def figures(run_directory: RunArgument, /, *, data: MovedData = None) -> None:
    """Draw the pictures of a run again."""
    from onelayer.cli.screen import Screen
    from onelayer.experiments.lambdas import draw_path
    from onelayer.pictures.finished import draw_run
    from onelayer.runs.directory import Run

    screen = Screen()
    run = Run.open(run_directory)
    plan, state = run.read_checkpoint()
    model = run.model
    with screen.working("reading") as progress:
        splits = plan.load_splits(data, progress)
    with screen.working("drawing") as progress:
        draw_run(run, plan, state.history, model, splits, progress)
        draw_path(run, plan, splits)
    screen.files(run.path)


def say_if_weighted(screen: "Screen", plan: "Plan") -> None:
    """Say that the figures of the epochs to come are of weighted rows, if they are."""
    from onelayer.training.class_weights import BY_CLASS

    if plan.config.class_weight != "none":
        noun = "iterations" if plan.config.solver == "converged" else "epochs"
        screen.say(f"figures of the {noun}: {BY_CLASS}; in the tables, all rows count alike")


def finish(
    screen: "Screen", run: "Run", plan: "Plan", splits: "Splits", result: "TrainingResult", no_figures: bool
) -> None:
    """Judge, draw and print a finished training; of several processes, rank 0 does so, and all certify."""
    from onelayer.analysis.advice import PATH_OF_L2
    from onelayer.analysis.certification import certificate_summary, certify_if_useful
    from onelayer.analysis.judgement import judge
    from onelayer.cli.results import print_certificate, print_result
    from onelayer.experiments.lambdas import draw_path, read_path

    with screen.working("certifying") as progress:
        certificate = certify_if_useful(result.model, splits, plan.config, progress)
    if splits.dataset.processes.rank:
        return
    judgement, found = judge(result, splits, plan.config), read_path(run)
    if judgement and found:  # the path is what it would advise
        judgement = replace(judgement, advice=[said for said in judgement.advice if PATH_OF_L2 not in said])
    certified = {"certificate": certificate_summary(certificate)} if certificate else {}
    of_path = {"path": found.summary()} if found else {}
    run.add_to_summary((judgement.summary if judgement else {}) | certified | of_path)
    if not no_figures:
        from onelayer.pictures.finished import draw_run  # matplotlib, which it loads, takes a second

        with screen.working("drawing") as progress:
            of_test = judgement.evaluation if judgement and splits.test.weight > 0 else None
            draw_run(run, plan, result.state.history, result.model, splits, progress, evaluation=of_test)
            draw_path(run, plan, splits)
    print_result(screen, splits, result, judgement)
    if certificate:
        print_certificate(screen, certificate, run, plan.config, result.state.history)
    screen.files(run.path)
