"""A probe: a recipe that is fitted on features, chosen by the validation rows, and reported on the test rows."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

import numpy as np

from onelayer.analysis.estimates import Estimate
from onelayer.analysis.evaluation import Evaluation
from onelayer.analysis.summary import csv_of, summary_of
from onelayer.config import TrainConfig
from onelayer.data.dataset import Splits
from onelayer.errors import ConfigError, DataError
from onelayer.experiments.probe.closed import nearest_mean, ridge
from onelayer.experiments.probe.encoded import CONVERGED, Encoded, Normalize
from onelayer.experiments.probe.logistic import clip, dino
from onelayer.experiments.probe.neighbours import knn
from onelayer.experiments.probe.notes import notes_on, notes_on_few
from onelayer.experiments.probe.trials import Outcome, Progress
from onelayer.processes import Processes
from onelayer.training.backends.devices import choose_device
from onelayer.words import counted, listed, number, percent

if TYPE_CHECKING:
    from onelayer.experiments.comparison import Comparison

RecipeName = Literal["dino", "clip", "ridge", "knn", "nearest-mean"]


class Recipe(NamedTuple):
    """A protocol.

    Parameters
    ----------
    setting : str
        The name of the setting that the validation rows choose; empty if there is none.
    fit : callable
    words : str
        What the recipe fits.
    makes_layer : bool
        Whether the outcome has a model, which can be saved as a run.
    sums : bool
        Whether all that the fit asks of the rows are sums, which several processes can add up.
    iterates : bool
        Whether the solver converged fits it, which can be on a device.
    """

    setting: str
    fit: Callable[[Encoded, Progress | None], Outcome]
    words: str
    makes_layer: bool = True
    sums: bool = True
    iterates: bool = False


RECIPES: dict[str, Recipe] = {
    "dino": Recipe("C", dino, "logistic regression, 45 values of C from 1e-6 to 1e5", iterates=True),
    "clip": Recipe(
        "C", clip, "logistic regression, C among 96 steps from 1e-6 to 1e6, found by bisection", iterates=True
    ),
    "ridge": Recipe("", ridge, "ridge regression on labels of 1 and -1, penalty 1,024"),
    "knn": Recipe("k", knn, "k nearest neighbours by cosine, votes exp(cosine / 0.07)", makes_layer=False, sums=False),
    "nearest-mean": Recipe("", nearest_mean, "the class whose mean is nearest"),
}
FIGURES = ("accuracy", "top_5_accuracy", "balanced_accuracy")  # top-1, top-5, mean per class
NAMES = {"accuracy": "top-1", "top_5_accuracy": "top-5", "balanced_accuracy": "mean per class"}


@dataclass(frozen=True, eq=False)
class Probe:
    """A probe and its figures.

    Parameters
    ----------
    recipe : str
    normalize : {"none", "unit", "standardize"}
    splits : Splits
        The rows as they were divided for the choice; the fit is on training and validation rows.
    setting : str
        The name of the setting that the validation rows chose; empty if the recipe has none.
    outcome : Outcome
        The fit on training and validation rows, and the values that were tried before.
    shots, seed : int or None
        Training rows of each class, and the seed that drew them; None if all are trained on.
    """

    recipe: RecipeName
    normalize: Normalize
    splits: Splits
    setting: str
    outcome: Outcome
    shots: int | None = None
    seed: int | None = None

    def __repr__(self) -> str:
        return f"<Probe of {self.evaluation.in_words()}>"

    @cached_property
    def evaluation(self) -> Evaluation:
        """Of the test rows. Of several processes, only rank 0 can read them all."""
        return self.outcome.evaluate(self.splits.test)

    @property
    def figures(self) -> dict[str, Estimate]:
        """Top-1 and mean per class of the test rows, and top-5 from 10 classes on, with their 95 % intervals."""
        found = self.evaluation.estimates
        return {NAMES[name]: found[name] for name in FIGURES if name in found}

    def choice(self) -> str:
        """Return the chosen value, its accuracy, and the rule that chose among equals, in words."""
        chosen = self.outcome.chosen
        if chosen is None:
            return "nothing is chosen"
        best = sum(trial.accuracy == chosen.accuracy for trial in self.outcome.trials)
        strongest = ", which has the strongest penalty" if self.setting == "C" else ""
        equal = f", the smallest of {best} equal ones{strongest}" if best > 1 else ""
        value = f"{self.setting} {number(chosen.value)}"
        return f"chosen by validation accuracy, {percent(chosen.accuracy)}: {value}{equal}"

    def notes(self) -> list[str]:
        """Return sentences on what a reader of the figures must know."""
        few = self.shots is not None
        return notes_on(self.outcome, self.splits, self.recipe, self.setting, self.normalize, few)

    def record(self) -> dict[str, Any]:
        """Return the settings, the trials and all figures, as JSON can hold them."""
        chosen = self.outcome.chosen
        return {
            "data": self.splits.dataset.name,
            "source": self.splits.dataset.source,
            "recipe": self.recipe,
            "normalize": self.normalize,
            "shots": self.shots,
            "seed": self.seed,
            "rows": {split.name: len(split) for split in self.splits},
            "setting": self.setting or None,
            "chosen": chosen.value if chosen else None,
            "l2": self.outcome.l2,
            "ended": self.outcome.ended,
            "trials": [vars(trial) for trial in self.outcome.trials],
            "notes": self.notes(),
            "test": summary_of(self.evaluation),
        }

    def row(self) -> dict[str, object]:
        """Return the settings and the figures as a row of a table."""
        chosen = self.outcome.chosen
        ends = {
            f"{name}{end}": value
            for name, of in ((name, self.evaluation.estimates.get(name)) for name in FIGURES)
            for end, value in zip(
                ("", "_low", "_high"), (of.value, of.low, of.high) if of else [np.nan] * 3, strict=True
            )
        }
        return {
            "data": self.splits.dataset.name,
            "source": self.splits.dataset.source,
            "recipe": self.recipe,
            "normalize": self.normalize,
            "shots": np.nan if self.shots is None else self.shots,
            "seed": np.nan if self.seed is None else self.seed,
            "setting": self.setting,
            "value": chosen.value if chosen else np.nan,
            "validation_accuracy": chosen.accuracy if chosen else np.nan,
            **{f"{split.name}_rows": len(split) for split in self.splits},
            **ends,
        }


def csv_of_probes(probes: list[Probe]) -> str:
    """Return the rows of probes as CSV."""
    rows = [probe.row() for probe in probes]
    return csv_of({name: np.array([row[name] for row in rows]) for name in rows[0]})


def probe(
    splits: Splits,
    recipe: RecipeName = "dino",
    normalize: Normalize = "none",
    progress: Progress | None = None,
    config: TrainConfig = CONVERGED,
) -> Probe:
    """Fit a recipe on the training rows, choose its setting on the validation rows, and refit it on both.

    The test rows are read once, at the end.

    Parameters
    ----------
    splits : Splits
        As `load_features` divides them.
    recipe : {"dino", "clip", "ridge", "knn", "nearest-mean"}
        ridge and nearest-mean choose nothing, and are fitted on training and validation rows at once.
    normalize : {"none", "unit", "standardize"}
    progress : callable, optional
        Called with the steps done and the total.
    config : TrainConfig
        Settings of the solver converged: the backend and the device of a logistic regression.

    Raises
    ------
    ConfigError
        If the recipe cannot be on the device.
    """
    require_device(recipe, config)
    return _fit(recipe, Encoded.of(splits, normalize, config), splits, progress=progress)


def probe_few(
    splits: Splits,
    shots: Sequence[int],
    seeds: Sequence[int],
    recipe: RecipeName = "dino",
    normalize: Normalize = "none",
    progress: Progress | None = None,
    config: TrainConfig = CONVERGED,
) -> list[Probe]:
    """Fit a recipe on a few training rows of each class; the validation rows choose, but are not trained on.

    Parameters
    ----------
    shots : sequence of int
        Rows of each class.
    seeds : sequence of int
        Each draws rows, and the first `shots` of each class are taken.
    splits, recipe, normalize, progress, config
        As for `probe`.

    Returns
    -------
    list of Probe
        For each number of shots, one of each seed.
    """
    for name, numbers, least in (("shots", shots, 1), ("seed", seeds, 0)):
        if not numbers or min(numbers) < least or len(set(numbers)) < len(numbers):
            given = " ".join(map(str, numbers)) or "without a number"
            raise ConfigError(
                f"{name} {given}: not different whole numbers of at least {least}; pass some, such as 1 2 4"
            )
    _require_rows(splits, max(shots))
    require_device(recipe, config)
    encoded, found = Encoded.of(splits, normalize, config), []
    for count in shots:
        for seed in seeds:
            few = encoded.few(count, seed)
            found.append(_fit(recipe, few, few.raw, count, seed))
            if progress:
                progress(len(found), len(shots) * len(seeds))
    return found


def _require_rows(splits: Splits, shots: int) -> None:
    """Raise a ConfigError if a class has fewer training rows than are to be drawn from each."""
    labels, counts = np.unique(splits.train.labels, return_counts=True)
    fewest = int(counts.argmin())
    if counts[fewest] < shots:
        name, rows = splits.dataset.class_names[labels[fewest]], counted(int(counts[fewest]), "training row")
        raise ConfigError(f"shots {shots}: the class {name} has {rows}; pass at most {counts[fewest]}")


def require_device(recipe: RecipeName, config: TrainConfig) -> None:
    """Raise a ConfigError if a recipe cannot be on the device that is asked for."""
    if config.backend != "torch" and not config.needs_torch:
        return
    iterative = [name for name, other in RECIPES.items() if other.iterates]
    if recipe not in iterative:
        what = f"the recipe {recipe} is computed by NumPy; leave --backend and --device out"
        raise ConfigError(f"{what}, or take {' or '.join(iterative)}")
    if choose_device(config.device) == "mps":
        raise ConfigError("a probe ends in float64, which the device mps does not have; take --device cpu")


def _fit(
    recipe: RecipeName,
    encoded: Encoded,
    splits: Splits,
    shots: int | None = None,
    seed: int | None = None,
    progress: Progress | None = None,
) -> Probe:
    setting, fit = RECIPES[recipe][:2]
    outcome = fit(encoded if setting else encoded.refitted(), progress)
    found = Probe(recipe, encoded.normalize, splits, setting, outcome, shots, seed)
    if not splits.dataset.processes.rank:
        _ = found.evaluation  # now, as a part of the work
    return found


def require_processes(recipe: RecipeName, processes: Processes) -> None:
    """Raise a ConfigError if there are several processes, and the recipe is for one."""
    if processes.size > 1 and not RECIPES[recipe].sums:
        others = listed([name for name, other in RECIPES.items() if other.sums])
        raise ConfigError(
            f"the recipe {recipe} compares rows with each other, which one process must hold; start it without "
            f"torchrun, or take {others}"
        )


def notes_on_probes(probes: Sequence[Probe]) -> list[str]:
    """Return the notes on probes of one encoder: on one, or on those of few rows together."""
    first = probes[0]
    if first.shots is None:
        return first.notes()
    return notes_on_few([probe.outcome for probe in probes], first.splits, first.setting)


def compare_probes(a: Sequence[Probe], b: Sequence[Probe], names: tuple[str, str]) -> "Comparison":
    """Compare probes of two features of the same rows, each a probe or the probes of the same seeds.

    Raises
    ------
    DataError
        If the rows are not the same, by their labels.
    """
    from onelayer.experiments.comparison import compare_answers  # scipy, which it loads, takes a second

    require_same_rows(a[0].splits, b[0].splits, names)
    right_a, right_b = (np.array([probe.evaluation.right for probe in side]) for side in (a, b))
    return compare_answers(right_a, right_b, a[0].splits.test.row_weights(slice(None)), names=names)


def require_same_rows(a: Splits, b: Splits, names: tuple[str, str]) -> None:
    """Refuse features of other rows, or of rows in another order, as far as the labels show it."""
    same = a.dataset.class_names == b.dataset.class_names and all(
        np.array_equal(one.labels, other.labels) and np.array_equal(one.indices, other.indices)
        for one, other in zip(a, b, strict=True)
    )
    if not same:
        raise DataError(
            f"{names[0]} and {names[1]} are not features of the same rows in the same order: their labels differ; save "
            "both with one order of the rows"
        )
