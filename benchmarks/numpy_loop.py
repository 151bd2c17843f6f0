"""The NumPy backend, fed with uint8 rows, against the plainest good float32 loop on standardised float rows.

Both do the work of the coursework's run, in each epoch 100 steps of 100 rows, then loss and accuracy on 10,000
training and 10,000 validation rows. They take turns in one process; the figures are medians over the epochs.

    python benchmarks/numpy_loop.py [--data SOURCE] [--rounds N]
"""

import argparse
import platform
import resource
import sys
import time
from collections.abc import Callable

import numpy as np

import onelayer
from onelayer.config import SplitConfig, TrainConfig
from onelayer.training import TrainingState


def plain_loop(splits: onelayer.Splits, state: TrainingState, config: TrainConfig) -> Callable[[np.ndarray], None]:
    """An epoch as a NumPy user would write it; standardising all rows beforehand is not timed."""
    m, s = splits.train.rows(slice(None)).mean(0), splits.train.rows(slice(None)).std(0)
    R, R_validation = splits.train.rows(slice(None)), splits.validation.rows(slice(None))
    X, X_validation = (((rows - m) / s).astype(np.float32) for rows in (R, R_validation))
    y, y_validation = splits.train.labels, splits.validation.labels
    W, b = np.ascontiguousarray(state.layer.weights), state.layer.bias.copy()
    eta = np.float32(config.learning_rate)

    def evaluate(X: np.ndarray, y: np.ndarray) -> tuple[float, float]:
        S = X @ W + b
        S -= S.max(axis=1, keepdims=True)
        losses = np.log(np.exp(S).sum(axis=1)) - S[np.arange(len(y)), y]
        return losses.mean(), (S.argmax(axis=1) == y).mean()

    def epoch(order: np.ndarray) -> None:
        for start in range(0, len(order), config.batch_size):
            batch = order[start : start + config.batch_size]
            X_batch, y_batch = X[batch], y[batch]
            S = X_batch @ W + b
            P = np.exp(S - S.max(axis=1, keepdims=True))
            P /= P.sum(axis=1, keepdims=True)
            P[np.arange(len(batch)), y_batch] -= 1
            P /= len(batch)
            W[...] -= eta * (X_batch.T @ P)
            b[...] -= eta * P.sum(axis=0)
        evaluate(X, y)
        evaluate(X_validation, y_validation)

    return epoch


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, taking turns")
    arguments = parser.parse_args()

    splits = onelayer.load_splits(arguments.data, SplitConfig(protocol="batch"))
    config = TrainConfig(epochs=20, backend="numpy")
    state = TrainingState.initial(splits.dataset.rows.shape[1], len(splits.dataset.class_names), config)
    rng = np.random.default_rng(0)
    plain = plain_loop(splits, state, config)
    seconds: dict[str, list[float]] = {"plain loop": [], "onelayer": []}
    for _ in range(arguments.rounds):
        for _ in range(config.epochs):
            order = rng.permutation(len(splits.train))
            started = time.perf_counter()
            plain(order)
            seconds["plain loop"].append(time.perf_counter() - started)
        seconds["onelayer"] += [record.seconds for record in onelayer.train(splits, config).state.history]

    versions = f"Python {platform.python_version()}, NumPy {np.__version__}"
    print(f"{platform.machine()}, {versions}, {arguments.rounds} runs of {config.epochs} epochs each, taking turns")
    for name, times in seconds.items():
        print(f"{name:12} median {1e3 * np.median(times):6.1f} ms, quickest {1e3 * min(times):6.1f} ms an epoch")
    ratio = np.median(seconds["onelayer"]) / np.median(seconds["plain loop"])
    print(f"onelayer needs {ratio:.2f} times the time of the plain loop")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"peak memory of this process, float copies of the plain loop included: {peak / 1e6:.0f} MB")


if __name__ == "__main__":
    try:
        main()
    except onelayer.OnelayerError as error:
        sys.exit(str(error))
