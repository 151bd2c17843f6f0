"""The questions of a study: which settings are trained, and what is asked of them."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from onelayer.config import TrainConfig

Protocol = Literal["batch", "full"]
SplitEpoch = tuple[str, int]  # the split and the epoch that an accuracy is of


@dataclass(frozen=True)
class Setting:
    """Options of training, and the protocol that gives the rows."""

    protocol: Protocol
    config: TrainConfig


@dataclass(frozen=True)
class Effect:
    """A change from setting A to setting B, whose effect on the test accuracy is to be estimated."""

    title: str
    a: Setting
    b: Setting


@dataclass(frozen=True)
class Reported:
    """A setting with accuracies in percent that somebody else printed for it."""

    setting: Setting
    figures: Mapping[SplitEpoch, float]


@dataclass(frozen=True)
class Study:
    """The settings to train and the questions about them.

    Parameters
    ----------
    reported : tuple of Reported
        Printed figures, to be judged by the spread of the seeds.
    effects : tuple of Effect
        Changes, whose effects are to be estimated with paired intervals.
    probabilities : tuple of Setting
        Settings whose probabilities of the true class are set side by side.
    grid : tuple of Setting
        Settings of one protocol, among which validation chooses.
    """

    reported: tuple[Reported, ...] = ()
    effects: tuple[Effect, ...] = ()
    probabilities: tuple[Setting, ...] = ()
    grid: tuple[Setting, ...] = ()

    def __add__(self, other: "Study") -> "Study":
        return Study(*(mine + theirs for mine, theirs in zip(vars(self).values(), vars(other).values(), strict=True)))

    @property
    def described(self) -> tuple[Setting, ...]:
        """The settings outside the grid, each once."""
        of_effects = (setting for effect in self.effects for setting in (effect.a, effect.b))
        return tuple(dict.fromkeys([*(r.setting for r in self.reported), *of_effects, *self.probabilities]))
