"""The plan of a sweep: settings on a grid or drawn at random, seeds, splits and data."""

import itertools
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal, get_args

import numpy as np

from onelayer.config import SETTINGS, SOLVER_SETTINGS, SourceConfig, SplitConfig, TrainConfig
from onelayer.errors import ConfigError
from onelayer.runs.plan import Plan
from onelayer.words import counted, option_value, spaced

LOGARITHMIC = ("learning_rate", "l2")  # drawn from a range, each power of ten as likely as the next

Options = Mapping[str, Sequence[Any]]
Select = Literal["loss", "accuracy", "balanced-accuracy"]


def grid(options: Options) -> tuple[TrainConfig, ...]:
    """Return every combination of the options' values, the last option varying fastest; repeated values count once.

    Raises
    ------
    ConfigError
        If an option has no values, or a bad one.
    """
    values = [dict.fromkeys(_checked(options, name)) for name in options]
    return tuple(TrainConfig(**dict(zip(options, chosen, strict=True))) for chosen in itertools.product(*values))


def draws(options: Options, count: int, random_seed: int = 0) -> tuple[TrainConfig, ...]:
    """Return `count` settings drawn at random; a smaller count gives the first of them.

    Two numbers for the learning rate or l2 are the ends of a range, from which logarithms are drawn uniformly. In all
    other cases one of the values is drawn.

    Raises
    ------
    ConfigError
        If there is nothing to draw from, or an option has no values, or a bad one.
    """
    values = {name: _checked(options, name) for name in options}
    if count < 1:
        raise ConfigError(f"random {count} is not a whole number of at least 1")
    if all(len(set(of_option)) == 1 for of_option in values.values()):
        raise ConfigError("random has nothing to draw from: give an option several values, such as a range of l2")
    ranges = [name for name in LOGARITHMIC if len(values.get(name, ())) == 2 and all(map(is_number, values[name]))]
    for name in ranges:
        if min(values[name]) == 0:
            raise ConfigError(f"{spaced(name)} 0 cannot be the end of a range of logarithms; give a positive number")
    rng = np.random.default_rng(random_seed)

    def draw(name: str) -> Any:
        of_option = values[name]
        if name in ranges:
            low, high = sorted(of_option)
            return min(max(math.exp(rng.uniform(math.log(low), math.log(high))), low), high)
        return of_option[int(rng.integers(len(of_option)))]

    return tuple(TrainConfig(**{name: draw(name) for name in values}) for _ in range(count))


def _checked(options: Options, name: str) -> Sequence[Any]:
    """Return the values of an option; refuse none, and a bad one."""
    if not options[name]:
        raise ConfigError(f"{spaced(name)} has no values, which leaves nothing to train")
    owner: Any = next((solver for solver, names in SOLVER_SETTINGS.items() if name in names), TrainConfig.solver)
    for value in options[name]:
        TrainConfig(**{"solver": owner, name: value})  # names the bad one
    return options[name]


@dataclass(frozen=True)
class SweepPlan:
    """The plan of a sweep.

    Parameters
    ----------
    configs : tuple of TrainConfig
        The settings; their `seed` and `threads` do not count.
    seeds : tuple of int
        Each setting is trained with each seed.
    split_config : SplitConfig
    source : str
        As in the plan of a run. It may change, since data can move.
    fingerprint : str
        Fingerprint of the data set as it was read.
    source_config : SourceConfig
        Options that the source was read with.
    select : {"loss", "accuracy", "balanced-accuracy"}
        The score of the validation rows that chooses a setting.
    parts : int
        Number of processes that share the runs, see `runs_of`.
    stack : bool
        Train the runs that differ in the steps alone together, in one pass over the rows.
    """

    configs: tuple[TrainConfig, ...]
    seeds: tuple[int, ...]
    split_config: SplitConfig
    source: str = field(compare=False)
    fingerprint: str
    source_config: SourceConfig = SourceConfig()
    select: Select = "loss"
    parts: int = 1
    stack: bool = False

    def __post_init__(self) -> None:
        if self.select not in get_args(Select):
            raise ConfigError(
                f"select {self.select!r} is not {', '.join(get_args(Select)[:-1])} or {get_args(Select)[-1]}"
            )
        losses = {config.loss for config in self.configs}
        if self.select == "loss" and len(losses) > 1:
            kinds = " and ".join(sorted(losses))
            raise ConfigError(f"losses of different kinds ({kinds}) cannot be compared; select by accuracy")
        if not (self.configs and self.seeds):
            raise ConfigError("a sweep needs at least one setting and one seed")
        if len(set(self.seeds)) < len(self.seeds):
            raise ConfigError("a seed comes twice; give each once")
        alike = tuple(replace(config, seed=self.seeds[0], threads=1) for config in self.configs)
        object.__setattr__(self, "configs", alike)

    @property
    def varied(self) -> tuple[str, ...]:
        """The options that have several values."""
        return tuple(name for name in SETTINGS if len({getattr(config, name) for config in self.configs}) > 1)

    def values(self, name: str) -> list[Any]:
        """Return the different values of an option: the numbers in ascending order, then the words."""
        return sorted(
            dict.fromkeys(getattr(config, name) for config in self.configs),
            key=lambda value: (not is_number(value), value if is_number(value) else str(value)),
        )

    @property
    def is_grid(self) -> bool:
        """True if the settings are all combinations of their values, as `grid` makes them."""
        return len(set(self.configs)) == math.prod(len(self.values(name)) for name in self.varied)

    def of_run(self, setting: int, seed: int) -> Plan:
        """Return the plan of a run."""
        config = replace(self.configs[setting], seed=seed)
        return Plan(config, self.split_config, self.source, self.fingerprint, self.source_config)

    def runs_of(self, part: int) -> list[tuple[int, int]]:
        """Return the setting and the seed of each run of a part, counted from 1.

        The runs are dealt in turn, those first that differ in the learning rate and lambda alone and thus take about as
        long: of each such group, two parts have equally many runs, or one has one more.
        """
        runs = [(setting, seed) for setting in range(len(self.configs)) for seed in self.seeds]
        kinds = [_kind(config) for config in self.configs]
        return sorted(sorted(runs, key=lambda run: kinds[run[0]])[part - 1 :: self.parts])

    def difference(self, other: "SweepPlan") -> str:
        """Return the first difference from `other`, in words."""
        if self.fingerprint != other.fingerprint:
            if self.source_config.fit != other.source_config.fit:
                return f"its fit is {self.source_config.fit}, not {other.source_config.fit}"
            return f"its data begin with the fingerprint {self.fingerprint[:12]}, not {other.fingerprint[:12]}"
        if self.seeds != other.seeds:
            return f"its seeds are {_listed(self.seeds)}, not {_listed(other.seeds)}"
        for name in SETTINGS:
            mine, theirs = ([getattr(config, name) for config in plan.configs] for plan in (self, other))
            if dict.fromkeys(mine) != dict.fromkeys(theirs):
                return f"its {spaced(name)} is {_listed(mine)}, not {_listed(theirs)}"
        if self.configs != other.configs:
            return "its settings come in another order"
        if self.select != other.select:
            return f"its setting is chosen by {self.select}, not by {other.select}"
        if self.stack != other.stack:
            ways = "one by one", "in stacks"
            return f"its runs are trained {ways[self.stack]}, not {ways[other.stack]}"
        if self.parts != other.parts:
            return f"its runs are divided into {counted(self.parts, 'part')}, not {other.parts}"
        return "its rows are split in another way"


def _kind(config: TrainConfig) -> list[str]:
    """Return the settings on which the time of a run depends most, as words to sort by."""
    return [str(getattr(config, name)) for name in SETTINGS if name not in LOGARITHMIC]


def is_number(value: object) -> bool:
    """Return whether the value of an option is a number, neither yes or no nor a word."""
    return isinstance(value, int | float) and not isinstance(value, bool)


def _listed(values: Sequence[object]) -> str:
    """Return the first different values in words."""
    words = [option_value(value) for value in dict.fromkeys(values)]
    return ", ".join([*words[:3], "..."] if len(words) > 4 else words)
