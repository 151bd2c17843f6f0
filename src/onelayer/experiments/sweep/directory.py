"""The directory of a sweep.

===============================  ========================================================================
``sweep.json``                   the plan: settings, seeds, splits, data; the mark of a sweep
``sweep.csv``                    a row a run, with its settings and scores
``grid.png``                     a picture of the validation scores by setting
``runs/<setting>-seed-<seed>/``  a run directory for each; settings are counted from 000
``parts/<part>/``                what claims a part, where several processes share the runs
``refit/``                       a sweep of the chosen setting alone, on training and validation rows
===============================  ========================================================================
"""

import csv
import io
import json
import re
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from onelayer.config import SETTINGS, SourceConfig, SplitConfig, TrainConfig
from onelayer.errors import OnelayerError, RunError
from onelayer.experiments.marks import is_made
from onelayer.experiments.sweep.plan import Select, SweepPlan
from onelayer.experiments.sweep.results import SettingResult, SweepRun, choose, ranked
from onelayer.files import read_mark, write_file, write_mark
from onelayer.runs.claim import claimed
from onelayer.runs.directory import FILES, TEMPORARY, Run
from onelayer.words import typed

PATIENCE = 60.0  # seconds in which a process has written the plan
DIVERGED = "diverged.txt"  # in the directory of a run that did, with the reason
BALANCED = "validation_balanced_accuracy"  # in the summary of a run, where it chooses
RUN_NAME = re.compile(r"\d{3,}-seed-\d+")
SCORES = tuple((split, what) for split in ("train", "validation", "test") for what in ("loss", "cost", "accuracy"))


@dataclass(frozen=True)
class Sweep:
    """A sweep directory on disk. Use `Sweep.create` or `Sweep.open`."""

    path: Path
    plan: SweepPlan

    @classmethod
    def create(cls, path: str | Path, plan: SweepPlan, *, overwrite: bool = False) -> "Sweep":
        """Make a directory for a sweep, or open the directory of the same plan to go on with it.

        Raises
        ------
        RunError
            If it holds another sweep and `overwrite` is false, or holds anything else, or cannot be made.
        """
        sweep = cls(Path(path), plan)
        # The processes of several parts may start at the same moment: the first one writes the plan.
        with claimed(sweep.path, patience=PATIENCE if plan.parts > 1 else 0.0):
            if not sweep._is_made(overwrite):
                settings = [config.settings for config in plan.configs]
                content: dict[str, Any] = {"settings": settings, "seeds": plan.seeds}
                content |= {"split": asdict(plan.split_config), "source": plan.source, "fingerprint": plan.fingerprint}
                content |= {"parts": plan.parts, "stack": plan.stack}
                content |= {"source_config": asdict(plan.source_config), "select": plan.select}
                write_mark(sweep._json_path, "sweep", content)
        return sweep

    def _is_made(self, overwrite: bool) -> bool:
        """Return whether the directory holds this very sweep; remove another sweep if it is to be replaced."""
        path = self.path
        try:
            if is_made(path, "sweep") and not overwrite:
                there = Sweep.open(path)
                if there.plan != self.plan:
                    reason = there.plan.difference(self.plan)
                    own = "choose another --out or pass --overwrite"
                    remedy = "give every part the same options, or choose another --out" if self.plan.parts > 1 else own
                    raise RunError(f"{path} is another sweep: {reason}; {remedy}")
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
            configs = tuple(TrainConfig.of_file(config) for config in content["settings"])
            split_config = SplitConfig(**content["split"])
            source_config = SourceConfig.of_file(content.get("source_config", {}))
            source, fingerprint = str(content["source"]), str(content["fingerprint"])
            data = split_config, source, fingerprint, source_config
            # Accuracy chose before there was a choice.
            chosen_by = content.get("select", "accuracy")
            shared = content.get("parts", 1), content.get("stack", False)
            return SweepPlan(configs, tuple(content["seeds"]), *data, chosen_by, *shared)

        return cls(Path(path), read_mark(Path(path) / "sweep.json", "sweep", parse))

    @property
    def csv_path(self) -> Path:
        return self.path / "sweep.csv"

    @property
    def picture_path(self) -> Path:
        return self.path / "grid.png"

    @property
    def _json_path(self) -> Path:
        return self.path / "sweep.json"

    def part_path(self, part: int) -> Path:
        """Return the directory whose claim says that a process works on a part, counted from 1."""
        return self.path / "parts" / str(part)

    def run(self, setting: int, seed: int) -> Run:
        """Return the directory of a run, which need not exist yet."""
        return Run(self.path / "runs" / f"{setting:03}-seed-{seed}")

    def read(self, setting: int, seed: int) -> SweepRun:
        """Read from its directory what became of a run; damage raises no error."""
        run, expected = self.run(setting, seed), self.plan.of_run(setting, seed)
        try:
            if not run.path.exists() or all(TEMPORARY.fullmatch(file.name) for file in run.path.iterdir()):
                return SweepRun(setting, seed, "missing")
            found, _ = Run.open(run.path).read_checkpoint()
            config = expected.config  # a run records the backend and the device that were chosen
            backend = found.config.backend if config.backend == "auto" else config.backend
            device = found.config.device if config.device in ("auto", "cuda") else config.device
            expected = replace(expected, config=replace(config, backend=backend, device=device))
            if replace(found, source=expected.source) != expected:
                raise RunError(f"{run.path} was trained with other settings than the sweep's")
            if run.summary_path.exists():
                _ = run.model  # finds damage
                scores, balanced = run.scores, run.summary.get(BALANCED)
                if self.plan.select == "balanced-accuracy" and balanced is None:
                    return SweepRun(setting, seed, "missing", scores)  # stopped just before it was written
                return SweepRun(setting, seed, "complete", scores, balanced_accuracy=balanced)
            if (run.path / DIVERGED).exists():
                return SweepRun(setting, seed, "diverged", note=(run.path / DIVERGED).read_text("utf-8").strip())
            return SweepRun(setting, seed, "missing")
        except OnelayerError as error:
            return SweepRun(setting, seed, "damaged", note=str(error))
        except (OSError, LookupError, ValueError, TypeError, AttributeError) as error:
            return SweepRun(setting, seed, "damaged", note=f"{run.path}: damaged ({error})")

    def write_csv(self, results: Sequence[SettingResult]) -> None:
        """Write a row for each run, setting by setting, with its options, its status and its scores."""
        best = choose(results)
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        scores = [f"{split}_{what}" for split, what in SCORES]
        more = [BALANCED] * (self.plan.select == "balanced-accuracy")
        writer.writerow(["setting", "seed", *SETTINGS, "status", "chosen", *scores, *more, "note"])
        for result in sorted(results, key=lambda result: result.setting):
            for run in result.runs:
                chosen = result is best
                note = "these test figures must not choose" if "test" in run.scores and not chosen else run.note
                settings = [typed(getattr(result.config, name)) for name in SETTINGS]
                values = [getattr(run.scores[split], what) if split in run.scores else None for split, what in SCORES]
                balanced = [run.balanced_accuracy] * len(more)
                writer.writerow(
                    [run.setting, run.seed, *settings, run.status, json.dumps(chosen), *values, *balanced, note]
                )
        write_file(self.csv_path, text.getvalue().encode())

    def remove(self) -> None:
        """Remove the files of the sweep, its mark last, and nothing else."""
        self._remove_runs()
        self._json_path.unlink(missing_ok=True)
        for folder in (self.path / "refit" / "runs", self.path / "refit", self.path / "runs", self.path):
            with suppress(OSError):  # it holds something else, or is not there
                folder.rmdir()

    def _remove_runs(self) -> None:
        """Remove the files of the sweep except its mark.

        Raises
        ------
        RunError
            If a process works on a part, or a run directory holds what no run wrote. Nothing is removed then.
        """
        folders = (self.path, self.path / "refit")
        found = [path for folder in folders for path in (folder / "runs").glob("*") if RUN_NAME.fullmatch(path.name)]
        made = [path for path in found if path.is_dir() and not path.is_symlink()]
        for part in (self.path / "parts").glob("*"):
            with claimed(part):  # refuses if a process works on it
                pass
        for path in made:
            for file in path.iterdir():
                if file.name not in (*FILES, DIVERGED) and not TEMPORARY.fullmatch(file.name):
                    what = f"{path} holds {file.name!r}, which no run wrote"
                    raise RunError(f"{what}; move it away or choose another --out")
        for path in made:
            shutil.rmtree(path)
        for folder in folders:
            (folder / "sweep.csv").unlink(missing_ok=True)
            (folder / "grid.png").unlink(missing_ok=True)
        (self.path / "refit" / "sweep.json").unlink(missing_ok=True)
        for folder in (*(self.path / "parts").glob("*"), self.path / "parts"):
            with suppress(OSError):
                folder.rmdir()


def results(sweep: Sweep) -> list[SettingResult]:
    """Return the settings of a sweep with their runs, the best on validation first, as `ranked` orders them."""
    found = [
        SettingResult(setting, config, tuple(sweep.read(setting, seed) for seed in sweep.plan.seeds))
        for setting, config in enumerate(sweep.plan.configs)
    ]
    return ranked(found, sweep.plan.select)


def select_of(path: Path, configs: Sequence[TrainConfig], *, overwrite: bool = False) -> Select:
    """Return the score that chooses in the sweep of this directory, or the default for these settings in a new one.

    The default is the loss, the finest measure; but losses of different kinds cannot be compared, and among weights of
    classes the loss of unweighted rows would favour none.
    """
    if (path / "sweep.json").exists() and not overwrite:
        return Sweep.open(path).plan.select
    if len({config.class_weight for config in configs}) > 1:
        return "balanced-accuracy"
    return "accuracy" if len({config.loss for config in configs}) > 1 else "loss"
