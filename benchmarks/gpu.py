"""Measure the backend torch on a GPU: the tests, the coursework's run, and 1,281,167 embeddings of 1,000 classes.

    python benchmarks/gpu.py [--device cuda] [--data DIRECTORY] [--scale 1] [--no-tests]

The coursework's run is 40 epochs of 10,000 images with evaluation; without --data, the images are random. The
embeddings are 768 float16 features, for which 13 learning rates are trained at once for 10 epochs. --scale 0.01 with
--device cpu tries the script on a small share of the rows. `python benchmarks/clock.py` says what to expect.
"""

import argparse
import platform
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch

import onelayer
from onelayer.config import COURSEWORK, SplitConfig, TrainConfig
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.features.standardizer import Standardizer
from onelayer.layer import SoftmaxLayer
from onelayer.training.backends import devices
from onelayer.training.backends.pytorch import TorchBackend

TESTS = ("test_torch_backend.py", "test_backends.py", "test_constant_features.py", "test_stack.py")
RATES = tuple(10 ** np.linspace(-4, 0, 13))
EMBEDDINGS, FEATURES, CLASSES, BATCH = 1_281_167, 768, 1000, 1024


def splits_of(rows: np.ndarray, labels: np.ndarray, K: int, ends: tuple[int, int]) -> Splits:
    """Return splits of rows, of which the first are training rows and the last test rows."""
    dataset = Dataset(rows, labels, tuple(map(str, range(K))), None, "made")
    places = np.split(np.arange(len(rows)), ends)
    parts = (Split(name, dataset, place) for name, place in zip(("train", "validation", "test"), places, strict=True))
    return Splits(*parts, "made")


def images(scale: float) -> Splits:
    rng, n = np.random.default_rng(0), max(200, int(10_000 * scale))
    rows = rng.integers(0, 256, (3 * n, 3072), dtype=np.uint8)
    return splits_of(rows, rng.integers(0, 10, 3 * n), 10, (n, 2 * n))


def embeddings(scale: float) -> Splits:
    rng, n = np.random.default_rng(0), max(2 * BATCH, int(EMBEDDINGS * scale))
    labels = rng.integers(0, CLASSES, n)
    centres = rng.standard_normal((CLASSES, FEATURES), dtype=np.float32)
    rows = np.empty((n, FEATURES), np.float16)
    for start in range(0, n, 2**15):
        block = labels[start : start + 2**15]
        rows[start : start + 2**15] = 0.1 * centres[block] + rng.standard_normal((len(block), FEATURES), np.float32)
    held = n // 100
    return splits_of(rows, labels, CLASSES, (n - 2 * held, n - held))


def seconds_of(work: Callable[[], object], rounds: int) -> list[float]:
    """Return the wall time of each of several rounds."""
    found = []
    for _ in range(rounds):
        started = time.perf_counter()
        work()
        found.append(time.perf_counter() - started)
    return found


def run_tests() -> None:
    """Run the tests of the backends; their default device is the first GPU."""
    tests = Path(__file__).parents[1] / "tests"
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", *(str(tests / name) for name in TESTS)]
    if subprocess.run(command, cwd=tests.parent).returncode:
        sys.exit("the tests failed: figures of wrong results say nothing")
    print("tests: passed", flush=True)


def run_coursework(splits: Splits, device: str) -> None:
    """Print the time of the coursework's run, its agreement with NumPy in float64, and whether its bits repeat."""
    config = replace(COURSEWORK, backend="torch", device=device)
    cold = seconds_of(lambda: onelayer.train(splits, config), 1)[0]
    warm = seconds_of(lambda: onelayer.train(splits, config), 5)
    print(f"coursework, 40 epochs of {len(splits.train):,} x 3,072 with evaluation: {sorted(warm)[2]:.3f} s", end="")
    print(f" (median of 5, {min(warm):.3f} to {max(warm):.3f}; the first {cold:.2f} s)")
    results = [onelayer.train(splits, replace(config, epochs=3)).model.layer.weights for _ in range(2)]
    print("  its bits repeat:", results[0].tobytes() == results[1].tobytes())
    exact = onelayer.train(splits, replace(config, epochs=1, dtype="float64", backend="numpy", device="auto"))
    found = onelayer.train(splits, replace(config, epochs=1)).model.layer.weights
    wanted = exact.model.layer.weights
    print(
        f"  after an epoch, relative to NumPy's float64: {np.linalg.norm(found - wanted) / np.linalg.norm(wanted):.1e}"
    )


def run_embeddings(splits: Splits, device: str, epochs: int) -> None:
    """Print the time of 13 learning rates at once, and of one of them alone by the backend, for each precision."""
    from onelayer.training.stack import Head
    from onelayer.training.stack_rows import StackRows

    train = splits.train
    standardizer = Standardizer.fit(train.row_blocks(2**14)).for_training
    layer = SoftmaxLayer.initial(FEATURES, CLASSES, np.random.default_rng(0), init_std=0.0, dtype="float32")
    rng = np.random.default_rng(0)
    orders = [replace(train, indices=train.indices[rng.permutation(len(train))]) for _ in range(epochs)]
    wide = f"{len(train):,} x {FEATURES} float16 x {CLASSES:,}"
    for precision in ("full", "tf32", "bfloat16"):
        config = TrainConfig(batch_size=BATCH, backend="torch", device=device, precision=precision, init_std=0.0)
        if TorchBackend.obstacle(splits.dataset, config):
            continue
        backend = TorchBackend(splits, config, standardizer, layer)
        seconds = seconds_of(lambda: (backend.run_epoch(orders[0], RATES[6], None, bool), backend.layer), 3)  # noqa: B023
        print(f"an epoch of {wide}, one learning rate, {precision}: {sorted(seconds)[1]:.2f} s", flush=True)

    def stacked() -> None:
        config = TrainConfig(batch_size=BATCH, backend="torch", device=device)
        rows = StackRows.on_device(splits, standardizer, config, columns=len(RATES) * CLASSES)
        with rows.working():
            stack = rows.stack([Head(layer, rate) for rate in RATES])
            for order in orders:
                rows.train(stack, order, None, bool)
            totals = rows.evaluate(stack, splits.validation, bool)
        best = max(total.right for total in totals) / splits.validation.weight
        print(f"  best validation accuracy of {len(totals)} learning rates: {best:.4f}")

    print(f"{epochs} epochs of {wide}, {len(RATES)} learning rates at once: {seconds_of(stacked, 1)[0]:.1f} s")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda")
    parser.add_argument("--data", help="where CIFAR-10 is, for the coursework's run")
    parser.add_argument("--scale", type=float, default=1.0, help="share of the rows")
    parser.add_argument("--epochs", type=int, default=10, help="of the embeddings")
    parser.add_argument("--no-tests", action="store_true")
    arguments = parser.parse_args()
    config = TrainConfig(backend="torch", device=arguments.device)
    versions = f"PyTorch {torch.__version__}, NumPy {np.__version__}"
    print(f"{devices.in_words(config)}; {platform.platform()}, {versions}", flush=True)
    if not arguments.no_tests:
        run_tests()
    data = onelayer.load_splits(arguments.data, SplitConfig()) if arguments.data else images(arguments.scale)
    run_coursework(data, arguments.device)
    run_embeddings(embeddings(arguments.scale), arguments.device, arguments.epochs)


if __name__ == "__main__":
    main()
