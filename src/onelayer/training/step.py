"""The learning rate ``auto``: the longest step that is safe for these rows, measured on some of them."""

import numpy as np

from onelayer.config import TrainConfig
from onelayer.data.dataset import Split
from onelayer.features.standardizer import Standardizer
from onelayer.losses import LOSSES

ROWS = 512  # looked at, evenly spaced: the largest eigenvalue comes out within some percent
ROUNDS = 30  # of the power method, which nears the largest eigenvalue from below
SAFETY = 0.75  # of the longest step that cannot overshoot


def safe_step(train: Split, standardizer: Standardizer, config: TrainConfig, K: int) -> float:
    """Return three quarters of the longest learning rate at which a mean batch cannot overshoot.

    Steps below 2/c do not increase a cost none of whose curvatures is above c. With the matrix A = mean of x x^T over
    the rows x, standardised and with a 1 for the bias, the curvature of the loss of all rows is at most c_l lambda,
    where lambda is the largest eigenvalue of A and c_l bounds the curvature of a row's loss in its logits. The matrix
    A_B of a batch of B rows varies: the mean of its square is A^2 (1 - 1/B) + mean(|x|^2 x x^T) / B, about A times
    lambda + (trace A - lambda) / B, since trace A is the mean of |x|^2. This takes the place of lambda, except where a
    batch holds all rows and does not vary.

    With momentum b, steps below 2 (1 + b)/c do not increase a cost, but a velocity adds up what 1/(1 - b) batches vary.
    The two terms are then lambda / (1 + b) and (trace A - lambda) / B / (1 - b).

    Parameters
    ----------
    train : Split
        Rows of features, as the standardizer takes them.
    standardizer : Standardizer
    config : TrainConfig
        With a number for the momentum.
    K : int
        Number of classes.
    """
    n = len(train)
    places, weights = _some_rows(train)
    used = standardizer.for_training
    X = (train.rows_of_all(places).astype(np.float64) - used.mean) / used.scale  # (m, d)
    X = np.column_stack([X, np.ones(len(X))])
    trace = float(weights @ (X**2).sum(axis=1)) / len(X)  # a row of weight w is w^2 in the square of a batch
    if n <= ROWS:
        trace = float(weights**2 @ (X**2).sum(axis=1)) / len(X)
        X *= np.sqrt(weights)[:, None]
    v = np.random.default_rng(0).standard_normal(X.shape[1])  # the run's own generator draws nothing here
    for _ in range(ROUNDS):
        v = X.T @ (X @ (v / np.linalg.norm(v))) / len(X)
    largest = float(np.linalg.norm(v))
    curvature = largest / (1 + config.momentum_taken)
    if config.batch_size < n:
        curvature += (trace - largest) / config.batch_size / (1 - config.momentum_taken)
    return float(2 * SAFETY / (LOSSES[config.loss].curvature(K) * curvature + 2 * config.l2))


def _some_rows(train: Split) -> tuple[np.ndarray, np.ndarray]:
    """Return places of rows, and their weights, whose mean over all rows is 1.

    Of many rows, those at equal steps of the sum of the weights: each stands for the same weight, so heavy rows are not
    missed.
    """
    n, own = len(train), train.row_weights(slice(None))
    if own is None:
        return np.unique(np.linspace(0, n - 1, min(n, ROWS)).round().astype(np.int64)), np.ones(min(n, ROWS))
    weights = own / own.mean()
    if n <= ROWS:
        return np.arange(n), weights
    sums = np.cumsum(weights)
    places = np.searchsorted(sums, (np.arange(ROWS) + 0.5) / ROWS * sums[-1], side="right")
    return places, weights[places]
