"""Coded rows: the features of a data set, where a feature map meets data. Training takes them like any other rows.

The features of rows from a source are kept in the cache, under a key of the rows and of all that the map computes with,
so that the next training, a sweep and an evaluation find them there. Those of rows in memory are not kept.
"""

import hashlib
import json
import secrets
import threading
import warnings
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from weakref import WeakKeyDictionary

import numpy as np

from onelayer.config import TrainConfig
from onelayer.data.cache import cache_directory, cached_rows, find_rows, forget_rows, sparse_rows, state_of
from onelayer.data.dataset import Dataset, Split, Splits
from onelayer.data.progress import Progress
from onelayer.data.windows import loaded
from onelayer.errors import ConfigError, DataError, OnelayerWarning
from onelayer.features.encoder import Encoder
from onelayer.features.map import FeatureMap, Identity, misfit
from onelayer.features.patches import Patches
from onelayer.features.registry import FEATURE_MAPS
from onelayer.features.standardizer import BLOCK_ROWS
from onelayer.kernel import kernel
from onelayer.processes import require_same

BLOCK_NUMBERS = 2**22  # features that are computed together, so that progress shows soon
_made: WeakKeyDictionary[Split, dict[tuple[object, ...], FeatureMap]] = WeakKeyDictionary()  # by their training rows
_held: WeakKeyDictionary[Dataset, list[tuple[FeatureMap, np.ndarray]]] = WeakKeyDictionary()  # of divided rows
_told: set[str] = set()  # keys of features that could not be kept, which a warning has said
_lock = threading.RLock()  # runs of a sweep share features: one computes them, and the others wait


def features_of(splits: Splits, config: TrainConfig) -> FeatureMap:
    """Return the map that the settings ask for; filters are drawn from the training rows that have weight.

    Of several processes, each makes the map from the same rows, whoever holds them, or from its own files.

    Raises
    ------
    ConfigError
        If an encoder is for images and the rows are not, or what it needs is not installed; if several processes made
        different maps.
    DataError
        If the rows are not images, or they are too small, too few or too plain for the filters; if the file of an
        encoder is missing or does not fit.
    """
    if config.features == "none":
        return Identity(splits.dataset.rows.shape[1])
    with _lock:
        of_rows = _made.setdefault(splits.train, {})
        key = config.features, config.features_mirror, config.features_seed, *_state_of_files(config)
        if key not in of_rows:
            of_rows[key] = _make(splits, config)
        made = of_rows[key]
    require_same(splits.dataset.processes, {"the features": _facts_of(made)})
    return made


def _make(splits: Splits, config: TrainConfig) -> FeatureMap:
    dataset, places = splits.dataset, splits.train.indices
    if config.encoder:
        return Encoder.read_files(Path(config.encoder), dataset.image_shape)
    if (weights := splits.train.row_weights(slice(None))) is not None:
        places = places[weights > 0]
    try:
        filters, seed = config.filters, config.features_seed
        mirror = None if config.features_mirror == "auto" else config.features_mirror == "on"
        return Patches.drawn(dataset.rows, places, dataset.image_shape, filters=filters, seed=seed, mirror=mirror)
    except DataError as error:
        raise DataError(f"{dataset.name}: {error}") from None


def _state_of_files(config: TrainConfig) -> Iterator[object]:
    """Yield the files beside an encoder, with their states: it is read again once they have changed."""
    path = Path(config.encoder).absolute()
    for file in sorted(path.parent.glob("*")) if config.encoder else []:
        if file.suffix.lower() in (".onnx", ".toml", ".json") and file.is_file():
            yield file, state_of(file.stat())


def coded(splits: Splits, features: FeatureMap, progress: Progress | None = None) -> Splits:
    """Return the same division of the rows' features; with the identity, the splits themselves.

    The features are computed a block at a time into a memory map in the cache's folder. They are vectors, so the result
    has no image shape. Where a row has several views, they follow each other, and each has the row's label and weight.
    Of several processes, each computes the features of the rows that it holds, and keeps them as long as the data set.

    Raises
    ------
    ConfigError
        If the map does not take these rows.
    DataError
        If a feature is not finite, or the features do not fit into the cache's folder.
    """
    dataset = splits.dataset
    if problem := misfit(features, dataset.rows.shape[1], dataset.image_shape):
        raise ConfigError(f"{dataset.name}: {problem}; choose a map for these rows")
    if isinstance(features, Identity):
        return splits
    rows_of = _rows_of if dataset.holding is None else _held_rows_of
    of_features = _data_of(dataset, features, rows_of(dataset, features, progress))
    train, validation, test = (_views_of(part, of_features) for part in splits)
    return Splits(train, validation, test, splits.protocol)


def _data_of(dataset: Dataset, features: FeatureMap, rows: np.ndarray) -> Dataset:
    """Return the data set of the features (n * views, d_out) of another."""
    views, weights, holding = features.views, dataset.row_weights, dataset.holding
    return replace(
        dataset,
        rows=rows,
        labels=np.repeat(dataset.labels, views),
        row_weights=None if weights is None else np.repeat(weights, views),
        image_shape=None,
        name=f"{dataset.name} as {features.name}",
        parts={},
        views=views,
        holding=holding and replace(holding, held=np.repeat(holding.held, views), complete=False),
    )


def _views_of(part: Split, of_features: Dataset) -> Split:
    """Return the views of the rows of a split."""
    views = of_features.views
    return replace(part, dataset=of_features, indices=(part.indices[:, None] * views + np.arange(views)).ravel())


def prepare(splits: Splits, configs: Iterable[TrainConfig], progress: Progress | None = None) -> None:
    """Compute the features of these settings, so that trainings of rows from a source find them in the cache."""
    if splits.dataset.source:
        for config in {
            (config.features, config.features_mirror, config.features_seed): config for config in configs
        }.values():
            coded(splits, features_of(splits, config), progress)


def feature_blocks(split: Split, features: FeatureMap) -> Iterator[tuple[slice, np.ndarray]]:
    """Yield places within a split and the features (k * views, d_out) of the rows there, until all have been seen.

    Features that the cache holds are not computed again. Few pages of their memory map are held at a time: each counts
    twice where a training has its rows in another map of the same file. They are valid until the next ones are asked
    for.
    """
    codes, views = _found(split.dataset, features), features.views
    blocks = list(split.blocks(-(-BLOCK_ROWS // views)))
    if codes is None or not blocks:
        yield from ((block, features.transform(split.rows(block))) for block in blocks)
        return
    of_views = _views_of(split, _data_of(split.dataset, features, codes))
    windows = loaded(of_views, [np.arange(views * block.start, views * block.stop) for block in blocks])
    yield from ((block, window.rows(slice(None))) for block, window in zip(blocks, windows, strict=True))


def _found(dataset: Dataset, features: FeatureMap) -> np.ndarray | None:
    """Return the features (n * views, d_out) of a data set if the cache holds them and they are known to be its own."""
    key = _key_of(dataset, features) if "_scan" in dataset.__dict__ else ""  # a look at all rows takes time
    found = find_rows(key, features.dtype) if key else None
    right = found is not None and found[0].shape == (len(dataset.rows) * features.views, features.d_out)
    return found[0] if found is not None and right else None


def _rows_of(dataset: Dataset, features: FeatureMap, progress: Progress | None) -> np.ndarray:
    """Return the features (n * views, d_out) of a data set from the cache, after computing them if they are not there.

    Those that no key can name, or that nobody may look for again, leave the cache once they are not used. Few features
    are in memory where the cache cannot be written, and a warning says so.
    """
    known = _key_of(dataset, features)
    key = known or secrets.token_hex(32)
    shape = len(dataset.rows) * features.views, features.d_out

    def fill(rows: np.ndarray) -> tuple[int, dict[str, object]]:
        _fill(rows, Split("all", dataset, np.arange(len(dataset.rows))), features, progress)
        return len(rows), {}

    with _lock:
        rows, _ = cached_rows(key, shape, fill, features.dtype)
        if rows.shape != shape:
            raise DataError(f"the cache holds other features under {key}; delete the file of this name and try again")
        if not known:
            forget_rows(key)
    if known and known not in _told and not isinstance(rows, np.memmap):
        _told.add(known)
        what = f"{dataset.name} as {features.name}: the cache {cache_directory()} cannot be written or is full"
        warnings.warn(
            OnelayerWarning(f"{what}, so the features stay in memory and are computed again in the next command"),
            stacklevel=2,
        )
    return rows


def _held_rows_of(dataset: Dataset, features: FeatureMap, progress: Progress | None) -> np.ndarray:
    """Return the features (n * views, d_out) of the rows that this process holds, with zeros for all others."""
    known = _held.setdefault(dataset, [])
    for other, rows in known:
        if other is features:
            return rows
    held, views = Split("held", dataset, np.arange(len(dataset.rows))).mine, features.views
    runs = np.split(held.indices, np.flatnonzero(np.diff(held.indices) != 1) + 1) if len(held) else []
    pieces = [slice(run[0] * views, (run[-1] + 1) * views) for run in runs]
    rows = sparse_rows((len(dataset.rows) * views, features.d_out), features.dtype, pieces)
    _fill(rows, held, features, progress)
    known.append((features, rows))
    return rows


def _facts_of(features: FeatureMap) -> tuple[object, ...]:
    """Return all that decides the features of a row, for a comparison of maps in several processes."""
    arrays = {name: hashlib.sha256(array.tobytes()).digest() for name, array in features.tensors().items()}
    return features.name, features.facts(), arrays, _program_of(features)


def _key_of(dataset: Dataset, features: FeatureMap) -> str:
    """Return a digest of the rows, the map and the code that computes it; empty where there is none.

    The bytes of features can depend on the instruction set, and what an older version computed may have been wrong.
    """
    if not (dataset.source and features.keyed and features.name in FEATURE_MAPS):
        return ""
    places = [(part.start, part.stop, part.step) for part in dataset.parts.values()]
    code = version("onelayer"), _program_of(features)
    said = [dataset.fingerprint, places, features.name, features.facts(), code, np.dtype(features.dtype).str]
    digest = hashlib.sha256(json.dumps(said, sort_keys=True).encode())
    for name, tensor in sorted(features.tensors().items()):
        digest.update(f"{name} {tensor.dtype} {tensor.shape} ".encode())
        digest.update(tensor.tobytes())
    return digest.hexdigest()


def _program_of(features: FeatureMap) -> str:
    """Return the name of the program that computes features, where others may compute other bytes."""
    if isinstance(features, Encoder):
        with suppress(ImportError):  # a feature that is not in the cache then says what is missing
            import onnxruntime

            return f"onnxruntime {onnxruntime.__version__}"
    return "numpy" if kernel is None else kernel.variant()


def _fill(rows: np.ndarray, split: Split, features: FeatureMap, progress: Progress | None) -> None:
    """Write the features of a split's rows to the places of their views in `rows` (n * views, d_out)."""
    views, d = features.views, features.d_out
    name, of_views = f"{split.dataset.name} as {features.name}", rows.reshape(-1, views, d)
    step = max(1, min(BLOCK_ROWS, BLOCK_NUMBERS // (d * views)))
    for block in split.blocks(step):
        raw, places = split.rows(block), split.indices[block]
        found = features.transform(raw)
        if np.shape(found) != (len(raw) * views, d):
            shape = f"{np.shape(found)} for {len(raw)} rows"
            raise ConfigError(f"{name}: the map returned the shape {shape}; its d_out is {d}; correct it")
        with np.errstate(over="ignore"):  # what is not finite is an error of its own
            found = np.asarray(found).astype(rows.dtype, copy=False).reshape(-1, views, d)
        finite = np.isfinite(found).all(axis=(1, 2)) if rows.dtype.kind == "f" else np.ones(1, bool)
        if not finite.all():
            row = places[finite.argmin()]
            raise DataError(f"{name}: row {row} has a feature that is not finite in {rows.dtype}")
        of_views[places] = found
        if progress:
            progress(block.stop, len(split))
