"""Training: a pure function of the splits and the settings. It prints nothing and writes no file."""

import math
import os
import threading
import time
import warnings
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, fields, replace
from functools import partial

import numpy as np

from onelayer.blas import one_blas_thread
from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.data.scan import read_forwards
from onelayer.data.windows import draw_windows, forward_windows, loaded
from onelayer.errors import ConfigError, DataError, DivergedError
from onelayer.features.standardizer import Standardizer
from onelayer.features.units import are_pixels, doubt, places_to_look_at
from onelayer.kernel import kernel
from onelayer.layer import SoftmaxLayer
from onelayer.model import Model
from onelayer.training.backends import Backend
from onelayer.training.backends.array import ArrayBackend
from onelayer.training.backends.native import NativeBackend
from onelayer.words import percent


@dataclass(frozen=True)
class Score:
    """How well a layer does on a split: loss and cost in nats, accuracy as a fraction."""

    loss: float
    cost: float
    accuracy: float


NO_SCORE = Score(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class EpochRecord:
    """What is known after an epoch, over whole splits.

    `test_accuracy` only after the first and the last epoch; `seconds` since the record before, or since the start.
    """

    epoch: int
    learning_rate: float
    train_loss: float
    train_cost: float
    train_accuracy: float
    validation_loss: float
    validation_cost: float
    validation_accuracy: float
    test_accuracy: float | None
    seconds: float

    def in_words(self, epochs: int) -> str:
        """Loss and accuracy in a line; `epochs` is how many there are to be."""
        words = f"epoch {self.epoch:{len(str(epochs))}}/{epochs}"
        words += f"  train {self.train_loss:.4f} nats, {percent(self.train_accuracy)}"
        if not math.isnan(self.validation_loss):
            words += f"  validation {self.validation_loss:.4f} nats, {percent(self.validation_accuracy)}"
        return words


STILL_FALLING = 0.01  # of the loss of guessing, within the last tenth of the epochs
# So many classes, and rows in a batch, make a product that BLAS does as quickly as the kernel or up to a tenth quicker.
BLAS_SIZE = 512

History = tuple[EpochRecord, ...]
HISTORY_COLUMNS = tuple(field.name for field in fields(EpochRecord))


@dataclass(frozen=True, eq=False)
class TrainingState:
    """All that training needs to go on after an epoch: with it, an interrupted run ends with the same bits.

    Parameters
    ----------
    layer : SoftmaxLayer
        NumPy arrays in the floating-point type of the settings.
    rng_state : dict
        State of the random generator's bit generator.
    history : tuple of EpochRecord
        One for each epoch done.
    """

    layer: SoftmaxLayer
    rng_state: dict[str, object]
    history: History = ()

    @property
    def epoch(self) -> int:
        """Epochs done."""
        return len(self.history)

    @classmethod
    def initial(cls, d: int, K: int, config: TrainConfig) -> "TrainingState":
        """The state before the first epoch: the generator seeded, the initial weights drawn."""
        rng = np.random.default_rng(config.seed)
        layer = SoftmaxLayer.initial(d, K, rng, init_std=config.init_std, loss=config.loss, dtype=config.dtype)
        return cls(layer, dict(rng.bit_generator.state))


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """A trained model with its evidence.

    Parameters
    ----------
    model : Model
    state : TrainingState
        After the last epoch, with the history.
    scores : dict of str to Score
        Of train, validation and test after the last epoch.
    backend : str
        Who did the arithmetic.
    """

    model: Model
    state: TrainingState
    scores: dict[str, Score]
    backend: str

    @property
    def advice(self) -> str:
        """What the curves say of the length of the steps, where it is plain; else empty."""
        losses = [record.validation_loss for record in self.state.history]
        guessing = self.model.layer.loss.of_guessing(len(self.model.class_names))
        if losses and losses[-1] > guessing:
            return f"the validation loss is above {guessing:.4f}, that of guessing; try a smaller learning rate"
        tenth = len(losses) // 10
        if tenth and losses[-1 - tenth] - losses[-1] > STILL_FALLING * guessing:
            return "the validation loss was still falling; try more epochs or a larger learning rate"
        return ""


def choose_backend(dataset: Dataset, config: TrainConfig) -> type[NativeBackend] | type[ArrayBackend]:
    """Who does the arithmetic; their `name`, as a setting, chooses the same again.

    Raises
    ------
    ConfigError
        If it is to be native and cannot, ONELAYER_KERNEL names no instruction set of this machine, or images are to be
        flipped where there are none.
    """
    if config.flip and dataset.image_shape is None:
        raise ConfigError(f"flip needs images, and the rows of {dataset.name} are none; leave it out")
    if config.backend == "numpy":
        return ArrayBackend
    obstacle = None
    if kernel is None:
        obstacle = "was not compiled when onelayer was installed: install it again with a C++ compiler"
    elif config.dtype != "float32":
        obstacle = f"does not do {config.dtype}: leave --dtype out"
    elif not NativeBackend.takes(dataset.rows):
        obstacle = f"needs uint8 or float32 rows in C order, as those of {dataset.name} are not: store them so"
    if obstacle is None:
        if config.backend == "auto" and min(len(dataset.class_names), config.batch_size) >= BLAS_SIZE:
            return ArrayBackend
        NativeBackend.require_variant()
        return NativeBackend
    if config.backend == "native":
        raise ConfigError(f"the backend native {obstacle}, or use the backend numpy")
    return ArrayBackend


def warn_of_units(splits: Splits) -> None:
    """Warn if validation or test rows look as if they were in another unit than the training rows."""
    standardizer = splits.standardizer
    pixels = are_pixels(_some_rows(splits.train))
    for split in (splits.validation, splits.test):
        if len(split) and (found := doubt(_some_rows(split), standardizer.mean, standardizer.scale, pixels=pixels)):
            warnings.warn(type(found)(f"{splits.dataset.name}, {split.name}: {found}"), stacklevel=2)


def _some_rows(split: Split) -> np.ndarray:
    return split.rows(places_to_look_at(len(split)))


def count_cores() -> int:
    """How many cores this process may use."""
    affinity = getattr(os, "sched_getaffinity", None)  # macOS has none
    return len(affinity(0)) if affinity else os.cpu_count() or 1


def train(
    splits: Splits,
    config: TrainConfig,
    *,
    start: TrainingState | None = None,
    standardizer: Standardizer | None = None,
    on_epoch: Callable[[TrainingState], object] | None = None,
    report_test: bool = True,
    cancelled: Callable[[], bool] = bool,
) -> TrainingResult:
    """Train a layer by mini-batch gradient descent.

    Parameters
    ----------
    splits : Splits
        The test rows are evaluated after the first and the last epoch, if at all, and used for nothing. A split
        without rows, or with weights of 0 only, has no scores; what the history would hold of validation is NaN then.
    config : TrainConfig
    start : TrainingState, optional
        Go on from here instead of from new weights; the result has the same bits as a run that never stopped.
    standardizer : Standardizer, optional
        By default that of the training rows, and of their mirror images if there are flips. The weights of its constant
        features are 0 throughout; where it does not know them, they are those of the training rows.
    on_epoch : callable, optional
        Called with the state after each epoch; training ends there if it returns true.
    report_test : bool
        False leaves the test rows alone.
    cancelled : callable, optional
        Asked now and then, in other threads too; true ends the training.

    Raises
    ------
    ConfigError
        If images are to be flipped where there are none, or the backend asked for cannot do this.
    DataError
        If there are no training rows.
    DivergedError
        If a cost is not finite after an epoch.
    InterruptedError
        If it was cancelled.
    """
    dataset = splits.dataset
    d, K = dataset.rows.shape[1], len(dataset.class_names)
    state = start or TrainingState.initial(d, K, config)
    if state.layer.weights.shape != (d, K):
        raise ConfigError(f"the state has weights {state.layer.weights.shape}; {dataset.name} needs {(d, K)}")
    if splits.train.weight == 0:
        raise DataError(f"{dataset.name} has no rows of a weight above 0 to train on; pass at least one")
    chosen = choose_backend(dataset, config)
    if 1 < state.epoch < config.epochs:  # what was the last epoch is one in the middle now
        state = _with_last_test_accuracy(state, None)
    standardizer = _standardizer(splits, config, standardizer)
    state = replace(state, layer=standardizer.clear(state.layer))
    batch_size = min(config.batch_size, len(splits.train))  # which fits the machine's numbers
    backend: Backend = chosen(state.layer, standardizer.for_training, l2=config.l2, batch_size=batch_size)
    overlaps = min(config.threads or count_cores(), count_cores()) > 1
    rng = np.random.default_rng()
    rng.bit_generator.state = state.rng_state
    scores: dict[str, Score] = {}
    ended = False
    settled_at = time.perf_counter()
    stopping = threading.Event()

    def score(layer: SoftmaxLayer, epoch: int) -> dict[str, Score]:
        with np.errstate(over="ignore", invalid="ignore"):  # a cost that is not finite is an error of its own
            penalty = float(layer.penalty(config.l2))
            of_split = {}
            with_test = report_test and epoch in (1, config.epochs)
            for split in splits if with_test else (splits.train, splits.validation):
                if split.weight == 0:
                    continue
                pieces = loaded(split, forward_windows(split)) if config.shuffle_blocks else (split,)
                totals = [backend.evaluate(layer, piece, lambda: stopping.is_set() or cancelled()) for piece in pieces]
                loss = sum(some.loss for some in totals) / split.weight
                right = sum(some.right for some in totals) / split.weight
                of_split[split.name] = Score(loss, loss + penalty, right)
        return of_split

    def settle(epoch: int, layer: SoftmaxLayer, rng_state: dict[str, object], future: Future[dict[str, Score]]) -> None:
        nonlocal state, scores, settled_at, ended
        scores = future.result()
        if not all(math.isfinite(scores[name].cost) for name in ("train", "validation") if name in scores):
            raise DivergedError(
                f"the cost after epoch {epoch} is not a finite number: the steps are too long; "
                f"try a learning rate below {config.learning_rate:g}",
                epoch,
            )
        on_train, on_validation = scores["train"], scores.get("validation", NO_SCORE)
        now = time.perf_counter()
        record = EpochRecord(
            epoch,
            config.learning_rate_at(epoch),
            *(on_train.loss, on_train.cost, on_train.accuracy),
            *(on_validation.loss, on_validation.cost, on_validation.accuracy),
            scores["test"].accuracy if "test" in scores else None,
            now - settled_at,
        )
        settled_at = now
        state = TrainingState(layer, rng_state, (*state.history, record))
        ended = bool(on_epoch and on_epoch(state))

    # The second core evaluates the weights of an epoch while the first trains the next.
    forwards = read_forwards(dataset.rows) if config.shuffle_blocks else nullcontext()
    with one_blas_thread(), forwards, ThreadPoolExecutor(1) as evaluator:
        settle_last: Callable[[], None] = lambda: None  # noqa: E731
        try:
            for epoch in range(state.epoch + 1, config.epochs + 1):
                if cancelled():  # an epoch that is over in no time does not ask
                    raise InterruptedError
                windows = draw_windows(len(splits.train), config.shuffle_blocks, batch_size, rng)
                flipped = rng.random(len(splits.train)) < 0.5 if config.flip else None
                whole = replace(splits.train, indices=splits.train.indices[windows[0]])
                done = 0
                with np.errstate(over="ignore", invalid="ignore"):
                    for window in loaded(splits.train, windows) if config.shuffle_blocks else (whole,):
                        mirrored = None if flipped is None else flipped[done : done + len(window)]
                        learning_rate = config.learning_rate_at(epoch)
                        backend.run_epoch(window, np.arange(len(window)), learning_rate, mirrored, cancelled)
                        done += len(window)
                layer = backend.layer
                settle_last()
                if ended:
                    break
                future = evaluator.submit(score, layer, epoch)
                settle_last = partial(settle, epoch, layer, dict(rng.bit_generator.state), future)
                if not overlaps:
                    settle_last()
                    settle_last = lambda: None  # noqa: E731
                    if ended:
                        break
            else:
                settle_last()
            if not scores or (ended and report_test):
                scores = evaluator.submit(score, state.layer, config.epochs).result()
        finally:
            stopping.set()  # Ctrl-C does not wait for what the other thread is evaluating
    if state.history and "test" in scores:
        state = _with_last_test_accuracy(state, scores["test"].accuracy)
    pixels = are_pixels(_some_rows(splits.train))
    model = Model(state.layer, standardizer, dataset.class_names, dataset.image_shape, pixels)
    return TrainingResult(model, state, scores, backend.name)


def _standardizer(splits: Splits, config: TrainConfig, given: Standardizer | None) -> Standardizer:
    if given is not None and given.constant is not None:
        return given
    of_rows = splits.standardizer
    if config.flip and splits.dataset.image_shape is not None:
        of_rows = of_rows.mirrored(splits.dataset.image_shape)
    return of_rows if given is None else replace(given, constant=of_rows.constant)


def _with_last_test_accuracy(state: TrainingState, accuracy: float | None) -> TrainingState:
    return replace(state, history=(*state.history[:-1], replace(state.history[-1], test_accuracy=accuracy)))
