"""The division of a data set's rows among processes."""

from dataclasses import replace

import numpy as np

from onelayer.data.dataset import Holding, Splits
from onelayer.processes import Processes, require_same, share


def divided(splits: Splits, processes: Processes) -> Splits:
    """Return the same splits, of which this process holds its share of each: neighbouring rows, as many as the others.

    Alone, or where the source has divided the rows, they are the splits themselves.

    Raises
    ------
    ConfigError
        If the processes have read different data.
    """
    dataset = splits.dataset
    if processes.size == 1:
        return splits
    require_same(processes, {"the data": (dataset.fingerprint, dataset.class_names)})
    if dataset.holding is not None:
        return splits
    owner = np.zeros(len(dataset.labels), np.int32)
    for split in reversed(tuple(splits)):  # the training rows last, as a refit has the validation rows among them
        for rank in range(processes.size):
            owner[split.indices[share(len(split), rank, processes.size)]] = rank
    shared = replace(dataset, holding=Holding(processes, owner == processes.rank))
    if "_scan" in dataset.__dict__:
        shared.__dict__["_scan"] = dataset.scan()  # of the same rows
    train, validation, test = (replace(split, dataset=shared) for split in splits)
    return Splits(train, validation, test, splits.protocol)
