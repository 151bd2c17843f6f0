"""The runs in a folder, by their summaries; no other file of a run is read, so hundreds take no time."""

import math
import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Any

from onelayer.config import COURSEWORK
from onelayer.errors import ConfigError, RunError
from onelayer.runs.directory import Run
from onelayer.words import typed

COLUMNS = ("run", "date", "data", "train", "validation", "test", "balanced", "loss", "seconds")
LARGEST_FIRST = ("date", "train", "validation", "test", "balanced")
OF_MANY_RUNS = ("sweep.json", "study.json")  # mark the directories of sweeps and studies
ALWAYS = ("learning_rate", "l2", "epochs")  # settings that are shown where none differs


@dataclass(frozen=True)
class ListedRun:
    """A run and the facts that its summary states.

    Parameters
    ----------
    path : Path
    values : dict
        Values by COLUMNS, of those that are known: accuracies as fractions, ``loss`` that of the validation rows in
        nats, ``date`` a datetime, ``balanced`` the balanced accuracy of the rows that judge the model.
    settings : dict
        Every setting of training, of the split and of the source.
    problem : str
        The reason why there are no values; empty for a complete run.
    """

    path: Path
    values: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    problem: str = ""

    def value(self, column: str) -> Any:
        """Return the value of a column or a setting; None if it is not known."""
        return self.values.get(column, self.settings.get(column))


def list_runs(folder: Path, *, sweeps: bool = False) -> tuple[list[ListedRun], int]:
    """Return the runs in a folder and below it, and the number of sweeps and studies whose runs were left out.

    Parameters
    ----------
    folder : Path
        If it is itself a run, a sweep or a study, its runs are listed.
    sweeps : bool
        List the runs of all sweeps and studies.

    Raises
    ------
    RunError
        If there is no such folder.
    """
    if not folder.is_dir():
        raise RunError(f"{folder}: no such folder; pass the folder that holds your runs")
    left_out: list[Path] = []
    found = [_read(path) for path in _run_directories(folder, left_out, sweeps=sweeps, given=True)]
    return found, len(left_out)


def _run_directories(folder: Path, left_out: list[Path], *, sweeps: bool, given: bool = False) -> Iterator[Path]:
    if (folder / "checkpoint.safetensors").exists():
        yield folder
        return
    if not (given or sweeps) and any((folder / name).exists() for name in OF_MANY_RUNS):
        left_out.append(folder)
        return
    try:
        with os.scandir(folder) as entries:
            inner = sorted(entry.name for entry in entries if entry.is_dir() and not entry.name.startswith("."))
    except OSError:  # of others
        return
    asked = sweeps or (given and any((folder / name).exists() for name in OF_MANY_RUNS))  # a study holds sweeps
    for name in inner:
        place = folder / name
        if given or not place.is_symlink():  # which could lead in a circle
            yield from _run_directories(place, left_out, sweeps=asked)


def _read(path: Path) -> ListedRun:
    """Return a run with the facts in its summary."""
    run = Run(path)
    try:
        summary, scores = run.summary, run.scores
        settings, data, seconds = summary["config"], summary["data"], float(summary["seconds"])
        if "dates" in summary:
            dated = datetime.fromisoformat(summary["dates"]["started"]).astimezone()  # in the user's time
        else:  # an older run
            dated = datetime.fromtimestamp(run.summary_path.stat().st_mtime).astimezone()
        values = {"run": str(path), "date": dated, "data": f"{data['name']}, {data['protocol']}", "seconds": seconds}
        values |= {name: score.accuracy for name, score in scores.items()} | {"loss": scores["validation"].loss}
        if "evaluation" in summary:
            values["balanced"] = float(summary["evaluation"]["balanced_accuracy"])
        old = {**asdict(COURSEWORK), "fit": "squeeze"}  # the values of settings that old runs do not name
        return ListedRun(path, values, old | settings)
    except RunError as error:
        return ListedRun(path, {"run": str(path)}, problem=str(error))
    except (OSError, KeyError, TypeError, ValueError) as error:
        return ListedRun(path, {"run": str(path)}, problem=f"{run.summary_path}: damaged ({error!s:.80})")


def sort_runs(runs: list[ListedRun], column: str) -> list[ListedRun]:
    """Return runs in the order of a column or a setting: the largest date or accuracy first, else the least.

    Raises
    ------
    ConfigError
        If there is no such column.
    """
    name = column.replace("-", "_")
    settings = dict.fromkeys(name for run in runs for name in run.settings)
    if runs and name not in (*COLUMNS, *settings):
        known = ", ".join(dict.fromkeys([*COLUMNS, *settings]))
        raise ConfigError(f"--sort {column} is not a column or a setting; take one of {known}")
    found = [run for run in runs if _is_known(run.value(name))]
    numbers = all(isinstance(run.value(name), int | float | datetime) for run in found)
    found.sort(key=lambda run: run.value(name) if numbers else str(run.value(name)), reverse=name in LARGEST_FIRST)
    return found + [run for run in runs if not _is_known(run.value(name))]


def _is_known(value: object) -> bool:
    return value is not None and not (isinstance(value, float) and math.isnan(value))


def settings_that_differ(runs: list[ListedRun]) -> tuple[str, ...]:
    """Return the names of the settings in which runs differ, or of the usual ones if there are none.

    The data decide about fit where it is not given, so a difference in fit counts between runs on the same data only.
    """

    def differs(name: str) -> bool:
        data = [run.values["data"] if name == "fit" else "" for run in runs]
        return len({(of, typed(run.settings.get(name))) for of, run in zip(data, runs, strict=True)}) > len({*data})

    return tuple(filter(differs, dict.fromkeys(name for run in runs for name in run.settings))) or ALWAYS
