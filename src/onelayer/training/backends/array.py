"""The reference backend: one code for NumPy arrays and PyTorch tensors, through the array API standard."""

from collections.abc import Callable
from types import ModuleType
from typing import ClassVar, Literal

import array_api_compat.numpy
import numpy as np
from array_api_compat import to_device

from onelayer.data.dataset import Split
from onelayer.features.standardizer import BLOCK_ROWS, Standardizer
from onelayer.layer import SoftmaxLayer, likeliest
from onelayer.losses import Array
from onelayer.training.backends import Totals


class ArrayBackend:
    """Mini-batch gradient descent on standardised batches.

    Parameters
    ----------
    layer : SoftmaxLayer
        Where to start; NumPy arrays, whose floating-point type is that of the arithmetic.
    standardizer : Standardizer
        Of the training rows.
    l2 : float
    batch_size : int
    namespace : module
        An array library in the form of ``array_api_compat``, e.g. ``array_api_compat.torch``.
    device : device of that library, or None
        Where the arithmetic is done.
    """

    name: ClassVar[Literal["native", "numpy"]] = "numpy"

    def __init__(
        self,
        layer: SoftmaxLayer,
        standardizer: Standardizer,
        *,
        l2: float,
        batch_size: int,
        namespace: ModuleType = array_api_compat.numpy,
        device: object = None,
    ) -> None:
        self._xp, self._device = namespace, device
        self._loss, self._l2, self._batch_size = layer.loss, l2, batch_size
        self._dtype = dtype = str(layer.weights.dtype)
        self._templates = self._array(layer.weights.T.astype(dtype, order="C"))  # (K, d): a class lies in one piece
        self._bias = self._array(layer.bias.copy())
        self._standardizer = standardizer.to(lambda array: self._array(array.astype(dtype)))
        self._in_float64 = standardizer.to(self._array)

    @property
    def layer(self) -> SoftmaxLayer:
        templates, bias = (np.asarray(to_device(array, "cpu")).copy() for array in (self._templates, self._bias))
        return SoftmaxLayer(templates.T, bias, self._loss)

    def run_epoch(
        self,
        train: Split,
        order: np.ndarray,
        learning_rate: float,
        flipped: np.ndarray | None,
        cancelled: Callable[[], bool],
    ) -> None:
        for start in range(0, len(order), self._batch_size):
            if cancelled():
                raise InterruptedError
            batch = slice(start, start + self._batch_size)
            rows = train.rows(order[batch])
            if flipped is not None and train.dataset.image_shape is not None:
                _mirror(rows, flipped[batch], train.dataset.image_shape)
            R, y = self._array(rows), self._array(train.labels[order[batch]])
            weights = train.row_weights(order[batch])
            w = None if weights is None else self._array(weights.astype(self._dtype))
            folded = self._standardizer.input_layer(self._layer, R)
            dV, db = folded.gradients(self._inputs(R), y, row_weights=w)
            dW = self._standardizer.unfold_gradient(dV, db, R)
            if self._l2:
                dW = dW + 2 * self._l2 * self._layer.weights
            self._templates -= learning_rate * dW.T
            self._bias -= learning_rate * db

    def evaluate(self, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]) -> Totals:
        layer = SoftmaxLayer(self._array(layer.weights.T).T, self._array(layer.bias), layer.loss)
        folded = self._standardizer.input_layer(layer, self._array(split.rows(slice(0, 1))))
        loss, right = 0.0, 0.0
        for block in split.blocks(BLOCK_ROWS):
            if cancelled():
                raise InterruptedError
            S = folded.logits(self._inputs(self._array(split.rows(block))))  # (k, K)
            y = self._array(split.labels[block])
            losses = self._xp.astype(self._loss.of_rows(S, y), self._xp.float64)
            hits = self._xp.astype(likeliest(S) == y, self._xp.float64)
            weights = split.row_weights(block)
            if weights is not None:
                w = self._array(weights)
                losses, hits = losses * w, hits * w
            loss += float(self._xp.sum(losses))
            right += float(self._xp.sum(hits))
        return Totals(loss, right)

    def _inputs(self, R: Array) -> Array:
        """Return what the input layer multiplies (n, d), for raw rows R (n, d)."""
        if R.dtype != self._xp.float64:
            return self._standardizer.inputs(R)
        # Features may lie further from zero than float32 has digits for: the mean goes first.
        return self._xp.astype(self._in_float64.transform(R), getattr(self._xp, self._dtype), copy=False)

    @property
    def _layer(self) -> SoftmaxLayer:
        return SoftmaxLayer(self._templates.T, self._bias, self._loss)

    def _array(self, array: np.ndarray) -> Array:
        if self._xp is array_api_compat.numpy:
            return array
        return self._xp.asarray(array, device=self._device, copy=True)  # a data set is read-only, which tensors are not


def _mirror(rows: np.ndarray, flipped: np.ndarray, image_shape: tuple[int, int, int]) -> None:
    """Mirror the rows (n, d) where `flipped` (n,) is true, left to right, in place."""
    images = rows.reshape(-1, *image_shape)  # (n, c, h, w), a view
    images[flipped] = images[flipped, :, :, ::-1]
