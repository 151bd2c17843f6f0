"""Sums over rows in float64, from which the cost of a layer and a bound on the lowest cost follow.

Each comes with a bound on its rounding errors. With u = 2^-53, gamma(k) = k u / (1 - k u) bounds the relative error of
k roundings, and that of a sum of k numbers in any order, relative to the sum of their magnitudes (Higham, "Accuracy and
Stability of Numerical Algorithms", 2002, chapter 3).

- A number of a block of B rows goes through at most B roundings while the block is added up, and through one more each
  time that sums are added. `Sums.roundings` counts them.
- P is exp(S - max S) as computed, divided by its exact sum. So its rows are exact probabilities, and errors of the
  scores S are not errors of the sums. The computed P differs by at most gamma(K + 1), relatively.
- The losses and the entropies are sums of terms that are not negative. The computed ones differ by at most
  ``row_error(K)`` (1 + loss) and ``row_error(K)`` (1 + entropy).
- The norm of the error of a product such as X^T (P - Y) is at most gamma(k) ||x|| ||g|| (Cauchy and Schwarz), where
  ||x|| is the root mean square length of the rows and ||g||, that of the rows of P - Y, is at most sqrt 2.

It is taken for granted that exp, log and log1p are within 8 ulp, and that BLAS multiplies in the ordinary way, in
whatever order.
"""

import math
from dataclasses import dataclass, fields
from functools import reduce
from operator import add
from typing import Any

import numpy as np

from onelayer.layer import SoftmaxLayer
from onelayer.losses import dual_of, one_hot
from onelayer.processes import Processes, gathered

UNIT = 2.0**-53  # the largest relative error of a rounding in float64
TINY = 1e-290  # more than is lost where numbers underflow
FEW = 16  # classes; for more, adding up the rows of each class is faster than a product with Y


def gamma(k: int) -> float:
    """Return the largest relative error of k roundings."""
    return k * UNIT / (1 - k * UNIT)


def row_error(K: int) -> float:
    """Return the error of a row's loss or entropy, to be multiplied by 1 plus that."""
    return 20 * (K + 2) * UNIT


@dataclass(frozen=True, eq=False)
class Sums:
    """Sums over some rows in float64, each row times its weight. Those of other rows can be added.

    The softmax asks one question (Q = 1) with an answer for each of the K classes; K sigmoids ask K questions with two
    answers, yes and no.

    Parameters
    ----------
    weight : float
        Sum of the rows' weights.
    loss : float
        Sum of the losses, in nats.
    entropy : ndarray (Q,)
        Sums of the entropies of P, in nats.
    answers, truth : ndarray (K, 1) or (2, K)
        Sums of the probabilities of the answers to each question, and of the true answers.
    product, labelled : ndarray (d, K)
        X^T (P - Y) and X^T Y.
    squares : float
        Sum of the squared lengths of the rows x, or more.
    longest : float
        Length of the longest row, or more.
    margin : float
        The least margin of a row of a weight above 0: the score of its class less the best other.
    roundings : int
        The largest number of roundings that a summand went through.
    """

    weight: float
    loss: float
    entropy: np.ndarray
    answers: np.ndarray
    truth: np.ndarray
    product: np.ndarray
    labelled: np.ndarray
    squares: float
    longest: float
    margin: float
    roundings: int

    @classmethod
    def of(
        cls,
        layer: SoftmaxLayer,
        X: np.ndarray,
        y: np.ndarray,
        row_weights: np.ndarray | None,
        classes: np.ndarray,
        length: float | None = None,
    ) -> "Sums":
        """Return the sums over a block of rows.

        Parameters
        ----------
        layer : SoftmaxLayer
            In float64.
        X : ndarray (n, d), float64
            Inputs of the layer.
        y : ndarray (n,), int64
        row_weights : ndarray (n,), float64, or None
        classes : ndarray (C,), int64
            The classes that have rows in the whole data, or all.
        length : float, optional
            A bound on the length of each row, in which its rounding errors count; by default that of X.
        """
        w = np.ones(len(y)) if row_weights is None else row_weights
        S = layer.logits(X)  # (n, K)
        losses = layer.loss.of_rows(S, y)
        if len(classes) < S.shape[1]:
            y = np.minimum(np.searchsorted(classes, y), len(classes) - 1)  # of another class, a row weighs 0
            S = S[:, classes]  # (n, C)
        true = one_hot(y, S.shape[1])
        P, no, H = dual_of(layer.loss)(S)
        product, labelled = _products(X, (P - true) * w[:, None], y, row_weights)
        if length is None:
            of_rows = np.einsum("ij,ij->i", X, X)  # (n,)
            squares, longest = float(w @ of_rows), math.sqrt(of_rows.max(initial=0.0))
        else:
            squares, longest = float(w.sum()) * length**2, length
        return cls(
            weight=float(w.sum()),
            loss=float(w @ losses),
            entropy=w @ H,
            answers=(w @ P)[:, None] if no is None else np.stack([w @ P, w @ no]),
            truth=(w @ true)[:, None] if no is None else np.stack([w @ true, w @ ~true]),
            product=product,
            labelled=labelled,
            squares=squares,
            longest=longest,
            margin=float(_margins(S, true, no is None)[w > 0].min(initial=math.inf)),
            roundings=len(y),
        )

    def __add__(self, other: "Sums") -> "Sums":
        both = {field.name: (getattr(self, field.name), getattr(other, field.name)) for field in fields(self)}
        merged = {name: a + b for name, (a, b) in both.items()}
        merged["longest"], merged["margin"] = max(both["longest"]), min(both["margin"])
        merged["roundings"] = max(both["roundings"]) + 1
        return Sums(**merged)

    def over(self, processes: Processes) -> "Sums":
        """Return the sum of those of all processes, in the order of the ranks."""
        if processes.size == 1:
            return self
        own = {field.name: np.asarray(getattr(self, field.name), np.float64) for field in fields(self)}
        found = gathered(processes, np.concatenate([array.ravel() for array in own.values()]))
        ends = np.cumsum([array.size for array in own.values()])[:-1]
        of_ranks = []
        for of_rank in found:
            pieces = zip(own.items(), np.split(of_rank, ends), strict=True)
            values: dict[str, Any] = {name: piece.reshape(array.shape) for (name, array), piece in pieces}
            scalars = {name: float(value) for name, value in values.items() if not value.ndim}
            of_ranks.append(Sums(**{**values, **scalars, "roundings": int(values["roundings"])}))
        return reduce(add, of_ranks)

    @property
    def error(self) -> float:
        """The relative error of a mean, and that of a product relative to the lengths of its factors."""
        return gamma(2 * self.roundings + self.product.shape[1] + 16)

    @property
    def reach(self) -> float:
        """The root mean square length of the rows, rounded upwards."""
        return math.sqrt(self.squares / self.weight) * (1 + self.error + gamma(len(self.product)))

    @property
    def questions(self) -> int:
        """The number of questions Q, of whose losses a row's loss is the mean."""
        return len(self.entropy)


def _products(
    X: np.ndarray, G: np.ndarray, y: np.ndarray, row_weights: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray]:
    """Return X^T G and X^T Y (d, C), Y times the weights of the rows; every class in one piece."""
    C = G.shape[1]
    if C <= FEW:
        Y = one_hot(y, C) if row_weights is None else one_hot(y, C) * row_weights[:, None]
        both = np.concatenate([G, Y], axis=1).T @ X  # (2 C, d), hardly slower than one of the two
        return both[:C].T, both[C:].T
    labelled = np.zeros((C, X.shape[1]), X.dtype)
    for k, x in zip(y, X if row_weights is None else X * row_weights[:, None], strict=True):
        labelled[k] += x
    return (G.T @ X).T, labelled.T


def _margins(S: np.ndarray, true: np.ndarray, exclusive: bool) -> np.ndarray:
    """Return the margin of each row (n,)."""
    if not exclusive:
        return np.where(true, S, -S).min(axis=1)
    return S[true] - np.where(true, -np.inf, S).max(axis=1)
