"""Measure the time of an epoch and the peak memory for numbers of rows, features, classes and threads.

One of n, d and K is varied at a time, from n = 10,000 training rows (as many for validation), d = 3,072, K = 10; random
pixels, batches of 100. The native backend and the plainest good float32 loop of NumPy take turns, each in a process of
its own; the figures are medians over the turns of the median epoch. An epoch trains and then evaluates both splits.

    python benchmarks/sizes.py [--rounds 5] [--epochs 3] [--threads 1 2]
"""

import argparse
import json
import platform
import resource
import statistics
import sys
import time
from dataclasses import replace

import numpy as np
from peers import in_a_process, numpy_float32

import onelayer
from onelayer.config import COURSEWORK
from onelayer.data.dataset import Dataset, Split, Splits

SIZES = [
    *((n, 3072, 10) for n in (1_000, 3_000, 10_000, 30_000, 50_000)),
    *((10_000, d, 10) for d in (64, 256, 768, 12_288)),
    *((10_000, 3072, K) for K in (2, 100, 300)),
    (2_000, 3072, 1000),
]
NAMES = ("onelayer", "NumPy float32")


def made_splits(n: int, d: int, K: int) -> Splits:
    rng = np.random.default_rng(0)
    rows = rng.integers(0, 256, (2 * n + K, d), dtype=np.uint8)
    labels = rng.integers(0, K, len(rows))
    dataset = Dataset(rows, labels, tuple(map(str, range(K))), None, "made")
    places = np.split(np.arange(len(rows)), [n, 2 * n])
    train, validation, test = (
        Split(*it) for it in zip(("train", "validation", "test"), [dataset] * 3, places, strict=True)
    )
    return Splits(train, validation, test, "made")


def turn(name: str, n: int, d: int, K: int, epochs: int, threads: int) -> dict[str, float]:
    splits = made_splits(n, d, K)
    if name == "onelayer":
        config = replace(COURSEWORK, epochs=epochs + 2, threads=threads, backend="native", learning_rate=1e-5)
        seconds = [record.seconds for record in onelayer.train(splits, config).state.history[1:-1]]
    else:
        epoch, seconds = numpy_float32(splits), []
        for _ in range(epochs + 1):
            order = np.random.default_rng(0).permutation(n)
            started = time.perf_counter()
            epoch(order)
            seconds.append(time.perf_counter() - started)
        seconds = seconds[1:]
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    return {"seconds": statistics.median(seconds), "peak": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=3)
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--turn", nargs=4, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turn:
        name, *size = arguments.turn
        print(json.dumps(turn(name, *map(int, size), arguments.epochs, arguments.threads[0])))
        return
    print(f"{platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}; ", end="")
    print(f"medians of {arguments.rounds} turns of {arguments.epochs} epochs\n")
    print("|      n |      d |    K | threads | onelayer ms | GFLOP/s | NumPy ms | times | onelayer MB | NumPy MB |")
    print("|-------:|-------:|-----:|--------:|------------:|--------:|---------:|------:|------------:|---------:|")
    for n, d, K in SIZES:
        for threads in arguments.threads:
            found: dict[str, list[dict[str, float]]] = {name: [] for name in NAMES}
            for _ in range(arguments.rounds):
                for name, turns in found.items():
                    words = ["--turn", name, str(n), str(d), str(K), "--epochs", str(arguments.epochs)]
                    turns.append(in_a_process([*words, "--threads", str(threads)], threads, __file__))
            (ours, theirs), (our_peak, peak) = (
                [statistics.median(turn[what] for turn in turns) for turns in found.values()]
                for what in ("seconds", "peak")
            )
            print(
                f"| {n:6,} | {d:6,} | {K:4} | {threads:7} | {1e3 * ours:11.1f} | {8e-9 * n * d * K / ours:7.0f} | ",
                end="",
            )
            print(
                f"{1e3 * theirs:8.1f} | {theirs / ours:5.1f} | {our_peak / 1e6:11.0f} | {peak / 1e6:8.0f} |", flush=True
            )


if __name__ == "__main__":
    main()
