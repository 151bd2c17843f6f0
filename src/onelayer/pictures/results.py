"""The pictures that results draw of themselves, by `onelayer.drawing`."""

from matplotlib.figure import Figure

from onelayer.analysis.evaluation import Evaluation
from onelayer.drawing import draws
from onelayer.pictures.mistakes import confusion


@draws(Evaluation)
def draw_evaluation(evaluation: Evaluation) -> Figure:
    """Return the confusion matrix of an evaluation."""
    return confusion(evaluation.confusion, evaluation.class_names, evaluation.in_words())
