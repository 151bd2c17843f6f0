"""Time the training of a set ten times as large as the allowed memory, and compare with the speed of the disk.

Rows of pixels, sorted by class, are written to a file; training reads them from a memory map, in a process that a
control group of Linux gives a tenth of the file's size, the system's cache of the file included. Where no group may be
made, RLIMIT_DATA limits what the process takes for itself, and the cache goes unlimited. Before a turn the system is
made to forget the file. An epoch reads the training rows twice, to train on them and to evaluate, and the validation
rows once; its speed is that of all these bytes. The disk's is that of `cat FILE > /dev/null` under the same limit,
before each turn, as others may use the disk too.

    python benchmarks/larger_than_memory.py [--gigabytes 2] [--blocks 128 0] [--epochs 2] [--patience 60] [--folder .]
"""

import argparse
import json
import platform
import resource
import signal
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
from limits import AnonymousPeak, forget, limited, run

import onelayer
from onelayer.config import COURSEWORK, SplitConfig
from onelayer.data.dataset import Dataset, Splits
from onelayer.data.protocols import split

D, K, BLOCK = 3072, 10, 4096


def make(path: Path, n: int) -> None:
    """Write noisy pictures of K prototypes as a .npy file, a few at a time."""
    rng = np.random.default_rng(0)
    prototypes = rng.integers(0, 24, (K, D), np.uint8)
    labels = labels_of(n)
    with path.open("wb") as file:
        header = {"descr": "|u1", "fortran_order": False, "shape": (n, D)}
        np.lib.format.write_array_header_1_0(file, header)
        for start in range(0, n, BLOCK):
            y = labels[start : start + BLOCK]
            file.write((prototypes[y] + rng.integers(0, 232, (len(y), D), np.uint8)).data)


def parts_of(n: int) -> dict[str, slice]:
    """Rows drawn from everywhere for validation would cost every epoch another pass over the file."""
    ends = [0, n * 18 // 20, n * 19 // 20, n]
    return {name: slice(*ends[part : part + 2]) for part, name in enumerate(("train", "validation", "test"))}


def labels_of(n: int) -> np.ndarray:
    """Sorted within each part."""
    sizes = [part.stop - part.start for part in parts_of(n).values()]
    return np.concatenate([np.arange(size) * K // size for size in sizes])


def read_splits(path: Path) -> Splits:
    rows = np.load(path, mmap_mode="r")
    dataset = Dataset(rows, labels_of(len(rows)), tuple(map(str, range(K))), (3, 32, 32), "made", parts_of(len(rows)))
    return split(dataset, SplitConfig(protocol="given"))


def turn(what: str, path: Path, blocks: int, epochs: int, patience: float) -> dict[str, object]:
    anonymous = AnonymousPeak()
    started, cpu = time.perf_counter(), time.process_time()
    splits = read_splits(path)
    splits.dataset.scan()
    row_bytes = splits.dataset.rows.itemsize * D
    found: dict[str, object] = {}
    if what == "scan":
        found["bytes"] = splits.dataset.rows.nbytes
    elif what == "standardize":
        found["bytes"] = len(splits.train) * row_bytes
        forget(path)
        started, cpu = time.perf_counter(), time.process_time()
        splits.standardizer  # noqa: B018
    else:
        config = replace(COURSEWORK, shuffle_blocks=blocks, epochs=epochs, backend=what, learning_rate=1e-4)
        standardizer = splits.standardizer
        started, cpu = time.perf_counter(), time.process_time()
        try:
            result = onelayer.train(
                splits,
                config,
                standardizer=standardizer,
                report_test=False,
                cancelled=lambda: time.perf_counter() > started + patience,
            )
            found["bytes"] = epochs * (2 * len(splits.train) + len(splits.validation)) * row_bytes
            found["accuracy"] = result.scores["validation"].accuracy
        except InterruptedError:
            pass
    found["seconds"] = time.perf_counter() - started
    found["cpu"] = time.process_time() - cpu
    found["anonymous"] = anonymous.bytes
    found["peak"] = 1024 * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--gigabytes", type=float, default=2)
    parser.add_argument("--blocks", type=int, nargs="+", default=[128, 0])
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--patience", type=float, default=60, help="seconds after which a training is given up")
    parser.add_argument("--backends", nargs="+", default=["native", "numpy"])
    parser.add_argument("--folder", type=Path, default=Path(), help="on the disk to measure")
    parser.add_argument("--turn", nargs=3, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.turn:
        what, path, blocks = arguments.turn
        print(json.dumps(turn(what, Path(path), int(blocks), arguments.epochs, arguments.patience)))
        return
    n = int(arguments.gigabytes * 1e9 / D)
    limit = n * D // 10
    with tempfile.TemporaryDirectory(dir=arguments.folder) as folder, limited(limit) as group:
        path = Path(folder).resolve() / "X.npy"
        make(path, n)
        what = "a control group" if group else "RLIMIT_DATA, which does not count the pages of files"
        print(f"{platform.platform()}, Python {platform.python_version()}, NumPy {np.__version__}")
        print(f"{n:,} rows of {D:,} pixels, {n * D / 1e6:,.0f} MB; {limit / 1e6:.0f} MB allowed by {what}\n")
        print("| what | blocks of | seconds | CPU s | GB/s | disk GB/s | validation | own MB | resident MB |")
        print("|---|---|---|---|---|---|---|---|---|")
        turns = [("scan", 0), ("standardize", 0), *((b, rows) for rows in arguments.blocks for b in arguments.backends)]
        for what, blocks in turns:
            forget(path)
            started = time.perf_counter()
            run(["sh", "-c", f"cat '{path}' > /dev/null"], group, limit)
            disk = path.stat().st_size / (time.perf_counter() - started)
            forget(path)
            command = [sys.executable, __file__, "--turn", what, str(path), str(blocks)]
            command += ["--epochs", str(arguments.epochs), "--patience", str(arguments.patience)]
            try:
                found = json.loads(run(command, group, limit))
            except subprocess.CalledProcessError as error:  # the system ends who takes more than is allowed
                print(f"| {what} | {blocks or ''} | ended by {signal.Signals(-error.returncode).name} |", flush=True)
                continue
            seconds = found["seconds"]
            speed = f"{found['bytes'] / seconds / 1e9:.2f}" if "bytes" in found else "not one run"
            accuracy = f"{100 * found['accuracy']:.1f} %" if "accuracy" in found else ""
            memory = [f"{found[which] / 1e6:.0f}" for which in ("anonymous", "peak")]
            cells = [what, blocks or "", f"{seconds:.1f}", f"{found['cpu']:.1f}", speed, f"{disk / 1e9:.2f}", accuracy]
            print("|", " | ".join(map(str, cells + memory)), "|")
            sys.stdout.flush()
        if group:
            print(f"\nThe most that the group took: {group.peak() / 1e6:.0f} MB")


if __name__ == "__main__":
    main()
