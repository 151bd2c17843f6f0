"""Protocols: the division of a data set into training, validation and test rows."""

from collections.abc import Mapping
from dataclasses import replace

import numpy as np

from onelayer.config import SplitConfig
from onelayer.data.dataset import Dataset, Split, Splits, require_finite
from onelayer.data.progress import Progress
from onelayer.errors import ConfigError

BATCH_PROTOCOL = {"train": "data_batch_1", "validation": "data_batch_2", "test": "test_batch"}


def split(dataset: Dataset, config: SplitConfig, progress: Progress | None = None) -> Splits:
    """Divide a data set.

    Parameters
    ----------
    dataset : Dataset
        It must have the parts that the protocol needs.
    config : SplitConfig
        The protocol, its sizes and its seed.
    progress : callable, optional
        As for `Dataset.scan`, which looks for features that are not finite.

    Returns
    -------
    Splits

    Raises
    ------
    ConfigError
        If the protocol or a size does not fit the data set.
    DataError
        If a feature is not a finite number.
    """
    protocol = config.protocol or default_protocol(dataset.parts)
    rng = np.random.default_rng(config.split_seed)
    sizes = ("validation_size", "test_size")
    lacking = tuple(size for size in sizes if size.removesuffix("_size") not in dataset.parts)
    drawn = {"batch": (), "given": lacking, "full": sizes[:1], "stratified": sizes}
    for name in sizes:
        if getattr(config, name) is not None and name not in drawn[protocol]:
            raise ConfigError(f"{name.replace('_', ' ')} does not apply to the protocol {protocol}; leave it out")
    places = {}
    if protocol == "batch":
        places = {name: _places(dataset, [part]) for name, part in BATCH_PROTOCOL.items()}
    elif protocol == "stratified":
        rest, places["test"] = _draw(dataset, dataset.everything.indices, config.test_size or 0.2, "test", rng)
        size = config.validation_size or 0.2
        size = size * len(dataset.labels) if size < 1 else size
        places["train"], places["validation"] = _draw(dataset, rest, max(1, round(size)), "validation", rng)
    else:
        test = [part for part in dataset.parts if part.startswith("test")]
        rest = _places(dataset, ["train"] if protocol == "given" else [p for p in dataset.parts if p not in test])
        if protocol == "full" or test:
            places["test"] = _places(dataset, test)
        else:
            rest, places["test"] = _draw(dataset, rest, config.test_size or 0.2, "test", rng)
        if "validation_size" in drawn[protocol]:
            size = config.validation_size or min(1000, max(1, len(rest) // 5))
            rest, places["validation"] = _draw(dataset, rest, size, "validation", rng)
        else:
            places["validation"] = _places(dataset, ["validation"])
        places["train"] = rest
    require_finite(dataset, progress)
    splits = Splits(**{name: Split(name, dataset, indices) for name, indices in places.items()}, protocol=protocol)
    return refitted(splits) if config.refit else splits


def refitted(splits: Splits) -> Splits:
    """Return the same splits, with the validation rows among the training rows, after them."""
    both = np.concatenate([splits.train.indices, splits.validation.indices])
    protocol = f"{splits.protocol}, refitted on train and validation"
    return replace(splits, train=replace(splits.train, indices=both), protocol=protocol)


def default_protocol(parts: Mapping[str, slice] | tuple[str, ...]) -> str:
    """Return the protocol for a source with these parts if none was given."""
    if set(BATCH_PROTOCOL.values()) <= set(parts):
        return "batch"
    if "validation" in parts:  # where train is missing, nothing may be trained on the other rows
        return "given"
    return "full" if any(part.startswith("test") for part in parts) else "stratified"


def _places(dataset: Dataset, parts: list[str]) -> np.ndarray:
    missing = [part for part in parts if part not in dataset.parts]
    if missing or not parts:
        what = " and ".join(missing) or "training or test rows of its own"
        others = any(part.startswith("train") or part.startswith("data_batch") for part in dataset.parts)
        fit = default_protocol(dataset.parts) if others else "stratified"
        raise ConfigError(f"{dataset.name} has no {what}; use the protocol {fit}")
    everything = np.arange(len(dataset.rows))
    return np.concatenate([everything[dataset.parts[part]] for part in parts])


def _draw(
    dataset: Dataset, places: np.ndarray, size: float, what: str, rng: np.random.Generator
) -> tuple[np.ndarray, np.ndarray]:
    """Draw `size` (a number or a fraction) of `places`, each class in proportion; return the rest and the drawn ones.

    Each class keeps a row in the rest if the other classes have rows enough to draw from.
    """
    count = max(1, round(size * len(places))) if size < 1 else int(size)
    if count >= len(places):
        raise ConfigError(f"{what} size {count} leaves none of {len(places)} rows to train on; ask for fewer")
    labels = dataset.labels[places]
    present, members = np.unique(labels, return_counts=True)
    exact = count * members / len(places)
    quota = np.floor(exact).astype(int)
    while left := count - quota.sum():  # round up the largest remainders; draw a whole class only as a last resort
        order = np.argsort(quota - exact, kind="stable")
        spared = order[quota[order] + 1 < members[order]]
        quota[spared[:left] if len(spared) else order[quota[order] < members[order]][:left]] += 1
    drawn = np.zeros(len(places), bool)
    for label, share in zip(present, quota, strict=True):
        drawn[rng.choice(np.flatnonzero(labels == label), share, replace=False)] = True
    return places[~drawn], places[drawn]
