"""The run directory: what is in it, that it is complete or absent, and that a run can be resumed from it."""

import csv
import errno
import json
import os
import random
import signal
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas
import pytest
from helpers import RUN_CONFIG, coursework, finished_run, tampered, toy_dataset, toy_splits
from safetensors import safe_open
from safetensors.numpy import load_file, save_file

from onelayer.config import SplitConfig
from onelayer.data import split
from onelayer.errors import ConfigError, DataError, DivergedError, ModelFileError, RunError
from onelayer.model import Model
from onelayer.runs import training as runs
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.training.history import HISTORY_COLUMNS
from onelayer.training.state import Problem, TrainingResult, TrainingState
from onelayer.training.train import train


def test_files_of_a_run(tmp_path):
    run, _plan = finished_run(tmp_path / "run")
    splits = toy_splits()
    expected = train(splits, RUN_CONFIG)
    names = {"summary.json", "history.csv", "model.safetensors", "checkpoint.safetensors"}
    assert {file.name for file in run.path.iterdir()} == names

    summary = json.loads(run.summary_path.read_text())
    first = ["config", "data", "results", "kept_epoch", "epochs", "ended", "learning_rate", "dates"]
    rest = ["seconds", "versions", "seed", "backend", "checksum"]
    assert list(summary) == first + rest
    assert summary["config"]["learning_rate"] == 0.05
    assert summary["config"]["protocol"] is None
    assert summary["data"]["fingerprint"] == splits.dataset.fingerprint
    assert summary["data"]["protocol"] == "stratified"
    assert summary["data"]["sizes"] == {"train": 180, "validation": 60, "test": 60}
    assert summary["results"]["test"]["accuracy"] == expected.scores["test"].accuracy
    assert summary["results"]["train"]["cost"] > summary["results"]["train"]["loss"]

    with run.history_path.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert tuple(rows[0]) == HISTORY_COLUMNS
    assert [row["epoch"] for row in rows] == ["1", "2", "3"]
    assert [bool(row["test_accuracy"]) for row in rows] == [True, False, True]
    assert float(rows[1]["validation_cost"]) == expected.state.history[1].validation_cost

    tensors = load_file(run.model_path)
    assert np.array_equal(tensors["weights"], expected.model.layer.weights)
    assert np.array_equal(tensors["mean"], expected.model.standardizer.mean)
    with safe_open(run.model_path, "numpy") as file:
        assert file.metadata()["format"] == "onelayer-model"
        assert file.metadata()["version"] == "1"
        assert json.loads(file.metadata()["class_names"]) == list(splits.dataset.class_names)


def test_history_is_a_table_with_the_columns_and_numbers_of_the_csv(tmp_path):
    run, _plan = finished_run(tmp_path / "run")
    rows = list(csv.DictReader(run.history_path.read_text().splitlines()))
    expected = pandas.DataFrame({name: [float(row[name] or "nan") for row in rows] for name in rows[0]})
    for history in (run.history, runs.resume(run, toy_splits()).history):
        table = pandas.DataFrame(history)
        pandas.testing.assert_frame_equal(table, expected, check_exact=True, check_dtype=False)
        assert table["test_accuracy"].isna().tolist() == [False, True, False]
    assert {
        name: column.dtype for name, column in TrainingResult(None, none_yet(), "", none_yet().last).history.items()
    } == {name: np.int64 if name == "epoch" else np.float64 for name in HISTORY_COLUMNS}


def none_yet() -> TrainingState:
    return TrainingState.initial(60, 4, RUN_CONFIG)


def test_a_model_is_saved_over_model_files_only(tmp_path):
    model = train(toy_splits(), RUN_CONFIG).model
    run, _ = finished_run(tmp_path / "run", replace(RUN_CONFIG, seed=1))
    path = tmp_path / "model.safetensors"
    for _ in range(2):
        model.save(str(path))
        rows = toy_splits().test.rows(slice(None))
        assert Model.load(path).logits(rows).tobytes() == model.logits(rows).tobytes()
    assert path.read_bytes() != run.model_path.read_bytes()
    model.save(run.model_path)
    assert path.read_bytes() == run.model_path.read_bytes()
    path.write_bytes(path.read_bytes()[:-1])  # a damaged one may be replaced
    model.save(path)
    assert path.read_bytes() == run.model_path.read_bytes()

    others = {
        "notes.txt": b"mine",
        "empty": b"",
        "deep": b"\xff" * 8 + b"[" * 100_000,
        "list": b"\x02" + bytes(7) + b"[]",
    }
    for name, content in others.items():
        (tmp_path / name).write_bytes(content)
    save_file({"weights": np.zeros(3)}, tmp_path / "plain.safetensors")  # of another program
    for file in (*(tmp_path / name for name in (*others, "plain.safetensors")), run.checkpoint_path):
        before = file.read_bytes()
        with pytest.raises(RunError, match="is there, and does not say that this command wrote it; choose another"):
            model.save(file)
        assert file.read_bytes() == before
    with pytest.raises(RunError, match="cannot write"):
        model.save(tmp_path / "missing" / "model.safetensors")
    names = {"run", "model.safetensors", "plain.safetensors", *others}
    assert {file.name for file in tmp_path.iterdir()} == names


def test_a_run_shows_what_its_files_hold(tmp_path):
    run, plan = finished_run(tmp_path / "run")
    expected = train(toy_splits(), RUN_CONFIG)
    assert np.array_equal(run.model.layer.weights, expected.model.layer.weights)
    assert replace(run.config, backend="auto") == plan.config  # a run records the backend that was chosen
    assert run.scores == expected.scores
    assert run.summary == run.summary
    assert run.summary["results"]["test"]["accuracy"] == expected.scores["test"].accuracy
    runs.resume(run, toy_splits(), 5)
    assert run.config.epochs == len(run.history["epoch"]) == 5


def test_an_interrupted_run_shows_its_history_so_far(tmp_path):
    run, plan = Run.create(tmp_path / "run"), Plan(RUN_CONFIG, SplitConfig(), "toy", toy_splits().dataset.fingerprint)

    def interrupt(state):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.start(run, plan, Problem.of(toy_splits(), plan.config), interrupt)
    assert run.history["epoch"].tolist() == [1]
    for name in ("model", "summary", "scores"):
        with pytest.raises(RunError, match="is not complete; go on with: onelayer resume"):
            getattr(run, name)


def test_a_model_file_gives_the_same_answers(tmp_path):
    run, _ = finished_run(tmp_path / "run")
    model, splits = run.model, toy_splits()
    expected = train(splits, RUN_CONFIG).model
    rows = splits.test.rows(slice(None))
    assert model.logits(rows).tobytes() == expected.logits(rows).tobytes()
    assert (model.class_names, model.image_shape) == (expected.class_names, expected.image_shape)
    with pytest.raises(DataError, match=r"rows have the shape \(2, 59\); this model needs \(n, 60\)"):
        model.logits(rows[:2, :59])


def test_an_interrupted_run_is_resumed_to_the_same_bits(tmp_path):
    splits = toy_splits()
    whole, plan = finished_run(tmp_path / "whole")
    run = Run.create(tmp_path / "run")

    def interrupt(state):
        if state.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.start(run, plan, Problem.of(splits, plan.config), interrupt)
    assert not run.model_path.exists()
    assert run.read_checkpoint()[1].epoch == 2
    assert len(run.history_path.read_text().splitlines()) == 3
    with pytest.raises(RunError, match="is not complete; go on with: onelayer resume"):
        _ = run.model
    seen = []
    runs.resume(run, splits, on_epoch=seen.append)
    assert [state.epoch for state in seen] == [3]
    assert run.model_path.read_bytes() == whole.model_path.read_bytes()


def test_more_epochs_on_resume_equal_a_longer_run(tmp_path):
    longer, _ = finished_run(tmp_path / "longer", replace(RUN_CONFIG, epochs=5))
    run, _ = finished_run(tmp_path / "run")
    runs.resume(run, toy_splits(), 5)
    assert run.model_path.read_bytes() == longer.model_path.read_bytes()
    histories = [
        [
            {k: v for k, v in row.items() if k != "seconds"}
            for row in csv.DictReader(r.history_path.read_text().splitlines())
        ]
        for r in (run, longer)
    ]
    assert histories[0] == histories[1]
    assert run.summary["config"]["epochs"] == 5
    with pytest.raises(ConfigError, match="epochs 4 is below the 5 that are done"):
        runs.resume(run, toy_splits(), 4)


def test_resuming_a_complete_run_changes_no_figure(tmp_path):
    run, _ = finished_run(tmp_path / "run")
    before = run.summary
    runs.resume(run, toy_splits())
    assert run.summary["results"] == before["results"]


def test_a_checkpoint_for_other_data_is_refused(tmp_path):
    run, _ = finished_run(tmp_path / "run")
    tampered(run, run.checkpoint_path, {"weights": np.zeros((60, 7), np.float32), "bias": np.zeros(7, np.float32)})
    with pytest.raises(ConfigError, match=r"the state has weights \(60, 7\); toy needs \(60, 4\)"):
        runs.resume(run, toy_splits())


def test_files_are_synced_to_disk_before_they_are_renamed(tmp_path, monkeypatch):
    run, plan = finished_run(tmp_path / "run")
    _, state = run.read_checkpoint()
    events, fsync, replace_file = [], os.fsync, Path.replace
    monkeypatch.setattr(os, "fsync", lambda handle: (events.append("sync"), fsync(handle)))
    monkeypatch.setattr(Path, "replace", lambda a, b: (events.append("rename"), replace_file(a, b)))
    run.write_checkpoint(plan, state)
    assert events == ["sync", "rename", "sync"]


def test_fewer_epochs_than_planned_end_an_interrupted_run(tmp_path):
    shorter, _ = finished_run(tmp_path / "shorter", replace(RUN_CONFIG, epochs=2))
    splits = toy_splits()
    run, plan = Run.create(tmp_path / "run"), Plan(RUN_CONFIG, SplitConfig(), "toy", splits.dataset.fingerprint)

    def interrupt(state):
        if state.epoch == 2:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        runs.start(run, plan, Problem.of(splits, plan.config), interrupt)
    result = runs.resume(run, splits, 2)
    assert run.model_path.read_bytes() == shorter.model_path.read_bytes()
    assert result.state.history[-1].test_accuracy == result.scores["test"].accuracy


def test_a_diverged_run_keeps_its_last_good_checkpoint(tmp_path):
    splits = toy_splits()
    config = coursework(learning_rate=1e14, l2=1.0, epochs=5, batch_size=1000)
    run = Run.create(tmp_path / "run")
    with pytest.raises(DivergedError, match="after epoch 2"):
        runs.start(run, Plan(config, SplitConfig(), "toy", splits.dataset.fingerprint), Problem.of(splits, config))
    _, state = run.read_checkpoint()
    assert state.epoch == 1
    assert np.isfinite(state.layer.weights).all()


def test_other_data_are_refused(tmp_path, monkeypatch):
    _, plan = finished_run(tmp_path / "run")
    other = replace(toy_splits(), train=replace(toy_splits().train, dataset=toy_dataset(seed=1)))
    monkeypatch.setattr("onelayer.runs.plan.load_splits", lambda *_, **__: other)
    with pytest.raises(DataError, match="elsewhere is not the data of this run: its fingerprint begins with"):
        plan.load_splits("elsewhere")


def test_a_run_is_overwritten_only_when_asked(tmp_path):
    run, _plan = finished_run(tmp_path / "run")
    before = run.model_path.read_bytes()
    with pytest.raises(RunError, match="holds a run already; choose another --out, resume it, or pass --overwrite"):
        Run.create(run.path)
    assert run.model_path.read_bytes() == before
    for name in ("notes.txt", "my-holiday.png", ".onelayer-notes"):
        (run.path / name).write_text("mine")
    for name in ("loss.png", ".onelayer-0123456789abcdef"):
        (run.path / name).write_text("ours")
    Run.create(run.path, overwrite=True)
    assert {file.name for file in run.path.iterdir()} == {"notes.txt", "my-holiday.png", ".onelayer-notes"}


@pytest.mark.parametrize("overwrite", [False, True])
def test_a_directory_of_something_else_is_left_alone(tmp_path, overwrite):
    (tmp_path / ".onelayer-0123456789abcdef").write_text("")
    (tmp_path / "loss.png").write_text("a picture")
    save_file({"weights": np.zeros(3)}, tmp_path / "checkpoint.safetensors")  # as other programs call theirs
    before = {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    with pytest.raises(RunError, match="is not a run of onelayer; choose another --out"):
        Run.create(tmp_path, overwrite=overwrite)
    assert {file.name: file.read_bytes() for file in tmp_path.iterdir()} == before


def test_paths_that_cannot_hold_a_run(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "run"):
        with pytest.raises(RunError, match=r"cannot make the directory .*; choose another --out"):
            Run.create(path)
    with pytest.raises(RunError, match=r"no such run directory; onelayer runs lists those in runs/$"):
        Run.open(tmp_path / "missing")
    with pytest.raises(RunError, match=r"is not a run of onelayer: it has no checkpoint\.safetensors"):
        Run.open(tmp_path)


@pytest.mark.parametrize("reason", [errno.ENOSPC, errno.EACCES, errno.EDQUOT])
def test_what_is_on_disk_survives_a_write_that_fails(tmp_path, monkeypatch, reason):
    run, plan = finished_run(tmp_path / "run")
    before = {file.name: file.read_bytes() for file in run.path.iterdir()}
    _, state = run.read_checkpoint()

    def fail(_):
        raise OSError(reason, os.strerror(reason))

    monkeypatch.setattr(os, "fsync", fail)
    with pytest.raises(RunError, match=rf"cannot write .*checkpoint\.safetensors: {os.strerror(reason)}"):
        run.write_checkpoint(plan, state)
    assert {file.name: file.read_bytes() for file in run.path.iterdir()} == before


def test_no_file_is_ever_half_written(tmp_path, monkeypatch):
    """Whatever is visible under its own name before and after each replacement can be read."""
    splits = toy_splits()
    run = Run.create(tmp_path / "run")
    original, names = Path.replace, []

    def checked(self, target):
        original(self, target)
        names.append(target.name)
        for path in run.path.iterdir():
            if path.suffix == ".safetensors":
                load_file(path)
            elif path.suffix == ".json":
                json.loads(path.read_text())

    monkeypatch.setattr(Path, "replace", checked)
    monkeypatch.setattr(runs, "CHECKPOINT_SECONDS", 0)
    monkeypatch.setattr(runs, "CHECKPOINT_SHARE", np.inf)
    runs.start(run, Plan(RUN_CONFIG, SplitConfig(), "toy", splits.dataset.fingerprint), Problem.of(splits, RUN_CONFIG))
    assert names == ["checkpoint.safetensors"] * 5 + ["history.csv", "model.safetensors", "summary.json"]


def test_checkpoints_that_take_long_to_write_are_rare(tmp_path, monkeypatch):
    clock, written = [0.0], []

    def write(self, plan, state):
        written.append(state.epoch)
        clock[0] += 0.5

    monkeypatch.setattr(runs.time, "monotonic", lambda: clock[0])
    monkeypatch.setattr(Run, "write_checkpoint", write)

    def epoch_ends(state):
        clock[0] += 0.9

    plan = Plan(replace(RUN_CONFIG, epochs=14), SplitConfig(), "toy", toy_splits().dataset.fingerprint)
    runs.start(Run.create(tmp_path / "run"), plan, Problem.of(toy_splits(), plan.config), epoch_ends)
    # After 1.8 seconds, then after at least ten times the half second that it took; and in the end.
    assert written == [0, 3, 9, 14]


def test_names_that_cannot_be_saved_are_refused_before_training(tmp_path):
    dataset = replace(toy_dataset(), class_names=("a", "b", "c", "c"))
    run, plan = Run.create(tmp_path / "run"), Plan(RUN_CONFIG, SplitConfig(), "toy", dataset.fingerprint)
    with pytest.raises(ModelFileError, match="toy: the class names are not 4 different words; rename them"):
        runs.start(run, plan, Problem.of(split(dataset, SplitConfig()), plan.config))
    assert not list(run.path.iterdir())


KILLED = """
import os, sys
sys.path.insert(0, {tests!r})
from pathlib import Path
from helpers import coursework, toy_splits
from onelayer.runs import training as runs
from onelayer.config import SplitConfig
from onelayer.training.state import Problem
runs.CHECKPOINT_SECONDS, runs.CHECKPOINT_SHARE = 0.02, 1
splits = toy_splits(n=2000)
config = coursework(epochs=3000, learning_rate=0.01, flip=True, batch_size=50)
plan = runs.Plan(config, SplitConfig(), "toy", splits.dataset.fingerprint)

def go_on(path):
    if path.exists() and any(file.suffix == ".safetensors" for file in path.iterdir()):
        run = runs.Run.open(path)
        print("process", os.getpid(), flush=True)
        runs.resume(run, splits)
    else:
        run = runs.Run.create(path)
        print("process", os.getpid(), flush=True)
        runs.start(run, plan, Problem.of(splits, plan.config))

for line in sys.stdin:  # a fork of this process has imported everything already
    child = os.fork()
    if child == 0:
        go_on(Path(line.strip()))
        os._exit(0)
    print("ended", os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
"""


def test_a_run_killed_five_times_ends_with_the_same_weights(tmp_path):
    command = [sys.executable, "-c", KILLED.format(tests=str(Path(__file__).parent))]
    whole, run = Run(tmp_path / "whole"), Run(tmp_path / "killed")
    rng = random.Random(1)
    epochs = [0]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as forks:

        def begin(path: Path) -> int:
            print(path, file=forks.stdin, flush=True)
            return int(forks.stdout.readline().removeprefix("process "))  # it is under way

        begin(whole.path)
        assert forks.stdout.readline() == "ended 0\n"
        for _ in range(5):
            process = begin(run.path)
            time.sleep(rng.uniform(0, 0.15))
            os.kill(process, signal.SIGKILL)
            assert forks.stdout.readline() == "ended -9\n", "the kill came too late to show anything"
            if run.checkpoint_path.exists():
                epochs.append(run.read_checkpoint()[1].epoch)
            for path in run.path.glob("*.safetensors"):
                load_file(path)
        assert epochs == sorted(epochs)
        assert 0 < epochs[-1] < 3000, "the kills came too early or too late to show anything"
        begin(run.path)
        assert forks.stdout.readline() == "ended 0\n"
    assert run.model_path.read_bytes() == whole.model_path.read_bytes()
    assert not list(run.path.glob(".onelayer-*")), "what the kills left half written is gone"


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_a_run_records_the_backend_that_it_began_with(tmp_path, dtype):
    splits = toy_splits()
    plan = Plan(coursework(epochs=2, dtype=dtype), SplitConfig(), "toy", splits.dataset.fingerprint)
    run = Run.create(tmp_path / "run")
    result = runs.start(run, plan, Problem.of(splits, plan.config))
    assert plan.config.backend == "auto"
    assert run.read_checkpoint()[0].config.backend == result.backend == run.summary["backend"]


def test_a_cancelled_run_leaves_the_test_rows_alone_and_can_be_resumed(tmp_path):
    splits, config = toy_splits(), coursework(epochs=6)
    plan, stop = Plan(config, SplitConfig(), "toy", splits.dataset.fingerprint), threading.Event()
    run = Run.create(tmp_path / "run")

    def stop_after_two(state):
        if state.epoch == 2:
            stop.set()

    with pytest.raises(InterruptedError):
        runs.start(run, plan, Problem.of(splits, plan.config), stop_after_two, report_test=False, cancelled=stop.is_set)
    assert 2 <= run.read_checkpoint()[1].epoch < 6
    resumed = runs.resume(run, splits, report_test=False)
    assert set(run.summary["results"]) == {"train", "validation"}
    assert resumed.model.layer.weights.tobytes() == train(splits, config).model.layer.weights.tobytes()


def test_a_checkpoint_without_the_share_of_the_initial_weights_shows_what_was_learnt(tmp_path):
    """As older ones are; the penalty of each epoch's steps gives the share."""
    run, _ = finished_run(tmp_path / "run", coursework(epochs=3, l2=1.0, learning_rate=0.05, init_std=0.1))
    known, (plan, state) = run.learnt, run.read_checkpoint()
    assert state.left < 0.9
    run.write_checkpoint(plan, replace(state, left=None))
    assert np.abs(run.learnt - known).max() < 1e-12 < np.abs(run.model.layer.weights - known).max()
    content = json.loads(run.summary_path.read_text())
    del content["data"]["sizes"], content["checksum"]
    run.summary_path.write_text(json.dumps(content))
    with pytest.raises(RunError, match=r"summary\.json: damaged \('sizes'\)"):
        run.learnt  # noqa: B018
