"""A trained classifier: raw rows in, probabilities out; and its file."""

import json
import math
import warnings
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
from numpy.typing import ArrayLike

from onelayer.blas import one_blas_thread
from onelayer.container import pack, require_numbers, unpack
from onelayer.errors import DataError, ModelFileError, OldModelWarning, OnelayerWarning
from onelayer.features.standardizer import BLOCK_ROWS, Standardizer
from onelayer.features.units import doubt, places_to_look_at
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES

MODEL_ARRAYS = ("weights", "bias", "mean", "scale")


@dataclass(frozen=True, eq=False)
class Model:
    """A layer with the standardisation that its rows need, and what its inputs and outputs mean.

    Parameters
    ----------
    layer : SoftmaxLayer
        d features, K classes.
    standardizer : Standardizer
        Mean and scale (d,), float64.
    class_names : tuple of K str
    image_shape : (c, h, w) or None
    pixels : bool
        Whether the training rows were pixels from 0 to 255. None, as in older files, takes images whose means say so.
    """

    layer: SoftmaxLayer
    standardizer: Standardizer
    class_names: tuple[str, ...]
    image_shape: tuple[int, int, int] | None
    pixels: bool | None = None

    def __post_init__(self) -> None:
        if self.pixels is None:
            mean = self.standardizer.mean
            like_pixels = self.image_shape is not None and mean.size and mean.min() >= 0 and 1 < mean.max() <= 255
            object.__setattr__(self, "pixels", bool(like_pixels))

    def logits(self, rows: ArrayLike) -> np.ndarray:
        """Logits S (n, K) of raw rows (n, d), an array or nested lists, in float64, standardised a few at a time.

        Training in float32 scatters its logits by some 1e-6 of their size; an answer need not. Rows that look as if
        they were in another unit than the training rows give an `OnelayerWarning`.

        Raises
        ------
        DataError
            If rows do not have d numbers each.
        """
        S = self.unchecked_logits(rows)
        self.warn_of(rows, stacklevel=3)
        return S

    def warn_of(self, rows: ArrayLike, name: str = "", stacklevel: int = 2) -> None:
        """Warn if `doubt` has something to say, where `name` has these rows."""
        if doubt := self.doubt(rows):
            warnings.warn(type(doubt)(f"{name}: {doubt}" if name else str(doubt)), stacklevel=stacklevel)

    def doubt(self, rows: ArrayLike) -> OnelayerWarning | None:
        """Return a reason to doubt that rows (n, d) are in the unit of the training rows; it looks at a few of them."""
        R = np.asarray(rows)
        mean, scale = self.standardizer.mean, self.standardizer.scale
        return doubt(R[places_to_look_at(len(R))], mean, scale, pixels=bool(self.pixels))

    def unchecked_logits(self, rows: ArrayLike) -> np.ndarray:
        """Return `logits` of rows whose unit was looked at before."""
        d, K = self.layer.weights.shape
        try:
            R = np.asarray(rows)
        except ValueError:
            raise DataError(f"rows differ in length; this model needs (n, {d})") from None
        if R.dtype.kind not in "buif":
            raise DataError(f"rows are {R.dtype}; this model needs numbers")
        if R.ndim != 2 or R.shape[1] != d:
            raise DataError(f"rows have the shape {R.shape}; this model needs (n, {d})")
        exact = self.in_float64()
        folded = exact.standardizer.input_layer(exact.layer, R)
        S = np.empty((len(R), K))
        with one_blas_thread():
            for start in range(0, len(R), BLOCK_ROWS):
                block = slice(start, start + BLOCK_ROWS)
                S[block] = folded.logits(exact.standardizer.inputs(R[block]))
        return S

    def probabilities(self, rows: ArrayLike) -> np.ndarray:
        """Probabilities P (n, K) of raw rows (n, d). Those of a sigmoid loss need not add up to 1."""
        P = np.asarray(self.layer.loss.probabilities(self.unchecked_logits(rows)))
        self.warn_of(rows, stacklevel=3)
        return P

    def in_float64(self) -> "Model":
        """The same numbers in float64, with which `logits` calculates."""
        weights, bias = (array.astype(np.float64, copy=False) for array in (self.layer.weights, self.layer.bias))
        return replace(self, layer=SoftmaxLayer(weights, bias, self.layer.loss))

    def to_bytes(self) -> bytes:
        """The model as a safetensors file.

        Raises
        ------
        ModelFileError
            If `load` would refuse it: a name is there twice or cannot be printed, or the pieces do not fit each other.
        """
        tensors = {
            "weights": self.layer.weights,
            "bias": self.layer.bias,
            "mean": self.standardizer.mean,
            "scale": self.standardizer.scale,
        }
        where = "this model cannot be saved"
        require_numbers(where, tensors)
        self._require_whole(where)
        metadata = {
            "loss": self.layer.loss.name,
            "class_names": json.dumps(self.class_names),
            "image_shape": json.dumps(self.image_shape),
            "pixels": json.dumps(self.pixels),
        }
        if self.standardizer.constant is not None:  # in older files, these features may have random weights
            metadata["constant_weights"] = "0"
        return pack(tensors, metadata, kind="model")

    @classmethod
    def load(cls, path: str | Path) -> "Model":
        """Read a model file.

        Warns
        -----
        OldModelWarning
            If its features of scale 1 may have been constant in training, and yet have weights.

        Raises
        ------
        ModelFileError
            If it is missing, damaged, of a newer format, or its pieces do not fit each other.
        """
        tensors, metadata = unpack(path, kind="model", names=MODEL_ARRAYS)
        try:
            names, shape = json.loads(metadata["class_names"]), json.loads(metadata["image_shape"])
            pixels = {"true": True, "false": False, "": None}[metadata.get("pixels", "")]
            layer = SoftmaxLayer(np.asfortranarray(tensors["weights"]), tensors["bias"], LOSSES[metadata["loss"]])
        except (KeyError, ValueError, RecursionError) as error:
            raise ModelFileError(f"{path}: the metadata is damaged ({error!r:.80}); train the model again") from None
        names = tuple(names) if isinstance(names, list) else ()
        shape = None if shape is None else tuple(shape) if isinstance(shape, list) else ()
        model = cls(layer, Standardizer(tensors["mean"], tensors["scale"]), names, shape, pixels)
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
        shape = self.image_shape
        if shape is not None:
            sizes = shape if all(type(size) is int and size > 0 for size in shape) else ()
            if len(sizes) != 3 or math.prod(sizes) != d:
                raise ModelFileError(f"{where}: weights for {d} features are no pictures of {list(shape)!r:.80}")


def _constant_features(path: str | Path, model: Model, *, known: bool) -> np.ndarray | None:
    """Which features (d,) were constant in training; None where an older file, not `known` for it, cannot tell."""
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
    """The numbers of features d and classes K of a layer that was read from a file."""
    weights, bias = layer.weights, layer.bias
    if weights.ndim != 2 or 0 in weights.shape or bias.shape != weights.shape[1:] or bias.dtype != weights.dtype:
        raise ModelFileError(f"{path}: weights {weights.shape} and bias {bias.shape} do not fit each other")
    return weights.shape


def require_names(where: str | Path, names: tuple[str, ...], K: int) -> None:
    """Refuse names of classes that are not K different words; they are printed, so they hold no control characters."""
    good = all(isinstance(name, str) and name.isprintable() for name in names)
    if not good or not len(set(names)) == len(names) == K:
        raise ModelFileError(f"{where}: the class names are not {K} different words; rename them and train again")
