"""The CPU time of an epoch of 13 learning rates: one by one, and as a stack that shares the pass over the rows.

An epoch trains on all rows in batches of 100, and evaluates them. The works take turns in one process, each on one
thread; beside them stands the rate of a product of BLAS, (1,024 x 1,024) x (1,024 x 1,024), in the same turns. The
figures are medians of the CPU time of that thread. The last column is the least share of 13 trainings on the first line
that any stack could need, if all its products ran at the rate of BLAS and nothing else took time.

    python benchmarks/stack.py 10000 3072 10 uint8 [--rounds 5] [--dtype float64] [--heads 13]
"""

import argparse
import platform
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np

from onelayer.blas import one_blas_thread
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.dataset import Dataset, Split
from onelayer.data.protocols import split
from onelayer.training.stack import Head
from onelayer.training.stack_rows import StackRows
from onelayer.training.state import Problem


def cpu_seconds(work: Callable[[], object]) -> float:
    started = time.thread_time()
    work()
    return time.thread_time() - started


def rows_of(n: int, d: int, K: int, dtype: str) -> Dataset:
    rng = np.random.default_rng(0)
    labels = rng.integers(0, K, n)
    rows = rng.integers(0, 256, (n, d), np.uint8) if dtype == "uint8" else rng.standard_normal((n, d)).astype(dtype)
    return Dataset(rows, labels, tuple(map(str, range(K))), None, "random rows")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for name in ("n", "d", "K"):
        parser.add_argument(name, type=int)
    parser.add_argument("rows", choices=("uint8", "float16", "float32"))
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--heads", type=int, default=13)
    parser.add_argument("--dtype", choices=("float32", "float64"), default="float32")
    asked = parser.parse_args()
    dataset = rows_of(asked.n, asked.d, asked.K, asked.rows)
    splits = split(dataset, SplitConfig())
    rng = np.random.default_rng(1)
    train = Split("train", dataset, rng.permutation(asked.n))
    splits = replace(splits, train=train)
    rates, sgemm = np.logspace(-4, -2, asked.heads), rng.standard_normal((1024, 1024)).astype(asked.dtype)
    works: dict[str, Callable[[], object]] = {}

    def alone(name: str) -> None:
        problem = Problem.of(splits, TrainConfig(backend=name, dtype=asked.dtype))
        start = problem.begin()
        backend = problem.open(start.layer)
        works[f"{name}, epoch"] = lambda: backend.run_epoch(train, 0.01, None, bool)
        works[f"{name}, evaluation"] = lambda: backend.evaluate(start.layer, train, bool)

    if asked.dtype == "float32":
        alone("native")
    alone("numpy")
    problem = Problem.of(splits, TrainConfig(backend="numpy", dtype=asked.dtype, batch_size=100))
    rows = StackRows.in_memory(problem.splits, problem.standardizer.for_training, problem.config)
    stack = rows.stack([Head(problem.begin().layer, rate) for rate in rates])
    works["stack, epoch"] = lambda: rows.train(stack, train, None, bool)
    works["stack, evaluation"] = lambda: rows.evaluate(stack, train, bool)
    works["product"] = lambda: [sgemm @ sgemm for _ in range(4)]
    with one_blas_thread():
        turns = np.array([[cpu_seconds(work) for work in works.values()] for _ in range(asked.rounds + 1)])[1:]
    seconds = dict(zip(works, np.median(turns, axis=0), strict=True))
    print(f"{platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}; ", end="")
    print(f"{asked.n:,} rows ({asked.rows}) x {asked.d:,} x {asked.K}, {asked.dtype}, {asked.heads} heads\n")
    product = 4 * 2 * 1024**3 / seconds["product"]
    print(f"a product of BLAS: {product / 1e9:.0f} GFLOP/s\n")
    print("|                    |  s, all heads | GFLOP/s | of the first | at least |")
    print("|:-------------------|-------------:|--------:|-------------:|---------:|")
    for part, passes in (("epoch", 4), ("evaluation", 2)):
        work = passes * asked.n * asked.d * asked.K * asked.heads
        first = None
        for name in ("native", "numpy", "stack"):
            if f"{name}, {part}" not in seconds:
                continue
            total = seconds[f"{name}, {part}"] * (1 if name == "stack" else asked.heads)
            first = first or total
            figures = (
                f"{total:12.3f} | {work / total / 1e9:7.0f} | {total / first:12.2f} | {work / product / first:8.2f}"
            )
            print(f"| {name + ', ' + part:18} | {figures} |")


if __name__ == "__main__":
    main()
