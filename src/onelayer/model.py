"""A trained classifier: raw rows in, probabilities out; and its file."""

import json
import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast, get_args

import numpy as np
from numpy.typing import ArrayLike

from onelayer.blas import one_blas_thread
from onelayer.config import Fit
from onelayer.container import is_packed, pack, require_numbers, unpack
from onelayer.drawing import ModelPlots, html_table, pictures_in_html
from onelayer.errors import ConfigError, DataError, ModelFileError, OldModelWarning, OnelayerWarning
from onelayer.features.map import FeatureMap, Identity, misfit
from onelayer.features.registry import FEATURE_MAPS
from onelayer.features.standardizer import BLOCK_ROWS, Standardizer
from onelayer.features.units import doubt, places_to_look_at
from onelayer.files import write_over
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES

MODEL_ARRAYS = ("weights", "bias", "mean", "scale")
ROW_ARRAYS, FEATURE_PREFIX = ("rows.mean", "rows.scale"), "features."  # in files of models with a feature map


@dataclass(frozen=True, eq=False)
class Model(ModelPlots):
    """A layer with its features, its standardisation, and the meaning of its inputs and outputs.

    A raw row has d_in numbers. The feature map makes d features of them; with the identity, these are the same.

    Parameters
    ----------
    layer : SoftmaxLayer
        d features, K classes.
    standardizer : Standardizer
        Mean and scale (d,) of the features of the training rows, float64.
    class_names : tuple of K str
    image_shape : (c, h, w) or None
        The images that the raw rows are.
    pixels : bool
        Whether the training rows were pixels from 0 to 255. None, as in older files, decides by the means of images.
    features : FeatureMap
        By default (None) the identity.
    row_standardizer : Standardizer or None
        Mean and scale (d_in,) of the raw training rows, by which the unit of other rows is judged. Needed with every
        map except the identity, with which `standardizer` has them.
    fit : {"squeeze", "crop", "pad"}
        The way in which the training images were brought to `image_shape`, and others are to be; see `read_image`.
        Older files do not name it: their images were squeezed.
    """

    layer: SoftmaxLayer
    standardizer: Standardizer
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int] | None
    pixels: bool | None = None
    features: FeatureMap = None  # type: ignore[assignment]  # __post_init__ makes it the identity
    row_standardizer: Standardizer | None = None
    fit: Fit = "squeeze"

    def __post_init__(self) -> None:
        if self.features is None:
            object.__setattr__(self, "features", Identity(len(self.layer.weights)))
        if self.row_standardizer is None and not isinstance(self.features, Identity):
            raise ConfigError(f"a model of the features {self.features.name} needs the mean and scale of the raw rows")
        if self.pixels is None:
            mean = self.of_rows.mean
            like_pixels = self.image_shape is not None and mean.size and mean.min() >= 0 and 1 < mean.max() <= 255
            object.__setattr__(self, "pixels", bool(like_pixels))

    if not TYPE_CHECKING:  # mypy would take any name for one of the model's

        def __getattr__(self, name: str) -> object:
            hint = "; probabilities(rows) returns those of the classes in class_names" if "predict" in name else ""
            raise AttributeError(f"Model has no attribute {name!r}{hint}")

    def __repr__(self) -> str:
        d, K = self.layer.weights.shape
        return f"<Model of {d:,} features and {K} classes, {self.layer.loss.name}>"

    def _repr_html_(self) -> str:
        d, K = self.layer.weights.shape
        rows = [("features", f"{d:,}"), ("classes", f"{K:,}"), ("loss", self.layer.loss.name)]
        return html_table("Model", ("",), rows) + pictures_in_html(self)

    @property
    def of_rows(self) -> Standardizer:
        """Mean and scale (d_in,) of the raw training rows."""
        return self.row_standardizer or self.standardizer

    @property
    def template_shape(self) -> tuple[int, int, int] | None:
        """Shape (c, h, w) of the templates, the columns of ``on_raw_rows.layer.weights``; None if there are none."""
        return self.image_shape if self.features.linear else None

    @property
    def on_raw_rows(self) -> "Model":
        """The model without its linear map: the same answers by a layer on the standardised raw rows, in float64.

        With the identity it is this model. Of a map F(R) = R A it is the layer with the weights s' A (W / s), where s'
        is the scale of the raw rows.

        Raises
        ------
        DataError
            If the map is not linear.
        """
        if isinstance(self.features, Identity):
            return self
        layer, of_rows = self.standardizer.fold(self.in_float64().layer), self.of_rows
        V = np.asarray(self.features.pull_back(layer.weights), np.float64)  # (d_in, K)
        W = (V.T * of_rows.scale).T
        layer = SoftmaxLayer(W, layer.bias + of_rows.mean @ V, layer.loss)
        plain = Standardizer(of_rows.mean, of_rows.scale)
        return Model(layer, plain, self.class_names, self.image_shape, self.pixels, fit=self.fit)

    @property
    def without_linear_map(self) -> "Model":
        """The model `on_raw_rows` if the map is linear, otherwise this model."""
        return self.on_raw_rows if self.features.linear else self

    def with_weights(self, weights: np.ndarray) -> "Model":
        """Return the model with other weights (d, K), such as those that were learnt, without the initial ones."""
        return replace(self, layer=replace(self.layer, weights=weights))

    def logits(self, rows: ArrayLike) -> np.ndarray:
        """Return logits S (n, K), float64, of raw rows (n, d), an array or nested lists.

        Where a row has several views, its logits are averages over them. The rows are standardised a few at a time.
        Rows that look as if they were in another unit than the training rows give an `OnelayerWarning`.

        Raises
        ------
        DataError
            If rows do not have d numbers each.
        """
        S = self.unchecked_logits(rows)
        self.warn_of(rows, stacklevel=3)
        return S

    def warn_of(self, rows: ArrayLike, name: str = "", stacklevel: int = 2) -> None:
        """Warn if `doubt` returns a reason; `name` says where the rows are from."""
        if doubt := self.doubt(rows):
            warnings.warn(type(doubt)(f"{name}: {doubt}" if name else str(doubt)), stacklevel=stacklevel)

    def doubt(self, rows: ArrayLike) -> OnelayerWarning | None:
        """Return a reason to doubt that rows (n, d) are in the unit of the training rows; it looks at a few of them."""
        R = np.asarray(rows)
        mean, scale = self.of_rows.mean, self.of_rows.scale
        return doubt(R[places_to_look_at(len(R))], mean, scale, pixels=bool(self.pixels))

    def unchecked_logits(self, rows: ArrayLike) -> np.ndarray:
        """Return `logits` without a look at the unit of the rows."""
        d, K = self.features.d_in, self.layer.weights.shape[1]
        try:
            R = np.asarray(rows)
        except ValueError:
            raise DataError(f"rows differ in length; this model needs (n, {d})") from None
        if R.dtype.kind not in "buif":
            raise DataError(f"rows are {R.dtype}; this model needs numbers")
        if R.ndim != 2 or R.shape[1] != d:
            raise DataError(f"rows have the shape {R.shape}; this model needs (n, {d})")
        if not len(R):
            return np.empty((0, K))
        exact = self.in_float64()
        folded = exact.standardizer.input_layer(exact.layer, self.features.transform(R[:1]))
        S = np.empty((len(R), K))
        step = -(-BLOCK_ROWS // self.features.views)
        with one_blas_thread():
            for start in range(0, len(R), step):
                block = slice(start, start + step)
                of_views = folded.logits(exact.standardizer.inputs(self.features.transform(R[block])))
                S[block] = of_views.reshape(-1, self.features.views, K).mean(axis=1)
        return S

    def probabilities(self, rows: ArrayLike) -> np.ndarray:
        """Return probabilities P (n, K) of raw rows (n, d). Those of a sigmoid loss need not add up to 1."""
        P = np.asarray(self.layer.loss.probabilities(self.unchecked_logits(rows)))
        self.warn_of(rows, stacklevel=3)
        return P

    def in_float64(self) -> "Model":
        """Return the same model in float64, in which `logits` calculates."""
        weights, bias = (array.astype(np.float64, copy=False) for array in (self.layer.weights, self.layer.bias))
        return replace(self, layer=SoftmaxLayer(weights, bias, self.layer.loss))

    def to_bytes(self) -> bytes:
        """Return the model as a safetensors file.

        Raises
        ------
        ModelFileError
            If `load` would refuse it: a name occurs twice or cannot be printed, or the pieces do not fit each other.
        """
        tensors = {
            "weights": self.layer.weights,
            "bias": self.layer.bias,
            "mean": self.standardizer.mean,
            "scale": self.standardizer.scale,
        }
        where = "this model cannot be saved"
        facts = self._add_features(where, tensors)
        require_numbers(where, tensors)
        self._require_whole(where)
        metadata = {
            "loss": self.layer.loss.name,
            "class_names": json.dumps(self.class_names),
            "image_shape": json.dumps(self.image_shape),
            "pixels": json.dumps(self.pixels),
            "fit": self.fit,
        }
        if facts is not None:
            metadata["features"] = json.dumps(facts)
        if self.standardizer.constant is not None:  # in older files, these features may have random weights
            metadata["constant_weights"] = "0"
        return pack(tensors, metadata, kind="model")

    def save(self, path: str | Path) -> None:
        """Write a model file, completely or not at all.

        A model file of onelayer that is there is replaced; a file of any other kind is refused.

        Raises
        ------
        ModelFileError
            If `load` would refuse the file, as in `to_bytes`.
        RunError
            If a file of another kind is there, or the file cannot be written.
        """
        write_over(Path(path), self.to_bytes(), lambda content: is_packed(content, "model"))

    def _add_features(self, where: str, tensors: dict[str, np.ndarray]) -> dict[str, Any] | None:
        """Add the arrays of a map to those of a file, and return the facts of the map; nothing for the identity."""
        features = self.features
        if isinstance(features, Identity):
            return None
        if features.name not in FEATURE_MAPS:
            raise ModelFileError(f"{where}: its features {features.name} are not in FEATURE_MAPS; add their reader")
        tensors |= dict(zip(ROW_ARRAYS, (self.of_rows.mean, self.of_rows.scale), strict=True))
        tensors |= {FEATURE_PREFIX + name: tensor for name, tensor in features.tensors().items()}
        return {**features.facts(), "name": features.name}

    @classmethod
    def load(cls, path: str | Path) -> "Model":
        """Read a model file.

        Warns
        -----
        OldModelWarning
            If features of scale 1 may have been constant in training but have weights.

        Raises
        ------
        ModelFileError
            If it is missing, damaged, of a newer format, or its pieces do not fit each other.
        """
        tensors, metadata = unpack(path, kind="model", names=MODEL_ARRAYS)
        try:
            names, shape = json.loads(metadata["class_names"]), json.loads(metadata["image_shape"])
            pixels = {"true": True, "false": False, "": None}[metadata.get("pixels", "")]
            loss, fit = metadata["loss"], metadata.get("fit", "squeeze")
        except (KeyError, ValueError, RecursionError) as error:
            raise ModelFileError(f"{path}: the metadata is damaged ({error!r:.80}); train the model again") from None
        if loss not in LOSSES:
            known = ", ".join(LOSSES)
            raise ModelFileError(
                f"{path}: needs the loss {loss!r:.40}; this onelayer has {known}; upgrade it, or add the loss"
            )
        layer = SoftmaxLayer(np.asfortranarray(tensors["weights"]), tensors["bias"], LOSSES[loss])
        require_layer_shapes(path, layer)
        names = tuple(names) if isinstance(names, list) else ()
        shape = None if shape is None else tuple(shape) if isinstance(shape, list) else ()
        features, of_rows = _read_features(path, tensors, metadata)
        standardizer = Standardizer(tensors["mean"], tensors["scale"])
        model = cls(layer, standardizer, names, shape, pixels, features, of_rows, cast(Fit, fit))
        model._require_whole(path)
        constant = _constant_features(path, model, known="constant_weights" in metadata)
        return replace(model, standardizer=replace(model.standardizer, constant=constant))

    def _require_whole(self, where: str | Path) -> None:
        """Refuse, with a ModelFileError, pieces that do not fit each other."""
        d, K = require_layer_shapes(where, self.layer)
        mean, scale = self.standardizer.mean, self.standardizer.scale
        if mean.shape != (d,) or scale.shape != (d,) or not (scale > 0).all():
            raise ModelFileError(f"{where}: mean and scale do not fit weights for {d} features; train the model again")
        require_names(where, self.class_names, K)
        if self.fit not in get_args(Fit):
            known = ", ".join(get_args(Fit))
            raise ModelFileError(f"{where}: needs the fit {self.fit!r:.40}; this onelayer has {known}; upgrade it")
        d_in, mean, scale = self.features.d_in, self.of_rows.mean, self.of_rows.scale
        if self.features.d_out != d or mean.shape != (d_in,) or scale.shape != (d_in,) or not (scale > 0).all():
            name = self.features.name
            raise ModelFileError(f"{where}: the features {name} do not fit weights for {d} features; train it again")
        shape = self.image_shape
        if shape is not None:
            sizes = shape if all(type(size) is int and size > 0 for size in shape) else ()
            if len(sizes) != 3 or math.prod(sizes) != d_in:
                raise ModelFileError(f"{where}: rows of {d_in} numbers are not images of the shape {list(shape)!r:.80}")
        if problem := misfit(self.features, d_in, shape):
            raise ModelFileError(f"{where}: {problem}; train it again")


def _read_features(
    path: str | Path, tensors: dict[str, np.ndarray], metadata: dict[str, str]
) -> tuple[FeatureMap, Standardizer | None]:
    """Return the map of a model file, and mean and scale of the raw rows where the map is not the identity."""
    others = {name: tensor for name, tensor in tensors.items() if name not in MODEL_ARRAYS}
    try:
        if "features" not in metadata and not others:
            return Identity(len(tensors["weights"])), None
        facts = json.loads(metadata["features"])
        name = facts["name"]
        if name not in FEATURE_MAPS:
            known = ", ".join(FEATURE_MAPS) or "no map"
            raise ModelFileError(f"{path}: needs the features {name!r:.40}; this onelayer has {known}; upgrade it")
        mean, scale = (others.pop(array) for array in ROW_ARRAYS)
        of_map = {array.removeprefix(FEATURE_PREFIX): tensor for array, tensor in others.items()}
        return FEATURE_MAPS[name](of_map, facts), Standardizer(mean, scale)
    except (KeyError, ValueError, TypeError, RecursionError) as error:
        raise ModelFileError(f"{path}: the features are damaged ({error!r:.80}); train the model again") from None


def _constant_features(path: str | Path, model: Model, *, known: bool) -> np.ndarray | None:
    """Return whether each feature (d,) was constant in training; None if an older file, not `known`, cannot tell."""
    ones, weighted = model.standardizer.scale == 1, model.layer.weights.any(axis=1)
    if known:
        constant: np.ndarray = ones & ~weighted
        return constant
    standardised = model.standardizer.mean.any() or not ones.all()
    if standardised and (count := np.count_nonzero(ones & weighted)):
        warnings.warn(
            f"{path}: does not say which features were constant in training, as older files do not, so perhaps the "
            f"{count:,} of scale 1 have random weights; resume the run or train it again to clear them",
            OldModelWarning,
            stacklevel=3,
        )
    return None


def require_layer_shapes(path: str | Path, layer: SoftmaxLayer) -> tuple[int, int]:
    """Return the numbers of features d and classes K of a layer that was read from a file."""
    weights, bias = layer.weights, layer.bias
    if weights.ndim != 2 or 0 in weights.shape or bias.shape != weights.shape[1:] or bias.dtype != weights.dtype:
        raise ModelFileError(f"{path}: weights {weights.shape} and bias {bias.shape} do not fit each other")
    return weights.shape


def require_names(where: str | Path, names: tuple[str, ...], K: int) -> None:
    """Refuse names of classes that are not K different words; they are printed, so they hold no control characters."""
    good = all(isinstance(name, str) and name.isprintable() for name in names)
    if not good or not len(set(names)) == len(names) == K:
        raise ModelFileError(f"{where}: the class names are not {K} different words; rename them and train again")
