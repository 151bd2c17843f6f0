"""The ways in which results show themselves: pictures, and tables for notebooks.

`pictures/` stands above the results, since it imports them. So that a result can still draw itself, a function in
`pictures/` is registered here for the type that it draws; `draw` loads that module when a picture is first wanted.
"""

from collections.abc import Sequence
from functools import singledispatch
from html import escape
from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from matplotlib.figure import Figure

MOST_ROWS = 100  # of a table


@singledispatch
def picture_of(result: object) -> "Figure":
    """Return the picture of a result; `pictures/` registers a function for each type."""
    raise TypeError(f"{type(result).__name__} has no picture")


def draw(result: object) -> "Figure":
    """Return the picture of a result, after loading the functions that draw."""
    import_module("onelayer.pictures.results")
    return picture_of(result)


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
