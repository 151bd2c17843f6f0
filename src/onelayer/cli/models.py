"""The commands that use a finished model: evaluate, predict, explain and export."""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.cli.options import DATA, OUTPUT, RunArgument
from onelayer.errors import ConfigError, DataError, UnitWarning
from onelayer.words import counted, printable

if TYPE_CHECKING:  # imported in each command, so that --help stays fast
    import numpy as np

    from onelayer.model import Model


ROWS_AT_ONCE = 4096  # classified


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


@app.command(usage="Usage: onelayer predict [OPTIONS] RUN FILE...")
def predict(
    run_directory: RunArgument,
    images: Annotated[list[Path], Parameter(name="FILE")],
    /,
    *,
    top: int = 3,
    as_json: Annotated[bool, Parameter(name="--json")] = False,
) -> None:
    """Classify images, or rows of numbers.

    Parameters
    ----------
    images
        PNG, JPEG, GIF, WebP, BMP, TIFF or PPM files, which are resized to the model's shape; or .npy files of rows.
    top
        Number of classes to show for each image or row, the likeliest first.
    as_json
        Print JSON instead of tables.
    """
    from onelayer.cli.results import print_classes
    from onelayer.cli.screen import Screen
    from onelayer.runs.directory import Run

    _require_positive(top)
    screen = Screen()
    model = Run.open(run_directory).model
    top = min(top, len(model.class_names))
    answers: list[dict[str, object]] = []
    problems = []
    for path in images:
        try:
            rows, note = _rows_to_classify(path, model, run_directory)
        except DataError as error:  # the other files still get answers
            problems.append(str(error))
            answers.append({"image": str(path), "error": str(error)})
            continue
        ranking = list(_ranked_classes(model, rows, top))
        for row, classes in enumerate(ranking):
            place = {"row": row} if _is_array(path) else {}
            found = {"class": next(iter(classes)), "probabilities": classes}
            answers.append({"image": str(path), **place, "note": note, **found})
        if not as_json:
            if len(answers) > len(rows):
                screen.say("")
            if note:
                screen.say(f"note: {note}")
            print_classes(screen, str(path), ranking, numbered=_is_array(path))
    if as_json:
        _print_json(answers)
    if problems:
        more = f" (and {counted(len(problems) - 1, 'file')} more)" if len(problems) > 1 else ""
        raise DataError(problems[0] + more)


@app.command
def explain(
    run_directory: RunArgument,
    image: Annotated[Path, Parameter(name="IMAGE")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], group=OUTPUT)] = Path("explanation.png"),
    top: int = 3,
) -> None:
    """Draw what each pixel of an image adds to the logits of the likeliest classes.

    Parameters
    ----------
    image
        Image file in a format that predict reads.
    out
        PNG file to write; a file that explain wrote before is replaced.
    top
        Number of classes to show.
    """
    from onelayer.analysis.explanation import explain
    from onelayer.cli.results import print_explanation
    from onelayer.cli.screen import Screen
    from onelayer.data.untrusted.images import read_image
    from onelayer.files import EXPLAINED, is_explanation, png, write_over
    from onelayer.pictures.explanation import explanation
    from onelayer.pictures.page import ignore_styles
    from onelayer.runs.directory import Run

    if out.suffix.lower() != ".png":
        raise ConfigError(f"{out}: explain writes a PNG; choose a name that ends in .png")
    screen = Screen()
    _require_positive(top)
    model = Run.open(run_directory).model
    if model.image_shape is None:
        raise DataError(f"the model of {run_directory} was not trained on images; explain needs an image model")
    row, note = read_image(image, model.image_shape, model.fit)
    explained = explain(model, row, top)
    names = [model.class_names[k] for k in explained.classes]
    title = f"What each pixel adds to the logits: {image} by the model of {run_directory}"
    ignore_styles()
    figure = explanation(row.reshape(model.image_shape), explained, names, printable(title, 300))
    write_over(out, png(figure, EXPLAINED), is_explanation)
    if note:
        screen.say(f"note: {note}")
    print_explanation(screen, explained, names)
    screen.say(str(out))


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


def _print_json(answers: list[dict[str, object]]) -> None:
    """Print answers as JSON, without rich, which would wrap and colour them."""
    text = json.dumps(answers, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        text = json.dumps(answers, indent=2)
    print(text)


def _is_array(path: Path) -> bool:
    return path.suffix.lower() == ".npy"


def _require_positive(top: int) -> None:
    if top < 1:
        raise ConfigError(f"top {top} is not a whole number of at least 1")


def _rows_to_classify(path: Path, model: "Model", run_directory: Path) -> "tuple[np.ndarray, str | None]":
    """Return the rows (n, d) of a .npy file, or an image as one row; and a note on them, if there is one."""
    from onelayer.data.formats.arrays import read_rows
    from onelayer.data.untrusted.images import read_image

    if _is_array(path):
        rows, note = read_rows(path, model.features.d_in, model.image_shape), None
    elif model.image_shape is None:
        raise DataError(f"the model of {run_directory} was not trained on images; pass a .npy file of rows")
    else:
        row, note = read_image(path, model.image_shape, model.fit)
        rows = row[None]
    doubt = model.doubt(rows)
    if isinstance(doubt, UnitWarning):
        raise DataError(f"{path}: {doubt}")
    notes = [*filter(None, [note]), *([f"{path}: {doubt}"] if doubt else [])]
    return rows, "; ".join(notes) or None


def _ranked_classes(model: "Model", rows: "np.ndarray", top: int) -> Iterator[dict[str, float]]:
    """Yield names and probabilities of the likeliest classes of each row, the likeliest first."""
    from onelayer.layer import ranked

    for start in range(0, len(rows), ROWS_AT_ONCE):
        S = model.unchecked_logits(rows[start : start + ROWS_AT_ONCE])
        for logits, probabilities in zip(S, model.layer.loss.probabilities(S), strict=True):
            yield {model.class_names[k]: float(probabilities[k]) for k in ranked(logits)[:top]}
