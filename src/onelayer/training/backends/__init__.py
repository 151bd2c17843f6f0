"""The Backend protocol: the arithmetic of training, behind one seam."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from onelayer.config import TrainConfig
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.features.standardizer import Standardizer
from onelayer.layer import SoftmaxLayer
from onelayer.losses import Array

Name = Literal["native", "numpy", "torch"]  # a backend, as the setting `backend` calls it


Velocity = tuple[np.ndarray, np.ndarray]  # of the weights (d, K) and the bias (K,): sums of steps, before the rate


@dataclass(frozen=True)
class Totals:
    """Sums over the rows of a split, each times its weight, to be divided once by ``split.weight``.

    Parameters
    ----------
    loss : float
        Sum of the rows' losses, in nats.
    right : float
        Sum over the rows whose largest logit is that of the true class; their number, where no row has a weight.
    """

    loss: float
    right: float


class Backend(Protocol):
    """Holds a layer and trains it.

    It is bit-for-bit repeatable while BLAS has one thread, as in `onelayer.train`. Long work raises InterruptedError
    soon after `cancelled()` is true.

    Parameters
    ----------
    splits : Splits
        The rows to train on and to evaluate. Methods also take splits of other data sets with the same features and
        classes, such as the windows of a memory map.
    config : TrainConfig
        Gives the batch size and the penalty.
    standardizer : Standardizer
        Mean and scale of the training rows, float64; an infinite scale makes a feature 0 in every row.
    layer : SoftmaxLayer
        The layer to start from, in NumPy arrays of the type ``config.dtype``, for standardised rows. It is copied.
    velocity : Velocity or None
        That with which the epochs before ended; None is zero. It counts only with momentum.

    Attributes
    ----------
    compiled : bool
        True if the converged solver may multiply in the compiled kernel.
    """

    name: ClassVar[Name]
    compiled: ClassVar[bool]

    def __init__(
        self,
        splits: Splits,
        config: TrainConfig,
        standardizer: Standardizer,
        layer: SoftmaxLayer,
        velocity: Velocity | None = None,
    ) -> None: ...

    @staticmethod
    def obstacle(dataset: Dataset, config: TrainConfig) -> str | None:
        """Return why this backend cannot train on these rows with these settings, or None if it can.

        The words complete a sentence that begins with "the backend" and its name.
        """

    @property
    def layer(self) -> SoftmaxLayer:
        """The layer as NumPy arrays of its own, with weights for standardised rows."""

    @property
    def velocity(self) -> Velocity | None:
        """The velocity after the last step, in NumPy arrays of its own; None without momentum."""

    def run_epoch(
        self, train: Split, learning_rate: float, flipped: np.ndarray | None, cancelled: Callable[[], bool]
    ) -> None:
        """Train on the rows of a split, in the order of ``train.indices``, batch by batch.

        A step is -learning_rate times the velocity, which is momentum times that before plus the gradient.
        Images are mirrored, left to right, where `flipped` (n,), bool, is true.
        """

    def evaluate(self, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]) -> Totals:
        """Return the loss and the right answers of any layer over a split.

        Where rows are views, each counts with the loss and the answer of their average logits; no view is missing.
        It may run while an epoch does, in another thread.
        """

    def objective(
        self, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]
    ) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the cost of any layer over a split and its gradient, in one pass over the rows.

        Returns
        -------
        cost : float
            The sum of the rows' losses, each times its weight, divided by ``split.weight``, plus the penalty; in nats.
            On training rows, whose weights are 1 on average, this is `SoftmaxLayer.cost`.
        dW : ndarray (d, K), float64
            Derivative of the cost with respect to the weights for standardised rows.
        db : ndarray (K,), float64
            Derivative of the cost with respect to the bias.
        """


def of_views(S: Array, views: int) -> Array:
    """Return the average logits (n / views, K) of rows that are views of each other, from S (n, K)."""
    return S if views == 1 else sum(S[view::views] for view in range(views)) / views


def penalised_mean(
    loss: float, dW: np.ndarray, db: np.ndarray, layer: SoftmaxLayer, split: Split, l2: float
) -> tuple[float, np.ndarray, np.ndarray]:
    """Return `Backend.objective` from the sums over the rows of a split: loss, dW (d, K) and db (K,), float64."""
    exact = SoftmaxLayer(layer.weights.astype(np.float64), layer.bias, layer.loss)
    cost = loss / split.weight + float(exact.penalty(l2))
    return cost, dW / split.weight + 2 * l2 * exact.weights, db / split.weight
