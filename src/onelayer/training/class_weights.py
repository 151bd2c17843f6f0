"""Weights of classes: training and validation rows count by their class, test rows do not."""

import difflib
from dataclasses import replace

import numpy as np

from onelayer.config import class_weights
from onelayer.data.dataset import Split, Splits
from onelayer.errors import ConfigError

BY_CLASS = "rows weighted by class"  # a remark on the figures of a training with such weights


def weighted_by_class(splits: Splits, setting: str) -> Splits:
    """Return splits whose training and validation rows have the weight of their class, times any weight of their own.

    Parameters
    ----------
    splits : Splits
    setting : str
        none, balanced or NAME=W,... as `TrainConfig.class_weight`. Balanced gives all classes of the training rows the
        same total.

    Raises
    ------
    ConfigError
        If the data have no class of that name.
    """
    if setting == "none":
        return splits
    train, dataset, names = splits.train, splits.dataset, splits.dataset.class_names
    own = train.row_weights(slice(None))
    totals = np.bincount(train.labels, own, len(names))
    if setting == "balanced":
        factors = np.divide(1, totals, out=np.zeros(len(names)), where=totals > 0)
    else:
        factors = np.ones(len(names))
        for name, weight in class_weights(setting).items():
            if name not in names:
                near = difflib.get_close_matches(name, names, n=1)
                guess = f"did you mean {near[0]!r}?" if near else f"its classes are {', '.join(names):.200}"
                raise ConfigError(f"class weight: {dataset.name} has no class {name!r}; {guess}")
            factors[names.index(name)] = weight
    mean = factors @ totals / totals.sum()
    if not mean:
        raise ConfigError(f"class weight {setting}: every class of the training rows has the weight 0; give one more")
    weights = np.ones(len(dataset.labels)) if dataset.row_weights is None else dataset.row_weights
    weighted = replace(dataset, row_weights=weights * factors[dataset.labels] / mean)

    def view(split: Split) -> Split:
        return Split(split.name, weighted, split.indices)

    return replace(splits, train=view(train), validation=view(splits.validation))
