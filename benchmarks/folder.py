"""CIFAR-10 as 60,000 PNG files: how long they take to read, and whether they are the batches to the last bit.

The files are written to a temporary folder, train/CLASS/NUMBER.png and test/CLASS/NUMBER.png. The plainest parallel
loop over Pillow and our first reading take turns, each round in the other order; then comes our second reading, which
finds the rows in the cache. The files are in the system's cache all along.

    python benchmarks/folder.py [--data SOURCE] [--rounds 3]
"""

import argparse
import os
import platform
import statistics
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL
from PIL import Image

import onelayer
from onelayer.config import COURSEWORK, SplitConfig
from onelayer.data import cache, split
from onelayer.data.dataset import Dataset


def plain_loop(files: list[Path]) -> None:
    with ThreadPoolExecutor() as pool:
        for _ in pool.map(lambda file: np.asarray(Image.open(file).convert("RGB")), files):
            pass


def write_files(batches: Dataset, root: Path) -> Dataset:
    """Write a file for each row; return the rows in the order of the files' names."""
    names = []
    test = batches.parts["test_batch"]
    for place, (row, label) in enumerate(zip(batches.rows, batches.labels, strict=True)):
        part = "test" if test.start <= place < test.stop else "train"
        names.append(((part == "test"), label, place))
        path = root / part / batches.class_names[label] / f"{place:05}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(row.reshape(3, 32, 32).transpose(1, 2, 0)).save(path)
    order = np.array([place for _, _, place in sorted(names)])
    train = len(order) - (test.stop - test.start)
    parts = {"train": slice(0, train), "test": slice(train, len(order))}
    return replace(batches, rows=batches.rows[order], labels=batches.labels[order], parts=parts)


def seconds(work: Callable[[], object]) -> float:
    started = time.perf_counter()
    work()
    return time.perf_counter() - started


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--rounds", type=int, default=3)
    arguments = parser.parse_args()

    batches = onelayer.load(arguments.data)
    with tempfile.TemporaryDirectory() as temporary:
        os.environ["XDG_CACHE_HOME"] = temporary  # ours is not the user's; macOS has its cache where it is
        root = Path(temporary) / "images"
        expected = write_files(batches, root)
        files = sorted(root.glob("*/*/*.png"))
        rows = cache.cache_directory() / "rows"

        def first() -> None:
            for file in rows.glob("*"):
                file.unlink()
            onelayer.load(root)

        plain_loop(files[:2000])
        times: dict[str, list[float]] = {"plain loop": [], "first reading": [], "second reading": []}
        for turn in range(arguments.rounds):
            for name, work in [("plain loop", lambda: plain_loop(files)), ("first reading", first)][
                :: 1 - 2 * (turn % 2)
            ]:
                times[name].append(seconds(work))
            times["second reading"].append(seconds(lambda: onelayer.load(root)))

        found = onelayer.load(root)
        same = found.fingerprint == expected.fingerprint
        config = replace(COURSEWORK, epochs=3)
        models = [onelayer.train(split(dataset, SplitConfig()), config).model for dataset in (found, expected)]
        same_weights = np.array_equal(models[0].layer.weights, models[1].layer.weights)

    versions = f"Python {platform.python_version()}, Pillow {PIL.__version__}"
    print(
        f"{platform.machine()}, {os.cpu_count()} cores, {versions}; {len(files):,} files, {arguments.rounds} rounds\n"
    )
    print("|                | median s | ms each | of the plain loop |")
    print("|----------------|---------:|--------:|------------------:|")
    plain = statistics.median(times["plain loop"])
    for name, values in times.items():
        median = statistics.median(values)
        print(f"| {name:14} | {median:8.2f} | {1e3 * median / len(files):7.3f} | {median / plain:17.2f} |")
    ratios = [ours / theirs for ours, theirs in zip(times["first reading"], times["plain loop"], strict=True)]
    print(f"\nfirst reading over plain loop, round by round: {', '.join(f'{ratio:.2f}' for ratio in ratios)}")
    print(f"the fingerprint of the batches in this order: {'the same' if same else 'ANOTHER'}")
    print(f"the weights after {config.epochs} epochs: {'the same' if same_weights else 'OTHERS'}")
    sys.exit(not (same and same_weights))


if __name__ == "__main__":
    main()
