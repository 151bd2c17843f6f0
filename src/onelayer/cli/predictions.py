"""The commands that answer for images and rows: predict and explain."""

import sys
import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from onelayer.cli.app import app
from onelayer.cli.options import OUTPUT, RunArgument
from onelayer.errors import ConfigError, DataError
from onelayer.words import counted, percent, printable

if TYPE_CHECKING:  # imported in each command, so that --help stays fast
    from onelayer.analysis.prediction import Answer
    from onelayer.cli.screen import Screen
    from onelayer.model import Model

ANSWERS_AT_ONCE = 1000  # in a table
TABLE_EACH = 10  # images at most that are shown in a table each, and not in a line


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
        PNG, JPEG, GIF, WebP, BMP, TIFF or PPM files, folders of them, or .npy or .parquet files of rows.
    csv
        CSV file to write, with the label, the probability of each class and the errors; an earlier one is replaced.
    as_json
        Print JSON instead of tables.
    threshold
        Probability from 0 to 1 that a label needs; an answer below it has no label.
    top
        Number of classes to show for each image or row, the likeliest first; a CSV file has all classes.
    """
    from onelayer.analysis.prediction import is_table, predict_files
    from onelayer.cli.screen import Screen
    from onelayer.runs.directory import Run

    _require_positive(top)
    if not 0 <= threshold <= 1:
        raise ConfigError(f"threshold {threshold:g} is not a probability from 0 to 1; for 50 %, pass 0.5")
    if csv and as_json:
        raise ConfigError("--csv and --json exclude each other; pass one of them")
    screen = Screen()
    model = Run.open(run_directory).model
    errors: list[str] = []
    shown = csv is not None or not sys.stdout.isatty()  # a bar and the text of answers do not share a terminal
    with screen.working("classifying", shown=shown) as progress:
        answers = _noting(predict_files(model, paths, progress), errors)
        if csv:
            said = _write_csv(csv, answers, model, threshold, numbered=any(map(is_table, paths)))
        elif as_json:
            _print_json(_entries(answers, model, threshold, top))
        else:
            _print_tables(screen, answers, model, threshold, top)
    for line in said if csv else []:
        screen.say(line)
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
    from onelayer.runs.directory import Run

    if out.suffix.lower() != ".png":
        raise ConfigError(f"{out}: explain writes a PNG; choose a name that ends in .png")
    _require_positive(top)
    model = Run.open(run_directory).model
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
    title = f"What each pixel adds to the logits: {image} by the model of {run_directory}"
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


def _write_csv(
    path: Path, answers: "Iterable[Answer]", model: "Model", threshold: float, *, numbered: bool
) -> list[str]:
    """Write a CSV file; return lines about it."""
    from onelayer.analysis.prediction import csv_header, csv_lines, is_predictions
    from onelayer.files import MARK_WITHIN, opened_to_write, require_own

    require_own(path, is_predictions, MARK_WITHIN)
    notes, unsure, count = _Notes(), 0, 0

    def watched() -> "Iterator[Answer]":
        nonlocal unsure, count
        for answer in answers:
            notes.add(answer.note)
            unsure += answer.label is not None and not _is_sure(answer, threshold)
            count += 1
            yield answer

    with opened_to_write(path) as file:
        file.write(csv_header(model.class_names, numbered=numbered).encode())
        for line in csv_lines(watched(), model.class_names, numbered=numbered, threshold=threshold):
            file.write(line.encode("utf-8", "backslashreplace"))  # a file's name can have bytes that are not UTF-8
    below = f", {unsure:,} of them without a label, below {percent(threshold)}" if unsure else ""
    return [*notes.lines(), f"{path}: {counted(count, 'answer')}{below}"]


class _Notes:
    """A sum of notes: the first, and the number of others."""

    def __init__(self) -> None:
        self.first, self.last, self.others = "", "", 0

    def add(self, note: str) -> None:
        """Count a note; the rows of a file have the same."""
        if note and note != self.last:
            self.others += bool(self.first)
            self.first, self.last = self.first or note, note

    def lines(self) -> list[str]:
        """Return the line to print, if there is one."""
        more = f" (and {counted(self.others, 'file')} more)" if self.others else ""
        return [f"note: {self.first}{more}"] if self.first else []


def _is_sure(answer: "Answer", threshold: float) -> bool:
    return answer.probabilities is not None and bool(answer.probabilities[answer.label] >= threshold)


def _entries(answers: "Iterable[Answer]", model: "Model", threshold: float, top: int) -> Iterator[dict[str, object]]:
    """Yield each answer as a table for JSON."""
    for answer in answers:
        place: dict[str, object] = {"image": answer.path} | ({} if answer.row is None else {"row": answer.row})
        if answer.error:
            yield place | {"error": answer.error}
        else:
            found = _probabilities(answer, model, top)
            label = next(iter(found)) if _is_sure(answer, threshold) else None
            yield place | {"note": answer.note or None, "class": label, "probabilities": found}


def _probabilities(answer: "Answer", model: "Model", top: int) -> dict[str, float]:
    """Return names and probabilities of the likeliest classes, the likeliest first."""
    P = answer.probabilities
    return {} if P is None else {model.class_names[k]: float(P[k]) for k in answer.classes(top)}


def _print_json(entries: Iterable[dict[str, object]]) -> None:
    """Print a list as JSON, an entry at a time."""
    from onelayer.cli.screen import json_text

    before = "[\n"
    for entry in entries:
        print(before + textwrap.indent(json_text(entry), "  "), end="")
        before = ",\n"
    print("\n]")


def _print_tables(screen: "Screen", answers: "Iterable[Answer]", model: "Model", threshold: float, top: int) -> None:
    """Print a table for each of a few images, or a line for each image or row."""
    spaced = False
    for path, some in groupby(answers, lambda answer: None if answer.row is None else answer.path):
        each, some = None, iter(some)
        while block := list(islice(some, ANSWERS_AT_ONCE)):
            each = path is None and len(block) <= TABLE_EACH if each is None else each
            for part in [[answer] for answer in block] if each else [block]:
                if spaced:
                    screen.say("")
                spaced = True
                _print_table(screen, part, path or "", model, threshold, top, each=each)


def _print_table(
    screen: "Screen",
    answers: "list[Answer]",
    title: str,
    model: "Model",
    threshold: float,
    top: int,
    *,
    each: bool,
) -> None:
    """Print the table of an image, or of several images or rows."""
    notes = _Notes()
    rows = []
    for answer in answers:
        if answer.error:
            screen.say(f"left out: {answer.error}")
            continue
        notes.add(answer.note)
        pairs = [[name, percent(p)] for name, p in _probabilities(answer, model, top).items()]
        sure = _is_sure(answer, threshold)
        if each:
            rows = pairs
            if not sure:
                notes.add(f"no label, as {pairs[0][1]} is below {percent(threshold)}")
        else:
            place = answer.path if answer.row is None else str(answer.row)
            label = [pairs[0][0] if sure else ""] if threshold else []
            rows.append([place, *label, *(word for pair in pairs for word in pair)])
    for line in notes.lines():
        screen.say(line)
    if each and rows:
        screen.table(answers[0].path, "probability", rows=rows)
    elif rows:
        columns = [title, *["label"] * bool(threshold), *["class", "probability"] * min(top, len(model.class_names))]
        print(_aligned([columns, *rows]))


def _aligned(rows: list[list[str]]) -> str:
    """Return a table as text; `Screen.table` takes a millisecond for each row."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, column)) for column in zip(*rows, strict=True)]
    lines = []
    for row in rows:
        first, *others = (" " * (width - cell_len(cell)) for cell, width in zip(row, widths, strict=True))
        cells = [row[0] + first, *(space + cell for space, cell in zip(others, row[1:], strict=True))]
        lines.append("  ".join(cells).rstrip())
    return "\n".join(lines)
