"""The backend for PyTorch's devices: CPUs, NVIDIA's GPUs (cuda) and Apple's (mps). PyTorch is loaded when it is opened.

A step is four operations on a device: logits, probabilities, the subtraction of the labels, and a product that adds the
gradient to the layer, whose bias is a column of the same matrix (`onelayer.training.backends.inputs`). For ten classes
each operation takes about as long as its launch, so there must be few, and on CUDA a graph launches many steps at once.
Nothing within an epoch waits for the device.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, ClassVar

import numpy as np

from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.features.standardizer import Standardizer
from onelayer.layer import SoftmaxLayer
from onelayer.losses import Array
from onelayer.training.backends import Name, Totals, Velocity, devices
from onelayer.training.backends.array import ArrayBackend, Inputs
from onelayer.training.backends.inputs import add_product, apart, product


class TorchBackend(ArrayBackend):
    """Mini-batch gradient descent on a device of PyTorch. Parameters are those of `Backend`.

    On the CPU it uses one thread, as BLAS does in the other backends.
    """

    name: ClassVar[Name] = "torch"
    compiled: ClassVar[bool] = False

    def __init__(
        self,
        splits: Splits,
        config: TrainConfig,
        standardizer: Standardizer,
        layer: SoftmaxLayer,
        velocity: Velocity | None = None,
    ) -> None:
        import array_api_compat.torch
        import torch

        from onelayer.training.backends.feed import Sizes, of_arrays
        from onelayer.training.backends.replay import Replay

        self._xp: Any = array_api_compat.torch
        self._device = on = devices.Device(config.device)
        self._replay, self._rate, self._precision = Replay(on.stream), 0.0, config.precision
        self._loss, self._l2, self._momentum = layer.loss, config.l2, config.momentum_taken
        self._batch_size = B = min(config.batch_size, len(splits.train))
        self._type = torch.float64 if layer.weights.dtype == np.float64 else torch.float32
        self._exact = on.exact
        self._d = len(standardizer.mean)
        sizes = Sizes.of(on, splits, B, len(layer.bias), self._type)
        self._needed = sizes.needed
        with self._working():
            given = splits.dataset, standardizer, self._type, config.precision
            self._train, self._scored = sizes.feeds(on, *given)
            self._A = of_arrays(layer.weights.T, layer.bias, on.torch, self._type)  # (K, width)
            V, v = velocity or (np.zeros_like(layer.weights), np.zeros_like(layer.bias))
            self._velocity: Any = of_arrays(V.T, v, on.torch, self._type) if self._momentum else None

    @staticmethod
    def obstacle(dataset: Dataset, config: TrainConfig) -> str | None:
        """Return `Backend.obstacle`; raise a ConfigError if the device does not exist."""
        return devices.obstacle_of(dataset, config)

    @property
    def layer(self) -> SoftmaxLayer:
        templates, bias = self._arrays(self._A)
        return SoftmaxLayer(templates.T, bias, self._loss)

    @property
    def velocity(self) -> Velocity | None:
        if self._velocity is None:
            return None
        V, v = self._arrays(self._velocity)
        return V.T, v

    def run_epoch(
        self, train: Split, learning_rate: float, flipped: np.ndarray | None, cancelled: Callable[[], bool]
    ) -> None:
        with self._working(self._precision):
            if learning_rate != self._rate:  # it is a constant of the graphs
                self._replay.forget()
                self._rate = learning_rate
            for X, y, w in self._train.blocks(train, flipped, cancelled):
                self._replay.run(len(X), partial(self._steps, X, y, w, learning_rate))

    def evaluate(self, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]) -> Totals:
        with self._working():
            return super().evaluate(layer, split, cancelled)

    def objective(
        self, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]
    ) -> tuple[float, np.ndarray, np.ndarray]:
        with self._working():
            return super().objective(layer, split, cancelled)

    def _steps(self, X: Array, y: Array, w: Array | None, learning_rate: float) -> None:
        """Take the steps of the batches of a block."""
        for start in range(0, len(X), self._batch_size):
            batch = slice(start, start + self._batch_size)
            self._step(X[batch], y[batch], None if w is None else w[batch], learning_rate)

    def _step(self, X: Array, y: Array, w: Array | None, learning_rate: float) -> None:
        """Take a step on a batch X (B, width): dJ/dA is G^T X / B, and the penalty leaves the bias out."""
        A, V, factor = self._A, self._velocity, 1 / len(X)
        G = self._loss.tensor_residual(product(X, A.T), y)  # (B, K): not divided by B
        if w is not None:
            G.mul_(w[:, None])
        if V is not None:
            add_product(V.mul_(self._momentum), G.T, X, factor)
            if self._l2:
                V[:, : self._d].add_(A[:, : self._d], alpha=2 * self._l2)
            A.add_(V, alpha=-learning_rate)
            return
        if self._l2:
            A[:, : self._d].mul_(1 - 2 * learning_rate * self._l2)
        add_product(A, G.T, X, -learning_rate * factor)

    def _folded(self, layer: SoftmaxLayer, split: Split) -> SoftmaxLayer:
        from onelayer.training.backends.feed import of_arrays

        A = of_arrays(layer.weights.T, layer.bias, self._device.torch, self._type)
        return SoftmaxLayer(A.T, A.new_zeros(len(A)), layer.loss)

    def _unfolded(self, dV: Array, dc: Array, split: Split) -> tuple[np.ndarray, np.ndarray]:
        dW, db = (np.asarray(array.cpu().numpy(), np.float64) for array in (dV, dc))
        return dW[: self._d], db

    def _blocks(self, split: Split, cancelled: Callable[[], bool]) -> Iterator[Inputs]:
        return self._scored.blocks(split, cancelled=cancelled)

    def _arrays(self, A: Array) -> tuple[np.ndarray, np.ndarray]:
        with self._working():
            return apart(A.cpu().numpy(), self._d)

    def _working(self, precision: str = "full") -> AbstractContextManager[None]:
        what = f"training on batches of {self._batch_size:,} rows of {self._d:,} features"
        return self._device.working(what, self._needed, precision)
