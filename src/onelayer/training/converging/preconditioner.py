"""The preconditioner of the converged solver: an approximation of the Hessian that is quick to invert.

The Hessian of the loss with respect to the templates is the mean of m_i (x) x_i x_i^T over the rows, with m_i (K, K)
the Hessian with respect to the scores of row i. It is approximated by the product of the two means::

    B = M (x) C + 2 lambda I        M = mean m_i (K, K),  C = X^T X / n (d, d)

With M = U diag(mu) U^T and C = V diag(c) V^T, B is diagonal in the basis U (x) V. C does not change while a layer is
trained, nor with lambda, so it is decomposed once; M is cheap.

- Up to `EXACT_COLUMNS` features, C is exact.
- For wider rows and a large penalty, C is that of a sketch: of 600 to 1,000 rows, spread over all. It has the
  upper half of their directions, and the mean of the rest of the trace in all others. It comes from the products of the
  rows with each other, so that no (d, d) matrix is built. A small set is its own sketch, and all of it is kept.
- For wider rows and a small penalty, where more directions count, C is that of a few more rows than there are features.
  An eigenvalue decomposition would take far longer than one Cholesky factor, which takes M by its mean eigenvalue.

With many classes of few rows each, the product of means is far from the mean of products: a class has curvature along
its own rows, and next to none along others. `ByClass` keeps the rows that count most for each class one by one.
"""

from dataclasses import dataclass
from typing import Protocol

import numpy as np

from onelayer.processes import assembled
from onelayer.training.converging.rows import Rows

EXACT_COLUMNS, SKETCH_ROWS, SKETCH_NUMBERS = 1000, 1000, 2**25
FEWEST_SKETCHED, SKETCHED_PART = 600, 0.02  # of larger sets; a larger sketch may take longer than the passes it saves
MOST_COLUMNS, FACTOR_ROWS, SHRINKAGE = 6000, 1.3, 0.01  # a sample's least eigenvalues are too small: the diagonal grows
RATIOS = 10  # between the ridges of Cholesky factors: a factor for all lambdas in between is near enough
PANEL = 256  # columns of a Cholesky factor that are made together
SKETCHED = 0.5  # 2 lambda K from which a sketch does
MANY_CLASSES, FEW_ROWS = 100, 64  # least classes, and most rows of one, for `ByClass`
LEAST_NUMBERS, MOST_NUMBERS = 2**20, 2**26  # of all rows, which it rotates; for fewer, its loop takes too long
FLOOR = 1e-7  # of the curvature, as a share of the largest: without a penalty B would be singular


@dataclass(frozen=True, eq=False)
class Eigen:
    """M by its eigenvalues, in ascending order: M = U diag(mu) U^T."""

    mu: np.ndarray
    U: np.ndarray

    @classmethod
    def of(cls, M: np.ndarray) -> "Eigen":
        """Return the eigenvalues (K,), those below 0 by rounding as 0, and the eigenvectors (K, K)."""
        mu, U = np.linalg.eigh(M)
        return cls(np.maximum(mu, 0), U)


class Preconditioner(Protocol):
    """Divides by B."""

    def solve(self, A: np.ndarray, M: Eigen, l2: float) -> np.ndarray:
        """Return B^-1 A (K, d) for A (K, d)."""


@dataclass(frozen=True, eq=False)
class Spectrum:
    """C by its eigenvalues.

    Parameters
    ----------
    V : ndarray (r, d), float32
        Rows are orthonormal eigenvectors.
    c : ndarray (r,), float64
        Their eigenvalues.
    tail : float
        The eigenvalue in all other directions.
    """

    V: np.ndarray
    c: np.ndarray
    tail: float

    @classmethod
    def of(cls, rows: Rows) -> "Spectrum":
        """Return that of all rows, or of a sketch."""
        if rows.d <= min(rows.total, EXACT_COLUMNS):
            return cls.exact(rows)
        wanted = rows.total if rows.total <= SKETCH_ROWS else max(FEWEST_SKETCHED, int(SKETCHED_PART * rows.total))
        return cls._sketch(rows, max(1, min(wanted, SKETCH_ROWS, SKETCH_NUMBERS // rows.d)))

    @classmethod
    def exact(cls, rows: Rows) -> "Spectrum":
        c, V = np.linalg.eigh(second_moments(rows, np.arange(rows.n), rows.total))
        return cls(np.ascontiguousarray(V.T), np.maximum(c, 0).astype(np.float64), 0.0)

    @classmethod
    def _sketch(cls, rows: Rows, count: int) -> "Spectrum":
        numbers, places = rows.spread(count)
        Z = assembled(rows.processes, rows.standardised(places), numbers, count)
        c, V = np.linalg.eigh(Z @ Z.T / count)
        trace, whole = max(float(c.sum()), 0.0), count == rows.total
        kept = c > max(c[-1], 0) * 1e-6
        if not whole:
            kept &= np.arange(count) >= count // 2  # the least eigenvalues of a sample are much too small
        c, V = c[kept].astype(np.float64), (V[:, kept] / np.sqrt(c[kept] * count)).T @ Z
        return cls(V, c, 0.0 if whole else max(trace - c.sum(), 0.0) / max(rows.d - len(c), 1))

    def solve(self, A: np.ndarray, M: Eigen, l2: float) -> np.ndarray:
        top = float(self.c.max()) if len(self.c) else 0.0
        ridge = max(2 * l2, FLOOR * M.mu[-1] * max(top, self.tail), 1e-30)
        mu = M.mu[:, None]  # (K, 1)
        A = M.U.T @ A
        # Where there are no other directions, rounding would leave some of A in them, and a small ridge enlarge it.
        rest = 1 / (mu * self.tail + ridge) if len(self.V) < self.V.shape[1] else np.zeros_like(mu)
        inside = (A.astype(self.V.dtype) @ self.V.T) * (1 / (mu * self.c + ridge) - rest)  # (K, r)
        result: np.ndarray = M.U @ (rest * A + inside.astype(self.V.dtype) @ self.V)
        return result


class Factor:
    """C of some rows as it is, and M by its mean eigenvalue c alone: one Cholesky factor of C + (2 lambda / c) I.

    The ridge is rounded to a power of `RATIOS`, so that a path of lambdas takes few factors.

    Parameters
    ----------
    C : ndarray (d, d), float32
    """

    def __init__(self, C: np.ndarray) -> None:
        self._C = C
        self._factors: dict[float, _Cholesky] = {}
        self._least = 0.0  # ridge that has a factor

    @classmethod
    def of(cls, rows: Rows) -> "Factor":
        """Return that of `FACTOR_ROWS` times as many rows as there are features, spread over all."""
        count = min(rows.total, int(FACTOR_ROWS * rows.d))
        C = second_moments(rows, rows.spread(count)[1], count)
        if count < rows.total:
            C[np.diag_indices(rows.d)] += SHRINKAGE * C.diagonal().mean()
        return cls(C)

    def solve(self, A: np.ndarray, M: Eigen, l2: float) -> np.ndarray:
        c = max(float(M.mu.sum()) / max(1, int(np.count_nonzero(M.mu > 1e-9 * M.mu[-1]))), 1e-30)
        ridge = RATIOS ** float(np.round(np.log(max(2 * l2 / c, FLOOR * len(self._C))) / np.log(RATIOS)))
        ridge = max(ridge, self._least)
        while ridge not in self._factors:
            self._factors = dict(list(self._factors.items())[-1:])  # two at most, as each is as large as C
            B = self._C.copy()
            B[np.diag_indices(len(B))] += ridge
            try:
                self._factors[ridge] = _Cholesky(B)
            except np.linalg.LinAlgError:  # the rounding of C is larger than the ridge
                if not ridge < self._C.trace():
                    raise
                ridge = self._least = RATIOS * ridge
        return self._factors[ridge].solve(A.T.astype(self._C.dtype)).T.astype(np.float64) / c


class ByClass:
    """The blocks of the Hessian of each class by itself, for many classes of few rows each.

    The block of class k is the mean of v_ki x_i x_i^T over the rows, with v (K, n) the diagonals of the Hessians of the
    rows with respect to their scores, plus 2 lambda I. The rows with the largest v of the class, about twice as many
    as it has labels, are taken one by one, and C stands for all others. In the basis of C this is a diagonal and a
    matrix of low rank, whose inverse is known (Woodbury). The bias of the class is in the block: it is solved out. So
    is the direction that changes all classes alike, in which nothing has a gradient.

    Parameters
    ----------
    rows : Rows

    Attributes
    ----------
    most : int
        Rows of each class that are taken one by one.
    """

    def __init__(self, rows: Rows) -> None:
        C = Spectrum.exact(rows)
        self._c, self._V = C.c.astype(rows.dtype), C.V
        self.most = min(rows.n, 2 * int(np.bincount(rows.labels).max()))
        self._X = np.empty((rows.n, len(C.c)), rows.dtype)  # rows in the basis of C
        for start in range(0, rows.n, rows.block_rows):
            places = np.arange(start, min(start + rows.block_rows, rows.n))
            self._X[places] = rows.standardised(places, weighted=False) @ self._V.T

    def solve(self, A: np.ndarray, v: np.ndarray, l2: float) -> np.ndarray:
        """Return B^-1 A (K, d) for A (K, d) and the diagonals v (K, n), times the weights of the rows."""
        A = (A - A.mean(axis=0)).astype(self._X.dtype) @ self._V.T
        ridge = max(2 * l2, FLOOR * float(self._c.max()) / len(A))
        Y = np.empty((self.most, len(self._c)), self._X.dtype)
        for k, of_rows in enumerate(v):
            kept = np.sort(np.argpartition(of_rows, -self.most)[-self.most :])
            whole = float(of_rows.sum(dtype=np.float64))
            rest = max(whole - float(of_rows[kept].sum(dtype=np.float64)), 1e-4 * whole, 1e-30)
            root, scale = np.sqrt(of_rows[kept]), 1 / np.sqrt(self._c * rest + ridge)  # (r,), (d,)
            np.take(self._X, kept, axis=0, out=Y, mode="clip")  # without a copy of its own
            Y *= root[:, None]
            Y *= scale
            inner = Y @ Y.T + np.outer(root, root / rest)
            inner[np.diag_indices(len(inner))] += 1
            A[k] *= scale
            A[k] -= np.linalg.solve(inner, Y @ A[k]) @ Y
            A[k] *= scale
        result: np.ndarray = ((A - A.mean(axis=0)) @ self._V).astype(np.float64)
        return result


class _Cholesky:
    """The factor L of a positive matrix B = L L^T (d, d), which is overwritten, in panels of products.

    NumPy has no triangular solve, and its factor takes three times as long. SciPy has its own copy of BLAS, whose
    threads nothing limits where it was loaded late.
    """

    def __init__(self, B: np.ndarray) -> None:
        self._L, self._inverses = B, []
        for start in range(0, len(B), PANEL):
            stop = start + PANEL
            B[start:, start:stop] -= B[start:, :start] @ B[start:stop, :start].T  # long products, one for each panel
            inverse = np.linalg.inv(np.linalg.cholesky(B[start:stop, start:stop]))
            B[stop:, start:stop] = B[stop:, start:stop] @ inverse.T
            self._inverses.append(inverse)

    def solve(self, A: np.ndarray) -> np.ndarray:
        """Return B^-1 A (d, K) for A (d, K), which is overwritten."""
        starts = range(0, len(A), PANEL)
        for start, inverse in zip(starts, self._inverses, strict=True):
            here = slice(start, start + PANEL)
            A[here] = inverse @ (A[here] - self._L[here, :start] @ A[:start])
        for start, inverse in zip(reversed(starts), reversed(self._inverses), strict=True):
            here, after = slice(start, start + PANEL), start + PANEL
            A[here] = inverse.T @ (A[here] - self._L[after:, here].T @ A[after:])
        return A


def choose_preconditioner(rows: Rows, K: int, smallest_l2: float, exclusive: bool) -> Preconditioner | ByClass:
    """Return a preconditioner for K classes, which exclude each other or not, and penalties from `smallest_l2` on."""
    enough = 2 * smallest_l2 * K >= SKETCHED  # the curvature of a direction is about its eigenvalue over K
    alone = rows.processes.size == 1  # `ByClass` looks at the rows one by one
    few = alone and K >= MANY_CLASSES and np.bincount(rows.labels).max() <= FEW_ROWS
    quick = LEAST_NUMBERS < rows.n * rows.d <= MOST_NUMBERS and rows.d <= min(rows.n, (rows.n * K) ** 0.5)
    if exclusive and few and quick and not enough:
        return ByClass(rows)
    if rows.d <= EXACT_COLUMNS or rows.d > MOST_COLUMNS or rows.total <= SKETCH_ROWS or enough:
        return Spectrum.of(rows)
    return Factor.of(rows)


def second_moments(rows: Rows, places: np.ndarray, count: int) -> np.ndarray:
    """Return C (d, d), in the type of the rows' products, of the rows at these places: `count` in all processes."""
    step = max(rows.block_rows, 1024, rows.d)  # as large as C: BLAS is slow for fewer rows
    C = np.zeros((rows.d, rows.d), rows.dtype)
    for start in range(0, len(places), step):
        Z = rows.standardised(places[start : start + step])
        C += Z.T @ Z
    C = rows.processes.sum(C)
    C /= count
    return C
