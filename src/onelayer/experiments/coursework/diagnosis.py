"""The doctor: it ranks known mistakes by how well they explain the figures of somebody's own implementation.

`tools/make_signatures.py` made each mistake on CIFAR-10, in the four settings of the coursework and with many seeds;
``signatures.json`` holds mean and standard deviation of every figure. The likelihood of a mistake is a product of
normal densities, one for each figure given::

    L = prod_i N(x_i; m_i, s_i^2),    s_i^2 = (1 + 1/n) sd_i^2 + tolerance^2

where (1 + 1/n) sd^2 is the variance of the next seed's figure after n seeds, and the tolerance allows for rounded
figures and harmless differences of implementations. The figures of a run move together, which the product ignores: L
overstates the evidence between mistakes that are nearly the same. Therefore two mistakes are tied unless L differs
tenfold *and* at least one of their figures differs by more than a spread s. People read z = (x - m) / s, not L.
"""

import difflib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from onelayer.errors import ConfigError
from onelayer.experiments.coursework.printed import PRINTED

SIGNATURES = Path(__file__).with_name("signatures.json")
TABLED = tuple(f"{printed.learning_rate:g},{printed.l2:g}" for printed in PRINTED)  # learning rate, lambda
FIGURES = tuple(  # an accuracy has no word of its own: test, test-loss, test-cost, test-epoch-1, ...
    f"{split}{what}{when}"
    for split in ("train", "validation", "test")
    for what in ("", "-loss", "-cost")
    for when in ("", "-epoch-1")
)
TOLERANCE = {"accuracy": 0.003, "nats": 0.005}
FAR = 4.0  # the z beyond which a mistake does not explain a figure
STRONG = 10.0  # the ratio of likelihoods that is strong evidence on Jeffreys' scale


@dataclass(frozen=True)
class Mistake:
    """A mistake in words, and how to see and mend it."""

    title: str
    remedy: str


_ADVANCE = "print the first and last row of some batches: they should advance by the batch size"
_NORMALISE = "standardise every split with the mean and standard deviation of the training rows"
MISTAKES = {
    "none": Mistake("no mistake", "there is nothing to mend"),
    "init-0.1": Mistake(
        "initial weights of standard deviation 0.1",
        "draw them with 0.01; 0.01 is the standard deviation, not the variance",
    ),
    "init-1": Mistake("initial weights of standard deviation 1", "multiply the standard normal numbers by 0.01"),
    "penalty-2": Mistake(
        "the 2 in 2 lambda W dropped",
        "the gradient of lambda ||W||^2 is 2 lambda W; compare yours with onelayer.check_gradients at lambda > 0",
    ),
    "rate-0.01": Mistake("an older edition's learning rate, 0.01", "train with 0.001"),
    "no-shuffling": Mistake("rows not shuffled", "draw a new permutation of the rows before every epoch"),
    "overlap-half": Mistake("every batch has half of the rows of the one before", _ADVANCE),
    "overlap-99": Mistake(
        "batches advance by one row",
        "batch j begins at row 100 j, not at j: an epoch should see all rows, not 199 of them",
    ),
    "overlap-1": Mistake("every batch has one row of the next, too (harmless)", _ADVANCE),
    "skip-half": Mistake(
        "every second batch skipped",
        "count the updates of an epoch: 10,000 rows in batches of 100 make 100",
    ),
    "skip-1": Mistake("the last row of every batch left out (harmless)", _ADVANCE),
    "rows-for-columns": Mistake(
        "rows and columns of the images mixed up (harmless to every figure)",
        "the layer does not know where a pixel lies; the templates lie on their side",
    ),
    "pixels-255": Mistake("test rows not standardised, 0 to 255", _NORMALISE),
    "pixels-255-both": Mistake("validation and test rows not standardised, 0 to 255", _NORMALISE),
    "pixels-1": Mistake("test rows not standardised, 0 to 1", _NORMALISE),
    "pixels-1-both": Mistake("validation and test rows not standardised, 0 to 1", _NORMALISE),
    "own-mean": Mistake("test rows standardised with their own mean", f"{_NORMALISE}; it hardly shows"),
    "training-rows": Mistake("test figures measured on training rows", "see which rows are passed on"),
    "training-rows-both": Mistake(
        "validation and test figures measured on training rows", "see which rows are passed on"
    ),
}


@dataclass(frozen=True)
class Prediction:
    """A figure as given, and as a mistake predicts it: mean and spread. Accuracies are fractions."""

    setting: str
    figure: str
    given: float
    mean: float
    spread: float

    @property
    def z(self) -> float:
        """Distance of the given figure from the mean, in spreads."""
        return (self.given - self.mean) / self.spread


@dataclass(frozen=True)
class Diagnosis:
    """A mistake with its predictions for the figures.

    Parameters
    ----------
    name : str
        A key of MISTAKES.
    predictions : tuple of Prediction
        One for each figure given, in the same order.
    tied : bool
        Whether the figures cannot tell it from the likeliest mistake; true for the likeliest itself.
    """

    name: str
    predictions: tuple[Prediction, ...]
    tied: bool = False

    @property
    def mistake(self) -> Mistake:
        return MISTAKES[self.name]

    @property
    def worst(self) -> float:
        """The largest |z|."""
        return max(abs(prediction.z) for prediction in self.predictions)

    @property
    def explains(self) -> bool:
        """True if every figure is near its prediction."""
        return self.worst <= FAR

    @property
    def log_likelihood(self) -> float:
        """Logarithm of L, up to a constant."""
        return -sum(prediction.z**2 / 2 + math.log(prediction.spread) for prediction in self.predictions)


def diagnose(figures: Mapping[tuple[str, str], float]) -> list[Diagnosis]:
    """Rank the known mistakes by how well they explain figures.

    Parameters
    ----------
    figures : mapping of (setting, figure) to float
        One of TABLED and one of FIGURES; accuracies are fractions.

    Returns
    -------
    list of Diagnosis
        The likeliest first. If "none" is tied with the likeliest, it comes before all others.
    """
    table = _signatures()
    diagnoses = []
    for name in MISTAKES:
        predictions = []
        for (setting, figure), given in figures.items():
            mean, sd = table["signatures"][name][setting][figure]
            tolerance = TOLERANCE["accuracy" if is_accuracy(figure) else "nats"]
            spread = math.sqrt((1 + 1 / len(table["seeds"])) * sd**2 + tolerance**2)
            predictions.append(Prediction(setting, figure, given, mean, spread))
        diagnoses.append(Diagnosis(name, tuple(predictions)))
    best = min(diagnoses, key=_rank)
    tied = [replace(d, tied=True) for d in diagnoses if d is best or _tied(d, best)]
    rest = [d for d in diagnoses if d is not best and not _tied(d, best)]
    return sorted(tied, key=lambda d: (d.name != "none", _rank(d))) + sorted(rest, key=_rank)


def _rank(diagnosis: Diagnosis) -> tuple[bool, float]:
    """Return a key for sorting: explanations by likelihood, then the others by distance."""
    return not diagnosis.explains, -diagnosis.log_likelihood if diagnosis.explains else diagnosis.worst


def _tied(diagnosis: Diagnosis, best: Diagnosis) -> bool:
    """Return whether the likelihoods are close, or the means so close that their difference may be chance."""
    close = best.log_likelihood - diagnosis.log_likelihood < math.log(STRONG)
    pairs = zip(diagnosis.predictions, best.predictions, strict=True)
    same = all(abs(p.mean - q.mean) <= max(p.spread, q.spread) for p, q in pairs)
    return diagnosis.explains and (close or same)


def is_accuracy(figure: str) -> bool:
    """Return whether one of FIGURES is an accuracy; the others are in nats."""
    return "-loss" not in figure and "-cost" not in figure


def parse(words: Sequence[str]) -> dict[tuple[str, str], float]:
    """Read the figures of a command line, ``--setting 0.001,0 --test 28.6 --train-loss=1.61 --setting ...``.

    Accuracies are percent, or fractions if they are at most 1.

    Raises
    ------
    ConfigError
        If a word is not one of these options, or a number is outside its range.
    """
    figures: dict[tuple[str, str], float] = {}
    setting = None
    rest = list(words)
    while rest:
        word, equals, value = rest.pop(0).partition("=")
        name = word.removeprefix("--").replace("_", "-")
        if not word.startswith("--") or name not in ("setting", *FIGURES):
            near = difflib.get_close_matches(name, ("setting", *FIGURES), n=1)
            guess = f"did you mean --{near[0]}?" if near else "options are --setting, --test, --train-loss and the like"
            raise ConfigError(f"{word} is not an option of diagnose; {guess}")
        if not equals:
            if not rest or rest[0].startswith("--"):
                raise ConfigError(f"{word} needs a value, as in {word} {'0.001,0' if name == 'setting' else '28.6'}")
            value = rest.pop(0)
        if name == "setting":
            setting = _setting(value)
            if rest and not rest[0].startswith("--setting"):
                continue
            raise ConfigError(f"--setting {value} has no figure after it; add one, such as --test 28.6")
        if setting is None:
            raise ConfigError(f"{word} {value} comes before any --setting; put --setting 0.001,0 or another before it")
        if (setting, name) in figures:
            raise ConfigError(f"{word} is given twice for the setting {setting}; give it once")
        figures[setting, name] = _figure(word, name, value)
    if not figures:
        raise ConfigError("diagnose needs figures; give some, such as --setting 0.001,0 --test 28.6")
    return figures


def _setting(value: str) -> str:
    """Return the setting of the table that equals this one."""
    try:
        rate, l2 = map(float, value.split(","))
        return next(known for known in TABLED if [rate, l2] == [float(number) for number in known.split(",")])
    except (ValueError, StopIteration):
        known = " ".join(TABLED)
        raise ConfigError(f"--setting {value}: the table knows the settings {known} (learning rate,lambda)") from None


def _figure(word: str, name: str, value: str) -> float:
    """Return a figure as a number, accuracies as fractions."""
    try:
        number = float(value)
    except ValueError:
        raise ConfigError(f"{word} takes a number, not {value!r}") from None
    if not is_accuracy(name):
        if not (math.isfinite(number) and number >= 0):
            raise ConfigError(f"{word} {value}: a loss or cost is a number of at least 0, in nats")
        return number
    if not 0 <= number <= 100:
        raise ConfigError(
            f"{word} {value}: an accuracy is 0 to 100, in percent; --{name.split('-')[0]}-loss takes a loss"
        )
    return number if number <= 1 else number / 100


@cache
def _signatures() -> dict[str, Any]:
    """Return the table of the mistakes' figures."""
    return json.loads(SIGNATURES.read_text(encoding="utf-8"))
