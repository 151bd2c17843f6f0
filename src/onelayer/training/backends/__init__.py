"""What training asks of whoever does the arithmetic."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, Literal, Protocol

import numpy as np

from onelayer.data.dataset import Split
from onelayer.features.standardizer import Standardizer
from onelayer.layer import SoftmaxLayer


@dataclass(frozen=True)
class Totals:
    """Sums over the rows of a split, each times its weight, to be divided once by ``split.weight``.

    Parameters
    ----------
    loss : float
        Sum of the rows' losses, in nats.
    right : float
        Rows whose largest logit is that of the true class; their number, where no row has a weight.
    """

    loss: float
    right: float


class Backend(Protocol):
    """Holds a layer and trains it; bit-for-bit repeatable while BLAS has one thread, as in `onelayer.train`."""

    name: ClassVar[Literal["native", "numpy"]]  # as the setting `backend` calls it

    def __init__(self, layer: SoftmaxLayer, standardizer: Standardizer, *, l2: float, batch_size: int) -> None: ...

    @property
    def layer(self) -> SoftmaxLayer:
        """The layer as NumPy arrays of its own, weights for standardised rows."""

    def run_epoch(
        self,
        train: Split,
        order: np.ndarray,
        learning_rate: float,
        flipped: np.ndarray | None,
        cancelled: Callable[[], bool],
    ) -> None:
        """Visit the rows at the places `order` (n,) in batches, mirrored where `flipped` (n,) is true.

        Raises InterruptedError soon after `cancelled()` is true, as `evaluate` does.
        """

    def evaluate(self, layer: SoftmaxLayer, split: Split, cancelled: Callable[[], bool]) -> Totals:
        """Loss and right answers of any layer over a whole split; may run while an epoch does, in another thread."""
