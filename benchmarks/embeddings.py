"""A linear probe on 200,000 made embeddings of 768 numbers in 100 classes, whose best possible classifier is known.

An embedding is made of 64 hidden numbers, normal about the mean of its class with the same covariance in all classes,
taken through a fixed matrix to 768 features, plus noise; each feature has a unit and an origin of its own. Of such
classes the best classifier is linear, and follows from the true means and covariance; its accuracy on the test rows is
the optimum. The set is trained in memory, from a memory map, and from a memory map in a control group of Linux with a
quarter of the array's size (RLIMIT_DATA where no group may be made). "Own" memory is what the process takes for itself;
"resident" counts the pages of the file too, which the system may take back.

    python benchmarks/embeddings.py [--rows 200000] [--epochs 5] [--blocks 64] [--folder .]
"""

import argparse
import json
import platform
import resource
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from limits import AnonymousPeak, forget, limited, run

import onelayer
from onelayer.config import COURSEWORK, SplitConfig, TrainConfig
from onelayer.data.dataset import Dataset
from onelayer.data.protocols import split

D, K, HIDDEN, APART, NOISE, BLOCK = 768, 100, 64, 5, 0.3, 4096


class Embeddings:
    """The distribution: its parameters, rows drawn from it, and its best classifier."""

    def __init__(self, rng: np.random.Generator) -> None:
        self.rng = rng
        self.means = rng.standard_normal((K, HIDDEN)) * APART / np.sqrt(HIDDEN)
        self.mixing = rng.standard_normal((HIDDEN, D)) / 8
        self.unit, self.origin = np.exp(rng.uniform(-2, 2, D)), rng.normal(0, 3, D)

    def draw(self, labels: np.ndarray) -> np.ndarray:
        """Rows (n, D), float32, with these labels (n,)."""
        n = len(labels)
        hidden = self.means[labels] + self.rng.standard_normal((n, HIDDEN))
        X = hidden @ self.mixing + NOISE * self.rng.standard_normal((n, D))
        return (self.origin + self.unit * X).astype(np.float32)

    def best_logits(self, rows: np.ndarray) -> np.ndarray:
        """Return log posteriors (n, K), up to a constant of each row."""
        means = self.means @ self.mixing  # (K, D)
        W = np.linalg.solve(self.mixing.T @ self.mixing + NOISE**2 * np.eye(D), means.T)  # (D, K)
        return (rows - self.origin) / self.unit @ W - np.einsum("kd,dk->k", means, W) / 2


def make(folder: Path, n: int, test: int) -> float:
    """Write X.npy and y.npy, a few rows at a time; the last rows are the test's. Returns the best accuracy on them."""
    rng = np.random.default_rng(0)
    embeddings, labels = Embeddings(rng), rng.integers(0, K, n)
    np.save(folder / "y.npy", labels)
    right = 0
    with (folder / "X.npy").open("wb") as file:
        np.lib.format.write_array_header_1_0(file, {"descr": "<f4", "fortran_order": False, "shape": (n, D)})
        for start in range(0, n, BLOCK):
            y = labels[start : start + BLOCK]
            rows = embeddings.draw(y)
            file.write(rows.data)
            tested = max(0, n - test - start)
            right += int((embeddings.best_logits(rows[tested:]).argmax(axis=1) == y[tested:]).sum())
    return right / test


def turn(folder: Path, mapped: bool, test: int, config: TrainConfig) -> dict[str, float]:
    anonymous = AnonymousPeak()
    rows, labels = np.load(folder / "X.npy", mmap_mode="r" if mapped else None), np.load(folder / "y.npy")
    parts = {"train": slice(0, len(rows) - test), "test": slice(len(rows) - test, len(rows))}
    dataset = Dataset(rows, labels, tuple(map(str, range(K))), None, "embeddings", parts)
    splits = split(dataset, SplitConfig(protocol="full", validation_size=test // 2))
    started = time.perf_counter()
    result = onelayer.train(splits, config)
    seconds = time.perf_counter() - started
    peak = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    accuracy = result.scores["test"].accuracy
    return {"seconds": seconds, "accuracy": accuracy, "own": anonymous.bytes, "resident": peak}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rows", type=int, default=200_000)
    parser.add_argument("--epochs", type=int, default=5)
    parser.add_argument("--blocks", type=int, default=64)
    parser.add_argument("--folder", type=Path, default=Path())
    parser.add_argument("--turn", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    test = arguments.rows // 10
    config = replace(
        COURSEWORK,
        learning_rate=0.05,
        batch_size=200,
        epochs=arguments.epochs,
        decay_every=2,
        decay_factor=0.2,
        shuffle_blocks=int(arguments.turn[2]) if arguments.turn else 0,
    )
    if arguments.turn:
        print(json.dumps(turn(Path(arguments.turn[0]), arguments.turn[1] == "map", test, config)))
        return
    size = arguments.rows * D * 4
    with tempfile.TemporaryDirectory(dir=arguments.folder) as name, limited(size // 4) as group:
        folder = Path(name).resolve()
        best = make(folder, arguments.rows, test)
        print(f"{platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}")
        print(f"{arguments.rows:,} x {D}, float32: {size / 1e6:.0f} MB; {config.in_words()}")
        print(f"the best possible accuracy on the {test:,} test rows: {100 * best:.2f} %\n")
        print("| from | allowed MB | blocks of | seconds | test accuracy | below the best | own MB | resident MB |")
        print("|---|---|---|---|---|---|---|---|")
        limit = size // 4
        for where, blocks, allowed in (("memory", 0, None), ("map", 0, None), ("map", arguments.blocks, limit)):
            forget(folder / "X.npy")
            command = [sys.executable, __file__, "--turn", str(folder), where, str(blocks)]
            command += ["--rows", str(arguments.rows), "--epochs", str(arguments.epochs)]
            found = json.loads(run(command, group if allowed else None, allowed))
            accuracy, below = 100 * found["accuracy"], 100 * (best - found["accuracy"])
            print(
                f"| {where} | {f'{limit / 1e6:.0f}' if allowed else ''} | {blocks or ''} | {found['seconds']:.1f} ",
                end="",
            )
            print(f"| {accuracy:.2f} % | {below:.2f} | {found['own'] / 1e6:.0f} | {found['resident'] / 1e6:.0f} |")
            sys.stdout.flush()


if __name__ == "__main__":
    main()
