"""Coded rows: the features of a data set, where a feature map meets data. Training takes them like any other rows."""

import secrets
from dataclasses import replace

import numpy as np

from onelayer.data.cache import cached_rows, forget_rows
from onelayer.data.dataset import Splits
from onelayer.errors import ConfigError, DataError
from onelayer.features.map import FeatureMap, Identity, misfit
from onelayer.features.standardizer import BLOCK_ROWS


def coded(splits: Splits, features: FeatureMap) -> Splits:
    """Return the same division of the rows' features, float32; with the identity, the splits themselves.

    The features are computed a block at a time into a memory map in the cache's folder, which takes its space on disk
    for as long as the result is in use. They are vectors, so the result has no image shape.

    Raises
    ------
    ConfigError
        If the map does not take these rows.
    DataError
        If a feature is not finite in float32, or the map does not fit into the cache's folder.
    """
    dataset = splits.dataset
    if problem := misfit(features, dataset.rows.shape[1], dataset.image_shape):
        raise ConfigError(f"{dataset.name}: {problem}; choose a map for these rows")
    if isinstance(features, Identity):
        return splits
    name = f"{dataset.name} as {features.name}"

    def fill(rows: np.ndarray) -> tuple[int, dict[str, object]]:
        for start in range(0, len(rows), BLOCK_ROWS):
            block = slice(start, start + BLOCK_ROWS)
            found = features.transform(dataset.rows[block])
            if np.shape(found) != rows[block].shape:
                shape = f"{np.shape(found)} for {len(rows[block])} rows"
                raise ConfigError(
                    f"{name}: the map returned the shape {shape}; its d_out is {features.d_out}; correct it"
                )
            with np.errstate(over="ignore"):  # what is not finite is an error of its own
                rows[block] = found
            finite = np.isfinite(rows[block]).all(axis=1)
            if not finite.all():
                raise DataError(f"{name}: row {start + finite.argmin()} has a feature that is not finite in float32")
        return len(rows), {}

    # Under a key of its own, and not one that the next training finds: a map's name does not say what it computes.
    key = secrets.token_hex(32)
    rows, _ = cached_rows(key, (len(dataset.rows), features.d_out), fill, np.float32)
    forget_rows(key)
    of_features = replace(dataset, rows=rows, image_shape=None, name=name)
    train, validation, test = (replace(part, dataset=of_features) for part in splits)
    return Splits(train, validation, test, splits.protocol)
