"""Notes on probes: what a reader of their figures must know."""

from collections.abc import Iterator, Sequence

import numpy as np

from onelayer.analysis.estimates import effective_rows, fraction
from onelayer.data.dataset import Splits
from onelayer.experiments.probe.trials import Outcome
from onelayer.words import counted, listed, number, percent

FEW_ROWS = 50  # that validate: with fewer, an accuracy may have an interval of more than 27 points


def notes_on(outcome: Outcome, splits: Splits, recipe: str, setting: str, normalize: str, few: bool) -> list[str]:
    """Return sentences on a probe; `few` says that a few rows of each class were asked for."""
    notes = [*_on_choice(outcome, splits, setting), *_on_few_validation_rows(splits)] if setting else []
    notes += _on_convergence(outcome, setting, normalize)
    if not few:
        notes += _on_classes(splits)
    if recipe == "ridge" and normalize != "standardize":
        notes.append("ridge standardizes the features in any case, as its original does")
    if outcome.model is None:
        notes.append(f"{recipe} is not a layer, so it has no run")
    elif not setting:
        notes.append(f"the probabilities of {recipe} are not fitted; only its classes count")
    return notes


def notes_on_few(outcomes: Sequence[Outcome], splits: Splits, setting: str) -> list[str]:
    """Return sentences on probes of few rows, each of which has its own choice."""
    notes, of = [*_on_few_validation_rows(splits)] if setting else [], counted(len(outcomes), "probe")
    if alike := sum(map(_could_not_choose, outcomes)):
        notes.append(
            f"the validation rows could not choose in {alike} of {of}: all values of {setting} are equally good"
        )
    if loose := sum(not outcome.converged for outcome in outcomes):
        notes.append(f"the final fit did not converge in {loose} of {of}")
    return notes


def _could_not_choose(outcome: Outcome) -> bool:
    return len(outcome.trials) > 1 and len({trial.accuracy for trial in outcome.trials}) == 1


def _on_choice(outcome: Outcome, splits: Splits, setting: str) -> Iterator[str]:
    chosen, trials = outcome.chosen, outcome.trials
    if chosen is None or len(trials) == 1:
        return
    at = f"{setting} {number(chosen.value)}"
    if _could_not_choose(outcome):
        rows = counted(len(splits.validation), "validation row")
        strongest = ", the strongest penalty" if setting == "C" else ""
        yield (
            f"the validation rows could not choose: all {len(trials)} values of {setting} are right on "
            f"{percent(chosen.accuracy)} of {rows}; {at} is the smallest{strongest}"
        )
    elif chosen in (trials[0], trials[-1]):
        edge = "smallest" if chosen is trials[0] else "largest"
        yield f"{at} is the {edge} that was tried; a better one may lie beyond it"


def _on_few_validation_rows(splits: Splits) -> Iterator[str]:
    weights = splits.validation.row_weights(slice(None))
    n = len(splits.validation) if weights is None else effective_rows(weights)
    if n < FEW_ROWS:
        half = fraction(0.5, n)
        rows = counted(len(splits.validation), "validation row")
        width = 100 * (half.high - half.low)
        yield f"{rows} alone chose: the 95 % interval of an accuracy on them is up to {width:.0f} points wide"


def _on_convergence(outcome: Outcome, setting: str, normalize: str) -> Iterator[str]:
    chosen, loose = outcome.chosen, [trial for trial in outcome.trials if not trial.converged]
    if chosen and loose:
        first = "" if len(loose) == len(outcome.trials) else f", the smallest {number(loose[0].value)}"
        yield (
            f"not converged, as passes are limited and rounding hides small gaps: {len(loose)} of "
            f"{len(outcome.trials)} values of {setting}{first}; {setting} {number(chosen.value)}, which was chosen, is "
            f"{'not ' * (not chosen.converged)}converged"
        )
    if not outcome.converged:
        yield f"the final fit did not converge: {outcome.ended.partition(';')[0]}"
    if normalize != "standardize" and not (outcome.converged and (chosen is None or chosen.converged)):
        yield "fits mostly need fewer passes with --normalize standardize, and for a smaller C"


def _on_classes(splits: Splits) -> Iterator[str]:
    """Yield a note on classes that have one row or none to train on; the validation rows are trained on, too."""
    names = splits.dataset.class_names
    counts = np.bincount(np.concatenate([splits.train.labels, splits.validation.labels]), minlength=len(names))
    if few := [name for name, rows in zip(names, counts.tolist(), strict=True) if rows < 2]:
        yield (
            f"{len(few)} of {len(names)} classes have at most one row to train and validate on ({listed(few)}); "
            "figures of these say little about the features"
        )
