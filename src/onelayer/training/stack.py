"""Many layers over one pass of the rows: the heads of a stack.

H heads of K classes stand side by side, so that a batch X (k, d) is multiplied once with all of them::

    S = X A^T                          A (H K, d)  ->  logits S (k, H K), K columns for each head
    G = residual of each head          (k, H K)
    A -= rate * (G^T X + 2 lambda A)   each head with its own rate and lambda

No number of a head enters another one, so each goes the way that it would go alone; its sums may be taken in another
order, so that last bits differ. One code serves NumPy arrays and PyTorch tensors, through the array API standard. The
bias is a column of A, and X has a column of ones for it (`onelayer.training.backends.inputs`).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from array_api_compat import to_device

from onelayer.layer import SoftmaxLayer, likeliest
from onelayer.losses import Array, Loss, namespace_of
from onelayer.training.backends import Velocity, of_views
from onelayer.training.backends.inputs import add_product, apart, joined, product
from onelayer.training.backends.replay import Replay

if TYPE_CHECKING:
    import torch

MOST_HEADS = 256  # each of which is a thread
MOST_LOGITS = 2**26  # of a batch: 256 MiB in float32
MOST_WEIGHTS = 2**27  # of all heads: 512 MiB in float32, and as much for the gradient


def most_heads(d: int, K: int, batch: int) -> int:
    """Return the number of heads of d features and K classes that a stack holds, for batches of this many rows."""
    return max(1, min(MOST_HEADS, MOST_LOGITS // (batch * K), MOST_WEIGHTS // (d * K)))


@dataclass(frozen=True, eq=False)
class Head:
    """A layer of a stack with its own settings.

    Parameters
    ----------
    layer : SoftmaxLayer
        Weights (d, K) and bias (K,), NumPy arrays.
    learning_rate, l2, momentum : float
    velocity : (ndarray (d, K), ndarray (K,)) or None
        As in `Backend`; None is zero.
    """

    layer: SoftmaxLayer
    learning_rate: float = 0.0
    l2: float = 0.0
    momentum: float = 0.0
    velocity: Velocity | None = None


class _Numbers(NamedTuple):
    """The numbers of the heads of a stack: matrices (H K, width), and a number for each column.

    Parameters
    ----------
    A, V : array (H K, width)
        Layers, and velocities; None where no head has momentum.
    rates : array (H K,)
        Learning rates.
    kept, l2 : array (H K, 1) or None
        The share of the weights that the penalty leaves in a step without momentum, and lambda; None where all are 0.
    momentum : array (H K, 1) or None
    """

    A: Array
    V: Array | None
    rates: Array
    kept: Array | None
    l2: Array | None
    momentum: Array | None

    @classmethod
    def of(cls, heads: Sequence[Head]) -> "_Numbers":
        """Return those of heads, as NumPy arrays that nothing else uses."""
        weights, bias = heads[0].layer.weights, heads[0].layer.bias
        still = np.zeros_like(weights), np.zeros_like(bias)
        moving, penalised = (any(getattr(head, name) for head in heads) for name in ("momentum", "l2"))

        def of_columns(values: Sequence[float]) -> np.ndarray:
            return np.repeat(np.asarray(values, weights.dtype), len(bias))

        return cls(
            np.concatenate([joined(head.layer.weights.T, head.layer.bias) for head in heads]),
            np.concatenate([joined(V.T, v) for V, v in (head.velocity or still for head in heads)]) if moving else None,
            of_columns([head.learning_rate for head in heads]),
            of_columns([1 - 2 * head.learning_rate * head.l2 for head in heads])[:, None] if penalised else None,
            of_columns([head.l2 for head in heads])[:, None] if penalised else None,
            of_columns([head.momentum for head in heads])[:, None] if moving else None,
        )

    @property
    def shapes(self) -> list[tuple[int, ...] | None]:
        """The shape of each, or None."""
        return [None if numbers is None else tuple(numbers.shape) for numbers in self]


class Stack:
    """Heads of one shape, type and loss, side by side on a device.

    Parameters
    ----------
    heads : sequence of Head
    array : callable
        Puts a NumPy array on the device; the array is not used elsewhere.
    stream : torch.cuda.Stream or None
        That of the work on a CUDA device.
    """

    def __init__(
        self, heads: Sequence[Head], array: Callable[[np.ndarray], Array], stream: "torch.cuda.Stream | None" = None
    ) -> None:
        layer = heads[0].layer
        self._loss, self._size, (self._d, self._K) = layer.loss, len(heads), layer.weights.shape
        self._array, self._replay = array, Replay(stream)
        self._numbers = _Numbers(*(None if numbers is None else array(numbers) for numbers in _Numbers.of(heads)))

    def go_on_with(self, heads: Sequence[Head]) -> bool:
        """Hold other heads in the same memory, which the graphs of `train` work in; return False if they do not fit."""
        numbers = _Numbers.of(heads)
        if numbers.shapes != self._numbers.shapes:
            return False
        for own, new in zip(self._numbers, numbers, strict=True):
            if own is not None:
                own[...] = self._array(new)
        return True

    def train(self, X: Array, y: Array, w: Array | None, batch_size: int) -> None:
        """Take the steps of the batches of a block, which is in the same memory each time."""
        self._replay.run(len(X), partial(self._steps, X, y, w, batch_size))

    def _steps(self, X: Array, y: Array, w: Array | None, batch_size: int) -> None:
        for start in range(0, len(X), batch_size):
            batch = slice(start, start + batch_size)
            self._step(X[batch], y[batch], None if w is None else w[batch])

    def _step(self, X: Array, y: Array, w: Array | None) -> None:
        """Take a step with a batch: inputs X (k, width), labels y (k,), and row weights w (k,) or None."""
        A, V, rates, kept, l2, momentum = self._numbers
        T = A[:, : self._d]
        Z, labels = self._of_heads(product(X, A.T), y)  # (k H, K), (k H,)
        G = _residuals(self._loss, Z, labels).reshape(len(y), -1)  # (k, H K)
        if w is not None:
            G *= w[:, None]
        if V is None:  # the rates go into the smaller factor of the product
            if kept is not None:
                T *= kept
            G *= rates
            add_product(A, G.T, X, -1 / len(y))
            return
        V *= momentum
        add_product(V, G.T, X, 1 / len(y))
        if l2 is not None:
            penalised = V[:, : self._d]
            penalised += 2 * l2 * T
        A -= rates[:, None] * V

    def totals(self, X: Array, y: Array, w: Array | None, views: int, exact: object) -> tuple[Array, Array]:
        """Return the loss and the right answers of each head over some rows, each (H,) of the type `exact`."""
        Z, labels = self._of_heads(of_views(X @ self._numbers.A.T, views), y[::views])
        losses, right = self._loss.of_rows(Z, labels), likeliest(Z) == labels

        def total(values: Array) -> Array:
            values = namespace_of(values).astype(values, exact).reshape(-1, self._size)  # (k, H)
            return views * (values if w is None else values * w[::views, None]).sum(0)

        return total(losses), total(right)

    @property
    def columns(self) -> int:
        """The number of columns, H K."""
        return self._size * self._K

    @property
    def layers(self) -> list[SoftmaxLayer]:
        """The layer of each head, in NumPy arrays of its own."""
        return [SoftmaxLayer(T.T, b, self._loss) for T, b in self._apart(self._numbers.A)]

    @property
    def velocities(self) -> list[Velocity | None]:
        """The velocity of each head, in NumPy arrays of its own; None without momentum."""
        V = self._numbers.V
        return [None] * self._size if V is None else [(T.T, v) for T, v in self._apart(V)]

    def _apart(self, A: Array) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return a matrix (H K, width) as a pair (K, d) and (K,) for each head."""
        whole = np.asarray(to_device(A, "cpu"))
        return [apart(whole[start : start + self._K], self._d) for start in range(0, len(whole), self._K)]

    def _of_heads(self, S: Array, y: Array) -> tuple[Array, Array]:
        """Return logits S (k, H K) and labels y (k,) as those of k H rows: for each row, all heads."""
        labels = namespace_of(y).broadcast_to(y[:, None], (len(y), self._size))
        return S.reshape(-1, self._K), labels.reshape(-1)


def _residuals(loss: Loss, Z: Array, y: Array) -> Array:
    """Return the derivative (n, K) of each row's own loss, for logits Z (n, K) and labels y (n,)."""
    return loss.residual(Z, y) * len(y) if isinstance(Z, np.ndarray) else loss.tensor_residual(Z, y)
