"""Processes of their own, by torchrun and without it: they train one model, and none of them waits for ever."""

import os
import random
import re
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from threading import Lock

import numpy as np
import pytest
from helpers import assert_one_line, toy_dataset
from ranks import END, ends_of, environment, free_port, start_all

from onelayer import torchrun
from onelayer.__main__ import _exit
from onelayer.cli import together
from onelayer.config import TrainConfig
from onelayer.data.formats.shards import write_manifest
from onelayer.data.sources import load_splits
from onelayer.errors import ConfigError
from onelayer.parts import count_cores
from onelayer.processes import ALONE
from onelayer.runs.directory import Run
from onelayer.training.train import train

needs_torch = pytest.mark.skipif(not find_spec("torch"), reason="PyTorch is not installed")


@pytest.fixture
def manifest(tmp_path: Path) -> Path:
    """Two shards of each part; the second of training lacks a class."""
    dataset, shards, labels = toy_dataset(300, None, dtype="float32"), {}, {}
    order = np.argsort(dataset.labels == 3, kind="stable")[::-1]
    for part, places in (("train", order[:200]), ("validation", order[200:250]), ("test", order[250:])):
        files = []
        for number, of_file in enumerate(np.array_split(places, 2)):
            files.append(tmp_path / f"{part}_{number}.npy")
            np.save(files[-1], dataset.rows[of_file])
        shards[part], labels[part] = files, dataset.labels[places]
    write_manifest(tmp_path / "toy.shards.json", shards, labels)
    return tmp_path / "toy.shards.json"


@needs_torch
def test_torchrun_trains_one_model(manifest: Path):
    """Rank 0 alone writes and prints; the model is that of one process."""
    words = ["train", "--data", manifest.name, "--out", "run", "--epochs", "4", "--batch-size", "32", "--no-figures"]
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", "-m", "onelayer", *words]
    done = subprocess.run(command, cwd=manifest.parent, capture_output=True, text=True, timeout=END)
    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^epoch 4/4 ", done.stdout, re.M)) == 1
    assert "onelayer" not in done.stderr
    run = Run.open(manifest.parent / "run")
    assert not (run.path / ".onelayer-running").exists()
    one = train(load_splits(manifest), TrainConfig(epochs=4, batch_size=32))
    W = one.state.layer.weights
    assert np.abs(run.model.layer.weights - W).max() < 1e-5 * np.abs(W).max()
    assert run.scores["test"].accuracy == one.scores["test"].accuracy
    assert run.summary["data"]["fingerprint"] == load_splits(manifest).dataset.fingerprint


@needs_torch
def test_a_killed_process_is_named_and_the_run_goes_on_with_fewer(manifest: Path, run_cli):
    """None of the others waits for ever, and one process ends the run with the weights of one that was not killed."""
    words = ["train", "--data", manifest, "--out", "run", "--epochs", "100000", "--batch-size", "16", "--no-figures"]
    processes = start_all(2, *words, folder=manifest.parent)
    victim, run = random.Random(os.getpid()).randrange(2), Run(manifest.parent / "run")
    until = time.monotonic() + END
    while not run.checkpoint_path.exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.3)
    processes[victim].kill()
    killed = time.monotonic()
    ends = ends_of(processes, manifest.parent)
    assert time.monotonic() - killed < 30
    errors = [error for rank, (_, _, error) in enumerate(ends) if rank != victim and error]
    assert {code for rank, (code, _, _) in enumerate(ends) if rank != victim} == {2}
    for error in errors:
        assert re.fullmatch(
            rf"onelayer: rank {victim} \(process \d+ on \S+\) has ended before its work was done, perhaps killed; "
            r"all have stopped; go on with: onelayer resume .*\n",
            error,
        )
    assert len(errors) == 1
    _, state = run.read_checkpoint()
    more = str(state.epoch + 2)
    assert run_cli("resume", run.path, "--epochs", more, "--no-figures")[0] == 0
    one = train(load_splits(manifest), TrainConfig(epochs=state.epoch + 2, batch_size=16))
    difference = run.model.layer.weights - one.model.layer.weights
    assert np.abs(difference).max() < 1e-4 * np.abs(one.model.layer.weights).max()


@pytest.fixture
def embeddings(tmp_path: Path) -> Path:
    """Rows that a probe takes seconds for."""
    rng = np.random.default_rng(0)
    y = rng.integers(10, size=40_000)
    X = (rng.normal(size=(10, 64))[y] / 4 + rng.normal(size=(40_000, 64))).astype(np.float32)
    np.savez(tmp_path / "large.npz", X_train=X[:30_000], y_train=y[:30_000], X_test=X[30_000:], y_test=y[30_000:])
    np.savez(tmp_path / "small.npz", X_train=X[:600], y_train=y[:600], X_test=X[600:900], y_test=y[600:900])
    return tmp_path


@needs_torch
def test_several_processes_probe_as_one(embeddings: Path, run_cli, monkeypatch):
    """Rank 0 alone writes and prints: the same choice, and the same answers in the run."""
    words = ["probe", "small.npz", "--recipe", "ridge"]
    processes = start_all(2, *words, "--csv", "several.csv", "--out", "several", folder=embeddings)
    (code, out, error), other = ends_of(processes, embeddings)
    assert (code, error, other) == (0, "", (0, "", ""))
    monkeypatch.chdir(embeddings)
    assert out.replace("several", "one") == run_cli(*words, "--csv", "one.csv", "--out", "one")[1]
    assert (embeddings / "several.csv").read_text() == (embeddings / "one.csv").read_text()
    one, several = (Run.open(embeddings / name).model.layer.weights for name in ("one", "several"))
    assert np.abs(several - one).max() < 1e-9 * np.abs(one).max()


@needs_torch
@pytest.mark.parametrize("killed", [True, False])
def test_a_probe_that_ends_early(embeddings: Path, killed: bool):
    """Rank 1 is killed, or torchrun stops both: nobody waits for ever, one line says why, and no run is left behind."""
    processes, run = start_all(2, "probe", "large.npz", "--out", "run", folder=embeddings), embeddings / "run"
    until = time.monotonic() + END
    while not (run / ".onelayer-running").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.3)
    if killed:
        processes[1].kill()
    else:
        for process in processes:
            process.terminate()
    (code, _, error), (other, _, silent) = ends_of(processes, embeddings)
    assert (code, other) == ((2, -signal.SIGKILL) if killed else (130, 130))
    why = r"rank 1 \(process \d+ on \S+\) has ended before its work was done, perhaps killed; all have stopped; "
    assert re.fullmatch(rf"onelayer: {why}start the same command again\n" if killed else "onelayer: stopped\n", error)
    assert not silent
    assert not run.exists()


@needs_torch
@pytest.mark.parametrize("command", ["train --data", "probe"])
def test_an_error_of_rank_0_alone_is_said_once(manifest: Path, command: str):
    """Its store of addresses stays until the others have read why it ends."""
    (manifest.parent / "run").mkdir()
    (manifest.parent / "run" / "letter.txt").touch()
    words = [*command.split(), manifest, "--out", "run"]
    (code, _, error), other = ends_of(start_all(2, *words, folder=manifest.parent), manifest.parent)
    assert (code, other) == (2, (2, "", ""))
    assert re.fullmatch("onelayer: run holds 'letter.txt' and is not a run of onelayer; .*\n", error)


@needs_torch
def test_different_settings_are_refused_before_the_first_step(manifest: Path):
    words = ["train", "--data", manifest, "--out", "run", "--epochs", "2"]
    processes = start_all(2, *words, folder=manifest.parent, more={1: ["--l2", "0.1"]})
    (code, out, error), (other, *silent) = ends_of(processes, manifest.parent)
    assert (code, other, out, silent) == (2, 2, "", ["", ""])
    assert error == (
        "onelayer: rank 1 and rank 0 differ in the settings; start all with the same command, data and versions\n"
    )
    assert not (manifest.parent / "run").exists()


@needs_torch
def test_an_error_of_one_process_ends_all(manifest: Path):
    """Rank 1 finds a damaged shard; rank 0 says so."""
    file = manifest.parent / "train_1.npy"
    file.write_bytes(file.read_bytes()[:-1] + b"\x00")
    processes = start_all(2, "train", "--data", manifest, "--out", "run", folder=manifest.parent)
    first, second = ends_of(processes, manifest.parent)
    assert (first[0], second) == (2, (2, "", ""))
    assert re.fullmatch(r"onelayer: rank 1 \(process .*\) has ended: .*train_1.npy: is not the file .*\n", first[2])


@needs_torch
def test_nobody_answers(manifest: Path, monkeypatch, run_cli):
    for name, value in environment(1, 2, free_port()).items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(torchrun, "OPENING", 0.5)
    result = run_cli("train", "--data", manifest)
    assert_one_line(result, "rank 1: nobody answers at 127.0.0.1:")
    assert torchrun.OPENING < 30


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["path", "--data", "x.npz"], "path runs in one process; start it without torchrun"),
        (["train", "--epocs", "4"], "unknown option --epocs; did you mean --epochs?"),
        (["train", "--l2", "-1"], "l2 -1"),
        (["probe", "x.npz", "--shots", "x"], "--shots takes a whole number, not 'x'"),
    ],
)
def test_an_error_of_the_command_line_is_said_once_on_each_machine(monkeypatch, run_cli, words: list[str], said: str):
    monkeypatch.setattr(together, "SAYING", 0)
    monkeypatch.setenv("WORLD_SIZE", "4")
    for rank, local_rank, silent in (("0", "0", False), ("2", "0", False), ("3", "1", True), ("1", None, True)):
        monkeypatch.setenv("RANK", rank)
        monkeypatch.delenv("LOCAL_RANK", raising=False)
        if local_rank:
            monkeypatch.setenv("LOCAL_RANK", local_rank)
        if silent:
            assert run_cli(*words) == (2, "", "")
        else:
            assert_one_line(run_cli(*words), said)


@pytest.mark.parametrize("found", [{"WORLD_SIZE": "1", "RANK": "0"}, {"WORLD_SIZE": "4"}, {}])
def test_one_process_is_alone(monkeypatch, found: dict[str, str]):
    for name in ("RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in found.items():
        monkeypatch.setenv(name, value)
    with torchrun.joined() as processes:
        assert processes is ALONE


def test_processes_of_one_machine_share_its_cores(monkeypatch):
    monkeypatch.delenv("LOCAL_WORLD_SIZE", raising=False)
    cores = count_cores()
    for processes, share in (("1", cores), (str(2 * cores), 1), ("x", cores), (str(cores), 1)):
        monkeypatch.setenv("LOCAL_WORLD_SIZE", processes)
        assert count_cores() == share


@pytest.mark.parametrize("name", ["MASTER_ADDR", "MASTER_PORT"])
def test_an_environment_that_lacks_the_place_of_rank_0(monkeypatch, name: str):
    for variable, value in environment(1, 2, 1).items():
        monkeypatch.setenv(variable, value)
    monkeypatch.delenv(name)
    with pytest.raises(ConfigError, match=f"does not tell where the other processes are .*{name}="), torchrun.joined():
        pass


GONE = "has ended before its work was done"


@pytest.mark.parametrize(
    ("said", "lost", "silent"),
    [
        ("run holds a run already", "", True),
        ("run holds a run already", "rank 0 (process 1 on host) has ended: run holds a run already", True),
        (None, f"rank 0 (process 1 on host) {GONE}, perhaps killed", False),
        (None, f"rank 0, or torchrun beside it, {GONE}", False),
        (torchrun.DONE, "", False),
        (None, "", False),
    ],
)
def test_what_a_process_said_before_it_ended_is_not_said_again(monkeypatch, said: str | None, lost: str, silent: bool):
    class Store(dict):
        def multi_get(self, names: list[str]) -> list[bytes]:
            return [self.get(name, b"") for name in names]

    monkeypatch.setattr(torchrun, "name_of_process", lambda pid: None)  # it is gone
    processes = object.__new__(torchrun.TorchProcesses)
    processes.rank, processes._here, processes._known = 1, ["host", "box"], {0: ["host", "box", "1", "its start"]}
    processes._others, processes._lock, processes.lost = [0], Lock(), lost
    processes._store = Store({"ended/0": said.encode()} if said else {})
    assert processes.another_says() is silent


def test_a_process_that_has_just_closed_its_connections_is_named(monkeypatch):
    """Its host may count it as running for a moment longer."""
    names = iter(["its start"] * 3)
    monkeypatch.setattr(torchrun, "name_of_process", lambda pid: next(names, None))
    processes = object.__new__(torchrun.TorchProcesses)
    processes._others, processes._here = [0], ["host", "box"]
    processes._known = {0: ["host", "box", "1", "its start"]}
    assert processes._end_of_the_store() == [f"rank 0 (process 1 on host) {GONE}, perhaps killed"]


@pytest.mark.parametrize(("rank", "said"), [("0", "onelayer: stopped\n"), ("1", "")])
def test_of_several_processes_that_are_stopped_the_first_says_so(monkeypatch, capsys, rank: str, said: str):
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setenv("RANK", rank)
    monkeypatch.setattr(signal, "signal", lambda *_: None)
    with pytest.raises(SystemExit) as ended:
        _exit("stopped", 143)
    assert (ended.value.code, capsys.readouterr().err) == (143, said)
