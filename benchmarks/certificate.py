"""The certificate on random problems against the true optimum, and the time that it takes.

    python benchmarks/certificate.py [--problems 10000] [--data cifar-10-batches-py --rounds 20]

Each problem is drawn from its number: 2 to 59 rows of 1 to 8 features in uint8, float16, float32 or float64, 2 to 5
classes, balanced or not, softmax or sigmoids, lambda from 1e-6 to 10, with weights of the rows or without. Newton's
method finds the optimum in float64, to a gradient of 1e-12. Five layers are certified: all weights 0, random ones, one
near the optimum, the optimum, and a saturated one. No bound may be above the optimum. The exit code is 1 if one is.

With --data, the time of a certificate of the training rows is compared with that of the two products of these rows
alone, in float64, and with an evaluation and a gradient by the native backend, in float32. They take turns, each on one
thread; the figures are medians of CPU time.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np

import onelayer
from onelayer.blas import one_blas_thread
from onelayer.config import COURSEWORK, SplitConfig
from onelayer.layer import SoftmaxLayer
from onelayer.training.backends.registry import choose_backend
from onelayer.training.certificate import certify

sys.path.insert(0, str(Path(__file__).parents[1] / "tests"))
from optimum import layers_for, random_problem


def check(problems: int) -> int:
    """Print a line for each kind of layer, and return the number of bounds that are above the optimum."""
    wrong = 0
    gaps: dict[str, list[tuple[float, float]]] = {}
    for seed in range(problems):
        problem = random_problem(seed)
        best = problem.optimum(np.zeros((problem.X.shape[1], problem.K)), np.zeros(problem.K))
        lowest = problem.cost(*best)
        for name, (W, b) in layers_for(problem, np.random.default_rng(1000 + seed), best).items():
            found = certify(problem.layer(W, b), problem.standardizer, problem.split, problem.l2)
            above = problem.cost(W, b) - lowest
            if found.bound > lowest or found.gap < above:
                wrong += 1
                print(f"problem {seed}, {name}: bound {found.bound!r}, optimum {lowest!r}")
            gaps.setdefault(name, []).append((found.gap, above))
    print(f"{problems:,} problems, {sum(map(len, gaps.values())):,} layers: {wrong} bounds above the optimum\n")
    print("| layer     | gap, median |  9 in 10 |  largest | truly above the optimum, median |")
    print("|:----------|------------:|---------:|---------:|--------------------------------:|")
    for name, pairs in gaps.items():
        gap, above = np.transpose(pairs)
        middle, high, most = np.quantile(gap, [0.5, 0.9, 1])
        print(f"| {name:9} | {middle:11.1e} | {high:8.1e} | {most:8.1e} | {np.median(above):31.1e} |")
    return wrong


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


def measure(data: str, rounds: int) -> None:
    splits = onelayer.load_splits(data, SplitConfig(protocol="full"))
    train, d, K = splits.train, splits.dataset.rows.shape[1], len(splits.dataset.class_names)
    rng = np.random.default_rng(0)
    layer = SoftmaxLayer.initial(d, K, rng, dtype="float32")
    backend = choose_backend(splits.dataset, COURSEWORK)(splits, COURSEWORK, splits.standardizer.for_training, layer)
    W, X, G = rng.standard_normal((K, d)).T, rng.standard_normal((1000, d)), rng.standard_normal((1000, K))
    works: dict[str, Callable[[], object]] = {
        "certificate": lambda: certify(layer, splits.standardizer, train, 0.1),
        "both products, float64": lambda: [(X @ W, G.T @ X) for _ in range(round(len(train) / 1000))],
        f"evaluation, {backend.name}": lambda: backend.evaluate(layer, train, bool),
        f"gradient, {backend.name}": lambda: backend.objective(layer, train, bool),
    }
    with one_blas_thread():
        seconds = np.array([[cpu_seconds(work) for work in works.values()] for _ in range(rounds + 1)])[1:]
    print(f"\n{platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}: ", end="")
    print(f"{len(train):,} rows of {d:,} features, {K} classes, {rounds} turns\n")
    print("|                        |     ms | of the certificate | quartiles |")
    print("|:-----------------------|-------:|-------------------:|:----------|")
    for name, times in zip(works, seconds.T, strict=True):
        low, ratio, high = np.quantile(times / seconds[:, 0], [0.25, 0.5, 0.75])
        print(f"| {name:22} | {1e3 * np.median(times):6.1f} | {ratio:18.2f} | {low:.2f}-{high:.2f} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--problems", type=int, default=10000)
    parser.add_argument("--data", help="a data set, as for onelayer train --data")
    parser.add_argument("--rounds", type=int, default=20)
    arguments = parser.parse_args()
    wrong = check(arguments.problems) if arguments.problems else 0
    if arguments.data:
        measure(arguments.data, arguments.rounds)
    sys.exit(wrong > 0)


if __name__ == "__main__":
    main()
