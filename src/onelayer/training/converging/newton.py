"""Newton's method for problems that are small: the Hessian of the cost itself, in templates and bias."""

import numpy as np

from onelayer.blas import one_blas_thread
from onelayer.processes import summed
from onelayer.training.converging.losses import ScoreLoss
from onelayer.training.converging.rows import Rows

MOST_NUMBERS, MOST_WORK = 700, 10**9  # of templates and bias; products for one Hessian: beyond, L-BFGS is faster
FLOOR = 1e-10  # of the diagonal, as a share of its largest: without a penalty the Hessian can be singular


def is_small(rows: Rows, K: int) -> bool:
    """Return whether the Hessian for K classes is worth its work."""
    numbers = (rows.d + 1) * K
    return numbers <= MOST_NUMBERS and rows.total * numbers**2 <= MOST_WORK


def newton_direction(
    rows: Rows, loss: ScoreLoss, S: np.ndarray, b: np.ndarray, gradient: np.ndarray, l2: float
) -> np.ndarray:
    """Return the direction (K, d) of Newton's method from the gradient (K, d), with the bias solved out."""
    K, d = gradient.shape
    size = K * (d + 1)
    H = np.zeros((size, size))
    diagonal = np.zeros((K, d + 1, d + 1))
    with one_blas_thread():
        curvature, coupling = loss.curvatures(S, b)  # (K, n) each
        step = max(1, 2**20 // size)
        for start in range(0, rows.n, step):
            part = np.arange(start, min(start + step, rows.n))
            X = np.ones((len(part), d + 1))
            X[:, :d] = rows.standardised(part, weighted=False)
            for k in range(K):
                diagonal[k] += (X.T * curvature[k, part]) @ X
            if coupling is not None:
                Q = (coupling[:, part].T[:, :, None] * X[:, None, :]).reshape(len(part), size)
                H -= Q.T @ Q
        H, diagonal = summed(rows.processes, H, diagonal)
        blocks = H.reshape(K, d + 1, K, d + 1)
        for k in range(K):
            blocks[k, :, k, :] += diagonal[k]
        ridge = np.full((K, d + 1), FLOOR * max(float(H.diagonal().max()), 1e-30))
        ridge[:, :d] += 2 * l2
        H[np.diag_indices(size)] += ridge.ravel()
        target = np.zeros((K, d + 1))
        target[:, :d] = -gradient
        return np.linalg.solve(H, target.ravel()).reshape(K, d + 1)[:, :d]
