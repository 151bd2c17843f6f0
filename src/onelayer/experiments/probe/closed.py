"""Recipes in closed form: ridge regression on labels of 1 and -1, and the nearest class mean. Nothing is chosen.

Both are linear in the rows, so each is a layer. Its probabilities are the softmax of scores that were not fitted as
logits: the likeliest class is right, but they say little about confidence.
"""

from functools import partial

import numpy as np

from onelayer.analysis.evaluation import evaluate
from onelayer.blas import one_blas_thread
from onelayer.config import TrainConfig
from onelayer.experiments.probe.encoded import Encoded
from onelayer.experiments.probe.trials import Outcome, Progress
from onelayer.features.standardizer import BLOCK_ROWS, Standardizer
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES
from onelayer.processes import assembled, summed

# Of the few-shot evaluation in big_vision: the penalty, the constant feature that is the bias, and an addition to the
# standard deviations.
RIDGE_L2, RIDGE_BIAS, RIDGE_SPREAD = 2.0**10, 100.0, 1e-5
ABSENT = -1e12  # the bias of a class without rows, which no row is then taken for


def ridge(encoded: Encoded, progress: Progress | None = None) -> Outcome:
    """Fit the weights W that minimise ||X W - Y||^2 + 1024 ||W||^2, with Y of 1 for the class and -1 for others.

    X holds the standardised rows and a feature of 100 for the bias; a row of weight 2 counts as two rows. Where there
    are fewer rows than features, the system of the rows is solved, and no (d, d) matrix is made. Several processes add
    up X^T X and X^T Y, or bring these few rows together.
    """
    of_training, train, mine = encoded.of_training, encoded.train, encoded.train.mine
    processes = train.dataset.processes
    constant = np.asarray(of_training.constant, bool)
    scale = np.where(constant, 1.0, of_training.scale + RIDGE_SPREAD)
    standardizer = Standardizer(of_training.mean, scale, constant)
    (n, d), K = (len(train), len(scale)), len(encoded.splits.dataset.class_names)

    def system(block: slice) -> tuple[np.ndarray, np.ndarray]:
        """Return rows of X and Y, each times the root of the row's weight."""
        X = np.full((block.stop - block.start, d + 1), RIDGE_BIAS)
        X[:, :d] = (mine.rows(block) - standardizer.mean) / standardizer.scale
        Y = np.full((len(X), K), -1.0)
        Y[np.arange(len(Y)), mine.labels[block]] = 1
        if (weights := mine.row_weights(block)) is not None:
            X *= np.sqrt(weights)[:, None]
            Y *= np.sqrt(weights)[:, None]
        return X, Y

    with one_blas_thread():
        if n > d:
            A, B = np.zeros((d + 1, d + 1)), np.zeros((d + 1, K))
            for block in mine.blocks(BLOCK_ROWS):
                X, Y = system(block)
                A += X.T @ X
                B += X.T @ Y
            A, B = summed(processes, A, B)
            W = np.linalg.solve(A + RIDGE_L2 * np.eye(d + 1), B)
        else:  # fewer numbers than a (d, d) matrix
            X, Y = (assembled(processes, part, train.held, n) for part in system(slice(0, len(mine))))
            W = X.T @ np.linalg.solve(X @ X.T + RIDGE_L2 * np.eye(n), Y)
    W = processes.broadcast(W)
    W[:d][constant] = 0
    return _linear(encoded, W[:d], RIDGE_BIAS * W[d], standardizer)


def nearest_mean(encoded: Encoded, progress: Progress | None = None) -> Outcome:
    """Take each row for the class whose mean is nearest: the largest x . m_k - ||m_k||^2 / 2."""
    train, standardizer = encoded.train.mine, encoded.standardizer
    K = len(encoded.splits.dataset.class_names)
    sums, counts = np.zeros((K, len(standardizer.mean))), np.zeros(K)
    with one_blas_thread():
        for block in train.blocks(BLOCK_ROWS):
            X = (train.rows(block) - standardizer.mean) / standardizer.scale
            weights = train.row_weights(block)
            Y = np.zeros((len(X), K))
            Y[np.arange(len(X)), train.labels[block]] = 1 if weights is None else weights
            sums += Y.T @ X
            counts += Y.sum(axis=0)
    sums, counts = summed(train.dataset.processes, sums, counts)
    means = sums / np.maximum(counts, 1e-300)[:, None]  # (K, d)
    if standardizer.constant is not None:
        means[:, standardizer.constant] = 0
    bias = np.where(counts > 0, -np.einsum("ij,ij->i", means, means) / 2, ABSENT)
    return _linear(encoded, means.T, bias, standardizer)


def _linear(encoded: Encoded, W: np.ndarray, b: np.ndarray, standardizer: Standardizer) -> Outcome:
    model = encoded.model(SoftmaxLayer(np.asfortranarray(W), b, LOSSES[TrainConfig.loss]), standardizer)
    return Outcome(partial(evaluate, model), model)
