"""The answers of predict: as a CSV file, as JSON, and as tables."""

import textwrap
from collections.abc import Iterable, Iterator
from itertools import groupby, islice
from pathlib import Path

from onelayer.analysis.prediction import Answer, csv_header, csv_lines, is_predictions
from onelayer.cli.screen import Screen, json_text
from onelayer.files import MARK_WITHIN, opened_to_write, require_own
from onelayer.model import Model
from onelayer.words import counted, percent

ANSWERS_AT_ONCE = 1000  # in a table
TABLE_EACH = 10  # images at most that are shown in a table each, and not in a line


def write_csv(path: Path, answers: Iterable[Answer], model: Model, threshold: float, *, numbered: bool) -> list[str]:
    """Write a CSV file; return lines about it."""
    require_own(path, is_predictions, MARK_WITHIN)
    notes, unsure, count, errors = _Notes(), 0, 0, 0

    def watched() -> Iterator[Answer]:
        nonlocal unsure, count, errors
        for answer in answers:
            notes.add(answer.note)
            unsure += answer.label is not None and not _is_sure(answer, threshold)
            count += not answer.error
            errors += bool(answer.error)
            yield answer

    with opened_to_write(path) as file:
        file.write(csv_header(model.class_names, numbered=numbered).encode())
        for line in csv_lines(watched(), model.class_names, numbered=numbered, threshold=threshold):
            file.write(line.encode("utf-8", "backslashreplace"))  # a file's name can have bytes that are not UTF-8
    below = f", {unsure:,} of them without a label, below {percent(threshold)}" if unsure else ""
    failed = f"; {counted(errors, 'error')}" if errors else ""
    return [*notes.lines(), f"{path}: {counted(count, 'answer')}{below}{failed}"]


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


def _is_sure(answer: Answer, threshold: float) -> bool:
    return answer.probabilities is not None and bool(answer.probabilities[answer.label] >= threshold)


def entries(answers: Iterable[Answer], model: Model, threshold: float, top: int) -> Iterator[dict[str, object]]:
    """Yield each answer as a table for JSON."""
    for answer in answers:
        place: dict[str, object] = {"image": answer.path} | ({} if answer.row is None else {"row": answer.row})
        if answer.error:
            yield place | {"error": answer.error}
        else:
            found = _probabilities(answer, model, top)
            label = next(iter(found)) if _is_sure(answer, threshold) else None
            yield place | {"note": answer.note or None, "class": label, "probabilities": found}


def _probabilities(answer: Answer, model: Model, top: int) -> dict[str, float]:
    """Return names and probabilities of the likeliest classes, the likeliest first."""
    P = answer.probabilities
    return {} if P is None else {model.class_names[k]: float(P[k]) for k in answer.classes(top)}


def print_json(entries: Iterable[dict[str, object]]) -> None:
    """Print a list as JSON, an entry at a time."""
    before = "[\n"
    for entry in entries:
        print(before + textwrap.indent(json_text(entry), "  "), end="")
        before = ",\n"
    print("\n]")


def print_tables(screen: Screen, answers: Iterable[Answer], model: Model, threshold: float, top: int) -> None:
    """Print a table for each of a few images, or a line for each image or row; errors are left to the command."""
    spaced, good = False, (answer for answer in answers if not answer.error)
    for path, some in groupby(good, lambda answer: None if answer.row is None else answer.path):
        each, some = None, iter(some)
        while block := list(islice(some, ANSWERS_AT_ONCE)):
            each = path is None and len(block) <= TABLE_EACH if each is None else each
            for part in [[answer] for answer in block] if each else [block]:
                if spaced:
                    screen.say("")
                spaced = True
                _print_table(screen, part, path or "", model, threshold, top, each=each)


def _print_table(
    screen: Screen,
    answers: list[Answer],
    title: str,
    model: Model,
    threshold: float,
    top: int,
    *,
    each: bool,
) -> None:
    """Print the table of an image, or of several images or rows."""
    notes = _Notes()
    rows = []
    for answer in answers:
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
