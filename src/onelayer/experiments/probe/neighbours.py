"""The k nearest neighbours by cosine, which vote with exp(cosine / 0.07), as in the evaluation of DINO."""

from collections.abc import Iterator

import numpy as np

from onelayer.analysis.evaluation import Evaluation
from onelayer.blas import one_blas_thread
from onelayer.data.dataset import Split
from onelayer.errors import ConfigError
from onelayer.experiments.probe.encoded import Encoded
from onelayer.experiments.probe.trials import Outcome, Progress, Trial, accuracy, best
from onelayer.features.map import LEAST_LENGTH

COUNTS, TEMPERATURE = (10, 20, 100, 200), 0.07
QUERIES = 512  # rows that look for neighbours at the same time
BLOCK_NUMBERS = 2**22  # of a block of training rows, and of its cosines with the queries


class Neighbours:
    """The training rows as neighbours.

    Parameters
    ----------
    encoded : Encoded
        Rows, which are divided by their length here.
    most : int
        The largest number of neighbours.
    """

    def __init__(self, encoded: Encoded, most: int) -> None:
        self._encoded, self._most = encoded, min(most, len(encoded.train))
        self._K = len(encoded.splits.dataset.class_names)

    def nearest(self, split: Split) -> tuple[np.ndarray, np.ndarray]:
        """Return cosines and labels (n, most) of the neighbours of the rows of a split, the nearest first."""
        found = [self._of_block(split, block) for block in split.blocks(QUERIES)]
        return np.concatenate([c for c, _ in found]), np.concatenate([labels for _, labels in found])

    def votes(self, cosines: np.ndarray, labels: np.ndarray, k: int) -> np.ndarray:
        """Return the shares of the votes (n, K) that the k nearest give to each class."""
        P = np.zeros((len(cosines), self._K))
        votes = np.exp((cosines[:, :k] - cosines[:, :1]).astype(np.float64) / TEMPERATURE)
        np.add.at(P, (np.arange(len(P))[:, None], labels[:, :k]), votes)
        return P / P.sum(axis=1, keepdims=True)

    def _of_block(self, split: Split, block: slice) -> tuple[np.ndarray, np.ndarray]:
        Q = self._unit(split, block)
        cosines: np.ndarray = np.empty((len(Q), 0), np.float32)
        labels: np.ndarray = np.empty((len(Q), 0), np.int64)
        train = self._encoded.train
        with one_blas_thread():
            for part in train.blocks(max(self._most, BLOCK_NUMBERS // max(QUERIES, Q.shape[1]))):
                new = Q @ self._unit(train, part).T  # (q, t)
                all_labels = np.broadcast_to(train.labels[part], new.shape)
                cosines, labels = np.hstack([cosines, new]), np.hstack([labels, all_labels])
                kept = np.argpartition(-cosines, self._most - 1, axis=1)[:, : self._most]
                cosines, labels = (np.take_along_axis(a, kept, axis=1) for a in (cosines, labels))
        order = np.argsort(-cosines, axis=1, kind="stable")
        cosines, labels = (np.take_along_axis(a, order, axis=1) for a in (cosines, labels))
        return cosines, labels

    def _unit(self, split: Split, block: slice) -> np.ndarray:
        X = split.rows(block).astype(np.float32)
        if self._encoded.normalize == "standardize":
            X = ((X - self._encoded.standardizer.mean) / self._encoded.standardizer.scale).astype(np.float32)
        squares = np.einsum("ij,ij->i", X, X, dtype=np.float64)  # in float32, those of 1e20 are infinite
        X /= np.maximum(np.sqrt(squares), LEAST_LENGTH)[:, None]
        return X


def knn(encoded: Encoded, progress: Progress | None = None) -> Outcome:
    """Choose k on the validation rows, which then are neighbours too.

    Raises
    ------
    ConfigError
        If rows have weights: k neighbours are k rows.
    """
    if encoded.train.dataset.row_weights is not None:
        raise ConfigError("knn counts rows, so row weights do not apply; remove them, or choose another recipe")
    trials = tuple(_trials(encoded))
    k = int(best(trials).value)
    refitted = encoded.refitted()
    neighbours = Neighbours(refitted, k)

    def evaluate(split: Split) -> Evaluation:
        P = neighbours.votes(*neighbours.nearest(encoded.seen(split)), k)
        weights, names = split.row_weights(slice(None)), split.dataset.class_names
        name = f"{split.dataset.name}, {split.name}"
        return Evaluation(np.nan, split.labels, P.argmax(axis=1), P, weights, names, name)

    return Outcome(evaluate, trials=trials, ended="neighbours are not trained")


def _trials(encoded: Encoded) -> Iterator[Trial]:
    validation = encoded.splits.validation
    neighbours = Neighbours(encoded, COUNTS[-1])
    found = neighbours.nearest(validation)
    for k in [k for k in COUNTS if k <= len(encoded.train)] or [len(encoded.train)]:
        yield Trial(k, accuracy(neighbours.votes(*found, k).argmax(axis=1), validation))
