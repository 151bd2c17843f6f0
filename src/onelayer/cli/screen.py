"""The screen: lines, tables and progress; live on a terminal, few plain lines in a pipe and in a notebook."""

import json
import os
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from threading import Timer
from typing import Protocol

from rich.cells import cell_len
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table

from onelayer.data.dataset import Dataset, Splits
from onelayer.features.map import FeatureMap, Identity
from onelayer.training.state import TrainingState
from onelayer.words import counted, duration, listed, percent

WHOLE = 10_000  # characters in a line
READING_SECONDS = 1.0  # work shorter than this shows no bar
QUIET_SECONDS = 30.0  # without a bar, an epoch is printed at least this often
TIME = 8  # characters of the time left, with a space
NOTEBOOK = (
    "JPY_PARENT_PID"  # Jupyter's kernel sets it; its cells keep every frame of a bar, and pretend to be a terminal
)
FIRST_LINE, NEXT_LINE = 5.0, 10.0  # seconds of work before a line of progress, and between two, where there is no bar


class Screen:
    """Output of a command: text on standard output, progress on standard error.

    Parameters
    ----------
    quiet : bool
        Print nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = Console(quiet=quiet, highlight=False, emoji=False)
        if not sys.stdout.isatty():  # a file gets whole lines and tables, a terminal breaks them at words
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

    def fitting(self, rows: list[dict[str, str]], optional: Sequence[str]) -> list[str]:
        """Return the columns of a table that fit into a line; `optional` ones are left out, one after the other."""
        widths = {name: max(map(cell_len, [name, *(row[name] for row in rows)])) for name in rows[0]}
        for name in optional:
            if sum(widths.values()) + len(widths) - 1 <= self._console.width:
                break
            del widths[name]
        return list(widths)

    def data(self, splits: Splits, classes: bool = False) -> None:
        """Print the sizes of the splits, their notes and duplicates, and on request the classes."""
        dataset = splits.dataset
        marks = {split.name: " (trained on)" * (splits.label(split.name) != split.name) for split in splits}
        sizes = ", ".join(f"{len(split):,} {split.name}{marks[split.name]}" for split in splits)
        self.say(f"{dataset.name}, protocol {splits.protocol}: {sizes} rows of {dataset.rows.shape[1]:,} numbers")
        if classes:
            self.say(f"{len(dataset.class_names):,} classes: {listed(dataset.class_names)}")
        self.notes(dataset)
        for pair, count in splits.duplicates.items():
            if count:
                later, earlier = pair.split(" in ")
                rows = "row is an exact duplicate" if count == 1 else "rows are exact duplicates"
                self.say(f"note: {count:,} {later} {rows} of {earlier} rows")

    def features(self, features: FeatureMap) -> None:
        """Print the number of features and views that the layer sees, unless it sees the rows as they are."""
        if not isinstance(features, Identity):
            views = f", in {features.views} views of each image" * (features.views > 1)
            self.say(f"features {features.name}: {features.d_out:,} numbers{views}")

    def notes(self, dataset: Dataset) -> None:
        """Print the notes of a source."""
        for note in dataset.notes:
            self.say(f"note: {note}")

    def files(self, run: Path) -> None:
        """Print the names of the files of a run."""
        names = sorted(file.name for file in run.iterdir() if not file.name.startswith("."))
        self.say(f"{run}/: {', '.join(names)}")

    @contextmanager
    def working(self, what: str, *, shown: bool = True) -> Iterator["Working"]:
        """Show the progress of work that takes longer than a second, if `shown`; yield a callback(done, total, now).

        `total` is None where it is unknown; `now` are words on what is being done now, if it has any.
        """
        aside = Console(
            stderr=True, quiet=self._quiet or not shown, highlight=False, emoji=False, soft_wrap=True
        )  # out of a table and of JSON
        with _bar(self._quiet or not shown) as bar:
            task, lines = bar.add_task(what, total=None, visible=False), Lines()
            shown_later = Timer(READING_SECONDS, bar.update, [task], {"visible": True})

            def progress(done: int, total: int | None, now: str = "") -> None:
                words = f"{what}: {now}" if now else what
                if bar.disable and (now or total) and (line := lines.due(done, total)):
                    share = f"{100 * done // total} %, " if total else ""
                    aside.print(f"{words}{',' if now else ':'} {share}{line}", markup=False)
                bar.update(task, completed=done, total=total, description=words)

            shown_later.start()
            try:
                yield progress
            finally:
                shown_later.cancel()

    @contextmanager
    def stages(self, noun: str | None = "epoch") -> Iterator[Callable[[str, int, int | None, tuple[int, int]], None]]:
        """Show the progress of training in stages; yield the callback that a search takes.

        The time left is that of the epochs, or of the runs where some end by themselves.

        Parameters
        ----------
        noun : str or None
            What is counted within runs: epochs, or iterations of the solver converged. None does not show it.
        """
        with _bar(self._quiet) as bar:
            task, current, lines = bar.add_task("training", total=None), "", Lines()

            def progress(stage: str, epochs: int, of_epochs: int | None, runs: tuple[int, int]) -> None:
                nonlocal current, lines
                if stage != current:
                    current, lines = stage, Lines()
                    bar.reset(task)
                if of_epochs is None:
                    done, total = runs
                    words = f"{stage}: trained {done:,} of {counted(total, 'run')}"
                    words += f", {counted(epochs, noun)}" if noun else ""
                else:
                    done, total = epochs, of_epochs
                    words = f"{stage}: trained {done:,} of {counted(total, noun or 'epoch')}"
                if bar.disable and total and (line := lines.due(done, total)):
                    self.say(f"{words}, {line}")
                bar.update(task, completed=done, total=total, description=words)

            yield progress

    @contextmanager
    def training(
        self, done: int, epochs: int | str, *, holds_out: bool = True
    ) -> Iterator[Callable[[TrainingState], None]]:
        """Show each epoch as it ends; yield the callback that training takes.

        Without a bar, epochs 1, 2, 5, 10, 20, 50 and so on have a line, and the last.

        Parameters
        ----------
        done : int
            Epochs done before.
        epochs : int or str
            Epochs to be done in all, or auto.
        holds_out : bool
            Whether the validation rows are not trained on.
        """
        total = None if isinstance(epochs, str) else epochs
        with _bar(self._quiet, timed=total is not None) as bar:
            task = bar.add_task("training", total=total, completed=done)
            unsaid, said = "", time.monotonic()

            def on_epoch(state: TrainingState) -> None:
                nonlocal unsaid, said
                lines = _epoch_lines(state, epochs, holds_out)
                unsaid = lines[0]
                if bar.disable and (_is_round(state.epoch) or time.monotonic() - said > QUIET_SECONDS):
                    self.say(unsaid)
                    unsaid, said = "", time.monotonic()
                fitting = [line for line in lines if len(line) + TIME <= bar.console.width]
                bar.update(task, completed=state.epoch, description=[*fitting, lines[-1]][0])

            yield on_epoch
        if bar.disable and unsaid:
            self.say(unsaid)


def json_text(value: object) -> str:
    """Return a value as JSON to print without rich, which would wrap and colour it; escaped if it must be."""
    text = json.dumps(value, indent=2, ensure_ascii=False)
    try:
        text.encode(sys.stdout.encoding or "utf-8")
    except UnicodeEncodeError:
        return json.dumps(value, indent=2)
    return text


def _epoch_lines(state: TrainingState, epochs: int | str, holds_out: bool) -> list[str]:
    """Return the last epoch in words, the longest first, each with an accuracy."""
    last = state.history[-1]
    whole = last.in_words(epochs, holds_out)
    place, *_ = whole.split("  train ")
    train, validation = percent(last.train_accuracy), percent(last.validation_accuracy)
    if "validation" not in whole:
        return [whole, f"{place}  train {train}"]
    short = f"{place}  validation {validation}"
    both = f"{place}  train {train}  validation {validation}"
    return [whole, whole.replace(" nats", ""), both, short, short.removeprefix("epoch").strip()]


def _is_round(number: int) -> bool:
    """Return whether a number is 1, 2 or 5 times a power of ten."""
    return str(number).rstrip("0") in ("1", "2", "5")


class Working(Protocol):
    """The callback of work, as `Progress` or `Told`."""

    def __call__(self, done: int, total: int | None, now: str = "") -> None:
        """Show how far the work is."""


class Lines:
    """The moments to print a line of progress where no bar can be shown, and the time that is left.

    Parameters
    ----------
    clock : callable
        Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock, self._began = clock, clock()
        self._next = self._began + FIRST_LINE

    def due(self, done: int, total: int | None) -> str:
        """Return the time left in words if a line is due: after 5 s, then every 10 s, later less often.

        Where the total is unknown, it is the time taken.
        """
        now = self._clock()
        if now < self._next or (total is not None and done >= total):
            return ""
        elapsed = now - self._began
        self._next = now + max(NEXT_LINE, elapsed / 10)
        if total is None:
            return f"{duration(elapsed)} so far"
        return f"about {duration(elapsed * (total - done) / done)} left" if done else "just begun"


def _bar(quiet: bool, *, timed: bool = True) -> Progress:
    """Return a bar, with the time left if the total is known, else with the time taken."""
    console = Console(stderr=True, emoji=False)
    live = not quiet and sys.stderr.isatty() and NOTEBOOK not in os.environ
    bar = [BarColumn(bar_width=20)] if console.width >= 105 else []  # an epoch's figures leave no room for more
    times = TimeRemainingColumn() if timed else TimeElapsedColumn()
    columns = (TextColumn("{task.description}", markup=False), *bar, times)
    return Progress(*columns, console=console, transient=True, disable=not live)
