"""The NumPy backend, fed with uint8 rows, against the plainest good float32 loop on standardised float rows.

Both do the work of the coursework's run, in each epoch 100 steps of 100 rows, then loss and accuracy on 10,000
training and 10,000 validation rows. They take turns in one process; the figures are medians over the epochs.

    python benchmarks/numpy_loop.py [--data SOURCE] [--rounds N]
"""

import argparse
import platform
import resource
import sys
import time
from dataclasses import replace

import numpy as np
from peers import numpy_float32

import onelayer
from onelayer.config import COURSEWORK, SplitConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--rounds", type=int, default=5, help="runs of each, taking turns")
    arguments = parser.parse_args()

    splits = onelayer.load_splits(arguments.data, SplitConfig(protocol="batch"))
    config = replace(COURSEWORK, epochs=20, backend="numpy")
    rng = np.random.default_rng(0)
    plain = numpy_float32(splits)
    seconds: dict[str, list[float]] = {"plain loop": [], "onelayer": []}
    for _ in range(arguments.rounds):
        for _ in range(config.epochs):
            order = rng.permutation(len(splits.train))
            started = time.perf_counter()
            plain(order)
            seconds["plain loop"].append(time.perf_counter() - started)
        seconds["onelayer"] += [record.seconds for record in onelayer.train(splits, config).state.history]

    versions = f"Python {platform.python_version()}, NumPy {np.__version__}"
    print(f"{platform.machine()}, {versions}, {arguments.rounds} runs of {config.epochs} epochs each, taking turns")
    for name, times in seconds.items():
        print(f"{name:12} median {1e3 * np.median(times):6.1f} ms, quickest {1e3 * min(times):6.1f} ms an epoch")
    ratio = np.median(seconds["onelayer"]) / np.median(seconds["plain loop"])
    print(f"onelayer needs {ratio:.2f} times the time of the plain loop")
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * (1 if sys.platform == "darwin" else 1024)
    print(f"peak memory of this process, float copies of the plain loop included: {peak / 1e6:.0f} MB")


if __name__ == "__main__":
    try:
        main()
    except onelayer.OnelayerError as error:
        sys.exit(str(error))
