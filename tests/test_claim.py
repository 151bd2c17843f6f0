"""One process at a time works in a directory, and none is kept out by one that has ended."""

import json
import os
import platform
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Timer

import pytest
from helpers import coursework, toy_splits

from onelayer.config import SplitConfig
from onelayer.errors import RunError
from onelayer.runs import claim
from onelayer.runs.claim import CLAIM, claimed
from onelayer.runs.directory import Run
from onelayer.runs.plan import Plan
from onelayer.runs.training import start
from onelayer.training.state import Problem

PROGRAM = """
import sys
from pathlib import Path
from onelayer.runs.claim import claimed
from onelayer.errors import RunError
words = [Path(word) for word in sys.argv[1:]]
print("ready", flush=True)
sys.stdin.readline()
try:
    with claimed(*words) if len(words) == 1 else claimed(None, words[1]) as path:
        print(path, flush=True)
        sys.stdin.readline()
except RunError as error:
    print(f"refused: {error}", flush=True)
"""


@contextmanager
def processes(count: int, *words: object) -> Iterator[list[subprocess.Popen]]:
    """Processes that are ready to claim a directory once they read a line, and leave it after another."""
    command = [sys.executable, "-c", PROGRAM, *map(str, words)]
    made = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(count)]
    try:
        for process in made:
            assert process.stdout.readline() == "ready\n"
        yield made
    finally:
        for process in made:
            process.kill()
            process.communicate()


def go(made: list[subprocess.Popen]) -> list[str]:
    for process in made:
        process.stdin.write("\n")
        process.stdin.flush()
    return [process.stdout.readline().strip() for process in made]


def test_processes_that_start_together_make_directories_of_their_own(tmp_path):
    with processes(4, "-", tmp_path / "runs" / "toy") as made:
        assert sorted(go(made)) == [str(tmp_path / "runs" / f"toy-{number}") for number in (1, 2, 3, 4)]


@pytest.mark.parametrize("left_behind", [False, True])
def test_of_processes_that_start_together_one_works_in_a_directory(tmp_path, left_behind):
    path = tmp_path / "run"
    if left_behind:
        with processes(1, path) as (killed,):
            assert go([killed]) == [str(path)]
            killed.send_signal(signal.SIGKILL)
            killed.wait()
        assert (path / CLAIM).exists()
    with processes(4, path) as made:
        said = go(made)
        assert said.count(str(path)) == 1
        holder = made[said.index(str(path))]
        for line in said:
            assert line == str(path) or line.startswith(f"refused: {path}: process {holder.pid} on {platform.node()} ")
        go([holder])
    assert not list(path.glob(".onelayer-*"))


@pytest.mark.parametrize("ended", ["pid of another process", "killed while it wrote", "damaged", "interrupted"])
def test_a_claim_of_a_process_that_has_ended_passes_on(tmp_path, monkeypatch, ended):
    monkeypatch.setattr(claim.time, "sleep", lambda seconds: None)
    with claimed(tmp_path / "another"):
        this = json.loads((tmp_path / "another" / CLAIM).read_text())["process"]
    (tmp_path / "another").rmdir()
    mine = {"host": platform.node(), "pid": os.getpid(), "process": "started before the last boot", "since": "then"}
    contents = {
        "pid of another process": json.dumps(mine | {"pid": os.getppid()}),
        "killed while it wrote": "",
        "damaged": "[1]",
        "interrupted": json.dumps(mine | {"process": this}),
    }
    (tmp_path / CLAIM).write_text(contents[ended])
    with claimed(tmp_path):
        assert json.loads((tmp_path / CLAIM).read_text())["process"] == this
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("pid", [os.getpid(), 2**22 + 1], ids=["of this process", "of none"])
def test_a_claim_of_another_container_with_this_host_name_stands(tmp_path, pid):
    """There, other processes have these numbers."""
    holder = {"host": platform.node(), "pids": "pid:[1]", "pid": pid, "process": "x", "since": "then"}
    (tmp_path / CLAIM).write_text(json.dumps(holder))
    with pytest.raises(RunError, match="has worked there since then; wait until it has ended"), claimed(tmp_path):
        pass
    assert json.loads((tmp_path / CLAIM).read_text()) == holder


def test_a_claim_made_anew_by_another_process_is_left_to_it(tmp_path):
    with claimed(tmp_path):
        (tmp_path / CLAIM).write_text("{}")  # somebody deleted ours, and another process came
    assert (tmp_path / CLAIM).read_text() == "{}"


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="no file system here is always full")
def test_a_full_disk_leaves_no_claim(tmp_path, monkeypatch):
    opened = Path.open

    def full(path: Path, mode: str = "r", *options: object, **named: object) -> object:
        if mode != "xb":
            return opened(path, mode, *options, **named)
        opened(path, mode).close()
        return opened(Path("/dev/full"), "wb")

    monkeypatch.setattr(Path, "open", full)
    with pytest.raises(RunError, match="No space left on device; choose another place"), claimed(tmp_path):
        pass
    assert not list(tmp_path.iterdir())


def test_nothing_stays_of_a_directory_in_which_nothing_was_made(tmp_path):
    for path, default in ((tmp_path / "a" / "b", Path()), (None, tmp_path / "runs" / "toy")):
        with pytest.raises(KeyError), claimed(path, default) as made:
            assert made.is_dir()
            raise KeyError
        assert not made.exists()


def test_a_run_is_not_started_where_one_is_by_now(tmp_path):
    splits = toy_splits()
    plan = Plan(coursework(epochs=1), SplitConfig(), "toy", splits.dataset.fingerprint)
    first, second = Run.create(tmp_path / "run"), Run.create(tmp_path / "run")
    start(first, plan, Problem.of(splits, plan.config))
    before = {path: path.read_bytes() for path in first.path.iterdir()}
    with pytest.raises(RunError, match="holds a run by now; choose another directory"):
        start(second, plan, Problem.of(splits, plan.config))
    assert {path: path.read_bytes() for path in first.path.iterdir()} == before


def test_a_patient_process_waits_for_another_one(tmp_path):
    with processes(1, tmp_path) as made:
        assert go(made) == [str(tmp_path)]
        with pytest.raises(RunError, match="has worked there since"), claimed(tmp_path, patience=0.2):
            pass
        Timer(0.3, go, [made]).start()
        with claimed(tmp_path, patience=60):
            assert made[0].wait(20) == 0
