"""The problem that training solves, the state after an epoch, and the result."""

import math
import warnings
from dataclasses import dataclass, field, replace

import numpy as np

from onelayer.blas import one_blas_thread
from onelayer.coded import coded, features_of
from onelayer.config import TrainConfig
from onelayer.data.dataset import Split, Splits
from onelayer.data.progress import Progress
from onelayer.drawing import CurvePlots, ModelPlots, html_table, pictures_in_html
from onelayer.errors import ConfigError, DataError
from onelayer.features.map import FeatureMap, Identity, are_same
from onelayer.features.standardizer import Standardizer
from onelayer.features.units import are_pixels, doubt, places_to_look_at
from onelayer.layer import SoftmaxLayer
from onelayer.model import Model
from onelayer.processes import Processes
from onelayer.training.backends import Backend, Velocity
from onelayer.training.backends.registry import choose_backend
from onelayer.training.backends.shared import SharedBackend
from onelayer.training.class_weights import weighted_by_class
from onelayer.training.converging.rows import with_mirror_images
from onelayer.training.history import SCORE_COLUMNS, History, Score, columns_of, noun_of, scores_in_words, table_of
from onelayer.training.schedule import decide
from onelayer.training.step import safe_step
from onelayer.words import counted, percent

MOMENTUM = 0.9  # auto, with a feature map, of which many features are alike


@dataclass(frozen=True, eq=False)
class Kept:
    """The layer of an epoch.

    Parameters
    ----------
    layer : SoftmaxLayer
    epoch : int
    left : float
        Share of the initial weights that the penalty has left in its weights: they are `left` times the initial weights
        plus all steps.
    scores : dict of str to Score
        Those of the splits, as far as they are known.
    """

    layer: SoftmaxLayer
    epoch: int
    left: float
    scores: dict[str, Score] = field(default_factory=dict)


@dataclass(frozen=True, eq=False)
class SolverState:
    """The state of a solver beside the layer: arrays and numbers, by the names that the solver gives them."""

    arrays: dict[str, np.ndarray]
    numbers: dict[str, float | str]


@dataclass(frozen=True, eq=False)
class TrainingState:
    """All that training needs to go on after an epoch: with it, an interrupted run ends with the same bits.

    Parameters
    ----------
    layer : SoftmaxLayer
        Of the last epoch: NumPy arrays in the floating-point type of the settings.
    rng_state : dict
        State of the random generator's bit generator.
    history : tuple of EpochRecord
        One for each epoch done.
    scores : dict of str to Score
        The splits' scores after the last epoch, as far as this training has computed them.
    best : Kept or None
        The epoch of the lowest watched loss, if the settings need it.
    first_rate : float or None
        Learning rate of the first epoch; None until `Problem.begin` has measured or taken it.
    left : float or None
        As in `Kept`, of the last epoch. None in old checkpoints.
    ended : str
        The reason why training ended after this epoch; empty if it did not.
    solver : SolverState or None
        More that the solver needs; SGD needs nothing.
    features : FeatureMap or None
        The map whose features the layer is for; None is not known, or the identity.
    """

    layer: SoftmaxLayer
    rng_state: dict[str, object]
    history: History = ()
    scores: dict[str, Score] = field(default_factory=dict)
    best: Kept | None = None
    first_rate: float | None = None
    left: float | None = 1.0
    ended: str = ""
    solver: SolverState | None = None
    features: FeatureMap | None = None

    def __repr__(self) -> str:
        return f"<TrainingState after {counted(self.epoch, noun_of(columns_of(self.history)))}>"

    @property
    def epoch(self) -> int:
        """The number of epochs done."""
        return len(self.history)

    @property
    def last(self) -> Kept:
        """The layer of the last epoch."""
        return Kept(self.layer, self.epoch, 1.0 if self.left is None else self.left, self.scores)

    @classmethod
    def initial(cls, d: int, K: int, config: TrainConfig) -> "TrainingState":
        """Return the state before the first epoch: the generator seeded, the initial weights drawn, the bias zero."""
        rng = np.random.default_rng(config.seed)
        layer = SoftmaxLayer.initial(d, K, rng, init_std=config.init_std, loss=config.loss, dtype=config.dtype)
        return cls(layer, dict(rng.bit_generator.state))

    def with_test_accuracy(self, epoch: int, accuracy: float) -> "TrainingState":
        """Return the state with the test accuracy of an epoch, and of no other except the first."""
        found = {1: self.history[0].test_accuracy, epoch: accuracy}
        return replace(self, history=tuple(replace(r, test_accuracy=found.get(r.epoch)) for r in self.history))


def learnt(kept: Kept, config: TrainConfig) -> np.ndarray:
    """Return the sum of the steps (d, K) that led to a layer, float64.

    These are its weights less what is left of the initial ones. Random initial weights hide what a template has learnt.
    The penalty multiplies them by 1 - 2 eta lambda in each step, which `Kept.left` holds. It is exact except for
    rounding.
    """
    d, K = kept.layer.weights.shape
    weights = kept.layer.weights.astype(np.float64)
    if config.init_std == 0:
        return weights
    initial = TrainingState.initial(d, K, config).layer.weights
    difference: np.ndarray = weights - kept.left * np.where(weights.any(axis=1)[:, None], initial, 0)
    return difference


def left_after(history: History, config: TrainConfig, rows: int) -> float:
    """Return `Kept.left` of the last epoch of a history on this many training rows, for checkpoints that lack it."""
    return math.prod(_share_left(record.learning_rate, config, rows) for record in history)


def _share_left(learning_rate: float, config: TrainConfig, rows: int) -> float:
    return float((1 - 2 * learning_rate * config.l2) ** math.ceil(rows / config.batch_size))


@dataclass(frozen=True, eq=False)
class Problem:
    """The rows, the settings and the backend of a training. It does not change while a solver works on it.

    Parameters
    ----------
    splits : Splits
        Rows of features, as the standardizer takes them; training and validation rows weighted by their class, too.
    config : TrainConfig
    standardizer : Standardizer
        That of the training rows.
    backend : type of Backend
    raw : Splits
        The rows as they were given; `features` makes those of `splits` of them.
    unweighted : Splits
        Those of `splits` in which no class has a weight.
    features : FeatureMap
    """

    splits: Splits
    config: TrainConfig
    standardizer: Standardizer
    backend: type[Backend]
    raw: Splits
    unweighted: Splits
    features: FeatureMap

    @classmethod
    def of(
        cls,
        splits: Splits,
        config: TrainConfig,
        standardizer: Standardizer | None = None,
        features: FeatureMap | None = None,
        progress: Progress | None = None,
    ) -> "Problem":
        """Compute the features, choose a backend, and take the standardizer of the training rows where none is given.

        By default, the features are those of the settings.

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
        features = features or features_of(splits, config)
        raw, unweighted = splits, coded(splits, features, progress)
        splits = weighted_by_class(unweighted, config.class_weight)
        dataset = splits.dataset
        backend = choose_backend(dataset, config)
        if standardizer is None or standardizer.constant is None:
            of_rows = splits.standardizer
            if config.flip and dataset.image_shape is not None:
                of_rows = with_flips(of_rows, dataset.image_shape, config)
            standardizer = replace(standardizer, constant=of_rows.constant) if standardizer else of_rows
        return cls(splits, config, standardizer, backend, raw, unweighted, features)

    @property
    def _is_plain(self) -> bool:
        return isinstance(self.features, Identity)

    def begin(self, start: TrainingState | None = None) -> TrainingState:
        """Return the state to start from, which is `start` or has initial weights; constant features weigh 0.

        Raises
        ------
        ConfigError
            If the weights of `start` do not fit the data set, or are of other features.
        """
        dataset, config = self.splits.dataset, self.config
        d, K = dataset.rows.shape[1], len(dataset.class_names)
        state = start or self.initial(d, K)
        if state.layer.weights.shape != (d, K):
            found = f"{state.layer.weights.shape}; {dataset.name} needs {(d, K)}"
            raise ConfigError(f"the state has weights {found}; start from one with these features and classes")
        if state.features and not are_same(state.features, self.features):
            what = f"the state is of other features {state.features.name} than those asked for"
            raise ConfigError(f"{what}; pass features=start.features to go on with its own")
        left = state.left
        if left is None:
            left = left_after(state.history, config, len(self.splits.train))
        best = state.best and replace(state.best, layer=self.standardizer.clear(state.best.layer), scores={})
        state = replace(state, left=left, layer=self.standardizer.clear(state.layer), best=best)
        if config.solver == "sgd":
            ended = decide(config, state.history, self.splits.holds_out).ended  # more epochs may be asked for now
            state = replace(state, first_rate=self.first_rate(state), ended=ended)
        features = None if self._is_plain else self.features
        return replace(state, scores={}, features=features)  # the scores may be of other rows

    def initial(self, d: int, K: int) -> TrainingState:
        """Return the state before the first epoch: the initial weights drawn, the bias by the shares of the classes."""
        state = TrainingState.initial(d, K, self.config)
        if self.config.init_bias == "zero":
            return state
        train = self.splits.train
        rows = np.bincount(train.labels, train.row_weights(slice(None)), K)
        rows = np.clip(rows, 0.5, None)  # a class without rows has half a one, so that its logit is finite
        shares = rows / rows.sum() if K > 1 else np.array([0.5])
        return replace(state, layer=replace(state.layer, bias=state.layer.loss.prior(shares).astype(self.config.dtype)))

    def first_rate(self, state: TrainingState) -> float:
        """Return the learning rate of the first epoch: that of the settings, or for auto of the state, or measured."""
        rate = self.config.learning_rate
        if not isinstance(rate, str):
            return rate
        if state.first_rate is not None:
            return state.first_rate
        with one_blas_thread():
            rate = safe_step(self.splits.train, self.standardizer, self._taken, len(self.splits.dataset.class_names))
        return float(self.processes.broadcast(np.array([rate]))[0])

    @property
    def processes(self) -> Processes:
        """The processes among which the rows are divided."""
        return self.splits.dataset.processes

    def share_left(self, learning_rate: float) -> float:
        """Return the share of the weights that the penalty leaves in an epoch at this learning rate."""
        return _share_left(learning_rate, self.config, len(self.splits.train))

    @property
    def keeps_best(self) -> bool:
        """True if the model gets the best epoch, and not the last."""
        return self.config.solver == "sgd" and self.config.keep == "best" and self.splits.holds_out

    def kept(self, state: TrainingState) -> Kept:
        """Return the layer that the model gets."""
        return state.best if state.best and self.keeps_best else state.last

    def open(self, layer: SoftmaxLayer, velocity: Velocity | None = None) -> Backend:
        """Return a backend that holds this layer and the rows."""
        given = self.splits, self._taken, self.standardizer.for_training, layer, velocity
        if self.processes.size == 1:
            return self.backend(*given)
        return SharedBackend(self.backend, *given)

    @property
    def _taken(self) -> TrainConfig:
        """The settings, with a number for the momentum."""
        config = self.config
        if config.momentum != "auto" or config.solver != "sgd":
            return config
        return replace(config, momentum=0.0 if self._is_plain or config.init_std else MOMENTUM)

    def model(self, layer: SoftmaxLayer) -> Model:
        """Return the model that this layer makes."""
        dataset = self.raw.dataset
        known = dataset.class_names, dataset.image_shape, are_pixels(_some_rows(self.raw.train))
        of_rows = None if self._is_plain else self.raw.standardizer
        return Model(layer, self.standardizer, *known, self.features, of_rows, dataset.fit or "squeeze")


@dataclass(frozen=True, eq=False)
class TrainingResult(CurvePlots, ModelPlots):
    """A trained model with its evidence.

    Parameters
    ----------
    model : Model
        With the layer of the kept epoch.
    state : TrainingState
        After the last epoch, with the history.
    backend : str
        The name of the backend that did the arithmetic.
    device : str
        The device of the backend torch, with the model of a GPU; empty with another backend.
    kept : Kept
        The layer of the model, its epoch, and the scores of train, validation and test, in which no class has a weight.
    learnt : ndarray (d, K), float64, or None
        The weights of the model less what is left of the initial ones; None if these were 0.
    """

    model: Model
    state: TrainingState
    backend: str
    kept: Kept
    learnt: np.ndarray | None = None
    device: str = ""

    @property
    def scores(self) -> dict[str, Score]:
        """Scores of train, validation and test after the kept epoch; classes have no weights in them."""
        return self.kept.scores

    @property
    def kept_epoch(self) -> int:
        """The epoch of which the model is."""
        return self.kept.epoch

    @property
    def ended(self) -> str:
        """The reason why training ended."""
        return self.state.ended

    def __repr__(self) -> str:
        accuracies = ", ".join(f"{name} {percent(score.accuracy)}" for name, score in self.scores.items())
        return f"<TrainingResult of {self._work_in_words()}: {accuracies}>"

    def _repr_html_(self) -> str:
        return html_table(self._work_in_words(), SCORE_COLUMNS, scores_in_words(self.scores)) + pictures_in_html(self)

    def _work_in_words(self) -> str:
        return f"{counted(self.state.epoch, noun_of(columns_of(self.state.history)))} ({self.arithmetic})"

    @property
    def arithmetic(self) -> str:
        """The backend and its device in words: ``torch on cuda:0, NVIDIA H100 80GB HBM3``."""
        return f"{self.backend} on {self.device}" if self.device else self.backend

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Loss, cost and accuracy after each epoch, as columns (epochs,) by name; see `table_of`."""
        return table_of(self.state.history)


def with_flips(standardizer: Standardizer, image_shape: tuple[int, int, int], config: TrainConfig) -> Standardizer:
    """Return the standardizer of images that are trained on with flips, from that of the images as they are.

    SGD draws the flips, and takes mean and scale of the images; `converged` takes all rows and their mirror images.
    """
    if config.solver == "converged":
        return with_mirror_images(standardizer, image_shape)
    return standardizer.mirrored(image_shape)


def warn_of_units(splits: Splits) -> None:
    """Warn if validation or test rows look as if they were in another unit than the training rows."""
    standardizer = splits.standardizer
    pixels = are_pixels(_some_rows(splits.train))
    for split in (splits.validation, splits.test):
        if len(split) and (found := doubt(_some_rows(split), standardizer.mean, standardizer.scale, pixels=pixels)):
            warnings.warn(type(found)(f"{splits.dataset.name}, {split.name}: {found}"), stacklevel=2)


def _some_rows(split: Split) -> np.ndarray:
    return split.rows_of_all(places_to_look_at(len(split)))
