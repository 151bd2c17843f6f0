"""The table of a path: the optima for a grid of lambdas and the choice among them, in Python, in a file and drawn."""

import csv
import io
import json
import math
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

import numpy as np

from onelayer.analysis.estimates import Estimate
from onelayer.data.dataset import Splits
from onelayer.errors import RunError
from onelayer.experiments.sweep.edges import edge_note
from onelayer.files import write_file
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.training.history import Score

if TYPE_CHECKING:
    from matplotlib.figure import Figure

Select = Literal["loss", "accuracy"]
MOST_BYTES = 2**22  # of a table; a row has some 500
GAP = "gap: how far the cost is above the lowest possible, in nats, an estimate"
COLUMNS = (
    *("", "l2", "train (nats)", "validation (nats)", "train (%)", "validation (%)", "95 % interval"),
    *("||W||", "gap", "passes"),
)


@dataclass(frozen=True)
class Point:
    """The optimum for a lambda.

    Parameters
    ----------
    l2 : float
        lambda.
    train : Score
        Of the training rows; classes have no weights in it.
    loss, accuracy : Estimate
        Of the validation rows, with 95 % intervals.
    errors : dict of str to float
        Standard errors of `loss` (nats) and `accuracy` (a fraction), over the validation rows.
    norm : float
        ||W||, of the weights for standardised rows.
    cost, gap : float
        Cost of the training rows as it is minimised, in nats, and an estimate of how far it is above the lowest.
    passes : float
        Passes over the training rows, for this lambda alone.
    ended : str
        The reason why the iteration ended.
    reached : bool
        True if the gap is as small as was asked for.
    """

    l2: float
    train: Score
    loss: Estimate
    accuracy: Estimate
    errors: dict[str, float]
    norm: float
    cost: float
    gap: float
    passes: float
    ended: str
    reached: bool

    def badness(self, select: Select) -> float:
        """Return the validation score that chooses, as a number of which the least is the best."""
        return self.loss.value if select == "loss" else -self.accuracy.value


@dataclass(frozen=True)
class LambdaPath:
    """The optima for a grid of lambdas, and the choice among them.

    Parameters
    ----------
    points : tuple of Point
        From the largest lambda to the smallest.
    select : {"loss", "accuracy"}
        The validation score that chooses. Of equal ones, the largest lambda is the best.
    one_standard_error : bool
        Choose the largest lambda whose score is at most one standard error worse than the best. The error is that of
        the best score.
    """

    points: tuple[Point, ...]
    select: Select = "loss"
    one_standard_error: bool = False

    @property
    def best(self) -> Point:
        """The point with the best validation score."""
        return min(self.points, key=lambda point: point.badness(self.select))

    @property
    def chosen(self) -> Point:
        """The point that the validation rows choose."""
        if not self.one_standard_error:
            return self.best
        most = self.best.badness(self.select) + self.best.errors[self.select]
        return next(point for point in self.points if point.badness(self.select) <= most)

    @property
    def notes(self) -> list[str]:
        """Sentences on what limits the choice: an edge of the grid, and lambdas whose optimum was not reached."""
        l2s = [point.l2 for point in self.points]
        notes = [edge_note("l2", self.chosen.l2, l2s[::-1], least=None)]
        if short := [f"{point.l2:g}" for point in self.points if not point.reached]:
            notes.append(
                f"not converged: l2 {', '.join(short)}; allow more passes or a larger gap: --max-passes, --tol"
            )
        return list(filter(None, notes))

    def choice_in_words(self) -> str:
        """Return the chosen lambda and the rule in a line."""
        words = f"chosen by validation {self.select}: l2 {self.chosen.l2:g}"
        if not self.one_standard_error:
            return words
        if self.chosen is self.best:
            return f"{words}, the best; no larger one is within one standard error of it"
        return f"{words}, the largest within one standard error of the best, {self.best.l2:g}"

    def summary(self) -> dict[str, Any]:
        """Return the choice, as the summary of its run holds it."""
        return {
            "select": self.select,
            "one_standard_error": self.one_standard_error,
            "l2": [point.l2 for point in self.points],
            "best": self.best.l2,
            "chosen": self.chosen.l2,
            "validation": {what: asdict(getattr(self.chosen, what)) for what in get_args(Select)},
            "notes": self.notes,
        }

    def in_words(self) -> list[list[str]]:
        """Return the cells of each point, as `COLUMNS` names them."""
        return [
            [
                *("*" if point is self.chosen else "", f"{point.l2:g}"),
                *(f"{point.train.loss:.4f}", f"{point.loss.value:.4f}"),
                *(f"{100 * point.train.accuracy:.2f}", f"{100 * point.accuracy.value:.2f}", point.accuracy.interval()),
                *(f"{point.norm:.3g}", f"{point.gap:.1g}", f"{point.passes:g}"),
            ]
            for point in self.points
        ]

    def table(self) -> dict[str, list[float | str | None]]:
        """Return the columns of ``path.csv`` by name."""
        columns: dict[str, list[float | str | None]] = {}
        for point in self.points:
            estimates = {"validation_loss": point.loss, "validation_accuracy": point.accuracy}
            row: dict[str, float | str | None] = {"l2": point.l2, "chosen": json.dumps(point is self.chosen)}
            row |= {"train_loss": point.train.loss, "train_accuracy": point.train.accuracy}
            for name, of in estimates.items():
                row |= {name: of.value, f"{name}_low": of.low, f"{name}_high": of.high}
                row[f"{name}_error"] = point.errors[name.removeprefix("validation_")]
            row |= {name: getattr(point, name) for name in ("norm", "cost", "gap", "passes")}
            row |= {"reached": json.dumps(point.reached), "ended": point.ended}
            row |= {"select": self.select, "one_standard_error": json.dumps(self.one_standard_error)}
            for name, value in row.items():
                columns.setdefault(name, []).append(value)
        return columns

    def numbers(self) -> dict[str, np.ndarray]:
        """Return the columns that are drawn, each (m,), by their names in `table`."""
        table, names = self.table(), ["l2", "train_loss", "train_accuracy"]
        names += [f"validation_{what}{end}" for what in get_args(Select) for end in ("", "_low", "_high")]
        return {name: np.array(table[name], np.float64) for name in names}


def write_path(run: Run, path: LambdaPath) -> None:
    """Write ``path.csv`` into a run directory."""
    table, text = path.table(), io.StringIO(newline="")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(table)
    writer.writerows(zip(*table.values(), strict=True))
    write_file(run.path / "path.csv", text.getvalue().encode())


def read_path(run: Run) -> LambdaPath | None:
    """Return the path that chose a run, as ``path.csv`` holds it; None if no path did.

    Raises
    ------
    RunError
        If the file is damaged.
    """
    file = run.path / "path.csv"
    if not file.exists():
        return None
    try:
        if file.stat().st_size > MOST_BYTES:
            raise ValueError("it is too large")
        rows = list(csv.DictReader(io.StringIO(file.read_bytes().decode(), newline="")))
        select: Any = rows[0]["select"]
        found = LambdaPath(tuple(map(_point, rows)), select, json.loads(rows[0]["one_standard_error"]) is True)
        l2s = [point.l2 for point in found.points]
        if select not in get_args(Select) or l2s != sorted(set(l2s), reverse=True):
            raise ValueError("it has no order")
        if [row["chosen"] for row in rows] != [json.dumps(point is found.chosen) for point in found.points]:
            raise ValueError("it names another choice")
    except (OSError, LookupError, TypeError, ValueError, csv.Error) as error:
        raise RunError(f"{file}: damaged ({error!s:.80}); remove it, or run onelayer path again") from None
    return found


def _point(row: dict[str, Any]) -> Point:
    def number(name: str) -> float:
        return float(row[name])

    def estimate(what: str, unit: str) -> Estimate:
        value, low, high = (number(f"validation_{what}{end}") for end in ("", "_low", "_high"))
        return Estimate(value, low, high, unit)

    l2, loss, norm, cost = map(number, ("l2", "train_loss", "norm", "cost"))
    point = Point(
        l2,
        Score(loss, loss + l2 * norm**2, number("train_accuracy")),
        estimate("loss", "nats"),
        estimate("accuracy", "%"),
        {what: number(f"validation_{what}_error") for what in get_args(Select)},
        *(norm, cost, number("gap"), number("passes")),
        *(str(row["ended"]), json.loads(row["reached"]) is True),
    )
    known = (l2, norm, loss, point.train.accuracy, point.loss.value, point.accuracy.value, point.passes)
    if not (l2 > 0 and all(map(math.isfinite, known))):
        raise ValueError("it has numbers that cannot be")
    return point


def draw_path(run: Run, plan: Plan, splits: Splits) -> None:
    """Draw accuracy and loss by lambda into the directory of a run, if a path chose it."""
    if found := read_path(run):
        protocol = splits.protocol.partition(", refitted")[0]  # the points are not
        settings = f"{splits.dataset.name}, protocol {protocol}; chosen: {plan.config.setting_in_words()}"
        settings += "; all rows count alike" * (plan.config.class_weight != "none")
        run.write_figure("path", path_figure(found, settings))


def path_figure(path: LambdaPath, settings: str) -> "Figure":
    """Draw accuracy and loss by lambda; `settings` are the data and the settings in words."""
    from onelayer.pictures.path import curves_of_path  # matplotlib, which it loads, takes long

    notes = [path.choice_in_words(), *path.notes]
    title = f"Accuracy and loss by lambda\n{settings}"
    return curves_of_path(path.numbers(), path.points.index(path.chosen), title, notes)
