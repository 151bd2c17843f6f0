"""The fast path on a CPU: the compiled kernel, behind the backend seam."""

from collections.abc import Callable
from dataclasses import replace
from typing import ClassVar

import numpy as np

from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.features.standardizer import Standardizer
from onelayer.kernel import check_variant, kernel, takes
from onelayer.layer import SoftmaxLayer, likeliest
from onelayer.training.backends import Name, Totals, Velocity, of_views, penalised_mean

EVALUATED = 2**14  # rows whose logits are in memory together, where rows are views
COMPILED_LOSSES = ("softmax", "sigmoid")  # whose formulas the kernel has


class NativeBackend:
    """Mini-batch gradient descent in float32, on rows as they are stored.

    Every number is computed in an order that only the shapes and the processor's instruction set decide; there are no
    threads inside. The environment variable ONELAYER_KERNEL chooses another instruction set, for testing. Parameters
    are those of `Backend`.
    """

    name: ClassVar[Name] = "native"
    compiled: ClassVar[bool] = True

    def __init__(
        self,
        splits: Splits,
        config: TrainConfig,
        standardizer: Standardizer,
        layer: SoftmaxLayer,
        velocity: Velocity | None = None,
    ) -> None:
        self._batch_size = min(config.batch_size, len(splits.train))  # which fits the machine's numbers
        self._l2, self._loss = config.l2, layer.loss
        self._templates = layer.weights.T.astype(np.float32, order="C")  # (K, d): a class lies in one piece
        self._bias = layer.bias.astype(np.float32)
        self._momentum, self._moving = config.momentum_taken, None
        if self._momentum:
            V, v = velocity or (np.zeros_like(layer.weights), np.zeros_like(layer.bias))
            self._moving = V.T.astype(np.float32, order="C"), v.astype(np.float32)  # (K, d), (K,)
        self._mean, self._scale = (np.ascontiguousarray(a, np.float64) for a in (standardizer.mean, standardizer.scale))

    @staticmethod
    def obstacle(dataset: Dataset, config: TrainConfig) -> str | None:
        """Return `Backend.obstacle`; raise a ConfigError if ONELAYER_KERNEL names a missing instruction set."""
        if kernel is None:
            return "was not compiled when onelayer was installed: install it again with a C++ compiler"
        if config.dtype != "float32":
            return f"does not do {config.dtype}: take float32"
        if config.loss not in COMPILED_LOSSES:
            return f"has no loss {config.loss}: use {' or '.join(COMPILED_LOSSES)}"
        if not takes(dataset.rows):
            return f"needs uint8, float16 or float32 rows in C order: store those of {dataset.name} in this way"
        check_variant()
        return None

    @property
    def layer(self) -> SoftmaxLayer:
        return SoftmaxLayer(self._templates.copy().T, self._bias.copy(), self._loss)

    @property
    def velocity(self) -> Velocity | None:
        return (self._moving[0].copy().T, self._moving[1].copy()) if self._moving else None

    def run_epoch(
        self, train: Split, learning_rate: float, flipped: np.ndarray | None, cancelled: Callable[[], bool]
    ) -> None:
        image_shape, (velocity, bias_velocity) = train.dataset.image_shape, self._moving or (None, None)
        kernel.run_epoch(
            *self._rows(train),
            templates=self._templates,
            bias=self._bias,
            loss=self._loss.name,
            flipped=flipped if image_shape else None,
            width=image_shape[2] if image_shape else 0,
            batch_size=self._batch_size,
            learning_rate=learning_rate,
            l2=self._l2,
            momentum=self._momentum,
            velocity=velocity,
            bias_velocity=bias_velocity,
            cancelled=cancelled,
        )

    def evaluate(self, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]) -> Totals:
        if split.dataset.views == 1:
            return Totals(*kernel.evaluate(*self._rows(split), *_arrays(layer), layer.loss.name, cancelled))
        loss, right, views = 0.0, 0.0, split.dataset.views
        templates = layer.weights.T.astype(np.float64, order="C")
        for block in split.blocks(EVALUATED // views * views):
            rows, y, w, mean, scale, places = self._rows(replace(split, indices=split.indices[block]))
            S = np.empty((len(templates), len(places)), np.float32)
            kernel.scores(rows, mean, scale, places, 0, templates, S, cancelled)
            S, first = of_views(S.T, views) + layer.bias, places[::views]
            y, weights = y[first], 1.0 if w is None else w[first]
            loss += float((layer.loss.of_rows(S, y) * weights).sum(dtype=np.float64))
            right += float(((likeliest(S) == y) * weights).sum(dtype=np.float64))
        return Totals(loss * views, right * views)

    def objective(
        self, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]
    ) -> tuple[float, np.ndarray, np.ndarray]:
        gradient, db = np.empty(layer.weights.T.shape), np.empty(layer.bias.shape)
        loss = kernel.objective(
            *self._rows(split),
            *_arrays(layer),
            loss=layer.loss.name,
            gradient=gradient,
            bias_gradient=db,
            cancelled=cancelled,
        )
        return penalised_mean(loss, gradient.T, db, layer, split, self._l2)

    def _rows(
        self, split: Split
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray | None, np.ndarray, np.ndarray, np.ndarray]:
        """Return rows, labels, row weights, mean, scale and places, as the kernel takes them."""
        dataset = split.dataset
        weights = None if dataset.row_weights is None else np.require(dataset.row_weights, requirements="A")
        places = np.ascontiguousarray(split.indices, np.int64)
        return dataset.rows, dataset.labels, weights, self._mean, self._scale, places


def _arrays(layer: SoftmaxLayer) -> tuple[np.ndarray, np.ndarray]:
    """Return templates (K, d) and bias (K,) of a layer in float32; it copies only what differs."""
    templates, bias = (np.require(array, np.float32, ("C", "A")) for array in (layer.weights.T, layer.bias))
    return templates, bias
