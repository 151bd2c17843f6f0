"""Losses as functions of scores without the bias, with the bias solved out.

Scores S are (K, n), weights w (n,) add up to 1, and pi (K,) are the weighted shares of the classes. The derivative of
the loss with respect to b is p - pi, where p is the weighted mean of the probabilities P (K, n); for sigmoids both are
divided by K. The bias that makes it zero is the best one for these scores.
"""

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from onelayer.kernel import kernel
from onelayer.parts import Stopped, count_threads, in_parts, parts_of
from onelayer.processes import ALONE, Processes, largest, summed
from onelayer.training.converging.memory import Memory

WORK = 128  # multiplications that take as long as the probability of a score
BLOCK_NUMBERS = 2**17  # of scores that are looked at together, which a core's own cache holds
MANY_CLASSES = 400  # from which the Hessian of the bias takes long
MOST_STEPS, LONGEST_STEP = 100, 2.0  # of the bias; longer Newton steps are not to be trusted
SMALLEST_STEP = {np.dtype(np.float32): 2e-6, np.dtype(np.float64): 1e-11}  # shorter steps of the bias follow rounding


@dataclass(frozen=True, eq=False)
class Fit:
    """A loss at given scores, with the best bias.

    Parameters
    ----------
    b : ndarray (K,), float64
    loss : float
        In nats.
    G : ndarray (K, n)
        Derivative of the loss with respect to the scores, in their type.
    """

    b: np.ndarray
    loss: float
    G: np.ndarray


class ScoreLoss(ABC):
    """A loss of scores.

    Parameters
    ----------
    labels : ndarray (n,), int64
        Values 0..K-1; for softmax, every class has a row.
    weights : ndarray (n,), float64
        They add up to 1.
    K : int
    compiled : bool
        Take the probabilities of float32 scores in the compiled kernel.
    threads : int
        As for `Rows`.
    processes : Processes
        Those among which the n rows are divided: means and sums are those of all, and scores are of these rows.
    """

    _name: ClassVar[str]  # of the loss in the kernel

    def __init__(
        self,
        labels: np.ndarray,
        weights: np.ndarray,
        K: int,
        compiled: bool = False,
        threads: int = 0,
        processes: Processes = ALONE,
    ) -> None:
        self._labels, self._weights, self.K = labels, weights, K
        self.compiled, self.threads, self.processes = compiled, threads, processes
        self.shares = summed(processes, np.bincount(labels, weights, K))[0]  # pi
        self._memory = Memory()  # of probabilities
        self.hessian: np.ndarray | None = None  # of a bias that was looked for, and good enough for the next ones

    @property
    @abstractmethod
    def start(self) -> np.ndarray:
        """The best bias (K,) where all scores are 0."""

    @abstractmethod
    def curvature(self, S: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the weighted mean (K, K) of the Hessians of the rows with respect to their scores."""

    @abstractmethod
    def curvatures(self, S: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        """Return (a, c), (K, n) each: the Hessian of row i, times its weight, is diag(a_i) - c_i c_i^T."""

    @abstractmethod
    def _margins(self, Z: np.ndarray, own: np.ndarray) -> np.ndarray:
        """Return by how much logits (n,) of the labels, and Z (K, n) of the others, -inf for the labels, are right."""

    @abstractmethod
    def _block(self, Z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Turn logits Z (K, k) into probabilities, in place or not; return them and the losses (k,) of the rows."""

    @abstractmethod
    def _scaling_step(self, p: np.ndarray) -> np.ndarray:
        """Return a step of the bias (K,) that never makes it worse."""

    @abstractmethod
    def _newton_step(self, M: np.ndarray, residual: np.ndarray) -> np.ndarray:
        """Return the step of the bias (K,) that would be right if the loss were quadratic.

        `M` is its Hessian (K, K), times `_terms`, or the diagonal (K,) of that.
        """

    @property
    @abstractmethod
    def _terms(self) -> int:
        """The number of terms whose mean the loss of a row is."""

    def probabilities(self, S: np.ndarray, b: np.ndarray) -> tuple[float, np.ndarray, np.ndarray]:
        """Return the loss, the probabilities P (K, n), and their means p (K,)."""
        K, n = S.shape
        P, p, loss = self._memory.empty(S.shape, S.dtype), np.zeros(K), 0.0
        of_part = self._compiled_part if self.compiled and S.dtype == np.float32 else self._part

        def work(part: slice, stopped: Stopped) -> tuple[float, np.ndarray]:
            return of_part(S[:, part], b, self._labels[part], self._weights[part], P[:, part], stopped)

        parts = parts_of(n, n * K * WORK) if n else []
        for losses, means in in_parts(work, parts, count_threads(self.threads)):
            loss += losses
            p += means
        total, means = summed(self.processes, loss, p)
        return float(total), P, means

    def _part(
        self, S: np.ndarray, b: np.ndarray, y: np.ndarray, w: np.ndarray, P: np.ndarray, stopped: Stopped
    ) -> tuple[float, np.ndarray]:
        """Write the probabilities of some columns; return their share of the loss, and of the means."""
        p, loss = np.zeros(len(S)), 0.0
        b = b.astype(S.dtype)[:, None]
        step = max(1, BLOCK_NUMBERS // len(S))
        for start in range(0, len(y), step):
            if stopped and stopped():
                raise InterruptedError
            block = slice(start, start + step)
            P[:, block], losses = self._block(S[:, block] + b, y[block])
            p += P[:, block] @ w[block]
            loss += float(losses @ w[block])
        return loss, p

    def _compiled_part(
        self, S: np.ndarray, b: np.ndarray, y: np.ndarray, w: np.ndarray, P: np.ndarray, stopped: Stopped
    ) -> tuple[float, np.ndarray]:
        p = np.empty(len(S))
        return kernel.probabilities(S, b, y, w, self._name, P, p, stopped) / self._terms, p

    def fit(self, S: np.ndarray, b: np.ndarray, enough: float = 0.0) -> Fit:
        """Return the loss with the best bias, which is looked for from b on, until it is this close to the lowest."""
        loss, P, p = self.probabilities(S, b)
        rough = self.K >= MANY_CLASSES  # the diagonal of the Hessian may do, and is quick to take
        M, fresh = None if rough else self.hessian, False  # whether M is that of this bias
        for _ in range(MOST_STEPS):
            residual = self.shares - p
            if (np.abs(residual) <= np.finfo(S.dtype).eps * self.shares).all():
                break
            if M is None:
                M, fresh = (self._diagonal(P, p), False) if rough else (self._mean_hessian(P, p), True)
            step = self.processes.broadcast(self._newton_step(M, residual))
            longest = np.abs(step).max()
            if longest <= SMALLEST_STEP[S.dtype] or (longest <= LONGEST_STEP and abs(residual @ step) / 2 <= enough):
                break
            if longest <= LONGEST_STEP:
                then = self.probabilities(S, b + step)
                rate = np.abs(self.shares - then[2]).max() / np.abs(residual).max()
                if rate <= (0.9 if fresh else 0.5 if rough else 0.25):
                    b, (loss, P, p), fresh = b + step, then, False
                    continue
            M, rough = None, False
            if fresh:  # even the Hessian at this very bias misleads
                step, fresh = self.processes.broadcast(self._scaling_step(p)), False
                b, (loss, P, p) = b + step, self.probabilities(S, b + step)
                if np.abs(step).max() <= SMALLEST_STEP[S.dtype]:
                    break
        self.hessian = None if rough else M
        return self._fit(S, b, loss, P)

    def separates(self, S: np.ndarray, b: np.ndarray) -> bool:
        """Return whether all answers are right, each by more than the rounding of the scores."""
        Z, places = S + b.astype(S.dtype)[:, None], (self._labels, np.arange(len(self._labels)))
        own = Z[places]
        Z[places] = -np.inf
        least = -largest(self.processes, -float(self._margins(Z, own).min(initial=np.inf)))
        return bool(least > np.finfo(S.dtype).eps ** 0.5 * largest(self.processes, float(np.abs(S).max(initial=0))))

    def at(self, S: np.ndarray, b: np.ndarray) -> Fit:
        """Return the loss with this bias."""
        loss, P, _ = self.probabilities(S, b)
        return self._fit(S, b, loss, P)

    def _fit(self, S: np.ndarray, b: np.ndarray, loss: float, P: np.ndarray) -> Fit:
        places = self._labels, np.arange(len(self._labels))
        P[places] = 0
        P[places] = -self._doubt(P, S[places] + b.astype(S.dtype)[self._labels])
        P *= (self._weights / self._terms).astype(P.dtype)
        return Fit(b, loss, P)

    @abstractmethod
    def _doubt(self, others: np.ndarray, logits: np.ndarray) -> np.ndarray:
        """Return 1 - p (n,) for the labels; close to p = 1, the difference itself has no digits left.

        Parameters
        ----------
        others : ndarray (K, n)
            Probabilities, with 0 for the labels.
        logits : ndarray (n,)
            Those of the labels.
        """

    def _diagonal(self, P: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Return the diagonal (K,) of `_mean_hessian`."""
        diagonal: np.ndarray = p - self.processes.sum(np.array([np.square(row) @ self._weights for row in P]))
        return diagonal

    @abstractmethod
    def _mean_hessian(self, P: np.ndarray, p: np.ndarray) -> np.ndarray:
        """Return the Hessian of the loss with respect to the bias (K, K), times `_terms`."""


class Softmax(ScoreLoss):
    """Classes exclude each other: the loss is the logarithm of the sum of exp S, less the score of the label."""

    _name = "softmax"
    _terms = 1

    @property
    def start(self) -> np.ndarray:
        b: np.ndarray = np.log(self.shares)
        return b - b.mean()

    def _margins(self, Z: np.ndarray, own: np.ndarray) -> np.ndarray:
        margins: np.ndarray = own - Z.max(axis=0)
        return margins

    def _block(self, Z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        Z -= Z.max(axis=0)
        places = y, np.arange(len(y))
        right = Z[places].astype(np.float64)
        np.exp(Z, out=Z)
        own = Z[places]
        Z[places] = 0
        others = Z.sum(axis=0)  # by themselves: beside the 1 of a label that is likely, small ones would have no digits
        Z[places] = own
        Z /= others + own
        return Z, np.log1p(others + (own - 1), dtype=np.float64) - right

    def _doubt(self, others: np.ndarray, logits: np.ndarray) -> np.ndarray:
        doubt: np.ndarray = others.sum(axis=0)
        return doubt

    def curvature(self, S: np.ndarray, b: np.ndarray) -> np.ndarray:
        _, P, p = self.probabilities(S, b)
        return self._mean_hessian(P, p)

    def curvatures(self, S: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        _, P, _ = self.probabilities(S, b)
        return P * self._weights, P * np.sqrt(self._weights)

    def steepness(self, S: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the diagonals (K, n) of the Hessians of the rows with respect to their scores, times the weights.

        Where the label is less likely than all others together, its own entry is the curvature of a parabola that lies
        on the loss and nowhere below it. The Hessian vanishes there, and a step by it would be far too long.
        """
        _, P, _ = self.probabilities(S, b)
        places = self._labels, np.arange(len(self._labels))
        p = P[places].astype(np.float64)
        for of_class in P:
            of_class *= 1 - of_class
        x = np.maximum(np.log1p(-np.minimum(p, 0.5)) - np.log(np.maximum(p, 1e-300)), 1e-3)  # minus the logit of p
        P[places] = np.where(p < 0.5, np.tanh(x / 2) / (2 * x), P[places])
        P *= self._weights.astype(P.dtype)
        return P

    def _mean_hessian(self, P: np.ndarray, p: np.ndarray) -> np.ndarray:
        root = P * np.sqrt(self._weights).astype(P.dtype)
        return np.diag(p) - self.processes.sum((root @ root.T).astype(np.float64))

    def _newton_step(self, M: np.ndarray, residual: np.ndarray) -> np.ndarray:
        if M.ndim == 1:
            step: np.ndarray = residual / np.maximum(M, 1e-14)
            return step - step.mean()
        K = self.K
        try:
            return np.linalg.solve(M + 1 / K + 1e-14 * np.eye(K), residual)
        except np.linalg.LinAlgError:
            return np.full(K, np.inf)

    def _scaling_step(self, p: np.ndarray) -> np.ndarray:
        step = np.log(self.shares) - np.log(np.maximum(p, 1e-300))
        return np.clip(step, -20, 20)


class Sigmoids(ScoreLoss):
    """Every class is a question of its own, with a bias of its own; the loss is the mean over the classes."""

    _name = "sigmoid"

    def __init__(
        self,
        labels: np.ndarray,
        weights: np.ndarray,
        K: int,
        compiled: bool = False,
        threads: int = 0,
        processes: Processes = ALONE,
        *,
        terms: int,
    ) -> None:
        super().__init__(labels, weights, K, compiled, threads, processes)
        self._number = terms

    @property
    def _terms(self) -> int:
        return self._number

    @property
    def start(self) -> np.ndarray:
        up, down = np.cumsum(self.shares), np.cumsum(self.shares[::-1])[::-1]
        others = np.append(0, up[:-1]) + np.append(down[1:], 0)  # 1 minus a share may be 0, or below
        return np.log(self.shares) - np.log(others)

    def _margins(self, Z: np.ndarray, own: np.ndarray) -> np.ndarray:
        return np.minimum(own, -Z.max(axis=0))

    def _block(self, Z: np.ndarray, y: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        places = np.arange(len(y))
        E = np.exp(-np.abs(Z))
        losses = np.maximum(Z, 0).sum(axis=0, dtype=np.float64) - Z[y, places]
        losses += np.log1p(E).sum(axis=0, dtype=np.float64)  # by themselves: large logits would take their digits
        return np.where(Z >= 0, 1, E) / (1 + E), losses / self._number

    def _doubt(self, others: np.ndarray, logits: np.ndarray) -> np.ndarray:
        E = np.exp(-np.abs(logits))
        doubt: np.ndarray = np.where(logits >= 0, E, 1) / (1 + E)
        return doubt

    def curvature(self, S: np.ndarray, b: np.ndarray) -> np.ndarray:
        _, P, p = self.probabilities(S, b)
        return self._mean_hessian(P, p) / self._number

    def curvatures(self, S: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray | None]:
        _, P, _ = self.probabilities(S, b)
        return P * (1 - P) * (self._weights / self._number), None

    def _mean_hessian(self, P: np.ndarray, p: np.ndarray) -> np.ndarray:
        return np.diag(self.processes.sum((P * (1 - P)) @ self._weights))

    def _newton_step(self, M: np.ndarray, residual: np.ndarray) -> np.ndarray:
        return residual / np.maximum(M if M.ndim == 1 else np.diag(M), 1e-14)

    def _scaling_step(self, p: np.ndarray) -> np.ndarray:
        p = np.clip(p, 1e-300, 1 - 1e-16)
        step = self.start - (np.log(p) - np.log1p(-p))
        return np.where(np.minimum(p, self.shares) < 1 - 1e-15, np.clip(step, -20, 20), 0)  # both may round to 1
