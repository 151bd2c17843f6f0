"""The time of a cost with its gradient over all training rows, against an epoch of training on them.

They take turns in one process, each on one thread: an epoch at batches of 1,000 rows, then the objective of the same
rows, once in the order of the data set and once shuffled, as the epoch's rows are. The figures are the CPU time of that
thread, which a busy machine changes less than the time that passes: medians over the turns, and quartiles of
the ratio in each turn.

    python benchmarks/objective.py cifar-10-batches-py [--rounds 30] [--backend native]
"""

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

import onelayer
from onelayer.blas import one_blas_thread
from onelayer.config import COURSEWORK, SplitConfig
from onelayer.layer import SoftmaxLayer
from onelayer.training.backends.registry import choose_backend

NAMES = ("epoch", "objective", "objective, shuffled")


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", help="a data set, as for onelayer train --data")
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--backend", default="native")
    arguments = parser.parse_args()
    splits = onelayer.load_splits(arguments.data, SplitConfig())
    config = replace(COURSEWORK, batch_size=1000, backend=arguments.backend)
    (n, d), K = (len(splits.train), splits.dataset.rows.shape[1]), len(splits.dataset.class_names)
    rng = np.random.default_rng(0)
    layer = SoftmaxLayer.initial(d, K, rng, dtype=config.dtype)
    backend = choose_backend(splits.dataset, config)(splits, config, splits.standardizer.for_training, layer)
    shuffled = replace(splits.train, indices=rng.permutation(splits.train.indices))
    works: tuple[Callable[[], object], ...] = (
        lambda: backend.run_epoch(shuffled, config.learning_rate, None, bool),
        lambda: backend.objective(layer, splits.train, bool),
        lambda: backend.objective(layer, shuffled, bool),
    )
    with one_blas_thread():
        seconds = np.array([[cpu_seconds(work) for work in works] for _ in range(arguments.rounds + 1)])[1:]
    print(
        f"{platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}, {backend.name}; ", end=""
    )
    print(f"{n:,} rows of {d:,} features, {K} classes, {arguments.rounds} turns\n")
    print("|                     |     ms | of the epoch | quartiles |")
    print("|:--------------------|-------:|-------------:|:----------|")
    for name, times in zip(NAMES, seconds.T, strict=True):
        low, ratio, high = np.quantile(times / seconds[:, 0], [0.25, 0.5, 0.75])
        print(f"| {name:19} | {1e3 * np.median(times):6.1f} | {ratio:12.2f} | {low:.2f}-{high:.2f} |")


if __name__ == "__main__":
    main()
