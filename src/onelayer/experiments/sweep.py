"""Many runs over settings and seeds. Validation chooses; the test rows are read for what it chose.

A sweep directory holds

===============================  ========================================================================
``sweep.json``                   the plan: settings, seeds, splits, data; the mark of a sweep
``sweep.csv``                    a row a run, with its settings and scores
``runs/<setting>-seed-<seed>/``  a run directory for each; settings are counted from 000
``refit/``                       a sweep of the chosen setting alone, on training and validation rows
===============================  ========================================================================

A run is trained on one thread, so its numbers do not depend on how many are trained at the same time.
"""

import csv
import io
import itertools
import json
import math
import re
import shutil
import statistics
import threading
from collections.abc import Callable, Collection, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, ThreadPoolExecutor, wait
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from onelayer.blas import one_blas_thread
from onelayer.config import SETTINGS, SourceConfig, SplitConfig, TrainConfig
from onelayer.data.dataset import Splits
from onelayer.errors import ConfigError, DataError, DivergedError, OnelayerError, RunError
from onelayer.files import is_marked, read_mark, write_file, write_mark
from onelayer.runs import training as runs
from onelayer.runs.claim import claimed
from onelayer.runs.directory import FILES, TEMPORARY, Run
from onelayer.runs.plan import Plan
from onelayer.training.scores import count_cores
from onelayer.training.state import Problem, Score, TrainingState
from onelayer.words import spaced

LOGARITHMIC = ("learning_rate", "l2")  # what is drawn from a range, each power of ten as likely as the next
DIVERGED = "diverged.txt"  # in the directory of a run that did, with the reason
RUN_NAME = re.compile(r"\d{3,}-seed-\d+")
SCORES = tuple((split, what) for split in ("train", "validation", "test") for what in ("loss", "cost", "accuracy"))

Options = Mapping[str, Sequence[Any]]


def grid(options: Options) -> tuple[TrainConfig, ...]:
    """Every combination of the values of these options, the last varying fastest; a value that comes twice counts once.

    Raises
    ------
    ConfigError
        If an option has no values, or a bad one.
    """
    values = [dict.fromkeys(_checked(options, name)) for name in options]
    return tuple(TrainConfig(**dict(zip(options, chosen, strict=True))) for chosen in itertools.product(*values))


def draws(options: Options, count: int, random_seed: int = 0) -> tuple[TrainConfig, ...]:
    """So many settings drawn at random; of the same seed, fewer are the first of more.

    Two values of the learning rate or of l2 are the ends of a range, from which logarithms are drawn uniformly. Of
    other values one is drawn.

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
    for name in LOGARITHMIC:
        if len(values.get(name, ())) == 2 and min(values[name]) == 0:
            raise ConfigError(f"{spaced(name)} 0 is no end of a range of logarithms; give a positive number")
    rng = np.random.default_rng(random_seed)

    def draw(name: str) -> Any:
        of_option = values[name]
        if name in LOGARITHMIC and len(of_option) == 2:
            low, high = sorted(of_option)
            return min(max(math.exp(rng.uniform(math.log(low), math.log(high))), low), high)
        return of_option[int(rng.integers(len(of_option)))]

    return tuple(TrainConfig(**{name: draw(name) for name in values}) for _ in range(count))


def _checked(options: Options, name: str) -> Sequence[Any]:
    if not options[name]:
        raise ConfigError(f"{spaced(name)} has no values, which leaves nothing to train")
    for value in options[name]:
        TrainConfig(**{name: value})  # names the bad one
    return options[name]


@dataclass(frozen=True)
class SweepPlan:
    """What a sweep is to do.

    Parameters
    ----------
    configs : tuple of TrainConfig
        The settings; their `seed` and `threads` do not count.
    seeds : tuple of int
        Each setting is trained with each.
    split_config : SplitConfig
    source : str
        As in the plan of a run. It may change: data can move.
    fingerprint : str
        Of the data set as it was read.
    source_config : SourceConfig
        How the source was read.
    """

    configs: tuple[TrainConfig, ...]
    seeds: tuple[int, ...]
    split_config: SplitConfig
    source: str = field(compare=False)
    fingerprint: str
    source_config: SourceConfig = SourceConfig()

    def __post_init__(self) -> None:
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

    def of_run(self, setting: int, seed: int) -> Plan:
        """The plan of one of its runs."""
        config = replace(self.configs[setting], seed=seed)
        return Plan(config, self.split_config, self.source, self.fingerprint, self.source_config)

    def difference(self, other: "SweepPlan") -> str:
        """Where it is not `other`, in words."""
        if self.fingerprint != other.fingerprint:
            return f"its data begin with the fingerprint {self.fingerprint[:12]}, not {other.fingerprint[:12]}"
        if self.seeds != other.seeds:
            return f"its seeds are {_listed(self.seeds)}, not {_listed(other.seeds)}"
        for name in SETTINGS:
            mine, theirs = ([getattr(config, name) for config in plan.configs] for plan in (self, other))
            if dict.fromkeys(mine) != dict.fromkeys(theirs):
                return f"its {spaced(name)} is {_listed(mine)}, not {_listed(theirs)}"
        return "its settings come in another order" if self.configs != other.configs else "its rows are split otherwise"


def _listed(values: Sequence[object]) -> str:
    words = [str(value) for value in dict.fromkeys(values)]
    return ", ".join([*words[:3], "..."] if len(words) > 4 else words)


@dataclass(frozen=True)
class SweepRun:
    """What became of a run of a sweep.

    Parameters
    ----------
    setting, seed : int
    status : str
        complete; diverged; missing, which is to be trained or trained further; damaged.
    scores : dict of str to Score
        Of a complete run, without test where that was not read.
    note : str
        Why it is damaged, or when it diverged.
    """

    setting: int
    seed: int
    status: Literal["complete", "diverged", "missing", "damaged"]
    scores: dict[str, Score] = field(default_factory=dict)
    note: str = ""


@dataclass(frozen=True)
class SettingResult:
    """A setting of a sweep with its runs, one a seed."""

    setting: int
    config: TrainConfig
    runs: tuple[SweepRun, ...]

    @property
    def complete(self) -> tuple[SweepRun, ...]:
        """The runs that can be counted."""
        return tuple(run for run in self.runs if run.status == "complete")

    @property
    def has_test(self) -> bool:
        """Whether the test rows were read for any of its runs."""
        return any("test" in run.scores for run in self.runs)

    def mean_sd(self, split: str, what: str = "accuracy") -> tuple[float, float]:
        """Mean and standard deviation (n - 1) over the complete runs that have it; NaN where there are too few."""
        values = [getattr(run.scores[split], what) for run in self.complete if split in run.scores]
        return (
            statistics.fmean(values) if values else math.nan,
            statistics.stdev(values) if len(values) > 1 else math.nan,
        )


@dataclass(frozen=True)
class Sweep:
    """A sweep directory on disk. Use `Sweep.create` or `Sweep.open`."""

    path: Path
    plan: SweepPlan

    @classmethod
    def create(cls, path: str | Path, plan: SweepPlan, *, overwrite: bool = False) -> "Sweep":
        """Make a directory for a sweep, or open that of the same plan to go on with.

        Raises
        ------
        RunError
            If it holds another sweep and `overwrite` is false, or holds anything else, or cannot be made.
        """
        sweep = cls(Path(path), plan)
        with claimed(sweep.path):
            if not sweep._is_made(overwrite):
                settings = [config.settings for config in plan.configs]
                content: dict[str, Any] = {"settings": settings, "seeds": plan.seeds}
                content |= {"split": asdict(plan.split_config), "source": plan.source, "fingerprint": plan.fingerprint}
                content |= {"source_config": asdict(plan.source_config)}
                write_mark(sweep._json_path, "sweep", content)
        return sweep

    def _is_made(self, overwrite: bool) -> bool:
        """Whether the directory holds this very sweep; one that is to be replaced is removed."""
        path = self.path
        try:
            present = [file.name for file in path.iterdir() if not TEMPORARY.fullmatch(file.name)]
            if present and not self._json_path.exists():
                raise RunError(f"{path} holds {present[0]!r} and is no sweep of onelayer; choose another --out")
            if present and not is_marked(self._json_path, "sweep"):
                raise RunError(f"{self._json_path} is not of a sweep of onelayer; choose another --out")
            if present and not overwrite:
                there = Sweep.open(path)
                if there.plan != self.plan:
                    reason = there.plan.difference(self.plan)
                    raise RunError(f"{path} is another sweep: {reason}; choose another --out or pass --overwrite")
                return True
            self._remove_runs()
        except OSError as error:
            raise RunError(f"cannot make the sweep directory {path}: {error.strerror}; choose another --out") from None
        return False

    @classmethod
    def open(cls, path: str | Path) -> "Sweep":
        """Open a sweep that exists.

        Raises
        ------
        RunError
            If there is none, or its plan is damaged.
        """

        def parse(content: dict[str, Any]) -> SweepPlan:
            configs = tuple(TrainConfig(**config) for config in content["settings"])
            split_config, source_config = (
                SplitConfig(**content["split"]),
                SourceConfig(**content.get("source_config", {})),
            )
            source, fingerprint = str(content["source"]), str(content["fingerprint"])
            return SweepPlan(configs, tuple(content["seeds"]), split_config, source, fingerprint, source_config)

        return cls(Path(path), read_mark(Path(path) / "sweep.json", "sweep", parse))

    @property
    def csv_path(self) -> Path:
        return self.path / "sweep.csv"

    @property
    def _json_path(self) -> Path:
        return self.path / "sweep.json"

    def run(self, setting: int, seed: int) -> Run:
        """The directory of a run, which need not exist yet."""
        return Run(self.path / "runs" / f"{setting:03}-seed-{seed}")

    def read(self, setting: int, seed: int) -> SweepRun:
        """What became of a run, as its directory tells; nothing is trained and nothing raised."""
        run, expected = self.run(setting, seed), self.plan.of_run(setting, seed)
        try:
            if not run.path.exists() or all(TEMPORARY.fullmatch(file.name) for file in run.path.iterdir()):
                return SweepRun(setting, seed, "missing")
            found, _ = Run.open(run.path).read_checkpoint()
            if expected.config.backend == "auto":  # a run records what that stood for
                expected = replace(expected, config=replace(expected.config, backend=found.config.backend))
            if replace(found, source=expected.source) != expected:
                raise RunError(f"{run.path} was trained with other settings than the sweep's")
            if run.summary_path.exists():
                run.read_model()  # finds damage
                scores = run.read_scores()
                return SweepRun(setting, seed, "complete", scores)
            if (run.path / DIVERGED).exists():
                return SweepRun(setting, seed, "diverged", note=(run.path / DIVERGED).read_text("utf-8").strip())
            return SweepRun(setting, seed, "missing")
        except OnelayerError as error:
            return SweepRun(setting, seed, "damaged", note=str(error))
        except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
            return SweepRun(setting, seed, "damaged", note=f"{run.path}: damaged ({error})")

    def write_csv(self, results: Sequence[SettingResult]) -> None:
        """Write a row for each run, setting by setting: what it was, what became of it, and what it scored."""
        best = choose(results)
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        scores = [f"{split}_{what}" for split, what in SCORES]
        writer.writerow(["setting", "seed", *SETTINGS, "status", "chosen", *scores, "note"])
        for result in sorted(results, key=lambda result: result.setting):
            for run in result.runs:
                chosen = result is best
                note = "these test figures must not choose" if "test" in run.scores and not chosen else run.note
                settings = [str(getattr(result.config, name)).lower() for name in SETTINGS]
                values = [getattr(run.scores[split], what) if split in run.scores else None for split, what in SCORES]
                writer.writerow([run.setting, run.seed, *settings, run.status, json.dumps(chosen), *values, note])
        write_file(self.csv_path, text.getvalue().encode())

    def remove(self) -> None:
        """Remove what a sweep leaves, its mark last, and nothing else."""
        self._remove_runs()
        self._json_path.unlink(missing_ok=True)
        for folder in (self.path / "refit" / "runs", self.path / "refit", self.path / "runs", self.path):
            with suppress(OSError):  # it holds something else, or is not there
                folder.rmdir()

    def _remove_runs(self) -> None:
        """Remove what a sweep leaves; the mark of a sweep stays.

        Raises
        ------
        RunError
            If a run directory holds what no run wrote. Nothing is removed then.
        """
        folders = (self.path, self.path / "refit")
        found = [path for folder in folders for path in (folder / "runs").glob("*") if RUN_NAME.fullmatch(path.name)]
        made = [path for path in found if path.is_dir() and not path.is_symlink()]
        for path in made:
            for file in path.iterdir():
                if file.name not in (*FILES, DIVERGED) and not TEMPORARY.fullmatch(file.name):
                    what = f"{path} holds {file.name!r}, which no run wrote"
                    raise RunError(f"{what}; move it away or choose another --out")
        for path in made:
            shutil.rmtree(path)
        for folder in folders:
            (folder / "sweep.csv").unlink(missing_ok=True)
        (self.path / "refit" / "sweep.json").unlink(missing_ok=True)


def run_sweep(
    sweep: Sweep,
    splits: Splits,
    *,
    workers: int = 0,
    settings: Collection[int] | None = None,
    report_test: bool = False,
    on_progress: Callable[[int, int], None] | None = None,
) -> None:
    """Train what is still to be trained, each run on one thread; diverged and damaged runs are left as they are.

    Whatever stops it, the same call goes on.

    Parameters
    ----------
    sweep : Sweep
    splits : Splits
        Of the sweep's own data.
    workers : int
        How many runs at a time; 0 is as many as there are cores. The numbers do not depend on it.
    settings : collection of int, optional
        Only these.
    report_test : bool
        Evaluate the test rows, also for runs that are complete without.
    on_progress : callable, optional
        Called now and then, in other threads too, with the epochs done and their total.

    Raises
    ------
    DataError
        If the splits are of other data.
    ConfigError
        If a setting does not fit the data.
    """
    plan = sweep.plan
    if workers < 0:
        raise ConfigError(f"workers {workers} is not a whole number of at least 0")
    if splits.dataset.fingerprint != plan.fingerprint:
        raise DataError(f"{splits.dataset.name} is not the data of the sweep {sweep.path}; pass the right --data")
    chosen = range(len(plan.configs)) if settings is None else settings
    todo = [
        run
        for run in (sweep.read(setting, seed) for setting in chosen for seed in plan.seeds)
        if run.status == "missing" or (run.status == "complete" and report_test and "test" not in run.scores)
    ]
    total = sum(plan.configs[run.setting].epochs for run in todo if run.status == "missing")
    done, lock, stopping = 0, threading.Lock(), threading.Event()

    def advance(epochs: int) -> None:
        nonlocal done
        with lock:
            done += epochs
            if on_progress:
                on_progress(done, total)

    def train_one(row: SweepRun) -> None:
        if stopping.is_set():
            return
        run, seen = sweep.run(row.setting, row.seed), 0

        def on_epoch(state: TrainingState) -> None:
            nonlocal seen
            advance(state.epoch - seen)
            seen = state.epoch

        try:
            if run.checkpoint_path.exists():
                runs.resume(run, splits, None, on_epoch, report_test, stopping.is_set)
            else:
                run_plan = plan.of_run(row.setting, row.seed)
                problem = Problem.of(splits, run_plan.config)
                runs.start(Run.create(run.path), run_plan, problem, on_epoch, report_test, stopping.is_set)
        except DivergedError as error:
            write_file(run.path / DIVERGED, f"{error}\n".encode())
        if row.status == "missing":  # one that diverged has epochs left
            advance(plan.configs[row.setting].epochs - seen)

    splits.standardizer, splits.duplicates  # noqa: B018, computed once, before the workers share them
    with one_blas_thread(), ThreadPoolExecutor(workers or count_cores()) as pool:
        try:
            pending = {pool.submit(train_one, row) for row in todo}
            while pending:  # a signal that comes just before a thread falls asleep is not seen until it wakes
                finished, pending = wait(pending, timeout=0.2, return_when=FIRST_COMPLETED)
                for future in finished:
                    future.result()
        except BaseException:  # Ctrl-C and SIGTERM among them
            stopping.set()  # every run leaves what it can be resumed from
            raise


def results(sweep: Sweep) -> list[SettingResult]:
    """What a sweep found, the best mean validation accuracy first.

    A setting of which a run diverged comes after those of which none did: the mean of the others would flatter it.
    """
    found = [
        SettingResult(setting, config, tuple(sweep.read(setting, seed) for seed in sweep.plan.seeds))
        for setting, config in enumerate(sweep.plan.configs)
    ]

    def rank(result: SettingResult) -> tuple[bool, bool, float]:
        mean = result.mean_sd("validation")[0]
        return math.isnan(mean), any(run.status == "diverged" for run in result.runs), -mean

    return sorted(found, key=rank)


def choose(results: Sequence[SettingResult]) -> SettingResult | None:
    """The setting that validation chooses; None while runs are missing, or where none is complete."""
    if any(run.status == "missing" for result in results for run in result.runs):
        return None
    return results[0] if results[0].complete else None


def refit(sweep: Sweep, setting: int) -> Sweep:
    """The sweep of one setting alone, on its training and validation rows, in the folder refit of the sweep."""
    plan = sweep.plan
    split_config = replace(plan.split_config, refit=True)
    alone = replace(plan, configs=(plan.configs[setting],), split_config=split_config)
    path = sweep.path / "refit"
    # It is made again where another setting was chosen before, as when a damaged run was mended.
    overwrite = (path / "sweep.json").exists() and Sweep.open(path).plan != alone
    return Sweep.create(path, alone, overwrite=overwrite)
