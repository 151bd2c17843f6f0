"""Compare the cost that SoftmaxClassifier reaches with the optimum that scikit-learn's LogisticRegression finds.

python benchmarks/convergence.py [--data SOURCE]

Both minimise the mean loss of n standardised rows plus l2 ||W||^2. LogisticRegression writes C (sum of losses) +
||W||^2 / 2, which is the same at C = 1 / (2 l2 n). For two classes it has one vector w where the layer has two, and at
the optimum W_1 = -W_0 = w / 2: the penalty is l2 ||w||^2 / 2, and C = 1 / (l2 n).
"""

import argparse
import math
import sys
import time
import warnings

import numpy as np
from sklearn.datasets import load_breast_cancer, load_digits, load_wine
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression
from sklearn.preprocessing import StandardScaler

import onelayer
from onelayer import SoftmaxClassifier, SplitConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10", help="whose training rows come last")
    arguments = parser.parse_args()

    small = {"digits": load_digits, "wine": load_wine, "breast cancer": load_breast_cancer}
    print("| rows | l2 | C | optimum | cost | above it | seconds | its seconds |")
    print("|---" * 8 + "|", flush=True)
    for name, read in small.items():
        X, y = read(return_X_y=True)
        for l2, steps in ((0.1, 2000), (0.01, 5000), (0.001, 40_000)):
            epochs = steps // math.ceil(len(X) / 100)
            clf = SoftmaxClassifier(l2=l2, learning_rate=0.2, epochs=epochs, decay_every=epochs // 2)
            report(name, X, y, clf)
    splits = onelayer.load_splits(arguments.data, SplitConfig())
    X, y = splits.train.rows(slice(None)), splits.train.labels
    for l2 in (1.0, 0.1):
        clf = SoftmaxClassifier(l2=l2, learning_rate=0.001, epochs=400, decay_every=300)
        report(f"{splits.dataset.name}, {len(X):,} training rows", X, y, clf)


def report(name: str, X: np.ndarray, y: np.ndarray, clf: SoftmaxClassifier) -> None:
    n, K = len(y), len(np.unique(y))
    C = 1 / (clf.l2 * n) if K == 2 else 1 / (2 * clf.l2 * n)
    start = time.perf_counter()
    Z = StandardScaler().fit_transform(X.astype(np.float64))
    with warnings.catch_warnings():
        warnings.simplefilter("error", ConvergenceWarning)  # without convergence it is not an optimum
        reference = LogisticRegression(C=C, tol=1e-5, max_iter=100_000).fit(Z, y)
    its_seconds = time.perf_counter() - start
    losses = -reference.predict_log_proba(Z)[np.arange(n), np.searchsorted(reference.classes_, y)]
    squares = (reference.coef_**2).sum() / (2 if K == 2 else 1)
    optimum = losses.mean() + clf.l2 * squares
    start = time.perf_counter()
    cost = clf.set_params(random_state=0).fit(X, y).history_["train_cost"][-1]
    seconds = time.perf_counter() - start
    print(
        f"| {name} | {clf.l2:g} | {C:.3g} | {optimum:.6f} | {cost:.6f} | {cost / optimum - 1:.1e} "
        f"| {seconds:.1f} | {its_seconds:.1f} |",
        flush=True,
    )


if __name__ == "__main__":
    try:
        main()
    except onelayer.OnelayerError as error:
        sys.exit(str(error))
