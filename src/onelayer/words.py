"""Numbers and names as people read them."""

import math
from collections.abc import Iterable
from numbers import Integral


def counted(count: int, noun: str) -> str:
    """A number of things in words: 1 epoch, 2 epochs."""
    return f"{count:,} {noun}" + "s" * (count != 1)


def row_count(rows: float) -> str:
    """How many rows there are: 1,234, or 1,234.5 where they count by weights."""
    return f"{rows:,}" if isinstance(rows, Integral) else f"{rows:,.1f}"


def percent(fraction: float) -> str:
    """A fraction as people read it."""
    return f"{100 * fraction:.2f} %"


def mean_and_sd(mean: float, sd: float) -> str:
    """Fractions in percent, as tables show them; NaN where there are none, or too few for a standard deviation."""
    if math.isnan(mean):
        return "-"
    return f"{100 * mean:.2f}" + ("" if math.isnan(sd) else f" ± {100 * sd:.2f}")


def is_name(name: object) -> bool:
    """Whether this can be the name of a class, which is printed: no control characters, and not long."""
    return isinstance(name, str) and name.isprintable() and len(name.strip()) > 0 and len(name) < 100


def printable(text: str, length: int = 100) -> str:
    """A text of strangers, fit to be printed."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= length else f"{text[:length]}..."


def listed(names: Iterable[str], length: int = 80) -> str:
    """Return names of strangers in a line: at least one, and no more than fit into `length` characters."""
    shown = ""
    for name in map(printable, names):
        if shown and len(shown) + len(name) > length:
            return f"{shown}, ..."
        shown += f", {name}" if shown else name
    return shown
