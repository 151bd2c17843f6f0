"""The settings; each is declared, documented and checked once.

The command line builds its options from these classes, a TOML file sets the same names, and a run records them.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, Literal

from onelayer.errors import ConfigError
from onelayer.losses import LOSSES
from onelayer.words import counted, option_value

FILTERS = 128  # for each size of patches, if their number is not given
FEATURES = "none, patches, patches:K with 1 to 99999 filters of each size, or onnx:FILE"


@dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of training.

    Parameters
    ----------
    solver
        Way to train: sgd takes small steps, batch by batch; converged goes to the optimum, without the settings of sgd.
    tol
        Gap at which converged ends, as a share of the lowest cost possible: 1e-4 is 0.01 percent above it.
    max_passes
        Passes over the training rows after which converged ends in any case.
    learning_rate
        Step size of gradient descent (also --lr, --eta); auto measures the longest safe step on the training rows.
    l2
        Weight lambda of the penalty lambda ||W||^2; 0 means no penalty (also --lam, --lambda).
    batch_size
        Rows in a step; the last batch of an epoch may be smaller (also --n-batch).
    momentum
        Share of the last step that the next one repeats, from 0 to 1; auto is 0.9 with --features, else 0.
    epochs
        Passes over the training rows (also --n-epochs); 0 keeps the initial weights; auto ends with --patience.
    patience
        Epochs without a lower held-out loss after which a decay or the end comes, where these are auto.
    keep
        Epoch whose weights the model gets: best is that of the lowest validation loss, if there are validation rows.
    loss
        Loss to minimise: softmax cross-entropy, or one sigmoid per class with binary cross-entropy.
    shuffle_blocks
        Rows in a block; blocks are shuffled, then rows within 64 blocks, for data larger than memory; 0 shuffles all.
    flip
        Mirror each training image left to right with probability 1/2 in every epoch; converged takes both.
    decay_every
        Epochs after which --decay-factor multiplies the learning rate, each time; 0 means never; auto, at plateaus.
    decay_factor
        Factor for the learning rate, from 0 to 1; used with --decay-every.
    init_std
        Standard deviation of the initial weights; 0 starts at zero.
    init_bias
        Initial bias: frequencies gives each class its share of the training rows; or zero.
    class_weight
        Weight of each class in training: none, balanced for the same total for each, or NAME=W,... (others 1).
    dtype
        Floating-point type of the arithmetic.
    seed
        Seed for the initial weights, the row order and the flips.
    features
        Features in place of pixels: none; patches, or patches:K for K filters of each size (128); onnx:FILE.
    features_mirror
        Let patches count the mirror images of their filters too: on, off; auto does for three channels only.
    features_seed
        Seed for what the features draw; independent of --seed, so that runs with different seeds share them.
    backend
        Code that does the arithmetic: native is compiled, for float32; torch is PyTorch; auto: native, else numpy.
    device
        Device of the backend torch, which cuda, cuda:1, ... and mps imply; auto with it takes the first GPU, else cpu.
    precision
        Factors of products in training by torch: full has the digits of --dtype, tf32 and bfloat16 have fewer.
    threads
        Threads: sgd uses 2, to evaluate while it trains, or 1; converged as many as it may; 0 is one for each core.
    """

    solver: Literal["sgd", "converged"] = "sgd"
    tol: float = 1e-4
    max_passes: int = 1000
    learning_rate: float | Literal["auto"] = "auto"
    l2: float = 0.0
    batch_size: int = 100
    momentum: float | Literal["auto"] = "auto"
    epochs: int | Literal["auto"] = "auto"
    patience: int = 5
    keep: Literal["best", "last"] = "best"
    loss: str = "softmax"
    shuffle_blocks: int = 0
    flip: bool = False
    decay_every: int | Literal["auto"] = "auto"
    decay_factor: float = 0.1
    init_std: float = 0.0
    init_bias: Literal["frequencies", "zero"] = "frequencies"
    class_weight: str = "none"
    dtype: Literal["float32", "float64"] = "float32"
    seed: int = 42
    features: str = "none"
    features_mirror: Literal["auto", "on", "off"] = "auto"
    features_seed: int = 0
    backend: Literal["auto", "native", "numpy", "torch"] = "auto"
    device: str = "auto"
    precision: Literal["full", "tf32", "bfloat16"] = "full"
    threads: int = 0

    def __repr__(self) -> str:
        return _changes(self)

    def __post_init__(self) -> None:
        _plain(self)
        _require(self, "solver", self.solver in ("sgd", "converged"), "sgd or converged")
        _require(self, "tol", _finite(self.tol) and 0 < self.tol < 1, "a number between 0 and 1")
        _require(self, "max_passes", _count(self.max_passes) and self.max_passes >= 1, "a whole number of at least 1")
        rate = self.learning_rate
        _require(self, "learning_rate", rate == "auto" or (_finite(rate) and rate > 0), "a positive number, or auto")
        _require(self, "l2", _finite(self.l2) and self.l2 >= 0, "zero or a positive number")
        _require(self, "batch_size", _count(self.batch_size) and self.batch_size >= 1, "a whole number of at least 1")
        momentum = self.momentum
        good = momentum == "auto" or (_finite(momentum) and 0 <= momentum < 1)
        _require(self, "momentum", good, "a number of at least 0 and below 1, or auto")
        what = "0 or auto with random initial weights"
        _require(self, "momentum", momentum == "auto" or not (momentum and self.init_std), what)
        _require(self, "epochs", self.epochs == "auto" or _count(self.epochs), "a whole number of at least 0, or auto")
        _require(self, "patience", _count(self.patience) and self.patience >= 1, "a whole number of at least 1")
        _require(self, "keep", self.keep in ("best", "last"), "best or last")
        _require(self, "loss", self.loss in [*LOSSES], " or ".join(LOSSES))
        _require(self, "shuffle_blocks", _count(self.shuffle_blocks), "a whole number of at least 0")
        _require(self, "flip", isinstance(self.flip, bool), "true or false")
        every = self.decay_every
        _require(self, "decay_every", every == "auto" or _count(every), "a whole number of at least 0, or auto")
        _require(self, "decay_factor", _finite(self.decay_factor) and 0 < self.decay_factor <= 1, "in (0, 1]")
        _require(self, "init_std", _finite(self.init_std) and 0 <= self.init_std <= 1e6, "a number from 0 to 1e6")
        _require(self, "init_bias", self.init_bias in ("frequencies", "zero"), "frequencies or zero")
        good = isinstance(self.class_weight, str) and (
            self.class_weight in ("none", "balanced") or bool(class_weights(self.class_weight))
        )
        _require(self, "class_weight", good, "none, balanced, or NAME=W,... with weights from 0 to 1e30")
        _require(self, "dtype", self.dtype in ("float32", "float64"), "float32 or float64")
        _require(self, "seed", _count(self.seed), "a whole number of at least 0")
        _require(self, "features", self.features == "none" or bool(self.filters or self.encoder), FEATURES)
        _require(self, "features_mirror", self.features_mirror in ("auto", "on", "off"), "auto, on or off")
        if self.flip and self.features != "none":
            raise ConfigError(f"flip needs images, but the features {self.features} are not images; leave one out")
        _require(self, "features_seed", _count(self.features_seed), "a whole number of at least 0")
        _require(self, "backend", self.backend in ("auto", "native", "numpy", "torch"), "auto, native, numpy or torch")
        good = isinstance(self.device, str) and bool(re.fullmatch(r"auto|cpu|cuda(:[0-9]{1,3})?|mps", self.device))
        _require(self, "device", good, "auto, cpu, cuda, cuda:N for GPU number N, or mps")
        good = self.precision in ("full", "tf32", "bfloat16")
        _require(self, "precision", good, "full, tf32 or bfloat16")
        _require(self, "threads", _count(self.threads), "a whole number of at least 0")
        self._refuse_settings_of_other_solvers()

    def _refuse_settings_of_other_solvers(self) -> None:
        for solver, names in SOLVER_SETTINGS.items():
            for name in names:
                if solver != self.solver and getattr(self, name) != getattr(type(self), name):
                    what = f"{name.replace('_', ' ')} {getattr(self, name)} is a setting of the solver {solver}"
                    raise ConfigError(f"{what}, not of {self.solver}; leave it out, or take the other solver")

    @property
    def filters(self) -> int:
        """The number of filters for each size of patches; 0 if the features are not patches."""
        name, _, count = self.features.partition(":") if isinstance(self.features, str) else ("", "", "")
        if name != "patches" or not re.fullmatch("([1-9][0-9]{0,4})?", count) or self.features.endswith(":"):
            return 0
        return int(count or FILTERS)

    @property
    def momentum_taken(self) -> float:
        """The momentum as a number; auto is 0, and `Problem` replaces it where there is a feature map."""
        return 0.0 if self.momentum == "auto" else self.momentum

    @property
    def needs_torch(self) -> bool:
        """True if only the backend torch has this device and this precision."""
        return self.device not in ("auto", "cpu") or self.precision != "full"

    @property
    def encoder(self) -> str:
        """The path of the ONNX file that computes the features; empty if there is none."""
        name, _, path = self.features.partition(":") if isinstance(self.features, str) else ("", "", "")
        return path if name == "onnx" and path.isprintable() else ""

    @property
    def needs_best(self) -> bool:
        """True if the best epoch is kept, or training may go on from it."""
        return self.solver == "sgd" and (self.keep == "best" or self.decay_every == "auto")

    def in_words(self) -> str:
        """Return the setting and the seed in a line, for titles."""
        return f"{self.setting_in_words()}, seed {self.seed}"

    def setting_in_words(self) -> str:
        """Return the setting in a line; blocks, flips, decay and type only where they are not the defaults."""
        words = [self.loss, *(self._optimum_in_words() if self.solver == "converged" else self._steps_in_words())]
        words += [f"class weight {self.class_weight}"] * (self.class_weight != "none")
        words += [self.features] * (self.features != "none")
        words += [f"features mirror {self.features_mirror}"] * (self.features_mirror != "auto")
        words += [f"features seed {self.features_seed}"] * (self.features_seed != 0)
        words += ["flips"] * self.flip + [self.dtype] * (self.dtype != "float32")
        words += [self.precision] * (self.precision != "full")
        return ", ".join(words)

    def _optimum_in_words(self) -> list[str]:
        words = ["converged", f"l2 {self.l2:g}"]
        words += [f"tol {self.tol:g}"] * (self.tol != type(self).tol)
        return words + [f"at most {counted(self.max_passes, 'pass')}"] * (self.max_passes != type(self).max_passes)

    def _steps_in_words(self) -> list[str]:
        words = [f"learning rate {option_value(self.learning_rate)}"]
        if isinstance(self.decay_every, int) and self.decay_every:
            words.append(f"times {self.decay_factor:g} every {counted(self.decay_every, 'epoch')}")
        words += [f"l2 {self.l2:g}", f"batches of {self.batch_size:,}"]
        words += [f"momentum {option_value(self.momentum)}"] * (self.momentum != "auto")
        words.append("epochs auto" if self.epochs == "auto" else counted(self.epochs, "epoch"))
        return words + [f"shuffled by blocks of {self.shuffle_blocks:,}"] * (self.shuffle_blocks > 0)

    @property
    def settings(self) -> dict[str, object]:
        """Names and values of the settings: everything that a result depends on except the seed."""
        return {name: getattr(self, name) for name in SETTINGS}

    @classmethod
    def of_file(cls, values: dict[str, Any]) -> "TrainConfig":
        """Return the settings of a file; those that it does not name did not exist, and take the value they had."""
        return cls(**asdict(COURSEWORK) | values)


# The settings that one solver has and the others have not.
SOLVER_SETTINGS = {
    "sgd": (
        *("learning_rate", "batch_size", "momentum", "epochs", "patience", "keep", "shuffle_blocks"),
        *("decay_every", "decay_factor", "init_std", "init_bias", "precision"),
    ),
    "converged": ("tol", "max_passes"),
}

# The values of lambda on a path, if none are given.
PATH_L2 = (10.0, 3.0, 1.0, 0.3, 0.1, 0.03, 0.01, 3e-3, 1e-3, 3e-4, 1e-4)


def settings_of_others(solver: str) -> set[str]:
    """Return the names of the settings that this solver does not have."""
    return {name for other, names in SOLVER_SETTINGS.items() if other != solver for name in names}


# Short names of settings, and those of the course that this project starts from.
ALIASES = {
    "lr": "learning_rate",
    "eta": "learning_rate",
    "lam": "l2",
    "lambda": "l2",
    "n_batch": "batch_size",
    "n_epochs": "epochs",
    "bs": "batch_size",
    "val_size": "validation_size",
    "val_split": "validation_size",
    "validation_split": "validation_size",
    "random_state": "seed",
}

# Runs that agree in these options are runs of one setting: seeds repeat it, and threads change no number.
SETTINGS = tuple(field.name for field in fields(TrainConfig) if field.name not in ("seed", "threads"))


Fit = Literal["squeeze", "crop", "pad"]  # ways to bring images of other proportions to a size


@dataclass(frozen=True, kw_only=True)
class SourceConfig:
    """Settings of reading a source of data.

    Parameters
    ----------
    image_size
        Size in pixels for a folder's images: 32, or width x height as 48x32; by default the most common, at most 64x64.
    fit
        Way for odd proportions: squeeze distorts, crop cuts, pad adds white; auto crops if most agree, else squeezes.
    allow_unreadable
        Continue even if more than 1 % of a folder's images cannot be read.
    coarse
        Use the 20 superclasses of CIFAR-100 instead of its 100 classes.
    """

    image_size: str | None = None
    # Rows that differ by it have different fingerprints. Where no image is fitted, as in CIFAR-10, it changes no row.
    fit: Literal["auto", "squeeze", "crop", "pad"] = field(default="auto", compare=False)
    allow_unreadable: bool = False
    coarse: bool = False

    def __repr__(self) -> str:
        return _changes(self)

    @classmethod
    def of_file(cls, settings: Mapping[str, Any]) -> "SourceConfig":
        """Return the settings that a file recorded; those that an older file does not name have their old values."""
        return cls(**{"fit": "squeeze", **settings})

    def __post_init__(self) -> None:
        sized = self.image_size is None or self.width_and_height is not None
        _require(self, "image_size", sized, "a size from 1 to 4096, as 32, or width x height, as 48x32")
        _require(self, "fit", self.fit in ("auto", "squeeze", "crop", "pad"), "auto, squeeze, crop or pad")
        _require(self, "allow_unreadable", isinstance(self.allow_unreadable, bool), "true or false")
        _require(self, "coarse", isinstance(self.coarse, bool), "true or false")

    @property
    def width_and_height(self) -> tuple[int, int] | None:
        """Width and height of images that were asked for, in pixels; None if none were or they are out of range."""
        if not isinstance(self.image_size, str) or not re.fullmatch(r"[0-9]{1,4}(x[0-9]{1,4})?", self.image_size):
            return None
        width, _, height = self.image_size.partition("x")
        size = int(width), int(height or width)
        return size if min(size) >= 1 and max(size) <= 4096 else None


@dataclass(frozen=True, kw_only=True)
class SplitConfig:
    """Settings of dividing a data set into training, validation and test rows.

    Parameters
    ----------
    protocol
        Way to divide the rows: batch, given, full or stratified; by default the one that fits the source's parts.
    validation_size
        Rows drawn for validation, or a fraction below 1; by default 1000 or 0.2, the smaller; with stratified 0.2.
    test_size
        Rows drawn for testing, or a fraction below 1; by default 0.2.
    split_seed
        Seed for the drawn rows; independent of --seed, so that runs with different seeds share their test rows.
    refit
        Train on the validation rows too; a sweep or a path first chooses a setting by them.
    """

    protocol: Literal["batch", "given", "full", "stratified"] | None = None
    validation_size: float | None = None
    test_size: float | None = None
    split_seed: int = 0
    refit: bool = False

    def __repr__(self) -> str:
        return _changes(self)

    def __post_init__(self) -> None:
        _plain(self)
        protocols = ("batch", "given", "full", "stratified", None)
        _require(self, "protocol", self.protocol in protocols, "batch, given, full or stratified")
        for name in ("validation_size", "test_size"):
            size = getattr(self, name)
            good = size is None or (_finite(size) and size > 0 and (size < 1 or size == int(size)))
            _require(self, name, good, "a whole number of rows, or a fraction between 0 and 1")
        _require(self, "split_seed", _count(self.split_seed), "a whole number of at least 0")
        _require(self, "refit", isinstance(self.refit, bool), "true or false")


def _changes(config: Any) -> str:
    """Return the call that makes these settings, without those that are the defaults."""
    values = ((field, getattr(config, field.name)) for field in fields(config))
    given = ", ".join(f"{field.name}={value!r}" for field, value in values if value != field.default)
    return f"{type(config).__name__}({given})"


def class_weights(setting: str) -> dict[str, float]:
    """Return the weights by class name of ``NAME=W,...``; nothing if it is not of this form."""
    found: dict[str, float] = {}
    for item in setting.split(","):
        name, _, weight = item.rpartition("=")
        if not name or name in found or not re.fullmatch(r"([0-9]+\.?|[0-9]*\.[0-9]+)(e[+-]?[0-9]+)?", weight):
            return {}
        if (value := float(weight)) > 1e30:  # as the weights of rows
            return {}
        found[name] = value
    return found


def _plain(config: object) -> None:
    """Turn NumPy's numbers into Python's, which JSON can hold; without loading NumPy, which --help does not need."""
    for name, value in vars(config).items():
        if hasattr(value, "item"):
            object.__setattr__(config, name, value.item())


def _finite(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _require(config: object, name: str, good: bool, what: str) -> None:
    if not good:
        value = getattr(config, name)
        shown = f"{value:.15g}" if isinstance(value, float) else repr(value)  # -1 as it was typed, not -1.0
        raise ConfigError(f"{name.replace('_', ' ')} {shown} is not {what}")


# The settings of the coursework, which were the defaults once.
COURSEWORK = TrainConfig(
    learning_rate=0.001, epochs=40, keep="last", decay_every=0, init_std=0.01, init_bias="zero", batch_size=100, l2=0.0
)
PRESETS = {"coursework": COURSEWORK}
