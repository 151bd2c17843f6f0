"""Functions that draw results, for `onelayer.drawing`."""

from matplotlib.figure import Figure

from onelayer.analysis.evaluation import Evaluation
from onelayer.drawing import picture_of
from onelayer.pictures.confusion import confusion


@picture_of.register
def draw_evaluation(evaluation: Evaluation) -> Figure:
    """Return the confusion matrix of an evaluation."""
    return confusion(evaluation.confusion, evaluation.class_names, evaluation.in_words())
