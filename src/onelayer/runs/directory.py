"""A run directory: what training leaves, each file complete or absent.

===========================  ============================================================================
``summary.json``             settings, data, results, time, versions; written last, when a run is complete
``history.csv``              a row an epoch
``model.safetensors``        the trained model
``checkpoint.safetensors``   what resuming needs; the first file that a run writes, so the mark of a run
``*.png``                    pictures
===========================  ============================================================================
"""

import csv
import errno
import hashlib
import io
import json
import math
import os
import platform
import re
import secrets
import shlex
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import asdict, dataclass, replace
from importlib.metadata import version
from pathlib import Path
from stat import S_ISDIR, S_ISREG
from typing import TYPE_CHECKING, Any, TypeVar

import numpy as np

from onelayer.config import SourceConfig, SplitConfig, TrainConfig
from onelayer.data import load, load_splits, split
from onelayer.data.dataset import BATCH_PROTOCOL, Split, Splits, require_finite
from onelayer.data.sources import load_for
from onelayer.errors import ConfigError, DataError, ModelFileError, OnelayerError, RunError
from onelayer.layer import SoftmaxLayer
from onelayer.losses import LOSSES
from onelayer.model import (
    CHECKSUM,
    MAX_FILE_BYTES,
    MODEL_ARRAYS,
    Model,
    pack,
    require_layer_shapes,
    require_names,
    stated_checksum,
    unpack,
)
from onelayer.runs.claim import CLAIM, claimed
from onelayer.training.sgd import (
    HISTORY_COLUMNS,
    EpochRecord,
    Score,
    TrainingResult,
    TrainingState,
    choose_backend,
    train,
)

if TYPE_CHECKING:
    from matplotlib.figure import Figure

# Between checkpoints, what a killed run loses at most, beyond the epoch it was in; but of a large model so long that
# writing them takes a tenth of the time.
CHECKPOINT_SECONDS, CHECKPOINT_SHARE = 1.0, 0.1
CHECKPOINT_ARRAYS = ("weights", "bias", "history")
FIGURES = ("loss", "cost", "templates", "templates_signed", "weights", "confusion", "mistakes")
FILES = ("summary.json", "history.csv", "model.safetensors", "checkpoint.safetensors", *(f"{f}.png" for f in FIGURES))
# What wrote a picture or a page, as its metadata say; a report has said so since before there were other pages.
DRAWN, EXPLAINED, GENERATOR = "onelayer", "onelayer explain", "onelayer"
MARK_WITHIN = 2000  # bytes of the beginning of a page
HALF_WRITTEN = re.compile(r"\.onelayer-[0-9a-f]{16}")  # by a process that was killed
TEMPORARY = re.compile(rf"{HALF_WRITTEN.pattern}|{re.escape(CLAIM)}(-[0-9a-f]{{16}})?")


@dataclass(frozen=True)
class Plan:
    """What a run is to do: its settings, and the data they are for.

    Parameters
    ----------
    config : TrainConfig
    split_config : SplitConfig
    source : str
        As `onelayer.data.load` takes it; a path is absolute.
    fingerprint : str
        Of the data set as it was read.
    source_config : SourceConfig
        How the source was read.
    """

    config: TrainConfig
    split_config: SplitConfig
    source: str
    fingerprint: str
    source_config: SourceConfig = SourceConfig()

    def load_splits(self, source: str | None = None, progress: Callable[..., None] | None = None) -> Splits:
        """Read the run's own data again, from where it was or from `source`.

        Raises
        ------
        DataError
            If it is not the data that the run was trained on.
        """
        if source is None and Path(self.source).is_absolute() and not Path(self.source).exists():
            raise DataError(f"{self.source}: the data of this run are not there; if they were moved, pass --data")
        splits = load_splits(source or self.source, self.split_config, self.source_config, progress=progress)
        if splits.dataset.fingerprint != self.fingerprint:
            raise DataError(
                f"{source or self.source} is not the data of this run: its fingerprint begins with "
                f"{splits.dataset.fingerprint[:12]}, the run's with {self.fingerprint[:12]}; pass the right --data"
            )
        return splits

    def rows_to_evaluate(
        self,
        source: str | None,
        part: str | None,
        image_shape: tuple[int, int, int] | None,
        progress: Callable[..., None] | None = None,
    ) -> tuple[Split, str | None]:
        """Read the rows that a model is to be evaluated on, and what to say of them.

        Parameters
        ----------
        source : str or None
            None is where the run's data were. The run's own data elsewhere are divided as the run did. Other data have
            their own parts.
        part : str or None
            train, validation, test or all; None is test, or all rows of other data without test rows.
        image_shape : (c, h, w) or None
            The model's, to which images of a folder are brought.

        Raises
        ------
        DataError
            If the data cannot be read, or have no such part.
        """
        if source is None:
            return _named(self.load_splits(None, progress), part or "test"), None
        # evaluate has no options for how a source is read: what cannot be read is left out, and a note says so.
        config = replace(self.source_config, allow_unreadable=True)
        if image_shape is not None:
            config = replace(config, image_size="{2}x{1}".format(*image_shape))
        try:
            dataset = load_for(source, self.split_config, config, progress=progress)
        except ConfigError:
            if not config.coarse:
                raise
            config = replace(config, coarse=False)  # the source has classes of one kind only
            dataset = load_for(source, self.split_config, config, progress=progress)
        require_finite(dataset, progress)
        if dataset.fingerprint == self.fingerprint:
            if part == "all":
                return dataset.everything, None
            try:
                return _named(split(dataset, self.split_config, progress), part or "test"), None
            except ConfigError:  # a single part has the fingerprint of rows without parts
                what = f"{dataset.name} holds the rows of this run in other parts, so which it tested on is not known"
                raise DataError(f"{what}; pass the data as they were, or --split all") from None
        if set(BATCH_PROTOCOL.values()) <= set(dataset.parts):  # CIFAR-10, of which a protocol may read half
            dataset = load(source, config, progress=progress)
        parts = {name: [p for p in dataset.parts if p.startswith(name)] for name in ("test", "validation")}
        parts["train"] = [p for p in dataset.parts if p not in parts["test"] + parts["validation"]]
        note = f"{dataset.name} is not the data of this run; "
        if part == "all" or not (part or parts["test"]):
            more = "" if part else "it has no test part, so "
            return dataset.everything, f"{note}{more}all its rows are evaluated"
        part = part or "test"
        if not parts[part]:
            raise DataError(f"{dataset.name} has no {part} part of its own; leave --split out, or pass --split all")
        return dataset.only(part, parts[part]), f"{note}its {part} part is evaluated"


def _named(splits: Splits, part: str) -> Split:
    if part == "all":
        return splits.dataset.everything
    chosen: Split = getattr(splits, part)
    return chosen


@dataclass(frozen=True)
class Run:
    """A run directory on disk. Use `Run.create` or `Run.open`."""

    path: Path

    @classmethod
    def create(cls, path: str | Path, *, overwrite: bool = False) -> "Run":
        """Make a directory for a new run.

        Raises
        ------
        RunError
            If it exists and holds a run and `overwrite` is false, or holds anything else, or cannot be made.
        """
        run = cls(Path(path))
        with claimed(run.path):
            run._prepare(overwrite)
        return run

    def _prepare(self, overwrite: bool) -> None:
        """Remove the run that is to be replaced, and refuse what is not one."""
        path = self.path
        try:
            present = [file for file in path.iterdir() if not TEMPORARY.fullmatch(file.name)]
            if present and not self._is_run():
                raise RunError(f"{path} holds {present[0].name!r} and is no run of onelayer; choose another --out")
            if present and not overwrite:
                raise RunError(f"{path} holds a run already; choose another --out, resume it, or pass --overwrite")
            self._remove_temporary()
            # The mark of a run goes last, so that an interruption leaves a directory that can be overwritten again.
            figures = (path / f"{name}.png" for name in FIGURES)
            for file in (self.summary_path, self.model_path, self.history_path, *figures, self.checkpoint_path):
                file.unlink(missing_ok=True)
        except OSError as error:
            raise RunError(f"cannot make the run directory {path}: {error.strerror}; choose another --out") from None

    @classmethod
    def open(cls, path: str | Path) -> "Run":
        """Open a run that exists.

        Raises
        ------
        RunError
            If there is none.
        """
        run = cls(Path(path))
        try:
            if not run.path.is_dir():
                raise RunError(f"{path}: no such run directory")
        except OSError as error:  # a name that is too long, a folder that may not be read
            raise RunError(f"{path}: {error.strerror}") from None
        if (run.path / "sweep.json").exists():
            raise RunError(f"{path} is a sweep; its runs are in {run.path / 'runs'}")
        if not run.checkpoint_path.exists():
            raise RunError(f"{path} is no run of onelayer: it has no {run.checkpoint_path.name}")
        return run

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
        """Write what resuming needs."""
        history = np.array(
            [[np.nan if value is None else value for value in asdict(record).values()] for record in state.history]
        ).reshape(-1, len(HISTORY_COLUMNS))
        tensors = {"weights": state.layer.weights, "bias": state.layer.bias, "history": history}
        metadata = {
            "config": json.dumps(asdict(plan.config)),
            "split": json.dumps(asdict(plan.split_config)),
            "source_config": json.dumps(asdict(plan.source_config)),
            "source": plan.source,
            "fingerprint": plan.fingerprint,
            "rng_state": json.dumps(state.rng_state),
            "constant_weights": "0",  # as in a model file
        }
        write_file(self.checkpoint_path, pack(tensors, metadata, kind="checkpoint"))

    def read_checkpoint(self) -> tuple[Plan, TrainingState]:
        """Read what resuming needs.

        Raises
        ------
        ModelFileError
            If the file is damaged or was written by a newer version.
        """
        path = self.checkpoint_path
        tensors, metadata = unpack(path, kind="checkpoint", names=CHECKPOINT_ARRAYS)
        try:
            # Runs that recorded no backend were trained by NumPy; with another, the bits would change half-way.
            config = TrainConfig(**{"backend": "numpy"} | json.loads(metadata["config"]))
            split_config = SplitConfig(**json.loads(metadata["split"]))
            source_config = SourceConfig(**json.loads(metadata.get("source_config", "{}")))
            plan = Plan(config, split_config, metadata["source"], metadata["fingerprint"], source_config)
            rng_state = json.loads(metadata["rng_state"])
            np.random.default_rng().bit_generator.state = rng_state
            history = tuple(_record(row) for row in tensors["history"])
        except (
            *(KeyError, ValueError, TypeError, AttributeError, OverflowError, RecursionError),
            ConfigError,
        ) as error:
            raise ModelFileError(f"{path}: damaged, or written by a newer onelayer ({error!s:.80})") from None
        if [record.epoch for record in history] != list(range(1, len(history) + 1)):
            raise ModelFileError(f"{path}: the history does not count its epochs from 1; it is damaged")
        # As training holds them, each class in one piece: sums in another order would have other bits.
        layer = SoftmaxLayer(np.asfortranarray(tensors["weights"]), tensors["bias"], LOSSES[config.loss])
        require_layer_shapes(path, layer)
        if layer.weights.dtype != config.dtype:
            raise ModelFileError(f"{path}: weights are {layer.weights.dtype}, the settings say {config.dtype}")
        return plan, TrainingState(layer, rng_state, history)

    def write_result(self, plan: Plan, splits: Splits, result: TrainingResult) -> None:
        """Write all that a complete run has but pictures; the summary last."""
        self.write_checkpoint(plan, result.state)
        self._write_history(result.state)
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
        }
        summary = {
            "config": asdict(plan.config) | asdict(plan.split_config) | asdict(plan.source_config),
            "data": data,
            "results": {name: asdict(score) for name, score in result.scores.items()},
            "seconds": sum(record.seconds for record in result.state.history),
            "versions": {"python": platform.python_version(), "onelayer": version("onelayer"), "numpy": np.__version__},
            "seed": plan.config.seed,
            "backend": result.backend,
        }
        write_json(self.summary_path, summary)

    def read_summary(self) -> dict[str, Any]:
        """The summary of a complete run.

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
            raise RunError(f"{self.summary_path}: damaged ({error})") from None

    def read_scores(self) -> dict[str, Score]:
        """The scores of a complete run: of train and validation, and of test where that was read.

        Raises
        ------
        RunError
            If the run is not complete, or its summary is damaged.
        """
        found: Any = self.read_summary().get("results")
        try:
            scores = {name: Score(**{what: float(value) for what, value in of.items()}) for name, of in found.items()}
        except (AttributeError, TypeError, ValueError) as error:
            raise RunError(f"{self.summary_path}: damaged ({error!s:.80})") from None
        if not {"train", "validation"} <= scores.keys() <= {"train", "validation", "test"}:
            raise RunError(f"{self.summary_path}: damaged (results of {', '.join(scores) or 'nothing':.80})")
        if not all(math.isfinite(sum(asdict(score).values())) for score in scores.values()):
            raise RunError(f"{self.summary_path}: damaged (a score is not a finite number)")
        return scores

    def read_model(self) -> Model:
        """The trained model.

        Raises
        ------
        RunError
            If the run is not complete.
        ModelFileError
            If the file is damaged.
        """
        plan, state = self.read_checkpoint()
        trained = self.read_summary().get("config", {})
        if not isinstance(trained, dict) or not trained.get("epochs") == plan.config.epochs == state.epoch:
            raise self._incomplete()  # it was complete, and is being trained for longer
        return Model.load(self.model_path)

    def write_figure(self, name: str, figure: "Figure") -> Path:
        """Write a picture as ``<name>.png``."""
        write_figure(self.path / f"{name}.png", figure)
        return self.path / f"{name}.png"

    def _write_history(self, state: TrainingState) -> None:
        text = io.StringIO(newline="")
        writer = csv.writer(text, lineterminator="\n")
        writer.writerow(HISTORY_COLUMNS)
        writer.writerows(asdict(record).values() for record in state.history)
        write_file(self.history_path, text.getvalue().encode())

    def _is_run(self) -> bool:
        """Whether the checkpoint, or the model if that is damaged, is one of onelayer's: others use the same names."""
        for path, kind, names in (
            (self.checkpoint_path, "checkpoint", CHECKPOINT_ARRAYS),
            (self.model_path, "model", MODEL_ARRAYS),
        ):
            with suppress(ModelFileError):
                unpack(path, kind=kind, names=names)
                return True
        return False

    def _is_older(self) -> bool:
        """Return whether an older onelayer left this, which gave constant features random weights."""
        _, metadata = unpack(self.checkpoint_path, kind="checkpoint", names=CHECKPOINT_ARRAYS)
        return "constant_weights" not in metadata

    def _incomplete(self) -> RunError:
        return RunError(f"{self.path} is not complete; go on with: {resume_command(self.path)}")

    def _remove_temporary(self) -> None:
        with suppress(OSError):
            for file in self.path.iterdir():
                if HALF_WRITTEN.fullmatch(file.name):
                    file.unlink(missing_ok=True)


def start(
    run: Run,
    plan: Plan,
    splits: Splits,
    on_epoch: Callable[[TrainingState], None] | None = None,
    report_test: bool = True,
    cancelled: Callable[[], bool] = bool,
) -> TrainingResult:
    """Train in a new run directory. Like `train`, but whatever stops it, the run can be resumed.

    Raises
    ------
    RunError
        If the directory holds a run by now, or another process works there.
    """
    # What auto stands for is recorded: resumed with another backend, the run would not end with the same bits.
    backend = choose_backend(splits.dataset, plan.config).name
    plan = replace(plan, config=replace(plan.config, backend=backend))
    d, K = splits.dataset.rows.shape[1], len(splits.dataset.class_names)
    require_names(splits.dataset.name, splits.dataset.class_names, K)  # now, and not when the model is written
    state = TrainingState.initial(d, K, plan.config)
    with claimed(run.path):
        if run.checkpoint_path.exists():
            raise RunError(f"{run.path} holds a run by now; choose another directory")
        run.write_checkpoint(plan, state)
        return _go_on(run, plan, splits, state, on_epoch, report_test, cancelled)


def resume(
    run: Run,
    splits: Splits,
    epochs: int | None = None,
    on_epoch: Callable[[TrainingState], None] | None = None,
    report_test: bool = True,
    cancelled: Callable[[], bool] = bool,
) -> TrainingResult:
    """Go on with an interrupted run, or with a complete one for more epochs.

    Parameters
    ----------
    run : Run
    splits : Splits
        Of the run's own data.
    epochs : int, optional
        How many there are to be in all, if not as many as planned; not below those that are done.
    on_epoch, report_test, cancelled
        As for `train`.

    Raises
    ------
    ConfigError
        If fewer epochs are asked for than are done.
    RunError
        If another process works on the run.
    """
    with claimed(run.path):
        plan, state = run.read_checkpoint()
        if epochs is not None and epochs < state.epoch:
            raise ConfigError(f"epochs {epochs} is below the {state.epoch} that are done; ask for more")
        run._remove_temporary()
        if plan.config.flip and run._is_older():
            state = replace(state, layer=_mirrored(state.layer, splits))
        if epochs is not None and epochs != plan.config.epochs:
            plan = replace(plan, config=replace(plan.config, epochs=epochs))
            run.write_checkpoint(plan, state)
        return _go_on(run, plan, splits, state, on_epoch, report_test, cancelled)


def _mirrored(layer: SoftmaxLayer, splits: Splits) -> SoftmaxLayer:
    """The layer in the units of flips: those of a constant pixel were its own, and are its mirror's now."""
    shape = splits.dataset.image_shape
    if shape is None:
        return layer
    moved = splits.standardizer.reexpress(layer, splits.standardizer.mirrored(shape))
    weights, bias = (array.astype(layer.weights.dtype) for array in (moved.weights, moved.bias))
    return replace(moved, weights=weights, bias=bias)


def _go_on(
    run: Run,
    plan: Plan,
    splits: Splits,
    state: TrainingState,
    on_epoch: Callable[[TrainingState], None] | None,
    report_test: bool,
    cancelled: Callable[[], bool],
) -> TrainingResult:
    latest, written, written_at, pause = state, state, time.monotonic(), CHECKPOINT_SECONDS

    def after_epoch(state: TrainingState) -> None:
        nonlocal latest, written, written_at, pause
        latest = state
        began = time.monotonic()
        if began - written_at >= pause:
            run.write_checkpoint(plan, state)
            written, written_at = state, time.monotonic()
            pause = max(CHECKPOINT_SECONDS, (written_at - began) / CHECKPOINT_SHARE)
        if on_epoch:
            on_epoch(state)

    try:
        result = train(
            splits, plan.config, start=state, on_epoch=after_epoch, report_test=report_test, cancelled=cancelled
        )
    except BaseException:  # Ctrl-C and SIGTERM among them
        if latest is not written:
            with suppress(OnelayerError):  # what stopped the training is the error to show
                run.write_checkpoint(plan, latest)
                run._write_history(latest)
        raise
    run.write_result(plan, splits, result)
    return result


def write_file(path: Path, content: bytes) -> None:
    """Write a file so that it is there complete or not at all, even through a crash of the machine.

    Raises
    ------
    RunError
        If it cannot be written.
    """
    try:
        temporary = path.parent / f".onelayer-{secrets.token_hex(8)}"
        try:
            with temporary.open("xb") as file:
                file.write(content)
                file.flush()
                os.fsync(file.fileno())
            temporary.replace(path)
        except BaseException:
            with suppress(OSError):
                temporary.unlink(missing_ok=True)
            raise
        directory = os.open(path.parent, os.O_RDONLY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)
    except OSError as error:
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT) else "choose another place"
        raise RunError(f"cannot write {path}: {error.strerror}; {remedy}") from None


def require_own(path: Path, is_own: Callable[[bytes], bool]) -> None:
    """Refuse a file that is there unless its content says that this very command wrote it.

    Raises
    ------
    RunError
        If it was written by something else, or cannot be read.
    """
    try:
        status = path.stat()
        if S_ISDIR(status.st_mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
        # To read a pipe would wait for ever, and a device may have no end.
        if S_ISREG(status.st_mode) and status.st_size <= MAX_FILE_BYTES and is_own(path.read_bytes()):
            return
    except FileNotFoundError:
        return
    except OSError as error:
        raise RunError(f"cannot write {path}: {error.strerror}; choose another place") from None
    raise RunError(
        f"{path} is there, and does not say that this command wrote it; choose another name, or move it away"
    )


def write_over(path: Path, content: bytes, is_own: Callable[[bytes], bool]) -> None:
    """As `write_file`, but a file that is there is only replaced if it passes `require_own`."""
    require_own(path, is_own)
    write_file(path, content)


def is_explanation(content: bytes) -> bool:
    """Return whether this is a picture of explain: a PNG with a chunk of text that says so."""
    place, signature = 8, b"\x89PNG\r\n\x1a\n"
    while content.startswith(signature) and place + 8 <= len(content):
        size, kind = int.from_bytes(content[place : place + 4], "big"), content[place + 4 : place + 8]
        if kind == b"tEXt" and content[place + 8 : place + 8 + size] == f"Software\0{EXPLAINED}".encode():
            return True
        place += size + 12
    return False


def is_report(content: bytes) -> bool:
    """Return whether this is a report: a page whose head says so."""
    from html.parser import HTMLParser

    class Head(HTMLParser):
        within = generator = ""

        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            if tag in ("head", "body"):
                self.within = tag
            elif tag == "meta" and self.within == "head" and dict(attrs).get("name") == "generator":
                self.generator = dict(attrs).get("content") or ""

    head = Head()
    head.feed(content[:MARK_WITHIN].decode("utf-8", "replace"))
    return content.startswith(b"<!DOCTYPE html>") and head.generator == GENERATOR


T = TypeVar("T")


def read_mark(file: Path, kind: str, parse: Callable[[dict[str, Any]], T]) -> T:
    """What the JSON file holds that marks a directory as a sweep or a study, and describes it.

    Parameters
    ----------
    file : Path
    kind : str
        Of the directory: its format is ``onelayer-<kind>``.
    parse : callable
        Makes something of the content; it may raise what a damaged file leads it to.

    Raises
    ------
    RunError
        If there is no such file, or it is damaged.
    """
    try:
        content = read_json(file)
        if (content["format"], content["version"]) != (f"onelayer-{kind}", 1):
            raise ValueError("of another format")
        return parse(content)
    except (FileNotFoundError, NotADirectoryError):
        raise RunError(f"{file.parent} is no {kind} of onelayer: it has no {file.name}") from None
    except OSError as error:
        raise RunError(f"{file}: {error.strerror}") from None
    except (KeyError, ValueError, TypeError, AttributeError, RecursionError, ConfigError) as error:
        raise RunError(f"{file}: damaged, or written by a newer onelayer ({error!s:.80})") from None


def is_marked(file: Path, kind: str) -> bool:
    """Return whether this file marks a directory as our sweep or study, even if it is damaged or newer."""
    try:
        content = json.loads(file.read_bytes())
    except (ValueError, RecursionError):
        return False
    return isinstance(content, dict) and content.get("format") == f"onelayer-{kind}"


def write_mark(file: Path, kind: str, content: dict[str, Any]) -> None:
    """Write what `read_mark` reads."""
    content = {"format": f"onelayer-{kind}", "version": 1} | content
    write_json(file, content)


def write_json(file: Path, content: dict[str, Any]) -> None:
    """Write a table with its checksum, which does not depend on spaces, line breaks and the order of the names."""
    write_file(file, (json.dumps(content | {CHECKSUM: _checksum(content)}, indent=2) + "\n").encode())


def read_json(file: Path) -> dict[str, Any]:
    """Return what `write_json` wrote, without the checksum; a file that has none is taken as it is.

    Raises
    ------
    OSError, ValueError, RecursionError
        If it cannot be read or is damaged.
    """
    content = json.loads(file.read_bytes())
    if not isinstance(content, dict):
        raise ValueError("not a table of names and values")
    checksum = stated_checksum(content)
    content.pop(CHECKSUM, None)
    if checksum and checksum != _checksum(content):
        raise ValueError("its checksum is wrong; if you edited it, delete its line checksum")
    return content


def _checksum(content: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True, separators=(",", ":")).encode()).hexdigest()


def png(figure: "Figure", software: str = DRAWN) -> bytes:
    """Return a picture as a file, which says what made it."""
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", metadata={"Software": software})
    return buffer.getvalue()


def write_figure(path: Path, figure: "Figure") -> None:
    """Write a picture as PNG, like `write_file`."""
    write_file(path, png(figure))


def resume_command(path: Path) -> str:
    """What to type to go on with a run."""
    return f"onelayer resume {shlex.quote(str(path))}"


def _record(row: np.ndarray) -> EpochRecord:
    values: dict[str, Any] = dict(zip(HISTORY_COLUMNS, row.tolist(), strict=True))
    values["epoch"] = int(values["epoch"])
    if np.isnan(values["test_accuracy"]):
        values["test_accuracy"] = None
    return EpochRecord(**values)
