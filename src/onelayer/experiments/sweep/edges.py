"""The edges of a grid: where the chosen value is the last one that was tried, a better one may lie beyond it."""

import math
from collections.abc import Sequence
from typing import Any

from onelayer.experiments.sweep.plan import SweepPlan, is_number
from onelayer.experiments.sweep.results import SettingResult, mean_sd, student_t
from onelayer.words import spaced

# Beyond these values there is nothing to try.
LEAST = {"batch_size": 1, "patience": 1}
LEAST |= dict.fromkeys(("l2", "init_std", "momentum", "epochs", "decay_every", "shuffle_blocks"), 0)
MOST = {"decay_factor": 1.0, "momentum": 0.99}
NOISE = 0.001  # of the loss, or of the accuracy: with one seed, smaller differences are not looked at
NARROW, WIDE = 2.0, 10.0  # the step to the next value to try, as a factor


def notes_on_choice(plan: SweepPlan, results: Sequence[SettingResult], best: SettingResult) -> list[str]:
    """Return a note that the settings differ by noise alone, or else those on the edges of the grid.

    Parameters
    ----------
    plan : SweepPlan
    results : sequence of SettingResult
    best : SettingResult
        The chosen one of `results`.
    """
    what = plan.select.replace("-", "_")
    values: dict[int, list[Any]] = {
        one.setting: [run.value("validation", what) for run in one.runs]
        for one in results
        if one.runs and all(run.status == "complete" for run in one.runs)
    }
    chosen = values.pop(best.setting, [])
    least = NOISE * (abs(mean_sd(chosen)[0]) if plan.select == "loss" else 1)
    if not values or any(_differ(chosen, other, least) for other in values.values()):
        return edge_notes(plan, best)
    noise = "noise" if len(plan.seeds) == 1 else "the noise of the seeds"
    scored = plan.select.replace("-", " ")
    return [f"the settings differ in validation {scored} by no more than {noise}; their choice hardly matters"]


def _differ(chosen: Sequence[Any], other: Sequence[Any], least: float) -> bool:
    """Return whether scores of the same seeds differ by more than noise; those of one seed by more than `least`."""
    mean, sd = mean_sd([a - b for a, b in zip(chosen, other, strict=True)])
    return abs(mean) > (least if math.isnan(sd) else student_t(len(chosen) - 1) * sd / math.sqrt(len(chosen)))


def edge_notes(plan: SweepPlan, best: SettingResult) -> list[str]:
    """Return a note for each option whose chosen value is the smallest or largest number tried, with what to type."""
    notes = []
    for name in (name for name in plan.varied if name != "features_seed"):  # whose size says nothing
        chosen, numbers = getattr(best.config, name), [value for value in plan.values(name) if is_number(value)]
        if is_number(chosen):
            notes.append(edge_note(name, chosen, numbers, least=LEAST.get(name), is_grid=plan.is_grid))
    return list(filter(None, notes))


def edge_note(
    name: str, chosen: float, numbers: Sequence[float], *, least: float | None, is_grid: bool = True
) -> str | None:
    """Return a note if the chosen value of an option is the smallest or largest number tried, with what to type.

    Parameters
    ----------
    name : str
    chosen : float
    numbers : sequence of float
        Those that were tried, in ascending order.
    least : float, optional
        The value below which there is nothing to try.
    is_grid : bool
        False if the numbers were drawn from a range.
    """
    if len(numbers) < 2 or chosen not in (numbers[0], numbers[-1]):
        return None
    upward = chosen == numbers[-1]
    if (chosen >= MOST.get(name, math.inf)) if upward else chosen == least:
        return None
    beyond = _beyond(chosen, numbers[-2] if upward else numbers[1], whole=isinstance(chosen, int))
    if not is_grid:  # the two ends of a range
        beyond = beyond[-1:]
    elif not upward and least is not None:
        beyond = [value for value in beyond if value > least] + [least]
    elif upward and name in MOST:
        beyond = [value for value in beyond if value < MOST[name]] + [MOST[name]]
    words = " ".join(f"{value:g}" for value in dict.fromkeys([chosen, *beyond]))
    edge = "largest" if upward else "smallest"
    what = f"{spaced(name)} {chosen:g} is the {edge} that was tried, and a better one may lie beyond it"
    return f"{what}; try --{name.replace('_', '-')} {words}"


def _beyond(chosen: float, neighbour: float, *, whole: bool) -> list[float]:
    """Return the next two values in the direction from its neighbour to the chosen one, in steps like the last one."""
    step = chosen / neighbour if neighbour else WIDE
    step = min(max(step, NARROW), WIDE) if step > 1 else max(min(step, 1 / NARROW), 1 / WIDE)
    values = [float(f"{chosen * step**power:.1g}") for power in (1, 2)]
    return [round(value) for value in values] if whole else values
