"""A finished training, judged once, for the screen, the files and the pictures: evaluation, references, advice."""

from dataclasses import dataclass
from typing import Any

from onelayer.analysis.advice import advice_on_answers, advice_on_training, loss_before, sees_pictures
from onelayer.analysis.evaluation import Evaluation, evaluate
from onelayer.analysis.references import Reference, Verdict, references_for, verdict_of
from onelayer.analysis.summary import summary_of
from onelayer.config import TrainConfig
from onelayer.data.dataset import Splits
from onelayer.training.converged import FLAT, REACHED, SEPARABLE, SURE
from onelayer.training.state import Problem, TrainingResult

OPTIMA = (REACHED, SURE, SEPARABLE, FLAT)  # ends of the solver converged with nothing left to do


@dataclass(frozen=True, eq=False)
class Judgement:
    """A model on the test rows, or where there are none on the validation rows.

    Parameters
    ----------
    evaluation : Evaluation
    references : list of Reference
    verdict : Verdict or None
    advice : list of str
        Sentences, each with what to type.
    """

    evaluation: Evaluation
    references: list[Reference]
    verdict: Verdict | None
    advice: list[str]

    @property
    def summary(self) -> dict[str, Any]:
        """The entries `evaluation` (see `summary_of`) and `advice` of ``summary.json``."""
        return {"evaluation": summary_of(self.evaluation, self.references, self.verdict), "advice": self.advice}


def judge(result: TrainingResult, splits: Splits, config: TrainConfig) -> Judgement | None:
    """Evaluate a trained model beside its references; None where no rows are held out to do so.

    Parameters
    ----------
    result : TrainingResult
    splits : Splits
    config : TrainConfig
    """
    rows = splits.test if splits.test.weight > 0 else splits.validation
    if rows is splits.validation and not splits.holds_out:
        return None
    model, history = result.model, result.state.history
    evaluation = evaluate(model, rows)
    references = references_for(model, splits.train, rows, evaluation)
    verdict = verdict_of(evaluation, references, config)
    if not history:  # the initial weights show nothing
        return Judgement(evaluation, references, verdict, [])
    problem = Problem.of(splits, config, model.standardizer, model.features)  # both as they are, not computed again
    K = len(model.class_names)
    train = problem.splits.train if problem.splits.dataset.is_complete else problem.splits.train.mine
    start = loss_before(model, problem.initial(model.features.d_out, K).layer, train)
    known = [one.estimates["loss"].value for one in references if "loss" in one.estimates]
    measured = (evaluation.loss, min(known)) if known and config.class_weight == "none" else None
    advice = [f"not converged: {result.ended}"]
    if config.solver == "sgd" or result.ended in OPTIMA:
        advice = advice_on_training(
            history, result.kept_epoch, start, model.layer.loss, K, config, splits.holds_out, measured
        )
    advice += advice_on_answers(evaluation, verdict, config, settled=not advice, pictures=sees_pictures(model))
    return Judgement(evaluation, references, verdict, advice)
