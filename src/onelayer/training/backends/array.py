"""The reference backend, in NumPy; its scores and objective are of any array library, for a subclass."""

from collections.abc import Callable, Iterator
from types import ModuleType
from typing import ClassVar

import numpy as np

from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.features.standardizer import BLOCK_ROWS, Standardizer
from onelayer.layer import SoftmaxLayer, likeliest
from onelayer.losses import Array
from onelayer.training.backends import Name, Totals, Velocity, of_views, penalised_mean

Inputs = tuple[Array, Array, Array | None]  # inputs X (k, d), labels (k,) and weights (k,) of a block of rows


class ArrayBackend:
    """Mini-batch gradient descent on standardised batches.

    Parameters
    ----------
    splits, config, standardizer, layer, velocity
        Those of `Backend`; the floating-point type of the layer is that of the arithmetic.

    A subclass for another library of the array API standard has its own steps; it inherits `evaluate` and `objective`
    if it says how blocks of inputs, a layer for them, and a gradient are made.
    """

    name: ClassVar[Name] = "numpy"
    compiled: ClassVar[bool] = False
    _xp: ModuleType = np

    def __init__(
        self,
        splits: Splits,
        config: TrainConfig,
        standardizer: Standardizer,
        layer: SoftmaxLayer,
        velocity: Velocity | None = None,
    ) -> None:
        self._loss, self._l2, self._batch_size = layer.loss, config.l2, config.batch_size
        self._dtype = dtype = str(layer.weights.dtype)
        self._exact = self._xp.float64  # of sums over blocks
        self._templates = layer.weights.T.astype(dtype, order="C")  # (K, d): a class lies in one piece
        self._bias = layer.bias.copy()
        self._momentum = config.momentum_taken
        V, v = velocity or (np.zeros_like(layer.weights), np.zeros_like(layer.bias))
        self._moving = V.T.astype(dtype, order="C"), v.astype(dtype)  # (K, d), (K,)
        self._standardizer = standardizer.to(lambda array: array.astype(dtype))
        self._in_float64 = standardizer

    @staticmethod
    def obstacle(dataset: Dataset, config: TrainConfig) -> str | None:
        return None

    @property
    def layer(self) -> SoftmaxLayer:
        return SoftmaxLayer(self._templates.copy().T, self._bias.copy(), self._loss)

    @property
    def velocity(self) -> Velocity | None:
        V, v = self._moving
        return (V.copy().T, v.copy()) if self._momentum else None

    def run_epoch(
        self, train: Split, learning_rate: float, flipped: np.ndarray | None, cancelled: Callable[[], bool]
    ) -> None:
        for batch in train.blocks(self._batch_size):
            if cancelled():
                raise InterruptedError
            R, y, w = train.rows(batch), train.labels[batch], train.row_weights(batch)
            if flipped is not None and train.dataset.image_shape is not None:
                R = mirrored(R, flipped[batch], train.dataset.image_shape)
            layer = SoftmaxLayer(self._templates.T, self._bias, self._loss)
            folded = self._standardizer.input_layer(layer, R)
            w = None if w is None else w.astype(self._dtype)
            dV, db = folded.gradients(self._inputs(R), y, row_weights=w)
            self._move(self._standardizer.unfold_gradient(dV, db, R), db, learning_rate)

    def _move(self, dW: np.ndarray, db: np.ndarray, learning_rate: float) -> None:
        """Take a step with the gradient of the loss: dW (d, K) and db (K,), in the type of the arithmetic."""
        if self._l2:
            dW = dW + 2 * self._l2 * self._templates.T
        if self._momentum:
            V, v = self._moving
            self._moving = self._momentum * V + dW.T, self._momentum * v + db
            dW, db = self._moving[0].T, self._moving[1]
        self._templates -= learning_rate * dW.T
        self._bias -= learning_rate * db

    def evaluate(self, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]) -> Totals:
        loss, right = 0.0, 0.0
        folded, views = self._folded(layer, split), split.dataset.views
        for X, y, w in self._blocks(split, cancelled):
            S = of_views(folded.logits(X), views)
            y, w = y[::views], None if w is None else w[::views]
            del X  # the next inputs take its memory
            loss = loss + self._weighted_sum(layer.loss.of_rows(S, y), w)
            right = right + self._weighted_sum(likeliest(S) == y, w)
        return Totals(float(loss) * views, float(right) * views)

    def objective(
        self, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]
    ) -> tuple[float, np.ndarray, np.ndarray]:
        xp, loss, dV, dc = self._xp, 0.0, 0.0, 0.0
        folded = self._folded(layer, split)
        for X, y, w in self._blocks(split, cancelled):
            S = folded.logits(X)
            loss = loss + self._weighted_sum(layer.loss.of_rows(S, y), w)
            G = layer.loss.residual(S, y) * len(y)  # (k, K): the sum, and not the mean, of the block
            if w is not None:
                G = G * xp.astype(w, G.dtype)[:, None]
            dV = dV + xp.astype((G.T @ X).T, self._exact)  # (d, K)
            dc = dc + xp.sum(xp.astype(G, self._exact), axis=0)  # (K,)
            del X
        dW, db = self._unfolded(dV, dc, split)
        return penalised_mean(float(loss), dW, db, layer, split, self._l2)

    def _folded(self, layer: SoftmaxLayer, split: Split) -> SoftmaxLayer:
        """Return any layer in the type of the arithmetic, for the inputs of `_blocks`."""
        templates, bias = (array.astype(self._dtype, copy=False) for array in (layer.weights.T, layer.bias))
        layer = SoftmaxLayer(templates.T, bias, layer.loss)
        return self._standardizer.input_layer(layer, split.rows(slice(0, 1)))

    def _unfolded(self, dV: Array, dc: Array, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Return the gradients dW (d, K) and db (K,) of a layer from those of the layer that `_folded` returns."""
        return self._in_float64.unfold_gradient(dV, dc, split.rows(slice(0, 1))), dc

    def _blocks(self, split: Split, cancelled: Callable[[], bool]) -> Iterator[Inputs]:
        """Yield the inputs, labels and weights of blocks of whole views; raise InterruptedError once cancelled."""
        views = split.dataset.views
        for block in split.blocks(BLOCK_ROWS // views * views):
            if cancelled():
                raise InterruptedError
            yield self._inputs(split.rows(block)), split.labels[block], split.row_weights(block)

    def _weighted_sum(self, values: Array, w: Array | None) -> Array:
        values = self._xp.astype(values, self._exact)
        return self._xp.sum(values if w is None else values * w)

    def _inputs(self, R: np.ndarray) -> np.ndarray:
        """Return what the input layer multiplies (n, d), for raw rows R (n, d)."""
        if R.dtype != np.float64:
            return self._standardizer.inputs(R)
        # Features may lie further from zero than float32 has digits for: the mean goes first.
        return self._in_float64.transform(R).astype(self._dtype, copy=False)


def mirrored(R: np.ndarray, flipped: np.ndarray, image_shape: tuple[int, int, int]) -> np.ndarray:
    """Return the rows R (n, d), mirrored left to right where `flipped` (n,) is true."""
    R = R.copy()  # it can be a view of the data; the copy takes a quarter of the time of flipping all rows and choosing
    images = R.reshape(-1, *image_shape)  # (n, c, h, w), a view
    images[flipped] = images[flipped, :, :, ::-1]
    return R
