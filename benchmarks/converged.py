"""The converged solver against scikit-learn's L-BFGS, to the same certified gap, and a path of lambdas.

The certified gap of a layer is ||dJ/dW||^2 / (4 lambda), with the best bias, as a share of the cost minus this gap.
Both run in this process on one thread of BLAS; figures are CPU seconds, which a busy machine changes less than the time
that passes. Those of onelayer begin with the raw rows: the standardisation and the preconditioner are in them. Those of
scikit-learn begin with standardised rows of float32. Its passes are evaluations of the cost with its gradient; it is
run with more and more iterations, from zero each time, until its gap is small enough, and the last run counts.

    python benchmarks/converged.py cifar-10-batches-py [--rows 10000] [--l2 0.1 0.001] [--tol 1e-3 1e-4 1e-6] [--path]
"""

import argparse
import time
import warnings

import numpy as np

import onelayer
from onelayer.blas import one_blas_thread
from onelayer.data.dataset import Split
from onelayer.features.standardizer import BLOCK_ROWS, Standardizer
from onelayer.losses import LOSSES
from onelayer.training.converged import Convergence
from onelayer.training.converging.rows import Rows

SOFTMAX = LOSSES["softmax"]


def ours(split: Split, l2: float, tols: list[float]) -> None:
    """Print the passes, seconds and gap at which each of the gaps was reached first."""
    start = time.process_time()
    rows = Rows(split, Standardizer.fit(split.row_blocks(BLOCK_ROWS)))
    convergence, left = Convergence(rows, SOFTMAX, l2), sorted(tols, reverse=True)
    for at in convergence.iterates(l2, tol=left[-1]):
        while left and at.gap <= left[0] * (at.cost - at.gap):
            print_row("onelayer", l2, left.pop(0), at.passes, time.process_time() - start, at.cost)
        if at.ended and not at.reached:
            print(at.ended)


def theirs(split: Split, l2: float, tol: float) -> None:
    """Print the same of scikit-learn."""
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.linear_model import LogisticRegression
    from sklearn.linear_model._linear_loss import LinearModelLoss

    X = Standardizer.fit(split.row_blocks(BLOCK_ROWS)).to(np.float32).transform(split.rows(slice(None)))
    evaluations, evaluate = 0, LinearModelLoss.loss_gradient

    def counted(*args: object, **options: object) -> object:
        nonlocal evaluations
        evaluations += 1
        return evaluate(*args, **options)

    LinearModelLoss.loss_gradient = counted
    iterations = 60
    while True:
        evaluations, start = 0, time.process_time()
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ConvergenceWarning)
            C = 1 / (2 * l2 * len(split))
            peer = LogisticRegression(C=C, tol=1e-12, max_iter=iterations).fit(X, split.labels)
        seconds, passes = time.process_time() - start, evaluations
        W, b = peer.coef_.T.astype(np.float64), peer.intercept_.astype(np.float64)
        S = (X @ W.astype(np.float32) + b.astype(np.float32)).astype(np.float64)
        cost = float(SOFTMAX.of_rows(S, split.labels).mean() + l2 * (W * W).sum())
        gradient = X.T @ SOFTMAX.residual(S, split.labels).astype(np.float32) + 2 * l2 * W
        gap = float((gradient * gradient).sum()) / (4 * l2)
        if 0 <= gap <= tol * (cost - gap) or iterations > 2000:
            break
        iterations = int(iterations * 1.3)
    LinearModelLoss.loss_gradient = evaluate
    print_row("scikit-learn", l2, tol, passes, seconds, cost)


def path(split: Split, l2s: np.ndarray, tol: float) -> None:
    """Print the passes of a path, and the seconds since it began."""
    start = time.process_time()
    rows = Rows(split, Standardizer.fit(split.row_blocks(BLOCK_ROWS)))
    for l2, at in zip(l2s, Convergence(rows, SOFTMAX, l2s[-1]).path(l2s, tol=tol), strict=True):
        print_row("path", l2, tol, at.passes, time.process_time() - start, at.cost)


def print_row(name: str, l2: float, tol: float, passes: float, seconds: float, cost: float) -> None:
    print(f"| {name} | {l2:.4g} | {tol:g} | {passes:g} | {seconds:.2f} | {cost:.6f} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data set, as for onelayer train --data")
    parser.add_argument("--rows", type=int, default=10_000, help="the first of its training rows")
    parser.add_argument("--l2", type=float, nargs="+", default=[0.1, 0.001])
    parser.add_argument("--tol", type=float, nargs="+", default=[1e-3, 1e-4, 1e-6], help="gaps, as shares of the bound")
    parser.add_argument("--path", action="store_true", help="10 lambdas from the largest to the smallest, instead")
    parser.add_argument("--alone", action="store_true", help="leave scikit-learn out")
    arguments = parser.parse_args()
    dataset = onelayer.load(arguments.data)
    split = Split("train", dataset, np.arange(min(arguments.rows, len(dataset.rows))))
    print(f"{len(split):,} rows\n\n| solver | lambda | gap | passes | CPU s | cost |\n|---|---|---|---|---|---|")
    with one_blas_thread():
        if arguments.path:
            path(split, np.geomspace(max(arguments.l2), min(arguments.l2), 10), min(arguments.tol))
            return
        for l2 in arguments.l2:
            ours(split, l2, arguments.tol)
            if not arguments.alone:
                theirs(split, l2, sorted(arguments.tol)[len(arguments.tol) // 2])


if __name__ == "__main__":
    main()
