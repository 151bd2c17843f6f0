"""Trainings side by side that share each pass over the rows: a backend whose heads wait for each other.

Each training runs in a thread of its own, as if it were alone: its schedule, its early stopping, its checkpoints. Only
its backend is a *seat* of a `Stacking`. A call to train an epoch or to evaluate waits until every other training has
made a call as well, or has ended; then one pass over the rows serves all that ask for the same.

Trainings that are behind, because they were resumed from an earlier epoch, are served first, until all are abreast.
"""

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np

from onelayer.blas import one_blas_thread
from onelayer.config import TrainConfig
from onelayer.data.dataset import Split, Splits
from onelayer.features.standardizer import Standardizer
from onelayer.layer import SoftmaxLayer
from onelayer.training.backends import Totals, Velocity
from onelayer.training.backends.array import ArrayBackend
from onelayer.training.stack import Head, Stack
from onelayer.training.stack_rows import StackRows


@dataclass(eq=False)
class _Call:
    """A call of a training that waits for its answer.

    Parameters
    ----------
    place : int
        The place of the training's head in the stack.
    epoch : int
        The epoch that the training is in.
    head : Head
    split : Split
    flipped : ndarray (n,), bool, or None
    batch_size : int
        0 asks for an evaluation.
    cancelled : callable
    """

    place: int
    epoch: int
    head: Head
    split: Split
    flipped: np.ndarray | None
    batch_size: int
    cancelled: Callable[[], bool]
    answer: Any = None  # the trained head, or its totals
    error: BaseException | None = None
    answered: bool = False

    def is_like(self, other: "_Call") -> bool:
        """Return whether one pass serves both: over the same rows in the same order, with the same weights."""
        mine, theirs = self.split, other.split
        return (
            self.batch_size == other.batch_size
            and (mine.name, mine.weight) == (theirs.name, theirs.weight)
            and (mine is theirs or np.array_equal(mine.indices, theirs.indices))
        )


class Stacking:
    """Trainings that share the passes over their rows.

    They have the same rows, row weights, shape, type, loss, batch size and flips, and one thread each.

    Parameters
    ----------
    epochs : sequence of int
        The epochs that each training has done already.
    name : str
        The backend whose arithmetic is done, numpy or torch.
    """

    def __init__(self, epochs: Sequence[int], name: str = "numpy") -> None:
        self.seats, self._name = [Seat(self, place, epoch, name) for place, epoch in enumerate(epochs)], name
        self._rows: StackRows | None = None
        self._stack: Stack | None = None  # of the last epoch
        self._precision = "full"
        self._seated, self._calls, self._turn = len(epochs), list[_Call](), threading.Condition()

    def call(self, call: _Call) -> Any:
        """Wait for the other trainings, and return the answer."""
        with self._turn:
            self._calls.append(call)
            self._serve_if_complete()
            self._turn.wait_for(lambda: call.answered)
        if call.error:
            raise call.error
        return call.answer

    def leave(self) -> None:
        """Stop waiting for a training that has ended."""
        with self._turn:
            self._seated -= 1
            self._serve_if_complete()

    def open(self, splits: Splits, standardizer: Standardizer, config: TrainConfig, columns: int) -> None:
        """Make room for the rows, of which all trainings have the same, and for layers of this many columns in all.

        Raises
        ------
        ConfigError
            If a device has no room for a block of them.
        """
        with self._turn:
            if self._rows is not None:
                return
            given, self._precision = (splits, standardizer, config), config.precision
            of_torch = self._name == "torch"
            self._rows = StackRows.on_device(*given, columns) if of_torch else StackRows.in_memory(*given)

    def _serve_if_complete(self) -> None:
        if not self._calls or len(self._calls) < self._seated:
            return
        behind = min(call.epoch for call in self._calls)
        # In the order of the seats: threads come in any, and the last bits of a head may depend on its place.
        first, *others = sorted((call for call in self._calls if call.epoch == behind), key=lambda call: call.place)
        served = [first, *(call for call in others if call.is_like(first))]
        try:
            with one_blas_thread(), np.errstate(over="ignore", invalid="ignore"):  # the trainings look for it
                answers = self._answers(served)
            for call, answer in zip(served, answers, strict=True):
                call.answer = answer
        except BaseException as error:  # also an interruption
            for call in served:
                call.error = error
        for call in served:
            call.answered = True
            self._calls.remove(call)
        self._turn.notify_all()

    def _answers(self, calls: Sequence[_Call]) -> Sequence[Any]:
        """Return the answers to calls that are alike."""
        assert self._rows is not None  # noqa: S101, a call is made by a backend, which has opened them
        first, heads = calls[0], [call.head for call in calls]
        with self._rows.working(self._precision if first.batch_size else "full"):  # scores are never rounded
            if not first.batch_size:
                return self._rows.evaluate(self._rows.stack(heads), first.split, first.cancelled)
            if self._stack is None or not self._stack.go_on_with(heads):
                self._stack = None  # whose memory is free then
                self._stack = self._rows.stack(heads)
            self._rows.train(self._stack, first.split, first.flipped, first.cancelled)
            return list(zip(self._stack.layers, self._stack.velocities, strict=True))


class Seat:
    """The place of one training in a `Stacking`: the backend of its `Problem`."""

    compiled = False

    def __init__(self, stacking: Stacking, place: int, epoch: int, name: str) -> None:
        self.stacking, self.place, self.epoch, self.name = stacking, place, epoch, name

    @contextmanager
    def taken(self) -> Iterator["Seat"]:
        """Leave the stacking at the end of the block."""
        try:
            yield self
        finally:
            self.stacking.leave()

    def __call__(
        self,
        splits: Splits,
        config: TrainConfig,
        standardizer: Standardizer,
        layer: SoftmaxLayer,
        velocity: Velocity | None = None,
    ) -> "StackedBackend":
        return StackedBackend(self, splits, config, standardizer, layer, velocity)


class StackedBackend(ArrayBackend):
    """The backend of one training of a `Stacking`, for as long as the training keeps it open."""

    def __init__(
        self,
        seat: Seat,
        splits: Splits,
        config: TrainConfig,
        standardizer: Standardizer,
        layer: SoftmaxLayer,
        velocity: Velocity | None,
    ) -> None:
        super().__init__(splits, config, standardizer, layer, velocity)
        seat.stacking.open(splits, standardizer, config, len(seat.stacking.seats) * len(layer.bias))
        self._seat, self._momentum = seat, config.momentum_taken
        self._state = layer, velocity

    @property
    def layer(self) -> SoftmaxLayer:
        return self._state[0]

    @property
    def velocity(self) -> Velocity | None:
        return self._state[1] if self._momentum else None

    def run_epoch(
        self, train: Split, learning_rate: float, flipped: np.ndarray | None, cancelled: Callable[[], bool]
    ) -> None:
        layer, velocity = self._state
        head = Head(layer, learning_rate, self._l2, self._momentum, velocity)
        self._seat.epoch += 1
        call = _Call(self._seat.place, self._seat.epoch, head, train, flipped, self._batch_size, cancelled)
        self._state = self._seat.stacking.call(call)

    def evaluate(self, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]) -> Totals:
        call = _Call(self._seat.place, self._seat.epoch, Head(layer), split, None, 0, cancelled)
        return self._seat.stacking.call(call)
