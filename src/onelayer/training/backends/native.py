"""The fast path on a CPU: the compiled kernel, behind the backend seam."""

from collections.abc import Callable
from types import ModuleType
from typing import ClassVar, Literal

import numpy as np

from onelayer.data.dataset import Split
from onelayer.errors import ConfigError
from onelayer.features.standardizer import Standardizer
from onelayer.kernel import kernel
from onelayer.layer import SoftmaxLayer
from onelayer.training.backends import Totals
from onelayer.training.backends.array import ArrayBackend


class NativeBackend:
    """Mini-batch gradient descent in float32, on rows as they are stored.

    Every number is computed in an order that only the shapes and the processor's instruction set decide; there are no
    threads inside. The environment variable ONELAYER_KERNEL chooses another instruction set, for testing.

    Parameters
    ----------
    layer : SoftmaxLayer
        Where to start; float32.
    standardizer : Standardizer
        Of the training rows, float64.
    l2 : float
    batch_size : int
    """

    name: ClassVar[Literal["native", "numpy"]] = "native"

    def __init__(self, layer: SoftmaxLayer, standardizer: Standardizer, *, l2: float, batch_size: int) -> None:
        self._loss, self._l2, self._batch_size = layer.loss, l2, batch_size
        self._templates = layer.weights.T.astype(np.float32, order="C")  # (K, d): a class lies in one piece
        self._bias = layer.bias.astype(np.float32)
        self._reference = ArrayBackend(layer, standardizer, l2=l2, batch_size=batch_size)
        self._mean, self._scale = (np.ascontiguousarray(a, np.float64) for a in (standardizer.mean, standardizer.scale))

    @staticmethod
    def takes(rows: np.ndarray) -> bool:
        """Whether rows (n, d) are and lie as the kernel reads them; it never copies a data set."""
        return (
            rows.dtype in (np.uint8, np.float32)
            and rows.flags.c_contiguous
            and rows.flags.aligned
            and rows.dtype.isnative
        )

    @staticmethod
    def require_variant() -> None:
        """Raise a ConfigError if ONELAYER_KERNEL asks for an instruction set that this machine does not have."""
        try:
            _built().variant()
        except ValueError as error:
            raise ConfigError(f"{error}; set it to one of these, or unset it") from None

    @property
    def layer(self) -> SoftmaxLayer:
        return SoftmaxLayer(self._templates.copy().T, self._bias.copy(), self._loss)

    def run_epoch(
        self,
        train: Split,
        order: np.ndarray,
        learning_rate: float,
        flipped: np.ndarray | None,
        cancelled: Callable[[], bool],
    ) -> None:
        dataset = train.dataset
        if dataset.image_shape is None:
            flipped = None
        _built().run_epoch(
            rows=dataset.rows,
            labels=dataset.labels,
            row_weights=None if dataset.row_weights is None else dataset.row_weights.astype(np.float32),
            mean=self._mean,
            scale=self._scale,
            order=train.indices[order].astype(np.int64, copy=False),
            flipped=flipped,
            width=dataset.image_shape[2] if dataset.image_shape else 0,
            templates=self._templates,
            bias=self._bias,
            batch_size=self._batch_size,
            learning_rate=learning_rate,
            l2=self._l2,
            loss=self._loss.name,
            cancelled=cancelled,
        )

    def evaluate(self, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]) -> Totals:
        if split.dataset.row_weights is not None:  # the kernel counts every row once
            return self._reference.evaluate(layer, split, cancelled)
        loss, right = _built().evaluate(
            rows=split.dataset.rows,
            labels=split.dataset.labels,
            mean=self._mean,
            scale=self._scale,
            places=np.ascontiguousarray(split.indices, np.int64),
            templates=layer.weights.T.astype(np.float32, order="C", copy=False),
            bias=layer.bias.astype(np.float32, copy=False),
            loss=layer.loss.name,
            cancelled=cancelled,
        )
        return Totals(loss, right)


def _built() -> ModuleType:
    if kernel is None:
        raise RuntimeError("onelayer was installed without its compiled kernel")
    return kernel
