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

import numpy as np
from array_api_compat import to_device

from onelayer.layer import SoftmaxLayer, likeliest
from onelayer.losses import Array, Loss, namespace_of
from onelayer.training.backends import Velocity, of_views
from onelayer.training.backends.inputs import add_product, apart, joined, product

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


class Stack:
    """Heads of one shape, type and loss, side by side on a device.

    Parameters
    ----------
    heads : sequence of Head
    array : callable
        Puts a NumPy array on the device; the array is not used elsewhere.
    """

    def __init__(self, heads: Sequence[Head], array: Callable[[np.ndarray], Array]) -> None:
        layers = [head.layer for head in heads]
        self._loss, self._size, (self._d, self._K) = layers[0].loss, len(heads), layers[0].weights.shape

        def of_columns(values: Sequence[float]) -> Array:
            """Return numbers (H,) as one for each column (H K,)."""
            return array(np.repeat(np.asarray(values, layers[0].weights.dtype), self._K))

        def side_by_side(arrays: Sequence[tuple[np.ndarray, np.ndarray]]) -> Array:
            """Return weights (d, K) and biases (K,) as a matrix (H K, width)."""
            return array(np.concatenate([joined(W.T, b) for W, b in arrays]))

        self._A = side_by_side([(layer.weights, layer.bias) for layer in layers])
        self._rates = of_columns([head.learning_rate for head in heads])
        self._kept = self._l2 = self._V = None
        if any(head.l2 for head in heads):
            self._kept = of_columns([1 - 2 * head.learning_rate * head.l2 for head in heads])[:, None]
            self._l2 = of_columns([head.l2 for head in heads])[:, None]
        if any(head.momentum for head in heads):
            self._momentum = of_columns([head.momentum for head in heads])[:, None]
            still = np.zeros_like(layers[0].weights), np.zeros_like(layers[0].bias)
            self._V = side_by_side([head.velocity or still for head in heads])

    def step(self, X: Array, y: Array, w: Array | None) -> None:
        """Take a step with a batch: inputs X (k, width), labels y (k,), and row weights w (k,) or None."""
        A, V, rates, T = self._A, self._V, self._rates, self._A[:, : self._d]
        Z, labels = self._of_heads(product(X, A.T), y)  # (k H, K), (k H,)
        G = _residuals(self._loss, Z, labels).reshape(len(y), -1)  # (k, H K)
        if w is not None:
            G *= w[:, None]
        if V is None:  # the rates go into the smaller factor of the product
            if self._kept is not None:
                T *= self._kept
            G *= rates
            add_product(A, G.T, X, -1 / len(y))
            return
        V *= self._momentum
        add_product(V, G.T, X, 1 / len(y))
        if self._l2 is not None:
            penalised = V[:, : self._d]
            penalised += 2 * self._l2 * T
        A -= rates[:, None] * V

    def totals(self, X: Array, y: Array, w: Array | None, views: int, exact: object) -> tuple[Array, Array]:
        """Return the loss and the right answers of each head over some rows, each (H,) of the type `exact`."""
        Z, labels = self._of_heads(of_views(X @ self._A.T, views), y[::views])
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
        return [SoftmaxLayer(T.T, b, self._loss) for T, b in self._apart(self._A)]

    @property
    def velocities(self) -> list[Velocity | None]:
        """The velocity of each head, in NumPy arrays of its own; None without momentum."""
        return [None] * self._size if self._V is None else [(V.T, v) for V, v in self._apart(self._V)]

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
