"""Make the mistakes that `onelayer diagnose` knows, on CIFAR-10, and write down the figures that they give.

    python tools/make_signatures.py [--data SOURCE] [--seeds N] [--out FILE]

Every mistake is made in the four settings of the protocol, with the seeds from 0 on, and mean and standard deviation
of each figure are written where the package looks for them. With 20 seeds it takes about ten minutes.
"""

import argparse
import json
import platform
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from importlib.metadata import version
from pathlib import Path

import numpy as np
from numpy.lib.stride_tricks import sliding_window_view
from threadpoolctl import threadpool_limits

import onelayer
from onelayer import SoftmaxLayer, SplitConfig, Standardizer, TrainConfig
from onelayer.config import COURSEWORK
from onelayer.data import Dataset, Split, Splits
from onelayer.experiments.coursework.diagnosis import FIGURES, MISTAKES, SIGNATURES, TABLED
from onelayer.training.backends.registry import choose_backend


@dataclass(frozen=True)
class Training:
    """The training of a layer; by default without a mistake.

    Parameters
    ----------
    config : callable
        Turns the right settings into those trained with.
    batches : callable
        Turns a permutation of the places of the rows (n,) into those of each batch, (batches, rows).
    splits : callable
        Turns the right rows into those trained with.
    """

    config: Callable[[TrainConfig], TrainConfig] = lambda config: config
    batches: Callable[[np.ndarray], np.ndarray] = lambda order: order.reshape(-1, 100)
    splits: Callable[[Splits], Splits] = lambda splits: splits


def mixed_up(splits: Splits) -> Splits:
    """The same images, their rows for columns."""
    dataset = splits.dataset
    images = dataset.rows.reshape(-1, *dataset.image_shape).swapaxes(2, 3)  # (n, c, w, h)
    other: Dataset = replace(dataset, rows=images.reshape(dataset.rows.shape))
    return Splits(*(Split(split.name, other, split.indices) for split in splits), splits.protocol)


NO_MISTAKE = Training()
TRAININGS = {
    "none": NO_MISTAKE,
    "init-0.1": Training(config=lambda config: replace(config, init_std=0.1)),
    "init-1": Training(config=lambda config: replace(config, init_std=1.0)),
    "penalty-2": Training(config=lambda config: replace(config, l2=config.l2 / 2)),
    "rate-0.01": Training(
        config=lambda config: replace(config, learning_rate={0.001: 0.01}.get(config.learning_rate, 0.1))
    ),
    "no-shuffling": Training(batches=lambda order: np.arange(len(order)).reshape(-1, 100)),
    "overlap-half": Training(batches=lambda order: sliding_window_view(order, 100)[::50]),
    "overlap-99": Training(batches=lambda order: sliding_window_view(order, 100)[:100]),
    "overlap-1": Training(batches=lambda order: sliding_window_view(order, 101)[::100]),
    "skip-half": Training(batches=lambda order: order.reshape(-1, 100)[::2]),
    "skip-1": Training(batches=lambda order: order.reshape(-1, 100)[:, :99]),
    "rows-for-columns": Training(splits=cache(mixed_up)),
}


def pixels(divisor: float) -> Callable[[Splits, Split], tuple[Split, Standardizer]]:
    """Pixels divided by a number in place of standardised rows."""

    def evaluated(_: Splits, split: Split) -> tuple[Split, Standardizer]:
        d = split.dataset.rows.shape[1]
        return split, Standardizer(np.zeros(d), np.full(d, divisor))

    return evaluated


@cache
def own_mean(_: Splits, split: Split) -> tuple[Split, Standardizer]:
    """Rows standardised with their own mean and standard deviation."""
    return split, Standardizer.fit(split.row_blocks(512))


# The rows that a figure is measured on, and what standardises them, in place of those of the test rows.
EVALUATIONS: dict[str, Callable[[Splits, Split], tuple[Split, Standardizer]]] = {
    "pixels-255": pixels(1.0),
    "pixels-1": pixels(255.0),
    "own-mean": own_mean,
    "training-rows": lambda splits, _: (splits.train, splits.standardizer),
}


def config(setting: str, seed: int) -> TrainConfig:
    """One of the settings of the protocol."""
    learning_rate, l2 = map(float, setting.split(","))
    return replace(COURSEWORK, learning_rate=learning_rate, l2=l2, seed=seed)


def figures(splits: Splits, mistake: str, config: TrainConfig) -> dict[str, float]:
    """Return each of FIGURES as one of MISTAKES gives it, accuracies as fractions.

    A mistake of evaluation is made on the test rows alone, or with -both on the validation rows, too.
    """
    training = TRAININGS.get(mistake, NO_MISTAKE)
    evaluation = EVALUATIONS.get(mistake.removesuffix("-both"))
    wrong = {"test", "validation"} if mistake.endswith("-both") else {"test"}
    splits_of_training = training.splits(splits)
    found = {}
    for when, layer in trained(splits, training, config).items():
        for split in splits_of_training:
            rows, standardizer = split, splits_of_training.standardizer
            if evaluation and split.name in wrong:
                rows, standardizer = evaluation(splits, split)
            backend = choose_backend(rows.dataset, config)(splits, config, standardizer, layer)
            totals = backend.evaluate(layer, rows, bool)
            loss = totals.loss / len(rows)
            found[split.name + when] = totals.right / len(rows)
            found[f"{split.name}-loss{when}"] = loss
            found[f"{split.name}-cost{when}"] = loss + float(layer.penalty(config.l2))
    return found


@lru_cache(maxsize=1)
def trained(splits: Splits, training: Training, config: TrainConfig) -> dict[str, SoftmaxLayer]:
    """The layers after the first and the last epoch, by the endings of their figures' names."""
    splits, config = training.splits(splits), training.config(config)
    n, d = len(splits.train), splits.dataset.rows.shape[1]
    rng = np.random.default_rng(config.seed)
    K = len(splits.dataset.class_names)
    start = SoftmaxLayer.initial(d, K, rng, init_std=config.init_std, dtype=config.dtype)
    config = replace(config, batch_size=training.batches(np.arange(n)).shape[1])
    backend = choose_backend(splits.dataset, config)(splits, config, splits.standardizer, start)
    layers = {}
    with threadpool_limits(limits=1, user_api="blas"):
        for epoch in range(1, config.epochs + 1):
            order = training.batches(rng.permutation(n)).ravel()
            visited = replace(splits.train, indices=splits.train.indices[order])
            backend.run_epoch(visited, config.learning_rate, None, bool)
            if epoch in (1, config.epochs):
                layers["-epoch-1" if epoch == 1 else ""] = backend.layer
    return layers


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--data", default="cifar10")
    parser.add_argument("--seeds", type=int, default=20, help="from 0 on")
    parser.add_argument("--out", type=Path, default=SIGNATURES)
    arguments = parser.parse_args()

    splits = onelayer.load_splits(arguments.data, SplitConfig(protocol="batch"))
    if not splits.dataset.official:
        sys.exit(f"{splits.dataset.source} is not the official CIFAR-10, whose figures the table is to hold")
    seeds = range(arguments.seeds)
    signatures: dict[str, dict[str, dict[str, list[float]]]] = {mistake: {} for mistake in MISTAKES}
    for setting in TABLED:
        runs: dict[str, list[dict[str, float]]] = {mistake: [] for mistake in MISTAKES}
        for seed in seeds:
            for mistake in sorted(MISTAKES, key=lambda mistake: mistake in TRAININGS):
                runs[mistake].append(figures(splits, mistake, config(setting, seed)))
            print(f"setting {setting}, seed {seed}", file=sys.stderr)
        for mistake, found in runs.items():
            columns = {figure: [run[figure] for run in found] for figure in FIGURES}
            signatures[mistake][setting] = {
                figure: [float(f"{number:.5g}") for number in (np.mean(column), np.std(column, ddof=1))]
                for figure, column in columns.items()
            }
    table = {
        "about": "mean and standard deviation over seeds; accuracies as fractions, losses and costs in nats",
        "made_by": "tools/make_signatures.py",
        "data": {"name": splits.dataset.name, "fingerprint": splits.dataset.fingerprint},
        "seeds": list(seeds),
        "versions": {"python": platform.python_version()} | {name: version(name) for name in ("onelayer", "numpy")},
        "signatures": signatures,
    }
    text = re.sub(r"\[\s+(\S+),\s+(\S+)\s+\]", r"[\1, \2]", json.dumps(table, indent=1))  # a figure, a line
    arguments.out.write_text(text + "\n", encoding="utf-8")


if __name__ == "__main__":
    try:
        main()
    except onelayer.OnelayerError as error:
        sys.exit(str(error))
