"""The commands that answer for images and rows: predict and explain."""

import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.cli.options import OUTPUT, RunArgument
from onelayer.errors import ConfigError, DataError, RunError
from onelayer.words import counted, printable

if TYPE_CHECKING:  # imported in each command, so that --help stays fast
    from onelayer.analysis.prediction import Answer
    from onelayer.cli.screen import Screen
    from onelayer.model import Model
    from onelayer.runs.directory import Run


@app.command(usage="Usage: onelayer predict [OPTIONS] RUN PATH...")
def predict(
    run_directory: RunArgument,
    paths: Annotated[list[Path], Parameter(name="PATH")],
    /,
    *,
    csv: Annotated[Path | None, Parameter(group=OUTPUT)] = None,
    as_json: Annotated[bool, Parameter(name="--json", group=OUTPUT)] = False,
    threshold: float = 0.0,
    top: int = 3,
) -> None:
    """Classify images, or rows of numbers; exit 2 if one of them cannot be read.

    Parameters
    ----------
    paths
        PNG, JPEG, GIF, WebP, BMP, TIFF or PPM files, folders of them, or arrays and parquet files of rows.
    csv
        CSV file to write, with the label, the probability of each class and the errors; an earlier one is replaced.
    as_json
        Print JSON instead of tables.
    threshold
        Probability from 0 to 1 that a label needs; an answer below it has no label.
    top
        Number of classes to show for each image or row, the likeliest first; a CSV file has all classes.
    """
    from onelayer.analysis.prediction import holds_rows, predict_files
    from onelayer.cli.answers import entries, print_json, print_tables, write_csv
    from onelayer.cli.screen import Screen

    _require_positive(top)
    if not 0 <= threshold <= 1:
        example = threshold if 1 < threshold <= 100 else 50
        raise ConfigError(
            f"threshold {threshold:g} is not a probability from 0 to 1; for {example:g} %, pass {example / 100:g}"
        )
    if csv and as_json:
        raise ConfigError("--csv and --json exclude each other; pass one of them")
    screen = Screen()
    model = _opened("predict", run_directory, paths).model
    errors: list[str] = []
    shown = csv is not None or not sys.stdout.isatty()  # a bar and the text of answers do not share a terminal
    with screen.working("classifying", shown=shown) as progress:
        answers = _noting(predict_files(model, paths, progress), errors)
        if csv:
            said = write_csv(csv, answers, model, threshold, numbered=any(holds_rows(model, path) for path in paths))
        elif as_json:
            print_json(entries(answers, model, threshold, top))
        else:
            print_tables(screen, answers, model, threshold, top)
    for line in said if csv else []:
        screen.say(line)
    if not (csv or as_json):  # which hold every error
        for error in errors[:-1]:
            print(f"left out: {error}", file=sys.stderr)
        errors = errors[-1:]
    _raise(errors)


@app.command(usage="Usage: onelayer explain [OPTIONS] RUN IMAGE...")
def explain(
    run_directory: RunArgument,
    images: Annotated[list[Path], Parameter(name="IMAGE")],
    /,
    *,
    out: Annotated[Path, Parameter(name=["--out", "-o"], group=OUTPUT)] = Path("explanation.png"),
    top: int = 3,
) -> None:
    """Draw what each pixel of an image adds to the logits of the likeliest classes.

    Of a model on patches, print and draw what each window of the image adds, too.

    Parameters
    ----------
    images
        Image files in a format that predict reads.
    out
        PNG file to write, for several images with their numbers, as explanation-1.png; its own files are replaced.
    top
        Number of classes to show.
    """
    from onelayer.cli.screen import Screen
    from onelayer.files import is_explanation, require_own
    from onelayer.pictures.page import ignore_styles

    if out.suffix.lower() != ".png":
        raise ConfigError(f"{out}: explain writes a PNG; choose a name that ends in .png")
    _require_positive(top)
    model = _opened("explain", run_directory, images).model
    if model.image_shape is None:
        raise DataError(f"the model of {run_directory} was not trained on images; explain needs an image model")
    places = [out] if len(images) == 1 else [out.with_stem(f"{out.stem}-{n + 1}") for n in range(len(images))]
    for place in places:  # before the work
        require_own(place, is_explanation)
    ignore_styles()
    screen, errors = Screen(), list[str]()
    for image, place in zip(images, places, strict=True):
        try:
            _explain(screen, model, run_directory, image, place, top, named=len(images) > 1)
        except DataError as error:  # the other images are still explained
            errors.append(str(error))
    _raise(errors)


def _opened(command: str, run_directory: Path, paths: list[Path]) -> "Run":
    """Open a run, and say so if the run is one of the paths after it."""
    from onelayer.runs.directory import Run

    try:
        return Run.open(run_directory)
    except RunError:
        for path in paths:
            with suppress(RunError):
                Run.open(path)
                words = shlex.join(["onelayer", command, str(path), str(run_directory)])
                what = f"{run_directory} is not a run, but {path} is"
                raise ConfigError(f"{what}; the run comes first: {words}") from None
        raise


def _explain(
    screen: "Screen", model: "Model", run_directory: Path, image: Path, out: Path, top: int, *, named: bool
) -> None:
    """Draw an image, and print the logits of its likeliest classes."""
    from onelayer.analysis.explanation import explain
    from onelayer.cli.results import print_explanation
    from onelayer.data.untrusted.images import read_image
    from onelayer.files import EXPLAINED, is_explanation, png, write_over
    from onelayer.pictures.explanation import explanation

    assert model.image_shape is not None  # noqa: S101, for mypy
    row, note = read_image(image, model.image_shape, model.fit)
    explained = explain(model, row, top)
    names = [model.class_names[k] for k in explained.classes]
    part = "pixel" if explained.windows is None else "window and pixel"
    title = f"What each {part} adds to the logits: {image} by the model of {run_directory}"
    figure = explanation(row.reshape(model.image_shape), explained, names, printable(title, 300))
    write_over(out, png(figure, EXPLAINED), is_explanation)
    if named:
        screen.say(str(image))
    if note:
        screen.say(f"note: {note}")
    print_explanation(screen, explained, names)
    screen.say(str(out))


def _noting(answers: "Iterable[Answer]", errors: list[str]) -> "Iterator[Answer]":
    """Yield the answers, and add their errors to a list; stop when nobody reads the output any more."""
    for answer in answers:
        if getattr(sys.stdout, "unread", False):
            break
        if answer.error:
            errors.append(answer.error)
        yield answer


def _raise(errors: list[str]) -> None:
    if errors:
        more = f" (and {counted(len(errors) - 1, 'file')} more)" if len(errors) > 1 else ""
        raise DataError(errors[0] + more)


def _require_positive(top: int) -> None:
    if top < 1:
        raise ConfigError(f"top {top} is not a whole number of at least 1")
