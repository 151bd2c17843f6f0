"""The first screen of a report: the result in one sentence, and the figures that a run has recorded about it."""

from dataclasses import dataclass
from typing import Any

from onelayer.analysis.estimates import Estimate
from onelayer.analysis.evaluation import Evaluation
from onelayer.config import COURSEWORK, TrainConfig
from onelayer.data.dataset import Splits
from onelayer.errors import RunError
from onelayer.report.subject import SettingRuns, Subject
from onelayer.runs.directory import Run
from onelayer.words import counted, mean_and_sd

COURSE = (
    "KTH DD2424, Assignment 1",
    "https://www.kth.se/student/kurser/kurs/DD2424?l=en",
)
# A setting of the coursework may have other values of these.
FREE = ("learning_rate", "l2", "seed", "backend", "threads")


@dataclass(frozen=True)
class Judged:
    """The recorded judgement of a model: references, the verdict against them, and advice.

    Parameters
    ----------
    references : tuple of (str, str, str)
        Name, accuracy and its 95 % interval in words, of each answer that needs no training.
    verdict : str
        A sentence; empty if none is recorded, as in older runs.
    better : bool
        True if the model is better than each reference beyond noise.
    advice : tuple of str
    """

    references: tuple[tuple[str, str, str], ...] = ()
    verdict: str = ""
    better: bool = True
    advice: tuple[str, ...] = ()


def judged(run: Run, evaluation: Evaluation) -> Judged:
    """Return what a run has recorded about its model on the rows of an evaluation.

    Raises
    ------
    RunError
        If the summary of the run is damaged.
    """
    summary = run.summary
    found = summary.get("evaluation")
    if not isinstance(found, dict) or found.get("name") != evaluation.name:
        return Judged()
    try:
        references = tuple((str(one["name"]), *_with_interval(one)) for one in found["references"])
        verdict, advice = found["verdict"] or {}, summary.get("advice") or ()
        sentence = f"It is {verdict['sentence']}." if verdict else ""
        return Judged(references, sentence, bool(verdict.get("better", True)), tuple(map(str, advice)))
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise RunError(f"{run.summary_path}: damaged ({error!s:.80})") from None


def _with_interval(figures: dict[str, Any]) -> tuple[str, str]:
    """Return a recorded accuracy and its interval in percent, with as many digits as the interval allows."""
    value, low, high = (float(figures[name]) for name in ("accuracy", "accuracy_low", "accuracy_high"))
    estimate = Estimate(value, low, high)
    return estimate.number(), estimate.interval()


def accuracy(evaluation: Evaluation) -> tuple[str, str]:
    """Return the accuracy and its 95 % interval in words."""
    estimate = evaluation.estimates["accuracy"]
    return estimate.number(), estimate.interval()


def result(subject: Subject, best: SettingRuns, evaluation: Evaluation, splits: Splits) -> str:
    """Return the result in one sentence."""
    settings = sum(len(group.settings) for group in subject.groups)
    weighted = "" if evaluation.weights is None else ", counted by their weights,"
    rows = f"the {len(evaluation.labels):,} {best.split} rows of {splits.dataset.name}{weighted}"
    if settings == 1 == len(best.runs):
        number, interval = accuracy(evaluation)
        within = f" (95 % interval {interval})" if interval else ""
        return f"The layer gets {number} of {rows} right{within}."
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
