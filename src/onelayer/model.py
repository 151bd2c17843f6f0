"""A trained classifier: raw rows in, probabilities out; and its file."""

import json
import math
import warnings
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, cast, get_args

import numpy as np
from numpy.typing import ArrayLike

from onelayer.blas import one_blas_thread
from onelayer.config import Fit
from onelayer.container import is_packed, pack, require_numbers, unpack
from onelayer.drawing import ModelPlots, html_table, pictures_in_html
from onelayer.errors import ConfigError, DataError, ModelFileError, OldModelWarning, OnelayerWarning
from onelayer.features.function import CodesOf, Function
from onelayer.features.map import FeatureMap, Identity, misfit
from onelayer.features.registry import pack_map, unpack_map
from onelayer.features.standardizer import BLOCK_ROWS, Standardizer
from onelayer.features.units import doubt, places_to_look_at
from onelayer.files import write_over
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES
from onelayer.words import listed

MODEL_ARRAYS = ("weights", "bias", "mean", "scale")
ROW_ARRAYS = ("rows.mean", "rows.scale")  # in files of models with a feature map


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
        d = self.features.d_in
        try:
            R = np.asarray(rows)
        except ValueError:
            raise DataError(f"rows differ in length; this model needs (n, {d})") from None
        if R.dtype.kind not in "buif":
            raise DataError(f"rows are {R.dtype}; this model needs numbers")
        if R.ndim != 2 or R.shape[1] != d:
            raise DataError(f"rows have the shape {R.shape}; this model needs (n, {d})")
        step = -(-BLOCK_ROWS // self.features.views)
        blocks = (self.features.transform(R[start : start + step]) for start in range(0, len(R), step))
        return self.logits_of_features(blocks)

    def logits_of_features(self, blocks: Iterable[np.ndarray]) -> np.ndarray:
        """Return logits S (n, K), float64, of the features of raw rows, blocks (k * views, d) of one type."""
        exact, found, views, K = self.in_float64(), [], self.features.views, self.layer.weights.shape[1]
        folded = None
        with one_blas_thread():
            for F in blocks:
                folded = folded or exact.standardizer.input_layer(exact.layer, F[:1])
                found.append(folded.logits(exact.standardizer.inputs(F)).reshape(-1, views, K).mean(axis=1))
        return np.concatenate(found) if found else np.empty((0, K))

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
        of_map: dict[str, str] = {}
        if not isinstance(self.features, Identity):
            arrays, of_map = pack_map(self.features, where)
            tensors |= dict(zip(ROW_ARRAYS, (self.of_rows.mean, self.of_rows.scale), strict=True)) | arrays
        require_numbers(where, tensors)
        self._require_whole(where)
        metadata = {
            "loss": self.layer.loss.name,
            "class_names": json.dumps(self.class_names),
            "image_shape": json.dumps(self.image_shape),
            "pixels": json.dumps(self.pixels),
            "fit": self.fit,
            **of_map,
        }
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

    @classmethod
    def load(cls, path: str | Path, function: CodesOf | None = None) -> "Model":
        """Read a model file.

        Parameters
        ----------
        path : str or Path
        function : callable, optional
            The function that made the features of its training, if one did: no file holds it. `Function` says what it
            takes and returns.

        Warns
        -----
        OldModelWarning
            If features of scale 1 may have been constant in training but have weights.

        Raises
        ------
        ModelFileError
            If it is missing, damaged, of a newer format, its pieces do not fit each other, or it needs a function.
        ConfigError, DataError
            If the function does not fit.
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
        if isinstance(features, Function):
            if function is None:
                lacking = f"needs {features.where}, which no model file holds"
                raise ModelFileError(f"{path}: {lacking}; in Python, pass it: Model.load(path, function=...)")
            features = features.with_function(function)
        elif function is not None:
            raise ConfigError(f"{path}: was not trained with a function; load it without one")
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
    features = unpack_map(path, tensors, metadata)
    if features is None and not set(tensors) - set(MODEL_ARRAYS):
        return Identity(len(tensors["weights"])), None
    if features is None or not set(ROW_ARRAYS) <= set(tensors):
        lacking = "features" if features is None else listed([name for name in ROW_ARRAYS if name not in tensors])
        raise ModelFileError(f"{path}: the features are damaged (no {lacking}); train the model again")
    return features, Standardizer(*(tensors[name] for name in ROW_ARRAYS))


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
