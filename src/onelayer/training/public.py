"""`onelayer.train`: training as people call it, from a source and settings by name.

The training itself is the pure function `onelayer.training.train.train`, of splits and a `TrainConfig`.
"""

import difflib
import warnings
from collections.abc import Callable, Mapping
from dataclasses import fields, replace
from pathlib import Path
from typing import Any, TypeGuard, TypeVar

from onelayer.config import ALIASES, PRESETS, SourceConfig, SplitConfig, TrainConfig, class_weights
from onelayer.data.dataset import Dataset, Splits
from onelayer.data.progress import Progress
from onelayer.data.protocols import split
from onelayer.data.sources import load_splits
from onelayer.errors import ConfigError, OnelayerWarning, wrong_type
from onelayer.features.function import CodesOf, Function
from onelayer.features.map import FeatureMap
from onelayer.features.standardizer import Standardizer
from onelayer.training import train as engine
from onelayer.training.state import TrainingResult, TrainingState, warn_of_units
from onelayer.training.watching import watching
from onelayer.words import printable

Config = TypeVar("Config", TrainConfig, SplitConfig, SourceConfig)
NAMES = {kind: tuple(field.name for field in fields(kind)) for kind in (TrainConfig, SplitConfig, SourceConfig)}
HINTS = {
    "weight_decay": "l2 is half of a weight decay",
    "early_stopping": 'epochs="auto" stops early, and patience sets when',
    "optimizer": "the optimizer is mini-batch gradient descent; leave it out",
    "verbose": "progress=True shows each epoch",
}


def train(
    data: str | Path | Dataset | Splits,
    config: TrainConfig | None = None,
    *,
    preset: str | None = None,
    progress: bool | None = None,
    start: TrainingState | None = None,
    features: FeatureMap | CodesOf | str | None = None,
    standardizer: Standardizer | None = None,
    on_epoch: Callable[[TrainingState], object] | None = None,
    report_test: bool = True,
    cancelled: Callable[[], bool] = bool,
    **settings: Any,
) -> TrainingResult:
    """Train a layer by mini-batch gradient descent. No file is written.

    Parameters
    ----------
    data : str, Path, Dataset or Splits
        A name or path, as for `load`; rows; or rows that are divided. The test rows are scored after the first and the
        kept epoch, if at all, and used for nothing else. A split without rows, or with weights of 0 only, has no
        scores; the validation figures of the history are NaN then.
    config : TrainConfig, optional
        Settings of training; those that are given by name take the place of its own.
    preset : str, optional
        Settings to start from instead of the defaults: "coursework".
    progress : bool, optional
        Show how far it is; by default, in notebooks only.
    start : TrainingState, optional
        Go on from here instead of from new weights; the result has the same bits as a run that never stopped.
    features : FeatureMap, callable or str, optional
        The features that the layer sees instead of the raw rows; by default those of the settings, or of `start`.
        A word is the setting of `TrainConfig`, such as "patches". A callable takes uint8 images (n, h, w, c), and
        returns n rows of d numbers; a model file does not hold it.
    standardizer : Standardizer, optional
        By default that of the training rows, and of their mirror images if there are flips. The weights of its constant
        features are 0 throughout; where it does not know them, they are those of the training rows.
    on_epoch : callable, optional
        Called with the state after each epoch; training ends there if it returns true.
    report_test : bool
        False leaves the test rows alone.
    cancelled : callable, optional
        Asked now and then, in other threads too; true ends the training.
    **settings
        Settings by name: those of `TrainConfig`, and where they apply those of `SplitConfig` and `SourceConfig`. Short
        names of the command line (lr, eta, lam, n_batch, n_epochs) are taken too. class_weight may be a dict of class
        names and weights.

    Returns
    -------
    TrainingResult

    Raises
    ------
    OnelayerError
        In one line: ConfigError if an argument or a setting is wrong, or does not fit the data; DataError if the data
        are missing, damaged or have no training rows; DivergedError if a cost is not finite after an epoch.
    InterruptedError
        If it was cancelled.

    Examples
    --------
    >>> import onelayer
    >>> result = onelayer.train("digits", learning_rate=0.05, epochs=10)
    >>> result.scores["test"].accuracy > 0.9
    True
    """
    _require_types(data, config, preset, features)
    if isinstance(features, str):
        settings, features = {**settings, "features": features}, None
    given = _by_our_names(settings)
    with watching(progress) as show:
        splits = _divided(data, given, lambda done, total: show("reading", done, total))
        if data == "auto" and preset and splits.dataset.source != "cifar10":  # as the command does
            what = f"CIFAR-10 is not here; {splits.dataset.name} takes its place, without the preset {preset}"
            warnings.warn(OnelayerWarning(what), stacklevel=2)
            preset = None
        config = _taken(given, config or (PRESETS[preset] if preset else TrainConfig()))

        def watched(state: TrainingState) -> object:
            line = state.history[-1].in_words(config.epochs, splits.holds_out)
            show(line, state.epoch, config.epochs if isinstance(config.epochs, int) else None)
            return on_epoch and on_epoch(state)

        if callable(features) and not _is_map(features):
            features = Function.of(features, splits.dataset.image_shape)
        result = engine.train(
            splits,
            config,
            start=start,
            features=features,
            standardizer=standardizer,
            on_epoch=watched,
            report_test=report_test,
            cancelled=cancelled,
            progress=lambda done, total: show("computing features", done, total),
        )
        if result.state.history:
            show(f"{result.state.history[-1].in_words(config.epochs, splits.holds_out)}; {result.ended}", 0, None)
    return result


def _require_types(data: object, config: object, preset: object, features: object) -> None:
    if not isinstance(data, str | Path | Dataset | Splits):
        arrays = "; SoftmaxClassifier().fit(X, y) trains on arrays" if hasattr(data, "__len__") else ""
        raise wrong_type("data", data, f"a name or path, a Dataset, or Splits{arrays}")
    if isinstance(config, SplitConfig | SourceConfig):
        name = NAMES[type(config)][0]
        raise wrong_type("config", config, f"a TrainConfig, and settings such as {name} by name: {name}=...")
    if not isinstance(config, TrainConfig | None):
        raise wrong_type("config", config, "a TrainConfig, or settings by name: learning_rate=0.1")
    if preset is not None and preset not in PRESETS:
        raise ConfigError(f"preset {preset!r} is not known; pass {' or '.join(PRESETS)}")
    if preset is not None and config is not None:
        raise ConfigError("config and preset both give all settings; pass one of them")
    if not (isinstance(features, str | None) or callable(features) or _is_map(features)):
        expected = "a word such as patches, a function of images, or an object of a subclass of FeatureMap"
        raise wrong_type("features", features, expected)


def _is_map(features: object) -> TypeGuard[FeatureMap]:
    return all(hasattr(features, name) for name in ("d_in", "d_out", "transform"))


def _by_our_names(settings: dict[str, Any]) -> dict[str, Any]:
    """Return settings by the names that the classes of settings have; refuse unknown ones."""
    known = [name for names in NAMES.values() for name in names]
    given: dict[str, tuple[str, Any]] = {}
    for typed, value in settings.items():
        name = ALIASES.get(typed.rstrip("_"), typed)
        if name not in known:
            near = difflib.get_close_matches(name, [*known, *ALIASES], n=1, cutoff=0.7)
            guess = HINTS.get(name) or (f"did you mean {near[0]}?" if near else f"known are {', '.join(known)}")
            raise ConfigError(f"unknown setting {typed}; {guess}")
        if name in given:
            raise ConfigError(f"{given[name][0]} and {typed} are the same setting; pass one of them")
        given[name] = typed, _typed_weights(value) if name == "class_weight" and isinstance(value, Mapping) else value
    return {name: value for name, (_, value) in given.items()}


def _typed_weights(weights: Mapping[Any, Any]) -> str:
    """Return a dict of class names and weights in the form that `TrainConfig.class_weight` has."""
    try:
        typed = ",".join(f"{name}={float(weight)!r}" for name, weight in weights.items())
        read = class_weights(typed) == {str(name): float(weight) for name, weight in weights.items()}
    except (TypeError, ValueError):
        read = False
    if not (weights and read):
        what = "a dict of class names, without commas, and weights from 0 to 1e30"
        raise ConfigError(f"class_weight {printable(repr(weights))} is not {what}")
    return typed


def _taken(given: dict[str, Any], config: Config) -> Config:
    """Return settings with the given ones in their places."""
    return replace(config, **{name: value for name, value in given.items() if name in NAMES[type(config)]})


def _divided(data: str | Path | Dataset | Splits, given: dict[str, Any], progress: Progress) -> Splits:
    """Return the splits of a source, of rows, or the splits that were given."""
    done = {Splits: (SourceConfig, SplitConfig), Dataset: (SourceConfig,)}.get(type(data), ())
    if useless := [name for kind in done for name in NAMES[kind] if name in given]:
        what = "are divided" if isinstance(data, Splits) else "are read"
        raise ConfigError(f"{useless[0]} does not apply to rows that {what} already; leave it out, or pass a source")
    if isinstance(data, Splits):
        return data
    split_config = _taken(given, SplitConfig())
    if isinstance(data, Dataset):
        return split(data, split_config, progress)
    splits = load_splits(data, split_config, source_config=_taken(given, SourceConfig()), progress=progress)
    warn_of_units(splits)
    return splits
