"""Feature maps: numbers computed from a raw row, which the layer sees instead of the row.

A map F is fixed before training. The features of the training rows are standardised, and the layer is linear in them::

    S = X W + b,    X = (F(R) - m) / s        R (n, d_in) -> F(R) (n, d_out),  W (d_out, K)

A map whose parameters are fitted or drawn (patches, a projection, an encoder) is made by a function of its own, from
training rows or from a file: `onelayer.train` is given the finished map. Nothing else in the package knows which map it
is. To add one, subclass `FeatureMap` and name its reader in `FEATURE_MAPS` of `registry.py`.
"""

from abc import abstractmethod
from dataclasses import dataclass
from typing import Any, NamedTuple, Protocol

import numpy as np

from onelayer.errors import DataError

Shape = tuple[int, int, int]  # of an image: channels, height, width
LEAST_LENGTH = 1e-10  # of a row that is divided by its length; shorter ones, such as zeros, are divided by this
WITHOUT_EXPORT = "use the model file by `onelayer predict`, or by onelayer.Model.load in Python"


class Attribution(NamedTuple):
    """The amounts that parts of a row add to t logits, in float64.

    Parameters
    ----------
    numbers : ndarray (t, d_in)
        Of each number of the row.
    windows : ndarray (t, down, across) or None
        Of each window of the image, for features that are averages over windows. The sum over a logit is the same.
    """

    numbers: np.ndarray
    windows: np.ndarray | None = None


class FeatureMap(Protocol):
    """A fixed function of raw rows, R (n, d_in) -> F(R) (n, d_out), and its ways into files.

    A linear map, F(R) = R A, needs `pull_back`: its layer is also a layer on the raw rows, `Model.on_raw_rows`, which
    has templates, is explained number by number, and is exported without the map. Any other map needs `attribute`,
    `onnx_nodes` and `numpy_source`, each of which refuses, with a DataError, where a map does not define it.

    Parameters
    ----------
    name : str
        The key in `FEATURE_MAPS`, and the word in messages.
    image_shape : (c, h, w) or None
        The images that the map takes; None takes rows of any shape.
    d_in, d_out : int
        Numbers of a raw row, and features of a row.
    linear : bool
    views : int
        Rows of features for each raw row, whose logits are averaged. They are all trained.
    dtype : type
        In which rows of features are stored: float32, float16 or uint8.
    keyed : bool
        Whether features may be kept under a key of name, tensors and facts: these decide them, and `transform` returns
        the type in which they are stored.
    """

    name: str
    image_shape: Shape | None
    d_in: int
    d_out: int
    linear: bool
    views: int = 1
    dtype: type[np.generic] = np.float32
    keyed: bool = True

    @abstractmethod
    def transform(self, R: np.ndarray) -> np.ndarray:
        """Return the features of raw rows R (n, d_in), of any numeric type, a block of one to a few hundred.

        They are (n * views, d_out): the views of a row follow each other. uint8, or a type of floats, whatever the rows
        are; the more exact of them where that costs little.
        """
        ...

    def tensors(self) -> dict[str, np.ndarray]:
        """Return the arrays that a model file keeps: finite, float32 or float64, or bytes as uint8."""
        return {}

    def facts(self) -> dict[str, Any]:
        """Return everything else that a model file keeps, as JSON can hold it."""
        return {}

    def pull_back(self, V: np.ndarray) -> np.ndarray:
        """Return the weights A V (d_in, K) on raw rows that do the same as V (d_out, K) on the features."""
        problem = "do not define pull_back" if self.linear else "are not linear in the rows"
        raise DataError(f"the features {self.name} {problem}, so they have no weights on the rows")

    def attribute(self, V: np.ndarray, mean: np.ndarray, row: np.ndarray) -> Attribution:
        """Return how much each number of a raw row (d_in,) adds to t logits.

        The features F (views, d_out) of the row add the mean over the views of (F - mean) V, and so must the sum of
        the amounts.

        Parameters
        ----------
        V : ndarray (d_out, t), float64
            The amount that one more unit of a feature adds.
        mean : ndarray (d_out,), float64
            The features that add nothing.
        row : ndarray (d_in,)
        """
        remedy = "explain a model on pixels or patches, or use predict, which gives no reasons"
        raise DataError(f"the features {self.name} cannot be traced back to the numbers of a row; {remedy}")

    def onnx_nodes(self, rows: str, features: str) -> tuple[list[Any], dict[str, np.ndarray]]:
        """Return ONNX nodes, and their constants by name, for the features as a tensor.

        The nodes make the tensor `features` (batch, d_out) from the tensor `rows` (batch, d_in), both float32, by the
        operators of opset 13. Views are averaged. All other names that they use begin with ``features.``.
        """
        raise DataError(f"the features {self.name} cannot be exported for ONNX; {WITHOUT_EXPORT}")

    def numpy_source(self) -> str:
        """Return the source of a function ``features(R, tensors)``, `transform` by NumPy (``np``) alone.

        Views are averaged. `tensors` are those of the method `tensors`.
        """
        raise DataError(f"the features {self.name} cannot be exported for NumPy; {WITHOUT_EXPORT}")


@dataclass(frozen=True)
class Identity(FeatureMap):
    """The map that leaves raw rows as they are.

    Parameters
    ----------
    d_in : int
        Numbers of a raw row.
    """

    d_in: int
    name = "identity"
    image_shape = None
    linear = True

    @property
    def d_out(self) -> int:  # type: ignore[override]  # nobody sets it
        return self.d_in

    def transform(self, R: np.ndarray) -> np.ndarray:
        return R

    def pull_back(self, V: np.ndarray) -> np.ndarray:
        return V


@dataclass(frozen=True)
class UnitLength(FeatureMap):
    """The map that divides each raw row by its length, so that products of rows are cosines.

    Parameters
    ----------
    d_in : int
        Numbers of a raw row.
    """

    d_in: int
    name = "unit length"
    image_shape = None
    linear = False
    keyed = False  # float64, and computed as quickly as it is read

    @property
    def d_out(self) -> int:  # type: ignore[override]  # nobody sets it
        return self.d_in

    def transform(self, R: np.ndarray) -> np.ndarray:
        X = R.astype(np.float64)
        X /= np.maximum(np.sqrt(np.einsum("ij,ij->i", X, X)), LEAST_LENGTH)[:, None]
        return X

    def facts(self) -> dict[str, Any]:
        return {"numbers": self.d_in}

    def onnx_nodes(self, rows: str, features: str) -> tuple[list[Any], dict[str, np.ndarray]]:
        from onnx import helper

        length, least = "features.length", "features.least"
        nodes = [
            helper.make_node("ReduceL2", [rows], [length], axes=[1], keepdims=1),
            helper.make_node("Max", [length, least], ["features.divisor"]),
            helper.make_node("Div", [rows, "features.divisor"], [features]),
        ]
        return nodes, {least: np.array([LEAST_LENGTH], np.float32)}

    def numpy_source(self) -> str:
        return f"""
def features(R, tensors):
    X = R.astype(np.float64)
    return X / np.maximum(np.sqrt((X * X).sum(axis=1, keepdims=True)), {LEAST_LENGTH!r})
"""


def as_pixels(R: np.ndarray, name: str) -> np.ndarray:
    """Return rows of pixels from 0 to 255, of any numeric type, as uint8; other rows are refused by a DataError.

    `name` is that of the features, for the message.
    """
    if R.dtype == np.uint8:
        return R
    with np.errstate(invalid="ignore"):  # what is not finite is not equal below
        pixels = R.astype(np.uint8)
    if not np.array_equal(pixels, R):
        raise DataError(f"the features {name} are of pixels, whole numbers from 0 to 255; pass rows of them")
    return pixels


def are_same(a: FeatureMap, b: FeatureMap) -> bool:
    """Return whether two maps have the same name, facts and arrays."""
    A, B = a.tensors(), b.tensors()
    alike = (a.name, a.facts(), A.keys()) == (b.name, b.facts(), B.keys())
    return a is b or (alike and all(np.array_equal(A[name], B[name]) for name in A))


def misfit(features: FeatureMap, d: int, image_shape: Shape | None) -> str:
    """Return the reason why a map does not take rows of d numbers, images of this shape or None; else nothing."""
    if features.image_shape not in (None, image_shape):
        found = "other rows" if image_shape is None else f"images of the shape {image_shape}"
        return f"the features {features.name} are for images of the shape {features.image_shape}, not for {found}"
    if features.d_in != d:
        return f"the features {features.name} are for rows of {features.d_in} numbers, not for {d} numbers"
    return ""
