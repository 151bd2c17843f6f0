"""The screen: lines, tables and progress; live on a terminal, plain lines where the output is piped."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from onelayer.data.dataset import Dataset, Splits
from onelayer.training.state import TrainingState
from onelayer.words import counted, listed

WHOLE = 10_000  # characters in a line
READING_SECONDS = 1.0  # work shorter than this shows no bar


class Screen:
    """Output of a command: text on standard output, progress on standard error.

    Parameters
    ----------
    quiet : bool
        Print nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = Console(quiet=quiet, highlight=False)
        if not self._console.is_terminal:  # a file gets whole lines and tables, a terminal breaks them at words
            self._console.soft_wrap = True
            self._console.width = WHOLE

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self._console.print(text, markup=False)

    def table(self, *columns: str, rows: list[list[str]], words: int = 1) -> None:
        """Print a table; the first `words` columns are text, the others are numbers."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for place, column in enumerate(columns):
            table.add_column(column, justify="left" if place < words else "right")
        for row in rows:
            table.add_row(*row)
        self._console.print(table, markup=False, soft_wrap=False)

    def data(self, splits: Splits, classes: bool = False) -> None:
        """Print the sizes of the splits, their notes and duplicates, and on request the classes."""
        dataset = splits.dataset
        sizes = ", ".join(f"{len(split):,} {split.name}" for split in splits)
        self.say(f"{dataset.name}, protocol {splits.protocol}: {sizes} rows of {dataset.rows.shape[1]:,} numbers")
        if classes:
            self.say(f"{len(dataset.class_names):,} classes: {listed(dataset.class_names)}")
        self.notes(dataset)
        for pair, count in splits.duplicates.items():
            if count:
                later, earlier = pair.split(" in ")
                rows = "row is an exact duplicate" if count == 1 else "rows are exact duplicates"
                self.say(f"note: {count:,} {later} {rows} of {earlier} rows")

    def notes(self, dataset: Dataset) -> None:
        """Print the notes of a source."""
        for note in dataset.notes:
            self.say(f"note: {note}")

    def files(self, run: Path) -> None:
        """Print the names of the files of a run."""
        names = sorted(file.name for file in run.iterdir() if not file.name.startswith("."))
        self.say(f"{run}/: {', '.join(names)}")

    @contextmanager
    def working(self, what: str, *, shown: bool = True) -> Iterator[Callable[[int, int | None], None]]:
        """Show the progress of work that takes longer than a second, if `shown`; yield a callback(done, total)."""
        started = time.monotonic()
        with _bar(self._quiet or not shown) as bar:
            task = bar.add_task(what, total=None, visible=False)

            def progress(done: int, total: int | None) -> None:
                visible = time.monotonic() - started >= READING_SECONDS
                bar.update(task, completed=done, total=total, visible=visible)

            yield progress

    @contextmanager
    def sweeping(self) -> Iterator[Callable[[int, int], None]]:
        """Show the progress of the runs of a sweep in epochs; yield a callback(done, total)."""
        with _bar(self._quiet) as bar:
            task = bar.add_task("training", total=None)
            tenths = 0

            def progress(done: int, total: int) -> None:
                nonlocal tenths
                line = f"trained {done:,} of {counted(total, 'epoch')}"
                if bar.disable and total and 10 * done // total > tenths:
                    tenths = 10 * done // total
                    self.say(line)
                bar.update(task, completed=done, total=total, description=line)

            yield progress

    @contextmanager
    def training(self, done: int, epochs: int | str) -> Iterator[Callable[[TrainingState], None]]:
        """Show each epoch as it ends; yield the callback that training takes."""
        with _bar(self._quiet) as bar:
            task = bar.add_task("training", total=None if isinstance(epochs, str) else epochs, completed=done)

            def on_epoch(state: TrainingState) -> None:
                line = state.history[-1].in_words(epochs)
                if bar.disable:
                    self.say(line)
                bar.update(task, completed=state.epoch, description=line)

            yield on_epoch


def _bar(quiet: bool) -> Progress:
    console = Console(stderr=True)
    bar = [BarColumn(bar_width=20)] if console.width >= 105 else []  # an epoch's figures leave no room for more
    columns = (TextColumn("{task.description}", markup=False), *bar, TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
