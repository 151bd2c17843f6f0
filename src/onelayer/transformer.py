"""scikit-learn's interface to patch features, and the model of a pipeline of them."""

import warnings
from dataclasses import replace
from numbers import Integral
from typing import Any, Self

import numpy as np
from sklearn.base import BaseEstimator, ClassNamePrefixFeaturesOutMixin, TransformerMixin
from sklearn.pipeline import Pipeline
from sklearn.utils import check_scalar
from sklearn.utils.validation import check_is_fitted, validate_data

from onelayer.errors import ConfigError
from onelayer.estimator import SoftmaxClassifier
from onelayer.features.map import Identity, Shape, as_pixels
from onelayer.features.patches import Patches
from onelayer.features.standardizer import BLOCK_ROWS, Standardizer
from onelayer.features.units import doubt, places_to_look_at
from onelayer.model import Model
from onelayer.passed import image_shape_of, seed_of, value_errors


class PatchFeatures(ClassNamePrefixFeaturesOutMixin, TransformerMixin, BaseEstimator):  # type: ignore[misc]  # scikit-learn has no types
    """Responses of images to filters that are patches of the training images, averaged over 3 x 3 windows.

    The filters need no labels. An image has one row of features, the mean over its views, with which a linear
    classifier is much more often right than with pixels. ``SoftmaxClassifier(features="patches")`` computes the same
    features and trains on every view by itself, which is more accurate; this transformer is for other classifiers,
    and for pipelines.

    Parameters
    ----------
    n_filters : int, default=128
        Filters for each size of patches: of images from 14 pixels, there are two sizes. More are more accurate and take
        longer.

    views : {5, 1}, default=5
        Positions at which the responses of an image are read: in the middle, and moved diagonally by a 16th of the
        image. Images of fewer than 9 pixels down or across have one view.

    mirror : bool or None, default=None
        Whether a filter and its mirror image make one feature, so that mirrored images have the same features. None
        does so for images of three channels.

    image_shape : (int, int, int), default=None
        Channels, height and width of the images, if `X` has two dimensions.

    random_state : int, RandomState instance or None, default=0
        Seed for the patches that are drawn. An int is the command's ``--features-seed``.

    Attributes
    ----------
    patches_ : onelayer.features.patches.Patches
        The feature map, for the other functions of onelayer.

    n_features_in_ : int
        Numbers of an image.

    feature_names_in_ : ndarray of shape (n_features_in_,)
        Names of the numbers, if `X` is a frame whose column names are strings.

    See Also
    --------
    SoftmaxClassifier : The classifier for these features.

    Examples
    --------
    >>> from sklearn.datasets import load_digits
    >>> from sklearn.model_selection import train_test_split
    >>> from sklearn.pipeline import make_pipeline
    >>> from onelayer import PatchFeatures, SoftmaxClassifier
    >>> digits = load_digits()
    >>> pixels = (digits.images * 255 / 16).round()
    >>> X_train, X_test, y_train, y_test = train_test_split(pixels, digits.target, random_state=0)
    >>> pipeline = make_pipeline(PatchFeatures(n_filters=32), SoftmaxClassifier(random_state=0))
    >>> round(pipeline.fit(X_train, y_train).score(X_test, y_test), 2)
    0.99
    """

    patches_: Patches
    _of_rows: Standardizer

    def __init__(
        self,
        n_filters: int = 128,
        *,
        views: int = 5,
        mirror: bool | None = None,
        image_shape: tuple[int, int, int] | None = None,
        random_state: int | np.random.RandomState | None = 0,
    ) -> None:
        self.n_filters = n_filters
        self.views = views
        self.mirror = mirror
        self.image_shape = image_shape
        self.random_state = random_state

    def fit(self, X: Any, y: Any = None) -> Self:
        """Draw filters from images.

        Parameters
        ----------
        X : array-like of shape (n, height, width), (n, height, width, channels), (n, channels, height, width) or \
(n, n_features)
            Pixels: whole numbers from 0 to 255, of any type; ``uint8`` is not copied. There are 1 or 3 channels. Rows
            of two dimensions have the channels first, and need `image_shape`.
        y : None
            Ignored.

        Returns
        -------
        self : PatchFeatures

        Raises
        ------
        ValueError
            If `X` or a parameter is not valid, or the images are too small, too few or too plain for the filters.
        """
        check_scalar(self.n_filters, "n_filters", Integral, min_val=1)
        if not (isinstance(self.views, Integral) and self.views in (1, 5)):
            raise ConfigError(f"views {self.views!r} is not 5 or 1")
        if not (self.mirror is None or isinstance(self.mirror, bool | np.bool_)):
            raise ConfigError(f"mirror {self.mirror!r} is not True, False or None")
        rows, shape = self._rows(X, reset=True)
        with value_errors():
            self.patches_ = Patches.drawn(
                rows,
                np.arange(len(rows)),
                shape,
                filters=int(self.n_filters),
                seed=seed_of(self.random_state),
                mirror=None if self.mirror is None else bool(self.mirror),
                views=int(self.views),
            )
        self._of_rows = Standardizer.fit(rows[start : start + BLOCK_ROWS] for start in range(0, len(rows), BLOCK_ROWS))
        return self

    def transform(self, X: Any) -> np.ndarray:
        """Return the features of images.

        Parameters
        ----------
        X : array-like
            As for `fit`.

        Warns
        -----
        OnelayerWarning
            If they look as if they were in another unit than those given to `fit`.

        Returns
        -------
        F : ndarray of shape (n, n_features_out), float32
            From 0 to 255, the mean over the views. They are ordered by size of patches, row of windows, column of
            windows, positive and negative responses, filter.
        """
        check_is_fitted(self, "patches_")
        rows, _ = self._rows(X, reset=False)
        patches, of_rows = self.patches_, self._of_rows
        if reason := doubt(rows[places_to_look_at(len(rows))], of_rows.mean, of_rows.scale, pixels=True):
            warnings.warn(reason, stacklevel=2)
        F = np.empty((len(rows), patches.d_out), np.float32)
        step = -(-BLOCK_ROWS // patches.views)
        for start in range(0, len(rows), step):
            block = slice(start, start + step)
            of_views = patches.transform(rows[block]).reshape(-1, patches.views, patches.d_out)
            F[block] = of_views.mean(axis=1, dtype=np.float32)
        return F

    @property
    def _n_features_out(self) -> int:
        return self.patches_.d_out

    def _rows(self, X: Any, *, reset: bool) -> tuple[np.ndarray, Shape]:
        """Return pixels (n, c h w), uint8, and the shape of the images."""
        X, shape = _flattened(X)
        X = validate_data(self, X, order="C", ensure_non_negative=True, reset=reset)
        wanted = image_shape_of(self.image_shape, X.shape[1]) if reset else self.patches_.image_shape
        shape = shape or wanted
        if shape is None:
            what = f"rows of {X.shape[1]} numbers need image_shape: channels, height and width of the images"
            raise ConfigError(f"{what}; or pass X as images (n, h, w) or (n, h, w, c)")
        if wanted not in (None, shape):
            raise ConfigError(f"X holds images of the shape {shape}, not {wanted}; pass images of that shape")
        with value_errors():
            return as_pixels(X, "patches"), shape

    def __sklearn_tags__(self) -> Any:
        tags = super().__sklearn_tags__()
        tags.input_tags.three_d_array = True
        tags.input_tags.positive_only = True
        tags.transformer_tags.preserves_dtype = ["float32"]
        return tags


def model_of(pipeline: Pipeline) -> Model:
    """Return the model of a fitted ``make_pipeline(PatchFeatures(), SoftmaxClassifier())``, to export or save it.

    It takes rows of pixels with the channels first, and computes the features itself. Its classes are the labels as
    words. Logits of several views are averaged, which is the same as the logits of the mean of their features.

    Raises
    ------
    ConfigError
        If the pipeline has other steps, is not fitted, or its classifier has features of its own.
    """
    steps = [step for _, step in pipeline.steps] if isinstance(pipeline, Pipeline) else []
    kinds = [type(step) for step in steps]
    if kinds != [PatchFeatures, SoftmaxClassifier]:
        found = " and ".join(kind.__name__ for kind in kinds) or type(pipeline).__name__
        what = "a Pipeline of PatchFeatures and SoftmaxClassifier, and nothing else, becomes a model"
        raise ConfigError(f"{what}; this is {found}")
    transformer, classifier = steps
    if not (hasattr(transformer, "patches_") and hasattr(classifier, "model_")):
        raise ConfigError("the pipeline is not fitted; call its method fit first")
    patches, of_rows, model = transformer.patches_, transformer._of_rows, classifier.model_
    if not isinstance(model.features, Identity):
        raise ConfigError(f"the classifier has features of its own, {model.features.name}; leave one of both out")
    return replace(model, image_shape=patches.image_shape, pixels=True, features=patches, row_standardizer=of_rows)


def _flattened(X: Any) -> tuple[Any, Shape | None]:
    """Return images as rows, channels first, and their shape; anything of two dimensions as it is."""
    if len(X.shape if hasattr(X, "shape") else np.shape(np.asarray(X))) not in (3, 4):
        return X, None
    images = np.asarray(X)
    if images.ndim == 3:
        images = images[:, None]
    elif images.shape[3] in (1, 3):
        images = images.transpose(0, 3, 1, 2)
    elif images.shape[1] not in (1, 3):
        raise ConfigError(f"X has the shape {images.shape}; images have 1 or 3 channels, first or last")
    c, h, w = images.shape[1:]
    return images.reshape(len(images), c * h * w), (c, h, w)
