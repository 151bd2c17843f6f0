"""Tables of results in HTML, which notebooks show."""

from collections.abc import Sequence
from html import escape

MOST_ROWS = 100


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
