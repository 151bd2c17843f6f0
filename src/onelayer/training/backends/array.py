"""The reference backend: one code for NumPy arrays and PyTorch tensors, through the array API standard."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import ClassVar

import numpy as np
from array_api_compat import to_device

from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.features.standardizer import BLOCK_ROWS, Standardizer
from onelayer.layer import SoftmaxLayer, likeliest
from onelayer.losses import Array
from onelayer.training.backends import Name, Totals, Velocity, of_views, penalised_mean


class ArrayBackend:
    """Mini-batch gradient descent on standardised batches.

    Parameters
    ----------
    splits, config, standardizer, layer, velocity
        Those of `Backend`; the floating-point type of the layer is that of the arithmetic.
    namespace : module
        An array library with the array API standard: NumPy, or e.g. ``array_api_compat.torch``.
    device : device of that library, or None
        The device of the arithmetic, to which the raw rows are copied once.
    """

    name: ClassVar[Name] = "numpy"
    compiled: ClassVar[bool] = False

    def __init__(
        self,
        splits: Splits,
        config: TrainConfig,
        standardizer: Standardizer,
        layer: SoftmaxLayer,
        velocity: Velocity | None = None,
        *,
        namespace: ModuleType = np,
        device: object = None,
    ) -> None:
        self._xp, self._device = namespace, device
        self._loss, self._l2, self._batch_size = layer.loss, config.l2, config.batch_size
        self._dtype = dtype = str(layer.weights.dtype)
        self._templates = self._array(layer.weights.T.astype(dtype, order="C"))  # (K, d): a class lies in one piece
        self._bias = self._array(layer.bias.copy())
        self._momentum = config.momentum_taken
        V, v = velocity or (np.zeros_like(layer.weights), np.zeros_like(layer.bias))
        self._moving = self._array(V.T.astype(dtype, order="C")), self._array(v.astype(dtype))  # (K, d), (K,)
        self._standardizer = standardizer.to(lambda array: self._array(array.astype(dtype)))
        self._in_float64 = standardizer.to(self._array)
        self._dataset = splits.dataset
        self._on_device = None if namespace is np else self._array(splits.dataset.rows)  # (n, d)

    @staticmethod
    def obstacle(dataset: Dataset, config: TrainConfig) -> str | None:
        return None

    @property
    def layer(self) -> SoftmaxLayer:
        templates, bias = (np.asarray(to_device(array, "cpu")).copy() for array in (self._templates, self._bias))
        return SoftmaxLayer(templates.T, bias, self._loss)

    @property
    def velocity(self) -> Velocity | None:
        V, v = (np.asarray(to_device(array, "cpu")).copy() for array in self._moving)
        return (V.T, v) if self._momentum else None

    def run_epoch(
        self, train: Split, learning_rate: float, flipped: np.ndarray | None, cancelled: Callable[[], bool]
    ) -> None:
        for batch in train.blocks(self._batch_size):
            if cancelled():
                raise InterruptedError
            R, y = self._raw(train, batch), self._array(train.labels[batch])
            if flipped is not None and train.dataset.image_shape is not None:
                R = self._mirrored(R, self._array(flipped[batch]), train.dataset.image_shape)
            weights = train.row_weights(batch)
            w = None if weights is None else self._array(weights.astype(self._dtype))
            layer = SoftmaxLayer(self._templates.T, self._bias, self._loss)
            folded = self._standardizer.input_layer(layer, R)
            dV, db = folded.gradients(self._inputs(R), y, row_weights=w)
            dW = self._standardizer.unfold_gradient(dV, db, R)
            if self._l2:
                dW = dW + 2 * self._l2 * layer.weights
            if self._momentum:
                V, v = self._moving
                self._moving = self._momentum * V + dW.T, self._momentum * v + db
                dW, db = self._moving[0].T, self._moving[1]
            self._templates -= learning_rate * dW.T
            self._bias -= learning_rate * db

    def evaluate(self, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]) -> Totals:
        loss, right = 0.0, 0.0
        folded, views = self._folded(layer, split), split.dataset.views
        for block in _blocks(split, cancelled):
            S, y, w = self._logits(folded, split, block)[1:]  # the next inputs take the memory of these
            S, y, w = of_views(S, views), y[::views], None if w is None else w[::views]
            loss += self._weighted_sum(layer.loss.of_rows(S, y), w)
            right += self._weighted_sum(likeliest(S) == y, w)
        return Totals(loss * views, right * views)

    def objective(
        self, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]
    ) -> tuple[float, np.ndarray, np.ndarray]:
        xp, loss, dV, dc = self._xp, 0.0, 0.0, 0.0
        folded = self._folded(layer, split)
        for block in _blocks(split, cancelled):
            X, S, y, w = self._logits(folded, split, block)
            loss += self._weighted_sum(layer.loss.of_rows(S, y), w)
            G = layer.loss.residual(S, y) * len(y)  # (k, K): the sum, and not the mean, of the block
            if w is not None:
                G = G * xp.astype(w, G.dtype)[:, None]
            dV = dV + xp.astype((G.T @ X).T, xp.float64)  # (d, K)
            dc = dc + xp.sum(xp.astype(G, xp.float64), axis=0)  # (K,)
            del X
        dW = self._in_float64.unfold_gradient(dV, dc, self._raw(split, slice(0, 1)))
        dW, db = (np.asarray(to_device(array, "cpu")) for array in (dW, dc))
        return penalised_mean(loss, dW, db, layer, split, self._l2)

    def _folded(self, layer: SoftmaxLayer, split: Split) -> SoftmaxLayer:
        """Return any layer in the type of the arithmetic, for the inputs that `_logits` computes."""
        templates, bias = (self._array(a.astype(self._dtype, copy=False)) for a in (layer.weights.T, layer.bias))
        layer = SoftmaxLayer(templates.T, bias, layer.loss)
        return self._standardizer.input_layer(layer, self._raw(split, slice(0, 1)))

    def _logits(self, folded: SoftmaxLayer, split: Split, block: slice) -> tuple[Array, Array, Array, Array | None]:
        """Return inputs X (k, d), logits S (k, K), labels (k,) and weights (k,) of a block of rows."""
        X = self._inputs(self._raw(split, block))
        weights = split.row_weights(block)
        w = None if weights is None else self._array(weights)
        return X, folded.logits(X), self._array(split.labels[block]), w

    def _weighted_sum(self, values: Array, w: Array | None) -> float:
        values = self._xp.astype(values, self._xp.float64)
        return float(self._xp.sum(values if w is None else values * w))

    def _inputs(self, R: Array) -> Array:
        """Return what the input layer multiplies (n, d), for raw rows R (n, d)."""
        if R.dtype != self._xp.float64:
            return self._standardizer.inputs(R)
        # Features may lie further from zero than float32 has digits for: the mean goes first.
        return self._xp.astype(self._in_float64.transform(R), getattr(self._xp, self._dtype), copy=False)

    def _raw(self, split: Split, places: slice) -> Array:
        """Return the raw rows (k, d) at `places` within the split, on the device."""
        if self._on_device is None or split.dataset is not self._dataset:
            return self._array(split.rows(places))
        return self._xp.take(self._on_device, self._array(split.indices[places]), axis=0)

    def _mirrored(self, R: Array, flipped: Array, image_shape: tuple[int, int, int]) -> Array:
        """Return the rows R (n, d), mirrored left to right where `flipped` (n,) is true."""
        if self._xp is np:  # a quarter of the time that it takes to flip all rows and choose
            R = R.copy()  # it can be a view of the data
            images = R.reshape(-1, *image_shape)  # (n, c, h, w), a view
            images[flipped] = images[flipped, :, :, ::-1]
            return R
        images = self._xp.reshape(R, (-1, *image_shape))  # (n, c, h, w)
        mirrored = self._xp.where(flipped[:, None, None, None], self._xp.flip(images, axis=-1), images)
        return self._xp.reshape(mirrored, R.shape)

    def _array(self, array: np.ndarray) -> Array:
        if self._xp is np:
            return array
        return self._xp.asarray(array, device=self._device, copy=True)  # a data set is read-only, which tensors are not


def _blocks(split: Split, cancelled: Callable[[], bool]) -> Iterator[slice]:
    """Yield the blocks of a split; raise InterruptedError once `cancelled()` is true."""
    views = split.dataset.views
    for block in split.blocks(BLOCK_ROWS // views * views):
        if cancelled():
            raise InterruptedError
        yield block
