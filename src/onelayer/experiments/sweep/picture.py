"""The picture of a sweep: the validation score that chooses, by the options that vary."""

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING

import numpy as np

from onelayer.experiments.sweep.plan import SweepPlan, is_number
from onelayer.experiments.sweep.results import SettingResult, choose
from onelayer.pictures.grid import score_curve, score_map, score_points
from onelayer.words import option_value, spaced

if TYPE_CHECKING:
    from matplotlib.figure import Figure

NO_SCORE = (math.nan, math.nan, math.nan)


def grid_figure(plan: SweepPlan, results: Sequence[SettingResult]) -> "Figure | None":
    """Draw the validation scores of a sweep: a curve of one option, a heat map of two.

    Where more options vary, the two with the most values are shown, and the others are as in the chosen setting. If
    settings were drawn at random, two options are the places of points.

    Parameters
    ----------
    plan : SweepPlan
    results : sequence of SettingResult
        The settings of the plan, the best first.

    Returns
    -------
    Figure or None
        None if no option varies, or no setting is chosen.
    """
    best = choose(results)
    if best is None or not plan.varied:
        return None
    numeric = [name for name in plan.varied if all(map(is_number, plan.values(name)))]
    drawn = not plan.is_grid and len(numeric) > 1
    most = sorted(numeric if drawn else plan.varied, key=lambda name: -len(plan.values(name)))[:2]
    shown = [name for name in plan.varied if name in most]
    return (_points if drawn else _cells)(plan, results, best, shown)


def _points(plan: SweepPlan, results: Sequence[SettingResult], best: SettingResult, shown: Sequence[str]) -> "Figure":
    """Draw settings that were drawn at random as points."""
    x, y = (np.array([getattr(result.config, name) for result in results], np.float64) for name in shown)
    scores = np.array([_score(plan, result)[0] for result in results])
    names = spaced(shown[0]), spaced(shown[1])
    words = _title(plan, shown, _unit(plan)), _runs_in_words(plan)
    return score_points(x, y, scores, names, *words, results.index(best), lower_is_better=_is_loss(plan))


def _cells(plan: SweepPlan, results: Sequence[SettingResult], best: SettingResult, shown: Sequence[str]) -> "Figure":
    """Draw the scores of a grid by one option or two."""
    others = [name for name in plan.varied if name not in shown]
    alike = [r for r in results if all(getattr(r.config, name) == getattr(best.config, name) for name in others)]
    found = {tuple(getattr(result.config, name) for name in shown): _score(plan, result) for result in alike}
    values = [plan.values(name) for name in shown]
    labels = [[option_value(value) for value in of_option] for of_option in values]
    place = [of_option.index(getattr(best.config, name)) for name, of_option in zip(shown, values, strict=True)]
    as_chosen = ", ".join(f"{spaced(name)} {option_value(getattr(best.config, name))}" for name in others)
    note = "; ".join([_runs_in_words(plan, intervals=True), *[f"here {as_chosen}"] * bool(others)])
    if len(shown) == 1:
        scores = np.array([found.get((value,), NO_SCORE) for value in values[0]])
        last = sum(not is_number(value) for value in values[0])
        unit = f"validation {_what(plan)} ({_unit(plan)})"
        return score_curve(
            labels[0], scores, _axis(plan, shown[0]), unit, _title(plan, shown), note, place[0], words=last
        )
    scores = np.array([[found.get((first, second), NO_SCORE) for first in values[0]] for second in values[1]])
    options, title = (_axis(plan, shown[0]), _axis(plan, shown[1])), _title(plan, shown, _unit(plan))
    chosen = place[1], place[0]
    note = f"{note}; the frame is round the chosen setting"
    return score_map(labels[0], labels[1], scores, options, title, note, chosen, lower_is_better=_is_loss(plan))


def _score(plan: SweepPlan, result: SettingResult) -> tuple[float, float, float]:
    """Return the mean validation score of a setting and its interval; NaN if one of its runs diverged."""
    if any(run.status == "diverged" for run in result.runs):
        return NO_SCORE
    what = plan.select.replace("-", "_")
    scale = 1 if _is_loss(plan) else 100
    low, high = result.interval("validation", what)
    return scale * result.mean_sd("validation", what)[0], scale * low, scale * high


def _is_loss(plan: SweepPlan) -> bool:
    return plan.select == "loss"


def _what(plan: SweepPlan) -> str:
    return plan.select.replace("-", " ")


def _unit(plan: SweepPlan) -> str:
    return "nats, lower is better" if _is_loss(plan) else "%"


def _title(plan: SweepPlan, shown: Sequence[str], unit: str = "") -> str:
    return f"Validation {_what(plan)}{unit and f' ({unit})'} by {' and '.join(map(spaced, shown))}"


def _axis(plan: SweepPlan, name: str) -> str:
    """Return the name of an option for an axis on which its values stand side by side, whatever their distances."""
    steps = np.diff([value for value in plan.values(name) if is_number(value)])
    return spaced(name) + " (not to scale)" * (len(steps) > 1 and not np.allclose(steps, steps[0], atol=0))


def _runs_in_words(plan: SweepPlan, *, intervals: bool = False) -> str:
    if all(config.solver == "converged" for config in plan.configs):
        return "one run of each setting: seeds change nothing"
    if len(plan.seeds) == 1:
        return "one seed: the noise is not known"
    return f"mean of {len(plan.seeds)} seeds" + ", and its 95 % interval over the seeds" * intervals
