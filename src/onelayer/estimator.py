"""scikit-learn's interface to the same training as `onelayer train`."""

import math
import warnings
from dataclasses import replace
from numbers import Integral, Real
from typing import Any, Literal, Self, cast

import numpy as np
from scipy.special import log_softmax, softmax
from sklearn.base import BaseEstimator, ClassifierMixin
from sklearn.exceptions import ConvergenceWarning
from sklearn.utils import check_array
from sklearn.utils.metaestimators import available_if
from sklearn.utils.multiclass import check_classification_targets
from sklearn.utils.validation import check_is_fitted, check_scalar, validate_data

from onelayer.coded import features_of
from onelayer.config import TrainConfig
from onelayer.data.dataset import Split, Splits
from onelayer.data.scan import read_forwards
from onelayer.drawing import CurvePlots, ModelPlots, pictures
from onelayer.errors import ConfigError, wrong_type
from onelayer.features.function import CodesOf, Function
from onelayer.features.map import FeatureMap, Identity, Shape, as_pixels
from onelayer.features.standardizer import BLOCK_ROWS, Moments, Standardizer
from onelayer.layer import SoftmaxLayer, likeliest
from onelayer.losses import LOSSES
from onelayer.model import Model
from onelayer.passed import image_shape_of, kept_or_float64, seed_of, splits_of, value_errors, within_range
from onelayer.training.converged import REACHED, SURE
from onelayer.training.history import table_of
from onelayer.training.schedule import decide
from onelayer.training.state import TrainingResult, TrainingState, with_flips
from onelayer.training.train import train
from onelayer.words import counted

FORGOTTEN = 1000  # a feature whose deviation grows by this factor was as good as constant; its weights begin at 0
SETTINGS = (
    "solver",
    "tol",
    "max_passes",
    "learning_rate",
    "l2",
    "batch_size",
    "loss",
    "flip",
    "decay_every",
    "decay_factor",
    "init_std",
    "init_bias",
    "features_seed",
    "backend",
    "device",
    "precision",
)  # as TrainConfig has them


def _takes_steps(classifier: "SoftmaxClassifier") -> bool:
    if classifier.solver != "sgd":
        raise AttributeError(f"partial_fit takes steps of the solver 'sgd'; solver {classifier.solver!r} needs fit")
    return True


class SoftmaxClassifier(CurvePlots, ModelPlots, ClassifierMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Softmax regression, or one sigmoid per class, trained by mini-batch gradient descent or to the optimum.

    The cost is the mean loss of the rows plus ``l2`` times the squared weights of standardised features; the intercept
    is not penalised. `fit` trains as the command ``onelayer train`` does: the same rows, settings and seed give the
    same bits.

    Parameters
    ----------
    solver : 'sgd' or 'converged', default='sgd'
        'sgd' is mini-batch gradient descent. 'converged' goes to the optimum, in few passes over the rows; it takes
        `tol`, `max_passes`, `l2`, `loss`, `standardize`, `flip` and the weights of rows and classes. Each solver
        refuses other values than the defaults for the parameters of the other. 'converged' should have an `l2` above 0:
        without a penalty there is no bound, so that `fit` warns, and separable classes have no optimum.

    tol : float, default=1e-4
        Gap at which 'converged' ends: an estimate of how far the cost is above the lowest possible at most, as a share
        of that.

    max_passes : int, default=1000
        Passes over the rows after which 'converged' ends in any case, with a ``ConvergenceWarning``.

    learning_rate : float or 'auto', default='auto'
        Step size of gradient descent. 'auto' takes three quarters of the longest step at which a mean batch cannot
        overshoot: it depends on the largest eigenvalue and the trace of the rows' second moments, estimated from some
        rows, and on the curvature of the loss.

    l2 : float, default=0.0
        Weight of the penalty. For n rows it corresponds to ``C = 1 / (2 * l2 * n)`` of
        :class:`~sklearn.linear_model.LogisticRegression`, or ``C = 1 / (l2 * n)`` for two classes, if the features are
        standardised there too.

    batch_size : int, default=100
        Rows in a step; the last batch of an epoch may be shorter.

    epochs : int or 'auto', default='auto'
        Passes over the training rows. 'auto' ends when the cost of the training rows, or the loss of the rows held out
        if there is early stopping, has stopped falling, and after 1,000 epochs at the latest.

    loss : str, default='softmax'
        'softmax' is softmax cross-entropy; 'sigmoid' is one sigmoid per class with binary cross-entropy, the mean over
        the classes. Other names are those in `onelayer.losses.LOSSES`.

    standardize : bool, default=True
        Subtract the mean of each feature over the training rows and divide by its standard deviation. This is done one
        batch at a time and folded into `coef_`; `X` is not copied.

    flip : bool, default=False
        Mirror each training image left to right with probability 1/2, drawn again in every epoch; 'converged' takes
        all images and their mirror images. Needs `image_shape`.

    image_shape : (int, int, int), default=None
        Channels, height and width of the images, if the rows of `X` are images.

    features : str, callable, FeatureMap or None, default=None
        What the layer sees instead of the rows. 'patches' are responses to filters that are patches of the training
        images, 128 for each size of patches; 'patches:K' has K filters. Each image has five rows of patch features, its
        views, which are all trained; scores are averages over them. 'onnx:FILE' is an encoder in an ONNX file. A
        callable takes ``uint8`` images (n, h, w, c) and returns n rows of numbers. All these need `image_shape`, and
        whole numbers from 0 to 255. An object of :class:`onelayer.features.map.FeatureMap` is a map that is there
        already. The features of all rows are in a file in the cache's folder while `fit` runs. `partial_fit` and
        `warm_start` take no features.

    features_seed : int, default=0
        Seed for the filters, apart from `random_state`.

    decay_every : int or 'auto', default='auto'
        Multiply the learning rate by `decay_factor` each time this many epochs are done; 0 keeps it. 'auto' does so
        twice, when the loss has not fallen for `n_iter_no_change` epochs, and goes on from the best epoch; in
        `partial_fit` it keeps the learning rate.

    decay_factor : float, default=0.1
        See `decay_every`.

    init_std : float, default=0.0
        Standard deviation of the initial weights.

    init_bias : 'frequencies' or 'zero', default='frequencies'
        Initial bias: by the share of each class in the training rows, or zero.

    random_state : int, RandomState instance or None, default=None
        Seed for the initial weights, the order of the rows, the flips, and the rows held out for early stopping. An
        int is the command's ``--seed``; pass one for reproducible results.

    warm_start : bool, default=False
        Let `fit` continue from the last result for `epochs` more epochs. The order of the rows and the decay of the
        learning rate continue too: two calls of 20 epochs on the same rows are one call of 40. With ``epochs='auto'``,
        early stopping or the solver 'converged', a call takes over the weights alone, since a loss that had stopped
        falling may fall again. So does the first call after 'converged'.

    class_weight : dict, 'balanced' or None, default=None
        Weights ``{class: weight}`` that multiply the weights of the rows; a class that is left out has the weight 1.
        'balanced' gives all classes the same total.

    early_stopping : bool, default=False
        Hold out some rows of each class, end when their loss has stopped falling, at the latest after `epochs`, and
        keep the weights of the best epoch. The loss decides, because the accuracy on few rows does not change for many
        epochs. With `warm_start`, the weights from before are kept if no epoch is better. The content of a row and
        `random_state` decide whether it is held out, not its place: equal rows stay together. `partial_fit` ignores
        this parameter.

    validation_fraction : float, default=0.1
        Fraction of each class to hold out, by weight: at least one row, and not all.

    n_iter_no_change : int, default=5
        Number of epochs after which a loss counts as no longer falling: the learning rate decays, or training ends.
        The converged solver does not use it.

    backend : 'auto', 'native', 'numpy' or 'torch', default='auto'
        Code that does the arithmetic of `fit` and `partial_fit`; 'torch' is PyTorch. For 'auto', see the notes.

    device : str, default='auto'
        Device of the backend torch: 'cpu', 'cuda', 'cuda:1' or another number, or 'mps'. All except 'cpu' imply that
        backend. 'auto' with it takes the first GPU, else the CPU. Answers are computed on the CPU.

    precision : 'full', 'tf32' or 'bfloat16', default='full'
        Digits of the factors of products in steps of the backend torch: 'full' has those of the arithmetic.

    verbose : int, default=0
        1 prints a line after each epoch.

    Attributes
    ----------
    classes_ : ndarray of shape (n_classes,)
        The labels, sorted, with those whose rows all have weight 0.

    coef_ : ndarray of shape (1, n_features) or (n_classes, n_features), float64
        Weights for rows of `X` as they are, or for their `features`, with the standardisation folded in. For two
        classes, one row: the difference of the classes' weights, or half of it for sigmoids.

    intercept_ : ndarray of shape (1,) or (n_classes,), float64

    n_features_in_ : int
        Number of features.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the features, if `X` is a frame whose column names are strings.

    n_iter_ : int
        Number of epochs done; of iterations, if the solver is 'converged'.

    kept_epoch_ : int
        The epoch of which the weights are: the last, or the best if there is early stopping.

    learning_rate_ : float or None
        Learning rate of the first epoch; None if the solver is 'converged'.

    history_ : dict of str to ndarray of shape (n_iter_,)
        One value for each epoch, for ``pandas.DataFrame(clf.history_)``: `epoch`, `learning_rate`, `train_loss`,
        `train_cost` and `train_accuracy` over all training rows, the same for the rows held out if there is early
        stopping (`validation_loss`, ...), and `seconds`; for 'converged' also `passes` and `gap`. Losses are in nats;
        rows count by their weights.

    model_ : onelayer.Model
        The layer with its features and its standardisation, for the other functions of onelayer.

    See Also
    --------
    sklearn.linear_model.LogisticRegression : The same model, trained until it converges.
    sklearn.linear_model.SGDClassifier : One class against the rest, trained one row at a time.

    Notes
    -----
    The type of `X` is the type of the arithmetic: ``float32`` and ``uint8`` are trained in ``float32``, by the compiled
    kernel if there is one, and everything else in ``float64`` by NumPy, unless `backend` or `device` say otherwise.
    Rows of ``uint8``, ``float32`` and ``float64`` in C order are not copied. Answers are always in ``float64``.

    A row of `sample_weight` 2 counts as two rows in the loss, the standardisation and the history, and a row of weight
    0 does not count. Only the ratios of the weights matter, so they do not change the length of the steps. A batch is a
    number of rows, whatever their weights. A class whose rows all have weight 0 is trained as one without rows: its
    bias starts where half a row would put it, and falls.

    A column that is constant in all rows seen so far has the coefficient 0, so that no answer depends on weights that
    no row has trained. This holds without `standardize` too: the intercept does the work of such a column, as at the
    optimum of :class:`~sklearn.linear_model.LogisticRegression`.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import train_test_split
    >>> from onelayer import SoftmaxClassifier
    >>> X, y = load_digits(return_X_y=True)
    >>> X_train, X_test, y_train, y_test = train_test_split(X, y, random_state=0)
    >>> clf = SoftmaxClassifier(random_state=0).fit(X_train, y_train)
    >>> round(clf.score(X_test, y_test), 2)
    0.96
    >>> clf.coef_.shape
    (10, 64)
    >>> bool(clf.history_["train_loss"][-1] < clf.history_["train_loss"][0])
    True
    """

    model_: Model
    _state: TrainingState  # with the best layer, where training ended early
    _moments: Moments | None  # of the rows that were trained on
    _seed: int

    def __init__(
        self,
        *,
        solver: Literal["sgd", "converged"] = TrainConfig.solver,
        tol: float = TrainConfig.tol,
        max_passes: int = TrainConfig.max_passes,
        learning_rate: float | Literal["auto"] = "auto",
        l2: float = TrainConfig.l2,
        batch_size: int = TrainConfig.batch_size,
        epochs: int | Literal["auto"] = TrainConfig.epochs,
        loss: str = TrainConfig.loss,
        standardize: bool = True,
        flip: bool = TrainConfig.flip,
        image_shape: tuple[int, int, int] | None = None,
        features: str | CodesOf | FeatureMap | None = None,
        features_seed: int = TrainConfig.features_seed,
        decay_every: int | Literal["auto"] = TrainConfig.decay_every,
        decay_factor: float = TrainConfig.decay_factor,
        init_std: float = TrainConfig.init_std,
        init_bias: Literal["frequencies", "zero"] = TrainConfig.init_bias,
        random_state: int | np.random.RandomState | None = None,
        warm_start: bool = False,
        class_weight: dict[Any, float] | Literal["balanced"] | None = None,
        early_stopping: bool = False,
        validation_fraction: float = 0.1,
        n_iter_no_change: int = 5,
        backend: Literal["auto", "native", "numpy", "torch"] = TrainConfig.backend,
        device: str = TrainConfig.device,
        precision: Literal["full", "tf32", "bfloat16"] = TrainConfig.precision,
        verbose: int = 0,
    ) -> None:
        self.solver = solver
        self.tol = tol
        self.max_passes = max_passes
        self.learning_rate = learning_rate
        self.l2 = l2
        self.batch_size = batch_size
        self.epochs = epochs
        self.loss = loss
        self.standardize = standardize
        self.flip = flip
        self.image_shape = image_shape
        self.features = features
        self.features_seed = features_seed
        self.decay_every = decay_every
        self.decay_factor = decay_factor
        self.init_std = init_std
        self.init_bias = init_bias
        self.random_state = random_state
        self.warm_start = warm_start
        self.class_weight = class_weight
        self.early_stopping = early_stopping
        self.validation_fraction = validation_fraction
        self.n_iter_no_change = n_iter_no_change
        self.backend = backend
        self.device = device
        self.precision = precision
        self.verbose = verbose

    def fit(self, X: Any, y: Any, sample_weight: Any = None) -> Self:
        """Train on rows.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            Features, or pixels as ``uint8``; finite, dense.
        y : array-like of shape (n_samples,)
            Labels: numbers or strings.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row; by default all rows have the same.

        Returns
        -------
        self : SoftmaxClassifier

        Raises
        ------
        ValueError
            If `X`, `y`, a weight or a parameter is not valid, or the cost is not finite after an epoch.
        """
        if self.warm_start:
            self._refuse_features("warm_start", "set it to False")
        goes_on = bool(self.warm_start) and hasattr(self, "model_")
        X, y, weights = self._checked(X, y, sample_weight, reset=not goes_on)
        classes = self.classes_ if goes_on else np.unique(y)
        return self._train(X, y, weights, classes, goes_on=goes_on, epochs=self.epochs, hold_out=self.early_stopping)

    @available_if(_takes_steps)  # type: ignore[untyped-decorator]  # scikit-learn has no types
    def partial_fit(self, X: Any, y: Any, classes: Any = None, sample_weight: Any = None) -> Self:
        """Train for one epoch on rows, from the result of `fit` or of earlier calls.

        The standardisation is that of all rows seen so far. When it changes, the weights are expressed in the new
        units, so that the answers stay the same. A feature whose deviation grows more than a thousandfold was as good
        as constant: its weights begin at 0.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
            As for `fit`.
        y : array-like of shape (n_samples,)
            Labels.
        classes : array-like of shape (n_classes,), default=None
            All labels that any call will have; needed in the first call.
        sample_weight : array-like of shape (n_samples,), default=None
            Weight of each row in this call, and in the standardisation of all rows seen so far.

        Returns
        -------
        self : SoftmaxClassifier

        Raises
        ------
        ValueError
            As for `fit`, and if `classes` is missing or has changed, or `class_weight` is 'balanced'.
        AttributeError
            If the solver is not 'sgd': the others need all rows at once.
        """
        self._refuse_features("partial_fit", "call fit")
        goes_on = hasattr(self, "model_")
        if classes is None and not goes_on:
            raise ValueError("the first call of partial_fit needs classes: all labels there are ever to be")
        known = self.classes_ if goes_on else np.unique(classes)
        if classes is not None and not np.array_equal(np.unique(classes), known):
            raise ValueError(f"classes were {known} in the first call of partial_fit, and are {np.unique(classes)} now")
        if isinstance(self.class_weight, str):
            raise ValueError(f"class_weight {self.class_weight!r} needs all labels at once; give partial_fit a dict")
        X, y, weights = self._checked(X, y, sample_weight, reset=not goes_on)
        seen = self._moments if goes_on else None
        return self._train(X, y, weights, known, goes_on=goes_on, epochs=1, in_parts=True, seen=seen)

    def decision_function(self, X: Any) -> np.ndarray:
        """Return the scores of rows: above 0 for the second of two classes, or the largest for the likeliest of many.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        scores : ndarray of shape (n_samples,) or (n_samples, n_classes)
            ``X @ coef_.T + intercept_`` except for rounding.
        """
        return _merged(self._logits(X), self.model_)

    def plot_confusion(self, X: Any, y: Any, ax: Any = None) -> Any:  # type: ignore[override]
        """Plot how the rows of each class were classified into `ax`, or a new figure, and return the axes.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)
        y : array-like of shape (n_samples,)
            True labels, all of them in `classes_`.
        ax : matplotlib Axes, optional
        """
        from onelayer.analysis.evaluation import Evaluation

        P = self.predict_proba(X)
        found = [np.asarray(labels) for labels in (y, self.predict(X))]
        if unknown := set(found[0].tolist()) - set(self.classes_.tolist()):
            raise ValueError(f"y has labels that fit has not seen: {sorted(map(str, unknown))[:5]}")
        truths, answers = (np.searchsorted(self.classes_, labels) for labels in found)
        evaluation = Evaluation(math.nan, truths, answers, P, None, tuple(map(str, self.classes_)), "rows")
        return pictures().plot_confusion(self, evaluation, ax)

    def predict(self, X: Any) -> np.ndarray:
        """Return the likeliest class of each row.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        y : ndarray of shape (n_samples,)
        """
        labels = likeliest(self._logits(X))
        return self.classes_[labels]

    def predict_proba(self, X: Any) -> np.ndarray:
        """Return the probabilities of the classes, in the order of `classes_`.

        The probabilities of more than two sigmoids are divided by their sum, as in
        :class:`~sklearn.multiclass.OneVsRestClassifier`.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        P : ndarray of shape (n_samples, n_classes)
            Each row adds up to 1.
        """
        return softmax(self._log_odds(X), axis=1)

    def predict_log_proba(self, X: Any) -> np.ndarray:
        """Return the logarithms of the probabilities, exact even where a probability is rounded to 0 or 1.

        Parameters
        ----------
        X : array-like of shape (n_samples, n_features)

        Returns
        -------
        log_P : ndarray of shape (n_samples, n_classes)
        """
        return log_softmax(self._log_odds(X), axis=1)

    def _refuse_features(self, how: str, instead: str) -> None:
        """Refuse features where training goes on from a result: other rows would have other filters."""
        if self._has_features or (hasattr(self, "model_") and not isinstance(self.model_.features, Identity)):
            raise ConfigError(f"{how} takes no features, which are for the rows of one fit; {instead}")

    @property
    def _has_features(self) -> bool:
        return self.features is not None and not (isinstance(self.features, str) and self.features == "none")

    @property
    def _is_named(self) -> bool:
        return self._has_features and isinstance(self.features, str)

    @property
    def history_(self) -> dict[str, np.ndarray]:
        check_is_fitted(self, "model_")
        columns = table_of(self._state.history)
        empty = {"test_accuracy"} | {name for name in columns if "validation" in name and np.isnan(columns[name]).all()}
        return {name: column for name, column in columns.items() if name not in empty}

    def _logits(self, X: Any) -> np.ndarray:
        """Return the logits (n, K) of rows."""
        check_is_fitted(self, "model_")
        with value_errors():
            return self.model_.logits(kept_or_float64(validate_data(self, X, reset=False)))

    def _log_odds(self, X: Any) -> np.ndarray:
        """Return logarithms (n, K) of numbers to which the probabilities of a row are in proportion."""
        scores = self.decision_function(X)
        if scores.ndim == 1:
            return np.column_stack([np.zeros_like(scores), scores])
        return np.asarray(self.model_.layer.loss.log_shares(scores))

    def _checked(self, X: Any, y: Any, sample_weight: Any, *, reset: bool) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Return rows (n, d), labels (n,) and weights (n,) as arrays."""
        X, y = validate_data(self, X, y, order="C", reset=reset)
        with value_errors():
            X = as_pixels(X, str(self.features)) if self._is_named else kept_or_float64(X)
        check_classification_targets(y)
        if sample_weight is None:
            return X, y, np.ones(len(X))
        weights = check_array(sample_weight, dtype=np.float64, ensure_2d=False, input_name="sample_weight")
        if weights.shape != y.shape:
            raise ValueError(f"sample_weight has the shape {weights.shape}; {len(X)} rows need {y.shape}")
        if (weights < 0).any():
            raise ValueError(f"sample_weight of row {(weights < 0).argmax()} is negative")
        if not weights.any():
            raise ValueError("sample_weight is zero for every row")
        return X, y, within_range(weights)

    def _train(
        self,
        X: np.ndarray,
        y: np.ndarray,
        weights: np.ndarray,
        classes: np.ndarray,
        *,
        goes_on: bool,
        epochs: int | Literal["auto"],
        hold_out: bool = False,
        in_parts: bool = False,
        seen: Moments | None = None,
    ) -> Self:
        if len(classes) < 2:
            raise ValueError(f"y has one class only, {classes.tolist()[0]!r}; a classifier needs two")
        config = self._config(X, epochs, self._seed if goes_on else seed_of(self.random_state), hold_out)
        if in_parts and config.decay_every == "auto":  # the losses of different rows cannot be compared
            config = replace(config, decay_every=0)
        splits, train_weights = self._split(X, y, weights, classes, config.seed if hold_out else None)
        features = self._map(splits, config)
        moments = None if self._has_features else _moments(splits.train, train_weights, seen)
        standardizer = self._standardizer(moments, splits.dataset.image_shape, config, goes_on)
        if features and not self.standardize:
            standardizer = Standardizer(np.zeros(features.d_out), np.ones(features.d_out))
        start = self._start(standardizer, config) if goes_on and standardizer else None
        if start is not None and config.epochs != "auto":
            config = replace(config, epochs=start.epoch + config.epochs)
        earlier = None
        if start is not None and hold_out:  # the result must not be worse than the weights from before
            before = replace(config, epochs=start.epoch)
            earlier = train(splits, before, start=start, standardizer=standardizer, report_test=False)

        def on_epoch(state: TrainingState) -> bool:
            if self.verbose:
                print(state.history[-1].in_words(config.epochs))
            return hold_out and decide(config, state.history).stalled

        result = train(
            splits,
            config,
            start=start,
            features=features,
            standardizer=standardizer,
            on_epoch=on_epoch,
            report_test=False,
        )
        kept = result.kept
        if earlier and not result.scores["validation"].loss < earlier.scores["validation"].loss:
            kept = earlier.kept
        if short := self._stopped_short(config, result, hold_out, in_parts):
            warnings.warn(short, ConvergenceWarning, stacklevel=3)
        self._state = replace(result.state, layer=kept.layer, scores=kept.scores)
        self.kept_epoch_ = kept.epoch
        self._moments, self._seed = moments, config.seed
        self.model_ = replace(result.model, layer=kept.layer)
        self.classes_ = classes
        self.n_iter_ = self._state.epoch
        self.learning_rate_ = result.state.first_rate
        self.coef_, self.intercept_ = _raw_weights(self.model_)
        return self

    def _split(
        self, X: np.ndarray, y: np.ndarray, weights: np.ndarray, classes: np.ndarray, hold_out_seed: int | None
    ) -> tuple[Splits, np.ndarray | None]:
        """Return `splits_of` by the parameters of this classifier."""
        return splits_of(
            X,
            y,
            weights,
            classes,
            image_shape=image_shape_of(self.image_shape, X.shape[1]),
            class_weight=self.class_weight,
            validation_fraction=self.validation_fraction,
            hold_out_seed=hold_out_seed,
        )

    def _stopped_short(self, config: TrainConfig, result: TrainingResult, hold_out: bool, in_parts: bool) -> str:
        """Return what a training has not reached; empty if it has."""
        if config.solver == "converged":
            return "" if result.ended in (REACHED, SURE) else result.ended
        asked = (hold_out or self.epochs == "auto") and not in_parts
        if not asked or decide(config, result.state.history).stalled:
            return ""
        return f"the loss was still falling after {counted(result.state.epoch, 'epoch')}; ask for more epochs"

    def _start(self, standardizer: Standardizer, config: TrainConfig) -> TrainingState:
        """Return the state to go on from, in the units of the new standardisation; the step is measured again."""
        state, best = self._state, self._state.best
        if best and config.needs_best:
            best = replace(best, layer=self._reexpressed(best.layer, standardizer, config))
        layer = self._reexpressed(state.layer, standardizer, config)
        if config.epochs == "auto" or config.keep == "best" or state.solver:  # what stalled before may fall again
            return TrainingState(layer, state.rng_state)
        return replace(state, layer=layer, best=best if config.needs_best else None, first_rate=None, ended="")

    def _standardizer(
        self, moments: Moments | None, image_shape: Shape | None, config: TrainConfig, goes_on: bool
    ) -> Standardizer | None:
        """Return the standardisation of the training rows, and of their mirror images if there are flips."""
        if moments is None:
            return None
        standardizer = moments.standardizer  # refuses numbers that are too large for the arithmetic
        if config.flip and image_shape is not None:
            standardizer = with_flips(standardizer, image_shape, config)
        constant = standardizer.constant
        if goes_on and constant is not None and self.model_.standardizer.constant is not None:
            constant = constant & self.model_.standardizer.constant  # a feature that varied before has been learnt from
        if self.standardize:
            return Standardizer(standardizer.mean, standardizer.scale, constant)
        d = len(standardizer.mean)
        return Standardizer(np.zeros(d), np.ones(d), constant)

    def _reexpressed(self, layer: SoftmaxLayer, standardizer: Standardizer, config: TrainConfig) -> SoftmaxLayer:
        """Return a layer trained so far in the units of a new standardisation."""
        old = self.model_.standardizer
        layer = replace(old, constant=standardizer.scale > FORGOTTEN * old.scale).clear(layer)
        layer = old.reexpress(layer, standardizer)
        weights, bias = layer.weights.astype(config.dtype), layer.bias.astype(config.dtype)
        return SoftmaxLayer(weights, bias, LOSSES[config.loss])

    def _config(self, X: np.ndarray, epochs: int | Literal["auto"], seed: int, hold_out: bool) -> TrainConfig:
        """Return the settings, checked."""
        if image_shape_of(self.image_shape, X.shape[1]) is None:
            of_images = ["flip"] if self.flip else ["features"] if self._is_named else []
            if of_images:
                raise ConfigError(f"{of_images[0]} needs image_shape: channels, height and width of the images")
        check_scalar(
            self.validation_fraction, "validation_fraction", Real, min_val=0, max_val=1, include_boundaries="neither"
        )
        check_scalar(self.n_iter_no_change, "n_iter_no_change", Integral, min_val=1)
        of_steps: dict[str, Any] = {"patience": self.n_iter_no_change, "keep": "best" if hold_out else "last"}
        if self.solver == "converged":
            of_steps = {}
            if self.early_stopping:
                what = f"early_stopping True is a setting of the solver sgd, not of {self.solver}"
                raise ConfigError(f"{what}; leave it out, or take the other solver")
        return TrainConfig(
            epochs=epochs,
            **of_steps,
            dtype="float64" if X.dtype == np.float64 and not self._has_features else "float32",
            seed=seed,
            features=str(self.features) if self._is_named else "none",
            **{name: getattr(self, name) for name in SETTINGS},
        )

    def _map(self, splits: Splits, config: TrainConfig) -> FeatureMap | None:
        """Return the features that the layer sees; None for the rows as they are."""
        features = self.features
        if not self._has_features:
            return None
        with value_errors():
            if isinstance(features, str):
                return features_of(splits, config)
            if callable(features) and not hasattr(features, "transform"):
                return Function.of(features, splits.dataset.image_shape)
        if not all(hasattr(features, name) for name in ("d_in", "d_out", "transform")):
            expected = "a word such as 'patches', a function of images, or an object of a subclass of FeatureMap"
            raise wrong_type("features", features, expected)
        return cast(FeatureMap, features)


def _moments(train: Split, weights: np.ndarray | None, seen: Moments | None) -> Moments:
    """Return the moments of all rows trained on: these, and those that were seen before."""
    # Not the weights of the data set, which are 1 on average over these rows: they may be merged with others.
    blocks = None if weights is None else (weights[block] for block in train.blocks(BLOCK_ROWS))
    with read_forwards(train.dataset.rows):
        moments = Moments.of(train.row_blocks(BLOCK_ROWS), blocks)
    return seen.merge(moments) if seen else moments


def _merged(S: np.ndarray, model: Model) -> np.ndarray:
    """Return scores (n, K), or for two classes one score (n,), whose sigmoid is the probability of the second."""
    if S.shape[1] > 2:
        return S
    return model.layer.loss.margin * (S[:, 1] - S[:, 0])


def _raw_weights(model: Model) -> tuple[np.ndarray, np.ndarray]:
    """Return `coef_` and `intercept_`, in float64, so that terms that cancel in the intercept keep their digits."""
    folded = model.standardizer.fold(model.in_float64().layer)
    merged = _merged(np.vstack([folded.weights, folded.bias]), model)  # (d + 1,) or (d + 1, K)
    merged = np.atleast_2d(merged.T)  # (1 or K, d + 1)
    return merged[:, :-1].copy(), merged[:, -1].copy()
