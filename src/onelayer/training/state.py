"""The problem that training solves, the state after an epoch, and the result."""

import math
import warnings
from dataclasses import dataclass, field, fields, replace

import numpy as np

from onelayer.coded import coded
from onelayer.config import TrainConfig
from onelayer.data.dataset import Split, Splits
from onelayer.drawing import html_table
from onelayer.errors import ConfigError, DataError
from onelayer.features.map import FeatureMap, Identity
from onelayer.features.standardizer import Standardizer
from onelayer.features.units import are_pixels, doubt, places_to_look_at
from onelayer.layer import SoftmaxLayer
from onelayer.model import Model
from onelayer.training.backends import Backend
from onelayer.training.backends.registry import choose_backend
from onelayer.words import counted, percent

STILL_FALLING = 0.01  # of the loss of guessing, within the last tenth of the epochs


@dataclass(frozen=True)
class Score:
    """Loss and cost of a layer on a split, in nats, and its accuracy, a fraction."""

    loss: float
    cost: float
    accuracy: float


SCORE_COLUMNS = ("loss (nats)", "cost (nats)", "accuracy")


def scores_in_words(scores: dict[str, Score]) -> list[list[str]]:
    """Return the name and the `SCORE_COLUMNS` of each split."""
    return [[name, f"{of.loss:.4f}", f"{of.cost:.4f}", percent(of.accuracy)] for name, of in scores.items()]


NO_SCORE = Score(math.nan, math.nan, math.nan)


@dataclass(frozen=True)
class EpochRecord:
    """Figures of an epoch, over whole splits.

    `test_accuracy` is known after the first and the last epoch only; `seconds` are those since the record before, or
    since the start.
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

    @classmethod
    def of(cls, epoch: int, learning_rate: float, scores: dict[str, Score], seconds: float) -> "EpochRecord":
        """Return the record of an epoch with these scores of the splits, by name."""
        train, validation, test = scores["train"], scores.get("validation", NO_SCORE), scores.get("test")
        return cls(
            epoch,
            learning_rate,
            *(train.loss, train.cost, train.accuracy),
            *(validation.loss, validation.cost, validation.accuracy),
            test.accuracy if test else None,
            seconds,
        )

    def in_words(self, epochs: int) -> str:
        """Return loss and accuracy in a line; `epochs` is the number of epochs to be trained."""
        words = f"epoch {self.epoch:{len(str(epochs))}}/{epochs}"
        words += f"  train {self.train_loss:.4f} nats, {percent(self.train_accuracy)}"
        if not math.isnan(self.validation_loss):
            words += f"  validation {self.validation_loss:.4f} nats, {percent(self.validation_accuracy)}"
        return words


History = tuple[EpochRecord, ...]
HISTORY_COLUMNS = tuple(field.name for field in fields(EpochRecord))


def table_of(history: History) -> dict[str, np.ndarray]:
    """Return the columns of a history by name, each (epochs,), for ``pandas.DataFrame(...)``.

    They are those of ``history.csv``: `epoch` in int64, the others in float64. A test accuracy that was not measured is
    NaN.
    """
    types = {field.name: np.int64 if field.type is int else np.float64 for field in fields(EpochRecord)}
    return {name: np.array([getattr(record, name) for record in history], dtype) for name, dtype in types.items()}


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
    scores : dict of str to Score
        The splits' scores after the last epoch, as far as this training has computed them.
    """

    layer: SoftmaxLayer
    rng_state: dict[str, object]
    history: History = ()
    scores: dict[str, Score] = field(default_factory=dict)

    def __repr__(self) -> str:
        return f"<TrainingState after {counted(self.epoch, 'epoch')}>"

    @property
    def epoch(self) -> int:
        """The number of epochs done."""
        return len(self.history)

    @classmethod
    def initial(cls, d: int, K: int, config: TrainConfig) -> "TrainingState":
        """Return the state before the first epoch: the generator seeded, the initial weights drawn."""
        rng = np.random.default_rng(config.seed)
        layer = SoftmaxLayer.initial(d, K, rng, init_std=config.init_std, loss=config.loss, dtype=config.dtype)
        return cls(layer, dict(rng.bit_generator.state))

    def with_test_accuracy(self, accuracy: float | None) -> "TrainingState":
        """Return the state with another test accuracy in the record of its last epoch."""
        last = replace(self.history[-1], test_accuracy=accuracy)
        return replace(self, history=(*self.history[:-1], last))


@dataclass(frozen=True, eq=False)
class Problem:
    """The rows, the settings and the backend of a training. It does not change while a solver works on it.

    Parameters
    ----------
    splits : Splits
        Rows of features, as the standardizer takes them.
    config : TrainConfig
    standardizer : Standardizer
        That of the training rows.
    backend : type of Backend
    raw : Splits
        The rows as they were given; `features` makes those of `splits` of them.
    features : FeatureMap
    """

    splits: Splits
    config: TrainConfig
    standardizer: Standardizer
    backend: type[Backend]
    raw: Splits
    features: FeatureMap

    @classmethod
    def of(
        cls,
        splits: Splits,
        config: TrainConfig,
        standardizer: Standardizer | None = None,
        features: FeatureMap | None = None,
    ) -> "Problem":
        """Compute the features, choose a backend, and take the standardizer of the training rows where none is given.

        By default, the features are the rows themselves.

        Raises
        ------
        ConfigError
            If `flip` is set but the rows are not images, the map does not take these rows, or the backend has an
            obstacle.
        DataError
            If there are no training rows of a weight above 0, or a feature is not finite.
        """
        if splits.train.weight == 0:
            raise DataError(f"{splits.dataset.name} has no rows of a weight above 0 to train on; pass at least one")
        features = features or Identity(splits.dataset.rows.shape[1])
        raw, splits = splits, coded(splits, features)
        dataset = splits.dataset
        backend = choose_backend(dataset, config)
        if standardizer is None or standardizer.constant is None:
            of_rows = splits.standardizer
            if config.flip and dataset.image_shape is not None:
                of_rows = of_rows.mirrored(dataset.image_shape)
            standardizer = replace(standardizer, constant=of_rows.constant) if standardizer else of_rows
        return cls(splits, config, standardizer, backend, raw, features)

    def begin(self, start: TrainingState | None = None) -> TrainingState:
        """Return the state to start from, which is `start` or has initial weights; constant features weigh 0.

        Raises
        ------
        ConfigError
            If the weights of `start` do not fit the data set.
        """
        dataset, config = self.splits.dataset, self.config
        d, K = dataset.rows.shape[1], len(dataset.class_names)
        state = start or TrainingState.initial(d, K, config)
        if state.layer.weights.shape != (d, K):
            found = f"{state.layer.weights.shape}; {dataset.name} needs {(d, K)}"
            raise ConfigError(f"the state has weights {found}; start from one with these features and classes")
        if 1 < state.epoch < config.epochs:  # its last epoch is no longer the last
            state = state.with_test_accuracy(None)
        return replace(state, layer=self.standardizer.clear(state.layer), scores={})  # of other rows, perhaps

    def open(self, layer: SoftmaxLayer) -> Backend:
        """Return a backend that holds this layer and the rows."""
        return self.backend(self.splits, self.config, self.standardizer.for_training, layer)

    def model(self, layer: SoftmaxLayer) -> Model:
        """Return the model that this layer makes."""
        dataset = self.raw.dataset
        known = dataset.class_names, dataset.image_shape, are_pixels(_some_rows(self.raw.train))
        of_rows = None if self.raw is self.splits else self.raw.standardizer
        return Model(layer, self.standardizer, *known, self.features, of_rows)


@dataclass(frozen=True, eq=False)
class TrainingResult:
    """A trained model with its evidence.

    Parameters
    ----------
    model : Model
    state : TrainingState
        After the last epoch, with the history.
    backend : str
        The name of the backend that did the arithmetic.
    """

    model: Model
    state: TrainingState
    backend: str

    @property
    def scores(self) -> dict[str, Score]:
        """Scores of train, validation and test after the last epoch."""
        return self.state.scores

    def __repr__(self) -> str:
        accuracies = ", ".join(f"{name} {percent(score.accuracy)}" for name, score in self.scores.items())
        return f"<TrainingResult of {self._work_in_words()}: {accuracies}>"

    def _repr_html_(self) -> str:
        return html_table(self._work_in_words(), SCORE_COLUMNS, scores_in_words(self.scores))

    def _work_in_words(self) -> str:
        return f"{counted(self.state.epoch, 'epoch')} ({self.backend})"

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Loss, cost and accuracy after each epoch, as columns (epochs,) by name; see `table_of`."""
        return table_of(self.state.history)

    @property
    def advice(self) -> str:
        """Say what the curves show of the length of the steps, where it is plain; else nothing."""
        losses = [record.validation_loss for record in self.state.history]
        guessing = self.model.layer.loss.of_guessing(len(self.model.class_names))
        if losses and losses[-1] > guessing:
            return f"the validation loss is above {guessing:.4f}, that of guessing; try a smaller learning rate"
        tenth = len(losses) // 10
        if tenth and losses[-1 - tenth] - losses[-1] > STILL_FALLING * guessing:
            return "the validation loss was still falling; try more epochs or a larger learning rate"
        return ""


def warn_of_units(splits: Splits) -> None:
    """Warn if validation or test rows look as if they were in another unit than the training rows."""
    standardizer = splits.standardizer
    pixels = are_pixels(_some_rows(splits.train))
    for split in (splits.validation, splits.test):
        if len(split) and (found := doubt(_some_rows(split), standardizer.mean, standardizer.scale, pixels=pixels)):
            warnings.warn(type(found)(f"{splits.dataset.name}, {split.name}: {found}"), stacklevel=2)


def _some_rows(split: Split) -> np.ndarray:
    return split.rows(places_to_look_at(len(split)))
