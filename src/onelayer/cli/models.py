"""The commands that evaluate and export a finished model."""

from pathlib import Path
from typing import Annotated, Literal

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.cli.options import DATA, RunArgument


@app.command
def evaluate(
    run_directory: RunArgument,
    /,
    *,
    data: Annotated[
        str | None,
        Parameter(
            group=DATA,
            help="Another source of rows, as --data of train takes it, with classes of the same names; "
            "or the new place of the run's own data.",
        ),
    ] = None,
    split: Annotated[
        Literal["train", "validation", "test", "all"] | None,
        Parameter(
            help="Rows to evaluate; all takes those of every split. "
            "By default test, but all if another source has no test part."
        ),
    ] = None,
) -> None:
    """Print loss, accuracy with its standard error, and accuracy by class."""
    from onelayer.analysis.evaluation import evaluate
    from onelayer.cli.results import print_evaluation
    from onelayer.cli.screen import Screen
    from onelayer.runs.directory import Run

    screen = Screen()
    run = Run.open(run_directory)
    plan, _ = run.read_checkpoint()
    model = run.model
    with screen.working("reading") as progress:
        rows, note = plan.rows_to_evaluate(data, split, model, progress)
    screen.notes(rows.dataset)
    if note:
        screen.say(f"note: {note}")
    evaluation = evaluate(model, rows)
    print_evaluation(screen, evaluation)


@app.command
def export(
    run_directory: RunArgument,
    out: Annotated[Path, Parameter(name="OUT")],
    /,
    *,
    format: Literal["onnx", "numpy", "sklearn"] | None = None,
) -> None:
    """Write a model for use without onelayer; it takes raw rows and returns probabilities.

    Parameters
    ----------
    out
        File to write: model.onnx, model.py (NumPy, with a .npz file), or model.joblib (scikit-learn; a pickle is code).
    format
        Format of the file; by default the ending of OUT decides.
    """
    from onelayer.cli.screen import Screen
    from onelayer.export import write
    from onelayer.runs.directory import Run

    screen = Screen()
    files = write(Run.open(run_directory).model, out, format)
    for file in files:
        screen.say(f"{file}: {file.stat().st_size / 1e3:,.0f} kB")
