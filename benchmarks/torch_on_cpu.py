"""Measure the backend torch on a CPU beside native and NumPy: CPU seconds of an epoch, scores, and agreement.

    python benchmarks/torch_on_cpu.py [--data DIRECTORY] [--rounds 5]

The backends take turns in one process, each on one thread; the figures are medians over the rounds. An epoch trains on
all rows once and does not evaluate; "scores" evaluates the same rows. An error is the distance of the weights, after
an epoch, from those of NumPy in float64, relative to their length, for the three backends in this order. Without --data
the images of the coursework are random.
"""

import argparse
import platform
import statistics
import time
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch

import onelayer
from onelayer.blas import one_blas_thread
from onelayer.config import COURSEWORK, SplitConfig, TrainConfig
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.features.standardizer import Standardizer
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES
from onelayer.training.backends.array import ArrayBackend
from onelayer.training.backends.native import NativeBackend
from onelayer.training.backends.pytorch import TorchBackend

BACKENDS = (NativeBackend, ArrayBackend, TorchBackend)


def made(n: int, d: int, K: int, dtype: str) -> Split:
    rng = np.random.default_rng(0)
    pixels = dtype == "uint8"
    rows = rng.integers(0, 256, (n, d), np.uint8) if pixels else rng.standard_normal((n, d), np.float32).astype(dtype)
    return Dataset(rows, rng.integers(0, K, n), tuple(map(str, range(K))), None, "made").everything


def seconds_of(work: Callable[[], object]) -> float:
    started = time.process_time()
    work()
    return time.process_time() - started


def measure(split: Split, config: TrainConfig, rounds: int) -> list[tuple[float, float, float]]:
    """Return CPU seconds of an epoch and of scores, and the error, for each backend."""
    splits, dataset = Splits(split, split, split, "made"), split.dataset
    order = replace(split, indices=np.random.default_rng(1).permutation(split.indices))
    standardizer = Standardizer.fit(split.row_blocks(2**12)).for_training
    d, K, rate = dataset.rows.shape[1], len(dataset.class_names), float(config.learning_rate)

    def begun(kind: type, dtype: str) -> ArrayBackend | NativeBackend:
        layer = SoftmaxLayer(np.zeros((K, d), dtype).T, np.zeros(K, dtype), LOSSES["softmax"])
        return kind(splits, replace(config, dtype=dtype), standardizer, layer)

    with one_blas_thread():
        exact = begun(ArrayBackend, "float64")
        exact.run_epoch(order, rate, None, bool)
        wanted = exact.layer.weights
        found: list[tuple[list[float], list[float], list[float]]] = [([], [], []) for _ in BACKENDS]
        for _ in range(rounds):
            for kind, (training, scoring, errors) in zip(BACKENDS, found, strict=True):
                backend = begun(kind, "float32")
                training.append(seconds_of(lambda: backend.run_epoch(order, rate, None, bool)))  # noqa: B023
                layer = backend.layer
                scoring.append(seconds_of(lambda: backend.evaluate(layer, split, bool)))  # noqa: B023
                errors.append(float(np.linalg.norm(layer.weights - wanted) / np.linalg.norm(wanted)))
    return [
        (statistics.median(training), statistics.median(scoring), max(errors)) for training, scoring, errors in found
    ]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", help="where CIFAR-10 is")
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    steps = replace(COURSEWORK, init_std=0.0)
    images = (
        onelayer.load_splits(arguments.data, SplitConfig()).train if arguments.data else made(10_000, 3072, 10, "uint8")
    )
    problems = {
        "10,000 x 3,072 uint8 x 10, batches of 100": (images, steps),
        "50,000 x 768 float32 x 100, batches of 100": (made(50_000, 768, 100, "float32"), steps),
        "50,000 x 768 float16 x 100, batches of 1,024": (
            made(50_000, 768, 100, "float16"),
            replace(steps, batch_size=1024),
        ),
        "20,000 x 1,024 float32 x 1,000, batches of 1,024": (
            made(20_000, 1024, 1000, "float32"),
            replace(steps, batch_size=1024),
        ),
    }
    print(f"{platform.platform()}, PyTorch {torch.__version__}, NumPy {np.__version__}; CPU seconds on one thread\n")
    print("| rows x features x classes | native | NumPy | torch | torch/native | torch/NumPy | errors |")
    print("|---|---|---|---|---|---|---|")
    for name, (split, config) in problems.items():
        native, array, tensors = measure(split, config, arguments.rounds)
        errors = ", ".join(f"{error:.1e}" for *_, error in (native, array, tensors))
        for what, place in (("epoch", 0), ("scores", 1)):
            a, b, c = native[place], array[place], tensors[place]
            tail = errors if what == "epoch" else ""
            print(f"| {name}, {what} | {a:.3f} | {b:.3f} | {c:.3f} | {c / a:.2f} | {c / b:.2f} | {tail} |", flush=True)


if __name__ == "__main__":
    main()
