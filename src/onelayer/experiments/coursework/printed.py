"""The coursework's four settings, with the figures that its report prints."""

import json
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class Printed:
    """A setting of the coursework, with the accuracies in percent that its report prints.

    Parameters
    ----------
    learning_rate, l2 : float
    figures : tuple of (str, int, float)
        Split, epoch and accuracy.
    """

    learning_rate: float
    l2: float
    figures: tuple[tuple[str, int, float], ...]


PRINTED = tuple(
    Printed(setting["learning_rate"], setting["l2"], tuple(map(tuple, setting["figures"])))
    for setting in json.loads(Path(__file__).with_name("printed.json").read_text(encoding="utf-8"))["settings"]
)
