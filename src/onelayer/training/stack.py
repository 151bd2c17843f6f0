"""Many layers over one pass of the rows: the heads of a stack.

H heads of K classes stand side by side, so that a batch X (k, d) is multiplied once with all of them::

    S = X W + b                        W (d, H K), b (H K,)  ->  logits S (k, H K), K columns for each head
    G = residual of each head          (k, H K)
    W -= rate * (X^T G + 2 lambda W)   each head with its own rate and lambda

No number of a head enters another one, so each goes the way that it would go alone; its sums may be taken in another
order, so that last bits differ. One code serves NumPy arrays and PyTorch tensors, through the array API standard.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from types import ModuleType

import numpy as np
from array_api_compat import to_device

from onelayer.data.dataset import Split
from onelayer.features.standardizer import BLOCK_ROWS, Standardizer
from onelayer.layer import SoftmaxLayer, likeliest
from onelayer.losses import Array, Loss, namespace_of
from onelayer.training.backends import Totals, Velocity, of_views

MOST_HEADS = 256  # each of which is a thread
MOST_LOGITS = 2**26  # of a batch: 256 MiB in float32
MOST_WEIGHTS = 2**27  # of all heads: 512 MiB in float32, and as much for the gradient
EVALUATED = 2**26  # numbers of rows and logits that are on a device at a time; a CPU takes what its cache holds


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
        self._loss, self._size, self._K = layers[0].loss, len(heads), len(layers[0].bias)

        def of_columns(values: Sequence[float]) -> Array:
            """Return numbers (H,) as one for each column (H K,)."""
            return array(np.repeat(np.asarray(values, layers[0].weights.dtype), self._K))

        def joined(arrays: Sequence[tuple[np.ndarray, np.ndarray]]) -> tuple[Array, Array]:
            """Return weights (d, K) and biases (K,) as (H K, d) and (H K,)."""
            return array(np.concatenate([W.T for W, _ in arrays])), array(np.concatenate([b for _, b in arrays]))

        self._templates, self._bias = joined([(layer.weights, layer.bias) for layer in layers])
        self._rates = of_columns([head.learning_rate for head in heads])
        self._l2 = of_columns([head.l2 for head in heads]) if any(head.l2 for head in heads) else None
        self._moving: tuple[Array, Array] | None = None
        if any(head.momentum for head in heads):
            self._momentum = of_columns([head.momentum for head in heads])
            still = np.zeros_like(layers[0].weights), np.zeros_like(layers[0].bias)
            self._moving = joined([head.velocity or still for head in heads])

    def step(self, X: Array, y: Array, w: Array | None) -> None:
        """Take a step with a batch: standardised rows X (k, d), labels y (k,), and row weights w (k,) or None."""
        Z, labels = self._of_heads(X @ self._templates.T + self._bias, y)  # (k H, K), (k H,)
        G = _residuals(self._loss, Z, labels).reshape(len(y), -1)  # (k, H K)
        if w is not None:
            G = G * w[:, None]
        if self._moving is None:  # the rates go into the smaller factor of the product
            if self._l2 is not None:
                self._templates *= (1 - 2 * self._rates * self._l2)[:, None]
            G = G * (self._rates / -len(y))
            _add_product(self._templates, G.T, X)
            self._bias += G.sum(0)
            return
        G, (V, v) = G / len(y), self._moving
        V *= self._momentum[:, None]
        v *= self._momentum
        _add_product(V, G.T, X)
        v += G.sum(0)
        if self._l2 is not None:
            V += (2 * self._l2)[:, None] * self._templates
        self._templates -= self._rates[:, None] * V
        self._bias -= self._rates * v

    def totals(self, X: Array, y: Array, w: Array | None, views: int, exact: object) -> tuple[Array, Array]:
        """Return the loss and the right answers of each head over some rows, each (H,) of the type `exact`."""
        S = of_views(X @ self._templates.T + self._bias, views)
        Z, labels = self._of_heads(S, y[::views])
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
        return [SoftmaxLayer(W.T, b, self._loss) for W, b in self._apart((self._templates, self._bias))]

    @property
    def velocities(self) -> list[Velocity | None]:
        """The velocity of each head, in NumPy arrays of its own; None without momentum."""
        return [(V.T, v) for V, v in self._apart(self._moving)] if self._moving else [None] * self._size

    def _apart(self, arrays: tuple[Array, Array]) -> list[tuple[np.ndarray, np.ndarray]]:
        """Return arrays (H K, d) and (H K,) as a pair (K, d) and (K,) for each head."""
        W, b = (np.asarray(to_device(array, "cpu")) for array in arrays)
        places = [slice(start, start + self._K) for start in range(0, len(b), self._K)]
        return [(W[place].copy(), b[place].copy()) for place in places]

    def _of_heads(self, S: Array, y: Array) -> tuple[Array, Array]:
        """Return logits S (k, H K) and labels y (k,) as those of k H rows: for each row, all heads."""
        labels = namespace_of(y).broadcast_to(y[:, None], (len(y), self._size))
        return S.reshape(-1, self._K), labels.reshape(-1)


def _residuals(loss: Loss, Z: Array, y: Array) -> Array:
    """Return the derivative (n, K) of each row's own loss, for logits Z (n, K) and labels y (n,)."""
    return loss.residual(Z, y) * len(y) if isinstance(Z, np.ndarray) else loss.tensor_residual(Z, y)


def _add_product(A: Array, a: Array, b: Array) -> None:
    """Add a b to A, on a device without another array of this size."""
    if isinstance(A, np.ndarray):
        A += a @ b
    else:
        A.addmm_(a, b)


class StackRows:
    """Rows for stacks: on a CPU where they are, on another device resident in their own type.

    Parameters
    ----------
    standardizer : Standardizer
        As `Backend` takes it.
    dtype : str
        Type of the arithmetic, float32 or float64.
    namespace : module
        NumPy, or an array library with the array API standard, such as ``array_api_compat.torch``.
    device : device of that library, or None
    resident : (ndarray (n, d), array (n, d)), optional
        The raw rows of a data set, and the same rows on the device.
    """

    def __init__(
        self,
        standardizer: Standardizer,
        dtype: str,
        *,
        namespace: ModuleType = np,
        device: object = None,
        resident: tuple[np.ndarray | None, Array] = (None, None),
    ) -> None:
        self._xp, self._device, self._dtype = namespace, device, dtype
        self._is_cpu = str(device) in ("None", "cpu")
        self._raw_standardizer = standardizer
        self._standardizers: dict[str, Standardizer] = {}  # by their type
        self._resident = resident
        self._exact = "float32" if str(device).startswith("mps") else "float64"  # the type of sums over rows

    def array(self, array: np.ndarray) -> Array:
        """Put an array on the device."""
        if self._xp is np:
            return array
        return self._xp.asarray(array, device=self._device, copy=True)  # a data set is read-only, which tensors are not

    def train(
        self, stack: Stack, train: Split, batch_size: int, flipped: np.ndarray | None, cancelled: Callable[[], bool]
    ) -> None:
        """Train a stack on the rows of a split, as `Backend.run_epoch` does."""
        read, y, w = self._opened(train, flipped, self._dtype)
        for batch in train.blocks(batch_size):
            if cancelled():
                raise InterruptedError
            stack.step(read(batch), y[batch], None if w is None else w[batch])

    def evaluate(self, stack: Stack, split: Split, cancelled: Callable[[], bool]) -> list[Totals]:
        """Return `Backend.evaluate` for each head of a stack."""
        read, y, w = self._opened(split, None, self._exact)
        views = split.dataset.views
        most = BLOCK_ROWS if self._is_cpu else EVALUATED // (stack.columns + split.dataset.rows.shape[1])
        size = max(1, most // views) * views
        loss, right = 0.0, 0.0
        for block in split.blocks(size):
            if cancelled():
                raise InterruptedError
            of_block = stack.totals(
                read(block), y[block], None if w is None else w[block], views, getattr(self._xp, self._exact)
            )
            loss, right = loss + of_block[0], right + of_block[1]
        sums = (np.asarray(to_device(total, "cpu")).tolist() for total in (loss, right))
        return [Totals(*of_head) for of_head in zip(*sums, strict=True)]

    def _opened(
        self, split: Split, flipped: np.ndarray | None, weight_dtype: str
    ) -> tuple[Callable[[slice], Array], Array, Array | None]:
        """Return a function that reads standardised rows (k, d), the labels (n,) and the row weights (n,) or None."""
        xp, rows, shape = self._xp, split.dataset.rows, split.dataset.image_shape
        standardizer, resident, order = self._standardizer(rows), self._on_device(rows), self.array(split.indices)
        mirrored = None if flipped is None or shape is None else self.array(flipped)[:, None, None, None]

        def read(places: slice) -> Array:
            R = self.array(split.rows(places)) if resident is None else resident[order[places]]
            if mirrored is not None and shape is not None:
                images = R.reshape(-1, *shape)  # (k, c, h, w)
                R = xp.where(mirrored[places], xp.flip(images, axis=3), images).reshape(R.shape)
            return xp.astype(standardizer.transform(R), getattr(xp, self._dtype), copy=False)

        weights = split.row_weights(slice(None))
        return read, self.array(split.labels), None if weights is None else self.array(weights.astype(weight_dtype))

    def _standardizer(self, rows: np.ndarray) -> Standardizer:
        """Return the standardizer in the type of the arithmetic, or of rows with more digits."""
        dtype = "float64" if rows.dtype == np.float64 else self._dtype
        if dtype not in self._standardizers:
            self._standardizers[dtype] = self._raw_standardizer.to(lambda array: self.array(array.astype(dtype)))
        return self._standardizers[dtype]

    def _on_device(self, rows: np.ndarray) -> Array | None:
        """Return the rows (n, d) on the device; None on a CPU, which has them in memory or maps them from a file."""
        if self._is_cpu:
            return None
        if self._resident[0] is not rows:
            self._resident = rows, self.array(rows)
        return self._resident[1]
