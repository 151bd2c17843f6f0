"""The rows of a probe: divided, brought to one scale, and in the form that a recipe takes."""

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from onelayer.coded import coded
from onelayer.config import SplitConfig, TrainConfig
from onelayer.data.dataset import Split, Splits
from onelayer.data.division import divided
from onelayer.data.protocols import default_protocol, refitted
from onelayer.data.protocols import split as divide
from onelayer.data.sources import load
from onelayer.errors import DataError
from onelayer.features.map import FeatureMap, Identity, UnitLength
from onelayer.features.standardizer import Standardizer
from onelayer.features.units import are_pixels, places_to_look_at
from onelayer.layer import SoftmaxLayer
from onelayer.model import Model
from onelayer.processes import ALONE, Processes
from onelayer.training.backends.registry import choose_backend, settled
from onelayer.training.state import Problem

Normalize = Literal["none", "unit", "standardize"]
NORMALIZED = {
    "none": "rows as they are",
    "unit": "each row divided by its length",
    "standardize": "each feature less its mean, divided by its standard deviation, over the rows trained on",
}
VALIDATION = 0.1  # of the training rows
TEST = 0.2  # of all rows, where a source has no test rows
CONVERGED = TrainConfig(solver="converged")


def load_features(
    source: str,
    split_seed: int = 0,
    progress: Callable[[int, int | None], None] | None = None,
    processes: Processes = ALONE,
) -> tuple[Splits, SplitConfig]:
    """Load features with labels, and draw a tenth of the training rows of each class for validation.

    A validation part of the source's own is taken as it is. Without test rows, a fifth of all rows are drawn first.
    Several processes divide the rows.

    Raises
    ------
    DataError
        If the source is missing or damaged, a feature is not finite, or fewer than two classes are trained on.
    """
    dataset = load(source, progress=progress, processes=processes)
    size = {"full": VALIDATION, "stratified": VALIDATION * (1 - TEST)}.get(default_protocol(dataset.parts))
    config = SplitConfig(validation_size=size, split_seed=split_seed)
    splits = divide(dataset, config, progress)
    for part in (splits.train, splits.validation, splits.test):
        if part.weight == 0:
            raise DataError(f"{dataset.name} has no {part.name} rows; a probe needs some")
    trained = np.unique(splits.train.labels)
    if len(trained) == 1:
        only = dataset.class_names[trained[0]]
        raise DataError(f"{dataset.name}: the training rows are of one class only, {only}; a probe needs two")
    return divided(splits, processes), config


@dataclass(frozen=True, eq=False)
class Encoded:
    """The rows of a probe.

    Parameters
    ----------
    raw : Splits
        As they were read.
    splits : Splits
        The same rows, each of length 1 if `normalize` is unit.
    normalize : {"none", "unit", "standardize"}
    refits : bool
        Whether the last fit takes the validation rows too.
    config : TrainConfig
        Settings of the solver converged, whose lambda, gap, passes and type a recipe replaces.
    """

    raw: Splits
    splits: Splits
    normalize: Normalize
    refits: bool = True
    config: TrainConfig = CONVERGED

    @classmethod
    def of(cls, raw: Splits, normalize: Normalize, config: TrainConfig = CONVERGED) -> "Encoded":
        """Return the rows of these splits."""
        return cls(raw, coded(raw, _features(raw, normalize)), normalize, config=config)

    @property
    def train(self) -> Split:
        """The rows that are trained on."""
        return self.splits.train

    def seen(self, split: Split) -> Split:
        """Return a split of raw rows as the recipe sees its rows."""
        return replace(split, dataset=self.splits.dataset)

    def refitted(self) -> "Encoded":
        """Return the same rows, where the validation rows are trained on too, if they are to be."""
        if not self.refits:
            return self
        return replace(self, raw=refitted(self.raw), splits=refitted(self.splits))

    def few(self, shots: int, seed: int) -> "Encoded":
        """Return the same rows with a few training rows of each class; the last fit is on these alone.

        The rows depend on the labels and the seed only, so that other features of the same rows have the same ones; and
        those of fewer shots are among those of more.
        """
        train, rng = self.raw.train, np.random.default_rng(seed)
        of_classes = [rng.permutation(np.flatnonzero(train.labels == label)) for label in np.unique(train.labels)]
        places = np.concatenate([places[:shots] for places in of_classes])
        raw, splits = (
            replace(s, train=replace(s.train, indices=s.train.indices[places])) for s in (self.raw, self.splits)
        )
        return replace(self, raw=raw, splits=splits, refits=False)

    @property
    def of_training(self) -> Standardizer:
        """Mean and standard deviation of the rows that are trained on."""
        return self.splits.standardizer

    @property
    def standardizer(self) -> Standardizer:
        """Mean and scale by which rows reach a layer; the scale is 1 where features keep their own.

        The mean is subtracted in any case: the bias takes it up, so that it changes no answer, and the solver needs
        fewer passes.
        """
        found = self.of_training
        return found if self.normalize == "standardize" else replace(found, scale=np.ones_like(found.scale))

    def problem(self, config: TrainConfig) -> Problem:
        """Return the problem of training on these rows, without flips and weights of classes."""
        backend = choose_backend(self.splits.dataset, config)
        config = settled(config, backend)
        features = _features(self.raw, self.normalize)
        return Problem(self.splits, config, self.standardizer, backend, self.raw, self.splits, features)

    def model(self, layer: SoftmaxLayer, standardizer: Standardizer | None = None) -> Model:
        """Return the model for raw rows of a layer for standardised ones."""
        dataset = self.raw.dataset
        features = _features(self.raw, self.normalize)
        known = dataset.class_names, dataset.image_shape
        pixels = are_pixels(self.raw.train.rows_of_all(places_to_look_at(len(self.raw.train))))
        of_rows = None if isinstance(features, Identity) else self.raw.standardizer
        return Model(layer, standardizer or self.standardizer, *known, pixels, features, of_rows)


def _features(raw: Splits, normalize: Normalize) -> FeatureMap:
    d = raw.dataset.rows.shape[1]
    return UnitLength(d) if normalize == "unit" else Identity(d)
