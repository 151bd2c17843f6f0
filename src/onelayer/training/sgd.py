"""Mini-batch gradient descent, as a generator of states. `onelayer.training.plain` is the same loop in plain NumPy.

The second core scores the weights of an epoch while the first trains the next, so a state is yielded once the scores
of its epoch are known: by then the next epoch may be trained already.
"""

import math
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future
from contextlib import nullcontext
from dataclasses import dataclass, replace

import numpy as np

from onelayer.blas import one_blas_thread
from onelayer.config import TrainConfig
from onelayer.data.scan import read_forwards
from onelayer.data.windows import draw_windows, loaded
from onelayer.errors import DivergedError
from onelayer.layer import SoftmaxLayer
from onelayer.training.backends import Backend
from onelayer.training.scores import Scorer
from onelayer.training.state import EpochRecord, Problem, Score, TrainingState


@dataclass(frozen=True)
class _Trained:
    """An epoch whose scores are still to come."""

    epoch: int
    layer: SoftmaxLayer
    rng_state: dict[str, object]
    scores: Future[dict[str, Score]]


def epochs(
    problem: Problem,
    start: TrainingState,
    *,
    report_test: bool = True,
    cancelled: Callable[[], bool] = bool,
) -> Generator[TrainingState, None, None]:
    """Train, and yield the state after each epoch once its scores are known.

    No setting of the whole process, such as the number of BLAS threads, is held while a state is looked at.
    The iterator's ``close()`` ends its second thread.

    Parameters
    ----------
    problem : Problem
    start : TrainingState
        As `Problem.begin` returns it.
    report_test : bool
        Score the test rows after the first and the last epoch; they are used for nothing else.
    cancelled : callable
        Asked now and then, in both threads; true ends the training.

    Raises
    ------
    DivergedError
        If a cost is not finite after an epoch.
    InterruptedError
        If it was cancelled.
    """
    config = problem.config
    backend = problem.open(start.layer)
    rng = np.random.default_rng()
    rng.bit_generator.state = start.rng_state
    state, settled_at = start, time.perf_counter()
    scorer = Scorer(problem, backend, cancelled)
    try:
        with read_forwards(problem.splits.dataset.rows) if config.shuffle_blocks else nullcontext():
            for trained in _trained_epochs(problem, backend, scorer, rng, start.epoch, report_test, cancelled):
                scores, now = trained.scores.result(), time.perf_counter()
                state = _settled(state, trained, scores, config, now - settled_at)
                settled_at = now
                yield state
    finally:
        scorer.close()  # Ctrl-C does not wait for what the other thread is scoring


def _trained_epochs(
    problem: Problem,
    backend: Backend,
    scorer: Scorer,
    rng: np.random.Generator,
    done: int,
    report_test: bool,
    cancelled: Callable[[], bool],
) -> Iterator[_Trained]:
    """Train, and yield each epoch; if two cores overlap, an epoch is yielded once the next one is trained."""
    splits, last = problem.splits, problem.config.epochs
    waiting = None
    for epoch in range(done + 1, last + 1):
        _train_epoch(problem, backend, epoch, rng, cancelled)
        layer, rng_state = backend.layer, dict(rng.bit_generator.state)
        if waiting:
            yield waiting
        scored = splits if report_test and epoch in (1, last) else (splits.train, splits.validation)
        waiting = _Trained(epoch, layer, rng_state, scorer.submit(layer, scored))
        if not scorer.overlaps:
            yield waiting
            waiting = None
    if waiting:
        yield waiting


def _train_epoch(
    problem: Problem, backend: Backend, epoch: int, rng: np.random.Generator, cancelled: Callable[[], bool]
) -> None:
    """Visit every training row once, in an order that is drawn, some of them mirrored."""
    if cancelled():  # an epoch that is over in no time does not ask
        raise InterruptedError
    train, config = problem.splits.train, problem.config
    windows = draw_windows(len(train), config.shuffle_blocks, min(config.batch_size, len(train)), rng)
    flipped = rng.random(len(train)) < 0.5 if config.flip else None
    if config.shuffle_blocks:
        visits = loaded(train, windows)
    else:
        visits = iter([replace(train, indices=train.indices[windows[0]])])
    done = 0
    with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):  # a cost that is not finite is an error
        for window in visits:
            mirrored = None if flipped is None else flipped[done : done + len(window)]
            backend.run_epoch(window, config.learning_rate_at(epoch), mirrored, cancelled)
            done += len(window)


def _settled(
    before: TrainingState, trained: _Trained, scores: dict[str, Score], config: TrainConfig, seconds: float
) -> TrainingState:
    """Return the state after an epoch that has its scores now."""
    if not all(math.isfinite(scores[name].cost) for name in ("train", "validation") if name in scores):
        raise DivergedError(
            f"the cost after epoch {trained.epoch} is not a finite number: the steps are too long; "
            f"try a learning rate below {config.learning_rate:g}",
            trained.epoch,
        )
    record = EpochRecord.of(trained.epoch, config.learning_rate_at(trained.epoch), scores, seconds)
    return TrainingState(trained.layer, trained.rng_state, (*before.history, record), scores)
