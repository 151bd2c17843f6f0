"""Mini-batch gradient descent, as a generator of states. `onelayer.training.plain` is the same loop in plain NumPy.

One core scores the weights of an epoch while another trains on. A state is yielded as soon as its scores are known, in
the middle of the next epoch; a GPU, which works for one thread at a time, may end that epoch first.
"""

import math
import threading
import time
from collections.abc import Callable, Generator, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing, nullcontext
from dataclasses import dataclass, replace

import numpy as np

from onelayer.blas import one_blas_thread
from onelayer.data.scan import read_forwards
from onelayer.data.windows import draw_windows, loaded
from onelayer.errors import DivergedError
from onelayer.layer import SoftmaxLayer
from onelayer.parts import count_threads
from onelayer.training.backends import Backend, Velocity
from onelayer.training.history import EpochRecord, Score
from onelayer.training.schedule import MOST_EPOCHS, Decision, decide, learning_rate_of, watched
from onelayer.training.scores import scores_of
from onelayer.training.state import Kept, Problem, SolverState, TrainingState

VELOCITY = ("velocity", "bias_velocity")  # arrays of the solver's state, (d, K) and (K,)


@dataclass(frozen=True)
class _Trained:
    """An epoch whose scores are still to come."""

    epoch: int
    learning_rate: float
    layer: SoftmaxLayer
    velocity: Velocity | None
    rng_state: dict[str, object]


def epochs(
    problem: Problem,
    start: TrainingState,
    *,
    report_test: bool = True,
    cancelled: Callable[[], bool] = bool,
) -> Generator[TrainingState, None, None]:
    """Train, and yield the state after each epoch once its scores are known.

    While a state is looked at, a second thread trains the next one or two epochs, if the settings allow two; until they
    end, BLAS has one thread in the whole process. A single thread holds no setting of the process meanwhile.
    The iterator's ``close()`` ends the second thread.

    Parameters
    ----------
    problem : Problem
    start : TrainingState
        As `Problem.begin` returns it.
    report_test : bool
        Score the test rows after the first epoch, and after the last if it is kept; they are used for nothing else.
    cancelled : callable
        Asked now and then, in both threads; true ends the training.

    Raises
    ------
    DivergedError
        If a cost is not finite after an epoch.
    InterruptedError
        If it was cancelled.
    """
    if start.ended:
        return
    trainer = _Trainer(problem, start, report_test, cancelled)
    try:
        with read_forwards(problem.splits.dataset.rows) if problem.config.shuffle_blocks else nullcontext():
            yield from _epochs(problem, start, trainer)
    finally:
        trainer.close()  # Ctrl-C does not wait for what the other thread is training


def _epochs(problem: Problem, state: TrainingState, trainer: "_Trainer") -> Iterator[TrainingState]:
    settled_at, decision = time.perf_counter(), decide(problem.config, state.history, problem.splits.holds_out)
    trained, ahead = trainer.train(state, decision), trainer.train_ahead(decision)
    while True:
        scores, now = trainer.score(trained), time.perf_counter()
        state, settled_at = _settled(problem, state, decision, trained, scores, now - settled_at), now
        expected, decision = decision, decision.after(problem.config, state.history)
        if decision.ended:
            yield replace(state, ended=decision.ended)
            return
        # The epoch ahead was trained as if these scores would change nothing; with a decay, it is thrown away.
        goes_on = ahead is not None and decision.decays == expected.decays
        following = trainer.train_ahead(decision) if goes_on else None  # asked for now, it begins without a pause
        yield state
        if ahead:
            trained = ahead.result()
        if not goes_on:
            trained, following = trainer.train(state, decision), trainer.train_ahead(decision)
        ahead = following


class _Trainer:
    """Trains the epochs of a problem, some of them ahead in a second thread, and scores them."""

    def __init__(
        self, problem: Problem, start: TrainingState, report_test: bool, cancelled: Callable[[], bool]
    ) -> None:
        self._problem, self._report_test, self._cancelled = problem, report_test, cancelled
        self._backend, self._done = problem.open(start.layer, _velocity(start)), start.epoch
        self._asked = start.epoch  # the last epoch that is to be trained, maybe by the second thread
        self._first_rate, self._rng = problem.first_rate(start), np.random.default_rng()
        self._rng.bit_generator.state = start.rng_state
        self._closing, self._thread = threading.Event(), ThreadPoolExecutor(1)
        # Several processes must ask for their sums in one order.
        self._overlaps = count_threads(problem.config.threads) > 1 and problem.processes.size == 1

    def close(self) -> None:
        """End the second thread, without waiting for all that it was to train."""
        self._closing.set()
        self._thread.shutdown()

    def train(self, state: TrainingState, decision: Decision) -> _Trained:
        """Train the epoch after a state, from its last layer, or from the best so far if it is decided so.

        No epoch may be under way.
        """
        if state.epoch != self._done or decision.from_best:
            best = state.best.layer if decision.from_best and state.best else None
            self._backend = self._problem.open(best) if best else self._problem.open(state.layer, _velocity(state))
            self._rng.bit_generator.state = state.rng_state
            self._done = state.epoch
        self._asked = state.epoch + 1
        return self._train_next(decision)

    def train_ahead(self, decision: Decision) -> Future[_Trained] | None:
        """Train the epoch after the last one; None if that was the end, or nothing else would overlap with it."""
        config = self._problem.config
        last = MOST_EPOCHS if config.epochs == "auto" else config.epochs
        if not self._overlaps or self._asked >= last:
            return None
        self._asked += 1
        return self._thread.submit(self._train_next, decision)

    def _train_next(self, decision: Decision) -> _Trained:
        epoch, config = self._done + 1, self._problem.config
        learning_rate = learning_rate_of(config, self._first_rate, epoch, decision.decays)
        _train_epoch(self._problem, self._backend, learning_rate, self._rng, self._ends)
        self._done = epoch
        rng_state = dict(self._rng.bit_generator.state)
        return _Trained(epoch, learning_rate, self._backend.layer, self._backend.velocity, rng_state)

    def score(self, trained: _Trained) -> dict[str, Score]:
        """Return the scores of an epoch; also of test rows after the first, and after a last that is kept."""
        splits, problem = self._problem.splits, self._problem
        tested = trained.epoch == 1 or (trained.epoch == problem.config.epochs and not problem.keeps_best)
        scored = splits if tested and self._report_test else tuple(splits)[:2]
        return scores_of(problem, self._backend, trained.layer, scored, self._cancelled)

    def _ends(self) -> bool:
        return self._closing.is_set() or self._cancelled()


def _velocity(state: TrainingState) -> Velocity | None:
    """Return the velocity of a state; None if it has none of these rows and classes."""
    arrays = [state.solver.arrays.get(name) for name in VELOCITY] if state.solver else [None, None]
    shapes = state.layer.weights.shape, state.layer.bias.shape
    V, v = (
        array if array is not None and array.shape == of else None for array, of in zip(arrays, shapes, strict=True)
    )
    return None if V is None or v is None else (V, v)


def _train_epoch(
    problem: Problem, backend: Backend, learning_rate: float, rng: np.random.Generator, cancelled: Callable[[], bool]
) -> None:
    """Visit every training row once, in an order that is drawn, some of them mirrored."""
    if cancelled():  # an epoch that is over in no time does not ask
        raise InterruptedError
    train, config = problem.splits.train, problem.config
    windows = draw_windows(len(train), config.shuffle_blocks, min(config.batch_size, len(train)), rng)
    flipped = rng.random(len(train)) < 0.5 if config.flip else None
    if config.shuffle_blocks and problem.processes.size == 1:
        visits = loaded(train, windows)
    else:  # one window, or several of which a process reads the rows that it holds, batch by batch
        visits = (replace(train, indices=train.indices[window]) for window in windows)
    done = 0
    # A cost that is not finite is an error. What reads ahead ends with the epoch, however that ends.
    with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"), closing(visits):
        for window in visits:
            mirrored = None if flipped is None else flipped[done : done + len(window)]
            backend.run_epoch(window, learning_rate, mirrored, cancelled)
            done += len(window)


def _settled(
    problem: Problem,
    before: TrainingState,
    decision: Decision,
    trained: _Trained,
    scores: dict[str, Score],
    seconds: float,
) -> TrainingState:
    """Return the state after an epoch that has its scores now."""
    if not all(math.isfinite(scores[name].cost) for name in ("train", "validation") if name in scores):
        raise DivergedError(
            f"the cost after epoch {trained.epoch} is not a finite number: the steps are too long; "
            f"try a learning rate below {problem.first_rate(before):g}",
            trained.epoch,
        )
    record = EpochRecord.of(trained.epoch, trained.learning_rate, scores, seconds)
    from_best = before.best if decision.from_best else None
    left = (from_best or before.last).left * problem.share_left(trained.learning_rate)
    best = before.best
    if problem.config.needs_best and (best is None or watched(record) < watched(before.history[best.epoch - 1])):
        best = Kept(trained.layer, trained.epoch, left, scores)
    moving = dict(zip(VELOCITY, trained.velocity, strict=True)) if trained.velocity else {}
    return replace(
        before,
        layer=trained.layer,
        solver=SolverState(moving, {}) if moving else None,
        rng_state=trained.rng_state,
        history=(*before.history, record),
        scores=scores,
        best=best,
        left=left,
    )
