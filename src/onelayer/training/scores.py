"""Scores of whole splits."""

from collections.abc import Callable, Iterable
from contextlib import closing, nullcontext

import numpy as np

from onelayer.blas import one_blas_thread
from onelayer.data.dataset import Split
from onelayer.data.windows import forward_windows, loaded
from onelayer.layer import SoftmaxLayer
from onelayer.processes import Processes
from onelayer.training.backends import Backend
from onelayer.training.history import Score
from onelayer.training.state import Problem


def scores_of(
    problem: Problem, backend: Backend, layer: SoftmaxLayer, splits: Iterable[Split], cancelled: Callable[[], bool]
) -> dict[str, Score]:
    """Return the scores of a layer on each of these splits that has weight, by the split's name.

    Raises
    ------
    InterruptedError
        If it was cancelled.
    """
    scores = {}
    with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):  # the caller looks for what is not finite
        penalty = float(layer.penalty(problem.config.l2))
        for split in splits:
            if split.weight == 0:
                continue
            by_windows = problem.config.shuffle_blocks and problem.processes.size == 1
            with closing(loaded(split, forward_windows(split))) if by_windows else nullcontext((split,)) as pieces:
                totals = [backend.evaluate(layer, piece, cancelled) for piece in pieces]
            loss = sum(total.loss for total in totals) / split.weight
            right = sum(total.right for total in totals) / split.weight
            scores[split.name] = _of_first(problem.processes, Score(loss, loss + penalty, right))
    return scores


def _of_first(processes: Processes, score: Score) -> Score:
    """Return the score of rank 0, by which all decide."""
    return Score(*map(float, processes.broadcast(np.array([score.loss, score.cost, score.accuracy], np.float64))))
