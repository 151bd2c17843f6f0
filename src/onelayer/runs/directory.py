"""A run directory: the files of a training, each complete or absent.

===========================  ============================================================================
``summary.json``             settings, data, results, time, versions; written last, when the run is complete
``history.csv``              a row for each epoch
``model.safetensors``        the trained model
``checkpoint.safetensors``   the state to resume from; the first file that a run writes, so it marks a run
``*.png``                    pictures
``path.csv``, ``path.png``   the grid of lambdas, of which the run is the chosen one; ``onelayer path`` writes them
===========================  ============================================================================
"""

import csv
import difflib
import io
import math
import platform
import re
import shlex
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from html import escape
from importlib.metadata import version
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np

from onelayer.config import TrainConfig
from onelayer.container import unpack
from onelayer.data.dataset import Splits
from onelayer.drawing import CurvePlots, ModelPlots, html_table, pictures_in_html
from onelayer.errors import ModelFileError, OnelayerError, RunError
from onelayer.files import HALF_WRITTEN, read_json, write_figure, write_file, write_json
from onelayer.model import MODEL_ARRAYS, Model
from onelayer.processes import Processes, bytes_of_first
from onelayer.runs.checkpoint import CHECKPOINT_ARRAYS, pack_checkpoint, unpack_checkpoint
from onelayer.runs.claim import CLAIM, claimed
from onelayer.runs.plan import Plan
from onelayer.training.history import (
    SCORE_COLUMNS,
    Score,
    columns_of,
    scores_in_words,
    table_of,
)
from onelayer.training.state import TrainingResult, TrainingState, learnt, left_after

if TYPE_CHECKING:
    from matplotlib.figure import Figure

PICTURES = ("loss", "cost", "accuracy", "templates", "templates_signed", "patches", "weights", "confusion", "mistakes")
PATH_FILES = ("path.csv", "path.png")
TABLES = ("summary.json", "history.csv", "model.safetensors", "checkpoint.safetensors")
FILES = (*TABLES, *PATH_FILES, *(f"{name}.png" for name in PICTURES))
TEMPORARY = re.compile(rf"{HALF_WRITTEN.pattern}|{re.escape(CLAIM)}(-[0-9a-f]{{16}})?")


@dataclass(frozen=True)
class Run(CurvePlots, ModelPlots):
    """A run directory on disk. Use `Run.create` or `Run.open`."""

    path: Path

    def __repr__(self) -> str:
        return f"<Run {self.path}>"

    def _repr_html_(self) -> str:
        try:
            caption = f"{self.path}: {self.config.in_words()}"
            return html_table(caption, SCORE_COLUMNS, scores_in_words(self.scores)) + pictures_in_html(self)
        except OnelayerError as error:  # it is not complete, or damaged
            return f"<p>{escape(str(error))}</p>"

    @classmethod
    def create(cls, path: str | Path, *, overwrite: bool = False) -> "Run":
        """Make a directory for a new run.

        Raises
        ------
        RunError
            If it holds a run and `overwrite` is false, if it holds anything else, or if it cannot be made.
        """
        run = cls(Path(path))
        with claimed(run.path):
            run._prepare(overwrite)
        return run

    def require_room(self, overwrite: bool) -> None:
        """Raise the RunError of `create` if the directory holds something; one that does not exist has room."""
        path = self.path
        try:
            present = [file for file in path.iterdir() if not TEMPORARY.fullmatch(file.name)]
        except (FileNotFoundError, NotADirectoryError):  # making it says what is wrong
            return
        except OSError as error:
            raise self._unusable(error) from None
        if present and not self._is_run():
            raise RunError(f"{path} holds {present[0].name!r} and is not a run of onelayer; choose another --out")
        if present and not overwrite:
            raise RunError(f"{path} holds a run already; choose another --out, resume it, or pass --overwrite")

    def _prepare(self, overwrite: bool) -> None:
        """Remove the run that is to be replaced; refuse a directory that holds anything else."""
        path = self.path
        self.require_room(overwrite)
        try:
            self.remove_temporary()
            # The checkpoint marks a run. It is removed last, so that an interrupted removal can be repeated.
            for name in (*(name for name in FILES if name != self.checkpoint_path.name), self.checkpoint_path.name):
                (path / name).unlink(missing_ok=True)
        except OSError as error:
            raise self._unusable(error) from None

    def _unusable(self, error: OSError) -> RunError:
        return RunError(f"cannot make the run directory {self.path}: {error.strerror}; choose another --out")

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open a run that exists.

        Raises
        ------
        RunError
            If `path` is not a run.
        """
        run = cls(Path(path))
        try:
            if run.path.is_file():
                raise RunError(f"{path} is a file, not a run directory; pass the folder {run.path.parent}")
            if not run.path.is_dir():
                near = _nearest_run(run.path)
                hint = f"did you mean {near}?" if near else "onelayer runs lists those in runs/"
                raise RunError(f"{path}: no such run directory; {hint}")
        except OSError as error:  # a name that is too long, a folder that may not be read
            raise RunError(f"{path}: {error.strerror}") from None
        if (run.path / "sweep.json").exists():
            raise RunError(f"{path} is a sweep; its runs are in {run.path / 'runs'}")
        if not run.checkpoint_path.exists():
            raise RunError(f"{path} is not a run of onelayer: it has no {run.checkpoint_path.name}")
        return run

    # Each property reads the files again, so that it is right while the run is trained for longer.

    @property
    def config(self) -> TrainConfig:
        """The settings of the training."""
        return self.read_checkpoint()[0].config

    @property
    def history(self) -> dict[str, np.ndarray]:
        """Loss, cost and accuracy after each epoch so far, as columns (epochs,) by name; see `table_of`."""
        return table_of(self.read_checkpoint()[1].history)

    @property
    def checkpoint_path(self) -> Path:
        return self.path / "checkpoint.safetensors"

    @property
    def model_path(self) -> Path:
        return self.path / "model.safetensors"

    @property
    def summary_path(self) -> Path:
        return self.path / "summary.json"

    @property
    def history_path(self) -> Path:
        return self.path / "history.csv"

    def write_checkpoint(self, plan: Plan, state: TrainingState) -> None:
        """Write the plan and the state from which the run can be resumed."""
        write_file(self.checkpoint_path, pack_checkpoint(plan, state, self.checkpoint_path))

    def read_checkpoint(self) -> tuple[Plan, TrainingState]:
        """Return the plan and the state from which the run can be resumed.

        Raises
        ------
        ModelFileError
            If the file is damaged or was written by a newer version.
        """
        return unpack_checkpoint(self.checkpoint_path)

    def write_result(self, plan: Plan, splits: Splits, result: TrainingResult) -> None:
        """Write all files of a complete run except the pictures; the summary last."""
        self.write_checkpoint(plan, result.state)
        self.write_history(result.state)
        write_file(self.model_path, result.model.to_bytes())
        dataset = splits.dataset
        data = {
            "name": dataset.name,
            "source": plan.source,
            "fingerprint": dataset.fingerprint,
            "official": dataset.official,
            "protocol": splits.protocol,
            "sizes": {split.name: len(split) for split in splits},
            "duplicates": splits.duplicates,
            **({"made_by": dict(dataset.made_by)} if dataset.made_by else {}),
        }
        summary = {
            "config": asdict(plan.config) | asdict(plan.split_config) | asdict(plan.source_config),
            "data": data,
            "results": {name: asdict(score) for name, score in result.scores.items()},
            "kept_epoch": result.kept_epoch,
            "epochs": result.state.epoch,
            "ended": result.ended,
            "learning_rate": result.state.first_rate,
            "dates": {"started": plan.started, "ended": now()},
            "seconds": sum(record.seconds for record in result.state.history),
            "versions": {"python": platform.python_version(), "onelayer": version("onelayer"), "numpy": np.__version__},
            "seed": plan.config.seed,
            "backend": result.backend,
            **({"device": result.device} if result.device else {}),
        }
        write_json(self.summary_path, summary)

    def add_to_summary(self, entries: dict[str, Any]) -> None:
        """Write more entries into the summary of a complete run."""
        write_json(self.summary_path, {**self.summary, **entries})

    @property
    def summary(self) -> dict[str, Any]:
        """Return the summary of a complete run.

        Raises
        ------
        RunError
            If the run is not complete, or the file is damaged.
        """
        try:
            return read_json(self.summary_path)
        except FileNotFoundError:
            raise self._incomplete() from None
        except (OSError, ValueError, RecursionError) as error:
            remedy = f"write it again with: {resume_command(self.path)}"
            raise RunError(f"{self.summary_path}: damaged ({error}); {remedy}") from None

    @property
    def scores(self) -> dict[str, Score]:
        """Return the scores of a complete run on train and validation, and on test if it has read the test rows.

        Raises
        ------
        RunError
            If the run is not complete, or its summary is damaged.
        """
        found: Any = self.summary.get("results")
        try:
            scores = {name: Score(**{what: float(value) for what, value in of.items()}) for name, of in found.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise RunError(f"{self.summary_path}: damaged ({error!s:.80})") from None
        if not {"train", "validation"} <= scores.keys() <= {"train", "validation", "test"}:
            raise RunError(f"{self.summary_path}: damaged (results of {', '.join(scores) or 'nothing':.80})")
        if not all(math.isfinite(sum(asdict(score).values())) for score in scores.values()):
            raise RunError(f"{self.summary_path}: damaged (a score is not a finite number)")
        return scores

    def advice_on(self, rows: str) -> list[str] | None:
        """Return the advice that was given after training, if the model was judged on rows of this name; else None."""
        judged, given = (self.summary.get(name) for name in ("evaluation", "advice"))
        same = isinstance(judged, dict) and judged.get("name") == rows
        return [str(sentence) for sentence in given] if same and isinstance(given, list) else None

    @property
    def kept_epoch(self) -> int:
        """The epoch of which the model of a complete run is; older runs do not name it, and it is the last."""
        kept, last = self.summary.get("kept_epoch"), self.read_checkpoint()[1].epoch
        return kept if isinstance(kept, int) and 0 <= kept <= last else last

    @property
    def learnt(self) -> np.ndarray | None:
        """The weights (d, K) of the model less what is left of the initial ones, float64; see `training.state.learnt`.

        None if the weights began at 0.
        """
        plan, state = self.read_checkpoint()
        if plan.config.init_std == 0:
            return None
        kept = state.best if state.best and state.best.epoch == self.kept_epoch else state.last
        if state.left is None:  # a checkpoint of an older onelayer
            try:
                rows = int(self.summary["data"]["sizes"]["train"])
            except (KeyError, TypeError, ValueError) as error:
                raise RunError(f"{self.summary_path}: damaged ({error!s:.80})") from None
            kept = replace(kept, left=left_after(state.history, plan.config, rows))
        return learnt(kept, plan.config)

    @property
    def model(self) -> Model:
        """Return the trained model.

        Raises
        ------
        RunError
            If the run is not complete, or the file is missing.
        ModelFileError
            If the file is damaged.
        """
        plan, state = self.read_checkpoint()
        trained = self.summary.get("config")
        planned = {name: getattr(plan.config, name) for name in ("epochs", "tol", "max_passes")}
        same = isinstance(trained, dict) and all(trained.get(name, value) == value for name, value in planned.items())
        if not (same and state.ended):
            raise self._incomplete()  # it was complete, and is now being trained for longer
        if not self.model_path.exists():
            raise RunError(f"{self.model_path} is missing; write it again with: {resume_command(self.path)}")
        return Model.load(self.model_path)

    def write_figure(self, name: str, figure: "Figure") -> Path:
        """Write a picture as ``<name>.png``."""
        write_figure(self.path / f"{name}.png", figure)
        return self.path / f"{name}.png"

    def write_history(self, state: TrainingState) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        columns = columns_of(state.history)
        writer.writerow(columns)
        rows = ([getattr(record, name) for name in columns] for record in state.history)
        writer.writerows([None if value != value else value for value in row] for row in rows)  # NaN is empty too
        write_file(self.history_path, text.getvalue().encode())

    def _is_run(self) -> bool:
        """Return whether the checkpoint or the model is a file of onelayer; other programs use the same names."""
        for path, kind, names in (
            (self.checkpoint_path, "checkpoint", CHECKPOINT_ARRAYS),
            (self.model_path, "model", MODEL_ARRAYS),
        ):
            with suppress(ModelFileError):
                unpack(path, kind=kind, names=names)
                return True
        return False

    def is_older(self) -> bool:
        """Return whether an older onelayer wrote the run, which gave constant features random weights."""
        _, metadata = unpack(self.checkpoint_path, kind="checkpoint", names=CHECKPOINT_ARRAYS)
        return "constant_weights" not in metadata

    def _incomplete(self) -> RunError:
        return RunError(f"{self.path} is not complete; go on with: {resume_command(self.path)}")

    def remove_temporary(self) -> None:
        with suppress(OSError):
            for file in self.path.iterdir():
                if HALF_WRITTEN.fullmatch(file.name):
                    file.unlink(missing_ok=True)


class FollowedRun(Run):
    """The run of a process that does not write, as rank 0 does; its folder has a copy of the checkpoint, if any."""

    def write_checkpoint(self, plan: Plan, state: TrainingState) -> None:
        """Write nothing."""

    def write_history(self, state: TrainingState) -> None:
        """Write nothing."""

    def write_result(self, plan: Plan, splits: Splits, result: TrainingResult) -> None:
        """Write nothing."""


@contextmanager
def followed(processes: Processes, checkpoint: Callable[[], bytes] = bytes) -> Iterator[Run | None]:
    """Yield the run that a process follows; None for rank 0, whose checkpoint the others get, if it has one.

    Parameters
    ----------
    processes : Processes
    checkpoint : callable
        Returns the bytes of the file; called by rank 0 alone.
    """
    content = bytes_of_first(processes, b"" if processes.rank else checkpoint()) if processes.size > 1 else b""
    if not processes.rank:
        yield None
        return
    with TemporaryDirectory(prefix="onelayer-") as folder:
        run = FollowedRun(Path(folder))
        if content:
            run.checkpoint_path.write_bytes(content)
        yield run


def load_run(path: str | Path) -> Run:
    """Open a run that exists, as `Run.open` does; people look for it beside `load` and `load_splits`."""
    return Run.open(path)


def resume_command(path: Path) -> str:
    """Return the command that resumes a run."""
    return f"onelayer resume {shlex.quote(str(path))}"


def _nearest_run(path: Path) -> Path | None:
    """Return the run whose name is most like that of a path where there is none, in runs/ or beside it."""
    for folder in dict.fromkeys([Path("runs") / path.parent, path.parent, Path("runs")]):
        with suppress(OSError):
            names = [place.name for place in folder.iterdir() if (place / "checkpoint.safetensors").exists()]
            if near := difflib.get_close_matches(path.name, names, n=1, cutoff=0.8):
                return folder / near[0]
    return None


def now() -> str:
    """Return date and time, ISO 8601 in UTC."""
    return datetime.now(UTC).isoformat(timespec="seconds")
