"""The two losses, each with its residual beside it.

A loss is a function of the logits S (n, K) and the labels y (n,), values 0..K-1; Y (n, K) is y one-hot.
Its residual G = d loss / d S (n, K) is all that the layer's gradients need of it.

===========  ==============================================  =================
name         loss, in nats, mean over rows                   residual G
===========  ==============================================  =================
``softmax``  -(1/n) sum_i log P[i, y_i]                      (P - Y) / n
``sigmoid``  -(1/(n K)) sum_ik Y log P + (1 - Y) log(1 - P)  (P - Y) / (n K)
===========  ==============================================  =================

Everything is computed from logits in a form that neither overflows nor takes the logarithm of a rounded probability,
works on any array of the array API standard (NumPy, PyTorch), and is analytic where it is differentiable, so that
the complex-step derivative of a loss is exact.
"""

import math
from abc import ABC, abstractmethod
from types import ModuleType
from typing import Any

from array_api_compat import array_namespace

Array = Any  # an array of any library that follows the array API standard


class Loss(ABC):
    """What the layer needs to know of a loss."""

    name: str

    @abstractmethod
    def probabilities(self, S: Array) -> Array:
        """Probabilities P (n, K) of logits S (n, K)."""

    @abstractmethod
    def of_rows(self, S: Array, y: Array) -> Array:
        """Loss of each row (n,), in nats, for logits S (n, K) and labels y (n,)."""

    @abstractmethod
    def residual(self, S: Array, y: Array) -> Array:
        """Residual G (n, K): the derivative of the mean of `of_rows` with respect to S."""

    @abstractmethod
    def of_guessing(self, K: int) -> float:
        """Loss of the probability 1/K for each class, in nats."""


class SoftmaxCrossEntropy(Loss):
    """Classes exclude each other: P = exp(S) / sum_k exp(S), loss = -log P[y]."""

    name = "softmax"

    def probabilities(self, S: Array) -> Array:
        xp = array_namespace(S)
        E = xp.exp(S - _row_maximum(xp, S))
        return E / xp.sum(E, axis=1, keepdims=True)

    def of_rows(self, S: Array, y: Array) -> Array:
        xp = array_namespace(S)
        S = S - _row_maximum(xp, S)  # every exponential is at most 1, one of them is 1
        return xp.log(xp.sum(xp.exp(S), axis=1)) - xp.take_along_axis(S, y[:, None], axis=1)[:, 0]

    def residual(self, S: Array, y: Array) -> Array:
        P = self.probabilities(S)
        return (P - array_namespace(S).astype(one_hot(y, S.shape[1]), P.dtype)) / S.shape[0]

    def of_guessing(self, K: int) -> float:
        return math.log(K)


class BinaryCrossEntropy(Loss):
    """K independent yes-or-no questions: P = 1 / (1 + exp(-S)), loss = mean over k of -log P[Y = 1] or -log(1 - P)."""

    name = "sigmoid"

    def probabilities(self, S: Array) -> Array:
        xp = array_namespace(S)
        e = xp.exp(-_magnitude(xp, S))
        return xp.where(_real(xp, S) >= 0, xp.ones_like(e), e) / (1 + e)

    def of_rows(self, S: Array, y: Array) -> Array:
        xp = array_namespace(S)
        Z = xp.where(one_hot(y, S.shape[1]), -S, S)  # -log P = softplus(-S), -log(1 - P) = softplus(S)
        softplus = xp.where(_real(xp, Z) >= 0, Z, xp.zeros_like(Z)) + xp.log1p(xp.exp(-_magnitude(xp, Z)))
        return xp.sum(softplus, axis=1) / S.shape[1]

    def residual(self, S: Array, y: Array) -> Array:
        P = self.probabilities(S)
        n, K = S.shape
        return (P - array_namespace(S).astype(one_hot(y, K), P.dtype)) / (n * K)

    def of_guessing(self, K: int) -> float:
        return math.log(K) / K - (1 - 1 / K) * math.log1p(-1 / K) if K > 1 else 0.0


LOSSES: dict[str, Loss] = {loss.name: loss for loss in (SoftmaxCrossEntropy(), BinaryCrossEntropy())}


def one_hot(y: Array, K: int) -> Array:
    """Labels y (n,) as Y (n, K), boolean."""
    xp = array_namespace(y)
    return y[:, None] == xp.arange(K, dtype=y.dtype, device=y.device)[None, :]


def _real(xp: ModuleType, S: Array) -> Array:
    return xp.real(S) if xp.isdtype(S.dtype, "complex floating") else S


def _row_maximum(xp: ModuleType, S: Array) -> Array:
    return xp.max(_real(xp, S), axis=1, keepdims=True)


def _magnitude(xp: ModuleType, S: Array) -> Array:
    """|S|, or its analytic continuation where S is complex."""
    return xp.where(_real(xp, S) >= 0, S, -S)
