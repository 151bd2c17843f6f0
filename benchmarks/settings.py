"""Train the settings of the README's table on CIFAR-10 and print the table.

python benchmarks/settings.py [--data SOURCE] [--seeds N]
"""

import argparse
import sys
from dataclasses import replace

import numpy as np

import onelayer
from onelayer import SplitConfig
from onelayer.config import COURSEWORK

DECAY = {"flip": True, "decay_every": 10, "decay_factor": 0.1}
SETTINGS = [
    ("0.1 / 0", "batch", replace(COURSEWORK, learning_rate=0.1)),
    ("0.001 / 0", "batch", COURSEWORK),
    ("0.001 / 0.1", "batch", replace(COURSEWORK, l2=0.1)),
    ("0.001 / 1", "batch", replace(COURSEWORK, l2=1.0)),
    ("0.01 / 0, sigmoid", "batch", replace(COURSEWORK, learning_rate=0.01, loss="sigmoid")),
    ("0.01 / 0, all batches, flips, decay", "full", replace(COURSEWORK, learning_rate=0.01, **DECAY)),
]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--seeds", type=int, default=5, help="from 42 on")
    arguments = parser.parse_args()

    columns = ("train", "validation", "test", "test after epoch 1")
    print(f"| learning rate / lambda | {' | '.join(columns)} |")
    print("|---" * (len(columns) + 1) + "|")
    splits = {}
    for name, protocol, config in SETTINGS:
        if protocol not in splits:
            splits[protocol] = onelayer.load_splits(arguments.data, SplitConfig(protocol=protocol))
        figures = []
        for seed in range(42, 42 + arguments.seeds):
            result = onelayer.train(splits[protocol], replace(config, seed=seed))
            accuracies = [result.scores[split].accuracy for split in ("train", "validation", "test")]
            figures.append([*accuracies, result.state.history[0].test_accuracy])
        mean, deviation = np.mean(figures, axis=0), np.std(figures, axis=0, ddof=1)
        cells = (f"{100 * m:.1f} ± {100 * s:.1f} %" for m, s in zip(mean, deviation, strict=True))
        print(f"| {name} | {' | '.join(cells)} |", flush=True)


if __name__ == "__main__":
    try:
        main()
    except onelayer.OnelayerError as error:
        sys.exit(str(error))
