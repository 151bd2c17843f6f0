"""Scores of whole splits, computed by a second core while the first trains the next epoch."""

import threading
from collections.abc import Callable, Iterable
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np

from onelayer.blas import one_blas_thread
from onelayer.data.dataset import Split
from onelayer.data.windows import forward_windows, loaded
from onelayer.layer import SoftmaxLayer
from onelayer.parts import count_threads
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
            pieces = loaded(split, forward_windows(split)) if by_windows else (split,)
            totals = [backend.evaluate(layer, piece, cancelled) for piece in pieces]
            loss = sum(total.loss for total in totals) / split.weight
            right = sum(total.right for total in totals) / split.weight
            scores[split.name] = _of_first(problem.processes, Score(loss, loss + penalty, right))
    return scores


def _of_first(processes: Processes, score: Score) -> Score:
    """Return the score of rank 0, by which all decide."""
    return Score(*map(float, processes.broadcast(np.array([score.loss, score.cost, score.accuracy], np.float64))))


class Scorer:
    """A second thread that scores layers, one after the other, while the first thread trains.

    Parameters
    ----------
    problem : Problem
    backend : Backend
        Its `evaluate` may run while an epoch does.
    cancelled : callable
        Asked now and then, in the second thread; true ends what is being scored with an InterruptedError.
    """

    def __init__(self, problem: Problem, backend: Backend, cancelled: Callable[[], bool]) -> None:
        self._problem, self._backend, self._cancelled = problem, backend, cancelled
        self._closing = threading.Event()
        self._thread = ThreadPoolExecutor(1)
        # Several processes must ask for their sums in one order.
        self.overlaps = count_threads(problem.config.threads) > 1 and problem.processes.size == 1

    def submit(self, layer: SoftmaxLayer, splits: Iterable[Split]) -> Future[dict[str, Score]]:
        """Return the scores to come of a layer that nothing changes meanwhile."""
        return self._thread.submit(scores_of, self._problem, self._backend, layer, splits, self._ends)

    def close(self) -> None:
        """End the thread, without waiting for all that it was to score."""
        self._closing.set()
        self._thread.shutdown()

    def _ends(self) -> bool:
        return self._closing.is_set() or self._cancelled()
