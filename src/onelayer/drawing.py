"""The ways in which results show themselves: pictures, and tables for notebooks.

`pictures/` stands above the results, since it imports them. So that a result can still draw itself, a function in
`pictures/` is registered here for the type that it draws; `draw` loads that module when a picture is first wanted.
"""

from collections.abc import Sequence
from functools import singledispatch
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MOST_ROWS = 100  # of a table


@singledispatch
def picture_of(result: object) -> "Figure":
    """Return the picture of a result; `pictures/` registers a function for each type."""
    raise TypeError(f"{type(result).__name__} has no picture")


def pictures() -> Any:
    """Return the module that draws results, after loading it and matplotlib."""
    return import_module("onelayer.pictures.results")


def draw(result: object) -> "Figure":
    """Return the picture of a result, after loading the functions that draw."""
    pictures()
    return picture_of(result)


def pictures_in_html(result: object) -> str:
    """Return the curve and the templates of a run, a result or a model as small pictures in HTML."""
    return str(pictures().in_html(result))


class CurvePlots:
    """Plots of the history, for the classes that have `history` and `kept_epoch`."""

    def plot_loss(self, ax: "Axes | None" = None) -> "Axes":
        """Plot the loss of the training and validation rows by epoch into `ax`, or a new figure, and return the axes.

        A circle marks the epoch that the model is of.
        """
        axes: Axes = pictures().plot_curve(self, "loss", ax)
        return axes

    def plot_cost(self, ax: "Axes | None" = None) -> "Axes":
        """Plot the cost, the loss plus the penalty, by epoch; like `plot_loss`."""
        axes: Axes = pictures().plot_curve(self, "cost", ax)
        return axes

    def plot_accuracy(self, ax: "Axes | None" = None) -> "Axes":
        """Plot the accuracy by epoch; like `plot_loss`."""
        axes: Axes = pictures().plot_curve(self, "accuracy", ax)
        return axes


class ModelPlots:
    """Plots of the weights and the answers, for models and the classes that have `model` and perhaps `learnt`."""

    def plot_templates(self, ax: "Axes | None" = None) -> "Axes":
        """Plot the weights of each class into `ax`, or a new figure, and return the axes.

        Where random initial weights are known, what training added to them stands above. A model on patch features has
        no templates: the filters that speak for and against each class are drawn; a run shows them by patches of its
        training images. Any other features that are not pixels are drawn as bars, those with the largest weights.
        """
        axes: Axes = pictures().plot_weights(self, ax)
        return axes

    def plot_confusion(self, split: Any = None, ax: "Axes | None" = None) -> "Axes":
        """Plot how the rows of each class were classified into `ax`, or a new figure, and return the axes.

        Parameters
        ----------
        split : Split or Evaluation
            The rows to classify, such as ``splits.test``, or a finished evaluation. A run has its own test rows.
        ax : Axes, optional
        """
        axes: Axes = pictures().plot_confusion(self, split, ax)
        return axes


def html_table(caption: str, columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in HTML with a name at the beginning of each row; every text in it is escaped.

    Parameters
    ----------
    caption : str
    columns : sequence of c str
        Headings of the cells; the names have no heading.
    rows : sequence of sequences of 1 + c str
        The name and the cells of each row. After the first 100 rows, a last one says how many are left out.
    """
    # Not a <caption>, which is broken into lines as short as the table is wide.
    lines = [f"<p>{escape(caption)}</p>", "<table>", f"<thead>{_row('', columns, 'th')}</thead>", "<tbody>"]
    lines += [_row(name, cells, "td") for name, *cells in rows[:MOST_ROWS]]
    if len(rows) > MOST_ROWS:
        lines.append(_row(f"... and {len(rows) - MOST_ROWS:,} more", [""] * len(columns), "td"))
    return "\n".join([*lines, "</tbody>", "</table>"])


def _row(name: str, cells: Sequence[str], tag: str) -> str:
    texts = "".join(f"<{tag}>{escape(cell)}</{tag}>" for cell in cells)
    return f'<tr><th style="text-align: left">{escape(name)}</th>{texts}</tr>'
