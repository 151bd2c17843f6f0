"""One HTML file on probes, in the style of a report: what was asked, the figures, and how the settings were chosen."""

import math
import shlex
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from onelayer.analysis.estimates import Estimate, effective_rows, wilson
from onelayer.data.dataset import Dataset
from onelayer.data.formats.array_note import in_words
from onelayer.experiments.comparison import Comparison, in_points
from onelayer.experiments.probe import NORMALIZED, RECIPES, Probe, notes_on_probes
from onelayer.experiments.sweep import mean_sd
from onelayer.pictures.probe import curve_of_trials, curves_of_shots
from onelayer.report.drawings import CHART_WIDTH, svg
from onelayer.report.html import page_of
from onelayer.runs.directory import now
from onelayer.words import counted, mean_and_sd, number, percent

MOST_CLASSES = 1000  # with a row in the table of classes


def render_probes(
    found: Mapping[str, Sequence[Probe]],
    compared: Sequence[tuple[str, str, int | None, Comparison]],
    files: Sequence[tuple[str, str]],
    split_seed: int,
) -> str:
    """Return the page of probes.

    Parameters
    ----------
    found : mapping of str to sequence of Probe
        The probes of each encoder, by the name it was given: one, or one for each number of shots and seed.
    compared : sequence of (str, str, int or None, Comparison)
        The names of two encoders, the number of shots, and their comparison.
    files : sequence of (str, str)
        Names and places of the other files that were written.
    split_seed : int
        The seed that divided the rows.
    """
    everything = [probe for of_source in found.values() for probe in of_source]
    first = everything[0]
    shots = list(dict.fromkeys(probe.shots for probe in everything if probe.shots))
    parts = {
        "title": f"Probe of {', '.join(found)}" if len(found) < 4 else f"Probe of {len(found)} encoders",
        "date": now()[:10],
        "result": _result(found, shots),
        "facts": _facts(found, first, shots, split_seed),
        "figures": list(first.figures),
        "rows": _rows(found, shots),
        "shots": shots and _shots(found, shots),
        "choices": [] if shots else [choice for name, (probe,) in found.items() if (choice := _choice(name, probe))],
        "setting": first.setting,
        "compared": [_compared(*comparison) for comparison in compared],
        "names": list(found),
        "classes": [] if shots else _classes(found),
        "notes": [(name, note) for name, of_source in found.items() for note in notes_on_probes(of_source)],
        "files": files,
        "command": _command(found, first, shots, split_seed),
    }
    return page_of("probes.html.j2", parts)


def _result(found: Mapping[str, Sequence[Probe]], shots: Sequence[int]) -> str:
    """Return the test accuracy of each encoder; of few rows, that with the most shots."""
    if shots:
        means = {name: _mean(of_source, shots[-1], "top-1") for name, of_source in found.items()}
        said = "; ".join(f"{name}: {mean_and_sd(*mean)} %" for name, mean in means.items())
        return f"Top-1 of the test rows with {counted(shots[-1], 'training row')} of each class: {said}."
    said = "; ".join(f"{name}: {probe.figures['top-1'].in_words()}" for name, (probe,) in found.items())
    return f"Top-1 of the test rows: {said}."


def _facts(
    found: Mapping[str, Sequence[Probe]], first: Probe, shots: Sequence[int], split_seed: int
) -> dict[str, list[tuple[str, str]]]:
    """Return names and values of what was asked, of the rows, and of the features."""
    dataset, splits = first.splits.dataset, first.splits
    chosen = f"{first.setting}, by the accuracy on the validation rows" if first.setting else "nothing"
    fitted = "training and validation rows" if not shots else "the few training rows"
    asked = [
        ("recipe", f"{first.recipe}: {RECIPES[first.recipe].words}"),
        ("normalize", f"{first.normalize}: {NORMALIZED[first.normalize]}"),
        ("chosen", chosen),
        ("fitted at last on", fitted),
    ]
    if shots:
        seeds = sorted({probe.seed for of_source in found.values() for probe in of_source if probe.seed is not None})
        asked += [("shots", ", ".join(map(str, shots))), ("seeds of the draws", ", ".join(map(str, seeds)))]
    sizes = [(f"{split.name} rows", f"{len(split):,}") for split in splits if not (shots and split.name == "train")]
    rows = [
        *sizes,
        ("classes", f"{len(dataset.class_names):,}"),
        ("division", splits.protocol),
        ("split seed", str(split_seed)),
    ]
    encoders = [(name, _of_features(of_source[0].splits.dataset)) for name, of_source in found.items()]
    return {"Asked": asked, "Rows": rows, "Features": encoders}


def _of_features(dataset: Dataset) -> str:
    """Return the size and the type of rows, and the note of what made them, in words."""
    words = f"{dataset.rows.shape[1]:,} {dataset.rows.dtype} numbers in a row"
    return f"{words}; made by {in_words(dataset.made_by)}" if dataset.made_by else words


def _rows(found: Mapping[str, Sequence[Probe]], shots: Sequence[int]) -> list[dict[str, Any]]:
    """Return a row of the table of figures for each encoder and number of shots."""
    rows = []
    for name, of_source in found.items():
        for count in shots or (None,):
            probes = [probe for probe in of_source if probe.shots == count]
            if count:
                means = [(_mean(probes, count, figure), figure) for figure in probes[0].figures]
                cells = [(f"{mean[0]:.6f}", f"{mean_and_sd(*mean)} %", "") for mean, _ in means]
            else:
                cells = [(f"{of.value:.6f}", of.number(), of.interval()) for of in probes[0].figures.values()]
            chosen = probes[0].outcome.chosen if not count else None
            rows.append({"name": name, "shots": count, "cells": cells, "chosen": chosen and number(chosen.value)})
    return rows


def _mean(probes: Sequence[Probe], count: int, figure: str) -> tuple[float, float]:
    return mean_sd([probe.figures[figure].value for probe in probes if probe.shots == count])


def _shots(found: Mapping[str, Sequence[Probe]], shots: Sequence[int]) -> str:
    """Draw the curves of few rows."""
    scores = {
        name: np.array([_mean(of_source, count, "top-1") for count in shots]) for name, of_source in found.items()
    }
    said = "; ".join(
        f"{name} from {percent(float(of[0, 0]))} to {percent(float(of[-1, 0]))}" for name, of in scores.items()
    )
    alt = f"Top-1 by the training rows of each class, from {shots[0]} to {shots[-1]}: {said}"
    return svg(curves_of_shots(shots, scores, CHART_WIDTH), alt)


def _choice(name: str, probe: Probe) -> dict[str, Any] | None:
    """Return the curve and the table of the values that were tried; None if nothing was."""
    trials, best = probe.outcome.trials, probe.outcome.chosen
    if best is None:
        return None
    validation = probe.splits.validation
    weights = validation.row_weights(slice(None))
    n = len(validation) if weights is None else effective_rows(weights)
    shares = np.array([trial.accuracy for trial in trials])
    scores = np.stack([shares, *wilson(shares, np.full(len(shares), n))], axis=1)  # (m, 3)
    converged = np.array([trial.converged for trial in trials])
    values = np.array([trial.value for trial in trials], float)
    figure = curve_of_trials(values, scores, converged, trials.index(best), probe.setting, CHART_WIDTH)
    alt = (
        f"{name}: validation accuracy by {probe.setting}, from {percent(shares[0])} at {number(values[0])} to "
        f"{percent(shares[-1])} at {number(values[-1])}, highest {percent(best.accuracy)} at {number(best.value)}"
    )
    rows = [
        (t.value, number(t.value), t is best, Estimate(*of), t.passes, "yes" if t.converged else "no")
        for t, of in zip(trials, scores.tolist(), strict=True)
    ]
    return {
        "name": name,
        "chart": svg(figure, alt),
        "value": number(best.value),
        "accuracy": Estimate(*scores[trials.index(best)].tolist()).in_words(),
        "loose": int((~converged).sum()),
        "iterates": best.passes is not None,
        "rows": rows,
    }


def _compared(a: str, b: str, count: int | None, comparison: Comparison) -> dict[str, Any]:
    p_values = comparison.row_p_value, comparison.seed_p_value  # NaN where all draws differ by the same
    return {
        "a": a,
        "b": b,
        "shots": count,
        "value": comparison.difference,
        "difference": in_points(comparison.difference, comparison.interval, sign="+"),
        "only": (f"{comparison.only_a:,}", f"{comparison.only_b:,}"),
        "p_values": ["-" if math.isnan(p) else f"{p:.2g}" for p in p_values if p is not None],
        "verdict": comparison.verdict(),
    }


def _classes(found: Mapping[str, Sequence[Probe]]) -> list[dict[str, Any]]:
    """Return the accuracy of each class by each encoder, with intervals."""
    columns = [probe.evaluation.by_class for (probe,) in found.values()]
    (first,) = next(iter(found.values()))
    return [
        {
            "name": name,
            "rows": columns[0]["rows"][k].item(),
            "cells": [Estimate(*(of[f"recall{end}"][k].item() for end in ("", "_low", "_high"))) for of in columns],
        }
        for k, name in enumerate(first.splits.dataset.class_names[:MOST_CLASSES])
    ]


def _command(found: Mapping[str, Sequence[Probe]], first: Probe, shots: Sequence[int], split_seed: int) -> str:
    """Return the command that probes the same again."""
    words = ["onelayer probe", *map(shlex.quote, found), f"--recipe {first.recipe}", f"--normalize {first.normalize}"]
    config = first.outcome.config
    if config and config.backend == "torch":
        words.append(f"--backend torch --device {config.device}")
    if shots:
        seeds = len({probe.seed for of_source in found.values() for probe in of_source})
        words += [f"--shots {' '.join(map(str, shots))}", f"--seeds {seeds}"]
    return " ".join([*words, f"--split-seed {split_seed}"])
