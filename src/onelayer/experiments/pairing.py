"""Comparing runs on disk: found in directories, matched by seed, and answering the same rows."""

import glob
import re
import shlex
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Literal

import numpy as np

from onelayer.analysis.evaluation import evaluate
from onelayer.config import TrainConfig, settings_of_others
from onelayer.data.dataset import Split, Splits
from onelayer.data.protocols import split as divide
from onelayer.errors import ConfigError, DataError, OnelayerWarning, RunError
from onelayer.experiments.comparison import Comparison, compare_answers, compare_balanced
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.runs.training import probe_of
from onelayer.words import option_value, printable, spaced


@dataclass(frozen=True)
class Pairing:
    """Runs of A and B; partners are at the same place.

    Parameters
    ----------
    runs_a, runs_b : tuple of Run
        Runs of the same seeds, in their order. If each side has one run, their seeds may differ.
    settings : str
        The settings in which A and B differ, in words.
    names : (str, str)
        Names of A and of B, made of these settings.
    alone : dict of str to tuple of int
        Seeds of A and of B without a partner.
    """

    runs_a: tuple[Run, ...]
    runs_b: tuple[Run, ...]
    settings: str
    names: tuple[str, str]
    alone: dict[str, tuple[int, ...]]


def compare_runs(
    runs_a: Sequence[Run], runs_b: Sequence[Run], split: Literal["test", "validation"], splits: Splits
) -> Comparison:
    """Compare complete runs, matched by seed, by their models' answers on a split.

    Raises
    ------
    ConfigError
        If the settings of one side differ in more than the seed, no seed is common to both sides, or the runs do not
        divide the data as `splits` does.
    DataError
        If a run was trained on other data.
    """
    pairing = pair(runs_a, runs_b)
    _require_same_rows([*pairing.runs_a, *pairing.runs_b], splits)
    if split == "validation" and any(run.read_checkpoint()[0].split_config.refit for run in pairing.runs_a):
        raise ConfigError("these runs were trained on the validation rows too; compare them on test rows")
    rows = splits.test if split == "test" else splits.validation
    right_a, right_b = (right_rows(side, rows) for side in (pairing.runs_a, pairing.runs_b))  # (pairs, n)
    weights = rows.row_weights(slice(None))
    found = compare_answers(right_a, right_b, weights, names=pairing.names)
    plans = (side[0].read_checkpoint()[0] for side in (pairing.runs_a, pairing.runs_b))
    if all(plan.config.class_weight == "none" for plan in plans):
        return found
    return replace(found, balanced=compare_balanced(right_a, right_b, rows.labels, weights))


def right_rows(runs: Sequence[Run], rows: Split) -> np.ndarray:
    """Return whether the models of runs get each row right, (runs, n), bool."""
    return np.array([evaluate(run.model, rows).right for run in runs])


def find_runs(path: Path) -> list[Run]:
    """Return the run in a directory, or the runs in the directories within it, or those of a setting of a sweep.

    The runs of a setting have names that begin with it: where no directory ``runs/002`` holds runs, ``runs/002``
    stands for ``runs/002-seed-42``, ``runs/002-seed-43`` and so on.

    Raises
    ------
    RunError
        If there is none.
    """
    if (path / "sweep.json").exists():
        raise RunError(f"{path} is a sweep; compare two of its settings, such as {path / 'runs' / '000'}")
    try:
        if runs := [run for run in map(Run, [path, *sorted(path.iterdir())]) if run.checkpoint_path.exists()]:
            return runs[:1] if runs[0].path == path else runs
        problem = f"{path} is not a run of onelayer and holds no runs; pass a run directory, or a folder of runs"
    except OSError:
        problem = ""
    of_seed = re.compile(re.escape(path.name) + r"-seed-\d+")
    named = sorted(path.parent.glob(f"{glob.escape(path.name)}-seed-*"))
    if of_setting := [Run.open(run) for run in named if of_seed.fullmatch(run.name) and run.is_dir()]:
        return of_setting
    if problem:
        raise RunError(problem)
    return [Run.open(path)]  # it says what is wrong


def pair(runs_a: Sequence[Run], runs_b: Sequence[Run]) -> Pairing:
    """Match runs by seed.

    Raises
    ------
    ConfigError
        If the settings of one side differ in more than the seed, or no seed is common to both sides.
    """
    (plan_a, a), (plan_b, b) = _by_seed(runs_a), _by_seed(runs_b)
    both = shared_settings(plan_a.config, plan_b.config)
    if (probe_a := probe_of(runs_a[0])) and (probe_b := probe_of(runs_b[0])):
        chosen = ["chosen"] * (None not in (probe_a.get("chosen"), probe_b.get("chosen")))
        shown = ["recipe", "normalize", *chosen]
        recipe_a, recipe_b = ({name: probe.get(name) for name in shown} for probe in (probe_a, probe_b))
        both = recipe_a, recipe_b
    settings, names = differences_in_words(*both) or "the settings are the same", names_by_difference(*both)
    common = sorted(a.keys() & b.keys())
    if len(a) == len(b) == 1 and not common:
        seeds = f"seed {plan_a.config.seed} against {plan_b.config.seed}"
        return Pairing(tuple(a.values()), tuple(b.values()), f"{settings}, {seeds}", names, {})
    if not common:
        seeds = " and ".join(f"{name} has {', '.join(map(str, side))}" for name, side in (("A", a), ("B", b)))
        raise ConfigError(f"no seed is common to both sides: {seeds}; train both with the same seeds")
    alone = {"A": tuple(sorted(a.keys() - b.keys())), "B": tuple(sorted(b.keys() - a.keys()))}
    return Pairing(tuple(a[seed] for seed in common), tuple(b[seed] for seed in common), settings, names, alone)


def shared_settings(a: TrainConfig, b: TrainConfig) -> tuple[dict[str, object], dict[str, object]]:
    """Return the settings of A and of B by name, without those that only one of their solvers has."""
    foreign = settings_of_others(a.solver) | settings_of_others(b.solver)
    of_a, of_b = ({name: value for name, value in of.settings.items() if name not in foreign} for of in (a, b))
    return of_a, of_b


def names_by_difference(a: Mapping[str, object], b: Mapping[str, object]) -> tuple[str, str]:
    """Return names of A and B made of the options in which they differ: ``l2 0`` and ``l2 0.1``, else A and B."""
    apart = [name for name in a if a[name] != b[name]]
    if not apart:
        return "A", "B"
    return (
        ", ".join(f"{spaced(name)} {option_value(a[name])}" for name in apart),
        ", ".join(f"{spaced(name)} {option_value(b[name])}" for name in apart),
    )


def differences_in_words(a: Mapping[str, object], b: Mapping[str, object]) -> str:
    """Return the differences of two sets of options in words: ``l2 0 against 0.1, epochs 40 against 20``."""
    return ", ".join(
        f"{spaced(name)} {option_value(a[name])} against {option_value(b[name])}" for name in a if a[name] != b[name]
    )


def _by_seed(runs: Sequence[Run]) -> tuple[Plan, dict[int, Run]]:
    """Return the plan of the first run, and all runs by their seeds."""
    plans = [run.read_checkpoint()[0] for run in runs]
    by_seed: dict[int, Run] = {}
    for run, plan in zip(runs, plans, strict=True):
        if other := differences_in_words(*shared_settings(plan.config, plans[0].config)):
            raise ConfigError(f"{run.path} and {runs[0].path} differ in more than the seed: {other}; keep them apart")
        if plan.config.seed in by_seed:
            raise ConfigError(
                f"{by_seed[plan.config.seed].path} and {run.path} both have seed {plan.config.seed}; pass one"
            )
        by_seed[plan.config.seed] = run
    return plans[0], by_seed


def _require_same_rows(runs: Sequence[Run], splits: Splits) -> None:
    """Refuse runs that do not train, validate and test on these rows."""
    dataset = splits.dataset
    plans = [run.read_checkpoint()[0] for run in runs]
    for run, plan in zip(runs, plans, strict=True):
        if plan.fingerprint != dataset.fingerprint:
            advice = "compare runs on the same data and protocol"
            if probe_of(run) and probe_of(runs[0]):
                words = shlex.join(["onelayer", "probe", plans[0].source, plan.source])
                advice = f"for features of the same rows, type {printable(words, 300)}"
            raise DataError(
                f"{run.path} was trained on other data: fingerprint {plan.fingerprint[:12]} against "
                f"{dataset.fingerprint[:12]}; {advice}"
            )
    divisions = {config: divide(dataset, config) for config in {plan.split_config for plan in plans}}
    for run, plan in zip(runs, plans, strict=True):
        division = divisions[plan.split_config]
        same = all(np.array_equal(a.indices, b.indices) for a, b in zip(division, splits, strict=True))
        if not same or division.protocol != splits.protocol:
            ours, theirs = asdict(plan.split_config), asdict(plans[0].split_config)
            words = differences_in_words(ours | {"protocol": division.protocol}, theirs | {"protocol": splits.protocol})
            raise ConfigError(
                f"{run.path} divides {dataset.name} in another way{words and ': '}{words}; compare runs that share rows"
            )


def rows_to_compare(
    pairing: Pairing, split: Literal["test", "validation"] | None
) -> tuple[Literal["test", "validation"], list[str]]:
    """Return the split to compare on, by default test if all runs have read its rows, and notes on what is compared."""
    notes = []
    if split is None and not all("test" in run.scores for run in (*pairing.runs_a, *pairing.runs_b)):
        notes.append("on validation rows, because not all runs have read the test rows")
        split = "validation"
    for side, seeds in pairing.alone.items():
        if seeds:
            notes.append(f"left out, no partner with this seed: seed {', '.join(map(str, seeds))} of {side}")
    return split or "test", notes


def compare(
    a: Run | str | Path,
    b: Run | str | Path,
    *,
    source: str | None = None,
    split: Literal["test", "validation"] | None = None,
) -> Comparison:
    """Compare B with A, each a run or the runs of a setting, on their own data, which are read again.

    Parameters
    ----------
    a, b : Run, str or Path
        A run, its directory, a folder of the runs of one setting, or the beginning of their names in a sweep, such as
        ``sweep/runs/002``. Several runs are matched by seed.
    source : str, optional
        Place of the runs' data, if they were moved.
    split : {"test", "validation"}, optional
        By default test, or validation if a run has not read the test rows.

    Warns
    -----
    OnelayerWarning
        If validation rows are compared though `split` was not given, or a seed has no partner.

    Raises
    ------
    RunError
        If a run is missing or not complete.
    ConfigError, DataError
        As `compare_runs`, and if a side is something else or the data cannot be read.
    """
    for name, side in (("A", a), ("B", b)):
        if not isinstance(side, Run | str | Path):
            what = f"{name} is a {type(side).__name__}; compare takes runs, their directories, or folders of runs"
            raise ConfigError(f"{what}, which onelayer train writes")
    pairing = pair(*([side] if isinstance(side, Run) else find_runs(Path(side)) for side in (a, b)))
    chosen, notes = rows_to_compare(pairing, split)
    for note in notes:
        warnings.warn(OnelayerWarning(note), stacklevel=2)
    splits = pairing.runs_a[0].read_checkpoint()[0].load_splits(source)
    return compare_runs(pairing.runs_a, pairing.runs_b, chosen, splits)
