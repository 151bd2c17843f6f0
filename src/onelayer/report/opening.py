"""The first screen of a report: the result in one sentence, and its figures beside those of the references."""

from collections.abc import Sequence
from dataclasses import dataclass

from onelayer.analysis.estimates import Estimate, effective_rows, fraction, named
from onelayer.analysis.evaluation import Evaluation
from onelayer.analysis.references import Reference, Verdict
from onelayer.config import COURSEWORK, TrainConfig
from onelayer.data.dataset import Split, Splits
from onelayer.report.subject import SettingRuns, Subject
from onelayer.words import counted, mean_and_sd

COURSE = (
    "KTH DD2424, Assignment 1",
    "https://www.kth.se/student/kurser/kurs/DD2424?l=en",
)
# A setting of the coursework may have other values of these.
FREE = ("learning_rate", "l2", "seed", "backend", "device", "threads")


@dataclass(frozen=True)
class Figure:
    """A figure of the first screen.

    Parameters
    ----------
    name : str
    estimate : Estimate
    of_reference : bool
        True if it is that of a reference, which needs no training.
    """

    name: str
    estimate: Estimate
    of_reference: bool = False


def figures(
    best: SettingRuns,
    evaluation: Evaluation,
    references: Sequence[Reference],
    verdict: Verdict | None,
    splits: Splits,
) -> list[Figure]:
    """Return the figures of the first run of a setting; those of the references are what the verdict compares."""
    of_rows, training = evaluation.estimates, best.scores[0]["train"].accuracy
    compared = verdict.figure if verdict else "accuracy"
    of_figure = "" if compared == "accuracy" else f", {named(compared)}"
    return [
        Figure(f"{best.split} accuracy", of_rows["accuracy"]),
        *[Figure(f"{best.split} {named(compared)}", of_rows[compared])] * bool(of_figure),
        *(Figure(one.name + of_figure, one.estimates[compared], of_reference=True) for one in references),
        Figure("training accuracy", accuracy_on(splits.train, training)),
        Figure(f"{best.split} loss", of_rows["loss"]),
        Figure("calibration error", of_rows["calibration_error"]),
    ]


def accuracy_on(split: Split, share: float) -> Estimate:
    """Return a recorded accuracy on the rows of a split with its interval."""
    weights = split.row_weights(slice(None))
    return fraction(share, len(split) if weights is None else effective_rows(weights))


def judged(best: SettingRuns, verdict: Verdict, several: bool) -> str:
    """Return the verdict on the first run of a setting in a sentence."""
    return f"With seed {best.seeds[0]}, it is {verdict}." if several else f"It is {verdict}."


def result(subject: Subject, best: SettingRuns, evaluation: Evaluation, splits: Splits) -> str:
    """Return the result in one sentence."""
    settings = sum(len(group.settings) for group in subject.groups)
    weighted = "" if evaluation.weights is None else ", counted by their weights,"
    rows = f"the {len(evaluation.labels):,} {best.split} rows of {splits.dataset.name}{weighted}"
    if settings == 1 == len(best.runs):
        found = evaluation.estimates["accuracy"]
        sentence = f"The layer gets {found.number()} of {rows} right (95 % interval {found.interval()})"
        balanced = evaluation.estimates["balanced_accuracy"]
        if best.plan.config.class_weight == "none":
            return f"{sentence}."
        return f"{sentence}; its balanced accuracy is {balanced.number()} ({balanced.interval()})."
    mean = f"{mean_and_sd(*best.mean_sd(best.split))} % of {rows} right"
    seeds = f" (mean and standard deviation of {len(best.runs)} seeds)" if len(best.runs) > 1 else ""
    if settings == 1:
        return f"The layer gets {mean}{seeds}."
    within = f" of {subject.groups[0].name}" if len(subject.groups) > 1 else ""
    count = counted(len(subject.groups[0].settings), "setting")
    return f"Of the {count}{within}, {best.name} is the best on validation: it gets {mean}{seeds}."


def course(subject: Subject, config: TrainConfig, splits: Splits) -> tuple[str, str] | None:
    """Return name and address of the course whose coursework this is: a study of it, or its data and settings."""
    ours = {name: getattr(config, name) for name in vars(config) if name not in FREE}
    same = ours == {name: getattr(COURSEWORK, name) for name in ours}
    is_its_data = splits.dataset.name == "CIFAR-10" and splits.protocol == "batch"
    return COURSE if subject.kind == "study" or (same and is_its_data) else None
