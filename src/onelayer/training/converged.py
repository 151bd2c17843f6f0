"""The converged solver: it goes to the optimum, which a convex cost has, and says how far from it the layer is.

L-BFGS on the templates T (K, d), the transposed weights, in the basis of a preconditioner, one pass over the rows an
iteration: a product T X^T for the direction, and a product G X for the gradient. The bias is solved out: J(T) is the
cost with the best bias for T. It is convex too, and its gradient is that of the cost at this bias. The scores T X^T
stay in memory, n K numbers, so that neither the line search nor the bias reads rows.

**The gap.** With the best bias, the cost minus ||dJ/dW||^2 / (4 lambda) is a lower bound of the optimum, for softmax
and for sigmoids. The gradient brings an estimate of the gap with it: the products have their rounding.
"""

from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import cast

import numpy as np

from onelayer.blas import one_blas_thread
from onelayer.layer import SoftmaxLayer
from onelayer.losses import Array, Loss
from onelayer.processes import largest, summed
from onelayer.training.converging.losses import Fit, ScoreLoss, Sigmoids, Softmax
from onelayer.training.converging.newton import is_small, newton_direction
from onelayer.training.converging.preconditioner import ByClass, Eigen, Preconditioner, choose_preconditioner
from onelayer.training.converging.rows import Rows
from onelayer.words import counted

PAIRS, PAIR_BYTES = 10, 2**29  # of L-BFGS: how many, and their memory
RESCORED = 10  # iterations after which the scores are computed anew, as those that are added up gather rounding
CARRIED = 0.8  # of the last step along a path, that is taken again before the next lambda
TRIALS = 12  # of the length of a step
FURTHEST = 20.0  # by which a step changes a score at first: with many classes, Newton's first one would saturate all
FLATTENED = 0.2, 0.1  # the slope at its end, as a share of that at its beginning; with Newton's method
BIAS = 1e-3, 1e-2  # what the bias may leave: of what a step lowers the cost by, and of the gap that was asked for
LAST = 3.0  # times the gap that was asked for: a step that lowers the cost by less is perhaps the last one
SCALES = 0.2, 2.0  # of the preconditioner
STALLED = 6  # iterations in which the cost fell by less than its rounding
SEPARATED = 1e-4  # nats: without a penalty, the loss below which a layer that is right on every row ends the search
OUT = 40.0  # what the logit of a class without rows lies below all others


@dataclass(frozen=True, eq=False)
class Iterate:
    """All that the solver needs to go on: with it, it ends with the same bits as if it had not been interrupted.

    Without `S` it does so at every `RESCORED`-th iteration only, where the scores are computed anew anyway.

    Parameters
    ----------
    T : ndarray (K', d'), float64
        Templates of the classes that have rows, in the coordinates of `Rows`.
    b : ndarray (K',), float64
    S : ndarray (K', n) or None
        Scores without the bias.
    iteration : int
    passes : float
        Passes over the rows: the products T X^T and G X are half a pass each.
    loss, cost, gap : float
        In nats; the gap is an estimate, and infinite where lambda is 0.
    gradient_norm : float
        That of dJ/dW.
    steps, changes : sequence of m ndarrays (K', d'), float64
        The last steps of T, and what the gradient changed by, for L-BFGS.
    M, hessian : ndarray (K', K')
        Those of the preconditioner and of the bias.
    promise : float
        Half of the slope along the last step, times its length: about what the cost fell by.
    scale : float
        Of the inverse of the preconditioner: the product of the lengths of all steps. Where the steps turn out
        shorter than the preconditioner says, those to come are.
    stalled : int
        The number of last iterations in which the cost fell by less than its rounding.
    ended : str
        The reason why the iteration ended; empty if it did not.
    reached : bool
        True if the gap is at most what was asked for.
    """

    T: np.ndarray
    b: np.ndarray
    S: Array = None
    iteration: int = 0
    passes: float = 0.0
    loss: float = np.nan
    cost: float = np.nan
    gap: float = np.inf
    gradient_norm: float = np.inf
    steps: Sequence[np.ndarray] = ()
    changes: Sequence[np.ndarray] = ()
    M: Array = None
    hessian: np.ndarray | None = None
    promise: float = np.inf
    scale: float = 1.0
    stalled: int = 0
    ended: str = ""
    reached: bool = False


class Convergence:
    """The optimum of a problem, or of several that differ in lambda.

    Parameters
    ----------
    rows : Rows
    loss : Loss
    smallest_l2 : float
        The smallest lambda to come, by which the preconditioner is chosen.
    """

    def __init__(self, rows: Rows, loss: Loss, smallest_l2: float) -> None:
        self.rows, self._loss, self._smallest_l2 = rows, loss, smallest_l2
        shares = rows.shares
        seen = (shares > 0) & (rows.counts < rows.total)
        self.classes = np.flatnonzero(seen)  # (K',), those that have templates; a class with all rows needs none
        labels = np.maximum(np.cumsum(seen) - 1, 0)[rows.labels]  # without such classes, nobody looks at them
        K, how = len(self.classes), (rows.compiled, rows.threads, rows.processes)
        self._of_scores: ScoreLoss = (
            Softmax(labels, rows.weights, K, *how)
            if loss.exclusive
            else Sigmoids(labels, rows.weights, K, *how, terms=rows.K)
        )
        self._certain = shares > 0
        self._chosen: Preconditioner | ByClass | None = None

    def _preconditioner(self) -> Preconditioner | ByClass:
        if self._chosen is None:
            how = len(self.classes), self._smallest_l2, self._loss.exclusive
            self._chosen = choose_preconditioner(self.rows, *how)
        return self._chosen

    def initial(self) -> Iterate:
        """Return the layer that knows the shares of the classes only."""
        K = len(self.classes)
        T, S = np.zeros((K, self.rows.d)), np.zeros((K, self.rows.n), self.rows.dtype)
        return Iterate(T, self._of_scores.start if K else np.zeros(0), S)

    def layer(self, at: Iterate) -> SoftmaxLayer:
        """Return the layer for whole rows and all classes, in float64."""
        T = np.zeros((self.rows.K, self.rows.d))
        T[self.classes] = at.T
        b = np.where(self._certain, OUT, -OUT)
        if 0 < len(self.classes) < self.rows.K and self._loss.exclusive:
            S = self.rows.scores(at.T) if at.S is None else at.S
            least = float((S + at.b[:, None].astype(S.dtype)).max(axis=0).min(initial=np.inf))
            b[:] = -largest(self.rows.processes, -least) - OUT
        b[self.classes] = at.b
        return SoftmaxLayer(self.rows.unfold(T).T, b, self._loss)

    def iterates(
        self,
        l2: float,
        start: Iterate | None = None,
        *,
        tol: float = 1e-4,
        max_passes: float = 1000,
        cancelled: Callable[[], bool] = bool,
    ) -> Iterator[Iterate]:
        """Iterate, and yield the state after each iteration; the last one says why it ended.

        Parameters
        ----------
        l2 : float
            lambda, at least 0.
        start : Iterate, optional
            Goes on after this one. By default, from `initial`.
        tol : float
            The largest gap, as a share of the bound.
        max_passes : float
            Passes over the rows after which it ends in any case.
        cancelled : callable
            Asked in each iteration; true ends it.

        Raises
        ------
        InterruptedError
            If it was cancelled.
        """
        at = start or self.initial()
        if at.ended:
            return
        if not len(self.classes):
            yield replace(at, loss=0.0, cost=0.0, gap=0.0, gradient_norm=0.0, ended=SURE, reached=True)
            return
        descent = _Descent(self.rows, self._of_scores, self._preconditioner, l2, tol)
        with one_blas_thread():
            at = descent.begin(at)
        if ended := self._why_ended(at, l2, tol, max_passes):
            yield replace(at, ended=ended, reached=ended == REACHED)
            return
        while not at.ended:
            if cancelled():
                raise InterruptedError
            with one_blas_thread():
                at = descent.step(at)
            ended = self._why_ended(at, l2, tol, max_passes)
            at = replace(at, ended=ended, reached=ended == REACHED)
            yield at

    def _why_ended(self, at: Iterate, l2: float, tol: float, max_passes: float) -> str:
        if _reached(at, l2, tol):
            return REACHED
        if l2 == 0 and at.iteration and at.promise <= tol * at.cost:
            return FLAT
        if l2 == 0 and at.loss <= SEPARATED and self._of_scores.separates(at.S, at.b):
            return SEPARABLE
        if at.stalled >= STALLED:
            return ROUNDING
        step = 1.5 if (at.iteration + 1) % RESCORED == 0 else 1.0
        return PASSED.format(counted(int(max_passes), "pass")) if at.passes + step > max_passes else ""

    def path(
        self,
        l2s: Sequence[float],
        *,
        tol: float = 1e-4,
        max_passes: float = 1000,
        cancelled: Callable[[], bool] = bool,
        on_iterate: Callable[[Iterate], None] | None = None,
    ) -> Iterator[Iterate]:
        """Yield the last state for each lambda, in this order, from large to small; each starts from those before.

        `on_iterate` is called after each iteration.
        """
        before = last = None
        since = 0  # iterations that added to the scores
        for was, l2 in zip((0.0, *l2s), l2s, strict=False):
            start = self._carried(before, last, was, l2) if last else None
            if start and since >= RESCORED:
                start, since = replace(start, S=None), 0
            for at in self.iterates(l2, start, tol=tol, max_passes=max_passes, cancelled=cancelled):
                reached = at
                if on_iterate:
                    on_iterate(at)
            before, last = last, reached
            since = last.iteration % RESCORED + (since if last.iteration < RESCORED else 0)
            yield last

    def _carried(self, before: Iterate | None, last: Iterate, was: float, l2: float) -> Iterate:
        """Return the state to start from: the last one, of another lambda, or further on where that is better."""
        changes = [y + 2 * (l2 - was) * s for s, y in zip(last.steps, last.changes, strict=True)]  # the penalty's too
        here = Iterate(
            last.T, last.b, last.S, steps=last.steps, changes=changes, hessian=last.hessian, scale=last.scale
        )
        if before is None or before.S is None or last.S is None or not len(self.classes):
            return here
        T, b = (a + CARRIED * (a - c) for a, c in ((last.T, before.T), (last.b, before.b)))
        S = last.S - before.S
        S *= S.dtype.type(CARRIED)
        S += last.S
        fit = self._of_scores.fit(S, b)
        gain = last.loss + l2 * _square(last.T) - (fit.loss + l2 * _square(T))
        better = self.rows.processes.broadcast(np.array(gain))[()] > 0  # rank 0 decides
        return replace(here, T=T, b=fit.b, S=S) if better else here


REACHED = "the gap is as small as was asked for"
SURE = "one class has all rows, so there is nothing to learn"
PASSED = "the gap was not reached in {} over the rows; allow more passes or a larger gap"
ROUNDING = "the gap was not reached, as rounding hides smaller ones; allow a larger gap"
SEPARABLE = "the classes are separable: there is no optimum without a penalty"
FLAT = "the next step would change the cost by less than was asked for; without a penalty there is no bound"


def _reached(at: Iterate, l2: float, tol: float) -> bool:
    return l2 > 0 and at.gap <= tol * (at.cost - at.gap)


class _Descent:
    """Takes the iterations for one lambda."""

    def __init__(
        self,
        rows: Rows,
        loss: ScoreLoss,
        preconditioner: Callable[[], Preconditioner | ByClass],
        l2: float,
        tol: float,
    ) -> None:
        self._rows, self._loss, self._preconditioner, self._l2, self._tol = rows, loss, preconditioner, l2, tol
        self._small = is_small(rows, loss.K)

    def begin(self, at: Iterate) -> Iterate:
        """Return a state with scores, cost and gap, and take its gradient."""
        S = self._rows.scores(at.T) if at.S is None else at.S
        self._loss.hessian = at.hessian
        self._M = None if at.M is None else Eigen.of(at.M)
        resumed = at.iteration > 0
        fit = self._loss.at(S, at.b) if resumed else self._loss.fit(S, at.b)
        self._pairs: deque[tuple[np.ndarray, np.ndarray]] = deque()
        self._most = max(2, min(PAIRS, PAIR_BYTES // (16 * max(at.T.size, 1))))
        for pair in zip(at.steps, at.changes, strict=True):
            self._remember(*pair)
        self._gradient = self._gradient_of(at.T, fit)
        if resumed:
            return replace(at, S=S)
        product = 0.5 if at.S is None and at.T.any() else 0.0  # the scores of zeros need none
        return self._state(replace(at, S=S, passes=at.passes + product + 0.5), fit)

    def step(self, at: Iterate) -> Iterate:
        """Return the state after the next iteration."""
        of_means = not self._small and not isinstance(self._preconditioner(), ByClass)
        if of_means and (self._M is None or at.iteration & (at.iteration - 1) == 0):
            at = replace(at, M=self._loss.curvature(at.S, at.b))
            self._M = Eigen.of(at.M)
        D = self._of_first(self._direction(at))
        D[:, ~self._rows.varies] = 0  # rounding cannot give a constant feature a weight
        S_D = self._rows.scores(D)
        slope = float(self._of_first(np.vdot(self._gradient, D)))
        alpha, S, fit = self._search(at, D, S_D, slope)
        promise = -alpha * slope / 2
        T, passes = at.T + alpha * D, at.passes + 1
        if (at.iteration + 1) % RESCORED == 0:
            S, passes = self._rows.scores(T), passes + 0.5
            fit = self._loss.fit(S, fit.b, self._enough(at, promise))
        if settled := promise <= LAST * self._tol * at.cost:
            fit = self._settled(S, fit.b, at.cost)
        before, self._gradient = self._gradient, self._gradient_of(T, fit)
        self._remember(T - at.T, self._gradient - before)
        scale = float(np.clip(at.scale * alpha, *SCALES))
        at = replace(at, T=T, S=S, iteration=at.iteration + 1, passes=passes, promise=promise, scale=scale)
        at = self._state(at, fit)
        if settled or self._small or not _reached(at, self._l2, self._tol):
            return at
        fit = self._settled(S, at.b, at.cost)
        self._gradient = self._gradient_of(T, fit)
        return replace(self._state(replace(at, passes=passes + 0.5), fit), stalled=at.stalled)

    def _enough(self, at: Iterate, promise: float) -> float:
        """Return what the bias may leave of a step that promises this much; Newton's steps are too good for that."""
        return 0.0 if self._small else min(BIAS[0] * promise, BIAS[1] * self._tol * at.cost)

    def _settled(self, S: np.ndarray, b: np.ndarray, cost: float) -> Fit:
        """Return a fit that is good enough for a bound: the error of the bias costs it the root of what it costs J."""
        share = BIAS[1] * self._tol * cost  # that may be missing in the mean probability of a class
        return self._loss.fit(S, b, 0.0 if self._small else share**2 * self._loss.shares.min() / 2)

    def _state(self, at: Iterate, fit: Fit) -> Iterate:
        cost = fit.loss + self._l2 * _square(at.T)
        cost, squared = map(float, self._of_first(np.array([cost, _square(self._gradient)])))
        precision = np.finfo(self._rows.dtype).eps / 16
        return replace(
            at,
            b=fit.b,
            loss=fit.loss,
            cost=cost,
            gap=squared / (4 * self._l2) if self._l2 else np.inf,
            gradient_norm=squared**0.5,
            steps=[step for step, _ in self._pairs],
            changes=[change for _, change in self._pairs],
            hessian=self._loss.hessian,
            stalled=at.stalled + 1 if at.iteration and not at.cost - cost > precision * abs(cost) else 0,
        )

    def _of_first(self, numbers: np.ndarray) -> np.ndarray:
        """Return the numbers of rank 0, which decides."""
        return self._rows.processes.broadcast(np.asarray(numbers, np.float64))

    def _gradient_of(self, T: np.ndarray, fit: Fit) -> np.ndarray:
        return self._rows.gradient(fit.G) + 2 * self._l2 * T

    def _direction(self, at: Iterate) -> np.ndarray:
        """Return where to go from a state, (K, d): Newton's direction, or that of L-BFGS."""
        if self._small:
            D = newton_direction(self._rows, self._loss, at.S, at.b, self._gradient, self._l2)
            if np.isfinite(D).all() and np.vdot(D, self._gradient) < 0:
                return D
            return -self._gradient
        q, coefficients = self._gradient.copy(), []
        for s, y in reversed(self._pairs):
            a = float(np.vdot(s, q) / np.vdot(s, y))
            q -= a * y
            coefficients.append(a)
        q = at.scale * self._preconditioned(q, at)
        for (s, y), a in zip(self._pairs, reversed(coefficients), strict=True):
            q += (a - float(np.vdot(y, q) / np.vdot(s, y))) * s
        return -q

    def _preconditioned(self, A: np.ndarray, at: Iterate) -> np.ndarray:
        preconditioner = self._preconditioner()
        if isinstance(preconditioner, ByClass):
            of_scores = cast(Softmax, self._loss)  # for no other loss it is chosen
            return preconditioner.solve(A, of_scores.steepness(at.S, at.b), self._l2)
        return preconditioner.solve(A, self._M or Eigen.of(at.M), self._l2)

    def _remember(self, step: np.ndarray, change: np.ndarray) -> None:
        if (
            self._small
            or not np.vdot(step, change) > 1e-12 * np.vdot(step, step) ** 0.5 * np.vdot(change, change) ** 0.5
        ):
            return
        self._pairs.append((step, change))
        if len(self._pairs) > self._most:
            self._pairs.popleft()

    def _search(self, at: Iterate, D: np.ndarray, S_D: np.ndarray, first: float) -> tuple[float, np.ndarray, Fit]:
        """Return a length of the step where the cost, which is convex, hardly changes any more; and what is there.

        `first` is the slope at the beginning.
        """
        linear, square = 2 * self._l2 * float(np.vdot(at.T, D)), 2 * self._l2 * _square(D)
        low, low_slope, high, high_slope = 0.0, first, np.inf, np.inf
        furthest = largest(self._rows.processes, max(float(S_D.max(initial=0)), -float(S_D.min(initial=0))))
        alpha, b = min(1.0, FURTHEST / furthest) if furthest else 1.0, at.b
        S = self._rows.memory.empty(S_D.shape, S_D.dtype)
        for trial in range(1, TRIALS + 1):
            S = np.multiply(S_D, S_D.dtype.type(alpha), out=S)
            S += at.S
            fit = self._loss.fit(S, b, self._enough(at, -alpha * first / 2))
            slope = float(summed(self._rows.processes, float(np.vdot(fit.G, S_D)))[0]) + linear + alpha * square
            slope = float(self._of_first(np.array(slope)))
            if abs(slope) <= FLATTENED[self._small] * abs(first) or trial == TRIALS:
                break
            b = fit.b
            if slope < 0:
                low, low_slope = alpha, slope
            else:
                high, high_slope = alpha, slope
            if high == np.inf:
                alpha *= 4 if low_slope == first else min(4, max(1.5, first / (first - low_slope)))
            else:
                width = high - low
                alpha = low + width * min(0.9, max(0.1, -low_slope / (high_slope - low_slope)))
        return alpha, S, fit


def _square(A: np.ndarray) -> float:
    return float(np.vdot(A, A))
