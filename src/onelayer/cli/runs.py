"""The command that lists runs."""

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from onelayer.cli.app import app, canonical
from onelayer.config import settings_of_others
from onelayer.words import counted, printable, spaced, typed

if TYPE_CHECKING:  # imported in the command, so that --help stays fast
    from onelayer.runs.listing import ListedRun

WIDEST = ("data", "seconds", "train (%)", "settings")  # columns that a narrow terminal does not show, the first first


@app.command(usage="Usage: onelayer runs [OPTIONS] [FOLDER]")
def runs(
    folder: Annotated[Path, Parameter(name="FOLDER")] = Path("runs"),
    /,
    *,
    sort: str = "date",
    sweeps: bool = False,
) -> None:
    """List the runs in a folder with their data, settings and figures.

    Parameters
    ----------
    folder
        Folder of runs, or a sweep or a study.
    sort
        Column or setting to sort by; the newest date or the best accuracy is first, other values from the least on.
    sweeps
        List the runs of sweeps and studies too.
    """
    from onelayer.cli.screen import Screen
    from onelayer.runs.listing import list_runs, settings_that_differ, sort_runs

    found, left_out = list_runs(folder, sweeps=sweeps)
    complete = sort_runs([run for run in found if not run.problem], canonical(f"--{sort}")[2:])
    screen = Screen()
    if complete:
        names = settings_that_differ(complete)
        weighted = any(run.settings.get("class_weight", "none") != "none" for run in complete)
        figures = ["train", "validation", "test", *["balanced"] * weighted]
        columns = ["run", "date", "data", "settings", *(f"{name} (%)" for name in figures), "loss", "seconds"]
        rows = [dict(zip(columns, _row(run, names, figures), strict=True)) for run in complete]
        shown = screen.fitting(rows, WIDEST)
        words = len({*columns[:4]} & {*shown})
        screen.table(*shown, rows=[[row[name] for name in shown] for row in rows], words=words)
        differing = "settings: those in which the runs differ; " * ("settings" in shown)
        screen.say(f"{differing}loss: of the validation rows, in nats")
        if missing := [name for name in columns if name not in shown]:
            screen.say(f"left out: {', '.join(missing)}; onelayer runs | cat shows all")
        if weighted:
            screen.say("balanced: the balanced accuracy of the test rows, or of the validation rows without test rows")
    elif not found:
        screen.say(f"{folder}: holds no runs")
    for run in found:
        if run.problem:
            screen.say(f"note: {run.problem}")
    if left_out:
        screen.say(f"left out: {counted(left_out, 'folder')} of sweeps and studies; pass --sweeps, or pass one of them")


def _row(run: "ListedRun", names: tuple[str, ...], figures: list[str]) -> list[str]:
    foreign = settings_of_others(str(run.settings.get("solver")))
    values = [(spaced(name), run.settings.get(name)) for name in names if name not in foreign]
    settings = ", ".join(f"{name} {_word(value)}" for name, value in values if value is not None)
    accuracies = [run.values.get(name) for name in figures]
    return [
        printable(str(run.path), 300),
        f"{run.values['date']:%Y-%m-%d %H:%M}",
        printable(run.values["data"]),
        printable(settings, 300),
        *("-" if accuracy is None else f"{100 * accuracy:.2f}" for accuracy in accuracies),
        f"{run.values['loss']:.4f}",
        f"{run.values['seconds']:.1f}",
    ]


def _word(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else typed(value)
