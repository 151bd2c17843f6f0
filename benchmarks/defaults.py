"""A first run without a flag, beside scikit-learn's LogisticRegression at its best.

Digits, wine and breast cancer are those of scikit-learn, each divided by ten split seeds; the embeddings are 50,000
rows of 512 made features, of unequal scale, in 100 classes. LogisticRegression gets standardised features; of five
values of C it takes the best by the validation rows, which is the honest choice, and the best by the test rows, which
is not.

    python benchmarks/defaults.py [--data cifar10] [--seeds 10] [wine] [breast-cancer] [digits] [embeddings] [cifar10]
"""

import argparse
import time

import embeddings
import numpy as np
from sklearn.datasets import load_breast_cancer, load_wine
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

import onelayer
from onelayer import SplitConfig, TrainConfig
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.data.protocols import split

PEER_C = (0.001, 0.01, 0.1, 1, 10)
ROWS, D = 50_000, 512
SPREAD = 4.2  # of the class means: the peer scores 85 to 92 %


def table(X: np.ndarray, y: np.ndarray, name: str) -> Dataset:
    names = tuple(str(k) for k in range(int(y.max()) + 1))
    return Dataset(np.ascontiguousarray(X, np.float32), y.astype(np.int64), names, None, name)


def made_embeddings() -> Dataset:
    embeddings.D, embeddings.APART = D, SPREAD
    rng = np.random.default_rng(0)
    distribution, labels = embeddings.Embeddings(rng), rng.integers(0, embeddings.K, ROWS)
    return table(distribution.draw(labels), labels, "embeddings")


def peer(splits: Splits, values: tuple[float, ...]) -> tuple[float, float]:
    """Return test accuracies of LogisticRegression: with the best C of the validation rows, and of the test rows."""

    def of(part: Split) -> tuple[np.ndarray, np.ndarray]:
        return part.rows(slice(None)), part.labels

    found = []
    for C in values:
        model = make_pipeline(StandardScaler(), LogisticRegression(C=C, max_iter=1000)).fit(*of(splits.train))
        found.append((model.score(*of(splits.validation)), model.score(*of(splits.test))))
    return max(found, key=lambda pair: pair[0])[1], max(test for _, test in found)


def measure(name: str, data: str, seeds: int) -> None:
    """Print the mean test accuracies, and the time of one training."""
    if name == "cifar10":
        splits = [onelayer.load_splits(data, SplitConfig(protocol="full"))]
        configs = [TrainConfig(seed=seed) for seed in range(42, 42 + seeds)]
        splits = splits * seeds
    else:
        made = {"wine": load_wine, "breast-cancer": load_breast_cancer}
        if name == "digits":
            dataset = onelayer.load("digits")
        else:
            dataset = made_embeddings() if name == "embeddings" else table(*made[name](return_X_y=True), name)
        repeated = 1 if name == "embeddings" else seeds
        splits = [split(dataset, SplitConfig(split_seed=seed)) for seed in range(repeated)]
        configs = [TrainConfig()] * repeated
    began = time.perf_counter()
    results = [onelayer.train(part, config) for part, config in zip(splits, configs, strict=True)]
    seconds = (time.perf_counter() - began) / len(results)
    ours = [result.scores["test"].accuracy for result in results]
    line = f"{name}: onelayer {100 * np.mean(ours):.2f} % ({100 * min(ours):.2f} to {100 * max(ours):.2f})"
    if name != "cifar10":
        theirs = np.mean([peer(part, PEER_C) for part in splits], axis=0)
        line += f", LogisticRegression {100 * theirs[0]:.2f} % with C by validation, {100 * theirs[1]:.2f} % by test"
    epochs = [result.state.epoch for result in results]
    print(f"{line}; {min(epochs)} to {max(epochs)} epochs, {seconds:.2f} s each", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("names", nargs="*", default=["wine", "breast-cancer", "digits", "embeddings", "cifar10"])
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--seeds", type=int, default=10)
    arguments = parser.parse_args()
    for name in arguments.names:
        measure(name, arguments.data, arguments.seeds)


if __name__ == "__main__":
    main()
