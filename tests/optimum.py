"""Random problems, and their optimum by Newton's method in float64: the oracle for bounds on the lowest cost."""

from dataclasses import dataclass

import numpy as np

from onelayer.data.dataset import Dataset, Split
from onelayer.features.standardizer import Standardizer
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES, Loss


@dataclass
class Convex:
    """Rows, labels and weights with a loss and a penalty.

    X (n, d) are the standardised rows in float64, w (n,) the weights with a sum of 1.
    """

    split: Split
    standardizer: Standardizer
    loss: Loss
    l2: float
    X: np.ndarray
    y: np.ndarray
    w: np.ndarray
    K: int

    def cost(self, W: np.ndarray, b: np.ndarray) -> float:
        return float(self.w @ self.loss.of_rows(self.X @ W + b, self.y) + self.l2 * (W * W).sum())

    def gradients(self, W: np.ndarray, b: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Return dJ/dW (d, K) and dJ/db (K,)."""
        P = self.loss.probabilities(self.X @ W + b)
        G = (P - np.eye(self.K)[self.y]) * self.w[:, None] / (1 if self.loss.exclusive else self.K)
        return self.X.T @ G + 2 * self.l2 * W, G.sum(axis=0)

    def hessian(self, W: np.ndarray, b: np.ndarray) -> np.ndarray:
        """Return the second derivatives in (W, b), flattened from (d + 1, K)."""
        P = self.loss.probabilities(self.X @ W + b)
        Z = np.column_stack([self.X, np.ones(len(self.X))])  # (n, d + 1)
        (d, K), exclusive = W.shape, self.loss.exclusive
        H = np.zeros((d + 1, K, d + 1, K))
        for k in range(K):
            curvature = P[:, k] if exclusive else P[:, k] * (1 - P[:, k]) / K
            H[:, k, :, k] = Z.T @ (Z * (self.w * curvature)[:, None]) + 2 * self.l2 * np.diag([1.0] * d + [0.0])
        H = H.reshape((d + 1) * K, -1)
        if exclusive:
            B = (Z[:, :, None] * P[:, None, :]).reshape(len(Z), -1)
            H -= B.T @ (B * self.w[:, None])
            H[d * K :, d * K :] += 1 / K  # the sum of the biases is free: keep it
        return H

    def layer(self, W: np.ndarray, b: np.ndarray) -> SoftmaxLayer:
        return SoftmaxLayer(W, b, self.loss)

    def optimum(self, W: np.ndarray, b: np.ndarray, fixed: bool = False, rounds: int = 200) -> tuple[np.ndarray, ...]:
        """Return W and b of the lowest cost from a start, with a gradient of at most 1e-12; with W `fixed`, only b."""
        d, K = W.shape
        for _ in range(rounds):
            dW, db = self.gradients(W, b)
            g = np.vstack([dW * (not fixed), db])
            if np.linalg.norm(g) <= 1e-12:
                return W, b
            H = self.hessian(W, b)
            if fixed:
                H[: d * K] = H[:, : d * K] = 0
                H[np.arange(d * K), np.arange(d * K)] = 1
            damping = 1e-14 * np.trace(H) / len(H)
            step = np.linalg.solve(H + damping * np.eye(len(H)), g.ravel()).reshape(g.shape)
            length, cost, slope = 1.0, self.cost(W, b), float((g * step).sum())
            while length > 1e-10 and self.cost(W - length * step[:d], b - length * step[d]) > (
                cost - 1e-4 * length * slope + 1e-15 * (1 + cost)
            ):
                length /= 2
            W, b = W - length * step[:d], b - length * step[d]
        raise AssertionError(f"no optimum: the gradient is {np.linalg.norm(g)}")


def random_problem(seed: int) -> Convex:
    """Draw the sizes, the type of the rows, the weights, the shares of the classes, the loss and the penalty."""
    rng = np.random.default_rng(seed)
    n, d, K = int(rng.integers(2, 60)), int(rng.integers(1, 9)), int(rng.integers(2, 6))
    y = rng.choice(K, n, p=rng.dirichlet(np.full(K, rng.choice([0.3, 1, 100]))))
    y[:2] = 0, 1  # at least two classes
    rows = rng.normal(0, 1, (n, d)) + rng.choice([0, 1, 3]) * rng.normal(0, 1, (K, d))[y]
    dtype = rng.choice(["uint8", "float16", "float32", "float64"])
    if dtype == "uint8":
        rows = np.clip(120 + 40 * rows, 0, 255)
    elif rng.random() < 0.3:
        rows = 50 + 0.01 * rows  # far from zero
    rows = rows.astype(dtype)
    w = rng.choice([rng.uniform(0.01, 3, n), rng.integers(0, 3, n), 10.0 ** rng.uniform(-3, 3, n)])
    w[:2] = np.maximum(w[:2], 1)
    weights = None if rng.random() < 0.4 else w / w.mean()
    loss, l2 = str(rng.choice(list(LOSSES))), 10.0 ** rng.uniform(-6, 1)
    return problem_of(rows, y, K, loss, l2, weights, some=rng.choice([n, n, n // 2]))


def problem_of(
    rows: np.ndarray,
    y: np.ndarray,
    K: int,
    loss: str,
    l2: float,
    weights: np.ndarray | None = None,
    some: int | None = None,
) -> Convex:
    """Return the problem of these rows, standardised by the first `some`, or all: only then is their mean 0."""
    names = tuple(f"class {k}" for k in range(K))
    dataset = Dataset(rows, y.astype(np.int64), names, None, "random", row_weights=weights)
    split = Split("train", dataset, np.arange(len(rows)))
    standardizer = Standardizer.fit([rows[:some]], None if weights is None else [weights[:some]])
    used = standardizer.for_training
    X = (rows.astype(np.float64) - used.mean) / used.scale
    w = np.ones(len(rows)) if weights is None else weights
    return Convex(split, standardizer, LOSSES[loss], float(l2), X, y, w / w.sum(), K)


def layers_for(problem: Convex, rng: np.random.Generator, best: tuple[np.ndarray, np.ndarray]) -> dict[str, tuple]:
    """Return layers (W, b): any, near the optimum `best`, at it, with b solved out, and saturated."""
    W, b = rng.normal(0, 10.0 ** rng.uniform(-2, 0.5), best[0].shape), rng.normal(0, 1, problem.K)
    near = 10.0 ** rng.uniform(-9, -1)
    return {
        "zero": (np.zeros_like(W), np.zeros_like(b)),
        "any": (W, b),
        "near": (best[0] + near * W, best[1] + near * b),
        "best": best,
        "saturated": (10.0 ** rng.uniform(2, 6) * W, b),
    }
