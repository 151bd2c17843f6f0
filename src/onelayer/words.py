"""Numbers and names as people read them."""

import math
import shlex
from collections.abc import Iterable
from dataclasses import fields
from decimal import Decimal
from numbers import Integral
from typing import Any


def counted(count: int, noun: str) -> str:
    """Return a number of things in words: 1 epoch, 2 epochs, 3 passes."""
    plural = "es" if noun.endswith("s") else "s"
    return f"{count:,} {noun}" + plural * (count != 1)


def row_count(rows: float) -> str:
    """Return a number of rows in words: 1,234, or 1,234.5 where rows count by their weights."""
    return f"{rows:,}" if isinstance(rows, Integral) else f"{rows:,.1f}"


def duration(seconds: float) -> str:
    """Return a duration as people say it: 50 s, 3 min, 2.5 h."""
    if seconds < 99.5:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 99.5 * 60 else f"{seconds / 3600:.1f} h"


def percent(fraction: float) -> str:
    """Return a fraction in percent: 39.13 %."""
    return f"{100 * fraction:.2f} %"


def small_percent(fraction: float) -> str:
    """Return a fraction in percent with two digits and without an exponent, however small: 0.00001 %, 20 %."""
    return f"{Decimal(f'{100 * fraction:.2g}'):f} %"


def number(value: float) -> str:
    """Return a number above 0 with four digits: 1,778, 0.001, and 5.623e-5 only below 0.0001."""
    rounded = float(f"{value:.4g}")
    return f"{rounded:,.0f}" if rounded >= 1000 else f"{rounded:g}".replace("e-0", "e-")


def spaced(name: str) -> str:
    """Return the name of an option as people read it: learning rate."""
    return name.replace("_", " ")


def option_value(value: object) -> str:
    """Return the value of an option as people read it: 0.001, yes, or default for None."""
    if value is None:
        return "default"
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:g}" if isinstance(value, float) else str(value)


def typed(value: object) -> str:
    """Return a value as people type it: true for True."""
    return str(value).lower() if isinstance(value, bool) else str(value)


def option_typed(name: str, value: object) -> str:
    """Return an option of a command as it is typed in a shell."""
    words = name.replace("_", "-")
    if isinstance(value, bool):
        return f"--{words}" if value else f"--no-{words}"
    return f"--{words} {shlex.quote(str(value))}"


def options_apart(config: Any, base: Any) -> list[str]:
    """Return the options of a command, as they are typed, in which settings differ from others of their kind."""
    values = {field.name: getattr(config, field.name) for field in fields(config)}
    apart = {name: value for name, value in values.items() if value != getattr(base, name)}
    return [option_typed(name, value) for name, value in apart.items()]


def mean_and_sd(mean: float, sd: float) -> str:
    """Return a mean and a standard deviation, fractions, in percent: 39.13 ± 0.25. NaN stands for a missing one."""
    if math.isnan(mean):
        return "-"
    return f"{100 * mean:.2f}" + ("" if math.isnan(sd) else f" ± {100 * sd:.2f}")


def is_name(name: object) -> bool:
    """Return whether this can be the name of a class: printable, not empty and shorter than 100 characters."""
    return isinstance(name, str) and name.isprintable() and len(name.strip()) > 0 and len(name) < 100


def printable(text: str, length: int = 100) -> str:
    """Return a text of unknown origin with its control characters replaced, cut to `length` characters."""
    text = "".join(letter if letter.isprintable() else "?" for letter in text)
    return text if len(text) <= length else f"{text[:length]}..."


def listed(names: Iterable[str], length: int = 80) -> str:
    """Return names of unknown origin in a line: at least one, and as many as fit into `length` characters."""
    shown = ""
    for name in map(printable, names):
        if shown and len(shown) + len(name) > length:
            return f"{shown}, ..."
        shown += f", {name}" if shown else name
    return shown
