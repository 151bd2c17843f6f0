"""The losses, each with its residual and its traits beside it.

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

To add a loss, write a subclass of `Loss` and put an instance of it into `LOSSES`. No other code knows a loss by its
name, except the compiled kernel, which has its own code for the losses that it can do.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable
from types import ModuleType
from typing import Any

from onelayer.errors import ConfigError

Array = Any  # an array of any library that follows the array API standard
Dual = tuple[Array, Array | None, Array]  # what `Loss.dual` returns


class Loss(ABC):
    """A loss, its derivative, and the traits that other code needs.

    Attributes
    ----------
    name : str
        The value of ``--loss`` and of `TrainConfig.loss`, and the mark in model files.
    words : str
        A description in a few words, for the documentation.
    exclusive : bool
        True if P is the softmax of S: the classes exclude each other, and the probabilities of a row add up to 1.
        False if each class is a question of its own, so that they need not add up to 1.
    margin : float
        The answer for two classes as one score: ``margin * (S_1 - S_0)`` is the logarithm of the odds of class 1.
    numpy : str or None
        The body of a Python function that returns P for logits ``S`` by NumPy, called ``np``: for exported scripts.
        None if there is none.
    onnx : (str, dict) or None
        The ONNX operator, with its attributes, that makes P of S. None if there is none.
    pytorch : callable or None
        PyTorch's own mean loss, ``pytorch(torch.nn.functional, S, y)``, with which the gradient check compares. None if
        PyTorch has none.
    dual : callable or None
        ``dual(S)`` returns P (n, K), 1 - P (n, K) or None if the classes exclude each other, and the entropies (n, 1)
        or (n, K) in nats. `onelayer.training.certificate` makes a bound on the lowest cost of them. None if no bound is
        known; a subclass that changes `of_rows` does not inherit it, as the bound of one loss is not that of another.
    """

    name: str
    words: str
    exclusive: bool
    margin: float
    numpy: str | None = None
    onnx: tuple[str, dict[str, Any]] | None = None
    pytorch: Callable[[Any, Array, Array], Array] | None = None
    dual: Callable[[Array], Dual] | None = None

    def __init_subclass__(cls) -> None:
        if "of_rows" in vars(cls) and "dual" not in vars(cls):
            cls.dual = None

    def __repr__(self) -> str:
        return f"<loss {self.name}>"

    @abstractmethod
    def probabilities(self, S: Array) -> Array:
        """Return the probabilities P (n, K) of logits S (n, K)."""

    @abstractmethod
    def log_shares(self, S: Array) -> Array:
        """Return logarithms (n, K) of positive numbers that, divided by their sum in each row, are probabilities."""

    @abstractmethod
    def of_rows(self, S: Array, y: Array) -> Array:
        """Return the loss of each row (n,), in nats, for logits S (n, K) and labels y (n,)."""

    @abstractmethod
    def residual(self, S: Array, y: Array) -> Array:
        """Return the residual G (n, K): the derivative of the mean of `of_rows` with respect to S."""

    def tensor_residual(self, S: Array, y: Array) -> Array:
        """Return the derivative (n, K) of each row's own loss, for PyTorch's tensors, in as few operations as it has.

        A GPU waits for each operation. The result may take the memory of nothing but itself, and it can be changed.
        """
        return self.residual(S, y) * S.shape[0]

    @abstractmethod
    def of_guessing(self, K: int) -> float:
        """Return the loss of the probability 1/K for each class, in nats."""

    @abstractmethod
    def curvature(self, K: int) -> float:
        """Return an upper bound of the eigenvalues of a row's Hessian d^2 loss / dS_k dS_l (K, K), at any logits."""

    def prior(self, shares: Array) -> Array:
        """Return the logits (K,) of rows of which nothing is known but the shares (K,), in (0, 1), of the classes."""
        xp = namespace_of(shares)
        return xp.log(shares) if self.exclusive else xp.log(shares) - xp.log1p(-shares)


class SoftmaxCrossEntropy(Loss):
    """Classes exclude each other: P = exp(S) / sum_k exp(S), loss = -log P[y]."""

    name = "softmax"
    words = "softmax cross-entropy"
    exclusive = True
    margin = 1.0  # P_1 / P_0 = exp(S_1 - S_0)
    numpy = """\
    E = np.exp(S - S.max(axis=1, keepdims=True))
    return E / E.sum(axis=1, keepdims=True)"""
    onnx = ("Softmax", {})

    @staticmethod
    def pytorch(functional: Any, S: Array, y: Array) -> Array:
        return functional.cross_entropy(S, y)

    @staticmethod
    def dual(S: Array) -> Dual:
        xp = namespace_of(S)
        Z = S - _row_maximum(xp, S)
        E = xp.exp(Z)
        total = xp.sum(E, axis=1, keepdims=True)
        return E / total, None, xp.log(total) - xp.sum(E * Z, axis=1, keepdims=True) / total

    def probabilities(self, S: Array) -> Array:
        xp = namespace_of(S)
        E = xp.exp(S - _row_maximum(xp, S))
        return E / xp.sum(E, axis=1, keepdims=True)

    def log_shares(self, S: Array) -> Array:
        return S

    def of_rows(self, S: Array, y: Array) -> Array:
        xp = namespace_of(S)
        S = S - _row_maximum(xp, S)  # every exponential is at most 1, one of them is 1
        return xp.log(xp.sum(xp.exp(S), axis=1)) - xp.take_along_axis(S, y[:, None], axis=1)[:, 0]

    def residual(self, S: Array, y: Array) -> Array:
        P = self.probabilities(S)
        return (P - namespace_of(S).astype(one_hot(y, S.shape[1]), P.dtype)) / S.shape[0]

    def tensor_residual(self, S: Array, y: Array) -> Array:
        return S.softmax(1).scatter_(1, y[:, None], -1, reduce="add")  # P - Y

    def of_guessing(self, K: int) -> float:
        return math.log(K)

    def curvature(self, K: int) -> float:
        # The Hessian is diag(p) - p p^T. The absolute values in row k add up to 2 p_k (1 - p_k), which is at most 1/2,
        # and no eigenvalue is larger than the largest of these sums (Gershgorin). Two classes of p = 1/2 attain it.
        # Boehning, "Multinomial logistic regression algorithm" (1992), uses the same bound.
        return 1 / 2


class BinaryCrossEntropy(Loss):
    """K independent yes-or-no questions: P = 1 / (1 + exp(-S)), loss = mean over k of -log P[Y = 1] or -log(1 - P)."""

    name = "sigmoid"
    words = "one sigmoid per class with binary cross-entropy"
    exclusive = False
    margin = 1 / 2  # two sigmoids answer one question twice, with S_1 = -S_0 at the optimum: their mean answer
    numpy = "    return np.exp(-np.logaddexp(0, -S))  # 1 / (1 + exp(-S)), without overflow"
    onnx = ("Sigmoid", {})

    @staticmethod
    def pytorch(functional: Any, S: Array, y: Array) -> Array:
        return functional.binary_cross_entropy_with_logits(S, functional.one_hot(y, S.shape[1]).to(S.dtype))

    @staticmethod
    def dual(S: Array) -> Dual:
        xp = namespace_of(S)
        E = xp.exp(-xp.abs(S))
        larger, smaller = 1 / (1 + E), E / (1 + E)
        P, no = xp.where(S >= 0, larger, smaller), xp.where(S >= 0, smaller, larger)
        return P, no, xp.log1p(E) + xp.abs(S) * smaller

    def probabilities(self, S: Array) -> Array:
        xp = namespace_of(S)
        e = xp.exp(-_magnitude(xp, S))
        return xp.where(_real(xp, S) >= 0, xp.ones_like(e), e) / (1 + e)

    def log_shares(self, S: Array) -> Array:
        return -_softplus(-S)

    def of_rows(self, S: Array, y: Array) -> Array:
        xp = namespace_of(S)
        Z = xp.where(one_hot(y, S.shape[1]), -S, S)  # -log P = softplus(-S), -log(1 - P) = softplus(S)
        return xp.sum(_softplus(Z), axis=1) / S.shape[1]

    def residual(self, S: Array, y: Array) -> Array:
        P = self.probabilities(S)
        n, K = S.shape
        return (P - namespace_of(S).astype(one_hot(y, K), P.dtype)) / (n * K)

    def tensor_residual(self, S: Array, y: Array) -> Array:
        return S.sigmoid().scatter_(1, y[:, None], -1, reduce="add").div_(S.shape[1])

    def of_guessing(self, K: int) -> float:
        return math.log(K) / K - (1 - 1 / K) * math.log1p(-1 / K) if K > 1 else 0.0

    def curvature(self, K: int) -> float:
        # The Hessian is diagonal, p_k (1 - p_k) / K, and p (1 - p) is at most 1/4, at p = 1/2.
        return 1 / (4 * K)


LOSSES: dict[str, Loss] = {loss.name: loss for loss in (SoftmaxCrossEntropy(), BinaryCrossEntropy())}


def dual_of(loss: Loss) -> Callable[[Array], Dual]:
    """Return `Loss.dual`.

    Raises
    ------
    ConfigError
        If no bound is known for the loss.
    """
    if loss.dual is None:
        known = " or ".join(other.name for other in LOSSES.values() if other.dual)
        what = f"no bound on the lowest cost is known for the loss {loss.name}"
        raise ConfigError(f"{what}: it has no certificate, and the solver converged cannot take it; take {known}")
    return loss.dual


def one_hot(y: Array, K: int) -> Array:
    """Return labels y (n,) as Y (n, K), boolean."""
    xp = namespace_of(y)
    return y[:, None] == xp.arange(K, dtype=y.dtype, device=y.device)[None, :]


def namespace_of(array: Array) -> ModuleType:
    """Return the module of an array's library that has the functions of the array API standard."""
    import numpy as np  # these are here, as --help needs the names of the losses and no arithmetic
    from array_api_compat import array_namespace

    # NumPy follows the standard itself. `array_api_compat.numpy` would load numpy.f2py, which takes 0.2 s.
    namespace: ModuleType = np if isinstance(array, np.ndarray) else array_namespace(array)
    return namespace


def _real(xp: ModuleType, S: Array) -> Array:
    return xp.real(S) if xp.isdtype(S.dtype, "complex floating") else S


def _row_maximum(xp: ModuleType, S: Array) -> Array:
    return xp.max(_real(xp, S), axis=1, keepdims=True)


def _magnitude(xp: ModuleType, S: Array) -> Array:
    """Return |S|, or its analytic continuation where S is complex."""
    return xp.where(_real(xp, S) >= 0, S, -S)


def _softplus(Z: Array) -> Array:
    """Return log(1 + exp(Z))."""
    xp = namespace_of(Z)
    return xp.where(_real(xp, Z) >= 0, Z, xp.zeros_like(Z)) + xp.log1p(xp.exp(-_magnitude(xp, Z)))
