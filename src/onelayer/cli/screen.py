"""What the commands show: words, tables and progress. Live on a terminal, plain lines where the output is piped."""

import math
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from onelayer.analysis.evaluation import Evaluation
from onelayer.analysis.explanation import Explanation
from onelayer.analysis.gradcheck import GradientReport
from onelayer.data.dataset import Dataset, Splits
from onelayer.experiments.coursework.diagnosis import Diagnosis, is_accuracy
from onelayer.experiments.sweep import SettingResult, SweepPlan, choose
from onelayer.training.state import TrainingResult, TrainingState
from onelayer.words import counted, listed, mean_and_sd, percent, row_count

if TYPE_CHECKING:
    from onelayer.experiments.comparison import Comparison
    from onelayer.experiments.study import Finding

WHOLE = 10_000  # characters in a line
READING_SECONDS = 1.0  # work shorter than this shows no bar
SHOWN = 3  # diagnoses side by side, for narrow terminals


class Screen:
    """Prints to standard output; progress goes to standard error.

    Parameters
    ----------
    quiet : bool
        Print nothing.
    """

    def __init__(self, quiet: bool = False) -> None:
        self._quiet = quiet
        self._console = Console(quiet=quiet, highlight=False)
        if not self._console.is_terminal:  # lines and tables are whole in a file, and broken at words here
            self._console.soft_wrap = True
            self._console.width = WHOLE

    def say(self, text: str) -> None:
        """Print a line as it is."""
        self._console.print(text, markup=False)

    def table(self, *columns: str, rows: list[list[str]], words: int = 1) -> None:
        """Print a table; the first columns, so many as `words`, are text, the others numbers."""
        table = Table(box=None, pad_edge=False, header_style="bold")
        for place, column in enumerate(columns):
            table.add_column(column, justify="left" if place < words else "right")
        for row in rows:
            table.add_row(*row)
        self._console.print(table, markup=False, soft_wrap=False)

    def data(self, splits: Splits, classes: bool = False) -> None:
        """Say what is trained on, on request with its classes, and whatever a person should know about it."""
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
        """Say what a person should be told about a source."""
        for note in dataset.notes:
            self.say(f"note: {note}")

    def dataset(self, dataset: Dataset) -> None:
        """Print what a data set holds."""
        official = {True: "yes, to the last bit", False: "no", None: "nothing is published to compare with"}
        n, d = dataset.rows.shape
        facts = [
            ["name", dataset.name],
            ["rows", f"{n:,} of {d:,} {dataset.rows.dtype} numbers"],
            ["image shape", "no images" if dataset.image_shape is None else " x ".join(map(str, dataset.image_shape))],
            ["official", official[dataset.official]],
            ["fingerprint", dataset.fingerprint],
        ]
        for name, value in facts:
            self.say(f"{name:12} {value}")
        self.notes(dataset)
        everything = np.arange(n)
        parts = {part: everything[rows] for part, rows in dataset.parts.items()} or {"rows": everything}
        K = len(dataset.class_names)
        counts = np.array([np.bincount(dataset.labels[rows], minlength=K) for rows in parts.values()])  # (parts, K)
        named = zip([*dataset.class_names, "all"], [*counts.T, counts.sum(axis=1)], strict=True)
        self.say("")
        columns = [part.removeprefix("data_").replace("_", " ") for part in parts]  # short, for narrow terminals
        self.table("class", *columns, rows=[[name, *(f"{count:,}" for count in row)] for name, row in named])

    def result(self, result: TrainingResult) -> None:
        """Print loss, cost and accuracy of each split after training."""
        rows = [[name, f"{s.loss:.4f}", f"{s.cost:.4f}", percent(s.accuracy)] for name, s in result.scores.items()]
        self.say("")
        self.table("", "loss (nats)", "cost (nats)", "accuracy", rows=rows)
        history = result.state.history
        if history and history[0].test_accuracy is not None:
            self.say(f"test accuracy after epoch 1: {percent(history[0].test_accuracy)}")
        if advice := result.advice:
            self.say(f"note: {advice}")
        seconds = sum(record.seconds for record in history)
        self.say(f"{seconds:.1f} s for {counted(len(history), 'epoch')} ({result.backend})")

    def gradients(self, reports: list[GradientReport]) -> None:
        """Print the worst element of each gradient against each oracle, and what failed."""
        comparisons = [c for report in reports for c in report.comparisons if c.parameter != "cost"]
        pairs = zip(comparisons[::2], comparisons[1::2], strict=True)  # dW and db
        rows = [
            [dW.loss, f"{dW.l2:g}", dW.point, dW.oracle]
            + [word for c in (dW, db) for word in (f"{c.error:.1e}", str(list(c.index)))]
            for dW, db in pairs
        ]
        self.say("largest relative error |ga - gn| / max(eps, |ga| + |gn|) of an element, and where;")
        self.say("eps is a quarter of the largest gradient, ordinary logits are of order 1, large ones of 1e4")
        self.table("loss", "l2", "logits", "oracle", "dW", "at", "db", "at", rows=rows, words=4)
        for reason in dict.fromkeys(note for report in reports for note in (*report.skipped.values(), report.sample)):
            if reason:
                self.say(f"note: {reason}")
        failed = [report.message for report in reports if not report.passed]
        oracles = ", ".join(dict.fromkeys(c.oracle for c in comparisons))
        for message in failed or [f"all gradients agree with {oracles}"]:
            self.say(message)

    def diagnoses(self, diagnoses: list[Diagnosis]) -> None:
        """Say which mistakes explain the figures given, how to mend them, and what the likeliest predict."""
        tied = [diagnosis for diagnosis in diagnoses if diagnosis.tied]
        count = len(tied[0].predictions)
        figures = "the figure" if count == 1 else f"the {count} figures"
        explained = tied[0].explains
        if not explained:
            self.say(f"Nothing known here explains {figures}. The nearest, which does not either:")
        elif len(tied) > 1:
            self.say(
                f"Each of these explains {figures}; losses, costs, epoch 1 and other settings may tell them apart:"
            )
        else:
            self.say(f"This explains {figures}:")
        for diagnosis in tied:
            off = f"{diagnosis.worst:.1f} spreads off"
            self.say(f"{diagnosis.name}: {diagnosis.mistake.title} ({off if count == 1 else f'at most {off}'})")
            if explained and tied[0].name != "none":  # there is something to mend
                self.say(f"    {diagnosis.mistake.remedy}")
        self.say("")
        shown = diagnoses[:SHOWN]
        rows = [
            [p.setting, p.figure, _of_figure(p.figure, p.given)]
            + [f"{_of_figure(p.figure, q.mean)} ± {_of_figure(p.figure, q.spread)}" for q in alternatives]
            for p, *alternatives in zip(shown[0].predictions, *(d.predictions for d in shown), strict=True)
        ]
        self.table("setting", "figure", "given", *(diagnosis.name for diagnosis in shown), rows=rows, words=2)
        self.say("after ±, a spread: the standard deviation over seeds, widened by what other code may differ by")

    def files(self, run: Path) -> None:
        """Say where the files of a run are."""
        names = sorted(file.name for file in run.iterdir() if not file.name.startswith("."))
        self.say(f"{run}/: {', '.join(names)}")

    def explanation(self, explained: Explanation, class_names: list[str]) -> None:
        """Print the sums that the logits of the likeliest classes are."""
        numbers = (explained.probabilities, explained.logits, explained.bias, explained.logits - explained.bias)
        rows = [
            [name, percent(p), *(f"{number:+z.4f}" for number in parts)]
            for name, p, *parts in zip(class_names, *numbers, strict=True)
        ]
        self.table("class", "probability", "logit", "= bias", "+ pixels", rows=rows)

    def evaluation(self, name: str, evaluation: Evaluation, class_names: tuple[str, ...]) -> None:
        """Print loss and accuracy of a split, and the accuracy by class."""
        accuracy = f"{percent(evaluation.accuracy)} ± {100 * evaluation.standard_error:.2f} (standard error)"
        rows_in_all = f"{len(evaluation.labels):,} rows{'' if evaluation.weights is None else ', counted by weight'}"
        self.say(f"{name}: {rows_in_all}, loss {evaluation.loss:.4f} nats, accuracy {accuracy}")
        counts = evaluation.confusion.sum(axis=1)
        rows = [
            [class_name, row_count(count), percent(accuracy) if count else "-"]
            for class_name, count, accuracy in zip(class_names, counts, evaluation.class_accuracies, strict=True)
        ]
        self.table("class", "rows", "accuracy", rows=rows)

    def finding(self, finding: "Finding") -> None:
        """Print an answer of a study."""
        self.say(f"\n{finding.title}")
        self.table(*finding.columns, rows=[list(row) for row in finding.rows], words=len(finding.columns))
        self.say(finding.verdict)

    def comparison(self, comparison: "Comparison") -> None:
        """Print which rows A and B get right, the test, the intervals, and the verdict."""
        from onelayer.experiments.comparison import in_points  # scipy, which it loads, takes a second

        c = comparison
        several = f", summed over {c.pairs} seeds" if c.pairs > 1 else ""
        counts = [row_count(rows) for rows in (c.both, c.only_a, c.only_b, c.neither)]
        rows = [["A right", *counts[:2]], ["A wrong", *counts[2:]]]
        self.table(f"rows{several}", "B right", "B wrong", rows=rows)
        rows_test = "McNemar's exact test" if c.seed_p_value is None else "exact sign test over the rows"
        self.say(f"p value {c.row_p_value:.2g} ({rows_test})")
        if c.seed_p_value is not None and not math.isnan(c.seed_p_value):
            self.say(f"p value {c.seed_p_value:.2g} (paired t test over the seeds)")
        for source, interval in (("rows", c.row_interval), ("seeds", c.seed_interval)):
            if interval:
                self.say(f"over the {source}: {in_points(c.difference, interval, sign='+')}")
        if c.seed_interval:
            self.say(f"over both: {in_points(c.difference, c.interval, sign='+')}")
        self.say(c.verdict())

    @contextmanager
    def working(self, what: str) -> Iterator[Callable[[int, int | None], None]]:
        """Show how far something is, once it has taken a second; yields a callback(done, total)."""
        started = time.monotonic()
        with _bar(self._quiet) as bar:
            task = bar.add_task(what, total=None, visible=False)

            def progress(done: int, total: int | None) -> None:
                visible = time.monotonic() - started >= READING_SECONDS
                bar.update(task, completed=done, total=total, visible=visible)

            yield progress

    @contextmanager
    def sweeping(self) -> Iterator[Callable[[int, int], None]]:
        """Show how far the runs of a sweep are, counted in epochs; yields a callback(done, total)."""
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

    def sweep(self, plan: SweepPlan, results: Sequence[SettingResult], refitted: SettingResult | None) -> None:
        """Print the settings of a sweep, the best first, what was chosen, and what became of other runs."""
        names = plan.varied or ("learning_rate", "l2")
        read = {split for result in results for run in result.runs for split in run.scores}
        shown = [split for split in ("train", "validation", "test") if split in read]
        rows = []
        for result in results:
            values = [getattr(result.config, name) for name in names]
            settings = [f"{value:g}" if isinstance(value, float) else str(value).lower() for value in values]
            others = Counter(run.status for run in result.runs if run.status != "complete")
            runs = [str(len(result.complete)), *(f"{count} {status}" for status, count in others.items())]
            scores = (mean_and_sd(*result.mean_sd(split)) for split in shown)
            rows.append([f"{result.setting:03}", *settings, *scores, ", ".join(runs)])
        self.say("")
        words = [name.replace("_", " ") for name in names]
        self.table("", *words, *(f"{split} (%)" for split in shown), "runs", rows=rows, words=1 + len(words))
        if len(plan.seeds) > 1:
            self.say(f"mean ± standard deviation of the accuracy over {len(plan.seeds)} seeds")
        best = choose(results)
        if best:
            chosen = ", ".join(f"{name} {value}" for name, value in zip(words, rows[0][1:], strict=False))
            self.say(f"chosen by validation accuracy: {chosen}")
            if refitted:
                self.say(f"test, refitted on train and validation rows: {mean_and_sd(*refitted.mean_sd('test'))} %")
        else:
            self.say("nothing is chosen: no run is complete; if all diverged, try shorter steps")
        if any(result.has_test for result in results[1:]):
            self.say("note: the test figures of the other settings are for looking at; they must not choose")
        elif best and best.has_test:
            self.say("the test rows were read for this setting only")
        for result in (*results, *filter(None, [refitted])):
            for run in result.runs:
                if run.status == "damaged":
                    self.say(f"note: left out a damaged run: {run.note}; without its directory it is trained again")

    @contextmanager
    def training(self, done: int, epochs: int) -> Iterator[Callable[[TrainingState], None]]:
        """Show each epoch as it ends; yields the callback that training takes."""
        with _bar(self._quiet) as bar:
            task = bar.add_task("training", total=epochs, completed=done)

            def on_epoch(state: TrainingState) -> None:
                line = state.history[-1].in_words(epochs)
                if bar.disable:
                    self.say(line)
                bar.update(task, completed=state.epoch, description=line)

            yield on_epoch


def _of_figure(figure: str, value: float) -> str:
    return f"{100 * value:.1f} %" if is_accuracy(figure) else f"{value:.3f}"


def _bar(quiet: bool) -> Progress:
    console = Console(stderr=True)
    bar = [BarColumn(bar_width=20)] if console.width >= 105 else []  # an epoch's figures leave no room for more
    columns = (TextColumn("{task.description}", markup=False), *bar, TimeRemainingColumn())
    return Progress(*columns, console=console, transient=True, disable=quiet or not console.is_terminal)
